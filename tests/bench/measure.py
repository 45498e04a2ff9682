"""The cost of a program: its time and memory, and the bytes that nginx sent to it."""
import ast
import collections
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
IDLE_SECONDS = 20                       # how long nginx may take to close its connections
MB = 1e6
FAR = 1 << 63

# fault: an error message or None; wall and cpu in seconds; memory: the peak in MB; out: stdout
Run = collections.namedtuple('Run', 'fault wall cpu memory out')
# ended: Unix time; sent: bytes of body and headers; ranges: the requested ones as (first byte, byte
# after the last); a request of the whole file has one range that ends at FAR
Request = collections.namedtuple('Request', 'ended status sent uri ranges')


# Starts a command, and writes its cost. The memory that wait4 reports is never less than that of
# the process that started the command, so this is a small process, of 10 MB.
LAUNCHER = """
import os, sys, time
began = time.monotonic()
child = os.fork()
if not child:
    os.close(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
wall = time.monotonic() - began
cost = status, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
os.write(int(sys.argv[1]), repr(cost).encode())
"""


def run(command, folder, seconds):
    """Run a command in a folder, for `seconds` at most. Return its Run.

    The memory is the maximum of the command and of its children, as wait4 reports it, and at least
    10 MB.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        reader, writer = os.pipe()
        launcher = [sys.executable, '-I', '-S', '-c', LAUNCHER, str(writer)]
        process = subprocess.Popen(launcher + list(command), cwd=folder, pass_fds=[writer],
                                   stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                   start_new_session=True)
        os.close(writer)
        timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        with os.fdopen(reader, 'rb') as stream:
            cost = stream.read()
        process.wait()
        timer.cancel()
        output, errors = read_text(out), read_text(err)
    if not cost:
        return Run('not done after {:.0f} s'.format(seconds), seconds, 0, 0, output)
    status, wall, cpu, memory = ast.literal_eval(cost.decode())
    return Run(fault_of(status, errors), wall, cpu, memory * 1024 / MB, output)


def fault_of(status, errors):
    """Return a status of wait4 as text, with the last lines of stderr; None for a success."""
    if not status:
        return None
    how = 'signal {}'.format(status & 127) if status & 127 else 'exit code {}'.format(status >> 8)
    return ': '.join([how] + [line.strip() for line in errors.strip().splitlines()[-2:]])


def read_text(stream):
    stream.seek(0)
    return stream.read().decode('utf-8', 'replace')


def free_ports(count):
    """Return free ports of loopback."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(('127.0.0.1', 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


NGINX = """
daemon off;
user root;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    log_format bench '$msec $status $bytes_sent $uri "$http_range"';
    access_log {folder}/access.log bench;
    client_body_temp_path {folder}/temporary;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/temporary;
    uwsgi_temp_path {folder}/temporary;
    scgi_temp_path {folder}/temporary;
    sendfile on;
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{far_port} sndbuf=128k;
        root {folder}/www;
        location = /connections {{ stub_status; access_log off; }}
    }}
}}
"""


class Nginx:
    """nginx on loopback, with its config and log in a folder that it empties first.

    port: for clients. far_port: for the line with a delay; its small send buffer makes sure that
    the line has nearly all bytes that the log counts as sent.
    """

    def __init__(self, folder):
        self.folder = folder
        self.www = os.path.join(folder, 'www')
        self.port, self.far_port = free_ports(2)
        self._log_end = 0

    def __enter__(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.www)
        config = os.path.join(self.folder, 'nginx.conf')
        with open(config, 'w') as stream:
            stream.write(NGINX.format(folder=self.folder, port=self.port, far_port=self.far_port))
        command = ['nginx', '-c', config, '-e', os.path.join(self.folder, 'error.log')]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._wait_until(lambda: self._connections() is not None, 'nginx does not respond')
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()

    def mark(self):
        """Begin to count requests."""
        self._wait_until(self._is_idle, 'a connection to nginx stays open')
        self._log_end = os.path.getsize(os.path.join(self.folder, 'access.log'))

    def requests(self):
        """Wait until all connections are closed. Return the Requests since mark()."""
        self._wait_until(self._is_idle, 'a connection to nginx stays open')
        with open(os.path.join(self.folder, 'access.log')) as stream:
            stream.seek(self._log_end)
            return [parse_request(line) for line in stream]

    def _is_idle(self):
        return self._connections() == 1         # the connection of this request

    def _connections(self):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=5)
        try:
            connection.request('GET', '/connections')
            return int(connection.getresponse().read().split()[2])
        except OSError:
            return None
        finally:
            connection.close()

    @staticmethod
    def _wait_until(condition, message):
        deadline = time.monotonic() + IDLE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(message)
            time.sleep(0.01)


def parse_request(line):
    """Return the Request of a line of the access log."""
    ended, status, sent, uri, header = line.split(' ', 4)
    found = re.findall(r'(\d+)-(\d*)', header) or [(0, '')]
    ranges = [(int(first), int(last) + 1 if last else FAR) for first, last in found]
    return Request(float(ended), int(status), int(sent), uri, ranges)


class Delay:
    """A line with a delay from `port` to the far port of an nginx."""

    def __init__(self, nginx, one_way_ms, mbit=None):
        self._command = [sys.executable, os.path.join(HERE, 'delay.py'), str(nginx.far_port),
                         str(one_way_ms)]
        self._command += [] if mbit is None else [str(mbit)]

    def __enter__(self):
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE)
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

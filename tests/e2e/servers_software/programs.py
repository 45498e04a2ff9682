"""Programs that run while a `with` lasts, and free ports for them."""
import contextlib
import os
import random
import shutil
import socket
import subprocess
import time

START_SECONDS = 30
PATH = os.environ['PATH'] + ':/usr/sbin'      # Debian's servers are in /usr/sbin
PORTS = range(20000, 32000)             # below the kernel's ports for clients
# nginx in the foreground, with all its files in its folder
NGINX = '''
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
user root;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
    access_log {log};
}}
'''


def has_ipv6():
    """Return whether this machine has IPv6, at least on loopback."""
    with contextlib.suppress(OSError), contextlib.closing(socket.socket(socket.AF_INET6)) as trial:
        trial.bind(('::1', 0))
        return True
    return False


HAS_IPV6 = has_ipv6()
# Without IPv6, the listener http6 of a server uses IPv4, and no route leads to it.
IPV6_HOST, IPV6_ADDRESS = ('::1', '[::1]') if HAS_IPV6 else ('127.0.0.1', '127.0.0.1')
FAMILIES = ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'))[:1 + HAS_IPV6]
given = set()                           # ports of free_port(), some of which may not be open yet


def free_port():
    """Return a port that is free by IPv4 and IPv6, and that was not returned before."""
    for port in random.SystemRandom().sample(sorted(set(PORTS) - given), 100):
        with contextlib.ExitStack() as stack:
            try:
                for family, host in FAMILIES:
                    each = stack.enter_context(contextlib.closing(socket.socket(family)))
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    each.bind((host, port))
            except OSError:
                continue
        given.add(port)
        return port
    raise OSError('no port is free')


class Program:
    """Processes, and the folder of their configs and logs, and of what they write to stderr."""

    def __init__(self, folder):
        self.folder = folder
        self._processes = []
        os.makedirs(folder)
        os.chmod(folder, 0o755)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        """Write a file in the folder. Return its path."""
        with open(self.path(name), 'w') as stream:
            stream.write(content)
        return self.path(name)

    def commands(self):
        """Return the commands to start. Each stays in the foreground."""
        raise NotImplementedError

    def ports(self):
        """Return (host, port) of each listener."""
        raise NotImplementedError

    def start(self):
        """Start the processes. __enter__ waits until they listen."""
        environ = {'PATH': PATH, 'HOME': self.folder, 'TMPDIR': self.folder,
                   'PYTHONUNBUFFERED': '1'}
        for number, command in enumerate(self.commands()):
            command[0] = shutil.which(command[0], path=PATH) or command[0]
            with open(self.path('stderr.{}'.format(number)), 'wb') as stream:
                self._processes.append(subprocess.Popen(
                    command, cwd=self.folder, env=environ, stdin=subprocess.DEVNULL,
                    stdout=stream, stderr=stream))
        return self

    def __enter__(self):
        if not self._processes:
            self.start()
        deadline = time.monotonic() + START_SECONDS
        try:
            for address in self.ports():
                self._wait_for(address, deadline)
        except BaseException:
            self.__exit__()
            raise
        return self

    def connect(self, address):
        """Connect to a port of it once. Raises OSError if it does not listen."""
        socket.create_connection(address, 1).close()

    def _wait_for(self, address, deadline):
        while True:
            try:
                self.connect(address)
                return
            except OSError:
                has_ended = any(each.poll() is not None for each in self._processes)
                if has_ended or time.monotonic() > deadline:
                    raise RuntimeError('{} does not listen at {}: {}'.format(
                        type(self).__name__, address, self.errors())) from None
                time.sleep(0.05)

    def __exit__(self, *error):
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        del self._processes[:]

    def errors(self):
        """Return the end of what each process wrote to stderr and to its log of errors."""
        found = []
        for name in sorted(os.listdir(self.folder)):
            if name.startswith(('stderr.', 'error')):
                with open(self.path(name), errors='replace') as stream:
                    found.append(stream.read()[-2000:])
        return '\n'.join(found)

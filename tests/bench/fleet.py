"""What a fleet costs its server, and each client: measured on one machine, and multiplied out."""
import os
import re
import select
import socket
import subprocess
import threading
import time

import stage

CLIENTS = 10, 100, 1000, 10000, 100000
POLLS_A_DAY = 24
WHOLE_ANSWERS_A_DAY = 1                 # once a day, a manifest is asked for whatever its ETag
REQUESTS = {'plain': 20000, 'tls': 2000}        # of the load generator
CLIENT_POLLS = 20
MANIFEST_ENTRIES = 20                   # about 2 KB
RELAY_BYTES = 1 << 16


class Relay:
    """Passes what connects to `port` on to another port of loopback, one at a time, and counts the bytes both ways."""

    def __init__(self, target):
        self.count = 0
        self._target = target
        self._listener = socket.socket()
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen(1)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            with self._listener.accept()[0] as client, socket.create_connection(('127.0.0.1', self._target)) as server:
                others, is_open = {client: server, server: client}, True
                while is_open:
                    for end in select.select(list(others), [], [])[0]:
                        chunk = end.recv(RELAY_BYTES)
                        self.count += len(chunk)
                        others[end].sendall(chunk)
                        is_open = is_open and bool(chunk)


def fleet(scene):
    """Two tables: what one request takes, as measured; and what a day takes of clients that poll hourly."""
    for number in range(MANIFEST_ENTRIES):
        scene.publish('fleet', scene.image('one-more.img', 1 << 16), '1.{}'.format(number))
    requests, days = [], []
    for scheme, server in (('http', 'plain'), ('https', 'tls')):
        cpu = {status: server_cpu(scene, server, status == '200') for status in ('304', '200')}
        client = client_cost(scene, server)
        requests.append([scheme, client['304'], client['200'], '{:.3f}'.format(1e3 * cpu['304']),
                         '{:.3f}'.format(1e3 * cpu['200']), '{:.0f}'.format(1e3 * client['cpu'])])
        size, seconds = a_day(client), a_day(cpu)
        for clients in CLIENTS:
            days.append([scheme, clients, clients * POLLS_A_DAY, '{:.1f}'.format(clients * POLLS_A_DAY / 86400),
                         '{:.1f}'.format(clients * size / 1e6), '{:.2f}'.format(clients * seconds),
                         '{:.1f}'.format(size / 1e3), '{:.1f}'.format(POLLS_A_DAY * client['cpu'])])
    return [('Requests', ['', 'bytes, 304', 'bytes, 200', 'ms of nginx, 304', 'ms of nginx, 200', 'ms of CPU of a client'],
             requests),
            ('Fleet, a day', ['', 'clients', 'requests', 'a second', 'MB', 'CPU s of nginx', 'KB a client',
                              'CPU s a client'], days)]


def a_day(each):
    """What one client's polls of a day take, of what a 304 and a 200 take."""
    return (POLLS_A_DAY - WHOLE_ANSWERS_A_DAY) * each['304'] + WHOLE_ANSWERS_A_DAY * each['200']


def server_cpu(scene, server, is_whole):
    """nginx's seconds of CPU for one request on a connection of its own, answered 200 or 304."""
    url = scene.url('fleet', server) + '/manifest'
    headers = [] if is_whole else ['-H', 'If-None-Match: ' + etag_of(url, scene)]
    count, worker = REQUESTS[server], scene.worker()
    before = cpu_seconds(worker)
    done = subprocess.run(['ab', '-q', '-n', str(count), '-c', '10'] + headers + [url], stdout=subprocess.PIPE, check=True,
                          stdin=subprocess.DEVNULL)
    time.sleep(0.1)
    said = done.stdout.decode()
    unchanged = re.search('Non-2xx responses: +([0-9]+)', said)
    if not re.search('Failed requests: +0\n', said) or int(unchanged.group(1) if unchanged else 0) != (not is_whole) * count:
        raise SystemExit('ab did not get what it asked for:\n' + said)
    return (cpu_seconds(worker) - before) / count


def client_cost(scene, server):
    """What one poll that finds nothing new takes: bytes if answered 200 and 304, both ways, and CPU in seconds."""
    relay = Relay(scene.ports[server])
    url = scene.url('fleet', server).replace(str(scene.ports[server]), str(relay.port))
    fetch = scene.installed + ['fetch', scene.client('fleet-' + server, url)]
    stage.measure(fetch, scene.trust)
    manifest = scene.path('client', 'fleet-' + server, 'manifest')
    cost = {'cpu': 0.0}
    for name, age in (('200', 86400), ('304', 0)):
        os.utime(manifest, (time.time() - age, time.time() - age))
        relay.count = 0
        stage.measure(fetch, scene.trust)
        time.sleep(0.1)
        cost[name] = relay.count
    for _ in range(CLIENT_POLLS):
        cost['cpu'] += stage.measure(fetch, scene.trust).cpu / CLIENT_POLLS
    return cost


def etag_of(url, scene):
    said = stage.output_of(['curl', '-fsSI', '--cacert', scene.path('authority.pem'), url])
    return re.search('(?i)^etag: (.+?)\r?$', said, re.MULTILINE).group(1)


def cpu_seconds(process):
    """User and system time of a process."""
    with open('/proc/{}/stat'.format(process)) as stream:
        fields = stream.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

"""What a fleet costs its server and each client: measured on one machine, and extrapolated."""
import os
import re
import select
import socket
import subprocess
import threading
import time

import rig

CLIENTS = 10, 100, 1000, 10000, 100000
POLLS_A_DAY = 24
WHOLE_ANSWERS_A_DAY = 1                 # once a day, fetch requests the manifest without its ETag
REQUESTS = {'plain': 20000, 'tls': 2000}        # how many the load generator sends
CLIENT_POLLS = 20
MANIFEST_ENTRIES = 20                   # about 2 KB
RELAY_BYTES = 1 << 16
REQUESTS_HEAD = ['', 'bytes, 304', 'bytes, 200', 'ms of nginx, 304', 'ms of nginx, 200',
                 'ms of CPU of a client']
DAY_HEAD = ['', 'clients', 'requests', 'a second', 'MB', 'CPU s of nginx', 'KB a client',
            'CPU s a client']


class Relay:
    """Relays connections on `port` to another port of loopback, one at a time.

    count: bytes in both directions.
    """

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
            client = self._listener.accept()[0]
            with client, socket.create_connection(('127.0.0.1', self._target)) as server:
                others, is_open = {client: server, server: client}, True
                while is_open:
                    for end in select.select(list(others), [], [])[0]:
                        chunk = end.recv(RELAY_BYTES)
                        self.count += len(chunk)
                        others[end].sendall(chunk)
                        is_open = is_open and bool(chunk)


def fleet(bench):
    """Return two tables: the measured cost of a request, and the cost of a day of hourly polls."""
    for number in range(MANIFEST_ENTRIES):
        bench.publish('fleet', bench.image('one-more.img', 1 << 16), '1.{}'.format(number))
    requests, days = [], []
    for scheme, server in (('http', 'plain'), ('https', 'tls')):
        cpu = {status: server_cpu(bench, server, status == '200') for status in ('304', '200')}
        client = client_cost(bench, server)
        requests.append([scheme, client['304'], client['200'], '{:.3f}'.format(1e3 * cpu['304']),
                         '{:.3f}'.format(1e3 * cpu['200']), '{:.0f}'.format(1e3 * client['cpu'])])
        size, seconds = a_day(client), a_day(cpu)
        for clients in CLIENTS:
            polls = clients * POLLS_A_DAY
            days.append([scheme, clients, polls, '{:.1f}'.format(polls / 86400),
                         '{:.1f}'.format(clients * size / 1e6), '{:.2f}'.format(clients * seconds),
                         '{:.1f}'.format(size / 1e3),
                         '{:.1f}'.format(POLLS_A_DAY * client['cpu'])])
    return [('Requests', REQUESTS_HEAD, requests), ('Fleet, a day', DAY_HEAD, days)]


def a_day(each):
    """Return the cost of one client's polls of a day from the costs of a 304 and a 200."""
    return (POLLS_A_DAY - WHOLE_ANSWERS_A_DAY) * each['304'] + WHOLE_ANSWERS_A_DAY * each['200']


def server_cpu(bench, server, is_whole):
    """Return nginx's seconds of CPU for a connection with one request, answered 200 or 304."""
    url = bench.url('fleet', server) + '/manifest'
    headers = [] if is_whole else ['-H', 'If-None-Match: ' + etag_of(url, bench)]
    count, worker = REQUESTS[server], bench.worker()
    before = cpu_seconds(worker)
    command = ['ab', '-q', '-n', str(count), '-c', '10'] + headers + [url]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, stdin=subprocess.DEVNULL)
    time.sleep(0.1)
    output = done.stdout.decode()
    match = re.search('Non-2xx responses: +([0-9]+)', output)
    unchanged = int(match.group(1)) if match else 0
    if not re.search('Failed requests: +0\n', output) or unchanged != (0 if is_whole else count):
        raise SystemExit('ab got other responses than expected:\n' + output)
    return (cpu_seconds(worker) - before) / count


def client_cost(bench, server):
    """Return the costs of a poll without an update: bytes with a 200 and a 304, seconds of CPU."""
    relay = Relay(bench.ports[server])
    url = bench.url('fleet', server).replace(str(bench.ports[server]), str(relay.port))
    fetch = bench.installed + ['fetch', bench.client('fleet-' + server, url)]
    rig.measure(fetch, bench.trust)
    manifest = bench.path('client', 'fleet-' + server, 'manifest')
    cost = {'cpu': 0.0}
    for name, age in (('200', 86400), ('304', 0)):
        os.utime(manifest, (time.time() - age, time.time() - age))
        relay.count = 0
        rig.measure(fetch, bench.trust)
        time.sleep(0.1)
        cost[name] = relay.count
    for _ in range(CLIENT_POLLS):
        cost['cpu'] += rig.measure(fetch, bench.trust).cpu / CLIENT_POLLS
    return cost


def etag_of(url, bench):
    head = rig.output_of(['curl', '-fsSI', '--cacert', bench.path('authority.pem'), url])
    return re.search('(?i)^etag: (.+?)\r?$', head, re.MULTILINE).group(1)


def cpu_seconds(process):
    """Return the user and system time of a process."""
    with open('/proc/{}/stat'.format(process)) as stream:
        fields = stream.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

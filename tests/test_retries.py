"""Sections 12 and 16: which requests are repeated, how often and after which pauses.

With scene.Clock a pause takes no time. The tests assert how long Tako would have waited.
"""
import calendar
import os
import re
import socket
import subprocess
import sys
import threading
import time
import unittest
import unittest.mock

import certificates
import fake_systemd
import origin
import scene
import tako
from scene import IMAGE

BUDGET = tako.PAUSE_BUDGET_SECONDS


class RetryCase(scene.Scene):
    """A client without an image, an origin that has one, and a Clock: pauses take no time."""

    def setUp(self):
        super().setUp()
        self.origin = self.serve()
        self.entry = self.origin.publish('1.0', IMAGE)
        self.image = '/store/' + self.entry.digest
        self.app = self.config(self.origin.url)
        self.partial = self.path('destination', '.partial-' + self.entry.digest)
        self.clock = scene.Clock()

    def serve(self, name='served', **settings):
        server = super().serve(name, **settings)
        server.has_ranges = True
        return server

    def anew(self):
        """Empty the destination, make the origin honest, and forget requests and pauses."""
        self.empty_destination()
        self.origin.requests.clear()
        self.origin.faults.clear()
        self.origin.floods.clear()
        self.clock = scene.Clock()

    def fetch(self, *options, **settings):
        with self.clock.patch():
            return self.run_here('fetch', *options + (self.app,), **settings)

    def assertFetched(self):
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.err), result)
        self.assertInPlace(IMAGE)


class TransientTest(RetryCase):
    def test_a_server_that_fails_for_a_while_is_asked_again_in_the_same_run(self):
        for name, fault in [('hangs up', origin.hangs_up), ('not HTTP', origin.talks_nonsense)] + [
                (code, origin.status(code)) for code in (408, 429, 500, 502, 503, 504, 599)]:
            for what in ('/manifest', self.image):
                with self.subTest((name, what)):
                    self.anew()
                    self.origin.faults[what] = origin.first(3, fault)
                    self.assertFetched()
                    # A request on a kept connection that has ended costs no pause.
                    self.assertIn(len(self.clock.pauses), (2, 3) if what == self.image else (3,))
                    self.assertEqual(4, self.origin.paths().count(what))

    def test_a_server_that_refuses_connections_is_asked_again(self):
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))
            port = unused.getsockname()[1]
        self.app = self.config('http://127.0.0.1:{}'.format(port))
        self.clock = scene.Clock(lambda number: number == 3 and self.serve('served', port=port))
        self.assertFetched()
        self.assertEqual(3, len(self.clock.pauses))

    def test_a_permanent_error_is_not_asked_again(self):
        for code in (400, 401, 403, 404, 405, 410, 451, 600, 999):
            for what in ('/manifest', self.image):
                with self.subTest((code, what)):
                    self.anew()
                    self.origin.faults[what] = origin.status(code)
                    self.assertCode(75, self.fetch())
                    self.assertEqual((1, []), (self.origin.paths().count(what), self.clock.pauses))

    def test_an_invalid_manifest_is_not_asked_again(self):
        self.origin.faults['/manifest'] = origin.serves(b'<html>')
        self.assertCode(3, self.fetch())
        self.assertEqual((['/manifest'], []), (self.origin.paths(), self.clock.pauses))

    def test_a_silent_connection_counts_as_failed(self):
        self.origin.faults[self.image] = origin.first(1, origin.holds(300000))
        with unittest.mock.patch.object(tako, 'NETWORK_TIMEOUT_SECONDS', 0.5):
            self.assertFetched()
        self.assertEqual([None, 'bytes=300000-'], self.origin.asked(self.image, 'Range')[:2])


class PausesTest(RetryCase):
    def pauses(self, fault, what='/manifest'):
        """Return the pauses of a run that gives up."""
        self.anew()
        self.origin.faults[what] = fault
        self.assertCode(75, self.fetch())
        # A request on a kept connection that has ended costs no pause.
        self.assertIn(self.origin.paths().count(what) - len(self.clock.pauses), (1, 2))
        return self.clock.pauses

    def test_pauses_grow_and_end_with_the_budget(self):
        for what in ('/manifest', self.image):
            for fault in (origin.status(503), origin.hangs_up):
                pauses = self.pauses(fault, what)
                self.assertAlmostEqual(BUDGET, sum(pauses))
                for number, seconds in enumerate(pauses[:-1]):
                    longest = min(tako.PAUSE_FIRST_SECONDS * 2 ** number, tako.PAUSE_MAX_SECONDS)
                    self.assertTrue(longest / 2 <= seconds <= longest, pauses)

    def test_pauses_are_jittered(self):
        """So the machines of a fleet do not all return to their server at once."""
        first = {self.pauses(origin.status(503))[0] for _ in range(5)}
        self.assertGreater(len(first), 1)

    def test_the_pause_budget_is_for_one_run_and_one_host(self):
        """It is the same for manifest and image, and for another config."""
        second = self.path('second')
        os.mkdir(second)
        other = self.config(self.origin.url + '/', 'other.tako', destination=second)
        self.origin.faults['/manifest'] = origin.first(3, origin.status(503))
        self.origin.faults[self.image] = origin.status(503)
        with self.clock.patch():
            self.assertCode(75, self.run_here('fetch', self.app, other))
        self.assertAlmostEqual(BUDGET, sum(self.clock.pauses))

    def test_a_host_whose_pause_budget_is_used_up_is_asked_once_per_config(self):
        self.origin.faults['/manifest'] = origin.status(503)
        others = []
        for name in ('second', 'third'):
            os.mkdir(self.path(name))
            others.append(self.config(self.origin.url, name + '.tako', destination=self.path(name)))
        with self.clock.patch():
            self.assertCode(75, self.run_here('fetch', self.app, *others))
        self.assertAlmostEqual(BUDGET, sum(self.clock.pauses))
        self.assertEqual(3, len(self.origin.requests) - len(self.clock.pauses))

    def test_each_host_has_its_own_pause_budget(self):
        second = self.path('second')
        os.mkdir(second)
        server = self.serve('served')
        other = self.config(server.url, 'other.tako', destination=second)
        self.origin.faults['/manifest'] = server.faults['/manifest'] = origin.status(500)
        with self.clock.patch():
            self.assertCode(75, self.run_here('fetch', self.app, other))
        self.assertAlmostEqual(2 * BUDGET, sum(self.clock.pauses))

    def test_mirrors_that_are_all_down_cost_little_more_than_one(self):
        mirrors = [self.origin] + [self.serve('served') for _ in range(3)]
        self.app = self.config(self.origin.url, mirrors=[each.url for each in mirrors[1:]])
        for mirror in mirrors:
            mirror.faults['/manifest'] = origin.status(500)
        self.assertCode(75, self.fetch())
        self.assertTrue(BUDGET * 0.9 <= sum(self.clock.pauses) < 2 * BUDGET, self.clock.pauses)
        for mirror in mirrors:
            self.assertGreater(len(mirror.paths()), 3)

    def test_no_pause_happens_before_each_mirror_was_tried(self):
        other = self.serve('served')
        self.app = self.config(self.origin.url, mirrors=[other.url])
        for what in ('/manifest', self.image):
            with self.subTest(what):
                self.anew()
                self.origin.faults[what] = origin.status(503)
                result = self.fetch()
                self.assertEqual((0, []), (result.code, self.clock.pauses), result)
                self.assertInPlace(IMAGE)
        self.anew()
        other.requests.clear()
        seen = []
        self.clock = scene.Clock(lambda _: seen.append(self.origin.paths() + other.paths()))
        self.origin.faults['/manifest'] = origin.first(1, origin.status(503))
        other.faults['/manifest'] = origin.first(1, origin.status(503))
        self.assertFetched()
        self.assertEqual(['/manifest'] * 2, seen[0])


class RetryAfterTest(RetryCase):
    def pauses(self, value, times, code=503):
        self.anew()
        self.origin.faults['/manifest'] = origin.first(
            times, origin.status(code, headers=[('Retry-After', value)]))
        self.assertEqual(0 if times < 9 else 75, self.fetch().code)
        return self.clock.pauses

    def test_retry_after_in_seconds_is_heeded(self):
        for code in (429, 503):
            self.assertEqual([7.0, 7.0], self.pauses('7', 2, code))

    def test_retry_after_as_a_date_is_heeded(self):
        then = time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(time.time() + 15))
        pause, = self.pauses(then, 1)
        self.assertTrue(10 < pause <= 15, pause)

    def test_a_host_that_asks_for_more_than_the_budget_is_not_asked_again(self):
        self.assertEqual([], self.pauses('3600', 9))
        self.assertEqual([7.0, 7.0], self.pauses('7', 9))
        self.assertEqual([], self.pauses('999999999', 9))
        self.assertEqual([], self.pauses('Fri, 31 Dec 2100 23:59:59 GMT', 9))

    def test_the_hint_says_when_to_try_again(self):
        self.origin.faults['/manifest'] = origin.status(503, headers=[('Retry-After', '3600')])
        hint = self.fetch().err.splitlines()[-1]
        match = re.match('  try again after (.*) UTC, as the server asks$', hint)
        self.assertTrue(match, hint)
        then = calendar.timegm(time.strptime(match.group(1), '%Y-%m-%d %H:%M:%S'))
        self.assertTrue(3500 < then - time.time() <= 3600, hint)

    def test_retry_after_makes_no_pause_shorter(self):
        self.assertGreaterEqual(self.pauses('0', 1)[0], tako.PAUSE_FIRST_SECONDS / 2)

    def test_an_invalid_retry_after_is_ignored(self):
        for value in ('soon', '-1', '1e3', '', '9' * 400, 'inf', 'nan', '0x10', '7.5',
                      'Fri, 31 Dec 1999 23:59:59 GMT'):
            with self.subTest(value):
                self.assertLessEqual(self.pauses(value, 1)[0], tako.PAUSE_FIRST_SECONDS)

    def test_retry_after_beyond_the_timeout_ends_the_run(self):
        self.origin.faults['/manifest'] = origin.status(503, headers=[('Retry-After', '10')])
        self.assertCode(75, self.fetch('--timeout', '5'))
        self.assertEqual([], self.clock.pauses)


class ProgressTest(RetryCase):
    def test_a_server_that_delivers_much_each_time_is_asked_until_the_end(self):
        """Progress refills the budget, which here ends with the second pause."""
        self.origin.faults[self.image] = origin.drops(tako.PROGRESS_MIN_BYTES)
        with unittest.mock.patch.object(tako, 'PAUSE_BUDGET_SECONDS', 0.1):
            self.assertFetched()
        self.assertEqual(len(IMAGE) // tako.PROGRESS_MIN_BYTES, len(self.clock.pauses))
        self.assertLessEqual(max(self.clock.pauses), tako.PAUSE_FIRST_SECONDS)
        self.assertGreater(len(set(self.clock.pauses)), 1)      # jittered

    def test_progress_resets_the_pauses(self):
        # The third 503 after a range answers a request without one.
        faults = [origin.status(503)] * 4 + [origin.drops(100000)] + [origin.status(503)] * 3

        def serve(handler):
            fault = faults.pop(0) if faults else origin.drops(None)
            fault(handler)
        self.origin.faults[self.image] = serve
        self.assertFetched()
        self.assertEqual(7, len(self.clock.pauses))
        self.assertGreater(self.clock.pauses[3], 3 * tako.PAUSE_FIRST_SECONDS)
        self.assertLessEqual(self.clock.pauses[5], 2 * tako.PAUSE_FIRST_SECONDS)

    def test_a_server_that_delivers_little_each_time_is_given_up(self):
        """fetch keeps the bytes that it received."""
        self.origin.faults[self.image] = origin.drops(1000)
        self.assertCode(75, self.fetch())
        self.assertAlmostEqual(BUDGET, sum(self.clock.pauses))
        brought = 1000 * self.origin.paths().count(self.image)
        self.assertEqual(IMAGE[:brought], scene.read(self.partial))


OK = b'HTTP/1.1 200 OK\r\n'
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'


class RateTest(RetryCase):
    """An image below the minimum rate ends the connection. attacks/ has drips in other places."""

    limits = {'PAUSE_BUDGET_SECONDS': 0.0, 'RATE_WINDOW_SECONDS': 0.2}

    def test_an_image_below_the_minimum_rate_is_resumed(self):
        def drip(handler):
            handler.answer(200, IMAGE[:300000], length=len(IMAGE))
            for start in range(300000, 301000):
                handler.wfile.write(IMAGE[start:start + 1])
                time.sleep(0.02)
        self.origin.faults[self.image] = origin.first(1, drip)
        result = self.fetch(limits={'RATE_WINDOW_SECONDS': 0.2})
        self.assertEqual(0, result.code, result)
        self.assertInPlace(IMAGE)
        begin = int(self.origin.asked(self.image, 'Range')[1][len('bytes='):-1])
        self.assertTrue(300000 <= begin < 301000, begin)

    def test_an_image_above_the_minimum_rate_may_take_long(self):
        """It comes slowly, but above the minimum rate of this test."""
        def slowly(handler):
            handler.answer(200, b'', length=len(IMAGE))
            for start in range(0, len(IMAGE), 20000):
                handler.wfile.write(IMAGE[start:start + 20000])
                time.sleep(0.02)
        self.origin.faults[self.image] = slowly
        result = self.fetch(limits={'PAUSE_BUDGET_SECONDS': 0.0, 'RATE_WINDOW_SECONDS': 0.1,
                                    'RATE_MIN_BYTES': 1})
        self.assertEqual((0, 1), (result.code, self.origin.paths().count(self.image)), result)


class FramingTest(RetryCase):
    """Chunks may be small. attacks/ has headers, chunks and trailers without end."""

    limits = {'PAUSE_BUDGET_SECONDS': 0.0}

    def test_honest_chunks_of_one_byte_are_read(self):
        content = IMAGE[:20000]
        entry = self.origin.publish('1.1', content)

        def serve(handler):
            handler.wfile.write(CHUNKED + b''.join(b'1\r\n%c\r\n' % byte for byte in content)
                                + b'0\r\n\r\n')
        self.origin.faults['/store/' + entry.digest] = serve
        result = self.fetch(limits={'PAUSE_BUDGET_SECONDS': 0.0, 'FRAMING_MAX_BYTES': 20000})
        self.assertEqual(0, result.code, result)
        self.assertInPlace(content)


# Runs tako.py and prints its peak memory in KiB. ru_maxrss would include the parent's.
WITH_PEAK = """
import os, re, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import tako
code = tako.main(sys.argv[2:])
with open('/proc/self/status') as stream:
    print(re.search('VmHWM:[ \\t]*([0-9]+) kB', stream.read()).group(1))
sys.exit(code)
"""


@unittest.skipUnless(os.path.exists('/proc/self/status'),
                     'NO /proc: THE MEMORY THAT A MANIFEST TAKES IS NOT TESTED')
class MemoryTest(RetryCase):
    def peak(self, fault):
        """Return the peak memory of a run that refuses this manifest, in MiB."""
        self.origin.faults['/manifest'] = fault
        environ = {name: value for name,
                   value in os.environ.items() if not name.lower().endswith('_proxy')}
        done = subprocess.run([sys.executable, '-I', '-c', WITH_PEAK, scene.TAKO, 'fetch',
                               self.app], env=environ,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual((3, True), (done.returncode, b'manifest' in done.stderr), done)
        return int(done.stdout) / 1024

    def test_a_manifest_of_the_largest_size_takes_little_memory(self):
        self.assertLess(self.peak(origin.serves(b'\n' * tako.MANIFEST_MAX_BYTES)), 150)

    def test_chunks_of_two_bytes_take_no_more_memory_than_one_chunk(self):
        """A list of all chunks would take more than twenty times as much."""
        size = 2 << 20

        def serve(handler):
            handler.wfile.write(CHUNKED)
            for _ in range(size // 2048):
                handler.wfile.write(b'2\r\nxx\r\n' * 1024)
            handler.wfile.write(b'0\r\n\r\n')
        self.assertLess(self.peak(serve), self.peak(origin.serves(b'xx' * (size // 2))) + 16)


class TimeoutTest(RetryCase):
    """--timeout bounds the waits for the lock and for the network, and nothing else."""

    def test_the_timeout_bounds_the_wait_for_the_lock(self):
        for options, seconds in ((('--timeout', '7'), 7), ((), tako.LOCK_WAIT_SECONDS)):
            with self.subTest(seconds), tako.DirectoryLock(self.destination, 0, print):
                self.clock = scene.Clock()
                result = self.fetch(*options)
                self.assertCode(75, result)
                self.assertIn('another run holds the lock', result.err)
                # Pauses take no time, but a busy machine takes some in between.
                self.assertTrue(seconds / 2 < sum(self.clock.pauses) < seconds + 1,
                                sum(self.clock.pauses))

    def test_the_timeout_bounds_pauses(self):
        self.origin.faults['/manifest'] = origin.status(503)
        self.assertCode(75, self.fetch('--timeout', '3'))
        self.assertLessEqual(sum(self.clock.pauses), 3)

    def test_the_timeout_bounds_silence(self):
        """This is far less than the ten seconds that silence may last without --timeout."""
        with socket.socket() as silent:
            silent.bind(('127.0.0.1', 0))
            silent.listen(1)
            self.app = self.config('http://127.0.0.1:{}'.format(silent.getsockname()[1]))
            began = time.monotonic()
            self.assertCode(75, self.fetch('--timeout', '0.3'))
            self.assertLess(time.monotonic() - began, 8)

    def test_a_timeout_of_zero_sends_no_request(self):
        self.assertCode(75, self.fetch('--timeout', '0'))
        self.assertEqual([], self.origin.requests)

    def test_bytes_received_before_the_timeout_are_kept(self):
        def serve(handler):
            handler.answer(200, IMAGE[:300000], length=len(IMAGE))
            handler.wfile.flush()
            for _ in range(3000):
                if os.path.exists(self.partial) and os.stat(self.partial).st_size > 150000:
                    break
                time.sleep(0.01)
            self.clock.ahead += 1000
            for start in range(300000, len(IMAGE)):     # too slowly to ever end
                handler.wfile.write(IMAGE[start:start + 1])
                time.sleep(0.01)
        self.origin.faults[self.image] = origin.first(1, serve)
        result = self.fetch('--timeout', '100')
        self.assertCode(75, result)
        self.assertIn('--timeout', result.err)
        kept = scene.read(self.partial)
        self.assertGreater(len(kept), 150000)
        self.assertEqual(IMAGE[:len(kept)], kept)
        self.assertFetched()
        self.assertEqual([None, 'bytes={}-'.format(len(kept))],
                         self.origin.asked(self.image, 'Range'))

    def test_each_config_has_the_whole_timeout(self):
        second = self.path('second')
        os.mkdir(second)
        down = self.serve('served')
        down.faults['*'] = origin.status(503)
        dead = self.config(down.url, 'dead.tako')
        live = self.config(self.origin.url, 'live.tako', destination=second)
        with self.clock.patch():
            self.assertEqual(75, self.run_here('fetch', '--timeout', '10', dead, live).code)
        self.assertInPlace(IMAGE, second)

    def test_the_timeout_does_not_bound_restarts(self):
        os.mkdir(self.path('bin'))
        fake_systemd.install(self.directory, self.destination)
        self.app = self.config(self.origin.url, more='Restart=app.service\nConfirm=500\n')
        systemctl = tako._systemctl

        def slow_systemctl(manager, verb, *arguments):
            self.clock.ahead += 300 if verb == 'restart' else 0
            return systemctl(manager, verb, *arguments)
        with unittest.mock.patch.object(tako, '_systemctl', slow_systemctl):
            result = self.fetch('--timeout', '100', environ=self.environ_with_systemctl())
        self.assertEqual((0, self.app + ': 1.0 is installed, restarted app.service\n', ''),
                         (result.code, result.out, result.err))
        # Calls of systemctl take some of the 500 seconds.
        self.assertAlmostEqual(500, sum(self.clock.pauses), delta=100)
        self.assertNotIn(b'restart_due', scene.read(self.path('destination', '.state')))


def reply(body):
    """Return a whole response with this body."""
    return OK + 'Content-Length: {}\r\n\r\n'.format(len(body)).encode() + body


class RawServer:
    """A server that answers the nth request with the nth reply, on whichever connection it arrives.

    later: bytes that it sends after the first reply, once let_go is set.
    """

    def __init__(self, replies, later=b'', tls=None):
        self.connections = 0
        self.let_go = threading.Event()
        self._replies = replies
        self._later = later
        self._tls = tls
        self._socket = socket.socket()
        self._socket.bind(('127.0.0.1', 0))
        self._socket.listen(5)
        self.url = '{}://127.0.0.1:{}/'.format('http' if tls is None else 'https',
                                               self._socket.getsockname()[1])

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.let_go.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self):
        try:
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()
        except OSError:
            pass

    def _talk(self, connection):
        try:
            with connection:
                connection.settimeout(30)
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                with connection:
                    while self._replies and self._request(connection):
                        connection.sendall(self._replies.pop(0))
                        if self._later:
                            self.let_go.wait(30)
                            later, self._later = self._later, b''
                            connection.sendall(later)
        except OSError:
            pass

    def _request(self, connection):
        received = b''
        while not received.endswith(b'\r\n\r\n'):
            block = connection.recv(65536)
            if not block:
                return False
            received += block
        return True


class KeptConnectionTest(scene.Scene):
    """A response that nobody requested is not used for the next request."""

    def get(self, client, url):
        return b''.join(client.open(url).chunks)

    def assertNotTaken(self, replies, tls=None):
        first = replies[0].partition(b'\r\n\r\n')[2]
        with RawServer(replies, tls=tls) as server, tako.HttpClient(os.environ) as client:
            self.assertTrue(first.startswith(self.get(client, server.url)))
            self.assertEqual(b'truth', self.get(client, server.url))

    def test_a_stray_answer_right_after_the_first_is_not_used(self):
        for size in (5, 4000, 8000, 8192, 10000, 100000):
            with self.subTest(size):
                self.assertNotTaken([reply(b'x' * size) + reply(b'stray'), reply(b'truth')])

    def test_a_stray_answer_some_time_later_is_not_used(self):
        """For example, a server sends 408 before it closes an idle connection."""
        late = b'HTTP/1.1 408 Too Slow\r\nContent-Length: 0\r\n\r\n'
        with RawServer([reply(b'first'), reply(b'truth')],
                       late) as server, tako.HttpClient({}) as client:
            self.assertEqual(b'first', self.get(client, server.url))
            connection = client._pool.connection(server.url)
            server.let_go.set()
            self.assertTrue(tako.is_readable(connection._stream, 30))
            self.assertEqual(b'truth', self.get(client, server.url))
            self.assertEqual(2, server.connections)

    def test_bytes_beyond_the_announced_length_are_not_used(self):
        self.assertNotTaken([reply(b'first') + b'second', reply(b'truth')])

    @unittest.skipUnless(certificates.is_possible(), 'NO openssl COMMAND: https IS NOT TESTED')
    def test_a_stray_answer_within_a_tls_record_is_not_used(self):
        os.mkdir(self.path('authority'))
        authority = certificates.Authority(self.path('authority'))
        for size in (5, 8000, 10000, 12000):
            with self.subTest(size), unittest.mock.patch.dict(os.environ,
                                                              SSL_CERT_FILE=authority.bundle):
                self.assertNotTaken([reply(b'x' * size) + reply(b'stray'), reply(b'truth')],
                                    authority.context())

    def test_an_honest_connection_is_used_again(self):
        with RawServer([reply(b'first'), reply(b'second'),
                        reply(b'truth')]) as server, tako.HttpClient({}) as client:
            for body in (b'first', b'second', b'truth'):
                self.assertEqual(body, self.get(client, server.url))
            self.assertEqual(1, server.connections)

"""Section 12: requests, redirects, credentials, proxies, TLS, and servers that break the rules."""
import base64
import http.server
import os
import shutil
import socket
import ssl
import sys
import subprocess
import tempfile
import threading
import unittest
import unittest.mock

import certificates
import origin
import scene
import tako

BODY = bytes(range(256)) * 1000


class NetworkCase(scene.Scene):
    def setUp(self):
        super().setUp()
        self.origin = self.serve('.')
        self.write('body', BODY)
        self.client = tako.HttpClient({})
        self.addCleanup(self.client.__exit__, None, None, None)

    def get(self, path='/body', authorization=''):
        return b''.join(self.client.open(self.origin.url + path, authorization).chunks)

    def assertUnreachable(self, message, url=None):
        with self.assertRaises(tako.UnreachableError) as caught:
            b''.join(self.client.open(url or self.origin.url + '/body').chunks)
        self.assertEqual(75, caught.exception.exit_code)
        self.assertIn(message, caught.exception.what)
        return caught.exception


class AnswerTest(NetworkCase):
    def test_a_response_has_its_bytes_and_announced_length(self):
        answer = self.client.open(self.origin.url + '/body')
        self.assertEqual(len(BODY), answer.length)
        self.assertEqual(BODY, b''.join(answer.chunks))

    def test_a_body_may_be_chunked_or_end_with_the_connection(self):
        for name, fault in (('chunked', origin.chunked()), ('until closed', origin.until_closed)):
            with self.subTest(name):
                self.origin.faults['/body'] = fault
                answer = self.client.open(self.origin.url + '/body')
                self.assertIsNone(answer.length)
                self.assertEqual(BODY, b''.join(answer.chunks))

    def test_one_connection_serves_many_requests(self):
        for _ in range(3):
            self.get()
        self.origin.faults['/body'] = origin.chunked()
        self.get()
        self.get()
        for code in (404, 410, 500):
            self.origin.faults['/body'] = origin.status(code)
            with self.assertRaises(tako.UnreachableError):
                self.get()
        self.assertEqual(1, self.origin.connections)

    def test_a_connection_that_the_server_closed_is_opened_anew(self):
        def answer_then_close(handler):
            handler.answer(200, handler.body)       # without "Connection: close"
            handler.hang_up()
        self.origin.faults['/body'] = answer_then_close
        for _ in range(3):
            self.assertEqual(BODY, self.get())

    def test_a_body_that_was_not_read_to_the_end_spoils_no_next_one(self):
        chunks = self.client.open(self.origin.url + '/body').chunks
        next(chunks)
        chunks.close()
        self.assertEqual(BODY, self.get())

    def test_a_request_names_tako_and_asks_for_no_compression(self):
        self.get()
        headers = self.origin.requests[0][1]
        self.assertEqual(('tako/' + tako.__version__, 'identity'),
                         (headers['User-Agent'], headers['Accept-Encoding']))

    def test_an_ipv6_address_may_be_an_origin(self):
        try:
            six = origin.Origin(self.directory, host='::1')
        except OSError:
            self.skipTest('NO IPv6 ON THIS MACHINE')
        with six:
            self.assertEqual(BODY, b''.join(self.client.open(six.url + '/body').chunks))


class AddressTest(NetworkCase):
    """127.0.0.1 and 127.0.0.2 are addresses of a name before and after a change of the DNS."""

    def test_a_name_is_looked_up_again_if_its_addresses_fail(self):
        moved = self.serve('.', host='127.0.0.2', port=self.origin.port)
        looked_up, address = [], ['127.0.0.1']

        def getaddrinfo(name, port, **_):
            looked_up.append(name)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, '', (address[0], port))]
        url = 'http://images.example.com:{}/body'.format(self.origin.port)
        with unittest.mock.patch.object(socket, 'getaddrinfo', getaddrinfo):
            for _ in range(2):
                self.assertEqual(BODY, b''.join(self.client.open(url).chunks))
                self.client._pool.connection(url).close()
            self.assertEqual(1, len(looked_up))
            self.origin.__exit__(None, None, None)
            address[0] = '127.0.0.2'
            self.assertUnreachable('refused', url)
            self.assertEqual(BODY, b''.join(self.client.open(url).chunks))
        self.assertEqual((2, 1), (len(looked_up), len(moved.requests)))


def cut_in_headers(head):
    def fault(handler):
        handler.wfile.write(head)
        handler.hang_up()
    return fault


class FaultTest(NetworkCase):
    def test_each_wrong_response_has_a_message(self):
        cases = ((origin.status(404), 'status 404'), (origin.status(401), 'status 401'),
                 (origin.status(403), 'status 403'),
                 (origin.status(500), 'status 500'), (origin.status(204, b''), 'status 204'),
                 (origin.status(206, b'half'), 'status 206'),
                 (origin.hangs_up, 'ended within the headers'),
                 (origin.talks_nonsense, 'invalid HTTP response'),
                 (origin.cuts(1000), '255000 bytes early'),
                 (origin.chunked(finish=False), 'ended within the headers'),
                 (cut_in_headers(b'HTTP/1.1 200 OK\r\n'), 'ended within the headers'),
                 (cut_in_headers(b'HTTP/1.1 200 OK\r\nContent-Len'), 'ended within the headers'),
                 (cut_in_headers(b'HTTP/1.1 200 OK\r\nX: y\r\n'), 'ended within the headers'),
                 (origin.serves(b'x', [('Content-Encoding', 'gzip')]), 'gzip'))
        for fault, message in cases:
            with self.subTest(message):
                self.origin.faults['/body'] = fault
                self.assertUnreachable(message)

    def test_an_encoding_that_changes_no_byte_is_accepted(self):
        for encoding in ('', 'identity', 'none', 'binary', 'utf-8', 'aws-chunked',
                         'aws-chunked,utf-8'):
            with self.subTest(encoding):
                self.origin.faults['/body'] = origin.serves(BODY, [('Content-Encoding', encoding)])
                self.assertEqual(BODY, self.get())

    def test_a_compression_is_refused(self):
        for encoding in ('gzip', 'x-gzip', 'GZIP', 'br', 'zstd', 'deflate', 'compress',
                         'aws-chunked, gzip', 'gzip,br'):
            with self.subTest(encoding):
                self.origin.faults['/body'] = origin.serves(BODY, [('Content-Encoding', encoding)])
                self.assertUnreachable('Content-Encoding ' + encoding)

    def test_status_203_of_a_proxy_is_accepted(self):
        self.origin.faults['/body'] = origin.status(203, BODY)
        self.assertEqual(BODY, self.get())

    def test_an_interim_response_is_passed_over(self):
        """For example, haproxy sends early hints."""
        def hint_first(handler):
            handler.wfile.write(
                b'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n')
            handler.serve()
        self.origin.faults['/body'] = hint_first
        self.assertEqual(BODY, self.get())
        self.assertEqual(BODY, self.get())
        self.assertEqual(1, self.origin.connections)

    def test_status_410_means_withdrawn(self):
        self.origin.faults['/body'] = origin.status(410)
        self.assertIsInstance(self.assertUnreachable('withdrawn'), tako.GoneError)

    def test_a_refused_connection_is_unreachable(self):
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))
            self.assertUnreachable('refused',
                                   'http://127.0.0.1:{}/'.format(unused.getsockname()[1]))

    def test_an_unknown_host_is_unreachable(self):
        self.assertUnreachable('http://nowhere.invalid/body: ', 'http://nowhere.invalid/body')

    def test_silence_ends_after_the_timeout(self):
        with unittest.mock.patch.object(tako, 'NETWORK_TIMEOUT_SECONDS', 0.2):
            self.client = tako.HttpClient({})
        self.addCleanup(self.client.__exit__, None, None, None)
        with socket.socket() as silent:
            silent.bind(('127.0.0.1', 0))
            silent.listen(1)
            self.assertUnreachable('timed out',
                                   'http://127.0.0.1:{}/'.format(silent.getsockname()[1]))

    def test_headers_without_end_are_refused(self):
        def flood(handler):
            handler.wfile.write(b'HTTP/1.1 200 OK\r\n')
            try:
                for number in range(3000):
                    handler.wfile.write('X-{}: {}\r\n'.format(number, 'x' * 1000).encode())
            except OSError:
                pass
            handler.hang_up()
        self.origin.faults['/body'] = flood
        self.assertUnreachable('too many bytes of headers')


class RedirectTest(NetworkCase):
    def test_ten_redirects_are_followed_and_an_eleventh_is_not(self):
        for number in range(12):
            self.origin.faults['/hop{}'.format(number)] = origin.redirects(
                '/hop{}'.format(number + 1) if number < 9 else '/body',
                (301, 302, 303, 307, 308)[number % 5])
        self.assertEqual(BODY, self.get('/hop0'))
        self.assertEqual(11, len(self.origin.requests))
        self.origin.faults['/hop9'] = origin.redirects('/hop10')
        self.origin.faults['/hop10'] = origin.redirects('/body')
        self.assertUnreachable('more than 10 redirects', self.origin.url + '/hop0')

    def test_a_circle_of_redirects_ends(self):
        self.origin.faults['/body'] = origin.redirects('/body')
        self.assertUnreachable('more than 10 redirects')
        self.assertEqual(11, len(self.origin.requests))

    def test_redirects_may_be_relative_absolute_or_untidy(self):
        self.write('a b', BODY)
        for location in ('body', './body', self.origin.url + '/body',
                         '//127.0.0.1:{}/body'.format(self.origin.port),
                         '/body#part',
                         'http://user:secret@127.0.0.1:{}/body'.format(self.origin.port)):
            with self.subTest(location):
                self.origin.faults['/start'] = origin.redirects(location)
                self.assertEqual(BODY, self.get('/start'))

    def test_an_empty_port_is_that_of_the_scheme(self):
        self.assertEqual('http://host/x', tako._redirect('http://host/', 'http://host:/x'))
        self.assertEqual('https://[::1]/', tako._redirect('http://host/', 'https://[::1]:'))

    def test_redirects_to_other_schemes_or_invalid_urls_are_not_followed(self):
        self.write('file', 'local')
        for location in ('file://' + self.path('file'), 'ftp://127.0.0.1/', 'data:,x',
                         'gopher://127.0.0.1/', '',
                         'http://127.0.0.1:99999/', 'http://[::1/', 'http://127.0.0.1:0/',
                         'http://a b/', 'http://a!b/', 'http://\xe4/', 'http://.../',
                         'http://a..b/', 'http://' + 'a' * 64 + '/', 'http://127.0.0.1:+80/',
                         'http://127.0.0.1:80:80/', 'http://[::1]x/', 'http://[fe80::1%25eth0]/'):
            with self.subTest(location):
                self.origin.faults['/body'] = origin.redirects(location)
                self.assertUnreachable('redirected to')
        self.assertEqual({'/body'}, set(self.origin.paths()))


class QueryTest(NetworkCase):
    def test_the_query_of_a_redirect_is_never_printed(self):
        """It often contains a password."""
        self.origin.faults['/body'] = origin.redirects('/x?token=hush')
        for fault in (origin.redirects('/x?token=hush'), origin.redirects('ftp://127.0.0.1/'),
                      origin.redirects(''),
                      origin.serves(b'x', [('Content-Encoding', 'gzip')]), origin.status(404),
                      origin.hangs_up):
            self.origin.faults['/x?token=hush'] = fault
            self.assertNotIn('hush', self.assertUnreachable('/x').what)


class CredentialsTest(NetworkCase):
    def setUp(self):
        super().setUp()
        self.other = self.serve('.')
        self.credentials = tako.basic_authorization('user:p%40ss')

    def test_basic_authorization_is_that_of_rfc_7617(self):
        self.assertEqual('Basic ' + base64.b64encode(b'user:p@ss').decode(), self.credentials)

    def test_credentials_are_sent_to_the_origin_and_on_redirects_within_it(self):
        self.origin.faults['/start'] = origin.redirects('/body')
        self.get('/start', self.credentials)
        self.assertEqual([self.credentials] * 2,
                         [headers.get('Authorization') for _, headers in self.origin.requests])

    def test_credentials_are_sent_to_another_spelling_of_the_origin(self):
        """RFC 6454, 4: the scheme's port and the case of the host make no difference."""
        seen = []

        def get(url, headers):
            seen.append((url, headers.get('Authorization')))
            location = 'https://IMAGES.example.com:443/b'
            return tako.Answer(url, 302 if len(seen) == 1 else 200, {'location': location}, 0,
                               iter(()))
        with unittest.mock.patch.object(self.client, '_get', get):
            self.client.open('https://images.example.com/a', self.credentials)
        self.assertEqual([('https://images.example.com/a', self.credentials),
                          ('https://IMAGES.example.com:443/b', self.credentials)], seen)

    def test_credentials_are_never_sent_to_another_host_or_port(self):
        neighbour = self.serve('.', host='127.0.0.2', port=self.origin.port)
        self.origin.faults['/start'] = origin.redirects(self.other.url + '/back')
        onward = 'http://user:other@127.0.0.2:{}/body'.format(neighbour.port)
        self.other.faults['/back'] = origin.redirects(onward)
        self.get('/start', self.credentials)
        self.assertEqual([[self.credentials], [None], [None]],
                         [[headers.get('Authorization') for _, headers in server.requests]
                          for server in (self.origin, self.other, neighbour)])

    def test_credentials_are_never_sent_to_another_scheme(self):
        """This holds for the same host, too, if no URL names a port."""
        seen = []

        def get(url, headers):
            seen.append((url, headers.get('Authorization')))
            headers = {'location': 'https://images.example.com/x'}
            return tako.Answer(url, 302 if url.startswith('http:') else 200, headers, 0, iter(()))
        with unittest.mock.patch.object(self.client, '_get', get):
            self.client.open('http://images.example.com/x', self.credentials)
        self.assertEqual([('http://images.example.com/x', self.credentials),
                          ('https://images.example.com/x', None)], seen)


class FileTest(NetworkCase):
    def test_a_file_url_reads_a_file(self):
        answer = self.client.open('file://' + self.path('body'))
        self.assertEqual((len(BODY), BODY), (answer.length, b''.join(answer.chunks)))

    def test_a_file_url_may_be_percent_encoded_or_name_localhost(self):
        self.write('a b\u00fc', BODY)
        self.assertEqual(BODY,
                         b''.join(self.client.open('file://' + self.path('a%20b%C3%BC')).chunks))
        self.assertEqual(BODY,
                         b''.join(self.client.open('file://localhost' + self.path('body')).chunks))

    def test_a_file_url_of_no_regular_file_is_unreachable(self):
        os.mkfifo(self.path('pipe'))
        for name in ('missing', 'pipe', '', 'nul%00'):
            with self.subTest(name):
                self.assertUnreachable('file://', 'file://' + self.path(name))


class Proxy:
    """A proxy that notes its requests, answers http itself, and tunnels or refuses CONNECT."""

    def __init__(self, body, refusal=None):
        self.asked = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                proxy.asked.append((self.command, self.path,
                                    self.headers.get('Proxy-Authorization'), self.headers['Host']))
                self.send_response(200)
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_CONNECT(self):
                proxy.asked.append((self.command, self.path,
                                    self.headers.get('Proxy-Authorization'), None))
                if refusal is not None:
                    self.send_error(refusal)
                    return
                host, port = self.path.split(':')
                with socket.create_connection((host, int(port))) as upstream:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(target=pump, args=(upstream, self.connection))
                    back.start()
                    pump(self.connection, upstream)
                    back.join()

            def log_message(self, *arguments):
                pass

        self._server = origin._Server(('127.0.0.1', 0), Handler)
        self.address = '127.0.0.1:{}'.format(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02},
                         daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def pump(source, target):
    try:
        for block in iter(lambda: source.recv(65536), b''):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class ProxyTest(NetworkCase):
    def setUp(self):
        super().setUp()
        self.proxy = Proxy(BODY)
        self.addCleanup(self.proxy.close)

    def through(self, url, **environ):
        with unittest.mock.patch.dict(os.environ, environ):
            with tako.HttpClient(os.environ) as client:
                return b''.join(client.open(url).chunks)

    def test_a_request_through_a_proxy_has_the_whole_url(self):
        self.assertEqual(BODY, self.through('http://images.example.com/app/manifest',
                                            http_proxy='http://u:p%40@' + self.proxy.address))
        self.assertEqual([('GET', 'http://images.example.com/app/manifest',
                           'Basic ' + base64.b64encode(b'u:p@').decode(), 'images.example.com')],
                           self.proxy.asked)

    def test_a_proxy_variable_may_be_upper_case_and_lack_the_scheme(self):
        self.assertEqual(BODY,
                         self.through('http://images.example.com/x', HTTP_PROXY=self.proxy.address))

    def test_all_proxy_is_used_for_a_scheme_without_its_own_proxy(self):
        for environ in (
            {'all_proxy': self.proxy.address},
            {'ALL_PROXY': 'http://' + self.proxy.address},
            {'all_proxy': self.proxy.address, 'https_proxy': 'http://127.0.0.1:1'},
            {'all_proxy': self.proxy.address, 'http_proxy': ''},
            {'all_proxy': 'socks5://127.0.0.1:1', 'http_proxy': self.proxy.address},
        ):
            with self.subTest(environ):
                del self.proxy.asked[:]
                self.assertEqual(BODY, self.through('http://images.example.com/x', **environ))
                self.assertEqual(
                    ['http://images.example.com/x'], [path for _, path, _, _ in self.proxy.asked]
                )

    def test_all_proxy_is_not_used_for_hosts_in_no_proxy(self):
        self.assertEqual(
            BODY,
            self.through(
                self.origin.url + '/body', all_proxy=self.proxy.address, no_proxy='127.0.0.1'
            ),
        )
        self.assertEqual([], self.proxy.asked)

    def test_an_all_proxy_that_is_no_http_proxy_is_a_usage_error(self):
        with self.assertRaisesRegex(
            tako.UsageError, '^all_proxy: not the URL of an http proxy$'
        ) as caught:
            self.through('http://images.example.com/x', ALL_PROXY='socks5://127.0.0.1:1080')
        self.assertIn('no_proxy', caught.exception.hint)

    def test_no_proxy_is_read_as_curl_reads_it(self):
        for host, no_proxy, is_listed in [
                ('host.example.com', '*', True), ('host.example.com', 'other, *', True),
                ('host.example.com', 'example.com', True),
                ('host.example.com', '.example.com', True),
                ('host.example.com', 'a b host.example.com c', True),
                ('Host.Example.com.', 'example.com', True),
                ('host.example.com', 'EXAMPLE.COM.', True),
                ('host.example.com', 'ample.com', False),
                ('host.example.com', '', False), ('host.example.com', ', ,', False),
                ('host', 'host.example.com', False),
                ('10.1.2.3', '10.0.0.0/8', True), ('11.1.2.3', '10.0.0.0/8', False),
                ('10.1.2.3', '10.1.2.3', True),
                ('10.1.2.3', '10.1.2.4/24', True), ('10.1.2.3', '10.1.2.0/33', False),
                ('::1', '::1', True),
                ('::1', '[::1]', True), ('fd00::1', 'fd00::/8', True),
                ('0:0:0:0:0:0:0:1', '::1', True),
                ('host', '10.0.0.0/8', False), ('fd00::1', '10.0.0.0/8', False)]:
            with self.subTest(host=host, no_proxy=no_proxy):
                self.assertEqual(is_listed, tako.bypasses_proxy(host, no_proxy))

    def test_hosts_in_no_proxy_are_asked_directly(self):
        for no_proxy in ('localhost,127.0.0.1', 'x,127.0.0.1:{}'.format(self.origin.port)):
            with self.subTest(no_proxy):
                self.assertEqual(BODY,
                                 self.through(self.origin.url + '/body',
                                              http_proxy=self.proxy.address, no_proxy=no_proxy))
                self.assertEqual([], self.proxy.asked)

    def test_a_port_in_no_proxy_lists_only_that_port(self):
        self.assertEqual(BODY, self.through(self.origin.url + '/body', no_proxy='127.0.0.1:1',
                                            http_proxy=self.proxy.address))
        self.assertEqual(1, len(self.proxy.asked))

    def test_a_proxy_that_is_no_http_proxy_is_a_usage_error(self):
        for value in ('socks5://127.0.0.1:1080', 'https://127.0.0.1:3128', 'http://'):
            with self.subTest(value), self.assertRaises(tako.UsageError):
                self.through('http://images.example.com/x', http_proxy=value)


@unittest.skipUnless(certificates.is_possible(), 'NO openssl COMMAND: https IS NOT TESTED')
class TlsTest(NetworkCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = scene.tempfile.mkdtemp()
        cls.authority = certificates.Authority(cls.folder)
        cls.context = cls.authority.context()

    @classmethod
    def tearDownClass(cls):
        scene.remove_tree(cls.folder)
        super().tearDownClass()

    def fetch(self, url, **environ):
        with unittest.mock.patch.dict(os.environ, environ), tako.HttpClient(os.environ) as client:
            return b''.join(client.open(url).chunks)

    def test_a_private_ca_in_ssl_cert_file_is_trusted(self):
        server = self.serve('.', tls=self.context)
        self.assertEqual(BODY,
                         self.fetch(server.url + '/body', SSL_CERT_FILE=self.authority.bundle))

    def test_https_goes_through_a_connect_proxy_with_a_password(self):
        proxy = Proxy(b'')
        self.addCleanup(proxy.close)
        server = self.serve('.', tls=self.context)
        self.assertEqual(BODY, self.fetch(server.url + '/body', SSL_CERT_FILE=self.authority.bundle,
                                          https_proxy='http://u:p@' + proxy.address))
        self.assertEqual([('CONNECT', '127.0.0.1:{}'.format(server.port),
                           'Basic ' + base64.b64encode(b'u:p').decode(), None)], proxy.asked)

    def test_a_refusal_of_connect_is_permanent(self):
        for status, hint in ((407, 'user and password'), (401, 'user and password'),
                             (403, 'the proxy'), (404, 'the proxy')):
            with self.subTest(status):
                proxy = Proxy(b'', status)
                self.addCleanup(proxy.close)
                with self.assertRaises(tako.UnreachableError) as caught:
                    self.fetch('https://127.0.0.1:9/body',
                               https_proxy='http://u:p@' + proxy.address)
                self.assertNotIsInstance(caught.exception, tako.TransientError)
                message = 'through the proxy {}: the proxy refused CONNECT (HTTP status {})'
                self.assertIn(message.format(proxy.address, status), caught.exception.what)
                self.assertIn(hint, caught.exception.hint)

    def test_no_message_repeats_the_password_of_a_proxy(self):
        refusing, app = Proxy(b'', 407), self.config('https://127.0.0.1:9')
        self.addCleanup(refusing.close)
        for address in (refusing.address, '127.0.0.1:9', '127.0.0.1:99999', '[::1:80', ''):
            with self.subTest(address):
                result = self.run_here('fetch', '-v', app,
                                       environ={'https_proxy': 'http://u:hush@' + address},
                                       limits={'PAUSE_BUDGET_SECONDS': 0.0})
                self.assertIn(result.code, (2, 75))
                self.assertNotIn('hush', result.out + result.err)

    def test_a_refusal_of_connect_leaves_no_open_connection(self):
        proxy = Proxy(b'', 403)
        self.addCleanup(proxy.close)
        app = self.config('https://127.0.0.1:9')
        self.assertCode(75, self.run_here('fetch', app,
                                          environ={'https_proxy': 'http://' + proxy.address}))

    def test_a_proxy_that_cannot_reach_the_server_may_be_asked_again(self):
        proxy = Proxy(b'', 503)
        self.addCleanup(proxy.close)
        with self.assertRaises(tako.TransientError):
            self.fetch('https://127.0.0.1:9/body', https_proxy='http://' + proxy.address)

    def assertUntrusted(self, url, why='', **environ):
        with self.assertRaises(tako.UnreachableError) as caught:
            self.fetch(url, **environ)
        self.assertIn('certificate not trusted', caught.exception.what)
        self.assertIn(why, caught.exception.what)
        self.assertIn('ca-certificates is installed', caught.exception.hint)

    def test_an_unknown_ca_is_not_trusted(self):
        self.assertUntrusted(self.serve('.', tls=self.context).url + '/body')

    def hashed(self, *authorities):
        """Make a directory with these CAs by hash, as a system has one. Return its path."""
        path = tempfile.mkdtemp(dir=self.folder)
        for authority in authorities:
            shutil.copy(authority.bundle, path)
            name = subprocess.check_output(['openssl', 'x509', '-noout', '-hash', '-in',
                                            authority.bundle]).decode().strip()
            os.symlink(os.path.basename(authority.bundle), os.path.join(path, name + '.0'))
        return path

    def test_a_ca_in_the_directory_of_the_system_is_trusted(self):
        server = self.serve('.', tls=self.context)
        self.assertEqual(BODY, self.fetch_with_bundle(server.url + '/body', None,
                                                      self.hashed(self.authority)))

    def test_a_ca_in_the_bundle_of_the_system_is_trusted(self):
        os.mkdir(os.path.join(self.folder, 'other'))
        other = certificates.Authority(os.path.join(self.folder, 'other'))
        server = self.serve('.', tls=self.context)
        for directory in (self.hashed(other), self.hashed()):
            self.assertEqual(BODY, self.fetch_with_bundle(server.url + '/body',
                                                          self.authority.bundle, directory))
        with self.assertRaises(tako.UnreachableError) as caught:
            self.fetch_with_bundle(server.url + '/body', None, self.hashed(other))
        self.assertIn('certificate not trusted', caught.exception.what)

    def fetch_with_bundle(self, url, bundle, directory):
        """Fetch a URL on a system with this bundle and directory of CAs."""
        def load(context, *_):
            if bundle:
                context.load_verify_locations(cafile=bundle)
        with unittest.mock.patch.object(ssl.SSLContext, 'load_default_certs',
                                        load), unittest.mock.patch.dict(os.environ):
            os.environ.pop('SSL_CERT_FILE', None)
            return self.fetch(url, SSL_CERT_DIR=directory)

    def test_a_certificate_of_another_name_is_not_trusted(self):
        server = self.serve('.', tls=self.authority.context('DNS:images.example.com'))
        self.assertUntrusted(server.url + '/body', SSL_CERT_FILE=self.authority.bundle)

    def test_a_final_dot_of_the_host_is_not_part_of_the_name_in_the_certificate(self):
        server = self.serve('.', tls=self.authority.context('DNS:images.example.com'))
        address = [(socket.AF_INET, socket.SOCK_STREAM, 0, '', ('127.0.0.1', server.port))]
        with unittest.mock.patch.object(tako, 'resolve', lambda *_: address):
            url = 'https://images.example.com.:{}/body'.format(server.port)
            self.assertEqual(BODY, self.fetch(url, SSL_CERT_FILE=self.authority.bundle))

    def test_an_expired_certificate_is_not_trusted(self):
        server = self.serve('.', tls=self.authority.context(is_expired=True))
        why = 'expired' if sys.version_info >= (3, 7) else ''       # Python 3.6 does not say
        self.assertUntrusted(server.url + '/body', why, SSL_CERT_FILE=self.authority.bundle)

    def test_redirects_from_https_to_http_are_not_followed(self):
        server = self.serve('.', tls=self.context)
        self.origin.faults['/up'] = origin.redirects(server.url + '/body')
        self.assertEqual(BODY,
                         self.fetch(self.origin.url + '/up', SSL_CERT_FILE=self.authority.bundle))
        server.faults['/down'] = origin.redirects(self.origin.url + '/body')
        with self.assertRaises(tako.UnreachableError) as caught:
            self.fetch(server.url + '/down', SSL_CERT_FILE=self.authority.bundle)
        self.assertIn('redirected to http', caught.exception.what)

    def test_tls_before_1_2_is_refused(self):
        context = tako._tls_context(None)
        if hasattr(context, 'minimum_version'):
            lowest = ssl.TLSVersion.TLSv1_2     # novm: guarded
            self.assertGreaterEqual(context.minimum_version, lowest)
        else:
            self.assertTrue(context.options & ssl.OP_NO_TLSv1
                            and context.options & ssl.OP_NO_TLSv1_1)
        self.assertEqual((ssl.CERT_REQUIRED, True), (context.verify_mode, context.check_hostname))

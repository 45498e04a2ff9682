"""Section 12: responses are read from one of a pair of sockets."""
import errno
import socket
import threading
import time
import unittest

import tako

OK = b'HTTP/1.1 200 OK\r\n'


class ConnectionCase(unittest.TestCase):
    def setUp(self):
        stream, self.server = socket.socketpair()
        self.connection = tako.HttpConnection(lambda: stream, tako.Deadline())
        self.addCleanup(stream.close)
        self.addCleanup(self.server.close)

    def answer(self, raw, is_last=True):
        """Send a request and answer it so. Return status, headers, length and body."""
        self.connection.send('/', {})
        self.assertEqual(b'GET / HTTP/1.1\r\n\r\n', self.server.recv(100))
        self.server.sendall(raw)
        if is_last:
            self.server.shutdown(socket.SHUT_WR)
        status, headers = self.connection.read_head()
        length, pieces = self.connection.body(status, headers)
        return status, headers, length, b''.join(pieces)

    def answer_from_thread(self, raw):
        """Do the same for more bytes than the socket buffers hold."""
        self.connection.send('/', {})
        thread = threading.Thread(target=self.server.sendall, args=(raw,))
        thread.start()
        try:
            status, headers = self.connection.read_head()
            length, pieces = self.connection.body(status, headers)
            return status, headers, length, b''.join(pieces)
        finally:
            thread.join()

    def assertAnswers(self, cases):
        for name, raw, expected in cases:
            with self.subTest(name):
                self.setUp()
                self.assertEqual(expected, self.answer(raw))

    def assertRefused(self, cases):
        for name, raw, message in cases:
            with self.subTest(name):
                self.setUp()
                with self.assertRaises(OSError) as caught:
                    self.answer(raw)
                self.assertIn(message, str(caught.exception))


def address_of(listener, family=socket.AF_INET):
    """Return what getaddrinfo() returns for a listening socket."""
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', listener.getsockname()


class ConnectTest(unittest.TestCase):
    def setUp(self):
        self.listener = socket.socket()
        self.addCleanup(self.listener.close)
        self.listener.bind(('127.0.0.1', 0))
        self.listener.listen(5)
        with socket.socket() as closed:
            closed.bind(('127.0.0.1', 0))
            self.refusing = address_of(closed)
        # a family that no machine has: IPv6 is such where it is disabled
        self.impossible = address_of(self.listener, family=9999)

    def test_the_next_address_is_tried_after_a_failure(self):
        good = address_of(self.listener)
        for others in ([], [self.refusing], [self.impossible],
                       [self.impossible, self.refusing, self.impossible]):
            with self.subTest(others):
                stream, address = tako.connect(others + [good], 10.0)
                self.assertEqual((good, self.listener.getsockname()),
                                 (address, stream.getpeername()))
                stream.close()

    def test_connect_raises_the_last_failure(self):
        for addresses, expected in (([self.refusing], errno.ECONNREFUSED),
                                    ([self.impossible], errno.EAFNOSUPPORT),
                                    ([self.impossible, self.refusing], errno.ECONNREFUSED)):
            with self.subTest(addresses), self.assertRaises(OSError) as caught:
                tako.connect(addresses, 10.0)
            self.assertEqual(expected, caught.exception.errno)


class HeadTest(ConnectionCase):
    def test_valid_status_lines_and_headers_are_read(self):
        self.assertAnswers([
            (name, head + b'Content-Length: 2\r\n' + more + b'\r\nok',
             (200, dict({'content-length': '2'}, **headers), 2, b'ok'))
            for name, head, more, headers in [
                ('plain', OK, b'', {}),
                ('no reason', b'HTTP/1.1 200\r\n', b'', {}),
                ('HTTP/1.0', b'HTTP/1.0 200 OK\r\n', b'', {}),
                ('bare line feeds', b'HTTP/1.1 200 OK\n', b'', {}),
                ('an empty value', OK, b'ETag:\r\n', {'etag': ''}),
                ('spaces about a value', OK, b'ETag: \t"x" \t\r\n', {'etag': '"x"'}),
                ('a name that comes twice', OK, b'Via: a\r\nvia: b\r\n', {'via': 'a, b'}),
                ('a header that comes twice', OK, b'ETag: "x"\r\nVia: a\r\nETag: "x" \r\n',
                 {'etag': '"x"', 'via': 'a'}),
                ('bytes beyond ASCII', OK, b'Via: \xe4\r\n', {'via': '\xe4'}),
            ]])

    def test_lines_that_are_no_headers_are_ignored(self):
        for line in (b'X-Frame-Options : x', b'no colon', b'N\xc3\xa4me: x', b': x', b' folded: x',
                     b'a b: x', b'\0'):
            for lines in (line + b'\r\nContent-Length: 2\r\n',
                          b'Content-Length: 2\r\n' + line + b'\r\n'):
                with self.subTest(lines):
                    self.setUp()
                    self.assertEqual((200, {'content-length': '2'}, 2, b'ok'),
                                     self.answer(OK + lines + b'\r\nok'))

    def test_interim_responses_are_ignored(self):
        final = OK + b'Content-Length: 2\r\n\r\nok'
        for interim in (b'HTTP/1.1 100 Continue\r\n\r\n', b'HTTP/1.1 102 Processing\r\n\r\n' * 3,
                        b'HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\nLink: </x>\r\n\r\n',
                        b'HTTP/1.1 199 \r\n\r\n'):
            with self.subTest(interim):
                self.setUp()
                self.assertEqual((200, {'content-length': '2'}, 2, b'ok'),
                                 self.answer(interim + final))

    def test_many_and_long_headers_are_read(self):
        lines = b''.join(b'X-%d: y\r\n' % number for number
                         in range(1000)) + b'Long: ' + b'x' * 70000 + b'\r\n'
        self.assertEqual(b'ok', self.answer(OK + lines + b'Content-Length: 2\r\n\r\nok')[3])

    def test_long_runs_of_spaces_are_read_in_linear_time(self):
        """A regular expression that backtracks takes quadratic time: minutes here."""
        spaces = b' ' * 100000
        for line in (b'X: a' + spaces + b'b', b'X:' + spaces + b'a' + spaces, spaces + b'X: a',
                     b'X' + spaces + b': a'):
            with self.subTest(line[:4]):
                self.setUp()
                began = time.process_time()
                self.assertEqual(b'ok', self.answer_from_thread(
                    OK + line + b'\r\nContent-Length: 2\r\n\r\nok')[3])
                self.assertLess(time.process_time() - began, 2.0)
        self.setUp()
        with self.assertRaisesRegex(OSError, 'invalid Content-Length'):
            self.answer_from_thread(OK + b'Content-Length: 1' + spaces + b'2\r\n\r\nok')

    def test_invalid_responses_are_refused(self):
        self.assertRefused([
            ('nothing', b'', 'ended within the headers'),
            ('a line without an end', OK[:-2], 'ended within the headers'),
            ('headers without an end', OK + b'Content-Length: 2\r\n', 'ended within the headers'),
            ('another protocol', b'SSH-2.0-x\r\n', 'invalid HTTP response'),
            ('HTTP/2', b'HTTP/2 200 OK\r\n\r\n', 'invalid HTTP response'),
            ('a status of two digits', b'HTTP/1.1 20 OK\r\n\r\n', 'invalid HTTP response'),
            ('a status of four digits', b'HTTP/1.1 2000 OK\r\n\r\n', 'invalid HTTP response'),
            ('an empty line', b'\r\n', 'invalid HTTP response'),
        ])


class BodyTest(ConnectionCase):
    def test_bodies_of_each_framing_are_read(self):
        self.assertAnswers([
            (name, OK + head + b'\r\n' + body, (200, headers, length, b'ok'))
            for name, head, headers, length, body in [
                ('to the end', b'', {}, None, b'ok'),
                ('the same length twice', b'Content-Length: 2, 2\r\n', {'content-length': '2, 2'},
                 2, b'ok'),
                ('in two headers', b'Content-Length: 2\r\n' * 2, {'content-length': '2'}, 2, b'ok'),
                ('in two headers, of two spellings',
                 b'Content-Length: 2\r\nContent-Length:2, 2\r\n',
                 {'content-length': '2, 2, 2'}, 2, b'ok'),
                ('chunks', b'Transfer-Encoding: chunked\r\n', {'transfer-encoding': 'chunked'},
                 None,
                 b'1\r\no\r\n01;x=y\r\nk\r\n0\r\n\r\n'),
                ('chunks, whatever the length',
                 b'Transfer-Encoding: Chunked\r\nContent-Length: 1\r\n',
                 {'transfer-encoding': 'Chunked', 'content-length': '1'}, None,
                 b'2 \nok\n0\nTrailer: x\n\n'),
            ]])

    def test_responses_without_a_body_are_read(self):
        for status in (204, 304):
            with self.subTest(status):
                self.setUp()
                raw = b'HTTP/1.1 %d \r\nContent-Length: 9\r\n\r\n' % status
                self.assertEqual((status, {'content-length': '9'}, 0, b''),
                                 self.answer(raw, is_last=False))
                self.assertTrue(self.connection.reuse())

    def test_invalid_framing_is_refused(self):
        chunked = OK + b'Transfer-Encoding: chunked\r\n\r\n'
        self.assertRefused([
            ('a body cut off', OK + b'Content-Length: 3\r\n\r\nok', 'ended 1 byte early'),
            ('two lengths', OK + b'Content-Length: 2\r\nContent-Length: 3\r\n\r\nok',
             'invalid Content-Length'),
            ('a length below 0', OK + b'Content-Length: -2\r\n\r\nok', 'invalid Content-Length'),
            ('a length with a sign', OK + b'Content-Length: +2\r\n\r\nok',
             'invalid Content-Length'),
            ('another coding', OK + b'Transfer-Encoding: gzip, chunked\r\n\r\n',
             'Transfer-Encoding gzip, chunked'),
            ('no chunks', chunked, 'ended within the headers'),
            ('a chunk cut off', chunked + b'3\r\nok', '1 byte early'),
            ('a longer chunk', chunked + b'1\r\nok\r\n0\r\n\r\n', 'invalid end of a chunk'),
            ('a size that is no number', chunked + b'x\r\nok\r\n', 'invalid size of a chunk'),
            ('a size with a sign', chunked + b'+2\r\nok\r\n', 'invalid size of a chunk'),
            ('a size without an end', chunked + b'0' * 17 + b'2\r\nok\r\n',
             'invalid size of a chunk'),
            ('no last chunk', chunked + b'2\r\nok\r\n', 'ended within the headers'),
        ])

    def test_headers_chunks_and_trailers_without_end_are_refused(self):
        chunked = OK + b'Transfer-Encoding: chunked\r\n\r\n'
        for name, begin, piece in [
                ('headers', OK, b'X: y\r\n'),
                ('a header', OK + b'X: ', b'x' * 100),
                ('interim answers', b'', b'HTTP/1.1 103 \r\n\r\n'),
                ('an extension of a chunk', chunked + b'1;', b'x' * 100),
                ('trailers', chunked + b'0\r\n', b'X: y\r\n')]:
            with self.subTest(name):
                self.setUp()
                self.connection.send('/', {})
                thread = threading.Thread(target=send_without_end,
                                          args=(self.server, begin, piece * 1000))
                thread.start()
                try:
                    with self.assertRaisesRegex(OSError, 'too many bytes of headers or framing'):
                        status, headers = self.connection.read_head()
                        b''.join(self.connection.body(status, headers)[1])
                finally:
                    self.connection.close()
                    thread.join()


    def test_a_line_without_end_after_a_large_body_is_refused(self):
        """The allowance for framing grows with the body, but not the memory for one line."""
        begin = OK + b'Transfer-Encoding: chunked\r\n\r\n100000\r\n' + bytes(1 << 20) + b'\r\n1;'
        self.connection.send('/', {})
        thread = threading.Thread(target=send_without_end, args=(self.server, begin, b'x' * 100000))
        thread.start()
        try:
            status, headers = self.connection.read_head()
            pieces, size = self.connection.body(status, headers)[1], 0
            with self.assertRaisesRegex(OSError, 'a line of framing is too long'):
                for piece in pieces:
                    size += len(piece)
            self.assertEqual(1 << 20, size)
        finally:
            self.connection.close()
            thread.join()

    def test_has_end_tells_whether_a_truncated_body_shows(self):
        for headers, has_end in (({}, False), ({'transfer-encoding': 'identity'}, False),
                                 ({'transfer-encoding': 'Chunked'}, True)):
            with self.subTest(headers):
                self.assertIs(has_end, tako.Answer('', 200, headers, None, iter(())).has_end())
        self.assertTrue(tako.Answer('', 200, {}, 0, iter(())).has_end())


def send_without_end(stream, begin, piece):
    """Send `begin`, and then `piece` until the other side closes the connection."""
    try:
        stream.sendall(begin)
        while True:
            stream.sendall(piece)
    except OSError:
        pass


class KeepTest(ConnectionCase):
    def test_a_connection_takes_another_request_after_a_whole_response(self):
        length = b'Content-Length: 2\r\n'
        for name, raw, is_idle in [
                ('read to its end', OK + length + b'\r\nok', True),
                ('closed by the server', OK + length + b'Connection: close\r\n\r\nok', False),
                ('one option among others', OK + length + b'Connection: x, Close\r\n\r\nok', False),
                ('HTTP/1.0', b'HTTP/1.0 200 OK\r\n' + length + b'\r\nok', False),
                ('HTTP/1.0 that stays',
                 b'HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n' + length + b'\r\nok', True),
                ('something comes after it', OK + length + b'\r\nok!', False),
                ('chunks', OK + b'Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n', True)]:
            with self.subTest(name):
                self.setUp()
                self.assertEqual(b'ok', self.answer(raw, is_last=False)[3])
                self.assertEqual(is_idle, self.connection.reuse())

    def test_a_connection_with_an_unread_body_takes_no_request(self):
        self.connection.send('/', {})
        self.server.sendall(OK + b'Content-Length: 2\r\n\r\nok')
        status, headers = self.connection.read_head()
        self.connection.body(status, headers)
        self.assertFalse(self.connection.reuse())

    def test_a_connection_that_ends_later_takes_no_request(self):
        self.answer(OK + b'Content-Length: 2\r\n\r\nok', is_last=False)
        self.server.close()
        self.assertFalse(self.connection.reuse())

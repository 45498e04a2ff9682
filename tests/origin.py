"""A publisher and its web server, which a test gives faults.

    origin = Origin(directory)
    origin.faults['/manifest'] = status(404)

A fault is a function that answers a request in place of the server. It gets the handler, whose
`body` is what an honest server sends (None if there is no such file).

A server supports ranges and ETags only if `has_ranges`, `has_several` and `etag` say so.
"""
import hashlib
import http.server
import io
import os
import re
import socket
import socketserver
import threading
import time

import tako

SEED = b'test-key-very-security-such-safe'
OTHER_SEED = b'another-key-that-nobody-has-seen'
PUBLIC_KEY = tako.encode_base64(tako.ed25519_public_key(SEED))
OTHER_PUBLIC_KEY = tako.encode_base64(tako.ed25519_public_key(OTHER_SEED))


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


def entry_of(version, content):
    return tako.Entry(tako.parse_version(version), len(content), digest_of(content))


def write(path, content):
    """Write a file, even over a read-only one."""
    if os.path.exists(path):
        os.chmod(path, 0o644)
    with open(path, 'wb') as stream:
        stream.write(content)


class Publisher:
    """A directory that a server serves, and the entries published in it."""

    def __init__(self, directory, seed=SEED):
        self.directory = directory
        self.seed = seed
        self.entries = []
        os.makedirs(os.path.join(directory, 'store'), exist_ok=True)

    def publish(self, version, content):
        """Add an image, as an honest publisher does. Return its entry."""
        entry = entry_of(version, content)
        self.write('store/' + entry.digest, content)
        self.entries = sorted(self.entries + [entry])
        self.sign()
        return entry

    def index(self, entry, method=tako.BY_CONTENT, average=tako.CHUNK_AVERAGE_BYTES):
        """Add the chunk index of an image. Return its path under the origin."""
        made = tako.index_image(io.BytesIO(self.read('store/' + entry.digest)).read, method,
                                average)
        self.write('store/{}.chunks'.format(entry.digest), tako.format_index(made))
        return '/store/{}.chunks'.format(entry.digest)

    def sign(self):
        """Write the manifest of self.entries, whatever they say."""
        self.sign_body(tako.MANIFEST_HEADER
                       + ''.join(entry.line() for entry in self.entries).encode() + b'\n')

    def sign_body(self, body):
        signature = tako.ed25519_sign(self.seed, body)
        self.write('manifest', body + tako.encode_base64(signature).encode() + b'\n')

    def write(self, name, content):
        write(os.path.join(self.directory, name), content)

    def read(self, name):
        with open(os.path.join(self.directory, name), 'rb') as stream:
            return stream.read()


class Origin(Publisher):
    """A publisher whose directory is served on loopback while the `with` lasts."""

    def __init__(self, directory, seed=SEED, tls=None, host='127.0.0.1', port=0, is_serial=False):
        super().__init__(directory, seed)
        self.faults = {}            # path -> the fault that answers requests for it; '*' for all
        self.requests = []          # (path, headers), in order
        self.answers = []           # (path, status, bytes of the body that were sent), in order
        self.has_ranges = False     # answer a Range with 206 or 416, and heed If-Range
        self.has_several = False    # answer a request for several ranges in parts
        self.etag = None            # a function that returns the ETag of a body
        self.released = threading.Event()       # what holds() waits for
        self.connections = 0
        self.floods = []            # for each answer without end: a list with the bytes sent
        kind = _SerialServer if is_serial else _Server6 if ':' in host else _Server
        self._server = kind((host, port), _Handler)
        self._server.origin = self
        self.scheme = 'http'
        if tls is not None:
            self.scheme = 'https'
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True,
                                                  do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = '{}://{}:{}'.format(self.scheme, '[{}]'.format(host) if ':' in host else host,
                                       self.port)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02},
                         daemon=True).start()
        return self

    def __exit__(self, *error):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def flood(self):
        """Begin an answer without end. Return the list in which to count its bytes."""
        self.floods.append([0])
        return self.floods[-1]

    @property
    def endless_bytes(self):
        """Return the bytes that endless() and floods() have sent in all answers."""
        return sum(sent for sent, in self.floods)

    def paths(self):
        """Return the paths of all requests, in order."""
        return [path for path, _ in self.requests]

    def asked(self, path, header):
        """Return this header of each request for a path, in order; None if it has none."""
        return [headers.get(header) for each, headers in self.requests if each == path]

    def served(self, path):
        """Return (status, bytes of the body sent) of each answer for a path, in order."""
        return [(code, size) for each, code, size in self.answers if each == path]


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass                        # tests have clients that hang up


class _SerialServer(_Server):
    """A server that serves one connection at a time, to its end, while others wait."""

    def process_request(self, request, client_address):
        http.server.HTTPServer.process_request(self, request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    timeout = 30

    def setup(self):
        super().setup()
        self.server.origin.connections += 1

    def do_GET(self):
        origin = self.server.origin
        origin.requests.append((self.path, dict(self.headers.items())))
        fault = origin.faults.get(self.path) or origin.faults.get('*')
        if fault is not None:
            fault(self)
        else:
            self.serve()

    @property
    def body(self):
        try:
            return self.server.origin.read(self.path.lstrip('/'))
        except OSError:
            return None

    def serve(self, drop_at=None, is_chunked=False):
        """Answer honestly, and hang up after drop_at bytes of the body if that is given."""
        origin, body, headers = self.server.origin, self.body, []
        if body is None:
            self.answer(404, b'not here\n')
            return
        if origin.etag is not None:
            headers.append(('ETag', origin.etag(body)))
            if self.headers.get('If-None-Match') == origin.etag(body):
                self.answer(304, b'', headers)
                return
        code, ranges = 200, self.ranges(len(body))
        if origin.has_ranges and ranges and self.headers.get('If-Range') in (None,
                                                                             self.etag_of(body)):
            if ranges[0][0] >= len(body):
                self.answer(416, b'', headers + [('Content-Range', 'bytes */{}'.format(len(body)))])
                return
            ranges = joined(ranges)
            if len(ranges) == 1 or origin.has_several:
                code, body, more = in_ranges(ranges, body)
                headers += more
        self.answer(code, body[:drop_at], headers, len(body), is_chunked)
        if drop_at is not None and drop_at < len(body):
            self.hang_up()

    def etag_of(self, body):
        return self.server.origin.etag and self.server.origin.etag(body)

    def ranges(self, size):
        """Return the requested ranges of so many bytes, as [(begin, end)]; empty for the whole."""
        found = re.findall('[=,]([0-9]+)-([0-9]*)', self.headers.get('Range', ''))
        return [(int(begin), min(int(last) + 1, size) if last else size) for begin, last in found]

    @property
    def first_byte(self):
        """Return the first requested byte; None if the client requests the whole."""
        return self.ranges(0)[0][0] if self.ranges(0) else None

    def answer(self, code, body, headers=(), length=None, is_chunked=False):
        """Send a whole answer. length: the Content-Length, if it is to be wrong."""
        is_whole = length in (None, len(body))
        # Note the answer before the client can have it.
        self.server.origin.answers.append((self.path, code, len(body)))
        self.send_response(code)
        if is_chunked:
            self.send_header('Transfer-Encoding', 'chunked')
            body = b''.join(_chunk(body[start:start + 1000]) for start in range(0, len(body), 1000))
            body += b'0\r\n\r\n' if is_whole else b''
        elif code != 304:
            self.send_header('Content-Length', str(len(body) if length is None else length))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self):
        self.wfile.flush()
        self.close_connection = True

    def hold(self):
        """Send nothing more until the origin is released; then hang up."""
        self.wfile.flush()
        self.server.origin.released.wait(30)
        self.hang_up()

    def log_message(self, *arguments):
        pass


def joined(ranges):
    """Return the ranges with adjacent ones joined, as Apache does."""
    found = []
    for begin, end in ranges:
        if found and found[-1][1] == begin:
            found[-1] = found[-1][0], end
        else:
            found.append((begin, end))
    return found


def in_ranges(ranges, body, boundary='THIS_SEPARATES'):
    """Return status, body and headers of an answer with these ranges of the body."""
    if len(ranges) == 1:
        begin, end = ranges[0]
        return 206, body[begin:end], [('Content-Range',
                                       'bytes {}-{}/{}'.format(begin, end - 1, len(body)))]
    parts = ['\r\n--{}\r\nContent-Type: x/y\r\nContent-Range: bytes {}-{}/{}\r\n\r\n'.format(
        boundary, begin, end - 1, len(body)).encode() + body[begin:end] for begin, end in ranges]
    return (206, b''.join(parts) + '\r\n--{}--\r\n'.format(boundary).encode(),
            [('Content-Type', 'multipart/byteranges; boundary=' + boundary)])


def _chunk(piece):
    return '{:x}\r\n'.format(len(piece)).encode() + piece + b'\r\n'


# ---- faults

def status(code, body=b'no\n', headers=()):
    """Answer with this status."""
    return lambda handler: handler.answer(code, body, headers)


def serves(body, headers=()):
    """Send other bytes than those of the file."""
    return lambda handler: handler.answer(200, body, headers)


def redirects(url, code=302):
    """Redirect to this URL."""
    return status(code, b'', [('Location', url)])


def hangs_up(handler):
    """Read the request and close the connection."""
    handler.hang_up()


def talks_nonsense(handler):
    """Answer something that is not HTTP."""
    handler.wfile.write(b'220 mail.example.com ESMTP\r\n\r\n')
    handler.hang_up()


def cuts(at):
    """Announce the whole length and hang up after so many bytes."""
    def fault(handler):
        handler.answer(200, handler.body[:at], length=len(handler.body))
        handler.hang_up()
    return fault


def chunked(transform=lambda body: body, finish=True):
    """Send the body in chunks of a thousand bytes, without a length."""
    def fault(handler):
        handler.send_response(200)
        handler.send_header('Transfer-Encoding', 'chunked')
        handler.end_headers()
        body = transform(handler.body)
        for start in range(0, len(body), 1000):
            piece = body[start:start + 1000]
            handler.wfile.write('{:x}\r\n'.format(len(piece)).encode() + piece + b'\r\n')
        if finish:
            handler.wfile.write(b'0\r\n\r\n')
        else:
            handler.hang_up()
    return fault


def until_closed(handler):
    """Send the body without a length, as HTTP/1.0 servers do."""
    handler.send_response(200)
    handler.send_header('Connection', 'close')
    handler.end_headers()
    handler.wfile.write(handler.body)
    handler.hang_up()


def endless(handler):
    """Send the body and then more, until the client hangs up. Count the bytes."""
    handler.send_response(200)
    handler.send_header('Connection', 'close')
    handler.end_headers()
    block, sent = b'\n' * 65536, handler.server.origin.flood()
    try:
        handler.wfile.write(handler.body)
        for _ in range((1 << 30) // len(block)):
            handler.wfile.write(block)
            sent[0] += len(block)
    except OSError:
        pass
    handler.hang_up()


def slowly(rate):
    """Send the file or the requested ranges, at so many bytes a second."""
    def fault(handler):
        ranges = handler.ranges(len(handler.body))
        code, body, headers = in_ranges(ranges, handler.body) if ranges else (200, handler.body, [])
        handler.send_response(code)
        for name, value in headers + [('Content-Length', str(len(body)))]:
            handler.send_header(name, value)
        handler.end_headers()
        for start in range(0, len(body), rate // 50):
            handler.wfile.write(body[start:start + rate // 50])
            time.sleep(0.02)
    return fault


def first(times, fault):
    """Answer so many requests with the fault, and further ones honestly."""
    left = [fault] * times

    def fault_then_honest(handler):
        if left:
            left.pop()(handler)
        else:
            handler.serve()
    return fault_then_honest


def drops(at, is_chunked=False):
    """Answer honestly, and hang up after so many bytes of the body."""
    return lambda handler: handler.serve(at, is_chunked)


def holds(at):
    """Announce the whole, send so many bytes, and then nothing until the origin is released."""
    def fault(handler):
        handler.answer(200, handler.body[:at], length=len(handler.body))
        handler.hold()
    return fault


def if_ranged(answer):
    """Answer requests for a range with answer(handler, first byte), others honestly."""
    def fault(handler):
        if handler.first_byte is None:
            handler.serve()
        else:
            answer(handler, handler.first_byte)
    return fault


def floods(head, piece, seconds=0.0, most=1 << 28):
    """Send head, and then piece again and again, with pauses, until the client hangs up.

    Count the bytes in origin.floods. End after `most` bytes or 20 seconds.
    """
    def fault(handler):
        left, began, sent = most, time.monotonic(), handler.server.origin.flood()
        try:
            handler.wfile.write(head)
            while left > 0 and time.monotonic() < began + 20:
                handler.wfile.write(piece)
                handler.wfile.flush()
                left -= len(piece)
                sent[0] += len(piece)
                if seconds and handler.server.origin.released.wait(seconds):
                    break
        except OSError:
            pass
        handler.hang_up()
    return fault

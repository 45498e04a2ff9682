"""A publisher and its web server, whose faults are switched on by case.

    origin = Origin(directory)
    origin.faults['/manifest'] = status(404)

A fault is a function that answers a request in the server's place; it gets the handler, whose
`body` is what an honest server would send (None where it has nothing).

An honest server knows neither ranges nor validators, unless `has_ranges`, `has_several` and `etag` say so.
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
    """Write a file, though it may be there and read-only."""
    if os.path.exists(path):
        os.chmod(path, 0o644)
    with open(path, 'wb') as stream:
        stream.write(content)


class Publisher:
    """A directory that a server serves, and the entries that were published in it."""

    def __init__(self, directory, seed=SEED):
        self.directory = directory
        self.seed = seed
        self.entries = []
        os.makedirs(os.path.join(directory, 'store'), exist_ok=True)

    def publish(self, version, content):
        """Add an image, as an honest publisher does; its entry."""
        entry = entry_of(version, content)
        self.write('store/' + entry.digest, content)
        self.entries = sorted(self.entries + [entry])
        self.sign()
        return entry

    def index(self, entry, method=tako.BY_CONTENT, average=tako.CHUNK_AVERAGE_BYTES):
        """Add the chunk index of an image; its path under the origin."""
        made = tako.index_image(io.BytesIO(self.read('store/' + entry.digest)).read, method, average)
        self.write('store/{}.chunks'.format(entry.digest), tako.format_index(made))
        return '/store/{}.chunks'.format(entry.digest)

    def sign(self):
        """Write the manifest of self.entries, whatever they say."""
        self.sign_body(tako.MANIFEST_HEADER + ''.join(entry.line() for entry in self.entries).encode() + b'\n')

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
        self.faults = {}            # path -> what answers in the server's place
        self.requests = []          # (path, headers), in order
        self.answers = []           # (path, status, bytes of the body that were sent), in order
        self.has_ranges = False     # answer a Range with 206 or 416, and heed If-Range
        self.has_several = False    # answer a request for several ranges in parts, not with the whole
        self.etag = None            # body -> the ETag that it is served with, for which If-None-Match may ask
        self.released = threading.Event()       # what holds() waits for
        self.connections = 0
        self.floods = []            # a list of one number for each answer of endless() and floods(): bytes sent
        kind = _SerialServer if is_serial else _Server6 if ':' in host else _Server
        self._server = kind((host, port), _Handler)
        self._server.origin = self
        self.scheme = 'http'
        if tls is not None:
            self.scheme = 'https'
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = '{}://{}:{}'.format(self.scheme, '[{}]'.format(host) if ':' in host else host, self.port)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def flood(self):
        """Begin an answer without end; return the list in which to count its bytes."""
        self.floods.append([0])
        return self.floods[-1]

    @property
    def endless_bytes(self):
        """Bytes that endless() and floods() have sent, in all answers."""
        return sum(sent for sent, in self.floods)

    def paths(self):
        """What was asked for, in order."""
        return [path for path, _ in self.requests]

    def asked(self, path, header):
        """What this header was in each request for path, in order; None where there was none."""
        return [headers.get(header) for each, headers in self.requests if each == path]

    def served(self, path):
        """(status, bytes of the body that were sent) of each answer for path, in order."""
        return [(code, size) for each, code, size in self.answers if each == path]


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass                        # clients that hang up are part of the tests


class _SerialServer(_Server):
    """A server that serves one connection at a time, as long as that lasts; others wait."""

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
        """Answer honestly; or hang up after drop_at bytes of the body."""
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
        if origin.has_ranges and ranges and self.headers.get('If-Range') in (None, self.etag_of(body)):
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
        """[(first byte, byte after the last)] that the client asks for, of so many; empty if it asks for the whole."""
        found = re.findall('[=,]([0-9]+)-([0-9]*)', self.headers.get('Range', ''))
        return [(int(begin), min(int(last) + 1, size) if last else size) for begin, last in found]

    @property
    def first_byte(self):
        """From which byte on the client asks for the body; None if it asks for the whole."""
        return self.ranges(0)[0][0] if self.ranges(0) else None

    def answer(self, code, body, headers=(), length=None, is_chunked=False):
        """Send a whole answer; length: what to announce, if it is not the truth."""
        is_whole = length in (None, len(body))
        self.server.origin.answers.append((self.path, code, len(body)))     # before the client can have it
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
        """Send nothing more for as long as the origin is not released; then hang up."""
        self.wfile.flush()
        self.server.origin.released.wait(30)
        self.hang_up()

    def log_message(self, *arguments):
        pass


def joined(ranges):
    """Ranges of which those that touch are one, as Apache answers."""
    found = []
    for begin, end in ranges:
        if found and found[-1][1] == begin:
            found[-1] = found[-1][0], end
        else:
            found.append((begin, end))
    return found


def in_ranges(ranges, body, boundary='THIS_SEPARATES'):
    """Status, body and headers of an answer with these ranges of the body."""
    if len(ranges) == 1:
        begin, end = ranges[0]
        return 206, body[begin:end], [('Content-Range', 'bytes {}-{}/{}'.format(begin, end - 1, len(body)))]
    parts = ['\r\n--{}\r\nContent-Type: x/y\r\nContent-Range: bytes {}-{}/{}\r\n\r\n'.format(
        boundary, begin, end - 1, len(body)).encode() + body[begin:end] for begin, end in ranges]
    return (206, b''.join(parts) + '\r\n--{}--\r\n'.format(boundary).encode(),
            [('Content-Type', 'multipart/byteranges; boundary=' + boundary)])


def _chunk(piece):
    return '{:x}\r\n'.format(len(piece)).encode() + piece + b'\r\n'


# ---- faults

def status(code, body=b'no\n', headers=()):
    """Answers with this status."""
    return lambda handler: handler.answer(code, body, headers)


def serves(body, headers=()):
    """Serves other bytes in place of the file's."""
    return lambda handler: handler.answer(200, body, headers)


def redirects(url, code=302):
    """Sends the client elsewhere."""
    return status(code, b'', [('Location', url)])


def hangs_up(handler):
    """Takes the request and closes the connection without a word."""
    handler.hang_up()


def talks_nonsense(handler):
    """Answers something that is not HTTP."""
    handler.wfile.write(b'220 mail.example.com ESMTP\r\n\r\n')
    handler.hang_up()


def cuts(at):
    """Announces the whole length and hangs up after some bytes."""
    def fault(handler):
        handler.answer(200, handler.body[:at], length=len(handler.body))
        handler.hang_up()
    return fault


def chunked(transform=lambda body: body, finish=True):
    """Sends the body in chunks of a thousand bytes, without a length."""
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
    """Sends the body without any length, as HTTP/1.0 servers do."""
    handler.send_response(200)
    handler.send_header('Connection', 'close')
    handler.end_headers()
    handler.wfile.write(handler.body)
    handler.hang_up()


def endless(handler):
    """Sends the body, and then more, for as long as the client takes it; counts what was sent."""
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
    """Sends the file, or the ranges of it that are asked for, at so many bytes a second."""
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
    """The fault for so many requests, and then an honest server."""
    left = [fault] * times

    def fault_then_honest(handler):
        if left:
            left.pop()(handler)
        else:
            handler.serve()
    return fault_then_honest


def drops(at, is_chunked=False):
    """Serves honestly, and hangs up after so many bytes of the body, whatever was asked for."""
    return lambda handler: handler.serve(at, is_chunked)


def holds(at):
    """Announces the whole, sends so many bytes of it, and then nothing, for as long as the origin is not released."""
    def fault(handler):
        handler.answer(200, handler.body[:at], length=len(handler.body))
        handler.hold()
    return fault


def if_ranged(answer):
    """Whoever asks for a range is answered so, with the first byte that was asked for; all others honestly."""
    def fault(handler):
        if handler.first_byte is None:
            handler.serve()
        else:
            answer(handler, handler.first_byte)
    return fault


def floods(head, piece, seconds=0.0, most=1 << 28):
    """Sends head, and then piece over and over, with pauses between, for as long as the client takes it.

    Counts the bytes that went, in origin.floods; ends by itself after most of them, or 20 seconds.
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

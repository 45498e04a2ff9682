"""The targets of fuzzing: each parser of tako.py, what it may raise, and what holds of its results.

`parse` of a target gets any bytes, and may raise only what it `allows`. Then `holds` checks the
result, and may raise nothing. The seeds are honest inputs, from which the fuzzer makes others.
"""
import collections
import datetime
import functools
import io
import lzma
import os
import re
import socket
import zlib

from test_versions import naive_order, naive_parts, naive_prefix, naive_range

import tako

SEED = b'test-key-very-security-such-safe'
PUBLIC_KEY = tako.ed25519_public_key(SEED)
MESSAGE = b'a message'
SIGNATURE = tako.ed25519_sign(SEED, MESSAGE)
DIGESTS = [number * 64 for number in '0123456789abcdef']
OLD = bytes(range(256)) * 12 + b'tree ' * 400
NEW = OLD[:900] + b'between' * 9 + bytes(byte ^ (number % 97 == 0) for number,
                                         byte in enumerate(OLD[1000:2000]))
URL = 'https://images.example.com/app/manifest'
BETWEEN_ANSWERS = b'\r\n=-=-=\r\n'          # separates the answers of connections in an input
ASKED = ({}, {'Range': 'bytes=0-9'}, {'If-None-Match': '"e"'})

Target = collections.namedtuple('Target', ('parse', 'allows', 'holds', 'seeds', 'max_bytes'))


def lines(data, count):
    """Return the first `count` lines of an input as texts."""
    found = data.decode('latin-1').split('\n', count - 1)
    return found + [''] * (count - len(found))


def versions_hold(parsed, data):
    texts = lines(data, 2)
    assert [str(each) for each in parsed] == texts, 'a version is spelled otherwise now'
    assert all(naive_parts(text) for text in texts), 'a version of no parts'
    one, other = parsed
    order = naive_order(*texts)
    assert (one < other, one == other, one > other) == (order < 0, order == 0,
                                                        order > 0), 'not the naive order'
    assert order or hash(one) == hash(other), 'two hashes of one version'


def parse_pattern(data):
    pattern, text = lines(data, 2)
    return tako.parse_pattern(pattern), tako.parse_version(text)


def pattern_holds(parsed, data):
    bounds, version = parsed
    pattern, text = lines(data, 2)
    spelled = pattern.split()
    if len(spelled) > 1:
        expected = naive_range(spelled[0], spelled[4], text)
    elif '*' in pattern:
        assert re.fullmatch('([^*]*[._-])?[*]', pattern), 'a star that is not all of the last part'
        expected = naive_prefix(pattern[:-1], text)
    else:
        expected = naive_order(pattern, text) == 0
    assert (version in bounds) is expected, 'not the naive bounds'
    assert bounds.text == pattern, 'a pattern is spelled otherwise now'


def secret_key_holds(seed, data):
    assert tako.format_secret_key(seed) == data.decode(
        'latin-1'), 'a second spelling of a secret key'


def public_key_holds(key, data):
    assert tako.encode_base64(key) == data.decode('latin-1'), 'a second spelling of a public key'


def verify_signature(data):
    return tako.ed25519_verify(data[:32], data[96:], data[32:96])


def signature_holds(is_accepted, data):
    is_ours = data == PUBLIC_KEY + SIGNATURE + MESSAGE
    assert is_accepted is is_ours, 'a forgery, or an honest signature that is refused'


def manifest_text(manifest):
    return tako.MANIFEST_HEADER + ''.join(entry.line() for entry
                                          in manifest.entries).encode('ascii') + b'\n'


def parse_body(data):
    return tako.Manifest(tuple(tako._parse_entries(tako.MANIFEST_HEADER + data, 'here')))


def body_holds(manifest, data):
    assert manifest_text(manifest) == tako.MANIFEST_HEADER + data, 'a second spelling of a manifest'
    order = [entry.version for entry in manifest.entries]
    assert all(one < other for one, other in zip(order, order[1:])), 'a manifest out of order'
    assert all(0 <= entry.size <= tako.IMAGE_MAX_BYTES for entry
               in manifest.entries), 'an impossible size'


def signed_holds(manifest, data):
    assert tako.seal_manifest(manifest, SEED) == data, 'what was opened is sealed otherwise'


def manifest(*entries):
    return tako.Manifest(tuple(tako.Entry(tako.parse_version(version), size, digest) for version,
                               size, digest in entries))


MANIFESTS = [manifest(), manifest(('1.0.0', 17, DIGESTS[9])),
             manifest(('1.0-beta', 0, DIGESTS[0]), ('1', 1, DIGESTS[1]),
                      ('2_0.1', tako.IMAGE_MAX_BYTES, DIGESTS[15]))]


def parse_index(data):
    return tako.parse_index(data[8:], int.from_bytes(data[:8], 'little'))


def parse_unpacked_index(data):
    return tako.parse_index(*packed_index(data))


def packed_index(data):
    """Return an index and the size of its image, of an input with uncompressed chunk sizes."""
    import struct
    import zlib
    head, rest, count = bytearray(data[8:8 + tako.INDEX_FORMAT_BYTES]), data[42:], int.from_bytes(
        data[40:42], 'little') % 1000
    hashes, sizes = rest[:count * tako.CHUNK_HASH_BYTES], rest[count * tako.CHUNK_HASH_BYTES:]
    size, planes = int.from_bytes(data[:8], 'little'), zlib.compress(sizes)
    # use the sum of the sizes, which a fuzzer hardly finds
    if size == 0:
        size = sum(byte << 8 * (at // count) for at, byte in enumerate(sizes[:3 * count]))
    if len(head) == tako.INDEX_FORMAT_BYTES:
        struct.pack_into('<BIQ', head, 11, 0, int.from_bytes(head[12:16], 'little'), size)
        struct.pack_into('<II', head, 24, count, len(planes) if head[8] else 0)
    return bytes(head) + (planes if head[8:9] != b'\0' else b'') + hashes, size


def unpacked_index(index):
    """Return the input of which packed_index() makes this index."""
    planes = b''.join(bytes(length >> shift & 255 for length in index.lengths) for shift
                      in (0, 8, 16))
    return (bytes(8) + tako.format_index(index)[:tako.INDEX_FORMAT_BYTES]
            + len(index.lengths).to_bytes(2, 'little') + index.hashes + planes)


def index_holds(index, data):
    chunks_hold(index, int.from_bytes(data[:8], 'little'))


def unpacked_index_holds(index, data):
    chunks_hold(index, packed_index(data)[1])


def chunks_hold(index, size):
    assert index.size == sum(index.lengths) == size, 'the chunks do not make the image'
    assert len(index.hashes) == len(
        index.lengths) * tako.CHUNK_HASH_BYTES, 'as many hashes as chunks'
    assert tako.CHUNK_MIN_BYTES <= index.average <= tako.CHUNK_MAX_BYTES, 'invalid average'
    assert all(0 < length <= index.average * 5 // 3 for length
               in index.lengths), 'a chunk of a size that may not be'
    assert len(index.lengths) <= tako.CHUNKS_MAX and len(
        index.patches) <= tako.PATCHES_MAX, 'more than is read'
    again = tako.format_index(index)
    if len(again) <= tako.index_max_bytes(size):
        assert tako.parse_index(again, size) == index, 'an index that is written is another'
    plan_holds(index)


def plan_holds(index):
    """Copies, requests and repetitions make each byte once."""
    half = dict.fromkeys([index.hash_of(number) for number in range(len(index.lengths))], None)
    half.update(dict.fromkeys(list(half)[::3], 1000))
    plan = tako.plan_image(index, half, bytes(len(index.lengths)))
    spans = sorted([(begin, begin + length) for _, begin, length in plan.copies + plan.repeats]
                   + [(each.begin, each.end) for each in plan.ranges])
    ends = [0] + [end for _, end in spans]
    assert [begin for begin, _ in spans] == ends[:-1] and ends[-1] == index.size, 'a plan with gaps'
    joined = tako.join_ranges(plan.ranges, tako.RANGE_GAP_BYTES)
    assert len(joined) <= max(1,
                              tako.RANGES_MAX) or index.size > tako.RANGE_BYTES, 'too many ranges'


def index_of(content, method, average=tako.CHUNK_MIN_BYTES):
    return tako.index_image(io.BytesIO(content).read, method, average)


INDEXES = [index_of(b'', tako.BY_CONTENT), index_of(OLD, tako.BY_CONTENT),
           index_of(OLD, tako.FIXED_SIZE),
           index_of(OLD * 2,
                    tako.BY_CONTENT)._replace(patches=((DIGESTS[3], 100), (DIGESTS[4], 1 << 40)))]


def apply(patch, size):
    """Return the sizes of the blocks that a patch makes, within its bounds."""
    def read_old(begin, count):
        assert begin >= 0 and 0 <= count <= tako.BLOCK_BYTES, 'read from where no image is'
        return OLD[begin:begin + count]

    made = []
    for block in tako.apply_patch(io.BytesIO(patch), read_old, size):
        made.append(len(block))
        assert len(block) <= tako.BLOCK_BYTES and sum(
            made) <= size, 'a patch makes more than it may'
    return made


def apply_patch(data):
    return apply(data[3:], int.from_bytes(data[:3], 'little'))


def apply_streams(data):
    return apply(packed_patch(data), int.from_bytes(data[:3], 'little'))


def packed_patch(data):
    """Return a patch of one segment, of an input with its streams and which to compress."""
    kinds, sizes = data[3:4], [int.from_bytes(data[at:at + 2], 'little') for at in (4, 6)]
    rest, streams, words = data[8:], [], b''
    for number, size in enumerate(sizes + [len(data)]):
        stream, rest = rest[:size], rest[size:]
        is_packed = bool(kinds and kinds[0] >> number & 1)
        if is_packed:
            stream = lzma.compress(stream, lzma.FORMAT_RAW,
                                   filters=[{'id': lzma.FILTER_LZMA2, 'dict_size': 4096}])
        streams.append(stream)
        words += (len(stream) << 1 | (not is_packed)).to_bytes(4, 'little')
    return tako.PATCH_MAGIC + words + b''.join(streams)


def unpacked_patch(patch, size, kinds):
    """Return the input of which packed_patch() makes this patch, or an equivalent one."""
    streams, _ = tako._open_segment(io.BytesIO(patch), len(tako.PATCH_MAGIC),
                                    tako.PATCH_DICTIONARY_BYTES)
    control, differences, new_bytes = (b''.join(iter(functools.partial(stream.some, 4096), b''))
                                       for stream in streams)
    return (size.to_bytes(3, 'little') + bytes([kinds]) + len(control).to_bytes(2, 'little')
            + len(differences).to_bytes(2, 'little') + control + differences + new_bytes)


def patch_holds(made, data):
    assert sum(made) == int.from_bytes(data[:3], 'little'), 'a patch that ended made too little'


def make_patch(old, new):
    pieces = []
    tako.make_patch(old, new, pieces.append, 64 << 20, lambda _: None)
    return b''.join(pieces)


class Now:
    """Stands in for an Executor: it does at once what is submitted."""

    def __init__(self, function, *arguments):
        self.result = lambda: function(*arguments)


def recompress(data):
    """Apply the recompression patch in data, whose head is not compressed there."""
    size, head_bytes = int.from_bytes(data[:3], 'little'), int.from_bytes(data[3:5], 'little')
    head, body = data[5:5 + head_bytes], data[5 + head_bytes:]
    packed = lzma.compress(head, lzma.FORMAT_RAW,
                           filters=[{'id': lzma.FILTER_LZMA2, 'dict_size': 4096}])
    patch = io.BytesIO(tako.RECOMPRESSION_MAGIC + (2 * len(packed)).to_bytes(4, 'little')
                       + packed + body)

    def read_old(begin, count):
        assert begin >= 0 and 0 <= count <= tako.BLOCK_BYTES, 'read from where no image is'
        return PACKED_OLD[begin:begin + count]
    parsed, scratch = tako.Recompression(patch, read_old, len(PACKED_OLD), size), io.BytesIO()
    made = sum(map(len, parsed.blocks(patch, scratch, Now, lambda: None)))
    assert len(scratch.getvalue()) <= tako.EXPANDED_MAX_FACTOR * (
        len(PACKED_OLD) + tako.BLOCK_BYTES), 'more is expanded than may be'
    return [made]


def unpacked_recompression(old, new):
    """Return the input of which recompress() makes the patch between two images."""
    streams = tako.plan_recompression(old, new, 64 << 20, lambda _: None)[:2]
    made = tako.make_head(old, *streams)
    head = lzma.decompress(made[tako.HEAD_START_BYTES:], lzma.FORMAT_RAW, filters=[
        {'id': lzma.FILTER_LZMA2, 'dict_size': 1 << 20}])
    body = make_patch(*(b''.join(tako.expand(image, each))
                        for image, each in zip((old, new), streams)))
    return len(new).to_bytes(3, 'little') + len(head).to_bytes(2, 'little') + head + body


PACKED_OLD, PACKED_NEW = (
    (b'....' * 2000).join(zlib.compress(each * 3 + end, 9) for each in (OLD, NEW))
    for end in (b'old', b'new'))
PATCHES = [(make_patch(OLD, new), len(new)) for new in (b'', NEW, OLD, b'x' * 3000)]


def parse_config(data):
    return tako.parse_config(data.decode('utf-8').lstrip('\ufeff'))


def config_holds(config, data):
    for origin in config.origins:
        assert re.fullmatch('(https?://[^/@?#]+|file://(localhost)?)(/[!-~]*[!-.0-~])?',
                            origin.url), 'a URL that is none'
        assert re.fullmatch('(Basic [A-Za-z0-9+/]+=*)?',
                            origin.authorization), 'a header that is none'
    assert all(tako.encode_base64(key).encode('ascii') in data for key
               in config.public_keys), 'a key from nowhere'
    assert config.origins and config.public_keys and config.destination, 'a missing key'
    assert '\0' not in config.destination and os.fsencode(
        config.destination) in data, 'a destination from nowhere'
    assert 0 <= config.confirm_seconds <= tako.CONFIRM_MAX_SECONDS, 'invalid seconds'
    assert config.keep >= 0, 'invalid number of images'
    assert config.keep > 0 or not re.search(b'^[ \t]*Keep', data,
                                            re.MULTILINE), 'a Keep= of no images'
    assert all(unit and unit[0] != '-' and unit.isascii() for unit
               in config.units), 'a unit that systemctl takes for an option'
    assert data.decode('utf-8').split('\n')[config.destination_line - 1].strip().startswith(
        'Destination'), 'another line'


CONFIG = '''# the app
Origin=https://user:pass%20word@images.example.com:8443/app/
Origin = file:///srv/images
PublicKey=l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k=
Destination=/var/lib/images/app
Version=1.2 <= v < 2.0
Restart=app.service other@1.service
Confirm=30
Keep=3
'''


def seal_stamp(body):
    return tako.join_signature(body, tako.ed25519_sign(SEED, body))


def stamp_holds(stamp, signed):
    assert seal_stamp(stamp.body()) == signed, 'a stamp that is sealed again is another'
    moment = datetime.datetime.strptime(stamp.moment, '%Y-%m-%dT%H:%M:%SZ')
    assert stamp.seconds() == (moment - datetime.datetime(1970, 1, 1)).total_seconds(), 'the time'


STAMP = tako.Stamp('2028-02-29T23:59:59Z', 17, DIGESTS[9])


def parse_state(data):
    return tako.parse_state(data.decode('ascii'))


def state_holds(state, _):
    assert tako.parse_state(tako.format_state(state)) == state, 'a state that is written is another'


STATE = tako.State(DIGESTS[1], DIGESTS[2], DIGESTS[3] + ' 17', (DIGESTS[4], DIGESTS[5]),
                   (DIGESTS[6],),
                   (DIGESTS[7] + ' https://images.example.com/app "e"',),
                   ('app.service ' + DIGESTS[0][:32],), (), (DIGESTS[8] + ' 1795824000',),
                   DIGESTS[9][:32], '1795824000', '12500000')


def parse_byteranges(data):
    content_type, _, body = data.partition(b'\n')
    return tako.parse_byteranges(body, content_type.decode('latin-1'))


def byteranges_hold(parts, data):
    for content_range, part in parts:
        begin, end = map(int, re.fullmatch('bytes ([0-9]+)-([0-9]+)/[0-9]+', content_range,
                                           re.IGNORECASE).groups())
        assert len(part) == end + 1 - begin and part in data, 'a part of another size'


def parted(boundary, *parts):
    """Return an honest answer in parts, after its Content-Type."""
    body = b''.join(b'\r\n--' + boundary
                    + b'\r\nContent-Type: text/plain\r\nContent-Range: bytes %d-%d/999\r\n\r\n' % (
        begin, begin + len(part) - 1) + part for begin, part in parts)
    head = b'multipart/byteranges; boundary=' + boundary + b'\n'
    return head + body + b'\r\n--' + boundary + b'--\r\n'


def redirect(data):
    return tako._redirect(URL, data.decode('latin-1'))


def redirect_holds(url, _):
    assert re.fullmatch('https://[!-~]+', url), 'a redirect to what is no URL, or weaker'
    assert '@' not in tako.endpoint(url)[1] and tako.endpoint(url)[
        1], 'a redirect with a password, or to nowhere'


class Wire(tako.ConnectionPool):
    """Connections to no server, whose answers are known."""

    def __init__(self, deadline, answers):
        super().__init__({}, deadline, tako.NO_CREDENTIALS)
        self._answers, self._ends = answers, []

    def close(self):
        super().close()
        for end in self._ends:
            end.close()

    def _connect(self, scheme, host):
        stream, end = socket.socketpair()
        self._ends.append(end)
        end.sendall(self._answers.pop(0) if self._answers else b'')
        end.shutdown(socket.SHUT_WR)
        return stream


def receive(data):
    """Return the answers, with bodies, of a server that sends this to any request."""
    kind = data[0] if data else 0
    with tako.HttpClient({}) as client:
        client._pool = Wire(client.deadline, data[1:].split(BETWEEN_ANSWERS))
        if kind % 4 == 3:
            answers = client.open_each(URL, 'Basic eDp5', [{'Range': 'bytes=0-9'}] * 3)
            return [(answer, b''.join(answer.chunks)) for answer in answers]
        answer = client.open(URL, 'Basic eDp5', ASKED[kind % 4])
        return [(answer, b''.join(answer.chunks))]


def answers_hold(answers, data):
    for answer, body in answers:
        assert answer.status in (200, 206, 304, 416), 'a status that nobody asked for'
        assert answer.length in (None, len(body)), 'a body of another length than announced'
        assert len(body) < len(data), 'more than came'
        assert re.fullmatch('((W/)?"[!-~]{1,200}")?', answer.etag()), 'an ETag that is none'
        assert answer.strong_etag() in ('', answer.etag()) and not answer.strong_etag().startswith(
            'W'), 'a weak ETag'
        assert answer.url.startswith(
            'https://') and '?' not in answer.url, 'a weaker URL, or one that shows a password'


ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "e"\r\n\r\nhello',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: '
    b'chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n',
    b'HTTP/1.0 200 OK\r\nETag: W/"e"\r\nContent-Encoding: gzip\r\n\r\nuntil the end',
    b'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-4/9\r\nContent-Length: 5\r\n\r\nhello',
    b'HTTP/1.1 304 Not Modified\r\nETag: "e"\r\n\r\n',
    b'HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n',
    b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n',
    b'HTTP/1.1 404 Not Found\r\n\r\nno',
    b'HTTP/1.1 302 Found\r\nLocation: //other.example.com/x?y\r\nContent-Length: 0\r\n\r\n'
    + BETWEEN_ANSWERS
    + b'HTTP/1.1 301 Moved\r\nLocation: ../z\r\nConnection: close\r\n\r\n' + BETWEEN_ANSWERS
    + b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
    BETWEEN_ANSWERS.join([b'HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nok'] * 3),
]


def texts(*of_lines):
    return ['\n'.join(each).encode('utf-8') for each in of_lines]


TARGETS = {
    'versions': Target(lambda data: [tako.parse_version(text) for text in lines(data, 2)],
                       tako.VersionError, versions_hold,
                       texts(('1.0-beta.1', '1.0'), ('1', '1.0-0_0'), ('0.00.a', '10.b'),
                             ('~+x', '9' * 60)), 520),
    'patterns': Target(parse_pattern, tako.VersionError, pattern_holds,
                       texts(('*', '1'), ('1.*', '1.0-a'), ('1.13.7', '1.13_7'),
                             ('1.2 <= v < 2.0', '2.0-beta'),
                             ('1 <= v < 2.0-rc1', '2.0-beta'), ('1.0.*', '1')), 800),
    'public keys': Target(lambda data: tako.parse_public_key(data.decode('latin-1')),
                          tako.UsageError, public_key_holds,
                          [tako.encode_base64(PUBLIC_KEY).encode('ascii'), b'SECRET+',
                           b'A' * 43 + b'='], 60),
    'secret keys': Target(lambda data: tako.parse_secret_key(data.decode('latin-1')),
                          tako.UsageError, secret_key_holds,
                          [tako.format_secret_key(SEED).encode('ascii'), b'SECRET+' + b'A' * 128],
                          150),
    'signatures': Target(verify_signature, (), signature_holds,
                         [PUBLIC_KEY + SIGNATURE + MESSAGE, bytes(96),
                          b'\1' + bytes(31) + b'\1' + bytes(63) + MESSAGE], 120),
    'entries': Target(parse_body, tako.ManifestError, body_holds,
                      [manifest_text(each)[len(tako.MANIFEST_HEADER):] for each in MANIFESTS],
                      1000),
    'manifests': Target(lambda data: tako.open_manifest(data, [PUBLIC_KEY], 'here'),
                        tako.RefusedError, signed_holds,
                        [tako.seal_manifest(each, SEED) for each in MANIFESTS], 1000),
    'stamps': Target(lambda data: tako.open_stamp(data, [PUBLIC_KEY], 'here'),
                     tako.RefusedError, stamp_holds, [seal_stamp(STAMP.body())], 300),
    'stamp bodies': Target(
        lambda body: tako.open_stamp(seal_stamp(body), [PUBLIC_KEY], 'here'), tako.RefusedError,
        lambda stamp, body: stamp_holds(stamp, seal_stamp(body)), [STAMP.body()], 150),
    'configs': Target(parse_config, (tako.ConfigError, UnicodeDecodeError), config_holds,
                      texts((CONFIG,), (CONFIG.replace('\n', '\r\n'),),
                            (CONFIG.replace('Version', 'version'),),
                            (CONFIG.replace('https://user:pass%20word@images.example.com:8443',
                                            'http://[::1]:80'),)), 2000),
    'indexes': Target(parse_index, ValueError, index_holds,
                      [each.size.to_bytes(8, 'little') + tako.format_index(each) for each
                       in INDEXES], 2000),
    'chunks': Target(parse_unpacked_index, ValueError, unpacked_index_holds,
                     [unpacked_index(each) for each in INDEXES if not each.patches], 2000),
    'patches': Target(apply_patch, tako.PatchError, patch_holds,
                      [size.to_bytes(3, 'little') + patch for patch, size in PATCHES], 2000),
    'streams': Target(apply_streams, tako.PatchError, patch_holds,
                      [unpacked_patch(patch, size, kinds) for patch,
                       size in PATCHES if size for kinds in (0, 5, 7)], 2000),
    'recompression': Target(recompress, tako.PatchError, patch_holds,
                            [unpacked_recompression(PACKED_OLD, new)
                             for new in (PACKED_NEW, PACKED_OLD + PACKED_NEW)], 2000),
    'states': Target(parse_state, ValueError, state_holds,
                     [tako.format_state(STATE).encode('ascii'), b'later=x\n'], 1500),
    'parts': Target(parse_byteranges, ValueError, byteranges_hold,
                    [parted(b'simple', (0, b'hello')),
                     parted(b'3d6b6a416f9b5', (0, b'a' * 20), (40, b'--3d6b6a416f9b5'))], 1500),
    'redirects': Target(redirect, tako.UnreachableError, redirect_holds,
                        [b'https://other.example.com/x?y', b'//user:pass@host:80/x', b'../z',
                         b'http://[::1]/', b'/a b\xe4'],
                        300),
    'answers': Target(receive, tako.UnreachableError, answers_hold,
                      [bytes([kind]) + answer for kind in range(4) for answer in ANSWERS], 4000),
}


def check(target, data):
    """Try one input. Raises what is a fault of tako.py."""
    try:
        value = target.parse(data)
    except target.allows:
        return False
    target.holds(value, data)
    return True

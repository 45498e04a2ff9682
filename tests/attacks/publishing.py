"""The attacks of section 1.5.2 of the specification of The Update Framework, by its names."""
import base64
import hashlib

import origin
import tako
from attacks.attack import (
    ANY, LISTED, MIB, NEW, OLD, OTHER, SAME, UPDATED, Tarpit, attack, drips, drips_slowly, on_all,
    on_image, on_index,
    on_manifest, quick, ranged, signed, sleeps, stops, whole_or, with_manifest,
    with_signature)

HOSTILE_LINES = {
    'a path for a digest': b'1.2 5 ../../../../../../etc/passwd\n',
    'a size below zero': b'1.2 -5 ' + b'0' * 64 + b'\n',
    'a size with a leading zero': b'1.2 05 ' + b'0' * 64 + b'\n',
    'a size of 2^63': b'1.2 9223372036854775808 ' + b'0' * 64 + b'\n',
    'a size of a thousand digits': b'1.2 1' + b'0' * 1000 + b' ' + b'0' * 64 + b'\n',
    'a version of a megabyte': b'1.' + b'9' * MIB + b' 5 ' + b'0' * 64 + b'\n',
    'a terminal\'s escape codes for a version': b'1.2\x1b[2J 5 ' + b'0' * 64 + b'\n',
    'no text': b'\xff\xfe\x00 5 ' + b'0' * 64 + b'\n',
    'a second spelling of a version': b'1.1.0 5 ' + b'0' * 64 + b'\n',
    'a version below the last': b'0.9 5 ' + b'0' * 64 + b'\n',
}


def honest(stage):
    """Return the honest manifest."""
    return stage.liar.read('manifest')


def other_signature(change):
    """Return a function of the stage: the honest manifest with a changed signature."""
    def make(stage):
        body, _, signature = honest(stage)[:-1].rpartition(b'\n')
        return body + b'\n' + base64.b64encode(change(base64.b64decode(signature))) + b'\n'
    return make


def plus_order(signature):
    """Return a signature with L added to its S."""
    s = int.from_bytes(signature[32:], 'little') + tako.L
    return signature[:32] + s.to_bytes(32, 'little')


def old_signature_on_new(stage):
    """Return the honest manifest with the signature of the one before."""
    old = signed([stage.older, stage.old])
    return honest(stage)[:-1].rpartition(b'\n')[0] + b'\n' + old[:-1].rpartition(b'\n')[2] + b'\n'


def replays(*entries_of):
    """Serve a signed manifest with only these entries of the stage."""
    return with_manifest(lambda stage: signed([getattr(stage, name) for name in entries_of]))


def yesterday(lay):
    """Make this attack on a client whose last whole manifest is from yesterday."""
    def lay_then(stage):
        lay(stage)
        stage.age_manifest(2 * tako.FULL_ANSWER_SECONDS)
    return lay_then


def many_entries(stage):
    """Return a signed manifest with as many entries as it may have, as a stolen key can make it."""
    lines, size, number = [], len(honest(stage)), 0
    while size < tako.MANIFEST_MAX_BYTES - 200:
        lines.append('0.{} 5 {}\n'.format(number,
                                          hashlib.sha256(b'%d' % number).hexdigest()).encode())
        size, number = size + len(lines[-1]), number + 1
    return signed(lines + [stage.older, stage.old, stage.new])


def long_versions(stage):
    """Return a signed manifest with as many long versions as it may have."""
    lines, size, number = [], len(honest(stage)), 0
    while size < tako.MANIFEST_MAX_BYTES - 2000:
        parts = '0.' + '1.' * 110 + '{:08}'.format(number)
        lines.append('{} 5 {}\n'.format(parts[:255],
                                        hashlib.sha256(b'%d' % number).hexdigest()).encode())
        size, number = size + len(lines[-1]), number + 1
    return signed(lines + [stage.older, stage.old, stage.new])


def listing(line_or_entry):
    """Serve a manifest with one more line, signed by the right key."""
    return with_manifest(lambda stage: signed([stage.older, stage.old, stage.new, line_or_entry]))


def hands_out(content):
    """Serve a manifest of the right key with a version far ahead, and its image."""
    def lay(stage):
        entry = origin.entry_of('999999999999.0', content)
        stage.liar.faults['/manifest'] = origin.serves(signed([stage.older, stage.old, stage.new,
                                                               entry]))
        stage.liar.faults['/store/' + entry.digest] = origin.serves(content)
    return lay


def of_another_product(stage):
    """Return a manifest of another product, signed by the same key."""
    return signed([origin.entry_of('1.0', b'another product'), origin.entry_of('1.5', OTHER)])


def in_tarpit(scheme, greeting=b''):
    """Lead the client to a Tarpit."""
    def lay(stage):
        pit = Tarpit(greeting)
        stage.addCleanup(pit.close)
        stage.lead_to('{}://127.0.0.1:{}'.format(scheme, pit.port))
    return lay


def slowly_in_circles(handler):
    """Redirect to the same URL after a pause."""
    sleeps(0.4, origin.redirects(handler.path))(handler)


def renamed(handler, content):
    """Return the handler of a request for the index of this image."""
    handler.path = '/store/{}.chunks'.format(origin.digest_of(content))
    return handler


def mixed(handler, ranges):
    """Answer with ranges whose second half is zeros."""
    code, body, headers = origin.in_ranges(ranges, handler.body)
    half = len(body) // 2
    return code, body[:half] + bytes(len(body) - half), headers


BIG = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(NEW)
PART = (b'HTTP/1.1 206 Partial Content\r\nContent-Length: 400000\r\n'
        b'Content-Range: bytes 0-399999/%d\r\n\r\n' % len(NEW))
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'

ARBITRARY_INSTALLATION = quick([
    attack('signed by another key', with_manifest(lambda stage: signed(
        [stage.older, stage.old, stage.new], origin.OTHER_SEED)), 3, SAME),
    attack('an entry added after signing', with_manifest(lambda stage: honest(stage).replace(
        b'\n\n', b'\n' + origin.entry_of('1.9', OTHER).line().encode() + b'\n', 2)), 3, SAME),
    attack('a digest changed after signing', with_manifest(lambda stage: honest(stage).replace(
        stage.new.digest.encode(), origin.digest_of(OTHER).encode())), 3, SAME),
    attack('the signature of another manifest', with_manifest(old_signature_on_new), 3, SAME),
    attack('S + L in the signature', with_manifest(other_signature(plus_order)), 3, SAME),
    attack('a signature of zeros', with_manifest(other_signature(lambda _: bytes(64))), 3, SAME),
    attack('R of small order',
           with_manifest(other_signature(lambda each: b'\x01' + bytes(31) + each[32:])), 3, SAME),
    attack('no signature',
           with_manifest(lambda stage: honest(stage)[:-1].rpartition(b'\n')[0] + b'\n'), 3, SAME),
    attack('lines after the signature',
           with_manifest(lambda stage: honest(stage) + b'1.9 5 ' + b'0' * 64 + b'\n'), 3, SAME),
    attack('a line end after the signature', with_manifest(lambda stage: honest(stage) + b'\n'), 3,
           SAME),
    attack('the last byte missing', with_manifest(lambda stage: honest(stage)[:-1]), 3, SAME),
    attack('no blank line before the signature', with_manifest(lambda stage: with_signature(
        tako.MANIFEST_HEADER + stage.older.line().encode() + stage.old.line().encode()
        + stage.new.line().encode())), 3, SAME),
    attack('other line ends', with_manifest(lambda stage: honest(stage).replace(b'\n', b'\r\n')), 3,
           SAME),
    attack('a byte order mark', with_manifest(lambda stage: b'\xef\xbb\xbf' + honest(stage)), 3,
           SAME),
    attack('a page for a manifest',
           on_manifest(origin.serves(b'<!DOCTYPE html><title>Sign in</title>')), 3, SAME),
    attack('nothing for a manifest', on_manifest(origin.serves(b'')), 3, SAME),
    attack('other bytes for the image', on_image(origin.serves(OTHER)), 3, LISTED),
    attack('other bytes for the image, on a first fetch', on_image(origin.serves(OTHER)), 3, LISTED,
           start='nothing'),
    attack('a byte more', on_image(origin.serves(NEW + b'x')), 3, LISTED, start='nothing'),
    attack('a byte less', on_image(origin.serves(NEW[:-1])), 3, LISTED, start='nothing'),
    attack('one flipped bit', on_image(origin.serves(NEW[:-1] + bytes([NEW[-1] ^ 1]))), 3, LISTED,
           start='nothing'),
    attack('a page for the image', on_image(origin.serves(b'<html>')), 3, LISTED),
    attack('a byte more, in chunks', on_image(origin.chunked(lambda body: body + b'x')), 3, LISTED,
           start='nothing'),
    attack('a byte less, in chunks', on_image(origin.chunked(lambda body: body[:-1])), 75, LISTED,
           start='nothing'),
])

ENDLESS_DATA = quick([
    attack('a manifest without end', on_manifest(origin.endless), 3, SAME, memory=60 * MIB),
    attack('a manifest without end, in chunks',
           on_manifest(origin.floods(CHUNKED, b'ffff\r\n' + b'\n' * 65535 + b'\r\n')), 3,
           SAME, memory=60 * MIB),
    attack('a manifest of 17 MiB', on_manifest(origin.serves(b'\n' * (17 << 20))), 3, SAME,
           memory=60 * MIB),
    attack('a manifest of 2^62 bytes', on_manifest(origin.floods(
        b'HTTP/1.1 200 OK\r\nContent-Length: 4611686018427387904\r\n\r\n', b'\n' * 65536)), 3, SAME,
        memory=60 * MIB),
    attack('an image without end', on_image(origin.endless), 3, LISTED, sent=16 * MIB),
    attack('an image without end, on a first fetch', on_image(origin.endless), 3, LISTED,
           start='nothing', sent=16 * MIB),
    attack('an image without end, in chunks',
           on_image(origin.floods(CHUNKED, b'ffff\r\n' + b'\n' * 65535 + b'\r\n')), 3, LISTED,
           start='nothing'),
    attack('an index without end', on_index(origin.endless), 0, UPDATED, words='longer than ',
           is_whole=True),
    attack('ranges without end', on_image(whole_or(
        origin.floods(PART.replace(b'Content-Length: 400000\r\n', b''), b'x' * 65536))), 0,
        UPDATED),
    attack('the page of an error without end',
           on_manifest(origin.floods(b'HTTP/1.1 404 No\r\n\r\n', b'x' * 65536)), 75, SAME),
    attack('the page of a redirect without end', on_manifest(origin.floods(
        b'HTTP/1.1 302 Found\r\nLocation: /manifest\r\n\r\n', b'x' * 65536)), 75, SAME),
]) + [
    attack('a manifest without end, in chunks of a byte',
           on_manifest(origin.floods(CHUNKED, b'1\r\n\n\r\n' * 10000)), 75, SAME,
           memory=60 * MIB, options=('--timeout', '5'), words='--timeout', is_blamed=None),
    attack('an index without end, in chunks of a byte',
           on_index(origin.floods(CHUNKED, b'1\r\n\n\r\n' * 1000)), 0, UPDATED),
]

MIX_AND_MATCH = quick([
    attack('another version\'s image', on_image(origin.serves(OLD)), 3, LISTED, start='nothing'),
    attack('another version\'s index',
           on_index(lambda handler: origin._Handler.serve(renamed(handler, OLD))), 0, UPDATED),
    attack('ranges of another image',
           on_image(ranged(lambda _, ranges: origin.in_ranges(ranges, OTHER))), 0, UPDATED),
    attack('every second range of another image', on_image(ranged(mixed)), 0, UPDATED),
    attack('lines of two histories', with_manifest(lambda stage: signed(
        [stage.older, stage.old, origin.entry_of('1.0.5', OTHER), stage.new,
         origin.entry_of('1.0.6', OTHER)])), 3, SAME),
    attack('the new manifest under the old one\'s ETag',
           lambda stage: setattr(stage.liar, 'etag', lambda _: '"the same"'),
           0, UPDATED),
])

FAST_FORWARD = quick([
    attack('a version far ahead, signed by nobody',
           with_manifest(lambda stage: honest(stage).replace(b'1.1 ', b'999.1 ')), 3, SAME),
    attack('a version far ahead, by a stolen key, out of bounds', hands_out(OTHER), 0, UPDATED,
           then=3, beside=0),
    attack('a version far ahead, by a stolen key, without an image',
           listing(origin.entry_of('1.9', OTHER)), 75, ANY, then=3, beside=75),
])

INDEFINITE_FREEZE = quick([
    attack('the old manifest for ever', replays('older', 'old'), 0, SAME),
    attack('always "not modified", today', on_manifest(origin.status(304, b'')), 0, SAME),
    attack('always "not modified", since yesterday',
           yesterday(on_manifest(origin.status(304, b''))), 75, SAME),
    attack('a lying ETag, since yesterday',
           yesterday(lambda stage: setattr(stage.liar, 'etag', lambda _: stage.old_etag)),
           0, UPDATED),
    attack('the new version is never found', on_image(origin.status(404)), 75, LISTED),
    attack('the new version is said to be withdrawn', on_image(origin.status(410)), 0, LISTED,
           is_blamed=True),
    attack('busy for ever', on_all(origin.status(503, headers=[('Retry-After', '999999999')])), 75,
           SAME),
])

ROLLBACK = quick([
    attack('an empty manifest', replays(), 3, SAME),
    attack('an older manifest', replays('older'), 3, SAME),
    attack('another image under a version that is known', with_manifest(lambda stage: signed(
        [stage.older, origin.entry_of('1.0', OTHER), stage.new])), 3, SAME, beside=3),
    attack('another digest under a version that is known', with_manifest(lambda stage: signed(
        [stage.older, stage.old._replace(digest='0' * 64), stage.new])), 3, SAME, beside=3),
    attack('another spelling of a version that is known', with_manifest(lambda stage: signed(
        [stage.older, origin.entry_of('1.0.0', OLD), stage.new])), 3, SAME, beside=3),
    attack('a new version below the one in place', with_manifest(lambda stage: signed(
        [origin.entry_of('0.9', OTHER), stage.older, stage.old])), 0, ANY, then=3, beside=3),
])

# name, head, and the piece that is sent again and again, slowly
DRIPS = (
    ('a status line in drips', b'HTTP/1.1 2', b'0'),
    ('a header in drips', b'HTTP/1.1 200 OK\r\nX: ', b'x'),
    ('headers in drips', b'HTTP/1.1 200 OK\r\n', b'X: y\r\n'),
    ('100 Continue in drips', b'', b'HTTP/1.1 100 Continue\r\n\r\n'),
    ('a manifest in drips', BIG, b'x'),
    ('a manifest without a length in drips', b'HTTP/1.1 200 OK\r\n\r\n', b'x'),
    ('a manifest in drips of chunks', CHUNKED, b'1\r\nx\r\n'),
    ("a chunk's size in drips", CHUNKED, b'0'),
    ("a chunk's extension in drips", CHUNKED + b'1;x=', b'x'),
    ('trailers in drips', CHUNKED + b'1\r\nx\r\n0\r\n', b'X: y\r\n'),
)

SLOW_RETRIEVAL = quick(
    attack(name, on_manifest(drips(head, piece)), 75, SAME, words='delivered less than')
    for name, head, piece in DRIPS
) + [
    attack('silence', in_tarpit('http'), 75, SAME),
    attack('silence instead of TLS', in_tarpit('https'), 75, SAME),
    attack('half a TLS handshake', in_tarpit('https', b'\x16\x03\x03\x00\x7a\x02\x00\x00\x76'), 75,
           SAME),
    attack('a manifest that stops', on_manifest(origin.holds(100)), 75, SAME),
    attack('an image in drips', on_image(drips(BIG)), 75, LISTED),
    attack('an image in drips, on a first fetch', on_image(drips(BIG)), 75, LISTED,
           start='nothing'),
    attack('an image that stops', on_image(origin.holds(200000)), 75, LISTED, start='nothing'),
    attack('an index in drips', on_index(drips(BIG)), 0, UPDATED, seconds=25),
    attack('an index that stops', on_index(origin.holds(20)), 0, UPDATED),
    attack('ranges in drips', on_image(whole_or(drips(PART))), 0, UPDATED, seconds=30),
    attack('ranges that stop', on_image(whole_or(stops(PART + b'x' * 20))), 0, UPDATED),
    attack('all of it in place of ranges, which stops', on_image(whole_or(origin.holds(20))),
           (0, 75), LISTED),
    attack('the page of an error in drips',
           on_manifest(drips(b'HTTP/1.1 404 No\r\nContent-Length: 60000\r\n\r\n')), 75, SAME),
    attack('slow redirects in a circle', on_manifest(slowly_in_circles), 75, SAME),
]

WRONG_SOFTWARE = quick([
    attack('another product\'s manifest, by the same key', with_manifest(of_another_product), 3,
           SAME, beside=3),
    attack('another product\'s image', on_image(origin.serves(OTHER)), 3, LISTED, start='nothing'),
    attack('another product\'s manifest, by its own key', with_manifest(lambda stage: signed(
        [origin.entry_of('1.5', OTHER)], origin.OTHER_SEED)), 3, SAME),
])

KEY_COMPROMISE = quick([
    attack('a key that the config does not list any more',
           lambda stage: stage.trust(origin.OTHER_PUBLIC_KEY), 3, SAME, then=3,
           beside=None, start='nothing'),
    attack('one of two keys signs another history', lambda stage: (
        stage.trust(origin.PUBLIC_KEY, origin.OTHER_PUBLIC_KEY),
        stage.liar.faults.update({'/manifest': origin.serves(signed(
            [origin.entry_of('1.0', OTHER)], origin.OTHER_SEED))})), 3, SAME, beside=3),
    attack('lines are dropped by a stolen key', replays('old', 'new'), 3, SAME, is_blamed=None),
    attack('an image of 2^63 - 1 bytes', listing(b'1.9 9223372036854775807 ' + b'0' * 64 + b'\n'),
           1, ANY, then=3, beside=1),
    attack('entries out of order',
           with_manifest(lambda stage: signed([stage.older, stage.new, stage.old])), 3, SAME),
]) + [
    attack('as many entries as there may be', with_manifest(many_entries), 0, UPDATED, then=3,
           memory=400 * MIB, seconds=40, disk=40 * MIB, beside=0),
    # The order of each version is a tuple of a hundred parts.
    attack('as many long versions as there may be', with_manifest(long_versions), 0, UPDATED,
           then=3, memory=500 * MIB, seconds=60, disk=40 * MIB, beside=0),
] + quick(
    attack(name, listing(line), 3, SAME, words='tell the publisher')
    for name, line in HOSTILE_LINES.items()
)

GROUPS = {
    'arbitrary software installation': ARBITRARY_INSTALLATION, 'endless data': ENDLESS_DATA,
    'mix-and-match': MIX_AND_MATCH,
    'fast-forward': FAST_FORWARD, 'indefinite freeze': INDEFINITE_FREEZE, 'rollback': ROLLBACK,
    'slow retrieval': SLOW_RETRIEVAL, 'wrong software installation': WRONG_SOFTWARE,
    'key compromise': KEY_COMPROMISE,
}

# attacks with the real limits, in which a window is 30 seconds, and whether there is a mirror
WITH_TRUE_LIMITS = [
    (attack('a manifest in drips', on_manifest(drips_slowly(BIG)), 75, SAME, seconds=300), False),
    (attack('headers in drips', on_manifest(drips_slowly(b'HTTP/1.1 200 OK\r\nX: ')), 75, SAME,
            seconds=300), False),
    (attack('an image in drips', on_image(drips_slowly(BIG)), 75, LISTED, seconds=300,
            start='nothing'), False),
    (attack('an index in drips', on_index(drips_slowly(BIG)), 0, UPDATED, seconds=120), False),
    (attack('silence', in_tarpit('http'), 75, SAME, seconds=150), False),
    (attack('down for ever', on_all(origin.status(503)), 75, SAME, seconds=60), False),
    (attack('one mirror in drips', on_manifest(drips_slowly(BIG)), 75, SAME, seconds=90), True),
]

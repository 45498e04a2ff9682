"""Wrong chunk indexes, ranges and patches of both kinds.

None of them is signed, and none may cost more than a download of the whole image.
"""
import functools
import io
import itertools
import struct
import zlib

import origin
import tako
from attacks.attack import (
    LISTED, MIB, NEW, OLD, OTHER, UPDATED, WHOLE, attack, on_image, on_index, quick, ranged)
from patches import LEVEL_9, head, make, patch, raw_head, segment

HEADER = ('magic', 'method', 'zero', 'patches', 'average', 'size', 'count', 'planes')


def made(average=8192, method=tako.BY_CONTENT, lengths=None, hashes=None, planes=None, patches=b'',
         **changes):
    """Return an index of the new image with these chunks, patches and header fields."""
    lengths = [1000] * (len(NEW) // 1000) + [len(NEW) % 1000] if lengths is None else lengths
    if planes is None:
        planes = zlib.compress(b''.join(bytes(length >> shift & 255 for length in lengths)
                                        for shift in (0, 8, 16)))
    header = {'magic': tako.INDEX_MAGIC, 'method': method, 'zero': 0, 'patches': len(patches) // 40,
              'average': average,
              'size': len(NEW), 'count': len(lengths), 'planes': len(planes)}
    header.update(changes)
    return (struct.pack(tako.INDEX_FORMAT, *(header[name] for name in HEADER)) + patches + planes
            + (bytes(8 * len(lengths)) if hashes is None else hashes))


def hashes_of(content, lengths):
    """Return the hashes of the chunks of these sizes."""
    found, at = b'', 0
    for length in lengths:
        found += tako.chunk_hash(content[at:at + length])
        at += length
    return found


@functools.lru_cache(None)
def chunks_of(content):
    """Return the sizes and hashes of the smallest chunks of an image, as an index has them."""
    index = tako.index_image(io.BytesIO(content).read, tako.BY_CONTENT, tako.CHUNK_MIN_BYTES)
    return list(index.lengths), index.hashes


def tiny_chunks():
    """Return the sizes of as many chunks of 9 bytes as an index may have, and of the rest."""
    lengths = [9] * 8000 + [1500] * ((len(NEW) - 9 * 8000) // 1500)
    rest = len(NEW) - sum(lengths)
    return lengths + ([rest] if rest else [])


@functools.lru_cache(None)
def bomb():
    """Return 60 MiB of zeros, compressed."""
    return zlib.compress(bytes(60 * MIB), 9)


def alternating():
    """Return an index with every second chunk unknown, for as many ranges as possible."""
    lengths, hashes = chunks_of(NEW)
    hashes = bytearray(hashes)
    for number in range(0, len(lengths), 2):
        hashes[8 * number:8 * number + 8] = struct.pack('<Q', number)
    return made(lengths=lengths, hashes=bytes(hashes), average=1024)


def cut_right(**changes):
    """Return an index of the right chunks, with these changes."""
    lengths, hashes = chunks_of(NEW)
    return made(**dict({'lengths': lengths, 'hashes': hashes, 'average': 1024}, **changes))


def cut_like(content):
    """Return an index whose chunks are those of another image."""
    lengths, hashes = chunks_of(content)
    return made(lengths=lengths, hashes=hashes, average=1024)


# what to make an index of; it is made when it is served
INDEXES = {
    'nothing': lambda: b'',
    'a header alone': lambda: made()[:32],
    'all zeros': lambda: bytes(60000),
    'a page': lambda: b'<html>' * 1000,
    'noise': lambda: OTHER[:60000],
    'cut short': lambda: made()[:-1],
    'a byte more': lambda: made() + b'x',
    'a bomb of 60 MiB': lambda: made(planes=bomb()),
    'a bomb in a bomb': lambda: made(planes=zlib.compress(bomb(), 9)),
    'a bomb that is all of the index': lambda: made(lengths=[], planes=bomb(), count=0),
    'a stream that ends at once': lambda: made(planes=zlib.compress(b'')),
    'a stream of stored blocks': lambda: made(planes=zlib.compress(bytes(3000), 0)),
    'planes of 2^32': lambda: made()[:28] + b'\xff' * 4 + bytes(6000),
    'a count of 2^32': lambda: made(count=(1 << 32) - 1),
    'a size of 2^64': lambda: made(size=(1 << 64) - 1),
    'patches of 2^16': lambda: made(patches=b'x' * 40 * 64),
    'an average of 1': lambda: made(average=1),
    'an average of 2^32': lambda: made(average=(1 << 32) - 1),
    'an average of 0': lambda: made(average=0),
    'chunks of nothing': lambda: made(
        lengths=[0] * 5000 + [1000] * (len(NEW) // 1000) + [len(NEW) % 1000]),
    'sizes that add up to more': lambda: made(lengths=[1 << 23] * 100),
    'sizes that wrap round': lambda: made(lengths=[(1 << 24) - 1] * 5000),
    'one chunk of all': lambda: made(lengths=[len(NEW)]),
    'chunks of 9 bytes': lambda: made(lengths=tiny_chunks(), hashes=hashes_of(NEW, tiny_chunks())),
    'chunks of 9 bytes that nobody knows': lambda: made(lengths=tiny_chunks()),
    'each second chunk unknown': alternating,
    'all chunks the same': lambda: cut_right(hashes=chunks_of(NEW)[1][:8] * len(chunks_of(NEW)[0])),
    'all chunks of the old image, in another order': lambda: cut_right(
        hashes=(chunks_of(OLD)[1][::-1] + chunks_of(NEW)[1])[:len(chunks_of(NEW)[1])]),
    'of an image that it is not, and is consistent': lambda: cut_like(OTHER),
    'of fixed size, and by content': lambda: cut_right(method=tako.FIXED_SIZE, average=8192),
    'by a method that is none': lambda: made(method=7),
    'an average that cuts otherwise': lambda: cut_right(average=MIB),
}


# What fetch says of an index after which the whole image has to be sent. `make check` runs these.
WORDS_OF_INDEXES = {
    'nothing': 'not the index', 'a page': 'not the index', 'cut short': 'not the index',
    'of an image that it is not, and is consistent': '',
}


def index_with_wrong_hashes(stage):
    """Serve the honest index with wrong hashes of its last chunks."""
    right = stage.liar.read(stage.index[1:])
    stage.liar.faults[stage.index] = origin.serves(right[:-8 * 20] + bytes(8 * 20))


def index_of_one_nearly_the_same(stage):
    """Serve an index of other chunks that the client has, for example by a publisher's mistake."""
    other = NEW[:150000] + OLD[:100] + NEW[150100:]
    stage.liar.faults[stage.index] = origin.serves(index_of(other))


def index_of(content):
    """Return the honest index of an image."""
    return tako.format_index(tako.index_image(io.BytesIO(content).read, tako.BY_CONTENT, 8192))


def parts(change):
    """Answer requests for one or more ranges with what change(ranges, body) returns."""
    return ranged(lambda handler, ranges: change(ranges, handler.body))


def spoilt(edit):
    """Return the honest parts with an edited body."""
    def change(ranges, body):
        code, content, headers = origin.in_ranges(ranges, body)
        return code, edit(content), headers
    return change


def with_headers(*headers):
    """Return the honest parts with these headers."""
    return lambda ranges, body: origin.in_ranges(ranges, body)[:2] + (list(headers),)


def of_ranges(change):
    """Return the parts of other ranges of the honest body."""
    return lambda ranges, body: origin.in_ranges(change(ranges, len(body)), body)


def fixed(code, body=b'', headers=()):
    """Return the same response to each request."""
    return lambda *_: (code, body, headers)


def boundary(name):
    """Return the header of a response in parts between these boundaries."""
    return 'Content-Type', 'multipart/byteranges; boundary=' + name


def compressed(ranges, body):
    """Return the whole image as if it were the ranges, compressed."""
    headers = origin.in_ranges(ranges, body)[2]
    return 206, zlib.compress(body), headers + [('Content-Encoding', 'deflate')]


RANGES = {
    'other bytes': lambda ranges, _: origin.in_ranges(ranges, OTHER),
    'cut short': spoilt(lambda content: content[:-40]),
    'more': spoilt(lambda content: content + b'x' * 10 * MIB),
    'zeros': spoilt(lambda content: bytes(len(content))),
    'nothing': fixed(206),
    "of another image's size": lambda ranges, body: origin.in_ranges(ranges, body + b'x'),
    'shifted by one': of_ranges(lambda ranges, _: [(begin + 1, end + 1) for begin, end in ranges]),
    'a part more': of_ranges(lambda ranges, _: ranges + [(0, 5)]),
    'in another order': of_ranges(lambda ranges, _: ranges[::-1]),
    'the first alone': of_ranges(lambda ranges, _: ranges[:1]),
    'the first, a thousand times': of_ranges(lambda ranges, _: ranges[:1] * 1000),
    'all of it, in parts': of_ranges(lambda _, size: [(0, size // 2), (size // 2, size)]),
    'without headers': with_headers(),
    'under a boundary that is not there': with_headers(boundary('no')),
    'under an empty boundary': with_headers(boundary('""')),
    'under a boundary of 60 KB': with_headers(boundary('x' * 60000)),
    'of parts that are only boundaries': fixed(206, b'\r\n--B' * 100000, [boundary('B')]),
    'of a part with headers of a megabyte': fixed(
        206, b'\r\n--B\r\nX: ' + b'x' * MIB + b'\r\n\r\n', [boundary('B')]),
    'of a part of 2^60': fixed(
        206, b'\r\n--B\r\nContent-Range: bytes 0-1152921504606846976/1152921504606846977\r\n\r\nx',
        [boundary('B')]),
    'of a part that ends before it begins': fixed(
        206, b'\r\n--B\r\nContent-Range: bytes 9-0/5\r\n\r\nx\r\n--B--\r\n', [boundary('B')]),
    'compressed': compressed,
    'not satisfiable': fixed(416),
    'an error': fixed(500),
    'forbidden': fixed(403),
    'all of another': fixed(200, OTHER),
    'all of it': lambda _, body: (200, body, []),
}

# `make check` runs these where the server answers one range a request; the whole image is sent then
SPOILT_RANGES = {'other bytes', 'shifted by one', "of another image's size", 'without headers',
                 'cut short', 'more', 'all of it', 'not satisfiable'}
# and these where it answers several
SPOILT_PARTS = {'in another order', 'the first alone', 'a part more', 'other bytes',
                'without headers', 'cut short', 'an error'}


def on_both(fault):
    def lay(stage):
        on_index(fault)(stage)
        on_image(fault)(stage)
    return lay


def on_single(fault):
    """Answer requests for the image with this fault; the server answers one range a request."""
    def lay(stage):
        stage.liar.has_several = False
        on_image(fault)(stage)
    return lay


def index_and_ranges(stage):
    """Serve an index of another image and ranges of it, which match each other."""
    other = OTHER[:len(NEW) - 100000] + OLD[:100000]
    stage.liar.faults[stage.index] = origin.serves(index_of(other))
    stage.liar.faults[stage.image] = parts(lambda ranges, _: origin.in_ranges(ranges, other))


@functools.lru_cache(None)
def right():
    """Return the honest patch."""
    return make(OLD, NEW)


def copies(*operations):
    """Return a patch of copies, each a (length, change of the shift)."""
    return patch(segment([(tako.COPY, length, change) for length, change in operations]))


# what to make a patch of; it is made when it is served
PATCHES = {
    'nothing': lambda: b'',
    'noise': lambda: OTHER[:60000],
    'cut short': lambda: right()[:-1],
    'a byte more': lambda: right() + b'x',
    'of another image': lambda: make(OLD, OLD[:200000] + bytes(len(NEW) - 200000)),
    'a bomb of 100 MiB': lambda: patch(segment([(tako.COPY, len(NEW), 0)], new=bytes(100 * MIB))),
    'a bomb of operations': lambda: patch(segment([], control=bytes(100 * MIB))),
    'of operations that make nothing': lambda: copies(*[(0, 0)] * 4000, (len(NEW), 0)),
    'a copy without end': lambda: copies((1 << 62, 0)),
    'from before the older image': lambda: copies((len(NEW), -1)),
    'from behind the older image': lambda: copies((len(NEW), 1 << 40)),
    'of half the image': lambda: copies((len(NEW) // 2, 0)),
}


def listing(stage, size):
    """Return the index of the new image with a patch of this size from the old one."""
    index = tako.parse_index(stage.liar.read(stage.index[1:]), len(NEW))
    return tako.format_index(index._replace(patches=((origin.digest_of(OLD), size),)))


def with_patch(stage, fault, size):
    """Answer requests for the patch with this fault. The index lists a patch of this size.

    The honest patch is published, for faults that serve a part of it.
    """
    patch_url = '{}.{}.patch'.format(stage.image, origin.digest_of(OLD))
    stage.liar.write(stage.index[1:], listing(stage, size))
    stage.liar.write(patch_url[1:], right())
    stage.liar.faults[patch_url] = fault


def on_patch(make_fault):
    """Answer requests for the patch with the fault that is made now. It is listed."""
    return lambda stage: with_patch(stage, make_fault(), len(right()))


def serves_patch(make_content):
    """Serve the patch that is made now. The index lists it."""
    def lay(stage):
        content = make_content()
        with_patch(stage, origin.serves(content), len(content))
    return lay


def behind_head(body):
    """Return a recompression patch with an honest head, which expands nothing, and this body."""
    return head(hashes=tako.coder_hash(LEVEL_9, OLD[:tako.SAMPLE_CONTENT_BYTES])) + body


def expanding(*streams):
    """Return a recompression patch whose head expands these streams of the new image.

    The body copies the beginning of the older image again and again.
    """
    most = 1 << 17
    size = len(NEW) + sum(content - end + begin for begin, end, content, _ in streams)
    back = copies((most, 0), *[(most, -most)] * (min(size, 100 * MIB) // most - 1),
                  (size % most or most, -most))
    return head(new=streams, hashes=tako.coder_hash(
        LEVEL_9, OLD[:tako.SAMPLE_CONTENT_BYTES])) + back


def small_streams(count):
    """Return a patch whose contents have 8 times the size of the image, all together."""
    size = 8 * len(NEW) // count
    return expanding(*[(at, at + 1, size, 0) for at in range(count)])


# what to make a recompression patch of; it is made when it is served
RECOMPRESSION_PATCHES = dict({
    'with ' + name: lambda make_content=make_content: behind_head(make_content())
    for name, make_content in PATCHES.items()
}, **{
    'nothing': lambda: b'',
    'noise': lambda: OTHER[:60000],
    'an ordinary patch': right,
    'a bomb in the head': lambda: raw_head(bytes(100 * MIB)),
    'a head of numbers without end': lambda: raw_head(b'\1' + b'\xff' * MIB),
    'a head of 2 GiB': lambda: tako.RECOMPRESSION_MAGIC + b'\xfe\xff\xff\xff' + OTHER[:60000],
    'streams without end': lambda: raw_head(b'\1\0\x09\x4f\x08\0\0' + b'\xff' * 8 + b'\x7f'),
    'a dictionary of 4 GiB': lambda: head(coders=[(tako.LZMA2, 9, 40, 0)]) + right(),
    'another sample': lambda: head() + right(),
    'a content of a GiB': lambda: expanding((0, 1000, 1 << 30, 0)),
    'contents of 8 times the image': lambda: small_streams(40),
    'very many streams': lambda: small_streams(1 << 15),
    'more streams than there may be': lambda: small_streams((1 << 15) + 1),
    'a stream behind the image': lambda: expanding((len(NEW) + 1, len(NEW) + 100, 100, 0)),
})


def with_recompression_patch(stage, fault, size):
    """Answer requests for a recompression patch with this fault. It is listed with this size."""
    index = tako.parse_index(stage.liar.read(stage.index[1:]), len(NEW))
    stage.liar.write(stage.index[1:], tako.format_index(index._replace(
        patches=((origin.digest_of(OLD), 300000),          # it is missing
                 (tako.inverted(origin.digest_of(OLD)), size)))))
    url = '{}.{}.2.patch'.format(stage.image, origin.digest_of(OLD))
    stage.liar.write(url[1:], behind_head(right()))
    stage.liar.faults[url] = fault
    stage.more = 'Metered=yes\n'
    stage.client()


def serves_recompression_patch(make_content):
    """Serve the recompression patch that is made now. The index lists it."""
    def lay(stage):
        content = make_content()
        with_recompression_patch(stage, origin.serves(content), len(content))
    return lay


def on_patch_that_shrinks(stage):
    """Let each index list a smaller patch, which breaks off after more bytes than the next has.

    Each delivers so much that a client which only looks at progress never stops.
    """
    size = [300000]

    def serve_index(handler):
        size[0] -= 2
        handler.answer(200, listing(stage, size[0]))

    def serve_patch(handler):
        handler.answer(200, OTHER[:size[0] - 1], length=size[0])
        handler.hang_up()
    with_patch(stage, serve_patch, size[0])
    stage.liar.faults[stage.index] = serve_index


def grows(content):
    """Break off after a part of the patch, which is a byte longer in each answer."""
    times = itertools.count()

    def fault(handler):
        body, begin = content + bytes(next(times)), handler.first_byte
        if begin is None:
            handler.answer(200, body[:len(content) // 2], length=len(body))
        else:
            _, rest, headers = origin.in_ranges([(begin, len(body))], body)
            handler.answer(206, rest[:len(content) // 8], headers, len(rest))
        handler.hang_up()
    return fault


def serves_index(make_content):
    """Serve the index that is made now."""
    return lambda stage: stage.liar.faults.update({stage.index: origin.serves(make_content())})


CHUNK_INDEXES = [
    attack('index: ' + name, serves_index(make_content), 0, UPDATED,
           words=WORDS_OF_INDEXES.get(name, ()), is_whole=name in WORDS_OF_INDEXES,
           is_quick=name in WORDS_OF_INDEXES)
    for name, make_content in INDEXES.items()
] + quick([
    attack('index: of wrong hashes', index_with_wrong_hashes, 0, UPDATED,
           words='not what its index says', is_whole=True),
    attack('index: of an image that is nearly the same', index_of_one_nearly_the_same, 0, UPDATED,
           words=('.chunks', WHOLE), is_whole=True),
    attack('index: and ranges that fit it, of another image', index_and_ranges, 0, UPDATED,
           words=('.chunks', WHOLE), is_whole=True),
    attack('index: a part that is none, of status 206', on_index(origin.status(206, b'--x', [
        ('Content-Type', 'multipart/byteranges; boundary=x')])), 0, UPDATED, is_whole=True),
]) + [
    attack('index: parts without end', on_index(origin.floods(
        b'HTTP/1.1 206 OK\r\nContent-Type: multipart/byteranges; boundary=B\r\n\r\n',
        b'\r\n--B\r\nX: y\r\n\r\n' * 1000)), 0, UPDATED),
]

def on_ranges(what, on, quick_ones=(), **settings):
    """Yield the attacks on ranges; on(fault) makes each."""
    for name, change in RANGES.items():
        given = dict(settings, is_quick=True) if name in quick_ones else {}
        if name == 'all of another':
            yield attack('{}: {}'.format(what, name), on(parts(change)), (0, 3), LISTED, **given)
        else:
            yield attack('{}: {}'.format(what, name), on(parts(change)), 0, UPDATED, **given)


RANGES_OF_THE_IMAGE = [
    *on_ranges('ranges', on_image, SPOILT_PARTS),
    *on_ranges('single range', on_single, SPOILT_RANGES, is_whole=True),
    *on_ranges('ranges of both', on_both),
]

PATCHES_FROM_THE_OLD_IMAGE = [
    attack('patch: ' + name, serves_patch(make_content), 0, UPDATED)
    for name, make_content in PATCHES.items()
] + [
    attack('patch: ' + name, on_patch(make_fault), 0, UPDATED) for name, make_fault in (
        ('without end', lambda: origin.floods(b'HTTP/1.1 200 OK\r\n\r\n', bytes(65536))),
        ('broken off at each time', lambda: origin.drops(5)),
        ('an error', lambda: origin.status(500)),
        ('longer than its index says', lambda: origin.serves(right() + bytes(MIB))),
        ('shorter than its index says', lambda: origin.serves(right()[:9])),
        ('of another size at each time', lambda: grows(right())))
] + [
    attack('patch: of another size in each index', on_patch_that_shrinks, 0, UPDATED),
]

RECOMPRESSION_PATCHES_FROM_THE_OLD_IMAGE = [
    attack('recompression patch: ' + name, serves_recompression_patch(make_content), 0, UPDATED)
    for name, make_content in RECOMPRESSION_PATCHES.items()
] + [
    attack('recompression patch: ' + name,
           lambda stage, make_fault=make_fault: with_recompression_patch(
               stage, make_fault(), len(behind_head(right()))), 0, UPDATED)
    for name, make_fault in (
        ('without end', lambda: origin.floods(b'HTTP/1.1 200 OK\r\n\r\n', bytes(65536))),
        ('a range without end', lambda: origin.floods(
            'HTTP/1.1 206 OK\r\nContent-Range: bytes 0-{}/{}\r\n\r\n'.format(
                len(behind_head(right())) - 1, len(behind_head(right()))).encode(), bytes(65536))),
        ('broken off at each time', lambda: origin.drops(5)),
        ('an error', lambda: origin.status(500)),
        ('longer than its index says', lambda: origin.serves(behind_head(right()) + bytes(MIB))),
        ('shorter than its index says', lambda: origin.serves(right()[:9])),
        ('of another size at each time', lambda: grows(behind_head(right()))))
]

GROUPS = {
    'chunk indexes': CHUNK_INDEXES, 'ranges': RANGES_OF_THE_IMAGE,
    'patches': PATCHES_FROM_THE_OLD_IMAGE,
    'recompression patches': RECOMPRESSION_PATCHES_FROM_THE_OLD_IMAGE,
}

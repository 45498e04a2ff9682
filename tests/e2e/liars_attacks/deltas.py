"""What may be wrong with a chunk index, with ranges of an image, and with a patch.

None of it is signed, and none may cost more than a download.
"""
import itertools
import struct
import zlib

import origin
import tako
from liars_attacks.attack import (LISTED, MIB, NEW, OLD, OTHER, UPDATED, attack, on_image, on_index, ranged)
from test_patches import make, patch, segment

HEADER = ('magic', 'method', 'zero', 'patches', 'average', 'size', 'count', 'planes')


def made(average=8192, method=tako.BY_CONTENT, lengths=None, hashes=None, planes=None, patches=b'', **changes):
    """An index of the new image of chunks with these sizes, as hostile as it has to be."""
    lengths = [1000] * (len(NEW) // 1000) + [len(NEW) % 1000] if lengths is None else lengths
    if planes is None:
        planes = zlib.compress(b''.join(bytes(length >> shift & 255 for length in lengths) for shift in (0, 8, 16)))
    header = {'magic': tako.INDEX_MAGIC, 'method': method, 'zero': 0, 'patches': len(patches) // 40, 'average': average,
              'size': len(NEW), 'count': len(lengths), 'planes': len(planes)}
    header.update(changes)
    return (struct.pack(tako.INDEX_FORMAT, *(header[name] for name in HEADER)) + patches + planes
            + (bytes(8 * len(lengths)) if hashes is None else hashes))


def hashes_of(content, lengths):
    found, at = b'', 0
    for length in lengths:
        found += tako.chunk_hash(content[at:at + length])
        at += length
    return found


def cut(content, average=tako.CHUNK_MIN_BYTES):
    index = tako.index_image(tako.io.BytesIO(content).read, tako.BY_CONTENT, average)
    return list(index.lengths), index.hashes


SMALL = [9] * (len(NEW) // 9) + ([len(NEW) % 9] if len(NEW) % 9 else [])
MANY = SMALL[:8000] + [1500] * ((len(NEW) - 9 * 8000) // 1500)
MANY += [len(NEW) - sum(MANY)] if len(NEW) - sum(MANY) else []
OLD_LENGTHS, OLD_HASHES = cut(OLD)
NEW_LENGTHS, NEW_HASHES = cut(NEW)
BOMB = zlib.compress(bytes(60 * MIB), 9)


def alternating():
    """Each second chunk is one that nobody knows: as many ranges as can be."""
    hashes = bytearray(NEW_HASHES)
    for number in range(0, len(NEW_LENGTHS), 2):
        hashes[8 * number:8 * number + 8] = struct.pack('<Q', number)
    return made(lengths=NEW_LENGTHS, hashes=bytes(hashes), average=1024)


INDEXES = {
    'nothing': b'', 'a header alone': made()[:32], 'all zeros': bytes(60000), 'a page': b'<html>' * 1000, 'noise': OTHER[:60000],
    'cut short': made()[:-1], 'a byte more': made() + b'x',
    'a bomb of 60 MiB': made(planes=BOMB),
    'a bomb in a bomb': made(planes=zlib.compress(BOMB, 9)),
    'a bomb that is all of the index': made(lengths=[], planes=BOMB, count=0),
    'a stream that ends at once': made(planes=zlib.compress(b'')),
    'a stream of stored blocks': made(planes=zlib.compress(bytes(3000), 0)),
    'planes of 2^32': made()[:28] + b'\xff' * 4 + bytes(6000),
    'a count of 2^32': made(count=(1 << 32) - 1), 'a size of 2^64': made(size=(1 << 64) - 1),
    'patches of 2^16': made(patches=b'x' * 40 * 64),
    'an average of 1': made(average=1), 'an average of 2^32': made(average=(1 << 32) - 1), 'an average of 0': made(average=0),
    'chunks of nothing': made(lengths=[0] * 5000 + [1000] * (len(NEW) // 1000) + [len(NEW) % 1000]),
    'sizes that add up to more': made(lengths=[1 << 23] * 100), 'sizes that wrap round': made(lengths=[(1 << 24) - 1] * 5000),
    'one chunk of all': made(lengths=[len(NEW)]),
    'chunks of 9 bytes': made(lengths=MANY, hashes=hashes_of(NEW, MANY)),
    'chunks of 9 bytes that nobody knows': made(lengths=MANY),
    'each second chunk unknown': alternating(),
    'all chunks the same': made(lengths=NEW_LENGTHS, hashes=NEW_HASHES[:8] * len(NEW_LENGTHS), average=1024),
    'all chunks of the old image, in another order': made(
        lengths=NEW_LENGTHS, hashes=(OLD_HASHES[::-1] + NEW_HASHES)[:len(NEW_HASHES)], average=1024),
    'of an image that it is not, and is consistent': made(lengths=cut(OTHER)[0], hashes=cut(OTHER)[1], average=1024),
    'of fixed size, and by content': made(method=tako.FIXED_SIZE, lengths=NEW_LENGTHS, hashes=NEW_HASHES),
    'by a method that is none': made(method=7),
    'an average that cuts otherwise': made(lengths=NEW_LENGTHS, hashes=NEW_HASHES, average=MIB),
}


def parts(change):
    """Who asks for several ranges gets what change(ranges, body) returns, as do those who ask for one."""
    return ranged(lambda handler, ranges: change(ranges, handler.body))


def spoilt(edit):
    """The honest parts, with their body edited."""
    def change(ranges, body):
        code, content, headers = origin.in_ranges(ranges, body)
        return code, edit(content), headers
    return change


def said(headers):
    return lambda ranges, body: origin.in_ranges(ranges, body)[:2] + (headers,)


RANGES = {
    'other bytes': lambda ranges, _: origin.in_ranges(ranges, OTHER),
    'cut short': spoilt(lambda content: content[:-40]), 'more': spoilt(lambda content: content + b'x' * 10 * MIB),
    'zeros': spoilt(lambda content: bytes(len(content))), 'nothing': lambda *_: (206, b'', []),
    'of another image\'s size': lambda ranges, body: origin.in_ranges(ranges, body + b'x'),
    'shifted by one': lambda ranges, body: origin.in_ranges([(begin + 1, end + 1) for begin, end in ranges], body),
    'in another order': lambda ranges, body: origin.in_ranges(ranges[::-1], body),
    'the first alone': lambda ranges, body: origin.in_ranges(ranges[:1], body),
    'the first, a thousand times': lambda ranges, body: origin.in_ranges(ranges[:1] * 1000, body),
    'all of it, in parts': lambda ranges, body: origin.in_ranges([(0, len(body) // 2), (len(body) // 2, len(body))], body),
    'without headers': said([]),
    'under a boundary that is not there': said([('Content-Type', 'multipart/byteranges; boundary=no')]),
    'under an empty boundary': said([('Content-Type', 'multipart/byteranges; boundary=""')]),
    'under a boundary of 60 KB': said([('Content-Type', 'multipart/byteranges; boundary=' + 'x' * 60000)]),
    'of parts that are only boundaries': lambda *_: (206, b'\r\n--B' * 100000, [
        ('Content-Type', 'multipart/byteranges; boundary=B')]),
    'of a part with headers of a megabyte': lambda *_: (206, b'\r\n--B\r\nX: ' + b'x' * MIB + b'\r\n\r\n', [
        ('Content-Type', 'multipart/byteranges; boundary=B')]),
    'of a part of 2^60': lambda *_: (206, b'\r\n--B\r\nContent-Range: bytes 0-1152921504606846976/1152921504606846977\r\n\r\nx', [
        ('Content-Type', 'multipart/byteranges; boundary=B')]),
    'of a part that ends before it begins': lambda *_: (206, b'\r\n--B\r\nContent-Range: bytes 9-0/5\r\n\r\nx\r\n--B--\r\n', [
        ('Content-Type', 'multipart/byteranges; boundary=B')]),
    'compressed': lambda ranges, body: (206, zlib.compress(body), origin.in_ranges(ranges, body)[2] + [
        ('Content-Encoding', 'deflate')]),
    'not satisfiable': lambda *_: (416, b'', []), 'an error': lambda *_: (500, b'', []), 'forbidden': lambda *_: (403, b'', []),
    'all of another': lambda *_: (200, OTHER, []), 'all of it': lambda ranges, body: (200, body, []),
}


def on_both(fault):
    def lay(stage):
        on_index(fault)(stage)
        on_image(fault)(stage)
    return lay


def on_single(fault):
    """The same where the server knows no more than one range at once."""
    def lay(stage):
        stage.liar.has_several = False
        on_image(fault)(stage)
    return lay


def index_and_ranges(stage):
    """An index of another image, and ranges of that: they fit each other, and are not what was signed."""
    other = OTHER[:len(NEW) - 100000] + OLD[:100000]
    index = tako.index_image(tako.io.BytesIO(other).read, tako.BY_CONTENT, 8192)
    stage.liar.faults[stage.index] = origin.serves(tako.format_index(index))
    stage.liar.faults[stage.image] = parts(lambda ranges, _: origin.in_ranges(ranges, other))


RIGHT = make(OLD, NEW)
PATCHES = {
    'nothing': b'', 'noise': OTHER[:60000], 'cut short': RIGHT[:-1], 'a byte more': RIGHT + b'x',
    'of another image': make(OLD, OLD[:200000] + bytes(len(NEW) - 200000)),
    'a bomb of 100 MiB': patch(segment([(tako.COPY, len(NEW), 0)], new=bytes(100 * MIB))),
    'a bomb of operations': patch(segment([], control=bytes(100 * MIB))),
    'of operations that make nothing': patch(segment([(tako.COPY, 0, 0)] * 4000 + [(tako.COPY, len(NEW), 0)])),
    'a copy without end': patch(segment([(tako.COPY, 1 << 62, 0)])),
    'from before the older image': patch(segment([(tako.COPY, len(NEW), -1)])),
    'from behind the older image': patch(segment([(tako.COPY, len(NEW), 1 << 40)])),
    'of half the image': patch(segment([(tako.COPY, len(NEW) // 2, 0)])),
}


def listing(stage, size):
    """The index of the new image, which lists a patch of this size from the old one."""
    index = tako.parse_index(stage.liar.read(stage.index[1:]), len(NEW))
    return tako.format_index(index._replace(patches=((origin.digest_of(OLD), size),)))


def on_patch(fault, size):
    """The index lists a patch of this size; an honest one is there, for faults that serve a part of it."""
    def lay(stage):
        patch_url = '{}.{}.patch'.format(stage.image, origin.digest_of(OLD))
        stage.liar.write(stage.index[1:], listing(stage, size))
        stage.liar.write(patch_url[1:], RIGHT)
        stage.liar.faults[patch_url] = fault
    return lay


def on_patch_that_shrinks(stage):
    """With each answer the index lists a smaller one, which then breaks off after more than the next is to have.

    Each brings so much that whoever heeds nothing else asks on and on.
    """
    size = [300000]

    def serve_index(handler):
        size[0] -= 2
        handler.answer(200, listing(stage, size[0]))

    def serve_patch(handler):
        handler.answer(200, OTHER[:size[0] - 1], length=size[0])
        handler.hang_up()
    on_patch(serve_patch, size[0])(stage)
    stage.liar.faults[stage.index] = serve_index


def grows(content):
    """Breaks off after a part, whatever was asked for; and with each answer there is a byte more of it."""
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


GROUPS = {
    'chunk indexes': [attack('index: ' + name, on_index(origin.serves(content)), 0, UPDATED) for name, content in INDEXES.items()]
    + [attack('index: and ranges that fit it, of another image', index_and_ranges, 0, UPDATED),
       attack('index: parts without end', on_index(origin.floods(
           b'HTTP/1.1 206 OK\r\nContent-Type: multipart/byteranges; boundary=B\r\n\r\n', b'\r\n--B\r\nX: y\r\n\r\n' * 1000)),
           0, UPDATED)],
    'ranges': [attack('{}: {}'.format(what, name), on(parts(change)), (0, 3) if name == 'all of another' else 0,
                      LISTED if name == 'all of another' else UPDATED)
               for what, on in (('ranges', on_image), ('single range', on_single), ('ranges of both', on_both))
               for name, change in RANGES.items()],
    'patches': [attack('patch: ' + name, on_patch(origin.serves(content), len(content)), 0, UPDATED)
                for name, content in PATCHES.items()]
    + [attack('patch: ' + name, on_patch(fault, len(RIGHT)), 0, UPDATED) for name, fault in (
        ('without end', origin.floods(b'HTTP/1.1 200 OK\r\n\r\n', bytes(65536))), ('broken off at each time', origin.drops(5)),
        ('an error', origin.status(500)), ('longer than its index says', origin.serves(RIGHT + bytes(MIB))),
        ('shorter than its index says', origin.serves(RIGHT[:9])), ('of another size at each time', grows(RIGHT)))]
    + [attack('patch: of another size in each index', on_patch_that_shrinks, 0, UPDATED)],
}

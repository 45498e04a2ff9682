"""Patches as Tako makes them, and patches made by hand as Tako never makes them."""
import io
import lzma
import random
import zlib

import tako

MEMORY = 64 << 20           # bytes that make() may use


def make(old, new, memory=MEMORY):
    """Return the patch that makes `new` from `old`."""
    pieces = []
    tako.make_patch(old, new, pieces.append, memory, lambda _: None)
    return b''.join(pieces)


def damaged(patch, step, flips):
    """Yield the patch cut off after each `step` bytes, then with a flipped bit, `flips` times."""
    for size in range(0, len(patch), step):
        yield patch[:size]
    chance = random.Random(7)
    for _ in range(flips):
        flipped = bytearray(patch)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)


def number(value):
    """Return a number as the format writes it: 7 bits a byte, the lowest first."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes(made) + bytes([value])


def stream(content, dictionary=1 << 20):
    """Return content as one stream of raw LZMA2."""
    if not content:
        return b''
    return lzma.compress(content, lzma.FORMAT_RAW,
                         filters=[{'id': lzma.FILTER_LZMA2, 'dict_size': dictionary}])


def segment(operations, differences=b'', new=b'', control=None):
    """Return a segment of these operations, each a (kind, length, change of the shift).

    control: the bytes to write in place of the operations. A stream given as a tuple of one is
    written as it is, any other is compressed.
    """
    if control is None:
        numbers = [len(operations)] + [kind for kind, _, _ in operations]
        numbers += [length for each in (tako.COPY, tako.ADD, tako.NEW)
                    for kind, length, _ in operations if kind == each]
        numbers += [2 * change if change >= 0 else -2 * change - 1
                    for kind, _, change in operations if kind != tako.NEW]
        control = b''.join(map(number, numbers))
    streams = [each if isinstance(each, tuple) else stream(each) for each
               in (control, differences, new)]
    streams = [each[0] if isinstance(each, tuple) else each for each in streams]
    return b''.join([(2 * len(each) or 1).to_bytes(4, 'little') for each in streams] + streams)


def patch(*segments):
    """Return a patch of these segments."""
    return tako.PATCH_MAGIC + b''.join(segments)


# ---- recompression patches

LEVEL_9 = tako.Coder(tako.DEFLATE, 9, 64 + 15, 8)      # as mksquashfs compresses blocks


def packed(contents, level=9, gap=b'....'):
    """Return an image that has each of the contents as a zlib stream, and a gap before each."""
    return b''.join(gap + zlib.compress(each, level) for each in contents)


def recompression(old, new, memory=MEMORY):
    """Return the recompression patch between two images."""
    old_streams, new_streams, _ = tako.plan_recompression(old, new, memory, lambda _: None)
    head = tako.make_head(old, old_streams, new_streams)
    pieces = []
    tako.make_patch(*(b''.join(tako.expand(image, streams)) for image, streams
                      in ((old, old_streams), (new, new_streams))),
                    pieces.append, memory, lambda _: None, True)
    return head + b''.join(pieces)


def head(old=(), new=(), coders=(LEVEL_9,), sample=0, hashes=None, more=b''):
    """Return magic and head of a recompression patch.

    old, new: expanded streams as (begin, end, size of the content, number of the coder). hashes: by
    default 8 bytes for each coder. more: bytes behind the numbers.
    """
    numbers = [len(coders)] + [each for coder in coders for each in coder] + [sample]
    for streams in (old, new):
        ends = [0] + [end for _, end, _, _ in streams]
        numbers += [len(streams)] + [begin - end for (begin, _, _, _), end in zip(streams, ends)]
        numbers += [end - begin for begin, end, _, _ in streams]
        numbers += [size for _, _, size, _ in streams] + [coder for _, _, _, coder in streams]
    return raw_head(b''.join(map(number, numbers)) + more
                    + (bytes(8 * len(coders)) if hashes is None else hashes))


def raw_head(raw):
    """Return magic and head with these bytes in it."""
    content = stream(raw)
    return tako.RECOMPRESSION_MAGIC + (2 * len(content)).to_bytes(4, 'little') + content


class Now:
    """Stands in for an Executor: it does at once what is submitted."""

    def __init__(self, function, *arguments):
        self.result = lambda: function(*arguments)


def apply_recompression(patch, old, size, check=lambda: None):
    """Return the image that a recompression patch makes."""
    patch = io.BytesIO(patch)
    parsed = tako.Recompression(patch, lambda begin, count: old[begin:begin + count], len(old),
                                size)
    return b''.join(parsed.blocks(patch, io.BytesIO(), Now, check))

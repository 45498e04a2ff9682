"""Patches as Tako makes them, and patches made by hand as Tako never makes them."""
import lzma

import tako

MEMORY = 64 << 20           # bytes that make() may use


def make(old, new, memory=MEMORY):
    """Return the patch that makes `new` from `old`."""
    pieces = []
    tako.make_patch(old, new, pieces.append, memory, lambda _: None)
    return b''.join(pieces)


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

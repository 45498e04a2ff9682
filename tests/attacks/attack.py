"""What an entry of the table of attacks consists of, and functions to make entries of."""
import contextlib
import socket
import threading
import time
from collections import namedtuple

import origin
import tako
from scene import noise, prose

OLDER = b'an image of long ago'
OLD = prose(150000) + noise(250000)
NEW = OLD[:100000] + noise(3000, 7) + OLD[102000:300000] + b'inserted' + OLD[300000:]
OTHER = noise(len(NEW), 9)
HALF = len(NEW) // 2            # bytes of the new image that a client has at the start 'half'
MIB = 1 << 20

# how an attack may leave the destination
SAME, LISTED, UPDATED, ANY = 'same', 'listed', 'updated', 'any'
# how fetch says that it gives up ranges and patches, and where it says so of a patch or an index
WHOLE = 'downloading the whole image'


class Attack(namedtuple('Attack', (
        'name', 'lay', 'codes', 'state', 'seconds', 'memory', 'disk', 'sent', 'then', 'beside',
        'is_blamed', 'start', 'options', 'words', 'is_whole', 'asked', 'is_quick'))):
    """A way to attack fetch, and what it may achieve.

    lay(stage)      makes the attack
    codes           the exit codes that fetch may end with
    state           of the destination then. SAME: nothing changed. LISTED: only the manifest
                    changed, to the honest one. ANY: at most the manifest changed. UPDATED: the new
                    image is installed; if 0 is one of several codes, it means the same
    seconds         how long fetch may take
    memory, disk    bytes that it may use, beyond the memory of an honest update
    sent            bytes that the liar may send in one response without end
    then            the exit code of an honest run after it
    beside          the exit code with an honest mirror beside the liar; None: there is no such case
    is_blamed       True if fetch succeeds beside the mirror and only warns of the liar; None if it
                    may do otherwise
    start           what is installed before: the 'old' image, 'nothing', or nothing and 'half' of
                    the new image as a partial file
    options         of fetch
    words           each of these is in what fetch prints to stderr
    is_whole        whether the honest whole image has to be sent in the end
    asked           the first byte of each request for the image, None for a request without Range;
                    None if all this is open
    is_quick        whether `make check` runs it: alone, and if it is blamed, beside a mirror
    """

    __slots__ = ()

    def beside_mirror(self):
        """Return the attack as it has to end with an honest mirror beside the liar.

        A fork is accepted by nobody, so an honest run that only sees one side of it goes on.
        """
        return self._replace(
            codes=(self.beside,), state={0: UPDATED, 3: SAME}.get(self.beside, ANY), words=(),
            is_whole=False, asked=None, then=0 if self.beside == 3 else self.then)


def attack(name, lay, codes, state, **settings):
    """Return an Attack. Its other fields have defaults."""
    codes = (codes,) if isinstance(codes, int) else tuple(codes)
    given = {'seconds': 15, 'memory': 12 * MIB, 'disk': MIB + len(NEW), 'sent': 32 * MIB,
             'then': 0, 'beside': 0, 'is_blamed': True if 0 not in codes else None,
             'start': 'old', 'options': (), 'words': (),
             'is_whole': False, 'asked': None, 'is_quick': False}
    assert not set(settings) - set(given), settings
    if settings.get('beside', 0) != 0:
        given['is_blamed'] = None
    words = settings.pop('words', ())
    settings['words'] = (words,) if isinstance(words, str) else tuple(words)
    return Attack(name, lay, codes, state, **dict(given, **settings))


def quick(attacks):
    """Return these attacks, marked for `make check`."""
    return [each._replace(is_quick=True) for each in attacks]


# ---- how to lay one

def on_manifest(fault):
    """Answer requests for the manifest with this fault."""
    return lambda stage: stage.liar.faults.update({'/manifest': fault})


def on_image(fault):
    """Answer requests for the new image with this fault."""
    return lambda stage: stage.liar.faults.update({stage.image: fault})


def on_index(fault):
    """Answer requests for the index of the new image with this fault."""
    return lambda stage: stage.liar.faults.update({stage.index: fault})


def on_all(fault):
    """Answer all requests with this fault."""
    return lambda stage: stage.liar.faults.update({'*': fault})


def with_manifest(make):
    """Serve the manifest that make(stage) returns."""
    return lambda stage: stage.liar.faults.update({'/manifest': origin.serves(make(stage))})


def with_signature(body, seed=origin.SEED):
    """Return a manifest with this body, whatever it is."""
    return body + tako.encode_base64(tako.ed25519_sign(seed, body)).encode() + b'\n'


def signed(entries, seed=origin.SEED):
    """Return a manifest with these entries or lines, in this order, whatever they are."""
    lines = [entry if isinstance(entry, bytes) else entry.line().encode() for entry in entries]
    return with_signature(tako.MANIFEST_HEADER + b''.join(lines) + b'\n', seed)


# ---- faults beyond those of origin.py

def says(*pieces):
    """Send these pieces and hang up. A piece is bytes, or a function of the handler."""
    def fault(handler):
        with contextlib.suppress(OSError):
            for piece in pieces:
                handler.wfile.write(piece(handler) if callable(piece) else piece)
        handler.hang_up()
    return fault


def body_of(handler):
    """Return the honest body."""
    return handler.body or b''


def answers(head, *more):
    """Send a status line and headers, and then these pieces or the honest body."""
    return says(b'HTTP/1.1 ' + head.replace(b'\n', b'\r\n') + b'\r\n\r\n', *(more or (body_of,)))


def with_length(make):
    """Send the honest body with the Content-Length that make(size) returns."""
    return says(lambda handler: b'HTTP/1.1 200 OK\r\nContent-Length: '
                + make(len(body_of(handler))).encode()
                + b'\r\n\r\n' + body_of(handler))


def drips(head=b'', piece=b'x', seconds=0.05):
    """Send head, and then piece again and again, with pauses."""
    return origin.floods(head, piece, seconds)


def drips_slowly(head, seconds=100):
    """Send head, and then a byte a second, for longer than any window."""
    def fault(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(head)
            for _ in range(seconds):
                handler.wfile.write(b'x')
                if handler.server.origin.released.wait(1):
                    break
        handler.hang_up()
    return fault


def stops(head):
    """Send head, and then nothing until the liar is released."""
    def fault(handler):
        handler.wfile.write(head)
        handler.hold()
    return fault


def ranged(answer):
    """Answer requests for ranges with (status, body, headers) of answer(), others honestly."""
    def fault(handler):
        ranges = handler.ranges(len(handler.body or b''))
        if ranges:
            handler.answer(*answer(handler, ranges))
        else:
            handler.serve()
    return fault


def whole_or(fault):
    """Answer requests for ranges with this fault, others honestly."""
    return lambda handler: fault(handler) if handler.ranges(1) else handler.serve()


class Tarpit:
    """A server that accepts connections, sends a greeting if it has one, and then nothing."""

    def __init__(self, greeting=b''):
        self._greeting = greeting
        self._listener = socket.socket()
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        self._taken = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                self._taken.append(taken)
                taken.sendall(self._greeting)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._taken:
            each.close()


def sleeps(seconds, fault):
    """Answer with this fault after so many seconds."""
    def later(handler):
        time.sleep(seconds)
        fault(handler)
    return later

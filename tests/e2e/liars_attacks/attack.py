"""An attack, and the words of which the tables of attacks are made."""
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
MIB = 1 << 20

SAME, LISTED, UPDATED, ANY = 'same', 'listed', 'updated', 'any'


class Attack(namedtuple('Attack', (
        'name', 'lay', 'codes', 'state', 'seconds', 'memory', 'disk', 'then', 'beside', 'start', 'options', 'words'))):
    """One way to attack, and what it may come to.

    lay(stage): does it. codes: how fetch may end. state: of the destination then. SAME: all is as before; LISTED: but
    for the manifest, which is the honest one; ANY: but for the manifest; UPDATED: the new image is there, as it has to
    be after 0 where that is one of several codes. seconds, memory (bytes beyond what an honest update takes) and disk
    (bytes) are bounds. then: how an honest run ends after it, 0 if it converges. beside: how it ends where an honest
    mirror stands beside the liar; None if there is no such case. start: what is there before: the old image, nothing,
    or half of the new one. options: of fetch. words: what is told.
    """

    __slots__ = ()


def attack(name, lay, codes, state, **settings):
    given = {'seconds': 15, 'memory': 12 * MIB, 'disk': MIB + len(NEW), 'then': 0, 'beside': 0, 'start': 'old', 'options': (),
             'words': ''}
    assert not set(settings) - set(given), settings
    return Attack(name, lay, (codes,) if isinstance(codes, int) else codes, state, **dict(given, **settings))


# ---- how to lay one

def on_manifest(fault):
    return lambda stage: stage.liar.faults.update({'/manifest': fault})


def on_image(fault):
    return lambda stage: stage.liar.faults.update({stage.image: fault})


def on_index(fault):
    return lambda stage: stage.liar.faults.update({stage.index: fault})


def on_all(fault):
    return lambda stage: stage.liar.faults.update({'*': fault})


def with_manifest(make):
    """The manifest is what make(stage) returns."""
    return lambda stage: stage.liar.faults.update({'/manifest': origin.serves(make(stage))})


def signed(entries, seed=origin.SEED):
    """A manifest with these entries, in this order, whatever they are."""
    body = tako.MANIFEST_HEADER + b''.join(
        entry if isinstance(entry, bytes) else entry.line().encode() for entry in entries) + b'\n'
    return body + tako.encode_base64(tako.ed25519_sign(seed, body)).encode() + b'\n'


# ---- faults, beyond those of origin.py

def says(*pieces):
    """Sends these bytes, or what a piece makes of the handler, and hangs up."""
    def fault(handler):
        with contextlib.suppress(OSError):
            for piece in pieces:
                handler.wfile.write(piece(handler) if callable(piece) else piece)
        handler.hang_up()
    return fault


def body_of(handler):
    return handler.body or b''


def answers(head, *more):
    """Sends a status line and headers, and then the honest body, or what is given in its place."""
    return says(b'HTTP/1.1 ' + head.replace(b'\n', b'\r\n') + b'\r\n\r\n', *(more or (body_of,)))


def with_length(make):
    """Answers with the honest body, and with a Content-Length that make(size) returns."""
    return says(lambda handler: b'HTTP/1.1 200 OK\r\nContent-Length: ' + make(len(body_of(handler))).encode()
                + b'\r\n\r\n' + body_of(handler))


def drips(head=b'', piece=b'x', seconds=0.05):
    """Sends head, and then piece over and over, with pauses."""
    return origin.floods(head, piece, seconds)


def drips_slowly(head, seconds=100):
    """Sends head, and then a byte a second, for longer than any window."""
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
    """Sends this, and then nothing, for as long as the liar is not released."""
    def fault(handler):
        handler.wfile.write(head)
        handler.hold()
    return fault


def ranged(answer):
    """Whoever asks for ranges gets answer(handler, ranges), which is (status, body, headers); all others what is honest."""
    def fault(handler):
        ranges = handler.ranges(len(handler.body or b''))
        if ranges:
            handler.answer(*answer(handler, ranges))
        else:
            handler.serve()
    return fault


def whole_or(fault):
    """The fault for whoever asks for ranges; all others get what is honest."""
    return lambda handler: fault(handler) if handler.ranges(1) else handler.serve()


class Tarpit:
    """Takes connections on a port, and says what it is given, if that, and no more."""

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
    """The fault, after a while."""
    def later(handler):
        time.sleep(seconds)
        fault(handler)
    return later

#!/usr/bin/env python3
"""Tako: take container image.

Tako keeps signed, versioned images (filesystem images, tarballs, any binary file) up to date on a
machine, and restarts the units that run from them. An image's publisher runs gen-key once and store
for each version, and lets any web server serve the directory. The machine that uses the image has a
config, and runs fetch from cron, from a systemd timer, or before its unit starts:

    tako gen-key                                      make a key pair
    tako store -f KEYFILE -o DIR IMAGE VERSION        publish IMAGE as VERSION in DIR
    tako fetch CONFIG...                              bring the newest compatible version here
    tako status CONFIG...                             what is here, and why
    tako verify -p PUBLICKEY DIR                      whether what is published is whole
    tako sign -f NEWKEYFILE -p OLDPUBLICKEY DIR       sign what is published with another key

A config names one image, one setting a line:

    Origin=https://images.example.com/app
    PublicKey=l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k=
    Destination=/var/lib/images/app
    Version=1.*
    Restart=app.service

Then /var/lib/images/app/latest is a link to the newest image in these bounds whose signature, size
and digest were all checked. What fails leaves the link as it was.

Exit codes: 0 done; 1 failed; 2 the command line or the config is wrong; 3 refused, because a
signature, a digest, a size or a manifest is not what it has to be; 75 the origin or the lock is
not to be had just now, try again; 129, 130 and 143 ended by SIGHUP, SIGINT and SIGTERM.
"""
# How this file is laid out: each section uses the sections above it alone (a test holds it to that).
#
#   1  limits            every bound on what comes from outside
#   2  errors            what can go wrong, with exit codes
#   3  Ed25519           signatures, RFC 8032
#   4  keys              public and secret keys as text
#   5  versions          their order, and the patterns that choose among them
#   6  manifest          signed bytes -> Manifest -> signed bytes
#   7  config            text -> Config
#   ~~~~~~~~~~~~~~~~~    above: functions of bytes and values; below: the world
#   8  files             whole or absent; hashing; locking
#   9  network           URL -> chunks of bytes
#  10  destination       store/, manifest, latest, and notes of our own
#  11  units             systemctl
#  12  report            what is printed, where, and how loud
#  13  fetch             where network, destination and units meet
#  14  status            what is known offline
#  15  publish           store, sign, verify, gen-key
#  16  command line      arguments, exit codes

if __name__ == '__main__':
    import signal
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)        # until we can end in better words than a traceback

import argparse
import binascii
import errno
import fcntl
import functools
import gc
import hashlib
import io
import os
import re
import signal
import sys
import time
from collections import namedtuple

TYPE_CHECKING = False           # typing's own constant would cost its import at every start
if TYPE_CHECKING:
    import http.client
    import socket
    import ssl
    from types import FrameType, TracebackType
    from typing import (Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Mapping, NoReturn,
                        Optional, Sequence, Set, TextIO, Tuple, Type, TypeVar, Union)
    T = TypeVar('T')

__version__ = '0.1.0'


# ======================================================================== 1  limits

CONFIG_MAX_BYTES = 1 << 20              # of a config file
KEY_FILE_MAX_BYTES = 4096               # of a secret key file; a key has 135 characters
MANIFEST_MAX_BYTES = 16 << 20           # of a manifest: about 170,000 entries
IMAGE_MAX_BYTES = (1 << 63) - 1         # of an image, as its entry says
VERSION_MAX_CHARS = 255
UNIT_NAME_MAX_CHARS = 255               # systemd's own bound

BLOCK_BYTES = 1 << 18                   # moved, hashed and written at a time
DISCARD_MAX_BYTES = 1 << 16             # read of an error page so as to keep the connection
REDIRECTS_MAX = 10
NETWORK_TIMEOUT_SECONDS = 10.0          # to connect, and between two packets
RATE_WINDOW_SECONDS = 30.0              # over which a line has to bring
RATE_MIN_BYTES = 30 << 10               # this much of a body, or it is dropped and taken up again: 1 KiB a second
FRAMING_MAX_BYTES = 2 << 20             # of headers, chunk sizes and trailers that an answer may hold
FRAMING_MAX_FACTOR = 8                  # and of the body's own size: a chunk of one byte takes six
PAUSE_FIRST_SECONDS = 0.5               # before an origin is asked again; doubled from one time to the next
PAUSE_MAX_SECONDS = 8.0
PAUSE_BUDGET_SECONDS = 20.0             # for all pauses that one host costs one run
PROGRESS_MIN_BYTES = 1 << 16            # brought by a connection that failed later: it starts afresh with pauses
ETAG_MAX_CHARS = 200
FULL_ANSWER_SECONDS = 86400             # once in each of these a manifest is asked for whatever its ETag
MANIFEST_SECONDS = 60.0                 # for a mirror's manifest, while another is unasked
LOCK_WAIT_SECONDS = 120.0               # for another run on the same directory
LOCK_POLL_SECONDS = 0.05
MESSAGE_MAX_CHARS = 2000                # of a line of trouble: servers have their say in some
NAMES_MAX = 5                           # of versions, where a message lists them
COLLECT_EVERY_OBJECTS = 200000          # that are new: the entries of a long manifest are many, and none is garbage
HELP_COLUMNS = 80                       # of what --help prints
PROGRESS_EVERY_SECONDS = 0.2            # the progress line is drawn anew
STATE_MAX_BYTES = 1 << 20               # of our own notes in a destination
SYSTEMCTL_TIMEOUT_SECONDS = 900.0       # for units to restart; systemd's own limits are below it, as a rule
CONFIRM_MAX_SECONDS = 3600              # of Confirm=


# ======================================================================== 2  errors

GRAVITY = (0, 75, 1, 2, 3)              # exit codes; the last that any part of a run has is the run's


class TakoError(Exception):
    """What the user is told: what is wrong, in one line, and in another what to do about it.

    line: where in the config it is, if it is there. exit_code is the class's.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = '', line: 'Optional[int]' = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.line = line


class UsageError(TakoError):
    """The command line or something it names is wrong."""

    exit_code = 2


class ConfigError(UsageError):
    """A config is wrong."""


class VersionError(UsageError):
    """A text is no version, or no pattern."""


class RefusedError(TakoError):
    """What was read or received is not what its signature says."""

    exit_code = 3


class SignatureError(RefusedError):
    """No key that is trusted here signed it."""

    def __init__(self, where: str) -> None:
        super().__init__(f'{where}: none of the public keys given signed this',
                         'it was altered, or another key signed it: compare the keys')


class ManifestError(RefusedError):
    """Signed, and yet not a manifest."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f'{where}: {what}',
                         'its signature is right, so this is how it was published: tell the publisher')


class RollbackError(RefusedError):
    """A manifest lacks what an earlier one had."""

    def __init__(self, where: str, lost: str) -> None:
        super().__init__(f'{where}: lacks or changes {lost}, which the last manifest had',
                         'the origin is stale, or one key signs for two directories')


class ForkError(RefusedError):
    """Two manifests, both signed, of which neither continues the other."""

    def __init__(self, one: str, other: str, line: str) -> None:
        super().__init__(f'{one} and {other} contradict each other, first in: {line}',
                         'one key signed two histories: a fetch keeps them as .fork.1 and .fork.2 for the publisher')


class UnreachableError(TakoError):
    """The origin is not to be had now; nothing is wrong on this side."""

    exit_code = 75


class TransientError(UnreachableError):
    """The same request may well succeed soon; retry_after is how many seconds the server asks to wait, if it does."""

    def __init__(self, what: str, hint: str = 'try again later', retry_after: float = 0.0) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after
        self.has_progressed = False


class GoneError(UnreachableError):
    """The origin says that it withdrew this (HTTP status 410)."""


class LockedError(TakoError):
    """Another run holds the lock."""

    exit_code = 75


class UnitError(TakoError):
    """A unit is not there, or does not run."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def as_tako_error(error: Exception) -> TakoError:
    """The error itself, or what the operating system says, in words, or what we did not foresee."""
    if isinstance(error, TakoError):
        return error
    if isinstance(error, ImportError):
        return TakoError(f'this Python lacks its {error.name} package',
                         'install all of Python (Debian: apt install python3); file:// origins work without http')
    if not isinstance(error, OSError):
        lines, trace = [], error.__traceback__
        while trace is not None:
            lines.append(str(trace.tb_lineno))
            trace = trace.tb_next
        return TakoError('a defect of this program: {!r}, lines {}'.format(error, ' > '.join(lines)),
                         'please report it, with the command line and tako --version')
    where = ''.join(os.fsdecode(name) + ': ' for name in (error.filename, error.filename2)
                    if isinstance(name, (str, bytes)))
    hint = 'see what stands at that path'
    if error.errno in NO_SPACE:
        hint = 'make room there and run it again; what was there is still whole'
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = 'run it as a user who may do this, or change the permissions'
    elif error.errno == errno.EROFS:
        hint = 'mount it so that it can be written'
    elif error.errno == errno.EIO:
        hint = 'the disk may be failing: see dmesg'
    return TakoError(where + (error.strerror or str(error)), hint)


# ======================================================================== 3  Ed25519
#
# RFC 8032, section 5.1, without its cofactor: what is accepted is exactly what libsodium's
# crypto_sign_verify_detached accepts. Nothing here runs in constant time, so sign where nobody who
# could measure it shares the machine. A point is affine (x, y), or in extended coordinates
# (X, Y, Z, E, H) with x = X/Z, y = Y/Z and T = E*H = X*Y/Z not yet multiplied out.

P = 2**255 - 19                         # the field
L = 2**252 + 27742317777372353535851937790883648493     # the order of the base point
D = 37095705934669439343138083508754565189542113879843219016388785533085940283555
SQRT_MINUS_1 = 19681161376707505956807079304988542015446066515923890162744021073123829784752
BASE = (15112221349535400772501151409588531511454012693041857206046113283949847762202,
        46316835694926478169428394003475163141307993866256225615783033603165251855960)
LOW_255_BITS = 2**255 - 1


def ed25519_public_key(seed: bytes) -> bytes:
    """The 32-byte public key of a 32-byte secret seed (RFC 8032, 5.1.5); ValueError on other lengths."""
    scalar, _ = _expand(seed)
    return _encode_point(_sum_of_multiples((scalar, BASE)))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte signature of message (RFC 8032, 5.1.6), verified before it is returned.

    Deterministic. Raises ValueError unless seed has 32 bytes, and ArithmeticError if the machine
    miscalculated: a faulty signature can give the secret away.
    """
    scalar, prefix = _expand(seed)
    public_key = _encode_point(_sum_of_multiples((scalar, BASE)))
    r = _sha512_number(prefix, message) % L
    encoded_r = _encode_point(_sum_of_multiples((r, BASE)))
    s = (r + _sha512_number(encoded_r, public_key, message) * scalar) % L
    signature = encoded_r + s.to_bytes(32, 'little')
    if not ed25519_verify(public_key, message, signature):
        raise ArithmeticError('this machine signs wrongly')
    return signature


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether signature (64 bytes) is public_key's (32 bytes) for message (RFC 8032, 5.1.7).

    Refuses S >= L, encodings of A or R that are not canonical, and A or R of small order.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    encoded_r, s = signature[:32], int.from_bytes(signature[32:], 'little')
    a = _decode_point(public_key)
    if a is None or s >= L:
        return False
    k = _sha512_number(encoded_r, public_key, message) % L
    minus_a = P - a[0], a[1]
    r = _sum_of_multiples((s, BASE), (k, minus_a))          # S B - k A
    return _encode_point(r) == encoded_r and not _is_of_small_order(*r)


def _expand(seed: bytes) -> 'Tuple[int, bytes]':
    """The secret scalar and the prefix that are made of a seed (5.1.5, steps 1 and 2)."""
    if len(seed) != 32:
        raise ValueError('an Ed25519 seed has 32 bytes')
    digest = hashlib.sha512(seed).digest()
    return int.from_bytes(digest[:32], 'little') & (2**254 - 8) | 2**254, digest[32:]


def _sha512_number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b''.join(parts)).digest(), 'little')


def _encode_point(point: 'Tuple[int, int]') -> bytes:
    """The 32 bytes of an affine point (5.1.2)."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, 'little')


def _decode_point(encoded: bytes) -> 'Optional[Tuple[int, int]]':
    """The affine point (5.1.3); None if there is none, not in this spelling, or of small order."""
    y = int.from_bytes(encoded, 'little')
    sign, y = y >> 255, y & LOW_255_BITS
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P                 # x^2 = u / v
    x = u * v**3 * pow(u * v**7 % P, (P - 5) // 8, P) % P
    if (v * x * x + u) % P == 0:
        x = x * SQRT_MINUS_1 % P
    if (v * x * x - u) % P or _is_of_small_order(x, y):
        return None
    return (x if x & 1 == sign else P - x), y


def _is_of_small_order(x: int, y: int) -> bool:
    """Whether 8 times the point is neutral: x = 0, y = 0, or x^2 = -y^2 (orders 1, 2; 4; 8)."""
    return x * y * (x * x + y * y) % P == 0


def _sum_of_multiples(*terms: 'Tuple[int, Tuple[int, int]]') -> 'Tuple[int, int]':
    """The sum of scalar * point over (scalar, point) terms, all doublings shared (Straus).

    A scalar is cut into odd digits between -15 and 15, at least 5 bits apart.
    """
    additions = [[] for _ in range(256)]    # type: List[List[Tuple[int, int, int, int]]]
    for scalar, point in terms:
        multiples, bit = _odd_multiples(*point), 0
        while scalar:
            if scalar & 1:
                additions[bit].append(multiples[scalar >> 1 & 15])
                scalar, bit = (scalar >> 5) + (scalar >> 4 & 1), bit + 5
            else:
                scalar, bit = scalar >> 1, bit + 1
    while additions and not additions[-1]:
        additions.pop()
    x, y, z = 0, 1, 1
    for addends in reversed(additions):
        x, y, z, e, h = _double(x, y, z)
        for addend in addends:
            x, y, z, e, h = _add(x, y, z, e, h, addend)
    inverse = pow(z, -1, P) if sys.version_info >= (3, 8) else pow(z, P - 2, P)
    return x * inverse % P, y * inverse % P


def _odd_multiples(x: int, y: int) -> 'List[Tuple[int, int, int, int]]':
    """[1, 3 .. 15, -15 .. -3, -1] times a point, in the form that _add() takes."""
    x2, y2, z2, e, h = _double(x, y, 1)
    twice = y2 - x2, y2 + x2, 2 * D * e * h % P, 2 * z2
    z, e, h = 1, x, y
    multiples = []
    for _ in range(8):
        multiples.append((y - x, y + x, 2 * D * e * h % P, 2 * z))
        x, y, z, e, h = _add(x, y, z, e, h, twice)
    return multiples + [(plus, minus, -t, z) for minus, plus, t, z in reversed(multiples)]


def _add(x: int, y: int, z: int, e: int, h: int,
         addend: 'Tuple[int, int, int, int]') -> 'Tuple[int, int, int, int, int]':
    """Complete addition (5.1.4); addend is (Y - X, Y + X, 2 d T, 2 Z)."""
    minus, plus, t2d, z2 = addend
    a, b, c, d = (y - x) * minus, (y + x) * plus, e * h % P * t2d, z * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    # 2^255 = 19 in the field: folding the high bits is cheaper than % P, and canonical these need not be
    e = (e & LOW_255_BITS) + 19 * (e >> 255)
    f = (f & LOW_255_BITS) + 19 * (f >> 255)
    g = (g & LOW_255_BITS) + 19 * (g >> 255)
    h = (h & LOW_255_BITS) + 19 * (h >> 255)
    return e * f % P, g * h % P, f * g % P, e, h


def _double(x: int, y: int, z: int) -> 'Tuple[int, int, int, int, int]':
    """Doubling (5.1.4), all signs turned, which is the same point."""
    a, b, e = x * x, y * y, x + y
    g, h = b - a, b + a
    e = e * e - h
    e = (e & LOW_255_BITS) + 19 * (e >> 255)
    g = (g & LOW_255_BITS) + 19 * (g >> 255)
    h = (h & LOW_255_BITS) + 19 * (h >> 255)
    f = 2 * z * z - g
    f = (f & LOW_255_BITS) + 19 * (f >> 255)
    return e * f % P, g * h % P, f * g % P, e, h


# ======================================================================== 4  keys

SECRET_KEY_PREFIX = 'SECRET+'


def decode_base64(text: str, size: int) -> 'Optional[bytes]':
    """The size bytes that text is the canonical base64 of (RFC 4648, section 4); None if it is not."""
    try:
        decoded = binascii.a2b_base64(text.encode('ascii'))
    except ValueError:                              # binascii.Error and UnicodeEncodeError both are
        return None
    # binascii skips what it does not know and ignores stray bits: only the round trip is strict
    return decoded if len(decoded) == size and encode_base64(decoded) == text else None


def encode_base64(data: bytes) -> str:
    """The canonical base64 of data, on one line."""
    return binascii.b2a_base64(data, newline=False).decode('ascii')


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a public key in base64; UsageError if it is none that can have signed anything."""
    if text.startswith(SECRET_KEY_PREFIX):
        raise UsageError('a secret key where a public one belongs',
                         'who could read this can sign: make a new key pair, and put its public key here')
    key = decode_base64(text, 32)
    if key is None:
        raise UsageError('not a public key', 'expected 44 characters of base64, as gen-key prints them')
    if _decode_point(key) is None:
        raise UsageError('no secret key belongs to this public key', 'copy it again from what gen-key printed')
    return key


def parse_secret_key(text: str) -> bytes:
    """The 32-byte seed of a secret key as gen-key prints it; UsageError if it is damaged.

    The text is SECRET+ and the base64 of seed, public key and public key again. No error quotes it.
    """
    if not text.startswith(SECRET_KEY_PREFIX):
        raise UsageError('not a secret key', f'expected the line that gen-key printed, from {SECRET_KEY_PREFIX} on')
    key = decode_base64(text[len(SECRET_KEY_PREFIX):], 96)
    if key is None:
        raise UsageError('a secret key that is cut short or altered', 'copy it again from what gen-key printed')
    seed, first, second = key[:32], key[32:64], key[64:]
    if not first == second == ed25519_public_key(seed):
        raise UsageError('a secret key whose parts do not belong together', 'copy it again from what gen-key printed')
    return seed


def format_secret_key(seed: bytes) -> str:
    """The text of which parse_secret_key() makes this 32-byte seed."""
    public_key = ed25519_public_key(seed)
    return SECRET_KEY_PREFIX + encode_base64(seed + public_key + public_key)


# ======================================================================== 5  versions
#
#     1.0-beta.1  <  1.0  =  1  =  1-0_0  <  1.0.1  <  1.9  <  1.10  <  2
#
# A version is parts between separators. Part by part: a string is below every number, numbers go by
# value, strings by their bytes, and the shorter version is padded with zeros.

VERSION_PATTERN = '([!-~]{1,%d})' % VERSION_MAX_CHARS
# without what other tools take for operators: as part of a version it would let nothing in, silently
PATTERN_PART = r'(?!~)(?:(?![<>=,|^!()\[\]])[!-~]){1,%d}' % VERSION_MAX_CHARS
PATTERN_FORMS = 'legal are * (any), 1.* (all that begin with 1), 1.13.7 (that one), 1.2 <= v < 2.0 (a range)'


@functools.total_ordering
class Version:
    """A version: text as it was spelled, and order, which sorts and equates as versions do."""

    __slots__ = ('order', 'text')

    def __init__(self, text: str, order: 'Tuple[Any, ...]') -> None:
        self.text = text
        self.order = order

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self.order == other.order

    def __lt__(self, other: 'Version') -> bool:
        return self.order < other.order

    def __hash__(self) -> int:
        return hash(self.order)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f'parse_version({self.text!r})'


def parse_version(text: str) -> Version:
    """The version that text spells: 1 to 255 printable ASCII characters, no space; else VersionError."""
    if not re.fullmatch(VERSION_PATTERN, text):
        raise VersionError(f'not a version: {text[:80]!a}',
                           'a version is 1 to 255 printable ASCII characters without a space')
    parts = _version_parts(text)
    if not parts:
        raise VersionError(f'not a version: {text!a}', 'a version is more than separators, as in 1.0.0')
    return Version(text, _version_order(parts))


def _version_parts(text: str) -> 'List[Union[int, str]]':
    parts = text.replace('-', '.').replace('_', '.').split('.')
    return [int(part) if part.isdigit() else part for part in parts if part]


def _version_order(parts: 'Iterable[Union[int, str]]') -> 'Tuple[Any, ...]':
    """A tuple that compares as versions of these parts do, though each version is padded with zeros.

    Every part that is not zero has three places: what it is, how many zeros stand before it, and itself.
    Where another version has ended, the fewer zeros the lower is a string and the higher a number; the
    end is between both.
    """
    order = []  # type: List[Any]
    zeros = 0
    for part in parts:
        if part == 0:
            zeros += 1
        else:
            order += (0, zeros, part) if isinstance(part, str) else (2, -zeros, part)
            zeros = 0
    order.append(1)
    return tuple(order)


class Bounds:
    """The versions that a pattern lets in: `version in bounds`. lowest is where they begin, for messages."""

    def __init__(self, text: str, lowest: Version) -> None:
        self.text = text
        self.lowest = lowest

    def __contains__(self, version: Version) -> bool:
        return version == self.lowest


class _PrefixBounds(Bounds):
    def __init__(self, text: str, prefix: 'List[Union[int, str]]') -> None:
        super().__init__(text, Version(text, _version_order(prefix)))
        self.prefix = prefix

    def __contains__(self, version: Version) -> bool:
        parts = _version_parts(version.text)
        padding = [0] * (len(self.prefix) - len(parts))     # 1 is 1.0, and so in 1.0.*
        return parts[:len(self.prefix)] + padding == self.prefix


class _RangeBounds(Bounds):
    def __init__(self, text: str, lowest: Version, below: Version) -> None:
        super().__init__(text, lowest)
        self.below = below

    def __contains__(self, version: Version) -> bool:
        return self.lowest <= version < self.below and not self._is_pre_release_of_end(version)

    def _is_pre_release_of_end(self, version: Version) -> bool:
        """2.0-beta is below 2.0, and yet no step to take without being asked."""
        end = self.below.order[:-1]                         # the last place marks the end of a version
        return version.order[:len(end)] == end and version.order[len(end)] == 0


def parse_pattern(text: str) -> Bounds:
    """The bounds of a pattern, in one of the forms of PATTERN_FORMS; VersionError if in none."""
    spelled = text.split()
    if len(spelled) == 5 and spelled[1:4] == ['<=', 'v', '<']:
        lowest, below = _pattern_version(spelled[0], text), _pattern_version(spelled[4], text)
        bounds = _RangeBounds(text, lowest, below)
        if lowest not in bounds:
            raise VersionError(f'no version is within {text}', PATTERN_FORMS)
        return bounds
    if re.fullmatch(r'([^*]*[._-])?\*', text) and re.fullmatch(PATTERN_PART, text):
        return _PrefixBounds(text, _version_parts(text[:-1]))
    return Bounds(text, _pattern_version(text, text))


def _pattern_version(text: str, pattern: str) -> Version:
    if re.fullmatch(PATTERN_PART, text) and '*' not in text and _version_parts(text):
        return parse_version(text)
    raise VersionError(f'not a version pattern: {pattern[:80]!a}', PATTERN_FORMS)


# ======================================================================== 6  manifest
#
#     Tako Manifest 1
#
#     1.0.0 17 9641a49d02e90cbb6213f202fb632da70cdc59073d42283cfcdc1d786454f17f
#
#     WezSd49tB4ng/nbRZWWfLak+Sn1pUcOoA6X5pSg2MMOGRR4Lz0XYznFKKVj/E8vCCdmt3pQO4xTFyKlMUq1SCQ==
#
# An entry is version, size in bytes and SHA-256 of an image; entries ascend by version. The signature
# is for every byte before its own line. A publisher only ever adds entries.

MANIFEST_HEADER = b'Tako Manifest 1\n\n'
SIGNATURE_LINE_BYTES = 89
ENTRY_PATTERN = VERSION_PATTERN + ' (0|[1-9][0-9]{0,18}) ([0-9a-f]{64})'


class Entry(namedtuple('Entry', ('version', 'size', 'digest'))):
    """One image: its Version, its size in bytes, its SHA-256 in lowercase hex."""

    __slots__ = ()
    version: Version
    size: int
    digest: str

    def line(self) -> str:
        """How the entry stands in a manifest."""
        return f'{self.version.text} {self.size} {self.digest}\n'


class Manifest(namedtuple('Manifest', ('entries',))):
    """What a publisher offers: entries, ascending by version."""

    __slots__ = ()
    entries: 'Tuple[Entry, ...]'


def open_manifest(signed: bytes, public_keys: 'Sequence[bytes]', where: str) -> Manifest:
    """The manifest in signed bytes, if one of public_keys (32 bytes each) signed it.

    There is no other way from bytes to a Manifest. Raises SignatureError before anything is parsed,
    and ManifestError if what was signed is not a manifest; where begins the messages.
    """
    body, signature = _split_signature(signed, where)
    if not any(ed25519_verify(key, body, signature) for key in public_keys):
        raise SignatureError(where)
    return Manifest(tuple(_parse_entries(body, where)))


def seal_manifest(manifest: Manifest, secret_key: bytes) -> bytes:
    """The bytes of manifest, signed with secret_key (a 32-byte seed).

    Raises ManifestError if a reader would refuse it: entries out of order, malformed or too many.
    """
    lines = ''.join(entry.line() for entry in manifest.entries)
    body = MANIFEST_HEADER + lines.encode('ascii', 'replace') + b'\n'
    if tuple(_parse_entries(body, 'the new manifest')) != manifest.entries:
        raise ManifestError('the new manifest', 'its entries cannot be written')
    if len(body) + SIGNATURE_LINE_BYTES > MANIFEST_MAX_BYTES:
        raise ManifestError('the new manifest', f'longer than {MANIFEST_MAX_BYTES} bytes')
    return body + encode_base64(ed25519_sign(secret_key, body)).encode('ascii') + b'\n'


def _split_signature(signed: bytes, where: str) -> 'Tuple[bytes, bytes]':
    body, line = signed[:-SIGNATURE_LINE_BYTES], signed[-SIGNATURE_LINE_BYTES:]
    signature = decode_base64(line[:-1].decode('ascii', 'replace'), 64)
    if signature is None or line[-1:] != b'\n' or not body.startswith(MANIFEST_HEADER):
        raise RefusedError(f'{where}: not a signed manifest',
                           'something else was served in its place, or it was cut short')
    return body, signature


def _parse_entries(body: bytes, where: str) -> 'Iterator[Entry]':
    """The entries of a body whose signature was verified; ManifestError names what it breaks."""
    lines = body[len(MANIFEST_HEADER):].decode('ascii', 'replace').split('\n')
    if lines[-2:] != ['', '']:
        raise ManifestError(where, 'no blank line before the signature')
    last = None     # type: Optional[Version]
    match_entry = re.compile(ENTRY_PATTERN).fullmatch
    for number, line in enumerate(lines[:-2], 3):
        match = match_entry(line)
        text, size, digest = match.groups() if match else ('', '0', '')
        parts = _version_parts(text)
        if not parts or int(size) > IMAGE_MAX_BYTES:
            raise ManifestError(where, f'line {number} is not an entry')
        version = Version(text, _version_order(parts))
        if last is not None and not last < version:
            raise ManifestError(where, f'line {number}: {version} does not come after {last}')
        last = version
        yield Entry(version, int(size), digest)


def first_lost(old: Manifest, new: Manifest) -> 'Optional[Entry]':
    """The first entry of old that does not stand in new unchanged; None if new continues old."""
    if new is old:
        return None
    lines = {entry.line() for entry in new.entries}
    return next((entry for entry in old.entries if entry.line() not in lines), None)


def pick_newest(manifests: 'Sequence[Manifest]') -> 'Tuple[int, Optional[int]]':
    """Which of manifests has all entries of the others, the first such, as a number; and None.

    If none has, the numbers of two that contradict each other: each has an entry that the other lacks.
    """
    newest = max(range(len(manifests)), key=lambda number: len(manifests[number].entries))
    for number, other in enumerate(manifests):
        if first_lost(other, manifests[newest]) is not None:
            return newest, number
    return newest, None


def add_entry(manifest: Manifest, entry: Entry) -> Manifest:
    """The manifest with entry in its place; the same manifest if entry is in it already.

    Raises RefusedError where a version that equals entry's is spelled otherwise or is another image.
    """
    for other in manifest.entries:
        if other.version == entry.version:
            check_spelling(manifest, entry.version)
            if other != entry:
                raise RefusedError(f'version {entry.version} is another image already, {other.digest}',
                                   'what was published stays: choose a new version')
            return manifest
    return Manifest(tuple(sorted(manifest.entries + (entry,), key=lambda each: each.version)))


def check_spelling(manifest: Manifest, version: Version) -> None:
    """RefusedError where manifest has the same version in another spelling, as 1.0 is 1.0.0."""
    for entry in manifest.entries:
        if entry.version == version and entry.version.text != version.text:
            raise RefusedError(f'version {version} is published as {entry.version}',
                               'two spellings of one version would be two images: choose a new version')


def compatible_entries(manifest: Manifest, bounds: Bounds) -> 'Iterator[Entry]':
    """The entries in bounds, newest first."""
    return (entry for entry in reversed(manifest.entries) if entry.version in bounds)


def nearest_versions(manifest: Manifest, bounds: Bounds) -> 'List[Version]':
    """Where none is in bounds: the newest version below them and the oldest above, as far as they exist."""
    below = [entry.version for entry in manifest.entries if entry.version < bounds.lowest]
    above = [entry.version for entry in manifest.entries if not entry.version < bounds.lowest]
    return below[-1:] + above[:1]


# ======================================================================== 7  config
#
# Thirty lines of our own: configparser wants a section header, folds indented lines into the one
# before, tells no setting's line number, and cannot keep two PublicKey= lines.

# RFC 3986, 3.2.2, and RFC 1123, 2.1: a name is labels of at most 63 characters
HOST_PATTERN = r'(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]{1,63}(?:[.][A-Za-z0-9_-]{1,63})*[.]?)(?::([0-9]{1,5}))?'
UNIT_NAME_PATTERN = r'(?!-)(?=.{1,%d}$)(?:[A-Za-z0-9:_.@-]|\\x[0-9a-f]{2})+' % UNIT_NAME_MAX_CHARS    # systemd.unit(5)


class Origin(namedtuple('Origin', ('url', 'authorization'))):
    """Where a manifest and its store/ are: a URL without user, password and final slash.

    authorization is the value of the Authorization header that goes to that host, or empty.
    """

    __slots__ = ()
    url: str
    authorization: str


class Config(namedtuple('Config', ('origins', 'public_keys', 'destination', 'destination_line', 'bounds', 'units',
                                   'confirm_seconds', 'keep'))):
    """One image: where it comes from, who signs it, where it goes, which versions, who runs from it.

    origins: mirrors of each other. confirm_seconds: how long after its restart a unit has to be active;
    0 trusts the restart's own result. keep: how many images stay; 0 for all.
    """

    __slots__ = ()
    origins: 'Tuple[Origin, ...]'
    public_keys: 'Tuple[bytes, ...]'
    destination: str
    destination_line: int
    bounds: Bounds
    units: 'Tuple[str, ...]'
    confirm_seconds: int
    keep: int


def parse_config(text: str) -> Config:
    """The Config that text is; ConfigError with line, key and what was expected, if it is none."""
    found = {key: [] for key in CONFIG_KEYS}    # type: Dict[str, List[Tuple[int, Any]]]
    for line, key, value in _parse_settings(text):
        if key not in CONFIG_KEYS:
            raise _unknown_key(key, line)
        parse, is_repeatable, _ = CONFIG_KEYS[key]
        if found[key] and not is_repeatable:
            raise ConfigError(f'{key}= a second time, after line {found[key][0][0]}',
                              'one of the two has to go', line)
        try:
            found[key].append((line, parse(value)))
        except UsageError as error:
            raise ConfigError(f'{key}= {error.what}', error.hint, line) from None
    for key, (_, _, example) in CONFIG_KEYS.items():
        if not found[key] and key in REQUIRED_KEYS:
            raise ConfigError(f'{key}= is missing', f'add a line like {key}={example}')
    return Config(origins=tuple(origin for _, origin in found['Origin']),
                  public_keys=tuple(key for _, key in found['PublicKey']),
                  destination=found['Destination'][0][1],
                  destination_line=found['Destination'][0][0],
                  bounds=found['Version'][0][1],
                  units=tuple(unit for _, units in found['Restart'] for unit in units),
                  confirm_seconds=found['Confirm'][0][1] if found['Confirm'] else 0,
                  keep=found['Keep'][0][1] if found['Keep'] else 0)


def _parse_settings(text: str) -> 'Iterator[Tuple[int, str, str]]':
    """Line number, key and value of each setting; systemd's syntax without its continuation lines."""
    for number, line in enumerate(text.split('\n'), 1):
        line = line.strip()
        if line and line[0] not in '#;':
            key, equals, value = line.partition('=')
            if not equals:
                raise ConfigError('not a setting: no = in this line', 'settings are lines of Key=Value', number)
            yield number, key.strip(), value.strip()


def _unknown_key(key: str, line: int) -> ConfigError:
    if not re.fullmatch('[A-Za-z0-9_-]{1,40}', key):        # whatever it is, it may hold a password
        return ConfigError('not a key before the =', 'settings are lines of Key=Value', line)
    try:
        import difflib          # which Debian's python3-minimal lacks
        similar = difflib.get_close_matches(key.lower(), [known.lower() for known in CONFIG_KEYS], 1)
    except ImportError:
        similar = []
    for known in CONFIG_KEYS:
        if similar == [known.lower()]:
            return ConfigError(f'unknown key {key!a}', f'did you mean {known}=', line)
    return ConfigError(f'unknown key {key!a}', 'the keys are {}'.format(', '.join(CONFIG_KEYS)), line)


def _parse_origin(value: str) -> Origin:
    """Messages never quote the value: it may hold a password."""
    hint = 'expected the http, https or file URL of the directory that holds the manifest'
    value = re.sub('^file:/(?!/)', 'file:///', value)           # RFC 8089 lets two slashes be left out
    scheme, _, rest = value.partition('://')
    scheme = scheme.lower()
    netloc, slash, path = rest.partition('/')
    userinfo, _, host = netloc.rpartition('@')
    if scheme not in ('http', 'https', 'file') or not rest:
        raise UsageError('does not begin with http://, https:// or file://', hint)
    if not re.fullmatch('[!-~]+', value):
        raise UsageError('holds a space, a control or a non-ASCII character', 'write it percent-encoded, as %20')
    if '?' in rest or '#' in rest:
        raise UsageError('has a query or a fragment', hint)
    if scheme == 'file':
        if netloc not in ('', 'localhost') or not slash:
            raise UsageError('is not the URL of a local directory', 'expected file:///absolute/path')
    else:
        match = re.fullmatch(HOST_PATTERN, host)
        if match is None or not 0 < int(match.group(2) or 80) < 65536:
            raise UsageError('names no host, or no possible port', hint)
    return Origin(f'{scheme}://{host}' + (slash + path).rstrip('/'), basic_authorization(userinfo))


def basic_authorization(userinfo: str) -> str:
    """The header's value for the user:password of a URL (RFC 7617); empty if there is none."""
    if not userinfo:
        return ''
    import urllib.parse
    user, password = (urllib.parse.unquote_to_bytes(part) for part in userinfo.partition(':')[::2])
    return 'Basic ' + encode_base64(user + b':' + password)


def _parse_destination(value: str) -> str:
    if not value or '\0' in value:
        raise UsageError('is not a path', 'expected an existing directory')
    return os.fsdecode(value.encode('utf-8'))           # the file's bytes, whatever the locale is


def _parse_units(value: str) -> 'List[str]':
    for unit in value.split():
        if not re.fullmatch(UNIT_NAME_PATTERN, unit):
            raise UsageError(f'{unit[:80]!a} is no unit name', 'expected systemd units, as in app.service')
    return value.split()


def _parse_confirm(value: str) -> int:
    if not re.fullmatch('[0-9]{1,9}', value) or int(value) > CONFIRM_MAX_SECONDS:
        raise UsageError('is not a number of seconds', f'expected 0 to {CONFIRM_MAX_SECONDS}')
    return int(value)


def _parse_keep(value: str) -> int:
    if not re.fullmatch('[1-9][0-9]{0,8}', value):
        raise UsageError('is not a number of images', 'expected 1 or more; without Keep=, all stay')
    return int(value)


REQUIRED_KEYS = ('Origin', 'PublicKey', 'Destination', 'Version')
CONFIG_KEYS = {     # how a value is read, whether the key may come again, an example
    'Origin': (_parse_origin, True, 'https://images.example.com/app'),
    'PublicKey': (parse_public_key, True, 'l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k='),
    'Destination': (_parse_destination, False, '/var/lib/images/app'),
    'Version': (parse_pattern, False, '1.*'),
    'Restart': (_parse_units, True, 'app.service'),
    'Confirm': (_parse_confirm, False, '30'),
    'Keep': (_parse_keep, False, '3'),
}   # type: Dict[str, Tuple[Callable[[str], Any], bool, str]]


# ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~ the waterline


# ======================================================================== 8  files

class NewFile:
    """A file on its way: written under a temporary name, then published whole, or removed."""

    _stream: 'BinaryIO'

    def __init__(self, temporary: str) -> None:
        self.temporary = temporary

    def __enter__(self) -> 'NewFile':
        descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._stream = open(descriptor, 'wb')
        return self

    def write(self, chunk: bytes) -> None:
        """Add to it."""
        self._stream.write(chunk)

    def date(self, seconds: float) -> None:
        """Give it this time, in seconds since 1970, once all is written."""
        self._stream.flush()
        os.utime(self._stream.fileno(), (seconds, seconds))

    def publish(self, path: str) -> None:
        """Give it its name, read-only, once its bytes are on the disk; then make the name durable too."""
        self._stream.flush()
        os.fchmod(self._stream.fileno(), 0o444)
        os.fsync(self._stream.fileno())
        os.rename(self.temporary, path)
        sync_directory(os.path.dirname(path))

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        try:
            self._close(error)
        finally:
            remove_if_there(self.temporary)

    def _close(self, error: 'Optional[BaseException]') -> None:
        """Close the stream; error, if any, is what ended the writing, and learns where that was."""
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self.temporary
        try:
            self._stream.close()
        except OSError:                         # a full disk, met again: what was raised first says it
            if error is None:
                raise


class PartialFile(NewFile):
    """A file that grows over several runs: what came is kept, until it is published or given up.

    size and sha256 are of what is there.
    """

    def __enter__(self) -> 'PartialFile':
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.temporary, flags, 0o600)
        except PermissionError:                 # it was about to be published when its run died
            try:
                os.chmod(self.temporary, 0o600)
            except PermissionError:             # another user's: begin our own
                remove_if_there(self.temporary)
            descriptor = os.open(self.temporary, flags, 0o600)
        self._stream = open(descriptor, 'r+b')
        self.size, self.sha256 = 0, hashlib.sha256()
        for block in iter(lambda: self._stream.read(BLOCK_BYTES), b''):
            self.size += len(block)
            self.sha256.update(block)
        return self

    def write(self, chunk: bytes) -> None:
        """Add to what is there."""
        self._stream.write(chunk)
        self.size += len(chunk)
        self.sha256.update(chunk)

    def cut_back(self, size: int, sha256: 'hashlib._Hash') -> None:
        """Give up what came since size and sha256, a copy, were those of what is there."""
        self._stream.seek(size)
        self._stream.truncate()
        self.size, self.sha256 = size, sha256

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        self._close(error)
        is_full = isinstance(error, OSError) and error.errno in NO_SPACE
        if is_full or self.size == 0:           # on a full disk, what came is in everybody's way
            remove_if_there(self.temporary)


def remove_if_there(path: str) -> None:
    """Remove a file or a link; no error if there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def touch(path: str) -> bool:
    """Set a file's time to now, not durably; whether we may."""
    try:
        os.utime(path)
    except PermissionError:
        return False
    return True


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:         # what some network file systems answer, which cannot do it
            error.filename = path
            raise
    finally:
        os.close(descriptor)


def read_at_most(limit: int, path: str) -> bytes:
    """The first bytes of a file, limit of them at most."""
    with open(path, 'rb') as stream:
        return stream.read(limit)


def read_blocks(stream: 'BinaryIO') -> 'Iterator[bytes]':
    """The bytes of an open file, BLOCK_BYTES at a time; closed at the end."""
    with stream:
        try:
            yield from iter(lambda: stream.read(BLOCK_BYTES), b'')
        except OSError as error:
            error.filename = error.filename or stream.name
            raise


def at_most(limit: int, chunks: 'Iterable[bytes]', where: str) -> 'Iterator[bytes]':
    """The chunks; RefusedError as soon as they hold more than limit bytes, before any of those is passed on."""
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise RefusedError(f'{where}: longer than it may be', 'what is served there is not what was published')
        yield chunk


def copy_and_hash(chunks: 'Iterable[bytes]', write: 'Callable[[bytes], object]') -> 'Tuple[int, str]':
    """Pass chunks on to write; how many bytes they held, and their SHA-256 in hex."""
    size, sha256 = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        sha256.update(chunk)
        write(chunk)
    return size, sha256.hexdigest()


class DirectoryLock:
    """The right to change a directory, for as long as the `with` lasts; the kernel takes it back if we die.

    wait: for how many seconds to try, then LockedError. on_wait is called once, if another run holds it.
    What is locked is a file that nobody else can open, and so cannot keep us out with; it is there only
    meanwhile.
    """

    def __init__(self, directory: str, wait: float, on_wait: 'Callable[[], None]') -> None:
        self._directory = directory
        self._path = os.path.join(directory, '.lock')
        self._wait = wait
        self._on_wait = on_wait

    def __enter__(self) -> 'DirectoryLock':
        deadline, is_waiting = time.monotonic() + self._wait, False
        while not self._try():
            if not is_waiting:
                self._on_wait()
                is_waiting = True
            if time.monotonic() >= deadline:
                raise LockedError(f'{self._directory}: another run holds the lock',
                                  'it is still at work: try again later')
            time.sleep(LOCK_POLL_SECONDS)
        return self

    def _try(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # who held it before us may have removed the file that we waited for: then it guards nothing
            if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                self._descriptor, descriptor = descriptor, -1
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            error.filename = error.filename or self._path
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return False

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        remove_if_there(self._path)
        os.close(self._descriptor)


# ======================================================================== 9  network

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
URL_PUNCTUATION = "!#$%&'()*+,/:;=?@[]~"        # what a Location may hold and need not be quoted


class Answer(namedtuple('Answer', ('url', 'status', 'headers', 'length', 'chunks'))):
    """What came for a URL: the length of its body if it was announced, and chunks, as they arrive.

    url, for messages, is where redirects led, without password. Taking chunks may raise UnreachableError.
    """

    __slots__ = ()
    url: str
    status: int
    headers: 'Mapping[str, str]'
    length: 'Optional[int]'
    chunks: 'Iterator[bytes]'

    def etag(self) -> str:
        """The validator of what was served (RFC 9110, 8.8.3), or empty."""
        etag = self.headers.get('ETag', '')
        return etag if re.fullmatch('(W/)?"[!#-~]{1,%d}"' % ETAG_MAX_CHARS, etag) else ''

    def strong_etag(self) -> str:
        """The same, if it stands for exactly these bytes."""
        return self.etag() if self.etag().startswith('"') else ''


class Network:
    """The way to all origins during one run: one connection a host, kept from one request to the next.

    deadline: the monotonic time after which nothing is waited for any more; turn: the same for one mirror,
    and which.
    """

    def __init__(self, environ: 'Mapping[str, str]') -> None:
        self.deadline = float('inf')
        self.turn = float('inf'), ''
        self._has_proxies = any(name.lower().endswith('_proxy') for name in environ)
        # what was asked last on each connection; a connection whose answer was not read to its end is of no more use
        self._open = {}     # type: Dict[Tuple[str, str], Tuple[http.client.HTTPConnection, http.client.HTTPResponse]]
        self._tls = None    # type: Optional[ssl.SSLContext]
        self._has_bundle = False
        self._pauses = {}   # type: Dict[Tuple[str, str], Tuple[float, float]]      # the next one, and what is left

    def __enter__(self) -> 'Network':
        return self

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        for endpoint in list(self._open):
            self._drop(endpoint)

    def open(self, url: str, authorization: str = '', headers: 'Optional[Dict[str, str]]' = None) -> Answer:
        """Ask for url, with these headers besides our own; authorization goes to its host alone.

        The answer has status 200, or 206 or 416 if headers have a Range, or 304 if they have an If-None-Match.
        Raises GoneError if it was withdrawn, TransientError if it is worth another try, UnreachableError
        otherwise.
        """
        if url.startswith('file:'):
            return _open_file(url)
        _require_http(url)
        first = _endpoint(url)
        asked = {name: value for name, value in (headers or {}).items() if value}
        welcome = [200] + [206, 416] * ('Range' in asked) + [304] * ('If-None-Match' in asked)
        for _ in range(REDIRECTS_MAX + 1):
            is_home = authorization and _endpoint(url) == first
            answer = self._ask(url, dict(asked, Authorization=authorization) if is_home else asked)
            if answer.status in welcome:
                return answer
            self._discard(answer)
            if answer.status not in REDIRECT_STATUSES:
                raise _refusal(answer)
            url = _redirect(url, answer.headers.get('Location', ''))
        raise UnreachableError('{}: redirected more than {} times'.format(url.partition('?')[0], REDIRECTS_MAX),
                               'tell who runs the server')

    def _discard(self, answer: Answer) -> None:
        """Read a short page that nobody wants, which costs less than a new connection."""
        if answer.status in REDIRECT_STATUSES + (404, 410) and answer.length in range(DISCARD_MAX_BYTES):
            try:
                for _ in answer.chunks:
                    pass
            except UnreachableError:            # its status says what there is to say
                pass
        else:
            self._drop(_endpoint(answer.url))

    def pause(self, failed: 'Mapping[str, TransientError]') -> 'List[str]':
        """Wait before what failed is asked again; which of these URLs are to be, none when all pauses are used up.

        They grow, and are jittered so that a fleet does not come back all at once. A connection that
        has_progressed costs its host the shortest one, and nothing of what is left.
        """
        import random
        waits = {}
        for url, error in failed.items():
            following, left = self._pauses.get(_endpoint(url), (PAUSE_FIRST_SECONDS, PAUSE_BUDGET_SECONDS))
            if error.has_progressed:
                following, seconds = PAUSE_FIRST_SECONDS, PAUSE_FIRST_SECONDS * random.uniform(0.5, 1.0)
            else:
                seconds = min(max(following * random.uniform(0.5, 1.0), error.retry_after), left)
                left -= seconds
            if seconds > 0 and time.monotonic() + seconds <= self.deadline:
                self._pauses[_endpoint(url)] = min(2 * following, PAUSE_MAX_SECONDS), left
                waits[url] = seconds
        if waits:
            time.sleep(max(waits.values()))
        return list(waits)

    def timeout(self) -> float:
        """For how many seconds to wait for the next packet; UnreachableError if the time that was given is over."""
        turn, mirror = self.turn
        left = min(self.deadline, turn) - time.monotonic()
        if left <= 0 and turn < self.deadline:
            raise UnreachableError(f'{mirror}: took too long over its manifest', 'it is left out of this run')
        if left <= 0:
            raise UnreachableError('the time given with --timeout is over', 'what came is kept: run it again')
        return min(NETWORK_TIMEOUT_SECONDS, left)

    def _ask(self, url: str, headers: 'Dict[str, str]') -> Answer:
        import http.client
        try:
            response = self._exchange(url, headers)
            encoding = response.getheader('Content-Encoding', 'identity')
            if response.status == 200 and encoding.lower() != 'identity':
                raise UnreachableError(f'{url.partition("?")[0]}: sent with Content-Encoding {encoding}, unasked',
                                       'turn compression off for this directory on the server')
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _network_error(url.partition('?')[0], self._proxy(*_endpoint(url))[0], error) from error
        shown = url.partition('?')[0]           # the query of a redirect may be somebody's password
        return Answer(shown, response.status, response.headers, response.length, _read_body(shown, response))

    def _exchange(self, url: str, asked: 'Dict[str, str]') -> 'http.client.HTTPResponse':
        import http.client
        scheme, host = endpoint = _endpoint(url)
        proxy, proxy_headers = self._proxy(scheme, host)
        headers = {'User-Agent': 'tako/' + __version__, 'Accept-Encoding': 'identity'}
        headers.update(asked)
        if proxy and scheme == 'http':
            target = url
            headers.update(proxy_headers)
        else:
            target = '/' + url.partition('://')[2].partition('/')[2]
        kept = self._kept(endpoint)
        if kept is not None:
            try:
                return self._request(endpoint, kept, target, headers)
            except (OSError, http.client.BadStatusLine):
                pass                            # the server let go of it meanwhile: ask on a new one
        try:
            return self._request(endpoint, self._connection(scheme, host, proxy, proxy_headers), target, headers)
        except OSError as error:
            if self._tls is None or self._has_bundle or 'CERTIFICATE_VERIFY_FAILED' not in str(error):
                raise
            self._tls.load_default_certs()      # the directory did not do: this adds what the bundle alone has
            self._has_bundle = True
        return self._request(endpoint, self._connection(scheme, host, proxy, proxy_headers), target, headers)

    def _kept(self, endpoint: 'Tuple[str, str]') -> 'Optional[http.client.HTTPConnection]':
        """An open connection that is ready for a request: its last answer was read, and nothing came after it."""
        import select
        if endpoint in self._open:
            connection, last = self._open[endpoint]
            if last.isclosed() and connection.sock is not None and not (
                    select.select([connection.sock], [], [], 0)[0] or getattr(connection.sock, 'pending', int)()):
                return connection
            self._drop(endpoint)
        return None

    def _drop(self, endpoint: 'Tuple[str, str]') -> None:
        for each in self._open.pop(endpoint):   # a connection that will be closed forgets its response
            each.close()

    def _request(self, endpoint: 'Tuple[str, str]', connection: 'http.client.HTTPConnection', target: str,
                 headers: 'Mapping[str, str]') -> 'http.client.HTTPResponse':
        try:
            connection.timeout = self.timeout()
            connection.request('GET', target, headers=headers)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        self._open[endpoint] = connection, response
        return response

    def _connection(self, scheme: str, host: str, proxy: str,
                    proxy_headers: 'Dict[str, str]') -> 'http.client.HTTPConnection':
        import http.client
        if scheme == 'http':
            connection = http.client.HTTPConnection(proxy or host, timeout=self.timeout())
        else:
            if self._tls is None:
                directory = _authorities_by_hash()
                self._tls, self._has_bundle = _tls_context(directory), directory is None
            connection = http.client.HTTPSConnection(proxy or host, timeout=self.timeout(), context=self._tls)
            if proxy:
                connection.set_tunnel(host, headers=proxy_headers)
        connection.response_class = functools.partial(_paced_response, self)    # type: ignore[assignment]
        return connection

    def _proxy(self, scheme: str, host: str) -> 'Tuple[str, Dict[str, str]]':
        """The proxy's host:port and headers, as urllib reads them from the environment; both empty without."""
        if not self._has_proxies:
            return '', {}
        import urllib.request
        proxy = urllib.request.getproxies().get(scheme, '')
        if not proxy or urllib.request.proxy_bypass(host):
            return '', {}
        kind, _, rest = proxy.rpartition('://')
        userinfo, _, address = rest.partition('/')[0].rpartition('@')
        match = re.fullmatch(HOST_PATTERN, address)
        if kind not in ('', 'http') or match is None or not 0 < int(match.group(2) or 80) < 65536:
            raise UsageError(f'{scheme}_proxy: not the URL of an http proxy', 'expected http://host:port')
        authorization = basic_authorization(userinfo)
        return ('{}:{}'.format(match.group(1), match.group(2) or 80),
                {'Proxy-Authorization': authorization} if authorization else {})


class _PacedReader(io.RawIOBase):
    """The bytes of a socket, as long as they get to the point: what drips, or is all framing, is an OSError.

    http.client bounds a line, and reads lines without end. delivered is how much of the body came, which
    whoever reads the body counts.
    """

    def __init__(self, network: Network, connection: 'socket.socket') -> None:
        self.delivered = 0
        self._received = 0
        self._network = network
        self._socket = connection
        self._stream = connection.makefile('rb', buffering=0)
        self._window = time.monotonic(), 0      # when it began, and what was delivered until then

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: 'Any') -> 'Optional[int]':
        self._socket.settimeout(self._network.timeout())
        size = self._stream.readinto(buffer) or 0
        self._received += size
        if self._received > FRAMING_MAX_BYTES + FRAMING_MAX_FACTOR * self.delivered + len(buffer):
            raise OSError('headers without end')
        began, before = self._window
        now = time.monotonic()
        if now - began >= RATE_WINDOW_SECONDS:
            if self.delivered - before < RATE_MIN_BYTES:
                raise OSError(f'brought less than {RATE_MIN_BYTES} bytes in {RATE_WINDOW_SECONDS:.0f} seconds')
            self._window = now, self.delivered
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def _paced_response(network: Network, connection: 'socket.socket', *arguments: 'Any',
                    **settings: 'Any') -> 'http.client.HTTPResponse':
    """An HTTPResponse on a _PacedReader, which is its `pace`."""
    import http.client
    response = http.client.HTTPResponse(connection, *arguments, **settings)
    response.fp.close()
    response.pace = _PacedReader(network, connection)               # type: ignore[attr-defined]
    response.fp = io.BufferedReader(response.pace)                  # type: ignore[attr-defined]
    return response


def _read_body(url: str, response: 'http.client.HTTPResponse') -> 'Iterator[bytes]':
    import http.client
    left = response.length                      # counted here: not every Python's read1() counts it down
    try:
        while left is None or left > 0:
            chunk = response.read1(BLOCK_BYTES if left is None else min(left, BLOCK_BYTES))
            if not chunk:
                break
            response.pace.delivered += len(chunk)                   # type: ignore[attr-defined]
            left = None if left is None else left - len(chunk)
            yield chunk
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _network_error(url, '', error) from error
    if left:
        raise TransientError(f'{url}: the connection ended {left} bytes early')
    response.close()                            # and the connection is free for the next request


def _endpoint(url: str) -> 'Tuple[str, str]':
    """The scheme and the host:port of a URL."""
    scheme, _, rest = url.partition('://')
    return scheme, rest.partition('/')[0]


def _require_http(url: str) -> None:
    try:
        import http.client                      # noqa: F401  # Debian's python3-minimal has none
        if url.startswith('https:'):
            import ssl                          # noqa: F401
    except ImportError as error:
        raise as_tako_error(error) from None


def _authorities_by_hash() -> 'Optional[str]':
    """The system's directory of authorities, if they stand in it by hash (openssl-rehash(1)).

    From there, OpenSSL reads the one that it needs. The bundle has the same, on most systems, and all of
    it is parsed at each start. What SSL_CERT_FILE names is another matter.
    """
    import ssl
    paths = ssl.get_default_verify_paths()
    if paths.openssl_cafile_env in os.environ or paths.capath is None:
        return None
    is_hashed = any(re.fullmatch('[0-9a-f]{8}[.][0-9]+', name) for name in os.listdir(paths.capath))
    return paths.capath if is_hashed else None


def _tls_context(directory: 'Optional[str]') -> 'ssl.SSLContext':
    """Certificates and names are checked, against authorities in directory, or all of the system's; TLS 1.2 at least."""
    import ssl
    context = ssl.create_default_context(capath=directory)
    if hasattr(context, 'minimum_version'):
        context.minimum_version = ssl.TLSVersion.TLSv1_2    # novm: guarded
    else:                                       # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    return context


def _redirect(url: str, location: str) -> str:
    """Where a redirect of url leads, without user and password; UnreachableError if it must not be followed."""
    import urllib.parse
    quoted = urllib.parse.quote(location, safe=URL_PUNCTUATION, encoding='latin-1', errors='replace')
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(url, quoted))
        is_whole = bool(location and parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    shown = url.partition('?')[0]
    if not is_whole:
        raise UnreachableError(f'{shown}: redirected to no valid URL', 'tell who runs the server')
    if parts.scheme not in ('http', 'https') or (url.startswith('https:') and parts.scheme != 'https'):
        raise UnreachableError(f'{shown}: redirected to {parts.scheme}, which is not followed',
                               'a redirect may lead from http to https, and to nothing weaker')
    host = parts.netloc.rpartition('@')[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path or '/', parts.query, ''))


def _refusal(answer: Answer) -> UnreachableError:
    what = f'{answer.url}: answered with status {answer.status}'
    if answer.status == 410:
        return GoneError(f'{answer.url}: withdrawn (410)', 'its publisher took it back')
    if answer.status in (408, 429) or answer.status >= 500:
        seconds = answer.headers.get('Retry-After', '')
        return TransientError(what, 'try again later, or tell who runs the server',
                              float(seconds) if re.fullmatch('[0-9]{1,9}', seconds) else 0.0)
    hint = {401: 'a user and password go into Origin=, as in https://user:password@host/',
            403: 'the server lets nobody, or not this user, read it',
            404: 'is Origin= right, and was something stored there',
            407: 'a user and password for the proxy go into its variable, as in http://user:password@host:port'}
    return UnreachableError(what, hint.get(answer.status, 'tell who runs the server'))


def _network_error(url: str, proxy: str, error: Exception) -> UnreachableError:
    """The same in our words, for what http.client, ssl and socket raise."""
    where = url + (f', through the proxy {proxy}' if proxy else '')
    verify_message = getattr(error, 'verify_message', '')
    if verify_message or 'Cert' in type(error).__name__ or 'CERTIFICATE_VERIFY_FAILED' in str(error):
        return UnreachableError(f'{where}: certificate not trusted: {verify_message or error}',
                                'SSL_CERT_FILE can name the authority that signed it; also look at the clock')
    reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    if not isinstance(error, OSError):
        reason = f'not a valid HTTP answer ({type(error).__name__})'
    return TransientError(f'{where}: {reason}', 'try again later; look at the network, and at Origin=')


def _open_file(url: str) -> Answer:
    import urllib.parse
    path = urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(url).path)
    try:
        size = os.stat(path).st_size
        if not os.path.isfile(path):
            raise OSError(0, 'not a file')
    except (OSError, ValueError) as error:
        raise _file_error(url, error) from error
    return Answer(url, 200, {}, size, _read_file(url, path))


def _read_file(url: str, path: bytes) -> 'Iterator[bytes]':
    try:
        yield from read_blocks(open(path, 'rb', buffering=0))
    except OSError as error:
        raise _file_error(url, error) from error


def _file_error(url: str, error: Exception) -> UnreachableError:
    return UnreachableError('{}: {}'.format(url, getattr(error, 'strerror', error)), 'look at Origin=')


# ======================================================================== 10 destination
#
#     store/<sha256>   images, read-only, each exactly what its name says
#     manifest         the newest manifest that was accepted, as it was signed
#     latest           link to store/<sha256>
#     .state           our own notes, which may be lost; its time is that of the last success
#
# A publisher's directory is the same without the link. Temporaries stand beside these, as dotfiles.

NEW_IMAGE, NEW_MANIFEST, NEW_LINK, NEW_STATE = '.image.new', '.manifest.new', '.latest.new', '.state.new'
MISSING = 'is missing'


def image_path(root: str, digest: str) -> str:
    """Where the image with this SHA-256 belongs."""
    return os.path.join(root, 'store', digest)


def image_fault(root: str, entry: Entry, is_size_enough: bool = False) -> 'Optional[str]':
    """What is wrong with the image of entry: None, MISSING, or how it is damaged.

    Reads all of it, unless is_size_enough.
    """
    path = image_path(root, entry.digest)
    try:
        status = os.stat(path)
        if not os.path.isfile(path):
            return 'is damaged: it is not a file'
        if status.st_size != entry.size:
            return f'is damaged: it has {status.st_size} bytes and not {entry.size}'
        if is_size_enough:
            return None
        _, digest = copy_and_hash(read_blocks(open(path, 'rb', buffering=0)), len)
    except FileNotFoundError:
        return MISSING
    except PermissionError:
        raise
    except OSError as error:                    # as a failing disk has it
        return f'is damaged: {error.strerror}'
    return None if digest == entry.digest else f'is damaged: its SHA-256 is {digest}'


def publish_image(root: str, new: NewFile, digest: str) -> None:
    """Put a verified image into the store, durably."""
    store_path = os.path.join(root, 'store')
    if not os.path.isdir(store_path):
        umask = os.umask(0o022)                 # images are for all to read; who may come here, root's mode says
        os.mkdir(store_path)
        os.umask(umask)
        sync_directory(root)
    new.publish(image_path(root, digest))


def sync_names(root: str) -> None:
    """Make durable what is here, before anything is to name it: whoever brought it may have died before doing so."""
    sync_directory(os.path.join(root, 'store'))
    sync_directory(root)


def manifest_path(root: str) -> str:
    """Where the manifest is."""
    return os.path.join(root, 'manifest')


def read_manifest(root: str) -> 'Optional[bytes]':
    """The bytes of the manifest in root, not yet verified; None if there is none."""
    try:
        return read_at_most(MANIFEST_MAX_BYTES, manifest_path(root))
    except FileNotFoundError:
        return None


def place_manifest(root: str, signed: bytes) -> None:
    """Make these bytes the manifest in root, durably."""
    with NewFile(os.path.join(root, NEW_MANIFEST)) as new:
        new.write(signed)
        new.publish(manifest_path(root))


def linked_digest(root: str) -> 'Optional[str]':
    """The SHA-256 of the image that latest names; None without such a link."""
    try:
        target = os.readlink(os.path.join(root, 'latest'))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise TakoError(f'{root}/latest: not a link', 'it is not ours: move it away') from None
    match = re.fullmatch('store/([0-9a-f]{64})', target)
    return match.group(1) if match else None


def point_latest(root: str, digest: str) -> None:
    """Let latest name the image with this SHA-256, durably and at once."""
    new = os.path.join(root, NEW_LINK)
    sync_names(root)
    try:
        os.symlink('store/' + digest, new)
    except PermissionError as error:            # what vfat says, too
        raise TakoError(f'{new}: cannot make a symbolic link: {error.strerror}',
                        'Destination= needs a file system that has them, and the right to write there') from None
    os.rename(new, os.path.join(root, 'latest'))
    sync_directory(root)


def has_whole_image(root: str, digest: str) -> bool:
    """Whether the store has an image that is what its name says. Reads all of it."""
    try:
        return copy_and_hash(read_blocks(open(image_path(root, digest), 'rb', buffering=0)), len)[1] == digest
    except OSError:
        return False


class State(namedtuple('State', ('previous', 'restart_due', 'rejected', 'withdrawn', 'validators'))):
    """What a destination remembers from one run to the next; nothing that security rests on.

    previous: the SHA-256 of the image before the one that latest names, or empty.
    restart_due: of the image for which units have still to restart, once latest names it, or empty.
    rejected: of images on which a unit did not run, and which are not tried again.
    withdrawn: of images that were withdrawn, as the user was told already.
    validators: "SHA-256 URL ETag" of the manifest in place, as that URL served it.
    """

    __slots__ = ()
    previous: str
    restart_due: str
    rejected: 'Tuple[str, ...]'
    withdrawn: 'Tuple[str, ...]'
    validators: 'Tuple[str, ...]'


def parse_state(text: str) -> State:
    """The State that format_state() made text of; ValueError if it is damaged. Unknown keys are a later Tako's."""
    found = {field: [] for field in State._fields}      # type: Dict[str, List[str]]
    for line in text.splitlines():
        key, equals, value = line.partition('=')
        pattern = '[0-9a-f]{64} [!-~]+ [!-~]+' if key == 'validators' else '[0-9a-f]{64}'
        if not equals or (key in found and not re.fullmatch(pattern, value)):
            raise ValueError(line)
        found.get(key, []).append(value)
    return State(''.join(found['previous'][-1:]), ''.join(found['restart_due'][-1:]), tuple(found['rejected']),
                 tuple(found['withdrawn']), tuple(found['validators']))


def format_state(state: State) -> str:
    """Lines of key=value."""
    values = state._replace(previous=[state.previous] * bool(state.previous),
                            restart_due=[state.restart_due] * bool(state.restart_due))
    return ''.join(f'{key}={value}\n' for key in State._fields for value in getattr(values, key))


def read_state(root: str) -> 'Optional[State]':
    """What is remembered in root; None if it is damaged."""
    try:
        return parse_state(read_at_most(STATE_MAX_BYTES, state_path(root)).decode('ascii'))
    except FileNotFoundError:
        return parse_state('')
    except (ValueError, IsADirectoryError):
        return None


def place_state(root: str, state: State, last_success: float = 0.0) -> None:
    """Remember state, durably; last_success, in seconds since 1970, becomes its time."""
    with NewFile(os.path.join(root, NEW_STATE)) as new:
        new.write(format_state(state).encode('ascii'))
        new.date(last_success)
        new.publish(state_path(root))


def time_of(path: str) -> int:
    """When a file, or a link itself, was changed last, in seconds since 1970; 0 if it is not there."""
    try:
        return int(os.lstat(path).st_mtime)
    except FileNotFoundError:
        return 0


def state_path(root: str) -> str:
    """Where the state is."""
    return os.path.join(root, '.state')


def partial_path(root: str, digest: str) -> str:
    """Where as much as came of an image is kept."""
    return os.path.join(root, '.partial-' + digest)


def clear_partials(root: str, but: str = '') -> None:
    """Remove what came of images, but of the one with this SHA-256."""
    for name in os.listdir(root):
        if name.startswith('.partial-') and name != '.partial-' + but:
            remove_if_there(os.path.join(root, name))


def check_space(root: str, size: int) -> None:
    """TakoError unless size bytes more have room where root is."""
    status = os.statvfs(root)
    free = status.f_bavail * status.f_frsize
    if free < size:
        raise TakoError(f'{root}: {size} bytes are needed and {free} are free',
                        'make room there, or let Keep= remove old images; what is there stays as it is')


def keep_evidence(root: str, manifests: 'Sequence[bytes]') -> None:
    """Keep manifests that contradict each other, for people to look at."""
    for number, signed in enumerate(manifests, 1):
        with NewFile(os.path.join(root, NEW_MANIFEST)) as new:
            new.write(signed)
            new.publish(os.path.join(root, f'.fork.{number}'))


def stored_images(root: str) -> 'Dict[str, int]':
    """The SHA-256 of the images in the store by their names, with their sizes in bytes."""
    try:
        with os.scandir(os.path.join(root, 'store')) as found:
            return {each.name: each.stat().st_size for each in found
                    if re.fullmatch('[0-9a-f]{64}', each.name) and each.is_file()}
    except FileNotFoundError:
        return {}


def images_behind_loop_devices() -> 'Set[str]':
    """The names of all files that loop devices are backed by."""
    names = set()
    for device in os.listdir('/sys/block') if os.path.isdir('/sys/block') else []:
        try:
            with open(f'/sys/block/{device}/loop/backing_file') as stream:
                names.add(os.path.basename(stream.read().strip()).split(' ')[0])
        except OSError:                         # not a loop device, or not in use
            pass
    return names


def spare_images(stored: 'Set[str]', keep: int, preferred: 'Sequence[str]', needed: 'Set[str]') -> 'List[str]':
    """Which of the stored images to remove so that keep stay, if not more are needed or back a loop device.

    preferred: the images to keep, the best first; what is not among them goes first.
    """
    needed = needed | images_behind_loop_devices()
    best_first = list(dict.fromkeys(digest for digest in preferred if digest in stored))
    order = sorted(stored.difference(preferred)) + best_first[::-1]
    return [digest for digest in order if digest not in needed][:max(0, len(stored) - keep)]


def clear_leftovers(root: str) -> None:
    """Remove what runs that were killed have left in root, whose lock is ours."""
    for name in (NEW_IMAGE, NEW_MANIFEST, NEW_LINK, NEW_STATE):
        remove_if_there(os.path.join(root, name))


# ======================================================================== 11 units

def require_systemctl(environ: 'Mapping[str, str]') -> None:
    """UnitError unless there is a systemctl on the PATH."""
    folders = environ.get('PATH', os.defpath).split(os.pathsep)
    if not any(os.access(os.path.join(folder, 'systemctl'), os.X_OK) for folder in folders):
        raise UnitError('there is no systemctl on the PATH', 'without systemd, leave Restart= out')


def restart_units(units: 'Sequence[str]', confirm_seconds: float) -> None:
    """Restart systemd units, and see that they are active confirm_seconds later, if that is not 0.

    Raises UnitError, which names the units that do not run, their state, and where to look.
    """
    code, said = _systemctl('restart', '--', *units)
    if code == 0:
        if not confirm_seconds:
            return
        time.sleep(confirm_seconds)
    down = []
    for unit in units:
        inactive, state = _systemctl('is-active', '--', unit)
        if inactive:
            down.append((unit, state if re.fullmatch('[a-z-]+', state) else 'not active'))
    if code == 0 and not down:
        return
    names = [unit for unit, _ in down] or units
    what = ', '.join(f'{unit} is {state}' for unit, state in down) or 'cannot restart ' + ' '.join(units)
    if code != 0:
        what += f' (systemctl restart: exit code {code}: {said})'
    else:
        what += f' {confirm_seconds} seconds after its restart'
    raise UnitError(what, 'see: journalctl -u ' + ' -u '.join(names))


def _systemctl(*arguments: str) -> 'Tuple[int, str]':
    """Exit code and output, on one line; one that hangs is killed, and has failed."""
    import subprocess
    try:
        done = subprocess.run(('systemctl',) + arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=SYSTEMCTL_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return 124, f'no answer within {SYSTEMCTL_TIMEOUT_SECONDS:.0f} seconds'
    except OSError as error:
        return 127, str(error)
    return done.returncode, '; '.join(done.stdout.decode('utf-8', 'replace').split('\n')).strip('; ')


# ======================================================================== 12 report

class Report:
    """What the user reads: on stdout what changed, on stderr trouble; nothing else, unless somebody looks on.

    level: -1 for errors alone, 0 for what is worth a mail, 1 for each step.
    """

    def __init__(self, out: 'Optional[TextIO]', err: 'Optional[TextIO]', journal: str = '') -> None:
        self._out = out
        self._err = err
        self._journal = journal
        # whose, since when, from how many bytes on, and when shown last
        self._progress = None   # type: Optional[Tuple[str, float, int, float]]
        self.level = 0
        self.has_failed = False     # to print what changed

    def result(self, *lines: str) -> None:
        """What was asked for, or what changed."""
        if self.level >= 0:
            self._print(self._out, 6, *lines)

    def unchanged(self, line: str) -> None:
        """That there was nothing to do: cron mails whatever is printed, so only for a terminal."""
        if self.level > 0 or (self.level == 0 and _is_terminal(self._out)):
            self._print(self._out, 6, line)

    def step(self, line: str) -> None:
        """What is going on, for who asked to know or sits before it."""
        if self.level > 0 or (self.level == 0 and _is_terminal(self._err)):
            self._print(self._err, 7, 'tako: ' + line)

    def trouble(self, where: str, what: str, hint: str) -> None:
        """What is wrong, though it goes on, and on a second line what to do about it."""
        if self.level >= 0:
            self._complain(4, where, what, hint)

    def error(self, where: str, error: Exception) -> int:
        """What ends something, in the same form; its exit code."""
        told = as_tako_error(error)
        line = '' if told.line is None else f':{told.line}'
        self._complain(3, where + line, told.what, told.hint)
        return told.exit_code

    def progress(self, whose: str, size: int, of: int) -> None:
        """How far a download is, in bytes; on a terminal alone."""
        err = self._err
        if self.level < 0 or err is None or not err.isatty():
            return
        now = time.monotonic()
        if self._progress is None or self._progress[0] != whose:
            self._progress = whose, now, size, now
        _, began, begin, shown = self._progress
        if now - shown >= PROGRESS_EVERY_SECONDS:
            self._progress = whose, began, begin, now
            rate = max(1.0, (size - begin) / (now - began))
            line = '{}: {:.1f} of {:.1f} MB, {:.1f} MB/s, {:.0f} s left '.format(
                whose, size / 1e6, of / 1e6, rate / 1e6, (of - size) / rate)
            columns = os.get_terminal_size(err.fileno()).columns or 80
            err.write('\r{}\x1b[K'.format(line[-(columns - 1):]))     # a line that wraps is not drawn over
            err.flush()

    def _complain(self, priority: int, where: str, what: str, hint: str) -> None:
        said = where + ': ' + what if where else what
        said = re.sub(re.escape(SECRET_KEY_PREFIX) + '[^ ]+', SECRET_KEY_PREFIX + '...', said)     # mistyped into view
        said = said if len(said) <= MESSAGE_MAX_CHARS else said[:MESSAGE_MAX_CHARS] + '...'
        self._print(self._err, priority, 'tako: ' + said, *(['  ' + hint] if hint else []))

    def _print(self, stream: 'Optional[TextIO]', priority: int, *lines: str) -> None:
        """Print lines in any locale, without what a terminal would obey; for the journal with their priority.

        Nothing ends because it cannot be told: has_failed says so afterwards.
        """
        if stream is None:                          # as under >&-
            return
        encoding = stream.encoding or 'ascii'
        begin = f'<{priority}>' if self._journal and self._journal == _journal_name(stream) else ''    # sd-daemon(3)
        text = ''.join(begin + ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + '\n' for line in lines)
        try:
            if self._progress is not None and self._err is not None:
                self._progress = None
                self._err.write('\r\x1b[K')
            stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))
            stream.flush()
        except OSError as error:
            if stream is self._out and not self.has_failed:
                self.has_failed = True
                if not isinstance(error, BrokenPipeError):
                    self._complain(3, 'standard output', error.strerror or str(error), 'what was done is done')


def _is_terminal(stream: 'Optional[TextIO]') -> bool:
    return stream is not None and stream.isatty()


def _journal_name(stream: 'TextIO') -> str:
    """What JOURNAL_STREAM would call this stream (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return ''
    return f'{status.st_dev}:{status.st_ino}'


# ======================================================================== 13 fetch

class Mirrors:
    """The origins of one config during one run. What one of them does wrong is told, and costs it this run."""

    def __init__(self, origins: 'Sequence[Origin]', network: Network, tell: 'Callable[[TakoError], object]') -> None:
        self.usable = list(origins)
        self._network = network
        self._tell = tell

    def ask(self, attempt: 'Callable[[Origin], T]', is_one_enough: bool) -> 'List[T]':
        """What attempt returns for each mirror, in order, or for the first that it succeeds with.

        Those that fail for the moment are tried again after a pause, as long as no other had success.
        Raises the gravest of the errors if all fail; GoneError if one of them is that.
        """
        results = []    # type: List[T]
        errors = {}     # type: Dict[Origin, TakoError]
        waiting = list(self.usable)
        while waiting and not results:
            failed = {}
            for number, origin in enumerate(waiting):
                now, others = time.monotonic(), len(waiting) - number - 1
                if others and not is_one_enough:    # a mirror's turn is not to eat up the others'
                    share = (self._network.deadline - now) / (others + 1)
                    self._network.turn = now + min(MANIFEST_SECONDS, share), origin.url
                try:
                    results.append(attempt(origin))
                    errors.pop(origin, None)
                    if is_one_enough:
                        break
                except TakoError as error:
                    errors[origin] = error
                    if isinstance(error, TransientError):
                        failed[origin.url] = error
                finally:
                    self._network.turn = float('inf'), ''
            again = [] if results else self._network.pause(failed)
            waiting = [origin for origin in waiting if origin.url in again]
        return self._settle(results, errors)

    def _settle(self, results: 'List[T]', errors: 'Dict[Origin, TakoError]') -> 'List[T]':
        gravest = max(errors.values(), key=lambda error: (isinstance(error, GoneError), GRAVITY.index(error.exit_code)),
                      default=None)
        for origin, error in errors.items():
            if results:
                self.usable.remove(origin)
            if results or not (error is gravest or isinstance(error, GoneError)):
                self._tell(error)
        if gravest is not None and not results:
            raise gravest
        return results


class ImageFetch:
    """The fetch of one config, from its text to its units."""

    def __init__(self, path: str, options: 'argparse.Namespace', network: Network, report: Report) -> None:
        self.path = path
        self.config = load_config(path)
        self.options = options
        self.root = self.config.destination
        self.network = network
        self.report = report
        self.changes = []   # type: List[str]           # what the user is told
        self.etags = {}     # type: Dict[str, str]      # of images, by URL
        self.misled = set()     # type: Set[str]        # URLs that led to other bytes once, if not from zero
        self.mirrors = Mirrors(self.config.origins, network, lambda error: report.trouble(path, error.what, error.hint))

    def run(self) -> int:
        """Bring the destination up to date; the exit code, or TakoError or OSError."""
        if self.options.init and self._has_compatible_image():
            return 0
        wait = min(LOCK_WAIT_SECONDS, self.network.deadline - time.monotonic())
        with DirectoryLock(self.root, wait, lambda: self._step('waiting for another run')):
            try:
                clear_leftovers(self.root)
                self._recall()
                codes = [] if self.options.init else [self._attempt(self._finish_switch)]
                codes.append(self._attempt(self._update))
                if not any(codes):
                    self._remember(self.state, is_success=True)
            finally:
                clear_leftovers(self.root)          # a signal may have come where nothing else does it
                if self.changes:
                    self.report.result('{}: {}'.format(self.path, ', '.join(self.changes)))
        return max(codes, key=GRAVITY.index)

    def _attempt(self, step: 'Callable[[], None]') -> int:
        try:
            step()
        except (TakoError, OSError) as error:
            return self.report.error(self.path, error)
        return 0

    def preview(self) -> int:
        """Say what run() would do; change nothing."""
        self._recall()
        if self.options.init and self._has_compatible_image():
            self.report.result(f'{self.path}: the image in place will do')
            return 0
        manifest = self._refresh_manifest(is_dry=True)
        entry = next(self._candidates(manifest), None)
        if entry is None:
            raise self._no_version(manifest, [])
        linked = linked_digest(self.root) or ''
        would = []
        if self._image_fault(entry) is not None:
            would.append(f'would fetch {entry.size} bytes from {self.mirrors.usable[0].url}'
                         + ' (withdrawn when last asked for)' * (entry.digest in self.state.withdrawn))
        if entry.digest != linked:
            would.append('would point latest at it')
        if self.config.units and not self.options.init and (linked != entry.digest or linked == self.state.restart_due):
            require_systemctl(os.environ)
            would.append('would restart ' + ' '.join(self.config.units))
        previous = self.state.previous if entry.digest == linked else linked
        would.extend('would remove ' + _name_of(digest, manifest)
                     for digest in self._spare_images(manifest, entry.digest, previous))
        self.report.result(f'{self.path}: {entry.version}: {", ".join(would) or "is in place"}')
        return 0

    def _update(self) -> None:
        manifest = self._refresh_manifest()
        before = linked_digest(self.root) or ''
        entry = self._ensure_newest(manifest, before)
        if entry.digest == before:
            self.report.unchanged(f'{self.path}: {entry.version} is in place, the newest in {self.config.bounds.text}')
        else:
            self._switch(before, entry)
        clear_partials(self.root)
        self._remove_spare(manifest)

    def _remove_spare(self, manifest: Manifest) -> None:
        for digest in self._spare_images(manifest, linked_digest(self.root) or '', self.state.previous):
            remove_if_there(image_path(self.root, digest))
            self.changes.append('removed ' + _name_of(digest, manifest))

    def _switch(self, before: str, entry: Entry) -> None:
        # a restart that was due stays due, for the new image; --init does not add one
        is_due = bool(self.config.units and (self.state.restart_due or not self.options.init))
        self._remember(self.state._replace(previous='' if before in self.state.rejected else before,
                                           restart_due=entry.digest if is_due else ''))
        point_latest(self.root, entry.digest)
        self.changes.append(f'{entry.version} is in place')
        if is_due and not self.options.init:
            self._restart()

    def _spare_images(self, manifest: Manifest, latest: str, previous: str) -> 'List[str]':
        if not self.config.keep:
            return []
        return spare_images(set(stored_images(self.root)) | {latest}, self.config.keep,
                            [entry.digest for entry in reversed(manifest.entries)], {latest, previous})

    def _finish_switch(self) -> None:
        """Do what a run that died left to do since latest moved, or was to move back. Asks no origin."""
        linked = linked_digest(self.root)
        if linked in self.state.rejected and has_whole_image(self.root, self.state.previous):
            point_latest(self.root, self.state.previous)
            linked = self.state.previous
            self.changes.append(f'{_name_of(linked, self._local_manifest(read_manifest(self.root)))} is in place again')
        if linked and self.state.restart_due == linked:
            self._restart()

    def _restart(self) -> None:
        """Restart the units, or roll back; each step is noted before it is taken, so that it can be taken again."""
        units, confirm_seconds = self.config.units, self.config.confirm_seconds
        if units:
            require_systemctl(os.environ)
        try:
            if units:
                self._step('restarting ' + ' '.join(units))
                restart_units(units, confirm_seconds)
                self.changes.append('restarted ' + ' '.join(units))
        except UnitError as error:
            linked, previous = self.state.restart_due, self.state.previous
            if previous in ('', linked) or not has_whole_image(self.root, previous):
                raise UnitError(f'{error.what}; there is no earlier image to go back to', error.hint) from None
            self._remember(self.state._replace(rejected=self.state.rejected + (linked,), restart_due=previous))
            point_latest(self.root, previous)
            manifest = self._local_manifest(read_manifest(self.root))
            name = _name_of(previous, manifest)
            self.changes[:] = [f'{name} is in place again']
            told = f'{error.what}; {_name_of(linked, manifest)} is rejected, latest is {name} again'
            hint = error.hint + '; if the image is not at fault: tako fetch --retry-rejected'
            try:
                restart_units(units, confirm_seconds)
            except UnitError as second:
                raise UnitError(f'{told}, and there, too, {second.what}', hint) from None
            self._remember(self.state._replace(restart_due='', previous=''))
            raise UnitError(told, hint) from None
        self._remember(self.state._replace(restart_due=''))

    def _recall(self) -> None:
        """Read the state; start it anew if it is damaged."""
        state = read_state(self.root)
        if state is None:
            self.report.trouble(self.path, f'{state_path(self.root)} is damaged',
                                'a fetch makes it anew: what was rejected is forgotten, and a restart that was due')
        self.state = parse_state('') if state is None else state
        self.recalled = state
        if self.options.retry_rejected:
            linked = linked_digest(self.root)
            if linked in self.state.rejected:       # of a rollback that was cut short
                self.state = self.state._replace(restart_due=linked)
            self.state = self.state._replace(rejected=())

    def _remember(self, state: State, is_success: bool = False) -> None:
        """Write the state if it changed; its time is that of the last success."""
        self.state = state
        path = state_path(self.root)
        if state != self.recalled or (is_success and not os.path.exists(path)):
            last_success = time.time() if is_success else time_of(path)
            if os.path.isdir(path) and not os.path.islink(path):
                os.rmdir(path)                      # which no file can take the place of
            place_state(self.root, state, last_success)
            self.recalled = state
        elif is_success and not touch(path):    # another user's
            place_state(self.root, state, time.time())

    def _step(self, line: str) -> None:
        self.report.step(f'{self.path}: {line}')

    def _has_compatible_image(self) -> bool:
        """Whether latest is an intact image within bounds; takes neither lock nor network."""
        digest = linked_digest(self.root)
        manifest = self._local_manifest(read_manifest(self.root))
        return any(entry.digest == digest and self._image_fault(entry) is None
                   for entry in compatible_entries(manifest, self.config.bounds))

    def _image_fault(self, entry: Entry) -> 'Optional[str]':
        is_in_place = entry.digest == linked_digest(self.root)
        return image_fault(self.root, entry, is_size_enough=self.options.no_verify and is_in_place)

    def _local_manifest(self, signed: 'Optional[bytes]') -> Manifest:
        """The manifest that was accepted last, verified again; an empty one on the first run."""
        if signed is None:
            return Manifest(())
        try:
            return open_manifest(signed, self.config.public_keys, manifest_path(self.root))
        except RefusedError as error:
            raise RefusedError(error.what, 'if PublicKey= changed, list the old key too; else see who changed '
                               'the file. Without it, the next run would accept an older manifest') from None

    def _refresh_manifest(self, is_dry: bool = False) -> Manifest:
        """The newest manifest of all mirrors, once it is verified, continues the last one, and is durable."""
        local = read_manifest(self.root)
        known = self._local_manifest(local)
        offers = self.mirrors.ask(lambda origin: self._ask_for_manifest(origin, local, known), is_one_enough=False)
        choice = [(offered, answered, origin.url + '/manifest') for origin, answered, offered, _ in offers]
        choice.append((known, local or b'', manifest_path(self.root)))
        newest, other = pick_newest([manifest for manifest, _, _ in choice])
        if other is not None:                       # told in the config's order, after our own
            one, two = sorted((newest, other), key=lambda number: (number + 1) % len(choice))
            if not is_dry:
                keep_evidence(self.root, [choice[one][1], choice[two][1]])
            lost = first_lost(choice[one][0], choice[two][0])
            raise ForkError(choice[one][2], choice[two][2], lost.line().strip() if lost else '')
        manifest, signed, _ = choice[newest]
        if not is_dry:
            if signed != local:
                place_manifest(self.root, signed)
            touch(manifest_path(self.root))         # when that was checked last
        digest = hashlib.sha256(signed).hexdigest()
        self.state = self.state._replace(validators=tuple(
            f'{digest} {origin.url} {etag}' for origin, answered, _, etag in offers if answered == signed and etag))
        return manifest

    def _ask_for_manifest(self, origin: Origin, local: 'Optional[bytes]',
                          known: Manifest) -> 'Tuple[Origin, bytes, Manifest, str]':
        """What a mirror offers: bytes, manifest, ETag. RollbackError if it is older than the last one."""
        url = origin.url + '/manifest'
        begin = '{} {} '.format(hashlib.sha256(local or b'').hexdigest(), origin.url)
        etag = next((each[len(begin):] for each in self.state.validators if each.startswith(begin)), '')
        if time_of(manifest_path(self.root)) // FULL_ANSWER_SECONDS != int(time.time()) // FULL_ANSWER_SECONDS:
            etag = ''                           # who gave it may have lied
        self._step('asking for ' + url)
        try:
            answer = self.network.open(url, origin.authorization, {'If-None-Match': etag if local else ''})
        except GoneError as error:              # that is for images
            raise UnreachableError(error.what, 'has the publisher moved? look at Origin=') from None
        content = bytearray()                   # and no list: chunks may have a byte each
        for chunk in at_most(MANIFEST_MAX_BYTES, answer.chunks, answer.url):
            content += chunk
        signed = local if answer.status == 304 and local is not None else bytes(content)
        if signed == local:
            return origin, signed, known, etag if answer.status == 304 else answer.etag()
        offered = open_manifest(signed, self.config.public_keys, answer.url)
        lost = first_lost(known, offered)
        if lost is not None and first_lost(offered, known) is None:
            raise RollbackError(answer.url, lost.version.text)
        return origin, signed, offered, answer.etag()

    def _candidates(self, manifest: Manifest) -> 'Iterator[Entry]':
        """The entries to consider, newest first."""
        for entry in compatible_entries(manifest, self.config.bounds):
            if entry.digest in self.state.rejected:
                self._step(f'{entry.version} was rejected: a unit did not run on it')
            else:
                yield entry

    def _ensure_newest(self, manifest: Manifest, before: str) -> Entry:
        """The newest entry in bounds whose image is here intact, or could be brought here.

        Going from newest to oldest, this never passes the version that latest names.
        """
        withdrawn = []
        for entry in self._candidates(manifest):
            try:
                self._ensure_image(entry, entry.digest == before)
                self.state = self.state._replace(
                    withdrawn=tuple(digest for digest in self.state.withdrawn if digest != entry.digest))
                return entry
            except GoneError as error:
                withdrawn.append(entry)
                if entry.digest not in self.state.withdrawn:
                    self.report.trouble(self.path, f'{entry.version}: {error.what}',
                                        'an older version will do, if there is one')
                    self._remember(self.state._replace(withdrawn=self.state.withdrawn + (entry.digest,)))
                if entry.digest == before:
                    break
        raise self._no_version(manifest, withdrawn)

    def _no_version(self, manifest: Manifest, withdrawn: 'List[Entry]') -> TakoError:
        pattern = self.config.bounds.text
        if withdrawn:
            return UnreachableError('no version in {} is to be had; withdrawn: {}'.format(
                pattern, _some([entry.version.text for entry in withdrawn])),
                'wait for a new one, or widen Version=')
        if any(compatible_entries(manifest, self.config.bounds)):
            return TakoError(f'all versions in {pattern} were rejected', 'wait for a new one, or use --retry-rejected')
        nearest = ', '.join(version.text for version in nearest_versions(manifest, self.config.bounds))
        return TakoError('no version in {}; the nearest are: {}'.format(pattern, nearest or 'none'),
                         'wait for one, or change Version=')

    def _ensure_image(self, entry: Entry, is_in_place: bool) -> None:
        """Have the intact image of entry in the store, bringing it if it is missing or damaged."""
        fault = self._image_fault(entry)
        if self.config.units and not is_in_place and not self.options.init:
            require_systemctl(os.environ)           # before a byte is fetched in vain
        if fault is None:
            return
        if fault == MISSING:
            self._download(entry)
            return
        self.report.trouble(self.path, f'{image_path(self.root, entry.digest)} {fault}',
                            'fetching it anew; look at the disk if this happens again')
        try:
            self._download(entry)
        except (TakoError, OSError) as error:
            if isinstance(error, GoneError) and not is_in_place:
                remove_if_there(image_path(self.root, entry.digest))
                raise
            told = as_tako_error(error)
            raise RefusedError(f'the damaged image of {entry.version} cannot be replaced: {told.what}',
                               told.hint) from error
        self.changes.append(f'{entry.version} is repaired')

    def _download(self, entry: Entry) -> None:
        """Bring the image of entry into the store, verified, from the first mirror that serves it."""
        clear_partials(self.root, but=entry.digest)
        with PartialFile(partial_path(self.root, entry.digest)) as partial:
            try:
                check_space(self.root, entry.size - partial.size)
            except TakoError:
                self._remove_spare(self._local_manifest(read_manifest(self.root)))
                check_space(self.root, entry.size - partial.size)
            self.mirrors.ask(lambda origin: self._download_from(origin, entry, partial), is_one_enough=True)
            publish_image(self.root, partial, entry.digest)

    def _download_from(self, origin: Origin, entry: Entry, partial: PartialFile) -> None:
        """Let partial become the image, or raise; what does not lead there is given up, and tried from zero once."""
        url = f'{origin.url}/store/{entry.digest}'
        while True:
            before = partial.size
            self._step(f'fetching {entry.version}, {entry.size - before} bytes, from {url}')
            try:
                if before < entry.size or not entry.size:
                    self._receive(url, origin, entry, partial)
            except TransientError as error:
                error.has_progressed = partial.size - before >= PROGRESS_MIN_BYTES
                raise
            digest = partial.sha256.hexdigest()
            if digest == entry.digest:
                return
            partial.cut_back(0, hashlib.sha256())
            if not before or url in self.misled:
                raise _wrong_image(url, f'has the SHA-256 {digest}', 'not the signed one')
            self.misled.add(url)

    def _receive(self, url: str, origin: Origin, entry: Entry, partial: PartialFile, is_ranged: bool = True) -> None:
        """Add to partial what it lacks, taking no byte more than the size that was signed.

        Where the answer to a Range is wrong, the whole is asked for, and what is here already skipped.
        """
        begin, hashed, asked = partial.size, partial.sha256.copy(), {}
        if begin and is_ranged:
            asked['Range'] = f'bytes={begin}-'
            asked['If-Range'] = self.etags.get(url, '')
        answer = self.network.open(url, origin.authorization, asked)
        is_rest = (answer.headers.get('Content-Range') == f'bytes {begin}-{entry.size - 1}/{entry.size}'
                   and answer.length in (None, entry.size - begin))
        if answer.status != 200 and not is_rest:
            return self._receive(url, origin, entry, partial, is_ranged=False)
        self.etags[url] = answer.strong_etag()
        skipped = begin if answer.status == 200 else 0     # what is here already comes again
        if answer.length not in (None, entry.size - begin + skipped):
            raise _wrong_image(answer.url, f'has {answer.length} bytes', f'not {entry.size}')
        try:
            for chunk in at_most(entry.size - begin + skipped, answer.chunks, answer.url):
                partial.write(chunk[skipped:])
                skipped = max(0, skipped - len(chunk))
                self.report.progress(self.path, partial.size, entry.size)
        except RefusedError:                        # what a liar sent is nothing to go on from
            partial.cut_back(begin, hashed)
            if answer.status == 200:
                raise
            return self._receive(url, origin, entry, partial, is_ranged=False)
        if partial.size != entry.size:
            raise TransientError(f'{answer.url}: ended {entry.size - partial.size} bytes early')


def _some(names: 'Sequence[str]') -> str:
    """Names in a row, cut short where that gets long."""
    more = len(names) - NAMES_MAX
    return ', '.join(names[:NAMES_MAX]) + (f' and {more} more' if more > 0 else '')


def _name_of(digest: str, manifest: Manifest) -> str:
    """The version of an image, for messages."""
    return next((entry.version.text for entry in reversed(manifest.entries) if entry.digest == digest), digest)


def _wrong_image(url: str, what: str, signed: str) -> RefusedError:
    return RefusedError(f'{url}: {what}, {signed}',
                        'the file on the server was altered or cut short: tell the publisher')


def load_config(path: str) -> Config:
    """The config in a file, its destination looked up; ConfigError says what is wrong with it."""
    try:
        content = read_at_most(CONFIG_MAX_BYTES + 1, path)
        text = content.decode('utf-8').lstrip('\ufeff')
    except ValueError:
        raise ConfigError('not UTF-8 text, or no path', 'is this a config') from None
    except OSError as error:
        raise ConfigError(error.strerror or str(error), 'look at the path of the config') from error
    if len(content) > CONFIG_MAX_BYTES:
        raise ConfigError(f'longer than {CONFIG_MAX_BYTES} bytes', 'is this a config')
    config = parse_config(text)
    if not os.path.isdir(config.destination):
        raise ConfigError(f'Destination= is not an existing directory: {config.destination}',
                          'create it, for the user who runs this', config.destination_line)
    return config


def fetch(arguments: 'argparse.Namespace', report: Report) -> int:
    """The fetch command: each config stands alone, all are tried, the gravest exit code is the run's."""
    codes = [0]
    if arguments.splay:
        import random
        time.sleep(random.uniform(0, arguments.splay))
    with Network(os.environ) as network:
        for path in arguments.configs:
            if arguments.timeout is not None:
                network.deadline = time.monotonic() + arguments.timeout
            try:
                image = ImageFetch(path, arguments, network, report)
                codes.append(image.preview() if arguments.dry_run else image.run())
            except Exception as error:              # each config stands alone
                codes.append(report.error(path, error))
    return max(codes, key=GRAVITY.index)


# ======================================================================== 14 status

def status(arguments: 'argparse.Namespace', report: Report) -> int:
    """The status command: what is known without asking anybody."""
    codes, told = [0], []
    for path in arguments.configs:
        try:
            known = _status_of(path, load_config(path), report)
            told.append(known)
            if not arguments.json:
                report.result(*_status_lines(known))
            age = time.time() - known['last_success'] if known['last_success'] else float('inf')
            if arguments.max_age is not None and age < -60:
                raise TakoError('the last success is in the future', 'look at the clock; the next success mends it')
            if arguments.max_age is not None and age > arguments.max_age:
                raise TakoError('the last success is too old' if known['last_success'] else 'there was no success yet',
                                'see why: tako fetch -v ' + path)
        except (TakoError, OSError) as error:
            codes.append(report.error(path, error))
    if arguments.json:
        import json
        report.result(*json.dumps(told, indent=2).split('\n'))
    return max(codes, key=GRAVITY.index)


def _status_of(path: str, config: Config, report: Report) -> 'Dict[str, Any]':
    """All that is known of one config, as --json prints it; times in seconds since 1970, or None."""
    root = config.destination
    signed, linked = read_manifest(root), linked_digest(root)
    manifest = Manifest(()) if signed is None else open_manifest(signed, config.public_keys, manifest_path(root))
    state = read_state(root)
    if state is None:
        report.trouble(path, f'{state_path(root)} is damaged', 'the next fetch makes it anew')
        state = parse_state('')
    compatible = list(compatible_entries(manifest, config.bounds))
    stored = stored_images(root)
    rejected = [entry.version.text for entry in compatible if entry.digest in state.rejected]
    withdrawn = [entry.version.text for entry in compatible if entry.digest in state.withdrawn]
    return {
        'config': path, 'destination': root, 'pattern': config.bounds.text,
        'version': next((entry.version.text for entry in compatible + list(manifest.entries[::-1])
                         if entry.digest == linked), None),
        'digest': linked,
        'is_there': linked in stored and all(stored[linked] == entry.size for entry in manifest.entries
                                             if entry.digest == linked),
        'since': time_of(os.path.join(root, 'latest')) or None,
        'newest_compatible': compatible[0].version.text if compatible else None,
        'out_of_bounds': [entry.version.text for entry in manifest.entries if entry.version not in config.bounds],
        'rejected': rejected, 'withdrawn': withdrawn,
        'images': len(stored), 'image_bytes': sum(stored.values()),
        'restart_due': bool(state.restart_due) and (state.restart_due == linked or linked in state.rejected),
        'last_check': time_of(manifest_path(root)) or None, 'last_success': time_of(state_path(root)) or None,
        'reason': _reason(config, state, compatible, linked, rejected, withdrawn),
    }


def _reason(config: Config, state: State, compatible: 'List[Entry]', linked: 'Optional[str]', rejected: 'List[str]',
            withdrawn: 'List[str]') -> str:
    """Why the version in place is the one in place."""
    if linked is None:
        return 'nothing was fetched yet'
    if linked in state.rejected:
        return 'a unit did not run on it; the next fetch goes back to the image before, or on to another'
    if linked not in [entry.digest for entry in compatible]:
        return f'it was in place before Version= became {config.bounds.text}; the next fetch looks for another'
    newer = [entry.version.text for entry in compatible[:[entry.digest for entry in compatible].index(linked)]]
    if not newer:
        return f'it is the newest version in {config.bounds.text}'
    fates = ((rejected, 'was rejected'), (withdrawn, 'was withdrawn'), (newer, 'is not fetched yet'))
    return f'it is in {config.bounds.text}; of the newer ones ' + ', '.join(
        f'{version} {next(fate for versions, fate in fates if version in versions)}' for version in newer)


def _status_lines(known: 'Dict[str, Any]') -> 'List[str]':
    """The same for people."""
    def when(seconds: 'Optional[int]') -> str:
        return 'never' if seconds is None else time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(seconds))
    version = 'nothing'
    if known['digest']:
        version = '{}, {}{}'.format(known['version'] or 'no listed version', known['digest'],
                                    '' if known['is_there'] else ', which is MISSING or cut short')
    lines = [('in place', version),
             ('since', when(known['since'])), ('because', known['reason']),
             ('newest known', '{} in {}'.format(known['newest_compatible'] or 'none', known['pattern'])),
             ('out of bounds', ', '.join(known['out_of_bounds']) or 'none'),
             ('rejected', ', '.join(known['rejected']) or 'none'),
             ('store', '{} images, {} bytes'.format(known['images'], known['image_bytes'])),
             ('restart due', 'yes' if known['restart_due'] else 'no'),
             ('last check', when(known['last_check'])), ('last success', when(known['last_success']))]
    return [known['config']] + [f'  {name + ":":15}{value}' for name, value in lines]


# ======================================================================== 15 publish

def store(arguments: 'argparse.Namespace', report: Report) -> int:
    """The store command: the image first, the manifest that lists it last."""
    version = _new_version(arguments.version, arguments.image)
    if arguments.image == arguments.key_file == '-':
        raise UsageError('standard input cannot be the key and the image', 'give one of them as a file')
    seed = _read_secret_key(arguments, report)
    lock = _publishing(arguments.output, report)
    if arguments.dry_run:
        _publish(arguments, version, seed, report)
    else:
        with lock:
            clear_leftovers(arguments.output)
            _publish(arguments, version, seed, report)
    return 0


def _publish(arguments: 'argparse.Namespace', version: Version, seed: bytes, report: Report) -> None:
    root, public_key = arguments.output, ed25519_public_key(seed)
    signed = read_manifest(root)
    manifest = Manifest(()) if signed is None else open_manifest(signed, [public_key], manifest_path(root))
    check_spelling(manifest, version)
    if arguments.dry_run:
        entry = Entry(version, *copy_and_hash(_read_image(arguments.image), len))
        grown = add_entry(manifest, entry)
        is_stored = grown is not manifest or image_fault(root, entry) is not None
    else:
        entry, grown, is_stored = _store_image(root, arguments.image, version, manifest, seed)
    if is_stored:
        report.result('{}: {}stored {}, {} bytes, SHA-256 {}; clients need PublicKey={}'.format(
            root, 'would have ' * arguments.dry_run, version, entry.size, entry.digest, encode_base64(public_key)))
    else:
        report.unchanged(f'{root}: {version} is this image already')
    _warn_of_order_and_gaps(root, grown, entry, report)


def _store_image(root: str, image: str, version: Version, manifest: Manifest,
                 seed: bytes) -> 'Tuple[Entry, Manifest, bool]':
    """Copy an image into root and list it; its entry, the manifest then, and whether anything changed."""
    with NewFile(os.path.join(root, NEW_IMAGE)) as new:
        entry = Entry(version, *copy_and_hash(_read_image(image), new.write))
        grown = add_entry(manifest, entry)
        if grown is manifest and image_fault(root, entry) is None:
            return entry, manifest, False
        sealed = seal_manifest(grown, seed)
        publish_image(root, new, entry.digest)
    if grown is not manifest:
        sync_names(root)
        place_manifest(root, sealed)
    return entry, grown, True


def _read_image(path: str) -> 'Iterator[bytes]':
    return read_blocks(_standard_input() if path == '-' else open(path, 'rb', buffering=0))


def _standard_input() -> 'BinaryIO':
    if sys.stdin is None:
        raise UsageError('standard input is closed', 'give a file, or a pipe')
    return sys.stdin.buffer


def sign(arguments: 'argparse.Namespace', report: Report) -> int:
    """The sign command: the same manifest under a new key."""
    root = arguments.directory
    seed = _read_secret_key(arguments, report)
    old, new = parse_public_key(arguments.public_key), ed25519_public_key(seed)
    with _publishing(root, report):
        clear_leftovers(root)
        signed = _published_manifest(root)
        manifest = open_manifest(signed, [old, new], manifest_path(root))
        sealed = seal_manifest(manifest, seed)
        if sealed == signed:
            report.unchanged(f'{root}: signed with this key already')
        else:
            place_manifest(root, sealed)
            report.result(f'{root}: signed anew; clients need PublicKey={encode_base64(new)}')
    return 0


def verify(arguments: 'argparse.Namespace', report: Report) -> int:
    """The verify command: whether a directory that is served, or mirrored, is whole."""
    root = arguments.directory
    manifest = open_manifest(_published_manifest(root), [parse_public_key(arguments.public_key)], manifest_path(root))
    codes = [0]
    for entry in manifest.entries:
        fault = image_fault(root, entry)
        if fault is not None:
            codes.append(1 if fault == MISSING else 3)
            hint = 'put it back, unless it was withdrawn' if fault == MISSING else 'put there what was published'
            report.trouble(root, f'{entry.version}: {image_path(root, entry.digest)} {fault}', hint)
    report.result('{}: the manifest is right, {} of {} images are whole'.format(
        root, len(manifest.entries) - len(codes) + 1, len(manifest.entries)))
    return max(codes, key=GRAVITY.index)


def _publishing(root: str, report: Report) -> DirectoryLock:
    """The lock on a directory that is served."""
    if not os.path.isdir(root):
        raise UsageError(f'{root}: not an existing directory', 'create it, or correct the command line')
    return DirectoryLock(root, LOCK_WAIT_SECONDS, lambda: report.step(root + ': waiting for another run'))


def _published_manifest(root: str) -> bytes:
    signed = read_manifest(root)
    if signed is None:
        raise UsageError(f'{manifest_path(root)}: no such file', 'is it a directory that store publishes in')
    return signed


def _new_version(text: str, image: str) -> Version:
    if os.path.exists(text) and image != '-' and not os.path.exists(image):
        raise UsageError(f'{image} is no file, and {text} is one', 'the image comes first, then its version')
    if '*' in text:
        raise UsageError(f'not a version: {text!a}', 'a * belongs in patterns alone')
    return parse_version(text)


def _read_secret_key(arguments: 'argparse.Namespace', report: Report) -> bytes:
    """The seed from -k, from -f's file, or from TAKO_SECRET_KEY."""
    if arguments.key_file is not None:
        source, text = 'the key file', _read_key_file(arguments.key_file, report)
    elif arguments.key is not None:
        source, text = '-k', arguments.key
    else:
        source, text = 'TAKO_SECRET_KEY', os.environ.get('TAKO_SECRET_KEY', '')
        if not text:
            raise UsageError('no secret key to sign with', 'give -f FILE, or set TAKO_SECRET_KEY')
    try:
        return parse_secret_key(text)
    except UsageError as error:
        raise UsageError(f'{source}: {error.what}', error.hint) from None


def _read_key_file(path: str, report: Report) -> str:
    try:
        if path == '-':
            content = _standard_input().read(KEY_FILE_MAX_BYTES)
        else:
            content = read_at_most(KEY_FILE_MAX_BYTES, path)
            if os.stat(path).st_mode & 0o077:
                report.trouble(path, 'others can read this secret key', 'chmod 600 it')
    except OSError as error:
        raise UsageError(f'{path}: {error.strerror or error}', 'look at the path of the key') from error
    return re.sub('\r?\n$', '', content.decode('ascii', 'replace'))


def _warn_of_order_and_gaps(root: str, manifest: Manifest, entry: Entry, report: Report) -> None:
    newest = manifest.entries[-1].version
    if newest != entry.version:
        report.trouble(root, f'{entry.version} is not the newest version, {newest} is',
                       'a client whose bounds let both in stays with the newest')
    there = stored_images(root)
    missing = [each.version.text for each in manifest.entries if each.digest not in there and each != entry]
    if missing:
        report.trouble(root, 'listed, but not in store/: {}'.format(_some(missing)),
                       'if you withdrew them, let the server answer 410 for them; else put them back')


def gen_key(_: 'argparse.Namespace', report: Report, entropy: 'Callable[[int], bytes]' = os.urandom) -> int:
    """The gen-key command: a new key pair, printed; no file is written."""
    seed = entropy(32)
    report.result('Public key, for PublicKey= in the config of each client:',
                  encode_base64(ed25519_public_key(seed)),
                  'Secret key, for store; whoever has it can publish in your name:',
                  format_secret_key(seed))
    return 0


# ======================================================================== 16 command line

class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


# with no width given, argparse loads shutil to look for one, and shutil three compressors: at each start, help or not
_HelpFormatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=HELP_COLUMNS)


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with errors in our form, and texts printed as they stand here."""

    def __init__(self, **settings: 'Any') -> None:
        # before 3.8, forbidding --ini for --init forbids -kKEY too
        super().__init__(allow_abbrev=sys.version_info < (3, 8),
                         formatter_class=_HelpFormatter, **settings)

    def error(self, message: str) -> 'NoReturn':
        raise UsageError(message, f'see: {self.prog} --help')


def _seconds(text: str) -> float:
    if not re.fullmatch('[0-9]{1,9}([.][0-9]{1,9})?', text):
        raise argparse.ArgumentTypeError(f'{text!a} is no number of seconds')
    return float(text)


def _age(text: str) -> float:
    """Seconds of 90s, 15m, 36h, 7d or 2w."""
    match = re.fullmatch('([0-9]{1,9})([smhdw])', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!a} is no age, as 36h or 7d')
    return float(match.group(1)) * {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}[match.group(2)]


def argument_parser() -> ArgumentParser:
    """What the command line may be."""
    parser = ArgumentParser(prog='tako', description=__doc__, epilog='tako COMMAND --help tells more.')
    parser.add_argument('--version', action='version', version='tako ' + __version__)
    commands = parser.add_subparsers(metavar='COMMAND', dest='command')
    commands.required = True
    for add in (_add_fetch, _add_status, _add_store, _add_sign, _add_verify, _add_gen_key):
        add(commands.add_parser)
    return parser


def _add_fetch(add: 'Callable[..., ArgumentParser]') -> None:
    command = add('fetch', help='bring the newest compatible version here', epilog=FETCH_EXAMPLES,
                  description='Bring the newest version that each CONFIG lets in to its destination, verified, let\n'
                              'latest name it, and restart its units. Prints nothing if there is nothing to do.')
    option = command.add_argument
    option('--init', action='store_true',
           help='do nothing if latest is an intact compatible image; restart no unit (for ExecStartPre=)')
    option('--dry-run', action='store_true', help='say what would be done, and change nothing')
    option('--no-verify', action='store_true', help='of the image in place, check the size, not the SHA-256')
    option('--retry-rejected', action='store_true', help='try versions again on which a unit did not run')
    option('--splay', type=_seconds, default=0.0, metavar='SECONDS', help='first wait a random part of this, for cron')
    option('--timeout', type=_seconds, metavar='SECONDS', help='how long a config may wait for lock and network')
    option('-v', '--verbose', dest='level', action='store_const', const=1, default=0, help='say what is going on')
    option('-q', '--quiet', dest='level', action='store_const', const=-1, help='print errors alone')
    option('configs', nargs='+', metavar='CONFIG', help='the config file of an image')
    command.set_defaults(run=fetch)


def _add_status(add: 'Callable[..., ArgumentParser]') -> None:
    command = add('status', help='what is in place, and why',
                  description='Say what is in place, why, and when that was last made sure. Asks nobody.')
    command.add_argument('--json', action='store_true', help='for programs')
    command.add_argument('--max-age', type=_age, metavar='AGE', help='exit 1 if the last success is older: 36h, 7d')
    command.add_argument('configs', nargs='+', metavar='CONFIG', help='the config file of an image')
    command.set_defaults(run=status)


def _add_store(add: 'Callable[..., ArgumentParser]') -> None:
    command = add('store', help='publish an image', epilog=STORE_EXAMPLES,
                  description='Copy IMAGE into DIR/store and list it in DIR/manifest as VERSION. Any web server can\n'
                              'serve DIR.')
    _add_keys(command)
    command.add_argument('-o', dest='output', metavar='DIR', required=True, help='the directory that the server serves')
    command.add_argument('--dry-run', action='store_true', help='say what would be stored, and change nothing')
    command.add_argument('image', metavar='IMAGE', help='the file to publish; - for standard input')
    command.add_argument('version', metavar='VERSION', help='its version, as 1.2.0')
    command.set_defaults(run=store)


def _add_keys(command: ArgumentParser) -> None:
    keys = command.add_mutually_exclusive_group()
    keys.add_argument('-k', dest='key', metavar='KEY', help='the secret key itself, for all who look at ps to see')
    keys.add_argument('-f', dest='key_file', metavar='FILE', help='the file that holds it; - for standard input')


def _add_sign(add: 'Callable[..., ArgumentParser]') -> None:
    command = add('sign', help='sign a manifest with a new key',
                  description='Sign the manifest in DIR, which OLDPUBLIC has signed, with another secret key.')
    _add_keys(command)
    command.add_argument('-p', dest='public_key', metavar='OLDPUBLIC', required=True,
                         help='the public key it is signed with')
    command.add_argument('directory', metavar='DIR', help='the directory that the server serves')
    command.set_defaults(run=sign)


def _add_verify(add: 'Callable[..., ArgumentParser]') -> None:
    command = add('verify', help='check a directory that is served, or a mirror',
                  description='Check the signature of DIR/manifest, and size and SHA-256 of each image it lists.')
    command.add_argument('-p', dest='public_key', metavar='PUBLIC', required=True,
                         help='the public key it is signed with')
    command.add_argument('directory', metavar='DIR', help='the directory that the server serves')
    command.set_defaults(run=verify)


def _add_gen_key(add: 'Callable[..., ArgumentParser]') -> None:
    command = add('gen-key', help='make a key pair',
                  description='Print a new public key and its secret key, each on a line of its own. Writes no file.')
    command.set_defaults(run=gen_key)


FETCH_EXAMPLES = '''examples:
  tako fetch /etc/tako/app.tako
  tako fetch --init /etc/tako/app.tako'''

STORE_EXAMPLES = '''Without -k and -f the secret key comes from the variable TAKO_SECRET_KEY.

examples:
  tako store -f app.key -o /srv/images/app app.img 1.2.0
  pass show app.key | tako store -f - -o /srv/images/app app.img 1.2.0'''


def main(argv: 'Sequence[str]') -> int:
    """Run a command line (without the program's name); the exit code. Prints no traceback, and raises nothing."""
    gc.set_threshold(COLLECT_EVERY_OBJECTS)
    report = Report(sys.stdout, sys.stderr, os.environ.get('JOURNAL_STREAM', ''))
    try:
        arguments = argument_parser().parse_args(list(argv))
        report.level = getattr(arguments, 'level', 0)
        code = int(arguments.run(arguments, report))
    except SystemExit as end:                       # --help and --version
        code = int(end.code or 0)
    except KeyboardInterrupt as interrupt:
        code = int(getattr(interrupt, 'exit_code', 128 + signal.SIGINT))
    except Exception as error:
        code = report.error('', error)
    return code or int(report.has_failed)


def stop_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP, unless ignored, end the program with its temporaries gone."""
    came = []   # type: List[int]

    def stop(number: int, _: 'Optional[FrameType]') -> None:
        came.append(number)
        sys.stderr = None       # the interpreter complains there about objects that are cut short
        if len(came) != 2:                          # impatience must not end the clearing up; insistence may
            raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def end(code: int) -> 'NoReturn':
    """Leave with this exit code, and without a word of the interpreter's own."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code or 1
    sys.exit(code)


if __name__ == '__main__':
    stop_on_signals()
    end(main(sys.argv[1:]))

#!/usr/bin/env python3
"""Tako: take container image.

Tako keeps signed, versioned images (filesystem images, tarballs, any binary file) up to date on a
machine, and restarts the units that run from them. An image's publisher runs gen-key once and store
for each version, and lets any web server serve the directory. The machine that uses the image has a
config, and runs fetch from cron, from a systemd timer, or before its unit starts:

    tako gen-key                                      make a key pair
    tako store -f KEYFILE -o DIR IMAGE VERSION        publish IMAGE as VERSION in DIR
    tako fetch CONFIG...                              bring the newest compatible version here

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
not to be had just now, try again; 130 and 143 ended by SIGINT and SIGTERM.
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
#  10  destination       store/, manifest and latest
#  11  units             systemctl
#  12  commands          fetch, store, gen-key
#  13  command line      arguments, exit codes

import argparse
import binascii
import errno
import fcntl
import functools
import hashlib
import os
import re
import signal
import sys
import time
from collections import namedtuple

TYPE_CHECKING = False           # typing's own constant would cost its import at every start
if TYPE_CHECKING:
    import http.client
    import ssl
    from types import FrameType, TracebackType
    from typing import (Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Mapping, NoReturn,
                        Optional, Sequence, TextIO, Tuple, Type, Union)

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
LOCK_WAIT_SECONDS = 120.0               # for another run on the same directory
LOCK_POLL_SECONDS = 0.05


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


class UnreachableError(TakoError):
    """The origin is not to be had now; nothing is wrong on this side."""

    exit_code = 75


class GoneError(UnreachableError):
    """The origin says that it withdrew this (HTTP status 410)."""


class LockedError(TakoError):
    """Another run holds the lock."""

    exit_code = 75


def as_tako_error(error: Exception) -> TakoError:
    """The error itself, or what the operating system says, in words."""
    if isinstance(error, TakoError):
        return error
    code = getattr(error, 'errno', None)
    where = getattr(error, 'filename', None)
    what = getattr(error, 'strerror', None) or str(error)
    hint = 'see what stands at that path'
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = 'make room there and run it again; what was there is still whole'
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = 'run it as a user who may do this, or change the permissions'
    elif code == errno.EIO:
        hint = 'the disk may be failing: see dmesg'
    return TakoError('{}{}'.format('' if where is None else os.fsdecode(where) + ': ', what), hint)


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

# without what other tools take for operators: as part of a version it would let nothing in, silently
PATTERN_PART = r'(?!~)[^<>=,|^!()\[\]\0-\x20\x7f-\U0010ffff]{1,%d}' % VERSION_MAX_CHARS
PATTERN_FORMS = 'legal are * (any), 1.* (all that begin with 1), 1.13.7 (that one), 1.2 <= v < 2.0 (a range)'


@functools.total_ordering
class Version:
    """A version: text as it was spelled, and order, which sorts and equates as versions do."""

    __slots__ = ('order', 'text')

    def __init__(self, text: str, order: 'Tuple[Tuple[Any, ...], ...]') -> None:
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
    if not re.fullmatch('[!-~]{1,%d}' % VERSION_MAX_CHARS, text):
        raise VersionError(f'not a version: {text[:80]!a}',
                           'a version is 1 to 255 printable ASCII characters without a space')
    parts = _version_parts(text)
    if not parts:
        raise VersionError(f'not a version: {text!a}', 'a version is more than separators, as in 1.0.0')
    return Version(text, _version_order(parts))


def _version_parts(text: str) -> 'List[Union[int, str]]':
    parts = text.replace('-', '.').replace('_', '.').split('.')
    return [int(part) if part.isdigit() else part for part in parts if part]


def _version_order(parts: 'Iterable[Union[int, str]]') -> 'Tuple[Tuple[Any, ...], ...]':
    """Tuples that compare as versions of these parts do, though each version is padded with zeros.

    Every part that is not zero carries how many zeros stand before it. Where another version has
    ended, the fewer zeros the lower is a string and the higher a number; the end is between both.
    """
    order = []  # type: List[Tuple[Any, ...]]
    zeros = 0
    for part in parts:
        if part == 0:
            zeros += 1
        else:
            order.append((0, zeros, part) if isinstance(part, str) else (2, -zeros, part))
            zeros = 0
    order.append((1,))
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
        end = self.below.order[:-1]                         # the last tuple marks the end of a version
        following = version.order[len(end):len(end) + 1]
        return version.order[:len(end)] == end and following[0][0] == 0


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
ENTRY_PATTERN = '([!-~]+) (0|[1-9][0-9]{0,18}) ([0-9a-f]{64})'


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
    for number, line in enumerate(lines[:-2], 3):
        match = re.fullmatch(ENTRY_PATTERN, line)
        try:
            version = parse_version(match.group(1)) if match else None
        except VersionError:
            version = None
        if match is None or version is None or int(match.group(2)) > IMAGE_MAX_BYTES:
            raise ManifestError(where, f'line {number} is not an entry')
        if last is not None and not last < version:
            raise ManifestError(where, f'line {number}: {version} does not come after {last}')
        last = version
        yield Entry(version, int(match.group(2)), match.group(3))


def check_superset(old: Manifest, new: Manifest, where: str) -> None:
    """RollbackError unless every entry of old stands in new unchanged: a publisher only adds."""
    lines = {entry.line() for entry in new.entries}
    for entry in old.entries:
        if entry.line() not in lines:
            raise RollbackError(where, entry.version.text)


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
# before, and tells neither a setting's line number nor that a key came twice.

HOST_PATTERN = r'(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?'     # RFC 3986, 3.2.2, without oddities
UNIT_NAME_PATTERN = r'[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,%d}' % (UNIT_NAME_MAX_CHARS - 1)


class Origin(namedtuple('Origin', ('url', 'authorization'))):
    """Where a manifest and its store/ are: a URL without user, password and final slash.

    authorization is the value of the Authorization header that goes to that host, or empty.
    """

    __slots__ = ()
    url: str
    authorization: str


class Config(namedtuple('Config', ('origin', 'public_keys', 'destination', 'destination_line', 'bounds', 'units'))):
    """One image: where it comes from, who signs it, where it goes, which versions, who runs from it."""

    __slots__ = ()
    origin: Origin
    public_keys: 'Tuple[bytes, ...]'
    destination: str
    destination_line: int
    bounds: Bounds
    units: 'Tuple[str, ...]'


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
        if not found[key] and key != 'Restart':
            raise ConfigError(f'{key}= is missing', f'add a line like {key}={example}')
    return Config(origin=found['Origin'][0][1],
                  public_keys=tuple(key for _, key in found['PublicKey']),
                  destination=found['Destination'][0][1],
                  destination_line=found['Destination'][0][0],
                  bounds=found['Version'][0][1],
                  units=tuple(unit for _, units in found['Restart'] for unit in units))


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
    import difflib              # not needed by configs that are right
    if not re.fullmatch('[A-Za-z0-9_-]{1,40}', key):        # whatever it is, it may hold a password
        return ConfigError('not a key before the =', 'settings are lines of Key=Value', line)
    similar = difflib.get_close_matches(key.lower(), [known.lower() for known in CONFIG_KEYS], 1)
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


CONFIG_KEYS = {     # how a value is read, whether the key may come again, an example
    'Origin': (_parse_origin, False, 'https://images.example.com/app'),
    'PublicKey': (parse_public_key, True, 'l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k='),
    'Destination': (_parse_destination, False, '/var/lib/images/app'),
    'Version': (parse_pattern, False, '1.*'),
    'Restart': (_parse_units, True, 'app.service'),
}   # type: Dict[str, Tuple[Callable[[str], Any], bool, str]]


# ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~ the waterline


# ======================================================================== 8  files

class NewFile:
    """A file on its way: written under a temporary name, then published whole, or removed."""

    def __init__(self, temporary: str) -> None:
        self.temporary = temporary

    def __enter__(self) -> 'NewFile':
        descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._stream = open(descriptor, 'wb')
        self.write = self._stream.write
        return self

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
            self._stream.close()
        except OSError:                         # a full disk, met again: what was raised first says it
            if kind is None:
                raise
        finally:
            remove_if_there(self.temporary)


def remove_if_there(path: str) -> None:
    """Remove a file or a link; no error if there is none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_at_most(limit: int, path: str) -> bytes:
    """The first bytes of a file, limit of them at most."""
    with open(path, 'rb') as stream:
        return stream.read(limit)


def read_blocks(stream: 'BinaryIO') -> 'Iterator[bytes]':
    """The bytes of an open file, BLOCK_BYTES at a time; closed at the end."""
    with stream:
        yield from iter(lambda: stream.read(BLOCK_BYTES), b'')


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
    """

    def __init__(self, directory: str, wait: float, on_wait: 'Callable[[], None]') -> None:
        self._directory = directory
        self._wait = wait
        self._on_wait = on_wait

    def __enter__(self) -> 'DirectoryLock':
        self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self._try():
                self._on_wait()
                self._try_until(time.monotonic() + self._wait)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def _try_until(self, deadline: float) -> None:
        while not self._try():
            if time.monotonic() > deadline:
                raise LockedError(f'{self._directory}: another run holds the lock',
                                  'it is still at work: try again later')
            time.sleep(LOCK_POLL_SECONDS)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            path = os.path.join(self._directory, '.lock')
            if error.errno != errno.EBADF or os.path.exists(path):
                raise
            # NFS locks only what is open for writing, and no directory can be: a file stands in for it
            os.close(self._descriptor)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return self._try()
        return True

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        os.close(self._descriptor)


# ======================================================================== 9  network

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
URL_PUNCTUATION = "!#$%&'()*+,/:;=?@[]~"        # what a Location may hold and need not be quoted


class Answer(namedtuple('Answer', ('url', 'length', 'chunks'))):
    """What came for a URL: length in bytes if it was announced, and chunks, as they arrive.

    url, for messages, is where redirects led, without password. Taking chunks may raise UnreachableError.
    """

    __slots__ = ()
    url: str
    length: 'Optional[int]'
    chunks: 'Iterator[bytes]'


class Network:
    """The way to all origins during one run: one connection a host, kept from one request to the next."""

    def __init__(self, environ: 'Mapping[str, str]') -> None:
        self._has_proxies = any(name.lower().endswith('_proxy') for name in environ)
        # what was asked last on each connection; a connection whose answer was not read to its end is of no more use
        self._open = {}     # type: Dict[Tuple[str, str], Tuple[http.client.HTTPConnection, http.client.HTTPResponse]]
        self._tls = None    # type: Optional[ssl.SSLContext]

    def __enter__(self) -> 'Network':
        return self

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        for connection, _ in self._open.values():
            connection.close()

    def open(self, url: str, authorization: str = '') -> Answer:
        """Ask for url; authorization goes to its host alone, wherever it redirects.

        Raises GoneError if it was withdrawn, UnreachableError if it cannot be had.
        """
        if url.startswith('file:'):
            return _open_file(url)
        _require_http(url)
        first = _endpoint(url)
        for _ in range(REDIRECTS_MAX + 1):
            answer, status, location = self._ask(url, authorization if _endpoint(url) == first else '')
            if status == 200:
                return answer
            if answer.length is not None and answer.length <= DISCARD_MAX_BYTES:
                for _ in answer.chunks:         # a short error page costs less than a new connection
                    pass
            if status not in REDIRECT_STATUSES:
                raise _refusal(url, status)
            url = _redirect(url, location)
        raise UnreachableError(f'{url}: redirected more than {REDIRECTS_MAX} times',
                               'tell who runs the server')

    def _ask(self, url: str, authorization: str) -> 'Tuple[Answer, int, str]':
        """One request: the answer, its status, and its Location."""
        import http.client
        try:
            response = self._exchange(url, authorization)
            encoding = response.getheader('Content-Encoding', 'identity')
            if response.status == 200 and encoding.lower() != 'identity':
                raise UnreachableError(f'{url}: sent with Content-Encoding {encoding}, unasked',
                                       'turn compression off for this directory on the server')
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _network_error(url, error) from error
        return (Answer(url, response.length, _read_body(url, response)), response.status,
                response.getheader('Location', ''))

    def _exchange(self, url: str, authorization: str) -> 'http.client.HTTPResponse':
        scheme, host = endpoint = _endpoint(url)
        proxy, proxy_headers = self._proxy(scheme, host)
        headers = {'User-Agent': 'tako/' + __version__, 'Accept-Encoding': 'identity'}
        if authorization:
            headers['Authorization'] = authorization
        if proxy and scheme == 'http':
            target = url
            headers.update(proxy_headers)
        else:
            target = '/' + url.partition('://')[2].partition('/')[2]
        connection, last = self._open.pop(endpoint, (None, None))
        if connection is not None and last is not None:
            try:
                if last.isclosed():
                    response = _request(connection, target, headers)
                    self._open[endpoint] = connection, response
                    return response
            except ConnectionError:             # the server let go of it meanwhile: ask on a new one
                pass
            connection.close()
        connection = self._connection(scheme, host, proxy, proxy_headers)
        response = _request(connection, target, headers)
        self._open[endpoint] = connection, response
        return response

    def _connection(self, scheme: str, host: str, proxy: str,
                    proxy_headers: 'Dict[str, str]') -> 'http.client.HTTPConnection':
        import http.client
        if scheme == 'http':
            return http.client.HTTPConnection(proxy or host, timeout=NETWORK_TIMEOUT_SECONDS)
        if self._tls is None:
            self._tls = _tls_context()
        connection = http.client.HTTPSConnection(proxy or host, timeout=NETWORK_TIMEOUT_SECONDS, context=self._tls)
        if proxy:
            connection.set_tunnel(host, headers=proxy_headers)
        return connection

    def _proxy(self, scheme: str, host: str) -> 'Tuple[str, Dict[str, str]]':
        """The proxy's host:port and headers, as urllib reads them from the environment; both empty without."""
        if not self._has_proxies:
            return '', {}
        import urllib.parse
        import urllib.request
        proxy = urllib.request.getproxies().get(scheme, '')
        if not proxy or urllib.request.proxy_bypass(host):
            return '', {}
        parts = urllib.parse.urlsplit(proxy if '://' in proxy else 'http://' + proxy)
        userinfo, _, address = parts.netloc.rpartition('@')
        if parts.scheme != 'http' or not address:
            raise UsageError(f'{scheme}_proxy: not an http proxy', 'expected http://host:port')
        authorization = basic_authorization(userinfo)
        return (address if parts.port else address + ':80',
                {'Proxy-Authorization': authorization} if authorization else {})


def _read_body(url: str, response: 'http.client.HTTPResponse') -> 'Iterator[bytes]':
    import http.client
    left = response.length                      # counted here: not every Python's read1() counts it down
    try:
        while left is None or left > 0:
            chunk = response.read1(BLOCK_BYTES if left is None else min(left, BLOCK_BYTES))
            if not chunk:
                break
            left = None if left is None else left - len(chunk)
            yield chunk
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _network_error(url, error) from error
    if left:
        raise UnreachableError(f'{url}: the connection ended {left} bytes early', 'try again later')
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
        raise TakoError(f'this Python lacks its {error.name} package',
                        'install all of Python (Debian: apt install python3); file:// origins work without') from None


def _request(connection: 'http.client.HTTPConnection', target: str,
             headers: 'Mapping[str, str]') -> 'http.client.HTTPResponse':
    try:
        connection.request('GET', target, headers=headers)
        return connection.getresponse()
    except BaseException:
        connection.close()
        raise


def _tls_context() -> 'ssl.SSLContext':
    """Certificates and names are checked, against the system's authorities or SSL_CERT_FILE's; TLS 1.2 at least."""
    import ssl
    context = ssl.create_default_context()
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
    if not is_whole:
        raise UnreachableError(f'{url}: redirected to no valid URL', 'tell who runs the server')
    if parts.scheme not in ('http', 'https') or (url.startswith('https:') and parts.scheme != 'https'):
        raise UnreachableError(f'{url}: redirected to {parts.scheme}, which is not followed',
                               'a redirect may lead from http to https, and to nothing weaker')
    host = parts.netloc.rpartition('@')[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path or '/', parts.query, ''))


def _refusal(url: str, status: int) -> UnreachableError:
    if status == 410:
        return GoneError(f'{url}: withdrawn (410)', 'its publisher took it back')
    hint = {401: 'a user and password go into Origin=, as in https://user:password@host/',
            403: 'the server lets nobody, or not this user, read it',
            404: 'is Origin= right, and was something stored there',
            407: 'a user and password for the proxy go into its variable, as in http://user:password@host:port'}
    return UnreachableError(f'{url}: answered with status {status}',
                            hint.get(status, 'try again later, or tell who runs the server'))


def _network_error(url: str, error: Exception) -> UnreachableError:
    """The same in our words, for what http.client, ssl and socket raise."""
    verify_message = getattr(error, 'verify_message', '')
    if verify_message or 'Cert' in type(error).__name__ or 'CERTIFICATE_VERIFY_FAILED' in str(error):
        return UnreachableError(f'{url}: certificate not trusted: {verify_message or error}',
                                'SSL_CERT_FILE can name the authority that signed it; also look at the clock')
    reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    if not isinstance(error, OSError):
        reason = f'not a valid HTTP answer ({type(error).__name__})'
    return UnreachableError(f'{url}: {reason}', 'try again later; is Origin= right, is the network up')


def _open_file(url: str) -> Answer:
    import urllib.parse
    path = urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(url).path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise UnreachableError(f'{url}: not a file', 'is Origin= right')
        stream = open(path, 'rb', buffering=0)
    except (OSError, ValueError) as error:
        raise _network_error(url, error) from error
    return Answer(url, os.fstat(stream.fileno()).st_size, read_blocks(stream))


# ======================================================================== 10 destination
#
#     store/<sha256>   images, read-only, each exactly what its name says
#     manifest         the newest manifest that was accepted, as it was signed
#     latest           link to store/<sha256>
#
# A publisher's directory is the same without the link. Temporaries stand beside these, as dotfiles.

NEW_IMAGE, NEW_MANIFEST, NEW_LINK = '.image.new', '.manifest.new', '.latest.new'
MISSING = 'is missing'


def image_path(root: str, digest: str) -> str:
    """Where the image with this SHA-256 belongs."""
    return os.path.join(root, 'store', digest)


def image_fault(root: str, entry: Entry) -> 'Optional[str]':
    """What is wrong with the image of entry: None, MISSING, or how it is damaged. Reads all of it."""
    path = image_path(root, entry.digest)
    try:
        size = os.stat(path).st_size
        if size != entry.size:
            return f'is damaged: it has {size} bytes and not {entry.size}'
        _, digest = copy_and_hash(read_blocks(open(path, 'rb', buffering=0)), len)
    except FileNotFoundError:
        return MISSING
    return None if digest == entry.digest else f'is damaged: its SHA-256 is {digest}'


def publish_image(root: str, new: NewFile, digest: str) -> None:
    """Put a verified image into the store, durably."""
    try:
        os.mkdir(os.path.join(root, 'store'))
        sync_directory(root)
    except FileExistsError:
        pass
    new.publish(image_path(root, digest))


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
    match = re.fullmatch('store/([0-9a-f]{64})', target)
    return match.group(1) if match else None


def point_latest(root: str, digest: str) -> None:
    """Let latest name the image with this SHA-256, durably and at once."""
    new = os.path.join(root, NEW_LINK)
    os.symlink('store/' + digest, new)
    try:
        os.rename(new, os.path.join(root, 'latest'))
    finally:
        remove_if_there(new)
    sync_directory(root)


def clear_leftovers(root: str) -> None:
    """Remove what runs that were killed have left in root, whose lock is ours."""
    for name in (NEW_IMAGE, NEW_MANIFEST, NEW_LINK):
        remove_if_there(os.path.join(root, name))


# ======================================================================== 11 units

def restart_units(units: 'Sequence[str]') -> None:
    """Restart systemd units and wait for it; TakoError if one does not come up or there is no systemd."""
    import subprocess
    names = ' '.join(units)
    try:
        done = subprocess.run(['systemctl', 'restart', '--'] + list(units), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        raise TakoError(f'cannot restart {names}: there is no systemctl here',
                        'without systemd, leave Restart= out') from None
    if done.returncode != 0:
        said = done.stdout.decode('utf-8', 'replace').strip().replace('\n', '; ')
        raise TakoError(f'systemctl restart {names}: exit code {done.returncode}: {said}',
                        'the new image is in place; see: journalctl -u {}'.format(' -u '.join(units)))


# ======================================================================== 12 commands

class Report:
    """What the user reads. On stdout what changed, on stderr trouble; nothing else unless somebody looks on."""

    def __init__(self, out: 'TextIO', err: 'TextIO', is_verbose: bool = False) -> None:
        self._out = out
        self._err = err
        self.is_verbose = is_verbose

    def result(self, *lines: str) -> None:
        """What was asked for, or what changed."""
        _print(self._out, *lines)

    def unchanged(self, line: str) -> None:
        """That there was nothing to do: cron mails whatever is printed, so only for a terminal."""
        if self.is_verbose or (self._out is not None and self._out.isatty()):
            _print(self._out, line)

    def step(self, line: str) -> None:
        """What is going on, for who asked to know or sits before it."""
        if self.is_verbose or (self._err is not None and self._err.isatty()):
            _print(self._err, 'tako: ' + line)

    def trouble(self, where: str, what: str, hint: str) -> None:
        """What is wrong, and on a second line what to do about it."""
        said = where + ': ' + what if where else what
        said = re.sub(re.escape(SECRET_KEY_PREFIX) + '[^ ]+', SECRET_KEY_PREFIX + '...', said)     # mistyped into view
        _print(self._err, 'tako: ' + said, *(['  ' + hint] if hint else []))

    def error(self, where: str, error: Exception) -> int:
        """Print an error that ends something; its exit code."""
        told = as_tako_error(error)
        line = '' if told.line is None else f':{told.line}'
        self.trouble(where + line, told.what, told.hint)
        return told.exit_code


def _print(stream: 'Optional[TextIO]', *lines: str) -> None:
    """Print lines in any locale, without what a terminal would obey."""
    if stream is None:                          # as under >&-
        return
    for line in lines:
        line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        encoding = stream.encoding or 'ascii'
        stream.write(line.encode(encoding, 'backslashreplace').decode(encoding) + '\n')
    stream.flush()


class ImageFetch:
    """The fetch of one config, from its text to its units."""

    def __init__(self, path: str, network: Network, report: Report) -> None:
        self.path = path
        self.config = load_config(path)
        self.root = self.config.destination
        self.network = network
        self.report = report

    def run(self, is_init: bool) -> None:
        """Bring the destination up to date; TakoError or OSError if that cannot be."""
        if is_init and self._has_compatible_image():
            return
        with DirectoryLock(self.root, LOCK_WAIT_SECONDS, lambda: self._step('waiting for another run')):
            clear_leftovers(self.root)
            before = linked_digest(self.root)
            manifest = self._refresh_manifest()
            entry = self._ensure_newest(manifest, before)
            if entry.digest == before:
                self.report.unchanged(
                    f'{self.path}: {entry.version} is in place, the newest in {self.config.bounds.text}')
                return
            point_latest(self.root, entry.digest)
            self._announce(entry, '' if is_init else ' '.join(self.config.units))

    def _announce(self, entry: Entry, units: str) -> None:
        """Tell the units, if any are to be told, and the user."""
        changed = f'{self.path}: {entry.version} is in place'
        try:
            if units:
                self._step('restarting ' + units)
                restart_units(units.split())
                changed += ', restarted ' + units
        finally:
            self.report.result(changed)

    def _step(self, line: str) -> None:
        self.report.step(f'{self.path}: {line}')

    def _has_compatible_image(self) -> bool:
        """Whether latest is an intact image within bounds; takes neither lock nor network."""
        digest = linked_digest(self.root)
        manifest = self._local_manifest(read_manifest(self.root))
        return any(entry.digest == digest and image_fault(self.root, entry) is None
                   for entry in compatible_entries(manifest, self.config.bounds))

    def _local_manifest(self, signed: 'Optional[bytes]') -> Manifest:
        """The manifest that was accepted last, verified again; an empty one on the first run."""
        if signed is None:
            return Manifest(())
        try:
            return open_manifest(signed, self.config.public_keys, manifest_path(self.root))
        except RefusedError as error:
            raise RefusedError(error.what, 'if PublicKey= changed, list the old key too; else see who changed '
                               'the file. Without it, the next run would accept an older manifest') from None

    def _refresh_manifest(self) -> Manifest:
        """The origin's manifest, once it is verified, holds all that the last one held, and is durable."""
        url = self.config.origin.url + '/manifest'
        local = read_manifest(self.root)
        known = self._local_manifest(local)
        self._step('asking for ' + url)
        answer = self.network.open(url, self.config.origin.authorization)
        signed = b''.join(at_most(MANIFEST_MAX_BYTES, answer.chunks, answer.url))
        if signed == local:
            return known
        offered = open_manifest(signed, self.config.public_keys, answer.url)
        check_superset(known, offered, answer.url)
        place_manifest(self.root, signed)
        return offered

    def _ensure_newest(self, manifest: Manifest, before: 'Optional[str]') -> Entry:
        """The newest entry in bounds whose image is here intact, or could be brought here.

        Going from newest to oldest, this never passes the version that latest names, before.
        """
        withdrawn = []
        for entry in compatible_entries(manifest, self.config.bounds):
            try:
                self._ensure_image(entry)
                return entry
            except GoneError:
                self._step(f'{entry.version} was withdrawn')
                withdrawn.append(entry.version.text)
                if entry.digest == before:
                    break
        if withdrawn:
            raise UnreachableError('no version in {} is to be had; withdrawn: {}'.format(
                self.config.bounds.text, ', '.join(withdrawn[:5])), 'wait for a new one, or widen Version=')
        nearest = ', '.join(version.text for version in nearest_versions(manifest, self.config.bounds))
        raise TakoError('no version in {}; the nearest are: {}'.format(self.config.bounds.text, nearest or 'none'),
                        'wait for one, or change Version=')

    def _ensure_image(self, entry: Entry) -> None:
        """Have the intact image of entry in the store, bringing it if it is missing or damaged."""
        fault = image_fault(self.root, entry)
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
            told = as_tako_error(error)
            raise RefusedError(f'the damaged image of {entry.version} cannot be replaced: {told.what}',
                               told.hint) from error
        self.report.result(f'{self.path}: {entry.version} is repaired')

    def _download(self, entry: Entry) -> None:
        """Bring the image of entry into the store, verified, taking no byte more than its size."""
        url = f'{self.config.origin.url}/store/{entry.digest}'
        self._step(f'fetching {entry.version}, {entry.size} bytes, from {url}')
        answer = self.network.open(url, self.config.origin.authorization)
        if answer.length not in (None, entry.size):
            raise _wrong_image(answer.url, f'has {answer.length} bytes', f'not {entry.size}')
        with NewFile(os.path.join(self.root, NEW_IMAGE)) as new:
            size, digest = copy_and_hash(at_most(entry.size, answer.chunks, answer.url), new.write)
            if size != entry.size:
                raise UnreachableError(f'{answer.url}: ended {entry.size - size} bytes early', 'try again later')
            if digest != entry.digest:
                raise _wrong_image(answer.url, f'has the SHA-256 {digest}', 'not the signed one')
            publish_image(self.root, new, digest)


def _wrong_image(url: str, what: str, signed: str) -> RefusedError:
    return RefusedError(f'{url}: {what}, {signed}',
                        'the file on the server was altered or cut short: tell the publisher')


def load_config(path: str) -> Config:
    """The config in a file, its destination looked up; ConfigError says what is wrong with it."""
    try:
        content = read_at_most(CONFIG_MAX_BYTES + 1, path)
        text = content.decode('utf-8').lstrip('\ufeff')
    except UnicodeDecodeError:
        raise ConfigError('not UTF-8 text', 'is this a config') from None
    except OSError as error:
        raise ConfigError(error.strerror or str(error), 'is the path of the config right') from error
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
    report.is_verbose = arguments.verbose
    with Network(os.environ) as network:
        for path in arguments.configs:
            try:
                ImageFetch(path, network, report).run(arguments.init)
            except (TakoError, OSError) as error:
                codes.append(report.error(path, error))
    return max(codes, key=GRAVITY.index)


def store(arguments: 'argparse.Namespace', report: Report) -> int:
    """The store command: the image first, the manifest that lists it last."""
    image, root = arguments.image, arguments.output
    version = _new_version(arguments.version, image)
    seed = _read_secret_key(arguments, report)
    if not os.path.isdir(root):
        raise UsageError(f'{root}: not an existing directory', 'create it, or correct -o')
    with DirectoryLock(root, LOCK_WAIT_SECONDS, lambda: report.step(root + ': waiting for another run')):
        clear_leftovers(root)
        signed = read_manifest(root)
        manifest = Manifest(()) if signed is None else open_manifest(
            signed, [ed25519_public_key(seed)], manifest_path(root))
        check_spelling(manifest, version)
        with NewFile(os.path.join(root, NEW_IMAGE)) as new:
            entry = Entry(version, *copy_and_hash(read_blocks(open(image, 'rb', buffering=0)), new.write))
            grown = add_entry(manifest, entry)
            if grown is manifest and image_fault(root, entry) is None:
                report.unchanged(f'{root}: {version} is this image already')
            else:
                sealed = seal_manifest(grown, seed)
                publish_image(root, new, entry.digest)
                place_manifest(root, sealed)
                report.result(f'{root}: stored {version}, {entry.size} bytes, SHA-256 {entry.digest}')
        _warn_of_missing_images(root, grown, report)
    return 0


def _new_version(text: str, image: str) -> Version:
    if os.path.exists(text) and not os.path.exists(image):
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
            content = sys.stdin.buffer.read(KEY_FILE_MAX_BYTES)
        else:
            content = read_at_most(KEY_FILE_MAX_BYTES, path)
            if os.stat(path).st_mode & 0o077:
                report.trouble(path, 'others can read this secret key', 'chmod 600 it')
    except OSError as error:
        raise UsageError(f'{path}: {error.strerror or error}', 'is the path of the key right') from error
    text = content.decode('ascii', 'replace')
    return text[:-1] if text.endswith('\n') else text


def _warn_of_missing_images(root: str, manifest: Manifest, report: Report) -> None:
    there = set(os.listdir(os.path.join(root, 'store')) if manifest.entries else ())
    missing = [entry.version.text for entry in manifest.entries if entry.digest not in there]
    if missing:
        report.trouble(root, 'listed, but not in store/: {}'.format(', '.join(missing)),
                       'if you withdrew them, let the server answer 410 for them; else put them back')


def gen_key(_: 'argparse.Namespace', report: Report, entropy: 'Callable[[int], bytes]' = os.urandom) -> int:
    """The gen-key command: a new key pair, printed; no file is written."""
    seed = entropy(32)
    report.result('Public key, for PublicKey= in the config of each client:',
                  encode_base64(ed25519_public_key(seed)),
                  'Secret key, for store; whoever has it can publish in your name:',
                  format_secret_key(seed))
    return 0


# ======================================================================== 13 command line

class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with errors in our form, and texts printed as they stand here."""

    def __init__(self, **settings: 'Any') -> None:
        # before 3.8, forbidding --ini for --init forbids -kKEY too
        super().__init__(allow_abbrev=sys.version_info < (3, 8),
                         formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> 'NoReturn':
        raise UsageError(message, f'see: {self.prog} --help')


def argument_parser() -> ArgumentParser:
    """What the command line may be."""
    parser = ArgumentParser(prog='tako', description=__doc__, epilog='tako COMMAND --help tells more.')
    parser.add_argument('--version', action='version', version='tako ' + __version__)
    commands = parser.add_subparsers(metavar='COMMAND', dest='command')
    commands.required = True

    command = commands.add_parser(
        'fetch', help='bring the newest compatible version here', epilog=FETCH_EXAMPLES,
        description='Bring the newest version that each CONFIG lets in to its destination, verified, let the link\n'
                    'latest name it, and restart its units. Prints nothing when there is nothing to do.')
    command.add_argument('--init', action='store_true',
                         help='do nothing if latest is an intact compatible image; restart no unit (for ExecStartPre=)')
    command.add_argument('-v', '--verbose', action='store_true', help='say what is going on')
    command.add_argument('configs', nargs='+', metavar='CONFIG', help='the config file of an image')
    command.set_defaults(run=fetch)

    command = commands.add_parser(
        'store', help='publish an image', epilog=STORE_EXAMPLES,
        description='Copy IMAGE into DIR/store and add it to DIR/manifest as VERSION. Any web server can serve DIR.')
    keys = command.add_mutually_exclusive_group()
    keys.add_argument('-k', dest='key', metavar='KEY', help='the secret key itself, for all who look at ps to see')
    keys.add_argument('-f', dest='key_file', metavar='FILE',
                      help='the file that holds the secret key, - for standard input')
    command.add_argument('-o', dest='output', metavar='DIR', required=True, help='the directory that the server serves')
    command.add_argument('image', metavar='IMAGE', help='the file to publish')
    command.add_argument('version', metavar='VERSION', help='its version, as 1.2.0')
    command.set_defaults(run=store)

    command = commands.add_parser(
        'gen-key', help='make a key pair',
        description='Print a new public key and its secret key, each on a line of its own. Writes no file.')
    command.set_defaults(run=gen_key)
    return parser


FETCH_EXAMPLES = '''examples:
  tako fetch /etc/tako/app.tako
  tako fetch --init /etc/tako/app.tako'''

STORE_EXAMPLES = '''Without -k and -f the secret key comes from the variable TAKO_SECRET_KEY.

examples:
  tako store -f app.key -o /srv/images/app app.img 1.2.0
  pass show app.key | tako store -f - -o /srv/images/app app.img 1.2.0'''


def main(argv: 'Sequence[str]') -> int:
    """Run a command line (without the program's name); the exit code. Raises nothing, prints no traceback."""
    report = Report(sys.stdout, sys.stderr)
    try:
        arguments = argument_parser().parse_args(list(argv))
        return int(arguments.run(arguments, report))
    except SystemExit as end:                       # --help and --version
        return int(end.code or 0)
    except KeyboardInterrupt as interrupt:
        return int(getattr(interrupt, 'exit_code', 128 + signal.SIGINT))
    except BrokenPipeError:                         # whoever read our output has gone; nobody is left to tell
        return 1
    except (TakoError, OSError) as error:
        return report.error('', error)
    except Exception as defect:
        lines, trace = [], defect.__traceback__
        while trace is not None:
            lines.append(str(trace.tb_lineno))
            trace = trace.tb_next
        report.trouble('', f'a defect of this program: {defect!r}, lines {" > ".join(lines)}',
                       'please report it, with the command line and tako --version')
        return 1


def stop_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP, unless ignored, end the program with its temporaries gone."""
    def stop(number: int, _: 'Optional[FrameType]') -> None:
        for each in signals:                        # a second one must not end the clearing up
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)
    signals = [each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
               if signal.getsignal(each) != signal.SIG_IGN]
    for each in signals:
        signal.signal(each, stop)


def flush_output() -> bool:
    """Bring out what was printed; if that fails, keep the interpreter from trying once more, in its own words."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


if __name__ == '__main__':
    stop_on_signals()
    exit_code = main(sys.argv[1:])
    sys.exit(exit_code if flush_output() else exit_code or 1)

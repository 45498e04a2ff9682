#!/usr/bin/env python3
"""Tako: take container image.

Tako downloads signed images and keeps them up to date. An image is any single
file: a filesystem image, a tarball, a binary.

The publisher makes a key pair once, then stores each version of the image in a
directory. Any static web server can serve that directory:

    tako gen-key -o app
    tako store -f app.key -o /srv/images/app app.img 1.0.0

Each machine has a config for the image, for example /etc/tako/app.tako:

    Origin=https://images.example.com/app
    PublicKey=REPLACE/THIS/EXAMPLE/BY/THE/PUBLISHERS/KEYE=
    Destination=/var/lib/images/app
    Version=1.*
    Keep=3
    Restart=app.service

The machine runs this command from cron, from a systemd timer, or before a unit
starts:

    tako fetch /etc/tako/app.tako

Then /var/lib/images/app/latest is a symlink to the newest verified image that
matches Version=. If a unit fails after an update, fetch restores the previous
image and restarts the unit on it.

Exit codes:

    0    success
    1    failure, for example: the disk is full, or an update was rolled back
    2    the command line or a config is invalid
    3    refused: a signature, size or digest is wrong, or an entry was removed
         from the manifest
    75   the origin is unreachable, or another run holds the lock: try again
    129, 130, 143   ended by SIGHUP, SIGINT, SIGTERM
"""
# A worked example. The config above is in /etc/tako/app.tako, with this key:
#
#     PublicKey=l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k=
#
# For https://images.example.com/app/manifest, the origin sends these bytes:
#
#     Tako Manifest 1
#
#     1.0.0 10 3570cdf5dc71f3a667d6e70b3503f22a70d0ad60c3994a78c7786f7601f94487
#     1.1.0 10 dbb379b9304b4a85fcb4e1e0a23ccc4118cad203bcb4a8cb128b9dd6cb818eac
#     2.0.0 10 83e97eaddb593759f2c2e1307874f9e05e236a5eebe7e0e050db49c8b1913115
#
#     gXrJu2/Jg6MJpWd8WdLzzeWRN/jXuOwH55r8R30bDXfN4gVBScc+NkR6tkQ7dvmoDZtLZBtF+/22tPD1zmBGBw==
#
# An entry has a version, the size of its image in bytes, and the SHA-256 of its image. The image of
# 1.1.0 is one line of text: "app 1.1.0" and a newline. docs/manifest-format.md publishes the secret
# key of this example, so that anyone can reproduce the signature.
#
# The machine has 1.0.0, and app.service runs on it. Then `tako fetch /etc/tako/app.tako` takes the
# following steps. The numbers at the right are the sections of this file that do the work.
#
# - It parses the config. The pattern 1.* matches 1.0.0 and 1.1.0.                        4, 5, 10
# - It locks /var/lib/images/app, and verifies the manifest that an earlier run stored
#   there.                                                                               6, 11, 13
# - It downloads the new manifest. The last line must be a signature, by the key of
#   PublicKey=, of all bytes before it. Only then are the entries parsed.                3, 6, 12
# - Each entry of the earlier manifest must be in the new one, unchanged. The new
#   manifest is stored durably before anything else changes.                            6, 11, 13
# - The newest version that matches is 1.1.0. If store/ has its image, of the right
#   size and SHA-256, there is no download.                                             5, 13, 17
# - It downloads https://images.example.com/app/store/dbb379b9..., and stops if the
#   server sends more than the size in the manifest. If the image had 64 KiB or more,
#   it would first try to download only the differences from 1.0.0.              7, 8, 9, 12, 16
# - Only a file of 10 bytes with that SHA-256 becomes store/dbb379b9..., read-only.         11, 13
# - It replaces the symlink latest, which pointed to store/3570cdf5..., and restarts
#   app.service. It watches the unit for 10 seconds. If the unit fails, it restores the
#   symlink, restarts the unit on 1.0.0, and does not install 1.1.0 again.                  14, 17
# - It prints that 1.1.0 is installed, and exits with 0.                                    15, 20
#
# The layout of this file. A section uses only itself and those above it; a test checks this.
#
#   1  limits            bounds for everything that comes from outside
#   2  errors            exceptions, with hints and exit codes
#   3  Ed25519           signatures (RFC 8032)
#   4  keys              public and secret keys as text
#   5  versions          their order, and the patterns that match them
#   6  manifest          signed bytes -> Manifest -> signed bytes
#   7  chunks            image -> index; which chunks of one image are in another
#   8  patches           two images -> patch; older image and patch -> newer image
#   9  recompression     the same through compressed content, which is compressed again
#  10  config            text -> Config
#   ~~~~~~~~~~~~~~~~~    above: only bytes and values; below: files, network and processes
#  11  files             atomic writes, hashes, locks
#  12  network           URL -> blocks of bytes
#  13  destination       store/, manifest, latest and the state of one image
#  14  units             systemctl
#  15  report            messages on stdout and stderr
#  16  download          one image from mirrors: by a patch, as ranges, or whole
#  17  fetch             network, destination and units, together for one config
#  18  status            what is installed, and what is wrong with configs, without the network
#  19  publish           store, sign, verify, withdraw, list, gen-key, public-key
#  20  command line      options, signals and exit codes

if __name__ == '__main__':
    # Let Ctrl-C end the program without a traceback while the rest of this file is loaded. A shell
    # starts a background job with SIGINT ignored: that stays so.
    import signal
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import binascii
import errno
import fcntl
import functools
import gc
import hashlib
import itertools
import os
import re
import signal
import sys
import time
from collections import namedtuple

TYPE_CHECKING = False           # mypy reads this name as True; to import typing would cost time
if TYPE_CHECKING:
    import socket
    import ssl
    from types import FrameType, TracebackType
    from typing import (Any, BinaryIO, Callable, Dict, Generator, Iterable, Iterator, List, Mapping,
                        NoReturn, Optional, Sequence, Set, TextIO, Tuple, Type, TypeVar, Union)
    import array
    import concurrent.futures
    import mmap
    import subprocess
    import threading
    Image = Union[bytes, mmap.mmap]
    Match = Tuple[int, int, int]        # start and end in the new image, distance to the older one
    T = TypeVar('T')
    Values = Dict[str, Dict[int, Any]]      # of a config: {key: {line: value}}; None if invalid
    Event = Dict[str, Any]              # a line of JSON in HISTORY
    Steps = Generator[Optional['UnitWatch'], None, None]    # part of a Run
    Run = Generator[Optional['UnitWatch'], None, int]       # returns an exit code; see Runs
    Waiting = Tuple[str, Run, Optional['UnitWatch']]        # a config's path, run and watched units

__version__ = '0.1.0'
RELEASED = 1793491200           # the date of this release, 2026-11-01; a clock before it is wrong


# ======================================================================== 1  limits
#
# Bytes, counts and seconds are bounded here, so that no file, server or unit can exhaust the
# machine. The docs list every limit with its value, and a test compares them. A "writer" below is
# `tako store`, which makes indexes and patches; a "reader" is `tako fetch`, which uses them.

# configs, keys and manifests
CONFIG_MAX_BYTES = 1 << 20              # maximum size of a config
KEY_FILE_MAX_BYTES = 4096               # maximum size of a key file; a secret key has 135 bytes
TOKEN_MAX_BYTES = 8192                  # maximum size of a token; servers refuse longer headers
MANIFEST_MAX_BYTES = 16 << 20           # maximum size of a manifest, about 170,000 entries
STAMP_MAX_BYTES = 1 << 10               # maximum size of a stamp
STAMP_AHEAD_SECONDS = 86400             # a stamp that is more ahead of the clock is not accepted
FRESH_MIN_SECONDS = 3600                # minimum value of Fresh=
UNPROVEN_SECONDS = 86400                # a manifest that has no stamp for so long is warned about
IMAGE_MAX_BYTES = (1 << 63) - 1         # maximum size of an image
VERSION_MAX_CHARS = 255                 # maximum length of a version
UNIT_NAME_MAX_CHARS = 255               # maximum length of a unit's name in systemd

# chunk indexes and differential updates
CHUNK_BLOCK_BYTES = 4096                # chunk size of a filesystem image; doubled for large images
CHUNK_AVERAGE_BYTES = 6144              # average chunk of any other image; doubled for large images
CHUNK_MIN_BYTES = 1024                  # smallest average chunk size that an index may declare
CHUNK_MAX_BYTES = 1 << 20               # largest average chunk size that an index may declare
CHUNKS_AIM = 100000                     # a writer doubles the chunk size above this many chunks
CHUNKS_MAX = 1 << 17                    # a reader refuses an index of more chunks than this
INDEX_MAX_BYTES = 16 << 20              # maximum size of an index
INDEX_SPARE_BYTES = 1 << 16             # an index may exceed 1/256 of its image by this much
PATCHES_MAX = 16                        # maximum number of patches that an index lists
CHUNK_HEAD_BYTES = 1 << 17              # this much of an image shows whether it is a filesystem
INDEX_PROBE_BYTES = 32                  # size of the first of two ranges that test for multipart
DELTA_MIN_BYTES = 1 << 16               # a smaller image is downloaded whole
DELTA_MAX_SHARE = 0.8                   # if more of an image is new, it is downloaded whole
RANGE_BYTES = 1 << 20                   # maximum size of one range, and of all ranges in a request
RANGES_MAX = 2000                       # with more ranges in an image, nearby ones are joined
RANGES_PER_REQUEST = 100                # maximum number of ranges in a request for several
RANGE_GAP_BYTES = 1 << 14               # a gap this small is downloaded, to save a request
RANGE_FRAMING_BYTES = 1 << 10           # maximum size of the headers of one part in multipart
CONNECTIONS = 4                         # maximum number of connections to a host, for ranges

# network and files
BLOCK_BYTES = 1 << 18                   # data is read, hashed and written in blocks of this size
SMALL_BLOCK_BYTES = 1 << 16             # smaller ones, for lines, and where many blocks are held
DISCARD_MAX_BYTES = 1 << 16             # a longer error page costs more to read than to reconnect
REDIRECTS_MAX = 10                      # maximum number of redirects in a row
NETWORK_TIMEOUT_SECONDS = 10.0          # longest wait for a connection, or for the next packet
STALL_MAX_SECONDS = 86400.0             # maximum value of --stall; poll() takes up to 24 days
CONNECT_DELAY_SECONDS = 0.25            # delay before the next address is tried too (RFC 8305, 8)
AHEAD_SECONDS = 3.0                     # longest wait for a response on a further connection
RATE_WINDOW_SECONDS = 30.0              # a connection's speed is measured over this time
RATE_MIN_BYTES = 30 << 10               # a connection must deliver this much in RATE_WINDOW_SECONDS
FRAMING_MAX_BYTES = 300 << 10           # a response may have this much HTTP framing in any case
FRAMING_MAX_FACTOR = 8                  # HTTP framing allowed in addition, per byte of the body
PAUSE_FIRST_SECONDS = 0.5               # first pause before a retry; each further one is doubled
PAUSE_MAX_SECONDS = 8.0                 # longest pause, except where a server asks for a longer one
RETRY_MAX_SECONDS = 366 * 86400.0       # maximum value of a Retry-After header
PAUSE_BUDGET_SECONDS = 20.0             # maximum sum of all pauses for one host in one run
PROGRESS_MIN_BYTES = 1 << 16            # after this much progress, pauses start again at the first
ETAG_MAX_CHARS = 200                    # a longer ETag is ignored
FULL_ANSWER_SECONDS = 86400             # a manifest is requested without an ETag once in this time
MANIFEST_SECONDS = 60.0                 # longest wait for a mirror's manifest if others have one
DURATION_MAX_SECONDS = 1e9              # maximum value of --splay, --timeout and --max-age
LOCK_WAIT_SECONDS = 120.0               # longest wait for another run in the same directory
LOCK_POLL_SECONDS = 0.05                # interval between two attempts to lock
ABANDONED_SECONDS = 3600.0              # age at which the original Tako's files are removed
PIPE_POLL_SECONDS = 0.5                 # a silent pipe delays the reaction to a signal this long

# messages and state
MESSAGE_MAX_CHARS = 2000                # maximum length of a message, which may quote a server
NAMES_MAX = 5                           # a message lists at most this many versions
COLLECT_EVERY_OBJECTS = 200000          # garbage is collected after this many new objects
HELP_COLUMNS = 80                       # width of the output of --help
PROGRESS_EVERY_SECONDS = 0.2            # interval between two updates of the progress line
STATE_MAX_BYTES = 1 << 20               # maximum size of the state file in a destination
WITHDRAWN_MAX = 1000                    # the state file keeps this many withdrawn versions
SEEN_MAX = 100                          # the state file keeps when this many versions were seen
EVENTS_MAX = 200                        # the history keeps this many events
EVENTS_MAX_BYTES = 1 << 18              # maximum size of the history
EVENTS_RECENT = 10                      # a failure is no event if it is one of so many last ones

# units
SYSTEMCTL_TIMEOUT_SECONDS = 900.0       # longest restart of units; systemd usually gives up earlier
SYSTEMCTL_TRIES = 6                     # attempts to reach systemd, which may be restarting itself
SYSTEMCTL_PAUSE_SECONDS = 0.25          # pause after the first attempt; each further one is doubled
CONFIRM_SECONDS = 10                    # units are watched this long if Confirm= is not set
CONFIRM_MAX_SECONDS = 3600              # maximum value of Confirm=
WATCH_POLL_SECONDS = 0.5                # interval between two checks of units that are watched
REQUIREMENTS_MAX = 200                  # maximum number of units searched for requirements

# patches
PATCH_DICTIONARY_BYTES = 8 << 20        # LZMA dictionary of each of a patch's three streams
PATCH_PART_MIN_BYTES = 1 << 22          # a longer stream that hardly shrinks is packed in parts
SEGMENT_MIN_BYTES = 1 << 18             # each segment but the last makes at least this much image
OPERATION_BYTES = 256                   # a patch may have one operation for this much of its image
OPERATIONS_SPARE = 4096                 # any patch may have this many operations in addition
READ_AHEAD_BYTES = 1 << 14              # minimum size of a read from the older image

# recompression
HEAD_MAX_BYTES = 1 << 20                # maximum size of the head of a recompression patch
HEAD_FIRST_BYTES = 1 << 14              # so much of such a patch is requested at first
CODERS_MAX = 8                          # maximum number of coders that a patch needs
CODER_DICTIONARY_MAX = 12               # largest dictionary of LZMA2, as .xz numbers it: 256 KiB
STREAMS_MAX = 1 << 15                   # maximum number of expanded streams in one image
EXPANDED_MAX_FACTOR = 8                 # their contents may have so many times the image's size
SAMPLE_CONTENT_BYTES = 1 << 17          # this is compressed to compare libraries and to time them
BODY_DICTIONARY_BYTES = 1 << 20         # dictionary of each stream of a recompression patch
STREAM_HELD_MAX_BYTES = 1 << 20         # a larger content is compressed as it comes
PENDING_MAX_BYTES = 1 << 21             # contents that wait to be compressed, together
PENDING_MIN_BYTES = 1 << 14             # each counts as so many bytes at least
RECOMPRESSION_THREADS_MAX = 4           # maximum number of threads that compress
RECOMPRESSION_MAX_SECONDS = 120.0       # a patch that is expected to take longer is not used
RECOMPRESSION_SLACK = 8                 # it is given up after so many times the expected time
RECOMPRESSION_SPARE_SECONDS = 10.0      # and so many seconds
RECOMPRESSION_MIN_SECONDS = 0.1         # a patch that saves less time is not requested
RATE_MIN_SAMPLE_BYTES = 1 << 20         # the rate of a line is measured with bodies of this size


# ======================================================================== 2  errors

SEVERITY = (0, 75, 1, 2, 3)     # exit codes, least severe first; a run ends with the most severe


class TakoError(Exception):
    """An error for the user.

    `what` states the fact and `hint` says what to do, in one line each. `line` is the line number
    of an error in a config.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = '', line: 'Optional[int]' = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.line = line


class UsageError(TakoError):
    """The command line, or a file that it names, is invalid."""

    exit_code = 2


class ConfigError(UsageError):
    """A config is invalid."""


class VersionError(UsageError):
    """A text is not a version, or not a version pattern."""


class RefusedError(TakoError):
    """A signature, size or digest is wrong, or a published entry would change or disappear."""

    exit_code = 3


class UnsignedError(RefusedError):
    """A file has no signature, so it is not a manifest, or is truncated."""


class SignatureError(RefusedError):
    """A manifest is not signed by any trusted key."""


class ManifestError(RefusedError):
    """A signed manifest has invalid content. `where` is its path or URL, here and below."""

    def __init__(self, where: str, what: str, hint: str = (
            'tell the publisher: the key signed a file with this error')) -> None:
        super().__init__(f'{where}: {what}', hint)


class FormatError(RefusedError):
    """A signed manifest has a format that is newer than this program."""


class OlderManifestError(RefusedError):
    """A signed manifest lacks an entry that the last accepted one has: version `lost`."""

    def __init__(self, where: str, lost: str) -> None:
        super().__init__(f'{where}: lacks or changes {lost}, which the last manifest had',
                         'try again later, in case a cache is stale; then tell the publisher')


class ForkError(RefusedError):
    """Two signed manifests each lack an entry of the other.

    `one` and `other` are their paths or URLs, `line` is the first such entry.
    """

    def __init__(self, one: str, other: str, line: str) -> None:
        super().__init__(f'{one} and {other} contradict each other, first in: {line}',
                         'if fetch wrote .fork.1 and .fork.2, send them to the publisher')


class UnreachableError(TakoError):
    """The origin cannot be reached, or answered with an error. This machine is in order."""

    exit_code = 75


class TransientError(UnreachableError):
    """A request failed, and may succeed soon.

    `retry_after` is how many seconds the server asks to wait, or 0.
    """

    def __init__(self, what: str, hint: str = 'try again later', retry_after: float = 0.0) -> None:
        super().__init__(what, hint)
        self.retry_after = retry_after


class CutShortError(TransientError):
    """A connection failed after it delivered PROGRESS_MIN_BYTES or more, which are kept."""


class AbsentError(UnreachableError):
    """The origin does not have this file (HTTP status 404)."""


class GoneError(AbsentError):
    """The origin withdrew this file (HTTP status 410)."""


class LockedError(TakoError):
    """Another run holds the lock."""

    exit_code = 75


class UnitError(TakoError):
    """A unit does not exist, or does not run."""


NO_MEMORY = 'not enough memory'
MEMORY_HINT = 'raise its limit (ulimit -v, MemoryMax= in systemd), or end other programs'
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)        # disk full, quota, file too large
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP)      # what a file system lacks
FILE_SYSTEM_HINT = ('move that directory to a file system that supports symbolic links, flock, '
                    'rename and fsync')
OS_ERROR_HINTS = (
    (UNSUPPORTED, FILE_SYSTEM_HINT),
    (NO_SPACE, 'free disk space there and run the command again; all installed files are intact'),
    ((errno.EACCES, errno.EPERM),
     'run the command as a user who has access, or change the permissions'),
    ((errno.EROFS,),
     'mount this file system writable, or add the directory to ReadWritePaths= of the unit'),
    ((errno.EIO,), 'check the disk: dmesg shows its errors'),
    ((errno.ENOMEM,), MEMORY_HINT),
)


def as_tako_error(error: Exception) -> TakoError:
    """Return any exception as a TakoError, with a hint.

    - An ImportError: this Python is incomplete.
    - An OSError: its paths and its text, with the hint of its errno.
    - Any other: an internal error, with the line numbers of its traceback.
    """
    if isinstance(error, TakoError):
        return error
    if isinstance(error, ImportError):
        return TakoError(f'this Python lacks its {error.name} package',
                         'install all of Python (Debian: apt install python3)')
    if isinstance(error, MemoryError):
        return TakoError(NO_MEMORY, MEMORY_HINT)
    if not isinstance(error, OSError):
        lines, trace = [], error.__traceback__
        while trace is not None:
            lines.append(str(trace.tb_lineno))
            trace = trace.tb_next
        return TakoError('internal error: {!r}, lines {}'.format(error, ' > '.join(lines)),
                         'report this bug, with the command line and tako --version')
    where = ''.join(os.fsdecode(name) + ': ' for name in (error.filename, error.filename2)
                    if isinstance(name, (str, bytes)))
    hint = next((hint for numbers, hint in OS_ERROR_HINTS if error.errno in numbers),
                'check what is at that path')
    return TakoError(where + (error.strerror or str(error)), hint)


def amount(number: object, singular: str, plural: str = '') -> str:
    """Return a number with its noun, as in 1 byte or 2 bytes. plural: by default with an s."""
    return f'{number} {singular if str(number) == "1" else plural or singular + "s"}'


# ======================================================================== 3  Ed25519
#
# This is RFC 8032, section 5.1; numbers like 5.1.3 below are its sections. Verification uses the
# equation without the cofactor: it accepts exactly the signatures that libsodium's
# crypto_sign_verify_detached accepts.
#
# Nothing here runs in constant time. Do not sign on a machine where untrusted users can measure it.
#
# A point is either affine (x, y), or extended (X, Y, Z, E, H) with x = X/Z, y = Y/Z, x*y = E*H/Z.
# E*H is the T of the RFC. A doubling does not need T, so only an addition multiplies E and H.

P = 2**255 - 19                                         # prime modulus of the field
L = 2**252 + 27742317777372353535851937790883648493     # order of the base point
D = 37095705934669439343138083508754565189542113879843219016388785533085940283555
SQRT_MINUS_1 = 19681161376707505956807079304988542015446066515923890162744021073123829784752
BASE = (15112221349535400772501151409588531511454012693041857206046113283949847762202,
        46316835694926478169428394003475163141307993866256225615783033603165251855960)
LOW_255_BITS = 2**255 - 1


def ed25519_public_key(seed: bytes) -> bytes:
    """Return the 32-byte public key of a 32-byte secret seed (RFC 8032, 5.1.5).

    Raises ValueError for a seed of another length.
    """
    scalar, _ = _expand(seed)
    return _encode_point(_sum_of_multiples((scalar, BASE)))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """Return the 64-byte signature of `message` by a 32-byte secret seed (RFC 8032, 5.1.6).

    The same message always gets the same signature. It is verified before it is returned, because
    a faulty signature can reveal the secret key. Raises ArithmeticError if the machine
    miscalculated, ValueError for a seed of another length.
    """
    scalar, prefix = _expand(seed)
    public_key = ed25519_public_key(seed)
    r = _sha512_number(prefix, message) % L
    encoded_r = _encode_point(_sum_of_multiples((r, BASE)))
    s = (r + _sha512_number(encoded_r, public_key, message) * scalar) % L
    signature = encoded_r + s.to_bytes(32, 'little')
    if not ed25519_verify(public_key, message, signature):
        raise ArithmeticError('this machine calculates wrong signatures')
    return signature


def ed25519_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether `signature` (64 bytes) of `message` is valid for `public_key` (32 bytes).

    The public key is A and the signature is R, S (RFC 8032, 5.1.7). Also returns False if S >= L,
    if A or R is not encoded canonically, or if A or R has small order.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    encoded_r, s = signature[:32], int.from_bytes(signature[32:], 'little')
    a = _decode_point(public_key)
    if a is None or s >= L:
        return False
    k = _sha512_number(encoded_r, public_key, message) % L
    minus_a = P - a[0], a[1]
    r = _sum_of_multiples((s, BASE), (k, minus_a))          # S*B - k*A
    return _encode_point(r) == encoded_r and not _is_of_small_order(*r)


def _expand(seed: bytes) -> 'Tuple[int, bytes]':
    """Return the secret scalar and the prefix of a seed (5.1.5, steps 1 and 2; 5.1.6, step 1)."""
    if len(seed) != 32:
        raise ValueError('an Ed25519 seed must have 32 bytes')
    digest = hashlib.sha512(seed).digest()
    return int.from_bytes(digest[:32], 'little') & (2**254 - 8) | 2**254, digest[32:]


def _sha512_number(*parts: bytes) -> int:
    """Return the SHA-512 of the joined parts as a number."""
    return int.from_bytes(hashlib.sha512(b''.join(parts)).digest(), 'little')


def _encode_point(point: 'Tuple[int, int]') -> bytes:
    """Return the 32-byte encoding of an affine point (5.1.2)."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, 'little')


def _decode_point(encoded: bytes) -> 'Optional[Tuple[int, int]]':
    """Return the affine point that 32 bytes encode (5.1.3).

    Return None if they encode no point, if the encoding is not canonical, or if the point has small
    order.
    """
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
    """Return whether an affine point has order 1 or 2 (x = 0), 4 (y = 0) or 8 (x^2 = -y^2)."""
    return x * y * (x * x + y * y) % P == 0


def _sum_of_multiples(*terms: 'Tuple[int, Tuple[int, int]]') -> 'Tuple[int, int]':
    """Return the sum of scalar * point over (scalar, point) terms, as an affine point.

    This is Straus's method: all terms share the 256 doublings. Each scalar is a sum of odd digits
    from -15 to 15, each times a power of 2. The digits are at least 5 bits apart, so a scalar needs
    at most 52 additions. The digit of an odd scalar is its last 5 bits; if they are above 15, they
    count as negative (minus 32), and 1 is carried to the bits before them.
    """
    additions: List[List[Tuple[int, int, int, int]]] = [[] for _ in range(256)]    # for each bit
    for scalar, point in terms:
        multiples, bit = _odd_multiples(*point), 0
        while scalar:
            if scalar & 1:
                additions[bit].append(multiples[scalar >> 1 & 15])
                scalar, bit = (scalar >> 5) + (scalar >> 4 & 1), bit + 5
            else:
                scalar, bit = scalar >> 1, bit + 1
    x, y, z = 0, 1, 1
    for addends in reversed(additions):
        x, y, z, e, h = _double(x, y, z)
        for addend in addends:
            x, y, z, e, h = _add(x, y, z, e, h, addend)
    inverse = pow(z, -1, P) if sys.version_info >= (3, 8) else pow(z, P - 2, P)
    return x * inverse % P, y * inverse % P


def _odd_multiples(x: int, y: int) -> 'List[Tuple[int, int, int, int]]':
    """Return [1, 3 .. 15, -15 .. -3, -1] times an affine point, each as an addend of _add().

    The multiple for the last 5 bits of an odd scalar is at the index of the first 4 of them.
    """
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
    """Return the sum of an extended point and an addend (Y - X, Y + X, 2*D*T, 2*Z) (5.1.4)."""
    minus, plus, t2d, z2 = addend
    a, b, c, d = (y - x) * minus, (y + x) * plus, e * h % P * t2d, z * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    # 2^255 = 19 in the field, so this reduces to about 256 bits, which is cheaper than % P.
    e = (e & LOW_255_BITS) + 19 * (e >> 255)
    f = (f & LOW_255_BITS) + 19 * (f >> 255)
    g = (g & LOW_255_BITS) + 19 * (g >> 255)
    h = (h & LOW_255_BITS) + 19 * (h >> 255)
    return e * f % P, g * h % P, f * g % P, e, h


def _double(x: int, y: int, z: int) -> 'Tuple[int, int, int, int, int]':
    """Return twice an extended point (5.1.4).

    E, F, G and H have the opposite signs of those in the RFC, which gives the same point.
    """
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
    """Return the `size` bytes whose canonical base64 is `text` (RFC 4648, section 4), or None."""
    try:
        decoded = binascii.a2b_base64(text.encode('ascii'))
    except ValueError:          # the base class of binascii.Error and UnicodeEncodeError
        return None
    # binascii ignores invalid characters and stray bits, so only encoding again is a strict check.
    return decoded if len(decoded) == size and encode_base64(decoded) == text else None


def encode_base64(data: bytes) -> str:
    """Return the canonical base64 of `data`, without a newline."""
    return binascii.b2a_base64(data, newline=False).decode('ascii')


def refuse_secret_key(text: str, what: str) -> None:
    """Raise UsageError if `text` is a secret key in the place of `what`.

    Others may have read it there, in a config or in ps.
    """
    if text.startswith(SECRET_KEY_PREFIX):
        raise UsageError(f'a secret key in the place of {what}',
                         'make a new key pair: anyone who could read this can sign')


def parse_public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key in base64.

    Raises UsageError if `text` is invalid, or if verification would refuse every signature of it.
    """
    refuse_secret_key(text, 'a public key')
    key = decode_base64(text, 32)
    if key is None:
        raise UsageError('not a public key', 'give the 44 characters that gen-key printed')
    if _decode_point(key) is None:
        raise UsageError('a public key that matches no secret key',
                         'copy it again from the output of gen-key')
    return key


def parse_secret_key(text: str) -> bytes:
    """Return the 32-byte seed of a secret key in the form that gen-key prints.

    This is SECRET+ and the base64 of the seed and twice the public key. Raises UsageError if it is
    invalid; the message does not quote it.
    """
    if decode_base64(text, 32) is not None:
        raise UsageError('not a secret key but a public key',
                         'give the secret key, which gen-key -o NAME writes to NAME.key')
    if not text.startswith(SECRET_KEY_PREFIX):
        raise UsageError('not a secret key',
                         f'give the line that gen-key printed, from {SECRET_KEY_PREFIX} to the end')
    key = decode_base64(text[len(SECRET_KEY_PREFIX):], 96)
    if key is None:
        raise UsageError('a truncated or modified secret key',
                         'copy it again from the output of gen-key')
    seed, first, second = key[:32], key[32:64], key[64:]
    if not first == second == ed25519_public_key(seed):
        raise UsageError('a secret key that does not match its public key',
                         'copy it again from the output of gen-key')
    return seed


def format_secret_key(seed: bytes) -> str:
    """Return the text of a secret key, given its 32-byte seed, as parse_secret_key() reads it."""
    public_key = ed25519_public_key(seed)
    return SECRET_KEY_PREFIX + encode_base64(seed + public_key + public_key)


# ======================================================================== 5  versions
#
#     1.0-beta.1  <  1.0  =  1  =  1-0_0  <  1.0.1  <  1.9  <  1.10  <  2
#
# The separators . - _ divide a version into parts. Versions are compared part by part: a string is
# below every number, numbers are compared by value and strings by their bytes, and the shorter
# version is padded with zeros.

# In this file, a "regex" is a regular expression, and a "pattern" is a value of Version=.
VERSION_REGEX = '([!-~]{1,%d})' % VERSION_MAX_CHARS
# A pattern may not contain the operators of other tools, as in >=1.0. As part of a version, they
# would match nothing, and the user would get neither an update nor an error.
PATTERN_PART_REGEX = r'(?!~)(?:(?![<>=,|^!()\[\]])[!-~]){1,%d}' % VERSION_MAX_CHARS
PATTERN_FORMS = ('use * (any version), 1.* (all that begin with 1), 1.13.7 (only that one) '
                 'or 1.2 <= v < 2.0 (a range)')
DOUBTFUL_PATTERNS = (       # regex, what such a pattern does, and a hint
    (r'((?:[^*<]*?[._-])?)[xX](?:[._-][^*<]*)?', 'matches only a version of that name',
     r'for a wildcard, write \1*'),
    ('(?![xX]$)[^0-9*<]*', 'matches only a version of that name',
     'for the newest version, write *'),
    ('([0-9]{1,3})', r'matches only version \1, which equals \1.0',
     r'for all versions that begin with \1, write \1.*'),
    ('([0-9]+(?:[.][0-9]+)+)-([0-9]+(?:[.][0-9]+)+)', 'is one version, not a range',
     r'write \1 <= v < \2'),
    ('[vV]([0-9][^ ]*)(?:( <= v < )[vV]([^ ]*))?', 'matches no version that begins with a number',
     r"write \1\2\3, unless the publisher's versions begin with v"),
    ('[0-9._-]*[*]|[0-9._-]+ <= v < [0-9._-]+',
     'also matches pre-releases, such as those with -rc1',
     'no pattern excludes them all: see whether the publisher stores any there'),
)
_STRING, _END, _NUMBER = 0, 1, 2        # kinds of items, from the lowest to the highest


@functools.total_ordering
class Version:
    """A version: `text` is how it is spelled, `order` is the tuple by which it is compared."""

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

    __repr__ = __str__


def parse_version(text: str) -> Version:
    """Return the version that `text` spells. Raises VersionError if it is invalid."""
    parts = _version_parts(text) if re.fullmatch(VERSION_REGEX, text) else []
    if not parts:
        raise VersionError(f'invalid version: {text[:80]!a}',
                           'use 1 to 255 printable ASCII characters, no spaces, not only . - _')
    return Version(text, _version_order(parts))


def _version_parts(text: str) -> 'List[Union[int, str]]':
    """Return the numbers and strings of a version, in order, without separators."""
    parts = text.replace('-', '.').replace('_', '.').split('.')
    return [int(part) if part.isdigit() else part for part in parts if part]


def _version_order(parts: 'Iterable[Union[int, str]]') -> 'Tuple[Any, ...]':
    """Return a tuple that is compared like the version with these parts.

    Each part that is not zero becomes three items: its kind, the count of zeros before it, and the
    part. The count is negative before a number, since more zeros make the version lower, and
    positive before a string, since they make it higher. The last item is _END. Zeros at the end are
    left out, since 1 equals 1.0.

        1.0-beta   ->  (_NUMBER, 0, 1,  _STRING, 1, 'beta',  _END)
        1, 1.0     ->  (_NUMBER, 0, 1,  _END)
        1.0.3      ->  (_NUMBER, 0, 1,  _NUMBER, -1, 3,  _END)
        1.3        ->  (_NUMBER, 0, 1,  _NUMBER, 0, 3,  _END)
    """
    order: List[Any] = []
    zeros = 0
    for part in parts:
        if part == 0:
            zeros += 1
        else:
            order += (_STRING, zeros, part) if isinstance(part, str) else (_NUMBER, -zeros, part)
            zeros = 0
    order.append(_END)
    return tuple(order)


class Bounds:
    """The versions that match a pattern: `version in bounds`.

    `text` is the pattern. `lowest` is the version at which the bounds begin.
    """

    def __init__(self, text: str, lowest: Version) -> None:
        self.text = text
        self.lowest = lowest

    def __contains__(self, version: Version) -> bool:
        raise NotImplementedError


class _ExactBounds(Bounds):
    """One version, as in 1.13.7."""

    def __contains__(self, version: Version) -> bool:
        return version == self.lowest


class _PrefixBounds(Bounds):
    """All versions that begin with the parts of `prefix`, as in 1.*."""

    def __init__(self, text: str, prefix: 'List[Union[int, str]]') -> None:
        super().__init__(text, Version(text, _version_order(prefix)))
        self.prefix = prefix

    def __contains__(self, version: Version) -> bool:
        parts = _version_parts(version.text)
        padding = [0] * (len(self.prefix) - len(parts))     # 1.0.* matches 1, which equals 1.0
        return parts[:len(self.prefix)] + padding == self.prefix


class _RangeBounds(Bounds):
    """All versions from `lowest` to before `below`, as in 1.2 <= v < 2.0."""

    def __init__(self, text: str, lowest: Version, below: Version) -> None:
        super().__init__(text, lowest)
        self.below = below

    def __contains__(self, version: Version) -> bool:
        return self.lowest <= version < self.below and not self._is_pre_release_of_end(version)

    def _is_pre_release_of_end(self, version: Version) -> bool:
        """Return True for 2.0-beta if the range ends before 2.0, as it comes before 2.0, too."""
        end = self.below.order[:-1]                         # all but _END
        return version.order[:len(end)] == end and version.order[len(end)] == _STRING


def parse_pattern(text: str) -> Bounds:
    """Return the bounds of a version pattern in one of the forms of PATTERN_FORMS.

    Raises VersionError if it has none of them, UsageError if it is a secret key.
    """
    refuse_secret_key(text, 'a version pattern')
    words = text.split()
    if len(words) == 5 and words[1:4] == ['<=', 'v', '<']:
        lowest, below = _pattern_version(words[0], text), _pattern_version(words[4], text)
        bounds = _RangeBounds(text, lowest, below)
        if lowest not in bounds:
            raise VersionError(f'no version can match {text}', PATTERN_FORMS)
        return bounds
    if re.fullmatch(r'([^*]*[._-])?\*', text) and re.fullmatch(PATTERN_PART_REGEX, text):
        return _PrefixBounds(text, _version_parts(text[:-1]))
    return _ExactBounds(text, _pattern_version(text, text))


def pattern_doubts(text: str) -> 'Iterator[Tuple[str, str]]':
    """Yield in which ways a valid pattern may be meant otherwise, each with a hint."""
    for regex, what, hint in DOUBTFUL_PATTERNS:
        match = re.fullmatch(regex, text)
        if match is not None:
            yield f'{text} {match.expand(what)}', match.expand(hint)


def _pattern_version(text: str, pattern: str) -> Version:
    """Return the version that `text`, a part of `pattern`, spells. Raises VersionError."""
    if re.fullmatch(PATTERN_PART_REGEX, text) and '*' not in text and _version_parts(text):
        return parse_version(text)
    raise VersionError(f'{pattern[:80]!a} is not a version pattern', PATTERN_FORMS)


# ======================================================================== 6  manifest
#
#     Tako Manifest 1
#
#     <version> <size in bytes> <SHA-256>         one line for each image, ascending by version
#
#     <signature of all bytes above>
#
# A publisher only ever adds entries. The top of this file has an example. A stamp, signed in the
# same way, states when a manifest was the newest one:
#
#     Tako Stamp 1
#
#     <UTC time> <number of entries> <SHA-256 of all bytes of the manifest above its signature>
#
#     <signature of all bytes above>

MANIFEST_TITLE = b'Tako Manifest '      # begins every format; the number of the format follows
MANIFEST_HEADER = MANIFEST_TITLE + b'1\n\n'
STAMP_TITLE = b'Tako Stamp '
STAMP_HEADER = STAMP_TITLE + b'1\n\n'
SIGNATURE_LINE_BYTES = 89               # base64 of 64 bytes, and a newline
ENTRY_REGEX = VERSION_REGEX + ' (0|[1-9][0-9]{0,18}) ([0-9a-f]{64})'
TIME_REGEX = ('((?:19[7-9]|[2-9][0-9]{2})[0-9]-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])'
              'T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}Z)')
STAMP_REGEX = TIME_REGEX + ' (0|[1-9][0-9]{0,8}) ([0-9a-f]{64})\n\n'


class Entry(namedtuple('Entry', ('version', 'size', 'digest'))):
    """One image in a manifest: its version, size in bytes, and SHA-256 in lowercase hex."""

    __slots__ = ()
    version: Version
    size: int
    digest: str

    def line(self) -> str:
        """Return the entry's line in a manifest, with its newline."""
        return f'{self.version.text} {self.size} {self.digest}\n'


class Manifest(namedtuple('Manifest', ('entries',))):
    """The images that a publisher offers, ascending by version."""

    __slots__ = ()
    entries: 'Tuple[Entry, ...]'


def open_manifest(signed: bytes, public_keys: 'Optional[Sequence[bytes]]',
                  where: str) -> Manifest:
    """Verify a manifest's bytes with `public_keys` (32 bytes each), then parse and return it.

    Only this function makes a Manifest of bytes that come from outside. `where` is the manifest's
    path or URL, for messages. In the order of the checks, it raises UnsignedError if there is no
    signature, SignatureError if none of the keys signed it, FormatError for a format of a newer
    Tako, ManifestError if the content is invalid. Only commands of the publisher give None instead
    of keys: then any signature passes.
    """
    body = _open_signed(signed, public_keys, where, MANIFEST_TITLE)
    return Manifest(tuple(_parse_entries(body, where)))


def _open_signed(signed: bytes, public_keys: 'Optional[Sequence[bytes]]', where: str,
                 title: bytes) -> bytes:
    """Return the signed bytes of a manifest or a stamp, as `title` says, after verifying them."""
    body, signature = split_signature(signed, where, title)
    if public_keys is not None and not any(
            ed25519_verify(key, body, signature) for key in public_keys):
        raise SignatureError(
            f'{where}: not signed by any of the given public keys',
            "compare these keys with the publisher's key; if one is equal, the file was modified")
    _check_format(body, where, title)
    return body


def signing_key(signed: bytes, public_keys: 'Iterable[bytes]') -> 'Optional[bytes]':
    """Return which of `public_keys` signed a manifest's bytes; None if none did."""
    body, signature = split_signature(signed, '', MANIFEST_TITLE)
    return next((key for key in public_keys if ed25519_verify(key, body, signature)), None)


def seal_manifest(manifest: Manifest, secret_key: bytes) -> bytes:
    """Return the bytes of a manifest, signed with `secret_key` (a 32-byte seed)."""
    body = manifest_body(manifest)
    return join_signature(body, ed25519_sign(secret_key, body))


def manifest_body(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest that are to be signed.

    Raises ManifestError if readers would refuse it: it is too long, or an entry is invalid or out
    of order.
    """
    lines = ''.join(entry.line() for entry in manifest.entries)
    body = MANIFEST_HEADER + lines.encode('ascii', 'replace') + b'\n'
    # read it again: a replaced character, a space or a newline in an entry makes a difference
    if tuple(_parse_entries(body, 'the new manifest')) != manifest.entries:
        raise ManifestError('the new manifest', 'an entry cannot be written')
    if len(body) + SIGNATURE_LINE_BYTES > MANIFEST_MAX_BYTES:
        raise ManifestError('the new manifest', f'longer than {MANIFEST_MAX_BYTES} bytes',
                            'publish further versions in another directory')
    return body


def join_signature(body: bytes, signature: bytes) -> bytes:
    """Return the bytes of a manifest or a stamp with its signature of 64 bytes."""
    return body + encode_base64(signature).encode('ascii') + b'\n'


def split_signature(signed: bytes, where: str,
                    title: bytes = MANIFEST_TITLE) -> 'Tuple[bytes, bytes]':
    """Return the signed bytes and the 64 bytes of the signature. Raises UnsignedError."""
    body, line = signed[:-SIGNATURE_LINE_BYTES], signed[-SIGNATURE_LINE_BYTES:]
    signature = decode_base64(line[:-1].decode('ascii', 'replace'), 64)
    if signature is None or line[-1:] != b'\n' or not body.startswith(title):
        raise UnsignedError(f'{where}: not a signed {_kind_of(title)}',
                            'check what is there: another file, part of it, or a login page')
    return body, signature


def _kind_of(title: bytes) -> str:
    return title.split()[1].decode('ascii').lower()


def _check_format(body: bytes, where: str, title: bytes) -> None:
    """Raise FormatError if a verified body has another format, ManifestError if it has none."""
    if body.startswith(title + b'1\n\n'):
        return
    # (?!1\n): format 1 has no other header
    match = re.match(title + b'(?!1\n)([1-9][0-9]{0,8})\n', body)
    if match is None:
        raise ManifestError(where, 'invalid header')
    raise FormatError(
        f'{where}: unknown {_kind_of(title)} format {int(match.group(1))}; this Tako is too old',
        f'update Tako: version {__version__} reads format 1 only')


def _parse_entries(body: bytes, where: str) -> 'Iterator[Entry]':
    """Yield the entries of a verified body. Raises ManifestError, which names the invalid line."""
    lines = body[len(MANIFEST_HEADER):].decode('ascii', 'replace').split('\n')
    if lines[-2:] != ['', '']:
        raise ManifestError(where, 'no blank line before the signature')
    last: Optional[Version] = None
    match_entry = re.compile(ENTRY_REGEX).fullmatch
    for number, line in enumerate(lines[:-2], 3):           # the header has two lines
        match = match_entry(line)
        text, size, digest = match.groups() if match else ('', '0', '')     # '' has no parts
        parts = _version_parts(text)
        if not parts or int(size) > IMAGE_MAX_BYTES:
            raise ManifestError(where, f'line {number}: invalid entry')
        version = Version(text, _version_order(parts))
        if last is not None and not last < version:
            raise ManifestError(where, f'line {number}: {version} does not come after {last}')
        last = version
        yield Entry(version, int(size), digest)


class Stamp(namedtuple('Stamp', ('moment', 'entries', 'sha256'))):
    """When a manifest was the newest, as 2026-11-27T23:00:00Z, and how many entries it has.

    sha256: what body_sha256() returns for the manifest.
    """

    __slots__ = ()
    moment: str
    entries: int
    sha256: str

    def seconds(self) -> int:
        """Return the time in seconds since 1970."""
        year, month, day, hour, minute, second = map(int, re.findall('[0-9]+', self.moment))
        return 86400 * _day_number(year, month, day) + 3600 * hour + 60 * minute + second

    def body(self) -> bytes:
        """Return the bytes of the stamp that are to be signed."""
        return STAMP_HEADER + f'{self.moment} {self.entries} {self.sha256}\n\n'.encode('ascii')


def open_stamp(signed: bytes, public_keys: 'Sequence[bytes]', where: str) -> Stamp:
    """Verify a stamp's bytes, then parse and return it, as open_manifest() does."""
    body = _open_signed(signed, public_keys, where, STAMP_TITLE)
    match = re.fullmatch(STAMP_REGEX, body[len(STAMP_HEADER):].decode('ascii', 'replace'))
    if match is not None:
        stamp = Stamp(match.group(1), int(match.group(2)), match.group(3))
        year, month, day = map(int, stamp.moment[:10].split('-'))
        if _day_number(year, month, day) < _day_number(year, month + 1, 1):
            return stamp
    raise ManifestError(where, 'invalid stamp')


def body_sha256(signed: bytes) -> str:
    """Return the SHA-256, in hex, of the bytes of a manifest that are signed."""
    return hashlib.sha256(signed[:-SIGNATURE_LINE_BYTES]).hexdigest()


def _day_number(year: int, month: int, day: int) -> int:
    """Return the number of days from 1970-01-01 to a date. Month 13 is the next January."""
    years = year - (month < 3)      # a year from March on ends with its leap day
    return (365 * years + years // 4 - years // 100 + years // 400
            + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469)


def first_lost(old: Manifest, new: Manifest) -> 'Optional[Entry]':
    """Return the first entry of `old` that `new` lacks or changes; None if `new` has them all."""
    if new is old:
        return None
    lines = {entry.line() for entry in new.entries}
    return next((entry for entry in old.entries if entry.line() not in lines), None)


def pick_newest(manifests: 'Sequence[Manifest]') -> 'Tuple[int, Optional[int]]':
    """Return the index of the first manifest that has all entries of the others, and None.

    If there is none, return the indexes of two manifests that each lack an entry of the other.
    """
    longest = max(range(len(manifests)), key=lambda index: len(manifests[index].entries))
    for index, other in enumerate(manifests):
        if first_lost(other, manifests[longest]) is not None:
            return longest, index       # `other` is not longer, so it lacks an entry, too
    return longest, None


def add_entry(manifest: Manifest, entry: Entry) -> Manifest:
    """Return a manifest that also has `entry`; the same manifest if `entry` is in it already.

    Raises RefusedError if the version is already published with another spelling or image.
    """
    for other in manifest.entries:
        if other.version == entry.version:
            check_spelling(manifest, entry.version)
            if other != entry:
                raise RefusedError(f'version {entry.version} is already published with another '
                                   f'image, {other.digest}', 'choose a new version')
            return manifest
    return Manifest(tuple(sorted(manifest.entries + (entry,), key=lambda each: each.version)))


def check_spelling(manifest: Manifest, version: Version) -> None:
    """Raise RefusedError if `version` is published with another spelling, as 1.0 and not 1.0.0."""
    for entry in manifest.entries:
        if entry.version == version and entry.version.text != version.text:
            raise RefusedError(f'version {version} is already published as {entry.version}',
                               'choose a new version: these two are equal')


def recalls(manifest: Manifest) -> 'Set[Entry]':
    """Return the entries whose image an older version has: each takes back what is between."""
    oldest = {entry.digest: entry for entry in reversed(manifest.entries)}
    return set(manifest.entries).difference(oldest.values())


def recall_of(digest: str, entries: 'Sequence[Entry]') -> 'Optional[Entry]':
    """Return the newest entry that takes an image back: its own image is older. None if none does.

    entries: newest first; one of them has the image `digest`.
    """
    digests = [entry.digest for entry in entries]
    place = digests.index(digest)
    return next((entry for entry in entries[:place] if entry.digest in digests[place:]), None)


def compatible_entries(manifest: Manifest, bounds: Bounds) -> 'Iterator[Entry]':
    """Yield the entries whose versions are in `bounds`, newest first."""
    return (entry for entry in reversed(manifest.entries) if entry.version in bounds)


def newer_entries(manifest: Manifest, bounds: Bounds, latest: str) -> 'List[Entry]':
    """Return the entries in bounds above the installed image, newest first; none if it is not.

    latest: the SHA-256 of the installed image, or ''.
    """
    newer: List[Entry] = []
    for entry in compatible_entries(manifest, bounds):
        if entry.digest == latest:
            return newer
        newer.append(entry)
    return []


def nearest_versions(manifest: Manifest, bounds: Bounds) -> 'List[Version]':
    """Return the newest version below `bounds` and the oldest above, those that exist.

    No version of the manifest may be in `bounds`.
    """
    below = [entry.version for entry in manifest.entries if entry.version < bounds.lowest]
    above = [entry.version for entry in manifest.entries if not entry.version < bounds.lowest]
    return below[-1:] + above[:1]


# ======================================================================== 7  chunks
#
# The index of an image lists its chunks. With it, a client that has an older image knows which
# parts of the new one to download. It is the file <sha256>.chunks beside the image. All numbers are
# little-endian:
#
#     8  magic: TakoIdx1
#     1  method: 0 if all chunks but the last have one size, 1 if the content decides where they end
#     1  0
#     2  p, the number of patches
#     4  the average size of a chunk
#     8  the size of the image
#     4  n, the number of chunks
#     4  z, which is 0 for method 0
#    40  p times: the SHA-256 of the older image of a patch, for a recompression patch with all bits
#        inverted; in 8 bytes, the size of the patch
#     z  zlib stream: the low bytes of all chunks' sizes, then the middle bytes, then the high bytes
#     8  n times: the first bytes of a chunk's SHA-256
#
# An index is not signed, and not trusted: an image that was made with it is installed only if its
# size and SHA-256 are the signed ones.

INDEX_FORMAT = '<8sBBHIQII'
INDEX_MAGIC = b'TakoIdx1'
PATCH_FORMAT = '<32sQ'
INDEX_FORMAT_BYTES, PATCH_FORMAT_BYTES, CHUNK_HASH_BYTES = 32, 40, 8
# so many bytes hold the whole list of patches
INDEX_HEAD_BYTES = INDEX_FORMAT_BYTES + PATCHES_MAX * PATCH_FORMAT_BYTES
CHUNK_MARKER = b'e'                     # a byte that is common in text, code and compressed data
FIXED_SIZE, BY_CONTENT = 0, 1           # methods
# Offset and magic of images in which files begin at a block: ext, erofs, xfs and btrfs, and disks
# with a GUID partition table.
BLOCK_MAGICS = ((1080, b'\x53\xef'), (1024, b'\xe2\xe1\xf5\xe0'), (0, b'XFSB'),
                (65600, b'_BHRfS_M'), (512, b'EFI PART'))


INVERTED = str.maketrans('0123456789abcdef', 'fedcba9876543210')


def inverted(digest: str) -> str:
    """Return a SHA-256 in hex with all bits inverted.

    As the SHA-256 of the older image, it lists a recompression patch. Readers that know only
    ordinary patches find no image of that name.
    """
    return digest.translate(INVERTED)


class ChunkIndex(namedtuple('ChunkIndex',
                            ('method', 'average', 'size', 'patches', 'lengths', 'hashes'))):
    """The chunks of an image of `size` bytes.

    average: the size in bytes that chunks were cut for. patches: SHA-256 of an older image in hex,
    and size of the patch from it. lengths: the size of each chunk. hashes: CHUNK_HASH_BYTES of each
    chunk, one after another.
    """

    __slots__ = ()
    method: int
    average: int
    size: int
    patches: 'Tuple[Tuple[str, int], ...]'
    lengths: 'Sequence[int]'
    hashes: bytes

    def hash_of(self, number: int) -> bytes:
        """Return the hash of a chunk; the first has number 0."""
        return self.hashes[number * CHUNK_HASH_BYTES:(number + 1) * CHUNK_HASH_BYTES]

    def chunks(self) -> 'Iterator[Tuple[bytes, int]]':
        """Yield hash and size of each chunk, in order."""
        return ((self.hash_of(number), length) for number, length in enumerate(self.lengths))


def chunk_hash(chunk: bytes) -> bytes:
    """Return the first CHUNK_HASH_BYTES of a chunk's SHA-256."""
    return hashlib.sha256(chunk).digest()[:CHUNK_HASH_BYTES]


def choose_chunks(head: bytes, size: int) -> 'Tuple[int, int]':
    """Return method and average size of chunks for an image of `size` bytes with this `head`.

    Chunks of one size suit file systems, in which a change moves nothing. In all other images the
    content decides where chunks end, so that chunks stay the same when bytes before them are
    inserted or deleted.
    """
    is_of_blocks = any(head.startswith(magic, offset) for offset, magic in BLOCK_MAGICS)
    average = CHUNK_BLOCK_BYTES if is_of_blocks else CHUNK_AVERAGE_BYTES
    while size > average * CHUNKS_AIM and average < CHUNK_MAX_BYTES:
        average = min(2 * average, CHUNK_MAX_BYTES)
    return FIXED_SIZE if is_of_blocks else BY_CONTENT, average


def cut_chunks(read: 'Callable[[int], bytes]', method: int, average: int) -> 'Iterator[bytes]':
    """Yield the chunks of a stream. `read(size)` returns up to `size` bytes of it, or more."""
    return _cut_to_size(read, average) if method == FIXED_SIZE else _cut_by_content(read, average)


def _cut_to_size(read: 'Callable[[int], bytes]', size: int) -> 'Iterator[bytes]':
    pending = _read_beyond(size, read, b'')
    while pending:
        whole = len(pending) // size * size or len(pending)
        for begin in range(0, whole, size):
            yield pending[begin:begin + size]
        pending = _read_beyond(size, read, pending[whole:])


def _cut_by_content(read: 'Callable[[int], bytes]', average: int) -> 'Iterator[bytes]':
    """Yield chunks of `least` to `most` bytes: one third to five thirds of `average`.

    Markers part the stream into pieces; in the middle of a piece, a chunk begins another one. The
    cases for the end of a chunk:

        at most `most` bytes are left    at the end of the stream; this chunk may be shorter
        pieces end within the bounds     at the end of the one with the highest CRC-32; if there are
                                         two, of the first
        none does                        after `most` bytes

    So chunks end at the same places again soon after a change, and split() and crc32() do the work.
    """
    from bisect import bisect_left, bisect_right
    least, most = average // 3, average * 5 // 3
    pending = _read_beyond(most, read, b'')
    while len(pending) > most:
        pieces = pending.split(CHUNK_MARKER)[:-1]
        ends = list(itertools.accumulate([len(piece) + 1 for piece in pieces]))
        checks = list(map(binascii.crc32, pieces))
        begin = first = 0
        parted = -1                             # the piece in which the last chunk ended, if any
        while len(pending) - begin > most:
            first = bisect_left(ends, begin + least, first)
            after = bisect_right(ends, begin + most, first)
            if first == after:
                parted, end = first, begin + most
            else:
                if first == parted:
                    checks[first] = binascii.crc32(pending[begin:ends[first] - 1])
                first += checks[first:after].index(max(checks[first:after]))
                end = ends[first]
            yield pending[begin:end]
            begin = end
        pending = _read_beyond(most, read, pending[begin:])
    if pending:
        yield pending


def _read_beyond(size: int, read: 'Callable[[int], bytes]', pending: bytes) -> bytes:
    """Return `pending` and what follows it: more than `size` bytes, unless the stream ends."""
    while len(pending) <= size:
        block = read(size + BLOCK_BYTES)
        if not block:
            break
        pending += block
    return pending


def hashed_chunks(read: 'Callable[[int], bytes]', method: int,
                  average: int) -> 'Iterator[Tuple[bytes, int]]':
    """Yield hash and size of each chunk of a stream. Arguments as of cut_chunks()."""
    return ((chunk_hash(chunk), len(chunk)) for chunk in cut_chunks(read, method, average))


def index_image(read: 'Callable[[int], bytes]', method: int, average: int) -> ChunkIndex:
    """Return the index of a stream, without patches. Arguments as of cut_chunks()."""
    import array
    lengths, hashes = array.array('I'), bytearray()
    for key, length in hashed_chunks(read, method, average):
        lengths.append(length)
        hashes += key
    return ChunkIndex(method, average, sum(lengths), (), lengths, bytes(hashes))


def format_index(index: ChunkIndex) -> bytes:
    """Return the bytes of an index."""
    import struct
    import zlib
    planes = b''
    if index.method == BY_CONTENT:
        planes = zlib.compress(b''.join(bytes(length >> shift & 255 for length in index.lengths)
                                        for shift in (0, 8, 16)), 9)
    head = struct.pack(INDEX_FORMAT, INDEX_MAGIC, index.method, 0, len(index.patches),
                       index.average, index.size, len(index.lengths), len(planes))
    patches = b''.join(struct.pack(PATCH_FORMAT, binascii.unhexlify(digest), size)
                       for digest, size in index.patches)
    return head + patches + planes + index.hashes


def index_max_bytes(size: int) -> int:
    """Return how many bytes the index of an image of `size` bytes may have."""
    return min(size // 256 + INDEX_SPARE_BYTES, INDEX_MAX_BYTES)


def parse_patches(head: bytes, size: int) -> 'Dict[str, int]':
    """Return the patches that an index lists: their sizes, by the SHA-256 of the older image.

    head: the first INDEX_HEAD_BYTES of the index, or more. size: of the image. Raises ValueError if
    this is not the index of such an image.
    """
    import struct
    if len(head) < INDEX_FORMAT_BYTES:
        raise ValueError('too short')
    magic, method, zero, patches, _, image_size, _, _ = struct.unpack_from(INDEX_FORMAT, head)
    is_known = magic == INDEX_MAGIC and zero == 0 and method in (FIXED_SIZE, BY_CONTENT)
    if not is_known or image_size != size:
        raise ValueError('of another format or another image')
    end = INDEX_FORMAT_BYTES + patches * PATCH_FORMAT_BYTES
    if patches > PATCHES_MAX or len(head) < end:
        raise ValueError('too many patches')
    found = struct.iter_unpack(PATCH_FORMAT, head[INDEX_FORMAT_BYTES:end])
    return {binascii.hexlify(digest).decode(): patch_size for digest, patch_size in found}


def parse_index(raw: bytes, size: int) -> ChunkIndex:
    """Return the index of an image of `size` bytes. Raises ValueError if it is invalid."""
    import struct
    found = parse_patches(raw, size)
    _, method, _, patches, average, _, count, planes = struct.unpack_from(INDEX_FORMAT, raw)
    end = INDEX_FORMAT_BYTES + patches * PATCH_FORMAT_BYTES
    hashes = raw[end + planes:]
    if (len(raw) > index_max_bytes(size) or count > CHUNKS_MAX
            or len(hashes) != count * CHUNK_HASH_BYTES):
        raise ValueError('too long or too short')
    if not CHUNK_MIN_BYTES <= average <= CHUNK_MAX_BYTES:
        raise ValueError('its chunks are too small or too large')
    lengths = _parse_lengths(raw[end:end + planes], method, average, size, count)
    if (len(lengths) != count or sum(lengths) != size
            or not all(0 < length <= average * 5 // 3 for length in lengths)):
        raise ValueError('its chunks do not make the image')
    return ChunkIndex(method, average, size, tuple(found.items()), lengths, hashes)


def _parse_lengths(planes: bytes, method: int, average: int, size: int,
                   count: int) -> 'Sequence[int]':
    """Return the size of each chunk; not more of them than `count` and the last."""
    import array
    import zlib
    if method == FIXED_SIZE:
        whole, rest = divmod(size, average)
        return array.array('I', [average] * min(whole, count) + ([rest] if rest else []))
    try:
        low = zlib.decompressobj().decompress(planes, 3 * count + 1)
    except zlib.error:
        raise ValueError('no zlib stream') from None
    if len(low) != 3 * count:
        raise ValueError('too few or too many sizes')
    middle, high = low[count:2 * count], low[2 * count:]
    return array.array('I', (a | b << 8 | c << 16 for a, b, c in zip(low, middle, high)))


def fit_index(image: 'BinaryIO', size: int, progress: 'Callable[[int], object]') -> ChunkIndex:
    """Return the index of an open image of `size` bytes that parse_index() accepts.

    It calls `progress` with how many bytes of the image it has read.

    Chunks of repetitive content may have a third of the average size. If there are too many chunks
    then, they are made larger. Raises ValueError if CHUNK_MAX_BYTES is still too small.
    """
    def read(count: int) -> bytes:
        progress(image.tell())
        return image.read(count)

    method, average = choose_chunks(image.read(CHUNK_HEAD_BYTES), size)
    while True:
        image.seek(0)
        try:
            return parse_index(format_index(index_image(read, method, average)), size)
        except ValueError:
            if average >= CHUNK_MAX_BYTES:
                raise
        average = min(2 * average, CHUNK_MAX_BYTES)


def find_chunks(index: ChunkIndex,
                chunks: 'Iterable[Tuple[bytes, int]]') -> 'Dict[bytes, Optional[int]]':
    """Return where another image has the chunks of `index`, by hash; None for those it lacks.

    chunks: hash and size of each chunk of the other image, in order.
    """
    places: Dict[bytes, Optional[int]] = dict.fromkeys(key for key, _ in index.chunks())
    begin = 0
    for key, length in chunks:
        if key in places:
            places[key] = begin
        begin += length
    return places


class Range(namedtuple('Range', ('begin', 'end', 'first'))):
    """Bytes of an image, from `begin` to before `end`. first: number of the chunk at `begin`."""

    __slots__ = ()
    begin: int
    end: int
    first: int


class Plan(namedtuple('Plan', ('copies', 'ranges', 'repeats'))):
    """How to put an image together: copies from an older image, ranges to download, repeats.

    copies, repeats: offset to copy from, offset to copy to, bytes. Repeats are copied within the
    new image.
    """

    __slots__ = ()
    copies: 'List[Tuple[int, int, int]]'
    ranges: 'List[Range]'
    repeats: 'List[Tuple[int, int, int]]'


def plan_image(index: ChunkIndex, places: 'Mapping[bytes, Optional[int]]',
               present: 'Sequence[int]') -> Plan:
    """Return how to put the image of `index` together.

    places: where the older image has each chunk, as find_chunks() returns it. present: for each
    chunk, whether the image has it in its place already.
    """
    plan, begin = Plan([], [], []), 0
    requested: Dict[bytes, int] = {}
    for number, (key, length) in enumerate(index.chunks()):
        place = places[key]
        if present[number]:
            pass
        elif place is not None:
            _add_copy(plan.copies, place, begin, length)
        elif key in requested:
            _add_copy(plan.repeats, requested[key], begin, length)
        else:
            requested[key] = begin
            _add_range(plan.ranges, Range(begin, begin + length, number), 0)
        begin += length
    return plan


def _add_copy(copies: 'List[Tuple[int, int, int]]', source: int, begin: int, length: int) -> None:
    """Append a copy, or extend the last one if this continues it."""
    if copies:
        last_source, last_begin, size = copies[-1]
        if (last_source + size, last_begin + size) == (source, begin):
            copies[-1] = last_source, last_begin, size + length
            return
    copies.append((source, begin, length))


def _add_range(ranges: 'List[Range]', new: Range, gap: int) -> None:
    """Append a range, or extend the last one, over `gap` bytes and up to RANGE_BYTES at most."""
    if (ranges and new.begin - ranges[-1].end <= gap
            and new.end - ranges[-1].begin <= RANGE_BYTES):
        ranges[-1] = ranges[-1]._replace(end=new.end)
    else:
        ranges.append(new)


def join_ranges(ranges: 'Sequence[Range]', gap: int) -> 'List[Range]':
    """Return the ranges, joined where at most `gap` bytes are between them.

    If more than RANGES_MAX are left, larger gaps are joined, too, up to RANGE_BYTES and more.
    """
    joined: List[Range] = []
    for each in ranges:
        _add_range(joined, each, gap)
    if len(joined) <= RANGES_MAX or gap > RANGE_BYTES:
        return joined
    return join_ranges(joined, 2 * gap + 1)


# ======================================================================== 8  patches
#
# A patch makes a new image of an old one. It is not signed, and not trusted: the client compares
# size and SHA-256 of the result with the signed ones.
#
#     patch     PATCH_MAGIC, then segments until the new image is complete
#     segment   3 words, then the 3 streams whose sizes they give: control, differences, new bytes
#     word      4 bytes, little-endian: 2 n for a stream of n bytes of raw LZMA2, 2 n + 1 for a
#               stream of n bytes that are not compressed
#     control   groups of operations. A group is a row of varints: the number of operations; all
#               kinds; the lengths of all COPYs, of all ADDs, of all NEWs; and for each COPY and ADD
#               the change of the shift: 2 n for n more, 2 n - 1 for n less
#     varint    7 bits a byte, the lowest first; bit 7 is set in all bytes but the last
#
# COPY copies bytes of the old image, from the current offset in the new image plus the shift. ADD
# does the same, and adds a byte of the differences to each, modulo 256. NEW takes new bytes. The
# shift begins at 0.

PATCH_MAGIC = b'Tako Patch 1\n'
COPY, ADD, NEW = range(3)
GROUP_MAX_OPERATIONS = 1 << 16
COPY_MIN_BYTES = 2 * OPERATION_BYTES    # a shorter run of equal bytes does not end an ADD
IS_ZERO = bytes([1]) + bytes(255)       # for bytes.translate(): 1 for 0, 0 for all else
NEGATED = bytes(-byte & 255 for byte in range(256))     # for bytes.translate()

# How patches are made. No reader depends on these numbers: they keep patches between real images
# small (make bench-delta), and making them fast.
ANCHOR_AVERAGE_BYTES = 2000     # average chunk that is looked up in the old image
SAMPLES, SAMPLE_BYTES = 64, 4096    # of the new image, to find out whether it is compressed
PACKED_MIN_SHARE = 5 / 8        # of compressed content, zlib leaves more than this
SEED_PAGE_BYTES = 4096          # the old image has seeds in all of a page, or in none of it
SEEK_BYTES = 1024               # window in which the next match is sought: most are near
SEED_GAIN_BYTES = 8             # more equal bytes than without it justify an operation's own bytes
FOLLOW_BYTES = 32               # window behind a run of equal bytes, in which a match goes on if
FOLLOW_MIN_EQUAL = 18           # so many are equal: more than half, or the differences cost more
RUN_FIRST_BYTES = 64            # compared first, then twice as many each time: most runs are short
STRETCH_MAX_BYTES = 1 << 16     # that are added to each end of a match
PACK_MIN_GAIN = 1 / 32          # a part that LZMA2 shrinks by less is stored as it is


class PatchError(ValueError):
    """A patch is damaged, or not for this image."""


def make_patch(old: 'Image', new: 'Image', write: 'Callable[[bytes], object]', memory_bytes: int,
               progress: 'Callable[[int], object]', is_expanded: bool = False) -> None:
    """Write, piece by piece, the patch that makes `new` of `old`: bytes or mapped files.

    memory_bytes: how much memory to use at most, without what is mapped; at least 32 MiB. progress:
    called many times a second with the number of bytes of `new` that are done. is_expanded: whether
    it is part of a recompression patch. The same arguments make the same patch. Raises ImportError
    if this Python lacks lzma or zlib.
    """
    write(PATCH_MAGIC)
    matcher = _Matcher(old, new, memory_bytes, progress, is_expanded)
    writer = _PatchWriter(matcher, write, memory_bytes, is_expanded)
    for match in matcher.stretched():
        writer.add_match(*match)
    writer.add_new(len(new))
    writer.flush()


def _cut_image(image: 'Image', average: int) -> 'Iterator[Tuple[int, bytes]]':
    """Yield offset and bytes of each chunk of an image, which its content cuts."""
    blocks = (image[at:at + BLOCK_BYTES] for at in range(0, len(image), BLOCK_BYTES))
    start = 0
    for chunk in cut_chunks(lambda _: next(blocks, b''), BY_CONTENT, average):
        yield start, chunk
        start += len(chunk)


def _table(code: str, size: int, memory_bytes: int) -> 'array.array[int]':
    """Return a power of two of zeros: `size` or more, or fewer if memory_bytes hold fewer."""
    import array
    zero = array.array(code, [0])
    return zero * (1 << min(2 * size, memory_bytes // zero.itemsize).bit_length() - 1)


class _Matcher:
    """Finds the bytes of a new image that an old one has, too.

    A chunk that both images have is an anchor. Between anchors, a match may begin at any byte of
    the new image, with a seed: a few bytes that the old image has, too. A match extends while most
    bytes are equal.
    """

    def __init__(self, old: 'Image', new: 'Image', memory_bytes: int,
                 progress: 'Callable[[int], object]', is_expanded: bool = False) -> None:
        import zlib
        self.old, self.new, self.memory_bytes, self.progress = old, new, memory_bytes, progress
        sample = b''.join([new[at:at + SAMPLE_BYTES]
                           for at in range(0, len(new), len(new) // SAMPLES + 1)])
        # of an expanded image, what differs is not compressed
        self.is_packed = not is_expanded and (
            len(zlib.compress(sample, 1)) > len(sample) * PACKED_MIN_SHARE)
        # LZMA2 cannot shrink content that is compressed: short matches are worth more there, and
        # do not occur by chance
        self.seed_bytes, self.match_min_bytes, self.stride = 16, 24, 2
        if self.is_packed:
            self.seed_bytes, self.match_min_bytes, self.stride = 8, 12, 4

    def _matches(self) -> 'Iterator[Match]':
        """Yield the anchors, and between them matches with an earlier shift or a seed."""
        anchors = self._anchors()
        seeds = self._seeds(anchors)
        limits = anchors[1:] + [(len(self.new), 0, 0)]
        for (start, at, before), (limit, _, after) in zip(anchors, limits):
            match: Optional[Match] = (start, at, before)
            while match is not None:
                start, at, shift = match
                at = self._follow(at, limit, shift)
                yield start, at, shift
                shifts = [shift] + list({before, after} - {shift})
                match = self._seek(at, limit, shifts, seeds)

    def _anchors(self) -> 'List[Match]':
        """Return the chunks that both images have, joined where the shift does not change."""
        average, crc32 = ANCHOR_AVERAGE_BYTES, binascii.crc32
        while (len(self.old) + len(self.new)) // average > self.memory_bytes // 256:
            average *= 2
        table = _table('Q', 2 * len(self.old) // average + 1, self.memory_bytes // 8)
        for start, chunk in _cut_image(self.old, average):
            self.progress(0)
            table[crc32(chunk) % len(table)] = start + 1
        anchors = [(0, 0, 0)]
        for start, chunk in _cut_image(self.new, average):
            self.progress(0)
            end, (first, last, shift) = start + len(chunk), anchors[-1]
            if chunk != self.old[max(0, start + shift):max(0, end + shift)]:
                shift = table[crc32(chunk) % len(table)] - 1 - start
                if start + shift < 0 or chunk != self.old[start + shift:end + shift]:
                    continue
            if (start, shift) == (last, anchors[-1][2]):
                anchors[-1] = first, end, shift
            else:
                anchors.append((start, end, shift))
        return anchors

    def _seeds(self, anchors: 'List[Match]') -> 'array.array[int]':
        """Return where the old image has seeds: by CRC-32, the offset in strides plus 1, or 0.

        Pages inside of anchors have none, unless the image is compressed. The stride grows until
        the seeds fill at most half of the table, and 32 bits hold each offset.
        """
        size, crc32 = self.seed_bytes, binascii.crc32
        is_anchored = bytearray(len(self.old) // SEED_PAGE_BYTES + 1)
        for start, end, shift in anchors:
            first = (start + shift) // SEED_PAGE_BYTES + 2
            last = (end + shift) // SEED_PAGE_BYTES - 1
            if first < last and not self.is_packed:
                is_anchored[first:last] = b'\1' * (last - first)
        left = is_anchored.count(0) * SEED_PAGE_BYTES
        table = _table('I', 2 * left // self.stride, self.memory_bytes // 2)
        while left // self.stride > len(table) // 2 or len(self.old) > self.stride * 0xffffffff:
            self.stride *= 2
        for page in range(0, len(self.old), SEED_PAGE_BYTES):
            if not is_anchored[page // SEED_PAGE_BYTES]:
                self.progress(0)
                data = self.old[page:page + SEED_PAGE_BYTES + size - 1]
                for at in range(-page % self.stride, len(data) - size + 1, self.stride):
                    table[crc32(data[at:at + size]) % len(table)] = (page + at) // self.stride + 1
        return table

    def _follow(self, at: int, limit: int, shift: int) -> int:
        """Return up to where a shift holds: the end of a run that unequal bytes follow."""
        while True:
            at = self.end_of_run(at, limit, shift)
            near = self.equal(at, min(at + FOLLOW_BYTES, limit), shift)
            if near.count(1) < FOLLOW_MIN_EQUAL:
                return at
            at += near.find(1)

    def _seek(self, at: int, limit: int, shifts: 'List[int]',
              seeds: 'array.array[int]') -> 'Optional[Match]':
        """Return the next match, None if there is none before `limit`. The cases:

            one of the shifts holds again    the match begins where it does
            before that, there is a seed     the match begins there, if it has more equal bytes than
                                             the first of the shifts, by more than SEED_GAIN_BYTES
        """
        crc32, mask, size, skip = binascii.crc32, len(seeds) - 1, self.seed_bytes, at
        for place in range(at, limit - size + 1, SEEK_BYTES):
            self.progress(place)
            window = self.new[place:min(place + SEEK_BYTES + size - 1, limit)]
            equals = [self.equal(place, place + len(window), shift) for shift in shifts]
            starts = [equal.find(b'\1' * size) for equal in equals]
            again = min([each for each in zip(starts, shifts) if each[0] >= 0], default=None)
            for start in range(again[0] if again else len(window) - size + 1):
                seed = window[start:start + size]
                found = (seeds[crc32(seed) & mask] - 1) * self.stride
                if (found >= 0 and self.old[found:found + size] == seed != seed[:1] * size
                        and place + start >= skip):
                    shift = found - place - start
                    length = self.end_of_run(place + start, limit, shift) - place - start
                    if length > equals[0].count(1, start, start + length) + SEED_GAIN_BYTES:
                        return place + start, place + start + length, shift
                    skip = place + start + length // 2
            if again:
                return place + again[0], place + again[0] + size, again[1]
        return None

    def end_of_run(self, at: int, limit: int, shift: int) -> int:
        """Return where the new bytes from `at` on first differ from the old ones, or `limit`."""
        size = RUN_FIRST_BYTES
        while at < limit:
            end = min(at + size, limit)
            if self.new[at:end] != self.old[max(0, at + shift):max(0, end + shift)]:
                return at + (self.equal(at, end, shift) + b'\0').find(0)
            at, size = end, min(2 * size, BLOCK_BYTES)
        return limit

    def equal(self, at: int, end: int, shift: int) -> bytes:
        """Return 1 for each new byte that equals the old one, else 0, up to the old image's end."""
        old = self.old[at + shift:end + shift] if at + shift >= 0 else b''
        new = self.new[at:at + len(old)]
        unequal = int.from_bytes(new, 'little') ^ int.from_bytes(old, 'little')
        return unequal.to_bytes(len(old), 'little').translate(IS_ZERO)

    def stretched(self) -> 'Iterator[Match]':
        """Yield the matches, stretched as in bsdiff: over bytes of which most are equal."""
        start, end, shift, size = 0, 0, 0, len(self.new)
        ends = size, size, len(self.old) - size         # both images end there, whichever is longer
        for next_start, next_end, next_shift in itertools.chain(self._matches(), [ends]):
            ahead = self.equal(end, min(next_start, end + STRETCH_MAX_BYTES), shift)
            back_to = max(end, next_start - STRETCH_MAX_BYTES, -next_shift)
            behind = self.equal(back_to, next_start, next_shift)
            stop, resume = end + _surplus(ahead), next_start - _surplus(behind[::-1])
            if shift == next_shift and stop >= resume:
                end = next_end
                continue
            stop = min(stop, resume)
            if stop - start >= self.match_min_bytes:
                yield start, stop, shift
            start, end, shift = resume, next_end, next_shift
        if end - start >= self.match_min_bytes:
            yield start, end, shift


def _surplus(equal: bytes) -> int:
    """Return after how many bytes the equal ones outnumber the others most."""
    best = score = size = at = 0
    for run in re.finditer(b'\1+', equal):
        score += run.end() - 2 * run.start() + at
        at = run.end()
        if score > best:
            best, size = score, at
    return size


class _PatchWriter:
    """Makes operations of matches, and writes them, a segment at a time."""

    def __init__(self, matcher: _Matcher, write: 'Callable[[bytes], object]', memory_bytes: int,
                 is_expanded: bool) -> None:
        self.matcher, self.write = matcher, write
        self.segment_bytes = min(max(4 * SEGMENT_MIN_BYTES, memory_bytes // 16), 1 << 28)
        self.dictionary_bytes = min(
            max(4096, memory_bytes // 32),
            BODY_DICTIONARY_BYTES if is_expanded else PATCH_DICTIONARY_BYTES)
        self.at = self.shift = self.count = 0
        self.group: List[List[int]] = []        # kind, length and change of the shift
        self.control, self.differences, self.new_bytes = bytearray(), bytearray(), bytearray()

    def add_new(self, end: int) -> None:
        """Make the new image up to `end` of new bytes."""
        while self.at < end:
            stop = min(end, self.at + self._room())
            self.new_bytes += self.matcher.new[self.at:stop]
            self._add(NEW, stop, self.shift)

    def add_match(self, start: int, end: int, shift: int) -> None:
        """Make the new image up to `start` of new bytes, and from there to `end` of old ones."""
        # a patch may not have more operations than this: begin the match later, then
        start = min(end, max(start, (self.count + 4 - OPERATIONS_SPARE) * OPERATION_BYTES))
        self.add_new(start)
        while self.at < end:
            stop = self.matcher.end_of_run(self.at, end, shift)
            if stop - self.at >= COPY_MIN_BYTES or (self.at, stop) == (start, end):
                self._add(COPY, stop, shift)
                continue
            stop = min(end, self.at + min(self._room(), BLOCK_BYTES))
            size = self.matcher.equal(self.at, stop, shift).find(b'\1' * COPY_MIN_BYTES)
            stop = self.at + size if size > 0 else stop
            minus_old = self.matcher.old[self.at + shift:stop + shift].translate(NEGATED)
            self.differences += _add_bytes(self.matcher.new[self.at:stop], minus_old,
                                           *_masks(len(minus_old)))
            self._add(ADD, stop, shift)

    def _room(self) -> int:
        """Return how many bytes fit into the segment; write it first, if it is full."""
        held = len(self.control) + len(self.differences) + len(self.new_bytes)
        if held >= self.segment_bytes:
            self.flush()
            held = 0
        return self.segment_bytes - held

    def _add(self, kind: int, end: int, shift: int) -> None:
        """Add an operation, or extend the last one."""
        if self.group and self.group[-1][0] == kind and self.shift == shift:
            self.group[-1][1] += end - self.at
        else:
            if len(self.group) == GROUP_MAX_OPERATIONS:
                self._end_group()
            self.group.append([kind, end - self.at, shift - self.shift])
            self.count += 1
        self.at, self.shift = end, shift

    def _end_group(self) -> None:
        """Write the operations into the control stream, in columns, which compress better."""
        numbers = [len(self.group)] + [kind for kind, _, _ in self.group]
        for column in COPY, ADD, NEW:
            numbers += [length for kind, length, _ in self.group if kind == column]
        numbers += [2 * change if change >= 0 else -2 * change - 1
                    for kind, _, change in self.group if kind != NEW]
        _add_varints(self.control, numbers)
        self.group = []

    def flush(self) -> None:
        """Write the segment, unless it is empty."""
        if self.group:
            self._end_group()
        if self.control:
            streams = (self._pack(self.control, 1), self._pack(self.differences, 4),
                       self._pack(self.new_bytes, 4))
            self.write(b''.join([word.to_bytes(4, 'little') for word, _ in streams]))
            for _, stream in streams:
                self.write(stream)
            self.control, self.differences, self.new_bytes = bytearray(), bytearray(), bytearray()

    def _pack(self, stream: bytearray, literal_bits: int) -> 'Tuple[int, bytes]':
        """Return the word and the bytes of a stream, compressed if that makes them fewer."""
        data = self._lzma2(stream, literal_bits)
        is_hardly_less = len(stream) * (1 - PACK_MIN_GAIN) < len(data) < len(stream)
        if is_hardly_less and len(stream) > PATCH_PART_MIN_BYTES:
            data = self._pack_parts(stream, literal_bits)
        if len(data) < len(stream):
            return 2 * len(data), data
        return 2 * len(stream) + 1, bytes(stream)

    def _pack_parts(self, stream: bytearray, literal_bits: int) -> bytes:
        """Return raw LZMA2 in which only those parts are compressed that shrink enough.

        This saves time when the patch is applied. In LZMA2, a byte 1 begins a chunk that is not
        compressed: its size less 1 follows in two bytes, then its bytes. A byte 0 ends the stream.
        """
        parts = []
        for at in range(0, len(stream), BLOCK_BYTES):
            part = stream[at:at + BLOCK_BYTES]
            packed = self._lzma2(part, literal_bits)[:-1]
            if len(packed) > len(part) * (1 - PACK_MIN_GAIN):
                pieces = [part[begin:begin + (1 << 16)] for begin in range(0, len(part), 1 << 16)]
                packed = b''.join([b'\1' + (len(piece) - 1).to_bytes(2, 'big') + piece
                                   for piece in pieces])
            parts.append(packed)
        return b''.join(parts + [b'\0'])

    def _lzma2(self, stream: bytearray, literal_bits: int) -> bytes:
        """Return raw LZMA2."""
        import lzma
        packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[{
            'id': lzma.FILTER_LZMA2, 'preset': 9 | lzma.PRESET_EXTREME,
            'dict_size': self.dictionary_bytes, 'lc': literal_bits, 'pb': 0}])
        packed = []
        for at in range(0, len(stream), BLOCK_BYTES):
            self.matcher.progress(self.at)
            packed.append(packer.compress(stream[at:at + BLOCK_BYTES]))
        return b''.join(packed + [packer.flush()])


def _add_varints(raw: bytearray, numbers: 'Iterable[int]') -> None:
    for number in numbers:
        while number > 127:
            raw.append(number & 127 | 128)
            number >>= 7
        raw.append(number)


def _masks(size: int) -> 'Tuple[int, int]':
    """Return two numbers of `size` bytes: the low 7 bits of each byte set, and the high bits."""
    return int.from_bytes(b'\x7f' * size, 'little'), int.from_bytes(b'\x80' * size, 'little')


def _add_bytes(one: bytes, other: bytes, low: int, high: int) -> bytes:
    """Return the sums of bytes modulo 256. low, high: as _masks() returns them.

    One addition of large numbers adds the low 7 bits of all bytes: none carries to the next byte.
    """
    x, y = int.from_bytes(one, 'little'), int.from_bytes(other, 'little')
    return ((x & low) + (y & low) ^ (x ^ y) & high).to_bytes(len(one), 'little')


def apply_patch(patch: 'BinaryIO', read_old: 'Callable[[int, int], bytes]',
                size: int, start: int = 0) -> 'Iterator[bytes]':
    """Yield the new image in blocks of at most BLOCK_BYTES. Only their digest shows if it is right.

    patch: an open file that can seek. read_old(offset, count) returns `count` bytes of the old
    image, fewer at its end. size: of the new image, as signed; no byte beyond it is made. start:
    where the patch begins, after the head of a recompression patch. Takes at most 32 MiB of memory,
    whatever the patch holds. Raises PatchError as soon as the patch proves invalid, ImportError if
    this Python lacks lzma.
    """
    held: List[bytes] = []
    held_bytes = 0
    for piece in _patch_pieces(patch, _OldImage(read_old), size, start):
        if held_bytes + len(piece) > BLOCK_BYTES:
            yield b''.join(held)
            held, held_bytes = [], 0
        held.append(piece)
        held_bytes += len(piece)
    yield b''.join(held)


def _patch_pieces(patch: 'BinaryIO', old: '_OldImage', size: int,
                  start: int) -> 'Iterator[bytes]':
    """Yield the bytes that each operation makes, at most SMALL_BLOCK_BYTES at a time."""
    place, at, shift, count, masks = start + len(PATCH_MAGIC), 0, 0, 0, _masks(SMALL_BLOCK_BYTES)
    patch.seek(start)
    if patch.read(len(PATCH_MAGIC)) != PATCH_MAGIC:
        raise PatchError('unknown patch format')
    while at < size:
        (control, differences, new_bytes), place = _open_segment(
            patch, place, BODY_DICTIONARY_BYTES if start else PATCH_DICTIONARY_BYTES)
        segment_start = at
        for kind, length, change in _operations(control):
            count, shift, end = count + 1, shift + change, at + length
            if not at < end <= size or count > OPERATIONS_SPARE + size // OPERATION_BYTES:
                raise PatchError('the patch makes more than the image, or too little at a time')
            while at < end:
                piece_bytes = min(SMALL_BLOCK_BYTES, end - at)
                piece = (new_bytes.read(piece_bytes) if kind == NEW
                         else old.read(at + shift, piece_bytes))
                yield (_add_bytes(piece, differences.read(piece_bytes), *masks) if kind == ADD
                       else piece)
                at += piece_bytes
        if not differences.is_used_up() or not new_bytes.is_used_up() or (
                at - segment_start < min(SEGMENT_MIN_BYTES, size - segment_start)):
            raise PatchError('the patch has a segment that makes too little')
    patch.seek(place)
    if patch.read(1):
        raise PatchError('the patch goes on after its end')


class _OldImage:
    """The old image, read ahead: most operations copy from near where the last one ended."""

    def __init__(self, read: 'Callable[[int, int], bytes]') -> None:
        self.read_old, self.begin, self.window = read, 0, b''

    def read(self, begin: int, size: int) -> bytes:
        """Return exactly `size` bytes. Raises PatchError if the image does not have them."""
        skip = begin - self.begin
        if skip < 0 or skip + size > len(self.window):
            self.begin, self.window, skip = begin, b'', 0
            if 0 <= begin < IMAGE_MAX_BYTES - BLOCK_BYTES:
                self.window = self.read_old(begin, max(size, READ_AHEAD_BYTES))
            if len(self.window) < size:
                raise PatchError('the patch is for an old image of another size')
        return self.window[skip:skip + size]


def _open_segment(patch: 'BinaryIO', place: int,
                  dictionary_bytes: int) -> 'Tuple[List[_Unpacker], int]':
    """Return the streams of the segment at `place`, and the offset of its end."""
    patch.seek(place)
    words = patch.read(12)
    if len(words) < 12:
        raise PatchError('the patch is cut off')
    streams, place = [], place + 12
    for at in (0, 4, 8):
        word = int.from_bytes(words[at:at + 4], 'little')
        streams.append(_Unpacker(patch, place, word >> 1, not word & 1, dictionary_bytes))
        place += word >> 1
    return streams, place


def _operations(control: '_Unpacker') -> 'Iterator[Tuple[int, int, int]]':
    """Yield kind, length and change of the shift of each operation; length 0 if it is missing."""
    numbers = _varints(iter(lambda: control.some(4096), b''))
    for count in numbers:
        if not 0 < count <= GROUP_MAX_OPERATIONS:
            raise PatchError('the patch has a group of no operations, or of too many')
        kinds = list(itertools.islice(numbers, count))
        lengths = [iter(list(itertools.islice(numbers, kinds.count(kind))))
                   for kind in (COPY, ADD, NEW)]
        for kind in kinds:
            length = next(lengths[kind], 0) if kind <= NEW else 0
            change = next(numbers, 0) if kind != NEW else 0
            yield kind, length, -(change + 1 >> 1) if change & 1 else change >> 1


def _varints(blocks: 'Iterable[bytes]') -> 'Iterator[int]':
    """Yield the numbers in the blocks of a stream."""
    number = bits = 0
    for byte in itertools.chain.from_iterable(blocks):
        number |= (byte & 127) << bits
        bits += 7
        if bits > 63:
            raise PatchError('the patch has a number without end')
        if byte < 128:
            yield number
            number = bits = 0
    if bits:
        raise PatchError('the patch has a number that is cut off')


class _Unpacker:
    """A stream of a patch. It reads and decompresses no more than is requested."""

    def __init__(self, patch: 'BinaryIO', place: int, size: int, is_packed: bool,
                 dictionary_bytes: int) -> None:
        import lzma
        filters = [{'id': lzma.FILTER_LZMA2, 'dict_size': dictionary_bytes}]
        self.patch, self.place, self.left, self.error = patch, place, size, lzma.LZMAError
        self.unpacked, self.at = b'', 0         # the bytes unpacked last, and how many were read
        self.decoder = (lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters) if is_packed
                        else None)

    def some(self, size: int) -> bytes:
        """Return up to `size` bytes, at least one; none at the end."""
        if self.decoder is None:
            return self._read(min(size, self.left)) if self.left else b''
        unpacked = b''
        while not unpacked and not self.decoder.eof:
            try:
                packed = b''
                if self.decoder.needs_input:
                    packed = self._read(min(SMALL_BLOCK_BYTES, self.left))
                unpacked = self.decoder.decompress(packed, size)
            except self.error as error:
                raise PatchError(f'the patch has a damaged stream: {error}')
        if not unpacked and (self.left or self.decoder.unused_data):
            raise PatchError('the patch has a stream that goes on after its end')
        return unpacked

    def _read(self, size: int) -> bytes:
        self.patch.seek(self.place)
        data = self.patch.read(size)
        if not data:
            raise PatchError('the patch is cut off, or one of its streams is')
        self.place, self.left = self.place + len(data), self.left - len(data)
        return data

    def read(self, size: int) -> bytes:
        """Return `size` bytes, SMALL_BLOCK_BYTES at most. Raises PatchError if fewer are left."""
        if self.at + size > len(self.unpacked):
            self.unpacked, self.at = self.unpacked[self.at:], 0
        while size > len(self.unpacked):
            more = self.some(SMALL_BLOCK_BYTES)
            if not more:
                raise PatchError('the patch has a stream that is too short')
            self.unpacked += more
        self.at += size
        return self.unpacked[self.at - size:self.at]

    def is_used_up(self) -> bool:
        """Return True if the whole stream was read."""
        return self.at == len(self.unpacked) and not self.some(1)


# ======================================================================== 9  recompression
#
# If a file in a compressed image changes, all bytes of its compressed stream do. So a recompression
# patch makes an expanded image of an expanded one: some streams are replaced there by their
# contents. Then the streams of the new image are compressed again, to the same bytes as before.
#
# Expanded are streams that only one of both images has; of the new image, those that a coder makes
# again byte for byte. All others are copied. Headers as of .gz, .zip and .xz are not in streams.
#
#     patch     RECOMPRESSION_MAGIC; a word, 2 n; the head, n bytes of raw LZMA2; then a patch as in
#               section 8, but with dictionaries of BODY_DICTIONARY_BYTES at most, which makes the
#               expanded new image of the expanded old one
#     head      varints: the number of coders, and the four numbers of each; the number of the
#               sample; for the old image, then for the new one: the number of expanded streams, and
#               as columns the gaps before them, their sizes, the sizes of their contents, and the
#               numbers of their coders. Then 8 bytes for each coder
#     coder     0, level, window bits + 64, memory level: arguments of zlib's deflateInit2()
#               1, preset, dictionary (.xz format, 5.3.1), ID of a branch filter (5.3.2) or 0: LZMA2
#     sample    the first SAMPLE_CONTENT_BYTES of the content of this old stream; if there are none,
#               of the old image. The 8 bytes begin the SHA-256 of what a coder makes of the sample,
#               so that a client knows before the download whether its libraries do the same

RECOMPRESSION_MAGIC = b'Tako Patch 2\n'
HEAD_START_BYTES, CODER_HASH_BYTES = len(RECOMPRESSION_MAGIC) + 4, 8
DEFLATE, LZMA2 = 0, 1                   # kinds of coders
# How such patches are made; no reader depends on it.
RECOMPRESSION_MAX_SHARE = 0.9           # of the bytes that are downloaded without this patch
STREAM_MIN_BYTES = 48                   # a shorter stream is not worth its numbers in the head
UNPACKED_MAX_FACTOR = 16                # to find streams, so many times the image is unpacked
TRY_BYTES = 1 << 12                     # what is no stream counts as so many bytes at least
STREAM_MEMORY_BYTES = 1 << 10           # a publisher needs at most this much memory for a stream
GUESS_FAILURES_MAX = 4                  # after so many streams in vain, only known coders are tried
STREAM_MAGICS = b'x[\1\x5e\x9c\xda]|\x1f\x8b\x08|PK\3\4|\xfd7zXZ\0'     # zlib, gzip, zip, xz
XZ_FILTERS = b'(?:([\4-\x09])\0)?!\1(.)'    # in the head of a block: ID of a filter, dictionary

Coder = namedtuple('Coder', ('kind', 'level', 'window', 'extra'))       # see above
# Bytes from begin to before end of an image, and the size of their content
Stream = namedtuple('Stream', ('begin', 'end', 'size', 'coder'))


def _is_allowed(coder: 'Tuple[int, int, int, int]') -> bool:
    """Return True if the libraries have this coder, and it takes little memory."""
    kind, level, window, extra = coder
    return level <= 9 and (
        9 <= abs(window - 64) <= 15 and 1 <= extra <= 9 if kind == DEFLATE else
        kind == LZMA2 and window <= CODER_DICTIONARY_MAX and extra in (0, 4, 5, 6, 7, 8, 9))


def _filters(coder: Coder, **options: int) -> 'List[Dict[str, int]]':
    size = (2 | coder.window & 1) << coder.window // 2 + 11
    return [{'id': coder.extra}] * (coder.extra > 0) + [dict(options, id=0x21, dict_size=size)]


def _compress(coder: Coder, content: 'Iterable[bytes]') -> 'Iterator[bytes]':
    import lzma
    import zlib
    compressor: Any = (
        zlib.compressobj(coder.level, zlib.DEFLATED, coder.window - 64, coder.extra)
        if coder.kind == DEFLATE else
        lzma.LZMACompressor(lzma.FORMAT_RAW, filters=_filters(coder, preset=coder.level)))
    for block in content:
        yield compressor.compress(block)
    yield compressor.flush()


def _compress_all(coder: Coder, content: bytes) -> bytes:
    return b''.join(_compress(coder, [content]))


def coder_hash(coder: Coder, sample: bytes) -> bytes:
    """Return the first bytes of the SHA-256 of what a coder makes of the sample."""
    return hashlib.sha256(_compress_all(coder, sample)).digest()[:CODER_HASH_BYTES]


def _decompress(coder: Coder, read: 'Callable[[int, int], bytes]', at: int,
                most: int = BLOCK_BYTES) -> 'Generator[bytes, None, int]':
    """Yield the content of the stream at an offset, in blocks. Return its end.

    most: the size of the first block. Each further one has twice as many bytes, up to BLOCK_BYTES.
    """
    import lzma
    import zlib
    is_lzma, packed = coder.kind == LZMA2, b''
    try:
        decoder: Any = (lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(coder)) if is_lzma
                        else zlib.decompressobj(coder.window - 64))
        while not decoder.eof:
            needs_input = decoder.needs_input if is_lzma else not packed
            if needs_input:
                packed = read(at, SMALL_BLOCK_BYTES)
                at += len(packed)
            block = decoder.decompress(packed, most)
            if needs_input and not (packed or block):
                raise PatchError('a stream is cut off')
            packed = b'' if is_lzma else decoder.unconsumed_tail
            most = min(2 * most, BLOCK_BYTES)
            yield block
    except (zlib.error, lzma.LZMAError) as error:       # also where a library lacks a coder
        raise PatchError(f'a stream is damaged: {error}') from None
    return at - len(decoder.unused_data)


def head_end(start: bytes) -> int:
    """Return the offset at which the head ends. start: HEAD_START_BYTES. Raises PatchError."""
    word = int.from_bytes(start[-4:], 'little')
    if start[:-4] != RECOMPRESSION_MAGIC or word & 1 or word >> 1 > HEAD_MAX_BYTES:
        raise PatchError('unknown patch format')
    return HEAD_START_BYTES + (word >> 1)


def _sample(read_old: 'Callable[[int, int], bytes]', streams: 'List[Stream]',
            number: int) -> bytes:
    if not streams:
        return read_old(0, SAMPLE_CONTENT_BYTES)
    stream, content = streams[min(number, len(streams) - 1)], b''
    for block in _decompress(stream.coder, read_old, stream.begin):
        content += block
        if len(content) >= SAMPLE_CONTENT_BYTES:
            break
    return content[:SAMPLE_CONTENT_BYTES]


class Recompression:
    """A recompression patch, which is parsed and applied. All raise PatchError if it is invalid.

    read_old: as in apply_patch(); old_size, size: of both images. coders, hashes, old, new: from
    the head; `old` and `new` are lists of streams.
    """

    def __init__(self, patch: 'BinaryIO', read_old: 'Callable[[int, int], bytes]', old_size: int,
                 size: int) -> None:
        self.read_old, self.old_size, self.size = read_old, old_size, size
        patch.seek(0)
        self._end = head_end(patch.read(HEAD_START_BYTES))
        stream, raw = _Unpacker(patch, HEAD_START_BYTES, self._end - HEAD_START_BYTES, True,
                                BODY_DICTIONARY_BYTES), b''
        for block in iter(lambda: stream.some(BLOCK_BYTES), b''):
            raw += block
            if len(raw) > HEAD_MAX_BYTES:
                raise PatchError('the head of the patch is too long')
        hashes_at = len(raw) - CODER_HASH_BYTES * (raw[0] if raw else 0)
        self.hashes = [raw[at:at + CODER_HASH_BYTES]
                       for at in range(hashes_at, len(raw), CODER_HASH_BYTES)]
        try:
            self._parse(_varints([raw[:max(0, hashes_at)]]))
        except StopIteration:
            raise PatchError('the head of the patch is cut off') from None

    def _parse(self, numbers: 'Iterator[int]') -> None:
        self.coders = [Coder(*[next(numbers) for _ in Coder._fields])
                       for _ in range(min(next(numbers), CODERS_MAX + 1))]
        if not 0 < len(self.coders) <= CODERS_MAX or not all(map(_is_allowed, self.coders)):
            raise PatchError('the patch needs an unknown coder')
        self._sample = next(numbers)
        self.old, self.new = [self._parse_streams(numbers, size)
                              for size in (self.old_size, self.size)]
        if next(numbers, None) is not None:
            raise PatchError('the head of the patch goes on after its end')

    def _parse_streams(self, numbers: 'Iterator[int]', image_size: int) -> 'List[Stream]':
        count, at, total = next(numbers), 0, 0
        if count > STREAMS_MAX:
            raise PatchError('the patch has too many streams')
        columns, streams = [[next(numbers) for _ in range(count)] for _ in range(4)], []
        for gap, length, size, coder in zip(*columns):
            begin, at, total = at + gap, at + gap + length, total + size
            if not 0 < length <= size + size // 64 + 64 or coder >= len(self.coders):
                raise PatchError('the patch has an impossible stream')
            streams.append(Stream(begin, at, size, self.coders[coder]))
        if at > image_size or total > EXPANDED_MAX_FACTOR * image_size:
            raise PatchError('the patch has a stream beyond the image, or too large ones')
        return streams

    def sample(self) -> bytes:
        """Return what each coder compresses to compare the libraries."""
        return _sample(self.read_old, self.old, self._sample)

    def blocks(self, patch: 'BinaryIO', scratch: 'BinaryIO', submit: 'Callable[..., Any]',
               check: 'Callable[[], object]') -> 'Iterator[bytes]':
        """Yield the new image in blocks. Only their digest shows if it is right.

        scratch: an empty file, for the contents of old streams. submit: that of an Executor, in
        which contents of up to STREAM_HELD_MAX_BYTES are compressed. check: called often; may
        raise. A stream that comes out longer or shorter than it must be is cut or filled, so that
        what follows is in its place.
        """
        expanded = apply_patch(patch, _Expanded(self, scratch, check).read, self.size + sum(
            each.size - each.end + each.begin for each in self.new), self._end)
        queue: List[Tuple[Any, int, int]] = []
        held = 0
        for entry in itertools.chain(self._pieces(expanded, submit), [None]):
            check()
            if entry is not None:
                queue.append(entry)
                held += max(entry[1], PENDING_MIN_BYTES)
            while queue and (entry is None or held > PENDING_MAX_BYTES):
                piece, size, length = queue.pop(0)
                held -= max(size, PENDING_MIN_BYTES)
                yield piece if length < 0 else piece.result()[:length].ljust(length, b'\0')

    def _pieces(self, expanded: 'Iterator[bytes]',
                submit: 'Callable[..., Any]') -> 'Iterator[Tuple[Any, int, int]]':
        """Yield the new image in pieces: bytes, or the future of a stream.

        Each comes with the number of bytes that it takes until it is written, and with the length
        that the stream has to have; -1 for bytes.
        """
        at, take = 0, _taker(expanded)
        for each in self.new:
            for piece in take(each.begin - at):
                yield piece, len(piece), -1
            at, length = each.end, each.end - each.begin
            if each.size <= STREAM_HELD_MAX_BYTES:
                future = submit(_compress_all, each.coder, b''.join(take(each.size)))
                yield future, each.size, length
                continue
            for piece in _compress(each.coder, take(each.size)):
                yield piece[:length], len(piece), -1
                length -= len(piece[:length])
            for begin in range(0, length, BLOCK_BYTES):
                yield bytes(min(BLOCK_BYTES, length - begin)), BLOCK_BYTES, -1
        for piece in take(self.size - at):
            yield piece, len(piece), -1
        if any(expanded):                       # this also reads the patch to its end
            raise PatchError('the patch makes more than the image')


def _taker(blocks: 'Iterator[bytes]') -> 'Callable[[int], Iterator[bytes]]':
    """Return a function that yields as many of the next bytes of the blocks as requested."""
    rest = memoryview(b'')

    def take(size: int) -> 'Iterator[bytes]':
        nonlocal rest
        while size:
            rest = rest or memoryview(next(blocks, b''))
            if not rest:
                raise PatchError('the patch makes less than the image')
            piece, rest = bytes(rest[:size]), rest[size:]
            size -= len(piece)
            yield piece
    return take


class _Expanded:
    """The expanded old image. A stream is decompressed once, when one of its bytes is read."""

    def __init__(self, patch: Recompression, scratch: 'BinaryIO',
                 check: 'Callable[[], object]') -> None:
        self._read_old, self._scratch, self._check = patch.read_old, scratch, check
        self._places: Dict[int, int] = {}       # of contents in scratch, by part
        # offsets of the parts; their offsets in the old image, sizes, and streams
        self._starts: List[int] = []
        self._parts: List[Tuple[int, int, Optional[Stream]]] = []
        start = end = 0
        for each in [*patch.old, Stream(patch.old_size, patch.old_size, 0, None)]:
            for part in (end, each.begin - end, None), (each.begin, each.size, each):
                self._starts.append(start)
                self._parts.append(part)
                start += part[1]
            end = each.end

    def read(self, begin: int, count: int) -> bytes:
        """Return `count` bytes from an offset, fewer at the end."""
        from bisect import bisect_right
        number, pieces = bisect_right(self._starts, begin) - 1, []
        self._check()                           # there may be many parts of few bytes or none
        while count and number < len(self._parts):
            skip, (offset, size, stream) = begin - self._starts[number], self._parts[number]
            size = max(0, min(count, size - skip))
            if size and stream is not None:
                self._scratch.seek(self._place(number, stream) + skip)
                pieces.append(self._scratch.read(size))
            elif size:
                pieces.append(self._read_old(offset + skip, size))
            begin, count, number = begin + size, count - size, number + 1
        return b''.join(pieces)

    def _place(self, number: int, stream: Stream) -> int:
        if number not in self._places:
            self._places[number], size = self._scratch.seek(0, 2), 0
            for block in _decompress(stream.coder, self._read_old, stream.begin):
                self._check()
                size += len(block)
                if size > stream.size:
                    break
                self._scratch.write(block)
            if size != stream.size:
                raise PatchError('a stream has another size than the patch says')
        return self._places[number]


def find_streams(image: 'Image', progress: 'Callable[[int], object]') -> 'Iterator[Stream]':
    """Yield the streams of an image, in order, with coders that read them. See make_patch().

    Those are left out that come after UNPACKED_MAX_FACTOR times the image were unpacked.
    """
    end, left = 0, UNPACKED_MAX_FACTOR * len(image)
    for match in re.finditer(STREAM_MAGICS, image):
        progress(match.start())
        if match.start() >= end and left > 0:
            begin, coder = _stream_start(image, match.start())
            if _is_allowed(coder):
                size, stop = _unpack(image, begin, coder, left)
                left -= size + TRY_BYTES
                if STREAM_MIN_BYTES <= stop - begin <= size + size // 64 + 64 and size:
                    yield Stream(begin, stop, size, coder)
                    end = stop


def _stream_start(image: 'Image', begin: int) -> 'Tuple[int, Coder]':
    """Return where the stream begins after a magic, and what reads it."""
    head, at = image[begin:begin + 64].ljust(64, b'\0'), begin
    if head[:1] == b'x':                                            # RFC 1950
        return begin, Coder(DEFLATE, 0, 64 + 15, 8)
    if head[:1] == b'\xfd':                                         # .xz format, 3.1
        sizes = b'[\x80-\xff]*[\0-\x7f]' * bin(head[13] & 0xc0).count('1')
        match = re.match(sizes + XZ_FILTERS, head[14:], re.DOTALL)
        extra, window = ((match.group(1) or b'\0')[0], match.group(2)[0]) if match else (0, 255)
        return begin + 4 * (head[12] + 4), Coder(LZMA2, 0, window, extra)
    if head[:1] == b'P':                                            # APPNOTE.TXT, 4.3.7
        at += 30 + sum(int.from_bytes(head[each:each + 2], 'little') for each in (26, 28))
    else:                                                           # RFC 1952, 2.3
        at += 10
        if head[3] & 4:
            at += 2 + int.from_bytes(head[10:12], 'little')
        for flag in (8, 16):
            if head[3] & flag:
                at += image[at:at + TRY_BYTES].find(b'\0') + 1
        at += head[3] & 2
    return at, Coder(DEFLATE, 0, 64 - 15, 8)


def _unpack(image: 'Image', begin: int, coder: Coder, most: int) -> 'Tuple[int, int]':
    """Return the size of a stream's content, and its end; 0 if it has none, or a client's limit."""
    size, blocks = 0, _decompress(coder, _reader(image), begin, TRY_BYTES)
    try:
        while size <= min(most, EXPANDED_MAX_FACTOR * len(image)):
            size += len(next(blocks))
    except StopIteration as stop:
        return size, stop.value
    except PatchError:
        pass
    return size, 0


def _reader(image: 'Image') -> 'Callable[[int, int], bytes]':
    return lambda begin, count: image[begin:begin + count]


def _makes(coder: Coder, image: 'Image', stream: Stream) -> bool:
    """Return True if a coder makes a stream of its content, byte for byte."""
    at: int = stream.begin
    for block in _compress(coder, _decompress(stream.coder, _reader(image), at)):
        if block != image[at:min(at + len(block), stream.end)]:
            return False
        at += len(block)
    return bool(at == stream.end)


def find_coders(image: 'Image', streams: 'Iterable[Stream]') -> 'Iterator[Stream]':
    """Yield those streams that a coder makes again, with it. At most CODERS_MAX are used."""
    known: List[Coder] = []                     # the last one that was right is first
    failures: Dict[Coder, int] = {}
    for each in streams:
        kind, _, window, extra = each.coder
        coders = [coder for coder in known if (coder.kind, coder.window) == (kind, window)]
        if failures.get(each.coder, 0) < GUESS_FAILURES_MAX:
            coders += [Coder(kind, level, window, other) for other in {extra, extra + (kind == 0)}
                       for level in (6, 9, 1, 5, 8, 7, 4, 3, 2, 0)]
        coder = next((coder for coder in coders if _makes(coder, image, each)), None)
        if coder is None or (coder not in known and len(known) == CODERS_MAX):
            failures[each.coder] = failures.get(each.coder, 0) + 1
        else:
            known = [coder] + [other for other in known if other != coder]
            yield each._replace(coder=coder)


def plan_recompression(old: 'Image', new: 'Image', memory_bytes: int,
                       progress: 'Callable[[int], object]'
                       ) -> 'Tuple[List[Stream], List[Stream], int]':
    """Return the streams to expand of both images, and how many streams only the new one has.

    memory_bytes, progress: see make_patch().
    """
    most = memory_bytes // 2 // STREAM_MEMORY_BYTES
    found = [[(each, _digest(image, each))
              for each in itertools.islice(find_streams(image, progress), most)]
             for image in (old, new)]
    known = [{digest for _, digest in side} for side in found]
    vanished, changed = [[each for each, digest in side if digest not in other]
                         for side, other in zip(found, known[::-1])]
    expanded = _limited(find_coders(new, changed), len(new))
    # coders that differ in level and memory level read the same streams
    readers = {(each.coder.kind, each.coder.window): each.coder for each in expanded}
    return _limited([each._replace(coder=readers[each.coder.kind, each.coder.window])
                     for each in vanished if (each.coder.kind, each.coder.window) in readers],
                    len(old)), expanded, len(changed)


def _digest(image: 'Image', stream: Stream) -> bytes:
    sha256 = hashlib.sha256()
    for at in range(stream.begin, stream.end, BLOCK_BYTES):
        sha256.update(image[at:min(at + BLOCK_BYTES, stream.end)])
    return sha256.digest()


def _limited(streams: 'Iterable[Stream]', image_size: int) -> 'List[Stream]':
    """Return the first streams, as many as a client accepts."""
    accepted, left = [], EXPANDED_MAX_FACTOR * image_size
    for each in itertools.islice(streams, STREAMS_MAX):
        left -= each.size
        if left >= 0:
            accepted.append(each)
    return accepted


def expand(image: 'Image', streams: 'Sequence[Stream]') -> 'Iterator[bytes]':
    """Yield the image with these streams expanded, in blocks."""
    at = 0
    for each in [*streams, Stream(len(image), 0, 0, None)]:
        for begin in range(at, each.begin, BLOCK_BYTES):
            yield image[begin:min(begin + BLOCK_BYTES, each.begin)]
        if each.coder:
            yield from _decompress(each.coder, _reader(image), each.begin)
        at = each.end


def make_head(old: 'Image', old_streams: 'List[Stream]', new_streams: 'List[Stream]') -> bytes:
    """Return magic and head of the patch from the image `old`."""
    import lzma
    coders = sorted({each.coder for each in old_streams + new_streams})
    # a large content that shrinks as much as most do says most about a coder
    rank = [(min(each.size, SAMPLE_CONTENT_BYTES), -abs(each.size * 2 // 5 - each.end + each.begin))
            for each in old_streams]
    number, raw = rank.index(max(rank)) if rank else 0, bytearray()
    _add_varints(raw, itertools.chain([len(coders)], *coders, [number]))
    for streams in (old_streams, new_streams):
        ends = [0] + [each.end for each in streams]
        _add_varints(raw, itertools.chain(
            [len(streams)], (each.begin - end for each, end in zip(streams, ends)),
            (each.end - each.begin for each in streams), (each.size for each in streams),
            (coders.index(each.coder) for each in streams)))
    sample = _sample(_reader(old), old_streams, number)
    raw += b''.join(coder_hash(coder, sample) for coder in coders)
    filters = [{'id': lzma.FILTER_LZMA2, 'dict_size': BODY_DICTIONARY_BYTES, 'lc': 0, 'pb': 0}]
    packed = lzma.compress(bytes(raw), lzma.FORMAT_RAW, filters=filters)
    return RECOMPRESSION_MAGIC + (2 * len(packed)).to_bytes(4, 'little') + packed


# ======================================================================== 10 config
#
# The standard library's configparser does not fit: it requires a section header, joins an indented
# line to the previous value, reports no line numbers, and keeps only one of two PublicKey= lines.

# An IPv6 address, or a name of labels of at most 63 characters (RFC 3986, 3.2.2; RFC 1123, 2.1).
# A port may follow. The groups are the host and the port.
HOST_REGEX = (r'(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]{1,63}(?:[.][A-Za-z0-9_-]{1,63})*[.]?)'
              r'(?::([0-9]{1,5}))?')
TOKEN_REGEX = '[!-~]{1,%d}' % TOKEN_MAX_BYTES
LOOPBACK_REGEX = (r'(127(?:[.](?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}|\[::1\])(?::[0-9]+)?')
# The names that systemd.unit(5) allows, except those that begin with a dash.
UNIT_NAME_REGEX = (r'(?!-)(?=.{1,%d}$)(?:[A-Za-z0-9:_.@-]|\\x[0-9a-f]{2})+'
                   % UNIT_NAME_MAX_CHARS)


class Origin(namedtuple('Origin', ('url', 'authorization'))):
    """The directory of a manifest and its images: `url` has no user, password or final slash.

    `authorization` is the value of the Authorization header for requests to that host, or empty.
    """

    __slots__ = ()
    url: str
    authorization: str


class Credentials(namedtuple('Credentials', (
        'endpoint', 'token', 'authority', 'certificate', 'key'))):
    """What a config needs to reach a private origin; each is empty if the config has none.

    `endpoint` is the one host that gets the token and the client certificate. `token` is the token,
    or @ and the name of a file; the others name PEM files. A name without / is that of a file in
    $CREDENTIALS_DIRECTORY.
    """

    __slots__ = ()
    endpoint: 'Tuple[str, str]'
    token: str
    authority: str
    certificate: str
    key: str


NO_CREDENTIALS = Credentials(('', ''), '', '', '', '')


# The options that choose between a user's systemd and the system's: for systemctl and journalctl
SYSTEM_MANAGER, USER_MANAGER = '', ' --user'
MANAGERS = {'system': SYSTEM_MANAGER, 'user': USER_MANAGER}


class Config(namedtuple('Config', (
        'origins', 'public_keys', 'destination', 'destination_line', 'bounds', 'units',
        'unit_lines', 'manager', 'confirm_seconds', 'keep', 'delay', 'credentials', 'stamp_keys',
        'fresh', 'is_metered'))):
    """The settings of one image.

    `origins` are mirrors of each other. `public_keys` have 32 bytes each; one of them must have
    signed the manifest. `destination_line` and `unit_lines` are line numbers in the config.
    `manager` is SYSTEM_MANAGER or USER_MANAGER: the systemd that runs the units.
    `confirm_seconds` is how long units are watched after a restart; with 0, only the result of the
    restart counts. `keep` is the number of images that stay in store/; with 0, all stay. `delay` is
    the shortest and longest time before a new version is installed, in seconds; None for no delay.
    `stamp_keys` have 32 bytes each: if there are any, one must have signed the stamp. `fresh` is
    how many seconds old the stamp may be. `is_metered` is whether bytes count more than time.
    """

    __slots__ = ()
    origins: 'Tuple[Origin, ...]'
    public_keys: 'Tuple[bytes, ...]'
    destination: str
    destination_line: int
    bounds: Bounds
    units: 'Tuple[str, ...]'
    unit_lines: 'Dict[str, int]'
    manager: str
    confirm_seconds: float
    keep: int
    delay: 'Optional[Tuple[int, int]]'
    credentials: Credentials
    stamp_keys: 'Tuple[bytes, ...]'
    fresh: float
    is_metered: bool


def parse_config(text: str) -> Config:
    """Return the settings in the text of a config.

    Raises ConfigError, which names the line, the key and what was expected.
    """
    values, errors = parse_settings(text)
    if errors:
        raise errors[0]
    one = {key: next(iter(lines.values()), None) for key, lines in values.items()}
    return Config(origins=tuple(values['Origin'].values()),
                  public_keys=tuple(values['PublicKey'].values()),
                  destination=one['Destination'],
                  destination_line=min(values['Destination']),
                  bounds=one['Version'],
                  units=tuple(unit for units in values['Restart'].values() for unit in units),
                  unit_lines=units_of(values),
                  manager=one['Manager'] or SYSTEM_MANAGER,
                  confirm_seconds=CONFIRM_SECONDS if one['Confirm'] is None else one['Confirm'],
                  keep=one['Keep'] or 0,
                  delay=one['Delay'],
                  credentials=credentials_of(values),
                  stamp_keys=tuple(values['StampKey'].values()),
                  fresh=one['Fresh'] or float('inf'),
                  is_metered=bool(one['Metered']))


def units_of(values: 'Values') -> 'Dict[str, int]':
    """Return the units of Restart=, each with its line."""
    return {unit: line for line, units in values['Restart'].items() for unit in units or ()}


def credentials_of(values: 'Values') -> Credentials:
    """Return the credentials of a config, which may have errors."""
    token, *files = (next(iter(values[key].values()), '') or '' for key in CREDENTIAL_KEYS)
    is_private = token or files[1]
    homes = [endpoint(origin.url) for origin in values['Origin'].values() if origin and is_private]
    return Credentials(homes[0] if homes else ('', ''), token, *files)


def parse_settings(text: str) -> 'Tuple[Values, List[ConfigError]]':
    """Return the values in the text of a config, and all of its errors.

    The syntax is systemd's, without continuation lines.
    """
    values: Values = {key: {} for key in CONFIG_KEYS}
    errors = []
    for number, line in enumerate(text.split('\n'), 1):
        line = line.strip()
        if line and line[0] not in '#;':
            try:
                _add_setting(values, number, line)
            except ConfigError as error:
                errors.append(error)
    hints = [error.hint for error in errors]        # a misspelt key is not missing, too
    errors += [ConfigError(f'{key}= is missing', f'add a line like {key}={example}')
               for key, example in REQUIRED_KEYS.items()
               if not values[key] and f'did you mean {key}=?' not in hints]
    errors += [ConfigError('Fresh= needs StampKey=', 'add the key that signs the stamp', line)
               for line in values['Fresh'] if not values['StampKey']]
    return values, errors + list(_credential_errors(values))


def _add_setting(values: 'Values', number: int, line: str) -> None:
    """Parse a line, and add its value to those of its key. Raises ConfigError."""
    key, equals, value = (part.strip() for part in line.partition('='))
    if not equals:
        raise ConfigError('not a setting: no = in this line',
                          'write each setting as Key=Value', number)
    if key not in CONFIG_KEYS:
        raise _unknown_key(key, value, number)
    if values[key] and key not in REPEATABLE_KEYS:
        raise ConfigError(f'{key}= is already set in line {min(values[key])}',
                          'remove one of the two lines', number)
    values[key][number] = None
    try:
        values[key][number] = CONFIG_KEYS[key](value)
    except UsageError as error:
        raise ConfigError(f'{key}= is invalid: {error.what}', error.hint, number) from None


def _credential_errors(values: 'Values') -> 'Iterator[ConfigError]':
    """Yield the errors of a token or client certificate that another host could receive."""
    origins = [origin for origin in values['Origin'].values() if origin is not None]
    hosts = {endpoint(origin.url) for origin in origins}
    is_private = len(hosts) < 2 and all(
        scheme == 'https' or re.fullmatch(LOOPBACK_REGEX, host) for scheme, host in hosts)
    for key in ('Token', 'ClientCertificate'):
        for line in values[key] if not is_private else ():
            yield ConfigError(f'{key}= needs all Origin= on one https host, or a loopback address',
                              'make each Origin= begin with the same https://host/, or write '
                              'another config for the other host', line)
    for line in values['Token'] if any(origin.authorization for origin in origins) else ():
        yield ConfigError('Token= is set, and Origin= has a password',
                          'remove one of the two: both use the Authorization header', line)
    for line in values['ClientKey'] if not values['ClientCertificate'] else ():
        yield ConfigError('ClientKey= is set without ClientCertificate=',
                          'add a line like ClientCertificate=/etc/tako/client.pem', line)


def _unknown_key(key: str, value: str, line: int) -> ConfigError:
    """Return the error for a key that does not exist, with the key that it resembles."""
    is_key = re.fullmatch('[A-Za-z0-9_-]{1,40}', key)
    similar = most_similar(key, CONFIG_KEYS) if is_key else ''
    # Quote nothing else. If a line is broken in two, the second part may contain a password, or be
    # a token, which ends with = or ==.
    if not is_key or not (similar or value.strip('=')):
        return ConfigError('invalid key before the =', 'write each setting as Key=Value', line)
    hint = f'did you mean {similar}=?' if similar else 'use one of ' + ', '.join(CONFIG_KEYS)
    return ConfigError(f'unknown key {key!a}', hint, line)


def most_similar(word: str, known: 'Iterable[str]') -> str:
    """Return the known word that `word` resembles most, or ''. Letter case does not count."""
    try:
        import difflib          # Debian's python3-minimal lacks it
    except ImportError:
        return ''
    by_lower_case = {each.lower(): each for each in known}
    similar = difflib.get_close_matches(word.lower(), by_lower_case, 1)
    return by_lower_case[similar[0]] if similar else ''


def parse_origin(value: str) -> Origin:
    """Return the Origin of a URL.

    Raises UsageError, which does not quote the URL, since it may contain a password.
    """
    hint = 'give the http, https or file URL of the directory that contains the manifest'
    value = re.sub('^file:/(?!/)', 'file:///', value)       # RFC 8089 allows both forms
    scheme, _, rest = value.partition('://')
    scheme = scheme.lower()
    netloc, slash, path = rest.partition('/')
    userinfo, _, host = netloc.rpartition('@')
    if scheme not in ('http', 'https', 'file') or not rest:
        raise UsageError('it does not begin with http://, https:// or file://', hint)
    if not re.fullmatch('[!-~]+', value):
        raise UsageError('it contains a space, a control or a non-ASCII character',
                         'percent-encode that character: write a space as %20')
    if re.search('[?#]', rest):
        raise UsageError('it has a query or a fragment', hint)
    if scheme == 'file':
        if netloc not in ('', 'localhost') or not slash:
            raise UsageError('it is not the URL of a local directory',
                             'write it as file:///absolute/path')
    else:
        match = re.fullmatch(HOST_REGEX, host)
        if match is None or not 0 < int(match.group(2) or 80) < 65536:
            raise UsageError('it has no host, or an invalid host or port', hint)
    return Origin(f'{scheme}://{host}' + (slash + path).rstrip('/'), basic_authorization(userinfo))


def endpoint(url: str) -> 'Tuple[str, str]':
    """Return scheme and host:port of a URL, spelled in one way (RFC 6454, 4)."""
    scheme, _, rest = url.partition('://')
    host, default = rest.partition('/')[0].lower(), ':443' if scheme == 'https' else ':80'
    return scheme, host[:-len(default)] if host.endswith(default) else host


def basic_authorization(userinfo: str) -> str:
    """Return the value of the Authorization header for the user:password of a URL (RFC 7617).

    Return '' if `userinfo` is empty.
    """
    if not userinfo:
        return ''
    import urllib.parse
    user, password = (urllib.parse.unquote_to_bytes(part) for part in userinfo.partition(':')[::2])
    return 'Basic ' + encode_base64(user + b':' + password)


def _parse_destination(value: str, kind: str = 'directory') -> str:
    if not value or '\0' in value:
        raise UsageError('it is not a path', 'give the path of an existing ' + kind)
    return os.fsdecode(value.encode('utf-8'))       # the config is UTF-8, whatever the locale


def _parse_file(value: str) -> str:
    return _parse_destination(value, 'PEM file')


def _parse_token(value: str) -> str:
    if value.startswith('@'):
        return '@' + _parse_destination(value[1:], 'file')
    if not re.fullmatch(TOKEN_REGEX, value):
        raise UsageError('it is not a token',       # do not quote it
                         'give the token without spaces, or @ and the path of a file with it')
    return value


def _parse_units(value: str) -> 'List[str]':
    for unit in value.split():
        if not re.fullmatch(UNIT_NAME_REGEX, unit):
            raise UsageError(f'{unit[:80]!a} is not a unit name',
                             'give the names of systemd units, as in app.service')
        if re.search('@([.][a-z]+)?$', unit):
            raise UsageError(f'{unit[:80]!a} is a template without an instance',
                             'name an instance, as in app@1.service')
    return value.split()


def _parse_manager(value: str) -> str:
    if value not in MANAGERS:
        raise UsageError(f'{value[:80]!a} is not a manager of units', 'write user or system')
    return MANAGERS[value]


def parse_duration(text: str) -> 'Optional[float]':
    """Return the seconds in 90, 0.5, 90s, 10m, 36h, 7d or 2w; None if it is none of these.

    None if it is more than DURATION_MAX_SECONDS, too.
    """
    match = re.fullmatch('([0-9]{1,9}(?:[.][0-9]{1,9})?)([smhdw]?)', text)
    if match is None:
        return None
    unit_seconds = {'': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}[match.group(2)]
    seconds = float(match.group(1)) * unit_seconds
    return seconds if seconds <= DURATION_MAX_SECONDS else None


def _parse_confirm(value: str) -> float:
    seconds = parse_duration(value)
    if seconds is None or seconds > CONFIRM_MAX_SECONDS:
        raise UsageError(f'{value[:80]!a} is not a duration from 0 to {CONFIRM_MAX_SECONDS}s',
                         'give a number of seconds, or write it like 90s, 10m or 1h')
    return seconds


def parse_keep(value: str) -> int:
    """Return a number of images to keep. Raises UsageError if it is below 1, or no number."""
    if not re.fullmatch('[1-9][0-9]{0,8}', value):
        raise UsageError(f'{value!a} is not a number of images', 'give a number from 1 on')
    return int(value)


def _parse_delay(value: str) -> 'Tuple[int, int]':
    first, dash, last = value.partition('-')
    shortest, longest = parse_duration(first), parse_duration(last if dash else first)
    if shortest is None or longest is None or shortest > longest:
        raise UsageError(f'{value[:80]!a} is not a time, or two with the shorter one first',
                         'write it like 36h, 2d or 1d-4d')
    return int(shortest), int(longest)


def _parse_fresh(value: str) -> float:
    seconds = parse_duration(value)
    if seconds is None or seconds < FRESH_MIN_SECONDS:
        raise UsageError(f'{value[:80]!a} is not a time from {FRESH_MIN_SECONDS // 3600}h on',
                         'give the age that a stamp may have, as in 36h or 7d')
    return seconds


def _parse_yes_or_no(value: str) -> bool:
    found = {'1': True, 'y': True, 'yes': True, 't': True, 'true': True, 'on': True, '0': False,
             'n': False, 'no': False, 'f': False, 'false': False, 'off': False  # systemd's words
             }.get(value.lower())
    if found is None:
        raise UsageError(f'{value[:80]!a} is neither yes nor no', 'write yes or no')
    return found


REQUIRED_KEYS = {       # each with an example
    'Origin': 'https://images.example.com/app',
    'PublicKey': 'REPLACE/THIS/EXAMPLE/BY/THE/PUBLISHERS/KEYE=',
    'Destination': '/var/lib/images/app',
    'Version': '1.*',
}
REPEATABLE_KEYS = ('Origin', 'PublicKey', 'Restart', 'StampKey')
CREDENTIAL_KEYS = ('Token', 'Authority', 'ClientCertificate', 'ClientKey')
CONFIG_KEYS: 'Dict[str, Callable[[str], Any]]' = {      # each with the function that parses a value
    'Origin': parse_origin,
    'PublicKey': parse_public_key,
    'Destination': _parse_destination,
    'Version': parse_pattern,
    'Restart': _parse_units,
    'Confirm': _parse_confirm,
    'Keep': parse_keep,
    'Manager': _parse_manager,
    'Delay': _parse_delay,
    'Token': _parse_token,
    'Authority': _parse_file,
    'ClientCertificate': _parse_file,
    'ClientKey': _parse_file,
    'StampKey': parse_public_key,
    'Fresh': _parse_fresh,
    'Metered': _parse_yes_or_no,
}


# ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~ the waterline


# ======================================================================== 11 files

class naming:
    """Context manager: add `path` to any OSError that names no file."""

    def __init__(self, path: 'Union[str, bytes]') -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self._path


class where_supported:
    """Context manager: ignore an OSError if the file system does not support the operation."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> bool:
        return isinstance(error, OSError) and error.errno in UNSUPPORTED


class NewFile:
    """A file that is written at the path `temporary`, then renamed to its final path, or removed.

    `size`, in bytes, and `sha256`, a hash object, describe its content.
    """

    _stream: 'BinaryIO'

    def __init__(self, temporary: str) -> None:
        self.temporary = temporary
        self.size, self.sha256 = 0, hashlib.sha256()

    def __enter__(self) -> 'NewFile':
        descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                             0o600)
        with naming(self.temporary):
            self._stream = open(descriptor, 'wb')
        return self

    def write(self, block: bytes) -> None:
        """Append bytes."""
        self._stream.write(block)
        self.size += len(block)
        self.sha256.update(block)

    def set_time(self, seconds: float) -> bool:
        """Set the modification time, in seconds since 1970. A later write() would change it.

        Return False if the file system keeps another time.
        """
        self._stream.flush()
        with where_supported():
            os.utime(self._stream.fileno(), (seconds, seconds))
        return is_about(os.fstat(self._stream.fileno()).st_mtime, seconds)

    def read_back(self) -> 'BinaryIO':
        """Return a new stream that reads what was written."""
        self._stream.flush()
        return open(self.temporary, 'rb')

    def publish(self, path: str) -> None:
        """Make the file read-only and durable, then rename it to `path`, durably."""
        self._stream.flush()
        with where_supported():
            os.fchmod(self._stream.fileno(), 0o444)
        try:
            os.fsync(self._stream.fileno())
        except OSError:
            # after a failed fsync, the kernel may drop the dirty pages and report success next time
            remove_if_there(self.temporary)
            raise
        os.rename(self.temporary, path)
        sync_directory(os.path.dirname(path))

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        try:
            self._close(error)
        finally:
            remove_if_there(self.temporary)

    def _close(self, error: 'Optional[BaseException]') -> None:
        """Close the stream. If an OSError ended the writing, add the path to it."""
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self.temporary
        try:
            with naming(self.temporary):
                self._stream.close()
        except OSError:
            if error is None:                   # on a full disk, closing fails as `error` did
                raise


def unnamed_file(temporary: str) -> 'BinaryIO':
    """Return a new open file without a name, to write and read. It had that name for a moment."""
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(temporary)
    with naming(temporary):
        return open(descriptor, 'w+b')


def replace_file(path: str, content: bytes, temporary: str) -> None:
    """Write a file durably: under the name `temporary`, which is then renamed to `path`."""
    with NewFile(temporary) as new:
        new.write(content)
        new.publish(path)


class PartialFile(NewFile):
    """A file that grows over several runs: its content stays until it is published or cleared.

    Offsets and sizes are in bytes.
    """

    def __enter__(self) -> 'PartialFile':
        self._open()
        try:
            self.hash_again()
            self._stream.seek(self.size)
        except OSError as error:                # the disk fails here: a new file uses other blocks
            self._close(error)
            remove_if_there(self.temporary)
            self._open()
            self.clear()
        return self

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.temporary, flags, 0o600)
        except PermissionError:                 # a run was killed in publish(): it is read-only
            try:
                os.chmod(self.temporary, 0o600)
            except OSError:                     # another user owns it, or chmod is not supported
                remove_if_there(self.temporary)
            descriptor = os.open(self.temporary, flags, 0o600)
        with naming(self.temporary):
            self._stream = open(descriptor, 'r+b')

    def hash_again(self) -> None:
        """Set `size` and `sha256` from the content, which is read."""
        self.size, self.sha256 = 0, hashlib.sha256()
        for block in iter(lambda: self.read_at(self.size, BLOCK_BYTES), b''):
            self.size += len(block)
            self.sha256.update(block)

    def extend(self, size: int) -> None:
        """Set the size; new bytes are zeros. `sha256` is wrong until hash_again() is called."""
        self._stream.flush()
        self._stream.truncate(size)
        self.size = size

    def read_at(self, begin: int, size: int) -> bytes:
        """Return up to `size` bytes from the offset `begin`, with what write() has buffered."""
        self._stream.flush()
        return os.pread(self._stream.fileno(), size, begin)

    def write_at(self, begin: int, data: bytes) -> None:
        """Write bytes at the offset `begin`, below the size that extend() set."""
        while data:
            written = os.pwrite(self._stream.fileno(), data, begin)
            begin, data = begin + written, data[written:]

    def copy(self, descriptor: int, source: int, begin: int, size: int) -> None:
        """Copy `size` bytes from the offset `source` of an open file to the offset `begin`.

        The kernel copies where it can: some file systems then share the blocks. Otherwise this
        reads and writes. Raises EOFError if the other file ends before, or cannot be read.
        """
        can_kernel_copy = hasattr(os, 'copy_file_range')    # novm: guarded
        while size:
            copied = 0
            if can_kernel_copy:
                try:
                    copied = os.copy_file_range(            # novm: guarded
                        descriptor, self._stream.fileno(), size, source, begin)
                except OSError as error:
                    if error.errno in NO_SPACE:
                        raise
                can_kernel_copy = copied > 0    # 0: not between these file systems, or at the end
            if not copied:
                block = read_older(descriptor, source, min(size, BLOCK_BYTES))
                if not block:
                    raise EOFError('the older image has changed')
                self.write_at(begin, block)
                copied = len(block)
            source, begin, size = source + copied, begin + copied, size - copied

    def descriptor(self) -> int:
        """Return the file descriptor, to copy() from this file to itself."""
        return self._stream.fileno()

    def allocated(self) -> int:
        """Return how many bytes the file occupies on the disk. A hole occupies none."""
        status = os.fstat(self._stream.fileno())
        return status.st_blocks * 512 or status.st_size     # some file systems count no blocks

    def cut_back(self, size: int, sha256: 'hashlib._Hash') -> None:
        """Truncate the file to its first `size` bytes.

        sha256: a hash object of these bytes, which belongs to this file from now on.
        """
        self._stream.seek(size)
        self._stream.truncate()
        self.size, self.sha256 = size, sha256

    def clear(self) -> None:
        """Remove the content."""
        self.cut_back(0, hashlib.sha256())

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        self._close(error)
        is_full = isinstance(error, OSError) and error.errno in NO_SPACE
        if is_full or self.size == 0:           # on a full disk, free the space
            remove_if_there(self.temporary)


def read_older(descriptor: int, begin: int, size: int) -> bytes:
    """Return up to `size` bytes of an older image, from the offset `begin`.

    Raises EOFError if they cannot be read. It is no OSError, which would end the download: without
    the older image, the download goes on.
    """
    try:
        return os.pread(descriptor, size, begin)
    except OSError as error:
        raise EOFError(f'the older image cannot be read: {error.strerror}') from None


def create_files(files: 'Sequence[Tuple[str, bytes, int]]') -> None:
    """Create files, given as (path, content, mode), durably: all of them, or none.

    The umask applies to the mode. Raises FileExistsError if one of the paths exists.
    """
    created: List[str] = []
    try:
        for path, content, mode in files:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            created.append(path)
            with naming(path), open(descriptor, 'wb') as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for directory in {os.path.dirname(path) or '.' for path in created}:
            sync_directory(directory)
    except BaseException:
        for path in created:
            remove_if_there(path)
        raise


def remove_if_there(path: str) -> None:
    """Remove a file, a link or an empty directory, if it exists."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        os.rmdir(path)


def rewrite(path: str, content: bytes, seconds: float) -> None:
    """Overwrite a small file in place, durably. Set its modification time, in seconds since 1970.

    This needs no space on a full disk. After a power cut, the file may be a mix of both contents.
    """
    with naming(path):
        with where_supported():
            os.chmod(path, 0o600)
        try:
            with open(path, 'r+b') as stream:
                stream.write(content)
                stream.truncate()
                stream.flush()
                with where_supported():
                    os.utime(stream.fileno(), (seconds, seconds))
                os.fsync(stream.fileno())
        finally:
            with where_supported():
                os.chmod(path, 0o444)


def write_in_place(path: str, content: bytes) -> None:
    """Overwrite a small file with one write(), without fsync. Create it if it is missing.

    A power cut may damage it. Raises OSError; also for a link, and for a file that has several
    names, since it may belong to somebody else or to a backup.
    """
    descriptor = _open_regular(
        path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with naming(path), open(descriptor, 'wb', buffering=0) as stream:
        status = os.fstat(descriptor)
        if status.st_nlink > 1:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        if not status.st_size:
            with where_supported():
                os.fchmod(descriptor, 0o644)        # whatever the umask
        stream.write(content)
        if len(content) < status.st_size:
            stream.truncate()


CLOCK_SLACK_SECONDS = 60        # two clocks, or a clock that is set, may differ by this much


def is_about(one: float, other: float) -> bool:
    """Return whether two times, in seconds, differ by at most CLOCK_SLACK_SECONDS."""
    return abs(one - other) <= CLOCK_SLACK_SECONDS


def touch(path: str) -> bool:
    """Set the modification time to now, without fsync. Return False if that is not possible."""
    with where_supported():
        try:
            with naming(path):
                os.utime(path)
            return True
        except PermissionError:
            pass
    return False


def sync_directory(path: str) -> None:
    """Make the names in a directory durable: run fsync on it."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:     # some network file systems cannot do it
                raise
        finally:
            os.close(descriptor)


class NotFileError(OSError):
    """A directory, a pipe or a device is where a regular file is expected."""


def open_file(path: 'Union[str, bytes]') -> 'BinaryIO':
    """Open a regular file to read it, without a buffer, and return the stream.

    Raises NotFileError for anything else, and any other OSError of open().
    """
    return open(path, 'rb', buffering=0, opener=_open_regular)


def _open_regular(path: 'Union[str, bytes]', flags: int, mode: int = 0o777) -> int:
    import stat
    # without O_NONBLOCK, a named pipe would wait for its writer
    descriptor = os.open(path, flags | os.O_NONBLOCK, mode)
    try:
        with naming(path):
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFileError(errno.EINVAL, 'not a regular file', path)
            os.set_blocking(descriptor, True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_at_most(limit: int, path: str) -> bytes:
    """Return the content of a file; the first `limit` + 1 bytes if it is longer than `limit`."""
    content = bytearray()
    with naming(path), open_file(path) as stream:
        while len(content) <= limit:                # read() of all would reserve `limit` bytes
            block = stream.read(min(BLOCK_BYTES, limit + 1 - len(content)))
            if not block:
                break
            content += block
    return bytes(content)


def read_blocks(stream: 'BinaryIO') -> 'Iterator[bytes]':
    """Yield the content of an open file in blocks of up to BLOCK_BYTES, and close it."""
    with naming(stream.name), stream:
        yield from iter(lambda: stream.read(BLOCK_BYTES), b'')


def is_readable(stream: 'Any', wait: float) -> bool:
    """Return whether a stream has bytes to read, or ends, within `wait` seconds."""
    import select
    poll = select.poll()                        # unlike select(), it accepts descriptors above 1023
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(wait * 1000))


def at_most(limit: int, blocks: 'Iterable[bytes]', where: str) -> 'Iterator[bytes]':
    """Yield the blocks until they exceed `limit` bytes in all. Then raises RefusedError.

    `where` is the path or URL from which they come, for the message.
    """
    left = limit
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise RefusedError(f'{where}: longer than {limit} bytes',
                               'tell the publisher: the server does not send what was published')
        yield block


def join_at_most(limit: int, blocks: 'Iterable[bytes]', where: str) -> bytes:
    """Return the joined blocks. Raises RefusedError as at_most()."""
    content = bytearray()                       # a list of 1-byte blocks would need more memory
    for block in at_most(limit, blocks, where):
        content += block
    return bytes(content)


def hash_blocks(blocks: 'Iterable[bytes]') -> 'Tuple[int, str]':
    """Return the size of all blocks in bytes, and their SHA-256 in hex."""
    size, sha256 = 0, hashlib.sha256()
    for block in blocks:
        size += len(block)
        sha256.update(block)
    return size, sha256.hexdigest()


def counted(blocks: 'Iterable[bytes]', progress: 'Callable[[int], object]') -> 'Iterator[bytes]':
    """Yield the same blocks. After each, call `progress` with how many bytes there were so far."""
    size = 0
    for block in blocks:
        yield block
        size += len(block)
        progress(size)


def no_progress(size: int) -> None:
    """Do nothing: for callers whose files are small, or who have nobody to tell."""


def hash_file(path: str, progress: 'Callable[[int], object]') -> str:
    """Return the SHA-256 of a file, in hex. For `progress` see counted(). Raises OSError."""
    return hash_blocks(counted(read_blocks(open_file(path)), progress))[1]


class DirectoryLock:
    """Context manager: hold the exclusive lock of a directory.

    If another run holds the lock, call `on_wait` once, then try for `wait` seconds. Then raise
    LockedError. The lock is an flock on the file .lock, which exists only while a run holds the
    lock. Only its owner can open it, so no other user can hold it. The kernel releases the lock
    when the process ends, however it ends.
    """

    _descriptor: int

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
                                  'try again when that run has ended')
            time.sleep(LOCK_POLL_SECONDS)
        return self

    def _try(self) -> bool:
        """Try to take the lock.

        - It is free: return True.
        - Another run holds it, or is just removing the file: return False.
        - The file belongs to another user, or the file system has no locks: raise TakoError.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                                 0o600)
        except PermissionError:
            if not os.access(self._directory, os.W_OK):
                raise
            # only its owner can find out whether a run still holds it: do not remove it
            raise TakoError(
                f'{self._path}: belongs to another user, whose run is active or was killed',
                'if no run is active, remove it') from None
        is_taken = False
        try:
            with naming(self._path):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # a run removes the file as it ends, and a lock on a removed file is void
                is_taken = os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            if error.errno not in UNSUPPORTED + (errno.ENOLCK,):    # NFS: ENOLCK
                raise
            remove_if_there(self._path)
            raise TakoError(f'{self._path}: this file system has no locks: flock: '
                            f'{error.strerror}', FILE_SYSTEM_HINT) from None
        finally:
            if not is_taken:
                os.close(descriptor)
        self._descriptor = descriptor
        return is_taken

    def __exit__(self, *_: object) -> None:
        with naming(self._path):
            remove_if_there(self._path)
            os.close(self._descriptor)


# ======================================================================== 12 network

REQUESTED_BY = {206: 'Range', 416: 'Range', 304: 'If-None-Match'}   # statuses that need a header
# Content-Encodings that change the bytes; others are on the bytes as they are, which have a digest
COMPRESSIONS = r'(^|[ ,])(x-)?(gzip|compress|deflate|br|zstd|dcb|dcz|exi|pack200-gzip)($|[ ,;])'
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
PROXY_PASSWORD_HINT = 'add user and password to the proxy URL: http://user:password@host:port'
STATUS_LINE = rb'HTTP/1[.]([0-9]) ([1-9][0-9]{2})(?: .*)?'      # RFC 9112, 4
FIELD_LINE = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)"             # RFC 9112, 5
URL_PUNCTUATION = "!#$%&'()*+,/:;=?@[]~"        # characters of a Location header that stay unquoted


class Answer(namedtuple('Answer', ('url', 'status', 'headers', 'length', 'chunks'))):
    """The response to a request for a URL.

    `url` is for messages: the last one after redirects, without password and query. `length` is the
    size of the body, None if unknown. `chunks` reads the body; it may raise UnreachableError.
    """

    __slots__ = ()
    url: str
    status: int
    headers: 'Mapping[str, str]'
    length: 'Optional[int]'
    chunks: 'Iterator[bytes]'

    def has_end(self) -> bool:
        """Return whether a missing end of the body shows, other than as the connection's end."""
        coding = self.headers.get('transfer-encoding', '')
        return self.length is not None or coding.lower() == 'chunked'

    def etag(self) -> str:
        """Return the ETag (RFC 9110, 8.8.3), or an empty string if there is no valid one."""
        etag = self.headers.get('etag', '')
        return etag if re.fullmatch('(W/)?"[!#-~]{1,%d}"' % ETAG_MAX_CHARS, etag) else ''

    def strong_etag(self) -> str:
        """Return the ETag if it identifies exactly these bytes, otherwise an empty string."""
        return self.etag() if self.etag().startswith('"') else ''


class Deadline:
    """The time at which a run stops waiting for the network: the earliest of several limits."""

    def __init__(self) -> None:
        # monotonic time, message and hint: of the outermost limit, then of the earliest so far
        self._limits = [(float('inf'), '', '')]
        self.stall = NETWORK_TIMEOUT_SECONDS    # the longest wait for a packet, in seconds

    def start(self, seconds: float) -> None:
        """Set the outermost limit, that of --timeout, to so many seconds from now."""
        self._limits = [(time.monotonic() + seconds, 'the time limit of --timeout is over',
                         'run the command again: it resumes the download')]

    def limit(self, seconds: float, message: str, hint: str) -> 'Deadline':
        """Return a context manager that sets a further limit. Such limits nest.

        packet_timeout() raises UnreachableError with `message` and `hint` after it.
        """
        self._limits.append(min(self._limits[-1], (time.monotonic() + seconds, message, hint)))
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._limits.pop()

    def remaining(self) -> float:
        """Return the seconds until the earliest limit; 0 or less after it."""
        return self._limits[-1][0] - time.monotonic()

    def packet_timeout(self) -> float:
        """Return how many seconds to wait for the next packet. Raises UnreachableError after it."""
        seconds = self.remaining()
        if seconds <= 0:
            raise UnreachableError(*self._limits[-1][1:])
        return min(self.stall, seconds)


class RateWindow:
    """Finds out whether a download is too slow, over one window of time after the other.

    delivered: how many of its bytes came before.
    """

    def __init__(self, deadline: Deadline, delivered: int = 0) -> None:
        self._deadline = deadline
        self._began, self._before = time.monotonic(), delivered

    def fault(self, delivered: int) -> str:
        """Return what is wrong if a window is over and brought too little; otherwise ''.

        delivered: how many bytes came until now. If longer waits are allowed, a window is longer.
        """
        seconds = time.monotonic() - self._began
        slack = max(1.0, self._deadline.stall / NETWORK_TIMEOUT_SECONDS)
        if seconds < RATE_WINDOW_SECONDS * slack:
            return ''
        if delivered - self._before < RATE_MIN_BYTES:
            return f'delivered less than {RATE_MIN_BYTES} bytes in {seconds:.0f} seconds'
        self._began, self._before = time.monotonic(), delivered
        return ''


class Backoff:
    """The pauses before failed requests are repeated. Each host has a budget for them in a run."""

    def __init__(self) -> None:
        # by scheme and host: seconds of the next pause, and seconds left for all further ones
        self._hosts: Dict[Tuple[str, str], Tuple[float, float]] = {}

    def pause(self, failed: 'Mapping[str, TakoError]', remaining: float,
              step: 'Callable[[str], object]') -> 'List[str]':
        """Wait, and return which of the URLs that failed to request again.

        remaining: how many seconds the run has left. step: prints why it waits. Pauses are random
        within bounds, so that the machines of a fleet do not all return at once. The error decides:

            CutShortError                   the shortest pause, which is not charged to the budget
            other TransientError            twice the pause before, or what the server asks for
            any other, budget spent, or
            not enough budget or time left  no pause: the URL is not requested again
        """
        import random
        waits = {}
        for url, error in failed.items():
            if not isinstance(error, TransientError):
                continue
            host = endpoint(url)
            following, left = self._hosts.get(host, (PAUSE_FIRST_SECONDS, PAUSE_BUDGET_SECONDS))
            if isinstance(error, CutShortError):
                following = PAUSE_FIRST_SECONDS
                seconds = following * random.uniform(0.5, 1.0)
            else:
                seconds = max(min(following * random.uniform(0.5, 1.0), left), error.retry_after)
                left -= seconds
            if 0 < seconds <= remaining and left >= 0:
                self._hosts[host] = min(2 * following, PAUSE_MAX_SECONDS), left
                waits[url] = seconds
        if waits:
            url, seconds = max(waits.items(), key=lambda wait: wait[1])
            step(f'trying again in {seconds:.1f} seconds: {failed[url].what}')
            time.sleep(seconds)
        return list(waits)


class ProtocolError(OSError):
    """A response violates RFC 9112."""


class TunnelError(OSError):
    """A proxy refused CONNECT."""

    def __init__(self, status: int) -> None:
        super().__init__(f'the proxy refused CONNECT (HTTP status {status})')
        self.status = status


class HttpConnection:
    """One connection to a host, opened when needed, for requests without a body (RFC 9112).

    `connect` returns a connected socket, with TLS or without. Methods raise OSError if the
    connection fails, is too slow, or has too much framing, and ProtocolError if the response is not
    HTTP.

    http.client is not used because it takes 103 for the response, ends the headers at a malformed
    one, refuses a repeated Content-Length, the 101st header and a line of 64 KiB, and takes longer
    to import than the rest of a fetch without an update.
    """

    def __init__(self, connect: 'Callable[[], socket.socket]', deadline: Deadline) -> None:
        self._connect = connect
        self._deadline = deadline
        self._stream: Optional[socket.socket] = None
        self._buffer, self._position = b'', 0   # received bytes, and how many of them were read
        self._received = self._delivered = 0    # bytes of this response, and of its body
        self._rate = RateWindow(deadline)
        self._is_read = False                   # whether the last response was read to its end
        self._is_lasting = False                # whether the server keeps the connection open

    def reuse(self) -> bool:
        """Return True if the connection can carry another request; otherwise close it.

        It can if the last response was read, and nothing came since: bytes that come unasked must
        not be taken for the next response.
        """
        stream = self._stream
        if (stream is not None and self._is_read and self._is_lasting
                and self._position == len(self._buffer)
                and not is_readable(stream, 0) and not getattr(stream, 'pending', int)()):
            return True
        self.close()
        return False

    def close(self) -> None:
        """Close the connection. send() opens another one."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._buffer, self._position = None, b'', 0

    def send(self, target: str, headers: 'Mapping[str, str]', method: str = 'GET') -> None:
        """Open a connection if there is none, and send a request."""
        if self._stream is None:
            self._stream = self._connect()
        self._is_read = False
        lines = [f'{method} {target} HTTP/1.1']
        lines += [f'{name}: {value}' for name, value in headers.items()]
        self._stream.settimeout(self._deadline.packet_timeout())
        self._stream.sendall('\r\n'.join(lines + ['', '']).encode('latin-1'))

    def read_head(self) -> 'Tuple[int, Dict[str, str]]':
        """Return the status and the headers of the response, by their names in lower case.

        Passes over interim responses (RFC 9110, 15.2), and lines that are not headers, as curl
        does.
        """
        self._received = self._delivered = 0
        self._rate = RateWindow(self._deadline)
        is_http_1_0, status = False, 100
        while status < 200:
            match = re.fullmatch(STATUS_LINE, self._read_line())
            if match is None:
                raise ProtocolError('invalid HTTP response')
            is_http_1_0, status = match.group(1) == b'0', int(match.group(2))
            fields: Dict[str, List[str]] = {}
            for line in iter(self._read_line, b''):
                field = re.fullmatch(FIELD_LINE, line)
                if field is not None:
                    name, value = (part.decode('latin-1') for part in field.groups())
                    fields.setdefault(name.lower(), []).append(value.strip(' \t'))
        # Some servers send the same header twice. A Location, for example, must not become a list.
        headers = {name: ', '.join(dict.fromkeys(values)) for name, values in fields.items()}
        options = re.split('[ ,]+', headers.get('connection', '').lower())
        self._is_lasting = 'keep-alive' in options if is_http_1_0 else 'close' not in options
        return status, headers

    def body(self, status: int, headers: 'Mapping[str, str]'
             ) -> 'Tuple[Optional[int], Iterator[bytes]]':
        """Return the body's length, if it is known, and the body in pieces (RFC 9112, 6.3)."""
        coding = headers.get('transfer-encoding', 'identity').lower()
        if status in (204, 304):                # whatever the headers announce
            self._is_read = True
            return 0, iter(())
        if coding == 'chunked':
            return None, self._read_chunks()
        if coding != 'identity':
            raise ProtocolError(f'the server applied Transfer-Encoding {coding} unasked')
        lengths = {each.strip(' \t') for each in headers.get('content-length', '').split(',')}
        if lengths == {'0'}:                    # callers need not read an empty body
            self._is_read = True
        if lengths == {''}:
            return None, self._read_to_end()
        length = lengths.pop()
        if lengths or not re.fullmatch('[0-9]{1,19}', length):
            raise ProtocolError('invalid Content-Length')
        return int(length), self._read_length(int(length))

    def _read_length(self, left: int) -> 'Iterator[bytes]':
        yield from self._read_exactly(left)
        self._is_read = True

    def _read_exactly(self, left: int) -> 'Iterator[bytes]':
        while left:
            piece = self._read(left)
            if not piece:
                raise ConnectionError(f'the connection ended {amount(left, "byte")} early')
            left -= len(piece)
            yield piece

    def _read_to_end(self) -> 'Iterator[bytes]':
        self._is_lasting = False
        yield from iter(lambda: self._read(BLOCK_BYTES), b'')

    def _read_chunks(self) -> 'Iterator[bytes]':
        """Yield the body from its chunks (RFC 9112, 7.1). Passes over extensions and trailers."""
        size = -1
        while size:
            match = re.match(b'([0-9A-Fa-f]{1,16})[ \t]*(?:;|$)', self._read_line())
            if match is None:
                raise ProtocolError('invalid size of a chunk')
            size = int(match.group(1), 16)
            yield from self._read_exactly(size)
            if size and self._read_line():
                raise ProtocolError('invalid end of a chunk')
        for _ in iter(self._read_line, b''):
            pass
        self._is_read = True

    def _read(self, size: int) -> bytes:
        """Return up to `size` bytes of the body; none at the end of the connection."""
        if self._position == len(self._buffer):
            piece = self._receive(min(size, BLOCK_BYTES))
        else:
            piece = self._buffer[self._position:self._position + size]
            self._position += len(piece)
        self._delivered += len(piece)
        return piece

    def _read_line(self) -> bytes:
        """Return a line without its end, which may be a line feed alone (RFC 9112, 2.2)."""
        while True:
            end = self._buffer.find(b'\n', self._position)
            if end >= 0:
                line, self._position = self._buffer[self._position:end], end + 1
                return line[:-1] if line.endswith(b'\r') else line
            piece = self._receive(SMALL_BLOCK_BYTES)
            if not piece:
                raise ConnectionError('the connection ended within the headers')
            if len(self._buffer) - self._position > FRAMING_MAX_BYTES:
                raise ProtocolError('a line of framing is too long')
            self._buffer, self._position = self._buffer[self._position:] + piece, 0

    def _receive(self, size: int) -> bytes:
        if self._stream is None:
            raise ConnectionError('the connection is closed')
        self._stream.settimeout(self._deadline.packet_timeout())
        piece = self._stream.recv(size)
        self._received += len(piece)
        if self._received > FRAMING_MAX_BYTES + FRAMING_MAX_FACTOR * self._delivered + size:
            raise ProtocolError('too many bytes of headers or framing')
        fault = self._rate.fault(self._delivered)
        if fault:
            raise OSError(fault)
        return piece


def resolve(host: str, port: int, seconds: float) -> 'List[Any]':
    """Return the addresses of a host as socket.getaddrinfo() does, its families in turn.

    Raises OSError, after so many seconds at the latest. RFC 8305, 4, has the order.
    """
    import _thread                              # threading takes longer to import
    import socket
    results: List[Any] = []
    done = _thread.allocate_lock()

    def ask() -> None:
        try:                                    # bytes: to encode a str imports encodings.idna
            results.append(socket.getaddrinfo(host.encode('ascii'), port, type=socket.SOCK_STREAM))
        except OSError as error:
            results.append(error)
        finally:
            done.release()
    done.acquire()
    try:
        _thread.start_new_thread(ask, ())
    except RuntimeError:                        # as with a low `ulimit -u`: wait without a limit
        ask()
    if not done.acquire(timeout=seconds):
        raise socket.timeout('the name servers do not respond')
    found = results[0]
    if isinstance(found, OSError):
        raise found
    families = [[each for each in found if (each[0] == found[0][0]) == is_first]
                for is_first in (True, False)]
    return [each for pair in itertools.zip_longest(*families) for each in pair if each is not None]


def connect(addresses: 'Iterable[Any]', seconds: float) -> 'Tuple[socket.socket, Any]':
    """Return a socket connected to one of these addresses, and that address.

    Each is tried CONNECT_DELAY_SECONDS after the one before it, or as soon as that one failed.
    The first to respond wins (RFC 8305, 5). Raises OSError if all failed, or after so many seconds.
    """
    import select
    import socket
    poll = select.poll()
    pending: Dict[int, Tuple[socket.socket, Any]] = {}
    left, deadline = list(addresses), time.monotonic() + seconds
    error: OSError = socket.timeout('timed out')
    try:
        while left or pending:
            if left:
                address = left.pop(0)
                try:
                    stream = _start_connecting(address)
                except OSError as caught:
                    error = caught
                    continue
                pending[stream.fileno()] = stream, address
                poll.register(stream, select.POLLOUT)
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise socket.timeout('timed out')
            if left:
                wait = min(wait, CONNECT_DELAY_SECONDS)
            for descriptor, _ in poll.poll(1000 * wait):
                poll.unregister(descriptor)
                stream, address = pending.pop(descriptor)
                code = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return stream, address
                stream.close()
                error = OSError(code, os.strerror(code))
        raise error
    finally:
        for stream, _ in pending.values():
            stream.close()


def _start_connecting(address: 'Any') -> 'socket.socket':
    """Return a socket that is connecting, without waiting for it.

    Raises OSError if that fails at once, as with IPv6 where it is disabled.
    """
    import socket
    stream = socket.socket(*address[:3])
    stream.setblocking(False)
    code = stream.connect_ex(address[4])
    if code not in (0, errno.EINPROGRESS):
        stream.close()
        raise OSError(code, os.strerror(code))
    return stream


class ConnectionPool:
    """The connections of one run, direct or through a proxy, which are kept between requests.

    Each host has connection 0 for requests that wait for their response, and further ones for
    requests that are sent ahead.
    """

    def __init__(self, environ: 'Mapping[str, str]', deadline: Deadline,
                 credentials: Credentials) -> None:
        self._deadline = deadline
        self._credentials = credentials
        self._connections: Dict[Tuple[str, str, int], HttpConnection] = {}
        self._addresses: Dict[Tuple[str, int], List[Any]] = {}  # the one that responded comes first
        # lower case wins; as in urllib, HTTP_PROXY may be a header of a request for a CGI script
        self._proxies = {name[:-6].lower(): environ[name] for name in sorted(environ)
                         if name.lower().endswith('_proxy')
                         and not (name == 'HTTP_PROXY' and 'REQUEST_METHOD' in environ)}
        self._tls: Dict[bool, ssl.SSLContext] = {}      # for the host of the credentials: True
        self._has_bundle = False        # whether all CAs of the system are trusted, or Authority=

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()

    def connection(self, url: str, number: int = 0) -> HttpConnection:
        """Return a connection for the host of `url`."""
        key = endpoint(url) + (number,)
        if key not in self._connections:
            self._connections[key] = HttpConnection(
                functools.partial(self._connect, *endpoint(url)), self._deadline)
        return self._connections[key]

    def send(self, connection: HttpConnection, url: str, asked: 'Mapping[str, str]') -> None:
        """Send a request for `url`, with the headers `asked`, unless empty, besides our own."""
        headers = {'Host': endpoint(url)[1], 'User-Agent': 'tako/' + __version__,
                   'Accept-Encoding': 'identity'}
        headers.update((name, value) for name, value in asked.items() if value)
        if self._credentials.token and endpoint(url) == self._credentials.endpoint:
            headers['Authorization'] = 'Bearer ' + self._credentials.token
        target = '/' + url.partition('://')[2].partition('/')[2]
        proxy, proxy_headers = self.proxy(url)
        if proxy and url.startswith('http:'):
            target = url
            headers.update(proxy_headers)
        connection.send(target, headers)

    def exchange(self, url: str, asked: 'Mapping[str, str]') -> Answer:
        """Send a request, and return the response once its headers are here.

        If the connection fails:

            one that was kept               use a new one: the server may have closed the other
            a new one, for an unknown CA    trust all CAs of the system, and try again once
            a new one, for another reason   raise the OSError
        """
        connection = self.connection(url)
        while True:
            is_kept = connection.reuse()
            try:
                self.send(connection, url, asked)
                return _answer(url, connection)
            except Exception as error:
                connection.close()
                if not isinstance(error, OSError) or not (is_kept or self._trust_bundle(error)):
                    raise

    def _trust_bundle(self, error: Exception) -> bool:
        """Trust all CAs of the system if `error` is an unknown CA. Return whether that is new."""
        if not self._tls or self._has_bundle or 'CERTIFICATE_VERIFY_FAILED' not in str(error):
            return False
        for context in self._tls.values():
            context.load_default_certs()
        self._has_bundle = True
        return True

    def _connect(self, scheme: str, host: str) -> 'socket.socket':
        """Return a socket connected to a host, through its proxy and with TLS if that is needed."""
        proxy, proxy_headers = self.proxy(f'{scheme}://{host}')
        name, port = _name_and_port(scheme, host)
        stream = self._connect_tcp(*_name_and_port('http', proxy) if proxy else (name, port))
        try:
            if scheme == 'https':
                if proxy:
                    self._open_tunnel(stream, host, port, proxy_headers)
                stream.settimeout(self._deadline.packet_timeout())
                context = self.tls_context((scheme, host) == self._credentials.endpoint)
                stream = context.wrap_socket(stream, server_hostname=name.rstrip('.'))
            return stream
        except BaseException:
            stream.close()
            raise

    def _connect_tcp(self, name: str, port: int) -> 'socket.socket':
        """Return a socket connected to the address that responded last, or to another one."""
        # if none of them responds, the next attempt looks the name up again
        addresses = self._addresses.pop((name, port), None)
        if addresses is None:
            addresses = resolve(name, port, self._deadline.packet_timeout())
        stream, address = connect(addresses, self._deadline.packet_timeout())
        self._addresses[name, port] = sorted(addresses, key=lambda each: each is not address)
        return stream

    def _open_tunnel(self, stream: 'socket.socket', host: str, port: int,
                     headers: 'Dict[str, str]') -> None:
        """Request a tunnel from a proxy (RFC 9110, 9.3.6). Raises TunnelError if it refuses."""
        target = host if re.search(':[0-9]+$', host) else f'{host}:{port}'
        tunnel = HttpConnection(lambda: stream, self._deadline)
        tunnel.send(target, dict({'Host': target}, **headers), 'CONNECT')
        status, _ = tunnel.read_head()
        if not 200 <= status < 300:
            raise TunnelError(status)

    def tls_context(self, is_home: bool) -> 'ssl.SSLContext':
        """Return the context for a host. is_home: it is the one that gets the client certificate.

        Raises ConfigError if a file of the credentials is invalid.
        """
        if is_home not in self._tls:
            _, _, authority, certificate, key = self._credentials
            directory = None if authority or self._has_bundle else _authorities_by_hash()
            self._has_bundle = directory is None
            context = _load(f'Authority= {authority or "of the system"}',
                            lambda: _tls_context(directory, authority))
            if is_home and certificate:         # never ask for the password of the key
                _load(f'ClientCertificate= {certificate}' + (key and f', ClientKey= {key}'),
                      lambda: context.load_cert_chain(certificate, key or None, lambda: b''))
            self._tls[is_home] = context
        return self._tls[is_home]

    def proxy(self, url: str) -> 'Tuple[str, Dict[str, str]]':
        """Return host:port of the proxy for `url` and its headers; both are empty without a proxy.

        The environment names it, as for curl. Raises UsageError if that is not the URL of an http
        proxy.
        """
        scheme, host = endpoint(url)
        if scheme == 'http' and (scheme, host) == self._credentials.endpoint:
            return '', {}                       # the proxy would see the token
        name = scheme if self._proxies.get(scheme) else 'all'
        proxy, no_proxy = self._proxies.get(name, ''), self._proxies.get('no', '')
        if not proxy or any(bypasses_proxy(each, no_proxy)
                            for each in (_name_and_port(scheme, host)[0], host)):
            return '', {}
        kind, _, rest = proxy.rpartition('://')
        userinfo, _, address = rest.partition('/')[0].rpartition('@')
        match = re.fullmatch(HOST_REGEX, address)
        if kind not in ('', 'http') or match is None or not 0 < int(match.group(2) or 80) < 65536:
            # the message does not show it, because it may hold a password
            raise UsageError(f'{name}_proxy: not the URL of an http proxy',
                             'set it to http://host:port, or add this host to no_proxy')
        authorization = basic_authorization(userinfo)
        return ('{}:{}'.format(match.group(1), match.group(2) or 80),
                {'Proxy-Authorization': authorization} if authorization else {})


def bypasses_proxy(name: str, no_proxy: str) -> bool:
    """Return whether no_proxy lists a host, as in curl: by *, domain, address or network.

    `name` may be host:port, which urllib accepts in no_proxy, too.
    """
    rules = [rule.strip('[]').strip('.') for rule in re.split('[ ,]+', no_proxy.lower())]
    name = name.rstrip('.').lower()
    if '*' in rules or any(rule and (name == rule or name.endswith('.' + rule)) for rule in rules):
        return True
    if not any('/' in rule or ':' in rule for rule in rules):
        return False
    import ipaddress
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    for rule in rules:
        try:
            if address in ipaddress.ip_network(rule, strict=False):
                return True
        except ValueError:                      # a domain
            pass
    return False


def _name_and_port(scheme: str, host: str) -> 'Tuple[str, int]':
    """Return the name or address, without brackets, and the port of a URL's host:port."""
    name, *port = re.split(':(?=[0-9]+$)', host)
    return name.strip('[]'), int(port[0] if port else 443 if scheme == 'https' else 80)


class HttpClient:
    """Requests the URLs of one run: http and https on connections that it keeps, file from disk.

    `deadline` limits all waiting for the network. `backoff` waits before requests are repeated.
    `rangeless_hosts` are those that fail over a Range, as endpoint() spells them. `token` is for a
    private origin; it may be empty.
    """

    def __init__(self, environ: 'Mapping[str, str]', credentials: Credentials = NO_CREDENTIALS,
                 parent: 'Optional[HttpClient]' = None) -> None:
        self.rangeless_hosts: Set[Tuple[str, str]] = set()
        self.deadline: Deadline = Deadline() if parent is None else parent.deadline
        self.backoff: Backoff = Backoff() if parent is None else parent.backoff
        self.token = credentials.token
        self._environ = environ
        self._private: Dict[Credentials, HttpClient] = {}
        self._pool = ConnectionPool(environ, self.deadline, credentials)
        self._single: Set[Tuple[str, str]] = set()      # hosts to which nothing is sent ahead

    def __enter__(self) -> 'HttpClient':
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._private.values():
            client.__exit__()
        self._pool.close()

    def private(self, credentials: Credentials) -> 'HttpClient':
        """Return a client with these credentials, and with connections and TLS of its own.

        It shares the deadline and the backoff. Raises ConfigError if a file cannot be loaded.
        """
        if credentials == NO_CREDENTIALS:
            return self
        if credentials not in self._private:
            loaded = load_credentials(credentials, self._environ)
            client = self._private[credentials] = HttpClient(self._environ, loaded, self)
            if loaded.authority or loaded.certificate:
                client._pool.tls_context(loaded.endpoint != ('', ''))
        return self._private[credentials]

    def open(self, url: str, authorization: str = '',
             headers: 'Optional[Dict[str, str]]' = None) -> Answer:
        """Request `url`, and return the response once its headers are here.

        `authorization` is sent to the host of `url` only, not along redirects to others. Headers
        with an empty value are not sent. The status decides:

            200                             return the response
            206 or 416, if Range was sent   return the response
            304, if If-None-Match was sent  return the response
            301, 302, 303, 307, 308         follow the redirect, REDIRECTS_MAX times at most
            410                             raise GoneError
            404                             raise AbsentError
            408, 429, 5xx                   raise TransientError
            any other                       raise UnreachableError

        If the connection fails, this raises TransientError, too.
        """
        if url.startswith('file:'):
            return _open_file(url)
        _require_tls(url)
        asked, home = headers or {}, endpoint(url)
        for _ in range(REDIRECTS_MAX + 1):
            is_home = endpoint(url) == home
            answer = self._get(url, dict(asked, Authorization=authorization) if is_home else asked)
            if answer.status == 200 or asked.get(REQUESTED_BY.get(answer.status, '')):
                return answer
            self._discard(answer)
            if answer.status not in REDIRECT_STATUSES:
                raise _status_error(answer)
            url = _redirect(url, answer.headers.get('location', ''))
        raise UnreachableError(f'{_shown(url)}: more than {REDIRECTS_MAX} redirects',
                               'tell the administrator of the server')

    def _get(self, url: str, headers: 'Dict[str, str]') -> Answer:
        """Send one request, and return the response, whatever its status."""
        try:
            answer = self._pool.exchange(url, headers)
            encoding = answer.headers.get('content-encoding', '')
            if answer.status == 200 and re.search(COMPRESSIONS, encoding.lower()):
                raise UnreachableError(
                    f'{_shown(url)}: the server applied Content-Encoding {encoding} unasked',
                    'disable compression for this directory on the server')
        except (OSError, ValueError) as error:
            raise _network_error(_shown(url), self._pool.proxy(url)[0], error) from error
        return answer

    def _discard(self, answer: Answer) -> None:
        """Read a short page, which costs less than a new connection."""
        is_frequent = answer.status in REDIRECT_STATUSES + (404, 410)
        if is_frequent and answer.length in range(DISCARD_MAX_BYTES):
            try:
                for _ in answer.chunks:
                    pass
            except UnreachableError:            # the status is the error to report
                pass

    def open_each(self, url: str, authorization: str,
                  each: 'Sequence[Dict[str, str]]') -> 'Generator[Answer, None, None]':
        """Request `url` with each of these headers, and yield the responses in order.

        Read a response to its end before you take the next one. Up to CONNECTIONS requests are sent
        ahead, each on a connection of its own. The outcome of one that was sent ahead decides:

            status 200 or 206       yield its response, and send further ones ahead
            anything else           request it again as open() does, and send no further ones ahead
            none in AHEAD_SECONDS   the same for the rest of the run, for this host: it may serve
                                    one connection at a time
        """
        ahead: List[HttpConnection] = []
        unsent, may_send, host = enumerate(each), len(each) > 1, endpoint(url)
        first, unopened = self._pool.connection(url), self._pool.connection(url, CONNECTIONS)
        try:
            for headers in each:
                if may_send and host not in self._single:
                    for number, following in itertools.islice(unsent, CONNECTIONS - len(ahead)):
                        ahead.append(self._pool.connection(url, number % CONNECTIONS))
                        self._send_ahead(ahead[-1], url,
                                         dict(following, Authorization=authorization))
                answer = self._receive_ahead(ahead.pop(0), url) if ahead else None
                may_send = answer is not None
                if not may_send:            # open() takes the first connection, and its response
                    ahead = [unopened if sent is first else sent for sent in ahead]
                while ahead and host in self._single:
                    ahead.pop().close()
                yield answer or self.open(url, authorization, headers)
        finally:
            for connection in ahead:
                connection.close()

    def _send_ahead(self, connection: HttpConnection, url: str, asked: 'Dict[str, str]') -> None:
        began = time.monotonic()
        try:
            connection.reuse()
            with self.deadline.limit(AHEAD_SECONDS, '', ''):
                self._pool.send(connection, url, asked)
        except Exception:                       # _receive_ahead() finds it closed
            connection.close()
            self._note_if_late(began, url)

    def _receive_ahead(self, connection: HttpConnection, url: str) -> 'Optional[Answer]':
        """Return the response to a request that was sent ahead; None if it needs open()."""
        began, is_further = time.monotonic(), connection is not self._pool.connection(url)
        try:
            with self.deadline.limit(AHEAD_SECONDS if is_further else float('inf'), '', ''):
                answer = _answer(url, connection)
            if answer.status in (200, 206):
                return answer
        except Exception:                       # open() raises it if it persists
            if is_further:
                self._note_if_late(began, url)
        connection.close()
        return None

    def _note_if_late(self, began: float, url: str) -> None:
        """Send nothing ahead any more to a host that took AHEAD_SECONDS since `began`."""
        if time.monotonic() - began >= AHEAD_SECONDS:
            self._single.add(endpoint(url))


def _answer(url: str, connection: HttpConnection) -> Answer:
    """Return the response to the request that was sent, once its headers are here."""
    status, headers = connection.read_head()
    length, body = connection.body(status, headers)
    if status == 203:                           # a proxy has changed it (RFC 9110, 15.3.4), or not
        status = 200
    return Answer(_shown(url), status, headers, length, _read_body(_shown(url), body))


def _read_body(url: str, body: 'Iterator[bytes]') -> 'Iterator[bytes]':
    try:
        yield from body
    except (OSError, ValueError) as error:
        raise _network_error(url, '', error) from error


def parse_byteranges(body: bytes, content_type: str) -> 'List[Tuple[str, bytes]]':
    """Return Content-Range and bytes of each part of a multipart/byteranges body (RFC 9110, 14.6).

    Raises ValueError if the body is invalid.
    """
    match = re.fullmatch('multipart/byteranges *;.*boundary="?([^";, ]{1,70})"?', content_type,
                         re.IGNORECASE)
    if match is None:
        raise ValueError('not multipart/byteranges')
    delimiter = b'--' + match.group(1).encode('latin-1')
    parts, at = [], body.find(delimiter)
    while at >= 0 and not body.startswith(b'--', at + len(delimiter)):
        end = body.find(b'\r\n\r\n', at)
        found = re.search(
            b'\r\ncontent-range: *(bytes ([0-9]{1,19})-([0-9]{1,19})/[0-9]{1,19})\r\n',
            body[at:end + 2][:RANGE_FRAMING_BYTES], re.IGNORECASE)
        if end < 0 or found is None:
            raise ValueError('a part without Content-Range')
        at = end + 4 + int(found.group(3)) + 1 - int(found.group(2))
        parts.append((found.group(1).decode(), body[end + 4:at]))
        if at < end + 4 or not body.startswith(b'\r\n' + delimiter, at):
            raise ValueError('a part whose size is not that of its Content-Range')
        at += 2
    return parts


def _shown(url: str) -> str:
    """Return a URL for messages, without its query: in a redirect, that may hold a password."""
    return url.partition('?')[0]


def _require_tls(url: str) -> None:
    """Raise TakoError if `url` needs TLS and this Python has none."""
    if url.startswith('https:'):
        try:
            import ssl                          # noqa: F401
        except ImportError as error:
            lack = as_tako_error(error)
            raise TakoError(lack.what,
                            lack.hint + ', or use an http:// or file:// origin') from None


def _authorities_by_hash() -> 'Optional[str]':
    """Return the system's directory of CA certificates; None if its files are not named by hash.

    From such a directory, OpenSSL reads only the file that it needs (openssl-rehash(1)). It would
    parse all of the bundle, which has the same certificates on most systems. SSL_CERT_FILE
    overrides both.
    """
    import ssl
    paths = ssl.get_default_verify_paths()
    if paths.openssl_cafile_env in os.environ or paths.capath is None:
        return None
    is_hashed = any(re.fullmatch('[0-9a-f]{8}[.][0-9]+', name) for name in os.listdir(paths.capath))
    return paths.capath if is_hashed else None


def _load(where: str, load: 'Callable[[], T]') -> 'T':
    """Return load(). Raises ConfigError if a file is missing or invalid. where: key and path."""
    try:
        return load()
    except (OSError, ValueError) as error:
        # the text of a ValueError could quote the token
        what = getattr(error, 'strerror', None) or 'the file has no valid content'
        raise ConfigError(f'{where}: {what}', 'check the path, and what is in the file') from None


def load_credentials(credentials: Credentials, environ: 'Mapping[str, str]') -> Credentials:
    """Return the credentials with the token itself, and with whole paths. Raises ConfigError."""
    token, *files = credentials[1:]
    if token.startswith('@'):
        path = _credential_path('Token', token[1:], environ)
        token = _load(f'Token= {path}', lambda: _read_token(path))
    return Credentials(credentials.endpoint, token, *(
        _credential_path(key, path, environ) for key, path in zip(CREDENTIAL_KEYS[1:], files)))


def _credential_path(key: str, path: str, environ: 'Mapping[str, str]') -> str:
    directory = environ.get('CREDENTIALS_DIRECTORY', '')
    if path and '/' not in path and not directory:
        raise ConfigError(f'{key}= {path} has no /, and $CREDENTIALS_DIRECTORY is not set',
                          f'give a path with a /, or add LoadCredential={path}:PATH to the unit')
    return os.path.join(directory, path) if path and '/' not in path else path


def _read_token(path: str) -> str:
    token = read_at_most(TOKEN_MAX_BYTES, path).decode('ascii').strip()
    if not re.fullmatch(TOKEN_REGEX, token):
        raise ValueError
    return token


def _tls_context(directory: 'Optional[str]', authority: str = '') -> 'ssl.SSLContext':
    """Return a context that requires TLS 1.2, a matching name, and a certificate of a trusted CA.

    Trusted are the CAs in the file `authority`, or in `directory`, or all of the system's if there
    is neither.
    """
    import ssl
    context = ssl.create_default_context(cafile=authority or None, capath=directory)
    if hasattr(context, 'minimum_version'):
        context.minimum_version = ssl.TLSVersion.TLSv1_2    # novm: guarded
    else:                                       # Python 3.6
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    return context


def _redirect(url: str, location: str) -> str:
    """Return the URL that a redirect of `url` leads to, without user and password.

    Raises UnreachableError if Tako does not follow it.
    """
    import urllib.parse
    quoted = urllib.parse.quote(location, safe=URL_PUNCTUATION, encoding='latin-1',
                                errors='replace')
    try:
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(url, quoted))
        host = parts.netloc.rpartition('@')[2].rstrip(':')      # the port may be empty
        is_valid = bool(location and re.fullmatch(HOST_REGEX, host)) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UnreachableError(f'{_shown(url)}: redirected to an invalid URL',
                               'tell the administrator of the server')
    if parts.scheme != 'https' and (parts.scheme != 'http' or url.startswith('https:')):
        raise UnreachableError(
            f'{_shown(url)}: redirected to {parts.scheme}, which Tako does not follow',
            'tell the administrator of the server: a redirect may lead to https')
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path or '/', parts.query, ''))


def _status_error(answer: Answer) -> UnreachableError:
    """Return the error for a response whose status open() does not accept."""
    what = f'{answer.url}: HTTP status {answer.status}'
    if answer.status == 410:
        return GoneError(f'{answer.url}: withdrawn (410)', 'wait for another version')
    if answer.status in (408, 429) or 500 <= answer.status < 600:
        seconds = _retry_after(answer.headers.get('retry-after', ''))
        when = 'try again later, or tell the administrator of the server'
        if seconds > PAUSE_BUDGET_SECONDS:
            until = time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(time.time() + seconds))
            when = f'try again after {until}, as the server asks'
        return TransientError(what, when, seconds)
    if answer.status == 404:
        return AbsentError(what, 'check Origin=, and whether the publisher stored a version there')
    hint = {400: 'if the server demands a client certificate, set ClientCertificate=',
            401: 'set Token=, or add user and password to Origin=: https://user:password@host/',
            403: 'check that the server lets this user, or everybody, read it',
            407: PROXY_PASSWORD_HINT}
    return UnreachableError(what, hint.get(answer.status, 'tell the administrator of the server'))


def _retry_after(text: str) -> float:
    """Return the seconds that a Retry-After header asks to wait (RFC 9110, 10.2.3)."""
    if re.fullmatch('[0-9]{1,9}', text):
        return min(float(text), RETRY_MAX_SECONDS)
    import calendar
    try:
        then = calendar.timegm(time.strptime(text, '%a, %d %b %Y %H:%M:%S GMT'))
    except ValueError:
        return 0.0
    return min(max(0.0, then - time.time()), RETRY_MAX_SECONDS)


def _network_error(url: str, proxy: str, error: Exception) -> UnreachableError:
    """Return the error for what a connection raised. `proxy` may be empty."""
    where = url + (f', through the proxy {proxy}' if proxy else '')
    if 'Cert' in type(error).__name__ or 'CERTIFICATE_VERIFY_FAILED' in str(error):
        why = getattr(error, 'verify_message', '') or error
        return UnreachableError(f'{where}: certificate not trusted: {why}',
                                'check the clock, and that ca-certificates is installed; for a '
                                'private CA, set Authority=')
    if re.search('(?i)alert[ _](bad[ _]certificate|certificate|unknown[ _]ca)', str(error)):
        return UnreachableError(f'{where}: the server refused the client certificate: {error}',
                                'set ClientCertificate= to one that it accepts, and that is valid')
    reason = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    if (isinstance(error, TunnelError) and 400 <= error.status < 500
            and error.status not in (408, 429)):
        hint = 'tell the administrator of the proxy'
        if error.status in (401, 407):
            hint = PROXY_PASSWORD_HINT
        return UnreachableError(f'{where}: {reason}', hint)
    return TransientError(f'{where}: {reason}', 'try again later; check the network and Origin=')


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
        yield from read_blocks(open_file(path))
    except OSError as error:
        raise _file_error(url, error) from error


def _file_error(url: str, error: Exception) -> UnreachableError:
    return UnreachableError(f"{url}: {getattr(error, 'strerror', error)}", 'check Origin=')


# ======================================================================== 13 destination
#
# A publisher's directory, which a web server serves, is an ImageDirectory:
#
#     store/<sha256>                  an image, read-only
#     store/<sha256>.chunks           its chunk index
#     store/<sha256>.<older>.patch    a patch that makes it from the image <older>
#     store/<sha256>.<older>.2.patch  a recompression patch that does
#     manifest                        the signed list of versions, read-only
#     stamp                           when that manifest was the newest, as the publisher states
#     .withdrawn                      the entries of images that withdraw removed
#     .*.new                          temporary files; the next run that holds the lock removes them
#     store/.probe.new                an empty temporary file, to test whether a rename works
#
# A Destination is the same directory on a client: without patches, and with
#
#     latest                          link to store/<sha256>, the installed image
#     stamp                           the last accepted one, if the config has StampKey=
#     .state                          a State, and the time of the last success: see StateFile
#     .problems                       the last failure, and which mirrors fail, as events
#     .history                        the last events: switches, rollbacks, rejections, failures
#     .partial-<sha256>*              the downloaded part of an image, or of a patch
#     .fork.1, .fork.2                two signed manifests that contradict each other
#     .latest.back                    link to the previous image
#     .state.back, .state.done        a State during a rollback, and one after it
#
# The last three exist while an update is not yet confirmed. A rollback renames them to latest and
# .state, which works on a disk that the units have filled.
#
# At each instant, and after a power cut:
#
#     - An image in store/ had the size and SHA-256 of its entry when it got its name, since
#       store_image() is the only way in. image_fault() finds what a disk did to it later.
#     - manifest is missing, or is one whole manifest whose signature was verified.
#     - latest is missing, or names an image that was durable in store/ before.
#     - .state may be lost. Then a rejected image is tried again, but no check is weaker.

NEW_IMAGE, NEW_PATCH, NEW_INDEX = '.image.new', '.patch.new', '.chunks.new'
NEW_MANIFEST, NEW_LINK, NEW_STATE = '.manifest.new', '.latest.new', '.state.new'
NEW_HISTORY = '.history.new'
HISTORY, PROBLEMS = '.history', '.problems'
EVENT_NUMBERS = ('time', 'exit_code', 'failures')       # other values of an event are strings
PROBE, WITHDRAWN = '.probe.new', '.withdrawn'
PARTIAL_OLDER_CHARS = 16        # a partial patch's name has this much of the older image's SHA-256
BACK_LINK, BACK_STATE, DONE_STATE = '.latest.back', '.state.back', '.state.done'
MISSING = 'is missing'
MACHINE_ID_PATH = '/etc/machine-id'


class SignedManifest(namedtuple('SignedManifest', ('manifest', 'signed', 'where'))):
    """A Manifest, its signed bytes (b'' if there is none yet), and their path or URL."""

    __slots__ = ()
    manifest: Manifest
    signed: bytes
    where: str

    def name(self) -> 'Tuple[int, str]':
        """Return what a stamp says of this manifest: its number of entries, and a SHA-256."""
        return len(self.manifest.entries), body_sha256(self.signed)


class ImageDirectory:
    """A directory of images, with the manifest that lists them.

    root: its path. public_keys: as in open_manifest().
    """

    def __init__(self, root: str, public_keys: 'Optional[Sequence[bytes]]' = ()) -> None:
        self.root = root
        self.manifest_path = self.path('manifest')
        self.stamp_path = self.path('stamp')
        self.store_path = self.path('store')
        self.public_keys = public_keys
        self._accepted: Optional[SignedManifest] = None

    def path(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return os.path.join(self.root, name)

    def image_path(self, digest: str) -> str:
        """Return the path of the image with this SHA-256."""
        return os.path.join(self.store_path, digest)

    def index_path(self, digest: str) -> str:
        """Return the path of the chunk index of the image with this SHA-256."""
        return self.image_path(digest) + '.chunks'

    def patch_path(self, digest: str, older: str) -> str:
        """Return the path of the patch that makes the image `digest` from the image `older`."""
        return f'{self.image_path(digest)}.{older}.patch'

    def recompression_patch_path(self, digest: str, older: str) -> str:
        """Return the path of the recompression patch that does the same."""
        return f'{self.image_path(digest)}.{older}.2.patch'

    def accepted(self) -> SignedManifest:
        """Return the manifest of this directory, or an empty one if there is none.

        It is read and verified once; later calls return the same. Raises RefusedError.
        """
        if self._accepted is None:
            path = self.manifest_path
            try:
                signed = read_at_most(MANIFEST_MAX_BYTES, path)
                manifest = open_manifest(signed, self.public_keys, path)
            except FileNotFoundError:
                signed, manifest = b'', Manifest(())
            self._accepted = SignedManifest(manifest, signed, path)
        return self._accepted

    def manifest(self) -> Manifest:
        """Return the entries of accepted(). Raises RefusedError."""
        return self.accepted().manifest

    def write_manifest(self, new: SignedManifest) -> None:
        """Replace the manifest, durably, by one whose signature was verified."""
        self._write(NEW_MANIFEST, new.signed, self.manifest_path)
        self._accepted = new

    def read_stamp(self, public_keys: 'Sequence[bytes]') -> Stamp:
        """Return the stamp of this directory, verified."""
        return open_stamp(read_at_most(STAMP_MAX_BYTES, self.stamp_path), public_keys,
                          self.stamp_path)

    def write_stamp(self, signed: bytes) -> None:
        """Replace the stamp, durably, by one whose signature was verified."""
        self._write(NEW_MANIFEST, signed, self.stamp_path)

    def _write(self, temporary: str, content: bytes, path: str) -> None:
        """Write a file durably: under the name `temporary`, which is then renamed to `path`."""
        replace_file(path, content, self.path(temporary))

    def images(self) -> 'Dict[str, int]':
        """Return the size in bytes of each image in the store, by the SHA-256 in its name.

        No image is read, so some may be damaged: see image_fault().
        """
        images: Dict[str, int] = {}
        try:
            with os.scandir(self.store_path) as found:
                for each in found:
                    try:
                        if re.fullmatch('[0-9a-f]{64}', each.name) and each.is_file():
                            images[each.name] = each.stat().st_size
                    except FileNotFoundError:       # another run removed it meanwhile
                        pass
        except FileNotFoundError:
            pass
        return images

    def image_fault(self, digest: str, size: 'Optional[int]' = None, is_size_enough: bool = False,
                    progress: 'Callable[[int], object]' = no_progress) -> str:
        """Return what is wrong with an image: MISSING, or how it is damaged. '' if it is intact.

        size: in bytes; None if it is unknown. is_size_enough: whether an image of that size counts
        as intact; otherwise all of it is read, and `progress` is called with how many bytes were
        read so far. Raises PermissionError if this user cannot read it.
        """
        path = self.image_path(digest)
        try:
            status = os.stat(path)
            if not os.path.isfile(path):
                return 'is damaged: it is not a file'
            if size not in (None, status.st_size):
                return f'is damaged: it has {amount(status.st_size, "byte")} and not {size}'
            found = digest if is_size_enough else hash_file(path, progress)
        except FileNotFoundError:
            return MISSING
        except PermissionError:
            raise
        except OSError as error:                    # a failing disk
            return f'is damaged: {error.strerror}'
        return '' if found == digest else f'is damaged: its SHA-256 is {found}'

    def why_unusable(self, digest: str) -> str:
        """Return an image's path and what is wrong with it; '' if it is intact. Reads all of it."""
        try:
            fault = self.image_fault(digest)
        except PermissionError as error:
            fault = f'cannot be read: {error.strerror}'
        return f'{self.image_path(digest)} {fault}' if fault else ''

    def store_image(self, entry: Entry, new: NewFile) -> None:
        """Rename a file into the store, durably, as the image of `entry`.

        There is no other way into the store. Raises RefusedError if the file has another size or
        SHA-256 than `entry`.
        """
        digest = new.sha256.hexdigest()
        if (new.size, digest) != (entry.size, entry.digest):
            raise RefusedError(f'{new.temporary}: not the image of {entry.version}: it has '
                               f'{amount(new.size, "byte")}, and its SHA-256 is {digest}',
                               'run the command again; if it fails again, test memory and disk')
        if not os.path.isdir(self.store_path):
            umask = os.umask(0o022)                 # the mode of `root` says who may read images
            os.mkdir(self.store_path)
            os.umask(umask)
            sync_directory(self.root)
        new.publish(self.image_path(entry.digest))

    def remove_image(self, digest: str) -> None:
        """Remove an image and its chunk index."""
        remove_if_there(self.image_path(digest))
        remove_if_there(self.index_path(digest))

    def remove_images(self, digests: 'Set[str]') -> int:
        """Remove images, their indexes, and the patches that make them. Return how many bytes.

        The patches from these images stay, for clients that have one of them.
        """
        removed = 0
        if os.path.isdir(self.store_path):
            for name in os.listdir(self.store_path):
                if name[:64] in digests:
                    removed += os.lstat(self.image_path(name)).st_size
                    remove_if_there(self.image_path(name))
            sync_directory(self.store_path)
        return removed

    def withdrawn(self) -> 'Set[str]':
        """Return the SHA-256 of each image that note_withdrawn() noted and that is not there."""
        try:
            text = read_at_most(MANIFEST_MAX_BYTES, self.path(WITHDRAWN)).decode('ascii', 'replace')
        except FileNotFoundError:
            return set()
        return set(re.findall(' ([0-9a-f]{64})$', text, re.MULTILINE)).difference(self.images())

    def note_withdrawn(self, entries: 'Iterable[Entry]') -> None:
        """Write, durably, the entries of all withdrawn images, so that nobody misses them."""
        content = ''.join(entry.line() for entry in entries).encode('ascii')
        self._write(NEW_MANIFEST, content, self.path(WITHDRAWN))

    def read_index(self, digest: str, size: int) -> 'Optional[ChunkIndex]':
        """Return the chunk index of an image of `size` bytes; None if it is missing or damaged."""
        try:
            raw = read_at_most(index_max_bytes(size), self.index_path(digest))
            return parse_index(raw, size)
        except (OSError, ValueError):
            return None

    def make_index(self, digest: str, progress: 'Callable[[int], object]') -> bool:
        """Write the chunk index of an image, with the list of its patches, durably.

        For `progress` see fit_index().
        Return False if the same index exists. Raises ValueError if clients would refuse the index.
        """
        patches = self._patches_to(digest)
        path = self.image_path(digest)
        with naming(path), open_file(path) as image:
            size = os.fstat(image.fileno()).st_size
            index = self.read_index(digest, size)
            if index is not None and index.patches == patches:
                return False
            if index is None:
                index = fit_index(image, size, progress)
        raw = format_index(index._replace(patches=patches))
        parse_index(raw, size)
        self.write_index(digest, raw)
        return True

    def write_index(self, digest: str, raw: bytes) -> None:
        """Write these bytes, durably, as the chunk index of an image."""
        self._write(NEW_INDEX, raw, self.index_path(digest))

    def _patches_to(self, digest: str) -> 'Tuple[Tuple[str, int], ...]':
        """Return (SHA-256 of the older image, patch size in bytes) of each patch to an image.

        The SHA-256 of recompression patches is inverted(). Of more than PATCHES_MAX patches, return
        ordinary ones first, and those from the images that were stored last.
        """
        match_name = re.compile(digest + '[.]([0-9a-f]{64})([.]2)?[.]patch').fullmatch
        with os.scandir(self.store_path) as found:
            matches = [(match_name(each.name), each) for each in found]
            sizes = {match.groups(): each.stat().st_size for match, each in matches if match}
        by_time = sorted(sizes, key=lambda patch: (
            patch[1] is None, time_of(self.image_path(patch[0])), patch[0]))
        return tuple(sorted((inverted(older) if kind else older, sizes[older, kind])
                            for older, kind in by_time[-PATCHES_MAX:]))

    def check_file_system(self) -> None:
        """Raise TakoError if the store is on another file system than `root`: no rename works."""
        path = self.store_path
        if os.path.isdir(path) and os.stat(path).st_dev != os.stat(self.root).st_dev:
            raise TakoError(f'{path}: on another file system than {self.root}',
                            f'move all of {self.root} there; it may then be a symlink')

    def check_space(self, size: int) -> None:
        """Raise TakoError if the file system says that fewer than `size` bytes are free."""
        try:
            status = os.statvfs(self.root)
        except OSError:                             # unknown: if the disk is full, a write fails
            return
        free = status.f_bavail * status.f_frsize
        if status.f_blocks and free < size:         # a size of 0 blocks also means unknown
            raise TakoError(f'{self.root}: {size} bytes are needed and {free} are free',
                            'free disk space there, or let Keep= remove old images; '
                            'all installed files are intact')

    def scratch_file(self) -> 'BinaryIO':
        """Return an unnamed_file() in this directory."""
        return unnamed_file(self.path(NEW_IMAGE))

    def check_rename(self) -> None:
        """Raise TakoError if a rename of a file of `root` into the store fails: try one."""
        self.check_file_system()
        if os.path.isdir(self.store_path):
            try:
                with NewFile(self.path(PROBE)) as new:
                    try:
                        os.rename(new.temporary, self.image_path(PROBE))
                    finally:
                        remove_if_there(self.image_path(PROBE))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise TakoError(
                    f'{self.store_path}: files of {self.root} cannot be renamed into it: '
                    'it is a mount point, or has another project quota',
                    f'mount or move all of {self.root}, and not only store') from None

    def sync(self) -> None:
        """Make all names in the directory and in its store durable.

        Call this before a link or a manifest refers to a file: the run that renamed the file may
        have been killed before its fsync.
        """
        sync_directory(self.store_path)
        sync_directory(self.root)

    def clear_leftovers(self) -> None:
        """Remove the temporary files of killed runs. The caller must hold the lock.

        Also remove those of the original Tako (docs/coming-from-the-original.md). It takes no lock:
        a recent file may belong to an active run, and stays.
        """
        for name in (NEW_IMAGE, NEW_PATCH, NEW_INDEX, NEW_MANIFEST, NEW_LINK, NEW_STATE,
                     NEW_HISTORY, PROBE):
            remove_if_there(self.path(name))
        # a file of the original Tako that cannot be removed does no harm
        paths = [self.path('manifest.new')]
        try:
            remove_if_there(self.image_path(PROBE))
            paths += [self.image_path(name) for name in os.listdir(self.store_path)
                      if re.fullmatch('[0-9a-f]{64}[.]new', name)]
        except OSError:
            pass
        for path in paths:
            try:
                if 0 < time_of(path) < time.time() - ABANDONED_SECONDS:
                    os.unlink(path)
            except OSError:
                pass


class Destination(ImageDirectory):
    """A directory in which a client installs images."""

    def accepted(self) -> SignedManifest:
        """Return the manifest that the last fetch accepted, as ImageDirectory.accepted()."""
        try:
            return super().accepted()
        except FormatError:
            raise
        except RefusedError as error:
            raise RefusedError(error.what, (
                'if you replaced PublicKey=, add the old key as a second PublicKey= line for one '
                'fetch; otherwise the file was modified: find out why before you remove it, '
                'because the next fetch may then accept an older manifest')) from None

    def stamp(self, public_keys: 'Sequence[bytes]') -> 'Optional[Stamp]':
        """Return the stamp that the last fetch accepted; None if none of the keys signed it."""
        try:
            return self.read_stamp(public_keys)
        except (RefusedError, FileNotFoundError):
            return None

    def latest(self) -> str:
        """Return the SHA-256 of the installed image; '' if there is none. Raises TakoError."""
        return self.linked('latest')

    def linked(self, name: str) -> str:
        """Return the SHA-256 of the image to which a link points; '' if there is no such link.

        A link to anything else counts as none. Raises TakoError if `name` is not a link.
        """
        path = self.path(name)
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            return ''
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise TakoError(f'{path}: not a link',
                            'move it away: Tako did not make it') from None
        match = re.fullmatch('store/([0-9a-f]{64})', target)
        return match.group(1) if match else ''

    def point_latest(self, digest: str) -> None:
        """Point latest at an image, atomically and durably."""
        self.sync()
        self.make_link(NEW_LINK, digest)
        self.install_link(NEW_LINK)

    def make_link(self, name: str, digest: str) -> None:
        """Make a link to an image, without fsync. Raises TakoError if that is not permitted."""
        path = self.path(name)
        try:
            os.symlink('store/' + digest, path)
        except OSError as error:
            if error.errno not in UNSUPPORTED + (errno.EPERM, errno.EACCES):    # vfat: EPERM
                raise
            raise TakoError(f'{path}: cannot make a symbolic link: {error.strerror}',
                            'set Destination= to a directory that this user may write to, on a '
                            'file system that supports symbolic links') from None

    def install_link(self, name: str) -> None:
        """Rename a link to latest, durably."""
        os.rename(self.path(name), self.path('latest'))
        sync_directory(self.root)

    def partial_path(self, digest: str) -> str:
        """Return the path of the downloaded part of an image."""
        return self.path('.partial-' + digest)

    def partial_patch_path(self, digest: str, older: str) -> str:
        """Return the path of the downloaded part of a patch from `older` to `digest`."""
        # eCryptfs allows 143 bytes in a name, too few for two whole SHA-256
        return f'{self.partial_path(digest)}.{older[:PARTIAL_OLDER_CHARS]}.patch'

    def clear_partials(self, but: str = '') -> None:
        """Remove the downloaded parts of all images and patches, but not those for image `but`."""
        is_kept = re.compile(
            '[.]partial-%s([.].{%d}[.]patch)?' % (but, PARTIAL_OLDER_CHARS)).fullmatch
        for name in os.listdir(self.root):
            if name.startswith('.partial-') and not (but and is_kept(name)):
                remove_if_there(self.path(name))

    def keep_evidence(self, manifests: 'Sequence[bytes]') -> None:
        """Write manifests that contradict each other to .fork.1 and .fork.2, for the publisher."""
        for number, signed in enumerate(manifests, 1):
            self._write(NEW_MANIFEST, signed, self.path(f'.fork.{number}'))


    def events(self, name: str) -> 'List[Event]':
        """Return the events in HISTORY or PROBLEMS; none if it is no file, or too long."""
        try:
            raw = read_at_most(EVENTS_MAX_BYTES, self.path(name))
        except OSError:
            raw = b''
        return parse_events(raw.decode('latin-1')) if len(raw) <= EVENTS_MAX_BYTES else []

    def record(self, event: 'Event') -> None:
        """Add an event to the history, with the time, durably. An error of the disk is ignored.

        Nothing is written if the last event is the same: a run that was killed had recorded it, and
        this run finishes what that one had begun.
        """
        known, new = self.events(HISTORY), dict(event, time=int(time.time()))
        if [dict(each, time=new['time']) for each in known[-1:]] != [new]:
            content = format_events((known + [new])[-EVENTS_MAX:])
            try:
                self._write(NEW_HISTORY, content[-EVENTS_MAX_BYTES:], self.path(HISTORY))
            except OSError:
                pass

    def last_failure(self) -> 'Optional[Event]':
        """Return the last failure, with how many there were in a row; None if there was none."""
        failures = [each for name in (HISTORY, PROBLEMS) for each in self.events(name)
                    if each['event'] == 'failure']
        return {'failures': 0, 'exit_code': 1, 'message': '', **failures[-1]} if failures else None

    def write_problems(self, events: 'List[Event]') -> None:
        """Write what fails now to PROBLEMS, without fsync. An error of the disk is ignored."""
        path, content = self.path(PROBLEMS), format_events(events)
        try:
            try:
                write_in_place(path, content)
            except OSError:         # it may be another user's file, a link, or no file at all
                remove_if_there(path)
                write_in_place(path, content)
        except OSError:
            pass


def parse_events(text: str) -> 'List[Event]':
    """Return the events that format_events() wrote as `text`, without lines that are damaged."""
    pair = r'"([a-z_]+)": (?:([0-9]{1,10})|"((?:[ !#-\[\]-~]|\\["\\])*)")'
    is_whole = re.compile('{%s(, %s)*}' % (pair, pair)).fullmatch
    events: List[Event] = []
    for line in filter(is_whole, text.split('\n')):
        event = {key: int(number) if number else re.sub(r'\\(.)', r'\1', string)
                 for key, number, string in re.findall(pair, line)
                 if bool(number) == (key in EVENT_NUMBERS)}
        if 'time' in event and 'event' in event:
            events.append(event)
    return events


def format_events(events: 'Iterable[Event]') -> bytes:
    """Return events as lines of JSON, whose strings must be printable ASCII. Needs no json module.
    """
    return ''.join('{' + ', '.join(
        f'"{key}": ' + (str(value) if key in EVENT_NUMBERS
                        else '"' + re.sub(r'(["\\])', r'\\\1', value) + '"')
        for key, value in event.items()) + '}\n' for event in events).encode('ascii')


def to_ascii(text: str) -> str:
    """Return a text with all characters escaped that are not printable ASCII."""
    return ''.join(c if ' ' <= c <= '~' else ascii(c)[1:-1] for c in text)


class State(namedtuple('State', (
        'previous', 'restart_due', 'received', 'rejected', 'withdrawn', 'validators',
        'invocations', 'postponed', 'seen', 'machine', 'unproven', 'rate'))):
    """What a destination remembers from one run to the next. An image is named by its SHA-256.

    previous: the image that was installed before the latest one, or ''.
    restart_due: the image on which units must still restart once latest points to it, or ''.
    received: "image bytes": the last downloaded image and how many bytes were received, or ''.
    rejected: images on which a unit failed. They are not installed again.
    withdrawn: withdrawn images about which the user was warned.
    validators: "SHA-256 URL ETag" of the accepted manifest, for each URL that served it.
    invocations: "unit InvocationID" of each unit before the restart that is due. The ID is - if the
        unit did not run.
    postponed: images on which a unit failed that also failed on the previous image. They are
        installed again once the unit runs on the previous image.
    seen: "SHA-256 seconds": when a version newer than the installed one was first seen, since 1970.
    machine: a random number in hexadecimal that stands for a missing /etc/machine-id, or ''.
    unproven: since when origins have had a newer manifest without a stamp, in seconds since 1970.
    rate: bytes per second of the last large download, or ''.
    """

    __slots__ = ()
    previous: str
    restart_due: str
    received: str
    rejected: 'Tuple[str, ...]'
    withdrawn: 'Tuple[str, ...]'
    validators: 'Tuple[str, ...]'
    invocations: 'Tuple[str, ...]'
    postponed: 'Tuple[str, ...]'
    seen: 'Tuple[str, ...]'
    machine: str
    unproven: str
    rate: str


STATE_REGEXES = {'validators': '[0-9a-f]{64} [!-~]+ [!-~]+',
                 'received': '[0-9a-f]{64} [0-9]{1,19}',
                 'invocations': '[!-~]+ ([0-9a-f]{32}|-)',
                 'seen': '[0-9a-f]{64} [0-9]{1,12}',
                 'machine': '[0-9a-f]{32}', 'unproven': '[0-9]{1,12}',
                 'rate': '[1-9][0-9]{0,11}'}            # others: a SHA-256
STATE_SINGLES = ('previous', 'restart_due', 'received', 'machine', 'unproven', 'rate')


def parse_state(text: str) -> State:
    """Return the State that format_state() wrote as `text`. Raises ValueError if it is damaged.

    Unknown keys are ignored: a later Tako may have written them.
    """
    found: Dict[str, List[str]] = {field: [] for field in State._fields}
    for line in text.splitlines():
        key, equals, value = line.partition('=')
        regex = STATE_REGEXES.get(key, '[0-9a-f]{64}')
        if not equals or (key in found and not re.fullmatch(regex, value)):
            raise ValueError(line)
        if key in found:
            found[key].append(value)
    # values[-1:] is empty if there is no value; of several values, the last one counts
    return State(*(''.join(values[-1:]) if field in STATE_SINGLES else tuple(values)
                   for field, values in found.items()))


def format_state(state: State) -> str:
    """Return a State as lines of key=value: one for each item of a tuple, none for ''."""
    return ''.join(f'{field}={each}\n' for field, value in zip(State._fields, state)
                   for each in ([value] if field in STATE_SINGLES else value) if each)


class StateFile:
    """The state of a destination during one run: read at the start, written when it changes.

    state: an empty State if there is no file, or if it is damaged. is_damaged: whether it was.
    The file's modification time is that of the last success. If the file system stores another
    time, as ext4 with small inodes does from 2038 on, a line in the file has the time. That line is
    not part of the State.
    """

    # the files with the state during a rollback and after it
    PREPARED = (BACK_STATE, DONE_STATE)

    def __init__(self, destination: Destination) -> None:
        self.path = destination.path('.state')
        found = self._read(self.path)
        self.is_damaged = found is None
        self.state = parse_state('') if found is None else found
        self._written = found
        self._destination = destination

    def _read(self, path: str) -> 'Optional[State]':
        """Return the state in a file; an empty one if there is none; None if it is damaged."""
        try:
            raw = read_at_most(STATE_MAX_BYTES, path)
            return parse_state(raw.decode('ascii')) if len(raw) <= STATE_MAX_BYTES else None
        except FileNotFoundError:
            return parse_state('')
        except (ValueError, NotFileError):
            return None

    def last_success(self) -> int:
        """Return when a fetch last succeeded, in seconds since 1970; 0 if none did."""
        noted = self._noted_success()
        return time_of(self.path) if noted is None else noted

    def _noted_success(self) -> 'Optional[int]':
        """Return the time in the line last_success= of the file; None if there is none."""
        try:
            match = re.search(rb'^last_success=([0-9]{1,12})$',
                              read_at_most(STATE_MAX_BYTES, self.path), re.MULTILINE)
        except OSError:
            return None
        return int(match.group(1)) if match else None

    def write(self, state: State, is_success: bool = False) -> None:
        """Write the state, durably, if it or the time of the last success changed.

        is_success: whether the last success is now; otherwise its time stays.
        """
        self.state = state
        if state != self._written or (is_success and not self._touch()):
            self._replace(time.time() if is_success else self.last_success())

    def _touch(self) -> bool:
        """Set the file's time to now. Return False if last_success() would not return it then."""
        return (os.path.exists(self.path) and self._noted_success() is None and touch(self.path)
                and is_about(time_of(self.path), time.time()))

    def _replace(self, last_success: float) -> None:
        """Write the state to its file. `last_success` is in seconds since 1970."""
        if os.path.isdir(self.path) and not os.path.islink(self.path):
            os.rmdir(self.path)                     # a file cannot be renamed over a directory
        try:
            self._publish(self.state, last_success, self.path)
        except OSError as error:
            if error.errno not in NO_SPACE or not os.path.isfile(self.path):
                raise
            # the disk is full; a lost state would restart units twice, and forget a rollback
            content = format_state(self.state) + _note_success(last_success)
            rewrite(self.path, content.encode('ascii'), last_success)
        self._written = self.state

    def _publish(self, state: State, last_success: float, path: str) -> None:
        with NewFile(self._destination.path(NEW_STATE)) as new:
            new.write(format_state(state).encode('ascii'))
            if not new.set_time(last_success):
                new.write(_note_success(last_success).encode('ascii'))
            new.publish(path)

    def prepare_rollback(self, digest: str, *states: State) -> None:
        """Write, durably, the link and the states that a rollback to an image would rename.

        The disk may be full by then. states: one for each of PREPARED.
        """
        if self._destination.linked(BACK_LINK) != digest:
            remove_if_there(self._destination.path(BACK_LINK))
            self._destination.make_link(BACK_LINK, digest)
        for name, state in zip(self.PREPARED, states):
            if self._prepared(name) != state:
                self._publish(state, self.last_success(), self._destination.path(name))

    def _prepared(self, name: str) -> 'Optional[State]':
        """Return the state in one of PREPARED; None if it cannot be read."""
        try:
            return self._read(self._destination.path(name))
        except OSError:
            return None

    def write_prepared(self, name: str, state: State) -> None:
        """Write the state, durably. If `name` has the same state, rename it: a full disk allows it.

        name: one of PREPARED.
        """
        if self._prepared(name) == state:
            os.rename(self._destination.path(name), self.path)
            sync_directory(self._destination.root)
            self.state = self._written = state
        else:
            self.write(state)

    def point_back(self, digest: str) -> None:
        """Point latest at an earlier image, durably: rename the prepared link if there is one."""
        if self._destination.linked(BACK_LINK) == digest:
            self._destination.install_link(BACK_LINK)
        else:
            self._destination.point_latest(digest)

    def remove_prepared(self) -> None:
        """Remove what prepare_rollback() wrote."""
        for name in (BACK_LINK,) + self.PREPARED:
            remove_if_there(self._destination.path(name))


def _note_success(seconds: float) -> str:
    return f'last_success={max(0, int(seconds))}\n'


def time_of(path: str) -> int:
    """Return the modification time of a file or link, in seconds since 1970; 0 if it is missing.

    A link is not followed.
    """
    try:
        return int(os.lstat(path).st_mtime)
    except FileNotFoundError:
        return 0


def machine_id() -> str:
    """Return the ID of this machine, 32 hexadecimal digits (machine-id(5)); '' if it has none."""
    try:
        text = read_at_most(KEY_FILE_MAX_BYTES, MACHINE_ID_PATH).decode('ascii', 'replace').strip()
    except OSError:
        return ''
    return text if re.fullmatch('[0-9a-f]{32}', text) else ''


def format_moment(seconds: float) -> str:
    """Return a time in seconds since 1970 as Stamp.moment."""
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(seconds))


def images_behind_loop_devices(devices: str = '/sys/block') -> 'Set[str]':
    """Return the names, without directories, of the files behind all loop devices.

    They may be mounted images. `devices` is the directory in sysfs that lists block devices.
    """
    names = set()
    for device in os.listdir(devices) if os.path.isdir(devices) else []:
        try:
            # in binary, since a path may contain any bytes
            with open(f'{devices}/{device}/loop/backing_file', 'rb') as stream:
                name = os.path.basename(stream.read().strip())
                names.add(os.fsdecode(name).split(' ')[0])      # without " (deleted)"
        except OSError:                             # not a loop device, or one that is not in use
            pass
    return names


def spare_images(stored: 'Set[str]', keep: int, preferred: 'Sequence[str]',
                 needed: 'Set[str]') -> 'List[str]':
    """Return which stored images to remove so that `keep` stay. Never return a needed image.

    preferred: the images to keep, the best first. All others are removed before these.
    """
    best_first = list(dict.fromkeys(digest for digest in preferred if digest in stored))
    order = sorted(stored.difference(preferred)) + best_first[::-1]
    return [digest for digest in order if digest not in needed][:max(0, len(stored) - keep)]


# ======================================================================== 14 units
#
# Tako blames an image only on evidence: systemctl's own sentence about the unit, a new InvocationID
# (systemd has started the unit since the restart was requested), and how its main process ended. A
# restart that systemd refused, dropped or did not finish says nothing about the image.

TIMED_OUT = 124         # stands for the exit code of a systemctl that Tako killed, as in timeout(1)
UNIT_PROPERTIES = (
    'Id', 'Names', 'LoadState', 'ActiveState', 'SubState', 'Type', 'Result', 'NRestarts',
    'InvocationID', 'ExecMainCode', 'ExecMainStatus', 'ExecMainStartTimestampMonotonic',
    'ExecMainExitTimestampMonotonic', 'ActiveExitTimestampMonotonic', 'ConditionResult',
    'ConditionTimestampMonotonic', 'CollectMode', 'TriggeredBy', 'Requires', 'BindsTo', 'Job')
# Matches errors of a systemctl that lost its connection to systemd. Most of these texts count only
# after a colon, since the text before the colon may contain a unit's name.
NO_CONNECTION = (
    '(?im)^failed to connect to bus|d-bus connection terminated'
    '|: (connection (reset|refused|timed out)|transport endpoint|broken pipe'
    '|message recipient disconnected|remote peer|did not receive|the name .* was not provided'
    '|could not activate)')
# The property Result of a service may have these values after systemd stopped it on request.
STOP_RESULTS = ('success', 'exit-code', 'signal', 'core-dump', 'timeout')
# Matches the line that `systemctl restart` prints for each unit that did not start. The groups are
# the kind of the job, the unit, and the outcome.
JOB_SENTENCE = r'(?m)^(Job|A dependency job|Assertion failed on job) for (\S+?)( .*|\.)$'


class SystemdError(TakoError):
    """systemd did not do what Tako asked for. This says nothing about the image."""


class SystemdUnreachableError(SystemdError):
    """systemctl cannot reach systemd now."""

    exit_code = 75


class Unit:
    """The state of one unit.

    properties: the output of `systemctl show` for it, by the name of each property.
    is_down: it does not run, and systemd has no job to start it.
    has_failed: it is failed and was not stopped, or it waits for an automatic restart.
    is_settled: it has failed, or it is neither starting nor stopping.
    is_done: it ended well, and stays active because of RemainAfterExit=yes.
    """

    def __init__(self, properties: 'Dict[str, str]') -> None:
        self.properties = properties
        self.id = properties.get('Id', '')
        self.names = self.listed('Names') + [self.id]
        self.invocation = properties.get('InvocationID', '')    # empty: never started, or unloaded
        self.restarts = int(properties.get('NRestarts') or 0)   # automatic ones, after failures
        self.state = properties.get('ActiveState', '')
        has_job = properties.get('Job', '0') not in ('', '0')
        self.is_down = self.state in ('inactive', 'failed') and not has_job
        self.has_failed = ('auto-restart' in properties.get('SubState', '')
                           or (self.state == 'failed' and not self._was_stopped()))
        self.is_settled = self.has_failed or (self.state not in ('activating', 'deactivating')
                                              and not has_job)
        self.is_done = properties.get('SubState') == 'exited'

    def listed(self, *keys: str) -> 'List[str]':
        """Return the unit names in these properties, without the quotes that systemctl adds."""
        text = ' '.join(self.properties.get(key, '') for key in keys)
        return text.replace('"', '').replace('\\\\', '\\').split()

    def _was_stopped(self) -> bool:
        """Return whether systemd stopped it: the unit was inactive before its process ended."""
        started, left, exited = (int(self.properties.get(event + 'TimestampMonotonic') or 0)
                                 for event in ('ExecMainStart', 'ActiveExit', 'ExecMainExit'))
        return started <= left < exited and self.properties.get('Result') in STOP_RESULTS

    def may_be_inactive(self) -> bool:
        """Return whether it is a oneshot, has a trigger such as a timer, or an unmet condition."""
        was_checked = self.properties.get('ConditionTimestampMonotonic', '0') != '0'
        return (self.properties.get('Type') == 'oneshot' or bool(self.properties.get('TriggeredBy'))
                or (was_checked and self.properties.get('ConditionResult') == 'no'))

    def has_exited(self) -> bool:
        """Return whether its main process exited, and not because systemd stopped it."""
        is_exit = self.properties.get('ExecMainCode') == '1'    # CLD_EXITED of waitid(2)
        return is_exit and not self._was_stopped()

    def describe(self) -> str:
        """Return its name and state, and the causes of a failure, for messages."""
        properties = self.properties
        if not self.invocation:
            return f'{self.id} failed, and systemd has unloaded it'
        state = ('failed' if self.state == 'failed'
                 else 'is ' + (properties.get('SubState') or self.state))
        reasons = [properties['Result']] if properties.get('Result', 'success') != 'success' else []
        if properties.get('ExecMainCode', '0') != '0':
            kind = 'exit code' if properties['ExecMainCode'] == '1' else 'signal'
            reasons.append(f'{kind} {properties.get("ExecMainStatus", "")}')
        if self.restarts:
            reasons.append(f'automatic restarts: {self.restarts}')
        return f'{self.id} {state}' + (f' ({", ".join(reasons)})' if reasons else '')


def show_units(names: 'Iterable[str]', manager: str = SYSTEM_MANAGER) -> 'Dict[str, Unit]':
    """Return the state of each unit, by the name given. It may be an alias or lack the suffix.

    For `manager` see Config, here and below.

    Raises SystemdError if systemd does not answer.
    """
    names = list(names)
    properties = '--property=' + ','.join(UNIT_PROPERTIES)
    # systemctl prints one block for each name, in the order of the names
    blocks = (_ask_systemd(manager, 'show', properties, '--', *names).strip().split('\n\n')
              if names else [])
    if len(blocks) != len(names):
        raise SystemdError('systemctl show did not answer for each of ' + ' '.join(names),
                           'see: systemctl --version')
    return {name: Unit(dict(line.partition('=')[::2] for line in block.splitlines()))
            for name, block in zip(names, blocks)}


def show_with_requirements(names: 'Iterable[str]', manager: str) -> 'Dict[str, Unit]':
    """Return the state of units and of all units that they require, directly or indirectly.

    Looks at REQUIREMENTS_MAX units, or a few more. Raises SystemdError.
    """
    found: Dict[str, Unit] = {}
    unseen = set(names)
    while unseen and len(found) < REQUIREMENTS_MAX:
        shown = show_units(sorted(unseen), manager)
        found.update(shown)
        unseen = {name for unit in shown.values()
                  for name in unit.listed('Requires', 'BindsTo')} - set(found)
    return found


def check_units(lines: 'Mapping[str, int]', is_first: bool,
                manager: str = SYSTEM_MANAGER) -> 'List[str]':
    """Return the units that are unknown to systemd. Raises ConfigError if one cannot be restarted.

    lines: the line of each unit in the config. is_first: no image is installed yet, and unit files
    may be in the first one, so unknown units are allowed; otherwise, they are an error. Raises
    SystemdError if systemd does not answer.
    """
    unknown = []
    for name, unit in show_units(lines, manager).items():
        state, where = unit.properties.get('LoadState'), lines[name]
        if unit.id.endswith('.socket'):
            raise ConfigError(
                f'Restart= {name}: a socket cannot be restarted while its service runs',
                'name the service in Restart=', where)
        if state == 'masked':
            raise ConfigError(
                f'Restart= {name} is masked',
                f'remove it from Restart=, or run: systemctl{manager} unmask {name}', where)
        if state == 'not-found':
            if not is_first:
                raise ConfigError(
                    f'Restart= {name} is unknown to systemd',
                    f'check the spelling, or run: systemctl{manager} daemon-reload' + (
                        '; for a unit of this user, add Manager=user'
                        if os.getuid() and not manager else ''), where)
            unknown.append(name)
        elif state != 'loaded':
            raise ConfigError(f'Restart= {name}: systemd cannot load its unit file ({state})',
                              f'see: systemctl{manager} status {name}', where)
    return unknown


class UnitWatch:
    """Restarts units, then watches until each of them has run for `seconds`.

    Call note() before the image changes, restart() after it, then look() every WATCH_POLL_SECONDS
    until that returns True. If an earlier run left a restart due, begin with needs_restart(). Each
    raises UnitError if the image is at fault, and SystemdError if there is no verdict. clock: the
    time module, or a substitute in tests.
    """

    _end: float         # monotonic time after which a unit that has not settled is an error

    def __init__(self, names: 'Iterable[str]', seconds: float, clock: 'Any',
                 manager: str = SYSTEM_MANAGER) -> None:
        self.names = list(names)
        self.clock = clock
        self.manager = manager
        self.stopped: List[str] = []            # units that somebody stopped: left as they are
        self.ids: Set[str] = set()              # the units' names, not their aliases
        self._seconds = seconds
        self._pending = self.names              # units that restart() restarts
        self._before: Dict[str, Unit] = {}      # as note() found them
        self._started: Dict[str, Unit] = {}     # as look() found them after their last start
        self._until: Dict[str, float] = {}      # monotonic time at which each has run long enough

    def note(self, noted: 'Sequence[str]' = ()) -> 'Tuple[str, ...]':
        """Record the state of the units before a restart, and return it as State.invocations.

        noted: what note() returned in an earlier run; kept for units that have restarted since.
        Raises SystemdError if systemd does not answer.
        """
        self._before = show_with_requirements(self.names, self.manager)
        self.ids = {self._before[name].id for name in self.names}
        known = dict(each.split(' ') for each in noted)
        known.update((name, self._before[name].invocation or '-') for name in self._pending)
        return tuple(f'{name} {known[name]}' for name in self.names)

    # What a failed `systemctl restart` means for a unit. "New" is one that systemd has started
    # since note().
    #
    #   systemctl says                    the unit                            verdict
    #   --------------------------------  ----------------------------------  --------------------
    #   connection lost, all are new      failed                              failed
    #                                     settled                             runs
    #   connection lost twice             any                                 none (exit code 75)
    #   Job for UNIT failed               new; not active, or auto-restarted  failed
    #                                     unloaded because of CollectMode=    failed
    #   A dependency job for UNIT failed  requires a new unit that failed     that unit failed
    #   Job for UNIT canceled             down                                stopped by somebody
    #                                     new, settled, not failed            runs
    #   nothing about UNIT, in time       new, settled, not failed            runs
    #   anything else, e.g. timed out     any                                 none (exit code 1)

    def restart(self) -> None:
        """Restart the units. First reset their start limits, and those of failed requirements.

        Raises UnitError if the image is at fault, SystemdError if there is no verdict.
        """
        blockers = [name for name, unit in self._before.items()
                    if name in self._pending or unit.has_failed]
        # an error is harmless: a unit is unloaded
        _systemctl(self.manager, 'reset-failed', '--', *blockers)
        for _ in range(2):
            code, _, errors = _systemctl(self.manager, 'restart', '--', *self._pending)
            if not (code and re.search(NO_CONNECTION, errors)):
                break
            # systemd continues the job without systemctl, even across a daemon-reexec; if it never
            # got the job, not all units are new, and the loop asks once more
            shown = self._await_settled()
            if all(self._is_new(name, shown[name]) for name in self._pending):
                self._raise_for([unit for unit in shown.values() if unit.has_failed],
                           ' after the restart')
                return
        if code:
            self._judge(code, errors)

    def _is_new(self, name: str, unit: Unit) -> bool:
        return unit.invocation not in ('', self._before[name].invocation)

    def _await_settled(self) -> 'Dict[str, Unit]':
        deadline = self.clock.monotonic() + SYSTEMCTL_TIMEOUT_SECONDS
        while True:
            shown = show_units(self.names, self.manager)
            if (all(unit.is_settled for unit in shown.values())
                    or self.clock.monotonic() > deadline):
                return shown
            self.clock.sleep(WATCH_POLL_SECONDS)

    def _judge(self, code: int, errors: str) -> None:
        """Judge the units after a failed `systemctl restart`, by the table above."""
        answer = '(exit code {}): {}'.format(code, '; '.join(
            line for line in errors.splitlines() if not line.startswith('See ')))
        if re.search(NO_CONNECTION, errors):
            raise SystemdUnreachableError(
                'systemctl cannot reach systemd ' + answer,
                f'see: systemctl{self.manager} status; the restart stays due')
        if ' canceled' in errors:       # what canceled the job may still be at work
            self._await_settled()
        shown = show_with_requirements(self.names, self.manager)
        outcomes = {unit: kind + end for kind, unit, end in re.findall(JOB_SENTENCE, errors)}
        failed: List[Unit] = []
        undecided: List[str] = []
        for name in self._pending:
            unit = shown[name]
            outcome = next((outcomes[each] for each in unit.names if each in outcomes), '')
            culprits = self._culprits(name, unit, outcome, shown)
            is_canceled = ' canceled' in outcome
            may_run = is_canceled or (not outcome and code != TIMED_OUT)
            is_running = self._is_new(name, unit) and unit.is_settled and not unit.has_failed
            if culprits:
                failed.extend(culprits)
            elif is_canceled and unit.is_down:
                self.stopped.append(name)
            elif not may_run or not is_running:
                undecided.append(name)
        self._raise_for(failed, ': systemctl restart failed ' + answer)
        if undecided:
            units = ' '.join(undecided)
            hint = f'see: systemctl{self.manager} status {units}'
            if re.search('denied|authentication', errors):
                hint = 'run Tako as root, let polkit allow the restart, or add Manager=user'
            raise SystemdError(f'cannot restart {units}: systemctl restart failed {answer}',
                               hint + '; the restart stays due, and no version is rejected')

    def _culprits(self, name: str, unit: Unit, outcome: str,
                  shown: 'Dict[str, Unit]') -> 'List[Unit]':
        """Return the units that failed on the image: this one, or new ones that it requires."""
        if outcome.startswith('A dependency job failed'):
            return [required for each, required in shown.items()
                    if each not in self.names and each in self._before
                    and required.has_failed and self._is_new(each, required)]
        is_unloaded = (not unit.invocation
                       and unit.properties.get('CollectMode') == 'inactive-or-failed')
        is_failure = self._is_new(name, unit) and (unit.state != 'active' or unit.restarts > 0)
        return [unit] if outcome.startswith('Job failed') and (is_unloaded or is_failure) else []

    # How look() judges a unit. The first line that applies counts.
    #
    #   state of the unit                                             verdict
    #   ------------------------------------------------------------  ----------------------------
    #   failed, in auto-restart, or auto-restarted since its start    failed
    #   down: its process exited, and may_be_inactive() is false      failed
    #   down, and may_be_inactive() is true                           runs: watched no longer
    #   down in any other way                                         stopped by somebody
    #   exited with RemainAfterExit=yes                               runs: watched no longer
    #   new InvocationID, no auto-restart: somebody restarted it      watched from the start again
    #   running for `seconds`, and settled                            runs: watched no longer
    #   anything else                                                 none yet: look() again

    def look(self, shown: 'Dict[str, Unit]') -> bool:
        """Judge the units as they are now. Return True if there is nothing left to watch.

        shown: show_units(names). Raises UnitError if a unit failed, SystemdError if one does not
        settle within SYSTEMCTL_TIMEOUT_SECONDS.
        """
        now = self.clock.monotonic()
        if not self._started:
            self._started = dict(shown)
            self._until = dict.fromkeys(self.names, now + self._seconds)
            self._end = now + self._seconds + SYSTEMCTL_TIMEOUT_SECONDS
        watched = [name for name in self.names if name not in self.stopped]
        self._raise_for([shown[name] for name in watched if self._is_failure(name, shown[name])],
                   ' after the restart')
        waiting = [name for name in watched if self._is_undecided(name, shown[name], now)]
        if waiting and now > self._end:
            units = ' '.join(waiting)
            raise SystemdError(
                f'{units}: still starting or stopping',
                f'see: systemctl{self.manager} status {units}; the restart stays due')
        return not waiting

    def _is_failure(self, name: str, unit: Unit) -> bool:
        return (unit.has_failed or unit.restarts > self._started[name].restarts
                or (unit.is_down and unit.has_exited() and not unit.may_be_inactive()))

    def _is_undecided(self, name: str, unit: Unit, now: float) -> bool:
        """Return whether to look() again at a unit that has not failed.

        Also records that it was stopped, or that somebody restarted it.
        """
        if unit.is_down:
            # systemd may unload a unit that ended well, and then no longer shows how it ended
            if not unit.may_be_inactive():
                self.stopped.append(name)
            return False
        if unit.is_done:
            return False
        started = self._started[name]
        if unit.invocation != started.invocation and unit.restarts <= started.restarts:
            self._started[name], self._until[name] = unit, now + self._seconds
        return now < self._until[name] or not unit.is_settled

    def needs_restart(self, noted: 'Sequence[str]') -> bool:
        """Return whether units are left that have not restarted since an earlier run's note().

        From then on, restart() restarts only these. noted: what note() returned in that run.
        Raises UnitError if a unit started since then and failed, SystemdError if systemd does not
        answer.
        """
        known = dict(each.split(' ') for each in noted)
        shown = show_units(self.names, self.manager)
        self.ids = {unit.id for unit in shown.values()}
        started = [name for name in self.names
                   if name in known and shown[name].invocation not in ('', known[name])]
        self._raise_for([shown[name] for name in started
                    if shown[name].has_failed and shown[name].state == 'failed'],
                   ' after latest changed')
        # with Confirm=0, no look() follows that would find a failed start: restart() finds it
        if self._seconds:
            self._pending = [name for name in self.names
                             if name not in started or shown[name].has_failed]
        return bool(self._pending)

    def _raise_for(self, failed: 'Sequence[Unit]', when: str) -> None:
        """Raise UnitError if there are failed units."""
        if failed:
            raise UnitError(', '.join(unit.describe() for unit in failed) + when,
                            f'see: journalctl{self.manager} '
                            + ' '.join('-u ' + unit.id for unit in failed))


def check_manager(manager: str) -> None:
    """Raise ConfigError if root runs Tako with Manager=user."""
    if manager and os.getuid() == 0:
        raise ConfigError('Manager=user is set, but root runs Tako: as root, systemctl --user '
                          'does not reach the units of another user',
                          'run Tako as the user whose units these are, or remove Manager=user')


def is_shutting_down(manager: str) -> bool:
    """Return whether this systemd stops all its units: the machine shuts down, or the user left."""
    return _systemctl(manager, 'is-system-running')[1].strip() == 'stopping'


def _ask_systemd(manager: str, *arguments: str) -> str:
    """Return the output of a systemctl command that changes nothing. Retry it for some seconds.

    Raises SystemdError, SystemdUnreachableError.
    """
    for number in range(SYSTEMCTL_TRIES):
        if number:
            time.sleep(SYSTEMCTL_PAUSE_SECONDS * 2 ** (number - 1))
        code, output, errors = _systemctl(manager, *arguments)
        if code == 0:
            return output
        is_systemd = 'not been booted with systemd' not in errors
        if not is_systemd:              # another init system runs: a retry is in vain
            break
    kind = SystemdUnreachableError if is_systemd else SystemdError
    raise kind(f'systemctl{manager} cannot reach systemd (exit code {code}): '
               + '; '.join(errors.splitlines()),
               'to run the units of this user without a login, run as root: '
               f'loginctl enable-linger {os.getuid()}' if manager else 'see: systemctl status')


def _systemctl(manager: str, verb: str, *arguments: str) -> 'Tuple[int, str, str]':
    """Run systemctl. Return its exit code, stdout and stderr. For `manager` see Config.

    Kill it after SYSTEMCTL_TIMEOUT_SECONDS, and return TIMED_OUT. Raises SystemdError if it cannot
    be run.
    """
    import subprocess
    environ = {name: value for name, value in os.environ.items()
               if not name.startswith('SYSTEMD_LOG_')}
    environ.update(LC_ALL='C', SYSTEMD_COLORS='0', SYSTEMD_PAGER='')
    environ.pop('LANGUAGE', None)
    # cron does not set this variable, and su may leave that of the user before
    if manager and not os.path.exists(environ.get('XDG_RUNTIME_DIR', '') + '/systemd/private'):
        environ['XDG_RUNTIME_DIR'] = f'/run/user/{os.getuid()}'
    try:
        process = subprocess.Popen(
            ['systemctl', verb, '--no-ask-password', *manager.split(), *arguments], env=environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise SystemdError(f'cannot run systemctl: {error.strerror}',
                           'without systemd, remove Restart= from the config') from None
    try:
        with process.stdout, process.stderr:        # type: ignore[union-attr]
            code, output, errors = _read_until_end(process, process.stdout, process.stderr)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return code, output.decode('utf-8', 'replace'), errors.decode('utf-8', 'replace').strip()


def _read_until_end(process: 'subprocess.Popen[bytes]',
                    *streams: 'Any') -> 'Tuple[int, bytes, bytes]':
    """Return the exit code of a process and what it wrote to two pipes.

    - If the process exited, read what is in the pipes, and do not wait for their end: a child that
      outlives the process may hold them open.
    - If it closed both pipes, wait until it exits.
    - If SYSTEMCTL_TIMEOUT_SECONDS pass first, kill it and return TIMED_OUT.
    """
    import select
    import subprocess
    poll, contents = select.poll(), {stream.fileno(): bytearray() for stream in streams}
    for descriptor in contents:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + SYSTEMCTL_TIMEOUT_SECONDS
    open_count = len(contents)
    while True:
        code = process.poll()           # before the pipes: all output up to the exit is read below
        ready = poll.poll(PIPE_POLL_SECONDS * 1000 if open_count and code is None else 0)
        for descriptor, _ in ready:
            block = os.read(descriptor, BLOCK_BYTES)
            contents[descriptor] += block
            if not block:
                poll.unregister(descriptor)
                open_count -= 1
        if code is not None and not ready:
            output, errors = contents.values()
            return code, bytes(output), bytes(errors)
        if code is None and (not open_count or time.monotonic() > deadline):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return TIMED_OUT, b'', b'no answer within %d seconds' % SYSTEMCTL_TIMEOUT_SECONDS


# ======================================================================== 15 report

QUIET, NORMAL, VERBOSE = -1, 0, 1           # levels of a Report
ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7    # priorities of the journal, as in syslog(3)


def printable(text: str) -> str:
    """Return a text with its control characters escaped."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Report:
    """Prints results to stdout, and errors, warnings, steps and progress to stderr.

    `level` decides what is printed: errors always, results and warnings unless it is QUIET, and
    each step if it is VERBOSE, or NORMAL with a terminal. journal: the variable JOURNAL_STREAM.
    """

    def __init__(self, out: 'Optional[TextIO]', err: 'Optional[TextIO]', journal: str = '') -> None:
        self._out = out
        self._err = err
        self._journal = journal
        self._progress: Optional[Progress] = None   # the download whose line is on the terminal
        self.level = NORMAL
        self.has_lost_output = False    # a line for stdout could not be written
        self.hint_if_lost = ''          # the hint of that error, instead of a general one
        self._errors: Set[Tuple[str, str]] = set()      # label and text of each printed error
        self._secrets: Set[str] = set()

    def hide(self, secret: str) -> None:
        """Print `...` instead of this secret from now on: a server may repeat what it was sent."""
        if len(secret) >= 8:            # a shorter one may be part of any word
            self._secrets.add(secret)

    def without_secrets(self, text: str) -> str:
        """Return a text without those secrets, nor secret keys: one may be in a wrong place."""
        for secret in self._secrets:
            text = re.sub(re.escape(secret), '...', text, flags=re.IGNORECASE)
        return re.sub(re.escape(SECRET_KEY_PREFIX) + '[^ ]+', SECRET_KEY_PREFIX + '...', text)

    def message(self, text: str) -> str:
        """Return the text of an error as it is printed and stored: without secrets, and cut."""
        text = self.without_secrets(text)
        return text if len(text) <= MESSAGE_MAX_CHARS else text[:MESSAGE_MAX_CHARS] + '...'

    def result(self, *lines: str) -> None:
        """Print what the user asked for, or what changed."""
        if self.level >= NORMAL:
            self._print(self._out, INFO, *lines)

    def unchanged(self, line: str) -> None:
        """Print that there was nothing to do, if stdout is a terminal: cron mails all output."""
        if self._shows_steps(self._out):
            self._print(self._out, INFO, line)

    def step(self, line: str) -> None:
        """Print what the program does next."""
        if self._shows_steps(self._err):
            self._print(self._err, DEBUG, 'tako: ' + self.without_secrets(line))

    def _shows_steps(self, stream: 'Optional[TextIO]') -> bool:
        is_terminal = stream is not None and stream.isatty()
        return self.level == VERBOSE or (self.level == NORMAL and is_terminal)

    def warning(self, label: str, what: str, hint: str) -> None:
        """Print what went wrong although the run goes on, and on a second line what to do about it.

        label: what the message is about, such as a config's path; empty for the whole run.
        """
        if self.level >= NORMAL:
            self._print_problem(WARNING, 'warning: ' + label if label else 'warning', what, hint)

    def error(self, label: str, error: Exception) -> int:
        """Print an error that ended a step, once for each label and line. Return its exit code."""
        known = as_tako_error(error)
        where = label if known.line is None else f'{label}:{known.line}'
        if (where, known.what) not in self._errors:
            self._errors.add((where, known.what))
            self._print_problem(ERROR, where, known.what, known.hint)
        return known.exit_code

    def progress(self, label: str, size: int, total: int) -> None:
        """Draw a line that says how far an image is read or downloaded, if stderr is a terminal.

        size, total: how many bytes there are already, and will be; total is 0 if it is unknown.
        """
        err = self._err
        if self.level == QUIET or err is None or not err.isatty():
            return
        now = time.monotonic()
        progress = self._progress       # which another thread may set to None meanwhile
        if progress is None or progress.label != label:
            progress = self._progress = Progress(label, size, now)
        if now - progress.drawn >= PROGRESS_EVERY_SECONDS:
            self._progress, progress.drawn = progress, now
            rate = max(1.0, (size - progress.first_size) / (now - progress.began))
            line = f'{label}: {size / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s '
            if total:
                line = '{}: {:.1f} of {:.1f} MB, {:.1f} MB/s, {:.0f} s left '.format(
                    label, size / 1e6, total / 1e6, rate / 1e6, (total - size) / rate)
            columns = os.get_terminal_size(err.fileno()).columns or 80
            # cut, so that it does not wrap
            err.write('\r{}\x1b[K'.format(printable(line)[-(columns - 1):]))
            err.flush()

    def meter(self, label: str, total: int) -> 'Callable[[int], None]':
        """Return progress() as a function of the size alone."""
        return lambda size: self.progress(label, size, total)

    def clear_progress(self) -> None:
        """Remove the line that progress() has drawn."""
        if self._progress is not None and self._err is not None:
            self._progress = None
            try:
                self._err.write('\r\x1b[K')
                self._err.flush()
            except OSError:             # the terminal is gone
                pass

    def _print_problem(self, priority: int, where: str, what: str, hint: str) -> None:
        text = self.message(f'{where}: {what}' if where else what)
        self._print(self._err, priority, 'tako: ' + text, *(['  ' + hint] if hint else []))

    def _print(self, stream: 'Optional[TextIO]', priority: int, *lines: str) -> None:
        """Print lines in any locale, with control characters escaped. Prefix them for the journal.

        If the stream cannot be written, the run continues, and exits with 1 if that was stdout.
        """
        if stream is None:              # closed before the program started
            return
        is_journal = self._journal and self._journal == _journal_name(stream)
        prefix = f'<{priority}>' if is_journal else ''      # sd-daemon(3)
        encoding = stream.encoding or 'ascii'
        text = ''.join(prefix + printable(line) + '\n' for line in lines)
        try:
            self.clear_progress()
            stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))
            stream.flush()
        except OSError as error:
            if stream is self._out and not self.has_lost_output:
                self.has_lost_output = True
                # a reader such as head may close the pipe early
                if self.hint_if_lost or not isinstance(error, BrokenPipeError):
                    self._print_problem(
                        ERROR, 'cannot write to standard output', error.strerror or str(error),
                        self.hint_if_lost or 'check where it goes; the command itself did its work')


class Progress:
    """The progress of one file on the terminal; sizes are in bytes, times are monotonic."""

    def __init__(self, label: str, size: int, now: float) -> None:
        self.label = label
        self.first_size = size
        self.began = self.drawn = now


def format_size(size: int) -> str:
    """Return a number of bytes as text, such as '2.9 MB'."""
    unit, divisor = (('kB', 1e3) if size < 999.5e3 else ('MB', 1e6) if size < 999.5e6
                     else ('GB', 1e9))
    return '{:.{}f} {}'.format(size / divisor, 1 if size < 99.95 * divisor else 0, unit)


def join_names(names: 'Sequence[str]') -> str:
    """Return names separated by commas; after NAMES_MAX of them, how many more there are."""
    more = len(names) - NAMES_MAX
    return ', '.join(names[:NAMES_MAX]) + (f' and {more} more' if more > 0 else '')


def format_table(rows: 'Iterable[Sequence[str]]') -> 'List[str]':
    """Return the lines of a table, whose first row has the headings."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _journal_name(stream: 'TextIO') -> str:
    """Return what JOURNAL_STREAM contains if this stream goes to the journal (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return ''
    return f'{status.st_dev}:{status.st_ino}'


# ======================================================================== 16 download
#
# An image is downloaded with the first strategy that works with one of the mirrors:
#
#     RecompressionStrategy   a recompression patch for the older image that is here, if the index
#                             lists one, and it is faster or the line is metered
#     PatchStrategy           an ordinary patch for it, if the index lists one
#     RangeStrategy           copies of the chunks that it has, the others as ranges
#     WholeStrategy           the whole image
#
# What a strategy downloaded stays for the next attempt, with this mirror or another, in this run or
# the next. A strategy that is given up is reported once, and not tried again in this run.

class Mirrors:
    """The origins of one config in one run. A mirror that fails is reported and no longer used.

    warn: called with each mirror that failed while another one succeeded, and with its error. step:
    prints what comes next.
    """

    def __init__(self, origins: 'Sequence[Origin]', client: HttpClient,
                 warn: 'Callable[[Origin, TakoError], object]',
                 step: 'Callable[[str], object]') -> None:
        self.usable = list(origins)
        self._client = client
        self._warn = warn
        self._step = step

    def first(self, attempt: 'Callable[[Origin], T]') -> 'T':
        """Call `attempt` for one mirror after the other until it succeeds, and return its result.

        If all fail, those that raised TransientError are tried again, after pauses. In the end this
        raises one of the errors: GoneError if there is one, otherwise the most severe.
        """
        errors: Dict[Origin, TakoError] = {}
        for waiting in self._rounds(errors):
            for origin in waiting:
                try:
                    result = attempt(origin)
                except TakoError as error:
                    errors[origin] = error
                else:
                    errors.pop(origin, None)
                    self._leave_out(errors)
                    return result
        raise self._most_severe(errors)

    def each(self, attempt: 'Callable[[Origin], T]') -> 'List[T]':
        """Call `attempt` for every mirror, and return the results in order.

        If all fail, go on as first() does. The time left is shared, so that a slow mirror does not
        use up that of the others, nor that of the download if there is a result.
        """
        errors: Dict[Origin, TakoError] = {}
        results: List[T] = []
        for waiting in self._rounds(errors):
            for number, origin in enumerate(waiting):
                shares, seconds = len(waiting) - number, float('inf')
                if results:
                    shares += 1
                if shares > 1:
                    seconds = min(MANIFEST_SECONDS, self._client.deadline.remaining() / shares)
                try:
                    with self._client.deadline.limit(
                            seconds,
                            f'{origin.url}: no complete manifest after {seconds:.0f} seconds',
                            'check the speed of this mirror'):
                        results.append(attempt(origin))
                    errors.pop(origin, None)
                except TakoError as error:
                    errors[origin] = error
            if results:
                self._leave_out(errors)
                return results
        raise self._most_severe(errors)

    def _rounds(self, errors: 'Mapping[Origin, TakoError]') -> 'Iterator[List[Origin]]':
        """Yield the mirrors to try: all, then, after each pause, those to try again.

        `errors` has the newest error of each mirror of the last round.
        """
        waiting = list(self.usable)
        while waiting:
            yield waiting
            again = self._client.backoff.pause({origin.url: errors[origin] for origin in waiting},
                                               self._client.deadline.remaining(), self._step)
            waiting = [origin for origin in waiting if origin.url in again]

    def _leave_out(self, errors: 'Mapping[Origin, TakoError]') -> None:
        """Report the mirrors that failed, and use them no more."""
        for origin, error in errors.items():
            self.usable.remove(origin)
            self._warn(origin, error)

    def _most_severe(self, errors: 'Mapping[Origin, TakoError]') -> TakoError:
        """Return the error to raise if all mirrors failed, and report the others."""
        worst = max(errors.values(), key=lambda error: (isinstance(error, GoneError),
                                                        SEVERITY.index(error.exit_code)))
        for origin, error in errors.items():
            if not (error is worst or isinstance(error, GoneError)):
                self._warn(origin, error)
        return worst


# The range support of an origin, as far as its answers have shown it. It is SINGLE if the origin
# serves one range a request, MULTIPART if it serves several.
UNKNOWN, SINGLE, MULTIPART = range(3)


class Transfer:
    """What the strategies of one download share: the image, and how to receive a body.

    received: how many bytes all bodies had. rate: bytes per second of the last body that had at
    least RATE_MIN_SAMPLE_BYTES; infinite before. index: the chunk index of the image, once
    downloaded. assembly: if there is one, the partial file holds parts of the image; otherwise its
    beginning.
    """

    def __init__(self, entry: Entry, destination: Destination, partial: PartialFile,
                 client: HttpClient, report: Report, label: str) -> None:
        self.entry = entry
        self.destination = destination
        self.partial = partial
        self.client = client
        self.report = report
        self.label = label
        self.progress_label = f'{label}: {entry.version}'
        self.received = 0
        self.rate = float('inf')
        self.index = b''
        self.assembly: Optional[Assembly] = None
        self._etags: Dict[str, str] = {}        # of images and patches, by URL
        self._events: Set[Tuple[str, object]] = set()

    def step(self, line: str) -> None:
        """Report a step of this download."""
        self.report.step(f'{self.label}: {line}')

    def warn(self, what: str, hint: str = '') -> None:
        """Print why the whole image is downloaded."""
        self.report.warning(self.label, what + '; downloading the whole image',
                            hint or 'tell the administrator of the server if this persists')

    def is_first(self, event: str, place: object) -> bool:
        """Return True the first time that this event happens at a URL or host in this download."""
        is_first = (event, place) not in self._events
        self._events.add((event, place))
        return is_first

    def read(self, answer: Answer, limit: int) -> bytes:
        """Return a whole body. Raises RefusedError if it has more than `limit` bytes."""
        return join_at_most(limit, self._counted(answer.chunks), answer.url)

    def _counted(self, chunks: 'Iterable[bytes]') -> 'Iterator[bytes]':
        for chunk in chunks:
            self.received += len(chunk)
            yield chunk

    def _timed(self, chunks: 'Iterable[bytes]') -> 'Iterator[bytes]':
        """Count the chunks of a body that was not requested ahead, so that its time is known."""
        began, before = time.monotonic(), self.received
        yield from self._counted(chunks)
        if self.received - before >= RATE_MIN_SAMPLE_BYTES:
            self.rate = (self.received - before) / max(0.001, time.monotonic() - began)

    def receive(self, url: str, origin: Origin, size: int, partial: PartialFile,
                answer: 'Optional[Answer]' = None, cache_control: str = '') -> None:
        """Append to `partial` the bytes that it lacks of the `size` bytes at `url`.

        answer: to a request for `url` without Range, if it was made before. The cases:

            206 with the range that was requested    append the body
            200                                      skip the bytes that are here, append the rest
            another answer, or a body of 206         request it once more, without Range
            that is too long

        Raises RefusedError if the file at `url` has another size, UnreachableError otherwise.
        """
        begin, headers = partial.size, {'Cache-Control': cache_control}
        try:
            answer = answer or self._resume(url, origin, begin, headers)
            try:
                self._append(answer, url, size, partial)
            except RefusedError:
                if answer.status == 200:
                    raise
                self._append(self.client.open(url, origin.authorization, headers),
                             url, size, partial)
        except TransientError as error:
            if partial.size - begin >= PROGRESS_MIN_BYTES:
                raise CutShortError(error.what, error.hint) from error
            raise

    def _resume(self, url: str, origin: Origin, begin: int, headers: 'Dict[str, str]') -> Answer:
        """Request what follows the first `begin` bytes at `url`.

        Some gateways fail over Range, with any status. So if it fails, request the whole file once.
        If that succeeds, request whole files from this host for the rest of the run.
        """
        host, client = endpoint(url), self.client
        if not begin or host in client.rangeless_hosts:
            return client.open(url, origin.authorization, headers)
        ranged = {'Range': f'bytes={begin}-', 'If-Range': self._etags.get(url, '')}
        try:
            return client.open(url, origin.authorization, dict(headers, **ranged))
        except GoneError:
            raise
        except UnreachableError:
            if not self.is_first('range failed', host):
                raise
            answer = client.open(url, origin.authorization, headers)
            client.rangeless_hosts.add(host)
            return answer

    def _append(self, answer: Answer, url: str, size: int, partial: PartialFile) -> None:
        """Append a body, unless it is not of the bytes that are missing, or too long."""
        begin, sha256, skipped = partial.size, partial.sha256.copy(), 0
        if answer.status == 200:
            skipped = begin
        elif answer.headers.get('content-range') not in (f'bytes {begin}-{size - 1}/{size}',
                                                         f'bytes {begin}-{size - 1}/*'):
            raise RefusedError(f'{answer.url}: sent another range than was requested')
        length = skipped + size - begin
        if answer.length not in (None, length):
            raise _wrong_image(answer.url, f'has {amount(answer.length, "byte")}',
                               f'not {size}')
        self._etags[url] = answer.strong_etag()
        try:
            for chunk in at_most(length, self._timed(answer.chunks), answer.url):
                partial.write(chunk[skipped:])
                skipped = max(0, skipped - len(chunk))
                self.report.progress(self.progress_label, partial.size, size)
        except RefusedError:
            partial.cut_back(begin, sha256)     # no byte of a wrong body is worth keeping
            raise
        if partial.size != size:
            raise TransientError(f'{answer.url}: ended {amount(size - partial.size, "byte")} early')


class RemoteIndex:
    """The chunk index of an image at one origin, and what the origin's answers have shown.

    patches: the size in bytes of each patch that the index lists, by the older image's SHA-256.
    range_support: UNKNOWN, SINGLE or MULTIPART.
    """

    def __init__(self, transfer: Transfer, origin: Origin) -> None:
        self.origin = origin
        self.image_url = f'{origin.url}/store/{transfer.entry.digest}'
        self.url = self.image_url + '.chunks'
        self.patches: Dict[str, int] = {}
        self.range_support = UNKNOWN
        self._transfer = transfer
        self._size = transfer.entry.size
        self._limit = index_max_bytes(self._size)
        self._head = b''
        self._is_complete = False       # whether the head is all of the index
        # a small image, or one on this disk, costs less than its index
        self._is_given_up = self._size < DELTA_MIN_BYTES or origin.url.startswith('file:')

    def join_ranges(self, ranges: 'Sequence[Range]') -> 'List[Range]':
        """Return the ranges, joined over gaps that cost less than another request."""
        return join_ranges(ranges, 0 if self.range_support == MULTIPART else RANGE_GAP_BYTES)

    def download_head(self) -> bool:
        """Download the head of the index, with its list of patches. Return False if there is none.

        Raises TransientError the first time that the origin fails.
        """
        return not self._is_given_up and self._usable(self._read_head) is not None

    def download_body(self) -> 'Optional[ChunkIndex]':
        """Download what the head lacks. Returns and raises as download_head()."""
        return self._usable(self._read_body)

    def download_all(self) -> None:
        """Download the index for the next update, if this origin has one."""
        if self._is_given_up:
            return
        try:
            raw = self._read_all()
            parse_patches(raw, self._size)      # the rest is checked when the index is used
            self._transfer.index = raw
        except (UnreachableError, RefusedError, ValueError):
            pass

    def _usable(self, read: 'Callable[[], T]') -> 'Optional[T]':
        """Return what `read` returns, or None if this origin has no usable index."""
        try:
            return read()
        except AbsentError:                     # most servers have none
            return None
        except (UnreachableError, RefusedError) as error:
            if isinstance(error, TransientError) and self._transfer.is_first('failed', self.url):
                raise
            self._transfer.warn(error.what)
        except ValueError as error:
            version = self._transfer.entry.version
            self._transfer.warn(f'{self.url}: not the index of {version}: {error}',
                                'tell the publisher')
        self._is_given_up = True
        return None

    def _open(self, ranges: str = '') -> Answer:
        # publishers may replace an index, so a cache has to ask whether its copy is the newest
        headers = {'Range': ranges, 'Cache-Control': 'no-cache'}
        return self._transfer.client.open(self.url, self.origin.authorization, headers)

    def _read_all(self) -> bytes:
        return self._transfer.read(self._open(), self._limit)

    def _read_head(self) -> bool:
        """Download INDEX_HEAD_BYTES, or all of the index where the server has it otherwise."""
        answer = self._open(f'bytes=0-{INDEX_HEAD_BYTES - 1}')
        self._head = self._transfer.read(answer, self._limit)
        total = answer.headers.get('content-range', '').partition('/')[2]
        self._is_complete = answer.status == 200 or total == str(len(self._head))
        if not self._is_complete and len(self._head) != INDEX_HEAD_BYTES:
            self._head, self._is_complete = self._read_all(), True
        self.patches = parse_patches(self._head, self._size)
        return True

    def _read_body(self) -> ChunkIndex:
        raw = self._head
        if not self._is_complete:
            rest = self._probe_ranges()
            raw = self._read_all() if rest is None else self._head + rest
        index = parse_index(raw, self._size)
        self._transfer.index = raw
        return index

    def _probe_ranges(self) -> 'Optional[bytes]':
        """Request the end of the head and what follows the head, as two ranges. Return the latter.

        A byte lies between them: Apache makes one range of two that touch. The cases:

            206 with both ranges           the origin supports several ranges a request
            206 with one range of both     lighttpd, among others, joins ranges that are near
            200                            the origin supports one range a request
            another answer                 None: some servers stumble over two ranges
        """
        begin, last = INDEX_HEAD_BYTES - 1 - INDEX_PROBE_BYTES, INDEX_HEAD_BYTES - 2
        try:
            answer = self._open(f'bytes={begin}-{last},{INDEX_HEAD_BYTES}-')
            raw = self._transfer.read(answer, self._limit + 2 * RANGE_FRAMING_BYTES)
            end = begin + len(raw)
            if answer.status == 200:
                return raw[INDEX_HEAD_BYTES:]
            if answer.headers.get('content-range') == f'bytes {begin}-{end - 1}/{end}':
                return raw[INDEX_HEAD_BYTES - begin:]
            (one, _), (two, rest) = parse_byteranges(raw, answer.headers.get('content-type', ''))
            if (one.startswith(f'bytes {begin}-{last}/')
                    and two.startswith(f'bytes {INDEX_HEAD_BYTES}-')):
                self.range_support = MULTIPART
                return rest
        except (UnreachableError, ValueError):
            pass
        return None


class Assembly:
    """An image that is put together in a partial file, of an older image and of ranges.

    older_index: the stored index of the older image, if it is trusted. ranges: those not yet
    downloaded. taken: how many bytes of ranges came. relies_on_stored_index: whether older_index
    was used; otherwise the older image itself was cut into chunks.
    """

    def __init__(self, index: ChunkIndex, partial: PartialFile, older: 'BinaryIO',
                 older_index: 'Optional[ChunkIndex]') -> None:
        self._index = index
        self._partial = partial
        self._older = older
        self._read = 0
        self._is_begun = False
        self.relies_on_stored_index = older_index is not None and (
            (older_index.method, older_index.average) == (index.method, index.average))
        chunks = (older_index.chunks() if older_index is not None and self.relies_on_stored_index
                  else hashed_chunks(self._read_older, index.method, index.average))
        self._plan = plan_image(index, find_chunks(index, chunks), self._present())
        self.ranges = self._plan.ranges
        self.taken = 0

    def _read_older(self, size: int) -> bytes:
        block = read_older(self._older.fileno(), self._read, size)
        self._read += len(block)
        return block

    def _present(self) -> bytearray:
        """Return a byte for each chunk: 1 if the partial file has it in its place."""
        present, begin, size = bytearray(), 0, self._partial.size
        for key, length in self._index.chunks():
            present.append(begin < size
                           and chunk_hash(self._partial.read_at(begin, length)) == key)
            begin += length
        return present

    def lacks(self) -> int:
        """Return how many bytes are still to be downloaded."""
        return sum(each.end - each.begin for each in self.ranges)

    def begin(self) -> None:
        """Copy from the older image, unless done before. Raises EOFError if it has changed."""
        if not self._is_begun:
            self._partial.extend(self._index.size)
            for source, begin, size in self._plan.copies:
                self._partial.copy(self._older.fileno(), source, begin, size)
            self._is_begun = True

    def take(self, data: bytes) -> None:
        """Write the bytes of the first range. Raises ValueError if they are not its chunks."""
        begin, end, number = self.ranges[0]
        if len(data) != end - begin:
            raise ValueError('cut short')
        at = 0
        while at < len(data):
            length = self._index.lengths[number]
            if chunk_hash(data[at:at + length]) != self._index.hash_of(number):
                raise ValueError('not what its index says')
            at, number = at + length, number + 1
        self._partial.write_at(begin, data)
        self.taken += len(data)
        del self.ranges[0]

    def finish(self) -> None:
        """Copy chunks that occur more than once, and hash the image."""
        for source, begin, size in self._plan.repeats:
            self._partial.copy(self._partial.descriptor(), source, begin, size)
        self._partial.hash_again()


class GivenUpError(Exception):
    """The older image is of no use in this run: only a download of the whole image is left.

    The text says what is wrong; it is empty if nothing is. hint: what to do, if that is on this
    machine. answer: to a request for the whole image, if an origin gave one; its body is not read
    yet.
    """

    def __init__(self, what: str = '', hint: str = '', answer: 'Optional[Answer]' = None) -> None:
        super().__init__(what)
        self.hint = hint
        self.answer = answer

    @classmethod
    def over(cls, url: str, error: Exception) -> 'GivenUpError':
        """Return the GivenUpError for an error while the file at `url` was used."""
        what, hint = str(error), ''
        if isinstance(error, (MemoryError, OSError)):
            known = as_tako_error(error)
            what, hint = known.what, known.hint
        elif isinstance(error, RuntimeError):           # no new thread
            hint = 'allow more threads'
        return cls(f'{url}: {what}', hint)


class DeltaStrategy:
    """A way to make an image of an older one, which is open, and of less than the whole image."""

    def __init__(self, transfer: Transfer, older: 'BinaryIO', older_digest: str) -> None:
        self._transfer = transfer
        self._partial = transfer.partial
        self._entry = transfer.entry
        self._older = older
        self._older_digest = older_digest

    def attempt(self, remote: RemoteIndex) -> bool:
        """Complete the partial file with what one origin has, or return False.

        remote: the index there; its head was downloaded, unless there is an assembly. The cases:

            False               the next strategy is tried
            TransientError      another attempt may succeed
            UnreachableError    another origin may be able to do it
            GivenUpError        no strategy that uses the older image is worth an attempt
        """
        raise NotImplementedError

    def check_digest(self) -> None:
        """Raises ValueError if the partial file is not the signed image."""
        if self._partial.sha256.hexdigest() != self._entry.digest:
            raise ValueError('does not make the signed image')


class PatchStrategy(DeltaStrategy):
    """Downloads a patch, of which a part stays for later runs, and applies it."""

    def attempt(self, remote: RemoteIndex) -> bool:
        """Apply the patch that the index lists. See DeltaStrategy."""
        size = remote.patches.get(self._older_digest, 0)
        return (self._transfer.assembly is None
                and 0 < size <= DELTA_MAX_SHARE * self._entry.size and self._can_apply(size)
                and self._use(remote, f'{remote.image_url}.{self._older_digest}.patch', size,
                              self._partial_path(self._older_digest)))

    def _partial_path(self, older: str) -> str:
        return self._transfer.destination.partial_patch_path(self._entry.digest, older)

    def _use(self, remote: RemoteIndex, url: str, size: int, path: str) -> bool:
        """Download the patch of `size` bytes at `url` to `path`, and apply it. See attempt()."""
        transfer = self._transfer
        try:
            with PartialFile(path) as patch:
                if patch.size > size:           # the publisher made it again, or the server lies
                    if not transfer.is_first('shrunk', url):
                        raise PatchError('has one size and then another')
                    patch.clear()
                self._download(url, remote.origin, size, patch)
            self._apply(path)
        except UnreachableError as error:
            is_retried = isinstance(error, TransientError) and transfer.is_first('failed', url)
            if is_retried or isinstance(error, CutShortError):
                raise
            return False
        except OSError as error:
            if error.errno in NO_SPACE:         # the patch itself may fill the disk
                remove_if_there(path)
            elif error.filename == path:
                transfer.step(f'{url}: not used: {path}: {error.strerror}')
                return False
            raise
        except (ValueError, EOFError, RefusedError, MemoryError) as error:
            remove_if_there(path)
            self._partial.clear()
            raise GivenUpError.over(url, error) from None
        remove_if_there(path)
        return True

    def _can_apply(self, size: int) -> bool:
        """Return True if this Python has lzma, and the disk space for a patch of `size` bytes."""
        try:
            import lzma                         # noqa: F401
            self._transfer.destination.check_space(
                self._entry.size - self._partial.allocated() + size)
        except (ImportError, TakoError):
            return False
        return True

    def _download(self, url: str, origin: Origin, size: int, patch: PartialFile) -> None:
        """Download what `patch` lacks of `size` bytes."""
        verb = 'resuming the download of' if patch.size else 'downloading'
        self._transfer.step(f'{verb} a patch to {self._entry.version}, '
                            f'{format_size(size - patch.size)}, from {origin.url}')
        if patch.size < size:
            self._transfer.receive(url, origin, size, patch)

    def _apply(self, path: str) -> None:
        """Write the image. Raises ValueError if it is another, EOFError as read_older()."""
        read_old = functools.partial(read_older, self._older.fileno())
        self._partial.clear()
        with open(path, 'rb') as patch:
            for block in apply_patch(patch, read_old, self._entry.size):
                self._partial.write(block)
        self.check_digest()


def thread_count() -> int:
    """Return how many threads compress: as many as this process has cores, up to a maximum."""
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
             else os.cpu_count() or 1)
    return min(cores, RECOMPRESSION_THREADS_MAX)


def thread_pool() -> 'concurrent.futures.Executor':
    """Return a pool of thread_count() threads. Raises ImportError."""
    import concurrent.futures.thread
    return concurrent.futures.thread.ThreadPoolExecutor(thread_count())


class RecompressionStrategy(PatchStrategy):
    """Applies a recompression patch, if that is faster than to go on without it.

    rate: expected bytes per second; infinite if it is unknown, 0 if bytes count more than time.
    """

    _patch: Recompression

    def __init__(self, transfer: Transfer, older: 'BinaryIO', older_digest: str,
                 rate: float) -> None:
        super().__init__(transfer, older, older_digest)
        self._rate = rate
        self._url = ''
        self._other_bytes = 0           # downloaded without this patch; 0 if unknown
        self._end = float('inf')        # monotonic time at which applying is given up
        self._is_given_up = False

    def attempt(self, remote: RemoteIndex) -> bool:
        """Apply the recompression patch that the index lists. See DeltaStrategy."""
        transfer, older = self._transfer, inverted(self._older_digest)
        size, self._other_bytes = (remote.patches.get(each, 0) for each in (older,
                                                                            self._older_digest))
        most = self._other_bytes or int(DELTA_MAX_SHARE * self._entry.size)
        if (self._is_given_up or transfer.assembly is not None or not 0 < size < most
                or self._saved_seconds(most - size) < RECOMPRESSION_MIN_SECONDS
                or not self._can_apply(size)):
            return False
        path = self._partial_path(older)
        self._url = f'{remote.image_url}.{self._older_digest}.2.patch'
        try:
            return self._use(remote, self._url, size, path)
        except GivenUpError as error:
            fault = error
        except (OSError, RuntimeError) as error:
            fault = GivenUpError.over(self._url, error)
        if str(fault):
            transfer.report.warning(transfer.label, f'{fault}; updating without this patch',
                                    fault.hint or 'tell the publisher if other machines '
                                                  'report this, too')
        self._is_given_up = True
        remove_if_there(path)
        return False

    def _can_apply(self, size: int) -> bool:
        """Return True if this Python has threads and zlib, too."""
        try:
            import concurrent.futures.thread, zlib              # noqa: E401, F401
        except ImportError:
            return False
        return super()._can_apply(size)

    def _saved_seconds(self, size: int) -> float:
        """Return how long it takes to download `size` bytes."""
        return size / self._rate if self._rate else float('inf')

    def _download(self, url: str, origin: Origin, size: int, patch: PartialFile) -> None:
        """Download the head, and the rest if the patch is worth it. Raises GivenUpError."""
        end = HEAD_FIRST_BYTES
        for _ in range(2):                      # then `end` is that of the head
            if patch.size < min(end, size):
                self._download_head(url, origin, size, patch, min(end, size))
            with patch.read_back() as stream:
                end = head_end(stream.read(HEAD_START_BYTES))
        with patch.read_back() as stream:
            self._patch = Recompression(
                stream, functools.partial(read_older, self._older.fileno()),
                os.fstat(self._older.fileno()).st_size, self._entry.size)
        self._decide(size - patch.size)
        super()._download(url, origin, size, patch)

    def _download_head(self, url: str, origin: Origin, size: int, patch: PartialFile,
                       end: int) -> None:
        """Download up to the offset `end`; the whole patch from a server that answers otherwise."""
        begin, client, transfer = patch.size, self._transfer.client, self._transfer
        headers = {'Range': f'bytes={begin}-{end - 1}'}
        answer = client.open(url, origin.authorization,
                             {} if endpoint(url) in client.rangeless_hosts else headers)
        if answer.headers.get('content-range') != f'bytes {begin}-{end - 1}/{size}':
            return transfer.receive(url, origin, size, patch, answer)
        patch.write(transfer.read(answer, end - begin))
        if patch.size < end:
            raise TransientError(f'{answer.url}: ended {amount(end - patch.size, "byte")} early')

    def _decide(self, lacks: int) -> None:
        """Raise GivenUpError if another way is faster. lacks: bytes still to be downloaded."""
        patch, entry, transfer = self._patch, self._entry, self._transfer
        other_bytes = self._other_bytes or min(int(DELTA_MAX_SHARE * entry.size), sum(
            each.end - each.begin for each in patch.new))
        seconds, saved = self._apply_seconds(), other_bytes - lacks
        transfer.step(f'{self._url}: saves {format_size(max(0, saved))}; compressing '
                      f'{len(patch.new)} blocks ' + (f'takes {seconds:.1f} s' if seconds < 1e9 else
                                                     'makes others than at the publisher'))
        most = min(RECOMPRESSION_MAX_SECONDS, transfer.client.deadline.remaining(),
                   self._saved_seconds(saved) - RECOMPRESSION_MIN_SECONDS)
        if saved <= 0 or seconds > most:
            raise GivenUpError
        self._end = (time.monotonic() + RECOMPRESSION_SLACK * seconds
                     + RECOMPRESSION_SPARE_SECONDS)
        try:
            transfer.destination.check_space(entry.size - self._partial.allocated() + lacks
                                             + sum(each.size for each in patch.old))
        except TakoError as error:
            transfer.step(error.what)
            raise GivenUpError from None

    def _apply_seconds(self) -> float:
        """Return how many seconds applying takes; infinite if the libraries are others here."""
        import lzma
        import zlib
        patch, clock = self._patch, time.perf_counter
        began = clock()
        sample = patch.sample()
        seconds: float = (clock() - began) * sum(each.size for each in patch.old)
        for coder, known in zip(patch.coders, patch.hashes):
            began = clock()
            try:
                if coder_hash(coder, sample) != known:
                    return float('inf')
            except (zlib.error, lzma.LZMAError, ValueError):
                return float('inf')
            # one thread compresses a large content, all threads compress the others
            seconds += (clock() - began) * sum(
                each.size / (1 if each.size > STREAM_HELD_MAX_BYTES else thread_count())
                for each in patch.new if each.coder == coder)
        return seconds / max(1, len(sample))

    def _check(self) -> None:
        """Raise PatchError after the time for this patch, UnreachableError after --timeout."""
        self._transfer.client.deadline.packet_timeout()
        if time.monotonic() > self._end:
            raise PatchError('takes too long to apply')

    def _apply(self, path: str) -> None:
        """Write the image. Raises ValueError as soon as the patch proves invalid."""
        partial, transfer = self._partial, self._transfer
        partial.clear()
        with open(path, 'rb') as patch, thread_pool() as pool, \
                transfer.destination.scratch_file() as scratch:
            for block in self._patch.blocks(patch, scratch, pool.submit, self._check):
                partial.write(block)
                transfer.report.progress(transfer.progress_label, partial.size, self._entry.size)
        if partial.sha256.hexdigest() != self._entry.digest:    # ranges use what is right of it
            raise GivenUpError(f'{self._url}: does not make the signed image')


class RangeStrategy(DeltaStrategy):
    """Copies the chunks that the older image has, and downloads the others as ranges."""

    _trust_stored_index = True

    def attempt(self, remote: RemoteIndex) -> bool:
        """Assemble the image. See DeltaStrategy."""
        transfer = self._transfer
        try:
            transfer.assembly = transfer.assembly or self._plan(remote)
            if transfer.assembly is None:
                return False
            self._fill(remote, transfer.assembly)
        except (ValueError, EOFError, RefusedError, MemoryError) as error:
            if transfer.assembly is None or not transfer.assembly.relies_on_stored_index:
                raise GivenUpError.over(remote.url, error) from None
            # the older image may have changed since its index was stored: read the image itself
            transfer.assembly, self._trust_stored_index = None, False
            return remote.download_head() and self.attempt(remote)
        return True

    def _plan(self, remote: RemoteIndex) -> 'Optional[Assembly]':
        """Return None without an index. Raises GivenUpError if too much would be downloaded."""
        index, older_index = remote.download_body(), None
        if index is None:
            return None
        self._transfer.step(f'comparing {self._entry.version} with the older image')
        # the index beside a damaged image does not say what the image is now
        if self._trust_stored_index and self._older_digest != self._entry.digest:
            with naming(self._older.name):
                older_size = os.fstat(self._older.fileno()).st_size
            older_index = self._transfer.destination.read_index(self._older_digest, older_size)
        assembly = Assembly(index, self._partial, self._older, older_index)
        assembly.ranges = remote.join_ranges(assembly.ranges)
        if self._transfer.received + assembly.lacks() > DELTA_MAX_SHARE * self._entry.size:
            raise GivenUpError
        return assembly

    def _fill(self, remote: RemoteIndex, assembly: Assembly) -> None:
        """Complete the image. Raises ValueError if it is another, EOFError as Assembly.begin()."""
        before = assembly.taken
        try:
            assembly.begin()
            self._download(remote, assembly)
        except TransientError as error:
            if assembly.taken - before >= PROGRESS_MIN_BYTES:
                raise CutShortError(error.what, error.hint) from error
            remote.range_support = SINGLE       # it may fail over several ranges a request
            raise
        assembly.finish()
        self.check_digest()

    def _download(self, remote: RemoteIndex, assembly: Assembly) -> None:
        """Download the ranges that the assembly lacks. The cases:

            the ranges that were requested     the assembly takes them
            200 for one range                  this is the whole image: GivenUpError
            another answer for one range       ValueError
            another answer for several         from now on one range a request
        """
        assembly.ranges = remote.join_ranges(assembly.ranges)
        progress = self._transfer.report.meter(self._transfer.progress_label,
                                               assembly.taken + assembly.lacks())
        self._transfer.step(
            f'downloading {format_size(assembly.lacks())} of {self._entry.version} in '
            f'{amount(len(assembly.ranges), "range")} from {remote.origin.url}')
        # each answer alone may be fast enough, and all of them too slow
        rate = RateWindow(self._transfer.client.deadline, assembly.taken)
        while assembly.ranges:
            groups = _group_ranges(
                assembly.ranges, RANGES_PER_REQUEST if remote.range_support == MULTIPART else 1)
            if remote.range_support == UNKNOWN:
                del groups[1:]
            headers = [
                {'Range': 'bytes=' + ','.join(f'{each.begin}-{each.end - 1}' for each in group)}
                for group in groups]
            answers = self._transfer.client.open_each(
                remote.image_url, remote.origin.authorization, headers)
            try:
                for group, answer in zip(groups, answers):
                    parts = self._read_parts(group, answer)
                    if parts is None:
                        remote.range_support = SINGLE
                        break
                    if remote.range_support == UNKNOWN:
                        remote.range_support = SINGLE
                    for data in parts:
                        assembly.take(data)
                        progress(assembly.taken)
                    fault = rate.fault(assembly.taken)
                    if fault:
                        raise TransientError(f'{answer.url}: {fault}')
            finally:
                answers.close()

    def _read_parts(self, group: 'Sequence[Range]', answer: Answer) -> 'Optional[List[bytes]]':
        """Return the bytes of each range of `group`. For the other cases see _download()."""
        spelled = [f'bytes {each.begin}-{each.end - 1}/{self._entry.size}' for each in group]
        size = sum(each.end - each.begin for each in group)
        if len(group) == 1:
            if answer.status == 200:
                raise GivenUpError(answer=answer)
            if (answer.status, answer.headers.get('content-range')) != (206, spelled[0]):
                raise ValueError('a range was answered with another')
            return [self._transfer.read(answer, size)]
        limit = size + len(group) * RANGE_FRAMING_BYTES
        try:
            body = self._transfer.read(answer, limit) if answer.status == 206 else b''
            parts = parse_byteranges(body, answer.headers.get('content-type', ''))
        except (RefusedError, ValueError):
            return None
        return [data for _, data in parts] if [name for name, _ in parts] == spelled else None


def _group_ranges(ranges: 'Sequence[Range]', most: int) -> 'List[List[Range]]':
    """Return the ranges in groups of at most `most` ranges and at most RANGE_BYTES in all."""
    groups: List[List[Range]] = []
    size = RANGE_BYTES
    for each in ranges:
        size += each.end - each.begin
        if size > RANGE_BYTES or len(groups[-1]) >= most:
            groups.append([])
            size = each.end - each.begin
        groups[-1].append(each)
    return groups


class WholeStrategy:
    """Downloads the whole image, or what the partial file lacks of it."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def attempt(self, remote: RemoteIndex, answer: 'Optional[Answer]' = None) -> None:
        """Complete the partial file with the image of one origin.

        If it comes out as another one, download it from the start, past caches, once from each
        origin: the partial file or what a cache has may be damaged. answer: to a request for the
        image without Range, if it was made before. Raises RefusedError if it is another image
        again, UnreachableError as Transfer.receive().
        """
        url = remote.image_url
        try:
            self._download(remote, answer, '')
        except RefusedError:
            if not self._transfer.is_first('restarted', url):
                raise
            self._download(remote, None, 'no-cache')

    def _download(self, remote: RemoteIndex, answer: 'Optional[Answer]',
                  cache_control: str) -> None:
        """Complete the partial file. If it is another image then, empty it: RefusedError."""
        transfer, url = self._transfer, remote.image_url
        entry, partial = transfer.entry, transfer.partial
        size = format_size(entry.size)
        transfer.step(
            f'resuming the download of {entry.version} at {format_size(partial.size)} of {size} '
            f'from {remote.origin.url}' if partial.size else
            f'downloading {entry.version}, {size}, from {remote.origin.url}')
        if partial.size < entry.size or not entry.size:
            transfer.receive(url, remote.origin, entry.size, partial, answer, cache_control)
        digest = partial.sha256.hexdigest()
        if digest != entry.digest:
            partial.clear()
            raise _wrong_image(url, f'has the SHA-256 {digest}', 'not the signed one')


class ImageDownload(Transfer):
    """The download of one image into its partial file, by one strategy after another.

    is_delta: whether less than the whole image was downloaded in the end.
    """

    is_delta = False
    _deltas: 'Sequence[DeltaStrategy]' = ()
    _has_tried_whole = False

    def run(self, mirrors: Mirrors, older: 'Optional[BinaryIO]', older_digest: str,
            rate: float) -> None:
        """Download the image from the first mirror that has it.

        older: an older image, open, or None; older_digest: its SHA-256. rate: as for
        RecompressionStrategy. Raises as Mirrors.first().
        """
        self._remotes = {origin: RemoteIndex(self, origin) for origin in mirrors.usable}
        self._whole = WholeStrategy(self)
        if older is not None:
            self._deltas = (RecompressionStrategy(self, older, older_digest, rate),
                            PatchStrategy(self, older, older_digest),
                            RangeStrategy(self, older, older_digest))
        try:
            self._run(mirrors)
        except KeyboardInterrupt:
            if self.received:
                self.step(f'stopped: {format_size(self.received)} came and are kept; '
                          'the next fetch resumes the download')
            raise

    def _run(self, mirrors: Mirrors) -> None:
        try:
            mirrors.first(self._attempt)
        except UnreachableError as error:
            if isinstance(error, GoneError) or (self._has_tried_whole and self.assembly is None):
                raise
            # some servers fail over ranges or an index, and yet have the whole image
            mirrors.first(self._attempt_whole)

    def read_index(self, origin: Origin) -> bytes:
        """Return the index of the image, or b''. It spares the next update cutting the image.

        If the whole image was downloaded, download the index from `origin`, too.
        """
        if not self.is_delta:
            self._remotes[origin].download_all()
        return self.index

    def _attempt(self, origin: Origin) -> None:
        """Complete the partial file with what one origin has. The cases:

            there is an assembly, http     ranges; if they are wrong, the whole image
            there is an assembly, file     the whole image, once it is open
            there is none                  the strategies in turn, if there is an index; at last the
                                           whole image
        """
        remote, answer, has_assembly = self._remotes[origin], None, self.assembly is not None
        if has_assembly and origin.url.startswith('file:'):
            return self._attempt_whole(origin)
        try:
            if self._deltas and (has_assembly or remote.download_head()):
                self.is_delta = any(strategy.attempt(remote) for strategy in self._deltas)
        except GivenUpError as error:
            if str(error):
                self.warn(str(error), error.hint)
            self._give_up_deltas()
            answer = error.answer
        if not self.is_delta:
            self._has_tried_whole = True
            self._whole.attempt(remote, answer)

    def _attempt_whole(self, origin: Origin) -> None:
        """Complete the partial file with the whole image; drop the assembly once that is open."""
        remote = self._remotes[origin]
        answer = self.client.open(remote.image_url, origin.authorization)
        self._give_up_deltas()
        self._whole.attempt(remote, answer)

    def _give_up_deltas(self) -> None:
        if self.assembly is not None:
            self.assembly = None
            self.partial.clear()
        self._deltas = ()


def _wrong_image(url: str, what: str, signed: str) -> RefusedError:
    return RefusedError(f'{url}: {what}, {signed}',
                        'tell the publisher: the file on the server was modified or cut short')


# ======================================================================== 17 fetch
#
# plan_fetch() decides what to do, from values alone: --dry-run prints the plan, and ImageFetch
# executes it. Switch points latest at an image, and restarts the units. Runs lets several configs
# take turns.

NO_RESTART, RESTART_LATER, RESTART_NOW = 'no restart', 'restart later', 'restart now'


class FetchPlan(namedtuple('FetchPlan', ('entry', 'skipped', 'fault', 'is_installed', 'restart'))):
    """What a fetch does about one version.

    entry: the version and its image. skipped: why this version is not installed; '' if it may be.
    fault: MISSING, or how the image in the store is damaged; '' if it is intact, and no download is
    needed. is_installed: latest points to the image already. restart: when the units restart, after
    latest points to it: RESTART_NOW, RESTART_LATER (in a later run), or NO_RESTART.
    """

    __slots__ = ()
    entry: Entry
    skipped: str
    fault: str
    is_installed: bool
    restart: str


def plan_fetch(manifest: Manifest, config: Config, state: State, latest: str,
               fault_of: 'Callable[[Entry], str]', is_init: bool,
               waiting: 'Optional[Mapping[str, int]]' = None) -> 'Iterator[FetchPlan]':
    """Yield the plan for each version in bounds, newest first, down to the installed one.

    The caller executes the first that is not skipped; if its image was withdrawn, the next one.
    latest: the SHA-256 of the installed image, or ''. fault_of: returns image_fault() of an entry,
    which reads all of the image, and is only called if its plan is needed. is_init: --init was
    given. waiting: from plan_delay(). No image waits if the installed one is damaged.
    """
    held, until, waiting = None, '', waiting or {}          # held: the newest that waits
    if waiting:         # then an image in bounds is installed, and its fault is asked for twice
        fault_of = functools.lru_cache(maxsize=None)(fault_of)
        installed = next(entry for entry in compatible_entries(manifest, config.bounds)
                         if entry.digest == latest)
    for entry in compatible_entries(manifest, config.bounds):
        is_installed = entry.digest == latest
        skipped = fault = ''
        if held is None and entry.digest in waiting and not fault_of(installed):
            held, until = entry, time.strftime('waits until %Y-%m-%d %H:%M UTC', time.gmtime(
                waiting[entry.digest] + 59))        # the next full minute
        if entry.digest in state.rejected:
            skipped = 'was rejected: a unit failed on it, or it was rolled back'
        elif entry.digest in state.postponed:
            skipped = 'waits until the units run on the installed image'
        elif held and not is_installed:
            skipped = until if held is entry else f'is superseded by {held.version}, which waits'
        else:
            fault = fault_of(entry)
        # the installed image: only if an earlier run left its restart due
        # another image: always, except that --init only keeps a restart that was due already
        is_due = (state.restart_due == latest if is_installed
                  else state.restart_due or not is_init)
        restart = NO_RESTART
        if config.units and is_due:
            restart = RESTART_LATER if is_init else RESTART_NOW
        yield FetchPlan(entry, skipped, fault, is_installed, restart)
        if is_installed and not skipped:
            break


def plan_delay(manifest: Manifest, config: Config, state: State, latest: str, machine: str,
               now: float) -> 'Tuple[Tuple[str, ...], Dict[str, int]]':
    """Return State.seen, brought up to date, and the images that wait for Delay=: {SHA-256: until}.

    An image in bounds waits if it is newer than the installed one, except a recall, and one that
    was rejected or withdrawn. None waits if the installed one is out of bounds or rejected, or once
    an image was seen twice the longest delay ago. Times are in seconds since 1970. latest: the
    SHA-256 of the installed image. machine: a text that no other machine has.
    """
    if config.delay is None:
        return (), {}
    bounds, (shortest, longest) = config.bounds, config.delay
    newer = [entry.digest for entry in newer_entries(manifest, bounds, latest)]
    above = [entry.digest for entry in reversed(manifest.entries)
             if entry.version not in bounds and not entry.version < bounds.lowest]
    noted = {digest: int(seconds) for digest, seconds in (each.split() for each in state.seen)}
    # a time that a wrong clock gave begins again
    seen = {digest: noted[digest] if RELEASED <= noted.get(digest, 0) <= now else int(now)
            for digest in newer + above}
    passed_over = {*state.rejected, *state.postponed, *state.withdrawn, *(
        entry.digest for entry in recalls(manifest) if entry.version in bounds)}
    times = {digest: seen[digest] for digest in newer if digest not in passed_over}
    if latest in state.rejected or now - min(times.values(), default=now) >= 2 * longest:
        times = {}
    # the share of this machine: 64 bits of a hash
    waiting = {digest: time + shortest + ((longest - shortest + 1) * int(
        hashlib.sha256(f'{machine} {digest}'.encode('ascii')).hexdigest()[:16], 16) >> 64)
        for digest, time in times.items()}
    order = sorted(seen, key=lambda digest: (digest not in newer, seen[digest]))[:SEEN_MAX]
    return (tuple(f'{digest} {seen[digest]}' for digest in order),
            {digest: until for digest, until in waiting.items() if until > now})


class Proof(namedtuple('Proof', ('stamp', 'ahead', 'unknown'))):
    """What stamps prove: the youngest stamp of each kind, or None.

    stamp: of the newest manifest that any stamp names. ahead: too far ahead of the clock. unknown:
    of a manifest that is not here, and is not shorter than those that are.
    """

    __slots__ = ()
    stamp: 'Optional[Stamp]'
    ahead: 'Optional[Stamp]'
    unknown: 'Optional[Stamp]'


def find_proof(names: 'Sequence[Tuple[int, str]]', stamps: 'Iterable[Stamp]',
               accepted: 'Optional[Stamp]', now: float) -> Proof:
    """Return what the stamps of origins, and the last accepted one, prove of these manifests.

    names: SignedManifest.name() of each manifest that is here, at least one.
    Stamps that are older than the accepted one do not count, unless that is too far ahead itself.
    A clock before the release of this Tako is wrong: then all count.
    """
    limit = now + STAMP_AHEAD_SECONDS if now >= RELEASED else float('inf')
    kept = [accepted] if accepted is not None and accepted.seconds() <= limit else []
    floor = kept[0].moment if kept and now >= RELEASED else ''
    kinds: Dict[str, List[Stamp]] = {'stamp': [], 'ahead': [], 'unknown': []}
    for each in kept + list(stamps):
        if each.seconds() > limit:
            kinds['ahead'].append(each)
        elif each.moment >= floor and each[1:] in names:
            kinds['stamp'].append(each)
        elif each.moment >= floor and each.entries >= max(count for count, _ in names):
            kinds['unknown'].append(each)
    return Proof(**{kind: max(found, key=lambda each: (each.entries, each.moment), default=None)
                    for kind, found in kinds.items()})


def stored_proof(destination: Destination, config: Config) -> 'Optional[Stamp]':
    """Return the stamp in a destination if StampKey= is set and it proves the manifest there."""
    if not config.stamp_keys:
        return None
    accepted = destination.stamp(config.stamp_keys)
    return find_proof([destination.accepted().name()], [], accepted, time.time()).stamp


def fates_of_newer(compatible: 'Iterable[Entry]', latest: str, state: State,
                   stored: 'Iterable[str]', held: 'Optional[FetchPlan]' = None) -> str:
    """Return what became of each version that is newer than the installed one; '' without any.

    compatible: the entries in bounds, newest first. latest: the installed image. stored: the images
    in the store. held: the plan of the version that waits for Delay=.
    """
    fates = dict.fromkeys(stored, 'is downloaded, but not installed yet')
    fates.update(dict.fromkeys(state.withdrawn, 'was withdrawn'))
    fates.update(dict.fromkeys(state.rejected, 'was rejected'))
    fates.update(dict.fromkeys(state.postponed, 'waits until the units run on the installed image'))
    if held is not None:
        fates[held.entry.digest] = held.skipped
    newer = itertools.takewhile(lambda entry: entry.digest != latest, compatible)
    names = [f'{entry.version} {fates.get(entry.digest, "is not installed yet")}'
             for entry in newer]
    return 'of the newer versions, ' + join_names(names) if names else ''


def plan_init(manifest: Manifest, bounds: Bounds, latest: str,
              read_state: 'Callable[[], State]') -> 'Optional[Entry]':
    """Return the entry of the installed image if --init may accept it; otherwise None.

    The caller checks that the image is intact. --init may accept an image in bounds. If there are
    versions in bounds, it may also accept an image out of bounds, in two cases:

    - A restart on it is due: a unit that starts then may itself run fetch --init.
    - All images in bounds were rejected or postponed.

    read_state is only called for an image out of bounds.
    """
    entries = list(compatible_entries(manifest, bounds))
    if entries and all(entry.digest != latest for entry in entries):
        state = read_state()
        if state.restart_due == latest or all(
                entry.digest in state.rejected + state.postponed for entry in entries):
            entries = list(manifest.entries)
    return next((entry for entry in entries if entry.digest == latest), None)


def previous_after(state: State, latest: str, digest: str) -> str:
    """Return what State.previous becomes when the image `digest` is installed after `latest`."""
    if digest == latest:
        return state.previous
    # if the units have not restarted on `latest` yet, they last ran on the image before it
    previous = state.previous if state.restart_due and state.previous else latest
    return '' if previous in state.rejected else previous


class Switch:
    """Points latest at another image and restarts the units on it, or rolls both back.

    Only this class writes previous, restart_due, invocations, rejected and postponed of the state.
    It writes each step to the state before it takes it, so that the next run can finish what a
    killed run has begun:

        phase             latest  restart_due  rejected   the next run
        ----------------  ------  -----------  ---------  ----------------------------------------
        noted             old     new                     has nothing to finish: latest is not new
        moved             new     new                     restarts the units that have not restarted
        failed            new     old          new        points latest back
        moved back        old     old          new        restarts the units
        failed on both    old     old                     restarts the units; new is postponed
        done              new                             has nothing to finish
        rolled back       old                  new        has nothing to finish

    A method that returns Steps is a generator: it yields a UnitWatch to wait for its units.
    changes: a list to which it adds messages for the user. version_of: returns the version of an
    image.
    """

    def __init__(self, label: str, config: Config, destination: Destination, notes: StateFile,
                 report: Report, changes: 'List[str]', runs: 'Runs',
                 version_of: 'Callable[[str], str]') -> None:
        self._label = label
        self._destination = destination
        self._units = config.unit_lines
        self._manager = config.manager
        self._seconds = config.confirm_seconds
        self._notes = notes
        self._report = report
        self._changes = changes
        self._runs = runs
        self._version_of = version_of

    def to(self, digest: str, message: str, restart: str) -> 'Steps':
        """Point latest at an image, and restart the units on it as FetchPlan.restart says.

        message: printed for the user then. Raises UnitError if a unit failed, after the rollback.
        """
        state = self._notes.state
        previous = previous_after(state, self._destination.latest(), digest)
        state = state._replace(previous=previous,
                               restart_due='' if restart == NO_RESTART else digest)
        yield from self._move(state, digest, message, restart, 'switch')

    def back_to(self, digest: str, message: str, rejected: 'Sequence[str]') -> 'Steps':
        """Point latest at an earlier image for good, and restart the units on it.

        No rollback follows if they fail there. message: printed for the user. rejected: images
        that are not installed again.
        """
        state = self._notes.state
        rejected = tuple(each for each in dict.fromkeys(rejected) if each != digest)
        for each in rejected:
            if each not in state.rejected:
                self._record('rejection', each)
        state = state._replace(rejected=rejected, postponed=())
        if digest == self._destination.latest() and not state.restart_due:
            self._notes.write(state)
            self._changes.append(message)
            return
        state = state._replace(previous='', restart_due=digest if self._units else '')
        restart = RESTART_NOW if self._units else NO_RESTART
        yield from self._move(state, digest, message, restart, 'rollback')

    def _record(self, event: str, digest: str, previous: str = '') -> None:
        """Add an event of an image to the history, with the key that signed the manifest."""
        version, signed = self._version_of(digest), b''
        try:
            signed = self._destination.accepted().signed
        except RefusedError:                        # a rollback needs no manifest
            pass
        key = signing_key(signed, self._destination.public_keys or ()) if signed else None
        found = {'event': event, 'version': '' if version == digest else version, 'digest': digest,
                 'previous': previous, 'key': encode_base64(key or b'')}
        self._destination.record({key: value for key, value in found.items() if value})

    def _move(self, state: State, digest: str, message: str, restart: str, event: str) -> 'Steps':
        watch, restarts_now = self._new_watch(), restart == RESTART_NOW
        if restarts_now:
            self._runs.wait_for(watch)
        self._notes.write(state._replace(invocations=watch.note() if restarts_now else ()))
        if restarts_now:
            self._prepare_rollback()
        self._record(event, digest, previous=self._destination.latest())
        self._destination.point_latest(digest)
        self._changes.append(message)
        if restarts_now:
            yield from self._commit_or_roll_back(self._restart(watch))

    def _new_watch(self) -> UnitWatch:
        return UnitWatch(self._units, self._seconds, time, self._manager)

    def resume(self) -> 'Steps':
        """Finish what an earlier run left after it moved latest, or before it moved latest back.

        Uses no network.
        """
        linked, state = self._destination.latest(), self._notes.state
        if linked in state.rejected and not self._destination.why_unusable(state.previous):
            self._notes.point_back(state.previous)
            linked = state.previous
            self._changes.append('rolled back to ' + self._version_of(linked))
        if not linked or state.restart_due != linked:
            self._notes.remove_prepared()
        elif self._units:
            check_units(self._units, is_first=False, manager=self._manager)
            yield from self._commit_or_roll_back(self._catch_up(self._new_watch()))
        else:
            self._commit()

    def forget_rejected(self, images: 'Optional[Set[str]]' = None) -> None:
        """Let rejected images be tried again: these, or all. Does not write the state."""
        state, linked = self._notes.state, self._destination.latest()
        forgotten = {*state.rejected, *state.postponed} if images is None else images
        if linked in state.rejected and linked in forgotten:    # a rollback was cut short
            state = state._replace(restart_due=linked, invocations=())
        rejected, postponed = (tuple(each for each in listed if each not in forgotten)
                               for listed in (state.rejected, state.postponed))
        self._notes.state = state._replace(rejected=rejected, postponed=postponed)

    def _has_previous(self) -> bool:
        return self._notes.state.previous not in ('', self._notes.state.restart_due)

    def _why_no_rollback(self) -> str:
        """Return why no rollback is possible; '' if the previous image is intact. Reads it all."""
        message = 'there is no earlier image to roll back to'
        if not self._has_previous():
            return message
        fault = self._destination.why_unusable(self._notes.state.previous)
        return f'{message}: {fault}' if fault else ''

    def _states_of_rollback(self) -> 'Tuple[State, State]':
        """Return the state when a rollback begins, and when the units run on the earlier image."""
        state = self._notes.state
        begun = state._replace(rejected=state.rejected + (state.restart_due,),
                               restart_due=state.previous, invocations=())
        return begun, begun._replace(restart_due='', previous='', postponed=())

    def _prepare_rollback(self) -> None:
        if self._has_previous():
            self._notes.prepare_rollback(self._notes.state.previous, *self._states_of_rollback())

    def _catch_up(self, watch: UnitWatch) -> 'Steps':
        """Restart the units that have not restarted since latest moved, and watch all of them."""
        try:
            needs_restart = watch.needs_restart(self._notes.state.invocations)
        except UnitError:
            if not self._why_no_rollback():
                raise
            needs_restart = True                    # without a rollback, only a restart may help
        if not needs_restart:
            yield from self._watch(watch)
            return
        self._runs.wait_for(watch)
        state = self._notes.state
        state = state._replace(invocations=watch.note(state.invocations))
        try:
            self._notes.write(state)
            self._prepare_rollback()
        except OSError as error:
            if error.errno not in NO_SPACE:         # the units may have filled the disk
                raise
        yield from self._restart(watch)

    def _restart(self, watch: UnitWatch) -> 'Steps':
        names = ' '.join(self._units)
        self._report.step(f'{self._label}: restarting {names}')
        watch.restart()
        yield from self._watch(watch)
        self._changes.append('restarted ' + names)

    def _watch(self, watch: UnitWatch) -> 'Steps':
        """Wait until the units have run for long enough. Raises as UnitWatch.look()."""
        if self._seconds and not watch.look(show_units(self._units, self._manager)):
            self._report.step('{}: watching {} for {:g} seconds'.format(
                self._label, ' '.join(self._units), self._seconds))
            yield watch
        if watch.stopped:
            names = ' '.join(watch.stopped)
            if is_shutting_down(self._manager):
                raise SystemdError(f'{names}: stopped, while the machine shuts down',
                                   'the next fetch checks them again')
            self._report.warning(
                self._label, f'{names}: stopped by somebody after the restart',
                f'run it on the new image with: systemctl{self._manager} start {names}')

    def _commit_or_roll_back(self, steps: 'Steps') -> 'Steps':
        """Take steps. Commit if they succeed, roll back if they raise UnitError.

        Raises SystemdError if a unit fails while the machine shuts down.
        """
        try:
            yield from steps
        except UnitError as error:
            if is_shutting_down(self._manager):     # a unit may fail because another one stopped
                raise SystemdError(f'{error.what}, while the machine shuts down',
                                   'the next fetch checks them again') from None
            yield from self._roll_back(error)
        self._commit()

    def _commit(self) -> None:
        state = self._notes.state
        if state.rejected and state.previous == state.restart_due:  # a rollback was cut short
            self._record('rejection', state.rejected[-1])
        self._notes.write(state._replace(restart_due='', invocations=(), postponed=()))
        self._notes.remove_prepared()

    def _roll_back(self, error: UnitError) -> 'Steps':
        """Roll back to the previous image, if it is intact. Always raises.

        Raises UnitError, or SystemdError if there is no verdict on the units after the rollback.
        """
        bad, previous = self._notes.state.restart_due, self._notes.state.previous
        fault = self._why_no_rollback()
        if fault:
            self._postpone()
            raise UnitError(f'{error.what}; {fault}', error.hint) from None
        begun, done = self._states_of_rollback()
        self._record('rollback', previous, previous=bad)
        self._notes.write_prepared(BACK_STATE, begun)
        self._notes.point_back(previous)
        name, bad_name = self._version_of(previous), self._version_of(bad)
        self._changes[:] = ['rolled back to ' + name]
        message = f'{error.what}; rolled back to {name}, and {bad_name} is rejected'
        watch = self._new_watch()
        try:
            watch.note()
            watch.restart()
            yield from self._watch(watch)
        except UnitError as second:
            self._postpone()
            raise UnitError(f'{error.what}; rolled back to {name}, but {second.what}',
                            f'{error.hint}; {bad_name} is tried again once the units run on {name}'
                            ) from None
        except SystemdError as second:
            raise SystemdError(f'{message}; {second.what}', second.hint) from None
        self._record('rejection', bad)
        self._notes.write_prepared(DONE_STATE, done)
        self._notes.remove_prepared()
        raise UnitError(message, error.hint + '; if the image is not at fault, run: '
                        'tako fetch --retry-rejected ' + self._label) from None

    def _postpone(self) -> None:
        """If the units failed after a rollback, too, postpone the rejected image: do not reject it.
        """
        state = self._notes.state
        # as _states_of_rollback() wrote it when the rollback began
        if state.rejected and state.previous == state.restart_due:
            self._notes.write(state._replace(rejected=state.rejected[:-1], previous='',
                                             postponed=state.postponed + state.rejected[-1:]))


class Runs:
    """The runs of several configs: while units are watched for one, the next one uses the network.

    A run is a generator, which returns an exit code. It yields a UnitWatch to wait for units, and
    None before it uses the network again. The main thread starts each run. A second thread watches
    units and advances runs that wait for them, until they end or yield None. In the
    latter case, the main thread advances them to their ends.
    """

    def __init__(self, report: Report) -> None:
        self.codes = [0]
        self._report = report
        self._waiting: List[Waiting] = []
        self._ready: List[Waiting] = []     # runs that yielded None: they need the network
        self._thread: Optional[threading.Thread] = None
        self._is_closed = self._is_stopped = False

    def __enter__(self) -> 'Runs':
        return self

    def __exit__(self, kind: 'Optional[Type[BaseException]]', error: 'Optional[BaseException]',
                 trace: 'Optional[TracebackType]') -> None:
        """Let runs that are cut short, as by a signal, remove their temporary files."""
        self._is_stopped = True
        if self._thread is not None:
            self._thread.join(2 * WATCH_POLL_SECONDS)
        for _, run, _ in self._waiting + self._ready:
            try:
                run.close()
            except ValueError:              # the thread executes it: a later fetch will finish it
                pass

    def start(self, path: str, run: 'Run', is_last: bool) -> None:
        """Advance a run until it ends or waits. If others follow, a thread watches its units."""
        self._advance(path, run, has_network=True)
        if self._waiting and self._thread is None and not is_last:
            import threading
            thread = threading.Thread(target=self._watch, daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:            # as with a low `ulimit -u` or -v: finish() watches
                pass

    def finish(self) -> int:
        """Advance all runs to their ends. Return the most severe exit code."""
        self._is_closed = True
        if self._thread is None:
            self._watch()
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(WATCH_POLL_SECONDS)   # with a timeout, so that signals are handled
        while self._ready:
            path, run, _ = self._ready.pop(0)
            self._advance(path, run, has_network=True)
        return max(self.codes, key=SEVERITY.index)

    def wait_for(self, watch: UnitWatch) -> None:
        """Wait until no other run watches these units, so that it is clear whose image failed."""
        if self._thread is None:
            return
        import threading
        if threading.current_thread() is self._thread:
            return
        watch.note()                        # which sets its ids
        while any(watch.ids & other.ids for _, _, other in self._waiting if other is not None):
            time.sleep(WATCH_POLL_SECONDS)

    def _watch(self) -> None:
        while (self._waiting or not self._is_closed) and not self._is_stopped:
            time.sleep(WATCH_POLL_SECONDS)
            for each in list(self._waiting):
                self._look(each)

    def _look(self, waiting: 'Waiting') -> None:
        path, run, watch = waiting
        error: Optional[Exception] = None
        try:
            if watch is not None and not watch.look(show_units(watch.names, watch.manager)):
                return
        except Exception as found:
            error = found
        self._advance(path, run, error)
        # only now, so that wait_for() also waits for a rollback of this run
        self._waiting.remove(waiting)

    def _advance(self, path: str, run: 'Run', error: 'Optional[Exception]' = None,
                 has_network: bool = False) -> None:
        """Advance a run until it ends or waits: for units or, without has_network, for the network.

        error: what its UnitWatch raised, if it did; the run handles it.
        """
        try:
            watch = next(run) if error is None else run.throw(error)
            if watch is None and has_network:
                watch = next(run)
            (self._ready if watch is None else self._waiting).append((path, run, watch))
        except StopIteration as end:
            self.codes.append(end.value)
        except Exception as other:          # do not end the runs of other configs
            self.codes.append(self._report.error(path, other))


class Offer(namedtuple('Offer', ('origin', 'manifest', 'etag'))):
    """The manifest that an origin serves, and the ETag that it gives it; '' if it gives none."""

    __slots__ = ()
    origin: Origin
    manifest: SignedManifest
    etag: str


def _failure_kind(failure: 'Event') -> 'Tuple[object, str]':
    """Return exit code and message, without long numbers, which vary from run to run."""
    return failure.get('exit_code'), re.sub('[0-9]{4,}', '', failure.get('message', ''))


class ImageFetch:
    """The fetch, or the rollback, of one config."""

    notes: StateFile
    switch: Switch

    def __init__(self, path: str, config: Config, options: 'argparse.Namespace',
                 client: HttpClient, report: Report, runs: Runs) -> None:
        self.path = path
        self.config = config
        self.destination = Destination(self.config.destination, self.config.public_keys)
        self.options = options
        self.client = client
        self.report = report
        self.runs = runs
        self.codes = [0]                        # exit codes; the most severe one counts
        self.errors: List[TakoError] = []       # those that were printed
        self.mirror_errors: Dict[str, str] = {}     # by the URL of the mirror
        self.changes: List[str] = []            # messages for the user
        self.size_note = ''                     # such as ' (2.9 MB instead of 68.1 MB)'
        self.held = ''                          # which version waits for Delay=, and until when
        self.is_stale = False                   # the last stamp is older than Fresh=
        self.unknown_units: List[str] = []      # systemd will know them after the first fetch
        self.is_offline = False                 # no origin was reached, and --init needed none
        self.download: Optional[ImageDownload] = None   # the one that succeeded
        self.mirrors = Mirrors(self.config.origins, client, self._warn_of_mirror, self._step)

    def run(self) -> 'Run':
        """Bring the destination up to date. Return the exit code. Raises TakoError and OSError."""
        if self.options.init and self._is_init_done():
            return 0
        try:
            return (yield from self._locked(self._fetch()))
        except Exception as error:
            self.errors.append(as_tako_error(error))
            self._note_problems()
            raise

    def roll_back(self) -> 'Run':
        """Install an earlier image. Return the exit code. Raises TakoError and OSError."""
        return (yield from self._locked(self._attempt(self._go_back())))

    def _locked(self, steps: 'Steps') -> 'Run':
        """Take steps while this run holds the lock. Return the most severe exit code."""
        check_manager(self.config.manager)
        wait = min(LOCK_WAIT_SECONDS, self.client.deadline.remaining())
        with DirectoryLock(self.config.destination, wait,
                           lambda: self._step('waiting for another run')):
            try:
                self.destination.clear_leftovers()
                self._load()
                yield from steps
            finally:
                self.destination.clear_leftovers()      # after a signal, too
                if self.changes:
                    self.report.result('{}: {}'.format(self.path, ', '.join(self.changes)))
        return max(self.codes, key=SEVERITY.index)

    def _load(self) -> None:
        """Read the destination, which another run may have changed until now."""
        self.destination = Destination(self.config.destination, self.config.public_keys)
        self.notes = StateFile(self.destination)
        if self.notes.is_damaged:
            self.report.warning(
                self.path, f'{self.notes.path} is damaged',
                'it is replaced: rejected versions, and a restart that was due, are forgotten')
        self.switch = Switch(self.path, self.config, self.destination, self.notes, self.report,
                             self.changes, self.runs, self._version_of)
        if self.options.retry_rejected:
            self.switch.forget_rejected()

    def _fetch(self) -> 'Steps':
        """Take all steps of a fetch. Each error is printed; a success is recorded if none was."""
        if not (self.options.init or self.options.stage):
            yield from self._attempt(self.switch.resume())
        if ConfigError.exit_code not in self.codes:     # _update() would find the same error
            yield from self._attempt(self._update())
        if not any(self.codes):
            self.notes.write(self.notes.state, is_success=not self.is_offline)
        if not self.is_offline:
            self._note_problems()

    def _note_problems(self) -> None:
        """Write what failed in this run, for status. Record a failure that is not a recent one."""
        destination, now, errors = self.destination, int(time.time()), self.errors
        known = destination.events(PROBLEMS)
        if not (errors or self.mirror_errors or any(
                each.get('failures') or 'url' in each for each in known)):
            return
        last = destination.last_failure()
        events = [dict(last, failures=0)] if last else []
        if errors:
            error = max(errors, key=lambda each: SEVERITY.index(each.exit_code))
            event = {'event': 'failure', 'exit_code': error.exit_code,
                     'message': to_ascii(self.report.message(error.what))}
            recent = destination.events(HISTORY)[-EVENTS_RECENT:]
            if _failure_kind(event) not in map(_failure_kind, recent):
                destination.record(event)
            events = [dict(event, time=now, failures=(last['failures'] if last else 0) + 1)]
        since = {each.get('url'): each['time'] for each in known}
        events += [{'event': 'mirror', 'time': since.get(url, now), 'url': url, 'message': message}
                   for url, message in self.mirror_errors.items()]
        if events != known:
            destination.write_problems(events)

    def _warn_of_mirror(self, origin: Origin, error: TakoError) -> None:
        self.mirror_errors[origin.url] = to_ascii(self.report.message(error.what))
        self._warn(error)

    def _attempt(self, steps: 'Steps') -> 'Steps':
        """Take steps. If they raise, print the error and add its exit code to `codes`."""
        try:
            yield from steps
        except (TakoError, OSError) as error:
            self.errors.append(as_tako_error(error))
            self.codes.append(self.report.error(self.path, error))

    def dry_run(self) -> int:
        """Print what run() would do, and change nothing. Return the exit code."""
        check_manager(self.config.manager)
        self._load()
        if self.options.init and self._is_init_done():
            self.report.result(f'{self.path}: --init accepts the installed image')
            return 0
        manifest = self._accept_manifest()
        plan = next(self._plans(manifest, self._image_fault), None)
        if plan is None:
            raise self._no_version(manifest, [])
        steps = list(self._describe(plan, manifest)) or ['is installed']
        steps += [self.held] if self.held else []
        self.report.result(f'{self.path}: {plan.entry.version}: {", ".join(steps)}')
        return max(self.codes, key=SEVERITY.index)

    def offered(self) -> Manifest:
        """Return the manifest that run() would accept. Changes nothing if dry_run is set."""
        self._load()
        return self._accept_manifest()

    def _describe(self, plan: FetchPlan, manifest: Manifest) -> 'Iterator[str]':
        """Yield what executing a plan would do, step by step."""
        entry, state, latest = plan.entry, self.notes.state, self.destination.latest()
        if plan.fault:
            note = ' (this version was withdrawn)' if entry.digest in state.withdrawn else ''
            size = amount(entry.size, 'byte')
            yield f'would download up to {size} from {self.mirrors.usable[0].url}{note}'
        if not plan.is_installed:
            yield ('would install it' if not self.options.stage else
                   'would stage it' if plan.fault else 'is staged')
        if plan.restart == RESTART_NOW and not self.options.stage:
            self._check_units()
            yield ('could not restart units unknown to systemd: ' + ' '.join(self.unknown_units)
                   if self.unknown_units else 'would restart ' + ' '.join(self.config.units))
        previous = (state.previous if self.options.stage
                    else previous_after(state, latest, entry.digest))
        for digest in self._spare_images(manifest, entry.digest, previous):
            yield 'would remove ' + version_of(digest, manifest, self.config.bounds)

    def _update(self) -> 'Steps':
        """Accept the newest manifest, install the newest version, and remove what Keep= allows."""
        manifest = None
        try:
            manifest = self._accept_manifest()
            plan = self._provide_image(manifest)
        except TakoError as error:              # not OSError: then the disk itself may fail
            is_unreachable = isinstance(error, UnreachableError)
            if not self.options.stage and (is_unreachable or manifest is not None):
                yield from self._attempt(self._switch_offline())
            if self.options.init and is_unreachable and self._is_init_done():
                self.is_offline = True
                return
            raise
        if plan.is_installed:
            fates = fates_of_newer(compatible_entries(manifest, self.config.bounds),
                                   plan.entry.digest, self.notes.state, ())
            why = (', ' + self.held if self.held else '; ' + fates if fates
                   else ', the newest in ' + self.config.bounds.text)
            self.report.unchanged(f'{self.path}: {plan.entry.version} is installed{why}')
        elif self.options.stage:
            staged = f'{plan.entry.version} is staged{self.size_note}'
            if plan.fault:
                self.changes.append(staged)
            else:
                self.report.unchanged(f'{self.path}: {staged}')
        else:
            yield from self._switch_to(plan)
        self.destination.clear_partials()
        self._remove_spare(manifest, plan.entry.digest)
        if self.download is not None and not self.options.no_delta:
            yield None                              # see Runs: the network is used again
            self._keep_index(plan.entry, self.download)
        if self.options.stage and not plan.is_installed:
            self._check_installed(manifest, plan.entry)

    def _check_installed(self, manifest: Manifest, staged: Entry) -> None:
        """Raise RefusedError if the installed image is damaged. With --stage it stays installed."""
        latest = self.destination.latest()
        for entry in [each for each in manifest.entries if each.digest == latest][-1:]:
            fault = self._image_fault(entry)
            if fault:
                raise RefusedError(f'{self.destination.image_path(latest)} {fault}',
                                   f'to install {staged.version} instead of it, run: '
                                   'tako fetch ' + self.path)

    def _switch_offline(self) -> 'Steps':
        """Install the newest version in bounds that is intact in the store, such as a staged one.

        Does not read the installed image: without an origin it cannot be repaired.
        """
        latest = self.destination.latest()
        if self.config.stamp_keys and stored_proof(self.destination, self.config) is None:
            return
        for plan in self._plans(self.destination.manifest(), lambda entry: (
                '' if entry.digest == latest else self._image_fault(entry))):
            if plan.is_installed:
                break
            if not plan.fault:
                self._check_units()
                yield from self._switch_to(plan)
                break

    def _plans(self, manifest: Manifest,
               fault_of: 'Callable[[Entry], str]') -> 'Iterator[FetchPlan]':
        """Yield the plans that are not skipped."""
        latest = self.destination.latest()
        waiting = self._waiting(manifest, latest)
        newer = newer_entries(manifest, self.config.bounds, latest) if self.is_stale else []
        for plan in plan_fetch(manifest, self.config, self.notes.state, latest, fault_of,
                               self.options.init, waiting):
            if plan.entry in newer:
                self._step(f'{plan.entry.version} is newer, and no stamp is fresh')
            elif plan.skipped:
                self._step(f'{plan.entry.version} {plan.skipped}')
                if not self.held and plan.entry.digest in waiting:
                    self.held = f'{plan.entry.version} {plan.skipped}'
            else:
                yield plan

    def _waiting(self, manifest: Manifest, latest: str) -> 'Dict[str, int]':
        """Return the images that wait for Delay=. Note, durably, what this run has seen first."""
        state, now = self.notes.state, time.time()
        if self.config.delay is None and not state.seen:
            return {}
        own = machine_id()
        number = '' if own else state.machine or os.urandom(16).hex()
        seen, waiting = plan_delay(manifest, self.config, state, latest, own or number, now)
        self.notes.state = state._replace(seen=seen, machine=number)
        if self.notes.state != state and not self.options.dry_run:
            self.notes.write(self.notes.state)
        if self.options.init or self.options.now:
            return {}
        if waiting and now < RELEASED:
            self.report.warning(
                self.path, 'the clock is wrong, and a new version waits until it is right',
                'set the clock, or run: tako fetch --now ' + self.path)
        return waiting

    def _switch_to(self, plan: FetchPlan) -> 'Steps':
        message = f'{plan.entry.version} is installed{self.size_note}'
        yield from self.switch.to(plan.entry.digest, message,
                                  RESTART_LATER if self.unknown_units else plan.restart)
        if self.unknown_units:
            self.report.warning(
                self.path, 'Restart= {}: unknown to systemd'.format(' '.join(self.unknown_units)),
                'add the unit file; the next fetch restarts the units')

    def _check_units(self) -> None:
        """Raise ConfigError if a unit cannot be restarted, before anything is changed."""
        if self.config.units and not self.options.init:
            self.unknown_units = check_units(
                self.config.unit_lines, not self.destination.latest(), self.config.manager)

    def _go_back(self) -> 'Steps':
        """Switch to an earlier image, and reject the versions above it."""
        self.destination.clear_partials()           # the disk may be full
        manifest = self.destination.manifest()
        entry = (self._chosen(manifest, self.options.to) if self.options.to
                 else self._earlier(manifest))
        above = [each for each in compatible_entries(manifest, self.config.bounds)
                 if entry.version < each.version and each.digest != entry.digest]
        shown = version_of(entry.digest, manifest, self.config.bounds)
        message = f'rolled back to {shown}'
        if shown != entry.version.text:
            message += f', the image of {entry.version}'
        recall = recall_of(entry.digest, list(compatible_entries(manifest, self.config.bounds)))
        if recall:
            self.report.warning(
                self.path, f'{entry.version} was taken back: {recall.version} has the image of an '
                'older version', 'to return to it: tako fetch --retry-rejected ' + self.path)
        if above:
            message += ', rejected ' + join_names([each.version.text for each in above])
        self._check_units()
        rejected = self.notes.state.rejected + tuple(each.digest for each in above)
        yield from self.switch.back_to(entry.digest, message, rejected)

    def _chosen(self, manifest: Manifest, text: str) -> Entry:
        """Return the entry of the version `text`, which rollback --to names. Raises UsageError."""
        version = parse_version(text)
        entry = next((each for each in manifest.entries if each.version == version), None)
        fault = self._image_fault(entry) if entry is not None else 'is not in the manifest'
        if entry is None or fault:
            raise UsageError(f'{text} {fault}',
                             'omit --to, or choose a version that is in the store')
        if version not in self.config.bounds:
            raise UsageError(f'{text} is not in {self.config.bounds.text}', 'change Version= first')
        return entry

    def _earlier(self, manifest: Manifest) -> Entry:
        """Return the entry that rollback installs without --to.

        That is the previous image, or else the newest older one that was not rejected. It is in
        bounds and intact. Raises TakoError if there is none.
        """
        latest, state = self.destination.latest(), self.notes.state
        if not latest:
            raise TakoError('no image is installed', 'run: tako fetch ' + self.path)
        entries = [each for each in compatible_entries(manifest, self.config.bounds)
                   if each.digest != latest]
        versions = [each.version for each in manifest.entries if each.digest == latest]
        older = [each for each in entries if each.digest not in state.rejected
                 and (not versions or each.version < versions[-1])]
        for entry in [each for each in entries if each.digest == state.previous] + older:
            if not self._image_fault(entry):
                return entry
        raise TakoError(f'the store has no intact earlier image in {self.config.bounds.text}',
                        'if Keep= removed it, increase Keep= so that earlier images stay')

    def _keep_index(self, entry: Entry, download: ImageDownload) -> None:
        """Write the chunk index of a downloaded image, after all else: nothing depends on it."""
        index = download.read_index(self.mirrors.usable[0])
        if index:
            try:
                self.destination.write_index(entry.digest, index)
            except OSError as error:
                self._step(f'cannot write the index of {entry.version}: {error.strerror}')

    def _remove_spare(self, manifest: Manifest, newest: str) -> None:
        for digest in self._spare_images(manifest, newest, self.notes.state.previous):
            self.destination.remove_image(digest)
            self.changes.append(
                'removed ' + version_of(digest, manifest, self.config.bounds))

    def _spare_images(self, manifest: Manifest, newest: str, previous: str) -> 'List[str]':
        """Return the images that Keep= lets this run remove once `newest` is in the store.

        The installed image stays with --stage, which does not install `newest`.
        """
        if not self.config.keep:
            return []
        stored = {*self.destination.images(), newest} - {''}
        needed = {newest, previous, self.destination.latest() if self.options.stage else newest}
        return spare_images(stored, self.config.keep,
                            [entry.digest for entry in reversed(manifest.entries)],
                            needed | images_behind_loop_devices())

    def _version_of(self, digest: str) -> str:
        """Return version_of(), for messages that are printed even if the manifest is invalid."""
        try:
            return version_of(digest, self.destination.manifest(), self.config.bounds)
        except RefusedError:
            return digest

    def _step(self, line: str) -> None:
        self.report.step(f'{self.path}: {line}')

    def _is_init_done(self) -> bool:
        """Return whether --init accepts the installed image. Needs neither lock nor network."""
        destination = self.destination
        entry = plan_init(destination.manifest(), self.config.bounds, destination.latest(),
                          lambda: StateFile(destination).state)
        return entry is not None and not self._image_fault(entry)

    def _image_fault(self, entry: Entry) -> str:
        """Return image_fault() of an entry. With --no-verify, do not read the installed image."""
        is_size_enough = self.options.no_verify and entry.digest == self.destination.latest()
        return self.destination.image_fault(
            entry.digest, entry.size, is_size_enough,
            self.report.meter(f'{self.path}: checking {entry.version}', entry.size))

    def _accept_manifest(self) -> Manifest:
        """Return the newest manifest of all mirrors, verified and durable.

        With --dry-run, it is not written. Raises RefusedError if none has all entries of the one
        that was accepted last.
        """
        known = self.destination.accepted()
        self.client = self.client.private(self.config.credentials)
        self.report.hide(self.client.token)
        offers = self.mirrors.each(lambda origin: self._ask_for_manifest(origin, known))
        manifests = [offer.manifest for offer in offers] + [known]
        newest, stamp = self._newest_of(manifests), b''
        if self.config.stamp_keys:
            newest, stamp = self._prove(manifests)
        self._forget_recalled(known.manifest, newest.manifest)
        # the file's time is that of the last check; it cannot be set on another user's file
        if not self.options.dry_run and (
                newest.signed != known.signed or not touch(self.destination.manifest_path)):
            self.destination.write_manifest(newest)
        if stamp and not self.options.dry_run:
            self.destination.write_stamp(stamp)
        digest = hashlib.sha256(newest.signed).hexdigest()
        self.notes.state = self.notes.state._replace(validators=tuple(
            f'{digest} {offer.origin.url} {offer.etag}' for offer in offers
            if offer.manifest.signed == newest.signed and offer.etag
            and offer.etag == self.report.without_secrets(offer.etag)))
        return newest.manifest

    def _prove(self, manifests: 'List[SignedManifest]') -> 'Tuple[SignedManifest, bytes]':
        """Return the newest manifest that a stamp proves, and the stamp if it is to be written.

        The last one of `manifests` is our own. If no stamp is fresh, return that one if it was
        proven and an image is installed; otherwise raise RefusedError.
        """
        known, now = manifests[-1], time.time()
        accepted = self.destination.stamp(self.config.stamp_keys)
        found, error = self._try_each(self._ask_for_stamp, self._warn_of_mirror)
        stamps = dict(found)
        proof = find_proof([each.name() for each in manifests], stamps, accepted, now)
        if proof.unknown is not None:
            query = '?' + proof.unknown.sha256[:16]     # so that caches ask the origin
            offers, _ = self._try_each(
                lambda origin: self._ask_for_manifest(origin, known, query), lambda *_: None)
            manifests = [offer.manifest for offer in offers] + manifests
            proof = find_proof([each.name() for each in manifests], stamps, accepted, now)
        newest = self._newest_of(manifests)
        self._warn_of_stamps(proof, now)
        if proof.ahead is not None and proof.stamp not in stamps:
            self.codes.append(UnreachableError.exit_code)
        if proof.stamp is None:
            if isinstance(error, RefusedError):
                raise error
            raise UnreachableError(
                'no stamp proves that a manifest is the newest'
                + (f': {error.what}' if error else ''),
                'wait until the publisher has run tako stamp; or check StampKey=')
        if isinstance(error, RefusedError):
            self._warn(error)
        proven = next(each for each in manifests if each.name() == proof.stamp[1:])
        self._note_unproven(newest, proven, now)
        if RELEASED <= now > proof.stamp.seconds() + self.config.fresh:
            self._note_stale(proof.stamp, accepted is not None and accepted[1:] == known.name())
            return known, b''
        is_kept = proof.stamp == accepted or now < RELEASED
        return proven, b'' if is_kept else stamps[proof.stamp]

    def _note_stale(self, stamp: Stamp, is_proven: bool) -> None:
        """Print that the last stamp is too old. Then no newer version is installed in this run.

        is_proven: whether our own manifest was. Raises RefusedError instead if it was not, or if
        no image is installed.
        """
        stale = RefusedError(
            f'no stamp since {stamp.moment}, longer than Fresh= allows; asked: '
            + ', '.join(origin.url for origin in self.mirrors.usable),
            'check the clock; if other machines report this, too, tell the publisher')
        if not (self.destination.latest() and is_proven):
            raise stale
        self.codes.append(self.report.error(self.path, stale))
        self.is_stale = True

    def _ask_for_stamp(self, origin: Origin) -> 'Tuple[Stamp, bytes]':
        answer = self._request(origin, '/stamp', '')
        signed = join_at_most(STAMP_MAX_BYTES, answer.chunks, answer.url)
        return open_stamp(signed, self.config.stamp_keys, answer.url), signed

    def _try_each(self, attempt: 'Callable[[Origin], T]',
                  warn: 'Callable[[Origin, TakoError], None]',
                  ) -> 'Tuple[List[T], Optional[TakoError]]':
        """Return Mirrors.each(), or an error if all failed. A mirror that fails stays in use."""
        try:
            return Mirrors(self.mirrors.usable, self.client, warn, self._step).each(attempt), None
        except (RefusedError, UnreachableError) as error:
            return [], error

    def _warn_of_stamps(self, proof: Proof, now: float) -> None:
        """Print what is wrong with stamps although one of them may be a proof."""
        here = format_moment(now)
        if proof.ahead is not None:
            self.report.warning(self.path, f'the stamp of {proof.ahead.moment} is not accepted: '
                                f'here it is {here}', 'set the clock, or tell the publisher')
        if proof.unknown is not None:
            self.report.warning(
                self.path, 'a newer manifest with '
                f'{amount(proof.unknown.entries, "entry", "entries")} exists since '
                f'{proof.unknown.moment} or before, and is withheld',
                'if this persists, tell the publisher and the administrators of the mirrors')
        if now < RELEASED:
            self.report.warning(self.path, f'the clock is wrong: {here}; the age of the stamp is '
                                'not checked', 'set the clock')
        elif proof.stamp and 0.5 < (now - proof.stamp.seconds()) / self.config.fresh <= 1:
            self.report.warning(
                self.path, f'no stamp since {proof.stamp.moment}, longer than half of Fresh=',
                'tell the publisher to renew it')

    def _note_unproven(self, newest: SignedManifest, proven: SignedManifest, now: float) -> None:
        """Note since when a newer manifest has no stamp. After UNPROVEN_SECONDS, print it."""
        state = self.notes.state
        since = state.unproven if RELEASED <= int(state.unproven or -1) <= now else str(int(now))
        if newest.name() == proven.name():
            since = ''
        elif now - int(since) >= UNPROVEN_SECONDS:
            self.report.warning(
                self.path, 'a manifest with '
                f'{amount(len(newest.manifest.entries), "entry", "entries")} has no stamp '
                'for more than a day, and is left alone',
                'tell the publisher to look at it, then to run tako stamp')
        self.notes.state = state._replace(unproven=since)
        if since != state.unproven and not self.options.dry_run:
            self.notes.write(self.notes.state)

    def _warn(self, error: TakoError) -> None:
        self.report.warning(self.path, error.what, error.hint)

    def _forget_recalled(self, old: Manifest, new: Manifest) -> None:
        """Let rejected images be tried again that `new` lists once more than `old`.

        This is durable before `new` is written, so that a power cut in between loses nothing.
        """
        state = self.notes.state
        if new is not old and state.rejected + state.postponed:
            self.switch.forget_rejected(
                {entry.digest for entry in recalls(new).difference(old.entries)})
            if self.notes.state != state and not self.options.dry_run:
                self.notes.write(self.notes.state)

    def _newest_of(self, manifests: 'List[SignedManifest]') -> SignedManifest:
        """Return the manifest that has all entries of the others. The last one is our own.

        Raises ForkError if two contradict each other, and keeps them for the publisher.
        """
        newest, other = pick_newest([each.manifest for each in manifests])
        if other is None:
            return manifests[newest]
        # name our own first, then those of the mirrors in the config's order
        own = len(manifests) - 1
        numbers = sorted((newest, other), key=lambda number: (number != own, number))
        one, two = (manifests[number] for number in numbers)
        if not self.options.dry_run:
            self.destination.keep_evidence([one.signed, two.signed])
        lost = first_lost(one.manifest, two.manifest)
        raise ForkError(one.where, two.where, lost.line().strip() if lost else '')

    def _request(self, origin: Origin, name: str, etag: str) -> Answer:
        """Request a file that cannot be withdrawn, past caches that obey."""
        self._step('requesting ' + origin.url + name)
        try:
            return self.client.open(origin.url + name, origin.authorization,
                                    {'If-None-Match': etag, 'Cache-Control': 'no-cache'})
        except GoneError as error:              # only an image can be withdrawn
            raise UnreachableError(error.what, 'if the publisher moved, correct Origin=') from None

    def _ask_for_manifest(self, origin: Origin, known: SignedManifest, query: str = '') -> Offer:
        """Return what an origin offers. Raises OlderManifestError if it is older than `known`."""
        url, etag = origin.url + '/manifest', '' if query else self._known_etag(origin, known)
        query = '' if url.startswith('file:') else query
        answer = self._request(origin, '/manifest' + query, etag)
        content = join_at_most(MANIFEST_MAX_BYTES, answer.chunks, answer.url)
        if answer.status == 304:
            content = known.signed
        else:
            etag = answer.etag()
        if content and content == known.signed:
            return Offer(origin, known._replace(where=url), etag)
        try:
            manifest = open_manifest(content, self.config.public_keys, answer.url)
        except UnsignedError:
            # the connection may have ended early if no length is known, and this begins well
            if answer.has_end() or not MANIFEST_TITLE.startswith(content[:len(MANIFEST_TITLE)]):
                raise
            raise TransientError(f'{answer.url}: not a signed manifest; the connection may '
                                 'have ended early') from None
        lost = first_lost(known.manifest, manifest)
        if lost is not None and first_lost(manifest, known.manifest) is None:
            raise OlderManifestError(answer.url, lost.version.text)
        return Offer(origin, SignedManifest(manifest, content, url), etag)

    def _known_etag(self, origin: Origin, known: SignedManifest) -> str:
        """Return the ETag that an origin gave the known manifest, or ''.

        Once a day, return '', so that an origin that wrongly answers 304 is found out.
        """
        last_check = time_of(self.destination.manifest_path)
        if last_check // FULL_ANSWER_SECONDS != int(time.time()) // FULL_ANSWER_SECONDS:
            return ''
        prefix = f'{hashlib.sha256(known.signed).hexdigest()} {origin.url} '
        return next((each[len(prefix):] for each in self.notes.state.validators
                     if each.startswith(prefix)), '')

    def _provide_image(self, manifest: Manifest) -> FetchPlan:
        """Ensure that the store has an intact image of the newest possible version.

        Return its plan. Raises UnreachableError if all versions were withdrawn, TakoError if there
        is none.
        """
        withdrawn: List[Entry] = []
        try:
            for plan in self._plans(manifest, self._image_fault):
                try:
                    self._execute(plan)
                except GoneError:
                    withdrawn.append(plan.entry)
                    continue
                state = self.notes.state
                self.notes.state = state._replace(withdrawn=tuple(
                    digest for digest in state.withdrawn if digest != plan.entry.digest))
                return plan
        finally:
            self._warn_of_withdrawn(withdrawn)
        raise self._no_version(manifest, withdrawn)

    def _execute(self, plan: FetchPlan) -> None:
        """Download the image of a plan into the store, if it is missing or damaged there."""
        if not plan.is_installed:
            self._check_units()                     # before the download, which would be in vain
        if plan.fault == MISSING:
            self._download(plan.entry)
        elif plan.fault:
            self._repair(plan)
        if plan.fault and (plan.is_installed or plan.fault != MISSING):     # else it is a new image
            self.changes.append(f'{plan.entry.version} is repaired{self.size_note}')

    def _warn_of_withdrawn(self, entries: 'List[Entry]') -> None:
        """Print a warning of versions that were withdrawn, once for each version."""
        state = self.notes.state
        new = [entry for entry in entries if entry.digest not in state.withdrawn]
        if new:
            names = join_names([entry.version.text for entry in new])
            self.report.warning(self.path, f'{names}: withdrawn (410)',
                                'the next older version in bounds is installed, if there is one')
            digests = state.withdrawn + tuple(entry.digest for entry in new)
            self.notes.write(state._replace(withdrawn=digests[-WITHDRAWN_MAX:]))

    def _no_version(self, manifest: Manifest, withdrawn: 'List[Entry]') -> TakoError:
        """Return the error that says why no version can be installed."""
        pattern = self.config.bounds.text
        if withdrawn:
            names = join_names([entry.version.text for entry in withdrawn])
            return UnreachableError(f'no version left in {pattern}; withdrawn: {names}',
                                    'wait for a new version, or widen Version=')
        if any(compatible_entries(manifest, self.config.bounds)):
            return TakoError(f'all versions in {pattern} were rejected',
                             'wait for a new version, or run: tako fetch --retry-rejected '
                             + self.path)
        nearest = nearest_versions(manifest, self.config.bounds)
        names = ', '.join(version.text for version in nearest) or 'none'
        return TakoError(f'no version in {pattern}; the nearest are: {names}',
                         'wait for such a version, or change Version=')

    def _repair(self, plan: FetchPlan) -> None:
        """Download a damaged image again. Until then it stays: most of its bytes may be intact."""
        entry = plan.entry
        path = self.destination.image_path(entry.digest)
        self.report.warning(self.path, f'{path} {plan.fault}',
                            'it is downloaded again; if this repeats, check the disk')
        try:
            self._download(entry)
        except (TakoError, OSError) as error:
            if isinstance(error, GoneError) and not plan.is_installed:
                remove_if_there(path)
                raise
            known = as_tako_error(error)
            raise RefusedError(f'cannot replace the damaged image of {entry.version}: {known.what}',
                               known.hint) from error

    def _download(self, entry: Entry) -> None:
        """Download an image into the store, verified, from the first mirror that serves it."""
        self.destination.clear_partials(but=entry.digest)
        self.destination.check_rename()
        older, older_digest = self._older_image(entry)
        try:
            with PartialFile(self.destination.partial_path(entry.digest)) as partial:
                self._make_room(entry.size - min(partial.size, partial.allocated()))
                download = ImageDownload(entry, self.destination, partial, self.client,
                                         self.report, self.path)
                rate = 0.0 if self.config.is_metered else float(self.notes.state.rate or 'inf')
                download.run(self.mirrors, older, older_digest, rate)
                self.destination.store_image(entry, partial)
        finally:
            if older is not None:
                with naming(older.name):
                    older.close()
        self.notes.state = self.notes.state._replace(received=f'{entry.digest} {download.received}')
        if download.rate < float('inf'):
            self.notes.state = self.notes.state._replace(rate=str(int(download.rate) + 1))
        self.download = download
        if download.is_delta:
            self.size_note = (f' ({format_size(download.received)} instead of '
                              f'{format_size(entry.size)})')

    def _make_room(self, size: int) -> None:
        """Remove what Keep= allows if fewer than `size` bytes are free. Raises TakoError."""
        try:
            self.destination.check_space(size)
        except TakoError:
            self._remove_spare(self.destination.manifest(), self.destination.latest())
            self.destination.check_space(size)

    def _older_image(self, entry: Entry) -> 'Tuple[Optional[BinaryIO], str]':
        """Open the image that most likely has parts of `entry`. Return it and its SHA-256.

        That is the damaged image itself, or the installed one, or the newest in the store.
        """
        if self.options.no_delta:
            return None, ''
        listed = [each.digest for each in reversed(self.destination.manifest().entries)]
        for digest in [entry.digest, self.destination.latest()] + listed:
            path = self.destination.image_path(digest)
            try:
                return open_file(path), digest
            except OSError:
                pass
        return None, ''


def version_of(digest: str, manifest: Manifest, bounds: Bounds) -> str:
    """Return the newest version of an image, in `bounds` if there is one; or else its SHA-256."""
    entries = itertools.chain(compatible_entries(manifest, bounds), reversed(manifest.entries))
    return next((entry.version.text for entry in entries if entry.digest == digest), digest)


def find_configs(operands: 'Iterable[str]') -> 'List[str]':
    """Return the paths of all configs that CONFIG operands name, each once.

    For a directory, these are its *.tako files, sorted, without hidden ones. A directory without
    any stands for itself, and read_config() raises the error.
    """
    paths: List[str] = []
    for operand in operands:
        try:
            names = sorted(name for name in os.listdir(operand)
                           if name.endswith('.tako') and not name.startswith('.'))
            paths += [os.path.join(operand, name) for name in names] or [operand]
        except OSError:     # a file; or read_config() raises the same error
            paths.append(operand)
    return list(dict.fromkeys(paths))


def read_config(path: str) -> str:
    """Return the text of a config. Raises ConfigError."""
    try:
        content = read_at_most(CONFIG_MAX_BYTES, path)
        text = content.decode('utf-8').lstrip('\ufeff')
    except ValueError:
        raise ConfigError('not UTF-8 text', 'check the path: this is not a config') from None
    except OSError as error:
        what = error.strerror or str(error)
        is_directory = isinstance(error, NotFileError) and os.path.isdir(path)
        if is_directory and find_configs([path]) == [path]:
            what += ', but a directory without *.tako files'
        raise ConfigError(what, 'check the path; in a directory, name configs *.tako') from error
    if len(content) > CONFIG_MAX_BYTES:
        raise ConfigError(f'longer than {CONFIG_MAX_BYTES} bytes',
                          'check the path: this is not a config')
    return text


def load_config(path: str) -> Config:
    """Return the config in a file, whose destination exists. Raises ConfigError, OSError."""
    config = parse_config(read_config(path))
    require_destination(config)
    return config


def require_destination(config: Config) -> None:
    """Raise ConfigError if the destination is not a directory, OSError if that cannot be told."""
    if not os.path.isdir(config.destination):
        _identity(config.destination)
        raise ConfigError(f'Destination= is not an existing directory: {config.destination}',
                          'create it, and let the user that runs Tako write to it',
                          config.destination_line)


def fetch(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the fetch command for each config, even if others fail.

    Return the most severe exit code.
    """
    if arguments.splay:
        import random
        time.sleep(random.uniform(0, arguments.splay))
    with HttpClient(os.environ) as client, Runs(report) as runs:
        if arguments.stall is not None:
            client.deadline.stall = min(arguments.stall, STALL_MAX_SECONDS)
        configs = load_configs(find_configs(arguments.configs), lambda path, error:
                               runs.codes.append(report.error(path, error)))
        for number, (path, config) in enumerate(configs, 1):
            if arguments.timeout is not None:
                client.deadline.start(arguments.timeout)
            try:
                image = ImageFetch(path, config, arguments, client, report, runs)
                if arguments.dry_run:
                    runs.codes.append(image.dry_run())
                else:
                    runs.start(path, image.run(), is_last=number == len(configs))
            except Exception as error:              # do not end the runs of other configs
                runs.codes.append(report.error(path, error))
        return runs.finish()


def load_configs(paths: 'Iterable[str]',
                 fail: 'Callable[[str, Exception], object]') -> 'List[Tuple[str, Config]]':
    """Return the configs that can be fetched, with their paths. Call `fail` for each of the others.

    Two configs with one destination both fail: otherwise their order would decide what is
    installed there.
    """
    groups: Dict[str, List[Tuple[str, Config]]] = {}
    usable = []
    for path in paths:
        try:
            config = parse_config(read_config(path))
            groups.setdefault(_identity(config.destination), []).append((path, config))
        except Exception as error:              # do not end the runs of other configs
            fail(path, error)
    for group in groups.values():
        for (path, config), (other, _) in zip(group, group[-1:] + group):
            try:
                if other != path:
                    raise ConfigError(f'Destination= is the directory of {other}, too',
                                      'give each config a directory of its own',
                                      config.destination_line)
                require_destination(config)
                usable.append((path, config))
            except (ConfigError, OSError) as error:
                fail(path, error)
    return usable


def _identity(path: str) -> str:
    """Return a text that is the same for all paths of a directory, through links and mounts.

    Return the resolved path if nothing exists there. Raises OSError if that cannot be told.
    """
    try:
        status = os.stat(path)
        return f'{status.st_dev}:{status.st_ino}'
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise
        return os.path.realpath(path)


def rollback(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the rollback command, which uses no network. Return the exit code."""
    path = arguments.config
    with HttpClient(os.environ) as client, Runs(report) as runs:
        try:
            image = ImageFetch(path, load_config(path), arguments, client, report, runs)
            runs.start(path, image.roll_back(), is_last=True)
        except Exception as error:
            return report.error(path, error)
        return runs.finish()


# ======================================================================== 18 status

METRICS = (             # name without tako_, key of _status_of(), help
    ('installed_info', 'is_there', 'Whether the installed image is in the store.'),
    ('exit_code', 'exit_code', 'Exit code of the last fetch; of status if it fails.'),
    ('failures_in_a_row', 'failures', 'Fetches that failed since the last success.'),
    ('last_success_timestamp_seconds', 'last_success', 'Last successful fetch; 0 for none.'),
    ('last_check_timestamp_seconds', 'last_check', 'Last valid manifest; 0 for none.'),
    ('last_failure_timestamp_seconds', 'last_failure', 'Last fetch that failed; 0 for none.'),
    ('stamp_timestamp_seconds', 'proof', 'Last stamp of the manifest; 0 for none.'),
    ('fork_timestamp_seconds', 'fork', 'Last contradiction of two manifests; 0 for none.'),
    ('failing_mirrors', 'mirrors', 'Mirrors that failed in the last fetch.'),
    ('rejected_versions', 'rejected', 'Rejected versions that match the pattern.'),
    ('withdrawn_versions', 'withdrawn', 'Withdrawn versions that match the pattern.'),
    ('restart_due', 'restart_due', 'Whether units have yet to restart.'),
    ('image_bytes', 'size', 'Size of the installed image; 0 for none.'),
    ('received_bytes', 'received', 'Bytes received for the installed image; 0 if unknown.'),
    ('store_bytes', 'image_bytes', 'Size of all images in the store.'))


def status(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the status command, which uses no network. Return the most severe exit code."""
    codes: Dict[str, int] = {}
    everything: List[Dict[str, Any]] = []
    paths, lines = find_configs(arguments.configs), []
    for path in paths:
        try:
            config = load_config(path)
            if arguments.history:
                events = Destination(config.destination).events(HISTORY)
                lines += format_events(dict(event, config=to_ascii(path)) for event in events
                                       ).decode('ascii').splitlines()
                continue
            known = _status_of(path, config, report)
            everything.append(known)
            if arguments.max_age is not None:
                _check_age(path, 'success', known['last_success'], arguments.max_age)
                if known['is_stamp_needed']:
                    _check_age(path, 'stamp', known['proof'], arguments.max_age)
        except (TakoError, OSError) as error:
            codes[path] = report.error(path, error)
    told = {known['config'] for known in everything}
    rows = everything + [{'config': path, 'exit_code': code} for path, code in codes.items()
                         if path not in told]
    if arguments.json:
        import json
        lines = json.dumps(everything, indent=2).split('\n')
    elif arguments.metrics:
        lines = _metrics_lines(rows)
    elif len(paths) > 1 and report.level < VERBOSE and not arguments.history:
        lines = _table_lines(rows)
    else:
        lines += [line for known in everything for line in _status_lines(known)]
    report.result(*lines)
    return max([0, *codes.values()], key=SEVERITY.index)


def _metrics_lines(rows: 'List[Dict[str, Any]]') -> 'List[str]':
    """Return the lines of --metrics: OpenMetrics text that node_exporter reads, too."""
    def label(name: str, value: str) -> str:
        return '{}="{}"'.format(name, re.sub(r'(["\\])', r'\\\1', to_ascii(value)))
    lines = []
    for name, key, text in METRICS:
        lines += [f'# HELP tako_{name} {text}', f'# TYPE tako_{name} gauge']
        for row in rows:
            value, labels = row.get(key, ''), [label('config', row['config'])]
            if name == 'installed_info':
                labels += [label('version', row.get('version') or ''),
                           label('digest', row.get('digest') or '')]
            if value != '':
                number = len(value) if isinstance(value, list) else int(value or 0)
                lines.append('tako_{}{{{}}} {}'.format(name, ','.join(labels), number))
    return lines + ['# EOF']


def _table_lines(rows: 'List[Dict[str, Any]]') -> 'List[str]':
    """Return the lines of a table with a row for each config."""
    def age(seconds: 'Optional[int]') -> str:
        if not seconds:
            return 'never'
        count = max(0, int(time.time()) - seconds)
        unit, size = next((each for each in (('d', 86400), ('h', 3600), ('m', 60))
                           if count >= 2 * each[1]), ('s', 1))
        return f'{count // size}{unit} ago'
    return format_table([('CONFIG', 'VERSION', 'LAST SUCCESS', 'STATUS')] + [
        (row['config'], row['version'] or '-', age(row['last_success']),
         '; '.join(row['problems']) or 'ok') if 'problems' in row else
        (row['config'], '-', '-', 'error (exit code {})'.format(row['exit_code']))
        for row in rows])


def _check_age(path: str, event: str, seconds: 'Optional[int]', max_age: float) -> None:
    """Raise TakoError if the last success or stamp of a config is older than `max_age` seconds."""
    hint = 'run: tako fetch -v ' + path
    if seconds is None:
        raise TakoError('no fetch has succeeded yet' if event == 'success' else
                        'no stamp proves the manifest', hint)
    age = time.time() - seconds
    if age < -(CLOCK_SLACK_SECONDS if event == 'success' else STAMP_AHEAD_SECONDS):
        raise TakoError(f'the last {event} is in the future', 'check the clock, then ' + hint)
    if age > max_age:
        raise TakoError(f'the last {event} is too old', hint)


def _status_of(path: str, config: Config, report: Report) -> 'Dict[str, Any]':
    """Return what is known of a config, as --json prints it. Does not read the images.

    Times are in seconds since 1970, sizes in bytes. Raises TakoError and OSError.
    """
    destination = Destination(config.destination, config.public_keys)
    latest, manifest, notes = destination.latest(), destination.manifest(), StateFile(destination)
    if notes.is_damaged:
        report.warning(path, f'{notes.path} is damaged', 'run fetch, which writes it again')
    state, stored = notes.state, destination.images()
    compatible = list(compatible_entries(manifest, config.bounds))
    rejected, withdrawn = ([entry.version.text for entry in compatible if entry.digest in listed]
                           for listed in (set(state.rejected), set(state.withdrawn)))
    installed = [entry for entry in compatible + list(manifest.entries[::-1])
                 if entry.digest == latest]
    downloaded, _, received = state.received.partition(' ')
    held, held_until = _held_plan(manifest, config, state, latest)
    known = {
        'config': path, 'destination': destination.root, 'pattern': config.bounds.text,
        'version': installed[0].version.text if installed else None,
        'digest': latest or None,
        'is_there': latest in stored and all(stored[latest] == entry.size for entry in installed),
        'since': time_of(destination.path('latest')) or None,
        'newest_compatible': compatible[0].version.text if compatible else None,
        'out_of_bounds': [entry.version.text for entry in manifest.entries
                          if entry.version not in config.bounds],
        'rejected': rejected, 'withdrawn': withdrawn,
        'waiting': held and held.entry.version.text,
        'waiting_until': held_until,
        'size': stored.get(latest),
        'received': int(received) if latest and downloaded == latest else None,
        'images': len(stored), 'image_bytes': sum(stored.values()),
        'restart_due': state.restart_due != '' and (
            state.restart_due == latest or latest in state.rejected),
        'last_check': time_of(destination.manifest_path) or None,
        'last_success': notes.last_success() or None,
        'reason': _reason(config.bounds.text, compatible, installed, state, latest, stored, held),
    }
    known.update(_trouble_of(destination, config, state))
    known['problems'] = list(_problems_of(known))
    return known


def _held_plan(manifest: Manifest, config: Config, state: State, latest: str
               ) -> 'Tuple[Optional[FetchPlan], Optional[int]]':
    """Return the plan of the version that waits for Delay=, and until when; None if none does."""
    _, waiting = plan_delay(manifest, config, state, latest, machine_id() or state.machine,
                            time.time())
    for plan in plan_fetch(manifest, config, state, latest, lambda _: '', False, waiting):
        if not plan.skipped:
            break
        if plan.entry.digest in waiting:
            return plan, waiting[plan.entry.digest]
    return None, None


def _trouble_of(destination: Destination, config: Config, state: State) -> 'Dict[str, Any]':
    """Return the part of _status_of() that says what failed in the last runs, and stamps."""
    proof = stored_proof(destination, config)
    failure = destination.last_failure() or {}
    failures = failure.get('failures', 0)
    return {
        'failures': failures,
        'exit_code': failure['exit_code'] if failures else 0,
        'last_failure': failure.get('time'),
        'last_failure_exit_code': failure.get('exit_code'),
        'last_failure_message': failure.get('message'),
        'mirrors': [{'url': each['url'], 'since': each['time'], 'message': each.get('message', '')}
                    for each in destination.events(PROBLEMS) if 'url' in each],
        'fork': time_of(destination.path('.fork.1')) or None,
        'is_stamp_needed': config.stamp_keys != (), 'proof': proof and proof.seconds(),
        'unproven_since': int(state.unproven) if state.unproven else None,
    }


def _problems_of(known: 'Dict[str, Any]') -> 'Iterator[str]':
    """Yield what is wrong with a config, in short. known: as in _status_of()."""
    if not known['digest']:
        yield 'nothing is installed'
    elif not known['is_there']:
        yield 'the installed image is missing or has the wrong size'
    failures, mirrors = known['failures'], len(known['mirrors'])
    if failures:
        yield 'the last {} failed (exit code {})'.format(
            'fetch' if failures == 1 else f'{failures} fetches', known['exit_code'])
    if known['fork']:
        yield 'two manifests contradict each other'
    if mirrors:
        yield amount(mirrors, 'mirror fails', 'mirrors fail')
    if known['newest_compatible'] in known['rejected']:
        yield '{} was rejected'.format(known['newest_compatible'])
    if known['restart_due']:
        yield 'a restart is due'
    if known['unproven_since'] is not None:
        yield 'a newer manifest has no stamp'


def _reason(pattern: str, compatible: 'List[Entry]', installed: 'List[Entry]', state: State,
            latest: str, stored: 'Iterable[str]', held: 'Optional[FetchPlan]') -> str:
    """Return why this image is installed, and not a newer one.

    compatible: the entries in bounds, newest first. installed: the entries of the installed image.
    latest: its SHA-256, or ''. stored: the images in the store. held: the plan of the version that
    waits for Delay=.
    """
    if not latest:
        return 'nothing is installed yet'
    if not installed:
        return 'the local manifest does not list it; the next fetch looks for another version'
    if latest in state.rejected:
        return 'it was rejected; the next fetch rolls back, or installs another version'
    if latest not in [entry.digest for entry in compatible]:
        return (f'it was installed before Version= became {pattern}; '
                'the next fetch looks for another version')
    fates = fates_of_newer(compatible, latest, state, stored, held)
    return (f'it matches {pattern}; {fates}' if fates
            else f'it is the newest version that matches {pattern}')


def _status_lines(known: 'Dict[str, Any]') -> 'List[str]':
    """Return the lines that status prints without --json. known: what _status_of() returned."""
    newest = known['newest_compatible']
    fates = ''.join(f' ({fate})' for fate in ('rejected', 'withdrawn') if newest in known[fate])
    installed, downloaded = 'nothing', 'unknown'
    if known['digest']:
        installed = '{}, {}'.format(known['version'] or 'an unlisted version', known['digest'])
        if not known['is_there']:
            installed += ', which is MISSING or has the wrong size'
    if None not in (known['received'], known['size']):
        downloaded = f'{format_size(known["received"])} of {format_size(known["size"])}'
    lines = {
        'status': '; '.join(known['problems']) or 'ok',
        'installed': installed,
        'since': _date(known['since']),
        'because': known['reason'],
        'downloaded': downloaded,
        'newest known': '{} in {}'.format((newest or 'none') + fates, known['pattern']),
        'out of bounds': join_names(known['out_of_bounds']) or 'none',
        'rejected': join_names(known['rejected']) or 'none',
        'withdrawn': join_names(known['withdrawn']) or 'none',
        'store': f'{amount(known["images"], "image")}, {amount(known["image_bytes"], "byte")}',
        'restart due': 'yes' if known['restart_due'] else 'no',
        'last check': _date(known['last_check']),
        'last success': _date(known['last_success'])}
    lines.update(_trouble_lines(known))
    return [known['config']] + [f'  {name + ":":15}{value}' for name, value in lines.items()]


def _trouble_lines(known: 'Dict[str, Any]') -> 'Iterator[Tuple[str, str]]':
    """Yield the part of _status_lines() that says what went wrong."""
    failure = _date(known['last_failure'])
    if known['last_failure']:
        failure += ', exit code {last_failure_exit_code}: {last_failure_message}'.format(**known)
    yield 'last failure', failure
    if known['is_stamp_needed']:
        yield 'last stamp', _date(known['proof'])
    if known['unproven_since'] is not None:
        yield 'no stamp for', 'a newer manifest, since ' + _date(known['unproven_since'])
    if known['fork']:
        yield 'fork', (_date(known['fork']) + ': send .fork.1 and .fork.2 to the publisher; '
                       'remove them when this is settled')
    for number, mirror in enumerate(known['mirrors'], 1):
        yield f'mirror {number}', 'since {}: {}'.format(_date(mirror['since']), mirror['message'])


def _date(seconds: 'Optional[int]') -> str:
    return 'never' if seconds is None else time.strftime(
        '%Y-%m-%d %H:%M:%S UTC', time.gmtime(seconds))


def check(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the check command, which uses no network. Return the most severe exit code."""
    codes, valid = [0], []

    def warn(path: str, error: Exception) -> None:
        known = as_tako_error(error)
        report.warning(path if known.line is None else f'{path}:{known.line}',
                       known.what, known.hint)

    for path in find_configs(arguments.configs):
        try:
            values, errors = parse_settings(read_config(path))
            codes += [report.error(path, error) for error in errors]
            for doubt in itertools.chain(_doubts(path, values), _absences(path, values, report)):
                warn(path, doubt)
            valid += [path] * (not errors)
        except (TakoError, OSError) as error:
            codes.append(report.error(path, error))
    load_configs(valid, warn)                   # which looks at the destinations
    report.result(*(path + ': valid' for path in valid))
    return max(codes, key=SEVERITY.index)


def _doubts(path: str, values: 'Values') -> 'Iterator[ConfigError]':
    """Yield what may be meant otherwise in a config."""
    for line, bounds in values['Version'].items():
        for what, hint in pattern_doubts(bounds.text) if bounds else ():
            yield ConfigError('Version=' + what, hint, line)
    if not values['Keep']:
        yield ConfigError('Keep= is missing: every image stays, and the disk fills up',
                          'add a line like Keep=3')
    for line, key in values['StampKey'].items():
        if key is not None and key in values['PublicKey'].values():
            yield ConfigError('StampKey= is also a PublicKey=: one stolen key is enough',
                              'sign stamps with another key: tako gen-key', line)
    secrets = [line for line, origin in values['Origin'].items() if origin and origin.authorization]
    secrets += [line for line, token in values['Token'].items() if token and token[0] != '@']
    for line in secrets if os.stat(path).st_mode & 0o004 else ():
        yield ConfigError('others can read the password or token', 'run: chmod o-r ' + path, line)


def _absences(path: str, values: 'Values', report: Report) -> 'Iterator[Exception]':
    """Yield which units and files of credentials cannot be used here, or can be read by others."""
    credentials = credentials_of(values)
    try:
        with HttpClient(os.environ) as client:
            client.private(credentials)
    except (TakoError, ImportError) as error:
        yield error
    secrets = credentials.token[1:] if credentials.token[:1] == '@' else '', (
        credentials.key or credentials.certificate)
    for secret in secrets:
        if '/' in secret and os.path.exists(secret) and os.stat(secret).st_mode & 0o004:
            yield ConfigError(f'others can read {secret}', 'run: chmod o-r ' + secret)
    for unit, line in units_of(values).items():
        try:
            check_units({unit: line}, False, next(iter(values['Manager'].values()), None) or '')
        except ConfigError as error:
            yield error
        except SystemdError as error:
            report.step(f'{path}: the units of Restart= are not checked: {error.what}')
            break


# ======================================================================== 19 publish

# Making a patch maps two images into memory, which have at most this size together. On a 32-bit
# machine, that is 2 GiB.
MAPPABLE_BYTES = sys.maxsize


def store(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the store command: write the image first, and the manifest that lists it last.

    Return the exit code. Raises TakoError and OSError, as all commands of this section do.
    """
    if arguments.reindex:
        return _reindex(arguments, report)
    operands = [each for each in (arguments.image, arguments.version) if each is not None]
    needed = ['VERSION'] if arguments.again else ['IMAGE', 'VERSION']
    if len(operands) < len(needed):
        raise UsageError('the following arguments are required: ' + ', '.join(needed),
                         'see: tako store --help')
    if (len(operands) > 1 or arguments.patch_from if arguments.again
            else arguments.without_image):
        raise UsageError('--again takes VERSION alone, without --patch-from, and only it allows '
                         '--without-image', 'see: tako store --help')
    version = _new_version(operands[-1], '-' if arguments.again else arguments.image)
    if arguments.image == arguments.key_file == '-':
        raise UsageError('standard input cannot be both the key and the image',
                         'give one of them as a file')
    signer = _signer(arguments, arguments.public_key, '-p PUBLIC', report)
    lock = _lock(arguments.output, report)
    directory = ImageDirectory(arguments.output, [signer.public_key])
    if arguments.dry_run or arguments.bytes:
        arguments.dry_run = True
        _publish(arguments, directory, version, signer, report)
        return 0
    with lock:
        directory.clear_leftovers()
        _publish(arguments, directory, version, signer, report)
    return 0


def _reindex(arguments: 'argparse.Namespace', report: Report) -> int:
    """Make missing chunk indexes, as of images that an older Tako stored. Return the exit code."""
    directory, root = ImageDirectory(arguments.output), arguments.output
    if any((arguments.image, arguments.dry_run, arguments.extend, arguments.key,
            arguments.key_file, arguments.patch_from, arguments.again, arguments.without_image,
            arguments.bytes, arguments.signature, arguments.public_key)):
        raise UsageError('--reindex needs -o DIR, and allows nothing else',
                         'see: tako store --help')
    with _lock(root, report):
        directory.clear_leftovers()
        code, count = 0, 0
        for digest, size in sorted(directory.images().items()):
            is_missing = directory.read_index(digest, size) is None
            fault = directory.why_unusable(digest) if is_missing else ''
            if fault:
                code = report.error(root, RefusedError('cannot make a chunk index: ' + fault,
                                                       'restore the published image'))
            elif _make_index(directory, digest, report):
                count += 1
    if count:
        report.result(f'{root}: made {count} chunk indexes')
    else:
        report.unchanged(f'{root}: no chunk index is missing')
    return code


def _publish(arguments: 'argparse.Namespace', directory: ImageDirectory, version: Version,
             signer: 'Signer', report: Report) -> None:
    """Publish an image as a version; with --dry-run, only print what that would change."""
    directory.check_file_system()
    root, manifest = directory.root, directory.manifest()
    if not directory.accepted().signed:
        if arguments.extend or arguments.again:
            raise UsageError(f'{directory.manifest_path}: no such file, so nothing was stored',
                             'put the published manifest there; leave out --extend only for the '
                             'very first version')
        report.warning(root, 'has no manifest: this begins a new history; machines that know this '
                       'key will refuse it',
                       'ignore this for the first version; otherwise put the published manifest '
                       'there, and run store --extend')
    check_spelling(manifest, version)
    older = _older_entries(directory, version, arguments.patch_from)
    note, verb = '', 'would store' if arguments.dry_run else 'stored'
    if arguments.again:
        note = f', the image of {arguments.again}'
        entry, grown, is_new = _store_again(arguments, directory, version, signer)
    elif arguments.dry_run:
        entry = Entry(version, *hash_blocks(_read_image(arguments.image)))
        grown = add_entry(manifest, entry)
        for each in older:
            Patch(directory, each, entry)       # raises TakoError if store could not make it
        # add_entry() returns the same manifest if the entry is listed
        is_new = grown is not manifest or directory.image_fault(entry.digest, entry.size) != ''
    else:
        entry, is_new = _store_image(arguments, directory, version, signer, older, report)
        grown = directory.manifest()
    if arguments.bytes:
        _print_bytes(manifest_body(grown), report)
    elif is_new:
        report.result('{}: {} {}{}, {}, SHA-256 {}; clients need PublicKey={}'.format(
            root, verb, version, note, amount(entry.size, 'byte'), entry.digest,
            encode_base64(signer.public_key)))
    else:
        report.unchanged(f'{root}: {version} is published already, with this image')
    _warn_of_order_and_gaps(directory, grown, entry, report)


def _store_again(arguments: 'argparse.Namespace', directory: ImageDirectory, version: Version,
                 signer: 'Signer') -> 'Tuple[Entry, Manifest, bool]':
    """List the image of --again as `version`, too; with --dry-run, write nothing.

    Return the entry, the manifest with it, and whether it was not listed before.
    """
    entry, manifest = _entry_again(directory, version, arguments), directory.manifest()
    grown = add_entry(manifest, entry)
    is_new = grown is not manifest
    if is_new and not arguments.dry_run:
        if not arguments.without_image:
            directory.sync()
        directory.write_manifest(SignedManifest(grown, signer.seal(manifest_body(grown)),
                                                directory.manifest_path))
    return entry, grown, is_new


def _entry_again(directory: ImageDirectory, version: Version,
                 arguments: 'argparse.Namespace') -> Entry:
    """Return the entry that lists the image of the version --again once more, as `version`.

    Raises RefusedError if machines with a later version would not install it, or could not.
    """
    entries, old = directory.manifest().entries, parse_version(arguments.again)
    first = _version_parts(version.text)[0]
    listed = [each for each in entries if each.version == old]
    if not listed:
        raise UsageError(f'{old} is not in {directory.manifest_path}',
                         'give --again the version to return to')
    entry = listed[0]._replace(version=version)
    if entry in entries:
        return entry
    if entry.digest in directory.withdrawn():
        raise RefusedError(f'{old} was withdrawn',
                           'give --again another version, or store this image again first')
    rivals = [each.version for each in entries if not each.version < version
              and (each.version == old or _version_parts(each.version.text)[0] == first)]
    if rivals:
        raise RefusedError(f'version {version} is not above {rivals[-1]}',
                           'choose a version that is: machines only install a newer one')
    fault = directory.image_fault(entry.digest, entry.size)
    if fault and not (fault == MISSING and arguments.without_image):
        raise RefusedError(
            f'{old}: {directory.image_path(entry.digest)} {fault}',
            'restore it; if it is on the server and only missing here, add --without-image')
    return entry


def _store_image(arguments: 'argparse.Namespace', directory: ImageDirectory, version: Version,
                 signer: 'Signer', older: 'Sequence[Entry]',
                 report: Report) -> 'Tuple[Entry, bool]':
    """Copy an image into a directory, make its index and patches, and list it in the manifest last.

    older: the entries to make patches from. Return the entry of the image, and whether this stored
    anything: the image was not listed before, or not intact.
    """
    manifest = directory.manifest()
    directory.check_rename()
    with NewFile(directory.path(NEW_IMAGE)) as new:
        size = 0 if arguments.image == '-' else os.stat(arguments.image).st_size
        for block in counted(_read_image(arguments.image),
                             report.meter(f'{directory.root}: reading {version}', size)):
            new.write(block)
        entry = Entry(version, new.size, new.sha256.hexdigest())
        grown = add_entry(manifest, entry)
        patches = [Patch(directory, each, entry) for each in older]
        patches += [RecompressionPatch(each) for each in patches]
        fault = directory.image_fault(entry.digest, entry.size)
        # add_entry() returns the same manifest if the entry is listed
        is_new = grown is not manifest or fault != ''
        if fault:           # an index that exists may be that of the damaged image
            remove_if_there(directory.index_path(entry.digest))
        if is_new:
            sealed = signer.seal(manifest_body(grown))  # before the image: it may be refused
            _forget_withdrawn(directory, entry, report)
            directory.store_image(entry, new)
    _make_index(directory, entry.digest, report)    # Patch.make() reads it
    for patch in patches:
        patch.make(arguments.patch_memory, report)
    if patches:
        _make_index(directory, entry.digest, report)    # again: an index also lists the patches
    if grown is not manifest:
        directory.sync()
        directory.write_manifest(
            SignedManifest(grown, sealed, directory.manifest_path))
    return entry, is_new


def _warn_of_order_and_gaps(directory: ImageDirectory, manifest: Manifest, entry: Entry,
                            report: Report) -> None:
    root, newest = directory.root, manifest.entries[-1].version
    if newest != entry.version:
        report.step(f'{root}: {entry.version} is older than {newest}, which stays the newest')
    known = directory.withdrawn().union(directory.images(), [entry.digest])
    missing = sum(each.digest not in known for each in manifest.entries)
    if missing:
        listed = amount(len(manifest.entries), 'listed image is', 'listed images are')
        report.warning(root, f'{missing} of {listed} missing from store/; to list them, run: '
                       'tako verify', '')


def _forget_withdrawn(directory: ImageDirectory, entry: Entry, report: Report) -> None:
    """Note that an image which may have been withdrawn is published again."""
    withdrawn = directory.withdrawn()
    if entry.digest in withdrawn:
        directory.note_withdrawn(each for each in directory.manifest().entries
                                 if each.digest in withdrawn and each.digest != entry.digest)
        report.warning(directory.root, f'the image of {entry.version} was withdrawn, and is '
                       'published again', 'remove the lines for it from the config of the server')


def _make_index(directory: ImageDirectory, digest: str, report: Report) -> bool:
    """Make the chunk index of an image. Return False if it exists, or clients would refuse it."""
    try:
        return directory.make_index(digest, report.meter(
            f'{directory.root}: making the chunk index',
            os.stat(directory.image_path(digest)).st_size))
    except ValueError as error:
        report.warning(directory.image_path(digest), f'has no chunk index: {error}',
                       'expect clients to download all of this image')
        return False


class Patch:
    """The patch that makes the image of `entry` from the image of `older`, in one directory.

    Raises TakoError if it must be made, and the images are too large for this machine.
    """

    _kind = 'patch'

    def __init__(self, directory: ImageDirectory, older: Entry, entry: Entry) -> None:
        self._directory = directory
        self._older = older
        self._entry = entry
        self._label = f'{directory.root}: {self._kind} from {older.version}'
        self._path = self._patch_path()
        self._older_path = directory.image_path(older.digest)
        # both read the older image once, though both kinds of patches ask
        self._older_fault = functools.lru_cache(maxsize=None)(
            lambda: directory.image_fault(older.digest, older.size))
        self._limit = functools.lru_cache(maxsize=None)(self._update_size)
        size = older.size + entry.size
        if size > MAPPABLE_BYTES and self._is_needed():
            raise TakoError(
                f'{self._label}: both images together have {format_size(size)}, '
                f'and this Python can map {format_size(MAPPABLE_BYTES)}',
                'leave out --patch-from, or publish with a 64-bit Python')

    def _patch_path(self) -> str:
        return self._directory.patch_path(self._entry.digest, self._older.digest)

    def _is_needed(self) -> bool:
        """Return whether there is no patch yet, and the images are not the same, and not empty."""
        older, entry = self._older, self._entry
        return (older.size > 0 and entry.size > 0 and older.digest != entry.digest
                and not os.path.exists(self._path))

    def make(self, memory_bytes: int, report: Report) -> None:
        """Make the patch, unless it exists. Discard it if a client downloads no more without it.

        memory_bytes: how much memory to use at most.
        """
        if not self._is_needed():
            return
        report.step(self._label)
        fault = self._older_fault()
        if fault:
            return report.warning(self._label, f'its image {fault}', 'restore the published image')
        limit = self._limit()
        with NewFile(self._directory.path(NEW_PATCH)) as new:
            note = self._write(new, memory_bytes, report)
            outcome = format_size(new.size) if new.size else 'none'
            if new.size >= limit:
                outcome += ', discarded: it would save nothing'
            elif new.size and not self._makes_image(new):
                return report.warning(self._label, 'discarded: it does not make the image',
                                      'report this bug, or test the memory of this machine')
            elif new.size:
                new.publish(self._path)
        if new.size or note:
            report.result(f'{self._label}: {outcome}{note}')

    def _update_size(self) -> int:
        """Return how many bytes a client with the older image downloads without this patch.

        That is the index and the missing chunks, or all of the image.
        """
        entry = self._entry
        index, size = self._directory.read_index(entry.digest, entry.size), entry.size
        if index is not None:
            with open(self._older_path, 'rb', buffering=0) as image:
                chunks = hashed_chunks(image.read, index.method, index.average)
                plan = plan_image(index, find_chunks(index, chunks), bytes(len(index.lengths)))
            size = os.path.getsize(self._directory.index_path(entry.digest)) + sum(
                each.end - each.begin for each in plan.ranges)
        return min(size, int(DELTA_MAX_SHARE * entry.size))

    def _write(self, new: NewFile, memory_bytes: int, report: Report) -> str:
        """Write the patch, and return a note on it; write nothing if there can be none."""
        with _mapped(self._older_path) as old_image, \
                _mapped(self._directory.image_path(self._entry.digest)) as new_image:
            make_patch(old_image, new_image, new.write, memory_bytes,
                       report.meter(self._label, self._entry.size))
        return ''

    def _makes_image(self, new: NewFile) -> bool:
        """Return whether the patch makes the image. Applies it as a client does."""
        with naming(self._older_path), new.read_back() as patch, \
                open(self._older_path, 'rb') as image:
            try:
                blocks = self._apply(patch, functools.partial(read_older, image.fileno()))
                return hash_blocks(blocks)[1] == self._entry.digest
            except (PatchError, EOFError):
                return False

    def _apply(self, patch: 'BinaryIO',
               read_old: 'Callable[[int, int], bytes]') -> 'Iterator[bytes]':
        return apply_patch(patch, read_old, self._entry.size)


class RecompressionPatch(Patch):
    """The recompression patch between the images of an ordinary patch, which was made before."""

    _kind = 'recompression patch'

    def __init__(self, ordinary: Patch) -> None:
        super().__init__(ordinary._directory, ordinary._older, ordinary._entry)
        self._ordinary, self._older_fault = ordinary, ordinary._older_fault

    def _patch_path(self) -> str:
        return self._directory.recompression_patch_path(self._entry.digest, self._older.digest)

    def _is_needed(self) -> bool:
        # if the older image is damaged, the ordinary patch has said so
        return (self._older.size + self._entry.size <= MAPPABLE_BYTES and super()._is_needed()
                and not self._older_fault())

    def _update_size(self) -> int:
        """Return RECOMPRESSION_MAX_SHARE of what a client downloads otherwise, in bytes."""
        path, size = self._ordinary._path, self._ordinary._limit()
        if os.path.exists(path):
            size = min(size, os.path.getsize(path))
        return int(RECOMPRESSION_MAX_SHARE * size)

    def make(self, memory_bytes: int, report: Report) -> None:
        """Make the patch as Patch.make() does. Warn if the disk is too small for that."""
        try:
            super().make(memory_bytes, report)
        except (TakoError, OSError) as error:
            known = as_tako_error(error)
            if isinstance(error, OSError) and error.errno not in (*NO_SPACE, errno.ENOMEM):
                raise                           # ENOMEM: no address space to map expanded images
            report.warning(self._label, 'not made: ' + known.what,
                           'free disk space, then run the command again')
        except RuntimeError as error:           # no new thread
            report.warning(self._label, f'not made: {error}',
                           'allow more threads, then run the command again')

    def _write(self, new: NewFile, memory_bytes: int, report: Report) -> str:
        directory, progress = self._directory, report.meter(self._label, self._entry.size)
        with _mapped(self._older_path) as old, \
                _mapped(directory.image_path(self._entry.digest)) as newer:
            old_streams, new_streams, changed = plan_recompression(old, newer, memory_bytes,
                                                                   progress)
            note = f'; {len(new_streams)} of {changed} changed blocks can be rebuilt'
            if not new_streams:
                return note + ': another zlib or xz made them than is here' if changed else ''
            # both expanded images; the contents of old streams once more to apply the patch
            directory.check_space(len(old) + len(newer) + 2 * sum(
                each.size for each in old_streams + new_streams))
            with directory.scratch_file() as old_file, directory.scratch_file() as new_file, \
                    _expanded(old, old_streams, old_file) as expanded, \
                    _expanded(newer, new_streams, new_file) as expanded_newer:
                new.write(make_head(old, old_streams, new_streams))
                make_patch(expanded, expanded_newer, new.write, memory_bytes, progress, True)
        return note

    def _apply(self, patch: 'BinaryIO',
               read_old: 'Callable[[int, int], bytes]') -> 'Iterator[bytes]':
        parsed = Recompression(patch, read_old, self._older.size, self._entry.size)
        with self._directory.scratch_file() as scratch, thread_pool() as pool:
            yield from parsed.blocks(patch, scratch, pool.submit, lambda: None)


def _mapped(path: str) -> 'mmap.mmap':
    import mmap
    with open(path, 'rb') as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _expanded(image: 'mmap.mmap', streams: 'List[Stream]', scratch: 'BinaryIO') -> 'mmap.mmap':
    """Write an image with these streams expanded to an empty file, and map it."""
    import mmap
    for block in expand(image, streams):
        scratch.write(block)
    scratch.flush()
    return mmap.mmap(scratch.fileno(), 0, access=mmap.ACCESS_READ)


def _older_entries(directory: ImageDirectory, version: Version, patch_from: str) -> 'List[Entry]':
    """Return the entries that --patch-from selects, of images that are in the store.

    patch_from: a version, or how many of the newest versions before `version`. Raises UsageError.
    """
    if not patch_from:
        return []
    # a missing module is reported before any change
    import lzma, mmap, zlib, concurrent.futures.thread          # noqa: E401, F401
    sizes = directory.images()
    stored = [each for each in reversed(directory.manifest().entries)
              if sizes.get(each.digest) == each.size]
    if re.fullmatch('[0-9]{1,9}', patch_from):
        if int(patch_from) > PATCHES_MAX:
            raise UsageError(f'invalid --patch-from: {patch_from!a}',
                             f'give a number up to {PATCHES_MAX}, or a version')
        return [each for each in stored if each.version < version][:int(patch_from)]
    wanted = parse_version(patch_from)
    found = [each for each in stored if each.version == wanted]
    if not found:
        raise UsageError(f'invalid --patch-from: {patch_from!a}: no such image in {directory.root}',
                         'give a number, or a version that is stored there')
    return found


def _read_image(path: str) -> 'Iterator[bytes]':
    """Yield the bytes of a file, or of standard input if `path` is '-'."""
    stream = (_standard_input().raw if path == '-'      # type: ignore[attr-defined]
              else open(path, 'rb', buffering=0))
    blocks = read_blocks(stream)
    while True:
        # a signal that arrives just before a read does not interrupt it, and a pipe may be silent
        while not is_readable(stream, PIPE_POLL_SECONDS):
            pass
        block = next(blocks, b'')
        if not block:
            return
        yield block


def _standard_input() -> 'BinaryIO':
    if sys.stdin is None:
        raise UsageError('standard input is closed', 'give a file, or a pipe')
    return sys.stdin.buffer


def sign(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the sign command: sign the same manifest with another key. Return the exit code."""
    root = arguments.directory
    if not arguments.public_key and not arguments.bytes:
        raise UsageError('the following arguments are required: -p/--public-key',
                         'see: tako sign --help')
    old = [_read_public_key(arguments.public_key)] if arguments.public_key else []
    if arguments.bytes:
        signed = _published_manifest(ImageDirectory(root, old or None)).signed
        if not old:
            report.warning(root, 'the signature of the manifest was not checked',
                           'add -p OLDPUBLIC, or compare the entries with what you published')
        _print_bytes(split_signature(signed, root)[0], report)
        return 0
    signer = _signer(arguments, arguments.public_key, '-p PUBLIC', report)
    # with --signature, the new signature proves what the old one did
    directory = ImageDirectory(root, None if arguments.signature else old + [signer.public_key])
    with _lock(root, report):
        directory.clear_leftovers()
        manifest, signed, _ = _published_manifest(directory)
        sealed = signer.seal(manifest_body(manifest))
        if sealed == signed:
            report.unchanged(f'{root}: signed with this key already')
        else:
            directory.write_manifest(
                SignedManifest(manifest, sealed, directory.manifest_path))
            report.result(f'{root}: signed with another key; '
                          f'clients need PublicKey={encode_base64(signer.public_key)}')
    return 0


class Signer(namedtuple('Signer', ('public_key', 'seal'))):
    """A public key of 32 bytes, and a function that returns bytes with their signature by it."""

    __slots__ = ()
    public_key: bytes
    seal: 'Callable[[bytes], bytes]'


def _signer(arguments: 'argparse.Namespace', public: str, option: str, report: Report) -> Signer:
    """Return what signs: a secret key or, with --bytes and --signature, the owner of `public`.

    option: how the command line gives that key.
    """
    if not (arguments.bytes or arguments.signature):
        seed = _read_secret_key(arguments, report)
        return Signer(ed25519_public_key(seed),
                      lambda body: join_signature(body, ed25519_sign(seed, body)))
    if not public or arguments.key or arguments.key_file:
        raise UsageError(f'--bytes and --signature need {option}, and no secret key',
                         'give the public key of the key that signs')
    key = _read_public_key(public)
    content = _read_key(arguments.signature) if arguments.signature else bytes(64)
    signature = content if len(content) == 64 else decode_base64(
        _one_line(content.decode('ascii', 'replace')), 64)
    if signature is None:
        raise UsageError(f'{arguments.signature}: not a signature',
                         'give 64 bytes, or their base64')

    def seal(body: bytes) -> bytes:
        if not ed25519_verify(key, body, signature):
            raise RefusedError('the signature of --signature is not by this key, or not of these '
                               'bytes', 'sign what the same command prints with --bytes now')
        return join_signature(body, signature)
    return Signer(key, seal)


def _print_bytes(body: bytes, report: Report) -> None:
    report.result(*body.decode('ascii', 'replace').split('\n')[:-1])


def stamp(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the stamp command: state that a manifest is the newest. Return the exit code."""
    root, path = arguments.directory, arguments.last or (arguments.key_file or '-') + '.last'
    signer = _signer(arguments, arguments.stamp_key, '--stamp-key STAMPPUBLIC', report)
    if path == '-.last' or os.path.realpath(path).startswith(os.path.realpath(root) + os.sep):
        raise UsageError('--last FILE is missing, or in DIR', 'name a file that those who write '
                         'in DIR cannot write: it keeps what was stamped last')
    directory = ImageDirectory(root, [_read_public_key(arguments.public_key)])
    if directory.public_keys == [signer.public_key]:
        report.warning(root, 'the stamp key is the release key, too',
                       'use another key: otherwise a stamp adds little')
    with _lock(root, report):
        directory.clear_leftovers()
        _stamp(arguments, directory, signer, path, report)
    return 0


def _stamp(arguments: 'argparse.Namespace', directory: ImageDirectory, signer: Signer, path: str,
           report: Report) -> None:
    """Stamp the manifest of a directory. `path`: of the file that keeps what was stamped last."""
    root, pending, accepted = directory.root, path + '.bytes', _published_manifest(directory)
    last = _read_last(path, signer.public_key, arguments.replace, report)
    moment = format_moment(time.time())
    if arguments.signature:         # the moment is that of --bytes
        sealed = signer.seal(read_at_most(STAMP_MAX_BYTES, pending))
        moment = open_stamp(sealed, [signer.public_key], pending).moment
    new = Stamp(moment, *accepted.name())
    fault = stamp_fault(new, accepted.manifest, last, arguments.renew)
    if fault and not arguments.replace:
        raise RefusedError(f'{root}: {fault}', 'look, then run tako stamp without --renew'
                           if fault == 'new entries' else 'find out why; --replace overrides this')
    if fault:
        report.warning(root, fault, 'it is stamped nevertheless, as --replace asks')
    if arguments.bytes and not arguments.dry_run:
        _replace_file(pending, new.body())
        _print_bytes(new.body(), report)
        return
    sealed = b'' if arguments.dry_run else signer.seal(new.body())
    known = set(last[1].entries) if last else set()
    report.result(*('+ ' + each.line().strip() for each in accepted.manifest.entries
                    if each not in known))
    if sealed:
        _replace_file(path, sealed + accepted.signed)
        directory.write_stamp(sealed)
        remove_if_there(pending)
    (report.unchanged if arguments.renew else report.result)(
        f'{root}: {"stamped" if sealed else "would stamp"} '
        f'{amount(new.entries, "entry", "entries")} at {new.moment}; '
        f'clients need StampKey={encode_base64(signer.public_key)}')


def stamp_fault(new: Stamp, manifest: Manifest, last: 'Optional[Tuple[Stamp, Manifest]]',
                is_renewal: bool) -> str:
    """Return why a stamp of a manifest should not be made; '' if it may be.

    last: what was stamped last. is_renewal: --renew was given.
    """
    if new.seconds() < RELEASED or (last and new.moment < last[0].moment):
        return (f'the clock is wrong: {new.moment} is before '
                + (f'the last stamp, of {last[0].moment}' if last else 'the release of this Tako'))
    lost = first_lost(last[1], manifest) if last else None
    if lost is not None:
        return f'the manifest lacks or changes {lost.version}, which was stamped last'
    return 'new entries' if is_renewal and (last is None or new[1:] != last[0][1:]) else ''


def _read_last(path: str, stamp_key: bytes, is_replaced: bool,
               report: Report) -> 'Optional[Tuple[Stamp, Manifest]]':
    """Return what was stamped last, or None.

    The stamp proves the manifest, whose own signature is not checked.
    is_replaced: whether --replace was given, which ignores a damaged file.
    """
    try:
        content = read_at_most(STAMP_MAX_BYTES + MANIFEST_MAX_BYTES, path)
        sealed, title, signed = content.partition(MANIFEST_TITLE)
        last, signed = open_stamp(sealed, [stamp_key], path), title + signed
        if last.sha256 != body_sha256(signed):
            raise RefusedError(f'{path}: damaged', 'restore it, or replace it with --replace')
        return last, open_manifest(signed, None, path)
    except FileNotFoundError:
        return None
    except RefusedError as error:
        if not is_replaced:
            raise
        report.warning(path, error.what, 'it is ignored, as --replace asks')
        return None


def _replace_file(path: str, content: bytes) -> None:
    path = os.path.abspath(path)
    remove_if_there(path + '.new')          # a killed run left it
    replace_file(path, content, path + '.new')


def verify(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the verify command: check the manifest of a directory or mirror, and all its images.

    Return the most severe exit code.
    """
    root = arguments.directory
    directory = ImageDirectory(root, [_read_public_key(arguments.public_key)])
    entries = _published_manifest(directory).manifest.entries
    codes, intact, gone = [0], 0, 0
    withdrawn = directory.withdrawn()
    for entry in entries:
        fault = directory.image_fault(entry.digest, entry.size, progress=report.meter(
            f'{root}: checking {entry.version}', entry.size))
        what = f'{entry.version}: {directory.image_path(entry.digest)} {fault}'
        if not fault:
            intact += 1
        elif fault == MISSING and entry.digest in withdrawn:
            gone += 1
        elif fault == MISSING:
            codes.append(report.error(root, TakoError(
                what, 'restore it; if you meant to remove it, run: tako withdraw')))
        else:
            codes.append(report.error(root, RefusedError(what, 'restore the published image')))
    note = f', {gone} withdrawn' if gone else ''
    if arguments.stamp_key:
        try:
            note += _stamp_note(directory, arguments.stamp_key)
        except (TakoError, OSError) as error:
            codes.append(report.error(root, error))
    all_images = amount(len(entries), 'image is', 'images are')
    report.result(f'{root}: the manifest is valid, {intact} of {all_images} intact{note}')
    return max(codes, key=SEVERITY.index)


def _stamp_note(directory: ImageDirectory, key: str) -> str:
    """Return when the manifest of a directory was stamped, as a note. Raises TakoError."""
    found = directory.read_stamp([_read_public_key(key)])
    if find_proof([directory.accepted().name()], [found], None, time.time()).stamp is None:
        entries = amount(found.entries, 'entry', 'entries')
        raise TakoError(f'{directory.stamp_path}: of another manifest, or in the future: '
                        f'{entries}, {found.moment}', 'run: tako stamp')
    return f', stamped at {found.moment}'


# the lines that make a server answer 410 for an image, its index and its patches
GONE_LINES = {
    'nginx': 'location ~ /store/{0} {{ return 410; }}',
    'apache': 'RedirectMatch 410 /store/{0}',
    'caddy': '@{0} path */store/{0}*\nhandle @{0} {{\n    respond 410\n}}',
}


def withdraw(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the withdraw command: remove images. Print what the config of a server needs for them.

    That is about all withdrawn images, so it can replace what an earlier run printed. Without -p,
    no key verifies the manifest, since this signs nothing. Return the exit code.
    """
    if bool(arguments.versions) == bool(arguments.keep):
        raise UsageError('give either versions, or --keep N', 'see: tako withdraw --help')
    key = arguments.public_key
    keys = None if key is None else [_read_public_key(key)]
    directory = ImageDirectory(arguments.output, keys)
    if os.path.lexists(directory.path('latest')):
        raise UsageError(f'{directory.root}: a Destination= of fetch, not a published directory',
                         'to remove images there, set Keep= in its config')
    with _lock(directory.root, report):
        entries, withdrawn = _published_manifest(directory).manifest.entries, directory.withdrawn()
        chosen = _entries_to_withdraw(arguments, entries, withdrawn)
        digests = {entry.digest for entry in chosen}
        gone = [entry for entry in entries if entry.digest in withdrawn | digests]
        new = join_names([each.version.text for each in chosen if each.digest not in withdrawn])
        outcome = f'would withdraw {new}' if new else 'nothing to withdraw'
        if chosen and not arguments.dry_run:
            directory.clear_leftovers()
            # The note comes first. If this is interrupted after it, the images that are still there
            # count as published, and the same command removes them.
            directory.note_withdrawn(gone)
            size = directory.remove_images(digests)
            outcome = f'withdrew {new}; removed {format_size(size)}' if new else outcome
    report.result(f'# {directory.root}: {outcome}')
    for entry in {entry.digest: entry for entry in gone}.values():
        report.result(f'# {entry.version} is withdrawn',
                      *GONE_LINES[arguments.server].format(entry.digest).split('\n'))
    return 0


def _entries_to_withdraw(arguments: 'argparse.Namespace', entries: 'Sequence[Entry]',
                         withdrawn: 'Set[str]') -> 'List[Entry]':
    """Return the entries that the command line selects. Raises UsageError."""
    if arguments.keep:
        published = dict.fromkeys(entry.digest for entry in reversed(entries)
                                  if entry.digest not in withdrawn)
        kept = set(list(published)[:arguments.keep])
        return [entry for entry in entries if entry.digest not in kept]
    wanted = {parse_version(text) for text in arguments.versions}
    unknown = wanted.difference(entry.version for entry in entries)
    if unknown:
        raise UsageError('not in the manifest: ' + join_names(sorted(map(str, unknown))),
                         'give versions that were published: tako list prints them')
    chosen = [entry for entry in entries if entry.version in wanted]
    named = {entry.digest: entry.version for entry in chosen}
    for entry in entries:
        if entry.digest in named and entry.version not in wanted:
            raise UsageError(f'{entry.version} has the same image as {named[entry.digest]}',
                             'name both versions to withdraw their image')
    return chosen


VERSION_FACTS = 'matches', 'installed', 'stored', 'rejected', 'withdrawn'


def list_versions(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the list command: print the versions of an origin or a directory, newest first.

    Return the exit code.
    """
    path, key = arguments.origin, arguments.public_key
    is_url = '://' in path
    if key is None and (is_url or os.path.isdir(path)):
        raise UsageError('a URL or a directory needs -p PUBLIC', 'see: tako list --help')
    try:
        if key is None:
            entries, facts = _offered_entries(path, load_config(path), arguments, report)
        elif is_url:
            config = _config_of(path, _read_public_key(key))
            entries, _ = _offered_entries(config.origins[0].url, config, arguments, report)
            facts = {}
        else:
            directory = ImageDirectory(path, [_read_public_key(key)])
            entries = _published_manifest(directory).manifest.entries
            facts = {'stored': _stored(directory, entries), 'withdrawn': directory.withdrawn()}
    except (TakoError, OSError) as error:
        return report.error('' if key else path, error)
    rows = [{'version': each.version.text, 'size': each.size, 'digest': each.digest,
             # None: unknown
             **{name: each.digest in facts[name] if name in facts else None
                for name in VERSION_FACTS}} for each in reversed(entries)]
    if arguments.json:
        import json
        report.result(*json.dumps(rows, indent=2).split('\n'))
    else:
        report.result(*format_table([('VERSION', 'SIZE', 'SHA-256', 'STATE')] + [
            (row['version'], format_size(row['size']), row['digest'][:12],
             ', '.join(name for name in VERSION_FACTS if row[name])) for row in rows]))
    return 0


def _offered_entries(label: str, config: Config, arguments: 'argparse.Namespace', report: Report
                     ) -> 'Tuple[Sequence[Entry], Dict[str, Set[str]]]':
    """Return the entries that a config's origins offer, and the digests for each fact."""
    with HttpClient(os.environ) as client, Runs(report) as runs:
        image = ImageFetch(label, config, arguments, client, report, runs)
        entries = image.offered().entries
    state = image.notes.state
    return entries, {
        'matches': {each.digest for each in entries if each.version in config.bounds},
        'installed': {image.destination.latest()}, 'stored': _stored(image.destination, entries),
        'rejected': set(state.rejected), 'withdrawn': set(state.withdrawn)}


def _config_of(url: str, public_key: bytes) -> Config:
    """Return a config for an origin, whose destination does not exist."""
    try:
        origin = parse_origin(url)
    except UsageError as error:
        raise UsageError('invalid URL: ' + error.what, error.hint) from None
    example = parse_config(''.join(f'{key}={value}\n' for key, value in REQUIRED_KEYS.items()))
    return example._replace(origins=(origin,), public_keys=(public_key,),
                            destination='/' + os.urandom(16).hex())


def _stored(directory: ImageDirectory, entries: 'Sequence[Entry]') -> 'Set[str]':
    """Return the SHA-256 of each listed image that is in the store, of the right size."""
    sizes = directory.images()
    return {entry.digest for entry in entries if sizes.get(entry.digest) == entry.size}


def _lock(root: str, report: Report) -> DirectoryLock:
    """Return the lock of a directory, not yet taken. Raises UsageError if there is no directory."""
    if not os.path.isdir(root):
        raise UsageError(f'{root}: not an existing directory',
                         'create it, or correct the command line')
    return DirectoryLock(root, LOCK_WAIT_SECONDS,
                         lambda: report.step(root + ': waiting for another run'))


def _published_manifest(directory: ImageDirectory) -> SignedManifest:
    accepted = directory.accepted()
    if not accepted.signed:
        raise UsageError(f'{directory.manifest_path}: no such file',
                         'give the directory that store publishes in')
    return accepted


def _new_version(text: str, image: str) -> Version:
    if os.path.exists(text) and image != '-' and not os.path.exists(image):
        raise UsageError(f'{image} does not exist, and {text} is a file',
                         'give the image first, then its version')
    if '*' in text:
        raise UsageError(f'invalid version: {text!a}', 'use * in patterns only')
    refuse_secret_key(text, 'a version')
    return parse_version(text)


def _read_secret_key(arguments: 'argparse.Namespace', report: Report) -> bytes:
    """Return the seed from -k, from the file of -f, or from TAKO_SECRET_KEY. Raises UsageError."""
    if arguments.key_file is not None:
        source, text = 'the key file', _read_key_file(arguments.key_file, report)
    elif arguments.key is not None:
        source, text = '-k', arguments.key
    else:
        source, text = 'TAKO_SECRET_KEY', os.environ.get('TAKO_SECRET_KEY', '')
        if not _one_line(text):
            raise UsageError('no secret key', 'give -f FILE, or set TAKO_SECRET_KEY')
    try:
        return parse_secret_key(_one_line(text))
    except UsageError as error:
        raise UsageError(f'{source}: {error.what}', error.hint) from None


def _read_key(path: str) -> bytes:
    with open(path, 'rb') as stream:            # it may be a pipe, as of the shell's <(command)
        return stream.read(KEY_FILE_MAX_BYTES + 1)


def _read_key_file(path: str, report: Report) -> str:
    try:
        if path == '-':
            content = _standard_input().read(KEY_FILE_MAX_BYTES)
        else:
            content = _read_key(path)
            if SECRET_KEY_PREFIX.encode() in content and os.stat(path).st_mode & 0o077:
                report.warning(path, 'others can read this secret key', 'run: chmod 600 ' + path)
    except OSError as error:
        raise UsageError(f'{path}: {error.strerror or error}',
                         'check the path of the key file') from error
    return content.decode('ascii', 'replace')


def _one_line(text: str) -> str:
    """Return a key without a line end at its end, which editors, `echo` and CI services add."""
    return text.rstrip('\r\n')


def _read_public_key(text: str) -> bytes:
    """Return the public key that -p gives, as the key itself or as a file. Raises UsageError."""
    refuse_secret_key(text, 'a public key')
    if decode_base64(_one_line(text), 32) is not None:
        return parse_public_key(_one_line(text))
    try:
        content = _one_line(_read_key(text).decode('ascii', 'replace'))
    except OSError as error:
        shown = f' {text!a}' if len(text) < 100 else ''     # a longer one may be a secret key
        raise UsageError(f'-p{shown}: neither a public key nor a readable file: {error.strerror}',
                         'give the 44 characters that gen-key printed, or NAME.pub') from None
    if content.startswith(SECRET_KEY_PREFIX):
        raise UsageError(f'{text}: a secret key, not a public key',
                         f'give the output of: tako public-key -f {text}')
    try:
        return parse_public_key(content)
    except UsageError as error:
        raise UsageError(f'{text}: {error.what}', error.hint) from None


def gen_key(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the gen-key command: print a new key pair, or write it to NAME.key and NAME.pub.

    Return the exit code.
    """
    name = arguments.output
    if name is None and sys.stdout is None:
        raise TakoError('standard output is closed', 'open it, or give -o NAME to write files')
    seed = os.urandom(32)
    public, secret = encode_base64(ed25519_public_key(seed)), format_secret_key(seed)
    if name is None:
        report.hint_if_lost = 'run gen-key again: this key pair is lost'
        report.result('Public key, for PublicKey= in the config of each client, or StampKey= if it '
                      'signs stamps:', public,
                      'Secret key; anyone who has it can sign in your name:', secret)
    else:
        _write_key_pair(name, public, secret)
        report.result(f'{name}.key: the secret key; anyone who has it can sign in your name',
                      f'{name}.pub: the public key; clients need PublicKey={public}, or StampKey= '
                      'if it signs stamps')
    return 0


def _write_key_pair(name: str, public: str, secret: str) -> None:
    if not os.path.basename(name):
        raise UsageError(f'invalid name for key files: {name!a}',
                         'give a name such as app, for app.key and app.pub')
    try:
        create_files([(name + '.key', secret.encode('ascii') + b'\n', 0o600),
                      (name + '.pub', public.encode('ascii') + b'\n', 0o644)])
    except FileExistsError as error:
        raise UsageError(f'{error.filename}: exists already, so no key was made',
                         'choose another NAME: gen-key replaces no file') from None
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f'{os.path.dirname(name)}: not an existing directory',
                         'create it, or correct the command line') from None


def print_public_key(arguments: 'argparse.Namespace', report: Report) -> int:
    """Run the public-key command: print the public key of a secret key. Return the exit code."""
    if sys.stdout is None:
        raise TakoError('standard output is closed', 'open it: the key is printed there')
    report.result(encode_base64(ed25519_public_key(_read_secret_key(arguments, report))))
    return 0


# ======================================================================== 20 command line

class Stopped(KeyboardInterrupt):
    """A signal ended the program. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


# Without a width, argparse imports shutil to ask the terminal for one, and shutil imports three
# compressors: at each start, even without --help.
_HelpFormatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=HELP_COLUMNS)


def did_you_mean(word: str, known: 'Iterable[str]') -> str:
    """Return a question for the known word that `word` resembles, or an empty string."""
    similar = most_similar(word, known)
    return f'did you mean {similar}? ' if similar else ''


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that takes options anywhere and raises UsageError.

    Its help keeps the lines of texts as they are.
    """

    def __init__(self, **settings: 'Any') -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **settings)

    def parse(self, words: 'Sequence[str]') -> argparse.Namespace:
        """Parse `words`. Options may stand before, between and after the operands.

        An operand is a word that is neither an option nor its value. argparse accepts operands only
        if no option stands between them. So it gets the options first, each as one word such as
        --name=value, and then the operands. Raises UsageError.
        """
        rest = list(words)
        options: List[str] = []
        operands: List[str] = []
        while rest:
            word = rest.pop(0)
            if word == '--':
                operands += rest
                break
            if word.startswith('--'):
                options.append(self._with_value(rest, *word.split('=', 1)))
            elif word.startswith('-') and word != '-':
                options += self._split_letters(word[1:], rest)
            else:
                operands.append(word)
        if any(word.startswith('-') for word in operands):
            options.append('--')
        return self.parse_args(options + operands)

    def _split_letters(self, letters: str, rest: 'List[str]') -> 'Iterator[str]':
        """Yield the options in a word such as -v, -vq, -kKEY or -k. Take a value from `rest`."""
        while letters:
            name, letters = '-' + letters[0], letters[1:]
            if self._option(name).nargs == 0:
                yield name
            else:
                yield self._with_value(rest, name, re.sub('^=', '', letters) if letters else None)
                return

    def _with_value(self, rest: 'List[str]', name: str, value: 'Optional[str]' = None) -> str:
        """Return an option as --name=value, or as --name if it has no value.

        If the value is not given, remove it from `rest`, the words after the option.
        """
        action = self._option(name)
        if value is None:
            if action.nargs == 0:
                return action.option_strings[-1]
            if not rest or (rest[0].startswith('-') and rest[0] != '-'):
                self.error(f'{name} needs a value')
            value = rest.pop(0)
        return f'{action.option_strings[-1]}={value}'

    def _option(self, name: str) -> argparse.Action:
        """Return what argparse knows of an option. Raises UsageError if it is unknown."""
        known = self._option_string_actions
        if name in known:
            return known[name]
        raise UsageError(f'unknown option {name!a}', did_you_mean(name, known) + self._hint())

    def error(self, message: str) -> 'NoReturn':
        """Raise UsageError. argparse calls this, and would exit otherwise."""
        raise UsageError(message, self._hint())

    def _hint(self) -> str:
        return f'see: {self.prog} --help'


def _duration(text: str) -> float:
    seconds = parse_duration(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(
            f'invalid duration: {text!a} (examples: 90, 90s, 10m, 36h, 7d)')
    return seconds


def _mebibytes(text: str) -> int:
    if not re.fullmatch('[0-9]{1,6}', text) or int(text) < 32:
        raise argparse.ArgumentTypeError(f'invalid number of MiB: {text!a} (at least 32)')
    return int(text) << 20


def parse_command_line(argv: 'Sequence[str]') -> argparse.Namespace:
    """Parse a command line, without `tako`. Raises UsageError, and SystemExit after --help."""
    words = list(itertools.dropwhile(lambda word: word in ('help', '--help', '-h'), argv))
    if len(words) < len(argv):                      # tako help fetch, tako --help fetch
        words = words[:1] + ['--help']
    if words and words[0] in COMMANDS:
        return _command_parser(words[0]).parse(words[1:])
    if words and (words[0] == '--' or not words[0].startswith('-')):
        raise UsageError(f'unknown command {words[0]!a}',
                         did_you_mean(words[0], COMMANDS) + 'see: tako --help')
    return argument_parser().parse(words)


def argument_parser() -> ArgumentParser:
    """Return the parser of a command line that begins with no command. Its help lists them all."""
    parser = ArgumentParser(prog='tako', description=__doc__,
                            epilog='For the options of a command: tako COMMAND --help')
    parser.add_argument('--version', action='version', version='tako ' + __version__)
    commands = parser.add_subparsers(metavar='COMMAND', dest='command')
    commands.required = True
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help)
    return parser


def _command_parser(name: str) -> ArgumentParser:
    """Return the parser of one command. Parsers for all commands would slow down each start."""
    command = COMMANDS[name]
    parser = ArgumentParser(prog='tako ' + name, description=command.description,
                            epilog=command.epilog)
    command.add_options(parser)
    parser.set_defaults(run=command.run)
    return parser


def _add_fetch(parser: ArgumentParser) -> None:
    option = parser.add_argument
    either = parser.add_mutually_exclusive_group().add_argument
    either('--init', action='store_true',
           help='do nothing if an intact compatible image is installed; restart no unit '
                '(for ExecStartPre=)')
    either('--stage', action='store_true',
           help='download the newest version, but leave its installation to the next fetch')
    option('--dry-run', action='store_true', help='print what would be done; change nothing')
    option('--no-verify', action='store_true',
           help='check the size of the installed image, not its SHA-256')
    option('--no-delta', action='store_true',
           help='download the whole image, not just the differences')
    option('--retry-rejected', action='store_true', help='retry versions that were rolled back')
    option('--now', action='store_true', help='install new versions without waiting for Delay=')
    option('--splay', type=_duration, default=0.0, metavar='TIME',
           help='wait for a random time first, TIME at most (for cron; examples: 600, 10m)')
    option('--timeout', type=_duration, metavar='TIME',
           help='limit how long each config waits for the lock and the network')
    option('--stall', type=_duration, metavar='TIME',
           help=f'limit how long a connection may be silent ({NETWORK_TIMEOUT_SECONDS:.0f})')
    _add_levels(parser)
    _add_configs(parser)


def _add_check(parser: ArgumentParser) -> None:
    _add_levels(parser)
    _add_configs(parser)


def _add_configs(parser: ArgumentParser) -> None:
    parser.add_argument('configs', nargs='+', metavar='CONFIG',
                        help='config file of an image, or a directory of such files, *.tako')


def _add_levels(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option('-v', '--verbose', dest='level', action='store_const', const=VERBOSE, default=NORMAL,
           help='print each step to stderr')
    option('-q', '--quiet', dest='level', action='store_const', const=QUIET,
           help='print errors only')


def _add_rollback(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option('--to', metavar='VERSION', default='', help='roll back to VERSION')
    _add_levels(parser)
    option('config', metavar='CONFIG', help='config file of an image')
    parser.set_defaults(init=False, stage=False, no_verify=False, retry_rejected=False)


def _add_status(parser: ArgumentParser) -> None:
    option = parser.add_argument
    form = parser.add_mutually_exclusive_group().add_argument
    form('--json', action='store_true', help='print JSON')
    form('--metrics', action='store_true', help='print OpenMetrics text, for Prometheus')
    form('--history', action='store_true',
         help='print the last switches, rollbacks, rejections and failures as JSON lines')
    option('-v', '--verbose', dest='level', action='store_const', const=VERBOSE, default=NORMAL,
           help='print all of each config, not a table')
    option('--max-age', type=_duration, metavar='TIME',
           help='exit with 1 if the last success is older than TIME (examples: 36h, 7d)')
    _add_configs(parser)


def _add_list(parser: ArgumentParser) -> None:
    option = parser.add_argument
    _add_public_key(parser, 'PUBLIC', is_required=False)
    option('--json', action='store_true', help='print JSON')
    option('origin', metavar='CONFIG|URL|DIR',
           help='config of an image; with -p, the URL of an origin, or a published directory')
    parser.set_defaults(init=False, stage=False, no_verify=False, retry_rejected=False,
                        dry_run=True)


def _add_store(parser: ArgumentParser) -> None:
    option = parser.add_argument
    _add_keys(parser)
    option('-o', '--output', metavar='DIR', required=True, help='publish in this directory')
    option('--extend', action='store_true',
           help='fail if DIR has no manifest: do not begin a new history (for CI)')
    option('--dry-run', action='store_true', help='print what would be stored; change nothing')
    option('--patch-from', default='', metavar='N',
           help='also make patches from the N newest earlier images, or from the version N')
    option('--patch-memory', type=_mebibytes, default=512 << 20, metavar='MIB',
           help='limit the memory for making patches (default: 512)')
    option('--again', default='', metavar='OLD',
           help='take back the versions after OLD: publish its image again, as VERSION')
    option('--without-image', action='store_true',
           help='with --again: allow that the image is not in DIR, but only on the server')
    _add_external(parser)
    option('-p', '--public-key', metavar='PUBLIC', default='',
           help='with --bytes and --signature: the public key, or a file that contains it')
    option('--reindex', action='store_true',
           help='make the chunk indexes that are missing in DIR; store nothing')
    _add_levels(parser)
    option('image', metavar='IMAGE', nargs='?', help='file to publish; - for standard input')
    option('version', metavar='VERSION', nargs='?', help='version of IMAGE, such as 1.2.0')


def _add_keys(parser: ArgumentParser) -> None:
    option = parser.add_mutually_exclusive_group().add_argument
    option('-k', '--key', metavar='KEY',
           help='use this secret key (visible to other users in ps; prefer -f)')
    option('-f', '--key-file', metavar='FILE',
           help='read the secret key from FILE; - for standard input')


def _add_external(parser: ArgumentParser) -> None:
    option = parser.add_mutually_exclusive_group().add_argument
    option('--bytes', action='store_true',
           help='print the bytes that are to be signed elsewhere, as in a hardware module')
    option('--signature', metavar='FILE', default='',
           help='use this signature of these bytes: 64 bytes, or their base64')


def _add_withdraw(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option('-o', '--output', metavar='DIR', required=True, help='published directory')
    option('--keep', type=parse_keep, metavar='N', help='withdraw all but the N newest images')
    _add_public_key(parser, 'PUBLIC', is_required=False)
    option('--server', choices=list(GONE_LINES), default='nginx',
           help='print lines for this server: ' + ', '.join(GONE_LINES) + ' (default: nginx)',
           metavar='NAME')
    option('--dry-run', action='store_true', help='print what would be done; change nothing')
    option('versions', nargs='*', metavar='VERSION', help='version to withdraw')


def _add_sign(parser: ArgumentParser) -> None:
    _add_keys(parser)
    _add_external(parser)
    _add_directory(parser, 'OLDPUBLIC', is_key_required=False)


def _add_stamp(parser: ArgumentParser) -> None:
    option = parser.add_argument
    _add_keys(parser)
    _add_external(parser)
    option('--stamp-key', metavar='STAMPPUBLIC', default='',
           help='with --bytes and --signature: the public key of the stamp key, or its file')
    option('--last', metavar='FILE', default='',
           help='keep what was stamped last in FILE (default: the key file and .last)')
    either = parser.add_mutually_exclusive_group().add_argument
    either('--renew', action='store_true',
           help='only renew the stamp of the manifest that was stamped last (for cron)')
    either('--replace', action='store_true',
           help='stamp a manifest that does not continue the last one')
    option('--dry-run', action='store_true', help='print the new entries; change nothing')
    _add_directory(parser, 'PUBLIC')


def _add_verify(parser: ArgumentParser) -> None:
    parser.add_argument('--stamp-key', metavar='STAMPPUBLIC', default='',
                        help='also check DIR/stamp: this public key, or the one in this file, '
                             'signed it')
    _add_directory(parser, 'PUBLIC')


def _add_directory(parser: ArgumentParser, key_name: str, is_key_required: bool = True) -> None:
    _add_public_key(parser, key_name, is_key_required)
    parser.add_argument('directory', metavar='DIR', help='published directory')


def _add_public_key(parser: ArgumentParser, name: str, is_required: bool) -> None:
    parser.add_argument('-p', '--public-key', metavar=name, required=is_required,
                        help='public key that signed the manifest, or a file that contains it')


def _add_gen_key(parser: ArgumentParser) -> None:
    parser.add_argument('-o', '--output', metavar='NAME',
                        help='write NAME.key and NAME.pub; replace no file')


class Command(namedtuple('Command', ('run', 'add_options', 'help', 'description', 'epilog'))):
    """A command: its function, what adds its options to a parser, and the texts of its help."""

    __slots__ = ()
    run: 'Callable[[argparse.Namespace, Report], int]'
    add_options: 'Callable[[ArgumentParser], None]'
    help: str
    description: str
    epilog: str


FETCH_EXAMPLES = '''examples:
  tako fetch /etc/tako/app.tako
  tako fetch --init /etc/tako/app.tako'''

KEY_FROM_VARIABLE = ('Without -k and -f, the secret key comes from the environment variable\n'
                     'TAKO_SECRET_KEY.')

STORE_EXAMPLES = KEY_FROM_VARIABLE + '''

examples:
  tako store -f app.key -o /srv/images/app app.img 1.2.0
  pass show app.key | tako store -f - -o /srv/images/app app.img 1.2.0'''

COMMANDS = {
    'fetch': Command(
        fetch, _add_fetch, 'install the newest version that Version= allows',
        'Download the newest version that each CONFIG allows, verify it, point\n'
        'latest at it, and restart its units. Print nothing if nothing changed.',
        FETCH_EXAMPLES),
    'rollback': Command(
        rollback, _add_rollback, 'roll back to an earlier image now',
        'Point latest at the previous image, restart its units, and reject all\n'
        'newer versions, so that the next fetch does not install them again.\n'
        'Later versions are installed as usual. Needs no network.', ''),
    'status': Command(
        status, _add_status, 'print what is installed, and why',
        'Print what is installed, why, and when fetch last checked it. Needs no\n'
        'network.', ''),
    'check': Command(
        check, _add_check, 'check configs for errors',
        'Print all errors of each CONFIG, and warnings of what may be meant\n'
        'otherwise or is not on this machine. Needs no network.', ''),
    'list': Command(
        list_versions, _add_list, 'print the versions of an origin',
        'Print the versions that an origin or a published directory offers, newest\n'
        'first, and what is known of each. Change nothing.', ''),
    'store': Command(
        store, _add_store, 'publish an image',
        'Copy IMAGE into DIR/store, and list it in DIR/manifest as VERSION. Any web\n'
        'server can serve DIR.', STORE_EXAMPLES),
    'sign': Command(
        sign, _add_sign, 'sign a manifest with another key',
        'Verify DIR/manifest with the public key OLDPUBLIC, then sign it with the\n'
        'secret key of another pair. With --signature, -p gives the new public key.', ''),
    'stamp': Command(
        stamp, _add_stamp, 'state that a manifest is the newest',
        'Verify DIR/manifest with the public key PUBLIC, print its new entries, and\n'
        'write DIR/stamp: at this time, this manifest was the newest. Machines whose\n'
        'config has StampKey= accept no manifest without a stamp.', ''),
    'verify': Command(
        verify, _add_verify, 'check a published directory, or a mirror',
        'Check the signature of DIR/manifest, and size and SHA-256 of each image\n'
        'that it lists.', ''),
    'withdraw': Command(
        withdraw, _add_withdraw, 'remove published images',
        'Remove images from DIR/store, and note that in DIR/.withdrawn. Print the\n'
        'lines that make the server answer 410 for all withdrawn images.', ''),
    'gen-key': Command(
        gen_key, _add_gen_key, 'make a key pair',
        'Print a new public key and its secret key, each on its own line. With -o,\n'
        'write them to NAME.pub, and to NAME.key, which only you can read.', ''),
    'public-key': Command(
        print_public_key, _add_keys, 'print the public key of a secret key',
        'Print the public key that belongs to a secret key.', KEY_FROM_VARIABLE),
}


def main(argv: 'Sequence[str]') -> int:
    """Run a command line, without `tako`. Return its exit code. Raises nothing."""
    if hasattr(gc, 'set_threshold'):                # which PyPy's collector has no use for
        gc.set_threshold(COLLECT_EVERY_OBJECTS)
    report = Report(sys.stdout, sys.stderr, os.environ.get('JOURNAL_STREAM', ''))
    try:
        arguments = parse_command_line(argv)
        report.level = getattr(arguments, 'level', NORMAL)
        code = int(arguments.run(arguments, report))
    except SystemExit as end:                       # --help and --version
        code = int(end.code or 0)
    except KeyboardInterrupt as interrupt:
        code = int(getattr(interrupt, 'exit_code', 128 + signal.SIGINT))
    except Exception as error:
        code = report.error('', error)
    report.clear_progress()
    return 1 if code == 0 and report.has_lost_output else code


def stop_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise Stopped, so that temporary files are removed.

    A signal that is ignored, as under nohup, stays ignored. The second signal is dropped, since it
    must not end the cleanup; a third one ends it.
    """
    received: List[int] = []

    def stop(number: int, _: 'Optional[FrameType]') -> None:
        received.append(number)
        sys.stderr = None       # otherwise the interpreter prints errors of generators that it ends
        if len(received) != 2:
            raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def end(code: int) -> 'NoReturn':
    """Exit with `code`, or with 1 instead of 0 if stdout or stderr cannot be flushed.

    Signals are ignored from here on, and the interpreter prints no error of its own.
    """
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

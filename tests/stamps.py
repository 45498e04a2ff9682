"""Stamps for tests, and a clock on which tests say what time it is."""
import time

import origin
import scene
import tako

SEED, OTHER_SEED = b'a-key-that-signs-stamps-and-more', b'a-key-that-signs-other-stamps-yo'
KEY, OTHER_KEY = tako.ed25519_public_key(SEED), tako.ed25519_public_key(OTHER_SEED)
PUBLIC_KEY, OTHER_PUBLIC_KEY = tako.encode_base64(KEY), tako.encode_base64(OTHER_KEY)
HOUR, DAY = 3600, 86400
NOW = 1796000000                # when tests begin, 2026-11-30 00:53:20 UTC


def moment(seconds):
    """Return a time as stamps have it."""
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(seconds))


def stamp_of(signed, seconds, entries=None):
    """Return the stamp of the bytes of a manifest."""
    count = len(tako.open_manifest(signed, None, '').entries) if entries is None else entries
    return tako.Stamp(moment(seconds), count, tako.body_sha256(signed))


def seal(body, seed=SEED):
    """Return these bytes, whatever they are, with a valid signature."""
    return body + tako.encode_base64(tako.ed25519_sign(seed, body)).encode() + b'\n'


def stamped(signed, seconds, seed=SEED, entries=None):
    """Return the bytes of a stamp of the bytes of a manifest."""
    return seal(stamp_of(signed, seconds, entries).body(), seed)


class Wall(scene.Clock):
    """A clock on which it is NOW until a test sets `now`."""

    def __init__(self):
        super().__init__()
        self.now = NOW

    def time(self):
        return self.now


def signed_by(seed, *entries):
    """Return the bytes of a manifest with these entries."""
    return tako.seal_manifest(tako.Manifest(tuple(entries)), seed)


def of_images(*versions, seed=origin.SEED):
    """Return the bytes of a manifest of these versions."""
    return signed_by(seed, *(origin.entry_of(version, version.encode()) for version in versions))

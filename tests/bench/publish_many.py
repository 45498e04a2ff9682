"""Publishes a manifest of COUNT entries in DIR. Only the newest one has its image.

    PYTHONPATH=. python3 tests/bench/publish_many.py DIR COUNT
"""
import hashlib
import os
import sys

import tako

SEED = b'test-key-very-security-such-safe'
IMAGE = b'the newest image\n'


def entries(count):
    """Yield entries in order: 0.0.1, 0.0.2, ... 0.0.99, 0.1.0 and so on."""
    for number in range(1, count):
        yield entry_of(number, 1 << 20, hashlib.sha256(b'%d' % number).hexdigest())
    yield entry_of(count, len(IMAGE), hashlib.sha256(IMAGE).hexdigest())


def entry_of(number, size, digest):
    version = '{}.{}.{}'.format(number // 10000, number // 100 % 100, number % 100)
    return tako.Entry(tako.parse_version(version), size, digest)


def main(directory, count):
    os.makedirs(os.path.join(directory, 'store'))
    with open(os.path.join(directory, 'store', hashlib.sha256(IMAGE).hexdigest()), 'wb') as stream:
        stream.write(IMAGE)
    with open(os.path.join(directory, 'manifest'), 'wb') as stream:
        stream.write(tako.seal_manifest(tako.Manifest(tuple(entries(count))), SEED))


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))

"""Prints the median milliseconds of a verification by one implementation of Ed25519.

    PYTHONPATH=. python3 tests/bench/verify_speed.py tako|pure25519|ecdsa|larzcrypt|pynacl

Exit code 3 if the implementation is not installed.
"""
import statistics
import sys
import time

import tako

SEED = b'test-key-very-security-such-safe'
MESSAGE = (tako.MANIFEST_HEADER
           + b'1.0.0 17 9641a49d02e90cbb6213f202fb632da70cdc59073d42283cfcdc1d786454f17f\n\n')
CALLS_SECONDS = 0.5


def tako_verify(public_key, signature):
    if not tako.ed25519_verify(public_key, MESSAGE, signature):
        raise ValueError('refused')


def pure25519_verify(public_key, signature):
    import pure25519.ed25519_oop
    pure25519.ed25519_oop.VerifyingKey(public_key).verify(signature, MESSAGE)


def ecdsa_verify(public_key, signature):
    import ecdsa
    ecdsa.VerifyingKey.from_string(public_key, curve=ecdsa.Ed25519).verify(signature, MESSAGE)


def larzcrypt_verify(public_key, signature):
    import larzcrypt.ed25519
    if not larzcrypt.ed25519.verify(public_key, MESSAGE, signature):
        raise ValueError('refused')


def pynacl_verify(public_key, signature):
    import nacl.signing
    nacl.signing.VerifyKey(public_key).verify(MESSAGE, signature)


# Each verifies once, beginning with the bytes of the key, and raises if it refuses.
IMPLEMENTATIONS = {'tako': tako_verify, 'pure25519': pure25519_verify, 'ecdsa': ecdsa_verify,
                   'larzcrypt': larzcrypt_verify, 'pynacl': pynacl_verify}


def main(name):
    public_key = tako.ed25519_public_key(SEED)
    signature = tako.ed25519_sign(SEED, MESSAGE)
    verify = IMPLEMENTATIONS[name]
    try:
        verify(public_key, signature)           # imports its modules
    except ImportError:
        sys.exit(3)
    times = []
    end = time.perf_counter() + CALLS_SECONDS
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        verify(public_key, signature)
        times.append(1000 * (time.perf_counter() - begin))
    print(statistics.median(times))


if __name__ == '__main__':
    main(sys.argv[1])

"""Time one Ed25519 implementation, in milliseconds a verification: the median of a second or so.

    PYTHONPATH=. python3 tests/bench/verify_speed.py tako|pure25519|ecdsa|larzcrypt|pynacl

Exit code 3 if it is not installed here.
"""
import statistics
import sys
import time

import tako

SEED = b'test-key-very-security-such-safe'
MESSAGE = tako.MANIFEST_HEADER + b'1.0.0 17 9641a49d02e90cbb6213f202fb632da70cdc59073d42283cfcdc1d786454f17f\n\n'
CALLS_SECONDS = 0.5


def verifier(name, public_key, signature):
    """A function that verifies once, from the key's bytes on, and raises if it refuses."""
    if name == 'tako':
        def verify():
            if not tako.ed25519_verify(public_key, MESSAGE, signature):
                raise ValueError('refused')
    elif name == 'pure25519':
        import pure25519.ed25519_oop

        def verify():
            pure25519.ed25519_oop.VerifyingKey(public_key).verify(signature, MESSAGE)
    elif name == 'ecdsa':
        import ecdsa

        def verify():
            ecdsa.VerifyingKey.from_string(public_key, curve=ecdsa.Ed25519).verify(signature, MESSAGE)
    elif name == 'larzcrypt':
        import larzcrypt.ed25519

        def verify():
            if not larzcrypt.ed25519.verify(public_key, MESSAGE, signature):
                raise ValueError('refused')
    else:
        import nacl.signing

        def verify():
            nacl.signing.VerifyKey(public_key).verify(MESSAGE, signature)
    return verify


def main(name):
    public_key = tako.ed25519_public_key(SEED)
    signature = tako.ed25519_sign(SEED, MESSAGE)
    try:
        verify = verifier(name, public_key, signature)
    except ImportError:
        sys.exit(3)
    times = []
    end = time.perf_counter() + CALLS_SECONDS
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        verify()
        times.append(1000 * (time.perf_counter() - begin))
    print(statistics.median(times))


if __name__ == '__main__':
    main(sys.argv[1])

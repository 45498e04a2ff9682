"""Section 3: signatures, compared with verdicts of libsodium and vectors of RFC 8032."""
import hashlib
import os
import unittest
from unittest import mock

import tako

VECTORS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'vectors')
SEED = b'test-key-very-security-such-safe'
NEUTRAL = (1).to_bytes(32, 'little')
# a point of order 8: its multiples are all points of small order
ORDER_8 = (0x1fd5b9a006394a28e933993238de4abb5c193c7013e5e238dea14646c545d14a,
           0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826)
SMALL = [tako._sum_of_multiples((number, ORDER_8)) for number in range(8)]


def vectors(name):
    """Return the tab-separated fields of each line without comments; '-' is the empty string."""
    with open(os.path.join(VECTORS, name), encoding='ascii') as lines:
        return [['' if field == '-' else field for field in line.rstrip('\n').split('\t')]
                for line in lines if not line.startswith('#')]


def flipped(data, bit):
    """Return data with one bit flipped."""
    return (int.from_bytes(data, 'little') ^ 1 << bit).to_bytes(len(data), 'little')


class LibsodiumTest(unittest.TestCase):

    def test_each_verdict_is_that_of_libsodium(self):
        verdicts, disagreements = [], []
        for verdict, group, key, message, signature in vectors('ed25519.txt'):
            accepted = tako.ed25519_verify(bytes.fromhex(key), bytes.fromhex(message),
                                           bytes.fromhex(signature))
            verdicts.append(verdict)
            if accepted is not (verdict == 'accept'):
                disagreements.append((verdict, group, key, message, signature))
        self.assertEqual(disagreements, [])
        self.assertEqual((verdicts.count('accept'), verdicts.count('reject')), (240, 911))


class Rfc8032Test(unittest.TestCase):

    def test_public_keys_and_signatures_are_those_of_the_rfc(self):
        rows = vectors('rfc8032.txt')
        self.assertEqual([len(row[3]) // 2 for row in rows], [0, 1, 2, 1023, 64])
        for name, *figures in rows:
            seed, public_key, message, signature = map(bytes.fromhex, figures)
            with self.subTest(name):
                self.assertEqual(tako.ed25519_public_key(seed), public_key)
                self.assertEqual(tako.ed25519_sign(seed, message), signature)
                self.assertIs(tako.ed25519_verify(public_key, message, signature), True)

    def test_the_constants_are_those_of_the_rfc(self):
        self.assertEqual((tako.D * 121666 + 121665) % tako.P, 0)
        self.assertEqual((tako.SQRT_MINUS_1 ** 2 + 1) % tako.P, 0)
        self.assertEqual((tako.BASE[1] * 5 - 4) % tako.P, 0)
        x, y = tako.BASE
        self.assertEqual((y * y - x * x - 1 - tako.D * x * x * y * y) % tako.P, 0)
        self.assertEqual((x % 2, tako.L.bit_length()), (0, 253))


class SignTest(unittest.TestCase):

    def test_a_known_seed_has_this_public_key(self):
        self.assertEqual(tako.encode_base64(tako.ed25519_public_key(SEED)),
                         'l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k=')

    def test_a_signature_verifies_and_has_64_bytes(self):
        for size in (0, 1, 63, 64, 111, 112, 128, 5000):
            with self.subTest(size=size):
                signature = tako.ed25519_sign(SEED, b'm' * size)
                self.assertEqual(len(signature), 64)
                self.assertIs(tako.ed25519_verify(tako.ed25519_public_key(SEED), b'm' * size,
                                                  signature), True)

    def test_a_hundred_keys_and_signatures_are_those_of_openssl(self):
        digest = hashlib.sha256()
        for number in range(100):
            seed = hashlib.sha256(bytes([number])).digest()
            digest.update(tako.ed25519_public_key(seed)
                          + tako.ed25519_sign(seed, seed[:number % 33]))
        self.assertEqual(digest.hexdigest(),
                         'c0ca7bf029eebfdbc49eaab5bd524a302f45d8c86dd11b698a452e28335e6274')

    def test_signing_is_deterministic(self):
        self.assertEqual(tako.ed25519_sign(SEED, b'message'), tako.ed25519_sign(SEED, b'message'))

    def test_messages_and_seeds_all_sign_differently(self):
        signatures = {tako.ed25519_sign(seed, message) for seed in (SEED, bytes(32)) for message
                      in (b'a', b'b')}
        self.assertEqual(len(signatures), 4)

    def test_a_seed_of_another_length_is_a_value_error(self):
        for size in (0, 31, 33, 64):
            with self.subTest(size=size):
                self.assertRaises(ValueError, tako.ed25519_public_key, bytes(size))
                self.assertRaises(ValueError, tako.ed25519_sign, bytes(size), b'')

    def test_a_faulty_calculation_returns_no_signature(self):
        with mock.patch.object(tako, 'ed25519_verify', return_value=False):
            self.assertRaises(ArithmeticError, tako.ed25519_sign, SEED, b'message')


class VerifyTest(unittest.TestCase):

    def setUp(self):
        self.key = tako.ed25519_public_key(SEED)
        self.message = b'message'
        self.signature = tako.ed25519_sign(SEED, self.message)

    def assertRefused(self, key, message, signature):
        self.assertIs(tako.ed25519_verify(key, message, signature), False)

    def test_keys_and_signatures_of_other_lengths_are_refused(self):
        for size in (0, 1, 31, 33, 64):
            with self.subTest(key=size):
                self.assertRefused((self.key * 2)[:size], self.message, self.signature)
        for size in (0, 32, 63, 65, 128):
            with self.subTest(signature=size):
                self.assertRefused(self.key, self.message, (self.signature * 2)[:size])
        self.assertRefused(self.key, self.message, self.signature + b'\0')

    def test_a_last_byte_of_zero_cannot_be_omitted(self):
        # S would be the same number
        message = next(b'%d' % number for number in range(1000)
                       if tako.ed25519_sign(SEED, b'%d' % number)[-1] == 0)
        signature = tako.ed25519_sign(SEED, message)
        self.assertTrue(tako.ed25519_verify(self.key, message, signature))
        self.assertRefused(self.key, message, signature[:-1])

    def test_a_byte_cannot_move_from_the_message_to_the_key(self):
        # what is hashed is R, key and message, one after the other
        signature = tako.ed25519_sign(SEED, b'\0message')
        self.assertRefused(self.key + b'\0', self.message, signature)

    def test_a_byte_cannot_move_from_the_key_to_the_message(self):
        # without its last byte, which is 0, the key would still be the same point
        seed = b'%032d' % 1085
        key, signature = tako.ed25519_public_key(seed), tako.ed25519_sign(seed, self.message)
        self.assertEqual(key[-1], 0)
        self.assertTrue(tako.ed25519_verify(key, self.message, signature))
        self.assertRefused(key[:-1], b'\0' + self.message, signature)

    def test_a_y_without_a_point_is_refused(self):
        # where (y^2 - 1) / (d y^2 + 1) is no square, by Euler's criterion
        self.assertEqual([y for y in range(2, 12)
                          if tako._decode_point(y.to_bytes(32, 'little')) is None], [2, 7, 8, 11])

    def test_another_message_is_refused(self):
        for message in (b'', b'messagf', b'message\0', b'message\n'):
            with self.subTest(message):
                self.assertRefused(self.key, message, self.signature)

    def test_a_flipped_bit_is_refused(self):
        for bit in range(0, 512, 13):
            with self.subTest(signature=bit):
                self.assertRefused(self.key, self.message, flipped(self.signature, bit))
        for bit in range(0, 256, 13):
            with self.subTest(key=bit):
                self.assertRefused(flipped(self.key, bit), self.message, self.signature)

    def test_a_signature_with_s_plus_the_group_order_is_refused(self):
        s = int.from_bytes(self.signature[32:], 'little')
        for factor in range(1, 15):
            malleable = self.signature[:32] + (s + factor * tako.L).to_bytes(32, 'little')
            with self.subTest(factor=factor):
                self.assertRefused(self.key, self.message, malleable)

    def test_keys_of_small_order_sign_nothing(self):
        """With S = 0 the equation holds if R = -k A: some R and message do it without a secret."""
        self.assertEqual(len(set(SMALL)), 8)
        for number, point in enumerate(SMALL):
            key = tako._encode_point(point)
            with self.subTest(key=key.hex()):
                self.assertIsNone(tako._decode_point(key))
                r, message = self.forgery(key, number)
                self.assertRefused(key, message, r + bytes(32))

    def test_an_r_of_small_order_is_refused(self):
        """With the secret one can sign such that S B - k A is any point of small order."""
        scalar, _ = tako._expand(SEED)
        for number, point in enumerate(SMALL):
            key = tako._encode_point(tako._sum_of_multiples((scalar, tako.BASE), (1, point)))
            r, message = self.forgery(key, number)
            s = tako._sha512_number(r, key, message) * scalar % tako.L
            with self.subTest(key=key.hex()):
                self.assertIsNotNone(tako._decode_point(key))
                self.assertRefused(key, message, r + s.to_bytes(32, 'little'))

    def forgery(self, key, number):
        """Return R and a message with R = -k number * ORDER_8. R has order 8 if number is odd."""
        multiples = (1, 3, 5, 7) if number % 2 else (0, 2, 4, 6)
        for message, multiple in ((b'%d' % count, multiple) for count in range(1000) for multiple
                                  in multiples):
            r = tako._encode_point(SMALL[multiple])
            # k is taken modulo the order of the base point, which is no multiple of 8
            if (multiple + tako._sha512_number(r, key, message) % tako.L * number) % 8 == 0:
                return r, message
        return self.fail('no forgery')

    def test_a_y_that_is_not_canonical_is_refused(self):
        # p + 2 .. p + 18 fit in 255 bits beside the y they equal; some of these are points
        for y in range(2, 19):
            with self.subTest(y=y):
                self.assertIsNone(tako._decode_point((tako.P + y).to_bytes(32, 'little')))
        spelled = [tako._decode_point(y.to_bytes(32, 'little')) for y in range(2, 19)]
        self.assertIn(3, [point[1] for point in spelled if point])

    def test_a_signature_of_zeros_is_refused(self):
        self.assertRefused(self.key, self.message, bytes(64))
        self.assertRefused(self.key, self.message, NEUTRAL + bytes(32))


if __name__ == '__main__':
    unittest.main()

"""Section 4: keys are read and written as text."""
import base64
import unittest

import tako

SEED = b'test-key-very-security-such-safe'
PUBLIC_KEY = 'l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k='
SECRET_KEY = tako.format_secret_key(SEED)


def secret_text(*parts):
    """Return a secret key that is made without tako.py."""
    return 'SECRET+' + base64.b64encode(b''.join(parts)).decode('ascii')


class Base64Test(unittest.TestCase):

    def test_base64_of_every_length_is_decoded_again(self):
        for size in range(1, 100):
            data = bytes(range(155, 155 + size))
            with self.subTest(size=size):
                self.assertEqual(tako.encode_base64(data), base64.b64encode(data).decode('ascii'))
                self.assertEqual(tako.decode_base64(tako.encode_base64(data), size), data)

    def test_a_second_spelling_of_base64_is_refused(self):
        self.assertEqual(tako.decode_base64('+/8=', 2), b'\xfb\xff')
        self.assertEqual(tako.decode_base64('+w==', 1), b'\xfb')
        spellings = {
            'stray bits': '+/9=', 'more stray bits': '+x==', 'missing padding': '+/8',
            'half the padding': '+w=',
            'too much padding': '+/8==', 'url-safe alphabet': '-_8=', 'space before': ' +/8=',
            'space after': '+/8= ',
            'space within': '+/ 8=', 'newline after': '+/8=\n', 'newline within': '+/\n8=',
            'CRLF': '+/8=\r\n',
            'NUL': '+/8=\0', 'unknown character': '+/!8=', 'data after padding': '+/8=+/8=',
            'non-ASCII': '+/\u00f68=', 'wide digit': '+/\uff18=', 'nothing': '',
            'padding alone': '====',
        }
        for name, text in spellings.items():
            with self.subTest(name):
                self.assertIsNone(tako.decode_base64(text, 2))
                self.assertIsNone(tako.decode_base64(text, 1))

    def test_base64_of_another_length_is_refused(self):
        for size in (0, 1, 3, 32):
            with self.subTest(size=size):
                self.assertIsNone(tako.decode_base64('+/8=', size))


class KeyTest(unittest.TestCase):

    def assertKeyRefused(self, parse, text, what, secrets=()):
        """parse(text) raises UsageError with these words, and repeats neither text nor secrets."""
        with self.assertRaises(tako.UsageError) as caught:
            parse(text)
        error = caught.exception
        self.assertEqual(error.exit_code, 2)
        self.assertIn(what, error.what)
        self.assertTrue(error.hint)
        said = ' '.join(map(str, error.args)) + error.what + error.hint
        for secret in (text,) + tuple(secrets):
            secret = secret.replace('SECRET+', '')
            for start in range(len(secret) - 7):
                self.assertNotIn(secret[start:start + 8], said)


class PublicKeyTest(KeyTest):

    def test_a_known_public_key_is_read(self):
        self.assertEqual(tako.parse_public_key(PUBLIC_KEY), tako.ed25519_public_key(SEED))

    def test_a_damaged_public_key_is_refused(self):
        damaged = {
            'stray bits': PUBLIC_KEY[:-2] + 'l=', 'no padding': PUBLIC_KEY[:-1],
            'cut short': PUBLIC_KEY[:-4],
            'longer': PUBLIC_KEY + PUBLIC_KEY, 'space before': ' ' + PUBLIC_KEY,
            'newline after': PUBLIC_KEY + '\n',
            'url-safe': PUBLIC_KEY.replace('+', '-'), 'quoted': '"' + PUBLIC_KEY + '"', 'empty': '',
            'non-ASCII': '\u00f6' + PUBLIC_KEY[1:], 'hex': tako.ed25519_public_key(SEED).hex(),
            'ssh': 'ssh-ed25519 ' + PUBLIC_KEY,
        }
        for name, text in damaged.items():
            with self.subTest(name):
                self.assertKeyRefused(tako.parse_public_key, text, 'not a public key')

    def test_a_secret_key_in_place_of_a_public_key_is_refused_and_not_repeated(self):
        for text in (SECRET_KEY, SECRET_KEY[:60], 'SECRET+'):
            with self.subTest(length=len(text)):
                self.assertKeyRefused(tako.parse_public_key, text,
                                      'secret key in the place of a public key')
        without_prefix = SECRET_KEY[len('SECRET+'):]
        self.assertKeyRefused(tako.parse_public_key, without_prefix, 'not a public key')

    def test_a_public_key_of_small_order_is_refused(self):
        order_8 = 0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826
        for y in (0, 1, tako.P - 1, order_8, tako.P - order_8):
            for sign in (0, 1 << 255):
                text = tako.encode_base64((y | sign).to_bytes(32, 'little'))
                with self.subTest(text):
                    self.assertKeyRefused(tako.parse_public_key, text,
                                          'a public key that matches no secret key')

    def test_a_public_key_that_is_not_canonical_is_refused(self):
        self.assertEqual(len(tako.parse_public_key(tako.encode_base64((3).to_bytes(32, 'little')))),
                         32)
        text = tako.encode_base64((tako.P + 3).to_bytes(32, 'little'))
        self.assertKeyRefused(tako.parse_public_key, text,
                              'a public key that matches no secret key')

    def test_a_public_key_on_no_point_is_refused(self):
        text = tako.encode_base64((2).to_bytes(32, 'little'))
        self.assertKeyRefused(tako.parse_public_key, text,
                              'a public key that matches no secret key')


class SecretKeyTest(KeyTest):

    def test_a_known_seed_has_this_secret_key(self):
        public_key = base64.b64decode(PUBLIC_KEY)
        self.assertEqual(SECRET_KEY, secret_text(SEED, public_key, public_key))
        self.assertEqual(len(SECRET_KEY), len('SECRET+') + 128)

    def test_secret_keys_are_parsed_again(self):
        for seed in (SEED, bytes(32), bytes(range(32)), b'\xff' * 32):
            with self.subTest(seed.hex()):
                self.assertEqual(tako.parse_secret_key(tako.format_secret_key(seed)), seed)

    def test_a_secret_key_without_its_prefix_is_refused(self):
        bare = SECRET_KEY[len('SECRET+'):]
        for text in (bare, 'secret+' + bare, 'SECRET ' + bare, 'SECRET' + bare, ' ' + SECRET_KEY,
                     '', PUBLIC_KEY):
            with self.subTest(text[:12]):
                self.assertKeyRefused(tako.parse_secret_key, text, 'not a secret key', [SECRET_KEY])

    def test_a_public_key_in_place_of_a_secret_key_is_refused(self):
        self.assertKeyRefused(
            tako.parse_secret_key, PUBLIC_KEY, 'not a secret key but a public key'
        )

    def test_a_truncated_or_altered_secret_key_is_refused(self):
        altered = {
            'one character less': SECRET_KEY[:-1], 'a group less': SECRET_KEY[:-4],
            'prefix alone': 'SECRET+',
            'seed alone': secret_text(SEED),
            'one copy alone': secret_text(SEED, tako.ed25519_public_key(SEED)),
            'newline': SECRET_KEY + '\n', 'a group more': SECRET_KEY + 'AAAA',
            'space': SECRET_KEY + ' ',
            'space within': SECRET_KEY[:50] + ' ' + SECRET_KEY[50:],
            'prefix twice': 'SECRET+' + SECRET_KEY,
            'non-ASCII': SECRET_KEY[:-1] + '\u00f6', 'padding': SECRET_KEY + '====',
        }
        for name, text in altered.items():
            with self.subTest(name):
                self.assertKeyRefused(tako.parse_secret_key, text, 'truncated or modified',
                                      [SECRET_KEY])

    def test_a_secret_key_of_parts_that_do_not_match_is_refused(self):
        public_key, other = tako.ed25519_public_key(SEED), tako.ed25519_public_key(bytes(32))
        misfits = {
            'first copy': (SEED, other, public_key), 'second copy': (SEED, public_key, other),
            'both copies': (SEED, other, other), 'seed': (bytes(32), public_key, public_key),
            'first copy, below': (SEED, bytes(32), public_key),
            'first copy, above': (SEED, b'\xff' * 32, public_key),
            'order': (public_key, public_key, SEED),
            'one bit': (SEED, public_key, public_key[:-1] + b'\xd8'),
        }
        for name, parts in misfits.items():
            text = secret_text(*parts)
            with self.subTest(name):
                self.assertKeyRefused(tako.parse_secret_key, text, 'does not match its public key',
                                      [SECRET_KEY])


if __name__ == '__main__':
    unittest.main()

"""Section 6: stamps are opened, and their times are numbers of seconds."""
import unittest

import origin
import stamps
import tako
from stamps import KEY, OTHER_SEED, SEED, moment, seal

DIGEST = 'a' * 64
GOLDEN_BODY = b'Tako Stamp 1\n\n2026-11-27T23:00:00Z 3 ' + DIGEST.encode() + b'\n\n'


def stamp(*fields):
    """Return the bytes of a stamp that has these fields, whatever they are."""
    return seal(b'Tako Stamp 1\n\n' + ' '.join(fields).encode('utf-8') + b'\n\n')


class FormatTest(unittest.TestCase):
    def opened(self, signed, *keys):
        return tako.open_stamp(signed, keys or (KEY,), 'here')

    def test_a_stamp_has_a_time_a_number_of_entries_and_a_digest(self):
        self.assertEqual(('2026-11-27T23:00:00Z', 3, DIGEST), self.opened(seal(GOLDEN_BODY)))
        self.assertEqual(GOLDEN_BODY, self.opened(seal(GOLDEN_BODY)).body())

    def test_any_of_several_keys_may_have_signed_it(self):
        self.assertEqual(3, self.opened(seal(GOLDEN_BODY, OTHER_SEED), KEY,
                                        tako.ed25519_public_key(OTHER_SEED)).entries)

    def test_the_digest_is_of_what_the_signature_of_the_manifest_signs(self):
        one, two = (stamps.of_images('1.0', '2.0', seed=seed)
                    for seed in (origin.SEED, origin.OTHER_SEED))
        self.assertNotEqual(one, two)
        self.assertEqual(origin.digest_of(one[:one.rindex(b'\n', 0, -1) + 1]),
                         tako.body_sha256(one))
        self.assertEqual(tako.body_sha256(one), tako.body_sha256(two))

    def test_times_are_seconds_since_1970(self):
        for text, seconds in (('1970-01-01T00:00:00Z', 0), ('2000-02-29T23:59:59Z', 951868799),
                              ('2026-11-27T23:00:00Z', 1795820400),
                              ('2026-12-31T00:00:00Z', 1798675200),
                              ('2038-01-19T03:14:08Z', 1 << 31),
                              ('9999-12-31T23:59:59Z', 253402300799)):
            self.assertEqual(seconds, self.opened(stamp(text, '1', DIGEST)).seconds())
        for seconds in range(0, 1 << 37, 98765432):
            self.assertEqual(seconds, tako.Stamp(moment(seconds), 0, '').seconds())

    def test_nothing_is_accepted_that_no_key_signed(self):
        whole = seal(GOLDEN_BODY)
        for kind, signed in (
                (tako.SignatureError, seal(GOLDEN_BODY, OTHER_SEED)),
                (tako.SignatureError, whole.replace(b' 3 ', b' 4 ')),
                (tako.UnsignedError, GOLDEN_BODY),
                (tako.UnsignedError, whole[:-1]), (tako.UnsignedError, whole + b'\n'),
                (tako.UnsignedError, b''), (tako.UnsignedError, b'<html>'),
                (tako.UnsignedError, stamps.of_images('1.0', seed=SEED)),
                (tako.ManifestError, seal(b'Tako Stamp 1\n\n' + b'0' * tako.STAMP_MAX_BYTES))):
            with self.subTest(signed), self.assertRaises(tako.RefusedError) as caught:
                self.opened(signed)
            self.assertIs(kind, type(caught.exception))

    def test_other_spellings_are_refused(self):
        for fields in (
                ('2026-11-27T23:00:00', '3', DIGEST), ('2026-11-27 23:00:00Z', '3', DIGEST),
                ('2026-11-27T23:00:00+00:00', '3', DIGEST), ('2026-11-27T23:00:00.0Z', '3', DIGEST),
                ('2026-11-27t23:00:00z', '3', DIGEST), ('26-11-27T23:00:00Z', '3', DIGEST),
                ('12026-11-27T23:00:00Z', '3', DIGEST), ('1969-12-31T23:59:59Z', '3', DIGEST),
                ('2026-00-27T23:00:00Z', '3', DIGEST), ('2026-13-27T23:00:00Z', '3', DIGEST),
                ('2026-11-00T23:00:00Z', '3', DIGEST), ('2026-11-31T23:00:00Z', '3', DIGEST),
                ('2026-02-29T23:00:00Z', '3', DIGEST), ('2100-02-29T23:00:00Z', '3', DIGEST),
                ('2026-02-30T23:00:00Z', '3', DIGEST), ('2028-02-30T23:00:00Z', '3', DIGEST),
                ('2026-04-31T23:00:00Z', '3', DIGEST), ('2026-02-31T23:00:00Z', '3', DIGEST),
                ('2026-12-32T23:00:00Z', '3', DIGEST), ('2026-11-27T24:00:00Z', '3', DIGEST),
                ('2026-11-27T23:60:00Z', '3', DIGEST), ('2026-11-27T23:00:60Z', '3', DIGEST),
                ('2026-11-27T23:00:00Z', '03', DIGEST), ('2026-11-27T23:00:00Z', '-3', DIGEST),
                ('2026-11-27T23:00:00Z', '1' * 10, DIGEST), ('2026-11-27T23:00:00Z', '', DIGEST),
                ('2026-11-27T23:00:00Z', '3', DIGEST[1:]), ('2026-11-27T23:00:00Z', '3', 'A' * 64),
                ('2026-11-27T23:00:00Z', '3', DIGEST, ''), ('2026-11-27T23:00:00Z', DIGEST),
                ('2026-11-27T23:00:00Z', '\u0663', DIGEST), ('', '3', DIGEST)):
            with self.subTest(fields), self.assertRaises(tako.ManifestError):
                self.opened(stamp(*fields))

    def test_other_headers_and_lines_are_refused(self):
        line = GOLDEN_BODY[len(b'Tako Stamp 1\n\n'):]
        for body in (b'Tako Stamp 1\n' + line, b'Tako Stamp 1\r\n\r\n' + line,
                     b'Tako Stamp 1\n\n' + line[:-1], b'Tako Stamp 1\n\n' + line + b'\n',
                     b'Tako Stamp 1\n\n' + line[:-1] + line, b'Tako Stamp 01\n\n' + line,
                     b'Tako Stamp 1\n\n\n'):
            with self.subTest(body), self.assertRaises(tako.ManifestError):
                self.opened(seal(body))
        with self.assertRaises(tako.FormatError) as caught:
            self.opened(seal(b'Tako Stamp 2\n\nanything\n'))
        self.assertIn('unknown stamp format 2', caught.exception.what)

    def test_a_stamp_that_one_bit_changes_is_refused(self):
        whole = seal(GOLDEN_BODY)
        for at in range(0, 8 * len(whole), 7):
            changed = bytearray(whole)
            changed[at // 8] ^= 1 << at % 8
            with self.assertRaises(tako.RefusedError):
                self.opened(bytes(changed))

"""Section 6: manifests are opened and sealed, and a publisher may only add to them."""
import hashlib
import re
import unittest
from unittest import mock

import tako

SEED = b'test-key-very-security-such-safe'
PUBLIC_KEY = tako.ed25519_public_key(SEED)
OTHER_SEED = b'another-key-of-another-publisher'
OTHER_KEY = tako.ed25519_public_key(OTHER_SEED)
DIGEST = '9641a49d02e90cbb6213f202fb632da70cdc59073d42283cfcdc1d786454f17f'
DIGEST_BYTES = DIGEST.encode('ascii')
HEADER = b'Tako Manifest 1\n\n'
GOLDEN = (
    b'Tako Manifest 1\n'
    b'\n'
    b'1.0.0 17 9641a49d02e90cbb6213f202fb632da70cdc59073d42283cfcdc1d786454f17f\n'
    b'\n'
    b'WezSd49tB4ng/nbRZWWfLak+Sn1pUcOoA6X5pSg2MMOGRR4Lz0XYznFKKVj/E8vCCdmt3pQO4xTFyKlMUq1SCQ==\n')


def entry(version, size=17, digest=DIGEST):
    return tako.Entry(tako.parse_version(version), size, digest)


def manifest(*entries):
    """Return a manifest of these entries, or of these versions of one image."""
    return tako.Manifest(tuple(entry(each) if isinstance(each, str) else each for each in entries))


def signed(body, seed=SEED):
    """Return this body, whatever it is, with a valid signature."""
    return body + tako.encode_base64(tako.ed25519_sign(seed, body)).encode('ascii') + b'\n'


def listing(*lines):
    """Return the signed part of a manifest with these lines as entries."""
    return HEADER + b''.join(line + b'\n' for line in lines) + b'\n'


def line(version=b'1.0.0', size=b'17', digest=DIGEST_BYTES):
    return b' '.join((version, size, digest))


def open_here(data, *keys):
    return tako.open_manifest(data, keys or (PUBLIC_KEY,), 'here')


def texts(versions):
    return [version.text for version in versions]


class ManifestTest(unittest.TestCase):

    def assertRefused(self, kind, data, what='', keys=(PUBLIC_KEY,)):
        """open_manifest raises exactly this class, with exit code 3 and the place in its text."""
        with self.assertRaises(tako.RefusedError) as caught:
            tako.open_manifest(data, keys, 'here')
        error = caught.exception
        self.assertIs(type(error), kind)
        self.assertEqual(error.exit_code, 3)
        self.assertTrue(error.what.startswith('here: '), error.what)
        self.assertIn(what, error.what)
        self.assertTrue(error.hint)
        return error


class FormatTest(ManifestTest):

    def test_a_known_manifest_has_these_bytes(self):
        self.assertEqual(tako.seal_manifest(manifest('1.0.0'), SEED), GOLDEN)
        self.assertEqual(open_here(GOLDEN), manifest('1.0.0'))

    def test_a_manifest_may_have_no_entries(self):
        empty = tako.seal_manifest(manifest(), SEED)
        self.assertTrue(empty.startswith(b'Tako Manifest 1\n\n\n'))
        self.assertEqual(len(empty), len(b'Tako Manifest 1\n\n\n') + 89)
        self.assertEqual(open_here(empty), manifest())

    def test_a_sealed_manifest_opens_to_the_same_entries(self):
        versions = ('1.0-a', '1.0-b', '1_0', '1.0.1', '9', '10', '10.00001')
        for entries in (
                [entry('1')], [entry('!~', 1), entry('0', 0, 'f' * 64)],
                [entry('9' * 255, 2 ** 63 - 1, '0' * 64)],
                [entry(version, number, '%064x' % number)
                 for number, version in enumerate(versions)]):
            with self.subTest(entries=len(entries)):
                sealed = tako.seal_manifest(manifest(*entries), SEED)
                opened = open_here(sealed)
                self.assertEqual(opened, manifest(*entries))
                self.assertEqual([each.line() for each in opened.entries],
                                 [each.line() for each in entries])
                self.assertEqual(tako.seal_manifest(opened, SEED), sealed)

    def test_sizes_from_0_to_2_to_the_63_minus_1_are_valid(self):
        for size in (0, 1, 10, 2 ** 31, 2 ** 32 + 1, 2 ** 63 - 1):
            with self.subTest(size=size):
                opened = open_here(signed(listing(line(size=str(size).encode('ascii')))))
                self.assertEqual(opened.entries[0].size, size)

    def test_the_bounds_are_those_of_the_format(self):
        self.assertEqual(tako.MANIFEST_MAX_BYTES, 16 * 1024 * 1024)
        self.assertEqual(tako.IMAGE_MAX_BYTES, 2 ** 63 - 1)


class ExampleTest(unittest.TestCase):
    """The worked example at the top of tako.py is true."""

    @classmethod
    def setUpClass(cls):
        with open(tako.__file__, encoding='utf-8') as stream:
            cls.text = stream.read().split('\n# The layout of this file')[0]
        cls.signed = re.sub('(?m)^# *', '', re.search('# *Tako Manifest 1\n.*?==\n', cls.text,
                                                      re.S).group()).encode('ascii')
        lines = re.findall('(?m)^    [A-Z].*=.*$', cls.text)
        key = re.search('(?m)^#     (PublicKey=.*)$', cls.text).group(1)
        cls.config = tako.parse_config('\n'.join(
            key if line.startswith('    PublicKey=') else line for line in lines))

    def test_the_key_in_the_config_signed_the_manifest(self):
        opened = tako.open_manifest(self.signed, self.config.public_keys, 'example')
        self.assertEqual(tako.seal_manifest(opened, SEED), self.signed)

    def test_the_images_are_lines_of_text(self):
        opened = tako.open_manifest(self.signed, self.config.public_keys, 'example')
        self.assertEqual(texts(each.version for each in opened.entries),
                         ['1.0.0', '1.1.0', '2.0.0'])
        for each in opened.entries:
            image = 'app {}\n'.format(each.version).encode('ascii')
            self.assertEqual((each.size, each.digest),
                             (len(image), hashlib.sha256(image).hexdigest()))

    def test_the_newest_version_that_matches_is_the_one_downloaded(self):
        opened = tako.open_manifest(self.signed, self.config.public_keys, 'example')
        newest, installed = tako.compatible_entries(opened, self.config.bounds)
        self.assertIn('The newest version that matches is {}.'.format(newest.version), self.text)
        self.assertIn('{}/store/{}...'.format(self.config.origins[0].url, newest.digest[:8]),
                      self.text)
        self.assertIn('which pointed to store/{}...'.format(installed.digest[:8]), self.text)


class SignatureTest(ManifestTest):

    def test_a_flipped_byte_is_refused(self):
        for position in range(0, len(GOLDEN), 7):
            spoilt = bytearray(GOLDEN)
            spoilt[position] ^= 1
            with self.subTest(position=position):
                self.assertRaises(tako.RefusedError, open_here, bytes(spoilt))

    def test_another_publishers_manifest_is_refused(self):
        self.assertRefused(tako.SignatureError, tako.seal_manifest(manifest('1.0.0'), OTHER_SEED))

    def test_a_signature_by_any_listed_key_is_accepted(self):
        for keys in ((PUBLIC_KEY, OTHER_KEY), (OTHER_KEY, PUBLIC_KEY),
                     (OTHER_KEY, OTHER_KEY, PUBLIC_KEY)):
            self.assertEqual(open_here(GOLDEN, *keys), manifest('1.0.0'))
        third = tako.ed25519_public_key(bytes(32))
        self.assertRefused(tako.SignatureError, GOLDEN, keys=(OTHER_KEY, third))

    def test_without_a_key_no_manifest_is_accepted(self):
        self.assertRefused(tako.SignatureError, GOLDEN, keys=())
        self.assertRefused(tako.SignatureError, GOLDEN, keys=(b'',))

    def test_nothing_is_parsed_before_the_signature_is_verified(self):
        for body in (listing(b'not an entry'), listing(line(b'2'), line(b'1')),
                     listing(line(size=b'-1')), HEADER):
            with self.subTest(body):
                self.assertRefused(tako.ManifestError, signed(body))
                with mock.patch.object(tako, '_parse_entries') as parser:
                    self.assertRefused(tako.SignatureError, signed(body, OTHER_SEED))
                    parser.assert_not_called()
                self.assertRefused(tako.SignatureError, signed(body, OTHER_SEED))

    def test_a_signature_with_s_plus_the_group_order_is_refused(self):
        signature = tako.ed25519_sign(SEED, GOLDEN[:-89])
        malleable = signature[:32] + (int.from_bytes(signature[32:], 'little')
                                      + tako.L).to_bytes(32, 'little')
        self.assertRefused(tako.SignatureError,
                           GOLDEN[:-89] + tako.encode_base64(malleable).encode('ascii') + b'\n')

    def test_the_signature_of_another_manifest_is_refused(self):
        other = tako.seal_manifest(manifest('1.0.0', '2.0'), SEED)
        self.assertRefused(tako.SignatureError, GOLDEN[:-89] + other[-89:])

    def test_the_blank_line_before_the_signature_is_signed(self):
        body = GOLDEN[:-89]
        self.assertRefused(tako.SignatureError, body[:-1] + signed(body)[-89:])
        self.assertRefused(tako.SignatureError, body + b'\n' + signed(body)[-89:])
        self.assertRefused(tako.SignatureError, body + b' ' + signed(body)[-89:])

    def test_data_that_is_no_signed_manifest_is_refused(self):
        body, signature = GOLDEN[:-89], GOLDEN[-89:]
        url_safe = bytes.maketrans(b'+/', b'-_')
        spoilt = {
            'nothing': b'', 'a newline': b'\n', 'the signature alone': signature,
            'no signature': body,
            'a web page': b'<!DOCTYPE html>\n<title>Log in</title>\n' * 20,
            'garbage': bytes(range(256)) * 4,
            'no final newline': GOLDEN[:-1], 'cut short': GOLDEN[:-30],
            'another final newline': GOLDEN + b'\n',
            'CR for the final newline': GOLDEN[:-1] + b'\r', 'NUL for it': GOLDEN[:-1] + b'\0',
            'CRLF at the end': GOLDEN[:-1] + b'\r\n',
            'CRLF throughout': GOLDEN.replace(b'\n', b'\r\n'),
            'an entry after the signature': GOLDEN + line() + b'\n',
            'a comment after the signature': GOLDEN + b'# signed\n',
            'byte order mark': b'\xef\xbb\xbf' + GOLDEN,
            'a space after the signature': GOLDEN[:-1] + b' \n',
            'stray bits in the base64': GOLDEN[:-4] + b'R==\n', 'no padding': GOLDEN[:-3] + b'\n',
            'one padding': GOLDEN[:-2] + b'\n',
            'URL-safe base64': body + signature.translate(url_safe),
            'hexadecimal signature': body + tako.ed25519_sign(SEED, body).hex().encode('ascii')
            + b'\n',
            'non-ASCII signature': body + b'\xc3' + signature[1:],
            'newline in the signature': GOLDEN[:-50] + b'\n' + GOLDEN[-49:],
        }
        for name, data in spoilt.items():
            with self.subTest(name):
                self.assertRefused(tako.UnsignedError, data, 'not a signed manifest')

    def test_another_header_is_refused_even_if_signed(self):
        rest = line() + b'\n\n'
        for header in (b'tako manifest 1\n\n', b'\nTako Manifest 1\n\n', b'Tako Manifest', b''):
            with self.subTest(header):
                self.assertRefused(tako.UnsignedError, signed(header + rest),
                                   'not a signed manifest')
        for header in (
            b'Tako Manifest 1',
            b'Tako Manifest 1\n',
            b'Tako Manifest 1 \n\n',
            b'Tako Manifest 1\r\n\r\n',
            b'Tako Manifest \n\n',
            b'Tako Manifest 01\n\n',
            b'Tako Manifest 0\n\n',
            b'Tako Manifest -2\n\n',
            b'Tako Manifest 2',
            b'Tako Manifest 2 \n\n',
            b'Tako Manifest 1.1\n\n',
            b'Tako Manifest 9999999999\n\n',
            b'Tako Manifest \xd9\xa2\n\n',
        ):
            with self.subTest(header):
                self.assertRefused(
                    tako.ManifestError,
                    signed(header + rest),
                    'invalid header',
                )

    def test_a_signed_later_format_asks_for_an_update_of_tako(self):
        for number, rest in (
            (2, b'\n' + line() + b'\n\n'),
            (10, b'\n'),
            (2, b'anything\n'),
            (999999999, b'\n\n'),
        ):
            body = 'Tako Manifest {}\n'.format(number).encode() + rest
            with self.subTest(body):
                error = self.assertRefused(
                    tako.FormatError,
                    signed(body),
                    'format {}; this Tako is too old'.format(number),
                )
                hint = 'update Tako: version {} reads format 1 only'.format(
                    tako.__version__
                )
                self.assertEqual((3, hint), (error.exit_code, error.hint))

    def test_a_later_format_is_verified_before_its_number_is_read(self):
        data = signed(b'Tako Manifest 2\n\n')
        self.assertRefused(tako.SignatureError, data.replace(b' 2\n', b' 3\n'))
        self.assertRefused(tako.SignatureError, data.replace(b'\n\n', b'\n\n1'))
        self.assertRefused(tako.UnsignedError, b'Tako Manifest 2\n\n', 'not a signed manifest')


class PublishersErrorTest(ManifestTest):
    """Malformed manifests are refused even if they are signed."""

    def assertNotAnEntry(self, spoilt):
        self.assertRefused(tako.ManifestError, signed(listing(line(b'0.1'), spoilt)),
                           'line 4: invalid entry')

    def test_malformed_sizes_are_refused(self):
        for size in (b'', b'-1', b'+17', b'017', b'00', b'17.0', b'1e3', b'0x11', b'1_7', b'1,000',
                     b'17B', b' 17',
                     b'\xd9\xa1', b'9223372036854775808', b'9999999999999999999',
                     b'10000000000000000000', b'9' * 300):
            with self.subTest(size[:30]):
                self.assertNotAnEntry(line(size=size))

    def test_malformed_digests_are_refused(self):
        good, cut = DIGEST_BYTES, DIGEST_BYTES[:63]
        for digest in (b'', cut, cut + b'F', cut + b'g', cut + b' ', good[:62] + b'\xc3\xa9',
                       good + b'0', good + b' ',
                       good.upper(), b'0x' + good[2:], good[:40]):
            with self.subTest(digest[-10:]):
                self.assertNotAnEntry(line(digest=digest))

    def test_malformed_versions_are_refused(self):
        for version in (b'', b'.', b'-_-', b'1\xc3\xa9', b'1\xff', b'1\0', b'1\x7f', b'1\x1b[2J',
                        b'v' * 256, b'1\t0',
                        b'1 0'):
            with self.subTest(version[:30]):
                self.assertNotAnEntry(line(version))

    def test_malformed_lines_are_refused(self):
        good = line()
        for spoilt in (b'', b' ', b'entry', b' ' + good, good + b' ', good + b'\t', good + b'\r',
                       good + b' 1',
                       good.replace(b' ', b'  '), good.replace(b' ', b'\t'),
                       good.replace(b' ', b'\xc2\xa0'),
                       good + b' # comment', b'# ' + good, good[:-65],
                       b' '.join(reversed(good.split())),
                       good + b'\x0b', good + b'\x85'):
            with self.subTest(spoilt[:30]):
                self.assertNotAnEntry(spoilt)

    def test_crlf_in_the_signed_part_is_refused(self):
        self.assertRefused(
            tako.ManifestError, signed(listing(line()).replace(b'\n', b'\r\n')), 'invalid header'
        )
        self.assertRefused(tako.ManifestError, signed(HEADER + line() + b'\r\n\r\n'))
        self.assertRefused(tako.ManifestError, signed(HEADER + line() + b'\r\n\n'),
                           'line 3: invalid entry')

    def test_too_few_or_too_many_blank_lines_are_refused(self):
        for body in (HEADER, HEADER + line() + b'\n', HEADER + line(), HEADER + line() + b'\n\n\n',
                     HEADER + b'\n\n',
                     HEADER + b'\n' + line() + b'\n\n', listing(line(b'1'), b'', line(b'2'))):
            with self.subTest(body):
                self.assertRefused(tako.ManifestError, signed(body))

    def test_signed_garbage_is_refused(self):
        for garbage in (b'garbage', b'\n' * 20, bytes(range(256)), b'\xff' * 100, GOLDEN,
                        GOLDEN[len(HEADER):] + b'\n'):
            with self.subTest(garbage[:30]):
                self.assertRefused(tako.ManifestError, signed(HEADER + garbage))

    def test_entries_out_of_order_are_refused(self):
        for versions in ((b'2', b'1'), (b'1', b'3', b'2'), (b'10', b'9'), (b'1.0', b'1.0-beta'),
                         (b'1', b'1.a')):
            with self.subTest(versions):
                self.assertRefused(tako.ManifestError, signed(listing(*map(line, versions))),
                                   'does not come after')

    def test_two_entries_that_compare_equal_are_refused(self):
        for versions in ((b'1.0', b'1.0'), (b'1.0', b'1.0.0'), (b'1', b'1-0_0'),
                         (b'0', b'1.0', b'01', b'2')):
            with self.subTest(versions):
                self.assertRefused(tako.ManifestError, signed(listing(*map(line, versions))),
                                   'does not come after')

    def test_an_error_names_the_line(self):
        self.assertRefused(tako.ManifestError, signed(listing(b'')), 'line 3')
        self.assertRefused(tako.ManifestError,
                           signed(listing(line(b'1'), line(b'2'), line(b'2.0'))),
                           'line 5: 2.0 does not come after 2')


class SealTest(ManifestTest):

    def assertNotSealed(self, *entries):
        with mock.patch.object(tako, 'ed25519_sign') as sign:
            self.assertRaises(tako.ManifestError, tako.seal_manifest, manifest(*entries), SEED)
            sign.assert_not_called()

    def test_entries_that_a_reader_refuses_are_not_signed(self):
        unsound = {
            'out of order': [entry('2'), entry('1')], 'equal': [entry('1'), entry('1.0')],
            'negative size': [entry('1', -1)], 'size too large': [entry('1', 2 ** 63)],
            'digest too short': [entry('1', 1, DIGEST[:-1])],
            'uppercase digest': [entry('1', 1, DIGEST.upper())],
            'non-ASCII digest': [entry('1', 1, DIGEST[:-1] + '\u00e9')],
        }
        for text in ('1\n', '1 0', '\u00e9', '', '1\n\n'):
            unsound[ascii(text)] = [tako.Entry(tako.Version(text, tako.parse_version('1').order), 1,
                                               DIGEST)]
        for name, entries in unsound.items():
            with self.subTest(name):
                self.assertNotSealed(*entries)

    def test_an_entry_that_contains_another_is_not_signed(self):
        for claimed in ('0', '2'):
            smuggler = '1 1 {}\n2'.format(DIGEST)
            self.assertNotSealed(
                tako.Entry(tako.Version(smuggler, tako.parse_version(claimed).order), 1, DIGEST))

    def test_a_manifest_too_long_for_readers_is_not_signed(self):
        sealed = tako.seal_manifest(manifest('1', '2', '3'), SEED)
        with mock.patch.object(tako, 'MANIFEST_MAX_BYTES', len(sealed)):
            self.assertEqual(tako.seal_manifest(manifest('1', '2', '3'), SEED), sealed)
        with mock.patch.object(tako, 'MANIFEST_MAX_BYTES', len(sealed) - 1):
            self.assertNotSealed('1', '2', '3')


class SupersetTest(unittest.TestCase):

    def test_added_entries_are_accepted(self):
        for old, new in (('', ''), ('', '1'), ('1', '1'), ('1', '0.9 1 2'), ('1 3', '1 2 3')):
            with self.subTest(old=old, new=new):
                self.assertIsNone(tako.first_lost(manifest(*old.split()), manifest(*new.split())))

    def test_removed_and_changed_entries_are_a_rollback(self):
        old = manifest('1.0', '2.0')
        changes = {
            'emptied': manifest(), 'newest removed': manifest('1.0'),
            'replaced by a newer': manifest('1.0', '3.0'),
            'another digest': manifest('1.0', entry('2.0', 17, '0' * 64)),
            'another size': manifest('1.0', entry('2.0', 18)),
            'another spelling': manifest('1.0', '2.0.0'),
            'others about it': manifest('0.1', '1.0', '1.5', '2.1'),
        }
        for name, new in changes.items():
            with self.subTest(name):
                lost = tako.first_lost(old, new)
                self.assertEqual('1.0' if name == 'emptied' else '2.0', lost.version.text)

    def test_an_older_manifest_is_a_rollback(self):
        self.assertEqual('0.9', tako.first_lost(manifest('0.9', '1.0'),
                                                manifest('1.0', '2.0')).version.text)

    def test_the_newest_of_several_manifests_contains_all_others(self):
        old, middle, new = manifest('1'), manifest('1', '2'), manifest('1', '2', '3')
        for several, newest in (([old], 0), ([old, new], 1), ([new, old], 0),
                                ([old, new, middle], 1),
                                ([middle, old, middle], 0)):
            self.assertEqual(tako.pick_newest(several), (newest, None))

    def test_two_contradicting_manifests_are_named(self):
        one, other, old = manifest('1', '2', '4'), manifest('1', '3'), manifest('1')
        for several, two in (([one, other], (0, 1)), ([other, one], (1, 0)),
                             ([old, other, one], (2, 1)),
                             ([manifest('1', '2'), other], (0, 1))):
            self.assertEqual(tako.pick_newest(several), two)


class AddEntryTest(unittest.TestCase):

    def test_an_added_entry_is_put_in_order(self):
        for version, order in (('0.1', '0.1 1.0 2.0'), ('1.5', '1.0 1.5 2.0'),
                               ('2.0-rc', '1.0 2.0-rc 2.0'),
                               ('10', '1.0 2.0 10')):
            with self.subTest(version):
                grown = tako.add_entry(manifest('1.0', '2.0'), entry(version))
                self.assertEqual(texts(each.version for each in grown.entries), order.split())
                self.assertEqual(open_here(tako.seal_manifest(grown, SEED)), grown)
        self.assertEqual(tako.add_entry(manifest(), entry('1')), manifest('1'))

    def test_one_image_may_have_two_versions(self):
        self.assertEqual(tako.add_entry(manifest('1.0'), entry('1.1')), manifest('1.0', '1.1'))

    def test_the_same_entry_again_changes_nothing(self):
        before = manifest('1.0', '2.0')
        self.assertIs(tako.add_entry(before, entry('2.0')), before)

    def test_another_image_for_an_existing_version_is_refused(self):
        for other in (entry('2.0', 18), entry('2.0', 17, '0' * 64)):
            with self.assertRaises(tako.RefusedError) as caught:
                tako.add_entry(manifest('1.0', '2.0'), other)
            self.assertEqual(caught.exception.exit_code, 3)
            self.assertIn('2.0', caught.exception.what)

    def test_a_second_spelling_of_a_version_is_refused(self):
        for spelling in ('2', '2.0.0', '2-0', '02.0'):
            for newcomer in (entry(spelling), entry(spelling, 18)):
                with self.subTest(newcomer.line()):
                    with self.assertRaises(tako.RefusedError) as caught:
                        tako.add_entry(manifest('1.0', '2.0'), newcomer)
                    self.assertIn('version {} is already published as 2.0'.format(spelling),
                                  caught.exception.what)

    def test_the_spelling_of_a_version_can_be_checked_without_an_image(self):
        published = manifest('1.0', '2.0')
        for version in ('1.0', '2.0', '2.0.1', '3'):
            self.assertIsNone(tako.check_spelling(published, tako.parse_version(version)))
        for version in ('1', '1.0.0', '2_0'):
            with self.subTest(version):
                self.assertRaises(tako.RefusedError, tako.check_spelling, published,
                                  tako.parse_version(version))


class ChoiceTest(unittest.TestCase):

    def test_compatible_entries_come_newest_first(self):
        published = manifest('0.9', '1.0-rc', '1.0', '1.9', '1.10', '2.0-beta', '2.0')
        for pattern, expected in (
                ('*', '2.0 2.0-beta 1.10 1.9 1.0 1.0-rc 0.9'), ('1.*', '1.10 1.9 1.0 1.0-rc'),
                ('1.0 <= v < 2.0', '1.10 1.9 1.0'), ('1', '1.0'), ('3.*', ''),
                ('2.*', '2.0 2.0-beta')):
            with self.subTest(pattern):
                found = tako.compatible_entries(published, tako.parse_pattern(pattern))
                self.assertEqual(texts(each.version for each in found), expected.split())

    def test_newer_entries_are_those_in_bounds_above_the_installed_image(self):
        images = {version: digit * 64 for version, digit in (
            ('1.0', '5'), ('2.0', '9'), ('3.0', '2'), ('4.0', '4'))}
        published = manifest(*(entry(version, 17, digest) for version, digest in images.items()))
        for pattern, latest, expected in (
                ('*', '1.0', '4.0 3.0 2.0'), ('*', '3.0', '4.0'), ('*', '4.0', ''),
                ('1.0 <= v < 4.0', '1.0', '3.0 2.0'), ('2.0 <= v < 4.0', '1.0', ''),
                ('2.0', '2.0', ''), ('5.*', '1.0', '')):
            with self.subTest((pattern, latest)):
                found = tako.newer_entries(published, tako.parse_pattern(pattern), images[latest])
                self.assertEqual(expected.split(), texts(each.version for each in found))
        for latest in ('', '0' * 64):
            self.assertEqual([], tako.newer_entries(published, tako.parse_pattern('*'), latest))
        again = manifest(*published.entries, entry('5.0', 17, images['1.0']))
        self.assertEqual([], tako.newer_entries(again, tako.parse_pattern('*'), images['1.0']))

    def test_the_nearest_versions_are_named(self):
        published = manifest('0.9', '1.0', '2.0-beta', '2.1', '4')
        for pattern, expected in (
                ('3.*', '2.1 4'), ('1.5', '1.0 2.0-beta'), ('1.5 <= v < 2.0', '1.0 2.0-beta'),
                ('5.*', '4'),
                ('0.1', '0.9'), ('0.1 <= v < 0.5', '0.9')):
            with self.subTest(pattern):
                bounds = tako.parse_pattern(pattern)
                self.assertEqual(list(tako.compatible_entries(published, bounds)), [])
                self.assertEqual(texts(tako.nearest_versions(published, bounds)), expected.split())
        self.assertEqual(tako.nearest_versions(manifest(), tako.parse_pattern('*')), [])


if __name__ == '__main__':
    unittest.main()

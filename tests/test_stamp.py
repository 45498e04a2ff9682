"""Section 19: a publisher makes, renews and verifies stamps."""
import os
import re
import subprocess
import unittest

import origin
import scene
import stamps
import tako
from scene import ONE, THREE, TWO
from stamps import DAY, HOUR, KEY, NOW, OTHER_SEED, PUBLIC_KEY, SEED, moment


class FaultTest(unittest.TestCase):
    """What stamp_fault() says, from values alone."""

    def test_what_is_stamped_continues_the_last_stamp_in_entries_and_time(self):
        texts = {name: stamps.of_images(*versions) for name, versions in (
            ('one', ('1.0',)), ('two', ('1.0', '1.1')), ('fork', ('1.0', '1.2')))}
        for new, seconds, last, is_renewal, expected in (
                ('one', NOW, None, False, ''), ('one', NOW, None, True, 'new entries'),
                ('one', NOW, 'one', False, ''), ('one', NOW, 'one', True, ''),
                ('one', NOW - HOUR, 'one', True, ''),
                ('one', NOW - HOUR - 1, 'one', True, 'the clock is wrong: .* the last stamp'),
                ('one', NOW - HOUR - 1, 'one', False, 'the clock is wrong: .* the last stamp'),
                ('one', tako.RELEASED, None, False, ''),
                ('one', tako.RELEASED - 1, None, False, 'the clock is wrong: .* release'),
                ('two', NOW, 'one', False, ''), ('two', NOW, 'one', True, 'new entries'),
                ('one', NOW, 'two', False, 'lacks or changes 1.1,'),
                ('one', NOW, 'two', True, 'lacks or changes 1.1,'),
                ('fork', NOW, 'two', False, 'lacks or changes 1.1,')):
            with self.subTest((new, seconds - NOW, last, is_renewal)):
                manifest = {name: tako.open_manifest(text, None, '')
                            for name, text in texts.items()}
                fault = tako.stamp_fault(
                    stamps.stamp_of(texts[new], seconds), manifest[new],
                    last and (stamps.stamp_of(texts[last], NOW - HOUR), manifest[last]), is_renewal)
                self.assertRegex(fault, expected or '^$')


class PublisherCase(scene.Scene):
    """A directory, public, with the version 1.0, a stamp key and a clock."""

    def setUp(self):
        super().setUp()
        self.clock = stamps.Wall()
        self.public = self.path('public')
        self.publisher = origin.Publisher(self.public)
        self.publisher.publish('1.0', ONE)
        self.key = self.write('stamp.key', tako.format_secret_key(SEED), 0o600)
        self.last = self.key + '.last'

    def stamp(self, *options, key=('-f',), **settings):
        key = (key + (self.key,)) if key == ('-f',) else key
        with self.clock.patch():
            return self.run_here('stamp', *key, '-p', origin.PUBLIC_KEY, *options, self.public,
                                 **settings)

    def stamp_key(self):
        return '--stamp-key', PUBLIC_KEY

    def verify(self, *options):
        with self.clock.patch():
            return self.run_here('verify', '-p', origin.PUBLIC_KEY, *(options or self.stamp_key()),
                                 self.public)

    def made(self):
        """Return the stamp in the directory, which verifies; None if there is none."""
        path = self.path('public', 'stamp')
        return tako.open_stamp(scene.read(path), [KEY], path) if os.path.exists(path) else None

    def expected(self):
        return stamps.stamp_of(self.publisher.read('manifest'), self.clock.now)

    def assertRefused(self, words, result, code=3):
        """A command changed nothing in the directory, and said why."""
        self.assertCode(code, result)
        self.assertIn(words, result.err)
        self.assertEqual(self.before, self.all_files())

    def all_files(self):
        return scene.snapshot(self.directory)

    def note(self):
        self.before = self.all_files()


class StampTest(PublisherCase):
    def test_the_first_stamp_shows_all_entries(self):
        result = self.stamp()
        entry, = self.publisher.entries
        self.assertEqual((0, '+ {}\n{}: stamped 1 entry at {}; clients need StampKey={}\n'.format(
            entry.line().strip(), self.public, moment(NOW), PUBLIC_KEY), ''),
            (result.code, result.out, result.err))
        self.assertEqual(self.expected(), self.made())
        self.assertEqual(0o444, os.stat(self.path('public', 'stamp')).st_mode & 0o777)

    def test_a_further_stamp_shows_the_new_entries_alone(self):
        self.stamp()
        for version, content in (('1.1', TWO), ('0.9', THREE)):
            self.publisher.publish(version, content)
        self.clock.now += DAY
        result = self.stamp()
        self.assertEqual(['0.9', '1.1'], re.findall(r'^\+ (\S+) ', result.out, re.M))
        self.assertEqual(self.expected(), self.made())

    def test_with_a_dry_run_nothing_changes(self):
        self.stamp()
        entry = self.publisher.publish('1.1', TWO)
        self.note()
        result = self.stamp('--dry-run')
        self.assertEqual(0, result.code)
        self.assertTrue(result.out.startswith('+ ' + entry.line()), result.out)
        self.assertIn('would stamp 2 entries', result.out)
        self.assertEqual(self.before, self.all_files())

    def test_renewing_gives_the_same_manifest_a_new_date_and_prints_nothing(self):
        self.stamp()
        for _ in range(2):
            self.clock.now += DAY
            self.assertQuiet(self.stamp('--renew'))
            self.assertEqual(self.expected(), self.made())

    def test_a_manifest_that_another_key_signed_meanwhile_is_still_the_same(self):
        self.stamp()
        self.clock.now += DAY
        self.publisher.seed = origin.OTHER_SEED
        self.publisher.sign()
        with self.clock.patch():
            self.assertQuiet(self.run_here('stamp', '-f', self.key, '-p', origin.OTHER_PUBLIC_KEY,
                                           '--renew', self.public))
        self.assertEqual(self.expected(), self.made())

    def test_renewing_stamps_nothing_that_was_not_stamped_before(self):
        self.note()
        self.assertRefused('new entries', self.stamp('--renew'))
        self.stamp()
        self.publisher.publish('1.1', TWO)
        self.note()
        self.assertRefused('new entries', self.stamp('--renew'))

    def test_whoever_writes_the_directory_gets_no_old_state_stamped(self):
        old = self.publisher.read('manifest')
        self.publisher.publish('1.1', TWO)
        self.stamp()
        old_stamp = self.publisher.read('stamp')
        self.publisher.publish('1.2', THREE)
        self.clock.now += DAY
        self.stamp()
        self.publisher.write('manifest', old)
        for content in (old_stamp, None):
            if content is None:
                os.unlink(self.path('public', 'stamp'))
            else:
                self.publisher.write('stamp', content)
            self.note()
            for options in (('--renew',), ()):
                self.assertRefused('lacks or changes 1.1', self.stamp(*options))

    def test_a_manifest_of_another_history_is_refused(self):
        self.publisher.publish('1.1', TWO)
        self.stamp()
        self.publisher.entries = [origin.entry_of('1.0', ONE), origin.entry_of('1.1', THREE)]
        self.publisher.sign()
        self.note()
        self.assertRefused('lacks or changes 1.1', self.stamp())

    def test_a_manifest_by_another_key_is_refused(self):
        self.publisher.seed = origin.OTHER_SEED
        self.publisher.sign()
        self.note()
        self.assertRefused('not signed by any', self.stamp())

    def test_a_clock_that_is_known_to_be_wrong_is_refused(self):
        self.stamp()
        for now in 0, tako.RELEASED - 1, NOW - 1:
            self.clock.now = now
            words = 'the clock is wrong: {} is before the last'.format(moment(now))
            self.note()
            for options in (('--renew',), ()):
                self.assertRefused(words, self.stamp(*options))

    def test_replacing_stamps_what_is_refused_otherwise_with_a_warning(self):
        self.publisher.publish('1.1', TWO)
        self.stamp()
        self.publisher.entries.pop()
        self.publisher.sign()
        result = self.stamp('--replace')
        self.assertEqual(0, result.code, result)
        self.assertIn('warning: {}: the manifest lacks or changes 1.1'.format(self.public),
                      result.err)
        self.assertEqual(self.expected(), self.made())
        self.clock.now += DAY
        self.assertQuiet(self.stamp('--renew'))
        self.clock.now -= 2 * DAY
        self.assertIn('the clock is wrong', self.stamp('--replace').err)
        self.assertEqual(self.expected(), self.made())

    def test_a_damaged_file_of_the_last_stamp_is_refused_unless_it_is_replaced(self):
        self.stamp()
        whole = scene.read(self.last)
        for content in (b'', whole[:-1], whole[1:], whole.replace(b'1.0 ', b'1.1 '),
                        stamps.stamped(self.publisher.read('manifest'), NOW, OTHER_SEED)
                        + self.publisher.read('manifest')):
            origin.write(self.last, content)
            self.note()
            self.assertRefused(self.last, self.stamp())
        result = self.stamp('--replace')
        self.assertEqual(0, result.code)
        self.assertIn('warning: {}: '.format(self.last), result.err)
        self.assertEqual(whole, scene.read(self.last))

    def test_the_last_stamp_may_be_in_another_file(self):
        self.assertCode(0, self.stamp('--last', self.path('kept')))
        self.assertFalse(os.path.exists(self.last))
        self.clock.now += DAY
        self.assertCode(0, self.stamp('--renew', '--last', self.path('kept')))
        self.assertCode(3, self.stamp('--renew', '--last', self.path('another')))

    def test_the_file_of_the_last_stamp_is_outside_of_the_directory(self):
        os.symlink('public', self.path('link'))
        self.note()
        for path in ('public/last', 'link/last', 'public/store/../last'):
            self.assertRefused('--last FILE is missing, or in DIR',
                               self.stamp('--last', self.path(path)), 2)

    def test_a_key_that_is_no_file_needs_a_file_for_the_last_stamp(self):
        text = tako.format_secret_key(SEED)
        for key, settings in ((('-k', text), {}), ((), {'environ': {'TAKO_SECRET_KEY': text}})):
            self.note()
            self.assertRefused('--last FILE is missing', self.stamp(key=key, **settings), 2)
            self.assertCode(0, self.stamp('--last', self.path('kept'), key=key, **settings))

    def test_a_leftover_of_a_killed_run_does_no_harm(self):
        self.write('stamp.key.last.new', 'half')
        self.assertCode(0, self.stamp())
        self.assertFalse(os.path.exists(self.path('stamp.key.last.new')))

    def test_the_release_key_as_stamp_key_is_warned_about(self):
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        result = self.stamp(key=('-f', key))
        self.assertEqual(0, result.code)
        self.assertIn('the stamp key is the release key, too', result.err)

    def test_without_a_manifest_there_is_nothing_to_stamp(self):
        os.unlink(self.path('public', 'manifest'))
        self.note()
        self.assertRefused('no such file', self.stamp(), 2)

    def test_store_sign_and_withdraw_leave_the_stamp_as_it_is(self):
        self.stamp()
        before = self.publisher.read('stamp')
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        other = self.write('other.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        image = self.write('image', TWO)
        for arguments in (('store', '-f', key, '-o', self.public, image, '1.1'),
                          ('sign', '-f', other, '-p', origin.PUBLIC_KEY, self.public),
                          ('withdraw', '-o', self.public, '1.1')):
            self.assertCode(0, self.run_here(*arguments))
            self.assertEqual(before, self.publisher.read('stamp'))


class VerifyTest(PublisherCase):
    def test_a_valid_stamp_is_shown_with_its_time(self):
        self.stamp()
        result = self.verify()
        self.assertEqual((0, ''), (result.code, result.err))
        self.assertIn(', stamped at ' + moment(NOW), result.out)

    def test_each_fault_of_a_stamp_has_an_exit_code(self):
        manifest = self.publisher.read('manifest')
        for content, code, words in (
                (None, 1, 'stamp: No such file'),
                (stamps.stamped(stamps.of_images('1.0', '1.1'), NOW), 1,
                 'of another manifest, or in the future: 2 entries'),
                (stamps.stamped(manifest, NOW, entries=2), 1, 'of another manifest'),
                (stamps.stamped(manifest, NOW + DAY + 1), 1, 'or in the future'),
                (stamps.stamped(manifest, NOW, OTHER_SEED), 3, 'not signed by any'),
                (stamps.stamped(manifest, NOW, origin.SEED), 3, 'not signed by any'),
                (b'<html>', 3, 'not a signed stamp'), (manifest, 3, 'not a signed stamp'),
                (bytes(tako.STAMP_MAX_BYTES + 1), 3, 'not a signed stamp')):
            with self.subTest(words):
                if content is not None:
                    self.publisher.write('stamp', content)
                result = self.verify()
                self.assertEqual(code, result.code, result)
                self.assertIn(words, result.err)
                self.assertNotIn('stamped at', result.out)

    def test_without_the_option_no_stamp_is_read(self):
        self.publisher.write('stamp', b'<html>')
        self.assertEqual(0, self.verify('-p', origin.PUBLIC_KEY).code)


def openssl(*arguments):
    """Run openssl. Return what it prints; None if it is missing or cannot sign with Ed25519."""
    try:
        done = subprocess.run(('openssl',) + arguments, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


class ExternalKeyTest(PublisherCase):
    """The key is in openssl, as it may be in a hardware module: pkeyutl makes the signatures."""

    def setUp(self):
        super().setUp()
        self.hsm = self.path('hsm.pem')
        made = openssl('genpkey', '-algorithm', 'ed25519', '-out', self.hsm)
        self.write('probe', 'x')
        if made is None or self.sign('probe') is None:
            self.skipTest('openssl cannot sign with Ed25519')
        der = openssl('pkey', '-in', self.hsm, '-pubout', '-outform', 'DER')
        self.public_key = tako.encode_base64(der[-32:])
        self.kept = '--last', self.path('kept'), '--stamp-key', self.public_key

    def sign(self, name):
        """Sign a file. Return the signature, which is also in the file `signature`."""
        openssl('pkeyutl', '-sign', '-rawin', '-in', self.path(name), '-inkey', self.hsm, '-out',
                self.path('signature'))
        path = self.path('signature')
        return scene.read(path) if os.path.exists(path) and os.path.getsize(path) == 64 else None

    def sign_what(self, *arguments, run=None):
        """Sign what a command prints with --bytes, which changes no other file of the directory."""
        before = scene.snapshot(self.public)
        result = (run or self.run_here)(*arguments)
        self.assertEqual(0, result.code, result)
        self.assertEqual(before, scene.snapshot(self.public))
        self.write('bytes', result.out)
        return self.sign('bytes')

    def listed(self, key):
        return [entry.version.text for entry in tako.open_manifest(
            self.publisher.read('manifest'), [tako.parse_public_key(key)], '').entries]

    def test_a_manifest_is_signed(self):
        for is_base64 in (False, True):
            signature = self.sign_what('sign', '--bytes', '-p', origin.PUBLIC_KEY, self.public)
            if is_base64:
                self.write('signature', tako.encode_base64(signature) + '\n')
            result = self.run_here('sign', '--signature', self.path('signature'), '-p',
                                   self.public_key, self.public)
            self.assertEqual((0, ''), (result.code, result.err))
            self.assertIn('clients need PublicKey=' + self.public_key, result.out)
            self.assertEqual(['1.0'], self.listed(self.public_key))
            self.publisher.sign()

    def test_the_bytes_of_a_manifest_that_nobody_checked_are_warned_about(self):
        result = self.run_here('sign', '--bytes', self.public)
        self.assertEqual(0, result.code)
        self.assertIn('the signature of the manifest was not checked', result.err)
        self.assertEqual(self.publisher.read('manifest').rpartition(b'\n\n')[0] + b'\n\n',
                         result.out.encode())
        self.assertCode(3, self.run_here('sign', '--bytes', '-p', origin.OTHER_PUBLIC_KEY,
                                         self.public))

    def test_an_image_is_stored(self):
        image = self.write('image', TWO)
        self.sign_what('sign', '--bytes', self.public)
        signature = '--signature', self.path('signature'), '-p', self.public_key
        self.assertCode(0, self.run_here('sign', *signature, self.public))
        options = '-o', self.public, image, '1.1'
        self.sign_what('store', '--bytes', '-p', self.public_key, *options)
        self.assertCode(0, self.run_here('store', *signature, *options))
        self.assertEqual(['1.0', '1.1'], self.listed(self.public_key))
        again = '-o', self.public, '--again', '1.0', '1.2'
        self.sign_what('store', '--bytes', '-p', self.public_key, *again)
        self.assertCode(0, self.run_here('store', *signature, *again))
        self.assertEqual(['1.0', '1.1', '1.2'], self.listed(self.public_key))
        self.assertEqual(0, self.run_here('verify', '-p', self.public_key, self.public).code)

    def test_a_manifest_is_stamped(self):
        run = lambda *options: self.stamp(*options, *self.kept, key=())     # noqa: E731
        for more, printed in ((), '+ 1.0 '), (('--renew',), ''):
            self.sign_what('--bytes', *more, run=run)
            self.clock.now += HOUR
            result = run('--signature', self.path('signature'), *more)
            self.assertEqual((0, ''), (result.code, result.err))
            self.assertEqual(printed, result.out[:len(printed)])
            made = tako.open_stamp(self.publisher.read('stamp'),
                                   [tako.parse_public_key(self.public_key)], '')
            self.assertEqual(moment(self.clock.now - HOUR), made.moment)
            self.assertFalse(os.path.exists(self.path('kept.bytes')))

    def test_a_signature_of_other_bytes_changes_nothing(self):
        image = self.write('image', TWO)
        self.sign('probe')
        signature = self.path('signature')
        store = '-o', self.public, image, '1.1'
        run = lambda *options: self.stamp(*options, *self.kept, key=())     # noqa: E731
        run('--bytes')
        self.note()
        for result in (
                self.run_here('sign', '--signature', signature, '-p', self.public_key, self.public),
                self.run_here('store', '--signature', signature, '-p', origin.PUBLIC_KEY, *store),
                run('--signature', signature)):
            self.assertRefused('is not by this key, or not of these bytes', result)

    def test_a_stamp_of_a_manifest_that_changed_meanwhile_is_refused(self):
        run = lambda *options: self.stamp(*options, *self.kept, key=())     # noqa: E731
        self.sign_what('--bytes', run=run)
        self.publisher.publish('1.1', TWO)
        self.note()
        self.assertRefused('not of these bytes', run('--signature', self.path('signature')))

    def test_what_is_missing_is_named(self):
        self.sign('probe')
        signature, image = self.path('signature'), self.write('image', TWO)
        self.write('short', 'x' * 63)
        for arguments, words in (
                (('sign', '--signature', signature, self.public), 'required: -p'),
                (('sign', '-f', self.key, self.public), 'required: -p'),
                (('store', '--bytes', '-o', self.public, image, '1.1'), 'need -p PUBLIC'),
                (('store', '--bytes', '-p', origin.PUBLIC_KEY, '-f', self.key, '-o', self.public,
                  image, '1.1'), 'and no secret key'),
                (('sign', '--signature', self.path('short'), '-p', self.public_key, self.public),
                 'not a signature'),
                (('stamp', '--bytes', '--last', self.path('kept'), '-p', origin.PUBLIC_KEY,
                  self.public), 'need --stamp-key')):
            with self.subTest(words):
                self.note()
                self.assertRefused(words, self.run_here(*arguments), 2)
        for arguments, words in (
                (('sign', '--signature', self.path('absent'), '-p', self.public_key, self.public),
                 'absent: No such file'),
                (('stamp', '--signature', signature, '-p', origin.PUBLIC_KEY, *self.kept,
                  self.public), 'kept.bytes: No such file')):
            self.assertRefused(words, self.run_here(*arguments), 1)


if __name__ == '__main__':
    unittest.main()

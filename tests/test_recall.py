"""Sections 6, 17 and 19: a bad release is taken back, by publishing an earlier image again."""
import os
import re
import shutil
import subprocess
import sys
import unittest
import unittest.mock

import fake_systemd
import origin
import scene
import tako
from scene import ONE, THREE, TWO

PAGE = os.path.join(scene.PROJECT, 'docs', 'a-release-is-bad.md')


def manifest(*images):
    """Return a manifest of images such as '1.4.1=a'."""
    return tako.Manifest(tuple(
        origin.entry_of(version, content.encode())
        for version, content in (image.split('=') for image in images)))


class RecallTest(unittest.TestCase):
    """Which versions take others back."""

    def test_an_image_of_an_older_version_makes_a_recall(self):
        for images, expected in (
                ([], []), (['1.0=a', '1.1=b', '1.2=c'], []), (['1.0=a', '1.1=b', '1.2=a'], ['1.2']),
                (['1.0=a', '1.1=a'], ['1.1']),
                (['1.0=a', '1.1=b', '1.2=a', '1.3=b'], ['1.2', '1.3']),
                (['1.0=a', '1.1=b', '2.0=a'], ['2.0'])):
            with self.subTest(images):
                self.assertEqual(expected, sorted(entry.version.text for entry
                                                  in tako.recalls(manifest(*images))))

    def test_an_image_is_taken_back_by_a_newer_version_with_an_older_image(self):
        for images, pattern, image, expected in (
                (['1.0=a', '1.1=b', '1.2=a'], '*', 'b', '1.2'),
                (['1.0=a', '1.1=b', '1.2=a'], '*', 'a', None),
                (['1.0=a', '1.1=b', '1.2=c'], '*', 'b', None),
                (['1.0=a', '1.1=b', '1.2=c', '1.3=a'], '*', 'b', '1.3'),
                (['1.0=a', '1.1=b', '1.2=c', '1.3=a'], '*', 'c', '1.3'),
                (['1.0=a', '1.1=b', '1.2=c', '1.3=b'], '*', 'b', None),
                (['1.0=a', '1.1=b', '1.2=a', '1.3=d'], '*', 'b', '1.2'),
                # published once more after all
                (['1.0=a', '1.1=b', '1.2=a', '1.3=b'], '*', 'b', None),
                (['1.0=a', '1.1=b', '1.2=a', '1.3=b'], '*', 'a', '1.3'),
                # versions out of bounds do not count
                (['1.0=a', '1.1=b', '2.0=a'], '1.*', 'b', None),
                (['1.0=a', '1.1=b', '1.2=a'], '1.1 <= v < 2', 'b', None)):
            with self.subTest(images=images, pattern=pattern, image=image):
                entries = tako.compatible_entries(manifest(*images), tako.parse_pattern(pattern))
                found = tako.recall_of(origin.digest_of(image.encode()), list(entries))
                self.assertEqual(expected, found and found.version.text)

    def test_an_image_has_the_name_of_its_newest_version_in_bounds(self):
        listed = manifest('1.0=a', '1.1=b', '1.2=a', '2.0=a')
        for pattern, expected in (('1.*', '1.2'), ('*', '2.0'), ('1.0', '1.0'), ('3.*', '2.0')):
            with self.subTest(pattern):
                self.assertEqual(expected, tako.version_of(origin.digest_of(b'a'), listed,
                                                           tako.parse_pattern(pattern)))


class StoreAgainTest(scene.Scene):
    """store --again, in a directory that lists 1.4.1, 1.4.2 and 2.0."""

    def setUp(self):
        super().setUp()
        self.key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        self.publisher = origin.Publisher(self.path('public'))
        self.one, self.two, self.three = (
            self.publisher.publish(version, content)
            for version, content in (('1.4.1', ONE), ('1.4.2', TWO), ('2.0', THREE)))

    def store(self, *arguments):
        return self.run_here('store', '-f', self.key, '-o', self.path('public'), *arguments)

    def listed(self):
        return [(entry.version.text, entry.digest) for entry in tako.open_manifest(
            self.publisher.read('manifest'), [tako.parse_public_key(origin.PUBLIC_KEY)],
            'manifest').entries]

    def test_the_image_is_listed_again(self):
        before = scene.snapshot(self.path('public', 'store'))
        listed = self.listed()
        result = self.store('--again', '1.4.1', '1.4.3')
        self.assertEqual(0, result.code, result)
        self.assertIn('stored 1.4.3, the image of 1.4.1, {} bytes, SHA-256 {}; '.format(
            len(ONE), self.one.digest), result.out)
        self.assertEqual(listed[:2] + [('1.4.3', self.one.digest)] + listed[2:], self.listed())
        self.assertEqual(before, scene.snapshot(self.path('public', 'store')))

    def test_doing_it_again_changes_nothing(self):
        self.store('--again', '1.4.1', '1.4.3')
        before = scene.snapshot(self.path('public'))
        result = self.store('--again', '1.4.1', '1.4.3')
        self.assertEqual((0, ''), (result.code, result.out), result)
        self.assertEqual(before, scene.snapshot(self.path('public')))

    def test_a_dry_run_changes_nothing(self):
        before = scene.snapshot(self.path('public'))
        result = self.store('--dry-run', '--again', '1.4.1', '1.4.3')
        self.assertIn('would store 1.4.3, ', result.out)
        self.assertEqual((0, before), (result.code, scene.snapshot(self.path('public'))))

    def test_other_spellings_of_the_older_version_name_it_too(self):
        self.assertEqual(0, self.store('--again', '1.4-1_0', '1.4.3').code)
        self.assertIn(('1.4.3', self.one.digest), self.listed())

    def test_what_machines_would_not_install_is_refused(self):
        before = scene.snapshot(self.path('public'))
        for old, new, code, message in (
                ('1.4.1', '1.4.1.5', 3, 'version 1.4.1.5 is not above 1.4.2'),
                ('1.4.1', '1.4.2', 3, 'version 1.4.2 is not above 1.4.2'),
                ('1.4.1', '1.4.2.0', 3, 'version 1.4.2.0 is already published as 1.4.2'),
                ('1.4.1', '1.3', 3, 'version 1.3 is not above 1.4.2'),
                ('1.4.1', '2.0-rc1', 3, 'version 2.0-rc1 is not above 2.0'),
                ('2.0', '1.4.3', 3, 'version 1.4.3 is not above 2.0'),
                ('1.4.1', '0.9', 3, 'version 0.9 is not above 1.4.1'),
                ('1.4.0', '1.4.3', 2, '1.4.0 is not in '),
                ('---', '1.4.3', 2, "invalid version: '---'"),
                ('1.4.1', '1.*', 2, "invalid version: '1.*'")):
            with self.subTest(old=old, new=new):
                result = self.store('--again=' + old, new)
                self.assertCode(code, result)
                self.assertIn(message, result.err)
                self.assertEqual(before, scene.snapshot(self.path('public')))

    def test_a_version_with_another_first_part_may_be_higher(self):
        self.assertEqual(0, self.store('--again', '1.4.1', '2.1').code)
        self.assertIn(('2.1', self.one.digest), self.listed())

    def test_a_missing_image_is_refused_without_an_option(self):
        os.unlink(self.path('public', 'store', self.one.digest))
        before = scene.snapshot(self.path('public'))
        result = self.store('--again', '1.4.1', '1.4.3')
        self.assertCode(3, result)
        self.assertIn(' is missing\n', result.err)
        self.assertIn('--without-image', result.err)
        self.assertEqual(before, scene.snapshot(self.path('public')))
        self.assertEqual(0, self.store('--again', '1.4.1', '--without-image', '1.4.3').code)
        self.assertIn(('1.4.3', self.one.digest), self.listed())

    def test_a_withdrawn_version_is_refused_in_any_case(self):
        self.assertEqual(0, self.run_here('withdraw', '-o', self.path('public'), '1.4.1').code)
        before = scene.snapshot(self.path('public'))
        for options in ((), ('--without-image',)):
            result = self.store('--again', '1.4.1', '1.4.3', *options)
            self.assertCode(3, result)
            self.assertIn('1.4.1 was withdrawn\n', result.err)
        self.assertEqual(before, scene.snapshot(self.path('public')))

    def test_a_damaged_image_is_refused_in_any_case(self):
        path = self.path('public', 'store', self.one.digest)
        os.chmod(path, 0o644)
        self.write('public/store/' + self.one.digest, ONE[:-1] + b'x', 0o444)
        for options in ((), ('--without-image',)):
            result = self.store('--again', '1.4.1', '1.4.3', *options)
            self.assertCode(3, result)
            self.assertIn(' is damaged: ', result.err)
        self.assertEqual(3, len(self.listed()))

    def test_a_wrong_command_line_is_a_usage_error(self):
        image = self.write('app.img', b'image')
        for arguments in (('--again', '1.4.1'), ('--again', '1.4.1', image, '1.4.3'),
                          ('--without-image', image, '1.4.3'),
                          ('--again', '1.4.1', '--patch-from', '1', '1.4.3')):
            with self.subTest(arguments):
                self.assertCode(2, self.store(*arguments))
        self.assertCode(2, self.run_here('store', '--reindex', '-o', self.path('public'),
                                         '--again', '1.4.1'))
        self.assertEqual(3, len(self.listed()))

    def test_another_key_is_refused(self):
        other = self.write('other.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        before = scene.snapshot(self.path('public'))
        self.assertCode(3, self.run_here('store', '-f', other, '-o', self.path('public'),
                                         '--again', '1.4.1', '1.4.3'))
        self.assertEqual(before, scene.snapshot(self.path('public')))


class MachineTest(scene.UpdateScene):
    """A machine in 1.* that has installed 1.0 and then 1.1, which is bad."""

    def setUp(self):
        super().setUp()
        self.clock = scene.Clock()
        fake_systemd.install(self.directory, self.destination)
        self.have_one()
        self.assertCode(0, self.fetch())
        self.origin.requests.clear()

    def fetch(self, *options):
        with self.clock.patch():
            return self.run_here('fetch', self.app, *options,
                                 environ=self.environ_with_systemctl())

    def rollback(self, *options):
        return self.run_here('rollback', self.app, *options)

    def take_back(self, version='1.2'):
        return self.origin.publish(version, ONE)

    def rejected(self):
        return list(scene.state(self.destination).rejected)

    def reject(self, *entries):
        scene.write_state(self.destination, scene.state(self.destination)._replace(
            rejected=tuple(entry.digest for entry in entries)))

    def test_a_machine_goes_back_without_a_download(self):
        self.take_back()
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.2 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(ONE)
        self.assertEqual(['/manifest'], self.origin.paths())
        self.assertQuiet(self.fetch())
        self.assertIn('installed:     1.2, ' + self.one.digest,
                      self.run_here('status', self.app).out)

    def test_a_machine_without_the_image_downloads_it(self):
        self.take_back()
        os.unlink(self.path('destination', 'store', self.one.digest))
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)

    def test_a_machine_that_never_left_the_image_changes_nothing(self):
        self.assertCode(0, self.rollback())
        self.take_back()
        self.assertQuiet(self.fetch())
        self.assertInPlace(ONE)
        self.assertIn('installed:     1.2, ', self.run_here('status', self.app).out)

    def test_a_rejection_from_before_does_not_count(self):
        self.reject(self.one)
        self.assertQuiet(self.fetch())
        self.take_back()
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)
        self.assertEqual([], self.rejected())

    def test_an_image_that_was_postponed_is_tried_again(self):
        scene.write_state(self.destination, scene.state(self.destination)._replace(
            postponed=(self.one.digest,)))
        self.take_back()
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)

    def test_other_rejections_stay(self):
        three = self.origin.publish('1.0.5', THREE)
        self.reject(self.one, three)
        self.take_back()
        self.assertCode(0, self.fetch())
        self.assertEqual([three.digest], self.rejected())

    def test_a_rejection_from_afterwards_counts(self):
        self.config(self.origin.url, version='1.*', more='Restart=app.service\n')
        fake_systemd.install(self.directory, self.destination, fake_systemd.FAILS,
                             [self.one.digest])
        self.reject(self.one)
        self.take_back()
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('rolled back to 1.1, and 1.2 is rejected', result.err)
        self.assertInPlace(TWO)
        for _ in range(2):
            self.assertQuiet(self.fetch())
            self.assertInPlace(TWO)
        self.assertEqual([self.one.digest], self.rejected())
        # another recall is another chance
        fake_systemd.install(self.directory, self.destination)
        self.take_back('1.3')
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)

    def test_a_power_cut_before_the_manifest_is_written_loses_no_chance(self):
        self.reject(self.one)
        self.take_back()
        with unittest.mock.patch.object(tako.ImageDirectory, 'write_manifest',
                                        side_effect=OSError(5, 'Input/output error')):
            self.assertCode(1, self.fetch())
        self.assertInPlace(TWO)
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)

    def test_a_dry_run_says_it_and_forgets_no_rejection(self):
        self.reject(self.one)
        self.take_back()
        before = scene.snapshot(self.destination)
        self.assertEqual(self.app + ': 1.2: would install it\n', self.fetch('--dry-run').out)
        self.assertEqual(before, scene.snapshot(self.destination))

    def test_a_rollback_to_what_was_taken_back_is_a_warning(self):
        self.take_back()
        self.assertCode(0, self.fetch())
        result = self.rollback()
        self.assertEqual((0, self.app + ': rolled back to 1.1, rejected 1.2\n'),
                         (result.code, result.out))
        self.assertIn('tako: warning: {}: 1.1 was taken back: 1.2 has the image of an older '
                      'version\n'.format(self.app), result.err)
        self.assertInPlace(TWO)
        self.assertQuiet(self.fetch())
        self.assertCode(0, self.fetch('--retry-rejected'))
        self.assertInPlace(ONE)

    def test_other_rollbacks_are_no_warning(self):
        self.take_back()
        result = self.rollback('--to', '1.0')
        self.assertEqual((0, ''), (result.code, result.err))
        # the local manifest does not list 1.2 yet
        self.assertEqual(self.app + ': rolled back to 1.0, rejected 1.1\n', result.out)

    def test_a_rollback_names_the_newest_version_of_an_image(self):
        self.take_back()
        self.origin.publish('1.3', THREE)
        self.assertCode(0, self.fetch('--now'))
        self.assertInPlace(THREE)
        result = self.rollback('--to', '1.0')
        self.assertEqual(
            (0, self.app + ': rolled back to 1.2, the image of 1.0, rejected 1.3, 1.1\n', ''),
            (result.code, result.out, result.err))
        self.assertInPlace(ONE)
        self.assertQuiet(self.fetch())

    def test_410_for_the_bad_image_takes_no_machine_back(self):
        self.origin.faults = {self.image_url(self.two): origin.status(410)}
        self.assertQuiet(self.fetch())
        self.assertInPlace(TWO)
        # a machine that does not have it installs the older one
        self.empty_destination()
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)


class DelayTest(MachineTest):
    """The same machine with Delay=: a recall does not wait."""

    def setUp(self):
        super().setUp()
        with open(self.app, 'a') as config:
            config.write('Delay=2d\n')


class PageTest(scene.Scene):
    """The commands of docs/a-release-is-bad.md do and print what the page says."""

    def blocks(self):
        """Yield the commands of each block of the page, and what it says that they print."""
        with open(PAGE, encoding='utf-8') as stream:
            text = stream.read()
        for match in re.finditer('^```sh\n(.*?)^```\n(?:\nprints\n\n((?:    [^\n]*\n)+))?',
                                 text, re.M | re.S):
            yield match.group(1), re.sub('^    ', '', match.group(2) or '', flags=re.M)

    def test_the_page_is_right(self):
        os.mkdir(self.path('bin'))
        shutil.copy(scene.TAKO, self.path('tako.py'))
        os.symlink(sys.executable, self.path('bin', 'python3'))
        printed = 0
        for commands, expected in self.blocks():
            result = subprocess.run(
                ['/bin/sh', '-ec', commands], cwd=self.directory, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, env=scene.environment(self.environ_with_systemctl()))
            out = result.stdout.decode()
            self.assertEqual(0, result.returncode, out)
            if expected:
                self.assertEqual(expected, out)
                printed += 1
        self.assertEqual(2, printed)
        self.assertEqual(os.readlink(self.path('one', 'latest')),
                         os.readlink(self.path('two', 'latest')))
        self.assertQuiet(self.run_here('fetch', self.path('one.tako'), self.path('two.tako')))

"""Section 17: fetch as a process: what it installs and refuses, and what its options change."""
import errno
import functools
import os
import resource
import subprocess
import sys
import unittest
import unittest.mock

import fake_systemd
import origin
import scene
import tako
from scene import ONE, THREE, TWO

class FetchTest(scene.UpdateScene):
    def test_the_newest_compatible_version_is_installed_and_printed(self):
        result = self.run_tako('fetch', self.app)
        self.assertEqual((0, 'app.tako: 1.0 is installed\n'.replace('app.tako', self.app), ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(ONE)

    def test_an_update_downloads_one_image_and_keeps_the_old_one(self):
        self.have_one()
        result = self.run_tako('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.1 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(TWO)
        self.assertEqual({self.one.digest, self.two.digest},
                         set(os.listdir(self.path('destination', 'store'))))
        self.assertEqual(['/manifest', self.image_url(self.two)], self.origin.paths())
        self.assertEqual(self.origin.read('manifest'),
                         scene.read(self.path('destination', 'manifest')))

    def test_an_update_reads_the_local_manifest_once(self):
        """fetch verifies it once and keeps it in memory for the rest of the run."""
        self.have_one()
        opened, manifest, open_file = [], self.path('destination', 'manifest'), open

        def note(path, *arguments, **settings):
            opened.append(path)
            return open_file(path, *arguments, **settings)
        with unittest.mock.patch('builtins.open', note):
            self.assertCode(0, self.run_here('fetch', self.app))
        self.assertInPlace(TWO)
        self.assertEqual(1, opened.count(manifest))

    def test_a_fetch_without_an_update_is_silent_and_requests_only_the_manifest(self):
        self.run_tako('fetch', self.app)
        self.origin.requests.clear()
        before = scene.snapshot(self.destination)
        self.assertQuiet(self.run_tako('fetch', self.app))
        self.assertEqual((before, ['/manifest']),
                         (scene.snapshot(self.destination), self.origin.paths()))

    def test_an_image_in_the_store_is_not_downloaded_again_when_bounds_change(self):
        self.have_one()
        self.run_tako('fetch', self.app)
        self.config(self.origin.url, version='1.0')
        self.origin.requests.clear()
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(ONE)
        self.assertEqual(['/manifest'], self.origin.paths())

    def test_a_new_version_of_the_installed_image_changes_nothing(self):
        self.have_one()
        self.origin.publish('1.2', ONE)
        self.assertQuiet(self.run_tako('fetch', self.app))
        self.assertInPlace(ONE)

    def test_an_image_of_no_bytes_is_installed(self):
        self.origin.publish('1.3', b'')
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(b'')

    def test_a_manifest_signed_by_any_listed_key_is_accepted(self):
        self.config(self.origin.url, public_keys=(origin.OTHER_PUBLIC_KEY, origin.PUBLIC_KEY))
        self.assertCode(0, self.run_tako('fetch', self.app))

    def test_several_configs_share_a_connection_and_the_most_severe_exit_code_wins(self):
        second = self.path('second')
        os.mkdir(second)
        good = self.config(self.origin.url, 'good.tako', destination=second)
        broken = self.write('broken.tako', 'Nonsense\n')
        unreachable = self.config(self.origin.url + '/nothing', 'unreachable.tako')
        for configs, code in (((unreachable, good), 75), ((broken, unreachable, good), 2),
                              ((good, good), 0)):
            result = self.run_tako('fetch', *configs)
            self.assertEqual(code, result.code, result)
            self.assertInPlace(ONE, second)
        self.origin.connections = 0
        self.run_tako('fetch', good, self.app)
        self.assertEqual(1, self.origin.connections)

    def test_the_more_severe_of_two_exit_codes_wins(self):
        refused = self.config(self.origin.url, 'refused.tako',
                              public_keys=(origin.OTHER_PUBLIC_KEY,))
        broken = self.write('broken.tako', 'Nonsense\n')
        no_version = self.config(self.origin.url, 'no-version.tako', version='7.*')
        os.mkdir(self.path('second'))
        unreachable = self.config(self.origin.url + '/nothing', 'unreachable.tako',
                                  destination=self.path('second'))
        for code, one, two in ((3, refused, broken), (2, broken, no_version),
                               (1, no_version, unreachable)):
            for configs in ((one, two), (two, one)):
                with self.subTest(configs):
                    self.assertCode(code, self.run_tako('fetch', *configs))

    def test_verbose_prints_each_step(self):
        result = self.run_tako('fetch', '-v', self.app)
        self.assertIn('requesting ' + self.origin.url, result.err)
        self.assertIn('downloading 1.0', result.err)

    def test_temporary_files_of_a_killed_run_are_removed(self):
        for name in scene.TEMPORARIES:
            self.write('destination/' + name, 'half')
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(ONE)

    def test_files_whose_time_may_not_be_set_are_written_anew(self):
        self.assertCode(0, self.run_here('fetch', self.app))
        files, utime = [self.path('destination', name) for name in ('manifest', '.state')], os.utime
        for file in files:
            os.utime(file, (1e9, 1e9))

        def refuse(file, *times):
            if file in files:
                raise PermissionError
            utime(file, *times)
        with unittest.mock.patch('os.utime', refuse):
            self.assertCode(0, self.run_here('fetch', self.app))
        for file in files:
            self.assertEqual((True, 0o100444),
                             (os.stat(file).st_mtime > 1e9, os.stat(file).st_mode))

    def test_a_manifest_that_is_a_link_is_replaced_and_its_target_left_alone(self):
        self.have_one()
        manifest, other = self.path('destination', 'manifest'), self.path('other')
        os.rename(manifest, other)
        os.symlink(other, manifest)
        before = scene.read(other)
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)
        self.assertEqual((False, before), (os.path.islink(manifest), scene.read(other)))

    def test_a_password_in_the_origin_is_sent_and_never_printed(self):
        self.origin.etag = lambda _: '"validator"'
        self.config(self.origin.url.replace('//', '//user:hush@'))
        result = self.run_tako('fetch', '-v', self.app)
        self.assertCode(0, result)
        self.assertTrue(all('Authorization' in headers for _, headers in self.origin.requests))
        self.origin.faults['*'] = origin.status(401)
        self.assertNotIn('hush', repr(result) + repr(self.run_tako('fetch', '-v', self.app)))
        noted = scene.read(self.path('destination', '.state')).decode()
        self.assertIn(self.origin.url, noted)
        self.assertNotIn('hush', noted + self.run_tako('status', '--json', self.app).out)


class SyncTest(scene.UpdateScene):
    def test_a_failed_fsync_fails_the_run_and_keeps_the_installed_image(self):
        """This holds for each file and directory of an update. Later steps are not done."""
        self.have_one()
        fsync = os.fsync
        for name in ('.manifest.new', '.partial-' + self.two.digest, 'store', '.state.new',
                     'destination'):
            def fail(descriptor):
                if os.readlink('/proc/self/fd/{}'.format(descriptor)).endswith(
                    name):      # noqa: B023
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                fsync(descriptor)
            with self.subTest(name), unittest.mock.patch('os.fsync', fail):
                result = self.run_here('fetch', self.app)
                self.assertCode(1, result)
                self.assertIn('Input/output error', result.err)
                self.assertInPlace(ONE)
        self.assertCode(0, self.run_here('fetch', self.app))
        self.assertInPlace(TWO)


class RefusalTest(scene.UpdateScene):
    """fetch refuses what is invalid or older. attacks/ has more of what an origin may try."""

    def assertNothingChanged(self, code, before, *arguments):
        result = self.run_tako('fetch', self.app, *arguments)
        self.assertCode(code, result)
        self.assertEqual('', result.out)
        after = scene.snapshot(self.destination)
        kept = [name for name in after if name.startswith(('.partial-', '.fork.'))]
        self.assertLessEqual(sum(name.startswith('.partial-') for name in kept), 1)
        self.assertEqual(before, {name: what for name, what in after.items() if name not in kept})
        return result

    def test_a_missing_file_origin_is_exit_75_and_changes_nothing(self):
        before = self.have_one()
        self.config('file://' + self.path('nowhere'))
        self.assertNothingChanged(75, before)

    def test_an_image_announced_as_too_long_is_refused_before_its_body_arrives(self):
        self.have_one()
        self.origin.faults[self.image_url(self.two)] = lambda handler: handler.answer(
            200, b'', length=1 << 40)
        self.assertCode(3, self.run_tako('fetch', self.app))

    def test_a_local_manifest_that_does_not_verify_is_never_replaced(self):
        self.have_one()
        path = self.path('destination', 'manifest')
        honest = scene.read(path)
        for name, content in (('altered', honest.replace(b'1.0', b'1.1')), ('empty', b''),
                              ('cut', honest[:50])):
            with self.subTest(name):
                os.unlink(path)
                self.write('destination/manifest', content)
                result = self.assertNothingChanged(3, scene.snapshot(self.destination))
                self.assertIn(path, result.err)
                self.assertNothingChanged(3, scene.snapshot(self.destination), '--init')
        self.assertEqual([], self.origin.requests)

    def test_a_manifest_of_a_later_format_asks_for_an_update_of_tako(self):
        self.have_one()
        before = scene.snapshot(self.destination)
        self.origin.sign_body(b'Tako Manifest 2\n\nanything at all\n\n')
        result = self.assertNothingChanged(3, before)
        self.assertEqual(
            'tako: {}: {}/manifest: unknown manifest format 2; this Tako is too old\n'
            '  update Tako: version {} reads format 1 only\n'.format(
                self.app, self.origin.url, tako.__version__
            ),
            result.err,
        )
        later = self.origin.read('manifest')
        self.origin.write('manifest', later.replace(b'anything', b'ANYTHING'))
        self.assertIn(
            'not signed by any of the given public keys', self.assertNothingChanged(3, before).err
        )
        self.origin.write('manifest', later)
        self.assertCode(3, self.run_tako('verify', '-p', origin.PUBLIC_KEY, self.origin.directory))
        os.unlink(os.path.join(self.destination, 'manifest'))
        self.write('destination/manifest', later)  # as a newer Tako leaves it
        for arguments in (('fetch', self.app), ('fetch', '--init', self.app), ('status', self.app)):
            result = self.run_tako(*arguments)
            self.assertCode(3, result)
            self.assertIn('/manifest: unknown manifest format 2; this Tako is too old', result.err)
            self.assertIn('\n  update Tako: ', result.err)

    def test_a_latest_that_is_no_link_is_one_error(self):
        self.have_one()
        os.unlink(os.path.join(self.destination, 'latest'))
        self.write('destination/latest', b'mine')
        for options in ((), ('--init',), ('--dry-run',), ('--retry-rejected',)):
            with self.subTest(options):
                result = self.run_tako('fetch', self.app, *options)
                told = ('tako: {}: {}/latest: not a link\n'
                        '  move it away: Tako did not make it\n')
                self.assertEqual((1, told.format(self.app, self.destination)),
                                 (result.code, result.err))
        self.assertEqual(b'mine', scene.read(os.path.join(self.destination, 'latest')))

    def test_a_manifest_installed_by_hand_protects_the_first_fetch(self):
        old = self.origin.read('manifest')
        self.origin.publish('1.1', TWO)
        self.write('destination/manifest', self.origin.read('manifest'), 0o444)
        self.origin.faults['/manifest'] = origin.serves(old)
        self.assertCode(3, self.run_tako('fetch', self.app))
        self.assertEqual(['manifest'], scene.names(self.destination))
        self.origin.faults.clear()
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)


class BoundsTest(scene.UpdateScene):
    def test_an_error_without_a_compatible_version_names_the_nearest_ones(self):
        self.have_one()
        self.config(self.origin.url, version='1.5.*')
        result = self.run_tako('fetch', self.app)
        self.assertCode(1, result)
        self.assertIn('no version in 1.5.*; the nearest are: 1.1, 2.0', result.err)

    def test_an_error_after_an_empty_manifest_names_no_version(self):
        os.mkdir(self.path('empty'))
        with origin.Origin(self.path('empty')) as empty:
            empty.sign()
            self.config(empty.url)
            self.assertIn('the nearest are: none', self.run_tako('fetch', self.app).err)


class WithdrawnTest(scene.UpdateScene):
    def setUp(self):
        super().setUp()
        self.have_one()
        self.three = self.origin.publish('1.2', THREE)

    def withdraw(self, *entries):
        self.origin.faults = {self.image_url(entry): origin.status(410) for entry in entries}

    def test_the_next_older_version_replaces_a_withdrawn_one(self):
        self.withdraw(self.three)
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)

    def test_a_withdrawal_leads_a_first_fetch_to_no_version_out_of_bounds(self):
        self.withdraw(self.three, self.two)
        other = self.path('other')
        os.mkdir(other)
        app = self.config(self.origin.url, 'other.tako', version='1.1 <= v < 2.0',
                          destination=other)
        self.assertCode(75, self.run_tako('fetch', app))
        self.assertFalse(os.path.lexists(os.path.join(other, 'latest')))

    def test_withdrawals_lead_to_no_version_below_the_installed_one(self):
        self.withdraw(self.three, self.two)
        result = self.run_tako('fetch', self.app)
        self.assertEqual((0, ''), (result.code, result.out))
        self.assertInPlace(ONE)

    def test_each_withdrawal_is_reported_once(self):
        self.withdraw(self.three, self.two)
        told = self.run_tako('fetch', self.app).err
        self.assertIn(': 1.2, 1.1: withdrawn (410)\n', told)
        self.assertQuiet(self.run_tako('fetch', self.app))
        self.four = self.origin.publish('1.3', THREE[1:])
        self.withdraw(self.four, self.three, self.two)
        told = self.run_tako('fetch', self.app).err
        self.assertIn(': 1.3: withdrawn (410)\n', told)

    def test_the_state_remembers_a_limited_number_of_withdrawals(self):
        self.withdraw(self.three, self.two)
        self.assertCode(0,
                        self.run_tako('fetch', self.app, limits=dict(self.limits, WITHDRAWN_MAX=1)))
        self.assertEqual((self.two.digest,), scene.state(self.destination).withdrawn)

    def test_an_installed_image_that_is_withdrawn_stays(self):
        self.withdraw(self.three, self.two, self.one)
        self.assertEqual(0, self.run_tako('fetch', self.app).code)
        self.assertInPlace(ONE)

    def test_a_first_fetch_fails_if_all_versions_are_withdrawn(self):
        os.mkdir(self.path('fresh'))
        self.config(self.origin.url, version='1.*', destination=self.path('fresh'))
        self.withdraw(self.three, self.two, self.one)
        result = self.run_tako('fetch', self.app)
        self.assertCode(75, result)
        self.assertIn('no version left in 1.*; withdrawn: 1.2, 1.1, 1.0', result.err)
        self.assertEqual(['.state', 'manifest'], scene.names(self.path('fresh')))
        # Each withdrawal was reported before, so only the error is left.
        self.assertEqual(1, len(self.run_tako('fetch', self.app).err.splitlines()) - 1)

    def test_only_five_of_many_withdrawn_versions_are_listed(self):
        for minor in range(3, 10):
            self.origin.publish('1.{}'.format(minor), THREE[minor:])
        self.withdraw(*self.origin.entries)
        self.config(self.origin.url, version='1.2 <= v < 2.0')
        self.assertIn('withdrawn: 1.9, 1.8, 1.7, 1.6, 1.5 and 3 more\n',
                      self.run_tako('fetch', self.app).err)

    def test_a_withdrawal_leads_to_no_older_version_if_the_installed_image_is_missing(self):
        self.run_tako('fetch', self.app)
        os.unlink(self.path('destination', 'store', self.three.digest))
        self.withdraw(self.three)
        self.assertCode(75, self.run_tako('fetch', self.app))
        self.assertEqual('store/' + self.three.digest,
                         os.readlink(self.path('destination', 'latest')))

    def test_a_damaged_and_withdrawn_image_in_the_store_blocks_no_update(self):
        self.write('destination/store/' + self.three.digest, THREE[::-1], 0o444)
        self.withdraw(self.three)
        self.assertEqual(0, self.run_tako('fetch', self.app).code)
        self.assertInPlace(TWO)

    def test_404_is_not_a_withdrawal(self):
        self.origin.faults[self.image_url(self.three)] = origin.status(404)
        self.assertCode(75, self.run_tako('fetch', self.app))
        self.assertInPlace(ONE)


class DamageTest(scene.UpdateScene):
    def setUp(self):
        super().setUp()
        self.run_tako('fetch', self.app)
        self.image = self.path('destination', 'store', self.one.digest)

    def damage(self, content):
        os.chmod(self.image, 0o644)
        with open(self.image, 'wb') as stream:
            stream.write(content)
        os.chmod(self.image, 0o444)

    def test_a_damaged_image_is_reported_and_replaced_in_the_same_run(self):
        for content in (b'', ONE[:-1], ONE[::-1], ONE + b'x'):
            with self.subTest(len(content)):
                self.damage(content)
                inode = os.stat(self.image).st_ino
                result = self.run_tako('fetch', self.app)
                self.assertEqual(0, result.code, result)
                self.assertIn('is damaged', result.err)
                self.assertInPlace(ONE)
                self.assertNotEqual(inode, os.stat(self.image).st_ino)

    def test_a_damaged_image_stays_if_it_cannot_be_replaced(self):
        self.damage(ONE[:-1])
        before = scene.snapshot(self.destination)
        for name, fault in (('404', origin.status(404)), ('410', origin.status(410)),
                            ('lying', origin.serves(ONE[::-1]))):
            with self.subTest(name):
                self.origin.faults[self.image_url(self.one)] = fault
                self.assertCode(3, self.run_tako('fetch', self.app))
                self.assertEqual(before, scene.snapshot(self.destination))

    def test_a_removed_image_is_downloaded_again(self):
        os.unlink(self.image)
        result = self.run_tako('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.0 is repaired\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(ONE)


class InitTest(scene.UpdateScene):
    def test_init_with_an_intact_image_needs_neither_network_nor_lock(self):
        before = self.have_one()
        with tako.DirectoryLock(self.destination, 0, print):
            self.assertQuiet(self.run_tako('fetch', '--init', self.app))
        self.assertEqual((before, []), (scene.snapshot(self.destination), self.origin.requests))

    def test_init_with_an_intact_image_loads_no_module_for_network_or_programs(self):
        self.have_one()
        script = '\n'.join((
            'import sys',
            'sys.path.insert(0, sys.argv[1])',
            'import tako',
            'code = tako.main(sys.argv[2:])',
            'print(code, sorted({"socket", "ssl", "urllib", "subprocess"} & set(sys.modules)))'))
        # without -S, .pth files of site-packages may import anything
        said = subprocess.check_output([sys.executable, '-I', '-S', '-c', script, scene.PROJECT,
                                        'fetch', '--init', self.app])
        self.assertEqual(b'0 []\n', said)

    def test_init_does_not_accept_an_image_that_the_local_manifest_omits(self):
        self.have_one()
        older = scene.read(self.path('destination', 'manifest'))
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.write('destination/manifest', older, 0o444)
        self.origin.requests.clear()
        self.assertQuiet(self.run_tako('fetch', '--init', self.app))
        self.assertEqual(['/manifest'], self.origin.paths())

    def test_init_without_an_image_downloads_it_and_restarts_nothing(self):
        self.config(self.origin.url, more='Restart=app.service\n')
        self.assertCode(0, self.run_tako('fetch', '--init', self.app, environ={'PATH': '/nowhere'}))
        self.assertInPlace(ONE)

    def test_init_replaces_an_image_that_is_damaged_or_out_of_bounds(self):
        self.have_one()
        self.config(self.origin.url, version='1.1')
        self.assertCode(0, self.run_tako('fetch', '--init', self.app))
        self.assertInPlace(TWO)
        image = self.path('destination', 'store', self.two.digest)
        os.unlink(image)
        self.write('destination/store/' + self.two.digest, TWO[::-1])
        self.assertCode(0, self.run_tako('fetch', '--init', self.app))
        self.assertInPlace(TWO)


class OptionsTest(scene.UpdateScene):
    def test_a_dry_run_prints_the_plan_and_changes_nothing(self):
        before = self.have_one()
        self.config(self.origin.url, version='1.*', more='Restart=app.service\n')
        fake_systemd.install(self.directory, self.destination)
        result = self.run_tako('fetch', '--dry-run', self.app,
                               environ=self.environ_with_systemctl())
        told = ('{}: 1.1: would download up to {} bytes from {}, would install it, '
                'would restart app.service\n')
        self.assertEqual((0, told.format(self.app, len(TWO), self.origin.url), ''),
                         (result.code, result.out, result.err))
        self.assertEqual((before, ['/manifest']),
                         (scene.snapshot(self.destination), self.origin.paths()))
        self.config(self.origin.url, version='1.0')
        self.assertIn('1.0: is installed\n', self.run_tako('fetch', '--dry-run', self.app).out)
        self.config(self.origin.url, version='3.*')
        self.assertCode(1, self.run_tako('fetch', '--dry-run', self.app))
        self.assertEqual(before, scene.snapshot(self.destination))

    def test_a_dry_run_before_the_first_fetch_leaves_an_empty_destination(self):
        self.assertIn('1.0: would download up to {} bytes'.format(len(ONE)),
                      self.run_tako('fetch', '--dry-run', self.app).out)
        self.assertEqual([], scene.names(self.destination))

    def test_no_verify_checks_only_the_size_of_the_installed_image(self):
        self.have_one()
        self.run_tako('fetch', self.app)
        image = os.path.realpath(self.path('destination', 'latest'))
        os.chmod(image, 0o644)
        self.write(image, TWO[::-1], 0o444)
        self.assertQuiet(self.run_tako('fetch', '--no-verify', self.app))
        self.assertQuiet(self.run_tako('fetch', '--init', '--no-verify', self.app))
        self.assertEqual(TWO[::-1], scene.read(image))
        os.chmod(image, 0o644)
        self.write(image, TWO[1:], 0o444)
        self.assertEqual(0, self.run_tako('fetch', '--no-verify', self.app).code)
        self.assertInPlace(TWO)

    def test_no_verify_checks_an_image_in_the_store_before_it_installs_it(self):
        self.have_one()
        self.write('destination/store/' + self.two.digest, TWO[::-1], 0o444)
        self.assertEqual(0, self.run_tako('fetch', '--no-verify', self.app).code)
        self.assertInPlace(TWO)

    def test_no_verify_checks_a_download(self):
        self.have_one()
        self.origin.faults[self.image_url(self.two)] = origin.serves(TWO[::-1])
        self.assertCode(3, self.run_tako('fetch', '--no-verify', self.app))

    def test_quiet_prints_only_errors(self):
        self.assertQuiet(self.run_tako('fetch', '-q', self.app))
        self.assertInPlace(ONE)
        self.origin.faults['/manifest'] = origin.status(404)
        self.assertIn('status 404', self.run_tako('fetch', '-q', self.app).err)

    def test_splay_waits_for_a_random_part_of_its_seconds(self):
        with unittest.mock.patch('time.sleep') as sleep:
            with unittest.mock.patch('random.uniform', lambda low, high: (low, high)):
                self.assertEqual(0, tako.main(['fetch', '-q', '--splay', '90.5', self.app]))
        sleep.assert_called_once_with((0, 90.5))

    def test_splay_does_not_count_toward_the_timeout(self):
        clock = scene.Clock()
        with clock.patch(), unittest.mock.patch('random.uniform', lambda _, high: high):
            self.assertEqual(0, self.run_here('fetch', '--splay', '500', '--timeout', '20',
                                              self.app).code)
        self.assertEqual([500], clock.pauses)
        self.assertInPlace(ONE)

    def test_invalid_numbers_of_seconds_are_usage_errors(self):
        for option in ('--splay', '--timeout'):
            for value in ('-1', 'x', '', '1e3', 'nan', 'inf', '1 '):
                with self.subTest(value):
                    self.assertCode(2,
                                    self.run_tako('fetch', '{}={}'.format(option, value), self.app))


class RestartTest(scene.UpdateScene):
    def setUp(self):
        super().setUp()
        units = 'Restart=app.service web.service\nRestart=\nRestart=db.service\nConfirm=0\n'
        self.config(self.origin.url, version='1.*', more=units)
        self.systemctl(':')

    def systemctl(self, script):
        fake_systemd.install(self.directory, self.destination, script, [self.one.digest])

    def fetch(self, *options):
        return self.run_tako('fetch', self.app, *options, environ=self.environ_with_systemctl())

    def test_units_restart_after_latest_names_the_new_image(self):
        result = self.fetch()
        told = ': 1.0 is installed, restarted app.service web.service db.service\n'
        self.assertEqual(self.app + told, result.out)
        self.assertEqual([['app.service', 'web.service', 'db.service']],
                         fake_systemd.restarted(self.directory))
        self.assertEqual([self.one.digest], fake_systemd.restarts(self.directory))

    def test_a_fetch_without_an_update_restarts_nothing(self):
        self.fetch()
        self.assertQuiet(self.fetch())
        self.assertEqual(1, len(fake_systemd.restarts(self.directory)))

    def test_a_unit_that_does_not_start_is_exit_1(self):
        self.systemctl(fake_systemd.FAILS)
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('Job for app.service failed', result.err)
        self.assertInPlace(ONE)


class DestinationTest(scene.UpdateScene):
    def test_a_destination_that_is_missing_or_a_file_is_exit_2(self):
        for name in ('missing', 'app.tako'):
            with self.subTest(name):
                self.config(self.origin.url, destination=self.path(name))
                result = self.run_tako('fetch', self.app)
                self.assertCode(2, result)
                self.assertIn(self.app + ':2: Destination= ', result.err)
        self.assertEqual([], self.origin.requests)
        self.assertFalse(os.path.exists(self.path('missing')))

    def test_the_store_is_readable_whatever_the_umask(self):
        for umask in (0, 0o077):
            with self.subTest(oct(umask)):
                os.mkdir(self.path(str(umask)))
                self.config(self.origin.url, destination=self.path(str(umask)))
                self.assertCode(0, self.run_tako('fetch', self.app,
                                                 preexec_fn=functools.partial(os.umask, umask)))
                self.assertEqual(0o40755, os.stat(self.path(str(umask), 'store')).st_mode)

    def test_the_destination_and_its_store_may_be_links(self):
        os.mkdir(self.path('elsewhere'))
        os.symlink(self.path('elsewhere'), self.path('destination', 'store'))
        os.symlink('destination', self.path('link'))
        self.config(self.origin.url, version='1.*', destination=self.path('link'))
        self.have_one()
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)
        self.assertEqual(TWO, scene.read(self.path('elsewhere', self.two.digest)))
        self.assertEqual(['destination', self.path('elsewhere')],
                         [os.readlink(self.path(*names)) for names
                          in (('link',), ('destination', 'store'))])

    def test_a_destination_that_is_not_writable_is_exit_1(self):
        os.chmod(self.destination, 0o755)
        if os.getuid() != 0:
            os.chmod(self.destination, 0o555)
        result = self.run_tako('fetch', self.app, as_nobody=True)
        self.assertCode(1, result)
        self.assertIn('Permission denied', result.err)
        self.assertEqual([], scene.names(self.destination))

    @unittest.skipUnless(os.getuid() == 0,
                         'ONLY ROOT CAN LEAVE A LOCK OF ANOTHER USER: THAT IS NOT TESTED')
    def test_a_lock_left_by_a_killed_run_of_root_is_an_error_with_a_hint(self):
        lock = self.write('destination/.lock', '', 0o600)
        os.chown(self.destination, scene.NOBODY, scene.NOBODY)
        result = self.run_tako('fetch', self.app, as_nobody=True)
        self.assertCode(1, result)
        self.assertIn(lock + ': belongs to another user', result.err)
        self.assertIn('remove it', result.err)
        self.assertEqual(['.lock'], scene.names(self.destination))
        os.unlink(lock)
        self.assertCode(0, self.run_tako('fetch', self.app, as_nobody=True))
        self.assertInPlace(ONE)

    def test_a_latest_that_is_a_directory_is_left_alone(self):
        os.mkdir(self.path('destination', 'latest'))
        result = self.run_tako('fetch', self.app)
        self.assertCode(1, result)
        self.assertTrue(os.path.isdir(self.path('destination', 'latest')))
        self.assertNoTemporaries()

    def test_fetch_waits_for_another_run_that_holds_the_lock(self):
        with tako.DirectoryLock(self.destination, 0, print):
            process = self.start('fetch', '-v', self.app)
            self.assertIn(b'waiting for another run', process.stderr.readline())
        process.communicate()
        self.assertEqual(0, process.returncode)
        self.assertInPlace(ONE)

    def test_a_lock_that_another_run_keeps_is_exit_75(self):
        with tako.DirectoryLock(self.destination, 0, print), open(os.devnull, 'w') as quiet:
            with unittest.mock.patch.object(tako, 'LOCK_WAIT_SECONDS', 0.1):
                with unittest.mock.patch('sys.stderr', quiet):
                    self.assertEqual(75, tako.main(['fetch', self.app]))


class ManyDescriptorsTest(scene.UpdateScene):
    """The caller left so many files open that new descriptors are too high for select(2)."""

    def setUp(self):
        super().setUp()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
        except ValueError:
            self.skipTest('NOT ALLOWED TO OPEN 2048 FILES: DESCRIPTORS ABOVE 1023 ARE NOT TESTED')
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(1024):
            self.addCleanup(os.close, os.open(os.devnull, os.O_RDONLY))

    def test_fetch_with_high_descriptors(self):
        self.assertCode(0, self.run_here('fetch', self.app))
        self.assertInPlace(ONE)

    def test_store_with_high_descriptors(self):
        image = self.write('image', TWO)
        self.assertCode(0, self.run_here('store', '-k', tako.format_secret_key(origin.SEED), '-o',
                                         self.origin.directory,
                                         image, '1.1'))
        self.assertCode(0, self.run_here('fetch', self.app))
        self.assertInPlace(TWO)

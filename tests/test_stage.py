"""Section 17: fetch --stage, which downloads a version for a later fetch to install."""
import os
import unittest.mock

import fake_systemd
import origin
import scene
from scene import ONE, THREE, TWO

UNITS = 'Restart=app.service\nConfirm=0\n'


class StageTest(scene.UpdateScene):
    def setUp(self):
        super().setUp()
        fake_systemd.install(self.directory, self.destination)
        self.configure()
        self.have_one()
        self.restarts_before = fake_systemd.restarts(self.directory)

    def configure(self, version='1.*', keep='', url=None):
        self.config(url or self.origin.url, version=version, more=UNITS + keep)

    def cut_off(self):
        """Make the origin unreachable: nothing listens on the port of the config."""
        text = scene.read(self.app).decode()
        self.write('app.tako', text.replace(self.origin.url, 'http://127.0.0.1:9'))

    def run_tako(self, *arguments, **settings):
        settings.setdefault('environ', self.environ_with_systemctl())
        return super().run_tako(*arguments, **settings)

    def stage(self, *options):
        """Run fetch --stage, which must succeed. Return what it prints."""
        result = self.run_tako('fetch', '--stage', *options, self.app)
        self.assertEqual((0, ''), (result.code, result.err))
        return result.out

    def assertStaged(self, content, installed=ONE):
        """The image is in the store, another one is installed, and no unit was restarted."""
        self.assertInPlace(installed)
        self.assertIn(content, [scene.read(self.path('destination', 'store', name)) for name
                                in os.listdir(self.path('destination', 'store'))])
        self.assertEqual(self.restarts_before, fake_systemd.restarts(self.directory))
        self.assertEqual([], self.partials())

    def test_stage_downloads_and_neither_installs_nor_restarts(self):
        self.assertEqual(self.app + ': 1.1 is staged\n', self.stage())
        self.assertStaged(TWO)
        self.assertEqual(self.origin.read('manifest'),
                         scene.read(self.path('destination', 'manifest')))

    def test_the_next_fetch_installs_the_staged_image_without_a_network(self):
        self.stage()
        self.cut_off()
        result = self.run_tako('fetch', self.app)
        self.assertEqual((75, self.app + ': 1.1 is installed, restarted app.service\n'),
                         (result.code, result.out))
        self.assertInPlace(TWO)
        self.assertEqual([self.two.digest],
                         fake_systemd.restarts(self.directory)[len(self.restarts_before):])

    def test_the_next_fetch_requests_only_the_manifest(self):
        self.stage()
        self.origin.requests.clear()
        result = self.run_tako('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.1 is installed, restarted app.service\n', ''),
                         (result.code, result.out, result.err))
        self.assertEqual(['/manifest'], self.origin.paths())
        self.assertInPlace(TWO)

    def test_a_second_stage_downloads_nothing_and_prints_nothing(self):
        self.stage()
        before = scene.snapshot(self.destination)
        self.origin.requests.clear()
        self.assertEqual('', self.stage())
        self.assertEqual('', self.stage('-q'))
        self.assertEqual(before, scene.snapshot(self.destination))
        self.assertEqual(['/manifest'] * 2, self.origin.paths())

    def test_a_damaged_staged_image_is_repaired_and_not_installed(self):
        self.stage()
        path = self.path('destination', 'store', self.two.digest)
        os.chmod(path, 0o600)
        self.write('destination/store/' + self.two.digest, TWO[:-1] + b'?')
        result = self.run_tako('fetch', '--stage', self.app)
        self.assertCode(0, result)
        self.assertIn('1.1 is repaired', result.out)
        self.assertStaged(TWO)

    def test_a_newer_version_is_staged_beside_and_the_next_fetch_installs_the_newest(self):
        self.stage()
        self.origin.publish('1.2', THREE)
        self.assertEqual(self.app + ': 1.2 is staged\n', self.stage())
        self.assertStaged(THREE)
        self.cut_off()
        self.assertCode(75, self.run_tako('fetch', self.app))
        self.assertInPlace(THREE)

    def assertStagedInstalled(self, fault, *options, code=75):
        """1.1 is staged, and the download of a newer version fails: fetch installs 1.1.

        Return the entry of the newer version, and what fetch printed on stderr.
        """
        self.stage()
        newer = self.origin.publish('1.2', THREE)
        self.origin.faults['/store/' + newer.digest] = fault
        result = self.run_tako('fetch', *options, self.app)
        self.assertEqual((code, self.app + ': 1.1 is installed, restarted app.service\n'),
                         (result.code, result.out))
        self.assertInPlace(TWO)
        return newer, result.err

    def test_a_staged_image_is_installed_if_a_newer_one_cannot_be_downloaded(self):
        newer, err = self.assertStagedInstalled(origin.status(503))
        self.assertIn(newer.digest, err)
        self.origin.faults.clear()
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(THREE)

    def test_a_staged_image_is_installed_if_a_newer_download_exceeds_the_timeout(self):
        self.assertStagedInstalled(origin.holds(1), '--timeout', '1')

    def test_a_staged_image_is_installed_if_a_newer_one_is_refused(self):
        newer, err = self.assertStagedInstalled(origin.serves(THREE[:-1] + b'?'), code=3)
        self.assertIn('/store/' + newer.digest + ': has the SHA-256 ', err)
        self.assertNotIn(newer.digest, os.listdir(self.path('destination', 'store')))
        self.origin.faults.clear()
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(THREE)

    def test_a_staged_image_is_installed_if_there_is_no_space_for_a_newer_one(self):
        self.stage()
        self.origin.publish('1.2', THREE * 1000)
        statvfs = os.statvfs(self.destination)
        full = os.statvfs_result(tuple(statvfs[:3]) + (0, 0) + tuple(statvfs[5:]))
        with unittest.mock.patch('os.statvfs', return_value=full):
            result = self.run_here('fetch', self.app, environ=self.environ_with_systemctl())
        self.assertEqual((1, self.app + ': 1.1 is installed, restarted app.service\n'),
                         (result.code, result.out))
        self.assertIn(' are needed and ', result.err)
        self.assertInPlace(TWO)

    def test_no_staged_image_is_installed_if_the_manifest_is_refused(self):
        self.stage()
        self.origin.faults['/manifest'] = origin.serves(self.origin.read('manifest') + b'x')
        result = self.run_tako('fetch', self.app)
        self.assertEqual((3, ''), (result.code, result.out))
        self.assertStaged(TWO)

    def test_stage_reports_an_installed_image_that_is_damaged(self):
        path = self.path('destination', 'store', self.one.digest)
        for content, fault in ((ONE[:-1] + b'?', 'is damaged: its SHA-256 is '),
                               (ONE[:-1], 'is damaged: it has {} bytes'.format(len(ONE) - 1)),
                               (None, 'is missing')):
            with self.subTest(fault):
                if content is None:
                    os.unlink(path)
                else:
                    os.chmod(path, 0o600)
                    origin.write(path, content)
                result = self.run_tako('fetch', '--stage', self.app)
                self.assertCode(3, result)
                self.assertIn('tako: {}: {} {}'.format(self.app, path, fault), result.err)
                self.assertIn('run: tako fetch ' + self.app, result.err)
                self.assertEqual('store/' + self.one.digest,
                                 os.readlink(self.path('destination', 'latest')))
        status = self.run_tako('status', self.app)
        self.assertIn('exit code 3', status.out)
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)

    def test_keep_removes_neither_the_staged_image_nor_the_installed_one(self):
        older = self.origin.publish('0.9', b'older')
        self.configure('0.9')
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.configure('1.0')
        self.assertCode(0, self.run_tako('fetch', self.app))    # 0.9 is the previous image now
        self.restarts_before = fake_systemd.restarts(self.directory)
        self.configure(keep='Keep=1\n')
        self.assertEqual(self.app + ': 1.1 is staged\n', self.stage())
        self.assertEqual({older.digest, self.one.digest, self.two.digest},
                         set(os.listdir(self.path('destination', 'store'))))
        self.assertStaged(TWO)
        self.cut_off()
        self.assertCode(75, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)

    def test_keep_removes_images_that_were_staged_before(self):
        self.configure(keep='Keep=1\n')
        self.stage()
        self.origin.publish('1.2', THREE)
        self.assertEqual(self.app + ': 1.2 is staged, removed 1.1\n', self.stage())
        self.assertStaged(THREE)

    def test_a_first_fetch_can_be_staged(self):
        self.empty_destination()
        self.assertEqual(self.app + ': 1.1 is staged\n', self.stage())
        self.assertEqual([self.two.digest], os.listdir(self.path('destination', 'store')))
        self.assertFalse(os.path.lexists(self.path('destination', 'latest')))
        self.cut_off()
        self.assertCode(75, self.run_tako('fetch', self.app))
        self.assertInPlace(TWO)

    def test_a_restart_that_is_due_stays_due(self):
        state = scene.state(self.destination)
        scene.write_state(self.destination, state._replace(restart_due=self.one.digest))
        self.stage()
        self.assertStaged(TWO)
        self.assertEqual(self.one.digest, scene.state(self.destination).restart_due)

    def test_an_unreachable_origin_leaves_an_earlier_staged_image_where_it_is(self):
        self.stage()
        self.cut_off()
        result = self.run_tako('fetch', '--stage', self.app)
        self.assertEqual((75, ''), (result.code, result.out))
        self.assertStaged(TWO)

    def test_a_dry_run_prints_what_stage_would_do(self):
        before = scene.snapshot(self.destination)
        said = self.stage('--dry-run')
        self.assertRegex(said, 'would download up to .*, would stage it\n$')
        self.assertEqual(before, scene.snapshot(self.destination))
        self.stage()
        self.assertEqual(self.app + ': 1.1: is staged\n', self.stage('--dry-run'))

    def test_stage_and_init_exclude_each_other(self):
        before = scene.snapshot(self.destination)
        result = self.run_tako('fetch', '--stage', '--init', self.app)
        self.assertEqual((2, ''), (result.code, result.out))
        self.assertIn('--init', result.err)
        self.assertIn('--stage', result.err)
        self.assertEqual(before, scene.snapshot(self.destination))

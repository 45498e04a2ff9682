"""Section 17: restarts that are confirmed or rolled back, with a systemctl that fails or hangs."""
import errno
import os
import signal
import subprocess
import threading
import time
import unittest
import unittest.mock

import fake_systemd
import origin
import scene
import tako
from scene import ONE, THREE, TWO


class UnitsCase(scene.UpdateScene):
    """A client whose unit runs on 1.0, and an origin that offers 1.1. Pauses take no time."""

    def setUp(self):
        super().setUp()
        self.clock = scene.Clock()
        self.versions = {self.one.digest: '1.0'}
        self.configure('Restart=app.service\n')
        self.systemctl()
        self.assertCode(0, self.fetch())
        self.two = self.publish('1.1', TWO)
        self.forget()

    def configure(self, more, version='1.*'):
        self.config(self.origin.url, version=version, more=more)

    def publish(self, version, content):
        entry = self.origin.publish(version, content)
        self.versions[entry.digest] = version
        return entry

    def systemctl(self, script=':', *bad):
        """Install a systemctl that runs `script` while latest names a bad image."""
        fake_systemd.install(self.directory, self.destination, script,
                             [entry.digest for entry in bad])

    def fetch(self, *options, **settings):
        return self.run_command('fetch', self.app, *options, **settings)

    def run_command(self, *arguments, **settings):
        with self.clock.patch():
            return self.run_here(*arguments, environ=self.environ_with_systemctl(), **settings)

    def forget(self):
        """Forget earlier requests, pauses and calls of systemctl."""
        self.origin.requests.clear()
        self.clock.pauses.clear()
        self.write('called', '')

    def restarts(self):
        """Return the versions on which the units were restarted since forget()."""
        return [self.versions[digest] for digest in fake_systemd.restarts(self.directory)]

    def state(self):
        return scene.state(self.destination)

    def left(self):
        """Return the files in the destination that are neither store/ nor always there."""
        usual = {'store', 'manifest', 'latest', '.state'}
        return sorted(set(scene.names(self.destination)) - usual)

    def assertRolledBack(self, result):
        """1.1 was installed, its unit failed, and 1.0 was restored; 1.1 is rejected."""
        self.assertCode(1, result)
        self.assertIn('; rolled back to 1.0, and 1.1 is rejected\n', result.err)
        self.assertIn('see: journalctl -u app.service', result.err)
        self.assertIn('--retry-rejected', result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['1.1', '1.0'], self.restarts())
        self.assertEqual(((self.two.digest,), ''),
                         (self.state().rejected, self.state().restart_due))
        self.assertEqual([], self.left())

    def assertUndecided(self, code, text, result):
        """1.1 stays, nothing is rejected, and the restart is still due."""
        self.assertCode(code, result)
        self.assertIn(text, result.err)
        self.assertInPlace(TWO)
        self.assertEqual(((), self.two.digest), (self.state().rejected, self.state().restart_due))


FAILS, HANGS, DIES = fake_systemd.FAILS, fake_systemd.HANGS, fake_systemd.DIES
DENIED = ('case $verb in restart) '
          'echo "Failed to restart app.service: Access denied" >&2; exit 4 ;; esac')


class RollbackTest(UnitsCase):
    def test_a_unit_that_fails_to_restart_is_rolled_back(self):
        self.systemctl(FAILS, self.two)
        result = self.fetch()
        self.assertRolledBack(result)
        self.assertEqual(self.app + ': rolled back to 1.0\n', result.out)
        self.assertIn('app.service failed (exit-code, exit code 1): '
                      'systemctl restart failed (exit code 1): Job for', result.err)

    def test_a_rollback_is_no_success_in_status(self):
        os.utime(self.path('destination', '.state'), (1e9, 1e9))
        self.systemctl(FAILS, self.two)
        self.assertRolledBack(self.fetch())
        self.assertEqual(1e9, os.stat(self.path('destination', '.state')).st_mtime)

    def test_a_restart_that_times_out_rejects_no_image(self):
        self.systemctl(HANGS, self.two)
        self.assertUndecided(1, '(exit code 124): no answer within 1 seconds',
                             self.fetch(limits=dict(self.limits, SYSTEMCTL_TIMEOUT_SECONDS=1.0)))

    def test_a_unit_that_fails_after_its_restart_is_rolled_back(self):
        self.clock = scene.Clock(is_real=False)     # it asserts how long units are watched
        self.systemctl(DIES, self.two)
        result = self.fetch()
        self.assertRolledBack(result)
        # The unit is watched on the old image, too, for all of Confirm=.
        self.assertEqual([0.5] * 21, self.clock.pauses)
        self.assertIn('app.service failed (exit-code, exit code 7) after the restart', result.err)

    def test_with_confirm_0_a_unit_is_not_watched(self):
        self.configure('Restart=app.service\nConfirm=0\n')
        self.systemctl(DIES, self.two)
        self.assertCode(0, self.fetch())
        self.assertInPlace(TWO)

    def test_a_unit_that_an_operator_stops_keeps_the_new_image(self):
        self.systemctl('case $verb in show) [ $looks -lt 3 ] || stop app.service ;; esac', self.two)
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.1 is installed, restarted app.service\n'),
                         (result.code, result.out), result)
        self.assertIn('app.service: stopped by somebody after the restart', result.err)
        self.assertEqual(((), ''), (self.state().rejected, self.state().restart_due))
        self.forget()
        self.assertQuiet(self.fetch())
        self.assertEqual([], self.restarts())

    def test_a_unit_stopped_by_a_shutdown_leaves_the_restart_due(self):
        self.systemctl('case $verb in show) [ $looks -lt 3 ] || stop app.service ;; '
                       'is-system-running) echo stopping; exit 1 ;; esac', self.two)
        self.assertUndecided(1, 'app.service: stopped, while the machine shuts down', self.fetch())

    def test_a_unit_that_fills_the_disk_is_rolled_back_or_kept(self):
        """The disk is full when the rejection is written, and when the restart on 1.0 is."""
        publish, symlink = tako.NewFile.publish, os.symlink

        def fill(new, path):
            if os.path.basename(path).startswith('.state') and self.restarts():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            publish(new, path)

        def link(target, path):
            if self.restarts():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            symlink(target, path)
        for script, code, content in ((FAILS, 1, ONE), (':', 0, TWO)):
            with self.subTest(script), unittest.mock.patch.object(tako.NewFile, 'publish', fill), \
                    unittest.mock.patch.object(os, 'symlink', link):
                self.systemctl(script, self.two)
                self.assertCode(code, self.fetch('--retry-rejected'))
                self.assertInPlace(content)
                mode = os.stat(self.path('destination', '.state')).st_mode
                self.assertEqual(('', 0o100444), (self.state().restart_due, mode))
                self.assertEqual([self.two.digest] if code else [], list(self.state().rejected))
                self.forget()
                self.assertQuiet(self.fetch())
                self.assertEqual([], self.restarts())

    def test_a_due_restart_is_completed_though_the_local_manifest_does_not_verify(self):
        self.assertCode(0, self.fetch())
        self.forget()
        scene.write_state(self.destination, self.state()._replace(restart_due=self.two.digest,
                                                                  previous=self.one.digest))
        self.config(self.origin.url, public_keys=[origin.OTHER_PUBLIC_KEY],
                    more='Restart=app.service\n')
        self.systemctl(FAILS, self.two)
        result = self.fetch()
        self.assertCode(3, result)
        self.assertIn('; rolled back to {}, and {} is rejected\n'.format(
            self.one.digest, self.two.digest), result.err)
        self.assertInPlace(ONE)
        self.assertEqual((['1.1', '1.0'], ''), (self.restarts(), self.state().restart_due))

    def test_an_unreachable_systemd_is_exit_75_and_changes_nothing(self):
        self.systemctl('echo "Failed to connect to bus: No such file or directory" >&2; exit 1',
                       self.one, self.two)
        result = self.fetch()
        self.assertCode(75, result)
        self.assertIn('systemctl cannot reach systemd (exit code 1): Failed to connect', result.err)
        self.assertInPlace(ONE)
        self.systemctl()
        self.assertCode(0, self.fetch())
        self.assertEqual('', self.state().restart_due)

    def test_a_connection_to_systemd_that_breaks_leaves_the_restart_due(self):
        self.systemctl('case $verb in restart) '
                       'echo "Failed to wait for response: Connection reset by peer" >&2; '
                       'exit 1 ;; esac',
                       self.two)
        self.assertUndecided(75, 'systemctl cannot reach systemd', self.fetch())

    def test_a_user_who_may_not_restart_units_leaves_the_restart_due(self):
        self.systemctl(DENIED, self.two)
        for _ in range(2):
            result = self.fetch()
            self.assertUndecided(1, 'cannot restart app.service: systemctl restart failed', result)
            self.assertIn('polkit', result.err)

    def test_a_unit_that_the_operator_restarted_is_watched_and_not_restarted(self):
        self.clock = scene.Clock(is_real=False)     # it asserts how long units are watched
        self.systemctl(DENIED, self.two)
        self.fetch()
        self.systemctl()
        tako_environ = dict(os.environ, **self.environ_with_systemctl())
        subprocess.run(['systemctl', 'restart', '--', 'app.service'], env=tako_environ, check=True)
        self.forget()
        self.assertQuiet(self.fetch())
        self.assertEqual(([], ''), (self.restarts(), self.state().restart_due))
        self.assertEqual(10.0, sum(self.clock.pauses))      # for all of Confirm=

    def test_with_confirm_0_a_unit_whose_restart_timed_out_is_restarted_again(self):
        """Nobody knows how its start ended."""
        self.configure('Restart=app.service\nConfirm=0\n')
        self.systemctl('case $verb in restart) begin app.service; exec sleep 60 ;; esac', self.two)
        self.assertUndecided(1, 'exit code 124',
                             self.fetch(limits=dict(self.limits, SYSTEMCTL_TIMEOUT_SECONDS=1.0)))
        self.systemctl(FAILS, self.two)
        self.assertCode(1, self.fetch())
        self.assertInPlace(ONE)

    def test_a_unit_that_failed_between_two_runs_is_rolled_back(self):
        """For example, the power failed while the unit was watched, and it failed at next boot."""
        self.systemctl(DENIED, self.two)
        self.fetch()
        self.systemctl(
            'case $verb in show) begin app.service; fail app.service exit-code 1 1 ;; esac',
            self.two)
        self.forget()
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('; rolled back to 1.0, and 1.1 is rejected\n', result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['1.0'], self.restarts())

    def test_a_unit_that_fails_during_a_shutdown_leaves_the_restart_due(self):
        self.systemctl(FAILS + '; case $verb in is-system-running) echo stopping; exit 1 ;; esac',
                       self.two)
        self.assertUndecided(1, 'while the machine shuts down', self.fetch())

    def test_one_failed_unit_of_several_rolls_all_of_them_back(self):
        self.configure('Restart=db.service web.service\nRestart=app.service\n')
        self.systemctl('case $verb in restart) '
                       'for unit; do begin $unit; done; fail app.service exit-code 1 1; '
                       'echo "Job for app.service failed because of it." >&2; exit 1 ;; esac',
                       self.two)
        result = self.fetch()
        self.assertRolledBack(result)
        self.assertNotIn('db.service is', result.err)
        self.assertEqual([['db.service', 'web.service', 'app.service']] * 2,
                         fake_systemd.restarted(self.directory))

    def test_a_version_between_the_rejected_and_the_old_one_is_installed_next(self):
        three = self.publish('1.2', THREE)
        self.systemctl(FAILS, three)
        self.assertCode(1, self.fetch())
        self.assertInPlace(ONE)
        self.assertCode(0, self.fetch())
        self.assertInPlace(TWO)
        self.assertEqual(['1.2', '1.0', '1.1'], self.restarts())


class RejectedTest(UnitsCase):
    """Version 1.1 is rejected, and 1.0 is installed."""

    def setUp(self):
        super().setUp()
        self.systemctl(FAILS, self.two)
        self.assertRolledBack(self.fetch())
        self.forget()

    def test_a_rejected_version_is_not_retried_and_not_reported(self):
        for options in ((), ('--init',), ()):
            self.assertQuiet(self.fetch(*options))
        self.assertInPlace(ONE)
        self.assertEqual(([], {'/manifest'}), (self.restarts(), set(self.origin.paths())))

    def test_a_version_newer_than_the_rejected_one_is_installed(self):
        self.publish('1.2', THREE)
        self.assertCode(0, self.fetch())
        self.assertInPlace(THREE)
        self.assertEqual(['1.2'], self.restarts())

    def test_a_newer_version_that_fails_is_rejected_too(self):
        three = self.publish('1.2', THREE)
        self.systemctl(FAILS, self.two, three)
        self.assertCode(1, self.fetch())
        self.assertInPlace(ONE)
        self.assertEqual(['1.2', '1.0'], self.restarts())
        self.assertEqual({self.two.digest, three.digest}, set(self.state().rejected))
        self.assertQuiet(self.fetch())

    def test_retry_rejected_installs_the_rejected_version(self):
        self.systemctl()
        self.assertCode(0, self.fetch('--retry-rejected'))
        self.assertInPlace(TWO)
        self.assertEqual(['1.1'], self.restarts())
        self.assertEqual((), self.state().rejected)
        self.assertEqual(['/manifest'], self.origin.paths())        # the image is still in store/

    def test_retry_rejected_rolls_back_if_the_unit_still_fails(self):
        self.assertRolledBack(self.fetch('--retry-rejected'))

    def test_a_rejected_version_is_retried_after_the_state_is_lost(self):
        os.unlink(self.path('destination', '.state'))
        self.assertRolledBack(self.fetch())

    def test_bounds_with_only_rejected_versions_are_an_error(self):
        self.config(self.origin.url, version='1.1', more='Restart=app.service\n')
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('all versions in 1.1 were rejected', result.err)
        self.assertInPlace(ONE)


class NoEarlierImageTest(UnitsCase):
    def first(self):
        """Empty the destination, and let 1.0 alone be in bounds."""
        self.empty_destination()
        self.config(self.origin.url, version='1.0', more='Restart=app.service\n')

    def test_a_failed_first_image_stays_and_is_restarted_by_each_run(self):
        self.first()
        self.systemctl(FAILS, self.one)
        for _ in range(2):
            result = self.fetch()
            self.assertCode(1, result)
            self.assertIn('app.service failed', result.err)
            self.assertIn('there is no earlier image to roll back to\n', result.err)
            self.assertIn('journalctl -u app.service', result.err)
            self.assertInPlace(ONE)
        self.assertEqual((['1.0', '1.0'], ()), (self.restarts(), self.state().rejected))
        self.systemctl()
        result = self.fetch()
        self.assertEqual((0, self.app + ': restarted app.service\n', ''),
                         (result.code, result.out, result.err))
        self.assertQuiet(self.fetch())

    def test_a_newer_image_replaces_a_failed_first_one(self):
        self.first()
        self.systemctl(FAILS, self.one)
        self.fetch()
        self.configure('Restart=app.service\n')
        self.forget()
        self.assertEqual(1, self.fetch().code)              # of the restart that was due on 1.0
        self.assertInPlace(TWO)
        self.assertEqual(['1.0', '1.1'], self.restarts())
        self.assertQuiet(self.fetch())

    def test_units_that_fail_on_both_images_reject_none(self):
        self.systemctl(FAILS, self.one, self.two)
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('; rolled back to 1.0, but app.service failed', result.err)
        self.assertIn('; 1.1 is tried again once the units run on 1.0\n', result.err)
        self.assertInPlace(ONE)
        self.assertEqual(((), self.one.digest), (self.state().rejected, self.state().restart_due))
        self.forget()
        self.assertCode(1, self.fetch())
        self.assertEqual(['1.0'], self.restarts())          # 1.1 is postponed
        self.assertInPlace(ONE)
        self.systemctl()
        self.forget()
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(TWO)
        self.assertEqual(['1.0', '1.1'], self.restarts())

    def test_a_version_newer_than_a_postponed_one_is_installed(self):
        self.systemctl(FAILS, self.one, self.two)
        self.fetch()
        self.publish('1.2', THREE)
        self.assertCode(1, self.fetch())
        self.assertInPlace(THREE)
        self.assertQuiet(self.fetch())

    def test_an_interrupted_rollback_to_an_image_that_fails_rejects_none(self):
        """The machine is at fault, so 1.1 is postponed, as in a run without an interruption."""
        self.systemctl(FAILS, self.one, self.two)
        tako.Destination(self.destination).point_latest(self.one.digest)
        scene.write_state(self.destination, self.state()._replace(
            previous=self.one.digest, restart_due=self.one.digest, rejected=(self.two.digest,)))
        self.assertCode(1, self.fetch())
        self.assertEqual(((), (self.two.digest,)), (self.state().rejected, self.state().postponed))
        self.systemctl()
        self.assertCode(0, self.fetch())
        self.assertInPlace(TWO)

    def test_a_switch_interrupted_before_latest_moved_rolls_back_to_the_confirmed_image(self):
        self.systemctl(DENIED, self.two)
        self.fetch()
        three = self.publish('1.2', THREE)
        scene.write_state(self.destination,
                          self.state()._replace(restart_due=three.digest, invocations=()))
        self.systemctl(FAILS, self.two, three)
        self.assertCode(1, self.fetch())
        self.assertInPlace(ONE)

    def test_an_unconfirmed_image_is_no_target_of_a_rollback(self):
        self.systemctl(DENIED, self.two)
        self.fetch()
        three = self.publish('1.2', THREE)
        self.systemctl(DENIED + '; ' + 'case $image in *{}) {} ;; esac'.format(three.digest, FAILS),
                       self.two, three)
        self.systemctl('case $image in *{}) {} ;; *) {} ;; esac'.format(three.digest, FAILS,
                                                                        DENIED), self.two, three)
        self.assertCode(1, self.fetch())
        self.assertInPlace(ONE)
        self.assertEqual((three.digest,), self.state().rejected)

    def test_a_rollback_needs_an_intact_old_image(self):
        old = self.path('destination', 'store', self.one.digest)
        self.systemctl(FAILS, self.two)
        for spoil, fault in ((lambda: self.write('destination/store/' + self.one.digest, ONE[::-1]),
                              'is damaged: its SHA'),
                             (lambda: os.unlink(old), 'is missing')):
            spoil()
            result = self.fetch()
            self.assertCode(1, result)
            self.assertIn('there is no earlier image to roll back to: {} {}'.format(old, fault),
                          result.err)
            self.assertInPlace(TWO)
        self.assertEqual((['1.1', '1.1'], ()), (self.restarts(), self.state().rejected))


class RepairTest(UnitsCase):
    def test_a_repair_restarts_nothing(self):
        """Units restart only if latest names another image."""
        self.config(self.origin.url, version='1.0', more='Restart=app.service\n')
        self.write('destination/store/' + self.one.digest, ONE[::-1], 0o444)
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.0 is repaired\n'), (result.code, result.out), result)
        self.assertInPlace(ONE)
        self.assertEqual([], self.restarts())


class InitTest(UnitsCase):
    def test_init_neither_does_nor_clears_a_due_restart(self):
        self.systemctl(FAILS, self.one, self.two)
        self.fetch()
        self.assertEqual(self.one.digest, self.state().restart_due)
        self.systemctl()
        self.forget()
        self.assertQuiet(self.fetch('--init'))
        self.assertEqual(([], self.one.digest), (self.restarts(), self.state().restart_due))
        self.assertCode(0, self.fetch())
        self.assertEqual((['1.0', '1.1'], ''), (self.restarts(), self.state().restart_due))

    def test_a_due_restart_stays_due_for_the_image_that_init_installs(self):
        self.systemctl(FAILS, self.one, self.two)
        self.fetch()
        self.systemctl()
        self.forget()
        self.publish('1.2', THREE)
        self.config(self.origin.url, version='1.2', more='Restart=app.service\n')
        self.assertCode(0, self.fetch('--init'))
        self.assertInPlace(THREE)
        self.assertEqual([], self.restarts())
        self.assertCode(0, self.fetch())
        self.assertEqual(['1.2'], self.restarts())

    def test_init_accepts_the_earlier_image_if_all_in_bounds_are_rejected(self):
        """So a unit that runs fetch --init before it starts can start during a rollback."""
        self.config(self.origin.url, version='1.1', more='Restart=app.service\n')
        self.systemctl(FAILS, self.two)
        self.assertRolledBack(self.fetch())
        self.forget()
        with tako.DirectoryLock(self.destination, 0, print):
            self.assertQuiet(self.fetch('--init'))
        self.assertEqual([], self.origin.requests)
        scene.write_state(self.destination,
                          self.state()._replace(rejected=(), restart_due=self.one.digest))
        with tako.DirectoryLock(self.destination, 0, print):
            self.assertQuiet(self.fetch('--init'))
        scene.write_state(self.destination,
                          self.state()._replace(rejected=(self.two.digest,), restart_due=''))
        self.write('destination/store/' + self.one.digest + '.new', ONE[::-1])
        os.replace(self.path('destination', 'store', self.one.digest + '.new'),
                   self.path('destination', 'store', self.one.digest))
        self.assertCode(1, self.fetch('--init'))


class WithoutSystemdTest(UnitsCase):
    def test_a_missing_systemctl_is_an_error_before_the_download(self):
        result = self.run_here('fetch', self.app, environ={'PATH': self.path('served')})
        self.assertCode(1, result)
        self.assertIn('cannot run systemctl', result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['/manifest'], self.origin.paths())

    def test_a_missing_systemctl_is_no_error_if_nothing_would_restart(self):
        self.config(self.origin.url, version='1.0', more='Restart=app.service\n')
        self.assertQuiet(self.run_here('fetch', self.app, environ={'PATH': self.path('served')}))


class UserManagerTest(UnitsCase):
    """Manager=user: the units of the user that runs Tako, who is not root."""

    def setUp(self):
        super().setUp()
        self.configure('Restart=app.service\nManager=user\nConfirm=0\n')
        self.user = scene.NOBODY if os.getuid() == 0 else os.getuid()
        for folder in ('destination', 'systemd'):
            self.give(self.path(folder))
        self.forget()
        self.give(self.path('called'))

    def give(self, path):
        """Make the user the owner of a file, or of a directory and what is in it."""
        os.lchown(path, self.user, -1)
        for name in os.listdir(path) if os.path.isdir(path) else ():
            if not os.path.islink(os.path.join(path, name)):
                self.give(os.path.join(path, name))

    def fetch_as_user(self, **environ):
        return self.run_tako('fetch', self.app, as_nobody=True,
                             environ=dict(self.environ_with_systemctl(), **environ))

    def calls(self):
        """Return the arguments of each call of systemctl since forget()."""
        with open(self.path('called')) as stream:
            return [line.split() for line in stream]

    def test_each_call_of_systemctl_asks_the_manager_of_the_user(self):
        self.systemctl(fake_systemd.FAILS, self.two)
        result = self.fetch_as_user()
        self.assertCode(1, result)
        self.assertEqual(['1.1', '1.0'], self.restarts())
        self.assertIn('see: journalctl --user -u app.service', result.err)
        self.assertInPlace(ONE)
        calls = self.calls()
        self.assertIn('restart', [call[0] for call in calls])
        for call in calls:
            self.assertEqual(['--no-ask-password', '--user'], call[1:3])

    def runtime_directory(self, **environ):
        """Fetch 1.1 with these variables. Return the XDG_RUNTIME_DIR that systemctl has."""
        self.give(self.write('runtime', ''))
        self.systemctl('echo "$XDG_RUNTIME_DIR" > {}'.format(self.path('runtime')), self.two)
        self.assertCode(0, self.fetch_as_user(**environ))
        self.assertInPlace(TWO)
        return scene.read(self.path('runtime')).decode().strip()

    def test_systemctl_finds_the_manager_where_cron_does_not_say_where_it_is(self):
        self.assertEqual('/run/user/{}'.format(self.user), self.runtime_directory())

    def test_systemctl_finds_the_manager_where_su_left_the_directory_of_another_user(self):
        os.makedirs(self.path('other', 'systemd'))
        self.write('other/systemd/private', '')
        os.chmod(self.path('other'), 0 if os.getuid() else 0o700)
        self.assertEqual('/run/user/{}'.format(self.user),
                         self.runtime_directory(XDG_RUNTIME_DIR=self.path('other')))
        os.chmod(self.path('other'), 0o700)

    def test_systemctl_gets_the_directory_of_the_environment_if_a_manager_is_there(self):
        os.makedirs(self.path('elsewhere', 'systemd'))
        self.write('elsewhere/systemd/private', '')
        self.assertEqual(self.path('elsewhere'),
                         self.runtime_directory(XDG_RUNTIME_DIR=self.path('elsewhere')))

    def test_an_unreachable_manager_of_the_user_hints_at_lingering(self):
        self.systemctl('echo Failed to connect to bus: No medium found >&2; exit 1', self.one)
        result = self.run_tako('fetch', self.app, as_nobody=True,
                               limits={'SYSTEMCTL_PAUSE_SECONDS': 0.001},
                               environ=self.environ_with_systemctl())
        self.assertCode(75, result)
        self.assertIn('systemctl --user cannot reach systemd', result.err)
        self.assertIn('run as root: loginctl enable-linger {}\n'.format(self.user), result.err)
        self.assertInPlace(ONE)

    def test_a_user_whose_unit_the_system_does_not_know_is_told_of_manager_user(self):
        self.configure('Restart=mine.service\n')
        with open(self.path('systemd', 'mine.service'), 'w') as stream:
            stream.write('load=not-found\n')
        result = self.fetch_as_user()
        self.assertCode(2, result)
        self.assertIn('Restart= mine.service is unknown to systemd', result.err)
        self.assertIn('; for a unit of this user, add Manager=user\n', result.err)
        self.configure('Restart=mine.service\nManager=user\n')
        result = self.fetch_as_user()
        self.assertCode(2, result)
        self.assertIn('or run: systemctl --user daemon-reload\n', result.err)
        self.assertInPlace(ONE)

    @unittest.skipUnless(os.getuid() == 0, 'ONLY ROOT IS REFUSED: THAT IS NOT TESTED')
    def test_root_cannot_restart_the_units_of_a_user(self):
        before = scene.snapshot(self.destination)
        for command in (['fetch'], ['fetch', '--dry-run'], ['rollback']):
            result = self.run_tako(*command, self.app, environ=self.environ_with_systemctl())
            self.assertCode(2, result)
            self.assertIn(self.app + ': Manager=user is set, but root runs Tako', result.err)
            self.assertIn('run Tako as the user whose units these are', result.err)
        self.assertEqual([], self.origin.requests)
        self.assertEqual([], self.calls())
        self.assertEqual(before, scene.snapshot(self.destination))
        self.assertCode(0, self.run_tako('status', self.app))

    def test_check_asks_the_manager_of_the_user(self):
        self.run_command('check', self.app)
        self.assertEqual([['show', '--no-ask-password', '--user']],
                         [call[:3] for call in self.calls()])

    def test_the_system_is_asked_without_this_line_or_with_system(self):
        for more in ('', 'Manager=system\n'):
            self.configure('Restart=app.service\n' + more)
            self.forget()
            self.publish('1.3' if more else '1.2', more.encode() + b'image')
            self.assertCode(0, self.fetch())
            self.assertTrue(self.calls())
            self.assertEqual([], [call for call in self.calls() if '--user' in call])


class InterruptedTest(UnitsCase):
    """A signal ends fetch while systemctl restarts the unit; the origin is down at the next run."""

    def end(self, number):
        os.mkfifo(self.path('begun'))
        self.systemctl('case $verb in restart) echo $$ > {}; exec sleep 60 ;; esac'.format(
            self.path('begun')), self.two)
        process = self.start('fetch', self.app, environ=self.environ_with_systemctl())
        with open(self.path('begun')) as begun:             # waits until systemctl opens the pipe
            child = int(begun.read())
        process.send_signal(number)
        process.communicate()
        try:
            os.kill(child, signal.SIGKILL)                  # systemctl may outlive its parent
        except ProcessLookupError:
            pass
        self.systemctl()
        self.forget()
        return process.returncode

    def assertRestartsWithoutOrigin(self):
        self.origin.faults['*'] = origin.status(503)
        self.assertCode(75, self.fetch())
        self.assertEqual((['1.1'], ''), (self.restarts(), self.state().restart_due))
        self.assertCode(75, self.fetch())
        self.assertEqual(['1.1'], self.restarts())
        self.assertInPlace(TWO)

    def test_a_restart_that_sigkill_interrupted_is_done_without_the_origin(self):
        self.assertEqual(-signal.SIGKILL, self.end(signal.SIGKILL))
        self.assertRestartsWithoutOrigin()

    def test_a_restart_that_sigterm_interrupted_is_done_without_the_origin(self):
        self.assertEqual(143, self.end(signal.SIGTERM))
        self.assertRestartsWithoutOrigin()

    def test_a_due_restart_that_fails_is_rolled_back_without_the_origin(self):
        self.end(signal.SIGKILL)
        self.systemctl(FAILS, self.two)
        self.origin.faults['*'] = origin.status(503)
        # exit code 1, although the origin is down
        self.assertRolledBack(self.fetch())

    def test_a_due_restart_of_units_removed_from_the_config_is_dropped(self):
        self.end(signal.SIGKILL)
        self.configure('')
        self.assertQuiet(self.fetch())
        self.assertEqual(([], ''), (self.restarts(), self.state().restart_due))

    def test_a_restart_noted_for_another_image_than_latest_is_not_due(self):
        """fetch was interrupted before it moved latest, so no restart is due."""
        scene.write_state(self.destination, self.state()._replace(restart_due=self.two.digest))
        self.origin.faults['*'] = origin.status(503)
        self.assertCode(75, self.fetch())
        self.assertEqual([], self.restarts())

    def test_a_dry_run_prints_the_due_restart_and_leaves_it_due(self):
        self.end(signal.SIGKILL)
        for _ in range(2):
            result = self.fetch('--dry-run')
            self.assertEqual((self.app + ': 1.1: would restart app.service\n', []),
                             (result.out, self.restarts()))

    def test_a_due_restart_is_lost_with_the_state(self):
        self.end(signal.SIGKILL)
        os.unlink(self.path('destination', '.state'))
        self.assertQuiet(self.fetch())
        self.assertEqual([], self.restarts())

    def test_retry_rejected_after_an_interrupted_rollback_restarts_the_units(self):
        self.end(signal.SIGKILL)
        scene.write_state(self.destination, self.state()._replace(
            previous=self.one.digest, restart_due=self.one.digest, rejected=(self.two.digest,)))
        self.assertCode(0, self.fetch('--retry-rejected'))
        self.assertInPlace(TWO)
        self.assertEqual('1.1', self.restarts()[-1])


class LockTest(UnitsCase):
    def test_a_systemctl_that_outlives_a_kill_does_not_keep_the_lock(self):
        os.mkfifo(self.path('begun'))
        self.systemctl('case $verb in restart) echo $$ > {}; exec sleep 60 ;; esac'.format(
            self.path('begun')), self.two)
        process = self.start('fetch', self.app, environ=self.environ_with_systemctl(),
                             stdin=subprocess.DEVNULL)
        with open(self.path('begun')) as begun:
            child = int(begun.read())
        process.kill()
        process.communicate()
        self.systemctl()
        began = time.monotonic()
        self.assertCode(0, self.fetch())
        self.assertLess(time.monotonic() - began, tako.LOCK_WAIT_SECONDS / 2)
        os.kill(child, signal.SIGKILL)                      # raises if systemctl had ended


class RollbackCase(UnitsCase):
    """The store has 1.0, 1.1 and 1.2; 1.2 is installed, and the origin is down."""

    def setUp(self):
        super().setUp()
        self.assertCode(0, self.fetch())
        self.three = self.publish('1.2', THREE)
        self.assertCode(0, self.fetch())
        self.origin.faults['*'] = origin.status(503)
        self.forget()

    def rollback(self, *options):
        return self.run_command('rollback', self.app, *options)

    def rejected(self):
        return [self.versions[digest] for digest in self.state().rejected]


class RollbackCommandTest(RollbackCase):
    def test_rollback_installs_the_previous_image_without_the_origin(self):
        result = self.rollback()
        told = ': rolled back to 1.1, rejected 1.2, restarted app.service\n'
        self.assertEqual((0, self.app + told, ''), (result.code, result.out, result.err))
        self.assertInPlace(TWO)
        self.assertEqual((['1.1'], ['1.2'], []),
                         (self.restarts(), self.rejected(), self.origin.requests))
        self.origin.faults.clear()
        self.assertQuiet(self.fetch())
        four = self.publish('1.3', b'four')
        self.assertCode(0, self.fetch())                    # a later version is installed as usual
        self.assertEqual(four.digest, tako.Destination(self.destination).latest())

    def test_a_second_rollback_goes_further_back(self):
        self.assertCode(0, self.rollback())
        self.assertCode(0, self.rollback())
        self.assertInPlace(ONE)
        self.assertEqual({'1.1', '1.2'}, set(self.rejected()))
        result = self.rollback()
        self.assertCode(1, result)
        self.assertIn('the store has no intact earlier image in 1.*', result.err)
        self.assertInPlace(ONE)

    def test_rollback_to_a_version(self):
        self.assertCode(0, self.rollback('--to', '1.0.0'))
        self.assertInPlace(ONE)
        self.assertEqual({'1.1', '1.2'}, set(self.rejected()))
        # to a newer version than the installed one
        self.assertCode(0, self.rollback('--to', '1.1'))
        self.assertInPlace(TWO)
        self.assertEqual(['1.2'], self.rejected())

    def test_rollback_to_the_installed_version_does_its_due_restart(self):
        scene.write_state(self.destination, self.state()._replace(restart_due=self.two.digest,
                                                                  rejected=(self.three.digest,)))
        self.assertCode(0, self.rollback('--to', '1.2'))
        self.assertEqual((['1.2'], [], ''),
                         (self.restarts(), self.rejected(), self.state().restart_due))

    def test_directories_with_the_names_of_temporary_files_are_removed(self):
        for name in ('.latest.back', '.state.back', '.state.done'):
            os.mkdir(self.path('destination', name))
        self.origin.faults.clear()
        self.publish('1.3', b'four')
        self.assertCode(0, self.fetch())
        self.assertEqual([], self.left())

    def test_rollback_to_an_impossible_version_is_a_usage_error(self):
        os.unlink(self.path('destination', 'store', self.two.digest))
        self.configure('Restart=app.service\n', version='1.1 <= v < 2')
        for version, fault in (('9', 'is not in the manifest'), ('1.1', 'is missing'),
                               ('1.0', 'is not in 1.1 <= v < 2'),
                               ('*', 'version')):
            result = self.rollback('--to', version)
            self.assertCode(2, result)
            self.assertIn(fault, result.err)
        self.assertInPlace(THREE)
        self.assertEqual([], self.restarts())

    def test_rollback_without_a_state_installs_the_newest_intact_image_in_bounds(self):
        os.unlink(self.path('destination', '.state'))
        old = self.path('destination', 'store', self.two.digest)
        os.chmod(old, 0o644)
        self.write('destination/store/' + self.two.digest, TWO[::-1])
        self.assertCode(0, self.rollback())
        self.assertInPlace(ONE)
        self.assertEqual({'1.1', '1.2'}, set(self.rejected()))

    def test_retry_rejected_undoes_a_rollback(self):
        self.assertCode(0, self.rollback())
        self.origin.faults.clear()
        self.assertCode(0, self.fetch('--retry-rejected'))
        self.assertInPlace(THREE)

    def test_a_unit_that_fails_after_a_rollback_leaves_the_restart_due(self):
        self.systemctl(FAILS, self.two)
        result = self.rollback()
        self.assertCode(1, result)
        self.assertIn('there is no earlier image to roll back to', result.err)
        self.assertInPlace(TWO)
        self.assertEqual(self.two.digest, self.state().restart_due)

    def test_rollback_checks_the_units_first(self):
        self.systemctl('case $verb in show) set_unit app.service load=masked ;; esac', self.three)
        result = self.rollback()
        self.assertCode(2, result)
        self.assertIn(self.app + ':5: Restart= app.service is masked', result.err)
        self.assertInPlace(THREE)
        self.assertEqual([], self.rejected())

    def test_rollback_without_units(self):
        self.configure('')
        self.assertCode(0, self.rollback())
        self.assertInPlace(TWO)

    def test_rollback_in_an_empty_destination_fails(self):
        self.empty_destination()
        self.assertCode(1, self.rollback())


class OfflineTest(RollbackCase):
    """The origin is down, and the store has the image that the config asks for."""

    def test_an_image_in_the_store_is_installed_without_the_origin_if_bounds_moved(self):
        self.configure('Restart=app.service\n', version='1.1')
        result = self.fetch()
        self.assertCode(75, result)
        self.assertEqual(self.app + ': 1.1 is installed, restarted app.service\n', result.out)
        self.assertInPlace(TWO)
        self.assertEqual(['1.1'], self.restarts())
        self.assertEqual('', self.fetch().out)

    def test_init_without_the_origin_installs_an_image_of_the_store(self):
        self.configure('Restart=app.service\n', version='1.1')
        os.utime(self.path('destination', '.state'), (1e9, 1e9))
        result = self.fetch('--init')
        self.assertEqual((0, self.app + ': 1.1 is installed\n'), (result.code, result.out), result)
        self.assertInPlace(TWO)
        self.assertEqual([], self.restarts())
        # No origin answered, so last_success stays as it was.
        self.assertEqual(1e9, os.stat(self.path('destination', '.state')).st_mtime)

    def test_fetch_without_the_origin_or_an_image_in_bounds_is_exit_75(self):
        self.configure('Restart=app.service\n', version='2.*')
        for options in ((), ('--init',)):
            self.assertCode(75, self.fetch(*options))
        self.assertInPlace(THREE)

    def test_a_newer_image_in_the_store_is_installed_without_the_origin(self):
        tako.Destination(self.destination).point_latest(self.two.digest)
        self.assertCode(75, self.fetch())
        self.assertInPlace(THREE)
        self.assertEqual(['1.2'], self.restarts())

    def test_a_unit_that_fails_without_the_origin_is_rolled_back(self):
        self.configure('Restart=app.service\n', version='1.1')
        self.systemctl(FAILS, self.two)
        self.assertCode(1, self.fetch())
        self.assertInPlace(THREE)
        self.assertEqual(['1.1'], self.rejected())


class CheckTest(UnitsCase):
    """fetch checks the units of Restart= before it downloads the image."""

    def assertConfigError(self, text):
        for options in ((), ('--dry-run',)):
            result = self.fetch(*options)
            self.assertCode(2, result)
            self.assertIn(self.app + ':5: Restart= ' + text, result.err)
        self.assertEqual(({'/manifest'}, []), (set(self.origin.paths()), self.restarts()))
        self.assertEqual((), self.state().rejected)
        self.assertInPlace(ONE)

    def test_a_masked_or_unknown_unit_is_a_config_error(self):
        for load, text in (('masked', 'app.service is masked'),
                           ('not-found', 'app.service is unknown'),
                           ('bad-setting',
                            'app.service: systemd cannot load its unit file (bad-setting)')):
            self.systemctl('case $verb in show) set_unit app.service load={} ;; esac'.format(load),
                           self.one)
            self.assertConfigError(text)
        self.systemctl()
        fake_systemd.reboot(self.directory)
        self.assertCode(0, self.fetch())

    def test_a_socket_unit_is_a_config_error(self):
        self.configure('Restart=app.socket\n')
        self.assertConfigError('app.socket: a socket cannot be restarted')

    def test_a_template_without_an_instance_is_a_config_error(self):
        for name in ('app@.service', 'app@'):
            self.configure('Restart=' + name + '\n')
            result = self.fetch()
            self.assertCode(2, result)
            self.assertIn('is a template without an instance', result.err)

    def test_init_does_not_check_units(self):
        self.configure('Restart=app.socket\n', version='1.1')
        self.assertCode(0, self.fetch('--init'))
        self.assertInPlace(TWO)

    def test_a_unit_unknown_before_the_first_image_is_restarted_later(self):
        self.empty_destination()
        self.systemctl('case $verb in show) set_unit app.service load=not-found ;; esac', self.one)
        self.configure('Restart=app.service\n', version='1.0')
        fake_systemd.install(self.directory, self.destination,
                             'case $verb in show) set_unit app.service load=not-found ;; esac',
                             [self.one.digest])
        path = self.path('systemd', 'app.service')
        with open(path, 'w') as stream:
            stream.write("load='not-found' names='app.service'\n")
        self.assertIn('could not restart units unknown to systemd: app.service',
                      self.fetch('--dry-run').out)
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.0 is installed\n'), (result.code, result.out), result)
        self.assertIn('Restart= app.service: unknown to systemd', result.err)
        self.assertEqual([], self.restarts())
        self.assertEqual(self.one.digest, self.state().restart_due)
        result = self.fetch()
        self.assertCode(2, result)
        self.assertEqual(1, result.err.count('is unknown to systemd'), result)
        self.systemctl()
        os.unlink(path)
        result = self.fetch()
        self.assertEqual((0, self.app + ': restarted app.service\n'), (result.code, result.out),
                         result)


class TogetherTest(UnitsCase):
    """One run with several configs."""

    def setUp(self):
        super().setUp()
        self.configure('Restart=app.service\nConfirm=1\n')
        self.configs, self.roots = [self.app], [self.destination]
        for number in (2, 3):
            self.roots.append(self.path('destination-{}'.format(number)))
            os.mkdir(self.roots[-1])
            self.configs.append(self.config(self.origin.url, 'app-{}.tako'.format(number),
                                            version='1.*',
                                            destination=self.roots[-1],
                                            more='Restart=app-{}.service\nConfirm=1\n'.format(
                                                number)))

    def run_all(self):
        # without the Clock, as threads share the time
        return self.run_here('fetch', *self.configs, environ=self.environ_with_systemctl(),
                             limits=dict(self.limits, WATCH_POLL_SECONDS=0.1))

    def test_units_of_several_configs_are_watched_at_the_same_time(self):
        result = self.run_all()
        self.assertEqual(0, result.code, result)
        for root in self.roots:
            self.assertInPlace(TWO, root)
            self.assertEqual('', scene.state(root).restart_due)
        self.assertEqual(3, len(result.out.splitlines()))
        verbs = [line.split()[0] for line in scene.read(self.path('called')).decode().splitlines()
                 if line.startswith('restart ') or ' app.service ' in line]
        last_restart = len(verbs) - verbs[::-1].index('restart')
        # The unit of the first config was still watched then.
        self.assertGreater(verbs[last_restart:].count('show'), 1)

    def test_a_failed_unit_of_one_config_affects_no_other(self):
        self.systemctl('case "$verb $*" in "show "*app-2*) '
                       '[ $looks -lt 4 ] || fail app-2.service exit-code 1 1 ;; esac', self.two)
        result = self.run_all()
        self.assertEqual(1, result.code, result)
        self.assertIn('app-2.service failed', result.err)
        self.assertInPlace(TWO)
        self.assertInPlace(TWO, self.roots[2])

    def test_without_a_thread_the_units_are_watched_at_the_end(self):
        """The stack of a thread may not fit into `ulimit -v`."""
        class Thread(threading.Thread):
            def start(self):                            # the origin starts threads, too
                if threading.current_thread() is threading.main_thread():
                    raise RuntimeError("can't start new thread")
                super().start()

        with unittest.mock.patch.object(threading, 'Thread', Thread):
            result = self.run_all()
        self.assertCode(0, result)
        self.assertEqual(3, len(result.out.splitlines()), result)

    def test_two_configs_with_one_destination_are_refused(self):
        self.configs[1] = self.config(self.origin.url, 'app-2.tako',
                                      destination=self.destination + '/.')
        result = self.run_all()
        self.assertEqual(2, result.code, result)
        self.assertIn('app-2.tako:2: Destination= is the directory of ' + self.app, result.err)

    def test_a_signal_during_the_watch_releases_locks_and_reports_what_changed(self):
        """fetch releases the locks and prints what it installed."""
        for path in self.configs:
            text = scene.read(path).decode().replace('Confirm=1\n', 'Confirm=60\n')
            self.write(os.path.basename(path), text)
        process = self.start('fetch', *self.configs, environ=self.environ_with_systemctl())
        while len(fake_systemd.restarts(self.directory)) < 3:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        self.assertEqual((143, b''), (process.returncode, err))
        self.assertEqual(3, out.count(b'1.1 is installed'), out)
        self.assertEqual([], [name for root in self.roots for name in os.listdir(root)
                              if name == '.lock'])
        self.assertEqual(self.two.digest, self.state().restart_due)

    def test_two_configs_with_one_unit_are_not_watched_at_the_same_time(self):
        """If the unit failed, fetch could not tell which image is the cause."""
        self.configs[1] = self.config(self.origin.url, 'app-2.tako', version='1.*',
                                      destination=self.roots[1],
                                      more='Restart=app.service\nConfirm=1\n')
        self.systemctl('case $verb in restart) '
                       'grep restart_due {}/.state >> ../pending ;; esac'.format(self.destination),
                       self.two)
        result = self.run_all()
        self.assertEqual(0, result.code, result)
        self.assertEqual([['app.service'], ['app.service'], ['app-3.service']], sorted(
            fake_systemd.restarted(self.directory), reverse=True))
        due = scene.read(self.path('pending')).decode().splitlines()
        self.assertEqual(['restart_due=' + self.two.digest], due[:1])
        self.assertLess(len(due), 3)        # by the second restart, the first image was confirmed

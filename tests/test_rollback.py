"""Restarts, confirmed or rolled back: fetch, with a systemctl that fails, hangs, or lets a unit die later."""
import errno
import os
import signal
import subprocess
import time
import unittest.mock

import origin
import scene
import tako
import test_fetch

ONE, TWO, THREE = test_fetch.ONE, test_fetch.TWO, test_fetch.NEXT


class UnitsCase(test_fetch.FetchCase):
    """A client on whose unit version 1.0 runs, and an origin that offers 1.1."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path('bin'))
        self.versions = {self.one.digest: '1.0'}
        self.configure('Restart=app.service\n')
        self.systemctl()
        self.assertCode(0, self.fetch())
        self.two = self.publish('1.1', TWO)
        self.forget()

    def configure(self, more):
        self.config(self.origin.url, version='1.*', more=more)

    def publish(self, version, content):
        entry = self.origin.publish(version, content)
        self.versions[entry.digest] = version
        return entry

    def systemctl(self, script=':', *bad):
        """It notes its command and the image in place, then does what script says if that image is one of the bad."""
        self.write('bin/systemctl', '''#!/bin/sh
image=$(readlink {root}/latest)
echo "$@" "$image" >> {called}
case "$image" in {bad}) {script};; esac
[ "$1" = is-active ] && echo active
exit 0
'''.format(root=self.destination, called=self.path('called'), script=script,
           bad='|'.join('store/' + entry.digest for entry in bad) or 'none'), 0o755)

    def environ(self):
        return {'PATH': self.path('bin') + ':/usr/bin:/bin'}

    def fetch(self, *options, **settings):
        return self.run_here('fetch', self.app, *options, environ=self.environ(), **settings)

    def forget(self):
        """What was asked and called before is not looked at."""
        self.origin.requests.clear()
        self.write('called', '')

    def restarts(self):
        """Which versions the units were restarted on since."""
        lines = scene.read(self.path('called')).decode().splitlines()
        return [self.versions[line[-64:]] for line in lines if line.startswith('restart ')]

    def state(self):
        return tako.read_state(self.destination)

    def assertRolledBack(self, result):
        """1.1 was tried, told of, and left for 1.0, for good."""
        self.assertCode(1, result)
        self.assertIn('; 1.1 is rejected, latest is 1.0 again\n', result.err)
        self.assertIn('see: journalctl -u app.service', result.err)
        self.assertIn('--retry-rejected', result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['1.1', '1.0'], self.restarts())
        self.assertEqual(((self.two.digest,), ''), (self.state().rejected, self.state().restart_due))


FAILS = 'case $1 in restart) echo "Job failed."; exit 1;; is-active) echo failed; exit 3;; esac'
HANGS = 'case $1 in restart) exec sleep 60;; is-active) echo activating; exit 3;; esac'
DIES = 'case $1 in is-active) echo failed; exit 3;; esac'


class RollbackTest(UnitsCase):
    def test_a_unit_that_does_not_restart(self):
        self.systemctl(FAILS, self.two)
        result = self.fetch()
        self.assertRolledBack(result)
        self.assertEqual(self.app + ': 1.0 is in place again\n', result.out)
        self.assertIn('app.service is failed (systemctl restart: exit code 1: Job failed.)', result.err)

    def test_it_is_no_success_for_status(self):
        os.utime(self.path('destination', '.state'), (1e9, 1e9))
        self.systemctl(FAILS, self.two)
        self.assertRolledBack(self.fetch())
        self.assertEqual(1e9, os.stat(self.path('destination', '.state')).st_mtime)

    def test_a_restart_that_hangs(self):
        self.systemctl(HANGS, self.two)
        result = self.fetch(limits=dict(self.limits, SYSTEMCTL_TIMEOUT_SECONDS=1.0))
        self.assertRolledBack(result)
        self.assertIn('app.service is activating (systemctl restart: exit code 124', result.err)

    def test_a_unit_that_dies_after_its_restart(self):
        self.configure('Restart=app.service\nConfirm=1\n')
        self.systemctl(DIES, self.two)
        clock = scene.Clock()
        with clock.patch():
            result = self.fetch()
        self.assertRolledBack(result)
        self.assertEqual([1, 1], clock.pauses)              # the old image is confirmed, too
        self.assertIn('app.service is failed 1 seconds after its restart', result.err)

    def test_without_confirm_nobody_looks_again(self):
        self.systemctl(DIES, self.two)
        self.assertCode(0, self.fetch())
        self.assertInPlace(TWO)

    def test_a_unit_that_fills_the_disk(self):
        """Nothing new fits on it, neither when the rejection is noted nor when the restart on 1.0 is."""
        publish = tako.NewFile.publish

        def fill(new, path):
            if path.endswith('.state') and self.restarts():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            publish(new, path)
        for script, code, content in ((FAILS, 1, ONE), (':', 0, TWO)):
            with self.subTest(script), unittest.mock.patch.object(tako.NewFile, 'publish', fill):
                self.systemctl(script, self.two)
                self.assertCode(code, self.fetch('--retry-rejected'))
                self.assertInPlace(content)
                self.assertEqual(('', 0o100444), (self.state().restart_due, os.stat(self.path('destination', '.state')).st_mode))
                self.assertEqual([self.two.digest] if code else [], list(self.state().rejected))
                self.forget()
                self.assertQuiet(self.fetch())
                self.assertEqual([], self.restarts())

    def test_a_local_manifest_that_does_not_verify_leaves_no_rollback_half_done(self):
        self.assertCode(0, self.fetch())
        self.forget()
        tako.place_state(self.destination, self.state()._replace(restart_due=self.two.digest, previous=self.one.digest))
        self.config(self.origin.url, public_keys=[origin.OTHER_PUBLIC_KEY], more='Restart=app.service\n')
        self.systemctl(FAILS, self.two)
        result = self.fetch()
        self.assertCode(3, result)
        self.assertIn('; {} is rejected, latest is {} again\n'.format(self.two.digest, self.one.digest), result.err)
        self.assertInPlace(ONE)
        self.assertEqual((['1.1', '1.0'], ''), (self.restarts(), self.state().restart_due))

    def test_a_systemd_that_does_not_answer_says_nothing_of_the_image(self):
        self.systemctl('echo "Failed to connect to bus: No such file or directory"; exit 1', self.two)
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('systemctl does not get through to systemd: exit code 1: Failed to connect', result.err)
        self.assertInPlace(TWO)
        self.assertEqual(((), self.two.digest), (self.state().rejected, self.state().restart_due))
        self.systemctl()
        self.assertCode(0, self.fetch())
        self.assertEqual('', self.state().restart_due)

    def test_one_of_several_units_takes_all_of_them_back(self):
        self.configure('Restart=db.service web.service\nRestart=app.service\n')
        self.systemctl('case "$*" in restart*) echo "Job failed."; exit 1;; is-active*app*) echo failed; exit 3;; esac',
                       self.two)
        result = self.fetch()
        self.assertRolledBack(result)
        self.assertNotIn('db.service', result.err)
        self.assertEqual('restart -- db.service web.service app.service store/' + self.one.digest,
                         scene.read(self.path('called')).decode().splitlines()[-1])

    def test_a_version_between_the_two_is_taken_by_the_next_run(self):
        three = self.publish('1.2', THREE)
        self.systemctl(FAILS, three)
        self.assertCode(1, self.fetch())
        self.assertInPlace(ONE)
        self.assertCode(0, self.fetch())
        self.assertInPlace(TWO)
        self.assertEqual(['1.2', '1.0', '1.1'], self.restarts())


class RejectedTest(UnitsCase):
    """1.1 was rejected."""

    def setUp(self):
        super().setUp()
        self.systemctl(FAILS, self.two)
        self.assertRolledBack(self.fetch())
        self.forget()

    def test_it_is_not_tried_again_and_not_spoken_of(self):
        for options in ((), ('--init',), ()):
            self.assertQuiet(self.fetch(*options))
        self.assertInPlace(ONE)
        self.assertEqual(([], {'/manifest'}), (self.restarts(), set(self.origin.paths())))

    def test_a_newer_version_is(self):
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

    def test_retry_rejected_tries_it_again(self):
        self.systemctl()
        self.assertCode(0, self.fetch('--retry-rejected'))
        self.assertInPlace(TWO)
        self.assertEqual(['1.1'], self.restarts())
        self.assertEqual((), self.state().rejected)
        self.assertEqual(['/manifest'], self.origin.paths())        # the image is still here

    def test_retry_rejected_rolls_back_again(self):
        self.assertRolledBack(self.fetch('--retry-rejected'))

    def test_it_is_tried_again_once_the_state_is_lost(self):
        os.unlink(self.path('destination', '.state'))
        self.assertRolledBack(self.fetch())

    def test_it_may_be_all_that_is_in_bounds(self):
        self.config(self.origin.url, version='1.1', more='Restart=app.service\n')
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('all versions in 1.1 were rejected', result.err)
        self.assertInPlace(ONE)


class NowhereToGoTest(UnitsCase):
    def first(self):
        """A destination that has nothing yet."""
        scene.remove_tree(self.destination)
        os.mkdir(self.destination)
        self.config(self.origin.url, version='1.0', more='Restart=app.service\n')

    def test_the_first_image_stays_and_the_next_run_restarts_again(self):
        self.first()
        self.systemctl(FAILS, self.one)
        for _ in range(2):
            result = self.fetch()
            self.assertCode(1, result)
            self.assertIn('app.service is failed', result.err)
            self.assertIn('there is no earlier image to go back to\n', result.err)
            self.assertIn('journalctl -u app.service', result.err)
            self.assertInPlace(ONE)
        self.assertEqual((['1.0', '1.0'], ()), (self.restarts(), self.state().rejected))
        self.systemctl()
        result = self.fetch()
        self.assertEqual((0, self.app + ': restarted app.service\n', ''), (result.code, result.out, result.err))
        self.assertQuiet(self.fetch())

    def test_a_newer_image_is_the_way_out(self):
        self.first()
        self.systemctl(FAILS, self.one)
        self.fetch()
        self.configure('Restart=app.service\n')
        self.forget()
        self.assertEqual(1, self.fetch().code)              # for the restart on 1.0, which was still due
        self.assertInPlace(TWO)
        self.assertEqual(['1.0', '1.1'], self.restarts())
        self.assertQuiet(self.fetch())

    def test_the_old_image_fails_too(self):
        self.systemctl(FAILS, self.one, self.two)
        result = self.fetch()
        self.assertCode(1, result)
        self.assertIn('latest is 1.0 again, and there, too, app.service is failed', result.err)
        self.assertInPlace(ONE)
        self.forget()
        self.assertCode(1, self.fetch())
        self.systemctl()
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(ONE)
        self.assertEqual(['1.0', '1.0'], self.restarts())

    def test_the_old_image_is_damaged_or_gone_meanwhile(self):
        old = self.path('destination', 'store', self.one.digest)
        self.systemctl(FAILS, self.two)
        for spoil, fault in ((lambda: self.write('destination/store/' + self.one.digest, ONE[::-1]), 'its SHA-256 is '),
                             (lambda: os.unlink(old), 'No such file or directory')):
            spoil()
            result = self.fetch()
            self.assertCode(1, result)
            self.assertIn('there is no earlier image to go back to: {}: {}'.format(old, fault), result.err)
            self.assertInPlace(TWO)
        self.assertEqual((['1.1', '1.1'], ()), (self.restarts(), self.state().rejected))


class RepairTest(UnitsCase):
    def test_a_repair_restarts_nothing(self):
        """Units restart when latest has moved, and only then."""
        self.config(self.origin.url, version='1.0', more='Restart=app.service\n')
        self.write('destination/store/' + self.one.digest, ONE[::-1], 0o444)
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.0 is repaired\n'), (result.code, result.out), result)
        self.assertInPlace(ONE)
        self.assertEqual([], self.restarts())


class InitTest(UnitsCase):
    def test_it_neither_restarts_nor_clears_a_restart_that_is_due(self):
        self.systemctl(FAILS, self.one, self.two)
        self.fetch()
        self.assertEqual(self.one.digest, self.state().restart_due)
        self.systemctl()
        self.forget()
        self.assertQuiet(self.fetch('--init'))
        self.assertEqual(([], self.one.digest), (self.restarts(), self.state().restart_due))
        self.assertCode(0, self.fetch())
        self.assertEqual((['1.0'], ''), (self.restarts(), self.state().restart_due))

    def test_a_restart_that_is_due_stays_due_for_the_image_it_brings(self):
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


    def test_the_earlier_image_will_do_out_of_bounds_if_all_in_bounds_are_rejected(self):
        """So a unit starts that asks for an image before it does, in the midst of a rollback."""
        self.config(self.origin.url, version='1.1', more='Restart=app.service\n')
        self.systemctl(FAILS, self.two)
        self.assertRolledBack(self.fetch())
        self.forget()
        with tako.DirectoryLock(self.destination, 0, print):
            self.assertQuiet(self.fetch('--init'))
        self.assertEqual([], self.origin.requests)
        self.write('destination/store/' + self.one.digest + '.new', ONE[::-1])
        os.replace(self.path('destination', 'store', self.one.digest + '.new'),
                   self.path('destination', 'store', self.one.digest))
        self.assertCode(1, self.fetch('--init'))


class WithoutSystemdTest(UnitsCase):
    def test_it_is_an_error_before_the_image_is_fetched(self):
        result = self.run_here('fetch', self.app, environ={'PATH': self.path('served')})
        self.assertCode(1, result)
        self.assertIn('no systemctl', result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['/manifest'], self.origin.paths())

    def test_it_is_none_where_nothing_would_restart(self):
        self.config(self.origin.url, version='1.0', more='Restart=app.service\n')
        self.assertQuiet(self.run_here('fetch', self.app, environ={'PATH': self.path('served')}))


class EndedTest(UnitsCase):
    """Tako is ended while systemctl is at work; the origin is down when it runs again."""

    def end(self, number):
        os.mkfifo(self.path('begun'))
        self.systemctl('echo $$ > {}; exec sleep 60'.format(self.path('begun')), self.two)
        process = self.start('fetch', self.app, environ=self.environ())
        with open(self.path('begun')) as begun:             # opens once systemctl does
            child = int(begun.read())
        process.send_signal(number)
        process.communicate()
        try:
            os.kill(child, signal.SIGKILL)                  # the test's own, if it outlived its parent
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

    def test_by_sigkill(self):
        self.assertEqual(-signal.SIGKILL, self.end(signal.SIGKILL))
        self.assertRestartsWithoutOrigin()

    def test_by_sigterm(self):
        self.assertEqual(143, self.end(signal.SIGTERM))
        self.assertRestartsWithoutOrigin()

    def test_a_restart_that_was_due_and_fails_is_rolled_back_without_the_origin(self):
        self.end(signal.SIGKILL)
        self.systemctl(FAILS, self.two)
        self.origin.faults['*'] = origin.status(503)
        self.assertRolledBack(self.fetch())                 # exit 1, for 75 would say that nothing is wrong here

    def test_units_that_left_the_config_are_not_waited_for(self):
        self.end(signal.SIGKILL)
        self.configure('')
        self.assertQuiet(self.fetch())
        self.assertEqual(([], ''), (self.restarts(), self.state().restart_due))

    def test_before_latest_moved(self):
        """A restart is noted for an image that latest does not name: it is not due."""
        tako.place_state(self.destination, self.state()._replace(restart_due=self.two.digest))
        self.origin.faults['*'] = origin.status(503)
        self.assertCode(75, self.fetch())
        self.assertEqual([], self.restarts())

    def test_a_dry_run_says_what_is_due_and_leaves_it_due(self):
        self.end(signal.SIGKILL)
        for _ in range(2):
            result = self.fetch('--dry-run')
            self.assertEqual((self.app + ': 1.1: would restart app.service\n', []), (result.out, self.restarts()))

    def test_a_restart_that_was_due_is_forgotten_with_the_state(self):
        self.end(signal.SIGKILL)
        os.unlink(self.path('destination', '.state'))
        self.assertQuiet(self.fetch())
        self.assertEqual([], self.restarts())

    def test_a_rollback_that_was_ended_and_retry_rejected_lose_no_restart(self):
        self.end(signal.SIGKILL)
        tako.place_state(self.destination, tako.State(self.one.digest, self.one.digest, '', (self.two.digest,), (), ()))
        self.assertCode(0, self.fetch('--retry-rejected'))
        self.assertInPlace(TWO)
        self.assertEqual('1.1', self.restarts()[-1])


class LockTest(UnitsCase):
    def test_a_systemctl_that_outlives_a_kill_does_not_keep_the_lock(self):
        os.mkfifo(self.path('begun'))
        self.systemctl('echo $$ > {}; exec sleep 60'.format(self.path('begun')), self.two)
        process = self.start('fetch', self.app, environ=self.environ(), stdin=subprocess.DEVNULL)
        with open(self.path('begun')) as begun:
            child = int(begun.read())
        process.kill()
        process.communicate()
        self.systemctl()
        began = time.monotonic()
        self.assertCode(0, self.fetch())
        self.assertLess(time.monotonic() - began, tako.LOCK_WAIT_SECONDS / 2)
        os.kill(child, signal.SIGKILL)                      # it was there all the while

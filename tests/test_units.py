"""Section 13: restarting and watching units, with a systemctl of our own on the PATH (fake_systemd.py)."""
import os
import signal
import unittest.mock

import fake_systemd
import scene
import tako

APP, WEB = 'app.service', 'web.service'
IMAGE = 'a' * 64


class UnitsCase(scene.Scene):
    """Units app.service and web.service run on an image; the next restart of theirs is on a bad one."""

    is_239 = False

    def setUp(self):
        super().setUp()
        os.symlink('store/' + IMAGE, self.path('destination', 'latest'))
        patch = unittest.mock.patch.dict(os.environ, PATH=self.path('bin') + ':/usr/bin:/bin')
        patch.start()
        self.addCleanup(patch.stop)
        self.systemctl()
        tako._systemctl('restart', '--', APP, WEB)
        self.called()
        self.clock = scene.Clock()

    def systemctl(self, script=':'):
        fake_systemd.install(self.directory, self.destination, script, [IMAGE], self.is_239)

    def answer(self, sentence, *done):
        """Let restart do what `done` says, in shell, print this, and fail."""
        self.systemctl('case $verb in restart) {} echo "{}" >&2; exit 1 ;; esac'.format(
            ''.join(each + '; ' for each in done), sentence))

    def set_unit(self, unit, **fields):
        """Change what `show` prints of a unit."""
        path = self.path('systemd', unit)
        with open(path, 'a') as stream:
            stream.writelines("{}='{}'\n".format(field, value) for field, value in fields.items())

    def called(self):
        """The verbs of the calls since this was last asked."""
        with open(self.path('called'), 'r+') as stream:
            calls = [line.split()[0] for line in stream]
            stream.truncate(0)
        return calls

    def restart(self, *units, seconds=10):
        """Restart units, and watch them to the end; the UnitWatch."""
        watch = tako.UnitWatch(units or (APP,), seconds, self.clock)
        watch.note()
        watch.restart()
        while not watch.look(tako.show_units(watch.names)):
            self.clock.sleep(0.5)
        return watch

    def assertBlamed(self, text, *units):
        with self.assertRaises(tako.UnitError) as caught:
            self.restart(*units)
        self.assertIn(text, caught.exception.what)
        self.assertIn('journalctl -u', caught.exception.hint)
        return caught.exception

    def assertNoVerdict(self, text, *units, code=1):
        with self.assertRaises(tako.SystemdError) as caught:
            self.restart(*units)
        self.assertIn(text, caught.exception.what)
        self.assertEqual(code, caught.exception.exit_code)
        return caught.exception


class RestartTest(UnitsCase):
    def test_units_that_run_are_watched_for_so_many_seconds(self):
        self.restart(APP, WEB)
        self.assertEqual([0.5] * 20, self.clock.pauses)
        self.assertEqual(['show', 'reset-failed', 'restart'] + ['show'] * 21, self.called())
        with open(self.path('systemd', APP)) as stream:
            self.assertIn("invocation='{:032x}'".format(3), stream.read())

    def test_all_units_in_one_call_that_no_name_can_bend(self):
        self.restart(APP, 'other@1.service')
        with open(self.path('called')) as stream:
            self.assertIn('restart --no-ask-password -- app.service other@1.service store/', stream.read())

    def test_a_name_without_suffix_is_a_service_and_an_alias_will_do(self):
        self.set_unit('app', names='app.service')
        self.restart('app')
        self.set_unit('alias.service', names='app.service alias.service')
        self.restart('alias.service')

    def test_a_program_that_does_not_start(self):
        self.systemctl(fake_systemd.FAILS)
        error = self.assertBlamed('app.service failed (exit-code, exit code 1)')
        self.assertIn(': systemctl restart failed (exit code 1): Job for app.service failed because the control',
                      error.what)
        self.assertNotIn('See ', error.what)

    def test_the_unit_that_failed_is_named_and_no_other(self):
        self.answer('Job for web.service failed because a timeout was exceeded.',
                    'begin app.service', 'begin web.service', 'fail web.service timeout 2 9')
        error = self.assertBlamed('web.service failed (timeout, signal 9)', APP, WEB)
        self.assertNotIn('app.service', error.what)

    def test_a_failed_unit_that_systemd_has_unloaded_by_then(self):
        self.answer('Job for app.service failed because the control process exited with error code.',
                    'set_unit app.service state=inactive sub=dead invocation=')
        self.assertNoVerdict('Job for app.service failed')
        self.set_unit(APP, collect='inactive-or-failed')
        self.assertBlamed('app.service failed, and systemd has unloaded it')

    def test_what_systemd_did_not_start_is_not_the_images_fault(self):
        for sentence in ('Job for app.service failed.', 'Job for app.service timed out.',
                         'Assertion failed on job for app.service.', 'Job for app.service invalid.', 'Whatever.',
                         'Failed to restart app.service: Unit app.service is masked.',
                         'Failed to restart app.service: Transaction for app.service/restart is destructive '
                         "(reboot.target has 'start' job queued, but 'stop' is included in transaction)."):
            with self.subTest(sentence):
                self.answer(sentence)
                error = self.assertNoVerdict(sentence)
                self.assertIn('the restart stays due', error.hint)

    def test_a_sentence_that_blames_nobody_weighs_more_than_a_failed_unit(self):
        for sentence in ('Job for app.service timed out.', 'Whatever.'):
            self.answer(sentence, 'begin app.service', 'fail app.service exit-code 1 1')
            self.assertNoVerdict(sentence)

    def test_a_user_who_may_not_restart_units(self):
        for why in ('Access denied', 'Interactive authentication required.'):
            self.answer('Failed to restart app.service: ' + why)
            self.assertIn('polkit', self.assertNoVerdict(why).hint)

    def test_a_restart_that_somebody_canceled_by_stopping_the_unit(self):
        self.answer('Job for app.service canceled.', 'begin app.service', 'stop app.service')
        self.assertEqual([APP], self.restart().stopped)

    def test_a_restart_that_was_canceled_and_whose_unit_is_still_on_its_way_down(self):
        """It was killed before it ever ran, which leaves it failed."""
        self.systemctl('case $verb in show) [ ! -e canceled ] || [ $looks -lt 3 ] || '
                       'set_unit app.service state=failed result=signal job= ;; restart) touch canceled; begin app.service; '
                       'set_unit app.service state=deactivating started=0; '
                       'echo "Job for app.service canceled." >&2; exit 1 ;; esac')
        self.assertEqual([APP], self.restart().stopped)

    def test_a_restart_that_somebody_canceled_by_starting_the_unit(self):
        self.answer('Job for app.service canceled.', 'begin app.service')
        self.assertEqual([], self.restart().stopped)

    def test_a_restart_that_was_canceled_before_it_began(self):
        self.answer('Job for app.service canceled.')
        self.assertNoVerdict('canceled')

    def test_one_that_hangs(self):
        self.systemctl(fake_systemd.HANGS)
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 0.3):
            self.assertNoVerdict('(exit code 124): no answer within')

    def test_one_that_hangs_while_its_unit_starts(self):
        self.systemctl('case $verb in restart) begin app.service; set_unit app.service state=activating job=7; '
                       'exec sleep 60 ;; esac')
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 0.3):
            self.assertNoVerdict('(exit code 124): no answer within')

    def test_a_failed_start_that_systemd_has_repeated_by_then(self):
        self.answer('Job for app.service failed because the control process exited with error code.',
                    'begin app.service', 'set_unit app.service restarts=1')
        self.assertBlamed('automatic restarts: 1')

    def test_a_unit_whose_name_sounds_like_a_broken_connection(self):
        self.set_unit('disconnected-broken pipe.service'.replace(' ', '-'), state='active')
        self.systemctl('case $verb in restart) for unit; do begin $unit; fail $unit exit-code 1 1; '
                       'echo "Job for $unit failed because of it." >&2; done; exit 1 ;; esac')
        self.assertBlamed('.service failed (exit-code, exit code 1): ', 'disconnected-broken-pipe.service')

    def test_a_child_that_keeps_the_pipes_open_is_not_waited_for(self):
        self.systemctl('case $verb in restart) sleep 60 & echo $! > ../child ;; esac')
        self.restart()
        with open(self.path('child')) as stream:
            os.kill(int(stream.read()), signal.SIGKILL)     # it was there all the while

    def test_what_it_prints_may_be_long(self):
        self.systemctl('case $verb in restart) head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2 ;; esac')
        self.restart()

    def test_a_systemctl_that_went_away(self):
        with unittest.mock.patch.dict(os.environ, PATH=self.path('nothing')):
            self.assertNoVerdict('cannot run systemctl: ')

    def test_debugging_output_and_other_languages_are_not_asked_for(self):
        self.systemctl('[ -z "$SYSTEMD_LOG_LEVEL$LANGUAGE" ] && [ "$LC_ALL" = C ] || exit 9')
        with unittest.mock.patch.dict(os.environ, SYSTEMD_LOG_LEVEL='debug', LANGUAGE='de', LC_ALL='de_DE.UTF-8'):
            self.restart()


class RequirementTest(UnitsCase):
    """app.service requires db.service."""

    def setUp(self):
        super().setUp()
        self.set_unit(APP, requires='unpack.service')
        self.set_unit('unpack.service', requires='db.service', state='active', invocation='d' * 32)
        self.set_unit('db.service', state='failed', sub='failed', result='start-limit-hit', invocation='e' * 32)

    def test_one_that_was_started_anew_and_failed_is_the_images_fault(self):
        self.answer('A dependency job for app.service failed. See \'journalctl -xe\' for details.',
                    'begin unpack.service', 'fail unpack.service exit-code 1 3')
        self.assertBlamed('unpack.service failed (exit-code, exit code 3)')

    def test_one_that_failed_before_is_not(self):
        self.answer('A dependency job for app.service failed. See \'journalctl -xe\' for details.')
        self.assertNoVerdict('A dependency job')

    def test_one_that_was_not_noted_before_is_not(self):
        self.answer('A dependency job for app.service failed. See \'journalctl -xe\' for details.',
                    'set_unit app.service "requires=unpack.service new.service"', 'begin new.service',
                    'fail new.service exit-code 1 3')
        self.assertNoVerdict('A dependency job')

    def test_its_start_limit_is_reset_too(self):
        self.restart()
        with open(self.path('called')) as stream:
            self.assertIn('reset-failed --no-ask-password -- app.service db.service ', stream.read())


class ConnectionTest(UnitsCase):
    LOST = 'Failed to wait for response: Connection reset by peer'

    def test_a_restart_that_went_on_without_us(self):
        self.answer(self.LOST, 'begin app.service', 'set_unit app.service state=activating job=7', 'touch lost')
        later = 'case $verb in show) if [ -e lost ] && [ $looks -gt 2 ]; then ' \
                'set_unit app.service state=active job=; fi ;; restart) begin app.service; ' \
                'set_unit app.service state=activating job=7; touch lost; echo "{}" >&2; exit 1 ;; esac'.format(self.LOST)
        self.systemctl(later)
        self.restart()
        self.assertEqual(1, self.called().count('restart'))

    def test_a_restart_that_went_on_and_failed(self):
        self.answer(self.LOST, 'begin app.service', 'fail app.service exit-code 1 1')
        with self.assertRaises(tako.UnitError):
            self.restart(seconds=0)

    def test_a_restart_that_was_lost_is_asked_for_again(self):
        self.systemctl('case $verb in restart) if [ ! -e lost ]; then touch lost; echo "{}" >&2; exit 1; fi ;; esac'
                       .format(self.LOST))
        self.restart()
        self.assertEqual(2, self.called().count('restart'))

    def test_a_connection_that_stays_broken(self):
        self.answer(self.LOST)
        self.assertNoVerdict('systemctl cannot reach systemd', code=75)

    def test_a_look_that_breaks_is_taken_again(self):
        self.systemctl('case $verb in show) if [ ! -e lost ]; then touch lost; echo "{}" >&2; exit 1; fi ;; esac'
                       .format(self.LOST))
        with self.clock.patch():
            self.restart()

    def test_a_systemd_that_does_not_answer(self):
        for sentence, code in ((self.LOST, 75), ('Failed to connect to bus: No such file or directory', 75),
                               ('System has not been booted with systemd as init system (PID 1). Can\'t operate.\n'
                                'Failed to connect to bus: Host is down', 1)):
            self.systemctl('echo "{}" >&2; exit 1'.format(sentence))
            with self.clock.patch():
                self.assertNoVerdict('systemctl cannot reach systemd (exit code 1): ', code=code)


class WatchTest(UnitsCase):
    """What becomes of a unit after its restart."""

    def then(self, what, looks=3):
        """At this look after the restart, something happens to app.service."""
        self.systemctl('case $verb in show) [ $looks -ne {} ] || {{ {}; }} ;; esac'.format(looks, what))

    def test_a_program_that_dies(self):
        self.systemctl(fake_systemd.DIES)
        self.assertBlamed('app.service failed (exit-code, exit code 7) after the restart')
        self.assertEqual([0.5], self.clock.pauses)

    def test_a_program_that_systemd_starts_again_and_again(self):
        self.then('set_unit app.service restarts=1 invocation=' + 'f' * 32)
        self.assertBlamed('automatic restarts: 1')

    def test_a_program_that_systemd_is_about_to_start_again(self):
        for sub in ('auto-restart', 'auto-restart-queued', 'dead-before-auto-restart'):
            self.then('set_unit app.service state=activating result=exit-code sub=' + sub)
            self.assertBlamed('app.service is ' + sub)

    def test_a_program_that_ends_with_0_has_ended_by_itself(self):
        self.then('finish app.service')
        self.assertBlamed('app.service is dead (exit code 0)')

    def test_one_that_is_triggered_may_end_but_not_fail(self):
        self.set_unit(APP, triggered='app.timer')
        self.then('finish app.service')
        self.restart()
        self.assertEqual(1.0, sum(self.clock.pauses))       # nothing was left to watch
        self.then('fail app.service exit-code 1 1')
        self.assertBlamed('app.service failed')

    def test_a_oneshot_that_is_done(self):
        self.set_unit(APP, type='oneshot')
        for forgets in ('', '; set_unit app.service invocation= exited=0 left=0 code=0'):
            self.systemctl('case $verb in restart) begin app.service; finish app.service{}; exit 0 ;; esac'.format(forgets))
            self.restart()
        self.assertEqual([], self.clock.pauses)

    def test_a_condition_that_is_not_met(self):
        self.systemctl('case $verb in restart) stop app.service; set_unit app.service condition=no; exit 0 ;; esac')
        self.assertEqual([], self.restart().stopped)
        self.assertEqual([], self.clock.pauses)

    def test_one_that_is_stopped_by_somebody_else(self):
        for stop in ('stop app.service',
                     'set_unit app.service state=inactive sub=dead code=2 status=15 exited=20 left=21',
                     'stop app.service; set_unit app.service state=failed result=exit-code status=3',
                     'stop app.service; set_unit app.service state=failed result=timeout code=2 status=9'):
            self.then(stop)
            self.assertEqual([APP], self.restart().stopped)

    def test_one_that_somebody_else_restarts_is_watched_anew(self):
        self.then('begin app.service; echo 10 > .looks', 10)
        self.restart()
        self.assertEqual(10 + 9 * 0.5, sum(self.clock.pauses))

    def test_one_that_is_between_stop_and_start_is_not_stopped(self):
        self.systemctl('case $verb in show) [ $looks -ne 3 ] || set_unit app.service state=inactive sub=dead job=9; '
                       '[ $looks -ne 6 ] || { begin app.service; set_unit app.service job=; echo 10 > .looks; } ;; esac')
        self.assertEqual([], self.restart().stopped)

    def test_one_that_does_not_come_to_rest(self):
        self.then('set_unit app.service state=inactive sub=dead job=9', 3)
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 20):
            self.assertNoVerdict('app.service: still starting or stopping')

    def test_reloading_and_refreshing_are_fine(self):
        for state in ('reloading', 'refreshing'):
            self.then('set_unit app.service state=' + state)
            self.restart()

    def test_one_that_systemd_has_unloaded_while_it_was_watched(self):
        """It was stopped, or ended with 0: systemd no longer knows which."""
        self.then('set_unit app.service state=inactive sub=dead invocation= code=0 exited=0 checked=0 condition=no')
        self.assertEqual([APP], self.restart().stopped)

    def test_one_that_systemd_stopped_for_its_own_reasons(self):
        self.then('stop app.service; set_unit app.service state=failed result=watchdog code=2 status=6')
        self.assertBlamed('app.service failed (watchdog, signal 6)')

    def test_one_that_was_never_active(self):
        """Of an earlier start, the time at which it was left may still be there."""
        self.then('fail app.service exit-code 1 1; set_unit app.service left=5')
        self.assertBlamed('app.service failed')

    def test_a_program_that_ended_well_and_whose_unit_remains(self):
        self.then('set_unit app.service sub=exited code=1 exited=20', 1)
        self.restart()
        self.assertEqual([], self.clock.pauses)

    def test_a_target_and_a_timer(self):
        for unit in ('app.target', 'app.timer'):
            self.restart(unit)

    def test_one_of_two_fails(self):
        self.then('fail web.service signal 2 11')
        self.assertBlamed('web.service failed (signal, signal 11)', APP, WEB)


class As239Test(WatchTest):
    """The answers of systemd 239 lack some properties."""

    is_239 = True

    def test_one_that_is_triggered_may_end_but_not_fail(self):
        """Of this, 239 tells like 252."""


class CatchUpTest(UnitsCase):
    """What is left to do of a restart that an earlier run noted."""

    def watch(self):
        return tako.UnitWatch((APP, WEB), 10, self.clock)

    def test_units_that_nobody_started_since(self):
        noted = self.watch().note()
        self.assertEqual(('app.service {:032x}'.format(1), 'web.service {:032x}'.format(2)), noted)
        self.assertTrue(self.watch().needs_restart(noted))

    def test_units_that_were_started_since(self):
        noted = self.watch().note()
        tako._systemctl('restart', '--', APP)
        self.assertTrue(self.watch().needs_restart(noted))
        tako._systemctl('restart', '--', WEB)
        self.assertFalse(self.watch().needs_restart(noted))

    def test_one_that_was_started_and_failed(self):
        noted = self.watch().note()
        self.set_unit(APP, invocation='f' * 32, state='failed', result='exit-code')
        with self.assertRaises(tako.UnitError):
            self.watch().needs_restart(noted)

    def test_one_that_systemd_is_about_to_start_again(self):
        """As after a boot, when what it needs came late."""
        noted = self.watch().note()
        self.set_unit(APP, invocation='f' * 32, state='activating', sub='auto-restart', result='exit-code')
        self.assertTrue(self.watch().needs_restart(noted))

    def test_those_that_were_started_since_are_not_restarted(self):
        noted = self.watch().note()
        tako._systemctl('restart', '--', APP)
        watch = self.watch()
        self.assertTrue(watch.needs_restart(noted))
        again = watch.note(noted)
        self.assertEqual(noted, again)
        watch.restart()
        self.assertEqual([WEB], fake_systemd.restarted(self.directory)[-1])
        self.assertFalse(self.watch().needs_restart(again))

    def test_one_that_failed_before_or_did_not_run(self):
        self.set_unit(APP, state='failed')
        self.set_unit(WEB, invocation='')
        noted = self.watch().note()
        self.assertEqual('web.service -', noted[1])
        self.assertTrue(self.watch().needs_restart(noted))

    def test_notes_of_an_earlier_tako(self):
        self.assertTrue(self.watch().needs_restart(()))


class CheckTest(UnitsCase):
    """What is found out before anything is changed."""

    def fault(self, unit, is_first=False):
        with self.assertRaises(tako.ConfigError) as caught:
            tako.check_units({APP: 3, unit: 4}, is_first)
        self.assertEqual((2, 4), (caught.exception.exit_code, caught.exception.line))
        return caught.exception.what

    def test_units_that_can_be_restarted(self):
        self.assertEqual([], tako.check_units({APP: 3, WEB: 3}, False))

    def test_one_that_is_masked_or_cannot_be_loaded(self):
        self.set_unit(WEB, load='masked')
        self.assertIn('web.service is masked', self.fault(WEB))
        self.set_unit(WEB, load='bad-setting')
        self.assertIn('systemd cannot load its unit file (bad-setting)', self.fault(WEB, is_first=True))

    def test_one_that_is_unknown(self):
        self.set_unit(WEB, load='not-found')
        self.assertIn('web.service is unknown to systemd', self.fault(WEB))
        self.assertEqual([WEB], tako.check_units({APP: 3, WEB: 4}, True))

    def test_a_socket(self):
        self.assertIn('a socket cannot be restarted while its service runs', self.fault('app.socket', is_first=True))

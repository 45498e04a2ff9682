"""Section 14: units are restarted and watched, with the systemctl of fake_systemd.py."""
import os
import signal
import unittest.mock

import fake_systemd
import scene
import tako

APP, WEB = 'app.service', 'web.service'
IMAGE = 'a' * 64


class UnitsCase(scene.Scene):
    """Units app.service and web.service run; their next restart is on a bad image."""

    is_239 = False

    def setUp(self):
        super().setUp()
        os.symlink('store/' + IMAGE, self.path('destination', 'latest'))
        patch = unittest.mock.patch.dict(os.environ, PATH=self.path('bin') + ':/usr/bin:/bin')
        patch.start()
        self.addCleanup(patch.stop)
        self.systemctl()
        tako._systemctl(tako.SYSTEM_MANAGER, 'restart', '--', APP, WEB)
        self.called()
        self.clock = scene.Clock(is_real=False)

    def systemctl(self, script=':'):
        fake_systemd.install(self.directory, self.destination, script, [IMAGE], self.is_239)

    def answer(self, sentence, *done):
        """Let restart run the shell commands `done`, print this sentence, and fail."""
        self.systemctl('case $verb in restart) {} echo "{}" >&2; exit 1 ;; esac'.format(
            ''.join(each + '; ' for each in done), sentence))

    def set_unit(self, unit, **fields):
        """Change what systemctl show prints of a unit."""
        path = self.path('systemd', unit)
        with open(path, 'a') as stream:
            stream.writelines("{}='{}'\n".format(field, value) for field, value in fields.items())

    def called(self):
        """Return the verbs of the calls of systemctl since the last call of this."""
        with open(self.path('called'), 'r+') as stream:
            calls = [line.split()[0] for line in stream]
            stream.truncate(0)
        return calls

    def restart(self, *units, seconds=10):
        """Restart units and watch them to the end. Return the UnitWatch."""
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
    def test_units_are_watched_for_the_whole_time(self):
        self.restart(APP, WEB)
        self.assertEqual([0.5] * 20, self.clock.pauses)
        self.assertEqual(['show', 'reset-failed', 'restart'] + ['show'] * 21, self.called())
        with open(self.path('systemd', APP)) as stream:
            self.assertIn("invocation='{:032x}'".format(3), stream.read())

    def test_all_units_are_restarted_in_one_call_after_two_dashes(self):
        self.restart(APP, 'other@1.service')
        with open(self.path('called')) as stream:
            self.assertIn('restart --no-ask-password -- app.service other@1.service store/',
                          stream.read())

    def test_a_unit_may_lack_its_suffix_or_be_an_alias(self):
        self.set_unit('app', names='app.service')
        self.restart('app')
        self.set_unit('alias.service', names='app.service alias.service')
        self.restart('alias.service')

    def test_a_program_that_fails_to_start_is_blamed(self):
        self.systemctl(fake_systemd.FAILS)
        error = self.assertBlamed('app.service failed (exit-code, exit code 1)')
        self.assertIn(': systemctl restart failed (exit code 1): '
                      'Job for app.service failed because the control',
                      error.what)
        self.assertNotIn('See ', error.what)

    def test_only_the_failed_unit_is_named(self):
        self.answer('Job for web.service failed because a timeout was exceeded.',
                    'begin app.service', 'begin web.service', 'fail web.service timeout 2 9')
        error = self.assertBlamed('web.service failed (timeout, signal 9)', APP, WEB)
        self.assertNotIn('app.service', error.what)

    def test_a_failed_unit_that_systemd_unloaded_is_blamed(self):
        self.answer('Job for app.service failed because the control process exited with '
                    'error code.',
                    'set_unit app.service state=inactive sub=dead invocation=')
        self.assertNoVerdict('Job for app.service failed')
        self.set_unit(APP, collect='inactive-or-failed')
        self.assertBlamed('app.service failed, and systemd has unloaded it')

    def test_a_restart_that_systemd_refused_blames_no_unit(self):
        for sentence in ('Job for app.service failed.', 'Job for app.service timed out.',
                         'Assertion failed on job for app.service.', 'Job for app.service invalid.',
                         'Whatever.',
                         'Failed to restart app.service: Unit app.service is masked.',
                         'Failed to restart app.service: '
                         'Transaction for app.service/restart is destructive (reboot.target '
                         "has 'start' job queued, but 'stop' is included in transaction)."):
            with self.subTest(sentence):
                self.answer(sentence)
                error = self.assertNoVerdict(sentence)
                self.assertIn('the restart stays due', error.hint)

    def test_an_error_of_systemctl_outweighs_a_failed_unit(self):
        for sentence in ('Job for app.service timed out.', 'Whatever.'):
            self.answer(sentence, 'begin app.service', 'fail app.service exit-code 1 1')
            self.assertNoVerdict(sentence)

    def test_missing_permission_to_restart_units_hints_at_polkit(self):
        for why in ('Access denied', 'Interactive authentication required.'):
            self.answer('Failed to restart app.service: ' + why)
            self.assertIn('polkit', self.assertNoVerdict(why).hint)

    def test_a_restart_canceled_by_a_stop_counts_as_stopped(self):
        self.answer('Job for app.service canceled.', 'begin app.service', 'stop app.service')
        self.assertEqual([APP], self.restart().stopped)

    def test_a_canceled_restart_of_a_unit_still_stopping_counts_as_stopped(self):
        """systemd killed it before it was active, so its state is failed."""
        self.systemctl('case $verb in show) [ ! -e canceled ] || [ $looks -lt 3 ] || '
                       'set_unit app.service state=failed result=signal job= ;; '
                       'restart) touch canceled; begin app.service; '
                       'set_unit app.service state=deactivating started=0; '
                       'echo "Job for app.service canceled." >&2; exit 1 ;; esac')
        self.assertEqual([APP], self.restart().stopped)

    def test_a_restart_canceled_by_a_start_is_watched(self):
        self.answer('Job for app.service canceled.', 'begin app.service')
        self.assertEqual([], self.restart().stopped)

    def test_a_restart_canceled_before_it_began_blames_no_unit(self):
        self.answer('Job for app.service canceled.')
        self.assertNoVerdict('canceled')

    def test_a_restart_that_times_out_blames_no_unit(self):
        self.systemctl(fake_systemd.HANGS)
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 0.3):
            self.assertNoVerdict('(exit code 124): no answer within')

    def test_a_restart_that_times_out_while_the_unit_starts_blames_no_unit(self):
        self.systemctl('case $verb in restart) begin app.service; '
                       'set_unit app.service state=activating job=7; exec sleep 60 ;; esac')
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 0.3):
            self.assertNoVerdict('(exit code 124): no answer within')

    def test_a_failed_start_that_systemd_repeated_is_blamed(self):
        self.answer('Job for app.service failed because the control process exited with '
                    'error code.',
                    'begin app.service', 'set_unit app.service restarts=1')
        self.assertBlamed('automatic restarts: 1')

    def test_a_unit_named_like_a_connection_error_is_blamed(self):
        self.set_unit('disconnected-broken pipe.service'.replace(' ', '-'), state='active')
        self.systemctl('case $verb in restart) for unit; do begin $unit; fail $unit exit-code 1 1; '
                       'echo "Job for $unit failed because of it." >&2; done; exit 1 ;; esac')
        self.assertBlamed('.service failed (exit-code, exit code 1): ',
                          'disconnected-broken-pipe.service')

    def test_a_child_of_systemctl_that_keeps_the_pipes_open_is_not_waited_for(self):
        self.systemctl('case $verb in restart) sleep 60 & echo $! > ../child ;; esac')
        self.restart()
        with open(self.path('child')) as stream:
            os.kill(int(stream.read()), signal.SIGKILL)     # raises if it had ended

    def test_systemctl_may_print_much(self):
        self.systemctl('case $verb in restart) head -c 1000000 /dev/zero; '
                       'head -c 1000000 /dev/zero >&2 ;; esac')
        self.restart()

    def test_a_missing_systemctl_blames_no_unit(self):
        with unittest.mock.patch.dict(os.environ, PATH=self.path('nothing')):
            self.assertNoVerdict('cannot run systemctl: ')

    def test_systemctl_runs_without_debugging_output_and_in_english(self):
        self.systemctl('[ -z "$SYSTEMD_LOG_LEVEL$LANGUAGE" ] && [ "$LC_ALL" = C ] || exit 9')
        with unittest.mock.patch.dict(os.environ, SYSTEMD_LOG_LEVEL='debug', LANGUAGE='de',
                                      LC_ALL='de_DE.UTF-8'):
            self.restart()


class RequirementTest(UnitsCase):
    """app.service requires unpack.service, which requires db.service."""

    def setUp(self):
        super().setUp()
        self.set_unit(APP, requires='unpack.service')
        self.set_unit('unpack.service', requires='db.service', state='active', invocation='d' * 32)
        self.set_unit('db.service', state='failed', sub='failed', result='start-limit-hit',
                      invocation='e' * 32)

    def test_a_required_unit_that_failed_in_the_restart_is_blamed(self):
        self.answer('A dependency job for app.service failed. See \'journalctl -xe\' for details.',
                    'begin unpack.service', 'fail unpack.service exit-code 1 3')
        self.assertBlamed('unpack.service failed (exit-code, exit code 3)')

    def test_a_required_unit_that_failed_before_is_not_blamed(self):
        self.answer('A dependency job for app.service failed. See \'journalctl -xe\' for details.')
        self.assertNoVerdict('A dependency job')

    def test_a_newly_required_unit_is_not_blamed(self):
        self.answer('A dependency job for app.service failed. See \'journalctl -xe\' for details.',
                    'set_unit app.service "requires=unpack.service new.service"',
                    'begin new.service',
                    'fail new.service exit-code 1 3')
        self.assertNoVerdict('A dependency job')

    def test_the_start_limit_of_a_required_unit_is_reset(self):
        self.restart()
        with open(self.path('called')) as stream:
            self.assertIn('reset-failed --no-ask-password -- app.service db.service ',
                          stream.read())


class ConnectionTest(UnitsCase):
    LOST = 'Failed to wait for response: Connection reset by peer'

    def test_a_restart_continues_after_the_connection_broke(self):
        self.answer(self.LOST, 'begin app.service', 'set_unit app.service state=activating job=7',
                    'touch lost')
        self.systemctl('case $verb in show) if [ -e lost ] && [ $looks -gt 2 ]; then '
                       'set_unit app.service state=active job=; fi ;; '
                       'restart) begin app.service; set_unit app.service state=activating job=7; '
                       'touch lost; echo "{}" >&2; exit 1 ;; esac'.format(self.LOST))
        self.restart()
        self.assertEqual(1, self.called().count('restart'))

    def test_a_restart_that_failed_after_the_connection_broke_is_blamed(self):
        self.answer(self.LOST, 'begin app.service', 'fail app.service exit-code 1 1')
        with self.assertRaises(tako.UnitError):
            self.restart(seconds=0)

    def test_a_restart_lost_with_the_connection_is_repeated(self):
        self.systemctl('case $verb in restart) if [ ! -e lost ]; then touch lost; '
                       'echo "{}" >&2; exit 1; fi ;; esac'.format(self.LOST))
        self.restart()
        self.assertEqual(2, self.called().count('restart'))

    def test_a_connection_that_stays_broken_is_exit_75(self):
        self.answer(self.LOST)
        self.assertNoVerdict('systemctl cannot reach systemd', code=75)

    def test_a_connection_that_breaks_while_watching_is_repeated(self):
        self.systemctl('case $verb in show) if [ ! -e lost ]; then touch lost; '
                       'echo "{}" >&2; exit 1; fi ;; esac'.format(self.LOST))
        with self.clock.patch():
            self.restart()

    def test_an_unreachable_systemd_blames_no_unit(self):
        for sentence, code in ((self.LOST, 75),
                               ('Failed to connect to bus: No such file or directory', 75),
                               ('System has not been booted with systemd as init system (PID 1). '
                                'Can\'t operate.\n'
                                'Failed to connect to bus: Host is down', 1)):
            self.systemctl('echo "{}" >&2; exit 1'.format(sentence))
            with self.clock.patch():
                self.assertNoVerdict('systemctl cannot reach systemd (exit code 1): ', code=code)


class WatchTest(UnitsCase):
    """A unit is watched after its restart."""

    def then(self, what, looks=3):
        """Let this happen to app.service when it is shown for the nth time after the restart."""
        self.systemctl('case $verb in show) '
                       '[ $looks -ne {} ] || {{ {}; }} ;; esac'.format(looks, what))

    def test_a_program_that_fails_after_the_restart_is_blamed(self):
        self.systemctl(fake_systemd.DIES)
        self.assertBlamed('app.service failed (exit-code, exit code 7) after the restart')
        self.assertEqual([0.5], self.clock.pauses)

    def test_a_program_that_systemd_restarts_is_blamed(self):
        self.then('set_unit app.service restarts=1 invocation=' + 'f' * 32)
        self.assertBlamed('automatic restarts: 1')

    def test_a_program_that_systemd_is_about_to_restart_is_blamed(self):
        for sub in ('auto-restart', 'auto-restart-queued', 'dead-before-auto-restart'):
            self.then('set_unit app.service state=activating result=exit-code sub=' + sub)
            self.assertBlamed('app.service is ' + sub)

    def test_a_program_that_ends_with_0_is_blamed(self):
        self.then('finish app.service')
        self.assertBlamed('app.service is dead (exit code 0)')

    def test_a_triggered_unit_may_end_but_not_fail(self):
        self.set_unit(APP, triggered='app.timer')
        self.then('finish app.service')
        self.restart()
        self.assertEqual(1.0, sum(self.clock.pauses))       # nothing is left to watch
        self.then('fail app.service exit-code 1 1')
        self.assertBlamed('app.service failed')

    def test_a_finished_oneshot_is_not_watched(self):
        self.set_unit(APP, type='oneshot')
        for forgets in ('', '; set_unit app.service invocation= exited=0 left=0 code=0'):
            self.systemctl('case $verb in restart) begin app.service; '
                           'finish app.service{}; exit 0 ;; esac'.format(forgets))
            self.restart()
        self.assertEqual([], self.clock.pauses)

    def test_a_unit_whose_condition_fails_is_not_watched(self):
        self.systemctl('case $verb in restart) stop app.service; '
                       'set_unit app.service condition=no; exit 0 ;; esac')
        self.assertEqual([], self.restart().stopped)
        self.assertEqual([], self.clock.pauses)

    def test_a_unit_that_an_operator_stops_counts_as_stopped(self):
        for stop in ('stop app.service',
                     'set_unit app.service state=inactive sub=dead '
                     'code=2 status=15 exited=20 left=21',
                     'stop app.service; '
                     'set_unit app.service state=failed result=exit-code status=3',
                     'stop app.service; '
                     'set_unit app.service state=failed result=timeout code=2 status=9'):
            self.then(stop)
            self.assertEqual([APP], self.restart().stopped)

    def test_a_unit_that_an_operator_restarts_is_watched_anew(self):
        self.then('begin app.service; echo 10 > .looks', 10)
        self.restart()
        self.assertEqual(10 + 9 * 0.5, sum(self.clock.pauses))

    def test_a_unit_between_stop_and_start_does_not_count_as_stopped(self):
        self.systemctl('case $verb in show) '
                       '[ $looks -ne 3 ] || set_unit app.service state=inactive sub=dead job=9; '
                       '[ $looks -ne 6 ] || { begin app.service; set_unit app.service job=; '
                       'echo 10 > .looks; } ;; esac')
        self.assertEqual([], self.restart().stopped)

    def test_a_unit_that_never_settles_blames_no_unit(self):
        self.then('set_unit app.service state=inactive sub=dead job=9', 3)
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 20):
            self.assertNoVerdict('app.service: still starting or stopping')

    def test_a_reloading_or_refreshing_unit_runs(self):
        for state in ('reloading', 'refreshing'):
            self.then('set_unit app.service state=' + state)
            self.restart()

    def test_a_unit_unloaded_while_watched_counts_as_stopped(self):
        """It was stopped or ended with 0: systemd no longer knows which."""
        self.then('set_unit app.service state=inactive sub=dead invocation= code=0 exited=0 '
                  'checked=0 condition=no')
        self.assertEqual([APP], self.restart().stopped)

    def test_a_unit_that_a_watchdog_stopped_is_blamed(self):
        self.then('stop app.service; '
                  'set_unit app.service state=failed result=watchdog code=2 status=6')
        self.assertBlamed('app.service failed (watchdog, signal 6)')

    def test_a_unit_that_was_never_active_is_blamed(self):
        """systemd may still print when an earlier start of it ended."""
        self.then('fail app.service exit-code 1 1; set_unit app.service left=5')
        self.assertBlamed('app.service failed')

    def test_a_unit_that_remains_after_its_program_ended_runs(self):
        self.then('set_unit app.service sub=exited code=1 exited=20', 1)
        self.restart()
        self.assertEqual([], self.clock.pauses)

    def test_targets_and_timers_may_be_restarted(self):
        for unit in ('app.target', 'app.timer'):
            self.restart(unit)

    def test_one_failed_unit_of_two_is_blamed(self):
        self.then('fail web.service signal 2 11')
        self.assertBlamed('web.service failed (signal, signal 11)', APP, WEB)


class Systemd239Test(WatchTest):
    """systemd 239 prints fewer properties."""

    is_239 = True

    def test_a_triggered_unit_may_end_but_not_fail(self):
        """systemd 239 prints the same of this as 252."""


class CatchUpTest(UnitsCase):
    """An earlier run noted which starts of the units it saw; which of them need a restart?"""

    def watch(self):
        return tako.UnitWatch((APP, WEB), 10, self.clock)

    def test_units_not_started_since_need_a_restart(self):
        noted = self.watch().note()
        self.assertEqual(('app.service {:032x}'.format(1), 'web.service {:032x}'.format(2)), noted)
        self.assertTrue(self.watch().needs_restart(noted))

    def test_units_started_since_need_no_restart(self):
        noted = self.watch().note()
        tako._systemctl(tako.SYSTEM_MANAGER, 'restart', '--', APP)
        self.assertTrue(self.watch().needs_restart(noted))
        tako._systemctl(tako.SYSTEM_MANAGER, 'restart', '--', WEB)
        self.assertFalse(self.watch().needs_restart(noted))

    def test_a_unit_that_was_started_since_and_failed_is_blamed(self):
        noted = self.watch().note()
        self.set_unit(APP, invocation='f' * 32, state='failed', result='exit-code')
        with self.assertRaises(tako.UnitError):
            self.watch().needs_restart(noted)

    def test_a_unit_that_systemd_is_about_to_restart_needs_a_restart(self):
        """For example, a unit that it needs started late after a boot."""
        noted = self.watch().note()
        self.set_unit(APP, invocation='f' * 32, state='activating', sub='auto-restart',
                      result='exit-code')
        self.assertTrue(self.watch().needs_restart(noted))

    def test_only_units_not_started_since_are_restarted(self):
        noted = self.watch().note()
        tako._systemctl(tako.SYSTEM_MANAGER, 'restart', '--', APP)
        watch = self.watch()
        self.assertTrue(watch.needs_restart(noted))
        again = watch.note(noted)
        self.assertEqual(noted, again)
        watch.restart()
        self.assertEqual([WEB], fake_systemd.restarted(self.directory)[-1])
        self.assertFalse(self.watch().needs_restart(again))

    def test_a_unit_that_failed_before_or_did_not_run_needs_a_restart(self):
        self.set_unit(APP, state='failed')
        self.set_unit(WEB, invocation='')
        noted = self.watch().note()
        self.assertEqual('web.service -', noted[1])
        self.assertTrue(self.watch().needs_restart(noted))

    def test_without_notes_units_need_a_restart(self):
        self.assertTrue(self.watch().needs_restart(()))


class CheckTest(UnitsCase):
    """Faults of units are found before anything is changed."""

    def fault(self, unit, is_first=False):
        with self.assertRaises(tako.ConfigError) as caught:
            tako.check_units({APP: 3, unit: 4}, is_first)
        self.assertEqual((2, 4), (caught.exception.exit_code, caught.exception.line))
        return caught.exception.what

    def test_units_that_can_be_restarted_have_no_fault(self):
        self.assertEqual([], tako.check_units({APP: 3, WEB: 3}, False))

    def test_a_masked_or_unloadable_unit_is_a_config_error(self):
        self.set_unit(WEB, load='masked')
        self.assertIn('web.service is masked', self.fault(WEB))
        self.set_unit(WEB, load='bad-setting')
        self.assertIn('systemd cannot load its unit file (bad-setting)',
                      self.fault(WEB, is_first=True))

    def test_an_unknown_unit_is_a_config_error_except_before_the_first_image(self):
        self.set_unit(WEB, load='not-found')
        self.assertIn('web.service is unknown to systemd', self.fault(WEB))
        self.assertEqual([WEB], tako.check_units({APP: 3, WEB: 4}, True))

    def test_a_socket_is_a_config_error(self):
        self.assertIn('a socket cannot be restarted while its service runs',
                      self.fault('app.socket', is_first=True))

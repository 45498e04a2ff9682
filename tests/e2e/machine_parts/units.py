"""Cases of units under a real systemd, mostly of units that fail after an update.

A case is a function of a Place, which gives it its own units. The cases under @case run several at
a time in one machine. Those under @alone restart systemd or the machine, and run one after another.
A sample runs some of each.
"""
import contextlib
import os
import queue
import shutil
import subprocess
import threading
import time
import unittest

import certificates
import origin
import scene
from machine_parts import images, pages
from machine_parts.container import Container
from machine_parts.place import RAN, RUN, RUNS, Place, service
from machine_parts.publisher import Publisher

WORKERS = 4
SHARE = 0.4             # the part of a sample's remaining time for each kind of case
NOBODY = 'HOME=/ setpriv --reuid=65534 --regid=65534 --clear-groups'
FAILS = 'exit 1\n'
EXITS_WITH_0 = 'exit 0\n'
DIES_LATER = 'sleep 1\nexit 1\n'
AUTO_RESTART = 'Restart=always\nRestartSec=50ms\n'
LIMITED = 'StartLimitBurst=2\nStartLimitIntervalSec=300\n'
FIRST_TIME = '[ $(grep -cFx VERSION {}NAME) = 1 ] '.format(RAN)
SLEEPS = 'ExecStart=/bin/sleep 1000\n'
ONESHOT = 'Type=oneshot\n' + RUN
SLOW = 'ExecStartPre=/bin/sleep 4\n' + RUN      # long enough to interrupt a restart

TOGETHER, ALONE = {}, {}                        # name -> case

check = unittest.TestCase()
check.maxDiff = None


def case(function):
    """Register a case that shares the machine with others."""
    TOGETHER[function.__name__.replace('_', '-')] = function
    return function


def alone(function):
    """Register a case that runs alone in the machine."""
    ALONE[function.__name__.replace('_', '-')] = function
    return function


# ---- README's config and unit

@case
def readme_program_fails_at_once(place):
    assert_readme_rolls_back(place, FAILS)


@case
def readme_program_fails_at_once_and_restarts_soon(place):
    assert_readme_rolls_back(place, FAILS, 'RestartSec=100ms')


@case
def readme_program_dies_after_4_seconds(place):
    assert_readme_rolls_back(place, 'sleep 4\nexit 1\n')


@case
def readme_program_dies_after_60_seconds(place):
    """Tako promises no rollback here: the program dies after the seconds of Confirm=."""
    if place.is_sample:
        raise unittest.SkipTest('takes longer than a sample has')
    readme_place(place)
    publish_squashfs([place], '1.1', 'sleep 60\nexit 1\n')
    place.tako()
    place.assert_now('1.1')
    place.wait_for_state('activating', seconds=90)
    place.assert_now('1.1', state='activating')


def assert_readme_rolls_back(place, program, restart_seconds='RestartSec=30s'):
    """Run README.md's config and unit ten times at once, under different names."""
    others = range(1 if place.is_sample else 9)
    places = [place] + [place.beside('{}-{}'.format(place.name, number)) for number in others]
    try:
        for each in places:
            readme_place(each, restart_seconds)
        publish_squashfs(places, '1.1', program)
        runs = [each.start() for each in places]
        for each, run in zip(places, runs):
            check.assertIn('rolled back to 1.0, and 1.1 is rejected', each.finish(run, 1))
        for each in places:
            each.assert_now('1.0', ['1.1'])
    finally:
        for each in places[1:]:
            each.__exit__()


def readme_place(place, restart_seconds='RestartSec=30s'):
    """Install the config of README.md and its unit in this place, and start it from 1.0."""
    text = pages.snippet(scene.PROJECT, 'docs/downloading-images.md',
                         '/etc/systemd/system/app.service')
    text = pages.vary(pages.vary(text, '/app.tako', '/NAME.tako'), '/images/app/', '/images/NAME/')
    place.unit(pages.vary(text, 'RestartSec=30s', restart_seconds))
    lines = pages.vary(readme('Origin='), 'Keep=3\n', 'Restart=app.service\n')
    lines = lines.replace('/app', '/NAME').replace('app.service', 'NAME.service')
    place.machine.write(place.config_path, place.named(lines))
    publish_squashfs([place], '1.0', RUNS)
    place.start_units()                         # ExecStartPre= fetches 1.0
    place.assert_now('1.0')


def readme(begins):
    return pages.snippet(scene.PROJECT, 'README.md', begins=begins)


def publish_squashfs(places, version, program):
    """Publish the same squashfs in each of these places."""
    busybox = places[0].machine.path('/usr/bin/busybox')
    image = images.application(place_folder(places[0]), busybox, version, '#!/bin/sh\n' + program)
    for each in places:
        each.publish_file(version, scene.read(image))
    os.remove(image)


def place_folder(place):
    folder = os.path.join(os.path.dirname(place.publisher.directory), 'made-' + place.name)
    os.makedirs(folder, exist_ok=True)
    return folder


# ---- programs that fail

@case
def program_dies_repeatedly(place):
    """systemd restarts the unit, which is active each time. NRestarts counts the restarts."""
    place.begin(service('Restart=always\nRestartSec=100ms\n' + RUN), confirm=10)
    place.publish('1.1', 'sleep 3\nexit 1\n')
    check.assertIn('rolled back to 1.0, and 1.1 is rejected', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])


@case
def program_exits_with_0_too_soon(place):
    """A service that exits with 0 by itself does not run."""
    place.begin()
    place.publish('1.1', 'sleep 1\n')
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])


@case
def program_exits_with_0_and_systemd_unloads_it(place):
    """A unit that is not enabled looks as if somebody had stopped it.

    Only the result of the restart counts.
    """
    place.begin(service(install=''))
    place.publish('1.1', 'sleep 1\n')
    check.assertIn(place.service, place.tako().partition('tako: ')[2])
    place.assert_now('1.1', state='inactive')


@case
def program_is_trusted(place):
    """With Confirm=0 only the result of the restart counts."""
    place.begin(service('Type=simple\n' + RUN), confirm=0)
    place.publish('1.1', DIES_LATER)
    place.tako()
    place.wait_for_state('failed')
    place.assert_now('1.1', state='failed')


@case
def fixed_version_is_installed(place):
    place.begin()
    place.publish('1.1', FAILS)
    place.tako(code=1)
    check.assertEqual('', place.tako())
    place.publish('1.2')
    check.assertIn('1.2 is installed', place.tako())
    place.assert_now('1.2', ['1.1'])


@case
def two_services_of_which_one_fails(place):
    run = 'ExecStart=/bin/sh /var/lib/images/NAME/latest {}\n'
    other = place.name + '-other.service'
    place.begin(service(run.format('one')), [('NAME-other.service', service(run.format('other')))],
                restart='NAME.service NAME-other.service')
    place.publish('1.1', '[ $1 = one ] || exit 1\n' + RUNS)
    check.assertIn(other + ' failed', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])
    place.assert_now('1.0', ['1.1'], unit=other)
    check.assertEqual(['1.0', '1.0'], place.starts()[-2:])


@case
def first_image_is_bad(place):
    """No earlier image exists: each run retries, until a good version is published."""
    place.unit()
    place.config()
    place.publish('1.0', FAILS)
    place.run('systemctl daemon-reload')
    for _ in range(2):
        place.tako(code=1)
        place.assert_now('1.0', is_due=True, state='failed')
    place.publish('1.1')
    place.tako(code=None)
    place.assert_now('1.1')
    check.assertEqual('', place.tako())


@case
def unit_had_failed_before(place):
    """The unit runs on a good version."""
    place.begin(service('Type=simple\n' + RUN), program=FAILS)
    place.wait_for_state('failed')
    place.publish('1.1')
    place.tako()
    place.assert_now('1.1')


# ---- start limits

@case
def start_limit_is_hit_by_the_bad_image(place):
    place.begin(service(AUTO_RESTART + RUN, LIMITED))
    place.publish('1.1', FAILS)
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])


@case
def start_limit_by_default_and_a_large_earlier_image(place):
    """systemd restarts the unit on the bad image while Tako hashes the earlier image."""
    place.begin(service(AUTO_RESTART + RUN), program=RUNS + '\n' * (64 << 20))
    place.publish('1.1', FAILS)
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])


@case
def start_limit_was_hit_before(place):
    """Restarts of a running unit hit the limit. A daemon-reload resets the count."""
    place.begin(service(unit=LIMITED))
    place.run('while systemctl restart NAME.service; do :; done')
    check.assertEqual('failed', place.state_of())
    place.publish('1.1')
    place.tako()
    place.assert_now('1.1')


@case
def seven_good_versions_at_once(place):
    place.begin(confirm=0)
    for number in range(1, 8):
        place.publish('1.{}'.format(number))
        place.tako()
    place.assert_now('1.7')


# ---- what is not the image's fault

@case
def database_is_down(place):
    """The unit runs on neither image: Tako rejects none before it runs on the earlier one."""
    needs = 'test -e /var/lib/NAME-database || exit 1\n' + RUNS
    place.run('touch /var/lib/NAME-database')
    place.begin(program=needs)
    place.run('rm /var/lib/NAME-database')
    place.publish('1.1', needs)
    for _ in range(2):
        printed = place.tako(code=1)
        check.assertIn(place.service + ' failed', printed)
        place.assert_now('1.0', is_due=True, state='failed')
    place.run('touch /var/lib/NAME-database')
    place.tako()
    place.tako()
    place.assert_now('1.1')


@case
def requirement_is_down(place):
    """The same, where the unit requires a unit for the database."""
    database = service('Type=oneshot\nExecStart=/usr/bin/test -e /var/lib/NAME-database\n')
    place.run('touch /var/lib/NAME-database')
    place.begin(service(unit='Requires=NAME-database.service\nAfter=NAME-database.service\n'),
                [('NAME-database.service', database)])
    place.run('rm /var/lib/NAME-database')
    place.publish('1.1')
    for _ in range(2):
        place.tako(code=1)
        place.assert_now('1.0', is_due=True, state='inactive')
    place.run('touch /var/lib/NAME-database')
    place.tako()
    place.tako()
    place.assert_now('1.1')


@case
def requirement_unpacks_the_image(place):
    """The required oneshot fails on the bad image."""
    unpacks = service(ONESHOT + 'RemainAfterExit=yes\n', 'PartOf=NAME.service\n')
    place.begin(service(SLEEPS, 'Requires=NAME-unpack.service\nAfter=NAME-unpack.service\n'),
                [('NAME-unpack.service', unpacks)], program=EXITS_WITH_0)
    place.publish('1.1', FAILS)
    check.assertIn(place.name + '-unpack.service failed', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])
    place.publish('1.2', EXITS_WITH_0)
    place.tako()
    place.assert_now('1.2', ['1.1'])


@case
def condition_is_not_met(place):
    place.begin(service(unit='ConditionPathExists=/var/lib/NAME-wanted\n'))
    place.publish('1.1')
    place.tako()
    place.assert_now('1.1', state='inactive')


@case
def exec_condition_is_not_met(place):
    place.begin(service('ExecCondition=/usr/bin/test -e /var/lib/NAME-wanted\n' + RUN))
    place.publish('1.1')
    place.tako()
    place.assert_now('1.1', state='inactive')


@case
def assertion_is_not_met(place):
    """systemd does not start the unit, so its image cannot be at fault."""
    place.run('touch /var/lib/NAME-wanted')
    place.begin(service(unit='AssertPathExists=/var/lib/NAME-wanted\n'))
    place.run('rm /var/lib/NAME-wanted')
    place.publish('1.1')
    place.tako(code=1)
    place.assert_now('1.1', is_due=True, state='inactive')
    place.run('touch /var/lib/NAME-wanted')
    place.tako()
    place.assert_now('1.1')


@case
def job_times_out(place):
    slow = ('Type=oneshot\nEnvironment=SECONDS=0\nEnvironmentFile=-/run/NAME-slow\n'
            'ExecStart=/bin/sleep $SECONDS\n')
    place.begin(service(RUN, 'JobTimeoutSec=1\nWants=NAME-slow.service\nAfter=NAME-slow.service\n'),
                [('NAME-slow.service', service(slow))])
    place.run('echo SECONDS=20 > /run/NAME-slow')
    place.publish('1.1')
    check.assertIn('timed out', place.tako(code=1))
    place.assert_now('1.1', is_due=True, state='inactive')
    place.run('rm /run/NAME-slow; systemctl stop NAME-slow.service')
    place.tako()
    place.assert_now('1.1')


@case
def manual_restart_is_refused(place):
    place.begin()
    place.unit(service(unit='RefuseManualStart=yes\n'))
    place.run('systemctl daemon-reload')
    place.publish('1.1')
    check.assertIn('Operation refused', place.tako(code=1))
    place.assert_now('1.1', is_due=True, state='active', unit=place.service)


@case
def user_may_not_restart(place):
    """Tako rejects no good version. A later run as root makes up for the restart."""
    place.begin()
    place.run('chown -R nobody {} '.format(place.destination))
    for version in ('1.1', '1.2'):
        place.publish(version)
        printed = place.tako(code=1, environ=NOBODY)
        check.assertIn('Interactive authentication required', printed)
        check.assertIn('let polkit allow the restart', printed)
        place.assert_now(version, is_due=True, unit=place.service)
    check.assertEqual(['1.0'], place.starts())
    place.tako()
    place.assert_now('1.2')


@case
def user_may_not_restart_and_there_is_no_polkit(place):
    """systemctl refuses as it does on a machine without polkit."""
    place.begin()
    environ = wrap_systemctl(place, REFUSES)
    place.publish('1.1')
    check.assertIn('let polkit allow the restart', place.tako(code=1, environ=environ))
    place.assert_now('1.1', is_due=True, unit=place.service)


@case
def systemctl_leaves_a_child_with_its_pipes(place):
    place.begin()
    environ = wrap_systemctl(place, 'sleep 100 &\n')
    began = time.monotonic()
    place.publish('1.1')
    place.tako(environ=environ)
    place.assert_now('1.1')
    place.publish('1.2', FAILS)
    place.tako(code=1, environ=environ)
    place.assert_now('1.1', ['1.2'])
    check.assertLess(time.monotonic() - began, 60)


@case
def systemctl_is_verbose(place):
    place.begin()
    environ = 'SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console LANG=de_DE.UTF-8'
    for version, program, code in (('1.1', RUNS, 0), ('1.2', FAILS, 1)):
        place.publish(version, program)
        printed = place.tako(code=code, environ=environ)
        check.assertNotIn('changing state', printed)
    place.assert_now('1.1', ['1.2'])


REFUSES = """case $1 in restart)
    echo 'Failed to restart NAME.service: Access denied' >&2
    echo "See system logs and 'systemctl status NAME.service' for details." >&2
    exit 4;;
esac
"""


def wrap_systemctl(place, begins):
    """Make a systemctl that runs these shell commands first.

    Return the environment variables with which Tako finds it.
    """
    wrapper = '#!/bin/sh\n{}exec /usr/bin/systemctl "$@"\n'.format(begins)
    place.machine.write(place.named('/opt/NAME/systemctl'), place.named(wrapper), 0o755)
    return place.named('PATH=/opt/NAME:$PATH')


# ---- what others do at the same time

@case
def unit_is_stopped_in_the_restart(place):
    """The unit stays stopped. Its state is failed, as a signal ended ExecStartPre=."""
    place.begin(service(SLOW))
    place.publish('1.1')
    run = place.start()
    place.wait_for_state('activating')
    place.run('systemctl stop NAME.service')
    check.assertIn('stopped', place.finish(run))
    place.assert_now('1.1', state='failed')
    check.assertEqual('', place.tako())
    place.assert_now('1.1', state='failed')


@case
def oneshot_is_stopped_in_the_restart(place):
    """The state of the unit is failed, as a signal ended its program."""
    place.begin(service('Type=oneshot\nRemainAfterExit=yes\n' + RUN), program=EXITS_WITH_0)
    place.publish('1.1', 'sleep 20\n')
    run = place.start()
    place.wait_for_start('1.1')
    place.run('systemctl stop NAME.service')
    check.assertIn('stopped', place.finish(run))
    place.assert_now('1.1', state='failed')


@case
def unit_is_stopped_in_the_watch(place):
    assert_stopped_in_the_watch(place, RUNS, 'inactive')


@case
def stopped_program_exits_with_143(place):
    """Java exits with 143 after SIGTERM, so the state of the stopped unit is failed."""
    program = 'trap "exit 143" TERM\nwhile :; do sleep 0.1; done\n'
    assert_stopped_in_the_watch(place, program, 'failed')


@case
def unit_that_is_not_enabled_is_stopped(place):
    """systemd unloads the unit at once. Only the result of the restart counts."""
    assert_stopped_in_the_watch(place, RUNS, 'inactive', install='')


def assert_stopped_in_the_watch(place, program, state, **settings):
    place.begin(service(**settings), confirm=5, program=program)
    place.publish('1.1', program)
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(1)
    place.run('systemctl stop NAME.service')
    place.finish(run)
    place.assert_now('1.1', state=state)
    check.assertEqual('', place.tako())
    place.run('systemctl start NAME.service')
    place.wait_for_start('1.1', 2)
    place.assert_now('1.1')


@case
def unit_is_restarted_in_the_watch(place):
    """The watch begins again: the program fails after the first watch would have ended."""
    place.begin(confirm=4)
    place.publish('1.1', FIRST_TIME + '|| { sleep 3; exit 1; }\n' + RUNS)
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(2)
    place.run('systemctl restart NAME.service')
    check.assertIn('1.1 is rejected', place.finish(run, 1))
    place.assert_now('1.0', ['1.1'])


@case
def unit_is_restarted_in_the_watch_and_it_runs(place):
    place.begin(confirm=3)
    place.publish('1.1')
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(1)
    place.run('systemctl restart NAME.service')
    place.finish(run)
    place.assert_now('1.1')


@case
def tako_is_killed_in_the_watch(place):
    """The next run finds the unit running, and does not restart it."""
    place.begin(confirm=3)
    place.publish('1.1')
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(1)
    place.kill('KILL')
    run.wait(30)
    place.assert_now('1.1', is_due=True)
    place.tako()
    place.assert_now('1.1')
    check.assertEqual(['1.0', '1.1'], place.starts())


@case
def tako_is_terminated_in_the_watch(place):
    """The same, with SIGTERM."""
    place.begin(confirm=3)
    place.publish('1.1')
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(1)
    place.kill('TERM')
    place.finish(run, 143)
    place.assert_now('1.1', is_due=True)
    place.tako()
    place.assert_now('1.1')
    check.assertEqual(['1.0', '1.1'], place.starts())


@case
def tako_is_killed_and_the_unit_fails(place):
    place.begin(confirm=60)
    place.publish('1.1', 'sleep 3\nexit 1\n')
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(1)
    place.kill('KILL')
    run.wait(30)
    place.wait_for_state('failed')
    place.config()
    check.assertIn('1.1 is rejected', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])


@case
def several_configs_in_one_run(place):
    """Tako watches the units of all configs at the same time. One of them fails."""
    places = [place] + [place.beside('{}-{}'.format(place.name, number)) for number in range(4)]
    try:
        for each in places:
            each.begin(confirm=6)
            each.publish('1.1', DIES_LATER if each is places[1] else RUNS)
        began = time.monotonic()
        place.tako(code=1, options=' '.join(each.config_path for each in places[1:]))
        took = time.monotonic() - began
        for each in places:
            each.assert_now(*('1.0', ['1.1']) if each is places[1] else ('1.1',))
        check.assertLess(took, 25)              # one after another, they take five times six
    finally:
        for each in places[1:]:
            each.__exit__()


@case
def two_configs_of_one_unit(place):
    """Tako watches them one after another, so that it knows whose image is at fault."""
    other = place.beside(place.name + '-2')
    try:
        other.config(restart=place.service)
        other.publish('1.0', EXITS_WITH_0)
        other.tako('fetch --init')
        place.begin(service('ExecStartPre=/bin/sh /var/lib/images/NAME-2/latest\n' + RUN))
        place.publish('1.1')
        other.publish('1.1', FAILS)
        place.tako(code=1, options=other.config_path)
        place.assert_now('1.1')
        other.assert_now('1.0', ['1.1'], unit=place.service)
    finally:
        other.__exit__()


# ---- units of every type

def kind(name, text, bad=FAILS, program=RUNS, units=(), state='active', **settings):
    """Register a case: Tako rolls the bad 1.1 back, and keeps the good 1.2.

    bad: the program of 1.1; None for no 1.1.
    """
    def run(place):
        place.begin(text, units, program, **settings)
        if bad is not None:
            place.publish('1.1', bad)
            check.assertIn('rolled back to 1.0, and 1.1 is rejected', place.tako(code=1))
            place.assert_now('1.0', ['1.1'], state=state)
        place.publish('1.2', program)
        place.tako()
        place.assert_now('1.2', ['1.1'] if bad else [], state=state)
        check.assertEqual('', place.tako())
    run.__name__ = name
    case(run)


NOTIFY = 'Type=notify\nNotifyAccess=all\n' + RUN
READY = 'systemd-notify --ready\n'
FEEDS_THE_WATCHDOG = 'while sleep 0.2; do systemd-notify WATCHDOG=1; done\n'
FORKING = service('Type=forking\n' + RUN)
FORKS = '{{ exec > /dev/null 2>&1; sleep {}; exit {}; }} &\n'
REMAINS = ONESHOT + 'RemainAfterExit=yes\n'
COLLECTED = 'CollectMode=inactive-or-failed\n'
TRIGGERED = service('Type=exec\n' + RUN, install='')
TIMER = [('NAME.timer', '[Timer]\nOnCalendar=hourly\n')]
MAIN = [('NAME-main.service', service(SLEEPS))]
TARGET = [('NAME.target', '[Unit]\nRequires=NAME.service\nAfter=NAME.service\n')]

kind('type_simple', service('Type=simple\n' + RUN))
kind('type_simple_dies_later', service('Type=simple\n' + RUN), DIES_LATER)
kind('type_simple_killed', service('Type=simple\n' + RUN), 'sleep 1\nkill -KILL $$\n')
kind('type_simple_not_enabled', service('Type=simple\n' + RUN, install=''), DIES_LATER)
kind('type_exec', service('Type=exec\n' + RUN))
kind('type_exec_dies_later', service('Type=exec\n' + RUN), DIES_LATER)
kind('type_notify', service(NOTIFY), FAILS, READY + RUNS)
kind('type_notify_dies_later', service(NOTIFY), READY + DIES_LATER, READY + RUNS)
kind('type_notify_never_ready', service(NOTIFY + 'TimeoutStartSec=2\n'), RUNS, READY + RUNS)
kind('type_notify_watchdog', service(NOTIFY + 'WatchdogSec=1\n'), READY + RUNS,
     READY + FEEDS_THE_WATCHDOG, confirm=4)
kind('type_forking', FORKING, FAILS, FORKS.format(1000, 0))
kind('type_forking_dies_later', FORKING, FORKS.format(1, 1), FORKS.format(1000, 0))
kind('type_oneshot', service(ONESHOT), FAILS, EXITS_WITH_0, state='inactive')
kind('type_oneshot_not_enabled', service(ONESHOT, install=''), FAILS, EXITS_WITH_0,
     state='inactive')
kind('type_oneshot_remains', service(REMAINS), FAILS, EXITS_WITH_0)
kind('type_oneshot_collected', service(ONESHOT, COLLECTED, install=''), FAILS, EXITS_WITH_0,
     state='inactive')
kind('type_oneshot_remains_collected', service(REMAINS, COLLECTED), FAILS, EXITS_WITH_0)
kind('part_of', service(unit='PartOf=NAME-main.service\n'), None, RUNS, MAIN,
     restart='NAME-main.service')
kind('timer', service(ONESHOT, install=''), None, EXITS_WITH_0, TIMER, restart='NAME.timer',
     state='inactive')
kind('triggered', TRIGGERED, None, EXITS_WITH_0, TIMER, state='inactive')
kind('triggered_and_fails', TRIGGERED, DIES_LATER, EXITS_WITH_0, TIMER, state='inactive')
kind('target', service(NOTIFY, 'PartOf=NAME.target\n'), FAILS, READY + RUNS, TARGET,
     restart='NAME.target')


@case
def template_instance(place):
    """The template has a hyphen in its name, so systemctl quotes the name of its slice."""
    unit = place.name + '@one.service'
    place.instances.append(unit)
    instances = service('Type=exec\n' + RUN, install='')
    place.begin(service(SLEEPS), [('NAME@.service', instances)],
                restart='NAME@one.service')
    place.publish('1.1', DIES_LATER)
    check.assertIn(unit + ' failed', place.tako(code=1))
    place.assert_now('1.0', ['1.1'], unit=unit)
    place.publish('1.2')
    place.tako()
    place.assert_now('1.2', ['1.1'], unit=unit)


@case
def alias(place):
    names = 'WantedBy=multi-user.target\nAlias=NAME-alias.service'
    place.begin(service(install=names), restart='NAME-alias.service')
    place.publish('1.1', DIES_LATER)
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])
    place.publish('1.2')
    place.tako()
    place.assert_now('1.2', ['1.1'])


# ---- what is wrong with Restart=

@case
def unit_is_masked(place):
    """The same line names another unit, which is good."""
    place.begin()
    place.run('ln -s /dev/null /run/systemd/system/NAME-m.service')
    assert_refused(place, 'NAME.service NAME-m.service', 'masked')


@case
def unit_has_a_bad_setting(place):
    place.begin()
    place.unit(service('ExecStart=relative/path\n', install=''), place.name + '-bad.service')
    assert_refused(place, 'NAME-bad.service', 'cannot load')


@case
def unit_file_is_broken(place):
    place.begin()
    place.unit('[Service\nExecStart=/bin/true\n', place.name + '-bad.service')
    assert_refused(place, 'NAME-bad.service', 'cannot load')


@case
def unit_is_misspelt(place):
    place.begin()
    assert_refused(place, 'NAMES.service', 'unknown')


@case
def unit_is_a_template(place):
    place.begin()
    assert_refused(place, 'NAME@.service', 'instance')


@case
def unit_is_a_socket(place):
    """The socket's service already runs, as after a first connection."""
    place.begin()
    place.unit('[Socket]\nListenStream=/run/NAME-s\n', place.name + '-s.socket')
    place.unit(service(SLEEPS, install=''), place.name + '-s.service')
    place.run('systemctl daemon-reload')
    place.run('systemctl start NAME-s.socket; systemctl start NAME-s.service')
    assert_refused(place, 'NAME-s.socket', 'service')
    check.assertEqual('active', place.state_of(place.name + '-s.socket'))


def assert_refused(place, restart, word):
    """Check that this Restart= is an error before any download of the image.

    After the config is corrected, fetch installs the image.
    """
    place.run('systemctl daemon-reload')
    place.config(restart=restart)
    place.publish('1.1')
    for options in ('--dry-run', ''):
        printed = place.tako(code=2, options=options)
        check.assertIn(place.line_of('Restart='), printed)
        check.assertIn(word, printed)
    place.assert_not_requested('1.1')
    place.config()
    place.assert_now('1.0')
    check.assertEqual(['1.0'], place.starts())
    place.tako()
    place.assert_now('1.1')


@case
def unit_file_comes_with_the_image(place):
    """If no image is installed yet, an unknown unit is a warning, and its restart is due."""
    place.config()
    place.publish('1.0')
    check.assertIn(place.service, place.tako(options='--dry-run'))
    check.assertIn(place.service, place.tako())
    check.assertEqual(('1.0', [], True), place.known())
    check.assertIn(place.line_of('Restart='), place.tako(code=2))
    place.unit()
    place.run('systemctl daemon-reload')
    place.tako()
    place.assert_now('1.0')


@case
def init_does_not_check_units(place):
    place.config()
    place.publish('1.0')
    place.run('ln -sf /dev/null /run/systemd/system/NAME.service; systemctl daemon-reload')
    place.tako('fetch --init')
    check.assertEqual('1.0', place.status()['version'])
    place.run('rm /run/systemd/system/NAME.service; systemctl daemon-reload')


# ---- rollback by hand, and without an origin

@case
def rollback_by_hand(place):
    """Roll back to the previous image, and reject the newer versions that are published.

    A version that is published later is installed.
    """
    place.begin()
    place.publish('1.1')
    place.tako()
    requests = place.manifest_requests()
    check.assertIn('rolled back to 1.0', place.tako('rollback'))
    check.assertEqual(requests, place.manifest_requests())
    place.assert_now('1.0', ['1.1'])
    check.assertEqual('', place.tako())
    place.assert_now('1.0', ['1.1'])
    place.publish('1.2')
    place.tako()
    place.assert_now('1.2', ['1.1'])


@case
def rollback_is_undone(place):
    place.begin()
    place.publish('1.1')
    place.tako()
    place.tako('rollback')
    place.tako(options='--retry-rejected')
    place.assert_now('1.1')


@case
def rollback_without_a_state_file(place):
    """Roll back to the newest older image that is intact, past a damaged one."""
    three_versions(place)
    place.run('rm {}/.state'.format(place.destination))
    image = place.machine.path(place.destination + '/store/' + place.digest_of('1.1'))
    os.chmod(image, 0o644)
    with open(image, 'ab') as stream:
        stream.write(b'damage')
    place.tako('rollback')
    place.assert_now('1.0', ['1.1', '1.2'])


@case
def rollback_to_a_version(place):
    three_versions(place)
    for version in ('1.9', '2.0'):
        place.tako('rollback', 2, options='--to ' + version)
    place.assert_now('1.2')
    place.tako('rollback', options='--to 1.0')
    place.assert_now('1.0', ['1.1', '1.2'])
    place.tako('rollback', 1)
    place.assert_now('1.0', ['1.1', '1.2'])


@case
def rollback_to_an_image_that_does_not_run(place):
    """The image that the admin chose stays installed, and the restart stays due."""
    place.begin(program='test -e /var/lib/NAME-works || exit 1\n' + RUNS, confirm=1)
    place.publish('1.1')
    place.tako()
    place.tako('rollback', 1)
    place.assert_now('1.0', ['1.1'], is_due=True, state='failed')
    place.run('touch /var/lib/NAME-works')
    place.tako()
    place.assert_now('1.0', ['1.1'])


def three_versions(place):
    place.begin(confirm=1)
    for version in ('1.1', '1.2'):
        place.publish(version)
        place.tako()
    place.assert_now('1.2')


@case
def bounds_move_while_the_origin_is_down(place):
    place.begin()
    place.publish('1.1')
    place.tako()
    place.publisher.origin.faults[place.manifest] = origin.status(503)
    place.config(version='1.0')
    check.assertIn('1.0 is installed', place.tako(code=75, options='--timeout 2'))
    place.assert_now('1.0')
    place.tako(code=75, options='--timeout 2')
    place.assert_now('1.0')
    place.tako('fetch --init', options='--timeout 2')


@case
def bounds_move_before_the_unit_starts(place):
    """fetch --init switches and restarts nothing. Then the unit starts."""
    place.begin()
    place.publish('1.1')
    place.tako()
    place.run('systemctl stop NAME.service')
    place.publisher.origin.faults[place.manifest] = origin.status(503)
    place.config(version='1.0')
    place.tako('fetch --init', options='--timeout 2')
    place.run('systemctl start NAME.service')
    place.wait_for_start('1.0', 2)
    place.assert_now('1.0')


# ---- a unit that fills the disk

DISKS = {
    'ext4': (64 << 20, ['mkfs.ext4', '-q', '-F', '-m', '0']),
    'xfs': (320 << 20, ['mkfs.xfs', '-q']),
    'btrfs': (128 << 20, ['mkfs.btrfs', '-q']),
}
FILLER = """
import itertools, os, sys
os.chdir(sys.argv[1])
def fill(size):
    try:
        with open('fill', 'ab', 0) as stream:
            while True:
                stream.write(bytes(size))
    except OSError:
        pass
fill(1 << 20)
fill(4096)
try:
    for number in itertools.count():
        with open('small-%d' % number, 'wb', 0) as stream:
            stream.write(bytes(1500))
except OSError:
    pass
os.sync()
fill(4096)
fill(1)
"""
FILLS = 'python3 /root/fill.py /var/lib/images/NAME\nexit 1\n'


def disk(name):
    """Register a case: the unit fills the disk of the destination, and fails."""
    def run(place):
        path = make_disk(place, *DISKS[name])
        place.machine.write('/root/fill.py', FILLER)
        mount = 'mount -o loop {} {}'.format(path, place.destination)
        if place.machine.run(mount, None, is_printed=False).code:
            raise unittest.SkipTest('cannot mount ' + name)
        try:
            place.begin(service('Type=exec\n' + RUN), confirm=8)
            place.publish('1.1', FILLS)
            place.tako(code=1)
            place.run('df {0}; ls -la {0} | grep -v small'.format(place.destination))
            place.assert_now('1.0', ['1.1'])
            starts = place.starts()
            place.tako(code=None)               # still full
            place.assert_now('1.0', ['1.1'])
            check.assertEqual(starts, place.starts())
            place.run('cd {}; rm -f fill small-*'.format(place.destination))
            place.config()
            place.publish('1.2')
            place.tako()
            place.assert_now('1.2', ['1.1'])
            names = place.run('ls -A ' + place.destination).split()
            check.assertEqual([], [each for each in names if each.endswith(('.back', '.new'))])
        finally:
            place.run('systemctl kill -s KILL NAME.service; systemctl stop NAME.service', None)
            place.run('umount -l ' + place.destination)
            os.remove(place.machine.path(path))
    run.__name__ = 'unit_fills_' + name
    case(run)


def make_disk(place, size, make):
    """Make a file system in a file of the machine. Return the path of the file there."""
    if shutil.which(make[0]) is None:
        raise unittest.SkipTest('no ' + make[0])
    path = '/root/{}.disk'.format(place.name)
    with open(place.machine.path(path), 'wb') as stream:
        stream.truncate(size)
    subprocess.run(make + [place.machine.path(path)], check=True, stderr=subprocess.DEVNULL)
    return path


for kind_of_disk in DISKS:
    disk(kind_of_disk)


# ---- systemd restarts, or the machine

@alone
def systemd_restarts_in_the_restart(place):
    place.begin(service(SLOW))
    place.publish('1.1')
    run = place.start()
    place.wait_for_state('activating')
    time.sleep(1)
    place.run('systemctl daemon-reexec')
    place.finish(run)
    place.assert_now('1.1')


@alone
def systemd_restarts_in_the_watch(place):
    place.begin(confirm=4)
    place.publish('1.1')
    run = place.start()
    place.wait_for_start('1.1')
    for _ in range(5):
        time.sleep(0.5)
        place.run('systemctl daemon-reexec', None)
    place.finish(run)
    place.assert_now('1.1')


@alone
def systemd_restarts_and_the_image_is_bad(place):
    place.begin(service(SLOW), confirm=4)
    place.publish('1.1', DIES_LATER)
    run = place.start()
    place.wait_for_state('activating')
    time.sleep(1)
    place.run('systemctl daemon-reexec')
    place.finish(run, 1)
    place.assert_now('1.0', ['1.1'])


@alone
def machine_shuts_down(place):
    """One unit's restart is in progress then, and another's is requested too late.

    Tako rejects no image. Both units run after the boot, and Tako does not restart them again.
    """
    late = place.beside(place.name + '-late')
    late.begin()
    late.publish('1.1')
    holds = "TimeoutStopSec=6\nExecStart=/bin/sh -c 'trap : TERM; while :; do sleep 0.1; done'\n"
    place.unit(service(holds), place.name + '-holds.service')
    place.begin(service(SLOW), confirm=1)
    place.publish('1.1')
    run = place.start()
    place.wait_for_state('activating')
    time.sleep(1)
    place.run('systemctl reboot --no-block')
    place.finish(run, 1)
    check.assertIn('destructive', late.tako(code=1))
    place.machine.reboot()
    for each in (place, late):
        each.wait_for_start('1.1')
        each.wait_for_state('active')
        each.assert_now('1.1', is_due=True)
        starts = each.starts()
        each.tako()
        each.assert_now('1.1')
        check.assertEqual(starts, each.starts())
    late.__exit__()


@alone
def power_fails_in_the_watch(place):
    """The unit fails at the next boot, after which fetch rolls back."""
    place.begin(confirm=60)
    place.publish('1.1', FIRST_TIME + '|| exit 1\n' + RUNS)
    place.start()
    place.wait_for_start('1.1')
    time.sleep(2)
    place.machine.cut_power()
    place.machine.boot()
    place.wait_for_state('failed')
    place.config()
    place.assert_now('1.1', is_due=True, state='failed')
    check.assertIn('rolled back to 1.0, and 1.1 is rejected', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])


# ---- the run of all cases

def run(suite, room, tree, say):
    """Run all cases in one machine; in a sample, some of them."""
    directory = os.path.join(room, 'units')
    os.mkdir(directory)
    authority = certificates.Authority(directory)
    lock = threading.Lock()

    def tell(what, out=''):
        with lock:
            say(what, out)

    def place_of(name):
        return Place(machine, publisher, name, tell, suite.is_sample)

    machine = Container(tree, os.path.join(directory, 'machine'), tell)
    publisher = Publisher(os.path.join(directory, 'served'), authority, lambda *_: None)
    with publisher, ending(machine):
        with suite.case('units: the machine boots'):
            machine.write('/usr/local/share/ca-certificates/example.crt',
                          scene.read(authority.bundle))
            machine.chroot('update-ca-certificates')
            machine.write('/usr/local/bin/tako.py', scene.read(scene.TAKO), 0o755)
            machine.boot()
        for result in together(suite.sample(TOGETHER, SHARE), place_of):
            report(suite, *result)
        for name in suite.sample(ALONE, SHARE):
            report(suite, *run_case(ALONE, name, place_of))


@contextlib.contextmanager
def ending(machine):
    """End a machine when the `with` ends."""
    try:
        yield
    finally:
        machine.end()


def run_case(cases, name, place_of):
    """Run a case. Return its name, the exception that it raised or None, and its seconds."""
    began, failure = time.monotonic(), None
    try:
        with place_of(name) as place:
            cases[name](place)
    except Exception as error:
        failure = error
    return name, failure, time.monotonic() - began


def together(names, place_of):
    """Run cases, WORKERS at a time. Yield the results of run_case() in the order they end."""
    results, lock = queue.Queue(), threading.Lock()

    def work():
        while True:
            with lock:
                name = next(names, None)
            if name is None:
                break
            results.put(run_case(TOGETHER, name, place_of))
        results.put(None)

    for _ in range(WORKERS):
        threading.Thread(target=work, daemon=True).start()
    left = WORKERS
    while left:
        result = results.get()
        if result is None:
            left -= 1
        else:
            yield result


def report(suite, name, failure, seconds):
    """Count a case, and print its result."""
    with suite.case('units: ' + name):
        if failure is not None:
            raise failure
    end = 'passed' if failure is None else 'failed'
    if isinstance(failure, unittest.SkipTest):
        end = 'skipped'
    print('  {}: {} after {:.1f} s'.format(name, end, seconds), flush=True)

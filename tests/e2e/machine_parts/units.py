"""What Tako makes of units that fail, under a real systemd: cases, each with units of its own.

A case is a function of a Place. Those under @case run several at a time in one machine. Those under
@alone restart the manager or the machine, and run one after another. A sample runs some of each.
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
SHARE = 0.4             # of the time that is left, in a sample
NOBODY = 'HOME=/ setpriv --reuid=65534 --regid=65534 --clear-groups'
ENDS = 'exit 1\n'
ENDS_WELL = 'exit 0\n'
DIES_LATER = 'sleep 1\nexit 1\n'
AUTO_RESTART = 'Restart=always\nRestartSec=50ms\n'
LIMITED = 'StartLimitBurst=2\nStartLimitIntervalSec=300\n'
FIRST_TIME = '[ $(grep -cFx VERSION {}NAME) = 1 ] '.format(RAN)
SLEEPS = 'ExecStart=/bin/sleep 1000\n'
ONESHOT = 'Type=oneshot\n' + RUN
SLOW = 'ExecStartPre=/bin/sleep 4\n' + RUN      # a restart that something can happen in

TOGETHER, ALONE = {}, {}                        # the cases, by name

check = unittest.TestCase()
check.maxDiff = None


def case(function):
    """Register a case that shares the machine with others."""
    TOGETHER[function.__name__.replace('_', '-')] = function
    return function


def alone(function):
    """Register a case that has the machine for itself."""
    ALONE[function.__name__.replace('_', '-')] = function
    return function


# ---- README's config and unit

@case
def readme_program_ends_at_once(place):
    assert_readme_rolls_back(place, ENDS)


@case
def readme_program_ends_at_once_and_restarts_soon(place):
    assert_readme_rolls_back(place, ENDS, 'RestartSec=100ms')


@case
def readme_program_dies_after_4_seconds(place):
    assert_readme_rolls_back(place, 'sleep 4\nexit 1\n')


@case
def readme_program_dies_after_60_seconds(place):
    """The limit of the promise: this is after Confirm=."""
    if place.is_sample:
        raise unittest.SkipTest('takes longer than a sample has')
    readme_place(place)
    publish_squashfs([place], '1.1', 'sleep 60\nexit 1\n')
    place.tako()
    place.assert_now('1.1')
    place.wait_for_state('activating', seconds=90)
    place.assert_now('1.1', state='activating')


def assert_readme_rolls_back(place, program, restart_seconds='RestartSec=30s'):
    """Run README's config and unit ten times, side by side; only the names differ."""
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
    """README's config and unit in this place, running 1.0."""
    text = readme('/etc/systemd/system/app.service')
    text = pages.vary(pages.vary(text, '/app.tako', '/NAME.tako'), '/images/app/', '/images/NAME/')
    place.unit(pages.vary(text, 'RestartSec=30s', restart_seconds))
    lines = readme(begins='Origin=') + readme(begins='Restart=')
    lines = lines.replace('/app', '/NAME').replace('app.service', 'NAME.service')
    place.machine.write(place.config_path, place.named(lines))
    publish_squashfs([place], '1.0', RUNS)
    place.start_units()                         # which fetches 1.0, by ExecStartPre=
    place.assert_now('1.0')


def readme(path=None, begins=''):
    return pages.snippet(scene.PROJECT, 'README.md', path, begins)


def publish_squashfs(places, version, program):
    """Publish one squashfs in each of these places."""
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
def program_dies_again_and_again(place):
    """Each time it comes again and is active: NRestarts tells."""
    place.begin(service('Restart=always\nRestartSec=100ms\n' + RUN), confirm=10)
    place.publish('1.1', 'sleep 3\nexit 1\n')
    check.assertIn('rolled back to 1.0, and 1.1 is rejected', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])


@case
def program_ends_well_too_soon(place):
    """A service that exits 0 by itself does not run."""
    place.begin()
    place.publish('1.1', 'sleep 1\n')
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])


@case
def program_ends_well_and_systemd_forgets_it(place):
    """A unit that is not enabled looks as if it had been stopped. The restart's result counts."""
    place.begin(service(install=''))
    place.publish('1.1', 'sleep 1\n')
    check.assertIn(place.service, place.tako().partition('tako: ')[2])
    place.assert_now('1.1', state='inactive')


@case
def program_is_trusted(place):
    """Confirm=0: the restart's own result is all that counts."""
    place.begin(service('Type=simple\n' + RUN), confirm=0)
    place.publish('1.1', DIES_LATER)
    place.tako()
    place.wait_for_state('failed')
    place.assert_now('1.1', state='failed')


@case
def fixed_version_is_taken(place):
    place.begin()
    place.publish('1.1', ENDS)
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
    """There is nothing to go back to: each run tries again, until a good version comes."""
    place.unit()
    place.config()
    place.publish('1.0', ENDS)
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
    """A good version mends it."""
    place.begin(service('Type=simple\n' + RUN), program=ENDS)
    place.wait_for_state('failed')
    place.publish('1.1')
    place.tako()
    place.assert_now('1.1')


# ---- start limits

@case
def start_limit_is_hit_by_the_bad_image(place):
    place.begin(service(AUTO_RESTART + RUN, LIMITED))
    place.publish('1.1', ENDS)
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])


@case
def start_limit_by_default_and_a_large_earlier_image(place):
    """The bad image is started again and again while the earlier one is hashed."""
    place.begin(service(AUTO_RESTART + RUN), program=RUNS + '\n' * (64 << 20))
    place.publish('1.1', ENDS)
    place.tako(code=1)
    place.assert_now('1.0', ['1.1'])


@case
def start_limit_was_hit_before(place):
    """By restarts of a unit that runs; a reload of the manager begins to count anew."""
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
    """It runs on neither image: the machine is at fault, until it runs on the earlier one."""
    needs = 'test -e /var/lib/NAME-database || exit 1\n' + RUNS
    place.run('touch /var/lib/NAME-database')
    place.begin(program=needs)
    place.run('rm /var/lib/NAME-database')
    place.publish('1.1', needs)
    for _ in range(2):
        told = place.tako(code=1)
        check.assertIn(place.service + ' failed', told)
        place.assert_now('1.0', is_due=True, state='failed')
    place.run('touch /var/lib/NAME-database')
    place.tako()
    place.tako()
    place.assert_now('1.1')


@case
def requirement_is_down(place):
    """The same, with a unit of its own that is required."""
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
    """The oneshot fails on the bad image."""
    unpacks = service(ONESHOT + 'RemainAfterExit=yes\n', 'PartOf=NAME.service\n')
    place.begin(service(SLEEPS, 'Requires=NAME-unpack.service\nAfter=NAME-unpack.service\n'),
                [('NAME-unpack.service', unpacks)], program=ENDS_WELL)
    place.publish('1.1', ENDS)
    check.assertIn(place.name + '-unpack.service failed', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])
    place.publish('1.2', ENDS_WELL)
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
    """systemd does not start it, so this says nothing about the image."""
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
    """One good version after another: none is rejected; root then makes up for the restart."""
    place.begin()
    place.run('chown -R nobody {} '.format(place.destination))
    for version in ('1.1', '1.2'):
        place.publish(version)
        told = place.tako(code=1, environ=NOBODY)
        check.assertIn('Access denied', told)
        check.assertIn('polkit', told)
        place.assert_now(version, is_due=True, unit=place.service)
    check.assertEqual(['1.0'], place.starts())
    place.tako()
    place.assert_now('1.2')


@case
def user_would_have_to_authenticate(place):
    """As with polkit, and nobody to ask."""
    place.begin()
    environ = wrap_systemctl(place, REFUSES)
    place.publish('1.1')
    check.assertIn('polkit', place.tako(code=1, environ=environ))
    place.assert_now('1.1', is_due=True, unit=place.service)


@case
def systemctl_leaves_a_child_with_its_pipes(place):
    place.begin()
    environ = wrap_systemctl(place, 'sleep 100 &\n')
    began = time.monotonic()
    place.publish('1.1')
    place.tako(environ=environ)
    place.assert_now('1.1')
    place.publish('1.2', ENDS)
    place.tako(code=1, environ=environ)
    place.assert_now('1.1', ['1.2'])
    check.assertLess(time.monotonic() - began, 60)


@case
def systemctl_is_verbose(place):
    place.begin()
    environ = 'SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console LANG=de_DE.UTF-8'
    for version, program, code in (('1.1', RUNS, 0), ('1.2', ENDS, 1)):
        place.publish(version, program)
        told = place.tako(code=code, environ=environ)
        check.assertNotIn('changing state', told)
    place.assert_now('1.1', ['1.2'])


REFUSES = """case $1 in restart)
    echo 'Failed to restart NAME.service: Interactive authentication required.' >&2
    echo "See system logs and 'systemctl status NAME.service' for details." >&2
    exit 4;;
esac
"""


def wrap_systemctl(place, begins):
    """Make a systemctl that does this first; return the environment in which it is found."""
    wrapper = '#!/bin/sh\n{}exec /usr/bin/systemctl "$@"\n'.format(begins)
    place.machine.write(place.named('/opt/NAME/systemctl'), place.named(wrapper), 0o755)
    return place.named('PATH=/opt/NAME:$PATH')


# ---- what others do meanwhile

@case
def somebody_stops_it_in_the_restart(place):
    """It stays stopped. systemd calls it failed, by the signal that ended ExecStartPre=."""
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
def somebody_stops_a_oneshot_in_the_restart(place):
    """systemd calls it failed then, by the signal that it was stopped with."""
    place.begin(service('Type=oneshot\nRemainAfterExit=yes\n' + RUN), program=ENDS_WELL)
    place.publish('1.1', 'sleep 20\n')
    run = place.start()
    place.wait_for_start('1.1')
    place.run('systemctl stop NAME.service')
    check.assertIn('stopped', place.finish(run))
    place.assert_now('1.1', state='failed')


@case
def somebody_stops_it_in_the_watch(place):
    assert_stopped_in_the_watch(place, RUNS, 'inactive')


@case
def somebody_stops_a_program_that_ends_with_143(place):
    """As Java does when it is told to end: systemd calls it failed, though it was stopped."""
    program = 'trap "exit 143" TERM\nwhile :; do sleep 0.1; done\n'
    assert_stopped_in_the_watch(place, program, 'failed')


@case
def somebody_stops_a_unit_that_is_not_enabled(place):
    """systemd forgets it at once; what is left is the result of the restart."""
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
def somebody_restarts_it_in_the_watch(place):
    """The watch begins anew: its second start dies after the first one's watch is over."""
    place.begin(confirm=4)
    place.publish('1.1', FIRST_TIME + '|| { sleep 3; exit 1; }\n' + RUNS)
    run = place.start()
    place.wait_for_start('1.1')
    time.sleep(2)
    place.run('systemctl restart NAME.service')
    check.assertIn('1.1 is rejected', place.finish(run, 1))
    place.assert_now('1.0', ['1.1'])


@case
def somebody_restarts_it_in_the_watch_and_it_runs(place):
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
    """The next run finds the unit running, and restarts it no more."""
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
def tako_is_told_to_end_in_the_watch(place):
    """The same, in good order."""
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
    """They are watched together; one of them fails."""
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
        check.assertLess(took, 25)              # and one after another: five times six
    finally:
        for each in places[1:]:
            each.__exit__()


@case
def two_configs_of_one_unit(place):
    """Their watches come one after another, so that it is clear whose image is at fault."""
    other = place.beside(place.name + '-2')
    try:
        other.config(restart=place.service)
        other.publish('1.0', ENDS_WELL)
        other.tako('fetch --init')
        place.begin(service('ExecStartPre=/bin/sh /var/lib/images/NAME-2/latest\n' + RUN))
        place.publish('1.1')
        other.publish('1.1', ENDS)
        place.tako(code=1, options=other.config_path)
        place.assert_now('1.1')
        other.assert_now('1.0', ['1.1'], unit=place.service)
    finally:
        other.__exit__()


# ---- units of every kind

def kind(name, text, bad=ENDS, program=RUNS, units=(), state='active', **settings):
    """Register a case: the bad 1.1 is rolled back, the good 1.2 is kept. bad=None: no bad one."""
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
kind('type_notify', service(NOTIFY), ENDS, READY + RUNS)
kind('type_notify_dies_later', service(NOTIFY), READY + DIES_LATER, READY + RUNS)
kind('type_notify_never_ready', service(NOTIFY + 'TimeoutStartSec=2\n'), RUNS, READY + RUNS)
kind('type_notify_watchdog', service(NOTIFY + 'WatchdogSec=1\n'), READY + RUNS,
     READY + FEEDS_THE_WATCHDOG, confirm=4)
kind('type_forking', FORKING, ENDS, FORKS.format(1000, 0))
kind('type_forking_dies_later', FORKING, FORKS.format(1, 1), FORKS.format(1000, 0))
kind('type_oneshot', service(ONESHOT), ENDS, ENDS_WELL, state='inactive')
kind('type_oneshot_not_enabled', service(ONESHOT, install=''), ENDS, ENDS_WELL, state='inactive')
kind('type_oneshot_remains', service(REMAINS), ENDS, ENDS_WELL)
kind('type_oneshot_collected', service(ONESHOT, COLLECTED, install=''), ENDS, ENDS_WELL,
     state='inactive')
kind('type_oneshot_remains_collected', service(REMAINS, COLLECTED), ENDS, ENDS_WELL)
kind('part_of', service(unit='PartOf=NAME-main.service\n'), None, RUNS, MAIN,
     restart='NAME-main.service')
kind('timer', service(ONESHOT, install=''), None, ENDS_WELL, TIMER, restart='NAME.timer',
     state='inactive')
kind('triggered', TRIGGERED, None, ENDS_WELL, TIMER, state='inactive')
kind('triggered_and_fails', TRIGGERED, DIES_LATER, ENDS_WELL, TIMER, state='inactive')
kind('target', service(NOTIFY, 'PartOf=NAME.target\n'), ENDS, READY + RUNS, TARGET,
     restart='NAME.target')


@case
def template_instance(place):
    """Its slice has a name that systemctl quotes, as has that of each template with a hyphen."""
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
    """The other unit of the same line is fine."""
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
    """Of a service that runs, as it does once there was a connection."""
    place.begin()
    place.unit('[Socket]\nListenStream=/run/NAME-s\n', place.name + '-s.socket')
    place.unit(service(SLEEPS, install=''), place.name + '-s.service')
    place.run('systemctl daemon-reload')
    place.run('systemctl start NAME-s.socket; systemctl start NAME-s.service')
    assert_refused(place, 'NAME-s.socket', 'service')
    check.assertEqual('active', place.state_of(place.name + '-s.socket'))


def assert_refused(place, restart, word):
    """See that it is an error of the config before a byte of the image comes, and can be mended."""
    place.run('systemctl daemon-reload')
    place.config(restart=restart)
    place.publish('1.1')
    for options in ('--dry-run', ''):
        told = place.tako(code=2, options=options)
        check.assertIn(place.line_of('Restart='), told)
        check.assertIn(word, told)
    place.assert_not_asked_for('1.1')
    place.config()
    place.assert_now('1.0')
    check.assertEqual(['1.0'], place.starts())
    place.tako()
    place.assert_now('1.1')


@case
def unit_file_comes_with_the_image(place):
    """Where nothing is installed yet, an unknown unit is a warning, and its restart is due."""
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
def init_does_not_look_at_units(place):
    place.config()
    place.publish('1.0')
    place.run('ln -sf /dev/null /run/systemd/system/NAME.service; systemctl daemon-reload')
    place.tako('fetch --init')
    check.assertEqual('1.0', place.status()['version'])
    place.run('rm /run/systemd/system/NAME.service; systemctl daemon-reload')


# ---- a way back by hand, and without an origin

@case
def rollback_by_hand(place):
    """To the image before; what is listed above it is rejected, later versions come as ever."""
    place.begin()
    place.publish('1.1')
    place.tako()
    asked = place.manifests_asked_for()
    check.assertIn('rolled back to 1.0', place.tako('rollback'))
    check.assertEqual(asked, place.manifests_asked_for())
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
def rollback_without_a_noted_image(place):
    """The newest intact older one that is here; a damaged one is passed over."""
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
    """The admin's choice stays, and the restart stays due."""
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
    """--init alone: it switches, restarts nothing, and the unit starts."""
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
    """Register a case: the unit fills the disk of the destination, then fails."""
    def run(place):
        path = make_disk(place, *DISKS[name])
        place.machine.write('/root/fill.py', FILLER)
        mount = 'mount -o loop {} {}'.format(path, place.destination)
        if place.machine.run(mount, None, is_told=False).code:
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
    """Make a file system in a file of the machine; return its path there."""
    if shutil.which(make[0]) is None:
        raise unittest.SkipTest('no ' + make[0])
    path = '/root/{}.disk'.format(place.name)
    with open(place.machine.path(path), 'wb') as stream:
        stream.truncate(size)
    subprocess.run(make + [place.machine.path(path)], check=True, stderr=subprocess.DEVNULL)
    return path


for kind_of_disk in DISKS:
    disk(kind_of_disk)


# ---- the manager restarts, and the machine

@alone
def manager_restarts_in_the_restart(place):
    place.begin(service(SLOW))
    place.publish('1.1')
    run = place.start()
    place.wait_for_state('activating')
    time.sleep(1)
    place.run('systemctl daemon-reexec')
    place.finish(run)
    place.assert_now('1.1')


@alone
def manager_restarts_in_the_watch(place):
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
def manager_restarts_and_the_image_is_bad(place):
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
    """One restart is under way then, another comes too late: no image is rejected.

    Both units run after the boot, and are restarted no more.
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
def power_goes_in_the_watch(place):
    """At the next boot the unit fails, which counts."""
    place.begin(confirm=60)
    place.publish('1.1', FIRST_TIME + '|| exit 1\n' + RUNS)
    place.start()
    place.wait_for_start('1.1')
    time.sleep(2)
    place.machine.cut()
    place.machine.boot()
    place.wait_for_state('failed')
    place.config()
    place.assert_now('1.1', is_due=True, state='failed')
    check.assertIn('rolled back to 1.0, and 1.1 is rejected', place.tako(code=1))
    place.assert_now('1.0', ['1.1'])


# ---- all of them

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
    """Be done with a machine when the `with` ends."""
    try:
        yield
    finally:
        machine.end()


def run_case(cases, name, place_of):
    """Run a case; return its name, what it raised or None, and how many seconds it took."""
    began, failure = time.monotonic(), None
    try:
        with place_of(name) as place:
            cases[name](place)
    except Exception as error:
        failure = error
    return name, failure, time.monotonic() - began


def together(names, place_of):
    """Run some cases at a time; yield what run_case() returns of each, as they end."""
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
    """Count a case, and say how it went."""
    with suite.case('units: ' + name):
        if failure is not None:
            raise failure
    end = 'passed' if failure is None else 'failed'
    if isinstance(failure, unittest.SkipTest):
        end = 'skipped'
    print('  {}: {} after {:.1f} s'.format(name, end, seconds), flush=True)

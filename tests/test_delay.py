"""Section 17: Delay=, the wait before a new version is installed, as values and in a fetch."""
import collections
import json
import os
import random
import unittest
import unittest.mock

import origin
import scene
import tako
from scene import ONE, THREE, TWO

DAY, HOUR = 86400, 3600
NOW = 1795860000                # 2026-11-28 10:00 UTC
MACHINE = '0123456789abcdef' * 2
VERSIONS = '0.9', '1.0', '1.1', '1.2', '1.3', '2.0'
ENTRIES = {version: origin.entry_of(version, version.encode()) for version in VERSIONS}
MANIFEST = tako.Manifest(tuple(ENTRIES.values()))


def config(delay='2d', version='1.*'):
    return tako.parse_config('\n'.join((
        'Origin=http://localhost', 'Destination=/', 'PublicKey=' + origin.PUBLIC_KEY,
        'Version=' + version) + (('Delay=' + delay,) if delay else ())))


def state(seen=(), **versions):
    """Return a state in which these versions were first seen so many seconds before NOW."""
    return tako.parse_state('')._replace(
        seen=tuple('{} {}'.format(ENTRIES[version].digest, NOW - ago)
                   for version, ago in dict(seen).items()),
        **{name: tuple(ENTRIES[each].digest for each in value) for name, value in versions.items()})


class WaitingTest(unittest.TestCase):
    """Which versions wait, and until how many seconds from NOW."""

    def waiting(self, settings, known, latest='1.0', listed=MANIFEST):
        names = {entry.digest: entry.version.text for entry in reversed(listed.entries)}
        _, found = tako.plan_delay(listed, settings, known, latest and ENTRIES[latest].digest,
                                   MACHINE, NOW)
        return {names[digest]: until - NOW for digest, until in found.items()}

    def test_versions_wait_as_the_table_says(self):
        for label, delay, version, latest, known, expected in (
                ('without Delay=', '', '1.*', '1.2', state(), {}),
                ('seen now', '2d', '1.*', '1.2', state(), {'1.3': 2 * DAY}),
                ('seen yesterday', '2d', '1.*', '1.2', state({'1.3': DAY}), {'1.3': DAY}),
                ('a second is left', '2d', '1.*', '1.2', state({'1.3': 2 * DAY - 1}), {'1.3': 1}),
                ('the time is over', '2d', '1.*', '1.2', state({'1.3': 2 * DAY}), {}),
                ('each has its own time', '2d', '1.*', '1.1', state({'1.2': DAY}),
                 {'1.3': 2 * DAY, '1.2': DAY}),
                ('an older one is through', '2d', '1.*', '1.1', state({'1.2': 2 * DAY}),
                 {'1.3': 2 * DAY}),
                ('nothing is installed', '2d', '1.*', '', state(), {}),
                ('the installed one is the newest', '2d', '1.*', '1.3', state(), {}),
                ('the installed one left the bounds', '2d', '1.*', '0.9', state(), {}),
                ('the installed one is not listed in bounds', '2d', '2.*', '1.0', state(), {}),
                ('the installed one is rejected', '2d', '1.*', '1.2', state(rejected=['1.2']), {}),
                ('out of bounds', '2d', '1.1', '1.1', state(), {}),
                ('the newer ones are rejected', '2d', '1.*', '1.1',
                 state(rejected=['1.3'], postponed=['1.2']), {}),
                ('the newer one was withdrawn', '2d', '1.*', '1.2', state(withdrawn=['1.3']), {}),
                # A machine that has waited for twice the longest time waits no more.
                ('almost twice', '2d', '1.*', '1.0', state({'1.1': 4 * DAY - 1}),
                 {'1.3': 2 * DAY, '1.2': 2 * DAY}),
                ('twice', '2d', '1.*', '1.0', state({'1.1': 4 * DAY}), {}),
                ('more than twice', '2d', '1.*', '1.0', state({'1.1': 4 * DAY + 1}), {}),
                ('twice the longer', '1d-2d', '1.*', '1.0', state({'1.1': 4 * DAY}), {}),
                ('what was passed over is no wait', '2d', '1.*', '1.0',
                 state({'1.1': 9 * DAY, '1.2': 9 * DAY}, rejected=['1.1'], withdrawn=['1.2']),
                 {'1.3': 2 * DAY}),
                # A wrong clock has noted these times: the wait begins anew.
                ('seen in the future', '2d', '1.*', '1.2', state({'1.3': -1}), {'1.3': 2 * DAY}),
                ('seen before this release', '2d', '1.*', '1.2',
                 state({'1.3': NOW - tako.RELEASED + 1}), {'1.3': 2 * DAY}),
                ('seen on the day of this release', '2d', '1.*', '1.2',
                 state({'1.3': NOW - tako.RELEASED}), {})):
            with self.subTest(label):
                self.assertEqual(expected, self.waiting(config(delay, version), known, latest))

    def test_a_recall_does_not_wait(self):
        """1.4 has the image of 1.2, which is older than 1.3."""
        listed = tako.Manifest(MANIFEST.entries[:-1]
                               + (ENTRIES['1.2']._replace(version=tako.parse_version('1.4')),))
        self.assertEqual({'1.1': 2 * DAY, '1.3': 2 * DAY},
                         self.waiting(config(), state(), listed=listed))

    def test_the_same_image_out_of_bounds_makes_no_recall(self):
        listed = tako.Manifest(MANIFEST.entries
                               + (ENTRIES['1.3']._replace(version=tako.parse_version('2.1')),))
        self.assertEqual({'1.3': 2 * DAY}, self.waiting(config(), state(), '1.2', listed))

    def test_the_share_of_a_machine_is_within_the_range_and_stays_the_same(self):
        shares = set()
        for number in range(1000):
            until, = tako.plan_delay(MANIFEST, config('1d-4d'), state(), ENTRIES['1.2'].digest,
                                     '{:032x}'.format(number), NOW)[1].values()
            self.assertTrue(NOW + DAY <= until <= NOW + 4 * DAY)
            shares.add(until)
            _, again = tako.plan_delay(MANIFEST, config('1d-4d'), state({'1.3': HOUR}),
                                       ENTRIES['1.2'].digest, '{:032x}'.format(number), NOW)
            self.assertEqual([until - HOUR], list(again.values()))
        self.assertGreater(len(shares), 900)

    def test_machines_share_all_of_the_range_evenly(self):
        for seconds, most in ((1, 600), (9, 150)):
            counts = collections.Counter(
                until - NOW for number in range(1000) for until in tako.plan_delay(
                    MANIFEST, config('10-{}'.format(10 + seconds)), state(),
                    ENTRIES['1.2'].digest, '{:032x}'.format(number), NOW)[1].values())
            self.assertEqual(set(range(10, 11 + seconds)), set(counts))
            self.assertLess(max(counts.values()), most)

    def test_a_machine_has_another_share_for_each_version(self):
        self.assertEqual(3, len(set(self.waiting(config('1d-4d'), state()).values())))

    def test_a_range_may_begin_with_no_delay(self):
        self.assertEqual({}, self.waiting(config('0'), state()))
        self.assertEqual({'1.1', '1.2', '1.3'}, set(self.waiting(config('0-4d'), state())))


class PlanTest(unittest.TestCase):
    """What is planned while versions wait."""

    def plans(self, waiting, latest='1.0', faults=(), rejected=()):
        self.asked = []

        def fault_of(entry):
            self.asked.append(entry.version.text)
            return dict(faults).get(entry.version.text, tako.MISSING)
        waiting = {ENTRIES[version].digest: NOW + seconds for version, seconds in waiting.items()}
        found = tako.plan_fetch(MANIFEST, config(), state(rejected=rejected),
                                ENTRIES[latest].digest, fault_of, False, waiting)
        return [(plan.entry.version.text, plan.skipped or plan.fault) for plan in found]

    def test_versions_below_one_that_waits_are_passed_over(self):
        self.assertEqual([('1.3', 'waits until 2026-11-29 10:00 UTC'),
                          ('1.2', 'is superseded by 1.3, which waits'),
                          ('1.1', 'is superseded by 1.3, which waits'), ('1.0', '')],
                         self.plans({'1.3': DAY, '1.1': 2 * DAY}, faults={'1.0': ''}))
        self.assertEqual(['1.0'], self.asked)

    def test_the_minute_in_which_a_wait_ends_is_rounded_up(self):
        for seconds, expected in ((0, '10:00'), (1, '10:01'), (60, '10:01'), (61, '10:02')):
            with self.subTest(seconds):
                self.assertEqual(('1.3', 'waits until 2026-11-28 {} UTC'.format(expected)),
                                 self.plans({'1.3': seconds}, faults={'1.0': ''})[0])

    def test_a_version_whose_wait_is_over_is_planned(self):
        """If its image was withdrawn, an older version that waits is still not installed."""
        self.assertEqual([('1.3', tako.MISSING), ('1.2', 'waits until 2026-11-29 10:00 UTC'),
                          ('1.1', 'is superseded by 1.2, which waits'), ('1.0', '')],
                         self.plans({'1.2': DAY}, faults={'1.0': ''}))

    def test_a_rejected_version_passes_over_no_other(self):
        self.assertEqual(('1.2', 'waits until 2026-11-29 10:00 UTC'),
                         self.plans({'1.2': DAY}, faults={'1.0': ''}, rejected=['1.3'])[1])

    def test_the_installed_image_is_examined_and_no_other(self):
        for latest in ('1.0', '1.1', '1.2'):
            with self.subTest(latest):
                plans = self.plans({'1.3': DAY}, latest, faults={latest: ''})
                self.assertEqual(('1.3', 'waits until 2026-11-29 10:00 UTC'), plans[0])
                self.assertEqual([latest], self.asked)

    def test_no_version_waits_if_the_installed_image_is_damaged(self):
        for fault in ('is damaged: it has 3 bytes and not 5', tako.MISSING):
            with self.subTest(fault):
                self.assertEqual([('1.3', tako.MISSING), ('1.2', tako.MISSING),
                                  ('1.1', tako.MISSING), ('1.0', fault)],
                                 self.plans({'1.3': DAY, '1.2': DAY}, faults={'1.0': fault}))
                self.assertEqual(1, self.asked.count('1.0'))


class SeenTest(unittest.TestCase):
    """What the state keeps of when versions were first seen."""

    def noted(self, settings, known, latest='1.1', listed=MANIFEST, now=NOW):
        names = {entry.digest: entry.version.text for entry in listed.entries}
        noted, _ = tako.plan_delay(listed, settings, known, latest and ENTRIES[latest].digest,
                                   MACHINE, now)
        return {names[digest]: int(seconds) - NOW
                for digest, seconds in (each.split() for each in noted)}

    def test_versions_are_noted_as_the_table_says(self):
        for label, settings, known, latest, expected in (
                ('without Delay=', config(''), state({'1.2': DAY}), '1.1', {}),
                ('newer than the installed one', config(), state(), '1.1',
                 {'1.2': 0, '1.3': 0, '2.0': 0}),
                ('noted before', config(), state({'1.2': DAY, '1.3': HOUR}), '1.1',
                 {'1.2': -DAY, '1.3': -HOUR, '2.0': 0}),
                ('installed since', config(), state({'1.2': DAY, '1.3': HOUR}), '1.3', {'2.0': 0}),
                ('above the bounds', config(version='1.1'), state({'1.3': DAY}), '1.1',
                 {'1.2': 0, '1.3': -DAY, '2.0': 0}),
                ('in the future', config(), state({'1.2': -1}), '1.1',
                 {'1.2': 0, '1.3': 0, '2.0': 0}),
                ('before this release', config(), state({'1.2': NOW - tako.RELEASED + 1}), '1.1',
                 {'1.2': 0, '1.3': 0, '2.0': 0}),
                ('at this release', config(), state({'1.2': NOW - tako.RELEASED}), '1.1',
                 {'1.2': tako.RELEASED - NOW, '1.3': 0, '2.0': 0})):
            with self.subTest(label):
                self.assertEqual(expected, self.noted(settings, known, latest))

    def test_at_most_a_hundred_are_noted_and_those_seen_first_stay(self):
        many = tako.Manifest(MANIFEST.entries[:3] + tuple(
            origin.entry_of('1.{}'.format(number), b'%d' % number) for number in range(2, 200)))
        known = state()
        for listed, now in ((tako.Manifest(many.entries[:53]), NOW - HOUR), (many, NOW)):
            known = known._replace(seen=tako.plan_delay(
                listed, config(), known, ENTRIES['1.1'].digest, MACHINE, now)[0])
        self.assertEqual(100, tako.SEEN_MAX)
        times = [int(each.split()[1]) for each in known.seen]
        self.assertEqual([NOW - HOUR] * 50 + [NOW] * 50, times)
        tako.parse_state(tako.format_state(known))

    def test_versions_in_bounds_take_precedence(self):
        many = tako.Manifest(MANIFEST.entries + tuple(
            origin.entry_of('2.{}'.format(number), b'%d' % number) for number in range(1, 200)))
        noted = self.noted(config(), state(), listed=many)
        self.assertEqual(100, len(noted))
        self.assertLessEqual({'1.2', '1.3'}, set(noted))


class Machine:
    """A machine of a simulated fleet that runs fetch once an hour. Times are seconds from NOW."""

    settings = config('1d-4d', '*')

    def __init__(self, number, phase, installed):
        self.name = '{:032x}'.format(number)
        self.phase = phase
        self.latest = installed.digest
        self.state = tako.parse_state('')

    def run(self, now, listed):
        """Do what a fetch at this time decides. Return when the next version may be installed."""
        now += NOW
        seen, waiting = tako.plan_delay(listed, self.settings, self.state, self.latest, self.name,
                                        now)
        self.state = self.state._replace(seen=seen)
        plan = next(plan for plan in tako.plan_fetch(listed, self.settings, self.state, self.latest,
                                                     lambda _: '', False, waiting)
                    if not plan.skipped)
        self.latest = plan.entry.digest
        return waiting.get(listed.entries[-1].digest, NOW) - NOW

    def run_after(self, now):
        """Return the time of this machine's first run at this time or later."""
        return now + (self.phase - now) % HOUR

    def follow(self, releases, end):
        """Run fetch whenever it may matter. Yield (time, digest) of each update.

        releases: [(time, manifest)]. No other run has an effect: before a wait ends, nothing
        changes but the time, and one run just before each update is made to see that.
        """
        for (begin, listed), (until, _) in zip(releases, releases[1:] + [(end, None)]):
            now = self.run_after(begin)
            while now < until:
                before = self.latest
                ready = self.run_after(self.run(now, listed))
                if self.latest != before:
                    yield now, self.latest
                if ready <= now:
                    break
                if now < ready - HOUR < until:
                    installed = self.latest
                    self.run(ready - HOUR, listed)
                    assert self.latest == installed
                now = ready


class FleetTest(unittest.TestCase):
    """10,000 machines with Delay=1d-4d, and what reaches them when."""

    MACHINES = 10000

    def setUp(self):
        self.chance = random.Random(15)
        self.good, self.bad, self.mended = (
            origin.entry_of(version, version.encode()) for version in ('1.4.1', '1.4.2', '1.4.3'))

    def fleet(self, count, installed):
        return [Machine(self.chance.getrandbits(128), self.chance.randrange(HOUR), installed)
                for _ in range(count)]

    def test_a_release_reaches_a_third_of_the_fleet_each_day_from_the_second_on(self):
        listed = tako.Manifest((self.good, self.bad))
        times = [now for machine in self.fleet(self.MACHINES, self.good)
                 for now, _ in machine.follow([(0, listed)], 9 * DAY)]
        self.assertEqual(self.MACHINES, len(times))
        self.assertTrue(min(times) >= DAY and max(times) <= 4 * DAY + 2 * HOUR)
        shares = [sum(now < day * DAY for now in times) / self.MACHINES for day in range(1, 5)]
        for day, (share, expected) in enumerate(zip(shares, (0, 1 / 3, 2 / 3, 1)), 1):
            self.assertTrue(expected - 0.025 <= share <= expected + 0.01, (day, share))

    def test_a_version_that_is_superseded_on_day_one_and_a_half_reached_a_sixth(self):
        releases = [(0, tako.Manifest((self.good, self.bad))),
                    (1.5 * DAY, tako.Manifest((self.good, self.bad, self.mended)))]
        reached = 0
        for machine in self.fleet(self.MACHINES, self.good):
            updates = list(machine.follow(releases, 9 * DAY))
            self.assertEqual(self.mended.digest, updates[-1][1])
            if updates[0][1] == self.bad.digest:
                reached += 1
                self.assertLess(updates[0][0], 1.5 * DAY)
        self.assertTrue(0.15 <= reached / self.MACHINES <= 0.18, reached)

    def test_a_recall_reaches_each_machine_in_its_next_run(self):
        again = self.good._replace(version=tako.parse_version('1.4.3'))
        releases = [(0, tako.Manifest((self.good, self.bad))),
                    (1.5 * DAY, tako.Manifest((self.good, self.bad, again)))]
        for machine in self.fleet(1000, self.good):
            updates = list(machine.follow(releases, 9 * DAY))
            self.assertEqual(self.good.digest, machine.latest)
            self.assertLessEqual(max([now for now, _ in updates], default=0), 1.5 * DAY + HOUR)

    def test_daily_releases_keep_no_machine_waiting_for_more_than_eight_days(self):
        entries = [origin.entry_of('1.{}'.format(day), b'%d' % day) for day in range(41)]
        releases = [(day * DAY, tako.Manifest(tuple(entries[:day + 2]))) for day in range(40)]
        for machine in self.fleet(100, entries[0]):
            times = [0] + [now for now, _ in machine.follow(releases, 40 * DAY)]
            gaps = [two - one for one, two in zip(times, times[1:] + [40 * DAY])]
            self.assertLessEqual(max(gaps), 9 * DAY + 2 * HOUR)     # a new version comes in a day


class Calendar(scene.Clock):
    """Stands in for the time module of tako.py, and says that it is so many days after NOW."""

    days = 0.0

    def time(self):
        return NOW + self.days * DAY


class FetchTest(scene.UpdateScene):
    """A client with Delay=2d that has 1.0, and an origin that offers 1.1 since NOW."""

    def setUp(self):
        super().setUp()
        self.limits = dict(self.limits, MACHINE_ID_PATH=self.write('machine-id', MACHINE + '\n'))
        self.clock = Calendar()
        self.app = self.configure()
        self.assertCode(0, self.on(0))
        self.two = self.origin.publish('1.1', TWO)

    def configure(self, delay='2d', version='1.*', more=''):
        return self.config(self.origin.url, version=version,
                           more='Delay={}\n'.format(delay) * bool(delay) + more)

    def on(self, days, *options):
        """Run fetch so many days after NOW."""
        self.clock.days = days
        with self.clock.patch():
            return self.run_here('fetch', self.app, *options)

    def status(self, days, *options):
        self.clock.days = days
        with self.clock.patch():
            return self.run_here('status', self.app, *options)

    def seen(self):
        return dict(each.split() for each in scene.state(self.destination).seen)

    def test_a_version_is_installed_when_its_time_is_over(self):
        for days in (0, 1, 1.9999):
            self.assertQuiet(self.on(days))
            self.assertInPlace(ONE)
        self.assertNotIn(self.image_url(self.two), self.origin.paths())
        result = self.on(2)
        self.assertEqual((0, self.app + ': 1.1 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(TWO)
        self.on(2.1)
        self.assertEqual({}, self.seen())

    def test_a_run_says_on_request_that_a_version_waits(self):
        result = self.on(0, '-v')
        self.assertEqual(self.app + ': 1.0 is installed, 1.1 waits until 2026-11-30 10:00 UTC\n',
                         result.out)
        self.assertIn(self.app + ': 1.1 waits until 2026-11-30 10:00 UTC\n', result.err)

    def test_status_says_until_when_a_version_waits(self):
        self.on(0)
        self.assertIn('of the newer versions, 1.1 waits until 2026-11-30 10:00 UTC\n',
                      self.status(1).out)
        known = json.loads(self.status(1, '--json').out)[0]
        self.assertEqual(('1.1', NOW + 2 * DAY), (known['waiting'], known['waiting_until']))
        known = json.loads(self.status(2, '--json').out)[0]
        self.assertEqual((None, None), (known['waiting'], known['waiting_until']))
        self.assertIn('1.1 is not installed yet', known['reason'])

    def test_a_waiting_version_that_is_superseded_is_never_installed(self):
        self.on(0)
        three = self.origin.publish('1.2', THREE)
        self.assertQuiet(self.on(1))
        self.assertQuiet(self.on(2.5))
        self.assertInPlace(ONE)
        self.assertIn('1.2 waits until 2026-12-01 10:00 UTC, 1.1 is not installed yet',
                      self.status(2.5).out)
        self.assertCode(0, self.on(3))
        self.assertInPlace(THREE)
        self.assertNotIn(self.image_url(self.two), self.origin.paths())
        self.assertIn(self.image_url(three), self.origin.paths())

    def test_after_twice_the_time_the_newest_version_is_installed_at_once(self):
        for day in range(4):
            self.assertQuiet(self.on(day))
            self.origin.publish('1.{}'.format(day + 2), b'%d' % day)
        self.assertCode(0, self.on(4))
        self.assertInPlace(b'3')

    def test_now_installs_a_version_without_waiting(self):
        self.assertQuiet(self.on(0))
        self.assertCode(0, self.on(0.1, '--now'))
        self.assertInPlace(TWO)

    def test_a_damaged_image_is_not_kept_for_the_rest_of_the_time(self):
        self.on(0)
        path = self.path('destination', 'store', self.one.digest)
        os.chmod(path, 0o644)
        self.write('destination/store/' + self.one.digest, ONE[:-1] + b'x', 0o444)
        self.assertCode(0, self.on(0.1))
        self.assertInPlace(TWO)

    def test_nothing_waits_in_other_cases(self):
        for label, prepare in (
                ('nothing is installed', self.empty_destination),
                ('the bounds moved', lambda: self.configure(version='1.1')),
                ('Delay= was removed', lambda: self.configure(''))):
            with self.subTest(label):
                self.empty_destination()
                self.configure(version='1.0')
                self.assertCode(0, self.on(0))
                self.configure()
                self.assertQuiet(self.on(0))
                self.assertInPlace(ONE)
                prepare()
                self.assertCode(0, self.on(0))
                self.assertInPlace(TWO)

    def test_init_that_has_to_fetch_waits_for_nothing(self):
        self.on(0)
        os.unlink(self.path('destination', 'latest'))
        self.assertCode(0, self.on(0, '--init'))
        self.assertInPlace(TWO)

    def test_a_version_that_was_seen_out_of_bounds_has_been_waiting(self):
        self.configure(version='1.0')
        self.assertQuiet(self.on(0))
        self.configure()
        self.assertCode(0, self.on(2))
        self.assertInPlace(TWO)

    def test_without_an_origin_a_version_in_the_store_waits_too(self):
        self.on(0)
        self.write('destination/store/' + self.two.digest, TWO, 0o444)
        self.origin.__exit__()
        self.assertCode(75, self.on(1))
        self.assertEqual('store/' + self.one.digest, os.readlink(self.path('destination/latest')))
        self.assertCode(75, self.on(2))
        self.assertEqual('store/' + self.two.digest, os.readlink(self.path('destination/latest')))

    def test_a_dry_run_says_that_a_version_waits_and_notes_nothing(self):
        before = scene.snapshot(self.destination)
        self.assertEqual(
            self.app + ': 1.0: is installed, 1.1 waits until 2026-11-30 10:00 UTC\n',
            self.on(0, '--dry-run').out)
        self.assertEqual(before, scene.snapshot(self.destination))

    def test_a_clock_that_was_set_back_begins_the_wait_anew(self):
        self.on(0)
        self.assertQuiet(self.on(-1))
        self.assertEqual({self.two.digest: str(NOW - DAY)}, self.seen())
        self.assertQuiet(self.on(0.9))
        self.assertCode(0, self.on(1))
        self.assertInPlace(TWO)

    def test_a_clock_before_this_release_is_a_warning_and_no_version_is_installed(self):
        result = self.on(-10000)
        self.assertEqual(0, result.code)
        self.assertIn('the clock is wrong, and a new version waits until it is right', result.err)
        self.assertInPlace(ONE)
        self.assertQuiet(self.on(0))
        self.assertEqual({self.two.digest: str(NOW)}, self.seen())

    def test_a_machine_without_an_id_keeps_a_number_of_its_own(self):
        self.configure('0-100d')
        for content in ('', 'uninitialized\n', None):
            with self.subTest(content):
                scene.write_state(self.destination, tako.parse_state(''))
                if content is None:
                    os.unlink(self.path('machine-id'))
                else:
                    self.write('machine-id', content)
                self.assertQuiet(self.on(0))
                machine = scene.state(self.destination).machine
                self.assertRegex(machine, '^[0-9a-f]{32}$')
                until = json.loads(self.status(0, '--json').out)[0]['waiting_until']
                self.assertQuiet(self.on(0.001))
                self.assertEqual(machine, scene.state(self.destination).machine)
                self.assertEqual(
                    until, json.loads(self.status(0.001, '--json').out)[0]['waiting_until'])
        self.write('machine-id', MACHINE)
        self.assertQuiet(self.on(0.002))
        self.assertEqual('', scene.state(self.destination).machine)

    def test_a_lost_state_begins_the_wait_anew(self):
        self.on(0)
        self.write('destination/.state', 'nonsense')
        self.assertIn('is damaged', self.on(1).err)
        self.assertQuiet(self.on(2.9))
        self.assertInPlace(ONE)
        self.assertCode(0, self.on(3))
        self.assertInPlace(TWO)

    def test_a_failed_run_notes_what_it_saw(self):
        with unittest.mock.patch.object(tako.ImageFetch, '_remove_spare',
                                        side_effect=OSError(5, 'Input/output error')):
            self.assertCode(1, self.on(0))
        self.assertEqual({self.two.digest: str(NOW)}, self.seen())

    def test_without_delay_a_fetch_notes_nothing(self):
        self.configure('')
        self.origin.publish('2.0', THREE)
        self.assertCode(0, self.on(0))
        self.assertEqual(('', ()), (scene.state(self.destination).machine,
                                    scene.state(self.destination).seen))

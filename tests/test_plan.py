"""Section 17: plans of a fetch, which are values: these tests need neither disk nor network."""
import itertools
import unittest

import origin
import tako

DAMAGED = 'is damaged: it has 3 bytes and not 5'
REJECTED = 'was rejected: a unit failed on it, or it was rolled back'
POSTPONED = 'waits until the units run on the installed image'
NO, LATER, NOW = tako.NO_RESTART, tako.RESTART_LATER, tako.RESTART_NOW

VERSIONS = '0.9', '1.0', '1.1', '1.2', '2.0-beta', '2.0'
ENTRIES = {version: origin.entry_of(version, version.encode()) for version in VERSIONS}
MANIFEST = tako.Manifest(tuple(ENTRIES.values()))


def digests(*versions):
    return tuple(ENTRIES[version].digest for version in versions)


def config(version='1.*', units='', keep=''):
    """Return a config with this pattern, these units and this Keep=."""
    lines = ['Origin=http://localhost', 'Destination=/', 'PublicKey=' + origin.PUBLIC_KEY,
             'Version=' + version]
    return tako.parse_config('\n'.join(lines + ['Restart=' + units] * bool(units)
                                       + ['Keep=' + keep] * bool(keep)))


def state(restart_due='', rejected=(), postponed=(), previous=''):
    """Return a state of these versions."""
    one = lambda version: version and ENTRIES[version].digest       # noqa: E731
    return tako.parse_state('')._replace(restart_due=one(restart_due), previous=one(previous),
                                         rejected=digests(*rejected), postponed=digests(*postponed))


class Store:
    """A store with these images, as {version: fault}. It notes which faults a plan asks for."""

    def __init__(self, faults):
        self.faults = faults
        self.asked = []

    def fault_of(self, entry):
        self.asked.append(entry.version.text)
        return self.faults.get(entry.version.text, tako.MISSING)


class PlanCase(unittest.TestCase):
    def plans(self, settings, known, latest='', store=None, is_init=False, manifest=MANIFEST):
        """Return all plans, as [(version, skipped, fault, is_installed, restart)]."""
        self.store = Store(store or {})
        found = tako.plan_fetch(manifest, settings, known, latest and ENTRIES[latest].digest,
                                self.store.fault_of, is_init)
        return [(plan.entry.version.text,) + plan[1:] for plan in found]

    def first(self, *arguments, **settings):
        return self.plans(*arguments, **settings)[0]


class VersionsTest(PlanCase):
    def test_versions_in_bounds_are_planned_newest_first(self):
        for pattern, expected in (
                ('1.*', ['1.2', '1.1', '1.0']),
                ('*', ['2.0', '2.0-beta', '1.2', '1.1', '1.0', '0.9']), ('1.1', ['1.1']),
                ('1.0 <= v < 2.0', ['1.2', '1.1', '1.0']), ('2.*', ['2.0', '2.0-beta']),
                ('3.*', [])):
            with self.subTest(pattern):
                plans = self.plans(config(pattern), state())
                self.assertEqual([(version, '', tako.MISSING, False, NO) for version in expected],
                                 plans)

    def test_an_empty_manifest_has_no_plans(self):
        self.assertEqual([], self.plans(config('*'), state(), manifest=tako.Manifest(())))

    def test_the_installed_version_is_the_last_plan(self):
        plans = self.plans(config(), state(), '1.1', {'1.1': ''})
        self.assertEqual([('1.2', '', tako.MISSING, False, NO), ('1.1', '', '', True, NO)], plans)

    def test_an_installed_version_out_of_bounds_ends_no_plans(self):
        plans = self.plans(config(), state(), '0.9', {'0.9': ''})
        self.assertEqual(['1.2', '1.1', '1.0'], [plan[0] for plan in plans])

    def test_rejected_and_postponed_versions_are_skipped_unread(self):
        plans = self.plans(config(), state(rejected=['1.2'], postponed=['1.1']), '1.0', {'1.0': ''})
        self.assertEqual([('1.2', REJECTED, '', False, NO), ('1.1', POSTPONED, '', False, NO),
                          ('1.0', '', '', True, NO)], plans)
        self.assertEqual(['1.0'], self.store.asked)

    def test_a_rejected_installed_version_is_not_the_last_plan(self):
        """A rollback was interrupted before it moved latest."""
        plans = self.plans(config(), state(rejected=['1.1']), '1.1', {'1.0': ''})
        self.assertEqual([('1.2', '', tako.MISSING, False, NO), ('1.1', REJECTED, '', True, NO),
                          ('1.0', '', '', False, NO)],
                         plans)

    def test_versions_that_are_all_rejected_are_all_skipped(self):
        plans = self.plans(config(), state(rejected=['1.2', '1.1', '1.0']))
        self.assertEqual([REJECTED] * 3, [plan[1] for plan in plans])

    def test_an_image_is_read_when_its_plan_is_requested(self):
        store = Store({'1.0': ''})
        plans = tako.plan_fetch(MANIFEST, config(), state(), ENTRIES['1.0'].digest, store.fault_of,
                                False)
        for asked in (['1.2'], ['1.2', '1.1'], ['1.2', '1.1', '1.0']):
            next(plans)
            self.assertEqual(asked, store.asked)
        self.assertIsNone(next(plans, None))


class StoreTest(PlanCase):
    def test_a_plan_says_what_is_wrong_with_the_image_in_the_store(self):
        for latest, fault in (('', ''), ('', tako.MISSING), ('', DAMAGED), ('1.1', ''),
                              ('1.1', tako.MISSING), ('1.1', DAMAGED),
                              ('1.2', ''), ('1.2', tako.MISSING), ('1.2', DAMAGED)):
            with self.subTest(latest=latest, fault=fault):
                self.assertEqual(('1.2', '', fault, latest == '1.2', NO),
                                 self.first(config(), state(), latest, {'1.2': fault}))


class RestartTest(PlanCase):
    def test_a_plan_says_whether_units_restart(self):
        for latest, due, is_init, expected in (
                # The newest version is not installed.
                ('', '', False, NOW), ('1.1', '', False, NOW), ('1.1', '1.1', False, NOW),
                ('1.1', '1.2', False, NOW),
                ('', '', True, NO), ('1.1', '', True, NO), ('1.1', '1.1', True, LATER),
                ('1.1', '1.2', True, LATER),
                # It is installed, with a restart that is due or no longer due.
                ('1.2', '', False, NO), ('1.2', '1.2', False, NOW), ('1.2', '1.1', False, NO),
                ('1.2', '', True, NO), ('1.2', '1.2', True, LATER), ('1.2', '1.1', True, NO)):
            with self.subTest(latest=latest, due=due, is_init=is_init):
                plan = self.first(config(units='a.service'), state(due), latest, {'1.2': ''},
                                  is_init)
                self.assertEqual(('1.2', '', '', latest == '1.2', expected), plan)

    def test_without_units_no_restart_is_planned(self):
        for latest, due, is_init in (('', '', False), ('1.1', '1.1', False), ('1.1', '1.1', True),
                                     ('1.2', '1.2', False)):
            with self.subTest(latest=latest, due=due, is_init=is_init):
                self.assertEqual(NO, self.first(config(), state(due), latest, {}, is_init)[-1])


class InitTest(unittest.TestCase):
    """Which installed image --init accepts if it is intact."""

    def accepted(self, pattern, latest, known):
        self.reads = 0

        def read_state():
            self.reads += 1
            return known
        entry = tako.plan_init(MANIFEST, tako.parse_pattern(pattern),
                               latest and ENTRIES[latest].digest, read_state)
        return entry and entry.version.text

    def test_init_accepts_what_the_table_says(self):
        rejected = state(rejected=['1.2', '1.1'], postponed=['1.0'])
        for pattern, latest, known, expected, reads in (
                ('1.*', '1.2', state(), '1.2', 0), ('1.*', '1.0', state(), '1.0', 0),
                ('1.*', '', state(), None, 1),
                ('3.*', '1.2', state(), None, 0),
                # Out of bounds: units that a restart starts ask for the image of that restart.
                ('1.*', '2.0', state(), None, 1),
                ('1.*', '2.0', state(restart_due='2.0'), '2.0', 1),
                ('1.*', '2.0', state(restart_due='1.2'), None, 1),
                # Out of bounds, and no version in bounds may be installed.
                ('1.*', '0.9', rejected, '0.9', 1),
                ('1.*', '0.9', state(rejected=['1.2', '1.1']), None, 1),
                ('*', '0.9', rejected, '0.9', 0)):
            with self.subTest(pattern=pattern, latest=latest, known=known):
                self.assertEqual((expected, reads),
                                 (self.accepted(pattern, latest, known), self.reads))

    def test_init_accepts_no_image_that_the_manifest_omits(self):
        for known in (state(), state()._replace(restart_due='f' * 64)):
            self.assertIsNone(tako.plan_init(MANIFEST, tako.parse_pattern('1.*'), 'f' * 64,
                                             lambda: known))    # noqa: B023


    def test_out_of_bounds_init_accepts_the_image_of_a_due_restart_alone(self):
        for latest in ('0.9', '2.0-beta', '2.0'):
            for due in VERSIONS:
                with self.subTest(latest=latest, due=due):
                    self.assertEqual(latest if due == latest else None,
                                     self.accepted('1.*', latest, state(restart_due=due)))


class FatesTest(unittest.TestCase):
    """What became of the versions above the installed one."""

    def fates(self, latest, known=None, stored=(), held=None):
        compatible = list(tako.compatible_entries(MANIFEST, tako.parse_pattern('1.*')))
        return tako.fates_of_newer(compatible, latest and ENTRIES[latest].digest,
                                   known or state(), digests(*stored), held)

    def test_fates_are_named_newest_first(self):
        newer = 'of the newer versions, 1.2 {}, 1.1 {}'
        for latest, known, stored, expected in (
                ('1.2', state(), (), ''),
                ('1.1', state(), (), 'of the newer versions, 1.2 is not installed yet'),
                ('1.0', state(), (), newer.format(*['is not installed yet'] * 2)),
                ('1.0', state(), ('1.2', '1.0'),
                 newer.format('is downloaded, but not installed yet', 'is not installed yet')),
                ('1.0', state(rejected=['1.1'], postponed=['1.2']), ('1.1', '1.2'),
                 newer.format(POSTPONED, 'was rejected')),
                ('1.0', state()._replace(withdrawn=digests('1.2', '1.1')), ('1.1',),
                 newer.format('was withdrawn', 'was withdrawn')),
                ('', state(), (), newer.format(*['is not installed yet'] * 2)
                 + ', 1.0 is not installed yet'),
                ('2.0', state(), (), newer.format(*['is not installed yet'] * 2)
                 + ', 1.0 is not installed yet')):
            with self.subTest(latest=latest, known=known, stored=stored):
                self.assertEqual(expected, self.fates(latest, known, stored))

    def test_the_version_that_waits_says_so(self):
        held = tako.FetchPlan(ENTRIES['1.2'], 'waits until noon', '', False, NO)
        self.assertEqual('of the newer versions, 1.2 waits until noon',
                         self.fates('1.1', stored=['1.2'], held=held))


class PreviousTest(unittest.TestCase):
    """To which image a rollback returns after another is installed."""

    def test_the_previous_image_is_the_last_confirmed_one(self):
        for latest, known, expected in (
                ('', state(), ''), ('1.1', state(), '1.1'), ('1.1', state(previous='1.0'), '1.1'),
                # The units have run on 1.0, but not yet on 1.1.
                ('1.1', state('1.1', previous='1.0'), '1.0'), ('1.1', state('1.1'), '1.1'),
                # No rollback returns to a rejected image.
                ('1.1', state(rejected=['1.1']), ''),
                ('1.1', state('1.1', ['1.0'], previous='1.0'), ''),
                # It is already installed.
                ('1.2', state(previous='1.0'), '1.0'), ('1.2', state(), '')):
            with self.subTest(latest=latest, known=known):
                previous = tako.previous_after(known, latest and ENTRIES[latest].digest,
                                               ENTRIES['1.2'].digest)
                self.assertEqual(expected and ENTRIES[expected].digest, previous)


    def test_any_image_can_be_the_previous_one_of_any_other(self):
        for latest, digest in itertools.permutations(digests(*VERSIONS), 2):
            self.assertEqual(latest, tako.previous_after(state(), latest, digest))


class KeepTest(unittest.TestCase):
    """Which images Keep= removes. Each is named by a letter."""

    def test_keep_removes_what_the_table_says(self):
        for stored, keep, preferred, needed, expected in (
                ('abc', 3, 'cba', '', ''), ('abc', 2, 'cba', '', 'a'), ('abc', 1, 'cba', '', 'ab'),
                ('abc', 5, 'cba', '', ''),
                # A needed image stays and counts.
                ('abc', 2, 'cba', 'a', 'b'), ('abc', 1, 'cba', 'ab', 'c'),
                ('abc', 1, 'cba', 'abc', ''),
                # Unlisted images are removed first.
                ('abcxy', 4, 'cba', '', 'x'), ('abcxy', 2, 'cba', '', 'xya'),
                ('abcxy', 3, 'cba', 'x', 'ya'),
                # An image counts by its newest version. An image that is not stored does not count.
                ('abc', 2, 'acba', '', 'b'), ('ab', 1, 'cba', 'c', 'a'), ('', 1, 'cba', '', '')):
            with self.subTest(stored=stored, keep=keep, preferred=preferred, needed=needed):
                self.assertEqual(list(expected),
                                 tako.spare_images(set(stored), keep, list(preferred), set(needed)))

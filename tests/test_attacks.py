"""Section 17: fetch from a hostile origin: the quick attacks of the table in attacks/."""
import unittest

import attacks
import scene
from attacks import stage

LIMITS = {'PAUSE_FIRST_SECONDS': 0.01, 'PAUSE_BUDGET_SECONDS': 0.1, 'NETWORK_TIMEOUT_SECONDS': 0.5,
          'RATE_WINDOW_SECONDS': 0.2}


class AttackCase(unittest.TestCase):
    """A test that runs the quick attacks one after another, on one stage."""

    def assertEach(self, with_mirror, is_chosen, run):
        """Each chosen attack ends as its entry says, and so does an honest run after it."""
        with stage.Stage(with_mirror) as at:
            for name, attack, is_beside_mirror in attacks.cases():
                if is_beside_mirror == with_mirror and attack.is_quick and is_chosen(attack):
                    with self.subTest(name):
                        at.begin(attack)
                        at.assertEnded(run(at))
                        at.assertRecovers()


class OnlyOriginTest(AttackCase):
    def test_an_attack_by_the_only_origin_achieves_no_more_than_its_entry_says(self):
        def run(at):
            # A run that fails need not ask again and again.
            limits = dict(LIMITS, PAUSE_BUDGET_SECONDS=0.0) if at.attack.codes == (75,) else LIMITS
            with scene.Clock().patch():
                return at.run('fetch', *at.attack.options, at.app,
                              limits=dict(limits, **at.more_limits))
        self.assertEach(False, lambda _: True, run)


class HonestMirrorTest(AttackCase):
    def test_an_attack_beside_an_honest_mirror_costs_no_more_than_a_warning(self):
        """The run does not pause, asks the mirror for manifest and image alone, and warns once."""
        def run(at):
            clock = scene.Clock()
            with clock.patch():
                result = at.run('fetch', '--no-delta', *at.attack.options, at.app, limits=LIMITS)
            self.assertEqual(([], ['/manifest', at.image]), (clock.pauses, at.mirror.paths()))
            self.assertEqual(2, len(result.err.splitlines()), result)
            return result
        self.assertEach(True, lambda attack: attack.is_blamed, run)


class TableTest(unittest.TestCase):
    def test_no_two_attacks_have_one_name(self):
        names = [name for name, _, _ in attacks.cases()]
        self.assertEqual(len(names), len(set(names)))

    def test_each_group_has_attacks_and_most_have_quick_ones(self):
        self.assertEqual([], [group for group, entries in attacks.GROUPS.items() if not entries])
        without = {group for group,
                   entries in attacks.GROUPS.items() if not any(each.is_quick for each in entries)}
        self.assertEqual({'patches', 'recompression patches'}, without)

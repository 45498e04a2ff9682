"""Sections 17 and 18: with StampKey= in the config, a manifest is only accepted with a stamp."""
import os
import re
import unittest
import unittest.mock

import origin
import scene
import stamps
import tako
from scene import ONE, THREE, TWO
from stamps import (DAY, HOUR, NOW, OTHER_PUBLIC_KEY, OTHER_SEED, PUBLIC_KEY, SEED, moment,
                    stamped)

FRESH = 8 * DAY


class FindProofTest(unittest.TestCase):
    """What find_proof() returns for names of manifests and stamps, from values alone."""

    def stamp(self, name, seconds):
        entries = int(name[0])
        return tako.Stamp(moment(seconds), entries, origin.digest_of(name.encode()))

    def found(self, names, offered, accepted=None, now=NOW):
        """Return the three stamps of the proof, each as (name, age), or None."""
        known = {}

        def make(each):
            made = self.stamp(each[0], NOW - each[1])
            known[made] = each
            return made
        proof = tako.find_proof([self.stamp(name, 0)[1:] for name in names],
                                [make(each) for each in offered], accepted and make(accepted), now)
        return tuple(each and known[each] for each in proof)

    def test_the_newest_manifest_that_a_stamp_names_wins_with_its_youngest_stamp(self):
        for names, offered, accepted, stamp, ahead, unknown in (
                (['1'], [], None, None, None, None),
                (['1'], [('1', DAY)], None, ('1', DAY), None, None),
                (['1'], [('1', DAY), ('1', HOUR)], None, ('1', HOUR), None, None),
                (['1', '2'], [('1', 0), ('2', 0)], None, ('2', 0), None, None),
                (['1', '2'], [('1', 0), ('2', DAY)], None, ('2', DAY), None, None),
                (['1', '2'], [('1', 0)], None, ('1', 0), None, None),
                (['2'], [('1', 0)], None, None, None, None),
                # the accepted one
                (['1'], [], ('1', DAY), ('1', DAY), None, None),
                (['1'], [('1', DAY + 1)], ('1', DAY), ('1', DAY), None, None),
                (['1', '2'], [('2', DAY + 1)], ('1', DAY), ('1', DAY), None, None),
                (['1', '2'], [('2', DAY)], ('1', DAY), ('2', DAY), None, None),
                (['2'], [('2', DAY + 1)], ('1', DAY), None, None, None),
                (['2'], [('2', HOUR)], ('1', DAY), ('2', HOUR), None, None),
                # ahead of the clock
                (['1'], [('1', -DAY)], None, ('1', -DAY), None, None),
                (['1'], [('1', -DAY - 1)], None, None, ('1', -DAY - 1), None),
                (['1'], [('1', -DAY - 1), ('1', 0)], None, ('1', 0), ('1', -DAY - 1), None),
                (['1'], [('1', -DAY - 1)], ('1', DAY), ('1', DAY), ('1', -DAY - 1), None),
                (['1'], [('1', DAY)], ('1', -DAY - 1), ('1', DAY), None, None),
                (['1'], [], ('1', -DAY - 1), None, None, None),
                (['1'], [], ('1', -DAY), ('1', -DAY), None, None),
                # a manifest that is not here
                (['1'], [('2', 0)], ('1', DAY), ('1', DAY), None, ('2', 0)),
                (['1'], [('2', 2 * DAY)], ('1', DAY), ('1', DAY), None, None),
                (['1'], [('2', -DAY - 1)], ('1', DAY), ('1', DAY), ('2', -DAY - 1), None),
                (['1'], [('1b', 0)], ('1', DAY), ('1', DAY), None, ('1b', 0)),
                (['2'], [('1', 0)], ('2', DAY), ('2', DAY), None, None),
                (['1'], [('2', DAY)], ('1', DAY), ('1', DAY), None, ('2', DAY)),
                (['0'], [('2', 0)], None, None, None, ('2', 0))):
            with self.subTest((names, offered, accepted)):
                self.assertEqual((stamp, ahead, unknown), self.found(names, offered, accepted))

    def test_with_a_clock_before_this_release_the_youngest_stamp_counts(self):
        for now in (0, tako.RELEASED - 1):
            for offered, accepted, stamp in (
                    ([('1', -9999 * DAY)], None, ('1', -9999 * DAY)),
                    ([('1', 0), ('1', DAY)], None, ('1', 0)),
                    ([('2', DAY)], ('1', 0), ('2', DAY)),
                    ([], ('1', 0), ('1', 0))):
                self.assertEqual((stamp, None, None),
                                 self.found(['1', '2'], offered, accepted, now))
        self.assertEqual((None, ('1', -9999 * DAY), None),
                         self.found(['1'], [('1', -9999 * DAY)], None, tako.RELEASED))
        age = NOW - tako.RELEASED
        self.assertEqual((None, None, None),
                         self.found(['2'], [('2', age + 1)], ('1', age), tako.RELEASED))


class StoredProofTest(scene.Scene):
    def test_the_stamp_of_the_accepted_manifest_is_a_proof(self):
        signed, other = stamps.of_images('1.0'), stamps.of_images('1.0', '1.1')
        self.write('destination/manifest', signed)
        with_key, without = (tako.parse_config(scene.read(self.config(
            'http://localhost', more=more)).decode()) for more in (
                'StampKey={}\n'.format(PUBLIC_KEY), ''))
        destination = tako.Destination(self.destination, with_key.public_keys)
        self.assertIsNone(tako.stored_proof(destination, with_key))
        for content, proof in ((stamped(signed, tako.RELEASED), stamps.stamp_of(
                signed, tako.RELEASED)), (stamped(other, tako.RELEASED), None),
                (stamped(signed, tako.RELEASED, OTHER_SEED), None)):
            self.write('destination/stamp', content)
            self.assertEqual(proof, tako.stored_proof(destination, with_key))
            self.assertIsNone(tako.stored_proof(destination, without))


class ProofCase(scene.Scene):
    """A config with StampKey=, an origin that offers 1.0 without a stamp, and a clock."""

    limits = {'PAUSE_BUDGET_SECONDS': 0.0}
    more = 'StampKey={}\nFresh={}\n'.format(PUBLIC_KEY, FRESH)

    def setUp(self):
        super().setUp()
        self.clock = stamps.Wall()
        self.origin = self.serve()
        self.one = self.origin.publish('1.0', ONE)
        self.set_up()

    def set_up(self, more=None, **settings):
        self.app = self.config(self.origin.url, more=self.more if more is None else more,
                               **settings)

    def stamp(self, age=0, at=None, seed=SEED, of=None):
        """Stamp what an origin serves, so many seconds ago."""
        at = at or self.origin
        at.write('stamp', stamped(of or at.read('manifest'), self.clock.now - age, seed))

    def fetch(self, *options):
        with self.clock.patch():
            return self.run_here('fetch', *options, self.app)

    def have_one(self, age=0):
        """Install 1.0 with a stamp of this age."""
        self.stamp(age)
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(ONE)
        self.origin.requests.clear()

    def kept(self, name):
        """Return the bytes of a file in the destination; None if it is missing."""
        path = self.path('destination', name)
        return scene.read(path) if os.path.exists(path) else None

    def assertFailed(self, code, words, result):
        self.assertCode(code, result)
        self.assertIn(words, result.err)

    def assertFetched(self, content, result, warning=''):
        """The run succeeded, with this warning alone, and this image is installed."""
        self.assertEqual(0, result.code, result)
        warnings = result.err.count('tako: warning: ')
        self.assertEqual(bool(warning), warnings == 1, result)
        self.assertIn(warning, result.err)
        self.assertInPlace(content)


class AcceptTest(ProofCase):
    def test_manifest_and_stamp_are_installed_as_they_were_served(self):
        self.stamp()
        self.assertFetched(ONE, self.fetch())
        for name in ('manifest', 'stamp'):
            self.assertEqual(self.origin.read(name), self.kept(name))
        self.assertEqual(0o444, os.stat(self.path('destination', 'stamp')).st_mode & 0o777)
        self.assertEqual(['/manifest', '/stamp'], self.origin.paths()[:2])

    def test_without_a_stamp_key_no_stamp_is_asked_for(self):
        self.set_up('')
        self.origin.write('stamp', b'<html>')
        self.assertFetched(ONE, self.fetch())
        self.assertNotIn('/stamp', self.origin.paths())
        self.assertIsNone(self.kept('stamp'))

    def test_a_newer_manifest_is_accepted_with_its_stamp(self):
        self.have_one(DAY)
        self.origin.publish('1.1', TWO)
        self.stamp()
        self.assertFetched(TWO, self.fetch())
        self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))

    def test_a_renewed_stamp_replaces_the_older_one_and_prints_nothing(self):
        self.have_one()
        self.clock.now += DAY
        self.stamp()
        self.assertQuiet(self.fetch())
        self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))

    def test_either_of_two_stamp_keys_is_enough(self):
        self.set_up(self.more + 'StampKey={}\n'.format(OTHER_PUBLIC_KEY))
        for seed in (OTHER_SEED, SEED):
            self.clock.now += HOUR
            self.stamp(seed=seed)
            self.assertFetched(ONE, self.fetch())
            self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))

    def test_a_manifest_that_another_key_signs_keeps_its_stamp(self):
        self.have_one()
        before = self.kept('stamp')
        self.origin.seed = origin.OTHER_SEED
        self.origin.sign()
        self.set_up(public_keys=(origin.PUBLIC_KEY, origin.OTHER_PUBLIC_KEY))
        self.assertFetched(ONE, self.fetch())
        self.assertEqual((self.origin.read('manifest'), before),
                         (self.kept('manifest'), self.kept('stamp')))

    def test_without_fresh_a_stamp_never_gets_too_old(self):
        self.set_up('StampKey={}\n'.format(PUBLIC_KEY))
        self.stamp(9999 * DAY)
        self.assertFetched(ONE, self.fetch())

    def test_a_dry_run_says_the_same_and_writes_nothing(self):
        self.stamp()
        self.assertIn('would install it', self.fetch('--dry-run').out)
        self.stamp(FRESH + 1)
        self.assertFailed(3, 'no stamp since', self.fetch('--dry-run'))
        os.unlink(self.path('served', 'stamp'))
        self.assertFailed(75, 'no stamp proves', self.fetch('--dry-run'))
        self.assertEqual([], scene.names(self.destination))
        self.have_one()
        self.clock.now += FRESH + 1
        before = scene.snapshot(self.destination)
        self.assertEqual(3, self.fetch('--dry-run').code)
        self.assertEqual(before, scene.snapshot(self.destination))


class TableTest(ProofCase):
    """The table on the page: age of the proof, first fetch or not, and what is there of a stamp."""

    AGES = (('young', FRESH // 2 - HOUR), ('over half', FRESH // 2 + HOUR),
            ('too old', FRESH + HOUR))
    OTHER = stamps.of_images('7.0')

    def serve_stamp(self, what, age):
        """Let the origin serve this kind of stamp, or nothing at all if it is offline."""
        if what == 'there':
            self.stamp(age)
        elif what == 'older':
            self.stamp(age + HOUR)
        elif what == 'of another manifest':
            self.stamp(age, of=self.OTHER)
        if what == 'offline':
            self.origin.faults['*'] = origin.status(503)

    def meet(self, is_first, name, age, what):
        """Return the result of a fetch in a case of the table, in a new destination."""
        self.empty_destination()
        self.origin.faults.clear()
        if os.path.exists(self.path('served', 'stamp')):
            os.unlink(self.path('served', 'stamp'))
        if not is_first:
            self.clock.now = NOW - age
            self.have_one()
            os.unlink(self.path('served', 'stamp'))
            self.clock.now = NOW
        self.serve_stamp(what, age)
        return self.fetch()

    def test_each_exit_code_is_that_of_the_table_on_the_page(self):
        page = scene.read(os.path.join(scene.PROJECT, 'docs', 'configuration.md')).decode()
        table = re.search(r'\n\| there \|.*?\n\n', page, re.S).group().strip().split('\n')
        rows = [[cell.strip() for cell in row.strip('|').split('|')] for row in table]
        self.assertEqual(['there', 'absent', 'older', 'of another manifest', 'offline'],
                         [row[0] for row in rows])
        for what, *cells in rows:
            for number, cell in enumerate(cells):
                is_first, (name, age) = number < 3, self.AGES[number % 3]
                with self.subTest((what, name, is_first)):
                    result = self.meet(is_first, name, age, what)
                    code, _, warning = cell.partition(', ')
                    self.assertCode(int(code), result)
                    self.assertEqual(bool(warning), 'longer than half of Fresh=' in result.err)
                    self.assertLeft(is_first, int(code), age, what, result)

    def assertLeft(self, is_first, code, age, what, result):
        """The image is installed unless a first fetch failed. An error names the last stamp."""
        if is_first and code:
            self.assertEqual([], scene.names(self.destination))
        else:
            self.assertInPlace(ONE)
        if code == 3:
            self.assertIn('no stamp since {}, longer than Fresh= allows; asked: {}'.format(
                moment(NOW - age - (HOUR if is_first and what == 'older' else 0)),
                self.origin.url), result.err)


class RefusalTest(ProofCase):
    def test_a_first_fetch_without_a_valid_stamp_places_nothing(self):
        manifest = self.origin.read('manifest')
        for content, code, words in (
                (None, 75, 'no stamp proves that a manifest is the newest: '),
                (stamped(manifest, NOW, OTHER_SEED), 3, 'not signed by any'),
                (stamped(manifest, NOW, origin.SEED), 3, 'not signed by any'),
                (stamped(manifest, NOW)[:-1], 3, 'not a signed stamp'),
                (b'x' * (tako.STAMP_MAX_BYTES + 1), 3, 'longer than 1024 bytes'),
                (stamped(manifest, NOW, entries=2), 75, 'no stamp proves'),
                (stamped(stamps.of_images(), NOW), 75, 'no stamp proves'),
                (stamped(manifest, NOW + DAY + 1), 75, 'no stamp proves'),
                (stamped(manifest, NOW - FRESH - 1), 3, 'longer than Fresh= allows')):
            with self.subTest(words):
                if content is not None:
                    self.origin.write('stamp', content)
                self.assertFailed(code, words, self.fetch())
                self.assertEqual([], scene.names(self.destination))

    def test_an_invalid_stamp_later_is_a_warning(self):
        self.have_one()
        for content, words in (
                (stamped(self.origin.read('manifest'), NOW, OTHER_SEED), 'not signed by any'),
                (b'x' * (tako.STAMP_MAX_BYTES + 1), 'longer than 1024 bytes')):
            self.origin.write('stamp', content)
            self.assertFetched(ONE, self.fetch(), words)

    def test_a_newer_manifest_without_a_stamp_is_left_alone(self):
        self.have_one()
        manifest, stamp = self.kept('manifest'), self.kept('stamp')
        self.origin.publish('1.1', TWO)
        self.assertQuiet(self.fetch())
        self.clock.now += DAY - 1
        self.origin.publish('1.2', THREE)
        self.assertQuiet(self.fetch())
        self.clock.now += 1
        self.assertFetched(ONE, self.fetch(), 'a manifest with 3 entries has no stamp for more')
        self.assertEqual((manifest, stamp), (self.kept('manifest'), self.kept('stamp')))
        self.stamp()
        self.assertFetched(THREE, self.fetch())
        self.assertEqual('', scene.state(self.destination).unproven)

    def test_a_time_of_a_wrong_clock_begins_anew(self):
        self.have_one()
        self.origin.publish('1.1', TWO)
        for noted in (NOW + 1, tako.RELEASED - 1, 0):
            scene.write_state(self.destination, scene.state(self.destination)._replace(
                unproven=str(noted)))
            self.assertQuiet(self.fetch())
            self.assertEqual(str(NOW), scene.state(self.destination).unproven)

    def test_an_older_stamp_never_replaces_the_accepted_one(self):
        self.have_one()
        before = self.kept('stamp')
        self.stamp(1)
        self.assertQuiet(self.fetch())
        self.origin.publish('1.1', TWO)
        self.stamp(1)
        self.assertQuiet(self.fetch())
        self.assertEqual(before, self.kept('stamp'))
        self.assertInPlace(ONE)

    def test_a_fork_is_refused_whatever_is_stamped(self):
        self.origin.publish('1.1', TWO)
        self.have_two()
        self.origin.entries = [self.one, origin.entry_of('1.1', THREE)]
        self.origin.sign()
        for prepare in (self.stamp, lambda: os.unlink(self.path('served', 'stamp'))):
            prepare()
            before = self.kept('manifest'), self.kept('stamp')
            self.assertFailed(3, 'contradict each other', self.fetch())
            self.assertEqual(before, (self.kept('manifest'), self.kept('stamp')))
            self.assertInPlace(TWO)

    def have_two(self):
        self.stamp()
        self.assertFetched(TWO, self.fetch())


class UnprovenTest(ProofCase):
    """The local manifest has no valid proof, so the next fetch is like a first one."""

    def setUp(self):
        super().setUp()
        self.have_one()
        os.unlink(self.path('served', 'stamp'))

    def assertLikeFirst(self, code=75):
        before = scene.snapshot(self.destination)
        result = self.fetch()
        self.assertCode(code, result)
        self.assertEqual(before, scene.snapshot(self.destination))
        self.stamp()
        self.origin.publish('1.1', TWO)
        self.assertFetched(ONE, self.fetch())       # the stamp is of the manifest without 1.1
        self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))
        self.stamp()
        self.assertFetched(TWO, self.fetch())

    def test_the_setting_is_new(self):
        os.unlink(self.path('destination', 'stamp'))
        self.assertLikeFirst()

    def test_the_key_was_changed(self):
        self.set_up(self.more.replace(PUBLIC_KEY, OTHER_PUBLIC_KEY))
        self.assertCode(75, self.fetch())
        self.stamp(seed=OTHER_SEED)
        self.assertQuiet(self.fetch())
        self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))

    def test_the_stamp_is_damaged(self):
        origin.write(self.path('destination', 'stamp'), b'<html>')
        self.assertLikeFirst()

    def test_the_stamp_is_of_the_manifest_before(self):
        self.origin.publish('0.9', THREE)
        scene.write_manifest(self.destination, self.origin.read('manifest'))
        before = scene.snapshot(self.destination)
        self.assertCode(75, self.fetch())
        self.assertEqual(before, scene.snapshot(self.destination))
        self.stamp()
        self.assertFetched(ONE, self.fetch())

    def test_nothing_from_the_store_is_installed_without_a_proof(self):
        self.origin.publish('1.1', TWO)
        self.stamp()
        self.assertCode(0, self.fetch('--stage'))
        os.unlink(self.path('destination', 'stamp'))
        self.origin.faults['*'] = origin.status(503)
        self.assertCode(75, self.fetch())
        self.assertInPlace(ONE)

    def test_what_is_staged_with_a_proof_is_installed_offline(self):
        self.origin.publish('1.1', TWO)
        self.stamp()
        self.assertCode(0, self.fetch('--stage'))
        self.origin.faults['*'] = origin.status(503)
        self.assertCode(75, self.fetch())
        self.assertInPlace(TWO)


class StaleTest(ProofCase):
    """The proof is too old: nothing newer is installed, and all else goes on."""

    def setUp(self):
        super().setUp()
        self.origin.publish('1.1', TWO)
        self.set_up(version='1.0')
        self.have_one()
        self.clock.now += FRESH + 1

    def test_a_newer_version_is_not_installed(self):
        self.set_up(version='1.0 <= v < 2.0')
        self.origin.publish('1.2', THREE)
        self.stamp(FRESH + 1)
        before = self.kept('manifest'), self.kept('stamp')
        self.assertFailed(3, 'longer than Fresh= allows', self.fetch())
        self.assertInPlace(ONE)
        self.assertEqual(before, (self.kept('manifest'), self.kept('stamp')))
        self.assertNotIn('/store/' + self.one.digest, self.origin.paths())
        self.stamp()
        self.assertFetched(THREE, self.fetch())

    def test_a_damaged_image_is_repaired(self):
        origin.write(self.path('destination', 'store', self.one.digest), b'damaged')
        result = self.fetch()
        self.assertEqual(3, result.code)
        self.assertIn('1.0 is repaired', result.out)
        self.assertInPlace(ONE)

    def test_bounds_that_moved_are_followed(self):
        self.set_up(version='1.1')
        self.assertEqual(3, self.fetch().code)
        self.assertInPlace(TWO)

    def test_a_restart_that_is_due_is_done(self):
        calls = []
        digest = self.one.digest
        self.set_up(self.more + 'Restart=app.service\n', version='1.0')
        scene.write_state(self.destination, scene.state(self.destination)._replace(
            restart_due=digest))
        with unittest.mock.patch.object(tako.Switch, '_catch_up',
                                        lambda *_: calls.append(digest) or iter(())), \
                unittest.mock.patch.object(tako, 'check_units', lambda *_, **__: []):
            self.assertEqual(3, self.fetch().code)
        self.assertEqual('', scene.state(self.destination).restart_due)
        self.assertEqual([digest], calls)

    def test_rollback_goes_on(self):
        self.set_up(version='*')
        self.stamp()
        self.assertFetched(TWO, self.fetch())
        self.clock.now += FRESH + 1
        with self.clock.patch():
            self.assertEqual(0, self.run_here('rollback', self.app).code)
        self.assertInPlace(ONE)

    def test_init_that_finds_its_image_asks_nobody(self):
        self.origin.requests.clear()
        self.assertQuiet(self.fetch('--init'))
        self.assertEqual([], self.origin.requests)

    def test_init_that_has_to_fetch_asks_for_a_stamp(self):
        self.empty_destination()
        self.assertFailed(3, 'longer than Fresh= allows', self.fetch('--init'))
        self.stamp()
        self.assertCode(0, self.fetch('--init'))
        self.assertInPlace(ONE)


class WithheldTest(ProofCase):
    """A stamp names a manifest that is not served."""

    def setUp(self):
        super().setUp()
        self.have_one()
        self.old = self.origin.read('manifest')
        self.origin.publish('1.1', TWO)
        self.clock.now += HOUR
        self.stamp()
        self.query = '/manifest?' + tako.body_sha256(self.origin.read('manifest'))[:16]

    def test_a_stale_cache_is_passed(self):
        self.origin.etag = lambda body: '"{}"'.format(origin.digest_of(body))
        self.origin.faults['/manifest'] = origin.serves(self.old)
        self.origin.faults[self.query] = origin.serves(self.origin.read('manifest'))
        self.assertFetched(TWO, self.fetch())
        self.assertEqual([None], self.origin.asked(self.query, 'If-None-Match'))

    def test_a_withheld_manifest_is_a_warning_until_the_proof_is_too_old(self):
        for path in ('/manifest', self.query):
            self.origin.faults[path] = origin.serves(self.old)
        words = 'a newer manifest with 2 entries exists since {} or before, and is withheld'.format(
            moment(NOW + HOUR))
        self.assertFetched(ONE, self.fetch(), words)
        self.clock.now = NOW + FRESH + 1
        result = self.fetch()
        self.assertFailed(3, 'no stamp since {}'.format(moment(NOW)), result)
        self.assertIn(words, result.err)
        self.assertInPlace(ONE)

    def test_a_first_fetch_places_nothing(self):
        self.empty_destination()
        self.origin.faults['/manifest'] = origin.serves(self.old)
        self.origin.faults[self.query] = origin.status(404)
        result = self.fetch()
        self.assertFailed(75, 'no stamp proves', result)
        self.assertIn('is withheld', result.err)
        self.assertEqual([], scene.names(self.destination))


class ClockTest(ProofCase):
    def test_at_1970_the_youngest_stamp_is_accepted_and_not_kept(self):
        self.stamp(DAY)
        self.clock.now = 0
        self.assertFetched(ONE, self.fetch(), 'the clock is wrong: 1970-01-01T00:00:00Z')
        self.assertIsNone(self.kept('stamp'))
        self.clock.now = NOW
        self.assertQuiet(self.fetch())
        self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))

    def test_at_1970_an_accepted_stamp_is_no_lower_bound(self):
        self.have_one()
        before = self.kept('stamp')
        self.origin.publish('1.1', TWO)
        self.stamp(DAY)
        self.clock.now = 0
        self.assertFetched(TWO, self.fetch(), 'the clock is wrong')
        self.assertEqual(before, self.kept('stamp'))

    def test_at_2037_the_proof_is_too_old(self):
        self.have_one()
        self.clock.now = 2127000000
        self.assertFailed(3, 'no stamp since ' + moment(NOW), self.fetch())
        self.assertInPlace(ONE)
        self.clock.now = NOW
        self.assertQuiet(self.fetch())

    def test_a_month_back_no_stamp_is_accepted_until_the_clock_is_right(self):
        self.clock.now += 30 * DAY
        self.have_one()
        self.clock.now -= 30 * DAY
        now = moment(self.clock.now)
        for is_first in (False, True):
            if is_first:
                self.empty_destination()
            before = scene.snapshot(self.destination)
            result = self.fetch()
            self.assertFailed(75, 'no stamp proves', result)
            self.assertIn('the stamp of {} is not accepted: here it is {}'.format(
                moment(NOW + 30 * DAY), now), result.err)
            self.assertEqual(before, scene.snapshot(self.destination))
        self.clock.now += 30 * DAY
        self.assertFetched(ONE, self.fetch())

    def test_a_stamp_from_the_future_leaves_the_accepted_one(self):
        self.have_one()
        before = self.kept('stamp')
        self.stamp(-DAY - 1)
        result = self.fetch()
        self.assertFailed(75, 'is not accepted: here it is', result)
        self.assertEqual(before, self.kept('stamp'))
        self.assertInPlace(ONE)

    def test_an_accepted_stamp_from_the_future_is_dropped(self):
        self.clock.now += 9 * DAY
        self.have_one()
        self.clock.now = NOW
        self.stamp()
        self.assertFetched(ONE, self.fetch())
        self.assertEqual(self.origin.read('stamp'), self.kept('stamp'))


class MirrorTest(ProofCase):
    """A second origin, of which one may be frozen at an older manifest."""

    def setUp(self):
        super().setUp()
        self.have_one()
        self.frozen = self.serve('frozen')
        for name in ('manifest', 'stamp', 'store/' + self.one.digest):
            self.frozen.write(name, self.origin.read(name))
        self.clock.now += FRESH + DAY

    def mirrors(self, *urls):
        self.app = self.config(urls[0], more=self.more, mirrors=urls[1:])

    def test_one_honest_mirror_is_enough(self):
        two = self.origin.publish('1.1', TWO)
        self.frozen.write('store/' + two.digest, TWO)
        self.stamp()
        for urls in ((self.frozen.url, self.origin.url), (self.origin.url, self.frozen.url)):
            self.empty_destination()
            self.mirrors(*urls)
            self.assertFetched(TWO, self.fetch())

    def test_a_stamp_of_one_mirror_proves_the_manifest_of_another(self):
        two = self.origin.publish('1.1', TWO)
        self.frozen.write('store/' + two.digest, TWO)
        self.stamp(at=self.frozen, of=self.origin.read('manifest'))
        os.unlink(self.path('served', 'stamp'))
        self.mirrors(self.frozen.url, self.origin.url)
        self.assertFetched(TWO, self.fetch(), self.origin.url + '/stamp: HTTP status 404')

    def test_if_all_are_frozen_the_error_names_them(self):
        self.mirrors(self.frozen.url, self.origin.url)
        self.assertFailed(3, 'asked: {}, {}'.format(self.frozen.url, self.origin.url),
                          self.fetch())

    def test_a_mirror_without_a_stamp_still_serves_the_image(self):
        two = self.origin.publish('1.1', TWO)
        self.stamp()
        self.frozen.write('manifest', self.origin.read('manifest'))
        self.frozen.write('store/' + two.digest, TWO)
        os.unlink(self.path('frozen', 'stamp'))
        os.unlink(self.path('served', 'store', two.digest))
        self.mirrors(self.frozen.url, self.origin.url)
        self.assertFetched(TWO, self.fetch(), self.frozen.url + '/stamp: HTTP status 404')
        self.assertIn('/store/' + two.digest, self.frozen.paths())


class ShownTest(ProofCase):
    def status(self, *options):
        with self.clock.patch():
            return self.run_here('status', *options, self.app)

    def known(self):
        import json
        result = self.status('--json')
        self.assertEqual(0, result.code)
        return json.loads(result.out)[0]

    def test_status_has_the_time_of_the_proof(self):
        self.assertIsNone(self.known()['proof'])
        self.have_one(HOUR)
        self.assertEqual((True, NOW - HOUR, None), tuple(
            self.known()[key] for key in ('is_stamp_needed', 'proof', 'unproven_since')))
        self.assertIn('last stamp:', self.status().out)
        os.unlink(self.path('destination', 'stamp'))
        self.assertRegex(self.status().out, 'last stamp: +never')

    def test_status_has_since_when_a_newer_manifest_has_no_stamp(self):
        self.have_one()
        self.origin.publish('1.1', TWO)
        self.fetch()
        self.assertEqual(NOW, self.known()['unproven_since'])
        self.assertIn('a newer manifest, since 2026-', self.status().out)

    def test_max_age_counts_the_age_of_the_proof(self):
        self.have_one(DAY)
        os.utime(self.path('destination', '.state'), (NOW, NOW))
        self.assertEqual(0, self.status('--max-age', str(DAY)).code)
        self.assertFailed(1, 'the last stamp is too old', self.status('--max-age', str(DAY - 1)))
        os.unlink(self.path('destination', 'stamp'))
        self.assertFailed(1, 'no stamp proves the manifest', self.status('--max-age', '9d'))

    def test_without_a_stamp_key_status_says_nothing_of_stamps(self):
        self.have_one()
        self.set_up('')
        self.assertNotIn('stamp', self.status().out)
        self.assertEqual((False, None), tuple(
            self.known()[key] for key in ('is_stamp_needed', 'proof')))
        os.utime(self.path('destination', '.state'), (NOW, NOW))
        self.clock.now += DAY
        self.assertEqual(0, self.status('--max-age', '2d').code)

    def test_check_warns_of_a_stamp_key_that_is_also_a_release_key(self):
        self.set_up('Keep=3\nStampKey={}\nStampKey={}\n'.format(PUBLIC_KEY, origin.PUBLIC_KEY))
        result = self.run_here('check', self.app)
        self.assertEqual(0, result.code)
        self.assertIn(self.app + ':7: StampKey= is also a PublicKey=', result.err)
        self.assertEqual(1, result.err.count('StampKey='))


if __name__ == '__main__':
    unittest.main()

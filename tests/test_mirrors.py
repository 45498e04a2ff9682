"""Section 16: several mirrors of one image, of which some are down, stale, slow or lying."""
import itertools
import os
import socket
import time

import origin
import scene
import tako
from scene import ONE, THREE, TWO

OTHER_TWO = b'another two' * 2000


def manifest_of(*images, **settings):
    """Return the signed manifest of these images, each a (version, content)."""
    entries = sorted(origin.entry_of(version, content) for version, content in images)
    return tako.seal_manifest(tako.Manifest(tuple(entries)), settings.get('seed', origin.SEED))


class MirrorCase(scene.Scene):
    """A client and three mirrors that serve version 1.0. Pauses take no time."""

    def setUp(self):
        super().setUp()
        self.mirrors = [self.serve() for _ in range(3)]
        for mirror in self.mirrors:
            mirror.has_ranges = True
        self.a, self.b, self.c = self.mirrors
        self.one = self.publish('1.0', ONE)
        self.app = self.list(self.a.url, self.b.url)
        self.clock = scene.Clock()

    def publish(self, version, content):
        entry = self.a.publish(version, content)
        for mirror in self.mirrors:
            mirror.entries = self.a.entries
        return entry

    def list(self, *urls):
        """Write a config with these origins; return its path."""
        return self.config(urls[0], mirrors=urls[1:])

    def fetch(self, *options, **settings):
        with self.clock.patch():
            return self.run_here('fetch', *options + (self.app,), **settings)

    def have_one(self):
        """Install version 1.0, then publish 1.1. Return a snapshot of the destination."""
        self.assertCode(0, self.fetch())
        self.two = self.publish('1.1', TWO)
        self.forget()
        return scene.snapshot(self.destination)

    def forget(self):
        for mirror in self.mirrors:
            mirror.requests.clear()
            mirror.answers.clear()

    def anew(self):
        """Empty the destination and make all mirrors honest."""
        self.empty_destination()
        self.forget()
        for mirror in self.mirrors:
            mirror.faults.clear()
            mirror.etag = None

    def image(self, entry):
        return '/store/' + entry.digest

    def local(self):
        return scene.read(self.path('destination', 'manifest'))


class OrderTest(MirrorCase):
    def test_each_mirror_is_asked_for_its_manifest_and_the_first_for_the_image(self):
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)
        self.assertEqual([['/manifest', self.image(self.one)], ['/manifest'], ['/manifest']],
                         [mirror.paths() for mirror in self.mirrors])

    def test_mirrors_are_asked_in_the_order_of_the_config(self):
        self.app = self.list(self.c.url, self.a.url)
        self.assertCode(0, self.fetch())
        self.assertEqual((['/manifest', self.image(self.one)], ['/manifest']),
                         (self.c.paths(), self.a.paths()))

    def test_the_manifest_that_continues_all_others_wins_in_any_order(self):
        manifests = [manifest_of(('1.0', ONE)), manifest_of(('1.0', ONE), ('1.2', TWO)),
                     manifest_of(('0.9', THREE), ('1.0', ONE), ('1.2', TWO))]
        self.publish('1.2', TWO)
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        for order in itertools.permutations(manifests):
            for start in (None, manifests[0]):
                self.anew()
                if start is not None:
                    self.write('destination/manifest', start)
                for mirror, manifest in zip(self.mirrors, order):
                    mirror.faults['/manifest'] = origin.serves(manifest)
                self.assertCode(0, self.fetch())
                self.assertEqual(manifests[2], self.local())
                self.assertInPlace(TWO)

    def test_a_mirror_may_be_listed_twice(self):
        for listed in ((self.a.url, self.a.url + '/'), (self.a.url, self.a.url, self.b.url)):
            self.anew()
            self.app = self.list(*listed)
            self.assertCode(0, self.fetch())
            self.assertInPlace(ONE)
            self.assertQuiet(self.fetch())

    def test_a_directory_may_be_a_mirror(self):
        self.app = self.list('file://' + self.path('nowhere'), 'file://' + self.path('served'),
                             self.a.url)
        result = self.fetch()
        self.assertEqual(0, result.code)
        self.assertIn('file://' + self.path('nowhere'), result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['/manifest'], self.a.paths())

    def test_a_download_that_breaks_off_is_resumed_from_the_next_mirror_at_once(self):
        self.have_one()
        self.a.faults[self.image(self.two)] = origin.drops(5000)
        result = self.fetch()
        self.assertEqual((0, []), (result.code, self.clock.pauses), result)
        self.assertIn(self.a.url, result.err)
        self.assertInPlace(TWO)
        self.assertEqual(['bytes=5000-'], self.b.asked(self.image(self.two), 'Range'))
        self.assertEqual([(206, len(TWO) - 5000)], self.b.served(self.image(self.two)))

    def test_a_download_that_began_with_wrong_bytes_restarts_from_the_next_mirror(self):
        self.have_one()

        def lie(handler):
            handler.answer(200, OTHER_TWO[:5000], length=len(TWO))
            handler.hang_up()
        self.a.faults[self.image(self.two)] = lie
        result = self.fetch()
        self.assertEqual(0, result.code, result)
        self.assertInPlace(TWO)
        self.assertEqual(['bytes=5000-', None], self.b.asked(self.image(self.two), 'Range'))


class DeadMirrorTest(MirrorCase):
    """A mirror is down, stale or broken: fetch warns of it and succeeds from another.

    attacks/ has more of what a mirror may do wrong.
    """

    def test_a_mirror_that_is_down_costs_a_warning(self):
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))
            dead = 'http://127.0.0.1:{}'.format(unused.getsockname()[1])
            for urls in ((dead, self.a.url), (self.a.url, dead),
                         (dead, 'http://nowhere.invalid', self.b.url)):
                self.anew()
                self.app = self.list(*urls)
                result = self.fetch()
                self.assertEqual((0, []), (result.code, self.clock.pauses), result)
                self.assertIn(dead, result.err)
                self.assertInPlace(ONE)

    def test_a_stale_mirror_may_lack_the_image(self):
        self.have_one()
        self.a.faults['/manifest'] = origin.serves(manifest_of(('1.0', ONE)))
        self.a.faults[self.image(self.two)] = origin.status(404)
        result = self.fetch()
        self.assertEqual(0, result.code)
        self.assertIn(self.a.url, result.err)
        self.assertInPlace(TWO)

    def test_a_bad_mirror_is_reported_though_there_is_no_update(self):
        self.assertCode(0, self.fetch())
        self.b.faults['/manifest'] = origin.serves(b'<html>')
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.out))
        self.assertIn(self.b.url, result.err)


class WithdrawnTest(MirrorCase):
    def test_an_image_withdrawn_from_all_mirrors_is_replaced_by_an_older_one(self):
        self.assertCode(0, self.fetch())
        self.publish('1.1', TWO)
        three = self.publish('1.2', THREE)
        self.a.faults[self.image(three)] = self.b.faults[self.image(three)] = origin.status(410)
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.1 is installed\n'), (result.code, result.out))
        self.assertIn('1.2: ', result.err)
        self.assertInPlace(TWO)

    def test_a_withdrawal_from_several_mirrors_is_reported_once(self):
        self.have_one()
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        for mirror in self.mirrors:
            mirror.faults[self.image(self.two)] = origin.status(410)
        self.assertIn('1.1: ', self.fetch().err)
        self.assertQuiet(self.fetch())
        self.assertInPlace(ONE)

    def test_an_image_withdrawn_from_one_mirror_is_downloaded_from_another(self):
        self.have_one()
        for order in ((self.a, self.b), (self.b, self.a)):
            self.app = self.list(*[mirror.url for mirror in order])
            self.a.faults[self.image(self.two)] = origin.status(410)
            self.assertEqual(0, self.fetch().code)
            self.assertInPlace(TWO)

    def test_an_image_withdrawn_from_one_mirror_and_served_by_none_is_skipped(self):
        """It makes no difference why the other mirror does not serve the image."""
        two = self.publish('1.1', TWO)
        for name, fault in (('404', origin.status(404)), ('503', origin.status(503)),
                            ('down', origin.hangs_up),
                            ('lying', origin.serves(OTHER_TWO))):
            with self.subTest(name):
                self.anew()
                self.a.faults[self.image(two)] = origin.status(410)
                self.b.faults[self.image(two)] = fault
                self.assertEqual(0, self.fetch().code)
                self.assertInPlace(ONE)


class SeverityTest(MirrorCase):
    """If all mirrors fail, fetch names each and exits with the most severe code."""

    def assertFails(self, what, faults, code):
        for order in itertools.permutations(faults):
            with self.subTest((what, order)):
                self.forget()
                for mirror, fault in zip((self.a, self.b), order):
                    mirror.faults = {what: fault}
                result = self.fetch()
                self.assertCode(code, result)
                self.assertEqual('', result.out)
                self.assertIn(self.a.url, result.err)
                self.assertIn(self.b.url, result.err)
                self.assertFalse(os.path.lexists(self.path('destination', 'latest')))

    def test_manifests_that_all_fail_exit_with_the_most_severe_code(self):
        not_ours = origin.serves(manifest_of(seed=origin.OTHER_SEED))
        self.assertFails('/manifest', (origin.status(404), origin.serves(b'<html>')), 3)
        self.assertFails('/manifest', (origin.status(503), not_ours), 3)
        self.assertFails('/manifest', (origin.status(503), origin.status(404)), 75)
        self.assertFails('/manifest', (origin.hangs_up, origin.talks_nonsense), 75)

    def test_a_manifest_withdrawn_from_one_mirror_and_refused_from_another_is_exit_3(self):
        self.assertFails('/manifest', (origin.status(410), origin.serves(b'<html>')), 3)

    def test_images_that_all_fail_exit_with_the_most_severe_code(self):
        image = self.image(self.one)
        self.assertFails(image, (origin.status(404), origin.serves(ONE[::-1])), 3)
        self.assertFails(image, (origin.hangs_up, origin.serves(ONE + b'x')), 3)
        self.assertFails(image, (origin.status(404), origin.status(503)), 75)


class ForkTest(MirrorCase):
    """One key signed two histories that contradict each other."""

    def setUp(self):
        super().setUp()
        self.before = self.have_one()
        self.mine = self.a.read('manifest')
        self.theirs = manifest_of(('1.0', ONE), ('1.1', OTHER_TWO), ('1.2', THREE))
        self.line = origin.entry_of('1.1', TWO).line().strip()
        self.other_line = origin.entry_of('1.1', OTHER_TWO).line().strip()

    def assertForked(self, *evidence):
        result = self.fetch()
        self.assertCode(3, result)
        self.assertEqual('', result.out)
        after = scene.snapshot(self.destination)
        kept = [after.pop(name) for name in ('.fork.1', '.fork.2')]
        self.assertEqual(self.before, after)
        self.assertEqual([(0o100444, origin.digest_of(each)) for each in evidence], kept)
        self.assertEqual({'/manifest'},
                         {path for mirror in self.mirrors for path in mirror.paths()})
        return result

    def test_two_contradicting_manifests_change_nothing(self):
        for mine, theirs in ((self.a, self.b), (self.b, self.a)):
            with self.subTest(mine.url):
                self.a.faults.clear()
                self.b.faults.clear()
                theirs.faults['/manifest'] = origin.serves(self.theirs)
                result = self.assertForked(*((self.mine, self.theirs) if mine is self.a
                                             else (self.theirs, self.mine)))
                self.assertIn(self.a.url + '/manifest', result.err)
                self.assertIn(self.b.url + '/manifest', result.err)
                self.assertIn(self.line if mine is self.a else self.other_line, result.err)
                self.assertIn('.fork.1', result.err)

    def test_a_third_manifest_that_continues_one_side_settles_no_fork(self):
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        longer = manifest_of(('1.0', ONE), ('1.1', TWO), ('2', THREE))
        for order in itertools.permutations((self.mine, self.theirs, longer)):
            for mirror, manifest in zip(self.mirrors, order):
                mirror.faults['/manifest'] = origin.serves(manifest)
            self.assertCode(3, self.fetch())
            self.assertEqual(self.before,
                             {name: what for name, what in scene.snapshot(self.destination).items()
                                           if not name.startswith('.fork.')})

    def test_a_manifest_that_contradicts_the_local_one_is_a_fork(self):
        self.assertCode(0, self.fetch())
        self.before = scene.snapshot(self.destination)
        self.forget()
        for others in ((origin.serves(self.theirs),),
                       (origin.serves(self.theirs), origin.status(404))):
            for mirror, fault in zip((self.a, self.b), others * 2):
                mirror.faults['/manifest'] = fault
            result = self.assertForked(self.mine, self.theirs)
            self.assertIn(self.path('destination', 'manifest'), result.err)
            self.assertIn(self.a.url + '/manifest', result.err)
            self.assertIn(self.line, result.err)

    def test_a_manifest_signed_by_an_unlisted_key_is_no_fork(self):
        self.b.faults['/manifest'] = origin.serves(manifest_of(('1.0', OTHER_TWO),
                                                               seed=origin.OTHER_SEED))
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(TWO)

    def test_the_same_entries_signed_by_another_listed_key_are_no_fork(self):
        """This happens while a key is rotated and a mirror is not up to date."""
        self.app = self.config(self.a.url, public_keys=(origin.PUBLIC_KEY, origin.OTHER_PUBLIC_KEY),
                               mirrors=[self.b.url])
        rotated = manifest_of(('1.0', ONE), ('1.1', TWO), seed=origin.OTHER_SEED)
        for mirror in (self.a, self.b):
            self.a.faults.clear()
            mirror.faults['/manifest'] = origin.serves(rotated)
            self.assertEqual(0, self.fetch().code)
            self.assertInPlace(TWO)
            manifest = self.local()
            self.assertQuiet(self.fetch())
            self.assertEqual(manifest, self.local())

    def test_a_dry_run_keeps_no_evidence_of_a_fork(self):
        self.b.faults['/manifest'] = origin.serves(self.theirs)
        self.assertCode(3, self.fetch('--dry-run'))
        self.assertEqual(self.before, scene.snapshot(self.destination))

    def test_updates_continue_after_a_fork_is_settled(self):
        self.b.faults['/manifest'] = origin.serves(self.theirs)
        self.assertCode(3, self.fetch())
        self.b.faults.clear()
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(TWO)
        evidence = [scene.read(self.path('destination', name)) for name in ('.fork.1', '.fork.2')]
        self.assertEqual([self.mine, self.theirs], evidence)        # only the user removes it


class ChoiceTest(MirrorCase):
    """Which manifest wins does not depend on the order of the mirrors."""

    def serve_manifests(self, *manifests):
        for mirror, manifest in zip(self.mirrors, manifests):
            mirror.faults['/manifest'] = origin.serves(manifest)
        self.app = self.list(*(mirror.url for mirror in self.mirrors))

    def test_a_manifest_that_continues_two_others_wins(self):
        one = self.a.entries[0]
        two, three = origin.entry_of('1.1', TWO), origin.entry_of('1.2', b'three')
        self.a.write('store/' + two.digest, TWO)
        self.a.write('store/' + three.digest, b'three')
        manifests = [tako.seal_manifest(tako.Manifest(entries), origin.SEED)
                     for entries in ((one, two), (one, three), (one, two, three))]
        for order in itertools.permutations(manifests):
            self.anew()
            self.serve_manifests(*order)
            self.assertCode(0, self.fetch())
            self.assertEqual(manifests[2], self.local())

    def test_of_equal_manifests_the_first_mirror_s_wins_so_that_a_new_key_spreads(self):
        entries = tako.Manifest(tuple(self.a.entries))
        old, new = (tako.seal_manifest(entries, seed) for seed in (origin.SEED, origin.OTHER_SEED))
        self.config(self.a.url)
        self.assertCode(0, self.fetch())
        self.serve_manifests(new, old, old)
        with open(self.app, 'a') as stream:
            stream.write('PublicKey={}\n'.format(origin.OTHER_PUBLIC_KEY))
        self.assertCode(0, self.fetch())
        self.assertEqual(new, self.local())


class SlowTest(MirrorCase):
    def assertLeftOut(self, mirror, **limits):
        """A mirror that drips its manifest takes no more than its share of the time."""
        for options, more in (((), {'MANIFEST_SECONDS': 0.3}), (('--timeout', '4'), {})):
            with self.subTest(options):
                self.anew()
                mirror.faults['/manifest'] = drips
                self.app = self.list(self.a.url, self.b.url)
                result = self.run_here('fetch', *options + (self.app,), limits=dict(more, **limits))
                self.assertEqual(0, result.code, result)
                self.assertIn(mirror.url, result.err)
                self.assertNotIn('longer than', result.err)
                self.assertInPlace(ONE)

    def test_a_slow_manifest_from_the_first_mirror_delays_no_update_for_long(self):
        self.assertLeftOut(self.a)

    def test_a_slow_manifest_from_the_last_mirror_delays_no_update_for_long(self):
        self.assertLeftOut(self.b, MANIFEST_MAX_BYTES=12000)

    def test_a_slow_manifest_may_take_its_time_if_no_other_mirror_has_one(self):
        self.a.faults['/manifest'] = origin.status(404)
        self.b.faults['/manifest'] = drips
        self.app = self.list(self.a.url, self.b.url)
        result = self.run_here('fetch', self.app,
                               limits={'MANIFEST_SECONDS': 0.3, 'MANIFEST_MAX_BYTES': 10000})
        self.assertCode(3, result)
        self.assertIn(self.b.url + '/manifest: longer than ', result.err)


def drips(handler):
    """Sends a manifest without end, a little faster than the minimum rate."""
    handler.send_response(200)
    handler.send_header('Connection', 'close')
    handler.end_headers()
    try:
        for _ in range(600):
            handler.wfile.write(b'\n' * 200)
            time.sleep(0.05)
    except OSError:
        pass
    handler.hang_up()


class ConditionalTest(MirrorCase):
    """fetch asks for the manifest by its ETag, so an unchanged one costs no bytes."""

    def setUp(self):
        super().setUp()
        self.name_versions()

    def name_versions(self):
        self.a.etag = lambda body: '"a-{}"'.format(origin.digest_of(body)[:8])
        self.b.etag = lambda body: 'W/"b-{}"'.format(origin.digest_of(body)[:8])

    def asked(self):
        """Return the last If-None-Match that each mirror got."""
        return [mirror.asked('/manifest', 'If-None-Match')[-1] for mirror in (self.a, self.b)]

    def etags(self):
        return [mirror.etag(self.a.read('manifest')) for mirror in (self.a, self.b)]

    def have(self):
        self.assertCode(0, self.fetch())
        self.assertEqual([None, None], self.asked())

    def test_an_unchanged_manifest_costs_each_mirror_a_304(self):
        self.have()
        for _ in range(2):
            self.forget()
            self.assertQuiet(self.fetch())
            self.assertEqual(self.etags(), self.asked())
            self.assertEqual([[(304, 0)]] * 2,
                             [mirror.served('/manifest') for mirror in (self.a, self.b)])

    def test_a_lying_etag_hides_an_update_for_a_day_at_most(self):
        """The mirror sends the ETag of the new manifest with a 304, or with the old manifest."""
        for version, code in (('1.1', 304), ('1.2', 200)):
            with self.subTest(code):
                self.anew()
                self.name_versions()
                self.app = self.list(self.a.url)
                self.assertCode(0, self.fetch())
                old = self.a.read('manifest')
                self.publish(version, TWO + version.encode())
                etag = [('ETag', self.a.etag(self.a.read('manifest')))]
                self.a.faults['/manifest'] = origin.status(code, old if code == 200 else b'', etag)
                self.fetch()
                self.a.faults.clear()
                self.fetch()
                yesterday = time.time() - 86400     # once a day fetch asks without an ETag
                os.utime(self.path('destination', 'manifest'), (yesterday, yesterday))
                self.assertCode(0, self.fetch())
                self.assertInPlace(TWO + version.encode())

    def test_a_changed_manifest_is_downloaded_and_its_etag_sent_from_then_on(self):
        self.have()
        old = self.etags()
        self.publish('1.1', TWO)
        self.assertCode(0, self.fetch())
        self.assertEqual(old, self.asked())
        self.assertInPlace(TWO)
        self.assertQuiet(self.fetch())
        self.assertEqual(self.etags(), self.asked())
        self.assertNotEqual(old, self.etags())

    def test_a_new_etag_for_the_same_manifest_replaces_the_first(self):
        self.have()
        self.a.etag = lambda _: '"restored"'
        self.assertQuiet(self.fetch())
        self.assertQuiet(self.fetch())
        self.assertEqual('"restored"', self.asked()[0])
        self.assertEqual((304, 0), self.a.served('/manifest')[-1])

    def test_a_304_from_one_mirror_hides_no_update_of_another(self):
        self.have()
        self.publish('1.1', TWO)
        self.a.faults['/manifest'] = origin.status(304, b'')
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.err))
        self.assertInPlace(TWO)

    def test_no_etag_is_sent_without_the_manifest_that_it_is_for(self):
        """With it, a 304 could make fetch trust a manifest that is unverified or too old."""
        older = manifest_of()

        def remove():
            os.unlink(self.path('destination', 'manifest'))

        def replace():
            remove()
            self.write('destination/manifest', older, 0o444)

        def forget():
            os.unlink(self.path('destination', '.state'))
        for attack in (remove, replace, forget):
            with self.subTest(attack.__name__):
                self.anew()
                self.name_versions()
                self.have()
                attack()
                self.assertQuiet(self.fetch())
                self.assertEqual([None, None], self.asked())
                self.assertEqual(self.a.read('manifest'), self.local())
                self.assertQuiet(self.fetch())
                self.assertEqual(self.etags(), self.asked())

    def test_no_etag_is_sent_after_the_state_was_damaged(self):
        self.have()
        os.unlink(self.path('destination', '.state'))
        self.write('destination/.state', b'validators=\xff\n')
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.out))
        self.assertIn('.state is damaged', result.err)
        self.assertEqual([None, None], self.asked())
        self.assertQuiet(self.fetch())
        self.assertEqual(self.etags(), self.asked())

    def test_a_304_without_a_sent_etag_is_exit_75(self):
        self.a.etag = self.b.etag = None
        for fresh in (True, False):
            for mirror in (self.a, self.b):
                mirror.faults['/manifest'] = origin.status(304, b'', [('ETag', '"x"')])
            result = self.fetch()
            self.assertCode(75, result)
            self.assertIn('304', result.err)
            if fresh:
                self.assertEqual([], scene.names(self.destination))
                self.a.faults.clear()
                self.b.faults.clear()
                self.assertCode(0, self.fetch())

    def test_an_invalid_etag_is_not_sent_back(self):
        for etag in ('bare', '"a b"', '"' + 'x' * 300 + '"', '"\u00e9"', '"a"b"', 'w/"a"', '""',
                     '"'):
            with self.subTest(etag):
                self.anew()
                self.a.faults['/manifest'] = self.b.faults['/manifest'] = origin.serves(
                    self.a.read('manifest'), [('ETag', etag)])
                self.assertCode(0, self.fetch())
                self.assertQuiet(self.fetch())
                self.assertEqual([None, None], self.asked())

    def test_an_etag_is_sent_only_to_the_mirror_that_gave_it(self):
        self.have()
        self.app = self.list(self.c.url, self.b.url)
        self.c.etag = self.a.etag
        self.assertQuiet(self.fetch())
        self.assertEqual([None], self.c.asked('/manifest', 'If-None-Match'))
        self.assertEqual(self.etags()[1], self.b.asked('/manifest', 'If-None-Match')[-1])

    def test_the_etag_of_a_manifest_that_is_not_installed_is_not_kept(self):
        self.publish('1.1', TWO)
        self.a.faults['/manifest'] = origin.serves(manifest_of(('1.0', ONE)), [('ETag', '"stale"')])
        self.have()
        self.assertEqual(self.b.read('manifest'), self.local())
        self.fetch()
        self.assertEqual([None, self.etags()[1]], self.asked())


class CredentialsTest(MirrorCase):
    def test_each_mirror_gets_only_its_own_credentials(self):
        two = self.publish('1.1', TWO)
        self.app = self.list(self.a.url.replace('//', '//anna:secret-a@'), self.b.url,
                             self.c.url.replace('//', '//carl:secret-c@'))
        for mirror in (self.a, self.b):
            mirror.faults[self.image(two)] = origin.status(404)     # so fetch asks each mirror
        result = self.fetch('-v')
        self.assertEqual(0, result.code)
        self.assertInPlace(TWO)
        for mirror, userinfo in ((self.a, 'anna:secret-a'), (self.b, ''),
                                 (self.c, 'carl:secret-c')):
            expected = tako.basic_authorization(userinfo) or None
            for path in ('/manifest', self.image(two)):
                self.assertEqual([expected], mirror.asked(path, 'Authorization'))
        self.assertNotIn('secret', repr(result))
        self.assertNotIn(b'secret', scene.read(self.path('destination', '.state')))

    def test_a_redirect_to_another_mirror_carries_no_credentials(self):
        self.app = self.list(self.a.url.replace('//', '//anna:secret-a@'),
                             self.b.url.replace('//', '//bert:secret-b@'))
        self.a.faults['*'] = origin.redirects(self.b.url + '/manifest')
        self.b.faults[self.image(self.one)] = origin.redirects(self.c.url + self.image(self.one))
        self.assertEqual(0, self.fetch().code)
        bert = tako.basic_authorization('bert:secret-b')
        self.assertEqual({None, bert}, set(self.b.asked('/manifest', 'Authorization')))
        self.assertEqual([bert], self.b.asked(self.image(self.one), 'Authorization'))
        self.assertEqual([None], self.c.asked(self.image(self.one), 'Authorization'))

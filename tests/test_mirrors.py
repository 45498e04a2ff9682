"""Section 15: several origins for one image, of which some are down, stale or lying."""
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
    """The signed manifest that lists these (version, content)."""
    entries = sorted(origin.entry_of(version, content) for version, content in images)
    return tako.seal_manifest(tako.Manifest(tuple(entries)), settings.get('seed', origin.SEED))


class MirrorCase(scene.Scene):
    """A client, and three servers of one directory, in which version 1.0 is published; its clock does not wait."""

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
        """A config with these origins; its path."""
        return self.config(urls[0], mirrors=urls[1:])

    def fetch(self, *options, **settings):
        with self.clock.patch():
            return self.run_here('fetch', *options + (self.app,), **settings)

    def have_one(self):
        """Version 1.0 is installed, version 1.1 is offered; what the destination holds."""
        self.assertCode(0, self.fetch())
        self.two = self.publish('1.1', TWO)
        self.forget()
        return scene.snapshot(self.destination)

    def forget(self):
        for mirror in self.mirrors:
            mirror.requests.clear()
            mirror.answers.clear()

    def anew(self):
        """Let the destination be empty and all mirrors honest."""
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
    def test_each_is_asked_for_its_manifest_and_the_first_for_the_image(self):
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        self.assertCode(0, self.fetch())
        self.assertInPlace(ONE)
        self.assertEqual([['/manifest', self.image(self.one)], ['/manifest'], ['/manifest']],
                         [mirror.paths() for mirror in self.mirrors])

    def test_the_order_is_the_config_s(self):
        self.app = self.list(self.c.url, self.a.url)
        self.assertCode(0, self.fetch())
        self.assertEqual((['/manifest', self.image(self.one)], ['/manifest']), (self.c.paths(), self.a.paths()))

    def test_the_manifest_that_continues_all_others_wins_whatever_their_order(self):
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

    def test_one_listed_twice_is_no_harm(self):
        for listed in ((self.a.url, self.a.url + '/'), (self.a.url, self.a.url, self.b.url)):
            self.anew()
            self.app = self.list(*listed)
            self.assertCode(0, self.fetch())
            self.assertInPlace(ONE)
            self.assertQuiet(self.fetch())

    def test_a_directory_may_be_one(self):
        self.app = self.list('file://' + self.path('nowhere'), 'file://' + self.path('served'), self.a.url)
        result = self.fetch()
        self.assertEqual(0, result.code)
        self.assertIn('file://' + self.path('nowhere'), result.err)
        self.assertInPlace(ONE)
        self.assertEqual(['/manifest'], self.a.paths())

    def test_a_download_that_one_drops_is_resumed_at_the_next_at_once(self):
        self.have_one()
        self.a.faults[self.image(self.two)] = origin.drops(5000)
        result = self.fetch()
        self.assertEqual((0, []), (result.code, self.clock.pauses), result)
        self.assertIn(self.a.url, result.err)
        self.assertInPlace(TWO)
        self.assertEqual(['bytes=5000-'], self.b.asked(self.image(self.two), 'Range'))
        self.assertEqual([(206, len(TWO) - 5000)], self.b.served(self.image(self.two)))

    def test_a_download_that_one_began_with_lies_is_begun_anew_at_the_next(self):
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
    """A mirror is down, stale, or answers nonsense: fetch warns of it and succeeds from another. See attacks/ for more."""

    def test_nobody_listens(self):
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))
            dead = 'http://127.0.0.1:{}'.format(unused.getsockname()[1])
            for urls in ((dead, self.a.url), (self.a.url, dead), (dead, 'http://nowhere.invalid', self.b.url)):
                self.anew()
                self.app = self.list(*urls)
                result = self.fetch()
                self.assertEqual((0, []), (result.code, self.clock.pauses), result)
                self.assertIn(dead, result.err)
                self.assertInPlace(ONE)

    def test_a_stale_one_that_knows_what_is_here_may_lack_the_image(self):
        self.have_one()
        self.a.faults['/manifest'] = origin.serves(manifest_of(('1.0', ONE)))
        self.a.faults[self.image(self.two)] = origin.status(404)
        result = self.fetch()
        self.assertEqual(0, result.code)
        self.assertIn(self.a.url, result.err)
        self.assertInPlace(TWO)

    def test_it_is_told_even_where_nothing_else_is_to_do(self):
        self.assertCode(0, self.fetch())
        self.b.faults['/manifest'] = origin.serves(b'<html>')
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.out))
        self.assertIn(self.b.url, result.err)


class WithdrawnTest(MirrorCase):
    def test_withdrawn_from_all_the_next_older_is_taken(self):
        self.assertCode(0, self.fetch())
        self.publish('1.1', TWO)
        three = self.publish('1.2', THREE)
        self.a.faults[self.image(three)] = self.b.faults[self.image(three)] = origin.status(410)
        result = self.fetch()
        self.assertEqual((0, self.app + ': 1.1 is installed\n'), (result.code, result.out))
        self.assertIn('1.2: ', result.err)
        self.assertInPlace(TWO)

    def test_it_is_told_once_however_many_mirrors_there_are(self):
        self.have_one()
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        for mirror in self.mirrors:
            mirror.faults[self.image(self.two)] = origin.status(410)
        self.assertIn('1.1: ', self.fetch().err)
        self.assertQuiet(self.fetch())
        self.assertInPlace(ONE)

    def test_withdrawn_from_one_it_comes_from_another(self):
        self.have_one()
        for order in ((self.a, self.b), (self.b, self.a)):
            self.app = self.list(*[mirror.url for mirror in order])
            self.a.faults[self.image(self.two)] = origin.status(410)
            self.assertEqual(0, self.fetch().code)
            self.assertInPlace(TWO)

    def test_withdrawn_from_one_and_served_by_no_other(self):
        """Nobody serves it: the next older version is taken, whatever keeps the others from serving it."""
        two = self.publish('1.1', TWO)
        for name, fault in (('404', origin.status(404)), ('503', origin.status(503)), ('down', origin.hangs_up),
                            ('lying', origin.serves(OTHER_TWO))):
            with self.subTest(name):
                self.anew()
                self.a.faults[self.image(two)] = origin.status(410)
                self.b.faults[self.image(two)] = fault
                self.assertEqual(0, self.fetch().code)
                self.assertInPlace(ONE)


class GravestTest(MirrorCase):
    """Where all fail, the run fails as the gravest of them does, and each is named."""

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

    def test_manifests(self):
        not_ours = origin.serves(manifest_of(seed=origin.OTHER_SEED))
        self.assertFails('/manifest', (origin.status(404), origin.serves(b'<html>')), 3)
        self.assertFails('/manifest', (origin.status(503), not_ours), 3)
        self.assertFails('/manifest', (origin.status(503), origin.status(404)), 75)
        self.assertFails('/manifest', (origin.hangs_up, origin.talks_nonsense), 75)

    def test_a_manifest_that_is_gone_is_no_excuse_for_one_that_is_refused(self):
        self.assertFails('/manifest', (origin.status(410), origin.serves(b'<html>')), 3)

    def test_images(self):
        image = self.image(self.one)
        self.assertFails(image, (origin.status(404), origin.serves(ONE[::-1])), 3)
        self.assertFails(image, (origin.hangs_up, origin.serves(ONE + b'x')), 3)
        self.assertFails(image, (origin.status(404), origin.status(503)), 75)


class ForkTest(MirrorCase):
    """One key, two histories."""

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
        self.assertEqual({'/manifest'}, {path for mirror in self.mirrors for path in mirror.paths()})
        return result

    def test_two_that_contradict_each_other_change_nothing(self):
        for mine, theirs in ((self.a, self.b), (self.b, self.a)):
            with self.subTest(mine.url):
                self.a.faults.clear()
                self.b.faults.clear()
                theirs.faults['/manifest'] = origin.serves(self.theirs)
                result = self.assertForked(*((self.mine, self.theirs) if mine is self.a else (self.theirs, self.mine)))
                self.assertIn(self.a.url + '/manifest', result.err)
                self.assertIn(self.b.url + '/manifest', result.err)
                self.assertIn(self.line if mine is self.a else self.other_line, result.err)
                self.assertIn('.fork.1', result.err)

    def test_a_third_that_is_on_one_s_side_settles_nothing(self):
        self.app = self.list(self.a.url, self.b.url, self.c.url)
        longer = manifest_of(('1.0', ONE), ('1.1', TWO), ('2', THREE))
        for order in itertools.permutations((self.mine, self.theirs, longer)):
            for mirror, manifest in zip(self.mirrors, order):
                mirror.faults['/manifest'] = origin.serves(manifest)
            self.assertCode(3, self.fetch())
            self.assertEqual(self.before, {name: what for name, what in scene.snapshot(self.destination).items()
                                           if not name.startswith('.fork.')})

    def test_one_that_contradicts_what_is_here(self):
        self.assertCode(0, self.fetch())
        self.before = scene.snapshot(self.destination)
        self.forget()
        for others in ((origin.serves(self.theirs),), (origin.serves(self.theirs), origin.status(404))):
            for mirror, fault in zip((self.a, self.b), others * 2):
                mirror.faults['/manifest'] = fault
            result = self.assertForked(self.mine, self.theirs)
            self.assertIn(self.path('destination', 'manifest'), result.err)
            self.assertIn(self.a.url + '/manifest', result.err)
            self.assertIn(self.line, result.err)

    def test_what_a_key_that_is_not_trusted_signed_is_no_fork(self):
        self.b.faults['/manifest'] = origin.serves(manifest_of(('1.0', OTHER_TWO), seed=origin.OTHER_SEED))
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(TWO)

    def test_the_same_list_under_the_other_key_is_no_fork(self):
        """A key is being rotated, and mirrors lag."""
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

    def test_a_dry_run_keeps_no_evidence(self):
        self.b.faults['/manifest'] = origin.serves(self.theirs)
        self.assertCode(3, self.fetch('--dry-run'))
        self.assertEqual(self.before, scene.snapshot(self.destination))

    def test_once_it_is_settled_all_goes_on(self):
        self.b.faults['/manifest'] = origin.serves(self.theirs)
        self.assertCode(3, self.fetch())
        self.b.faults.clear()
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(TWO)
        evidence = [scene.read(self.path('destination', name)) for name in ('.fork.1', '.fork.2')]
        self.assertEqual([self.mine, self.theirs], evidence)        # it is the user's to remove


class ChoiceTest(MirrorCase):
    """Which manifest wins does not hang on who is asked first."""

    def serve_manifests(self, *manifests):
        for mirror, manifest in zip(self.mirrors, manifests):
            mirror.faults['/manifest'] = origin.serves(manifest)
        self.app = self.list(*(mirror.url for mirror in self.mirrors))

    def test_one_that_continues_two_which_do_not_continue_each_other(self):
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

    def test_of_equal_ones_the_first_mirrors_so_that_a_new_key_spreads(self):
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
        """The mirror, which drips its manifest, costs its share of the time, and no more than that."""
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

    def test_a_mirror_that_drips_its_manifest_does_not_keep_the_others_waiting(self):
        self.assertLeftOut(self.a)

    def test_the_last_one_does_not_keep_a_machine_from_what_another_has_said(self):
        self.assertLeftOut(self.b, MANIFEST_MAX_BYTES=12000)

    def test_one_that_is_the_only_hope_may_take_its_time(self):
        self.a.faults['/manifest'] = origin.status(404)
        self.b.faults['/manifest'] = drips
        self.app = self.list(self.a.url, self.b.url)
        result = self.run_here('fetch', self.app, limits={'MANIFEST_SECONDS': 0.3, 'MANIFEST_MAX_BYTES': 10000})
        self.assertCode(3, result)
        self.assertIn(self.b.url + '/manifest: longer than ', result.err)


def drips(handler):
    """Sends a manifest without end, faster than the floor under the rate."""
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
    """An unchanged manifest costs no bytes; and nothing is taken for unchanged that is not."""

    def setUp(self):
        super().setUp()
        self.name_versions()

    def name_versions(self):
        self.a.etag = lambda body: '"a-{}"'.format(origin.digest_of(body)[:8])
        self.b.etag = lambda body: 'W/"b-{}"'.format(origin.digest_of(body)[:8])

    def asked(self):
        """The If-None-Match that each mirror got last."""
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
            self.assertEqual([[(304, 0)]] * 2, [mirror.served('/manifest') for mirror in (self.a, self.b)])

    def test_one_answer_that_lies_about_its_etag_hides_no_update_for_long(self):
        """The ETag of what comes next, with a 304 or with the bytes of what was before."""
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
                yesterday = time.time() - 86400            # what is asked for in full once a day
                os.utime(self.path('destination', 'manifest'), (yesterday, yesterday))
                self.assertCode(0, self.fetch())
                self.assertInPlace(TWO + version.encode())

    def test_a_changed_one_comes_and_is_asked_for_by_its_own_etag(self):
        self.have()
        old = self.etags()
        self.publish('1.1', TWO)
        self.assertCode(0, self.fetch())
        self.assertEqual(old, self.asked())
        self.assertInPlace(TWO)
        self.assertQuiet(self.fetch())
        self.assertEqual(self.etags(), self.asked())
        self.assertNotEqual(old, self.etags())

    def test_another_etag_for_the_same_bytes_takes_the_first_s_place(self):
        self.have()
        self.a.etag = lambda _: '"restored"'
        self.assertQuiet(self.fetch())
        self.assertQuiet(self.fetch())
        self.assertEqual('"restored"', self.asked()[0])
        self.assertEqual((304, 0), self.a.served('/manifest')[-1])

    def test_one_that_has_nothing_new_does_not_hide_what_another_has(self):
        self.have()
        self.publish('1.1', TWO)
        self.a.faults['/manifest'] = origin.status(304, b'')
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.err))
        self.assertInPlace(TWO)

    def test_no_validator_without_the_manifest_that_it_is_for(self):
        """A 304 would make trusted what nobody verified, or accept what is older than it was."""
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

    def test_a_damaged_state_has_no_validators(self):
        self.have()
        os.unlink(self.path('destination', '.state'))
        self.write('destination/.state', b'validators=\xff\n')
        result = self.fetch()
        self.assertEqual((0, ''), (result.code, result.out))
        self.assertIn('.state is damaged', result.err)
        self.assertEqual([None, None], self.asked())
        self.assertQuiet(self.fetch())
        self.assertEqual(self.etags(), self.asked())

    def test_an_unasked_304_is_no_manifest(self):
        self.a.etag = self.b.etag = None
        for fresh in (True, False):
            for mirror in (self.a, self.b):
                mirror.faults['/manifest'] = origin.status(304, b'', [('ETag', '"x"')])
            result = self.fetch()
            self.assertCode(75, result)
            self.assertIn('304', result.err)
            if fresh:
                self.assertEqual([], os.listdir(self.destination))
                self.a.faults.clear()
                self.b.faults.clear()
                self.assertCode(0, self.fetch())

    def test_what_is_no_etag_is_not_sent_back(self):
        for etag in ('bare', '"a b"', '"' + 'x' * 300 + '"', '"\u00e9"', '"a"b"', 'w/"a"', '""', '"'):
            with self.subTest(etag):
                self.anew()
                self.a.faults['/manifest'] = self.b.faults['/manifest'] = origin.serves(
                    self.a.read('manifest'), [('ETag', etag)])
                self.assertCode(0, self.fetch())
                self.assertQuiet(self.fetch())
                self.assertEqual([None, None], self.asked())

    def test_a_validator_is_for_the_mirror_that_gave_it(self):
        self.have()
        self.app = self.list(self.c.url, self.b.url)
        self.c.etag = self.a.etag
        self.assertQuiet(self.fetch())
        self.assertEqual([None], self.c.asked('/manifest', 'If-None-Match'))
        self.assertEqual(self.etags()[1], self.b.asked('/manifest', 'If-None-Match')[-1])

    def test_that_of_a_manifest_that_is_not_in_place_is_not_kept(self):
        self.publish('1.1', TWO)
        self.a.faults['/manifest'] = origin.serves(manifest_of(('1.0', ONE)), [('ETag', '"stale"')])
        self.have()
        self.assertEqual(self.b.read('manifest'), self.local())
        self.fetch()
        self.assertEqual([None, self.etags()[1]], self.asked())


class CredentialsTest(MirrorCase):
    def test_each_gets_its_own_and_no_other_s(self):
        two = self.publish('1.1', TWO)
        self.app = self.list(self.a.url.replace('//', '//anna:secret-a@'), self.b.url,
                             self.c.url.replace('//', '//carl:secret-c@'))
        for mirror in (self.a, self.b):
            mirror.faults[self.image(two)] = origin.status(404)     # so that each is asked for the image
        result = self.fetch('-v')
        self.assertEqual(0, result.code)
        self.assertInPlace(TWO)
        for mirror, userinfo in ((self.a, 'anna:secret-a'), (self.b, ''), (self.c, 'carl:secret-c')):
            expected = tako.basic_authorization(userinfo) or None
            for path in ('/manifest', self.image(two)):
                self.assertEqual([expected], mirror.asked(path, 'Authorization'))
        self.assertNotIn('secret', repr(result))
        self.assertNotIn(b'secret', scene.read(self.path('destination', '.state')))

    def test_one_that_sends_on_to_another_gives_nothing_away(self):
        self.app = self.list(self.a.url.replace('//', '//anna:secret-a@'), self.b.url.replace('//', '//bert:secret-b@'))
        self.a.faults['*'] = origin.redirects(self.b.url + '/manifest')
        self.b.faults[self.image(self.one)] = origin.redirects(self.c.url + self.image(self.one))
        self.assertEqual(0, self.fetch().code)
        bert = tako.basic_authorization('bert:secret-b')
        self.assertEqual({None, bert}, set(self.b.asked('/manifest', 'Authorization')))
        self.assertEqual([bert], self.b.asked(self.image(self.one), 'Authorization'))
        self.assertEqual([None], self.c.asked(self.image(self.one), 'Authorization'))

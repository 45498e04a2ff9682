"""Section 18: status, which sends no request."""
import json
import os
import time

import origin
import scene
import tako

ONE, TWO, THREE = b'one' * 1000, b'two' * 1000, b'three' * 1000


class StatusCase(scene.Scene):
    def setUp(self):
        super().setUp()
        os.mkdir(self.path('served'))
        self.publisher = origin.Publisher(self.path('served'))
        self.publisher.publish('0.9', ONE)
        self.one = self.publisher.publish('1.0', ONE)
        self.app = self.config('file://' + self.path('served'), version='1.*')

    def known(self, *options):
        result = self.run_tako('status', '--json', self.app, *options)
        return json.loads(result.out)[0]


class StatusTest(StatusCase):
    def test_status_before_the_first_fetch(self):
        known = self.known()
        self.assertEqual((None, None, None, 0, 'nothing is installed yet'),
                         tuple(known[key] for key
                               in ('version', 'digest', 'last_success', 'images', 'reason')))
        self.assertIn('installed:     nothing', self.run_tako('status', self.app).out)
        self.assertEqual([], os.listdir(self.destination))

    def test_status_after_an_update(self):
        before = int(time.time())
        self.run_tako('fetch', self.app)
        self.publisher.publish('1.1', TWO)
        self.publisher.publish('2.0', THREE)
        self.run_tako('fetch', self.app)
        snapshot = scene.snapshot(self.destination)
        known = self.known()
        self.assertEqual(
            {'config': self.app, 'destination': self.destination, 'pattern': '1.*',
             'version': '1.1',
             'digest': origin.digest_of(TWO), 'is_there': True, 'newest_compatible': '1.1',
             'out_of_bounds': ['0.9', '2.0'],
             'rejected': [], 'withdrawn': [], 'waiting': None, 'waiting_until': None, 'images': 2,
             'image_bytes': len(ONE + TWO), 'restart_due': False,
             'is_stamp_needed': False, 'proof': None, 'unproven_since': None,
             'problems': [], 'failures': 0, 'exit_code': 0, 'last_failure': None,
             'last_failure_exit_code': None, 'last_failure_message': None, 'mirrors': [],
             'fork': None,
             'size': len(TWO), 'received': len(TWO),
             'reason': 'it is the newest version that matches 1.*'},
            {key: value for key, value in known.items()
             if key not in ('since', 'last_check', 'last_success')})
        for key in ('since', 'last_check', 'last_success'):
            self.assertGreaterEqual(known[key], before - 1)
        text = self.run_tako('status', self.app).out
        for words in (self.app, '1.1, ' + origin.digest_of(TWO), 'out of bounds: 0.9, 2.0',
                      '3.0 kB of 3.0 kB',
                      '2 images, 6000 bytes', ' UTC'):
            self.assertIn(words, text)
        self.assertEqual(snapshot, scene.snapshot(self.destination))

    def test_status_takes_no_lock_and_sends_no_request(self):
        server = self.serve()
        self.config(server.url)
        self.assertCode(0, self.run_tako('fetch', self.app))
        server.requests.clear()
        with tako.DirectoryLock(self.destination, 0, print):
            self.assertCode(0, self.run_tako('status', self.app))
        self.assertEqual([], server.requests)

    def test_status_says_why_newer_versions_are_not_installed(self):
        self.run_tako('fetch', self.app)
        for version, content in (('1.1', TWO), ('1.2', THREE), ('1.3', b'')):
            self.publisher.publish(version, content)
        scene.write_manifest(self.destination, self.publisher.read('manifest'))
        scene.write_state(self.destination, tako.parse_state('')._replace(
            rejected=(origin.digest_of(TWO),), withdrawn=(origin.digest_of(THREE),)))
        self.assertEqual(
            'it matches 1.*; of the newer versions, 1.3 is not installed yet, 1.2 was withdrawn, '
            '1.1 was rejected',
                         self.known()['reason'])
        text = self.run_tako('status', self.app).out
        self.assertIn('rejected:      1.1\n  withdrawn:     1.2\n', text)
        self.assertIn('newest known:  1.3 in 1.*', text)

    def test_status_says_of_a_version_in_the_store_that_it_is_downloaded(self):
        self.run_tako('fetch', self.app)
        self.publisher.publish('1.1', TWO)
        self.assertCode(0, self.run_tako('fetch', '--stage', self.app))
        self.assertIn('1.1 is downloaded, but not installed yet', self.known()['reason'])

    def test_status_says_that_the_newest_version_was_rejected_or_withdrawn(self):
        self.run_tako('fetch', self.app)
        self.publisher.publish('1.1', TWO)
        scene.write_manifest(self.destination, self.publisher.read('manifest'))
        for word in ('rejected', 'withdrawn'):
            scene.write_state(self.destination, tako.parse_state('')._replace(
                **{word: (origin.digest_of(TWO),)}))
            self.assertIn('newest known:  1.1 ({}) in 1.*'.format(word),
                          self.run_tako('status', self.app).out)

    def test_fetch_names_the_newer_versions_that_were_rejected(self):
        self.run_tako('fetch', self.app)
        self.assertIn(': 1.0 is installed, the newest in 1.*\n',
                      self.run_tako('fetch', '-v', self.app).out)
        self.publisher.publish('1.1', TWO)
        self.run_tako('fetch', self.app)
        self.assertCode(0, self.run_tako('rollback', self.app))
        self.assertIn(': 1.0 is installed; of the newer versions, 1.1 was rejected\n',
                      self.run_tako('fetch', '-v', self.app).out)

    def test_status_counts_versions_beyond_the_first_five(self):
        self.run_tako('fetch', self.app)
        for number in range(1, 8):
            self.publisher.publish('1.{}'.format(number), b'%d' % number)
            self.publisher.publish('2.{}'.format(number), b'%d' % number)
        scene.write_manifest(self.destination, self.publisher.read('manifest'))
        rejected = tuple(origin.digest_of(b'%d' % number) for number in range(1, 7))
        scene.write_state(self.destination, tako.parse_state('')._replace(rejected=rejected))
        text = self.run_tako('status', self.app).out
        self.assertIn(
            'of the newer versions, 1.7 is not installed yet, 1.6 was rejected, 1.5 was rejected, '
            '1.4 was rejected, '
                      '1.3 was rejected and 2 more\n', text)
        self.assertIn('out of bounds: 0.9, 2.1, 2.2, 2.3, 2.4 and 3 more\n', text)
        self.assertIn('rejected:      1.6, 1.5, 1.4, 1.3, 1.2 and 1 more\n', text)
        known = self.known()
        self.assertEqual((8, 6), (len(known['out_of_bounds']), len(known['rejected'])))

    def test_status_after_a_change_of_bounds(self):
        self.run_tako('fetch', self.app)
        self.config('file://' + self.path('served'), version='0.*')
        self.assertEqual('0.9', self.known()['version'])        # it has the image of 1.0
        self.config('file://' + self.path('served'), version='3.*')
        self.assertIn('before Version= became 3.*', self.known()['reason'])

    def test_status_of_an_image_that_the_manifest_omits(self):
        """For example, an operator replaced a thief's manifest by the publisher's."""
        honest = self.publisher.read('manifest')
        self.publisher.publish('1.9', TWO)
        self.run_tako('fetch', self.app)
        os.unlink(self.path('destination', 'manifest'))
        self.write('destination/manifest', honest)
        known = self.known()
        self.assertEqual((None, origin.digest_of(TWO)), (known['version'], known['digest']))
        self.assertIn('does not list it', known['reason'])

    def test_status_of_a_due_restart_and_a_missing_image(self):
        self.run_tako('fetch', self.app)
        state = tako.parse_state('')._replace(restart_due=self.one.digest)
        scene.write_state(self.destination, state)
        os.unlink(self.path('destination', 'store', self.one.digest))
        known = self.known()
        self.assertEqual((True, False), (known['restart_due'], known['is_there']))
        self.assertIn('which is MISSING', self.run_tako('status', self.app).out)

    def test_last_check_and_last_success(self):
        """last_check: the manifest was confirmed. last_success: the whole run succeeded."""
        self.run_tako('fetch', self.app)
        os.utime(self.path('destination', '.state'), (1000, 1000))
        os.utime(self.path('destination', 'manifest'), (2000, 2000))
        known = self.known()
        self.assertEqual((1000, 2000), (known['last_success'], known['last_check']))
        self.assertIn('1970-01-01 00:16:40 UTC', self.run_tako('status', self.app).out)
        two = self.publisher.publish('1.1', TWO)
        os.unlink(self.path('served', 'store', two.digest))
        self.assertCode(75, self.run_tako('fetch', self.app))
        known = self.known()
        self.assertEqual(1000, known['last_success'])
        self.assertGreater(known['last_check'], 2000)
        os.utime(self.path('destination', 'manifest'), (2000, 2000))
        self.config('file://' + self.path('served'), version='1.0')
        self.assertEqual(0, self.run_tako('fetch', self.app).code)
        self.assertGreater(self.known()['last_success'], 1000)

    def test_a_frozen_origin_shows_only_in_since(self):
        """A manifest has no date, so each run confirms one that a server never changes."""
        self.run_tako('fetch', self.app)
        for name in ('latest', 'manifest', '.state'):
            os.utime(self.path('destination', name), (1000, 1000), follow_symlinks=False)
        self.assertEqual(0, self.run_tako('fetch', self.app).code)
        known = self.known()
        self.assertEqual(1000, known['since'])
        self.assertGreater(min(known['last_check'], known['last_success']), 1000)
        self.assertEqual(0, self.run_tako('status', '--max-age', '1h', self.app).code)


class TroubleTest(StatusCase):
    def setUp(self):
        super().setUp()
        self.run_tako('fetch', self.app)

    def test_status_of_an_interrupted_rollback(self):
        scene.write_state(self.destination,
                          tako.parse_state('')._replace(
                              previous='0' * 64, restart_due='0' * 64, rejected=(self.one.digest,)))
        known = self.known()
        self.assertIn('it was rejected; the next fetch rolls back', known['reason'])
        self.assertTrue(known['restart_due'])

    def test_status_of_a_truncated_image(self):
        os.unlink(self.path('destination', 'store', self.one.digest))
        self.write('destination/store/' + self.one.digest, b'x')
        self.assertFalse(self.known()['is_there'])

    def test_status_of_a_damaged_state(self):
        os.unlink(self.path('destination', '.state'))
        self.write('destination/.state', b'garbage')
        self.assertIn('.state is damaged', self.run_tako('status', self.app).err)

    def test_max_age_of_a_success_in_the_future(self):
        later = time.time() + 86400
        os.utime(self.path('destination', '.state'), (later, later))
        result = self.run_tako('status', '--max-age', '1d', self.app)
        self.assertCode(1, result)
        self.assertIn('in the future', result.err)

    def test_a_version_installed_again_is_no_longer_withdrawn(self):
        scene.write_state(self.destination,
                          tako.parse_state('')._replace(withdrawn=(self.one.digest,)))
        self.assertEqual(['1.0'], self.known()['withdrawn'])
        self.run_tako('fetch', self.app)
        self.assertEqual([], self.known()['withdrawn'])


class MaxAgeTest(StatusCase):
    def test_max_age_fails_without_a_recent_success(self):
        self.assertCode(1, self.run_tako('status', '--max-age', '7d', self.app))
        self.run_tako('fetch', self.app)
        for age in ('60', '60s', '15m', '36h', '7d', '2w'):
            self.assertEqual(0, self.run_tako('status', '--max-age', age, self.app).code)
        week = time.time() - 7 * 86400
        os.utime(self.path('destination', '.state'), (week - 60, week - 60))
        result = self.run_tako('status', '--json', '--max-age', '7d', self.app)
        self.assertCode(1, result)
        self.assertIn('the last success is too old', result.err)
        # The status is printed even so.
        self.assertEqual(['1.0'], [each['version'] for each in json.loads(result.out)])
        self.assertEqual(0, self.run_tako('status', '--max-age', '8d', self.app).code)


class ConfigsTest(StatusCase):
    def test_one_wrong_config_hides_no_other(self):
        bad = self.write('bad.tako', 'x\n')
        for options in ((), ('-v',)):
            result = self.run_tako('status', *options, bad, self.app)
            self.assertCode(2, result)
            self.assertIn(self.app, result.out)
        self.assertIn('installed:     nothing', result.out)

    def test_several_configs_are_a_table(self):
        bad = self.write('bad.tako', 'x\n')
        os.mkdir(self.path('other'))
        other = self.config('file:///nowhere', 'other.tako', destination=self.path('other'))
        self.run_tako('fetch', self.app, other)
        old = time.time() - 3 * 86400 - 60
        os.utime(self.path('destination', '.state'), (old, old))
        lines = [line.split('  ') for line in
                 self.run_tako('status', self.app, other, bad).out.splitlines()]
        self.assertEqual(
            [['CONFIG', 'VERSION', 'LAST SUCCESS', 'STATUS'],
             [self.app, '1.0', '3d ago', 'ok'],
             [other, '-', 'never',
              'nothing is installed; the last fetch failed (exit code 75)'],
             [bad, '-', '-', 'error (exit code 2)']],
            [[cell.strip() for cell in line if cell] for line in lines])
        text = self.run_tako('status', '-v', self.app, other).out
        self.assertEqual(2, text.count('  installed:'))
        self.assertNotIn('STATUS', text)

    def test_the_age_of_a_success_has_a_unit(self):
        for seconds, age in ((1, 's ago'), (150, '2m ago'), (3 * 3600 + 60, '3h ago'),
                             (47 * 3600, '46h ago'), (49 * 3600, '2d ago'), (-99999, '0s ago')):
            self.run_tako('fetch', self.app)
            then = time.time() - seconds
            os.utime(self.path('destination', '.state'), (then, then))
            bad = self.write('bad.tako', 'x\n')
            with self.subTest(seconds):
                self.assertRegex(self.run_tako('status', self.app, bad).out,
                                 '[0-9 ]' + age.replace('46', '4[67]'))

    def test_status_of_a_manifest_that_does_not_verify(self):
        self.run_tako('fetch', self.app)
        self.config('file://' + self.path('served'), public_keys=[origin.OTHER_PUBLIC_KEY])
        self.assertCode(3, self.run_tako('status', self.app))
        self.assertEqual([], json.loads(self.run_tako('status', '--json', self.app).out))

    def test_status_of_a_manifest_that_is_too_long(self):
        self.run_tako('fetch', self.app)
        signed = self.publisher.read('manifest')
        scene.write_manifest(self.destination, signed + b'more')
        self.assertCode(3, self.run_here('status', self.app,
                                         limits={'MANIFEST_MAX_BYTES': len(signed)}))
        scene.write_manifest(self.destination, signed)
        self.assertCode(0, self.run_here('status', self.app,
                                         limits={'MANIFEST_MAX_BYTES': len(signed)}))

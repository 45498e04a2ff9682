"""Section 19: list prints the versions that an origin or a published directory offers."""
import json
import os
import unittest

import origin
import scene
import tako
from scene import ONE, THREE, TWO


class ListCase(scene.UpdateScene):
    """1.0 is installed; the origin offers 1.1 and 2.0, too."""

    def setUp(self):
        super().setUp()
        self.before = self.have_one()
        self.served = scene.snapshot(self.path('served'))

    def list(self, *arguments, **settings):
        """Run list. Nothing may change, neither in a directory nor in the time of a file."""
        times = self.times()
        result = self.run_tako('list', *arguments, **settings)
        self.assertEqual((self.before, self.served, times),
                         (scene.snapshot(self.destination), scene.snapshot(self.path('served')),
                          self.times()))
        return result

    def times(self):
        return [os.stat(self.path('destination', name)).st_mtime_ns
                for name in sorted(os.listdir(self.destination)) + ['.']]

    def rows(self, *arguments):
        """Return the versions in the output of --json, each with the facts that are true."""
        result = self.list('--json', *arguments)
        self.assertEqual((0, ''), (result.code, result.err))
        return [(row['version'], [name for name, value in row.items() if value is True])
                for row in json.loads(result.out)]


class ConfigTest(ListCase):
    def test_versions_are_printed_newest_first_in_columns(self):
        result = self.list(self.app)
        self.assertEqual((0, ''), (result.code, result.err))
        lines = ['VERSION  SIZE     SHA-256       STATE',
                 '2.0      33.0 kB  ' + origin.digest_of(THREE)[:12],
                 '1.1      18.0 kB  ' + origin.digest_of(TWO)[:12] + '  matches',
                 '1.0      9.0 kB   ' + origin.digest_of(ONE)[:12] + '  matches, installed, stored']
        self.assertEqual(lines, result.out.splitlines())
        self.assertEqual(['/manifest'], self.origin.paths())

    def test_json_has_all_of_each_version(self):
        row = json.loads(self.list(self.app, '--json').out)[2]
        self.assertEqual({'version': '1.0', 'size': len(ONE), 'digest': origin.digest_of(ONE),
                          'matches': True, 'installed': True, 'stored': True, 'rejected': False,
                          'withdrawn': False}, row)

    def test_rejected_and_withdrawn_versions_are_told(self):
        scene.write_state(self.destination, scene.state(self.destination)._replace(
            rejected=(self.two.digest,), withdrawn=(origin.digest_of(THREE),)))
        self.before = scene.snapshot(self.destination)
        self.assertEqual([('2.0', ['withdrawn']), ('1.1', ['matches', 'rejected']),
                          ('1.0', ['matches', 'installed', 'stored'])], self.rows(self.app))

    def test_an_image_of_another_size_is_not_stored(self):
        path = self.path('destination', 'store', self.one.digest)
        os.chmod(path, 0o644)
        os.truncate(path, 5)
        self.before = scene.snapshot(self.destination)
        self.assertEqual(('1.0', ['matches', 'installed']), self.rows(self.app)[-1])

    def test_a_client_that_has_nothing_yet(self):
        self.empty_destination()
        self.before = {}
        self.assertEqual([('2.0', []), ('1.1', ['matches']), ('1.0', ['matches'])],
                         self.rows(self.app))

    def test_a_manifest_that_fetch_would_refuse_is_refused(self):
        self.origin.entries.pop(0)
        self.origin.sign()
        self.served = scene.snapshot(self.path('served'))
        result = self.list(self.app)
        self.assertCode(3, result)
        self.assertIn('contradict each other, first in: 1.0 ', result.err)
        self.assertEqual('', result.out)

    def test_the_newest_manifest_of_all_mirrors_counts(self):
        mirror = self.serve('mirror')
        mirror.publish('1.0', ONE)
        config = self.config(mirror.url, 'two.tako', mirrors=[self.origin.url])
        self.assertEqual(['2.0', '1.1', '1.0'], [version for version, _ in self.rows(config)])

    def test_an_origin_that_is_down_is_exit_75(self):
        self.origin.__exit__()
        result = self.list(self.app)
        self.assertCode(75, result)
        self.assertEqual('', result.out)

    def test_list_needs_no_lock(self):
        lock = self.path('destination', '.lock')
        with tako.DirectoryLock(self.destination, 0, print):
            self.before = scene.snapshot(self.destination)
            self.assertEqual(3, len(self.rows(self.app)))
            self.assertTrue(os.path.exists(lock))

    def test_an_invalid_config_is_a_usage_error(self):
        self.assertCode(2, self.list(self.path('missing.tako')))
        result = self.list(self.config(self.origin.url, 'bad.tako', version='^1'))
        self.assertCode(2, result)
        self.assertIn('bad.tako:', result.err)


class OriginTest(ListCase):
    """With -p, list needs neither a config nor a destination."""

    def test_the_versions_of_a_url(self):
        for key in (origin.PUBLIC_KEY, self.write('app.pub', origin.PUBLIC_KEY + '\n')):
            for url in (self.origin.url, self.origin.url + '/', 'file://' + self.path('served')):
                self.assertEqual([('2.0', []), ('1.1', []), ('1.0', [])],
                                 self.rows('-p', key, url))

    def test_json_says_null_for_what_is_unknown(self):
        row = json.loads(self.list('--json', '-p', origin.PUBLIC_KEY, self.origin.url).out)[0]
        self.assertEqual({'version': '2.0', 'size': len(THREE), 'digest': origin.digest_of(THREE),
                          'matches': None, 'installed': None, 'stored': None, 'rejected': None,
                          'withdrawn': None}, row)

    def test_the_versions_of_a_directory(self):
        self.assertCode(0, self.run_tako('withdraw', '-o', self.path('served'), '1.1'))
        self.served = scene.snapshot(self.path('served'))
        self.assertEqual([('2.0', ['stored']), ('1.1', ['withdrawn']), ('1.0', ['stored'])],
                         self.rows('-p', origin.PUBLIC_KEY, self.path('served')))

    def test_a_manifest_without_entries_is_an_empty_list(self):
        self.origin.entries.clear()
        self.origin.sign()
        self.served = scene.snapshot(self.path('served'))
        result = self.list('-p', origin.PUBLIC_KEY, self.origin.url)
        self.assertEqual((0, 'VERSION  SIZE  SHA-256  STATE\n'), (result.code, result.out))
        self.assertEqual([], self.rows('-p', origin.PUBLIC_KEY, self.origin.url))

    def test_what_another_key_signed_is_refused(self):
        for where in (self.origin.url, self.path('served')):
            result = self.list('-p', origin.OTHER_PUBLIC_KEY, where)
            self.assertCode(3, result)
            self.assertEqual('', result.out)

    def test_a_url_or_a_directory_without_a_key_is_a_usage_error(self):
        for where in (self.origin.url, self.path('served')):
            result = self.list(where)
            self.assertCode(2, result)
            self.assertIn('needs -p PUBLIC', result.err)

    def test_what_is_no_origin_is_a_usage_error(self):
        for where, message in (('ftp://example.com/app', 'invalid URL: it does not begin with'),
                               ('https://example.com/app?x', 'invalid URL: it has a query'),
                               ('https://', 'invalid URL: '),
                               (self.path('missing'), 'manifest: no such file')):
            result = self.list('-p', origin.PUBLIC_KEY, where)
            self.assertCode(2, result)
            self.assertIn(message, result.err)
        self.assertCode(2, self.list('-p', 'nonsense', self.origin.url))
        self.assertCode(1, self.list('-p', origin.PUBLIC_KEY, self.app))

    def test_a_password_in_a_url_is_sent_and_not_printed(self):
        url = self.origin.url.replace('://', '://user:confidential@')
        self.assertEqual(3, len(self.rows('-p', origin.PUBLIC_KEY, url)))
        self.assertEqual([tako.basic_authorization('user:confidential')],
                         self.origin.asked('/manifest', 'Authorization'))
        self.origin.__exit__()
        for where in (url, url + '?x', url.replace('http', 'ftp', 1)):
            result = self.list('-p', origin.PUBLIC_KEY, where)
            self.assertGreater(result.code, 0)
            self.assertNotIn('confidential', result.err + result.out)


if __name__ == '__main__':
    unittest.main()

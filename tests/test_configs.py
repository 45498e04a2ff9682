"""Sections 16 and 17: several configs, directories of them, and what tako check says of them."""
import json
import os
import unittest

import origin
import scene

ONE, TWO = b'one' * 1000, b'two' * 1000


class ConfigsScene(scene.Scene):
    """A publisher with version 1.0, and configs below etc/, each with a destination."""

    def setUp(self):
        super().setUp()
        for name in ('served', 'etc'):
            os.mkdir(self.path(name))
        self.publisher = origin.Publisher(self.path('served'))
        self.publisher.publish('1.0', ONE)
        self.etc = self.path('etc')

    def add(self, name, more='', **settings):
        """Write etc/NAME and make its destination. Return its path and the destination."""
        root = self.path('images-' + name)
        os.makedirs(root, exist_ok=True)
        path = self.config('file://' + self.path('served'), 'etc/' + name,
                           destination=settings.pop('destination', root), more=more, **settings)
        return path, root


class DirectoryTest(ConfigsScene):
    """A directory stands for its *.tako files."""

    def test_fetch_takes_the_tako_files_of_a_directory_in_order(self):
        paths, roots = zip(*[self.add(name) for name in ('b.tako', 'a.tako', 'c.tako')])
        _, hidden = self.add('.hidden.tako')
        _, backup = self.add('a.tako.bak')
        result = self.run_tako('fetch', self.etc)
        self.assertCode(0, result)
        self.assertEqual([path + ': 1.0 is installed' for path in sorted(paths)],
                         result.out.splitlines())
        for root in roots:
            self.assertInPlace(ONE, root)
        self.assertEqual([[], []], [os.listdir(hidden), os.listdir(backup)])

    def test_status_takes_the_tako_files_of_a_directory_in_order(self):
        paths = [self.add(name)[0] for name in ('b.tako', 'a.tako')]
        self.assertCode(0, self.run_tako('fetch', self.etc + '/'))
        result = self.run_tako('status', '--json', self.etc)
        self.assertEqual([(path, '1.0') for path in sorted(paths)],
                         [(each['config'], each['version']) for each in json.loads(result.out)])

    def test_a_config_that_is_named_twice_is_used_once(self):
        path, root = self.add('a.tako')
        result = self.run_tako('fetch', path, self.etc, path)
        self.assertEqual((0, path + ': 1.0 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(ONE, root)
        self.assertEqual(1, len(json.loads(self.run_tako('status', '--json', path, self.etc).out)))

    def test_a_directory_without_configs_is_an_error(self):
        path, root = self.add('a.tako')
        os.mkdir(self.path('empty'))
        self.write('empty/app.conf', b'')
        for command in ('fetch', 'status', 'rollback'):
            result = self.run_tako(command, self.path('empty'))
            self.assertCode(2, result)
            self.assertEqual('tako: {}: no *.tako file in this directory'.format(
                self.path('empty')), result.err.splitlines()[0])
        result = self.run_tako('fetch', self.path('empty'), path)
        self.assertCode(2, result)
        self.assertInPlace(ONE, root)           # the others are fetched even so

    def test_a_directory_that_cannot_be_read_is_an_error(self):
        self.add('a.tako')
        os.chmod(self.etc, 0o311)
        result = self.run_tako('fetch', self.etc, as_nobody=True)
        self.assertCode(2, result)
        self.assertIn('etc: Permission denied', result.err)

    def test_a_broken_link_or_a_directory_among_the_configs_is_an_error(self):
        _, root = self.add('a.tako')
        os.symlink('nowhere', os.path.join(self.etc, 'b.tako'))
        os.mkdir(os.path.join(self.etc, 'c.tako'))
        result = self.run_tako('fetch', self.etc)
        self.assertCode(2, result)
        self.assertIn('b.tako: No such file', result.err)
        self.assertIn('c.tako: no *.tako file in this directory', result.err)
        self.assertInPlace(ONE, root)

    def test_rollback_takes_no_directory(self):
        self.add('a.tako')
        result = self.run_tako('rollback', self.etc)
        self.assertCode(2, result)
        self.assertIn('etc: a directory\n', result.err)


class SharedDestinationTest(ConfigsScene):
    """fetch refuses all configs with one destination, whatever their order, and runs the others."""

    def test_configs_with_one_destination_are_refused_and_change_nothing(self):
        a, shared = self.add('a.tako')
        os.symlink(shared, self.path('link'))
        b, _ = self.add('b.tako', destination=self.path('link'))
        c, other = self.add('c.tako')
        d, _ = self.add('d.tako', destination=shared + '/.', version='0.*')
        for order in ((a, b, c, d), (d, c, b, a)):
            for options in ((), ('--dry-run',), ('--init',)):
                result = self.run_tako('fetch', *(options + order))
                self.assertCode(2, result)
                self.assertEqual([], os.listdir(shared))
                for path in (a, b, d):
                    self.assertIn('tako: {}:2: Destination= is the directory of '.format(path),
                                  result.err)
                self.assertNotIn('tako: ' + c, result.err)
        self.assertInPlace(ONE, other)

    def test_each_of_them_can_be_fetched_alone(self):
        a, shared = self.add('a.tako')
        b, _ = self.add('b.tako', destination=shared)
        for path in (a, b):
            self.assertCode(0, self.run_tako('fetch', path))
        self.assertInPlace(ONE, shared)


if __name__ == '__main__':
    unittest.main()

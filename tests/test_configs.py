"""Sections 17 and 18: several configs, directories of them, and what tako check says of them."""
import errno
import json
import os
import unittest
import unittest.mock

import fake_systemd
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
        for command in ('fetch', 'status', 'rollback', 'check'):
            result = self.run_tako(command, self.path('empty'))
            self.assertCode(2, result)
            self.assertEqual(
                'tako: {}: not a regular file, but a directory without *.tako files\n  check the '
                'path; in a directory, name configs *.tako\n'.format(self.path('empty')),
                result.err)
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
        self.assertIn('c.tako: not a regular file', result.err)
        self.assertInPlace(ONE, root)

    def test_rollback_takes_no_directory(self):
        self.add('a.tako')
        result = self.run_tako('rollback', self.etc)
        self.assertCode(2, result)
        self.assertIn('etc: not a regular file\n', result.err)


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

    def test_a_destination_that_cannot_be_examined_is_an_error(self):
        a, shared = self.add('a.tako')
        b, other = self.add('b.tako')
        stat = os.stat
        for number in (errno.EIO, errno.EACCES):
            def failing(path, *arguments, number=number, **settings):
                if path == shared:
                    raise OSError(number, os.strerror(number), path)
                return stat(path, *arguments, **settings)
            for command in (('fetch', a, b), ('fetch', '--dry-run', a, b), ('status', a, b),
                            ('list', a)):
                with self.subTest(command), unittest.mock.patch('os.stat', failing):
                    result = self.run_here(*command)
                self.assertEqual(1, result.code, result)
                self.assertIn('tako: {}: {}: {}\n'.format(a, shared, os.strerror(number)),
                              result.err)
            self.assertEqual([], os.listdir(shared))
            self.assertInPlace(ONE, other)

    def test_a_destination_that_is_no_directory_is_an_error_of_the_config(self):
        os.symlink('loop', self.path('loop'))
        for path in (self.path('none'), self.path('loop'), self.path('loop', 'app'),
                     self.write('file', ''), self.path('file', 'app'), self.path('x' * 300)):
            with self.subTest(path):
                config, _ = self.add('a.tako', destination=path)
                result = self.run_tako('fetch', config)
                self.assertCode(2, result)
                self.assertIn('tako: {}:2: Destination= is not an existing directory: {}\n'.format(
                    config, path), result.err)

    def test_a_destination_that_the_user_may_not_examine_is_an_error(self):
        os.makedirs(self.path('private', 'app'))
        os.chmod(self.path('private'), 0)
        self.addCleanup(os.chmod, self.path('private'), 0o700)
        config, _ = self.add('a.tako', destination=self.path('private', 'app'))
        result = self.run_tako('fetch', config, as_nobody=True)
        self.assertCode(1, result)
        self.assertIn('private/app: Permission denied\n', result.err)


FINE = """Origin=https://images.example.com/app
PublicKey={}
Destination={}
Version=1.13.7
Keep=3
"""


class CheckTest(ConfigsScene):
    """tako check prints all errors, then what may be meant otherwise, and changes nothing."""

    def check(self, *arguments, **settings):
        """Run check without a systemctl, unless `environ` names one."""
        settings.setdefault('environ', {'PATH': self.path('none')})
        return self.run_tako('check', *arguments, **settings)

    def fine(self, name='app.tako', more='', mode=0o600, **changes):
        """Write a config that leaves no doubt, but for the changes. Return its path."""
        text = FINE.format(origin.PUBLIC_KEY, self.destination)
        for key, value in changes.items():
            lines = [line for line in text.splitlines() if not line.startswith(key + '=')]
            text = '\n'.join(lines + ([key + '=' + value] if value is not None else [])) + '\n'
        return self.write(name, text + more, mode)

    def assertWarned(self, path, line, what, hint, **settings):
        """The config is valid, with this warning alone."""
        result = self.check(path, **settings)
        where = path + (':{}'.format(line) if line else '')
        self.assertEqual((0, path + ': valid\n', 'tako: warning: {}: {}\n  {}\n'.format(
            where, what, hint)), (result.code, result.out, result.err))

    def test_a_config_without_a_doubt(self):
        path = self.fine()
        before = scene.snapshot(self.directory)
        result = self.check(path)
        self.assertEqual((0, path + ': valid\n', ''), (result.code, result.out, result.err))
        self.assertQuiet(self.check('-q', path))
        self.assertEqual(before, scene.snapshot(self.directory))

    def test_all_errors_of_a_file_are_printed_at_once(self):
        path = self.write('app.tako', """Orign=https://me:hunter2@h/app
PublicKey=AAAA
Version=>=1
Keep=0
nonsense
Version=2
nonsense
Confirm=2h
Origin: https://me:hunter2==@h/app
""")
        result = self.check(path)
        self.assertCode(2, result)
        self.assertEqual([
            ':1: unknown key \'Orign\'', ':2: PublicKey= is invalid: not a public key',
            ":3: Version= is invalid: '>=1' is not a version pattern",
            ":4: Keep= is invalid: '0' is not a number of images",
            ':5: not a setting: no = in this line', ':6: Version= is already set in line 3',
            ':7: not a setting: no = in this line',
            ":8: Confirm= is invalid: '2h' is not a duration from 0 to 3600s",
            ':9: invalid key before the =', ': Destination= is missing'],
            [line[len('tako: ' + path):] for line in result.err.splitlines()[::2]])
        self.assertEqual('', result.out)
        self.assertNotIn('hunter2', result.err)

    def test_fetch_reports_the_first_error(self):
        path = self.write('app.tako', 'nonsense\nKeep=0\n')
        result = self.run_tako('fetch', path)
        self.assertCode(2, result)
        self.assertEqual(1, result.err.count('tako: '))

    def test_errors_do_not_hide_warnings(self):
        path = self.fine(Version='1.x', more='nonsense\n')
        result = self.check(path)
        self.assertEqual((2, ''), (result.code, result.out))
        self.assertIn(path + ':6: not a setting', result.err)
        self.assertIn('tako: warning: ' + path + ':5: Version=1.x matches only', result.err)

    def test_each_config_is_checked(self):
        bad = self.write('etc/bad.tako', 'nonsense\n')
        good = self.fine('etc/good.tako')
        result = self.check(self.etc, self.path('none.tako'))
        self.assertEqual((2, good + ': valid\n'), (result.code, result.out))
        self.assertIn(bad + ':1: not a setting', result.err)
        self.assertIn('none.tako: No such file', result.err)

    def test_only_errors_are_printed_with_quiet(self):
        self.assertQuiet(self.check('-q', self.fine(Keep=None)))
        result = self.check('-q', self.fine(more='nonsense\n', Keep=None))
        self.assertEqual(1, result.err.count('tako: '), result)

    def test_a_pattern_that_may_be_meant_otherwise(self):
        self.assertWarned(self.fine(Version='1.x'), 5,
                          'Version=1.x matches only a version of that name',
                          'for a wildcard, write 1.*')
        self.assertWarned(self.fine(Version='1.*'), 5,
                          'Version=1.* also matches pre-releases, such as those with -rc1',
                          'no pattern excludes them all: see whether the publisher stores any '
                          'there')

    def test_a_config_without_keep(self):
        self.assertWarned(self.fine(Keep=None), None,
                          'Keep= is missing: every image stays, and the disk fills up',
                          'add a line like Keep=3')

    def test_a_password_that_others_can_read(self):
        path = self.fine(Origin='https://me:hunter2@h/app', mode=0o644)
        self.assertWarned(path, 5, 'others can read the password or token',
                          'run: chmod o-r ' + path)
        os.chmod(path, 0o640)
        self.assertEqual('', self.check(path).err)
        self.assertEqual('', self.check(self.fine(Origin='https://h/app', mode=0o644)).err)

    def test_two_configs_with_one_destination(self):
        one, two = self.fine(), self.fine('other.tako')
        os.symlink(self.destination, self.path('link'))
        three = self.fine('third.tako', Destination=self.path('link') + '/')
        result = self.check(one, two, three)
        self.assertEqual(0, result.code)
        self.assertEqual([
            'tako: warning: {}:3: Destination= is the directory of {}, too'.format(one, three),
            'tako: warning: {}:3: Destination= is the directory of {}, too'.format(two, one),
            'tako: warning: {}:5: Destination= is the directory of {}, too'.format(three, two)],
            result.err.splitlines()[::2])

    def test_two_configs_with_one_destination_on_another_machine(self):
        one = self.fine(Destination='/srv/none/app')
        two = self.fine('other.tako', Destination='/srv/none/../none/app/')
        self.assertIn('tako: warning: {}:5: Destination= is the directory of {}, too'.format(
            two, one), self.check(one, two).err)

    def test_a_destination_that_is_not_here(self):
        path = self.fine(Destination=self.path('none'))
        self.assertWarned(path, 5, 'Destination= is not an existing directory: '
                          + self.path('none'),
                          'create it, and let the user that runs Tako write to it')
        self.assertFalse(os.path.exists(self.path('none')))

    def test_units_that_are_not_here(self):
        fake_systemd.install(self.directory, self.destination)
        for name, state in (('gone', 'not-found'), ('off', 'masked'), ('bad', 'error')):
            self.write('systemd/{}.service'.format(name), 'load={}\n'.format(state))
        path = self.fine(more='Restart=app.service gone.service\nRestart=off.service bad.service\n')
        result = self.check(path, environ=self.environ_with_systemctl())
        self.assertEqual((0, path + ': valid\n'), (result.code, result.out))
        self.assertEqual([
            'tako: warning: {}:6: Restart= gone.service is unknown to systemd'.format(path),
            'tako: warning: {}:7: Restart= off.service is masked'.format(path),
            'tako: warning: {}:7: Restart= bad.service: systemd cannot load its unit file (error)'
            .format(path)], result.err.splitlines()[::2])
        self.assertEqual([], fake_systemd.restarted(self.directory))

    def test_units_are_not_checked_without_systemd(self):
        path = self.fine(more='Restart=app.service\n')
        result = self.check(path)
        self.assertEqual((0, path + ': valid\n', ''), (result.code, result.out, result.err))
        self.assertIn('the units of Restart= are not checked: cannot run systemctl',
                      self.check('-v', path).err)


if __name__ == '__main__':
    unittest.main()

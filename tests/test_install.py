"""make install and make uninstall, below a temporary PREFIX."""
import os
import shutil
import stat
import subprocess
import sys
import unittest

import scene
import tako

IMAGE = b'an image'


@unittest.skipUnless(shutil.which('make'), 'NOT TESTED: there is no make here')
class InstallTest(scene.Scene):

    def setUp(self):
        super().setUp()
        self.prefix = self.path('prefix')
        self.command = self.path('prefix', 'bin', 'tako')
        self.library = self.path('prefix', 'lib', 'tako')
        # of make's own, when make check runs us, and of what would keep bytecode from being written
        self.environ = {name: value for name, value in os.environ.items()
                        if not name.startswith(('MAKE', 'MFLAGS', 'PYTHON', 'PREFIX', 'DESTDIR'))}

    def make(self, *arguments):
        done = subprocess.run(['make', '-s', '-C', scene.PROJECT] + list(arguments),
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environ)
        self.assertEqual((0, ''), (done.returncode, done.stdout.decode('utf-8', 'replace')))

    def install(self):
        self.make('install', 'PREFIX=' + self.prefix, 'PYTHON=' + sys.executable)

    def run_command(self, *arguments, **settings):
        """Run the installed command from an unrelated directory."""
        done = subprocess.run([self.command] + list(arguments), cwd='/', stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=dict(self.environ, **settings),
                              timeout=60)
        return scene.Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def bytecode(self):
        return [os.path.join(self.library, '__pycache__', name)
                for name in os.listdir(os.path.join(self.library, '__pycache__'))]

    def files(self, root):
        return sorted(os.path.relpath(os.path.join(folder, name), root)
                      for folder, _, names in os.walk(root) for name in names)

    def test_make_install_installs_this_tako_for_the_given_python(self):
        self.install()
        result = self.run_command('--version')
        self.assertEqual((0, 'tako {}\n'.format(tako.__version__)), (result.code, result.out))
        with open(self.command) as stream:
            self.assertEqual('#!{} -IS\n'.format(sys.executable), stream.readline())
        self.assertEqual(scene.read(scene.TAKO), scene.read(os.path.join(self.library, 'tako.py')))

    def test_all_users_may_run_the_command_and_only_the_owner_may_change_it(self):
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        os.mkdir(self.prefix)
        self.install()
        found = [self.command, os.path.join(self.library, 'tako.py')] + self.bytecode()
        self.assertEqual([0o755, 0o644, 0o644],
                         [stat.S_IMODE(os.stat(path).st_mode) for path in found])
        for folder in (os.path.dirname(self.command), self.library,
                       os.path.join(self.library, '__pycache__')):
            self.assertEqual(0o755, stat.S_IMODE(os.stat(folder).st_mode), folder)

    def test_the_command_follows_a_link_to_an_image_of_tako_and_renews_its_bytecode(self):
        self.install()
        program = scene.read(os.path.join(self.library, 'tako.py'))
        link = os.path.join(self.library, 'tako.py')
        for version in ('9.9.8+', '9.9.9-2'):         # of different sizes, for one second
            image = self.write(version, program.replace(tako.__version__.encode(),
                                                        version.encode(), 1))
            os.symlink(image, link + '.new')
            os.rename(link + '.new', link)
            self.assertEqual('tako {}\n'.format(version), self.run_command('--version').out)
            cached, = self.bytecode()
            self.assertIn(version.encode(), scene.read(cached))
        self.install()
        self.assertFalse(os.path.islink(link))
        self.assertEqual('tako {}\n'.format(tako.__version__),
                         self.run_command('--version').out)
        self.assertEqual(program, scene.read(link))
        self.assertIn(b'9.9.9-2', scene.read(image))         # make install wrote no image

    def test_the_command_runs_from_bytecode(self):
        self.install()
        cached, = self.bytecode()
        # Python runs the bytecode as long as the source does not change.
        before = scene.read(cached)
        self.assertIn(tako.__version__.encode(), before)
        os.chmod(cached, 0o644)
        with open(cached, 'wb') as stream:
            stream.write(before.replace(tako.__version__.encode(), b'9.9.9'))
        self.assertEqual('tako 9.9.9\n', self.run_command('--version').out)

    def test_old_bytecode_does_not_hide_a_new_source(self):
        self.install()
        path = os.path.join(self.library, 'tako.py')
        scene.origin.write(path, scene.read(path).replace(tako.__version__.encode(), b'9.9.99'))
        self.assertEqual('tako 9.9.99\n', self.run_command('--version').out)
        self.install()
        self.assertEqual('tako {}\n'.format(tako.__version__), self.run_command('--version').out)

    def test_the_command_fetches(self):
        self.install()
        server = self.serve()
        server.publish('1.0', IMAGE)
        result = self.run_command('fetch', self.config(server.url))
        self.assertEqual((0, ''), (result.code, result.err))
        self.assertInPlace(IMAGE)
        self.assertQuiet(self.run_command('fetch', '--init', self.config(server.url)))

    def test_the_command_reports_errors_as_tako_py_does(self):
        self.install()
        self.assertCode(2, self.run_command('fetch'))
        self.assertCode(2, self.run_command('fetch', '/nowhere'))

    def test_the_command_imports_no_modules_from_environment_or_directory(self):
        self.install()
        planted = self.write('argparse.py', 'raise SystemExit(99)\n')
        self.assertEqual(0, self.run_command('--version', PYTHONPATH=os.path.dirname(planted)).code)

    def test_make_install_works_below_destdir(self):
        self.make('install', 'PREFIX=/opt/tako', 'DESTDIR=' + self.path('package'),
                  'PYTHON=' + sys.executable)
        found = self.files(self.path('package'))
        self.assertEqual(['opt/tako/bin/tako', 'opt/tako/lib/tako/tako.py'],
                         [name for name in found if '__pycache__' not in name])
        self.assertEqual(3, len(found))
        for name in found:
            self.assertNotIn(self.directory.encode(), scene.read(self.path('package', name)), name)
        self.make('uninstall', 'PREFIX=/opt/tako', 'DESTDIR=' + self.path('package'))
        self.assertEqual([], self.files(self.path('package')))

    def test_make_uninstall_removes_only_what_was_installed(self):
        self.install()
        other = self.write('prefix/bin/other', 'not ours\n')
        self.make('uninstall', 'PREFIX=' + self.prefix)
        self.assertEqual(['bin/other'], self.files(self.prefix))
        self.assertFalse(os.path.exists(self.library))
        self.assertEqual(b'not ours\n', scene.read(other))
        self.make('uninstall', 'PREFIX=' + self.prefix)         # nothing is left to remove


if __name__ == '__main__':
    unittest.main()

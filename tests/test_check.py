"""check.py, the runner of the tests: it reports tests that fail, die, hang or never begin."""
import os
import shutil
import signal
import subprocess
import sys

import scene

GOOD = """
import unittest
class Good(unittest.TestCase):
    def test_one(self): pass
    @unittest.skip('not here')
    def test_two(self): pass
"""

# a test that starts a process, writes a file, and cleans up if it can
LEAVES = """
import os, subprocess, tempfile, time, unittest
HERE = os.path.dirname(os.path.abspath(__file__))
class Leaving(unittest.TestCase):
    def test_one(self):
        self.addCleanup(os.mkdir, os.path.join(HERE, 'clean'))
        os.chmod(tempfile.mkdtemp(), 0)
        Leaving.process = subprocess.Popen(['sleep', '60'])
        with open(os.path.join(HERE, 'pid.new'), 'w') as stream:
            stream.write(str(Leaving.process.pid))
        os.rename(os.path.join(HERE, 'pid.new'), os.path.join(HERE, 'pid'))
        {}
"""


def is_running(pid):
    """Return whether this process runs. A zombie has no command line."""
    try:
        return bool(scene.read('/proc/{}/cmdline'.format(pid)))
    except (FileNotFoundError, ProcessLookupError):
        return False


class RunnerTest(scene.Scene):
    def setUp(self):
        super().setUp()
        shutil.copy(os.path.join(scene.PROJECT, 'tests', 'check.py'), self.directory)
        self.write('test_good.py', GOOD)
        os.mkdir(self.path('temporary'))

    def check(self, *arguments, **environ):
        """Run check.py on the files that the test wrote. Return its exit code and output."""
        done = subprocess.run([sys.executable, '-W', 'error', self.path('check.py')]
                              + list(arguments),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              universal_newlines=True,
                              env=self.environ(**environ), timeout=60)
        return done.returncode, done.stdout

    def environ(self, **more):
        return dict(os.environ, TMPDIR=self.path('temporary'), **more)

    def assertFails(self, numbers, text):
        """The run fails with these numbers, prints this text, and runs the other file's tests."""
        for workers in ('1', '2'):
            code, out = self.check(CHECK_WORKERS=workers)
            self.assertEqual(1, code, out)
            self.assertIn(numbers + '\n', out)
            self.assertIn(text, out)
            self.assertIn('test_good.py', out)

    def test_a_run_without_failures_prints_ok(self):
        code, out = self.check()
        self.assertEqual(0, code, out)
        self.assertRegex(out,
                         'test_good.py +2 tests +[0-9.]+ s\n\n'
                         'Ran 2 tests in [0-9.]+s\n\nOK \\(skipped=1\\)\n$')

    def test_failures_errors_and_subtests_are_counted(self):
        self.write('test_bad.py', """
import unittest
class Bad(unittest.TestCase):
    def test_one(self): self.fail('in words')
    def test_two(self): raise OSError
    def test_three(self):
        for number in range(3):
            with self.subTest(number): self.assertEqual(1, number)
""")
        self.assertFails('FAILED (failures=3, errors=1, skipped=1)', 'in words')
        self.assertFails('', 'FAIL: test_one (')
        self.assertFails('', 'ERROR: test_two (')

    def test_a_file_that_cannot_be_imported_is_an_error(self):
        self.write('test_bad.py', 'import no_such_module')
        self.assertFails('FAILED (errors=1, skipped=1)', 'no_such_module')
        self.assertFails('', '\ntest_bad.py ')

    def test_a_class_that_cannot_be_set_up_is_an_error(self):
        self.write('test_bad.py', """
import unittest
class Bad(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError('not to be set up')
    def test_one(self): pass
""")
        self.assertFails('FAILED (errors=1, skipped=1)', 'not to be set up')

    def test_a_process_that_dies_is_an_error(self):
        self.write('test_bad.py', """
import os, unittest
class Bad(unittest.TestCase):
    def test_one(self): os.kill(os.getpid(), 9)
""")
        self.assertFails('FAILED (errors=1, skipped=1)', 'test_bad.Bad')

    def test_warnings_are_errors_in_tests(self):
        self.write('test_bad.py', """
import unittest, warnings
class Bad(unittest.TestCase):
    def test_one(self): warnings.warn('careful')
""")
        self.assertFails('FAILED (errors=1, skipped=1)', 'careful')

    def test_a_run_without_a_test_is_a_failure(self):
        code, out = self.check('nothing*.py')
        self.assertEqual(1, code, out)
        self.assertIn('Ran 0 tests', out)

    def test_a_pattern_chooses_files(self):
        self.write('test_bad.py', 'import no_such_module')
        self.assertEqual(0, self.check('test_g*.py')[0])

    def test_processes_that_a_class_leaves_are_ended(self):
        self.write('test_bad.py', LEAVES.format('pass'))
        code, out = self.check()
        self.assertEqual(0, code, out)
        self.assertEnded()

    def assertEnded(self):
        """The process that the test started has ended, and its files are removed."""
        pid = int(scene.read(self.path('pid')))
        scene.wait_until(lambda: not is_running(pid))
        self.assertEqual([], os.listdir(self.path('temporary')))

    def test_an_interrupted_test_cleans_up(self):
        self.write('test_bad.py', LEAVES.format('time.sleep(0.5)'))
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                self.interrupt(number)
                os.rmdir(self.path('clean'))
                os.unlink(self.path('pid'))

    def test_an_interruption_ends_a_test_that_hangs(self):
        self.write('test_bad.py', LEAVES.format('time.sleep(60)'))
        self.interrupt(signal.SIGINT)
        self.assertFalse(os.path.exists(self.path('clean')))

    def interrupt(self, number):
        """End check.py by a signal during a test. Return its exit code and output."""
        command = [sys.executable, '-W', 'error', self.path('check.py'), 'test_bad.py']
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=self.environ())
        scene.wait_until(lambda: os.path.exists(self.path('pid')))
        process.send_signal(number)
        self.assertEqual(b'', process.communicate(timeout=30)[0])
        self.assertEqual(130, process.returncode)
        self.assertEnded()

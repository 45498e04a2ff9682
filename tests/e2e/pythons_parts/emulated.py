"""The tests of sections 3 to 10 on s390x, a big-endian machine. qemu emulates each process."""
import os
import shlex
import shutil
import subprocess
import tempfile

import scene
from pythons_parts import roots

QEMU = 'qemu-s390x-static'
ROOT = os.path.join(roots.ROOTS, 's390x')
MODULES = ('test_keys', 'test_config', 'test_ed25519', 'test_manifest', 'test_chunks',
           'test_versions', 'test_stamp_format', 'test_patches', 'test_recompression')
SLOW = ('test_patches', 'test_recompression')       # take minutes
LEFT_OUT = ('MemoryTest',)          # would measure the memory of the emulator
SECONDS_MAX = 3600                  # limit for the tests of one module
# sys.executable is the emulated Python, as some tests start it.
RUN = '''
import sys, unittest
assert sys.byteorder == 'big'
sys.executable = sys.argv[1]
module = __import__(sys.argv[2])
cases = [each for each in vars(module).values()
         if isinstance(each, type) and issubclass(each, unittest.TestCase)
         and each.__module__ == module.__name__ and each.__name__ not in sys.argv[3:]]
suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))
sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())
'''


def reason_to_skip():
    """Return why these tests cannot run here, or '' if they can."""
    if shutil.which(QEMU) is None:
        return 'needs {} (Debian: apt install qemu-user-static)'.format(QEMU)
    if not os.path.isdir(ROOT):
        return roots.NO_ROOT.format('s390x')
    return ''


def run_tests(module):
    """Run the tests of a module. Return the exit code and the output."""
    with tempfile.TemporaryDirectory() as folder:
        python = os.path.join(folder, 'python3')
        with open(python, 'w') as stream:
            stream.write('#!/bin/sh\nexec {} -L {} {} "$@"\n'.format(
                QEMU, shlex.quote(ROOT), shlex.quote(os.path.join(ROOT, 'usr/bin/python3'))))
        os.chmod(python, 0o755)
        command = [python, '-W', 'error', '-c', RUN, python, module] + list(LEFT_OUT)
        folders = scene.PROJECT, os.path.join(scene.PROJECT, 'tests')
        environ = dict(os.environ, PYTHONPATH=os.pathsep.join(folders))
        done = subprocess.run(command, env=environ, timeout=SECONDS_MAX,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode('utf-8', 'replace')

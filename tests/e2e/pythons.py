"""Runs Tako and its tests with every Python on this machine, and in bare roots of Debian.

Each Python runs a story of a publisher and a client, and the unit tests. The processes of the story
run with -I -S -W error -X dev, so that any warning of a Python is a failure.
"""
import collections
import glob
import os
import re
import subprocess
import unittest

import scene
import suite
from pythons_parts import emulated, minimal, roots
from pythons_parts.story import Story

SUPPORTED = ['3.{}'.format(minor) for minor in range(6, 15)]
DEFAULT_FLAGS = ('-I', '-S', '-W', 'error')
ABOUT = ('import platform, sys; print(platform.python_implementation(), '
         'platform.python_version(), "%d.%d" % sys.version_info[:2])')
TESTS_SECONDS = 1200            # limit for the tests of one file

Python = collections.namedtuple('Python', ('path', 'name', 'minor', 'command'))


def installed_pythons():
    """Return all Pythons of pyenv, of /usr/local and of the PATH, each once."""
    folders = os.environ.get('PATH', '').split(os.pathsep) + ['/usr/local/bin']
    paths = [path for folder in folders for path in glob.glob(os.path.join(folder, '*py*3*'))
             if re.fullmatch(r'(python|pypy)3([.][0-9]+)?', os.path.basename(path))
             and '/shims/' not in path]
    paths += glob.glob(os.path.expanduser('~/.pyenv/versions/*/bin/python3'))
    pythons = map(python_at, sorted({os.path.realpath(path) for path in paths}))
    return sorted(filter(None, pythons), key=order)


def order(python):
    """Return what Pythons are sorted by: implementation, version, path."""
    implementation = python.name.split()[0]
    return implementation, [int(part) for part in python.minor.split('.')], python.path


def python_at(path):
    """Return the Python of a path; None if it does not run, or if Tako does not support it."""
    about = subprocess.run([path, '-I', '-c', ABOUT], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, universal_newlines=True)
    if about.returncode != 0:
        return None
    implementation, version, minor = about.stdout.split()
    if tuple(map(int, minor.split('.'))) < (3, 6):
        return None
    command = (path,) + DEFAULT_FLAGS
    if minor != '3.6':
        command += ('-X', 'dev')
    if implementation == 'PyPy':
        command += ('-X', 'track-resources')        # otherwise it does not warn of open files
    return Python(path, '{} {}'.format(implementation, version), minor, command)


def run_stories(pythons, pythons_suite):
    """Run the story with each Python, even in a short sample. All must publish the same bytes."""
    published = []
    for python in pythons:
        with pythons_suite.case(python.name + ': the story'):
            story = Story(python.command)
            try:
                published.append((python.name, story.run_steps()))
            finally:
                pythons_suite.count('processes', story.processes)
    for name, files in published[1:]:
        with pythons_suite.case('{} publishes the bytes of {}'.format(name, published[0][0])):
            story.assertEqual(published[0][1], files)


def run_tests(python, file, pythons_suite):
    """Run the unit tests of a file by make check."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith('MAKE')}
    command = ['make', '-C', scene.PROJECT, 'check', 'PYTHON=' + python.path, 'TESTS=' + file]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=TESTS_SECONDS)
    count_tests(done.returncode, done.stdout.decode('utf-8', 'replace'), pythons_suite)


def count_tests(code, output, pythons_suite):
    """Count the unit tests of a run by its output.

    Raises AssertionError if a test failed, if none ran, or if a Python warned of open files.
    """
    ran = re.search(r'^Ran ([0-9]+) tests? in', output, re.M)
    skipped = re.search(r'skipped=([0-9]+)', output)
    if code != 0 or ran is None or ran.group(1) == '0':
        raise AssertionError('exit code {}:\n{}'.format(code, output[-8000:]))
    if 'ResourceWarning' in output or 'Exception ignored' in output:
        raise AssertionError(output[-8000:])
    pythons_suite.count('unit tests', int(ran.group(1)))
    if skipped is not None:
        pythons_suite.count('unit tests skipped', int(skipped.group(1)))


def run_minimal(pythons_suite):
    """Run the cases of Debian's python3-minimal."""
    why = minimal.reason_to_skip()
    if why:
        pythons_suite.skip('python3-minimal', why)
        return
    command = minimal.PYTHON + DEFAULT_FLAGS + ('-X', 'dev')
    with pythons_suite.case('python3-minimal: modules are missing'):
        with minimal.Minimal(command) as client:
            client.assertEqual(minimal.MISSING_MODULES, client.missing_modules())
    for case in minimal.CASES:
        with pythons_suite.case('python3-minimal: ' + case.__name__):
            with minimal.Minimal(command) as client:
                case(client)
                pythons_suite.count('processes', client.processes)


def run_roots(pythons_suite):
    """Run make demo and make check in each root; in a sample, make check in one of them."""
    cases = []
    for name, user in roots.CASES:
        why = roots.reason_to_skip(name)
        if why:
            pythons_suite.skip('{} as {}'.format(name, user), why)
            continue
        cases.append((name, user))
        with pythons_suite.case('{} as {}: make demo'.format(name, user)):
            roots.demo(name, user)
    for name, user in one_of(cases, [case for case in cases if case[0] == 'sid'], pythons_suite):
        with pythons_suite.case('{} as {}: make check'.format(name, user)):
            count_tests(*roots.run(name, user, ['make', 'check']), pythons_suite=pythons_suite)
    for name in one_of(sorted({name for name, _ in cases}), ['sid'], pythons_suite):
        with pythons_suite.case(name + ': the tests of https with its openssl'):
            run_https_tests(name, pythons_suite)
    for target in ('demo', 'check'):
        with pythons_suite.case('python3-minimal: make {} names the package'.format(target)):
            check_minimal(target)


def one_of(cases, preferred, pythons_suite):
    """Return all cases; in a sample only one, which is a preferred one with probability 3/4."""
    if not pythons_suite.is_sample or not cases:
        return cases
    pythons_suite.count('not in this sample', len(cases) - 1)
    usual = [case for case in cases if case in preferred] or cases
    return [pythons_suite.chance.choice(usual if pythons_suite.chance.random() < 0.75 else cases)]


def run_https_tests(name, pythons_suite):
    """Run the tests of section 12 with openssl on the PATH. None is skipped then."""
    environ = {'PATH': roots.OPENSSL + ':' + roots.PATH,
               'OPENSSL_CONF': roots.OPENSSL + '/openssl.cnf'}
    code, output = roots.run(name, 'root', ['make', 'check', 'TESTS=test_network.py'], **environ)
    count_tests(code, output, pythons_suite)
    if 'skipped=' in output:
        raise AssertionError(output)


def check_minimal(target):
    why = roots.reason_to_skip('minimal')
    if why:
        raise unittest.SkipTest(why)
    roots.check_hint(target)


def run_emulated(pythons_suite):
    """Run the tests of sections 3 to 10 on a big-endian machine; in a sample, one of them."""
    why = emulated.reason_to_skip()
    if why:
        pythons_suite.skip('s390x', why)
        return
    quick = [module for module in emulated.MODULES if module not in emulated.SLOW]
    modules = quick if pythons_suite.is_sample else emulated.MODULES
    for module in one_of(modules, quick, pythons_suite):
        with pythons_suite.case('s390x: ' + module):
            count_tests(*emulated.run_tests(module), pythons_suite=pythons_suite)


def minors_of_roots():
    """Yield the versions of Python in the roots, in the form of SUPPORTED."""
    for name in sorted({name for name, _ in roots.CASES}):
        if roots.reason_to_skip(name):
            continue
        version = roots.python_version(name)
        print('CPython {} in the root {}'.format(version, name), flush=True)
        yield '.'.join(version.split('.')[:2])


def main():
    pythons_suite = suite.Suite('pythons')
    roots.lock_all()
    pythons = installed_pythons()
    for python in pythons:
        print('{} at {}'.format(python.name, python.path), flush=True)
    has = {python.minor for python in pythons if python.name.startswith('CPython')}
    has.update(minors_of_roots())
    for minor in SUPPORTED:
        if minor not in has:
            pythons_suite.skip('CPython ' + minor, 'CPython {} is not installed'.format(minor))
    if any(python.name.startswith('PyPy') for python in pythons):
        pythons_suite.skip('PyPy: nohup', 'PyPy does not report which signals are ignored')
    else:
        pythons_suite.skip('PyPy', 'PyPy is not installed')
    run_minimal(pythons_suite)
    run_stories(pythons, pythons_suite)
    run_roots(pythons_suite)
    run_emulated(pythons_suite)
    files = sorted(os.path.basename(path)
                   for path in glob.glob(os.path.join(scene.PROJECT, 'tests', 'test_*.py')))
    cases = [(python, file) for python in pythons for file in files]
    for python, file in pythons_suite.sample(cases):
        with pythons_suite.case('{}: {}'.format(python.name, file)):
            run_tests(python, file, pythons_suite)
    pythons_suite.close()


if __name__ == '__main__':
    main()

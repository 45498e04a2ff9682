"""Every Python that is here: the whole story as processes, and the unit tests; and bare roots.

The processes are run with -I -S -W error -X dev: whatever a Python has to warn of fails the story.
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

WANTED = ['3.{}'.format(minor) for minor in range(6, 15)]       # that tako.py supports
DEFAULT_FLAGS = ('-I', '-S', '-W', 'error')
ABOUT = 'import platform, sys; print(platform.python_implementation(), platform.python_version(), "%d.%d" % sys.version_info[:2])'
TESTS_SECONDS = 1200            # that the tests of one file may take

Python = collections.namedtuple('Python', ('path', 'name', 'minor', 'command'))


def found():
    """All Pythons of pyenv, of /usr/local and of the PATH, once each."""
    folders = os.environ.get('PATH', '').split(os.pathsep) + ['/usr/local/bin']
    paths = [path for folder in folders for path in glob.glob(os.path.join(folder, '*py*3*'))
             if re.fullmatch(r'(python|pypy)3([.][0-9]+)?', os.path.basename(path)) and '/shims/' not in path]
    paths += glob.glob(os.path.expanduser('~/.pyenv/versions/*/bin/python3'))
    pythons = [each for each in map(python_at, sorted({os.path.realpath(path) for path in paths})) if each is not None]
    return sorted(pythons, key=lambda each: (each.name.split()[0], [int(part) for part in each.minor.split('.')], each.path))


def python_at(path):
    """The Python there; None if it does not run, or is older than tako.py supports."""
    told = subprocess.run([path, '-I', '-c', ABOUT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          universal_newlines=True)
    if told.returncode != 0:
        return None
    implementation, version, minor = told.stdout.split()
    if tuple(map(int, minor.split('.'))) < (3, 6):
        return None
    command = (path,) + DEFAULT_FLAGS
    if minor != '3.6':
        command += ('-X', 'dev')
    if implementation == 'PyPy':
        command += ('-X', 'track-resources')        # without it, nothing is said of what is left open
    return Python(path, '{} {}'.format(implementation, version), minor, command)


def tell_stories(pythons, all_of_it):
    """The story by each Python, though the time were up: and all have to publish the same bytes."""
    published = []
    for python in pythons:
        with all_of_it.case(python.name + ': the story'):
            story = Story(python.command)
            try:
                published.append((python.name, story.tell()))
            finally:
                all_of_it.count('processes', story.processes)
    for name, files in published[1:]:
        with all_of_it.case('{} publishes what {} does'.format(name, published[0][0])):
            story.assertEqual(published[0][1], files)


def run_tests(python, file, all_of_it):
    """The unit tests of a file, by make check."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith('MAKE')}
    done = subprocess.run(['make', '-C', scene.PROJECT, 'check', 'PYTHON=' + python.path, 'TESTS=' + file],
                          env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TESTS_SECONDS)
    judge_tests(done.returncode, done.stdout.decode('utf-8', 'replace'), all_of_it)


def judge_tests(code, said, all_of_it):
    """Count the unit tests that were run. Raises AssertionError if one failed, or none was run."""
    ran, skipped = re.search(r'^Ran ([0-9]+) tests? in', said, re.M), re.search(r'skipped=([0-9]+)', said)
    if code != 0 or ran is None or ran.group(1) == '0':
        raise AssertionError('ended with {}:\n{}'.format(code, said[-8000:]))
    if 'ResourceWarning' in said or 'Exception ignored' in said:
        raise AssertionError(said[-8000:])
    all_of_it.count('unit tests', int(ran.group(1)))
    if skipped is not None:
        all_of_it.count('of them skipped', int(skipped.group(1)))


def run_minimal(all_of_it):
    """What Debian's smallest Python does."""
    why = minimal.reason_to_skip()
    if why:
        all_of_it.skip('python3-minimal', why)
        return
    command = minimal.PYTHON + DEFAULT_FLAGS + ('-X', 'dev')
    with all_of_it.case('python3-minimal: is minimal'), minimal.Minimal(command) as small:
        small.assertEqual(minimal.LACKS, small.lacking())
    for case in minimal.CASES:
        with all_of_it.case('python3-minimal: ' + case.__name__), minimal.Minimal(command) as small:
            case(small)
            all_of_it.count('processes', small.processes)


def run_roots(all_of_it):
    """Both commands in each root; in a sample, all tests in one of them, preferably sid."""
    cases = []
    for name, user in roots.CASES:
        why = roots.reason_to_skip(name)
        if why:
            all_of_it.skip('{} as {}'.format(name, user), why)
            continue
        cases.append((name, user))
        with all_of_it.case('{} as {}: make demo'.format(name, user)):
            roots.demo(name, user)
    for name, user in one_of(cases, [case for case in cases if case[0] == 'sid'], all_of_it):
        with all_of_it.case('{} as {}: make check'.format(name, user)):
            judge_tests(*roots.run(name, user, ['make', 'check']), all_of_it=all_of_it)
    for name in one_of(sorted({name for name, _ in cases}), ['sid'], all_of_it):
        with all_of_it.case(name + ': the tests of https, with its openssl'):
            run_https_tests(name, all_of_it)
    for target in ('demo', 'check'):
        with all_of_it.case('python3-minimal: make {} says what to install'.format(target)):
            check_minimal(target)


def one_of(cases, preferred, all_of_it):
    """All cases; in a sample one of them, which is a preferred one three times of four."""
    if not all_of_it.is_sample or not cases:
        return cases
    all_of_it.count('not in this sample', len(cases) - 1)
    usual = [case for case in cases if case in preferred] or cases
    return [all_of_it.chance.choice(usual if all_of_it.chance.random() < 0.75 else cases)]


def run_https_tests(name, all_of_it):
    """The tests of section 11 where there is an openssl; then none is skipped."""
    environ = {'PATH': roots.OPENSSL + ':' + roots.PATH,
               'OPENSSL_CONF': roots.OPENSSL + '/openssl.cnf'}
    code, said = roots.run(name, 'root', ['make', 'check', 'TESTS=test_network.py'], **environ)
    judge_tests(code, said, all_of_it)
    if 'skipped=' in said:
        raise AssertionError(said)


def check_minimal(target):
    why = roots.reason_to_skip('minimal')
    if why:
        raise unittest.SkipTest(why)
    roots.say_what_to_install(target)


def run_emulated(all_of_it):
    """Sections 3 to 9 on a big-endian machine; in a sample, the tests of one of them."""
    why = emulated.reason_to_skip()
    if why:
        all_of_it.skip('s390x', why)
        return
    quick = [module for module in emulated.MODULES if module not in emulated.SLOW]
    for module in one_of(quick if all_of_it.is_sample else emulated.MODULES, quick, all_of_it):
        with all_of_it.case('s390x: ' + module):
            judge_tests(*emulated.run_tests(module), all_of_it=all_of_it)


def minors_of_roots():
    """Which Pythons the roots have, as WANTED spells them."""
    for name in sorted({name for name, _ in roots.CASES}):
        if roots.reason_to_skip(name):
            continue
        version = roots.python_version(name)
        print('CPython {} in the root {}'.format(version, name), flush=True)
        yield '.'.join(version.split('.')[:2])


def main():
    all_of_it = suite.Suite('pythons')
    roots.hold_all()
    pythons = found()
    for python in pythons:
        print('{} at {}'.format(python.name, python.path), flush=True)
    has = {python.minor for python in pythons if python.name.startswith('CPython')}
    has.update(minors_of_roots())
    for minor in WANTED:
        if minor not in has:
            all_of_it.skip('CPython ' + minor, 'CPython {} is not here'.format(minor))
    if any(python.name.startswith('PyPy') for python in pythons):
        all_of_it.skip('PyPy: nohup', 'PyPy does not say which signals it found ignored')
    else:
        all_of_it.skip('PyPy', 'PyPy is not here')
    run_minimal(all_of_it)
    tell_stories(pythons, all_of_it)
    run_roots(all_of_it)
    run_emulated(all_of_it)
    files = sorted(os.path.basename(path) for path in glob.glob(os.path.join(scene.PROJECT, 'tests', 'test_*.py')))
    for python, file in all_of_it.sample((python, file) for python in pythons for file in files):
        with all_of_it.case('{}: {}'.format(python.name, file)):
            run_tests(python, file, all_of_it)
    all_of_it.close()


if __name__ == '__main__':
    main()

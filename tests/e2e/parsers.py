"""Parsers: each accepts or refuses any bytes, with its own errors and within its bounds.

atheris fuzzes each target of parsers_checks/targets.py, guided by coverage, in its own process, for
a share of PROVE_SECONDS or else of PARSERS_SECONDS. hypothesis tries each property of
parsers_checks/properties.py. PARSERS= chooses cases by a part of their names.
"""
import base64
import glob
import os
import re
import subprocess
import tempfile

import suite

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKS = os.path.join(HERE, 'parsers_checks')
PYTHON = os.path.join(os.path.dirname(os.path.dirname(HERE)), '.venv-parsers', 'bin', 'python')
FUZZED_SHARE = 0.7              # of the time is for fuzzing, the rest for properties
PLANTED = 'a planted fault'     # of fuzz.py
EXAMPLES, SAMPLE_EXAMPLES = 2000, 60
INPUTS_MIN = 200                # inputs that a target takes in its time; fewer are a failure


def run(program, *arguments):
    """Run a program of parsers_checks/. Return its exit code and output."""
    process = subprocess.run([PYTHON, os.path.join(CHECKS, program)]
                             + [str(each) for each in arguments],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             universal_newlines=True, errors='replace')
    return process.returncode, process.stdout


def listed(program):
    """Return the names of a table in parsers_checks/, which needs the packages."""
    words = {'targets': 'TARGETS', 'properties': 'PROPERTIES'}[program]
    return subprocess.run([PYTHON, '-c',
                           f'from {program} import {words}; print(*{words}, sep="\\n")'],
                          env=dict(os.environ, PYTHONPATH=os.pathsep.join(
                              (CHECKS, os.environ.get('PYTHONPATH', '')))),
                          stdout=subprocess.PIPE, universal_newlines=True,
                          check=True).stdout.splitlines()


def fuzz(name, seconds, seed):
    """Fuzz a target. Return the number of inputs, the output, and the failing inputs."""
    with tempfile.TemporaryDirectory() as folder:
        code, words = run('fuzz.py', name, seconds, seed, folder)
        faults = []
        for path in glob.glob(os.path.join(glob.escape(folder), '*-*')):
            with open(path, 'rb') as stream:
                faults.append(stream.read())
    inputs = re.search('number_of_executed_units: ([0-9]+)', words)
    if code and not faults:
        raise AssertionError('{} ended with {}:\n{}'.format(name, code, words[-3000:]))
    return int(inputs.group(1)) if inputs else 0, words, faults


def check_fuzzed(suite_, name, seconds):
    inputs, words, faults = fuzz(name, seconds, suite_.chance.randrange(1, 1 << 31))
    shown = '\n'.join(line for line in words.splitlines()
                      if not re.match('INFO|#|stat::|WARNING', line))
    for fault in faults:
        raise AssertionError('{}: {}\n{}'.format(name, base64.b64encode(fault).decode('ascii'),
                                                 shown[-4000:]))
    assert inputs >= INPUTS_MIN, 'took {} inputs in {} s'.format(inputs, seconds)
    suite_.count('inputs', inputs)
    print('{:>10} inputs: {}'.format(inputs, name), flush=True)


def check_planted(suite_, seconds):
    """A planted fault is found by coverage. Without this the other cases would show nothing."""
    _, words, faults = fuzz(PLANTED, seconds, suite_.chance.randrange(1, 1 << 31))
    assert [fault[:4] for fault in faults] == [b'tako'] and 'IndexError' in words, words[-3000:]


def check_property(suite_, name):
    code, words = run('properties.py', name, suite_.chance.randrange(1 << 31),
                      SAMPLE_EXAMPLES if suite_.is_sample else EXAMPLES)
    assert code == 0, words[-6000:]
    suite_.count('properties')


def main():
    parsers = suite.Suite('parsers')
    if not os.access(PYTHON, os.X_OK) or subprocess.run(
        [PYTHON, '-c', 'import atheris, hypothesis']).returncode != 0:
        parsers.skip('all',
                     'no Python here that atheris has a wheel for (make prepare-parsers says more)')
        parsers.close()
    print(subprocess.run([PYTHON, '-m', 'pip', 'list', '--disable-pip-version-check',
                          '--format=freeze'],
                         stdout=subprocess.PIPE, universal_newlines=True).stdout.replace('\n', ' '))
    targets, properties = listed('targets'), listed('properties')
    total = float(os.environ.get('PROVE_SECONDS') or os.environ.get('PARSERS_SECONDS') or 3600)
    seconds = max(3, round(total * FUZZED_SHARE / len(targets)))
    cases = [(PLANTED, lambda: check_planted(parsers, max(60, seconds)))]
    cases += [(name, lambda name=name: check_fuzzed(parsers, name, seconds)) for name in targets]
    cases += [(name, lambda name=name: check_property(parsers, name)) for name in properties]
    for name, check in parsers.sample([case for case in cases
                                       if os.environ.get('PARSERS', '') in case[0]]):
        with parsers.case(name):
            check()
    parsers.close()


if __name__ == '__main__':
    main()

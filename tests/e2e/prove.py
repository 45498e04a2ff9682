"""Runs the suites beside it, each in a process of its own, and prints the closing table of `make prove`.

    prove.py [SUITE...]

PROVE_SECONDS, if it is set, is shared out among them.
"""
import glob
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
NOT_SUITES = ('suite', 'prove')


def run(name, environ):
    """The closing line of a suite; a failure of its own if it did not come to that."""
    process = subprocess.Popen([sys.executable, '-u', os.path.join(HERE, name + '.py')], env=environ,
                               stdout=subprocess.PIPE, universal_newlines=True)
    told = None
    for line in process.stdout:
        if line.startswith('suite {'):
            told = json.loads(line[len('suite '):])
        else:
            print(line, end='', flush=True)
    code = process.wait()
    if told is None:
        return {'name': name, 'passed': 0, 'failed': 1, 'skipped': 0, 'numbers': {}, 'seconds': 0, 'seed': 0,
                'why': ['ended with {} before it was done'.format(code)]}
    if code != 0 and not told['failed']:
        told['failed'] = 1
    return told


def main(names):
    names = names or sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(HERE, '*.py'))
                            if os.path.basename(path)[:-3] not in NOT_SUITES)
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join((os.path.dirname(os.path.dirname(HERE)), os.path.dirname(HERE))))
    if environ.get('PROVE_SECONDS'):
        environ['PROVE_SECONDS'] = str(int(environ['PROVE_SECONDS']) // len(names))
    told = [run(name, environ) for name in names]
    print('\n{:<10} {:>7} {:>7} {:>7} {:>8}  {}'.format('suite', 'passed', 'failed', 'skipped', 'seconds', 'of it'))
    for each in told:
        print('{name:<10} {passed:>7} {failed:>7} {skipped:>7} {seconds:>8}  {of}'.format(of='; '.join(
            ['{} {}'.format(number, what) for what, number in each['numbers'].items()]
            + ['skipped: ' + why for why in each['why']]), **each))
    passed, failed, skipped = (sum(each[word] for each in told) for word in ('passed', 'failed', 'skipped'))
    print('{} passed, {} failed, {} skipped'.format(passed, failed, skipped))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

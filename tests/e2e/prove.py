"""Runs the suites beside it, each in a process of its own, and prints the closing table of `make prove`.

    prove.py [SUITE...]

PROVE_SECONDS, if it is set, is shared out among them. A suite that takes much longer than its share is ended.
"""
import glob
import json
import os
import signal
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
NOT_SUITES = ('suite', 'prove')
ENDING_SECONDS = 600                    # for what a suite began within its share, and again its share


def run(name, environ):
    """The closing line of a suite; a failure of its own if it did not come to that."""
    process = subprocess.Popen([sys.executable, '-u', os.path.join(HERE, name + '.py')], env=environ,
                               stdout=subprocess.PIPE, universal_newlines=True, start_new_session=True)
    clock = threading.Timer(2 * float(environ.get('PROVE_SECONDS') or 'inf') + ENDING_SECONDS, end, [process])
    if environ.get('PROVE_SECONDS'):
        clock.start()
    told = None
    try:
        for line in process.stdout:
            if line.startswith('suite {'):
                told = json.loads(line[len('suite '):])
            else:
                print(line, end='', flush=True)
        code = process.wait()
    finally:
        clock.cancel()
        end(process)
    if told is None:
        return {'name': name, 'passed': 0, 'failed': 1, 'skipped': 0, 'numbers': {}, 'seconds': 0, 'seed': 0,
                'why': ['ended with {} before it was done'.format(code)]}
    if code != 0 and not told['failed']:
        told['failed'] = 1
    return told


def end(process):
    """Kill what is left of a suite."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


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

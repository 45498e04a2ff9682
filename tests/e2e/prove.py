"""Runs the suites of this directory, each in its own process, and prints the table of `make prove`.

    prove.py [SUITE...]

The suites share PROVE_SECONDS if it is set. A suite that takes much longer than its share is ended.
After each suite its processes are ended and its temporary files removed.
"""
import contextlib
import ctypes
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading

import suite

HERE = os.path.dirname(os.path.abspath(__file__))
NOT_SUITES = ('suite', 'prove')
ENDING_SECONDS = 600                    # beyond twice its share, before a suite is ended
CLEANING_SECONDS = 10                   # between SIGTERM and SIGKILL
MEMORY = '/dev/shm'
PR_SET_CHILD_SUBREAPER = 36             # of prctl(2)


def run(name, environ):
    """Return the closing line of a suite, or a failure if it printed none."""
    process = subprocess.Popen([sys.executable, '-u', os.path.join(HERE, name + '.py')],
                               env=environ,
                               stdout=subprocess.PIPE, universal_newlines=True,
                               start_new_session=True)
    clock = threading.Timer(2 * float(environ.get('PROVE_SECONDS') or 'inf') + ENDING_SECONDS, end,
                            [process])
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
        try:
            end(process)
        finally:
            kill_orphans()
    if told is None:
        return {'name': name, 'passed': 0, 'failed': 1, 'skipped': 0, 'numbers': {}, 'seconds': 0,
                'seed': 0,
                'why': ['ended with {} before it was done'.format(code)]}
    if code != 0 and not told['failed']:
        told['failed'] = 1
    return told


def end(process):
    """Let a suite clean up, and then kill its processes."""
    try:
        process.terminate()
        process.wait(CLEANING_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def adopt_orphans():
    """Adopt all processes that a suite leaves, even in their own sessions."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_orphans():
    """Kill the processes that an ended suite left, and their children."""
    for pid in iter(lambda: next(children(), None), None):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def children():
    """Return the process ids of our children."""
    for path in glob.glob('/proc/[0-9]*/stat'):
        with contextlib.suppress(OSError), open(path) as stream:
            if int(stream.read().rpartition(')')[2].split()[1]) == os.getpid():
                yield int(path.split('/')[2])


@contextlib.contextmanager
def room(environ):
    """The environment of a suite, with temporary directories on disk and in memory."""
    with contextlib.ExitStack() as stack:
        environ = dict(environ,
                       TMPDIR=stack.enter_context(tempfile.TemporaryDirectory(prefix='tako-')))
        if os.access(MEMORY, os.W_OK):
            environ['PROVE_MEMORY'] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix='tako-', dir=MEMORY))
            os.chmod(environ['PROVE_MEMORY'], 0o755)
        os.chmod(environ['TMPDIR'], 0o1777)     # for processes that are not root's
        yield environ


def main(names):
    names = names or sorted(os.path.basename(path)[:-3] for path
                            in glob.glob(os.path.join(HERE, '*.py'))
                            if os.path.basename(path)[:-3] not in NOT_SUITES)
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join((os.path.dirname(os.path.dirname(HERE)),
                                                           os.path.dirname(HERE))))
    if environ.get('PROVE_SECONDS'):
        environ['PROVE_SECONDS'] = str(int(environ['PROVE_SECONDS']) // len(names))
    suite.exit_on_signals()
    adopt_orphans()
    told = []
    for name in names:
        with room(environ) as of_its_own:
            told.append(run(name, of_its_own))
    print('\n{:<10} {:>7} {:>7} {:>7} {:>8}  {}'.format('suite', 'passed', 'failed', 'skipped',
                                                        'seconds', 'of it'))
    for each in told:
        print('{name:<10} {passed:>7} {failed:>7} {skipped:>7} {seconds:>8}  {of}'.format(
            of='; '.join(
            ['{} {}'.format(number, what) for what, number in each['numbers'].items()]
            + ['skipped: ' + why for why in each['why']]), **each))
    passed, failed, skipped = (sum(each[word] for each in told) for word
                               in ('passed', 'failed', 'skipped'))
    print('{} passed, {} failed, {} skipped'.format(passed, failed, skipped))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

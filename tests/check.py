"""Runs the tests with the standard library alone, each class in its own process.

    check.py [PATTERN]          files of tests/ (test*.py)

It prints failures at once, a line for each file after the last of its classes, and at the end how
many tests ran and failed, as unittest does.

CHECK_WORKERS is the number of classes at a time; the default is two for each core, as some wait.
Temporary files are in TMPDIR if it is set, otherwise in memory if there is room. At the end, and
after Ctrl-C or SIGTERM, check.py removes them and ends all processes of the tests.
"""
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
WORKERS_MAX = 8
MEMORY = '/dev/shm'             # tests write and sync many small files, which is fast in memory
MEMORY_MIN_BYTES = 1 << 30
# the files that take longest, which begin first
SLOW = ('test_durability', 'test_recompression', 'test_attacks', 'test_patches', 'test_rollback',
        'test_publish', 'test_delta', 'test_fetch', 'test_retries', 'test_end_to_end',
        'test_install', 'test_mirrors')
STOP_SECONDS = 3.0              # for an interrupted test to end and clean up
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Job:
    """The tests of one class, which run in their own process."""

    def __init__(self, tests):
        self.tests = tests
        self.file = module_of(tests[0]) + '.py'

    def start(self):
        """Start the process. Return its id."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._began = time.monotonic()
        self.result = tempfile.TemporaryFile('w+')
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)            # so that kill_group() ends all that the tests start
                set_signals(signal.SIG_DFL)
                json.dump(run(self.tests), self.result)
                self.result.flush()
                code = 0
            except BaseException:           # there is no result then
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return pid

    def end(self, pid, status):
        """End all processes of the class whose process has ended. Return its results."""
        kill_group(pid)
        with self.result:
            self.result.seek(0)
            try:
                told = json.load(self.result)
            except ValueError:
                name = unittest.util.strclass(type(self.tests[0]))
                told = {'ran': 0, 'skipped': 0, 'failures': [],
                        'errors': [[name, 'its process ended with status {}'.format(status)]]}
        told['seconds'] = time.monotonic() - self._began
        return told


class Result(unittest.TestResult):
    """Counts each test that began, even a skipped one, which Python 3.12.1 omits in testsRun."""

    ended = 0

    def stopTest(self, test):
        super().stopTest(test)
        self.ended += 1


def run(tests):
    """Run tests in this process. Return their numbers, and the texts of failures and errors.

    SIGINT ends the run after the current test.
    """
    result = Result()
    unittest.registerResult(result)
    unittest.installHandler()
    unittest.TestSuite(tests).run(result)
    gc.collect()                # files left open warn now
    return {'ran': result.ended, 'skipped': len(result.skipped),
            'failures': [[str(test), text] for test, text in result.failures]
            + [[str(test), 'it was expected to fail'] for test in result.unexpectedSuccesses],
            'errors': [[str(test), text] for test, text in result.errors]}


def module_of(test):
    """Return the module of a test, even of one that unittest could not import."""
    module = type(test).__module__
    return test.id().split('.')[-1] if module == 'unittest.loader' else module


def classes(pattern):
    """Return the tests in files of this pattern, a list for each class, slow files first."""
    found = {}

    def add(suite):
        for each in suite:
            if isinstance(each, unittest.TestSuite):
                add(each)
            else:
                found.setdefault((module_of(each), type(each).__qualname__), []).append(each)
    add(unittest.TestLoader().discover(HERE, pattern))
    order = {name: number for number, name in enumerate(SLOW)}
    return sorted(found.values(), key=lambda tests: order.get(module_of(tests[0]), len(SLOW)))


class Summary:
    """The results of all jobs so far."""

    def __init__(self, jobs):
        self.totals = {'ran': 0, 'skipped': 0, 'failures': 0, 'errors': 0}
        self._open = {}         # file -> [jobs that have not ended, tests, seconds]
        for job in jobs:
            self._open.setdefault(job.file, [0, 0, 0.0])[0] += 1

    def add(self, job, told):
        """Add the results of a job. Print its failures, and a line after the last job of a file."""
        for kind, heading in (('failures', 'FAIL: '), ('errors', 'ERROR: ')):
            for name, text in told[kind]:
                print('=' * 70, heading + name, '-' * 70, text, sep='\n', flush=True)
            told[kind] = len(told[kind])
        for name in self.totals:
            self.totals[name] += told[name]
        line = self._open[job.file]
        line[0] -= 1
        line[1] += told['ran']
        line[2] += told['seconds']
        if not line[0]:
            print('{:24} {:4} tests {:6.1f} s'.format(job.file, *line[1:]), flush=True)

    def close(self, seconds):
        """Print the totals in the words of unittest. Return whether all tests passed."""
        print('\nRan {} tests in {:.1f}s\n'.format(self.totals['ran'], seconds))
        is_good = self.totals['ran'] > 0 and not (self.totals['failures'] or self.totals['errors'])
        parts = ['{}={}'.format(name, self.totals[name]) for name
                 in ('failures', 'errors', 'skipped') if self.totals[name]]
        print(('OK' if is_good else 'FAILED') + (' ({})'.format(', '.join(parts)) if parts else ''))
        return is_good


def run_all(jobs, workers, summary):
    """Run the jobs, `workers` at a time."""
    running, rest = {}, list(jobs)
    try:
        while rest or running:
            while rest and len(running) < workers:
                job = rest.pop(0)
                running[job.start()] = job
            pid, status = os.wait()
            job = running.pop(pid)
            summary.add(job, job.end(pid, status))
    finally:
        stop(running)
        for job in running.values():
            job.result.close()


def stop(pids):
    """End these processes, each after its current test, but after STOP_SECONDS at the latest."""
    set_signals(signal.SIG_IGN)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end and sum(map(has_ended, pids)) < len(pids):
        time.sleep(0.01)
    for pid in pids:
        kill_group(pid)


def has_ended(pid):
    """Return whether a process that we started has ended."""
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True


def kill_group(pid):
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def set_signals(handler):
    """Set the handler of signals that end a process, except for ignored ones, as by nohup."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def scratch_directory():
    """Put temporary files into a new directory, and remove it at the end."""
    directory = tempfile.mkdtemp(prefix='tako-check-', dir=MEMORY if has_memory() else None)
    os.chmod(directory, 0o1777)
    os.environ['TMPDIR'] = tempfile.tempdir = directory
    try:
        yield
    finally:
        for folder, folders, _ in os.walk(directory):
            for name in folders:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(directory, ignore_errors=True)


def has_memory():
    """Return whether TMPDIR is not set, and MEMORY has room and allows programs to run."""
    if 'TMPDIR' in os.environ or not os.access(MEMORY, os.W_OK):
        return False
    status = os.statvfs(MEMORY)
    has_room = status.f_bavail * status.f_frsize >= MEMORY_MIN_BYTES
    return has_room and not status.f_flag & getattr(os, 'ST_NOEXEC', 0)


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def main(pattern='test*.py'):
    """Run the tests in files of this pattern. Return the exit code."""
    began = time.monotonic()
    workers = int(os.environ.get('CHECK_WORKERS') or min(2 * cores(), WORKERS_MAX))
    set_signals(signal.default_int_handler)
    with scratch_directory():
        jobs = [Job(tests) for tests in classes(pattern)]
        summary = Summary(jobs)
        if getattr(sys.modules.get('scene'), 'FORKS', None):
            sys.modules['scene'].FORKS.start()      # shared by all jobs
        if hasattr(gc, 'freeze'):       # novm: guarded
            gc.freeze()     # novm  # collections in tests skip all that is loaded by now
        try:
            run_all(jobs, workers, summary)
        except KeyboardInterrupt:
            return 130
    return 0 if summary.close(time.monotonic() - began) else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))

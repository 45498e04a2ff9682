"""Runs the tests with the standard library alone, a class in a process of its own, as many at once as there are cores.

    check.py [PATTERN]          which files of tests/ (test*.py)

Prints each file once all of its classes are done, failures as they come, and at the end what unittest prints: how
many tests ran, and how many failed. CHECK_WORKERS sets how many run at once.
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
WORKERS_MAX = 4
MEMORY = '/dev/shm'             # tests write small files, and flush many: quick in memory
MEMORY_MIN_BYTES = 1 << 30
# what takes longest, so that it does not begin last
SLOW = ('test_durability', 'test_mirrors', 'test_publish', 'test_pages', 'test_delta', 'test_rollback', 'test_layout')


class Job:
    """The tests of one class, while they run in a process of their own."""

    def __init__(self, tests):
        self.tests = tests
        self.file = type(tests[0]).__module__ + '.py'
        self._result = tempfile.TemporaryFile('w+')

    def start(self):
        """Begin; the process id."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                json.dump(run(self.tests), self._result)
                self._result.flush()
                code = 0
            except BaseException:           # a signal, as a rule; what it cut short has no result
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return pid

    def end(self, status):
        """What came of it, once its process has ended with this status."""
        with self._result:
            self._result.seek(0)
            try:
                told = json.load(self._result)
            except ValueError:
                name = unittest.util.strclass(type(self.tests[0]))
                told = {'ran': 0, 'skipped': 0, 'failures': [],
                        'errors': [[name, 'its process ended with status {}'.format(status)]]}
        told['seconds'] = time.monotonic() - self._began
        return told


def run(tests):
    """Run tests here; their numbers, and the texts of those that failed."""
    result = unittest.TestResult()
    unittest.TestSuite(tests).run(result)
    return {'ran': result.testsRun, 'skipped': len(result.skipped),
            'failures': [[str(test), text] for test, text in result.failures]
            + [[str(test), 'it was expected to fail'] for test in result.unexpectedSuccesses],
            'errors': [[str(test), text] for test, text in result.errors]}


def classes(pattern):
    """The tests in files of this pattern, a list for each class; those of slow files first."""
    found = {}

    def add(suite):
        for each in suite:
            if isinstance(each, unittest.TestSuite):
                add(each)
            else:
                found.setdefault((type(each).__module__, type(each).__qualname__), []).append(each)
    add(unittest.TestLoader().discover(HERE, pattern))
    order = {name: number for number, name in enumerate(SLOW)}
    return sorted(found.values(), key=lambda tests: order.get(type(tests[0]).__module__, len(SLOW)))


class Summary:
    """What came of all jobs so far."""

    def __init__(self, jobs):
        self.totals = {'ran': 0, 'skipped': 0, 'failures': 0, 'errors': 0}
        self._open = {}         # files: how many of their jobs are not done, their tests and seconds so far
        for job in jobs:
            self._open.setdefault(job.file, [0, 0, 0.0])[0] += 1

    def add(self, job, told):
        """Count what came of a job; print failures, and its file if that is done."""
        for kind in ('failures', 'errors'):
            for name, text in told[kind]:
                print('=' * 70, kind[:-1].upper() + ': ' + name, '-' * 70, text, sep='\n', flush=True)
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
        """Print the totals in unittest's words; whether all is well."""
        print('\nRan {} tests in {:.1f}s\n'.format(self.totals['ran'], seconds))
        is_good = self.totals['ran'] > 0 and not (self.totals['failures'] or self.totals['errors'])
        parts = ['{}={}'.format(name, self.totals[name]) for name in ('failures', 'errors', 'skipped') if self.totals[name]]
        print(('OK' if is_good else 'FAILED') + (' ({})'.format(', '.join(parts)) if parts else ''))
        return is_good


def run_all(jobs, workers, summary):
    """Run the jobs, so many at once."""
    running, rest = {}, list(jobs)
    try:
        while rest or running:
            while rest and len(running) < workers:
                job = rest.pop(0)
                running[job.start()] = job
            pid, status = os.wait()
            job = running.pop(pid)
            summary.add(job, job.end(status))
    finally:
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@contextlib.contextmanager
def quick_directory():
    """While the `with` lasts, temporary files are in memory, where there is room and programs may run."""
    directory = None
    if os.access(MEMORY, os.W_OK):
        status = os.statvfs(MEMORY)
        if status.f_bavail * status.f_frsize >= MEMORY_MIN_BYTES and not status.f_flag & os.ST_NOEXEC:
            directory = tempfile.mkdtemp(prefix='tako-check-', dir=MEMORY)
            os.chmod(directory, 0o1777)
            os.environ['TMPDIR'] = tempfile.tempdir = directory
    try:
        yield
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def main(pattern='test*.py'):
    """Run the tests in files of this pattern; the exit code."""
    began = time.monotonic()
    workers = int(os.environ.get('CHECK_WORKERS') or min(os.cpu_count() or 1, WORKERS_MAX))
    with quick_directory():
        jobs = [Job(tests) for tests in classes(pattern)]
        summary = Summary(jobs)
        if hasattr(gc, 'freeze'):
            gc.freeze()         # what is loaded by now is no garbage: tests collect that often
        try:
            run_all(jobs, workers, summary)
        except KeyboardInterrupt:
            return 130
    return 0 if summary.close(time.monotonic() - began) else 1


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))

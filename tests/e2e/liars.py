"""Liars: an origin that attacks fetch in each way of the table in tests/attacks/.

Each case runs fetch as a process during an attack. It judges the exit code, the message, the time,
memory and disk that it took, and the destination, and then an honest run.
"""
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time

import attacks
import scene
import suite
from attacks import publishing, stage
from attacks.attack import MIB, NEW, UPDATED

SHORT = {'PAUSE_FIRST_SECONDS': 0.01, 'PAUSE_BUDGET_SECONDS': 0.1, 'NETWORK_TIMEOUT_SECONDS': 1.0,
         'RATE_WINDOW_SECONDS': 2.0}
SAMPLE_SECONDS = 0.02           # between two measurements of used disk

# Runs a command and writes its exit code, seconds and peak memory, without that of the parent.
MEASURED = """
import json, os, resource, sys, time
told, most = sys.argv[1], int(sys.argv[2])
began, child = time.monotonic(), os.fork()
if not child:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    os.execv(sys.argv[3], sys.argv[3:])
_, status, usage = os.wait4(child, 0)
with open(told, 'w') as stream:
    json.dump([os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status),
               time.monotonic() - began, usage.ru_maxrss * 1024], stream)
"""


class MeasuredStage(stage.Stage):
    """A stage whose runs are processes, of which time, memory and disk are measured."""

    limits = SHORT

    def used(self):
        """Return the bytes of disk that the destination uses."""
        found = 0
        for folder, _, names in os.walk(self.destination):
            for name in names:
                try:
                    found += os.lstat(os.path.join(folder, name)).st_blocks * 512
                except OSError:                 # the file is gone
                    pass
        return found

    def measure(self, limits, seconds, file_bytes):
        """Run fetch. Return its Result, seconds, peak memory and peak disk in bytes."""
        told = self.path('measured')
        command = [sys.executable, '-I', '-W', 'error'] + scene.program(limits)
        environ = {name: value for name,
                   value in os.environ.items() if not name.lower().endswith('_proxy')}
        with open(self.path('out'), 'w+') as out, open(self.path('err'), 'w+') as err:
            process = subprocess.Popen(
                [sys.executable, '-I', '-S', '-c', MEASURED, told, str(file_bytes)] + command
                + ['fetch'] + list(self.attack.options) + [self.app], stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, cwd=self.directory, env=environ, start_new_session=True)
            deadline, before, disk = time.monotonic() + 2 * seconds, self.used(), 0
            while process.poll() is None:
                disk = max(disk, self.used() - before)
                if time.monotonic() > deadline:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    raise AssertionError('does not end')
                time.sleep(SAMPLE_SECONDS)
        with open(told) as stream:
            code, took, memory = json.load(stream)
        words = [scene.read(self.path(name)).decode('utf-8', 'replace') for name in ('out', 'err')]
        return scene.Result(code, *words), took, memory, max(disk, self.used() - before)


def suffer(attack, honest_memory, limits, with_mirror=False):
    """Make the attack and judge it, then an honest run. Return its seconds and peak memory."""
    with MeasuredStage(with_mirror, is_alone=bool(limits)) as at:
        at.begin(attack)
        result, seconds, memory, disk = at.measure(dict(limits, **at.more_limits), attack.seconds,
                                                   attack.disk)
        at.assertEnded(result)
        at.assertLess(seconds, attack.seconds)
        at.assertLess(memory, honest_memory + attack.memory)
        at.assertLessEqual(disk, attack.disk)
        at.assertRecovers()
        return seconds, memory


def honest_memory():
    """Return the peak memory of an honest update or an honest first fetch, in bytes."""
    found = 0
    for start in ('old', 'nothing'):
        with MeasuredStage() as at:
            at.begin(attacks.attack.attack('nothing', lambda _: None, 0, UPDATED, start=start))
            result, _, memory, _ = at.measure(SHORT, 30, MIB + len(NEW))
            at.assertCode(0, result)
            found = max(found, memory)
    return found


def suffer_with_true_limits(liars, memory):
    """Make all attacks with real limits at once, as they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(len(publishing.WITH_TRUE_LIMITS)) as pool:
        futures = [(attack.name, pool.submit(suffer, attack, memory, {}, with_mirror))
                   for attack, with_mirror in publishing.WITH_TRUE_LIMITS]
        for name, future in futures:
            with liars.case('with true limits: ' + name):
                future.result()
                liars.count('attacks with true limits')


def main():
    liars = suite.Suite('liars')
    memory = honest_memory()
    wanted = os.environ.get('LIARS', '')        # a part of the names of the cases to run
    longest, largest = (0, ''), (0, '')
    for name, attack, with_mirror in liars.sample(each for each in attacks.cases() if wanted
                                                  in each[0]):
        with liars.case(name):
            seconds, peak = suffer(attack, memory, SHORT, with_mirror)
            longest, largest = max(longest, (seconds, name)), max(largest, (peak, name))
            liars.count('beside an honest mirror' if with_mirror else 'attacks')
    print(
        'an honest update took {} MB at most; '
        'the longest attack {:.1f} s ({}), the largest {} MB ({})'.format(
        memory >> 20, *longest, largest[0] >> 20, largest[1]))
    if not os.environ.get('PROVE_SECONDS') and wanted in 'with true limits':
        suffer_with_true_limits(liars, memory)
    liars.close()


if __name__ == '__main__':
    main()

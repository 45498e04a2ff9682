"""What the suites of `make prove` have in common: cases that are counted, a share of time, a seed.

    suite = Suite('servers')
    for server in suite.sample(SERVERS):
        with suite.case(server.name):
            ...assertions...
    suite.close()

PROVE_SECONDS is how long a suite may begin new cases; without it all are run. PROVE_SEED makes a sample
happen again.
"""
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
import unittest


class Suite:
    """A suite's cases as they pass, fail or are skipped, and why."""

    def __init__(self, name):
        exit_on_signals()
        self.name = name
        seconds = os.environ.get('PROVE_SECONDS')
        self.seed = int(os.environ.get('PROVE_SEED') or random.SystemRandom().randrange(1 << 32))
        self.chance = random.Random(self.seed)
        self._began = time.monotonic()
        self._seconds = float(seconds) if seconds else float('inf')
        self._passed, self._failed, self._skipped, self._numbers = 0, [], [], {}
        print('== {}: seed {}{}'.format(name, self.seed, ', for {} s'.format(seconds) if seconds else ''), flush=True)

    @property
    def is_sample(self):
        """Whether there is only so much time, and not for all cases."""
        return self._seconds != float('inf')

    def has_time(self):
        """Whether another case may begin."""
        return time.monotonic() - self._began < self._seconds

    def sample(self, cases, share=1.0):
        """All cases, in order; where time is given, in random order, and as many as there is time for, at least one.

        share: how much of the time that is left these cases may use.
        """
        cases = list(cases)
        if not self.is_sample:
            yield from cases
            return
        self.chance.shuffle(cases)
        now = time.monotonic()
        end = now + share * (self._began + self._seconds - now)
        for number, case in enumerate(cases):
            if number and time.monotonic() >= end:
                self.count('not in this sample', len(cases) - number)
                return
            yield case

    @contextlib.contextmanager
    def case(self, name):
        """One case; what is raised in it is its failure, and the suite goes on."""
        try:
            yield
        except unittest.SkipTest as skipped:
            self.skip(name, str(skipped))
        except Exception:
            self._failed.append(name)
            print('FAILED {}: {}\n{}'.format(self.name, name, traceback.format_exc()), flush=True)
        else:
            self._passed += 1

    def has_failed(self):
        """Whether a case has."""
        return bool(self._failed)

    def skip(self, name, why):
        """A case that cannot be run here; said loudly."""
        self._skipped.append((name, why))
        print('SKIPPED {}: {}: {}'.format(self.name, name, why), flush=True)

    def count(self, what, number=1):
        """A number for the closing table, as of power cuts."""
        self._numbers[what] = self._numbers.get(what, 0) + number

    def close(self):
        """Say how it went, in the form that prove.py reads; end the program."""
        why = sorted({why for _, why in self._skipped})
        print('suite ' + json.dumps({
            'name': self.name, 'passed': self._passed, 'failed': len(self._failed), 'skipped': len(self._skipped),
            'why': why, 'numbers': self._numbers, 'seconds': round(time.monotonic() - self._began),
            'seed': self.seed}), flush=True)
        sys.exit(1 if self._failed or not (self._passed or self._skipped) else 0)


def exit_on_signals():
    """Let SIGTERM and SIGHUP unwind each `with`, as Ctrl-C does; but not where nohup had one ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def require_root(suite):
    """Skip the whole suite unless it is run by root."""
    if os.getuid() != 0:
        suite.skip('all', 'needs root')
        suite.close()

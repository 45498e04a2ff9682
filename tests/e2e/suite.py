"""What the suites of `make prove` share: counted cases, a share of the time, and a seed.

    suite = Suite('servers')
    for server in suite.sample(SERVERS):
        with suite.case(server.name):
            ...assertions...
    suite.close()

A suite begins no case after PROVE_SECONDS; without it, it runs all cases. PROVE_SEED repeats a
sample.
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
    """The cases of a suite that passed, failed or were skipped, and why."""

    def __init__(self, name):
        exit_on_signals()
        self.name = name
        seconds = os.environ.get('PROVE_SECONDS')
        self.seed = int(os.environ.get('PROVE_SEED') or random.SystemRandom().randrange(1 << 32))
        self.chance = random.Random(self.seed)
        self._began = time.monotonic()
        self._seconds = float(seconds) if seconds else float('inf')
        self._passed, self._failed, self._skipped, self._numbers = 0, [], [], {}
        print('== {}: seed {}{}'.format(name, self.seed, ', for {} s'.format(seconds) if seconds
                                        else ''), flush=True)

    @property
    def is_sample(self):
        """Return whether the time is limited."""
        return self._seconds != float('inf')

    def has_time(self):
        """Return whether another case may begin."""
        return time.monotonic() - self._began < self._seconds

    def sample(self, cases, share=1.0):
        """Yield the cases: all in order, or in a limited time at least one, in random order.

        share: the part of the remaining time that these cases may take.
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
        """Run one case. An exception in it is its failure, after which the suite continues."""
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
        """Return whether a case has failed."""
        return bool(self._failed)

    def skip(self, name, why):
        """Count and print a case that cannot be run here."""
        self._skipped.append((name, why))
        print('SKIPPED {}: {}: {}'.format(self.name, name, why), flush=True)

    def count(self, what, number=1):
        """Add to a number of the closing table, for example of power cuts."""
        self._numbers[what] = self._numbers.get(what, 0) + number

    def close(self):
        """Print the results in the form that prove.py reads, and end the program."""
        why = sorted({why for _, why in self._skipped})
        print('suite ' + json.dumps({
            'name': self.name, 'passed': self._passed, 'failed': len(self._failed),
            'skipped': len(self._skipped),
            'why': why, 'numbers': self._numbers, 'seconds': round(time.monotonic() - self._began),
            'seed': self.seed}), flush=True)
        sys.exit(1 if self._failed or not (self._passed or self._skipped) else 0)


def exit_on_signals():
    """Let SIGTERM and SIGHUP raise, as Ctrl-C does, unless they are ignored, as by nohup."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def require_root(suite):
    """Skip the whole suite unless root runs it."""
    if os.getuid() != 0:
        suite.skip('all', 'needs root')
        suite.close()

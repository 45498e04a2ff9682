"""Liars: an origin that attacks fetch in each way that is known, and what it may come to.

Each case is an attack of a table, on the whole program as a process: its exit code, its words, how long it took, how
much memory and disk, and whether what was in place is as before, or what was signed; and then an honest run.
"""
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time

import origin
import scene
import suite
from liars_attacks import deltas, http, publishing
from liars_attacks.attack import ANY, LISTED, MIB, NEW, OLD, OLDER, SAME, UPDATED

GROUPS = dict(publishing.GROUPS, **dict(http.GROUPS, **deltas.GROUPS))
SHORT = {'PAUSE_FIRST_SECONDS': 0.01, 'PAUSE_BUDGET_SECONDS': 0.1, 'NETWORK_TIMEOUT_SECONDS': 1.0, 'RATE_WINDOW_SECONDS': 2.0}
SENT_MAX_BYTES = 64 * MIB       # that a liar gets rid of, in all answers together
WORDS_MAX_CHARS = 20000
SAMPLE_SECONDS = 0.02           # between two looks at how much disk is used

# starts a command and writes what it took: wait4's usage, which no larger parent spoils
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


class Stage(scene.Scene):
    """A liar, who is an honest origin until an attack is laid; perhaps an honest mirror of it; a client."""

    def __init__(self, attack, with_mirror=False, is_alone=True):
        super().__init__()
        self.limits = SHORT
        self.run = self.run_here if is_alone else self.run_tako     # here is faster, and not for many at once
        self.attack = attack
        self._with_mirror = with_mirror

    def __enter__(self):
        self.setUp()
        self.keys = origin.PUBLIC_KEY,
        self.liar = self.origin_at('served')
        self.urls = [self.liar.url]
        self.older = self.liar.publish('1.0-a', OLDER)
        self.old = self.liar.publish('1.0', OLD)
        self.liar.index(self.old)
        self.old_etag = self.liar.etag(self.liar.read('manifest'))
        if self._with_mirror:
            self.urls.append(self.origin_at('served').url)
        self.app = self.client()
        if self.attack.start == 'old':
            self.assertCode(0, self.run('fetch', self.app))
        self.new = self.liar.publish('1.1', NEW)
        self.image, self.index = '/store/' + self.new.digest, self.liar.index(self.new)
        if self.attack.start == 'half':
            self.write('destination/.partial-' + self.new.digest, NEW[:len(NEW) // 2], 0o600)
        self.before = self.seen()
        return self

    def __exit__(self, *error):
        self.doCleanups()

    def origin_at(self, name):
        made = self.serve(name)
        made.has_ranges = made.has_several = True
        made.etag = lambda body: '"{}"'.format(origin.digest_of(body))
        return made

    # ---- for those who lay attacks

    def client(self):
        more = ''.join('Origin={}\n'.format(url) for url in self.urls[1:])
        return self.config(self.urls[0], public_keys=self.keys, version='1.*', more=more)

    def trust(self, *keys):
        """Let the client's config list these keys."""
        self.keys = keys
        self.client()

    def lead_to(self, url):
        """Let the client ask elsewhere than the liar."""
        self.urls[0] = url
        self.client()

    def age_manifest(self, seconds):
        path = self.path('destination', 'manifest')
        os.utime(path, (time.time() - seconds,) * 2)

    # ---- what it comes to

    def seen(self):
        """latest, store/ and the manifest, as they are."""
        return {name: what for name, what in scene.snapshot(self.destination).items() if not name.startswith('.')}

    def used(self):
        """Bytes of disk in the destination."""
        found = 0
        for folder, _, names in os.walk(self.destination):
            for name in names:
                try:
                    found += os.lstat(os.path.join(folder, name)).st_blocks * 512
                except OSError:                 # on its way
                    pass
        return found

    def measure(self, limits, seconds, file_bytes):
        """Run fetch; its Result, seconds, peak memory, peak disk."""
        told = self.path('measured')
        command = [sys.executable, '-I', '-W', 'error'] + scene.program(limits)
        environ = {name: value for name, value in os.environ.items() if not name.lower().endswith('_proxy')}
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

    def assertWords(self, result):
        """In trouble there is a message and a hint; never a traceback, a flood, or what a terminal takes for a command."""
        self.assertCode(result.code, result)
        told = result.out + result.err
        for word in ('Traceback', 'internal error'):
            self.assertNotIn(word, told)
        self.assertLess(len(told), WORDS_MAX_CHARS)
        self.assertEqual([], [char for char in told if not (char.isprintable() or char == '\n')])

    def assertState(self, code, expected):
        """The destination is as this attack may leave it."""
        self.assertIsNone(scene.fault_of_latest(self.destination))
        self.assertNoTemporaries()
        self.assertLessEqual(len([name for name in os.listdir(self.destination) if name.startswith('.partial-')]), 1)
        seen = self.seen()
        if expected == UPDATED:
            self.assertEqual(0, code)
            self.assertInPlace(NEW)
            return
        if expected == SAME:
            self.assertEqual(self.before, seen)
        if expected == LISTED:
            self.assertEqual(self.liar.read('manifest'), scene.read(self.path('destination', 'manifest')))
        self.assertEqual(without_manifest(self.before), without_manifest(seen))

    def be_honest(self):
        """Let the liar mend its ways."""
        self.urls[0] = self.liar.url
        self.client()
        self.liar.faults.clear()
        self.liar.has_several = True
        self.liar.etag = lambda body: '"{}"'.format(origin.digest_of(body))


def without_manifest(seen):
    return {name: what for name, what in seen.items() if name not in ('manifest', 'store')}


def suffer(attack, honest_memory, limits, with_mirror=False):
    """The attack, measured; and an honest run after it."""
    with Stage(attack, with_mirror, is_alone=bool(limits)) as stage:
        attack.lay(stage)
        result, seconds, memory, disk = stage.measure(limits, attack.seconds, attack.disk)
        codes, expected, then = attack.codes, attack.state, attack.then
        if with_mirror:
            then = 0 if attack.beside == 3 else then        # a fork is accepted by nobody
            codes = (attack.beside,)
            expected = {0: UPDATED, 3: SAME}.get(attack.beside, ANY)
        stage.assertIn(result.code, codes, result)
        stage.assertWords(result)
        stage.assertState(result.code, UPDATED if result.code == 0 and len(codes) > 1 else expected)
        if not with_mirror:
            stage.assertIn(attack.words, result.err)
        stage.assertLess(seconds, attack.seconds)
        stage.assertLess(memory, honest_memory + attack.memory)
        stage.assertLessEqual(disk, attack.disk)
        stage.assertLess(stage.liar.endless_bytes, SENT_MAX_BYTES)
        before = stage.seen()
        stage.be_honest()
        after = stage.run('fetch', stage.app)
        stage.assertCode(then, after)
        if then == 0:
            stage.assertInPlace(NEW)
        else:
            stage.assertEqual(before, stage.seen())
        return seconds, memory


def honest_memory():
    """The peak of an honest update, and of an honest first fetch."""
    found = 0
    for start in ('old', 'nothing'):
        with Stage(publishing.attack('nothing', None, 0, UPDATED, start=start)) as stage:
            result, _, memory, _ = stage.measure(SHORT, 30, MIB + len(NEW))
            stage.assertCode(0, result)
            found = max(found, memory)
    return found


def all_cases():
    """Name, attack, and whether an honest mirror stands beside the liar."""
    for group, attacks in GROUPS.items():
        for attack in attacks:
            yield '{}: {}'.format(group, attack.name), attack, False
            if attack.beside is not None:
                yield '{}: {}, beside an honest mirror'.format(group, attack.name), attack, True


def suffer_with_true_limits(liars, memory):
    """All of these at once: they wait, most of the time."""
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
    wanted = os.environ.get('LIARS', '')            # a part of the names of cases
    longest, largest = (0, ''), (0, '')
    for name, attack, with_mirror in liars.sample(each for each in all_cases() if wanted in each[0]):
        with liars.case(name):
            seconds, peak = suffer(attack, memory, SHORT, with_mirror)
            longest, largest = max(longest, (seconds, name)), max(largest, (peak, name))
            liars.count('beside an honest mirror' if with_mirror else 'attacks')
    print('an honest update took {} MB at most; the longest attack {:.1f} s ({}), the largest {} MB ({})'.format(
        memory >> 20, *longest, largest[0] >> 20, largest[1]))
    if not os.environ.get('PROVE_SECONDS') and wanted in 'with true limits':
        suffer_with_true_limits(liars, memory)
    liars.close()


if __name__ == '__main__':
    main()

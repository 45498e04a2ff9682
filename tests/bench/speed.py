"""make bench: Tako beside what one would use instead, and how its costs grow. Exit code 1 if a bound is missed.

    PYTHONPATH=. python3 tests/bench/speed.py

Times vary from machine to machine, and on a busy one from minute to minute. So every figure that has a bound is a
ratio to something that is measured in the same round, on the same machine, with the same Python; what is compared is
the medians of several rounds. Where a bound is in seconds or megabytes instead, the lowest are compared, since there a
busy machine does not slow down both sides. What is not well within its bound is measured three times, and the best
counts.

BENCH_ROWS: which parts to run, by name, space-separated; all without it. BENCH_DIR: the disk to run on.
The results of a whole run are also left in build/bench/, one file for each Python, for make bench-plots.
"""
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time

import fleet
import growth
import stage
import tako

RESULTS = os.path.join(stage.PROJECT, 'build', 'bench')
NEAR = 0.9                              # of the bound: what is beyond is measured again, and the best run counts
RUNS_MAX = 3
MB = 1e6
LARGE_BYTES = 1 << 30
SMALL_BYTES = 1 << 20


class Peer:
    """What Tako is measured against: its name, how to measure it once, and the bound if there is one.

    is_floor: it does not do the job; it shows what the Python and its modules cost whoever starts them.
    """

    def __init__(self, name, once, bound=None, is_floor=False):
        self.name = name
        self.once = once
        self.bound = bound
        self.is_floor = is_floor


class Contest:
    """One figure of Tako's beside its peers, measured in turn, round by round.

    kind: `ratio`, what Tako takes in peers, or `more`, what it takes more than a peer, in units.
    factor: from what is measured to units.
    """

    def __init__(self, figure, once, peers, rounds, unit='ms', factor=1e3, kind='ratio'):
        self.figure = figure
        self.once = once
        self.peers = peers
        self.rounds = rounds
        self.unit = unit
        self.factor = factor
        self.kind = kind

    def rows(self):
        """The rows of the table, each measured again where it is near its bound."""
        measured = [self._run(self.peers)]
        rows = self._compare(self.peers, measured[0])
        while len(measured) < RUNS_MAX and any(is_near(row) for row in rows):
            near = [peer for peer, row in zip(self.peers, rows) if is_near(row)]
            measured.append(self._run(near))
            again = {row['peer']: row for row in self._compare(near, measured[-1])}
            rows = [better(row, again[row['peer']]) if row['peer'] in again else row for row in rows]
        for row in rows:
            row['runs'] = len(measured) if row['runs'] > 1 else 1
        return rows

    def _run(self, peers):
        """{name: values}; the order turns from round to round, so that nobody always follows the same."""
        contestants = [('Tako', self.once)] + [(peer.name, peer.once) for peer in peers]
        values = {name: [] for name, _ in contestants}
        for number in range(self.rounds):
            turn = number % len(contestants)
            for name, once in contestants[turn:] + contestants[:turn]:
                value = once()
                if value is not None:
                    values[name].append(self.factor * value)
        return values

    def _compare(self, peers, values):
        rows = []
        for peer in peers:
            row = {'figure': self.figure, 'peer': peer.name, 'unit': self.unit, 'kind': self.kind, 'bound': peer.bound,
                   'tako': values['Tako'], 'values': values[peer.name], 'runs': 1, 'result': None, 'is_floor': peer.is_floor}
            if row['values']:
                typical = statistics.median if self.kind == 'ratio' else min
                ours, theirs = typical(row['tako']), typical(row['values'])
                row['result'] = ours / theirs if self.kind == 'ratio' else ours - theirs
            rows.append(row)
        return rows


def is_near(row):
    return bool(row['bound'] and row['result'] and row['result'] > NEAR * row['bound'])


def better(row, other):
    """The one with the lower result, of two runs of a row."""
    best = dict(min(row, other, key=lambda each: each['result']))
    best['runs'] = 2
    return best


def verdict(row):
    """What the last column says."""
    if row['result'] is None:
        return 'not for this Python'
    if row['bound'] is None:
        return 'peer ahead' if row['kind'] == 'ratio' and row['result'] > 1 and not row['is_floor'] else ''
    best = ', best of {} runs'.format(row['runs']) if row['runs'] > 1 else ''
    return ('reached' if row['result'] <= row['bound'] else 'MISSED') + best


def spread(values, digits):
    """The median, and from the lowest to the highest."""
    return '{:.{n}f} ({:.{n}f}-{:.{n}f})'.format(statistics.median(values), min(values), max(values), n=digits)


def cells(row):
    """A row as text."""
    if row['result'] is None:
        return [row['figure'], row['peer'], '', '', '', '', verdict(row)]
    digits = 0 if statistics.median(row['tako']) >= 100 else 2 if statistics.median(row['tako']) < 10 else 1
    form = '{:.2f}x' if row['kind'] == 'ratio' else '{:+.2f} ' + row['unit']
    if row['kind'] == 'ratio' and row['result'] < 0.1:
        form = '{:.3f}x'
    return [row['figure'], row['peer'], '{} {}'.format(spread(row['tako'], digits), row['unit']),
            '{} {}'.format(spread(row['values'], digits), row['unit']), form.format(row['result']),
            '' if row['bound'] is None else form.format(row['bound']), verdict(row)]


def print_table(title, head, rows):
    """A table that reads well as text, and is one in Markdown."""
    widths = [max(len(row[column]) for row in [head] + rows) for column in range(len(head))]
    print('\n' + title + '\n')
    for row in [head, ['-' * width for width in widths]] + rows:
        print('| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |')
    sys.stdout.flush()


# ------------------------------------------------------------------------ the rows

def python(code, *options):
    """Seconds that this Python takes for a line of code, from its start to its end."""
    return lambda: stage.measure([stage.PYTHON] + list(options) + ['-c', code]).seconds


def seconds(command, environ=None, before=None):
    """Seconds that a command takes; before() is called first, unmeasured."""
    def once():
        if before is not None:
            before()
        return stage.measure(command, environ).seconds
    return once


def printed(command):
    """What a command prints is the figure; None if it exits with 3, for not installed."""
    def once():
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=stage.PROJECT,
                              env=dict(stage.ENVIRON, PYTHONPATH=stage.PROJECT))
        if done.returncode == 3:
            return None
        if done.returncode:
            raise SystemExit('{} failed'.format(command))
        return float(done.stdout.decode())
    return once


def ed25519(_):
    def verify(name):
        return printed([sys.executable, os.path.join(stage.BENCH, 'verify_speed.py'), name])
    yield Contest('Ed25519 verify, from bytes to a verdict', verify('tako'), [
        Peer('pure25519', verify('pure25519'), 1 / 5), Peer('ecdsa', verify('ecdsa'), 1 / 2.5),
        Peer("RFC 8032's code (larzcrypt)", verify('larzcrypt'), 1 / 2.5), Peer('PyNaCl (libsodium, in C)', verify('pynacl'))],
        rounds=7, factor=1)


FIRST_VERIFY = """
import hashlib, time, tako
arguments = tako.decode_base64({!r}, 32), {!r}, {!r}
begin = time.perf_counter()
assert tako.ed25519_verify(*arguments)
print(time.perf_counter() - begin)
"""


def first_verify(_):
    message = tako.MANIFEST_HEADER + b'\n'
    code = FIRST_VERIFY.format(stage.PUBLIC_KEY, message, tako.ed25519_sign(stage.SEED, message))
    yield Contest('first verify in a fresh process', printed([stage.PYTHON, '-c', code]), [
        Peer('python3 -c pass', python('pass'), 0.15 if sys.version_info >= (3, 8) else 0.2)], rounds=25)


def start(scene):
    """No-op fetch over http and https, and fetch --init, as installed and as the bare file, compiled at each start."""
    scene.publish('small', scene.image('small.img', SMALL_BYTES))
    config = scene.client('small', scene.url('small'))
    secure = scene.client('small-tls', scene.url('small', 'tls'))
    stage.measure(scene.installed + ['fetch', config])
    stage.measure(scene.installed + ['fetch', secure], scene.trust)
    naive = naive_client(scene, 'naive', scene.image('small.img', SMALL_BYTES))
    stage.measure(naive)
    fetch = scene.installed + ['fetch', config]
    http, local = 'import argparse, configparser, hashlib, http.client', 'import argparse, configparser, hashlib'
    curl = 'curl -fsS --cacert {} -o {} {{}}'.format(scene.path('authority.pem'), scene.path('curl.out'))
    yield Contest('no-op fetch, http, 1 MiB image', seconds(fetch), [
        Peer('python3 importing argparse, configparser, hashlib, http.client', python(http), 1.35),
        Peer('the same without site (-IS), as the installed tako runs', python(http, '-IS'), is_floor=True),
        Peer('naive shell script (curl, signify, sha256sum)', seconds(naive)),
        Peer('curl of the manifest alone', seconds(curl.format(scene.url('small/manifest'))))], rounds=25)
    yield Contest('no-op fetch, https, 1 MiB image', seconds(scene.installed + ['fetch', secure], scene.trust), [
        Peer('python3 importing those and ssl', python(http + ', ssl'), is_floor=True),
        Peer('curl of the manifest alone', seconds(curl.format(scene.url('small/manifest', 'tls'))))], rounds=15)
    init = scene.installed + ['fetch', '--init', config]
    check = 'cd {} && sha256sum --status -c SHA256SUMS'.format(scene.path('client', 'naive'))
    yield Contest('fetch --init, 1 MiB image in place', seconds(init), [
        Peer('python3 importing argparse, configparser, hashlib', python(local), 1.5),
        Peer('the same without site (-IS), as the installed tako runs', python(local, '-IS'), is_floor=True),
        Peer('sha256sum -c (no signature)', seconds(check))], rounds=25)
    for title, options, floor, bound in (('no-op fetch, http', [], http, 1.35), ('fetch --init', ['--init'], local, 1.5)):
        yield Contest(title + ', the bare file', seconds(scene.copied + ['fetch'] + options + [config]), [
            Peer('python3 importing ' + floor[len('import '):], python(floor), bound),
            Peer('the installed tako', seconds(scene.installed + ['fetch'] + options + [config]))], rounds=15)


def signature(scene):
    """A whole process that says whether a signed list, and the 1 MiB that it lists, are right."""
    image = scene.image('small.img', SMALL_BYTES)
    scene.publish('signed', image)
    naive_client(scene, 'signify', image)
    sums = scene.path('served', 'signify')
    pair = scene.path('minisign')
    subprocess.run(['minisign', '-G', '-W', '-f', '-p', pair + '.pub', '-s', pair + '.sec'], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(['minisign', '-S', '-s', pair + '.sec', '-m', os.path.join(sums, 'SHA256SUMS')], check=True,
                   stdout=subprocess.DEVNULL)
    by_signify = 'signify-openbsd -Vq -p {}.pub -m SHA256SUMS'.format(scene.path('signify'))
    by_minisign = 'minisign -Vqm SHA256SUMS -p {}.pub'.format(pair)
    both = 'cd {} && {{}} && sha256sum --status -c SHA256SUMS'.format(shlex.quote(sums))
    yield Contest('verify a published directory, 1 MiB image', seconds(
        scene.installed + ['verify', '-p', stage.PUBLIC_KEY, scene.path('served', 'signed')]), [
        Peer('signify -V && sha256sum -c', seconds(both.format(by_signify))),
        Peer('minisign -V && sha256sum -c', seconds(both.format(by_minisign)))], rounds=15)


def naive_client(scene, name, image):
    """Sign and serve an image as naive.sh wants it; the command that brings it to client/NAME."""
    served, pair = scene.path('served', name), scene.path('signify')
    os.makedirs(served, exist_ok=True)
    os.makedirs(scene.path('client', name), exist_ok=True)
    if not os.path.exists(pair + '.pub'):
        subprocess.run(['signify-openbsd', '-G', '-n', '-p', pair + '.pub', '-s', pair + '.sec'], check=True)
    if not os.path.exists(os.path.join(served, 'image')):
        os.link(image, os.path.join(served, 'image'))
    subprocess.run('cd {} && sha256sum image > SHA256SUMS && signify-openbsd -S -s {}.sec -m SHA256SUMS'.format(
        shlex.quote(served), shlex.quote(pair)), shell=True, check=True)
    return ['sh', os.path.join(stage.BENCH, 'naive.sh'), scene.url(name), pair + '.pub', scene.path('client', name)]


def large(scene):
    """An update to 1 GiB, verified and durable."""
    image = scene.image('large.img', LARGE_BYTES)
    scene.publish('large', image)
    config = scene.client('large', scene.url('large'))
    naive = naive_client(scene, 'naive-large', image)
    url = scene.url('naive-large/image')

    def afresh(name):
        return lambda: scene.empty('client', name)
    into = 'cd {} && curl -fsS -o f {} && sync f && '.format(shlex.quote(scene.path('client', 'curl')), url)
    yield Contest('fetch 1 GiB, http, verified, durable', seconds(scene.installed + ['fetch', config], None, afresh('large')), [
        Peer('curl && sync && sha256sum', seconds(into + 'sha256sum f', None, afresh('curl')), 0.6),
        Peer('curl && sync && openssl dgst -sha256', seconds(into + 'openssl dgst -sha256 f', None, afresh('curl')), 0.95),
        Peer('naive shell script (not durable)', seconds(naive, None, afresh('naive-large')))],
        rounds=5, unit='s', factor=1)
    scene.empty('client', 'curl')
    scene.empty('client', 'naive-large')


def memory(scene):
    """The peak of each command that touches an image, at 1 GiB and at 1 MiB."""
    configs = {}
    for name, size in (('small', SMALL_BYTES), ('large', LARGE_BYTES)):
        if not os.path.exists(scene.path('served', name, 'manifest')):
            scene.publish(name, scene.image(name + '.img', size))
        configs[name] = scene.client(name, scene.url(name))
        stage.measure(scene.installed + ['fetch', configs[name]])
    store = scene.store(scene.path('served', 'again'), '', '1.0')

    def commands(name):
        served = scene.path('served', name)
        return (('fetch', scene.installed + ['fetch', configs[name]], lambda: scene.empty('client', name)),
                ('no-op fetch', scene.installed + ['fetch', configs[name]], None),
                ('fetch --init', scene.installed + ['fetch', '--init', configs[name]], None),
                ('store', [word or scene.path(name + '.img') for word in store], lambda: scene.empty('served', 'again')),
                ('verify', scene.installed + ['verify', '-p', stage.PUBLIC_KEY, served], None))

    def peak(command, before):
        def once():
            if before:
                before()
            return stage.measure(command).peak
        return once
    for (figure, *with_large), (_, *with_small) in zip(commands('large'), commands('small')):
        yield Contest('peak memory of {}, 1 GiB image'.format(figure), peak(*with_large), [
            Peer('the same with 1 MiB', peak(*with_small), 8)], rounds=3, unit='MB', factor=1 / MB, kind='more')
    scene.empty('served', 'again')


def entries(scene):
    """A manifest of 100,000 entries beside one of 10."""
    many, few = (growth.Publication(scene, count) for count in (100000, 10))
    for figure in growth.MANIFEST_FIGURES:
        yield Contest('{}, 100,000 entries'.format(figure), many.once(figure), [
            Peer('the same with 10', few.once(figure), 1.5)], rounds=3, unit='s', factor=1, kind='more')


CONTESTS = {'ed25519': ed25519, 'first-verify': first_verify, 'start': start, 'signature': signature, 'large': large,
            'memory': memory, 'entries': entries}
TABLES = {'manifests': growth.manifests, 'images': growth.images, 'configs': growth.configs, 'fleet': fleet.fleet}
HEAD = ['figure', 'peer', 'Tako: median (min-max)', 'peer: median (min-max)', 'Tako / peer', 'bound', '']


def main():
    chosen = os.environ.get('BENCH_ROWS', '').split() or list(CONTESTS) + list(TABLES)
    unknown = [name for name in chosen if name not in CONTESTS and name not in TABLES]
    if unknown:
        raise SystemExit('BENCH_ROWS: no {}; there are {}'.format(unknown[0], ' '.join(list(CONTESTS) + list(TABLES))))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # the server goes and the scratch directory, too
    begin = time.monotonic()
    results = {'python': '{}.{}'.format(*sys.version_info), 'versions': stage.machine(), 'rows': [], 'tables': {}}
    print('\n'.join('{:12}{}'.format(*each) for each in results['versions']))
    with stage.Stage() as scene:
        for name, contests in CONTESTS.items():
            if name in chosen:
                rows = [row for contest in contests(scene) for row in contest.rows()]
                results['rows'] += rows
                print_table(name, HEAD, [cells(row) for row in rows])
        for name, table in TABLES.items():
            if name in chosen:
                for title, head, rows in table(scene):
                    results['tables'][title] = {'head': head, 'rows': rows}
                    print_table(title, head, [[str(cell) for cell in row] for row in rows])
    if len(chosen) == len(CONTESTS) + len(TABLES):
        os.makedirs(RESULTS, exist_ok=True)
        with open(os.path.join(RESULTS, results['python'] + '.json'), 'w') as stream:
            json.dump(results, stream, indent=1)
    bounded = [row for row in results['rows'] if row['bound'] is not None and row['result'] is not None]
    missed = [row for row in bounded if row['result'] > row['bound']]
    print('\n{} of {} bounds reached, in {:.0f} seconds'.format(len(bounded) - len(missed), len(bounded),
                                                              time.monotonic() - begin))
    for row in missed:
        print('MISSED: {}, against {}'.format(row['figure'], row['peer']))
    return int(bool(missed))


if __name__ == '__main__':
    sys.exit(main())

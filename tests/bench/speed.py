"""make bench: measures Tako beside its peers, and how its costs grow.

    PYTHONPATH=. python3 tests/bench/speed.py

The exit code is 1 if a bound is missed.

Times depend on the machine, and on its load. Therefore a figure with a bound is a ratio to a peer
that was measured in the same rounds, on the same machine, with the same Python. The medians of
several rounds are compared. If a bound is in seconds or megabytes, the lowest values are compared,
as a busy machine does not slow down both sides there. A figure that is near its bound is measured
three times, and the best run counts.

BENCH_ROWS: names of the parts to run, separated by spaces; the default is all.
BENCH_DIR: the parent of the scratch directory.
A run of all parts writes its results to build/bench/, one file for each Python, for make
bench-plots.
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
import rig
import tako

RESULTS = os.path.join(rig.PROJECT, 'build', 'bench')
NEAR = 0.9                              # beyond this part of its bound, a figure is measured again
RUNS_MAX = 3
MB = 1e6
LARGE_BYTES = 1 << 30
SMALL_BYTES = 1 << 20


class Peer:
    """A program that Tako is compared with.

    once: function that measures it once. bound: the highest result, or None.
    is_floor: it does less than Tako: it shows the cost of starting Python and its modules.
    """

    def __init__(self, name, once, bound=None, is_floor=False):
        self.name = name
        self.once = once
        self.bound = bound
        self.is_floor = is_floor


class Contest:
    """One figure of Tako and of its peers, which take turns in each round.

    kind: 'ratio' for Tako / peer, or 'more' for Tako - peer in units.
    factor: what the measured values are multiplied by to get units.
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
        """Return the rows of the table. A row near its bound is measured again."""
        rows, runs = self._compare(self.peers, self._run(self.peers)), 1
        while runs < RUNS_MAX and any(is_near(row) for row in rows):
            near = [peer for peer, row in zip(self.peers, rows) if is_near(row)]
            again = {row['peer']: row for row in self._compare(near, self._run(near))}
            rows = [better(row, again[row['peer']]) if row['peer'] in again else row
                    for row in rows]
            runs += 1
        for row in rows:
            row['runs'] = runs if row['runs'] > 1 else 1
        return rows

    def _run(self, peers):
        """Return name -> values. Each round begins with another program."""
        programs = [('Tako', self.once)] + [(peer.name, peer.once) for peer in peers]
        values = {name: [] for name, _ in programs}
        for number in range(self.rounds):
            turn = number % len(programs)
            for name, once in programs[turn:] + programs[:turn]:
                value = once()
                if value is not None:
                    values[name].append(self.factor * value)
        return values

    def _compare(self, peers, values):
        rows = []
        for peer in peers:
            row = {'figure': self.figure, 'peer': peer.name, 'unit': self.unit, 'kind': self.kind,
                   'bound': peer.bound, 'tako': values['Tako'], 'values': values[peer.name],
                   'runs': 1, 'result': None, 'is_floor': peer.is_floor}
            if row['values']:
                typical = statistics.median if self.kind == 'ratio' else min
                ours, theirs = typical(row['tako']), typical(row['values'])
                row['result'] = ours / theirs if self.kind == 'ratio' else ours - theirs
            rows.append(row)
        return rows


def is_near(row):
    return bool(row['bound'] and row['result'] and row['result'] > NEAR * row['bound'])


def better(row, other):
    """Return the run of a row that has the lower result."""
    best = dict(min(row, other, key=lambda each: each['result']))
    best['runs'] = 2
    return best


def verdict(row):
    """Return the text of the last column."""
    if row['result'] is None:
        return 'not for this Python'
    if row['bound'] is None:
        is_behind = row['kind'] == 'ratio' and row['result'] > 1 and not row['is_floor']
        return 'peer ahead' if is_behind else ''
    best = ', best of {} runs'.format(row['runs']) if row['runs'] > 1 else ''
    return ('reached' if row['result'] <= row['bound'] else 'MISSED') + best


def spread(values, digits):
    """Return the median, minimum and maximum as text."""
    return '{:.{n}f} ({:.{n}f}-{:.{n}f})'.format(statistics.median(values), min(values),
                                                 max(values), n=digits)


def cells(row):
    """Return the cells of a row as texts."""
    if row['result'] is None:
        return [row['figure'], row['peer'], '', '', '', '', verdict(row)]
    middle = statistics.median(row['tako'])
    digits = 0 if middle >= 100 else 2 if middle < 10 else 1
    form = '{:.2f}x' if row['kind'] == 'ratio' else '{:+.2f} ' + row['unit']
    if row['kind'] == 'ratio' and row['result'] < 0.1:
        form = '{:.3f}x'
    return [row['figure'], row['peer'], '{} {}'.format(spread(row['tako'], digits), row['unit']),
            '{} {}'.format(spread(row['values'], digits), row['unit']), form.format(row['result']),
            '' if row['bound'] is None else form.format(row['bound']), verdict(row)]


def print_table(title, head, rows):
    """Print a table in Markdown with aligned columns."""
    widths = [max(len(row[column]) for row in [head] + rows) for column in range(len(head))]
    print('\n' + title + '\n')
    for row in [head, ['-' * width for width in widths]] + rows:
        print('| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |')
    sys.stdout.flush()


# ---- the rows

def python(code, *options):
    """Return a function that measures the seconds of a Python process with a line of code."""
    return lambda: rig.measure([rig.PYTHON] + list(options) + ['-c', code]).seconds


def seconds(command, environ=None, before=None):
    """Return a function that calls before(), and measures the seconds of a command."""
    def once():
        if before is not None:
            before()
        return rig.measure(command, environ).seconds
    return once


def printed(command):
    """Return a function that returns the number a command prints, or None if it exits with 3."""
    def once():
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=rig.PROJECT,
                              env=dict(rig.ENVIRON, PYTHONPATH=rig.PROJECT))
        if done.returncode == 3:
            return None
        if done.returncode:
            raise SystemExit('{} failed'.format(command))
        return float(done.stdout.decode())
    return once


def ed25519(_):
    """The verification of a signature."""
    def verify(name):
        return printed([sys.executable, os.path.join(rig.BENCH, 'verify_speed.py'), name])
    peers = [Peer('pure25519', verify('pure25519'), 1 / 5),
             Peer('ecdsa', verify('ecdsa'), 1 / 2.5),
             Peer("RFC 8032's code (larzcrypt)", verify('larzcrypt'), 1 / 2.5),
             Peer('PyNaCl (libsodium, in C)', verify('pynacl'))]
    yield Contest('Ed25519 verify, from bytes to a verdict', verify('tako'), peers, rounds=7,
                  factor=1)


FIRST_VERIFY = """
import hashlib, time, tako
arguments = tako.decode_base64({!r}, 32), {!r}, {!r}
begin = time.perf_counter()
assert tako.ed25519_verify(*arguments)
print(time.perf_counter() - begin)
"""


def first_verify(_):
    """The first verification of a process."""
    message = tako.MANIFEST_HEADER + b'\n'
    code = FIRST_VERIFY.format(rig.PUBLIC_KEY, message, tako.ed25519_sign(rig.SEED, message))
    bound = 0.15 if sys.version_info >= (3, 8) else 0.2
    yield Contest('first verify in a fresh process', printed([rig.PYTHON, '-c', code]),
                  [Peer('python3 -c pass', python('pass'), bound)], rounds=25)


def start(bench):
    """The start of fetch without an update, and of fetch --init: installed, and as a bare file."""
    bench.publish('small', bench.image('small.img', SMALL_BYTES))
    config = bench.client('small', bench.url('small'))
    secure = bench.client('small-tls', bench.url('small', 'tls'))
    rig.measure(bench.installed + ['fetch', config])
    rig.measure(bench.installed + ['fetch', secure], bench.trust)
    naive = naive_client(bench, 'naive', bench.image('small.img', SMALL_BYTES))
    rig.measure(naive)
    fetch = bench.installed + ['fetch', config]
    local = 'import argparse, configparser, hashlib'
    http = local + ', http.client'
    curl = 'curl -fsS --cacert {} -o {} {{}}'.format(bench.path('authority.pem'),
                                                     bench.path('curl.out'))
    without_site = 'the same without site (-IS), as the installed tako runs'
    yield Contest('no-op fetch, http, 1 MiB image', seconds(fetch), [
        Peer('python3 importing argparse, configparser, hashlib, http.client', python(http), 1.35),
        Peer(without_site, python(http, '-IS'), is_floor=True),
        Peer('naive shell script (curl, signify, sha256sum)', seconds(naive)),
        Peer('curl of the manifest alone', seconds(curl.format(bench.url('small/manifest'))))],
        rounds=25)
    fetch_tls = seconds(bench.installed + ['fetch', secure], bench.trust)
    curl_tls = seconds(curl.format(bench.url('small/manifest', 'tls')))
    yield Contest('no-op fetch, https, 1 MiB image', fetch_tls, [
        Peer('python3 importing those and ssl', python(http + ', ssl'), is_floor=True),
        Peer('curl of the manifest alone', curl_tls)], rounds=15)
    init = bench.installed + ['fetch', '--init', config]
    check = 'cd {} && sha256sum --status -c SHA256SUMS'.format(bench.path('client', 'naive'))
    yield Contest('fetch --init, 1 MiB image in place', seconds(init), [
        Peer('python3 importing argparse, configparser, hashlib', python(local), 1.5),
        Peer(without_site, python(local, '-IS'), is_floor=True),
        Peer('sha256sum -c (no signature)', seconds(check))], rounds=25)
    for title, options, floor, bound in (('no-op fetch, http', [], http, 1.35),
                                         ('fetch --init', ['--init'], local, 1.5)):
        command = ['fetch'] + options + [config]
        yield Contest(title + ', the bare file', seconds(bench.copied + command), [
            Peer('python3 importing ' + floor[len('import '):], python(floor), bound),
            Peer('the installed tako', seconds(bench.installed + command))], rounds=15)


def signature(bench):
    """A process that verifies a signed list, and an image of 1 MiB in it."""
    image = bench.image('small.img', SMALL_BYTES)
    bench.publish('signed', image)
    naive_client(bench, 'signify', image)
    sums = bench.path('served', 'signify')
    pair = bench.path('minisign')
    for arguments in (['-G', '-W', '-f', '-p', pair + '.pub', '-s', pair + '.sec'],
                      ['-S', '-s', pair + '.sec', '-m', os.path.join(sums, 'SHA256SUMS')]):
        subprocess.run(['minisign'] + arguments, check=True, stdout=subprocess.DEVNULL)
    by_signify = 'signify-openbsd -Vq -p {}.pub -m SHA256SUMS'.format(bench.path('signify'))
    by_minisign = 'minisign -Vqm SHA256SUMS -p {}.pub'.format(pair)
    both = 'cd {} && {{}} && sha256sum --status -c SHA256SUMS'.format(shlex.quote(sums))
    verify = bench.installed + ['verify', '-p', rig.PUBLIC_KEY, bench.path('served', 'signed')]
    yield Contest('verify a published directory, 1 MiB image', seconds(verify), [
        Peer('signify -V && sha256sum -c', seconds(both.format(by_signify))),
        Peer('minisign -V && sha256sum -c', seconds(both.format(by_minisign)))], rounds=15)


def naive_client(bench, name, image):
    """Sign and serve an image for naive.sh. Return the command that installs it in client/NAME."""
    served, pair = bench.path('served', name), bench.path('signify')
    os.makedirs(served, exist_ok=True)
    os.makedirs(bench.path('client', name), exist_ok=True)
    if not os.path.exists(pair + '.pub'):
        generate = ['signify-openbsd', '-G', '-n', '-p', pair + '.pub', '-s', pair + '.sec']
        subprocess.run(generate, check=True)
    if not os.path.exists(os.path.join(served, 'image')):
        os.link(image, os.path.join(served, 'image'))
    sign = 'cd {} && sha256sum image > SHA256SUMS && signify-openbsd -S -s {}.sec -m SHA256SUMS'
    subprocess.run(sign.format(shlex.quote(served), shlex.quote(pair)), shell=True, check=True)
    return ['sh', os.path.join(rig.BENCH, 'naive.sh'), bench.url(name), pair + '.pub',
            bench.path('client', name)]


def large(bench):
    """The download of an image of 1 GiB, verified and durable."""
    image = bench.image('large.img', LARGE_BYTES)
    bench.publish('large', image)
    config = bench.client('large', bench.url('large'))
    naive = naive_client(bench, 'naive-large', image)
    url = bench.url('naive-large/image')

    def download(command, name):
        return seconds(command, None, lambda: bench.empty('client', name))
    curl = 'cd {} && curl -fsS -o f {} && sync f && '.format(
        shlex.quote(bench.path('client', 'curl')), url)
    fetch = bench.installed + ['fetch', config]
    yield Contest('fetch 1 GiB, http, verified, durable', download(fetch, 'large'), [
        Peer('curl && sync && sha256sum', download(curl + 'sha256sum f', 'curl'), 0.6),
        Peer('curl && sync && openssl dgst -sha256',
             download(curl + 'openssl dgst -sha256 f', 'curl'), 0.95),
        Peer('naive shell script (not durable)', download(naive, 'naive-large'))],
        rounds=5, unit='s', factor=1)
    bench.empty('client', 'curl')
    bench.empty('client', 'naive-large')


def memory(bench):
    """The peak memory of each command with an image of 1 GiB and with one of 1 MiB."""
    configs = {}
    for name, size in (('small', SMALL_BYTES), ('large', LARGE_BYTES)):
        if not os.path.exists(bench.path('served', name, 'manifest')):
            bench.publish(name, bench.image(name + '.img', size))
        configs[name] = bench.client(name, bench.url(name))
        rig.measure(bench.installed + ['fetch', configs[name]])
    store = bench.store(bench.path('served', 'again'), '', '1.0')

    def commands(name):
        fetch = bench.installed + ['fetch', configs[name]]
        verify = ['verify', '-p', rig.PUBLIC_KEY, bench.path('served', name)]
        return (('fetch', fetch, lambda: bench.empty('client', name)),
                ('no-op fetch', fetch, None),
                ('fetch --init', bench.installed + ['fetch', '--init', configs[name]], None),
                ('store', [word or bench.path(name + '.img') for word in store],
                 lambda: bench.empty('served', 'again')),
                ('verify', bench.installed + verify, None))

    def peak(command, before):
        def once():
            if before:
                before()
            return rig.measure(command).peak
        return once
    for (figure, *with_large), (_, *with_small) in zip(commands('large'), commands('small')):
        yield Contest('peak memory of {}, 1 GiB image'.format(figure), peak(*with_large),
                      [Peer('the same with 1 MiB', peak(*with_small), 8)],
                      rounds=3, unit='MB', factor=1 / MB, kind='more')
    bench.empty('served', 'again')


def entries(bench):
    """A manifest of 100,000 entries beside one of 10."""
    many, few = (growth.Publication(bench, count) for count in (100000, 10))
    for figure in growth.MANIFEST_FIGURES:
        yield Contest('{}, 100,000 entries'.format(figure), many.once(figure),
                      [Peer('the same with 10', few.once(figure), 1.5)],
                      rounds=3, unit='s', factor=1, kind='more')


CONTESTS = {'ed25519': ed25519, 'first-verify': first_verify, 'start': start,
            'signature': signature, 'large': large, 'memory': memory, 'entries': entries}
TABLES = {'manifests': growth.manifests, 'images': growth.images, 'configs': growth.configs,
          'fleet': fleet.fleet}
HEAD = ['figure', 'peer', 'Tako: median (min-max)', 'peer: median (min-max)', 'Tako / peer',
        'bound', '']


def main():
    names = list(CONTESTS) + list(TABLES)
    chosen = os.environ.get('BENCH_ROWS', '').split() or names
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise SystemExit('invalid BENCH_ROWS: {!r} (use any of: {})'.format(unknown[0],
                                                                             ' '.join(names)))
    # SIGTERM also ends the server, and removes the scratch directory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.monotonic()
    results = {'python': '{}.{}'.format(*sys.version_info), 'versions': rig.machine(),
               'rows': [], 'tables': {}}
    print('\n'.join('{:12}{}'.format(*each) for each in results['versions']))
    with rig.Rig() as bench:
        for name, contests in CONTESTS.items():
            if name in chosen:
                rows = [row for contest in contests(bench) for row in contest.rows()]
                results['rows'] += rows
                print_table(name, HEAD, [cells(row) for row in rows])
        for name, table in TABLES.items():
            if name in chosen:
                for title, head, rows in table(bench):
                    results['tables'][title] = {'head': head, 'rows': rows}
                    print_table(title, head, [[str(cell) for cell in row] for row in rows])
    if len(chosen) == len(names):
        os.makedirs(RESULTS, exist_ok=True)
        with open(os.path.join(RESULTS, results['python'] + '.json'), 'w') as stream:
            json.dump(results, stream, indent=1)
    bounded = [row for row in results['rows']
               if row['bound'] is not None and row['result'] is not None]
    missed = [row for row in bounded if row['result'] > row['bound']]
    print('\n{} of {} bounds reached, in {:.0f} seconds'.format(
        len(bounded) - len(missed), len(bounded), time.monotonic() - begin))
    for row in missed:
        print('MISSED: {}, against {}'.format(row['figure'], row['peer']))
    return int(bool(missed))


if __name__ == '__main__':
    sys.exit(main())

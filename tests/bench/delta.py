"""make bench-delta: measures the cost of an update with Tako and with its peers.

    PYTHONPATH=. python3 tests/bench/delta.py [SEED]

All peers update the same real images (see images.sh) from the same nginx on loopback, in turn. Each
result is compared with the image byte for byte. Afterwards, the program measures updates over a
line with a delay, and kills updates. At the end it checks each bound that Tako promises. The exit
code is 1 if a bound is missed. Root is needed to install packages and to make the images.

    DELTA_CACHE     directory of images and of all else (build/bench-delta; needs 10 GB)
    DELTA_FORMATS   formats of images: sq-gzip sq-zstd sq-xz erofs erofs-lz4 ext4 tar tar.gz zip
    DELTA_PAIRS     pairs of images: small big
    DELTA_PEERS     curl casync-16k casync-64k zsync zchunk xdelta3 bsdiff tako-full tako-ranges
                    tako-patch tako-metered
    DELTA_ROUNDS    updates of each peer, whose median times count (3); one for a peer that takes
                    longer than 5 seconds
    DELTA_KILLS     kills of updates over the line (50)
    TAKO            the tako.py to run, with this Python
"""
import collections
import hashlib
import itertools
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time

import measure
import peers

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.abspath(os.environ.get('DELTA_CACHE')
                        or os.path.join(HERE, '..', '..', 'build', 'bench-delta'))
FORMATS = os.environ.get('DELTA_FORMATS', 'sq-gzip sq-zstd sq-xz erofs erofs-lz4 ext4 '
                                          'tar tar.gz zip').split()
PAIRS = os.environ.get('DELTA_PAIRS', 'small big').split()
PEERS = os.environ.get('DELTA_PEERS', 'curl casync-16k casync-64k zsync zchunk xdelta3 bsdiff '
                                      'tako-full tako-ranges tako-patch tako-metered').split()
ROUNDS = int(os.environ.get('DELTA_ROUNDS', '3'))
KILLS = int(os.environ.get('DELTA_KILLS', '50'))

SLOW_SECONDS = 5
ONE_WAY_MS = 25
MBIT = 100                              # rate of the slower line
LINE_FORMATS = 'sq-gzip', 'sq-zstd'
LINE_PEERS = 'curl', 'zsync', 'tako-full', 'tako-ranges'
# images with streams that zlib or liblzma can make again; for updates over lines of such rates
REBUILT_FORMATS = 'sq-gzip', 'sq-xz', 'tar.gz', 'zip'
RATES_MBIT = 10, 50, 100
RATE_PEERS = 'zsync', 'xdelta3', 'bsdiff', 'tako-patch', 'tako-metered'
LATE_SECONDS = 0.5                      # bytes that nginx sent this long before a kill may be lost

# the bounds
RANGES_TO_CASYNC = 0.95                 # for squashfs; for uncompressed images, use a patch
RANGES_TO_ZSYNC = 1.10
PATCH_TO_OTHERS = 1.00
METERED_TO_BSDIFF = {'sq-gzip': 0.11, 'sq-xz': 0.14, 'tar.gz': 0.11, 'zip': 0.11}
PATCH_TO_FASTEST = 1.00                 # time over lines of the rates above
CLIENT_MEMORY_MB = 64
LINE_TO_ZSYNC = 1.3
AGAIN_SHARE = 0.02                      # of the bytes before a kill, for gaps within a range

Cost = collections.namedtuple('Cost', 'sent requests wall cpu memory')


class Row:
    """One peer on one pair of images.

    making: the Run that made what its updates need, or None. costs: the Costs of its updates.
    fault: an error message, or None.
    """

    def __init__(self):
        self.making = None
        self.costs = []
        self.fault = None

    def get(self, field):
        """Return the median of a field of the costs, or the maximum of bytes and of memory."""
        if self.fault is not None or not self.costs:
            return None
        found = [getattr(cost, field) for cost in self.costs]
        return max(found) if field in ('sent', 'memory') else statistics.median(found)

    def is_due(self):
        """Return whether another update counts: not after a fault, nor after a slow one."""
        return self.fault is None and not (self.costs and self.costs[0].wall > SLOW_SECONDS)

    def made(self, field):
        return None if self.making is None or self.making.fault else getattr(self.making, field)


class Bounds:
    """The promised bounds: how many hold, which are missed, and which were not measured."""

    def __init__(self):
        self.held = 0
        self.missed = []
        self.open = []

    def check(self, what, value, bound):
        """Check that a value is at most its bound. If either is None, it was not measured."""
        if value is None or bound is None:
            self.open.append(what)
        elif value <= bound:
            self.held += 1
        else:
            self.missed.append('{}: {:.2f}, not at most {:.2f}'.format(what, value, bound))

    def check_fault(self, what, fault):
        """Check that there is no fault."""
        if fault is None:
            self.held += 1
        else:
            self.missed.append('{}: {}'.format(what, fault))

    def report(self):
        for what in self.open:
            print('not measured: ' + what)
        for what in self.missed:
            print('MISSED: ' + what)
        print('{} bounds hold, {} are missed, {} were not measured'.format(
            self.held, len(self.missed), len(self.open)))


def image(pair, form):
    return os.path.join(CACHE, 'img', '{}.{}'.format(pair, form))


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def is_same(path, other):
    return subprocess.call(['cmp', '-s', path, other]) == 0


# ---- packages and images

def missing_packages():
    command = ['dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\n'] + peers.PACKAGES
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          universal_newlines=True)
    installed = {line.split()[0] for line in done.stdout.splitlines()
                 if line.endswith(' installed')}
    return sorted(set(peers.PACKAGES) - installed)


def install():
    """Install the missing packages, and start none of their services."""
    missing = missing_packages()
    if not missing:
        return
    if os.getuid() != 0:
        raise SystemExit('cannot measure: only root can install ' + ' '.join(missing))
    policy = '/usr/sbin/policy-rc.d'
    is_ours = not os.path.exists(policy)
    if is_ours:
        with open(os.open(policy, os.O_WRONLY | os.O_CREAT, 0o755), 'w') as stream:
            stream.write('#!/bin/sh\nexit 101\n')
    try:
        environ = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
        subprocess.run(['apt-get', '-q', 'update'], check=True, env=environ)
        subprocess.run(['apt-get', '-qy', '--no-install-recommends', 'install'] + missing,
                       check=True, env=environ)
    except subprocess.CalledProcessError:
        raise SystemExit('cannot measure: apt cannot install ' + ' '.join(missing))
    finally:
        if is_ours:
            os.unlink(policy)


def make_images():
    if all(os.path.exists(image(pair, form)) for form in FORMATS for pair in ['old'] + PAIRS):
        return
    if os.getuid() != 0:
        raise SystemExit('cannot measure: only root can make the images in ' + CACHE)
    print('making the images in ' + CACHE, flush=True)
    os.makedirs(CACHE, exist_ok=True)
    with open(os.path.join(CACHE, 'images.log'), 'w') as log:
        command = [os.path.join(HERE, 'images.sh'), CACHE]
        code = subprocess.call(command, stdout=log, stderr=log,
                               env=dict(os.environ, FORMATS=' '.join(FORMATS)))
    if code:
        raise SystemExit('cannot measure: images.sh failed; see {}/images.log'.format(CACHE))


# ---- measurements

def begin(peer, form, pair, web):
    """Make what this peer's updates need. Return a Row without updates."""
    row = Row()
    peer.begin(image('old', form), image(pair, form))
    try:
        row.making = peer.publish(web.port)
        row.fault = row.making.fault and 'making: ' + row.making.fault
    except subprocess.CalledProcessError as error:
        row.fault = 'before making: {}'.format(error)
    return row


def update_once(peer, web, port, new):
    """Update a client once from this port. Return the Cost, and a fault or None."""
    peer.prepare(port)
    os.sync()                           # so that it does not wait for earlier writes
    web.mark()
    run = measure.run(peer.update(port), peer.client, peers.UPDATE_SECONDS)
    requests = web.requests()
    sent = sum(request.sent for request in requests)
    cost = Cost(sent, len(requests), run.wall, run.cpu, run.memory)
    if run.fault is not None:
        return cost, run.fault
    return cost, None if is_same(peer.result, new) else 'the result is not the image'


def measure_pair(form, pair, chosen, web, by_rate):
    """Update one pair with all peers in turn. Return the Rows by peer.

    Add updates over lines to by_rate: (format, pair, Mbit/s) -> Rows by peer.
    """
    rows = {peer.name: begin(peer, form, pair, web) for peer in chosen}
    for _ in range(ROUNDS):
        for peer in chosen:
            row = rows[peer.name]
            if row.is_due():
                cost, row.fault = update_once(peer, web, web.port, image(pair, form))
                row.costs.append(cost)
    for mbit in RATES_MBIT if form in REBUILT_FORMATS else ():
        by_rate[form, pair, mbit] = measure_rate(form, pair, mbit, chosen, rows, web)
    for peer in chosen:
        peer.end()
        print('  {:9} {:5} {:12} {}'.format(form, pair, peer.name, describe(rows[peer.name])),
              flush=True)
    return rows


def measure_rate(form, pair, mbit, chosen, rows, web):
    """Update one pair over a line of a rate, which Tako knows from before. Return the new Rows."""
    found = {peer.name: Row() for peer in chosen if peer.name in RATE_PEERS}
    with measure.Delay(web, ONE_WAY_MS, mbit) as line:
        for _ in range(ROUNDS):
            for peer in chosen:
                row = found.get(peer.name)
                if row is not None and rows[peer.name].fault is None and row.is_due():
                    peer.rate = mbit * 125000
                    cost, row.fault = update_once(peer, web, line.port, image(pair, form))
                    row.costs.append(cost)
                    peer.rate = None
    print('  {:9} {:5} at {} Mbit/s, s: {}'.format(form, pair, mbit, ', '.join(
        '{} {:.2f}'.format(name, row.get('wall')) for name, row in found.items()
        if row.get('wall') is not None)), flush=True)
    return found


def describe(row):
    if row.fault is not None:
        return row.fault
    return ('{:8.2f} MB in {:.0f} requests, {:.2f} s, {:.0f} MB of memory; '
            'made in {:.1f} s of CPU').format(
                row.get('sent') / measure.MB, row.get('requests'), row.get('wall'),
                row.get('memory'), row.making.cpu)


def measure_lines(chosen, web):
    """Measure big updates of squashfs over lines with a delay.

    Return (format, Mbit/s or None for no limit) -> Rows by peer.
    """
    found = {}
    for form in LINE_FORMATS:
        if form not in FORMATS or 'big' not in PAIRS:
            continue
        made = {peer.name: begin(peer, form, 'big', web).fault for peer in chosen}
        for mbit in (None, MBIT):
            with measure.Delay(web, ONE_WAY_MS, mbit) as line:
                found[form, mbit] = measure_line(form, chosen, made, web, line.port)
        for peer in chosen:
            peer.end()
    return found


def measure_line(form, chosen, made, web, port):
    """Measure big updates over one line. Return the Rows by peer. made: peer -> fault."""
    rows = {peer.name: Row() for peer in chosen}
    for _ in range(ROUNDS):
        for peer in chosen:
            row = rows[peer.name]
            row.fault = row.fault or made[peer.name]
            if row.fault is None:
                cost, row.fault = update_once(peer, web, port, image('big', form))
                row.costs.append(cost)
    return rows


# ---- kills

class Kills:
    """Updates over a line that are killed at random moments, each followed by a whole run.

    killed: how many. In bytes: whole: of an update without a kill; before: sent before kills;
    completing: sent to the runs after kills; finished: of ranges complete before kills; again: of
    those, what was downloaded again.
    """
    def __init__(self, peer, web, form):
        self.peer = peer
        self.web = web
        self.new = image('big', form)
        self.digest = digest_of(self.new)
        self.digests = {self.digest, digest_of(image('old', form))}
        self.faults = []
        self.whole = self.killed = self.before = self.completing = self.finished = self.again = 0

    def run(self, count, chance):
        """Kill `count` updates, or stop at the first fault."""
        with measure.Delay(self.web, ONE_WAY_MS, MBIT) as line:
            cost, fault = update_once(self.peer, self.web, line.port, self.new)
            self.whole = cost.sent
            self.note(fault)
            while self.killed < count and not self.faults:
                self.kill_one(line.port, chance.uniform(0, cost.wall))

    def note(self, fault):
        if fault is not None:
            self.faults.append(fault)

    def kill_one(self, port, seconds):
        """Kill an update after some seconds, and complete it by another run."""
        self.peer.prepare(port)
        self.web.mark()
        process = subprocess.Popen(self.peer.update(port), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        process.kill()
        killed_at = time.time()
        if process.wait() >= 0:
            return                      # it ended before the kill
        self.killed += 1
        requests = self.web.requests()
        self.before += sum(request.sent for request in requests)
        if digest_of(self.peer.result) not in self.digests:
            self.note('after a kill at {:.2f} s latest is no intact image'.format(seconds))
        self.complete(port, self.parts_of(request for request in requests
                                          if request.ended < killed_at - LATE_SECONDS))

    def complete(self, port, received):
        """Run an update again. received: the parts of the image from before the kill."""
        self.web.mark()
        run = measure.run(self.peer.update(port), self.peer.client, peers.UPDATE_SECONDS)
        requests = self.web.requests()
        self.note(run.fault)
        self.completing += sum(request.sent for request in requests)
        self.finished += sum(end - first for first, end in received)
        self.again += overlap(received, self.parts_of(requests))
        if not is_same(self.peer.result, self.new):
            self.note('the run after a kill did not converge')

    def parts_of(self, requests):
        """Return the sent parts of the new image as (first byte, byte after the last)."""
        size = os.path.getsize(self.new)
        mine = [request for request in requests
                if request.uri.endswith(self.digest) and request.status in (200, 206)]
        return [(first, min(end, size)) for request in mine for first, end in request.ranges]


def overlap(parts, others):
    """Return how many bytes of `parts` are in `others`, too."""
    return sum(max(0, min(end, other_end) - max(first, other_first))
               for first, end in parts for other_first, other_end in others)


# ---- tables and bounds

def table(title, results, columns, get, ratios=()):
    """Print a table with a row for each pair and a column for each peer.

    get: function that returns the value of a Row. ratios: (title, peer, peer to divide by).
    """
    print('\n' + title)
    print(' ' * 15 + ''.join('{:>13}'.format(name) for name in columns)
          + ''.join('{:>16}'.format(name) for name, _, _ in ratios))
    for (form, pair), rows in results.items():
        values = {name: get(rows[name]) if name in rows else None for name in columns}
        cells = ['-' if values[name] is None else '{:.2f}'.format(values[name])
                 for name in columns]
        ratio_cells = [format_ratio(values.get(one), values.get(other)) for _, one, other in ratios]
        print('{:9} {:5}'.format(form, pair) + ''.join('{:>13}'.format(cell) for cell in cells)
              + ''.join('{:>16}'.format(cell) for cell in ratio_cells))


def format_ratio(value, other):
    return '-' if value is None or other is None else '{:.3f}'.format(value / other)


def in_mb(row):
    sent = row.get('sent')
    return None if sent is None else sent / measure.MB


def print_tables(results, chosen):
    names = [peer.name for peer in chosen]
    ratios = (('ranges:casync16', 'tako-ranges', 'casync-16k'),
              ('ranges:zsync', 'tako-ranges', 'zsync'),
              ('patch:bsdiff', 'tako-patch', 'bsdiff'),
              ('patch:xdelta3', 'tako-patch', 'xdelta3'),
              ('metered:bsdiff', 'tako-metered', 'bsdiff'))
    table('Bytes that nginx sent for an update, bodies and headers, MB', results, names, in_mb,
          ratios)
    table('Requests', results, names, lambda row: row.get('requests'))
    table('Time of the update, s', results, names, lambda row: row.get('wall'))
    table('CPU of the update, s', results, names, lambda row: row.get('cpu'))
    table('Peak memory of the update, MB', results, names, lambda row: row.get('memory'))
    table('CPU of making what the update needs, s', results, names, lambda row: row.made('cpu'))
    table('Peak memory of making it, MB', results, names, lambda row: row.made('memory'))
    for (form, pair), rows in results.items():
        for name, row in rows.items():
            if row.fault is not None:
                print('{} on {} {}: {}'.format(name, form, pair, row.fault))


def print_rates(by_rate):
    if not by_rate:
        return
    print('\nUpdates over a line with a round trip of {} ms, s'.format(2 * ONE_WAY_MS))
    print(' ' * 28 + ''.join('{:>14}'.format(name) for name in RATE_PEERS))
    for (form, pair, mbit), rows in by_rate.items():
        times = [rows[name].get('wall') if name in rows else None for name in RATE_PEERS]
        print('{:9} {:5} {:4} Mbit/s '.format(form, pair, mbit)
              + ''.join('{:>14}'.format('-' if time is None else '{:.2f}'.format(time))
                        for time in times))


def print_lines(lines, chosen):
    if not lines:
        return
    print('\nBig update of squashfs over a line with a round trip of {} ms, s'.format(
        2 * ONE_WAY_MS))
    print(' ' * 24 + ''.join('{:>12}'.format(peer.name) for peer in chosen))
    for (form, mbit), rows in lines.items():
        cells = ['failed' if rows[peer.name].fault else '{:.2f}'.format(rows[peer.name].get('wall'))
                 for peer in chosen]
        print('{:9} {:14}'.format(form, 'unbounded' if mbit is None else '{} Mbit/s'.format(mbit))
              + ''.join('{:>12}'.format(cell) for cell in cells))


KILLS_TEXT = """
{killed} updates were killed at random moments (seed {seed}), and completed by another run.
nginx sends {whole:.2f} MB to an update without a kill. It sent {before:.1f} MB to killed updates,
and {completing:.1f} MB to the runs that completed them: {share:.2f} times as much as without kills.
Of {finished:.1f} MB of ranges that were complete before the kills, {again:.2f} MB were downloaded
again."""


def print_kills(kills, seed):
    counts = {name: getattr(kills, name) / measure.MB
              for name in ('whole', 'before', 'completing', 'finished', 'again')}
    share = (kills.before + kills.completing) / max(1, kills.killed * kills.whole)
    print(KILLS_TEXT.format(seed=seed, killed=kills.killed, share=share, **counts))


def check_pair(bounds, where, rows):
    """Check the bounds of one pair."""
    def get(name, field, factor=1.0):
        value = rows[name].get(field) if name in rows else None
        return None if value is None else value * factor

    form = where.split()[0]
    if form in METERED_TO_BSDIFF:
        bounds.check(where + ': MB of tako-metered against bsdiff',
                     get('tako-metered', 'sent', 1 / measure.MB),
                     get('bsdiff', 'sent', METERED_TO_BSDIFF[form] / measure.MB))
        bounds.check(where + ': MB of memory of tako-metered', get('tako-metered', 'memory'),
                     CLIENT_MEMORY_MB)
    for name in ('tako-full', 'tako-ranges', 'tako-patch', 'tako-metered'):
        if name in rows:
            bounds.check_fault('{}: {} gives the image'.format(where, name), rows[name].fault)
    ranges = get('tako-ranges', 'sent', 1 / measure.MB)
    if where.startswith('sq-'):
        bounds.check(where + ': MB of ranges against casync 16K', ranges,
                     get('casync-16k', 'sent', RANGES_TO_CASYNC / measure.MB))
        bounds.check(where + ': MB of ranges against zsync', ranges,
                     get('zsync', 'sent', RANGES_TO_ZSYNC / measure.MB))
    for other in ('bsdiff', 'xdelta3'):
        bounds.check('{}: MB of patch against {}'.format(where, other),
                     get('tako-patch', 'sent', 1 / measure.MB),
                     get(other, 'sent', PATCH_TO_OTHERS / measure.MB))
    times = [time for time in (get('zsync', 'wall'), full_time(rows)) if time is not None]
    for name in ('tako-ranges', 'tako-patch'):
        bounds.check('{}: seconds of {} against zsync and the whole'.format(where, name),
                     get(name, 'wall'), max(times, default=None))
        bounds.check('{}: MB of memory of {}'.format(where, name), get(name, 'memory'),
                     CLIENT_MEMORY_MB)


def full_time(rows):
    """Return the shortest time of a download of the whole image."""
    times = [rows[name].get('wall') for name in ('curl', 'tako-full') if name in rows]
    return min((time for time in times if time is not None), default=None)


def check_rates(bounds, by_rate):
    for (form, pair, mbit), rows in by_rate.items():
        times = [rows[name].get('wall') for name in ('zsync', 'xdelta3', 'bsdiff') if name in rows]
        times = [time for time in times if time is not None]
        where = '{} {} at {} Mbit/s'.format(form, pair, mbit)
        for name in ('tako-patch', 'tako-metered'):
            if name in rows:
                bounds.check_fault('{}: {} gives the image'.format(where, name), rows[name].fault)
        bounds.check(where + ': seconds of tako-patch against the fastest peer',
                     rows['tako-patch'].get('wall') if 'tako-patch' in rows else None,
                     PATCH_TO_FASTEST * min(times) if times else None)


def check_lines(bounds, lines):
    for (form, mbit), rows in lines.items():
        rate = '' if mbit is None else ' of {} Mbit/s'.format(mbit)
        where = '{} over the line{}'.format(form, rate)
        ranges, zsync = (rows[name].get('wall') if name in rows else None
                         for name in ('tako-ranges', 'zsync'))
        if 'tako-ranges' in rows:
            bounds.check_fault(where + ': tako-ranges gives the image', rows['tako-ranges'].fault)
        bounds.check(where + ': seconds of ranges against zsync', ranges,
                     zsync and LINE_TO_ZSYNC * zsync)
        if mbit is not None:
            bounds.check(where + ': seconds of ranges against the whole', ranges, full_time(rows))


def check_kills(bounds, kills):
    bounds.check_fault('kills: latest is intact, and the next run completes the update',
                       kills.faults[0] if kills.faults else None)
    bounds.check('kills: MB of complete ranges that are downloaded again',
                 kills.again / measure.MB, AGAIN_SHARE * kills.finished / measure.MB)
    bounds.check_fault('kills: some ranges were complete before',
                       None if kills.finished else 'there were none, so this run shows nothing')


# ---- the run

def print_machine():
    with open('/proc/cpuinfo') as stream:
        models = [line.split(':', 1)[1].strip() for line in stream if line.startswith('model name')]
    print('{} x {}, {:.1f} GB of memory free, Linux {}, Python {}'.format(
        os.cpu_count(), (models or [platform.machine()])[0], peers.free_memory() / 1e9,
        platform.release(), platform.python_version()))
    command = ['dpkg-query', '-W', '-f', '${Package} ${Version}, '] + peers.PACKAGES
    done = subprocess.run(command, stdout=subprocess.PIPE, universal_newlines=True)
    print(done.stdout.rstrip(', '))
    for pair in PAIRS:
        with open(os.path.join(CACHE, 'trees', pair + '.updated')) as stream:
            updated = [line.split()[0].split(':')[0] for line in stream]
        print('{}: {} packages updated: {}'.format(pair, len(updated), ' '.join(updated)))
    print(flush=True)


def choose_peers(web):
    known = peers.all_peers(web.www, os.path.join(CACHE, 'clients'))
    unknown = [name for name in PEERS if name not in known]
    if unknown:
        raise SystemExit('invalid DELTA_PEERS: {!r} (use any of: {})'.format(
            unknown[0], ' '.join(known)))
    if any(name.startswith('tako-') for name in PEERS) and not peers.can_update():
        raise SystemExit('cannot measure: {} has no differential updates'.format(peers.TAKO))
    return [known[name] for name in PEERS]


def kill_updates(web, chosen, chance):
    """Kill Tako's updates. Return the Kills, or None if what they need is not chosen."""
    peer = next((peer for peer in chosen if peer.name == 'tako-ranges'), None)
    form = next((form for form in LINE_FORMATS[::-1] if form in FORMATS), None)
    if peer is None or form is None or 'big' not in PAIRS or not KILLS:
        return None
    fault = begin(peer, form, 'big', web).fault
    kills = Kills(peer, web, form)
    kills.note(fault)
    if fault is None:
        kills.run(KILLS, chance)
    peer.end()
    return kills


def main(arguments):
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    for name in [name for name in os.environ if name.lower().endswith('_proxy')]:
        del os.environ[name]
    seed = int(arguments[0]) if arguments else random.SystemRandom().randrange(10**6)
    install()
    make_images()
    print_machine()
    bounds = Bounds()
    with measure.Nginx(os.path.join(CACHE, 'nginx')) as web:
        chosen = choose_peers(web)
        results, by_rate = collections.OrderedDict(), collections.OrderedDict()
        for form, pair in itertools.product(FORMATS, PAIRS):
            results[form, pair] = measure_pair(form, pair, chosen, web, by_rate)
        print_tables(results, chosen)
        print_rates(by_rate)
        far = [peer for peer in chosen if peer.name in LINE_PEERS]
        lines = measure_lines(far, web)
        print_lines(lines, far)
        kills = kill_updates(web, chosen, random.Random(seed))
        if kills is not None:
            print_kills(kills, seed)
    shutil.rmtree(os.path.join(CACHE, 'clients'), ignore_errors=True)
    for (form, pair), rows in results.items():
        check_pair(bounds, '{} {}'.format(form, pair), rows)
    check_rates(bounds, by_rate)
    check_lines(bounds, lines)
    if kills is not None:
        check_kills(bounds, kills)
    print()
    bounds.report()
    return 1 if bounds.missed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

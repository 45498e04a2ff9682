"""Power cuts on real file systems, at random moments and after each step, and the order of syncs.

After each cut and the replay of the log, the promise holds, all that was reported as done is on the
disk, and one ordinary run completes the rest.
"""
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import namedtuple

import fake_systemd
import origin
import tako

from kernel import calls, disks, flows, order
from suite import Suite, require_root

SIZE = 400000                           # bytes of each image
RATE = 1 << 21                          # bytes a second of a download
PAUSE_SECONDS = 0.03                    # before each range, and between the pieces that store reads
PIECES = 8
# cuts at random moments on each file system, beside those after each step
CUTS = {'first': 60, 'stamped': 60, 'update': 70, 'delta': 130, 'patch': 60,
        'recompression': 60, 'rollback': 60, 'repair': 10, 'store': 120, 'first store': 30}
CUTS_MIN = 100                          # of each kind of flow, if the time is not limited
CUTS_AT_THE_END = 5                     # right after the exit of each flow on each file system
PROBE = 'store/' + tako.PROBE           # fetch tries its rename before the download
# the order of renames
NAMES = {
    'first': ['manifest', 'store/image', '.state', '.history', 'latest', '.state'],
    'stamped': ['manifest', 'stamp', 'store/image', '.state', '.history', 'latest', '.state'],
    'update': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
              '.history', 'latest', '.state'],
    'patch': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
              '.history', 'latest', '.state'],
    'recompression': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
                      '.history', 'latest', '.state'],
    'delta': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
              '.history', 'latest', '.state', 'store/image.chunks'],
    'rollback': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
                 '.history', 'latest', '.history', '.state', 'latest', '.history', '.state',
                 '.history'],
    'repair': [PROBE, 'store/image', 'store/image.chunks', '.state'],
    'store': [PROBE, 'store/image', 'store/image.chunks', 'manifest'],
    'first store': ['store/image', 'store/image.chunks', 'manifest'],
}
STEPS = ('fsync', 'rename', 'symlink', 'mkdir', 'unlink')


class Cut(namedtuple('Cut', ('kind', 'flow', 'call', 'number', 'has_neighbour'))):
    """The moment of a cut: after the nth call of this name, at the end (0) or at random."""

    __slots__ = ()

    def __str__(self):
        when = 'at random' if self.number else 'at the end'
        if self.call:
            when = 'after {} {}'.format(self.call, self.number)
        return '{} on {}, {}{}'.format(self.flow, self.kind, when,
                                       ', with a neighbour' if self.has_neighbour else '')


class Power:
    """Runs of flows on disks whose power is cut."""

    def __init__(self, scratch, suite):
        self.scratch = scratch
        self.suite = suite
        self.kinds = []
        self.lengths = {}               # (kind, flow) -> seconds of a whole run
        self.done = {}                  # cuts that ended a run, by kind of disk and of flow
        self.traces = {flow.name: self.trace(flow) for flow in flows.FLOWS}

    def trace(self, flow):
        """Return the calls of a whole run and of the processes that it starts."""
        self.scratch.begin(flow)
        result, found = calls.record(self.scratch.run_flow(flow), self.scratch.path('trace'),
                                     calls.CHANGES, '-f')
        flows.check.assertEqual(flow.code(), result.code, result)
        return found

    def disk(self, kind, name):
        return disks.Disk(kind, self.scratch.path('{}.{}'.format(name, kind)), self.scratch.disk)

    def prepare(self):
        """Return the disks that flows begin with."""
        for kind in disks.KINDS:
            fault = disks.fault_of_kind(kind, self.scratch.directory)
            if fault is not None:
                self.suite.skip(kind, fault)
                continue
            self.kinds.append(kind)
            for flow in {flow.begins: flow for flow in flows.FLOWS}.values():
                disk = self.disk(kind, flow.begins)
                disk.make()
                with disk.mounted():
                    os.mkdir(self.scratch.root)
                    self.scratch.begin(flow)

    def cuts(self):
        for kind in self.kinds:
            for flow in flows.CHOSEN:
                for number in range(CUTS[flow.name]):
                    yield Cut(kind, flow, '', 1, bool(number % 2))
                for number in range(CUTS_AT_THE_END):
                    yield Cut(kind, flow, '', 0, bool(number % 2))
                for call, number in self.steps(flow):
                    for has_neighbour in (False, True):
                        yield Cut(kind, flow, call, number, has_neighbour)

    def steps(self, flow):
        """Yield the calls of a flow that change or sync the disk, as (name, number)."""
        counts = dict.fromkeys(STEPS, 0)
        for call in self.traces[flow.name]:
            if call.name in STEPS:
                counts[call.name] += 1
                if call.result() == 0:
                    yield call.name, counts[call.name]

    def start(self, flow, prefix=()):
        """Start a slow run of a flow."""
        if flow.config:
            return self.scratch.start(prefix, *self.scratch.arguments(flow))
        process = self.scratch.start(prefix, 'store', '-o', self.scratch.root, '-', '2.0',
                                     stdin=subprocess.PIPE)
        threading.Thread(target=self.feed, args=(process.stdin,), daemon=True).start()
        return process

    def feed(self, stream):
        try:
            with stream:
                for begin in range(0, len(self.scratch.two), len(self.scratch.two) // PIECES):
                    stream.write(self.scratch.two[begin:begin + len(self.scratch.two) // PIECES])
                    stream.flush()
                    time.sleep(PAUSE_SECONDS)
        except OSError:
            pass                        # the run was killed

    def length(self, kind, flow):
        """Return the seconds of a whole run, measured once."""
        if (kind, flow) not in self.lengths:
            disk = self.disk(kind, 'case')
            disk.copy(self.disk(kind, flow.begins))
            begin = len(self.scratch.server.requests)
            with disk.mounted():
                began = time.monotonic()
                process = self.start(flow)
                process.wait()
                length = time.monotonic() - began
                end(process)
            self.scratch.check_requests(flow, self.scratch.server.requests[begin:])
            self.lengths[kind, flow] = length
        return self.lengths[kind, flow]

    def run(self, cut):
        """Make one cut, and check the disk and the next run."""
        flow, scratch = cut.flow, self.scratch
        scratch.offer(flow)
        length = self.length(cut.kind, flow)
        disk = self.disk(cut.kind, 'case')
        disk.copy(self.disk(cut.kind, flow.begins))
        scratch.forget()
        with disk.mounted(cut.has_neighbour):
            code = self.run_and_cut(cut, disk, length)
        fake_systemd.reboot(scratch.directory)
        with disk.mounted(cut.has_neighbour):
            scratch.check_promise(flow)
            if code is not None:
                flows.check.assertEqual(flow.code(), code)
                scratch.check_done(flow)
            scratch.finish(flow)
        self.count(cut, code is not None)

    def count(self, cut, is_late):
        what = {'delta': 'delta', 'patch': 'delta', 'recompression': 'delta', 'store': 'store',
                'first store': 'store'}.get(cut.flow.name, 'fetch')
        self.suite.count('cuts after the exit' if is_late
                         else 'cuts of {} on {}'.format(what, cut.kind))
        self.done[what, cut.kind] = self.done.get((what, cut.kind), 0) + (not is_late)

    def run_and_cut(self, cut, disk, length):
        """Cut the power during a run. Return its exit code if it had ended."""
        trace = self.scratch.path('trace')
        prefix, neighbour = (), contextlib.nullcontext()
        if cut.call:
            prefix = calls.injected(trace, cut.call, 'signal=STOP:when={}'.format(cut.number))
        process = self.start(cut.flow, prefix)
        try:
            if cut.has_neighbour:
                neighbour = disks.neighbour(self.scratch.disk)
            with neighbour:
                if cut.call:
                    flows.check.assertTrue(calls.wait_until_stopped(process, trace),
                                           'the run did not reach this step')
                elif cut.number:
                    time.sleep(self.suite.chance.uniform(0, length))
                else:
                    process.wait()
                code = process.poll()
                disk.cut_power()
        finally:
            end(process)
        return code


def end(process):
    """Kill a run and all that it started, and wait for its end."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if process.stdin is None:
        process.communicate()
    else:
        process.wait()
        process.stdout.close()
        process.stderr.close()


def paced(handler):
    """Answer a request correctly, and an image slowly."""
    wanted = handler.headers.get('Range', '')
    if handler.path.startswith('/store/') and not handler.path.endswith('.chunks'):
        if not wanted or wanted.endswith('-'):
            origin.slowly(RATE)(handler)
            return
        time.sleep(PAUSE_SECONDS)
    handler.serve()


def check_order(power, suite):
    """Each rename follows the fsync of its file, and precedes only the fsync of its directory."""
    root, image = power.scratch.root, origin.digest_of(power.scratch.two)
    for flow in flows.FLOWS:
        found = power.traces[flow.name]
        with suite.case('order of {}'.format(flow)):
            flows.check.assertEqual([], order.objections(found, root))
            names = [name.replace(image, 'image') for name in order.names_given(found, root)]
            flows.check.assertEqual(NAMES[flow.name], names)
        for path in sorted(order.synced(found)):
            with suite.case('order of {} without its sync of {}'.format(flow, path)):
                wrong = order.without_sync(found, path)
                flows.check.assertNotEqual([], order.objections(wrong, root))
    with suite.case('order of an update after a killed one'):
        check_adoption(power.scratch, power.traces['update'])


def check_adoption(scratch, trace):
    """fetch syncs an image that another run renamed before latest names it."""
    flow = next(flow for flow in flows.FLOWS if flow.name == 'update')
    names = order.names_given(trace, scratch.root)
    scratch.begin(flow)
    number = names.index('latest') + 1
    kill = calls.injected(scratch.path('trace'), 'rename', 'signal=KILL:when={}'.format(number))
    killed = scratch.run_flow(flow)(kill)
    flows.check.assertEqual(-signal.SIGKILL, killed.code)
    result, found = calls.record(scratch.run_flow(flow), scratch.path('trace'), calls.CHANGES, '-f')
    flows.check.assertEqual(0, result.code, result)
    flows.check.assertEqual([], order.objections(found, scratch.root))
    flows.check.assertEqual(['.state.back', '.state.done', 'latest'],
                             order.names_given(found, scratch.root)[:3])
    rename = next(number for number, call in enumerate(found) if call.name == 'rename'
                  and call.path(1).endswith('latest'))
    flows.check.assertLessEqual({scratch.root, os.path.join(scratch.root, 'store')},
                                 order.synced(found[:rename]))


def main():
    suite = Suite('power')
    require_root(suite)
    if not calls.is_available():
        suite.skip('all', 'strace is not installed, or may not trace')
        suite.close()
    try:
        disks.unshare_mounts()
    except OSError as error:
        suite.skip('all', 'the kernel refuses a mount namespace: {}'.format(error))
        suite.close()
    with flows.scratch('tako-power-', SIZE) as scratch:
        power = Power(scratch, suite)
        check_order(power, suite)
        scratch.server.faults['*'] = paced
        power.prepare()
        for cut in suite.sample(power.cuts()):
            with suite.case(str(cut)):
                power.run(cut)
        if power.kinds and not os.environ.get('PROVE_SECONDS') and flows.CHOSEN == flows.FLOWS:
            with suite.case('at least {} cuts of each kind'.format(CUTS_MIN)):
                flows.check.assertGreaterEqual(min(power.done.values()), CUTS_MIN)
    suite.close()


if __name__ == '__main__':
    main()

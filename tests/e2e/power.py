"""Power cuts on real file systems, at random moments and right after each step; and the order of system calls.

After each cut: the log is replayed, the promise holds, what was reported as done is there, and one ordinary run
makes up for the rest.
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

from kernel import calls, disks, ground, order
from suite import Suite, require_root

SIZE = 400000                           # of the images
RATE = 1 << 21                          # at which they come, in bytes a second
PAUSE_SECONDS = 0.03                    # before a range comes, and between the pieces that store reads
PIECES = 8
# cuts at random moments, on each file system; further ones come after each step
CUTS = {'first': 60, 'update': 70, 'delta': 130, 'patch': 60, 'rollback': 60, 'repair': 10, 'store': 120, 'first store': 30}
CUTS_WANTED = 100                       # of whole and differential fetches and of stores, where no time is set
CUTS_AT_THE_END = 5                     # of each flow on each file system, right after its exit
PROBE = 'store/' + tako.PROBE           # a rename that is tried before the image is downloaded
# what gets its name in which order
NAMES = {
    'first': ['manifest', 'store/image', '.state', 'latest', '.state'],
    'update': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
              'latest', '.state'],
    'patch': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
              'latest', '.state'],
    'delta': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
              'latest', '.state', 'store/image.chunks'],
    'rollback': ['manifest', PROBE, 'store/image', '.state', '.state.back', '.state.done',
                 'latest', '.state', 'latest', '.state'],
    'repair': [PROBE, 'store/image', 'store/image.chunks', '.state'],
    'store': [PROBE, 'store/image', 'store/image.chunks', 'manifest'],
    'first store': ['store/image', 'store/image.chunks', 'manifest'],
}
STEPS = ('fsync', 'rename', 'symlink', 'mkdir', 'unlink')


class Cut(namedtuple('Cut', ('kind', 'flow', 'call', 'number', 'has_neighbour'))):
    """When the power goes: after the number-th call of this name; without one, at random; number 0 means at the end."""

    __slots__ = ()

    def __str__(self):
        when = 'after {} {}'.format(self.call, self.number) if self.call else 'at random' if self.number else 'at the end'
        return '{} on {}, {}{}'.format(self.flow, self.kind, when, ', with a neighbour' * self.has_neighbour)


class Power:
    """Flows on disks whose power is cut."""

    def __init__(self, scratch, suite):
        self.scratch = scratch
        self.suite = suite
        self.kinds = []
        self.lengths = {}               # of whole runs, in seconds, by kind and flow
        self.done = {}                  # cuts that met a run, by what it was, and kind
        self.traces = {flow.name: self.trace(flow) for flow in ground.FLOWS}

    def trace(self, flow):
        """The calls of a whole run, with those of what it starts."""
        self.scratch.begin(flow)
        result, found = calls.record(self.scratch.run_flow(flow), self.scratch.path('trace'), calls.CHANGES, '-f')
        ground.check.assertEqual(flow.code(), result.code, result)
        return found

    def disk(self, kind, name):
        return disks.Disk(kind, self.scratch.path('{}.{}'.format(name, kind)), self.scratch.disk)

    def prepare(self):
        """The disks that flows begin with."""
        for kind in disks.KINDS:
            fault = disks.fault_of_kind(kind, self.scratch.directory)
            if fault is not None:
                self.suite.skip(kind, fault)
                continue
            self.kinds.append(kind)
            for flow in {flow.begins: flow for flow in ground.FLOWS}.values():
                disk = self.disk(kind, flow.begins)
                disk.make()
                with disk.mounted():
                    os.mkdir(self.scratch.root)
                    self.scratch.begin(flow)

    def cuts(self):
        for kind in self.kinds:
            for flow in ground.FLOWS:
                for number in range(CUTS[flow.name]):
                    yield Cut(kind, flow, '', 1, bool(number % 2))
                for number in range(CUTS_AT_THE_END):
                    yield Cut(kind, flow, '', 0, bool(number % 2))
                for call, number in self.steps(flow):
                    for has_neighbour in (False, True):
                        yield Cut(kind, flow, call, number, has_neighbour)

    def steps(self, flow):
        """The calls of a flow that bring something nearer to the disk: its name, and its number among those of that."""
        counts = dict.fromkeys(STEPS, 0)
        for call in self.traces[flow.name]:
            if call.name in STEPS:
                counts[call.name] += 1
                if call.result() == 0:
                    yield call.name, counts[call.name]

    def start(self, flow, prefix=()):
        """A run of a flow that takes its time."""
        if flow.config:
            return self.scratch.start(prefix, *self.scratch.arguments(flow))
        process = self.scratch.start(prefix, 'store', '-o', self.scratch.root, '-', '2.0', stdin=subprocess.PIPE)
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
            pass                        # whom it fed was killed

    def length(self, kind, flow):
        """How many seconds a run takes that nobody cuts off; measured once."""
        if (kind, flow) not in self.lengths:
            disk = self.disk(kind, 'case')
            disk.copy(self.disk(kind, flow.begins))
            asked = len(self.scratch.server.requests)
            with disk.mounted():
                began = time.monotonic()
                process = self.start(flow)
                process.wait()
                length = time.monotonic() - began
                end(process)
            self.scratch.check_asked(flow, self.scratch.server.requests[asked:])
            self.lengths[kind, flow] = length
        return self.lengths[kind, flow]

    def run(self, cut):
        """One cut, and what follows."""
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
                ground.check.assertEqual(flow.code(), code)
                scratch.check_done(flow)
            scratch.finish(flow)
        self.count(cut, code is not None)

    def count(self, cut, is_late):
        what = {'delta': 'delta', 'patch': 'delta', 'store': 'store', 'first store': 'store'}.get(cut.flow.name, 'fetch')
        self.suite.count('cuts after the exit' if is_late else 'cuts of {} on {}'.format(what, cut.kind))
        self.done[what, cut.kind] = self.done.get((what, cut.kind), 0) + (not is_late)

    def run_and_cut(self, cut, disk, length):
        """A run that loses its power; its exit code, if it had one by then."""
        trace = self.scratch.path('trace')
        prefix = calls.injected(trace, cut.call, 'signal=STOP:when={}'.format(cut.number)) if cut.call else ()
        process = self.start(cut.flow, prefix)
        try:
            with disks.neighbour(self.scratch.disk) if cut.has_neighbour else contextlib.nullcontext():
                if cut.call:
                    ground.check.assertTrue(calls.wait_until_stopped(process, trace), 'this step did not come')
                elif cut.number:
                    time.sleep(self.suite.chance.uniform(0, length))
                else:
                    process.wait()
                code = process.poll()
                disk.cut()
        finally:
            end(process)
        return code


def end(process):
    """See it dead, and all that it started."""
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
    """Serves honestly, and an image slowly."""
    wanted = handler.headers.get('Range', '')
    if handler.path.startswith('/store/') and not handler.path.endswith('.chunks'):
        if not wanted or wanted.endswith('-'):
            origin.slowly(RATE)(handler)
            return
        time.sleep(PAUSE_SECONDS)
    handler.serve()


def check_order(power, suite):
    """No rename before the fsync of what it names, and nothing after it before its directory's."""
    root, image = power.scratch.root, origin.digest_of(power.scratch.two)
    for flow in ground.FLOWS:
        found = power.traces[flow.name]
        with suite.case('order of {}'.format(flow)):
            ground.check.assertEqual([], order.objections(found, root))
            names = [name.replace(image, 'image') for name in order.names_given(found, root)]
            ground.check.assertEqual(NAMES[flow.name], names)
        for path in sorted(order.synced(found)):
            with suite.case('order of {}, had it not synced {}'.format(flow, path)):
                ground.check.assertNotEqual([], order.objections(order.without_sync(found, path), root))
    with suite.case('order of an update that goes on where another was killed'):
        check_adoption(power.scratch, power.traces['update'])


def check_adoption(scratch, trace):
    """What another run has renamed and may not have synced is synced before latest names it."""
    flow = next(flow for flow in ground.FLOWS if flow.name == 'update')
    names = order.names_given(trace, scratch.root)
    scratch.begin(flow)
    killed = scratch.run_flow(flow)(calls.injected(scratch.path('trace'), 'rename',
                                                   'signal=KILL:when={}'.format(names.index('latest') + 1)))
    ground.check.assertEqual(-signal.SIGKILL, killed.code)
    result, found = calls.record(scratch.run_flow(flow), scratch.path('trace'), calls.CHANGES, '-f')
    ground.check.assertEqual(0, result.code, result)
    ground.check.assertEqual([], order.objections(found, scratch.root))
    ground.check.assertEqual(['.state.back', '.state.done', 'latest'], order.names_given(found, scratch.root)[:3])
    rename = next(number for number, call in enumerate(found) if call.name == 'rename' and call.path(1).endswith('latest'))
    ground.check.assertLessEqual({scratch.root, os.path.join(scratch.root, 'store')}, order.synced(found[:rename]))


def main():
    suite = Suite('power')
    require_root(suite)
    if not calls.is_there():
        suite.skip('all', 'no strace here, or it may not trace')
        suite.close()
    try:
        disks.unshare_mounts()
    except OSError as error:
        suite.skip('all', 'no mounts of our own: {}'.format(error))
        suite.close()
    with ground.scratch('tako-power-', SIZE) as scratch:
        power = Power(scratch, suite)
        check_order(power, suite)
        scratch.server.faults['*'] = paced
        power.prepare()
        for cut in suite.sample(power.cuts()):
            with suite.case(str(cut)):
                power.run(cut)
        if power.kinds and not os.environ.get('PROVE_SECONDS'):
            with suite.case('as many cuts as are wanted'):
                ground.check.assertGreaterEqual(min(power.done.values()), CUTS_WANTED)
    suite.close()


if __name__ == '__main__':
    main()

"""Every system call of a fetch and a store that touches a file: a kill there, and each error that a disk may answer.

After each: a documented exit code, worded errors, the promise; and the next ordinary run makes up for it all.
"""
import signal
from collections import Counter, namedtuple

from kernel import calls, ground
from suite import Suite

SIZE = 300000                   # of the images: a run is to be short
# what asks for, or changes, what is on a disk
TOUCHES = ('openat', 'read', 'pread64', 'write', 'pwrite64', 'copy_file_range', 'lseek', 'ftruncate', 'fsync', 'fchmod',
           'utimensat', 'flock', 'rename', 'symlink', 'readlink', 'unlink', 'mkdir', 'statfs', 'getdents64',
           'newfstatat', 'close')
ANSWERS = ('signal=KILL:when={}', 'error=ENOSPC:when={}', 'error=EIO:when={}', 'error=EACCES:when={}', 'error=EROFS:when={}')
FROM_THEN_ON = 'error=EIO:when={}+'     # the disk has died; not for write, which also tells of it
DYING = ('pwrite64', 'copy_file_range', 'ftruncate', 'fsync', 'fchmod', 'rename', 'symlink', 'unlink', 'mkdir')
# runs that may have other calls than the recorded one: the line brings what it brings
MISSED, MISSED_SHARE = 10, 0.1          # of all that are begun
MISSED_SHARE_OF_EACH = 0.5              # of a flow's calls of one name; and of a sample


class Case(namedtuple('Case', ('flow', 'call', 'answer', 'text', 'renamed'))):
    """A flow one of whose calls of this name, or more, is answered so.

    text: the call, as it was recorded. renamed: the name that a file was given last before it.
    """

    __slots__ = ()

    def __str__(self):
        return '{}, {}:{}: {}'.format(self.flow, self.call, self.answer, self.text)


def cases(scratch):
    """Each call of each flow that is about what is in the scratch directory, with each answer."""
    for flow in ground.FLOWS:
        scratch.begin(flow)
        _, recorded = calls.record(scratch.run_flow(flow), scratch.path('trace'), ','.join(TOUCHES))
        counts, renamed = dict.fromkeys(TOUCHES, 0), ''
        for call in recorded:
            counts[call.name] += 1
            renamed = call.path(1) if call.name == 'rename' else renamed
            if scratch.directory in call.text:
                for answer in ANSWERS + (FROM_THEN_ON,) * (call.name in DYING):
                    yield Case(flow, call.name, answer.format(counts[call.name]),
                               call.text.replace(scratch.directory, ''), renamed)


def exit_codes(case, call, scratch):
    """Those that may come of an error there."""
    about, good = call.path(), case.flow.code()
    if about.endswith('.tako'):
        return (good, 2)        # some a Python can do without, as the lseek with which it opens
    if (case.call, about) == ('newfstatat', scratch.root):
        return (1, 2, 3)        # it may be the look at what the config names
    if about.startswith(scratch.path('served')):
        return (good, 75)       # the origin's disk
    failed = (1, 3) if case.flow.name == 'repair' else (1,)
    return failed if case.call in ('fsync', 'flock') and not is_optional(case, about) else (good,) + failed


def is_optional(case, about):
    """Whether a run may succeed without this: an index of a client, and the new file for a state that has room in the old."""
    if about.endswith('.chunks.new') or case.renamed.endswith('.chunks'):
        return True
    return 'ENOSPC' in case.answer and (about.endswith('.state.new') or case.renamed.endswith('.state'))


def check_where(call, result, scratch):
    """Whoever reads the message knows where to look."""
    about = ' '.join(line for line in result.err.splitlines() if line.startswith('tako: '))
    if not call.path().endswith('.tako'):
        about = about.replace(scratch.path('http.tako'), '').replace(scratch.path('file.tako'), '')
    ground.check.assertIn(scratch.directory, about, 'no path in the message')


def run(case, scratch, suite):
    """One case; whether the call was met."""
    scratch.begin(case.flow)
    trace = scratch.path('trace')
    result = scratch.run_flow(case.flow)(calls.injected(trace, case.call, case.answer))
    met = calls.read_trace(trace)[-1:]
    if result.code != -signal.SIGKILL:
        met = [call for call in calls.read_trace(trace) if '(INJECTED)' in call.text]
    if not (met and scratch.directory in met[0].text):
        return False
    with suite.case('{}\n  met: {}'.format(case, met[0].text)):
        if result.code >= 0:
            scratch.check_words(result)
            ground.check.assertIn(result.code, exit_codes(case, met[0], scratch), result)
        scratch.check_promise(case.flow)
        if result.code == 0:
            scratch.check_end(case.flow)
        elif ground.ROLLED_BACK in result.err:
            scratch.check_done(case.flow)
        elif result.code > 0:
            check_where(met[0], result, scratch)
        scratch.finish(case.flow)
    suite.count('killed' if result.code < 0 else 'exit code {}'.format(result.code))
    return True


def check_missed(missed, begun, is_sample):
    """Few of the recorded calls did not come again: of all together, and of each flow's calls of one name.

    missed, begun: how many cases, by flow and name. A sample has too few of each for that.
    """
    all_missed, all_begun = sum(missed.values()), sum(begun.values())
    if is_sample:
        ground.check.assertLessEqual(all_missed, MISSED_SHARE_OF_EACH * all_begun)
        return
    ground.check.assertLessEqual(all_missed, MISSED + MISSED_SHARE * all_begun)
    for (flow, call), number in begun.items():
        ground.check.assertLessEqual(missed[flow, call], MISSED_SHARE_OF_EACH * number, '{} of {}'.format(call, flow))


def main():
    suite = Suite('syscalls')
    if not calls.is_there():
        suite.skip('all', 'no strace here, or it may not trace')
        suite.close()
    with ground.scratch('tako-syscalls-', SIZE) as scratch:
        found = list(cases(scratch))
        with suite.case('each kind of call is there'):
            ground.check.assertEqual(set(TOUCHES), {case.call for case in found})
        begun, missed = Counter(), Counter()
        for case in suite.sample(found):
            begun[case.flow, case.call] += 1
            missed[case.flow, case.call] += not run(case, scratch, suite)
        suite.count('did not come again', sum(missed.values()))
        with suite.case('the calls that were recorded come again'):
            check_missed(missed, begun, suite.is_sample)
    suite.close()


if __name__ == '__main__':
    main()

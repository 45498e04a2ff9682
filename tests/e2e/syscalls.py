"""A kill, and each error that a disk may return, at every system call of fetch and store on files.

After each the exit code is a documented one, the message names the cause, the promise holds, and
the next ordinary run completes all.
"""
import signal
from collections import Counter, namedtuple

from kernel import calls, flows
from suite import Suite

SIZE = 300000                   # bytes of each image: runs are short
# calls that read or change a disk
TOUCHES = ('openat', 'read', 'pread64', 'write', 'pwrite64', 'copy_file_range', 'lseek',
           'ftruncate', 'fsync', 'fchmod', 'utimensat', 'flock', 'rename', 'symlink', 'readlink',
           'unlink', 'mkdir', 'statfs', 'getdents64', 'newfstatat', 'close')
ANSWERS = ('signal=KILL:when={}', 'error=ENOSPC:when={}', 'error=EIO:when={}',
           'error=EACCES:when={}', 'error=EROFS:when={}')
FROM_THEN_ON = 'error=EIO:when={}+'     # a dead disk; not for write, which also prints messages
DYING = ('pwrite64', 'copy_file_range', 'ftruncate', 'fsync', 'fchmod', 'rename', 'symlink',
         'unlink', 'mkdir')
# Runs may have other calls than the recorded one, as a download arrives in other pieces.
MISSED, MISSED_SHARE = 10, 0.1          # of all cases
MISSED_SHARE_OF_EACH = 0.5              # of the calls of one name in a flow, and of a sample


class Case(namedtuple('Case', ('flow', 'call', 'answer', 'text', 'renamed'))):
    """A flow in which one or more calls of this name get this answer.

    text: the call as recorded. renamed: the target of the last rename before it.
    """

    __slots__ = ()

    def __str__(self):
        return '{}, {}:{}: {}'.format(self.flow, self.call, self.answer, self.text)


def cases(scratch):
    """Yield each call of each flow on the scratch directory, with each answer."""
    for flow in flows.FLOWS:
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
    """Return the exit codes that an error of this call may have."""
    about, good = call.path(), case.flow.code()
    if about.endswith('.tako'):
        return (good, 2)        # Python ignores some errors, such as that of lseek after open
    if (case.call, about) == ('newfstatat', scratch.root):
        return (1, 2, 3)        # the call may be on the Destination= of the config
    if about.startswith(scratch.path('served')):
        return (good, 75)       # the disk of the origin
    failed = (1, 3) if case.flow.name == 'repair' else (1,)
    is_fatal = case.call in ('fsync', 'flock') and not is_optional(case, about)
    return failed if is_fatal else (good,) + failed


def is_optional(case, about):
    """Return whether a run may succeed without this file."""
    if about.endswith('.chunks.new') or case.renamed.endswith('.chunks'):
        return True             # an index
    if about.endswith(('.history.new', '.problems')) or case.renamed.endswith('.history'):
        return True             # notes for status
    # a new state, if the disk is full
    return 'ENOSPC' in case.answer and (about.endswith('.state.new')
                                        or case.renamed.endswith('.state'))


def check_where(call, result, scratch):
    """Check that the message names a file."""
    about = ' '.join(line for line in result.err.splitlines() if line.startswith('tako: '))
    if not call.path().endswith('.tako'):
        about = about.replace(scratch.path('http.tako'), '').replace(scratch.path('file.tako'), '')
    flows.check.assertIn(scratch.directory, about, 'no path in the message')


def run(case, scratch, suite):
    """Run one case. Return whether the run made the call."""
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
            flows.check.assertIn(result.code, exit_codes(case, met[0], scratch), result)
        scratch.check_promise(case.flow)
        if result.code == 0:
            scratch.check_end(case.flow)
        elif flows.ROLLED_BACK in result.err:
            scratch.check_done(case.flow)
        elif result.code > 0:
            check_where(met[0], result, scratch)
        scratch.finish(case.flow)
    suite.count('killed' if result.code < 0 else 'exit code {}'.format(result.code))
    return True


def check_missed(missed, begun, is_sample):
    """Check that few recorded calls were missed: of all, and of each flow's calls of one name.

    missed, begun: numbers of cases by (flow, name). A sample has too few of each.
    """
    all_missed, all_begun = sum(missed.values()), sum(begun.values())
    if is_sample:
        flows.check.assertLessEqual(all_missed, MISSED_SHARE_OF_EACH * all_begun)
        return
    flows.check.assertLessEqual(all_missed, MISSED + MISSED_SHARE * all_begun)
    for (flow, call), number in begun.items():
        flows.check.assertLessEqual(missed[flow, call], MISSED_SHARE_OF_EACH * number,
                                     '{} of {}'.format(call, flow))


def main():
    suite = Suite('syscalls')
    if not calls.is_available():
        suite.skip('all', 'strace is not installed, or may not trace')
        suite.close()
    with flows.scratch('tako-syscalls-', SIZE) as scratch:
        found = list(cases(scratch))
        with suite.case('the flows make each call'):
            flows.check.assertEqual(set(TOUCHES), {case.call for case in found})
        begun, missed = Counter(), Counter()
        for case in suite.sample([each for each in found if each.flow in flows.CHOSEN]):
            begun[case.flow, case.call] += 1
            missed[case.flow, case.call] += not run(case, scratch, suite)
        suite.count('calls missed', sum(missed.values()))
        with suite.case('the runs repeat the recorded calls'):
            check_missed(missed, begun, suite.is_sample)
    suite.close()


if __name__ == '__main__':
    main()

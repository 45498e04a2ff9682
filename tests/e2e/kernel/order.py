"""What has to be on the disk before what, as it shows in the system calls of a run."""
import os

import tako

WRITES = ('write', 'pwrite64', 'copy_file_range', 'ftruncate', 'fchmod', 'utimensat')
# what rests on all names that were given before
STEPS = {'mkdir': 'made a directory', 'rename': 'renamed', 'unlink': 'removed', 'write': 'told',
         'execve': 'started a program', 'exit_group': 'ended'}


class Pending:
    """What a run has done and not yet brought to the disk, and what it did too early.

    A file's bytes and mode are synced before it is renamed to the name that counts; the directory that got the
    name, before the next such name, before anything is removed, told or started, and before the end.
    """

    def __init__(self, root):
        self.root = root
        self.unsynced = set()           # files
        self.unnamed = {}               # directories, and what is new in them
        self.objections = []

    def take(self, call):
        """The next call of the run."""
        path = call.path(1 if call.name == 'copy_file_range' else 0)
        if call.name in ('execve', 'exit_group') or (call.name == 'write' and not path):    # to a pipe
            self.rest_on(call)
        elif call.result() < 0 or not (path + os.sep).startswith(self.root + os.sep) or tako.PROBE in call.text:
            pass
        elif call.name in WRITES:
            if 'AT_FDCWD' not in call.text:     # the time of a file in place: it may be lost
                self.unsynced.add(path)
        elif call.name in ('fsync', 'fdatasync'):
            self.unsynced.discard(path)
            self.unnamed.pop(path, None)
        elif call.name in STEPS:
            self.rest_on(call)
            self.name(call)

    def rest_on(self, call):
        for folder, name in self.unnamed.items():
            self.objections.append('{}, and {} is not synced since it got {}: {}'.format(
                STEPS[call.name], folder, name, call.text))

    def name(self, call):
        if call.name == 'rename':
            if call.path() in self.unsynced:
                self.objections.append('renamed before its bytes were synced: ' + call.text)
            self.unsynced.discard(call.path())
        if call.name != 'unlink':
            new = call.path(1 if call.name == 'rename' else 0)
            self.unnamed[os.path.dirname(new)] = new


def objections(calls, root):
    """Each step, in words, that a run took before those that it rests on had reached the disk."""
    pending = Pending(root)
    for call in calls:
        pending.take(call)
    return pending.objections


def names_given(calls, root):
    """The names that count, in the order in which they were given."""
    return [os.path.relpath(call.path(1), root) for call in calls if call.name == 'rename' and call.result() == 0]


def synced(calls):
    """The files and directories that were synced."""
    return {call.path() for call in calls if call.name == 'fsync' and call.result() == 0}


def without_sync(calls, path):
    """The calls of a run that were the same, had it not synced this."""
    return [call for call in calls if not (call.name == 'fsync' and call.path() == path)]

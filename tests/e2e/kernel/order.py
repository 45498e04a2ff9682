"""The order of system calls that change and sync a disk."""
import os

import tako

WRITES = ('write', 'pwrite64', 'copy_file_range', 'ftruncate', 'fchmod', 'utimensat')
# the steps that rely on all earlier renames, as words
STEPS = {'mkdir': 'made a directory', 'rename': 'renamed', 'unlink': 'removed', 'write': 'printed',
         'execve': 'started a program', 'exit_group': 'ended'}


class Pending:
    """The changes of a run that are not synced, and its steps that came too early.

    A file is synced before it is renamed to its final name. The directory of that name is synced
    before the next rename, before a file is removed, a message printed or a unit restarted, and
    before the end.
    """

    def __init__(self, root):
        self.root = root
        self.unsynced = set()           # files
        self.unnamed = {}               # directory -> its new names
        self.objections = []

    def take(self, call):
        """Take the next call of the run."""
        path = call.path(1 if call.name == 'copy_file_range' else 0)
        is_message = call.name == 'write' and not path
        is_in_root = (path + os.sep).startswith(self.root + os.sep)
        if is_message or call.name in ('execve', 'exit_group'):
            self.check_names(call)
        elif call.result() < 0 or not is_in_root or tako.PROBE in call.text:
            pass
        elif call.name in WRITES:
            if 'AT_FDCWD' not in call.text:     # the time of an installed file may be lost
                self.unsynced.add(path)
        elif call.name in ('fsync', 'fdatasync'):
            self.unsynced.discard(path)
            self.unnamed.pop(path, None)
        elif call.name in STEPS:
            self.check_names(call)
            self.add_name(call)

    def check_names(self, call):
        """Object to a step if a directory is not synced."""
        for folder, name in self.unnamed.items():
            self.objections.append('{}, and {} is not synced since it got {}: {}'.format(
                STEPS[call.name], folder, name, call.text))

    def add_name(self, call):
        """Note the new name of a step, and object to the rename of a file that is not synced."""
        if call.name == 'rename':
            if call.path() in self.unsynced:
                self.objections.append('renamed before its bytes were synced: ' + call.text)
            self.unsynced.discard(call.path())
        if call.name != 'unlink':
            new = call.path(1 if call.name == 'rename' else 0)
            self.unnamed[os.path.dirname(new)] = new


def objections(calls, root):
    """Return each step that came before the sync of what it relies on, as a sentence."""
    pending = Pending(root)
    for call in calls:
        pending.take(call)
    return pending.objections


def names_given(calls, root):
    """Return the final names, in the order of their renames."""
    return [os.path.relpath(call.path(1), root) for call in calls
            if call.name == 'rename' and call.result() == 0]


def synced(calls):
    """Return the files and directories that were synced."""
    return {call.path() for call in calls if call.name == 'fsync' and call.result() == 0}


def without_sync(calls, path):
    """Return the calls of a run without the syncs of this file."""
    return [call for call in calls if not (call.name == 'fsync' and call.path() == path)]

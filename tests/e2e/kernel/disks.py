"""File systems in files, on loop devices, whose power can be cut."""
import contextlib
import ctypes
import fcntl
import glob
import os
import struct
import subprocess
import threading
import time

# _IOR('X', 125, __u32): XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN, which end all writes
SHUTDOWN = 2 << 30 | 4 << 16 | ord('X') << 8 | 125
NO_LOG_FLUSH = 2                        # discard even the log in memory
CLONE_NEWNS = 0x20000                   # of unshare(2): a mount namespace
UMOUNT_SECONDS = 20.0                   # how long processes and loop devices may use a file
# size, command of mkfs, options of mount that lose most, and those with a neighbour
KINDS = {
    'ext4': (64 << 20, ['mkfs.ext4', '-q', '-F'],
             ('loop,noauto_da_alloc', 'loop,noauto_da_alloc,data=writeback')),
    'xfs': (320 << 20, ['mkfs.xfs', '-q'], ('loop', 'loop')),
}


def unshare_mounts():
    """Enter a mount namespace, so that no other one keeps a file system mounted."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _run(['mount', '--make-rprivate', '/'])


class Disk:
    """A file system of one kind in a file. `at` is the directory where it is mounted."""

    def __init__(self, kind, file, at):
        self.file = file
        self.at = at
        self._size, self._make, self._options = KINDS[kind]

    def make(self):
        """Make a new and empty file system."""
        with open(self.file, 'xb') as stream:
            stream.truncate(self._size)
        _run(self._make + [self.file])

    def copy(self, other):
        """Copy another file system, which is not mounted."""
        if os.path.exists(self.file):
            os.unlink(self.file)        # no loop device uses the new file
        _run(['cp', '--sparse=always', other.file, self.file])

    @contextlib.contextmanager
    def mounted(self, has_neighbour=False):
        """Mount it, and replay its log, while the `with` lasts."""
        _run(['mount', '-o', self._options[has_neighbour], self.file, self.at])
        try:
            yield
        finally:
            self._unmount()

    def cut_power(self):
        """Discard all that is not on the disk yet, and fail further writes."""
        descriptor = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack('I', NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def _unmount(self):
        """Unmount it, and wait until no loop device uses it."""
        deadline, is_mounted = time.monotonic() + UMOUNT_SECONDS, True
        while is_mounted or self._is_attached():
            is_mounted = is_mounted and subprocess.call(['umount', self.at],
                                                        stderr=subprocess.DEVNULL) != 0
            if time.monotonic() >= deadline:
                subprocess.call(['umount', '--lazy', self.at], stderr=subprocess.DEVNULL)
                raise TimeoutError(self.at + ' stays busy')
            time.sleep(0.01)

    def _is_attached(self):
        for path in glob.glob('/sys/block/loop*/loop/backing_file'):
            try:
                with open(path) as stream:
                    if stream.read().strip() == self.file:
                        return True
            except OSError:             # the loop device was detached
                pass
        return False


def _run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True)
    if done.returncode:
        raise OSError('{}: {}'.format(' '.join(command), done.stdout.strip()))


def fault_of_kind(kind, folder):
    """Return why disks of this kind do not work on this machine, or None if they do."""
    at = os.path.join(folder, 'trial')
    os.makedirs(at, exist_ok=True)
    disk = Disk(kind, at + '.' + kind, at)
    try:
        disk.make()
        with disk.mounted():
            disk.cut_power()
        with disk.mounted():
            pass
    except OSError as error:
        return str(error)
    finally:
        if os.path.exists(disk.file):
            os.unlink(disk.file)
    return None


@contextlib.contextmanager
def neighbour(folder, seconds=0.003):
    """Write and sync another file of the same file system, which syncs only names."""
    is_over = threading.Event()

    def write():
        try:
            with open(os.path.join(folder, 'neighbour'), 'wb', buffering=0) as stream:
                while not is_over.wait(seconds):
                    stream.write(b'.')
                    os.fsync(stream.fileno())
        except OSError:
            pass                        # the power is cut

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

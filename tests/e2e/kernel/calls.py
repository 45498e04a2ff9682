"""The system calls of a run, as strace tells them, and runs that end or fail at one of them."""
import os
import re
import subprocess
import time
from collections import namedtuple

import scene

PYTHON = '/usr/bin/python3' if os.path.exists('/usr/bin/python3') else 'python3'
TAKO = (PYTHON, '-I', '-W', 'error', scene.TAKO)
LINE = re.compile(r'(?:([0-9]+) +)?(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed>)(.*)')
# what can change a disk, and what tells that it is, or is believed to be, on it
CHANGES = ('write,pwrite64,copy_file_range,ftruncate,fchmod,utimensat,fsync,fdatasync,mkdir,symlink,rename,unlink,'
           'execve,exit_group')


class Call(namedtuple('Call', ('name', 'text'))):
    """One system call: its name, and the line that strace prints of it."""

    __slots__ = ()

    def path(self, number=0):
        """The file that it is about, or one of them: of the descriptor, or as it is spelled."""
        paths = re.findall(r'[0-9]<(/[^>]*)>|"(/[^"]*)"', self.text)
        return ''.join(paths[number]) if number < len(paths) else ''

    def result(self):
        """What it returned; -1 if it failed, or did not return."""
        found = re.search(r'\) += ([0-9]+)', self.text)
        return int(found.group(1)) if found else -1


def read_trace(path):
    """The calls in the order in which they ended."""
    begun, calls = {}, []
    with open(path, errors='replace') as stream:
        for line in stream:
            match = LINE.match(line)
            if match is None:
                continue
            pid, name, rest = match.groups()
            if rest.endswith('<unfinished ...>'):
                begun[pid, name] = rest[:-len('<unfinished ...>')]
            else:
                calls.append(Call(name, '{}({}{}'.format(name, begun.pop((pid, name), ''), rest)))
    calls.extend(Call(name, '{}({}'.format(name, rest)) for (_, name), rest in begun.items())
    return calls


def strace(trace, calls, *more):
    """The beginning of a command that is to be traced; of the run alone, not of what that starts."""
    return ['strace', '-y', '-s', '0', '-o', trace, '-e', 'trace=' + calls] + list(more)


def record(run, trace, calls, *more):
    """The Result of a run, which takes a command's beginning, and its calls."""
    result = run(strace(trace, calls, *more))
    return result, read_trace(trace)


def injected(trace, call, answer):
    """The beginning of a command some of whose calls of this name are answered so: 'error=EIO:when=3'."""
    return strace(trace, call, '-e', 'inject={}:{}'.format(call, answer))


def wait_until_stopped(process, trace, seconds=30):
    """Wait until a run met the SIGSTOP that was injected; whether it did, and is not over instead."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if os.path.exists(trace) and 'stopped by SIGSTOP' in scene.read(trace).decode(errors='replace'):
            return True
        time.sleep(0.002)
    raise TimeoutError('neither stopped nor over')


def is_there():
    """Whether this machine has strace, and lets it trace."""
    try:
        return subprocess.call(['strace', '-o', os.devnull, 'true'], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False

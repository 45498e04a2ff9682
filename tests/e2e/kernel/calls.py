"""The system calls of a run, as strace prints them, and runs that fail at one of them."""
import os
import re
import subprocess
import time
from collections import namedtuple

import scene

PYTHON = '/usr/bin/python3' if os.path.exists('/usr/bin/python3') else 'python3'
TAKO = (PYTHON, '-I', '-W', 'error', scene.TAKO)
LINE = re.compile(r'(?:([0-9]+) +)?(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed>)(.*)')
# calls that change a disk, and calls that report a change or rely on it
CHANGES = ('write,pwrite64,copy_file_range,ftruncate,fchmod,utimensat,fsync,fdatasync,mkdir,'
           'symlink,rename,unlink,execve,exit_group')


class Call(namedtuple('Call', ('name', 'text'))):
    """A system call: its name, and the line that strace prints."""

    __slots__ = ()

    def path(self, number=0):
        """Return its nth file, from a descriptor or an argument, or an empty string."""
        paths = re.findall(r'[0-9]<(/[^>]*)>|"(/[^"]*)"', self.text)
        return ''.join(paths[number]) if number < len(paths) else ''

    def result(self):
        """Return its result, or -1 if it failed or did not return."""
        found = re.search(r'\) += ([0-9]+)', self.text)
        return int(found.group(1)) if found else -1


def read_trace(path):
    """Return the calls of a trace in the order in which they ended."""
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
    """Return the prefix of a command that traces it. -f in `more` traces child processes, too."""
    return ['strace', '-y', '-s', '0', '-o', trace, '-e', 'trace=' + calls] + list(more)


def record(run, trace, calls, *more):
    """Call run(prefix of a command) with strace. Return the Result and the calls."""
    result = run(strace(trace, calls, *more))
    return result, read_trace(trace)


def injected(trace, call, answer):
    """Return the prefix of a command that injects an answer to a call, 'error=EIO:when=3'."""
    return strace(trace, call, '-e', 'inject={}:{}'.format(call, answer))


def wait_until_stopped(process, trace, seconds=30):
    """Wait until a run is stopped by an injected SIGSTOP. Return False if it ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if os.path.exists(trace) and b'stopped by SIGSTOP' in scene.read(trace):
            return True
        time.sleep(0.002)
    raise TimeoutError('the run neither stopped nor ended')


def is_available():
    """Return whether this machine has strace and allows it to trace."""
    try:
        return subprocess.call(['strace', '-o', os.devnull, 'true'], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False

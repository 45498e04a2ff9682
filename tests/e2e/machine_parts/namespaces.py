"""Runs a suite in its own namespaces, so that its mounts, processes and sockets end with it.

The network namespace has only loopback, so the suite may listen on ports 80 and 443. The mount
namespace has its own /run, in memory, for all that the suite writes.
"""
import glob
import os
import signal
import subprocess
import sys

INSIDE = 'TAKO_MACHINE_INSIDE'
CGROUPS = 'tako-machine-'
# Process 1 of a container ends only when all its processes are reaped. This shell reaps those
# whose parents were killed from outside.
REAPER = '"$@"; exit $?'
UNSHARE = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc']


def are_available():
    """Return whether this user and this kernel can create namespaces."""
    return subprocess.call(UNSHARE + ['true'], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL) == 0


def enter():
    """Run this program again in new namespaces.

    Outside, wait for that run and exit with its exit code. Inside, return.
    """
    if os.environ.get(INSIDE):
        _set_up()
        return
    remove_stale_cgroups()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    inside = subprocess.Popen(
        ['setpriv', '--pdeathsig', 'KILL'] + UNSHARE
        + ['sh', '-c', REAPER, 'sh', sys.executable, '-u'] + sys.argv,
        env=dict(os.environ, **{INSIDE: str(os.getpid())}))
    try:
        code = inside.wait()
    except KeyboardInterrupt:
        code = 130
    finally:
        inside.kill()
        inside.wait()
        remove_stale_cgroups(os.getpid())
    sys.exit(code)


def _set_up():
    """Set up loopback, /run, and a control group that the containers' groups are created in."""
    for mount in _hierarchies():
        group = os.path.join(mount, CGROUPS + os.environ[INSIDE])
        os.makedirs(group, exist_ok=True)
        with open(os.path.join(group, 'cgroup.procs'), 'w') as stream:
            stream.write('0')
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=755', 'run', '/run'], check=True)


def _hierarchies():
    """Yield the mount points of the control groups that systemd uses."""
    for line in open('/proc/mounts'):
        _, mount, kind, options = line.split()[:4]
        if kind == 'cgroup2' or (kind == 'cgroup' and 'name=systemd' in options.split(',')):
            yield mount


def remove_stale_cgroups(own=None):
    """Remove the control groups of ended runs; all else of theirs ended with their namespaces.

    own: process id of a run whose group is removed, too.
    """
    for mount in _hierarchies():
        for top in glob.glob(os.path.join(mount, CGROUPS + '*')):
            pid = int(top.rpartition('-')[2])
            if pid == own or not os.path.exists('/proc/{}'.format(pid)):
                for folder, _, _ in os.walk(top, topdown=False):
                    _remove_group(folder)


def _remove_group(folder):
    for _ in range(100):                        # the last process may not have ended yet
        try:
            os.rmdir(folder)
            return
        except OSError:
            signal.sigtimedwait((), 0.02)

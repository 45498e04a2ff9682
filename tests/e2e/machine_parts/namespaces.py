"""A suite in namespaces of its own: what it mounts, starts and listens on ends with it, however it ends.

In the network namespace there is nothing but loopback, so the suite may listen on ports 80 and 443 of it. The
mount namespace has a /run of its own, in memory, for all that the suite writes.
"""
import glob
import os
import signal
import subprocess
import sys

INSIDE = 'TAKO_MACHINE_INSIDE'
CGROUPS = 'tako-machine-'
# process 1 of a container ends when all in it are reaped; this reaps those whose parents were killed out here
REAPER = '"$@"; exit $?'
UNSHARE = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child', '--mount-proc']


def are_possible():
    """Whether this user and this kernel can have them."""
    return subprocess.call(UNSHARE + ['true'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def enter():
    """Go on inside; the process that called waits there, passes on the exit code, and never returns from this."""
    if os.environ.get(INSIDE):
        _settle()
        return
    heal()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    inside = subprocess.Popen(
        ['setpriv', '--pdeathsig', 'KILL'] + UNSHARE + ['sh', '-c', REAPER, 'sh', sys.executable, '-u'] + sys.argv,
        env=dict(os.environ, **{INSIDE: str(os.getpid())}))
    try:
        code = inside.wait()
    except KeyboardInterrupt:
        code = 130
    finally:
        inside.kill()
        inside.wait()
        heal(os.getpid())
    sys.exit(code)


def _settle():
    """The new namespaces are furnished: loopback, /run, and control groups below which those of a container go."""
    for mount in _hierarchies():
        group = os.path.join(mount, CGROUPS + os.environ[INSIDE])
        os.makedirs(group, exist_ok=True)
        with open(os.path.join(group, 'cgroup.procs'), 'w') as stream:
            stream.write('0')
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=755', 'run', '/run'], check=True)


def _hierarchies():
    """Where the control groups are mounted that systemd sorts processes into."""
    for line in open('/proc/mounts'):
        _, mount, kind, options = line.split()[:4]
        if kind == 'cgroup2' or (kind == 'cgroup' and 'name=systemd' in options.split(',')):
            yield mount


def heal(own=None):
    """Remove the control groups of runs that are dead; all else of theirs went with their namespaces."""
    for mount in _hierarchies():
        for top in glob.glob(os.path.join(mount, CGROUPS + '*')):
            pid = int(top.rpartition('-')[2])
            if pid == own or not os.path.exists('/proc/{}'.format(pid)):
                for folder, _, _ in os.walk(top, topdown=False):
                    _remove_group(folder)


def _remove_group(folder):
    for _ in range(100):                        # the last process may be on its way out
        try:
            os.rmdir(folder)
            return
        except OSError:
            signal.sigtimedwait((), 0.02)

"""Runs `make demo` and `make check` in roots of Debian that contain only python3 and make.

debootstrap makes the roots. They have no openssl on the PATH, no systemctl, no terminal, and some
have no /etc/hosts. A root is mounted read-only, and the checkout is copied into a /tmp in memory.
All mounts and processes end with the command.
"""
import fcntl
import os
import subprocess

import scene

ROOTS = os.path.join(scene.PROJECT, 'build', 'pythons')
COPIED = ('LICENSE', 'Makefile', 'README.md', 'docs', 'tako.py', 'tests')
CASES = (('sid', 'root'), ('bookworm', 'root'), ('bookworm', 'nobody'), ('trixie', 'root'),
         ('i386', 'root'))
PATH = '/usr/sbin:/usr/bin:/sbin:/bin'
OPENSSL = '/opt/openssl'                    # the folder of the command, see root.sh
NO_ROOT = 'there is no root {}: debootstrap failed, or a sample had no time for it'
DEMO_ENDS = 'That was all of it.'
WHAT_TO_INSTALL = 'make {} needs all of Python (Debian: apt install python3)'
SECONDS_MAX = 3600                          # limit for a command
UNSHARE = ('unshare', '--mount', '--pid', '--fork', '--kill-child')
ENTER = '''
set -e
root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir "$root/tmp/tako"
cp -R {copied} "$root/tmp/tako"
chown -R "$user" "$root/tmp/tako"
exec chroot "$root" setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups \\
    sh -c 'cd /tmp/tako && exec "$@"' sh "$@"
'''.format(copied=' '.join(COPIED))


def lock_all():
    """Prevent prepare.sh from making roots again while this process lives."""
    if os.path.isdir(ROOTS):
        fcntl.flock(os.open(ROOTS, os.O_RDONLY), fcntl.LOCK_SH)


def reason_to_skip(name):
    """Return why nothing can run in this root, or '' if it can."""
    if os.getuid() != 0:
        return 'needs root, for chroot'
    if not os.path.isdir(os.path.join(ROOTS, name)):
        return NO_ROOT.format(name)
    return ''


def run(name, user, command, **environ):
    """Run a command in a copy of the checkout. Return its exit code and output."""
    enter = UNSHARE + ('sh', '-c', ENTER, 'sh', os.path.join(ROOTS, name), user) + tuple(command)
    environ = dict({'PATH': PATH, 'HOME': '/tmp'}, **environ)
    done = subprocess.run(enter, cwd=scene.PROJECT, env=environ, timeout=SECONDS_MAX,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode('utf-8', 'replace')


def python_version(name):
    """Return the version of the Python in a root."""
    command = 'import platform; print(platform.python_version())'
    code, output = run(name, 'root', ['python3', '-c', command])
    if code != 0:
        raise AssertionError(output)
    return output.strip()


def demo(name, user):
    """Check that `make demo` runs to its end."""
    code, output = run(name, user, ['make', 'demo'])
    if code != 0 or DEMO_ENDS not in output:
        raise AssertionError('make demo: exit code {}:\n{}'.format(code, output))


def check_hint(target):
    """Check that a target prints one line with python3-minimal, besides make's own."""
    code, output = run('minimal', 'root', ['make', target])
    ours = [line for line in output.splitlines() if not line.startswith('make: ***')]
    if code == 0 or ours != [WHAT_TO_INSTALL.format(target)]:
        raise AssertionError('make {}: exit code {}:\n{}'.format(target, code, output))

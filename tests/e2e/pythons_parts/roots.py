"""`make demo` and `make check` as a newcomer runs them: in roots that hold only python3 and make.

debootstrap makes them. There is no openssl, no systemctl, no terminal, and in some no /etc/hosts.
A root is mounted read-only, the checkout is copied into a /tmp in memory, and all mounts and
processes end with the command.
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
OPENSSL = '/opt/openssl'                    # where root.sh puts the command
NO_ROOT = 'there is no root {}: debootstrap could not make it, or a sample had no time for it'
DEMO_ENDS = 'That was all of it.'
WHAT_TO_INSTALL = 'make {} needs all of Python (Debian: apt install python3)'
SECONDS = 3600                              # that a command may take
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


def hold_all():
    """Keep prepare.sh from making roots again while this process lives."""
    if os.path.isdir(ROOTS):
        fcntl.flock(os.open(ROOTS, os.O_RDONLY), fcntl.LOCK_SH)


def reason_to_skip(name):
    """Why nothing can be run in this root; '' if it can."""
    if os.getuid() != 0:
        return 'needs root, to change its own'
    if not os.path.isdir(os.path.join(ROOTS, name)):
        return NO_ROOT.format(name)
    return ''


def run(name, user, command, **environ):
    """Run a command in the copy of the checkout: its exit code and all that it printed."""
    enter = UNSHARE + ('sh', '-c', ENTER, 'sh', os.path.join(ROOTS, name), user) + tuple(command)
    environ = dict({'PATH': PATH, 'HOME': '/tmp'}, **environ)
    done = subprocess.run(enter, cwd=scene.PROJECT, env=environ, timeout=SECONDS,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode('utf-8', 'replace')


def python_version(name):
    """The version of the Python in a root."""
    tell = 'import platform; print(platform.python_version())'
    code, said = run(name, 'root', ['python3', '-c', tell])
    if code != 0:
        raise AssertionError(said)
    return said.strip()


def demo(name, user):
    """`make demo` runs to its end."""
    code, said = run(name, user, ['make', 'demo'])
    if code != 0 or DEMO_ENDS not in said:
        raise AssertionError('make demo ended with {}:\n{}'.format(code, said))


def say_what_to_install(target):
    """In a root with python3-minimal a target ends in one line of words, and make's own."""
    code, said = run('minimal', 'root', ['make', target])
    ours = [line for line in said.splitlines() if not line.startswith('make: ***')]
    if code == 0 or ours != [WHAT_TO_INSTALL.format(target)]:
        raise AssertionError('make {} ended with {}:\n{}'.format(target, code, said))

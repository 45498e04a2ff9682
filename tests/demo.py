"""make demo: publish and fetch two versions on this machine, printing each command.

The image is a tarball of some modules of Python, and the server is that of Python. All files are in
a scratch directory that is removed at the end.
"""
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = os.environ.get('PYTHON', 'python3')
TAKO = PYTHON + ' tako.py'
MODULES = os.path.dirname(os.__file__)


def say(text):
    print('\n' + text, flush=True)


def run(command):
    """Print a shell command, run it, and stop the demonstration if it fails."""
    print('$ ' + command, flush=True)
    subprocess.run(command, shell=True, check=True)


def serve(directory, port):
    """Start the web server of Python on loopback. Return it once it answers."""
    command = 'cd {} && exec {} -m http.server {} --bind 127.0.0.1'.format(directory, PYTHON, port)
    print('$ ({}) &'.format(command), flush=True)
    server = subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    for _ in range(500):
        try:
            socket.create_connection(('127.0.0.1', port)).close()
            return server
        except OSError:
            time.sleep(0.02)
    raise SystemExit('the server does not answer')


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def demonstrate(port):
    say('# Copying one file is all of the installation.')
    run('cp {} .'.format(shlex.quote(os.path.join(PROJECT, 'tako.py'))))
    say('# The publisher makes a key pair, and keeps the secret half secret.')
    run('{} gen-key -o app'.format(TAKO))
    say('# An image, here a tarball of some of Python\'s modules, is published as version 1.0.0.')
    run('mkdir files served && cp -R {0}/email {0}/json {0}/xml files/'.format(
        shlex.quote(MODULES)))
    run('{} -m tarfile -c app-1.0.0.img files'.format(PYTHON))
    run('{} store -f app.key -o served app-1.0.0.img 1.0.0'.format(TAKO))
    say('# Any web server can serve the directory.')
    server = serve('served', port)
    try:
        fetch_and_update(port)
    finally:
        server.kill()
        server.wait()


def fetch_and_update(port):
    say('# A machine that wants every version 1, and never version 2, has this config.')
    run('mkdir images && printf '
        '"Origin=http://127.0.0.1:{}/\\nPublicKey=%s\\nDestination=images\\nVersion=1.*\\n" '
        '"$(cat app.pub)" > app.tako && cat app.tako'.format(port))
    run('{} fetch app.tako'.format(TAKO))
    run('ls -l images images/store')
    run('cmp images/latest app-1.0.0.img && echo "latest is version 1.0.0, byte for byte"')
    say('# A security fix and a breaking change are published.')
    run('echo "fixed = True" >> files/json/__init__.py && {} -m tarfile -c app-1.0.1.img '
        'files'.format(PYTHON))
    run('{} store -f app.key -o served app-1.0.1.img 1.0.1'.format(TAKO))
    run('echo "all is different now" > app-2.0.0.img && {} store -f app.key -o served '
        'app-2.0.0.img 2.0.0'.format(TAKO))
    say('# The fix comes; the breaking change waits until somebody writes Version=2.*')
    run('{} fetch app.tako'.format(TAKO))
    run('cmp images/latest app-1.0.1.img && echo "latest is version 1.0.1, byte for byte"')
    say('# From now on cron can run the same: it prints nothing while there is nothing to do.')
    run('{} fetch app.tako'.format(TAKO))


def main():
    directory = tempfile.mkdtemp(prefix='tako-demo-')
    try:
        run('cd ' + directory)
        os.chdir(directory)
        demonstrate(free_port())
        say('That was all of it. The scratch directory is removed; '
            'README.md shows how to set this up for good.')
    finally:
        shutil.rmtree(directory)


if __name__ == '__main__':
    main()

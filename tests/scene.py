"""What test files share: contents of images, a directory with a client, and runs of tako.py.

There are three ways to run Tako, and each takes `limits`, a dict of constants of tako.py to change:

    run_here    calls tako.main() in this process, where a test can patch what it uses
    run_tako    forks a process that has loaded tako.py (forks.py), as if it had started Python
    run_tako    starts a Python, if the settings need one: another user, umask or locale
"""
import array
import atexit
import contextlib
import gc
import io
import json
import os
import random
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import types
import unittest
import unittest.mock

import origin
import tako

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TAKO = os.path.join(PROJECT, 'tako.py')
NOBODY = 65534
RUN_SECONDS = 60
NOTES = (tako.HISTORY, tako.PROBLEMS)
# the temporary files that a killed run may leave
TEMPORARIES = [name for limit, name in vars(tako).items() if limit.startswith('NEW_')]

# Runs tako.py, whose path is the first argument, with limits and a user that the second names as
# JSON. Nobody may not read the modules of this Python, so it imports them before it becomes nobody;
# and it ends by _exit, as coverage could write nothing.
STARTER = """
import json, os, sys
settings = json.loads(sys.argv[2])
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import tako
for name, value in settings['limits'].items():
    assert hasattr(tako, name)
    setattr(tako, name, value)
if settings['as_nobody']:
    import array, bisect, difflib, encodings.idna, ipaddress, locale, lzma, select, socket, ssl
    import struct, subprocess, urllib.parse, zlib
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid({0})
        os.setuid({0})
    os._exit(tako.main(sys.argv[3:]))
tako.stop_on_signals()
sys.exit(tako.main(sys.argv[3:]))
""".format(NOBODY)

ONE, TWO, THREE = b'image one' * 1000, b'image two' * 2000, b'image three' * 3000


def noise(size, seed=1):
    """Return bytes that no compressor shrinks."""
    return random.Random(seed).getrandbits(8 * size).to_bytes(size, 'little') if size else b''


def prose(size, seed=1):
    """Return English-like words, which contain many chunk markers."""
    source = random.Random(seed)
    words = ' '.join(source.choice(('the', 'seen', 'tree', 'a', 'tentacle', 'sea')) for _
                     in range(size // 2))
    return words.encode()[:size]


# No two blocks are alike, so bytes in a wrong place are wrong bytes.
IMAGE = b''.join(bytes.fromhex(origin.digest_of(str(number).encode())) for number in range(20000))
HERE = 300000           # bytes of it that a client has after an interruption


def program(limits=(), as_nobody=False):
    """Return the arguments of Python that run tako.py, before those of tako.py."""
    if not limits and not as_nobody:
        return [TAKO]
    return ['-c', STARTER, TAKO, json.dumps({'limits': dict(limits), 'as_nobody': as_nobody})]


class Result:
    """The exit code of a run, and what it printed."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self):
        return 'exit code {}\nstdout: {}\nstderr: {}'.format(self.code, self.out, self.err)


def environment(changes):
    """Return our environment with these changes and without what would affect a run."""
    environ = {name: value for name,
               value in os.environ.items() if not name.lower().endswith('_proxy')}
    environ.pop('TAKO_SECRET_KEY', None)
    environ.update(changes)
    return environ


class Forks:
    """The process of forks.py, which forks of the starting process may use, too."""

    def __init__(self):
        self._socket = None

    def start(self):
        """Start the process if it does not run."""
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                server = os.path.join(PROJECT, 'tests', 'forks.py'), str(theirs.fileno())
                self._process = subprocess.Popen(Scene.python + server, pass_fds=[theirs.fileno()],
                                                 stdin=subprocess.DEVNULL,
                                                 stdout=subprocess.DEVNULL)
            atexit.register(self._stop, os.getpid())

    def _stop(self, starter):
        if os.getpid() == starter:
            self._socket.close()
            self._process.wait()

    def send(self, request, descriptors):
        """Send a request and the descriptors of a run."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', descriptors).tobytes())
        self._socket.sendmsg([json.dumps(request).encode()], [rights])


class Fork(subprocess.Popen):
    """A run of tako.py as a fork of forks.py. It is used like any Popen."""

    def __init__(self, request, stdin):
        FORKS.start()
        self._request = request
        super().__init__(request['arguments'], stdin=stdin, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)

    def _execute_child(self, _, *settings):     # overrides the method of Popen that forks
        stdin, our_stdin, _, stdout, _, stderr = settings[9:15]
        self._reports, theirs = os.pipe()
        FORKS.send(self._request, [stdin, stdout, stderr, theirs])
        is_stdin_ours = our_stdin != -1 or stdin == getattr(self, '_devnull', None)
        for each in [stdin] * is_stdin_ours + [stdout, stderr, theirs]:
            os.close(each)
        self._closed_child_pipe_fds = self._child_created = True
        self.pid = self._report()

    def _report(self):
        number, = struct.unpack('=i', os.read(self._reports, 4))
        return number

    def poll(self):
        """Return the exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        """Wait for the end. Return the exit code. Raises TimeoutExpired."""
        if self.returncode is None:
            seconds = None if timeout is None else max(timeout, 0)
            if not select.select([self._reports], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            status = self._report()
            os.close(self._reports)
            is_killed = os.WIFSIGNALED(status)
            self.returncode = -os.WTERMSIG(status) if is_killed else os.WEXITSTATUS(status)
        return self.returncode

    def send_signal(self, sig):
        """Send a signal to the run if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


class Scene(unittest.TestCase):
    """A test with a scratch directory, self.directory, and a client in it."""

    limits = {}         # constants of tako.py to change in each run
    python = (sys.executable, '-I', '-W', 'error')      # runs tako.py as a process

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix='tako-test-')
        self.addCleanup(remove_tree, self.directory)
        os.chmod(self.directory, 0o755)
        self.destination = os.path.join(self.directory, 'destination')
        os.mkdir(self.destination)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, content, mode=0o644):
        """Write a file in the scratch directory. Return its path."""
        path = self.path(name)
        origin.write(path, content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)
        return path

    def serve(self, name='served', **settings):
        """Start an origin that serves this directory until the test ends. Return it."""
        server = origin.Origin(self.path(name), **settings)
        server.__enter__()
        self.addCleanup(server.__exit__)
        return server

    def config(self, url, name='app.tako', version='*', public_keys=(origin.PUBLIC_KEY,),
               destination=None,
               more='', mirrors=()):
        """Write a config. Return its path. mirrors: the URLs after the first."""
        lines = ['Origin=' + each for each in (url,) + tuple(mirrors)]
        lines += ['Destination=' + (destination or self.destination), 'Version=' + version]
        lines += ['PublicKey=' + key for key in public_keys]
        return self.write(name, '\n'.join(lines) + '\n' + more)

    def empty_destination(self):
        """Remove all that is in the destination."""
        remove_tree(self.destination)
        os.mkdir(self.destination)

    def partials(self):
        """Return the names of the partial images and patches in the destination."""
        return [name for name in os.listdir(self.destination) if name.startswith('.partial-')]

    def mount(self, path, size):
        """Mount a tmpfs of so many bytes; skip the test without permission."""
        if as_root('mount', '-t', 'tmpfs', '-o', 'size={}'.format(size), 'tako-test', path) is None:
            self.skipTest('NOT ALLOWED TO MOUNT: A DISK THAT IS REALLY FULL IS NOT TESTED')
        self.addCleanup(subprocess.run, ['umount', path], check=True)

    def environ_with_systemctl(self):
        """Return the environment in which tako.py finds the systemctl of fake_systemd.py."""
        return {'PATH': self.path('bin') + ':/usr/bin:/bin'}

    def start(self, *arguments, **settings):
        """Start tako.py. Return the process."""
        is_plain = self._is_plain(settings)
        environ = environment(settings.pop('environ', {}))
        limits = settings.pop('limits', self.limits)
        if is_plain:
            request = {'arguments': arguments, 'environ': environ, 'directory': self.directory,
                       'limits': limits, 'group': os.getpgrp()}
            return Fork(request, settings.get('stdin', subprocess.DEVNULL))
        settings.setdefault('preexec_fn', heed_signals)
        command = list(self.python) + program(limits,
                                              settings.pop('as_nobody', False)) + list(arguments)
        return subprocess.Popen(command, env=environ,
                                stdin=settings.pop('stdin', subprocess.DEVNULL),
                                stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, cwd=self.directory, **settings)

    def run_tako(self, *arguments, **settings):
        """Run tako.py as a process to its end. Return its Result."""
        content = settings.pop('input', None)
        if content is not None:
            settings['stdin'] = subprocess.PIPE
        process = self.start(*arguments, **settings)
        out, err = process.communicate(content, timeout=RUN_SECONDS)
        out, err = (each.decode('utf-8', 'replace') for each in (out, err))
        result = Result(process.returncode, out, err)
        self.assertNoDefect(result)
        return result

    def _is_plain(self, settings):
        """Return whether a fork behaves like a new Python with these settings."""
        if FORKS is None or self.python != Scene.python:
            return False
        return set(settings) <= {'environ', 'limits', 'stdin'} and not any(
            name.startswith(('LC_', 'LANG', 'PYTHON')) for name in settings.get('environ', ()))

    def run_here(self, *arguments, **settings):
        """Run tako.main() in this process, where tests can patch it. Return its Result."""
        environ = environment(settings.pop('environ', {}))
        limits = settings.pop('limits', self.limits)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(unittest.mock.patch.dict(os.environ, environ, clear=True))
            for name, value in limits.items():
                stack.enter_context(unittest.mock.patch.object(tako, name, value))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            code = tako.main(arguments)
            gc.collect()        # files left open warn now, not in the middle of a later test
        result = Result(code, out.getvalue(), err.getvalue())
        self.assertNoDefect(result)
        return result

    def assertNoDefect(self, result):
        """The run met no exception that tako.py does not expect."""
        # The colon tells it from "alert internal error", which OpenSSL says of a server.
        for words in ('Traceback', 'internal error: '):
            self.assertNotIn(words, result.out + result.err)

    def assertCode(self, code, result):
        """The exit code is this one. After an error, stderr ends with a message and a hint."""
        self.assertEqual(code, result.code, result)
        if code not in (0, 130, 143):
            lines = result.err.splitlines()
            self.assertTrue(lines and lines[-2].startswith('tako: ') and lines[-1].startswith('  '),
                            result)

    def assertQuiet(self, result):
        """The run succeeded and printed nothing."""
        self.assertEqual((0, '', ''), (result.code, result.out, result.err))

    def assertInPlace(self, content, destination=None):
        """An image of this content is installed, read-only, and no temporary file is left."""
        root = destination or self.destination
        name = 'store/' + origin.digest_of(content)
        self.assertEqual(name, os.readlink(os.path.join(root, 'latest')))
        with open(os.path.join(root, 'latest'), 'rb') as stream:
            self.assertEqual(content, stream.read())
        self.assertEqual(0o444, stat.S_IMODE(os.stat(os.path.join(root, name)).st_mode))
        self.assertEqual(0o444, stat.S_IMODE(os.stat(os.path.join(root, 'manifest')).st_mode))
        self.assertNoTemporaries(root)

    def assertNoTemporaries(self, root=None):
        self.assertEqual([], [name for name in os.listdir(root or self.destination)
                              if name.endswith('.new')])


class UpdateScene(Scene):
    """An origin that offers 1.0 at first, and 1.1 and 2.0 after have_one(). The bounds are 1.*."""

    limits = {'PAUSE_BUDGET_SECONDS': 0.0}

    def setUp(self):
        super().setUp()
        self.origin = self.serve()
        self.one = self.origin.publish('1.0', ONE)
        self.app = self.config(self.origin.url, version='1.*')

    def have_one(self):
        """Install version 1.0, then publish 1.1 and 2.0. Return a snapshot of the destination."""
        self.assertCode(0, self.run_tako('fetch', self.app))
        self.two = self.origin.publish('1.1', TWO)
        self.origin.publish('2.0', THREE)
        self.origin.requests.clear()
        return snapshot(self.destination)

    def image_url(self, entry):
        return '/store/' + entry.digest


class ResumeScene(Scene):
    """A client without an image, and an origin with one that supports ranges."""

    limits = {'PAUSE_FIRST_SECONDS': 0.001, 'PAUSE_BUDGET_SECONDS': 0.02}

    def setUp(self):
        super().setUp()
        self.origin = self.serve()
        self.origin.has_ranges = True
        self.entry = self.origin.publish('1.0', IMAGE)
        self.image = '/store/' + self.entry.digest
        self.app = self.config(self.origin.url)
        self.partial = self.partial_of(self.entry)

    def partial_of(self, entry):
        """Return the path of the partial file of an image."""
        return self.path('destination', '.partial-' + entry.digest)

    def left_behind(self, content):
        """Write a partial image, as a killed run leaves it."""
        self.write('destination/.partial-' + self.entry.digest, content, 0o600)

    def anew(self):
        """Empty the destination and make the origin honest."""
        self.empty_destination()
        self.origin.requests.clear()
        self.origin.answers.clear()
        self.origin.faults.clear()

    def assertFetched(self, ranges, served=None):
        """The run installs the image without a warning, with these Range headers and answers."""
        result = self.run_here('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.0 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(IMAGE)
        self.assertEqual([], self.partials())
        self.assertEqual(ranges, self.origin.asked(self.image, 'Range'))
        if served is not None:
            self.assertEqual(served, self.origin.served(self.image))


class Clock:
    """Stands in for the time module of tako.py. Pauses are noted and take no time; time is real.

    on_sleep: called with the number of each pause, from 1 on, after it. is_real: whether time also
    passes between pauses; otherwise a busy machine changes nothing.
    """

    def __init__(self, on_sleep=None, is_real=True):
        self._is_real = is_real
        self.pauses = []
        self.ahead = 0.0
        self._on_sleep = on_sleep

    def __getattr__(self, name):
        return getattr(time, name)

    def monotonic(self):
        return (time.monotonic() if self._is_real else 0.0) + self.ahead

    def sleep(self, seconds):
        if seconds:
            self.pauses.append(seconds)
            self.ahead += seconds
            if self._on_sleep is not None:
                self._on_sleep(len(self.pauses))

    def patch(self):
        """Return a patch that puts this in place of the time module of tako.py."""
        return unittest.mock.patch.object(tako, 'time', self)


def free(size):
    """Let the file system report so many free bytes."""
    return unittest.mock.patch.object(os, 'statvfs', lambda _: types.SimpleNamespace(
        f_bavail=size, f_bfree=1 << 50, f_blocks=1 << 51, f_frsize=1, f_bsize=1 << 20))


def wait_until(condition, seconds=30):
    """Wait until condition() is true. Raises AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError('waited in vain')
        time.sleep(0.01)


def read(path):
    """Return the bytes of a file."""
    with open(path, 'rb') as stream:
        return stream.read()


def names(root):
    """Return the sorted names in a destination, without its notes of failures and its history."""
    return sorted(set(os.listdir(root)) - set(NOTES))


def snapshot(root, with_notes=False):
    """Return all that is below root: {name: (mode, link target or SHA-256)}.

    with_notes: also what a failed run writes for `tako status`, and the history.
    """
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            if name in NOTES and folder == root and not with_notes:
                continue
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                what = origin.digest_of(read(path))
            else:
                what = ''
            found[os.path.relpath(path, root)] = (status.st_mode, what)
    return found


def state(root):
    """Return the state of a destination, which must not be damaged."""
    notes = tako.StateFile(tako.Destination(root))
    assert not notes.is_damaged
    return notes.state


def write_state(root, new):
    """Write the state of a destination, without a time of success."""
    notes = tako.StateFile(tako.Destination(root))
    notes.write(new)
    if os.path.exists(notes.path):
        os.utime(notes.path, (0, 0))


def signed_manifest(root):
    """Return the bytes of the manifest of a directory; None if there is none."""
    path = os.path.join(root, 'manifest')
    return read(path) if os.path.exists(path) else None


def write_manifest(root, signed):
    """Write these bytes as the manifest of a directory."""
    tako.ImageDirectory(root).write_manifest(tako.SignedManifest(tako.Manifest(()), signed, ''))


def fault_of_latest(root, public_key=origin.PUBLIC_KEY):
    """Return what is wrong with latest, or None. It has to be absent or an intact listed image."""
    try:
        destination = tako.Destination(root, [tako.parse_public_key(public_key)])
        digest = destination.latest()
        if not digest:
            return None
        sizes = [entry.size for entry in destination.manifest().entries if entry.digest == digest]
        return destination.image_fault(digest,
                                       sizes[0]) or None if sizes else 'no manifest lists ' + digest
    except (tako.TakoError, OSError) as error:
        return str(error)


def as_root(*command):
    """Return what a command that needs root prints; None if it fails or cannot be run."""
    if os.getuid() != 0 or shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    return done.stdout.decode().strip() if done.returncode == 0 else None


def heed_signals():
    """Restore the default action of signals that the caller may ignore, as nohup does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def remove_tree(path):
    """Remove a directory, even if parts of it are read-only."""
    for folder, folders, _ in os.walk(path):
        for name in folders:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o755)
    shutil.rmtree(path)


# With TAKO_TESTS_START each run starts a Python, as in use.
FORKS = None if os.environ.get('TAKO_TESTS_START') or sys.platform != 'linux' else Forks()

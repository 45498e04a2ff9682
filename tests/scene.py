"""What the tests play on: a scratch directory, a client with its config, a run of tako.py as a process."""
import array
import atexit
import contextlib
import gc
import io
import json
import os
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
import unittest
import unittest.mock

import origin
import tako

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TAKO = os.path.join(PROJECT, 'tako.py')
NOBODY = 65534
RUN_SECONDS = 60
TEMPORARIES = [name for limit, name in vars(tako).items() if limit.startswith('NEW_')]  # what a killed run may leave


# starts tako.py with some of its limits changed: sys.argv[2] is their dict
WITH_LIMITS = """
import ast, os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import tako
for name, value in ast.literal_eval(sys.argv[2]).items():
    assert hasattr(tako, name)
    setattr(tako, name, value)
tako.stop_on_signals()
sys.exit(tako.main(sys.argv[3:]))
"""


class Result:
    """What a process left behind: its exit code and what it printed."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self):
        return 'exit code {}\nstdout: {}\nstderr: {}'.format(self.code, self.out, self.err)


def environment(changes):
    """The variables that a run gets: ours without what would change it, and these."""
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith('_proxy')}
    environ.pop('TAKO_SECRET_KEY', None)
    environ.update(changes)
    return environ


class Forks:
    """The process of forks.py. The forks of the process that starts it may use it, too."""

    def __init__(self):
        self._socket = None

    def start(self):
        """Start the process, unless it was started before."""
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                program = os.path.join(PROJECT, 'tests', 'forks.py'), str(theirs.fileno())
                self._process = subprocess.Popen(Scene.python + program, pass_fds=[theirs.fileno()],
                                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            atexit.register(self._stop, os.getpid())

    def _stop(self, starter):
        if os.getpid() == starter:
            self._socket.close()
            self._process.wait()

    def send(self, request, descriptors):
        """Send a request."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', descriptors).tobytes())
        self._socket.sendmsg([json.dumps(request).encode()], [rights])


class Fork(subprocess.Popen):
    """A run of tako.py that is a fork; to its user it is as any process."""

    def __init__(self, request, stdin):
        FORKS.start()
        self._request = request
        super().__init__(request['arguments'], stdin=stdin, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)

    def _execute_child(self, _, *settings):     # in place of the one that Popen has for POSIX
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
        """The exit code; None if it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        """Wait for the end; the exit code. Raises TimeoutExpired."""
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
        """Send a signal to the run, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


class Scene(unittest.TestCase):
    """A test with a scratch directory, self.directory, and a client in it."""

    limits = {}         # of tako's, to be other than they are
    python = (sys.executable, '-I', '-W', 'error')      # what runs it as a process

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix='tako-test-')
        self.addCleanup(remove_tree, self.directory)
        os.chmod(self.directory, 0o755)
        self.destination = os.path.join(self.directory, 'destination')
        os.mkdir(self.destination)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, content, mode=0o644):
        """A file in the scratch directory; its path."""
        path = self.path(name)
        origin.write(path, content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)
        return path

    def serve(self, name='served', **settings):
        """An origin whose directory has this name, until the test ends."""
        server = origin.Origin(self.path(name), **settings)
        server.__enter__()
        self.addCleanup(server.__exit__)
        return server

    def config(self, url, name='app.tako', version='*', public_keys=(origin.PUBLIC_KEY,), destination=None, more=''):
        """A config; its path."""
        lines = ['Origin=' + url, 'Destination=' + (destination or self.destination), 'Version=' + version]
        lines += ['PublicKey=' + key for key in public_keys]
        return self.write(name, '\n'.join(lines) + '\n' + more)

    def start(self, *arguments, **settings):
        """A running tako.py."""
        is_plain = self._is_plain(settings)
        environ = environment(settings.pop('environ', {}))
        limits = settings.pop('limits', self.limits)
        if is_plain:
            request = {'arguments': arguments, 'environ': environ, 'directory': self.directory,
                       'limits': limits, 'group': os.getpgrp()}
            return Fork(request, settings.get('stdin', subprocess.DEVNULL))
        settings.setdefault('preexec_fn', heed_signals)
        program = [TAKO]
        if settings.pop('as_nobody', False):
            program = ['-c', AS_NOBODY, TAKO]
        elif limits:
            program = ['-c', WITH_LIMITS, TAKO, repr(limits)]
        return subprocess.Popen(list(self.python) + program + list(arguments), env=environ,
                                stdin=settings.pop('stdin', subprocess.DEVNULL), stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, cwd=self.directory, **settings)

    def run_tako(self, *arguments, **settings):
        """Run tako.py as a process to its end; its Result."""
        content = settings.pop('input', None)
        if content is not None:
            settings['stdin'] = subprocess.PIPE
        process = self.start(*arguments, **settings)
        out, err = process.communicate(content, timeout=RUN_SECONDS)
        out, err = (each.decode('utf-8', 'replace') for each in (out, err))
        result = Result(process.returncode, out, err)
        self.assertNotIn('Traceback', result.err)
        self.assertNotIn('internal error', result.err)
        return result

    def _is_plain(self, settings):
        """Whether a fork behaves as a new Python would with these settings."""
        if FORKS is None or self.python != Scene.python:
            return False
        return set(settings) <= {'environ', 'limits', 'stdin'} and not any(
            name.startswith(('LC_', 'LANG', 'PYTHON')) for name in settings.get('environ', ()))

    def run_here(self, *arguments, **settings):
        """Run tako.main() in this process, where what it uses can be patched; its Result."""
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
            gc.collect()                # what was left open says so now, not in the middle of a later test
        result = Result(code, out.getvalue(), err.getvalue())
        self.assertNotIn('Traceback', result.err)
        self.assertNotIn('internal error', result.err)
        return result

    def assertCode(self, code, result):
        """The exit code is code; in trouble, stderr has a message and what to do about it."""
        self.assertEqual(code, result.code, result)
        if code not in (0, 130, 143):
            lines = result.err.splitlines()
            self.assertTrue(lines and lines[-2].startswith('tako: ') and lines[-1].startswith('  '), result)

    def assertQuiet(self, result):
        """The run succeeded without a word."""
        self.assertEqual((0, '', ''), (result.code, result.out, result.err))

    def assertInPlace(self, content, destination=None):
        """latest names an image with this content, read-only, under its digest; no temporary is left."""
        root = destination or self.destination
        name = 'store/' + origin.digest_of(content)
        self.assertEqual(name, os.readlink(os.path.join(root, 'latest')))
        with open(os.path.join(root, 'latest'), 'rb') as stream:
            self.assertEqual(content, stream.read())
        self.assertEqual(0o444, stat.S_IMODE(os.stat(os.path.join(root, name)).st_mode))
        self.assertEqual(0o444, stat.S_IMODE(os.stat(os.path.join(root, 'manifest')).st_mode))
        self.assertNoTemporaries(root)

    def assertNoTemporaries(self, root=None):
        self.assertEqual([], [name for name in os.listdir(root or self.destination) if name.endswith('.new')])


class Clock:
    """Stands in for tako's time module: its pauses are noted and pass at once; all else is real.

    on_sleep: called with the number of each pause, from 1 on, once it is over.
    """

    def __init__(self, on_sleep=None):
        self.pauses = []
        self.ahead = 0.0
        self._on_sleep = on_sleep

    def __getattr__(self, name):
        return getattr(time, name)

    def monotonic(self):
        return time.monotonic() + self.ahead

    def sleep(self, seconds):
        if seconds:
            self.pauses.append(seconds)
            self.ahead += seconds
            if self._on_sleep is not None:
                self._on_sleep(len(self.pauses))

    def patch(self):
        """In force while the `with` lasts."""
        return unittest.mock.patch.object(tako, 'time', self)


def read(path):
    with open(path, 'rb') as stream:
        return stream.read()


def snapshot(root):
    """Everything below root: names, modes, link targets and bytes."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                what = origin.digest_of(read(path))
            else:
                what = ''
            found[os.path.relpath(path, root)] = (status.st_mode, what)
    return found


def fault_of_latest(root, public_key=origin.PUBLIC_KEY):
    """How latest breaks its promise, to be absent or a whole image that the manifest lists; None if it keeps it."""
    try:
        digest = tako.linked_digest(root)
        if digest is None:
            return None
        manifest = tako.open_manifest(tako.read_manifest(root), [tako.parse_public_key(public_key)], 'manifest')
        faults = [tako.image_fault(root, entry) for entry in manifest.entries if entry.digest == digest]
        return faults[0] if faults else 'no manifest lists ' + digest
    except (tako.TakoError, OSError, TypeError) as error:
        return str(error)


def heed_signals():
    """Let the process end by signals that whoever started the tests may ignore, as nohup does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def remove_tree(path):
    for folder, folders, _ in os.walk(path):
        for name in folders:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o755)
    shutil.rmtree(path)


# TAKO_TESTS_START, if set, has each run start a Python, as it is in use
FORKS = None if os.environ.get('TAKO_TESTS_START') or sys.platform != 'linux' else Forks()

# root may write everywhere, so a test of permissions runs as nobody, who may not even read this Python's modules
AS_NOBODY = """
import os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
import array, bisect, difflib, encodings.idna, http.client, locale, lzma, select, ssl, struct, urllib.request, zlib
import tako
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({0})
    os.setuid({0})
os._exit(tako.main(sys.argv[2:]))      # nothing is to be written as nobody, by coverage either
""".format(NOBODY)

"""The flows that the suites power and syscalls interrupt.

A flow is a run with a known directory at its beginning and its end. The promise holds at every
moment: see check_promise(). However a run ended, one more ordinary run leads to the known end;
after a rollback, which counts as a failure, two more runs. FLOWS= chooses flows by a part of
their names.
"""
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import zlib
from collections import namedtuple

import fake_systemd
import origin
import patches
import scene
import stamps
import tako

from kernel import calls

SECRET = tako.format_secret_key(origin.SEED)
KEY = tako.parse_public_key(origin.PUBLIC_KEY)
# the message of the flow rollback
ROLLED_BACK = 'rolled back to 1.1, and 2.0 is rejected'
MEMORY = os.environ.get('PROVE_MEMORY', '/dev/shm')
FREE_BYTES_MIN = 1 << 30
check = unittest.TestCase()
check.maxDiff = None


class Flow(namedtuple('Flow', ('name', 'begins', 'config', 'options'))):
    """A fetch or a store of a new version.

    begins: the directory that it begins with. config: of the fetch; '' for a store. In the flow
    rollback the unit fails on the new image.
    """

    __slots__ = ()

    def __str__(self):
        return self.name

    def code(self):
        """Return the exit code of an undisturbed run."""
        return 1 if self.name == 'rollback' else 0


CONFIG = '''Origin={}
Destination={}
PublicKey={}
Version=*
Keep=1
Restart=app.service
Confirm=0
'''
FLOWS = (
    Flow('first', 'empty', 'file', ()),
    Flow('stamped', 'empty', 'stamped', ()),
    Flow('update', 'old', 'http', ('--no-delta',)),
    Flow('delta', 'old', 'http', ()),
    Flow('patch', 'old', 'http', ()),
    Flow('recompression', 'old', 'metered', ()),
    Flow('rollback', 'old', 'http', ('--no-delta',)),
    Flow('repair', 'damaged', 'http', ()),
    Flow('store', 'published', '', ()),
    Flow('first store', 'empty', '', ()),
)
# those that are interrupted
CHOSEN = tuple(flow for flow in FLOWS if os.environ.get('FLOWS', '') in flow.name)


def images(size):
    """Return three versions of an image: the third is the second with small changes.

    These two end with a compressed stream, whose content changes as well.
    """
    chance = random.Random(1)
    zero, one = (bytes(bytearray(chance.getrandbits(8) for _ in range(size))) for _ in range(2))
    added = bytes(bytearray(chance.getrandbits(8) for _ in range(size // 16)))
    two, third = bytearray(one), size // 3
    for spot in range(size // 8, size, size // 4):
        two[spot:spot + 100] = b'changed' * 15
    halved = [bytes(each[:size // 4]).translate(bytes(range(16)) * 16) for each in (one, two)]
    packed = [zlib.compress(each, 9) for each in halved]
    # The new chunk occurs twice. The second time it is copied within the image.
    return zero, one + packed[0], bytes(two[:third] + added + two[third:2 * third] + added
                                        + two[2 * third:]) + packed[1]


def has_room(folder):
    """Return whether a directory exists, is writable, and is large enough."""
    if not os.access(folder, os.W_OK):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= FREE_BYTES_MIN


@contextlib.contextmanager
def scratch(prefix, size):
    """Yield a Scratch with images of `size` bytes, in memory if there is room, for fast fsync."""
    parent = MEMORY if has_room(MEMORY) else None
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as directory:
        os.chmod(directory, 0o755)
        with Scratch(os.path.realpath(directory), size) as made:
            yield made


class Scratch:
    """A scratch directory with an origin, in which flows run.

    `disk` contains only `root`, the destination of a fetch or the directory of a store.
    """

    def __init__(self, directory, size):
        self.directory = directory
        self.disk = self.path('disk')
        self.root = os.path.join(self.disk, 'root')
        self.server = origin.Origin(self.path('served'))
        self.server.has_ranges = True
        self.zero, self.one, self.two = images(size)
        self.expected = {}              # name of a flow -> the directory after it
        self.indexes = {}               # name of a flow, '' for others -> index of the new image

    def __enter__(self):
        for name in ('disk', 'begin'):
            os.mkdir(self.path(name))
        self.server.__enter__()
        self.write('image', self.two)
        local = 'file://' + self.path('served')
        for name, url, more in (('file', local, ''), ('http', self.server.url, ''),
                                ('metered', self.server.url, 'Metered=yes\n'),
                                ('stamped', local, 'StampKey={}\n'.format(stamps.PUBLIC_KEY))):
            config = CONFIG.format(url, self.root, origin.PUBLIC_KEY) + more
            self.write(name + '.tako', config.encode())
        self._make_beginnings()
        for flow in FLOWS:
            self.begin(flow)
            begin = len(self.server.requests)
            self.finish(flow)
            self.expected[flow.name] = self.lasting()
            self.check_requests(flow, self.server.requests[begin:])
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, content):
        origin.write(self.path(name), content)

    def _make_beginnings(self):
        """Make the directories that flows begin with, by runs of Tako."""
        os.mkdir(self.root)
        self._save('empty')
        for version, content in (('1.0', self.zero), ('1.1', self.one)):
            self.write('older', content)
            self._run_successfully('store', '-o', self.root, self.path('older'), version)
        self._save('published')
        self.begin(FLOWS[0])
        for version, content in (('1.0', self.zero), ('1.1', self.one)):
            self.server.index(self.server.publish(version, content))
            self._run_successfully('fetch', self.path('http.tako'))
        self.old = scene.signed_manifest(self.root)
        self._save('old')
        self._publish_new()
        self.new = self.server.read('manifest')
        self.server.write('stamp', stamps.stamped(self.new, int(time.time())))
        self._run_successfully('fetch', self.path('http.tako'))
        latest = os.path.join(self.root, 'latest')
        self.damaged = self.two[:1000] + b'damaged' + self.two[1007:]
        origin.write(os.path.realpath(latest), self.damaged)
        os.chmod(os.path.realpath(latest), 0o444)
        self._save('damaged')

    def _publish_new(self):
        """Publish the new image with an index, and keep those that list a patch."""
        self.index = self.server.index(self.server.publish('2.0', self.two))[1:]
        plain, old_digest = self.server.read(self.index), origin.digest_of(self.one)
        index = tako.parse_index(plain, len(self.two))
        self.indexes[''] = plain
        for name, suffix, listed, patch in (
                ('patch', '', old_digest, patches.make(self.one, self.two)),
                ('recompression', '.2', tako.inverted(old_digest),
                 patches.recompression(self.one, self.two))):
            self.server.write('store/{}.{}{}.patch'.format(
                origin.digest_of(self.two), old_digest, suffix), patch)
            self.indexes[name] = tako.format_index(index._replace(
                patches=((listed, len(patch)),)))

    def _save(self, name):
        shutil.copytree(self.root, self.path('begin', name), symlinks=True)

    def _run_successfully(self, *arguments):
        result = self.run([], *arguments)
        check.assertEqual(0, result.code, result)

    def begin(self, flow):
        """Set up root and the origin for a flow."""
        self.offer(flow)
        shutil.rmtree(self.root)
        shutil.copytree(self.path('begin', flow.begins), self.root, symlinks=True)
        self.forget()

    def forget(self):
        """Forget all units and restarts, as after a boot."""
        self.write('called', b'')
        fake_systemd.reboot(self.directory)

    def offer(self, flow):
        """Let the index list a patch and the unit fail, if the flow is for that."""
        bad = [origin.digest_of(self.two)] if flow.name == 'rollback' else []
        fake_systemd.install(self.directory, self.root, fake_systemd.FAILS, bad)
        if self.indexes:
            self.server.write(self.index, self.indexes.get(flow.name, self.indexes['']))

    def arguments(self, flow):
        if flow.config:
            return ['fetch'] + list(flow.options) + [self.path(flow.config + '.tako')]
        return ['store', '-o', self.root, self.path('image'), '2.0']

    def start(self, prefix, *arguments, **settings):
        """Start tako.py in its own process group, with a prefix of its command."""
        environ = {'PATH': self.path('bin') + ':/usr/bin:/bin', 'TAKO_SECRET_KEY': SECRET,
                   'LC_ALL': 'C.UTF-8'}
        settings.setdefault('stdin', subprocess.DEVNULL)
        return subprocess.Popen(list(prefix) + list(calls.TAKO) + list(arguments), env=environ,
                                cwd='/', stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True, **settings)

    def run(self, prefix, *arguments):
        """Run tako.py to its end. Return its Result."""
        process = self.start(prefix, *arguments)
        try:
            out, err = process.communicate(timeout=120)
        except BaseException:           # a process would prevent the unmount
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return scene.Result(process.returncode, out.decode(errors='replace'),
                            err.decode(errors='replace'))

    def run_flow(self, flow):
        """Return a function that runs a flow with a prefix of its command."""
        return lambda prefix: self.run(prefix, *self.arguments(flow))

    def finish(self, flow):
        """Do one ordinary run, which must succeed and leave all as expected."""
        result = self.run([], *self.arguments(flow))
        if flow.name == 'rollback' and result.code:     # the unit failed in this run
            check.assertEqual(flow.code(), result.code, result)
            check.assertIn(ROLLED_BACK, result.err)
            result = self.run([], *self.arguments(flow))
        check.assertEqual(0, result.code, result)
        self.check_end(flow)

    def check_end(self, flow):
        """Check that names, modes, links and bytes are as the flow leaves them."""
        if flow.name in self.expected:
            check.assertEqual(self.expected[flow.name], self.lasting())
        temporary = [name for name in os.listdir(self.root)
                     if name.endswith('.new') or name.startswith('.partial-')]
        check.assertEqual([], temporary)
        self.check_done(flow)
        if flow.config and flow.name != 'repair':
            restarts = fake_systemd.restarts(self.directory)
            check.assertEqual([origin.digest_of(self.content(flow))], restarts[-1:],
                              'a restart was lost')
        if flow.name == 'rollback':
            check.assertEqual((origin.digest_of(self.two),), scene.state(self.root).rejected)

    def check_done(self, flow):
        """Check that the new image is installed or published, as after a success."""
        if not flow.config:
            self.check_published(flow, is_done=True)
            return
        digest = origin.digest_of(self.content(flow))
        check.assertEqual(digest, tako.Destination(self.root).latest())
        check.assertEqual(digest, origin.digest_of(scene.read(os.path.join(self.root, 'latest'))))
        check.assertEqual(self.new, scene.signed_manifest(self.root))

    def content(self, flow):
        """Return the image that a flow leaves installed."""
        return self.one if flow.name == 'rollback' else self.two

    def lasting(self):
        """Return a snapshot of root without notes, indexes of a client, and the content of .state.

        They depend on how the run ended. A client downloads a lost index with the next image.
        """
        files = scene.snapshot(self.root)
        is_client = os.path.lexists(os.path.join(self.root, 'latest'))
        return {name: (mode, '' if name == '.state' else content)
                for name, (mode, content) in files.items()
                if not (is_client and name.endswith('.chunks'))}

    def check_requests(self, flow, requests):
        """Check that a whole run requested ranges or patches if the flow is for them."""
        ranges = [path for path, headers in requests
                  if 'Range' in headers and not path.endswith(('.chunks', '.patch'))]
        kinds = {path.endswith('.2.patch') for path, _ in requests if path.endswith('.patch')}
        check.assertEqual((flow.name in ('delta', 'repair'),
                           {'patch': {False}, 'recompression': {True}}.get(flow.name, set())),
                          (bool(ranges), kinds), 'not what the flow is for')

    def check_promise(self, flow):
        """Check what holds at every moment of a flow.

        Each image has the bytes of its name. The manifest and latest are the old or the new ones.
        Only in the flow repair an image may have its damaged bytes.
        """
        if not flow.config:
            self.check_published(flow, is_done=False)
            return
        destination = tako.Destination(self.root)
        for name, size in destination.images().items():
            content = scene.read(destination.image_path(name))
            check.assertTrue(name == origin.digest_of(content)
                             or (flow.name == 'repair' and content == self.damaged),
                             'store/{} has {} other bytes'.format(name, size))
        one, two = origin.digest_of(self.one), origin.digest_of(self.two)
        old_manifest, old_digest = {'empty': (None, ''), 'old': (self.old, one)}.get(
            flow.begins, (self.new, two))
        check.assertIn(scene.signed_manifest(self.root), (self.new, old_manifest))
        check.assertIn(destination.latest(), (old_digest, two))
        if flow.name == 'stamped' and destination.images():
            check.assertEqual(self.server.read('stamp'), scene.read(destination.stamp_path))
        if flow.name != 'repair':
            check.assertIsNone(scene.fault_of_latest(self.root))

    def check_published(self, flow, is_done):
        """Check that the manifest lists intact images: all old ones, and the new one if is_done."""
        directory = tako.ImageDirectory(self.root)
        before = ['1.0', '1.1'] if flow.begins == 'published' else []
        signed, manifest = scene.signed_manifest(self.root), tako.Manifest(())
        if signed is not None:
            manifest = tako.open_manifest(signed, [KEY], 'manifest')
        listed = [entry.version.text for entry in manifest.entries]
        check.assertIn(listed, (before + ['2.0'],) if is_done else (before, before + ['2.0']))
        for entry in manifest.entries:
            check.assertEqual('', directory.image_fault(entry.digest, entry.size), entry)
            with open(directory.index_path(entry.digest), 'rb') as stream:
                check.assertEqual(entry.size, tako.parse_index(stream.read(), entry.size).size)

    def check_words(self, result):
        """Check that an error has a message and a hint, and that no line is another program's."""
        check.assertNotIn('Traceback', result.err)
        check.assertNotIn('internal error', result.err)
        lines = result.err.splitlines()
        check.assertTrue(all(re.match('tako: .|  .', line) for line in lines), result)
        if result.code > 0:
            check.assertTrue(len(lines) > 1 and lines[-2].startswith('tako: ')
                             and lines[-1].startswith('  '), result)

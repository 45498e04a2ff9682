"""What runs of tako.py are cut off, or made to fail, on: an origin, directories to begin from, and the flows.

A flow is a run that begins with a known directory and has a known end. Its promise holds at any instant, and
one ordinary run more brings that end about, whatever became of the first; of a rollback, which is no success, two.
"""
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import unittest
from collections import namedtuple

import fake_systemd
import origin
import scene
import tako

from kernel import calls

SECRET = tako.format_secret_key(origin.SEED)
KEY = tako.parse_public_key(origin.PUBLIC_KEY)
# its unit fails on one image, the one that {bad} names
ROLLED_BACK = 'rolled back to 1.1, and 2.0 is rejected'
MEMORY = os.environ.get('PROVE_MEMORY', '/dev/shm')
ROOM_BYTES = 1 << 30
check = unittest.TestCase()
check.maxDiff = None


class Flow(namedtuple('Flow', ('name', 'begins', 'config', 'options'))):
    """begins: the directory that it begins with. config: that it fetches with; or empty if it stores.

    In a rollback the unit fails on the new image.
    """

    __slots__ = ()

    def __str__(self):
        return self.name

    def code(self):
        """The exit code of a run that nothing comes between."""
        return 1 if self.name == 'rollback' else 0


FLOWS = (
    Flow('first', 'empty', 'file', ()),
    Flow('update', 'old', 'http', ('--no-delta',)),
    Flow('delta', 'old', 'http', ()),
    Flow('patch', 'old', 'http', ()),
    Flow('rollback', 'old', 'http', ('--no-delta',)),
    Flow('repair', 'damaged', 'http', ()),
    Flow('store', 'published', '', ()),
    Flow('first store', 'empty', '', ()),
)


def images(size):
    """Three versions of an image: two are strangers, the third is the second with changes here and there."""
    chance = random.Random(1)
    zero, one = (bytes(bytearray(chance.getrandbits(8) for _ in range(size))) for _ in range(2))
    added = bytes(bytearray(chance.getrandbits(8) for _ in range(size // 16)))
    two, third = bytearray(one), size // 3
    for spot in range(size // 8, size, size // 4):
        two[spot:spot + 100] = b'changed' * 15
    # what is new comes twice: the second time it is copied within the image
    return zero, one, bytes(two[:third] + added + two[third:2 * third] + added + two[2 * third:])


def has_room(folder):
    """Whether it is there, for us to write, and large enough for all that is made."""
    if not os.access(folder, os.W_OK):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= ROOM_BYTES


@contextlib.contextmanager
def scratch(prefix, size):
    """A Ground with images of so many bytes while the `with` lasts: in memory where that can be, as fsync is quick there."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=MEMORY if has_room(MEMORY) else None) as directory:
        os.chmod(directory, 0o755)
        with Ground(os.path.realpath(directory), size) as ground:
            yield ground


class Ground:
    """A scratch directory with an origin, and `root`, in which the flows run; `disk` is what holds that alone."""

    def __init__(self, directory, size):
        self.directory = directory
        self.disk = self.path('disk')
        self.root = os.path.join(self.disk, 'root')
        self.server = origin.Origin(self.path('served'))
        self.server.has_ranges = True
        self.zero, self.one, self.two = images(size)
        self.expected = {}              # of each flow, by its name: what it leaves
        self.indexes = {}               # of the new image, by whether it lists a patch

    def __enter__(self):
        for name in ('disk', 'begin'):
            os.mkdir(self.path(name))
        self.server.__enter__()
        self.write('image', self.two)
        for name, url in (('file', 'file://' + self.path('served')), ('http', self.server.url)):
            self.write(name + '.tako', ('Origin={}\nDestination={}\nPublicKey={}\nVersion=*\nKeep=1\n'
                                        'Restart=app.service\nConfirm=0\n')
                       .format(url, self.root, origin.PUBLIC_KEY).encode())
        self._make_beginnings()
        for flow in FLOWS:
            self.begin(flow)
            asked = len(self.server.requests)
            self.finish(flow)
            self.expected[flow.name] = self.lasting()
            self.check_asked(flow, self.server.requests[asked:])
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, name, content):
        origin.write(self.path(name), content)

    def _make_beginnings(self):
        """The directories that flows begin with, each as Tako itself left it."""
        os.mkdir(self.root)
        self._keep('empty')
        for version, content in (('1.0', self.zero), ('1.1', self.one)):
            self.write('older', content)
            self._run_well('store', '-o', self.root, self.path('older'), version)
        self._keep('published')
        self.begin(FLOWS[0])
        for version, content in (('1.0', self.zero), ('1.1', self.one)):
            self.server.index(self.server.publish(version, content))
            self._run_well('fetch', self.path('http.tako'))
        self.old = scene.signed_manifest(self.root)
        self._keep('old')
        self._publish_new()
        self.new = self.server.read('manifest')
        self._run_well('fetch', self.path('http.tako'))
        latest = os.path.join(self.root, 'latest')
        self.damaged = self.two[:1000] + b'damaged' + self.two[1007:]
        origin.write(os.path.realpath(latest), self.damaged)
        os.chmod(os.path.realpath(latest), 0o444)
        self._keep('damaged')

    def _publish_new(self):
        """The new image with its index: that of most flows, and one that lists a patch."""
        pieces, older = [], origin.digest_of(self.one)
        self.index = self.server.index(self.server.publish('2.0', self.two))[1:]
        tako.make_patch(self.one, self.two, pieces.append, 64 << 20, lambda _: None)
        patch = b''.join(pieces)
        self.server.write('store/{}.{}.patch'.format(origin.digest_of(self.two), older), patch)
        plain = self.server.read(self.index)
        patched = tako.format_index(tako.parse_index(plain, len(self.two))._replace(patches=((older, len(patch)),)))
        self.indexes = {False: plain, True: patched}

    def _keep(self, name):
        shutil.copytree(self.root, self.path('begin', name), symlinks=True)

    def _run_well(self, *arguments):
        result = self.run([], *arguments)
        check.assertEqual(0, result.code, result)

    def begin(self, flow):
        """Let root be what the flow begins with, and the origin offer what it is for."""
        self.offer(flow)
        shutil.rmtree(self.root)
        shutil.copytree(self.path('begin', flow.begins), self.root, symlinks=True)
        self.forget()

    def forget(self):
        """The machine has booted anew: no unit runs, and no restart is noted."""
        self.write('called', b'')
        fake_systemd.reboot(self.directory)

    def offer(self, flow):
        """Let the origin list a patch, or none, and the unit fail, or not, as the flow is for."""
        bad = [origin.digest_of(self.two)] if flow.name == 'rollback' else []
        fake_systemd.install(self.directory, self.root, fake_systemd.FAILS, bad)
        if self.indexes:
            self.server.write(self.index, self.indexes[flow.name == 'patch'])

    def arguments(self, flow):
        if flow.config:
            return ['fetch'] + list(flow.options) + [self.path(flow.config + '.tako')]
        return ['store', '-o', self.root, self.path('image'), '2.0']

    def start(self, prefix, *arguments, **settings):
        """A running tako.py, its command begun with prefix, in a process group of its own."""
        environ = {'PATH': self.path('bin') + ':/usr/bin:/bin', 'TAKO_SECRET_KEY': SECRET, 'LC_ALL': 'C.UTF-8'}
        settings.setdefault('stdin', subprocess.DEVNULL)
        return subprocess.Popen(list(prefix) + list(calls.TAKO) + list(arguments), env=environ, cwd='/',
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **settings)

    def run(self, prefix, *arguments):
        """Run it to its end; its Result."""
        process = self.start(prefix, *arguments)
        try:
            out, err = process.communicate(timeout=120)
        except BaseException:           # it holds what is to be unmounted
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return scene.Result(process.returncode, out.decode(errors='replace'), err.decode(errors='replace'))

    def run_flow(self, flow):
        """What runs a flow, whatever its command begins with."""
        return lambda prefix: self.run(prefix, *self.arguments(flow))

    def finish(self, flow):
        """One ordinary run, which succeeds, and after which all is as it should be."""
        result = self.run([], *self.arguments(flow))
        if flow.name == 'rollback' and result.code:     # the run in which the unit's failure shows
            check.assertEqual(flow.code(), result.code, result)
            check.assertIn(ROLLED_BACK, result.err)
            result = self.run([], *self.arguments(flow))
        check.assertEqual(0, result.code, result)
        self.check_end(flow)

    def check_end(self, flow):
        """All is as the flow leaves it: names, modes, links and bytes."""
        if flow.name in self.expected:
            check.assertEqual(self.expected[flow.name], self.lasting())
        temporary = [name for name in os.listdir(self.root) if name.endswith('.new') or name.startswith('.partial-')]
        check.assertEqual([], temporary)
        self.check_done(flow)
        if flow.config and flow.name != 'repair':
            restarts = fake_systemd.restarts(self.directory)
            check.assertEqual([origin.digest_of(self.content(flow))], restarts[-1:], 'a restart was lost')
        if flow.name == 'rollback':
            check.assertEqual((origin.digest_of(self.two),), scene.state(self.root).rejected)

    def check_done(self, flow):
        """What a run that succeeded has brought to the disk."""
        if not flow.config:
            self.check_published(flow, is_done=True)
            return
        digest = origin.digest_of(self.content(flow))
        check.assertEqual(digest, tako.Destination(self.root).latest())
        check.assertEqual(digest, origin.digest_of(scene.read(os.path.join(self.root, 'latest'))))
        check.assertEqual(self.new, scene.signed_manifest(self.root))

    def content(self, flow):
        """That of the image which a flow leaves in place."""
        return self.one if flow.name == 'rollback' else self.two

    def lasting(self):
        """What is in root, but the words of .state, which tell how it came to that.

        Nor does a client owe the indexes that it keeps: what is lost of them is got with another image.
        """
        found, is_client = scene.snapshot(self.root), os.path.lexists(os.path.join(self.root, 'latest'))
        return {name: (mode, '' if name == '.state' else what) for name, (mode, what) in found.items()
                if not (is_client and name.endswith('.chunks'))}

    def check_asked(self, flow, requests):
        """A whole run has asked for ranges and patches where the flow is for these, and nowhere else."""
        ranges = [path for path, headers in requests if 'Range' in headers and not path.endswith('.chunks')]
        patches = [path for path, _ in requests if path.endswith('.patch')]
        check.assertEqual((flow.name in ('delta', 'repair'), flow.name == 'patch'), (bool(ranges), bool(patches)),
                          'not what the flow is for')

    def check_promise(self, flow):
        """What holds at every instant of a flow."""
        if not flow.config:
            self.check_published(flow, is_done=False)
            return
        destination = tako.Destination(self.root)
        for name, size in destination.images().items():
            content = scene.read(destination.image_path(name))
            check.assertTrue(name == origin.digest_of(content) or (flow.name == 'repair' and content == self.damaged),
                             'store/{} has {} other bytes'.format(name, size))
        linked, manifest = destination.latest(), scene.signed_manifest(self.root)
        check.assertIn(manifest, (self.new, {'empty': None, 'old': self.old}.get(flow.begins, self.new)))
        before = {'empty': '', 'old': origin.digest_of(self.one)}.get(flow.begins, origin.digest_of(self.two))
        check.assertIn(linked, (before, origin.digest_of(self.two)))
        if flow.name != 'repair':
            check.assertIsNone(scene.fault_of_latest(self.root))

    def check_published(self, flow, is_done):
        """The manifest lists what it listed, and the new version, which it may lack until that is done; each is whole."""
        directory = tako.ImageDirectory(self.root)
        before, signed = ['1.0', '1.1'] if flow.begins == 'published' else [], scene.signed_manifest(self.root)
        manifest = tako.Manifest(()) if signed is None else tako.open_manifest(signed, [KEY], 'manifest')
        listed = [entry.version.text for entry in manifest.entries]
        check.assertIn(listed, (before + ['2.0'],) if is_done else (before, before + ['2.0']))
        for entry in manifest.entries:
            check.assertEqual('', directory.image_fault(entry.digest, entry.size), entry)
            with open(directory.index_path(entry.digest), 'rb') as stream:
                check.assertEqual(entry.size, tako.parse_index(stream.read(), entry.size).size)

    def check_words(self, result):
        """In trouble there is a message with a hint, and never anything else."""
        check.assertNotIn('Traceback', result.err)
        check.assertNotIn('internal error', result.err)
        lines = result.err.splitlines()
        check.assertTrue(all(re.match('tako: .|  .', line) for line in lines), result)
        if result.code > 0:
            check.assertTrue(len(lines) > 1 and lines[-2].startswith('tako: ') and lines[-1].startswith('  '), result)

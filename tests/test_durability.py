"""Sections 17 and 19: a run that a kill or a power cut ends at any step, and the next run after it.

The runs are forks of one process, which is this file run as a program, so a thousand runs take no
start of Python. It differs from forks.py in that it patches tako.py and os in each run.
"""
import functools
import gc
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import traceback

import origin
import fake_systemd
import forks
import patches
import scene
import stamps
import tako

RESTART = 'Restart=app.service\nConfirm=0\n'
# Of two images, each has a compressed stream. The streams differ, though little of the content.
PACKED = [patches.packed([scene.prose(20000) + scene.noise(900, seed)], gap=scene.noise(2000))
          for seed in (1, 2)]
ONE, TWO, THREE = b'image one' * 300, b'image two' * 400, b'image three' * 500
KEYS = [tako.parse_public_key(key) for key in (origin.PUBLIC_KEY, origin.OTHER_PUBLIC_KEY)]
RUN_IN_A_FORK = os.path.abspath(__file__)
IS_ROOT = os.getuid() == 0



# ---- the process whose forks are the runs

def serve_runs():
    """Read requests from standard input, a JSON object a line; run each and print its status."""
    forks.load()
    tako.seal_manifest(tako.Manifest((origin.entry_of('1', ONE),)), origin.SEED)
    gc.disable()                # a collection would touch, and so copy, all that forks share
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run(asked))
        print(os.waitpid(child, 0)[1], flush=True)


def run(asked):
    """Do a requested run in this fork. Return its exit code."""
    try:
        for descriptor, path in enumerate((os.devnull, asked['out'], asked['err'])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), descriptor)
        os.chdir(asked['root'])
        os.environ.update(asked['environ'])
        os.umask(0o077)                         # files must be readable whatever the umask
        tako.PAUSE_BUDGET_SECONDS = 0.0
        tako.RELEASED = 1                       # stamps have the time of this machine
        tako.DELTA_MIN_BYTES, tako.RANGE_GAP_BYTES = asked['delta_min_bytes'], 0
        steps = Steps(asked)
        if IS_ROOT:                             # no mode of a file stops root
            os.setgroups([])
            os.setgid(scene.NOBODY)
            os.setuid(scene.NOBODY)
        steps.watch()
        code = tako.main(asked['arguments'])
        sys.stdout.flush()
        sys.stderr.flush()
        return code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 99


class Steps:
    """The steps of a run that change the disk or its units. It counts and writes them down.

    If a step is the last, it kills the run before or after that step.
    """

    def __init__(self, asked):
        self.root = asked['root']
        self.last = asked['step']
        self.is_before = asked['is_before']
        self.trace = open(asked['trace'], 'w') if asked['trace'] else None
        self.count = 0

    def watch(self):
        for module, name, describe in (
                (os, 'open', self.opening), (os, 'mkdir', self.making),
                (os, 'chmod', self.naming('chmod')),
                (os, 'fchmod', self.naming('chmod')), (os, 'fsync', self.syncing),
                (os, 'symlink', self.linking),
                (os, 'rename', self.renaming), (os, 'unlink', self.naming('unlink')),
                (os, 'utime', self.naming('utime')), (tako, '_systemctl', self.commanding),
                (tako.NewFile, 'write', self.writing),
                (tako.PartialFile, 'extend', self.filling('extend')),
                (tako.PartialFile, 'copy', self.filling('copy')),
                (tako.PartialFile, 'write_at', self.filling('put'))):
            setattr(module, name, self.watched(getattr(module, name), describe))

    def watched(self, function, describe):
        @functools.wraps(function)
        def step(*arguments, **settings):
            what = describe(*arguments)
            if what is None:
                return function(*arguments, **settings)
            self.count += 1
            is_last = self.count == self.last
            if is_last and what[0] == 'write':
                self.tear(*arguments)
            if is_last and self.is_before:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.trace is not None:
                self.trace.write(json.dumps(what) + '\n')
                self.trace.flush()
            # Do not sync: a kill undoes nothing, and Disk knows what a power cut undoes.
            result = None if what[0] == 'sync' else function(*arguments, **settings)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return step

    def tear(self, file, chunk):
        """Write half of a chunk or all of it, and kill the run."""
        with open(file.temporary, 'ab') as stream:
            stream.write(chunk[:len(chunk) // 2] if self.is_before else chunk)
        os.kill(os.getpid(), signal.SIGKILL)

    def short(self, path):
        path = os.readlink('/proc/self/fd/{}'.format(path)) if isinstance(path, int) else path
        return os.path.relpath(path, self.root)

    # ---- what each step does, as words; None if it changes nothing

    def opening(self, path, flags, mode=0o777):
        is_new = flags & os.O_CREAT and not os.path.lexists(path)
        return ['create', self.short(path)] if is_new else None

    def making(self, path, mode=0o777):
        mask = os.umask(0)
        os.umask(mask)
        return ['mkdir', self.short(path), mode & ~mask]

    def naming(self, word):
        def describe(path, *_):
            is_there = isinstance(path, int) or os.path.lexists(path)
            return [word, self.short(path)] if is_there else None
        return describe

    def syncing(self, descriptor):
        path = os.readlink('/proc/self/fd/{}'.format(descriptor))
        status = os.fstat(descriptor)
        content = '' if stat.S_ISDIR(status.st_mode) else scene.read(path).decode('latin-1')
        return ['sync', self.short(descriptor), stat.S_IMODE(status.st_mode), content]

    def renaming(self, path, to):
        return ['rename', self.short(path), self.short(to)]

    def linking(self, target, path):
        return ['symlink', target, self.short(path)]

    def commanding(self, manager, verb, *arguments):
        return ['systemctl', verb] + list(arguments) if verb == 'restart' else None

    def writing(self, file, chunk):
        return ['write', self.short(file.temporary)] if chunk else None

    def filling(self, word):
        return lambda file, *_: [word, self.short(file.temporary)]


# ---- the tests

class CrashCase(scene.Scene):
    """A test that kills its runs at chosen steps. If root runs the test, its runs are nobody's."""

    delta_min_bytes = tako.DELTA_MIN_BYTES
    steps_min = 10      # a run with fewer steps was not watched

    @classmethod
    def setUpClass(cls):
        environ = dict(os.environ, PYTHONPATH=scene.PROJECT)
        cls.runs = subprocess.Popen([sys.executable, '-W', 'error', RUN_IN_A_FORK],
                                    universal_newlines=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)

    @classmethod
    def tearDownClass(cls):
        cls.runs.communicate()

    def setUp(self):
        super().setUp()
        os.mkdir(self.path('served'))
        os.mkdir(self.path('bin'))
        self.write('called', '', 0o666)
        self.versions = {}          # digest of an image -> its version
        self.checked = set()        # disks that were checked already
        self.converged = set()      # disks and units on which a run had nothing to do

    def run_fork(self, *arguments, **settings):
        """Run tako.py. Return its Result, or None if it was killed at the step of the settings."""
        asked = {'arguments': arguments, 'root': self.root, 'out': self.path('out'),
                 'err': self.path('err'),
                 'step': 0, 'is_before': False, 'trace': None,
                 'delta_min_bytes': self.delta_min_bytes,
                 'environ': self.environ_with_systemctl()}
        asked.update(settings)
        self.runs.stdin.write(json.dumps(asked) + '\n')
        self.runs.stdin.flush()
        status = int(self.runs.stdout.readline())
        if status == signal.SIGKILL:
            return None
        result = scene.Result(status >> 8, scene.read(self.path('out')).decode(),
                              scene.read(self.path('err')).decode())
        self.assertNoDefect(result)
        return result

    def trace(self, *arguments):
        """Do a whole run. Return its steps."""
        result = self.run_fork(*arguments, trace=self.path('trace'))
        self.assertIn(result.code, (0, 1), result)
        return self.read_trace()

    def read_trace(self):
        with open(self.path('trace')) as stream:
            return [json.loads(line) for line in stream]

    def story(self, trace):
        """Return a trace as lines to read, with versions in place of digests.

        A line of the state shows its content, and a line of latest its target.
        """
        told, contents, targets = [], {}, {}
        for word, *rest in trace:
            if word == 'sync':
                contents[rest[0]] = rest[2]
                rest = rest[:1]
            elif word == 'mkdir':
                rest = rest[:1]
            elif word == 'symlink':
                targets[rest[1]] = rest[0]
            elif word == 'rename' and rest[0] in contents:
                contents[rest[1]] = contents[rest[0]]
            line = ' '.join([word] + rest)
            if word == 'rename' and rest[1] == '.state':
                line = 'note ' + ' '.join(contents[rest[0]].split())
                line = re.sub(' invocations=.*', '', line)
            elif word == 'rename' and rest[1] == 'latest':
                line = 'latest is ' + targets[rest[0]]
            for digest, version in self.versions.items():
                line = line.replace(digest, version)
            told.append(line)
        return told

    def keep(self):
        """Keep what self.restore() restores: the directory and the calls of systemctl."""
        self.disk = Disk(self.root)
        self.called = scene.read(self.path('called'))

    def restore(self):
        self.disk.write(self.root, self.disk.names)
        self.write('called', self.called, 0o666)
        fake_systemd.reboot(self.directory)

    def is_unchecked(self, disk, called):
        """Return whether this disk was not checked yet, and mark it as checked."""
        return is_new(self.checked, (repr(sorted(disk.items())), called))

    def assertSurvivesKills(self, *arguments):
        """A run killed before or after any step keeps the promise, and the next one converges.

        After most steps the disk is the same as before the next one. Exceptions are steps before
        and after a write, of which a kill leaves a part, and a restart, as the run then looks at
        the unit.
        """
        self.restore()
        words = [step[0] for step in self.trace(*arguments)]
        for is_before in (True, False):
            for step in itertools.count(1):
                if not is_before and step < len(words) and not (
                        {'write', 'systemctl'} & set(words[step - 1:step + 1])):
                    continue
                self.restore()
                if self.run_fork(*arguments, step=step, is_before=is_before) is not None:
                    break
                if self.is_unchecked(scene.snapshot(self.root), scene.read(self.path('called'))):
                    with self.subTest(step=step, is_before=is_before,
                                      disk=scene.names(self.root)):
                        self.assertPromiseKept()
                        self.assertConverges()
            self.assertGreater(step, self.steps_min)

    def assertSurvivesPowerCuts(self, *arguments):
        """The same after a power cut: names and contents that were not synced may be old or new."""
        self.restore()
        disk = Disk(self.root)
        self.assertSurvivesEachCut(disk, self.called, self.trace(*arguments))

    def assertSurvivesKillsAndThenPowerCuts(self, *arguments):
        """The same for a run after one that was killed between a rename and its sync."""
        self.restore()
        for step, (word, *_) in enumerate(self.trace(*arguments), 1):
            if word in ('mkdir', 'rename'):
                self.restore()
                disk = Disk(self.root)
                self.assertIsNone(self.run_fork(*arguments, step=step, trace=self.path('trace')))
                for each in self.read_trace():
                    disk.take(*each)
                self.assertSurvivesEachCut(disk, scene.read(self.path('called')),
                                           self.trace(*arguments), after=step)

    def assertSurvivesEachCut(self, disk, called, trace, **told):
        """Power may fail before any step of this trace, which began on this disk."""
        for number, step in enumerate([['start']] + trace):
            disk.take(*step)
            if step[:2] == ['systemctl', 'restart']:
                called += '{} {}\n'.format(' '.join(step[1:]),
                                           disk.now['.']['latest'].target).encode()
            for names in disk.possible_names():
                if self.is_unchecked(disk.snapshot(names), called):
                    disk.write(self.root, names)
                    self.write('called', called, 0o666)
                    fake_systemd.reboot(self.directory)
                    with self.subTest(number=number, step=step[:2],
                                      disk=scene.names(self.root), **told):
                        self.assertPromiseKept()
                        self.assertConverges()

    def assertPromiseKept(self):
        raise NotImplementedError

    def assertConverges(self):
        raise NotImplementedError

    def assertInOrder(self, wanted, told):
        """The wanted lines are among those told, in this order."""
        rest = iter(told)
        for line in wanted:
            self.assertIn(line, rest,
                          '{}: not there, or too early, in\n{}'.format(line, '\n'.join(told)))

    def assertEachFileIsWholeBeforeItIsNamed(self, trace):
        """The content is synced before each rename, and the directory right after it."""
        for number, step in enumerate(trace):
            if step[0] == 'rename' and step[2] == 'store/' + tako.PROBE:
                self.assertEqual(['unlink', step[2]], trace[number + 1])        # it is empty
            elif step[0] == 'rename':
                before = [each[0] for each in trace[:number] if step[1] in each[1:3]]
                is_prepared = step[1] in tako.StateFile.PREPARED
                expected = 'symlink' if step[2] == 'latest' else 'rename' if is_prepared else 'sync'
                self.assertEqual(expected, before[-1], trace)
                self.assertEqual(['sync', os.path.dirname(step[2]) or '.'], trace[number + 1][:2],
                                 trace)


def is_new(seen, key):
    """Return whether a set lacks this key, and add it."""
    if key in seen:
        return False
    seen.add(key)
    return True


class Inode:
    """A file with its synced content and mode, a link with its target, or a directory."""

    def __init__(self, kind, content=b'', mode=0o600, target=''):
        self.kind = kind
        self.content = content
        self.mode = mode
        self.target = target


class Disk:
    """A directory on a file system that loses unsynced contents and names when power fails.

    now: directory -> {name: Inode}, as the running system sees it. names: the same as last synced.
    """

    def __init__(self, root):
        self.now = {'.': {}}
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = os.path.join(folder, name)
                self.put(os.path.relpath(path, root), self.inode_of(path))
        self.names = {folder: dict(found) for folder, found in self.now.items()}

    @staticmethod
    def inode_of(path):
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return Inode('link', target=os.readlink(path))
        if stat.S_ISDIR(status.st_mode):
            return Inode('directory', mode=stat.S_IMODE(status.st_mode))
        return Inode('file', scene.read(path), stat.S_IMODE(status.st_mode))

    def put(self, path, inode):
        self.now[os.path.dirname(path) or '.'][os.path.basename(path)] = inode
        if inode.kind == 'directory':
            self.now.setdefault(path, {})

    def get(self, path):
        return self.now[os.path.dirname(path) or '.'].get(os.path.basename(path))

    def take(self, word, *rest):
        """Apply a step of a trace."""
        if word == 'create':
            self.put(rest[0], Inode('file'))
        elif word == 'mkdir':
            self.put(rest[0], Inode('directory', mode=rest[1]))
            self.names[rest[0]] = {}
        elif word == 'symlink':
            self.put(rest[1], Inode('link', target=rest[0]))
        elif word in ('rename', 'unlink'):
            inode = self.now[os.path.dirname(rest[0]) or '.'].pop(os.path.basename(rest[0]))
            if word == 'rename':
                self.put(rest[1], inode)
        elif word == 'sync' and rest[0] in self.now:
            self.names[rest[0]] = dict(self.now[rest[0]])
        elif word == 'sync':
            inode = self.get(rest[0])
            inode.mode, inode.content = rest[1], rest[2].encode('latin-1')
        elif word == 'chmod' and self.get(rest[0]).kind == 'directory':
            self.get(rest[0]).mode = 0o755

    def possible_names(self):
        """Yield the names that may be there after a power cut.

        They are the synced ones, with none, one, all or all but one of the newer ones.
        """
        newer = [(folder, name) for folder in self.now
                 for name in set(self.now[folder]) | set(self.names[folder])
                 if self.now[folder].get(name) is not self.names[folder].get(name)]
        all_but_one = [[each for each in newer if each != but] for but in newer]
        sets = [[], newer] + [[each] for each in newer] + all_but_one
        for chosen in sets:
            names = {folder: dict(found) for folder, found in self.names.items()}
            for folder, name in chosen:
                names[folder].pop(name, None)
                if name in self.now[folder]:
                    names[folder][name] = self.now[folder][name]
            yield names

    @staticmethod
    def snapshot(names):
        """Return the disk with these names, like scene.snapshot(): path -> (kind, mode, ...)."""
        found = {}
        for folder in sorted(names):            # the root first
            if folder != '.' and folder not in found:
                continue                        # its files are lost with its name
            for name, inode in names[folder].items():
                if folder != '.' or name not in scene.NOTES:
                    found[os.path.normpath(os.path.join(folder, name))] = (
                        inode.kind, inode.mode, inode.content, inode.target)
        return found

    @staticmethod
    def write(root, names):
        """Make the directory root with these names."""
        scene.remove_tree(root)
        os.mkdir(root)
        own(root)
        for folder in sorted(names):            # the root first
            if not os.path.isdir(os.path.join(root, folder)):
                continue                        # its files are lost with its name
            for name, inode in names[folder].items():
                path = os.path.join(root, folder, name)
                if inode.kind == 'link':
                    os.symlink(inode.target, path)
                elif inode.kind == 'directory':
                    os.mkdir(path)
                    os.chmod(path, inode.mode)
                else:
                    with open(path, 'wb') as stream:
                        stream.write(inode.content)
                    os.chmod(path, inode.mode)
                own(path)


def own(path):
    if IS_ROOT:
        os.lchown(path, scene.NOBODY, scene.NOBODY)


class FetchCase(CrashCase):
    """A client with a unit, and an origin. In the end self.newest has to be installed."""

    most_partials = 1

    def setUp(self):
        super().setUp()
        self.root = self.destination
        own(self.root)
        self.origin = self.serve()
        self.app = self.config(self.origin.url, version='1.*', more=RESTART)
        self.bad = ''
        self.is_pruned = False
        self.is_staged = self.is_stamped = False
        self.one = self.publish('1.0', ONE)

    def publish(self, version, content):
        self.newest = self.origin.publish(version, content)
        self.versions[self.newest.digest] = version
        if self.is_stamped:
            self.stamp()
        return self.newest

    def stamp(self):
        self.origin.write('stamp', stamps.stamped(self.origin.read('manifest'), int(time.time())))

    def systemctl(self):
        """Install a systemctl that notes each restart; no unit runs on the bad image."""
        fake_systemd.install(self.directory, self.root, fake_systemd.FAILS,
                             [self.bad] if self.bad else [])

    def fetch(self, code=0):
        self.systemctl()
        result = self.run_fork('fetch', self.app)
        self.assertEqual(code, result.code, result)
        return result

    def offer_three(self):
        """Install 1.0 and then 1.1; publish 1.2."""
        self.fetch()
        self.two = self.publish('1.1', TWO)
        self.fetch()
        self.publish('1.2', THREE)
        self.keep()

    def update(self):
        """Return the command of an update to 1.2 that removes 1.0."""
        self.offer_three()
        self.is_pruned = True
        return 'fetch', self.config(self.origin.url, version='1.*', more=RESTART + 'Keep=2\n')

    def rollback(self):
        """Return the command of an update on which the unit fails."""
        self.offer_three()
        self.bad, self.newest = self.newest.digest, self.two
        self.systemctl()
        return 'fetch', self.app

    def recall(self):
        """Return the command of a fetch that goes back to 1.0, which was rejected before."""
        self.offer_three()
        self.fetch()
        state = scene.state(self.root)
        scene.write_state(self.root, state._replace(rejected=(self.one.digest,)))
        own(os.path.join(self.root, '.state'))
        self.publish('1.3', ONE)
        self.keep()
        return 'fetch', self.app

    def wait(self):
        """Return the command of a fetch that first sees 1.2, which waits; 1.1 stays."""
        self.offer_three()
        self.newest = self.two
        return 'fetch', self.config(self.origin.url, version='1.*', more=RESTART + 'Delay=1d\n')

    def stage(self):
        """Return the command that stages 1.2, and removes 1.0."""
        self.offer_three()
        self.is_staged = True
        return 'fetch', '--stage', self.config(self.origin.url, version='1.*',
                                               more=RESTART + 'Keep=1\n')

    def stamped_update(self):
        """Return the command of an update to 1.2, whose manifest needs a stamp."""
        self.is_stamped = True
        self.stamp()
        self.app = self.config(self.origin.url, version='1.*', more=RESTART
                               + 'StampKey={}\nFresh=7d\n'.format(stamps.PUBLIC_KEY))
        self.offer_three()
        return 'fetch', self.app

    def proven(self):
        """Return whether the manifest of the destination has its stamp."""
        stamp = tako.Destination(self.root).stamp([stamps.KEY])
        signed = scene.signed_manifest(self.root)
        return stamp is not None and stamp.sha256 == tako.body_sha256(signed)

    def last_restart(self):
        restarts = fake_systemd.restarts(self.directory)
        return 'store/' + restarts[-1] if restarts else ''

    def assertPromiseKept(self):
        """latest names no image, or an intact one: the old, the new, or the bad one."""
        self.assertIsNone(scene.fault_of_latest(self.root))
        before = self.disk.names['.'].get('latest')
        allowed = {'store/' + self.newest.digest, 'store/' + self.bad,
                   before.target if before else None}
        if self.is_staged:
            allowed = {before.target}
        if self.is_stamped and self.newest.digest in tako.Destination(self.root).images():
            self.assertTrue(self.proven())          # the stamp is durable before the image
        path = os.path.join(self.root, 'latest')
        self.assertIn(os.readlink(path) if os.path.lexists(path) else None, allowed)

    def assertConverges(self):
        self.assertLessEqual(sum(name.startswith('.partial-') for name in os.listdir(self.root)),
                             self.most_partials)
        result = self.run_fork('fetch', self.app)
        self.assertIn(result.code, (0, 1) if self.bad else (0,), result)
        link = 'store/' + self.newest.digest
        self.assertEqual(link, os.readlink(os.path.join(self.root, 'latest')))
        self.assertIsNone(scene.fault_of_latest(self.root))
        self.assertEqual(link, self.last_restart())
        if self.is_pruned:
            self.assertEqual(2, len(tako.Destination(self.root).images()))
        # Another run has nothing to do. Runs on the same disk and units do the same.
        end = scene.snapshot(self.root), scene.snapshot(self.path('systemd'))
        if is_new(self.converged, repr([sorted(each.items()) for each in end])):
            called = fake_systemd.restarts(self.directory)
            self.assertQuiet(self.run_fork('fetch', self.app))
            self.assertEqual(called, fake_systemd.restarts(self.directory))
        names = ['.state', 'latest', 'manifest', 'store']
        names += ['stamp'] if self.is_stamped else []
        self.assertEqual(sorted(names), scene.names(self.root))
        self.assertEqual(self.is_stamped, self.proven())


class FetchKilledTest(FetchCase):
    def test_a_first_fetch_survives_a_kill_at_every_step(self):
        self.systemctl()
        self.keep()
        self.assertSurvivesKills('fetch', self.app)

    def test_an_update_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.update())

    def test_a_rollback_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.rollback())

    def test_a_recall_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.recall())

    def test_a_version_that_begins_to_wait_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.wait())

    def test_a_staged_version_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.stage())

    def test_an_update_with_a_stamp_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.stamped_update())

    def test_the_replacement_of_a_damaged_image_survives_a_kill_at_every_step(self):
        self.fetch()
        image = os.path.join(self.root, 'store', self.one.digest)
        os.chmod(image, 0o644)
        with open(image, 'wb') as stream:
            stream.write(ONE[::-1])
        os.chmod(image, 0o444)
        self.keep()
        self.assertPromiseKept = lambda: self.assertIn(
            scene.read(os.path.join(self.root, 'latest')), (ONE, ONE[::-1]))
        self.assertSurvivesKills('fetch', self.app)


class FetchPowerCutTest(FetchCase):
    def test_a_first_fetch_survives_a_power_cut_at_every_step(self):
        self.systemctl()
        self.keep()
        self.assertSurvivesPowerCuts('fetch', self.app)

    def test_an_update_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.update())

    def test_an_update_survives_a_power_cut_after_a_kill(self):
        self.assertSurvivesKillsAndThenPowerCuts(*self.update())

    def test_a_first_fetch_survives_a_power_cut_after_a_kill(self):
        # Without a unit there is no state, whose sync would sync other names, too.
        self.app = self.config(self.origin.url)
        self.last_restart = lambda: os.readlink(os.path.join(self.root, 'latest'))
        self.keep()
        self.assertSurvivesKillsAndThenPowerCuts('fetch', self.app)

    def test_a_rollback_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.rollback())

    def test_a_recall_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.recall())

    def test_a_staged_version_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.stage())

    def test_an_update_with_a_stamp_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.stamped_update())

    def test_a_version_that_begins_to_wait_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.wait())


class DeltaCase(FetchCase):
    """An update by ranges of the chunks of 1.2 that 1.1 lacks. One of them occurs twice."""

    delta_min_bytes = 1
    chunks = [bytes([65 + number]) * 1024 for number in range(12)]

    def offer_three(self):
        self.origin.has_ranges = self.origin.has_several = True
        self.fetch()
        self.two = self.publish('1.1', b''.join(self.chunks))
        self.fetch()
        self.publish('1.2', b''.join(self.chunks[:4] + [b'new!' * 256] + self.chunks[5:10]
                                     + [b'NEW!' * 256, b'new!' * 256]))
        self.origin.index(self.newest, tako.FIXED_SIZE, 1024)
        self.keep()

    def assertConverges(self):
        super().assertConverges()
        self.assertNotIn((200, self.newest.size),
                         self.origin.served('/store/' + self.newest.digest))


class PatchedCase(DeltaCase):
    """An update by a patch."""

    most_partials = 2           # of the image and of the patch

    def offer_three(self):
        super().offer_three()
        older, newer = (self.origin.read('store/' + each.digest) for each
                        in (self.two, self.newest))
        patch = patches.make(older, newer)
        self.origin.write('store/{}.{}.patch'.format(self.newest.digest, self.two.digest), patch)
        name = 'store/{}.chunks'.format(self.newest.digest)
        index = tako.parse_index(self.origin.read(name), self.newest.size)
        listed = (self.two.digest, len(patch)),
        self.origin.write(name, tako.format_index(index._replace(patches=listed)))


class RecompressedCase(DeltaCase):
    """An update by a recompression patch."""

    most_partials = 2           # of the image and of the patch
    older, newer = PACKED

    def offer_three(self):
        self.origin.has_ranges = True
        self.fetch()
        self.two = self.publish('1.1', self.older)
        self.fetch()
        self.publish('1.2', self.newer)
        name = self.origin.index(self.newest, tako.FIXED_SIZE, 1024)[1:]
        patch = patches.recompression(self.older, self.newer)
        self.origin.write('store/{}.{}.2.patch'.format(self.newest.digest, self.two.digest), patch)
        index = tako.parse_index(self.origin.read(name), self.newest.size)
        listed = (tako.inverted(self.two.digest), len(patch)),
        self.origin.write(name, tako.format_index(index._replace(patches=listed)))
        self.keep()

    def update(self):
        command, app = super().update()
        origin.write(app, scene.read(app) + b'Metered=yes\n')
        return command, app


class DeltaKilledTest(DeltaCase):
    def test_an_update_by_ranges_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.update())


class PatchedKilledTest(PatchedCase):
    def test_an_update_by_a_patch_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.update())
        self.assertEqual([], self.origin.served('/store/' + self.newest.digest))


class RecompressedKilledTest(RecompressedCase):
    def test_an_update_by_a_recompression_patch_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.update())
        self.assertEqual([], self.origin.served('/store/' + self.newest.digest))


class RecompressedPowerCutTest(RecompressedCase):
    def test_an_update_by_a_recompression_patch_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.update())


class PatchedPowerCutTest(PatchedCase):
    def test_an_update_by_a_patch_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.update())


class DeltaPowerCutTest(DeltaCase):
    def test_an_update_by_ranges_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.update())


class StampedOrderTest(FetchCase):
    def test_manifest_and_stamp_and_image_become_durable_in_this_order(self):
        command = self.stamped_update()
        self.restore()
        trace = self.trace(*command)
        self.assertEachFileIsWholeBeforeItIsNamed(trace)
        self.assertInOrder([
            'sync .manifest.new', 'rename .manifest.new manifest', 'sync .',
            'sync .manifest.new', 'rename .manifest.new stamp', 'sync .',
            'rename .partial-1.2 store/1.2', 'latest is store/1.2'], self.story(trace))


class DeltaOrderTest(DeltaCase):
    def test_an_update_by_ranges_syncs_each_step_before_the_next(self):
        trace = self.trace(*self.update())
        self.assertEachFileIsWholeBeforeItIsNamed(trace)
        self.assertInOrder([
            'sync .manifest.new', 'rename .manifest.new manifest', 'sync .',
            'extend .partial-1.2', 'copy .partial-1.2', 'put .partial-1.2', 'put .partial-1.2',
            'copy .partial-1.2',
            'chmod .partial-1.2', 'sync .partial-1.2', 'rename .partial-1.2 store/1.2',
            'sync store',
            'latest is store/1.2', 'sync .', 'systemctl restart -- app.service',
            'rename .chunks.new store/1.2.chunks', 'sync store'], self.story(trace))


class FetchOrderTest(FetchCase):
    def test_an_update_syncs_each_step_before_the_next(self):
        trace = self.trace(*self.update())
        self.assertEachFileIsWholeBeforeItIsNamed(trace)
        self.assertInOrder([
            'create .lock',
            'sync .manifest.new', 'rename .manifest.new manifest', 'sync .',
            'write .partial-1.2', 'chmod .partial-1.2', 'sync .partial-1.2',
            'rename .partial-1.2 store/1.2', 'sync store',
            'note previous=1.1 restart_due=1.2 received=1.2 5500', 'sync .',
            'latest is store/1.2', 'sync .',
            'systemctl restart -- app.service',
            'note previous=1.1 received=1.2 5500', 'sync .',
            'unlink store/1.0',
            'unlink .lock'], self.story(trace))

    def test_a_rollback_syncs_each_step_before_the_next(self):
        trace = self.trace(*self.rollback())
        self.assertEachFileIsWholeBeforeItIsNamed(trace)
        self.assertInOrder([
            'latest is store/1.2', 'sync .',
            'systemctl restart -- app.service',
            'note previous=1.1 restart_due=1.1 received=1.2 5500 rejected=1.2', 'sync .',
            'latest is store/1.1', 'sync .',
            'systemctl restart -- app.service',
            'note received=1.2 5500 rejected=1.2', 'sync .'], self.story(trace))

    def test_a_recall_forgets_the_rejection_before_the_manifest_is_written(self):
        command = self.recall()
        self.versions[self.one.digest] = '1.3'
        told = self.story(self.trace(*command))
        self.assertInOrder(['note previous=1.1 received=1.2 5500', 'sync .',
                            'rename .manifest.new manifest', 'sync .', 'latest is store/1.3',
                            'sync .', 'systemctl restart -- app.service'], told)
        self.assertNotIn('.partial', ' '.join(told))

    def test_a_fetch_without_an_update_syncs_nothing(self):
        self.fetch()
        self.assertEqual(['create .lock', 'utime manifest', 'utime .state', 'unlink .lock'],
                         self.story(self.trace('fetch', self.app)))


class StoreCase(CrashCase):
    """A publisher who stores 1.1, perhaps after 1.0."""

    last = TWO                  # the image of 1.1

    def setUp(self):
        super().setUp()
        self.root = self.path('served')
        own(self.root)
        self.write('app.key', tako.format_secret_key(origin.SEED))
        self.environ = {'TAKO_SECRET_KEY': tako.format_secret_key(origin.SEED)}

    def command(self, version, content, *options):
        self.versions[origin.digest_of(content)] = version
        return ('store', '-o', self.root, *options, self.write('image-' + version, content),
                version)

    def run_fork(self, *arguments, **settings):
        return super().run_fork(*arguments, environ=self.environ, **settings)

    def manifest(self):
        """Return the bytes of the manifest, or None without one. Its images have to be intact."""
        directory = tako.ImageDirectory(self.root)
        signed = scene.signed_manifest(self.root)
        if signed is not None:
            for entry in tako.open_manifest(signed, KEYS, 'manifest').entries:
                self.assertEqual('', directory.image_fault(entry.digest, entry.size), entry)
        return signed

    def prepare(self, *before, then=()):
        """Store earlier images, then do the command to test once, to know how it has to end."""
        for version, content in before:
            self.assertEqual(0, self.run_fork(*self.command(version, content)).code)
        self.keep()
        self.old = self.manifest()
        self.next = then or self.command('1.1', self.last)
        self.assertEqual(0, self.run_fork(*self.next).code)
        self.new, self.whole = self.manifest(), scene.snapshot(self.root)
        self.assertNotEqual(self.old, self.new)
        path = tako.Destination(self.root).index_path(origin.digest_of(self.last))
        index = tako.parse_index(scene.read(path), len(self.last))
        self.assertEqual(len(self.last), sum(index.lengths))

    def assertPromiseKept(self):
        self.assertIn(self.manifest(), (self.old, self.new))

    def assertConverges(self):
        self.assertEqual(0, self.run_fork(*self.next).code)
        self.assertEqual(self.whole, scene.snapshot(self.root))
        self.assertEqual(['manifest', 'store'], scene.names(self.root))
        self.assertEqual(0o755, stat.S_IMODE(os.stat(os.path.join(self.root, 'store')).st_mode))


class StoreInterruptedTest(StoreCase):
    def test_the_first_store_survives_a_kill_at_every_step(self):
        self.prepare()
        self.assertSurvivesKills(*self.next)

    def test_another_store_survives_a_kill_at_every_step(self):
        self.prepare(('1.0', ONE))
        self.assertSurvivesKills(*self.next)

    def test_the_first_store_survives_a_power_cut_at_every_step(self):
        self.prepare()
        self.assertSurvivesPowerCuts(*self.next)

    def test_another_store_survives_a_power_cut_at_every_step(self):
        self.prepare(('1.0', ONE))
        self.assertSurvivesPowerCuts(*self.next)

    def test_the_first_store_survives_a_power_cut_after_a_kill(self):
        self.prepare()
        self.assertSurvivesKillsAndThenPowerCuts(*self.next)


class PatchedStoreInterruptedTest(StoreCase):
    def prepare(self):
        super().prepare(('1.0', ONE), then=self.command('1.1', TWO, '--patch-from', '1'))
        index = tako.Destination(self.root).read_index(origin.digest_of(TWO), len(TWO))
        self.assertEqual([origin.digest_of(ONE)], [older for older, _ in index.patches])

    def test_a_store_with_a_patch_survives_a_kill_at_every_step(self):
        self.prepare()
        self.assertSurvivesKills(*self.next)

    def test_a_store_with_a_patch_survives_a_power_cut_at_every_step(self):
        self.prepare()
        self.assertSurvivesPowerCuts(*self.next)


class RecompressedStoreInterruptedTest(StoreCase):
    last = PACKED[1]

    def prepare(self):
        super().prepare(('1.0', PACKED[0]),
                        then=self.command('1.1', self.last, '--patch-from', '1'))
        older = origin.digest_of(PACKED[0])
        index = tako.Destination(self.root).read_index(origin.digest_of(self.last), len(self.last))
        self.assertEqual({older, tako.inverted(older)}, {each for each, _ in index.patches})

    def test_a_store_with_a_recompression_patch_survives_a_kill_at_every_step(self):
        self.prepare()
        self.assertSurvivesKills(*self.next)

    def test_a_store_with_a_recompression_patch_survives_a_power_cut_at_every_step(self):
        self.prepare()
        self.assertSurvivesPowerCuts(*self.next)


class SignInterruptedTest(StoreCase):
    steps_min = 7

    def prepare(self):
        key = tako.format_secret_key(origin.OTHER_SEED)
        super().prepare(('1.1', TWO), then=('sign', '-k', key, '-p', origin.PUBLIC_KEY, self.root))

    def test_a_sign_survives_a_kill_at_every_step(self):
        self.prepare()
        self.assertSurvivesKills(*self.next)

    def test_a_sign_survives_a_power_cut_at_every_step(self):
        self.prepare()
        self.assertSurvivesPowerCuts(*self.next)


class StampInterruptedTest(CrashCase):
    """A publisher who stamps 1.1 after 1.0. The file of the last stamp is beside the directory."""

    def setUp(self):
        super().setUp()
        self.root, self.public = self.path('served'), self.path('served', 'public')
        self.last = self.path('served', 'last')
        self.publisher = origin.Publisher(self.public)
        self.publisher.publish('1.0', ONE)
        self.keep()
        self.restore()
        self.next = 'stamp', '-p', origin.PUBLIC_KEY, '--last', self.last, self.public
        self.assertEqual(0, self.run_fork(*self.next).code)
        self.publisher.publish('1.1', TWO)
        self.old = self.stamps()
        self.keep()

    def run_fork(self, *arguments, **settings):
        environ = {'TAKO_SECRET_KEY': tako.format_secret_key(stamps.SEED)}
        return super().run_fork(*arguments, environ=environ, **settings)

    def stamps(self):
        """Return the bytes of both stamps, which have to verify."""
        signed = scene.read(os.path.join(self.public, 'stamp'))
        tako.open_stamp(signed, [stamps.KEY], 'stamp')
        last = scene.read(self.last).partition(tako.MANIFEST_TITLE)
        stamp = tako.open_stamp(last[0], [stamps.KEY], 'last')
        self.assertEqual(stamp.sha256, tako.body_sha256(last[1] + last[2]))
        return signed, last[0]

    def assertPromiseKept(self):
        """The file of the last stamp is written first."""
        signed, last = self.stamps()
        self.assertIn(signed, (self.old[0], last))

    def assertConverges(self):
        self.assertEqual(0, self.run_fork(*self.next).code)
        signed, last = self.stamps()
        self.assertEqual(signed, last)
        self.assertEqual(stamps.stamp_of(self.publisher.read('manifest'), 0)[1:],
                         tako.open_stamp(signed, [stamps.KEY], '')[1:])
        self.assertEqual(['last', 'public'], scene.names(self.root))
        self.assertEqual(['manifest', 'stamp', 'store'], scene.names(self.public))

    def test_a_stamp_survives_a_kill_at_every_step(self):
        self.assertSurvivesKills(*self.next)

    def test_a_stamp_survives_a_power_cut_at_every_step(self):
        self.assertSurvivesPowerCuts(*self.next)


class StoreOrderTest(StoreCase):
    def test_store_writes_the_image_first_and_the_manifest_last(self):
        self.prepare()
        self.restore()
        trace = self.trace(*self.next)
        self.assertEachFileIsWholeBeforeItIsNamed(trace)
        self.assertInOrder([
            'create .lock',
            'write .image.new', 'mkdir store', 'sync .',
            'sync .image.new', 'rename .image.new store/1.1', 'sync store',
            'sync .chunks.new', 'rename .chunks.new store/1.1.chunks', 'sync store',
            'write .manifest.new', 'sync .manifest.new', 'rename .manifest.new manifest', 'sync .',
            'unlink .lock'], self.story(trace))


class TogetherTest(FetchCase):
    def test_two_fetches_at_once_make_one_download_and_one_restart(self):
        self.systemctl()
        if IS_ROOT:
            os.chown(self.root, 0, 0)
        environ = self.environ_with_systemctl()
        self.origin.faults['/store/' + self.one.digest] = origin.slowly(len(ONE) * 4)
        for process in [self.start('fetch', self.app, environ=environ) for _ in range(2)]:
            self.assertEqual(b'', process.communicate()[1])
            self.assertEqual(0, process.returncode)
        self.assertInPlace(ONE)
        self.assertEqual(1, self.origin.paths().count('/store/' + self.one.digest))
        self.assertEqual(1, len(fake_systemd.restarts(self.directory)))


if __name__ == '__main__':
    serve_runs()

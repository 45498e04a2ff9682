"""make soak: kills at random moments for SOAK_SECONDS, and many runs at once.

    PYTHONPATH=. python3 tests/soak.py [SEED]

It prints its seed first. The same seed chooses the same moments again.
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

import fake_systemd
import origin
import scene
import tako

SECONDS = float(os.environ.get('SOAK_SECONDS', '300'))
KILLS_WANTED = 200
KILLS_A_ROUND = 10                      # before a run may finish
IMAGE_BYTES = 400000
RATE = 1 << 21                          # bytes a second: a download takes a fifth of a second
CROWDS = (2, 50)
KEEP = 3
KEY = tako.parse_public_key(origin.PUBLIC_KEY)


class Checks:
    """The checks that passed and failed, by kind."""

    def __init__(self):
        self.passed = {}
        self.failed = []

    def check(self, what, fault):
        """Count a check. fault: what is wrong, or None."""
        if fault is None:
            self.passed[what] = self.passed.get(what, 0) + 1
        else:
            self.failed.append(what)
            print('FAIL: {}: {}'.format(what, fault), flush=True)


class Ground:
    """A scratch directory, and runs of tako.py that may be killed."""

    def __init__(self, directory, chance, checks):
        self.directory = directory
        self.chance = chance
        self.checks = checks
        self.kills = 0
        self.length = 0.5               # seconds that the last whole run took
        self.environ = dict(os.environ, PATH=self.path('bin') + ':/usr/bin:/bin',
                            TAKO_SECRET_KEY=tako.format_secret_key(origin.SEED))

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def start(self, *arguments):
        return subprocess.Popen([sys.executable, '-I', '-W', 'error', scene.TAKO] + list(arguments),
                                env=self.environ,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def finish(self, *arguments):
        """Do a run without a kill. Return its exit code and its stderr."""
        process = self.start(*arguments)
        _, err = process.communicate(timeout=120)
        return process.returncode, err.decode()

    def kill(self, *arguments):
        """Kill a run at a random moment. Return whether it had not ended before."""
        process = self.start(*arguments)
        time.sleep(self.chance.uniform(0, 1.1 * self.length))
        process.kill()
        process.communicate()
        self.kills += process.returncode < 0
        return process.returncode < 0

    def image(self):
        return bytes(bytearray(self.chance.getrandbits(8) for _
                               in range(1000))) * (IMAGE_BYTES // 1000)


class Client(Ground):
    """A destination with a unit, and a slow origin with ever newer versions. Some are bad ones."""

    def __init__(self, directory, chance, checks, server):
        super().__init__(directory, chance, checks)
        self.server = server
        self.root = self.path('destination')
        os.mkdir(self.root)
        os.mkdir(self.path('bin'))
        self.served = []
        self.bad = set()
        self.number = 0
        self.good = ''
        with open(self.path('app.tako'), 'w') as stream:
            stream.write('Origin={}\nDestination={}\nPublicKey={}\nVersion=*\n'
                         'Restart=app.service\nConfirm=0\nKeep={}\n'.format(
                             server.url, self.root, origin.PUBLIC_KEY, KEEP))
        self.offer(is_bad=False)

    def offer(self, is_bad):
        """Publish a newer version, half of them with an index. Remove old ones from the origin."""
        self.number += 1
        is_like_the_last = self.number > 1 and self.chance.random() < 0.5
        if is_like_the_last:
            place = self.chance.randrange(IMAGE_BYTES)
            self.content = self.content[:place] + self.image()[:9999] + self.content[place + 9999:]
        else:
            self.content = self.image()
        entry = self.server.publish('1.{}'.format(self.number), self.content)
        if is_like_the_last:
            self.server.index(entry)
        self.server.faults['/store/' + entry.digest] = origin.slowly(RATE)
        if is_bad:
            self.bad.add(entry.digest)
        else:
            self.good = entry.digest
        fake_systemd.install(self.directory, self.root, 'sleep 0.02; ' + fake_systemd.FAILS,
                             sorted(self.bad))
        self.newest = entry.digest
        self.served.append(entry.digest)
        for digest in self.served[:-KEEP]:
            os.unlink(os.path.join(self.server.directory, 'store', digest))
        del self.served[:-KEEP]

    def is_settled(self):
        """Return whether the newest version was installed or rejected."""
        state = scene.state(self.root)
        return (not state.restart_due and tako.Destination(self.root).latest() == self.good
                and (self.newest == self.good or self.newest in state.rejected))

    def update_and_kill(self):
        before = tako.Destination(self.root).latest()
        self.kill('fetch', self.path('app.tako'))
        self.checks.check('latest after a kill ' + self.moment(),
                          scene.fault_of_latest(self.root) or self.fault_of_names(before))
        if self.is_settled():
            self.offer(is_bad=self.chance.random() < 0.25)

    def moment(self):
        """Return how far the update has come."""
        state = scene.state(self.root)
        if any(name.startswith('.partial-') for name in os.listdir(self.root)):
            return 'with part of an image'
        if state.restart_due:
            return 'with a restart due'
        return 'before or after all'

    def fault_of_names(self, before):
        now = tako.Destination(self.root).latest()
        partials = [name for name in os.listdir(self.root) if name.startswith('.partial-')]
        if now not in (before, self.good, self.newest):
            return 'latest was {} and is {}'.format(before, now)
        return None if len(partials) <= 1 else 'more than one partial image'

    def converge(self):
        """Do the run after the kills, and then a timed run of one more version."""
        code, err = self.finish('fetch', self.path('app.tako'))
        self.checks.check('convergence', self.fault_of_end(code, err))
        self.offer(is_bad=False)
        began = time.monotonic()
        code, err = self.finish('fetch', self.path('app.tako'))
        self.length = time.monotonic() - began
        self.checks.check('update', self.fault_of_end(code, err))
        self.offer(is_bad=self.chance.random() < 0.25)

    def fault_of_end(self, code, err):
        """Return what is wrong after a run that was not killed, or None."""
        if code not in ((0, 1) if self.newest in self.bad
                        else (0,)) or 'Traceback' in err or 'a defect' in err:
            return 'exit code {}: {}'.format(code, err)
        if code == 1:                   # this run rolled back, so the next does nothing
            code, err = self.finish('fetch', self.path('app.tako'))
            if code or err:
                return 'after a rollback: exit code {}: {}'.format(code, err)
        restarts = fake_systemd.restarts(self.directory)
        names = scene.names(self.root)
        faults = (
            (tako.Destination(self.root).latest() != self.good,
             'latest is not the newest that runs'),
            (restarts[-1:] != [self.good], 'the unit was not restarted on it'),
            (names != ['.state', 'latest', 'manifest', 'store'],
             'there is something left: {}'.format(names)),
            (len(tako.Destination(self.root).images()) > KEEP, 'more images than Keep= says'))
        return next((fault for is_so, fault in faults if is_so), scene.fault_of_latest(self.root))


class Shop(Ground):
    """A directory in which versions are published."""

    def __init__(self, directory, chance, checks):
        super().__init__(directory, chance, checks)
        self.root = self.path('published')
        os.mkdir(self.root)
        self.number = 0
        self.take_next()

    def take_next(self):
        self.number += 1
        with open(self.path('image'), 'wb') as stream:
            stream.write(self.image())
        self.command = 'store', '-o', self.root, self.path('image'), '1.{}'.format(self.number)

    def store_and_kill(self):
        if not self.kill(*self.command):
            self.take_next()
        self.checks.check('manifest after a kill', self.fault())

    def converge(self):
        began = time.monotonic()
        code, err = self.finish(*self.command)
        self.length = time.monotonic() - began
        fault = self.fault()
        if code or (err and self.number > 1):       # the first version begins a history: a warning
            fault = 'exit code {}: {}'.format(code, err)
        elif sorted(os.listdir(self.root)) != ['manifest', 'store']:
            fault = 'there is something left: {}'.format(sorted(os.listdir(self.root)))
        elif len(self.entries()) != self.number:
            fault = '{} images are listed and not {}'.format(len(self.entries()), self.number)
        self.checks.check('store after kills', fault)
        self.take_next()

    def entries(self):
        signed = scene.signed_manifest(self.root)
        return tako.open_manifest(signed, [KEY], 'manifest').entries if signed is not None else ()

    def fault(self):
        """Return what is wrong with the manifest or a listed image, or None."""
        directory = tako.ImageDirectory(self.root)
        try:
            faults = [directory.image_fault(entry.digest, entry.size) for entry in self.entries()]
        except tako.TakoError as error:
            return error.what
        return next(filter(None, faults), None)


def crowd(directory, size, checks):
    """So many fetches at once all succeed, with one download."""
    served, destination, config = (os.path.join(directory, name) for name
                                   in ('served', 'destination', 'app.tako'))
    os.makedirs(served)
    os.mkdir(destination)
    with origin.Origin(served) as server:
        entry = server.publish('1.0', b'image' * 100000)
        server.faults['/store/' + entry.digest] = origin.slowly(RATE)
        with open(config, 'w') as stream:
            stream.write('Origin={}\nDestination={}\nPublicKey={}\nVersion=*\n'.format(
                server.url, destination, origin.PUBLIC_KEY))
        ground = Ground(directory, None, checks)
        processes = [ground.start('fetch', config) for _ in range(size)]
        for process in processes:
            _, err = process.communicate(timeout=600)
            fault = 'exit code {}: {}'.format(process.returncode, err.decode())
            checks.check('one of a crowd', None if process.returncode == 0 and not err else fault)
        downloads = server.paths().count('/store/' + entry.digest)
        checks.check('one download for a crowd',
                     None if downloads == 1 else '{} downloads'.format(downloads))
    checks.check('latest after a crowd', scene.fault_of_latest(destination))


def soak(directory, chance, checks, deadline):
    """Run many at once, then kill runs. Return how many fetches and stores were killed."""
    for size in CROWDS:
        crowd(os.path.join(directory, 'crowd-{}'.format(size)), size, checks)
    for name in ('served', 'client', 'shop'):
        os.mkdir(os.path.join(directory, name))
    with origin.Origin(os.path.join(directory, 'served')) as server:
        client = Client(os.path.join(directory, 'client'), chance, checks, server)
        shop = Shop(os.path.join(directory, 'shop'), chance, checks)
        while time.monotonic() < deadline:
            client.converge()
            shop.converge()
            until = client.kills + KILLS_A_ROUND
            while client.kills < until and time.monotonic() < deadline:
                client.update_and_kill()
                if chance.random() < 0.3:
                    shop.store_and_kill()
        client.converge()
        shop.converge()
    return client.kills, shop.kills


def main(arguments):
    deadline = time.monotonic() + SECONDS
    seed = int(arguments[0]) if arguments else random.SystemRandom().randrange(10**6)
    print('seed {}, {:.0f} seconds'.format(seed, SECONDS), flush=True)
    checks = Checks()
    directory = tempfile.mkdtemp(prefix='tako-soak-')
    try:
        fetches, stores = soak(directory, random.Random(seed), checks, deadline)
    finally:
        if checks.failed:
            print('kept for a look: ' + directory)
        else:
            shutil.rmtree(directory)
    for what, count in sorted(checks.passed.items()):
        print('{:6} times: {}'.format(count, what))
    print('{} fetches and {} stores were killed{}'.format(
        fetches, stores, '' if fetches >= KILLS_WANTED
        else ', fewer than {}: the time was over'.format(KILLS_WANTED)))
    print('{} passed, {} failed'.format(sum(checks.passed.values()), len(checks.failed)))
    return 1 if checks.failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

"""A publisher's and a client's whole story, each step a process of one Python, judged by the suite's own.

What is published is signed with a key that is always the same, so that all Pythons have to publish the same bytes.
"""
import json
import os
import re
import signal
import time

import certificates
import fake_systemd
import origin
import scene
import tako
from scene import noise

FIRST = noise(400000)
RANGES = FIRST[:100000] + noise(3000, 2) + FIRST[101000:]
PATCHED = b''.join(RANGES[at:at + 1000] + b'new' for at in range(0, len(RANGES), 1000))     # no chunk is as before
OTHER = noise(300000, 3)
LAST = noise(300000, 4)
CUT_BYTES = 200000
PAUSELESS = {'PAUSE_FIRST_SECONDS': 0.01, 'PAUSE_BUDGET_SECONDS': 0.05}


def quotes(body):
    """An ETag."""
    return '"{}"'.format(origin.digest_of(body))


class Told(scene.Scene):
    """Runs of tako.py whose every word is accounted for."""

    def __init__(self, python):
        super().__init__()
        self.python = python
        self.processes = 0

    def ran(self, code, *arguments, **settings):
        """A run that ends with this exit code, and says nothing on stderr that is no message of tako's."""
        result = self.run_tako(*arguments, **settings)
        self.processes += 1
        self.assertEqual(code, result.code, result)
        lines = result.err.splitlines()
        self.assertEqual(code == 0, not lines, result)
        self.assertTrue(all(line.startswith('tako: ') for line in lines[::2]), result)
        self.assertTrue(all(line.startswith('  ') for line in lines[1::2]) and len(lines) % 2 == 0, result)
        self.assertEqual([], [line for line in lines if 'Warning' in line], result)
        return result

    def in_destination(self):
        """All that is there but notes."""
        return {name: what for name, what in scene.snapshot(self.destination).items() if not name.startswith('.state')}


class Story(Told):
    """gen-key, store, fetch, and what may come between."""

    def tell(self):
        """All of it; the snapshot of what was published."""
        self.setUp()
        try:
            self.publish_and_fetch()
            self.update()
            published = scene.snapshot(self.served)
            self.go_wrong()
            self.end_by_a_signal()
            self.look()
            self.fetch_otherwise()
            self.change_the_key()
        finally:
            self.doCleanups()
        return published

    def setUp(self):
        super().setUp()
        self.served = self.path('served')
        self.origin = self.serve()
        self.origin.has_ranges = self.origin.has_several = True
        self.origin.etag = quotes
        os.mkdir(self.path('bin'))
        fake_systemd.install(self.directory, self.destination)
        self.environ = {'PATH': self.path('bin') + ':/usr/bin:/bin'}
        self.key = self.write('key', tako.format_secret_key(origin.SEED) + '\n', 0o600)
        self.app = self.config(self.origin.url, more='Restart=app.service\nConfirm=0\n')

    def ran(self, code, *arguments, **settings):
        """A run whose systemctl is the story's own."""
        settings.setdefault('environ', self.environ)
        return super().ran(code, *arguments, **settings)

    def store(self, content, version, *options):
        """Publish by tako.py; the image's path under the origin. What it wrote is read by the suite's Python."""
        result = self.ran(0, 'store', '-f', self.key, '-o', self.served, *options + ('-', version), input=content)
        self.assertIn('stored {}, {} bytes'.format(version, len(content)), result.out)
        key = tako.parse_public_key(origin.PUBLIC_KEY)
        listed = tako.open_manifest(self.origin.read('manifest'), [key], 'manifest').entries
        self.assertEqual(origin.entry_of(version, content), listed[-1])
        path = 'store/' + origin.digest_of(content)
        self.assertEqual(content, self.origin.read(path))
        self.assertEqual(0o444, os.stat(os.path.join(self.served, path)).st_mode & 0o777)
        self.assertEqual(len(content), sum(tako.parse_index(self.origin.read(path + '.chunks'), len(content)).lengths))
        self.origin.answers.clear()
        self.origin.requests.clear()
        return '/' + path

    def fetch(self, version, content):
        """An ordinary run that brings a version and restarts; what it printed."""
        result = self.ran(0, 'fetch', self.app)
        self.assertRegex(result.out, '^{}: {} is installed.*, restarted app.service\n$'.format(
            re.escape(self.app), re.escape(version)))
        self.assertInPlace(content)
        self.assertEqual([['app.service']], fake_systemd.restarted(self.directory))
        os.unlink(self.path('called'))
        return result

    def publish_and_fetch(self):
        """The first version, and runs that find nothing to do."""
        image = self.store(FIRST, '1.0')
        self.fetch('1.0', FIRST)
        self.assertEqual([(200, len(FIRST))], self.origin.served(image))
        self.origin.requests.clear()
        self.assertQuiet(self.ran(0, 'fetch', self.app))
        self.assertEqual((['/manifest'], 304), (self.origin.paths(), self.origin.served('/manifest')[-1][0]))
        self.assertQuiet(self.ran(0, 'fetch', '--init', self.app))
        self.assertEqual(['/manifest'], self.origin.paths())
        self.assertEqual([], fake_systemd.restarted(self.directory))

    def update(self):
        """By ranges, by a patch, and by a download that breaks off."""
        image = self.store(RANGES, '1.1')
        self.assertIn('instead of', self.fetch('1.1', RANGES).out)
        self.assertEqual({206}, {code for code, _ in self.origin.served(image)})
        self.assertLess(sum(size for _, size in self.origin.served(image)), 50000)

        image = self.store(PATCHED, '1.2', '--patch-from', '1')
        patch = '{}.{}.patch'.format(image, origin.digest_of(RANGES))
        self.fetch('1.2', PATCHED)
        self.assertEqual(([], [(200, os.path.getsize(self.served + patch))]),
                         (self.origin.served(image), self.origin.served(patch)))

        image = self.store(OTHER, '1.10')
        self.origin.faults[image] = origin.first(1, origin.drops(CUT_BYTES))
        self.fetch('1.10', OTHER)
        self.assertEqual([None, 'bytes={}-'.format(CUT_BYTES)], self.origin.asked(image, 'Range'))

    def go_wrong(self):
        """Each refusal and failure, by its exit code; what is installed stays."""
        before, signed = self.in_destination(), self.origin.read('manifest')
        stranger = origin.Publisher(self.served, origin.OTHER_SEED)
        stranger.publish('1.11', b'of a stranger')
        self.assertIn('not signed by any', self.ran(3, 'fetch', self.app).err)
        older = origin.Publisher(self.served)
        older.entries = [origin.entry_of('1.0', FIRST)]
        older.sign()
        self.assertIn('lacks or changes 1.1', self.ran(3, 'fetch', self.app).err)
        self.origin.write('manifest', signed)
        self.origin.faults['*'] = origin.status(503)
        self.ran(75, 'fetch', self.app, limits=PAUSELESS)
        self.origin.faults.clear()
        self.assertIn('1.10', self.ran(1, 'fetch', self.config(self.origin.url, 'none.tako', '2.*')).err)
        wrong = self.config(self.origin.url, 'wrong.tako', more='Restrat=app.service\n')
        self.assertIn('did you mean Restart=', self.ran(2, 'fetch', wrong).err)
        self.ran(2, 'fetch')
        self.assertEqual(before, self.in_destination())

        image = self.store(LAST, '1.11')
        self.origin.faults[image] = origin.serves(noise(300000, 5))
        self.ran(3, 'fetch', self.app)
        self.assertEqual('store/' + origin.digest_of(OTHER), os.readlink(os.path.join(self.destination, 'latest')))
        self.assertEqual(before.keys(), self.in_destination().keys())
        self.origin.faults.clear()

    def end_by_a_signal(self):
        """SIGINT amid a download; the next run takes it up."""
        image = '/store/' + origin.digest_of(LAST)
        self.origin.faults[image] = origin.holds(CUT_BYTES)
        partial = os.path.join(self.destination, '.partial-' + image.rpartition('/')[2])
        process = self.start('fetch', self.app, environ=self.environ)
        deadline = time.monotonic() + 60
        while not (os.path.exists(partial) and os.path.getsize(partial) > 100000) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.processes += 1
        self.assertEqual((130, b'', b''), (process.returncode, out, err))
        self.assertInPlace(OTHER)
        kept = os.path.getsize(partial)
        self.assertGreater(kept, 100000)
        self.origin.faults.clear()
        self.origin.answers.clear()
        self.fetch('1.11', LAST)
        self.assertLess(sum(size for _, size in self.origin.served(image)), len(LAST) - kept + 20000)   # a chunk more

    def look(self):
        """status and verify, of what is right and of what is not."""
        digest = origin.digest_of(LAST)
        self.assertIn('installed:     1.11, ' + digest, self.ran(0, 'status', '--max-age', '1h', self.app).out)
        told = json.loads(self.ran(0, 'status', '--json', self.app).out)
        self.assertIn(digest, json.dumps(told))
        self.assertIn('5 of 5 images are intact', self.ran(0, 'verify', '-p', origin.PUBLIC_KEY, self.served).out)
        image = 'store/' + origin.digest_of(FIRST)
        self.origin.write(image, b'!' + FIRST[1:])
        self.assertIn(origin.digest_of(FIRST), self.ran(3, 'verify', '-p', origin.PUBLIC_KEY, self.served).err)
        self.origin.write(image, FIRST)
        os.chmod(os.path.join(self.served, image), 0o444)

    def fetch_otherwise(self):
        """From a directory, and over https."""
        urls = ['file://' + self.served]
        environ = {}
        if certificates.is_possible():
            authority = certificates.Authority(self.directory)
            secure = self.serve(tls=authority.context())
            urls.append(secure.url)
            environ = {'SSL_CERT_FILE': authority.bundle}
        for url in urls:
            destination = self.path(url.partition(':')[0])
            os.mkdir(destination)
            self.ran(0, 'fetch', self.config(url, 'other.tako', destination=destination), environ=environ)
            self.assertInPlace(LAST, destination)
        if len(urls) > 1:
            self.assertIn('certificate', self.ran(75, 'fetch', self.path('other.tako'), limits=PAUSELESS).err)

    def change_the_key(self):
        """A new pair signs what the old one did; who trusts both goes on."""
        lines = self.ran(0, 'gen-key').out.splitlines()
        public_key, secret_key = lines[1], lines[3]
        self.assertEqual(tako.parse_public_key(public_key), tako.ed25519_public_key(tako.parse_secret_key(secret_key)))
        new_key = self.write('new.key', secret_key + '\n', 0o600)
        self.ran(0, 'sign', '-f', new_key, '-p', origin.PUBLIC_KEY, self.served)
        signed = tako.open_manifest(self.origin.read('manifest'), [tako.parse_public_key(public_key)], 'manifest')
        self.assertEqual(['1.0', '1.1', '1.2', '1.10', '1.11'], [entry.version.text for entry in signed.entries])
        self.ran(3, 'fetch', self.app)
        self.config(self.origin.url, public_keys=[origin.PUBLIC_KEY, public_key])
        self.assertQuiet(self.ran(0, 'fetch', self.app))
        self.assertEqual(self.origin.read('manifest'), scene.read(os.path.join(self.destination, 'manifest')))

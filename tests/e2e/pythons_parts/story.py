"""The story of a publisher and a client. One Python runs each step; the suite's checks the results.

The publisher's key is always the same, so all Pythons must publish the same bytes.
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
# all chunks differ from those of RANGES
PATCHED = b''.join(RANGES[at:at + 1000] + b'new' for at in range(0, len(RANGES), 1000))
OTHER = noise(300000, 3)
LAST = noise(300000, 4)
CUT_BYTES = 200000
SHORT_PAUSES = {'PAUSE_FIRST_SECONDS': 0.01, 'PAUSE_BUDGET_SECONDS': 0.05}


def etag(body):
    return '"{}"'.format(origin.digest_of(body))


def history_warning(served):
    """Return the warning of store if a directory has no manifest, which begins a new history."""
    return '' if os.path.exists(os.path.join(served, 'manifest')) else 'begins a new history'


class StrictScene(scene.Scene):
    """Runs of tako.py by one Python, with a check of every line on stderr."""

    def __init__(self, python):
        super().__init__()
        self.python = python
        self.processes = 0

    def ran(self, code, *arguments, warning='', **settings):
        """Run Tako, and expect an exit code. Return the result.

        If the code is 0, stderr is empty, or it has one expected warning, a part of which is
        `warning`. Otherwise it has only messages of Tako. Each message has a hint.
        """
        result = self.run_tako(*arguments, **settings)
        self.processes += 1
        self.assertEqual(code, result.code, result)
        lines = result.err.splitlines()
        if warning:
            self.assertEqual((0, 2), (code, len(lines)), result)
            self.assertTrue(lines[0].startswith('tako: warning: '), result)
            self.assertIn(warning, lines[0])
        else:
            self.assertEqual(code == 0, not lines, result)
        self.assertTrue(all(line.startswith('tako: ') for line in lines[::2]), result)
        self.assertTrue(all(line.startswith('  ') for line in lines[1::2]), result)
        self.assertTrue(len(lines) % 2 == 0, result)
        self.assertEqual([], [line for line in lines if 'Warning' in line], result)
        return result

    def in_destination(self):
        """Return a snapshot of the destination without the state file."""
        return {name: file for name, file in scene.snapshot(self.destination).items()
                if not name.startswith('.state')}


class Story(StrictScene):
    """gen-key, store, fetch, and failures between them."""

    def run_steps(self):
        """Run the story. Return a snapshot of what was published before the failures."""
        self.setUp()
        try:
            self.publish_and_fetch()
            self.update()
            published = scene.snapshot(self.served)
            self.refuse_and_fail()
            self.interrupt()
            self.inspect()
            self.fetch_by_other_schemes()
            self.change_the_key()
        finally:
            self.doCleanups()
        return published

    def setUp(self):
        super().setUp()
        self.served = self.path('served')
        self.origin = self.serve()
        self.origin.has_ranges = self.origin.has_several = True
        self.origin.etag = etag
        os.mkdir(self.path('bin'))
        fake_systemd.install(self.directory, self.destination)
        self.environ = {'PATH': self.path('bin') + ':/usr/bin:/bin'}
        self.key = self.write('key', tako.format_secret_key(origin.SEED) + '\n', 0o600)
        self.app = self.config(self.origin.url, more='Restart=app.service\nConfirm=0\n')

    def ran(self, code, *arguments, **settings):
        """Run Tako with the systemctl of the story."""
        settings.setdefault('environ', self.environ)
        return super().ran(code, *arguments, **settings)

    def store(self, content, version, *options):
        """Publish an image, and check all published files. Return its path under the origin."""
        result = self.ran(0, 'store', '-f', self.key, '-o', self.served, *options + ('-', version),
                          warning=history_warning(self.served), input=content)
        self.assertIn('stored {}, {} bytes'.format(version, len(content)), result.out)
        key = tako.parse_public_key(origin.PUBLIC_KEY)
        listed = tako.open_manifest(self.origin.read('manifest'), [key], 'manifest').entries
        self.assertEqual(origin.entry_of(version, content), listed[-1])
        path = 'store/' + origin.digest_of(content)
        self.assertEqual(content, self.origin.read(path))
        self.assertEqual(0o444, os.stat(os.path.join(self.served, path)).st_mode & 0o777)
        index = tako.parse_index(self.origin.read(path + '.chunks'), len(content))
        self.assertEqual(len(content), sum(index.lengths))
        self.origin.answers.clear()
        self.origin.requests.clear()
        return '/' + path

    def fetch(self, version, content):
        """Fetch a version, and check the installation and the restart. Return the result."""
        result = self.ran(0, 'fetch', self.app)
        self.assertRegex(result.out, '^{}: {} is installed.*, restarted app.service\n$'.format(
            re.escape(self.app), re.escape(version)))
        self.assertInPlace(content)
        self.assertEqual([['app.service']], fake_systemd.restarted(self.directory))
        os.unlink(self.path('called'))
        return result

    def publish_and_fetch(self):
        """Fetch the first version. Further runs have nothing to do."""
        image = self.store(FIRST, '1.0')
        self.fetch('1.0', FIRST)
        self.assertEqual([(200, len(FIRST))], self.origin.served(image))
        self.origin.requests.clear()
        self.assertQuiet(self.ran(0, 'fetch', self.app))
        self.assertEqual((['/manifest'], 304),
                         (self.origin.paths(), self.origin.served('/manifest')[-1][0]))
        self.assertQuiet(self.ran(0, 'fetch', '--init', self.app))
        self.assertEqual(['/manifest'], self.origin.paths())
        self.assertEqual([], fake_systemd.restarted(self.directory))

    def update(self):
        """Update by ranges, by a patch, and by a download that is interrupted."""
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

    def refuse_and_fail(self):
        """Check the exit code of each refusal and failure. The installed image stays."""
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
        self.ran(75, 'fetch', self.app, limits=SHORT_PAUSES)
        self.origin.faults.clear()
        none = self.config(self.origin.url, 'none.tako', '2.*')
        self.assertIn('1.10', self.ran(1, 'fetch', none).err)
        wrong = self.config(self.origin.url, 'wrong.tako', more='Restrat=app.service\n')
        self.assertIn('did you mean Restart=', self.ran(2, 'fetch', wrong).err)
        self.ran(2, 'fetch')
        self.assertEqual(before, self.in_destination())

        image = self.store(LAST, '1.11')
        self.origin.faults[image] = origin.serves(noise(300000, 5))
        self.ran(3, 'fetch', self.app)
        self.assertEqual('store/' + origin.digest_of(OTHER),
                         os.readlink(os.path.join(self.destination, 'latest')))
        self.assertEqual(before.keys(), self.in_destination().keys())
        self.origin.faults.clear()

    def interrupt(self):
        """SIGINT ends a download, which the next run continues."""
        image = '/store/' + origin.digest_of(LAST)
        self.origin.faults[image] = origin.holds(CUT_BYTES)
        partial = os.path.join(self.destination, '.partial-' + image.rpartition('/')[2])
        process = self.start('fetch', self.app, environ=self.environ)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if os.path.exists(partial) and os.path.getsize(partial) > 100000:
                break
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
        served = sum(size for _, size in self.origin.served(image))
        self.assertLess(served, len(LAST) - kept + 20000)       # 20000: more than a chunk

    def inspect(self):
        """status and verify print what is intact and what is damaged."""
        digest = origin.digest_of(LAST)
        self.assertIn('installed:     1.11, ' + digest,
                      self.ran(0, 'status', '--max-age', '1h', self.app).out)
        status = json.loads(self.ran(0, 'status', '--json', self.app).out)
        self.assertIn(digest, json.dumps(status))
        verify = 'verify', '-p', origin.PUBLIC_KEY, self.served
        self.assertIn('5 of 5 images are intact', self.ran(0, *verify).out)
        image = 'store/' + origin.digest_of(FIRST)
        self.origin.write(image, b'!' + FIRST[1:])
        self.assertIn(origin.digest_of(FIRST), self.ran(3, *verify).err)
        self.origin.write(image, FIRST)
        os.chmod(os.path.join(self.served, image), 0o444)

    def fetch_by_other_schemes(self):
        """Fetch from a directory, and over https."""
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
            config = self.config(url, 'other.tako', destination=destination)
            self.ran(0, 'fetch', config, environ=environ)
            self.assertInPlace(LAST, destination)
        if len(urls) > 1:
            refusal = self.ran(75, 'fetch', self.path('other.tako'), limits=SHORT_PAUSES)
            self.assertIn('certificate', refusal.err)

    def change_the_key(self):
        """Sign with a new key. A client that trusts both keys accepts that."""
        lines = self.ran(0, 'gen-key').out.splitlines()
        public_key, secret_key = lines[1], lines[3]
        self.assertEqual(tako.parse_public_key(public_key),
                         tako.ed25519_public_key(tako.parse_secret_key(secret_key)))
        new_key = self.write('new.key', secret_key + '\n', 0o600)
        self.ran(0, 'sign', '-f', new_key, '-p', origin.PUBLIC_KEY, self.served)
        signed = tako.open_manifest(self.origin.read('manifest'),
                                    [tako.parse_public_key(public_key)], 'manifest')
        self.assertEqual(['1.0', '1.1', '1.2', '1.10', '1.11'],
                         [entry.version.text for entry in signed.entries])
        self.ran(3, 'fetch', self.app)
        self.config(self.origin.url, public_keys=[origin.PUBLIC_KEY, public_key])
        self.assertQuiet(self.ran(0, 'fetch', self.app))
        self.assertEqual(self.origin.read('manifest'),
                         scene.read(os.path.join(self.destination, 'manifest')))

"""Debian's python3-minimal, in a root that has no more of Python: what works there, and what is said of the rest."""
import os
import shutil
import subprocess
import tempfile

import origin
import scene
import tako
from pythons_parts.story import FIRST, PATCHED, Told

ROOT = os.path.join(scene.PROJECT, 'build', 'pythons', 'minimal')
PYTHON = ('chroot', ROOT, '/usr/bin/python3')
LACKS = ('json', 'lzma', 'mmap', 'difflib')      # or there is nothing to be seen here


class Minimal(Told):
    """A publisher and a client in one small root; paths are given as they are in it."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix='scene-', dir=ROOT)
        self.addCleanup(scene.remove_tree, self.directory)
        self.destination, self.served = self.path('destination'), self.path('served')
        os.mkdir(self.destination)
        shutil.copy(scene.TAKO, self.path('tako.py'))
        self.publisher = origin.Publisher(self.served)
        self.key = self.write('key', tako.format_secret_key(origin.SEED) + '\n', 0o600)
        self.image = self.write('image', FIRST)
        return self

    def __exit__(self, *error):
        self.doCleanups()

    def inside(self, path):
        return '/' + os.path.relpath(path, ROOT)

    def run_tako(self, *arguments, **settings):
        done = subprocess.run(list(self.python) + [self.inside(self.path('tako.py'))] + list(arguments),
                              env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin'}, timeout=60,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return scene.Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def app(self, *urls):
        """A config with these origins; its path inside."""
        path = self.config('\nOrigin='.join(urls), destination=self.inside(self.destination))
        return self.inside(path)

    @property
    def url(self):
        return 'file://' + self.inside(self.served)

    def lacking(self):
        """Of LACKS, what this Python cannot import."""
        return tuple(name for name in LACKS if subprocess.run(
            list(self.python) + ['-c', 'import ' + name], stderr=subprocess.DEVNULL).returncode)

    def store(self, content, version):
        self.write('image', content)
        self.ran(0, 'store', '-f', self.inside(self.key), '-o', self.inside(self.served), self.inside(self.image), version)
        self.assertEqual(content, self.publisher.read('store/' + origin.digest_of(content)))

    def publish_and_fetch(self):
        """Two versions from a directory, and what is known of them."""
        self.store(FIRST, '1.0')
        app = self.app(self.url)
        self.assertEqual(app + ': 1.0 is installed\n', self.ran(0, 'fetch', app).out)
        self.assertInPlace(FIRST)
        self.assertQuiet(self.ran(0, 'fetch', app))
        self.assertQuiet(self.ran(0, 'fetch', '--init', app))
        self.store(PATCHED, '1.1')
        self.ran(0, 'fetch', app)
        self.assertInPlace(PATCHED)
        self.assertIn('installed:     1.1, ' + origin.digest_of(PATCHED), self.ran(0, 'status', app).out)
        verified = self.ran(0, 'verify', '-p', origin.PUBLIC_KEY, self.inside(self.served))
        self.assertIn('2 of 2 images are intact', verified.out)

    def fetch_what_has_a_patch(self):
        """As another Python publishes it, of which this one can have all but the patch."""
        for content, version in ((FIRST, '1.0'), (PATCHED, '1.1')):
            self.write('image', content)
            self.assertCode(0, self.run_here('store', '-f', self.key, '-o', self.served, '--patch-from', '1',
                                             self.image, version))
            self.ran(0, 'fetch', self.app(self.url))
            self.assertInPlace(content)
        self.assertEqual(1, sum(name.endswith('.patch') for name in os.listdir(self.served + '/store')))

    def change_the_key(self):
        """gen-key and sign."""
        self.store(FIRST, '1.0')
        lines = self.ran(0, 'gen-key').out.splitlines()
        key = self.inside(self.write('new.key', lines[3] + '\n', 0o600))
        self.ran(0, 'sign', '-f', key, '-p', origin.PUBLIC_KEY, self.inside(self.served))
        tako.open_manifest(self.publisher.read('manifest'), [tako.parse_public_key(lines[1])], 'manifest')
        self.assertIn('not signed by any', self.ran(3, 'fetch', self.app(self.url)).err)

    def fetch_over_http(self):
        """Two versions from a web server, the second as a difference, and from the mirror that works."""
        self.publisher.publish('1.0', FIRST)
        with origin.Origin(self.served) as served:
            self.ran(0, 'fetch', self.app(served.url))
            self.assertInPlace(FIRST)
            self.publisher.publish('1.1', PATCHED)
            result = self.run_tako('fetch', self.app('http://127.0.0.1:1', served.url))
            self.assertEqual(0, result.code, result)
            self.assertInPlace(PATCHED)

    def ask_for_https_of_nobody(self):
        """TLS is there; nobody listens."""
        self.ran(75, 'fetch', self.app('https://127.0.0.1:1'))
        self.assertEqual([], os.listdir(self.destination))

    def ask_for_more(self):
        """What else is missing is named, before anything is done."""
        self.publisher.publish('1.0', FIRST)
        app, before = self.app(self.url), scene.snapshot(self.served)
        self.ran(0, 'fetch', app)
        self.assertLacks('json', self.ran(1, 'status', '--json', app))
        self.write('image', PATCHED)
        result = self.ran(1, 'store', '-f', self.inside(self.key), '-o', self.inside(self.served), '--patch-from', '1',
                          self.inside(self.image), '1.1')
        self.assertLacks('(lzma|mmap)', result)
        self.assertEqual(before, scene.snapshot(self.served))
        wrong = self.inside(self.config(self.url, more='Restrat=app.service\n'))
        self.assertIn('use one of Origin, ', self.ran(2, 'fetch', wrong).err)

    def assertLacks(self, package, result):
        self.assertRegex(result.err, r'(?m)^tako: .*this Python lacks its {} package\n  install all of Python '
                                     r'\(Debian: apt install python3\)'.format(package))


CASES = (Minimal.publish_and_fetch, Minimal.fetch_what_has_a_patch, Minimal.change_the_key, Minimal.fetch_over_http,
         Minimal.ask_for_https_of_nobody, Minimal.ask_for_more)


def reason_to_skip():
    """Why none of it can be run here; '' if it can."""
    if os.getuid() != 0:
        return 'needs root, to change its own'
    if not os.path.isdir(ROOT):
        return 'there is no root with python3-minimal: debootstrap could not make it'
    return ''

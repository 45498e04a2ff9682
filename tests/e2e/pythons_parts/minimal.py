"""Debian's python3-minimal in its own root: what works with it, and the errors for the rest."""
import os
import shutil
import subprocess
import tempfile

import origin
import scene
import tako
from pythons_parts.story import FIRST, PATCHED, StrictScene, history_warning

ROOT = os.path.join(scene.PROJECT, 'build', 'pythons', 'minimal')
PYTHON = ('chroot', ROOT, '/usr/bin/python3')
MISSING_MODULES = ('json', 'lzma', 'mmap', 'difflib')


class Minimal(StrictScene):
    """A publisher and a client in the root. Commands get the paths inside the root."""

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
        command = list(self.python) + [self.inside(self.path('tako.py'))] + list(arguments)
        done = subprocess.run(command, env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin'}, timeout=60,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        return scene.Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def app(self, *urls):
        """Write a config with these origins. Return its path inside the root."""
        path = self.config('\nOrigin='.join(urls), destination=self.inside(self.destination))
        return self.inside(path)

    @property
    def url(self):
        return 'file://' + self.inside(self.served)

    def missing_modules(self):
        """Return those of MISSING_MODULES that this Python cannot import."""
        return tuple(name for name in MISSING_MODULES if subprocess.run(
            list(self.python) + ['-c', 'import ' + name], stderr=subprocess.DEVNULL).returncode)

    def store(self, content, version):
        self.write('image', content)
        self.ran(0, 'store', '-f', self.inside(self.key), '-o', self.inside(self.served),
                 self.inside(self.image), version, warning=history_warning(self.served))
        self.assertEqual(content, self.publisher.read('store/' + origin.digest_of(content)))

    def publish_and_fetch(self):
        """Fetch two versions from a directory, and look at their status."""
        self.store(FIRST, '1.0')
        app = self.app(self.url)
        self.assertEqual(app + ': 1.0 is installed\n', self.ran(0, 'fetch', app).out)
        self.assertInPlace(FIRST)
        self.assertQuiet(self.ran(0, 'fetch', app))
        self.assertQuiet(self.ran(0, 'fetch', '--init', app))
        self.store(PATCHED, '1.1')
        self.ran(0, 'fetch', app)
        self.assertInPlace(PATCHED)
        self.assertIn('installed:     1.1, ' + origin.digest_of(PATCHED),
                      self.ran(0, 'status', app).out)
        verified = self.ran(0, 'verify', '-p', origin.PUBLIC_KEY, self.inside(self.served))
        self.assertIn('2 of 2 images are intact', verified.out)

    def fetch_without_the_patch(self):
        """Fetch an image without its patch, which this Python cannot apply."""
        for content, version in ((FIRST, '1.0'), (PATCHED, '1.1')):
            self.write('image', content)
            self.assertCode(0, self.run_here('store', '-f', self.key, '-o', self.served,
                                             '--patch-from', '1', self.image, version))
            self.ran(0, 'fetch', self.app(self.url))
            self.assertInPlace(content)
        published = os.listdir(self.served + '/store')
        self.assertEqual(1, sum(name.endswith('.patch') for name in published))

    def change_the_key(self):
        """Sign a manifest with a new key of gen-key."""
        self.store(FIRST, '1.0')
        lines = self.ran(0, 'gen-key').out.splitlines()
        key = self.inside(self.write('new.key', lines[3] + '\n', 0o600))
        self.ran(0, 'sign', '-f', key, '-p', origin.PUBLIC_KEY, self.inside(self.served))
        keys = [tako.parse_public_key(lines[1])]
        tako.open_manifest(self.publisher.read('manifest'), keys, 'manifest')
        self.assertIn('not signed by any', self.ran(3, 'fetch', self.app(self.url)).err)

    def fetch_over_http(self):
        """Fetch from a web server, and fetch an update from the second of two mirrors."""
        self.publisher.publish('1.0', FIRST)
        with origin.Origin(self.served) as served:
            self.ran(0, 'fetch', self.app(served.url))
            self.assertInPlace(FIRST)
            self.publisher.publish('1.1', PATCHED)
            result = self.run_tako('fetch', self.app('http://127.0.0.1:1', served.url))
            self.assertEqual(0, result.code, result)
            self.assertInPlace(PATCHED)

    def fetch_over_https_without_a_server(self):
        """TLS is available, and the connection is refused."""
        self.ran(75, 'fetch', self.app('https://127.0.0.1:1'))
        self.assertEqual([], scene.names(self.destination))

    def use_missing_modules(self):
        """A command that needs a missing module names it, and changes nothing."""
        self.publisher.publish('1.0', FIRST)
        app, before = self.app(self.url), scene.snapshot(self.served)
        self.ran(0, 'fetch', app)
        self.assertLacks('json', self.ran(1, 'status', '--json', app))
        self.write('image', PATCHED)
        result = self.ran(1, 'store', '-f', self.inside(self.key), '-o', self.inside(self.served),
                          '--patch-from', '1', self.inside(self.image), '1.1')
        self.assertLacks('(lzma|mmap)', result)
        self.assertEqual(before, scene.snapshot(self.served))
        wrong = self.inside(self.config(self.url, more='Restrat=app.service\n'))
        self.assertIn('use one of Origin, ', self.ran(2, 'fetch', wrong).err)

    def assertLacks(self, package, result):
        self.assertRegex(result.err, r'(?m)^tako: .*this Python lacks its {} package\n'
                                     r'  install all of Python \(Debian: apt install python3\)'
                                     .format(package))


CASES = (Minimal.publish_and_fetch, Minimal.fetch_without_the_patch, Minimal.change_the_key,
         Minimal.fetch_over_http, Minimal.fetch_over_https_without_a_server,
         Minimal.use_missing_modules)


def reason_to_skip():
    """Return why these cases cannot run here, or '' if they can."""
    if os.getuid() != 0:
        return 'needs root, for chroot'
    if not os.path.isdir(ROOT):
        return 'there is no root with python3-minimal: debootstrap failed'
    return ''

"""Section 12: what lives in a destination."""
import contextlib
import errno
import os
import time
import unittest.mock

import origin
import scene
import tako

ENTRY = origin.entry_of('1.0', b'image')


class ImageFaultTest(scene.Scene):
    def place(self, content):
        os.makedirs(self.path('store'), exist_ok=True)
        self.write('store/' + ENTRY.digest, content)
        return tako.image_fault(self.directory, ENTRY)

    def test_intact(self):
        self.assertIsNone(self.place(b'image'))

    def test_missing_without_a_store_and_in_one(self):
        self.assertEqual(tako.MISSING, tako.image_fault(self.directory, ENTRY))
        os.mkdir(self.path('store'))
        self.assertEqual(tako.MISSING, tako.image_fault(self.directory, ENTRY))

    def test_shorter_longer_or_other_bytes_are_damage(self):
        for content in (b'', b'imag', b'images', b'imagE'):
            with self.subTest(content):
                self.assertIn('damaged', self.place(content))


class LatestTest(scene.Scene):
    def test_it_names_what_it_is_pointed_at(self):
        self.assertIsNone(tako.linked_digest(self.directory))
        os.mkdir(self.path('store'))
        for digest in ('a' * 64, 'b' * 64):
            tako.point_latest(self.directory, digest)
            self.assertEqual(digest, tako.linked_digest(self.directory))
            self.assertEqual('store/' + digest, os.readlink(self.path('latest')))
        self.assertEqual(['destination', 'latest', 'store'], sorted(os.listdir(self.directory)))

    def test_a_link_of_somebody_elses_names_no_image(self):
        for target in ('/etc/passwd', 'store/short', '../store/' + 'a' * 64, 'store/' + 'A' * 64):
            with self.subTest(target):
                os.symlink(target, self.path('latest'))
                self.assertIsNone(tako.linked_digest(self.directory))
                os.unlink(self.path('latest'))


class ManifestFileTest(scene.Scene):
    def test_none_at_first_then_the_bytes_that_were_placed(self):
        self.assertIsNone(tako.read_manifest(self.directory))
        tako.place_manifest(self.directory, b'signed')
        self.assertEqual(b'signed', tako.read_manifest(self.directory))
        self.assertEqual(['destination', 'manifest'], sorted(os.listdir(self.directory)))

    def test_what_the_dead_left_is_cleared(self):
        for name in (tako.NEW_IMAGE, tako.NEW_MANIFEST):
            self.write(name, 'half')
        os.symlink('nowhere', self.path(tako.NEW_LINK))
        tako.clear_leftovers(self.directory)
        self.assertEqual(['destination'], os.listdir(self.directory))


class OriginalTest(scene.Scene):
    """Temporary files of the original program, which takes no lock."""

    def leave(self, root, *ages):
        """Leave temporary files that were written so many seconds ago."""
        os.makedirs(os.path.join(root, 'store'), exist_ok=True)
        for name in (
            'manifest.new',
            'store/{}.new'.format('a' * 64),
            'store/{}.new'.format('b' * 64),
        ):
            self.write(os.path.join(root, name), b'half')
            os.utime(os.path.join(root, name), (time.time() - ages[0],) * 2)

    def left(self, root):
        return sorted(
            name for _, _, files in os.walk(root) for name in files if name.endswith('.new')
        )

    def test_they_are_removed_once_an_hour_has_passed_without_a_write(self):
        for age, count in ((0, 3), (3500, 3), (-9999, 3), (3700, 0), (10**8, 0)):
            with self.subTest(age):
                self.leave(self.destination, age)
                tako.clear_leftovers(self.destination)
                self.assertEqual(count, len(self.left(self.destination)))

    def test_nothing_else_is_removed(self):
        os.mkdir(self.path('destination', 'store'))
        for name in (
            'other.new',
            'store/other.new',
            'store/' + 'a' * 64,
            'store/{}.old'.format('a' * 64),
            'latest.new',
        ):
            self.write('destination/' + name, b'mine')
            os.utime(self.path('destination', name), (1, 1))
        os.mkdir(self.path('destination', 'manifest.new'))
        os.utime(self.path('destination', 'manifest.new'), (1, 1))
        before = scene.snapshot(self.destination)
        tako.clear_leftovers(self.destination)
        self.assertEqual(before, scene.snapshot(self.destination))

    def test_what_cannot_be_removed_fails_nothing(self):
        self.leave(self.destination, 9999)
        unlink = os.unlink

        def refuse(path):
            if path.endswith('manifest.new') and not path.endswith('.manifest.new'):
                raise PermissionError(errno.EPERM, 'Operation not permitted', path)
            unlink(path)

        with unittest.mock.patch.object(os, 'unlink', refuse):
            tako.clear_leftovers(self.destination)
        self.assertEqual(['manifest.new'], self.left(self.destination))

    def test_fetch_store_and_sign_remove_them(self):
        served, image = self.path('served'), self.write('image', b'image')
        os.mkdir(served)
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        new_key = self.write('new.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        config = self.config('file://' + served)
        for root, words in (
            (served, ('store', '-f', key, '-o', served, image, '1.0')),
            (self.destination, ('fetch', config)),
            (self.destination, ('fetch', config)),
            (served, ('store', '--reindex', '-o', served)),
            (served, ('sign', '-f', new_key, '-p', origin.PUBLIC_KEY, served)),
        ):
            with self.subTest(words[0]):
                self.leave(root, 9999)
                result = self.run_tako(*words)
                self.assertEqual((0, '', []), (result.code, result.err, self.left(root)))

    def test_neither_a_dry_run_nor_init_removes_them(self):
        os.mkdir(self.path('served'))
        origin.Publisher(self.path('served')).publish('1.0', b'image')
        config = self.config('file://' + self.path('served'))
        self.assertCode(0, self.run_tako('fetch', config))
        self.leave(self.destination, 9999)
        for option in ('--dry-run', '--init'):
            self.assertEqual(0, self.run_tako('fetch', option, config).code)
            self.assertEqual(3, len(self.left(self.destination)))


class StoredImagesTest(scene.Scene):
    def test_names_and_sizes_of_images_alone(self):
        self.assertEqual({}, tako.stored_images(self.directory))
        os.makedirs(self.path('store', 'c' * 64))
        self.write('store/' + 'a' * 64, b'image')
        self.write('store/' + 'a' * 64 + '.chunks', b'index')
        os.symlink('nowhere', self.path('store', 'b' * 64))
        self.assertEqual({'a' * 64: 5}, tako.stored_images(self.directory))

    def test_one_that_goes_meanwhile_takes_no_other_with_it(self):
        os.mkdir(self.path('store'))
        for letter in 'abc':
            self.write('store/' + letter * 64, b'image')
        scandir = os.scandir

        @contextlib.contextmanager
        def scan(path):
            with scandir(path) as found:
                names = list(found)
            os.unlink(self.path('store', 'b' * 64))
            yield names
        with unittest.mock.patch.object(os, 'scandir', scan):
            self.assertEqual({'a' * 64: 5, 'c' * 64: 5}, tako.stored_images(self.directory))


class LoopDevicesTest(scene.Scene):
    """What the kernel says of them, in files as those below /sys/block."""

    def test_any_path_may_be_behind_one(self):
        paths = [b'/home/jos\xe9/disk.img\n', b'/home/jos\xc3\xa9/' + b'a' * 64 + b'\n', b'/' + b'b' * 64 + b' (deleted)\n']
        os.makedirs(self.path('block', 'sda'))
        for number, path in enumerate(paths):
            os.makedirs(self.path('block', 'loop{}'.format(number), 'loop'))
            self.write('block/loop{}/loop/backing_file'.format(number), path)
        self.assertEqual({'disk.img', 'a' * 64, 'b' * 64}, tako.images_behind_loop_devices(self.path('block')))
        self.assertEqual(set(), tako.images_behind_loop_devices(self.path('nowhere')))

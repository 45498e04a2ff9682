"""Section 13: the files of a destination."""
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
    def fault(self):
        return tako.ImageDirectory(self.directory).image_fault(ENTRY.digest, ENTRY.size)

    def place(self, content):
        os.makedirs(self.path('store'), exist_ok=True)
        self.write('store/' + ENTRY.digest, content)
        return self.fault()

    def test_an_intact_image_has_no_fault(self):
        self.assertEqual('', self.place(b'image'))

    def test_a_missing_image_is_a_fault(self):
        self.assertEqual(tako.MISSING, self.fault())
        os.mkdir(self.path('store'))
        self.assertEqual(tako.MISSING, self.fault())

    def test_an_image_of_other_bytes_is_damaged(self):
        for content in (b'', b'imag', b'images', b'imagE'):
            with self.subTest(content):
                self.assertIn('damaged', self.place(content))


class StoreImageTest(scene.Scene):
    """There is one way into store/, and only an intact image takes it."""

    def store(self, content, kind):
        with kind(self.path(tako.NEW_IMAGE)) as new:
            new.write(content)
            tako.ImageDirectory(self.directory).store_image(ENTRY, new)

    def test_store_image_renames_the_image_of_the_entry(self):
        for kind in (tako.NewFile, tako.PartialFile):
            with self.subTest(kind.__name__):
                self.store(b'image', kind)
                self.assertEqual([ENTRY.digest], os.listdir(self.path('store')))
                self.assertEqual(b'image', scene.read(self.path('store', ENTRY.digest)))
                self.assertEqual(0o100444, os.stat(self.path('store', ENTRY.digest)).st_mode)

    def test_store_image_refuses_a_file_of_another_size_or_digest(self):
        for kind in (tako.NewFile, tako.PartialFile):
            for content in (b'', b'imag', b'images', b'imagE'):
                with self.subTest(content,
                                  kind=kind.__name__), self.assertRaises(tako.RefusedError):
                    self.store(content, kind)
                tako.remove_if_there(self.path(tako.NEW_IMAGE))
                self.assertEqual(['destination'], os.listdir(self.directory))


class LatestTest(scene.Scene):
    def test_latest_names_the_image_it_points_at(self):
        self.assertEqual('', tako.Destination(self.directory).latest())
        os.mkdir(self.path('store'))
        for digest in ('a' * 64, 'b' * 64):
            tako.Destination(self.directory).point_latest(digest)
            self.assertEqual(digest, tako.Destination(self.directory).latest())
            self.assertEqual('store/' + digest, os.readlink(self.path('latest')))
        self.assertEqual(['destination', 'latest', 'store'], sorted(os.listdir(self.directory)))

    def test_a_foreign_link_names_no_image(self):
        for target in ('/etc/passwd', 'store/short', '../store/' + 'a' * 64, 'store/' + 'A' * 64):
            with self.subTest(target):
                os.symlink(target, self.path('latest'))
                self.assertEqual('', tako.Destination(self.directory).latest())
                os.unlink(self.path('latest'))


class ManifestFileTest(scene.Scene):
    def test_the_local_manifest_is_verified_once(self):
        signed = tako.seal_manifest(tako.Manifest((ENTRY,)), origin.SEED)
        self.write('manifest', signed)
        directory = tako.ImageDirectory(self.directory, [tako.parse_public_key(origin.PUBLIC_KEY)])
        self.assertEqual((ENTRY,), directory.manifest().entries)
        os.unlink(self.path('manifest'))
        self.assertEqual(((ENTRY,), signed),
                         (directory.manifest().entries, directory.accepted().signed))

    def test_a_missing_manifest_is_empty(self):
        self.assertEqual(((), b''), (tako.Destination(self.directory).manifest().entries,
                                     tako.Destination(self.directory).accepted().signed))

    def test_an_empty_manifest_file_is_refused(self):
        self.write('manifest', b'')
        with self.assertRaises(tako.RefusedError):
            tako.Destination(self.directory).accepted()

    def test_a_written_manifest_is_read_again(self):
        self.assertIsNone(scene.signed_manifest(self.directory))
        scene.write_manifest(self.directory, b'signed')
        self.assertEqual(b'signed', scene.signed_manifest(self.directory))
        self.assertEqual(['destination', 'manifest'], sorted(os.listdir(self.directory)))

    def test_temporary_files_of_a_killed_run_are_removed(self):
        for name in (tako.NEW_IMAGE, tako.NEW_MANIFEST):
            self.write(name, 'half')
        os.symlink('nowhere', self.path(tako.NEW_LINK))
        tako.Destination(self.directory).clear_leftovers()
        self.assertEqual(['destination'], os.listdir(self.directory))


class ClearPartialsTest(scene.Scene):
    def test_clear_partials_keeps_those_of_this_image(self):
        destination = tako.Destination(self.destination)
        digest, older = '1' * 64, 'abcd' * 16
        kept = {destination.partial_path(digest), destination.partial_patch_path(digest, older)}
        gone = {destination.partial_path('2' * 64), destination.partial_patch_path('2' * 64, older),
                # the name in earlier versions of Tako
                self.path('destination', '.partial-{}.{}.patch'.format(digest, older))}
        for path in kept | gone:
            origin.write(path, b'x')
        destination.clear_partials(but=digest)
        self.assertEqual({os.path.basename(path) for path in kept},
                         set(os.listdir(self.destination)))
        destination.clear_partials()
        self.assertEqual([], os.listdir(self.destination))


class OriginalTest(scene.Scene):
    """Temporary files of the original program, which takes no lock, are removed after an hour."""

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

    def test_temporary_files_of_the_original_are_removed_after_an_hour(self):
        for age, count in ((0, 3), (3500, 3), (-9999, 3), (3700, 0), (10**8, 0)):
            with self.subTest(age):
                self.leave(self.destination, age)
                tako.Destination(self.destination).clear_leftovers()
                self.assertEqual(count, len(self.left(self.destination)))

    def test_no_file_but_those_of_the_original_is_removed(self):
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
        tako.Destination(self.destination).clear_leftovers()
        self.assertEqual(before, scene.snapshot(self.destination))

    def test_a_file_that_cannot_be_removed_fails_nothing(self):
        self.leave(self.destination, 9999)
        unlink = os.unlink

        def refuse(path):
            if path.endswith('manifest.new') and not path.endswith('.manifest.new'):
                raise PermissionError(errno.EPERM, 'Operation not permitted', path)
            unlink(path)

        with unittest.mock.patch.object(os, 'unlink', refuse):
            tako.Destination(self.destination).clear_leftovers()
        self.assertEqual(['manifest.new'], self.left(self.destination))

    def test_fetch_store_and_sign_remove_files_of_the_original(self):
        served, image = self.path('served'), self.write('image', b'image')
        os.mkdir(served)
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        new_key = self.write('new.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        config = self.config('file://' + served)
        self.assertCode(0, self.run_tako('store', '-f', key, '-o', served, image, '0.9'))
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

    def test_a_dry_run_and_init_remove_no_files_of_the_original(self):
        os.mkdir(self.path('served'))
        origin.Publisher(self.path('served')).publish('1.0', b'image')
        config = self.config('file://' + self.path('served'))
        self.assertCode(0, self.run_tako('fetch', config))
        self.leave(self.destination, 9999)
        for option in ('--dry-run', '--init'):
            self.assertEqual(0, self.run_tako('fetch', option, config).code)
            self.assertEqual(3, len(self.left(self.destination)))


class StoredImagesTest(scene.Scene):
    def test_images_lists_only_images(self):
        self.assertEqual({}, tako.Destination(self.directory).images())
        os.makedirs(self.path('store', 'c' * 64))
        self.write('store/' + 'a' * 64, b'image')
        self.write('store/' + 'a' * 64 + '.chunks', b'index')
        os.symlink('nowhere', self.path('store', 'b' * 64))
        self.assertEqual({'a' * 64: 5}, tako.Destination(self.directory).images())

    def test_images_passes_over_an_image_removed_meanwhile(self):
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
            self.assertEqual({'a' * 64: 5, 'c' * 64: 5}, tako.Destination(self.directory).images())


class LoopDevicesTest(scene.Scene):
    """The kernel lists loop devices and their files below /sys/block."""

    def test_loop_devices_may_name_any_path(self):
        paths = [b'/home/jos\xe9/disk.img\n', b'/home/jos\xc3\xa9/' + b'a' * 64 + b'\n',
                 b'/' + b'b' * 64 + b' (deleted)\n']
        os.makedirs(self.path('block', 'sda'))
        for number, path in enumerate(paths):
            os.makedirs(self.path('block', 'loop{}'.format(number), 'loop'))
            self.write('block/loop{}/loop/backing_file'.format(number), path)
        self.assertEqual({'disk.img', 'a' * 64, 'b' * 64},
                         tako.images_behind_loop_devices(self.path('block')))
        self.assertEqual(set(), tako.images_behind_loop_devices(self.path('nowhere')))

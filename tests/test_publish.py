"""Section 19: store, sign, verify, gen-key and public-key as processes."""

import errno
import os
import re
import shutil
import subprocess
import sys
import unittest
import unittest.mock

import origin
import scene
import tako
from scene import ONE, TWO, noise

# Runs tako.py and prints to stderr when it starts a program or connects to anything.
TELLING = """
import runpy, sys
def tell(event, about):
    if event in ('subprocess.Popen', 'os.exec', 'os.fork', 'os.forkpty', 'os.posix_spawn',
                 'os.spawn', 'os.system', 'socket.connect'):
        print('told:', event, file=sys.stderr)
sys.addaudithook(tell)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def has_openssl_3():
    """Return whether the openssl command checks Ed25519 signatures of a file."""
    try:
        told = subprocess.run(['openssl', 'version'], stdout=subprocess.PIPE, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return re.match(b'OpenSSL [3-9]', told) is not None


class StoreCase(scene.Scene):
    def setUp(self):
        super().setUp()
        self.served = self.path('served')
        os.mkdir(self.served)
        self.secret = tako.format_secret_key(origin.SEED)
        self.key_file = self.write('app.key', self.secret + '\n', 0o600)

    def store(self, content, version, *options, **settings):
        image = self.write('image', content)
        return self.run_tako('store', *(options or ('-f', self.key_file)), '-o', self.served, image,
                             version, **settings)

    def manifest(self):
        return tako.open_manifest(scene.read(self.path('served', 'manifest')),
                                  [tako.ed25519_public_key(origin.SEED)], 'manifest')


class StoreTest(StoreCase):
    def test_images_are_stored_and_listed_in_the_order_of_versions(self):
        result = self.store(TWO, '1.10')
        self.assertEqual(0, result.code, result)
        self.assertIn('stored 1.10', result.out)
        self.assertCode(0, self.store(ONE, '1.9'))
        self.assertEqual((origin.entry_of('1.9', ONE), origin.entry_of('1.10', TWO)),
                         self.manifest().entries)
        for content in (ONE, TWO):
            path = self.path('served', 'store', origin.digest_of(content))
            self.assertEqual((content, 0o100444), (scene.read(path), os.stat(path).st_mode))
        self.assertEqual(['manifest', 'store'], sorted(os.listdir(self.served)))

    def test_store_writes_the_same_bytes_as_the_original(self):
        content = b'test image, 17 b\n'
        self.store(content, '1.0.0')
        entry = origin.entry_of('1.0.0', content)
        self.assertEqual(tako.seal_manifest(tako.Manifest((entry,)), origin.SEED),
                         scene.read(self.path('served', 'manifest')))

    def test_the_secret_key_may_be_an_option_a_file_stdin_or_a_variable(self):
        self.assertCode(0, self.store(ONE, '1', '-k', self.secret))
        self.assertCode(0, self.store(ONE, '2', '-k' + self.secret))
        self.assertCode(0, self.store(ONE, '3', '-f', '-', input=self.secret.encode() + b'\n'))
        image = self.write('image', ONE)
        self.assertCode(0, self.run_tako('store', '-o', self.served, '--', image, '4',
                                         environ={'TAKO_SECRET_KEY': self.secret}))
        self.assertEqual(['1', '2', '3', '4'],
                         [entry.version.text for entry in self.manifest().entries])

    def test_a_line_end_after_the_secret_key_is_ignored(self):
        image, places = self.write('image', ONE), []
        self.store(ONE, '0.9')
        for end in ('', '\n', '\r\n', '\r', '\n\n'):
            key_file = self.write('ends.key', self.secret + end, 0o600)
            for options, settings in (
                (('-k', self.secret + end), {}),
                (('-f', key_file), {}),
                (('-f', '-'), {'input': (self.secret + end).encode()}),
                ((), {'environ': {'TAKO_SECRET_KEY': self.secret + end}}),
            ):
                with self.subTest(end=end, options=options[:1]):
                    result = self.run_tako(
                        'store', *options, '-o', self.served, image, '1.0', **settings
                    )
                    self.assertEqual((0, ''), (result.code, result.err))
                    places.append(result)
        self.assertEqual(20, len(places))

    def test_a_variable_with_only_a_line_end_is_no_secret_key(self):
        for value in ('', '\n', '\r\n'):
            result = self.run_tako(
                'store', '-o', self.served, self.key_file, '1', environ={'TAKO_SECRET_KEY': value}
            )
            self.assertEqual(
                (2, 'tako: no secret key\n  give -f FILE, or set TAKO_SECRET_KEY\n'),
                (result.code, result.err),
            )

    def test_a_public_key_given_as_the_secret_key_is_a_usage_error(self):
        name = self.write('app.pub', origin.PUBLIC_KEY + '\n')
        for options, where, settings in (
            (('-f', name), 'the key file', {}),
            (('-k', origin.PUBLIC_KEY), '-k', {}),
            ((), 'TAKO_SECRET_KEY', {'environ': {'TAKO_SECRET_KEY': origin.PUBLIC_KEY}}),
        ):
            for command in (('store', '-o', self.served, self.key_file, '1'), ('public-key',)):
                result = self.run_tako(*command, *options, **settings)
                self.assertCode(2, result)
                self.assertIn(
                    'tako: {}: not a secret key but a public key\n'
                    '  give the secret key'.format(where),
                    result.err,
                )

    def test_storing_the_same_image_again_changes_nothing(self):
        self.store(ONE, '1.0')
        image = self.path('served', 'store', origin.digest_of(ONE))
        before = scene.snapshot(self.served), os.stat(image).st_ino
        self.assertQuiet(self.store(ONE, '1.0'))
        self.assertEqual(before, (scene.snapshot(self.served), os.stat(image).st_ino))

    def test_storing_a_missing_or_damaged_image_again_restores_it(self):
        self.store(ONE, '1.0')
        path = self.path('served', 'store', origin.digest_of(ONE))
        for spoil in (lambda: None,
                      lambda: self.write('served/store/' + origin.digest_of(ONE), b'damage')):
            os.unlink(path)
            spoil()
            self.assertCode(0, self.store(ONE, '1.0'))
            self.assertEqual(ONE, scene.read(path))

    def test_store_warns_of_listed_images_that_are_missing(self):
        self.store(ONE, '1.0')
        os.unlink(self.path('served', 'store', origin.digest_of(ONE)))
        result = self.store(TWO, '1.1')
        self.assertEqual(0, result.code)
        self.assertIn('1 of 2 listed images are missing from store/', result.err)

    def test_store_warns_whenever_a_manifest_begins(self):
        warning = ('tako: warning: {}: has no manifest: this begins a new history; machines that '
                   'know this key will refuse it\n  ignore this for the first version'.format(
                       self.served))
        self.assertIn(warning, self.store(ONE, '1.0', '--dry-run', '-f', self.key_file).err)
        self.assertIn(warning, self.store(ONE, '1.0').err)
        self.assertEqual('', self.store(TWO, '1.1').err)
        os.unlink(self.path('served', 'manifest'))
        result = self.store(TWO, '1.1')
        self.assertEqual(0, result.code)
        self.assertIn(warning, result.err)
        self.assertEqual((origin.entry_of('1.1', TWO),), self.manifest().entries)

    def test_extend_fails_without_a_manifest_and_writes_nothing(self):
        extend = '--extend', '-f', self.key_file
        for spoil in (lambda: None, lambda: (self.store(ONE, '1.0'), os.unlink(
                self.path('served', 'manifest')))):
            spoil()
            before = scene.snapshot(self.served)
            for options in (extend, extend + ('--dry-run',)):
                result = self.store(TWO, '1.1', *options)
                self.assertCode(2, result)
                self.assertIn('manifest: no such file, so nothing was stored\n'
                              '  put the published manifest there', result.err)
                self.assertEqual(('', before), (result.out, scene.snapshot(self.served)))
        self.store(ONE, '1.0')
        result = self.store(TWO, '1.1', *extend)
        self.assertEqual((0, ''), (result.code, result.err))
        self.assertEqual(2, len(self.manifest().entries))

    def test_one_image_may_have_two_versions(self):
        self.store(ONE, '1.0')
        self.assertCode(0, self.store(ONE, '1.1'))
        self.assertEqual(2, len(self.manifest().entries))

    def test_an_image_may_come_from_a_pipe(self):
        pipe = self.path('pipe')
        os.mkfifo(pipe)
        writer = subprocess.Popen([
            sys.executable, '-c', 'import sys; open(sys.argv[1], "wb").write(b"x" * 999999)', pipe])
        self.assertCode(0,
                        self.run_tako('store', '-f', self.key_file, '-o', self.served, pipe, '1.0'))
        writer.wait()
        self.assertEqual(999999, self.manifest().entries[0].size)

    def test_keys_may_come_through_pipes(self):
        """As with the shell's <(command); the writer begins late."""
        def pipe(name, content):
            os.mkfifo(self.path(name), 0o600)
            writer = subprocess.Popen([
                sys.executable, '-c', 'import sys, time; time.sleep(0.3); '
                'open(sys.argv[1], "w").write(sys.argv[2])', self.path(name), content])
            self.addCleanup(writer.wait)
            return self.path(name)
        secret = pipe('secret', tako.format_secret_key(origin.SEED))
        self.assertCode(0, self.run_tako('store', '-f', secret, '-o', self.served,
                                         self.write('image', ONE), '1.0'))
        public = pipe('public', origin.PUBLIC_KEY)
        self.assertCode(0, self.run_tako('verify', '-p', public, self.served))

    def test_store_and_sign_warn_of_a_key_file_that_others_can_read(self):
        for mode in (0o640, 0o604, 0o620, 0o601):
            os.chmod(self.key_file, mode)
            for result in (self.store(ONE, '1.0'),
                           self.run_tako('sign', '-f', self.key_file, '-p', origin.PUBLIC_KEY,
                                         self.served)):
                with self.subTest(oct(mode)):
                    self.assertEqual(0, result.code)
                    self.assertIn('others can read', result.err)

    def test_a_public_key_in_place_of_the_secret_one_is_an_error_without_advice_on_its_mode(self):
        path = self.write('app.pub', origin.PUBLIC_KEY.encode() + b'\n', 0o644)
        result = self.run_tako('store', '-f', path, '-o', self.served, self.key_file, '1.0')
        self.assertEqual((2, 'tako: the key file: not a secret key but a public key\n'
                          '  give the secret key, which gen-key -o NAME writes to NAME.key\n'),
                         (result.code, result.err))

    def test_store_replaces_the_temporary_files_of_a_killed_run(self):
        self.store(noise(9000), '1.0')
        for name in scene.TEMPORARIES:
            self.write('served/' + name, 'half')
        self.assertCode(0, self.store(noise(9000) + b'x', '1.1', '-f', self.key_file,
                                      '--patch-from', '1'))
        self.assertEqual(['manifest', 'store'], sorted(os.listdir(self.served)))
        self.assertEqual(5, len(os.listdir(self.path('served', 'store'))))      # with the patch


class StoreRefusalTest(StoreCase):
    def setUp(self):
        super().setUp()
        self.store(ONE, '1.0')
        self.before = scene.snapshot(self.served)

    def assertRefused(self, code, result, message=''):
        self.assertCode(code, result)
        self.assertIn(message, result.err)
        self.assertEqual(self.before, scene.snapshot(self.served))

    def test_another_image_for_a_published_version_is_refused(self):
        self.assertRefused(3, self.store(TWO, '1.0'), 'already published with another image')

    def test_a_second_spelling_of_a_published_version_is_refused(self):
        for content in (ONE, TWO):
            self.assertRefused(3, self.store(content, '1.0.0'), 'published as 1.0')

    def test_invalid_versions_are_usage_errors(self):
        for version in ('', '1.*', '*', '1 0', '1\t0', '1\n', '1\u00e4', '.-_', 'x' * 256, '1\x1b'):
            with self.subTest(version):
                self.assertRefused(2, self.store(TWO, version), 'invalid version')

    def test_a_secret_key_given_as_the_version_is_a_usage_error(self):
        self.assertRefused(2, self.store(TWO, self.secret),
                           'a secret key in the place of a version')

    def test_an_invalid_secret_key_is_refused_and_not_repeated(self):
        other = tako.format_secret_key(origin.OTHER_SEED)
        swapped = tako.SECRET_KEY_PREFIX + tako.encode_base64(
            origin.SEED + 2 * tako.ed25519_public_key(origin.OTHER_SEED))
        for key in ('', 'SECRET+', self.secret[:-1], self.secret[len('SECRET+'):],
                    origin.PUBLIC_KEY, swapped,
                    self.secret + 'A', self.secret.lower(), ' ' + self.secret):
            with self.subTest(key):
                for result in (self.store(TWO, '1.1', '-k', key),
                               self.store(TWO, '1.1', '-f', self.write('bad', key, 0o600))):
                    self.assertRefused(2, result)
                    self.assertNotIn(self.secret[10:30], result.err)
        self.assertRefused(3, self.store(TWO, '1.1', '-k', other), 'not signed by any')

    def test_a_missing_or_ambiguous_secret_key_is_a_usage_error(self):
        image = self.write('image', TWO)
        self.assertRefused(2, self.run_tako('store', '-o', self.served, image, '1.1'),
                           'no secret key')
        self.assertRefused(2, self.store(TWO, '1.1', '-k', self.secret, '-f', self.key_file),
                           'not allowed with')
        for path in (self.path('missing'), self.directory):
            self.assertRefused(2, self.store(TWO, '1.1', '-f', path), path)
        self.assertRefused(2, self.store(TWO, '1.1', '-f',
                                         self.write('long', b'\xff' * 100000, 0o600)))

    def test_a_version_before_the_image_is_a_usage_error(self):
        image = self.write('image', TWO)
        self.assertRefused(2, self.run_tako('store', '-f', self.key_file, '-o', self.served, '1.1',
                                            image),
                           'give the image first')

    def test_an_unreadable_image_is_exit_1(self):
        for path in (self.path('missing'), self.directory):
            self.assertRefused(1, self.run_tako('store', '-f', self.key_file, '-o', self.served,
                                                path, '1.1'), path)

    def test_an_output_that_is_no_directory_is_a_usage_error(self):
        image = self.write('image', TWO)
        for path in (self.path('missing'), image):
            self.assertRefused(2, self.run_tako('store', '-f', self.key_file, '-o', path, image,
                                                '1.1'), path)

    def test_an_output_that_is_not_writable_is_exit_1(self):
        if os.getuid() != 0:
            os.chmod(self.served, 0o555)
        os.chmod(self.key_file, 0o644)
        self.before = scene.snapshot(self.served)
        self.assertRefused(1, self.store(TWO, '1.1', as_nobody=True), 'Permission denied')

    def test_store_and_sign_fail_while_another_run_holds_the_lock(self):
        other = tako.format_secret_key(origin.OTHER_SEED)
        for command in (('store', '-f', self.key_file, '-o', self.served, self.write('image', TWO),
                         '1.1'),
                        ('store', '--reindex', '-o', self.served),
                        ('sign', '-k', other, '-p', origin.PUBLIC_KEY, self.served)):
            with self.subTest(command):
                with tako.DirectoryLock(self.served, 0, print):
                    result = self.run_here(*command, limits={'LOCK_WAIT_SECONDS': 0.1})
                self.assertRefused(75, result, 'another run holds the lock')

    def test_store_overwrites_no_manifest_that_does_not_verify(self):
        for content in (b'', b'<html>', scene.read(self.path('served', 'manifest'))[:-1]):
            with self.subTest(content[:9]):
                os.unlink(self.path('served', 'manifest'))
                self.write('served/manifest', content)
                self.before = scene.snapshot(self.served)
                self.assertRefused(3, self.store(TWO, '1.1'))


class StoreOptionsTest(StoreCase):
    def test_an_image_may_come_from_standard_input(self):
        result = self.run_tako('store', '-f', self.key_file, '-o', self.served, '-', '1.0',
                               input=ONE)
        self.assertCode(0, result)
        self.assertEqual((origin.entry_of('1.0', ONE),), self.manifest().entries)

    def test_standard_input_for_both_key_and_image_is_a_usage_error(self):
        """Otherwise store would sign an empty image."""
        result = self.run_tako('store', '-f', '-', '-o', self.served, '-', '1.0',
                               input=self.secret.encode())
        self.assertCode(2, result)
        self.assertEqual([], os.listdir(self.served))

    def test_a_closed_standard_input_is_a_usage_error(self):
        for arguments in (['-f', '-', '-o', self.served, self.key_file, '1.0'],
                          ['-f', self.key_file, '-o', self.served, '-', '1.0']):
            command = ['/bin/sh', '-c', 'exec "$@" <&-', 'sh', sys.executable, '-I', scene.TAKO,
                       'store']
            done = subprocess.run(command + arguments, stderr=subprocess.PIPE)
            self.assertEqual(2, done.returncode)
            self.assertIn(b'standard input is closed', done.stderr)

    def test_a_dry_run_of_store_prints_the_plan_and_changes_nothing(self):
        self.store(ONE, '1.0')
        before = scene.snapshot(self.served)
        result = self.store(TWO, '1.1', '--dry-run', '-f', self.key_file)
        self.assertEqual(0, result.code)
        self.assertIn('would store 1.1, {} bytes, SHA-256 {}'.format(
            len(TWO), origin.digest_of(TWO)), result.out)
        self.assertCode(3, self.store(TWO, '1.0', '--dry-run', '-f', self.key_file))
        self.assertEqual(before, scene.snapshot(self.served))

    def test_store_prints_the_public_key_for_clients(self):
        self.assertIn('PublicKey=' + origin.PUBLIC_KEY, self.store(ONE, '1.0').out)


class DeltaTest(StoreCase):
    """store writes indexes and patches beside images, for differential updates."""

    A = noise(200000)
    B = A[:100000] + b'b' + A[100000:]
    C = A + b'c'

    def options(self, *more):
        return ('-f', self.key_file) + more

    def image_path(self, content):
        return tako.ImageDirectory(self.served).image_path(origin.digest_of(content))

    def index_path(self, content):
        return tako.ImageDirectory(self.served).index_path(origin.digest_of(content))

    def read_index(self, content):
        return tako.parse_index(scene.read(self.index_path(content)), len(content))

    def stored(self):
        return sorted(os.listdir(self.path('served', 'store')))

    def assertPatched(self, older, newer):
        """The index of `newer` lists a patch, and the patch makes it from `older`."""
        path = tako.ImageDirectory(self.served).patch_path(origin.digest_of(newer),
                                                           origin.digest_of(older))
        self.assertEqual(0o100444, os.stat(path).st_mode)
        self.assertIn((origin.digest_of(older), os.path.getsize(path)),
                      self.read_index(newer).patches)
        with open(path, 'rb') as patch:
            made = b''.join(tako.apply_patch(patch, lambda begin, size: older[begin:begin + size],
                                             len(newer)))
        self.assertEqual(newer, made)

    def test_store_makes_an_index_of_each_image(self):
        self.store(self.A, '1.0')
        index = self.read_index(self.A)
        self.assertEqual((tako.BY_CONTENT, len(self.A), ()),
                         (index.method, sum(index.lengths), index.patches))
        begin = 0
        for number, length in enumerate(index.lengths):
            self.assertEqual(tako.chunk_hash(self.A[begin:begin + length]), index.hash_of(number))
            begin += length
        self.assertEqual(0o100444, os.stat(self.index_path(self.A)).st_mode)

    def test_a_patch_that_does_not_make_the_image_is_not_published(self):
        self.store(self.A, '1.0')
        whole = tako.make_patch
        for name, changed in (('cut', lambda patch: patch[:-1]),
                              ('another byte', lambda patch: patch[:-20] + b'!' + patch[-19:])):
            def wrong(old, new, write, memory, progress, changed=changed):
                pieces = []
                whole(old, new, pieces.append, memory, progress)
                write(changed(b''.join(pieces)))
            with self.subTest(name), unittest.mock.patch.object(tako, 'make_patch', wrong):
                image = self.B + name.encode()
                path, version = self.write('image', image), '1.{}'.format(len(name))
                result = self.run_here('store', '-o', self.served,
                                       *self.options('--patch-from', '1.0', path, version))
                self.assertEqual(0, result.code, result)
                self.assertIn('does not make the image', result.err)
                self.assertEqual([], [each for each in self.stored() if each.endswith('.patch')])
                self.assertEqual((), self.read_index(image).patches)

    def test_an_image_that_repeats_itself_gets_an_index_that_fetch_accepts(self):
        """It has too many chunks: each has a third of the average size."""
        content = b'a line like each other, and no more than that\n' * 6000
        for number, limits in enumerate(({'CHUNKS_MAX': 64}, {'INDEX_SPARE_BYTES': 0})):
            content += b'!'
            with self.subTest(limits):
                self.assertCode(0, self.store(content, str(number), limits=limits))
                with unittest.mock.patch.multiple(tako, **limits):
                    self.assertGreater(self.read_index(content).average, tako.CHUNK_AVERAGE_BYTES)

    def test_an_image_without_an_acceptable_index_gets_none(self):
        limits = {'CHUNKS_MAX': 9, 'CHUNK_MAX_BYTES': 10000}
        result = self.store(self.A, '1.0', limits=limits)
        for said in (result, self.run_tako('store', '--reindex', '-o', self.served, limits=limits)):
            self.assertEqual(0, said.code, said)
            self.assertIn(self.image_path(self.A) + ': has no chunk index: ', said.err)
        self.assertEqual([origin.digest_of(self.A)], self.stored())
        self.assertEqual((origin.entry_of('1.0', self.A),), self.manifest().entries)

    def test_a_patch_that_cannot_be_verified_is_not_published(self):
        self.store(self.A, '1.0')
        with unittest.mock.patch.object(tako, 'read_older',
                                        side_effect=EOFError('the older image cannot be read')):
            result = self.run_here('store', *self.options('--patch-from', '1.0', '-o', self.served,
                                                          self.write('image', self.B), '1.1'))
        self.assertEqual(0, result.code, result)
        self.assertIn('does not make the image', result.err)
        self.assertEqual([], [each for each in self.stored() if each.endswith('.patch')])
        self.assertEqual(2, len(self.manifest().entries))

    def test_an_empty_image_gets_an_index(self):
        self.assertCode(0, self.store(b'', '1.0'))
        self.assertEqual(0, len(self.read_index(b'').lengths))

    def test_reindex_makes_missing_and_damaged_indexes(self):
        self.store(self.A, '1.0')
        self.store(self.B, '1.1')
        signed = scene.read(self.path('served', 'manifest'))
        right = scene.snapshot(self.served)
        os.unlink(self.index_path(self.A))
        origin.write(self.index_path(self.B), b'TakoIdx1')
        result = self.run_tako('store', '--reindex', '-o', self.served)
        self.assertEqual((0, self.served + ': made 2 chunk indexes\n', ''),
                         (result.code, result.out, result.err))
        self.assertEqual((right, signed),
                         (scene.snapshot(self.served), scene.read(self.path('served', 'manifest'))))
        self.assertQuiet(self.run_tako('store', '--reindex', '-o', self.served))

    def spoil(self, content, spoilt):
        """Replace the content of a stored image."""
        os.unlink(self.image_path(content))
        origin.write(self.image_path(content), spoilt)

    def test_reindex_makes_no_index_of_a_damaged_image(self):
        self.store(self.A, '1.0')
        self.store(self.B, '1.1')
        right = self.read_index(self.A)
        for content in (self.A, self.B):
            os.unlink(self.index_path(content))
        self.spoil(self.A, self.A[:-1] + b'!')
        result = self.run_tako('store', '--reindex', '-o', self.served)
        self.assertEqual((3, self.served + ': made 1 chunk indexes\n'), (result.code, result.out))
        self.assertIn('cannot make a chunk index: ' + self.image_path(self.A) + ' is damaged: ',
                      result.err)
        self.assertFalse(os.path.exists(self.index_path(self.A)))
        self.spoil(self.A, self.A)
        self.assertCode(0, self.run_tako('store', '--reindex', '-o', self.served))
        self.assertEqual(right, self.read_index(self.A))

    def test_a_restored_image_gets_a_new_index(self):
        """The old index may be that of the damaged image."""
        self.store(self.A, '1.0')
        right = scene.snapshot(self.served)
        self.spoil(self.A, self.A[:100000] + noise(100000, 7))
        os.unlink(self.index_path(self.A))
        with unittest.mock.patch.object(tako.ImageDirectory, 'why_unusable', return_value=''):
            self.assertCode(0, self.run_here('store', '--reindex', '-o', self.served))
        self.assertNotEqual(right, scene.snapshot(self.served))
        self.assertCode(0, self.store(self.A, '1.0'))
        self.assertEqual(right, scene.snapshot(self.served))

    def test_store_makes_the_index_that_a_killed_run_did_not_make(self):
        self.store(self.A, '1.0')
        right = scene.snapshot(self.served)
        os.unlink(self.index_path(self.A))
        self.assertQuiet(self.store(self.A, '1.0'))
        self.assertEqual(right, scene.snapshot(self.served))

    def test_a_damaged_image_is_no_base_of_a_patch(self):
        self.store(self.A, '1.0')
        self.spoil(self.A, b'!' + self.A[1:])
        for patch_from in ('1', '1.0'):
            result = self.store(self.B, '1.1', *self.options('--patch-from', patch_from))
            self.assertEqual(0, result.code, result)
            self.assertIn(': patch from 1.0: its image is damaged: ', result.err)
        self.assertEqual(2, len(self.manifest().entries))
        self.assertEqual([], [name for name in self.stored() if name.endswith('.patch')])

    def test_an_image_of_an_unexpected_size_is_no_base_of_a_patch(self):
        self.store(self.A, '1.0')
        for spoilt in (b'', self.A[:-1], self.A + b'!'):
            self.spoil(self.A, spoilt)
            before = scene.snapshot(self.served)
            self.assertCode(2, self.store(self.B, '1.1', *self.options('--patch-from', '1.0')))
            self.assertEqual(before, scene.snapshot(self.served))
        self.spoil(self.A, b'')
        self.assertCode(0, self.store(self.B, '1.1', *self.options('--patch-from', '1')))
        self.assertEqual(2, len(self.manifest().entries))
        self.assertEqual((), self.read_index(self.B).patches)

    def test_reindex_allows_no_other_arguments(self):
        image = self.write('image', ONE)
        for more in ([image, '1.0'], ['-f', self.key_file], ['--dry-run'], ['--patch-from', '1']):
            self.assertCode(2, self.run_tako('store', '--reindex', '-o', self.served, *more))
        self.assertCode(2, self.run_tako('store', '-o', self.served, '-f', self.key_file))
        self.assertEqual([], os.listdir(self.served))

    def test_patch_from_a_number_of_images(self):
        for content, version in ((self.A, '1.0'), (self.B, '1.1')):
            self.store(content, version)
        result = self.store(self.C, '1.2', *self.options('--patch-from', '1'))
        self.assertCode(0, result)
        self.assertIn(': patch from 1.1: ', result.out)
        self.assertPatched(self.B, self.C)
        self.assertEqual(1, len(self.read_index(self.C).patches))

    def test_patch_from_a_version_and_later_from_more_images(self):
        for content, version in ((self.A, '1.0'), (self.B, '1.1')):
            self.store(content, version)
        self.assertCode(0, self.store(self.C, '1.2', *self.options('--patch-from', '1.0.0')))
        self.assertPatched(self.A, self.C)
        signed = scene.read(self.path('served', 'manifest'))
        self.assertCode(0, self.store(self.C, '1.2', *self.options('--patch-from', '9')))
        self.assertPatched(self.A, self.C)
        self.assertPatched(self.B, self.C)
        self.assertEqual(signed, scene.read(self.path('served', 'manifest')))
        before = scene.snapshot(self.served)
        self.assertQuiet(self.store(self.C, '1.2', *self.options('--patch-from', '9')))
        self.assertEqual(before, scene.snapshot(self.served))

    def test_an_index_lists_only_the_patches_of_the_newest_images(self):
        olds = [self.A + bytes([number]) for number in range(3)]
        for number, content in enumerate(olds):
            self.store(content, '1.{}'.format(number))
        for number in range(3):
            self.store(self.B, '2.0', *self.options('--patch-from', '1.{}'.format(number)))
        self.assertEqual({origin.digest_of(old) for old in olds},
                         {older for older, _ in self.read_index(self.B).patches})
        for oldest in olds:
            for old in olds:
                os.utime(self.image_path(old), (9, 9 - (old is oldest)))
            self.assertCode(0, self.run_tako('store', '--reindex', '-o', self.served,
                                             limits={'PATCHES_MAX': 2}))
            self.assertEqual({origin.digest_of(old) for old in olds if old is not oldest},
                             {older for older, _ in self.read_index(self.B).patches})

    def test_a_newer_or_missing_image_is_no_base_of_a_patch(self):
        for content, version in ((self.A, '1.0'), (self.B, '2.0')):
            self.store(content, version)
        os.unlink(self.path('served', 'store', origin.digest_of(self.A)))
        self.assertCode(0, self.store(self.C, '1.2', *self.options('--patch-from', '5')))
        self.assertEqual((), self.read_index(self.C).patches)

    def test_a_patch_that_saves_nothing_is_discarded(self):
        self.store(self.A, '1.0')
        result = self.store(noise(200000, 8), '1.1', *self.options('--patch-from', '1'))
        self.assertIn(', discarded: it would save nothing', result.out)
        self.assertEqual([], [name for name in self.stored() if name.endswith('.patch')])

    def test_a_patch_is_made_with_little_memory(self):
        self.store(self.A, '1.0')
        self.assertCode(0, self.store(self.B, '1.1',
                                      *self.options('--patch-from', '1', '--patch-memory', '32')))
        self.assertPatched(self.A, self.B)

    def test_invalid_patch_options_are_usage_errors(self):
        self.store(self.A, '1.0')
        before = scene.snapshot(self.served)
        for more in (['--patch-from', '3.1.4'], ['--patch-from', '* '], ['--patch-from', '\u00b2'],
                     ['--patch-from', '9' * 5000],
                     ['--patch-from', '17'],
                     ['--patch-memory', '31'], ['--patch-memory', 'x']):
            with self.subTest(more):
                self.assertCode(2, self.store(self.B, '1.1', *self.options(*more)))
        self.assertEqual(before, scene.snapshot(self.served))

    def test_images_too_large_for_a_patch_are_refused_before_the_store_changes(self):
        """For example, two images of 1.2 GB are too large for a 32-bit Python."""
        self.store(self.A, '1.0')
        before = scene.snapshot(self.served)
        store = ('store', '-o', self.served) + self.options('--patch-from', '1')
        limits = {'MAPPABLE_BYTES': len(self.A) + len(self.B) - 1}
        for more in ((), ('--dry-run',)):
            arguments = store + more + (self.write('image', self.B), '1.1')
            result = self.run_here(*arguments, limits=limits)
            self.assertCode(1, result)
            self.assertIn('patch from 1.0: both images together have 400 kB, '
                          'and this Python can map 400 kB\n'
                          '  leave out --patch-from, or publish with a 64-bit Python\n', result.err)
            self.assertEqual(('', before), (result.out, scene.snapshot(self.served)))

    def test_the_largest_images_that_can_be_mapped_get_a_patch(self):
        self.store(self.A, '1.0')
        options = self.options('--patch-from', '1', self.write('image', self.B), '1.1')
        for most in (len(self.A) + len(self.B), 1):         # the second run makes no patch
            limits = {'MAPPABLE_BYTES': most}
            result = self.run_here('store', '-o', self.served, *options, limits=limits)
            self.assertCode(0, result)
            self.assertPatched(self.A, self.B)

    def test_empty_and_identical_images_get_no_patch(self):
        for content, version in ((b'', '1.0'), (self.A, '1.1')):
            self.store(content, version)
        self.assertCode(0, self.store(self.A, '1.2', *self.options('--patch-from', '9')))
        self.assertCode(0, self.store(b'', '1.3', *self.options('--patch-from', '9')))
        self.assertEqual([], [name for name in self.stored() if name.endswith('.patch')])

    def test_a_dry_run_makes_neither_index_nor_patch(self):
        self.store(self.A, '1.0')
        before = scene.snapshot(self.served)
        self.assertCode(0,
                        self.store(self.B, '1.1', *self.options('--dry-run', '--patch-from', '1')))
        self.assertEqual(before, scene.snapshot(self.served))


class SignTest(StoreCase):
    def setUp(self):
        super().setUp()
        self.store(ONE, '1.0')
        self.store(TWO, '1.1')
        self.entries = self.manifest().entries
        self.new_key = self.write('new.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)

    def sign(self, *options):
        return self.run_tako('sign', *(options or ('-f', self.new_key, '-p', origin.PUBLIC_KEY)),
                             self.served)

    def test_sign_signs_the_same_entries_with_the_new_key(self):
        images = scene.snapshot(self.path('served', 'store'))
        result = self.sign()
        self.assertCode(0, result)
        self.assertIn('PublicKey=' + origin.OTHER_PUBLIC_KEY, result.out)
        signed = scene.read(self.path('served', 'manifest'))
        self.assertEqual(self.entries, tako.open_manifest(
            signed, [tako.ed25519_public_key(origin.OTHER_SEED)], 'manifest').entries)
        self.assertEqual(images, scene.snapshot(self.path('served', 'store')))
        self.assertCode(0, self.store(b'three', '1.2', '-f', self.new_key))

    def test_signing_again_changes_nothing(self):
        self.sign()
        before = scene.snapshot(self.served), os.stat(self.path('served', 'manifest')).st_ino
        self.assertQuiet(self.sign())
        self.assertEqual(before, (scene.snapshot(self.served),
                                  os.stat(self.path('served', 'manifest')).st_ino))

    def test_sign_refuses_a_manifest_that_the_old_key_did_not_sign(self):
        before = scene.snapshot(self.served)
        third = tako.encode_base64(tako.ed25519_public_key(b'a third key that signed not once'))
        self.assertCode(3, self.sign('-f', self.new_key, '-p', third))
        self.assertCode(2, self.sign('-f', self.new_key, '-p', 'nonsense'))
        self.assertCode(2, self.sign('-f', self.new_key))
        self.assertCode(2, self.run_tako('sign', '-f', self.new_key, '-p', origin.PUBLIC_KEY,
                                         self.destination))
        self.assertCode(2, self.run_tako('sign', '-f', self.new_key, '-p', origin.PUBLIC_KEY,
                                         self.path('missing')))
        self.assertEqual(before, scene.snapshot(self.served))

    def test_sign_needs_only_the_manifest(self):
        """So the machine that has the key needs neither images nor a network."""
        os.mkdir(self.path('apart'))
        self.write('apart/manifest', scene.read(self.path('served', 'manifest')))
        self.assertCode(0, self.run_tako('sign', '-f', self.new_key, '-p', origin.PUBLIC_KEY,
                                         self.path('apart')))
        self.assertEqual(['manifest'], os.listdir(self.path('apart')))
        os.unlink(self.path('served', 'manifest'))
        self.write('served/manifest', scene.read(self.path('apart', 'manifest')))
        self.assertCode(0, self.run_tako('verify', '-p', origin.OTHER_PUBLIC_KEY, self.served))

    def test_clients_that_list_both_keys_accept_the_change(self):
        config = self.config('file://' + self.served,
                             public_keys=[origin.PUBLIC_KEY, origin.OTHER_PUBLIC_KEY])
        self.assertCode(0, self.run_tako('fetch', config))
        self.sign()
        self.assertQuiet(self.run_tako('fetch', config))
        self.config('file://' + self.served, public_keys=[origin.OTHER_PUBLIC_KEY])
        self.assertQuiet(self.run_tako('fetch', config))


@unittest.skipIf(sys.version_info < (3, 8),
                 'THIS PYTHON HAS NO AUDIT HOOKS: CONNECTIONS ARE NOT TESTED')
class AloneTest(StoreCase):
    """While it has the secret key, Tako starts no program and connects to nothing."""

    def told(self, *arguments):
        done = subprocess.run([sys.executable, '-I', '-c', TELLING, scene.TAKO] + list(arguments),
                              cwd=self.directory, env={},
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              universal_newlines=True)
        return done.returncode, done.stderr

    def test_store_and_sign_start_no_program_and_connect_to_nothing(self):
        image = self.write('image', ONE + TWO)
        for version, options in (('1.0', ()), ('1.1', ('--patch-from', '1'))):
            with open(image, 'ab') as stream:
                stream.write(version.encode())
            code, err = self.told('store', '-f', self.key_file, '-o', self.served, image, version,
                                  *options)
            self.assertEqual(0, code)
            self.assertNotIn('told: ', err)
        new_key = self.write('new.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        self.assertEqual((0, ''),
                         self.told('sign', '-f', new_key, '-p', origin.PUBLIC_KEY, self.served))

    def test_gen_key_starts_no_program_and_connects_to_nothing(self):
        self.assertEqual((0, ''), self.told('gen-key'))

    def test_a_connection_would_be_noticed(self):
        server = self.serve()
        server.publish('1.0', ONE)
        self.assertEqual((0, 'told: socket.connect\n'), self.told('fetch', self.config(server.url)))


class PageTest(scene.Scene):
    """The commands of a page, one after another, exit with 0."""

    def section(self, name, *sections):
        """Return the text of these sections of a page, or of all."""
        with open(os.path.join(scene.PROJECT, 'docs', name), encoding='utf-8') as stream:
            parts = re.split('^## (.*)\n', stream.read(), flags=re.M)[1:]
        return ''.join(text for title, text in zip(parts[::2], parts[1::2])
                       if title in sections or not sections)

    def run_page(self, name, *sections):
        """Run the sh blocks of these sections, or of all. Return what each block printed."""
        text = self.section(name, *sections)
        shutil.copy(scene.TAKO, self.path('tako.py'))
        os.mkdir(self.path('bin'))
        os.symlink(sys.executable, self.path('bin', 'python3'))
        printed = []
        for _, commands in re.findall('^( *)```sh\n(.*?)^\\1```', text, re.M | re.S):
            done = subprocess.run(['/bin/sh', '-ec', commands], cwd=self.directory,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  env=scene.environment(self.environ_with_systemctl()))
            printed.append(done.stdout.decode())
            self.assertEqual(0, done.returncode, printed)
        return printed

    def test_a_ci_job_extends_the_manifest_of_the_server(self):
        self.run_page('distributing-images.md', 'Once: a key pair', 'For each version')
        os.mkdir(self.path('job'))
        shutil.copy(self.path('public', 'manifest'), self.path('job'))
        self.write('new.img', noise(1000))
        stored = self.run_tako('store', '--extend', '-f', 'app.key', '-o', 'job', 'new.img',
                               '1.0.2')
        self.assertEqual(0, stored.code)
        self.assertIn('stored 1.0.2', stored.out)
        self.assertEqual(1, stored.err.count('tako: warning: '))
        for name in os.listdir(self.path('job', 'store')):
            shutil.copy(self.path('job', 'store', name), self.path('public', 'store'))
        os.replace(self.path('job', 'manifest'), self.path('public', 'manifest'))
        self.assertCode(0, self.run_tako('verify', '-p', 'app.pub', 'public'))
        config = self.config('file://' + self.path('public'), version='1.0.2',
                             public_keys=[scene.read(self.path('app.pub')).decode().strip()])
        self.assertCode(0, self.run_tako('fetch', config))

    def test_the_examples_of_list_work(self):
        _, lists, newest = self.run_page('tako-list.md')
        self.assertRegex(lists, '(?s)^VERSION +SIZE +SHA-256 +STATE\n'
                                '2.0-beta.1 +100 kB +[0-9a-f]{12}\n'
                                '1.1.0 .* matches\n1.0.0 .* matches, installed, stored\nVERSION')
        self.assertEqual(3, lists.count('\n1.0.0  '))
        self.assertEqual('1.1.0\n', newest)

    def test_the_examples_of_withdraw_work(self):
        printed = self.run_page('tako-withdraw.md')
        self.assertIn('would withdraw 1.1.0\n', printed[2])
        self.assertIn('2 of 4 images are intact, 2 withdrawn', printed[2])
        self.assertEqual(2, scene.read(self.path('gone.conf')).count(b'{ return 410; }\n'))

    def test_a_version_is_withdrawn_as_the_page_on_distributing_images_says(self):
        self.run_page('distributing-images.md', 'Once: a key pair', 'For each version',
                      'Withdrawing a version')
        self.assertIn(b'{ return 410; }\n', scene.read(self.path('gone.conf')))
        self.assertCode(0, self.run_tako('verify', '-p', 'app.pub', 'public'))

    def test_the_examples_of_store_work(self):
        self.assertIn('this begins a new history', self.run_page('tako-store.md')[1])

    @unittest.skipUnless(has_openssl_3(), 'NO OpenSSL 3: THE CHECK OF A FIRST COPY IS NOT TESTED')
    def test_the_first_copy_is_checked_with_openssl_alone(self):
        section = 'Check the first copy of tako.py'
        self.assertIn('is the signed tako.py\n', self.run_page('security.md', section)[1])
        self.assertEqual(scene.read(scene.TAKO), scene.read(self.path('first-tako.py')))
        manifest = self.path('public-tako', 'manifest')
        image, = [os.path.join(self.path('public-tako', 'store'), name)
                  for name in os.listdir(self.path('public-tako', 'store')) if '.' not in name]
        check = re.findall('^```sh\n(.*?)^```', self.section('security.md', section),
                           re.M | re.S)[1]
        for path in (manifest, image):
            intact = scene.read(path)
            os.unlink(path)
            self.write(path, intact.replace(b'0', b'1', 1))
            done = subprocess.run(['/bin/sh', '-c', check], cwd=self.directory,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertNotEqual(0, done.returncode)
            self.assertNotIn(b'is the signed', done.stdout)
            os.unlink(path)
            self.write(path, intact)


class VerifyTest(StoreCase):
    def setUp(self):
        super().setUp()
        self.store(ONE, '1.0')
        self.store(TWO, '1.1')
        self.image = self.path('served', 'store', origin.digest_of(TWO))

    def verify(self, public_key=origin.PUBLIC_KEY):
        before = scene.snapshot(self.served)
        result = self.run_tako('verify', '-p', public_key, self.served)
        self.assertEqual(before, scene.snapshot(self.served))
        return result

    def test_an_intact_directory_is_valid(self):
        result = self.verify()
        self.assertEqual((0, self.served + ': the manifest is valid, 2 of 2 images are intact\n',
                          ''),
                         (result.code, result.out, result.err))

    def test_one_image_is_named_in_the_singular(self):
        served = self.path('one')
        os.mkdir(served)
        publisher = origin.Publisher(served)
        publisher.publish('1.0', b'x')
        result = self.run_tako('verify', '-p', origin.PUBLIC_KEY, served)
        self.assertEqual((0, served + ': the manifest is valid, 1 of 1 image is intact\n', ''),
                         (result.code, result.out, result.err))
        path = self.config('file://' + served)
        self.assertIn(' 1 byte from ', self.run_tako('fetch', '--dry-run', path).out)
        self.assertCode(0, self.run_tako('fetch', path))
        self.assertIn(' 1 image, 1 byte\n', self.run_tako('status', path).out)

    def test_verify_takes_no_lock(self):
        with tako.DirectoryLock(self.served, 0, print):
            self.assertEqual(0, self.verify().code)

    def test_a_missing_image_is_exit_1(self):
        os.unlink(self.image)
        result = self.verify()
        self.assertEqual(1, result.code)
        self.assertIn('1.1: {} is missing'.format(self.image), result.err)
        self.assertIn('1 of 2', result.out)

    def test_a_damaged_image_is_exit_3(self):
        os.unlink(self.image)
        self.write(self.image, TWO[::-1])
        os.unlink(self.path('served', 'store', origin.digest_of(ONE)))
        result = self.verify()
        self.assertEqual(3, result.code)
        self.assertIn('1.1: {} is damaged'.format(self.image), result.err)

    def test_another_key_is_exit_3_and_a_missing_manifest_exit_2(self):
        self.assertCode(3, self.verify(origin.OTHER_PUBLIC_KEY))
        self.assertCode(2, self.run_tako('verify', '-p', origin.PUBLIC_KEY, self.destination))

    def test_the_public_key_may_be_in_a_file(self):
        for end in ('', '\n', '\r\n'):
            self.assertEqual(0, self.verify(self.write('app.pub', origin.PUBLIC_KEY + end)).code)
            self.assertEqual(0, self.verify(origin.PUBLIC_KEY + end).code)
        self.assertCode(3, self.verify(self.write('other.pub', origin.OTHER_PUBLIC_KEY)))
        new_key = self.write('new.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        self.assertCode(
            0,
            self.run_tako('sign', '-f', new_key, '--public-key', self.path('app.pub'), self.served),
        )

    def test_an_invalid_public_key_is_a_usage_error(self):
        secret = self.write('secret', self.secret, 0o600)
        for given, message in (
            (
                origin.PUBLIC_KEY[:-1],
                "'{}': neither a public key nor a readable file: No such".format(
                    origin.PUBLIC_KEY[:-1]
                ),
            ),
            ('none.pub', "-p 'none.pub': neither a public key nor a readable file: No such file"),
            ('served', "-p 'served': neither a public key nor a readable file: Is a directory"),
            ('', "-p '': neither a public key nor a readable file: "),
            (self.secret[8:] * 3, '-p: neither a public key nor a readable file: '),
            (self.write('bad.pub', b'\xff' * 44), 'bad.pub: not a public key\n'),
            (self.write('empty.pub', b'\n'), 'empty.pub: not a public key\n'),
            (self.write('two.pub', (origin.PUBLIC_KEY + '\n') * 2), 'two.pub: not a public key\n'),
            (
                secret,
                '{0}: a secret key, not a public key\n'
                '  give the output of: tako public-key -f {0}\n'.format(
                    secret
                ),
            ),
            (self.secret, 'a secret key in the place of a public key\n'),
        ):
            with self.subTest(message):
                result = self.verify(given)
                self.assertCode(2, result)
                self.assertIn(message, result.err)
                self.assertNotIn(self.secret[20:40], result.err)


class GenKeyTest(scene.Scene):
    def test_gen_key_prints_both_keys_and_writes_no_file(self):
        before = scene.snapshot(self.directory)
        first, second = self.run_tako('gen-key').out, self.run_tako('gen-key').out
        lines = first.splitlines()
        self.assertEqual(4, len(lines))
        self.assertEqual(tako.parse_public_key(lines[1]),
                         tako.ed25519_public_key(tako.parse_secret_key(lines[3])))
        self.assertNotEqual(first, second)
        self.assertEqual(before, scene.snapshot(self.directory))

    def written(self, name='app'):
        """Return the keys in NAME.key and NAME.pub."""
        secret, public = (scene.read(self.path(name + end)).decode() for end in ('.key', '.pub'))
        self.assertEqual((1, 1), (secret.count('\n'), public.count('\n')))
        return secret.rstrip('\n'), public.rstrip('\n')

    def test_gen_key_writes_both_keys_to_files(self):
        for option in (('-o', 'app'), ('--output', 'other'), ('--output=' + self.path('third'),)):
            with self.subTest(option):
                result = self.run_tako('gen-key', *option)
                name = option[-1].partition('=')[2] or option[-1]
                secret, public = self.written(name)
                self.assertEqual(
                    tako.parse_public_key(public),
                    tako.ed25519_public_key(tako.parse_secret_key(secret)),
                )
                self.assertEqual(
                    ['0o100600', '0o100644'],
                    [oct(os.stat(self.path(name + end)).st_mode) for end in ('.key', '.pub')],
                )
                self.assertEqual(
                    (
                        0,
                        '{0}.key: the secret key; anyone who has it can sign in your name\n'
                        '{0}.pub: the public key; clients need PublicKey={1}, or StampKey= if it '
                        'signs stamps\n'.format(
                            name, public
                        ),
                        '',
                    ),
                    (result.code, result.out, result.err),
                )
        self.assertEqual(7, len(os.listdir(self.directory)))

    def test_the_key_files_of_gen_key_work_without_a_warning(self):
        self.run_tako('gen-key', '-o', 'app')
        os.mkdir(self.path('served'))
        for version in ('0.9', '1.0'):          # the first store warns that a manifest begins
            stored = self.run_tako('store', '-f', 'app.key', '-o', 'served', 'app.pub', version)
        self.assertEqual((0, ''), (stored.code, stored.err))
        self.assertIn('PublicKey={}\n'.format(self.written()[1]), stored.out)
        self.assertEqual(0, self.run_tako('verify', '-p', 'app.pub', 'served').code)

    def test_gen_key_replaces_no_file(self):
        for name in ('app.key', 'app.pub'):
            for make in (
                lambda path: self.write(path, b'mine'),
                lambda path: os.symlink('nowhere', self.path(path)),
                lambda path: os.mkdir(self.path(path)),
            ):
                with self.subTest(name):
                    make(name)
                    before = scene.snapshot(self.directory)
                    result = self.run_tako('gen-key', '-o', 'app')
                    self.assertEqual(
                        (
                            2,
                            '',
                            'tako: {}: exists already, so no key was made\n'
                            '  choose another NAME: gen-key replaces no file\n'.format(name),
                        ),
                        (result.code, result.out, result.err),
                    )
                    self.assertEqual(before, scene.snapshot(self.directory))
                    (
                        scene.remove_tree(self.path(name))
                        if os.path.isdir(self.path(name))
                        else os.unlink(self.path(name))
                    )

    def test_an_invalid_name_for_key_files_is_a_usage_error(self):
        for name, message in (
            ('', "invalid name for key files: ''"),
            ('destination/', "invalid name for key files: 'destination/'"),
            ('none/app', 'none: not an existing directory'),
        ):
            result = self.run_tako('gen-key', '-o', name)
            self.assertCode(2, result)
            self.assertIn(message, result.err)
        self.assertEqual({'destination'}, set(scene.snapshot(self.directory)))

    def test_key_files_are_synced_before_they_are_reported(self):
        synced, fsync = [], os.fsync

        def note(descriptor):
            synced.append(os.path.basename(os.readlink('/proc/self/fd/{}'.format(descriptor))))
            fsync(descriptor)

        with unittest.mock.patch.object(os, 'fsync', note):
            self.assertEqual(0, self.run_here('gen-key', '-o', self.path('app')).code)
        self.assertEqual(['app.key', 'app.pub', os.path.basename(self.directory)], synced)

    def test_a_failed_fsync_leaves_no_key_file(self):
        for calls in (1, 2, 3):
            with self.subTest(calls):
                outcomes = [None] * (calls - 1) + [OSError(errno.ENOSPC, 'No space left on device')]
                with unittest.mock.patch.object(os, 'fsync', side_effect=outcomes):
                    result = self.run_here('gen-key', '-o', self.path('app'))
                self.assertCode(1, result)
                self.assertIn('No space left', result.err)
                self.assertEqual({'destination'}, set(scene.snapshot(self.directory)))


class PublicKeyTest(scene.Scene):
    def test_public_key_accepts_the_secret_key_from_each_place(self):
        secret = tako.format_secret_key(origin.SEED)
        name = self.write('app.key', secret + '\n', 0o600)
        for options, settings in (
            (('-f', name), {}),
            (('--key-file=' + name,), {}),
            (('-k', secret), {}),
            (('--key', secret), {}),
            (('-f', '-'), {'input': secret.encode() + b'\n'}),
            ((), {'environ': {'TAKO_SECRET_KEY': secret + '\r\n'}}),
        ):
            with self.subTest(options[:1]):
                result = self.run_tako('public-key', *options, **settings)
                self.assertEqual(
                    (0, origin.PUBLIC_KEY + '\n', ''), (result.code, result.out, result.err)
                )

    def test_public_key_refuses_a_missing_ambiguous_or_damaged_key(self):
        secret = tako.format_secret_key(origin.SEED)
        for options, message in (
            ((), 'no secret key'),
            (('-k', secret, '-f', '-'), 'not allowed with'),
            (('-k', secret[:-4]), '-k: a truncated or modified secret key'),
            (('-f', 'none'), 'none: No such file'),
            (('-k', secret, 'more'), 'unrecognized arguments: more'),
        ):
            with self.subTest(message):
                result = self.run_tako('public-key', *options)
                self.assertCode(2, result)
                self.assertIn(message, result.err)
                self.assertEqual('', result.out)

    def test_a_closed_standard_output_is_exit_1(self):
        done = subprocess.run(
            [
                '/bin/sh',
                '-c',
                'exec "$@" >&-',
                'sh',
                sys.executable,
                '-I',
                scene.TAKO,
                'public-key',
                '-k',
                tako.format_secret_key(origin.SEED),
            ],
            stderr=subprocess.PIPE,
        )
        self.assertEqual(
            (1, b'tako: standard output is closed\n  open it: the key is printed there\n'),
            (done.returncode, done.stderr),
        )

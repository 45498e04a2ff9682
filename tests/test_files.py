"""Section 11: files that are whole or absent, locks, and bounded reading."""
import errno
import os
import socket
import subprocess
import sys
import threading
import time
import unittest
import unittest.mock

import origin
import scene
import tako


class NewFileTest(scene.Scene):
    def test_a_published_file_is_whole_and_read_only(self):
        with tako.NewFile(self.path('.new')) as new:
            new.write(b'whole')
            self.assertFalse(os.path.exists(self.path('file')))
            new.publish(self.path('file'))
        with open(self.path('file'), 'rb') as stream:
            self.assertEqual(b'whole', stream.read())
        self.assertEqual(0o100444, os.stat(self.path('file')).st_mode)
        self.assertFalse(os.path.exists(self.path('.new')))

    def test_an_interrupted_write_leaves_the_old_file_and_no_temporary(self):
        self.write('file', 'old')
        with self.assertRaises(KeyboardInterrupt):
            with tako.NewFile(self.path('.new')) as new:
                new.write(b'half')
                raise KeyboardInterrupt
        with open(self.path('file')) as stream:
            self.assertEqual('old', stream.read())
        self.assertFalse(os.path.exists(self.path('.new')))

    def test_a_temporary_name_that_is_a_link_is_not_followed(self):
        self.write('victim', 'precious')
        os.symlink('victim', self.path('.new'))
        with self.assertRaises(FileExistsError):
            with tako.NewFile(self.path('.new')):
                pass
        with open(self.path('victim')) as stream:
            self.assertEqual('precious', stream.read())

    def test_a_partial_file_has_at_once_what_was_written(self):
        """However large the buffer of Python is."""
        with tako.PartialFile(self.path('partial')) as partial:
            partial.write(b'a few bytes')
            self.assertEqual(b'few', partial.read_at(2, 3))

    def test_a_temporary_file_is_readable_only_by_its_owner(self):
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        for kind in (tako.NewFile, tako.PartialFile):
            with self.subTest(kind.__name__), kind(self.path('.new')):
                self.assertEqual(0o100600, os.stat(self.path('.new')).st_mode)

    def test_a_published_file_is_readable_whatever_the_umask(self):
        old = os.umask(0o077)
        self.addCleanup(os.umask, old)
        with tako.NewFile(self.path('.new')) as new:
            new.publish(self.path('file'))
        self.assertEqual(0o100444, os.stat(self.path('file')).st_mode)

    def test_a_full_disk_raises_and_leaves_no_temporary(self):
        if not os.path.exists('/dev/full'):
            self.skipTest('no /dev/full')
        with self.assertRaises(OSError):
            with tako.NewFile(self.path('.new')) as new:
                full = os.open('/dev/full', os.O_WRONLY)
                os.dup2(full, new._stream.fileno())
                os.close(full)
                new.write(b'x' * (1 << 20))
        self.assertFalse(os.path.exists(self.path('.new')))


UNREADABLE = '/proc/self/mem'           # reading its beginning fails with EIO, as on a failing disk


@unittest.skipUnless(os.path.exists(UNREADABLE), 'no ' + UNREADABLE)
class FailingDiskTest(scene.Scene):
    def assertNames(self, path, function, *arguments):
        with self.assertRaises(OSError) as caught:
            function(*arguments)
        self.assertIn(path + ': ', tako.as_tako_error(caught.exception).what)

    def test_an_error_of_reading_names_the_file(self):
        self.assertNames(UNREADABLE, tako.read_at_most, 3, UNREADABLE)
        self.assertNames(UNREADABLE, list, tako.read_blocks(open(UNREADABLE, 'rb', buffering=0)))

    def test_an_error_of_indexing_names_the_image(self):
        os.mkdir(self.path('store'))
        os.symlink(UNREADABLE, self.path('store', 'image'))
        self.assertNames(self.path('store', 'image'),
                         tako.ImageDirectory(self.directory).make_index, 'image', bool)

    def test_an_error_of_setting_the_time_names_the_file(self):
        self.assertNames(self.path('missing'), tako.touch, self.path('missing'))

    def test_an_unreadable_partial_file_is_named_and_closed(self):
        partial = tako.PartialFile(UNREADABLE)
        self.assertNames(UNREADABLE, partial.__enter__)
        self.assertTrue(partial._stream.closed)


class BoundsTest(scene.Scene):
    def test_read_at_most_stops_one_byte_after_the_limit(self):
        for content, part in (('ab', b'ab'), ('abc', b'abc'), ('abcdef', b'abcd')):
            self.assertEqual(part, tako.read_at_most(3, self.write('file', content)))

    def test_read_at_most_reads_several_blocks(self):
        content = bytes(range(256)) * (tako.BLOCK_BYTES // 256 * 2 + 1)
        path = self.write('file', content)
        for limit in (0, tako.BLOCK_BYTES - 1, tako.BLOCK_BYTES, len(content) - 1, len(content),
                      16 << 20):
            self.assertEqual(content[:limit + 1], tako.read_at_most(limit, path))

    def test_read_at_most_of_a_small_file_takes_little_memory(self):
        try:
            import tracemalloc
        except ImportError:
            self.skipTest('THIS PYTHON CANNOT COUNT MEMORY')
        path = self.write('file', b'small')
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertEqual(b'small', tako.read_at_most(tako.MANIFEST_MAX_BYTES, path))
        self.assertLess(tracemalloc.get_traced_memory()[1], 4 * tako.BLOCK_BYTES)

    def test_join_at_most_refuses_more_than_the_limit(self):
        self.assertEqual(b'abcde', tako.join_at_most(5, [b'abc', b'de'], 'it'))
        self.assertRaises(tako.RefusedError, tako.join_at_most, 4, [b'abc', b'de'], 'it')

    def test_at_most_yields_up_to_the_limit(self):
        self.assertEqual([b'abc', b'de'], list(tako.at_most(5, [b'abc', b'de'], 'it')))

    def test_at_most_refuses_the_chunk_beyond_the_limit(self):
        chunks = tako.at_most(4, [b'abc', b'de', b'f'], 'it')
        self.assertEqual(b'abc', next(chunks))
        with self.assertRaises(tako.RefusedError) as caught:
            next(chunks)
        self.assertEqual(3, caught.exception.exit_code)

    def test_hash_blocks_returns_size_and_sha256(self):
        hashed = (3, 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
        self.assertEqual(hashed, tako.hash_blocks([b'a', b'bc']))
        self.assertEqual(hashed[1], tako.hash_file(self.write('file', 'abc'), bool))


class NotFileTest(scene.Scene):
    """Tako refuses a pipe, socket, device or directory at once, without waiting for a writer."""

    def test_open_file_refuses_what_is_no_regular_file(self):
        os.mkfifo(self.path('pipe'))
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(self.path('socket'))
        for path in (self.path('pipe'), self.directory, self.path('socket'), '/dev/zero',
                     os.fsencode(self.path('pipe'))):
            with self.subTest(path), self.assertRaises(OSError) as caught:
                tako.open_file(path)
            self.assertEqual(path, caught.exception.filename)
        with tako.open_file(self.write('file', b'content')) as stream:
            self.assertTrue(os.get_blocking(stream.fileno()))
            self.assertEqual(b'content', stream.read())

    def test_a_file_that_the_disk_does_not_describe_is_not_taken_for_something_else(self):
        """A state that counts as damaged would be replaced, and what it notes lost."""
        path = self.write('file', b'content')
        before = len(os.listdir('/proc/self/fd'))
        failing = OSError(errno.EIO, 'Input/output error')
        with unittest.mock.patch.object(os, 'fstat', side_effect=failing):
            with self.assertRaises(OSError) as caught:
                tako.open_file(path)
        self.assertEqual((errno.EIO, path), (caught.exception.errno, caught.exception.filename))
        self.assertNotIsInstance(caught.exception, tako.NotFileError)
        self.assertEqual(before, len(os.listdir('/proc/self/fd')))

    def fetch(self):
        return self.run_tako('fetch', self.app, '--timeout', '20')

    def test_each_file_that_fetch_reads_may_be_no_regular_file(self):
        os.mkdir(self.path('served'))
        publisher = origin.Publisher(self.path('served'))
        one = publisher.publish('1.0', b'one' * 99999)
        self.app = self.config('file://' + self.path('served'))
        self.assertCode(0, self.fetch())
        image = 'store/' + one.digest
        for name, code, words in (
                ('app.tako', 2, 'not a regular file|no [*].tako file in this directory'),
                ('destination/manifest', 1, 'manifest: not a regular file'),
                ('destination/.state', 0, '.state is damaged'),
                # a directory stays: 3
                ('destination/' + image, 0, 'is damaged: it is not a file'),
                ('destination/' + image + '.chunks', 0, '^$'),
                ('served/manifest', 75, 'manifest: not a'),
                ('served/' + image, 75, one.digest + ': not a')):
            for make in (os.mkfifo,) if name == 'destination/' + image else (os.mkfifo, os.mkdir):
                with self.subTest(name, kind=make.__name__):
                    if name.startswith('served/store'):
                        os.unlink(self.path('destination', image))
                    path = self.path(name)
                    if os.path.lexists(path):
                        os.rename(path, path + '.aside')
                    make(path)
                    try:
                        result = self.fetch()
                        self.assertCode(code, result)
                        self.assertRegex(result.err, words)
                        self.run_tako('status', self.app)
                    finally:
                        if os.path.lexists(path) and not os.path.isfile(path):
                            os.unlink(path) if make is os.mkfifo else os.rmdir(path)
                        if os.path.lexists(path + '.aside'):
                            os.rename(path + '.aside', path)
                    self.assertCode(0, self.fetch())


class DirectoryLockTest(scene.Scene):
    def lock(self, wait=0.0, on_wait=lambda: None):
        return tako.DirectoryLock(self.directory, wait, on_wait)

    def test_a_held_lock_raises_for_a_second_run(self):
        with self.lock(), self.assertRaises(tako.LockedError) as caught:
            self.lock(0.1).__enter__()
        self.assertEqual(75, caught.exception.exit_code)

    def test_a_run_that_waits_for_the_lock_says_so_once(self):
        said = []
        first = self.lock().__enter__()
        threading.Timer(0.3, first.__exit__, (None, None, None)).start()
        start = time.monotonic()
        with self.lock(30, lambda: said.append('waiting')):
            self.assertLess(time.monotonic() - start, 20)
        self.assertEqual(['waiting'], said)

    def test_a_released_lock_leaves_no_file(self):
        before = scene.snapshot(self.directory)
        with self.lock():
            self.assertEqual(0o100600, os.stat(self.path('.lock')).st_mode)
        self.assertEqual(before, scene.snapshot(self.directory))

    def test_a_link_in_place_of_the_lock_is_not_followed(self):
        os.symlink(self.path('elsewhere'), self.path('.lock'))
        with self.assertRaises(OSError):
            self.lock().__enter__()
        self.assertFalse(os.path.lexists(self.path('elsewhere')))

    def test_the_lock_of_a_killed_process_is_free(self):
        code = ('import sys, tako, time\n'
                'tako.DirectoryLock(sys.argv[1], 0, print).__enter__()\n'
                'print("held", flush=True)\n'
                'time.sleep(60)')
        holder = subprocess.Popen([sys.executable, '-c', code, self.directory],
                                  stdout=subprocess.PIPE, cwd=scene.PROJECT)
        self.addCleanup(holder.stdout.close)
        self.assertEqual(b'held\n', holder.stdout.readline())
        with self.assertRaises(tako.LockedError):
            self.lock().__enter__()
        holder.kill()
        holder.wait()
        with self.lock():
            pass

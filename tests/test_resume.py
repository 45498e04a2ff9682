"""Sections 11, 12 and 16: a download is resumed, whatever the server or the disk does to it."""
import errno
import os
import signal
import unittest.mock

import origin
import scene
import tako
from scene import HERE, IMAGE

NEWER = IMAGE[::-1]
FEW = 50000             # bytes that are too few to count as progress


class FailingDiskTest(scene.ResumeScene):
    """The disk loses or withholds a partial image, which hinders no later run."""

    def failing(self, name):
        """A disk that fails this call for the partial file."""
        function = getattr(os, name)

        def fail(descriptor, *arguments):
            if os.path.exists(self.partial) and os.path.samestat(os.fstat(descriptor),
                                                                 os.stat(self.partial)):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(descriptor, *arguments)
        return unittest.mock.patch.object(os, name, fail)

    def test_bytes_lost_by_a_failed_fsync_are_downloaded_again(self):
        """Linux reports lost pages at the first fsync only; the next one succeeds."""
        with self.failing('fsync'):
            result = self.run_here('fetch', self.app)
        self.assertCode(1, result)
        self.assertIn(self.partial + ': ', result.err)
        self.assertEqual([], self.partials())
        self.origin.requests.clear()
        self.assertFetched([None])

    def test_an_unreadable_partial_image_is_downloaded_again(self):
        self.left_behind(IMAGE[:HERE])
        with self.failing('pread'):
            self.assertFetched([None])


class DropTest(scene.ResumeScene):
    def test_a_run_requests_only_the_rest_after_a_break(self):
        self.origin.faults[self.image] = origin.first(1, origin.drops(HERE))
        self.assertFetched([None, 'bytes={}-'.format(HERE)],
                           [(200, HERE), (206, len(IMAGE) - HERE)])

    def test_a_download_may_break_off_many_times(self):
        self.origin.faults[self.image] = origin.first(6, origin.drops(100000))
        self.assertFetched([None]
                           + ['bytes={}-'.format(each) for each in range(100000, 700000, 100000)])
        self.assertEqual(len(IMAGE), sum(size for _, size in self.origin.served(self.image)))

    def test_a_chunked_download_that_breaks_off_is_resumed(self):
        self.origin.faults[self.image] = lambda handler: handler.serve(
            HERE if handler.first_byte is None else None, is_chunked=True)
        self.assertFetched([None, 'bytes={}-'.format(HERE)],
                           [(200, HERE), (206, len(IMAGE) - HERE)])

    def test_a_download_without_a_byte_is_not_resumed(self):
        self.origin.faults[self.image] = origin.first(1, origin.drops(0))
        self.assertFetched([None, None])

    def test_a_break_after_the_last_byte_needs_no_further_request(self):
        """The connection ends before the last chunk of size 0."""
        self.origin.faults[self.image] = origin.chunked(finish=False)
        self.assertFetched([None])

    def test_the_next_run_requests_only_the_rest(self):
        self.origin.faults[self.image] = origin.first(1, origin.drops(HERE))
        result = self.run_here('fetch', self.app,
                               limits={'PAUSE_FIRST_SECONDS': 0.0, 'PAUSE_BUDGET_SECONDS': 0.0})
        self.assertCode(75, result)
        self.assertEqual(IMAGE[:HERE], scene.read(self.partial))
        self.assertFalse(os.path.lexists(self.path('destination', 'latest')))
        self.assertEqual(0, os.stat(self.partial).st_mode & 0o077)
        self.assertFetched([None, 'bytes={}-'.format(HERE)],
                           [(200, HERE), (206, len(IMAGE) - HERE)])

    def test_a_download_that_did_not_begin_leaves_no_partial_image(self):
        self.origin.faults[self.image] = origin.status(503)
        self.assertCode(75, self.run_here('fetch', self.app))
        self.assertEqual([], self.partials())


class ValidatorTest(scene.ResumeScene):
    def asked_after_a_drop(self, etag):
        self.origin.etag = etag
        self.origin.faults[self.image] = origin.first(1, origin.drops(HERE))
        self.assertFetched([None, 'bytes={}-'.format(HERE)])
        return self.origin.asked(self.image, 'If-Range')

    def test_a_strong_etag_is_sent_back_in_if_range(self):
        self.assertEqual([None, '"abc"'], self.asked_after_a_drop(lambda _: '"abc"'))

    def test_other_etags_are_not_sent_in_if_range(self):
        for etag in ('W/"abc"', 'abc', '', '"a"b"', '"{}"'.format('x' * 500), '"\u00e9"'):
            with self.subTest(etag):
                self.anew()
                self.origin.etag = None
                self.origin.has_ranges = True
                self.origin.faults[self.image] = origin.first(1, lambda handler: handler.answer(
                    200, IMAGE[:HERE], [('ETag', etag)], length=len(IMAGE))     # noqa: B023
                    or handler.hang_up())
                self.assertFetched([None, 'bytes={}-'.format(HERE)])
                self.assertEqual([None, None], self.origin.asked(self.image, 'If-Range'))

    def test_another_run_sends_a_range_without_if_range(self):
        self.origin.etag = lambda _: '"abc"'
        self.left_behind(IMAGE[:HERE])
        self.assertFetched(['bytes={}-'.format(HERE)], [(206, len(IMAGE) - HERE)])
        self.assertEqual([None], self.origin.asked(self.image, 'If-Range'))

    def test_a_changed_etag_makes_the_server_send_the_whole(self):
        """The earlier bytes may be right or wrong: for example, the file was repaired."""
        for name, before in (('the same bytes', IMAGE), ('other bytes', NEWER)):
            with self.subTest(name):
                self.anew()
                etags = ['"first"']
                self.origin.etag = lambda _: etags[-1]                          # noqa: B023

                def drop(handler):
                    content = before                                            # noqa: B023
                    handler.answer(200, content[:HERE], [('ETag', '"first"')], length=len(content))
                    handler.hang_up()
                    etags.append('"second"')                                    # noqa: B023
                self.origin.faults[self.image] = origin.first(1, drop)
                # what came first is the wrong beginning: from zero, once
                more = [None] * (before != IMAGE)
                self.assertFetched([None, 'bytes={}-'.format(HERE)] + more)
                self.assertEqual([None, '"first"'] + more,
                                 self.origin.asked(self.image, 'If-Range'))
                self.assertEqual((200, len(IMAGE)), self.origin.served(self.image)[-1])


class KilledTest(scene.ResumeScene):
    def test_bytes_received_before_a_signal_are_not_downloaded_again(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
            with self.subTest(number):
                self.anew()
                self.origin.faults[self.image] = origin.holds(HERE)
                process = self.start('fetch', self.app)
                scene.wait_until(lambda: os.path.exists(self.partial)
                                 and os.stat(self.partial).st_size > HERE // 2)
                process.send_signal(number)
                out, err = process.communicate(timeout=30)
                self.assertEqual((code, b'', b''), (process.returncode, out, err))
                kept = scene.read(self.partial)
                self.assertEqual(IMAGE[:len(kept)], kept)
                self.assertGreater(len(kept), HERE // 2)
                self.origin.faults.clear()
                self.origin.answers.clear()
                self.origin.requests.clear()
                self.assertFetched(['bytes={}-'.format(len(kept))], [(206, len(IMAGE) - len(kept))])


class SpoiltPartialTest(scene.ResumeScene):
    """A partial image may hold anything: only the digest of the whole image counts."""

    def test_a_wrong_partial_image_is_discarded_and_the_whole_downloaded_once(self):
        whole = (200, len(IMAGE))
        for name, content, ranges, served in (
                ('short', NEWER[:HERE], ['bytes={}-'.format(HERE), None],
                 [(206, len(IMAGE) - HERE), whole]),
                ('all but a byte', IMAGE[:HERE] + NEWER[HERE:-1],
                 ['bytes={}-'.format(len(IMAGE) - 1), None],
                 [(206, 1), whole]),
                ('full size', NEWER, [None], [whole]),
                ('a bit flipped', IMAGE[:HERE] + bytes([IMAGE[HERE] ^ 1]) + IMAGE[HERE + 1:],
                 [None], [whole]),
                ('too long', IMAGE + b'x', [None], [whole]),
                ('far too long', IMAGE * 3, [None], [whole])):
            with self.subTest(name):
                self.anew()
                self.left_behind(content)
                self.assertFetched(ranges, served)

    def test_a_damaged_partial_file_does_not_fail_a_download_from_a_file_origin(self):
        self.app = self.config('file://' + self.origin.directory)
        for content in (NEWER[:HERE], NEWER, IMAGE + b'x'):
            with self.subTest(len(content)):
                self.anew()
                self.left_behind(content)
                self.assertFetched([])

    def test_a_complete_partial_image_is_not_downloaded_again(self):
        self.left_behind(IMAGE)
        self.assertFetched([])

    def test_an_empty_partial_image_is_not_resumed(self):
        self.left_behind(b'')
        self.assertFetched([None])

    def test_a_wrong_whole_image_after_a_wrong_partial_one_is_refused(self):
        self.left_behind(NEWER[:HERE])
        self.origin.faults[self.image] = origin.serves(NEWER)
        self.assertCode(3, self.run_here('fetch', self.app))
        self.assertEqual(['bytes={}-'.format(HERE), None], self.origin.asked(self.image, 'Range'))
        self.assertEqual([], self.partials())

    def test_a_link_in_place_of_a_partial_image_is_not_followed(self):
        victim = self.write('victim', IMAGE[:HERE])
        for target in (victim, self.path('nowhere'), '/dev/zero'):
            with self.subTest(target):
                if os.path.lexists(self.partial):
                    os.unlink(self.partial)
                os.symlink(target, self.partial)
                result = self.run_here('fetch', self.app)
                self.assertCode(1, result)
                self.assertIn(self.partial, result.err)
        self.assertEqual(IMAGE[:HERE], scene.read(victim))
        self.assertFalse(os.path.exists(self.path('nowhere')))
        self.assertEqual([], self.origin.asked(self.image, 'Range'))


class RangeAnswerTest(scene.ResumeScene):
    """Servers that do not answer a Range as RFC 9110 says. attacks/ has more of their answers."""

    def setUp(self):
        super().setUp()
        self.total = len(IMAGE)
        self.rest = IMAGE[HERE:]

    def lies(self, content_range, body, more=()):
        """Answer a request for a range with 206 and this Content-Range."""
        headers = ([('Content-Range', content_range)] if content_range else []) + list(more)
        return origin.if_ranged(lambda handler, _: handler.answer(206, body, headers))

    def test_a_server_that_ignores_the_range_is_accepted(self):
        self.origin.has_ranges = False
        self.left_behind(IMAGE[:HERE])
        self.assertFetched(['bytes={}-'.format(HERE)], [(200, self.total)])

    def test_a_server_that_ignores_the_range_and_a_wrong_partial_image(self):
        self.origin.has_ranges = False
        self.left_behind(NEWER[:HERE])
        self.assertFetched(['bytes={}-'.format(HERE), None])

    def test_a_server_that_ignores_the_range_and_sends_chunks(self):
        self.origin.faults[self.image] = origin.chunked()
        self.left_behind(IMAGE[:HERE])
        self.assertFetched(['bytes={}-'.format(HERE)])

    def test_a_server_that_ignores_the_range_and_sends_a_page_is_refused(self):
        self.origin.faults[self.image] = origin.serves(b'<html>')
        self.left_behind(IMAGE[:HERE])
        self.assertCode(3, self.run_here('fetch', self.app))
        self.assertEqual(IMAGE[:HERE], scene.read(self.partial))

    def test_a_206_with_wrong_bytes_is_downloaded_again(self):
        self.left_behind(IMAGE[:HERE])
        self.origin.faults[self.image] = self.lies(
            'bytes {}-{}/{}'.format(HERE, self.total - 1, self.total), NEWER[HERE:])
        self.assertFetched(['bytes={}-'.format(HERE), None])

    def test_a_206_that_ends_early_in_chunks_is_resumed(self):
        self.left_behind(IMAGE[:HERE])
        self.origin.faults[self.image] = origin.first(1, lambda handler: handler.answer(
            206, self.rest[:100000],
            [('Content-Range', 'bytes {}-{}/{}'.format(HERE, self.total - 1, self.total))],
            is_chunked=True))
        self.assertFetched(['bytes={}-'.format(HERE), 'bytes={}-'.format(HERE + 100000)])

    def test_a_206_without_a_range_in_the_request_is_exit_75(self):
        for headers in ([],
                        [('Content-Range', 'bytes 0-{}/{}'.format(self.total - 1, self.total))]):
            self.origin.faults[self.image] = origin.status(206, IMAGE, headers)
            result = self.run_here('fetch', self.app)
            self.assertCode(75, result)
            self.assertIn('status 206', result.err)
            self.assertEqual([], self.partials())
            self.assertFalse(os.path.lexists(self.path('destination', 'latest')))

    def test_a_liar_who_hangs_up_is_given_up(self):
        """It delivers much each time, but never the image. fetch begins again only once."""
        def lie(handler):
            if len(self.origin.requests) > 40:
                handler.answer(404, b'')            # so that the test ends even if tako would not
            elif handler.first_byte is None:
                handler.answer(200, NEWER[:HERE], length=len(NEWER))
                handler.hang_up()
            else:
                first = handler.first_byte
                handler.answer(206, NEWER[first:], [
                    ('Content-Range', 'bytes {}-{}/{}'.format(first, self.total - 1, self.total))])
        self.origin.faults[self.image] = lie
        self.assertCode(3, self.run_here('fetch', self.app))
        self.assertLess(len(self.origin.requests), 10)
        self.assertFalse(os.path.lexists(self.path('destination', 'latest')))


class OnePartialTest(scene.ResumeScene):
    limits = {'PAUSE_BUDGET_SECONDS': 0.0}

    def test_the_download_of_a_newer_version_removes_older_partial_images(self):
        self.origin.faults[self.image] = origin.drops(FEW)
        self.assertCode(75, self.run_here('fetch', self.app))
        self.assertEqual([os.path.basename(self.partial)], self.partials())
        newer = self.origin.publish('1.1', NEWER)
        self.origin.faults['/store/' + newer.digest] = origin.drops(1000)
        self.assertCode(75, self.run_here('fetch', self.app))
        self.assertEqual([os.path.basename(self.partial_of(newer))], self.partials())
        self.assertEqual(NEWER[:1000], scene.read(self.partial_of(newer)))

    def test_a_success_without_a_download_removes_partial_images(self):
        self.assertFetched([None])
        self.left_behind(IMAGE[:FEW])
        self.write('destination/.partial-' + '0' * 64, b'of a version that was withdrawn meanwhile')
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual([], self.partials())

    def test_a_partial_image_is_neither_in_latest_nor_in_the_store(self):
        self.origin.faults[self.image] = origin.drops(FEW)
        self.assertCode(75, self.run_here('fetch', self.app))
        self.assertEqual({'manifest', os.path.basename(self.partial)},
                         set(scene.names(self.destination)))

    def test_the_repair_of_a_damaged_image_is_resumed(self):
        """It stays until its replacement is intact."""
        self.assertFetched([None])
        image = self.path('destination', 'store', self.entry.digest)
        os.unlink(image)
        self.write('destination/store/' + self.entry.digest, b'damaged', 0o444)
        self.origin.faults[self.image] = origin.first(1, origin.drops(FEW))
        self.assertCode(3, self.run_here('fetch', self.app))
        self.assertEqual(b'damaged', scene.read(image))
        self.origin.requests.clear()
        result = self.run_here('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.0 is repaired\n'), (result.code, result.out))
        self.assertEqual(['bytes={}-'.format(FEW)], self.origin.asked(self.image, 'Range'))
        self.assertInPlace(IMAGE)
        self.assertEqual([], self.partials())

    def test_files_named_nearly_like_partial_images_stay(self):
        self.write('destination/partial-notes', b'mine')
        self.assertFetched([None])
        self.assertTrue(os.path.exists(self.path('destination', 'partial-notes')))


class PartialFileTest(scene.Scene):
    def test_a_partial_file_is_cut_back(self):
        path = self.path('partial')
        self.write('partial', b'begin')
        with tako.PartialFile(path) as partial:
            size, sha256 = partial.size, partial.sha256.copy()
            partial.write(b'lies' * 100000)
            partial.cut_back(size, sha256)
            self.assertEqual((5, origin.digest_of(b'begin')),
                             (partial.size, partial.sha256.hexdigest()))
            partial.write(b' and end')
        self.assertEqual(b'begin and end', scene.read(path))

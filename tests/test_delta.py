"""Section 16: updates by ranges and patches cost what changed, and are as safe as downloads."""
import errno
import json
import os
import random
import re
import signal
import threading
import time
import unittest.mock

import origin
import patches
import scene
import tako
from scene import noise

OLD = noise(1200000)
CHANGED = noise(5000, 7)
NEW = OLD[:100000] + CHANGED + OLD[103000:250000] + b'inserted' + OLD[250000:]
GARBAGE = noise(len(NEW), 9)
WHOLE = 'downloading the whole image'
# With these, a run fails if it waits for a response that cannot come.
PROMPTLY, SILENCE = ('--timeout', '20'), {'NETWORK_TIMEOUT_SECONDS': 60.0}


class DeltaCase(scene.Scene):
    """A client that has 1.0, and an origin that offers 1.1 with a chunk index."""

    limits = {'PAUSE_FIRST_SECONDS': 0.001, 'PAUSE_BUDGET_SECONDS': 0.02}
    has_several = False

    def setUp(self):
        super().setUp()
        self.origin = self.serve()
        self.origin.has_ranges, self.origin.has_several = True, self.has_several
        self.app = self.config(self.origin.url)
        self.origin.publish('1.0', OLD)
        self.assertEqual(0, self.run_here('fetch', self.app).code)
        self.offer(NEW)

    def offer(self, content, version='1.1', **settings):
        """Publish the next version and its index; forget earlier requests."""
        self.new = self.origin.publish(version, content)
        self.image = '/store/' + self.new.digest
        self.index = self.origin.index(self.new, **settings)
        self.origin.requests.clear()
        self.origin.answers.clear()

    def install_old(self):
        """Install 1.0 in an empty destination; forget earlier requests."""
        self.empty_destination()
        entries, self.origin.entries = self.origin.entries, self.origin.entries[:1]
        self.origin.sign()
        self.assertCode(0, self.run_here('fetch', self.app))
        self.origin.entries = entries
        self.origin.sign()
        self.origin.requests.clear()
        self.origin.answers.clear()

    def bytes_served(self):
        """Return the bytes that the origin sent of images, indexes and patches."""
        return sum(size for path, _, size in self.origin.answers if path.startswith('/store/'))

    def image_bytes(self):
        """Return the bytes that the origin sent of the new image."""
        return sum(size for _, size in self.origin.served(self.image))

    def kept(self, content):
        """Return the path of an image's index in the store."""
        return tako.Destination(self.destination).index_path(origin.digest_of(content))

    def relink(self, content):
        """Let latest name another image of the store."""
        os.unlink(self.path('destination', 'latest'))
        os.symlink('store/' + origin.digest_of(content), self.path('destination', 'latest'))

    def assertUpdated(self, *options, **settings):
        """fetch installs the new image. Return its Result."""
        result = self.run_here('fetch', *options, self.app, **settings)
        self.assertCode(0, result)
        self.assertInPlace(scene.read(self.origin.directory + self.image))
        self.assertEqual([], self.partials())
        return result

    def assertFewBytes(self, most=40000):
        self.assertLess(self.bytes_served(), most)
        self.assertNotIn(200, [code for code, _ in self.origin.served(self.image)])

    def assertWhole(self, result, trouble=''):
        """The image was downloaded whole, after a warning of this trouble or without one."""
        self.assertIn((200, len(NEW)), self.origin.served(self.image))
        self.assertEqual(self.app + ': 1.1 is installed\n', result.out)
        if trouble:
            self.assertIn(trouble, result.err)
            self.assertIn(WHOLE, result.err)
        else:
            self.assertEqual('', result.err)


class RangesTest(DeltaCase):
    """Updates by ranges. SeveralRangesTest repeats these tests."""

    def test_an_update_downloads_only_what_changed(self):
        result = self.assertUpdated()
        self.assertFewBytes()
        self.assertEqual('', result.err)
        self.assertRegex(result.out, r': 1\.1 is installed \([0-9.]+ kB instead of 1.2 MB\)\n$')

    def test_the_bytes_printed_are_the_bytes_sent(self):
        said = self.assertUpdated().out
        self.assertIn('({:.1f} kB instead of'.format(self.bytes_served() / 1000), said)

    def test_status_reports_the_bytes_received(self):
        self.assertUpdated()
        known, = json.loads(self.run_here('status', '--json', self.app).out)
        self.assertEqual((self.bytes_served(), len(NEW)), (known['received'], known['size']))

    def test_an_update_in_fixed_size_chunks(self):
        self.offer(OLD[:80000] + noise(4096, 3) + OLD[84096:], '1.2', method=tako.FIXED_SIZE,
                   average=4096)
        self.assertUpdated()
        self.assertFewBytes()
        self.assertLessEqual(self.image_bytes(), 8192)

    def test_a_repeated_chunk_is_downloaded_once(self):
        self.offer(noise(30000, 4) + OLD + noise(30000, 4), '1.2')
        self.assertUpdated()
        self.assertLess(self.image_bytes(), 80000)

    def test_an_image_contained_in_the_older_one_costs_only_its_index(self):
        self.offer(OLD, '1.2')
        self.offer(OLD[:900000], '1.3', method=tako.FIXED_SIZE, average=4000)
        self.assertUpdated()
        self.assertEqual(0, self.image_bytes())

    def test_blocks_of_zeros_are_not_downloaded(self):
        sparse = bytes(300000) + noise(5000, 5) + bytes(300000) + OLD
        self.offer(sparse, '1.2')
        self.assertUpdated()
        self.assertFewBytes(120000)

    def test_a_damaged_older_image_is_used_where_it_is_intact(self):
        self.assertUpdated()
        for version, damaged in (('2', NEW[:300000] + GARBAGE[:100000] + NEW[400000:]),
                                 ('3', NEW[:600000])):
            with self.subTest(version):
                self.relink(NEW)
                origin.write(self.path('destination', 'store', origin.digest_of(NEW)), damaged)
                self.offer(NEW + noise(3000, len(damaged)), version)
                self.assertEqual('', self.assertUpdated().err)
                self.assertLess(self.bytes_served(), 800000)

    def test_an_update_by_redirected_ranges(self):
        for path in (self.image, self.index):
            self.origin.faults[path] = origin.redirects('/elsewhere' + path)
            self.origin.faults['/elsewhere' + path] = lambda handler: serve_as(
                handler, handler.path[len('/elsewhere'):])
        self.assertUpdated()
        self.assertLess(self.image_bytes() + sum(size for path, _, size in self.origin.answers
                                                 if 'elsewhere' in path), 60000)


class UpdateTest(DeltaCase):
    def test_the_older_image_is_not_changed(self):
        before = scene.snapshot(self.path('destination', 'store'))
        self.assertUpdated()
        after = scene.snapshot(self.path('destination', 'store'))
        self.assertEqual(before, {name: what for name, what in after.items() if name in before})

    def test_an_image_made_from_chunks_is_read_only(self):
        self.assertUpdated()
        self.assertEqual(0o444, os.stat(self.path('destination', 'latest')).st_mode & 0o777)

    def test_no_delta_downloads_the_whole_image_and_no_index(self):
        self.assertWhole(self.assertUpdated('--no-delta'))
        self.assertEqual([], self.origin.served(self.index))

    def test_an_origin_without_an_index_sends_the_whole_image(self):
        os.unlink(self.origin.directory + self.index)
        self.assertWhole(self.assertUpdated())

    def test_an_origin_without_ranges_sends_the_whole_image(self):
        self.origin.has_ranges = False
        self.assertWhole(self.assertUpdated())
        self.assertEqual(1, len(self.origin.served(self.image)))

    def test_an_image_with_little_in_common_is_downloaded_whole(self):
        self.offer(GARBAGE, '1.2')
        result = self.run_here('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.2 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertEqual([(200, len(GARBAGE))], self.origin.served(self.image))

    def test_an_image_with_changes_everywhere_is_downloaded_whole(self):
        """Ranges are joined over small gaps. Their cost includes these gaps."""
        changed = bytearray(OLD)
        for at in range(0, len(changed), 8192):
            changed[at] ^= 1
        self.offer(bytes(changed), '1.2', method=tako.FIXED_SIZE, average=4096)
        self.origin.has_several = False
        result = self.run_here('fetch', self.app)
        self.assertEqual((0, self.app + ': 1.2 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertEqual([(200, len(OLD))], self.origin.served(self.image))

    def test_a_small_image_is_downloaded_whole(self):
        self.offer(noise(tako.DELTA_MIN_BYTES - 1), '1.2')
        self.assertUpdated()
        self.assertEqual([], self.origin.served(self.index))

    def test_a_first_image_is_downloaded_whole_and_its_index_kept(self):
        self.empty_destination()
        self.assertWhole(self.assertUpdated())
        self.assertEqual(['/manifest', self.image, self.index], self.origin.paths())
        self.assertEqual(self.origin.read(self.index[1:]), scene.read(self.kept(NEW)))

    def test_an_index_is_removed_with_its_image(self):
        self.assertUpdated()
        self.assertEqual(self.origin.read(self.index[1:]), scene.read(self.kept(NEW)))
        for version in ('1.2', '1.3'):
            self.offer(NEW + version.encode(), version)
            self.config(self.origin.url, more='Keep=1\n')
            self.assertUpdated()
        store = self.path('destination', 'store')
        self.assertEqual(4, len(os.listdir(store)))
        self.assertFalse(os.path.exists(self.kept(NEW)))

    def test_a_damaged_index_in_the_store_is_made_again(self):
        self.assertUpdated()
        for content in (b'', b'TakoIdx1', self.origin.read(self.index[1:])[:-8] + b'damaged!'):
            with self.subTest(content[-8:]):
                origin.write(self.kept(NEW), content)
                self.offer(NEW + noise(3000, len(content)), '2.{}'.format(len(content)))
                self.assertEqual('', self.assertUpdated().err)
                self.assertFewBytes(50000)
                self.relink(NEW)

    def test_with_an_index_in_the_store_the_older_image_is_not_cut(self):
        self.assertUpdated()
        self.offer(NEW + noise(3000), '1.2')
        with unittest.mock.patch.object(tako, 'hashed_chunks', None):
            self.assertUpdated()
        self.assertFewBytes(50000)

    def test_without_latest_the_newest_image_in_the_store_is_the_base(self):
        self.offer(GARBAGE, '1.2')
        self.assertCode(0, self.run_here('fetch', self.app))
        os.unlink(self.path('destination', 'latest'))
        self.offer(GARBAGE + CHANGED, '1.3')
        self.assertUpdated()
        self.assertFewBytes()

    def test_a_destination_can_serve_other_machines(self):
        mirror = self.serve('destination')
        mirror.has_ranges = True
        third = self.path('third')
        os.mkdir(third)
        app = self.config(mirror.url, 'third.tako', destination=third)
        self.assertCode(0, self.run_here('fetch', app))
        self.assertInPlace(OLD, third)
        self.assertUpdated()
        self.assertIn(' instead of ', self.run_here('fetch', app).out)
        self.assertInPlace(NEW, third)

    def test_an_unreadable_index_in_the_store_is_made_again(self):
        """Reading the file that this link names fails with EIO, as on a failing disk."""
        self.assertUpdated()
        os.unlink(self.kept(NEW))
        os.symlink('/proc/self/mem', self.kept(NEW))
        self.offer(NEW + noise(3000), '2.0')
        self.assertEqual('', self.assertUpdated().err)
        self.assertFewBytes(50000)

    def test_an_update_from_a_file_origin(self):
        self.app = self.config('file://' + self.origin.directory)
        self.assertUpdated()

    def test_a_run_without_an_update_requests_only_the_manifest(self):
        self.assertUpdated()
        self.origin.requests.clear()
        self.assertCode(0, self.run_here('fetch', self.app))
        self.assertEqual(['/manifest'], self.origin.paths())

    def test_a_dry_run_of_an_update_changes_nothing(self):
        before = scene.snapshot(self.destination)
        self.assertCode(0, self.run_here('fetch', '--dry-run', self.app))
        self.assertEqual(before, scene.snapshot(self.destination))


class SeveralRangesTest(RangesTest):
    """The same with an origin that answers several ranges in one response."""

    has_several = True

    def test_ranges_share_requests(self):
        pieces = [OLD[at:at + 20000] + noise(300, at) for at in range(0, len(OLD), 20000)]
        self.offer(b''.join(pieces), '1.2')
        self.assertUpdated()
        self.assertEqual(1, len(self.origin.served(self.image)))
        self.assertGreater(self.origin.asked(self.image, 'Range')[0].count(','), 10)

    def test_no_request_is_for_more_than_100_ranges_or_1_mib(self):
        for version, every, size, average in (('1.2', 200000, 250000, 6144),
                                              ('1.3', 8000, 100, 1024)):
            with self.subTest(version):
                pieces = [OLD[at:at + every] + noise(size, at) for at in range(0, len(OLD), every)]
                self.offer(b''.join(pieces), version, average=average)
                self.assertUpdated()
                self.assertFewBytes(2 << 20)
                asked = [re.findall('([0-9]+)-([0-9]+)', ranges) for ranges
                         in self.origin.asked(self.image, 'Range')]
                self.assertGreaterEqual(len(asked), 2)
                self.assertLessEqual(max(map(len, asked)), 100)
                self.assertLessEqual(max(sum(int(last) + 1 - int(begin) for begin, last in each)
                                         for each in asked), 1 << 20)


class ConnectionsTest(DeltaCase):
    """If each range takes a request, fetch sends several at once."""

    def setUp(self):
        super().setUp()
        pieces = [OLD[at:at + 60000] + noise(300, at) for at in range(0, len(OLD), 60000)]
        self.offer(b''.join(pieces), '1.2')
        self.origin.connections = 0

    def test_up_to_four_connections_are_open(self):
        self.assertUpdated()
        self.assertGreaterEqual(len(self.origin.served(self.image)), 20)
        self.assertEqual(4, self.origin.connections)

    def test_a_server_that_refuses_more_connections_is_asked_on_one(self):
        is_busy, has_refused = threading.Lock(), threading.Event()

        def fault(handler):
            if not is_busy.acquire(blocking=False):
                handler.answer(503, b'')
                has_refused.set()
                return
            if self.origin.served(self.image):      # fetch asks for the first range alone
                has_refused.wait(20)
            is_busy.release()
            handler.serve()
        self.origin.faults[self.image] = fault
        self.assertUpdated(*PROMPTLY, limits=dict(self.limits, **SILENCE))
        self.assertTrue(has_refused.is_set())
        self.assertFewBytes(300000)


def serve_as(handler, path):
    """Answer as for a request of this path."""
    handler.path = path
    handler.serve()


class SerialServerTest(DeltaCase):
    """An origin that serves one connection at a time, for as long as that stays open."""

    limits = dict(DeltaCase.limits, AHEAD_SECONDS=0.3)

    def test_further_connections_are_tried_once_in_a_run(self):
        self.offer(b''.join(OLD[at:at + 60000] + noise(300, at) for at
                            in range(0, len(OLD), 60000)), '1.2')
        serial = origin.Origin(self.origin.directory, is_serial=True)
        serial.has_ranges = True
        self.app = self.config(serial.url)
        with serial:
            self.assertUpdated()
            self.assertEqual({206},
                             {status for path, status, _ in serial.answers if path == self.image})
            # The first, three that are not served while it is open, and the first once more,
            # as a request on it was under way.
            while serial.connections < 5:
                time.sleep(0.01)
        self.assertEqual(5, serial.connections)


class RepairTest(DeltaCase):
    def setUp(self):
        super().setUp()
        self.assertUpdated()
        self.there = self.path('destination', 'store', self.new.digest)
        self.origin.answers.clear()

    def repaired(self, content):
        origin.write(self.there, content)
        result = self.run_here('fetch', self.app)
        self.assertCode(0, result)
        self.assertInPlace(NEW)
        self.assertIn('is damaged', result.err)
        self.assertIn('1.1 is repaired', result.out)

    def test_the_repair_of_a_flipped_byte_costs_a_chunk(self):
        self.repaired(NEW[:200000] + b'X' + NEW[200001:])
        self.assertFewBytes(30000)

    def test_the_repair_of_a_truncated_image_costs_its_end(self):
        self.repaired(NEW[:-50000])
        self.assertLess(self.image_bytes(), 80000)

    def test_the_repair_of_an_emptied_image_costs_the_whole_image(self):
        self.repaired(b'')


class OtherAnswersTest(DeltaCase):
    """Servers may answer a request for several ranges in other ways. attacks/ has false answers."""

    limits = dict(DeltaCase.limits, NETWORK_TIMEOUT_SECONDS=0.5)

    def test_a_server_may_answer_two_ranges_with_one(self):
        def fault(handler):
            ranges = handler.ranges(len(handler.body))
            handler.answer(*origin.in_ranges([(ranges[0][0], ranges[-1][1])], handler.body))
        self.origin.faults[self.index] = fault
        self.assertUpdated()
        self.assertFewBytes()
        self.assertEqual(2, len(self.origin.served(self.index)))

    def test_a_server_that_answers_several_ranges_with_the_whole_is_asked_for_one(self):
        self.origin.has_several = False
        self.assertUpdated()
        self.assertFewBytes()
        size = len(self.origin.read(self.index.lstrip('/')))
        self.assertEqual([(206, tako.INDEX_HEAD_BYTES), (200, size)],
                         self.origin.served(self.index))

    def test_a_server_that_refuses_several_ranges_is_asked_for_one(self):
        def fault(handler):
            if len(handler.ranges(1)) > 1:
                handler.answer(400, b'bad request\n')
            else:
                handler.serve()
        self.origin.faults.update({self.index: fault, self.image: fault})
        self.assertUpdated()
        self.assertFewBytes()


class InterruptionTest(DeltaCase):
    """Ranges that fetch received are kept, after an error and in the next run."""

    def setUp(self):
        super().setUp()
        pieces = [OLD[at:at + 100000] + noise(300, at) for at in range(0, len(OLD), 100000)]
        self.offer(b''.join(pieces), '1.2')

    def asked_twice(self):
        """Return how many ranges were requested and sent more than once."""
        seen, twice = set(), 0
        for asked, (code, _) in zip(self.origin.asked(self.image, 'Range'),
                                    self.origin.served(self.image)):
            if code == 206:
                begin, last = asked[len('bytes='):].split('-')
                twice += (begin, last) in seen
                seen.add((begin, last))
        return twice

    def drop_after(self, times):
        """Let the origin serve so many ranges and then hang up once."""
        left = [times]

        def fault(handler):
            left[0] -= 1
            if left[0] == 0:
                handler.hang_up()
            else:
                handler.serve()
        self.origin.faults[self.image] = fault

    def stall_after(self, times):
        """Let the origin serve so many ranges and then none. Return the event of that moment."""
        left, stalled = [times], threading.Event()

        def fault(handler):
            left[0] -= 1
            if left[0] >= 0:
                handler.serve()
            else:
                stalled.set()
                handler.server.origin.released.wait(20)
        self.origin.faults[self.image] = fault
        return stalled

    def test_a_connection_that_breaks_off_is_resumed_in_the_same_run(self):
        for times in range(1, 9):
            with self.subTest(times):
                self.drop_after(times)
                self.assertUpdated(*PROMPTLY, limits=dict(self.limits, **SILENCE))
                self.assertLess(self.image_bytes(), 250000)
            self.setUp()

    def test_a_killed_run_is_resumed_by_the_next(self):
        for times in (2, 5, 9):
            with self.subTest(times):
                stalled = self.stall_after(times)
                process = self.start('fetch', self.app)
                scene.wait_until(stalled.is_set)
                process.send_signal(signal.SIGKILL)
                process.communicate()
                self.assertIsNone(scene.fault_of_latest(self.destination))
                self.origin.faults.clear()
                before = len(self.origin.served(self.image))
                self.assertUpdated()
                self.assertLess(len(self.origin.served(self.image)) - before, 15)
                self.assertLessEqual(self.asked_twice(), 4)
            self.setUp()

    def test_an_older_image_may_be_removed_during_the_update(self):
        """For example, Keep= of another config removes it."""
        old = self.path('destination', 'store', origin.digest_of(OLD))

        def fault(handler):
            if os.path.exists(old):
                os.unlink(old)
            handler.serve()
        self.origin.faults[self.index] = fault
        self.assertUpdated()

    def test_an_older_image_may_be_truncated_during_the_update(self):
        old = self.path('destination', 'store', origin.digest_of(OLD))
        with self.patched_plan(lambda: origin.write(old, OLD[:1000])):
            result = self.assertUpdated()
        self.assertIn('the older image has changed', result.err)

    def patched_plan(self, happens):
        plan = tako.plan_image

        def plan_then(*arguments):
            happens()
            return plan(*arguments)
        return unittest.mock.patch.object(tako, 'plan_image', plan_then)

    def test_an_update_uses_what_a_whole_download_left(self):
        content = scene.read(self.origin.directory + self.image)
        self.write('destination/.partial-' + self.new.digest, content[:200000], 0o600)
        self.assertUpdated()
        self.assertLess(self.image_bytes(), 200000)

    def test_a_whole_download_replaces_what_an_update_left(self):
        content = bytearray(scene.read(self.origin.directory + self.image))
        content[1000:5000] = bytes(4000)
        self.write('destination/.partial-' + self.new.digest, bytes(content), 0o600)
        self.assertUpdated('--no-delta')

    def test_another_mirror_continues_an_update(self):
        second = self.serve('second')
        second.has_ranges = True
        for version, content in (('1.0', OLD), ('1.1', NEW),
                                 ('1.2', scene.read(self.origin.directory + self.image))):
            second.publish(version, content)
        self.app = self.config(self.origin.url, mirrors=[second.url])
        left = [4]

        def dies(handler):
            left[0] -= 1
            if left[0] < 0:
                handler.answer(503, b'')
            else:
                handler.serve()
        self.origin.faults[self.image] = dies
        self.assertUpdated()
        self.assertGreater(self.image_bytes(), 0)
        self.assertLess(sum(size for _, size in second.served(self.image)), 200000)

    def test_a_server_that_fails_ranges_and_breaks_off_the_whole_is_given_up(self):
        whole = [0]

        def fault(handler):
            whole[0] += not handler.headers.get('Range')
            if handler.headers.get('Range') or whole[0] > 20:
                handler.answer(503, b'')
            else:
                handler.serve(drop_at=200000)
        self.origin.faults[self.image] = fault
        with scene.Clock().patch():
            self.assertCode(75, self.run_here('fetch', self.app))
        self.assertLess(whole[0], 20)
        self.assertEqual(200000,
                         os.stat(self.path('destination', '.partial-' + self.new.digest)).st_size)

    def test_ranges_below_the_minimum_rate_are_given_up(self):
        clock = scene.Clock()

        def drips(handler):
            if len(self.origin.served(self.image)) < 2:
                clock.ahead += 0.9 * tako.RATE_WINDOW_SECONDS
            handler.serve()
        self.origin.faults[self.image] = drips
        with clock.patch():
            self.assertUpdated(limits={'PAUSE_BUDGET_SECONDS': 0.0})
        self.assertIn(200, [code for code, _ in self.origin.served(self.image)])

    def test_a_file_mirror_without_the_image_keeps_what_was_downloaded(self):
        mirror = self.path('mirror')
        os.mkdir(mirror)
        self.write('mirror/manifest', self.origin.read('manifest'))
        self.app = self.config(self.origin.url, more='Origin=file://{}\n'.format(mirror))
        times = [0]

        def breaks(handler):
            times[0] += 1
            if 4 <= times[0] <= 10:
                handler.answer(503, b'')
            else:
                handler.serve()
        self.origin.faults[self.image] = breaks
        with scene.Clock().patch():
            self.assertUpdated()
        self.assertNotIn(200, [code for code, _ in self.origin.served(self.image)])
        self.assertLessEqual(self.asked_twice(), 4)

    def test_a_mirror_that_failed_to_send_the_image_is_not_asked_for_its_index(self):
        second = self.serve('served')
        self.app = self.config(self.origin.url, mirrors=[second.url])
        self.origin.faults[self.image] = origin.status(404)
        self.empty_destination()
        self.assertUpdated()
        self.assertEqual(['/manifest', self.image], self.origin.paths())
        self.assertEqual(['/manifest', self.image, self.index], second.paths())

    def test_a_full_disk_leaves_no_partial_image(self):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with unittest.mock.patch.object(tako.PartialFile, 'write_at', side_effect=full):
            self.assertCode(1, self.run_here('fetch', self.app))
        self.assertEqual([], self.partials())
        self.assertUpdated()

    def test_an_update_succeeds_after_kills_at_random(self):
        source = random.Random(5)
        def slow(handler):
            time.sleep(0.05)
            handler.serve()
        self.origin.faults[self.image] = slow
        for _ in range(5):
            process = self.start('fetch', self.app)
            time.sleep(source.uniform(0.02, 0.35))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.assertIsNone(scene.fault_of_latest(self.destination))
        self.assertUpdated()


class IndexAfterImageTest(DeltaCase):
    def test_the_index_of_a_whole_download_is_requested_after_the_image_is_installed(self):
        named = []

        def fault(handler):
            named.append(os.readlink(self.path('destination', 'latest')))
            handler.serve()
        os.unlink(self.path('destination', 'latest'))
        scene.remove_tree(self.path('destination', 'store'))
        self.origin.faults[self.index] = fault
        self.assertUpdated()
        self.assertEqual(['store/' + self.new.digest], named)
        self.assertTrue(os.path.isfile(self.path('destination', self.index[1:])))


class PatchCase(DeltaCase):
    """A client that has 1.0, and an origin that offers 1.1 with a chunk index and a patch."""

    def offer(self, content, version='1.1', **settings):
        super().offer(content, version, **settings)
        self.old_digest = origin.digest_of(OLD)
        self.patch = '{}.{}.patch'.format(self.image, self.old_digest)
        self.publish_patch(patches.make(OLD, content))

    def publish_patch(self, patch, size=None):
        """Publish this patch, and list it with its size or with another one."""
        self.origin.write(self.patch[1:], patch)
        index = tako.parse_index(self.origin.read(self.index[1:]), self.new.size)
        index = index._replace(patches=((self.old_digest, len(patch) if size is None else size),))
        self.origin.write(self.index[1:], tako.format_index(index))


class PatchTest(PatchCase):
    def test_an_update_downloads_only_its_patch(self):
        result = self.assertUpdated()
        self.assertEqual('', result.err)
        self.assertRegex(result.out, r': 1\.1 is installed \([0-9.]+ kB instead of 1\.2 MB\)\n$')
        self.assertEqual([], self.origin.served(self.image))
        self.assertEqual(1, len(self.origin.served(self.patch)))
        self.assertLess(self.bytes_served(), 9000)

    def test_no_delta_downloads_the_whole_image_and_no_patch(self):
        self.assertWhole(self.assertUpdated('--no-delta'))

    def test_a_patch_nearly_as_large_as_the_image_is_not_downloaded(self):
        self.publish_patch(noise(1000000))
        self.assertUpdated()
        self.assertEqual([], self.origin.served(self.patch))
        self.assertFewBytes()

    def test_a_patch_of_no_bytes_is_not_downloaded(self):
        self.publish_patch(b'')
        self.assertUpdated()
        self.assertEqual([], self.origin.served(self.patch))
        self.assertFewBytes()

    def test_a_missing_patch_is_replaced_by_ranges(self):
        os.unlink(self.origin.directory + self.patch)
        self.assertUpdated()
        self.assertFewBytes()

    def test_a_patch_that_the_server_refuses_is_replaced_by_ranges(self):
        for fault in (origin.status(500), origin.status(403), origin.hangs_up,
                      origin.redirects('ftp://127.0.0.1/')):
            with self.subTest(fault):
                self.origin.faults[self.patch] = fault
                self.assertUpdated()
                self.assertFewBytes()
            self.install_old()

    def test_a_full_disk_leaves_no_partial_patch(self):
        write = tako.PartialFile.write

        def fill(partial, block):
            if not partial.temporary.endswith('.patch'):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(partial, block)
        with unittest.mock.patch.object(tako.PartialFile, 'write', fill):
            self.assertCode(1, self.run_here('fetch', self.app))
        self.assertEqual(([], 1), (self.partials(), len(self.origin.served(self.patch))))
        self.assertUpdated()

    def test_a_patch_from_an_image_that_is_not_in_the_store_is_not_used(self):
        self.old_digest = origin.digest_of(b'another')
        self.publish_patch(self.origin.read(self.patch[1:]))
        self.assertUpdated()
        self.assertFewBytes()

    def test_an_invalid_patch_is_replaced_by_the_whole_image(self):
        right = self.origin.read(self.patch[1:])
        attacks = {
            'garbage': noise(len(right)), 'cut short': right[:-5], 'more': right + b'x',
            'a flipped bit': right[:len(right) // 2] + bytes([right[len(right) // 2] ^ 1])
            + right[len(right) // 2 + 1:],
        }
        for name, patch in attacks.items():
            with self.subTest(name):
                self.publish_patch(patch)
                result = self.assertUpdated()
                self.assertWhole(result, '.patch')
            self.install_old()

    def test_a_patch_of_an_unexpected_size_is_replaced_by_the_whole_image(self):
        self.publish_patch(self.origin.read(self.patch[1:]), 4000)
        self.assertWhole(self.assertUpdated(), '.patch')

    def test_a_patch_that_breaks_off_is_resumed(self):
        left = []

        def fault(handler):
            left.append(handler.headers.get('Range'))
            handler.serve(2000 if len(left) == 1 else None)
        self.origin.faults[self.patch] = fault
        self.assertUpdated()
        self.assertEqual([None, 'bytes=2000-'], left)

    def test_a_patch_whose_size_keeps_changing_is_replaced_by_the_whole_image(self):
        asked = []

        def changes(handler):
            sizes = (900000, 100000) if len(asked) % 2 else (100000, 900000)
            asked.append(sizes[1])
            self.publish_patch(b'', sizes[1])
            handler.answer(200, bytes(sizes[0] // 4 * 3), length=sizes[0])
            handler.hang_up()
        self.publish_patch(b'', 100000)
        self.origin.faults[self.patch] = lambda handler: changes(handler) if len(
            asked) < 20 else handler.serve()
        with scene.Clock().patch():
            self.assertWhole(self.assertUpdated(), '.patch: has one size and then another')
        self.assertLess(len(asked), 20)

    def test_a_killed_run_downloads_no_patch_twice(self):
        patch = self.origin.read(self.patch[1:])
        destination = tako.Destination(self.destination)
        origin.write(destination.partial_patch_path(self.new.digest, self.old_digest), patch)
        self.write('destination/.partial-' + self.new.digest, NEW[:200000], 0o600)
        self.assertUpdated()
        self.assertEqual([], self.origin.served(self.patch) + self.origin.served(self.image))

    def test_a_partial_patch_of_another_older_image_is_not_resumed(self):
        destination = tako.Destination(self.destination)
        origin.write(destination.partial_patch_path(self.new.digest, 'f' * 64), b'x' * 1000)
        self.assertEqual('', self.assertUpdated().err)
        self.assertEqual([], self.origin.served(self.image))

    def test_no_file_name_is_longer_than_ecryptfs_allows(self):
        names = []
        real = os.open

        def short(path, *arguments, **settings):
            names.append(os.path.basename(os.fsdecode(path)))
            if len(names[-1]) > 143:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            return real(path, *arguments, **settings)
        with unittest.mock.patch.object(os, 'open', short):
            self.assertUpdated()
        self.assertEqual([], self.origin.served(self.image))
        self.assertEqual(1, len(self.origin.served(self.patch)))
        self.assertIn('.patch', ' '.join(names))

    def test_without_the_file_of_a_patch_ranges_are_downloaded(self):
        opened, written = tako.PartialFile._open, tako.PartialFile.write

        def fails_to(real, number):
            def fail(partial, *arguments):
                if partial.temporary.endswith('.patch'):
                    raise OSError(number, os.strerror(number),
                                  *[partial.temporary] * (real is opened))
                return real(partial, *arguments)
            return fail
        for name, real in (('_open', opened), ('write', written)):
            for number in (errno.ENAMETOOLONG, errno.EIO, errno.EINVAL, errno.EACCES):
                with self.subTest(name, number=number):
                    with unittest.mock.patch.object(tako.PartialFile, name, fails_to(real, number)):
                        self.assertEqual('', self.assertUpdated().err)
                    self.assertFewBytes()
                    self.assertEqual([], self.partials())
                self.install_old()

    def test_without_the_memory_for_a_patch_the_whole_image_is_downloaded(self):
        for name in ('apply_patch', 'plan_image'):
            with self.subTest(name):
                if name == 'plan_image':
                    self.origin.faults[self.patch] = origin.status(404)
                with unittest.mock.patch.object(tako, name, side_effect=MemoryError):
                    self.assertWhole(self.assertUpdated(), 'not enough memory')
            self.install_old()

    def test_a_patch_of_a_damaged_older_image_is_not_trusted(self):
        old = self.path('destination', 'store', self.old_digest)
        origin.write(old, OLD[:-100000] + bytes(100000))
        self.assertUpdated()

    def test_without_lzma_no_patch_is_downloaded(self):
        with unittest.mock.patch.dict('sys.modules', lzma=None):
            self.assertUpdated()
        self.assertFewBytes()
        self.assertEqual([], self.origin.served(self.patch))

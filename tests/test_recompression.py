"""Sections 9, 16 and 19: patches of compressed images, from the publisher to the machine."""
import contextlib
import errno
import functools
import gzip
import io
import lzma
import os
import platform
import re
import subprocess
import sys
import unittest
import unittest.mock
import zipfile
import zlib

import origin
import patches
import scene
import tako
import test_delta
import test_patches
import test_publish
from patches import LEVEL_9, apply_recompression, head, number, packed, raw_head
from scene import PROJECT, noise, prose

CONTENTS = [prose(40000, seed) + noise(2000, seed) for seed in range(1, 9)]
CHANGED = [each[:30000] + noise(300, seed) + each[30300:] for seed, each in enumerate(CONTENTS)]
OLD = noise(100000) + packed(CONTENTS)
NEW = noise(100000) + packed(CONTENTS[:2] + CHANGED[2:6] + CONTENTS[6:]) + b'the end'
LARGE = noise(1100000, 3).translate(bytes(range(16)) * 16)      # compressed, half of it is left
GAP = 4                                 # bytes before each stream
# the first stream that only one of the images has
FIRST = len(noise(100000) + packed(CONTENTS[:2])) + GAP


ordinary = functools.lru_cache(None)(patches.make)
recompression = functools.lru_cache(None)(patches.recompression)


def streams_of(image):
    return list(tako.find_streams(image, lambda _: None))


def rebuilt(old, new):
    """Return how many changed streams a coder makes again, and how many changed."""
    _, streams, changed = tako.plan_recompression(old, new, patches.MEMORY, lambda _: None)
    return len(streams), changed


def in_gzip(content, level=9, **header):
    """Return a .gz file whose header has these fields: name, comment, extra, or check."""
    made = io.BytesIO()
    with gzip.GzipFile('', 'wb', level, made, 0) as stream:
        stream.write(content)
    raw, fields, flags = made.getvalue(), b'', 0
    for flag, key, field in ((4, 'extra', b'\3\0abc'), (8, 'name', b'name\0'),
                             (16, 'comment', b'comment\0'), (2, 'check', b'12')):
        if header.get(key):
            fields, flags = fields + field, flags | flag
    return raw[:3] + bytes([flags]) + raw[4:10] + fields + raw[10:]


def in_zip(contents):
    """Return a .zip file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, 'w', zipfile.ZIP_DEFLATED) as archive:
        for place, content in enumerate(contents):
            archive.writestr(zipfile.ZipInfo('file{}'.format(place)), content,
                             zipfile.ZIP_DEFLATED)
    return made.getvalue()


def in_xz(content, dictionary=1 << 17, filters=(), preset=6):
    """Return a .xz file, as mksquashfs writes one for each block."""
    chain = list(filters) + [{'id': lzma.FILTER_LZMA2, 'preset': preset, 'dict_size': dictionary}]
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=chain)


def chunks_of(make):
    """Return an old and a new image in which `make` compresses each content."""
    return [b''.join(b'....' + make(each) for each in contents) for contents in
            (CONTENTS, CONTENTS[:2] + CHANGED[2:6] + CONTENTS[6:])]


PAIRS = {
    'blocks of zlib': (OLD, NEW),
    'level 6': tuple(chunks_of(lambda content: zlib.compress(content, 6))),
    'level 1': tuple(chunks_of(lambda content: zlib.compress(content, 1))),
    'a .gz for each': tuple(chunks_of(in_gzip)),
    'all fields of .gz': tuple(chunks_of(lambda content: in_gzip(
        content, extra=1, name=1, comment=1, check=1))),
    'a whole .gz': tuple(in_gzip(b''.join(each)) for each in (CONTENTS, CHANGED)),
    'a .zip': (in_zip(CONTENTS), in_zip(CONTENTS[:2] + CHANGED[2:6])),
    'blocks of xz': tuple(chunks_of(in_xz)),
    'xz with a branch filter': tuple(chunks_of(lambda content: in_xz(
        content, filters=[{'id': lzma.FILTER_X86}]))),
    'xz of another level': tuple(chunks_of(lambda content: in_xz(content, 1 << 13, preset=2))),
    'streams that only the new image has': (noise(70000), noise(70000) + packed(CONTENTS)),
    'a larger content than is held': tuple(packed([LARGE + each]) for each in (b'old', b'new')),
}


class RoundTripTest(unittest.TestCase):
    def test_a_patch_makes_the_image_it_was_made_of(self):
        for name, (old, new) in PAIRS.items():
            with self.subTest(name):
                self.assertEqual(new, apply_recompression(recompression(old, new), old, len(new)))

    def test_all_changed_streams_are_rebuilt(self):
        for name, (old, new) in PAIRS.items():
            if 'only' not in name:
                with self.subTest(name):
                    count, changed = rebuilt(old, new)
                    self.assertEqual(changed, count)
                    self.assertGreater(count, 0)

    def test_a_change_costs_what_it_costs_in_an_uncompressed_image(self):
        for name in ('blocks of zlib', 'a .gz for each', 'a whole .gz', 'a .zip', 'blocks of xz'):
            with self.subTest(name):
                old, new = PAIRS[name]
                self.assertLess(len(recompression(old, new)), 3500)
                self.assertGreater(len(ordinary(old, new)), 8000)

    def test_streams_that_did_not_change_stay_compressed(self):
        old, new, changed = tako.plan_recompression(OLD, NEW, patches.MEMORY, lambda _: None)
        self.assertEqual((4, 4, 4), (len(old), len(new), changed))
        self.assertEqual(FIRST, new[0].begin)

    def test_the_same_images_make_the_same_patch(self):
        self.assertEqual(recompression(OLD, NEW), patches.recompression(OLD, NEW))

    def test_streams_of_another_compressor_are_not_rebuilt(self):
        """These have the content in blocks that are not compressed, or end twice."""
        for level, flush in ((9, zlib.Z_FULL_FLUSH), (6, zlib.Z_SYNC_FLUSH)):
            def other(content, level=level, flush=flush):
                packer = zlib.compressobj(level)
                return (packer.compress(content[:20000]) + packer.flush(flush)
                        + packer.compress(content[20000:]) + packer.flush())
            self.assertEqual((0, 4), rebuilt(*chunks_of(other)))

    def test_content_that_cannot_be_a_stream_is_not_taken_for_one(self):
        magics = b'x\x9c', b'PK\3\4', b'\x1f\x8b\x08', b'\xfd7zXZ\0', b'\x1f\x8b\x08\x1c', b'x\1'
        for image in (*magics, *(magic * 30000 for magic in magics), noise(1 << 20),
                      packed(CONTENTS[:1])[:-1], in_xz(CONTENTS[0])[:-60], in_gzip(b'')[:15]):
            with self.subTest(image[:9]):
                self.assertEqual([], streams_of(image))

    def test_a_stream_that_expands_beyond_what_clients_accept_is_not_found(self):
        bomb = zlib.compress(bytes(3 << 20), 9)
        self.assertEqual([], streams_of(bomb))
        self.assertEqual(1, len(streams_of(bomb + noise(1 << 20))))

    def test_streams_with_a_large_dictionary_are_not_found(self):
        self.assertEqual(1, len(streams_of(in_xz(CONTENTS[0], 1 << 18))))
        self.assertEqual(0, len(streams_of(in_xz(CONTENTS[0], 1 << 19))))

    def test_of_more_streams_or_coders_than_a_client_accepts_the_others_stay_compressed(self):
        levels = [chunks_of(lambda content, level=level: zlib.compress(content, level))
                  for level in (1, 6, 9)]
        old, new = (b''.join(each) for each in zip(*levels))
        for limits, most in (({'STREAMS_MAX': 5}, 5), ({'CODERS_MAX': 2}, 8),
                             ({'EXPANDED_MAX_FACTOR': 1}, 9)):
            with self.subTest(limits), unittest.mock.patch.multiple(tako, **limits):
                patch = patches.recompression(old, new)
                self.assertLessEqual(rebuilt(old, new)[0], most)
                self.assertEqual(new, apply_recompression(patch, old, len(new)))

    def test_a_publisher_stops_to_look_for_streams_when_its_memory_is_used_up(self):
        self.assertEqual((4, 4), rebuilt(OLD, NEW))
        _, streams, changed = tako.plan_recompression(OLD, NEW, 2 * 3 << 10, lambda _: None)
        self.assertEqual((1, 1), (len(streams), changed))


class HostileImageTest(unittest.TestCase):
    """Images that were made so that it takes long to find their streams."""

    def assertLittleIsRead(self, image):
        """The whole image is searched, and its parts are read a limited number of times."""
        taken = []

        class Image(bytes):
            def __getitem__(self, place):
                taken.append(len(image[place]))
                return image[place]
        self.assertEqual([], streams_of(Image(image)))
        self.assertLess(sum(taken), 400 * len(image))

    def test_the_beginnings_of_streams_that_all_go_on_to_the_end(self):
        """Each is a chain of DEFLATE blocks that are not compressed. The next one is in it."""
        block = b'\0\2\0\xfd\xffx\1'
        self.assertLittleIsRead(block * 10000)

    def test_nothing_but_magics(self):
        for magic in (b'x\x9c', b'\x1f\x8b\x08', b'PK\3\4', b'\xfd7zXZ\0'):
            with self.subTest(magic):
                self.assertLittleIsRead(magic * (70000 // len(magic)))

    def test_contents_that_are_much_larger_than_the_image(self):
        bomb = zlib.compress(bytes(1 << 22), 9)
        unpacked, real = [], zlib.decompressobj

        class Decoder:
            def __init__(self, window):
                self.real = real(window)

            def __getattr__(self, name):
                return getattr(self.real, name)

            def decompress(self, *arguments):
                unpacked.append(self.real.decompress(*arguments))
                return unpacked[-1]
        for image in (bomb * 20, bomb[:-4] * 20, noise(1 << 20) + bomb * 20):
            del unpacked[:]
            with unittest.mock.patch.object(zlib, 'decompressobj', Decoder):
                streams_of(image)
            self.assertLess(sum(map(len, unpacked)),
                            tako.UNPACKED_MAX_FACTOR * len(image) + tako.BLOCK_BYTES)

    def test_the_streams_of_an_image_before_one_that_exceeds_the_limit_are_found(self):
        bomb = zlib.compress(bytes(1 << 22), 9)
        self.assertEqual([GAP], [each.begin for each in streams_of(packed(CONTENTS[:1]) + bomb)])

    def test_a_stream_without_content_is_not_expanded(self):
        """An image of it alone would be empty, and an empty file cannot be mapped."""
        empty = b'x\x9c' + b'\0\0\0\xff\xff' * 9 + b'\3\0' + zlib.adler32(b'').to_bytes(4, 'big')
        self.assertEqual(b'', zlib.decompress(empty))
        self.assertEqual([], streams_of(empty))


class FormatTest(unittest.TestCase):
    def test_a_known_patch_is_read(self):
        """Published patches must stay readable: these bytes are the format."""
        old = b'old' + zlib.compress(b'an old content', 0) + b'end'
        new = b'new' + zlib.compress(b'a new content', 0) + b'END'
        raw = (bytes.fromhex('01' '00004f08' '00'       # one coder: zlib of level 0; sample 0
                             '01' '03' '19' '0e' '00'   # old: one stream, gap 3, 25 bytes of 14
                             '01' '03' '18' '0d' '00')  # new: gap 3, 24 bytes of 13
               + tako.coder_hash(tako.Coder(0, 0, 79, 8), b'an old content'))
        # raw LZMA2, not compressed
        raw = b'\1' + (len(raw) - 1).to_bytes(2, 'big') + raw + b'\0'
        operations = b'\1\2\x13'                        # one operation, NEW, of 19 bytes
        body = (b'Tako Patch 1\n' + (2 * 3 + 1).to_bytes(4, 'little') + (1).to_bytes(4, 'little')
                + (2 * 19 + 1).to_bytes(4, 'little') + operations + b'newa new contentEND')
        patch = b'Tako Patch 2\n' + (2 * len(raw)).to_bytes(4, 'little') + raw + body
        parsed = tako.Recompression(io.BytesIO(patch), lambda begin, count: old[begin:][:count],
                                    len(old), len(new))
        self.assertEqual([tako.Stream(3, 28, 14, tako.Coder(0, 0, 79, 8))], parsed.old)
        self.assertEqual([tako.Stream(3, 27, 13, tako.Coder(0, 0, 79, 8))], parsed.new)
        self.assertEqual(parsed.hashes, [tako.coder_hash(parsed.coders[0], parsed.sample())])
        self.assertEqual(new, apply_recompression(patch, old, len(new)))

    def test_the_sample_is_the_beginning_of_an_old_content(self):
        for old, samples in ((OLD, CONTENTS), (noise(200000), [noise(200000)[:1 << 17]]),
                             (packed([noise(90000) * 3]), [(noise(90000) * 3)[:1 << 17]])):
            patch = recompression(old, NEW)
            parsed = tako.Recompression(io.BytesIO(patch), lambda begin, count, old=old:
                                        old[begin:begin + count], len(old), len(NEW))
            self.assertIn(parsed.sample(), samples)
            self.assertEqual([tako.coder_hash(coder, parsed.sample()) for coder in parsed.coders],
                             parsed.hashes)


class HostileTest(unittest.TestCase):
    """Each bound on what a patch may ask of a machine."""

    CONTENT = prose(5000)
    OLD = b'....' + zlib.compress(CONTENT, 9) + noise(20000)
    STREAM = (4, 4 + len(zlib.compress(CONTENT, 9)), 5000, 0)
    SIZE = len(OLD)
    BODY = patches.patch(patches.segment([(tako.COPY, len(OLD) + 5000 - STREAM[1] + 4, 0)]))

    def apply(self, patch, **settings):
        return apply_recompression(patch, self.OLD, self.SIZE, **settings)

    def test_a_valid_handmade_patch_is_applied(self):
        """The hostile patches below are variations of this."""
        self.assertEqual(self.OLD, self.apply(head([self.STREAM], [self.STREAM]) + self.BODY))

    def test_hostile_patches_are_refused(self):
        begin, end, size, _ = self.STREAM
        coder = tuple(LEVEL_9)
        lzma2 = (tako.LZMA2, 6, 12, 0)

        def with_streams(*new, **settings):
            return head([self.STREAM], new, **settings) + self.BODY

        def with_coder(*changed, **settings):
            return with_streams(self.STREAM, coders=[changed], **settings)
        attacks = {
            'nothing': b'', 'another magic': b'x' + with_streams(self.STREAM),
            'an ordinary patch': self.BODY,
            'an odd word': with_streams(self.STREAM).replace(tako.RECOMPRESSION_MAGIC,
                                                             tako.RECOMPRESSION_MAGIC + b'\1', 1),
            'a head of 2 GiB': tako.RECOMPRESSION_MAGIC + b'\xfe\xff\xff\xff' + bytes(100),
            'a head beyond the end': with_streams(self.STREAM)[:30],
            'no LZMA': tako.RECOMPRESSION_MAGIC + (40).to_bytes(4, 'little') + b'\xfe' * 20,
            'an empty head': raw_head(b'') + self.BODY,
            'a bomb in the head': raw_head(bytes(100 << 20)) + self.BODY,
            'a number without end': raw_head(b'\1' + b'\xff' * 5000 + bytes(8)) + self.BODY,
            'a head that is cut': raw_head(b'\1\0\x09\x4f\x08\0' + b'\5' + bytes(8)) + self.BODY,
            'a head that goes on': head([self.STREAM], [self.STREAM], more=b'\0') + self.BODY,
            'no coder': head([], [], []) + self.BODY,
            'too many coders': with_streams(self.STREAM, coders=[coder] * 9),
            '127 coders': raw_head(b'\x7f' + bytes(3000)),
            'an unknown kind': with_coder(2, *coder[1:]),
            'a level of 10': with_coder(0, 10, *coder[2:]),
            'a window of 2^16': with_coder(0, 9, 64 + 16, 8), 'a window of 2^8': with_coder(
                0, 9, 64 + 8, 8), 'a gzip header': with_coder(0, 9, 64 + 31, 8),
            'no memory level': with_coder(0, 9, 79, 0), 'a memory level of 10': with_coder(
                0, 9, 79, 10),
            'a dictionary of 384 KiB': with_coder(1, 6, 13, 0),
            'a dictionary of 4 GiB': with_coder(1, 6, 40, 0),
            'an unknown filter': with_coder(1, 6, 12, 3), 'LZMA of level 10': with_coder(
                1, 10, 12, 0),
            'the filter LZMA2': with_coder(1, 6, 12, 0x21),
            'a coder that is not there': with_streams((begin, end, size, 1)),
            'more streams than there may be': raw_head(b'\1' + bytes(map(int, coder)) + b'\0'
                                                       + number((1 << 15) + 1) + bytes(150000)),
            'streams without end': raw_head(b'\1' + bytes(map(int, coder)) + b'\0'
                                            + number(1 << 62) + bytes(1000)),
            'an empty stream': with_streams((begin, begin, 0, 0)),
            'a stream that shrinks too little': with_streams((begin, begin + 1000, 800, 0)),
            'a stream beyond the image': with_streams((begin, self.SIZE + 1, self.SIZE, 0)),
            'a gap beyond the image': with_streams((1 << 40, (1 << 40) + 5, 9, 0)),
            'contents of 8 times the image': with_streams((begin, end, 8 * self.SIZE + 1, 0)),
            'old contents of 8 times the image': head(
                [(begin, end, 8 * self.SIZE + 1, 0)], [self.STREAM]) + self.BODY,
            'an old stream beyond the image': head(
                [(begin, self.SIZE + 1, self.SIZE, 0)], [self.STREAM]) + self.BODY,
            'an old stream that has less': head([(begin, end, size + 1, 0)], [
                self.STREAM]) + self.BODY,
            'an old stream that has more': head([(begin, end, size - 1, 0)], [
                self.STREAM]) + self.BODY,
            'an old stream that is none': head([(begin + 1, end, size, 0)], [
                self.STREAM]) + self.BODY,
            'an old stream of another kind': head([self.STREAM], [self.STREAM], [
                lzma2]) + self.BODY,
            'an old stream at the end': head([(self.SIZE - 30, self.SIZE, size, 0)], [
                self.STREAM]) + self.BODY,
            'no body': head([self.STREAM], [self.STREAM]),
            'a body that makes less': head([self.STREAM], [self.STREAM]) + patches.patch(
                patches.segment([(tako.COPY, 5000, 0)])),
            'a body that makes more': head([self.STREAM], [self.STREAM]) + patches.patch(
                patches.segment([(tako.COPY, 90000, 0)])),
            'a body that goes on': with_streams(self.STREAM) + b'x',
            'a body that reads beyond the end': head([self.STREAM], [self.STREAM]) + patches.patch(
                patches.segment([(tako.COPY, self.SIZE + 5000 - end + begin, 1)])),
        }
        for name, attack in attacks.items():
            with self.subTest(name):
                with self.assertRaises(tako.PatchError):
                    self.apply(attack)

    def test_a_truncated_or_altered_patch_makes_no_more_than_the_size(self):
        for each in patches.damaged(recompression(OLD, NEW), 31, 100):
            try:
                self.assertEqual(len(NEW), len(apply_recompression(each, OLD, len(NEW))))
            except (tako.PatchError, zlib.error, lzma.LZMAError, ValueError):
                pass

    def test_a_stream_of_another_size_is_cut_or_filled(self):
        """So the rest of the image is in its place, where the next download finds it."""
        begin, end, size, _ = self.STREAM
        for level in (0, 1):                    # longer and shorter than at level 9
            other = tako.Coder(0, level, 79, 8)
            made = self.apply(head([self.STREAM], [self.STREAM], [other]) + self.BODY)
            self.assertEqual((self.SIZE, self.OLD[:begin], self.OLD[end:]),
                             (len(made), made[:begin], made[end:]))
        short = (begin, end + 500, size, 0)
        made = apply_recompression(
            head([self.STREAM], [short]) + self.BODY, self.OLD, self.SIZE + 500)
        self.assertEqual(self.OLD[:end] + bytes(500) + self.OLD[end:], made)

    def test_a_large_stream_of_another_size_is_cut_or_filled(self):
        old, _ = PAIRS['a larger content than is held']
        size = len(zlib.decompress(old[4:]))
        content = patches.patch(patches.segment([(tako.COPY, size + GAP, 0)]))
        for length in (len(old) - 100, len(old) + 3000):
            made = apply_recompression(head([(4, len(old), size, 0)], [(4, length, size, 0)])
                                       + content, old, length)
            self.assertEqual(old[:length].ljust(length, b'\0'), made)

    def test_a_stream_is_expanded_once_however_often_it_is_read(self):
        """Otherwise, the operations of a small patch could take hours."""
        begin = self.STREAM[0]
        back = [(tako.COPY, 300, 0)] + [(tako.COPY, 300, -300)] * 60
        reads = []

        def read(offset, count):
            reads.append(offset)
            return self.OLD[offset:offset + count]
        patch = io.BytesIO(head([self.STREAM]) + patches.patch(patches.segment(back)))
        parsed = tako.Recompression(patch, read, self.SIZE, 61 * 300)
        with unittest.mock.patch.object(tako, 'READ_AHEAD_BYTES', 1):
            self.assertEqual(61 * 300, len(b''.join(parsed.blocks(patch, io.BytesIO(), patches.Now,
                                                                  lambda: None))))
        self.assertEqual(1, reads.count(begin))

    def test_what_waits_for_a_thread_is_bounded(self):
        """Of a mebibyte that compresses to little, only a few are held at a time."""
        size, count = 1 << 20, 30
        one = zlib.compress(bytes(size), 9)
        image, waiting, most = one * count, [], []

        def submit(function, *arguments):
            future = patches.Now(function, *arguments)
            waiting.append(future)
            real, future.result = future.result, lambda: waiting.remove(future) or real()
            most.append(len(waiting))
            return future
        streams = [(at, at + len(one), size, 0) for at in range(0, len(image), len(one))]
        zeros = io.BytesIO(head([], streams) + patches.patch(patches.segment(
            [(tako.COPY, size, 0)] + [(tako.COPY, size, -size)] * (count - 1))))
        with unittest.mock.patch.object(tako, 'EXPANDED_MAX_FACTOR', 10000):
            parsed = tako.Recompression(zeros, lambda _, count: bytes(count), size, len(image))
            self.assertEqual(image, b''.join(parsed.blocks(zeros, io.BytesIO(), submit,
                                                           lambda: None)))
        self.assertEqual(count, len(most))
        self.assertLessEqual(max(most) * size, tako.PENDING_MAX_BYTES + size)

    def test_a_check_that_raises_ends_each_long_step(self):
        large = PAIRS['a larger content than is held']
        for old, new in ((OLD, NEW), large, (noise(70000), large[1])):
            patch, calls = recompression(old, new), []
            apply_recompression(patch, old, len(new), check=lambda calls=calls: calls.append(1))
            self.assertGreater(len(calls), 0)
            for last in {0, len(calls) // 2, len(calls) - 1}:
                left = iter([None] * last)
                with self.assertRaises(tako.PatchError):
                    apply_recompression(patch, old, len(new), check=lambda left=left: ended(left))

    def test_a_check_that_raises_ends_a_patch_without_new_streams(self):
        """Each read from an image of many tiny streams takes long, and a patch may have many."""
        tiny = [(at, at + 1, 0, 0) for at in range(100, 1100)]
        far = [(tako.COPY, 300, 0)] + [(tako.COPY, 300, 40000), (tako.COPY, 300, -40000)] * 25
        patch = head(tiny) + patches.patch(patches.segment(far))
        left = iter([None] * 20)
        with self.assertRaisesRegex(tako.PatchError, 'over'):
            apply_recompression(patch, noise(70000), 51 * 300, check=lambda: ended(left))


class MemoryTest(unittest.TestCase):
    """How much memory a client takes beyond that of Python, which is about 20 MiB."""

    PREPARE = """
import concurrent.futures.thread
size, count, noise = 1 << 20, 12, scene.noise(1 << 20)
def make(coder, length):
    streams = [(at * length, (at + 1) * length, size, 0) for at in range(count)]
    copies = [(tako.COPY, size, 0)] + [(tako.COPY, size, -size)] * (count - 1)
    return io.BytesIO(patches.head([], streams, [coder]) + patches.patch(patches.segment(copies)))
def apply(patch, length):
    parsed = tako.Recompression(patch, lambda begin, count: noise[begin:begin + count], size,
                                length * count)
    with concurrent.futures.thread.ThreadPoolExecutor(4) as pool:
        for _ in parsed.blocks(patch, io.BytesIO(), pool.submit, lambda: None): pass
"""

    def test_applying_a_patch_takes_limited_memory(self):
        """Its contents are as large as may be held, and need the largest coders."""
        for coder in ((tako.LZMA2, 9, tako.CODER_DICTIONARY_MAX, 0), (tako.DEFLATE, 9, 79, 9)):
            for length in (1 << 18, 1 << 20):
                with self.subTest(coder, length=length):
                    test_patches.MemoryTest.assertTakesLittle(
                        self, self.PREPARE + 'patch = make({!r}, {})'.format(coder, length),
                        'apply(patch, {})'.format(length), most=40)

    def test_a_content_as_large_as_the_image_takes_limited_memory(self):
        test_patches.MemoryTest.assertTakesLittle(
            self, self.PREPARE + """
size = 24 << 20
patch = io.BytesIO(patches.head([], [(0, size, size, 0)]) + patches.patch(patches.segment(
    [(tako.COPY, 1 << 20, 0)] + [(tako.COPY, 1 << 20, -(1 << 20))] * 23)))
size, count = 1 << 20, 24""", 'apply(patch, 1 << 20)')


def ended(left):
    """Raise PatchError when nothing is left."""
    try:
        next(left)
    except StopIteration:
        raise tako.PatchError('over') from None


class UpdateCase(test_delta.DeltaCase):
    """A client that has 1.0, and an origin that offers 1.1 with both kinds of patches.

    The line is metered, so that the client takes the recompression patch however fast it is here.
    """

    more = 'Metered=yes\n'

    def setUp(self):
        scene.Scene.setUp(self)
        self.origin = self.serve()
        self.origin.has_ranges = True
        self.app = self.config(self.origin.url, more=self.more)
        self.origin.publish('1.0', OLD)
        self.assertEqual(0, self.run_here('fetch', self.app).code)
        self.offer(NEW)

    def offer(self, content, version='1.1', **settings):
        super().offer(content, version, **settings)
        older = origin.digest_of(OLD)
        self.ordinary = '{}.{}.patch'.format(self.image, older)
        self.patch = '{}.{}.2.patch'.format(self.image, older)
        self.made = recompression(OLD, content)
        self.list_patches(ordinary(OLD, content), self.made)

    def list_patches(self, ordinary, patch):
        """Publish these patches, and list them; None for none."""
        older, listed = origin.digest_of(OLD), []
        for path, content, digest in ((self.ordinary, ordinary, older),
                                      (self.patch, patch, tako.inverted(older))):
            if content is not None:
                self.origin.write(path[1:], content)
                listed.append((digest, len(content)))
        index = tako.parse_index(self.origin.read(self.index[1:]), self.new.size)
        self.origin.write(self.index[1:], tako.format_index(
            index._replace(patches=tuple(sorted(listed)))))

    def set_rate(self, rate):
        """Let the last download have had this rate, in bytes per second."""
        scene.write_state(self.destination, scene.state(self.destination)._replace(rate=str(rate)))

    def assertRecompressed(self, result, requests=1):
        """Only the recompression patch was downloaded."""
        self.assertEqual('', result.err)
        self.assertRegex(result.out, r': 1\.1 is installed \([0-9.]+ kB instead of [0-9]+ kB\)\n$')
        self.assertEqual([], self.origin.served(self.image) + self.origin.served(self.ordinary))
        self.assertEqual(requests, len(self.origin.served(self.patch)))

    def assertOrdinary(self, result, warning='', hint='tell the publisher'):
        """The ordinary patch made the image, after a warning with this hint if there is one."""
        self.assertEqual([], self.origin.served(self.image))
        self.assertEqual([200], [code for code, _ in self.origin.served(self.ordinary)])
        if warning:
            self.assertRegex(result.err, '^tako: warning: .*' + warning
                             + '.*; updating without this patch\n  .*' + hint + '.*\n$')
        else:
            self.assertEqual('', result.err)


class UpdateTest(UpdateCase):
    def test_an_update_downloads_only_its_recompression_patch(self):
        self.assertRecompressed(self.assertUpdated())
        self.assertLess(self.bytes_served(), 2000)
        self.assertEqual(['bytes=0-{}'.format(len(self.made) - 1)],
                         self.origin.asked(self.patch, 'Range'))

    def test_the_bytes_printed_are_the_bytes_sent(self):
        said = self.assertUpdated().out
        self.assertIn('({:.1f} kB instead of'.format(self.bytes_served() / 1000), said)

    def test_updates_of_other_formats(self):
        for place, name in enumerate(('a .gz for each', 'a .zip', 'blocks of xz', 'level 6')):
            old, new = PAIRS[name]
            with self.subTest(name), unittest.mock.patch.multiple(
                    __name__, OLD=noise(70000) + old):
                self.origin.publish('2.{}'.format(2 * place), OLD)
                self.assertCode(0, self.run_here('fetch', self.app))
                self.offer(noise(70000) + new, '2.{}'.format(2 * place + 1))
                self.assertUpdated()
                self.assertEqual([], self.origin.served(self.image)
                                 + self.origin.served(self.ordinary))

    def test_the_head_comes_first_and_then_the_rest(self):
        for size in (17, 40, len(self.made) - 1):
            with self.subTest(size):
                result = self.assertUpdated(limits=dict(self.limits, HEAD_FIRST_BYTES=size))
                end = tako.head_end(self.made[:17])
                starts = [0] + ([size] if size < end else []) + [max(size, end)]
                self.assertRecompressed(result, len(starts))
                self.assertEqual(starts, [int(re.findall('[0-9]+', each)[0]) for each
                                          in self.origin.asked(self.patch, 'Range')])
            self.install_old()

    def test_no_byte_is_downloaded_twice_after_a_kill(self):
        path = tako.Destination(self.destination).partial_patch_path(
            self.new.digest, tako.inverted(origin.digest_of(OLD)))
        for size in (10, 100, 500, len(self.made)):
            with self.subTest(size):
                origin.write(path, self.made[:size])
                self.assertEqual('', self.assertUpdated().err)
                self.assertEqual(len(self.made) - size,
                                 sum(sent for _, sent in self.origin.served(self.patch)))
            self.install_old()

    def test_a_longer_patch_of_an_earlier_run_is_downloaded_again(self):
        """The publisher has made a smaller one since then."""
        path = tako.Destination(self.destination).partial_patch_path(
            self.new.digest, tako.inverted(origin.digest_of(OLD)))
        origin.write(path, self.made + b'more')
        self.assertRecompressed(self.assertUpdated())

    def test_a_head_of_which_a_part_is_here_is_completed(self):
        path = tako.Destination(self.destination).partial_patch_path(
            self.new.digest, tako.inverted(origin.digest_of(OLD)))
        end = tako.head_end(self.made[:17])
        for size in (16, 17, end - 1, end, end + 1):
            with self.subTest(size):
                origin.write(path, self.made[:size])
                self.assertEqual('', self.assertUpdated(limits=dict(
                    self.limits, HEAD_FIRST_BYTES=17)).err)
                self.assertEqual(len(self.made) - size,
                                 sum(sent for _, sent in self.origin.served(self.patch)))
            self.install_old()

    def test_a_patch_that_breaks_off_is_resumed(self):
        left = []

        def fault(handler):
            left.append(handler.headers.get('Range'))
            handler.serve(100 if len(left) == 2 else None)
        self.origin.faults[self.patch] = fault
        self.assertRecompressed(self.assertUpdated(limits=dict(self.limits, HEAD_FIRST_BYTES=99)),
                                len(left))
        begin = int(re.findall('[0-9]+', left[1])[0])
        self.assertEqual('bytes={}-'.format(begin + 100), left[-1])

    def test_a_server_without_ranges_sends_the_whole_patch_once(self):
        self.origin.has_ranges = False
        self.assertRecompressed(self.assertUpdated(limits=dict(self.limits, HEAD_FIRST_BYTES=50)))

    def test_clients_that_know_only_ordinary_patches_see_none_but_these(self):
        raw = self.origin.read(self.index[1:])
        listed = tako.parse_patches(raw, self.new.size)
        self.assertEqual(2, len(listed))
        self.assertEqual(len(self.origin.read(self.ordinary[1:])), listed[origin.digest_of(OLD)])
        self.assertNotIn(set(listed) - {origin.digest_of(OLD)},
                         [entry.digest for entry in self.origin.entries])

    def test_threads_make_the_same_image(self):
        for count in (1, 2, 4):
            with unittest.mock.patch.object(tako, 'thread_count', lambda count=count: count):
                self.assertRecompressed(self.assertUpdated())
            self.install_old()


class ChoiceTest(UpdateCase):
    """fetch chooses the patch with which the update is ready sooner."""

    more = ''
    limits = dict(test_delta.DeltaCase.limits, RATE_MIN_SAMPLE_BYTES=250000)

    def test_without_a_known_rate_the_ordinary_patch_is_taken(self):
        self.assertEqual('', scene.state(self.destination).rate)
        self.assertOrdinary(self.assertUpdated())
        self.assertEqual([], self.origin.served(self.patch))

    def test_on_a_slow_line_the_recompression_patch_is_taken(self):
        self.set_rate(1000)
        self.assertRecompressed(self.assertUpdated())

    def test_on_a_fast_line_the_recompression_patch_is_not_asked_for(self):
        self.set_rate(10 ** 9)
        self.assertOrdinary(self.assertUpdated())
        self.assertEqual([], self.origin.served(self.patch))

    def test_on_a_slow_machine_only_its_head_is_downloaded(self):
        clock = scene.Clock()
        clock.perf_counter = iter(range(0, 10 ** 6, 50)).__next__
        self.set_rate(1000)
        with clock.patch():
            self.assertOrdinary(self.assertUpdated(limits=dict(self.limits, HEAD_FIRST_BYTES=50)))
        self.assertLess(sum(sent for _, sent in self.origin.served(self.patch)),
                        len(self.made) - 100)

    def test_the_rate_of_a_large_download_is_kept(self):
        large = noise(300000, 5)
        self.offer(noise(100000, 4), '1.2')
        self.assertUpdated()
        self.assertEqual('', scene.state(self.destination).rate)
        self.offer(large, '1.3')
        self.assertUpdated()
        rate = int(scene.state(self.destination).rate)
        self.assertGreater(rate, 1000)
        self.offer(large + noise(1000, 6), '1.4')
        self.assertUpdated()
        self.assertEqual(rate, int(scene.state(self.destination).rate))

    def test_the_rate_is_that_of_the_line(self):
        clock, calls = scene.Clock(is_real=False), []

        def slow(*arguments):
            calls.append(arguments[2])
            clock.ahead += 0.5
        large = noise(300000, 5)
        self.offer(large, '1.3')
        with clock.patch(), unittest.mock.patch.object(tako.Report, 'progress', slow):
            self.assertUpdated('--no-verify')
        pieces = [size for size in calls if size]
        self.assertEqual(int(len(large) / (0.5 * len(pieces))) + 1,
                         int(scene.state(self.destination).rate))

    def test_where_no_ordinary_patch_is_listed_the_rest_of_the_image_counts(self):
        self.list_patches(None, self.made)
        self.set_rate(1000)
        self.assertRecompressed(self.assertUpdated())
        self.install_old()
        self.set_rate(10 ** 6)
        self.assertUpdated()
        self.assertNotEqual([], self.origin.served(self.image))

    def test_a_patch_that_is_expected_to_take_too_long_is_not_used(self):
        self.set_rate(1)
        self.assertOrdinary(self.assertUpdated(limits=dict(self.limits,
                                                           RECOMPRESSION_MAX_SECONDS=0.0)))

    def test_a_patch_that_is_no_smaller_than_the_ordinary_one_is_not_used(self):
        self.set_rate(1)
        self.list_patches(self.made[:-1], self.made)
        self.assertUpdated()
        self.assertEqual([], self.origin.served(self.patch))


# Runs tako.py with as many more bytes of memory as the second argument says.
LIMITED = """
import concurrent.futures.thread, encodings.idna, lzma, os, resource, socket, sys, zlib
sys.path.insert(0, sys.argv[1])
import tako
with open('/proc/self/statm') as stream:
    most = int(stream.read().split()[0]) * os.sysconf('SC_PAGE_SIZE') + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
sys.exit(tako.main(sys.argv[3:]))
"""


class WithoutTest(UpdateCase):
    """All that can go wrong with a recompression patch ends in an update without it."""

    def test_another_zlib_downloads_no_more_than_the_head(self):
        for name, change in (('another level', {0: 8}), ('another window', {2: 12})):
            with self.subTest(name), other_zlib(change):
                self.assertOrdinary(self.assertUpdated(
                    limits=dict(self.limits, HEAD_FIRST_BYTES=50)))
                self.assertLess(sum(sent for _, sent in self.origin.served(self.patch)),
                                len(self.made) - 100)
            self.install_old()

    def test_a_zlib_that_differs_only_beyond_the_sample_loses_the_patch_alone(self):
        known, = self.parsed().hashes
        with other_zlib({0: 8}), unittest.mock.patch.object(tako, 'coder_hash', lambda *_: known):
            self.assertOrdinary(self.assertUpdated(), 'does not make the signed image')

    def test_without_an_ordinary_patch_ranges_bring_only_what_is_wrong(self):
        """One of four streams is wrong, and shorter."""
        self.list_patches(None, self.made)
        compress, wrong = tako._compress_all, CHANGED[3]
        with unittest.mock.patch.object(tako, '_compress_all', lambda coder, content: compress(
                coder._replace(level=1) if content == wrong else coder, content)):
            result = self.assertUpdated()
        self.assertIn('does not make the signed image; updating without this patch', result.err)
        self.assertNotIn(200, [code for code, _ in self.origin.served(self.image)])
        self.assertLess(self.image_bytes(), 2 * len(zlib.compress(wrong, 1)))

    def test_a_wrong_image_is_downloaded_whole_where_ranges_do_not_help(self):
        self.list_patches(None, self.made)
        self.origin.faults[self.index] = lambda handler: handler.answer(404, b'') if len(
            self.origin.served(self.index)) else handler.serve()
        compress = tako._compress_all
        with unittest.mock.patch.object(tako, '_compress_all', lambda coder, content: compress(
                coder._replace(level=1), content)):
            self.assertUpdated()

    def parsed(self):
        return tako.Recompression(io.BytesIO(self.made), lambda begin, count:
                                  OLD[begin:begin + count], len(OLD), len(NEW))

    def test_an_invalid_patch_is_replaced_by_the_ordinary_one(self):
        right = self.made
        flipped = right[:-9] + bytes([right[-9] ^ 1]) + right[-8:]
        other = recompression(OLD, NEW.replace(b'the end', b'the END'))
        for name, patch in (('garbage', noise(len(right))), ('cut short', right[:-5]),
                            ('more', right + b'x'), ('a flipped bit', flipped),
                            ('of another image', other),
                            ('ordinary', patches.make(OLD, NEW)[:-1])):
            with self.subTest(name):
                self.list_patches(self.origin.read(self.ordinary[1:]), patch)
                self.assertOrdinary(self.assertUpdated(), '[.]patch: ')
            self.install_old()

    def test_a_head_that_goes_beyond_the_patch_is_refused(self):
        for word in (2 * len(self.made), 2 << 20, 4 << 20):
            with self.subTest(word):
                self.list_patches(self.origin.read(self.ordinary[1:]),
                                  self.made[:13] + word.to_bytes(4, 'little') + self.made[17:])
                self.assertOrdinary(self.assertUpdated(), '[.]patch: ')
            self.install_old()

    def test_a_server_that_fails_over_the_patch_costs_only_that(self):
        for fault in (origin.status(404), origin.status(500), origin.status(403), origin.hangs_up,
                      origin.redirects('ftp://127.0.0.1/')):
            with self.subTest(fault):
                self.origin.faults[self.patch] = fault
                self.assertOrdinary(self.assertUpdated())
            self.install_old()

    def test_another_range_than_was_requested_is_refused(self):
        for sent, names, warning in ((50, 'bytes 1-50/{}', ''), (50, 'bytes 0-49/1', ''),
                                     (51, 'bytes 0-49/{}', '[.]patch: longer than 50 bytes')):
            with self.subTest(names):
                self.origin.faults[self.patch] = origin.status(
                    206, self.made[:sent], [('Content-Range', names.format(len(self.made)))])
                self.assertOrdinary(self.assertUpdated(limits=dict(
                    self.limits, HEAD_FIRST_BYTES=50)), warning)
            self.install_old()

    def test_the_time_to_apply_a_patch_is_limited(self):
        """A patch may be made so that it takes much longer than its sample."""
        self.assertOrdinary(self.assertUpdated(limits=dict(
            self.limits, RECOMPRESSION_SLACK=0, RECOMPRESSION_SPARE_SECONDS=-1.0)),
            'takes too long to apply')

    def test_too_little_space_for_the_contents_of_old_streams(self):
        space = tako.ImageDirectory.check_space

        def check(destination, size):
            if size > len(NEW) + 100000:
                raise tako.TakoError('full')
            return space(destination, size)
        with unittest.mock.patch.object(tako.ImageDirectory, 'check_space', check):
            self.assertOrdinary(self.assertUpdated())

    def test_a_disk_that_fails_or_is_full_for_the_contents(self):
        for code, hint in (errno.ENOSPC, 'free disk space'), (errno.EIO, 'check'):
            with self.subTest(code), unittest.mock.patch.object(
                    tako.ImageDirectory, 'scratch_file',
                    side_effect=OSError(code, os.strerror(code))):
                self.assertOrdinary(self.assertUpdated(), os.strerror(code), hint)
            self.install_old()

    def test_a_disk_that_is_really_full_for_the_contents(self):
        """Also if it fills after the check of its space."""
        os.mkdir(self.path('small'))
        self.mount(self.path('small'), 4 * len(NEW))
        self.destination = self.path('small', 'destination')
        os.mkdir(self.destination)
        self.app = self.config(self.origin.url, version='1.0', more=self.more)
        self.assertCode(0, self.run_here('fetch', self.app))
        before = scene.names(self.destination)
        self.app = self.config(self.origin.url, more=self.more)
        filler, stat = self.path('small', 'filler'), os.statvfs(self.path('small'))
        for does_check in (True, False):
            with self.subTest(does_check=does_check), open(filler, 'wb') as stream:
                # room for the image and a patch, and none for the contents of old streams
                stream.write(bytes(stat.f_bavail * stat.f_frsize - len(NEW) - 110000))
                stream.flush()
                self.origin.answers.clear()
                with contextlib.ExitStack() as stack:
                    if not does_check:
                        stack.enter_context(scene.free(1 << 30))
                    result = self.run_here('fetch', self.app)
                self.assertOrdinary(result, '' if does_check else 'No space left on device',
                                    'free disk space')
                self.assertInPlace(NEW)
            os.unlink(filler)
            self.install_old()
            self.assertEqual(before, scene.names(self.destination))

    def test_without_memory_or_threads(self):
        for error, words, hint in ((MemoryError(), 'not enough memory', 'raise its limit'),
                                   (RuntimeError("can't start new thread"), 'new thread',
                                    'allow more threads')):
            with self.subTest(words), unittest.mock.patch.object(
                    tako.Recompression, 'blocks', side_effect=error):
                self.assertOrdinary(self.assertUpdated(), words, hint)
            self.install_old()

    @unittest.skipUnless(os.path.exists('/proc/self/statm'), 'NO /proc')
    @unittest.skipIf(platform.python_implementation() == 'PyPy', 'PYPY ENDS WITHOUT MEMORY')
    def test_with_really_little_memory(self):
        """With more and more of it, the update fails, works without the patch, and with it."""
        results = []
        for spare in 2, 8, 24, 160:
            self.install_old()
            command = [sys.executable, '-I', '-c', LIMITED, PROJECT, str(spare << 20), 'fetch',
                       self.app]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  universal_newlines=True, timeout=scene.RUN_SECONDS)
            results.append(scene.Result(done.returncode, done.stdout, done.stderr))
            self.assertNoDefect(results[-1])
            self.assertCode(done.returncode, results[-1])
            self.assertInPlace(OLD if done.returncode else NEW)
        self.assertRecompressed(results[-1])

    def test_without_zlib_lzma_or_threads_no_patch_is_asked_for(self):
        for module in ('lzma', 'concurrent.futures.thread'):
            with self.subTest(module), unittest.mock.patch.dict('sys.modules', {module: None}):
                self.assertUpdated()
                self.assertEqual([], self.origin.served(self.patch))
            self.install_old()

    def test_a_damaged_older_image_is_not_trusted(self):
        old = self.path('destination', 'store', origin.digest_of(OLD))
        origin.write(old, OLD[:FIRST + 5] + bytes(1000) + OLD[FIRST + 1005:])
        self.assertUpdated()

    def test_a_liblzma_without_branch_filters(self):
        """Its coders cannot even decompress the sample."""
        old, new = PAIRS['xz with a branch filter']
        real = lzma.LZMADecompressor

        def lacking(kind, filters=None):
            if len(filters or ()) > 1:
                raise lzma.LZMAError('Invalid or unsupported options')
            return real(kind, filters=filters)
        with unittest.mock.patch.multiple(__name__, OLD=noise(70000) + old):
            self.origin.publish('2.0', OLD)
            self.assertCode(0, self.run_here('fetch', self.app))
            self.offer(noise(70000) + new, '2.1')
            with unittest.mock.patch.object(lzma, 'LZMADecompressor', lacking):
                result = self.run_here('fetch', self.app)
        self.assertCode(0, result)
        self.assertIn('unsupported options; updating without this patch', result.err)
        self.assertInPlace(noise(70000) + new)

    def test_no_delta_downloads_the_whole_image(self):
        self.assertUpdated('--no-delta')
        self.assertEqual([(200, len(NEW))], self.origin.served(self.image))

    def test_nothing_is_left_in_the_destination(self):
        before = set(os.listdir(self.destination))
        with other_zlib({0: 8}):
            self.assertUpdated()
        self.assertEqual(set(), set(os.listdir(self.destination)) - before - {'.state'})


class StoreTest(test_publish.StoreCase):
    """store --patch-from makes recompression patches, too."""

    def setUp(self):
        super().setUp()
        self.assertCode(0, self.store(OLD, '1.0'))

    def patch_from(self, content, version='1.1', **settings):
        """Store an image with patches from 1.0, in this process."""
        return self.run_here('store', '-f', self.key_file, '-o', self.served, '--patch-from', '1.0',
                             self.write('image', content), version, **settings)

    def path_of(self, content):
        return tako.ImageDirectory(self.served).recompression_patch_path(
            origin.digest_of(content), origin.digest_of(OLD))

    def listed(self, content):
        index = tako.ImageDirectory(self.served).read_index(origin.digest_of(content), len(content))
        return dict(index.patches)

    def assertNone(self, content):
        """Only the ordinary patch to this image was published."""
        self.assertFalse(os.path.exists(self.path_of(content)))
        self.assertNotIn(tako.inverted(origin.digest_of(OLD)), self.listed(content))
        self.assertIn(origin.digest_of(OLD), self.listed(content))
        self.assertEqual([], [name for name in os.listdir(self.served) if name[0] == '.'])

    def test_a_recompression_patch_is_stored_and_listed(self):
        result = self.patch_from(NEW)
        self.assertRegex(result.out, '(?m)^{}: recompression patch from 1.0: [0-9.]+ kB; 4 of 4 '
                                     'changed blocks can be rebuilt$'.format(self.served))
        patch = scene.read(self.path_of(NEW))
        self.assertEqual(NEW, apply_recompression(patch, OLD, len(NEW)))
        self.assertEqual(0o100444, os.stat(self.path_of(NEW)).st_mode)
        self.assertEqual(len(patch), self.listed(NEW)[tako.inverted(origin.digest_of(OLD))])
        self.assertIn(origin.digest_of(OLD), self.listed(NEW))
        self.assertLess(len(patch), 0.2 * self.listed(NEW)[origin.digest_of(OLD)])

    def test_it_is_added_to_an_image_that_an_older_tako_stored(self):
        self.patch_from(NEW)
        os.unlink(self.path_of(NEW))
        self.assertCode(0, self.patch_from(NEW))
        self.assertIn(tako.inverted(origin.digest_of(OLD)), self.listed(NEW))
        self.assertQuiet(self.patch_from(NEW))

    def test_an_image_without_compressed_streams_gets_none_and_no_message(self):
        plain = OLD[:100000] + prose(50000)
        result = self.patch_from(plain)
        self.assertNotIn('recompression', result.out + result.err)
        self.assertNone(plain)

    def test_an_image_of_another_zlib_gets_none_and_a_message(self):
        with other_zlib({0: 3, 2: 12}):
            result = self.patch_from(NEW)
        self.assertIn(': recompression patch from 1.0: none; 0 of 4 changed blocks can be rebuilt: '
                      'another zlib or xz made them than is here\n', result.out)
        self.assertNone(NEW)

    def test_a_patch_that_saves_less_than_a_tenth_is_discarded(self):
        """Nearly all of what is new is not compressed."""
        new = OLD[:100000] + noise(300000, 9) + packed(CONTENTS[:2] + CHANGED[2:3] + CONTENTS[3:])
        self.assertIn('; 1 of 1 changed blocks can be rebuilt', self.patch_from(new).out)
        self.assertFalse(os.path.exists(self.path_of(new)))

    def test_a_patch_that_does_not_make_the_image_is_not_published(self):
        compress = tako._compress_all
        with unittest.mock.patch.object(tako, '_compress_all', lambda coder, content: compress(
                coder, content)[:-1]):
            result = self.patch_from(NEW)
        self.assertEqual(0, result.code)
        self.assertIn('recompression patch from 1.0: discarded: it does not make the image',
                      result.err)
        self.assertNone(NEW)

    def test_without_disk_space_or_threads_only_the_ordinary_patch_is_made(self):
        for name, error in (('check_space', tako.TakoError('full')),
                            ('scratch_file', OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
                            ('scratch_file', OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
                            ('scratch_file', RuntimeError("can't start new thread"))):
            with self.subTest(error), unittest.mock.patch.object(tako.ImageDirectory, name,
                                                                side_effect=error):
                result = self.patch_from(NEW, '1.1')
                self.assertEqual(0, result.code)
                self.assertIn('recompression patch from 1.0: not made: ', result.err)
                self.assertNone(NEW)

    def test_any_other_error_of_the_disk_ends_the_run(self):
        failed = OSError(errno.EIO, os.strerror(errno.EIO))
        with unittest.mock.patch.object(tako.ImageDirectory, 'scratch_file', side_effect=failed):
            self.assertCode(1, self.patch_from(NEW))
        self.assertNotIn('1.1', self.manifest().entries[-1].line())

    def test_images_that_cannot_be_mapped_together_get_none(self):
        self.patch_from(NEW)
        os.unlink(self.path_of(NEW))
        with unittest.mock.patch.object(tako, 'MAPPABLE_BYTES', 1):
            self.assertQuiet(self.patch_from(NEW))

    def test_of_too_many_patches_the_ordinary_ones_are_listed(self):
        self.patch_from(NEW)
        with unittest.mock.patch.object(tako, 'PATCHES_MAX', 1):
            tako.ImageDirectory(self.served).make_index(origin.digest_of(NEW), lambda _: None)
            self.assertEqual({origin.digest_of(OLD)}, set(self.listed(NEW)))

    def test_it_is_removed_with_the_image_that_it_makes(self):
        self.patch_from(NEW)
        self.assertCode(0, self.run_here('withdraw', '-o', self.served, '1.1'))
        self.assertFalse(os.path.exists(self.path_of(NEW)))

    def test_what_store_publishes_is_what_fetch_takes(self):
        self.patch_from(NEW)
        server = self.serve('served')
        server.has_ranges = True
        entries = self.run_here('list', '-p', origin.PUBLIC_KEY, server.url)
        self.assertEqual(0, entries.code, entries)
        app = self.config(server.url, version='1.0', more='Metered=yes\n')
        self.assertCode(0, self.run_here('fetch', app))
        server.answers.clear()
        app = self.config(server.url, more='Metered=yes\n')
        self.assertIn(' instead of ', self.run_here('fetch', app).out)
        self.assertInPlace(NEW)
        self.assertLess(sum(size for _, _, size in server.answers), 6000)


def other_zlib(change):
    """Return a patch of zlib: compressobj() takes other arguments in these places."""
    real = zlib.compressobj
    return unittest.mock.patch.object(zlib, 'compressobj', lambda *arguments: real(
        *[change.get(place, each) for place, each in enumerate(arguments)]))

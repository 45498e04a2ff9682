"""Section 7: images are cut into chunks, indexes are written and read, and updates are planned."""
import hashlib
import io
import random
import struct
import unittest
import zlib

import tako
from scene import noise, prose

AVERAGE = 1024


IMAGES = {
    'empty': b'', 'one byte': b'e', 'a marker at each place': b'e' * 9000, 'no marker': bytes(9000),
    'noise': noise(50000), 'prose': prose(50000),
    'sparse': bytes(20000) + noise(3000) + bytes(20000),
    'an exact multiple': noise(4 * AVERAGE), 'one more': noise(4 * AVERAGE + 1),
    'one less': noise(4 * AVERAGE - 1),
    'more than is read at once': noise(2 * tako.BLOCK_BYTES),
    'large and sparse': bytes(3 * tako.BLOCK_BYTES) + b'e',
}


def stutter(content, sizes=(1, 700, 5000)):
    """Return a read() that returns fewer bytes than requested."""
    stream, source = io.BytesIO(content), random.Random(3)
    return lambda size: stream.read(min(size, source.choice(sizes)))


def cut(content, method, average=AVERAGE):
    return list(tako.cut_chunks(io.BytesIO(content).read, method, average))


def cut_as_defined(content, average):
    """Return the chunks of an image by their definition, word by word."""
    least, most = average // 3, average * 5 // 3
    chunks = []
    while len(content) > most:
        best, end, previous = -1, most, 0
        for at, byte in enumerate(content[:most], 1):
            if byte == ord('e'):
                check = zlib.crc32(content[previous:at - 1])
                if at >= least and check > best:
                    best, end = check, at
                previous = at
        chunks.append(content[:end])
        content = content[end:]
    return chunks + [content] * bool(content)


def index_of(content, method=tako.BY_CONTENT, average=AVERAGE):
    return tako.index_image(io.BytesIO(content).read, method, average)


class CutTest(unittest.TestCase):
    def test_chunks_by_content_are_those_of_the_definition(self):
        for name, content in IMAGES.items():
            with self.subTest(name):
                self.assertEqual(cut_as_defined(content, AVERAGE), cut(content, tako.BY_CONTENT))

    def test_chunks_of_fixed_size(self):
        for name, content in IMAGES.items():
            with self.subTest(name):
                chunks = cut(content, tako.FIXED_SIZE)
                self.assertEqual(content, b''.join(chunks))
                self.assertEqual({AVERAGE}, {len(chunk) for chunk in chunks[:-1]} or {AVERAGE})
                self.assertEqual([], [chunk for chunk in chunks if not 0 < len(chunk) <= AVERAGE])

    def test_chunks_do_not_depend_on_the_size_of_reads(self):
        for name in ('noise', 'prose', 'sparse', 'an exact multiple'):
            for method in (tako.BY_CONTENT, tako.FIXED_SIZE):
                with self.subTest((name, method)):
                    self.assertEqual(cut(IMAGES[name], method),
                                     list(tako.cut_chunks(stutter(IMAGES[name]), method, AVERAGE)))

    def test_an_insertion_changes_few_chunks(self):
        for content in (noise(300000), prose(300000)):
            before = cut(content, tako.BY_CONTENT)
            after = cut(content[:100000] + b'inserted' + content[100000:], tako.BY_CONTENT)
            self.assertLess(len(set(after) - set(before)), 8)

    def test_the_method_depends_on_the_kind_of_image(self):
        ext4 = bytes(1080) + b'\x53\xef' + bytes(100)
        for head, size, expected in ((ext4, 1 << 20, (tako.FIXED_SIZE, 4096)),
                                     (bytes(1024) + b'\xe2\xe1\xf5\xe0', 1 << 20,
                                      (tako.FIXED_SIZE, 4096)),
                                     (b'XFSB' + bytes(100), 1 << 20, (tako.FIXED_SIZE, 4096)),
                                     (bytes(65600) + b'_BHRfS_M', 1 << 20, (tako.FIXED_SIZE, 4096)),
                                     (bytes(512) + b'EFI PART', 1 << 20, (tako.FIXED_SIZE, 4096)),
                                     (b'hsqs' + bytes(2000), 1 << 20, (tako.BY_CONTENT, 6144)),
                                     (b'', 0, (tako.BY_CONTENT, 6144)),
                                     (ext4, 4 << 30, (tako.FIXED_SIZE, 65536)),
                                     (b'hsqs', 4 << 30, (tako.BY_CONTENT, 49152))):
            with self.subTest((head[-9:], size)):
                self.assertEqual(expected, tako.choose_chunks(head, size))

    def test_images_up_to_64_gib_get_an_index_that_clients_accept(self):
        for head in (b'hsqs', b'XFSB'):
            for exponent in range(16, 37):
                method, average = tako.choose_chunks(head, 1 << exponent)
                self.assertLessEqual(average, tako.CHUNK_MAX_BYTES)
                self.assertLess((1 << exponent) / average * (1 + 0.1 * method), tako.CHUNKS_MAX)

    def test_no_chunk_is_larger_than_clients_accept(self):
        for head in (b'hsqs', b'XFSB'):
            for size in (80 * 10 ** 9, 110 * 10 ** 9, 1 << 50):
                self.assertEqual(tako.CHUNK_MAX_BYTES, tako.choose_chunks(head, size)[1])


class IndexTest(unittest.TestCase):
    def test_a_known_index_has_these_bytes(self):
        """Published indexes must stay readable: these bytes are the format."""
        content = b''.join(hashlib.sha256(bytes([number])).digest() for number in range(100))
        index = index_of(content)._replace(patches=(('ab' * 32, 1234),))
        self.assertEqual([711, 1518, 971], list(index.lengths))
        self.assertEqual('54616b6f49647831' '01' '00' '0100' '00040000' '800c000000000000'
                         '03000000',
                         tako.format_index(index)[:28].hex())
        self.assertEqual('ab' * 32 + 'd204000000000000', tako.format_index(index)[32:72].hex())
        self.assertEqual(b'\xc7\xee\xcb\x02\x05\x03\0\0\0',
                         zlib.decompress(tako.format_index(index)[72:-24]))
        self.assertEqual(hashlib.sha256(content[:711]).digest()[:8],
                         tako.format_index(index)[-24:-16])

    def test_the_size_of_an_index_is_bounded(self):
        """It is 1/256 of the image and 64 KiB, and 16 MiB at most."""
        self.assertEqual([65536, 65636, 16 << 20],
                         [tako.index_max_bytes(size) for size in (0, 25600, 1 << 40)])

    def test_an_index_that_is_written_is_read_the_same(self):
        for name, content in IMAGES.items():
            for method in (tako.BY_CONTENT, tako.FIXED_SIZE):
                with self.subTest((name, method)):
                    index = index_of(content, method)._replace(patches=(('0a' * 32, 5),
                                                                        ('ff' * 32, 1 << 40)))
                    self.assertEqual(index,
                                     tako.parse_index(tako.format_index(index), len(content)))

    def test_hostile_indexes_are_refused(self):
        content = noise(100000)
        raw = tako.format_index(index_of(content))
        fixed = tako.format_index(index_of(content, tako.FIXED_SIZE))
        fields = list(struct.unpack_from(tako.INDEX_FORMAT, raw))

        def of(lengths, **changes):
            """Return an index of chunks of these sizes, with changes of its header."""
            planes = zlib.compress(b''.join(bytes(length >> shift & 255 for length in lengths)
                                            for shift in (0, 8, 16)))
            names = ('magic', 'method', 'zero', 'patches', 'average', 'size', 'count', 'planes')
            header = dict(zip(names, fields), count=len(lengths), planes=len(planes))
            header.update(changes)
            return struct.pack(tako.INDEX_FORMAT,
                               *(header[name] for name in names)) + planes + bytes(8 * len(lengths))

        # The index that is changed below is valid.
        self.assertEqual(100000, sum(tako.parse_index(of([1000] * 100), 100000).lengths))
        bomb = zlib.compress(bytes(50 << 20))
        attacks = {
            'nothing': b'', 'half a header': raw[:20], 'cut short': raw[:-1], 'more': raw + b'x',
            'html': b'<html>' * 50,
            'another magic': b'X' + raw[1:], 'a method that is none': of([1000] * 100, method=2),
            'of another image': of([1000] * 99), 'a chunk of nothing': of([0, 1000] * 100),
            'its chunks make more': of([1000] * 101),
            'it says another size': of([1000] * 100, size=99999),
            'a chunk of all': of([100000]), 'no average': of([1000] * 100, average=0),
            'a large average': of([1000] * 100, average=1 << 31),
            'more patches than are there': of([1000] * 100, patches=9),
            'more chunks than are there': of([1000] * 100, count=101), 'no chunks': of([]),
            'planes beyond the end': of([1000] * 100, planes=1 << 30),
            'no zlib': raw[:32] + b'x' * fields[7] + raw[32 + fields[7]:],
            'a bomb': struct.pack(tako.INDEX_FORMAT, *fields[:7] + [len(bomb)]) + bomb
            + bytes(8 * fields[6]),
            'a reserved byte': raw[:9] + b'\1' + raw[10:],
            'too many of one size': fixed[:24] + b'\xff\xff\xff\xff' + fixed[28:],
            'of one size, and planes': fixed[:28] + b'\x08\0\0\0' + fixed[32:],
        }
        for name, attack in attacks.items():
            with self.subTest(name):
                with self.assertRaises(ValueError):
                    tako.parse_index(attack, 100000)

    def test_an_index_with_a_flipped_bit_is_refused_or_within_bounds(self):
        content = noise(20000)
        raw = tako.format_index(index_of(content))
        for bit in range(8 * len(raw)):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            try:
                index = tako.parse_index(bytes(flipped), len(content))
            except ValueError:
                continue
            self.assertEqual(len(content), sum(index.lengths))


OLD = noise(60000) + prose(40000)


class PlanTest(unittest.TestCase):
    NEWS = {
        'the same': OLD, 'nothing of it': noise(50000, 2),
        'an insertion': OLD[:30000] + b'new' + OLD[30000:],
        'moved': OLD[50000:] + OLD[:50000], 'twice': OLD + OLD,
        'new and twice': noise(20000, 5) * 3 + OLD[:20000],
        'shorter': OLD[:777], 'scattered': OLD.replace(b'sea', b'ocean'),
    }

    def carry_out(self, plan, new, partial):
        """Return the image that a client makes by a plan; the rest of `partial` stays as it is."""
        made = bytearray(partial[:len(new)]) + bytes(max(0, len(new) - len(partial)))
        for source, begin, size in plan.copies:
            made[begin:begin + size] = OLD[source:source + size]
        for begin, end, _ in plan.ranges:
            made[begin:end] = new[begin:end]
        for source, begin, size in plan.repeats:
            for at in range(size):
                made[begin + at] = made[source + at]
        return bytes(made)

    def plan(self, index, partial=b''):
        present, begin = bytearray(), 0
        for number, length in enumerate(index.lengths):
            present.append(tako.chunk_hash(partial[begin:begin + length]) == index.hash_of(number))
            begin += length
        chunks = tako.hashed_chunks(io.BytesIO(OLD).read, index.method, index.average)
        return tako.plan_image(index, tako.find_chunks(index, chunks), bytes(present))

    def test_a_plan_makes_the_image(self):
        for name, new in self.NEWS.items():
            for method in (tako.BY_CONTENT, tako.FIXED_SIZE):
                with self.subTest((name, method)):
                    self.assertEqual(new,
                                     self.carry_out(self.plan(index_of(new, method)), new, b''))

    def test_a_plan_requests_no_bytes_of_the_partial_image(self):
        new = self.NEWS['scattered']
        index = index_of(new)
        whole = self.plan(index).ranges
        half = bytearray(len(new))
        for begin, end, _ in whole[:len(whole) // 2]:
            half[begin:end] = new[begin:end]
        plan = self.plan(index, bytes(half))
        self.assertEqual(whole[len(whole) // 2:], plan.ranges)
        self.assertEqual(new, self.carry_out(plan, new, half))

    def test_a_plan_requests_no_byte_twice(self):
        plan = self.plan(index_of(self.NEWS['new and twice']))
        self.assertLess(sum(each.end - each.begin for each in plan.ranges), 30000)
        self.assertGreater(sum(size for _, _, size in plan.repeats), 30000)

    def test_ranges_are_joined_over_gaps_and_to_limit_their_number(self):
        every_other = [tako.Range(begin, begin + 10, begin // 10) for begin in range(0, 200000, 20)]
        self.assertEqual(every_other[:50], tako.join_ranges(every_other[:50], 9))
        self.assertEqual([tako.Range(0, 990, 0)], tako.join_ranges(every_other[:50], 10))
        self.assertLessEqual(len(tako.join_ranges(every_other, 0)), tako.RANGES_MAX)

    def test_joined_ranges_are_of_limited_length(self):
        size = tako.RANGE_BYTES // 4
        adjacent = [tako.Range(begin, begin + size, 0) for begin in range(0, 20 * size, size)]
        self.assertEqual({tako.RANGE_BYTES},
                         {end - begin for begin, end, _ in tako.join_ranges(adjacent, 0)})

"""Section 8: a patch makes the image it was made of, and a hostile one does no harm."""
import io
import lzma
import os
import platform
import random
import subprocess
import sys
import unittest

import scene
import tako
from patches import MEMORY, damaged, make, number, patch, segment, stream
from scene import noise, prose


def program(seed, shift=0):
    """Return bytes like those of a program: a new build keeps instructions and moves addresses."""
    source, made = random.Random(seed), bytearray()
    for place in range(8000):
        made += bytes(source.choice((b'\x48\x89', b'\x8b\x05', b'\xe8', b'\x0f\x1f\x40')))
        made += (place * 16 + shift).to_bytes(4, 'little')
    return bytes(made)


def apply(patch, old, size):
    return list(tako.apply_patch(io.BytesIO(patch), lambda begin, count: old[begin:begin + count],
                                 size))


class Vast:
    """Stands in for a mapped image of so many bytes, in which each word is its own number."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, which):
        begin, end, _ = which.indices(self.size)
        words = b''.join(number.to_bytes(8, 'little') for number in range(begin // 8, end // 8 + 1))
        return words[begin % 8:begin % 8 + end - begin]


OLD = noise(150000) + prose(100000) + program(1)
PAIRS = {
    'the same': (OLD, OLD), 'both empty': (b'', b''), 'from nothing': (b'', OLD[:50000]),
    'to nothing': (OLD, b''),
    'one byte': (b'a', b'b'), 'to one byte': (OLD, b'x'),
    'nothing in common': (noise(90000, 2), noise(90000, 3)),
    'an insertion': (OLD, OLD[:70000] + b'inserted' * 9 + OLD[70000:]),
    'a deletion': (OLD, OLD[:70000] + OLD[90000:]),
    'moved': (OLD, OLD[200000:] + OLD[:200000]), 'twice': (OLD, OLD + OLD),
    'the end alone': (OLD, OLD[-1000:]),
    'scattered bytes': (OLD, bytes(byte ^ (number % 977 == 0) for number, byte in enumerate(OLD))),
    'a new build': (program(1), program(1, 64)), 'zeros': (bytes(300000), bytes(400000)),
    'zeros and noise': (bytes(300000), bytes(100000) + noise(5000) + bytes(100000)),
    'reversed': (OLD, OLD[::-1]),
    'one byte in the middle': (noise(2000), noise(2000)[:1000] + b'\0' + noise(2000)[1001:]),
    # no run is long enough for a match, and the old image ends where the likeness does
    'alike up to the end of a shorter image': (noise(2000), noise(1000, 2) + bytes(
        byte ^ (number % 3 == 0) for number, byte in enumerate(noise(2000)[1000:]))
        + noise(500, 3)),
    'longer than a block': (noise(3 * tako.BLOCK_BYTES), b'!' + noise(3 * tako.BLOCK_BYTES)),
}


class RoundTripTest(unittest.TestCase):
    def test_a_patch_makes_the_image_it_was_made_of(self):
        for name, (old, new) in PAIRS.items():
            for memory in (MEMORY, 32 << 20):
                with self.subTest(name, memory=memory):
                    blocks = apply(make(old, new, memory), old, len(new))
                    self.assertEqual(new, b''.join(blocks))
                    self.assertLessEqual(max(map(len, blocks), default=0), tako.BLOCK_BYTES)

    def test_a_patch_makes_an_image_with_random_edits(self):
        chance = random.Random(5)
        for _ in range(30):
            new = bytearray(OLD[:120000])
            for _ in range(chance.randrange(1, 40)):
                place, size = chance.randrange(len(new)), chance.randrange(1, 3000)
                other = chance.randrange(len(OLD))
                new[place:place + chance.choice((0, size))] = chance.choice(
                    (b'', OLD[other:other + size], noise(size, other)))
            with self.subTest(len(new)):
                self.assertEqual(bytes(new), b''.join(apply(make(OLD, bytes(new)), OLD, len(new))))

    def test_the_same_images_make_the_same_patch(self):
        self.assertEqual(make(*PAIRS['scattered bytes']), make(*PAIRS['scattered bytes']))

    def test_small_changes_make_small_patches(self):
        for name, most in (('the same', 100), ('an insertion', 200), ('a deletion', 150),
                           ('moved', 200), ('twice', 150),
                           ('scattered bytes', 6000), ('a new build', 3000), ('zeros', 150)):
            with self.subTest(name):
                self.assertLess(len(make(*PAIRS[name])), most)

    def test_a_patch_of_new_bytes_is_little_larger_than_them(self):
        old, new = PAIRS['nothing in common']
        self.assertLess(len(make(old, new)), len(new) + 200)

    def test_bytes_that_hardly_compress_are_compressed_in_parts(self):
        hardly = noise(tako.PATCH_PART_MIN_BYTES + 100000).translate(bytes(range(248)) + bytes(8))
        new = hardly[:3000000] + prose(70000) + hardly[3000000:]
        patch = make(b'', new, 256 << 20)
        self.assertEqual(new, b''.join(apply(patch, b'', len(new))))
        self.assertLess(len(patch), len(hardly) + 30000)
        self.assertTrue(new[1 << 20:(1 << 20) + (1 << 16)] in patch, 'all of it is packed')

    def test_an_image_beyond_4_gib_has_seeds_at_its_end(self):
        old = Vast(min((2 << 32) + (1 << 20), sys.maxsize))     # a 32-bit Python has none larger
        matcher = tako._Matcher(old, bytes(100), MEMORY, lambda _: None)
        # all but its end is in the new image, too
        seeds = matcher._seeds([(0, len(old) - (1 << 18), 0)])
        places = [(place - 1) * matcher.stride for place in seeds if place]
        self.assertGreater(len(places), 1 << 15)
        for place in places:
            seed = old[place:place + matcher.seed_bytes]
            self.assertEqual(place // matcher.stride + 1,
                             seeds[tako.binascii.crc32(seed) % len(seeds)])

    def test_make_patch_reports_progress(self):
        told = []
        tako.make_patch(OLD, OLD[::-1], lambda _: None, MEMORY, told.append)
        self.assertGreater(len(told), 10)
        self.assertLessEqual(max(told), len(OLD))


class FormatTest(unittest.TestCase):
    def test_a_known_patch_is_read(self):
        """Published patches must stay readable: these bytes are the format."""
        end = b'the same' + b'.' * 300
        # three streams, as they are
        patch = (b'Tako Patch 1\n' + bytes.fromhex('21000000' '07000000' '09000000')
                 # five operations: COPY, ADD, COPY, NEW, COPY
                 + bytes.fromhex('05' '0001000200')
                 + bytes.fromhex('0319b402' '03' '04')      # of 3, 25 and 308, of 3, of 4 bytes
                 # the last COPY from 4 bytes before
                 + bytes.fromhex('00000007')
                 + b'\xe0\xe0\xe0' + b'not ')
        old = b'an old image, of which some is ' + end
        new = b'an OLD image, of which some is not ' + end
        self.assertEqual(new, b''.join(apply(patch, old, len(new))))


class HostileTest(unittest.TestCase):
    OLD = noise(10000)

    def test_valid_handmade_patches_are_applied(self):
        """The hostile patches below are variations of these."""
        for right in (patch(segment([(tako.COPY, 5000, 0)])),
                      patch(segment([(tako.NEW, 5000, 0)], new=bytes(5000))),
                      patch(segment([(tako.ADD, 5000, 17)], differences=bytes(5000))),
                      patch(segment([(tako.COPY, 2500, 100), (tako.COPY, 2500, -2600)]))):
            self.assertEqual(5000, len(b''.join(apply(right, self.OLD, 5000))))

    def test_hostile_patches_are_refused(self):
        copy = segment([(tako.COPY, 5000, 0)])
        attacks = {
            'nothing': b'', 'another magic': b'x' + patch(copy), 'no segment': patch(),
            'an unfinished segment': patch(copy[:9]), 'a stream beyond the end': patch(copy[:-3]),
            'something after the end': patch(copy) + b'x', 'a segment too many': patch(copy, copy),
            'more than the image': patch(segment([(tako.COPY, 5001, 0)])),
            'less than the image': patch(segment([(tako.COPY, 4999, 0)])),
            'nothing at a time': patch(segment([(tako.COPY, 0, 0)] * 9 + [(tako.COPY, 5000, 0)])),
            'an endless copy': patch(segment([(tako.COPY, 1 << 62, 0)])),
            'before the old image': patch(segment([(tako.COPY, 5000, -1)])),
            'behind the old image': patch(segment([(tako.COPY, 5000, 5001)])),
            'far behind the old image': patch(segment([(tako.COPY, 5000, 1 << 64)])),
            'additions to nothing': patch(segment([(tako.ADD, 5000, 9999)],
                                                  differences=bytes(5000))),
            'a kind that is none': patch(segment([(3, 5000, 0)])),
            'too few differences': patch(segment([(tako.ADD, 5000, 0)], differences=bytes(4999))),
            'too many differences': patch(segment([(tako.ADD, 5000, 0)], differences=bytes(5001))),
            'too few new bytes': patch(segment([(tako.NEW, 5000, 0)], new=bytes(4999))),
            'too many new bytes': patch(segment([(tako.NEW, 5000, 0)], new=bytes(5001))),
            'no new bytes': patch(segment([(tako.NEW, 5000, 0)])),
            'a bomb of new bytes': patch(segment([(tako.COPY, 5000, 0)], new=bytes(100 << 20))),
            'no operations': patch(segment([], control=number(0))),
            'no control': patch(segment([], control=b'')),
            'operations that are missing': patch(segment([], control=number(3) + b'\0\0')),
            'groups of nothing, which no bound on operations would end': patch(segment(
                [], control=bytes(5000) + b'\1\0' + number(5000) + number(0))),
            'more operations than a group may have': patch(segment([], control=number(1 << 40))),
            'a number without end': patch(segment([], control=b'\xff' * 5000)),
            'more operations than the image may have': patch(segment([(tako.COPY, 1, 0)] * 5000)),
            'no LZMA': patch(segment([], control=(b'\xfe' * 50,))),
            'bytes as they are that are cut': patch((3 + 3).to_bytes(4, 'little')
                                                    + (1).to_bytes(4, 'little')
                                                    + (2 * 5000 + 1).to_bytes(4, 'little')
                                                    + bytes(4000)),
            'a stream that is cut': patch(segment([(tako.NEW, 5000, 0)],
                                                  new=(stream(noise(5000))[:-9],))),
            'short segments': patch(*[segment([(tako.COPY, 1000, 0)])] * 5),
        }
        for name, attack in attacks.items():
            with self.subTest(name):
                with self.assertRaises(tako.PatchError):
                    apply(attack, self.OLD, 5000)

    def test_a_truncated_or_altered_patch_makes_no_more_than_the_size(self):
        old, new = OLD[:20000], OLD[:7000] + b'new' + OLD[7000:15000] + noise(300, 8)
        for each in damaged(make(old, new), 1, 1500):
            try:
                self.assertEqual(len(new), sum(map(len, apply(each, old, len(new)))))
            except tako.PatchError:
                pass


class MemoryTest(unittest.TestCase):
    """How much memory both sides take, beyond the images."""

    def assertTakesLittle(self, prepare, work, *arguments, most=32):
        """A process that has done `prepare` grows by less than so many MiB when it does `work`."""
        script = '\n'.join((
            'import http.client, io, lzma, mmap, resource, sys, zlib',
            'sys.path[:0] = {!r}'.format([scene.PROJECT, os.path.dirname(__file__)]),
            'import patches, scene, tako', prepare,
            'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss', work,
            'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)'))
        done = subprocess.run([sys.executable, '-c', script] + list(arguments),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(0, done.returncode, done.stderr)
        # PyPy frees memory when it collects, not at once
        self.assertLess(int(done.stdout),
                        (2 if platform.python_implementation() == 'PyPy' else 1) * most << 10)

    def test_applying_a_patch_takes_limited_memory(self):
        """The patch unpacks to a thousand times its size, and has the largest dictionaries."""
        directory = scene.tempfile.mkdtemp(prefix='tako-test-')
        self.addCleanup(scene.remove_tree, directory)
        packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=[
            {'id': lzma.FILTER_LZMA2, 'preset': 0, 'dict_size': 64 << 20}])
        with open(os.path.join(directory, 'packed'), 'wb') as packed:
            for _ in range(300):
                packed.write(packer.compress(bytes(1 << 20)))
            packed.write(packer.flush())
        self.assertTakesLittle('size = 300 << 20\n'
                               'new = open(sys.argv[1], "rb").read()\n'
                               'big = patches.patch(patches.segment([(tako.NEW, size, 0)], '
                               'new=(new,)))',
                               'for _ in tako.apply_patch(io.BytesIO(big), lambda begin, count: '
                               'bytes(count), size): pass',
                               os.path.join(directory, 'packed'))

    def test_making_a_patch_takes_limited_memory(self):
        """The images have more seeds than fit in memory, a new part and one with small changes."""
        self.assertTakesLittle('old, new = mmap.mmap(-1, 16 << 20), mmap.mmap(-1, 16 << 20)\n'
                               'for at in range(0, len(old), 1 << 20):\n'
                               '    old[at:at + (1 << 20)] = new[at:at + (1 << 20)] = '
                               'scene.noise(1 << 20, at)\n'
                               'new[1 << 20:2 << 20] = scene.noise(1 << 20, 2)\n'
                               'for at in range(4 << 20, 7 << 20, 101): new[at] ^= 1',
                               'tako.make_patch(old, new, len, 32 << 20, str)')

"""Section 13: the state is written and read, survives damage, and is written seldom."""
import errno
import json
import os
import random
import string
import subprocess
import time
import unittest.mock

import origin
import scene
import tako
from scene import TWO

DIGITS = '0123456789abcdef'
PRINTABLE = string.ascii_letters + string.digits + string.punctuation


def random_digest(chance):
    return ''.join(chance.choice(DIGITS) for _ in range(64))


def random_word(chance):
    return ''.join(chance.choice(PRINTABLE) for _ in range(chance.randrange(1, 80)))


def random_state(chance):
    """Return any state that is possible."""
    digest = lambda: random_digest(chance)              # noqa: E731
    several = lambda make: tuple(make() for _ in range(chance.randrange(4)))        # noqa: E731
    return tako.State(chance.choice(['', digest()]), chance.choice(['', digest()]),
                      chance.choice(['', digest() + ' 12345']), several(digest), several(digest),
                      several(lambda: ' '.join((digest(), random_word(chance),
                                                random_word(chance)))),
                      several(lambda: random_word(chance) + ' ' + digest()[:32]), several(digest),
                      several(lambda: digest() + ' 1795824000'),
                      chance.choice(['', digest()[:32]]), chance.choice(['', '1795824000']),
                      chance.choice(['', '12500000']))


class FormatTest(scene.Scene):
    def test_every_state_is_parsed_from_its_text_again(self):
        chance = random.Random(3)
        for _ in range(2000):
            state = random_state(chance)
            self.assertEqual(state, tako.parse_state(tako.format_state(state)))

    def test_every_state_is_read_from_its_file_again(self):
        chance = random.Random(4)
        for _ in range(20):
            state = random_state(chance)
            scene.write_state(self.destination, state)
            self.assertEqual(state, scene.state(self.destination))
        self.assertEqual(['.state'], os.listdir(self.destination))

    def test_a_missing_state_is_empty(self):
        self.assertEqual(tako.State('', '', '', (), (), (), (), (), (), '', '', ''),
                         scene.state(self.destination))

    def test_of_several_values_of_one_item_the_last_one_counts(self):
        one, two = 'a' * 64, 'b' * 64
        for key in ('previous', 'restart_due'):
            text = ''.join('{}={}\n'.format(key, each) for each in (one, one, two))
            self.assertEqual(two, getattr(tako.parse_state(text), key))
        self.assertEqual((one, two), tako.parse_state(
            'rejected={}\nrejected={}\n'.format(one, two)).rejected)

    def test_keys_of_a_later_version_are_ignored(self):
        chance = random.Random(5)
        state = random_state(chance)
        self.assertEqual(state,
                         tako.parse_state('mood=fine\n' + tako.format_state(state) + 'mood=\n'))

    def test_a_damaged_state_raises_value_error(self):
        chance = random.Random(6)
        for text in ('nonsense', 'previous', 'previous=1', 'restart_due=' + 'g' * 64,
                     'rejected=' + 'A' * 64,
                     'withdrawn=' + 'a' * 65, 'validators=' + 'a' * 64):
            with self.subTest(text), self.assertRaises(ValueError):
                tako.parse_state(text)
        for _ in range(2000):
            text = list(tako.format_state(random_state(chance)) + 'x')
            text[chance.randrange(len(text))] = chr(chance.randrange(0x180))
            try:
                tako.parse_state(''.join(text))
            except ValueError:
                pass


class StateCase(scene.UpdateScene):
    """A client that has 1.1 installed and 1.0 in its store."""

    def setUp(self):
        super().setUp()
        self.state = self.path('destination', '.state')
        self.run_here('fetch', self.app)
        self.two = self.origin.publish('1.1', TWO)
        self.run_here('fetch', self.app)
        self.origin.requests.clear()
        self.before = self.images()

    def images(self):
        """Return a snapshot of the destination without the state and its copies."""
        return {name: what for name,
                what in scene.snapshot(self.destination).items() if not name.startswith('.state')}

    def trace(self):
        """Return what a write of the state would change."""
        status = os.stat(self.state)
        return scene.read(self.state), status.st_ino, status.st_mode

    def age(self):
        os.utime(self.state, (1e9, 1e9))


class DamageTest(StateCase):
    def assertMadeAnew(self):
        """One run reports the damage, and the next is quiet. No image changes or is downloaded."""
        result = self.run_here('fetch', self.app)
        self.assertEqual((0, ''), (result.code, result.out), result)
        self.assertIn('.state is damaged\n  it is replaced', result.err)
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(self.before, self.images())
        self.assertEqual({'/manifest'}, set(self.origin.paths()))
        self.assertEqual(0o100444, os.stat(self.state).st_mode)

    def test_a_damaged_state_is_replaced_whatever_its_content(self):
        honest = scene.read(self.state)
        for name, content in (('garbage', b'garbage\n'), ('truncated', honest[:-9]),
                              ('binary', bytes(range(256)) * 9),
                              ('zeros', b'\0' * 4096),
                              ('huge', b'later=key\n' * (tako.STATE_MAX_BYTES // 10 + 1)),
                              ('latin-1', b'previous=\xe4\n')):
            with self.subTest(name):
                os.unlink(self.state)
                self.write('destination/.state', content)
                self.assertMadeAnew()

    def test_a_directory_in_place_of_the_state_is_replaced(self):
        os.unlink(self.state)
        os.mkdir(self.state)
        self.assertMadeAnew()

    def test_a_link_in_place_of_the_state_is_replaced_and_its_target_left_alone(self):
        os.unlink(self.state)
        other = self.write('other', b'somebody else\'s\n')
        os.symlink(other, self.state)
        self.assertMadeAnew()
        self.assertEqual(b'somebody else\'s\n', scene.read(other))

    def test_a_dry_run_reports_a_damaged_state_and_keeps_it(self):
        os.unlink(self.state)
        for make in (lambda: self.write('destination/.state', 'garbage'),
                     lambda: os.mkdir(self.state)):
            make()
            before = scene.snapshot(self.destination)
            self.assertIn('.state is damaged', self.run_here('fetch', '--dry-run', self.app).err)
            self.assertEqual(before, scene.snapshot(self.destination))
            if os.path.isfile(self.state):
                os.unlink(self.state)

    def test_a_missing_state_is_no_damage(self):
        os.unlink(self.state)
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(self.before, self.images())

    def test_a_state_with_keys_of_a_later_version_is_no_damage(self):
        content = b'mood=fine\n' + scene.read(self.state)
        os.unlink(self.state)
        self.write('destination/.state', content)
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(self.before, self.images())


class TouchTest(StateCase):
    def test_a_run_without_a_change_only_sets_the_time_of_the_state(self):
        before = self.trace()
        self.age()
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(before, self.trace())
        self.assertGreater(os.stat(self.state).st_mtime, 1.5e9)

    def test_a_failed_run_does_not_touch_the_state(self):
        before = self.trace()
        self.age()
        for name, fault, code in (('down', origin.status(503), 75),
                                  ('lying', origin.serves(b'<html>'), 3)):
            with self.subTest(name):
                self.origin.faults['/manifest'] = fault
                self.assertCode(code, self.run_here('fetch', self.app))
        self.origin.faults.clear()
        self.config(self.origin.url, version='7.*')
        self.assertCode(1, self.run_here('fetch', self.app))
        self.assertEqual((before, 1e9), (self.trace(), os.stat(self.state).st_mtime))

    def test_a_dry_run_and_init_do_not_touch_the_state(self):
        before = self.trace()
        self.age()
        for option in ('--dry-run', '--init'):
            self.assertEqual(0, self.run_here('fetch', option, self.app).code)
        self.assertEqual((before, 1e9), (self.trace(), os.stat(self.state).st_mtime))


class FileTimeTest(StateCase):
    """If a file system keeps another time than was set, a line of the state has the time."""

    Y2040 = 2208988800.0

    def in_2040(self, after=0.0):
        clock = scene.Clock()
        clock.time = lambda: self.Y2040 + after
        return clock.patch()

    def limited(self, lacks=False):
        """Let os.utime() act as on ext4 with inodes of 128 bytes, or as if it were missing."""
        utime = os.utime

        def limit(path, times=None):
            if lacks:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            times = times or (tako.time.time(),) * 2
            utime(path, tuple(min(each, 2.0 ** 31 - 1) for each in times))
        return unittest.mock.patch.object(os, 'utime', limit)

    def status(self, *options):
        return self.run_here('status', '--json', *options, self.app)

    def last_success(self):
        return json.loads(self.status().out)[0]['last_success']

    def test_the_age_of_the_last_success_is_known(self):
        for lacks in (False, True):
            with self.subTest(lacks=lacks), self.limited(lacks):
                for after in (0, 3600.0, 7200.0):
                    with self.in_2040(after):
                        self.assertQuiet(self.run_here('fetch', self.app))
                        self.assertCode(0, self.status('--max-age', '15m'))
                        self.assertEqual(int(self.Y2040 + after), self.last_success())
                with self.in_2040(86400.0):
                    self.assertCode(1, self.status('--max-age', '15m'))

    def test_a_failed_run_keeps_the_noted_time(self):
        for lacks in (False, True):
            with self.subTest(lacks=lacks), self.limited(lacks), self.in_2040():
                self.assertQuiet(self.run_here('fetch', self.app))
                with self.in_2040(3600.0):
                    notes = tako.StateFile(tako.Destination(self.destination))
                    notes.write(notes.state._replace(withdrawn=(str(int(lacks)) * 64,)))
                    notes.prepare_rollback(
                        self.two.digest, notes.state._replace(previous=''), notes.state)
                    self.assertEqual(int(self.Y2040), self.last_success())
                    notes.write_prepared(tako.BACK_STATE, notes.state._replace(previous=''))
                    self.assertEqual(int(self.Y2040), self.last_success())

    def test_without_utime_a_state_without_a_success_has_none(self):
        os.unlink(self.state)
        with self.limited(lacks=True):
            tako.StateFile(tako.Destination(self.destination)).write(
                tako.parse_state('')._replace(previous='0' * 64))
        self.assertIsNone(self.last_success())

    def test_the_time_is_noted_on_a_full_disk(self):
        new_file = tako.NewFile.write

        def full(new, block):
            if new.temporary.endswith(tako.NEW_STATE):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            new_file(new, block)
        with self.limited(), self.in_2040(), \
                unittest.mock.patch.object(tako.NewFile, 'write', full):
            self.assertQuiet(self.run_here('fetch', self.app))
            self.assertEqual(int(self.Y2040), self.last_success())

    def test_the_noted_time_is_removed_where_the_file_system_keeps_times(self):
        before = scene.read(self.state)
        with self.limited(), self.in_2040():
            self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(before + b'last_success=2208988800\n', scene.read(self.state))
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(before, scene.read(self.state))
        self.assertLess(abs(self.last_success() - time.time()), 60)

    def test_the_time_is_noted_on_ext4_with_small_inodes(self):
        disk = self.write('disk', b'')
        os.truncate(disk, 4 << 20)
        mounted = self.path('mounted')
        os.mkdir(mounted)
        made = scene.as_root('mkfs.ext4', '-q', '-I', '128', disk)
        if made is None or scene.as_root('mount', '-o', 'loop', disk, mounted) is None:
            self.skipTest('NOT ALLOWED TO MOUNT: EXT4 WITH SMALL INODES IS NOT TESTED')
        self.addCleanup(subprocess.run, ['umount', mounted], check=True)
        self.app = self.config(self.origin.url, version='1.*', destination=mounted)
        with self.in_2040():
            self.assertEqual(0, self.run_here('fetch', self.app).code)
            self.assertCode(0, self.status('--max-age', '15m'))
            self.assertQuiet(self.run_here('fetch', self.app))
            self.assertEqual(int(self.Y2040), self.last_success())

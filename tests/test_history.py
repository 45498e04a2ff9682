"""Sections 13, 17 and 18: what a destination notes of failures and events, and how status shows it.

.problems has what fails now, and .history the last events. Neither stops a run, whatever is there.
"""
import contextlib
import errno
import json
import os
import random
import re
import stat
import time
import unittest
import unittest.mock

import fake_systemd
import origin
import scene
import tako
from scene import ONE, TWO

PASSWORD = 'pass-word-1'


class NoteCase(scene.UpdateScene):
    def setUp(self):
        super().setUp()
        self.assertCode(0, self.run_here('fetch', self.app))
        self.history_path = self.path('destination', tako.HISTORY)
        self.problems_path = self.path('destination', tako.PROBLEMS)

    def known(self):
        return json.loads(self.run_here('status', '--json', self.app).out)[0]

    def history(self):
        """Return the events that status --history prints."""
        result = self.run_here('status', '--history', self.app)
        self.assertEqual((0, ''), (result.code, result.err))
        return [json.loads(line) for line in result.out.splitlines()]

    def kinds(self):
        return [(event['event'], event.get('version', event.get('exit_code')))
                for event in self.history()]

    def break_origin(self, status=503):
        self.origin.faults['/manifest'] = origin.status(status)

    def fail(self, code=75):
        self.assertCode(code, self.run_here('fetch', self.app))

    @contextlib.contextmanager
    def traced(self):
        """Yield the list of what this process writes to the notes: ('fsync', name) and so on."""
        calls = []
        real_fsync, real_open = os.fsync, os.open

        def fsync(descriptor):
            calls.append(('fsync', os.path.basename(
                os.readlink('/proc/self/fd/{}'.format(descriptor)))))
            real_fsync(descriptor)

        def open_(path, flags, *mode, **settings):
            if flags & (os.O_WRONLY | os.O_RDWR) and isinstance(path, str):
                calls.append(('open', os.path.basename(path)))
            return real_open(path, flags, *mode, **settings)
        with unittest.mock.patch.object(os, 'fsync', fsync), \
                unittest.mock.patch.object(os, 'open', open_):
            yield calls


class FailureTest(NoteCase):
    def test_status_shows_the_last_failure_and_how_many_there_were_in_a_row(self):
        before = int(time.time())
        self.break_origin()
        for failures in (1, 2, 3):
            self.fail()
            known = self.known()
            self.assertEqual((failures, 75, 75, self.origin.url + '/manifest: HTTP status 503'),
                             tuple(known[key] for key in ('failures', 'exit_code',
                                                          'last_failure_exit_code',
                                                          'last_failure_message')))
        self.assertGreaterEqual(known['last_failure'], before)
        self.assertEqual(['the last 3 fetches failed (exit code 75)'], known['problems'])
        text = self.run_here('status', self.app).out
        self.assertRegex(text, 'status: +the last 3 fetches failed')
        self.assertRegex(text, 'last failure: +2[-0-9]+ [:0-9]+ UTC, exit code 75: '
                         + re.escape(self.origin.url) + '/manifest: HTTP status 503\n')

    def test_a_success_ends_the_row_and_keeps_the_last_failure(self):
        self.break_origin()
        self.fail()
        self.fail()
        failed = self.known()['last_failure']
        self.origin.faults.clear()
        self.assertQuiet(self.run_here('fetch', self.app))
        known = self.known()
        self.assertEqual((0, 0, [], failed, 75),
                         tuple(known[key] for key in ('failures', 'exit_code', 'problems',
                                                      'last_failure', 'last_failure_exit_code')))
        self.break_origin(403)
        self.fail()
        self.assertEqual((1, 75), (self.known()['failures'], self.known()['exit_code']))

    def test_the_most_severe_error_of_a_run_is_the_failure(self):
        self.config('http://127.0.0.1:9/app', version='1.*', mirrors=[self.origin.url])
        self.origin.faults['/manifest'] = origin.serves(b'<html>')
        self.fail(3)
        self.assertEqual(3, self.known()['exit_code'])
        self.assertIn('not a signed manifest', self.known()['last_failure_message'])

    def test_a_lock_that_another_run_holds_is_a_failure(self):
        with tako.DirectoryLock(self.destination, 0, print):
            self.assertCode(75, self.run_here('fetch', '--timeout', '0', self.app))
        self.assertIn('another run holds the lock', self.known()['last_failure_message'])

    def test_a_failed_init_is_noted_and_one_that_needs_no_network_is_not(self):
        before = scene.snapshot(self.destination, with_notes=True)
        self.break_origin()
        self.assertQuiet(self.run_here('fetch', '--init', self.app))
        self.assertEqual(before, scene.snapshot(self.destination, with_notes=True))
        self.empty_destination()
        self.assertCode(75, self.run_here('fetch', '--init', self.app))
        self.assertEqual(1, self.known()['failures'])

    def test_a_dry_run_notes_nothing(self):
        before = scene.snapshot(self.destination, with_notes=True)
        self.break_origin()
        self.assertCode(75, self.run_here('fetch', '--dry-run', self.app))
        self.assertEqual(before, scene.snapshot(self.destination, with_notes=True))

    def test_a_config_that_cannot_be_read_has_nowhere_to_note_it(self):
        before = scene.snapshot(self.destination, with_notes=True)
        text = scene.read(self.app)
        self.write('app.tako', text + b'Nonsense=1\n')
        self.fail(2)
        self.write('app.tako', text)
        self.assertEqual(before, scene.snapshot(self.destination, with_notes=True))
        self.assertEqual(0, self.known()['failures'])

    def test_a_failure_before_anything_is_installed_is_noted(self):
        self.empty_destination()
        self.break_origin()
        self.fail()
        self.assertEqual((1, None), (self.known()['failures'], self.known()['version']))

    def test_notes_are_readable_for_all_whatever_the_umask(self):
        self.break_origin()
        self.fail()
        self.empty_destination()
        self.assertCode(75, self.run_tako('fetch', self.app,
                                          preexec_fn=lambda: os.umask(0o077)))
        for path in (self.history_path, self.problems_path):
            self.assertEqual(0o444, stat.S_IMODE(os.stat(path).st_mode) & 0o444, path)


class WearTest(NoteCase):
    """A machine without a network does not wear its disk."""

    def failed(self):
        with self.traced() as calls:
            self.fail()
        return [call for call in calls if call[1] != '.lock' and call[1] != '.partial']

    def test_a_repeated_failure_writes_once_and_waits_for_nothing(self):
        self.break_origin()
        self.fail()
        for _ in range(3):
            self.assertEqual([('open', tako.PROBLEMS)], self.failed())
        self.assertEqual(4, self.known()['failures'])

    def test_a_new_message_is_durable(self):
        self.break_origin()
        self.fail()
        self.break_origin(404)
        self.assertEqual([('open', tako.NEW_HISTORY), ('fsync', tako.NEW_HISTORY),
                          ('fsync', 'destination'), ('open', tako.PROBLEMS)], self.failed())

    def test_messages_that_alternate_are_durable_once(self):
        for status in (503, 404):
            self.break_origin(status)
            self.fail()
        for status in (503, 404, 503):
            self.break_origin(status)
            self.assertEqual([('open', tako.PROBLEMS)], self.failed())
        self.assertIn('HTTP status 503', self.known()['last_failure_message'])
        self.assertEqual(5, self.known()['failures'])

    def test_a_message_that_differs_in_a_long_number_is_the_same(self):
        for number, expected in ((12345, 1), (67890, 1), (123, 2), (124, 3)):
            with unittest.mock.patch.object(
                    tako.ImageFetch, '_accept_manifest',
                    side_effect=tako.TakoError('{} bytes are free'.format(number), 'x')):
                self.fail(1)
            self.assertEqual(expected, len([kind for kind, _ in self.kinds()
                                            if kind == 'failure']))
            self.assertIn(str(number), self.known()['last_failure_message'])

    def test_a_success_after_a_failure_waits_for_nothing(self):
        self.break_origin()
        self.fail()
        self.origin.faults.clear()
        with self.traced() as calls:
            self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual([('open', tako.PROBLEMS)], [call for call in calls if call[1] != '.lock'])

    def test_a_run_that_changes_nothing_writes_no_notes(self):
        for _ in range(2):
            with self.traced() as calls:
                self.assertQuiet(self.run_here('fetch', self.app))
            self.assertEqual([], [call for call in calls if call[1] != '.lock'])
        self.break_origin()
        self.fail()
        self.origin.faults.clear()
        self.assertQuiet(self.run_here('fetch', self.app))
        with self.traced() as calls:
            self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual([], [call for call in calls if call[1] != '.lock'])

    def test_the_last_failure_survives_the_loss_of_what_is_not_durable(self):
        self.break_origin()
        self.fail()
        os.unlink(self.problems_path)
        known = self.known()
        self.assertEqual((0, 75), (known['failures'], known['last_failure_exit_code']))
        self.assertIn('HTTP status 503', known['last_failure_message'])


class SecretTest(NoteCase):
    def test_no_note_has_a_password_or_a_secret_key(self):
        address = self.origin.url.partition('://')[2]
        for url in ('http://user:{}@{}'.format(PASSWORD, address),
                    'http://user:{}@127.0.0.1:9/app'.format(PASSWORD)):
            self.config(url, version='1.*')
            self.break_origin()
            self.fail()
            self.config(url, version='1.*', mirrors=[self.origin.url])
            self.origin.faults.clear()
            self.run_here('fetch', self.app)
        self.origin.faults['/manifest'] = origin.redirects(
            'http://user:{0}@127.0.0.1:9/x?token={0}'.format(PASSWORD))
        self.fail()
        text = scene.read(self.history_path) + scene.read(self.problems_path)
        self.assertIn(b'127.0.0.1:9', text)
        self.assertNotIn(PASSWORD.encode(), text)

    def test_a_secret_key_in_a_message_is_not_noted(self):
        secret = tako.format_secret_key(origin.SEED)
        with unittest.mock.patch.object(tako.ImageFetch, '_accept_manifest',
                                        side_effect=tako.TakoError('bad: ' + secret, 'x')):
            self.fail(1)
        text = scene.read(self.history_path) + scene.read(self.problems_path)
        self.assertIn(tako.SECRET_KEY_PREFIX.encode() + b'...', text)
        self.assertNotIn(secret[12:].encode(), text)

    def test_control_characters_of_a_server_are_escaped(self):
        with unittest.mock.patch.object(tako.ImageFetch, '_accept_manifest',
                                        side_effect=tako.TakoError('a\x1b[31m\nb\u2028', 'x')):
            self.fail(1)
        self.assertEqual('a\\x1b[31m\\nb\\u2028', self.known()['last_failure_message'])
        self.assertIn('exit code 1: a\\x1b[31m\\nb\\u2028\n', self.run_here('status', self.app).out)


class MirrorTest(NoteCase):
    def setUp(self):
        super().setUp()
        self.mirror = self.serve('mirror')
        self.config(self.origin.url, version='1.*', mirrors=[self.mirror.url])

    def test_a_silent_mirror_is_shown_until_it_serves_again(self):
        result = self.run_here('fetch', self.app)
        self.assertEqual(0, result.code)
        since = self.known()['mirrors'][0].pop('since')
        self.assertEqual([self.mirror.url], [each['url'] for each in self.known()['mirrors']])
        self.assertEqual(['1 mirror fails'], self.known()['problems'])
        self.assertRegex(self.run_here('status', self.app).out,
                         'mirror 1: +since [^\n]* UTC: ' + re.escape(self.mirror.url))
        with self.traced() as calls:
            self.assertEqual(0, self.run_here('fetch', self.app).code)
        self.assertEqual([], [call for call in calls if call[1] != '.lock'])
        self.assertEqual(since, self.known()['mirrors'][0]['since'])
        self.mirror.publish('1.0', ONE)
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertEqual(([], []), (self.known()['mirrors'], self.known()['problems']))

    def test_a_stale_mirror_is_shown(self):
        self.mirror.publish('1.0', ONE)
        self.origin.publish('1.1', TWO)
        self.run_here('fetch', self.app)
        self.assertEqual(0, self.run_here('fetch', self.app).code)
        mirror, = self.known()['mirrors']
        self.assertIn('lacks or changes 1.1, which the last manifest had', mirror['message'])

    def test_a_fork_is_shown(self):
        self.mirror.publish('1.0', TWO)
        self.fail(3)
        known = self.known()
        self.assertAlmostEqual(time.time(), known['fork'], delta=60)
        self.assertIn('two manifests contradict each other', known['problems'])
        self.assertRegex(self.run_here('status', self.app).out,
                         'fork: +2[^\n]*: send .fork.1 and .fork.2 to the publisher; remove them')
        for name in ('.fork.1', '.fork.2'):
            os.unlink(self.path('destination', name))
        self.assertIsNone(self.known()['fork'])


class HistoryTest(NoteCase):
    def setUp(self):
        super().setUp()
        self.systemd = self.config(self.origin.url, version='1.*',
                                   more='Restart=app.service\nConfirm=0\n')

    def fetch(self, *options):
        return self.run_here('fetch', *options, self.app, environ=self.environ_with_systemctl())

    def test_a_switch_has_the_images_and_the_key_that_signed(self):
        self.two = self.origin.publish('1.1', TWO)
        self.config(self.origin.url, version='1.*',
                    public_keys=[origin.OTHER_PUBLIC_KEY, origin.PUBLIC_KEY])
        before = int(time.time())
        self.assertEqual(0, self.run_here('fetch', self.app).code)
        events = self.history()
        self.assertGreaterEqual(events[1].pop('time'), before)
        self.assertEqual(
            {'event': 'switch', 'version': '1.1', 'digest': self.two.digest,
             'previous': self.one.digest, 'key': origin.PUBLIC_KEY, 'config': self.app}, events[1])
        self.assertNotIn('previous', events[0])

    def test_a_unit_that_fails_gives_a_switch_a_rollback_a_rejection_and_a_failure(self):
        two = self.origin.publish('1.1', TWO)
        fake_systemd.install(self.directory, self.destination, fake_systemd.FAILS, [two.digest])
        self.assertCode(1, self.fetch())
        events = self.history()
        self.assertEqual([('switch', '1.0'), ('switch', '1.1'), ('rollback', '1.0'),
                          ('rejection', '1.1'), ('failure', 1)], self.kinds())
        self.assertEqual((self.one.digest, two.digest, two.digest),
                         (events[2]['digest'], events[2]['previous'], events[3]['digest']))
        self.assertIn('rolled back to 1.0', events[4]['message'])
        self.assertEqual(['1.1 was rejected', 'the last fetch failed (exit code 1)'],
                         sorted(self.known()['problems']))

    def test_a_rollback_that_is_cut_short_is_recorded_once(self):
        two = self.origin.publish('1.1', TWO)
        fake_systemd.install(self.directory, self.destination, fake_systemd.FAILS, [two.digest])

        class Killed(BaseException):
            pass
        for name in ('write_prepared', 'point_back'):
            with unittest.mock.patch.object(tako.StateFile, name, side_effect=Killed), \
                    self.assertRaises(Killed):
                self.fetch()
        self.fetch()
        self.assertEqual([('switch', '1.0'), ('switch', '1.1'), ('rollback', '1.0'),
                          ('rejection', '1.1')],
                         [each for each in self.kinds() if each[0] != 'failure'])

    def test_a_switch_that_was_cut_short_is_recorded_once(self):
        self.origin.publish('1.1', TWO)
        fake_systemd.install(self.directory, self.destination)

        class Killed(BaseException):
            pass
        with unittest.mock.patch.object(tako.Destination, 'point_latest', side_effect=Killed), \
                self.assertRaises(Killed):
            self.fetch()
        self.assertInPlace(ONE)
        self.assertEqual(0, self.fetch().code)
        self.assertInPlace(TWO)
        self.assertEqual([('switch', '1.0'), ('switch', '1.1')], self.kinds())

    def test_a_rollback_by_hand(self):
        self.origin.publish('1.1', TWO)
        self.config(self.origin.url, version='1.*')
        self.fetch()
        self.assertCode(0, self.run_here('rollback', self.app))
        self.assertEqual([('switch', '1.0'), ('switch', '1.1'), ('rejection', '1.1'),
                          ('rollback', '1.0')], self.kinds())

    def test_a_failure_on_both_images_is_no_rejection(self):
        two = self.origin.publish('1.1', TWO)
        fake_systemd.install(self.directory, self.destination, fake_systemd.FAILS,
                             [self.one.digest, two.digest])
        self.assertCode(1, self.fetch())
        self.assertNotIn('rejection', [kind for kind, _ in self.kinds()])

    def test_a_run_that_changes_nothing_adds_no_event(self):
        before = scene.read(self.history_path)
        self.config(self.origin.url, version='1.*')
        self.assertQuiet(self.fetch())
        self.assertEqual(before, scene.read(self.history_path))

    def test_only_the_last_events_are_kept(self):
        destination = tako.Destination(self.destination)
        for number in range(tako.EVENTS_MAX + 5):
            destination.record({'event': 'failure', 'exit_code': 75, 'message': str(number)})
        events = self.history()
        self.assertEqual(tako.EVENTS_MAX, len(events))
        self.assertEqual(('5', str(tako.EVENTS_MAX + 4)),
                         (events[0]['message'], events[-1]['message']))

    def test_the_history_of_long_messages_is_bounded(self):
        destination = tako.Destination(self.destination)
        with unittest.mock.patch.object(tako, 'EVENTS_MAX_BYTES', 4000):
            for number in range(9):
                destination.record({'event': 'failure', 'exit_code': 75,
                                    'message': str(number) * 1000})
            self.assertEqual(['6', '7', '8'],
                             [event['message'][0] for event in destination.events(tako.HISTORY)])
        self.assertLessEqual(os.path.getsize(self.history_path), 4000)

    def test_history_of_several_configs_names_each(self):
        os.mkdir(self.path('other'))
        other = self.config(self.origin.url, 'other.tako', destination=self.path('other'))
        self.assertEqual(0, self.run_here('fetch', other).code)
        lines = self.run_here('status', '--history', self.app, other).out.splitlines()
        self.assertEqual([self.app, other], [json.loads(line)['config'] for line in lines])


class DamageTest(NoteCase):
    """Whatever is at the path of a note, a fetch does its work, and leaves others' files alone."""

    def update(self):
        """Install a new version, then fail, then succeed."""
        two = self.origin.publish('1.1', TWO)
        result = self.run_here('fetch', self.app)
        self.assertEqual((0, ''), (result.code, result.err))
        self.break_origin()
        self.fail()
        self.origin.faults.clear()
        self.assertQuiet(self.run_here('fetch', self.app))
        self.assertInPlace(TWO)
        self.assertEqual(two.digest, self.known()['digest'])

    def put(self, path, make):
        if os.path.lexists(path):
            os.unlink(path)
        make(path)

    def both(self, make):
        for path in (self.history_path, self.problems_path):
            self.put(path, make)

    def test_a_directory(self):
        self.both(os.mkdir)
        self.update()

    def test_a_directory_that_is_not_empty(self):
        self.both(lambda path: os.makedirs(os.path.join(path, 'x')))
        self.update()

    def test_a_pipe(self):
        self.both(os.mkfifo)
        self.update()
        self.assertEqual(1, len([each for each in self.kinds() if each[0] == 'switch']))

    def test_a_link_is_not_followed(self):
        other = self.write('other', b'precious')
        self.both(lambda path: os.symlink(other, path))
        self.update()
        self.assertEqual(b'precious', scene.read(other))
        self.assertIn(('switch', '1.1'), self.kinds())

    def test_a_file_that_has_another_name_is_not_changed(self):
        other = self.write('other', b'precious')
        self.both(lambda path: os.link(other, path))
        self.update()
        self.assertEqual(b'precious', scene.read(other))
        self.assertEqual(75, self.known()['last_failure_exit_code'])

    def test_damaged_lines(self):
        good = scene.read(self.history_path)
        bad = [b'', b'{', b'nonsense', b'[1, 2]', b'[[1, 2]]', b'[[[], 2]]', b'null', b'"x"', b'1',
               b'[' * 100000, b'\xff\xfe', b'{"event": "failure"}', b'{"time": 5}',
               b'{"event": 5, "time": 5}', b'{"event": "failure", "time": "5"}',
               b'{"event": "failure", "time": -5}', b'{"event": "failure", "time": 1e999}',
               b'{"event": "failure", "time": true}',
               b'{"event": "failure", "time": 99999999999999999999}',
               b'{"event": "failure", "time": 5, "message": "\x1b[31m"}',
               b'{"event": "failure", "time": 5, "message": "\\u001b"}',
               b'{"event": "failure", "time": 5} more', b'{"event": "failure", "time": 5',
               b'{"event": "failure", "time": 5, "url": ["x"]}']
        odd = {'event': 'failure', 'time': 5, 'exit_code': '7', 'message': 5, 'failures': 'y',
               'url': 'x', 'more': 'y'}
        content = b'\n'.join(bad) + b'\n' + json.dumps(odd).encode() + b'\n' + good[:-1]
        self.both(lambda path: origin.write(path, content))
        self.assertEqual([{'event': 'failure', 'time': 5, 'url': 'x', 'more': 'y',
                           'config': self.app}], self.history()[:1])
        self.assertEqual(2, len(self.history()))
        self.assertEqual('', self.known()['last_failure_message'])
        self.run_here('status', self.app)
        self.update()
        self.assertIn(('switch', '1.1'), self.kinds())

    def test_a_huge_file(self):
        def make(path):
            origin.write(path, b'')
            os.truncate(path, 1 << 32)
        self.both(make)
        self.update()
        self.assertLess(os.path.getsize(self.history_path), tako.EVENTS_MAX_BYTES)

    def test_an_event_in_the_far_future_can_be_shown(self):
        line = json.dumps({'event': 'failure', 'time': 9999999999, 'failures': 9999999999,
                           'exit_code': 75, 'message': 'x'}).encode() + b'\n'
        self.both(lambda path: origin.write(path, line))
        self.assertIn('2286-11-20', self.run_here('status', self.app).out)
        self.update()

    def test_a_full_disk(self):
        full = unittest.mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self.origin.publish('1.1', TWO)
        write = tako.ImageDirectory._write

        def write_no_history(directory, temporary, *rest):
            full() if temporary == tako.NEW_HISTORY else write(directory, temporary, *rest)
        with unittest.mock.patch.object(tako, 'write_in_place', full), \
                unittest.mock.patch.object(tako.ImageDirectory, '_write', write_no_history):
            result = self.run_here('fetch', self.app)
            self.assertEqual((0, ''), (result.code, result.err))
            self.break_origin()
            self.fail()
        self.assertInPlace(TWO)
        self.assertEqual([('switch', '1.0')], self.kinds())

    def test_a_destination_that_cannot_be_written(self):
        self.break_origin()
        if os.getuid() != 0:
            os.chmod(self.destination, 0o555)
            self.addCleanup(os.chmod, self.destination, 0o755)
        before = scene.snapshot(self.destination, with_notes=True)
        self.assertCode(1, self.run_tako('fetch', self.app, as_nobody=True))
        self.assertEqual(before, scene.snapshot(self.destination, with_notes=True))

    def test_a_longer_text_leaves_nothing_behind(self):
        with unittest.mock.patch.object(tako.ImageFetch, '_accept_manifest',
                                        side_effect=tako.TakoError('x' * 1000, 'x')):
            self.fail(1)
        self.break_origin()
        self.fail()
        self.assertEqual(1, scene.read(self.problems_path).count(b'\n'))

    def test_an_older_tako_reads_the_state_beside_the_notes(self):
        """The notes are files of their own: .state has no line of them."""
        self.update()
        known = {line.partition(b'=')[0] for line in
                 scene.read(self.path('destination', '.state')).splitlines()}
        self.assertLessEqual(known, {field.encode() for field in tako.State._fields})


class FormatTest(unittest.TestCase):
    def test_events_are_read_from_their_text_again_and_are_json(self):
        chance = random.Random(14)
        characters = [chr(code) for code in range(0x20, 0x7f)] + ['"', '\\'] * 20
        for _ in range(500):
            event = {key: chance.randrange(10 ** chance.randrange(1, 11))
                     if key in tako.EVENT_NUMBERS else
                     ''.join(chance.choice(characters) for _ in range(chance.randrange(9)))
                     for key in ('time', 'event', 'message', 'exit_code', 'more')}
            raw = tako.format_events([event])
            self.assertEqual(event, json.loads(raw.decode()))
            self.assertEqual([event], tako.parse_events(raw.decode()))

    def test_a_text_is_escaped_to_printable_ascii(self):
        for text, expected in (('a b', 'a b'), ('b\xfcro', 'b\\xfcro'), ('\n\x7f', '\\n\\x7f'),
                               ('\u2028\U0001f419\udc80', '\\u2028\\U0001f419\\udc80')):
            self.assertEqual(expected, tako.to_ascii(text))
            self.assertEqual(expected, tako.to_ascii(expected))


METRIC = re.compile(r'(tako_[a-z_]+)[{]config="((?:[^"\\]|\\.)*)"(?:,version="([^"]*)"'
                    r',digest="([^"]*)")?[}] ([0-9]+)')


class MetricsTest(NoteCase):
    def metrics(self, *configs, code=0):
        """Return {(name, config): value} of what --metrics prints."""
        result = self.run_here('status', '--metrics', *configs)
        self.assertEqual(code, result.code, result)
        lines = result.out.splitlines()
        self.assertEqual('# EOF', lines[-1])
        samples = [METRIC.fullmatch(line) for line in lines if not line.startswith('#')]
        self.assertNotIn(None, samples)
        return {each.group(1, 2): int(each.group(5)) for each in samples}

    def test_metrics_of_a_config(self):
        now = time.time()
        self.break_origin()
        self.fail()
        self.fail()
        found = self.metrics(self.app)
        self.assertEqual({self.app}, {config for _, config in found})
        values = {name: value for (name, _), value in found.items()}
        for name in ('last_success', 'last_check', 'last_failure'):
            self.assertAlmostEqual(now, values.pop('tako_' + name + '_timestamp_seconds'), delta=60)
        self.assertEqual(
            {'tako_installed_info': 1, 'tako_exit_code': 75, 'tako_failures_in_a_row': 2,
             'tako_fork_timestamp_seconds': 0, 'tako_stamp_timestamp_seconds': 0,
             'tako_failing_mirrors': 0, 'tako_rejected_versions': 0,
             'tako_withdrawn_versions': 0, 'tako_restart_due': 0,
             'tako_image_bytes': len(ONE), 'tako_received_bytes': len(ONE),
             'tako_store_bytes': len(ONE)}, values)
        self.assertIn('tako_installed_info{{config="{}",version="1.0",digest="{}"}} 1\n'.format(
            self.app, self.one.digest), self.run_here('status', '--metrics', self.app).out)

    def test_metrics_of_what_was_rejected_and_of_a_restart(self):
        self.origin.publish('1.1', TWO)
        self.assertEqual(0, self.run_here('fetch', self.app).code)
        scene.write_state(self.destination, tako.parse_state('')._replace(
            rejected=(self.one.digest,), withdrawn=(self.one.digest,),
            restart_due=origin.digest_of(TWO)))
        found = self.metrics(self.app)
        self.assertEqual((1, 1, 1, 0), tuple(found['tako_' + name, self.app] for name in (
            'rejected_versions', 'withdrawn_versions', 'restart_due',
            'last_success_timestamp_seconds')))

    def test_a_config_that_is_invalid_has_an_exit_code_alone(self):
        bad = self.write('bad.tako', 'x\n')
        found = self.metrics(self.app, bad, code=2)
        self.assertEqual({'tako_exit_code': 2},
                         {name: value for (name, config), value in found.items() if config == bad})
        self.assertEqual(0, found['tako_exit_code', self.app])

    def test_labels_are_escaped(self):
        for name, label in (('a"b.tako', 'a\\"b.tako'), ('a\\b.tako', 'a\\\\b.tako'),
                            ('a\nb.tako', 'a\\\\nb.tako'), ('b\xfcro.tako', 'b\\\\xfcro.tako'),
                            ("it's.tako", "it's.tako")):
            config = self.config(self.origin.url, name, version='1.*')
            with self.subTest(name):
                self.assertEqual({os.path.join(self.directory, label)},
                                 {config for _, config in self.metrics(config)})

    def test_each_format_excludes_the_others(self):
        for options in (('--json', '--metrics'), ('--metrics', '--history'),
                        ('--history', '--json')):
            self.assertCode(2, self.run_here('status', *options, self.app))

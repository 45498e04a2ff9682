"""Section 15: what is printed, to which stream, and at which level."""
import io
import os
import pty
import signal
import subprocess
import sys
import unittest

import origin
import scene
import tako


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


class LevelTest(unittest.TestCase):
    def said(self, level, stream=io.StringIO):
        out, err = stream(), stream()
        report = tako.Report(out, err)
        report.level = level
        report.result('result')
        report.unchanged('unchanged')
        report.step('step')
        report.warning('where', 'trouble', 'hint')
        self.assertEqual(3, report.error('where', tako.RefusedError('error', 'hint')))
        return out.getvalue().split(), [line.split()[-1] for line in err.getvalue().splitlines()]

    def test_without_a_terminal_only_changes_and_trouble_are_printed(self):
        self.assertEqual((['result'], ['trouble', 'hint', 'error', 'hint']), self.said(0))

    def test_quiet_prints_only_errors(self):
        for stream in (io.StringIO, Terminal):
            self.assertEqual(([], ['error', 'hint']), self.said(-1, stream))

    def test_verbose_and_terminals_print_each_step(self):
        everything = ['result', 'unchanged'], ['step', 'trouble', 'hint', 'error', 'hint']
        self.assertEqual(everything, self.said(1))
        self.assertEqual(everything, self.said(0, Terminal))


class OnceTest(unittest.TestCase):
    def test_an_error_of_two_steps_is_printed_once(self):
        err = io.StringIO()
        report = tako.Report(None, err)
        for where, what in (('a', 'one'), ('a', 'one'), ('a', 'two'), ('b', 'one'), ('a', 'one')):
            self.assertEqual(3, report.error(where, tako.RefusedError(what, 'hint')))
        self.assertEqual(
            'tako: a: one\n  hint\ntako: a: two\n  hint\ntako: b: one\n  hint\n', err.getvalue()
        )


class PrintTest(unittest.TestCase):
    def said(self, where, what, encoding='ascii'):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding)
        tako.Report(None, stream).warning(where, what, 'hint')
        stream.detach()
        return raw.getvalue().decode(encoding)

    def test_control_characters_are_escaped(self):
        self.assertEqual('tako: warning: a\\x1b[2Jb: c\\nd\\u202e\\x85\n  hint\n',
                         self.said('a\x1b[2Jb', 'c\nd\u202e\x85', 'utf-8'))

    def test_characters_beyond_the_locale_are_escaped(self):
        self.assertEqual('tako: warning: \\xe4\\udcff: b\n  hint\n', self.said('\xe4\udcff', 'b'))

    def test_a_long_message_is_cut(self):
        self.assertLess(len(self.said('where', 'x' * 100000)), 2 * tako.MESSAGE_MAX_CHARS)

    def test_a_closed_standard_output_counts_as_no_lost_output(self):
        report = tako.Report(None, None)
        report.result('line')
        report.progress('it', 1, 2)
        self.assertFalse(report.has_lost_output)


class SecretTest(unittest.TestCase):
    def test_a_hidden_secret_is_left_out_of_all_lines_on_standard_error(self):
        err = io.StringIO()
        report = tako.Report(None, err)
        report.level = tako.VERBOSE
        report.hide('Se.cret+')
        report.step('a Se.cret+ step')
        report.warning('here', 'a se.cret+ warning', 'hint')
        report.error('here', tako.TakoError('an error of Se.cret+Se.cret+ and Sencret+'))
        self.assertEqual('tako: a ... step\ntako: warning: here: a ... warning\n  hint\n'
                         'tako: here: an error of ...... and Sencret+\n', err.getvalue())

    def test_a_secret_that_may_be_part_of_a_word_is_not_hidden(self):
        report = tako.Report(None, None)
        for secret in ('', 'o', '1234567'):
            report.hide(secret)
        self.assertEqual('to 1234567', report.message('to 1234567'))
        report.hide('12345678')
        self.assertEqual('to ...9', report.message('to 123456789'))


class AmountTest(unittest.TestCase):
    def test_one_thing_is_named_in_the_singular(self):
        for arguments, text in (((1, 'byte'), '1 byte'), ((0, 'byte'), '0 bytes'),
                                ((2, 'byte'), '2 bytes'), ((11, 'byte'), '11 bytes'),
                                ((1, 'entry', 'entries'), '1 entry'),
                                ((2, 'entry', 'entries'), '2 entries')):
            self.assertEqual(text, tako.amount(*arguments))


class FullStreamTest(scene.Scene):
    """A stream that cannot be written does not stop the work."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path('served'))
        publisher = origin.Publisher(self.path('served'))
        publisher.publish('1.0', b'image')
        self.app = self.config('file://' + self.path('served'))
        self.bad = self.write('bad.tako', 'Nonsense\n')

    def run_into(self, out, err, *arguments):
        with open(out, 'wb') as out_stream, open(err, 'wb') as err_stream:
            return subprocess.call([sys.executable, '-I', '-W', 'error', scene.TAKO]
                                   + list(arguments),
                                   stdout=out_stream, stderr=err_stream)

    def test_a_full_standard_error_changes_neither_exit_code_nor_work(self):
        self.assertEqual(2, self.run_into(os.devnull, '/dev/full', 'fetch', self.bad, self.app))
        self.assertInPlace(b'image')
        self.assertEqual(2, self.run_into(os.devnull, '/dev/full', 'fetch'))

    def test_a_full_standard_output_is_exit_1_after_all_is_done(self):
        self.assertEqual(1, self.run_into('/dev/full', self.path('err'), 'fetch', self.app))
        self.assertInPlace(b'image')
        self.assertIn(b'cannot write to standard output: No space left',
                      scene.read(self.path('err')))

    def test_a_damaged_image_is_repaired_even_if_nothing_can_be_printed(self):
        self.assertCode(0, self.run_tako('fetch', self.app))
        image = os.path.realpath(self.path('destination', 'latest'))
        os.unlink(image)
        self.write(image, b'damage')
        self.assertEqual(1, self.run_into('/dev/full', '/dev/full', 'fetch', self.app))
        self.assertInPlace(b'image')


class JournalTest(scene.Scene):
    def logged(self, *arguments):
        """Return the beginnings of the lines that the journal gets."""
        with open(self.path('log'), 'wb') as log:
            status = os.fstat(log.fileno())
            environ = dict(os.environ, JOURNAL_STREAM='{}:{}'.format(status.st_dev, status.st_ino))
            subprocess.call([sys.executable, '-I', scene.TAKO] + list(arguments), stdout=log,
                            stderr=log, env=environ)
        return [line[:5] for line in scene.read(self.path('log')).decode().splitlines()]

    def test_lines_for_the_journal_have_priorities(self):
        """Errors have 3, warnings 4, changes 6, and steps 7."""
        self.assertEqual(['<3>ta', '<3>  '], self.logged('fetch', 'nowhere'))
        server, dead = self.serve(), self.serve('dead')
        server.publish('1.0', b'image')
        app = self.config(server.url, mirrors=[dead.url])
        changed = '<6>' + app[:2]
        self.assertEqual(['<7>ta', '<7>ta', '<4>ta', '<4>  ', '<7>ta', changed],
                         self.logged('fetch', '-v', app))

    def test_lines_for_another_stream_have_no_priorities(self):
        result = self.run_tako('fetch', '/nowhere', environ={'JOURNAL_STREAM': '1:1'})
        self.assertTrue(result.err.startswith('tako: '), result)


class ProgressTest(scene.Scene):
    def open_terminal(self):
        """Return both ends of a terminal."""
        try:
            return pty.openpty()
        except OSError as error:
            self.skipTest('needs a terminal, and this machine has no /dev/pts: {}'.format(error))

    def run_on_terminal(self, *arguments, stop_at=None):
        """Run tako.py with a terminal as stderr. Return its exit code, stdout, and the terminal.

        stop_at: send SIGINT once the terminal shows these bytes.
        """
        code = ('import sys; sys.path.insert(0, sys.argv[1]); import tako; '
                'tako.PROGRESS_EVERY_SECONDS = 1e-9; tako.BLOCK_BYTES = 1 << 16; '
                'tako.PAUSE_FIRST_SECONDS = 0.01; tako.PAUSE_BUDGET_SECONDS = 0.015; '
                'tako.stop_on_signals(); sys.exit(tako.main(sys.argv[2:]))')
        ours, theirs = self.open_terminal()
        process = subprocess.Popen([sys.executable, '-I', '-c', code, scene.PROJECT] +
                                   list(arguments), stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        seen = b''
        try:
            for block in iter(lambda: os.read(ours, 65536), b''):
                seen += block
                if stop_at is not None and stop_at in seen:
                    stop_at = process.send_signal(signal.SIGINT)
        except OSError:             # on Linux, if the other end is closed
            pass
        os.close(ours)
        out = process.communicate()[0]
        self.assertNotIn(b'Traceback', seen)
        return process.returncode, out, seen

    def assertProgress(self, label, seen, total=b'3.0'):
        """The terminal showed progress with this label, and no trace of it is left."""
        self.assertRegex(seen, b'\r' + label + b': [0-9.]+ of ' + total
                         + b' MB, [0-9.]+ MB/s, -?[0-9]+ s left \x1b\\[K')
        last = seen.rfind(b' MB/s')
        self.assertIn(b'\r\x1b[K', seen[last:], seen[-200:])

    def setUp(self):
        super().setUp()
        self.origin = self.serve()
        self.entry = self.origin.publish('1.0', scene.noise(3000000))
        self.app = self.config(self.origin.url)

    def test_a_terminal_shows_the_progress_of_a_download_by_its_version(self):
        self.origin.faults['/store/' + self.entry.digest] = origin.chunked()
        code, out, seen = self.run_on_terminal('fetch', self.app)
        self.assertEqual((0, self.app.encode() + b': 1.0 is installed\n'), (code, out))
        self.assertProgress(b'[^\r]*app.tako: 1.0', seen)
        self.assertIn('downloading 1.0, 3.0 MB, from {}\r\n'.format(self.origin.url).encode(), seen)

    def test_the_progress_line_escapes_control_characters_of_a_path(self):
        path = self.path('a\x1b[31mb\n.tako')
        os.rename(self.app, path)
        code, _, seen = self.run_on_terminal('fetch', path)
        self.assertEqual(0, code, seen)
        self.assertProgress(rb'[^\r]*a\\x1b\[31mb\\n.tako: 1.0', seen)
        self.assertNotIn(b'\x1b[31m', seen)

    def test_a_terminal_shows_the_progress_of_a_check(self):
        self.assertCode(0, self.run_tako('fetch', self.app))
        code, out, seen = self.run_on_terminal('fetch', self.app)
        self.assertEqual((0, b''), (code, out))
        self.assertProgress(b'[^\r]*app.tako: checking 1.0', seen)

    def write_image_and_key(self):
        """Return the paths of an image, a secret key, and a directory to publish in."""
        os.mkdir(self.path('public'))
        return (self.write('image', scene.noise(3000000)),
                self.write('key', tako.format_secret_key(origin.SEED), 0o600), self.path('public'))

    def test_a_terminal_shows_the_progress_of_store_and_verify(self):
        image, key, public = self.write_image_and_key()
        code, _, seen = self.run_on_terminal('store', '-f', key, '-o', public, image, '1.0')
        self.assertEqual(0, code, seen)
        self.assertProgress(b'[^\r]*public: reading 1.0', seen)
        self.assertProgress(b'[^\r]*public: making the chunk index', seen)
        code, _, seen = self.run_on_terminal('verify', '-p', origin.PUBLIC_KEY, public)
        self.assertEqual(0, code, seen)
        self.assertProgress(b'[^\r]*public: checking 1.0', seen)

    def test_a_pipe_has_progress_without_an_end(self):
        image, key, public = self.write_image_and_key()
        os.mkfifo(self.path('pipe'))
        writer = subprocess.Popen(['cp', image, self.path('pipe')])
        self.addCleanup(writer.wait)
        self.addCleanup(writer.kill)    # it waits for a reader, which a skipped test never starts
        code, _, seen = self.run_on_terminal(
            'store', '-f', key, '-o', public, self.path('pipe'), '1.0')
        self.assertEqual(0, code, seen)
        self.assertRegex(seen, rb'\r[^\r]*public: reading 1.0: [0-9.]+ MB, [0-9.]+ MB/s \x1b\[K')

    def test_a_resumed_download_says_from_where(self):
        self.origin.has_ranges = True
        self.write('destination/.partial-' + self.entry.digest, scene.noise(3000000)[:1000000],
                   0o600)
        code, _, seen = self.run_on_terminal('fetch', self.app)
        self.assertEqual(0, code)
        self.assertIn('resuming the download of 1.0 at 1.0 MB of 3.0 MB from {}'.format(
            self.origin.url).encode(), seen)

    def test_a_wait_for_a_server_says_why_and_for_how_long(self):
        self.origin.faults['/manifest'] = origin.status(503)
        code, _, seen = self.run_on_terminal('fetch', self.app)
        self.assertEqual(75, code)
        self.assertRegex(seen, 'trying again in 0.0 seconds: {}/manifest: [^\r]*503'.format(
            self.origin.url).encode())

    def test_a_stopped_download_says_that_the_next_fetch_resumes_it(self):
        self.origin.has_ranges = True
        self.origin.faults['/store/' + self.entry.digest] = origin.holds(2000000)
        code, out, seen = self.run_on_terminal('fetch', self.app, stop_at=b': 1.0: 1.')
        self.assertEqual((130, b''), (code, out), seen)
        self.assertRegex(seen, b'stopped: (9[0-9]{2} kB|[12].[0-9] MB) came and are kept; '
                               b'the next fetch resumes')
        partial = self.path('destination', '.partial-' + self.entry.digest)
        self.assertGreaterEqual(os.path.getsize(partial), 950000)

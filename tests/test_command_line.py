"""Section 20: command lines, exit codes, standard streams and signals."""
import contextlib
import errno
import io
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock

import origin
import scene
import tako

COMMANDS = ('fetch', 'status', 'store', 'sign', 'verify', 'gen-key', 'public-key')


class HelpTest(scene.Scene):
    def test_the_program_and_each_command_have_help(self):
        for arguments in ((),) + tuple((command,) for command in COMMANDS):
            with self.subTest(arguments):
                result = self.run_tako(*arguments + ('--help',))
                self.assertEqual((0, ''), (result.code, result.err))
                self.assertTrue(result.out.startswith('usage: tako'))
        for word in COMMANDS + ('Origin=', 'PublicKey=', 'Exit codes'):
            self.assertIn(word, self.run_tako('--help').out)

    def test_version_prints_the_version(self):
        self.assertEqual('tako {}\n'.format(tako.__version__), self.run_tako('--version').out)

    def test_tako_py_runs_alone_in_a_directory(self):
        shutil.copy(scene.TAKO, self.directory)
        out = subprocess.check_output([sys.executable, '-I', 'tako.py', '--help'],
                                      cwd=self.directory, env={})
        self.assertIn(b'Tako: take container image.', out)
        self.assertEqual(['destination', 'tako.py'], sorted(os.listdir(self.directory)))

    def test_tako_py_runs_without_docstrings(self):
        for arguments in (['--help'], ['gen-key']):
            subprocess.check_output([sys.executable, '-I', '-OO', scene.TAKO] + arguments)


class UsageTest(scene.Scene):
    def test_wrong_command_lines_are_usage_errors(self):
        for arguments in ((), ('fech',), ('fetch',), ('fetch', '--bogus', 'x'), ('store',),
                          ('store', 'image', '1.0'),
                          ('store', '-o', 'd', 'image'), ('gen-key', 'x'), ('app.tako', 'fetch'),
                          ('--init', 'fetch')):
            with self.subTest(arguments):
                result = self.run_tako(*arguments)
                self.assertCode(2, result)
                self.assertEqual('', result.out)
                self.assertIn('--help', result.err)

    def test_options_are_not_abbreviated(self):
        self.assertCode(2, self.run_tako('fetch', '--ini', 'app.tako'))

    def test_a_secret_key_in_the_wrong_place_is_not_repeated(self):
        secret = tako.format_secret_key(origin.SEED)
        for arguments in (('store', '-o', 'd', 'image', '1.0', secret), ('gen-key', secret),
                          ('store', '-k', origin.PUBLIC_KEY, '-o', self.directory, scene.TAKO,
                           secret),
                          ('fetch', self.write('app.tako', 'PublicKey={}\n'.format(secret)))):
            with self.subTest(arguments[0]):
                result = self.run_tako(*arguments)
                self.assertCode(2, result)
                self.assertNotIn(secret[10:40], result.err)


class OptionTest(scene.Scene):
    """Options may be long or short, with = or without, and stand anywhere, as in the original."""

    def parsed(self, line, *names):
        """Return these settings after a command line."""
        arguments = tako.parse_command_line(line.split())
        return tuple(getattr(arguments, name) for name in names)

    def test_short_and_long_options_take_a_value_in_each_way(self):
        for command, short, long_form, name in (
            ('store -o . i 1', '-k', '--key', 'key'),
            ('store -o . i 1', '-f', '--key-file', 'key_file'),
            ('store i 1', '-o', '--output', 'output'),
            ('sign -p P d', '-k', '--key', 'key'),
            ('sign -p P d', '-f', '--key-file', 'key_file'),
            ('sign d', '-p', '--public-key', 'public_key'),
            ('verify d', '-p', '--public-key', 'public_key'),
        ):
            for form in (
                short + ' {}',
                short + '{}',
                short + '={}',
                long_form + ' {}',
                long_form + '={}',
            ):
                for value in ('value', 'l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k=', '-'):
                    line = '{} {}'.format(command, form.format(value))
                    with self.subTest(line):
                        self.assertEqual((value,), self.parsed(line, name))

    def test_each_short_option_has_a_long_form(self):
        for command in tako.COMMANDS:
            with self.subTest(command):
                for option in re.findall(
                    r'^  (-\w.*?)(?:   |$)', self.run_here(command, '--help').out, re.M
                ):
                    self.assertIn(', --', option)

    def test_options_may_stand_anywhere(self):
        for line in (
            'fetch --init a.tako b.tako',
            'fetch a.tako --init b.tako',
            'fetch a.tako b.tako --init',
            'fetch a.tako --init -- b.tako',
        ):
            with self.subTest(line):
                self.assertEqual((True, ['a.tako', 'b.tako']), self.parsed(line, 'init', 'configs'))
        names = 'key', 'key_file', 'output', 'image', 'version'
        for line in (
            'store -kKEY app.img --output DIR 1.0',
            'store app.img 1.0 --key=KEY -o DIR',
            'store --output DIR --key KEY app.img 1.0',
            'store app.img -o DIR 1.0 -k KEY',
        ):
            with self.subTest(line):
                self.assertEqual(('KEY', None, 'DIR', 'app.img', '1.0'), self.parsed(line, *names))

    def test_arguments_after_two_dashes_are_no_options(self):
        self.assertEqual(
            (False, ['--init', 'b', '--']), self.parsed('fetch -- --init b --', 'init', 'configs')
        )
        self.assertEqual(
            (True, ['a', '--bar']), self.parsed('fetch a --init -- --bar', 'init', 'configs')
        )
        self.assertEqual(
            ('DIR', '-a', '-1'), self.parsed('store -o DIR -- -a -1', 'output', 'image', 'version')
        )

    def test_short_options_may_share_a_word(self):
        self.assertEqual((-1, ['a']), self.parsed('fetch -vq a', 'level', 'configs'))

    def test_an_option_without_its_value_is_a_usage_error(self):
        for line in (
            'store -o',
            'store --output -k KEY a 1',
            'store a 1 -o --',
            'fetch --timeout -5 a',
        ):
            with self.subTest(line):
                result = self.run_tako(*line.split())
                self.assertCode(2, result)
                self.assertIn(
                    ' needs a value\n  see: tako {} --help'.format(line.split()[0]), result.err
                )

    def test_an_invalid_value_is_quoted_with_valid_examples(self):
        for line, name, invalid, examples in (
            ('fetch a --splay {}', 'splay', 'duration: {!r}', '90, 90s, 10m, 36h, 7d'),
            ('fetch a --timeout={}', 'timeout', 'duration: {!r}', '90, 90s, 10m, 36h, 7d'),
            ('fetch a --stall={}', 'stall', 'duration: {!r}', '90, 90s, 10m, 36h, 7d'),
            ('status a --max-age {}', 'max_age', 'duration: {!r}', '90, 90s, 10m, 36h, 7d'),
        ):
            result = self.run_here(*line.format('x').split())
            self.assertCode(2, result)
            self.assertIn(
                ': invalid {} (examples: {})\n'.format(invalid.format('x'), examples), result.err
            )
            for example in examples.split(', '):
                self.assertGreater(self.parsed(line.format(example), name)[0], 0)
        result = self.run_here('store', '-o', 'd', '--patch-memory', '31', 'i', '1')
        self.assertIn(": invalid number of MiB: '31' (at least 32)\n", result.err)

    def test_each_option_takes_a_time_in_each_spelling(self):
        for text, seconds in (('90', 90), ('0.5', 0.5), ('90s', 90), ('15m', 900), ('36h', 129600),
                              ('7d', 604800), ('2w', 1209600), ('1.5h', 5400), ('007', 7)):
            for line, name in (('fetch a --splay={}', 'splay'), ('fetch a --stall={}', 'stall'),
                               ('fetch a --timeout={}', 'timeout'),
                               ('status a --max-age={}', 'max_age')):
                self.assertEqual((seconds,), self.parsed(line.format(text), name))

    def test_an_invalid_time_is_a_usage_error(self):
        for text in ('', 'd', '-1', '-1d', '+1', '7 d', '1y', '1ms', '1h30m', '7D', '.5', '1.',
                     '0x1', '\u0661', '9' * 10, '9999999w'):
            with self.subTest(text):
                for line in (['fetch', 'a', '--splay=' + text], ['fetch', 'a', '--stall=' + text],
                             ['fetch', 'a', '--timeout=' + text],
                             ['status', 'a', '--max-age=' + text]):
                    result = self.run_here(*line)
                    self.assertCode(2, result)
                    self.assertIn('invalid duration: {!a} ('.format(text), result.err)

    def test_an_unknown_option_names_the_one_it_resembles(self):
        for line, message in (
            (
                'fetch --int a',
                "unknown option '--int'\n  did you mean --init? see: tako fetch --help",
            ),
            (
                'fetch a --Init',
                "unknown option '--Init'\n  did you mean --init? see: tako fetch --help",
            ),
            (
                'store --keyfile=x -o d i 1',
                "unknown option '--keyfile'\n  did you mean --key-file? see: tako store --help",
            ),
            ('store -x i 1', "unknown option '-x'\n  see: tako store --help"),
            ('--verison', "unknown option '--verison'\n  did you mean --version? see: tako --help"),
            ('fech a', "unknown command 'fech'\n  did you mean fetch? see: tako --help"),
            ('genkey', "unknown command 'genkey'\n  did you mean gen-key? see: tako --help"),
            ('--help stroe', "unknown command 'stroe'\n  did you mean store? see: tako --help"),
            ('app.tako fetch', "unknown command 'app.tako'\n  see: tako --help"),
            ('-- fetch a', "unknown command '--'\n  see: tako --help"),
        ):
            with self.subTest(line):
                result = self.run_tako(*line.split())
                self.assertEqual(
                    (2, '', 'tako: {}\n'.format(message)), (result.code, result.out, result.err)
                )

    def test_help_of_a_command_is_printed_in_each_way(self):
        for command in tako.COMMANDS:
            with self.subTest(command):
                expected = self.run_here(command, '--help')
                self.assertEqual(0, expected.code)
                self.assertTrue(expected.out.startswith('usage: tako {} ['.format(command)))
                for line in (
                    '{} -h',
                    '--help {}',
                    '-h {}',
                    'help {}',
                    'help {} --init',
                    'help --help {}',
                ):
                    result = self.run_here(*line.format(command).split())
                    self.assertEqual(
                        (0, expected.out, ''), (result.code, result.out, result.err), line
                    )
        for line in ('help', '-h', '--help', 'help help'):
            self.assertEqual(self.run_here('--help').out, self.run_here(*line.split()).out)
        self.assertIn('usage: tako [-h]', self.run_here('help').out)

    def test_command_lines_of_the_original_do_the_same(self):
        os.mkdir(self.path('served'))
        image, secret = self.write('app.img', b'image'), tako.format_secret_key(origin.SEED)
        self.assertCode(
            0,
            self.run_tako(
                'store', '--key', secret, '--output', self.path('served'), image, '1.0.0'
            ),
        )
        self.assertCode(
            0,
            self.run_tako('store', '-k' + secret, image, '--output', self.path('served'), '1.1.0'),
        )
        config = self.config('file://' + self.path('served'))
        self.assertCode(0, self.run_tako('fetch', config, '--init', config))
        self.assertInPlace(b'image')


class ConfigFileTest(scene.Scene):
    def test_an_error_of_a_config_names_file_and_line(self):
        good = self.config('http://127.0.0.1:1')
        with open(good) as stream:
            lines = stream.read()
        for content, message in (('Orign=x\n' + lines,
                                  ":1: unknown key 'Orign'\n  did you mean Origin=?"),
                                 (lines + 'Version=2.*\n', ':5: Version= is already set in line 3'),
                                 (lines.replace('Version=*', 'Version=>=1'),
                                  ":3: Version= is invalid: '>=1' is not a version pattern"),
                                 (lines.replace('Version=*\n', ''), ': Version= is missing'),
                                 (b'\xff\xfe', ': not UTF-8 text'),
                                 ('# \n' * 400000, ': longer than'),
                                 ('Hello\n', ':1: not a setting')):
            with self.subTest(message):
                result = self.run_tako('fetch', self.write('bad.tako', content))
                self.assertCode(2, result)
                self.assertIn('tako: ' + self.path('bad.tako') + message, result.err)
        self.assertEqual([], scene.names(self.destination))

    def test_an_unreadable_config_is_exit_2(self):
        for command in ('fetch', 'rollback', 'status'):
            for path in (self.path('missing'), self.directory):
                result = self.run_tako(command, path)
                self.assertCode(2, result)
                self.assertIn('tako: ' + path + ': ', result.err)

    def test_each_command_names_the_wrong_config(self):
        path = self.write('bad.tako', 'Hello\n')
        for command in ('fetch', 'rollback', 'status'):
            result = self.run_tako(command, path)
            self.assertCode(2, result)
            self.assertTrue(result.err.startswith('tako: ' + path + ':1: not a setting'),
                            result.err)

    def test_a_config_may_have_crlf_and_a_byte_order_mark(self):
        os.mkdir(self.path('served'))
        publisher = origin.Publisher(self.path('served'))
        publisher.publish('1.0', b'image')
        with open(self.config('file://' + self.path('served')), 'rb') as stream:
            content = stream.read()
        self.write('app.tako', b'\xef\xbb\xbf' + content.replace(b'\n', b'\r\n'))
        self.assertCode(0, self.run_tako('fetch', self.path('app.tako')))
        self.assertInPlace(b'image')

    def test_a_destination_beyond_ascii_works_in_any_locale(self):
        os.mkdir(self.path('served'))
        publisher = origin.Publisher(self.path('served'))
        publisher.publish('1.0', b'image')
        name = self.path('b\u00fccher').encode()
        os.mkdir(name)
        config = self.write('app.tako', b'Origin=file://' + self.path('served').encode()
                            + b'\nVersion=*\nPublicKey='
                            + origin.PUBLIC_KEY.encode() + b'\nDestination=' + name + b'\n')
        result = self.run_tako('fetch', config, environ={'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0',
                                                         'PYTHONUTF8': '0'})
        self.assertEqual((0, ''), (result.code, result.err))
        self.assertEqual(b'image', scene.read(os.path.join(name, b'latest')))


class StreamTest(scene.Scene):
    def test_a_closed_pipe_at_standard_output_is_silent(self):
        process = self.start('--help')
        process.stdout.close()
        error = process.stderr.read()
        process.stderr.close()
        process.wait()
        self.assertEqual(b'', error)

    def test_a_full_standard_output_is_an_error(self):
        with open('/dev/full', 'wb') as full:
            done = subprocess.run([sys.executable, '-I', scene.TAKO, 'gen-key'], stdout=full,
                                  stderr=subprocess.PIPE)
        self.assertEqual(
            (
                1,
                b'tako: cannot write to standard output: No space left on device\n'
                b'  run gen-key again: this key pair is lost\n',
            ),
            (done.returncode, done.stderr),
        )

    def test_a_key_pair_that_cannot_be_printed_is_lost(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, '-I', scene.TAKO, 'gen-key'], stdout=write, stderr=subprocess.PIPE
        )
        os.close(write)
        self.assertEqual(
            (
                1,
                b'tako: cannot write to standard output: Broken pipe\n'
                b'  run gen-key again: this key pair is lost\n',
            ),
            (done.returncode, done.stderr),
        )

    def test_a_full_standard_output_loses_no_key_files(self):
        with open('/dev/full', 'wb') as full:
            done = subprocess.run(
                [sys.executable, '-I', scene.TAKO, 'gen-key', '-o', 'app'],
                cwd=self.directory,
                stdout=full,
                stderr=subprocess.PIPE,
            )
        self.assertEqual(
            (
                1,
                b'tako: cannot write to standard output: No space left on device\n'
                b'  check where it goes; the command itself did its work\n',
            ),
            (done.returncode, done.stderr),
        )
        tako.parse_secret_key(scene.read(self.path('app.key')).decode().rstrip('\n'))

    def test_a_standard_output_closed_from_the_start_is_an_error_of_gen_key(self):
        """The keys would be lost. fetch does its work even so."""
        def run(*arguments):
            return subprocess.run(['/bin/sh', '-c', 'exec "$@" >&-', 'sh', sys.executable, '-I',
                                   scene.TAKO] + list(arguments),
                                  stderr=subprocess.PIPE)
        done = run('gen-key')
        self.assertEqual(
            (1, b'tako: standard output is closed\n  open it, or give -o NAME to write files\n'),
                         (done.returncode, done.stderr))
        os.mkdir(self.path('served'))
        origin.Publisher(self.path('served')).publish('1.0', b'image')
        done = run('fetch', self.config('file://' + self.path('served')))
        self.assertEqual((0, b''), (done.returncode, done.stderr))
        self.assertInPlace(b'image')


class MainTest(unittest.TestCase):
    def test_main_returns_the_exit_code(self):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.assertEqual(0, tako.main(['--version']))
            self.assertEqual(0, tako.main(['gen-key']))
            self.assertEqual(2, tako.main([]))
            self.assertEqual(2, tako.main(['fetch', '/nowhere']))
        self.assertIn('SECRET+', out.getvalue())
        self.assertIn('tako: ', err.getvalue())

    def test_a_defect_is_reported_in_one_line(self):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            with unittest.mock.patch.object(tako, 'ed25519_public_key',
                                            side_effect=ZeroDivisionError('oops')):
                self.assertEqual(1, tako.main(['gen-key']))
        self.assertIn("internal error: ZeroDivisionError('oops'", err.getvalue())


class MemoryTest(scene.Scene):
    def test_too_little_memory_is_reported_with_a_hint(self):
        for error in (MemoryError(), OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))):
            for command in (['gen-key'], ['status', self.config('file:///nowhere')]):
                with self.subTest(error=error, command=command[0]), contextlib.ExitStack() as stack:
                    for name in ('ed25519_public_key', 'StateFile'):
                        stack.enter_context(unittest.mock.patch.object(tako, name,
                                                                       side_effect=error))
                    result = self.run_here(*command)
                    self.assertCode(1, result)
                    self.assertIn('memory', result.err)
                    self.assertIn('ulimit -v', result.err)


class PythonTest(scene.Scene):
    def without(self, module, *arguments):
        """Run tako.py on a Python without a module. Return the CompletedProcess."""
        code = ('import sys; sys.modules[{!r}] = None; sys.path.insert(0, {!r}); '
                'import tako; sys.exit(tako.main(sys.argv[1:]))')
        return subprocess.run([sys.executable, '-c', code.format(module, scene.PROJECT)]
                              + list(arguments),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              universal_newlines=True)

    def test_https_without_the_ssl_module_is_an_error(self):
        """Other origins work even so."""
        os.mkdir(self.path('served'))
        origin.Publisher(self.path('served')).publish('1.0', b'image')
        result = self.without('ssl', 'fetch', self.config('https://127.0.0.1:1'))
        self.assertEqual(1, result.returncode, result.stderr)
        self.assertRegex(result.stderr, 'this Python lacks its ssl package\n'
                                        '  .*, or use an http:// or file:// origin\n$')
        self.assertEqual([], scene.names(self.destination))
        served = self.serve('served')
        self.assertEqual(0, self.without('ssl', 'fetch', self.config(served.url)).returncode)

    def test_without_json_status_json_is_an_error(self):
        result = self.without('json', 'status', '--json', self.config('file:///nowhere'))
        self.assertEqual(1, result.returncode, result.stderr)
        self.assertRegex(result.stderr,
                         r'this Python lacks its json package\n  install all of Python \(.*\)\n$')

    def test_without_json_fetch_notes_its_failure_and_the_rest_of_status_works(self):
        os.mkdir(self.path('served'))
        app = self.config('file://' + self.path('served'))
        self.assertEqual(75, self.without('json', 'fetch', app).returncode)
        origin.Publisher(self.path('served')).publish('1.0', b'image')
        self.assertEqual(0, self.without('json', 'fetch', app).returncode)
        for option, words in (('-v', 'last failure:  2'), ('--metrics', 'tako_exit_code'),
                              ('--history', '"event": "switch", "version": "1.0"')):
            result = self.without('json', 'status', option, app)
            self.assertEqual((0, ''), (result.returncode, result.stderr))
            self.assertIn(words, result.stdout)

    def test_without_difflib_no_option_is_suggested(self):
        result = self.without('difflib', 'fetch', '--int', 'app.tako')
        self.assertEqual(
            (2, "tako: unknown option '--int'\n  see: tako fetch --help\n"),
            (result.returncode, result.stderr),
        )

    def test_without_modules_for_patches_nothing_is_stored(self):
        """store finds this out before it changes anything."""
        publisher = origin.Publisher(self.path('served'))
        publisher.publish('1.0', b'image')
        before = scene.snapshot(self.path('served'))
        key = self.write('key', tako.format_secret_key(origin.SEED), 0o600)
        image = self.write('image', b'another')
        for module in ('mmap', 'lzma'):
            result = self.without(module, 'store', '-f', key, '-o', self.path('served'),
                                  '--patch-from', '1', image, '1.1')
            self.assertEqual(1, result.returncode, result.stderr)
            self.assertIn('this Python lacks its {} package'.format(module), result.stderr)
            self.assertEqual(before, scene.snapshot(self.path('served')))
            result = self.without(module, 'store', '--dry-run', '-f', key, '-o',
                                  self.path('served'), image, '1.1')
            self.assertEqual(0, result.returncode, result.stderr)

    def test_tako_runs_without_the_functions_of_gc(self):
        with unittest.mock.patch.object(tako, 'gc', object()):
            self.assertCode(0, self.run_here('--version'))




class SignalTest(scene.Scene):
    """A signal during a download: fetch keeps what it received and leaves no temporary file."""

    def interrupted(self, *numbers, **settings):
        served = scene.tempfile.mkdtemp(dir=self.directory)
        with origin.Origin(served) as server:
            entry = server.publish('1.0', b'x' * 1000000)
            server.faults['/store/' + entry.digest] = stalls
            process = self.start('fetch', self.config(server.url), **settings)
            scene.wait_until(lambda: len(server.requests) == 2 and self.partials())
            for number in numbers:
                process.send_signal(number)
            out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def test_each_signal_ends_a_download_with_its_exit_code(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
            with self.subTest(number):
                self.assertEqual((code, b'', b''), self.interrupted(number))
                self.assertEqual(['manifest'] + self.partials(),
                                 sorted(os.listdir(self.destination), reverse=True))
            self.empty_destination()

    def test_further_signals_do_not_stop_the_cleanup(self):
        code, out, err = self.interrupted(signal.SIGTERM, signal.SIGINT, signal.SIGINT)
        self.assertIn(code, (130, 143))
        self.assertEqual((b'', b'', {'manifest'}),
                         (out, err, set(scene.names(self.destination)) - set(self.partials())))

    @unittest.skipIf(platform.python_implementation() == 'PyPy',
                     'PYPY DOES NOT SAY WHICH SIGNALS IT FOUND IGNORED')
    def test_an_ignored_signal_stays_ignored(self):
        code, _, _ = self.interrupted(signal.SIGHUP, signal.SIGTERM,
                                      preexec_fn=lambda: signal.signal(signal.SIGHUP,
                                                                       signal.SIG_IGN))
        self.assertEqual(143, code)

    def test_a_signal_during_store_leaves_no_temporary(self):
        os.mkdir(self.path('served'))
        os.mkfifo(self.path('pipe'))
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        self.assertCode(0, self.run_tako('store', '-f', key, '-o', self.path('served'), key, '0.9'))
        before = scene.snapshot(self.path('served'))
        process = self.start('store', '-f', key, '-o', self.path('served'), self.path('pipe'),
                             '1.0')
        with open(self.path('pipe'), 'wb') as pipe:
            pipe.write(b'x' * 100000)
            pipe.flush()
            scene.wait_until(lambda: os.path.exists(self.path('served', tako.NEW_IMAGE)))
            process.terminate()
            self.assertEqual((b'', b''), process.communicate(timeout=30))
        self.assertEqual((143, before),
                         (process.returncode, scene.snapshot(self.path('served'))))


def stalls(handler):
    """Send half of the body and keep the client waiting."""
    handler.answer(200, handler.body[:len(handler.body) // 2], length=len(handler.body))
    handler.wfile.flush()
    time.sleep(5)
    handler.hang_up()

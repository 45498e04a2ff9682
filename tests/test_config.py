"""Section 10: configs are read, and each error names its line."""
import base64
import os
import unittest
from unittest import mock

import tako

KEY = 'l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k='
EXAMPLE_KEY = 'REPLACE/THIS/EXAMPLE/BY/THE/PUBLISHERS/KEYE='      # of --help and all pages
OTHER_KEY = tako.encode_base64(tako.ed25519_public_key(bytes(32)))
SETTINGS = {'Origin': 'https://images.example.com/app', 'PublicKey': KEY,
            'Destination': '/var/lib/images/app',
            'Version': '1.*'}
CONFIG = ''.join('{}={}\n'.format(*setting) for setting in SETTINGS.items())
PASSWORD = 'hunter2'
TOKEN = 'gho_Hush.hush-0123+/=='


def config(*more, **changes):
    """Return a config with these changes (None leaves a key out) and with more lines."""
    settings = dict(SETTINGS, **changes)
    lines = ['{}={}\n'.format(key, value) for key, value in settings.items() if value is not None]
    return ''.join(lines) + '\n'.join(more)


def basic(userinfo):
    """Return the Authorization header of a user and password."""
    return 'Basic ' + base64.b64encode(userinfo).decode('ascii')


def values(parsed):
    """Return a Config in a form that can be compared."""
    return parsed._replace(bounds=parsed.bounds.text)


class ConfigTest(unittest.TestCase):

    def refusal(self, text):
        with self.assertRaises(tako.ConfigError) as caught:
            tako.parse_config(text)
        self.assertEqual(caught.exception.exit_code, 2)
        self.assertTrue(caught.exception.hint)
        return caught.exception

    def assertRefused(self, text, line, what, hint=''):
        error = self.refusal(text)
        self.assertEqual(error.line, line)
        self.assertIn(what, error.what)
        self.assertIn(hint, error.hint)

    def assertValueRefused(self, key, value, what, hint=''):
        """The value is refused with its key and line, before and after the other keys."""
        alone = '{}={}\n'.format(key, value)
        self.assertRefused('# an image\n\n' + alone + config(**{key: None}), 3,
                           key + '= is invalid: ' + what,
                           hint)
        self.assertRefused(config(**{key: None}) + '\n;\n' + alone,
                           len(SETTINGS) + (-1 if key in SETTINGS else 0) + 3,
                           key + '= is invalid: ' + what, hint)


class SyntaxTest(ConfigTest):

    def test_a_config_with_the_required_keys(self):
        parsed = tako.parse_config(CONFIG)
        self.assertEqual(parsed.origins, (tako.Origin('https://images.example.com/app', ''),))
        self.assertEqual(parsed.public_keys, (tako.parse_public_key(KEY),))
        self.assertEqual((parsed.destination, parsed.destination_line), ('/var/lib/images/app', 3))
        self.assertEqual(parsed.bounds.text, '1.*')
        self.assertEqual(parsed.units, ())

    def test_the_config_of_the_manual(self):
        manual = [line[4:] for line in (tako.__doc__ or '').split('\n') if '=' in line
                  and line.startswith('    ')]
        expected = CONFIG.replace(KEY, EXAMPLE_KEY) + 'Keep=3\nRestart=app.service\n'
        self.assertEqual(values(tako.parse_config('\n'.join(manual))),
                         values(tako.parse_config(expected)))

    def test_configs_that_differ_in_form_only_are_equal(self):
        lines = CONFIG.splitlines()
        texts = {
            'CRLF': CONFIG.replace('\n', '\r\n'), 'no newline at the end': CONFIG[:-1],
            'space at the end': CONFIG + ' \n\t\n',
            'spaces around =': CONFIG.replace('Origin=', 'Origin = ').replace('Version=',
                                                                              'Version\t=\t'),
            'spaces around lines': '\n'.join('  {} \t'.format(line) for line in lines),
            'CRLF and spaces': '\r\n'.join(' {} '.format(line) for line in lines) + '\r\n',
            'comments at the end': CONFIG
            + '# Origin=x\n;Version=2\n  # indented\n\t;too\n#\n;\n##\n#=\n',
            'mixed line ends': CONFIG.replace('\n', '\r\n', 2),
        }
        for name, text in texts.items():
            with self.subTest(name):
                self.assertEqual(values(tako.parse_config(text)), values(tako.parse_config(CONFIG)))

    def test_lines_may_come_in_any_order_with_comments_and_blank_lines(self):
        text = '# an image\n\n' + '\n; and\n\n'.join(reversed(CONFIG.splitlines()))
        parsed = values(tako.parse_config(text))
        self.assertEqual(parsed.destination_line, 6)
        self.assertEqual(parsed._replace(destination_line=3), values(tako.parse_config(CONFIG)))

    def test_a_comment_sign_within_a_value_is_part_of_it(self):
        for path in ('/srv/a#b', '/srv/a;b', '/srv/a ; b', '/srv/a # b'):
            self.assertEqual(tako.parse_config(config(Destination=path)).destination, path)

    def test_an_equals_sign_within_a_value_is_part_of_it(self):
        self.assertEqual(tako.parse_config(config(Destination='/srv/a=b = c')).destination,
                         '/srv/a=b = c')

    def test_a_percent_sign_interpolates_nothing(self):
        self.assertEqual(
            tako.parse_config(config(Destination='/srv/%(Origin)s/%%/$HOME/%i')).destination,
                         '/srv/%(Origin)s/%%/$HOME/%i')

    def test_a_line_without_equals_is_refused(self):
        for line in ('Version', '[Image]', 'Version: 1.*', '1.*', '\\', 'store/'):
            with self.subTest(line):
                self.assertRefused(CONFIG + line + '\n', 5, 'not a setting', 'Key=Value')
        self.assertRefused('[Image]\n' + CONFIG, 1, 'not a setting')

    def test_a_line_cannot_be_continued(self):
        self.assertRefused(config('Restart=a.service', '  b.service'), 6, 'not a setting')
        self.assertRefused(config('Restart=a.service \\', '  b.service'), 5, 'is not a unit name')
        parsed = tako.parse_config(config('  Restart=a.service', '  Restart=b.service',
                                          Destination='/srv/app\\'))
        self.assertEqual(parsed.units, ('a.service', 'b.service'))
        self.assertEqual(parsed.destination, '/srv/app\\')


class KeyTest(ConfigTest):

    def test_a_misspelt_key_names_the_one_it_resembles(self):
        misspellings = {
            'Origin': ('Orgin', 'Orign', 'Origins', 'Origon'),
            'PublicKey': ('Public-Key', 'PublicKeys', 'Public_Key', 'Pubkey'),
            'Destination': ('Destinaton', 'Destination_Path'), 'Version': ('Versions', 'Verison'),
            'Restart': ('Restarts', 'Resart'), 'Confirm': ('Confrim',), 'Keep': ('Keeps',),
            'Manager': ('Managers', 'Manger'), 'Delay': ('Delays', 'Dealy'), 'Token': ('Tokens',),
            'Authority': ('Authorty',), 'ClientCertificate': ('ClientCert',),
            'ClientKey': ('ClientKeys',), 'StampKey': ('StampKeys',), 'Fresh': ('Fress',),
            'Metered': ('Metred', 'metered'),
        }
        self.assertEqual(set(tako.CONFIG_KEYS), set(misspellings))
        for known, several in misspellings.items():
            for misspelt in several:
                with self.subTest(misspelt):
                    self.assertRefused(CONFIG + '\n' + misspelt + '=x\n', 6,
                                       "unknown key '{}'".format(misspelt),
                                       'did you mean {}='.format(known))

    def test_keys_are_case_sensitive(self):
        for key in SETTINGS:
            for misspelt in (key.lower(), key.upper(), key.swapcase()):
                with self.subTest(misspelt):
                    self.assertRefused(CONFIG.replace(key + '=', misspelt + '='),
                                       list(SETTINGS).index(key) + 1,
                                       "unknown key '{}'".format(misspelt),
                                       'did you mean {}='.format(key))

    def test_an_unknown_key_names_all_keys(self):
        for key in ('User', 'x', 'Mode', 'k' * 40):
            with self.subTest(key):
                self.assertRefused(key + ' = x\n' + CONFIG, 1, "unknown key '{}'".format(key),
                                   'Origin, PublicKey, Destination, Version, Restart')

    def test_without_difflib_a_misspelt_key_names_all_keys(self):
        with mock.patch.dict('sys.modules', difflib=None):
            self.assertRefused(CONFIG + 'Orign=x\n', 5, "unknown key 'Orign'",
                               'use one of Origin, PublicKey')

    def test_an_invalid_key_is_not_repeated(self):
        for key in ('', '\x1b[2JOrigin', 'Orig\u00ecn', '\ufeffOrigin', 'Origin:',
                    'Destination Path', '"Origin"',
                    '[Image] x', 'k' * 100000):
            with self.subTest(ascii(key[:30])):
                self.assertRefused('\n{}=x\n'.format(key) + CONFIG, 2, 'invalid key before the =',
                                   'Key=Value')
                self.assertLess(len(self.refusal(key + '=x').what), 40)

    def test_a_key_that_comes_twice_is_refused(self):
        settings = dict(SETTINGS, Confirm='30', Keep='3', Manager='user', Delay='2d', Token='x',
                        Authority='/a', ClientCertificate='/c', ClientKey='/k', StampKey=KEY,
                        Fresh='7d', Metered='yes')
        self.assertEqual({'Restart'}, set(tako.CONFIG_KEYS) - set(settings))
        text = config(**settings)
        for number, (key, value) in enumerate(settings.items(), 1):
            if key not in ('PublicKey', 'Origin', 'StampKey'):
                with self.subTest(key):
                    self.assertRefused(text + '#\n{}={}\n'.format(key, value),
                                       len(settings) + 2,
                                       '{}= is already set in line {}'.format(key, number),
                                       'remove one')

    def test_a_missing_key_is_named_with_an_example(self):
        for key in SETTINGS:
            with self.subTest(key):
                self.assertRefused(config(**{key: None}), None, key + '= is missing', key + '=')
        for text in ('', '\n', '# nothing\n;\n'):
            self.assertRefused(text, None, 'Origin= is missing')

    def test_the_example_for_a_missing_key_is_valid(self):
        for key in SETTINGS:
            with self.subTest(key):
                example = self.refusal(config(**{key: None})).hint.split(' like ')[1]
                self.assertIsNotNone(tako.parse_config(config(example, **{key: None})))

    def test_an_empty_value_is_refused(self):
        for key in SETTINGS:
            with self.subTest(key):
                self.assertValueRefused(key, '', '')


class ValueTest(ConfigTest):

    def test_several_public_keys_are_allowed(self):
        parsed = tako.parse_config(config('PublicKey=' + OTHER_KEY))
        self.assertEqual(parsed.public_keys,
                         (tako.parse_public_key(KEY), bytes(tako.parse_public_key(OTHER_KEY))))

    def test_invalid_public_keys_are_refused(self):
        for value in (KEY[:-1], KEY[:-2] + 'l=', KEY + ' ' + OTHER_KEY, '"{}"'.format(KEY), 'AAAA'):
            with self.subTest(value):
                self.assertValueRefused('PublicKey', value, 'not a public key', '44 characters')
        self.assertValueRefused('PublicKey', tako.encode_base64(bytes(32)),
                                'a public key that matches no secret key')
        self.assertRefused(config('PublicKey=' + KEY[1:]), 5,
                           'PublicKey= is invalid: not a public key')

    def test_a_secret_key_in_a_config_is_refused_and_not_repeated(self):
        secret = tako.format_secret_key(bytes(range(32)))
        for key, text in (('PublicKey', config(PublicKey=secret)),
                          ('PublicKey', config('PublicKey = ' + secret)),
                          ('Version', config(Version=secret))):
            error = self.refusal(text)
            self.assertIn(key + '= is invalid: a secret key', error.what)
            self.assertNotIn(secret[7:15], error.what + error.hint + str(error.args))

    def test_destinations_keep_their_bytes(self):
        for path in ('/', '/srv/with space/app', 'relative/app', '/srv/\u00fc', '/srv/\U0001f419',
                     '/srv/app/'):
            with self.subTest(ascii(path)):
                # The file system gets the bytes of the config, whatever the locale.
                parsed = tako.parse_config(config(Destination=path))
                self.assertEqual(os.fsencode(parsed.destination), path.encode('utf-8'))

    def test_invalid_destinations_are_refused(self):
        self.assertValueRefused('Destination', '', 'it is not a path', 'existing directory')
        self.assertValueRefused('Destination', '/srv/\0app', 'it is not a path',
                                'existing directory')

    def test_version_patterns_are_read(self):
        for pattern in ('*', '1.*', '1.13.7', '1.2 <= v < 2.0'):
            self.assertEqual(tako.parse_config(config(Version=pattern)).bounds.text, pattern)
        self.assertIn(tako.parse_version('1.9'),
                      tako.parse_config(config(Version='1.2 <= v < 2.0')).bounds)
        self.assertIn(tako.parse_version('1.9'),
                      tako.parse_config(config().replace('1.*', ' 1.* ')).bounds)

    def test_invalid_version_patterns_are_refused(self):
        for pattern in ('', '1.*.*', '1.2 - 2.0', '>=1', '1 2', '"1.*"x*',
                        '1.2 <= v < 2.0 # not yet 2'):
            with self.subTest(pattern):
                self.assertValueRefused('Version', pattern,
                                        ascii(pattern) + ' is not a version pattern',
                                        '1.2 <= v < 2.0 (a range)')
        self.assertValueRefused('Version', '2 <= v < 1', 'no version can match 2 <= v < 1',
                                'use * (any version)')

    def test_restart_lists_units_and_may_be_emptied(self):
        long_name = 'u' * 247 + '.service'
        for lines, units in (
                (['app.service'], ['app.service']), ([''], []), (['', 'a.timer'], ['a.timer']),
                (['a.service b.socket', '\tc@1.service '],
                 ['a.service', 'b.socket', 'c@1.service']),
                (['dev-sda\\x2d1.mount  app'], ['dev-sda\\x2d1.mount', 'app']),
                ([long_name], [long_name]),
                (['a.service', 'a.service'], ['a.service', 'a.service'])):
            with self.subTest(lines):
                parsed = tako.parse_config(config(*('Restart=' + each for each in lines)))
                self.assertEqual(parsed.units, tuple(units))

    def test_invalid_units_are_refused(self):
        for unit in ('app.service,b.service', '--force', '-H', '/etc/a.service', 'a.service;reboot',
                     '&', '"a.service"',
                     '*.service', '$(reboot)', '\u00fc.service', 'a\x1b.service', 'u' * 256):
            with self.subTest(ascii(unit[:30])):
                self.assertValueRefused('Restart', unit, ascii(unit[:80]) + ' is not a unit name',
                                        'systemd units')
                self.assertValueRefused('Restart', 'a.service ' + unit,
                                        ascii(unit[:80]) + ' is not a unit name')
        for unit in ('app@.service', 'app@', 'u' * 90 + '@.service'):
            self.assertValueRefused('Restart', unit, ascii(unit[:80])
                                    + ' is a template without an instance', 'name an instance')

    def test_confirm_takes_a_time(self):
        self.assertEqual(tako.parse_config(CONFIG).confirm_seconds, 10)
        for value, seconds in (('0', 0), ('1', 1), ('30', 30), ('007', 7), ('0.5', 0.5),
                               ('30s', 30), ('10m', 600), ('1h', 3600),
                               (str(tako.CONFIRM_MAX_SECONDS), tako.CONFIRM_MAX_SECONDS)):
            self.assertEqual(tako.parse_config(config('Confirm=' + value)).confirm_seconds,
                             seconds)

    def test_invalid_times_to_confirm_are_refused(self):
        for value in ('', '-1', '+1', '0x1', '1 2', '\u0661', 'yes', '1y', '61m', '2h', '1d',
                      str(tako.CONFIRM_MAX_SECONDS + 1), '9' * 9, '0' * 10, '1' * 100):
            with self.subTest(value):
                self.assertValueRefused('Confirm', value, ascii(value[:80])
                                        + ' is not a duration from 0 to 3600s', '90s, 10m or 1h')

    def test_manager_is_user_or_system(self):
        for more, manager in (('', ''), ('Manager=system', ''), ('Manager=user', ' --user')):
            self.assertEqual(manager, tako.parse_config(config(more)).manager)
        for value in ('', 'User', '--user', 'root', 'user system', 'u' * 100):
            with self.subTest(value):
                self.assertValueRefused('Manager', value, ascii(value[:80])
                                        + ' is not a manager of units', 'write user or system')

    def test_keep_takes_a_number_of_images(self):
        self.assertEqual(tako.parse_config(CONFIG).keep, 0)
        for value in ('1', '3', '10', '9' * 9):
            self.assertEqual(tako.parse_config(config('Keep=' + value)).keep, int(value))

    def test_metered_is_a_boolean_of_systemd(self):
        self.assertFalse(tako.parse_config(CONFIG).is_metered)
        for words, expected in (('yes Yes y true T on 1', True), ('no NO n false F off 0', False)):
            for word in words.split():
                parsed = tako.parse_config(config('Metered=' + word))
                self.assertIs(expected, parsed.is_metered, word)

    def test_any_other_value_of_metered_is_refused(self):
        for value in ('', 'maybe', '2', 'yes no', 'y e s', 'yes\u00df'):
            self.assertValueRefused('Metered', value, ascii(value) + ' is neither yes nor no',
                                    'write yes or no')

    def test_invalid_numbers_of_images_to_keep_are_refused(self):
        for value in ('', '0', '-1', '03', '1.5', 'all', '1 2', '\u0661', '9' * 10):
            with self.subTest(value):
                self.assertValueRefused('Keep', value, ascii(value) + ' is not a number of images',
                                        'from 1 on')


class OriginTest(ConfigTest):

    def test_origins_of_each_scheme_are_read(self):
        for value, url in (
                ('http://h/', 'http://h'),
                ('https://images.example.com/a/b/', 'https://images.example.com/a/b'),
                ('https://h/a//', 'https://h/a'), ('https://h:65535/', 'https://h:65535'),
                ('https://[::1]:8443/', 'https://[::1]:8443'),
                ('HTTPS://Host_2.Example/App', 'https://Host_2.Example/App'),
                ('file:///srv/images/app/', 'file:///srv/images/app'), ('file:///', 'file://'),
                ('file:/srv/app', 'file:///srv/app')):
            with self.subTest(value):
                self.assertEqual(tako.parse_config(config(Origin=value)).origins,
                                 (tako.Origin(url, ''),))

    def test_mirrors_keep_their_order(self):
        origins = tako.parse_config(config('Origin=file:///srv/b', 'Origin=http://a')).origins
        self.assertEqual([each.url for each in origins],
                         ['https://images.example.com/app', 'file:///srv/b', 'http://a'])

    def test_origins_keep_their_spelling(self):
        for url in ('http://images.example.com', 'http://h:8080/app', 'http://h:1',
                    'http://192.0.2.7:80/app',
                    'http://[2001:db8::7]/app', 'https://h/a%20b/%C3%BC', 'https://h/a;b=c,d&e@f:g',
                    'file:///srv/images/app', 'file://localhost/srv'):
            with self.subTest(url):
                self.assertEqual(tako.parse_config(config(Origin=url)).origins,
                                 (tako.Origin(url, ''),))

    def test_a_user_and_password_become_a_header_and_leave_the_url(self):
        for value, url, userinfo in (
                ('https://me:hunter2@h/app/', 'https://h/app', b'me:hunter2'),
                ('http://me:hunter2@h:8080', 'http://h:8080', b'me:hunter2'),
                ('https://me:hunter2@[::1]:8443/app', 'https://[::1]:8443/app', b'me:hunter2'),
                ('https://me%40home:a%3Ab%2Fc%25d@h/', 'https://h', b'me@home:a:b/c%d'),
                ('https://me:%C3%BC%00@h/', 'https://h', b'me:\xc3\xbc\0'),
                ('https://me:a:b@h/', 'https://h', b'me:a:b'),
                ('https://me:[b]@h/', 'https://h', b'me:[b]'),
                ('https://me@h/', 'https://h', b'me:'),
                ('https://me@home:hunter2@h/', 'https://h', b'me@home:hunter2'),
                ('https://me:@h/', 'https://h', b'me:'),
                ('https://:hunter2@h/', 'https://h', b':hunter2'),
                ('https://me:' + 'x' * 200 + '@h/', 'https://h', b'me:' + b'x' * 200)):
            with self.subTest(value):
                self.assertEqual(tako.parse_config(config(Origin=value)).origins,
                                 (tako.Origin(url, basic(userinfo)),))
        for value, url in (('https://@h/', 'https://h'), ('https://h/me:x@y/', 'https://h/me:x@y')):
            self.assertEqual(tako.parse_config(config(Origin=value)).origins,
                             (tako.Origin(url, ''),))

    def test_invalid_origins_are_refused(self):
        refused = {
            'it does not begin with http://, https:// or file://': (
                'images.example.com/app', '/srv/images', '//h/app', 'ftp://h/app', 'data:,x',
                'ssh://h/app', 'h:80/app',
                'httpss://h', '://h/', '*', '"https://h/app"', 'http://', 'https:/h/app',
                'https:h/app',
                'file:', 'file:srv'),
            'it has no host, or an invalid host or port': (
                'http:///app', 'https://:80/', 'https://me@/app', 'https://h:0/app', 'https://h:/',
                'https://h:65536/',
                'https://h:99999/',
                'https://h:http/', 'https://h:-1/', 'https://h:+80/', 'https://h:8_0/',
                'https://[::1/', 'https://::1]/',
                'https://::1/', 'https://[h]/', 'https://h\\x/', 'https://h%2fx/', 'https://h,x/'),
            'it has a query or a fragment': (
                'https://h/?', 'https://h/#', 'https://h/app?version=1', 'https://h?x',
                'https://h/app#top',
                'https://h#', 'file:///srv?x', 'file:///srv/#1'),
            'it is not the URL of a local directory': (
                'file://h/srv', 'file://me:hunter2@localhost/srv', 'file://srv',
                'file://localhost'),
            'it contains a space, a control or a non-ASCII character': (
                'https://h/a b', 'https://h/\u00fc', 'https://b\u00fccher.example/',
                'https://h/\x1b[2J',
                'https://h/a\tb', 'https://h/\x7f', 'https://h/a\rHost: x', 'https://h\u2044x/',
                'https://h\u2100/'),
        }
        for what, origins in refused.items():
            for value in origins:
                with self.subTest(ascii(value)):
                    self.assertValueRefused('Origin', value, what)

    def test_an_empty_origin_names_examples(self):
        self.assertValueRefused('Origin', '', '', 'give the http, https or file URL')

    def test_no_message_repeats_a_password(self):
        for value in (
                'https://me:hunter2@', 'https://me:hunter2@/app', 'https://me:hunter2@:80/',
                'https://me:hunter2@h:0/',
                'https://me:hunter2@h:65536/', 'https://me:hunter2@h:x/',
                'https://me:hunter2@[::1/',
                'https://me:hunter2@h/?x', 'https://me:hunter2@h/#x', 'https://me:hunter2#x@h/',
                'https://me:hunter2?x@h/', 'https://me:hunter2@h/a b', 'https://me:hunter2 @h/',
                'https://h:hunter2/',
                'https://me:hunter2\u00fc@h/', 'https://me:\thunter2@h/', 'https://me:hunter2@[h',
                'https://me:hunter2/x@h/', 'https:me:hunter2@h/', 'https:/me:hunter2@h/',
                'ftp://me:hunter2@h/',
                'me:hunter2@h/app', '//me:hunter2@h/', 'file://me:hunter2@h/',
                'file:me:hunter2@h/'):
            with self.subTest(ascii(value)):
                error = self.refusal(config(Origin=value))
                self.assertEqual((error.line, error.what.split()[0]), (1, 'Origin='))
                self.assertNotIn(PASSWORD, error.what + error.hint + repr(error.args) + repr(error))

    def test_no_message_repeats_a_password_of_another_line(self):
        origin = 'https://me:hunter2@h/app'
        for line in ('Orgin=' + origin, 'PublicKey=' + origin, 'Origin ' + origin, origin,
                     'Origin: ' + origin, 'Origin: https://me:hunter2==@h/app',
                     'Origin:' + origin + '?x=1'):
            with self.subTest(line):
                error = self.refusal(CONFIG + line)
                self.assertEqual(error.line, 5)
                self.assertNotIn(PASSWORD, error.what + error.hint + repr(error.args))

    def test_a_valid_origin_shows_no_password(self):
        origin = tako.parse_config(config(Origin='https://me:hunter2@h/app')).origins[0]
        self.assertNotIn(PASSWORD, repr(origin))
        self.assertEqual((origin.url, origin.authorization),
                         ('https://h/app', basic(b'me:hunter2')))


class DurationTest(ConfigTest):

    def test_durations_are_read(self):
        for text, seconds in (
                ('0', 0), ('90', 90), ('90s', 90), ('0.5', 0.5), ('0.25s', 0.25), ('007', 7),
                ('1m', 60), ('10m', 600), ('1h', 3600), ('36h', 129600), ('1d', 86400),
                ('7d', 604800), ('1.5d', 129600), ('1w', 604800), ('2w', 1209600),
                ('999999999', 999999999), ('0.123456789', 0.123456789),
                ('16666666.5m', 999999990), ('1653w', 999734400)):
            with self.subTest(text):
                self.assertEqual(seconds, tako.parse_duration(text))

    def test_other_texts_are_no_durations(self):
        for text in ('', ' ', 's', 'd', '-1', '+1', '.5', '5.', '1e3', '1.2.3', '1 d', ' 1', '1\n',
                     '1D', '1y', '1ms', '1h30m', '0x1', '1_0', '\u0661', 'inf', 'nan', '9' * 10,
                     '0.1234567890', '16666667m', '277778h', '11575d', '1654w', '999999999w'):
            with self.subTest(ascii(text)):
                self.assertIsNone(tako.parse_duration(text))

    def test_the_maximum_itself_is_a_duration(self):
        with mock.patch.object(tako, 'DURATION_MAX_SECONDS', 600):
            self.assertEqual(600, tako.parse_duration('10m'))
            self.assertIsNone(tako.parse_duration('601'))

    def test_delay_takes_a_time_or_two(self):
        self.assertIsNone(tako.parse_config(CONFIG).delay)
        for value, expected in (
                ('0', (0, 0)), ('90', (90, 90)), ('90s', (90, 90)), ('10m', (600, 600)),
                ('36h', (129600, 129600)), ('2d', (172800, 172800)), ('1.5d', (129600, 129600)),
                ('1d-4d', (86400, 345600)), ('12h-1w', (43200, 604800)), ('0-1d', (0, 86400)),
                ('2d-2d', (172800, 172800)), ('365d', (31536000, 31536000)), ('0.5', (0, 0)),
                ('1.9-2.9', (1, 2))):
            with self.subTest(value):
                delay = tako.parse_config(config('Delay=' + value)).delay
                self.assertEqual((expected, [int, int]), (delay, [type(each) for each in delay]))

    def test_invalid_delays_are_refused(self):
        for value in ('', '4d-1d', '11575d', '1d-11575d', '11575d-1d', 'soon', 'soon-1d', '1d-',
                      '-1d', '1d-2d-3d', '1d-2d-', '1d - x', '1d - 2d', '-', '--', '2 d', '1y',
                      '1D', '1m-59', '9' * 10, '\u0661d', '1' * 100):
            with self.subTest(value):
                self.assertValueRefused('Delay', value, ascii(value[:80]) + ' is not a time, or '
                                        'two with the shorter one first', '36h, 2d or 1d-4d')

    def test_fresh_takes_a_time_from_an_hour_on(self):
        self.assertEqual(float('inf'), tako.parse_config(CONFIG).fresh)
        stamp_key = 'StampKey=' + KEY
        self.assertEqual(float('inf'), tako.parse_config(config(stamp_key)).fresh)
        for value, seconds in (('3600', 3600), ('1h', 3600), ('60m', 3600), ('36h', 129600),
                               ('7d', 604800), ('1.5h', 5400), ('999999999', 999999999)):
            with self.subTest(value):
                self.assertEqual(seconds,
                                 tako.parse_config(config(stamp_key, 'Fresh=' + value)).fresh)

    def test_invalid_ages_of_a_stamp_are_refused(self):
        for value in ('', '0', '3599', '3599.9', '59m', '0.9h', '1 d', '1d-2d', '-1h', 'never',
                      '11575d', '1' * 100):
            with self.subTest(value):
                what = "Fresh= is invalid: {} is not a time from 1h on"
                self.assertRefused(config('StampKey=' + KEY, 'Fresh=' + value), 6,
                                   what.format(ascii(value[:80])), '36h or 7d')


class StampKeyTest(ConfigTest):

    def test_stamp_keys_are_read(self):
        self.assertEqual((), tako.parse_config(CONFIG).stamp_keys)
        parsed = tako.parse_config(config('StampKey=' + OTHER_KEY, 'Fresh=1h', 'StampKey=' + KEY))
        self.assertEqual((tako.parse_public_key(OTHER_KEY), tako.parse_public_key(KEY)),
                         parsed.stamp_keys)
        self.assertEqual((tako.parse_public_key(KEY),), parsed.public_keys)

    def test_invalid_stamp_keys_are_refused(self):
        for value in ('', 'x', KEY[:-1], KEY + ' ' + OTHER_KEY):
            with self.subTest(value):
                self.assertValueRefused('StampKey', value, 'not a public key', '44 characters')
        secret = tako.format_secret_key(bytes(range(32)))
        self.assertRefused(config('StampKey=' + secret), 5, 'StampKey= is invalid: a secret key')

    def test_fresh_needs_a_stamp_key(self):
        for lines, line in ((['Fresh=7d'], 5), (['', 'Fresh=1h'], 6)):
            self.assertRefused(config(*lines), line, 'Fresh= needs StampKey=',
                               'add the key that signs the stamp')


class PrivateOriginTest(ConfigTest):

    def credentials(self, *lines, **changes):
        return tako.parse_config(config(*lines, **changes)).credentials

    def test_a_config_without_credentials(self):
        self.assertEqual(tako.NO_CREDENTIALS, self.credentials())

    def test_credentials_are_read(self):
        home = ('https', 'images.example.com')
        for token in (TOKEN, '@token', '@/etc/tako/a b', 'x', '!', '~' * tako.TOKEN_MAX_BYTES):
            self.assertEqual(tako.Credentials(home, token, '', '', ''),
                             self.credentials('Token=' + token))
        self.assertEqual(tako.Credentials(home, '@token', '/ca.pem', '/c d.pem', 'key'),
                         self.credentials('Token=@token', 'Authority=/ca.pem',
                                          'ClientCertificate=/c d.pem', 'ClientKey=key'))
        self.assertEqual(tako.Credentials(home, '', '', 'c', ''),
                         self.credentials('ClientCertificate=c'))
        self.assertEqual(tako.Credentials(('', ''), '', 'ca', '', ''),
                         self.credentials('Authority=ca'))

    def test_a_token_needs_one_https_host_or_loopback_address(self):
        for origins in (['https://h/a', 'https://H:443/b'], ['https://h:8443/'],
                        ['http://127.0.0.1:8000/a', 'http://127.0.0.1:8000/b'],
                        ['http://127.255.3.99'], ['http://[::1]:80/x'], ['https://[2001:db8::1]']):
            for line in ('Token=x', 'ClientCertificate=/c'):
                more = ['Origin=' + each for each in origins[1:]]
                self.assertEqual(tako.endpoint(origins[0]), self.credentials(
                    line, *more, Origin=origins[0]).endpoint)
        for origins in (['https://h/a', 'https://mirror/a'], ['https://h/', 'https://h:8443/'],
                        ['https://h/', 'http://h/'], ['http://h/'], ['http://localhost/'],
                        ['http://127.0.0.1.example.com/'], ['http://127.0.0.999/'],
                        ['http://127.1/'], ['http://10.0.0.1/'], ['http://[::2]/'],
                        ['file:///srv/app'], ['https://h/', 'file:///srv/app'],
                        ['http://127.0.0.1/', 'http://127.0.0.2/'],
                        ['https://a/', 'https://b/', 'https://c/']):
            for key in ('Token', 'ClientCertificate'):
                more = ['Origin=' + each for each in origins[1:]]
                with self.subTest(origins=origins, key=key):
                    self.assertRefused(
                        config(key + '=x', *more, Origin=origins[0]), 5,
                        key + '= needs all Origin= on one https host, or a loopback address',
                        'the same https://host/')

    def test_an_authority_allows_several_hosts(self):
        self.assertEqual('/ca', self.credentials('Authority=/ca', 'Origin=http://h/').authority)

    def test_a_token_excludes_a_password(self):
        self.assertRefused(config('Token=x', Origin='https://me:hunter2@h/'), 5,
                           'Token= is set, and Origin= has a password', 'remove one of the two')
        self.assertRefused(config('Token=x', 'Origin=https://me:hunter2@h/', Origin='https://h/'),
                           5, 'Token= is set, and Origin= has a password')
        self.assertEqual('/c', self.credentials('ClientCertificate=/c',
                                                Origin='https://me:hunter2@h/').certificate)

    def test_a_key_needs_a_certificate(self):
        self.assertRefused(config('ClientKey=/k'), 5,
                           'ClientKey= is set without ClientCertificate=', 'ClientCertificate=/')

    def test_invalid_credentials_are_refused_and_not_repeated(self):
        hint = 'give the token without spaces, or @ and the path of a file with it'
        for value in ('', 'a b', 'hunter2\u00fc', 'Bearer hunter2', 'hunter2\t2',
                      'hunter2'.ljust(tako.TOKEN_MAX_BYTES + 1, 'x')):
            self.assertValueRefused('Token', value, 'it is not a token', hint)
            error = self.refusal(config('Token=' + value))
            self.assertNotIn('hunter2', error.what + error.hint)
        for value in ('@', '@\0hunter2'):
            self.assertValueRefused('Token', value, 'it is not a path', 'of an existing file')
            self.assertNotIn('hunter2', str(self.refusal(config('Token=' + value))))
        for key in ('Authority', 'ClientCertificate', 'ClientKey'):
            for value in ('', '/a\0b'):
                self.assertValueRefused(key, value, 'it is not a path', 'of an existing PEM file')

    def test_no_message_repeats_a_part_of_a_token(self):
        for line in ('aHVudGVyMg==', 'hunter2=', 'Tokn: aHVudGVyMg==', 'aHVudGVyMg'):
            error = self.refusal(CONFIG + line)
            self.assertNotIn('aHV', error.what + error.hint)
            self.assertNotIn('hunter2', error.what + error.hint)

    def test_credentials_keep_their_bytes(self):
        self.assertEqual('/srv/\u00fc'.encode('utf-8'),
                         os.fsencode(self.credentials('Authority=/srv/\u00fc').authority))


class EndpointTest(unittest.TestCase):

    def test_scheme_host_and_port_are_spelled_in_one_way(self):
        for url, expected in (
                ('https://h', ('https', 'h')), ('https://H.Example/App', ('https', 'h.example')),
                ('https://h:443/a:443', ('https', 'h')), ('https://h:80', ('https', 'h:80')),
                ('http://h:80/', ('http', 'h')), ('http://h:443', ('http', 'h:443')),
                ('http://h:8080/a', ('http', 'h:8080')), ('https://h:8443', ('https', 'h:8443')),
                ('https://[::1]:443/', ('https', '[::1]')), ('http://[::80]/', ('http', '[::80]')),
                ('file:///srv', ('file', ''))):
            with self.subTest(url):
                self.assertEqual(expected, tako.endpoint(url))


class AllErrorsTest(ConfigTest):
    """What `tako check` prints: all errors of a config."""

    def errors(self, text):
        values, errors = tako.parse_settings(text)
        return values, [(error.line, error.what) for error in errors]

    def test_a_config_without_errors(self):
        values, errors = self.errors(CONFIG)
        self.assertEqual([], errors)
        self.assertEqual({3: '/var/lib/images/app'}, values['Destination'])
        self.assertEqual(set(tako.CONFIG_KEYS), set(values))

    def test_errors_come_in_the_order_of_their_lines_and_then_those_of_several_lines(self):
        _, errors = self.errors('nonsense\nKeep=0\n\nOrigin=http://h\nToken=x\nVersion=*\nKeep=1\n'
                                'ClientKey=k\nFresh=2h\nPublicKey=x\nFresh=3h\n')
        self.assertEqual([
            (1, 'not a setting: no = in this line'),
            (2, "Keep= is invalid: '0' is not a number of images"),
            (7, 'Keep= is already set in line 2'),
            (10, 'PublicKey= is invalid: not a public key'),
            (11, 'Fresh= is already set in line 9'),
            (None, 'Destination= is missing'),
            (9, 'Fresh= needs StampKey='),
            (5, 'Token= needs all Origin= on one https host, or a loopback address'),
            (8, 'ClientKey= is set without ClientCertificate=')], errors)

    def test_an_invalid_value_is_not_missing(self):
        for key in SETTINGS:
            with self.subTest(key):
                _, errors = self.errors(config(**{key: ''}))
                self.assertEqual(1, len(errors), errors)

    def test_a_misspelt_key_is_not_missing(self):
        self.assertEqual([(1, "unknown key 'Orign'")],
                         self.errors(CONFIG.replace('Origin', 'Orign'))[1])
        self.assertEqual([(1, "unknown key 'Url'"), (None, 'Origin= is missing')],
                         self.errors(CONFIG.replace('Origin=https://images.example.com/app',
                                                    'Url=x'))[1])

    def test_an_invalid_origin_is_no_other_host(self):
        for key in ('Token', 'ClientCertificate'):
            for value in ('x', 'https://me:hunter2@h h/'):
                _, errors = self.errors(config(key + '=x', Origin=value))
                self.assertEqual([1], [line for line, _ in errors], errors)

    def test_a_token_for_another_host_with_a_password_has_both_errors(self):
        _, errors = self.errors(config('Token=x', 'Origin=https://b/', Origin='https://a:b@h/'))
        self.assertEqual([5, 5], [line for line, _ in errors])

    def test_invalid_units_and_credentials_are_left_out(self):
        values, errors = self.errors(config(
            'Restart=a.service b.service', 'Restart=*', 'Restart=c.service', 'Token=',
            'Authority=ca', 'ClientKey='))
        self.assertEqual([6, 8, 10, 10], [line for line, _ in errors], errors)
        self.assertEqual({'a.service': 5, 'b.service': 5, 'c.service': 7}, tako.units_of(values))
        self.assertEqual(tako.Credentials(('', ''), '', 'ca', '', ''), tako.credentials_of(values))

    def test_the_first_valid_origin_gets_the_token(self):
        for others in (['Origin=https://b/'], ['Origin=https://b/', 'Origin=https://c/']):
            values, _ = self.errors('Origin=x\nOrigin=https://a/\nToken=x\n' + '\n'.join(others))
            self.assertEqual(('https', 'a'), tako.credentials_of(values).endpoint)
        values, _ = self.errors('Token=x\nOrigin=x\n')
        self.assertEqual(tako.Credentials(('', ''), 'x', '', '', ''), tako.credentials_of(values))


class SimilarTest(unittest.TestCase):

    def test_the_most_similar_word_is_found(self):
        known = 'fetch', 'status', 'Store'
        for word, similar in (('fetsh', 'fetch'), ('FETCH', 'fetch'), ('store', 'Store'),
                              ('stats', 'status'), ('x', ''), ('', '')):
            self.assertEqual(similar, tako.most_similar(word, known))


class PasswordTest(unittest.TestCase):

    def test_a_user_and_password_become_a_header(self):
        for userinfo, expected in (('', ''), ('me:hunter2', basic(b'me:hunter2')),
                                   ('me', basic(b'me:')), (':', basic(b':')),
                                   ('a:b:c', basic(b'a:b:c')), ('%3A:%25', basic(b'::%'))):
            self.assertEqual(expected, tako.basic_authorization(userinfo))


if __name__ == '__main__':
    unittest.main()

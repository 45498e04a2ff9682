"""Sections 12 and 17: private origins, by token, private CA and client certificate."""
import os
import ssl
import subprocess
import unittest

import certificates
import origin
import scene
import tako
import test_network

ONE = scene.noise(300000)
TWO = ONE[:100000] + scene.noise(40000, 2) + ONE[100000:]
TOKEN = 'gho_Hush.hush-0123+/=='
BEARER = 'Bearer ' + TOKEN


@unittest.skipUnless(certificates.is_possible(), 'NO openssl COMMAND: https IS NOT TESTED')
class PrivateScene(scene.Scene):
    """An https origin with version 1.0, whose certificate is of a private CA."""

    limits = {'PAUSE_BUDGET_SECONDS': 0.0}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = scene.tempfile.mkdtemp()
        cls.authority = certificates.Authority(cls.folder)
        os.mkdir(os.path.join(cls.folder, 'stranger'))
        cls.stranger = certificates.Authority(os.path.join(cls.folder, 'stranger'))
        cls.context = cls.authority.context()
        cls.certificate, cls.key = cls.authority.certify('DNS:client')

    @classmethod
    def tearDownClass(cls):
        scene.remove_tree(cls.folder)
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.origin = self.serve(tls=self.context)
        self.one = self.origin.publish('1.0', ONE)
        self.image = '/store/' + self.one.digest

    def app(self, *lines, **settings):
        """Write a config with the private CA and these lines. Return its path."""
        lines = ('Authority=' + self.authority.bundle,) + lines
        return self.config(settings.pop('url', self.origin.url), more='\n'.join(lines) + '\n',
                           **settings)

    def assertFetched(self, *lines, **settings):
        """A fetch installs the image, and prints nothing else."""
        path = self.app(*lines)
        result = self.run_tako('fetch', path, **settings)
        self.assertEqual((0, path + ': 1.0 is installed\n', ''),
                         (result.code, result.out, result.err))
        self.assertInPlace(ONE)

    def authorizations(self, server):
        return {headers.get('Authorization') for _, headers in server.requests}

    def another(self, name='another', **settings):
        """Start another https origin. Return it."""
        settings.setdefault('tls', self.authority.context('IP:127.0.0.2'))
        server = self.serve(name, host='127.0.0.2', **settings)
        server.publish('1.0', ONE)
        return server


class TokenTest(PrivateScene):
    def test_each_request_to_the_origin_has_the_token(self):
        self.origin.has_ranges = self.origin.has_several = True
        self.origin.index(self.one)
        self.assertFetched('Token=' + TOKEN)
        two = self.origin.publish('1.1', TWO)
        self.origin.index(two)
        result = self.run_tako('fetch', self.app('Token=' + TOKEN))
        self.assertIn('1.1 is installed (', result.out)         # by ranges
        self.assertIn('Range', [name for _, headers in self.origin.requests for name in headers])
        self.assertEqual({BEARER}, self.authorizations(self.origin))

    def test_a_server_that_demands_the_token(self):
        def demands(handler):
            if handler.headers.get('Authorization') == BEARER:
                handler.serve()
            else:
                handler.answer(401, b'who are you?\n')
        self.origin.faults['*'] = demands
        result = self.run_tako('fetch', self.app())
        self.assertCode(75, result)
        self.assertIn('HTTP status 401\n  set Token=', result.err)
        result = self.run_tako('fetch', '-v', self.app('Token=wrong'))
        self.assertCode(75, result)
        self.assertNotIn('wrong', result.out + result.err)
        self.assertFetched('Token=' + TOKEN)

    def test_a_token_in_a_file(self):
        for content in (TOKEN, TOKEN + '\n', '\n ' + TOKEN + '\r\n'):
            self.empty_destination()
            self.assertFetched('Token=@' + self.write('token', content, 0o600))
        self.assertEqual({BEARER}, self.authorizations(self.origin))

    def test_a_token_in_the_credentials_directory(self):
        self.write('credentials-token', TOKEN)
        os.mkdir(self.path('given'))
        os.rename(self.path('credentials-token'), self.path('given', 'app-token'))
        self.assertFetched('Token=@app-token',
                           environ={'CREDENTIALS_DIRECTORY': self.path('given')})
        self.assertEqual({BEARER}, self.authorizations(self.origin))
        result = self.run_tako('fetch', self.app('Token=@app-token'))
        self.assertCode(2, result)
        self.assertIn('Token= app-token has no /, and $CREDENTIALS_DIRECTORY is not set\n',
                      result.err)

    def test_a_file_without_a_token_is_an_error_of_the_config(self):
        for content in (b'', b'\n', b'hunter2 hunter2', b'hunter2\xff', b'hunter2' * 2000):
            config = self.app('Token=@' + self.write('token', content))
            result = self.run_tako('fetch', '-v', config)
            self.assertCode(2, result)
            self.assertIn('Token= {}: the file has no valid content\n'.format(self.path('token')),
                          result.err)
            self.assertNotIn('hunter2', result.out + result.err)
        result = self.run_tako('fetch', self.app('Token=@' + self.path('none')))
        self.assertCode(2, result)
        self.assertIn('/none: No such file or directory\n', result.err)
        self.assertEqual([], self.origin.requests)

    def test_nothing_prints_or_stores_the_token(self):
        path = self.app('Token=' + TOKEN)
        self.origin.etag = lambda body: '"{}"'.format(origin.digest_of(body))
        for arguments in (['fetch', '-v', '--dry-run'], ['fetch', '-v'], ['fetch', '-v'],
                          ['status', '--json'], ['status'], ['check', '-v'], ['rollback', '-v']):
            result = self.run_tako(*(arguments + [path]))
            self.assertNotIn('hush', result.out + result.err)
        for folder, _, names in os.walk(self.destination):
            for name in names:
                self.assertNotIn(b'hush', scene.read(os.path.join(folder, name)))

    def test_a_token_that_the_server_repeats_is_neither_printed_nor_stored(self):
        def head(*lines):
            def answer(handler):
                handler.wfile.write('\r\n'.join(lines + ('Content-Length: 0', '', '')).encode())
                handler.hang_up()
            return answer
        path = self.app('Token=' + TOKEN)
        for fault in (
                head('HTTP/1.1 403 no ' + TOKEN), head('HTTP/1.1 ' + TOKEN), head(TOKEN),
                head('HTTP/1.1 200 OK', 'Content-Encoding: gzip, ' + TOKEN),
                head('HTTP/1.1 200 OK', 'Transfer-Encoding: ' + TOKEN),
                head('HTTP/1.1 200 OK', 'Content-Length: ' + TOKEN),
                head('HTTP/1.1 206 OK', 'Content-Range: ' + TOKEN),
                origin.redirects('/{}/x?x={}'.format(TOKEN, TOKEN)),
                origin.redirects('https://127.0.0.1:1/{}#{}'.format(TOKEN, TOKEN)),
                origin.redirects('ftp://h/' + TOKEN), origin.redirects('https://[' + TOKEN),
                origin.serves(TOKEN.encode()), origin.status(403, TOKEN.encode())):
            for where in ('/manifest', self.image):
                self.empty_destination()
                self.origin.faults = {where: fault}
                self.assertNotEqual(0, self.fetch_without_token(path).code)
        self.origin.faults = {'/manifest': lambda handler: handler.answer(
            200, handler.body, [('ETag', '"{}"'.format(TOKEN))])}
        self.assertEqual(0, self.fetch_without_token(path).code)

    def fetch_without_token(self, path):
        """Run fetch and status, which print and store no token. Return the Result of fetch."""
        results = [self.run_tako(*arguments, path) for arguments in (
            ['fetch', '-v'], ['status', '--json'], ['status'], ['status', '--history'],
            ['status', '--metrics'])]
        for result in results:
            self.assertNotIn('ush.hush', result.out + result.err)
        for folder, _, names in os.walk(self.destination):
            for name in names:
                self.assertNotIn(b'ush.hush', scene.read(os.path.join(folder, name)), name)
        return results[0]

    def test_only_requests_need_the_token(self):
        lines = 'Token=@' + self.path('none'),
        self.assertFetched('Token=' + TOKEN)
        path = self.app(*lines)
        self.assertCode(0, self.run_tako('status', path))
        self.assertCode(0, self.run_tako('fetch', '--init', path))
        self.assertCode(2, self.run_tako('fetch', path))
        self.assertInPlace(ONE)

    def test_two_configs_of_one_host_keep_their_tokens(self):
        self.assertFetched('Token=' + TOKEN)
        two, three = self.path('two'), self.path('three')
        paths = [self.app('Token=other', name='two.tako', destination=two),
                 self.app(name='three.tako', destination=three)]
        os.mkdir(two)
        os.mkdir(three)
        self.origin.requests.clear()
        self.assertCode(0, self.run_tako('fetch', self.path('app.tako'), *paths))
        self.assertEqual([BEARER, 'Bearer other', None],
                         self.origin.asked('/manifest', 'Authorization'))
        self.assertEqual(['Bearer other', None], self.origin.asked(self.image, 'Authorization'))


class ElsewhereTest(PrivateScene):
    """Neither another host nor a proxy gets the token or the client certificate."""

    def notes_peers(self, server):
        """Let a server note the certificates of its clients, None for none. Return its notes."""
        peers = []

        def note(handler):
            peers.append(handler.connection.getpeercert() or None)
            handler.serve()
        server.faults['*'] = note
        return peers

    def test_another_host_gets_neither_after_a_redirect(self):
        context = self.authority.context('IP:127.0.0.2')
        context.load_verify_locations(self.authority.bundle)
        context.verify_mode = ssl.CERT_OPTIONAL
        another = self.another(tls=context)
        peers = self.notes_peers(another)
        for path in ('/manifest', self.image):
            self.origin.faults[path] = origin.redirects(another.url + path)
        self.assertFetched('Token=' + TOKEN, 'ClientCertificate=' + self.certificate,
                           'ClientKey=' + self.key)
        self.assertEqual({None}, self.authorizations(another))
        self.assertEqual([None, None], peers)
        self.assertEqual({BEARER}, self.authorizations(self.origin))

    def test_another_port_gets_no_token_after_a_redirect(self):
        another = self.serve('another', tls=self.context)
        another.publish('1.0', ONE)
        self.origin.faults['/manifest'] = origin.redirects(another.url + '/manifest')
        self.assertFetched('Token=' + TOKEN)
        self.assertEqual(({None}, {BEARER}),
                         (self.authorizations(another), self.authorizations(self.origin)))

    def test_a_redirect_to_http_is_not_followed(self):
        plain = self.serve('plain')
        self.origin.faults['/manifest'] = origin.redirects(plain.url + '/manifest')
        self.assertCode(75, self.run_tako('fetch', self.app('Token=' + TOKEN)))
        self.assertEqual([], plain.requests)

    def test_a_redirect_within_the_origin_has_the_token(self):
        self.origin.faults['/manifest'] = origin.redirects('/other')
        self.origin.faults['/other'] = origin.serves(self.origin.read('manifest'))
        self.assertFetched('Token=' + TOKEN)
        self.assertEqual([BEARER], self.origin.asked('/other', 'Authorization'))

    def test_a_proxy_gets_no_token(self):
        proxy = test_network.Proxy(b'')
        self.addCleanup(proxy.close)
        heads, connect = [], tako.HttpConnection.send
        self.addCleanup(setattr, tako.HttpConnection, 'send', connect)

        def send(connection, target, headers, method='GET'):
            heads.append((method, headers.get('Authorization')))
            connect(connection, target, headers, method)
        tako.HttpConnection.send = send
        result = self.run_here('fetch', self.app('Token=' + TOKEN),
                               environ={'https_proxy': 'http://' + proxy.address})
        self.assertCode(0, result)
        self.assertEqual({('CONNECT', None), ('GET', BEARER)}, set(heads))
        self.assertEqual(['CONNECT'], sorted({asked[0] for asked in proxy.asked}))

    def test_a_loopback_origin_needs_no_tls_and_is_asked_past_any_proxy(self):
        proxy = test_network.Proxy(b'')
        self.addCleanup(proxy.close)
        plain = self.serve('plain')
        plain.publish('1.0', ONE)
        path = self.config(plain.url, more='Token={}\n'.format(TOKEN))
        result = self.run_tako('fetch', path, environ={'http_proxy': 'http://' + proxy.address})
        self.assertCode(0, result)
        self.assertEqual(({BEARER}, []), (self.authorizations(plain), proxy.asked))

    def test_a_loopback_origin_cannot_send_the_token_on(self):
        plain, another = self.serve('plain'), self.another(tls=None)
        plain.faults['*'] = lambda handler: origin.redirects(another.url + handler.path)(handler)
        path = self.config(plain.url, more='Token={}\n'.format(TOKEN))
        self.assertCode(0, self.run_tako('fetch', path))
        self.assertEqual(({BEARER}, {None}),
                         (self.authorizations(plain), self.authorizations(another)))


class AuthorityTest(PrivateScene):
    def test_the_ca_of_a_config_is_trusted(self):
        self.assertFetched()

    def test_the_ca_of_a_config_replaces_all_others(self):
        path = self.config(self.origin.url, more='Authority={}\n'.format(self.stranger.bundle))
        for environ in ({}, {'SSL_CERT_FILE': self.authority.bundle}):
            result = self.run_tako('fetch', path, environ=environ)
            self.assertCode(75, result)
            self.assertIn('certificate not trusted', result.err)
        self.assertEqual([], self.origin.requests)

    def test_the_ca_of_a_config_is_for_that_config_alone(self):
        private = self.app()
        public = self.config(self.origin.url, 'public.tako', destination=self.path('public'))
        os.mkdir(self.path('public'))
        for order in ((private, public), (public, private)):
            self.empty_destination()
            result = self.run_tako('fetch', *order)
            self.assertCode(75, result)
            self.assertIn(public + ': ' + self.origin.url + '/manifest: certificate not trusted',
                          result.err)
            self.assertInPlace(ONE)
            self.assertEqual([], scene.names(self.path('public')))

    def test_the_ca_counts_after_a_redirect_too(self):
        stranger = self.serve('stranger', tls=self.stranger.context())
        self.origin.faults['/manifest'] = origin.redirects(stranger.url + '/manifest')
        self.assertCode(75, self.run_tako('fetch', self.app()))
        self.assertEqual([], stranger.requests)

    def test_an_invalid_file_is_an_error_of_the_config(self):
        for path, what in ((self.path('none'), 'No such file or directory'),
                           (self.write('empty', b''), ''), (self.write('text', b'text\n'), '')):
            result = self.run_tako('fetch', self.config(
                self.origin.url, more='Authority={}\n'.format(path)))
            self.assertCode(2, result)
            self.assertIn('Authority= {}: {}'.format(path, what), result.err)

    def test_a_wrong_certificate_names_the_key(self):
        result = self.run_tako('fetch', self.config(self.origin.url))
        self.assertCode(75, result)
        self.assertIn('for a private CA, set Authority=', result.err)


class ClientCertificateTest(PrivateScene):
    """A server that demands a client certificate."""

    def setUp(self):
        super().setUp()
        context = self.authority.context()
        context.load_verify_locations(self.authority.bundle)
        context.verify_mode = ssl.CERT_REQUIRED
        self.origin = self.serve('demanding', tls=context)
        self.one = self.origin.publish('1.0', ONE)

    def test_a_certificate_and_its_key(self):
        self.assertFetched('ClientCertificate=' + self.certificate, 'ClientKey=' + self.key)

    def test_a_certificate_and_its_key_in_one_file(self):
        both = self.write('both.pem', scene.read(self.certificate) + scene.read(self.key))
        self.assertFetched('ClientCertificate=' + both)

    def test_a_certificate_in_the_credentials_directory(self):
        os.mkdir(self.path('given'))
        for name, source in (('cert', self.certificate), ('key', self.key)):
            self.write('given/' + name, scene.read(source))
        self.assertFetched('ClientCertificate=cert', 'ClientKey=key',
                           environ={'CREDENTIALS_DIRECTORY': self.path('given')})

    def test_without_a_certificate_the_server_refuses(self):
        result = self.run_tako('fetch', self.app())
        self.assertCode(75, result)
        self.assertEqual([], self.origin.requests)

    def test_a_certificate_of_another_ca_is_refused(self):
        certificate, key = self.stranger.certify('DNS:client')
        self.assertCode(75, self.run_tako('fetch', self.app('ClientCertificate=' + certificate,
                                                            'ClientKey=' + key)))
        self.assertEqual([], self.origin.requests)

    def test_another_config_does_not_use_the_certificate(self):
        private = self.app('ClientCertificate=' + self.certificate, 'ClientKey=' + self.key)
        other = self.app(name='other.tako', destination=self.path('other'))
        os.mkdir(self.path('other'))
        for order in ((private, other), (other, private)):
            self.empty_destination()
            result = self.run_tako('fetch', *order)
            self.assertCode(75, result)
            self.assertInPlace(ONE)
            self.assertEqual([], scene.names(self.path('other')))

    def test_invalid_files_are_errors_of_the_config(self):
        _, other_key = self.authority.certify('DNS:other')
        locked = self.path('locked.key')
        subprocess.check_call(['openssl', 'rsa', '-aes128', '-passout', 'pass:secret', '-in',
                               self.key, '-out', locked], stderr=subprocess.DEVNULL)
        for lines in (['ClientCertificate=' + self.path('none')],
                      ['ClientCertificate=' + self.certificate],       # without its key
                      ['ClientCertificate=' + self.certificate, 'ClientKey=' + other_key],
                      ['ClientCertificate=' + self.certificate, 'ClientKey=' + locked],
                      ['ClientCertificate=' + self.authority.bundle, 'ClientKey=' + self.key]):
            with self.subTest(lines):
                result = self.run_tako('fetch', self.app(*lines))
                self.assertCode(2, result)
                self.assertIn(lines[0].replace('=', '= '), result.err)
        self.assertEqual([], self.origin.requests)

    def test_a_refusal_names_the_key(self):
        """The alert itself may be lost, if the server closes the connection before it is read."""
        error = ssl.SSLError(1, '[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate '
                                'required (_ssl.c:2580)')
        found = tako._network_error('https://h/', '', error)
        self.assertNotIsInstance(found, tako.TransientError)
        self.assertIn('the server refused the client certificate', found.what)
        self.assertIn('ClientCertificate=', found.hint)


class CheckTest(PrivateScene):
    """tako check looks at the files of credentials."""

    def check_of(self, *lines, mode=0o600):
        """Check a config with these lines, which is valid. Return the Result."""
        path = self.app(*(('Keep=3',) + lines), version='1.0')
        os.chmod(path, mode)
        result = self.run_tako('check', path)
        self.assertEqual((0, path + ': valid\n'), (result.code, result.out))
        return result

    def warnings(self, *lines, **settings):
        """Return the warnings of such a check, without what they are about."""
        result = self.check_of(*lines, **settings)
        return [line.partition(': ')[2].partition(': ')[2].partition(': ')[2]
                for line in result.err.splitlines()[::2]]

    def test_files_that_can_be_used(self):
        token = self.write('token', TOKEN, 0o600)
        self.assertEqual([], self.warnings('Token=@' + token, 'ClientCertificate='
                                           + self.certificate, 'ClientKey=' + self.key))

    def test_files_that_cannot_be_used(self):
        for line, words in (('Token=@' + self.path('none'), 'none: No such file'),
                            ('Token=@token', 'Token= token has no /'),
                            ('ClientCertificate=' + self.certificate, self.certificate + ': ')):
            self.assertIn('tako: warning: ', self.check_of(line).err)
            self.assertIn(words, self.check_of(line).err)

    def test_secrets_that_others_can_read(self):
        self.assertEqual(['others can read the password or token'],
                         self.warnings('Token=' + TOKEN, mode=0o644))
        token = self.write('token', TOKEN, 0o644)
        self.assertEqual(['others can read ' + token], self.warnings('Token=@' + token, mode=0o644))
        both = self.write('both.pem', scene.read(self.certificate) + scene.read(self.key), 0o644)
        self.assertEqual(['others can read ' + both], self.warnings('ClientCertificate=' + both))
        self.assertEqual([], self.warnings('ClientCertificate=' + both, 'ClientKey=' + self.key))

    def test_all_errors_include_those_of_several_lines(self):
        path = self.config('http://h/', more='Token=x\nClientKey=/k\nnonsense\n')
        result = self.run_tako('check', path)
        self.assertCode(2, result)
        for words in ('Token= needs all', 'ClientKey= is set without', 'not a setting'):
            self.assertIn(words, result.err)


if __name__ == '__main__':
    unittest.main()

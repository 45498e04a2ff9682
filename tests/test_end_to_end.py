"""The commands of the README, one after another, with real processes, files and web servers."""
import os
import socket
import subprocess
import sys
import time
import unittest

import certificates
import fake_systemd
import origin
import scene
import tako


class RoadTest(scene.Scene):
    """gen-key, store, fetch, and store and fetch again."""

    def setUp(self):
        super().setUp()
        self.served = self.path('served')
        os.mkdir(self.served)
        lines = self.run_tako('gen-key').out.splitlines()
        self.public_key = lines[1]
        self.key_file = self.write('app.key', lines[3] + '\n', 0o600)
        os.mkdir(self.path('bin'))
        fake_systemd.install(self.directory, self.destination)
        with open(sys.executable, 'rb') as stream:
            self.first = stream.read()
        self.second = self.first + b'fixed'

    def store(self, content, version):
        options = ['--extend'] * os.path.exists(os.path.join(self.served, 'manifest'))
        result = self.run_tako('store', '-f', self.key_file, '-o', self.served,
                               self.write('image', content), version, *options)
        self.assertEqual(0, result.code, result)
        if options:
            self.assertEqual('', result.err)
        else:
            self.assertIn('this begins a new history', result.err)

    def walk(self, url, **environ):
        environ['PATH'] = self.path('bin') + ':/usr/bin:/bin'
        config = self.config(url, version='1.*', public_keys=[self.public_key],
                             more='Restart=app.service\nConfirm=0\n')
        self.store(self.first, '1.0.0')
        self.assertCode(0, self.run_tako('fetch', config, environ=environ))
        self.assertInPlace(self.first)
        self.store(self.second, '1.0.1')
        self.store(b'breaks everything', '2.0.0')
        self.assertCode(0, self.run_tako('fetch', config, environ=environ))
        self.assertInPlace(self.second)
        self.assertQuiet(self.run_tako('fetch', config, environ=environ))
        self.assertQuiet(self.run_tako('fetch', '--init', config, environ=environ))
        self.assertEqual([['app.service']] * 2, fake_systemd.restarted(self.directory))

    def test_the_whole_road_by_http(self):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        server = subprocess.Popen([sys.executable, '-m', 'http.server', str(port), '--bind',
                                   '127.0.0.1'],
                                  cwd=self.served, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        for _ in range(500):
            try:
                socket.create_connection(('127.0.0.1', port)).close()
                break
            except OSError:
                time.sleep(0.02)
        self.walk('http://127.0.0.1:{}/'.format(port))

    def test_the_whole_road_by_files(self):
        self.walk('file://' + self.served)

    @unittest.skipUnless(certificates.is_possible(), 'NO openssl COMMAND: https IS NOT TESTED')
    def test_the_whole_road_by_https_with_a_private_ca(self):
        authority = certificates.Authority(self.directory)
        with origin.Origin(self.served, tls=authority.context()) as server:
            self.walk(server.url, SSL_CERT_FILE=authority.bundle)
            self.assertCode(75, self.run_tako('fetch', self.path('app.tako')))

    def test_a_key_is_rotated_without_cutting_off_a_client(self):
        self.store(self.first, '1.0.0')
        url = 'file://' + self.served
        config = self.config(url, public_keys=[self.public_key])
        self.assertCode(0, self.run_tako('fetch', config))
        publisher = origin.Publisher(self.served, origin.OTHER_SEED)
        with open(os.path.join(self.served, 'manifest'), 'rb') as stream:
            publisher.entries = list(tako.open_manifest(
                stream.read(), [tako.parse_public_key(self.public_key)], 'manifest').entries)
        publisher.publish('1.0.1', self.second)
        self.assertCode(3, self.run_tako('fetch', config))
        self.assertInPlace(self.first)
        self.config(url, public_keys=[self.public_key, origin.OTHER_PUBLIC_KEY])
        self.assertCode(0, self.run_tako('fetch', config))
        self.assertInPlace(self.second)


class StolenKeyTest(scene.Scene):
    """A thief has published with a stolen key, and one machine has installed it."""

    def test_machines_recover_with_a_new_key_and_the_publishers_manifest(self):
        honest = origin.Publisher(self.path('served'))
        honest.publish('1.0', b'honest')
        app = self.config('file://' + self.path('served'))
        self.assertCode(0, self.run_tako('fetch', app))
        thief = origin.Publisher(self.path('served'))
        thief.entries = list(honest.entries)
        stolen = thief.publish('1.9', b'stolen')
        self.assertCode(0, self.run_tako('fetch', app))
        honest.sign()
        self.assertCode(3, self.run_tako('fetch', app))
        # the steps of docs/a-key-was-stolen.md
        new_key = self.write('new.key', tako.format_secret_key(origin.OTHER_SEED), 0o600)
        self.assertCode(0, self.run_tako('sign', '-f', new_key, '-p', origin.PUBLIC_KEY,
                                         self.path('served')))
        self.config('file://' + self.path('served'), public_keys=[origin.OTHER_PUBLIC_KEY])
        self.assertCode(3, self.run_tako('fetch', app))
        os.unlink(self.path('destination', 'manifest'))
        self.write('destination/manifest', honest.read('manifest'), 0o444)
        os.unlink(self.path('destination', 'store', stolen.digest))
        self.assertCode(0, self.run_tako('fetch', app))
        self.assertInPlace(b'honest')
        # The old key is worth nothing now.
        thief.publish('2.0', b'stolen again')
        self.assertCode(3, self.run_tako('fetch', app))
        self.assertInPlace(b'honest')


class CrowdTest(scene.Scene):
    """Many runs work on one directory at once."""

    def test_ten_fetches_at_once_make_one_download(self):
        os.mkdir(self.path('served'))
        with origin.Origin(self.path('served')) as server:
            entry = server.publish('1.0', b'image' * 100000)
            config = self.config(server.url)
            for process in [self.start('fetch', config) for _ in range(10)]:
                self.assertEqual(b'', process.communicate()[1])
                self.assertEqual(0, process.returncode)
            self.assertEqual(1, server.paths().count('/store/' + entry.digest))
        self.assertInPlace(b'image' * 100000)

    def test_ten_stores_at_once_lose_no_image(self):
        os.mkdir(self.path('served'))
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        processes = [self.start('store', '-f', key, '-o', self.path('served'),
                                self.write('image{}'.format(number), str(number)), str(number))
                                for number in range(10)]
        for process in processes:
            process.communicate()
            self.assertEqual(0, process.returncode)
        with open(self.path('served', 'manifest'), 'rb') as stream:
            manifest = tako.open_manifest(stream.read(), [tako.ed25519_public_key(origin.SEED)],
                                          'manifest')
        self.assertEqual([str(number) for number in range(10)],
                         [entry.version.text for entry in manifest.entries])

"""Sections 13 and 19: withdraw removes images, and verify and store do not miss them."""
import http.client
import os
import shutil
import signal
import socket
import subprocess
import unittest
import unittest.mock

import origin
import scene
import tako
from scene import ONE, THREE, TWO, noise

# A config of each server; {port}, {directory}: where it listens, and what it serves as /app/.
SERVERS = {
    'nginx': (('nginx', '-c'), '''
daemon off; pid {scratch}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {scratch}/1; proxy_temp_path {scratch}/2; fastcgi_temp_path {scratch}/3;
    uwsgi_temp_path {scratch}/4; scgi_temp_path {scratch}/5;
    server {{
        listen 127.0.0.1:{port};
        include {scratch}/gone.conf;
        location /app/ {{ alias {directory}/; }}
    }}
}}
'''),
    'apache': (('apache2', '-DFOREGROUND', '-f'), '''
ServerRoot {scratch}
ServerName localhost
PidFile {scratch}/pid
Listen 127.0.0.1:{port}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
ErrorLog /dev/stderr
Alias /app/ {directory}/
<Directory {directory}>
    Require all granted
</Directory>
Include {scratch}/gone.conf
'''),
    'caddy': (('caddy', 'run', '--adapter', 'caddyfile', '--config'), '''
{{
    admin off
}}
http://127.0.0.1:{port} {{
    import {scratch}/gone.conf
    handle_path /app/* {{
        root * {directory}
        file_server
    }}
}}
'''),
}


class WithdrawCase(scene.Scene):
    """A published directory with the versions 1.0, 1.1 and 2.0, and a patch to each."""

    def setUp(self):
        super().setUp()
        self.served = self.path('served')
        os.mkdir(self.served)
        self.key_file = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        self.contents = [noise(100000) + end for end in (b'', b'one', b'two')]
        for version, content in zip(('1.0', '1.1', '2.0'), self.contents):
            self.assertEqual(0, self.store(content, version, '--patch-from', '1').code)
        self.digests = [origin.digest_of(content) for content in self.contents]
        self.before = scene.snapshot(self.served)

    def store(self, content, version, *options):
        return self.run_tako('store', '-f', self.key_file, '-o', self.served,
                             self.write('image', content), version, *options)

    def withdraw(self, *arguments, **settings):
        return self.run_tako('withdraw', '-o', self.served, *arguments, **settings)

    def verify(self):
        return self.run_tako('verify', '-p', origin.PUBLIC_KEY, self.served)

    def names(self):
        """Return the first 64 characters of the names in the store, which are digests."""
        return {name[:64] for name in os.listdir(self.path('served', 'store'))}

    def lines(self, *digests):
        return ''.join('location ~ /store/{} {{ return 410; }}\n'.format(each) for each in digests)

    def assertWithdrawn(self, out, *numbers):
        """These images are not there, and `out` has a line for each; the others are untouched."""
        gone = [self.digests[number] for number in numbers]
        expected = {name: what for name, what in self.before.items()
                    if os.path.basename(name)[:64] not in gone}
        found = scene.snapshot(self.served)
        found.pop('.withdrawn', None)
        self.assertEqual(expected, found)
        self.assertEqual(self.lines(*gone), ''.join(
            line for line in out.splitlines(True) if not line.startswith('#')))


class WithdrawTest(WithdrawCase):
    def test_an_image_its_index_and_the_patch_to_it_are_removed(self):
        result = self.withdraw('1.1')
        self.assertEqual(0, result.code, result)
        self.assertRegex(result.out, '^# .*/served: withdrew 1.1; removed [0-9]+ kB\n'
                                     '# 1.1 is withdrawn\nlocation')
        self.assertWithdrawn(result.out, 1)
        # the patch from it to 2.0 stays
        self.assertIn('store/{0[2]}.{0[1]}.patch'.format(self.digests), self.before)

    def test_several_versions_are_withdrawn_in_any_spelling(self):
        self.assertWithdrawn(self.withdraw('2', '1.0.0').out, 0, 2)

    def test_keep_withdraws_all_but_the_newest_images(self):
        self.assertWithdrawn(self.withdraw('--keep', '3').out)
        result = self.withdraw('--keep', '1')
        self.assertIn(': withdrew 1.0, 1.1; removed', result.out)
        self.assertWithdrawn(result.out, 0, 1)

    def test_keep_counts_published_images_and_not_versions(self):
        self.assertEqual(0, self.store(self.contents[0], '3.0').code)
        self.assertEqual(0, self.withdraw('2.0').code)
        self.withdraw('--keep', '2')            # 3.0, which is the image of 1.0, and 1.1
        self.assertEqual({self.digests[0], self.digests[1]}, self.names())
        self.withdraw('--keep', '1')
        self.assertEqual({self.digests[0]}, self.names())

    def test_verify_and_store_do_not_complain_of_withdrawn_images(self):
        self.withdraw('1.0', '1.1')
        verified = self.verify()
        self.assertEqual((0, ''), (verified.code, verified.err))
        self.assertIn('1 of 3 images are intact, 2 withdrawn', verified.out)
        self.assertEqual('', self.store(ONE, '2.1').err)

    def test_a_damaged_image_is_not_excused(self):
        self.withdraw('1.0')
        self.write('served/store/' + self.digests[0], b'damage')
        self.assertEqual(3, self.verify().code)
        os.unlink(self.path('served', 'store', self.digests[1]))
        os.unlink(self.path('served', 'store', self.digests[0]))
        self.assertEqual(1, self.verify().code)

    def test_the_note_lists_entries_and_is_not_in_the_store(self):
        self.withdraw('1.0')
        self.assertEqual(origin.entry_of('1.0', self.contents[0]).line().encode(),
                         scene.read(self.path('served', '.withdrawn')))

    def test_the_lines_are_those_of_all_withdrawn_images(self):
        self.withdraw('2.0')
        self.assertWithdrawn(self.withdraw('1.0').out, 0, 2)

    def test_withdrawing_again_prints_the_same_lines_and_changes_nothing(self):
        first = self.withdraw('1.0', '1.1').out
        before = scene.snapshot(self.served)
        for arguments in (('1.1', '1.0'), ('1.0',), ('--keep', '1')):
            result = self.withdraw(*arguments)
            self.assertEqual(before, scene.snapshot(self.served))
            self.assertIn(': nothing to withdraw\n', result.out)
            self.assertEqual(first.splitlines()[1:], result.out.splitlines()[1:])

    def test_a_dry_run_prints_the_same_lines_and_changes_nothing(self):
        dry = self.withdraw('--dry-run', '--keep', '1')
        self.assertEqual((0, self.before), (dry.code, scene.snapshot(self.served)))
        self.assertIn(': would withdraw 1.0, 1.1\n', dry.out)
        self.assertEqual(self.withdraw('--keep', '1').out.splitlines()[1:],
                         dry.out.splitlines()[1:])

    def test_a_directory_without_images_is_enough(self):
        """As in a CI job, which brings only the manifest along."""
        scene.remove_tree(self.path('served', 'store'))
        self.assertEqual(self.lines(self.digests[0]), self.withdraw('1.0').out.split('\n', 2)[2])
        self.assertIn('listed images are missing', self.store(ONE, '2.1').err)

    def test_a_withdrawn_image_may_be_published_again(self):
        self.withdraw('1.0', '1.1')
        result = self.store(self.contents[0], '1.0')
        self.assertEqual(0, result.code)
        self.assertIn('warning: {}: the image of 1.0 was withdrawn, and is published again\n'
                      '  remove the lines'.format(self.served), result.err)
        self.assertEqual('', self.store(self.contents[0], '1.0').err)
        self.assertEqual({self.digests[0], self.digests[2]}, self.names())
        # from now on, it is missed
        os.unlink(self.path('served', 'store', self.digests[0]))
        self.assertEqual(1, self.verify().code)

    def test_again_does_not_offer_a_withdrawn_image(self):
        self.withdraw('1.0')
        result = self.run_tako('store', '--again', '1.0', '--without-image', '-f', self.key_file,
                               '-o', self.served, '2.1')
        self.assertCode(3, result)
        self.assertEqual(3, len(tako.ImageDirectory(self.served, [tako.parse_public_key(
            origin.PUBLIC_KEY)]).manifest().entries))

    def test_clients_take_an_older_version_with_the_lines_for_410(self):
        with origin.Origin(self.served) as server:
            config = self.config(server.url, version='1.*')
            self.withdraw('1.1')
            server.faults['/store/' + self.digests[1]] = origin.status(410)
            self.assertEqual(0, self.run_tako('fetch', config).code)
        self.assertInPlace(self.contents[0])


class RefusalTest(WithdrawCase):
    def assertRefused(self, code, message, *arguments, **settings):
        result = self.withdraw(*arguments, **settings)
        self.assertCode(code, result)
        self.assertIn(message, result.err)
        self.assertEqual(('', self.before), (result.out, scene.snapshot(self.served)))

    def test_what_does_not_exist_or_is_not_clear_is_a_usage_error(self):
        self.assertRefused(2, 'give either versions, or --keep N')
        self.assertRefused(2, 'give either versions, or --keep N', '--keep', '1', '1.0')
        self.assertRefused(2, 'not in the manifest: 1.*, 9', '1.0', '9', '1.*')
        self.assertRefused(2, 'invalid version', '')
        for number in ('0', '-1', 'x', '1.5', ''):
            self.assertRefused(2, ' is not a number of images\n  give a number from 1 on\n',
                               '--keep=' + number)
        self.assertRefused(2, "invalid choice: 'iis'", '--server', 'iis', '1.0')

    def test_one_of_two_versions_with_the_same_image_is_refused(self):
        self.store(self.contents[1], '1.2')
        self.before = scene.snapshot(self.served)
        self.assertRefused(2, '1.2 has the same image as 1.1\n  name both', '1.1')
        self.assertRefused(2, '1.1 has the same image as 1.2\n  name both', '1.2', '2.0')
        self.assertWithdrawn(self.withdraw('1.1', '1.2').out, 1)

    def test_a_directory_without_a_manifest_is_a_usage_error(self):
        for arguments in (('1.0',), ('-p', origin.PUBLIC_KEY, '1.0')):
            result = self.run_tako('withdraw', '-o', self.destination, *arguments)
            self.assertCode(2, result)
            self.assertIn('manifest: no such file', result.err)
        self.assertCode(2, self.run_tako('withdraw', '-o', self.path('missing'), '1.0'))

    def test_the_destination_of_a_client_is_not_touched(self):
        self.assertCode(0, self.run_tako('fetch', self.config('file://' + self.served)))
        before = scene.snapshot(self.destination)
        result = self.run_tako('withdraw', '-o', self.destination, '--keep', '1')
        self.assertCode(2, result)
        self.assertIn('a Destination= of fetch, not a published directory', result.err)
        self.assertEqual(before, scene.snapshot(self.destination))

    def test_with_a_public_key_the_manifest_is_verified_first(self):
        self.assertRefused(3, 'not signed by any', '-p', origin.OTHER_PUBLIC_KEY, '1.0')
        self.assertWithdrawn(self.withdraw('-p', origin.PUBLIC_KEY, '1.0').out, 0)

    def test_what_is_no_manifest_is_refused(self):
        signed = scene.read(self.path('served', 'manifest'))
        for content in (b'', b'<html>', signed[:-1], signed.replace(b'1.1 ', b'1.0 ')):
            os.unlink(self.path('served', 'manifest'))
            self.write('served/manifest', content)
            self.before = scene.snapshot(self.served)
            self.assertRefused(3, 'manifest: ', '1.0')

    def test_withdraw_fails_while_another_run_holds_the_lock(self):
        with tako.DirectoryLock(self.served, 0, print):
            result = self.run_here('withdraw', '-o', self.served, '1.0',
                                   limits={'LOCK_WAIT_SECONDS': 0.1})
        self.assertCode(75, result)
        self.assertEqual(self.before, scene.snapshot(self.served))


class InterruptionTest(WithdrawCase):
    """Withdraw is killed before each of its changes; then the same command does the rest."""

    CALLS = 'unlink', 'rename', 'fsync'

    def killed(self, number, *arguments):
        """Run withdraw, and kill it before its change with this number. Return the exit code."""
        child = os.fork()
        if child == 0:
            count = [0]

            def limited(call):
                def replacement(*arguments, **settings):
                    count[0] += 1
                    if count[0] == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*arguments, **settings)
                return replacement

            for name in self.CALLS:
                setattr(os, name, limited(getattr(os, name)))
            os._exit(self.run_here('withdraw', '-o', self.served, *arguments).code)
        status = os.waitpid(child, 0)[1]
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def test_each_interruption_leaves_a_directory_that_verifies_and_is_finished_later(self):
        shutil.copytree(self.served, self.path('copy'))
        for arguments in (('1.0', '1.1'), ('--keep', '1')):
            outcomes = []
            while outcomes[-1:] != [0]:
                scene.remove_tree(self.served)
                shutil.copytree(self.path('copy'), self.served)
                outcomes.append(self.killed(len(outcomes) + 1, *arguments))
                verified = self.verify()
                self.assertEqual((0, ''), (verified.code, verified.err))
                self.assertIn(self.digests[2], self.names())
                done = self.withdraw(*arguments)
                self.assertEqual(0, done.code)
                self.assertWithdrawn(done.out, 0, 1)
                self.assertEqual(['.withdrawn', 'manifest', 'store'],
                                 sorted(os.listdir(self.served)))
            self.assertEqual({-signal.SIGKILL, 0}, set(outcomes))
            self.assertGreater(len(outcomes), 8)

    def test_images_that_are_still_there_count_as_published(self):
        """Otherwise --keep would remove an image that the publisher restored without store."""
        self.withdraw('2.0')
        self.write('served/store/' + self.digests[2], self.contents[2])
        self.assertIn('3 of 3 images are intact\n',
                      self.run_tako('verify', '-p', origin.PUBLIC_KEY, self.served).out
                      if self.withdraw('--keep', '3').code == 0 else '')
        self.assertNotIn(self.digests[2], self.withdraw('--keep', '1').out)
        self.assertEqual({self.digests[2]}, self.names())


class ServerTest(WithdrawCase):
    """Real servers answer 410 for withdrawn images, and serve the others."""

    def free_port(self):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            return free.getsockname()[1]

    def status(self, port, path):
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
        try:
            connection.request('GET', path)
            return connection.getresponse().status
        finally:
            connection.close()

    def is_up(self, port):
        try:
            return self.status(port, '/') > 0
        except OSError:
            return False

    def check(self, name):
        command, text = SERVERS[name]
        if shutil.which(command[0]) is None:
            self.skipTest(name.upper() + ' IS NOT INSTALLED')
        gone = self.withdraw('--server', name, '1.0', '1.1')
        self.assertEqual(0, gone.code)
        self.write('gone.conf', gone.out)
        port = self.free_port()
        config = self.write('server.conf', text.format(
            scratch=self.directory, directory=self.served, port=port))
        server = subprocess.Popen(list(command) + [config], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, cwd=self.directory,
                                  env=dict(os.environ, HOME=self.directory))
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        scene.wait_until(lambda: server.poll() is not None or self.is_up(port))
        self.assertIsNone(server.poll())
        paths = ['/app/store/{}{}'.format(digest, end) for digest in self.digests
                 for end in ('', '.chunks')]
        self.assertEqual([410] * 4 + [200] * 2, [self.status(port, path) for path in paths])
        self.assertEqual(200, self.status(port, '/app/manifest'))

    def test_nginx(self):
        self.check('nginx')

    def test_apache(self):
        self.check('apache')

    def test_caddy(self):
        self.check('caddy')


class WarningTest(WithdrawCase):
    """What store prints of other versions."""

    def test_an_older_release_line_is_a_step_and_no_warning(self):
        self.assertEqual('', self.store(ONE, '1.2').err)
        result = self.store(TWO, '1.3', '-v')
        self.assertEqual((0, 'tako: {}: 1.3 is older than 2.0, which stays the newest\n'.format(
            self.served)), (result.code, result.err))

    def test_missing_images_are_counted_in_one_line(self):
        for digest in self.digests[:2]:
            os.unlink(self.path('served', 'store', digest))
        self.assertEqual('tako: warning: {}: 2 of 4 listed images are missing from store/; to list '
                         'them, run: tako verify\n'.format(self.served), self.store(ONE, '2.1').err)
        self.assertEqual('', self.store(THREE, '2.2', '-q').err)


if __name__ == '__main__':
    unittest.main()

"""docs/publish-to-s3.md: its snippets, with rclone and the S3 API of the suite."""
import http.client
import os
import re
import subprocess

import scene
from machine_parts import pages
from origin import digest_of

PAGE = 'docs/publish-to-s3.md'
BUCKET = 'example-images'
BUCKET_URL = 'https://{}.s3.eu-central-1.amazonaws.com'.format(BUCKET)     # on the page
IMMUTABLE = 'public, max-age=31536000, immutable'
FIRST, NEXT, REMOVE = 'Publish the first version', 'Publish the next version', 'Remove old images'
COMMAND_SECONDS = 120


class Reader(scene.Scene):
    """A publisher who follows the page, and a machine that fetches from the bucket."""

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.address = '127.0.0.1:{}'.format(server.port['http'])
        self.blocks = pages.blocks_of(scene.PROJECT, PAGE)

    def __enter__(self):
        self.setUp()
        os.symlink(scene.TAKO, self.path('tako.py'))
        config = pages.snippet(scene.PROJECT, PAGE, begins='[images]')
        os.makedirs(self.path('.config', 'rclone'))
        self.write('.config/rclone/rclone.conf', pages.vary(
            config, 'provider = AWS\n',
            'provider = Other\nendpoint = http://{}\n'.format(self.address)))
        self.ask('PUT', '/' + BUCKET)
        self.paste('python3 tako.py gen-key -o app')
        self.app = self.config_for('app.tako', '*', self.destination)
        return self

    def __exit__(self, *error):
        self.doCleanups()

    def config_for(self, name, version, destination):
        """Write a config for the bucket. Return its path."""
        key = scene.read(self.path('app.pub')).decode().strip()
        return self.config('http://{}/{}/app'.format(self.address, BUCKET), name, version, [key],
                           destination)

    def section(self, heading):
        """Return the shell commands of a section."""
        lines = scene.read(os.path.join(scene.PROJECT, PAGE)).decode().split('\n')
        begin = lines.index('## ' + heading)
        end = next((at for at in range(begin + 1, len(lines)) if lines[at].startswith('## ')),
                   len(lines))
        found = [each.text for each in self.blocks
                 if each.language == 'sh' and begin < each.line <= end]
        self.assertNotEqual([], found, heading)
        return ''.join(found)

    def paste(self, commands, succeeds=True):
        """Run commands of the page. Return their output."""
        text = commands.replace(BUCKET_URL, 'http://{}/{}'.format(self.address, BUCKET))
        environ = {'PATH': os.environ['PATH'], 'HOME': self.path(),
                   'AWS_ACCESS_KEY_ID': 'key', 'AWS_SECRET_ACCESS_KEY': 'secret'}
        done = subprocess.run(['bash', '-ec', text], cwd=self.path(), env=environ,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=COMMAND_SECONDS)
        printed = done.stdout.decode('utf-8', 'replace')
        self.assertEqual(succeeds, done.returncode == 0, '{}\n{}'.format(text, printed))
        return printed

    def ask(self, method, path, content=b''):
        """Send a request without credentials. Return its response, with the body read."""
        connection = http.client.HTTPConnection(self.address)
        connection.request(method, path, content)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response

    def get(self, name):
        """Return the status of a file below app/, and its Cache-Control."""
        response = self.ask('GET', '/{}/app/{}'.format(BUCKET, name))
        return response.status, response.getheader('Cache-Control')

    def uploads(self):
        """Return the names that were uploaded below app/, in order."""
        with open(self.server.path('stderr.0')) as stream:
            log = re.sub('\033[^m]*m', '', stream.read())
        return re.findall(r'"PUT /{}/app/([^ ?]+)\S* HTTP'.format(BUCKET), log)

    def fetch(self, code, config=None):
        """Fetch, and expect this exit code. Return the result."""
        result = self.run_tako('fetch', '--timeout', '5', config or self.app)
        self.assertCode(code, result)
        return result

    def publish(self, heading, content, version=''):
        """Follow a section, with this image. Its uploads end with the manifest."""
        self.write('app.img', content)
        commands = self.section(heading)
        before = len(self.uploads())
        printed = self.paste(commands.replace('1.0.1', version) if version else commands)
        names = self.uploads()[before:]
        self.assertEqual('manifest', names.pop())
        self.assertLessEqual({'store/' + digest_of(content)}, set(names))
        self.assertNotIn('manifest', names)
        return printed


def check(server, contents):
    """Publish and fetch as the page says. contents: three images."""
    old, new, newest = contents
    with Reader(server) as reader:
        reader.publish(FIRST, old)
        reader.assertIn('403', reader.fetch(75).err)        # everything is private
        policy = pages.snippet(scene.PROJECT, PAGE, begins='{').encode()
        status = reader.ask('PUT', '/{}?policy'.format(BUCKET), policy).status
        reader.assertIn(status, (200, 204))
        reader.fetch(0)
        reader.assertInPlace(old)
        reader.assertEqual((200, 'no-cache'), reader.get('manifest'))
        reader.assertEqual((200, IMMUTABLE), reader.get('store/' + digest_of(old)))

        scene.remove_tree(reader.path('public'))            # as in a CI job
        printed = reader.publish(NEXT, new)
        reader.assertNotIn('begins a new history', printed)
        reader.assertRegex(printed, r'\n1\.0\.1 .*\n1\.0\.0 ')
        reader.assertIn('1.0.1 is installed', reader.fetch(0).out)
        reader.assertInPlace(new)

        miss_the_newest(reader, newest, new)
        remove_old_images(reader, old, new)
        miss_the_manifest(reader)


def miss_the_newest(reader, newest, new):
    """If the newest image is missing, fetch exits with 75 and installs no other version."""
    printed = reader.publish(NEXT, newest, '1.0.2')
    reader.assertIn('1.0.2', printed)
    name = 'store/' + digest_of(newest)
    reader.paste('rclone deletefile images:{}/app/{}'.format(BUCKET, name))
    reader.assertIn('404', reader.fetch(75).err)
    reader.assertInPlace(new)
    reader.paste('rclone copyto public/{1} images:{0}/app/{1}'.format(BUCKET, name))
    reader.fetch(0)
    reader.assertInPlace(newest)


def remove_old_images(reader, old, new):
    """The commands keep the newest image in the bucket, and remove the others."""
    reader.paste('rclone copy images:{}/app/store public/store'.format(BUCKET))
    reader.paste(reader.section(REMOVE))
    reader.assertEqual([404, 404], [reader.get('store/' + digest_of(each))[0]
                                    for each in (old, new)])
    reader.fetch(0)
    os.mkdir(reader.path('other'))
    config = reader.config_for('other.tako', '1.0.0', reader.path('other'))
    reader.assertIn('404', reader.fetch(75, config).err)


def miss_the_manifest(reader):
    """Without the published manifest, the commands for the next version upload nothing."""
    reader.paste('rm -r public; rclone deletefile images:{}/app/manifest'.format(BUCKET))
    before = reader.uploads()
    commands = reader.section(NEXT)
    reader.paste(commands, succeeds=False)
    # --extend refuses, even if the copy itself is left out
    kept = [line for line in commands.splitlines(True) if 'copyto images:' not in line]
    reader.assertIn('--extend', reader.paste('rm -rf public\n' + ''.join(kept), succeeds=False))
    reader.assertEqual(before, reader.uploads())

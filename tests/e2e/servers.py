"""Real servers: fetch from nginx, Apache, lighttpd, Caddy, Python's http.server and an S3 API, over http and https, by
IPv4 and IPv6, straight, through proxies and gateways, from caches, and where addresses are silent.

Each case is a server, a road to it, and what is to work there. All bytes that come are counted on the wire.
"""
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tarfile
import time
import unittest
from collections import namedtuple

import certificates
import origin
import scene
import suite
import tako
from servers_software import namespaces
from servers_software.gateways import (HaproxyHints, HaproxyRefusal, HaproxySerial,
                                       NginxHeedingCache, NginxRateLimit, NginxRefusal,
                                       SerialServer, SquidDefaultCache)
from servers_software.origins import (MOTO, ORIGINS, PASSWORD, TOKEN, USER, Lighttpd, Nginx,
                                      PythonServer, Site)
from servers_software.programs import HAS_IPV6, PATH
from servers_software.proxies import CACHES, PROXIES, NginxCache
from servers_software.wire import Wire
from scene import noise

IMAGE_BYTES = 3 << 20
CLIENTS_OF_A_CACHE = 20         # of which one at last gets what the cache has kept
OVERHEAD_BYTES = 40000          # of a few answers, beyond their bodies: headers, TLS
CONTENT_OLD, CONTENT_NEW, CONTENT_OTHER, CONTENT_GONE = range(4)
LIGHTTPD_TLS = '/usr/lib/lighttpd/mod_openssl.so'       # a package of its own
COMMANDS = ('nginx', 'apache2', 'lighttpd', 'caddy', 'squid', 'tinyproxy', 'openssl', 'curl')
URL_PASSWORD = '{}:{}@'.format(USER, PASSWORD.replace(' ', '%20'))
# what a withdrawn image is answered with is what these wait for, so no pause has to be long
LIMITS = {'PAUSE_FIRST_SECONDS': 0.05, 'PAUSE_BUDGET_SECONDS': 1.0}
MONTH_SECONDS = 30 * 86400
IN_TIME = '--timeout', '20'             # a run that waits 10 s for each connection takes longer
SILENCE_SECONDS = 15                    # a run with --timeout 5 ends in this time on a busy machine


class Road(namedtuple('Road', ('name', 'listener', 'proxy', 'has_password'))):
    """A way to a server: by which of its listeners, and through a proxy, or None."""

    @property
    def is_tls(self):
        return self.listener.startswith('tls')


ROADS = [Road('http', 'http', None, False), Road('http by IPv6', 'http6', None, False),
         Road('TLS 1.2', 'tls12', None, False), Road('TLS 1.3', 'tls13', None, False)]
ROADS += [Road('{} through {}{}'.format(scheme, proxy.name, ' with a password' * has_password), listener, proxy, has_password)
          for proxy in PROXIES for scheme, listener in (('http', 'http'), ('https', 'tls13')) for has_password in (False, True)]


def archive(changes):
    """A tar of some of Python's own library, as an image would hold, with so many of its files changed."""
    library, made = sysconfig.get_paths()['stdlib'], io.BytesIO()
    names = sorted(name for name in os.listdir(library) if name.endswith('.py'))
    with tarfile.open(fileobj=made, mode='w') as tar:
        for number, name in enumerate(names):
            content = scene.read(os.path.join(library, name))
            if number % (len(names) // (changes + 1)) == 1 and changes:
                content = content.replace(b'self', b'this', 1) + b'# a line that was not there\n' * changes
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            if made.tell() > IMAGE_BYTES:
                break
    return made.getvalue()


class Field:
    """All that is started once: servers, proxies, an authority; and the images that are published."""

    def __init__(self, directory):
        self.directory = directory
        self.root = os.path.join(directory, 'root')
        os.makedirs(self.root)
        self.authority = certificates.Authority(directory)
        self.contents = [archive(0), archive(8), noise(IMAGE_BYTES, 5), archive(9)]
        self.indexes = [tako.format_index(tako.index_image(io.BytesIO(content).read, *tako.choose_chunks(
            content[:tako.CHUNK_HEAD_BYTES], len(content)))) for content in self.contents]
        hashed = subprocess.check_output(['openssl', 'passwd', '-apr1', PASSWORD], universal_newlines=True).strip()
        self.passwords = os.path.join(directory, 'passwords')
        origin.write(self.passwords, '{}:{}\n'.format(USER, hashed).encode())
        self.site = Site(self.root, {
            'right': self.authority.certify(), 'expired': self.authority.certify(is_expired=True),
            'wrong host': self.authority.certify('DNS:images.example.com'), 'self-signed': self.authority.certify_itself()},
            origin.digest_of(self.contents[CONTENT_GONE]), self.passwords, self.authority.bundle)
        self.client = 'ClientCertificate={}\nClientKey={}\n'.format(*self.authority.certify('DNS:client'))
        self.origins, self.proxies, self._numbers = {}, {}, itertools.count(1)
        make_readable(directory)

    def start(self, stack):
        """Start all servers and proxies, until the stack is left."""
        for kind in ORIGINS:
            self.origins[kind] = kind(os.path.join(self.directory, kind.name), self.site)
        for kind in PROXIES:
            for has_password in (False, True):
                folder = os.path.join(self.directory, '{}-{}'.format(kind.name, has_password))
                self.proxies[kind, has_password] = kind(folder, self.passwords if has_password else None)
        started = list(self.origins.values()) + list(self.proxies.values())
        for program in started:
            stack.callback(program.start().__exit__)
        for program in started:
            program.__enter__()

    def new_tree(self):
        """The name of a tree that no case had."""
        return 'tree{}'.format(next(self._numbers))


def make_readable(directory):
    """For servers that give up being root."""
    os.chmod(directory, 0o755)
    for folder, folders, names in os.walk(directory):
        for name in folders + names:
            os.chmod(os.path.join(folder, name), 0o755)


class Stage(scene.Scene):
    """A case: a tree on a server, a client, and the wire between them."""

    limits = LIMITS

    def __init__(self, field, server, road=ROADS[0], place='', port=None, userinfo='',
                 namespace=None):
        super().__init__()
        self.namespace = namespace
        self.field, self.server, self.road = field, server, road
        self._place, self._port, self._userinfo = place, port or server.port[road.listener], userinfo

    def __enter__(self):
        self.setUp()
        self.tree = self.field.new_tree()
        self.publisher = origin.Publisher(os.path.join(self.field.root, self.tree))
        self.addCleanup(scene.remove_tree, self.publisher.directory)
        host = '::1' if self.road.listener == 'http6' else '127.0.0.1'
        proxy = self.field.proxies.get((self.road.proxy, self.road.has_password))
        listener = None
        if self.namespace is not None:
            self.python = self.namespace.command + self.python
            listener = self.namespace.socket()
            listener.bind((namespaces.WORKING, 0))
        self.wire = Wire(host, proxy.port if proxy else self._port, listener)
        self.wire.__enter__()
        self.addCleanup(self.wire.__exit__)
        self.environ = {'SSL_CERT_FILE': self.field.authority.bundle}
        if proxy is not None:
            password = '{}:{}@'.format(USER, self.proxy_password()) if self.road.has_password else ''
            self.environ['https_proxy' if self.road.is_tls else 'http_proxy'] = 'http://{}127.0.0.1:{}'.format(
                password, self.wire.port)
        name = namespaces.HOST if self.namespace else '[::1]' if host == '::1' else host
        self.url = '{}://{}{}:{}{}{}/{}'.format(
            'https' if self._port in self.tls_ports() else 'http', self._userinfo, name,
            self._port if proxy else self.wire.port, self.server.prefix, self._place, self.tree)
        self.app = self.config(self.url)
        return self

    def __exit__(self, *error):
        self.doCleanups()

    def tls_ports(self):
        return [each[1] for each in self.server.tls_listeners()]

    def proxy_password(self):
        return PASSWORD.replace(' ', '%20' if self.road.proxy.name == 'squid' else '')

    def publish(self, version, number):
        """Publish one of the contents, with its index; the content."""
        content = self.field.contents[number]
        entry = self.publisher.publish(version, content)
        self.publisher.write('store/{}.chunks'.format(entry.digest), self.field.indexes[number])
        self.server.upload(self.tree)
        return content

    def fetch(self, *options):
        before = self.wire.received
        result = self.run_tako('fetch', *options, self.app, environ=self.environ)
        self.assertGreater(self.wire.received, before, 'went by another road')
        return result

    def fetched(self, version, number):
        """Publish it, and fetch; nothing has gone over the wire then."""
        content = self.publish(version, number)
        self.assertCode(0, self.fetch())
        self.assertInPlace(content)
        self.wire.heal()
        return content

    def log(self, *names, until):
        """What the server answered for names in the tree."""
        return self.server.log(['{}{}/{}/{}'.format(self.server.prefix, self._place, self.tree, each) for each in names], until)

    def log_of(self, content, until=bool):
        return self.log('store/' + origin.digest_of(content), until=until)

    def assertFailed(self, code, what, result, before):
        """The run ended so, saying that, and changed nothing."""
        self.assertCode(code, result)
        self.assertIn(what, result.err)
        self.assertEqual(before, scene.snapshot(self.destination))

    def assertNoTemporaries(self, root=None):
        super().assertNoTemporaries(root)
        self.assertEqual([], [name for name in os.listdir(root or self.destination) if name.startswith('.partial-')])


# ---- what is to work on every road

def comes_and_comes_no_more(stage):
    """A first fetch; a second one is silent, and costs a 304 where there are ETags."""
    content = stage.fetched('1.0', CONTENT_OLD)
    stage.assertQuiet(stage.fetch())
    manifest = stage.log('manifest', until=lambda found: len(found) == 2)
    stage.assertEqual([200, 304 if stage.server.has_etags else 200], [each.status for each in manifest])
    stage.assertLess(stage.wire.received, OVERHEAD_BYTES)
    if stage.server.has_sizes:
        stage.assertEqual([len(content)], [each.size for each in stage.log_of(content)])


def updates(stage):
    """An update costs what changed, where there are ranges; and what is told of it is true."""
    stage.fetched('1.0', CONTENT_OLD)
    updates_to_new(stage)


def updates_to_new(stage):
    content = stage.publish('1.1', CONTENT_NEW)
    result = stage.fetch()
    stage.assertCode(0, result)
    stage.assertInPlace(content)
    stage.assertEqual('', result.err)
    known, = json.loads(stage.run_tako('status', '--json', stage.app).out)
    stage.assertEqual(len(content), known['size'])
    stage.assertLessEqual(known['received'], stage.wire.received)
    stage.assertLess(stage.wire.received, known['received'] + OVERHEAD_BYTES)
    if not stage.server.has_ranges:
        stage.assertGreater(known['received'], len(content))
        stage.assertNotIn('instead of', result.out)
        return
    stage.assertLess(known['received'], 0.08 * len(content))
    stage.assertIn('instead of', result.out)
    if stage.server.has_sizes:
        # answers on several connections are not all logged at once
        name = 'store/' + origin.digest_of(content)
        all_answers = stage.log(name, name + '.chunks', until=lambda found: size_of(found) >= known['received'])
        stage.assertEqual(known['received'], size_of(all_answers))
    answers = stage.log_of(content)
    stage.assertEqual({206}, {each.status for each in answers})
    if stage.server.has_several:
        stage.assertEqual(1, len(answers))


def size_of(answers):
    return sum(each.size for each in answers)


def resumes(stage):
    """A line that breaks is taken up in the same run, where it broke."""
    stage.fetched('1.0', CONTENT_OLD)
    content = stage.publish('1.1', CONTENT_OTHER)
    stage.wire.cut(len(content) // 2)
    stage.assertCode(0, stage.fetch())
    stage.assertInPlace(content)
    resumed(stage, content)


def resumed(stage, content):
    answers = stage.log_of(content, lambda found: len(found) > 1)
    if stage.server.has_ranges:
        stage.assertEqual([200, 206], [each.status for each in answers])
        # what the server and the system have underway when the line breaks is lost
        stage.assertLess(stage.wire.received, 1.1 * len(content) + OVERHEAD_BYTES)
    else:
        stage.assertEqual([200, 200], [each.status for each in answers])
        stage.assertGreater(stage.wire.received, 1.4 * len(content))


def goes_on_after_a_kill(stage):
    """A run that was killed half way is taken up by the next, where it was."""
    stage.fetched('1.0', CONTENT_OLD)
    content = stage.publish('1.1', CONTENT_OTHER)
    kept = killed_half_way(stage, content)
    stage.assertCode(0, stage.fetch())
    stage.assertInPlace(content)
    if stage.server.has_ranges:
        stage.assertLess(stage.wire.received, len(content) - kept + OVERHEAD_BYTES)


def killed_half_way(stage, content):
    """Kill a run while it downloads this content; how many bytes it left behind."""
    stage.wire.stall(len(content) // 2)
    process = stage.start('fetch', stage.app, environ=stage.environ)
    stage.assertTrue(stage.wire.stalled.wait(20))
    partial = stage.path('destination', '.partial-' + origin.digest_of(content))
    scene.wait_until(lambda: os.path.exists(partial) and os.path.getsize(partial) > len(content) // 4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    stage.assertIsNone(scene.fault_of_latest(stage.destination))
    stage.wire.heal()
    return os.path.getsize(partial)


def updates_over_a_broken_line(stage):
    """Ranges that came are not asked for again."""
    stage.fetched('1.0', CONTENT_OLD)
    content = stage.publish('1.1', CONTENT_NEW)
    stage.wire.cut(60000)
    stage.assertCode(0, stage.fetch())
    stage.assertInPlace(content)
    if stage.server.has_ranges:
        stage.assertLess(stage.wire.received, 0.16 * len(content) + OVERHEAD_BYTES)


def repairs(stage):
    """A flipped byte costs a chunk."""
    content = stage.fetched('1.0', CONTENT_OLD)
    origin.write(stage.path('destination', 'latest'), content[:2000000] + b'\x00' + content[2000001:])
    result = stage.fetch()
    stage.assertCode(0, result)
    stage.assertIn('1.0 is repaired', result.out)
    stage.assertInPlace(content)
    if stage.server.has_ranges:
        stage.assertLess(stage.wire.received, 30000 + OVERHEAD_BYTES)


def is_withdrawn(stage):
    """A 410 is a withdrawal, after which the next older version will do; a 404 is none; later all is well again."""
    old = stage.fetched('1.0', CONTENT_OLD)
    gone = stage.publish('1.1', CONTENT_GONE)
    if not stage.server.can_withdraw:
        withdraw_from(stage, gone)
    before = scene.snapshot(stage.path('destination', 'store'))
    result = stage.fetch()
    stage.assertCode(0 if stage.server.can_withdraw else 75, result)
    stage.assertIn('withdrawn (410)' if stage.server.can_withdraw else 'status 404', result.err)
    stage.assertEqual('store/' + origin.digest_of(old), os.readlink(stage.path('destination', 'latest')))
    stage.assertEqual(before, scene.snapshot(stage.path('destination', 'store')))
    if stage.server.can_withdraw:
        stage.assertNoTemporaries()
        stage.assertQuiet(stage.fetch())
    new = stage.publish('1.2', CONTENT_NEW)
    stage.assertCode(0, stage.fetch())
    stage.assertInPlace(new)


def withdraw_from(stage, content):
    """Remove an image from a server that can say no more than 404."""
    name = 'store/' + origin.digest_of(content)
    os.unlink(os.path.join(stage.publisher.directory, name))
    stage.server.remove('{}/{}'.format(stage.tree, name))


CHECKS = (comes_and_comes_no_more, updates, resumes, goes_on_after_a_kill, updates_over_a_broken_line, repairs, is_withdrawn)


def travel(field, kind, road, check):
    with Stage(field, field.origins[kind], road) as stage:
        check(stage)


# ---- certificates, redirects, passwords, compression

def meet_certificate(field, kind, listener):
    """A certificate that is not to be trusted is exit code 75, in words; nothing is changed."""
    server = field.origins[kind]
    with Stage(field, server, port=server.port['tls13' if listener == 'unknown authority' else listener]) as stage:
        stage.publish('1.0', CONTENT_OLD)
        if listener == 'unknown authority':
            stage.environ = {}
        stage.assertFailed(75, server.words.get(listener, 'certificate not trusted'), stage.fetch(), {})
        stage.assertEqual([], list(stage.log('manifest', until=lambda _: True)))


def meet_redirect(field, kind, listener):
    """From http to https, but not back."""
    server = field.origins[kind]
    with Stage(field, server, port=server.port[listener]) as stage:
        content = stage.publish('1.0', CONTENT_OLD)
        result = stage.fetch()
        if listener == 'up':
            stage.assertCode(0, result)
            stage.assertInPlace(content)
        else:
            stage.assertFailed(75, 'redirected to http, which Tako does not follow', result, {})


def meet_password(field, kind, userinfo):
    with Stage(field, field.origins[kind], place='/secret', userinfo=userinfo) as stage:
        content = stage.publish('1.0', CONTENT_OLD)
        result = stage.fetch()
        stage.assertNotIn(PASSWORD, str(result))
        stage.assertNotIn('wr0ng', str(result))
        if userinfo == URL_PASSWORD:
            stage.assertCode(0, result)
            stage.assertInPlace(content)
        else:
            stage.assertFailed(75, 'status 401', result, {})


def meet_private(field, road, listener, place, lines, refusal):
    """A server that demands a token or a client certificate, and whose CA only the config names."""
    server = field.origins[Nginx]
    with Stage(field, server, road=road, port=server.port[listener], place=place) as stage:
        content = stage.publish('1.0', CONTENT_OLD)
        del stage.environ['SSL_CERT_FILE']
        stage.app = stage.config(stage.url, more='Authority={}\n'.format(field.authority.bundle)
                                 + lines.format(token=TOKEN, client=field.client))
        result = stage.fetch('-v')
        stage.assertNotIn('hush', str(result))
        if refusal:
            stage.assertFailed(75, refusal, result, {})
            return
        stage.assertCode(0, result)
        stage.assertInPlace(content)
        content = stage.publish('1.1', CONTENT_NEW)     # by ranges
        result = stage.fetch()
        stage.assertCode(0, result)
        stage.assertIn('instead of', result.out)
        stage.assertInPlace(content)


def meet_compression(field, kind, place):
    """Compression that is not asked for is not had; and where a server forces it, that is said."""
    with Stage(field, field.origins[kind], place='/' + place) as stage:
        content = stage.publish('1.0', CONTENT_OLD)
        if place == 'forced':
            stage.assertFailed(75, 'Content-Encoding gzip unasked', stage.fetch(), {})
            return
        coded = subprocess.check_output(['curl', '-s', '--compressed', '-o', os.devnull, '-w', '%{size_download}',
                                         stage.url + '/store/' + origin.digest_of(content)])
        stage.assertLess(int(coded), len(content) / 2)          # it does compress
        stage.assertCode(0, stage.fetch())
        stage.assertInPlace(content)
        stage.wire.heal()
        updates_to_new(stage)


def meet_forced_compression_later(field, kind):
    """A server that begins to compress costs no image that is here."""
    server = field.origins[kind]
    with Stage(field, server) as stage:
        old = stage.fetched('1.0', CONTENT_OLD)
        new = stage.publish('1.1', CONTENT_NEW)
        app, stage.app = stage.app, stage.config(stage.url.replace('/' + stage.tree, '/forced/' + stage.tree), 'other.tako')
        stage.assertFailed(75, 'Content-Encoding gzip unasked', stage.fetch(), scene.snapshot(stage.destination))
        stage.assertInPlace(old)
        stage.app = app
        stage.assertCode(0, stage.fetch())
        stage.assertInPlace(new)


# ---- proxies that do not let us through

def meet_proxy(field, kind, proxy_kind, listener, userinfo):
    """A proxy that wants another password, or none at all where one is needed: exit code 75, and what to do."""
    road = Road('', listener, proxy_kind, True)
    with Stage(field, field.origins[kind], road) as stage:
        stage.publish('1.0', CONTENT_OLD)
        for name in ('http_proxy', 'https_proxy'):
            stage.environ[name] = 'http://{}127.0.0.1:{}'.format(userinfo, stage.wire.port)
        result = stage.fetch()
        # tinyproxy says 401, as a server would, where the password is wrong
        is_401 = proxy_kind.name == 'tinyproxy' and userinfo
        stage.assertFailed(75, '401' if is_401 else '407', result, {})
        if not is_401 or listener == 'tls13':
            stage.assertIn('add user and password to the proxy URL', result.err)
        stage.assertNotIn('wr0ng', result.err)


def meet_proxy_without_a_server(field, proxy_kind, scheme):
    """Nobody listens behind the proxy: exit code 75, whatever page the proxy makes of that."""
    with Stage(field, field.origins[ORIGINS[0]], Road('', 'http', proxy_kind, False)) as stage:
        stage.environ['https_proxy'] = stage.environ['http_proxy']
        with contextlib.closing(socket.socket()) as unused:
            unused.bind(('127.0.0.1', 0))
            stage.app = stage.config('{}://127.0.0.1:{}/x'.format(scheme, unused.getsockname()[1]))
            stage.assertFailed(75, 'try again later', stage.fetch(), {})


# ---- caches

def meet_stale_cache(field, kind, cache_kind):
    """A cache that keeps a manifest: what is known here already is never given up for it, and then all is well."""
    server = field.origins[kind]
    with cache_kind(os.path.join(field.directory, field.new_tree() + '-cache'), server) as cache:
        with Stage(field, server, port=cache.port) as stage:
            manifest = stage.url + '/manifest'
            stage.fetched('1.0', CONTENT_OLD)
            stage.assertQuiet(stage.fetch())                # once more: squid does not always keep what it got but once
            new = stage.publish('1.1', CONTENT_NEW)
            stage.assertQuiet(stage.fetch())                # of which nobody can know
            straight = stage.config('http://127.0.0.1:{}{}/{}'.format(server.port['http'], server.prefix, stage.tree),
                                    'straight.tako')
            stage.assertCode(0, stage.run_tako('fetch', straight))
            stage.assertInPlace(new)
            before = scene.snapshot(stage.destination)
            stage.assertFailed(3, 'lacks or changes 1.1, which the last manifest had', stage.fetch(), before)
            # with a mirror that is not stale, that is a warning
            both = stage.config(stage.url, 'both.tako', more=scene.read(straight).decode().splitlines()[0] + '\n')
            result = stage.run_tako('fetch', both)
            stage.assertEqual((0, ''), (result.code, result.out))
            stage.assertIn('which the last manifest had', result.err)
            cache.expire(manifest)
            stage.assertQuiet(stage.fetch())
            newest = stage.publish('1.2', CONTENT_OTHER)
            cache.expire(manifest)
            stage.assertCode(0, stage.fetch())
            stage.assertInPlace(newest)


def meet_cache(field, kind, cache_kind, check):
    """All the rest works from a cache as well; it answers a second client with what it kept for the first."""
    server = field.origins[kind]
    with cache_kind(os.path.join(field.directory, field.new_tree() + '-cache'), server) as cache:
        with Stage(field, server, port=cache.port) as stage:
            check(stage, cache)


def updates_from_cache(stage, cache):
    stage.fetched('1.0', CONTENT_OLD)
    content = stage.publish('1.1', CONTENT_NEW)
    costs, share = [], 0.08 * len(content)      # what came over the wire, for each client
    while len(costs) < 2 or costs[-1] >= share + 2 * OVERHEAD_BYTES:
        stage.assertLess(len(costs), CLIENTS_OF_A_CACHE, 'the cache keeps nothing')
        cache.expire(stage.url + '/manifest')
        result = stage.fetch()
        stage.assertCode(0, result)
        stage.assertInPlace(content)
        known, = json.loads(stage.run_tako('status', '--json', stage.app).out)
        stage.assertLess(known['received'], stage.wire.received if cache.begins_with_all else share)
        costs.append(stage.wire.received)
        # again, as another client that has 1.0 alone
        os.unlink(stage.path('destination', 'latest'))
        os.unlink(stage.path('destination', 'store', origin.digest_of(content)))
        stage.wire.heal()


def resumes_from_cache(stage, cache):
    stage.fetched('1.0', CONTENT_OLD)
    content = stage.publish('1.1', CONTENT_OTHER)
    cache.expire(stage.url + '/manifest')
    stage.wire.cut(len(content) // 2)
    stage.assertCode(0, stage.fetch())
    stage.assertInPlace(content)
    stage.assertLess(stage.wire.received, 1.1 * len(content) + OVERHEAD_BYTES)


def keeps_what_is_missing(stage, cache):
    """An image that a cache holds for missing: exit code 75, until it looks again."""
    old = stage.fetched('1.0', CONTENT_OLD)
    new = stage.publish('1.1', CONTENT_NEW)
    name = 'store/' + origin.digest_of(new)
    os.rename(os.path.join(stage.publisher.directory, name), stage.path('aside'))
    stage.server.remove('{}/{}'.format(stage.tree, name))
    cache.expire(stage.url + '/manifest')
    result = stage.fetch()
    stage.assertCode(75, result)
    stage.assertIn('status 404', result.err)
    stage.assertEqual('store/' + origin.digest_of(old), os.readlink(stage.path('destination', 'latest')))
    os.rename(stage.path('aside'), os.path.join(stage.publisher.directory, name))
    stage.server.upload(stage.tree)
    cache.expire(stage.url + '/' + name)
    stage.assertCode(0, stage.fetch())
    stage.assertInPlace(new)


CACHED = (updates_from_cache, resumes_from_cache, keeps_what_is_missing)


@contextlib.contextmanager
def behind(field, kind, gateway_kind, *settings):
    """Start a gateway or cache before a server; yield a stage with it, and the gateway."""
    command = getattr(gateway_kind, 'command', '')
    if command and shutil.which(command, path=PATH) is None:
        raise unittest.SkipTest('lacking: ' + command)
    folder = os.path.join(field.directory, field.new_tree() + '-gateway')
    server = field.origins[kind]
    with gateway_kind(folder, server, *settings) as gateway:
        with Stage(field, server, port=gateway.port) as stage:
            yield stage, gateway


def keep_copy(stage, name, content):
    """Let the cache keep a file of the tree, modified a month ago, with this content."""
    path = os.path.join(stage.publisher.directory, name)
    origin.write(path, content)
    past = time.time() - MONTH_SECONDS
    os.utime(path, (past, past))
    for _ in range(3):                  # squid does not always keep what it requested only once
        stage.assertEqual(content, ask(stage, name))


def ask(stage, name, *options):
    """Return what curl prints for a file of the tree."""
    return subprocess.check_output(['curl', '-s', '{}/{}'.format(stage.url, name)] + list(options))


def meet_heuristic_cache(field):
    """squid serves a month-old manifest for days without asking; a new version is seen at once."""
    with behind(field, Nginx, SquidDefaultCache) as (stage, _):
        stage.publish('1.0', CONTENT_OLD)
        manifest = stage.publisher.read('manifest')
        keep_copy(stage, 'manifest', manifest)
        stage.assertCode(0, stage.fetch())
        content = stage.publish('1.1', CONTENT_NEW)
        stage.assertEqual(manifest, ask(stage, 'manifest'))
        assert_fetched(stage, content)


def assert_fetched(stage, content, *options):
    """Fetch, without a warning; return what the run printed."""
    result = stage.fetch(*options)
    stage.assertEqual((0, ''), (result.code, result.err))
    stage.assertInPlace(content)
    return result.out


def meet_damaged_cache(field, cache_kind, is_heeding):
    """If a cache has a damaged copy of an image, fetch asks past it; the cache may ignore that."""
    with behind(field, Nginx, cache_kind) as (stage, _):
        content = stage.publish('1.0', CONTENT_OLD)
        name = 'store/' + origin.digest_of(content)
        keep_copy(stage, name, content[:1000000] + b'\x00' + content[1000001:])
        origin.write(os.path.join(stage.publisher.directory, name), content)
        stage.assertNotEqual(content, ask(stage, name))
        before = len(stage.log_of(content))
        if is_heeding:
            assert_fetched(stage, content)
            answers = stage.log_of(content, until=lambda found: len(found) > before)
            stage.assertEqual([200], [each.status for each in answers[before:]])
            return
        result = stage.fetch()
        stage.assertCode(3, result)
        stage.assertIn('not the signed one', result.err)
        stage.assertEqual(['manifest'], os.listdir(stage.destination))


# ---- gateways

def meet_early_hints(field, kind):
    """Interim responses before each response change nothing."""
    with behind(field, kind, HaproxyHints) as (stage, _):
        updates(stage)
        heads = ask(stage, 'manifest', '-D', '-', '-o', os.devnull)
        stage.assertEqual(2, heads.count(b'HTTP/1.1 103 '), heads)


def meet_refused_ranges(field, gateway_kind, refusal):
    """If a gateway refuses Range after a download broke off, the next run goes on without it."""
    with behind(field, Nginx, gateway_kind, refusal) as (stage, gateway):
        stage.fetched('1.0', CONTENT_OLD)
        content = stage.publish('1.1', CONTENT_OTHER)
        stage.assertGreater(killed_half_way(stage, content), 0)
        result = stage.fetch()
        stage.assertCode(0, result)
        stage.assertInPlace(content)
        stage.assertNoTemporaries()
        stage.assertLessEqual(result.err.count('tako: warning:'), 1, result)
        # of the killed run, and of this one; haproxy logs no status where it rejects
        wanted = [200, 200] if refusal == 'reject' else [200, refusal, 200]
        path = '/{}/store/{}'.format(stage.tree, origin.digest_of(content))
        answers = gateway.log([path], until=lambda found: len(found) >= len(wanted))
        stage.assertEqual(wanted, [each.status for each in answers])


def meet_rate_limit(field):
    """If a gateway allows two requests a second, the update succeeds with one warning at most."""
    with behind(field, Nginx, NginxRateLimit) as (stage, gateway):
        stage.limits = {}
        stage.fetched('1.0', CONTENT_OLD)
        content = stage.publish('1.1', CONTENT_NEW)
        result = stage.fetch()
        stage.assertCode(0, result)
        stage.assertInPlace(content)
        stage.assertLessEqual(result.err.count('tako: warning:'), 1, result)
        image = '/{}/store/{}'.format(stage.tree, origin.digest_of(content))
        answers = gateway.log([image, image + '.chunks'], until=bool)
        stage.assertIn(503, [each.status for each in answers])


def meet_serial_gateway(field):
    """If the server accepts one connection at a time, an update by ranges uses one."""
    with behind(field, Lighttpd, HaproxySerial) as (stage, _):
        updates_in_time(stage)


def updates_in_time(stage):
    """An update by ranges takes less time than waiting for each connection would."""
    assert_fetched(stage, stage.publish('1.0', CONTENT_OLD), *IN_TIME)
    out = assert_fetched(stage, stage.publish('1.1', CONTENT_NEW), *IN_TIME)
    if stage.server.has_ranges:
        stage.assertIn('instead of', out)


def meet_serial_server(field):
    """So with Python's http.server without threads, which has no ranges."""
    with behind(field, PythonServer, SerialServer) as (stage, _):
        updates_in_time(stage)


# ---- silent addresses and name servers

def meet_silent_addresses(field, addresses):
    """If all addresses but the first of these are silent, the run does not wait for them."""
    with namespaces.Namespace(addresses) as namespace:
        with Stage(field, field.origins[Lighttpd], namespace=namespace) as stage:
            stage.assertIn(namespace.first_address(), addresses[1:])
            updates_in_time(stage)


def meet_silent_name_server(field):
    """The second name server knows a silent address besides the one that works."""
    if shutil.which('dnsmasq', path=PATH) is None:
        raise unittest.SkipTest('lacking: dnsmasq')
    addresses = namespaces.WORKING, namespaces.SILENT6
    servers, folder = [namespaces.SILENT[0], namespaces.NAME_SERVER], field.new_tree() + '-dns'
    with namespaces.Namespace(addresses, servers, has_hosts=False) as namespace:
        with namespaces.Dnsmasq(os.path.join(field.directory, folder), namespace):
            with Stage(field, field.origins[Lighttpd], namespace=namespace) as stage:
                updates_in_time(stage)


def meet_silent_name_servers(field):
    """If all name servers are silent, the run ends with 75 once --timeout is over."""
    with namespaces.Namespace(name_servers=namespaces.SILENT) as namespace:
        with Stage(field, field.origins[Nginx], namespace=namespace) as stage:
            began = time.monotonic()
            result = stage.run_tako('fetch', '--timeout', '5', stage.app)
            stage.assertFailed(75, 'the name servers do not respond', result, {})
            stage.assertLess(time.monotonic() - began, SILENCE_SECONDS)


def all_cases():
    """Name, and what to call with the field."""
    for kind in ORIGINS:
        yield from roads_to(kind)
        yield from manners_of(kind)
    for proxy in PROXIES:
        for listener in ('http', 'tls13'):
            for name, userinfo in (('wrong', USER + ':wr0ng@'), ('none', '')):
                yield (proxy.name, listener, name, 'password'), meet_proxy, (ORIGINS[0], proxy, listener, userinfo)
        for scheme in ('http', 'https'):
            yield (proxy.name, scheme, 'nobody behind'), meet_proxy_without_a_server, (proxy, scheme)
    yield from private_origins()
    yield from networks()


def private_origins():
    """Yield the cases of an nginx that demands a token or a client certificate."""
    https, token = next(road for road in ROADS if road.name == 'TLS 1.3'), 'Token={token}\n'
    for name, road, listener, place, lines, refusal in (
            ('token', https, 'tls13', '/token', token, ''),
            ('token on loopback', ROADS[0], 'http', '/token', token, ''),
            ('wrong token', https, 'tls13', '/token', 'Token=hush\n', 'HTTP status 401'),
            ('no token', https, 'tls13', '/token', '', 'HTTP status 401'),
            ('client certificate', https, 'client', '', '{client}', ''),
            ('no client certificate', https, 'client', '', '', 'HTTP status 400')):
        yield (Nginx.name, 'private', name), meet_private, (road, listener, place, lines, refusal)
    for road in ROADS:
        if road.is_tls and road.proxy:
            yield ((Nginx.name, 'private', road.name), meet_private,
                   (road, 'client', '/token', '{client}' + token, ''))


def networks():
    """Yield the cases of caches, gateways and silent addresses between a client and its server."""
    yield ('network', 'heuristic lifetime'), meet_heuristic_cache, ()
    for cache, is_heeding in ((NginxHeedingCache, True), (SquidDefaultCache, True),
                              (NginxCache, False)):
        yield ('network', 'damaged copy', cache.name), meet_damaged_cache, (cache, is_heeding)
    for kind in (Nginx, Lighttpd):
        yield ('network', 'early hints', kind.name), meet_early_hints, (kind,)
    for gateway, refusals in ((HaproxyRefusal, (403, 404, 412, 501, 503, 'reject')),
                              (NginxRefusal, (403, 501))):
        for refusal in refusals:
            name = 'network', 'refused ranges', gateway.command, str(refusal)
            yield name, meet_refused_ranges, (gateway, refusal)
    yield ('network', 'rate limit'), meet_rate_limit, ()
    yield ('network', 'one connection', 'haproxy'), meet_serial_gateway, ()
    yield ('network', 'one connection', 'http.server'), meet_serial_server, ()
    for name, silent in (('AAAA', (namespaces.SILENT6,)), ('three addresses', namespaces.SILENT)):
        addresses = (namespaces.WORKING,) + silent
        yield ('network', 'silent', name), meet_silent_addresses, (addresses,)
    yield ('network', 'silent', 'first name server'), meet_silent_name_server, ()
    yield ('network', 'silent', 'all name servers'), meet_silent_name_servers, ()


def roads_to(kind):
    """Each check on each road to a server, and from each cache."""
    for road, check in itertools.product(ROADS, CHECKS):
        if road.listener in kind.listeners(kind):
            yield (kind.name, road.name, check.__name__), travel, (kind, road, check)
    for cache in CACHES * kind.has_ranges:
        yield (kind.name, cache.name, 'stale'), meet_stale_cache, (kind, cache)
        for check in CACHED:
            yield (kind.name, cache.name, check.__name__), meet_cache, (kind, cache, check)


def manners_of(kind):
    """What a server wants, or does, unasked."""
    listeners = kind.listeners(kind)
    yield (kind.name, 'certificate', 'unknown authority'), meet_certificate, (kind, 'unknown authority')
    for name, meet, among in (('certificate', meet_certificate, ('expired', 'wrong host', 'self-signed')),
                              ('redirect', meet_redirect, ('up', 'down'))):
        for listener in among:
            if listener in listeners:
                yield (kind.name, name, listener), meet, (kind, listener)
    if kind.asks:
        for name, userinfo in (('right', URL_PASSWORD), ('wrong', USER + ':wr0ng@'), ('none', '')):
            yield (kind.name, 'password', name), meet_password, (kind, userinfo)
    if kind.zips:
        yield (kind.name, 'compresses'), meet_compression, (kind, 'zipped')
    if kind.forces:
        yield (kind.name, 'compresses by force'), meet_compression, (kind, 'forced')
        yield (kind.name, 'compresses by force one day'), meet_forced_compression_later, (kind,)


def main():
    servers = suite.Suite('servers')
    suite.require_root(servers)
    missing = [name for name in COMMANDS + (MOTO,) if shutil.which(name, path=PATH) is None]
    missing += [path for path in (LIGHTTPD_TLS,) if not os.path.exists(path)]
    if missing:
        servers.skip('all', 'lacking: ' + ' '.join(missing))
        servers.close()
    directory = scene.tempfile.mkdtemp(prefix='tako-servers-')
    with contextlib.ExitStack() as stack:
        stack.callback(scene.remove_tree, directory)
        field = Field(directory)
        field.start(stack)
        wanted = os.environ.get('SERVERS', '')          # a part of the names of cases
        cases = [each for each in all_cases() if wanted in ', '.join(each[0])]
        if not HAS_IPV6:
            cases = [each for each in cases if 'http by IPv6' not in each[0]]
            servers.skip('http by IPv6', 'there is no IPv6 here')
        for name, run, arguments in servers.sample(cases):
            with servers.case(', '.join(name)):
                run(field, *arguments)
                servers.count(name[0])
    servers.close()


if __name__ == '__main__':
    main()

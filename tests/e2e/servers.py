"""Fetches from real servers: nginx, Apache, lighttpd, Caddy, Python's http.server and an S3 API.

The routes are http and https, IPv4 and IPv6, direct, through proxies and gateways, from caches, and
with addresses that do not respond. A case is a server, a route to it, and what must work there. All
received bytes are counted on the wire.

SERVERS runs only cases whose names contain its value, for example SERVERS='nginx, TLS 1.3'.
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
from servers_software import namespaces, s3_page
from servers_software.gateways import (HaproxyHints, HaproxyRefusal, HaproxySerial,
                                       NginxObedientCache, NginxRateLimit, NginxRefusal,
                                       SerialServer, SquidDefaultCache)
from servers_software.origins import (MOTO, ORIGINS, PASSWORD, TOKEN, USER, Lighttpd, Nginx,
                                      PythonServer, S3, Site)
from servers_software.programs import HAS_IPV6, PATH
from servers_software.proxies import CACHES, PROXIES, NginxCache
from servers_software.wire import Wire
from scene import noise

IMAGE_BYTES = 3 << 20
CACHE_CLIENTS_MAX = 20          # how many clients may fetch before the cache responses one of them
OVERHEAD_BYTES = 40000          # headers and TLS of a few responses
CONTENT_OLD, CONTENT_NEW, CONTENT_OTHER, CONTENT_GONE = range(4)
LIGHTTPD_TLS = '/usr/lib/lighttpd/mod_openssl.so'       # in its own package
COMMANDS = ('nginx', 'apache2', 'lighttpd', 'caddy', 'squid', 'tinyproxy', 'openssl', 'curl')
URL_PASSWORD = '{}:{}@'.format(USER, PASSWORD.replace(' ', '%20'))
# After 404, and after responses like it, fetch pauses and retries, here only for a short time.
LIMITS = {'PAUSE_FIRST_SECONDS': 0.05, 'PAUSE_BUDGET_SECONDS': 1.0}
MONTH_SECONDS = 30 * 86400
UNKNOWN_CA = 'unknown CA'               # a case: the client does not trust the CA
IN_TIME = '--timeout', '20'             # a run that waits 10 s for each connection takes longer
SILENCE_SECONDS = 15                    # a run with --timeout 5 ends in this time on a busy machine


class Route(namedtuple('Route', ('name', 'listener', 'proxy', 'has_password'))):
    """A way to a server: to one of its listeners, and through a proxy or None."""

    @property
    def is_tls(self):
        return self.listener.startswith('tls')


ROUTES = [Route('http', 'http', None, False), Route('http by IPv6', 'http6', None, False),
         Route('TLS 1.2', 'tls12', None, False), Route('TLS 1.3', 'tls13', None, False)]
ROUTES += [Route('{} through {}{}'.format(scheme, proxy.name, words), listener, proxy, bool(words))
          for proxy in PROXIES
          for scheme, listener in (('http', 'http'), ('https', 'tls13'))
          for words in ('', ' with a password')]


def archive(changes):
    """Return a tar of a part of Python's library, with this number of its files changed."""
    library, output = sysconfig.get_paths()['stdlib'], io.BytesIO()
    addition = b'# a line that was not there\n' * changes
    names = sorted(name for name in os.listdir(library) if name.endswith('.py'))
    with tarfile.open(fileobj=output, mode='w') as tar:
        for number, name in enumerate(names):
            content = scene.read(os.path.join(library, name))
            if number % (len(names) // (changes + 1)) == 1 and changes:
                content = content.replace(b'self', b'this', 1) + addition
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            if output.tell() > IMAGE_BYTES:
                break
    return output.getvalue()


def index(content):
    """Return the chunk index of an image."""
    method = tako.choose_chunks(content[:tako.CHUNK_HEAD_BYTES], len(content))
    return tako.format_index(tako.index_image(io.BytesIO(content).read, *method))


class Testbed:
    """What all cases share: servers, proxies, a CA, and the images that they publish."""

    def __init__(self, directory):
        self.directory = directory
        self.root = os.path.join(directory, 'root')
        os.makedirs(self.root)
        self.authority = certificates.Authority(directory)
        self.contents = [archive(0), archive(8), noise(IMAGE_BYTES, 5), archive(9)]
        self.indexes = [index(content) for content in self.contents]
        hashed = subprocess.check_output(['openssl', 'passwd', '-apr1', PASSWORD])
        self.passwords = os.path.join(directory, 'passwords')
        origin.write(self.passwords, '{}:{}\n'.format(USER, hashed.decode().strip()).encode())
        certificates_of = {
            'right': self.authority.certify(),
            'expired': self.authority.certify(is_expired=True),
            'wrong host': self.authority.certify('DNS:images.example.com'),
            'self-signed': self.authority.certify_itself()}
        self.site = Site(self.root, certificates_of, origin.digest_of(self.contents[CONTENT_GONE]),
                         self.passwords, self.authority.bundle)
        self.client = 'ClientCertificate={}\nClientKey={}\n'.format(
            *self.authority.certify('DNS:client'))
        self.origins, self.proxies, self._numbers = {}, {}, itertools.count(1)
        make_readable(directory)

    def start(self, stack):
        """Start all servers and proxies. The end of the stack ends them."""
        for kind in ORIGINS:
            self.origins[kind] = kind(os.path.join(self.directory, kind.name), self.site)
        for kind in PROXIES:
            for has_password in (False, True):
                folder = os.path.join(self.directory, '{}-{}'.format(kind.name, has_password))
                passwords = self.passwords if has_password else None
                self.proxies[kind, has_password] = kind(folder, passwords)
        started = list(self.origins.values()) + list(self.proxies.values())
        for program in started:
            stack.callback(program.start().__exit__)
        for program in started:
            program.__enter__()

    def new_tree(self):
        """Return the name of a new tree."""
        return 'tree{}'.format(next(self._numbers))


def make_readable(directory):
    """Let servers that do not run as root read a directory."""
    os.chmod(directory, 0o755)
    for folder, folders, names in os.walk(directory):
        for name in folders + names:
            os.chmod(os.path.join(folder, name), 0o755)


class Case(scene.Scene):
    """A case: a tree of files on a server, a client, and the wire between them."""

    limits = LIMITS

    def __init__(self, testbed, server, route=ROUTES[0], path='', port=None, userinfo='',
                 namespace=None):
        super().__init__()
        self.namespace = namespace
        self.testbed, self.server, self.route = testbed, server, route
        self._path, self._userinfo = path, userinfo
        self._port = port or server.port[route.listener]

    def __enter__(self):
        self.setUp()
        self.tree = self.testbed.new_tree()
        self.publisher = origin.Publisher(os.path.join(self.testbed.root, self.tree))
        self.addCleanup(scene.remove_tree, self.publisher.directory)
        host = '::1' if self.route.listener == 'http6' else '127.0.0.1'
        proxy = self.testbed.proxies.get((self.route.proxy, self.route.has_password))
        listener = None
        if self.namespace is not None:
            self.python = self.namespace.command + self.python
            listener = self.namespace.socket()
            listener.bind((namespaces.WORKING, 0))
        self.wire = Wire(host, proxy.port if proxy else self._port, listener)
        self.wire.__enter__()
        self.addCleanup(self.wire.__exit__)
        self.environ = {'SSL_CERT_FILE': self.testbed.authority.bundle}
        if proxy is not None:
            password = '{}:{}@'.format(USER, self.proxy_password())
            self.environ['https_proxy' if self.route.is_tls else 'http_proxy'] = (
                'http://{}127.0.0.1:{}'.format(password if self.route.has_password else '',
                                               self.wire.port))
        name = namespaces.HOST if self.namespace else '[::1]' if host == '::1' else host
        self.url = '{}://{}{}:{}{}{}/{}'.format(
            'https' if self._port in self.tls_ports() else 'http', self._userinfo, name,
            self._port if proxy else self.wire.port, self.server.prefix, self._path, self.tree)
        self.app = self.config(self.url)
        return self

    def __exit__(self, *error):
        self.doCleanups()

    def tls_ports(self):
        return [each[1] for each in self.server.tls_listeners()]

    def proxy_password(self):
        return PASSWORD.replace(' ', '%20' if self.route.proxy.name == 'squid' else '')

    def publish(self, version, number):
        """Publish one of the shared contents, with its index. Return the content."""
        content = self.testbed.contents[number]
        entry = self.publisher.publish(version, content)
        self.publisher.write('store/{}.chunks'.format(entry.digest), self.testbed.indexes[number])
        self.server.upload(self.tree)
        return content

    def fetch(self, *options):
        before = self.wire.received
        result = self.run_tako('fetch', *options, self.app, environ=self.environ)
        self.assertGreater(self.wire.received, before, 'fetch took another route')
        return result

    def fetched(self, version, number):
        """Publish and fetch a content, and reset the wire. Return the content."""
        content = self.publish(version, number)
        self.assertCode(0, self.fetch())
        self.assertInPlace(content)
        self.wire.heal()
        return content

    def log(self, *names, until):
        """Return the server's responses to requests for files of the tree; see Logged.log()."""
        folder = '{}{}/{}/'.format(self.server.prefix, self._path, self.tree)
        return self.server.log([folder + each for each in names], until)

    def log_of(self, content, until=bool):
        return self.log('store/' + origin.digest_of(content), until=until)

    def assertFailed(self, code, what, result, before):
        """Check the exit code and message of a run, and that it changed nothing."""
        self.assertCode(code, result)
        self.assertIn(what, result.err)
        self.assertEqual(before, scene.snapshot(self.destination))

    def assertNoTemporaries(self, root=None):
        super().assertNoTemporaries(root)
        self.assertEqual([], [name for name in os.listdir(root or self.destination)
                              if name.startswith('.partial-')])


# ---- what must work on every route

def first_and_second_fetch(case):
    """The second fetch is silent, and costs a 304 where there are ETags."""
    content = case.fetched('1.0', CONTENT_OLD)
    case.assertQuiet(case.fetch())
    manifest = case.log('manifest', until=lambda found: len(found) == 2)
    second = 304 if case.server.has_etags else 200
    case.assertEqual([200, second], [each.status for each in manifest])
    case.assertLess(case.wire.received, OVERHEAD_BYTES)
    if case.server.has_sizes:
        case.assertEqual([len(content)], [each.size for each in case.log_of(content)])


def update(case):
    """If there are ranges, an update costs what changed. Its message and status are true."""
    case.fetched('1.0', CONTENT_OLD)
    update_to_new(case)


def update_to_new(case):
    content = case.publish('1.1', CONTENT_NEW)
    result = case.fetch()
    case.assertCode(0, result)
    case.assertInPlace(content)
    case.assertEqual('', result.err)
    status, = json.loads(case.run_tako('status', '--json', case.app).out)
    case.assertEqual(len(content), status['size'])
    case.assertLessEqual(status['received'], case.wire.received)
    case.assertLess(case.wire.received, status['received'] + OVERHEAD_BYTES)
    if not case.server.has_ranges:
        case.assertGreater(status['received'], len(content))
        case.assertNotIn('instead of', result.out)
        return
    case.assertLess(status['received'], 0.08 * len(content))
    case.assertIn('instead of', result.out)
    if case.server.has_sizes:
        # The server does not log the responses of several connections at the same time.
        name = 'store/' + origin.digest_of(content)
        all_responses = case.log(name, name + '.chunks',
                                until=lambda found: size_of(found) >= status['received'])
        case.assertEqual(status['received'], size_of(all_responses))
    responses = case.log_of(content)
    case.assertEqual({206}, {each.status for each in responses})
    if case.server.has_several:
        case.assertEqual(1, len(responses))


def size_of(responses):
    return sum(each.size for each in responses)


def resumed_download(case):
    """If the connection breaks, the same run continues the download where it stopped."""
    case.fetched('1.0', CONTENT_OLD)
    content = case.publish('1.1', CONTENT_OTHER)
    case.wire.cut(len(content) // 2)
    case.assertCode(0, case.fetch())
    case.assertInPlace(content)
    assert_resumed(case, content)


def assert_resumed(case, content):
    responses = case.log_of(content, lambda found: len(found) > 1)
    if case.server.has_ranges:
        case.assertEqual([200, 206], [each.status for each in responses])
        # what is in transit when the connection breaks is lost
        case.assertLess(case.wire.received, 1.1 * len(content) + OVERHEAD_BYTES)
    else:
        case.assertEqual([200, 200], [each.status for each in responses])
        case.assertGreater(case.wire.received, 1.4 * len(content))


def killed_download(case):
    """If a run is killed, the next run continues its download."""
    case.fetched('1.0', CONTENT_OLD)
    content = case.publish('1.1', CONTENT_OTHER)
    kept = killed_half_way(case, content)
    case.assertCode(0, case.fetch())
    case.assertInPlace(content)
    if case.server.has_ranges:
        case.assertLess(case.wire.received, len(content) - kept + OVERHEAD_BYTES)


def killed_half_way(case, content):
    """Kill a run while it downloads this content. Return how many bytes it left behind."""
    case.wire.stall(len(content) // 2)
    process = case.start('fetch', case.app, environ=case.environ)
    case.assertTrue(case.wire.stalled.wait(20))
    partial = case.path('destination', '.partial-' + origin.digest_of(content))
    scene.wait_until(lambda: os.path.exists(partial)
                     and os.path.getsize(partial) > len(content) // 4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    case.assertIsNone(scene.fault_of_latest(case.destination))
    case.wire.heal()
    return os.path.getsize(partial)


def broken_update(case):
    """If the connection breaks in an update, fetch does not request received ranges again."""
    case.fetched('1.0', CONTENT_OLD)
    content = case.publish('1.1', CONTENT_NEW)
    case.wire.cut(60000)
    case.assertCode(0, case.fetch())
    case.assertInPlace(content)
    if case.server.has_ranges:
        case.assertLess(case.wire.received, 0.16 * len(content) + OVERHEAD_BYTES)


def repair(case):
    """The repair of one changed byte costs one chunk."""
    content = case.fetched('1.0', CONTENT_OLD)
    origin.write(case.path('destination', 'latest'),
                 content[:2000000] + b'\x00' + content[2000001:])
    result = case.fetch()
    case.assertCode(0, result)
    case.assertIn('1.0 is repaired', result.out)
    case.assertInPlace(content)
    if case.server.has_ranges:
        case.assertLess(case.wire.received, 30000 + OVERHEAD_BYTES)


def withdrawal(case):
    """A 410 withdraws a version, and fetch keeps the older one; a 404 is an error.

    The next version installs in both cases.
    """
    old = case.fetched('1.0', CONTENT_OLD)
    gone = case.publish('1.1', CONTENT_GONE)
    if not case.server.can_withdraw:
        withdraw_from(case, gone)
    before = scene.snapshot(case.path('destination', 'store'))
    result = case.fetch()
    case.assertCode(0 if case.server.can_withdraw else 75, result)
    case.assertIn('withdrawn (410)' if case.server.can_withdraw else 'status 404', result.err)
    case.assertEqual('store/' + origin.digest_of(old),
                      os.readlink(case.path('destination', 'latest')))
    case.assertEqual(before, scene.snapshot(case.path('destination', 'store')))
    if case.server.can_withdraw:
        case.assertNoTemporaries()
        case.assertQuiet(case.fetch())
    new = case.publish('1.2', CONTENT_NEW)
    case.assertCode(0, case.fetch())
    case.assertInPlace(new)


def withdraw_from(case, content):
    """Remove an image from a server that has only 404 for a missing image."""
    name = 'store/' + origin.digest_of(content)
    os.unlink(os.path.join(case.publisher.directory, name))
    case.server.remove('{}/{}'.format(case.tree, name))


CHECKS = (first_and_second_fetch, update, resumed_download, killed_download, broken_update, repair,
          withdrawal)


def check_route(testbed, kind, route, check):
    with Case(testbed, testbed.origins[kind], route) as case:
        check(case)


# ---- certificates, redirects, passwords, compression

def check_certificate(testbed, kind, listener):
    """If a certificate is not trusted, fetch says so, exits with 75, and changes nothing."""
    server = testbed.origins[kind]
    is_unknown = listener == UNKNOWN_CA
    with Case(testbed, server, port=server.port['tls13' if is_unknown else listener]) as case:
        case.publish('1.0', CONTENT_OLD)
        if is_unknown:
            case.environ = {}
        words = server.words.get(listener, 'certificate not trusted')
        case.assertFailed(75, words, case.fetch(), {})
        case.assertEqual([], list(case.log('manifest', until=lambda _: True)))


def check_redirect(testbed, kind, listener):
    """fetch follows a redirect from http to https, but not from https to http."""
    server = testbed.origins[kind]
    with Case(testbed, server, port=server.port[listener]) as case:
        content = case.publish('1.0', CONTENT_OLD)
        result = case.fetch()
        if listener == 'up':
            case.assertCode(0, result)
            case.assertInPlace(content)
        else:
            case.assertFailed(75, 'redirected to http, which Tako does not follow', result, {})


def check_password(testbed, kind, userinfo):
    with Case(testbed, testbed.origins[kind], path='/secret', userinfo=userinfo) as case:
        content = case.publish('1.0', CONTENT_OLD)
        result = case.fetch()
        case.assertNotIn(PASSWORD, str(result))
        case.assertNotIn('wr0ng', str(result))
        if userinfo == URL_PASSWORD:
            case.assertCode(0, result)
            case.assertInPlace(content)
        else:
            case.assertFailed(75, 'status 401', result, {})


def check_private(testbed, route, listener, path, lines, refusal):
    """The server demands a token or a client certificate. Only the config names its CA."""
    server = testbed.origins[Nginx]
    with Case(testbed, server, route=route, port=server.port[listener], path=path) as case:
        content = case.publish('1.0', CONTENT_OLD)
        del case.environ['SSL_CERT_FILE']
        case.app = case.config(case.url, more='Authority={}\n'.format(testbed.authority.bundle)
                                 + lines.format(token=TOKEN, client=testbed.client))
        result = case.fetch('-v')
        case.assertNotIn('hush', str(result))
        if refusal:
            case.assertFailed(75, refusal, result, {})
            return
        case.assertCode(0, result)
        case.assertInPlace(content)
        content = case.publish('1.1', CONTENT_NEW)     # by ranges
        result = case.fetch()
        case.assertCode(0, result)
        case.assertIn('instead of', result.out)
        case.assertInPlace(content)


def check_compression(testbed, kind, path):
    """A server that can compress does not compress for fetch.

    If a server always compresses, fetch fails and says so.
    """
    with Case(testbed, testbed.origins[kind], path='/' + path) as case:
        content = case.publish('1.0', CONTENT_OLD)
        if path == 'forced':
            case.assertFailed(75, 'Content-Encoding gzip unasked', case.fetch(), {})
            return
        coded = ask(case, 'store/' + origin.digest_of(content), '--compressed', '-o', os.devnull,
                    '-w', '%{size_download}')
        case.assertLess(int(coded), len(content) / 2)          # it compresses for curl
        case.assertCode(0, case.fetch())
        case.assertInPlace(content)
        case.wire.heal()
        update_to_new(case)


def check_later_forced_compression(testbed, kind):
    """If a server begins to compress, the installed image stays."""
    server = testbed.origins[kind]
    with Case(testbed, server) as case:
        old = case.fetched('1.0', CONTENT_OLD)
        new = case.publish('1.1', CONTENT_NEW)
        url = case.url.replace('/' + case.tree, '/forced/' + case.tree)
        app, case.app = case.app, case.config(url, 'other.tako')
        before = scene.snapshot(case.destination)
        case.assertFailed(75, 'Content-Encoding gzip unasked', case.fetch(), before)
        case.assertInPlace(old)
        case.app = app
        case.assertCode(0, case.fetch())
        case.assertInPlace(new)


# ---- proxies that refuse

def check_proxy(testbed, kind, proxy_kind, listener, userinfo):
    """If the password for a proxy is wrong or missing, fetch exits with 75 and gives a hint."""
    route = Route('', listener, proxy_kind, True)
    with Case(testbed, testbed.origins[kind], route) as case:
        case.publish('1.0', CONTENT_OLD)
        for name in ('http_proxy', 'https_proxy'):
            case.environ[name] = 'http://{}127.0.0.1:{}'.format(userinfo, case.wire.port)
        result = case.fetch()
        # tinyproxy responses a wrong password with 401, as a server does
        is_401 = proxy_kind.name == 'tinyproxy' and userinfo
        case.assertFailed(75, '401' if is_401 else '407', result, {})
        if not is_401 or listener == 'tls13':
            case.assertIn('add user and password to the proxy URL', result.err)
        case.assertNotIn('wr0ng', result.err)


def check_proxy_without_a_server(testbed, proxy_kind, scheme):
    """If the proxy cannot connect to the server, fetch exits with 75, whatever the proxy sends."""
    with Case(testbed, testbed.origins[ORIGINS[0]], Route('', 'http', proxy_kind, False)) as case:
        case.environ['https_proxy'] = case.environ['http_proxy']
        with contextlib.closing(socket.socket()) as unused:
            unused.bind(('127.0.0.1', 0))
            port = unused.getsockname()[1]
            case.app = case.config('{}://127.0.0.1:{}/x'.format(scheme, port))
            case.assertFailed(75, 'try again later', case.fetch(), {})


# ---- caches

def check_stale_cache(testbed, kind, cache_kind):
    """A cache serves an old manifest: fetch never goes back to it, and recovers afterwards."""
    server = testbed.origins[kind]
    folder = os.path.join(testbed.directory, testbed.new_tree() + '-cache')
    with cache_kind(folder, server) as cache:
        with Case(testbed, server, port=cache.port) as case:
            manifest = case.url + '/manifest'
            case.fetched('1.0', CONTENT_OLD)
            # squid does not always keep what it requested only once
            case.assertQuiet(case.fetch())
            new = case.publish('1.1', CONTENT_NEW)
            case.assertQuiet(case.fetch())                # the cache hides the new version
            url = 'http://127.0.0.1:{}{}/{}'.format(server.port['http'], server.prefix, case.tree)
            direct = case.config(url, 'direct.tako')
            case.assertCode(0, case.run_tako('fetch', direct))
            case.assertInPlace(new)
            before = scene.snapshot(case.destination)
            case.assertFailed(3, 'lacks or changes 1.1, which the last manifest had',
                               case.fetch(), before)
            # With a second origin that is up to date, this is a warning.
            both = case.config(case.url, 'both.tako',
                                more=scene.read(direct).decode().splitlines()[0] + '\n')
            result = case.run_tako('fetch', both)
            case.assertEqual((0, ''), (result.code, result.out))
            case.assertIn('which the last manifest had', result.err)
            cache.expire(manifest)
            case.assertQuiet(case.fetch())
            newest = case.publish('1.2', CONTENT_OTHER)
            cache.expire(manifest)
            case.assertCode(0, case.fetch())
            case.assertInPlace(newest)


def check_s3_page(testbed):
    """The commands of docs/publish-to-s3.md publish, update and remove images with rclone."""
    if shutil.which('rclone') is None:
        raise unittest.SkipTest('there is no rclone here')
    contents = [testbed.contents[number] for number in (CONTENT_OLD, CONTENT_NEW, CONTENT_OTHER)]
    s3_page.check(testbed.origins[S3], contents)


def check_cache(testbed, kind, cache_kind, check):
    """A check works from a cache, which responses one client with what it kept for another."""
    server = testbed.origins[kind]
    folder = os.path.join(testbed.directory, testbed.new_tree() + '-cache')
    with cache_kind(folder, server) as cache:
        with Case(testbed, server, port=cache.port) as case:
            check(case, cache)


def cached_update(case, cache):
    """A client gets a differential update from the cache after at most CACHE_CLIENTS_MAX others."""
    case.fetched('1.0', CONTENT_OLD)
    content = case.publish('1.1', CONTENT_NEW)
    costs, share = [], 0.08 * len(content)      # bytes on the wire, for each client
    while len(costs) < 2 or costs[-1] >= share + 2 * OVERHEAD_BYTES:
        case.assertLess(len(costs), CACHE_CLIENTS_MAX, 'the cache keeps nothing')
        cache.expire(case.url + '/manifest')
        result = case.fetch()
        case.assertCode(0, result)
        case.assertInPlace(content)
        status, = json.loads(case.run_tako('status', '--json', case.app).out)
        case.assertLess(status['received'],
                         case.wire.received if cache.begins_with_all else share)
        costs.append(case.wire.received)
        # again, as another client, which has only 1.0
        os.unlink(case.path('destination', 'latest'))
        os.unlink(case.path('destination', 'store', origin.digest_of(content)))
        case.wire.heal()


def cached_resume(case, cache):
    case.fetched('1.0', CONTENT_OLD)
    content = case.publish('1.1', CONTENT_OTHER)
    cache.expire(case.url + '/manifest')
    case.wire.cut(len(content) // 2)
    case.assertCode(0, case.fetch())
    case.assertInPlace(content)
    case.assertLess(case.wire.received, 1.1 * len(content) + OVERHEAD_BYTES)


def cached_404(case, cache):
    """If the cache keeps a 404 of an image, fetch exits with 75 until the cache asks again."""
    old = case.fetched('1.0', CONTENT_OLD)
    new = case.publish('1.1', CONTENT_NEW)
    name = 'store/' + origin.digest_of(new)
    os.rename(os.path.join(case.publisher.directory, name), case.path('aside'))
    case.server.remove('{}/{}'.format(case.tree, name))
    cache.expire(case.url + '/manifest')
    result = case.fetch()
    case.assertCode(75, result)
    case.assertIn('status 404', result.err)
    case.assertEqual('store/' + origin.digest_of(old),
                      os.readlink(case.path('destination', 'latest')))
    os.rename(case.path('aside'), os.path.join(case.publisher.directory, name))
    case.server.upload(case.tree)
    cache.expire(case.url + '/' + name)
    case.assertCode(0, case.fetch())
    case.assertInPlace(new)


CACHED = (cached_update, cached_resume, cached_404)


@contextlib.contextmanager
def behind(testbed, kind, gateway_kind, *settings):
    """Start a gateway or cache in front of a server. Yield a case with it, and the gateway."""
    command = getattr(gateway_kind, 'command', '')
    if command and shutil.which(command, path=PATH) is None:
        raise unittest.SkipTest('not installed: ' + command)
    folder = os.path.join(testbed.directory, testbed.new_tree() + '-gateway')
    server = testbed.origins[kind]
    with gateway_kind(folder, server, *settings) as gateway:
        with Case(testbed, server, port=gateway.port) as case:
            yield case, gateway


def keep_copy(case, name, content):
    """Let the cache keep a file of the tree with this content, modified a month ago."""
    path = os.path.join(case.publisher.directory, name)
    origin.write(path, content)
    past = time.time() - MONTH_SECONDS
    os.utime(path, (past, past))
    for _ in range(3):                  # squid does not always keep what it requested only once
        case.assertEqual(content, ask(case, name))


def ask(case, name, *options):
    """Return what curl prints for a file of the tree."""
    return subprocess.check_output(['curl', '-s', '{}/{}'.format(case.url, name)] + list(options))


def check_heuristic_cache(testbed):
    """squid serves a month-old manifest for days. fetch sees a new version at once."""
    with behind(testbed, Nginx, SquidDefaultCache) as (case, _):
        case.publish('1.0', CONTENT_OLD)
        manifest = case.publisher.read('manifest')
        keep_copy(case, 'manifest', manifest)
        case.assertCode(0, case.fetch())
        content = case.publish('1.1', CONTENT_NEW)
        case.assertEqual(manifest, ask(case, 'manifest'))
        assert_fetched(case, content)


def assert_fetched(case, content, *options):
    """Fetch without a warning. Return what the run printed."""
    result = case.fetch(*options)
    case.assertEqual((0, ''), (result.code, result.err))
    case.assertInPlace(content)
    return result.out


def check_damaged_cache(testbed, cache_kind, obeys_no_cache):
    """If a cache has a damaged copy of an image, fetch sends no-cache, which some caches ignore."""
    with behind(testbed, Nginx, cache_kind) as (case, _):
        content = case.publish('1.0', CONTENT_OLD)
        name = 'store/' + origin.digest_of(content)
        keep_copy(case, name, content[:1000000] + b'\x00' + content[1000001:])
        origin.write(os.path.join(case.publisher.directory, name), content)
        case.assertNotEqual(content, ask(case, name))
        before = len(case.log_of(content))
        if obeys_no_cache:
            assert_fetched(case, content)
            responses = case.log_of(content, until=lambda found: len(found) > before)
            case.assertEqual([200], [each.status for each in responses[before:]])
            return
        result = case.fetch()
        case.assertCode(3, result)
        case.assertIn('not the signed one', result.err)
        case.assertEqual(['manifest'], scene.names(case.destination))


# ---- gateways

def check_early_hints(testbed, kind):
    """Interim responses before each response change nothing."""
    with behind(testbed, kind, HaproxyHints) as (case, _):
        update(case)
        heads = ask(case, 'manifest', '-D', '-', '-o', os.devnull)
        case.assertEqual(2, heads.count(b'HTTP/1.1 103 '), heads)


def check_refused_ranges(testbed, gateway_kind, refusal):
    """If a gateway refuses Range after an interrupted download, the next run works without it."""
    with behind(testbed, Nginx, gateway_kind, refusal) as (case, gateway):
        case.fetched('1.0', CONTENT_OLD)
        content = case.publish('1.1', CONTENT_OTHER)
        case.assertGreater(killed_half_way(case, content), 0)
        result = case.fetch()
        case.assertCode(0, result)
        case.assertInPlace(content)
        case.assertNoTemporaries()
        case.assertLessEqual(result.err.count('tako: warning:'), 1, result)
        # of the killed run and of this one; haproxy logs no status for reject
        wanted = [200, 200] if refusal == 'reject' else [200, refusal, 200]
        path = '/{}/store/{}'.format(case.tree, origin.digest_of(content))
        responses = gateway.log([path], until=lambda found: len(found) >= len(wanted))
        case.assertEqual(wanted, [each.status for each in responses])


def check_rate_limit(testbed):
    """If a gateway allows two requests a second, the update succeeds with one warning at most."""
    with behind(testbed, Nginx, NginxRateLimit) as (case, gateway):
        case.limits = {}
        case.fetched('1.0', CONTENT_OLD)
        content = case.publish('1.1', CONTENT_NEW)
        result = case.fetch()
        case.assertCode(0, result)
        case.assertInPlace(content)
        case.assertLessEqual(result.err.count('tako: warning:'), 1, result)
        image = '/{}/store/{}'.format(case.tree, origin.digest_of(content))
        responses = gateway.log([image, image + '.chunks'], until=bool)
        case.assertIn(503, [each.status for each in responses])


def check_serial_gateway(testbed):
    """If the server accepts one connection at a time, an update by ranges uses only one."""
    with behind(testbed, Lighttpd, HaproxySerial) as (case, _):
        updates_in_time(case)


def updates_in_time(case):
    """An update by ranges takes less time than waiting for each connection would."""
    assert_fetched(case, case.publish('1.0', CONTENT_OLD), *IN_TIME)
    out = assert_fetched(case, case.publish('1.1', CONTENT_NEW), *IN_TIME)
    if case.server.has_ranges:
        case.assertIn('instead of', out)


def check_serial_server(testbed):
    """The same with Python's http.server without threads, which has no ranges."""
    with behind(testbed, PythonServer, SerialServer) as (case, _):
        updates_in_time(case)


# ---- silent addresses and name servers

def check_silent_addresses(testbed, addresses):
    """If all addresses but the first of these are silent, the run does not wait for them."""
    with namespaces.Namespace(addresses) as namespace:
        with Case(testbed, testbed.origins[Lighttpd], namespace=namespace) as case:
            case.assertIn(namespace.first_address(), addresses[1:])
            updates_in_time(case)


def check_silent_name_server(testbed):
    """The second name server knows a silent address besides the one that works."""
    if shutil.which('dnsmasq', path=PATH) is None:
        raise unittest.SkipTest('not installed: dnsmasq')
    addresses = namespaces.WORKING, namespaces.SILENT6
    servers, folder = [namespaces.SILENT[0], namespaces.NAME_SERVER], testbed.new_tree() + '-dns'
    with namespaces.Namespace(addresses, servers, has_hosts=False) as namespace:
        with namespaces.Dnsmasq(os.path.join(testbed.directory, folder), namespace):
            with Case(testbed, testbed.origins[Lighttpd], namespace=namespace) as case:
                updates_in_time(case)


def check_silent_name_servers(testbed):
    """If all name servers are silent, the run ends with 75 once --timeout is over."""
    with namespaces.Namespace(name_servers=namespaces.SILENT) as namespace:
        with Case(testbed, testbed.origins[Nginx], namespace=namespace) as case:
            began = time.monotonic()
            result = case.run_tako('fetch', '--timeout', '5', case.app)
            case.assertFailed(75, 'the name servers do not respond', result, {})
            case.assertLess(time.monotonic() - began, SILENCE_SECONDS)


def all_cases():
    """Yield (name, function, arguments) of each case. The function gets the testbed first."""
    for kind in ORIGINS:
        yield from routes_to(kind)
        yield from settings_of(kind)
    for proxy in PROXIES:
        for listener in ('http', 'tls13'):
            for name, userinfo in (('wrong', USER + ':wr0ng@'), ('none', '')):
                yield ((proxy.name, listener, name, 'password'), check_proxy,
                       (ORIGINS[0], proxy, listener, userinfo))
        for scheme in ('http', 'https'):
            yield ((proxy.name, scheme, 'unreachable server'), check_proxy_without_a_server,
                   (proxy, scheme))
    yield from private_origins()
    yield from networks()
    yield ('pages', s3_page.PAGE), check_s3_page, ()


def private_origins():
    """Yield the cases of an nginx that demands a token or a client certificate."""
    https, token = next(route for route in ROUTES if route.name == 'TLS 1.3'), 'Token={token}\n'
    for name, route, listener, path, lines, refusal in (
            ('token', https, 'tls13', '/token', token, ''),
            ('token on loopback', ROUTES[0], 'http', '/token', token, ''),
            ('wrong token', https, 'tls13', '/token', 'Token=hush\n', 'HTTP status 401'),
            ('no token', https, 'tls13', '/token', '', 'HTTP status 401'),
            ('client certificate', https, 'client', '', '{client}', ''),
            ('no client certificate', https, 'client', '', '', 'HTTP status 400')):
        yield (Nginx.name, 'private', name), check_private, (route, listener, path, lines, refusal)
    for route in ROUTES:
        if route.is_tls and route.proxy:
            yield ((Nginx.name, 'private', route.name), check_private,
                   (route, 'client', '/token', '{client}' + token, ''))


def networks():
    """Yield the cases of caches, gateways and silent addresses between a client and its server."""
    yield ('network', 'heuristic lifetime'), check_heuristic_cache, ()
    for cache, obeys_no_cache in ((NginxObedientCache, True), (SquidDefaultCache, True),
                              (NginxCache, False)):
        yield ('network', 'damaged copy', cache.name), check_damaged_cache, (cache, obeys_no_cache)
    for kind in (Nginx, Lighttpd):
        yield ('network', 'early hints', kind.name), check_early_hints, (kind,)
    for gateway, refusals in ((HaproxyRefusal, (403, 404, 412, 501, 503, 'reject')),
                              (NginxRefusal, (403, 501))):
        for refusal in refusals:
            name = 'network', 'refused ranges', gateway.command, str(refusal)
            yield name, check_refused_ranges, (gateway, refusal)
    yield ('network', 'rate limit'), check_rate_limit, ()
    yield ('network', 'one connection', 'haproxy'), check_serial_gateway, ()
    yield ('network', 'one connection', 'http.server'), check_serial_server, ()
    for name, silent in (('AAAA', (namespaces.SILENT6,)), ('three addresses', namespaces.SILENT)):
        addresses = (namespaces.WORKING,) + silent
        yield ('network', 'silent', name), check_silent_addresses, (addresses,)
    yield ('network', 'silent', 'first name server'), check_silent_name_server, ()
    yield ('network', 'silent', 'all name servers'), check_silent_name_servers, ()


def routes_to(kind):
    """Yield the cases of all checks on all routes to a server, and from all caches."""
    for route, check in itertools.product(ROUTES, CHECKS):
        if route.listener in kind.listeners(kind):
            yield (kind.name, route.name, check.__name__), check_route, (kind, route, check)
    for cache in CACHES * kind.has_ranges:
        yield (kind.name, cache.name, 'stale'), check_stale_cache, (kind, cache)
        for check in CACHED:
            yield (kind.name, cache.name, check.__name__), check_cache, (kind, cache, check)


def settings_of(kind):
    """Yield the cases of a server's certificates, redirects, passwords and compression."""
    listeners = kind.listeners(kind)
    yield (kind.name, 'certificate', UNKNOWN_CA), check_certificate, (kind, UNKNOWN_CA)
    for listener in ('expired', 'wrong host', 'self-signed'):
        if listener in listeners:
            yield (kind.name, 'certificate', listener), check_certificate, (kind, listener)
    for listener in ('up', 'down'):
        if listener in listeners:
            yield (kind.name, 'redirect', listener), check_redirect, (kind, listener)
    if kind.asks:
        for name, userinfo in (('right', URL_PASSWORD), ('wrong', USER + ':wr0ng@'), ('none', '')):
            yield (kind.name, 'password', name), check_password, (kind, userinfo)
    if kind.zips:
        yield (kind.name, 'compression'), check_compression, (kind, 'zipped')
    if kind.forces:
        yield (kind.name, 'forced compression'), check_compression, (kind, 'forced')
        yield (kind.name, 'later forced compression'), check_later_forced_compression, (kind,)


def main():
    servers = suite.Suite('servers')
    suite.require_root(servers)
    missing = [name for name in COMMANDS + (MOTO,) if shutil.which(name, path=PATH) is None]
    missing += [path for path in (LIGHTTPD_TLS,) if not os.path.exists(path)]
    if missing:
        servers.skip('all', 'not installed: ' + ' '.join(missing))
        servers.close()
    directory = scene.tempfile.mkdtemp(prefix='tako-servers-')
    with contextlib.ExitStack() as stack:
        stack.callback(scene.remove_tree, directory)
        testbed = Testbed(directory)
        testbed.start(stack)
        wanted = os.environ.get('SERVERS', '')
        cases = [each for each in all_cases() if wanted in ', '.join(each[0])]
        if not HAS_IPV6:
            cases = [each for each in cases if 'http by IPv6' not in each[0]]
            servers.skip('http by IPv6', 'this machine has no IPv6')
        for name, run, arguments in servers.sample(cases):
            with servers.case(', '.join(name)):
                run(testbed, *arguments)
                servers.count(name[0])
    servers.close()


if __name__ == '__main__':
    main()

"""Proxies and caches that stand between a client and a web server."""
import contextlib
import http.client
import os
import shutil

from servers_software.origins import PASSWORD, USER
from servers_software.programs import NGINX, Program, free_port

SQUID = '''
http_port 127.0.0.1:{port}
pid_filename none
cache_log {folder}/error.log
access_log none
cache_store_log none
coredump_dir {folder}
cache deny all
shutdown_lifetime 0 seconds
pinger_enable off
netdb_filename none
mime_table /usr/share/squid/mime.conf
{more}
'''
SQUID_PASSWORD = '''
auth_param basic program /usr/lib/squid/basic_ncsa_auth {passwords}
auth_param basic children 1 startup=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
'''


class Proxy(Program):
    """A proxy for http and CONNECT; passwords: an htpasswd file, or None if everybody may use it."""

    def __init__(self, folder, passwords=None):
        super().__init__(folder)
        self.passwords = passwords
        self.port = free_port()

    def ports(self):
        return [('127.0.0.1', self.port)]


class Squid(Proxy):
    """squid, which keeps nothing."""

    name = 'squid'

    def commands(self):
        more = SQUID_PASSWORD.format(passwords=self.passwords) if self.passwords else 'http_access allow all'
        config = self.write('squid.conf', SQUID.format(folder=self.folder, port=self.port, more=more))
        shutil.chown(self.folder, 'proxy', 'proxy')
        return [['squid', '-N', '-n', 'tako{}'.format(self.port), '-f', config]]


class Tinyproxy(Proxy):
    """tinyproxy."""

    name = 'tinyproxy'

    def commands(self):
        more = 'BasicAuth {} {}\n'.format(USER, PASSWORD.replace(' ', '')) if self.passwords else ''
        return [['tinyproxy', '-d', '-c', self.write(
            'tinyproxy.conf', 'Port {}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Warning\n{}'.format(
                self.port, more))]]


NGINX_CACHE = '''
    proxy_cache_path {folder}/cache keys_zone=kept:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{origin};
            proxy_http_version 1.1;
            proxy_cache kept;
            proxy_cache_valid 200 206 404 1h;
            proxy_ignore_headers Cache-Control Expires;
            proxy_cache_bypass $http_x_look_again;
            {more}
        }}
    }}
'''


class Cache(Program):
    """A cache before the http port of a web server, as a content delivery network has: what it got once it keeps.

    begins_with_all: where it is asked for several ranges of an image that it has not, it may begin with all of that,
    answer so to whoever asks meanwhile, and not keep it at once.
    """

    begins_with_all = False

    def __init__(self, folder, origin):
        super().__init__(folder)
        self.origin = origin
        self.port = free_port()

    def ports(self):
        return [('127.0.0.1', self.port)]

    def expire(self, url):
        """Let it look at the origin again for what clients know by this URL."""
        self._ask(url, headers={'X-Look-Again': '1'})

    def _ask(self, url, headers=None, method='GET'):
        host, _, path = url.partition('://')[2].partition('/')
        with contextlib.closing(http.client.HTTPConnection('127.0.0.1', self.port)) as connection:
            connection.request(method, '/' + path, headers=dict(headers or {}, Host=host))
            connection.getresponse().read()


class NginxCache(Cache):
    """nginx that fetches files whole."""

    name = 'nginx cache'
    more = ''

    def commands(self):
        cache = NGINX_CACHE.format(folder=self.folder, port=self.port, origin=self.origin.port['http'], more=self.more)
        return [['nginx', '-e', self.path('error.log'), '-c', self.write(
            'nginx.conf', NGINX.format(folder=self.folder, log='off', http=cache))]]


class NginxSlices(NginxCache):
    """nginx that fetches and keeps files in slices."""

    name = 'nginx slices'
    more = 'slice 1m; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;'


class SquidCache(Cache):
    """squid as a reverse proxy that ignores a client's no-cache."""

    name = 'squid cache'
    refresh = 'refresh_pattern . 60 100% 60 override-expire ignore-no-store ignore-reload'
    begins_with_all = True

    def expire(self, url):
        self._ask(url, method='PURGE')

    def commands(self):
        more = '\n'.join((
            'cache_peer 127.0.0.1 parent {} 0 no-query originserver name=behind'.format(self.origin.port['http']),
            'acl purges method PURGE', 'http_access allow all', 'cache_mem 64 MB', 'maximum_object_size_in_memory 32 MB',
            self.refresh))
        base = SQUID.replace('cache deny all\n', '').replace('{port}\n', '{port} accel defaultsite=127.0.0.1\n')
        config = self.write('squid.conf', base.format(folder=self.folder, port=self.port, more=more))
        shutil.chown(self.folder, 'proxy', 'proxy')
        os.chmod(self.folder, 0o755)
        return [['squid', '-N', '-n', 'tako{}'.format(self.port), '-f', config]]


PROXIES = (Squid, Tinyproxy)
CACHES = (NginxCache, NginxSlices, SquidCache)

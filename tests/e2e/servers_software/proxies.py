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
    """A proxy for http and CONNECT.

    passwords: an htpasswd file, or None for a proxy without passwords.
    """

    def __init__(self, folder, passwords=None):
        super().__init__(folder)
        self.passwords = passwords
        self.port = free_port()

    def ports(self):
        return [('127.0.0.1', self.port)]


class Squid(Proxy):
    """squid without a cache."""

    name = 'squid'

    def commands(self):
        more = 'http_access allow all'
        if self.passwords:
            more = SQUID_PASSWORD.format(passwords=self.passwords)
        config = SQUID.format(folder=self.folder, port=self.port, more=more)
        path = self.write('squid.conf', config)
        shutil.chown(self.folder, 'proxy', 'proxy')
        return [['squid', '-N', '-n', 'tako{}'.format(self.port), '-f', path]]


TINYPROXY = '''
Port {}
Listen 127.0.0.1
Timeout 60
MaxClients 50
LogLevel Warning
{}
'''


class Tinyproxy(Proxy):
    """tinyproxy."""

    name = 'tinyproxy'

    def commands(self):
        more = 'BasicAuth {} {}'.format(USER, PASSWORD.replace(' ', '')) if self.passwords else ''
        path = self.write('tinyproxy.conf', TINYPROXY.format(self.port, more))
        return [['tinyproxy', '-d', '-c', path]]


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
    """A cache in front of the http port of a web server, like that of a content delivery network.

    begins_with_all: when a client requests ranges of a file that is not in the cache, the cache may
    request the whole file, answer other clients from that, and only later keep the file.
    """

    begins_with_all = False

    def __init__(self, folder, origin):
        super().__init__(folder)
        self.origin = origin
        self.port = free_port()

    def ports(self):
        return [('127.0.0.1', self.port)]

    def expire(self, url):
        """Let the cache ask the origin for this URL again. The URL is that of the clients."""
        self._ask(url, headers={'X-Look-Again': '1'})

    def _ask(self, url, headers=None, method='GET'):
        host, _, path = url.partition('://')[2].partition('/')
        with contextlib.closing(http.client.HTTPConnection('127.0.0.1', self.port)) as connection:
            connection.request(method, '/' + path, headers=dict(headers or {}, Host=host))
            connection.getresponse().read()


class NginxCache(Cache):
    """nginx that requests whole files."""

    name = 'nginx cache'
    more = ''

    def commands(self):
        http = NGINX_CACHE.format(folder=self.folder, port=self.port,
                                  origin=self.origin.port['http'], more=self.more)
        config = NGINX.format(folder=self.folder, log='off', http=http)
        return [['nginx', '-e', self.path('error.log'), '-c', self.write('nginx.conf', config)]]


class NginxSlices(NginxCache):
    """nginx that requests and keeps files in slices."""

    name = 'nginx slices'
    more = 'slice 1m; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;'


SQUID_CACHE = '''
cache_peer 127.0.0.1 parent {origin} 0 no-query originserver name=behind
acl purges method PURGE
http_access allow all
cache_mem 64 MB
maximum_object_size_in_memory 32 MB
{refresh}
'''


class SquidCache(Cache):
    """squid as a reverse proxy that ignores a client's no-cache."""

    name = 'squid cache'
    refresh = 'refresh_pattern . 60 100% 60 override-expire ignore-no-store ignore-reload'
    begins_with_all = True

    def expire(self, url):
        self._ask(url, method='PURGE')

    def commands(self):
        more = SQUID_CACHE.format(origin=self.origin.port['http'], refresh=self.refresh)
        base = SQUID.replace('cache deny all\n', '')
        base = base.replace('{port}\n', '{port} accel defaultsite=127.0.0.1\n')
        config = base.format(folder=self.folder, port=self.port, more=more)
        path = self.write('squid.conf', config)
        shutil.chown(self.folder, 'proxy', 'proxy')
        os.chmod(self.folder, 0o755)
        return [['squid', '-N', '-n', 'tako{}'.format(self.port), '-f', path]]


PROXIES = (Squid, Tinyproxy)
CACHES = (NginxCache, NginxSlices, SquidCache)

"""Web servers, each with listeners for http and https, and with paths for certain behaviour.

Each serves the same folder of trees:

    /<tree>/        a published directory
    /zipped/<tree>/ compressed for clients that accept it
    /forced/<tree>/ always compressed
    /secret/<tree>/ for the user `me` with the password `se cret`
    /token/<tree>/  for a bearer token (nginx)

All answer 410 for an image with the digest Site.gone.
"""
import contextlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections import namedtuple

import scene
from servers_software.programs import IPV6_ADDRESS, IPV6_HOST, NGINX, Program, free_port

USER, PASSWORD, TOKEN = 'me', 'se cret', 'gho_Hush.hush-0123+/=='
LOG_SECONDS = 10                # how long a server may take to write its log
LISTENERS = ('http', 'http6', 'tls12', 'tls13', 'expired', 'wrong host', 'self-signed', 'up',
             'down')            # up redirects to https, down to http
MODULES = '/usr/lib/apache2/modules'
MOTO = os.path.join(scene.PROJECT, '.venv-servers', 'bin', 'moto_server')


class Site(namedtuple('Site', ('root', 'certificates', 'gone', 'passwords', 'authority'))):
    """What all servers serve, and by which certificates and passwords.

    root: the folder of trees. certificates: listener -> paths of certificate and key.
    gone: the digest of a withdrawn image. passwords: an htpasswd file.
    authority: the certificate of the CA of clients.
    """


class Served(namedtuple('Served', ('path', 'status', 'size'))):
    """A line of a server's log. size: of the body; None if the server does not log it."""


class Logged(Program):
    """A program that logs its responses."""

    log_name = 'access.log'     # may not exist before the first response

    def log(self, paths, until):
        """Return the responses for these paths, once until(them), or after LOG_SECONDS."""
        deadline = time.monotonic() + LOG_SECONDS
        while True:
            has_begun = os.path.exists(self.path(self.log_name))
            found = [each for each in self.read_log() if each.path in paths] if has_begun else []
            if until(found) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def read_log(self):
        with open(self.path(self.log_name)) as stream:
            for line in stream:
                match = re.fullmatch(r'(\S+) ([0-9]{3}) ([0-9]+|-)\n', line)
                if match:
                    path, status, size = match.groups()
                    yield Served(path, int(status), 0 if size == '-' else int(size))


class Origin(Logged):
    """A web server.

    has_several: it answers several ranges in parts. has_etags: it answers If-None-Match with 304.
    can_withdraw: it answers 410 for a file. has_sizes: its log has the sizes of bodies.
    zips, forces, asks: it has paths with compression, forced compression, a password.
    """

    has_ranges = has_several = has_etags = can_withdraw = has_sizes = asks = True
    zips = forces = False
    words = {}                  # listener -> message, other than "certificate not trusted"
    prefix = ''                 # the first part of all paths

    def __init__(self, folder, site):
        super().__init__(folder)
        self.site = site
        self.port = {name: free_port() for name in LISTENERS}

    def ports(self):
        return [(IPV6_HOST if name == 'http6' else '127.0.0.1', self.port[name])
                for name in self.listeners()]

    def listeners(self):
        """Return the names of its listeners."""
        return LISTENERS

    def tls_listeners(self):
        """Yield (name, port, certificate, key, version of TLS) of each listener for https."""
        for name in ('tls12', 'tls13', 'expired', 'wrong host', 'self-signed', 'down'):
            certificate, key = self.site.certificates.get(name) or self.site.certificates['right']
            yield name, self.port[name], certificate, key, '1.2' if name == 'tls12' else '1.3'

    def upload(self, tree):
        """Give the server the new files of a tree, if it does not serve the folder itself."""

    def remove(self, name):
        """Remove from the server a file that was removed from the folder of trees."""


NGINX_HTTP = '''
    log_format short '$uri $status $body_bytes_sent';
    types {{ }}
    default_type application/octet-stream;
{servers}
'''
NGINX_PATHS = '''
    root {root};
    location ~ ^/.*/store/{gone}$ {{ return 410; }}
    location ~ ^/zipped/(.*)$ {{
        alias {root}/$1;
        gzip on;
        gzip_types *;
        gzip_min_length 1;
        gzip_http_version 1.0;
    }}
    location ~ ^/forced/(.*)$ {{
        alias {folder}/gz/$1;
        gzip_static always;
    }}
    location ~ ^/secret/(.*)$ {{
        alias {root}/$1;
        auth_basic tako;
        auth_basic_user_file {passwords};
    }}
    location ~ ^/token/(.*)$ {{
        if ($http_authorization != "Bearer {token}") {{ return 401; }}
        alias {root}/$1;
    }}
'''
NGINX_SERVER = '''
    server {{
        listen 127.0.0.1:{http};
        listen {ipv6}:{http6};
        {paths}
    }}
    server {{
        listen 127.0.0.1:{up};
        return 301 https://127.0.0.1:{tls13}$request_uri;
    }}
'''
NGINX_TLS = '''
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv{version};
        {more}
    }}
'''
NGINX_CLIENT = 'ssl_client_certificate {}; ssl_verify_client on;'


class Nginx(Origin):
    """Debian's nginx. Its listener `client` demands a client certificate."""

    name = 'nginx'
    zips = forces = True

    def __init__(self, folder, site):
        super().__init__(folder, site)
        self.port['client'] = free_port()

    def listeners(self):
        return LISTENERS + ('client',)

    def tls_listeners(self):
        yield from super().tls_listeners()
        yield ('client', self.port['client']) + self.site.certificates['right'] + ('1.3',)

    def commands(self):
        paths = NGINX_PATHS.format(folder=self.folder, token=TOKEN, **self.site._asdict())
        more = {'down': 'return 302 http://127.0.0.1:{http}$request_uri;'.format(**self.port),
                'client': paths + NGINX_CLIENT.format(self.site.authority)}
        servers = NGINX_SERVER.format(ipv6=IPV6_ADDRESS, paths=paths, **self.port)
        servers += ''.join(
            NGINX_TLS.format(port=port, certificate=certificate, key=key, version=version,
                             more=more.get(name, paths))
            for name, port, certificate, key, version in self.tls_listeners())
        config = NGINX.format(folder=self.folder, log=self.path('access.log') + ' short',
                              http=NGINX_HTTP.format(servers=servers))
        return [['nginx', '-e', self.path('error.log'), '-c', self.write('nginx.conf', config)]]

    def upload(self, tree):
        """Make the compressed files that `gzip_static always` serves."""
        for folder, _, names in os.walk(os.path.join(self.site.root, tree)):
            for name in names:
                path = os.path.join(folder, name)
                target = os.path.join(self.path('gz'),
                                      os.path.relpath(path, self.site.root)) + '.gz'
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with open(target, 'wb') as stream:
                    subprocess.check_call(['gzip', '-1c', path], stdout=stream)


APACHE = '''
ServerRoot {folder}
PidFile {folder}/pid
ErrorLog {folder}/error.log
Mutex file:{folder} default
ServerName 127.0.0.1
User www-data
Group www-data
{modules}
LogFormat "%U %>s %B" short
CustomLog {folder}/access.log short
TypesConfig /dev/null
DocumentRoot {root}
AliasMatch "^/(?:zipped|forced|secret)/(.*)$" "{root}/$1"
<Directory {root}>
    Require all granted
</Directory>
RedirectMatch gone "/store/{gone}$"
<LocationMatch "^/(zipped|forced)/">
    SetOutputFilter DEFLATE
</LocationMatch>
SetEnvIf Request_URI "^/forced/" force-gzip=1
<LocationMatch "^/secret/">
    AuthType Basic
    AuthName tako
    AuthUserFile {passwords}
    Require valid-user
</LocationMatch>
Listen 127.0.0.1:{http}
Listen {ipv6}:{http6}
Listen 127.0.0.1:{up}
<VirtualHost 127.0.0.1:{up}>
    Redirect permanent / https://127.0.0.1:{tls13}/
</VirtualHost>
{tls}
'''
APACHE_TLS = '''
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
    SSLEngine on
    SSLProtocol -all +TLSv{version}
    SSLCertificateFile {certificate}
    SSLCertificateKeyFile {key}
    {more}
</VirtualHost>
'''


APACHE_MODULES = ('mpm_event', 'authz_core', 'authn_core', 'authn_file', 'authz_user', 'auth_basic',
                  'alias', 'mime', 'setenvif', 'filter', 'deflate', 'socache_shmcb', 'ssl')


class Apache(Origin):
    """Debian's Apache httpd with mpm_event."""

    name = 'apache'
    zips = forces = True

    def commands(self):
        modules = ''.join('LoadModule {0}_module {1}/mod_{0}.so\n'.format(name, MODULES)
                          for name in APACHE_MODULES)
        more = {'down': 'Redirect / http://127.0.0.1:{http}/'.format(**self.port)}
        tls = ''.join(
            APACHE_TLS.format(port=port, certificate=certificate, key=key, version=version,
                              more=more.get(name, ''))
            for name, port, certificate, key, version in self.tls_listeners())
        config = APACHE.format(folder=self.folder, modules=modules, ipv6=IPV6_ADDRESS, tls=tls,
                               **dict(self.port, **self.site._asdict()))
        return [['apache2', '-D', 'FOREGROUND', '-f', self.write('apache.conf', config)]]


LIGHTTPD = '''
server.modules = ("mod_redirect", "mod_auth", "mod_authn_file", "mod_alias", "mod_openssl",
                  "mod_accesslog")
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {http}
server.errorlog = "{folder}/error.log"
server.upload-dirs = ("{folder}")
server.stat-cache-engine = "disable"        # so that it sees a new manifest at once
accesslog.filename = "{folder}/access.log"
accesslog.format = "%U %s %b"
mimetype.assign = ("" => "application/octet-stream")
alias.url = ("/secret/" => "{root}/")
auth.backend = "htpasswd"
auth.backend.htpasswd.userfile = "{passwords}"
auth.require = ("/secret/" => ("method" => "basic", "realm" => "tako", "require" => "valid-user"))
$HTTP["url"] =~ "/store/{gone}$" {{
    url.redirect = ("" => "/withdrawn")
    url.redirect-code = 410
}}
$SERVER["socket"] == "{ipv6}:{http6}" {{ }}
$SERVER["socket"] == "127.0.0.1:{up}" {{
    url.redirect = ("" => "https://127.0.0.1:{tls13}${{url.path}}")
}}
{tls}
'''
LIGHTTPD_TLS = '''
$SERVER["socket"] == "127.0.0.1:{port}" {{
    ssl.engine = "enable"
    ssl.pemfile = "{certificate}"
    ssl.privkey = "{key}"
    ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv{version}", "MaxProtocol" => "TLSv{version}")
    {more}
}}
'''


class Lighttpd(Origin):
    """Debian's lighttpd.

    It answers at most ten ranges in one response, and merges near ones. Tako therefore requests
    one range at a time.
    """

    name = 'lighttpd'
    has_several = False

    def commands(self):
        redirect = 'url.redirect = ("" => "http://127.0.0.1:%d${url.path}")' % self.port['http']
        tls = ''.join(
            LIGHTTPD_TLS.format(port=port, certificate=certificate, key=key, version=version,
                                more=redirect if name == 'down' else '')
            for name, port, certificate, key, version in self.tls_listeners())
        config = LIGHTTPD.format(folder=self.folder, ipv6=IPV6_ADDRESS, tls=tls,
                                 **dict(self.port, **self.site._asdict()))
        return [['lighttpd', '-D', '-f', self.write('lighttpd.conf', config)]]


CADDY = '''
{{
    admin off
    auto_https off
    default_sni 127.0.0.1
}}
(tree) {{
    log {{
        output file {folder}/access.log
        format json
    }}
    @gone path_regexp /store/{gone}$
    route {{
        respond @gone 410
        handle_path /zipped/* {{
            encode {{
                gzip
                minimum_length 1
                match {{
                    status 200
                }}
            }}
            root * {root}
            file_server
        }}
        handle_path /secret/* {{
            basicauth {{
                {user} {hashed}
            }}
            root * {root}
            file_server
        }}
        handle {{
            root * {root}
            file_server
        }}
    }}
}}
http://:{http} {{
    bind 127.0.0.1
    import tree
}}
http://:{http6} {{
    bind {ipv6}
    import tree
}}
http://:{up} {{
    bind 127.0.0.1
    redir https://127.0.0.1:{tls13}{{uri}}
}}
{tls}
'''
CADDY_TLS = '''
https://:{port} {{
    bind 127.0.0.1
    tls {certificate} {key} {{
        protocols tls{version} tls{version}
    }}
    {more}
}}
'''


class Caddy(Origin):
    """Debian's Caddy. It sends no certificate if it has none for the requested name."""

    name = 'caddy'
    zips = True
    words = {'wrong host': 'alert'}

    def commands(self):
        more = {'down': 'redir http://127.0.0.1:%d{uri}' % self.port['http']}
        tls = ''.join(
            CADDY_TLS.format(port=port, certificate=certificate, key=key, version=version,
                             more=more.get(name, 'import tree'))
            for name, port, certificate, key, version in self.tls_listeners())
        hashed = subprocess.check_output(['caddy', 'hash-password', '--plaintext', PASSWORD])
        config = CADDY.format(folder=self.folder, ipv6=IPV6_HOST, tls=tls, user=USER,
                              hashed=hashed.decode().strip(),
                              **dict(self.port, **self.site._asdict()))
        return [['caddy', 'run', '--adapter', 'caddyfile', '--config',
                 self.write('Caddyfile', config)]]

    def read_log(self):
        with open(self.path(self.log_name)) as stream:
            for line in stream:
                if line.endswith('}\n'):
                    entry = json.loads(line)
                    if 'request' in entry:
                        yield Served(entry['request']['uri'], entry['status'], entry['size'])


# like the program in docs/distributing-images.md
PYTHON_TLS = '''
import http.server, ssl, sys
port, version, certificate, key, root = sys.argv[1:]
http.server.ThreadingHTTPServer.daemon_threads = True
class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=root)
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
version = getattr(ssl.TLSVersion, 'TLSv' + version.replace('.', '_'))
context.minimum_version = context.maximum_version = version
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
'''


class PythonServer(Origin):
    """Python's http.server, which has neither ranges nor ETags; PYTHON_TLS for https."""

    name = 'http.server'
    log_name = 'stderr.0'
    has_ranges = has_several = has_etags = can_withdraw = has_sizes = asks = False

    def listeners(self):
        return [name for name in LISTENERS if name not in ('up', 'down')]

    def commands(self):
        commands = [[sys.executable, '-m', 'http.server', str(self.port[name]), '--bind', host,
                     '--directory', self.site.root]
                    for name, host in (('http', '127.0.0.1'), ('http6', IPV6_HOST))]
        return commands + [
            [sys.executable, '-c', PYTHON_TLS, str(port), version, certificate, key, self.site.root]
            for name, port, certificate, key, version in self.tls_listeners() if name != 'down']

    def read_log(self):
        for number in range(len(self._processes)):
            with open(self.path('stderr.{}'.format(number))) as stream:
                log = re.sub('\033[^m]*m', '', stream.read())       # without colours
                for path, status in re.findall(r'"GET (\S+) HTTP/1\.[01]" ([0-9]{3})', log):
                    yield Served(path, int(status), None)


class S3(PythonServer):
    """moto, an S3 API in memory, without 410 and without several ranges in one response."""

    name = 's3'
    has_ranges = has_etags = True
    prefix = '/images'

    def __init__(self, folder, site):
        super().__init__(folder, site)
        self._uploaded = set()

    def listeners(self):
        return ['http', 'http6', 'tls13']

    def commands(self):
        tls, = [['-c', certificate, '-k', key]
                for name, _, certificate, key, _ in self.tls_listeners() if name == 'tls13']
        return [[MOTO, '-p', str(self.port[name]), '-H'] + more for name, more in (
            ('http', ['127.0.0.1']), ('http6', [IPV6_HOST]), ('tls13', ['127.0.0.1'] + tls))]

    def _connections(self):
        for name, address in zip(self.listeners(), self.ports()):
            if name == 'tls13':
                context = ssl._create_unverified_context()
                yield http.client.HTTPSConnection(*address, context=context)
            else:
                yield http.client.HTTPConnection(*address)

    def upload(self, tree):
        for connection in self._connections():
            self._ask(connection, 'PUT', self.prefix)
        for folder, _, names in os.walk(os.path.join(self.site.root, tree)):
            for path in [os.path.join(folder, each) for each in sorted(names)]:
                identity = os.stat(path).st_mtime_ns, path
                if identity not in self._uploaded:
                    for connection in self._connections():
                        with open(path, 'rb') as stream:
                            self._ask(connection, 'PUT', '{}/{}'.format(
                                self.prefix, os.path.relpath(path, self.site.root)), stream.read())
                    self._uploaded.add(identity)

    def remove(self, name):
        for connection in self._connections():
            self._ask(connection, 'DELETE', '{}/{}'.format(self.prefix, name))
        self._uploaded = {each for each in self._uploaded if not each[1].endswith(name)}

    @staticmethod
    def _ask(connection, method, path, content=b''):
        with contextlib.closing(connection):
            connection.request(method, path, content, {'x-amz-acl': 'public-read'})
            status = connection.getresponse().status
            if status not in (200, 204):
                raise RuntimeError('{} {} got status {}'.format(method, path, status))


ORIGINS = (Nginx, Apache, Lighttpd, Caddy, PythonServer, S3)

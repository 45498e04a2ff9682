"""Web servers, each with listeners for http and https, and paths where they behave in a certain way.

What each serves is a folder of trees. Below it

    /<tree>/        is a directory that was published
    /zipped/<tree>/ is compressed for whoever accepts that
    /forced/<tree>/ is compressed whatever is accepted
    /secret/<tree>/ wants the user `me` with the password `se cret`
    /token/<tree>/  demands a bearer token (nginx)

and an image with the digest Site.gone is answered with 410 in all of them.
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
LOG_SECONDS = 10                # a server may take to write its log
LISTENERS = ('http', 'http6', 'tls12', 'tls13', 'expired', 'wrong host', 'self-signed', 'up', 'down')
MODULES = '/usr/lib/apache2/modules'
MOTO = os.path.join(scene.PROJECT, '.venv-servers', 'bin', 'moto_server')


class Site(namedtuple('Site', ('root', 'certificates', 'gone', 'passwords', 'authority'))):
    """root: the folder of trees. certificates: paths of certificate and key, by listener. gone: a digest.
    passwords: an htpasswd file. authority: the certificate of the CA of clients."""


class Served(namedtuple('Served', ('path', 'status', 'size'))):
    """A line of a server's log; size of the body is None where that is not logged."""


class Logged(Program):
    """A program that logs what it answers."""

    log_name = 'access.log'     # which may begin with the first answer

    def log(self, paths, until):
        """What was answered for these paths, once until(that), within reason."""
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
                    yield Served(match.group(1), int(match.group(2)),
                                 (0 if match.group(3) == '-' else int(match.group(3))))


class Origin(Logged):
    """A web server.

    has_several: answers several ranges in parts. has_etags: answers If-None-Match with 304. can_withdraw:
    answers 410 for a file. zips, forces, asks: has the paths of that kind.
    """

    has_ranges = has_several = has_etags = can_withdraw = has_sizes = asks = True
    zips = forces = False
    words = {}                  # about a certificate, where they are not "certificate not trusted"
    prefix = ''                 # of all paths

    def __init__(self, folder, site):
        super().__init__(folder)
        self.site = site
        self.port = {name: free_port() for name in LISTENERS}

    def ports(self):
        return [(IPV6_HOST if name == 'http6' else '127.0.0.1', self.port[name]) for name in self.listeners()]

    def listeners(self):
        """Those that it has."""
        return LISTENERS

    def tls_listeners(self):
        """Each with its certificate, its key, the oldest and the newest TLS that it speaks."""
        for name in ('tls12', 'tls13', 'expired', 'wrong host', 'self-signed', 'down'):
            certificate, key = self.site.certificates.get(name) or self.site.certificates['right']
            yield name, self.port[name], certificate, key, '1.2' if name == 'tls12' else '1.3'

    def upload(self, tree):
        """Let the server have what is new in a tree."""

    def remove(self, name):
        """Let the server lose what was removed from the folder of trees."""


NGINX_HTTP = '''
    log_format told '$uri $status $body_bytes_sent';
    types {{ }}
    default_type application/octet-stream;
{servers}
'''
NGINX_PATHS = '''
    root {root};
    location ~ ^/.*/store/{gone}$ {{ return 410; }}
    location ~ ^/zipped/(.*)$ {{ alias {root}/$1; gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0; }}
    location ~ ^/forced/(.*)$ {{ alias {folder}/gz/$1; gzip_static always; }}
    location ~ ^/secret/(.*)$ {{ alias {root}/$1; auth_basic tako; auth_basic_user_file {passwords}; }}
    location ~ ^/token/(.*)$ {{ if ($http_authorization != "Bearer {token}") {{ return 401; }} alias {root}/$1; }}
'''
NGINX_CLIENT = 'ssl_client_certificate {}; ssl_verify_client on;'


class Nginx(Origin):
    """nginx, as packaged. Its listener `client` demands a client certificate."""

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
        tls = 'server {{ listen 127.0.0.1:{} ssl; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv{}; {} }}'
        servers = ['server {{ listen 127.0.0.1:{http}; listen {ipv6}:{http6}; {paths} }}'.format(
            ipv6=IPV6_ADDRESS, paths=paths, **self.port)]
        servers += [tls.format(*each[1:], 'return 302 http://127.0.0.1:{http}$request_uri;'.format(**self.port)
                               if each[0] == 'down' else paths + NGINX_CLIENT.format(self.site.authority)
                               if each[0] == 'client' else paths) for each in self.tls_listeners()]
        servers.append('server {{ listen 127.0.0.1:{up}; return 301 https://127.0.0.1:{tls13}$request_uri; }}'.format(
            **self.port))
        return [['nginx', '-e', self.path('error.log'), '-c', self.write(
            'nginx.conf', NGINX.format(folder=self.folder, log=self.path('access.log') + ' told',
                                       http=NGINX_HTTP.format(servers='\n'.join(servers))))]]

    def upload(self, tree):
        for folder, _, names in os.walk(os.path.join(self.site.root, tree)):
            for name in names:                  # what gzip_static always is made for
                path = os.path.join(folder, name)
                target = os.path.join(self.path('gz'), os.path.relpath(path, self.site.root)) + '.gz'
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
LogFormat "%U %>s %B" told
CustomLog {folder}/access.log told
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


class Apache(Origin):
    """Apache httpd, as packaged, with mpm_event."""

    name = 'apache'
    zips = forces = True
    def commands(self):
        modules = ''.join('LoadModule {0}_module {1}/mod_{0}.so\n'.format(name, MODULES) for name in (
            'mpm_event', 'authz_core', 'authn_core', 'authn_file', 'authz_user', 'auth_basic', 'alias', 'mime', 'setenvif',
            'filter', 'deflate', 'socache_shmcb', 'ssl'))
        tls = ''.join(APACHE_TLS.format(
            port=port, certificate=certificate, key=key, version=version,
            more='Redirect / http://127.0.0.1:{http}/'.format(**self.port) if name == 'down' else '')
            for name, port, certificate, key, version in self.tls_listeners())
        return [['apache2', '-D', 'FOREGROUND', '-f', self.write('apache.conf', APACHE.format(
            folder=self.folder, modules=modules, ipv6=IPV6_ADDRESS, tls=tls, **dict(self.port, **self.site._asdict())))]]


LIGHTTPD = '''
server.modules = ("mod_redirect", "mod_auth", "mod_authn_file", "mod_alias", "mod_openssl", "mod_accesslog")
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {http}
server.errorlog = "{folder}/error.log"
server.upload-dirs = ("{folder}")
server.stat-cache-engine = "disable"        # lest it take a second to see a new manifest
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
$SERVER["socket"] == "127.0.0.1:{up}" {{ url.redirect = ("" => "https://127.0.0.1:{tls13}${{url.path}}") }}
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
    """lighttpd, as packaged. It answers at most ten ranges at once, and makes one of those that are near: so none for us."""

    name = 'lighttpd'
    has_several = False
    def commands(self):
        tls = ''.join(LIGHTTPD_TLS.format(
            port=port, certificate=certificate, key=key, version=version,
            more='url.redirect = ("" => "http://127.0.0.1:%d${url.path}")' % self.port['http'] if name == 'down' else '')
            for name, port, certificate, key, version in self.tls_listeners())
        return [['lighttpd', '-D', '-f', self.write('lighttpd.conf', LIGHTTPD.format(
            folder=self.folder, ipv6=IPV6_ADDRESS, tls=tls, **dict(self.port, **self.site._asdict())))]]


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
    """Caddy, as packaged."""

    name = 'caddy'
    zips = True
    words = {'wrong host': 'alert'}         # it gives nobody a certificate that is not for the name that was asked for

    def commands(self):
        tls = ''.join(CADDY_TLS.format(
            port=port, certificate=certificate, key=key, version=version,
            more='redir http://127.0.0.1:%d{uri}' % self.port['http'] if name == 'down' else 'import tree')
            for name, port, certificate, key, version in self.tls_listeners())
        hashed = subprocess.check_output(['caddy', 'hash-password', '--plaintext', PASSWORD], universal_newlines=True)
        return [['caddy', 'run', '--adapter', 'caddyfile', '--config', self.write('Caddyfile', CADDY.format(
            folder=self.folder, ipv6=IPV6_HOST, tls=tls, user=USER, hashed=hashed.strip(),
            **dict(self.port, **self.site._asdict())))]]

    def read_log(self):
        with open(self.path(self.log_name)) as stream:
            for line in stream:
                if line.endswith('}\n'):
                    told = json.loads(line)
                    if 'request' in told:
                        yield Served(told['request']['uri'], told['status'], told['size'])


# as in docs/distributing-images.md
PYTHON_TLS = '''
import http.server, ssl, sys
port, version, certificate, key, root = sys.argv[1:]
http.server.ThreadingHTTPServer.daemon_threads = True
class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=root)
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, 'TLSv' + version.replace('.', '_'))
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
'''


class PythonServer(Origin):
    """Python's http.server, which has neither ranges nor ETags; for https the program of the docs."""

    name = 'http.server'
    log_name = 'stderr.0'
    has_ranges = has_several = has_etags = can_withdraw = has_sizes = asks = False

    def listeners(self):
        return [name for name in LISTENERS if name not in ('up', 'down')]

    def commands(self):
        found = [[sys.executable, '-m', 'http.server', str(self.port[name]), '--bind', host, '--directory', self.site.root]
                 for name, host in (('http', '127.0.0.1'), ('http6', IPV6_HOST))]
        return found + [[sys.executable, '-c', PYTHON_TLS, str(port), version, certificate, key, self.site.root]
                        for name, port, certificate, key, version in self.tls_listeners() if name != 'down']

    def read_log(self):
        for number in range(len(self._processes)):
            with open(self.path('stderr.{}'.format(number))) as stream:
                told = re.sub('\033[^m]*m', '', stream.read())
                for path, status in re.findall(r'"GET (\S+) HTTP/1\.[01]" ([0-9]{3})', told):
                    yield Served(path, int(status), None)


class S3(PythonServer):
    """An S3 API: moto, whose state is in memory. It knows neither 410 nor several ranges in one answer."""

    name = 's3'
    has_ranges = has_etags = True
    prefix = '/images'

    def __init__(self, folder, site):
        super().__init__(folder, site)
        self._uploaded = set()

    def listeners(self):
        return ['http', 'http6', 'tls13']

    def commands(self):
        tls = [['-c', certificate, '-k', key] for name, _, certificate, key, _ in self.tls_listeners() if name == 'tls13']
        return [[MOTO, '-p', str(self.port[name]), '-H'] + more for name, more in (
            ('http', ['127.0.0.1']), ('http6', [IPV6_HOST]), ('tls13', ['127.0.0.1'] + tls[0]))]

    def _connections(self):
        for name, address in zip(self.listeners(), self.ports()):
            if name == 'tls13':
                yield http.client.HTTPSConnection(*address, context=ssl._create_unverified_context())
            else:
                yield http.client.HTTPConnection(*address)

    def upload(self, tree):
        for connection in self._connections():
            self._ask(connection, 'PUT', self.prefix)
        for folder, _, names in os.walk(os.path.join(self.site.root, tree)):
            for path in [os.path.join(folder, each) for each in sorted(names)]:
                seen = os.stat(path).st_mtime_ns, path
                if seen not in self._uploaded:
                    for connection in self._connections():
                        with open(path, 'rb') as stream:
                            self._ask(connection, 'PUT', '{}/{}'.format(
                                self.prefix, os.path.relpath(path, self.site.root)), stream.read())
                    self._uploaded.add(seen)

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
                raise RuntimeError('{} {} was answered with {}'.format(method, path, status))


ORIGINS = (Nginx, Apache, Lighttpd, Caddy, PythonServer, S3)

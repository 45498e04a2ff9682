"""Gateways in front of a web server that change, refuse, limit or delay what passes."""
import sys

from servers_software.origins import Logged
from servers_software.programs import NGINX, free_port
from servers_software.proxies import NginxCache, SquidCache


class Gateway(Logged):
    """A program between the client and the http port of a web server."""

    command = ''            # the program that it needs

    def __init__(self, folder, origin):
        super().__init__(folder)
        self.origin = origin
        self.port = free_port()

    def ports(self):
        return [('127.0.0.1', self.port)]


HAPROXY = '''
defaults
    mode http
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    log stdout format raw daemon
    log-format "%HP %ST %B"
frontend all
    bind 127.0.0.1:{port}
    acl has_range req.hdr(range) -m found
    {rules}
    default_backend origin
backend origin
    server only 127.0.0.1:{origin}
'''


class Haproxy(Gateway):
    """haproxy with some rules of a frontend."""

    command = 'haproxy'
    log_name = 'stderr.0'
    rules = ()

    def commands(self):
        return [['haproxy', '-db', '-f', self.write('haproxy.conf', HAPROXY.format(
            port=self.port, origin=self.origin.port['http'], rules='\n    '.join(self.rules)))]]


class HaproxyHints(Haproxy):
    """Sends two interim responses before each response."""

    # haproxy merges the responses of two such rules that follow each other directly
    rules = ('http-request early-hint Link "</one>; rel=preload"',
             'http-request set-header X-Between 1',
             'http-request early-hint Link "</two>; rel=preload"')


class HaproxySerial(Haproxy):
    """Serves one connection at a time. Others wait until it is closed."""

    rules = ('maxconn 1',)


class HaproxyRefusal(Haproxy):
    """Refuses requests with Range: by a status, or by closing the connection."""

    def __init__(self, folder, origin, refusal):
        super().__init__(folder, origin)
        how = 'reject' if refusal == 'reject' else 'return status {}'.format(refusal)
        self.rules = ('http-request {} if has_range'.format(how),)


NGINX_GATEWAY = '''
    log_format short '$uri $status $body_bytes_sent';
    limit_req_zone $binary_remote_addr zone=clients:1m rate=2r/s;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            {rule}
            proxy_pass http://127.0.0.1:{origin};
            proxy_http_version 1.1;
        }}
    }}
'''


class NginxGateway(Gateway):
    """nginx with a rule before it passes a request on."""

    command = 'nginx'
    rule = ''

    def commands(self):
        http = NGINX_GATEWAY.format(port=self.port, origin=self.origin.port['http'], rule=self.rule)
        return [['nginx', '-e', self.path('error.log'), '-c', self.write('nginx.conf', NGINX.format(
            folder=self.folder, log=self.path('access.log') + ' short', http=http))]]


class NginxRateLimit(NginxGateway):
    """Answers 503 to a request that comes within half a second of the one before."""

    rule = 'limit_req zone=clients;'


class NginxRefusal(NginxGateway):
    """Refuses requests with Range by a status."""

    def __init__(self, folder, origin, refusal):
        super().__init__(folder, origin)
        self.rule = 'if ($http_range) {{ return {}; }}'.format(refusal)


SERIAL_SERVER = '''
import http.server, sys
port, root = sys.argv[1:]
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=root)
http.server.HTTPServer(('127.0.0.1', int(port)), Handler).serve_forever()
'''


class SerialServer(Gateway):
    """Python's http.server without threads, which serves the files itself."""

    log_name = 'stderr.0'

    def commands(self):
        return [[sys.executable, '-c', SERIAL_SERVER, str(self.port), self.origin.site.root]]


class NginxObedientCache(NginxCache):
    """nginx that asks the origin again if a request has Cache-Control."""

    name = 'nginx obedient cache'
    more = 'proxy_cache_bypass $http_cache_control;'


class SquidDefaultCache(SquidCache):
    """squid as a reverse proxy with the lifetimes of its defaults."""

    name = 'squid default cache'
    refresh = 'refresh_pattern . 0 20% 4320'

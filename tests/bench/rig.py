"""What the measurements play on: a scratch directory, an installed Tako, nginx on loopback, and processes timed."""
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tako

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BENCH = os.path.join(PROJECT, 'tests', 'bench')
TAKO = os.path.join(PROJECT, 'tako.py')
PYTHON = os.path.realpath(sys.executable)       # the one that the environment we run in was made from
SEED = b'test-key-very-security-such-safe'
PUBLIC_KEY = tako.encode_base64(tako.ed25519_public_key(SEED))
ENVIRON = {name: value for name, value in os.environ.items()
           if not name.startswith(('PYTHON', 'SSL_CERT_')) and not name.lower().endswith('_proxy')}
# without OpenSSL, hashlib has no use of the processor's instructions for SHA
HAS_OPENSSL_HASHES = importlib.util.find_spec('_hashlib') is not None
SERVER_SECONDS = 10.0                           # for nginx to answer
NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/nginx.error;
events {{ worker_connections 4096; }}
http {{
    log_format measured '$connection $status $request_length $bytes_sent $request_uri';
    keepalive_requests 100000;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {root}/nginx.tmp; proxy_temp_path {root}/nginx.tmp; fastcgi_temp_path {root}/nginx.tmp;
    uwsgi_temp_path {root}/nginx.tmp; scgi_temp_path {root}/nginx.tmp;
    ssl_certificate {root}/server.pem;
    ssl_certificate_key {root}/server.key;
    server {{ listen 127.0.0.1:{ports[plain]}; root {root}/served; access_log off; }}
    server {{ listen 127.0.0.1:{ports[tls]} ssl; root {root}/served; access_log off; }}
    server {{ listen 127.0.0.1:{ports[logged]}; root {root}/served; access_log {root}/access.log measured; }}
    server {{ listen 127.0.0.1:{ports[logged-tls]} ssl; root {root}/served; access_log {root}/access.log measured; }}
}}
"""


class Cost:
    """What a process took: seconds, seconds of CPU, and bytes of memory at its peak."""

    def __init__(self, seconds, cpu, peak):
        self.seconds = seconds
        self.cpu = cpu
        self.peak = peak


def measure(command, environ=None):
    """The Cost of a command, a list or a line for sh; SystemExit if it fails."""
    if isinstance(command, str):
        command = ['sh', '-c', command]
    done = subprocess.run([PYTHON, '-I', '-S', os.path.join(BENCH, 'launch.py')] + command, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=dict(ENVIRON, **(environ or {})))
    said = done.stdout.decode().split()
    if done.returncode or said[0] != '0':
        raise SystemExit('{}\nended with {}: {}'.format(' '.join(command), said, done.stderr.decode()))
    return Cost(float(said[1]), float(said[2]), int(said[3]))


def output_of(command, environ=None):
    """What a command prints, stripped; None if it cannot be had."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                              env=dict(ENVIRON, **(environ or {})))
    except OSError:
        return None
    return done.stdout.decode('utf-8', 'replace').strip() if done.returncode == 0 else None


class Stage:
    """Everything that is measured stands below `root`, and goes when the `with` ends.

    BENCH_DIR: on whose disk; needs 11 GB free for all tables.
    """

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix='tako-bench-', dir=os.environ.get('BENCH_DIR') or None)
        os.chmod(self.root, 0o755)              # nginx's worker may be another user
        self.ports = dict(zip(('plain', 'tls', 'logged', 'logged-tls'), free_ports(4)))
        self._server = None

    def __enter__(self):
        try:
            self.key_file = self.write('secret.key', tako.format_secret_key(SEED) + '\n', 0o600)
            os.mkdir(self.path('served'))
            os.mkdir(self.path('nginx.tmp'))
            subprocess.run(['make', '-s', '-C', PROJECT, 'install', 'PREFIX=' + self.path('prefix'), 'PYTHON=' + PYTHON],
                           check=True, stdout=subprocess.DEVNULL, env=ENVIRON)
            self.installed = [self.path('prefix', 'bin', 'tako')]
            self.copied = [PYTHON, TAKO]
            self._make_certificate()
            self._start_server()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.root, *names)

    def write(self, name, text, mode=0o644):
        path = self.path(name)
        with open(path, 'w') as stream:
            stream.write(text)
        os.chmod(path, mode)
        return path

    def url(self, directory, server='plain'):
        """Where a directory below served/ is; server: plain, tls, logged or logged-tls."""
        return '{}://127.0.0.1:{}/{}'.format('https' if 'tls' in server else 'http', self.ports[server], directory)

    def image(self, name, size):
        """A file of size bytes that no file system can store as a hole; its path."""
        path = self.path(name)
        if not os.path.exists(path):
            measure('openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c {} > {}'.format(
                size, shlex.quote(path)))
        return path

    def publish(self, directory, image, version='1.0'):
        """Store a file as a version in a directory below served/."""
        os.makedirs(self.path('served', directory), exist_ok=True)
        measure(self.store(self.path('served', directory), image, version))

    def store(self, directory, image, version):
        """The command that does it."""
        return self.installed + ['store', '-f', self.key_file, '-o', directory, image, version]

    def client(self, name, url, destination=None):
        """A config, and a destination beside it if none is given; the config's path."""
        destination = destination or self.path('client', name)
        os.makedirs(destination, exist_ok=True)
        return self.write('{}.tako'.format(name), 'Origin={}\nPublicKey={}\nDestination={}\nVersion=*\n'.format(
            url, PUBLIC_KEY, destination))

    def empty(self, *names):
        """Make a directory anew, and let the disk come to rest."""
        shutil.rmtree(self.path(*names), ignore_errors=True)
        os.makedirs(self.path(*names))
        os.sync()

    def requests(self, command, environ):
        """What nginx logged while a command ran: (connection, status, bytes in, bytes out, path) of each request."""
        log = self.path('access.log')
        before = os.path.getsize(log)
        measure(command, environ)
        time.sleep(0.2)                         # nginx logs once the answer is out
        with open(log) as stream:
            stream.seek(before)
            return [line.split() for line in stream]

    def worker(self):
        """The process id of nginx's worker."""
        return int(output_of(['pgrep', '-P', str(self._server.pid)]).split()[0])

    def _make_certificate(self):
        """One that clients trust beside all that the system trusts, in a directory such as the system has."""
        script = """
        cd {root}
        openssl req -x509 -newkey rsa:2048 -nodes -keyout authority.key -out authority.pem -subj '/CN=Bench' -days 2 \\
            -addext keyUsage=critical,keyCertSign,cRLSign
        openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server
        printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\nauthorityKeyIdentifier=keyid\\n' \\
            > server.ext
        openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -extfile server.ext \\
            -out server.pem -days 2
        mkdir authorities
        cp -L /etc/ssl/certs/*.[0-9] authority.pem authorities
        ln -s authority.pem authorities/$(openssl x509 -noout -hash -in authority.pem).0
        """.format(root=shlex.quote(self.root))
        subprocess.run(['sh', '-e', '-c', script], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.trust = {'SSL_CERT_DIR': self.path('authorities')}

    def _start_server(self):
        user = 'user root;' if os.getuid() == 0 else ''
        self.write('nginx.conf', NGINX.format(root=self.root, user=user, ports=self.ports))
        self._server = subprocess.Popen(['nginx', '-c', self.path('nginx.conf')], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + SERVER_SECONDS
        for port in self.ports.values():
            while True:
                try:
                    socket.create_connection(('127.0.0.1', port)).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise SystemExit('nginx does not answer')
                    time.sleep(0.02)


def free_ports(count):
    """Ports of loopback that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(('127.0.0.1', 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def machine():
    """What the figures were measured on, and with what, as (name, text) pairs."""
    with open('/proc/cpuinfo') as stream:
        model = re.search('model name\t*: (.*)', stream.read())
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    found = [('machine', '{} x {}, {:.0f} GB, Linux {}, load {:.1f} at the start'.format(
        os.cpu_count(), model.group(1) if model else os.uname().machine, memory / 1e9, os.uname().release,
        os.getloadavg()[0]))]
    openssl = output_of([PYTHON, '-c', 'import ssl; print(ssl.OPENSSL_VERSION)'])
    found.append(('Python', '{} with {}{}'.format(sys.version.split()[0], openssl, '' if HAS_OPENSSL_HASHES else
                                                  ', but a hashlib without it')))
    for name, command, pattern in (('curl', ['curl', '--version'], 'curl ([^ ]+)'),
                                   ('openssl', ['openssl', 'version'], 'OpenSSL ([^ ]+)'),
                                   ('nginx', ['nginx', '-v'], 'nginx/([^ ]+)'),
                                   ('sha256sum', ['sha256sum', '--version'], r'\) ([^ \n]+)'),
                                   ('minisign', ['minisign', '-v'], 'minisign ([^ ]+)'),
                                   ('signify', ['dpkg-query', '-W', '-f', '${Version}', 'signify-openbsd'], '(.+)'),
                                   ('ab', ['ab', '-V'], 'Version ([^ ]+)')):
        match = re.search(pattern, output_of(command) or '')
        found.append((name, match.group(1) if match else 'not installed'))
    packages = output_of([sys.executable, '-m', 'pip', 'list', '--format=freeze', '--disable-pip-version-check']) or ''
    found += [tuple(line.split('==')) for line in packages.split('\n')
              if line.split('==')[0].lower() in ('ecdsa', 'larzcrypt', 'pure25519', 'pynacl')]
    return found

"""The test rig of make bench: a scratch directory, an installed Tako, nginx, timed processes."""
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
PYTHON = os.path.realpath(sys.executable)       # the interpreter of this virtual environment
SEED = b'test-key-very-security-such-safe'
PUBLIC_KEY = tako.encode_base64(tako.ed25519_public_key(SEED))
ENVIRON = {name: value for name, value in os.environ.items()
           if not name.startswith(('PYTHON', 'SSL_CERT_')) and not name.lower().endswith('_proxy')}
# Without OpenSSL, hashlib does not use the processor's instructions for SHA.
HAS_OPENSSL_HASHES = importlib.util.find_spec('_hashlib') is not None
SERVER_SECONDS = 10.0                           # how long nginx may take to start
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
    client_body_temp_path {root}/nginx.tmp;
    proxy_temp_path {root}/nginx.tmp;
    fastcgi_temp_path {root}/nginx.tmp;
    uwsgi_temp_path {root}/nginx.tmp;
    scgi_temp_path {root}/nginx.tmp;
    ssl_certificate {root}/server.pem;
    ssl_certificate_key {root}/server.key;
    root {root}/served;
    server {{
        listen 127.0.0.1:{ports[plain]};
        listen 127.0.0.1:{ports[tls]} ssl;
        access_log off;
    }}
    server {{
        listen 127.0.0.1:{ports[logged]};
        listen 127.0.0.1:{ports[logged-tls]} ssl;
        access_log {root}/access.log measured;
    }}
}}
"""
CERTIFICATES = r"""
openssl req -x509 -newkey rsa:2048 -nodes -keyout authority.key -out authority.pem \
    -subj '/CN=Bench' -days 2 -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n' \
    > server.ext
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
    -extfile server.ext -out server.pem -days 2
mkdir authorities
cp -L /etc/ssl/certs/*.[0-9] authority.pem authorities
ln -s authority.pem authorities/$(openssl x509 -noout -hash -in authority.pem).0
"""


class Cost:
    """The cost of a process: seconds, seconds of CPU, and peak memory in bytes."""

    def __init__(self, seconds, cpu, peak):
        self.seconds = seconds
        self.cpu = cpu
        self.peak = peak


def measure(command, environ=None):
    """Run a command, a list or a line for sh. Return its Cost. Raises SystemExit if it fails."""
    if isinstance(command, str):
        command = ['sh', '-c', command]
    done = subprocess.run([PYTHON, '-I', '-S', os.path.join(BENCH, 'launch.py')] + command,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, env=dict(ENVIRON, **(environ or {})))
    numbers = done.stdout.decode().split()
    if done.returncode or numbers[0] != '0':
        raise SystemExit('{}\nended with {}: {}'.format(' '.join(command), numbers,
                                                        done.stderr.decode()))
    return Cost(float(numbers[1]), float(numbers[2]), int(numbers[3]))


def output_of(command, environ=None):
    """Return what a command prints, stripped; None if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, env=dict(ENVIRON, **(environ or {})))
    except OSError:
        return None
    return done.stdout.decode('utf-8', 'replace').strip() if done.returncode == 0 else None


class Rig:
    """A scratch directory `root` with all that is measured. The end of the `with` removes it.

    BENCH_DIR: its parent directory, with 11 GB free for all tables.
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
            install = ['make', '-s', '-C', PROJECT, 'install', 'PREFIX=' + self.path('prefix'),
                       'PYTHON=' + PYTHON]
            subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=ENVIRON)
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
        """Return the URL of a directory in served/. server: plain, tls, logged or logged-tls."""
        scheme = 'https' if 'tls' in server else 'http'
        return '{}://127.0.0.1:{}/{}'.format(scheme, self.ports[server], directory)

    def image(self, name, size):
        """Make a file of `size` bytes, without holes. Return its path."""
        path = self.path(name)
        if not os.path.exists(path):
            measure('openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 -in /dev/zero 2>/dev/null '
                    '| head -c {} > {}'.format(size, shlex.quote(path)))
        return path

    def publish(self, directory, image, version='1.0'):
        """Publish a file as a version in a directory of served/."""
        os.makedirs(self.path('served', directory), exist_ok=True)
        measure(self.store(self.path('served', directory), image, version))

    def store(self, directory, image, version):
        """Return the command that publishes an image."""
        return self.installed + ['store', '-f', self.key_file, '-o', directory, image, version]

    def client(self, name, url, destination=None):
        """Write a config. Return its path. The default destination is client/NAME."""
        destination = destination or self.path('client', name)
        os.makedirs(destination, exist_ok=True)
        config = 'Origin={}\nPublicKey={}\nDestination={}\nVersion=*\n'
        return self.write('{}.tako'.format(name), config.format(url, PUBLIC_KEY, destination))

    def empty(self, *names):
        """Empty a directory, and sync the disk."""
        shutil.rmtree(self.path(*names), ignore_errors=True)
        os.makedirs(self.path(*names))
        os.sync()

    def requests(self, command, environ):
        """Run a command. Return what nginx logged of its requests.

        Each is (connection, status, bytes received, bytes sent, path).
        """
        log = self.path('access.log')
        before = os.path.getsize(log)
        measure(command, environ)
        time.sleep(0.2)                         # nginx logs after it has sent a response
        with open(log) as stream:
            stream.seek(before)
            return [line.split() for line in stream]

    def worker(self):
        """Return the process id of nginx's worker."""
        return int(output_of(['pgrep', '-P', str(self._server.pid)]).split()[0])

    def _make_certificate(self):
        """Make a certificate, and a directory of CAs: the system's and the one that signed it."""
        subprocess.run(['sh', '-e', '-c', CERTIFICATES], check=True, cwd=self.root,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.trust = {'SSL_CERT_DIR': self.path('authorities')}

    def _start_server(self):
        user = 'user root;' if os.getuid() == 0 else ''
        self.write('nginx.conf', NGINX.format(root=self.root, user=user, ports=self.ports))
        self._server = subprocess.Popen(['nginx', '-c', self.path('nginx.conf')],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + SERVER_SECONDS
        for port in self.ports.values():
            while True:
                try:
                    socket.create_connection(('127.0.0.1', port)).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise SystemExit('nginx does not respond')
                    time.sleep(0.02)


def free_ports(count):
    """Return free ports of loopback."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(('127.0.0.1', 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


# name of a program, command that prints its version, pattern of the version
VERSIONS = (
    ('curl', ['curl', '--version'], 'curl ([^ ]+)'),
    ('openssl', ['openssl', 'version'], 'OpenSSL ([^ ]+)'),
    ('nginx', ['nginx', '-v'], 'nginx/([^ ]+)'),
    ('sha256sum', ['sha256sum', '--version'], r'\) ([^ \n]+)'),
    ('minisign', ['minisign', '-v'], 'minisign ([^ ]+)'),
    ('signify', ['dpkg-query', '-W', '-f', '${Version}', 'signify-openbsd'], '(.+)'),
    ('ab', ['ab', '-V'], 'Version ([^ ]+)'))


def machine():
    """Return the machine and all versions as (name, text) pairs."""
    with open('/proc/cpuinfo') as stream:
        model = re.search('model name\t*: (.*)', stream.read())
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    found = [('machine', '{} x {}, {:.0f} GB, Linux {}, load {:.1f} at the start'.format(
        os.cpu_count(), model.group(1) if model else os.uname().machine, memory / 1e9,
        os.uname().release, os.getloadavg()[0]))]
    openssl = output_of([PYTHON, '-c', 'import ssl; print(ssl.OPENSSL_VERSION)'])
    found.append(('Python', '{} with {}{}'.format(
        sys.version.split()[0], openssl,
        '' if HAS_OPENSSL_HASHES else ', but a hashlib without it')))
    for name, command, pattern in VERSIONS:
        match = re.search(pattern, output_of(command) or '')
        found.append((name, match.group(1) if match else 'not installed'))
    packages = output_of([sys.executable, '-m', 'pip', 'list', '--format=freeze',
                          '--disable-pip-version-check']) or ''
    found += [tuple(line.split('==')) for line in packages.split('\n')
              if line.split('==')[0].lower() in ('ecdsa', 'larzcrypt', 'pure25519', 'pynacl')]
    return found

"""Programs that bring an image up to date, each behind the same few methods."""
import os
import shutil
import subprocess
import sys

import measure

HERE = os.path.dirname(os.path.abspath(__file__))
TAKO = os.path.abspath(os.environ.get('TAKO') or os.path.join(HERE, '..', '..', 'tako.py'))
PACKAGES = ['bsdiff', 'casync', 'curl', 'debootstrap', 'e2fsprogs', 'erofs-utils', 'nginx-light', 'squashfs-tools', 'xdelta3',
            'zchunk', 'zsync']
MAKING_SECONDS = 300
UPDATE_SECONDS = 300
BSDIFF_MEMORY = 20                      # bytes for each of the old image: two suffix arrays of eight each, and the rest
XDELTA_WINDOW_BYTES = 16 << 20


class Peer:
    """A program that updates images, and where it does.

    served: what the web server shows of it. client: its folder on the machine that updates. old, new: paths of the
    images; the client holds the old one.
    """

    def __init__(self, name, www, clients):
        self.name = name
        self.www = www
        self.served = os.path.join(www, name)
        self.client = os.path.join(clients, name)

    def begin(self, old, new):
        self.old, self.new = old, new
        self.end()
        os.makedirs(self.served)
        os.makedirs(self.client)
        os.symlink(new, os.path.join(self.served, 'image'))     # for those that take all of it, or parts
        self.result = os.path.join(self.client, 'image')

    def end(self):
        shutil.rmtree(self.served, ignore_errors=True)
        shutil.rmtree(self.client, ignore_errors=True)

    def publish(self, port):
        """Make all that updates need; the Run."""
        raise NotImplementedError

    def prepare(self, port):
        """Bring the client to where it was before the update."""
        if os.path.exists(self.result):
            os.unlink(self.result)

    def update(self, port):
        """The command that updates the client from a web server on this port."""
        raise NotImplementedError

    def unpack(self):
        """Nothing, where the result is an image as it is."""

    def url(self, port, name=''):
        return 'http://127.0.0.1:{}/{}/{}'.format(port, self.name, name)

    def make(self, *command):
        return measure.run(command, self.served, MAKING_SECONDS)


class Curl(Peer):
    """All of the image, durable and with its digest."""

    def publish(self, port):
        return self.make('sha256sum', self.new)

    def update(self, port):
        return shell('curl -sfo image "$0" && sync image && sha256sum image', self.url(port, 'image'))


class Casync(Peer):
    def __init__(self, average, *settings):
        super().__init__(*settings)
        self.sizes = '{}:{}:{}'.format(average // 4, average, average * 4)

    def publish(self, port):
        return self.make('casync', 'make', '--store=chunks.castr', '--chunk-size=' + self.sizes, 'image.caibx', self.new)

    def update(self, port):
        return ['casync', 'extract', '--store=' + self.url(port, 'chunks.castr'), '--seed=' + self.old,
                self.url(port, 'image.caibx'), 'image']


class Zsync(Peer):
    def publish(self, port):
        return self.make('zsyncmake', '-o', 'image.zsync', '-u', 'image', self.new)

    def update(self, port):
        return ['zsync', '-q', '-i', self.old, '-o', 'image', self.url(port, 'image.zsync')]


class Zchunk(Peer):
    """Both sides hold images that zck has compressed; the client's is unpacked at the end."""

    def publish(self, port):
        subprocess.run(['zck', '-o', os.path.join(self.client, 'old.zck'), self.old], check=True)
        return self.make('zck', '-o', 'image.zck', self.new)

    def prepare(self, port):
        super().prepare(port)
        if os.path.exists(self.result + '.zck'):
            os.unlink(self.result + '.zck')

    def update(self, port):
        return shell('zckdl -s old.zck "$0" && unzck -c image.zck > image', self.url(port, 'image.zck'))


class Patches(Peer):
    """A patch made beforehand, got with curl."""

    def patch(self, port, command):
        return shell('curl -sfo patch "$0" && ' + command, self.url(port, 'patch'), self.old)


class Xdelta(Patches):
    def source(self):
        return str(max(os.path.getsize(self.old), 1 << 20))

    def publish(self, port):
        return self.make('xdelta3', '-e', '-9', '-S', 'lzma', '-B', self.source(), '-W', str(XDELTA_WINDOW_BYTES), '-s', self.old,
                         self.new, 'patch')

    def update(self, port):
        return self.patch(port, 'xdelta3 -d -f -B {} -s "$1" patch image'.format(self.source()))


class Bsdiff(Patches):
    def publish(self, port):
        needed, free = BSDIFF_MEMORY * os.path.getsize(self.old), free_memory()
        if needed > 0.8 * free:
            return measure.Run('needs {:.1f} GB of memory, {:.1f} are free'.format(needed / 1e9, free / 1e9), 0, 0, 0, '')
        return self.make('bsdiff', self.old, self.new, 'patch')

    def update(self, port):
        return self.patch(port, 'bspatch "$1" image patch')


class Tako(Peer):
    """A directory that two versions are published in, and a destination that has the first."""

    def __init__(self, store_options, fetch_options, *settings):
        super().__init__(*settings)
        self.store_options = store_options
        self.fetch_options = fetch_options

    def begin(self, old, new):
        super().begin(old, new)
        self.before, self.destination, self.key, self.config = (
            os.path.join(self.client, name) for name in ('before', 'destination', 'app.key', 'app.tako'))
        self.result = os.path.join(self.destination, 'latest')

    def publish(self, port):
        secret, self.public_key = new_keys()
        with open(os.open(self.key, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as stream:
            stream.write(secret)
        check_call(self.store([], self.old, '1.0.0'))
        os.mkdir(self.before)
        self.configure(port, self.before)
        check_call(tako('fetch', self.config))
        return self.make(*self.store(self.store_options, self.new, '1.0.1'))

    def store(self, options, image, version):
        return tako('store', *options + ['-f', self.key, '-o', self.served, image, version])

    def configure(self, port, destination):
        with open(self.config, 'w') as stream:
            stream.write('Origin={}\nDestination={}\nPublicKey={}\nVersion=*\n'.format(
                self.url(port), destination, self.public_key))

    def prepare(self, port):
        shutil.rmtree(self.destination, ignore_errors=True)
        shutil.copytree(self.before, self.destination, symlinks=True, copy_function=os.link)
        self.configure(port, self.destination)

    def update(self, port):
        return tako('fetch', *self.fetch_options + [self.config])


def tako(*arguments):
    return [sys.executable, '-I', TAKO] + list(arguments)


def new_keys():
    """A secret and a public key, each as a line."""
    lines = subprocess.run(tako('gen-key'), stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout.splitlines()
    secret = next(line for line in lines if line.startswith('SECRET+'))
    return secret + '\n', next(line for line in lines if len(line) == 44 and line.endswith('='))


def can_update():
    """Whether this tako.py knows of updates that are less than the image."""
    said = subprocess.run(tako('fetch', '--help'), stdout=subprocess.PIPE, universal_newlines=True)
    return '--no-delta' in said.stdout


def check_call(command):
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def shell(script, *arguments):
    return ['sh', '-c', script] + list(arguments)


def free_memory():
    """In bytes, as Linux estimates it."""
    with open('/proc/meminfo') as stream:
        return next(int(line.split()[1]) << 10 for line in stream if line.startswith('MemAvailable:'))


def all_peers(www, clients):
    """Every Peer that there is, by its name."""
    places = www, clients
    found = [
        Curl('curl', *places), Casync(16 << 10, 'casync-16k', *places), Casync(64 << 10, 'casync-64k', *places),
        Zsync('zsync', *places), Zchunk('zchunk', *places), Xdelta('xdelta3', *places), Bsdiff('bsdiff', *places),
        Tako([], ['--no-delta'], 'tako-full', *places), Tako([], [], 'tako-ranges', *places),
        Tako(['--patch-from', '1'], [], 'tako-patch', *places)]
    return {peer.name: peer for peer in found}

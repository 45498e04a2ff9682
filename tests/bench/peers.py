"""Programs that update images, with the same methods for each."""
import os
import shutil
import subprocess
import sys

import measure

HERE = os.path.dirname(os.path.abspath(__file__))
TAKO = os.path.abspath(os.environ.get('TAKO') or os.path.join(HERE, '..', '..', 'tako.py'))
PACKAGES = ['bsdiff', 'casync', 'curl', 'debootstrap', 'e2fsprogs', 'erofs-utils', 'nginx-light',
            'squashfs-tools', 'xdelta3', 'zchunk', 'zsync']
MAKING_SECONDS = 600
UPDATE_SECONDS = 300
BSDIFF_MEMORY = 20                      # bytes for each byte of the old image, mostly suffix arrays
XDELTA_WINDOW_BYTES = 16 << 20


class Peer:
    """A program that updates images, and its directories.

    served: its directory on the web server. client: its directory on the machine that updates.
    old, new: paths of the images. The client has the old one. result: path of the updated image.
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
        os.symlink(new, os.path.join(self.served, 'image'))     # for downloads of it, or of ranges
        self.result = os.path.join(self.client, 'image')

    def end(self):
        shutil.rmtree(self.served, ignore_errors=True)
        shutil.rmtree(self.client, ignore_errors=True)

    def publish(self, port):
        """Make what updates need. Return the Run."""
        raise NotImplementedError

    def prepare(self, port):
        """Put the client back into its state before the update."""
        if os.path.exists(self.result):
            os.unlink(self.result)

    def update(self, port):
        """Return the command that updates the client from a web server on this port."""
        raise NotImplementedError

    def url(self, port, name=''):
        return 'http://127.0.0.1:{}/{}/{}'.format(port, self.name, name)

    def make(self, *command):
        return measure.run(command, self.served, MAKING_SECONDS)


class Curl(Peer):
    """Downloads the whole image, syncs it, and computes its digest."""

    def publish(self, port):
        return self.make('sha256sum', self.new)

    def update(self, port):
        return shell('curl -sfo image "$0" && sync image && sha256sum image',
                     self.url(port, 'image'))


class Casync(Peer):
    def __init__(self, average, *settings):
        super().__init__(*settings)
        self.sizes = '{}:{}:{}'.format(average // 4, average, average * 4)

    def publish(self, port):
        return self.make('casync', 'make', '--store=chunks.castr', '--chunk-size=' + self.sizes,
                         'image.caibx', self.new)

    def update(self, port):
        return ['casync', 'extract', '--store=' + self.url(port, 'chunks.castr'),
                '--seed=' + self.old, self.url(port, 'image.caibx'), 'image']


class Zsync(Peer):
    def publish(self, port):
        return self.make('zsyncmake', '-Z', '-o', 'image.zsync', '-u', 'image', self.new)

    def update(self, port):
        return ['zsync', '-q', '-i', self.old, '-o', 'image', self.url(port, 'image.zsync')]


class Zchunk(Peer):
    """Both sides have images that zck compressed. The client decompresses its image at the end."""

    def publish(self, port):
        subprocess.run(['zck', '-o', os.path.join(self.client, 'old.zck'), self.old], check=True)
        return self.make('zck', '-o', 'image.zck', self.new)

    def prepare(self, port):
        super().prepare(port)
        if os.path.exists(self.result + '.zck'):
            os.unlink(self.result + '.zck')

    def update(self, port):
        return shell('zckdl -s old.zck "$0" && unzck -c image.zck > image',
                     self.url(port, 'image.zck'))


class Patches(Peer):
    """Downloads a patch with curl, and applies it."""

    def patch(self, port, command):
        return shell('curl -sfo patch "$0" && ' + command, self.url(port, 'patch'), self.old)


class Xdelta(Patches):
    def source(self):
        return str(max(os.path.getsize(self.old), 1 << 20))

    def publish(self, port):
        return self.make('xdelta3', '-D', '-e', '-9', '-S', 'lzma', '-B', self.source(),
                         '-W', str(XDELTA_WINDOW_BYTES), '-s', self.old, self.new, 'patch')

    def update(self, port):
        return self.patch(port, 'xdelta3 -D -R -d -f -B {} -s "$1" patch image'.format(
            self.source()))


class Bsdiff(Patches):
    def publish(self, port):
        needed, free = BSDIFF_MEMORY * os.path.getsize(self.old), free_memory()
        if needed > 0.8 * free:
            fault = 'needs {:.1f} GB of memory, {:.1f} are free'.format(needed / 1e9, free / 1e9)
            return measure.Run(fault, 0, 0, 0, '')
        return self.make('bsdiff', self.old, self.new, 'patch')

    def update(self, port):
        return self.patch(port, 'bspatch "$1" image patch')


class Tako(Peer):
    """Two published versions, and a destination with the first one installed."""

    rate = None         # bytes per second that the client saw last; None for those of loopback
    making = None       # the Run that published the second version
    twin = None         # a Tako that published the same before, if it is measured, too

    def __init__(self, store_options, fetch_options, *settings, more=''):
        super().__init__(*settings)
        self.store_options = store_options
        self.fetch_options = fetch_options
        self.more = more

    def begin(self, old, new):
        super().begin(old, new)
        self.before, self.destination, self.key, self.config = (
            os.path.join(self.client, name)
            for name in ('before', 'destination', 'app.key', 'app.tako'))
        self.result = os.path.join(self.destination, 'latest')

    def end(self):
        if os.path.islink(self.served):
            os.unlink(self.served)
        super().end()
        self.making = None

    def publish(self, port):
        if self.twin is not None and self.twin.making is not None:
            self.public_key, self.before = self.twin.public_key, self.twin.before
            shutil.rmtree(self.served)
            os.symlink(self.twin.served, self.served)
            return self.twin.making
        self.making = self.publish_both(port)
        return self.making

    def publish_both(self, port):
        """Publish both versions, and install the first one. Return the Run for the second."""
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
            stream.write('Origin={}\nDestination={}\nPublicKey={}\nVersion=*\n{}'.format(
                self.url(port), destination, self.public_key, self.more))

    def prepare(self, port):
        shutil.rmtree(self.destination, ignore_errors=True)
        shutil.copytree(self.before, self.destination, symlinks=True, copy_function=os.link)
        self.configure(port, self.destination)
        if self.rate is not None:
            path = os.path.join(self.destination, '.state')
            with open(path) as stream:
                lines = [line for line in stream if not line.startswith('rate=')]
            os.unlink(path)             # it is a link to the state before
            with open(path, 'w') as stream:
                stream.write(''.join(lines) + 'rate={}\n'.format(self.rate))

    def update(self, port):
        return tako('fetch', *self.fetch_options + [self.config])


def tako(*arguments):
    return [sys.executable, '-I', TAKO] + list(arguments)


def new_keys():
    """Return a new secret key, as a line, and its public key."""
    done = subprocess.run(tako('gen-key'), stdout=subprocess.PIPE, universal_newlines=True,
                          check=True)
    lines = done.stdout.splitlines()
    secret = next(line for line in lines if line.startswith('SECRET+'))
    return secret + '\n', next(line for line in lines if len(line) == 44 and line.endswith('='))


def can_update():
    """Return whether this tako.py has differential updates."""
    done = subprocess.run(tako('fetch', '--help'), stdout=subprocess.PIPE, universal_newlines=True)
    return '--no-delta' in done.stdout


def check_call(command):
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def shell(script, *arguments):
    return ['sh', '-c', script] + list(arguments)


def free_memory():
    """Return the free memory in bytes, as Linux estimates it."""
    with open('/proc/meminfo') as stream:
        return next(int(line.split()[1]) << 10 for line in stream
                    if line.startswith('MemAvailable:'))


def all_peers(www, clients):
    """Return a dict of all Peers by their names."""
    folders = www, clients
    found = [
        Curl('curl', *folders), Casync(16 << 10, 'casync-16k', *folders),
        Casync(64 << 10, 'casync-64k', *folders), Zsync('zsync', *folders),
        Zchunk('zchunk', *folders), Xdelta('xdelta3', *folders), Bsdiff('bsdiff', *folders),
        Tako([], ['--no-delta'], 'tako-full', *folders), Tako([], [], 'tako-ranges', *folders),
        Tako(['--patch-from', '1'], [], 'tako-patch', *folders),
        Tako(['--patch-from', '1'], [], 'tako-metered', *folders, more='Metered=yes\n')]
    found[-1].twin = found[-2]
    return {peer.name: peer for peer in found}

"""make check-large: store and fetch an image of 5 GiB, beyond 32 bits, in constant memory."""
import hashlib
import os
import shutil
import subprocess
import sys
import unittest

import origin
import scene
import tako

GIB = 1 << 30
SIZE = 5 * GIB + 12345
MORE_MEMORY_KIB = 8 << 10           # more than for an image of 1 MiB

# Runs a command and prints its exit code and its peak memory in KiB.
MEASURE = 'import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); ' \
          'print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'


class LargeTest(scene.Scene):
    def measure(self, *arguments):
        """Run tako.py, which has to succeed. Return its peak memory in KiB."""
        done = subprocess.run([sys.executable, '-c', MEASURE, sys.executable, '-I', scene.TAKO]
                              + list(arguments),
                              stdout=subprocess.PIPE, check=True)
        code, memory = done.stdout.split()[-2:]
        self.assertEqual(b'0', code)
        return int(memory)

    def sparse(self, name, size):
        with open(self.path(name), 'wb') as stream:
            stream.write(b'begin')
            stream.truncate(size - 3)
            stream.seek(0, 2)
            stream.write(b'end')
        return self.path(name)

    def walk(self, size, version):
        """Store and fetch an image of this size. Return the peak memory of both in KiB."""
        image = self.sparse('image', size)
        key = self.write('app.key', tako.format_secret_key(origin.SEED), 0o600)
        stored = self.measure('store', '-f', key, '-o', self.served, image, version)
        with origin.Origin(self.served) as server:
            server.faults['*'] = streams
            fetched = self.measure('fetch', self.config(server.url, version=version))
        return stored, fetched

    def test_five_gibibytes(self):
        if shutil.disk_usage(self.directory).free < 12 * GIB:
            self.skipTest('LESS THAN 12 GiB OF DISK ARE FREE: LARGE IMAGES ARE NOT TESTED')
        self.served = self.path('served')
        os.mkdir(self.served)
        small = self.walk(1 << 20, '1')
        large = self.walk(SIZE, '2')
        print(
            'peak memory in KiB, store and fetch: {} and {} for 1 MiB, {} and {} for 5 GiB'.format(
                *(small + large)))
        for little, much in zip(small, large):
            self.assertLess(much, little + MORE_MEMORY_KIB)
        latest = os.path.join(self.destination, 'latest')
        self.assertEqual(SIZE, os.path.getsize(latest))
        sha256 = hashlib.sha256()
        with open(latest, 'rb') as stream:
            for block in iter(lambda: stream.read(1 << 20), b''):
                sha256.update(block)
        self.assertEqual(os.readlink(latest), 'store/' + sha256.hexdigest())


def streams(handler):
    """Send a file without reading it into memory."""
    with open(os.path.join(handler.server.origin.directory, handler.path.lstrip('/')),
              'rb') as stream:
        handler.send_response(200)
        handler.send_header('Content-Length', str(os.fstat(stream.fileno()).st_size))
        handler.end_headers()
        shutil.copyfileobj(stream, handler.wfile, 1 << 20)


if __name__ == '__main__':
    unittest.main()

"""The images of the suite machine: a squashfs with a program, and a tarball with a page."""
import io
import os
import random
import shutil
import subprocess
import tarfile

PIECES = 8
PIECE_BYTES = 512 << 10
PORT = 8081

SERVES = '#!/bin/sh\nexec /bin/busybox httpd -f -p 127.0.0.1:{} -h /www\n'.format(PORT)
DIES = '#!/bin/sh\nsleep 1\nexit 7\n'
FOLDERS = ('bin', 'usr/bin', 'usr/share/app', 'www', 'dev', 'etc', 'proc', 'root', 'run', 'sys',
           'tmp', 'var/tmp')


def application(directory, busybox, version, program=SERVES, changed=1):
    """Make a squashfs whose /usr/bin/app serves its version over http. Return its path.

    program: the content of /usr/bin/app; None for an image without it.
    changed: how many of its PIECES large files have a change in their middle.
    """
    tree = os.path.join(directory, 'tree')
    for folder in FOLDERS:
        os.makedirs(os.path.join(tree, folder))
    shutil.copy(busybox, os.path.join(tree, 'bin/busybox'))
    os.symlink('busybox', os.path.join(tree, 'bin/sh'))
    os.symlink('/bin/busybox', os.path.join(tree, 'bin/sleep'))
    _write(os.path.join(tree, 'www/version'), version.encode())
    if program is not None:
        _write(os.path.join(tree, 'usr/bin/app'), program.encode(), 0o755)
    for number in range(PIECES):
        content = bytearray(random.Random(number).randbytes(PIECE_BYTES))
        if number < changed:
            content[PIECE_BYTES // 2:PIECE_BYTES // 2 + 20] = version.encode().ljust(20)
        _write(os.path.join(tree, 'usr/share/app/{}'.format(number)), content)
    image = os.path.join(directory, 'app-{}.img'.format(version))
    subprocess.run(['mksquashfs', tree, image, '-noappend', '-quiet', '-no-progress',
                    '-all-time', '0', '-mkfs-time', '0', '-all-root', '-processors', '1'],
                   check=True)
    shutil.rmtree(tree)
    return image


def site(directory, version):
    """Make a tarball with a page that contains its version, and 4 MiB that differ by version.

    Return its path.
    """
    image = os.path.join(directory, 'site-{}.tar'.format(version))
    files = (('version', version.encode()), ('picture', random.Random(version).randbytes(4 << 20)))
    with tarfile.open(image, 'w') as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return image


def _write(path, content, mode=0o644):
    with open(path, 'wb') as stream:
        stream.write(content)
    os.chmod(path, mode)

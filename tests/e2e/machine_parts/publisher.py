"""The publisher of the images, and the server that the pages call https://images.example.com/."""
import os
import subprocess
import sys

import origin
import scene
import tako

SECRET_KEY = tako.format_secret_key(origin.SEED)         # that of the examples in the pages


class Publisher:
    """Publishes in folders of a directory, which are served below https://images.example.com/ while `with` lasts."""

    def __init__(self, directory, authority, say):
        self.directory = directory
        self.say = say
        os.mkdir(directory)
        self._key = directory + '.key'
        with open(os.open(self._key, os.O_CREAT | os.O_WRONLY, 0o600), 'w') as stream:
            stream.write(SECRET_KEY + '\n')
        context = authority.context('DNS:images.example.com,DNS:mirror.example.com')
        self.origin = origin.Origin(directory, tls=context, port=443)
        self.origin.has_ranges = True
        self.origin.etag = lambda body: '"{}"'.format(origin.digest_of(body)[:16])

    def __enter__(self):
        self.origin.__enter__()
        return self

    def __exit__(self, *error):
        self.origin.__exit__(*error)

    def publish_again(self, name, old, version):
        """Publish the image of an older version again."""
        folder = os.path.join(self.directory, name)
        done = subprocess.run([sys.executable, scene.TAKO, 'store', '--again', old, '-f', self._key, '-o', folder, version],
                              stdout=subprocess.PIPE, universal_newlines=True, check=True)
        self.say('publisher: tako store --again {} ... {}'.format(old, version), done.stdout)

    def publish(self, name, version, image):
        """Store a file, and remove it; the path of the image below the origin."""
        folder = os.path.join(self.directory, name)
        os.makedirs(folder, exist_ok=True)
        done = subprocess.run([sys.executable, scene.TAKO, 'store', '-f', self._key, '-o', folder, image, version],
                              stdout=subprocess.PIPE, universal_newlines=True, check=True)
        self.say('publisher: tako store ... {}'.format(version), done.stdout)
        path = '/{}/store/{}'.format(name, origin.digest_of(scene.read(image)))
        os.remove(image)
        return path

"""A publisher of images, and its server, which the pages call https://images.example.com/."""
import os
import subprocess
import sys

import origin
import scene
import tako

SECRET_KEY = tako.format_secret_key(origin.SEED)         # the key of the examples in the pages


class Publisher:
    """Publishes images in folders of a directory.

    A context manager that serves the directory as https://images.example.com/.
    """

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

    def publish(self, name, version, image):
        """Publish a file, and remove it. Return the path of the image under the origin."""
        os.makedirs(self.folder(name), exist_ok=True)
        self._store(name, image, version)
        path = '/{}/store/{}'.format(name, origin.digest_of(scene.read(image)))
        os.remove(image)
        return path

    def publish_again(self, name, old, version):
        """Publish the image of an older version again."""
        self._store(name, '--again', old, version)

    def _store(self, name, *arguments):
        options = ['-f', self._key, '-o', self.folder(name)]
        done = subprocess.run([sys.executable, scene.TAKO, 'store'] + options + list(arguments),
                              stdout=subprocess.PIPE, universal_newlines=True, check=True)
        self.say('publisher: tako store ' + ' '.join(arguments), done.stdout)

    def folder(self, name):
        """Return the directory in which the images of this name are published."""
        return os.path.join(self.directory, name)

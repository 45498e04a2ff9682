"""Certificates for the tests, made with the openssl command."""
import os
import shutil
import ssl
import subprocess


def is_possible():
    return shutil.which('openssl') is not None


class Authority:
    """A certificate authority of our own, in a directory; `bundle` is what SSL_CERT_FILE names."""

    def __init__(self, directory):
        self.directory = directory
        self.bundle = os.path.join(directory, 'authority.pem')
        self._key = os.path.join(directory, 'authority.key')
        self._openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', self._key, '-out', self.bundle,
                      '-subj', '/CN=Test authority', '-days', '2', '-addext', 'keyUsage=critical,keyCertSign,cRLSign')

    def context(self, name='IP:127.0.0.1', days='2'):
        """A server's TLS context with a certificate for this name; days may be past."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certify(name, days))
        return context

    def certify(self, name='IP:127.0.0.1', days='2'):
        """The paths of such a certificate and of its key."""
        stem = os.path.join(self.directory, 'server-{}-{}'.format(name.replace(':', '-'), days))
        self._openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', stem + '.key', '-out', stem + '.csr',
                      '-subj', '/CN=server')
        with open(stem + '.ext', 'w') as stream:
            stream.write('subjectAltName={}\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n'.format(name))
        self._openssl('x509', '-req', '-in', stem + '.csr', '-CA', self.bundle, '-CAkey', self._key, '-CAcreateserial',
                      '-extfile', stem + '.ext', '-out', stem + '.pem', '-days', days)
        return stem + '.pem', stem + '.key'

    def certify_itself(self, name='IP:127.0.0.1'):
        """The same, signed by nobody else."""
        stem = os.path.join(self.directory, 'itself')
        self._openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', stem + '.key', '-out', stem + '.pem',
                      '-subj', '/CN=server', '-days', '2', '-addext', 'subjectAltName=' + name)
        return stem + '.pem', stem + '.key'

    def _openssl(self, *arguments):
        subprocess.run(('openssl',) + arguments, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

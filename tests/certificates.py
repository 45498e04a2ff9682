"""Certificates for the tests, made with the openssl command."""
import os
import shutil
import ssl
import subprocess


# the least config that `openssl ca` accepts
CA_CONFIG = """
[ca]
default_ca = authority
[authority]
database = {0}.index
serial = {0}.serial
new_certs_dir = {1}
default_md = sha256
policy = any_name
[any_name]
commonName = supplied
"""


def is_possible():
    return shutil.which('openssl') is not None


class Authority:
    """A private CA in a directory. `bundle` is the path for SSL_CERT_FILE."""

    def __init__(self, directory):
        self.directory = directory
        self.bundle = os.path.join(directory, 'authority.pem')
        self._key = os.path.join(directory, 'authority.key')
        self._openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', self._key, '-out',
                      self.bundle,
                      '-subj', '/CN=Test authority', '-days', '2', '-addext',
                      'keyUsage=critical,keyCertSign,cRLSign')

    def context(self, name='IP:127.0.0.1', is_expired=False):
        """Return the TLS context of a server with a certificate for this name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certify(name, is_expired))
        return context

    def certify(self, name='IP:127.0.0.1', is_expired=False):
        """Return the paths of such a certificate and of its key."""
        stem = os.path.join(self.directory, 'server-' + name.replace(':', '-'))
        if is_expired:
            stem += '-expired'
        self._openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', stem + '.key', '-out',
                      stem + '.csr',
                      '-subj', '/CN=server')
        with open(stem + '.ext', 'w') as stream:
            stream.write('subjectAltName={}\nbasicConstraints=CA:FALSE\n'
                         'authorityKeyIdentifier=keyid\n'.format(name))
        if is_expired:
            self._sign_in_the_past(stem)
        else:
            self._openssl('x509', '-req', '-in', stem + '.csr', '-CA', self.bundle,
                          '-CAkey', self._key, '-CAcreateserial', '-extfile', stem + '.ext',
                          '-out', stem + '.pem', '-days', '2')
        return stem + '.pem', stem + '.key'

    def _sign_in_the_past(self, stem):
        """Sign for one day of 2020. The dates of `openssl x509` depend on its version."""
        config = CA_CONFIG.format(stem, self.directory)
        for name, content in (('.cnf', config), ('.index', ''), ('.serial', '01')):
            with open(stem + name, 'w') as stream:
                stream.write(content)
        self._openssl('ca', '-batch', '-notext', '-config', stem + '.cnf', '-cert', self.bundle,
                      '-keyfile', self._key, '-in', stem + '.csr', '-extfile', stem + '.ext',
                      '-out', stem + '.pem', '-startdate', '20200101000000Z',
                      '-enddate', '20200102000000Z')

    def certify_itself(self, name='IP:127.0.0.1'):
        """Make a self-signed certificate."""
        stem = os.path.join(self.directory, 'itself')
        self._openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', stem + '.key',
                      '-out', stem + '.pem',
                      '-subj', '/CN=server', '-days', '2', '-addext', 'subjectAltName=' + name)
        return stem + '.pem', stem + '.key'

    def _openssl(self, *arguments):
        subprocess.run(('openssl',) + arguments, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

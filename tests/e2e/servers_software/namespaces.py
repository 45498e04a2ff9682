"""A network namespace in which some addresses never respond."""
import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
import unittest

import scene
from servers_software.programs import PATH, Program

CLONE_NEWNET = 0x40000000               # of setns(2)
NETNS = '/run/netns'                    # where ip-netns(8) keeps the namespaces
HOST = 'images.test'
WORKING = '10.200.0.1'
# glibc sorts these before WORKING, as they share more bits with the source address.
SILENT = ('192.0.2.4', '192.0.2.5', '192.0.2.6')
SILENT6 = '2001:db8::9'
NAME_SERVER = '192.0.2.7'               # an address of the machine, where dnsmasq listens
# Packets to the silent addresses enter a veth(4), and its other end drops them.
COMMANDS = ('link set lo up', 'link add quiet type veth peer name sink', 'link set sink up',
            'link set quiet arp off up', 'addr add {}/24 dev quiet'.format(NAME_SERVER),
            'addr add 10.0.0.1/8 dev quiet',
            'route add local {} dev lo src 10.0.0.1'.format(WORKING))
COMMANDS6 = ('addr add 2001:db8::7/64 dev quiet nodad',)


class Namespace:
    """A network namespace while the `with` lasts.

    addresses: those of HOST. has_hosts: whether /etc/hosts has them. name_servers: those in
    /etc/resolv.conf. Raises SkipTest if the machine has no namespaces, or no IPv6 but needs it.
    """

    def __init__(self, addresses=(), name_servers=(), has_hosts=True):
        self.name = 'tako-{}'.format(os.getpid())
        self.addresses = addresses
        self._name_servers = name_servers
        self._has_hosts = has_hosts
        self._ip = shutil.which('ip', path=PATH)
        self._folder = os.path.join('/etc/netns', self.name)

    @property
    def command(self):
        """Return the words before a command that runs it in the namespace."""
        return self._ip, 'netns', 'exec', self.name

    def __enter__(self):
        if self._ip is None:
            raise unittest.SkipTest('not installed: ip')
        with contextlib.ExitStack() as stack:
            self._configure('netns add ' + self.name)
            stack.callback(self._configure, 'netns del ' + self.name)
            for each in COMMANDS + (COMMANDS6 if SILENT6 in self.addresses else ()):
                self._configure('-n {} {}'.format(self.name, each))
            os.makedirs(self._folder)
            stack.callback(shutil.rmtree, self._folder)
            hosts = self.addresses if self._has_hosts else ()
            self._write('hosts', ('{} {}'.format(each, HOST) for each in hosts))
            self._write('resolv.conf',
                        ('nameserver {}'.format(each) for each in self._name_servers))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _configure(self, arguments):
        process = subprocess.run([self._ip] + arguments.split(), stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT)
        if process.returncode != 0:
            why = process.stdout.decode().strip()
            raise unittest.SkipTest('ip {}: {}'.format(arguments, why))

    def _write(self, name, lines):
        with open(os.path.join(self._folder, name), 'w') as stream:
            stream.write(''.join(line + '\n' for line in lines))

    def socket(self):
        """Return a TCP socket that belongs to this namespace, whichever process uses it."""
        made = []
        libc = ctypes.CDLL(None, use_errno=True)

        def make():                     # setns() changes the namespace of this thread only
            with open(os.path.join(NETNS, self.name)) as stream:
                if libc.setns(stream.fileno(), CLONE_NEWNET) == 0:
                    made.append(socket.socket())
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if not made:
            raise unittest.SkipTest('setns(2) does not work')
        return made[0]

    def first_address(self):
        """Return the address of HOST that a program in the namespace tries first."""
        program = 'import socket, sys; print(socket.getaddrinfo(sys.argv[1], 80)[0][4][0])'
        command = self.command + scene.Scene.python + ('-c', program, HOST)
        return subprocess.check_output(command).decode().strip()


class Dnsmasq(Program):
    """dnsmasq in a namespace, as a name server that knows the addresses of HOST."""

    def __init__(self, folder, namespace):
        super().__init__(folder)
        self._namespace = namespace

    def ports(self):
        return [(NAME_SERVER, 53)]

    def connect(self, address):
        with contextlib.closing(self._namespace.socket()) as trial:
            trial.settimeout(1)
            trial.connect(address)

    def commands(self):
        return [list(self._namespace.command) + [
            'dnsmasq', '--keep-in-foreground', '--conf-file=/dev/null', '--no-resolv', '--no-hosts',
            '--user=root', '--pid-file=', '--log-facility=-', '--bind-interfaces',
            '--listen-address=' + NAME_SERVER,
            '--host-record={},{}'.format(HOST, ','.join(self._namespace.addresses))]]

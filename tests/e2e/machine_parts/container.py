"""A Debian that boots with systemd, cron and cloud-init, in systemd-nspawn, and shares this network namespace.

Its disk is an overlay in memory over the one tree that tree.sh makes. It lasts over reboots and over cut(), which
takes the power away.
"""
import os
import signal
import socket
import subprocess
import time

BOOT_SECONDS = 120
LOOPS = 64
REBOOTS = 133           # with which systemd-nspawn asks to be started again
# hosts that the pages speak of
HOSTS = '127.0.0.1 localhost images.example.com mirror.example.com www.example.com vm.example.com\n'


class Result:
    """What a command left behind: its exit code and what it printed."""

    def __init__(self, code, out):
        self.code = code
        self.out = out

    def __repr__(self):
        return 'exit code {}:\n{}'.format(self.code, self.out)


class Container:
    """One machine, with a root directory that can be written to from outside at any time."""

    def __init__(self, tree, directory, say):
        self.say = say
        self.root = os.path.join(directory, 'root')
        self._console = os.path.join(directory, 'console')
        self._process = self._leader = None
        lower, upper, work = (os.path.join(directory, name) for name in ('lower', 'upper', 'work'))
        for folder in (directory, lower, upper, work, self.root):
            os.mkdir(folder)
        subprocess.run(['mount', '-o', 'loop,ro', tree, lower], check=True)
        subprocess.run(['mount', '-t', 'overlay', 'machine', '-o',
                        'lowerdir={},upperdir={},workdir={}'.format(lower, upper, work), self.root], check=True)
        self._notices = os.path.join(directory, 'notices')
        self.write('/etc/hosts', HOSTS)
        self.write('/etc/hostname', 'vm\n')
        self.write('/etc/cloud/cloud.cfg.d/machine.cfg', 'locale: C.UTF-8\n')      # the only one that is here
        # the kernel hands out loop devices of all machines; no udev runs in a container
        self.write('/etc/tmpfiles.d/loops.conf', ''.join('b /dev/loop{0} 0660 root disk - 7:{0}\n'.format(number)
                                                         for number in range(LOOPS)))

    def path(self, name):
        return self.root + name

    def write(self, name, content, mode=0o644):
        """A file in the machine, by the path that it has there."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)

    def read(self, name):
        with open(self.path(name)) as stream:
            return stream.read()

    def packages(self):
        """(name, version) of each Debian package in it."""
        return [line.split('\t') for line in self.read('/etc/packages').splitlines()]

    def chroot(self, *command):
        """Run a command in it before it boots."""
        subprocess.run(('chroot', self.root) + command, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def boot(self):
        """Start it; come back when everything that it starts with is up, cloud-init included."""
        self.say('boots')
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(self._notices)
            self._process = subprocess.Popen(
                ['systemd-nspawn', '--quiet', '--directory=' + self.root, '--boot', '--machine=tako', '--register=no',
                 '--keep-unit', '--resolv-conf=off', '--timezone=off', '--link-journal=no', '--console=read-only',
                 '--notify-ready=yes', '--bind=/dev/loop-control'],
                env=dict(os.environ, NOTIFY_SOCKET=self._notices), stdin=subprocess.DEVNULL,
                stdout=open(self._console, 'ab'), stderr=subprocess.STDOUT)
            self._await_ready(notices)
            os.unlink(self._notices)

    def _await_ready(self, notices):
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            notices.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                notice = notices.recv(65536).decode()
            except socket.timeout:
                raise AssertionError('the machine does not boot:\n' + self.console()) from None
            for line in notice.splitlines():
                if line.startswith('X_NSPAWN_LEADER_PID='):
                    self._leader = int(line.partition('=')[2])
                if line == 'READY=1':
                    return

    def console(self):
        """The end of what systemd and the kernel's stand-in said while it booted."""
        with open(self._console, errors='replace') as stream:
            return stream.read()[-3000:]

    def start(self, command, stdin=subprocess.DEVNULL):
        """A process in the running machine."""
        return subprocess.Popen(
            ['nsenter', '--target', str(self._leader), '--mount', '--uts', '--ipc', '--pid', '--root', '--wd', '--',
             'env', '-i', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'LANG=C.UTF-8',
             'bash', '-c', command], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, command, code=0, seconds=120, is_told=True):
        """Run a shell command in it, and expect this exit code (None: any); its Result."""
        process = self.start(command)
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError('no end within {} s: {}'.format(seconds, command)) from None
        result = Result(process.returncode, out.decode('utf-8', 'replace'))
        if is_told:
            self.say('# ' + command, result.out)
        if code is not None and result.code != code:
            raise AssertionError('{}\n{}\n{}'.format(command, result, self.journal() if result.code else ''))
        return result

    def journal(self):
        """The end of the journal, for a failure's report."""
        return self.run('journalctl --no-pager -o short -n 40', None, is_told=False).out

    def until(self, command, seconds=60):
        """Run a command again and again until it succeeds; its output."""
        deadline = time.monotonic() + seconds
        while True:
            result = self.run(command, None, is_told=False)
            if result.code == 0:
                self.say('# ' + command, result.out)
                return result.out
            if time.monotonic() > deadline:
                raise AssertionError('not within {} s: {}\n{}\n{}'.format(seconds, command, result, self.journal()))
            time.sleep(0.2)

    def reboot(self):
        """Reboot in good order; come back when it is up again."""
        self.say('reboots')
        self.run('systemctl reboot', None, is_told=False)
        code = self._process.wait(60)
        if code != REBOOTS:
            raise AssertionError('systemd-nspawn ended with {}:\n{}'.format(code, self.console()))
        self.boot()

    def cut(self):
        """Take the power away: nothing in it runs another instruction."""
        self.say('loses power')
        self.end()

    def end(self):
        """Be done with it, whatever it is doing, and though it never booted."""
        if self._leader is not None:
            os.kill(self._leader, signal.SIGKILL)
        elif self._process is not None:
            self._process.kill()
        if self._process is not None:
            self._process.wait(30)

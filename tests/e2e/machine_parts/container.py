"""A Debian that boots with systemd, cron and cloud-init in systemd-nspawn.

It shares the network namespace of the suite. Its disk is an overlay in memory over the one tree
that tree.sh makes. The disk outlasts reboots and cut_power().
"""
import os
import signal
import socket
import subprocess
import time

BOOT_SECONDS = 120
LOOP_DEVICES = 64
REBOOT_CODE = 133       # the exit code by which systemd-nspawn asks to be started again
# the hosts that the pages name
HOSTS = ('127.0.0.1 localhost images.example.com mirror.example.com '
         'www.example.com vm.example.com mail.example.com\n')
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'


class Result:
    """The exit code of a command, and its output."""

    def __init__(self, code, out):
        self.code = code
        self.out = out

    def __repr__(self):
        return 'exit code {}:\n{}'.format(self.code, self.out)


class Container:
    """One machine. The suite can write into its root directory at any time.

    say: function of a step and its output, which prints both.
    """

    def __init__(self, tree, directory, say):
        self.say = say
        self.root = os.path.join(directory, 'root')
        self._console = os.path.join(directory, 'console')
        self._process = self._leader = None
        lower, upper, work = (os.path.join(directory, name) for name in ('lower', 'upper', 'work'))
        for folder in (directory, lower, upper, work, self.root):
            os.mkdir(folder)
        subprocess.run(['mount', '-o', 'loop,ro', tree, lower], check=True)
        options = 'lowerdir={},upperdir={},workdir={}'.format(lower, upper, work)
        subprocess.run(['mount', '-t', 'overlay', 'machine', '-o', options, self.root], check=True)
        self._notices = os.path.join(directory, 'notices')
        self.write('/etc/hosts', HOSTS)
        self.write('/etc/hostname', 'vm\n')
        # C.UTF-8 is the only locale in the tree
        self.write('/etc/cloud/cloud.cfg.d/machine.cfg', 'locale: C.UTF-8\n')
        # All machines share the kernel's loop devices, and no udev runs in a container.
        self.write('/etc/tmpfiles.d/loops.conf', ''.join(
            'b /dev/loop{0} 0660 root disk - 7:{0}\n'.format(number)
            for number in range(LOOP_DEVICES)))

    def path(self, name):
        """Return the path outside of a file in the machine."""
        return self.root + name

    def write(self, name, content, mode=0o644):
        """Write a file in the machine, by the path that it has there."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as stream:
            stream.write(content if isinstance(content, bytes) else content.encode())
        os.chmod(path, mode)

    def read(self, name):
        with open(self.path(name)) as stream:
            return stream.read()

    def packages(self):
        """Return [name, version] of each Debian package in the machine."""
        return [line.split('\t') for line in self.read('/etc/packages').splitlines()]

    def chroot(self, *command):
        """Run a command in the machine before it boots."""
        subprocess.run(('chroot', self.root) + command, check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def boot(self):
        """Start the machine. Return when systemd reports that all units of the boot are up."""
        self.say('boots')
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(self._notices)
            self._process = subprocess.Popen(
                ['systemd-nspawn', '--quiet', '--directory=' + self.root, '--boot',
                 '--machine=tako', '--register=no', '--keep-unit', '--resolv-conf=off',
                 '--timezone=off', '--link-journal=no', '--console=read-only',
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
        """Return the end of what systemd-nspawn and systemd printed during boots."""
        with open(self._console, errors='replace') as stream:
            return stream.read()[-3000:]

    def start(self, command, stdin=subprocess.DEVNULL):
        """Start a shell command in the running machine. Return its process."""
        return subprocess.Popen(
            ['nsenter', '--target', str(self._leader), '--mount', '--uts', '--ipc', '--pid',
             '--root', '--wd', '--', 'env', '-i', 'PATH=' + PATH, 'HOME=/root', 'LANG=C.UTF-8',
             'bash', '-c', command],
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, command, code=0, seconds=120, is_printed=True):
        """Run a shell command in the machine, and expect an exit code (None: any).

        Return its Result. Raises AssertionError with the end of the journal.
        """
        process = self.start(command)
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError('no end within {} s: {}'.format(seconds, command)) from None
        result = Result(process.returncode, out.decode('utf-8', 'replace'))
        if is_printed:
            self.say('# ' + command, result.out)
        if code is not None and result.code != code:
            journal = self.journal() if result.code else ''
            raise AssertionError('{}\n{}\n{}'.format(command, result, journal))
        return result

    def journal(self):
        """Return the end of the journal, for the report of a failure."""
        return self.run('journalctl --no-pager -o short -n 40', None, is_printed=False).out

    def until(self, command, seconds=60):
        """Repeat a command until it succeeds. Return its output."""
        deadline = time.monotonic() + seconds
        while True:
            result = self.run(command, None, is_printed=False)
            if result.code == 0:
                self.say('# ' + command, result.out)
                return result.out
            if time.monotonic() > deadline:
                raise AssertionError('not within {} s: {}\n{}\n{}'.format(
                    seconds, command, result, self.journal()))
            time.sleep(0.2)

    def reboot(self):
        """Shut the machine down in good order, and boot it again."""
        self.say('reboots')
        self.run('systemctl reboot', None, is_printed=False)
        code = self._process.wait(60)
        if code != REBOOT_CODE:
            raise AssertionError('systemd-nspawn exited with {}:\n{}'.format(code, self.console()))
        self.boot()

    def cut_power(self):
        """Kill all processes of the machine at once."""
        self.say('loses power')
        self.end()

    def end(self):
        """Kill the machine, whatever its state, even if it never booted."""
        if self._leader is not None:
            os.kill(self._leader, signal.SIGKILL)
        elif self._process is not None:
            self._process.kill()
        if self._process is not None:
            self._process.wait(30)

"""Boots a minimal Debian in a container, and installs Tako in it as README.md and docs/ describe.

The suite has three parts:

1. A story on one machine after another: the first boot with cloud-init, a unit that runs from an
   image, a timer, cron, versions that fail, reboots and power cuts during updates. Its units,
   configs, user-data and crontab are the snippets of the pages; pages.vary() marks each difference.
2. Units of every type, good and bad: see machine_parts/units.py.
3. Each page with all its snippets, from top to bottom: see machine_parts/walk.py.
"""
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

import certificates
import origin
import scene
import suite as suites
import tako
from machine_parts import images, namespaces, pages, units, walk
from machine_parts.container import Container
from machine_parts.publisher import Publisher

PROJECT = scene.PROJECT
TREE = os.path.join(PROJECT, 'build/machine/tree.squashfs')
SCRATCH = '/run/tako-machine'
CLOUD_INIT_SEED = '/var/lib/cloud/seed/nocloud/'
STALL_BYTES = 2 << 20       # how many bytes a download gets before it stalls
RESTART = 'Restart=app.service\n'        # the line that README.md adds to its config
CONFIRM = RESTART + 'Confirm='
SHORTER = ('Confirm=30', 'Confirm=4')   # what a sample replaces in the config, and by what
PRINTED_PACKAGES = ('base-files', 'cloud-init', 'cron', 'nginx-light', 'python3', 'systemd')
COMMANDS = ('systemd-nspawn', 'unshare', 'nsenter', 'setpriv', 'ip', 'openssl')
DOWNLOADING = 'docs/downloading-images.md'
FIRST_BOOT = 'docs/first-boot.md'
ROLLED_BACK = 'docs/a-new-version-does-not-run.md'
FAKETIME = '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1'
USER_PORT = 8082            # where the unit of a user serves
GET_VERSION = ('import urllib.request as u; '
               "print(u.urlopen('http://127.0.0.1:{}/version').read().decode())")
# tries what the sandbox of docs/hardened-unit.md must refuse, and one thing that it must allow
PROBE = """
import ctypes, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def write(path):
    return lambda: open(path, 'w').close()
def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def systemctl(*arguments):
    subprocess.run(('systemctl', '--no-ask-password') + arguments, check=True)
trials = {'write ' + path: write(path) for path in (
    '/var/lib/images/app/x', '/var/lib/images/x', '/etc/x', '/etc/tako/app.tako', '/usr/local/x',
    '/var/tmp/../lib/x', '/home/x', '/sys/kernel/x', '/dev/kmsg')}
trials.update({
    'read /root': lambda: os.listdir('/root'),
    'read a secret': lambda: open('/etc/tako/app-token.secret'),
    'see process 1': lambda: os.stat('/proc/1/status'),
    'use loop devices': lambda: open('/dev/loop-control'),
    'become root': lambda: os.setuid(0),
    'make a raw socket': lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    'make a namespace': lambda: call(libc.unshare, 0x10000000),
    'mount': lambda: call(libc.mount, b'tmpfs', b'/tmp', b'tmpfs', 0, None),
    'change the host name': lambda: call(libc.sethostname, b'x', 1),
    'restart another unit': lambda: systemctl('restart', 'cron.service'),
    'stop the unit': lambda: systemctl('stop', 'app.service'),
    'reload systemd': lambda: systemctl('daemon-reload')})
for name, trial in trials.items():
    try:
        trial()
        print('allowed: ' + name)
    except (OSError, subprocess.CalledProcessError) as error:
        print('refused: {} ({})'.format(name, error))
"""

check = unittest.TestCase()
check.maxDiff = None


def say(what, out=''):
    """Print a step, and the first lines of its output."""
    print('  ' + what.replace('\n', '\n  '), flush=True)
    for line in out.splitlines()[:12]:
        print('      ' + line[:200], flush=True)


def snippets_of(page):
    """Return pages.snippet() for one page, a function of path, begins or both."""
    return functools.partial(pages.snippet, PROJECT, page)


readme = snippets_of('README.md')
downloading = snippets_of(DOWNLOADING)
first_boot = snippets_of(FIRST_BOOT)
without_root = snippets_of('docs/run-without-root.md')
monitoring = snippets_of('docs/monitoring.md')
hardened = snippets_of('docs/hardened-unit.md')
updating = snippets_of('docs/update-tako.md')


def confirm_lines():
    """Return the lines Restart= and Confirm= of docs/a-new-version-does-not-run.md."""
    return pages.snippet(PROJECT, ROLLED_BACK, begins=CONFIRM)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        check.assertLess(time.monotonic(), deadline)
        time.sleep(0.02)


class Story:
    """A publisher, its server, and one machine after another."""

    def __init__(self, directory, confirm):
        self.directory = directory
        self.confirm = confirm          # the config's lines Restart= and Confirm=
        self.authority = certificates.Authority(directory)
        self.publisher = Publisher(os.path.join(directory, 'served'), self.authority, say)
        self.origin = self.publisher.origin
        self.machine = None

    # ---- what many steps use

    def new_machine(self, name, user_data=None):
        """Create a machine that never booted, and that trusts the CA of images.example.com."""
        if self.machine is not None:
            self.machine.end()
        self.machine = machine = Container(TREE, os.path.join(self.directory, name), say)
        machine.write('/usr/local/share/ca-certificates/example.crt',
                      scene.read(self.authority.bundle))
        machine.chroot('update-ca-certificates')
        say('a machine with ' + ', '.join(' '.join(each) for each in machine.packages()
                                          if each[0] in PRINTED_PACKAGES))
        if user_data is not None:
            machine.write(CLOUD_INIT_SEED + 'user-data', user_data)
            machine.write(CLOUD_INIT_SEED + 'meta-data', 'instance-id: {}\n'.format(name))
        return machine

    def publish_app(self, version, **settings):
        busybox = self.machine.path('/usr/bin/busybox')
        image = images.application(self.directory, busybox, version, **settings)
        return self.publisher.publish('app', version, image)

    def publish_site(self, version):
        return self.publisher.publish('site', version, images.site(self.directory, version))

    def assert_latest_intact(self, name='app'):
        """Check latest from outside the machine: it names an intact image of the manifest."""
        root = self.machine.path('/var/lib/images/' + name)
        check.assertIsNone(scene.fault_of_latest(root))
        check.assertTrue(os.path.islink(os.path.join(root, 'latest')))

    def assert_served(self, version, port=images.PORT):
        """Check that the unit that runs from the image serves this version."""
        command = 'python3 -c "{}" | grep -Fx {}'
        self.machine.until(command.format(GET_VERSION.format(port), version), 20)

    def status(self, name='app'):
        command = 'tako.py status --json /etc/tako/{}.tako'.format(name)
        return json.loads(self.machine.run(command, is_printed=False).out)[0]

    def new_journal(self, name='app'):
        """Return what tako@NAME.service has logged since the last call of this."""
        command = ('journalctl --sync; '
                   'journalctl -q -o cat -u tako@{0}.service --cursor-file=/var/cursor-{0}')
        return self.machine.run(command.format(name), None, is_printed=False).out

    def fetch(self, name='app', code=0):
        """Run the service that the timer starts, to its end. Return what it logged."""
        self.new_journal(name)
        command = 'systemctl start tako@{}.service'.format(name)
        self.machine.run(command, 1 if code else 0, is_printed=False)
        logged = self.new_journal(name)
        say('# ' + command, logged)
        self.assert_exit(code, name)
        return logged

    def assert_exit(self, code, name='app'):
        """Check the exit code of the service's last run, and latest."""
        command = 'systemctl show -P ExecMainStatus tako@{}.service'.format(name)
        check.assertEqual(str(code), self.machine.run(command, is_printed=False).out.strip())
        self.assert_latest_intact(name)

    def config(self, name, more=''):
        """Return README.md's config for another destination, with other lines after Version=."""
        text = pages.vary(readme(begins='Origin='), 'Keep=3\n', '')
        return text.replace('/app', '/' + name) + more

    # ---- first boots

    def boot_with_tako_in_the_image(self):
        """README.md: user-data for a VM whose own image contains tako.py."""
        machine = self.new_machine('ready', first_boot(begins='#cloud-config'))
        machine.write('/usr/local/bin/tako.py', scene.read(scene.TAKO), 0o755)
        self.publish_app('1.0.0')
        self.first_boot()

    def boot_before_the_origin_is_up(self):
        """The page's loop, in place of the last line, repeats while the exit code is 75."""
        user_data = first_boot(begins='#cloud-config')
        last = user_data.rstrip('\n').split('\n')[-1]
        user_data = pages.vary(user_data, last + '\n', first_boot(begins='  - |'))
        machine = self.new_machine('early', user_data)
        machine.write('/usr/local/bin/tako.py', scene.read(scene.TAKO), 0o755)
        self.origin.requests.clear()
        self.origin.faults['*'] = origin.first(1, origin.status(404))
        self.first_boot()
        check.assertEqual(['/app/manifest'] * 2, [path for path in self.origin.paths()
                                                  if path.endswith('manifest')])

    def boot_with_tako_in_the_user_data(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(scene.TAKO, folder)
            with open(os.path.join(folder, 'app.tako'), 'w') as stream:
                stream.write(readme(begins='Origin='))
            subprocess.run(['sh', '-ec', first_boot(begins='cat > user-data')], cwd=folder,
                           check=True)
            user_data = scene.read(os.path.join(folder, 'user-data'))
        machine = self.new_machine('machine', user_data)
        self.first_boot()
        check.assertEqual(scene.read(scene.TAKO),
                          scene.read(machine.path('/usr/local/bin/tako.py')))

    def first_boot(self):
        """Boot, and check that cloud-init ran the user-data and installed 1.0.0."""
        log = '/var/log/cloud-init-output.log'
        self.machine.boot()
        status = self.machine.run('cloud-init status --wait; grep tako ' + log)
        check.assertIn('status: done', status.out)
        check.assertIn('/etc/tako/app.tako: 1.0.0 is installed', self.machine.read(log))
        check.assertEqual(readme(begins='Origin='), self.machine.read('/etc/tako/app.tako'))
        self.assert_latest_intact()
        self.machine.run('systemctl is-system-running --wait')

    # ---- units

    def run_a_unit_from_the_image(self):
        """The units of the pages, unchanged: the application starts without asking the origin."""
        machine = self.machine
        for name in ('tako@.service', 'tako@.timer', 'app.service'):
            path = '/etc/systemd/system/' + name
            machine.write(path, downloading(path))
        machine.run('rm -rf /usr/bin/app; systemctl daemon-reload')
        machine.write('/etc/tako/app.tako', self.config('app', RESTART))
        self.origin.requests.clear()
        machine.run('systemctl enable --now app.service')
        self.assert_served('1.0.0')
        check.assertEqual([], self.origin.requests)

    def update_by_the_timer(self):
        """Persistent=true makes up for a missed hour. The update is differential."""
        machine = self.machine
        path = self.publish_app('1.0.1')
        machine.write('/etc/systemd/system/tako@.timer.d/now.conf',
                      '[Timer]\nRandomizedDelaySec=0\n')
        machine.run('systemctl daemon-reload; '
                    'touch -d "2 hours ago" /var/lib/systemd/timers/stamp-tako@app.timer')
        self.new_journal()
        machine.run('systemctl enable --now tako@app.timer')
        ended = 'systemctl show -P InactiveEnterTimestampMonotonic tako@app.service'
        machine.until('test "$({})" -gt 0'.format(ended))
        logged = self.new_journal()
        say('# journalctl -u tako@app.service', logged)
        check.assertRegex(logged, r'/etc/tako/app.tako: 1.0.1 is installed '
                                  r'\(\S+ \S+ instead of \S+ \S+\), restarted app.service')
        self.assert_exit(0)
        self.assert_served('1.0.1')
        check.assertNotIn(None, self.origin.asked(path, 'Range'))
        following = machine.run('systemctl show -P NextElapseUSecRealtime tako@app.timer').out
        check.assertIn(':00:00 ', following)

    def update_by_cron(self):
        """README.md's line, unchanged, under a cron whose clock is set to just before 10:07."""
        machine = self.machine
        machine.write('/usr/sbin/sendmail', '#!/bin/sh\ncat >> /var/mail/root\n', 0o755)
        machine.write('/root/no-splay/sitecustomize.py',
                      'import random\nrandom.uniform = lambda begin, end: begin\n')
        machine.write('/etc/cron.d/tako',
                      'PYTHONPATH=/root/no-splay\n' + readme('/etc/cron.d/tako'))
        self.publish_app('1.0.2')
        mail = self.cron_at('10:06:57')
        check.assertIn('/etc/tako/app.tako: 1.0.2 is installed', mail)
        self.assert_latest_intact()
        self.assert_served('1.0.2')
        self.origin.requests.clear()
        check.assertEqual('', self.cron_at('10:36:57'), 'cron sent mail though nothing changed')
        check.assertEqual(['/app/manifest'], self.origin.paths())
        self.origin.faults['*'] = origin.status(404)
        mail = self.cron_at('11:06:57')
        self.origin.faults.clear()
        check.assertRegex(mail, r'\ntako: /etc/tako/app.tako: '
                                r'https://images.example.com/app/manifest: .*\n  [a-z]')
        machine.run('rm /etc/cron.d/tako')

    def cron_at(self, clock, day='2026-01-01'):
        """Start cron at this time of a day, and wait for the end of the job. Return its mail."""
        machine = self.machine
        machine.write('/etc/systemd/system/cron.service.d/clock.conf',
                      '[Service]\nEnvironment=LD_PRELOAD={}\n'
                      'Environment="FAKETIME=@{} {}"\n'.format(FAKETIME, day, clock))
        begun = ('journalctl --sync; journalctl -q -t CRON --cursor-file=/var/cursor-cron '
                 '| grep "CMD.*tako.py"')
        machine.run('install -m 666 /dev/null /var/mail/root; systemctl daemon-reload; ' + begun,
                    None, is_printed=False)
        say('cron starts at {} by its clock'.format(clock))
        machine.run('systemctl restart cron', is_printed=False)
        machine.until(begun, 30)
        machine.until("! cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' ' "
                      "| grep -q -e '/CRO[N]' -e 'sendmai[l]'", 180)
        mail = machine.run('cat /var/mail/root', is_printed=False).out
        if mail:
            say('mail', mail.partition('\n\n')[2])
        return mail

    def roll_back_without_a_program(self):
        """The unit cannot start from 1.1.0; README.md's config detects this without Confirm=."""
        self.publish_app('1.1.0', program=None)
        logged = self.fetch(code=1)
        check.assertIn('app.service is ', logged)
        check.assertIn('rolled back to 1.0.2, and 1.1.0 is rejected', logged)
        self.assert_served('1.0.2')
        check.assertEqual((['1.1.0'], '1.0.2', False), self.rejection())
        check.assertNotIn('1.1.0', self.fetch())                        # it is not retried
        self.assert_served('1.0.2')

    def roll_back_from_a_program_that_exits(self):
        """The program starts, and exits a second later, which Confirm= detects."""
        self.machine.write('/etc/tako/app.tako', self.config('app', self.confirm))
        self.publish_app('1.1.1', program=images.DIES)
        logged = self.fetch(code=1)
        check.assertIn('rolled back to 1.0.2, and 1.1.1 is rejected', logged)
        self.assert_served('1.0.2')
        check.assertEqual((['1.1.1', '1.1.0'], '1.0.2', False), self.rejection())
        self.publish_app('1.1.2')
        check.assertIn('1.1.2 is installed', self.fetch())
        self.assert_served('1.1.2')

    def rejection(self):
        """Return the rejected versions, the installed one, and whether a restart is due."""
        status = self.status()
        return status['rejected'], status['version'], status['restart_due']

    def run_from_a_tarball(self):
        """A unit unpacks the tarball that latest names."""
        path = '/etc/systemd/system/site.service'
        self.machine.write(path, downloading(path))
        self.machine.write('/etc/tako/site.tako', self.config('site', 'Restart=site.service\n'))
        self.publish_site('1.0')
        self.machine.run('mkdir -p /var/lib/images/site; systemctl daemon-reload; '
                         'systemctl enable --now site.service')
        self.assert_served('1.0', 8080)
        self.publish_site('1.1')
        check.assertIn('1.1 is installed, restarted site.service', self.fetch('site'))
        self.assert_served('1.1', 8080)

    # ---- reboots and power cuts

    def reboot_in_a_download(self):
        """After an orderly reboot, fetch continues a whole download where it stopped."""
        path = self.publish_site('1.2')
        self.origin.requests.clear()
        self.origin.faults[path] = origin.holds(STALL_BYTES)
        self.machine.run('systemctl start --no-block tako@site.service')
        partial = '/var/lib/images/site/.partial-' + path.rpartition('/')[2]
        self.machine.until('test "$(stat -c %s {})" -ge {}'.format(partial, STALL_BYTES))
        self.machine.reboot()
        self.assert_latest_intact('site')
        self.assert_served('1.1', 8080)
        self.origin.faults.clear()
        check.assertRegex(self.fetch('site'),
                          '/etc/tako/site.tako: 1.2 is installed.*, restarted site.service')
        self.assert_served('1.2', 8080)
        first, *others = self.origin.asked(path, 'Range')
        check.assertIsNone(first)
        begins = [int(re.match('bytes=([0-9]+)-', each).group(1)) for each in others]
        check.assertGreaterEqual(min(begins), STALL_BYTES - 5 * tako.CHUNK_AVERAGE_BYTES // 3)

    def lose_power_in_a_differential_update(self):
        """The power fails after some ranges arrived; fetch does not request those again."""
        path = self.publish_app('1.2.0', changed=images.PIECES)
        self.origin.requests.clear()
        self.origin.answers.clear()
        answers = threading.Semaphore(2)    # how many ranges the server answers before it stalls

        def stall(handler):
            if answers.acquire(blocking=False):
                handler.serve()
            else:
                self.origin.released.wait(60)
        self.origin.faults[path] = stall
        self.machine.run('systemctl start --no-block tako@app.service')
        self.machine.until('test -s /var/lib/images/app/.partial-' + path.rpartition('/')[2])
        wait_until(lambda: len(self.origin.asked(path, 'Range')) > 2)
        self.machine.cut_power()
        self.assert_latest_intact()
        self.machine.boot()
        self.assert_served('1.1.2')
        self.origin.faults.clear()
        before = self.origin.asked(path, 'Range')
        self.origin.requests.clear()
        check.assertIn('1.2.0 is installed (', self.fetch())
        self.assert_served('1.2.0')
        after = self.origin.asked(path, 'Range')
        check.assertNotIn(None, before + after)
        check.assertEqual(2, len(set(before) - set(after)), (before, after))

    def lose_power_in_a_restart(self):
        """The power fails while fetch watches the unit on the new version.

        The boot starts the unit from the new image, so the next fetch watches it, and does not
        restart it.
        """
        self.machine.write('/etc/tako/app.tako', self.config('app', confirm_lines()))
        self.publish_app('1.3.0')
        self.machine.run('systemctl start --no-block tako@app.service')
        self.assert_served('1.3.0')
        self.machine.cut_power()
        self.machine.boot()
        self.assert_latest_intact()
        self.assert_served('1.3.0')
        self.machine.write('/etc/tako/app.tako', self.config('app', self.confirm))
        status = self.status()
        check.assertEqual((True, '1.3.0'), (status['restart_due'], status['version']))
        invocation = 'systemctl show -P InvocationID app.service'
        before = self.machine.run(invocation, is_printed=False).out
        check.assertNotIn('restarted', self.fetch())
        check.assertEqual(before, self.machine.run(invocation, is_printed=False).out)
        check.assertFalse(self.status()['restart_due'])

    # ---- what else happens to a machine

    def keep_mounted_images(self):
        """Keep=1 removes old images, except for mounted ones."""
        root = '/var/lib/images/app'
        oldest = self.origin_digest('1.0.0')
        self.machine.run('mount -o loop,ro {}/store/{} /mnt'.format(root, oldest))
        self.machine.write('/etc/tako/app.tako',
                           self.config('app', RESTART + 'Keep=1\n'))
        check.assertIn('removed ', self.fetch())
        check.assertIn(oldest, os.listdir(self.machine.path(root + '/store')))
        self.machine.run('cat /mnt/www/version; umount /mnt')
        check.assertIn('removed 1.0.0\n', self.fetch())
        self.assert_served('1.3.0')

    def take_a_release_back(self):
        """The publisher publishes the earlier image again; fetch installs it despite Delay=."""
        self.machine.write('/etc/tako/app.tako',
                           self.config('app', self.confirm + 'Delay=30d\n'))
        self.publish_app('1.3.1')
        self.machine.run('tako.py fetch --now /etc/tako/app.tako')
        self.assert_served('1.3.1')
        self.publisher.publish_again('app', '1.3.0', '1.3.2')
        self.origin.requests.clear()
        check.assertIn('1.3.2 is installed, restarted app.service', self.fetch())
        check.assertEqual(['/app/manifest'], self.origin.paths())
        self.assert_served('1.3.0')
        check.assertEqual('1.3.2', self.status()['version'])
        check.assertIn('1.3.1 was taken back',
                       self.machine.run('tako.py rollback /etc/tako/app.tako').out)
        self.assert_served('1.3.1')
        self.machine.run('tako.py fetch --retry-rejected /etc/tako/app.tako')
        self.assert_served('1.3.0')

    def wait_before_an_update(self):
        """Delay= in a service that a timer starts.

        The machine's share of the range of Delay= comes from the machine-id that systemd made.
        """
        self.machine.write('/etc/tako/app.tako',
                           self.config('app', self.confirm + 'Delay=1h-4h\n'))
        self.publish_app('1.3.3')
        began = time.time()
        check.assertNotIn('1.3.3', self.fetch())
        self.assert_served('1.3.0')
        status = self.status()
        check.assertEqual('1.3.3', status['waiting'])
        self.machine.run('! grep ^machine= /var/lib/images/app/.state')
        check.assertTrue(began - 5 + 3600 <= status['waiting_until'] <= time.time() + 4 * 3600)
        check.assertRegex(self.machine.run('tako.py status /etc/tako/app.tako').out,
                          r'1\.3\.3 waits until [-0-9]+ [0-9:]+ UTC\n')
        self.machine.reboot()
        self.fetch()
        check.assertEqual(status['waiting_until'], self.status()['waiting_until'])
        self.assert_served('1.3.0')
        self.machine.write('/etc/tako/app.tako', self.config('app', self.confirm + 'Delay=5s\n'))
        time.sleep(5)
        check.assertRegex(self.fetch(), '1.3.3 is installed.*, restarted app.service')
        self.assert_served('1.3.3')

    def stage_for_a_maintenance_window(self):
        """The page's two lines of crontab: the window has no network, and a reboot before it.

        Neither --stage nor the start of the unit, with --init, installs the staged image.
        """
        machine = self.machine
        machine.write('/etc/tako/app.tako', self.config('app', self.confirm))
        machine.write('/etc/cron.d/tako', 'PYTHONPATH=/root/no-splay\n' + pages.snippet(
            PROJECT, 'docs/tako-fetch.md', begins='20 * * * *'))
        self.publish_app('1.3.4')
        check.assertRegex(self.cron_at('10:19:57'), '/etc/tako/app.tako: 1.3.4 is staged')
        self.assert_served('1.3.3')
        check.assertEqual('', self.cron_at('11:19:57'), 'cron sent mail though nothing was staged')
        machine.reboot()
        self.assert_served('1.3.3')
        hosts = machine.read('/etc/hosts')
        machine.write('/etc/hosts', hosts.replace('127.0.0.1', '192.0.2.1', 1))     # no route
        mail = self.cron_at('03:29:57', day='2026-01-04')       # a Sunday
        check.assertRegex(mail, '/etc/tako/app.tako: 1.3.4 is installed, restarted app.service')
        check.assertRegex(mail, 'tako: /etc/tako/app.tako: https://images.example.com/app/manifest')
        machine.write('/etc/hosts', hosts)
        self.assert_served('1.3.4')
        self.assert_latest_intact()
        machine.run('rm /etc/cron.d/tako')
        self.fetch()

    def renew_stamps_by_cron(self):
        """The page's user, key and line of crontab on the machine, which stamps what it fetches."""
        machine, page = self.machine, 'docs/a-stamp-key.md'
        public = machine.path('/srv/images/app')
        os.makedirs(public)
        self.copy('manifest', self.publisher.folder('app'), public)
        machine.run(pages.snippet(PROJECT, page, begins='useradd'))
        machine.write('/var/lib/stamp/release.pub', origin.PUBLIC_KEY + '\n')
        line = pages.snippet(PROJECT, page, begins='15 5 * * *')
        by_hand = line.partition('  stamp  ')[2].replace('--renew ', '').strip()
        check.assertIn('+ 1.3.4 ', self.as_stamper(by_hand))
        self.copy('stamp', public, self.publisher.folder('app'))
        key = machine.read('/var/lib/stamp/app.pub')
        machine.write('/etc/tako/app.tako', self.config('app', self.confirm + 'StampKey={}'
                                                        'Fresh=7d\n'.format(key)))
        self.fetch()
        proof = self.status()['proof']
        check.assertTrue(time.time() - 60 < proof < time.time() + 1)
        machine.write('/etc/cron.d/tako-stamp', line)
        check.assertEqual('', self.cron_at('05:14:57'), 'cron sent mail though all is well')
        self.copy('stamp', public, self.publisher.folder('app'))
        check.assertNotIn('warning', self.fetch())
        check.assertGreater(self.status()['proof'], proof)
        self.publish_app('1.3.4.1')
        check.assertNotIn('1.3.4.1', self.fetch())      # it has no stamp yet
        self.copy('manifest', self.publisher.folder('app'), public)
        check.assertIn(': new entries\n', self.cron_at('05:14:57'))
        check.assertIn('+ 1.3.4.1 ', self.as_stamper(by_hand))
        self.copy('stamp', public, self.publisher.folder('app'))
        check.assertRegex(self.fetch(), '1.3.4.1 is installed.*, restarted app.service')
        self.assert_served('1.3.4.1')
        machine.run('rm /etc/cron.d/tako-stamp')
        machine.write('/etc/tako/app.tako', self.config('app', self.confirm))
        self.fetch()

    def copy(self, name, folder, to):
        """Copy a file over a read-only one, as rsync does."""
        shutil.copy(os.path.join(folder, name), os.path.join(to, name + '.copied'))
        os.rename(os.path.join(to, name + '.copied'), os.path.join(to, name))

    def as_stamper(self, command):
        return self.machine.run("runuser -u stamp -- sh -c '{}'".format(command)).out

    # ---- a user other than root

    def run_units_of_a_user(self):
        """The page's user, config, unit and crontab, unchanged except for the port."""
        machine = self.machine
        machine.run(without_root(begins='useradd'))
        machine.write('/home/tako/site.tako', without_root(begins='Origin=').replace(
            'Manager=user', 'Manager=user\nConfirm=4'))
        path = '/home/tako/.config/systemd/user/site.service'
        machine.write(path, pages.vary(without_root(path), ' 8080', ' {}'.format(USER_PORT)))
        machine.run('chown -R tako: /home/tako')
        self.as_user(without_root(begins='mkdir -p ~/images/site'))
        self.assert_served('1.2', USER_PORT)
        machine.write('/root/crontab', 'PYTHONPATH=/srv/no-splay\n'
                      + without_root(begins='7,37 * * * * /usr/bin/python3'))
        machine.run('cp -r /root/no-splay /srv; crontab -u tako /root/crontab')
        self.publish_site('1.3')
        mail = self.cron_at('10:06:57')
        check.assertIn('\nsite.tako: 1.3 is installed', mail)
        check.assertIn(', restarted site.service\n', mail)
        self.assert_served('1.3', USER_PORT)
        check.assertEqual('', self.cron_at('10:36:57'), 'cron sent mail though nothing changed')

    def roll_back_a_unit_of_a_user(self):
        """An image that the user's unit cannot unpack, with a fetch by cron and by hand."""
        image = os.path.join(self.directory, 'bad.tar')
        with open(image, 'w') as stream:
            stream.write('this is not a tarball')
        self.publisher.publish('site', '1.4', image)
        mail = self.cron_at('10:06:57')
        check.assertIn('site.service failed (exit-code', mail)
        check.assertIn('rolled back to 1.3, and 1.4 is rejected', mail)
        check.assertIn('see: journalctl --user -u site.service', mail)
        self.assert_served('1.3', USER_PORT)
        for environ, version in (('', '1.5'), ('XDG_RUNTIME_DIR=/run/user/0', '1.6')):
            self.publish_site(version)
            printed = self.as_user('env {} tako.py fetch site.tako'.format(environ))
            check.assertRegex(printed, version + ' is installed.*, restarted site.service')
            self.assert_served(version, USER_PORT)

    def run_units_of_a_user_from_a_system_unit(self):
        """A system unit with User=, after a reboot: without a login, and in no session."""
        self.machine.run('crontab -u tako -r')
        self.machine.reboot()
        self.assert_served('1.6', USER_PORT)
        self.publish_site('1.7')
        printed = self.machine.run('systemd-run --quiet --pipe --wait --uid=tako '
                                   'tako.py fetch /home/tako/site.tako').out
        check.assertRegex(printed, '1.7 is installed.*, restarted site.service')
        self.assert_served('1.7', USER_PORT)
        status = json.loads(self.as_user('tako.py status --json site.tako'))[0]
        check.assertEqual(('1.7', False), (status['version'], status['restart_due']))

    def refuse_root_and_a_user_without_lingering(self):
        """Both are told what to do, and nothing changes; then the advice is followed."""
        printed = self.machine.run('tako.py fetch /home/tako/site.tako', 2).out
        check.assertIn('Manager=user is set, but root runs Tako', printed)
        self.publish_site('1.8')
        self.machine.run('loginctl disable-linger tako')
        self.machine.until('test ! -e /run/user/$(id -u tako)')
        fetch = 'systemd-run --quiet --pipe --wait --uid=tako tako.py fetch /home/tako/site.tako'
        printed = self.machine.run(fetch, 75).out
        check.assertIn('systemctl --user cannot reach systemd', printed)
        advice = re.search('run as root: (.*)', printed).group(1)
        self.machine.run('readlink /home/tako/images/site/latest | grep '
                         + origin.digest_of(scene.read(images.site(self.directory, '1.7'))))
        self.machine.run(advice)
        self.machine.until('test -S /run/user/$(id -u tako)/systemd/private')
        check.assertRegex(self.machine.run(fetch).out, '1.8 is installed.*, restarted site.service')
        self.assert_served('1.8', USER_PORT)
        self.machine.run('loginctl disable-linger tako')

    def as_user(self, command):
        """Run a command in a login shell of the user tako. Return its output."""
        return self.machine.run("su - tako -c '{}'".format(command.strip())).out

    # ---- alarms

    def raise_an_alarm(self):
        """A server that answers 401: the timer's unit accepts this, until it lasts too long."""
        machine = self.machine
        system = '/etc/systemd/system/'
        for name in ('tako@.service.d/retry.conf', 'tako-age.service', 'tako-age.timer',
                     'tako-alarm@.service'):
            machine.write(system + name, monitoring(system + name))
        machine.write(system + 'tako-age.timer.d/now.conf',
                      '[Timer]\nOnActiveSec=1s\nAccuracySec=1s\n')
        alarm = 'journalctl --sync; journalctl -q -o cat -p alert -t tako-alarm'
        ended = 'systemctl show -P InactiveEnterTimestampMonotonic tako-age.service | grep [1-9]'
        machine.run(monitoring(begins='systemctl daemon-reload\nsystemctl enable --now tako-age'))
        machine.until(ended)
        machine.run('systemctl is-failed tako-age.service', 1)
        self.origin.faults['*'] = origin.status(401)
        machine.run('systemctl start tako@app.service')
        self.assert_exit(75)
        machine.run('systemctl is-failed tako@app.service', 1)
        machine.run('systemctl start tako-age.service')         # 401 has not lasted for long
        check.assertEqual('', machine.run(alarm, is_printed=False).out)
        machine.run('touch -d "37 hours ago" /var/lib/images/app/.state')
        machine.run('systemctl start tako@app.service')         # a failure is no success
        machine.run('systemctl restart tako-age.timer')
        machine.until(alarm + ' | grep -Fx "tako-age.service failed"')
        machine.run('systemctl is-failed tako-age.service')
        self.origin.faults.clear()
        self.fetch()
        machine.run('systemctl start tako-age.service; systemctl disable --now tako-age.timer')

    def origin_digest(self, version):
        """Return the SHA-256 of a published version of the application."""
        signed = scene.read(os.path.join(self.publisher.directory, 'app/manifest'))
        keys = [tako.parse_public_key(origin.PUBLIC_KEY)]
        entries = tako.open_manifest(signed, keys, 'manifest').entries
        return next(entry.digest for entry in entries if entry.version.text == version)

    def update_tako_itself(self):
        """The page's config for tako.py rolls back a tako.py that does not work."""
        good, bad = (os.path.join(self.directory, name) for name in ('good.py', 'bad.py'))
        shutil.copy(scene.TAKO, good)
        with open(bad, 'w') as stream:
            stream.write('import sys\nsys.exit("a version that should not have been published")\n')
        self.publisher.publish('tako', '0.1.0', good)
        unit = '/etc/systemd/system/tako-works.service'
        self.machine.write('/etc/tako/tako.tako', updating('/etc/tako/tako.tako'))
        self.machine.write(unit, updating(unit, '[Unit]\nDescription=Check that the newest tako.py '
                                                'works\n'))
        self.machine.run(updating(begins='systemctl daemon-reload\nmkdir'))
        self.publisher.publish('tako', '0.2.0', bad)
        check.assertIn('rolled back to 0.1.0, and 0.2.0 is rejected', self.fetch('tako', code=1))
        check.assertEqual('', self.fetch_by_hand('tako'))
        check.assertEqual('', self.fetch_by_hand('app'))

    # ---- a sandbox

    def fetch_in_a_sandbox(self):
        """The page's user, service, rule of polkit and drop-in: a first fetch and an update."""
        machine = self.new_machine('sandbox')
        machine.write('/usr/local/bin/tako.py', scene.read(scene.TAKO), 0o755)
        machine.write('/etc/tako/app.tako', self.config('app', 'Restart=app.service\nConfirm=4\n'))
        for path in ('/etc/systemd/system/tako@.service', '/etc/polkit-1/rules.d/50-tako.rules',
                     '/etc/systemd/system/app.service.d/tako.conf'):
            machine.write(path, hardened(path))
        machine.write('/etc/systemd/system/app.service',
                      downloading('/etc/systemd/system/app.service'))
        self.publish_app('1.9.0')
        machine.boot()
        machine.run(hardened(begins='useradd'))
        machine.run(hardened(begins='systemctl daemon-reload'))
        self.assert_served('1.9.0')
        self.publish_app('1.9.1')
        check.assertRegex(self.fetch(), '1.9.1 is installed.*, restarted app.service')
        self.assert_served('1.9.1')
        check.assertEqual('', machine.run('find /var/lib/images/app ! -user tako').out)
        say('', machine.run('systemd-analyze security tako@app.service | tail -n 1').out)

    def roll_back_in_a_sandbox(self):
        self.publish_app('1.9.2', program=images.DIES)
        check.assertIn('rolled back to 1.9.1, and 1.9.2 is rejected', self.fetch(code=1))
        self.assert_served('1.9.1')

    def read_a_token_in_a_sandbox(self):
        """The page's credential, in a file that only root can read."""
        drop_in = '/etc/systemd/system/tako@.service.d/more.conf'
        self.machine.write('/etc/tako/app-token.secret', 'a-token\n', 0o600)
        self.machine.write(drop_in, '[Service]\nLoadCredential=app-token:'
                                    '/etc/tako/app-token.secret\n')
        self.machine.write('/etc/tako/app.tako', self.config('app', 'Token=@app-token\n'))
        self.machine.run('systemctl daemon-reload')
        self.origin.requests.clear()
        check.assertNotIn('app.tako', self.fetch())
        check.assertEqual({'Bearer a-token'},
                          set(self.origin.asked('/app/manifest', 'Authorization')))

    def see_what_the_sandbox_refuses(self):
        """A program in the place of fetch gets no further than the page says."""
        self.machine.write('/root/probe.py', PROBE)
        self.machine.run('cp /root/probe.py /usr/local/bin/tako.py')
        logged = self.fetch()
        check.assertIn('allowed: write /var/lib/images/app/x', logged)
        check.assertEqual(1, logged.count('allowed: '), logged)
        check.assertGreater(logged.count('refused: '), 10, logged)

    def need_the_rule_and_the_owner(self):
        """What the page's table of messages says, and that its advice helps."""
        machine = self.machine
        machine.write('/usr/local/bin/tako.py', scene.read(scene.TAKO), 0o755)
        machine.write('/etc/tako/app.tako', self.config('app', 'Restart=app.service\nConfirm=4\n'))
        machine.run('mv /etc/polkit-1/rules.d/50-tako.rules /root; sleep 1')
        self.publish_app('1.9.3')
        check.assertIn('polkit', self.fetch(code=1))
        machine.run('mv /root/50-tako.rules /etc/polkit-1/rules.d; sleep 1')
        self.fetch()
        self.assert_served('1.9.3')
        machine.run('chown -R root: /var/lib/images/app')
        self.publish_app('1.9.4')
        check.assertIn('Permission denied', self.fetch(code=1))
        machine.run('chown -R tako: /var/lib/images/app')
        check.assertIn('1.9.4 is installed', self.fetch())
        machine.write('/etc/systemd/system/tako@.service.d/more.conf',
                      '[Service]\nReadWritePaths=\n')
        self.publish_app('1.9.5')
        machine.run('systemctl daemon-reload')
        check.assertIn('Read-only file system', self.fetch(code=1))
        machine.run('rm /etc/systemd/system/tako@.service.d/more.conf; systemctl daemon-reload')
        check.assertIn('1.9.5 is installed', self.fetch())

    def fetch_by_hand(self, name):
        command = 'python3 /usr/local/bin/tako.py fetch /etc/tako/{}.tako'
        return self.machine.run(command.format(name)).out


STORY = (
    ('first boot with tako.py in the image', Story.boot_with_tako_in_the_image),
    ('first boot before the origin is up', Story.boot_before_the_origin_is_up),
    ('first boot with tako.py in the user-data', Story.boot_with_tako_in_the_user_data),
    ('a unit runs from an image', Story.run_a_unit_from_the_image),
    ('an update by the timer', Story.update_by_the_timer),
    ('an update by cron', Story.update_by_cron),
    ('a version without its program', Story.roll_back_without_a_program),
    ('a version that exits', Story.roll_back_from_a_program_that_exits),
    ('a unit that unpacks a tarball', Story.run_from_a_tarball),
    ('a reboot in a download', Story.reboot_in_a_download),
    ('a power cut in a differential update', Story.lose_power_in_a_differential_update),
    ('a power cut in a restart', Story.lose_power_in_a_restart),
    ('old images, one of them mounted', Story.keep_mounted_images),
    ('a release that is taken back', Story.take_a_release_back),
    ('a wait before an update', Story.wait_before_an_update),
    ('a maintenance window', Story.stage_for_a_maintenance_window),
    ('a stamp by cron', Story.renew_stamps_by_cron),
    ('a unit of a user', Story.run_units_of_a_user),
    ('a version that a unit of a user cannot use', Story.roll_back_a_unit_of_a_user),
    ('a unit of a user, from a system unit', Story.run_units_of_a_user_from_a_system_unit),
    ('root, and a user without lingering', Story.refuse_root_and_a_user_without_lingering),
    ('an alarm', Story.raise_an_alarm),
    ('a tako.py that does not work', Story.update_tako_itself),
    ('a fetch in a sandbox', Story.fetch_in_a_sandbox),
    ('a rollback in a sandbox', Story.roll_back_in_a_sandbox),
    ('a token in a sandbox', Story.read_a_token_in_a_sandbox),
    ('what the sandbox refuses', Story.see_what_the_sandbox_refuses),
    ('a sandbox that refuses too much', Story.need_the_rule_and_the_owner),
)


def main():
    suite = suites.Suite('machine')
    tempfile.gettempdir()               # keeps TMPDIR for this process,
    os.environ.pop('TMPDIR', None)      # as the machines that boot here have no such directory
    os.mkdir(SCRATCH)
    wanted = os.environ.get('PAGES', '')        # a part of the path of some pages: only those
    if wanted:
        walk.walk(suite, PROJECT, SCRATCH, TREE, say, wanted)
        suite.close()
    confirm = confirm_lines()
    if suite.is_sample:
        confirm = pages.vary(confirm, *SHORTER)
    story = Story(SCRATCH, confirm)
    with story.publisher:
        for name, step in STORY:
            say('\n{}'.format(name))
            with suite.case(name):
                step(story)
            if suite.has_failed():      # each step begins where the last one ended
                say('the story ends here')
                break
        story.machine.end()
    units.run(suite, SCRATCH, TREE, say)
    walk.walk(suite, PROJECT, SCRATCH, TREE, say)
    suite.close()


def obstacle():
    """Return why this suite cannot run here, or None if it can."""
    if os.getuid() != 0:
        return 'needs root'
    if not os.path.exists(TREE):
        return 'there is no Debian to boot: see what make prepare-machine prints'
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        return 'commands that are not installed: ' + ' '.join(missing)
    if not namespaces.are_available():
        return 'the kernel refuses namespaces'
    return None


if __name__ == '__main__':
    if obstacle():
        idle = suites.Suite('machine')
        idle.skip('all', obstacle())
        idle.close()
    namespaces.enter()
    main()

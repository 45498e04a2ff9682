"""One image on a running machine: its versions, config and destination, and its units.

In units, programs and configs, NAME stands for the name of the place, and VERSION for the version
of a program. Every program first appends its version to a file, so that a case sees which images
were started, and how often.
"""
import json
import os
import subprocess
import tempfile
import time
import unittest

import origin

RAN = '/var/lib/ran/'
BEGINS = '#!/bin/sh\necho VERSION >> {}NAME\n'.format(RAN)
RUNS = 'exec sleep 1000\n'
RUN = 'ExecStart=/bin/sh /var/lib/images/NAME/latest\n'
CONFIG = """Origin=https://images.example.com/NAME
PublicKey={}
Destination=/var/lib/images/NAME
""".format(origin.PUBLIC_KEY)
START_SECONDS = 60
PROPERTIES = (
    'Id', 'ActiveState', 'SubState', 'Result', 'NRestarts', 'InvocationID', 'ExecMainCode',
    'ExecMainStatus', 'ExecMainStartTimestampMonotonic', 'ExecMainExitTimestampMonotonic',
    'ActiveExitTimestampMonotonic')

check = unittest.TestCase()
check.maxDiff = None


def service(settings=RUN, unit='', install='WantedBy=multi-user.target'):
    """Return the text of a service.

    install: '' for a unit that no other unit wants. systemd unloads it as soon as it is inactive.
    """
    text = '[Unit]\n{}[Service]\n{}'.format(unit, settings)
    return text + '[Install]\n{}\n'.format(install) if install else text


class Place:
    """One image on a machine, as the top of this file describes it.

    A context manager: its end stops the units, and removes their files.
    """

    def __init__(self, machine, publisher, name, say, is_sample):
        self.machine = machine
        self.publisher = publisher
        self.name = name
        self.service = name + '.service'
        self.destination = '/var/lib/images/' + name
        self.manifest = '/{}/manifest'.format(name)         # under the origin
        self.config_path = '/etc/tako/{}.tako'.format(name)
        self.units = []         # the units whose files are in the machine
        self.instances = []     # the instances of those units that are templates
        self.images = {}        # version -> path of the image under the origin
        self.is_sample = is_sample
        self._say = say

    def __enter__(self):
        for folder in (self.destination, RAN):
            os.makedirs(self.machine.path(folder), exist_ok=True)
        return self

    def __exit__(self, *error):
        if self.units:
            names = ' '.join(self.units + self.instances)
            self.ask('for each in {}; do systemctl disable -q $each; systemctl kill -s KILL $each; '
                     'systemctl stop $each; systemctl reset-failed $each; done'.format(names), None)
        for unit in self.units:
            os.unlink(self.machine.path('/etc/systemd/system/' + unit))

    def beside(self, name):
        """Return another place on the same machine. The caller calls its __exit__()."""
        return Place(self.machine, self.publisher, name, self._say, self.is_sample).__enter__()

    def say(self, what, out=''):
        self._say('{}: {}'.format(self.name, what), out)

    def named(self, text):
        return text.replace('NAME', self.name)

    # ---- versions, units and configs

    def publish(self, version, program=RUNS):
        """Publish a version whose image is a shell script."""
        script = self.named(BEGINS + program).replace('VERSION', version)
        self.publish_file(version, script.encode())

    def publish_file(self, version, content):
        with tempfile.NamedTemporaryFile(delete=False) as stream:
            stream.write(content)
        self.images[version] = self.publisher.publish(self.name, version, stream.name)

    def unit(self, text=None, name=None):
        """Write a unit file. systemd reads it after a daemon-reload."""
        name, text = name or self.service, service() if text is None else text
        self.machine.write('/etc/systemd/system/' + name, self.named(text))
        if name not in self.units:
            self.units.append(name)

    def config(self, more='', version='1.*', restart='NAME.service', confirm=2):
        """Write the config; confirm=None for the default."""
        lines = CONFIG + 'Version={}\n'.format(version)
        lines += 'Restart={}\n'.format(restart) if restart else ''
        lines += '' if confirm is None else 'Confirm={}\n'.format(confirm)
        self.machine.write(self.config_path, self.named(lines + more))

    def line_of(self, begins):
        """Return "FILE:LINE: " of the line of the config that begins so."""
        lines = self.machine.read(self.config_path).split('\n')
        number = [each.startswith(begins) for each in lines].index(True) + 1
        return '{}:{}: '.format(self.config_path, number)

    def begin(self, text=None, units=(), program=RUNS, **settings):
        """Install 1.0, and start the units from it.

        text: the service's unit file. units: (name, text) of each further unit.
        settings: for config().
        """
        self.unit(text)
        for name, other in units:
            self.unit(other, self.named(name))
        self.config(**settings)
        self.publish('1.0', program)
        self.tako('fetch --init')
        self.start_units()

    def start_units(self):
        """Let systemd read all unit files of this place, and start the units."""
        wanted = [unit for unit in self.units
                  if '[Install]' in self.machine.read('/etc/systemd/system/' + unit)]
        started = [unit for unit in self.units if '@.' not in unit] + self.instances
        self.ask('systemctl daemon-reload')
        if wanted:
            self.ask('systemctl enable -q ' + ' '.join(wanted))
        self.ask('systemctl start ' + ' '.join(started))

    # ---- commands

    def tako(self, command='fetch', code=0, environ='', options='', seconds=120):
        """Run a command of tako.py on the config, and expect this exit code. Return its output."""
        return self.finish(self.start(command, environ, options), code, seconds)

    def start(self, command='fetch', environ='', options=''):
        """Start a command of tako.py. Return its process. A file has its id inside the machine."""
        self._command = 'env {} python3 /usr/local/bin/tako.py {} {} {}'.format(
            environ, command, self.config_path, options)
        return self.machine.start('echo $$ > {}{}.pid; exec {}'.format(
            RAN, self.name, self._command))

    def finish(self, process, code=0, seconds=120):
        """Wait for a process of start(), and expect this exit code (None: any).

        Return its output.
        """
        try:
            printed = process.communicate(timeout=seconds)[0].decode('utf-8', 'replace')
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError('no end within {} s: {}\n{}'.format(
                seconds, self._command, self.shown())) from None
        self.say('# ' + self._command, printed)
        if code not in (None, process.returncode):
            raise AssertionError('{}\nexit code {} instead of {}:\n{}\n{}'.format(
                self._command, process.returncode, code, printed, self.shown()))
        check.assertNotIn('Traceback', printed)
        return printed

    def kill(self, name):
        """Send a signal to the tako.py that start() started."""
        self.run('kill -s {} {}'.format(name, self.machine.read(RAN + self.name + '.pid').strip()))

    def run(self, command, code=0, seconds=120):
        """Run a shell command in the machine, and print it. Return its output."""
        printed = self.ask(self.named(command), code, seconds)
        self.say('# ' + self.named(command), printed)
        return printed

    def ask(self, command, code=0, seconds=120):
        """Run a shell command in the machine without printing it. Return its output."""
        return self.machine.run(command, code, seconds, is_printed=False).out

    def starts(self):
        """Return the versions that were started, in order."""
        try:
            return self.machine.read(RAN + self.name).split()
        except FileNotFoundError:
            return []

    def wait_for_start(self, version, times=1):
        """Wait until this version has been started this many times."""
        deadline = time.monotonic() + START_SECONDS
        while self.starts().count(version) < times:
            if time.monotonic() > deadline:
                raise AssertionError('{} was not started: {}\n{}'.format(
                    version, self.starts(), self.shown()))
            time.sleep(0.02)

    def wait_for_state(self, state, unit=None, seconds=60):
        """Wait until a unit is in this ActiveState."""
        test = 'test "$(systemctl show -P ActiveState {})" = {}'
        self.machine.until(test.format(unit or self.service, state), seconds)

    # ---- results

    def shown(self):
        """Return what systemd knows of the units, for the report of a failure."""
        units = self.units + self.instances
        ask = 'systemctl show --property={} -- {}; journalctl -q --no-pager -n 15 -u {}'
        return self.ask(ask.format(','.join(PROPERTIES), ' '.join(units), ' -u '.join(units)), None)

    def status(self):
        ask = 'python3 /usr/local/bin/tako.py status --json '
        return json.loads(self.ask(ask + self.config_path))[0]

    def known(self):
        """Return what status prints: the version, rejected versions, whether a restart is due."""
        known = self.status()
        return known['version'], sorted(known['rejected']), known['restart_due']

    def state_of(self, unit=None):
        return self.ask('systemctl show -P ActiveState ' + (unit or self.service)).strip()

    def digest_of(self, version):
        return self.images[version].rpartition('/')[2]

    def assert_now(self, version, rejected=(), is_due=False, state='active', unit=None):
        """Check that this version is installed and intact, and that status prints this.

        state: the ActiveState of the unit. If it is active, it was started from this version.
        """
        found = self.known() + (self.state_of(unit),)
        if found != (version, sorted(rejected), is_due, state):
            check.assertEqual((version, sorted(rejected), is_due, state), found, self.shown())
        seen = self.ask('cd {}; readlink latest; sha256sum < latest'.format(self.destination))
        digest = self.digest_of(version)
        check.assertEqual(['store/' + digest, digest, '-'], seen.split())
        if state == 'active' and unit is None and self.starts():
            check.assertEqual(version, self.starts()[-1])

    def manifest_requests(self):
        """Return how often the origin was asked for the manifest."""
        return self.publisher.origin.paths().count(self.manifest)

    def assert_not_requested(self, version):
        """Check that the origin was never asked for this version's image."""
        check.assertNotIn(self.images[version], self.publisher.origin.paths())

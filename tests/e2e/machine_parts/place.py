"""One image on a machine that runs: its versions, its config, its destination, and the units that run from it.

In units, programs and configs, NAME stands for the name of the place, and VERSION for the version of a program.
Every program first adds its version to a file, so that a test sees which image was started, and how often.
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
LAST_START_SECONDS = 60

check = unittest.TestCase()
check.maxDiff = None


def service(settings=RUN, unit='', install='WantedBy=multi-user.target'):
    """The text of a service. A unit that nothing wants is unloaded as soon as it is inactive: install='' for that."""
    text = '[Unit]\n{}[Service]\n{}'.format(unit, settings)
    return text + '[Install]\n{}\n'.format(install) if install else text


class Place:
    """See the top of this file. Use it in a `with`, which stops and removes its units at the end."""

    def __init__(self, machine, publisher, name, say, is_sample):
        self.machine = machine
        self.publisher = publisher
        self.name = name
        self.service = name + '.service'
        self.destination = '/var/lib/images/' + name
        self.config_path = '/etc/tako/{}.tako'.format(name)
        self.units = []         # whose files are in the machine
        self.instances = []     # of these, where they are templates
        self.images = {}        # by version, the path of the image below the origin
        self.is_sample = is_sample
        self._say = say

    def __enter__(self):
        for folder in (self.destination, RAN):
            os.makedirs(self.machine.path(folder), exist_ok=True)
        return self

    def __exit__(self, *error):
        if self.units:
            names = ' '.join(self.units + self.instances)
            self.machine.run('for each in {}; do systemctl disable -q $each; systemctl kill -s KILL $each; '
                             'systemctl stop $each; systemctl reset-failed $each; done'.format(names), None, is_told=False)
        for unit in self.units:
            os.unlink(self.machine.path('/etc/systemd/system/' + unit))

    def beside(self, name):
        """Another place on the same machine, which has to be left, too."""
        return Place(self.machine, self.publisher, name, self._say, self.is_sample).__enter__()

    def say(self, what, out=''):
        self._say('{}: {}'.format(self.name, what), out)

    def named(self, text):
        return text.replace('NAME', self.name)

    # ---- what there is

    def publish(self, version, program=RUNS):
        """Publish a version whose image is a shell script."""
        self.publish_file(version, self.named(BEGINS + program).replace('VERSION', version).encode())

    def publish_file(self, version, content):
        with tempfile.NamedTemporaryFile(delete=False) as stream:
            stream.write(content)
        self.images[version] = self.publisher.publish(self.name, version, stream.name)

    def unit(self, text=None, name=None):
        """Write a unit file; the manager has still to be told."""
        name = name or self.service
        self.machine.write('/etc/systemd/system/' + name, self.named(service() if text is None else text))
        if name not in self.units:
            self.units.append(name)

    def config(self, more='', version='1.*', restart='NAME.service', confirm=2):
        """Write the config; confirm=None for the default."""
        lines = CONFIG + 'Version={}\n'.format(version)
        lines += 'Restart={}\n'.format(restart) if restart else ''
        lines += '' if confirm is None else 'Confirm={}\n'.format(confirm)
        self.machine.write(self.config_path, self.named(lines + more))

    def line_of(self, begins):
        """FILE:LINE of the line of the config that begins so."""
        lines = self.machine.read(self.config_path).split('\n')
        return '{}:{}: '.format(self.config_path, [each.startswith(begins) for each in lines].index(True) + 1)

    def begin(self, text=None, units=(), program=RUNS, **settings):
        """Have 1.0 in place, and the units running from it.

        text: the service's. units: pairs of a name and a text, of further units.
        """
        self.unit(text)
        for name, other in units:
            self.unit(other, self.named(name))
        self.config(**settings)
        self.publish('1.0', program)
        self.tako('fetch --init')
        self.start_units()

    def start_units(self):
        """Make systemd read all unit files of this place, and start them."""
        wanted = [unit for unit in self.units if '[Install]' in self.machine.read('/etc/systemd/system/' + unit)]
        enable = 'systemctl enable -q {}; '.format(' '.join(wanted)) if wanted else ''
        started = [unit for unit in self.units if '@.' not in unit] + self.instances
        self.machine.run('systemctl daemon-reload; {}systemctl start {}'.format(enable, ' '.join(started)), is_told=False)

    # ---- what is done

    def tako(self, command='fetch', code=0, environ='', options='', seconds=120):
        """Run a command of tako.py on the config, and expect this exit code; what it prints."""
        return self.finish(self.start(command, environ, options), code, seconds)

    def start(self, command='fetch', environ='', options=''):
        """A running tako.py; its process id in the machine is in a file."""
        self.said = '# {}tako.py {} {} {}'.format(environ + ' ' * bool(environ), command, self.config_path, options)
        return self.machine.start('echo $$ > {}{}.pid; exec env {} python3 /usr/local/bin/tako.py {} {} {}'.format(
            RAN, self.name, environ, command, self.config_path, options))

    def finish(self, process, code=0, seconds=120):
        """Wait for the end of start(); what it printed."""
        try:
            printed = process.communicate(timeout=seconds)[0].decode('utf-8', 'replace')
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError('no end within {} s: {}\n{}'.format(seconds, self.said, self.shown())) from None
        self.say(self.said, printed)
        if process.returncode != code:
            raise AssertionError('{}\nexit code {} instead of {}:\n{}\n{}'.format(
                self.said, process.returncode, code, printed, self.shown()))
        check.assertNotIn('Traceback', printed)
        return printed

    def kill(self, process):
        """Let tako.py die by SIGKILL."""
        self.run('kill -KILL ' + self.machine.read(RAN + self.name + '.pid').strip())
        process.communicate(timeout=30)

    def run(self, command, code=0, seconds=120):
        """Run a shell command in the machine; what it prints."""
        printed = self.machine.run(self.named(command), code, seconds, is_told=False).out
        self.say('# ' + self.named(command), printed)
        return printed

    def starts(self):
        """The versions that were started, in order."""
        try:
            return self.machine.read(RAN + self.name).split()
        except FileNotFoundError:
            return []

    def wait_for_start(self, version, times=1):
        """Wait until this version has been started so often."""
        deadline = time.monotonic() + LAST_START_SECONDS
        while self.starts().count(version) < times:
            if time.monotonic() > deadline:
                raise AssertionError('{} was not started: {}\n{}'.format(version, self.starts(), self.shown()))
            time.sleep(0.02)

    def wait_for_state(self, state, unit=None, seconds=60):
        """Wait until a unit is in this ActiveState."""
        self.machine.until('test "$(systemctl show -P ActiveState {})" = {}'.format(unit or self.service, state), seconds)

    # ---- what came of it

    def shown(self):
        """What systemd knows of the units, for a failure's report."""
        units = self.units + self.instances
        properties = ','.join(('Id', 'ActiveState', 'SubState', 'Result', 'NRestarts', 'InvocationID', 'ExecMainCode',
                               'ExecMainStatus', 'ExecMainExitTimestampMonotonic', 'ActiveExitTimestampMonotonic'))
        ask = 'systemctl show --property={} -- {}; journalctl -q --no-pager -n 15 -u {}'.format(
            properties, ' '.join(units), ' -u '.join(units))
        return self.machine.run(ask, None, is_told=False).out

    def status(self):
        return json.loads(self.machine.run('python3 /usr/local/bin/tako.py status --json ' + self.config_path,
                                           is_told=False).out)[0]

    def state_of(self, unit=None):
        return self.machine.run('systemctl show -P ActiveState ' + (unit or self.service), is_told=False).out.strip()

    def assert_now(self, version, rejected=(), is_due=False, state='active', unit=None):
        """latest names this version, which is intact; the unit is in this state, started from it; and so says status."""
        known = self.status()
        found = (known['version'], sorted(known['rejected']), known['restart_due'], self.state_of(unit))
        if found != (version, sorted(rejected), is_due, state):
            check.assertEqual((version, sorted(rejected), is_due, state), found, self.shown())
        digest = self.images[version].rpartition('/')[2]
        seen = self.machine.run('cd {}; readlink latest; sha256sum < latest'.format(self.destination), is_told=False)
        check.assertEqual(['store/' + digest, digest, '-'], seen.out.split())
        if state == 'active' and unit is None and self.starts():
            check.assertEqual(version, self.starts()[-1])

    def assert_not_asked_for(self, version):
        """No byte of this version's image was asked for."""
        check.assertNotIn(self.images[version], self.publisher.origin.paths())

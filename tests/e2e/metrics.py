"""status --metrics, read by promtool and by node_exporter, as docs/monitoring.md says.

The command for cron and the rules are those of that page, with the paths replaced.
"""
import os
import re
import shutil
import socket
import subprocess
import tempfile
import textwrap
import time
import unittest
import urllib.request

import origin
import scene

from suite import Suite

PAGE = os.path.join(scene.PROJECT, 'docs', 'monitoring.md')
SECONDS = 30            # for a program to answer
check = unittest.TestCase()


class Machine:
    """A directory with three configs: one that succeeded, one that failed, and an invalid one."""

    def __init__(self, directory):
        self.directory = directory
        self.collected = self.path('node-exporter')
        os.mkdir(self.collected)
        os.mkdir(self.path('public'))
        origin.Publisher(self.path('public')).publish('1.0', b'image')
        self.configs = self.path('etc "tako"')
        os.mkdir(self.configs)
        for name, url in (('good', 'file://' + self.path('public')), ('down', 'file:///nowhere')):
            os.mkdir(self.path(name))
            self.write(os.path.join(self.configs, name + '.tako'),
                       'Origin={}\nPublicKey={}\nDestination={}\nVersion=*\n'.format(
                           url, origin.PUBLIC_KEY, self.path(name)))
        self.write(os.path.join(self.configs, 'invalid.tako'), 'x\n')
        self.run_tako('fetch')

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def write(self, path, text):
        origin.write(path, text.encode())

    def run_tako(self, command, *options):
        return subprocess.run(['python3', scene.TAKO, command, *options, self.configs],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    def run_cron(self):
        """Run the command of the page, which is after time and user. Return its exit code."""
        line = re.search(r'^    \*/5 \* \* \* \* root (.*--metrics.*)$', read(PAGE), re.M).group(1)
        for old, new in (('/var/lib/prometheus/node-exporter', self.collected),
                         ('/usr/bin/python3', 'python3'), ('/usr/local/bin/tako.py', scene.TAKO),
                         ('/etc/tako ', "'{}' ".format(self.configs))):
            check.assertEqual(1, line.count(old), line)
            line = line.replace(old, new)
        return subprocess.run(['sh', '-c', line]).returncode


def read(path):
    with open(path, encoding='utf-8') as stream:
        return stream.read()


def run(*command, **settings):
    """Run a program. Return its exit code and all that it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
    return done.returncode, done.stdout.decode(errors='replace')


def samples(text):
    """Return {(metric, name of the config): value} of the metrics of Tako."""
    found = re.findall(r'^(tako_[a-z_]+)[{]config="[^ ]* \\"tako\\"/([a-z]+)[.]tako"[^ ]*[}] (.*)$',
                       text, re.M)
    return {(name, config): float(value) for name, config, value in found}


def check_samples(text):
    found = samples(text)
    check.assertEqual((0, 75, 2), tuple(found['tako_exit_code', name]
                                        for name in ('good', 'down', 'invalid')))
    check.assertEqual((1, 0), tuple(found['tako_installed_info', name]
                                    for name in ('good', 'down')))
    check.assertAlmostEqual(time.time(), found['tako_last_success_timestamp_seconds', 'good'],
                            delta=600)
    check.assertEqual(0, found['tako_last_success_timestamp_seconds', 'down'])
    check.assertEqual(5, found['tako_image_bytes', 'good'])


def check_exporter(machine):
    """node_exporter exports what the command for cron wrote."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = '127.0.0.1:{}'.format(free.getsockname()[1])
    process = subprocess.Popen(
        ['prometheus-node-exporter', '--collector.disable-defaults', '--collector.textfile',
         '--collector.textfile.directory=' + machine.collected, '--web.listen-address=' + address],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        text = scrape('http://' + address + '/metrics')
    finally:
        process.kill()
        process.wait()
    check_samples(text)
    check.assertIn('node_textfile_scrape_error 0\n', text)
    check.assertRegex(text, 'node_textfile_mtime_seconds[{]file=".*tako.prom"[}]')


def scrape(url):
    deadline = time.monotonic() + SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(url, timeout=SECONDS) as answer:
                return answer.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def check_rules(machine):
    """promtool accepts the rules of the page, whose metrics are those of Tako."""
    rules = re.search('^```yaml\n(groups:.*?)^```', read(PAGE), re.M | re.S).group(1)
    path = machine.path('rules.yml')
    machine.write(path, textwrap.dedent(rules))
    code, words = run('promtool', 'check', 'rules', path)
    check.assertEqual(0, code, words)
    known = {name for name, _ in samples(machine.run_tako('status', '--metrics').decode())}
    used = set(re.findall('tako_[a-z_]+', rules))
    check.assertEqual(set(), used - known)


def check_complaint(machine):
    """promtool does complain of text that is wrong, so its silence says something."""
    text = machine.run_tako('status', '--metrics').replace(b'# HELP', b'# HALP')
    code, words = run('promtool', 'check', 'metrics', input=text)
    check.assertNotEqual((0, ''), (code, words))


def main():
    suite = Suite('metrics')
    with tempfile.TemporaryDirectory(prefix='tako-metrics-') as directory:
        machine = Machine(directory)
        with suite.case('the command for cron'):
            check.assertEqual(0, machine.run_cron())
            check.assertEqual(['tako.prom'], os.listdir(machine.collected))
            check_samples(read(os.path.join(machine.collected, 'tako.prom')))
        if shutil.which('promtool') is None:
            suite.skip('promtool', 'no promtool here')
        else:
            with suite.case('promtool check metrics'):
                check.assertEqual((0, ''), run(
                    'promtool', 'check', 'metrics', input=machine.run_tako('status', '--metrics')))
            with suite.case('promtool complains of other text'):
                check_complaint(machine)
            with suite.case('promtool check rules'):
                check_rules(machine)
        if shutil.which('prometheus-node-exporter') is None:
            suite.skip('node_exporter', 'no prometheus-node-exporter here')
        else:
            with suite.case('node_exporter'):
                check_exporter(machine)
    suite.close()


if __name__ == '__main__':
    main()

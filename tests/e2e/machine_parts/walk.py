"""Walks through each page on a machine of its own, and does with every snippet what a reader would do with it.

sh blocks and indented commands go into one shell, in a directory that holds tako.py, in the order of the page. A
config goes to /etc/tako and has to be accepted; a unit is installed, and `systemd-analyze verify` has to be content;
user-data passes `cloud-init schema`; an nginx section is served from; what a console shows is what the commands
print; a synopsis names the options that --help names. What is only shown, as output and formats, stays.
"""
import contextlib
import os
import re
import select
import shutil
import subprocess
import time
import unittest

import certificates
import scene
from machine_parts import images, pages
from machine_parts.container import Container
from machine_parts.publisher import SECRET_KEY, Publisher

HERE = '/root/page'
SHELL_SECONDS = 180
NGINX = '/etc/nginx/conf.d/page.conf'

# What cannot be run here, and why: (page, first line).
NOT_HERE = {
    ('README.md', 'make check'): 'all tests: make check runs them on this machine, the gate on each Python',
    ('docs/performance.md', 'make bench'): 'measures, for a quarter of an hour: make bench',
}
# Commands that end only when they are ended, and what shows that they work.
FOREVER = {
    ('docs/distributing-images.md', 'cd public && python3 -m http.server --bind 127.0.0.1 8000'): 'http://127.0.0.1:8000/manifest',
}

AN_IMAGE = 'head -c 100000 /dev/urandom > app.img\n'
AN_ORIGIN = AN_IMAGE + """
(umask 077; echo '{}' > app.key)
mkdir -p public
python3 tako.py store -f app.key -o public app.img 1.0
""".format(SECRET_KEY)
ELSEWHERE = 'mkdir -p /srv/elsewhere; cd /srv/elsewhere; cp {}/tako.py .\n'.format(HERE)
A_CONFIG = """
printf '%s\\n' "Origin=file://$PWD/public" PublicKey=l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k= \\
    Destination=/var/lib/images/app 'Version=1.*' > /etc/tako/app.tako
mkdir -p /var/lib/images/app
"""
# What a page, or one of its consoles, takes for granted.
BEFORE = {
    'README.md': 'mkdir -p /srv/images/app\n' + AN_IMAGE,
    'docs/distributing-images.md': 'mkdir -p /srv/images/app\n',
    'docs/differential-updates.md': AN_ORIGIN + 'rm public/store/*.chunks\n',
    'docs/manifest-format.md': AN_ORIGIN + 'ln -s public/store store\n',
    'docs/unattended.md': ELSEWHERE + AN_ORIGIN + A_CONFIG + 'python3 tako.py fetch /etc/tako/app.tako\n',
    'docs/versions.md': AN_ORIGIN,
    ('docs/configuration.md', '$ python3 tako.py fetch app.tako'): """
        printf '%s\\n' Origin=file:///srv PublicKey=l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k= Destination=/srv \\
            'Verson=1.*' > app.tako""",
    ('docs/tako-status.md', '$ python3 tako.py status /etc/tako/app.tako'): ELSEWHERE + AN_ORIGIN + A_CONFIG + """
        printf '%s\\n' '[Service]' Type=oneshot RemainAfterExit=yes \\
            'ExecStart=/usr/bin/grep -q good /var/lib/images/app/latest' > /etc/systemd/system/app.service
        systemctl daemon-reload
        echo Restart=app.service >> /etc/tako/app.tako
        for version in 1.4.0=good 1.4.1=good 1.4.2=bad 2.0.0=good; do
            { cat app.img; echo $version; } > new.img
            python3 tako.py store -f app.key -o public new.img ${version%=*}
            python3 tako.py fetch /etc/tako/app.tako || test $version = 1.4.2=bad
        done""",
}
# What has to hold at the end of a page.
AFTER = {
    'README.md': '''
        python3 tako.py verify -p "$(cat app.pub)" /srv/images/app
        systemctl enable --now app.service tako@app.timer
        systemctl start tako@app.service
        systemctl is-active app.service
        python3 tako.py status --max-age 1h /etc/tako/app.tako''',
    'docs/downloading-images.md': '''
        cloud-init schema --config-file user-data
        test -L /usr/local/bin/tako.py
        python3 /usr/local/bin/tako.py fetch /etc/tako/tako.tako
        systemctl is-active app.service''',
    'docs/distributing-images.md': 'python3 tako.py verify -p "$(cat new.pub)" public',
    'docs/differential-updates.md': 'test "$(ls public/store/*.chunks)"',
}
GET = """
import sys, urllib.error, urllib.request
try:
    status = urllib.request.urlopen(sys.argv[1]).status
except urllib.error.HTTPError as error:
    status = error.code
print(status)
sys.exit(str(status) != sys.argv[2])
"""
# Pages on which https://images.example.com is the publisher's; distributing-images.md sets up one of its own.
WITH_PUBLISHER = ('README.md', 'docs/downloading-images.md')
# Units of a page that are there before its first snippet.
UNITS_BEFORE = {'docs/downloading-images.md': ('/etc/systemd/system/app.service', '/etc/systemd/system/site.service')}

check = unittest.TestCase()
check.maxDiff = None


def walk(suite, project, room, tree, say):
    """All pages; in a sample, those that there is time for."""
    told = [block for page in pages.pages(project) for block in pages.blocks_of(project, page)]
    with suite.case('what the pages do not have'):
        known = set(NOT_HERE) | set(FOREVER) | {key for key in BEFORE if isinstance(key, tuple)}
        there = {(block.page, first_command(block)) for block in told}
        stale = {key for key in known if key not in there and os.path.exists(os.path.join(project, key[0]))}
        check.assertEqual(set(), stale)
    for page in suite.sample(sorted({block.page for block in told})):
        say('\n{}'.format(page))
        directory = os.path.join(room, page.replace('/', '-'))
        with suite.case(page), Walk(project, page, directory, tree, say) as reader:
            for block in pages.blocks_of(project, page):
                reason = NOT_HERE.get((page, first_command(block)))
                if reason:
                    suite.skip(str(block), reason)
                elif not block.language and not block.is_output and not block.is_synopsis:
                    suite.count('blocks that are only shown')
                else:
                    with suite.case(str(block)):
                        reader.do(block)
            reader.shell.run(AFTER.get(page, ''))


def first_command(block):
    """The first line, without a remark at its end."""
    return re.sub(' +# .*', '', block.first_line())


class Walk:
    """One page, its machine, and the shell that its commands go into."""

    def __init__(self, project, page, directory, tree, say):
        self.project = project
        self.page = page
        self.directory = directory
        self.tree = tree
        self.say = say
        self.before = None          # the snippet before
        self.printed = ''           # what the last commands printed
        self.config = ''            # the last whole config

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.machine = Container(self.tree, self.directory, self.say)
            self._furnish(stack)
            self.machine.boot()
            stack.callback(self.machine.end)
            self.shell = Shell(self.machine)
            stack.callback(self.shell.close)
            self.shell.run(BEFORE.get(self.page, '') + '\ncd ' + HERE)
            for path in UNITS_BEFORE.get(self.page, ()):
                self.machine.write(path, pages.snippet(self.project, self.page, path))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _furnish(self, stack):
        """What the machine has before it boots: a directory that holds tako.py, root's key for ssh, an origin."""
        machine = self.machine
        os.makedirs(machine.path(HERE))
        for name in ('tako.py', 'Makefile', 'tests'):
            subprocess.run(['cp', '-r', os.path.join(self.project, name), machine.path(HERE)], check=True)
        os.makedirs(machine.path('/etc/tako'))
        if self.page != 'README.md':        # which brings it there
            shutil.copy(scene.TAKO, machine.path('/usr/local/bin/tako.py'))
        machine.chroot('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', '/root/.ssh/id_ed25519')
        shutil.copy(machine.path('/root/.ssh/id_ed25519.pub'), machine.path('/root/.ssh/authorized_keys'))
        machine.write('/root/get.py', GET)
        machine.write('/etc/ssh/ssh_config.d/page.conf', 'StrictHostKeyChecking accept-new\n')
        if self.page in WITH_PUBLISHER:
            self._serve(stack)

    def _serve(self, stack):
        authority = certificates.Authority(self.directory)
        publisher = stack.enter_context(Publisher(os.path.join(self.directory, 'served'), authority, self.say))
        publisher.publish('app', '1.4.2', images.application(self.directory, self.machine.path('/usr/bin/busybox'), '1.4.2'))
        publisher.publish('tako', '0.1.0', shutil.copy(scene.TAKO, os.path.join(self.directory, 'tako.py')))
        self.machine.write('/usr/local/share/ca-certificates/example.crt', scene.read(authority.bundle))
        self.machine.chroot('update-ca-certificates')

    def do(self, block):
        """What its language says is to be done with a block."""
        self.say('{}:{}{}'.format(block.page, block.line, ', ' + block.path if block.path else ''))
        how = {'sh': self.commands, 'commands': self.commands, 'console': self.console, 'ini': self.ini, 'cron': self.cron,
               'yaml': self.yaml, 'nginx': self.nginx, 'js': self.rules, '': self.shown}
        how[block.language](block)
        self.before = block

    def commands(self, block):
        text, url = block.text, FOREVER.get((block.page, first_command(block)))
        if url is not None:
            text = "setsid sh -c '{}' > /dev/null 2>&1 &\nserver=$!\nsleep 1\n{}\nkill -- -$server\n".format(text, get(url))
        self.printed = self.shell.run(text)
        self.say('$ ' + block.first_line(), self.printed)

    def console(self, block):
        """Each line after a prompt is a command; what follows up to the next is what it prints."""
        before = BEFORE.get((block.page, first_command(block)))
        if before:
            self.shell.run(before + '\ncd ' + HERE)
        for command, output in re.findall(r'^[$#] (.*)\n((?:(?![$#] ).*\n)*)', block.text, re.M):
            printed = self.shell.run(command + ' || true')
            self.say('$ ' + command, printed)
            check.assertEqual(alike(output), alike(printed))

    def shown(self, block):
        if block.is_output:
            check.assertEqual(alike(block.text), alike(self.printed))
            return
        option = r'(?<![\w-])--?[a-z][a-z-]*'
        usage = self.shell.run('python3 tako.py {} --help'.format(block.text.split()[1])).partition('\n\n')[0]
        check.assertEqual(set(re.findall(option, usage)) - {'-h'}, set(re.findall(option, block.text)))

    def ini(self, block):
        if block.text.startswith('['):
            self.unit(block)
            return
        lines = block.text
        if 'Destination=' in lines:
            self.config = lines
        else:                               # a few lines for a config that is there
            keys = re.findall('^([A-Z][A-Za-z]*)=', lines, re.M)
            given = self.config or pages.snippet(self.project, 'README.md', begins='Origin=')
            lines += ''.join(line for line in given.splitlines(True) if line.partition('=')[0] not in keys)
        destination = re.search('^Destination=(.*)', lines, re.M).group(1)
        path = '/etc/tako/{}.tako'.format(os.path.basename(destination))
        self.machine.write(path, lines)
        accept = 'test -d {0} || {{ mkdir -p {0}; trap "rmdir {0}" EXIT; }}; python3 {1}/tako.py status {2}'
        self.machine.run(accept.format(destination, HERE, path), is_told=False)
        if self.page == 'docs/downloading-images.md' and lines == self.config:
            self.machine.write(HERE + '/app.tako', lines)       # as "with the config as app.tako" asks for

    def unit(self, block):
        self.machine.write(block.path, block.text)
        # a template is looked at as one of its instances; /usr/bin/app is in the image, where systemd-analyze does not look
        verify = 'ln -s true /usr/bin/app; systemd-analyze verify {}; rm /usr/bin/app'.format(block.path.replace('@.', '@app.'))
        check.assertEqual('', self.machine.run(verify, is_told=False).out)
        self.machine.run('systemctl daemon-reload', is_told=False)

    def cron(self, block):
        """The story has seen cron run README's line."""
        check.assertEqual(pages.snippet(self.project, 'README.md', '/etc/cron.d/tako'), block.text)
        self.machine.write(block.path, block.text)
        self.machine.run('systemctl restart cron; sleep 1; journalctl --sync', is_told=False)
        told = self.machine.run('journalctl -q -o cat -t cron', is_told=False).out
        check.assertIn('Skipping @reboot jobs', told)
        check.assertNotRegex(told, '(?i)error|bad ')

    def yaml(self, block):
        text = block.text
        if not text.startswith('#cloud-config'):        # in place of the last line of what was before
            check.assertEqual('yaml', self.before.language)
            text = '\n'.join(self.before.text.rstrip('\n').split('\n')[:-1]) + '\n' + text
        self.machine.write('/root/user-data', text)
        check.assertIn('Valid', self.machine.run('cloud-init schema --config-file /root/user-data').out)

    def rules(self, block):
        """Rules of polkit, which is not in this machine: that they name what Tako asks for is all there is to see."""
        check.assertTrue(block.path.startswith('/etc/polkit-1/rules.d/'), block.path)
        for word in ('org.freedesktop.systemd1.manage-units', '"restart"', '"reset-failed"'):
            check.assertIn(word, block.text)

    def nginx(self, block):
        """A whole server section, or lines that go into the one before; every location answers as it should."""
        text = block.text
        if not text.startswith('server {'):
            text = pages.vary(self.machine.read(NGINX), 'server {\n', 'server {\n' + text)
        self.machine.write(NGINX, text)
        for name in re.findall('/etc/nginx/(server.[a-z]+)', block.text):
            shutil.copy(self.machine.path(HERE + '/' + name), self.machine.path('/etc/nginx/' + name))
        self.machine.run('nginx -t && systemctl reload nginx && sleep 0.5')
        for path in re.findall('location = (\\S+)', text):
            gone = re.search(re.escape(path) + r' \{\s+return ([0-9]+);', text)
            self.machine.run(get('http://images.example.com' + path, gone.group(1) if gone else '200'))
        if 'listen 443 ssl' in text:
            self.machine.run('export SSL_CERT_FILE={}/authority.pem; '.format(HERE) + get('https://127.0.0.1/app/manifest'))


def get(url, status='200'):
    """A shell command that fails unless the answer has this status."""
    return 'python3 /root/get.py {} {}'.format(url, status)


def alike(text):
    """A sample of output, and output, with what differs from run to run made the same."""
    text = re.sub(r'\b[0-9a-f]{64}\b', '<digest>', text)
    text = re.sub(r'[A-Za-z0-9+/]{40,}={0,2}', '<key>', text)
    text = re.sub(r'[0-9]+([.:-][0-9]+)*', '#', text)
    return re.sub('# [kMG]?B', '# B', text)


class Shell:
    """One bash in the machine, to which snippets are given as if they were pasted; the first failure ends it."""

    def __init__(self, machine):
        self.machine = machine
        self._process = machine.start(
            "cd {}; trap 'echo; echo @@failed' EXIT; set -o pipefail\n"
            'while read -r file; do . "$file" < /dev/null; echo; echo @@done; done'.format(HERE), stdin=subprocess.PIPE)
        self._number = 0

    def run(self, text):
        """What a snippet prints; AssertionError if a command in it fails."""
        self._number += 1
        path = '/root/snippet-{}'.format(self._number)
        self.machine.write(path, 'set -e\n' + text + '\n')
        check.assertIsNone(self._process.poll(), 'the shell of this page has ended already')
        self._process.stdin.write((path + '\n').encode())
        self._process.stdin.flush()
        printed, deadline = b'', time.monotonic() + SHELL_SECONDS
        while not re.search(rb'\n@@(done|failed)\n', printed):
            is_ready, _, _ = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))
            if not is_ready:
                raise AssertionError('no end within {} s:\n{}\n{}'.format(SHELL_SECONDS, text, printed.decode()))
            block = os.read(self._process.stdout.fileno(), 65536)
            check.assertTrue(block, 'the shell of this page was killed')
            printed += block
        printed, end = re.fullmatch(r'(.*)\n@@(\w+).*', printed.decode('utf-8', 'replace'), re.S).groups()
        if end != 'done':
            raise AssertionError('failed:\n{}\n{}\n{}'.format(text, printed, self.machine.journal()))
        return printed

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

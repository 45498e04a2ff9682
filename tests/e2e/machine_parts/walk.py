"""Follows each page on its own machine, and does with every snippet what a reader would do with it.

In the order of the page:

- sh blocks and indented commands go into one shell, in a directory that contains tako.py.
- A config goes to /etc/tako, and tako.py accepts it.
- A unit is installed, and `systemd-analyze verify` finds no fault in it.
- User-data passes `cloud-init schema`.
- nginx serves from an nginx section.
- A file of Apache, Caddy or another program goes where the page says.
- A CI job runs as its service would run it.
- The commands of a console print the output that the page shows.
- A synopsis names the options that --help names.

Other blocks without a language, such as formats, are only counted.
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
import origin
import scene
from machine_parts import howtos, images, pages
from machine_parts.container import Container
from machine_parts.publisher import SECRET_KEY, Publisher

HERE = '/root/page'
SHELL_SECONDS = 180
NGINX = '/etc/nginx/conf.d/page.conf'
SERVICE = '/etc/systemd/system/tako@.service'       # in docs/downloading-images.md
PUBLIC_KEY = origin.PUBLIC_KEY

# (page, first line) of each snippet that cannot run here: why
SKIPPED = {
    ('docs/performance-tables.md', 'make bench'): 'measures for a quarter of an hour',
}
# (page, first line) of each command that does not end by itself: a URL that shows that it works
SERVERS = {
    ('docs/distributing-images.md',
     'cd public && python3 -m http.server --bind 127.0.0.1 8000'): 'http://127.0.0.1:8000/manifest',
}

AN_IMAGE = 'head -c 100000 /dev/urandom > app.img\n'
PUBLISHED = AN_IMAGE + """
(umask 077; echo '{}' > app.key)
mkdir -p public
python3 tako.py store -f app.key -o public app.img 1.0
""".format(SECRET_KEY)
ELSEWHERE = 'mkdir -p /srv/elsewhere; cd /srv/elsewhere; cp {}/tako.py .\n'.format(HERE)
HARDENED = 'docs/hardened-unit.md'
CONFIG = """
printf '%s\\n' "Origin=file://$PWD/public" PublicKey={} \\
    Destination=/var/lib/images/app 'Version=1.*' > /etc/tako/app.tako
mkdir -p /var/lib/images/app
""".format(PUBLIC_KEY)
FOUR_RELEASES = ELSEWHERE + PUBLISHED + CONFIG + """
printf '%s\\n' '[Service]' Type=oneshot RemainAfterExit=yes \\
    'ExecStart=/usr/bin/grep -q good /var/lib/images/app/latest' \\
    > /etc/systemd/system/app.service
systemctl daemon-reload
echo Restart=app.service >> /etc/tako/app.tako
for version in 1.4.0=good 1.4.1=good 1.4.2=bad 2.0.0=good; do
    { cat app.img; echo $version; } > new.img
    python3 tako.py store -f app.key -o public new.img ${version%=*}
    python3 tako.py fetch /etc/tako/app.tako || test $version = 1.4.2=bad
done
"""
# three fetches failed since, because nothing listens at the origin
THREE_FAILURES = FOUR_RELEASES + """
echo 127.0.0.1 images.example.com >> /etc/hosts
sed -i 's|^Origin=.*|Origin=https://images.example.com/app|' /etc/tako/app.tako
for number in 1 2 3; do python3 tako.py fetch --timeout 1 /etc/tako/app.tako || true; done
touch -d '97 minutes ago' /var/lib/images/app/.state
"""
MORE_CONFIGS = ELSEWHERE + """
mkdir -p /var/lib/images/db
printf '%s\\n' "Origin=file://$PWD/public" PublicKey={} Destination=/var/lib/images/db \\
    'Version=2.*' > /etc/tako/db.tako
sed 's|/db|/old|' /etc/tako/db.tako > /etc/tako/old.tako
python3 tako.py fetch /etc/tako/db.tako
touch -d '7 minutes ago' /var/lib/images/db/.state
""".format(PUBLIC_KEY)
INSTALLED = ELSEWHERE + PUBLISHED + CONFIG + 'python3 tako.py fetch /etc/tako/app.tako\n'
# The commands that run before a page, or before one of its consoles: what the page presupposes.
BEFORE = {
    'README.md': AN_IMAGE,
    'docs/distributing-images.md': 'mkdir -p /srv/images/app\n',
    'docs/a-fetch-fails.md': INSTALLED,
    'docs/a-new-version-does-not-run.md': FOUR_RELEASES,
    # now the image is not at fault
    ('docs/a-new-version-does-not-run.md',
     'python3 /usr/local/bin/tako.py fetch --retry-rejected /etc/tako/app.tako'): '''
        sed -i 's|^ExecStart=.*|ExecStart=/usr/bin/true|' /etc/systemd/system/app.service
        systemctl daemon-reload''',
    'docs/first-boot.md': '''
        printf '%s\\n' Origin=https://images.example.com/app PublicKey={} \\
            Destination=/var/lib/images/app 'Version=1.*' Keep=3 > app.tako
        '''.format(PUBLIC_KEY),
    'docs/private-origins.md': CONFIG + 'touch /etc/tako/app.token\n',
    'docs/differential-updates.md': PUBLISHED + 'rm public/store/*.chunks\n',
    HARDENED: """
        printf '%s\\n' Origin=https://images.example.com/app PublicKey={} \\
            Destination=/var/lib/images/app 'Version=1.*' Restart=app.service \\
            > /etc/tako/app.tako""".format(PUBLIC_KEY),
    'docs/manifest-format.md': PUBLISHED + 'ln -s public/store store\n',
    'docs/monitoring.md': INSTALLED,
    'docs/security.md': INSTALLED,
    'docs/versions.md': PUBLISHED,
    ('docs/configuration.md', '$ python3 tako.py fetch app.tako'): """
        printf '%s\\n' Origin=file:///srv PublicKey={} Destination=/srv \\
            'Verson=1.*' > app.tako""".format(PUBLIC_KEY),
    ('docs/tako-status.md', '$ python3 tako.py status /etc/tako/app.tako'): THREE_FAILURES,
    ('docs/tako-status.md', '$ python3 tako.py status /etc/tako'): MORE_CONFIGS,
}
BEFORE.update(howtos.BEFORE)
# cloud-init accepts the user-data, and the commands of the small one install this tako.py alone.
FIRST_BOOT = '''
cloud-init schema --config-file user-data
cloud-init schema --config-file small-user-data
test $(wc -c < user-data) -lt 180000
test $(wc -c < small-user-data) -lt 16384
mv /usr/local/bin/tako.py copy
mv app.tako /etc/tako
python3 -c 'import yaml
print(*yaml.safe_load(open("small-user-data"))["runcmd"], sep="\\n")' > runcmd
grep -q ' https://images.example.com/tako.py$' runcmd
sed -i "s|https://images.example.com/tako.py|file://$PWD/served.py|" runcmd
{ cat tako.py; echo '# modified'; } > served.py
! sh -e runcmd
test ! -e /usr/local/bin/tako.py
mv copy served.py
sh -e runcmd
python3 /usr/local/bin/tako.py status /etc/tako/app.tako | grep 'installed: *1.4.2'
'''
# The commands that run after a page, and must succeed.
AFTER = {
    'README.md': '''
        python3 tako.py verify -p "$(cat app.pub)" /srv/images/app
        sed 's/.* root //; s/--splay 10m//' /etc/cron.d/tako | sh
        systemctl is-active app.service
        tako status --max-age 1h /etc/tako/app.tako | grep 'restart due: *no$' ''',
    'docs/downloading-images.md': 'systemctl is-active app.service',
    'docs/first-boot.md': FIRST_BOOT,
    HARDENED: 'systemctl is-active app.service; test -e /var/lib/images/app/latest',
    'docs/distributing-images.md': 'python3 tako.py verify -p "$(cat new.pub)" public',
    'docs/differential-updates.md': 'test "$(ls public/store/*.chunks)"',
    'docs/tutorial.md': 'grep green images/latest; grep green other/latest',
}
AFTER.update(howtos.AFTER)
# the pages that another suite follows
ELSEWHERE_FOLLOWED = ('docs/publish-to-s3.md',)
GET = """
import sys, urllib.error, urllib.request
try:
    status = urllib.request.urlopen(sys.argv[1]).status
except urllib.error.HTTPError as error:
    status = error.code
print(status)
sys.exit(str(status) != sys.argv[2])
"""
# The pages for which Publisher serves https://images.example.com; distributing-images.md sets up
# its own server.
WITH_PUBLISHER = ('README.md', 'docs/downloading-images.md', 'docs/first-boot.md', HARDENED,
                  howtos.UPDATE)
# The units of docs/downloading-images.md that are installed before the first snippet of a page.
UNITS_BEFORE = {
    'README.md': ('/etc/systemd/system/app.service',),
    HARDENED: ('/etc/systemd/system/app.service',),
    'docs/downloading-images.md': ('/etc/systemd/system/app.service',
                                   '/etc/systemd/system/site.service'),
}

check = unittest.TestCase()
check.maxDiff = None


def walk(suite, project, room, tree, say, wanted=''):
    """Follow all pages with this in their path; in a sample, as many as there is time for."""
    blocks = [block for page in pages.pages(project) for block in pages.blocks_of(project, page)]
    with suite.case('the snippets that this program names are on the pages'):
        named = set(SKIPPED) | set(SERVERS) | {key for key in BEFORE if isinstance(key, tuple)}
        on_pages = {(block.page, first_command(block)) for block in blocks}
        stale = {key for key in named - on_pages
                 if os.path.exists(os.path.join(project, key[0]))}
        check.assertEqual(set(), stale)
    for page in suite.sample(sorted({block.page for block in blocks if wanted in block.page}
                                    - set(ELSEWHERE_FOLLOWED))):
        say('\n{}'.format(page))
        directory = os.path.join(room, page.replace('/', '-'))
        with suite.case(page), Walk(project, page, directory, tree, say) as reader:
            for block in pages.blocks_of(project, page):
                reason = SKIPPED.get((page, first_command(block)))
                if reason:
                    suite.skip(str(block), reason)
                elif not block.language and not block.is_output and not block.is_synopsis:
                    suite.count('blocks that are only shown')
                else:
                    with suite.case(str(block)):
                        reader.do(block)
            reader.shell.run(AFTER.get(page, ''))


def first_command(block):
    """Return the first line of a block, without a comment at its end."""
    return re.sub(' +# .*', '', block.first_line())


class Walk:
    """One page, its machine, and the shell that runs its commands."""

    def __init__(self, project, page, directory, tree, say):
        self.project = project
        self.page = page
        self.directory = directory
        self.tree = tree
        self.say = say
        self.before = None          # the previous snippet
        self.printed = ''           # the output of the last commands
        self.config = ''            # the last complete config
        self.here = HERE
        self.publisher = self.mail = None
        self.jobs = 0               # how many jobs of CI have run

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.machine = Container(self.tree, self.directory, self.say)
            self._set_up(stack)
            self.machine.boot()
            stack.callback(self.machine.end)
            self.shell = Shell(self.machine)
            stack.callback(self.shell.close)
            self.shell.run(BEFORE.get(self.page, '') + '\ncd ' + HERE)
            if self.page == 'docs/distributing-images.md':      # it adds lines to nginx
                os.mkdir(self.machine.path('/etc/nginx/gone'))
                self.machine.write(NGINX, pages.snippet(self.project, howtos.SERVE,
                                                        '/etc/nginx/conf.d/images.conf'))
            for path in UNITS_BEFORE.get(self.page, ()):
                self.machine.write(path, pages.snippet(
                    self.project, 'docs/downloading-images.md', path))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _set_up(self, stack):
        """Give the machine, before it boots, tako.py, a key of root for ssh, and an origin."""
        machine = self.machine
        os.makedirs(machine.path(HERE))
        for name in ('tako.py', 'Makefile', 'tests'):
            subprocess.run(['cp', '-r', os.path.join(self.project, name), machine.path(HERE)],
                           check=True)
        os.makedirs(machine.path('/etc/tako'))
        if self.page != 'README.md':        # which installs it
            shutil.copy(scene.TAKO, machine.path('/usr/local/bin/tako.py'))
        machine.chroot('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', '/root/.ssh/id_ed25519')
        shutil.copy(machine.path('/root/.ssh/id_ed25519.pub'),
                    machine.path('/root/.ssh/authorized_keys'))
        machine.write('/root/get.py', GET)
        machine.write('/etc/ssh/ssh_config.d/page.conf', 'StrictHostKeyChecking accept-new\n')
        if self.page in WITH_PUBLISHER:
            self._serve(stack)
        if self.page == howtos.MAIL:
            context = self._trusted(machine).context('DNS:mail.example.com')
            self.mail = stack.enter_context(howtos.MailServer(context))

    def _serve(self, stack):
        authority = self._trusted(self.machine)
        publisher = Publisher(os.path.join(self.directory, 'served'), authority, self.say)
        self.publisher = publisher
        stack.enter_context(publisher)
        busybox = self.machine.path('/usr/bin/busybox')
        publisher.publish('app', '1.4.2', images.application(self.directory, busybox, '1.4.2'))
        copy = shutil.copy(scene.TAKO, os.path.join(self.directory, 'tako.py'))
        publisher.publish('tako', '0.1.0', copy)

    def _trusted(self, machine):
        """Return a new private CA, which the machine trusts."""
        authority = certificates.Authority(self.directory)
        machine.write('/usr/local/share/ca-certificates/example.crt', scene.read(authority.bundle))
        machine.chroot('update-ca-certificates')
        return authority

    def read(self, name):
        """Return the one line of a file in the directory of the shell."""
        return self.machine.read(self.here + '/' + name).strip()

    def do(self, block):
        """Do with a block what its language asks for."""
        self.say('{}:{}{}'.format(block.page, block.line, ', ' + block.path if block.path else ''))
        do = {'sh': self.commands, 'commands': self.commands, 'console': self.console,
              'ini': self.ini, 'cron': self.cron, 'yaml': self.yaml, 'nginx': self.nginx,
              'apache': self.file, 'caddyfile': self.file, 'conf': self.file,
              'js': self.rules, '': self.shown}
        do[block.language](block)
        howtos.after_block(self, block, first_command(block))
        self.before = block

    def commands(self, block):
        key = block.page, first_command(block)
        text, url = block.text, SERVERS.get(key)
        if key in BEFORE:
            self.shell.run(BEFORE[key])
        if url is not None:
            text = ("setsid sh -c '{}' > /dev/null 2>&1 &\nserver=$!\nsleep 1\n{}\n"
                    'kill -- -$server\n').format(text, get(url))
        self.printed = self.shell.run(text)
        self.say('$ ' + block.first_line(), self.printed)

    def console(self, block):
        """Run the command after each prompt, and compare its output with the lines that follow."""
        before = BEFORE.get((block.page, first_command(block)))
        if before:
            self.shell.run(before + '\ncd ' + HERE)
        for command, output in re.findall(r'^[$#] (.*)\n((?:(?![$#] ).*\n)*)', block.text, re.M):
            printed = self.shell.run(command + ' || true')
            self.say('$ ' + command, printed)
            check.assertEqual(alike(output), alike(printed))

    def shown(self, block):
        """Compare the output of the last commands, or the options of a synopsis with --help."""
        if block.is_output:
            check.assertEqual(alike(block.text), alike(self.printed))
            return
        option = r'(?<![\w-])--?[a-z][a-z-]*'
        text = self.shell.run('python3 tako.py {} --help'.format(block.text.split()[1]))
        options = set(re.findall(option, text.partition('\n\n')[0]))
        check.assertEqual(options - {'-h'}, set(re.findall(option, block.text)))

    def ini(self, block):
        """Write a config, or some lines of one together with the rest, and see it accepted."""
        if block.text.startswith('['):
            self.unit(block)
            return
        lines = block.text
        if 'Destination=' in lines:
            self.config = lines
        else:                               # the lines replace those of the last config
            keys = re.findall('^([A-Z][A-Za-z]*)=', lines, re.M)
            given = self.config or pages.snippet(self.project, 'README.md', begins='Origin=')
            lines += ''.join(line for line in given.splitlines(True)
                             if line.partition('=')[0] not in keys)
        destination = re.search('^Destination=(.*)', lines, re.M).group(1)
        path = '/etc/tako/{}.tako'.format(os.path.basename(destination))
        if (block.path or '').startswith('/home/'):
            path = block.path
        self.machine.write(path, lines)
        accept = ('test -d {0} || {{ mkdir -p {0}; trap "rmdir {0}" EXIT; }}; '
                  'python3 {1}/tako.py status {2}')
        self.machine.run(accept.format(destination, HERE, path), is_printed=False)

    def unit(self, block):
        """Install a unit, and verify it; a template by one of its instances."""
        self.machine.write(block.path, block.text)
        # /usr/bin/app is in the image, where systemd-analyze does not look.
        verify = 'ln -s true /usr/bin/app; {} verify {}; rm /usr/bin/app'
        path = block.path.replace('@.', '@app.')
        if path.endswith('.conf'):          # a drop-in of a unit that another page has
            path = os.path.dirname(path)[:-len('.d')]
            whole = os.path.dirname(block.path)[:-len('.d')]
            if not os.path.exists(self.machine.path(whole)):
                self.machine.write(whole, pages.snippet(
                    self.project, 'docs/downloading-images.md', SERVICE))
        analyze = 'systemd-analyze'
        if '/systemd/user/' in path:
            analyze = 'XDG_RUNTIME_DIR=/tmp systemd-analyze --user'
        check.assertEqual('', self.machine.run(verify.format(analyze, path), is_printed=False).out)
        self.machine.run('systemctl daemon-reload', is_printed=False)

    def cron(self, block):
        """See that cron reads the line without complaint; the story checks that cron runs it."""
        if block.path == '/etc/cron.d/tako':
            check.assertIn(pages.snippet(self.project, 'README.md', block.path), block.text)
        self.machine.write(block.path or '/etc/cron.d/page', block.text)
        self.machine.run('systemctl restart cron; sleep 1; journalctl --sync', is_printed=False)
        logged = self.machine.run('journalctl -q -o cat -t cron', is_printed=False).out
        check.assertIn('Skipping @reboot jobs', logged)
        check.assertNotRegex(logged, '(?i)error|bad ')

    def yaml(self, block):
        """Run a job, or validate user-data.

        Some lines of user-data replace the last line of the previous snippet.

        Of another program's YAML, which follows no user-data, only see that it is YAML.
        """
        text = block.text
        if re.search('^(jobs|  script):', text, re.M):
            self.jobs += 1
            howtos.run_jobs(self, block, self.jobs)
            return
        if not text.startswith('#cloud-config'):
            if self.before.language != 'yaml':
                self.machine.write('/root/page.yaml', text)
                self.machine.run('cd /root && python3 -c '
                                 "'import yaml; yaml.safe_load(open(\"page.yaml\"))'")
                return
            text = '\n'.join(self.before.text.rstrip('\n').split('\n')[:-1]) + '\n' + text
        self.machine.write('/root/user-data', text)
        printed = self.machine.run('cloud-init schema --config-file /root/user-data').out
        check.assertIn('Valid', printed)

    def rules(self, block):
        """Write rules for polkit, which name what Tako asks for."""
        check.assertTrue(block.path.startswith('/etc/polkit-1/rules.d/'), block.path)
        self.machine.write(block.path, block.text)
        for word in ('org.freedesktop.systemd1.manage-units', '"restart"', '"reset-failed"'):
            check.assertIn(word, block.text)

    def file(self, block):
        """Write a file of another program."""
        self.machine.write(block.path, howtos.file_of(block))

    def nginx(self, block):
        """Write a server section, or serve from the last one with these lines added.

        The manifest, and every location of the lines, answer with their status.
        """
        if block.path:
            self.file(block)
            return
        text = pages.vary(self.machine.read(NGINX), 'server {\n', 'server {\n' + block.text)
        self.machine.write(NGINX, text)
        for name in re.findall('/etc/nginx/(server.[a-z]+)', block.text):
            shutil.copy(self.machine.path(HERE + '/' + name),
                        self.machine.path('/etc/nginx/' + name))
        self.machine.run('nginx -t && systemctl reload nginx && sleep 0.5')
        self.machine.run(get('http://images.example.com/app/manifest'))
        for path, status in re.findall(r'location ~ (\S+) \{\s+return ([0-9]+);', block.text):
            self.machine.run(get('http://images.example.com/app' + path, status))
        if 'listen 443 ssl' in text:
            self.machine.run('export SSL_CERT_FILE={}/authority.pem; '.format(HERE)
                             + get('https://127.0.0.1/app/manifest'))


def get(url, status='200'):
    """Return a shell command that fails unless the answer has this status."""
    return 'python3 /root/get.py {} {}'.format(url, status)


def alike(text):
    """Return output with digests, keys and numbers, which differ between runs, replaced."""
    text = re.sub(r'\b[0-9a-f]{64}\b', '<digest>', text)
    text = re.sub(r'[A-Za-z0-9+/]{40,}={0,2}', '<key>', text)
    text = re.sub(r'[0-9]+([.:-][0-9]+)*', '#', text)
    return re.sub('# [kMG]?B', '# B', text)


class Shell:
    """A bash in the machine that runs one snippet after another, and ends at the first failure."""

    def __init__(self, machine):
        self.machine = machine
        self._process = machine.start(
            "cd {}; trap 'echo; echo @@failed' EXIT; set -o pipefail\n"
            'while read -r file; do . "$file" < /dev/null; echo; echo @@done; done'.format(HERE),
            stdin=subprocess.PIPE)
        self._number = 0

    def run(self, text):
        """Run a snippet. Return its output. Raises AssertionError if a command in it fails."""
        self._number += 1
        path = '/root/snippet-{}'.format(self._number)
        self.machine.write(path, 'set -e\n' + text + '\n')
        check.assertIsNone(self._process.poll(), 'the shell of this page has already ended')
        self._process.stdin.write((path + '\n').encode())
        self._process.stdin.flush()
        printed, deadline = b'', time.monotonic() + SHELL_SECONDS
        while not re.search(rb'\n@@(done|failed)\n', printed):
            is_ready, _, _ = select.select([self._process.stdout], [], [],
                                           max(deadline - time.monotonic(), 0))
            if not is_ready:
                raise AssertionError('no end within {} s:\n{}\n{}'.format(
                    SHELL_SECONDS, text, printed.decode()))
            block = os.read(self._process.stdout.fileno(), 65536)
            check.assertTrue(block, 'the shell of this page was killed')
            printed += block
        printed, end = re.fullmatch(r'(.*)\n@@(\w+).*', printed.decode('utf-8', 'replace'),
                                    re.S).groups()
        if end != 'done':
            raise AssertionError('failed:\n{}\n{}\n{}'.format(
                text, printed, self.machine.journal()))
        return printed

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

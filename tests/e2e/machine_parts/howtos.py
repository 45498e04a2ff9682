"""The how-tos of docs/: what each presupposes, and what its snippets must achieve."""
import base64
import os
import re
import socket
import ssl
import threading
import time
import unittest

import scene
from machine_parts import pages
from machine_parts.publisher import SECRET_KEY

SERVE, USB, CI = 'docs/serve-the-files.md', 'docs/usb-stick.md', 'docs/publish-from-ci.md'
IMAGE, MAIL, UPDATE = 'docs/build-an-image.md', 'docs/mail-from-cron.md', 'docs/update-tako.md'

KEYS = """
(umask 077; echo '{}' > app.key)
python3 tako.py public-key -f app.key > app.pub
head -c 100000 /dev/urandom > app.img
""".format(SECRET_KEY)
SERVED = KEYS + """
mkdir -p /srv/images/app
python3 tako.py store -f app.key -o /srv/images/app app.img 1.0.0
head -c 100000 /dev/urandom > app.img
python3 tako.py store -f app.key -o /srv/images/app app.img 1.0.1
"""
# The stick is a loop device with the name that the page uses.
STICK = KEYS + """
mkdir public
python3 tako.py store -f app.key -o public app.img 1.0
truncate -s 40M /root/stick
ln -s $(losetup --find --show /root/stick) /dev/sdb1
mkdir -p /media/usb
mkfs.vfat /dev/sdb1
# some kernels lack FAT
mount /dev/sdb1 /media/usb || { mkfs.ext4 -qF /dev/sdb1; mount /dev/sdb1 /media/usb; }
"""
STICK_AGAIN = """
mount /dev/sdb1 /media/usb
head -c 100000 /dev/urandom > app.img
python3 tako.py store -f app.key -o public app.img 1.1
cp -ruf public/store /media/usb/app/
cp -f public/manifest /media/usb/app/
echo hush > /etc/tako/app.token
sed -i 's|^Origin=.*|Origin=https://images.example.com/app\\nToken=@/etc/tako/app.token|' \\
    /etc/tako/app.tako
"""
# The repository of a publisher, and the server that its jobs publish to.
JOBS = KEYS + """
useradd -m publish
useradd -m -s /bin/bash ci
mkdir -p /srv/images/app
python3 tako.py store -f app.key -o /srv/images/app app.img 1.0.0
cp app.pub /srv
chown -R publish: /srv/images/app
mkdir /srv/repository /srv/secrets /srv/bin
cp tako.py /srv/repository
printf 'app.img:\\n\\thead -c 100000 /dev/urandom > app.img\\n' > /srv/repository/Makefile
ssh-keygen -q -t ed25519 -N '' -f /srv/secrets/SSH_KEY
install -d -m 700 -o publish -g publish ~publish/.ssh
install -m 600 -o publish -g publish /srv/secrets/SSH_KEY.pub ~publish/.ssh/authorized_keys
cat /root/.ssh/id_ed25519.pub >> ~publish/.ssh/authorized_keys
rm /srv/secrets/SSH_KEY.pub
cp app.key /srv/secrets/TAKO_SECRET_KEY
python3 tako.py gen-key -o stamp
ssh-keyscan www.example.com > /srv/secrets/SSH_KNOWN_HOSTS
chmod -R a+rX /srv
printf '#!/bin/sh\\n[ "$1" = update ] && exit\\nshift 3\\nexec dpkg --status "$@"\\n' \\
    > /srv/bin/apt-get                  # there is no network: the packages must be installed
chmod +x /srv/bin/apt-get
"""
A_JOB = """
rm -rf ~ci/.ssh ~ci/job
cp -r /srv/repository ~ci/job
chown -R ci: ~ci/job
cd ~ci/job
runuser -u ci -- env HOME=/home/ci PATH=/srv/bin:$PATH python3 /root/job.py {} {} 2>&1
"""
OFFER = 'python3 /srv/repository/tako.py {} -p /srv/app.pub /srv/images/app'
A_PROGRAM = KEYS + 'cp /bin/date app\nmkdir public\n'
INSTALLED = """
test -L /usr/local/bin/tako.py
python3 /usr/local/bin/tako.py fetch /etc/tako/tako.tako
rm -rf /var/lib/images/tako /usr/local/bin/tako.py
make -s install
tako --version
"""

BEFORE = {
    SERVE: SERVED,
    USB: STICK,
    CI: JOBS,
    IMAGE: A_PROGRAM,
    MAIL: KEYS,
    (SERVE, 'mkdir -p /etc/apache2/gone'): 'systemctl stop nginx; systemctl start apache2',
    (SERVE, 'mkdir -p /etc/caddy/gone'): 'systemctl stop apache2; systemctl start caddy',
    (SERVE, 'url=http://images.example.com/app'):
        'systemctl stop caddy; systemctl start nginx\n'
        "sed -i 's/^127.0.0.1/::1 images.example.com\\n&/' /etc/hosts",
    (USB, "sed -e '/^Token=/d' -e '/^Client/d' -e '/^Authority=/d' "
          "-e 's|^Origin=.*|Origin=file:///media/usb/app|' \\"): STICK_AGAIN,
    (UPDATE, 'mkdir -p /var/lib/images/tako'): INSTALLED,
}
AFTER = {
    CI: '''
        test $(python3 tako.py list -p app.pub /srv/images/app | grep -c "^1.0.[012] ") = 3
        python3 tako.py verify -p app.pub --stamp-key stamp.pub /srv/images/app | grep stamp''',
    USB: """
        cmp app.img /var/lib/images/app/latest
        # the server need not send what came from the stick
        printf '%s\\n' "Origin=file://$PWD/public" "PublicKey=$(cat app.pub)" \\
            Destination=/var/lib/images/app 'Version=1.*' > /run/server.tako
        mv public/store store
        python3 tako.py fetch /run/server.tako
        mv store public/store
        # what the table of exit codes says
        sed -i 's|^Origin=.*|Origin=file:///media/usb/app|; /^Token=/d' /etc/tako/app.tako
        python3 tako.py fetch /etc/tako/app.tako
        head -c 100000 /dev/urandom > app.img
        python3 tako.py store -f app.key -o public app.img 1.2
        cp -f public/manifest /media/usb/app/
        head -c 100000 /dev/zero > /media/usb/app/store/$(sha256sum app.img | cut -d ' ' -f 1)
        code=0; python3 tako.py fetch /etc/tako/app.tako || code=$?
        test $code = 3
        rm -r public/store/* public/manifest
        python3 tako.py store -q -f app.key -o public app.img 1.2
        cp -f public/manifest /media/usb/app/
        code=0; python3 tako.py fetch /etc/tako/app.tako 2> err || code=$?
        test $code = 3
        grep lacks err
        umount /media/usb
        code=0; python3 tako.py fetch /etc/tako/app.tako || code=$?
        test $code = 75""",
    IMAGE: 'cp -r tree again; mksquashfs again again.img -noappend -all-root -all-time 0 '
           '-mkfs-time 0 -quiet -no-progress; cmp again.img app.img',
}

# Runs a job of GitHub Actions or GitLab CI as those would: job.py FILE TAG
JOB = r"""
import os, re, subprocess, sys, yaml
path, tag = sys.argv[1:]
folder = '/srv/secrets/'
secrets = {name: open(folder + name).read().rstrip('\n') for name in os.listdir(folder)}
told = yaml.safe_load(open(path))
if 'jobs' in told:
    job, = told['jobs'].values()
    assert told['concurrency'] and job['steps'][0]['uses'].startswith('actions/checkout@')
    os.environ['GITHUB_REF_NAME'] = tag
    steps = [(step.get('env', {}), 'bash -e', step['run']) for step in job['steps'][1:]]
else:
    job, = told.values()
    assert job['resource_group']
    os.environ['CI_COMMIT_TAG'] = tag
    steps = [(secrets, 'bash -eo pipefail', '\n'.join(job['before_script'] + job['script']))]
for environ, shell, script in steps:
    environ = {name: re.sub(r'\$\{\{ secrets\.(\w+) \}\}', lambda match: secrets[match.group(1)],
                            value) for name, value in environ.items()}
    code = subprocess.call(shell.split() + ['-c', script], env=dict(os.environ, **environ))
    if code:
        sys.exit(code)
"""

# Checks a server that the machine runs: served.py SCHEME DIGEST [STATUS]
SERVER = r"""
import http.client, ssl, sys, socket
scheme, digest, *status = sys.argv[1:]
class Here(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.create_connection((self.address, 443 if scheme == 'https' else 80))
        if scheme == 'https':
            context = ssl.create_default_context(cafile='/etc/tako/authority.pem')
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)
def ask(address, path, **headers):
    connection = Here('images.example.com')
    connection.address = address
    headers['Accept-Encoding'] = 'gzip, br, zstd, deflate'
    connection.request('GET', '/app/' + path, None,
                       {name.replace('_', '-'): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.getheader('Cache-Control'), response, response.read()
for address in '127.0.0.1', '::1':
    def expect(expected, path, **headers):
        found = ask(address, path, **headers)
        assert found[:2] == expected, (address, path, headers, found[:2], expected)
        assert found[2].getheader('Content-Encoding') is None, (address, path)
        return found
    name = 'store/' + digest
    if status:
        assert ask(address, name)[0] == int(status[0]), ask(address, name)
        continue
    forever = 'public, max-age=31536000, immutable'
    etag = expect((200, 'no-cache'), 'manifest')[2].getheader('ETag')
    assert ask(address, 'manifest', If_None_Match=etag)[0] == 304
    assert len(expect((206, forever), name, Range='bytes=0-99')[3]) == 100
    expect((200, forever), name)
    expect((404, None), 'store/' + '0' * 64)
"""
SERVERS = {'mkdir -p /etc/nginx/gone': ('nginx', 'http'),
           'mkdir -p /etc/apache2/gone': ('apache2', 'http'),
           'mkdir -p /etc/caddy/gone': ('caddy', 'https')}
CADDY_CA = '/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt'
HOSTS_OF = "printf '%s\\n' '127.0.0.1 localhost' '{} images.example.com' > /etc/hosts"

check = unittest.TestCase()
check.maxDiff = None


def file_of(block):
    """Return what to write for a snippet that is a whole file."""
    if block.language == 'caddyfile':       # instead of a public CA, which cannot be reached
        return pages.vary(block.text, 'images.example.com {\n',
                          'images.example.com {\n    tls internal\n')
    return block.text


def after_block(reader, block, first):
    """Check what the snippets up to this one have achieved."""
    if block.page == SERVE and first in SERVERS:
        check_server(reader, *SERVERS[first])
    elif block.page == SERVE and first.startswith('url='):
        found = [line for line in reader.printed.splitlines() if line]
        check.assertEqual(['200', '206'] * 2, [line.split()[0] for line in found])
    elif block.page == SERVE and 'withdraw' in first:
        ask_server(reader, 'http', digest_in(reader, '1.0.0'), '410')
    elif block.page == USB and first.startswith('mkdir -p /media/usb /var'):
        reader.shell.run('cmp app.img /var/lib/images/app/latest')
    elif block.page == UPDATE and first.startswith('mkdir -p /var'):
        check_installed(reader)
    elif block.page == MAIL and first.startswith('printf'):
        check_mail(reader)
    elif block.page == IMAGE and first.startswith('systemd-run'):
        check.assertRegex(reader.printed, 'date .*coreutils')
        check_directories(reader)


# ---- Serve the files

def check_server(reader, server, scheme):
    """The server answers as Tako needs it, by IPv4 and IPv6, and with 410 after a withdrawal."""
    machine = reader.machine
    machine.write('/root/served.py', SERVER)
    if scheme == 'https':
        machine.until('cp {} /etc/tako/authority.pem'.format(CADDY_CA))
        machine.until('python3 /root/served.py https {} 404'.format('0' * 64))
    ask_server(reader, scheme, digest_in(reader, '1.0.1'))
    lines = ('python3 tako.py withdraw -o /srv/images/app --server {} 1.0.0 '
             '> /etc/{}/gone/app.conf\n'
             'systemctl reload {}')
    reader.shell.run(lines.format(server.replace('apache2', 'apache'), server, server))
    ask_server(reader, scheme, digest_in(reader, '1.0.0'), '410')
    ask_server(reader, scheme, digest_in(reader, '1.0.1'))
    before = machine.read('/etc/hosts')
    more = 'Authority=/etc/tako/authority.pem\n' * (scheme == 'https')
    for address in ('127.0.0.1', '::1'):
        destination = '/var/lib/images/{}-{}'.format(server, address.replace(':', ''))
        machine.write('/root/app.tako', 'Origin={}://images.example.com/app\nPublicKey={}\n'
                      'Destination={}\nVersion=*\n{}'.format(
                          scheme, reader.read('app.pub'), destination, more))
        reader.shell.run('{0}\nmkdir -p {1}\npython3 tako.py fetch /root/app.tako\n'
                         'cmp app.img {1}/latest'.format(HOSTS_OF.format(address), destination))
    machine.write('/etc/hosts', before)


def ask_server(reader, scheme, digest, status=''):
    """Expect right answers, for this image this status, soon: a reload ends after its command."""
    reader.machine.until('python3 /root/served.py {} {} {}'.format(scheme, digest, status), 20)


def digest_in(reader, version):
    manifest = reader.machine.read('/srv/images/app/manifest')
    return re.search('[0-9a-f]{64}', next(line for line in manifest.splitlines()
                                          if version in line.split())).group()


# ---- Publish from CI

def run_jobs(reader, block, number):
    """A job publishes the version of its tag, and nothing if the published manifest is missing."""
    machine = reader.machine
    machine.write('/root/job.py', JOB)
    machine.chroot('chmod', '755', '/root')
    copies_back = [line for line in block.text.splitlines(True) if 'app/manifest public/' in line]
    check.assertEqual(1, len(copies_back))
    job = A_JOB.format('/srv/job.yml', 'v1.0.{}'.format(number))
    run = machine.run
    listed = 'cd /srv/images/app; sha256sum manifest store/*'
    before = run(listed).out
    machine.write('/srv/job.yml', block.text.replace(copies_back[0], ''))
    failed = run(job, None)
    check.assertNotEqual(0, failed.code)
    page = scene.read(os.path.join(reader.project, CI)).decode()
    messages = re.findall('^. `([^`]+)`', page, re.M)
    missing, moved = [each for each in messages if ' ' in each]
    check.assertIn(missing, failed.out)
    check.assertEqual(before, run(listed).out)
    machine.write('/srv/job.yml', block.text)
    run('mv /srv/images/app/manifest /srv')
    check.assertNotEqual(0, run(job, None).code)
    run('mv /srv/manifest /srv/images/app')
    check.assertEqual(before, run(listed).out)
    printed = run(job).out
    check.assertIn('stored 1.0.{}'.format(number), printed)
    check.assertEqual(1, printed.count('warning'), printed)
    check.assertRegex(run(OFFER.format('list')).out, r'(^|\n)1\.0\.{} '.format(number))
    run(OFFER.format('verify'))
    check.assertIn(moved, run(job, None).out)       # the next image has other bytes


# ---- Build an image

ROW = re.compile(r'^\| (`[^|]*`|any) \| (.*) \|$', re.M)


def check_directories(reader):
    """A unit starts with the directories of the table, and fails without any one of them."""
    text = scene.read(os.path.join(reader.project, IMAGE)).decode()
    rows = [(re.findall('`([^`]+)`', options), re.findall('`(/[^`]+)`', paths))
            for options, paths in ROW.findall(text)]
    check.assertGreater(len(rows), 5)
    always = next(paths for options, paths in rows if not options)
    tried = 0
    for options, paths in rows:
        for option in options or ['Nice=0']:
            for missing in [None] + paths:
                there = [path for path in set(always + paths) if path != missing]
                check.assertEqual(missing is None, starts(reader, option, there), (option, missing))
                tried += 1
    reader.say('{} units'.format(tried))


def starts(reader, option, paths):
    """Return whether a unit with this option starts on an image with these paths."""
    made = ' '.join('tree' + path for path in paths)
    files = [path for path in paths if path.endswith('.conf')]
    script = """
        cd /root; rm -rf tree
        mkdir -p tree/bin {made}
        {files}
        cp /usr/bin/busybox tree/bin/sleep
        mksquashfs tree try.img -noappend -quiet -no-progress
        mkdir -p /etc/app /srv/data
        systemctl reset-failed try.service 2> /dev/null
        systemd-run -q --unit=try -p Type=exec -p RootImage=/root/try.img -p '{option}' \\
            /bin/sleep 100 && systemctl is-active try.service
        code=$?
        systemctl stop try.service
        exit $code"""
    files = '\n'.join('rmdir tree{0}; touch tree{0}'.format(path) for path in files)
    return reader.machine.run(script.format(made=made, files=files, option=option), None,
                              is_printed=False).code == 0


# ---- Get mail from cron

class MailServer:
    """An SMTP server with implicit TLS that demands a password, as long as `with` lasts."""

    def __init__(self, context, port=465):
        self.mails = []         # (user and password in base64, recipients, text)
        self._listener = socket.create_server(('127.0.0.1', port))
        self._context = context
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    self._talk(secure.makefile('rwb', 0))
            except (OSError, ssl.SSLError):
                continue

    def _talk(self, stream):
        def say(line):
            stream.write(line.encode() + b'\r\n')
        password, recipients = None, []
        say('220 mail.example.com ESMTP')
        for line in stream:
            word = line.split()[0].upper()
            if word == b'EHLO':
                say('250-mail.example.com')
                say('250 AUTH PLAIN')
            elif word == b'AUTH':
                password = line.split()[2]
                say('235 accepted')
            elif word == b'RCPT':
                recipients.append(re.search('<(.*)>', line.decode()).group(1))
                say('250 accepted')
            elif word == b'DATA':
                say('354 go on')
                text = b''.join(iter(stream.readline, b'.\r\n'))
                self.mails.append((password, recipients, text.decode()))
                say('250 accepted')
            elif word == b'QUIT':
                say('221 bye')
                return
            else:
                say('250 accepted')

    def next(self, seconds=60):
        """Return the next mail, or None if there is none in this time."""
        deadline = time.monotonic() + seconds
        while not self.mails and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.mails.pop(0) if self.mails else None


def check_mail(reader):
    """The test mail came; cron mails a new version and an error, and nothing if nothing changed."""
    machine, server = reader.machine, reader.mail
    expect_mail(server, 'It works.')
    check.assertEqual('600', machine.run('stat -c %a /etc/msmtprc').out.strip())
    reader.shell.run("""
        mkdir -p public /var/lib/images/app
        python3 tako.py store -f app.key -o public app.img 1.0
        printf '%s\\n' "Origin=file://$PWD/public" "PublicKey=$(cat app.pub)" \\
            Destination=/var/lib/images/app 'Version=1.*' > /etc/tako/app.tako""")
    cron_at(machine, '10:06:57')
    expect_mail(server, '/etc/tako/app.tako: 1.0 is installed')
    cron_at(machine, '10:36:57')
    check.assertIsNone(server.next(3))
    reader.shell.run('mv public elsewhere')
    cron_at(machine, '11:06:57')
    expect_mail(server, 'tako: /etc/tako/app.tako: ')
    # what the page says of a machine without sendmail
    machine.run('mv /usr/sbin/sendmail /root')
    cron_at(machine, '11:36:57')
    machine.until('journalctl --sync; journalctl -q -o cat -t CRON'
                  " | grep 'No MTA installed, discarding output'")
    check.assertIsNone(server.next(1))


def expect_mail(server, text):
    mail = server.next()
    check.assertIsNotNone(mail, text)
    password, recipients, content = mail
    check.assertEqual((base64.b64encode(b'\0vm@example.com\0secret'), ['admin@example.com']),
                      (password, recipients))
    check.assertIn(text, content)


def cron_at(machine, clock):
    """Start cron at this time of tomorrow, without --splay, and wait until its job has ended.

    Tomorrow, since certificates are not valid at a time before now.
    """
    tomorrow = time.strftime('%Y-%m-%d', time.gmtime(time.time() + 86400))
    machine.write('/root/no-splay/sitecustomize.py',
                  'import random\nrandom.uniform = lambda begin, end: begin\n')
    line = machine.read('/etc/cron.d/tako')
    if 'PYTHONPATH' not in line:
        machine.write('/etc/cron.d/tako', 'PYTHONPATH=/root/no-splay\n' + line)
    machine.write('/etc/systemd/system/cron.service.d/clock.conf',
                  '[Service]\n'
                  'Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1\n'
                  'Environment="FAKETIME=@{} {}"\n'.format(tomorrow, clock))
    begun = ('journalctl --sync; journalctl -q -t CRON --cursor-file=/var/cursor-cron'
             ' | grep "CMD.*tako.py fetch"')
    machine.run('systemctl daemon-reload; ' + begun, None, is_printed=False)
    machine.run('systemctl restart cron', is_printed=False)
    machine.until(begun, 30)
    machine.until("! cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' ' '"
                  " | grep -q -e '/CRO[N]' -e 'sendmai[l]'")


# ---- Update Tako itself

def check_installed(reader):
    """tako and its bytecode follow each update and each rollback."""
    machine, publisher = reader.machine, reader.publisher
    library = '/usr/local/lib/tako'
    program = scene.read(scene.TAKO)
    version = re.search(rb"__version__ = '([^']+)'", program).group(1)

    def publish(name, content):
        path = os.path.join(reader.directory, 'tako.py')
        with open(path, 'wb') as stream:
            stream.write(content)
        publisher.publish('tako', name, path)

    def bytecode():
        folder = machine.path(library + '/__pycache__')
        check.assertEqual(['tako.cpython-311.pyc'], os.listdir(folder))
        return scene.read(os.path.join(folder, 'tako.cpython-311.pyc'))

    def with_version(text):
        return program.replace(version, text, 1)

    for name, text in (('0.1.1', b'0.1.1x'), ('0.1.2', b'0.1.2x')):
        publish(name, with_version(text))
        machine.run('tako fetch /etc/tako/tako.tako')
        check.assertTrue(text in bytecode(), text)
        check.assertEqual('tako {}\n'.format(text.decode()), machine.run('tako --version').out)
    publish('0.1.3', b'import sys\nsys.exit(1)\n')
    check.assertIn('0.1.3 is rejected', machine.run('tako fetch /etc/tako/tako.tako', 1).out)
    check.assertTrue(b'0.1.2x' in bytecode(), b'0.1.2x')
    check.assertEqual('tako 0.1.2x\n', machine.run('tako --version').out)
    # a file of the same size and time, whose bytecode Python alone would not renew
    publish('0.1.4', with_version(b'0.1.4x'))
    machine.run('systemctl stop tako-works.service; tako fetch --stage /etc/tako/tako.tako; '
                'touch -r /var/lib/images/tako/latest /var/lib/images/tako/store/*; '
                'tako fetch /etc/tako/tako.tako')
    check.assertTrue(b'0.1.4x' in bytecode(), b'0.1.4x')
    check.assertEqual('tako 0.1.4x\n', machine.run('tako --version').out)
    # make install replaces the link, and the last commands of the page bring it back
    reader.shell.run('make -s install')
    check.assertFalse(os.path.islink(machine.path(library + '/tako.py')))
    check.assertEqual(program, scene.read(machine.path(library + '/tako.py')))
    check.assertEqual('tako {}\n'.format(version.decode()), machine.run('tako --version').out)
    commands = pages.snippet(reader.project, UPDATE, begins='mkdir -p /var').splitlines()[-2:]
    reader.shell.run('\n'.join(commands))
    check.assertEqual('tako 0.1.4x\n', machine.run('tako --version').out)

"""The place of an attack: an origin that lies, perhaps an honest mirror, and a client."""
import os
import shutil
import time

import origin
import scene
import stamps
from attacks.attack import HALF, LISTED, NEW, OLD, OLDER, SAME, UPDATED

WORDS_MAX_CHARS = 20000         # that a run may print, whatever an origin sends
SENT_MAX_BYTES = 64 << 20       # that a liar gets rid of in all answers together


class Stage(scene.Scene):
    """A client that has 1.0 and an origin that offers 1.1, unless an attack starts otherwise."""

    def __init__(self, with_mirror=False, is_alone=True):
        """is_alone: whether no other stage runs in this process at the same time."""
        super().__init__()
        self.run = self.run_here if is_alone else self.run_tako     # run_here changes this process
        self._with_mirror = with_mirror

    def __enter__(self):
        self.setUp()
        self.liar = self._origin()
        self.mirror = self._origin() if self._with_mirror else None
        self.older = self.liar.publish('1.0-a', OLDER)
        self.old = self.liar.publish('1.0', OLD)
        self.liar.index(self.old)
        self.old_etag = self.liar.etag(self.liar.read('manifest'))
        self.keys, self.urls, self.more = (origin.PUBLIC_KEY,), [self.liar.url], ''
        self.client()
        self.assertCode(0, self.run('fetch', self.app))
        self.new = self.liar.publish('1.1', NEW)
        self.image, self.index = '/store/' + self.new.digest, self.liar.index(self.new)
        for name in ('destination', 'served'):
            shutil.copytree(self.path(name), self.path('first', name), symlinks=True)
        return self

    def __exit__(self, *error):
        self.doCleanups()

    def _origin(self):
        made = self.serve('served')
        made.has_ranges = True
        be_honest(made)
        return made

    def begin(self, attack):
        """Restore the start of this attack, and make the attack."""
        for name in ('destination', 'served'):
            scene.remove_tree(self.path(name))
            shutil.copytree(self.path('first', name), self.path(name), symlinks=True)
        if attack.start != 'old':
            self.empty_destination()
        if attack.start == 'half':
            self.write('destination/.partial-' + self.new.digest, NEW[:HALF], 0o600)
        for each in self.origins():
            each.floods.clear()
            be_honest(each)
        self.attack, self.keys = attack, (origin.PUBLIC_KEY,)
        self.more, self.more_limits, self.stamp = '', {}, None
        self.lead_to(self.liar.url)
        attack.lay(self)
        self.before = self.seen()

    def origins(self):
        """Return the liar, and the honest mirror if there is one."""
        return [self.liar] + ([self.mirror] if self.mirror else [])

    # ---- for attacks

    def client(self):
        """Write the client's config."""
        mirrors = [self.mirror.url] if self.mirror else []
        self.app = self.config(self.urls[0], public_keys=self.keys, version='1.*', mirrors=mirrors,
                               more=self.more)

    def use_stamps(self, more, stamp):
        """Let the client's config have these lines more, and let all origins serve this stamp.

        The honest run after the attack gets the stamp of that day.
        """
        self.more, self.stamp, self.more_limits = more, stamp, {'RELEASED': 1}
        self.liar.write('stamp', stamp)
        self.client()

    def asked(self):
        """Return the paths that a client requests if there is nothing to do."""
        return ['/manifest'] + (['/stamp'] if self.stamp else [])

    def trust(self, *keys):
        """Let the client's config list these keys."""
        self.keys = keys
        self.client()

    def lead_to(self, url):
        """Let the client's config name this URL in place of the liar's."""
        self.urls[0] = url
        self.client()

    def age_manifest(self, seconds):
        """Let the last whole manifest be so many seconds old."""
        path = self.path('destination', 'manifest')
        os.utime(path, (time.time() - seconds,) * 2)

    # ---- how it ends

    def seen(self):
        """Return a snapshot of the destination without partial downloads and evidence of forks."""
        return {name: what for name, what in scene.snapshot(self.destination).items()
                if not name.startswith(('.partial-', '.fork.'))}

    def judged(self):
        """Return the attack as it has to end here: beside the mirror, if there is one."""
        return self.attack.beside_mirror() if self.mirror else self.attack

    def assertEnded(self, result):
        """fetch ended with this Result, and left the destination, as the table says."""
        attack = self.judged()
        self.assertIn(result.code, attack.codes, result)
        self.assertCode(result.code, result)
        if result.code != 0:
            self.assertEqual('', result.out)
        for words in attack.words:
            self.assertIn(words, result.err)
        told = result.out + result.err
        self.assertLess(len(told), WORDS_MAX_CHARS)
        self.assertEqual([], [char for char in told if not (char.isprintable() or char == '\n')])
        self.assertNoDefect(result)
        self.assertState(result.code, attack)
        self.assertLess(max(sent for sent, in self.liar.floods or [[0]]), attack.sent)
        self.assertLess(self.liar.endless_bytes, SENT_MAX_BYTES)
        if attack.is_whole:
            self.assertIn((200, len(NEW)), self.liar.served(self.image))
        if attack.asked is not None:
            asked = [None if each is None else 'bytes={}-'.format(each) for each in attack.asked]
            self.assertEqual((asked, ''), (self.liar.asked(self.image, 'Range'), result.err))
        if self.mirror and attack.is_blamed:
            self.assertBlamed(result)

    def assertState(self, code, attack):
        """The destination is as the attack may leave it after this exit code."""
        self.assertIsNone(scene.fault_of_latest(self.destination))
        self.assertNoTemporaries()
        self.assertLessEqual(len(self.partials()), 1)
        state = UPDATED if code == 0 and len(attack.codes) > 1 else attack.state
        before, seen = self.before, self.seen()
        if code == 0 or self.stamp:     # which the state notes, or since when a stamp is missing
            before, seen = without(before, '.state'), without(seen, '.state')
        if state == UPDATED:
            self.assertEqual(0, code)
            self.assertInPlace(NEW)
            self.assertEqual([], self.partials())
            return
        if state == SAME:
            self.assertEqual(before, seen)
        if state == LISTED:
            self.assertEqual(self.liar.read('manifest'),
                             scene.read(self.path('destination', 'manifest')))
        # a first fetch makes store/ for its image
        self.assertEqual(without(before, 'manifest', 'store'), without(seen, 'manifest', 'store'))

    def assertBlamed(self, result):
        """The run succeeded from the mirror and only printed warnings of the liar and a hint."""
        asked = ''.join(self.liar.faults).replace('*', '')      # it has one fault, if any
        warnings = [line for line in result.err.splitlines() if not line.startswith('  ')]
        begin = 'tako: warning: {}: {}'.format(self.app, self.urls[0])
        self.assertTrue(warnings)
        self.assertEqual([], [each for each in warnings if not each.startswith(begin)])
        self.assertEqual(begin + asked, warnings[-1][:len(begin + asked)])
        self.assertRegex(result.out, r'^{}: 1\.1 is installed( \([^)]*\))?\n$'.format(self.app))
        self.assertEqual(self.liar.read('manifest'),
                         scene.read(self.path('destination', 'manifest')))
        if asked == '/manifest':
            self.assertEqual({asked}, set(self.liar.paths()))

    def assertRecovers(self):
        """An honest run ends as the table says. After one with a mirror nothing is left to do."""
        before, attack = self.seen(), self.judged()
        self.lead_to(self.liar.url)
        for each in self.origins():
            be_honest(each)
        if self.stamp:
            self.liar.write('stamp', stamps.stamped(self.liar.read('manifest'), int(time.time())))
        after = self.run('fetch', self.app)
        self.assertCode(attack.then, after)
        if attack.then != 0:
            self.assertEqual(before, self.seen())
            return
        self.assertInPlace(NEW)
        if self.mirror and attack.codes == (0,):
            self.assertQuiet(after)
            self.assertEqual(self.asked(), self.liar.paths())


def be_honest(server):
    """Remove all faults of a server, and forget its requests."""
    server.faults.clear()
    server.requests.clear()
    server.answers.clear()
    server.has_several = True
    server.etag = lambda body: '"{}"'.format(origin.digest_of(body))


def without(seen, *names):
    """Return a snapshot without these names."""
    return {name: what for name, what in seen.items() if name not in names}

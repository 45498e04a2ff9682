"""Attacks on a client whose config has StampKey= and Fresh=: they hide news, or forge a stamp."""
import time

import origin
import stamps
import tako
from attacks.attack import OTHER, SAME, UPDATED, attack, drips, on_all, quick, signed
from stamps import DAY, HOUR

FRESH = 8 * DAY
NOW = int(time.time())
AGED = FRESH + DAY              # a stamp of this age is too old


def old(stage):
    """Return the manifest that the client has."""
    return signed([stage.older, stage.old])


def new(stage):
    """Return the manifest that is the newest."""
    return signed([stage.older, stage.old, stage.new])


def fork(stage):
    """Return a manifest that lacks an entry of the client's and has another one."""
    return signed([stage.older, origin.entry_of('1.1', OTHER)])


def of(manifest, age=HOUR, seed=stamps.SEED):
    """Return a function of the stage: the stamp of what manifest(stage) returns, of this age."""
    return lambda stage: stamps.stamped(manifest(stage), NOW - age, seed)


def serving(manifest=new, stamp=None, fault=None, own_age=HOUR):
    """Return how to lay an attack on stamps.

    manifest(stage), stamp(stage): what the liar serves. fault: how it answers for the stamp
    instead. own_age: the age of the stamp that the client has.
    """
    def lay(stage):
        stage.use_stamps('StampKey={}\nFresh={}\n'.format(stamps.PUBLIC_KEY, FRESH),
                         of(new)(stage))
        if stage.attack.start == 'old':
            stage.write('destination/stamp', of(old, own_age)(stage), 0o444)
        stage.liar.faults['/manifest'] = origin.serves(manifest(stage))
        # the query by which a client asks past caches
        for each in (new, fork):
            stage.liar.faults['/manifest?' + tako.body_sha256(each(stage))[:16]] = origin.serves(
                manifest(stage))
        stage.liar.faults['/stamp'] = fault or origin.serves(stamp(stage))
    return lay


def renewed_by_force(stage):
    """Set the published directory back to the old manifest, and have --renew stamp it.

    Return the stamp that is there then.
    """
    stage.write('stamp.key', tako.format_secret_key(stamps.SEED), 0o600)
    publisher = origin.Publisher(stage.path('published'))
    publisher.write('manifest', new(stage))
    arguments = ('-f', stage.path('stamp.key'), '-p', origin.PUBLIC_KEY, publisher.directory)
    stage.assertEqual(0, stage.run('stamp', '--replace', *arguments).code)
    publisher.write('manifest', old(stage))
    for options in ('--renew',), ():
        result = stage.run('stamp', *options + arguments)
        stage.assertCode(3, result)
        stage.assertIn('lacks or changes 1.1, which was stamped last', result.err)
    return publisher.read('stamp')


def at_clock(seconds_ahead, is_before_release=False):
    """Return how to set the client's clock, by shifting the stamps and the date of the release."""
    def lay(stage):
        serving(stamp=of(new, HOUR + seconds_ahead), own_age=2 * HOUR + seconds_ahead)(stage)
        stage.liar.faults.clear()
        stage.use_stamps(stage.more, of(new, HOUR + seconds_ahead)(stage))
        if is_before_release:
            stage.more_limits = {'RELEASED': NOW + 2 * DAY}
    return lay


FRESHNESS = quick([
    attack('a freeze', serving(old, of(old, AGED), own_age=AGED), 3, SAME,
           words='longer than Fresh= allows; asked: http'),
    attack('a freeze, past half of Fresh=', serving(old, of(old, AGED // 2), own_age=AGED // 2), 0,
           SAME, words='longer than half of Fresh='),
    attack('a freeze, before half of Fresh= is over', serving(old, of(old)), 0, SAME),
    attack('a freeze, on a first fetch', serving(old, of(old, AGED)), 3, SAME, start='nothing',
           words='longer than Fresh= allows'),
    attack('a thaw', serving(new, of(new, AGED), own_age=AGED + DAY), 3, SAME,
           words='longer than Fresh= allows'),
    attack('a withheld manifest', serving(old, of(new)), 0, SAME,
           words='a newer manifest with 3 entries exists'),
    attack('a withheld manifest, on a first fetch', serving(old, of(new)), 75, SAME,
           start='nothing', words='is withheld'),
    attack('the stamp of another manifest', serving(new, of(fork)), 0, SAME),
    attack('the stamp of another manifest, on a first fetch', serving(new, of(fork)), 75, SAME,
           start='nothing', words='no stamp proves'),
    attack('an older stamp for a newer manifest', serving(new, of(new, 2 * HOUR)), 0, SAME),
    attack('a stamp by another key', serving(new, of(new, seed=stamps.OTHER_SEED)), 0, SAME,
           words='not signed by any'),
    attack('a stamp by another key, on a first fetch',
           serving(new, of(new, seed=stamps.OTHER_SEED)), 3, SAME, start='nothing',
           words='not signed by any'),
    attack('a stamp by the release key', serving(new, of(new, seed=origin.SEED)), 0, SAME,
           words='not signed by any'),
    attack('a stamp by the release key, on a first fetch',
           serving(new, of(new, seed=origin.SEED)), 3, SAME, start='nothing',
           words='not signed by any'),
    attack('a manifest by the stamp key', serving(
        lambda stage: signed([stage.older, stage.old, stage.new], stamps.SEED), of(new)), 3, SAME),
    attack('a stamp from the future', serving(new, of(new, -2 * DAY)), 75, SAME,
           words='is not accepted: here it is'),
    attack('a stamp from the future, on a first fetch', serving(new, of(new, -2 * DAY)), 75, SAME,
           start='nothing', words='is not accepted: here it is'),
    attack('a stamp without end', serving(fault=origin.endless), 0, SAME,
           words='longer than 1024 bytes'),
    attack('a stamp without end, on a first fetch', serving(fault=origin.endless), 3, SAME,
           start='nothing', words='longer than 1024 bytes'),
    attack('a page for a stamp', serving(stamp=lambda _: b'<!DOCTYPE html>'), 0, SAME,
           words='not a signed stamp'),
    attack('no stamp', serving(fault=origin.status(404)), 0, SAME),
    attack('no stamp, on a first fetch', serving(fault=origin.status(404)), 75, SAME,
           start='nothing', words='no stamp proves'),
    attack('no stamp, once the last one is too old',
           serving(fault=origin.status(404), own_age=AGED), 3, SAME,
           words='longer than Fresh= allows'),
    attack('a fork with a stamp', serving(fork, of(fork)), 3, SAME, beside=3,
           words='contradict each other'),
    attack('a fork without a stamp', serving(fork, fault=origin.status(404)), 3, SAME, beside=3,
           words='contradict each other'),
    attack('an old manifest, with the stamp that --renew made',
           serving(old, renewed_by_force), 0, SAME),
    attack('the clock is at 1970', at_clock(0, True), 0, UPDATED, words='the clock is wrong'),
    attack('the clock is at 2037', at_clock(11 * 365 * DAY), 3, SAME, beside=3,
           words='longer than Fresh= allows'),
    attack('the clock is back by a month', at_clock(-30 * DAY), 75, SAME, beside=75,
           words='is not accepted: here it is'),
    attack('no origin answers', lambda stage: (serving(stamp=of(new))(stage),
                                               on_all(origin.status(503))(stage),
                                               stage.liar.faults.pop('/manifest')), 75, SAME),
]) + [
    attack('a stamp in drips', serving(fault=drips(b'HTTP/1.1 200 OK\r\n\r\n')), 0, SAME,
           seconds=30),
    attack('a stamp that stops', serving(fault=origin.holds(20)), 0, SAME, seconds=30),
]
# Only a part of these prints a warning of the liar beside an honest mirror.
GROUPS = {'freshness': [each._replace(is_blamed=None) for each in FRESHNESS]}

"""tako.py compared with other programs, on random inputs.

Ed25519 is compared with cryptography (OpenSSL) and pure25519, versions with their definition, and
manifests are made by hypothesis. The parsers of prometheus_client read the metrics of status.
`python tests/oracles.py SEED` repeats the run that printed SEED.
"""
import random
import sys
import tempfile

import hypothesis
import hypothesis.strategies as st
import prometheus_client.openmetrics.parser
import prometheus_client.parser
import pure25519.eddsa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis.configuration import set_hypothesis_home_dir
from test_versions import naive_order, naive_parts, naive_prefix, naive_range

import tako

ROUNDS = 300
SLOW_ROUNDS = 40                # pure25519 takes about 20 ms for each signature
EXAMPLES = 500
SEED = b'test-key-very-security-such-safe'
PUBLIC_KEY = tako.ed25519_public_key(SEED)


class Tally:
    """The number of checks of each kind."""

    def __init__(self):
        self.counts = {}

    def check(self, kind, is_right, *what):
        """Count a check. Raises AssertionError with its inputs if it fails."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if not is_right:
            raise AssertionError(kind, *what)


def openssl_accepts(key, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def pure25519_accepts(key, message, signature):
    try:
        return pure25519.eddsa.verify(key, signature, message)
    except Exception:           # pure25519 has no class of its own for this
        return False


def check_ed25519(chance, tally):
    for number in range(ROUNDS):
        seed = chance.getrandbits(256).to_bytes(32, 'little')
        size = chance.choice((0, 1, 50, 64, 1000))
        message = chance.getrandbits(8 * 1000).to_bytes(1000, 'little')[:size]
        theirs = Ed25519PrivateKey.from_private_bytes(seed)
        key, signature = tako.ed25519_public_key(seed), tako.ed25519_sign(seed, message)
        tally.check('public keys are those of OpenSSL',
                    key == theirs.public_key().public_bytes_raw(), seed)
        tally.check('signatures are those of OpenSSL', signature == theirs.sign(message), seed,
                    message)
        tally.check('OpenSSL accepts our signatures', openssl_accepts(key, message, signature),
                    seed, message)
        tally.check('we accept signatures of OpenSSL',
                    tako.ed25519_verify(key, message, theirs.sign(message)), seed)
        for what, case in mutations(chance, key, message, signature):
            tally.check(what + ' is refused by us', not tako.ed25519_verify(*case), case)
            tally.check(what + ' is refused by OpenSSL', not openssl_accepts(*case), case)
        if number < SLOW_ROUNDS:
            check_pure25519(tally, seed, key, message, signature)


def mutations(chance, key, message, signature):
    """Yield (what, (key, message, signature)) that every verifier has to refuse."""
    for _ in range(3):
        flipped = int.from_bytes(signature, 'little') ^ 1 << chance.randrange(512)
        yield 'a flipped bit', (key, message, flipped.to_bytes(64, 'little'))
    yield 'another message', (key, message + b'\0', signature)
    yield 'another key', (tako.ed25519_public_key(message[:32].ljust(32, b'!')), message, signature)
    yield 'S + L', (key, message, plus_group_order(signature))


def plus_group_order(signature):
    s = int.from_bytes(signature[32:], 'little') + tako.L
    return signature[:32] + s.to_bytes(32, 'little')


def check_pure25519(tally, seed, key, message, signature):
    tally.check('public keys are those of pure25519', pure25519.eddsa.publickey(seed) == key, seed)
    tally.check('signatures are those of pure25519',
                pure25519.eddsa.sign(seed, message) == signature, seed, message)
    tally.check('pure25519 accepts our signatures', pure25519_accepts(key, message, signature),
                seed, message)
    # If this fails, pure25519 is fixed and a better oracle.
    tally.check('pure25519 accepts S + L, which we refuse',
                pure25519_accepts(key, message, plus_group_order(signature)), seed, message)


def check_versions(run, tally):
    part = st.sampled_from(['0', '0', '1', '2', '10', '00', '01', 'a', 'b', 'B', 'rc', 'rc1', '1a',
                            '+'])
    few = st.lists(st.tuples(part, st.sampled_from('.-_')), min_size=1, max_size=5).map(
        lambda pairs: ''.join(text + separator for text, separator in pairs))
    anything = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=255)
    versions = st.one_of(few, few, anything).filter(naive_parts)
    begins = few.filter(naive_parts)

    @run
    @hypothesis.given(versions, versions)
    def _order(one, other):
        mine, theirs = tako.parse_version(one), tako.parse_version(other)
        order = naive_order(one, other)
        comparisons = (mine < theirs, mine == theirs, mine > theirs, mine <= theirs,
                       mine >= theirs, mine != theirs)
        expected = order < 0, order == 0, order > 0, order <= 0, order >= 0, order != 0
        tally.check('versions have the naive order', comparisons == expected, one, other)
        tally.check('equal versions have one hash', order or hash(mine) == hash(theirs), one, other)

    @run
    @hypothesis.given(st.lists(versions, min_size=3, max_size=3))
    def _transitivity(three):
        low, middle, high = sorted(map(tako.parse_version, three))
        tally.check('the order is transitive', low <= middle <= high and low <= high, three)

    @run
    @hypothesis.given(begins, begins, st.lists(versions))
    def _ranges(lowest, below, others):
        texts = others + [lowest, below, lowest + '.a', below + '-a', below + '_0.a']
        try:
            bounds = tako.parse_pattern('{} <= v < {}'.format(lowest, below))
            found = [text for text in texts if tako.parse_version(text) in bounds]
        except tako.VersionError:
            if naive_range(lowest, below, lowest) or not tako.parse_pattern(
                lowest) or not tako.parse_pattern(below):
                raise
            found = []
        expected = [text for text in texts if naive_range(lowest, below, text)]
        tally.check('ranges are the naive ranges', found == expected, lowest, below, texts)

    @run
    @hypothesis.given(begins, st.lists(versions))
    def _prefixes(prefix, others):
        bounds = tako.parse_pattern(prefix + '.*')
        for text in others + [prefix, prefix + '.a', prefix + '0']:
            tally.check('prefixes are the naive prefixes',
                        (tako.parse_version(text) in bounds) is naive_prefix(prefix, text), prefix,
                        text)


def check_manifests(run, tally):
    version = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1,
                      max_size=20).filter(naive_parts)
    entry = st.builds(tako.Entry, version.map(tako.parse_version), st.integers(0, 2 ** 63 - 1),
                      st.binary(min_size=32, max_size=32).map(bytes.hex))
    manifests = st.lists(entry, max_size=8, unique_by=lambda each: each.version).map(
        lambda entries: tako.Manifest(tuple(sorted(entries, key=lambda each: each.version))))

    def is_refused(signed):
        try:
            tako.open_manifest(signed, [PUBLIC_KEY], 'here')
        except tako.RefusedError:
            return True
        return False

    @run
    @hypothesis.given(manifests)
    def _inverse(manifest):
        sealed = tako.seal_manifest(manifest, SEED)
        opened = tako.open_manifest(sealed, [PUBLIC_KEY], 'here')
        lines = [[each.line() for each in one.entries] for one in (manifest, opened)]
        tally.check('what is sealed opens to the same', opened == manifest and lines[0] == lines[1],
                    manifest)
        tally.check('there is one spelling', tako.seal_manifest(opened, SEED) == sealed, manifest)
        tally.check('OpenSSL accepts the signature',
                    openssl_accepts(PUBLIC_KEY, sealed[:-89],
                                    tako.decode_base64(sealed[-89:-1].decode('ascii'), 64)))

    @run
    @hypothesis.given(manifests, st.data())
    def _mutation(manifest, data):
        sealed = tako.seal_manifest(manifest, SEED)
        at = data.draw(st.integers(0, len(sealed) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda value: value != sealed[at]))
        head, tail, new = sealed[:at], sealed[at + 1:], bytes([byte])
        tally.check('a changed byte is refused', is_refused(head + new + tail), sealed, at, byte)
        tally.check('a byte less is refused', is_refused(head + tail), sealed, at)
        tally.check('a byte more is refused', is_refused(head + new + sealed[at:]), sealed, at,
                    byte)
        tally.check('a cut is refused', is_refused(head), sealed, at)

    pieces = st.sampled_from([
        b'1', b'1.0', b'2', b'10', b'0', b'17', b'007', b' ', b' ', b'\n', b'\n', b'f' * 64, b'\r',
        b'\xff',
        b'1 17 ' + b'0' * 64 + b'\n', b'2 17 ' + b'0' * 64 + b'\n', b'2.0 0 ' + b'a' * 64 + b'\n'])
    texts = st.lists(pieces, max_size=6).map(b''.join)

    @run
    @hypothesis.given(st.one_of(texts, texts.map(lambda text: text + b'\n'),
                                st.binary(max_size=300)))
    def _garbage(garbage):
        body = tako.MANIFEST_HEADER + garbage
        signed = body + tako.encode_base64(tako.ed25519_sign(SEED, body)).encode('ascii') + b'\n'
        try:
            opened = tako.open_manifest(signed, [PUBLIC_KEY], 'here')
        except tako.ManifestError:
            opened = None
        tally.check('signed garbage is refused' if opened is None
                    else 'what opens is what sealing makes',
                    opened is None or tako.seal_manifest(opened, SEED) == signed, body)


def check_metrics(run, tally):
    """Both parsers of prometheus_client, for OpenMetrics and for the older text, read all of it."""
    words = st.text(max_size=20)
    numbers = st.one_of(st.none(), st.booleans(), st.integers(0, 2 ** 53))
    values = {key: st.lists(words, max_size=3) if key in ('mirrors', 'rejected', 'withdrawn')
              else numbers for _, key, _ in tako.METRICS}
    known = st.fixed_dictionaries(dict(values, config=words, version=st.one_of(st.none(), words),
                                       digest=st.one_of(st.none(), words)))
    broken = st.fixed_dictionaries({'config': words, 'exit_code': st.integers(0, 3)})

    @run
    @hypothesis.given(st.lists(st.one_of(known, broken), max_size=3,
                               unique_by=lambda row: tako.to_ascii(row['config'])))
    def _metrics(rows):
        text = '\n'.join(tako._metrics_lines(rows)) + '\n'
        expected = sorted(
            ('tako_' + name, tako.to_ascii(row['config']),
             float(len(row[key]) if isinstance(row[key], list) else int(row[key] or 0)))
            for name, key, _ in tako.METRICS for row in rows if key in row)
        for parser in (prometheus_client.openmetrics.parser, prometheus_client.parser):
            families = list(parser.text_string_to_metric_families(text))
            found = [sample for family in families for sample in family.samples]
            tally.check('prometheus_client reads each metric',
                        sorted((each.name, each.labels['config'], each.value) for each in found)
                        == expected, text)
            versions = sorted(each.labels['version'] for each in found if 'version' in each.labels)
            tally.check('prometheus_client reads each version', versions == sorted(
                tako.to_ascii(row['version'] or '') for row in rows if 'is_there' in row), text)
            tally.check('prometheus_client knows type and help', all(
                family.type == 'gauge' and family.documentation for family in families), text)


def main():
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.SystemRandom().randrange(2 ** 32)
    print('seed {}'.format(seed), flush=True)
    tally = Tally()
    check_ed25519(random.Random(seed), tally)
    with tempfile.TemporaryDirectory() as home:
        set_hypothesis_home_dir(home)

        def run(test):
            settings = hypothesis.settings(max_examples=EXAMPLES, database=None, deadline=None)
            hypothesis.seed(seed)(settings(test))()
        check_versions(run, tally)
        check_manifests(run, tally)
        check_metrics(run, tally)
    for kind, count in tally.counts.items():
        print('{:6} {}'.format(count, kind))
    print('{:6} checks in all'.format(sum(tally.counts.values())))


if __name__ == '__main__':
    main()

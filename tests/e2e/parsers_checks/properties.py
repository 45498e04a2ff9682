"""Properties of all values that hypothesis makes: properties.py NAME SEED EXAMPLES.

tests/oracles.py has those of versions, patterns and manifests.
"""
import io
import itertools
import re
import sys

import hypothesis
import hypothesis.strategies as st
from test_chunks import cut_as_defined
from test_versions import naive_parts

import tako

SEEDS = st.binary(min_size=32, max_size=32)
DIGESTS = SEEDS.map(bytes.hex)
PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)
PARTS = st.sampled_from(['0', '0', '1', '2', '10', '00', 'a', 'b', 'rc1', '1a'])
VERSIONS = st.lists(st.tuples(PARTS, st.sampled_from('.-_')), min_size=1, max_size=5).map(
    lambda pairs: ''.join(text + separator for text, separator in pairs))
PATTERNS = st.one_of(st.just('*'), VERSIONS, VERSIONS.map(lambda text: text + '.*'),
                     st.tuples(VERSIONS, VERSIONS).map('{0[0]} <= v < {0[1]}'.format))
# similar images: pieces of few kinds, most of them in several images
PIECES = st.one_of(st.binary(max_size=40), st.sampled_from([b'e' * 700, bytes(3000), b'tree ' * 500,
                                                            bytes(range(256)) * 9]))
IMAGES = st.lists(PIECES, max_size=12).map(b''.join)
PROPERTIES = {}


def holds(*strategies, **named):
    """Register a function of these values as a property, by its name."""
    def register(function):
        PROPERTIES[function.__name__.replace('_', ' ')] = hypothesis.given(*strategies,
                                                                           **named)(function)
        return function
    return register


@holds(st.binary(max_size=100))
def base64_has_an_inverse_and_one_spelling(data):
    text = tako.encode_base64(data)
    assert tako.decode_base64(text, len(data)) == data
    for other in (text + '=', text + '\n', text[:-1], ' ' + text, text + 'AAAA'):
        assert other == text or tako.decode_base64(other, len(data)) is None


@holds(SEEDS, st.data())
def secret_keys_have_an_inverse_and_one_spelling(seed, data):
    text = tako.format_secret_key(seed)
    assert tako.parse_secret_key(text) == seed
    assert tako.parse_public_key(
        tako.encode_base64(tako.ed25519_public_key(seed))) == tako.ed25519_public_key(seed)
    at, other = data.draw(st.integers(0, len(text) - 1)), data.draw(PRINTABLE)
    hypothesis.assume(text[at] != other)
    try:
        tako.parse_secret_key(text[:at] + other + text[at + 1:])
    except tako.UsageError:
        return
    raise AssertionError('a changed character is accepted')


@holds(st.lists(VERSIONS.filter(naive_parts), min_size=2, max_size=30))
def sorting_versions_puts_no_pair_the_wrong_way(texts):
    in_order = sorted(map(tako.parse_version, texts))
    for number, one in enumerate(in_order):
        for other in in_order[number:]:
            assert one <= other and not other < one and (one < other) is not (one == other)


@holds(PATTERNS, st.lists(VERSIONS.filter(naive_parts), min_size=3, max_size=12))
def what_lies_between_two_versions_in_bounds_is_in_bounds(pattern, texts):
    try:
        bounds = tako.parse_pattern(pattern)
    except tako.VersionError:
        hypothesis.reject()
    told = ''.join('.x'[version in bounds] for version in sorted(map(tako.parse_version, texts)))
    assert '.' not in told.strip('.')


@holds(PATTERNS, st.lists(st.tuples(VERSIONS.filter(naive_parts), st.sampled_from('._-')),
                          min_size=1, max_size=6))
def bounds_take_all_spellings_of_a_version_or_none(pattern, pairs):
    try:
        bounds = tako.parse_pattern(pattern)
    except tako.VersionError:
        hypothesis.reject()
    for text, separator in pairs:
        parts = text.replace('-', '.').replace('_', '.').split('.')
        other = separator.join('0' + part if part.isdigit() else part for part in parts)
        assert tako.parse_version(other) == tako.parse_version(text)
        assert (tako.parse_version(other) in bounds) is (tako.parse_version(text) in bounds)


ENTRIES = st.lists(st.builds(tako.Entry, VERSIONS.filter(naive_parts).map(tako.parse_version),
                             st.integers(0, 3), DIGESTS),
                   max_size=10, unique_by=lambda entry: entry.version)


@holds(ENTRIES, ENTRIES)
def a_manifest_that_grew_by_entries_lost_none(entries, others):
    grown = old = tako.Manifest(tuple(sorted(entries, key=lambda entry: entry.version)))
    for entry in others:
        if all(entry.version != each.version for each in grown.entries):
            grown = tako.add_entry(grown, entry)
    assert tako.first_lost(old, grown) is None and tako.pick_newest([old, grown, old])[1] is None
    assert all(one.version < two.version for one, two in zip(grown.entries, grown.entries[1:]))
    missing = {entry.line() for entry in grown.entries} - {entry.line() for entry in old.entries}
    lost = tako.first_lost(grown, old)
    assert (lost is None and not missing) or lost.line() in missing


@holds(IMAGES, st.sampled_from([tako.BY_CONTENT, tako.FIXED_SIZE]),
       st.lists(st.integers(1, 5000), min_size=1, max_size=9))
def chunks_are_those_of_the_definition_however_they_are_read(image, method, sizes):
    stream, turn = io.BytesIO(image), itertools.cycle(sizes)
    chunks = list(tako.cut_chunks(lambda size: stream.read(min(size, next(turn))), method,
                                  tako.CHUNK_MIN_BYTES))
    average = tako.CHUNK_MIN_BYTES
    assert chunks == (cut_as_defined(image, average) if method == tako.BY_CONTENT
                      else [image[at:at + average] for at in range(0, len(image), average)])


@holds(IMAGES, IMAGES, st.sampled_from([tako.BY_CONTENT, tako.FIXED_SIZE]), st.integers(0, 20000),
       st.dictionaries(DIGESTS, st.integers(0, 2 ** 64 - 1), max_size=tako.PATCHES_MAX))
def an_index_and_an_older_image_plan_the_image(old, new, method, gap, patches):
    index = tako.index_image(io.BytesIO(new).read, method,
                             tako.CHUNK_MIN_BYTES)._replace(patches=tuple(patches.items()))
    assert tako.parse_index(tako.format_index(index), len(new)) == index
    found = tako.find_chunks(index,
                             tako.hashed_chunks(io.BytesIO(old).read, method, tako.CHUNK_MIN_BYTES))
    plan = tako.plan_image(index, found, bytes(len(index.lengths)))
    made = bytearray(len(new))
    for source, begin, size in plan.copies:
        made[begin:begin + size] = old[source:source + size]
    for each in tako.join_ranges(plan.ranges, gap):
        made[each.begin:each.end] = new[each.begin:each.end]
    for source, begin, size in plan.repeats:
        made[begin:begin + size] = made[source:source + size]
    assert made == new


@holds(IMAGES, IMAGES)
def a_patch_makes_the_image_it_was_made_for(old, new):
    pieces = []
    tako.make_patch(old, new, pieces.append, 64 << 20, lambda _: None)
    assert b''.join(tako.apply_patch(io.BytesIO(b''.join(pieces)), lambda begin,
                                     size: old[begin:begin + size], len(new))) == new


@holds(IMAGES,
       st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000)), min_size=2, max_size=6),
       st.text(st.sampled_from('abcXYZ019_'), min_size=1, max_size=70))
def parts_of_an_answer_are_those_sent(image, spans, boundary):
    image += bytes(8000)
    sent = [('bytes {}-{}/{}'.format(begin, begin + size - 1, len(image)),
             image[begin:begin + size]) for begin, size in spans]
    body = b''.join('\r\n--{}\r\nContent-Type: x/y\r\nContent-Range: {}\r\n\r\n'.format(
        boundary, of).encode() + part
                    for of, part in sent) + '\r\n--{}--\r\n'.format(boundary).encode()
    assert tako.parse_byteranges(body, 'multipart/byteranges; boundary=' + boundary) == sent


TEXTS = st.text(st.characters(blacklist_characters='\n\r\0', blacklist_categories=['Cs']),
                max_size=30).map(str.strip)


@holds(st.lists(st.tuples(st.sampled_from(['http', 'https']), st.integers(1, 65535),
                          st.text('abc/%20', max_size=9)), min_size=1),
       st.lists(SEEDS, min_size=1, max_size=3), TEXTS.filter(bool), PATTERNS,
       st.lists(st.text('ab.@:-_', min_size=1)),
       st.integers(0, 3600), st.integers(1, 999), st.lists(TEXTS),
       st.randoms(use_true_random=False))
def a_config_means_what_is_written(origins, seeds, destination, pattern, units, confirm, keep,
                                   comments, chance):
    keys = [tako.ed25519_public_key(seed) for seed in seeds]
    units = ['u' + unit for unit in units]
    templates = [unit for unit in units if unit.endswith('@') or re.search('@[.][ab]+$', unit)]
    origins = ['{}://host:{}/{}'.format(*each) for each in origins]
    lists = [['Origin=' + each for each in origins],
             ['PublicKey = ' + tako.encode_base64(key) for key in keys],
             ['\tRestart= ' + unit for unit in units], ['# ' + comment for comment in comments],
             ['Destination=' + destination], ['Version=' + pattern], ['Confirm={}'.format(confirm)],
             ['Keep={}'.format(keep)]]
    lines = []
    while any(lists):                           # only the order of one key matters
        lines.append(chance.choice([each for each in lists if each]).pop(0))
    try:
        config = tako.parse_config(chance.choice(['\n', '\r\n']).join(lines))
    except tako.ConfigError as error:
        # A template without an instance is refused. tests/oracles.py checks patterns.
        assert error.what.startswith('Version= ') or (
            templates and error.what.startswith('Restart= ')), error.what
        return
    assert not templates, templates
    assert [each.url for each in config.origins] == [each.rstrip('/') for each in origins]
    assert list(config.public_keys) == keys and list(config.units) == units
    assert config.destination.encode('utf-8', 'surrogateescape') == destination.encode('utf-8')
    assert (config.bounds.text, config.confirm_seconds, config.keep) == (pattern, confirm, keep)
    assert lines[config.destination_line - 1] == 'Destination=' + destination


def state_values(field):
    """Return the values that a field of State may have: '' or one text, or any number of texts."""
    texts = st.from_regex(tako.STATE_REGEXES.get(field, '[0-9a-f]{64}'), fullmatch=True)
    return (st.one_of(st.just(''), texts) if field in tako.STATE_SINGLES
            else st.lists(texts).map(tuple))


@holds(st.builds(tako.State, *map(state_values, tako.State._fields)))
def a_state_is_read_as_it_was_written(state):
    assert tako.parse_state(tako.format_state(state)) == state


def main():
    name, seed, examples = sys.argv[1:]
    settings = hypothesis.settings(max_examples=int(examples), database=None, deadline=None,
                                   suppress_health_check=list(hypothesis.HealthCheck))
    hypothesis.seed(int(seed))(settings(PROPERTIES[name]))()


if __name__ == '__main__':
    main()

"""Section 5: the order of versions, and the patterns that match them.

The naive functions follow the definition word by word. These tests and oracles.py compare tako.py
with them.
"""
import itertools
import random
import re
import unittest

import tako

parse = tako.parse_version


def naive_parts(text):
    """Return the parts of a version: numbers and strings."""
    return [int(part) if re.fullmatch('[0-9]+', part) else part for part in re.split('[._-]', text)
            if part]


def naive_order(one, other):
    """Compare two versions part by part. Return -1, 0 or 1.

    A string is below every number, and the shorter version is padded with zeros.
    """
    for mine, theirs in itertools.zip_longest(naive_parts(one), naive_parts(other), fillvalue=0):
        if isinstance(mine, str) is not isinstance(theirs, str):
            return -1 if isinstance(mine, str) else 1
        if mine != theirs:
            return -1 if mine < theirs else 1
    return 0


def naive_range(lowest, below, text):
    """Return whether lowest <= text < below. A pre-release of `below` is not below it."""
    if naive_order(text, lowest) < 0 or naive_order(text, below) >= 0:
        return False
    end = naive_parts(below)
    while end and end[-1] == 0:
        end.pop()
    parts = naive_parts(text)
    rest = [part for part in parts[len(end):] if part != 0]
    is_pre_release = parts[:len(end)] == end and rest[:1] and isinstance(rest[0], str)
    return not is_pre_release


def naive_prefix(prefix, text):
    """Return whether the parts of text, followed by zeros, begin with those of prefix."""
    wanted = naive_parts(prefix)
    return (naive_parts(text) + [0] * len(wanted))[:len(wanted)] == wanted


def random_version(chance):
    """Return a version of few different parts, so that many versions are nearly equal."""
    text = ''
    for _ in range(chance.randint(1, 5)):
        text += chance.choice(('.', '.', '-', '_', '..')) if text else chance.choice(('', '', '',
                                                                                      '-'))
        text += chance.choice(('0', '0', '1', '1', '2', '00', '01', '10', 'a', 'b', 'B', 'a1', '1a',
                               '+'))
    return text + chance.choice(('', '', '', '.'))


class OrderTest(unittest.TestCase):

    def test_versions_of_the_examples_are_in_order(self):
        ascending = ('1.a', '1.0-beta.1', '1.0-beta.2', '1.0-rc', '1.0', '1.0.1', '1.9', '1.10',
                     '9', '10')
        for one, other in itertools.combinations(ascending, 2):
            with self.subTest(one + ' < ' + other):
                self.assertLess(parse(one), parse(other))
                self.assertGreater(parse(other), parse(one))
                self.assertNotEqual(parse(one), parse(other))

    def test_versions_with_equal_parts_are_equal(self):
        for spellings in (('1', '1.0', '1-0_0', '01', '.1', '1.', '1__0', '1.0.0.0.0.0'),
                          ('0', '0.0', '-0', '000'),
                          ('1.0-beta', '1-0_beta.0', '01.00.beta'), ('1.a.0.0', '1..a')):
            for one, other in itertools.product(spellings, repeat=2):
                with self.subTest(one + ' = ' + other):
                    self.assertEqual(parse(one), parse(other))
                    self.assertEqual(hash(parse(one)), hash(parse(other)))
                    self.assertLessEqual(parse(one), parse(other))
                    self.assertFalse(parse(one) < parse(other))

    def test_each_rule_of_the_order_holds(self):
        rules = (
            ('a string is below zero', 'a', '0'), ('and below every number', '1.zzz', '1.0'),
            ('numbers go by value', '1.9', '1.010'),
            ('numbers may be long', '9' * 254, '1' + '0' * 254),
            ('strings go by their bytes', '1.Z', '1.a'), ('byte by byte', '1.rc10', '1.rc9'),
            ('a longer string is higher', '1.rc', '1.rc1'),
            ('digits and a letter are a string', '1.0a', '1.0'),
            ('a sign makes a string', '1.+5', '1.0'), ('a missing part is zero', '1.0.a', '1'),
            ('zeros before a string', '1.a', '1.0.a'), ('zeros before a number', '1.0.1', '1.1'),
            ('a part after a string', '1.a', '1.a.1'), ('a string after a string', '1.a.b', '1.a'),
        )
        for rule, lower, higher in rules:
            with self.subTest(rule):
                self.assertLess(parse(lower), parse(higher))

    def test_random_versions_are_ordered_as_by_the_definition(self):
        chance = random.Random(1)
        versions = [parse(text) for text in {random_version(chance) for _ in range(400)}
                    if naive_parts(text)]
        self.assertGreater(len(versions), 250)
        # If all pairs of a sorted list agree with the naive order, it is total and transitive.
        for one, other in itertools.combinations(sorted(versions), 2):
            order = naive_order(one.text, other.text)
            if order > 0 or (one == other) is not (order == 0) or (one < other) is not (
                order < 0) or other < one:
                self.fail('{} and {}'.format(one, other))
            if one == other:
                self.assertEqual(hash(one), hash(other))
        orders = {naive_order(one.text, other.text) for one,
                  other in itertools.combinations(versions, 2)}
        self.assertEqual(orders, {-1, 0, 1})

    def test_a_version_keeps_its_spelling(self):
        for text in ('1.0', '01_0-rc.1', '-1'):
            with self.subTest(text):
                self.assertEqual((str(parse(text)), parse(text).text), (text, text))

    def test_a_version_equals_nothing_but_versions(self):
        self.assertNotEqual(parse('1'), '1')
        self.assertNotEqual(parse('1'), 1)
        self.assertNotEqual(parse('1'), None)


class SyntaxTest(unittest.TestCase):

    def test_printable_ascii_is_allowed_in_versions(self):
        for text in ('0', 'a', '~', '!', '1.0+build5', '1:2.3', '2024.02.29', '*', '1=2', 'v' * 255,
                     '9' * 255):
            with self.subTest(text[:20]):
                self.assertEqual(parse(text).text, text)

    def test_other_characters_are_refused_in_versions(self):
        for text in (
                '', ' ', '1 0', ' 1', '1 ', '1\n', '1\t0', '1\0', '\x1b[2J', '1\x7f', '1\u00e9',
                '\u0661', '1\u00b2',
                '1\u2013', '1\ud800', 'v' * 256, '9' * 256, '.', '-', '_', '-._.-', '.' * 255):
            with self.subTest(ascii(text[:20])):
                with self.assertRaises(tako.VersionError) as caught:
                    parse(text)
                self.assertEqual(caught.exception.exit_code, 2)
                self.assertIn('invalid version', caught.exception.what)
                self.assertTrue(caught.exception.what.isprintable()
                                and len(caught.exception.what) < 500)
                self.assertIn('use ', caught.exception.hint)

    def test_an_error_quotes_the_beginning_of_a_long_version(self):
        for parse_text in (parse, tako.parse_pattern):
            with self.assertRaises(tako.VersionError) as caught:
                parse_text('v' * 300)
            self.assertEqual(re.findall('v{10,}', caught.exception.what), ['v' * 80])


class PatternTest(unittest.TestCase):

    def assertLetsIn(self, pattern, inside, outside):
        bounds = tako.parse_pattern(pattern)
        self.assertEqual(bounds.text, pattern)
        for text in inside.split():
            with self.subTest(pattern, inside=text):
                self.assertIn(parse(text), bounds)
        for text in outside.split():
            with self.subTest(pattern, outside=text):
                self.assertNotIn(parse(text), bounds)

    def test_a_star_matches_any_version(self):
        self.assertLetsIn('*', '0 1 1.0 2.0-beta a 99999999999999999999 nightly', '')

    def test_a_prefix_matches_versions_that_begin_with_it(self):
        self.assertLetsIn('1.*', '1 1.0 01 1-0_0 1.13.7 1.0-beta 1-beta 1.a 1_99 .1.5',
                          '0 0.9 10 11.0 2 a.1 beta-1 1a 0.1')
        self.assertLetsIn('1.0.*', '1 1.0 1.0.5 1.0-beta 1.0.0.rc1', '1.1 1-beta 1.a.0 2.0')
        self.assertLetsIn('0.*', '0 0.0 0.5 0-rc 0.0.1', '1 0a a')
        self.assertLetsIn('1.rc.*', '1.rc 1-rc_5 1.rc.a', '1 1.0.rc 1.rc1 1.RC')
        self.assertLetsIn('01-2_*', '1.2 1.2.3 1-2-rc', '1 1.20 12')

    def test_a_version_matches_each_of_its_spellings(self):
        self.assertLetsIn('1.13.7', '1.13.7 1-13_7 1.13.7.0 01.013.007',
                          '1.13 1.13.7.1 1.13.7-rc 1.13.70 1.13.6')
        self.assertLetsIn('1', '1 1.0 1-0_0', '1.1 1.0-beta 1.a 2')
        self.assertLetsIn('nightly', 'nightly nightly.0', 'nightly.1 Nightly 0')

    def test_a_range_includes_its_beginning_and_excludes_its_end(self):
        self.assertLetsIn('1.2 <= v < 2.0', '1.2 1.2.0 1-2 1.2.1 1.9 1.10 1.999 1.9-rc 1.3.a',
                          '1.2-rc 1.1 1 0 2 2.0 2-0_0 2.0.1 3 10 a')

    def test_a_range_excludes_the_pre_releases_of_its_end(self):
        for end in ('2', '2.0', '2-0_0', '02'):
            self.assertLetsIn('1.0 <= v < ' + end, '1.0 1.0.0 1.9 1.9.9-rc 1.99999',
                              '2.0-beta 2-beta 2.a 2.0.0.rc1 2-0-0-0-alpha.7 2.0-beta.1 2.0.a.0.1 '
                              '1.0-beta 2.0')
        self.assertLetsIn('1.0 <= v < 2.1', '2.0 2-beta 2.0-beta 2.0.9 2.a',
                          '2.1 2.1-rc 2.1.0.rc 2.1.0.0.a')

    def test_a_range_may_end_at_a_pre_release(self):
        self.assertLetsIn('1.0 <= v < 2.0-rc1', '1.0 1.9 2.0-beta 2-beta 2.0-rc 2.a',
                          '2.0-rc1 2-0_rc1 2.0-rc1.0 2.0-rc1.a 2.0-rc1.0.a 2.0-rc2 2.0')

    def test_a_range_may_have_other_spaces(self):
        self.assertLetsIn('  1.2\t<=  v <   2.0 ', '1.2 1.9', '2.0 2.0-beta 1.1')

    def test_an_error_of_a_pattern_names_valid_ones(self):
        for pattern in (
                '', ' ', '.', '-_', '1.*.2', '*.1', '**', '1*', '1.1*', '*.*', '1.**', '1.*-rc',
                '1.* ', '1 .*', '*1',
                '* *', '1.2, 1.3', '1.2 1.3', '>= 1.2', '~> 1.2', '>=1.2', '<2.0', '=1.2', '~1.2',
                '^1.2', '!=1.2',
                '1.2 < v < 2.0', '1.2 <= v <= 2.0', '2.0 > v >= 1.2', '1.2 <= x < 2.0', 'v < 2.0',
                '1.2 <= v',
                '1.2 <= v < 2.0 < 3.0', '1.2 <= v <', '<= v < 2.0', '1.2 - 2.0', '1.* <= v < 2.0',
                '1.2 <= v < 2.*',
                '1.2 <= v < *', '. <= v < 2.0', '1.2 <= v < -', '1.2 <= v < >2.0',
                '=1.2 <= v < 2.0',
                '1.\u00e9', '\u0661.*', '1\0', 'v' * 256, 'v' * 254 + '.*',
                'v' * 256 + ' <= v < 2'):
            with self.subTest(pattern[:30]):
                self.assertIllegal(pattern)

    def test_operators_of_other_tools_are_refused(self):
        """As a version such a pattern would silently match nothing."""
        for pattern in ('>=1.*', '^1.*', '~1.*', '=1.*', '<2.*', '1.2<=v<2.0', '1.2<=v', 'v<2.0'):
            with self.subTest(pattern):
                self.assertIllegal(pattern)

    def test_a_range_without_a_version_is_refused(self):
        for pattern in ('2.0 <= v < 1.0', '1.0 <= v < 1.0', '1 <= v < 1-0_0', '1.0 <= v < 1.0-rc',
                        '10 <= v < 9',
                        '2.0-beta <= v < 2.0', '2-a <= v < 2', '2.0-alpha <= v < 2.0.0',
                        'a <= v < 0', '0.a <= v < 0'):
            with self.subTest(pattern):
                self.assertIllegal(pattern, 'no version can match')

    def assertIllegal(self, pattern, what='is not a version pattern'):
        with self.assertRaises(tako.VersionError) as caught:
            tako.parse_pattern(pattern)
        self.assertEqual(caught.exception.exit_code, 2)
        self.assertIn(what, caught.exception.what)
        for form in ('*', '1.*', '1.13.7', '1.2 <= v < 2.0'):
            self.assertIn(form, caught.exception.hint)

    def test_random_versions_are_in_ranges_as_by_the_definition(self):
        chance = random.Random(2)
        outcomes = {'in': 0, 'out': 0, 'empty': 0}
        for _ in range(600):
            lowest, below, *versions = filter(naive_parts,
                                              [random_version(chance) for _ in range(25)])
            pattern = '{} <= v < {}'.format(lowest, below)
            try:
                bounds = tako.parse_pattern(pattern)
            except tako.VersionError:
                outcomes['empty'] += 1
                self.assertFalse([text for text in versions + [lowest]
                                  if naive_range(lowest, below, text)], pattern)
                continue
            for text in versions + [lowest, below]:
                is_in = parse(text) in bounds
                outcomes['in' if is_in else 'out'] += 1
                self.assertEqual(is_in, naive_range(lowest, below, text),
                                 '{} in {}'.format(text, pattern))
        self.assertGreater(min(outcomes.values()), 200, outcomes)

    def test_random_versions_match_prefixes_as_by_the_definition(self):
        chance = random.Random(3)
        outcomes = []
        for _ in range(600):
            prefix, *versions = [random_version(chance) for _ in range(15)]
            bounds = tako.parse_pattern(prefix + '.*')
            for text in filter(naive_parts, versions + [prefix]):
                outcomes.append(parse(text) in bounds)
                self.assertEqual(outcomes[-1], naive_prefix(prefix, text),
                                 '{} in {}.*'.format(text, prefix))
        self.assertGreater(min(outcomes.count(True), outcomes.count(False)), 500)


class DoubtTest(unittest.TestCase):
    """Valid patterns that may be meant otherwise, with what to write instead."""

    def doubts(self, pattern):
        tako.parse_pattern(pattern)
        return list(tako.pattern_doubts(pattern))

    def assertDoubt(self, pattern, what, hint):
        self.assertEqual([(pattern + ' ' + what, hint)], self.doubts(pattern))

    def test_a_wildcard_of_other_tools(self):
        for pattern, meant in (('1.x', '1.*'), ('1.X', '1.*'), ('1.2.x', '1.2.*'),
                               ('1.x.x', '1.*'), ('1-x', '1-*'), ('x', '*')):
            self.assertDoubt(pattern, 'matches only a version of that name',
                             'for a wildcard, write ' + meant)

    def test_a_tag_of_other_tools(self):
        for pattern in ('latest', 'stable', 'main'):
            self.assertDoubt(pattern, 'matches only a version of that name',
                             'for the newest version, write *')

    def test_a_number_alone(self):
        for pattern in ('1', '12'):
            self.assertDoubt(pattern,
                             'matches only version {0}, which equals {0}.0'.format(pattern),
                             'for all versions that begin with {0}, write {0}.*'.format(pattern))

    def test_two_versions_that_look_like_a_range(self):
        self.assertDoubt('1.2-2.0', 'is one version, not a range', 'write 1.2 <= v < 2.0')

    def test_a_v_before_the_number(self):
        for pattern, meant in (('v1.*', '1.*'), ('V1.2.3', '1.2.3'),
                               ('v1.0 <= v < v2.0', '1.0 <= v < 2.0')):
            self.assertDoubt(
                pattern, 'matches no version that begins with a number',
                "write {}, unless the publisher's versions begin with v".format(meant))

    def test_pre_releases_that_a_pattern_matches(self):
        for pattern, sample in (('*', '0-rc1'), ('1.*', '1.0-rc1'), ('1.2.*', '1.2.0-rc1'),
                                ('1.2 <= v < 2.0', '1.2.1-rc1'), ('1 <= v < 2', '1.1-rc1'),
                                ('1.2 <= v < 1.2.1', '1.2.0.1-rc1')):
            self.assertIn(parse(sample), tako.parse_pattern(pattern))
            self.assertLess(parse(sample), parse(sample.replace('-rc1', '')))
            self.assertDoubt(pattern, 'also matches pre-releases, such as those with -rc1',
                             'no pattern excludes them all: see whether the publisher stores any '
                             'there')

    def test_patterns_that_leave_no_doubt(self):
        for pattern in ('1.13.7', '1.0', '20240506', '2024-05-06', '1.2-3', '1.0-rc.1', 'testing-1',
                        '1.0-beta.*', 'testing-1.*', '1.0-xen', '1.0-av1', '1.0-v2'):
            self.assertEqual([], self.doubts(pattern), pattern)


if __name__ == '__main__':
    unittest.main()

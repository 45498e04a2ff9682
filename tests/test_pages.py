"""README.md and docs/: links lead somewhere, limits are right, and tests that are named exist."""
import ast
import os
import re
import unittest

import attacks
import mutants
import scene
import tako

TESTS = os.path.join(scene.PROJECT, 'tests')
DOCS = os.listdir(os.path.join(scene.PROJECT, 'docs'))
PAGES = ['README.md'] + sorted('docs/' + name for name in DOCS if name.endswith('.md'))


def read(*names):
    with open(os.path.join(scene.PROJECT, *names), encoding='utf-8') as stream:
        return stream.read()


def prose(text):
    """Return a page without its code blocks."""
    return re.sub(r'^( *)```.*?^\1```$', '', text, flags=re.M | re.S)


def anchors(text):
    """Return the anchors of a page: its headings, as GitHub spells them."""
    headings = re.findall('^#+ (.*)$', prose(text), re.M)
    return {re.sub('[^a-z0-9 _-]', '', heading.lower()).replace(' ', '-') for heading in headings}


def dead_links(page, text):
    """Return the links of a page within the project that lead nowhere."""
    found = []
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(text)):
        name, _, anchor = target.partition('#')
        path = os.path.normpath(os.path.join(os.path.dirname(page), name)) if name else page
        if '://' in target:
            continue
        is_page = not name or os.path.exists(os.path.join(scene.PROJECT, path))
        if not is_page or (anchor and anchor not in anchors(text if path == page else read(path))):
            found.append(target)
    return found


def promises(text):
    """Return the rows of the last table of a page, each a (promise, tests that it names)."""
    rows = re.findall(r'^\| (.*) \| (.*) \|$', text.rpartition('\n## ')[2], re.M)
    return [(promise, re.findall('`([^`]+)`', tests)) for promise, tests in rows[1:]]


def definitions(path):
    """Return the classes and functions of a program, and the methods as Class.method."""
    found = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found.add(node.name)
            found.update('{}.{}'.format(node.name, each.name) for each in getattr(node, 'body', ())
                         if isinstance(node, ast.ClassDef) and isinstance(each, ast.FunctionDef))
    return found


def attack_names():
    """Return the groups of the table of attacks, and each attack as "group: name"."""
    found = set(attacks.GROUPS)
    for group, entries in attacks.GROUPS.items():
        found.update('{}: {}'.format(group, each.name) for each in entries)
    return found


def is_there(test):
    """Return whether a test (test_file.Class.test_name), suite or case (suite: case) exists."""
    module, _, name = test.partition('.')
    suite, _, case = test.partition(': ')
    if module.startswith('test_'):
        path = 'tests/{}.py'.format(module)
        return os.path.exists(os.path.join(scene.PROJECT, path)) and name in definitions(path)
    path = 'tests/e2e/{}.py'.format(suite)
    if not os.path.exists(os.path.join(scene.PROJECT, path)):
        return False
    return not case or case in (attack_names() if suite == 'liars' else definitions(path))


class LinkTest(unittest.TestCase):
    def test_each_link_leads_somewhere(self):
        for page in PAGES:
            with self.subTest(page):
                self.assertEqual([], dead_links(page, read(page)))

    def test_each_page_is_reached_from_the_overview_and_the_readme(self):
        for start in ('docs/index.md', 'README.md'):
            seen, ahead = set(), [start]
            while ahead:
                page = ahead.pop()
                if page not in seen:
                    seen.add(page)
                    ahead += [os.path.normpath(os.path.join(os.path.dirname(page), name))
                              for name in re.findall(r'\]\(([^)#\s:]+[.]md)', prose(read(page)))]
            self.assertEqual(set(), set(PAGES) - seen - {'README.md'})


class LimitTest(unittest.TestCase):
    UNITS = {'': 1, 's': 1, 'day': 86400, 'days': 86400, 'KiB': 1 << 10, 'MiB': 1 << 20}

    def told(self, text):
        """Yield what a page says of limits in a table or in its text, as (name, value)."""
        for names, values in re.findall(r'^[|] (`[A-Z_]+`(?:, `[A-Z_]+`)*) [|] ([^|]*) [|]', text,
                                        re.M):
            yield from zip(re.findall('[A-Z_]+', names), values.split(', '))
        yield from re.findall(r'`([A-Z]+_[A-Z_]+|CONNECTIONS)`, ([0-9][0-9.,]*(?: (?:KiB|MiB)\b)?)',
                              text)

    def value(self, told):
        power = re.fullmatch(r'2\^([0-9]+) - 1', told)
        if power:
            return (1 << int(power.group(1))) - 1
        number, _, unit = told.rstrip(',.').replace(',', '').partition(' ')
        return float(number) * self.UNITS[unit]

    def test_each_limit_is_on_a_page_with_its_value(self):
        limits = re.findall('^([A-Z_]+) = ', read('tako.py').split('# ====')[1], re.M)
        told = [(name, text) for page in PAGES for name, text in self.told(read(page))
                if name in limits]
        self.assertEqual([], [(name, text) for name, text in told
                              if getattr(tako, name) != self.value(text)])
        self.assertEqual(set(limits), {name for name, _ in told})


class PromiseTest(unittest.TestCase):
    def test_each_test_that_a_promise_names_exists(self):
        rows = promises(read('docs', 'security-appendix.md'))
        self.assertGreater(len(rows), 40)
        self.assertEqual([], [promise for promise, tests in rows if not tests])
        self.assertEqual([], [test for _, tests in rows for test in tests if not is_there(test)])


class SurvivorTest(unittest.TestCase):
    def test_each_line_of_a_surviving_mutant_is_in_tako(self):
        lines = {mutants.without_comment(line) for line in read('tako.py').splitlines()}
        survivors = mutants.explained()
        self.assertGreater(len(survivors), 50)
        self.assertEqual([], sorted(line for line, _ in survivors if line not in lines))


class CheckerTest(unittest.TestCase):
    """The functions above find what is wrong."""

    def test_missing_tests_are_found(self):
        for name in ('test_fetch.RefusalTest',
                     'test_files.NewFileTest.test_a_published_file_is_readable_whatever_the_umask',
                     'power',
                     'liars: rollback', 'liars: rollback: an older manifest',
                     'servers: check_redirect'):
            self.assertTrue(is_there(name), name)
        for name in ('test_fetch', 'test_fetch.NoTest', 'test_fetch.RefusalTest.test_nothing',
                     'test_none.RefusalTest', 'none',
                     'liars: boredom', 'liars: rollback: silence', 'servers: check_nobody', ''):
            self.assertFalse(is_there(name), name)

    def test_rows_of_promises_are_read(self):
        page = ('\n## Other\n\n| a | `b` |\n\n## Last\n\n'
                '| promise | test |\n|---|---|\n| `x` holds | `y`, `z: w` |\n')
        self.assertEqual([('`x` holds', ['y', 'z: w'])], promises(page))

    def test_dead_links_are_found(self):
        text = ('# `a` B, c\n[1](#a-b-c) [2](index.md#words) [3](https://example.com/)\n'
                '```\n[4](code.md)\n```\n')
        self.assertEqual([], dead_links('docs/x.md', text))
        self.assertEqual(['#d', 'none.md', 'index.md#none'],
                         dead_links('docs/x.md', text + '[1](#d) [2](none.md)\n[3](index.md#none)'))

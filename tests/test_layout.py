"""The layout of tako.py, which the comment at its top describes, and the habits of its code.

The tests read both from the syntax tree.
"""
import ast
import importlib
import os
import re
import subprocess
import sys
import tokenize
import unittest

import tako

PATH = os.path.abspath(tako.__file__)
WATERLINE = 11                          # the first section that may use files, network, processes
FUNCTION_MAX_LINES = 45
LINE_MAX_CHARS = 100
FIRST_PRINTING_SECTION = 15
# Sections above the waterline may import these modules, and use these names of others.
PURE_MODULES = {'array', 'binascii', 'bisect', 'difflib', 'errno', 'functools', 'hashlib',
                'itertools', 'lzma', 're', 'struct', 'urllib.parse', 'zlib',
                'collections.namedtuple'}
PURE_NAMES = {'os.fsdecode', 'sys.version_info'}
IMPURE_BUILTINS = {'open', 'print', 'input', 'exec', 'eval', 'compile', '__import__', 'globals',
                   'vars', 'breakpoint'}
# The modules of the standard library; Python lists them itself from 3.10 on.
STDLIB = getattr(sys, 'stdlib_module_names', None) or {
    '_thread', 'argparse', 'array', 'base64', 'binascii', 'bisect', 'bz2', 'calendar',
    'collections', 'concurrent', 'contextlib', 'datetime', 'difflib', 'email', 'errno', 'fcntl',
    'functools', 'gc', 'gzip', 'hashlib', 'hmac', 'http', 'io', 'ipaddress', 'itertools', 'json',
    'lzma', 'math', 'mmap', 'os', 'platform', 'queue', 'random', 're', 'resource', 'select',
    'shutil', 'signal', 'socket', 'ssl', 'stat', 'string', 'struct', 'subprocess', 'sys',
    'tempfile', 'threading', 'time', 'types', 'typing', 'urllib', 'zlib'}


class Source:
    """A Python program that is divided into numbered sections by banners."""

    def __init__(self, text):
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.banners = []               # (first line, number, name)
        for line, content in enumerate(self.lines, 1):
            match = re.match(r'# ={50,} ?(\d+) +(.+)$', content)
            if match:
                self.banners.append((line, int(match.group(1)), match.group(2)))

    def section(self, line):
        """Return the number of the section of a line; 0 before the first banner."""
        return ([0] + [number for first, number, _ in self.banners if first <= line])[-1]

    def sections(self):
        """Return a dict from each name defined at module level to its section."""
        found = {}
        for statement in self.tree.body:
            targets = getattr(statement, 'targets', [getattr(statement, 'target', None)])
            names = [name.id for target in targets if target
                     for name in ast.walk(target) if isinstance(name, ast.Name)]
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                names = [statement.name]
            for name in names:
                found.setdefault(name, self.section(statement.lineno))
        return found

    def uses_from_below(self):
        """Return (line, name, its section) of each use of a name that a later section defines."""
        sections = self.sections()
        used = GlobalNames(self.tree).found + type_comment_names(self.lines)
        return sorted({(line, name, sections[name]) for line, name in used
                       if sections.get(name, 0) > self.section(line)})

    def functions(self):
        """Return all functions, also those in classes and in other functions."""
        return [node for node in ast.walk(self.tree)
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]

    def imports(self):
        """Yield (line, module or module.name) of each import, also of those in functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield node.lineno, '.' * node.level + (node.module or '') + '.' + alias.name


class GlobalNames(ast.NodeVisitor):
    """Finds (line, name) of each name that is not local to a function.

    It also finds those in annotations that are strings.
    """

    def __init__(self, tree):
        self.found = []
        self.local = [set()]
        self.visit(tree)

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load) and not any(node.id in names for names in self.local):
            self.found.append((node.lineno, node.id))

    def visit_FunctionDef(self, node):
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                self.visit_annotation(argument.annotation)
        defaults = node.args.defaults + [each for each in node.args.kw_defaults if each]
        for each in node.decorator_list + defaults:
            self.visit(each)
        self.visit_annotation(node.returns)
        self.local.append(set(bound_names(node)))
        for statement in node.body:
            self.visit(statement)
        self.local.pop()

    def visit_Lambda(self, node):
        self.local.append(set(bound_names(node)))
        self.generic_visit(node)
        self.local.pop()

    def visit_AnnAssign(self, node):
        self.visit_annotation(node.annotation)
        self.visit(node.target)
        if node.value:
            self.visit(node.value)

    def visit_annotation(self, node):
        for each in ast.walk(node) if node else ():
            if isinstance(each, ast.Name):
                self.visit(each)
            text = string_value(each)
            if text is not None:
                line = each.lineno
                self.found += [(line, name.id) for name in ast.walk(ast.parse(text))
                               if isinstance(name, ast.Name)]


def bound_names(function):
    """Yield the local names of a function or a lambda: its arguments and assigned names."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split('.')[0]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node is not function:
            yield node.name


def string_value(node):
    """Return the text of a string node, which is a Str up to Python 3.7; None for other nodes."""
    value = getattr(node, 's' if type(node).__name__ == 'Str' else 'value', None)
    return value if type(node).__name__ in ('Str', 'Constant') and isinstance(value, str) else None


def type_comment_names(lines):
    """Return (line, name) of each name in a type comment."""
    rest = iter(line + '\n' for line in lines)
    comments = [token for token in tokenize.generate_tokens(lambda: next(rest, ''))
                if token.type == tokenize.COMMENT and token.string.startswith('# type:')]
    return [(token.start[0], name) for token in comments
            for name in re.findall(r'[A-Za-z_]\w*', token.string[7:])]


def dotted(node):
    """Return the text of a chain of names such as os.path.join; None for any other node."""
    if isinstance(node, ast.Name):
        return node.id
    left = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return left and left + '.' + node.attr


def length(function):
    """Return the number of lines of a function."""
    last = max(getattr(node, 'end_lineno', None) or getattr(node, 'lineno', 0)
               for node in ast.walk(function))
    return last - function.lineno + 1


def undocumented(source):
    """Return (line, name) of each public function, class and method without a docstring.

    The docstring must begin with a whole sentence.
    """
    definitions = [(node, ()) for node in source.tree.body
                   if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for node, _ in list(definitions):
        if isinstance(node, ast.ClassDef):
            # The documentation of the standard library describes methods that override its own.
            bases = [getattr(importlib.import_module(base.value.id), base.attr)
                     for base in node.bases if isinstance(base, ast.Attribute)]
            documented = {name for base in bases for name in dir(base)}
            definitions += [(each, documented) for each in node.body
                            if isinstance(each, ast.FunctionDef)]
    return [(node.lineno, node.name) for node, documented in definitions
            if not node.name.startswith('_') and node.name not in documented
            and not re.match('.*[.:]$', ast.get_docstring(node) or '', re.MULTILINE)]


def long_lines(source):
    """Return (section, line) of each line that has more than LINE_MAX_CHARS characters."""
    return [(source.section(number), number) for number, line in enumerate(source.lines, 1)
            if len(line) > LINE_MAX_CHARS]


def impurities(source):
    """Return (line, name) of each use of files, network, processes or clock above the waterline."""
    imported = {name.split('.')[0] for _, name in source.imports()
                if not name.startswith('collections.')}
    found = []
    parts = set()                       # the nodes of chains like os.path.join, checked as a whole
    for node in ast.walk(source.tree):  # ast.walk yields a chain before its parts
        name = None if node in parts else dotted(node)
        if name is None or not 0 < source.section(node.lineno) < WATERLINE:
            continue
        parts.update(ast.walk(node))
        is_impure_module = (name.split('.')[0] in imported
                            and not (name in PURE_NAMES or is_pure(name)))
        if name in IMPURE_BUILTINS or is_impure_module:
            found.append((node.lineno, name))
    found += [(line, name) for line, name in source.imports()
              if 0 < source.section(line) < WATERLINE and not is_pure(name)]
    return found


def is_pure(name):
    """Return whether a module, or a name in one, may be used above the waterline."""
    return any((name + '.').startswith(module + '.') for module in PURE_MODULES)


def read_source():
    with open(PATH, encoding='utf-8') as stream:
        return Source(stream.read())


def run_python(*arguments):
    """Run Python without environment variables and user packages.

    Return stdout, stderr and the exit code.
    """
    process = subprocess.run([sys.executable, '-I', '-B', '-W', 'error'] + list(arguments),
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
    return process.stdout.decode('ascii'), process.stderr.decode('ascii'), process.returncode


class LayoutTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.source = read_source()

    @classmethod
    def tearDownClass(cls):
        del cls.source          # otherwise the garbage collector visits the tree in all later tests

    def test_each_section_uses_only_itself_and_those_above(self):
        uses = ['line {}: {} is defined in section {}'.format(*use)
                for use in self.source.uses_from_below()]
        self.assertEqual(uses, [])

    def test_sections_above_the_waterline_use_only_bytes_and_values(self):
        self.assertEqual(impurities(self.source), [])

    def test_the_table_lists_the_sections(self):
        in_table = [re.match(r'# {2,3}(\d+) {2}(\S.*?) {2,}\S', line) for line in self.source.lines]
        listed = [(int(match.group(1)), match.group(2)) for match in in_table if match]
        self.assertEqual(listed, [(number, name) for _, number, name in self.source.banners])
        self.assertEqual([number for number, _ in listed], list(range(1, len(listed) + 1)))

    def test_the_waterline_is_where_the_table_has_it(self):
        waterlines = [line for line, text in enumerate(self.source.lines, 1)
                      if re.match('# *~{10,}', text)]
        self.assertEqual(len(waterlines), 2)
        in_table, in_file = waterlines
        self.assertRegex(self.source.lines[in_table - 2], r'^# +{} '.format(WATERLINE - 1))
        self.assertRegex(self.source.lines[in_table], r'^# +{} '.format(WATERLINE))
        self.assertEqual((self.source.section(in_file), self.source.section(in_file + 6)),
                         (WATERLINE - 1, WATERLINE))

    def test_all_imports_are_in_the_standard_library(self):
        imports = [(line, name.split('.')[0]) for line, name in self.source.imports()]
        self.assertIn('argparse', dict(map(reversed, imports)))
        self.assertEqual([(line, name) for line, name in imports
                          if name not in STDLIB or name == 'ctypes'], [])

    def test_only_the_last_sections_print(self):
        self.assertEqual([node.lineno for node in ast.walk(self.source.tree)
                          if dotted(node) == 'print'], [])
        early = [node.lineno for node in ast.walk(self.source.tree)
                 if dotted(node) in ('sys.stdout', 'sys.stderr', 'sys.__stdout__', 'sys.__stderr__')
                 and self.source.section(node.lineno) < FIRST_PRINTING_SECTION]
        self.assertEqual(early, [])


class HabitTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.source = read_source()

    @classmethod
    def tearDownClass(cls):
        del cls.source          # otherwise the garbage collector visits the tree in all later tests

    def test_every_function_is_annotated(self):
        bare = []
        for function in self.source.functions():
            arguments = [each for each in ast.walk(function.args) if isinstance(each, ast.arg)]
            bare += [(function.lineno, each.arg) for each in arguments
                     if each.annotation is None and each.arg not in ('self', 'cls')]
            if function.returns is None:
                bare.append((function.lineno, function.name))
        self.assertEqual(bare, [])

    def test_no_function_is_long(self):
        lengths = [(length(function), function.name) for function in self.source.functions()]
        self.assertGreater(max(lengths)[0], 10)
        self.assertEqual([each for each in lengths if each[0] > FUNCTION_MAX_LINES], [])

    def test_public_functions_classes_and_methods_have_docstrings(self):
        self.assertEqual(undocumented(self.source), [])

    def test_no_line_is_long(self):
        self.assertEqual([], long_lines(self.source))

    def test_there_is_no_module_state(self):
        self.assertEqual([node.lineno for node in ast.walk(self.source.tree)
                          if isinstance(node, ast.Global)], [])


class ProcessTest(unittest.TestCase):

    def test_import_prints_nothing_loads_little_and_sets_no_signal_handler(self):
        script = '\n'.join((
            'import signal, sys',
            'import hashlib',           # on PyPy, hashlib imports socket
            'given = set(sys.modules)',
            'sys.path.insert(0, sys.argv[1])',
            'names = [name for name in dir(signal) if name[:3] == "SIG" and name[3] != "_"]',
            'numbers = [getattr(signal, name) for name in names]',
            'handlers = [signal.getsignal(number) for number in numbers]',
            'import tako',
            'assert handlers == [signal.getsignal(number) for number in numbers], "signals"',
            'heavy = {"http", "ssl", "socket", "urllib", "subprocess", "json", "typing",',
            '         "difflib", "tempfile"}',
            'imported = heavy & (set(sys.modules) - given)',
            'assert not imported, sorted(imported)'))
        # -S: otherwise .pth files of installed packages can import any module.
        self.assertEqual(run_python('-S', '-c', script, os.path.dirname(PATH)), ('', '', 0))

    def test_help_works_without_docstrings(self):
        for options in ((), ('-O',), ('-OO',)):
            with self.subTest(options):
                out, err, code = run_python(*(options + (PATH, '--help')))
                self.assertEqual((code, err), (0, ''))
                for command in ('fetch', 'store', 'gen-key'):
                    self.assertIn(command, out)


class CheckerTest(unittest.TestCase):
    """The checks above find the faults of these programs."""

    BANNER = '# ' + '=' * 60 + ' {}\n'

    def sections(self, *bodies):
        return Source(''.join(self.BANNER.format('{}  name'.format(number)) + body + '\n'
                              for number, body in enumerate(bodies, 1)))

    def test_each_kind_of_use_from_below_is_found(self):
        below = 'class Below:\n    pass\n\n\ndef below():\n    pass\n\n\nBELOW = 1'
        uses = {
            'at the module level': 'X = [\n    below]', 'under an if': 'if X:\n    below()',
            'in a function': 'def f():\n    return BELOW',
            'in an inner function': 'def f():\n    def g(): return BELOW',
            'in a method': 'class C:\n    def f(self):\n        below()',
            'in a lambda': '\nX = lambda: BELOW',
            'in an except': 'try: X = 1\nexcept Below: pass', 'in an f-string': "\nX = f'{BELOW}'",
            'in a comprehension': '\nX = [BELOW for x in ()]',
            'of an attribute': '\nX = BELOW.real',
            'as an argument': '\nX = dict(x=BELOW)', 'as a base': '\nclass C(Below): pass',
            'as a default': '\ndef f(x=BELOW): pass',
            'as a keyword default': '\ndef f(*, x=BELOW): pass',
            'as a decorator': '\n@below\ndef f(): pass',
            'in an annotation': '\ndef f(x: Below): pass',
            'in a string annotation': "\ndef f(x: 'List[Below]'): pass",
            'in a string within an annotation': "\ndef f(x: List['Below']): pass",
            'as a return type': "\ndef f() -> 'Below': pass",
            'in a class annotation': "class C:\n    x: 'Below'",
            'in a type comment': '\nX = []  # type: List[Below]',
        }
        for where, text in uses.items():
            with self.subTest(where):
                found = self.sections(text, below).uses_from_below()
                self.assertEqual([section for _, _, section in found], [2])
                self.assertEqual(found[0][1].lower(), 'below')
                if 'f-string' not in where:     # up to Python 3.7, their line numbers are wrong
                    self.assertIn(found[0][1], text.splitlines()[found[0][0] - 2])

    def test_legal_uses_are_not_reported(self):
        below = 'def below(name=0):\n    pass\nBELOW = 1'
        for text in ('def f():\n    return g()\ndef g(): pass', 'def f(below):\n    return below',
                     'def f():\n    below = 1\n    return below',
                     'def f(x):\n    x.below()\n    g(BELOW=1)',
                     '# BELOW\nX = "BELOW"', '"""BELOW"""', 'f = lambda below: below',
                     'def f():\n    return [below for below in ()]',
                     'def f():\n    import below\n    below.x()'):
            with self.subTest(text):
                self.assertEqual(self.sections(text, below).uses_from_below(), [])
        source = self.sections('X = 1', 'Y = X', 'def f():\n    return X + Y + f()')
        self.assertEqual(source.uses_from_below(), [])

    def test_impure_names_above_the_waterline_are_found(self):
        for text in ('os.getcwd()', 'X = os.environ', 'os.path.join', 'def f(x=os): pass',
                     'sys.stdout', 'sys.argv', 'open(1)', 'print(1)', 'def f():\n    time.time()',
                     'def f():\n    import socket', 'def f():\n    import urllib.request',
                     'def f():\n    import http.client as re',
                     'def f():\n    from os import getcwd'):
            with self.subTest(text):
                imports = 'import os, sys, time, re, hashlib\n'
                source = Source(imports + self.BANNER.format('3  name') + text + '\n')
                self.assertEqual([line - 2 for line, _ in impurities(source)],
                                 [len(text.splitlines())])
                banner = self.BANNER.format('{}  name'.format(WATERLINE))
                below = Source(imports + banner + text + '\n')
                self.assertEqual(impurities(below), [])
        pure = ('X = hashlib.sha256(b"").digest()\nos.fsdecode(b"")\nre.match("", "")\n'
                'def f(x):\n    x.open(x.time)\n')
        banner = self.BANNER.format('{}  name'.format(WATERLINE - 1))
        above = Source('import os, re, hashlib\n' + banner + pure)
        self.assertEqual(impurities(above), [])

    def test_a_missing_docstring_is_found(self):
        for text, name in (
                ('def f(): pass', 'f'), ('class C: pass', 'C'),
                ('class C:\n    """Is."""\n    def f(self): pass', 'f'),
                ('class _C:\n    def f(self): pass', 'f'),
                ('class _C:\n    @property\n    def f(self): pass', 'f'),
                ('import io\nclass _C(io.RawIOBase):\n    def readable(self): pass\n'
                 '    def f(self): pass', 'f'),
                ('def f():\n    """ """', 'f'),
                ('def f():\n    """Return one,\n    and another."""', 'f')):
            with self.subTest(text):
                self.assertEqual([found for _, found in undocumented(Source(text))], [name])
        for text in ('def f():\n    """Return."""', 'def f():\n    """Return:\n\n    one"""',
                     'def _f(): pass',
                     'class _C:\n    def __init__(self): pass\n    def _f(self): pass',
                     'def _f():\n    def g(): pass'):
            with self.subTest(text):
                self.assertEqual(undocumented(Source(text)), [])

    def test_long_lines_are_found_in_their_sections(self):
        fits, long = '#' * LINE_MAX_CHARS, '#' * (LINE_MAX_CHARS + 1)
        source = self.sections(fits, '\n'.join((fits, long, '"""' + fits + '"""')),
                               '# \u00fc'.ljust(LINE_MAX_CHARS))
        self.assertEqual(long_lines(source), [(2, 5), (2, 6)])

    def test_the_length_of_a_function(self):
        source = Source('def f():\n    pass\n\ndef g():\n    x = (1,\n         2)\n')
        self.assertEqual([length(each) for each in source.functions()], [2, 3])


if __name__ == '__main__':
    unittest.main()

"""For `make mutants`: changes tako.py in each small way that Cosmic Ray knows, and runs the tests.

    mutants.py [SECTION...]

If no test fails, the mutant survives. Then write a test that fails, or add the mutant to
mutants_survivors.md with the reason why no test can.

It works on a copy of the project, in which the section under test is a file that tako.py executes.
So Python parses only the section for each mutant, and compiles the rest once.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SECTIONS = {        # each with the tests that are run
    'keys': 'test_keys',
    'versions': 'test_versions',
    'config': 'test_config',
    'manifest': 'test_manifest test_stamp_format',
    'fetch': 'test_plan test_recall.RecallTest test_proof.FindProofTest '
             'test_proof.StoredProofTest test_delay.WaitingTest '
             'test_delay.PlanTest test_delay.SeenTest',
    'Ed25519': 'test_ed25519',
}
# where a section ends, if not before the next one: here, what decides from values alone ends
ENDS = {'fetch': '^class Switch:'}
NEXT_SECTION = '^# (=|~){20}'
BANNER = '^# =+ [0-9]+ +{}\n'
# times the time of the unchanged tests; a mutant that takes longer hangs
TIMEOUT_FACTOR = 10
TIMEOUT_MIN_SECONDS = 10
# CPython has one object for each small value, so these change nothing.
EQUIVALENT = ['core/ReplaceComparisonOperator_Eq_Is', 'core/ReplaceComparisonOperator_NotEq_IsNot',
              'core/ReplaceComparisonOperator_Is_Eq', 'core/ReplaceComparisonOperator_IsNot_NotEq']
LOADER = """with open(os.path.join(os.path.dirname(__file__), 'section.py')) as _section:
    exec(compile(_section.read(), 'section.py', 'exec'))
"""
SETTINGS = '''[cosmic-ray]
module-path = "section.py"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -W ignore -m unittest -f {tests}"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = {equivalent}
'''


def split(source, name):
    """Return the source before a section, the section, and the source after it."""
    begin = re.search(BANNER.format(re.escape(name)), source, re.MULTILINE)
    end = re.compile(ENDS.get(name, NEXT_SECTION), re.MULTILINE).search(source, begin.end())
    return source[:begin.start()], source[begin.start():end.start()], source[end.start():]


def command(name, *arguments, **settings):
    """Run a command of this virtual environment."""
    return subprocess.run([os.path.join(os.path.dirname(sys.executable), name)] + list(arguments),
                          check=True, **settings)


def mutate(name, folder):
    """Try all mutants of a section. Return their results, each with its diff."""
    for each in ('tests', 'docs'):
        shutil.copytree(os.path.join(ROOT, each), os.path.join(folder, each),
                        ignore=shutil.ignore_patterns('__pycache__'))
    for each in ('README.md', 'Makefile'):
        shutil.copy(os.path.join(ROOT, each), folder)
    with open(os.path.join(ROOT, 'tako.py')) as stream:
        before, section, after = split(stream.read(), name)
    for path, text in (('tako.py', before + LOADER + after), ('section.py', section)):
        with open(os.path.join(folder, path), 'w') as new:
            new.write(text)
    settings = {'cwd': folder, 'env': dict(os.environ, PYTHONPATH='.:tests')}
    began = time.monotonic()
    command(os.path.basename(sys.executable), '-m', 'unittest', '-f', *SECTIONS[name].split(),
            stderr=subprocess.DEVNULL, **settings)
    timeout = max(TIMEOUT_MIN_SECONDS, TIMEOUT_FACTOR * (time.monotonic() - began))
    with open(os.path.join(folder, 'settings.toml'), 'w') as new:
        new.write(SETTINGS.format(timeout=timeout, python=sys.executable, tests=SECTIONS[name],
                                  equivalent=json.dumps(EQUIVALENT)))
    command('cosmic-ray', 'init', 'settings.toml', 'session.sqlite', **settings)
    command('cr-filter-operators', 'session.sqlite', 'settings.toml', stderr=subprocess.DEVNULL,
            **settings)
    command('cosmic-ray', 'exec', 'settings.toml', 'session.sqlite', **settings)
    dump = command('cosmic-ray', 'dump', 'session.sqlite', stdout=subprocess.PIPE,
                   universal_newlines=True, **settings)
    return [json.loads(line) for line in dump.stdout.splitlines()]


def was_left_out(result):
    """Return whether a mutant is one of EQUIVALENT."""
    return result is not None and result['worker_outcome'] == 'skipped'


def was_tried(result):
    """Return whether the tests ran on a mutant: it has a result, and they could be started."""
    return (result is not None and result['worker_outcome'] == 'normal'
            and result['test_outcome'] != 'incompetent')


def without_comment(line):
    """Return a line of Python without spaces and comment around it."""
    return re.sub('  +# .*', '', line).strip()


def change(diff):
    """Return the line of tako.py that a mutant changes, and "old words > new words"."""
    line, new = (next((without_comment(each[1:]) for each in diff.splitlines()
                       if re.match(sign + '(?!' + sign * 2 + ')', each)), '')
                 for sign in ('-', '[+]'))
    old_words, new_words = (re.findall(r'\w+|[^\w\s]+', each) for each in (line, new))
    while old_words[:1] == new_words[:1] and old_words:
        del old_words[0], new_words[0]
    while old_words[-1:] == new_words[-1:] and old_words:
        del old_words[-1], new_words[-1]
    return line, '{} > {}'.format(' '.join(old_words), ' '.join(new_words))


def explained():
    """Return the (line, change) pairs of which mutants_survivors.md says why they survive."""
    with open(os.path.join(HERE, 'mutants_survivors.md')) as stream:
        table = stream.read()
    rows = re.findall('^[|] `` (.*?) `` [|] (.*?) [|] ', table, re.MULTILINE)
    return {(line.replace('\\|', '|'), each.replace('\\|', '|')) for line, changes in rows
            for each in re.findall('`` (.*?) ``', changes)}


def main(names):
    known_changes, is_right = explained(), True
    for name in names or SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            mutants = [result for _, result in mutate(name, folder) if not was_left_out(result)]
        tried = [result for result in mutants if was_tried(result)]
        survivors = [result['diff'] for result in tried if result['test_outcome'] == 'survived']
        known = [diff for diff in survivors if change(diff) in known_changes]
        for diff in survivors:
            if diff not in known:
                print('{}\n`` {} `` {}'.format(diff, *change(diff)), flush=True)
        print('{}: {} mutants, {} killed, {} survive as listed, {} survive, {} could not be '
              'tried'.format(name, len(mutants), len(tried) - len(survivors), len(known),
                             len(survivors) - len(known), len(mutants) - len(tried)), flush=True)
        is_right = (is_right and mutants and len(survivors) == len(known)
                    and len(tried) == len(mutants))
    return 0 if is_right else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

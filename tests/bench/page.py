"""make bench-plots: draws the results of make bench, and writes the two pages of performance.

The results are in build/bench/. The texts of the pages are the *.md files in this directory, and
the pages go to docs/. Each table goes between the lines <!-- NAME --> and <!-- end -->.
"""
import os
import re
import statistics

import plots

TEXTS = os.path.dirname(os.path.abspath(__file__))
PAGES = 'performance.md', 'performance-tables.md'
TABLES_PYTHON = '3.11'                  # the Python of the tables, or else the newest one

# (task, figure, peer) of each row of the short table
SUMMARY = (
    ('fetch over http, nothing to do, image of 1 MiB', 'no-op fetch, http, 1 MiB image',
     'naive shell script (curl, signify, sha256sum)'),
    ('the same over https', 'no-op fetch, https, 1 MiB image', 'curl of the manifest alone'),
    ('fetch over http, nothing to do, with the bare file', 'no-op fetch, http, the bare file',
     'the installed tako'),
    ('fetch --init, image of 1 MiB', 'fetch --init, 1 MiB image in place',
     'sha256sum -c (no signature)'),
    ('download of 1 GiB, verified, durable', 'fetch 1 GiB, http, verified, durable',
     'curl && sync && sha256sum'),
)


def table(head, rows):
    """Return a table in Markdown."""
    lines = [head, ['---'] * len(head)] + [[str(cell) for cell in row] for row in rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def comparison(found, shown, kind):
    """Return the table of one kind: the medians on one Python, and the results on all."""
    head = ['figure', 'beside', 'Tako', 'peer'] + [result['python'] for result in found]
    rows = []
    for row in shown['rows']:
        if row['kind'] == kind and row['result'] is not None:
            same = [same_row(result, row) for result in found]
            bounds = sorted({each['bound'] for each in same if each['bound'] is not None})
            rows.append([row['figure'], row['peer'], amount(row['tako'], row['unit']),
                         amount(row['values'], row['unit'])]
                        + [outcome(each) for each in same]
                        + [' or '.join(number(bound, row) for bound in bounds), remark(same)])
    return table(head + ['bound', ''], rows)


def summary(shown):
    """Return the short table: a few tasks, with the medians of Tako and of one peer."""
    rows = {(row['figure'], row['peer']): row for row in shown['rows']}
    found = [(task, peer, rows[figure, peer]) for task, figure, peer in SUMMARY]
    return table(['task', 'Tako', 'for comparison', ''],
                 [[task, amount(row['tako'], row['unit']), amount(row['values'], row['unit']), peer]
                  for task, peer, row in found])


def same_row(result, row):
    """Return the row of a result that has the figure and the peer of another row."""
    return next(each for each in result['rows']
                if (each['figure'], each['peer']) == (row['figure'], row['peer']))


def amount(values, unit):
    middle = statistics.median(values)
    return '{:.{n}f} {}'.format(middle, unit, n=0 if middle >= 100 else 2 if middle < 10 else 1)


def number(value, row):
    if row['kind'] == 'more':
        return '{:+.2f}'.format(value)
    return '{:.3f}'.format(value) if value < 0.1 else '{:.2f}'.format(value)


def outcome(row):
    """Return a result as text, with a star if it is the best of several runs."""
    if row['result'] is None:
        return '-'
    star = '\\*' if row['runs'] > 1 else ''
    is_missed = row['bound'] is not None and row['result'] > row['bound']
    return ('**{}** missed' if is_missed else '{}').format(number(row['result'], row)) + star


def remark(same):
    compared = [row['result'] for row in same if row['result'] is not None]
    is_contest = same[0]['kind'] == 'ratio' and not same[0]['is_floor']
    if is_contest and min(compared) > 1:
        return 'peer ahead'
    return ''


def machines(found, shown):
    """Return the table of the machine and of all versions."""
    versions = dict(shown['versions'])
    rows = [['machine', versions.pop('machine')]]
    rows += [['Python', dict(result['versions'])['Python']] for result in found]
    versions.pop('Python')
    rows.append(['peers', ', '.join('{} {}'.format(*each) for each in versions.items())])
    return table(['', ''], rows)


def arithmetic(shown):
    """Return the calculation of the last row of the fleet's table."""
    scheme, few, much, cpu_few, cpu_much, _ = shown['tables']['Requests']['rows'][-1]
    size = 100000 * (23 * int(few) + int(much))
    seconds = 100 * (23 * float(cpu_few) + float(cpu_much))
    lines = ['100,000 clients over {}, a day:'.format(scheme), '',
             '    requests  100,000 x 24 = 2,400,000, or 28 a second on average',
             '    bytes     100,000 x (23 x {} + {}) = {:.1f} GB'.format(few, much, size / 1e9),
             '    CPU       100,000 x (23 x {} ms + {} ms) = {:.0f} s of 86,400, '
             'or {:.1f} % of one core'.format(cpu_few, cpu_much, seconds, seconds / 864)]
    return '\n'.join(lines)


def write(found):
    """Write the pages with all tables."""
    shown = next((result for result in found if result['python'] == TABLES_PYTHON), found[-1])
    parts = {'machine': machines(found, shown), 'ratios': comparison(found, shown, 'ratio'),
             'differences': comparison(found, shown, 'more'), 'arithmetic': arithmetic(shown),
             'summary': summary(shown)}
    for title in ('Manifests', 'Images', 'Configs in one run', 'Requests', 'Fleet, a day'):
        parts[title] = table(shown['tables'][title]['head'], shown['tables'][title]['rows'])
    for name in PAGES:
        with open(os.path.join(TEXTS, name)) as stream:
            text = stream.read()
        with open(os.path.join(plots.DOCS, name), 'w') as stream:
            stream.write(fill(text, parts))
        print('docs/' + name)


def fill(text, parts):
    """Return a text with each table that it names. Raises KeyError if there is no such table."""
    return re.sub('(?s)(<!-- ([^\n]+) -->\n).*?(<!-- end -->)',
                  lambda match: '{}\n{}\n\n{}'.format(match.group(1), parts[match.group(2)],
                                                      match.group(3)), text)


if __name__ == '__main__':
    plots.draw(plots.results())
    write(plots.results())

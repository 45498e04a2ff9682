"""make bench-plots: draw what make bench left in build/bench/, and make docs/performance.md of its figures.

The page is performance.md beside this file, written by hand; figures go between lines of <!-- name --> and <!-- end -->.
"""
import os
import re
import statistics

import plots

TEXT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'performance.md')
PAGE = os.path.join(plots.DOCS, 'performance.md')
WITH_TABLES_OF = '3.11'                 # or the last there is


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ['---'] * len(head)] + [[str(cell) for cell in row] for row in rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def comparison(found, shown, kind):
    """The rows of one kind, with the medians on one Python and the results on each."""
    head = ['figure', 'beside', 'Tako', 'peer'] + [result['python'] for result in found] + ['bound', '']
    rows = []
    for row in shown['rows']:
        if row['kind'] == kind and row['result'] is not None:
            same = [next(each for each in result['rows'] if (each['figure'], each['peer']) == (row['figure'], row['peer']))
                    for result in found]
            bounds = sorted({each['bound'] for each in same if each['bound'] is not None})
            rows.append([row['figure'], row['peer'], amount(row['tako'], row['unit']), amount(row['values'], row['unit'])]
                        + [outcome(each) for each in same]
                        + [' or '.join(number(bound, row) for bound in bounds), remark(same)])
    return table(head, rows)


def amount(values, unit):
    middle = statistics.median(values)
    return '{:.{n}f} {}'.format(middle, unit, n=0 if middle >= 100 else 2 if middle < 10 else 1)


def number(value, row):
    if row['kind'] == 'more':
        return '{:+.2f}'.format(value)
    return '{:.3f}'.format(value) if value < 0.1 else '{:.2f}'.format(value)


def outcome(row):
    """A result; a star where the best of several runs counted."""
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
    """What all of it was measured on, and with."""
    versions = dict(shown['versions'])
    rows = [['machine', versions.pop('machine')]]
    rows += [['Python', dict(result['versions'])['Python']] for result in found]
    versions.pop('Python')
    rows.append(['peers', ', '.join('{} {}'.format(*each) for each in versions.items())])
    return table(['', ''], rows)


def arithmetic(shown):
    """The last row of the fleet's table, step by step."""
    scheme, few, much, cpu_few, cpu_much, _ = shown['tables']['Requests']['rows'][-1]
    size = 100000 * (23 * int(few) + int(much))
    seconds = 100 * (23 * float(cpu_few) + float(cpu_much))
    lines = ['100,000 clients over {}, a day:'.format(scheme), '',
             '    requests  100,000 x 24 = 2,400,000, or 28 a second on average',
             '    bytes     100,000 x (23 x {} + {}) = {:.1f} GB'.format(few, much, size / 1e9),
             '    CPU       100,000 x (23 x {} ms + {} ms) = {:.0f} s of 86,400, or {:.1f} % of one core'.format(
                 cpu_few, cpu_much, seconds, seconds / 864)]
    return '\n'.join(lines)


def write(found):
    """Put the figures into the page."""
    shown = next((result for result in found if result['python'] == WITH_TABLES_OF), found[-1])
    parts = {'machine': machines(found, shown), 'ratios': comparison(found, shown, 'ratio'),
             'differences': comparison(found, shown, 'more'), 'arithmetic': arithmetic(shown)}
    for title in ('Manifests', 'Images', 'Configs in one run', 'Requests', 'Fleet, a day'):
        parts[title] = table(shown['tables'][title]['head'], shown['tables'][title]['rows'])
    with open(TEXT) as stream:
        text = stream.read()
    for name, content in parts.items():
        text, count = re.subn('(?s)(<!-- {} -->\n).*?(<!-- end -->)'.format(re.escape(name)),
                              lambda match, content=content: match.group(1) + '\n' + content + '\n\n' + match.group(2), text)
        if count != 1:
            raise SystemExit('{}: no place for {}'.format(TEXT, name))
    with open(PAGE, 'w') as stream:
        stream.write(text)
    print('docs/performance.md')


if __name__ == '__main__':
    plots.draw(plots.results())
    write(plots.results())

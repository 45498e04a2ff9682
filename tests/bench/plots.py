"""Draws the results of make bench, which are in build/bench/, as SVG files in docs/."""
import json
import os

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESULTS = os.path.join(PROJECT, 'build', 'bench')
DOCS = os.path.join(PROJECT, 'docs')
COLOURS = '#2f6f4f', '#33475b', '#b9863b'
BOUND_COLOUR = '#a33a2c'


def results():
    """Return the results of each Python, in the order of their versions."""
    names = os.listdir(RESULTS) if os.path.isdir(RESULTS) else []
    found = []
    for name in names:
        with open(os.path.join(RESULTS, name)) as stream:
            found.append(json.load(stream))
    if not found:
        raise SystemExit('build/bench/ has no results: run make bench first')
    return sorted(found, key=lambda each: [int(part) for part in each['python'].split('.')])


def save(figure, name, title):
    """Write a figure as SVG, without a date, so that the same results make the same file."""
    figure.savefig(os.path.join(DOCS, name), metadata={'Date': None, 'Title': title},
                   bbox_inches='tight')
    print('docs/' + name)


def draw_ratios(plot, found):
    """Draw each ratio with a bound as a part of its bound, and the ratios to peers without one."""
    figure, (left, right) = plot.subplots(1, 2, figsize=(12, 4.2))
    bounded = [row for row in found[-1]['rows'] if row['bound'] and row['kind'] == 'ratio']
    draw_bars(left, found, bounded, lambda row: row['result'] / row['bound'],
              'Tako / peer, as a part of the bound')
    left.axvline(1, color=BOUND_COLOUR)
    left.text(1, -0.75, 'bound', color=BOUND_COLOUR, ha='center', fontsize=8)
    others = [row for row in found[-1]['rows']
              if not row['bound'] and not row['is_floor'] and row['kind'] == 'ratio']
    draw_bars(right, found, others, lambda row: row['result'],
              'Tako / peer (beyond 1, the peer is ahead)')
    right.axvline(1, color=BOUND_COLOUR)
    right.set_xscale('log')
    figure.tight_layout()
    save(figure, 'performance-ratios.svg', 'Tako beside its peers: shorter is better')


def draw_bars(axes, found, rows, length, label):
    """Draw a group of bars for each row, with a bar for each Python. length: function of a row."""
    height = 0.8 / len(found)
    for number, result in enumerate(found):
        of_this_python = {(row['figure'], row['peer']): row for row in result['rows']}
        for place, shown in enumerate(rows):
            row = of_this_python.get((shown['figure'], shown['peer']))
            if row and row['result'] is not None and bool(row['bound']) == bool(shown['bound']):
                axes.barh(place + number * height, length(row), height,
                          color=COLOURS[number % len(COLOURS)],
                          label='Python ' + result['python'] if place == 0 else None)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))])
    axes.set_yticklabels(['{}\nagainst {}'.format(row['figure'], shortened(row['peer']))
                          for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.legend(fontsize=8)


def shortened(peer):
    return peer.replace('python3 importing', 'importing') if len(peer) < 60 else peer[:57] + '...'


def draw_growth(plot, found):
    """Draw the costs of manifests, images, configs and a fleet, by their sizes."""
    figure, ((entries, images), (configs, traffic)) = plot.subplots(2, 2, figsize=(11, 7.5))
    for number, result in enumerate(found):
        colour, python = COLOURS[number % len(COLOURS)], 'Python ' + result['python']
        tables = {name: table['rows'] for name, table in result['tables'].items()}
        draw_line(entries, tables['Manifests'], 0, 2, colour, 'no-op fetch, ' + python)
        draw_line(entries, tables['Manifests'], 0, 5, colour, 'store, ' + python, '--')
        draw_line(images, tables['Images'], 0, 6, colour, 'peak of fetch, ' + python)
        draw_line(images, tables['Images'], 0, 3, colour, 'peak of store, ' + python, '--')
        draw_line(configs, tables['Configs in one run'], 0, 3, colour, 'http, ' + python)
        draw_line(configs, tables['Configs in one run'], 0, 6, colour, 'https, ' + python, '--')
    for scheme, style in (('http', '-'), ('https', '--')):
        rows = [row[1:] for row in tables['Fleet, a day'] if row[0] == scheme]
        draw_line(traffic, rows, 0, 3, COLOURS[0], scheme, style)
    labels = ((entries, 'entries in the manifest', 'seconds', 'log'),
              (images, 'MiB in the image', 'MB of memory', 'linear'),
              (configs, 'configs in one run, one host', 'milliseconds', 'linear'),
              (traffic, 'clients that poll hourly', 'MB a day', 'log'))
    for axes, across, up, scale in labels:
        axes.set_xscale('linear' if axes is configs else 'log')
        axes.set_yscale(scale)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        if scale == 'linear':
            axes.set_ylim(0, 1.4 * axes.get_ylim()[1])      # space for the legend
        axes.grid(True, color='#dddddd', linewidth=0.5)
        axes.legend(fontsize=7)
    figure.tight_layout()
    save(figure, 'performance-growth.svg', 'How the costs of Tako grow')


def draw_line(axes, rows, across, up, colour, label, style='-'):
    axes.plot([float(row[across]) for row in rows], [float(row[up]) for row in rows], style,
              color=colour, marker='.', label=label)


def draw(found):
    """Draw all figures."""
    try:
        import matplotlib
        matplotlib.use('svg')
        import matplotlib.pyplot
    except ImportError:
        raise SystemExit('matplotlib is not installed; it needs Python 3.10 or later: '
                         'make bench-plots PYTHON=python3.11')
    matplotlib.rcParams.update({
        'svg.fonttype': 'none', 'svg.hashsalt': 'tako', 'font.size': 9,
        'font.family': ['sans-serif'], 'axes.spines.top': False, 'axes.spines.right': False})
    draw_ratios(matplotlib.pyplot, found)
    draw_growth(matplotlib.pyplot, found)

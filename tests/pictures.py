"""For `make pictures`: runs Tako as the README describes, and draws the terminal session as an SVG.

    pictures.py [FILE]

Without FILE, it replaces docs/session.svg. Everything in the picture is the output of a real run:
an origin on loopback, an update that downloads what changed, and a rollback.
"""
import os
import random
import subprocess
import sys
import tempfile

import rich.console
import rich.terminal_theme
import rich.text

import origin

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WIDTH = 92                      # columns of the terminal
IMAGE_BYTES = 6000000           # of each image; the update changes CHANGED_BYTES of them
CHANGED_BYTES = 40000
CONFIG = """\
Origin={url}
PublicKey={public_key}
Destination={destination}
Version=1.*
Keep=3
"""
SESSION = (
    ('An hour ago, 1.4.1 was installed. The publisher has stored 1.4.2 and 2.0.0 since.', ''),
    ('', 'tako fetch app.tako'),
    ('The update cost what changed, and 2.0.0 waits for you to change Version=1.*', ''),
    ('', 'tako status app.tako | head -n 7'),
    ('1.4.2 misbehaves. Back to 1.4.1, and stay there until there is a newer version:', ''),
    ('', 'tako rollback app.tako'),
    ('', 'tako fetch app.tako && readlink images/latest | cut -c -24'),
)
# rich's own form of an SVG, without the fonts that it would load from another host
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
     aria-label="A terminal session: tako fetch updates an image, tako rollback takes it back">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def image(version):
    """Return an image: the same noise for all versions, but for some bytes."""
    body = bytearray(random.Random(1).getrandbits(8 * IMAGE_BYTES).to_bytes(IMAGE_BYTES, 'little'))
    change = random.Random(version).getrandbits(8 * CHANGED_BYTES)
    body[1000000:1000000 + CHANGED_BYTES] = change.to_bytes(CHANGED_BYTES, 'little')
    return bytes(body)


def run(command, directory):
    """Run a shell command in a directory where `tako` is on the PATH. Return what it prints."""
    environ = dict(os.environ, PATH=directory + '/bin:' + os.environ['PATH'], TZ='UTC')
    done = subprocess.run(command, shell=True, cwd=directory, env=environ, universal_newlines=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f'{command}: exit code {done.returncode}\n{done.stdout}')
    return done.stdout


def set_up(directory, server):
    """Install version 1.4.1, then publish 1.4.2 and 2.0.0."""
    os.makedirs(directory + '/bin')
    os.symlink(os.path.join(PROJECT, 'tako.py'), directory + '/bin/tako')
    os.mkdir(directory + '/images')
    with open(directory + '/app.tako', 'w') as config:
        config.write(CONFIG.format(url=server.url, public_key=origin.PUBLIC_KEY,
                                   destination=directory + '/images'))
    server.has_ranges = True
    server.index(server.publish('1.4.1', image('1.4.1')))
    run('tako fetch app.tako', directory)
    for version in ('1.4.2', '2.0.0'):
        server.index(server.publish(version, image(version)))


def draw(lines):
    """Return an SVG of a terminal with these lines of (text, style)."""
    console = rich.console.Console(record=True, width=WIDTH, file=open(os.devnull, 'w'))
    for text, style in lines:
        console.print(rich.text.Text(text, style=style), soft_wrap=False)
    return console.export_svg(title='', code_format=FORMAT, unique_id='session',
                              theme=rich.terminal_theme.MONOKAI)


def main():
    lines = []
    with tempfile.TemporaryDirectory() as directory:
        os.mkdir(directory + '/served')
        with origin.Origin(directory + '/served') as server:
            set_up(directory, server)
            for remark, command in SESSION:
                lines.append(('# ' + remark, 'italic cyan') if remark
                             else ('$ ' + command, 'bold bright_green'))
                printed = run(command, directory).replace(directory + '/', '') if command else ''
                lines += [(line, '') for line in printed.splitlines()]
                lines += [('', '')] if command else []
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(PROJECT, 'docs', 'session.svg')
    with open(path, 'w') as picture:
        picture.write(draw(lines))
    print('\n'.join(text for text, _ in lines))


if __name__ == '__main__':
    main()

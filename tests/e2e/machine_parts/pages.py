"""The snippets of README.md and docs/: each fenced or indented block, in the order of its page."""
import collections
import glob
import os
import re

import origin

# stands for the publisher's key on the pages, so that nobody takes it for theirs
EXAMPLE_KEY = 'REPLACE/THIS/EXAMPLE/BY/THE/PUBLISHERS/KEYE='
# the first word of an indented block that a reader runs; such a block names no language
COMMAND = re.compile(r'(python3|mkdir|make|scp|ssh|rsync|systemctl|systemd-run|cd|ln|chmod|'
                     r'printf|sed|PYTHONPATH=\S+) ')
CRON_LINE = re.compile(r'[0-9*][0-9,*/-]* [0-9*]\S* \S+ \S+ \S+ root ')
FENCE = re.compile(r'( *)```(\w*)$')


class Block(collections.namedtuple('Block', 'page line language text path is_output')):
    """One snippet.

    language: as the page names it, or commands, cron, or '' for a block that is only shown.
    is_output: whether the paragraph before says that this is the output of the snippet before.
    path: the first file under /etc that the paragraph before has in backquotes: where the snippet
    belongs. None if there is none.
    """

    @property
    def is_synopsis(self):
        """Return whether it is the synopsis of a command, as on the pages of commands."""
        return not self.language and re.match(r'tako [a-z-]+( |$)', self.first_line()) is not None

    def __str__(self):
        return '{}:{} ({})'.format(self.page, self.line, self.first_line())

    def first_line(self):
        return self.text.strip().split('\n')[0].strip()


def pages(project):
    """Return the paths of all pages, README.md first."""
    found = glob.glob(os.path.join(project, 'docs', '*.md'))
    return ['README.md'] + sorted('docs/' + os.path.basename(path) for path in found)


def blocks_of(project, page):
    """Return the Blocks of a page, from top to bottom, with a key that a test publishes with."""
    with open(os.path.join(project, page)) as stream:
        lines = stream.read().replace(EXAMPLE_KEY, origin.PUBLIC_KEY).split('\n')
    blocks, number = [], 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence:
            end = lines.index(fence.group(1) + '```', number + 1)
            text, language, begin = lines[number + 1:end], fence.group(2), number + 1
            indent = len(fence.group(1))
        elif lines[number].startswith('    ') and not lines[number - 1].strip():
            end = next(at for at in range(number, len(lines)) if not lines[at].startswith('    '))
            text, begin, indent = lines[number:end], number, 4
            language = _language('\n'.join(text))
        else:
            number += 1
            continue
        text = '\n'.join(line[indent:] for line in text) + '\n'
        blocks.append(Block(page, begin + 1, language, text, *_intent(lines[:number])))
        number = end + 1
    return blocks


def _language(text):
    if CRON_LINE.match(text.strip()):
        return 'cron'
    return 'commands' if COMMAND.match(text.strip()) else ''


def _intent(before):
    """Return path and is_output of the block that follows these lines.

    The last paragraph of the lines says both.
    """
    paragraph = '\n'.join(before).rstrip().rpartition('\n\n')[2]
    found = re.search('`(/(?:etc|home)/[^` ]+)`', paragraph)
    return found.group(1) if found else None, paragraph.startswith('prints')


def snippet(project, page, path=None, begins=''):
    """Return the text of the one block of a page for this path (None: any) that begins so."""
    found = [block.text for block in blocks_of(project, page)
             if path in (None, block.path) and block.text.startswith(begins)
             and block.language != 'console']
    if len(found) != 1:
        raise AssertionError('{} has {} blocks for {} that begin with {!r}'.format(
            page, len(found), path, begins))
    return found[0]


def vary(text, before, after):
    """Return a snippet with `before`, which it contains exactly once, replaced by `after`."""
    if text.count(before) != 1:
        raise AssertionError('{} times, not once, {!r} in:\n{}'.format(
            text.count(before), before, text))
    return text.replace(before, after)

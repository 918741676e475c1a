"""Plain text → blocks: paragraphs between empty lines, lists, and headings that are underlined."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolchain.knowledge.passages import Block, flowed
from toolchain.knowledge.readers import content_of
from toolchain.texts import decoded

ITEM = re.compile(r"\s{0,3}(?:[-*•–+]|\(?\d{1,3}[.)])\s+\S")
_UNDERLINE = re.compile(r"\s*(=+|-+|~+|\*+|#+)\s*")
_WRAPPED_AT = 50
"""Characters of a line from which on it is taken for one of a paragraph that an editor wrapped."""


def read(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield the blocks of a plain text."""
    headings: tuple[str, ...] = ()
    underlines: list[str] = []
    for lines in _paragraphs(decoded(content_of(file))):
        if title := _heading(lines):
            # As in reStructuredText: the first kind of underline is the highest level.
            sign = lines[1].strip()[0]
            if sign not in underlines:
                underlines.append(sign)
            headings = (*headings[: underlines.index(sign)], title)
            lines = lines[2:]
        yield from blocks_of(lines, headings)


def blocks_of(lines: Sequence[str], headings: tuple[str, ...] = ()) -> Iterator[Block]:
    """Yield a paragraph of a plain text as it is meant: code, list items, or flowing text."""
    if not lines:
        return
    if all(line.startswith(("    ", "\t")) for line in lines) and not ITEM.match(lines[0].strip()):
        yield Block(text=_dedented(lines), kind="code", headings=headings)
        return

    group: list[str] = []
    for line in lines:
        if ITEM.match(line) and group:
            yield _block(group, headings)
            group = []
        group.append(line)
    yield _block(group, headings)


def _paragraphs(text: str) -> Iterator[list[str]]:
    lines: list[str] = []
    # Only a line feed ends a line, as everywhere here; a form feed ends a page.
    for line in text.replace("\f", "\n\n").split("\n"):
        if line.strip():
            lines.append(line.removesuffix("\r").rstrip())
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def _heading(lines: Sequence[str]) -> str:
    """Return the heading that a paragraph begins with, or ""."""
    if len(lines) < 2 or not (found := _UNDERLINE.fullmatch(lines[1])):
        return ""
    title = lines[0].strip()
    # Chinese characters are twice as wide as their underline's.
    return title if len(found[1]) >= max(3, len(title) * 0.7) else ""


def _block(lines: Sequence[str], headings: tuple[str, ...]) -> Block:
    item = bool(ITEM.match(lines[0]))
    # Short lines stand for themselves: an address, a poem, a table of two columns.
    wrapped = item or all(len(line.encode()) >= _WRAPPED_AT for line in lines[:-1])
    text = flowed(lines) if wrapped else "\n".join(line.strip() for line in lines)
    return Block(text=text, kind="item" if item else "paragraph", headings=headings)


def _dedented(lines: Sequence[str]) -> str:
    import textwrap

    return textwrap.dedent("\n".join(line.expandtabs(4) for line in lines))

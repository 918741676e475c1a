"""Markdown → blocks, through markdown-it-py (CommonMark, with GitHub's tables)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from toolchain.knowledge.passages import Block, flowed, table
from toolchain.knowledge.readers import content_of, html
from toolchain.texts import decoded

MAX_MARKDOWN_MIB = 8
"""The parser reads about 1 MiB a second."""
MAX_NESTED = 100
"""Lists and quotes within one another; an item of a list counts for two."""
# The parser leaves out what is deeper, without a word. Its own bound of 20 is nine lists.
_CONTAINERS = ("blockquote_open", "list_item_open")
"""Tokens that hold blocks; a list holds items alone."""
_MAX_INLINE = 10_000
"""Characters of a paragraph from which on its emphasis is not looked for: the search is quadratic
in the worst case."""
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.{0,10000}?)\n(?:---|\.\.\.)[ \t]*\n", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)


@dataclass(slots=True)
class _Place:
    """Where the reading stands."""

    headings: list[str] = field(default_factory=lambda: [""] * 6)
    """By level; "" for a level without one."""
    markers: list[str] = field(default_factory=list)
    """Of the lists that are open: `-`, or the number of the next item."""
    item: list[str] = field(default_factory=list)
    """Lines of the outermost item that is open."""
    rows: list[list[str]] = field(default_factory=list)

    @property
    def above(self) -> tuple[str, ...]:
        return tuple(filter(None, self.headings))


def read(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield the blocks of a Markdown file."""
    text = decoded(content_of(file, MAX_MARKDOWN_MIB)).replace("\r\n", "\n")
    place = _Place()
    if matter := _FRONT_MATTER.match(text):
        text = text[matter.end() :]
        title = _TITLE.search(matter[1])
        place.headings[0] = title[1] if title else ""

    # The inline rule is called for one paragraph at a time, so that one's tokens are held.
    parser = MarkdownIt("commonmark", {"maxNesting": MAX_NESTED}).enable("table").disable("inline")
    environment: dict[str, object] = {}
    opened = Token("", "", 0)
    for token in parser.parse(text, environment):
        if token.type == "inline":
            token.content = _plain(parser, token.content, environment)
        if token.nesting == 1 and token.level == MAX_NESTED - 1 and token.type in _CONTAINERS:
            line = token.map[0] + 1 if token.map else 1
            notes.append(f"line {line}: more than {MAX_NESTED} lists and quotes within one another")
        yield from _blocks(token, opened, place)
        opened = token


def _blocks(token: Token, before: Token, place: _Place) -> Iterator[Block]:
    """Yield what ends with a token."""
    match token.type:
        case "inline" if before.type == "heading_open" and before.level == 0:
            level = int(before.tag[1])
            place.headings[level - 1 :] = [token.content, *[""] * (6 - level)]
        case "inline" if before.type in ("th_open", "td_open"):
            place.rows[-1].append(token.content)
        case "inline" | "fence" | "code_block" if place.markers:
            place.item += [_indent(place) + line for line in token.content.strip("\n").split("\n")]
        case "inline":
            yield Block(text=token.content, headings=place.above)
        case "fence" | "code_block":
            yield Block(text=token.content, kind="code", headings=place.above)
        case "html_block":
            for block in html.blocks_of(token.content, place.above):
                if place.markers:
                    place.item.append(_indent(place) + block.text)
                else:
                    yield block
        case "tr_open":
            place.rows.append([])
        case "table_close":
            rows = list(table(place.rows, place.above))
            place.rows = []
            if place.markers:
                place.item += [_indent(place) + row.text for row in rows]
            else:
                yield from rows
        case _:
            yield from _list_blocks(token, place)


def _list_blocks(token: Token, place: _Place) -> Iterator[Block]:
    match token.type:
        case "bullet_list_open":
            place.markers.append("-")
        case "ordered_list_open":
            place.markers.append(f"{token.attrGet('start') or 1}.")
        case "list_item_open":
            place.item.append("")
        case "bullet_list_close" | "ordered_list_close":
            place.markers.pop()
        case "list_item_close":
            if (marker := place.markers[-1]) != "-":
                place.markers[-1] = f"{int(marker[:-1]) + 1}."
            if len(place.markers) == 1:
                yield Block(text="\n".join(place.item), kind="item", headings=place.above)
                place.item = []


def _indent(place: _Place) -> str:
    """Return what stands before the next line of an item: its marker, or as many spaces."""
    marker = place.markers[-1]
    before = "  " * (len(place.markers) - 1)
    if place.item and place.item[-1] == "":
        place.item.pop()
        return f"{before}{marker} "
    return before + " " * (len(marker) + 1)


def _plain(parser: MarkdownIt, content: str, environment: dict[str, object]) -> str:
    """Return the text of a paragraph as a browser would show it."""
    if len(content) > _MAX_INLINE:
        return flowed(content.split("\n"))
    tokens: list[Token] = []
    parser.inline.parse(content, parser, environment, tokens)

    lines = [[""]]
    for token in tokens:
        match token.type:
            case "text" | "text_special" | "code_inline":
                lines[-1][-1] += token.content
            case "softbreak":
                lines[-1].append("")
            case "hardbreak":
                lines.append([""])
            case "html_inline" if re.match(r"<br\b", token.content, re.IGNORECASE):
                lines.append([""])
    return "\n".join(flowed(line) for line in lines)

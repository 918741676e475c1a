"""Blocks of a document → passages: pieces of a size that a person reads at once.

Readers yield blocks in the order of the text; `cut` joins them within one section. The rule to
keep: equal blocks give equal passages.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from toolchain.texts import HALF_CHARACTERS

MAX_HEADING = 200
"""Characters of one heading; the rest is cut off."""
BETWEEN_HEADINGS = " › "
_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Chinese and Japanese, with their punctuation; Korean has spaces between its words."""
CJK = re.compile(f"[{_CJK}]")
_CJK_A_WORD = 1.6
"""Characters of Chinese that say as much as one English word."""
_LONG = 200
"""Characters a word, from which on a text is taken for long without counting its words."""
# A run without any space (base64, Thai) counts as a word for each 16 characters.
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]{{1,16}}")
_ENDS = (
    re.compile(r"\n+"),
    re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？；][”’」』）]*"),
    re.compile(rf"(?:{_WORD.pattern})\s*"),
)
"""Where a block that alone is too long is cut: lines, else sentences, else words."""
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff]"
)
"""Characters that no person sees: control characters, soft hyphens, marks of direction."""
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")

Kind = Literal["paragraph", "code", "item", "row", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document that is found and quoted as one."""

    text: str
    """Plain text as a person reads it, code and tables line by line."""
    source: str
    """Path to the file, relative to the recipe's folder, with `/`."""
    heading: str = ""
    """Headings above it, outermost first, joined by ` › `."""
    page: int | None = None
    """Page of a PDF, from 1."""
    questions: tuple[str, ...] = ()
    """Questions that came with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of a document that stays whole if it can: a paragraph, a list item, a code block."""

    text: str
    kind: Kind = "paragraph"
    headings: tuple[str, ...] = ()
    page: int | None = None
    header: str = ""
    """Of a table's row: its first row, repeated where a passage begins within the table."""
    questions: tuple[str, ...] = ()
    """Of an answer: the questions that it answers."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Blocks that stay together."""

    blocks: tuple[Block, ...]
    words: float


def table(
    rows: Sequence[Sequence[str]], headings: tuple[str, ...], page: int | None = None
) -> Iterator[Block]:
    """Yield the rows of a table; each knows the first one, which names the columns."""
    header = ""
    for cells in rows:
        text = " | ".join(" ".join(cell.split()) for cell in cells)
        if not any(cell.strip() for cell in cells):
            continue
        yield Block(text=tidy(text), kind="row", header=header, headings=headings, page=page)
        header = header or tidy(text)


def tidy(text: str) -> str:
    """Return a text without what nobody sees, with one spelling of its characters and spaces."""
    # PDF and JSON can hold the two halves of a character apart: join them.
    if HALF_CHARACTERS.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _SPACES.sub(" ", _UNSEEN.sub("", unicodedata.normalize("NFC", text)))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def flowed(lines: Iterable[str]) -> str:
    """Return the lines of a paragraph as one, without a space between Chinese characters."""
    text = ""
    parts: list[str] = []
    for line in filter(None, (line.strip() for line in lines)):
        if text and not (CJK.match(text[-1]) and CJK.match(line)):
            parts.append(" ")
        parts.append(line)
        text = line
    return "".join(parts)


def length(text: str) -> float:
    """Return the number of words of a text; 1.6 Chinese characters are one."""
    words = len(_WORD.findall(text))
    if text.isascii():
        return words
    characters = len(CJK.findall(text))
    return words - characters + characters / _CJK_A_WORD


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, and lines of code and tables each as one."""
    for line in _parts(text, _ENDS[0]):
        yield from filter(None, map(str.strip, _parts(line, _ENDS[1])))


def runs(text: str, words: int) -> Iterator[str]:
    """Yield a text in pieces of at most `words` words, cut between words wherever that is."""
    yield from filter(None, map(str.strip, _pieces(text, words, len(_ENDS) - 1)))


def _length(text: str, words: int) -> float:
    """Return the number of words of a text, and infinity for one of very many characters."""
    # Counting takes a list of all words, which is twenty times as large as the text.
    return length(text) if len(text) <= _LONG * words else math.inf


def cut(blocks: Iterable[Block], source: str, words: int) -> Iterator[Passage]:
    """Yield the passages of a document: about `words` words each, at most twice that.

    No passage reaches over a heading or a page. An answer of a table of questions is one passage.
    """
    blocks = (replace(block, text=text) for block in blocks if (text := tidy(block.text)).strip())
    for (headings, page, answers), section in groupby(
        blocks, key=lambda block: (block.headings, block.page, block.kind == "answer")
    ):
        heading = BETWEEN_HEADINGS.join(filter(None, map(_short, headings)))
        held = list(section)
        packs = [[block] for block in held] if answers else _packs(list(_units(held, words)), words)
        for pack in packs:
            yield Passage(
                text=_joined(pack),
                source=source,
                heading=heading,
                page=page,
                questions=tuple(dict.fromkeys(filter(None, map(_line, pack[0].questions)))),
            )


def _short(heading: str) -> str:
    line = _line(heading)
    return line if len(line) <= MAX_HEADING else f"{line[: MAX_HEADING - 1]}…"


def _line(text: str) -> str:
    return " ".join(tidy(text).split())


def _units(section: Iterable[Block], words: int) -> Iterator[_Unit]:
    """Yield what stays together: a text and the code, the list or the table that it announces."""
    held: list[Block] = []
    filled = 0.0
    for block in _pieces_of(section, words):
        amount = length(block.text)
        if held and not (_belongs(block, held[-1]) and filled + amount <= 2 * words):
            yield _Unit(tuple(held), filled)
            held, filled = [], 0.0
        held.append(block)
        filled += amount
    if held:
        yield _Unit(tuple(held), filled)


def _belongs(block: Block, before: Block) -> bool:
    """Return whether a block is understood only with the one before it."""
    if before.kind == "paragraph":
        return block.kind == "code" or before.text.endswith((":", "："))
    return block.kind == "row" and block.header == before.text and not before.header


def _pieces_of(section: Iterable[Block], words: int) -> Iterator[Block]:
    for block in section:
        if block.header and length(block.header) > words / 4:
            block = replace(block, header="")
        if _length(block.text, words) <= 2 * words:
            yield block
            continue
        for piece in _pieces(block.text, words):
            if text := piece.strip("\n" if block.kind == "code" else None):
                yield replace(block, text=text)


def _pieces(text: str, words: int, level: int = 0) -> Iterator[str]:
    """Yield a long text in pieces of at most `words` words."""
    held: list[str] = []
    filled = 0.0
    last = level + 1 == len(_ENDS)
    for part in _parts(text, _ENDS[level]):
        amount = length(part) if last else _length(part, words)
        if held and filled + amount > words:
            yield "".join(held)
            held, filled = [], 0.0
        if amount > words and not last:
            yield from _pieces(part, words, level + 1)
        else:
            held.append(part)
            filled += amount
    if held:
        yield "".join(held)


def _parts(text: str, end: re.Pattern[str]) -> Iterator[str]:
    start = 0
    for found in end.finditer(text):
        yield text[start : found.end()]
        start = found.end()
    if start < len(text):
        yield text[start:]


def _packs(units: Sequence[_Unit], words: int) -> Iterator[list[Block]]:
    """Yield the units of a section in groups of nearly equal size."""
    total = sum(unit.words for unit in units)
    goal = total / max(1, round(total / words))
    pack: list[Block] = []
    filled, done, ends = 0.0, 0.0, 1
    for unit in units:
        # The middle of a unit decides on which side of the next cut it stands.
        beyond = done + unit.words / 2 > goal * ends
        if pack and (beyond or filled + unit.words > 2 * words):
            yield pack
            pack = []
            # What a repeated first row of a table takes.
            filled = length(unit.blocks[0].header)
            ends = max(ends + 1, int(done / goal) + 1)
        pack += unit.blocks
        filled += unit.words
        done += unit.words
    if pack:
        yield pack


def _joined(blocks: Sequence[Block]) -> str:
    """Return the text of a passage, with the first row of a table that began before it."""
    text = blocks[0].header
    before = Block(text=text, kind="row") if text else None
    parts = [text] if text else []
    for block in blocks:
        if before:
            parts.append("\n" if _close(block, before) else "\n\n")
        parts.append(block.text)
        before = block
    return "".join(parts)


def _close(block: Block, before: Block) -> bool:
    """Return whether a block follows on the very next line."""
    if block.kind == "item":
        return before.kind == "item" or before.text.endswith((":", "："))
    return block.kind == before.kind == "row" and (
        not block.header or block.header in (before.header, before.text)
    )

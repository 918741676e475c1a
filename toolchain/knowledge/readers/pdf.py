"""PDF with a text layer → blocks with their page, through pypdf.

A PDF has lines and no paragraphs: they are put together again by the length of the lines.
"""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.knowledge.passages import CJK, Block, Kind, flowed, tidy
from toolchain.knowledge.readers import Unread, check_size, not_installed
from toolchain.knowledge.readers.text import ITEM

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

MAX_PDF_MIB = 512
MAX_PAGE_MIB = 4
"""Drawing instructions of a page, unpacked; a page of text has some kilobytes."""
MAX_STEPS = 200_000
"""Drawing instructions of a page. Forms can call forms: ten times ten levels never end."""
_FEW_PAGES = 4
"""Pages from which on a line that stands on most of them is taken for a running head."""
_SHORT = 0.7
"""Part of the usual length of a line below which it is the last one of its paragraph."""
_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
)
_OPEN_END = re.compile(r"[\w,;\-，、]$")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-$")


@dataclass(slots=True)
class _Outline:
    """Titles of a PDF's bookmarks, in the order of its pages."""

    entries: list[tuple[int, int, str]] = field(default_factory=list)
    """(page from 0, level from 0, title)."""
    headings: list[str] = field(default_factory=list)
    reached: int = 0
    """Number of entries that the text has come to."""

    def begin(self, page: int) -> None:
        """Move on beyond all titles of the pages before one."""
        while self.reached < len(self.entries) and self.entries[self.reached][0] < page:
            self._take()

    def find(self, page: int, line: str) -> bool:
        """Move on to the title that a line of a page is; return whether there is one."""
        for number in range(self.reached, len(self.entries)):
            at, _, title = self.entries[number]
            if at != page:
                return False
            if _key(title) == _key(line):
                while self.reached <= number:
                    self._take()
                return True
        return False

    def _take(self) -> None:
        _, level, title = self.entries[self.reached]
        self.headings[level:] = [""] * (level - len(self.headings)) + [title]
        self.reached += 1


def read(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield the blocks of a PDF."""
    check_size(file, MAX_PDF_MIB)
    try:
        import pypdf
    except ImportError as error:
        raise not_installed("pypdf") from error

    # It warns on stderr of what it mends by itself.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    with file.open("rb") as stream:
        reader, count = _opened(pypdf, stream)
        pages = [_lines(reader, number, notes) for number in range(count)]
        outline = _Outline(entries=_bookmarks(reader))
    if not any(pages):
        if not count:
            raise Unread("is a broken PDF: it has no page")
        if len(notes) == count:
            raise Unread(f"is a broken PDF: {notes[0]}")
        raise Unread("has no text layer: run OCR first, for instance ocrmypdf")
    _note_scans([number for number, lines in enumerate(pages, 1) if not lines], notes)
    yield from _joined_over_pages(_without_running_heads(pages), outline)


def _opened(pypdf: Any, stream: Any) -> "tuple[PdfReader, int]":
    """Return a reader and the number of pages; raise Unread for a PDF that cannot be read."""
    try:
        reader = pypdf.PdfReader(stream)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unread("is encrypted: save it without a password, for instance qpdf --decrypt")
        return reader, len(reader.pages)
    except Unread:
        raise
    except Exception as error:  # whatever its parser meets in a broken file, KeyError for instance
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise Unread(f"is a broken PDF: {said}") from error


def _lines(reader: "PdfReader", number: int, notes: list[str]) -> list[str]:
    """Return the lines of a page; a page that cannot be read is named in the notes."""
    try:
        page = reader.pages[number]
        contents = page.get_contents()
        if contents is None:
            return []
        size = len(contents.get_data())
        if size > MAX_PAGE_MIB << 20:
            notes.append(f"page {number + 1}: {size >> 20} MiB of drawing, left out")
            return []
        text = _text(page)
    except Exception as error:  # as above
        said = " ".join(str(error).split())[:80] or type(error).__name__
        notes.append(f"page {number + 1}: cannot be read: {said}")
        return []
    lines = (" ".join(line.split()) for line in tidy(text.translate(_LIGATURES)).split("\n"))
    return list(lines) if text.strip() else []


def _text(page: "PageObject") -> str:
    steps = itertools.count()

    def count(*_: Any) -> None:
        if next(steps) > MAX_STEPS:
            raise Unread(f"more than {MAX_STEPS:,} drawing instructions")

    text = page.extract_text(visitor_operand_before=count)
    # pypdf goes on after an error within a form.
    count()
    return text


def _bookmarks(reader: "PdfReader") -> list[tuple[int, int, str]]:
    """Return the bookmarks that lead to a page; none if they are broken."""
    found: list[tuple[int, int, str]] = []
    try:
        numbers = {
            page.indirect_reference.idnum: number
            for number, page in enumerate(reader.pages)
            if page.indirect_reference is not None
        }
        waiting: list[tuple[int, Any]] = [(0, each) for each in reversed(reader.outline)]
        while waiting:
            level, each = waiting.pop()
            if isinstance(each, list):
                waiting += [(level + 1, below) for below in reversed(each)]
                continue
            number = numbers.get(getattr(each.page, "idnum", -1))
            if number is not None and level < 6:
                found.append((number, level, str(each.title)))
    except Exception:  # as above; headings are an addition, the text is there
        return []
    # A bookmark that leads back would hide all that follow.
    ordered = sorted(range(len(found)), key=lambda n: (found[n][0], n))
    return [found[n] for n in ordered]


def _note_scans(empty: Sequence[int], notes: list[str]) -> None:
    if empty:
        more = f" and {len(empty) - 10:,} more" if len(empty) > 10 else ""
        notes.append(f"pages without text: {', '.join(map(str, empty[:10]))}{more}")


def _without_running_heads(pages: list[list[str]]) -> list[list[str]]:
    """Return pages without the first and last lines that stand on more than half of them."""
    if len(pages) < _FEW_PAGES:
        return pages
    edges = Counter(
        key for lines in pages if lines for key in {_numberless(lines[0]), _numberless(lines[-1])}
    )
    running = {key for key, times in edges.items() if times * 2 > len(pages)}
    return [
        [
            line
            for number, line in enumerate(lines)
            if number not in (0, len(lines) - 1) or _numberless(line) not in running
        ]
        for lines in pages
    ]


def _numberless(line: str) -> str:
    return re.sub(r"\d+", "#", line)


def _joined_over_pages(pages: list[list[str]], outline: _Outline) -> Iterator[Block]:
    """Yield the blocks of all pages; a sentence that goes on belongs to the page of its start."""
    held: Block | None = None
    for number, lines in enumerate(pages):
        for block in _blocks(lines, number, outline):
            if held and block.page != held.page and _goes_on(held, block):
                held = replace(held, text=flowed([held.text, block.text]))
                continue
            if held:
                yield held
            held = block
    if held:
        yield held


def _goes_on(before: Block, block: Block) -> bool:
    return (
        before.kind == "paragraph"
        and block.kind in ("paragraph", "row")
        and before.headings == block.headings
        and bool(_OPEN_END.search(before.text))
        and (block.text[0].islower() or bool(CJK.match(block.text)))
    )


def _blocks(lines: list[str], number: int, outline: _Outline) -> Iterator[Block]:
    """Yield the paragraphs, list items and single lines of a page."""
    lengths = sorted(len(line) for line in lines if line)
    usual = lengths[len(lengths) * 9 // 10] if lengths else 0
    group: list[str] = []
    outline.begin(number)
    for line in [*lines, ""]:
        above = tuple(filter(None, outline.headings))
        title = bool(line) and outline.find(number, line)
        if group and (not line or title or ITEM.match(line) or len(group[-1]) < usual * _SHORT):
            yield _block(group, number, above)
            group = []
        if line and not title:
            group.append(line)


def _key(title: str) -> str:
    return "".join(char for char in title.casefold() if char.isalnum())


def _block(lines: list[str], number: int, headings: tuple[str, ...]) -> Block:
    parts: list[str] = []
    for line in lines:
        if parts and _HYPHEN.search(parts[-1]) and line[:1].islower():
            parts[-1] = parts[-1][:-1] + line
        else:
            parts.append(line)
    kind: Kind = "item" if ITEM.match(lines[0]) else "row" if len(lines) == 1 else "paragraph"
    return Block(
        text=flowed(parts),
        kind=kind,
        headings=headings,
        page=number + 1,
    )

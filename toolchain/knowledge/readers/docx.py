"""DOCX → blocks, through python-docx: headings by their style, lists, tables."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.knowledge.passages import Block, table
from toolchain.knowledge.readers import MIB, Unread, check_size, not_installed

MAX_DOCX_MIB = 256
"""Of the file, and of all that is packed in it."""
MAX_XML_MIB = 64
"""Of the texts in it, unpacked: some thousand pages."""
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_OLD_OFFICE = bytes.fromhex("d0cf11e0a1b11ae1")
"""Begins an old .doc, and a .docx with a password."""
_HEADING = re.compile(r"heading ([1-6])", re.IGNORECASE)
_CODE = re.compile(r"code|preformatted|source|listing", re.IGNORECASE)
_CONTENTS = re.compile(r"toc \d|toc heading|table of figures", re.IGNORECASE)


def read(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield the blocks of a DOCX file."""
    check_size(file, MAX_DOCX_MIB)
    try:
        import docx
    except ImportError as error:
        raise not_installed("python-docx") from error

    _check_packed(file)
    try:
        document = docx.Document(str(file))
        body, names = document.element.body, _style_names(document)
    except Exception as error:  # whatever its parser meets in a broken file, KeyError for instance
        raise Unread(f"is a broken DOCX: {' '.join(str(error).split())[:120]}") from error
    if body is None:
        raise Unread("is a broken DOCX: it has no text part")
    yield from _Body(names).blocks(body)


def _check_packed(file: Path) -> None:
    """Raise Unread for what is no ZIP, and for one that would unpack to too much."""
    with file.open("rb") as stream:
        if stream.read(8) == _OLD_OFFICE:
            raise Unread("is encrypted, or a .doc under another name: save it anew as .docx")
    try:
        with zipfile.ZipFile(file) as packed:
            members = packed.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise Unread("is a broken DOCX: not a ZIP file") from error

    # zipfile unpacks no more than the size that is written in it.
    text = sum(each.file_size for each in members if each.filename.endswith((".xml", ".rels")))
    whole = sum(each.file_size for each in members)
    if text > MAX_XML_MIB * MIB or whole > MAX_DOCX_MIB * MIB:
        raise Unread(
            f"unpacks to {whole / MIB:,.0f} MiB ({text / MIB:,.0f} of text), "
            f"at most {MAX_DOCX_MIB} ({MAX_XML_MIB}) are read"
        )


def _style_names(document: Any) -> dict[str, str]:
    return {style.style_id: style.name or "" for style in document.styles}


class _Body:
    """A walk over a document's paragraphs and tables."""

    def __init__(self, styles: dict[str, str]) -> None:
        self.styles = styles
        self.headings = [""] * 7
        """The document's title, then by level; "" for a level without one."""
        self.code: list[str] = []

    def blocks(self, body: Any) -> Iterator[Block]:
        """Yield the blocks of a body; content controls are looked into."""
        waiting = list(reversed(body))
        while waiting:
            node = waiting.pop()
            if node.tag == _WORD + "p":
                yield from self._paragraph(node)
            elif node.tag == _WORD + "tbl":
                yield from self._code()
                yield from self._table(node)
            elif node.tag in (_WORD + "sdt", _WORD + "sdtContent", _WORD + "customXml"):
                waiting += reversed(node)
        yield from self._code()

    def _paragraph(self, node: Any) -> Iterator[Block]:
        style = self._style(node)
        text = _text(node)
        if _CODE.search(style):
            self.code.append(text)
            return
        yield from self._code()
        if not text.strip() or _CONTENTS.match(style):
            return

        level = _HEADING.match(style)
        if level or style.lower() == "title":
            depth = int(level[1]) if level else 0
            self.headings[depth:] = [text, *[""] * (6 - depth)]
        elif style.lower().startswith("list") or node.find(f"{_WORD}pPr/{_WORD}numPr") is not None:
            yield Block(text=f"- {text}", kind="item", headings=self._above())
        else:
            yield Block(text=text, headings=self._above())

    def _table(self, node: Any) -> Iterator[Block]:
        rows = [
            ["\n".join(map(_text, cell.iter(_WORD + "p"))) for cell in row.iter(_WORD + "tc")]
            for row in node.iter(_WORD + "tr")
        ]
        if all(len(cells) < 2 for cells in rows):
            # A box around text.
            for cells in rows:
                yield from (Block(text=text, headings=self._above()) for text in cells)
        else:
            yield from table(rows, self._above())

    def _code(self) -> Iterator[Block]:
        """Yield the code whose last line was read."""
        if self.code:
            yield Block(text="\n".join(self.code), kind="code", headings=self._above())
            self.code = []

    def _style(self, node: Any) -> str:
        found = node.find(f"{_WORD}pPr/{_WORD}pStyle")
        return self.styles.get(found.get(_WORD + "val", ""), "") if found is not None else ""

    def _above(self) -> tuple[str, ...]:
        return tuple(filter(None, self.headings))


def _text(node: Any) -> str:
    """Return the text of a paragraph as it is printed: with insertions, without hidden text."""
    parts: list[str] = []
    waiting = list(reversed(node))
    while waiting:
        each = waiting.pop()
        match str(each.tag).removeprefix(_WORD):
            case "t":
                parts.append(each.text or "")
            case "tab":
                parts.append("\t")
            case "br" | "cr":
                parts.append("\n")
            case "noBreakHyphen":
                parts.append("-")
            case "r" if each.find(f"{_WORD}rPr/{_WORD}vanish") is not None:
                continue
            case "pPr" | "rPr" | "del" | "moveFrom":
                continue
            case tag:
                # The same text once more, for old programs.
                if tag != _FALLBACK:
                    waiting += reversed(each)
    return "".join(parts).strip("\n")

"""HTML → blocks, through selectolax: what a reader of the page sees, without its navigation."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.knowledge.passages import Block, flowed, table
from toolchain.knowledge.readers import content_of, not_installed
from toolchain.knowledge.readers.tags import simplified
from toolchain.texts import Unreadable, decoded

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

MAX_HTML_MIB = 8
_BLOCKS = frozenset(
    """address article aside blockquote body caption center dd details dialog dir div dl dt fieldset
    figcaption figure form h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu ol p pre search
    section summary table tbody td tfoot th thead tr ul""".split()  # noqa: SIM905 - words of a line
)
_SKIPPED = frozenset(
    """audio button canvas datalist footer head iframe input math nav noscript object select svg
    template video""".split()  # noqa: SIM905
)
_LISTS = ("ul", "ol", "menu", "dir")
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_IN_LAYOUT = "table table, table h1, table h2, table h3, table h4, table pre, table p + p"
"""What a table holds that is there for the look of the page, not for values in columns."""
_ENDS = (".", "?", "!", ":", "。", "？", "！", "：")
_CHARSET = re.compile(rb"<meta\b[^>]*?\bcharset\s*=\s*[\"']?\s*([a-z0-9_-]{2,20})", re.IGNORECASE)
_SCANNED = 1024
"""Bytes in which a page names its encoding."""
# https://encoding.spec.whatwg.org/#names-and-labels: a browser takes the larger set of each.
_ENCODINGS = {
    **{f"windows-{number}": f"cp{number}" for number in range(1250, 1259)},
    **{
        f"iso-8859-{number}": f"iso8859_{number}"
        for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15)
    },
    **dict.fromkeys(("iso-8859-1", "latin1", "us-ascii", "ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis"), "cp932"),
    "big5": "big5hkscs",
    "euc-jp": "euc_jp",
    "euc-kr": "cp949",
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
}
"""Name of an encoding in a page → Python's name of what a browser reads it as."""


def read(file: Path, notes: list[str]) -> Iterator[Block]:
    """Yield the blocks of an HTML page."""
    yield from blocks_of(_decoded(content_of(file, MAX_HTML_MIB)), ())


def _decoded(content: bytes) -> str:
    """Return a page's text: UTF-8, else in the encoding that the page names; raise Unreadable."""
    try:
        return decoded(content)
    except Unreadable:
        named = _CHARSET.search(content[:_SCANNED])
        encoding = _ENCODINGS.get(named[1].decode().lower()) if named else None
        if encoding is None or b"\0" in content:
            raise
        return content.decode(encoding, "replace")


def blocks_of(text: str, headings: tuple[str, ...]) -> Iterator[Block]:
    """Yield the blocks of a piece of HTML that stands under some headings."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise not_installed("selectolax") from error

    tree = LexborHTMLParser(simplified(text))
    page = _Page(tree, headings)
    title = tree.css_first("title")
    if not headings and title is not None and tree.css_first("h1") is None:
        page.headings[0] = flowed(title.text().split("\n"))
    if tree.body is not None:
        yield from page.walk(tree.body)


class _Page:
    """A walk over a page, in the order in which it is read."""

    def __init__(self, tree: "LexborHTMLParser", above: tuple[str, ...]) -> None:
        self.above = above
        self.headings = [""] * 6
        """By level; "" for a level without one."""
        self.text: list[str] = []
        """Pieces of the paragraph that is open."""
        self.markers: list[str] = []
        """Of the lists that are open: `-`, or the number of the next item."""
        self.item: list[str] = []
        """Lines of the outermost list item that is open."""
        self.rows: list[list[str]] | None = None
        """Of the table of values that is open."""
        self.in_code = False
        self.hidden = {node.mem_id for node in tree.css("[hidden]")}
        self.layout = _tables_above(tree.css(_IN_LAYOUT))

    def walk(self, body: "LexborNode") -> Iterator[Block]:
        """Yield the blocks below a node; without recursion, as pages can be deep."""
        waiting: list[tuple[LexborNode, bool]] = [(body, False)]
        while waiting:
            node, entered = waiting.pop()
            if entered:
                yield from self._leave(node.tag or "")
            elif node.tag == "-text":
                self.text.append(self._shown(node.text_content or ""))
            elif node.tag and node.tag not in _SKIPPED and node.mem_id not in self.hidden:
                yield from self._enter(node, node.tag)
                waiting.append((node, True))
                children = list(node.iter(include_text=True))
                waiting += [(child, False) for child in reversed(children)]
        yield from self._flush()

    def _shown(self, text: str) -> str:
        """Return a text with the spaces that a browser shows; a line feed means a `br` later on."""
        return text if self.in_code else text.replace("\n", " ")

    def _enter(self, node: "LexborNode", tag: str) -> Iterator[Block]:
        if tag == "br":
            self.text.append("\n")
        elif tag not in _BLOCKS:
            return
        elif self.rows is not None:
            self._enter_cell(tag)
        else:
            yield from self._flush()
            if tag in _LISTS:
                self.markers.append("1." if tag == "ol" else "-")
            elif tag == "li":
                self.item.append("")
            elif tag == "pre":
                self.in_code = True
            elif tag == "table" and node.mem_id not in self.layout:
                self.rows = []

    def _enter_cell(self, tag: str) -> None:
        if tag == "tr" and self.rows is not None:
            self.rows.append([])
        if tag in ("td", "th"):
            self.text = []
        self.text.append(" ")

    def _leave(self, tag: str) -> Iterator[Block]:
        if tag not in _BLOCKS:
            return
        if self.rows is not None:
            yield from self._leave_cell(tag, self.rows)
            return

        if tag in _HEADINGS and not self.item:
            level = int(tag[1])
            title = flowed(self._paragraph().split("\n"))
            self.headings[level - 1 :] = [title] + [""] * (6 - level)
        elif tag == "pre":
            code = Block(text="".join(self.text), kind="code", headings=self._place())
            self.text, self.in_code = [], False
            yield from self._take([code])
        elif tag == "dt" and (term := self._paragraph()):
            # The colon keeps it with its meaning.
            self.text = [term if term.endswith(_ENDS) else f"{term}:"]
        yield from self._flush()
        yield from self._leave_list(tag)

    def _leave_cell(self, tag: str, rows: list[list[str]]) -> Iterator[Block]:
        if tag in ("td", "th") and rows:
            rows[-1].append(self._paragraph())
        elif tag == "table":
            self.rows, self.text = None, []
            yield from self._take(table(rows, self._place()))

    def _leave_list(self, tag: str) -> Iterator[Block]:
        if tag in _LISTS and self.markers:
            self.markers.pop()
        elif tag == "li":
            if self.markers and self.markers[-1] != "-":
                self.markers[-1] = f"{int(self.markers[-1][:-1]) + 1}."
            if len(self.markers) <= 1:
                yield Block(text="\n".join(self.item), kind="item", headings=self._place())
                self.item = []

    def _flush(self) -> Iterator[Block]:
        """Yield the paragraph that is open."""
        if text := self._paragraph():
            yield from self._take([Block(text=text, headings=self._place())])

    def _take(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Yield blocks, or add them to the list item that is open."""
        if not self.item:
            yield from blocks
            return
        for block in blocks:
            self.item += [self._indent() + line for line in block.text.strip("\n").split("\n")]

    def _indent(self) -> str:
        """Return what stands before the next line of an item: its marker, or as many spaces."""
        marker = self.markers[-1] if self.markers else "-"
        before = "  " * (len(self.markers) - 1)
        if self.item[-1] == "":
            self.item.pop()
            return f"{before}{marker} "
        return before + " " * (len(marker) + 1)

    def _paragraph(self) -> str:
        """Return the paragraph that is open, and close it."""
        lines = "".join(self.text).split("\n")
        self.text = []
        return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))

    def _place(self) -> tuple[str, ...]:
        return (*self.above, *filter(None, self.headings))


def _tables_above(nodes: "Iterable[LexborNode]") -> set[int]:
    """Return the ids of the tables around these nodes."""
    tables: set[int] = set()
    for node in nodes:
        above = node.parent
        while above is not None and above.mem_id not in tables:
            if above.tag == "table":
                tables.add(above.mem_id)
            above = above.parent
    return tables

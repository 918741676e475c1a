"""Dirt in the text of a recipe: a row a kind that one text shows. Kinds that take several texts,
near-duplicates and contamination, have files of their own.

What a row mends it has proved; what it cannot prove it reports. Clean text keeps every byte.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from toolchain.ingest.clean.encoding import find_lost, find_mojibake
from toolchain.ingest.clean.html import find_html


class Dirt(NamedTuple):
    """What is wrong with a text."""

    kind: str
    rule: str
    mended: str | None
    """The text without it; None where nobody can tell what it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A kind of dirt."""

    kind: str
    find: Callable[[str], tuple[str, str | None] | None]
    """Returns the rule that found it and the mended text; None for clean text."""


ROWS: tuple[Row, ...] = (
    Row(kind="encoding", find=find_mojibake),
    Row(kind="lost bytes", find=find_lost),
    Row(kind="html", find=find_html),
)
"""Kinds in the order in which they are mended: broken text must not be read as HTML."""


def dirt_in(text: str, *, html: bool, mend: bool, asked: str = "") -> tuple[str, list[Dirt]]:
    """Return a text, mended if `mend`, and what is wrong with it; `asked` is what it answers."""
    found = []
    for row in ROWS:
        if row.kind == "html" and not html:
            continue
        if hit := find_html(text, asked) if row.kind == "html" else row.find(text):
            rule, mended = hit
            found.append(Dirt(row.kind, rule, mended))
            text = mended if mend and mended is not None else text
    return text, found

"""What a model says of its own licence: its card, its licence text; the first that says something.

Hub folders, adapters and finished files come from others: what they say is read, bounded, and
believed only where it is one of the known licences.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from device.manifest import read_bounded
from toolchain.terms.expression import known_or_none
from toolchain.terms.table import named_in

_MAX_CARD_BYTES = 256 << 10
_LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*")
TRAVELLING = (*_LICENCE_FILES, "NOTICE*", "USE_POLICY*")
"""Names of the files of a model folder that must travel with what is made of it."""
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
_VALUE = r"""(?:"([^"\n]*)"|'([^'\n]*)'|([^\s\[#][^#\n]*))"""
_LICENCE = re.compile(rf"^license:[ \t]*(?:\n[ \t]*-[ \t]*)?{_VALUE}", re.MULTILINE)
_NAME = re.compile(rf"^license_name:[ \t]*{_VALUE}", re.MULTILINE)


class Said(NamedTuple):
    """A licence, and where it is said."""

    licence: str
    """SPDX expression; empty where nothing is said."""
    by: str


NOTHING = Said("", "")


def in_folder(folder: Path) -> Said:
    """Return what a model or adapter folder says of its licence."""
    return next(_said(folder), NOTHING)


def travelling_files(folder: Path) -> list[Path]:
    """Return the licence texts and notices of a model folder."""
    return sorted({file for form in TRAVELLING for file in folder.glob(form) if file.is_file()})


def _said(folder: Path) -> Iterator[Said]:
    if card := _text(folder / "README.md"):
        front = _FRONT.match(card)
        for key in (_LICENCE, _NAME):
            found = key.search(front[1]) if front else None
            said = next(filter(None, found.groups()), "") if found else ""
            if licence := known_or_none(said):
                yield Said(licence, "model card")
    for form in _LICENCE_FILES:
        for file in sorted(folder.glob(form)):
            if licence := named_in(_text(file)):
                yield Said(licence, file.name)


def _text(file: Path) -> str:
    # The hub's cache consists of links, which `read_bounded` does not follow.
    content = read_bounded(file.resolve(), _MAX_CARD_BYTES)
    return "" if content is None else content.decode("utf-8", "replace")

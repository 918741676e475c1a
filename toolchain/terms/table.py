"""The table of licences: `licences.toml`, and how a row is found by a name or a text."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from toolchain import config
from toolchain.config import Frozen

FILE = Path(__file__).parent / "licences.toml"
_HEAD_CHARS = 3000
"""Characters at the beginning of a licence's text in which its name is looked for."""


class Licence(Frozen):
    """Conditions of a licence for a work that is made of what it covers."""

    id: str
    """SPDX id, or `LicenseRef-…` for terms that SPDX does not list."""
    kind: Literal["open", "content", "model", "own"] = "open"
    family: str = ""
    """Models of one family have the same one."""
    tags: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    commercial: bool = True
    derivatives: bool = True
    attribution: bool = False
    same_terms: tuple[str, ...] = ()
    passes_on: bool = False
    name_prefix: str = ""
    outputs_only_for: str = ""
    not_with: tuple[str, ...] = ()
    notice: str = ""
    """Words that must travel with the work."""
    condition: str = ""
    """What else is asked of whoever gets the work, in a sentence."""
    source: str
    checked: str
    """When the text was read again and in which copy; else that it was not, and why."""


class _Table(Frozen):
    licence: tuple[Licence, ...] = Field(description="one row a licence")


@cache
def rows() -> Mapping[str, Licence]:
    """Return the rows by their ids; raise ConfigError with the key that is wrong."""
    return {row.id: row for row in config.load(FILE, _Table).licence}


@cache
def _by_name() -> Mapping[str, str]:
    names: dict[str, str] = {}
    for row in rows().values():
        names |= {name.lower(): row.id for name in (row.id, *row.tags)}
    return names


def id_of(name: str) -> str:
    """Return the id of a licence that is named in another way; the name itself if none is known."""
    return _by_name().get(name.strip().lower(), name.strip())


def named_in(text: str) -> str:
    """Return the id of the licence whose text this is; empty for a text that is none of them."""
    head = re.sub(r"\s+", " ", text[:_HEAD_CHARS]).lower()
    found = [
        (len(phrase), row.id) for row in rows().values() for phrase in row.phrases if phrase in head
    ]
    return max(found, default=(0, ""))[1]

"""The table of bases: small models with their sizes and terms, and models that find passages.

`bases.toml` has a row for each; `new` chooses among them, and the ledger looks up their licences.
"""

from functools import cache
from pathlib import Path

from pydantic import Field

from toolchain import config
from toolchain.config import Frozen
from toolchain.recipe import Positive, Text

FILE = Path(__file__).parent / "bases.toml"
_OWN_TERMS = "LicenseRef-"
"""Begins the SPDX id of a licence that SPDX does not list."""


class Base(Frozen):
    """One instruct model."""

    id: Text = Field(description="the short name that `--base` takes")
    hub: Text = Field(description="its Hub id, unquantized")
    package: str = Field(
        default="", description="`package:NAME/FILE` of a Python package that ships it too"
    )
    parameters: Positive
    architecture: Text
    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocabulary: Positive
    context: Positive
    licence: Text = Field(description="SPDX id, `LicenseRef-…` for a vendor's own terms")
    gated: bool = False
    """Whether the hub asks for consent before the download."""
    thinks: bool = False
    """Whether it writes down its thoughts before each answer: slow on a board."""
    languages: tuple[Text, ...] = Field(description="those that the source says it was made for")
    source: Text = Field(description="paper or vendor's page that the row was read from")

    @property
    def name(self) -> str:
        """What people call it."""
        return self.hub.rpartition("/")[2]

    @property
    def is_open(self) -> bool:
        """Whether SPDX lists its licence, and anyone can download it."""
        return not self.licence.startswith(_OWN_TERMS) and not self.gated

    def speaks(self, languages: tuple[str, ...]) -> bool:
        """Say whether it was made for all of these languages."""
        return set(languages) <= set(self.languages)


class Embedder(Frozen):
    """One model that finds passages of documents."""

    hub: Text = Field(description="its Hub id, a folder of sentence-transformers")
    package: str = Field(
        default="", description="`package:NAME/FILE` of a Python package that ships it too"
    )
    licence: Text = Field(description="SPDX id")
    languages: tuple[Text, ...] = Field(description="those that the source says it was made for")
    source: Text = Field(description="paper or vendor's page that the row was read from")

    @property
    def name(self) -> str:
        """What people call it."""
        return self.hub.rpartition("/")[2]


class Table(Frozen):
    """The file as a whole."""

    languages: dict[str, str] = Field(description="codes of ISO 639-1, and their English names")
    base: tuple[Base, ...] = Field(description="the models that answer")
    embedder: tuple[Embedder, ...] = Field(description="the models that find passages")


@cache
def table() -> Table:
    """Return the table of bases; raise ConfigError with the key that is wrong."""
    return config.load(FILE, Table)


def embedder_named(name: str) -> Embedder | None:
    """Return the row of an embedder by its Hub id or package; None for one that has no row."""
    rows = (each for each in table().embedder if name in {each.hub, each.package} - {""})
    return next(rows, None)


def language_name(code: str) -> str:
    """Return a language's English name; its code where the table has none."""
    return table().languages.get(code, f"`{code}`")

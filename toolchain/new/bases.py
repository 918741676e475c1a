"""Bases that a new recipe can begin with: `bases.toml`, and what each takes on a board.

No weight is read and no hub is asked: the sizes in the table give every tensor of the model file.
"""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from toolchain import config
from toolchain.config import Frozen
from toolchain.fitting import weigh_model
from toolchain.recipe import Positive, Text
from toolchain.weighing import Weighed

FILE = Path(__file__).parent.parent / "bases.toml"
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


def embedder_for(languages: tuple[str, ...]) -> Embedder:
    """Return the embedder for documents in these languages: the first that knows most of them."""
    return max(table().embedder, key=lambda each: len({*languages} & {*each.languages}))


def weigh(base: Base, scheme: str) -> Weighed:
    """Return what `fit` can ask of a base, as the model file of a scheme."""
    from toolchain.models.architecture import Model, sources_of

    family, tensors = sources_of(_config(base))
    sizes = {
        "layers": base.layers,
        "heads": base.heads,
        "kv_heads": base.kv_heads,
        "vocab": base.vocabulary,
        "key": base.kv_heads * base.head_dim,
    }
    metadata = {
        "block_count": base.layers,
        "context_length": base.context,
        "embedding_length": base.hidden,
        "feed_forward_length": base.intermediate,
        "attention.head_count": base.heads,
        "attention.head_count_kv": base.kv_heads,
        "attention.key_length": base.head_dim,
        "attention.value_length": base.head_dim,
    }
    model = Model(
        family=family,
        sizes=sizes,
        tied=True,
        metadata={f"{family.name}.{key}": value for key, value in metadata.items()},
        tensors=tuple(tensors),
    )
    return weigh_model(model, scheme, base.name)


def _config(base: Base) -> dict[str, Any]:
    """Return the sizes as the model's config.json has them; small models tie head and embedding."""
    return {
        "architectures": [base.architecture],
        "hidden_size": base.hidden,
        "intermediate_size": base.intermediate,
        "num_hidden_layers": base.layers,
        "num_attention_heads": base.heads,
        "num_key_value_heads": base.kv_heads,
        "head_dim": base.head_dim,
        "vocab_size": base.vocabulary,
        "max_position_embeddings": base.context,
        "tie_word_embeddings": True,
    }

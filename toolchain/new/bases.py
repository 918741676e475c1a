"""Bases that a new recipe can begin with: the rows of `bases.toml`, and what each takes on a board.

No weight is read and no hub is asked: the sizes in the table give every tensor of the model file.
"""

from typing import Any

from toolchain.bases import Base, Embedder, table
from toolchain.fitting import weigh_model
from toolchain.weighing import Weighed


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

"""Rotary tables: cosine and sine of every position of the context, scaled as in training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.architecture import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rotation:
    """Tables of shape (context, rotary width)."""

    cos: "NDArray[np.float32]"
    sin: "NDArray[np.float32]"
    """The first half is negated, which is the sign of the rotation."""


def tables(model: Model, context: int, *, local: bool = False) -> Rotation:
    """Return a model's tables, or those of its window layers, in float32 as in Hugging Face.

    Scaling is that of `models/rope`. Factors for long text are used throughout if the context
    exceeds the short one.
    """
    import numpy as np

    metadata = {key.partition(".")[2]: value for key, value in model.metadata.items()}
    if not local and metadata.get("rope.scaling.type") not in (None, "linear"):
        raise ArtifactError(
            f"config.json: rope scaling `{metadata['rope.scaling.type']}` "
            "has no place in a table of angles"
        )

    base = metadata.get("rope.freq_base_swa") if local else metadata.get("rope.freq_base", 10000.0)
    width = metadata.get("rope.dimension_count", model.sizes["head_dim"])
    frequencies = 1.0 / np.float32(base) ** (
        np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    )
    scale = np.float32(1.0)
    if not local:
        frequencies = (
            frequencies
            / _factors(model, metadata, context)
            / np.float32(metadata.get("rope.scaling.factor", 1.0))
        )
        scale = np.float32(metadata.get("rope.scaling.attn_factor", 1.0))

    angles = np.outer(np.arange(context, dtype=np.float32), frequencies.astype(np.float32)).astype(
        np.float64
    )
    cos, sin = np.cos(angles) * scale, np.sin(angles) * scale

    return Rotation(
        np.concatenate([cos, cos], 1).astype(np.float32),
        np.concatenate([-sin, sin], 1).astype(np.float32),
    )


def _factors(
    model: Model, metadata: Mapping[str, Any], context: int
) -> "NDArray[np.float32] | np.float32":
    import numpy as np

    factors_by_name = {
        source.name: source.values for source in model.tensors if source.values is not None
    }
    length = (
        "long"
        if context > metadata.get("rope.scaling.original_context_length", context)
        else "short"
    )
    factors = factors_by_name.get(
        "rope_freqs.weight", factors_by_name.get(f"rope_factors_{length}.weight")
    )
    return np.float32(1.0) if factors is None else factors

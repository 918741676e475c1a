"""A checkpoint as the writers of graphs read it: matrices, vectors, and which layers slide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.architecture import Model
from toolchain.models.lora import Merged
from toolchain.models.weights import Weights
from toolchain.quantize.matrices import Matrix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KNOWN = ("llama", "qwen2", "qwen3", "gemma3", "phi3")
"""`Family.name` of the families whose graphs are written here; Mistral's is `llama`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint whose graph is written."""

    model: Model
    config: dict[str, Any]
    weights: Weights | Merged
    context: int
    vectors: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)
    """Learned vectors instead of those of the checkpoint, by name."""

    def refuse_unknown(self, form: str) -> None:
        """Raise ArtifactError for a family that has no graph here."""
        if self.model.family.name not in KNOWN:
            raise ArtifactError(
                f"config.json: `{self.model.family.name}` has no {form} graph",
                hint=f"known: {', '.join(KNOWN)}; or use GGUF",
            )

    def matrix(self, *origins: str) -> Matrix:
        """Return tensors of the checkpoint as one matrix, one below the other."""
        tensors = [self.weights.tensors[origin] for origin in origins]
        return Matrix(origins, sum(tensor.rows for tensor in tensors), tensors[0].columns)

    def vector(self, *origins: str) -> "NDArray[np.float32]":
        """Return vectors of the checkpoint one after the other, with the family's norm offset."""
        import numpy as np

        offset = np.float32(self.model.family.norm_offset if "norm" in origins[0] else 0.0)
        rows = [
            self.vectors[origin] if origin in self.vectors else self.weights.rows(origin, 0, 1)[0]
            for origin in origins
        ]
        return np.concatenate(rows) + offset

    def slides(self, layer: int) -> bool:
        """Return whether a layer attends to a window only."""
        if self.model.family.name == "gemma3":
            kinds = self.config["layer_types"]
            return bool(kinds[layer] == "sliding_attention")
        return self.model.family.window == "limit" and bool(self.config.get("sliding_window"))

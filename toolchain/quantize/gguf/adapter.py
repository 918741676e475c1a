"""A LoRA adapter as a GGUF file of its own, so that one base on the board serves several skills.

llama.cpp adds alpha ÷ rank · B·A to the base at run time (src/llama-adapter.cpp). Names and the
order of rows follow the base's family.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import ArtifactError
from toolchain.files import whole_file
from toolchain.models.architecture import Source, read_architecture
from toolchain.models.gguf_file import Metadata, write_header
from toolchain.models.lora import Delta, Lora, open_lora
from toolchain.models.weights import open_weights
from toolchain.quantize.gguf.write import regrouped
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def convert_adapter(adapter: Path, base: Path, out: Path, *, name: str = "") -> Path:
    """Write a PEFT adapter folder as the GGUF file `out`; raise ArtifactError for another base."""
    with open_weights(base) as weights:
        model = read_architecture(base, weights)
        lora = open_lora(adapter, weights, base.name)

    parts = _parts(lora, {source.origin: source for source in model.tensors})
    metadata: Metadata = {
        "general.architecture": model.family.name,
        "general.type": "adapter",
        "general.name": name or lora.name,
        "adapter.type": "lora",
        "adapter.lora.alpha": lora.alpha,
    }

    with whole_file(out) as file:
        slots = write_header(
            file, metadata, {part: (Type.F32, values.shape) for part, values in parts.items()}
        )
        with file.open("r+b") as stream:
            for part, values in parts.items():
                stream.seek(slots[part].offset)
                stream.write(values.tobytes())

    return out


def _parts(lora: Lora, sources: dict[str, Source]) -> "dict[str, NDArray[np.float32]]":
    import numpy as np

    parts: dict[str, NDArray[np.float32]] = {}
    for weight, delta in lora.deltas.items():
        source = sources.get(weight)
        if source is None:
            raise ArtifactError(
                f"adapter {lora.name}: changes `{weight}`, which has no place in the model file"
            )
        if source.name == "token_embd.weight":
            raise ArtifactError(
                f"adapter {lora.name}: changes the embedding `{weight}`, "
                "which is not adapted while it runs"
            )

        b = _scaled(delta, lora.alpha)
        parts[f"{source.name}.lora_a"] = delta.a
        parts[f"{source.name}.lora_b"] = (
            regrouped(b, source.shape[0] // source.heads)
            if source.heads
            else np.ascontiguousarray(b)
        )

    return parts


def _scaled(delta: Delta, alpha: float) -> "NDArray[np.float32]":
    """Return B scaled so that llama.cpp's alpha ÷ rank gives the adapter's own scale.

    The two differ with rsLoRA and alpha patterns.
    """
    import numpy as np

    own = delta.scale * delta.rank / alpha
    return delta.b if own == 1 else (delta.b * np.float32(own)).astype(np.float32)

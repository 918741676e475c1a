"""Vision tower and connector of a checkpoint → one projector file (mmproj) beside the model file.

The bytes of its tensors are those of llama.cpp's converter (convert_hf_to_gguf --mmproj).
"""

from dataclasses import dataclass
from pathlib import Path

from toolchain.files import whole_file
from toolchain.models.architecture import Source
from toolchain.models.gguf_file import Metadata, write_header
from toolchain.models.names import CONFIG
from toolchain.models.vision import Eyes, read_eyes, sight_of
from toolchain.models.weights import Weights, open_eyes, read_json
from toolchain.progress import Reporter
from toolchain.quantize.gguf.metadata import QUANTIZATION_VERSION
from toolchain.quantize.gguf.write import Treatment, write_tensors
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

PROJECTOR_SCHEMES = {"F16": (1, Type.F16), "BF16": (32, Type.BF16), "Q8_0": (7, Type.Q8_0)}
"""Scheme of a projector file → `general.file_type` and the type of its matrices."""
_ALWAYS_F32 = ("v.position_embd.weight", "v.patch_embd.weight")
_ALWAYS_F16 = ("mm.input_projection.weight",)
# llama.cpp transposes it (tools/mtmd/models/siglip.cpp), which blocks cannot be.


@dataclass(frozen=True, slots=True, kw_only=True)
class Projector:
    """A projector file that was written."""

    file: str
    """Its name."""
    weights_bytes: int
    tokens: int
    """Positions that a picture takes in a prompt."""


def sees(folder: Path) -> bool:
    """Say whether a checkpoint has a vision tower; raise ArtifactError for one nobody can run."""
    return sight_of(read_json(folder / CONFIG)) is not None


def write_projector(folder: Path, name: str, scheme: str, out: Path, report: Reporter) -> Projector:
    """Write the projector file of a checkpoint into `out`; raise ArtifactError if it is refused."""
    with open_eyes(folder) as weights:
        eyes = read_eyes(
            folder,
            read_json(folder / CONFIG),
            {origin: tensor.shape for origin, tensor in weights.tensors.items()},
        )
        file = out / f"mmproj-{name}-{scheme}.gguf"
        size = _write(file, eyes, weights, scheme, name, report)

    report.note(f"{file.name}: {size / 1e6:.1f} MB, which read pictures beside the model file")
    return Projector(file=file.name, weights_bytes=size, tokens=eyes.tokens)


def _write(
    file: Path, eyes: Eyes, weights: Weights, scheme: str, name: str, report: Reporter
) -> int:
    """Write the file; return the bytes of its tensors."""
    number, base = PROJECTOR_SCHEMES[scheme]
    sources = [
        Source(
            name=name,
            shape=shape,
            origin=eyes.origins[name],
            offset=eyes.offsets.get(name, 0.0),
        )
        for name, shape in eyes.shapes.items()
    ]
    tensors = {
        source.name: (_type(source.name, source.shape, base), source.shape) for source in sources
    }
    with whole_file(file) as part:
        slots = write_header(part, _metadata(eyes, name, number), tensors)
        planned = [(source, slots[source.name]) for source in sources]
        write_tensors(part, weights, planned, Treatment(), report)
    return sum(slot.size_bytes for slot in slots.values())


def _type(name: str, shape: tuple[int, ...], base: Type) -> Type:
    """Return a tensor's type: vectors and embeddings stay in 32 bits, as llama.cpp asks for."""
    if len(shape) == 1 or name in _ALWAYS_F32:
        return Type.F32
    if name in _ALWAYS_F16 or shape[-1] % ggml.block_size(base):
        return Type.F16
    return base


def _metadata(eyes: Eyes, name: str, file_type: int) -> Metadata:
    return {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": name,
        "general.file_type": file_type,
        **eyes.metadata,
        "general.quantization_version": QUANTIZATION_VERSION,
    }

"""The importance matrix: mean square of the input of each weight column, over calibration text.

Quantizing weighs column errors with it. It is collected on the Hugging Face model and stored in
llama.cpp's own GGUF form (tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp). So stock
llama-quantize reads our files, and we read theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest import ManifestError
from device.manifest.gguf import Tensor, read_header
from toolchain.errors import ArtifactError, ConfigError
from toolchain.files import whole_file
from toolchain.models.architecture import Model
from toolchain.models.gguf_file import Metadata, write_header
from toolchain.models.lora import Lora
from toolchain.models.tokenizer import load_tokenizer
from toolchain.progress import Reporter
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_TOKENS = 512
"""Tokens in one chunk, as in upstream's tool."""
MAX_CHUNKS = 64
_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """An importance matrix."""

    sums: Mapping[str, "NDArray[np.float32]"]
    """Tensor of the model file → sum of squares of each column's inputs."""
    counts: Mapping[str, int]
    """Tensor → number of summed rows of input."""
    dataset: str = ""
    chunks: int = 0
    chunk_tokens: int = CHUNK_TOKENS

    def weights(self) -> dict[str, "NDArray[np.float32]"]:
        """Return each tensor's mean; ones without input (tools/quantize, `load_imatrix`)."""
        import numpy as np

        means = {
            name: sums / np.float32(self.counts[name] or 1) for name, sums in self.sums.items()
        }
        return {
            name: mean if self.counts[name] else np.ones_like(mean) for name, mean in means.items()
        }

    def provenance(self) -> Metadata:
        """Return the metadata that llama-quantize writes about an importance matrix."""
        fields = {
            "dataset": self.dataset,
            "entries_count": len(self.sums),
            "chunks_count": self.chunks,
        }
        return {f"quantize.imatrix.{key}": value for key, value in fields.items() if value}


@dataclass(slots=True)
class _Sums:
    """Sums of the hooks so far, by the weight's name in the checkpoint."""

    totals: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def hook(self, weight: str) -> Callable[[Any, tuple[Any, ...]], None]:
        """Return a forward hook that adds up the squares of a module's inputs."""

        return lambda module, inputs: self._add(weight, inputs[0])

    def _add(self, weight: str, inputs: Any) -> None:
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).double()
        total = rows.square().sum(0)
        self.totals[weight] = self.totals[weight] + total if weight in self.totals else total
        self.counts[weight] = self.counts.get(weight, 0) + rows.shape[0]


def collect(
    folder: Path, model: Model, texts: Sequence[str], report: Reporter, *, lora: Lora | None = None
) -> Matrix:
    """Run a model folder with its adapter merged over calibration texts.

    Head and embedding are left out, as upstream does. Raises ConfigError for too little text.
    """
    import torch

    chunks = _chunks(folder, texts)
    names = {
        source.origin: source.name for source in model.tensors if source.name.startswith("blk.")
    }
    network = _load(folder, lora)
    seen = _Sums()

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and f"{name}.weight" in names:
            module.register_forward_pre_hook(seen.hook(f"{name}.weight"))

    with torch.inference_mode():
        for number, chunk in enumerate(chunks, 1):
            network(torch.tensor([chunk]), use_cache=False)
            report.step("importance", number * CHUNK_TOKENS, len(chunks) * CHUNK_TOKENS, "tokens")

    return Matrix(
        sums={names[weight]: total.float().numpy() for weight, total in seen.totals.items()},
        counts={names[weight]: count for weight, count in seen.counts.items()},
        dataset="calibration text of the recipe",
        chunks=len(chunks),
    )


def _chunks(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = load_tokenizer(folder)
    tokens: list[int] = []
    for text in texts:
        tokens += tokenizer.encode(text).ids
        if len(tokens) >= MAX_CHUNKS * CHUNK_TOKENS:
            break

    if len(tokens) < CHUNK_TOKENS:
        hint = "give more data, or set `importance = false`"
        raise ConfigError(
            f"quantize: {len(tokens)} tokens of calibration text, "
            f"an importance matrix needs {CHUNK_TOKENS}",
            hint=hint,
        )

    whole = min(len(tokens) // CHUNK_TOKENS, MAX_CHUNKS)
    return [tokens[number * CHUNK_TOKENS : (number + 1) * CHUNK_TOKENS] for number in range(whole)]


def _load(folder: Path, lora: Lora | None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for weight, delta in (lora.deltas if lora else {}).items():
            parameters[weight].add_(torch.from_numpy(delta.rows(0, delta.b.shape[0])))
    return network


def save(matrix: Matrix, file: Path) -> None:
    """Write an importance matrix as llama.cpp's imatrix tool writes it."""
    import numpy as np

    metadata: Metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": [matrix.dataset or "unknown"],
        "imatrix.chunk_count": matrix.chunks,
        "imatrix.chunk_size": matrix.chunk_tokens,
    }
    values: dict[str, NDArray[np.float32]] = {}

    for name in sorted(matrix.sums):
        values[name + _SUMS] = matrix.sums[name].reshape(1, -1).astype(np.float32)
        values[name + _COUNTS] = np.full((1, 1), matrix.counts[name], np.float32)

    with whole_file(file) as part:
        slots = write_header(
            part, metadata, {name: (Type.F32, array.shape) for name, array in values.items()}
        )
        with part.open("r+b") as stream:
            for name, array in values.items():
                stream.seek(slots[name].offset)
                stream.write(array.tobytes())


def load(file: Path, model: Model | None = None) -> Matrix:
    """Read an importance matrix, ours or llama.cpp's.

    Raises ArtifactError that names file and tensor for a bad one; with a model, also for the matrix
    of another model.
    """
    try:
        header = read_header(file)
    except ManifestError as error:
        hint = "llama-imatrix writes this form with `--output-format gguf`"
        raise ArtifactError(f"{file.name}: not an importance matrix: {error}", hint=hint) from error

    if header.metadata.get("general.type") != "imatrix":
        raise ArtifactError(
            f"{file.name}: not an importance matrix "
            f"but `{header.metadata.get('general.type', 'a model')}`"
        )

    values = {tensor.name: _values(file, tensor) for tensor in header.tensors}
    names = [name.removesuffix(_SUMS) for name in values if name.endswith(_SUMS)]
    if missing := next((name for name in names if values.get(name + _COUNTS) is None), None):
        raise ArtifactError(f"{file.name}: tensor `{missing}{_COUNTS}` is missing")

    datasets = header.metadata.get("imatrix.datasets")
    sums = {name: values[name + _SUMS] for name in names}
    if model:
        _check_fits(file, sums, model)

    return Matrix(
        sums=sums,
        counts={name: int(values[name + _COUNTS][0]) for name in names},
        dataset=str(datasets[0]) if isinstance(datasets, tuple) and datasets else "",
        chunks=_count(header.metadata.get("imatrix.chunk_count")),
        chunk_tokens=_count(header.metadata.get("imatrix.chunk_size")),
    )


def _check_fits(file: Path, sums: "Mapping[str, NDArray[np.float32]]", model: Model) -> None:
    columns = {source.name: source.shape[-1] for source in model.tensors if len(source.shape) > 1}
    if not sums.keys() & columns.keys():
        raise ArtifactError(f"{file.name}: names no tensor of this model")
    for name in sorted(sums.keys() & columns.keys()):
        if sums[name].size != columns[name]:
            raise ArtifactError(
                f"{file.name}: tensor `{name}`: {sums[name].size} columns, "
                f"the model has {columns[name]}"
            )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _values(file: Path, tensor: Tensor) -> "NDArray[np.float32]":
    import numpy as np

    if tensor.type != "F32":
        raise ArtifactError(f"{file.name}: tensor `{tensor.name}`: {tensor.type}, not F32")
    values = np.fromfile(file, "<f4", tensor.size // 4, offset=tensor.offset)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ArtifactError(
            f"{file.name}: tensor `{tensor.name}`: a value is negative, NaN or infinite"
        )
    return values

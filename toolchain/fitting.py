"""What `fit` weighs: any model that people have on disk, before it is packaged for a board.

A GGUF, TFLite or ONNX file, a bundle of one, or a checkpoint folder as it will be once it is
quantized. No weight is read.
"""

import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import BUNDLE_MANIFEST, ManifestError, read_manifest
from device.manifest import gguf as gguf_files
from device.manifest.gguf_values import Value
from toolchain.errors import ArtifactError, ConfigError
from toolchain.line import formats
from toolchain.target import Target
from toolchain.tools.nvidia_smi import card_memory_mb
from toolchain.weighing import Weighed, weigh_header

if TYPE_CHECKING:
    from toolchain.models.architecture import Model

SCHEME = "Q4_K_M"
"""Scheme in which a checkpoint is weighed by default: that of recipes."""
_HINT = (
    "give a GGUF, TFLite or ONNX file, a bundle as `demitasse package` makes it, or a model folder"
)


def weigh(path: Path, scheme: str = SCHEME) -> Weighed:
    """Return what a file or folder is to `fit`.

    Raise ArtifactError for what is no model, ConfigError for an unknown scheme.
    """
    try:
        if path.is_dir():
            return _folder(path, scheme)
        return formats.of_file(path).weigh(path, 0, 0)
    except ManifestError as error:
        raise ArtifactError(str(error), hint=_HINT) from error


def memory_here_mb(board: Target) -> int | None:
    """Return this computer's memory if a target of its kind names none of its own, else None.

    Of a target with a graphics card it is the memory of this computer's card.
    """
    if board.memory_mb is not None or board.machine != platform.machine():
        return None
    if board.has_card:
        return card_memory_mb()
    try:
        table = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    return int(table.partition("MemTotal:")[2].split()[0]) >> 10


def _folder(folder: Path, scheme: str) -> Weighed:
    if (folder / BUNDLE_MANIFEST).is_file():
        return _bundle(folder)
    if (folder / "config.json").is_file():
        return _checkpoint(folder, scheme)
    if (folder / "adapter_config.json").is_file():
        raise ArtifactError(
            f"{folder.name}: an adapter: it takes what its base takes",
            hint="`demitasse fit` of the base's folder says how much",
        )
    raise ArtifactError(
        f"{folder.name}: neither a bundle nor a model folder: it has no `{BUNDLE_MANIFEST}` and no "
        "`config.json`",
        hint=_HINT,
    )


def _bundle(folder: Path) -> Weighed:
    manifest = read_manifest(folder)
    file = folder / manifest.model
    adapter_bytes = manifest.file(manifest.adapter).size if manifest.adapter else 0
    weighed = formats.of_file(file).weigh(file, manifest.context, adapter_bytes)
    if not manifest.feedback_mb:
        return weighed
    kept = f"{manifest.feedback_mb} MB of disk for feedback"
    return replace(weighed, what=f"{weighed.what}, {kept}")


def _checkpoint(folder: Path, scheme: str) -> Weighed:
    """Return a checkpoint as the GGUF file that `quantize` would write: same tensors and types."""
    from toolchain.models import architecture
    from toolchain.models.weights import open_weights

    with open_weights(folder) as weights:
        model = architecture.read_architecture(folder, weights)
    return weigh_model(model, scheme, folder.name)


def weigh_model(model: "Model", scheme: str, name: str) -> Weighed:
    """Return a model of this architecture as the GGUF file of a scheme; no weight need be here.

    Raise ConfigError for an unknown scheme and for a budget.
    """
    from toolchain.quantize.gguf import choice

    kinds = choice.named(scheme, model, weighed=False)
    if not kinds:
        raise ConfigError(
            f"{scheme}: a budget has no types of its own", hint="--scheme Q4_K_M names some"
        )
    vocabulary = gguf_files.Array(kind=8, count=model.sizes["vocab"])
    metadata = {
        "general.architecture": model.family.name,
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.merges": vocabulary,
        **{name: _as_read(value) for name, value in model.metadata.items()},
    }
    tensors = tuple(
        _tensor(source.name, source.shape, kinds[source.name].type.name) for source in model.tensors
    )
    header = gguf_files.Header(metadata, tensors, sum(tensor.size for tensor in tensors))
    return weigh_header(header, f"{name} as {scheme}")


def _as_read(value: object) -> Value:
    """Return a value that is to be written as a reader of the file gives it."""
    return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]


def _tensor(name: str, shape: tuple[int, ...], kind: str) -> gguf_files.Tensor:
    weights = 1
    for length in shape:
        weights *= length
    block, size = next((b, s) for known, b, s in gguf_files.TYPES.values() if known == kind)
    return gguf_files.Tensor(name, kind, shape[::-1], 0, weights // block * size)

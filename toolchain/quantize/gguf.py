"""Checkpoint → one .gguf, in one streaming pass: rows are read, quantized and written where they belong, block by block.

Between `tune` or `distill` and `evaluate`. The bytes of the tensors are those of llama.cpp's converter and quantizer run one after
the other, without the file between them. Everything that could refuse the model is asked before the first weight is read.
"""

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.errors import ArtifactError
from toolchain.progress import Reporter
from toolchain.quantize import gguf_families, gguf_tokenizer
from toolchain.quantize.gguf_families import Metadata, Model, Source
from toolchain.quantize.gguf_file import Slot, write_header
from toolchain.quantize.gguf_schemes import Choice, Layout, choose_types, find_scheme
from toolchain.quantize.gguf_tokenizer import TEMPLATE, TOKENIZER, Vocabulary
from toolchain.recipe import QuantizeSpec
from toolchain.tools import ggml
from toolchain.weights import Weights, check_model_folder, open_weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_WEIGHTS = 1 << 20
"""Weights that a thread holds at a time: a few times 4 MB."""
QUANTIZATION_VERSION = 2
"""`general.quantization_version` (ggml.h, GGML_QNT_VERSION)."""


class ModelLabel(Frozen):
    """What the file says of its origin; empty fields are left out."""

    name: str
    basename: str = ""
    finetune: str = ""
    version: str = ""
    licence: str = ""
    base_model: str = ""
    """Hub id or name of the model that this one was made from."""
    description: str = ""


class _Parameters(Frozen):
    spec: QuantizeSpec
    label: ModelLabel


def quantize(checkpoint: Checkpoint, spec: QuantizeSpec, label: ModelLabel, out: Path, report: Reporter) -> ModelFile:
    """Write the checkpoint as a GGUF file, tokenizer and chat template beside it; raise ArtifactError for what is refused."""
    find_scheme(spec.scheme)
    check_model_folder(checkpoint.path)
    work = Work(
        stage="quantize", inputs={"checkpoint": checkpoint.digest}, parameters=_Parameters(spec=spec, label=label),
        tools=("gguf", "llama-cpp-python"),
    )  # fmt: skip
    record, fresh = keep(out, work, lambda folder: _build(checkpoint.path, spec.scheme, label, folder, report))
    return ModelFile(path=out, record=record, fresh=fresh)


def _build(folder: Path, scheme: str, label: ModelLabel, out: Path, report: Reporter) -> Figures:
    with open_weights(folder) as weights:
        model = gguf_families.understand(folder, weights)
        vocabulary = gguf_tokenizer.understand(folder, model.sizes["vocab"])
        choices = _choose(scheme, model)
        fallbacks = _fallbacks(choices, model)
        if fallbacks:
            report.note(_describe_fallbacks(scheme, fallbacks))
        compared = gguf_tokenizer.prove(folder, vocabulary.metadata, model.family.name)
        report.note(f"tokenizer: {compared} tokens of mixed text are the same in llama.cpp")
        tensors = {source.name: (choices[source.name].type, source.shape) for source in model.tensors}
        with _whole(out / _file_name(label, scheme, model)) as part:
            slots = write_header(part, _metadata(label, scheme, model, vocabulary), tensors)
            _write_tensors(part, weights, [(source, slots[source.name]) for source in model.tensors], report)
    _write_companions(folder, vocabulary, out)
    figures = _figures(out / _file_name(label, scheme, model), scheme, model, vocabulary, slots)
    size, nominal, real = figures["size_bytes"] / 1e6, figures["nominal_bpw"], figures["real_bpw"]
    report.note(f"{figures['file']}: {size:.1f} MB; {scheme} has nominally {nominal:.2f} bits per weight, here {real:.2f}")
    return figures | {"fallbacks": fallbacks, "tokens_compared": compared}


def _write_companions(folder: Path, vocabulary: Vocabulary, out: Path) -> None:
    (out / TEMPLATE).write_text(vocabulary.template, encoding="utf-8")
    for name in (TOKENIZER, "generation_config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _choose(scheme: str, model: Model) -> dict[str, Choice]:
    layers, heads = model.sizes["layers"], model.sizes["heads"]
    wide = layers == 80 and (model.family.name != "llama" or heads != model.sizes["kv_heads"])
    layout = Layout(layers=layers, tied=model.tied, wide_groups=wide)
    return choose_types(scheme, {source.name: source.shape for source in model.tensors}, layout)


def _fallbacks(choices: Mapping[str, Choice], model: Model) -> list[dict[str, Any]]:
    return [
        {"tensor": source.name, "row": source.shape[-1], "wanted": choice.wanted.name, "type": choice.type.name}
        for source in model.tensors
        if (choice := choices[source.name]).type != choice.wanted
    ]


def _describe_fallbacks(scheme: str, fallbacks: list[dict[str, Any]]) -> str:
    kinds = sorted({(entry["row"], entry["wanted"], entry["type"]) for entry in fallbacks})
    each = (f"rows of {row} do not fit {wanted}'s blocks, {used} instead" for row, wanted, used in kinds)
    return f"{scheme}: {len(fallbacks)} tensors fall back: {'; '.join(each)}"


def _metadata(label: ModelLabel, scheme: str, model: Model, vocabulary: Vocabulary) -> Metadata:
    general = {
        "type": "model", "name": label.name, "basename": label.basename, "finetune": label.finetune, "version": label.version,
        "size_label": _size_label(model), "license": label.licence, "description": label.description,
    }  # fmt: skip
    return {
        "general.architecture": model.family.name,
        **{f"general.{key}": value for key, value in general.items() if value},
        **_base_model(label.base_model),
        **model.metadata,
        **vocabulary.metadata,
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": find_scheme(scheme).file_type,
    }


def _base_model(base: str) -> Metadata:
    organization, _, name = base.rpartition("/")
    if not base:
        return {}
    found = {"general.base_model.count": 1, "general.base_model.0.name": name, "general.base_model.0.organization": organization}
    return {key: value for key, value in found.items() if value}


def _size_label(model: Model) -> str:
    from gguf import size_label

    return str(size_label(model.parameters, 0, 0, 0))


def _file_name(label: ModelLabel, scheme: str, model: Model) -> str:
    """Return BaseName-SizeLabel-FineTune-Version-Encoding.gguf (ggml docs/gguf.md, naming convention)."""
    version = f"v{label.version}" if label.version[:1].isdigit() else label.version
    parts = (label.basename or label.name, _size_label(model), label.finetune, version, scheme)
    return "-".join(re.sub(r"[^\w.+]+", "-", part).strip("-") for part in parts if part) + ".gguf"


def _figures(file: Path, scheme: str, model: Model, vocabulary: Vocabulary, slots: Mapping[str, Slot]) -> Figures:
    stored = sum(slot.size_bytes for slot in slots.values())
    return {
        "file": file.name, "scheme": scheme, "size_bytes": file.stat().st_size, "nominal_bpw": find_scheme(scheme).nominal_bpw,
        "real_bpw": round(stored * 8 / model.parameters, 4), "parameters": model.parameters, "context": model.sizes["context"],
        "stop_ids": list(vocabulary.stop_ids), "weights_bytes": stored, "kv_bytes_per_token": model.kv_bytes_per_token,
        "n_vocab": model.sizes["vocab"],
    }  # fmt: skip


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Yield a temporary path whose file takes `file`'s name when all went well, and is gone otherwise."""
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _write_tensors(part: Path, weights: Weights, planned: list[tuple[Source, Slot]], report: Reporter) -> None:
    blocks = [block for source, slot in planned for block in _blocks(source, slot)]
    total = sum(slot.size_bytes for _, slot in planned)
    done = 0
    with part.open("r+b") as stream, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        _reserve(stream.fileno(), total)
        written = [pool.submit(_write_block, stream.fileno(), weights, block) for block in blocks]
        try:
            for size in written:
                done += size.result()
                report.step("quantize", done, total, unit="B")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _reserve(handle: int, total: int) -> None:
    try:
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
    except OSError as error:
        raise ArtifactError(f"no room for a model file of {total / 1e6:.0f} MB: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Some whole rows of one tensor, whole heads where rows are regrouped."""

    source: Source
    slot: Slot
    first: int
    count: int


def _blocks(source: Source, slot: Slot) -> Iterator[_Block]:
    rows, unit = math.prod(slot.shape[:-1]), 1
    if source.heads and len(slot.shape) > 1:
        unit = rows // source.heads
    step = max(unit, BLOCK_WEIGHTS // slot.shape[-1] // unit * unit)
    for first in range(0, rows, step):
        yield _Block(source=source, slot=slot, first=first, count=min(step, rows - first))


def _write_block(handle: int, weights: Weights, block: _Block) -> int:
    import numpy as np

    source, slot = block.source, block.slot
    packed = np.empty(block.count * slot.row_bytes, np.uint8)
    try:
        ggml.quantize_rows(slot.type, _read(weights, block), packed)
    except ValueError as error:
        raise ArtifactError(f"{weights.tensors[source.origin].file.name}: tensor `{source.origin}`: {error}") from error
    left, at = packed.data, slot.offset + block.first * slot.row_bytes
    while left:
        size = os.pwrite(handle, left, at)
        left, at = left[size:], at + size
    return int(packed.size)


def _read(weights: Weights, block: _Block) -> "NDArray[np.float32]":
    """Return a block's rows; q and k regrouped from halves of a head to adjacent pairs where the family wants it.

    Row 2j+i of a head in GGUF is row i·d/2+j in the checkpoint (`LlamaModel.permute`, conversion/llama.py).
    """
    import numpy as np

    source, shape = block.source, block.slot.shape
    if source.values is not None:
        return source.values.reshape(1, -1)
    rows = weights.rows(source.origin, block.first, block.count)
    if not source.heads:
        return rows
    halves = rows.reshape(-1, 2, shape[0] // source.heads // 2, math.prod(shape[1:]))
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)

"""Unpacks a GGUF file into a trainable checkpoint, for bases without published 16-bit weights.

The checkpoint's weights are exactly those that the quantized file stands for, and the record names
their types. Three proofs come first: the checkpoint gives the file's metadata when it is read back,
both tokenizers give equal tokens for a mixed text, and its logits are llama.cpp's (`gguf_proof`).
"""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint, Figures, Work, digest
from toolchain.config import Frozen
from toolchain.figures import BaseFigures
from toolchain.files import write_whole
from toolchain.models import tokenizer
from toolchain.models.architecture import Source, read_architecture, sources_of
from toolchain.models.gguf_config import COMPUTED, check_metadata, config_of
from toolchain.models.gguf_parts import join, parts_of, whole_name
from toolchain.models.gguf_proof import prove_logits
from toolchain.models.gguf_read import GgufFile, open_gguf
from toolchain.models.gguf_tokenizer import write_tokenizer
from toolchain.models.names import CONFIG
from toolchain.models.origin import Origin
from toolchain.models.tokenizer_proof import prove_file
from toolchain.models.weights import open_weights
from toolchain.models.weights_write import write_weights
from toolchain.processes import is_main, keep_together
from toolchain.progress import Reporter
from toolchain.tools.llama import Rules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_WEIGHTS = 1 << 22
"""Weights that are held at a time: 16 MB of float32."""
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class _Parameters(Frozen):
    name: str
    version: str


def unpack(
    origin: Origin, runtime: Path, out: Path, report: Reporter, *, stage: str = "base"
) -> Checkpoint:
    """Write the checkpoint of a model file to `out`; raise ArtifactError for one that is refused.

    Parts of a model are joined first. `runtime` is the device runtime for this computer, whose
    logits are compared. If several processes train together, one of them writes.
    """
    work = Work(
        stage=stage,
        inputs={
            "gguf": "".join(map(digest, parts_of(origin.file))),
            "licences": "".join(map(digest, origin.licences)),
        },
        parameters=_Parameters(name=origin.name, version=origin.version),
        tools=("llama-cpp-python", "transformers"),
    )

    def build(folder: Path) -> BaseFigures | None:
        if not is_main():
            return None
        return BaseFigures.of(_build(origin, runtime, folder, report))

    record, fresh = keep_together(out, work, build, BaseFigures)
    return Checkpoint(path=out, record=record, fresh=fresh)


def _build(origin: Origin, runtime: Path, out: Path, report: Reporter) -> Figures:
    parts = parts_of(origin.file)
    if len(parts) == 1:
        return _proved(origin, runtime, out, report)

    whole = out / whole_name(origin.file.name)
    join(parts, whole, report)
    try:
        return _proved(replace(origin, file=whole), runtime, out, report)
    finally:
        whole.unlink()


def _proved(origin: Origin, runtime: Path, out: Path, report: Reporter) -> Figures:
    figures = write_checkpoint(origin, out, report)
    proof = prove_logits(origin.file, out, runtime, set(figures["types"]))
    report.note(proof.sentence())
    return figures | proof.figures()


def write_checkpoint(origin: Origin, out: Path, report: Reporter) -> Figures:
    """Write the checkpoint with metadata and tokens proved, before its logits are.

    Raises ArtifactError for a file that is refused.
    """
    with open_gguf(origin.file) as file:
        config = config_of(file)
        rules = write_tokenizer(file, out)
        sources = _compared(file, config)
        dtype = _dtype(file, sources)
        _write_config(config, rules, dtype, out)
        _write_weights(file, sources, dtype, out, report)

        for licence in origin.licences:
            shutil.copyfile(licence, out / licence.name)

        with open_weights(out) as weights:
            model = read_architecture(out, weights)

        check_metadata(file, model)
        figures = _figures(origin, file, dtype)
        report.note(f"{origin.file.name}: {figures['quantization']}, taken as {_DTYPES[dtype]}")
        vocabulary = tokenizer.read_vocabulary(out, model.sizes["vocab"])
        compared = prove_file(file.path, out, vocabulary)
        report.note(f"tokenizer: {compared} tokens of mixed text are the same in llama.cpp")

    return figures | {"tokens_compared": compared}


def _compared(file: GgufFile, config: dict[str, Any]) -> list[Source]:
    """Return the source of each tensor of the checkpoint.

    Raises ArtifactError for a missing tensor, an extra one, and one of another shape.
    """
    _, sources = sources_of(config)
    for source in sources:
        if source.name not in file.tensors:
            raise file.fault(f"tensor `{source.name}` is missing")
        if (shape := file.shape(source.name)) != source.shape:
            asked = f"its metadata asks for {list(source.shape)}"
            raise file.fault(f"tensor `{source.name}`: shape {list(shape)}, {asked}")
        if source.heads and source.shape[0] % (2 * source.heads):
            raise file.fault(f"tensor `{source.name}`: heads of an odd size have no rotary pairs")

    known = {source.name for source in sources}
    for name in file.tensors:
        if name not in known and name not in COMPUTED:
            raise file.fault(f"tensor `{name}` has no place in a checkpoint")

    return sources


def _dtype(file: GgufFile, sources: list[Source]) -> str:
    """Return the smallest element type that holds all weights exactly: F16, BF16 or F32."""
    import numpy as np

    kinds = {file.tensors[source.name].type for source in sources if len(source.shape) > 1}
    if len(kinds) != 1 or not kinds <= {"F16", "BF16"}:
        return "F32"

    (kind,) = kinds
    vectors = [source for source in sources if len(source.shape) == 1]
    values = np.concatenate([block.ravel() for source in vectors for block in _rows(file, source)])
    if kind == "F16":
        rounded = values.astype(np.float16).astype(np.float32)
    else:
        rounded = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    return kind if np.array_equal(rounded, values) else "F32"


def _write_config(config: dict[str, Any], rules: Rules, dtype: str, out: Path) -> None:
    ids = {f"{role}_token_id": number for role, number in rules.roles.items()}
    whole = config | ids | {"dtype": _DTYPES[dtype], "use_cache": True}
    write_whole(out / CONFIG, json.dumps(whole, indent=2) + "\n")


def _write_weights(
    file: GgufFile, sources: list[Source], dtype: str, out: Path, report: Reporter
) -> None:
    by_origin = {source.origin: source for source in sources}
    total = sum(source.weights for source in sources)
    done = 0

    def rows(origin: str) -> Iterator["NDArray[np.float32]"]:
        """Yield a tensor in blocks of rows, and report the progress."""
        nonlocal done
        for block in _rows(file, by_origin[origin]):
            yield block
            done += block.size
            report.step("read the base", done, total, "weights")

    shapes = {origin: source.shape for origin, source in by_origin.items()}
    write_weights(out, shapes, dtype, rows)


def _rows(file: GgufFile, source: Source) -> Iterator["NDArray[np.float32]"]:
    """Yield the rows of a checkpoint's tensor, whole heads at a time where rows were regrouped."""
    import numpy as np

    count = math.prod(source.shape[:-1])
    if source.heads and len(source.shape) == 1:
        yield _ungrouped(file.whole(source.name).reshape(-1, 1), source).reshape(1, -1)
        return

    unit = count // source.heads if source.heads else 1
    step = max(unit, BLOCK_WEIGHTS // source.shape[-1] // unit * unit)
    for first in range(0, count, step):
        block = file.rows(source.name, first, min(step, count - first))
        if source.heads:
            block = _ungrouped(block, source)
        yield block - np.float32(source.offset) if source.offset else block


def _ungrouped(rows: "NDArray[np.float32]", source: Source) -> "NDArray[np.float32]":
    """Return heads with the halves of their rotary pairs apart.

    Row i·d/2+j is row 2j+i of the input (`permute`, conversion/llama.py).
    """
    import numpy as np

    pairs = rows.reshape(-1, source.shape[0] // source.heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _figures(origin: Origin, file: GgufFile, dtype: str) -> Figures:
    weights: dict[str, int] = {}
    stored = 0
    for tensor in file.tensors.values():
        if tensor.name not in COMPUTED:
            weights[tensor.type] = weights.get(tensor.type, 0) + math.prod(tensor.shape)
            stored += tensor.size

    total = sum(weights.values())
    shares = {
        kind: count / total for kind, count in sorted(weights.items(), key=lambda kind: -kind[1])
    }
    listed = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.005)
    bits = stored * 8 / total
    general = {key: str(file.metadata.get(f"general.{key}", "")) for key in ("name", "license")}

    return {
        "file": origin.file.name,
        "file_bytes": origin.file.stat().st_size,
        "quantization": f"weights of {bits:.2f} bits ({listed})",
        "bits_per_weight": round(bits, 3),
        "types": {kind: round(share, 6) for kind, share in shares.items()},
        "parameters": total,
        "dtype": _DTYPES[dtype],
        **{f"said_{key}": value for key, value in general.items() if value},
    }

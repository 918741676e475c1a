"""Export for NVIDIA's TensorRT Edge-LLM: checkpoint, their exporter's command, script for a board.

Never run by us on hardware, neither their exporter nor their builder: TensorRT is in no package
that can be installed here. Names of tools and options are those of release 0.10.0. Sources:
nvidia.github.io/TensorRT-Edge-LLM/0.10.0 and NVIDIA/TensorRT-Edge-LLM#8, #30.
"""

import math
import re
import shlex
from hashlib import sha256
from pathlib import Path

from toolchain.artifacts import Checkpoint, Work, keep
from toolchain.config import Frozen
from toolchain.errors import FitError
from toolchain.export.folder import Export, ExportFigures, Model, copy_checkpoint
from toolchain.files import write_whole
from toolchain.models.names import CONFIG
from toolchain.models.weights import open_weights, read_json, weight_files
from toolchain.progress import Reporter
from toolchain.target import MB, Target

NAME = "tensorrt-edge-llm"
RELEASE = "0.10.0"
"""Release of TensorRT Edge-LLM whose tools the scripts call."""
OLDEST_SM = 8.0
# "Compute capability 8.0 or newer" for x86 hosts; of the Jetsons Orin (8.7) and Thor (11.0).
"""Oldest compute capability of a GPU that their kernels are built for."""
LISTED = ("llama", "qwen2", "qwen3")
"""Families of ours among those on their page of supported models (Llama 3, Qwen 2, 2.5 and 3)."""
BUILD_BYTES = 4
"""Bytes of memory that their builder takes for each parameter, about."""
# NVIDIA/TensorRT-Edge-LLM#30: a 32B model did not build within 128 GB.
_FILES = Path(__file__).with_name("edge_llm_files")
_SCRIPTS = ("export-onnx.sh", "on-board.sh")


class _Parameters(Frozen):
    release: str
    name: str
    context: int
    max_tokens: int
    target: str
    files: str
    """sha256 of the scripts and of the README."""


def check(target: Target) -> None:
    """Raise FitError for a board that TensorRT Edge-LLM is not for."""
    sm = target.accelerator.cuda_sm if target.accelerator else ""
    if not sm:
        raise FitError(
            f"{target.id}: it has no GPU with CUDA: TensorRT Edge-LLM does not run on it",
            hint="--target jetson-orin-nano names a board with one",
        )
    if float(sm) < OLDEST_SM:
        raise FitError(
            f"{target.id}: its GPU has SM {sm}, TensorRT Edge-LLM needs {OLDEST_SM}",
            hint="llama.cpp runs on its processor: leave `export` out",
        )


def export(checkpoint: Checkpoint, model: Model, out: Path, report: Reporter) -> Export:
    """Return the folder that travels: the checkpoint, two scripts and what to do with them."""
    texts = {name: (_FILES / name).read_text(encoding="utf-8") for name in (*_SCRIPTS, "README.md")}
    parameters = _Parameters(
        release=RELEASE,
        name=model.name,
        context=model.context,
        max_tokens=model.max_tokens,
        target=model.target.id,
        files=sha256("\0".join(texts.values()).encode()).hexdigest(),
    )
    work = Work(
        stage="export",
        inputs={"checkpoint": checkpoint.digest},
        parameters=parameters,
        tools=("safetensors",),
    )
    record, fresh = keep(
        out, work, lambda folder: _fill(folder, checkpoint, model, texts), ExportFigures
    )
    done = Export(path=out, record=record, fresh=fresh)
    _note(done.figures, model, report)
    return done


def _fill(out: Path, checkpoint: Checkpoint, model: Model, texts: dict[str, str]) -> ExportFigures:
    copy_checkpoint(checkpoint, model.licence_files, out)
    figures = _figures(checkpoint.path)
    write_whole(out / "settings.sh", _settings(checkpoint, model))
    for name in _SCRIPTS:
        write_whole(out / name, texts[name])
        (out / name).chmod(0o755)
    write_whole(out / "README.md", _filled_in(texts["README.md"], figures, model))
    return figures


def _figures(folder: Path) -> ExportFigures:
    with open_weights(folder) as weights:
        parameters = sum(math.prod(tensor.shape) for tensor in weights.tensors.values())
    return ExportFigures(
        model_type=str(read_json(folder / CONFIG).get("model_type", "")),
        parameters=parameters,
        weights_bytes=sum(file.stat().st_size for file in weight_files(folder)),
    )


def _settings(checkpoint: Checkpoint, model: Model) -> str:
    values = {
        "MODEL": re.sub(r"[^A-Za-z0-9._-]", "-", model.name),  # part of a file's name
        "CHECKPOINT_SHA256": checkpoint.digest,
        "MAX_INPUT": max(1, model.context - model.max_tokens),
        "MAX_TOKENS": model.context,
        "RELEASE": RELEASE,
    }
    lines = (f"{name}={shlex.quote(str(value))}" for name, value in values.items())
    return "# Read by the scripts beside it.\n" + "\n".join(lines) + "\n"


def _filled_in(text: str, figures: ExportFigures, model: Model) -> str:
    """Return the README with the model's own figures in it."""
    listed = "is on" if figures.model_type in LISTED else "is not on"
    facts = {
        "NAME": model.name,
        "RELEASE": RELEASE,
        "FAMILY": f"`{figures.model_type}` {listed} their page of supported models",
        "WEIGHTS": f"{figures.weights_bytes / 1e6:.0f} MB",
        "BUILD": f"{_build_bytes(figures) / 1e9:.1f} GB",
        "BOARD": model.target.name,
        "CONTEXT": str(model.context),
    }
    for name, value in facts.items():
        text = text.replace(f"@{name}@", value)
    return text


def _build_bytes(figures: ExportFigures) -> int:
    return figures.parameters * BUILD_BYTES


def _note(figures: ExportFigures, model: Model, report: Reporter) -> None:
    report.note(f"export: for TensorRT Edge-LLM {RELEASE}: never run by us")
    if figures.model_type not in LISTED:
        report.note(
            f"export: `{figures.model_type}` is not on their page of supported models: "
            "their exporter may refuse it"
        )
    needed_mb, has_mb = _build_bytes(figures) // MB, model.target.memory_mb
    if has_mb is not None and needed_mb > has_mb:
        report.note(
            f"export: their builder takes about {needed_mb} MB for this model, "
            f"{model.target.id} has {has_mb} MB"
        )

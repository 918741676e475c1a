"""What all exports share: the model that is exported, the folder, and the checkpoint's files in it.

A checkpoint's folder also holds what its stage needs (records, adapters, graphs of a training):
only what transformers reads travels.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import Artifact, Checkpoint
from toolchain.errors import ArtifactError
from toolchain.figures import StageFigures
from toolchain.files import link_or_copy
from toolchain.models.names import CONFIG, GENERATION_CONFIG
from toolchain.models.tokenizer_files import TEMPLATE_FILES, TOKENIZER_FILES
from toolchain.models.weights import INDEX, weight_files
from toolchain.target import Target

CHECKPOINT = "checkpoint"
"""Folder of the Hugging Face checkpoint in an export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as an export's README describes it."""

    name: str
    context: int
    """Tokens of prompt and answer."""
    max_tokens: int
    """Longest answer in tokens."""
    target: Target
    licence_files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFigures(StageFigures):
    """What was exported."""

    model_type: str
    """Family of the model, as its configuration names it."""
    parameters: int
    weights_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Export(Artifact):
    """A folder for another runtime's own tools."""

    @property
    def figures(self) -> ExportFigures:
        """What was exported."""
        return ExportFigures.read(self.record.figures)


def copy_checkpoint(checkpoint: Checkpoint, licences: tuple[Path, ...], out: Path) -> None:
    """Give each file of a checkpoint that transformers reads a second name in `out`."""
    if checkpoint.adapter:
        raise ArtifactError(f"{checkpoint.path.name}: its adapter is not merged")
    folder = out / CHECKPOINT
    folder.mkdir()
    weights = weight_files(checkpoint.path)
    names = (CONFIG, GENERATION_CONFIG, *TOKENIZER_FILES, *TEMPLATE_FILES)
    files = [checkpoint.path / name for name in names]
    files += [checkpoint.path / INDEX] if len(weights) > 1 else []
    for file in (*files, *weights, *licences):
        target = folder / file.name
        if file.is_dir():  # of chat templates beside the usual one
            shutil.copytree(file, target)
        elif file.is_file() and not target.exists():
            link_or_copy(file, target)

"""What the tests of quantize share: a tiny checkpoint, and a reporter that remembers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.models import tiny_llama, tiny_qwen2
from toolchain.artifacts import Checkpoint, ModelFile, Record
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import QuantizeSpec

BUILDERS: dict[str, Callable[..., Path]] = {"llama": tiny_llama, "qwen2": tiny_qwen2}
LABEL = ModelLabel(name="tiny model", version="1.0", licence="Apache-2.0", base_model="someone/tiny", description="A test.")


class Recorder:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[float, float, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        self.steps.append((done, total, unit))


def checkpoint(folder: Path) -> Checkpoint:
    """Return a model folder as the stages before would hand it over."""
    record = Record(
        stage="tune", key="", inputs={}, parameters={}, seed=0, tools={}, digest=folder.name, size_bytes=0, seconds=0, figures={}
    )
    return Checkpoint(path=folder, record=record)


Make = Callable[..., Path]
Quantized = Callable[..., ModelFile]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a tiny model of a family; the same arguments give the same folder."""

    def build(family: str = "llama", **shape: Any) -> Path:
        folder = tmp_path / f"{family}-model"
        return folder if folder.is_dir() else BUILDERS[family](folder, **shape)

    return build


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """Quantize a model folder under a scheme."""

    def run(folder: Path, scheme: str, report: Any = None) -> ModelFile:
        return quantize(checkpoint(folder), QuantizeSpec(scheme=scheme), LABEL, tmp_path / "out" / scheme, report or Silent())

    return run

"""Shared by the tests of quantize: tiny checkpoints, a recording reporter, llama.cpp as referee."""

import ctypes
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama, llama_cpp

from tests.fakes.families import tiny_family
from tests.fakes.models import tiny_llama, tiny_qwen2
from toolchain.artifacts import Checkpoint, ModelFile, Record
from toolchain.progress import Silent
from toolchain.quantize.gguf import NOTHING, Additions, ModelLabel, quantize
from toolchain.quantize.gguf.schemes import SCHEMES
from toolchain.recipe import QuantizeSpec

BUILDERS: dict[str, Callable[..., Path]] = {"llama": tiny_llama, "qwen2": tiny_qwen2}
LABEL = ModelLabel(
    name="tiny model",
    version="1.0",
    licence="Apache-2.0",
    base_model="someone/tiny",
    description="A test.",
)
F32_CACHE = 0
"""Key-value cache in float32: what is compared is the file, not the cache."""


class Recorder:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[float, float, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        self.steps.append((done, total, unit))


def checkpoint(folder: Path, adapter: Path | None = None) -> Checkpoint:
    """Return a model folder as earlier stages hand it over, with an unmerged adapter."""
    record = Record(
        stage="tune",
        key="",
        inputs={},
        parameters={},
        seed=0,
        tools={},
        digest=folder.name,
        size_bytes=0,
        seconds=0,
        figures={},
    )
    return Checkpoint(path=folder, record=record, adapter=adapter)


Make = Callable[..., Path]
Quantized = Callable[..., ModelFile]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a tiny model of a family; the same arguments give the same folder."""

    def build(family: str = "llama", **shape: Any) -> Path:
        folder = tmp_path / f"{family}-model"
        return folder if folder.is_dir() else BUILDERS[family](folder, **shape)

    return build


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """Make a folder once for all tests, which leave it as it is."""
    root = tmp_path_factory.mktemp("kept")

    def once(name: str, build: Callable[[Path], Any]) -> Path:
        folder = root / name.replace(" ", "-")
        if not folder.is_dir():
            build(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def family(kept: Callable[[str, Callable[[Path], Any]], Path]) -> Callable[[str], Path]:
    """Return the tiny model of a family (`tests.fakes.families`), the same for all tests."""
    return lambda name: kept(name, lambda folder: tiny_family(name, folder))


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """Quantize a model folder under a scheme; `more` goes into the spec."""

    def run(
        folder: Path,
        scheme: str,
        report: Any = None,
        additions: Additions = NOTHING,
        adapter: Path | None = None,
        **more: Any,
    ) -> ModelFile:
        spec = QuantizeSpec(
            scheme=scheme, importance=bool(additions.importance or additions.calibration), **more
        )
        return quantize(
            checkpoint(folder, adapter),
            spec,
            LABEL,
            tmp_path / "out" / scheme,
            report or Silent(),
            additions,
        )

    return run


def config(**changes: Any) -> Callable[[Path], None]:
    """Change fields of a model folder's config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    """Change the tensors of a model folder."""

    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return rewrite


def upstream(
    source: Path, scheme: str, target: Path, importance: Mapping[str, np.ndarray] | None = None
) -> bytes:
    """Return the file that llama.cpp's own quantizer makes of a model file."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = SCHEMES[scheme].file_type, 2
    entries = [_entry(name, values) for name, values in (importance or {}).items()]
    listed = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(
        *entries, llama_cpp.llama_model_imatrix_data(name=None)
    )
    if importance is not None:
        parameters.imatrix = ctypes.cast(listed, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    assert (
        llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters)) == 0
    )
    return target.read_bytes()


def _entry(name: str, values: np.ndarray) -> Any:
    pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return llama_cpp.llama_model_imatrix_data(name=name.encode(), data=pointer, size=values.size)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: threads of tiny models only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hugging_face_logits(folder: Path, tokens: list[int]) -> np.ndarray:
    """Return the logits of every position in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(), one_thread():
        return np.asarray(model(torch.tensor([tokens])).logits[0])


def llama_cpp_logits(file: Path, tokens: list[int], adapter: Path | None = None) -> np.ndarray:
    """Return the logits of every position."""
    model = open_model(file, adapter)
    try:
        model.eval(tokens)
        return np.array(model.scores[: len(tokens)])
    finally:
        model.close()


def open_model(file: Path, adapter: Path | None = None) -> Llama:
    """Open a model file in llama.cpp with 256 tokens of context."""
    return Llama(
        str(file),
        n_ctx=256,
        n_batch=256,
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=F32_CACHE,
        type_v=F32_CACHE,
        lora_path=str(adapter) if adapter else None,
    )

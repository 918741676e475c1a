"""In-format distillation: nearer to the teacher, only codes change, no worse than the control."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.manifest.gguf import Header, read_header
from tests.fakes import stock_litert
from tests.fakes.litert import quantized_tflite
from tests.fakes.models import TEXTS, tiny_llama, tiny_qwen2
from tests.fakes.onnx_files import forced_logits, quantized_onnx
from tests.toolchain.quantize.conftest import (
    LABEL,
    checkpoint,
    hugging_face_logits,
    llama_cpp_logits,
    one_thread,
)
from toolchain.artifacts import ModelFile
from toolchain.chat import IGNORED
from toolchain.errors import ConfigError
from toolchain.progress import Silent
from toolchain.quantize.gguf import Additions, quantize
from toolchain.quantize.learned import in_format, network
from toolchain.quantize.learned.network import Divergence
from toolchain.recipe import InFormatSpec, QuantizeSpec
from toolchain.training.examples import Example

SHAPE: dict[str, Any] = {"hidden": 256, "intermediate": 256, "layers": 1}
READ = 16
"""Tokens that one call reads at once."""
QUICK = InFormatSpec(tokens=2500, batch_size=4, learning_rate=3e-3)


def talk(number: int) -> dict[str, Any]:
    text = TEXTS[number % 2]
    return {
        "messages": [
            {"role": "user", "content": text[number : number + 30]},
            {"role": "assistant", "content": text[40 + number : 80]},
        ]
    }


LESSONS, TRIALS = (
    tuple(talk(number) for number in range(0, 24, 2)),
    tuple(talk(number) for number in range(1, 12, 2)),
)


ADDITIONS = Additions(lessons=LESSONS, trials=TRIALS, calibration=("\n".join(TEXTS) * 8,))


def made(
    folder: Path, out: Path, *, scheme: str = "Q4_0", spec: InFormatSpec | None = QUICK, **more: Any
) -> ModelFile:
    asked = QuantizeSpec(scheme=scheme, importance=True, distill=spec)
    with one_thread():
        return quantize(checkpoint(folder), asked, LABEL, out, Silent(), ADDITIONS, **more)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "llama", **SHAPE)


@pytest.fixture(scope="module")
def pair(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFile, ModelFile]:
    out = tmp_path_factory.mktemp("out")
    return made(model, out / "learned"), made(model, out / "control", spec=None)


def payload(file: Path, header: Header, name: str) -> bytes:
    tensor = next(tensor for tensor in header.tensors if tensor.name == name)
    return file.read_bytes()[tensor.offset : tensor.offset + tensor.size]


def test_the_learned_file_ships_when_it_is_nearer_to_the_teacher(
    pair: tuple[ModelFile, ModelFile],
) -> None:
    figures = pair[0].record.figures["distillation"]
    assert figures["shipped"] == "learned"
    assert figures["learned"]["mean_kl"] < 0.9 * figures["control"]["mean_kl"]
    assert "it ships" in figures["verdict"]


def test_types_and_sizes_are_the_controls(pair: tuple[ModelFile, ModelFile]) -> None:
    ours, control = (read_header(model.file) for model in pair)
    assert [(t.name, t.type, t.size) for t in ours.tensors] == [
        (t.name, t.type, t.size) for t in control.tensors
    ]
    changed = set()
    for tensor in ours.tensors:
        mine, theirs = (
            np.frombuffer(payload(model.file, ours, tensor.name), np.uint8) for model in pair
        )
        if (mine != theirs).any():
            changed.add(tensor.type)
    assert changed == {"Q4_0", "F32"}


def test_the_engine_reads_what_was_learned(model: Path, pair: tuple[ModelFile, ModelFile]) -> None:
    """Query and key heads have another row order in the file; codes must move with their rows."""
    away = [0.0, 0.0]
    for example in network.encoded(model, LESSONS[:6], 512):
        answer = np.array(example.labels[1:]) != IGNORED
        reference = hugging_face_logits(model, list(example.ids))[:-1][answer]
        for place, file in enumerate(made.file for made in pair):
            away[place] += float(
                np.square(llama_cpp_logits(file, list(example.ids))[:-1][answer] - reference).sum()
            )
    assert away[0] < 0.9 * away[1]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_other_containers_hold_what_was_learned(model: Path, form: str, tmp_path: Path) -> None:
    """The library that made each format computes with what was learned."""
    away = []
    for spec in (QUICK, None):
        out = tmp_path / str(spec is None)
        how: dict[str, Any] = {"additions": ADDITIONS, "importance": True, "distill": spec}
        with one_thread():
            if form == "onnx":
                file = quantized_onnx(model, out, "int4_b32", **how).file
            else:
                file = quantized_tflite(model, out, "dynamic_wi4_afp32_block32", **how).file
        away.append(sum(_away(model, file, example) for example in _examples(model)))
    assert away[0] < 0.9 * away[1]


def _examples(model: Path) -> list[Example]:
    return list(network.encoded(model, LESSONS[:6], 512))


def _away(model: Path, file: Path, example: Example) -> float:
    """Return the squared distance of a file's logits from the model's, in answers."""
    tokens = list(example.ids)
    answer = np.array(example.labels[1:])[READ:] != IGNORED
    assert answer.any()
    reference = hugging_face_logits(model, tokens)[READ:-1][answer]
    if file.suffix == ".onnx":
        found = forced_logits(file, tokens, READ)[READ:-1]
    else:
        found = stock_litert.teacher_forced(file, tokens, READ)[:-1]
    return float(np.square(found[answer] - reference).sum())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(
    model: Path, pair: tuple[ModelFile, ModelFile], tmp_path: Path
) -> None:
    assert made(model, tmp_path / "again").file.read_bytes() == pair[0].file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["Q4_K_M", "auto:5bpw"])
def test_other_four_bit_files_are_learned_too_biases_included(scheme: str, tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "qwen2", **SHAPE)
    figures = made(folder, tmp_path / "out", scheme=scheme).record.figures["distillation"]
    assert figures["learned"]["mean_kl"] < figures["control"]["mean_kl"]


@pytest.mark.slow
def test_the_control_ships_when_learning_went_wrong(
    model: Path, pair: tuple[ModelFile, ModelFile], tmp_path: Path
) -> None:
    wild = made(
        model, tmp_path / "wild", spec=InFormatSpec(tokens=600, batch_size=1, learning_rate=2.0)
    )
    assert wild.record.figures["distillation"]["shipped"] == "control"
    ours, control = wild.file.read_bytes(), pair[1].file.read_bytes()
    assert ours == control


def test_equal_is_not_better() -> None:
    same = Divergence(mean_kl=0.25, error=0.0, agreement=1.0, tokens=7)
    said = (
        "the learned file is not nearer to the teacher than rounding by importance: "
        "KL 0.25000 against 0.25000 over 7 tokens (1.00×)"
    )
    assert in_format.decide(same, same) == ("control", f"{said}; the control ships")


@pytest.mark.parametrize(
    ("scheme", "additions", "message"),
    [
        (
            "Q8_0",
            Additions(lessons=LESSONS, trials=TRIALS),
            "quantize: distill: no tensor is of a type that is learned (Q4_0, Q4_1, Q4_K)",
        ),
        (
            "Q4_0",
            Additions(trials=TRIALS),
            "quantize: distill: there are no conversations to learn on",
        ),
        ("Q4_0", Additions(lessons=LESSONS), "quantize: there are no conversations to compare on"),
    ],
)
def test_what_cannot_be_learned_is_said(
    scheme: str, additions: Additions, message: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        quantize(
            checkpoint(model),
            QuantizeSpec(scheme=scheme, distill=QUICK),
            LABEL,
            tmp_path / "out",
            Silent(),
            additions,
        )
    assert caught.value.message == message
    assert not list((tmp_path / "out").glob("*.gguf"))

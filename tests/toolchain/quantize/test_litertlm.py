"""The `.litertlm` beside a TFLite file: what is in it, and for which boards it is made."""

from pathlib import Path

import pytest

from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_llama
from toolchain import target
from toolchain.quantize.tflite.litertlm import runs_on, write_litertlm


def test_the_file_holds_the_model_byte_for_byte_and_is_the_same_each_time(tmp_path: Path) -> None:
    model = quantized_tflite(tiny_llama(tmp_path / "model"), tmp_path / "out")
    made = write_litertlm(model.file, model.path / "tokenizer.json", (2,), 128)
    content = made.read_bytes()
    assert content.startswith(b"LITERTLM")
    assert model.file.read_bytes() in content
    assert (
        write_litertlm(model.file, model.path / "tokenizer.json", (2,), 128).read_bytes() == content
    )


@pytest.mark.parametrize(
    ("board", "runs"),
    [
        ("rpi-4b-2gb", False),
        ("rpi-zero-2w", False),
        ("rpi-5-8gb", True),
        ("jetson-orin-nano", True),
        ("x86-64", True),
    ],
)
def test_only_boards_that_can_run_the_engine_get_one(board: str, runs: bool) -> None:
    assert runs_on(target.find(board)) == runs

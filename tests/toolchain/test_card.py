"""Graphics cards of PCs: their facts, what fits in their memory, and which runtime they can run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from device.engine.base import FieldError, Settings
from device.facts import gpu_rows
from device.manifest import Manifest, RuntimeManifest
from device.manifest.memory import CUDA_BYTES, fitting_gpu_layers
from tests.fakes.service import MANIFEST
from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import target
from toolchain.board.answers import Facts, checked
from toolchain.cli import app
from toolchain.errors import BoardError, ConfigError, FitError
from toolchain.push.fitness import _refuse_card
from toolchain.target import Needs, fit

MB = 1 << 20
CARD = target.find("x86-64-cuda")
RTX = {"name": "NVIDIA GeForce RTX 3060", "sm": "8.6", "driver": "570.86.15"}
NEEDS = Needs(
    context=1024,
    weights_bytes=4000 * MB,
    kv_bytes=512 * MB,
    compute_bytes=300 * MB,
    runtime_bytes=50 * MB,
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", []),
        (
            "NVIDIA GeForce RTX 3060, 12288, 11911, 8.6, 570.86.15\n",
            [{**RTX, "memory_total_mb": 12288, "memory_free_mb": 11911}],
        ),
        (
            "Orin (nvgpu), [N/A], [N/A], 8.7, 540.4.0\n",
            [
                {
                    "name": "Orin (nvgpu)",
                    "memory_total_mb": None,
                    "memory_free_mb": None,
                    "sm": "8.7",
                    "driver": "540.4.0",
                }
            ],
        ),
        ("A, B, 8192, 8000, 8.9, 1.2\nx, y\n", [("A, B", 8192)]),
        ("a,1,2,9.0,3\nb,4,5,9.0,3\n", [("a", 1), ("b", 4)]),
    ],
)
def test_each_line_of_nvidia_smi_is_a_card(text: str, rows: list[Any]) -> None:
    found = gpu_rows(text)
    assert len(found) == len(rows)
    for one, row in zip(found, rows, strict=True):
        assert one == row if isinstance(row, dict) else (one["name"], one["memory_total_mb"]) == row


def test_a_hostile_card_is_refused_by_the_host() -> None:
    answer = {"gpus": [{"name": "x", "memory_total_mb": -1, "memory_free_mb": 0, "sm": "9.0"}]}
    with pytest.raises(BoardError, match="gpus"):
        checked("pc", "its facts", {**_facts(), **answer}, Facts)


def _facts() -> dict[str, Any]:
    from device import facts

    return facts.read("~")


def test_facts_of_any_computer_say_which_cards_it_has() -> None:
    assert isinstance(checked("pc", "its facts", _facts(), Facts)["gpus"], list)


# What fits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory_mb", "ok"), [(8192, True), (5324, True), (5323, False)])
def test_weights_cache_and_buffers_must_fit_on_the_card(memory_mb: int, ok: bool) -> None:
    found = fit(NEEDS, CARD, memory_mb)
    assert found.ok == ok
    assert found.parts_mb == {"weights": 4000, "KV cache": 512, "compute buffers": 300}
    assert found.available_mb == memory_mb - 512


def test_what_is_too_large_for_the_card_is_said_with_its_figures() -> None:
    (reason,) = fit(NEEDS, CARD, 4096).reasons
    left = "3584 MB are left on the card beside CUDA (512 MB, assumed)"
    assert reason == f"the weights alone take 4000 MB, {left}"


def test_a_card_that_nobody_sees_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="how much memory its card has") as error:
        fit(NEEDS, CARD)
    assert "--memory MB" in error.value.hint


def test_fit_judges_a_file_by_the_memory_of_a_card(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "m.gguf")
    words = ["fit", str(tmp_path / "m.gguf"), "--target", "x86-64-cuda", "--memory"]
    done = CliRunner().invoke(app, [*words, "8192"])
    assert done.exit_code == 0, done.output
    assert "left on the card beside CUDA" in done.stdout and "7680 MB" in done.stdout
    assert CliRunner().invoke(app, [*words, "100"]).exit_code == FitError.exit_code


def test_no_board_is_taken_for_one_with_a_card_by_itself() -> None:
    found = target.recognise("Dell Inc. XPS", "x86_64", 32000)
    assert found and found.id == "x86-64"


def _manifest(layers: int, layer_mb: int, rest_mb: int) -> Manifest:
    tensors = [{"name": "token_embd.weight", "size": rest_mb * MB}]
    for layer in range(layers):
        tensors += [
            {"name": f"blk.{layer}.attn_q.weight", "size": layer_mb * MB // 2},
            {"name": f"blk.{layer}.ffn_up.weight", "size": layer_mb * MB // 2},
        ]
    needs = {
        "weights_bytes": (layers * layer_mb + rest_mb) * MB,
        "kv_bytes": layers * 10 * MB,
        "compute_bytes": 100 * MB,
    }
    return replace(MANIFEST, tensors=tuple(tensors), needs=needs)


@pytest.mark.parametrize(
    ("free_mb", "layers"),
    [
        (None, -1),  # no card, or a Jetson: its memory is the board's
        (10_000, -1),
        (612 + 200 + 8 * 110, -1),
        (611 + 200 + 8 * 110, 8),  # all layers, but not what belongs to none
        (612 + 3 * 110, 3),
        (611 + 3 * 110, 2),
        (600, 0),
        (0, 0),
    ],
)
def test_as_many_layers_go_to_the_card_as_fit(free_mb: int | None, layers: int) -> None:
    assert CUDA_BYTES == 512 * MB
    free = None if free_mb is None else free_mb * MB
    assert fitting_gpu_layers(_manifest(8, 100, 200), free) == layers


@pytest.mark.parametrize("name", ["blk.99999999999.x", "blk.-1.x", "blk..x", "blk", "", "blk.1"])
def test_a_strange_tensor_name_takes_no_memory(name: str) -> None:
    manifest = replace(_manifest(2, 100, 0), tensors=({"name": name, "size": 1},))
    assert fitting_gpu_layers(manifest, 10_000 * MB) == -1


def test_a_bundle_that_says_nothing_of_its_memory_is_tried_whole() -> None:
    assert fitting_gpu_layers(replace(MANIFEST, needs={}), MB) == -1


@pytest.mark.parametrize("layers", [-2, 10_001])
def test_a_number_of_layers_out_of_range_is_refused(layers: int) -> None:
    with pytest.raises(FieldError, match="`gpu_layers`: must be between -1 and 10000"):
        Settings(gpu_layers=layers)


# Which runtime it can run -------------------------------------------------------------------------


def _runtime(sm: str) -> RuntimeManifest:
    return RuntimeManifest(
        machine="x86_64",
        features=(),
        glibc="2.31",
        python=(3, 10),
        engines={"llama.cpp": "0.3"},
        files=(),
        extra={"cuda": {"cuda": "13.0", "sm": sm}} if sm else {},
    )


@pytest.mark.parametrize(
    ("built_for", "card"),
    [("", None), ("8.6", "8.6"), ("8.6", "8.9"), ("9.0", "9.0"), ("12.0", "12.0")],
)
def test_code_runs_on_its_own_card_and_on_later_ones_of_the_family(
    built_for: str, card: str | None
) -> None:
    cards = [{**RTX, "sm": card}] if card else []
    _refuse_card("pc", _runtime(built_for), {"l4t": None, "gpus": cards})


@pytest.mark.parametrize(
    ("built_for", "card", "said"),
    [
        ("8.9", "8.6", "the runtime is for SM 8.9, `NVIDIA GeForce RTX 3060` has SM 8.6"),
        ("8.6", "9.0", "the runtime is for SM 8.6"),
        ("9.0", "12.0", "the runtime is for SM 9.0"),
        ("8.6", None, "the runtime is for CUDA, `nvidia-smi` shows no graphics card there"),
    ],
)
def test_a_runtime_for_another_card_is_refused_before_the_first_byte(
    built_for: str, card: str | None, said: str
) -> None:
    cards = [{**RTX, "sm": card}] if card else []
    with pytest.raises(FitError, match=said):
        _refuse_card("pc", _runtime(built_for), {"l4t": None, "gpus": cards})


def test_a_jetson_needs_no_nvidia_smi() -> None:
    _refuse_card("jetson", _runtime("8.7"), {"l4t": "36.4.7", "gpus": []})

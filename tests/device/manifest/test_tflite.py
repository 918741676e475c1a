"""The check of TFLite files: what ours contain, and that a broken file gives no other error."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device.manifest import ManifestError, flatbuffer, sha256_of
from device.manifest.tflite import foreign_operators, legacy_fault, read_header, tensor_digests
from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_llama
from toolchain.quantize.matrices import I8, Matrix, Promise
from toolchain.quantize.tflite.blueprint import Blueprint
from toolchain.quantize.tflite.file import write_header
from toolchain.quantize.tflite.graph import Graph, quantization


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tflite")
    return quantized_tflite(tiny_llama(root / "model"), root / "out", "dynamic_wi8_afp32").file


def test_a_file_of_ours_says_what_it_is(file: Path) -> None:
    header = read_header(file)
    assert [signature.name for signature in header.signatures] == [
        "decode",
        "prefill_16",
        "prefill_64",
    ]
    assert header.signatures[0].inputs["kv_cache_k_0"].shape == (1, 2, 128, 64)
    assert header.signatures[0].outputs["logits"].shape == (1, 1, 512)
    assert header.note["scheme"] == "dynamic_wi8_afp32"
    assert foreign_operators(header) == ()
    assert header.size == file.stat().st_size


def test_each_constant_is_digested_once_by_its_name_in_the_checkpoint(file: Path) -> None:
    found = {entry["name"]: entry for entry in tensor_digests(file)}
    assert found["model.layers.0.self_attn.q_proj.weight+2"]["type"] == "INT8"
    assert found["model.layers.0.self_attn.q_proj.weight+2"]["size"] == 512 * 256
    assert found["model.layers.1.mlp.down_proj.weight.scales"]["size"] == 256 * 4
    assert len(tensor_digests(file)) == len({entry["name"] for entry in found.values()})


def damaged(file: Path, folder: Path, change: Callable[[bytearray], bytearray]) -> Path:
    broken = folder / "broken.tflite"
    broken.write_bytes(change(bytearray(file.read_bytes())))
    return broken


def refused(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_header(path)
    assert caught.value.code == "bad_tflite"
    return str(caught.value)


CASES: dict[str, tuple[Callable[[bytearray], bytearray], str]] = {
    "empty": (lambda raw: bytearray(), "broken.tflite: 0 bytes are no TFLite file"),
    "other": (
        lambda raw: bytearray(b"GGUF" + raw[4:]).replace(b"TFL3", b"TFL9"),
        "broken.tflite: not a TFLite file",
    ),
    "root": (
        lambda raw: bytearray(struct.pack("<I", 1 << 31)) + raw[4:],
        "broken.tflite: points behind its end",
    ),
    "more": (lambda raw: raw + bytes(7), "broken.tflite: 7 bytes more than its buffers take"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_said(file: Path, tmp_path: Path, case: str) -> None:
    change, message = CASES[case]
    assert refused(damaged(file, tmp_path, change)) == message


def test_a_file_that_is_missing_is_no_traceback(tmp_path: Path) -> None:
    assert (
        refused(tmp_path / "none.tflite")
        == "none.tflite: cannot be read: No such file or directory"
    )


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_is_refused(file: Path, tmp_path: Path, share: float) -> None:
    assert "broken.tflite: " in refused(
        damaged(file, tmp_path, lambda raw: raw[: int(len(raw) * share)])
    )


@pytest.mark.slow
def test_no_change_of_its_structure_gives_another_error(file: Path, tmp_path: Path) -> None:
    """Bit flips, zeros, largest numbers and moved words before the weights: refused, or harmless to
    read.
    """
    raw, draw, caught = bytearray(file.read_bytes()), random.Random(7), 0
    structure = min(start for start, size in read_header(file).buffers if size)
    broken = tmp_path / "broken.tflite"
    for _ in range(200):
        spoiled = bytearray(raw)
        for _ in range(draw.choice((1, 1, 3))):
            at = draw.randrange(structure)
            word = draw.choice(
                (
                    b"\xff\xff\xff\xff",
                    b"\0\0\0\0",
                    raw[at ^ 4 : (at ^ 4) + 4],
                    bytes([raw[at] ^ 1 << draw.randrange(8)]),
                )
            )
            spoiled[at : at + len(word)] = word
        broken.write_bytes(spoiled)
        try:
            tensor_digests(broken)
        except ManifestError as error:
            assert error.code == "bad_tflite"
            caught += 1
    assert caught > 50


def test_what_is_walked_is_bounded(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "MAX_ITEMS", 1000)
    assert refused(file).endswith(": more than 1000 parts")


# What tflite-runtime 2.14 must not be given


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scheme", ["fp32", "fp16", "dynamic_wi8_afp32"])
def test_the_legacy_runtime_may_run_what_it_computes_rightly(tmp_path: Path, scheme: str) -> None:
    assert (
        legacy_fault(
            read_header(
                quantized_tflite(tiny_llama(tmp_path / "model"), tmp_path / "out", scheme).file
            )
        )
        == ""
    )


def test_the_legacy_runtime_may_not_run_four_bits(tmp_path: Path) -> None:
    file = quantized_tflite(
        tiny_llama(tmp_path / "model"), tmp_path / "out", "dynamic_wi4_afp32_block32"
    ).file
    assert (
        legacy_fault(read_header(file))
        == "tflite-runtime 2.14 has no FULLY_CONNECTED of version 12"
    )


def one_product(path: Path, version: int, scales: int, kind: str = I8) -> Path:
    """Write a graph that is one multiplication, in a form that others write."""
    blueprint = Blueprint()
    graph = Graph(blueprint, "decode")
    promise = Promise(Matrix(("w",), 8, 32), kind, shape=(8, 32))
    weights = graph.promised(promise, quantization(blueprint, np.ones(scales, np.float32)))
    graph.finish({"y": graph.linear(graph.input("x", (1, 32)), weights, version=version)})
    write_header(path, blueprint, "fp32")
    return path


PAIRINGS = {
    "nonsense": (
        (9, 8),
        "tflite-runtime 2.14 computes nonsense with a scale for each row in the tensor",
    ),
    "a newer operator": ((12, 1), "tflite-runtime 2.14 has no FULLY_CONNECTED of version 12"),
    "a crash": ((9, 1, "INT4"), "tflite-runtime 2.14 ends with a crash on INT4"),
}


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_legacy_runtime_is_kept_from(tmp_path: Path, pairing: str) -> None:
    form, fault = PAIRINGS[pairing]
    assert legacy_fault(read_header(one_product(tmp_path / "one.tflite", *form))) == fault


def test_reading_changes_nothing(file: Path) -> None:
    before = sha256_of(file)
    tensor_digests(file)
    assert sha256_of(file) == before

"""What a model will take and give on a board, from its header and the board's facts alone."""

import math
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from device.manifest.gguf import TYPES, Array, Header, Tensor, read_header
from device.manifest.pictures import MAX_PIXELS
from tests.fakes.models import tiny_llama
from tests.fakes.tiny_gguf import tiny_bundle, tiny_gguf
from toolchain.errors import ArtifactError, ConfigError
from toolchain.fitting import memory_here_mb, weigh
from toolchain.forecast import (
    BATCH,
    EYES_LIBRARY_BYTES,
    RUNTIME_BYTES,
    forecast,
    needs_of,
    vision_bytes,
)
from toolchain.target import Needs, find, fit

WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 896, 4864, 24, 14, 2, 151936
"""Qwen2.5-0.5B."""


def tensor(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
    block, size = next((block, size) for known, block, size in TYPES.values() if known == kind)
    return Tensor(name, kind, shape, 0, math.prod(shape) // block * size)


def header(body: str = "Q4_0", *, tied: bool = True, **said: object) -> Header:
    """Return the header of a 0.5B model whose embedding is Q8_0."""
    key = WIDTH // HEADS * KEY_HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, key),
        "attn_v": (WIDTH, key),
        "attn_output": (WIDTH, WIDTH),
    }
    shapes |= {"ffn_gate": (WIDTH, INNER), "ffn_up": (WIDTH, INNER), "ffn_down": (INNER, WIDTH)}
    tensors = [tensor("token_embd.weight", (WIDTH, VOCABULARY), "Q8_0")]
    tensors += [] if tied else [tensor("output.weight", (WIDTH, VOCABULARY), "Q8_0")]
    tensors += [
        tensor(f"blk.{n}.{name}.weight", shape, body)
        for n in range(LAYERS)
        for name, shape in shapes.items()
    ]
    metadata = {
        "general.architecture": "qwen2",
        "qwen2.embedding_length": WIDTH,
        "qwen2.feed_forward_length": INNER,
        "qwen2.block_count": LAYERS,
        "qwen2.attention.head_count": HEADS,
        "qwen2.attention.head_count_kv": KEY_HEADS,
        "tokenizer.ggml.tokens": Array(8, VOCABULARY),
        **{f"qwen2.{key}": value for key, value in said.items()},
    }
    return Header(metadata, tuple(tensors), 0)


def test_memory_is_what_llama_cpp_itself_reports() -> None:
    """The buffers that llama.cpp printed for this shape: a cache of 12 and 48 MiB at 1024 and 4096
    tokens, 36.51 and 39.51 to compute.
    """
    for context, cache_mb, compute_mb in ((1024, 12, 36.5), (4096, 48, 39.5)):
        needs = needs_of(header(), context)
        assert (needs.kv_bytes + needs.compute_bytes) / 2**20 == cache_mb + compute_mb
    assert needs.weights_bytes / 2**20 == pytest.approx(322.06 + 8, abs=1)


def test_a_context_is_rounded_up_as_llama_cpp_does() -> None:
    assert needs_of(header(), 1000).kv_bytes == needs_of(header(), 1024).kv_bytes


def test_wide_heads_and_heads_that_differ_by_layer_count() -> None:
    wide = needs_of(header(**{"attention.key_length": 128, "attention.value_length": 64}), 256)
    assert wide.kv_bytes == (LAYERS * KEY_HEADS * (128 + 64) + BATCH) * 256 * 2
    varied = needs_of(header(**{"attention.head_count_kv": (2, 4, 8)}), 256)
    assert varied.kv_bytes == ((2 + 4 + 8) * 2 * 64 + BATCH) * 256 * 2


def test_a_tied_embedding_is_read_for_each_token_and_an_untied_one_is_not() -> None:
    board = find("rpi-5-2gb")
    tied, untied = forecast(header(), board, 512), forecast(header(tied=False), board, 512)
    assert tied.bytes_per_token == untied.bytes_per_token
    assert untied.needs.weights_bytes - tied.needs.weights_bytes == WIDTH * VOCABULARY // 32 * 34


@pytest.mark.parametrize(
    ("target_id", "body", "repacked"),
    [
        ("x86-64", "Q4_0", True),
        ("x86-64", "Q8_0", False),
        ("rpi-5-2gb", "Q8_0", True),
        ("rpi-4b-2gb", "Q4_0", False),
    ],
)
def test_the_peak_holds_the_copy_that_some_processors_have_made(
    target_id: str, body: str, repacked: bool
) -> None:
    found = forecast(header(body), find(target_id), 512)
    assert (found.peak_bytes > found.needs.total_bytes) == repacked


def test_speeds_are_those_of_the_threads_that_are_asked_for() -> None:
    board = find("rpi-5-2gb")
    best, four = forecast(header(), board, 512), forecast(header(), board, 512, threads=4)
    assert best.decode and four.decode and best.prefill
    assert (best.decode.threads, round(best.decode.tok_s)) == (2, 34)
    assert (four.decode.threads, round(four.decode.tok_s)) == (4, 27)
    assert best.prefill.threads == 4
    assert forecast(header(), board, 512, threads=3).decode is None
    assert forecast(header("Q3_K"), board, 512).prefill is None, (
        "nobody has measured that type there"
    )


def test_a_board_that_nobody_has_measured_gets_no_speed() -> None:
    assert forecast(header(), find("jetson-nano"), 512).decode is None


def test_a_real_file_and_a_bundle_are_read(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", context=300)
    assert (weigh(file).usual_context, weigh(file).trained_context) == (300, 300)
    assert weigh(tiny_bundle(tmp_path / "bundle", context=256)).usual_context == 256
    assert needs_of(read_header(file), 256).runtime_bytes > RUNTIME_BYTES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.gguf", None, "none.gguf: cannot be read"),
        ("bad.gguf", b"GGUF" + b"\xff" * 40, "bad.gguf: version"),
        ("short.gguf", b"x", "short.gguf: 1 bytes"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        weigh(tmp_path / name)


def test_no_context_beyond_the_trained_one_counts_as_fitting() -> None:
    board = find("rpi-5-8gb")
    found = fit(needs_of(header(), 20000), board, trained_context=8192)
    assert (found.ok, found.largest_context) == (False, 8192)
    assert found.reasons == ("the model was made for 8192 tokens of context, 20000 are asked",)
    assert found.hint == "a context of 8192 tokens fits"
    assert fit(needs_of(header(), 8192), board, trained_context=8192).ok


def test_a_speed_that_nobody_measured_is_bounded_by_the_memory() -> None:
    board = find("jetson-nano")
    found = forecast(header(), board, 512)
    assert found.decode is None
    assert found.decode_at_most == pytest.approx(25.6e9 / found.bytes_per_token)
    assert forecast(header(), find("x86-64"), 512).decode_at_most is None


@pytest.mark.parametrize(
    "said",
    [
        {"attention.head_count": 0},
        {"embedding_length": "wide"},
        {"attention.key_length": -4},
        {"attention.head_count_kv": ()},
        {"block_count": 1.5},
        {"feed_forward_length": Array(4, 9)},
    ],
)
def test_a_header_that_lies_about_its_shape_is_weighed_all_the_same(
    said: dict[str, object],
) -> None:
    assert needs_of(header(**said), 512).total_bytes > 0


def test_a_checkpoint_is_weighed_as_the_file_that_it_becomes(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "base")
    small, large = weigh(folder, "Q4_K_M"), weigh(folder, "F16")
    board = find("rpi-5-2gb")
    assert (small.what, small.trained_context) == ("base as Q4_K_M", 512)
    weights = [each.forecast(board, 256, 0).needs.weights_bytes for each in (small, large)]
    assert weights[0] < 0.45 * weights[1]
    with pytest.raises(ConfigError, match="unknown scheme"):
        weigh(folder, "Q4_K_X")


def test_folders_that_are_no_model_are_named_for_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="neither a bundle nor a model folder"):
        weigh(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="an adapter: it takes what its base takes"):
        weigh(tmp_path)


@pytest.mark.parametrize(("target_id", "known"), [("x86-64", False), ("rpi-5-2gb", True)])
def test_this_computers_memory_is_taken_only_for_a_target_that_has_none(
    target_id: str, known: bool
) -> None:
    board = find(target_id)
    here = memory_here_mb(board)
    assert (here is None) == (known or board.machine != platform.machine())


def test_eyes_take_their_weights_a_tile_and_the_process_that_decodes(tmp_path: Path) -> None:
    """SigLIP-B/16 of SmolVLM-256M: 93 M weights, 1,024 patches of 768."""
    said = {
        "image_size": 512,
        "patch_size": 16,
        "embedding_length": 768,
        "feed_forward_length": 3072,
    }
    weights = tensor("v.blk.0.ffn_up.weight", (3072, 768), "F16")
    seeing = Header({f"clip.vision.{key}": value for key, value in said.items()}, (weights,), 0)
    tile = 1024 * (4 * 768 + 3 * 3072) * 4
    assert vision_bytes(seeing) == weights.size + EYES_LIBRARY_BYTES + tile
    # Of a small tower it is the picture that takes most.
    assert vision_bytes(Header({}, (), 0)) == EYES_LIBRARY_BYTES + 2 * 3 * MAX_PIXELS


def test_a_board_is_judged_with_the_eyes_of_a_bundle() -> None:
    blind = Needs(context=512, weights_bytes=1, kv_bytes=1, compute_bytes=1, runtime_bytes=1)
    seeing = replace(blind, vision_bytes=300 << 20)
    assert seeing.total_bytes - blind.total_bytes == 300 << 20
    assert fit(seeing, 1024).parts_mb["pictures"] == 300
    assert "pictures" not in fit(blind, 1024).parts_mb
    assert not fit(seeing, 512).ok

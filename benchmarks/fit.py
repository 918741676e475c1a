"""`demitasse fit` against reality: memory against measured peaks, speed against published runs.

Memory: the device runtime measures itself (VmHWM) on models of true shapes, in several schemes and
contexts. Then each runs once more in a memory cgroup of exactly what `fit` says it needs, without
swap, where a wrong "it fits" is killed. Speed: runs of llama.cpp on boards that others published
and that no target's figures were made from.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import measure
import models

from device.manifest.gguf import TYPES, Array, Header, Tensor, read_header
from device.manifest.gguf_values import Value
from toolchain import runtime
from toolchain.forecast import BATCH, forecast
from toolchain.target import find

CONTEXTS, QUICK_CONTEXTS = (512, 4096), (512,)
SCHEMES, QUICK_SCHEMES = ("Q4_0", "Q8_0"), ("Q4_0",)
SHAPES, QUICK_SHAPES = (
    (models.SMOLLM2_135M, models.LLAMA_166M, models.QWEN25_05B),
    (models.SMOLLM2_135M,),
)
MEMORY_ERROR, SPEED_ERROR = 0.05, 0.15
ANSWERS = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from device.serve import server  # what a service imports counts too
from device.engine import load
from device.engine.base import Settings
engine = load(Path(sys.argv[2]), Settings(context=int(sys.argv[3])))
engine.time_prompt(min(512, int(sys.argv[3]) - 1))
engine.time_decode(8)
"""
"""Program that does a service's work in memory.

`bench` itself needs more, for the memory speed that it measures at its end."""
HUNGRY = [sys.executable, "-c", "b'x' * (128 << 20)"]


@dataclass(frozen=True, slots=True)
class Published:
    """A run on a board that somebody else measured with llama.cpp."""

    target: str
    model: str
    width: int
    layers: int
    inner: int
    kv_width: int
    vocabulary: int
    tied: bool
    body: str
    head: str
    threads: int
    tok_s: float
    source: str


PUBLISHED = (
    Published(
        "rpi-5-2gb",
        "Qwen2.5-1.5B",
        1536,
        28,
        8960,
        256,
        151936,
        True,
        "Q4_0",
        "Q6_K",
        2,
        12.43,
        "Arm learning path",
    ),
    Published(
        "rpi-5-8gb",
        "Qwen2.5-1.5B",
        1536,
        28,
        8960,
        256,
        151936,
        True,
        "Q8_0",
        "Q8_0",
        4,
        5.79,
        "nyunai leaderboard",
    ),
    Published(
        "rpi-5-8gb",
        "SmolLM2-1.7B",
        2048,
        24,
        8192,
        2048,
        49152,
        True,
        "Q8_0",
        "Q8_0",
        4,
        5.18,
        "nyunai leaderboard",
    ),
    Published(
        "rpi-5-8gb",
        "Llama-3.2-3B",
        3072,
        28,
        8192,
        1024,
        128256,
        True,
        "Q4_K",
        "Q6_K",
        4,
        4.61,
        "geerlingguy/ai-benchmarks",
    ),
    Published(
        "rpi-5-16gb",
        "Llama-3.2-3B",
        3072,
        28,
        8192,
        1024,
        128256,
        True,
        "Q4_K",
        "Q6_K",
        4,
        4.88,
        "geerlingguy/ai-benchmarks",
    ),
    Published(
        "rpi-4b-4gb",
        "TinyLlama-1.1B",
        2048,
        22,
        5632,
        256,
        32000,
        False,
        "Q8_0",
        "Q8_0",
        4,
        3.0,
        "justine.lol on llamafile",
    ),
    Published(
        "rpi-4b-2gb",
        "Qwen-1.8B",
        2048,
        24,
        5504,
        2048,
        151936,
        False,
        "Q4_0",
        "Q6_K",
        4,
        3.05,
        "aidatatools/ollama-benchmark#9",
    ),
    Published(
        "rpi-4b-2gb",
        "Gemma-2B",
        2048,
        18,
        16384,
        256,
        256000,
        True,
        "Q4_0",
        "Q6_K",
        4,
        1.8,
        "aidatatools/ollama-benchmark#9",
    ),
)


def main() -> None:
    """Compare each forecast with a measurement."""
    options = measure.options(__doc__ or "")
    shapes, schemes, contexts = (
        (QUICK_SHAPES, QUICK_SCHEMES, QUICK_CONTEXTS)
        if options.quick
        else (SHAPES, SCHEMES, CONTEXTS)
    )
    cells = [
        (shape, scheme, context) for shape in shapes for scheme in schemes for context in contexts
    ]
    folder = runtime.for_this_computer()
    errors, killed = _memory(folder, cells)
    speeds = {
        f"{run.model} {run.body} on {run.target}": round(_speed(run) / run.tok_s - 1, 3)
        for run in PUBLISHED
    }
    limits = {
        "cells": len(cells),
        "killed": killed,
        "a process of twice its limit": "killed"
        if measure.lives_within(HUNGRY, 64 << 20) is False
        else "lived",
    }
    claims = [
        _claim("peak memory, largest error", "VmHWM of the device runtime", MEMORY_ERROR, errors),
        measure.claim(
            "killed though it fits",
            "a memory cgroup of what is needed",
            0.0,
            [len(killed)],
            [1.0],
            limits,
            better="less",
        ),
        _claim("decode speed, largest error", "published runs", SPEED_ERROR, speeds),
    ]
    measure.show(claims, {}, "", as_json=options.json)


def _memory(
    folder: Path, cells: Sequence[tuple[models.Shape, str, int]]
) -> tuple[dict[str, float], list[str]]:
    """Return the error of each forecast peak, and the cells that did not live in what they need."""
    errors = {}
    killed = []
    for shape, scheme, context in cells:
        file = models.random_gguf(shape, scheme=scheme)
        name = f"{shape.name} {scheme} {context}"
        expected = forecast(read_header(file), find("x86-64"), context)
        command = _bench(folder, file, context)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        errors[name] = round(
            expected.peak_bytes / json.loads(done.stdout.splitlines()[-1])["peak_rss_bytes"] - 1, 3
        )
        answers = [sys.executable, "-sEB", "-c", ANSWERS, str(folder), str(file), str(context)]
        if measure.lives_within(answers, expected.needs.total_bytes) is False:
            killed.append(name)

    return errors, killed


def _claim(name: str, peer: str, goal: float, errors: dict[str, float]) -> measure.Claim:
    worst = max(abs(error) for error in errors.values())
    return measure.claim(
        name, peer, goal, [worst], [1.0], {"cells": len(errors), "errors": errors}, better="less"
    )


def _bench(folder: Path, file: Path, context: int) -> list[str]:
    words = [sys.executable, "-sEB", str(folder), "bench", "--model", str(file), "--repeat", "1"]
    return [*words, "--context", str(context), "--pp", str(min(BATCH, context - 1)), "--tg", "8"]


def _speed(run: Published) -> float:
    rate = forecast(_header(run), find(run.target), 512, run.threads).decode
    assert rate
    return rate.tok_s


def _header(run: Published) -> Header:
    """Return the header of a file of this shape."""
    shapes = {"attn_q": (run.width, run.width), "attn_output": (run.width, run.width)}
    shapes |= {"attn_k": (run.width, run.kv_width), "attn_v": (run.width, run.kv_width)}
    shapes |= {
        "ffn_gate": (run.width, run.inner),
        "ffn_up": (run.width, run.inner),
        "ffn_down": (run.inner, run.width),
    }
    tensors = [_tensor("token_embd.weight", (run.width, run.vocabulary), run.head)]
    tensors += [] if run.tied else [_tensor("output.weight", (run.width, run.vocabulary), run.head)]
    tensors += [
        _tensor(f"blk.{n}.{name}.weight", shape, run.body)
        for n in range(run.layers)
        for name, shape in shapes.items()
    ]
    said: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.embedding_length": run.width,
        "llama.feed_forward_length": run.inner,
    }
    said |= {"llama.block_count": run.layers, "llama.attention.head_count": run.width // 64}
    return Header({**said, "tokenizer.ggml.tokens": Array(8, run.vocabulary)}, tuple(tensors), 0)


def _tensor(name: str, shape: tuple[int, int], kind: str) -> Tensor:
    block, size = next((block, size) for known, block, size in TYPES.values() if known == kind)
    return Tensor(name, kind, shape, 0, shape[0] * shape[1] // block * size)


if __name__ == "__main__":
    main()

"""Checkpoint and adapter to a Q4_K_M file: our one pass against peft's merge and llama.cpp's tools.

The peers are llama.cpp's converter and quantizer. Each side runs as the child processes that a user
would start, imports and all. A child's peak is the most memory it held (`ru_maxrss`). That begins
with what its parent holds, so the model is made in a process of its own.
llama.cpp's converter comes out of llama-cpp-python's source by pip, or from the folder that
DEMITASSE_LLAMA_CPP names.
"""

import importlib.metadata
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import measure
import platformdirs

from device.manifest.gguf import tensor_digests

SCHEME, FILE_TYPE = "Q4_K_M", 15
ROUNDS, QUICK_ROUNDS = {"166M": 5, "Qwen2.5-0.5B": 5, "Qwen2.5-1.5B": 5}, 1
"""Rounds by shape; the largest one takes 13 GB of disk and minutes a round."""
ALLOWANCE_MB = 300
"""Memory that is allowed in addition to twice the largest tensor."""
SHAPES: dict[str, dict[str, Any]] = {
    "166M": {
        "vocab_size": 4096,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 14,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
    },
    "Qwen2.5-0.5B": checkpoints.QWEN_05B,
    "Qwen2.5-1.5B": checkpoints.QWEN_15B,
}
QUICK: dict[str, dict[str, Any]] = {
    "10M": SHAPES["166M"] | {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
}
OURS = """
import sys
from dataclasses import replace
from pathlib import Path
from toolchain import artifacts
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import QuantizeSpec
model, adapter, out, scheme = sys.argv[1:]
checkpoint = replace(artifacts.external(Path(model)), adapter=Path(adapter) if adapter else None)
quantize(checkpoint, QuantizeSpec(scheme=scheme), ModelLabel(name="bench"), Path(out), Silent())
"""
MERGE = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model, adapter, out = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
"""
QUANTIZE = """
import ctypes, os, sys
from llama_cpp import llama_cpp
source, target, file_type = sys.argv[1:]
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype, parameters.nthread = int(file_type), os.cpu_count()
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What child processes took."""

    seconds: float
    peak_mb: float


def main() -> None:
    """Measure the three claims on each shape."""
    options = measure.options(__doc__ or "")
    shapes = QUICK if options.quick else SHAPES
    claims: list[measure.Claim] = []
    figures: dict[str, list[float]] = {}
    source = llama_cpp()

    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            maker = multiprocessing.get_context("spawn").Process(target=_make, args=(root, shape))
            maker.start()
            maker.join()
            measured, peaks = _measure(root, source, ROUNDS.get(name, QUICK_ROUNDS))
            conditions = _conditions(root, name)
            conditions |= {
                "cgroup of that": _lives(root, int(str(conditions["allowed_mb"])) * 10**6)
            }
            conditions |= {"peak_mb": {side: round(max(found)) for side, found in peaks.items()}}
            claims += _claims(name, measured, peaks, _equal_tensors(root, source), conditions)
        figures |= {f"{side}, {name}": found for side, found in measured.items()}

    measure.show(claims, figures, "s", as_json=options.json)


def _measure(
    root: Path, source: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    peaks: dict[str, list[float]] = {"ours": [], "peer": []}

    def once(side: str, cost: Cost) -> float:
        peaks[side].append(cost.peak_mb)
        return cost.seconds

    cases = {
        "ours": lambda: once("ours", _ours(root)),
        "peer": lambda: once("peer", _peer(root, source, merged=True)),
    }
    return measure.interleave(cases, rounds), peaks


def _claims(
    name: str,
    seconds: dict[str, list[float]],
    peaks: dict[str, list[float]],
    equal: float,
    conditions: dict[str, object],
) -> list[measure.Claim]:
    allowed = [float(str(conditions["allowed_mb"]))]
    chain = "peft merge_and_unload, convert_hf_to_gguf, llama_model_quantize"
    return [
        measure.claim(
            f"wall, {name}", chain, 0.5, seconds["ours"], seconds["peer"], conditions, better="less"
        ),
        measure.claim(
            f"peak memory, {name}",
            "twice the largest tensor and 300 MB",
            1.0,
            peaks["ours"],
            allowed,
            conditions,
            better="less",
        ),
        measure.claim(
            f"same bytes, {name}",
            "convert_hf_to_gguf, llama_model_quantize",
            1.0,
            [equal],
            [1.0],
            conditions,
        ),
    ]


def _conditions(root: Path, name: str) -> dict[str, object]:
    from toolchain.models.weights import open_weights

    with open_weights(root / "model") as weights:
        largest = max(tensor.size_bytes for tensor in weights.tensors.values()) / 1e6

    between = (
        sum(file.stat().st_size for file in (root / "merged").glob("*.safetensors"))
        + (root / "bf16.gguf").stat().st_size
    )
    return {
        "shape": name,
        "scheme": SCHEME,
        "allowed_mb": round(2 * largest + ALLOWANCE_MB),
        "extra_disk_mb": {"ours": 0, "peer": between // 10**6},
    }


def _ours(root: Path, adapter: str = "adapter", out: str = "ours") -> Cost:
    _forget(root / out)
    return run(_our_command(root, adapter, out))


def _our_command(root: Path, adapter: str, out: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        OURS,
        str(root / "model"),
        str(root / adapter) if adapter else "",
        str(root / out),
        SCHEME,
    ]


def _lives(root: Path, limit_bytes: int) -> str:
    """Return in words whether we live in a memory cgroup of the allowed size."""
    _forget(root / "limited")
    found = measure.lives_within(_our_command(root, "adapter", "limited"), limit_bytes)
    return "no cgroup here, so VmHWM alone" if found is None else "lives" if found else "killed"


def _peer(root: Path, source: Path, *, merged: bool) -> Cost:
    model = root / ("merged" if merged else "model")
    bf16 = root / "bf16.gguf"
    result = root / "peer.gguf"
    costs = []
    if merged:
        costs.append(
            run(
                [
                    sys.executable,
                    "-c",
                    MERGE,
                    str(root / "model"),
                    str(root / "adapter"),
                    str(model),
                ]
            )
        )
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (model / file).write_bytes((root / "model" / file).read_bytes())

    script = Path(__file__).parent / "peers" / "llama_cpp_convert.py"
    costs.append(
        run(
            [sys.executable, str(script), str(source)],
            text=json.dumps([{"model": str(model), "out": str(bf16)}]),
        )
    )
    costs.append(run([sys.executable, "-c", QUANTIZE, str(bf16), str(result), str(FILE_TYPE)]))
    return Cost(sum(cost.seconds for cost in costs), max(cost.peak_mb for cost in costs))


def run(command: list[str], text: str = "") -> Cost:
    """Run a child to its end and return its wall time and its own peak memory."""
    began = time.monotonic()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stderr
        child.stdin.write(text)
        child.stdin.close()
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)

    if child.returncode:
        raise SystemExit(
            f"{' '.join(command[:3])[:80]}: exit code {child.returncode}\n{said[-2000:]}"
        )

    return Cost(time.monotonic() - began, usage.ru_maxrss / 1000)


def _equal_tensors(root: Path, source: Path) -> float:
    """Return the share of tensors whose bytes are the peer's; both sides convert only the base."""
    _ours(root, adapter="", out="plain")
    _peer(root, source, merged=False)
    ours, theirs = (
        {t["name"]: t for t in tensor_digests(file)}
        for file in (next((root / "plain").glob("*.gguf")), root / "peer.gguf")
    )
    return sum(theirs.get(name) == tensor for name, tensor in ours.items()) / len(
        ours.keys() | theirs.keys()
    )


def _forget(out: Path) -> None:
    (out / "record.json").unlink(missing_ok=True)


def _make(root: Path, shape: dict[str, Any]) -> None:
    checkpoints.write_qwen2(root / "model", shape)
    checkpoints.write_adapter(root / "adapter", shape)


def llama_cpp() -> Path:
    """Return a folder with llama.cpp's converter."""
    if named := os.environ.get("DEMITASSE_LLAMA_CPP"):
        return Path(named)

    version = importlib.metadata.version("llama-cpp-python")
    kept = Path(platformdirs.user_cache_dir("demitasse")) / "converter" / version
    if not kept.is_dir():
        with tempfile.TemporaryDirectory() as scratch:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-binary",
                "llama-cpp-python",
                "--no-deps",
                "--dest",
                scratch,
            ]
            subprocess.run(
                [*command, f"llama-cpp-python=={version}"], check=True, stdout=subprocess.DEVNULL
            )
            _unpack(next(Path(scratch).glob("*.tar.gz")), kept)

    return kept


def _unpack(archive: Path, folder: Path) -> None:
    part = folder.with_suffix(".part")
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            name = member.name.partition("/vendor/llama.cpp/")[2]
            if member.isreg() and name.startswith(("conversion/", "gguf-py/gguf/")):
                opened.extract(member.replace(name=name, deep=False), part, filter="data")
    part.rename(folder)


if __name__ == "__main__":
    main()

"""Bytes and processor seconds of a model update, against rsync, `zstd --patch-from` and xdelta3.

The model has the shape of Qwen2.5-0.5B in Q4_0 with fewer layers (DEMITASSE_BENCH_LAYERS; 24 are
all of them) and a vocabulary cut in the same ratio. Its weights are random. Its updates have rank
16 and a relative size: the norm of a weight's change ÷ the norm of the weight. The real updates are
what `tune` makes of the starter's base (all-linear as `make scratch` left it): a tiny model, which
moves far more. rsync, zstd and xdelta3 come from the system's packages (apt-get install rsync zstd
xdelta3); a missing one is left out. xdelta3 is slow, so it runs at 1 % only.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np

from device.patch import Rebuilt, rebuild
from toolchain.artifacts import Dataset, external, recorded
from toolchain.progress import Silent
from toolchain.push import delta
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import QuantizeSpec, TuneSpec
from toolchain.tools.ggml import Type, quantize_rows, row_bytes

LAYERS, QUICK_LAYERS, ALL_LAYERS = 2, 1, 24
WIDTH, INNER, KEYS, VOCABULARY, RANK = 896, 4864, 128, 151936, 16
SHAPES = {
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (KEYS, WIDTH),
    "attn_v": (KEYS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
}
UPDATES = {"q,v": ("attn_q", "attn_v"), "all-linear": tuple(SHAPES)}
RELATIVE = (0.001, 0.01, 0.03)
GOAL = 0.2
STARTER = Path(__file__).parents[1] / "build" / "starter"
MODULES = {
    "q,v": ("q_proj", "v_proj"),
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What one update took."""

    bytes: dict[str, float]
    seconds: dict[str, float]
    """Processor seconds by program.

    Ours: to compare and, with the board's code, to apply. The others: to do all they do."""


def main() -> None:
    """Measure every update against every peer that is installed."""
    options = measure.options(__doc__ or "")
    layers = (
        QUICK_LAYERS if options.quick else int(os.environ.get("DEMITASSE_BENCH_LAYERS", LAYERS))
    )
    claims: list[measure.Claim] = []
    shown: dict[str, list[float]] = {}

    with tempfile.TemporaryDirectory() as scratch:
        for label, old, new, conditions in _updates(Path(scratch), layers, quick=options.quick):
            found = _measure(old, new, Path(scratch), slow=not label.endswith(("0.1%", "3.0%")))
            sizes = {tool: round(size / 1e6, 2) for tool, size in found.bytes.items()}
            print(label, sizes, found.seconds, file=sys.stderr, flush=True)
            shown |= {f"{label}: {tool}": [size] for tool, size in sizes.items()}
            if "rsync" in sizes:
                goal = 1.0 if label.startswith("tune") else GOAL
                facts = {"mb": sizes, "cpu_s": found.seconds, **conditions}
                ours, theirs = [found.bytes["ours"]], [found.bytes["rsync"]]
                claims.append(
                    measure.claim(
                        label,
                        "rsync --inplace --no-whole-file",
                        goal,
                        ours,
                        theirs,
                        facts,
                        better="less",
                    )
                )

    if not claims:
        sys.exit("rsync is not installed: apt-get install rsync")

    measure.show(claims, shown, "MB", as_json=options.json)


def _updates(
    scratch: Path, layers: int, *, quick: bool
) -> Iterator[tuple[str, Path, Path, dict[str, Any]]]:
    """Yield label, old file, new file and conditions of each update."""
    old = _write(scratch / "old.gguf", layers, (), 0.0)
    conditions: dict[str, Any] = {
        "scheme": "Q4_0",
        "shape": "Qwen2.5-0.5B",
        "layers": f"{layers} of {ALL_LAYERS}",
    }
    for label, names in UPDATES.items():
        for relative in RELATIVE[1:2] if quick else RELATIVE:
            new = _write(scratch / "new.gguf", layers, names, relative)
            yield (
                f"{label}, {relative:.1%}",
                old,
                new,
                conditions | {"file_mb": round(new.stat().st_size / 1e6, 1)},
            )

    if not quick:
        yield from _real_updates(scratch)


def _real_updates(scratch: Path) -> Iterator[tuple[str, Path, Path, dict[str, Any]]]:
    """Yield the updates that `tune` makes of the starter's base, if `make scratch` has built it."""
    from toolchain.tune import tune

    if not (STARTER / "pretrain").is_dir():
        print(f"no real update: {STARTER} is not there, `make scratch` builds it", file=sys.stderr)
        return

    record = recorded(STARTER / "ingest")
    assert record
    base = external(STARTER / "pretrain")
    data = Dataset(path=STARTER / "ingest", record=record)
    old = quantize(
        base, QuantizeSpec(scheme="Q4_0"), ModelLabel(name="base"), scratch / "base", Silent()
    ).file

    for label, modules in MODULES.items():
        tuned = STARTER / "tune"
        if label == "q,v":
            spec = TuneSpec(epochs=1, batch_size=8, target_modules=modules, r=RANK, questions=1)
            tuned = tune(base, data, spec, scratch / "tuned", Silent(), seed=1).path
        out = scratch / f"new-{len(modules)}"
        new = quantize(
            external(tuned), QuantizeSpec(scheme="Q4_0"), ModelLabel(name="base"), out, Silent()
        ).file
        moved = _relative(STARTER / "pretrain", tuned, modules)
        yield (
            f"tune {label} r16",
            old,
            new,
            {"scheme": "Q4_0", "model": "starter", "relative": f"{moved:.1%}"},
        )


def _measure(old: Path, new: Path, scratch: Path, *, slow: bool) -> Figures:
    peers: dict[str, Callable[[Path, Path, Path], int]] = {"rsync": _rsync, "zstd": _zstd}
    peers |= {"xdelta3": _xdelta} if slow else {}
    found = Figures({}, {})
    began = _cpu_s()
    patch = delta.make(delta.old_file(old, "0" * 64), new, {}, Silent())
    found.bytes["ours"] = patch.missing_bytes(0)
    found.seconds["compare"] = round(_cpu_s() - began, 2)
    found.seconds["apply"] = _apply(patch, old, new, scratch)

    for tool, peer in peers.items():
        if not shutil.which(tool):
            print(f"{tool} is not installed: left out", file=sys.stderr)
            continue
        began = _cpu_s()
        found.bytes[tool] = peer(old, new, scratch)
        found.seconds[tool] = round(_cpu_s() - began, 2)

    return found


def _cpu_s() -> float:
    """Return the processor seconds of this program and its children."""
    return sum(os.times()[:4])


class _Sent:
    """Frames in memory, as a session gives them to the board."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def exactly(self, size: int) -> bytes:
        self._at += size
        return self._raw[self._at - size : self._at]


def _apply(patch: delta.Patch, old: Path, new: Path, scratch: Path) -> float:
    """Return the seconds in which the board's own code rebuilds and hashes the new file here."""
    raw = b"".join(patch.chunks(patch.frames))
    made = scratch / "made"
    size = new.stat().st_size
    out = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    base = os.open(old, os.O_RDONLY)
    began = _cpu_s()
    wrong_at = rebuild(_Sent(raw), base, rebuilt := Rebuilt(out, 0, 0), size)
    seconds = _cpu_s() - began
    os.close(out)
    os.close(base)

    with new.open("rb") as stream:
        assert (
            wrong_at is None
            and rebuilt.total.digest() == hashlib.file_digest(stream, "sha256").digest()
        )

    made.unlink()
    return round(seconds, 2)


def _rsync(old: Path, new: Path, scratch: Path) -> int:
    copy = scratch / "copy"
    shutil.copyfile(old, copy)
    os.utime(copy, (1, 1))
    done = subprocess.run(
        ["rsync", "--inplace", "--no-whole-file", "--stats", str(new), str(copy)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    copy.unlink()
    found = re.search(r"Total bytes sent: ([\d,]+)", done.stdout)
    assert found, done.stdout
    return int(found[1].replace(",", ""))


def _zstd(old: Path, new: Path, scratch: Path) -> int:
    return _file(
        [
            "zstd",
            "-q",
            "-f",
            "-3",
            "--long=31",
            f"--patch-from={old}",
            str(new),
            "-o",
            str(scratch / "packed"),
        ],
        scratch,
    )


def _xdelta(old: Path, new: Path, scratch: Path) -> int:
    window = str(max(old.stat().st_size, 1 << 26))
    return _file(
        [
            "xdelta3",
            "-q",
            "-f",
            "-e",
            "-B",
            window,
            "-s",
            str(old),
            str(new),
            str(scratch / "packed"),
        ],
        scratch,
    )


def _file(command: list[str], scratch: Path) -> int:
    subprocess.run(command, check=True)
    size = (scratch / "packed").stat().st_size
    (scratch / "packed").unlink()
    return size


def _write(path: Path, layers: int, names: tuple[str, ...], relative: float) -> Path:
    """Write the model with the named matrices moved; a seed fixes weights and directions."""
    import gguf

    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen2", use_temp_file=False)
    writer.add_name("base" if not names else "update")
    writer.add_token_list(
        [f"token {number}" for number in range(VOCABULARY * layers // ALL_LAYERS)]
    )
    embedding = draw.integers(
        0, 256, (VOCABULARY * layers // ALL_LAYERS, WIDTH // 32 * 34), np.uint8
    )
    writer.add_tensor("token_embd.weight", embedding, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    for layer in range(layers):
        for name, shape in SHAPES.items():
            weights = draw.standard_normal(shape, np.float32)
            step = draw.standard_normal((shape[0], RANK), np.float32) @ draw.standard_normal(
                (RANK, shape[1]), np.float32
            )
            if name in names:
                weights += step * (relative * np.linalg.norm(weights) / np.linalg.norm(step))
            packed = np.empty(shape[0] * row_bytes(Type.Q4_0, shape[1]), np.uint8)
            quantize_rows(Type.Q4_0, weights, packed)
            writer.add_tensor(
                f"blk.{layer}.{name}.weight",
                packed.reshape(shape[0], -1),
                raw_dtype=gguf.GGMLQuantizationType.Q4_0,
            )

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _relative(before: Path, after: Path, modules: tuple[str, ...]) -> float:
    """Return how far the tuned weights moved: the norm of the difference ÷ the norm."""
    from safetensors.numpy import load_file

    one, other = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    names = [name for name in one if name.endswith(".weight") and name.split(".")[-2] in modules]
    moved = sum(float(np.square(other[name] - one[name]).sum()) for name in names)
    return float(np.sqrt(moved / sum(float(np.square(one[name]).sum()) for name in names)))


if __name__ == "__main__":
    main()

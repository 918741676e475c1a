"""`benchmarks/distill.py` with a real base on a card without a network, in at most eight minutes.

python benchmarks/gpu/distill_card.py pack KIT --model FOLDER [--python 3.12]     on your computer
python benchmarks/gpu/distill_card.py run KIT/0 KIT/1 … --out OUT                 on the card's

`pack` writes parts of less than 60 MB each, since such machines are often reached through a small
door: the model in blocks of four bits with their least value and step (GGUF's Q4_1; a base that was
unpacked from such a file loses next to nothing), and in the first part the Python packages that a
machine with torch and transformers may lack. `run` joins them, and needs no network. Not run on a
card yet: run through on a processor, with a tiny base.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 58_000_000
BLOCK = 32
PACKAGES = ("accelerate", "pydantic", "platformdirs")
SECONDS = 460
"""Time of the benchmark itself, of eight minutes."""


def main() -> None:
    """Pack on one machine, run on the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("kit", type=Path)
    packing.add_argument("--model", type=Path, required=True)
    packing.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}")
    running = verbs.add_parser("run")
    running.add_argument("parts", type=Path, nargs="+")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.verb == "pack":
        pack(options.model, options.kit)
        _pack_packages(options.kit / "0" / "site", options.python)
    else:
        run(options.parts, options.out, quick=options.quick)


def pack(model: Path, kit: Path) -> None:
    """Write the parts of a model folder into folders `0`, `1` … of `kit`."""
    from safetensors import safe_open

    shutil.rmtree(kit, ignore_errors=True)
    part, filled = 0, 0
    (kit / "0" / "model").mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja") and "record" not in file.name:
            shutil.copy(file, kit / "0" / "model")
    with safe_open(model / "model.safetensors", "pt") as tensors:
        for number, name in enumerate(sorted(tensors.keys())):
            packed = packed4(tensors.get_tensor(name).float().numpy())
            size = sum(each.nbytes for each in packed.values())
            if filled + size > MOST_BYTES:
                part, filled = part + 1, 0
                (kit / str(part) / "model").mkdir(parents=True)
            filled += size
            named: dict[str, Any] = {"name": np.array(name), **packed}
            np.savez(kit / str(part) / "model" / f"{number}.npz", **named)
    print(f"{kit}: {part + 1} parts")


def packed4(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return a tensor in blocks of four bits; one whose rows hold no blocks as it is."""
    if values.ndim < 2 or values.shape[-1] % BLOCK:
        return {"plain": values.astype(np.float32)}
    blocks = values.reshape(-1, BLOCK)
    least = blocks.min(1, keepdims=True).astype(np.float16)
    step = ((blocks.max(1, keepdims=True) - least) / 15).astype(np.float16)
    safe = np.where(step == 0, 1, step).astype(np.float32)
    codes = np.clip(np.rint((blocks - least) / safe), 0, 15).astype(np.uint8)
    return {
        "codes": codes[:, ::2] | codes[:, 1::2] << 4,
        "least": least,
        "step": step,
        "shape": np.array(values.shape),
    }


def unpacked(parts: dict[str, np.ndarray]) -> np.ndarray:
    """Return the values of a packed tensor."""
    if "plain" in parts:
        return parts["plain"]
    codes = np.stack([parts["codes"] & 15, parts["codes"] >> 4], -1).reshape(-1, BLOCK)
    values = codes * parts["step"].astype(np.float32) + parts["least"].astype(np.float32)
    return values.reshape(parts["shape"])


def _pack_packages(site: Path, python: str) -> None:
    """Put the product and what it needs into a folder, for the card's Python."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    binary = [
        "--python-version",
        python,
        "--only-binary=:all:",
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    needed = [*PACKAGES, "pydantic-core", "annotated-types", "typing-inspection"]
    subprocess.run([*install, *binary, *needed], check=True)
    subprocess.run([*install, str(ROOT)], check=True)


def run(parts: list[Path], out: Path, *, quick: bool = False) -> None:
    """Join the parts, run the benchmark, and keep what each seed gave."""
    out.mkdir(parents=True, exist_ok=True)
    base = join(parts, out.resolve() / "base")
    site = parts[0].resolve() / "site"
    paths = [str(ROOT), *([str(site)] if site.is_dir() else [])]
    environment = {**os.environ, "BASE": str(base), "PYTHONPATH": os.pathsep.join(paths)}
    argv = [sys.executable, str(ROOT / "benchmarks" / "distill.py"), "--json"]
    began = time.monotonic()
    with (out / "claims.json").open("w") as claims, (out / "seeds.jsonl").open("w") as seeds:
        subprocess.run(
            [*argv, *(["--quick"] if quick else [])],
            stdout=claims,
            stderr=seeds,
            env=environment,
            timeout=SECONDS,
            check=True,
        )
    shutil.rmtree(base)
    print(json.dumps({"seconds": round(time.monotonic() - began, 1)}))


def join(parts: list[Path], folder: Path) -> Path:
    """Write the model folder that the parts hold."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for file in (parts[0] / "model").iterdir():
        if file.suffix != ".npz":
            shutil.copy(file, folder)
    save_file(dict(_tensors(parts)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _tensors(parts: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    for file in sorted(file for part in parts for file in (part / "model").glob("*.npz")):
        with np.load(file, allow_pickle=False) as packed:
            found = {name: packed[name] for name in packed.files}
        yield str(found.pop("name")), unpacked(found)


if __name__ == "__main__":
    main()

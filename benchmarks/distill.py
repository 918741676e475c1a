"""A student with a quarter of the labels against its control with all of them (goal P12).

One phrasing of each answer is labelled; the questions of the others are a pool without answers. A
teacher answers the pool, and the student learns labels and written answers. Two teachers: the model
itself, tuned on the labels; and a search over labelled questions and answers by pieces of words.
The control learns the true answers of all questions, another one the labels alone for as long as
the student. All start from the same layers. Scores are exact matches on held-out phrasings.

The base is a small Llama that has read questions and answers, but never one under the other. With
BASE in the environment it is a model folder, as on a lent GPU (benchmarks/gpu/distill_card.py).
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import measure

from toolchain import artifacts
from toolchain.artifacts import Dataset, read_jsonl, write_jsonl
from toolchain.ingest import ingest
from toolchain.ingest.refusals import Refusals
from toolchain.pretrain import make_tokenizer
from toolchain.progress import SILENT
from toolchain.recipe import DataSpec, ScratchSpec, WriteSpec
from toolchain.teaching.writers import FolderWriter, How, Messages, Said
from toolchain.teaching.writing import Assignment, WrittenFigures, write

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
GOAL_SCORE, GOAL_SHARE = 1.0, round(1 / 3, 3)
STUDENTS = ("model, agreed", "model, all", "search", "search, twice")
CONTROL = "control, all labels"
CLEAR = 0.1
"""Lead in cosine by which the search's best answer must be ahead of the next one."""
# On the starter 60 to 65 % of the pool have it, and 97 to 99 % of them are right.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    seeds: int = 3
    entries: int = 208
    """Answers of the help desk, of 415."""
    questions: int = 200
    """Held-out phrasings that are asked, at most."""
    scratch: ScratchSpec
    layers: int = 2
    epochs: int = 6
    """Of student and controls."""
    teacher_epochs: int = 16
    batch_size: int = 16
    learning_rate: float = 2e-3
    max_tokens: int = 96
    """Of a written answer."""


FULL = Plan(
    scratch=ScratchSpec(
        vocab_size=2048, hidden_size=256, layers=3, steps=700, batch_size=16, context=128
    )
)
BIG = replace(
    FULL,
    entries=415,
    questions=415,
    layers=12,
    batch_size=32,
    learning_rate=6e-4,
    teacher_epochs=8,
)
"""With a base of 100 M parameters or more."""
QUICK = Plan(
    seeds=1,
    entries=6,
    questions=6,
    scratch=ScratchSpec(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=32,
        heads=1,
        kv_heads=1,
        layers=3,
        steps=10,
        batch_size=8,
        context=128,
    ),
    epochs=2,
    teacher_epochs=2,
    max_tokens=8,
)


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


class SearchWriter:
    """Answers with the labelled answer that is nearest to a question; its own model is none.

    In a second round the questions that were clearly answered help to find the answers of others.
    """

    together = 1 << 20
    parameters = None
    name = "search"

    def __init__(self, labelled: Sequence[tuple[str, str]], rounds: int) -> None:
        self._labelled = labelled
        self._rounds = rounds
        self.digest = artifacts.value_digest((labelled, rounds))

    def release(self) -> None:
        """Do nothing: nothing was loaded."""

    def say(self, conversations: Sequence[Messages], how: How) -> list[Said]:
        """Return the nearest answer to each question; not whole where another is as near."""
        import numpy as np

        from toolchain.rounds.choose import word_vectors

        asked = [messages[-1]["content"] for messages in conversations]
        texts = [f"{question} {answer}" for question, answer in self._labelled]
        vectors = word_vectors([*texts, *asked])
        known, pool = vectors[: len(texts)], vectors[len(texts) :]
        owners = np.arange(len(texts))
        best, is_clear = owners[:0], np.zeros(len(pool), bool)
        for _ in range(self._rounds):
            likeness = np.full((len(pool), len(texts)), -1.0)
            for owner, column in zip(owners, (pool @ known.T).T, strict=True):
                likeness[:, owner] = np.maximum(likeness[:, owner], column)
            new, lead = likeness.argmax(1), np.diff(np.sort(likeness, 1)[:, -2:])[:, 0]
            best = np.where(is_clear, best, new) if len(best) else new
            found = (lead > CLEAR) & ~is_clear
            is_clear |= found
            known, owners = np.vstack([known, pool[found]]), np.append(owners, best[found])
        return [
            Said(text=self._labelled[owner][1], whole=bool(clear))
            for owner, clear in zip(best, is_clear, strict=True)
        ]


def main() -> None:
    """Measure and print the claims."""
    options = measure.options(__doc__ or "")
    base = os.environ.get("BASE", "")
    plan = QUICK if options.quick else BIG if base else FULL
    with tempfile.TemporaryDirectory() as scratch:
        runs = run(plan, Path(scratch), base)
    found = claims(runs)
    measure.show(found, {}, "", as_json=options.json)


def run(plan: Plan, work: Path, base: str) -> list[Mapping[str, Any]]:
    """Return what each seed gave: score and seconds of each arm."""
    entries = list(read_jsonl(DATA))[:: max(1, 415 // plan.entries)][: plan.entries]
    (work / "all").mkdir(parents=True)
    write_jsonl(work / "all" / "entries.jsonl", entries)
    spec = DataSpec(files=("entries.jsonl",), hold_out="phrasing")
    dataset = ingest(spec, work / "all", work / "all" / "dataset", SILENT, seed=0)
    folder = Path(base) if base else _base(plan, dataset, work / "base")
    runs: list[Mapping[str, Any]] = []
    for seed in range(plan.seeds):
        runs.append(one_seed(plan, dataset, folder, work / f"seed-{seed}", seed))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    return runs


def one_seed(plan: Plan, dataset: Dataset, base: Path, work: Path, seed: int) -> dict[str, Any]:
    """Return scores, labels and seconds of the arms of one seed."""
    from toolchain.models.checkpoints import load_model, load_tokenizer, save_model

    clock = Clock()
    labelled, pool = _split(dataset, seed)
    few = _dataset(work / "few", labelled, dataset)
    tokenizer = load_tokenizer(base)
    model = _on_device(load_model(base, dtype="float32"))
    with clock.of("teacher"):
        _train(plan, model, tokenizer, labelled, plan.teacher_epochs, work / "t", seed)
    save_model(model, work / "teacher")
    tokenizer.save_pretrained(work / "teacher")

    marks: dict[str, Any] = {"teacher": _score(plan, model, tokenizer, dataset)}
    layers = _layers(plan, model, tokenizer, labelled)
    answers = dict(map(_pair, pool))
    pairs = [_pair(row) for row in labelled]
    teacher = FolderWriter(work / "teacher", artifacts.digest(work / "teacher"))
    arms: dict[str, tuple[Any, str]] = {
        "model, agreed": (teacher, "agreed"),
        "model, all": (teacher, "all"),
        "search": (SearchWriter(pairs, rounds=1), "all"),
        "search, twice": (SearchWriter(pairs, rounds=2), "all"),
    }
    texts = {}
    for name, (writer, keep) in arms.items():
        with clock.of(f"write {name}"):
            spec = {"keep": keep, "max_tokens": plan.max_tokens}
            rows, figures = _written(few, writer, spec, list(answers), work / name, seed)
        right = sum(answers[asked] == said for asked, said in map(_pair, rows))
        texts[name] = [*labelled, *rows]
        marks[f"written by {name}"] = {
            "kept": len(rows),
            "of": len(answers),
            "right": round(right / max(len(rows), 1), 4),
            "dropped": figures.dropped,
        }

    longest = max(len(rows) for rows in texts.values()) / len(labelled)
    texts["control, labels"] = labelled
    texts["control, labels, longer"] = labelled
    texts[CONTROL] = dataset.train()
    for name, rows in texts.items():
        epochs = plan.epochs * (longest if "longer" in name else 1)
        student = _student(work / "teacher", layers)
        with clock.of(name):
            steps = _train(plan, student, tokenizer, rows, epochs, work / f"train {name}", seed)
        marks[name] = {"steps": steps, "rows": len(rows)} | _score(
            plan, student, tokenizer, dataset
        )
    seconds = {name: round(spent, 2) for name, spent in clock.spent.items()}
    return {"seed": seed, "labels": len(labelled), "layers": layers, "s": seconds, **marks}


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return question and answer of a conversation."""
    return row["messages"][-2]["content"], row["messages"][-1]["content"]


def _split(dataset: Dataset, seed: int) -> tuple[list[Any], list[Any]]:
    """Return one labelled phrasing of each answer, and the others."""
    by_answer: dict[str, list[Any]] = {}
    for row in dataset.train():
        by_answer.setdefault(row["messages"][-1]["content"], []).append(row)
    draw = random.Random(seed)
    labelled = [draw.choice(rows) for rows in by_answer.values()]
    chosen = {id(row) for row in labelled}
    pool = [row for rows in by_answer.values() for row in rows if id(row) not in chosen]
    return labelled, pool


def _dataset(folder: Path, train: Sequence[Mapping[str, Any]], whole: Dataset) -> Dataset:
    """Return a data set with other conversations to learn, and the same held-out ones."""
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "held_out.jsonl", whole.held_out())
    write_jsonl(folder / "texts.jsonl", [])
    return Dataset(path=folder, record=artifacts.external(folder).record)


def _written(
    few: Dataset, writer: Any, spec: Mapping[str, Any], questions: list[str], out: Path, seed: int
) -> tuple[list[dict[str, Any]], WrittenFigures]:
    out.mkdir()
    write_jsonl(out / "pool.jsonl", [{"question": each} for each in questions])
    assignment = Assignment(
        spec=WriteSpec.model_validate({"questions": ["pool.jsonl"], **spec}),
        near=out,
        writer=writer,
        refusals=Refusals(few, DataSpec()),
    )
    written = write(few, assignment, out / "written", SILENT, seed=seed)
    return written.rows(), WrittenFigures.read(written.record.figures)


def _base(plan: Plan, dataset: Dataset, out: Path) -> Path:
    """Write a base that has read questions and answers, none under the other."""
    from toolchain.models.checkpoints import save_model
    from toolchain.pretrain import _examples, _make_model
    from toolchain.training.loop import Course, train
    from toolchain.training.objectives import AnswerLoss

    said = [message["content"] for row in dataset.train() for message in row["messages"]]
    texts = list(dict.fromkeys(said))
    tokenizer = make_tokenizer(texts, plan.scratch)
    model = _make_model(tokenizer, plan.scratch, seed=0)
    course = Course(
        name="base",
        steps=plan.scratch.steps,
        batch_size=plan.scratch.batch_size,
        learning_rate=plan.scratch.learning_rate,
        warmup_share=plan.scratch.warmup_share,
        seed=0,
    )
    examples = _examples(tokenizer, texts, plan.scratch.context)
    train(AnswerLoss(model), examples, course, out / "resume", SILENT)
    save_model(model, out)
    tokenizer.save_pretrained(out)
    return out


def _train(
    plan: Plan,
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    epochs: float,
    resume: Path,
    seed: int,
) -> int:
    """Train a model on the answers of conversations; return the number of steps."""
    from toolchain.training.examples import conversations
    from toolchain.training.loop import Course, train
    from toolchain.training.objectives import AnswerLoss

    examples, _ = conversations(tokenizer, rows, 512)
    steps = round(epochs * len(examples) / plan.batch_size)
    course = Course(
        name="arm",
        steps=max(1, steps),
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        warmup_share=0.03,
        seed=seed,
        save_every_s=1e9,
    )
    train(AnswerLoss(model), examples, course, resume, SILENT)
    return course.steps


def _layers(plan: Plan, model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    from toolchain.training.examples import conversations
    from toolchain.training.influence import choose, influences

    examples, _ = conversations(tokenizer, rows, 512)
    return list(choose(influences(model, examples), plan.layers))


def _student(teacher: Path, layers: Sequence[int]) -> Any:
    from toolchain.models.checkpoints import load_model
    from toolchain.training.students import from_layers

    return _on_device(from_layers(load_model(teacher), layers))


def _on_device(model: Any) -> Any:
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model


def _score(plan: Plan, model: Any, tokenizer: Any, dataset: Dataset) -> dict[str, Any]:
    from toolchain.training.answers import loss_per_token, score
    from toolchain.training.examples import conversations

    rows = dataset.held_out()[:: max(1, len(dataset.held_out()) // plan.questions)]
    rows = rows[: plan.questions]
    examples, _ = conversations(tokenizer, rows, 512)
    scores = score(model, tokenizer, rows, SILENT, name="ask")
    return {**scores, "loss": loss_per_token(model, examples)}


def claims(runs: Sequence[Mapping[str, Any]]) -> list[measure.Claim]:
    """Return the two halves of the goal, for the best of the students."""
    best = max(STUDENTS, key=lambda name: sum(run[name]["exact_match"] for run in runs))
    teacher = ["teacher"] if best.startswith("model") else []
    arms = (*STUDENTS, CONTROL, "control, labels", "control, labels, longer", "teacher")
    conditions = {
        "seeds": len(runs),
        "labels": f"{runs[0]['labels']} against {runs[0][CONTROL]['rows']}",
        **{name: "/".join(f"{run[name]['exact_match']:.3f}" for run in runs) for name in arms},
    }
    return [
        measure.claim(
            f"exact match of a student with a quarter of the labels ({best})",
            "control with all labels",
            GOAL_SCORE,
            [_exact(run, best) for run in runs],
            [_exact(run, CONTROL) for run in runs],
            conditions,
        ),
        measure.claim(
            f"device seconds of that student ({best}), its teacher's included",
            "control with all labels",
            GOAL_SHARE,
            [sum(run["s"][part] for part in (*teacher, f"write {best}", best)) for run in runs],
            [run["s"][CONTROL] for run in runs],
            {},
            better="less",
        ),
    ]


def _exact(run: Mapping[str, Any], name: str) -> float:
    """Return the exact match of an arm; at least half an answer, so that there is a ratio."""
    return max(float(run[name]["exact_match"]), 0.5 / int(run[name]["questions"]))


if __name__ == "__main__":
    main()

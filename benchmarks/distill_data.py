"""The text of `distill.py`: labels and pool, more questions, and a base that has read both."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain import artifacts
from toolchain.artifacts import Dataset, read_jsonl, write_jsonl
from toolchain.ingest.refusals import Refusals
from toolchain.pretrain import make_tokenizer
from toolchain.progress import SILENT
from toolchain.recipe import DataSpec, ScratchSpec


def pair(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return question and answer of a conversation."""
    return row["messages"][-2]["content"], row["messages"][-1]["content"]


def split(dataset: Dataset, seed: int) -> tuple[list[Any], list[Any]]:
    """Return one labelled phrasing of each answer, and the others."""
    by_answer: dict[str, list[Any]] = {}
    for row in dataset.train():
        by_answer.setdefault(row["messages"][-1]["content"], []).append(row)
    draw = random.Random(seed)
    labelled = [draw.choice(rows) for rows in by_answer.values()]
    chosen = {id(row) for row in labelled}
    pool = [row for rows in by_answer.values() for row in rows if id(row) not in chosen]
    return labelled, pool


def with_other_rows(whole: Dataset, train: Sequence[Mapping[str, Any]], folder: Path) -> Dataset:
    """Return a data set with other conversations to learn, and the same held-out ones."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "held_out.jsonl", whole.held_out())
    write_jsonl(folder / "texts.jsonl", [])
    return Dataset(path=folder, record=artifacts.external(folder).record)


def more_questions(questions: Path, entries: Path, few: Dataset) -> list[dict[str, Any]]:
    """Return conversations of further questions for the labelled answers, held-out ones left out.

    `questions` names each answer by its place in `entries`.
    """
    answers = [entry["answer"] for entry in read_jsonl(entries)]
    known = {pair(row)[1] for row in few.train()}
    refusals = Refusals(few, DataSpec())
    found = []
    for row in read_jsonl(questions):
        answer = answers[row["entry"]] if "entry" in row else ""
        for question in row["question"] if answer in known else ():
            if not refusals.of(question, answer):
                asked = {"role": "user", "content": question}
                found.append({"messages": [asked, {"role": "assistant", "content": answer}]})
    return found


def base(scratch: ScratchSpec, dataset: Dataset, out: Path) -> Path:
    """Write a base that has read questions and answers, none under the other; once."""
    from toolchain.models.checkpoints import save_model
    from toolchain.pretrain import _examples, _make_model
    from toolchain.training.loop import Course, train
    from toolchain.training.objectives import AnswerLoss

    if (out / "tokenizer.json").is_file():
        return out
    said = [message["content"] for row in dataset.train() for message in row["messages"]]
    texts = list(dict.fromkeys(said))
    tokenizer = make_tokenizer(texts, scratch)
    model = _make_model(tokenizer, scratch, seed=0)
    course = Course(
        name="base",
        steps=scratch.steps,
        batch_size=scratch.batch_size,
        learning_rate=scratch.learning_rate,
        warmup_share=scratch.warmup_share,
        seed=0,
    )
    examples = _examples(tokenizer, texts, scratch.context)
    train(AnswerLoss(model), examples, course, out / "resume", SILENT)
    save_model(model, out)
    # Written last: it says that the base is whole.
    tokenizer.save_pretrained(out)
    return out

"""`label`: the harvested questions that are worth an answer, for a person to answer, and back.

Tasks are written in Label Studio's import format, in the order of their worth: its community
edition shows tasks in the order of their import. What the model said, or a correction that somebody
sent, is a draft. The rule to keep: only what a person has answered is ever learned.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError, ConfigError, all_of
from toolchain.files import write_whole
from toolchain.harvested import HARVESTED, marks_in
from toolchain.ingest import look
from toolchain.recipe import Recipe
from toolchain.rounds.choose import MOST, SAME_WORDS, Choice, choose, normal, word_vectors
from toolchain.rounds.harvest import Row
from toolchain.texts import Unreadable, decoded, parse_json

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[Sequence[str]], "np.ndarray"]
CONFIG = """\
<View>
  <Text name="before" value="$before"/>
  <Header value="Question"/>
  <Text name="question" value="$question"/>
  <TextArea name="answer" toName="question" rows="4" editable="true" maxSubmissions="1"
    placeholder="The right answer; skip the task where there is none"/>
</View>
"""
"""Labelling interface of a Label Studio project."""


@dataclass(slots=True)
class Asked:
    """A question of the pool, as often as it was asked."""

    question: str
    before: tuple[Mapping[str, str], ...]
    ids: set[str] = field(default_factory=set)
    """Ids of the answers that it got."""
    boards: dict[str, str] = field(default_factory=dict)
    """Board → the newest release there that was asked."""
    draft: str = ""
    """What somebody said would have been right."""
    said: str = ""
    liked: int = 0

    @property
    def key(self) -> str:
        """Return the question's key, the same in every round."""
        told = [*(each["content"] for each in self.before), normal(self.question)]
        return hashlib.sha256("\0".join(told).encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Which questions were chosen, and what they would cover."""

    file: Path
    config: Path
    pool: int
    """Questions that were asked, each counted once."""
    asked: int
    """How often they were asked."""
    answered: int
    """Questions of the recipe that are answered already."""
    chosen: int
    covered_before: float
    """Share of the pool that is covered by what is answered already."""
    covered: float
    by: str
    """What questions are compared by: `words` or `embedder`."""
    left_out: int = 0
    """Questions that were asked too seldom to be compared."""


def pool_of(rows: Iterable[Row], answered: Iterable[str]) -> list[Asked]:
    """Return the questions that wait for an answer, the most popular first.

    A question that is answered already, or whose answers were all liked, does not wait.
    """
    done = set(map(normal, answered))
    pool: dict[str, Asked] = {}
    for row in rows:
        before = tuple(row.get("before") or ())
        asked = Asked(row["question"], before)
        if not normal(asked.question) or (not before and normal(asked.question) in done):
            continue
        asked = pool.setdefault(asked.key, asked)
        if row["id"] not in asked.ids:
            asked.ids.add(row["id"])
            asked.liked += row["rating"] > 0
        asked.boards[row["board"]] = row["release"]
        asked.said = row.get("said", "")
        asked.draft = row.get("correction") or asked.draft
    waiting = [each for each in pool.values() if each.liked < len(each.ids)]
    return sorted(waiting, key=lambda each: -len(each.ids))


def label(
    recipe: Recipe, rows: Sequence[Row], budget: int, out: Path, embed: Embed | None
) -> Labels:
    """Write the questions that are worth an answer as tasks for Label Studio.

    `embed` is the recipe's own embedder; None compares words.
    """
    answered = answered_in(recipe)
    every = pool_of(rows, answered)
    if not every:
        raise ConfigError(
            f"{recipe.id}: no question waits for an answer",
            hint="`demitasse harvest BOARD` fetches what was asked",
        )
    pool = every[:MOST]
    texts = [_text(each) for each in pool]
    vectors = embed(texts) if embed else word_vectors(texts, answered)
    known = embed(answered) if embed and answered else word_vectors(answered, texts)
    if embed and not answered:
        known = vectors[:0]
    counts = [len(each.ids) for each in pool]
    chosen = choose(vectors, counts, known, budget, same=0.0 if embed else SAME_WORDS)

    write_whole(out, _json([_task(pool[each.index], each) for each in chosen]))
    config = out.with_suffix(".xml")
    write_whole(config, CONFIG)
    return Labels(
        file=out,
        config=config,
        pool=len(every),
        asked=sum(len(each.ids) for each in every),
        answered=len(answered),
        chosen=len(chosen),
        covered_before=chosen[0].covered - chosen[0].gain if chosen else 0.0,
        covered=chosen[-1].covered if chosen else 0.0,
        by="embedder" if embed else "words",
        left_out=len(every) - len(pool),
    )


def answered_in(recipe: Recipe) -> list[str]:
    """Return the questions that a recipe's data, documents and rounds answer, each once."""
    found: dict[str, str] = {}
    for question in (*_learned(recipe), *_documented(recipe)):
        found.setdefault(normal(question), question)
    found.pop("", None)
    return list(found.values())


def _learned(recipe: Recipe) -> Iterator[str]:
    """Yield the questions of the recipe's data, and of its rounds."""
    spec = recipe.data
    if recipe.round:
        files = [each for each in recipe.round.answers if (recipe.folder / each).is_file()]
        every = tuple(dict.fromkeys((*spec.files, *files)))
        spec = spec.model_copy(update={"files": every, "replay": 1.0})
    if not spec.files:
        return  # a recipe may answer from documents alone
    parts = look(spec, recipe.folder, seed=recipe.seed)
    if parts.read.errors:
        raise all_of(parts.read.errors)
    for entry in (*parts.train, *parts.held_out):
        for messages in entry.phrasings:
            yield from [each["content"] for each in messages if each["role"] == "user"][-1:]


def _documented(recipe: Recipe) -> Iterator[str]:
    """Yield the questions that came with the documents, or were written for them."""
    if recipe.knowledge is None:
        return
    from toolchain.knowledge.texts import read_texts

    for questions in read_texts(recipe.knowledge, recipe.folder).questions:
        yield from questions


def _text(asked: Asked) -> str:
    """Return what a question is compared by: a short one goes on about the one before it."""
    earlier = [each["content"] for each in asked.before if each["role"] == "user"]
    return f"{earlier[-1]} {asked.question}" if earlier else asked.question


def _task(asked: Asked, choice: Choice) -> dict[str, Any]:
    draft = asked.draft or asked.said
    data = {
        "question": asked.question,
        "before": "\n".join(f"{each['role']}: {each['content']}" for each in asked.before),
        "messages": list(asked.before),
        "key": asked.key,
        "asked": len(asked.ids),
        "boards": asked.boards,
    }
    result = {
        "from_name": "answer",
        "to_name": "question",
        "type": "textarea",
        "value": {"text": [draft]},
    }
    version = "correction of a reader" if asked.draft else "answer of the board"
    prediction = {"model_version": version, "score": round(choice.gain, 6), "result": [result]}
    return {"data": data, "predictions": [prediction] if draft else []}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came back from the people who answered."""

    file: Path
    tasks: int
    new: int
    """Answers that are new in the file."""
    known: int
    skipped: int
    """Tasks without an answer, or that were skipped."""


def take_answers(export: Path, into: Path) -> Answers:
    """Append the answers of a Label Studio export (JSON) to a data file of ours.

    Each task is taken once, by the newest annotation that was not cancelled.
    """
    tasks = _tasks(export)
    content = into.read_text(encoding="utf-8") if into.is_file() else ""
    marks = marks_in(into.name, into) if content else []
    seen = {mark.key for mark in marks}
    number = 1 + max((mark.round for mark in marks), default=0)
    rows: list[str] = []
    known = skipped = 0
    for place, task in enumerate(tasks, 1):
        data = _data(task, export, place)
        answer, by, when = _annotated(task)
        if not answer:
            skipped += 1
        elif data["key"] in seen:
            known += 1
        else:
            seen.add(data["key"])
            rows.append(
                json.dumps(_answered(data, answer, by, when, number), ensure_ascii=False) + "\n"
            )
    if rows:
        gap = "\n" if content and not content.endswith("\n") else ""
        write_whole(into, content + gap + "".join(rows))
    return Answers(file=into, tasks=len(tasks), new=len(rows), known=known, skipped=skipped)


def _answered(
    data: Mapping[str, Any], answer: str, by: str, when: str, number: int
) -> dict[str, Any]:
    """Return a row of our own form; one that goes on about what was said before has messages."""
    mark = {
        "round": number,
        "key": data["key"],
        "asked": data.get("asked", 1),
        "boards": data.get("boards") or {},
        "by": by,
        "when": when,
    }
    question = data["question"]
    if before := data.get("messages"):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": [*before, *turns], HARVESTED: mark}
    return {"question": question, "answer": answer, HARVESTED: mark}


def _annotated(task: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a task's answer, who gave it and when; an empty answer if there is none."""
    done = [each for each in _objects(task.get("annotations")) if not each.get("was_cancelled")]
    for each in sorted(done, key=lambda one: str(one.get("updated_at", "")), reverse=True):
        if answer := _answer_in(each):
            by = each.get("completed_by")
            who = by.get("email") or by.get("id", "") if isinstance(by, dict) else by
            return answer, str(who), str(each.get("updated_at", ""))
    return "", "", ""


def _answer_in(annotation: Mapping[str, Any]) -> str:
    """Return the text that a person entered; several entries become lines."""
    lines: list[str] = []
    for result in _objects(annotation.get("result")):
        value = result.get("value")
        if result.get("from_name") == "answer" and isinstance(value, dict):
            texts = value.get("text")
            lines += [texts] if isinstance(texts, str) else map(str, texts or ())
    return "\n".join(lines).strip()


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list; none of what is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _tasks(export: Path) -> list[Any]:
    try:
        tasks = parse_json(decoded(export.read_bytes()))
    except Unreadable as error:
        raise ArtifactError(f"{export}:{error.line}: {error.problem}", hint=error.hint) from error
    except OSError as error:
        raise ConfigError(
            f"{export}: cannot be read: {(error.strerror or '').lower()}",
            hint="export the project as JSON in Label Studio",
        ) from error
    if not isinstance(tasks, list):
        raise ArtifactError(f"{export}: not a list of tasks", hint="export it as `JSON`")
    return tasks


def _data(task: Any, export: Path, number: int) -> Mapping[str, Any]:
    data = task.get("data") if isinstance(task, dict) else None
    sound = (
        isinstance(data, dict)
        and isinstance(data.get("question"), str)
        and isinstance(data.get("key"), str)
    )
    if not sound or not isinstance(data, dict):
        raise ArtifactError(
            f"{export}: task {number}: not a task of `demitasse label`",
            hint="export it as `JSON`, which keeps what was imported; `JSON-MIN` does not",
        )
    return data


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"

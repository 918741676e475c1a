"""General questions that are asked before and after a training: what a model forgot of the rest.

Each has a short answer that is found in the model's by its words. The questions were written for
this project and have its licence; a small instruct model knows a part of them. A difference of a
few points is within the error that is always told with it.
"""

import math
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from toolchain.artifacts import read_jsonl, value_digest
from toolchain.errors import ConfigError, GateError
from toolchain.figures import Forgotten
from toolchain.progress import Reporter

QUESTIONS = Path(__file__).parents[1] / "general_questions.jsonl"
TALK = Path(__file__).parents[1] / "general_talk.jsonl"
"""General conversations that may be learned with the recipe's own; none holds a question above."""
ANSWER_TOKENS = 24
FEW_LEFT = 0.5
"""Share of what a model knew whose loss is told, whatever a recipe allows."""
_Item = TypeVar("_Item")
_WORD = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of common knowledge, and what a right answer holds."""

    question: str
    answers: tuple[str, ...]
    """Any of them is right."""
    subject: str


def read_questions(file: Path = QUESTIONS) -> tuple[Question, ...]:
    """Return the questions of a file, in its order."""
    return tuple(
        Question(question=row["question"], answers=tuple(row["answers"]), subject=row["subject"])
        for row in read_jsonl(file)
    )


def read_talk(file: Path = TALK) -> list[dict[str, Any]]:
    """Return general conversations as training reads them."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in read_jsonl(file)
    ]


def spread(questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    """Return `count` questions, evenly spread over the subjects."""
    total = len(questions)
    if count >= total:
        return tuple(questions)
    return tuple(questions[at * total // count] for at in range(count))


def is_right(question: Question, answer: str) -> bool:
    """Say whether an answer holds one of the right ones, word for word."""
    said = _words(answer)
    return any(_holds(said, _words(each)) for each in question.answers)


def _holds(said: Sequence[str], words: Sequence[str]) -> bool:
    places = range(len(said) - len(words) + 1)
    return any(said[at : at + len(words)] == words for at in places)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def known(
    model: Any, tokenizer: Any, questions: Sequence[Question], report: Reporter, *, name: str
) -> list[bool]:
    """Return for each question whether a model's greedy answer is right."""
    from toolchain.chat import render_prompt
    from toolchain.training.answers import answer

    prompts = [
        render_prompt(tokenizer, [{"role": "user", "content": each.question}]) for each in questions
    ]
    answers = answer(model, tokenizer, prompts, ANSWER_TOKENS, report, name=name)
    return [is_right(*pair) for pair in zip(questions, answers, strict=True)]


def forgotten(before: Sequence[bool], now: Sequence[bool]) -> Forgotten:
    """Return how many of the same questions are answered before and now.

    The error is that of drawing the questions anew.
    """
    count = len(now)
    lost = [int(old) - int(new) for old, new in zip(before, now, strict=True)]
    mean = sum(lost) / count
    spread_of = sum((each - mean) ** 2 for each in lost) / max(1, count - 1)
    return Forgotten(
        questions=count,
        before=sum(before) / count,
        now=sum(now) / count,
        error=math.sqrt(spread_of / count),
    )


def lost_words(lost: Forgotten) -> str:
    """Return in words what was forgotten, with its standard error."""
    return (
        f"of {lost.questions} general questions {lost.before:.1%} → {lost.now:.1%} "
        f"(± {lost.error:.1%})"
    )


MORE_TALK = (
    "`general_share = 0.3` learns general conversations too; "
    "fewer updates and a lower `learning_rate` forget less"
)
"""Hint for a tuning that forgot too much."""


def check_forgotten(
    stage: str, lost: Forgotten | None, allowed: float, hint: str = MORE_TALK
) -> str:
    """Raise GateError if more points were forgotten than a recipe allows and than chance explains.

    Return what is to be told: that it may be chance, or that most of all is gone, which no limit
    forbids. Empty where nothing is.
    """
    fell = f"{stage}: {lost_words(lost)}: {lost.points:.1f} points are forgotten" if lost else ""
    if lost and lost.is_more_than(allowed):
        raise GateError(f"{fell}, `max_forgotten` allows {allowed:g}", hint=hint)
    if lost and lost.may_be_more_than(allowed):
        return (
            f"{fell}, more than the {allowed:g} of `max_forgotten`, but no more than chance gives"
        )
    if lost and lost.points_at_least > 100 * FEW_LEFT * lost.before > 0:
        return f"{fell}, more than half of what it knew, and `max_forgotten` allows it: {hint}"
    return ""


def mixed(
    rows: Sequence[Mapping[str, Any]], talk: Sequence[Mapping[str, Any]], share: float, seed: int
) -> list[Mapping[str, Any]]:
    """Return the conversations with general ones behind them, a `share` of the whole."""
    return [*rows, *beside(len(rows), shuffled(talk, seed), share)]


def shuffled(talk: Sequence[_Item], seed: int) -> list[_Item]:
    """Return general conversations in the order in which they are learned beside others."""
    order = list(talk)
    random.Random(f"talk:{seed}").shuffle(order)  # noqa: S311 - a shuffle, not a secret
    return order


def beside(own: int, talk: Sequence[_Item], share: float) -> list[_Item]:
    """Return what is a `share` of the whole with so many `own` ones: general ones in turn.

    If there are too few, they are repeated. Raise ConfigError if there is none.
    """
    count = max(1, round(own * share / (1 - share))) if share else 0
    if count and not talk:
        raise ConfigError(
            "general_share: there are no general conversations to learn",
            hint="`general_files` names files of them; without it ours are learned",
        )
    return [talk[at % len(talk)] for at in range(count)]


def digest_of(questions: Sequence[Question]) -> str:
    """Return what decides the figures of these questions."""
    return value_digest([(each.question, each.answers) for each in questions])

"""Who words an answer from documents better: the model that reads them, or the passage itself.

Both are compared, by token F1, with the passage that a person named as the answer. The questions
are those that the search was fitted with.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from device.manifest import EMBEDDER, KNOWLEDGE, QUOTE, WORDED
from device.manifest.knowledge import with_notes
from toolchain.artifacts import Knowledge, value_digest
from toolchain.figures import Wording
from toolchain.progress import Reporter
from toolchain.runtime.recall import recall
from toolchain.runtime.scoring import Scorer
from toolchain.training.answers import token_f1


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What a model may word answers from, and how that is measured."""

    knowledge: Knowledge
    asked: Sequence[tuple[str, str]]
    """Questions, each with the passage that answers it."""
    take: int
    """Passages that the model reads."""

    @property
    def digest(self) -> str:
        """All that decides what is measured."""
        return value_digest((self.knowledge.digest, self.take, list(self.asked)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Tokens of context, and of an answer in it."""

    context: int
    answer: int


def wording(
    child: Scorer, documents: Documents, runtime: Path, limits: Limits, report: Reporter
) -> Wording | None:
    """Return how well both word the answers to questions that the documents know; None without."""
    texts = _passages(documents.knowledge.path / KNOWLEDGE)
    quoted, worded = [], []
    files = documents.knowledge.path / EMBEDDER, documents.knowledge.path / KNOWLEDGE
    with recall(runtime, *files) as search:
        for number, (question, expected) in enumerate(documents.asked, 1):
            found = search.search(question, documents.take)
            if found.known:
                passages = [texts[each] for each in found.passages]
                turn = _turn(child, question, passages, limits)
                quoted.append(token_f1(passages[0], expected))
                worded.append(token_f1(child.answer([turn], limits.answer).text, expected))
            report.step("word answers", number, len(documents.asked), "questions")
    if not quoted:
        return None

    quote_f1, model_f1 = sum(quoted) / len(quoted), sum(worded) / len(worded)
    return Wording(
        questions=len(quoted),
        quote_f1=quote_f1,
        model_f1=model_f1,
        answer=WORDED if model_f1 > quote_f1 else QUOTE,
    )


def _turn(child: Scorer, question: str, passages: list[str], limits: Limits) -> dict[str, str]:
    """Return the question with as many passages as have room, the best first; one at least."""
    turn = {"role": "user", "content": with_notes(question, passages)}
    if len(passages) > 1 and len(child.render([turn])) + limits.answer > limits.context:
        return _turn(child, question, passages[:-1], limits)
    return turn


def _passages(index: Path) -> Mapping[int, str]:
    with closing(sqlite3.connect(f"file:{quote(str(index.absolute()))}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT id, text FROM passages"))

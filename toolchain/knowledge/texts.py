"""What a recipe's `[knowledge]` names, read: passages, questions of each, and the two sets."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain.errors import ConfigError
from toolchain.knowledge.contrast import Lesson
from toolchain.knowledge.documents import FileResult, Library, read_documents
from toolchain.knowledge.passages import Passage
from toolchain.knowledge.teacher import Teacher
from toolchain.knowledge.written import (
    Places,
    Written,
    answers_of,
    read_asked,
    read_unanswered,
    read_written,
)
from toolchain.progress import Reporter
from toolchain.recipe import KnowledgeSpec

_PARTS = 3
"""Parts of a file that are named where it was not read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What was read for an index."""

    library: Library
    questions: tuple[tuple[str, ...], ...]
    """Questions of each passage."""
    unanswered: tuple[str, ...]
    tuning: tuple[Written, ...]
    fresh: tuple[Written, ...]
    taught: tuple[tuple[str, ...], ...] = ()
    """Questions of each passage that an embedder is tuned on, where a teacher wrote more: those of
    pages change with the pages."""

    @property
    def can_fit(self) -> bool:
        """Whether anybody wrote questions that a search can be fitted with."""
        return any(each.right for each in self.tuning)

    def lesson(self) -> Lesson:
        """Return what an embedder is tuned on: questions, and the answers that came with them.

        Pages are left out, so that a changed page needs no other embedder.
        """
        asked = [
            (passage.text if passage.questions else "", questions)
            for passage, questions in zip(
                self.library.passages, self.taught or self.questions, strict=True
            )
            if len(questions) > (not passage.questions)
        ]
        return Lesson(
            answers=[text for text, _ in asked],
            questions=[questions for _, questions in asked],
            unanswered=self.unanswered,
        )

    def answered(self) -> list[tuple[str, str]]:
        """Return the questions to choose with that have an answer, each with its passage."""
        passages = self.library.passages
        return [
            (each.question, passages[min(each.right) - 1].text)
            for each in self.tuning
            if each.right
        ]

    def with_written(self, teacher: Teacher, report: Reporter) -> "Texts":
        """Return the same with questions that a teacher wrote for passages that had none."""
        bare = [place for place, asked in enumerate(self.questions) if not asked]
        written = teacher.write([self.library.passages[place] for place in bare], report)
        questions = list(self.questions)
        for place, asked in zip(bare, written, strict=True):
            questions[place] = tuple(asked)
        enough = sum(len(asked) > 1 for asked in self.questions) > 1
        taught = self.questions if enough else ()
        return replace(self, questions=tuple(questions), taught=taught)

    def unread(self) -> Iterator[tuple[str, str]]:
        """Yield each file that was not read whole, with what is missing of it and why."""
        for name, result in sorted(self.library.files.items()):
            if missing := _missing(result):
                yield name, missing

    def results(self) -> dict[str, str]:
        """Return what each file gave, in words."""
        return _results(self.library)


def read_texts(spec: KnowledgeSpec, near: Path) -> Texts:
    """Return what a recipe in `near` names; raise ConfigError for what cannot be read."""
    library = read_documents(spec.files, near, spec.passage_words)
    if not library.passages:
        reasons = "; ".join(f"{name}: {what}" for name, what in _results(library).items())
        raise ConfigError(f"knowledge: the documents hold no text: {reasons}")

    library = replace(library, passages=tuple(map(_named, library.passages)))
    places = Places(library.passages, answers_of(library.passages, near))
    questions = [list(passage.questions) for passage in library.passages]
    for written in read_asked(spec.questions, near, places):
        for passage in written.right:
            questions[passage - 1].append(written.question)
    return Texts(
        library=library,
        questions=tuple(tuple(dict.fromkeys(asked)) for asked in questions),
        unanswered=tuple(dict.fromkeys(read_unanswered(spec.unanswered, near))),
        tuning=tuple(read_written(spec.tuning, near, places)),
        fresh=tuple(read_written(spec.fresh, near, places)),
    )


def _named(passage: Passage) -> Passage:
    """Return a passage with its own heading: an answer is named by the first of its questions."""
    if not passage.questions:
        return passage
    return replace(
        passage, heading=" › ".join(filter(None, (passage.heading, passage.questions[0])))
    )


def _results(library: Library) -> dict[str, str]:
    return {name: _gave(result) for name, result in sorted(library.files.items())}


def _gave(result: FileResult) -> str:
    """Return all that became of a file, in words."""
    if result.reason:
        return result.reason
    parts = [f"{result.passages} passages"]
    if result.duplicates:
        parts.append(f"{result.duplicates} that stand elsewhere word for word")
    if missing := _missing(result):
        parts.append(missing)
    return "; ".join(parts)


def _missing(result: FileResult) -> str:
    """Return what was not read of a file, and why; empty for one that was read whole."""
    if result.reason:
        return result.reason
    shown = list(result.left_out[:_PARTS])
    if more := len(result.left_out) - len(shown):
        shown.append(f"{more} more parts")
    return f"not read: {'; '.join(shown)}" if shown else ""

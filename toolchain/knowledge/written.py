"""Questions that somebody wrote for the documents: to be found by, to choose with, to measure with.

A line of such a file is `{"question": "…" | […]}` with what answers it: `entry`, the number (from
0) of a row of the questions and answers among the documents, or `source` and `heading` of a
section. A question that nothing answers has `"entry": null`. `also` may list further passages,
each named in the same way: they are not the one that the question was written for, and a person who
read both found that they answer it too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import read_jsonl
from toolchain.errors import ConfigError
from toolchain.knowledge.passages import Block, Passage, tidy
from toolchain.knowledge.readers.rows import block_of, rows_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A question with the passages that answer it."""

    question: str
    right: frozenset[int]
    """Numbers of passages, from 1; empty if none answers it."""
    also: frozenset[int] = frozenset()
    """Other passages that answer it too."""


class Places:
    """Where passages stand in their documents."""

    def __init__(self, passages: Sequence[Passage], rows: Mapping[str, Sequence[str]]) -> None:
        """`rows` are the answers of each file of questions and answers, in the file's order."""
        self._by_text = {_plain(each.text): number for number, each in enumerate(passages, 1)}
        self._sections: dict[tuple[str, str], set[int]] = {}
        for number, each in enumerate(passages, 1):
            place = (each.source, each.heading.rpartition(" › ")[2])
            self._sections.setdefault(place, set()).add(number)
        self._answers = [answer for name in sorted(rows) for answer in rows[name]]

    def also(self, row: Mapping[str, Any], where: str) -> frozenset[int]:
        """Return the further passages that a line names; raise ConfigError if one is missing."""
        listed = row.get("also", [])
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ConfigError(
                f"{where}: `also` must be a list of places",
                hint='a place is `{"entry": 3}` or `{"source": "page.md", "heading": "Fan"}`',
            )
        return frozenset().union(*(self.of(each, where) for each in listed))

    def of(self, row: Mapping[str, Any], where: str) -> frozenset[int]:
        """Return the passages that a line names; raise ConfigError if there is none."""
        if "entry" in row:
            entry = row["entry"]
            if entry is None:
                return frozenset()
            if type(entry) is not int or not 0 <= entry < len(self._answers):
                raise ConfigError(
                    f"{where}: entry {entry!r}: there are {len(self._answers)} entries"
                )
            number = self._by_text.get(_plain(self._answers[entry]))
            if number is None:
                raise ConfigError(f"{where}: entry {entry}: its row gave no passage")
            return frozenset([number])
        if "source" not in row:
            raise ConfigError(
                f"{where}: names no passage: neither `entry` nor `source`",
                hint='a question with its "answer" belongs among `files`; these are questions for '
                "passages of them, which a line names",
            )
        place = (str(row["source"]), str(row.get("heading", "")))
        if place not in self._sections:
            raise ConfigError(
                f"{where}: no section `{place[1]}` in `{place[0]}`",
                hint="a line names an `entry`, or a `source` and its `heading`",
            )
        return frozenset(self._sections[place])


def answers_of(passages: Sequence[Passage], near: Path) -> dict[str, list[str]]:
    """Return the answers of each file of questions and answers, in the file's order.

    A row that cannot be read has a number too, and no answer.
    """
    files = {each.source for each in passages if each.questions}
    return {name: [_answer(row) for row in rows_of(near / name)] for name in files}


def _answer(row: Any) -> str:
    """Return the text that a row became as a passage; empty if it gave none."""
    block = block_of(row)
    return tidy(block.text) if isinstance(block, Block) else ""


def _plain(text: str) -> str:
    return " ".join(text.split())


def read_asked(names: Sequence[str], near: Path, places: Places) -> list[Written]:
    """Return the questions of files which passages are found by; raise ConfigError with the line
    of one that no passage answers.
    """
    for name in names:
        for where, row in _rows(name, near):
            if not places.of(row, where):
                raise ConfigError(
                    f"{where}: no passage answers it, so none is found by it",
                    hint="`unanswered` names files of such questions",
                )
    return read_written(names, near, places)


def read_written(names: Sequence[str], near: Path, places: Places) -> list[Written]:
    """Return the questions of some files, in their order; raise ConfigError with the line."""
    return [
        each
        for name in names
        for where, row in _rows(name, near)
        for each in _written(row, where, places)
    ]


def _written(row: Mapping[str, Any], where: str, places: Places) -> list[Written]:
    right, also = places.of(row, where), places.also(row, where)
    if also and not right:
        raise ConfigError(
            f"{where}: `also` names passages that answer, and `entry` says that none does",
            hint="name one of them as `entry`, or as `source` and `heading`",
        )
    return [
        Written(question=question, right=right, also=also) for question in _questions(row, where)
    ]


def read_unanswered(names: Sequence[str], near: Path) -> list[str]:
    """Return questions that no passage answers; raise ConfigError with the line."""
    return [
        question
        for name in names
        for where, row in _rows(name, near)
        for question in _questions(row, where)
    ]


def _rows(name: str, near: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    file = near / name
    if not file.is_file():
        raise ConfigError(f"knowledge: `{name}`: no such file", hint=f"looked in {near.resolve()}")
    for number, row in enumerate(read_jsonl(file), 1):
        yield f"{name}:{number}", row


def _questions(row: Mapping[str, Any], where: str) -> list[str]:
    value = row.get("question")
    asked = [value] if isinstance(value, str) else value
    if not isinstance(asked, list) or not all(isinstance(each, str) for each in asked):
        raise ConfigError(f"{where}: `question` must be a text or a list of texts")
    return [each.strip() for each in asked if each.strip()]

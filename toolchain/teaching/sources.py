"""What a teacher writes from: questions that nobody answered, and passages of documents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolchain.artifacts import read_jsonl
from toolchain.errors import ConfigError
from toolchain.knowledge.documents import read_documents
from toolchain.knowledge.passages import Passage
from toolchain.recipe import WriteSpec
from toolchain.texts import text_of

ROWS = (".jsonl", ".ndjson")
_ANSWERED = ("answer", "messages")
"""Keys of a row that has its answer already."""


def read_questions(spec: WriteSpec, near: Path) -> list[str]:
    """Return the questions of the spec's files, each once; raise ConfigError for a wrong row."""
    found: list[str] = []
    for name in spec.questions:
        file = near / name
        if not file.is_file():
            raise ConfigError(
                f"distill: write: questions: `{name}`: no such file",
                hint=f"looked in {near.resolve()}",
            )
        found += _rows(name, file) if file.suffix.lower() in ROWS else _lines(name, file)
    return list(dict.fromkeys(found))


def _lines(name: str, file: Path) -> list[str]:
    return [line.strip() for line in text_of(name, file).splitlines() if line.strip()]


def _rows(name: str, file: Path) -> Iterator[str]:
    for number, row in enumerate(read_jsonl(file), 1):
        where = f"distill: write: {name}: row {number}"
        if any(row.get(key) for key in _ANSWERED):
            raise ConfigError(
                f"{where} has an answer already",
                hint="answered rows are learned as they are: name their file in `data.files`",
            )
        yield from _asked(row.get("question"), where)


def _asked(value: Any, where: str) -> list[str]:
    asked = [value] if isinstance(value, str) else value
    if not isinstance(asked, list) or not all(isinstance(each, str) for each in asked):
        raise ConfigError(f"{where}: `question` must be a text or a list of texts")
    return [each.strip() for each in asked if each.strip()]


def read_passages(spec: WriteSpec, near: Path) -> Sequence[Passage]:
    """Return the passages of the spec's documents; raise ConfigError if they hold no text."""
    if not spec.documents:
        return ()
    library = read_documents(spec.documents, near, spec.passage_words)
    if not library.passages:
        reasons = "; ".join(f"{name}: {file.reason}" for name, file in library.files.items())
        raise ConfigError(f"distill: write: the documents hold no text: {reasons}")
    return library.passages

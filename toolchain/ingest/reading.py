"""Reading of one shard: rows become entries, go through the rules, and are written down.

What is wrong is told at once: the first bad lines of every file, and the number of the others.
Which of two equal questions stays is decided where all shards are known (`toolchain.ingest.merge`).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from toolchain.errors import ArtifactError, ToolchainError
from toolchain.ingest.entries import Document, Entry, Place, Tools
from toolchain.ingest.files import read_rows
from toolchain.ingest.files.source import Cut
from toolchain.ingest.forms import Form, read_row
from toolchain.ingest.images import with_pictures
from toolchain.ingest.rules import TextRules

SHOWN = 20
"""Maximum number of lines that are named one by one: dropped ones, and bad ones in errors."""
FIRST_ROWS = 3
"""Rows of a file that a dry run shows as they were understood."""


@dataclass(slots=True)
class Dropped:
    """What was dropped: counted by reason, the first ones by name."""

    reasons: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, str]] = field(default_factory=list)
    """(where, reason)."""

    def add(self, where: str, reason: str) -> None:
        """Count one that is dropped."""
        self.reasons[reason] += 1
        if len(self.first) < SHOWN:
            self.first.append((where, reason))

    def __len__(self) -> int:
        return self.reasons.total()


@dataclass(slots=True)
class FileRead:
    """One file as it was understood."""

    kind: str
    """Kind of the file in words: `CSV`."""
    forms: dict[str, Place] = field(default_factory=dict)
    """Form of its rows → the first row that has it."""
    notes: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    first: list[Entry | Document] = field(default_factory=list)

    @property
    def form(self) -> str:
        """Return in words what was recognised."""
        return f"{self.kind}, {' and '.join(self.forms)}" if self.forms else self.kind


@dataclass(slots=True, kw_only=True)
class ShardRead:
    """What was read of one shard beside its entries."""

    file: FileRead | None = None
    """None where not even its kind was recognised."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why rows were dropped → how many."""
    dropped: list[tuple[Place, str]] = field(default_factory=list)
    """The first ones."""
    errors: list[ToolchainError] = field(default_factory=list)
    more_errors: int = 0
    """Number of errors that are not named."""

    def drop(self, place: Place, reason: str) -> None:
        """Count a row that is dropped."""
        self.reasons[reason] += 1
        if len(self.dropped) < SHOWN:
            self.dropped.append((place, reason))

    def fail(self, error: ToolchainError) -> None:
        """Keep an error, or count it."""
        if len(self.errors) < SHOWN:
            self.errors.append(error)
        else:
            self.more_errors += 1


class Sink(Protocol):
    """Where entries and documents of a shard go."""

    def take_entry(self, entry: Entry) -> None:
        """Write an entry down."""

    def take_document(self, document: Document) -> None:
        """Write a document down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads rows of one recipe."""

    read: ShardRead
    rules: TextRules
    sink: Sink
    names: Mapping[str, str]
    """Our keys → the files' own."""
    tools: Tools
    """Tools of every conversation that names none."""
    images: Path | None = None
    """Folder of the pictures that rows name."""

    def rows(self, name: str, path: Path, cut: Cut | None) -> None:
        """Read one file, or a part of it."""
        kind, rows = read_rows(name, path, cut)
        file = self.read.file = FileRead(kind=kind)
        for place, value in rows:
            file.rows += 1
            if isinstance(value, ArtifactError):
                self.read.fail(value)
            elif isinstance(value, Document):
                self._document(value, file)
            else:
                self._row(place, value, file)

    def _row(self, place: Place, value: Any, file: FileRead) -> None:
        try:
            form, entry = read_row(place, self._with_tools(value), self.names)
            if isinstance(entry, Entry):
                if not entry.tools and "tools" not in value:
                    entry = replace(entry, tools=self.tools)
                entry = with_pictures(entry, self.images)
        except ArtifactError as error:
            self.read.fail(error)
            return
        _recognise(form, place, file)
        if isinstance(entry, Entry) and len(file.first) < FIRST_ROWS:
            file.first.append(entry)

        for clean in (self.rules.entry, *CLEANING):
            if isinstance(entry, Entry):
                entry = clean(entry)
        if isinstance(entry, Entry):
            self.sink.take_entry(entry)
        else:
            self.read.drop(place, entry)

    def _document(self, document: Document, file: FileRead) -> None:
        if len(file.first) < FIRST_ROWS:
            file.first.append(document)
        document = self.rules.document(document)
        if document.text:
            self.sink.take_document(document)

    def _with_tools(self, value: Any) -> Any:
        """Return a row of messages with the recipe's tools, unless it has its own."""
        if not self.tools or not isinstance(value, dict) or "tools" in value:
            return value
        talks = {"messages", "conversations"} & value.keys() or "messages" in self.names
        return {**value, "tools": list(self.tools)} if talks else value


def _recognise(form: Form, place: Place, file: FileRead) -> None:
    if form.name not in file.forms:
        file.forms[form.name] = place
        if form.note:
            file.notes[form.name] = form.note


# Cleaning -----------------------------------------------------------------------------------------


def _no_empty_text(entry: Entry) -> Entry | str:
    """Drop what asks or answers nothing."""
    # An empty system prompt says that there is none, which a template may render otherwise.
    kept = tuple(
        phrasing
        for phrasing in entry.phrasings
        if all(
            message["content"] or message["role"] in ("system", "tool") or message.get("tool_calls")
            for message in phrasing
        )
    )
    if len(kept) == len(entry.phrasings) and kept:
        return entry
    return replace(entry, phrasings=kept) if kept else "empty question or answer"


def _ends_with_an_answer(entry: Entry) -> Entry | str:
    roles = [message["role"] for message in entry.phrasings[0]]
    return (
        entry
        if roles[-1] == "assistant" and "user" in roles
        else "does not end with an answer to a user"
    )


CLEANING: tuple[Callable[[Entry], Entry | str], ...] = (_no_empty_text, _ends_with_an_answer)
"""Cleaning steps, in the order in which they run. Each returns the entry, changed or not, or the
reason why it is dropped.
"""

"""Reading of all files of a recipe: rows become entries, go through the rules, and are kept once.

What is wrong is told at once: the first bad lines of every file, and the number of the others.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError, ToolchainError
from toolchain.ingest import spool
from toolchain.ingest.entries import Document, Entry, Place, Tools
from toolchain.ingest.files import read_rows
from toolchain.ingest.forms import Form, read_row
from toolchain.ingest.found import Found
from toolchain.ingest.rules import TextRules
from toolchain.ingest.split import key_digest, question_key
from toolchain.ingest.spool import Spool

SHOWN = 20
"""Maximum number of lines that are named one by one: dropped ones, and bad ones in errors."""
MOST_KEYS = 200
"""Maximum number of unread keys that are counted by name: a table by person has one a row."""
OTHER_KEYS = "…"
"""Name under which the keys beyond are counted."""
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
class Read:
    """What was read so far, what was dropped, and what is wrong."""

    entries: Spool[Entry] = field(default_factory=spool.entries)
    documents: Spool[Document] = field(default_factory=spool.documents)
    dropped: Dropped = field(default_factory=Dropped)
    errors: list[ToolchainError] = field(default_factory=list)
    more_errors: int = 0
    """Number of errors that are not named."""
    seen: set[int] = field(default_factory=set)
    files: dict[str, FileRead] = field(default_factory=dict)
    found: Found = field(default_factory=Found)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    tools: Tools = ()
    """Tools of every conversation that names none."""

    def fail(self, error: ToolchainError) -> None:
        """Keep an error, or count it."""
        if len(self.errors) < SHOWN:
            self.errors.append(error)
        else:
            self.more_errors += 1


def read_file(
    name: str, path: Path, read: Read, rules: TextRules, names: Mapping[str, str]
) -> None:
    """Read one file into `read`; `names` maps our keys to the file's own."""
    kind, rows = read_rows(name, path)
    file = read.files.setdefault(name, FileRead(kind=kind))
    for place, value in rows:
        file.rows += 1
        if isinstance(value, ArtifactError):
            read.fail(value)
        elif isinstance(value, Document):
            _take_document(value, file, read, rules)
        else:
            try:
                form, entry = read_row(place, _with_tools(value, read.tools, names), names)
            except ArtifactError as error:
                read.fail(error)
                continue
            _recognise(form, place, file)
            if isinstance(entry, Entry) and not entry.tools and "tools" not in value:
                entry = replace(entry, tools=read.tools)
            _take_entry(place, entry, file, (read, rules))


def _with_tools(value: Any, tools: Tools, names: Mapping[str, str]) -> Any:
    """Return a row of messages with the recipe's tools, unless it has its own."""
    talks = isinstance(value, dict) and ("messages" in value or "messages" in names)
    return {**value, "tools": list(tools)} if tools and talks and "tools" not in value else value


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


def _take_entry(
    place: Place, entry: Entry | str, file: FileRead, into: tuple[Read, TextRules]
) -> None:
    read, rules = into
    if isinstance(entry, Entry) and len(file.first) < FIRST_ROWS:
        file.first.append(entry)
    for clean in (rules.entry, *CLEANING):
        if isinstance(entry, Entry):
            entry = clean(entry)
    if isinstance(entry, str):
        read.dropped.add(str(place), entry)
        return

    new = []
    for phrasing in entry.phrasings:
        if (key := key_digest(question_key(phrasing))) in read.seen:
            read.dropped.add(str(place), "duplicate question")
        else:
            new.append(phrasing)
            read.seen.add(key)
    if new:
        read.entries.append(replace(entry, phrasings=tuple(new), unknown_keys=()))
        for unread in entry.unknown_keys:
            _count_key(unread, read, rules)


def _count_key(key: str, read: Read, rules: TextRules) -> None:
    known = read.unknown_keys
    if key not in known:
        key = rules.key(key)
        if key not in known and len(known) >= MOST_KEYS:
            key = OTHER_KEYS
    known[key] += 1


def _take_document(document: Document, file: FileRead, read: Read, rules: TextRules) -> None:
    if len(file.first) < FIRST_ROWS:
        file.first.append(document)
    document = rules.document(document)
    if not document.text:
        return
    if (key := key_digest(f"text\0{document.text}")) in read.seen:
        read.dropped.add(str(document.place), "duplicate text")
        return
    read.seen.add(key)
    read.documents.append(document)

"""The folder that a shard leaves: its entries, their columns, and last what was read of it.

    entries.jsonl     [line, unit, phrasings, number of its tools] an entry
    documents.jsonl   [line, unit, text] a document
    phrasings, unread, answers, answer-bands         a number or signature an entry
    keys, draws, replays, bands                      one a phrasing
    text-keys, text-bands                            one a document
    *bands.sketches                                  one a signature
    findings.jsonl, read.json

Whatever others decide is not in it: two shards with the same question know nothing of each other.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import errors
from toolchain.errors import ToolchainError
from toolchain.ingest.clean.near import BLOCK, Signer
from toolchain.ingest.entries import Document, Entry, Place, Tools
from toolchain.ingest.found import Found
from toolchain.ingest.reading import FileRead, ShardRead
from toolchain.ingest.rules import TextRules
from toolchain.ingest.shards.columns import Column, Lines, Signatures
from toolchain.ingest.shards.seals import are_whole, digests_of, read_sealed, write_sealed
from toolchain.ingest.split import draw, key_digest, plain_key, question_key, question_of
from toolchain.tool_use import said

READ = "read.json"
MOST_UNREAD = 10_000
"""Combinations of unread keys that a shard names: a table by person has one a row."""
OTHER_KEYS = "…"
"""Name under which the keys beyond are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What decides the columns of a shard."""

    seed: int
    replays: bool
    """Whether a round draws what is replayed."""
    signs: bool
    """Whether near-duplicates are looked for."""


class FolderSink:
    """Writes entries and documents with their columns."""

    def __init__(self, folder: Path, asked: Asked, rules: TextRules) -> None:
        self._asked = asked
        self._rules = rules
        self._stack = ExitStack()
        enter = self._stack.enter_context
        self._entries = enter(Lines(folder / "entries.jsonl"))
        self._documents = enter(Lines(folder / "documents.jsonl"))
        self._phrasings = enter(Column(folder / "phrasings", "I"))
        self._unread = enter(Column(folder / "unread", "I"))
        self._answers = enter(Column(folder / "answers", "Q"))
        self._keys = enter(Column(folder / "keys", "Q"))
        self._draws = enter(Column(folder / "draws", "Q"))
        self._replays = enter(Column(folder / "replays", "Q")) if asked.replays else None
        self._text_keys = enter(Column(folder / "text-keys", "Q"))
        signer = Signer() if asked.signs else None
        self._signed = {
            name: enter(_Signing(folder / name, signer))
            for name in ("bands", "answer-bands", "text-bands")
            if signer
        }
        self._tools = _Numbers()
        self._unread_keys = _Numbers(())
        self._known_keys: set[str] = set()

    def __enter__(self) -> "FolderSink":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def take_entry(self, entry: Entry) -> None:
        """Write an entry down."""
        phrasings = [[plain_message(each) for each in p] for p in entry.phrasings]
        tools = self._tools.of(entry.tools)
        self._entries.add(as_json([entry.place.line, entry.place.unit, phrasings, tools]))
        self._phrasings.add(len(phrasings))
        self._unread.add(self._unread_keys.of(self._named(entry.unknown_keys)))

        answer = said(entry.phrasings[0][-1])
        self._answers.add(key_digest(plain_key(answer)))
        self._sign("answer-bands", answer)
        for messages in entry.phrasings:
            key = question_key(messages)
            self._keys.add(key_digest(key))
            self._draws.add(draw(self._asked.seed, key))
            if self._replays is not None:
                self._replays.add(draw(self._asked.seed, key, "replay"))
            self._sign("bands", question_of(messages))

    def take_document(self, document: Document) -> None:
        """Write a document down."""
        self._documents.add(as_json([document.place.line, document.place.unit, document.text]))
        self._text_keys.add(key_digest(f"text\0{document.text}"))
        self._sign("text-bands", document.text)

    def counts(self) -> dict[str, Any]:
        """Return how much was written, and the values that columns name by number."""
        return {
            "entries": len(self._entries),
            "phrasings": len(self._keys),
            "documents": len(self._documents),
            "tools": self._tools.values,
            "unread": self._unread_keys.values,
        }

    def _sign(self, name: str, text: str) -> None:
        if name in self._signed:
            self._signed[name].add(text)

    def _named(self, keys: Sequence[str]) -> list[str]:
        """Return keys that nobody reads as records may name them."""
        if not keys:
            return []
        if len(self._unread_keys.values) < MOST_UNREAD:
            named = [self._rules.key(key) for key in keys]
            self._known_keys.update(named)
            return named
        return [key if key in self._known_keys else OTHER_KEYS for key in keys]


class _Signing:
    """Signatures of texts, computed for many at once."""

    def __init__(self, path: Path, signer: Signer) -> None:
        self._signatures = Signatures(path)
        self._signer = signer
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        self._texts.append(text)
        if len(self._texts) == BLOCK:
            self._write()

    def __enter__(self) -> "_Signing":
        return self

    def __exit__(self, *error: object) -> None:
        self._write()
        self._signatures.close()

    def _write(self) -> None:
        for block in self._signer.signed(self._texts):
            self._signatures.add(*block)
        self._texts = []


class _Numbers:
    """Values that are written once and named by number: thousands of entries share one."""

    def __init__(self, *first: Any) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}
        for value in first:
            self.of(value)

    def of(self, value: Any) -> int:
        """Return the number of a value."""
        number = self._numbers.setdefault(as_json(value) if value else "", len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


# What was read beside the entries -----------------------------------------------------------------


def write_read(
    folder: Path, seen: tuple[ShardRead, Found], counts: dict[str, Any], *, lasting: bool
) -> None:
    """Write what was read of a shard, last of all: with it the shard is finished.

    It holds the sizes of the other files, and their digests if they are to last. Values stay out of
    it: rows as they were understood and texts before redaction are for `Shown`.
    """
    read, found = seen
    found.write(folder / "findings.jsonl")
    file = read.file
    files = [path for path in folder.iterdir() if path.name != READ]
    sizes = {path.name: path.stat().st_size for path in files}
    content = {
        **counts,
        "file": file
        and [file.kind, file.rows, {k: plain_place(v) for k, v in file.forms.items()}, file.notes],
        "reasons": read.reasons,
        "dropped": [[plain_place(place), reason] for place, reason in read.dropped],
        "errors": [[type(each).__name__, each.message, each.hint] for each in read.errors],
        "more_errors": read.more_errors,
        "found": found.totals(),
        "has_values": bool(found.replaced),
        "sizes": sizes,
        "digests": digests_of(files) if lasting else {},
    }
    write_sealed(folder / READ, content, lasting=lasting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished shard."""

    folder: Path
    name: str
    """Its file."""
    entries: int
    phrasings: int
    documents: int
    tools: list[Tools]
    unread: list[list[str]]
    read: ShardRead
    totals: Mapping[str, Any]
    """What was found, in numbers."""
    has_values: bool
    digests: Mapping[str, str]
    """Name of each of its files and its sha256."""

    def is_whole(self) -> bool:
        """Say whether every byte is as it was written."""
        return are_whole(self.folder, self.digests)


def finished(folder: Path, name: str) -> Finished | None:
    """Return a shard that was read to its end; None for any other."""
    try:
        content = read_sealed(folder / READ)
        sizes = content["sizes"]
        if any((folder / file).stat().st_size != size for file, size in sizes.items()):
            return None
        return _finished(folder, name, content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # not whole, or of another version: it is read again


def _finished(folder: Path, name: str, content: Mapping[str, Any]) -> Finished:
    file = content["file"] and FileRead(
        kind=content["file"][0],
        rows=content["file"][1],
        forms={form: placed(name, place) for form, place in content["file"][2].items()},
        notes=content["file"][3],
    )
    read = ShardRead(
        file=file,
        reasons=Counter(content["reasons"]),
        dropped=[(placed(name, place), reason) for place, reason in content["dropped"]],
        errors=[_error(*each) for each in content["errors"]],
        more_errors=content["more_errors"],
    )
    return Finished(
        folder=folder,
        name=name,
        entries=content["entries"],
        phrasings=content["phrasings"],
        documents=content["documents"],
        tools=[tuple(each) for each in content["tools"]],
        unread=content["unread"],
        read=read,
        totals=content["found"],
        has_values=content["has_values"],
        digests=content["digests"],
    )


def _error(kind: str, message: str, hint: str) -> ToolchainError:
    error: ToolchainError = getattr(errors, kind)(message, hint=hint)
    return error


# Rows ---------------------------------------------------------------------------------------------


def entry_of(name: str, plain: Sequence[Any], tools: Sequence[Tools], number: int) -> Entry:
    """Return an entry as it was written; `number` is that of its tools."""
    return Entry(
        place=placed(name, plain),
        phrasings=tuple(tuple(_message(*message) for message in phrasing) for phrasing in plain[2]),
        tools=tools[number],
    )


def document_of(name: str, line: str) -> Document:
    """Return a document as it was written."""
    plain = json.loads(line)
    return Document(place=placed(name, plain), text=plain[2])


def plain_place(place: Place) -> list[Any]:
    """Return a place without its file."""
    return [place.line, place.unit]


def placed(name: str, plain: Sequence[Any]) -> Place:
    """Return a place in a shard's file."""
    return Place(file=name, line=plain[0], unit=plain[1])


def plain_message(message: Mapping[str, Any]) -> list[Any]:
    """Return a message without its keys."""
    if len(message) == 2:
        return [message["role"], message["content"]]
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [message["role"], message["content"], more]


def _message(role: str, content: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, **(more or {})}


def as_json(value: Any) -> str:
    """Return a value as one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def clear(folder: Path) -> None:
    """Make an empty folder of this name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

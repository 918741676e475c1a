"""Questions, conversations and documents into a Dataset; the first stage of the flow.

`.jsonl` holds one entry a line: {"question": text or a list of phrasings, "answer": text} or
{"messages": […]}. A `.md` file is one document, a `.txt` file is one document a paragraph (blank
lines between). Text is kept as it is, never normalised; the one rule is that no held-out phrasing
reaches anything that is trained on. What is wrong is told at once: every bad line of every file.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from device.manifest.opening import bare, opened
from toolchain import other_forms
from toolchain.artifacts import Dataset, Work, digest, keep, write_jsonl
from toolchain.errors import ArtifactError, ToolchainError, all_of
from toolchain.figures import DatasetFigures, Lengths
from toolchain.opening import Opening, dialogue, read_opening
from toolchain.progress import Reporter
from toolchain.recipe import DataSpec
from toolchain.texts import NUL, Unreadable, existing, first_of, lines_of, parse_json, text_of

Messages = tuple[Mapping[str, str], ...]
Row = dict[str, Any]
"""A conversation as training reads it: `messages`, and how many of them are the `opening`."""
ROLES = ("system", "user", "assistant")
SHOWN = 20
"""Maximum number of lines that are named one by one: dropped ones, and bad ones in errors."""
_OTHER_ENDINGS = {
    ".json": "one entry a line in a .jsonl file: jq -c '.[]' {0} > {1}.jsonl",
    ".gz": "unpack it first: gunzip {0}",
    ".zst": "unpack it first: unzstd {0}",
    ".bz2": "unpack it first: bunzip2 {0}",
    ".xz": "unpack it first: unxz {0}",
    ".zip": "unpack it first: unzip {0}",
    ".ndjson": "the same under another name: mv {0} {1}.jsonl",
    ".markdown": "the same under another name: mv {0} {1}.md",
    ".text": "the same under another name: mv {0} {1}.txt",
}
"""Endings of files that people bring, and how to make one of them that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a JSONL file: phrasings of one question as conversations with the same answer."""

    where: str
    """`file.jsonl:12`."""
    phrasings: tuple[Messages, ...]
    unknown_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One plain text."""

    where: str
    text: str


@dataclass(slots=True, kw_only=True)
class Read:
    """What was read so far, what was dropped, and what is wrong."""

    entries: list[Entry] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """(where, reason)."""
    errors: list[ToolchainError] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Contents of a recipe's files and their split, from the files and the seed alone."""

    read: Read
    train: tuple[Entry, ...]
    held_out: tuple[Entry, ...]
    opening: Opening

    def conversations(self, entries: Sequence[Entry]) -> list[tuple[str, Row]]:
        """Return each phrasing of some entries: where it was read, and its conversation."""
        return [
            (entry.where, _row(phrasing, self.opening))
            for entry in entries
            for phrasing in entry.phrasings
        ]

    def texts(self) -> list[str]:
        """Return the plain texts to learn from."""
        pages = [page for entry in self.train for page in _pages(entry)]
        return [document.text for document in self.read.documents] + pages


def ingest(spec: DataSpec, folder: Path, out: Path, report: Reporter, *, seed: int) -> Dataset:
    """Read `spec.files`, relative to `folder`, split them by hash, write the data set under `out`.

    Raises ArtifactError for a file that is missing or a line that is no entry, with
    `file.jsonl:12`.
    """
    files, documents = (
        existing(spec.files, folder, "files"),
        existing(spec.documents, folder, "documents"),
    )
    inputs = {name: digest(path) for name, path in (files | documents).items()}
    work = Work(stage="ingest", inputs=inputs, parameters=spec, seed=seed)

    def build(out: Path) -> DatasetFigures:
        parts = look(spec, folder, seed=seed)
        if parts.read.errors:
            raise all_of(parts.read.errors)
        return _write(parts, out, report)

    record, fresh = keep(out, work, build, DatasetFigures)
    return Dataset(path=out, record=record, fresh=fresh)


def look(spec: DataSpec, folder: Path, *, seed: int) -> Parts:
    """Read and split what `ingest` would, without writing anything.

    What is wrong stands in `read.errors`.
    """
    # A question that the opening answers is not to be learned, and not to be asked.
    read = Read(seen={_question_key(dialogue(turn.question, turn.answer)) for turn in spec.turns})
    opening: Opening = ()
    for name in spec.files:
        try:
            _read_file(name, existing((name,), folder, "files")[name], read)
        except ToolchainError as error:
            read.errors.append(error)
    try:
        opening = read_opening(spec, existing(spec.documents, folder, "documents"))
    except ToolchainError as error:
        read.errors.append(error)
    if len(read.errors) > SHOWN:
        left = len(read.errors) - SHOWN
        read.errors[SHOWN:] = [ArtifactError(f"data: {left:,} more lines are wrong")]
    train, held_out = _split(read.entries, spec, seed)
    return Parts(read=read, train=tuple(train), held_out=tuple(held_out), opening=opening)


# Reading ------------------------------------------------------------------------------------------


def _read_file(name: str, path: Path, read: Read) -> None:
    """Read one file into `read`."""
    match path.suffix.lower():
        case ".jsonl":
            for where, line in lines_of(name, path):
                try:
                    _take_entry(_entry(where, line), read)
                except ArtifactError as error:
                    read.errors.append(error)
        case ".md":
            _take_document(Document(where=name, text=text_of(name, path).strip()), read)
        case ".txt":
            for number, paragraph in enumerate(re.split(r"\n[ \t]*\n", text_of(name, path)), 1):
                _take_document(
                    Document(where=f"{name}: paragraph {number}", text=paragraph.strip()), read
                )
        case ending:
            stem = name.removesuffix(path.suffix)
            hint = _OTHER_ENDINGS.get(ending, "known: .jsonl, .md, .txt").format(name, stem)
            raise ArtifactError(f"{name}: files of this kind are not read", hint=hint)


def _entry(where: str, line: str) -> Entry | None:
    if not line.strip():
        return None
    try:
        row = parse_json(line)
    except Unreadable as error:
        hint = error.hint or "each line is one whole JSON object"
        raise ArtifactError(f"{where}: {error.problem}", hint=hint) from error
    if not isinstance(row, dict):
        hint = "each line is one whole JSON object: jq -c '.[]' writes a list so"
        raise ArtifactError(f"{where}: not a JSON object", hint=hint)
    if first_of(NUL, row):
        raise ArtifactError(f"{where}: holds a NUL character (`\\u0000`)")
    if "messages" in row:
        return Entry(
            where=where,
            phrasings=(_messages(where, row["messages"]),),
            unknown_keys=_others(row, "messages"),
        )
    return _questions(where, row)


def _questions(where: str, row: Mapping[str, Any]) -> Entry:
    for key in ("question", "answer"):
        if key not in row:
            raise ArtifactError(
                f"{where}: missing key `{key}`",
                hint=other_forms.hint_for(row),
            )
    questions = row["question"] if isinstance(row["question"], list) else [row["question"]]
    if not questions or not all(isinstance(text, str) for text in [*questions, row["answer"]]):
        raise ArtifactError(
            f"{where}: `question` must be text or a list of phrasings, `answer` must be text"
        )
    phrasings = tuple(dialogue(question, row["answer"]) for question in questions)
    return Entry(where=where, phrasings=phrasings, unknown_keys=_others(row, "question", "answer"))


def _others(row: Mapping[str, Any], *known: str) -> tuple[str, ...]:
    return tuple(key for key in row if key not in known)


def _messages(where: str, value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise ArtifactError(f"{where}: `messages` must be a list of messages")
    for message in value:
        if (
            not isinstance(message, dict)
            or set(message) != {"role", "content"}
            or not isinstance(message["content"], str)
            or not isinstance(message["role"], str)
        ):
            raise ArtifactError(
                f'{where}: a message must be {{"role", "content"}} with text',
                hint=other_forms.message_hint(message),
            )
        if message["role"] not in ROLES:
            raise ArtifactError(
                f"{where}: role `{message['role']}` is not known", hint=f"known: {', '.join(ROLES)}"
            )
    return tuple(
        {"role": message["role"], "content": message["content"].strip()} for message in value
    )


# Cleaning -----------------------------------------------------------------------------------------


def _no_empty_text(entry: Entry) -> Entry | str:
    """Drop what asks or answers nothing."""
    # An empty system prompt says that there is none, which a template may render otherwise.
    kept = tuple(
        phrasing
        for phrasing in entry.phrasings
        if all(message["content"] or message["role"] == "system" for message in phrasing)
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


def _take_entry(entry: Entry | None, read: Read) -> None:
    if entry is None:
        return
    for clean in CLEANING:
        cleaned = clean(entry)
        if isinstance(cleaned, str):
            read.dropped.append((entry.where, cleaned))
            return
        entry = cleaned
    new = []
    for phrasing in entry.phrasings:
        if (key := _question_key(phrasing)) in read.seen:
            read.dropped.append((entry.where, "duplicate question"))
        else:
            new.append(phrasing)
            read.seen.add(key)
    if new:
        read.entries.append(replace(entry, phrasings=tuple(new)))


def _take_document(document: Document, read: Read) -> None:
    if not document.text:
        return
    if document.text in read.seen:
        read.dropped.append((document.where, "duplicate text"))
        return
    read.seen.add(document.text)
    read.documents.append(document)


def _question_key(messages: Messages) -> str:
    """Return what repeated questions share: all but the answer, without case, spaces, end marks."""
    asked = "\0".join(
        message["content"] for message in messages[:-1] if message["role"] != "system"
    )
    return " ".join(unicodedata.normalize("NFKC", asked).casefold().split()).rstrip(" ?!.。")


# Splitting ----------------------------------------------------------------------------------------


def _split(entries: Sequence[Entry], spec: DataSpec, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Return (train, held out), split by each entry's own text and the seed."""
    # Nothing else decides, so that other entries may come and go.
    if spec.hold_out == "conversation":
        out = [_fraction(seed, entry.phrasings[0]) < spec.held_out_share for entry in entries]
        return [e for e, o in zip(entries, out, strict=True) if not o], [
            e for e, o in zip(entries, out, strict=True) if o
        ]
    train, held_out = [], []
    for entry in entries:
        if len(entry.phrasings) == 1:
            train.append(entry)
            continue
        chosen = min(entry.phrasings, key=lambda phrasing: _fraction(seed, phrasing))
        held_out.append(replace(entry, phrasings=(chosen,)))
        train.append(replace(entry, phrasings=tuple(p for p in entry.phrasings if p is not chosen)))
    return train, held_out


def _fraction(seed: int, messages: Messages) -> float:
    """Return a number in [0, 1) that is fixed by the seed and the question."""
    hashed = hashlib.sha256(f"{seed}\0{_question_key(messages)}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64


# Writing ------------------------------------------------------------------------------------------


def _write(parts: Parts, out: Path, report: Reporter) -> DatasetFigures:
    opening, texts = parts.opening, parts.texts()
    if opening:
        report.note(
            f"opening: {sum(len(message['content']) for message in opening):,} characters "
            f"in {len(opening)} messages"
        )
        write_jsonl(out / "opening.jsonl", opening)
    for name, entries in (("train", parts.train), ("held_out", parts.held_out)):
        rows = [row for _, row in parts.conversations(entries)]
        write_jsonl(out / f"{name}.jsonl", rows)
    write_jsonl(out / "texts.jsonl", [{"text": text} for text in texts])
    figures = _figures(parts.read, parts.train, parts.held_out, texts)
    report.note(
        f"{figures.entries} entries: {figures.train} conversations to learn, "
        f"{figures.held_out} held out; "
        f"{len(texts)} texts; {len(parts.read.dropped)} dropped"
    )
    return figures


def _row(messages: Messages, opening: Opening) -> Row:
    """Return a conversation with its opening, and the number of the opening's messages."""
    # Nothing is learned of these.
    whole = opened(messages, opening)
    count = len(whole) - len(bare(whole, opening))
    return {"messages": list(whole), **({"opening": count} if count else {})}


def _pages(entry: Entry) -> list[str]:
    """Return an entry as pages of a manual: the answer, under each phrasing as the heading."""
    return [
        "\n\n".join(message["content"] for message in p if message["role"] != "system")
        for p in entry.phrasings
    ]


def _figures(
    read: Read, train: Sequence[Entry], held_out: Sequence[Entry], texts: Sequence[str]
) -> DatasetFigures:
    phrasings = [phrasing for entry in (*train, *held_out) for phrasing in entry.phrasings]
    dropped = Counter(reason for _, reason in read.dropped)
    unknown_keys = Counter(key for entry in read.entries for key in entry.unknown_keys)
    return DatasetFigures(
        entries=len(read.entries),
        documents=len(read.documents),
        train=sum(len(entry.phrasings) for entry in train),
        held_out=sum(len(entry.phrasings) for entry in held_out),
        texts=len(texts),
        question_chars=_lengths([phrasing[-2]["content"] for phrasing in phrasings]),
        answer_chars=_lengths([phrasing[-1]["content"] for phrasing in phrasings]),
        text_chars=_lengths(texts),
        dropped=dict(sorted(dropped.items())),
        dropped_lines=[f"{where}: {reason}" for where, reason in read.dropped[:SHOWN]],
        unknown_keys=dict(sorted(unknown_keys.items())),
    )


def _lengths(texts: Sequence[str]) -> Lengths:
    counts = [len(text) for text in texts]
    if not counts:
        return Lengths(mean=0.0, max=0)
    return Lengths(mean=round(sum(counts) / len(counts), 1), max=max(counts))

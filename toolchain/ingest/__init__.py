"""What people have into a Dataset: read in its form, cleaned, redacted, split; the first stage.

Files are streamed and entries lie on the disk: data may be larger than the memory. Text is kept as
it is unless the recipe says otherwise: what is found is counted and told. The one rule is that no
held-out phrasing reaches anything that is trained on. What is wrong is told at once.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from toolchain.artifacts import Dataset, Work, digest, keep, write_jsonl
from toolchain.errors import ArtifactError, ConfigError, ToolchainError, all_of
from toolchain.figures import DatasetFigures
from toolchain.ingest.calling import read_tools_file
from toolchain.ingest.duplicates import Pair, find_contamination, join_near_duplicates
from toolchain.ingest.entries import ROLES, Document, Entry, Messages, Place, Row
from toolchain.ingest.figures import figures_of
from toolchain.ingest.files import expanded
from toolchain.ingest.found import FINDINGS, Found
from toolchain.ingest.parts import Parts
from toolchain.ingest.reading import Read, read_file
from toolchain.ingest.redact.kept import keep_replaced
from toolchain.ingest.redact.key import KEY_FILE, key_of, made_key
from toolchain.ingest.rules import TextRules
from toolchain.ingest.split import key_digest, question_key, split
from toolchain.ingest.told import preview, refusal, told
from toolchain.opening import Opening, dialogue, read_opening
from toolchain.progress import Reporter
from toolchain.recipe import DataSpec, TurnSpec
from toolchain.texts import existing

__all__ = [
    "ROLES",
    "Document",
    "Entry",
    "Messages",
    "Parts",
    "Read",
    "Row",
    "ingest",
    "look",
    "preview",
    "told",
]


def ingest(spec: DataSpec, folder: Path, out: Path, report: Reporter, *, seed: int) -> Dataset:
    """Read `spec.files`, relative to `folder`, split them by hash, write the data set under `out`.

    Raises ArtifactError for a file that is missing or a line that is no entry, with
    `file.jsonl:12`.
    """
    files, documents, tools = (
        existing(expanded(spec.files, folder), folder, "files"),
        existing(spec.documents, folder, "documents"),
        existing(_tools_files(spec), folder, "tools"),
    )
    inputs = {name: digest(path) for name, path in (files | documents | tools).items()}
    if spec.redact.mode == "replace" and made_key(folder)[1]:
        report.note(f"{folder / KEY_FILE}: the key of the surrogates: keep it, and keep it secret")
    work = Work(stage="ingest", inputs=inputs, parameters=_recorded(spec, folder), seed=seed)

    def build(out: Path) -> DatasetFigures:
        """Write the dataset; raise all errors of the files at once."""
        parts = look(spec, folder, seed=seed)
        if parts.read.errors:
            raise all_of(parts.read.errors)
        if found := parts.read.found.replaced:
            kept = keep_replaced(folder, found.values())
            report.note(f"{kept}: what was replaced, for the test of leaks: keep it secret")
        return _write(parts, spec, out, report)

    record, fresh = keep(out, work, build, DatasetFigures)
    return Dataset(path=out, record=record, fresh=fresh)


def _recorded(spec: DataSpec, folder: Path) -> DataSpec:
    """Return the spec as the record holds it: records travel, so its texts go through the rules."""
    rules = TextRules(spec, key_of(folder), Found())
    place = Place(file="data")
    turns = tuple(
        TurnSpec(
            question=rules.text(place, "opening", turn.question),
            answer=rules.text(place, "opening", turn.answer),
        )
        for turn in spec.turns
    )
    system = rules.text(place, "opening", spec.system)
    return spec.model_copy(update={"system": system, "turns": turns})


def look(spec: DataSpec, folder: Path, *, seed: int) -> Parts:
    """Read, clean, redact and split what `ingest` would, without writing anything.

    What is wrong stands in `read.errors`.
    """
    return _looked(_Look(spec.model_dump_json(), folder, seed, _state(spec, folder)))


@dataclass(frozen=True, slots=True)
class _Look:
    """What decides a look at the data."""

    spec: str
    folder: Path
    seed: int
    files: tuple[object, ...]
    """State of each file: two looks at the same files see the same."""


def _state(spec: DataSpec, folder: Path) -> tuple[object, ...]:
    try:
        names = (*expanded(spec.files, folder), *spec.documents, *_tools_files(spec), KEY_FILE)
        states = [
            (name, (folder / name).stat() if (folder / name).exists() else None) for name in names
        ]
    except (OSError, ToolchainError):
        return ("unknown", os.urandom(8))  # looked at anew each time
    return tuple(
        (name, state and (state.st_size, state.st_mtime_ns, state.st_ino)) for name, state in states
    )


# A walk looks at the data for its checks, and the stage looks at the same data again.
@lru_cache(maxsize=1)
def _looked(asked: _Look) -> Parts:
    spec, folder = DataSpec.model_validate_json(asked.spec), asked.folder
    # A question that the opening answers is not to be learned, and not to be asked.
    turns = (question_key(dialogue(turn.question, turn.answer)) for turn in spec.turns)
    read = Read(seen={key_digest(key) for key in turns})
    try:
        rules = TextRules(spec, key_of(folder), read.found)
    except ToolchainError as error:
        read.errors.append(error)
        rules = TextRules(spec, bytes(32), read.found)
    opening = _opening(spec, folder, read, rules)
    later, read.errors = read.errors, []
    _read_files(spec, folder, read, rules)
    for each in later:
        read.fail(each)

    pairs: list[Pair] = []
    if not read.errors:
        if spec.clean.mode != "off" and spec.clean.near_duplicates:
            pairs = join_near_duplicates(read, spec.clean)
        if refused := refusal(read, spec):
            read.errors.append(refused)
    if read.more_errors:
        read.errors.append(ArtifactError(f"data: {read.more_errors:,} more lines are wrong"))
    train, held_out = split(read.entries, spec, asked.seed)
    find_contamination(pairs, held_out, read.found)
    return Parts(read=read, train=train, held_out=held_out, opening=opening)


def _tools_files(spec: DataSpec) -> tuple[str, ...]:
    return (spec.tools,) if spec.tools else ()


def _read_files(spec: DataSpec, folder: Path, read: Read, rules: TextRules) -> None:
    try:
        names: Iterable[str] = expanded(spec.files, folder)
        if unread := [name for name in spec.held_out if name not in names]:
            raise ConfigError(f"data: held_out: `{unread[0]}` is not among `files`")
        for name, path in existing(_tools_files(spec), folder, "tools").items():
            read.tools = read_tools_file(name, path)
    except ToolchainError as error:
        read.fail(error)
        return
    for name in names:
        try:
            path = existing((name,), folder, "files")[name]
            read_file(name, path, read, rules, {str(ours): own for ours, own in spec.map.items()})
        except ToolchainError as error:
            read.fail(error)


def _opening(spec: DataSpec, folder: Path, read: Read, rules: TextRules) -> Opening:
    def ruled(where: str, text: str) -> str:
        return rules.text(Place(file=where), "opening", text)

    try:
        return read_opening(spec, existing(spec.documents, folder, "documents"), ruled)
    except ToolchainError as error:
        read.fail(error)
        return ()


def _write(parts: Parts, spec: DataSpec, out: Path, report: Reporter) -> DatasetFigures:
    opening = parts.opening
    if opening:
        report.note(
            f"opening: {sum(len(message['content']) for message in opening):,} characters "
            f"in {len(opening)} messages"
        )
        write_jsonl(out / "opening.jsonl", opening)
    for name, entries in (("train", parts.train), ("held_out", parts.held_out)):
        rows = (row for _, row in parts.conversations(entries))
        write_jsonl(out / f"{name}.jsonl", rows)
    write_jsonl(out / "entries.jsonl", ({"rows": len(each.phrasings)} for each in parts.train))
    write_jsonl(out / "texts.jsonl", ({"text": text} for text in parts.texts()))
    parts.read.found.write(out / FINDINGS)

    figures = figures_of(parts, spec)
    for sentence in told(parts, spec):
        report.note(sentence)
    report.note(
        f"{figures.entries} entries: {figures.train} conversations to learn, "
        f"{figures.held_out} held out; "
        f"{figures.texts} texts; {len(parts.read.dropped)} dropped"
    )
    return figures

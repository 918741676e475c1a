"""`harvest`: what people think of a board's answers, fetched into a file of JSON lines.

The file is appended to. Each row is marked with its board, its release, its ring and its number in
it: so a harvest that was cut off goes on, and a row that was fetched before is not fetched twice.
The rule to keep: nothing personal is written that the recipe's own rules would replace.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from toolchain.board.device import Device
from toolchain.errors import ArtifactError, BoardError, ConfigError
from toolchain.ingest.entries import Place
from toolchain.ingest.found import Found
from toolchain.ingest.redact.key import KEY_FILE, key_of, made_key
from toolchain.ingest.rules import TextRules
from toolchain.progress import Reporter
from toolchain.recipe import CleanSpec, Recipe

OVERLAP = 64
"""Rows that are fetched again, at most, before the newest known one."""
# A power cut may give a number that was seen, but not confirmed, to another row.
MAX_ROWS = 10_000_000
Row = dict[str, Any]
Texts = Callable[[int, str, str], str]
"""Number of a row, part and text → the text as it may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """What a harvest brought."""

    board: str
    file: Path
    fetched: int
    """Rows that are new in the file."""
    known: int
    """Rows of this board that were in the file before."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Kind of row → how many of the new ones."""
    replaced: dict[str, int] = field(default_factory=dict)
    """Kind of personal data → how many values were replaced; `found` where they stay."""
    forgotten: int = 0
    """Rows that were deleted on the board."""


def harvest(
    device: Device, out: Path, report: Reporter, recipe: Recipe | None, *, delete: bool
) -> Harvest:
    """Append a board's new rows to a file; with `delete`, then delete them on the board.

    Raise ConfigError for a file that holds something else.
    """
    found = Found()
    texts = _rules(recipe, found, report)
    with _opened(out) as stream:
        rows = _rows_in(stream, out)
        kept = {(row["ring"], row["number"]) for row in rows}
        own = [row for row in rows if row["board"] == device.address]
        last = own[-1] if own else None
        kinds: dict[str, int] = {}
        seen = _Seen()

        for row in _fetched(device, last, seen):
            place = (seen.ring, int(row["n"]))
            if place in kept:
                continue
            kept.add(place)
            made = _row(row, device.address, seen.ring, texts)
            _refuse_personal(recipe, found, device.address)
            stream.write(json.dumps(made, ensure_ascii=False).encode() + b"\n")
            kinds[made["kind"]] = kinds.get(made["kind"], 0) + 1
            if not sum(kinds.values()) % 1000:
                report.step("harvest", seen.newest, max(seen.newest, seen.last), "rows")
        stream.flush()
        os.fsync(stream.fileno())

    forgotten = 0
    if delete and seen.newest:
        # Only now: every row that is deleted there is on the disk here.
        words = ("--ring", seen.ring, "--through", str(seen.newest))
        forgotten = device.call("forget", *words)["forgotten"]
    return Harvest(
        board=device.address,
        file=out,
        fetched=sum(kinds.values()),
        known=len(own),
        kinds=kinds,
        replaced=_counts(found),
        forgotten=forgotten,
    )


def discard(device: Device) -> int:
    """Delete all feedback on a board, whatever was harvested; return how many rows it was."""
    return int(device.call("forget")["forgotten"])


def kinds_on(device: Device) -> tuple[str, dict[str, int]]:
    """Return the name of a board's ring, and kind of row → how many it holds now.

    No text is kept of them, and a row that comes twice counts once.
    """
    kinds: dict[str, int] = {}
    seen = _Seen()
    numbers: set[int] = set()
    for row in _fetched(device, None, seen):
        if row["n"] not in numbers:
            numbers.add(row["n"])
            kind = str(row["kind"])
            kinds[kind] = kinds.get(kind, 0) + 1
    return seen.ring, kinds


def read_harvest(file: Path) -> list[Row]:
    """Return the rows of a harvest; raise ConfigError for a file that holds something else.

    A line that a cut tore is left out.
    """
    try:
        with file.open("rb") as stream:
            return _rows_in(stream, file)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {(error.strerror or '').lower()}",
            hint=f"`demitasse harvest BOARD --out {file}` makes it",
        ) from error


@dataclass(slots=True)
class _Seen:
    """How far a harvest came."""

    ring: str = ""
    last: int = 0
    newest: int = 0


def _fetched(device: Device, last: Row | None, seen: _Seen) -> Iterator[Mapping[str, Any]]:
    """Yield a board's rows after the last known one."""
    words: list[str] = []
    if last:
        words = ["--ring", last["ring"], "--after", str(max(0, last["number"] - OVERLAP))]
    with device.talk("harvest", *words) as channel:
        for count, answer in enumerate(device.events(channel, "harvest")):
            if answer.get("ok"):
                return
            if "ring" in answer:
                seen.ring, seen.last = answer["ring"], answer["last"]
            if "row" in answer:
                seen.newest = max(seen.newest, answer["row"]["n"])
                yield answer["row"]
            if count > MAX_ROWS:
                raise BoardError(f"{device.address}: its feedback has no end")
    raise BoardError(
        f"{device.address}: the harvest was cut off",
        hint="run the same command again: it goes on where it stopped",
    )


def _row(row: Mapping[str, Any], board: str, ring: str, texts: Texts) -> Row:
    """Return a row as the file has it.

    What the model said is no answer to learn: so it is called `said`, and `ingest` refuses it.
    """
    number = int(row["n"])
    before = [
        {"role": each["role"], "content": texts(number, "question", _whole(each["content"]))}
        for each in row.get("before", ())
    ]
    optional = {
        "correction": texts(number, "answer", _whole(row.get("correction", ""))),
        "before": before,
    }
    return {
        "question": texts(number, "question", _whole(row["question"])),
        "said": texts(number, "answer", _whole(row["answer"])),
        "kind": _whole(row["kind"]),
        "rating": row["rating"],
        "known": row.get("known"),
        **{name: value for name, value in optional.items() if value},
        "board": board,
        "release": row["release"],
        "ring": ring,
        "number": number,
        "id": _whole(row["id"]),
    }


def _whole(text: str) -> str:
    """Return a text without half characters, which a board may send and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _rules(recipe: Recipe | None, found: Found, report: Reporter) -> Texts:
    """Return what a recipe does with text that is harvested: its redaction, and no cleaning."""
    if recipe is None or recipe.data.redact.mode == "off":
        return lambda number, part, text: text
    replaces = recipe.data.redact.mode == "replace"
    if replaces and made_key(recipe.folder)[1]:
        report.note(f"{recipe.folder / KEY_FILE}: the key of the surrogates: keep it secret")
    key = key_of(recipe.folder)
    spec = recipe.data.model_copy(update={"clean": CleanSpec(mode="off")})
    rules = TextRules(spec, key, found)
    return lambda number, part, text: rules.text(Place(file="harvest", line=number), part, text)


def _refuse_personal(recipe: Recipe | None, found: Found, board: str) -> None:
    """Raise ArtifactError before a row is written that the recipe's `refuse` forbids."""
    if recipe and recipe.data.redact.mode == "refuse" and (counts := _counts(found)):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        raise ArtifactError(
            f"{board}: its feedback holds personal data: {kinds}",
            hint='`[data.redact] mode = "replace"` replaces it on arrival',
        )


def _counts(found: Found) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (_, kind, done), count in sorted(found.counts.items()):
        if done in ("found", "replaced"):
            counts[kind] = counts.get(kind, 0) + count
    return counts


@contextmanager
def _opened(out: Path) -> Iterator[BinaryIO]:
    """Yield a file for reading and appending that no other harvest writes."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{out}: cannot be written: {(error.strerror or '').lower()}",
            hint="name another file with --out",
        ) from error
    with os.fdopen(descriptor, "r+b") as stream:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{out}: another harvest writes it", hint="wait for it") from error
        yield stream


def _rows_in(stream: BinaryIO, file: Path) -> list[Row]:
    """Return the rows of an open file; a torn last line is cut off where it may be written."""
    content = stream.read()
    whole = content.rfind(b"\n") + 1
    rows = [_known(line, file, number) for number, line in enumerate(content[:whole].split(b"\n"))]
    if whole < len(content) and stream.writable():
        if not whole and not content.startswith(b'{"question"'):
            raise _foreign(file, 1)
        stream.truncate(whole)
    return [row for row in rows if row is not None]


def _known(line: bytes, file: Path, number: int) -> Row | None:
    if not line.strip():
        return None
    try:
        row = json.loads(line)
        is_ours = (
            isinstance(row["ring"], str)
            and type(row["number"]) is int
            and isinstance(row["board"], str)
            and isinstance(row["question"], str)
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(file, number + 1) from error
    if not is_ours:
        raise _foreign(file, number + 1)
    return dict(row)


def _foreign(file: Path, line: int) -> ConfigError:
    return ConfigError(
        f"{file}:{line}: not a row of a harvest", hint="name another file with --out"
    )

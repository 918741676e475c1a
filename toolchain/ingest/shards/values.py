"""Values of a shard, which no work folder holds: what was replaced, and what a dry run shows."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.errors import ConfigError
from toolchain.ingest.entries import Document, Entry
from toolchain.ingest.found import Change, Found
from toolchain.ingest.reading import ShardRead
from toolchain.ingest.redact.kept import Replaced
from toolchain.ingest.shards.folder import (
    as_json,
    entry_of,
    placed,
    plain_message,
    plain_place,
)


def write_values(path: Path, read: ShardRead, found: Found, *, shows: bool) -> None:
    """Write the values of a shard, for their owner alone; no file where there are none.

    `shows`: also what a dry run shows of the text.
    """
    rows: list[Any] = [
        ["replaced", [each.kind, each.value, each.before, each.asked]]
        for each in found.replaced.values()
    ]
    if shows:
        first = read.file.first if read.file else []
        rows += [["first", _plain_first(each)] for each in first]
        rows += [
            ["change", [plain_place(c.place), c.part, c.before, c.after]] for c in found.changes
        ]
    if not rows:
        path.unlink(missing_ok=True)
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(as_json(row) + "\n" for row in rows)
        part.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {(error.strerror or '').lower()}",
            hint="what was replaced is kept beside the recipe: copy it into a folder of your own",
        ) from error


def read_values(path: Path, name: str) -> Iterator[Replaced | Change | Entry | Document]:
    """Yield what `write_values` wrote."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            kind, value = json.loads(line)
            if kind == "replaced":
                of_kind, given, before, asked = value
                yield Replaced(of_kind, given, before, tuple(asked))
            elif kind == "change":
                place, part, before, after = value
                yield Change(place=placed(name, place), part=part, before=before, after=after)
            elif len(value) == 3:
                yield Document(place=placed(name, value), text=value[2])
            else:
                yield entry_of(name, value, [tuple(value[3])], 0)


def _plain_first(each: Entry | Document) -> list[Any]:
    if isinstance(each, Document):
        return [each.place.line, each.place.unit, each.text]
    phrasings = [[plain_message(m) for m in p] for p in each.phrasings]
    return [each.place.line, each.place.unit, phrasings, list(each.tools)]

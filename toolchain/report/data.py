"""What was found in the data of a recipe and what was done with it, by kind and by file.

Read from the record of `ingest`, which holds counts and no values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import recorded
from toolchain.figures import DatasetFigures

STAGE = "ingest"
Counts = Mapping[str, int]
"""What was done → number of findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What the stage `ingest` read."""

    name: str
    """Name of the work folder."""
    figures: DatasetFigures


def read_data(work: Path) -> Data | None:
    """Return the data of a work folder; None where no such stage is recorded."""
    record = recorded(work / STAGE)
    if record is None:
        return None
    return Data(name=work.resolve().name, figures=DatasetFigures.read(record.figures))


def files(data: Data) -> Iterator[tuple[str, str, str, str]]:
    """Yield each file: what it was read as, its rows, and the languages of its longer entries."""
    languages = data.figures.languages or {}
    for name, form in (data.figures.forms or {}).items():
        spoken = ", ".join(f"{code} {count:,}" for code, count in languages.get(name, {}).items())
        yield name, form, f"{(data.figures.rows or {}).get(name, 0):,}", spoken


def kinds(found: Mapping[str, Counts] | None) -> Iterator[tuple[str, str]]:
    """Yield each kind and what was done, in words."""
    for kind, done in (found or {}).items():
        yield kind, _words(done)


def kinds_by_file(data: Data) -> Iterator[tuple[str, str, str]]:
    """Yield file, kind and what was done."""
    for name, found in (data.figures.by_file or {}).items():
        for kind, done in found.items():
            yield name, kind, _words(done)


def split(data: Data) -> Iterator[tuple[str, str]]:
    """Yield how much there is, and what was dropped."""
    figures = data.figures
    yield "conversations to learn", f"{figures.train:,}"
    yield "held out", f"{figures.held_out:,}"
    yield "texts", f"{figures.texts:,}"
    for reason, count in figures.dropped.items():
        yield f"dropped: {reason}", f"{count:,}"


def _words(done: Counts) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in done.items())

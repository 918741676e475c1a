"""What was found in the text: counted by file and kind, and a line a finding without its value."""

import json
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.ingest.entries import Place
from toolchain.ingest.redact.kept import LEAST_BYTES, MOST, Replaced

FINDINGS = "findings.jsonl"
SHOWN_CHANGES = 20
"""Changed texts that a dry run shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding; it holds no value."""

    place: Place
    part: str
    """`question`, `answer`, `system`, `text`, or `entry` for what is found in several texts."""
    kind: str
    rule: str
    done: str
    """`found`, `mended`, `replaced`, `dropped`, or `kept` for what is nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A text as it was and as it is, or would be: shown by a dry run, never written."""

    place: Place
    part: str
    before: str
    after: str


class Found:
    """Findings of one look at the data."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """(file, kind, what was done) → number of findings."""
        self.first: dict[str, Finding] = {}
        """Kind → its first finding that does not stay."""
        self.changes: list[Change] = []
        self.changed_answers = 0
        self.languages: Counter[tuple[str, str]] = Counter()
        """(file, language) → number of entries."""
        self.replaced: dict[str, Replaced] = {}
        """Value → where it stood first. It is never written under an output folder."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        weakref.finalize(self, self._file.close)

    def add(self, finding: Finding) -> None:
        """Count a finding and write it down."""
        self.counts[finding.place.file, finding.kind, finding.done] += 1
        if finding.done != "kept":
            self.first.setdefault(finding.kind, finding)
        row = _row(finding)
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def totals(self) -> dict[str, Any]:
        """Return the numbers of what was found, and the first of each kind."""
        return {
            "counts": [[*key, count] for key, count in self.counts.items()],
            "first": [_row(finding) for finding in self.first.values()],
            "changed_answers": self.changed_answers,
            "languages": [[*key, count] for key, count in self.languages.items()],
        }

    def absorb(self, totals: Mapping[str, Any], path: Path) -> None:
        """Add what another part of the data has: its numbers, and the file of its findings."""
        for file, kind, done, count in totals["counts"]:
            self.counts[file, kind, done] += count
        for row in totals["first"]:
            finding = _finding(row)
            self.first.setdefault(finding.kind, finding)
        self.changed_answers += totals["changed_answers"]
        for file, language, count in totals["languages"]:
            self.languages[file, language] += count
        if path.exists():
            with path.open("rb") as stream:
                shutil.copyfileobj(stream, self._file)

    def show(self, change: Change) -> None:
        """Keep a changed text to be shown, if there is room."""
        if len(self.changes) < SHOWN_CHANGES:
            self.changes.append(change)

    def keep(self, replaced: Replaced) -> None:
        """Keep a replaced value for the test of leaks, if it is long enough and there is room."""
        if len(replaced.value.encode()) >= LEAST_BYTES and len(self.replaced) < MOST:
            self.replaced.setdefault(replaced.value, replaced)

    def by_kind(self, kinds: tuple[str, ...]) -> dict[str, dict[str, int]]:
        """Return kind → what was done → number of findings."""
        totals: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
        for (_, kind, done), count in sorted(self.counts.items()):
            if kind in totals:
                totals[kind][done] = totals[kind].get(done, 0) + count
        return {kind: done for kind, done in totals.items() if done}

    def by_file(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return file → kind → what was done → number of findings."""
        files: dict[str, dict[str, dict[str, int]]] = {}
        for (file, kind, done), count in sorted(self.counts.items()):
            files.setdefault(file, {}).setdefault(kind, {})[done] = count
        return files

    def write(self, path: Path) -> None:
        """Write all findings as JSON lines; no file where there are none."""
        if not self.counts:
            return
        with path.open("wb") as stream:
            for block in self._blocks():
                stream.write(block)

    def _blocks(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(1 << 20):
            yield block


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "file": finding.place.file,
        "line": finding.place.line,
        **({"unit": finding.place.unit} if finding.place.unit else {}),
        "part": finding.part,
        "kind": finding.kind,
        "rule": finding.rule,
        "done": finding.done,
    }


def _finding(row: Mapping[str, Any]) -> Finding:
    place = Place(file=row["file"], line=row["line"], unit=row.get("unit", ""))
    return Finding(
        place=place, part=row["part"], kind=row["kind"], rule=row["rule"], done=row["done"]
    )

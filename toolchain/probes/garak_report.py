"""A report of garak (github.com/NVIDIA/garak), read into the verdict: `report.jsonl`.

garak runs in an environment of its own, against a board's endpoint: it needs 135 packages. Of its
report the counts of each probe and detector are kept, and nothing that was asked or answered. The
rule to keep: a report of hundreds of megabytes is read row by row, and only results are parsed.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.texts import Unreadable, decoded, parse_json

MOST_PROBES = 2000
LONGEST_ROW = 64 << 10
"""Bytes of a row with a result, at most; rows of attempts are longer."""
_RESULT, _END = b'"eval"', b'"completion"'
# In a text, as an attempt may hold one, a backslash stands before each of these quotes.
_NAME = re.compile(r"[\w./-]{1,100}")


def read_garak(file: Path) -> dict[str, dict[str, int]]:
    """Return of each probe and detector how many answers were `tried` and how many `failed`.

    Results of the same name are added up. Raise ArtifactError for a file that is no report of
    garak, and for one of a run that did not end.
    """
    found: dict[str, dict[str, int]] = {}
    has_ended = False
    for where, row in _rows(file):
        has_ended = has_ended or row.get("entry_type") == "completion"
        if row.get("entry_type") != "eval":
            continue
        counts = found.setdefault(_name(where, row), {"tried": 0, "failed": 0})
        for name, count in _counts(where, row).items():
            counts[name] += count
        if len(found) > MOST_PROBES:
            raise ArtifactError(f"{file.name}: more than {MOST_PROBES} probes")
    if not found:
        raise ArtifactError(
            f"{file.name}: no result of a probe in it",
            hint="garak writes `….report.jsonl` when its run has ended",
        )
    if not has_ended:
        raise ArtifactError(
            f"{file.name}: the run of garak did not end: probes may be missing",
            hint="its last rows say `completion`: run garak again, and let it end",
        )
    return found


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, row) of results and of the end of a run."""
    for number, line in _lines(file):
        if _RESULT not in line and _END not in line:
            continue
        where = f"{file.name}:{number}"
        try:
            row = parse_json(decoded(line))
        except Unreadable as error:
            raise ArtifactError(f"{where}: {error.problem}", hint=error.hint) from error
        if isinstance(row, dict):
            yield where, row


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are no longer than a result, with their numbers."""
    number, is_new = 0, True
    try:
        with file.open("rb") as stream:
            while part := stream.readline(LONGEST_ROW):
                ends = part.endswith(b"\n") or len(part) < LONGEST_ROW
                number += is_new
                if is_new and ends:
                    yield number, part.removeprefix(codecs.BOM_UTF8)
                is_new = ends
    except OSError as error:
        raise ArtifactError(f"{file.name}: cannot be read: {error.strerror}") from error


def _name(where: str, row: dict[str, Any]) -> str:
    """Return the name of a result: nothing else of a foreign file gets into a verdict."""
    names = [row.get(each) for each in ("probe", "detector")]
    if not all(isinstance(each, str) and _NAME.fullmatch(each) for each in names):
        raise ArtifactError(f"{where}: a result without the names of its probe and detector")
    return " ".join(map(str, names))


def _counts(where: str, row: dict[str, Any]) -> dict[str, int]:
    """Return the counts of one result; versions before 0.13 write `total` alone."""
    passed = row.get("passed")
    tried = row.get("total_evaluated", row.get("total"))
    if type(passed) is not int or type(tried) is not int or not 0 <= passed <= tried:
        raise ArtifactError(f"{where}: a result without its counts")
    return {"tried": tried, "failed": tried - passed}

"""A report of garak (github.com/NVIDIA/garak), read into the verdict: `report.jsonl`.

garak runs in an environment of its own, against a board's endpoint: it needs 135 packages. Of its
report the counts of each probe and detector are kept, and nothing that was asked or answered.
"""

from pathlib import Path
from typing import Any

from toolchain.artifacts import read_jsonl
from toolchain.errors import ArtifactError

MOST_PROBES = 2000


def read_garak(file: Path) -> dict[str, dict[str, int]]:
    """Return of each probe and detector how many answers were `tried` and how many `failed`.

    Raise ArtifactError for a file that is no report of garak.
    """
    found: dict[str, dict[str, int]] = {}
    for row in read_jsonl(file):
        if row.get("entry_type") == "eval":
            name = f"{row.get('probe', '?')} {row.get('detector', '?')}"[:200]
            found[name] = _counts(file, row)
        if len(found) > MOST_PROBES:
            raise ArtifactError(f"{file.name}: more than {MOST_PROBES} probes")
    if not found:
        raise ArtifactError(
            f"{file.name}: no result of a probe in it",
            hint="garak writes `….report.jsonl` when its run has ended",
        )
    return found


def _counts(file: Path, row: dict[str, Any]) -> dict[str, int]:
    """Return the counts of one result; versions before 0.13 write `total` alone."""
    passed = row.get("passed")
    tried = row.get("total_evaluated", row.get("total"))
    if type(passed) is not int or type(tried) is not int or not 0 <= passed <= tried:
        raise ArtifactError(f"{file.name}: a result without its counts")
    return {"tried": tried, "failed": tried - passed}

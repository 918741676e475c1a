"""Our changes to llama.cpp's source: a patch file, applied exactly or refused with a reason.

Everything that builds an engine applies it: the cross-build for boards (`runtime/source.py`), and
the wheel for this computer (`scripts/engine-wheel.sh`), whose Python has no other package yet. So
this module needs the standard library alone.

    python -m toolchain.patching FOLDER VERSION     patch an unpacked source of llama-cpp-python
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ArtifactError, ToolchainError

PATCH = Path(__file__).parent / "runtime" / "image" / "barrier.patch"
_FIELD = re.compile(r"^(Made-for|Paths-in): (.+)$", re.MULTILINE)
_FILE = re.compile(r"^--- a/(\S+)\n\+\+\+ b/\S+\n", re.MULTILINE)
_HUNK = re.compile(r"^@@ .*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Lines of a file, and what stands there instead."""

    file: str
    """Path inside the source's folder."""
    before: str
    after: str


def apply(folder: Path, version: str, patch: Path = PATCH) -> None:
    """Patch the source of a version of llama-cpp-python, all of it or nothing.

    Raise ArtifactError where a file has not exactly the lines that the patch changes: the source is
    another version's, or was patched before.
    """
    texts: dict[str, str] = {}
    for change in changes(patch):
        text = texts.get(change.file) or _read(folder / change.file)
        if text.count(change.before) != 1:
            raise ArtifactError(
                f"llama-cpp-python {version}: `{change.file}` has not the lines that "
                f"`{patch.name}` changes",
                hint=f"the patch is made for {made_for(patch)}; install that version, "
                "or renew the patch",
            )
        texts[change.file] = text.replace(change.before, change.after)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")


def changes(patch: Path = PATCH) -> Iterator[Change]:
    """Yield the hunks of a unified diff, each as the lines before and after it."""
    said = patch.read_text(encoding="utf-8")
    within = _field(said, "Paths-in")
    _, *parts = _FILE.split(said)
    for name, hunks in zip(parts[::2], parts[1::2], strict=True):
        for hunk in _HUNK.split(hunks)[1:]:
            lines = hunk.splitlines(keepends=True)
            yield Change(
                file=f"{within}/{name}",
                before="".join(line[1:] for line in lines if line[0] in " -"),
                after="".join(line[1:] for line in lines if line[0] in " +"),
            )


def made_for(patch: Path = PATCH) -> str:
    """Return the distribution and version whose source the patch changes."""
    return _field(patch.read_text(encoding="utf-8"), "Made-for")


def digest(patch: Path = PATCH) -> str:
    """Return the sha256 of the patch: part of the name of whatever was built with it."""
    return hashlib.sha256(patch.read_bytes()).hexdigest()


def _field(said: str, name: str) -> str:
    fields: dict[str, str] = dict(_FIELD.findall(said))
    return fields[name]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _main(folder: str, version: str) -> None:
    try:
        apply(Path(folder), version)
    except ToolchainError as error:
        raise SystemExit(f"error: {error.message}\n\nhint: {error.hint}") from error


if __name__ == "__main__":
    _main(*sys.argv[1:])

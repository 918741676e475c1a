"""The files that a manifest names: their entries, safe paths, digests, and the check of a folder.

Standard library only, Python 3.10 up.
"""

import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from device.manifest.fields import ManifestError
from device.manifest.guard import GUARD
from device.manifest.reading import stream_of

TEMPLATE = "chat_template.jinja"
TOKENIZER = "tokenizer.json"
GOLDENS = "goldens.jsonl"
MIN_AGREEMENT = 0.9
"""Minimum share of the goldens\' tokens that a board with other arithmetic must predict."""
KNOWLEDGE = "knowledge.db"
EMBEDDER = "embedder.gguf"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WRONG = {
    TEMPLATE: "wrong_template",
    TOKENIZER: "wrong_tokenizer",
    GOLDENS: "wrong_goldens",
    KNOWLEDGE: "wrong_knowledge",
    EMBEDDER: "wrong_embedder",
    GUARD: "wrong_guard",
}
"""File → code of a wrong digest; `wrong_digest` is the code of every other file."""


def checked_digest(text: str) -> str:
    """Return `text` if it is a sha256 in hex. Every digest that names a file passes here."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ManifestError("bad_digest", f"not a sha256 in hex: `{str(text)[:80]}`")
    return text


def checked_path(text: str) -> str:
    """Return `text` if it is a plain relative POSIX path of printable characters.

    It must stay inside its folder.
    """
    path = PurePosixPath(text)
    plain = (
        text
        and text == path.as_posix()
        and not path.is_absolute()
        and ".." not in path.parts
        and text != "."
    )
    if (
        not plain
        or "\\" in text
        or not text.isprintable()
        or any(_is_too_long(part) for part in path.parts)
        or _is_too_long(text, 1024)
    ):
        raise ManifestError("bad_path", f"not a plain relative path: {text[:80]!r}")

    return text


def _is_too_long(name: str, limit: int = 255) -> bool:
    return len(name.encode("utf-8", "surrogatepass")) > limit


@dataclass(frozen=True)
class File:
    """One file that travels."""

    path: str
    sha256: str
    size: int


def file_entry(folder: Path, path: str) -> File:
    """Return the manifest entry of a file on disk."""
    file = folder / checked_path(path)
    return File(path=path, sha256=sha256_of(file), size=file.stat().st_size)


def paths_of(files: tuple[File, ...], manifest_name: str) -> "set[str]":
    """Return the paths that a folder of these files may hold, with its manifest and signature."""
    return {entry.path for entry in files} | {manifest_name, manifest_name + ".sig"}


def verify_files(folder: Path, files: tuple[File, ...], manifest_name: str) -> None:
    """Check that a folder holds exactly these files, with these bytes.

    Its manifest and its signature are allowed besides.
    """
    named = paths_of(files, manifest_name)
    present = {p.relative_to(folder).as_posix(): p.lstat().st_mode for p in folder.rglob("*")}
    for path, mode in sorted(present.items()):
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise ManifestError("not_a_file", f"`{path}` is a link or a device, not a file")
        if path not in named and not stat.S_ISDIR(mode):
            raise ManifestError("extra_file", f"`{path}` is not in the manifest")

    for entry in files:
        file = folder / checked_path(entry.path)
        if not file.is_file():
            raise ManifestError("missing_file", f"`{entry.path}` is missing")
        if (size := file.stat().st_size) != entry.size:
            raise ManifestError(
                "wrong_size", f"`{entry.path}` has {size:,} bytes, the manifest says {entry.size:,}"
            )
        if sha256_of(file) != entry.sha256:
            raise ManifestError(
                _WRONG.get(entry.path, "wrong_digest"),
                f"`{entry.path}` is not what the manifest says",
            )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a regular file's bytes; reads 1 MiB at a time."""
    total = hashlib.sha256()
    with stream_of(path) as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()

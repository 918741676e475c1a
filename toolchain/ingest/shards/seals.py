"""Digests of what shards keep: a disk may flip bits of a file and leave its size as it was.

Whatever is kept for the next run is sealed when it is finished, and its bytes are compared with the
seal once, before that run uses them. What is damaged is made again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolchain.files import write_whole


def digest_of(file: Path) -> str:
    """Return the sha256 of a file's bytes; raise OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digests_of(files: Iterable[Path]) -> dict[str, str]:
    """Return the sha256 of each file by its name; raise OSError."""
    return {file.name: digest_of(file) for file in files}


def are_whole(folder: Path, digests: Mapping[str, str]) -> bool:
    """Say whether all files have their bytes still."""
    try:
        return all(digest_of(folder / name) == digest for name, digest in digests.items())
    except OSError:
        return False


def write_sealed(file: Path, content: Mapping[str, Any], *, lasting: bool) -> None:
    """Write an object as one line of JSON, and the sha256 of that line below."""
    line = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    write_whole(file, f"{line}\n{_sha256(line)}\n", lasting=lasting)


def read_sealed(file: Path) -> dict[str, Any]:
    """Return a sealed object; raise OSError, or ValueError where it is not what was written."""
    line, _, seal = file.read_text(encoding="utf-8").partition("\n")
    if seal != f"{_sha256(line)}\n":
        raise ValueError(f"{file.name}: the seal does not fit")
    content: dict[str, Any] = json.loads(line)
    return content


def seal(file: Path, *, lasting: bool) -> None:
    """Write the sha256 of a finished file beside it."""
    write_whole(_seal_of(file), digest_of(file), lasting=lasting)


def is_sealed(file: Path) -> bool:
    """Say whether a file is what was sealed."""
    try:
        return _seal_of(file).read_bytes().decode("ascii") == digest_of(file)
    except (OSError, UnicodeDecodeError):
        return False


def _seal_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.seal")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

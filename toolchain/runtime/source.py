"""llama.cpp's source as llama-cpp-python ships it, with our patch: boards and host build the same.

pip downloads it once, from the index that it is set up for; later it is found on disk. The archive
comes from a stranger: only files that the build needs are unpacked, within bounds, and the folder
appears whole or not at all.
"""

import hashlib
import importlib.metadata
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain import patching
from toolchain.errors import ArtifactError, ToolError
from toolchain.progress import Reporter
from toolchain.tools import pip

PACKAGE = "llama-cpp-python"
MAX_FILE, MAX_TOTAL, MAX_MEMBERS = 16 << 20, 128 << 20, 50_000
# Version 0.3.36 has 4 MB, 18 MB and 3,884 entries.
"""Bounds of what is unpacked: bytes of a file, bytes of all, entries of the archive."""
_ROOT = "vendor/llama.cpp/"
_FOLDERS = (
    "cmake/",
    "common/",
    "ggml/cmake/",
    "ggml/include/",
    "ggml/src/ggml-cpu/",
    "ggml/src/ggml-cuda/",
    "include/",
    "licenses/",
    "src/",
    "tools/mtmd/models/",
    "vendor/",
)
_LOOSE = re.compile(
    r"(CMakeLists\.txt|LICENSE|ggml/[^/]+|ggml/src/[^/]+|tools/llama-bench/[^/]+"
    r"|tools/mtmd/(debug/)?[^/]+\.(cpp|h))"
)
_RECORD = "unpacked.json"
_PARTS = hashlib.sha256(repr((_FOLDERS, _LOOSE.pattern)).encode()).hexdigest()[:12]
"""What is unpacked: a folder that holds other parts of the source is unpacked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An unpacked source."""

    path: Path
    """Path to the folder of llama.cpp's CMakeLists.txt."""
    version: str
    """Version of llama-cpp-python."""
    sha256: str
    """Digest of the archive that it came in and of the patch, together."""


def fetch(folder: Path, report: Reporter) -> Source:
    """Return the source for the installed llama-cpp-python; pip downloads it only the first time.

    It is kept under `folder`, and only one caller may do so at a time. Raises ToolError if pip
    cannot get it, ArtifactError if it is broken.
    """
    version = _installed()
    kept = folder / f"{version}-{patching.digest()[:12]}"
    if _recorded(kept).get("parts") != _PARTS:
        staged = folder / ".part"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        archive = _download(version, staged / "download", report)
        unpack(archive, staged / "tree")
        patching.apply(staged / "tree", version)
        record = {"version": version, "sha256": _sha256(archive), "parts": _PARTS}
        (staged / "tree" / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)
        (staged / "tree").rename(kept)
        shutil.rmtree(staged)

    record = _recorded(kept)
    return Source(path=kept / _ROOT, version=record["version"], sha256=record["sha256"])


def _recorded(kept: Path) -> dict[str, str]:
    """Return what is said of an unpacked source; nothing if there is none."""
    file = kept / _RECORD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files that the build needs from a source archive.

    Raises ArtifactError for an archive that is broken or out of bounds.
    """
    try:
        with tarfile.open(archive, "r:gz") as opened:
            for member in _wanted(opened):
                opened.extract(member, folder, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ArtifactError(
            f"{archive.name}: not a whole source archive: {error}",
            hint="pip cache purge, then try again",
        ) from error

    if not (folder / _ROOT / "CMakeLists.txt").is_file():
        raise ArtifactError(f"{archive.name}: there is no llama.cpp in it")


def _wanted(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files that are needed, named without the archive's top folder."""
    total = 0
    for number, member in enumerate(opened):
        if number >= MAX_MEMBERS:
            raise tarfile.ReadError(f"more than {MAX_MEMBERS} entries")
        name = member.name.partition("/")[2]
        if not member.isreg() or not _needed(name):
            continue
        total += member.size
        if member.size > MAX_FILE or total > MAX_TOTAL:
            raise tarfile.ReadError(f"`{name}` is larger than a source can be")
        yield member.replace(name=name, mode=0o644, deep=False)


def _needed(name: str) -> bool:
    inner = name.removeprefix(_ROOT)
    if inner == name:
        return name == "LICENSE.md"
    return inner.startswith(_FOLDERS) or _LOOSE.fullmatch(inner) is not None


def _download(version: str, folder: Path, report: Reporter) -> Path:
    report.note(f"getting the source of {PACKAGE} {version}, once")
    return pip.download_source(
        f"{PACKAGE}=={version}",
        folder,
        lambda done, total: report.step("source of llama.cpp", done, total, "B"),
    )


def _installed() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(f"{PACKAGE} is not installed", hint=f"pip install {PACKAGE}") from error


def _sha256(archive: Path) -> str:
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    digest.update(patching.digest().encode())
    return digest.hexdigest()

"""Site folders: packages that a board's Python imports, fetched and unpacked on the host.

The board itself installs nothing. One folder serves all boards of one machine, Python and glibc; it
is made once and kept by the digest of its inputs. Wheels come from strangers: they are unpacked
within bounds.
"""

import fnmatch
import hashlib
import json
import re
import shutil
import stat
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache as once
from pathlib import Path
from typing import Any

from device.manifest import ManifestError, checked_path
from toolchain import config
from toolchain.agent import OLDEST_PYTHON, OLDEST_PYTHON_NAME, cache
from toolchain.errors import ArtifactError, ConfigError, FitError
from toolchain.files import keep_folder
from toolchain.progress import Reporter, Silent
from toolchain.runtime.elf import glibc_floor
from toolchain.tools import pip
from toolchain.tools.pip import Place

MAX_TOTAL, MAX_MEMBERS = 512 << 20, 20_000
# The largest of ours, numpy, holds 51 MB in 1,042 files.
"""Bounds of the content of one wheel: bytes, files."""
RECORD = "site.json"
"""File beside the folder's packages that says what it was made from."""
_NEWEST_PYTHON = (3, 13)
_UNUSED = (
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.h",
    "*.c",
    "*.a",
    "*.f90",
    "*/tests/*",
    "*/py.typed",
    "*.data/*",
)
_ABOUT = re.compile(r"[^/]+\.dist-info/(METADATA$|(?i:licen|copying|notice))")
"""Metadata of a distribution that stays: its description and licences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pin:
    name: str
    version: str
    drop: tuple[str, ...]


def site_folder(
    requirements: Sequence[str],
    machine: str,
    python_abi: str,
    glibc: str,
    report: Reporter | None = None,
) -> Path:
    """Return the folder for a board's `sys.path` with pinned distributions; made once.

    `site.toml` pins them.

    Machine, ABI (`cpython-311-aarch64-linux-gnu`, or `cp311`) and glibc are spelled as in a board's
    facts. Raises FitError for a Python or a glibc without wheels, ToolError if pip cannot get a
    wheel, ArtifactError for a broken one.
    """
    report = report or Silent()
    place = Place(machine=machine, python=python_of(python_abi), glibc=glibc)
    pins = [_pin(name, place) for name in sorted(set(requirements))]
    key = hashlib.sha256(
        json.dumps([[asdict(pin) for pin in pins], asdict(place), _UNUSED]).encode()
    ).hexdigest()
    kept = cache() / "sites" / key
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as work:
            _make(pins, place, Path(work), report)
            keep_folder(Path(work) / "site", kept)

    return kept


def python_of(abi: str) -> tuple[int, int]:
    """Return the Python version of a board's ABI; raise FitError if there is no runtime for it."""
    found = re.match(r"(?:cpython-|cp)3(\d+)(t?)(?:-|$)", abi)
    version = (3, int(found[1])) if found and not found[2] else None
    if not version or not OLDEST_PYTHON <= version <= _NEWEST_PYTHON:
        shown = f"Python {version[0]}.{version[1]}" if version else f"the Python ABI `{abi}`"
        raise FitError(
            f"there are no packages for {shown}, "
            f"boards may have Python {OLDEST_PYTHON_NAME} to "
            f"{_NEWEST_PYTHON[0]}.{_NEWEST_PYTHON[1]}",
            hint="Raspberry Pi OS 12 or 13, Ubuntu 22.04 or 24.04 and JetPack 6 or 7 bring one: "
            "put such an image on the board",
        )

    return version


@once
def _pins() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("site.toml").read_text(encoding="utf-8"))


def _pin(name: str, place: Place) -> _Pin:
    if name not in _pins():
        raise ConfigError(
            f"`{name}` is not pinned for boards", hint=config.closest(name, list(_pins()))
        )

    facts = _pins()[name]
    by_python = facts.get("python", {})
    version = by_python.get(".".join(map(str, place.python)), facts["version"])
    return _Pin(name=name, version=version, drop=tuple(facts.get("drop", ())))


def _make(pins: Sequence[_Pin], place: Place, work: Path, report: Reporter) -> None:
    """Download the wheels and fill `work/site`."""
    names = ", ".join(f"{pin.name} {pin.version}" for pin in pins)
    report.note(
        f"getting {names} for Python {place.python[0]}.{place.python[1]} on {place.machine}, once"
    )
    requirements = [f"{pin.name}=={pin.version}" for pin in pins]
    wheels = pip.download_wheels(
        requirements,
        place,
        work / "wheels",
        lambda done, total: report.step("wheels", done, total, "B"),
    )
    site = work / "site"
    site.mkdir()

    for wheel in wheels:
        unpack(wheel, site, [pattern for pin in pins for pattern in pin.drop])

    _check(site, place)
    record = {
        "place": asdict(place),
        "wheels": {wheel.name: hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels},
    }
    (site / RECORD).write_text(
        json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )


def unpack(wheel: Path, site: Path, drop: Sequence[str] = ()) -> None:
    """Unpack the files of a wheel that a board imports.

    Raises ArtifactError for a wheel that is broken or out of bounds.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in _wanted(archive, (*_UNUSED, *drop)):
                file = site / entry.filename
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, file.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ManifestError,
        NotImplementedError,
    ) as error:
        raise ArtifactError(
            f"{wheel.name}: not a whole wheel: {error}", hint="pip cache purge, then try again"
        ) from error


def _wanted(archive: zipfile.ZipFile, unused: Sequence[str]) -> Iterator[zipfile.ZipInfo]:
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS or sum(entry.file_size for entry in entries) > MAX_TOTAL:
        raise zipfile.BadZipFile("larger than a wheel of ours can be")

    for entry in entries:
        if entry.is_dir():
            continue
        checked_path(entry.filename)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise zipfile.BadZipFile(f"`{entry.filename}` is a link")
        is_metadata = ".dist-info/" in entry.filename
        if (
            _ABOUT.match(entry.filename)
            if is_metadata
            else not any(fnmatch.fnmatchcase(entry.filename, each) for each in unused)
        ):
            yield entry


def _check(site: Path, place: Place) -> None:
    """Raise FitError if a library needs a newer glibc than the board's.

    The names of some wheels promise too much.
    """
    for library in sorted(file for file in site.rglob("*.so*") if file.is_file()):
        floor = glibc_floor([library])
        if tuple(map(int, floor.split("."))) > tuple(map(int, place.glibc.split("."))):
            name = library.relative_to(site).as_posix()
            raise FitError(
                f"`{name}` needs glibc {floor}, the board has {place.glibc}",
                hint="use a newer image on the board",
            )

"""Builds llama.cpp for boards on any Linux host: one libllama.so for each kind of processor, without root or a system compiler.

One image on purpose: zig gives each shared library a C++ runtime of its own, and several that pass C++ objects to each other abort.
Same inputs, same bytes: what is built is kept under the digest of its inputs, and is found there the next time.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from toolchain import config
from toolchain.agent import cache
from toolchain.errors import ArtifactError, ConfigError
from toolchain.profiles import PROFILES, Processor
from toolchain.progress import Reporter
from toolchain.runtime import source
from toolchain.runtime.elf import glibc_floor, largest_page, needed_versions
from toolchain.tools import zig

GLIBC = "2.31"
"""Newest glibc that may be asked for: that of Debian 11 and Ubuntu 20.04, JetPack 5's base; JetPack 6 and Pi OS 12 are newer."""
PAGES = {"aarch64": 16 << 10, "x86_64": 4 << 10}
"""Largest pages of a machine's kernels: a Raspberry Pi 5 has 16 KiB."""
_PROJECT = Path(__file__).parent / "image"


@dataclass(frozen=True, slots=True)
class _Product:
    target: str
    """In image/CMakeLists.txt."""
    file: str
    """Where it lies in the folder that is returned."""


_LIBRARY = _Product("image", "lib/libllama.so")
_BENCH = _Product("bench", "bin/llama-bench")


def build_library(profile: str, report: Reporter) -> Path:
    """Return a folder with `lib/libllama.so` for boards of a profile, built once: 250 to 360 CPU-seconds, its next profile 31.

    Raises ConfigError for an unknown profile, ToolError if a tool or the source is missing, ArtifactError if the result would
    not load on the boards.
    """
    return _built(_LIBRARY, profile, report)


def build_bench(profile: str, report: Reporter) -> Path:
    """Return a folder with `bin/llama-bench`, llama.cpp inside: the referee on the board; otherwise as build_library."""
    return _built(_BENCH, profile, report)


def _built(product: _Product, profile: str, report: Reporter) -> Path:
    if profile not in PROFILES:
        raise ConfigError(
            f"unknown profile `{profile}`", hint=config.closest(profile, list(PROFILES))
        )
    processor, versions = PROFILES[profile], zig.verify()
    folder = cache() / "cross"
    with _alone(folder, report):
        llama = source.fetch(folder / "source", report)
        common = _digest(
            llama.sha256, versions["ziglang"], versions["cmake"], GLIBC, *_project_files()
        )
        kept = (
            folder
            / "built"
            / f"{product.target}-{profile}-{_digest(common, json.dumps(asdict(processor)))[:16]}"
        )
        if not kept.is_dir():
            project = _project(
                folder,
                processor.machine,
                _digest(common, str(llama.path), str(zig.program("ziglang"))),
            )
            file = _compile(project, product, llama, processor, profile, report)
            _keep(file, kept, product)
    return kept


def _project(folder: Path, machine: str, inputs: str) -> zig.Project:
    """Return the build folder of a machine; one that was made of other inputs is begun anew.

    It holds a copy of our project: cmake builds on only where the source lies where it was, and the same files may come from
    another installation of demitasse.
    """
    build, made_of = folder / "build" / machine, folder / "build" / f"{machine}.inputs"
    project = build / "project"
    if (
        not project.is_dir()
        or not made_of.is_file()
        or made_of.read_text(encoding="utf-8") != inputs
    ):
        shutil.rmtree(build, ignore_errors=True)
        shutil.copytree(_PROJECT, project)
        made_of.write_text(inputs, encoding="utf-8")
    return zig.Project(source=project, build=build, cache=folder / "zig")


def _compile(
    project: zig.Project,
    product: _Product,
    llama: source.Source,
    processor: Processor,
    profile: str,
    report: Reporter,
) -> Path:
    report.note(
        f"building llama.cpp of llama-cpp-python {llama.version} for {profile}; minutes the first time"
    )
    zig.configure(project, _settings(project, llama, processor))
    zig.build(
        project,
        product.target,
        lambda done, total: report.step(f"llama.cpp for {profile}", done, total, "files"),
    )
    file = project.build / Path(product.file).name
    check(file, processor.machine)
    return file


def _settings(project: zig.Project, llama: source.Source, processor: Processor) -> dict[str, str]:
    return {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_TOOLCHAIN_FILE": str(project.source / "zig.cmake"),
        "IMAGE_ZIG": str(zig.program("ziglang")),
        "IMAGE_MACHINE": processor.machine,
        "IMAGE_TARGET": f"{processor.machine}-linux-gnu.{GLIBC}",
        "IMAGE_SOURCE": str(llama.path),
        "IMAGE_CPU": processor.cpu,
        "IMAGE_VERSION": f"llama-cpp-python-{llama.version}",
    }


def check(file: Path, machine: str) -> None:
    """Raise ArtifactError if a library or program needs more than an old board's C library, or smaller pages than a board's."""
    if foreign := sorted(
        name for name in needed_versions(file) if not re.fullmatch(r"GLIBC_[\d.]+", name)
    ):
        raise ArtifactError(f"{file.name}: needs `{foreign[0]}`, which not every board has")
    floor = glibc_floor([file])
    if _release(floor) > _release(GLIBC):
        raise ArtifactError(f"{file.name}: needs glibc {floor}, boards have {GLIBC}")
    if largest_page(file) < PAGES[machine]:
        raise ArtifactError(
            f"{file.name}: made for pages of {largest_page(file)} bytes, boards have up to {PAGES[machine]}"
        )


def _keep(file: Path, kept: Path, product: _Product) -> None:
    staged = kept.with_name(".part")
    shutil.rmtree(staged, ignore_errors=True)
    (staged / product.file).parent.mkdir(parents=True)
    shutil.copy(file, staged / product.file)
    staged.rename(kept)


@contextmanager
def _alone(folder: Path, report: Reporter) -> Iterator[None]:
    """Hold the cache for one build at a time; another process waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.note("waiting for another build of llama.cpp to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _project_files() -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(_PROJECT.iterdir())]


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))

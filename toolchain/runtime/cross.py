"""Builds llama.cpp for boards on any Linux host, without root and without a system compiler.

Each kind of processor gets one libllama.so. It is a single library on purpose: zig gives every
shared library a C++ runtime of its own, and libraries that pass C++ objects to each other abort.
libmtmd.so, which reads pictures, may be apart: it calls the C functions of libllama.so alone.
The same inputs give the same bytes; a build is kept under the digest of its inputs.
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
# Debian 11 and Ubuntu 20.04 (the base of JetPack 5) have it; JetPack 6 and Pi OS 12 are newer.
"""Newest glibc that a build may need."""
PAGES = {"aarch64": 16 << 10, "x86_64": 4 << 10}
"""Largest memory page of a machine's kernels, in bytes; a Raspberry Pi 5 has 16 KiB."""
_PROJECTS = Path(__file__).parent
_TOOLCHAIN = _PROJECTS / "image" / "zig.cmake"


@dataclass(frozen=True, slots=True)
class _Product:
    target: str
    """Name of the target in image/CMakeLists.txt."""
    file: str
    """Path in the folder that is returned."""
    project: str = "image"
    """Folder of its CMakeLists.txt."""


_LIBRARY = _Product("image", "lib/libllama.so")
_BENCH = _Product("bench", "bin/llama-bench")
_EYES = _Product("eyes", "lib/libmtmd.so", project="eyes")


def build_library(profile: str, report: Reporter) -> Path:
    """Return a folder with `lib/libllama.so` for boards of a profile, built once.

    The first build takes 250 to 360 CPU-seconds, that of another profile 31. Raises ConfigError for
    an unknown profile, ToolError if a tool or the source is missing, ArtifactError if the result
    would not load on the boards.
    """
    return _built(_LIBRARY, profile, report)


def build_libraries(profile: str, report: Reporter) -> list[Path]:
    """Return the paths of `libllama.so` and `libmtmd.so`; otherwise as build_library.

    libmtmd.so turns pictures into what a model reads. It has no kernels of its own, so all profiles
    of a machine have the same.
    """
    library = build_library(profile, report) / _LIBRARY.file
    machine = PROFILES[profile].machine
    first = next(name for name, each in PROFILES.items() if each.machine == machine)
    return [library, _built(_EYES, first, report, library) / _EYES.file]


def build_bench(profile: str, report: Reporter) -> Path:
    """Return a folder with `bin/llama-bench`, llama.cpp inside; otherwise as build_library."""
    return _built(_BENCH, profile, report)


def _built(product: _Product, profile: str, report: Reporter, beside: Path | None = None) -> Path:
    """Return the folder of a product; `beside` is the library that it is linked to."""
    if profile not in PROFILES:
        raise ConfigError(
            f"unknown profile `{profile}`", hint=config.closest(profile, list(PROFILES))
        )

    processor = PROFILES[profile]
    versions = zig.verify()
    folder = cache() / "cross"

    with _alone(folder, report):
        llama = source.fetch(folder / "source", report)
        common = _digest(
            llama.sha256,
            versions["ziglang"],
            versions["cmake"],
            GLIBC,
            *_project_files(product.project),
        )
        own = _digest(common, compiled_for(processor))[:16]
        kept = folder / "built" / f"{product.target}-{profile}-{own}"
        if not kept.is_dir():
            project = _project(
                folder,
                product.project,
                processor.machine,
                _digest(common, str(llama.path), str(zig.program("ziglang"))),
            )
            settings = _settings(project, llama, processor)
            if beside:
                settings["IMAGE_LIBRARY"] = str(beside)
            file = _compile(project, product, llama, settings, processor.machine, profile, report)
            _keep(file, kept, product)

    return kept


def _project(folder: Path, name: str, machine: str, inputs: str) -> zig.Project:
    """Return the build folder of a project and machine, emptied if it was made from other inputs.

    It holds a copy of our project: cmake continues a build only where the source lies where it was,
    and the same files may come from another installation of demitasse.
    """
    place = machine if name == "image" else f"{name}-{machine}"
    build = folder / "build" / place
    made_of = folder / "build" / f"{place}.inputs"
    project = build / "project"
    if (
        not project.is_dir()
        or not made_of.is_file()
        or made_of.read_text(encoding="utf-8") != inputs
    ):
        shutil.rmtree(build, ignore_errors=True)
        shutil.copytree(_PROJECTS / name, project)
        shutil.copy(_TOOLCHAIN, project)
        made_of.write_text(inputs, encoding="utf-8")

    return zig.Project(source=project, build=build, cache=folder / "zig")


def _compile(
    project: zig.Project,
    product: _Product,
    llama: source.Source,
    settings: dict[str, str],
    machine: str,
    profile: str,
    report: Reporter,
) -> Path:
    report.note(
        f"building llama.cpp of llama-cpp-python {llama.version} for {profile}; "
        "minutes the first time"
    )
    zig.configure(project, settings)
    zig.build(
        project,
        product.target,
        lambda done, total: report.step(f"llama.cpp for {profile}", done, total, "files"),
    )
    file = project.build / Path(product.file).name
    check(file, machine)
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
    """Raise ArtifactError if a library or program would not load on the oldest boards.

    It may need no newer glibc than GLIBC and no smaller pages than a board's.
    """
    if foreign := sorted(
        name for name in needed_versions(file) if not re.fullmatch(r"GLIBC_[\d.]+", name)
    ):
        raise ArtifactError(f"{file.name}: needs `{foreign[0]}`, which not every board has")

    floor = glibc_floor([file])
    if _release(floor) > _release(GLIBC):
        raise ArtifactError(f"{file.name}: needs glibc {floor}, boards have {GLIBC}")
    if largest_page(file) < PAGES[machine]:
        raise ArtifactError(
            f"{file.name}: made for pages of {largest_page(file)} bytes, "
            f"boards have up to {PAGES[machine]}"
        )


def _keep(file: Path, kept: Path, product: _Product) -> None:
    staged = kept.with_name(".part")
    shutil.rmtree(staged, ignore_errors=True)
    (staged / product.file).parent.mkdir(parents=True)
    shutil.copy(file, staged / product.file)
    staged.rename(kept)


@contextmanager
def _alone(folder: Path, report: Reporter) -> Iterator[None]:
    """Hold the build cache for one build at a time; another process waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.note("waiting for another build of llama.cpp to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _project_files(name: str) -> list[str]:
    """Return the texts of a project's files."""
    files = {*(_PROJECTS / name).iterdir(), _TOOLCHAIN}
    return [file.read_text(encoding="utf-8") for file in sorted(files)]


def compiled_for(processor: Processor) -> str:
    """Return as text what a library depends on of its processor."""
    return json.dumps({name: getattr(processor, name) for name in ("machine", "cpu", "features")})


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))

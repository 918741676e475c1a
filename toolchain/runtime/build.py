"""`runtime build`: builds the runtime of a target ahead of a push, and measures it.

On request it also writes files to take away.
"""

import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device.manifest import read_runtime
from toolchain import runtime
from toolchain.errors import ConfigError
from toolchain.progress import Reporter
from toolchain.runtime import cross
from toolchain.runtime.wheel import write_wheel
from toolchain.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A runtime on this computer, and what its build took."""

    target: str
    profile: str
    features: tuple[str, ...]
    """Processor features that it needs, as /proc/cpuinfo spells them."""
    glibc: str
    """Oldest glibc on which it loads."""
    runtime: str
    """Id: the sha256 of its manifest."""
    folder: str
    size_bytes: int
    seconds: float
    cpu_s: float
    """Processor seconds of compilers; 0 if nothing had to be built."""
    files: tuple[str, ...] = ()
    """Names of the files that were written into the folder of `--out`."""


def build(
    target: Target, report: Reporter, *, out: Path | None = None, with_bench: bool = False
) -> Built:
    """Return the runtime of a target, and build it unless it is there.

    `out` gets the wheel, and llama-bench too if `with_bench` is set. Raises ConfigError for
    `with_bench` without `out`.
    """
    if with_bench and not out:
        raise ConfigError("--bench: where to?", hint="--out FOLDER names the place for llama-bench")
    began = time.monotonic()
    before = _compilers_s()
    folder = runtime.for_profile(target.profile, report)
    files = _take_away(target, report, out, with_bench=with_bench) if out else []
    return describe(target, folder, time.monotonic() - began, _compilers_s() - before, files)


def describe(
    target: Target, folder: Path, seconds: float, cpu_s: float, files: Sequence[Path]
) -> Built:
    """Return what a runtime folder holds, and what its build took."""
    described = read_runtime(folder)
    return Built(
        target=target.id,
        profile=described.profile,
        features=described.features,
        glibc=described.glibc,
        runtime=described.runtime_id(),
        folder=str(folder),
        size_bytes=sum(file.size for file in described.files),
        seconds=round(seconds, 1),
        cpu_s=round(cpu_s, 1),
        files=tuple(file.name for file in files),
    )


def _take_away(target: Target, report: Reporter, out: Path, *, with_bench: bool) -> list[Path]:
    files = [write_wheel(cross.build_libraries(target.profile, report), target.machine, out)]
    if with_bench:
        program = out / f"llama-bench-{target.profile}"
        shutil.copy(cross.build_bench(target.profile, report) / "bin" / "llama-bench", program)
        files.append(program)
    return files


def _compilers_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

"""Profiles: the kinds of processor that a runtime is built for, one row each.

A target names its profile, `profile_of` finds that of a board, `runtime/cross.py` compiles for it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from toolchain.errors import FitError

Profile = Literal["armv8.0", "armv8.2+fp16", "armv8.2+dotprod+fp16", "x86-64", "x86-64-v3"]
"""Name of a profile: the keys of PROFILES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A kind of processor, as a compiler and as a board name it."""

    machine: str
    """`uname -m`."""
    cpu: str
    """`-mcpu` for ggml's kernels, as zig spells it; other code targets the machine's baseline."""
    features: tuple[str, ...]
    """Features of `cpu`, as /proc/cpuinfo spells them; a board without one dies by SIGILL."""
    repacked: frozenset[str] = frozenset()
    """Tensor types that llama.cpp copies into another order for these instructions."""
    repacked_rows: int = 4
    """Rows that are interleaved in that order."""


_ARMV8_2 = ("asimd", "asimdrdm", "atomics", "crc32", "fp")
_X86_64_V3 = (
    "abm",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "cx16",
    "f16c",
    "fma",
    "movbe",
    "popcnt",
    "sse4_1",
    "sse4_2",
    "ssse3",
)
# Types and rows: ggml/src/ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type.
_REPACKED_X86 = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})
_REPACKED_DOTPROD = frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "Q8_0"})

PROFILES: Mapping[str, Processor] = {
    "armv8.0": Processor(machine="aarch64", cpu="generic+v8a", features=("asimd", "fp")),
    "armv8.2+fp16": Processor(
        machine="aarch64", cpu="generic+v8_2a+fullfp16", features=(*_ARMV8_2, "asimdhp", "fphp")
    ),
    "armv8.2+dotprod+fp16": Processor(
        machine="aarch64",
        cpu="generic+v8_2a+dotprod+fullfp16",
        features=(*_ARMV8_2, "asimddp", "asimdhp", "fphp"),
        repacked=_REPACKED_DOTPROD,
    ),
    "x86-64": Processor(
        machine="x86_64",
        cpu="x86_64",
        features=("sse2",),
        repacked=_REPACKED_X86,
        repacked_rows=8,
    ),
    "x86-64-v3": Processor(
        machine="x86_64",
        cpu="x86_64_v3",
        features=_X86_64_V3,
        repacked=_REPACKED_X86,
        repacked_rows=8,
    ),
}
"""Name of a profile → its processor features."""
# `x86-64` loads on every such computer; `-v3` (AVX2, since 2013) is several times as fast.
THIS_COMPUTER = {"x86_64": "x86-64"}
"""`uname -m` → the profile whose runtime such a computer assembles from its installed libraries."""


def profile_of(machine: str, features: Collection[str]) -> Profile:
    """Return the newest profile that a processor can run, by the features that it reports.

    Raises FitError for a machine that no runtime is built for.
    """
    if machine == "x86_64":
        return "x86-64"
    if machine != "aarch64":
        raise FitError(f"no runtime is built for `{machine}`", hint="64-bit Arm and x86-64 are")
    if "asimdhp" not in features:
        return "armv8.0"
    return "armv8.2+dotprod+fp16" if "asimddp" in features else "armv8.2+fp16"

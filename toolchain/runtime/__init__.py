"""What boards run: the agent (our own code alone) and runtimes (with the engine's libraries), for one kind of processor each."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from device.manifest import ManifestError, RuntimeManifest, read_runtime
from toolchain.errors import ArtifactError, ToolError
from toolchain.runtime.assemble import OLDEST_PYTHON, agent, assemble, device_folder
from toolchain.runtime.elf import glibc_floor

__all__ = ["agent", "device_folder", "for_profile", "for_this_computer"]

THIS_COMPUTER = {"x86_64": "x86-64"}
"""`uname -m` → the profile whose runtime a computer of that kind builds of its own installed libraries."""
_NATIVE = {
    "x86_64": "ssse3 sse4_2 avx avx2 fma f16c bmi2 avx_vnni avx512f avx512bw avx512cd avx512dq avx512vl avx512vbmi avx512_vnni "
    "avx512_bf16 amx_tile amx_int8 amx_bf16",
    "aarch64": "asimd asimdrdm asimddp asimdhp fphp i8mm bf16 sve sve2",
}
"""Features that ggml's kernels use under -march=native (its ggml-cpu/CMakeLists.txt), as /proc/cpuinfo spells them."""


def for_profile(profile: str) -> Path:
    """Return the runtime folder for boards of a profile; DEMITASSE_RUNTIME names a folder to use instead.

    Raise ToolError if there is none.
    """
    if given := os.environ.get("DEMITASSE_RUNTIME"):
        return _given(Path(given))
    if profile == THIS_COMPUTER.get(platform.machine()):
        return for_this_computer()
    hint = "set DEMITASSE_RUNTIME to a runtime folder that was built on such a board"
    raise ToolError(f"there is no runtime for `{profile}`, and this computer is `{platform.machine()}`", hint=hint)


def for_this_computer() -> Path:
    """Return the runtime folder for this very computer, of the llama-cpp-python that is installed; built once."""
    llama = _llama_cpp()
    libraries = [llama / "lib" / "libllama.so", *_ggml(llama / "lib")]
    machine = platform.machine()
    native = set(_NATIVE.get(machine, "").split())
    described = RuntimeManifest(
        machine=machine, features=tuple(sorted(native & _features())), glibc=glibc_floor(libraries), python=OLDEST_PYTHON,
        engines={"llama.cpp": importlib.metadata.version("llama-cpp-python")}, files=(), profile="native",
    )  # fmt: skip
    return assemble(described, llama, libraries)


def _given(folder: Path) -> Path:
    try:
        read_runtime(folder)
    except ManifestError as error:
        raise ArtifactError(f"{folder}: not a runtime: {error}", hint="DEMITASSE_RUNTIME names it") from error
    return folder


def _llama_cpp() -> Path:
    try:
        return Path(str(importlib.metadata.distribution("llama-cpp-python").locate_file("llama_cpp")))
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError("llama-cpp-python is not installed", hint="pip install llama-cpp-python") from error


def _ggml(folder: Path) -> list[Path]:
    """Return the libraries that libllama.so finds beside itself, under the one name that it asks for."""
    return sorted(file for file in folder.iterdir() if re.fullmatch(r"libggml[a-z-]*\.so\.\d+", file.name))


def _features() -> set[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()

"""`runtime build`: what it tells, and the wheel that pip takes for a board."""

import json
import platform
import subprocess
import sys
import zipfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

from toolchain import target
from toolchain.errors import ConfigError
from toolchain.progress import Silent
from toolchain.runtime.build import build
from toolchain.runtime.wheel import write_wheel

LIBRARY = b"\x7fELF and what a compiler made"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    (tmp_path / "libllama.so").write_bytes(LIBRARY)
    (tmp_path / "libmtmd.so").write_bytes(b"what reads pictures")
    return write(tmp_path, "out")


def write(folder: Path, out: str) -> Path:
    """Write a wheel of the two libraries."""
    libraries = [folder / "libllama.so", folder / "libmtmd.so"]
    return write_wheel(libraries, "aarch64", folder / out)


def test_the_wheel_is_for_any_python_on_boards_of_that_machine(wheel: Path) -> None:
    assert (
        wheel.name
        == f"llama_cpp_python-{version('llama-cpp-python')}-py3-none-manylinux_2_31_aarch64.whl"
    )
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert archive.read("llama_cpp/lib/libllama.so") == LIBRARY
    assert {"llama_cpp/__init__.py", "llama_cpp/llama_cpp.py"} <= set(names)
    assert [name for name in names if ".so" in name] == [
        "llama_cpp/lib/libllama.so",
        "llama_cpp/lib/libmtmd.so",
    ]
    assert not [name for name in names if "include" in name or "__pycache__" in name]


def test_the_same_library_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = write(tmp_path, "again")
    assert sha256(again.read_bytes()).digest() == sha256(wheel.read_bytes()).digest()


@pytest.mark.slow
def test_pip_takes_it_for_a_pi_and_not_for_a_pc(wheel: Path, tmp_path: Path) -> None:
    def pip(machine: str) -> subprocess.CompletedProcess[str]:
        words = [
            "install",
            "--no-index",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--find-links",
            str(wheel.parent),
        ]
        where = [
            "--platform",
            f"manylinux_2_31_{machine}",
            "--python-version",
            "3.11",
            "--target",
            str(tmp_path / machine),
        ]
        command = [sys.executable, "-m", "pip", *words, *where, "llama-cpp-python"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = pip("aarch64")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "aarch64" / "llama_cpp" / "lib" / "libllama.so").read_bytes() == LIBRARY
    assert pip("x86_64").returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="it is this computer's own runtime there alone"
)
def test_what_was_built_is_told(tmp_path: Path) -> None:
    built = build(target.find("x86-64"), Silent())
    manifest = json.loads((Path(built.folder) / "runtime.json").read_text())
    assert (built.profile, built.glibc, list(built.features)) == (
        "x86-64",
        manifest["glibc"],
        manifest["features"],
    )
    assert built.size_bytes == sum(file["size"] for file in manifest["files"])
    assert Path(built.folder).name == built.runtime and built.files == ()


def test_llama_bench_needs_a_place() -> None:
    with pytest.raises(ConfigError, match=r"^--bench: where to\?$"):
        build(target.find("x86-64"), Silent(), with_bench=True)

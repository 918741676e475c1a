"""What a library asks of the system, read from the library."""

import re
import subprocess
from pathlib import Path

import pytest

from toolchain.errors import ArtifactError
from toolchain.runtime import for_this_computer
from toolchain.runtime.elf import glibc_floor, needed_versions


@pytest.fixture(scope="module")
def libraries() -> list[Path]:
    return sorted((for_this_computer() / "llama_cpp" / "lib").iterdir())


def test_the_floor_is_the_newest_version_that_any_library_needs(libraries: list[Path]) -> None:
    each = [tuple(map(int, glibc_floor([library]).split("."))) for library in libraries]
    assert tuple(map(int, glibc_floor(libraries).split("."))) == max(each)
    assert max(each) > (2, 2)


def test_the_versions_are_what_binutils_reads(libraries: list[Path]) -> None:
    try:
        read = subprocess.run(
            ["readelf", "-V", *map(str, libraries[:1])], capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("binutils is not installed: sudo apt-get install binutils")
    needs = read.partition(".gnu.version_r")[2]
    assert needed_versions(libraries[0]) == set(re.findall(r"Name: (\S+)\s+Flags", needs))


def test_a_library_without_version_needs_has_the_lowest_floor() -> None:
    assert glibc_floor([]) == "2.0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.so: not a 64-bit little-endian ELF library"),
        (b"\x7fELF\x01\x01" + bytes(100), "x.so: not a 64-bit little-endian ELF library"),
        (b"\x7fELF\x02\x01" + bytes(10), "x.so: broken ELF library"),
        (b"\x7fELF\x02\x01" + b"\xff" * 100, "x.so: broken ELF library"),
    ],
)
def test_what_is_no_library_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.so").write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        needed_versions(tmp_path / "x.so")
    assert caught.value.message == message


def test_a_cut_library_is_refused(tmp_path: Path, libraries: list[Path]) -> None:
    whole = libraries[0].read_bytes()
    (tmp_path / "cut.so").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=r"cut.so: broken ELF library"):
        needed_versions(tmp_path / "cut.so")

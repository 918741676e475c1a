"""The cross compiler: a missing tool is named with its install line, a failure with its log."""

import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.errors import ToolError
from toolchain.tools import zig

ROOT = Path(__file__).resolve().parents[3]


def test_versions_of_all_three_are_told() -> None:
    assert sorted(zig.verify()) == ["cmake", "ninja", "ziglang"]


def test_without_the_extra_the_line_that_installs_it_is_told() -> None:
    bare = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from toolchain.errors import ToolError\nfrom toolchain.tools import zig\n"
        "try:\n    zig.verify()\n"
        "except ToolError as error:\n    print(error.message, '|', error.hint)"
    )
    said = subprocess.run(
        [sys.executable, "-ISBc", bare, str(ROOT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout.strip() == "`ziglang` is not installed | pip install 'demitasse[cross]'"


def test_a_failed_configuration_names_the_fault_and_the_log(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        'cmake_minimum_required(VERSION 3.24)\nproject(x NONE)\nmessage(FATAL_ERROR "no")\n'
    )
    project = zig.Project(source=tmp_path, build=tmp_path / "build", cache=tmp_path / "cache")
    with pytest.raises(
        ToolError, match=r"cmake ended with exit code 1: CMake Error at CMakeLists.txt:3"
    ) as caught:
        zig.configure(project, {})
    assert caught.value.hint == f"all that it said is in {tmp_path / 'build' / zig.LOG}"


def test_a_failed_build_names_the_fault_and_what_was_done_before_is_kept(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(x NONE)\n"
        "add_custom_command(OUTPUT one COMMAND ${CMAKE_COMMAND} -E touch one)\n"
        "add_custom_command(OUTPUT two DEPENDS one COMMAND ${CMAKE_COMMAND} -E cat missing)\n"
        "add_custom_target(both DEPENDS two)\n"
    )
    project = zig.Project(source=tmp_path, build=tmp_path / "build", cache=tmp_path / "cache")
    zig.configure(project, {})
    steps: list[tuple[int, int]] = []
    with pytest.raises(ToolError, match=r"ninja ended with exit code 1: FAILED: "):
        zig.build(project, "both", lambda done, total: steps.append((done, total)))
    assert steps[0] == (1, 2)
    assert (tmp_path / "build" / "one").is_file()


def test_the_callers_flags_do_not_reach_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-DSTRAY")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(x NONE)\n"
        'file(WRITE seen "$ENV{CFLAGS}|$ENV{NINJA_STATUS}")\n'
    )
    zig.configure(
        zig.Project(source=tmp_path, build=tmp_path / "build", cache=tmp_path / "cache"), {}
    )
    assert (tmp_path / "seen").read_text() == "|[%f/%t] "

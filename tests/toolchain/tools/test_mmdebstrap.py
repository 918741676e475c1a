"""mmdebstrap: its command line, and the namespaces that end with us."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from toolchain.tools import mmdebstrap

ORDER = mmdebstrap.Order(
    suite="trixie", packages=("python3", "udev"), hook='sh customise.sh "$1"', work=Path("work")
)


def test_suite_packages_and_sources_are_handed_on() -> None:
    argv = mmdebstrap.command_line(ORDER, ["deb http://mirror.example/ trixie main"])
    assert argv[-3:] == ["trixie", "/dev/null", "deb http://mirror.example/ trixie main"]
    assert {
        "--arch=arm64",
        "--include=python3,udev",
        '--customize-hook=sh customise.sh "$1"',
    } <= set(argv)


def test_without_a_mirror_mmdebstrap_takes_its_own() -> None:
    assert mmdebstrap.command_line(ORDER, [])[-2:] == ["trixie", "/dev/null"]


@pytest.mark.parametrize(("user", "mapped"), [(0, False), (1000, True)])
def test_a_user_is_root_in_a_namespace_of_its_own(
    monkeypatch: pytest.MonkeyPatch, user: int, mapped: bool
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert ("--map-root-user" in mmdebstrap.namespace()) is mapped
    assert "--pid" in mmdebstrap.namespace()


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "half" / "deep").mkdir(parents=True)
    mmdebstrap.remove(tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_all_that_runs_in_a_namespace_ends_when_we_do(tmp_path: Path) -> None:
    shell = [
        "sh",
        "-c",
        mmdebstrap.ENDS_WITH_US,
        "sh",
        "sh",
        "-c",
        f"echo $$ >{tmp_path}/pid; echo begun; exec sleep 1000",
    ]
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin and running.stdout
        assert running.stdout.readline() == b"begun\n"
        running.stdin.close()
        assert running.wait(timeout=60) == 143
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_apt_is_not_called_again_after_the_hook_has_cleared_up() -> None:
    """Else it finds no configuration of its own, takes this computer's, and empties its lists."""
    assert "--skip=check/qemu,cleanup" in mmdebstrap.command_line(ORDER, [])

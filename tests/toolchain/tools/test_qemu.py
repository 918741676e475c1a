"""QEMU's programs: found or named, new enough, and their words in our errors."""

from pathlib import Path

import pytest

from tests.fakes import qemu as fake
from toolchain.errors import ToolError
from toolchain.tools import qemu


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin"


def test_the_version_is_read(bin_folder: Path) -> None:
    assert qemu.verify() == fake.VERSION


def test_only_what_is_missing_is_to_be_installed(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bin_folder / "fdtput").unlink()
    monkeypatch.setenv("PATH", str(bin_folder))
    with pytest.raises(ToolError) as caught:
        qemu.verify()
    assert caught.value.message == "a virtual board needs `fdtput`"
    assert caught.value.hint.endswith("--no-install-recommends device-tree-compiler")


def test_a_qemu_without_a_cortex_a76_is_too_old(bin_folder: Path) -> None:
    fake.install(bin_folder, version="6.2.0")
    with pytest.raises(ToolError) as caught:
        qemu.verify()
    assert (
        caught.value.message == "qemu-system-aarch64: too old: QEMU emulator version 6.2.0 (a fake)"
    )


def test_what_a_program_says_when_it_fails_is_passed_on(bin_folder: Path, tmp_path: Path) -> None:
    (bin_folder / "qemu-img").write_text(
        "#!/bin/sh\necho 'warning' >&2\necho 'qemu-img: no space' >&2\nexit 1\n"
    )
    with pytest.raises(ToolError) as caught:
        qemu.make_empty(tmp_path / "disk", 1 << 20)
    assert caught.value.message == "qemu-img: no space"


def test_the_device_tree_is_qemus_own_with_another_model(bin_folder: Path, tmp_path: Path) -> None:
    (bin_folder / "fdtput").write_text(f'#!/bin/sh\nprintf "%s|" "$@" >{tmp_path}/asked\n')
    tree = tmp_path / "board.dtb"
    qemu.make_device_tree(
        tree, ["-M", "virt", "-cpu", "cortex-a72"], "Raspberry Pi 4 Model B Rev 1.4"
    )
    assert tree.read_text() == "tree"
    assert (
        tmp_path / "asked"
    ).read_text() == f"-t|s|{tree}|/|model|Raspberry Pi 4 Model B Rev 1.4|"

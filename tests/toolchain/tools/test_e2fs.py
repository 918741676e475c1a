"""ext4 images without a mount: made, repaired and read by the real programs, on a small file."""

import shutil
from pathlib import Path

import pytest

from toolchain.errors import ArtifactError, ToolError
from toolchain.tools import e2fs

pytestmark = pytest.mark.skipif(
    not shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin"),
    reason="e2fsprogs is not installed",
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    e2fs.make(tmp_path / "disk", 4 << 20)
    return tmp_path / "disk"


def test_what_is_made_is_in_order_and_empty(image: Path, tmp_path: Path) -> None:
    e2fs.mend(image)
    assert set(e2fs.listing(image, "/")) == {".", "..", "lost+found"}
    e2fs.extract(image, ["/lost+found", "/nothing"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lost+found"]


def test_a_damaged_file_system_is_mended(image: Path) -> None:
    content = bytearray(image.read_bytes())
    bitmap = next(at for at in range(8192, len(content), 1024) if content[at] == 0xFF)
    content[bitmap] = 0
    image.write_bytes(content)
    e2fs.mend(image)
    assert "lost+found" in e2fs.listing(image, "/")


def test_what_is_no_file_system_is_beyond_repair(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(bytes(1 << 20))
    with pytest.raises(ArtifactError, match=r"^noise: the file system is beyond repair: "):
        e2fs.mend(tmp_path / "noise")


def test_programs_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(e2fs, "_PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"^`mke2fs` is not installed$") as caught:
        e2fs.make(tmp_path / "disk", 1 << 20)
    assert caught.value.hint.endswith("e2fsprogs")

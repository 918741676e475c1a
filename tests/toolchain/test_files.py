"""Files that are whole or not there at all."""

from pathlib import Path

import pytest

from toolchain import files


def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    files.write_whole(file, "old\n")
    with pytest.raises(RuntimeError), files.whole_file(file) as part:
        part.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert file.read_text(encoding="utf-8") == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_linked_file_has_one_inode(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    files.link_or_copy(source, tmp_path / "target")
    assert (tmp_path / "target").stat().st_ino == source.stat().st_ino


def test_a_file_is_copied_where_it_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("no links here")

    source = tmp_path / "source"
    source.write_bytes(b"content")
    monkeypatch.setattr("os.link", refuse)
    files.link_or_copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content"
    assert (tmp_path / "target").stat().st_ino != source.stat().st_ino

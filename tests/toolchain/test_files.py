"""Files and folders that are whole or not there at all."""

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


def _folder(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(content, encoding="utf-8")
    return path


def test_a_folder_that_another_process_made_first_is_left(tmp_path: Path) -> None:
    kept = _folder(tmp_path / "kept", "first")
    files.keep_folder(_folder(tmp_path / "staged", "second"), kept)
    assert (kept / "file").read_text(encoding="utf-8") == "first"


def test_a_folder_comes_to_its_name_whole(tmp_path: Path) -> None:
    files.keep_folder(_folder(tmp_path / "staged", "only"), tmp_path / "kept")
    assert (tmp_path / "kept" / "file").read_text(encoding="utf-8") == "only"
    assert not (tmp_path / "staged").exists()


def test_a_folder_that_cannot_be_renamed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file", encoding="utf-8")
    with pytest.raises(NotADirectoryError):
        files.keep_folder(_folder(tmp_path / "staged", "only"), tmp_path / "kept")

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


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_that_somebody_put_into_a_shared_folder_is_not_followed(
    tmp_path: Path, dangling: bool
) -> None:
    own = tmp_path / "own"
    if not dangling:
        own.write_text("mine\n")
    (tmp_path / ".file.txt.part").symlink_to(own)
    files.write_whole(tmp_path / "file.txt", "new\n")
    assert (tmp_path / "file.txt").read_text() == "new\n"
    assert not (tmp_path / "file.txt").is_symlink()
    assert own.exists() != dangling
    assert dangling or own.read_text() == "mine\n"


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


def test_a_secret_is_its_owners_whole_and_made_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert files.kept_secret(file, lambda: b"first") == b"first"
    assert files.kept_secret(file, lambda: b"second") == b"first"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("call", ["os.fsync", "os.link", "tempfile.mkstemp", "pathlib.Path.unlink"])
def test_a_secret_whose_making_is_cut_off_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "key"
    with monkeypatch.context() as patch:
        patch.setattr(call, cut)
        with pytest.raises(KeyboardInterrupt):
            files.kept_secret(file, lambda: b"first")
    first = file.exists()
    assert files.kept_secret(file, lambda: b"second") == (b"first" if first else b"second")


def test_two_who_make_a_secret_at_once_have_one(tmp_path: Path) -> None:
    file = tmp_path / "key"

    def slow() -> bytes:
        file.write_bytes(b"other")
        return b"own"

    assert files.kept_secret(file, slow) == b"other"


def test_a_secret_is_kept_where_nothing_can_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    assert files.kept_secret(tmp_path / "key", lambda: b"own") == b"own"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]

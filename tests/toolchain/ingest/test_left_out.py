"""Nothing of the files that people bring is left out without a word, and nothing takes for ever."""

import os
from pathlib import Path

import pytest

from toolchain.errors import ArtifactError, ToolchainError
from toolchain.ingest import look
from toolchain.ingest.files import expanded, text
from toolchain.language import language_of
from toolchain.recipe import DataSpec

ROW = '{"question": "q%d", "answer": "a"}'


def errors(folder: Path, name: str, content: bytes) -> list[ToolchainError]:
    (folder / name).write_bytes(content)
    return look(DataSpec(files=(name,)), folder, seed=0).read.errors


@pytest.mark.parametrize(
    "behind", ["\n[" + ROW % 2 + "]", " nonsense", "]", "\n" + ROW % 3, "\n\n\n0"]
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_text_behind_a_list_is_refused_with_its_line(
    tmp_path: Path, behind: str, name: str
) -> None:
    (error,) = errors(tmp_path, name, f"[\n{ROW % 1}\n]{behind}".encode())
    line = 3 + behind.count("\n")
    assert error.message == f"{name}:{line}: not valid JSON: more text behind the end of the list"


def test_text_behind_an_empty_list_is_refused(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, "a.json", f"[\n]\n[{ROW % 1}]".encode())
    assert error.message.startswith("a.json:3: ")


def test_blank_lines_behind_a_list_are_nothing(tmp_path: Path) -> None:
    assert errors(tmp_path, "a.json", f"[\n{ROW % 1}\n]\n \t\r\n".encode()) == []


def test_the_first_line_of_excel_names_the_separator(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfsep=;\r\nquestion;answer\r\na, b, c;d\r\n"
    (tmp_path / "a.csv").write_bytes(content)
    (entry,) = look(DataSpec(files=("a.csv",)), tmp_path, seed=0).read.entries
    assert [each["content"] for each in entry.phrasings[0]] == ["a, b, c", "d"]
    assert entry.where == "a.csv:3"


def test_a_table_with_line_ends_of_old_macs_is_refused_with_what_helps(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, "a.csv", b"question,answer\ra,b\rc,d\r")
    assert error.message.startswith("a.csv:1: a carriage return ends no line")
    assert error.hint.startswith("tr ")


@pytest.mark.parametrize("name", ["a.md", "a.txt"])
def test_a_document_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MAX_DOCUMENT_CHARACTERS", 1 << 20)
    (error,) = errors(tmp_path, name, b"a line of text\n" * 100_000)
    assert error.message == f"{name}:69906: one document of more than 1 Mi characters"


def test_a_folder_with_a_link_to_a_folder_is_refused_by_its_name(tmp_path: Path) -> None:
    for name in ("data", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(ROW % 1)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "more")
    with pytest.raises(ArtifactError, match=r"data: `linked` is a link to a folder"):
        expanded(("data",), tmp_path)


def test_a_file_name_that_is_not_utf8_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/data/stra\xdfe.jsonl")).write_text(ROW % 1)
    with pytest.raises(ArtifactError, match=r"data: `stra.e.jsonl` is a name that is not UTF-8"):
        expanded(("data",), tmp_path)


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    # Tests may run as root, whom no mode of a folder keeps out.
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ArtifactError, match=r"data: cannot be read: permission denied"):
        expanded(("data",), tmp_path)


def test_the_language_of_a_long_text_without_spaces_is_told_at_once() -> None:
    # Two million characters took hours where each one was the begin of a search of its own.
    assert language_of("今天的天气很好" * 300_000) == "zh"


def test_links_paths_and_code_are_in_no_language() -> None:
    assert language_of("看https://firma.example/a/b/c " * 20) == ""
    assert language_of("`今天的天气很好今天的天气` " * 20) == ""

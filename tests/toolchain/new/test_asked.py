"""What a person asks for is checked word by word, and refused in one sentence."""

import os
from pathlib import Path

import pytest

from toolchain.errors import ConfigError
from toolchain.new.asked import (
    DOCUMENTS,
    board_of,
    documents_in,
    languages_of,
    recipe_file,
    this_computer,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("desk", "desk.toml"),
        ("desk.toml", "desk.toml"),
        ("my help desk", "my help desk.toml"),
        ("问答", "问答.toml"),
        ("v1.2", "v1.2.toml"),
        ("_x", "_x.toml"),
    ],
)
def test_a_name_becomes_a_file_in_the_current_folder(name: str, file: str) -> None:
    assert recipe_file(name) == Path(file)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".toml",
        ".hidden",
        "a/b",
        "/desk",
        "../desk",
        "a\\b",
        "C:desk",
        "-desk",
        "~desk",
        "desk?",
        "desk*",
        'de"sk',
        "desk|less",
        "desk ",
        "desk.",
        "a\nb",
        "a\tb",
        "a\0b",
        "a\x7fb",
        "a\u202eb",
        "a\u2028b",
        "a\udcffb",
        " ",
    ],
)
def test_what_is_no_name_of_a_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_file(name)
    assert caught.value.message.endswith("is no name for a file")
    assert "\n" not in caught.value.hint


@pytest.mark.parametrize("name", ["x" * 101, "问" * 34, "x" * 5000])
def test_a_name_that_is_too_long_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is too long for a name"):
        recipe_file(name)


def test_a_file_a_folder_and_a_dead_link_of_the_name_are_never_touched() -> None:
    Path("file.toml").write_text("mine")
    Path("folder.toml").mkdir()
    Path("link.toml").symlink_to("nowhere")
    for name in ("file", "folder", "link", "file.toml"):
        with pytest.raises(ConfigError, match="exists already"):
            recipe_file(name)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("", ("en",)),
        (" ", ("en",)),
        ("en", ("en",)),
        ("en,zh", ("en", "zh")),
        ("zh, en", ("zh", "en")),
        ("zh en", ("zh", "en")),
        ("ZH", ("zh",)),
        ("zh-CN", ("zh",)),
        ("zh_Hant_TW,zh", ("zh",)),
        ("Chinese,german", ("zh", "de")),
        ("en,,en,", ("en",)),
    ],
)
def test_languages_are_codes_tags_or_names(text: str, codes: tuple[str, ...]) -> None:
    assert languages_of(text) == codes


@pytest.mark.parametrize(
    ("text", "word", "hint"),
    [
        ("xx", "xx", "known: ar (Arabic), de (German), "),
        ("en,tlh", "tlh", "known: "),
        ("germn", "germn", "did you mean `german`?"),
        ("englsh", "englsh", "did you mean `english`?"),
        ("../en", "../en", "known: "),
    ],
)
def test_an_unknown_language_is_named(text: str, word: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        languages_of(text)
    expected = f"--language: no base in the table was made for `{word}`"
    assert caught.value.message == expected
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("board", "hint"),
    [
        ("rpi-4b-2g", "did you mean `rpi-4b-2gb`?"),
        ("jetson-nan", "did you mean `jetson-nano`?"),
        ("pi@kitchen", "known: jetson-agx-orin, "),
        ("../targets/rpi-4b-2gb", "did you mean `rpi-4b-2gb`?"),
    ],
)
def test_an_unknown_board_is_refused_with_the_closest_one(board: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        board_of(board)
    assert caught.value.message == f"unknown target `{board}`"
    assert caught.value.hint.startswith(hint)


def test_a_family_of_boards_is_the_smallest_of_them() -> None:
    assert board_of("rpi-4b").id == "rpi-4b-1gb"


def test_the_default_board_is_this_computer_or_a_usual_one() -> None:
    here = this_computer()
    assert board_of("") == (here or board_of("rpi-5-4gb"))
    assert here is None or here.machine == os.uname().machine


@pytest.mark.parametrize("name", ["a.md", "A.PDF", "deep/er/b.docx", "q.jsonl", "t.tsv", "z.htm"])
def test_a_folder_with_a_document_anywhere_in_it_is_taken(name: str) -> None:
    file = Path("docs") / name
    file.parent.mkdir(parents=True)
    file.write_text("text")
    assert documents_in("docs") == "docs"
    assert documents_in("docs/") == "docs"
    assert documents_in(str(file)) == file.as_posix()


@pytest.mark.parametrize("name", ["", "a.exe", "readme", ".hidden.md", ".git/a.md", "a.md.bak"])
def test_a_folder_without_a_document_is_refused(name: str) -> None:
    Path("docs").mkdir()
    if name:
        (Path("docs") / name).parent.mkdir(exist_ok=True)
        (Path("docs") / name).write_text("text")
    with pytest.raises(ConfigError) as caught:
        documents_in("docs")
    assert caught.value.message == "--docs: `docs`: no document in this folder"
    assert caught.value.hint.startswith("files that end in .csv, .docx, ")


def test_folders_that_lead_back_to_themselves_end() -> None:
    Path("docs/a").mkdir(parents=True)
    Path("docs/a/again").symlink_to("../../docs")
    with pytest.raises(ConfigError, match="no document in this folder"):
        documents_in("docs")


def test_a_missing_folder_is_refused_with_the_closest_one() -> None:
    Path("manuals").mkdir()
    with pytest.raises(ConfigError) as caught:
        documents_in("manual")
    assert caught.value.message == "--docs: `manual`: no such folder"
    assert caught.value.hint == "did you mean `manuals`?"
    with pytest.raises(ConfigError) as caught:
        documents_in("gone/for/ever")
    assert caught.value.hint.startswith("looked in ")


def test_what_is_neither_a_folder_nor_a_document_is_refused() -> None:
    os.mkfifo("pipe.md")
    with pytest.raises(ConfigError, match="neither a folder nor a plain file"):
        documents_in("pipe.md")
    Path("model.gguf").write_text("")
    with pytest.raises(ConfigError, match="files of this kind are not read"):
        documents_in("model.gguf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 5000, f"--docs: `{'x' * 59}…`: file name too long"),
        ("~nobody-here/docs", "`~nobody-here/docs`: no home folder of this name"),
        ("a\0b", r"`a\x00b`: a name that no recipe can hold"),
        ("a\udcffb", r"`a\udcffb`: a name that no recipe can hold"),
        ("loop", "--docs: `loop`: too many levels of symbolic links"),
        ("file/docs", "--docs: `file/docs`: not a directory"),
    ],
)
def test_what_can_be_no_path_is_said_in_one_line(text: str, message: str) -> None:
    Path("loop").symlink_to("loop")
    Path("file").write_text("")
    with pytest.raises(ConfigError) as caught:
        documents_in(text)
    assert caught.value.message == message


def test_a_folder_whose_name_no_recipe_can_hold_is_refused() -> None:
    Path("a\nb").mkdir()
    (Path("a\nb") / "x.md").write_text("text")
    with pytest.raises(ConfigError, match="a name that no recipe can hold"):
        documents_in("a\nb")


def test_a_folder_counts_the_documents_that_the_readers_read() -> None:
    documents = pytest.importorskip("toolchain.knowledge.documents")
    assert set(DOCUMENTS) == set(documents.READERS)

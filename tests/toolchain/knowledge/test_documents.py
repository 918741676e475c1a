"""A folder of documents → passages, and a sentence for each file that gives none."""

import builtins
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes.documents import mixed
from toolchain.errors import ConfigError, ToolError
from toolchain.knowledge.documents import Library, read_documents
from toolchain.knowledge.texts import read_texts
from toolchain.recipe import KnowledgeSpec

ROOT = Path(__file__).resolve().parents[3]


def write(near: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = near / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return near


def read(near: Path, files: Mapping[str, str | bytes], *patterns: str) -> Library:
    return read_documents(patterns or sorted(files), write(near, files))


def reason(near: Path, name: str, content: str | bytes) -> str:
    library = read(near, {name: content})
    assert library.passages == ()
    return library.files[name].reason


REASONS = {
    "bad/binary.txt": "line 1: holds a NUL byte: a text file holds none: is it another kind?",
    "bad/bomb.docx": "unpacks to 80 MiB (80 of text), at most 256 (64) are read",
    "bad/broken.pdf": "is a broken PDF: Stream has ended unexpectedly",
    "bad/cut.docx": "is a broken DOCX: not a ZIP file",
    "bad/cut.pdf": "is a broken PDF: Stream has ended unexpectedly",
    "bad/deep.json": "line 1: more than 100 brackets within one another",
    "bad/empty.md": "is empty",
    "bad/headings.md": "holds no text, or headings alone",
    "bad/locked.pdf": "is encrypted: save it without a password, for instance qpdf --decrypt",
    "bad/old.docx": "is encrypted, or a .doc under another name: save it anew as .docx",
    "bad/picture.png": "files that end in `.png` are not read: known: .csv, .docx, .htm, .html, "
    ".json, .jsonl, .markdown, .md, .ndjson, .pdf, .text, .tsv, .txt, .xhtml",
    "bad/scan.pdf": "has no text layer: run OCR first, for instance ocrmypdf",
    "bad/second.png": "files that end in `.png` are not read",
    "bad/slides.pptx": "files that end in `.pptx` are not read: save it as .pdf",
    "bad/utf16.txt": "line 1: text in UTF-16, not in UTF-8: save it as UTF-8: "
    "in an editor `Save as`, or `iconv -f UTF-16 -t UTF-8`",
}


@pytest.mark.slow
def test_thirty_mixed_files_give_passages_or_a_sentence_each(tmp_path: Path) -> None:
    library = read(tmp_path, mixed(), ".")
    assert sorted(library.files) == sorted(mixed())
    assert {name: each.reason for name, each in library.files.items() if each.reason} == REASONS
    assert library.files["bad/half.jsonl"].left_out == (
        "line 1: half a character (`\\ud83d` without its other half)",
    )
    for name, each in library.files.items():
        found = [passage for passage in library.passages if passage.source == name]
        assert each.passages == len(found), name
        assert each.characters == sum(len(passage.text) for passage in found)
        assert bool(each.passages + each.duplicates) != bool(each.reason), name


@pytest.mark.slow
def test_equal_files_give_equal_passages(tmp_path: Path) -> None:
    first = read(tmp_path / "a", mixed(), "good", "bad")
    again = read(tmp_path / "b", dict(reversed(mixed().items())), "bad", "good/*", "good")
    assert (first.passages, dict(first.files)) == (again.passages, dict(again.files))
    assert list(first.files) == sorted(first.files)


def test_the_help_desks_manual_gives_passages_that_stand_alone() -> None:
    library = read_documents(["manual", "faq.jsonl"], ROOT / "recipes" / "help-desk")
    assert {each.reason for each in library.files.values()} == {""}
    assert library.files["faq.jsonl"].passages == 415
    manual = [each for each in library.passages if each.source.startswith("manual/")]
    assert len(manual) > 100
    assert all(each.heading and len(each.text) > 100 for each in manual)


def test_a_repeated_passage_is_kept_once_with_the_questions_of_all(tmp_path: Path) -> None:
    rows = "question,answer\nHow far?,Ten  miles.\nWhat distance?,Ten miles.\n"
    library = read(tmp_path, {"a.csv": rows, "b.txt": "Ten\nmiles."})
    assert [(each.text, each.questions) for each in library.passages] == [
        ("Ten  miles.", ("How far?", "What distance?"))
    ]
    assert [(each.passages, each.duplicates) for each in library.files.values()] == [(1, 1), (0, 1)]


# Patterns -----------------------------------------------------------------------------------------

TREE = {
    "a.md": "One.",
    "docs/b.md": "Two.",
    "docs/deep/c.md": "Three.",
    "docs/deep/d.txt": "Four.",
    ".hidden.md": "Five.",
    "docs/.git/e.md": "Six.",
    "odd[1].md": "Seven.",
}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.md", ["a.md"]),
        ("./docs/../a.md", ["a.md"]),
        ("docs", ["docs/b.md", "docs/deep/c.md", "docs/deep/d.txt"]),
        ("docs/", ["docs/b.md", "docs/deep/c.md", "docs/deep/d.txt"]),
        ("*.md", ["a.md", "odd[1].md"]),
        ("**/*.md", ["a.md", "docs/b.md", "docs/deep/c.md", "odd[1].md"]),
        ("docs/**", ["docs/b.md", "docs/deep/c.md", "docs/deep/d.txt"]),
        ("docs/*/?.[mt]*", ["docs/deep/c.md", "docs/deep/d.txt"]),
        ("odd[1].md", ["odd[1].md"]),
        (".hidden.md", [".hidden.md"]),
    ],
)
def test_a_pattern_is_a_file_a_folder_or_a_glob(
    tmp_path: Path, pattern: str, names: list[str]
) -> None:
    assert list(read(tmp_path, TREE, pattern).files) == names


def test_a_folder_beside_the_recipe_may_be_named(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    (tmp_path / "recipe").mkdir()
    library = read_documents(["../docs/deep"], tmp_path / "recipe")
    assert list(library.files) == ["../docs/deep/c.md", "../docs/deep/d.txt"]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("dosc", "did you mean `docs`?"),
        ("docs/b.dm", "did you mean `docs/b.md`?"),
        ("docs/*.pdf", "did you mean `docs/b.md`?"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_closest(
    tmp_path: Path, pattern: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, TREE, pattern)
    assert (caught.value.message, caught.value.hint) == (
        f"files: `{pattern}` matches no file",
        hint,
    )


@pytest.mark.parametrize(
    "pattern", ["", "\0", "a\0b", "x" * 5000, "[", "**/" * 30 + "x", "/none/at/all"]
)
def test_a_pattern_that_no_file_can_have_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, TREE, pattern)


def test_all_patterns_that_match_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    with pytest.raises(ConfigError, match="folder `void` holds no file") as caught:
        read(tmp_path, TREE, "void", "a.md", "nowhere")
    assert [each.message for each in caught.value.others] == ["files: `nowhere` matches no file"]


def test_links_that_leave_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.md": "Secret."})
    near = write(tmp_path / "near", {"docs/a.md": "One."})
    (near / "docs" / "file.md").symlink_to(outside / "secret.md")
    (near / "docs" / "folder").symlink_to(outside)
    (near / "docs" / "loop").symlink_to(near / "docs")
    (near / "docs" / "same.md").symlink_to("a.md")
    (near / "docs" / "gone.md").symlink_to("nowhere")
    (near / "direct.md").symlink_to(outside / "secret.md")
    library = read_documents(["docs", "direct.md", "docs/folder"], near)
    assert [each.text for each in library.passages] == ["One."]
    out = "is a link out of the folder, which is not followed: copy it here, or name its own path"
    assert {name: each.reason for name, each in library.files.items()} == {
        "direct.md": out,
        "docs/a.md": "",
        "docs/file.md": out,
        "docs/folder": out,
        "docs/gone.md": "is a link that leads nowhere",
        "docs/same.md": "",
    }


# Files that cannot be read ------------------------------------------------------------------------


def test_a_pipe_and_a_socket_are_named_and_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    os.mkfifo(tmp_path / "pipe.pdf")
    os.mkfifo(tmp_path / "pipe.docx")
    library = read_documents(["."], tmp_path)
    assert [each.reason for each in library.files.values()] == ["is not a plain file"] * 3


def test_a_device_is_named(tmp_path: Path) -> None:
    if not os.access("/dev/zero", os.R_OK):
        pytest.skip("no /dev/zero")
    library = read_documents(["/dev/zero"], tmp_path)
    assert [each.passages for each in library.files.values()] == [0]


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    """A child without root's rights reads it, as root may read everything."""
    write(tmp_path, {"a.md": "One.", "b.pdf": "Two.", "c.docx": "Three."})
    for file in tmp_path.iterdir():
        file.chmod(0)
    tmp_path.chmod(0o755)
    code = f"""
import os, sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from toolchain.knowledge import documents
import docx, pypdf
os.chdir({str(tmp_path)!r})
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
for each in documents.read_documents(["."], Path(".")).files.values():
    print(each.reason)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.stdout.splitlines() == ["cannot be read: permission denied"] * 3, said.stderr


def test_a_name_in_another_encoding_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("One.")
    library = read_documents(["."], tmp_path)
    assert {name: each.reason for name, each in library.files.items()} == {
        "caf�.md": "has a name that is not UTF-8: rename it"
    }


@pytest.mark.parametrize(
    ("name", "mib"), [("a.txt", 64), ("a.md", 8), ("a.html", 8), ("a.csv", 64)]
)
def test_a_file_that_is_too_large_is_named_before_it_is_read(
    tmp_path: Path, name: str, mib: int
) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate((mib << 20) + 1)
    library = read_documents([name], tmp_path)
    assert library.files[name].reason == (
        f"has {mib} MiB, at most {mib} of this kind are read: cut it into several files"
    )


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xed\xa0\x80", b"\xff\xfe\xfd"])
def test_text_in_another_encoding_is_named_with_its_line(tmp_path: Path, content: bytes) -> None:
    for name in ("a.md", "a.txt", "a.html", "a.csv", "a.json", "a.jsonl"):
        assert reason(tmp_path, name, b"one\n" + content).startswith(
            ("line 2: not valid UTF-8", "line 1")
        )


def test_all_that_became_of_each_file_is_said_at_once(tmp_path: Path) -> None:
    rows = "question,answer\nHow far?,Ten miles.\n" + "what?,\n" * 5
    files = {"a.csv": rows, "b.txt": "Ten miles.", "c.md": "", "d.md": "One."}
    write(tmp_path, files)
    texts = read_texts(
        KnowledgeSpec.model_validate({"files": sorted(files), "embedder": "x"}), tmp_path
    )
    missing = "; ".join(f"line {line}: an empty answer" for line in (3, 4, 5))
    assert texts.results() == {
        "a.csv": f"1 passages; not read: {missing}; 2 more parts",
        "b.txt": "0 passages; 1 that stand elsewhere word for word",
        "c.md": "is empty",
        "d.md": "1 passages",
    }
    assert dict(texts.unread()) == {
        "a.csv": f"not read: {missing}; 2 more parts",
        "c.md": "is empty",
    }


def test_a_passage_without_a_word_is_none_unless_it_answers(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.md": "# Faces\n\n😀 😃 🚤\n\n## Next\n\nWords.",
            "b.txt": "* * *\n\n--- … ---",
            "c.jsonl": '{"question": "Which sign ends a line?", "answer": "¶"}',
        },
    )
    library = read_documents(["."], tmp_path)
    assert [each.text for each in library.passages] == ["Words.", "¶"]
    assert library.files["b.txt"].reason == "holds no text, or headings alone"


@pytest.mark.parametrize(
    ("name", "library", "package"),
    [
        ("a.pdf", "pypdf", "pypdf"),
        ("a.docx", "docx", "python-docx"),
        ("a.html", "selectolax", "selectolax"),
    ],
)
def test_a_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, package: str
) -> None:
    whole = builtins.__import__

    def without(module: str, *rest: object) -> object:
        if module.split(".")[0] == library:
            raise ImportError(module)
        return whole(module, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ToolError, match=f"^{package} is not installed$") as caught:
        read(tmp_path, {name: "text"})
    assert caught.value.hint == "pip install 'demitasse[documents]'"

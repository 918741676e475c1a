"""Files that people bring: each kind is read row by row, and what is wrong is named by its line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError, ToolError
from toolchain.ingest import ingest, look, preview
from toolchain.ingest.files import json_file
from toolchain.progress import Silent
from toolchain.recipe import DataSpec

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(3)]
QUESTIONS = ["q0", "q1", "q2"]


def made(folder: Path, *names: str, **spec: Any) -> Dataset:
    given = DataSpec(files=names, held_out_share=0, **spec)
    return ingest(given, folder, folder / "out", Silent(), seed=0)


def questions(dataset: Dataset) -> list[str]:
    return [row["messages"][0]["content"] for row in dataset.train()]


def refused(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        made(folder, name)
    return error.value.message


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
SHAPES: dict[str, tuple[str, str, str]] = {
    "lines": ("a.jsonl", LINES, "JSON lines"),
    "lines of another name": ("a.ndjson", LINES, "JSON lines"),
    "a list on one line": ("a.json", json.dumps(ROWS), "JSON"),
    "a list on many lines": ("a.json", json.dumps(ROWS, indent=2), "JSON"),
    "a list called jsonl": ("a.jsonl", json.dumps(ROWS), "JSON lines"),
    "lines called json": ("a.json", LINES, "JSON"),
    "a list in an object": ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1), "JSON"),
    "commas": ("a.csv", "question,answer\nq0,a0\nq1,a1\nq2,a2\n", "CSV"),
    "semicolons": ("a.csv", "question;answer\r\nq0;a0\r\nq1;a1\r\nq2;a2\r\n", "CSV"),
    "tabs": ("a.tsv", "question\tanswer\nq0\ta0\nq1\ta1\nq2\ta2\n", "TSV"),
    "a byte order mark": ("a.csv", "\ufeffquestion,answer\nq0,a0\nq1,a1\nq2,a2\n", "CSV"),
    "quotes": ("a.csv", 'question,answer\n"q0","a0"\n\n"q1","a,1"\nq2,"a ""2"""\n', "CSV"),
    "empty columns": ("a.csv", "question,answer,,\nq0,a0,,\nq1,a1\nq2,a2,,\n", "CSV"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_is_read_by_its_shape(tmp_path: Path, shape: str) -> None:
    name, text, kind = SHAPES[shape]
    if shape == "empty columns":
        text = text.replace("q1,a1\n", "q1,a1,,\n")
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    dataset = made(tmp_path, name)
    assert questions(dataset) == QUESTIONS
    assert dataset.figures.forms == {name: f"{kind}, questions and answers"}


@pytest.mark.parametrize("shape", ["lines", "a list on one line", "commas", "tabs"])
def test_a_packed_file_is_read_as_it_is(tmp_path: Path, shape: str) -> None:
    name, text, _ = SHAPES[shape]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert questions(made(tmp_path, f"{name}.gz")) == QUESTIONS


def test_one_object_is_one_entry(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=1))
    assert questions(made(tmp_path, "a.json")) == ["q0"]


def test_one_sharegpt_object_is_one_entry_and_no_list_of_entries(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "a.json").write_text(json.dumps({"conversations": turns}, indent=1))
    assert questions(made(tmp_path, "a.json")) == ["q"]


def test_an_element_may_be_longer_than_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_file, "_CHUNK", 7)
    rows = [*ROWS, {"question": "é" * 50 + '[{"\\', "answer": "]}"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    assert questions(made(tmp_path, "a.json"))[3] == rows[3]["question"]


def test_an_empty_list_has_no_entry(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" [ ]\n")
    assert made(tmp_path, "a.json").figures.entries == 0


def test_a_table_of_messages_holds_json(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    cell = json.dumps(messages).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'id,messages\n1,"{cell}"\n')
    assert questions(made(tmp_path, "a.csv")) == ["q"]


def test_a_cell_keeps_its_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"a\n\nb",c\nd\n')
    with pytest.raises(ArtifactError) as error:
        made(tmp_path, "a.csv")
    assert error.value.message == "a.csv:5: 1 cells, the header has 2"
    (tmp_path / "a.csv").write_text('question,answer\n"a\n\nb",c\n')
    assert questions(made(tmp_path, "a.csv")) == ["a\n\nb"]


BAD: list[tuple[str, bytes, str]] = [
    ("a.json", b'[{"question": "q", "answer": "a"}, {]', "a.json:1: not valid JSON"),
    (
        "a.json",
        b'[\n{"question": "q", "answer": "a"}\n{"x": 1}]',
        "a.json:3: not valid JSON: `]` is missing",
    ),
    ("a.json", b'[{"question": "q", "answer": "a"}', "a.json:1: not valid JSON: `]` is missing"),
    ("a.json", b'[\n{"question": "q",\n "answer": NaN}]', "a.json:2: `NaN` is not valid JSON"),
    (
        "a.json",
        b'[\n{"question": "q"},\n{"question": "p", "answer": "a"}]',
        "a.json:2: missing key `answer`",
    ),
    ("a.json", b"[1, 2]", "a.json:1: not a JSON object"),
    ("a.json", b"[\n" + b"[" * 100_000, "a.json:2: more than 100 brackets within one another"),
    ("a.json", b'{"a": [{"b": 1}], "c": [{"d": 1}]}', "a.json: 2 lists of entries: `a`, `c`"),
    (
        "a.json",
        b'{"a": [{"b": 1}],\n "c": [{"d": 1}]}',
        "a.json: 2 lists of entries: `a`, `c`",
    ),
    ("a.json", b'[{"question": "\xff"}]', "a.json:1: not valid UTF-8 behind this line"),
    ("a.csv", b"question,answer\nq,a,b\n", "a.csv:2: 3 cells, the header has 2"),
    ("a.csv", b'question,answer\n"q,a\n', "a.csv:2: not a row of a table: unexpected end of data"),
    ("a.csv", b"question,question\nq,a\n", "a.csv:1: two columns are called `question`"),
    ("a.csv", b"frage,antwort\nq,a\n", "a.csv:2: missing key `question`"),
    (
        "a.csv",
        "question,answer\n你,好\n".encode("gbk"),
        "a.csv:2: not valid UTF-8 at byte 1 of the line",
    ),
    ("a.csv", b"question,answer\nq,a\0b\n", "a.csv:2: holds a NUL byte"),
    ("a.jsonl.gz", b"not packed", "a.jsonl.gz: not packed, though its name ends with .gz"),
    (
        "a.jsonl.gz",
        gzip.compress(LINES.encode() * 50, mtime=0)[:-12],
        "a.jsonl.gz: cut off or damaged: compressed file ended before the end-of-stream marker "
        "was reached",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_file_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    assert refused(tmp_path, name, content) == message


def test_text_of_a_chinese_windows_is_told_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("问题,答案\n你,好\n".encode("gbk"))
    with pytest.raises(ArtifactError) as error:
        made(tmp_path, "a.csv")
    assert "iconv -f GB18030 -t UTF-8" in error.value.hint


# Parquet ------------------------------------------------------------------------------------------


def parquet_file(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_parquet_is_read_row_by_row(tmp_path: Path) -> None:
    parquet_file(tmp_path / "a.parquet", ROWS)
    dataset = made(tmp_path, "a.parquet")
    assert questions(dataset) == QUESTIONS
    assert dataset.figures.forms == {"a.parquet": "Parquet, questions and answers"}


def test_messages_in_parquet_are_read(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    parquet_file(tmp_path / "a.parquet", [{"messages": messages, "id": None}])
    assert questions(made(tmp_path, "a.parquet")) == ["q"]


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path: Path) -> None:
    parquet_file(tmp_path / "a.parquet", [*ROWS, {"question": "q", "answer": None}])
    with pytest.raises(ArtifactError) as error:
        made(tmp_path, "a.parquet")
    assert error.value.message == "a.parquet: row 4: missing key `answer`"


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    message = refused(tmp_path, "a.parquet", b"PAR1 and no more")
    assert message.startswith("a.parquet: cannot be read as Parquet: ")


def test_without_pyarrow_parquet_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ToolError) as error:
        made(tmp_path, "a.parquet")
    assert error.value.message == "a.parquet: Parquet needs pyarrow, which is not installed"
    assert "data" in error.value.hint or "pyarrow" in error.value.hint


# Folders and mixed files --------------------------------------------------------------------------


def test_a_folder_is_read_file_by_file(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "b.md").write_text("# Second")
    (docs / "deep" / "a.markdown").write_text("# Third")
    (docs / "a.txt").write_text("first")
    (docs / "picture.png").write_bytes(b"\x89PNG")
    (docs / ".hidden.md").write_text("hidden")
    dataset = made(tmp_path, "docs")
    assert dataset.texts() == ["first", "# Second", "# Third"]
    assert set(dataset.record.inputs) == {"docs/a.txt", "docs/b.md", "docs/deep/a.markdown"}


def test_another_file_in_a_folder_makes_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("one")
    first = made(tmp_path, "docs")
    assert not made(tmp_path, "docs").fresh
    (tmp_path / "docs" / "b.md").write_text("two")
    assert made(tmp_path, "docs").digest != first.digest


def test_a_file_of_two_forms_names_the_line_where_the_other_begins(tmp_path: Path) -> None:
    rows = [*ROWS, {"instruction": "q", "output": "a"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec(files=("a.jsonl",), held_out_share=0)
    shown = list(preview(look(spec, tmp_path, seed=0), spec))
    assert shown[0] == "a.jsonl: JSON lines, questions and answers and Alpaca, 4 rows"
    assert shown[-1] == "a.jsonl:4: from here on also rows of another form: Alpaca"


def test_a_dry_run_shows_the_first_three_rows_as_understood(tmp_path: Path) -> None:
    rows = [{"question": ["q", "w"], "answer": "a"}, *ROWS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec(files=("a.jsonl",), held_out_share=0)
    assert list(preview(look(spec, tmp_path, seed=0), spec)) == [
        "a.jsonl: JSON lines, questions and answers, 4 rows",
        "  a.jsonl:1 question: q (and 1 more phrasing)",
        "            answer: a",
        "  a.jsonl:2 question: q0",
        "            answer: a0",
        "  a.jsonl:3 question: q1",
        "            answer: a1",
    ]


def test_a_dry_run_shows_what_would_be_changed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "<p>Write to x@qq.com</p>"}')
    spec = DataSpec(files=("a.jsonl",), held_out_share=0)
    shown = list(preview(look(spec, tmp_path, seed=0), spec))
    assert "    - <p>Write to x@qq.com</p>" in shown
    assert "    + Write to x@qq.com" in shown
    assert any(line.startswith("    + <p>Write to [email-") for line in shown)
    assert not (tmp_path / "out").exists()


def test_entries_are_read_again_from_the_disk_in_any_order(
    tmp_path: Path,
) -> None:
    rows = [{"question": f"question {n}", "answer": "a"} for n in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec.model_validate(
        {"files": ("a.jsonl",), "held_out_share": 0.5, "clean": {"near_duplicates": 0}}
    )
    parts = look(spec, tmp_path, seed=0)
    for side in (parts.train, parts.held_out):
        conversations = parts.conversations(side)
        whole = list(conversations)
        assert [conversations[at] for at in (-1, 0, 77)] == [whole[-1], whole[0], whole[77]]
    assert len(parts.train) + len(parts.held_out) == 300

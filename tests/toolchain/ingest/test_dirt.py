"""A folder as people bring it, read as a new user would: every form, every kind of dirt."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.datasets import Recorder
from toolchain.errors import ArtifactError
from toolchain.ingest import ingest, look
from toolchain.ingest.forms.ours import HARVEST_HINT
from toolchain.ingest.told import preview, told
from toolchain.recipe import DataSpec, RedactSpec

TABLE = "Frage\tAntwort\r\nWie lange habe ich Garantie?\tZwei Jahre ab Kauf; mit „Beleg“.\r\n"
MAP = {"question": "Frage", "answer": "Antwort"}


def read(folder: Path, name: str, content: bytes, **fields: Any) -> list[list[dict[str, Any]]]:
    """Return the conversations that a file of one kind gives."""
    (folder / name).write_bytes(content)
    spec = DataSpec.model_validate({"files": (name,), "held_out_share": 0, **fields})
    made = ingest(spec, folder, folder / "out", Recorder(), seed=0)
    return [row["messages"] for row in made.train()]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_excel_is_read_in_the_encoding_that_its_mark_names(
    encoding: str, packed: bool, tmp_path: Path
) -> None:
    content = TABLE.encode(encoding)
    if encoding == "utf-16-be":
        content = b"\xfe\xff" + content
    name = "a.csv.gz" if packed else "a.csv"
    (messages,) = read(tmp_path, name, gzip.compress(content) if packed else content, map=MAP)
    assert [each["content"] for each in messages] == [
        "Wie lange habe ich Garantie?",
        "Zwei Jahre ab Kauf; mit „Beleg“.",
    ]


def test_json_lines_in_utf_16_are_read_as_a_whole(tmp_path: Path) -> None:
    rows = [{"question": f"question {n} 问", "answer": "答"} for n in range(4000)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert len(read(tmp_path, "a.jsonl", text.encode("utf-16"))) == 4000


@pytest.mark.parametrize(
    ("content", "problem", "hint"),
    [
        ("Größe".encode("utf-16")[:-1], "a.txt: not valid UTF-16", "UTF-8"),
        (TABLE.encode("cp1252"), "a.txt:2: not valid UTF-8 at byte ", "WINDOWS-1252"),
        ("问题".encode("gb18030"), "a.txt:1: not valid UTF-8 at byte 1", "GB18030"),
    ],
)
def test_what_no_mark_names_is_not_guessed(
    content: bytes, problem: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "a.txt", content)
    assert refused.value.message.startswith(problem)
    assert hint in (refused.value.hint or "")


def test_a_harvest_is_no_data_and_no_mapping_is_proposed_for_it(tmp_path: Path) -> None:
    row = json.dumps({"question": "a?", "said": "b", "rating": 1}).encode()
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "harvest.jsonl", row)
    assert refused.value.hint == HARVEST_HINT
    assert "--map" not in HARVEST_HINT


def test_a_look_says_the_encoding_and_whether_anything_is_changed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes((TABLE + "Wer?\tRuf 13812345678.\r\n").encode("utf-16"))
    texts = {}
    for mode in ("report", "replace"):
        spec = DataSpec(files=("a.csv",), map=MAP, redact=RedactSpec(mode=mode))
        texts[mode] = "\n".join(preview(look(spec, tmp_path, seed=0), spec))
    assert "a.csv: CSV in UTF-16, questions and answers, by `map`, 2 rows" in texts["report"]
    assert "redaction would change: as the recipe stands, they only report:" in texts["report"]
    assert "redaction change, or would change:" in texts["replace"]


def test_what_nobody_can_mend_is_not_learned_and_every_drop_has_its_reason(tmp_path: Path) -> None:
    rows = [
        {"question": "怎么开机?", "answer": "鎸夊紑鍏�"},
        {"question": "same", "answer": "a"},
        {"question": "same", "answer": "a"},
        {"question": "no answer", "answer": ""},
        {"question": "good", "answer": "yes"},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    kept = {
        mode: [each[0]["content"] for each in read(tmp_path, "a.jsonl", text, clean={"mode": mode})]
        for mode in ("report", "mend")
    }
    assert kept == {"report": ["怎么开机?", "same", "good"], "mend": ["same", "good"]}
    spec = DataSpec.model_validate({"files": ("a.jsonl",), "clean": {"mode": "mend"}})
    said = list(preview(look(spec, tmp_path, seed=0), spec))
    assert (
        "dropped: 1 lost bytes, 1 empty question or answer, 1 duplicate question; "
        "the first at a.jsonl:1 (lost bytes)"
    ) in said


def test_pages_of_a_folder_go_through_the_rules(tmp_path: Path) -> None:
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "a.md").write_text("# Help\n\nRuf 13812345678 an.\n")
    spec = DataSpec(files=("manual",), redact=RedactSpec(mode="replace"))
    made = ingest(spec, tmp_path, tmp_path / "out", Recorder(), seed=0)
    text = (made.path / "texts.jsonl").read_text()
    assert "13812345678" not in text
    assert "[phone-" in text


UNREAD = [
    ("a.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture (PNG), whatever its name says", ""),
    ("a.jsonl", b"%PDF-1.7\n%\xe2\xe3\n", "a PDF document, whatever its name says", ""),
    ("a.csv", b"PK\x03\x04" + bytes(40), "a ZIP archive, as .xlsx and .docx are", ""),
    ("a.txt", gzip.compress(b"a", mtime=0), "packed with gzip, whatever its name says", ""),
    ("a.jsonl.gz", b'{"question": "q"}', "not packed, though its name ends with .gz", "rename it"),
    ("a.jsonl", b'{\n "question": "q",\n "answer": "a"\n}', "not valid JSON", "jq -c . OLD"),
    ("a.jsonl", b'{"question": "q", "answer": "a"},\n', "not valid JSON", "without a comma"),
    ("a.jsonl", b"{'question': 'q', 'answer': 'a'}\n", "not valid JSON", "double quotes"),
    (
        "a.csv",
        b"How do I start?,Press it.\nHow do I stop?,Press it again.\n",
        "missing key `question`",
        "the first line of a table names its columns",
    ),
]


@pytest.mark.parametrize(("name", "content", "problem", "hint"), UNREAD)
def test_what_is_no_data_is_named_and_the_hint_says_what_to_do(
    name: str, content: bytes, problem: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, name, content)
    assert problem in refused.value.message
    assert hint in (refused.value.hint or "")


def test_a_list_in_an_object_is_read_on_one_line_as_on_many(tmp_path: Path) -> None:
    value = {"version": 1, "data": [{"question": "q", "answer": "a"}]}
    for indent in (None, 1):
        content = json.dumps(value, indent=indent).encode()
        ((asked, _),) = read(tmp_path, "a.json", content)
        assert asked["content"] == "q"
    ((asked, _),) = read(tmp_path, "a.json", b'{"question": "one", "answer": "row"}\n')
    assert asked["content"] == "one"


def test_tags_in_an_answer_stay_where_the_question_is_about_html(tmp_path: Path) -> None:
    rows = [
        {"question": "How do I make text bold in HTML?", "answer": "Use <b>text</b>."},
        {"question": "Where is it?", "answer": "In the <b>menu</b>."},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    made = read(tmp_path, "a.jsonl", content, clean={"mode": "mend"})
    assert [each[-1]["content"] for each in made] == ["Use <b>text</b>.", "In the menu."]


def test_names_of_columns_are_for_rows_that_have_them(tmp_path: Path) -> None:
    rows = [
        {"frage": "a", "antwort": "1"},
        {"Frage": "b", "Antwort": "2"},
        {"question": "c", "answer": "3"},
        {"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "4"}]},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    names = {"question": "frage", "answer": "antwort"}
    made = read(tmp_path, "a.jsonl", content, map=names)
    assert [each[-1]["content"] for each in made] == ["1", "2", "3", "4"]
    with pytest.raises(ArtifactError, match="missing key `antwort`, which `map` names"):
        read(tmp_path, "b.jsonl", b'{"frage": "a", "question": "b", "answer": "c"}', map=names)


def test_an_empty_file_among_others_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "b.jsonl").write_bytes(b"")
    spec = DataSpec(files=("a.jsonl", "b.jsonl"), held_out_share=0)
    assert list(told(look(spec, tmp_path, seed=0), spec)) == ["b.jsonl: holds no row"]


def test_files_of_a_folder_that_are_not_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "a.md").write_text("# Heat\n\nIt is hot.")
    (tmp_path / "manual" / "b.docx").write_bytes(b"PK")
    (tmp_path / "manual" / ".hidden.docx").write_bytes(b"PK")
    spec = DataSpec(files=("manual",))
    parts = look(spec, tmp_path, seed=0)
    line = "not read, as they are of another kind: manual/b.docx"
    assert line in list(preview(parts, spec))
    assert line in list(told(parts, spec))


LAMP = {"name": "lamp", "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}}}
CALL = '{"name": "lamp", "arguments": {"on": true}}'


def _with_call(call: Any, tools: Any) -> bytes:
    turns = (("human", "Lamp on"), ("function_call", call), ("observation", "ok"), ("gpt", "Done."))
    row = {"conversations": [{"from": who, "value": text} for who, text in turns], "tools": tools}
    return json.dumps(row).encode()


@pytest.mark.parametrize("tools", [json.dumps([LAMP]), [LAMP], [{"function": LAMP}]])
@pytest.mark.parametrize("call", [CALL, f"[{CALL}]"])
def test_turns_of_tools_in_sharegpt_are_learned_where_the_row_has_tools(
    call: str, tools: Any, tmp_path: Path
) -> None:
    (messages,) = read(tmp_path, "a.jsonl", _with_call(call, tools))
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "lamp", "arguments": {"on": True}}
    assert messages[2]["content"] == "ok"


def test_turns_of_tools_in_sharegpt_are_learned_with_the_tools_of_the_recipe(
    tmp_path: Path,
) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([{"type": "function", "function": LAMP}]))
    row = json.loads(_with_call(CALL, None))
    del row["tools"]
    (messages,) = read(tmp_path, "a.jsonl", json.dumps(row).encode(), tools="tools.json")
    assert messages[1]["tool_calls"][0]["function"]["name"] == "lamp"


@pytest.mark.parametrize(
    ("call", "tools", "problem"),
    [
        (CALL, None, "a message of a tool is not text of the conversation"),
        (CALL, "", "a message of a tool is not text of the conversation"),
        ("lamp(on)", [LAMP], "`function_call` must be JSON: not valid JSON"),
        ("5", [LAMP], "a call has no `function.name`"),
        (None, [LAMP], "a call has no `function.name`"),
        ('{"name": "fan"}', [LAMP], "a call of `fan`, which is no tool of it"),
        (CALL.replace("true", "5"), [LAMP], "a call of `lamp` does not fit its schema"),
        (CALL, "{", "`tools` must be JSON: not valid JSON"),
        (CALL, [5], "`tools[0]` is not a function"),
    ],
)
def test_calls_in_sharegpt_that_are_none_are_refused(
    call: Any, tools: Any, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "a.jsonl", _with_call(call, tools))
    assert refused.value.message.startswith(f"a.jsonl:1: {problem}")

"""What is valid JSON and chokes Python, or is none at all, is one sentence with file and line: in
data files and configurations.
"""

import json
from pathlib import Path

import pytest

from toolchain.artifacts import read_jsonl
from toolchain.errors import ArtifactError
from toolchain.ingest import ingest
from toolchain.progress import Silent
from toolchain.recipe import DataSpec
from toolchain.texts import json_in

GOOD = b'{"question": "is it on?", "answer": "yes"}\n'
DEEP = b"[" * 100_000 + b"]" * 100_000

LINES = [
    (
        rb'{"question": "what is \ud83d?", "answer": "a"}',
        r"half a character (`\ud83d` without its other half)",
    ),
    (
        rb'{"question": "a", "answer": "\udc00"}',
        r"half a character (`\udc00` without its other half)",
    ),
    (
        rb'{"question": "a", "answer": "b", "\udc00": 1}',
        r"half a character (`\udc00` without its other half)",
    ),
    (
        rb'{"question": "\udc00\ud83d", "answer": "b"}',
        r"half a character (`\udc00` without its other half)",
    ),
    (b'{"question": "a", "answer": "\xed\xa0\xbd"}', "not valid UTF-8 at byte 30 of the line"),
    (
        b'{"question": "a", "answer": "b", "n": ' + b"9" * 5000 + b"}",
        "a number of 5,000 digits, at most 300 are read",
    ),
    (
        b'{"question": "a", "answer": "b", "n": -' + b"1" * 301 + b"}",
        "a number of 301 digits, at most 300 are read",
    ),
    (b'{"question": ' + DEEP + b', "answer": "b"}', "more than 100 brackets within one another"),
    (
        b'{"question": "a", "answer": "b", "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        "more than 100 brackets within one another",
    ),
    (b'{"question": "a", "answer": "b", "score": NaN}', "`NaN` is not valid JSON"),
    (b'{"question": "a", "answer": "b", "score": -Infinity}', "`-Infinity` is not valid JSON"),
    (rb'{"question": "a\u0000b", "answer": "b"}', r"holds a NUL character (`\u0000`)"),
    (b'{"question": "a\x00b", "answer": "b"}', "holds a NUL byte"),
    (b'{"question": "a", "answer": "b", "answer": "c"}', "key `answer` stands twice in one object"),
    (
        b'{"question": true, "answer": "b"}',
        "`question` must be text or a list of phrasings, `answer` must be text",
    ),
    (
        b'{"question": "a", "answer": null}',
        "`question` must be text or a list of phrasings, `answer` must be text",
    ),
    (
        b'{"question": {"a": 1}, "answer": "b"}',
        "`question` must be text or a list of phrasings, `answer` must be text",
    ),
    (
        b'{"question": ["a", ["b"]], "answer": "b"}',
        "`question` must be text or a list of phrasings, `answer` must be text",
    ),
    (b'{"messages": {"role": "user", "content": "a"}}', "`messages` must be a list of messages"),
    (b'{"messages": []}', "`messages` must be a list of messages"),
    (
        b'{"messages": [{"role": ["user"], "content": "a"}]}',
        'a message must be {"role", "content"} with text',
    ),
    (
        b'{"messages": [{"role": "user", "content": null}]}',
        'a message must be {"role", "content"} with text',
    ),
    (b'"text"', "not a JSON object"),
    (b"null", "not a JSON object"),
    (b"{'question': 'a'}", "not valid JSON"),
    (b'{"question": "a", "answer": "b"},', "not valid JSON"),
]


KNOWN = (
    "known: .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .md, .markdown, .txt, .text, "
    "each but Parquet as .gz too"
)


def ingested(folder: Path, name: str) -> ArtifactError:
    """Return what `ingest` says of a file."""
    with pytest.raises(ArtifactError) as refused:
        ingest(DataSpec(files=(name,)), folder, folder / "out", Silent(), seed=0)
    assert not (folder / "out" / "record.json").exists()
    return refused.value


@pytest.mark.parametrize(("line", "problem"), LINES, ids=range(len(LINES)))
def test_a_line_that_chokes_a_reader_is_named_by_file_and_number(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(GOOD + line + b"\n")
    assert ingested(tmp_path, "bad.jsonl").message == f"bad.jsonl:2: {problem}"


def test_every_bad_line_of_every_file_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{\n" + GOOD + b"[1]\n")
    (tmp_path / "b.jsonl").write_bytes(GOOD + b"{\n" * 40)
    with pytest.raises(ArtifactError) as refused:
        spec = DataSpec(files=("a.jsonl", "gone.jsonl", "b.jsonl"))
        ingest(
            spec.model_copy(update={"files": ("a.jsonl", "b.jsonl")}),
            tmp_path,
            tmp_path / "out",
            Silent(),
            seed=0,
        )
    messages = [each.message for each in (refused.value, *refused.value.others)]
    assert messages[:3] == [
        "a.jsonl:1: not valid JSON",
        "a.jsonl:3: not a JSON object",
        "b.jsonl:2: not valid JSON",
    ]
    assert messages[-1] == "data: 22 more lines are wrong"


def test_a_file_in_another_encoding_is_named_with_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "wide.jsonl").write_bytes(GOOD.decode().encode("utf-32"))
    refused = ingested(tmp_path, "wide.jsonl")
    assert refused.message == "wide.jsonl:1: text in UTF-32, not in UTF-8"
    assert "iconv" in refused.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.jsonl.zst", "unpack it first: unzstd a.jsonl.zst"),
        ("a.xlsx", "save it as CSV in UTF-8"),
        ("noending", KNOWN),
        ("a.gz", KNOWN),
        ("a.parquet.gz", KNOWN),
    ],
)
def test_a_file_of_another_kind_says_how_to_make_one_that_is_read(
    tmp_path: Path, name: str, hint: str
) -> None:
    (tmp_path / name).write_bytes(GOOD)
    refused = ingested(tmp_path, name)
    assert (refused.message, refused.hint) == (f"{name}: files of this kind are not read", hint)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("sub", "a folder, not a file"),
        ("*.jsonl", "no such file"),
        ("pipe.jsonl", "not a plain file"),
        ("n" * 300 + ".jsonl", "cannot be read: File name too long"),
    ],
)
def test_what_is_no_file_is_one_sentence(tmp_path: Path, name: str, problem: str) -> None:
    import os

    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert ingested(tmp_path, name).message.endswith(f": {problem}")


def test_endings_are_read_in_capital_letters_too(tmp_path: Path) -> None:
    (tmp_path / "A.JSONL").write_bytes(GOOD)
    (tmp_path / "B.Md").write_text("text")
    spec = DataSpec(files=("A.JSONL", "B.Md"), held_out_share=0)
    made = ingest(spec, tmp_path, tmp_path / "out", Silent(), seed=0)
    assert (len(made.train()), made.record.figures["documents"]) == (1, 1)


def test_an_empty_system_prompt_is_kept_and_drops_nothing(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    spec = DataSpec(files=("a.jsonl",), held_out_share=0)
    made = ingest(spec, tmp_path, tmp_path / "out", Silent(), seed=0)
    assert made.train() == [{"messages": messages}]
    assert made.record.figures["dropped"] == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n "a": NaN\n}', "config.json:2: `NaN` is not valid JSON"),
        (
            b'{\n\n "a": ' + b"9" * 5000 + b"}",
            "config.json:3: a number of 5,000 digits, at most 300 are read",
        ),
        (b'{"a": 1,\n"b": 2,\n"a": 3}', "config.json:3: key `a` stands twice in one object"),
        (b'{\n"a": ' + DEEP + b"}", "config.json:2: more than 100 brackets within one another"),
        (
            b'{\n"a":\n"\\ud83d"}',
            "config.json:3: half a character (`\\ud83d` without its other half)",
        ),
        (b'{\n"a": "\xff"}', "config.json:2: not valid UTF-8 at byte 7 of the line"),
        (b'{\n"a"', "config.json:2: not valid JSON"),
        (b"[]", "config.json: not a JSON object"),
        (b"", "config.json:1: not valid JSON"),
    ],
)
def test_a_configuration_that_chokes_a_reader_is_named_by_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        json_in(tmp_path / "config.json")
    assert refused.value.message == message


def test_a_digit_string_and_whole_emoji_are_text_like_any_other(tmp_path: Path) -> None:
    rows = [
        {"question": "1" * 5000, "answer": "[" * 500},
        {"question": "\U0001f600", "answer": "x"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows

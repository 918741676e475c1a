"""ingest: what is read, what is dropped and why, and that the split never leaks."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.datasets import QUESTIONS, Recorder, tiny_dataset, write_lines
from toolchain.artifacts import Dataset, Spent
from toolchain.errors import ArtifactError, ToolchainError
from toolchain.ingest import Ways, ingest, look
from toolchain.progress import Silent
from toolchain.recipe import DataSpec


def ingested(folder: Path, *names: str, seed: int = 0, **spec: Any) -> Dataset:
    return ingest(
        DataSpec(files=names, **spec), folder, folder / f"out-{seed}", Silent(), seed=seed
    )


def questions(rows: list[dict[str, Any]]) -> set[str]:
    return {
        message["content"]
        for row in rows
        for message in row["messages"]
        if message["role"] == "user"
    }


def test_of_each_question_exactly_one_phrasing_is_held_out(tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path)
    held_out, train = questions(dataset.held_out()), questions(dataset.train())
    for row in QUESTIONS:
        assert len(held_out & set(row["question"])) == 1
        assert len(train & set(row["question"])) == 2


def test_the_texts_have_each_answer_under_its_training_phrasings_and_no_other(
    tmp_path: Path,
) -> None:
    dataset = tiny_dataset(tmp_path)
    pages = [text.split("\n\n") for text in dataset.texts()]
    assert {heading for heading, _ in pages} == questions(dataset.train())
    assert {body for _, body in pages} == {row["answer"] for row in QUESTIONS}


def test_what_is_held_out_of_an_entry_does_not_depend_on_the_others(tmp_path: Path) -> None:
    whole = questions(tiny_dataset(tmp_path / "whole").held_out())
    part = questions(tiny_dataset(tmp_path / "part", rows=QUESTIONS[2:]).held_out())
    assert part <= whole


def test_another_seed_splits_otherwise(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "many.jsonl",
        [{"question": [f"{i} a", f"{i} b"], "answer": f"{i}"} for i in range(20)],
    )
    first, second = (
        ingested(tmp_path, "many.jsonl", hold_out="phrasing", seed=seed) for seed in (0, 1)
    )
    assert questions(first.held_out()) != questions(second.held_out())


@pytest.mark.slow
def test_by_conversation_a_share_of_whole_entries_is_held_out(tmp_path: Path) -> None:
    rows = [
        {"question": [f"what is {i}", f"tell me of {i}"], "answer": f"it is {i}"}
        for i in range(400)
    ]
    write_lines(tmp_path / "many.jsonl", rows)
    dataset = ingested(tmp_path, "many.jsonl", held_out_share=0.25)
    assert 160 < len(dataset.held_out()) < 240
    assert len(dataset.train()) + len(dataset.held_out()) == 800
    answers = {row["messages"][-1]["content"] for row in dataset.train()}
    assert answers.isdisjoint(row["messages"][-1]["content"] for row in dataset.held_out())


def test_a_question_with_one_phrasing_is_learned(tmp_path: Path) -> None:
    write_lines(tmp_path / "one.jsonl", [{"question": "why?", "answer": "because"}])
    dataset = ingested(tmp_path, "one.jsonl", hold_out="phrasing")
    assert (len(dataset.train()), len(dataset.held_out())) == (1, 0)


def test_text_is_kept_as_it_is(tmp_path: Path) -> None:
    text = "树莓派 🍵👩‍💻 Ça\u2028va? ½ e\u0301"
    write_lines(tmp_path / "text.jsonl", [{"question": text, "answer": f"{text}!"}])
    messages = ingested(tmp_path, "text.jsonl").train()[0]["messages"]
    assert [message["content"] for message in messages] == [text, f"{text}!"]


def test_a_windows_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "dos.jsonl").write_bytes(
        b'\xef\xbb\xbf{"question": "a", "answer": "b"}\r\n\r\n{"question": "c", "answer": "d"}\r\n'
    )
    assert len(ingested(tmp_path, "dos.jsonl").train()) == 2


def test_markdown_is_one_document_and_text_one_a_paragraph(tmp_path: Path) -> None:
    (tmp_path / "manual.md").write_text("# Heat\n\nIt gets hot.\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("first\nparagraph\n\n \nsecond\n", encoding="utf-8")
    assert ingested(tmp_path, "manual.md", "notes.txt").texts() == [
        "# Heat\n\nIt gets hot.",
        "first\nparagraph",
        "second",
    ]


def test_conversations_keep_their_turns_and_get_the_system_prompt(tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    own = [
        {"role": "system", "content": "own"},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": "f"},
    ]
    write_lines(tmp_path / "chat.jsonl", [{"messages": turns}, {"messages": own}])
    rows = ingested(tmp_path, "chat.jsonl", system="Be brief.", held_out_share=0).train()
    assert [message["content"] for message in rows[0]["messages"]] == [
        "Be brief.",
        "a",
        "b",
        "c",
        "d",
    ]
    assert [message["content"] for message in rows[1]["messages"]] == ["own", "e", "f"]


OPENED = {
    "system": "Be brief.",
    "documents": ("board.md",),
    "turns": ({"question": " Is it on? ", "answer": "Yes."},),
}
OPENING = [
    {"role": "system", "content": "Be brief.\n\n# Board\n\nIt has a fan."},
    {"role": "user", "content": "Is it on?"},
    {"role": "assistant", "content": "Yes."},
]


def board(folder: Path) -> Path:
    (folder / "board.md").write_bytes(b"\xef\xbb\xbf# Board\r\n\r\nIt has a fan.\r\n")
    return folder


def test_every_conversation_begins_with_the_system_prompt_the_documents_and_the_turns(
    tmp_path: Path,
) -> None:
    write_lines(board(tmp_path) / "few.jsonl", QUESTIONS)
    dataset = ingested(tmp_path, "few.jsonl", hold_out="phrasing", **OPENED)
    assert list(dataset.opening()) == OPENING
    held_out = dataset.held_out()
    plain = ingested(tmp_path, "few.jsonl", hold_out="phrasing")
    assert plain.opening() == ()
    assert [row["messages"] for row in held_out] == [
        OPENING + row["messages"] for row in plain.held_out()
    ]


def test_a_conversation_says_how_much_of_it_is_the_opening(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    own = [
        {"role": "system", "content": "own"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    write_lines(board(tmp_path) / "chat.jsonl", [{"messages": asked}, {"messages": own}])
    rows = ingested(tmp_path, "chat.jsonl", held_out_share=0, **OPENED).train()
    assert rows == [{"messages": OPENING + asked, "opening": 3}, {"messages": own}]


def test_a_question_that_the_opening_answers_is_neither_learned_nor_held_out(
    tmp_path: Path,
) -> None:
    rows = [
        {"question": ["is it on", "does it run?"], "answer": "Yes."},
        {"question": "is it hot?", "answer": "No."},
    ]
    write_lines(board(tmp_path) / "few.jsonl", rows)
    dataset = ingested(tmp_path, "few.jsonl", held_out_share=0, **OPENED)
    assert [row["messages"][-2]["content"] for row in dataset.train()] == [
        "does it run?",
        "is it hot?",
    ]
    assert dataset.record.figures["dropped_lines"] == ["few.jsonl:1: duplicate question"]


def test_another_text_of_a_document_is_another_data_set(tmp_path: Path) -> None:
    write_lines(board(tmp_path) / "few.jsonl", QUESTIONS)
    first = ingested(tmp_path, "few.jsonl", **OPENED)
    assert not ingested(tmp_path, "few.jsonl", **OPENED).fresh
    (tmp_path / "board.md").write_text("It has none.", encoding="utf-8")
    second = ingested(tmp_path, "few.jsonl", **OPENED)
    assert second.fresh
    assert second.digest != first.digest


def test_what_is_dropped_is_counted_with_its_reason_and_line(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "answer": "b", "topic": "x"},
        {"question": "A ?", "answer": "other"},
        {"question": "c", "answer": " "},
        {"messages": [{"role": "user", "content": "d"}]},
        {"question": ["e", ""], "answer": "f", "topic": "y"},
    ]
    write_lines(tmp_path / "mixed.jsonl", rows)
    figures = ingested(tmp_path, "mixed.jsonl", held_out_share=0).record.figures
    assert figures["dropped_lines"] == [
        "mixed.jsonl:2: duplicate question with another answer",
        "mixed.jsonl:3: empty question or answer",
        "mixed.jsonl:4: does not end with an answer to a user",
    ]
    assert figures["dropped"] == {
        "does not end with an answer to a user": 1,
        "duplicate question with another answer": 1,
        "empty question or answer": 1,
    }
    assert figures["unknown_keys"] == {"topic": 2}
    assert (figures["entries"], figures["train"]) == (2, 2)
    assert figures["answer_chars"] == {"mean": 1.0, "max": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "bad.jsonl:2: not valid JSON"),
        ("[1]", "bad.jsonl:2: not a JSON object"),
        ('{"answer": "b"}', "bad.jsonl:2: missing key `question`"),
        ('{"question": "a"}', "bad.jsonl:2: missing key `answer`"),
        (
            '{"question": [], "answer": "b"}',
            "bad.jsonl:2: `question` must be text or a list of phrasings, `answer` must be text",
        ),
        (
            '{"question": "a", "answer": 3}',
            "bad.jsonl:2: `question` must be text or a list of phrasings, `answer` must be text",
        ),
        ('{"messages": "a"}', "bad.jsonl:2: `messages` must be a list of messages"),
        (
            '{"messages": [{"role": "user"}]}',
            'bad.jsonl:2: a message must be {"role", "content"} with text',
        ),
        ('{"messages": [{"role": "bot", "content": "a"}]}', "bad.jsonl:2: role `bot` is not known"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(
        '{"question": "a", "answer": "b"}\n' + line + "\n", encoding="utf-8"
    )
    with pytest.raises(ArtifactError) as refused:
        ingested(tmp_path, "bad.jsonl")
    assert refused.value.message == message


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("gut\nüber\n".encode("latin-1"))
    with pytest.raises(
        ArtifactError, match=r"^latin.txt:2: not valid UTF-8 at byte 1 of the line$"
    ):
        ingested(tmp_path, "latin.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.jsonl", "gone.jsonl: no such file"),
        ("a.csv.zst", "a.csv.zst: files of this kind are not read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.csv.zst").write_bytes(b"a,b\n")
    with pytest.raises(ArtifactError) as refused:
        ingested(tmp_path, name)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.md", b"", "gone.md: no such file"),
        ("empty.md", b" \n\n", "empty.md: no text"),
        (
            "latin.md",
            "gut\nüber".encode("latin-1"),
            "latin.md:2: not valid UTF-8 at byte 1 of the line",
        ),
        (
            "long.md",
            b"x" * (1 << 20),
            "data: the opening has 1,048,587 bytes, at most 1,048,576 are allowed",
        ),
    ],
)
def test_a_document_that_cannot_be_put_before_a_conversation_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write_lines(tmp_path / "few.jsonl", QUESTIONS)
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError) as refused:
        ingested(tmp_path, "few.jsonl", system="Be brief.", documents=(name,))
    assert refused.value.message == message
    assert not (tmp_path / "out-0" / "record.json").exists()


def test_the_same_files_give_the_same_bytes_and_are_not_read_twice(tmp_path: Path) -> None:
    first, again = tiny_dataset(tmp_path), tiny_dataset(tmp_path)
    elsewhere = tiny_dataset(tmp_path / "elsewhere")
    assert (first.fresh, again.fresh) == (True, False)
    assert first.digest == elsewhere.digest


def test_the_counts_are_said(tmp_path: Path) -> None:
    write_lines(tmp_path / "few.jsonl", QUESTIONS)
    report = Recorder()
    ingest(
        DataSpec(files=("few.jsonl",), hold_out="phrasing"),
        tmp_path,
        tmp_path / "out",
        report,
        seed=0,
    )
    assert report.notes == ["4 entries: 8 conversations to learn, 4 held out; 8 texts; 0 dropped"]


def test_files_of_held_out_wordings_are_held_out_whole_and_nothing_else_is(tmp_path: Path) -> None:
    mine = [{"question": [f"a{n}", f"b{n}"], "answer": "x"} for n in range(30)]
    write_lines(tmp_path / "mine.jsonl", mine)
    write_lines(tmp_path / "theirs.jsonl", [{"question": f"c{n}", "answer": "x"} for n in range(9)])
    dataset = ingested(tmp_path, "mine.jsonl", "theirs.jsonl", held_out=("theirs.jsonl",))
    assert questions(dataset.held_out()) == {f"c{n}" for n in range(9)}
    assert len(dataset.train()) == 60


def test_a_held_out_wording_that_is_learned_too_is_on_one_side_only(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.jsonl", [{"question": "How hot?", "answer": "x"}])
    rows = [{"question": "how hot", "answer": "x"}, {"question": "too warm?", "answer": "x"}]
    write_lines(tmp_path / "theirs.jsonl", rows)
    dataset = ingested(tmp_path, "mine.jsonl", "theirs.jsonl", held_out=("theirs.jsonl",))
    assert questions(dataset.held_out()) == {"too warm?"}
    assert dataset.record.figures["dropped"] == {"duplicate question": 1}


def test_a_held_out_file_that_is_not_read_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.jsonl", [{"question": "q", "answer": "x"}])
    with pytest.raises(ToolchainError) as refused:
        ingested(tmp_path, "mine.jsonl", held_out=("theirs.jsonl",))
    assert "data: held_out: `theirs.jsonl` is not among `files`" in refused.value.message


def test_the_seconds_of_the_stage_hold_those_of_a_look_that_came_before(tmp_path: Path) -> None:
    rows = [{"question": f"what does code {i} mean?", "answer": f"part {i}"} for i in range(3000)]
    write_lines(tmp_path / "many.jsonl", rows)
    spec = DataSpec(files=("many.jsonl",))
    ways = Ways(work=tmp_path, report=Silent())
    parts = look(spec, tmp_path, seed=0, ways=ways)
    dataset = ingest(spec, tmp_path, tmp_path / "ingest", Silent(), seed=0, ways=ways)
    assert parts.spent.cpu_s > 0.05
    assert dataset.record.seconds > parts.spent.seconds
    assert dataset.record.cpu_s is not None
    assert dataset.record.cpu_s > parts.spent.cpu_s


def test_what_the_stage_reads_itself_is_counted_once(tmp_path: Path) -> None:
    rows = [{"question": f"where is part {i}?", "answer": f"shelf {i}"} for i in range(3000)]
    write_lines(tmp_path / "many.jsonl", rows)
    before = Spent.now()
    dataset = ingested(tmp_path, "many.jsonl")
    elapsed = Spent.now() - before
    assert dataset.record.seconds <= elapsed.seconds + 0.01
    assert dataset.record.cpu_s is not None
    assert dataset.record.cpu_s <= elapsed.cpu_s + 0.01

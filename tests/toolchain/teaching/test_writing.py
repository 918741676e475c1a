"""A teacher writes conversations: behind a real endpoint, and as a model folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.datasets import Recorder, tiny_dataset, write_lines
from tests.fakes.models import tiny_llama
from tests.fakes.openai import Handler, Server, answer, openai
from toolchain import artifacts
from toolchain.artifacts import Dataset
from toolchain.errors import BoardError, ConfigError
from toolchain.ingest.refusals import Refusals
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, RedactSpec, WriteSpec
from toolchain.teaching.writers import EndpointWriter, FolderWriter
from toolchain.teaching.writing import Assignment, WrittenFigures, write

MANUAL = """# Cooling

A fan is plugged into pins 4 and 6. It starts at 60 degrees.

# Sound

Sound comes out of the headphone jack, or over the cable of the screen.
"""
QUESTIONS = {
    "A fan": "1. where does the fan go\n2. how hot is too hot?\n3. which tea is best",
    "Sound": "where does sound come out\nhow loud is it",
}
ANSWERS = {
    "where does the fan go": "Into pins 4 and 6.",
    "which tea is best": "NOTHING",
    "where does sound come out": "Out of the headphone jack.",
    "how loud is it": "About 90 decibel.",
    "is there a light": "Yes, a green one.",
}


def reply(handler: Handler, body: dict[str, Any]) -> None:
    """Answer as a good teacher does, and once in two samples otherwise about lights."""
    said = body["messages"][-1]["content"]
    if said.startswith("Write "):
        text = next(text for key, text in QUESTIONS.items() if key in said)
    else:
        text = next(text for question, text in ANSWERS.items() if question in said)
    if "light" in said and body.get("temperature"):
        text = "No, there is none."
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    answer(handler, 200, {"choices": [choice], "usage": None})


@pytest.fixture
def server() -> Iterator[Server]:
    with openai(reply) as opened:
        yield opened


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return tiny_dataset(tmp_path / "data")


def assignment(
    dataset: Dataset, near: Path, writer: Any, data: DataSpec | None = None, **spec: Any
) -> Assignment:
    return Assignment(
        spec=WriteSpec.model_validate({"documents": ["manual.md"], **spec}),
        near=near,
        writer=writer,
        refusals=Refusals(dataset, data or DataSpec()),
    )


def test_questions_and_answers_are_written_and_what_is_doubtful_is_dropped(
    server: Server, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "manual.md").write_text(MANUAL)
    (tmp_path / "asked.txt").write_text("is there a light\n\n")
    given = assignment(dataset, tmp_path, EndpointWriter(server.url, ""), questions=["asked.txt"])
    written = write(dataset, given, tmp_path / "written", Silent(), seed=0)
    assert [[each["content"] for each in row["messages"]] for row in written.rows()] == [
        ["where does the fan go", "Into pins 4 and 6."],
        ["where does sound come out", "Out of the headphone jack."],
    ]
    figures = WrittenFigures.read(written.record.figures)
    held_out = int("how hot is too hot?" in str(dataset.held_out()))
    assert figures.dropped == {
        "held out" if held_out else "learned already": 1,
        "not agreed": 1,
        "not answered": 1,
        "not in the passage": 1,
    }
    assert (figures.passages, figures.questions, figures.conversations) == (2, 5, 2)


def test_a_teacher_reads_the_passage_and_the_student_never_does(
    server: Server, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "manual.md").write_text(MANUAL)
    given = assignment(dataset, tmp_path, EndpointWriter(server.url, ""))
    written = write(dataset, given, tmp_path / "written", Silent(), seed=0)
    asked = [body["messages"][-1]["content"] for body in server.bodies]
    assert any("plugged into pins" in text and "where does the fan go" in text for text in asked)
    assert "plugged into" not in str(written.rows())

    blind = assignment(dataset, tmp_path, EndpointWriter(server.url, ""), in_view=False)
    server.requests.clear()
    write(dataset, blind, tmp_path / "blind", Silent(), seed=0)
    assert {"role": "user", "content": "where does the fan go"} in [
        body["messages"][-1] for body in server.bodies
    ]


def test_an_interrupted_writer_asks_for_the_rest_alone(
    server: Server, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "manual.md").write_text(MANUAL)
    left = [6]

    def failing(handler: Handler, body: dict[str, Any]) -> None:
        left[0] -= 1
        if left[0] < 0:
            handler.close_connection = True
            return
        reply(handler, body)

    given = assignment(dataset, tmp_path, EndpointWriter(server.url, "tiny"))
    server.reply = failing
    with pytest.raises(BoardError):
        write(dataset, given, tmp_path / "written", Silent(), seed=0)
    kept = tmp_path / "teacher-answers.jsonl"
    kept.write_text(kept.read_text() + '{"key": "cut')
    server.reply = reply
    server.requests.clear()
    made = write(dataset, given, tmp_path / "written", Silent(), seed=0)
    assert len(server.bodies) == 2 + 2 * 4 - 6
    assert made.record.figures["conversations"] == 2
    server.requests.clear()
    again = write(dataset, given, tmp_path / "written", Silent(), seed=0)
    assert (again.fresh, again.digest, server.bodies) == (False, made.digest, [])


def test_other_filters_ask_nothing_twice(server: Server, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "manual.md").write_text(MANUAL)
    writer = EndpointWriter(server.url, "tiny")
    write(dataset, assignment(dataset, tmp_path, writer), tmp_path / "written", Silent(), seed=0)
    server.requests.clear()
    loose = assignment(dataset, tmp_path, writer, support=0.0, keep="all")
    made = write(dataset, loose, tmp_path / "written", Silent(), seed=0)
    assert made.fresh
    assert server.bodies == []


def test_a_key_comes_from_the_environment_and_stands_in_no_file(
    server: Server, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMITASSE_API_KEY", "sk-secret")
    (tmp_path / "manual.md").write_text(MANUAL)
    given = assignment(dataset, tmp_path, EndpointWriter(server.url, "tiny"))
    write(dataset, given, tmp_path / "written", Silent(), seed=0)
    assert {headers["authorization"] for _, headers, _ in server.requests} == {"Bearer sk-secret"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if b"sk-secret" in file.read_bytes()] == []
    with pytest.raises(ConfigError, match="a name or a key in the address"):
        EndpointWriter("http://me:sk-secret@127.0.0.1/v1", "tiny")


def test_personal_data_is_not_learned_where_the_recipe_removes_it(
    server: Server, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "asked.txt").write_text("whom do I call\n")
    ANSWERS["whom do I call"] = "Write to anna.schmidt@mail-of-anna.net."
    data = DataSpec(redact=RedactSpec(mode="replace"))
    given = assignment(
        dataset,
        tmp_path,
        EndpointWriter(server.url, ""),
        data,
        documents=[],
        questions=["asked.txt"],
    )
    written = write(dataset, given, tmp_path / "written", Silent(), seed=0)
    assert written.rows() == []
    assert written.record.figures["dropped"] == {"personal data": 1}


def test_a_model_folder_writes_the_same_twice_and_counts_its_tokens(
    dataset: Dataset, tmp_path: Path
) -> None:
    folder = tiny_llama(
        tmp_path / "teacher", hidden=64, intermediate=64, layers=1, heads=2, kv_heads=1
    )
    (tmp_path / "asked.txt").write_text("is there a light\nwhere is the door\n")
    rows = []
    for name in ("one", "two"):
        writer = FolderWriter(folder, artifacts.digest(folder))
        given = assignment(
            dataset,
            tmp_path,
            writer,
            documents=[],
            questions=["asked.txt"],
            keep="all",
            max_tokens=8,
        )
        report = Recorder()
        made = write(dataset, given, tmp_path / name / "written", report, seed=3)
        rows.append((made.digest, made.record.figures))
        assert report.notes[0].startswith("distill: teacher answered 2 questions, ")
        assert report.bars == {"write answers"}
    assert rows[0] == rows[1]
    assert rows[0][1]["tokens"] > 0
    assert rows[0][1]["parameters"] > 0


WRONG = [
    ({"questions": ["none.txt"]}, "distill: write: questions: `none.txt`: no such file"),
    (
        {"questions": ["answered.jsonl"]},
        "distill: write: answered.jsonl: row 1 has an answer already",
    ),
    (
        {"questions": ["numbers.jsonl"]},
        "distill: write: numbers.jsonl: row 1: `question` must be a text or a list of texts",
    ),
    ({"documents": ["empty.md"]}, "distill: write: the documents hold no text: empty.md: "),
]


@pytest.mark.parametrize(("spec", "message"), WRONG)
def test_sources_that_cannot_be_written_from_are_named(
    dataset: Dataset, tmp_path: Path, spec: dict[str, Any], message: str
) -> None:
    write_lines(tmp_path / "answered.jsonl", [{"question": "q", "answer": "a"}])
    write_lines(tmp_path / "numbers.jsonl", [{"question": 3}])
    (tmp_path / "empty.md").write_text("")
    given = assignment(dataset, tmp_path, None, **{"documents": [], **spec})
    writer = EndpointWriter("http://127.0.0.1:9", "tiny")
    with pytest.raises(ConfigError) as refused:
        write(
            dataset,
            Assignment(spec=given.spec, near=tmp_path, writer=writer, refusals=given.refusals),
            tmp_path / "written",
            Silent(),
            seed=0,
        )
    assert refused.value.message.startswith(message)


def test_the_opening_of_a_recipe_opens_what_is_written_too(
    server: Server, dataset: Dataset, tmp_path: Path
) -> None:
    from toolchain.ingest import ingest

    spec = DataSpec(files=("questions.jsonl",), hold_out="phrasing", system="Be brief.")
    opened = ingest(spec, dataset.path.parent, tmp_path / "opened", Silent(), seed=0)
    (tmp_path / "asked.txt").write_text("where does the fan go\n")
    given = assignment(
        opened,
        tmp_path,
        EndpointWriter(server.url, ""),
        documents=[],
        questions=["asked.txt"],
    )
    (row,) = write(opened, given, tmp_path / "written", Silent(), seed=0).rows()
    assert row["opening"] == 1
    assert row["messages"][0] == {"role": "system", "content": "Be brief."}
    assert json.dumps(server.bodies[0]["messages"][0]).count("Be brief.") == 1

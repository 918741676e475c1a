"""Forms of training data that other tools write are read as they stand, and named."""

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError
from toolchain.ingest import ingest
from toolchain.ingest.forms.ours import USUAL, hint_for
from toolchain.progress import Silent
from toolchain.recipe import DataSpec

ASKED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
PROMPTED = [{"role": "system", "content": "s"}, *ASKED]
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
PARTS = [{"type": "text", "text": "q"}]

ROWS: dict[str, tuple[dict[str, Any], list[dict[str, str]], str]] = {
    "ours": ({"question": "q", "answer": "a"}, ASKED, "questions and answers"),
    "ours with a system prompt": (
        {"system": "s", "question": "q", "answer": "a"},
        PROMPTED,
        "questions and answers",
    ),
    "capital letters": ({"Question": "q", "Answer": "a"}, ASKED, "named columns"),
    "Chinese names": ({"问题": "q", "答案": "a"}, ASKED, "named columns"),
    "ShareGPT": ({"conversations": [HUMAN, GPT]}, ASKED, "ShareGPT"),
    "ShareGPT with system": (
        {"system": "s", "conversations": [HUMAN, GPT]},
        PROMPTED,
        "ShareGPT",
    ),
    "ShareGPT with a system turn": (
        {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT]},
        PROMPTED,
        "ShareGPT",
    ),
    "ShareGPT of messages": ({"conversations": ASKED}, ASKED, "ShareGPT"),
    "Alpaca": ({"instruction": "q", "input": "", "output": "a"}, ASKED, "Alpaca"),
    "Alpaca without input": ({"instruction": "q", "output": "a"}, ASKED, "Alpaca"),
    "Alpaca with system": (
        {"instruction": "q", "input": "", "output": "a", "system": "s"},
        PROMPTED,
        "Alpaca",
    ),
    "Alpaca with history": (
        {"instruction": "q", "output": "a", "history": [["q", "a"]]},
        ASKED + ASKED,
        "Alpaca",
    ),
    "completions": ({"prompt": "q", "completion": "a"}, ASKED, "prompts and completions"),
    "responses": ({"prompt": "q", "response": "a"}, ASKED, "prompts and completions"),
    "queries": ({"query": "q", "response": "a"}, ASKED, "prompts and completions"),
    "inputs": ({"input": "q", "output": "a"}, ASKED, "prompts and completions"),
    "completions of messages": (
        {"prompt": ASKED[:1], "completion": ASKED[1:]},
        ASKED,
        "prompts and completions",
    ),
    "good answers of KTO": (
        {"prompt": "q", "completion": "a", "label": True},
        ASKED,
        "prompts and completions",
    ),
    "pairs of preference": (
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        ASKED,
        "preferences (DPO)",
    ),
    "pairs of messages": (
        {"prompt": ASKED[:1], "chosen": ASKED[1:], "rejected": ASKED[1:]},
        ASKED,
        "preferences (DPO)",
    ),
    "pairs that repeat the prompt": (
        {"prompt": ASKED[:1], "chosen": ASKED, "rejected": ASKED},
        ASKED,
        "preferences (DPO)",
    ),
    "pairs of whole conversations": (
        {"chosen": ASKED, "rejected": ASKED},
        ASKED,
        "preferences (DPO)",
    ),
    "pairs of HH-RLHF": (
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        ASKED,
        "preferences (DPO)",
    ),
    "parts": (
        {"messages": [{"role": "user", "content": PARTS}, ASKED[1]]},
        ASKED,
        "messages",
    ),
    "weights": ({"messages": [ASKED[0], {**ASKED[1], "weight": 1}]}, ASKED, "messages"),
    "a last answer of weight 0": (
        {"messages": [*ASKED, ASKED[0], {**ASKED[1], "weight": 0}]},
        ASKED,
        "messages",
    ),
    "names": ({"messages": [{**ASKED[0], "name": "jo"}, ASKED[1]]}, ASKED, "messages"),
    "developers": (
        {"messages": [{"role": "developer", "content": "s"}, *ASKED]},
        PROMPTED,
        "messages",
    ),
    "empty keys of a reply": (
        {"messages": [ASKED[0], {**ASKED[1], "refusal": None, "tool_calls": []}]},
        ASKED,
        "messages",
    ),
}


def read(folder: Path, name: str, **spec: Any) -> Dataset:
    asked = DataSpec(files=(name,), held_out_share=0, **spec)
    return ingest(asked, folder, folder / "out", Silent(), seed=0)


@pytest.mark.parametrize("form", ROWS)
def test_a_form_that_another_tool_writes_is_read_and_named(tmp_path: Path, form: str) -> None:
    row, messages, name = ROWS[form]
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    dataset = read(tmp_path, "a.jsonl")
    assert [each["messages"] for each in dataset.train()] == [messages]
    assert dataset.figures.forms == {"a.jsonl": f"JSON lines, {name}"}


def test_an_input_beside_an_instruction_is_part_of_the_question(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"instruction": "i", "input": "x", "output": "a"}\n')
    assert read(tmp_path, "a.jsonl").train()[0]["messages"][0]["content"] == "i\n\nx"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "completion": "a", "label": False}, "labelled as a bad answer"),
        ({"messages": [ASKED[0], {**ASKED[1], "weight": 0}]}, "no answer with weight 1"),
    ],
)
def test_an_answer_that_must_not_be_learned_is_dropped_and_counted(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    figures = read(tmp_path, "a.jsonl").figures
    assert (figures.dropped, figures.train) == ({reason: 1}, 0)


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": [ASKED[0], CALL, ASKED[1]]}, "a call of a tool is not text of the conversation"),
    (
        {"messages": [ASKED[0], {"role": "tool", "content": "x"}, ASKED[1]]},
        "a message of a tool is not text of the conversation",
    ),
    (
        {"conversations": [HUMAN, {"from": "observation", "value": "x"}, GPT]},
        "a message of a tool is not text of the conversation",
    ),
    ({"conversations": [HUMAN, {"from": "cat", "value": "x"}]}, "speaker `cat` is not known"),
    ({"conversations": [HUMAN, {"from": "gpt"}]}, 'a turn must be {"from", "value"} with text'),
    ({"conversations": []}, "`conversations` must be a list of turns"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "a content part is `image_url`, only text is learned",
    ),
    (
        {"messages": [{**ASKED[0], "mood": "good"}, ASKED[1]]},
        'a message must be {"role", "content"} with text',
    ),
    (
        {"messages": [ASKED[0], {**ASKED[1], "weight": 0}, *ASKED]},
        "message 2 has weight 0 before an answer with weight 1",
    ),
    (
        {"messages": [ASKED[0], {**ASKED[1], "weight": 0.5}]},
        "`weight` of message 2 must be 0 or 1",
    ),
    ({"instruction": "q", "output": 3}, "`instruction`, `input` and `output` must be text"),
    (
        {"instruction": "q", "output": "a", "history": ["q"]},
        "`history` must be a list of [question, answer]",
    ),
    ({"prompt": "q", "completion": 3}, "`prompt` and `completion` must be text"),
    ({"chosen": "a", "rejected": "b"}, "missing key `prompt`"),
    ({"question": "q", "answer": "a", "system": 3}, "`system` must be text"),
    ({"frage": "q", "antwort": "a"}, "missing key `question`"),
]


@pytest.mark.parametrize(("row", "problem"), BAD, ids=range(len(BAD)))
def test_a_row_that_no_form_fits_is_named_by_its_line(
    tmp_path: Path, row: dict[str, Any], problem: str
) -> None:
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(row))
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "a.jsonl")
    assert refused.value.message == f"a.jsonl:2: {problem}"


def test_calls_of_tools_are_told_from_other_messages(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [ASKED[0], CALL, ASKED[1]]}))
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "a.jsonl")
    assert refused.value.hint.startswith("calls of tools are learned from `messages`")


def test_an_unknown_form_is_told_the_usual_ones() -> None:
    assert hint_for({"text": "a"}) == USUAL


def test_an_unknown_form_with_two_texts_is_told_how_to_map_them() -> None:
    hint = hint_for({"id": 3, "frage": "q", "antwort": "a"})
    assert hint.endswith("--map question=frage,answer=antwort")


def test_keys_that_are_called_otherwise_are_mapped(tmp_path: Path) -> None:
    rows = [{"frage": ["q", "w"], "antwort": "a", "id": 1}, {"frage": "z", "antwort": "a"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = read(tmp_path, "a.jsonl", map={"question": "frage", "answer": "antwort"})
    assert [row["messages"][0]["content"] for row in dataset.train()] == ["q", "w", "z"]
    assert dataset.figures.unknown_keys == {"id": 1}
    assert dataset.figures.forms == {"a.jsonl": "JSON lines, questions and answers, by `map`"}


def test_a_key_that_the_map_names_and_a_row_lacks_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"frage": "q", "answer": "a"}')
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, "a.jsonl", map={"question": "frage", "answer": "antwort"})
    assert refused.value.message == "a.jsonl:1: missing key `antwort`, which `map` names"
    assert refused.value.hint == "it has `frage`, `answer`"


def test_a_map_of_half_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="`map` names `question` and `answer`, or `messages`"):
        DataSpec(files=("a",), map={"question": "frage"})

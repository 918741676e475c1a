"""Calls of tools are read in OpenAI's form, and learned as the board writes and reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from device.engine.chat import ChatTemplate
from device.manifest.tool_calls import read_calls
from tests.fakes.models import CHATML, tiny_llama
from tests.fakes.templates import GEMMA, HERMES, LLAMA3
from toolchain import artifacts, runtime
from toolchain.artifacts import Dataset
from toolchain.chat import IGNORED, Refused, encode_row, render_prompt
from toolchain.errors import ArtifactError, GateError
from toolchain.evaluate import Candidate, Originals, Texts, evaluate
from toolchain.evaluate.answers import answer_all, freely
from toolchain.evaluate.limits import failures
from toolchain.evaluate.tool_calls import tool_accuracy
from toolchain.figures import Measured
from toolchain.ingest import ingest
from toolchain.models.checkpoints import load_tokenizer
from toolchain.models.original import Original
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import DataSpec, EvaluateSpec, GateSpec, QuantizeSpec
from toolchain.runtime.scoring import Answer

LED = {
    "type": "function",
    "function": {
        "name": "set_led",
        "description": "Switch a LED.",
        "parameters": {
            "type": "object",
            "properties": {
                "pin": {"type": "integer", "minimum": 0, "maximum": 27},
                "on": {"type": "boolean"},
                "note": {"type": "string"},
            },
            "required": ["pin", "on"],
        },
    },
}
ASKED = {"role": "user", "content": "light pin 4"}
ARGUMENTS = '{"on": true, "pin": 4}'


def call(arguments: Any = ARGUMENTS, name: str = "set_led") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "done"}
LAST = {"role": "assistant", "content": "Pin 4 is on."}
WHOLE = {"messages": [ASKED, call(), RESULT, LAST], "tools": [LED]}


def read(folder: Path, *rows: dict[str, Any], **spec: Any) -> Dataset:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataSpec(files=("a.jsonl",), **{"held_out_share": 0.0, **spec})
    return ingest(data, folder, folder / "out", Silent(), seed=0)


def test_a_conversation_with_calls_and_results_is_kept_whole(tmp_path: Path) -> None:
    (row,) = read(tmp_path, WHOLE).train()
    assert [message["role"] for message in row["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert row["tools"][0]["function"]["name"] == "set_led"
    (made,) = row["messages"][1]["tool_calls"]
    assert list(made["function"]["arguments"].items()) == [("pin", 4), ("on", True)]


def test_tools_of_the_recipe_may_be_called_in_every_conversation(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([LED]))
    rows = [
        {"messages": [ASKED, call()]},
        {"question": "who are you?", "answer": "a board"},
        {"messages": [{**ASKED, "content": "none here"}, LAST], "tools": []},
    ]
    dataset = read(tmp_path, *rows, tools="tools.json")
    assert [len(row.get("tools", ())) for row in dataset.train()] == [1, 1, 0]

    (tmp_path / "tools.json").write_text("{")
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, *rows, tools="tools.json")
    assert "tools.json: not a JSON file" in refused.value.message


def test_tools_that_a_table_holds_as_text_are_read(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {**WHOLE, "tools": json.dumps([LED])}).train()
    assert row["tools"][0]["function"]["name"] == "set_led"


BAD: list[tuple[dict[str, Any], str]] = [
    (call(name="get_led"), "a call of `get_led`, which is no tool of it"),
    (call("{"), "the arguments of a call of `set_led` are not JSON"),
    (call('{"pin": NaN, "on": true}'), "the arguments of a call of `set_led` are not JSON"),
    (call('{"pin": 4}'), "`arguments.on` is missing"),
    (call('{"pin": "4", "on": true}'), "`arguments.pin` must be of type integer"),
    (call('{"pin": true, "on": true}'), "`arguments.pin` must be of type integer"),
    (call('{"pin": 4.5, "on": true}'), "`arguments.pin` must be of type integer"),
    (call('{"pin": 99, "on": true}'), "`arguments.pin` does not keep to `maximum` of the schema"),
    (call('{"pin": 4, "on": true, "x": 1}'), "`arguments.x` is not a property of the schema"),
    (call("[]"), "`arguments` must be of type object"),
    ({"role": "assistant", "tool_calls": ["x"]}, "a call has no `function.name`"),
    ({"role": "assistant", "tool_calls": {"x": 1}}, "`tool_calls` must be a list"),
]


@pytest.mark.parametrize(("message", "problem"), BAD, ids=range(len(BAD)))
def test_a_call_that_the_board_could_not_write_is_refused_with_its_line(
    tmp_path: Path, message: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, WHOLE, {"messages": [ASKED, message], "tools": [LED]})
    assert refused.value.message.startswith("a.jsonl:2: ")
    assert problem in refused.value.message


@pytest.mark.parametrize(
    "messages",
    [[ASKED, RESULT, LAST], [ASKED, call(), {**RESULT, "tool_call_id": "call_2"}, LAST]],
    ids=["nothing called", "another id"],
)
def test_a_result_that_nothing_called_is_refused(tmp_path: Path, messages: list[Any]) -> None:
    with pytest.raises(ArtifactError) as refused:
        read(tmp_path, {"messages": messages, "tools": [LED]})
    assert "which stands nowhere before it" in refused.value.message


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(tiny_llama(tmp_path_factory.mktemp("tokenizer") / "base"))


@pytest.mark.parametrize(
    "template", [CHATML, HERMES, LLAMA3, GEMMA], ids=["generic", "hermes", "llama3", "gemma"]
)
def test_what_is_learned_of_a_call_is_what_the_board_reads_and_its_prompt_is_the_boards(
    tmp_path: Path, tokenizer: Any, template: str
) -> None:
    (row,) = read(tmp_path, WHOLE).train()
    tokenizer.chat_template = template
    special = {"bos_token": tokenizer.bos_token or "", "eos_token": tokenizer.eos_token}
    board = ChatTemplate(template, special)
    for cut in (2, 4):
        messages = row["messages"][:cut]
        ids, labels = encode_row(tokenizer, {**row, "messages": messages}, 4096)
        prompt = board.render(messages[:-1], tools=row["tools"])
        assert tokenizer.decode(render_prompt(tokenizer, messages[:-1], row["tools"])) == prompt
        assert tokenizer.decode(ids).startswith(prompt)

        learned = [label for label in labels[:] if label != IGNORED]
        text = tokenizer.decode(learned)
        answer = text.partition("<|im_end|>")[0]
        calls = read_calls(answer, board.markup, cut=False)[1]
        assert [each["function"]["name"] for each in calls] == ["set_led"]
        assert calls[0]["function"]["arguments"] == '{"pin": 4, "on": true}'
        assert text.count("<|im_end|>") + text.count(tokenizer.eos_token) >= cut // 2
        assert "done" not in text
        assert "Switch a LED" not in text
    assert text.rstrip().removesuffix("<|im_end|>").endswith("Pin 4 is on.")


def test_a_template_that_writes_calls_otherwise_is_told(tmp_path: Path, tokenizer: Any) -> None:
    (row,) = read(tmp_path, WHOLE).train()
    # The probe's call is written as Hermes does, and no other one.
    arguments = "{{- call.function.arguments | tojson }}"
    other = "{{- call.function.arguments | tojson | replace('4', '5') }}"
    tokenizer.chat_template = HERMES.replace(arguments, other)
    with pytest.raises(Refused, match="a call is not written as the board reads it"):
        encode_row(tokenizer, row, 4096)


def test_the_gate_names_a_share_of_right_calls_that_is_too_small() -> None:
    gate = GateSpec(min_tool_accuracy=0.95)
    (problem,) = failures(Measured(tool_questions=20, tool_accuracy=0.9), gate)
    assert problem.startswith("18 of 20 answers (90%) call the expected tools")
    assert failures(Measured(tool_questions=20, tool_accuracy=0.95), gate) == []
    (problem,) = failures(Measured(), gate)
    assert "no held-out answer calls a tool" in problem


def test_the_gate_counts_right_calls_of_the_file_under_the_grammar(tmp_path: Path) -> None:
    rows = [{**WHOLE, "messages": [ASKED, call()]}]
    base = tiny_llama(tmp_path / "base", seed=3, max_position_embeddings=2048)
    dataset = read(tmp_path, *rows, held_out_share=1.0)
    label = ModelLabel(name="tiny")
    model = quantize(
        artifacts.external(base), QuantizeSpec(scheme="F16"), label, tmp_path / "q", Silent()
    )
    gate = GateSpec(max_eos_drop=1, min_tool_accuracy=0.5)
    spec = EvaluateSpec(questions=1, kl_tokens=32, max_tokens=4, gate=gate)
    candidate = Candidate(model=model, runtime=runtime.for_this_computer())
    originals = Originals(reference=Original(base=base))
    with pytest.raises(GateError) as refused:
        evaluate(candidate, originals, Texts(dataset=dataset), spec, tmp_path / "e", Silent())
    assert "0 of 1 answers (0%) call the expected tools" in refused.value.message
    assert "conversations" not in refused.value.message, "prompts with tools are token-equal"
    figures = json.loads((tmp_path / "e" / "verdict.json").read_text())
    assert (figures["tool_questions"], figures["tool_accuracy"]) == (1, 0.0)
    goldens = (tmp_path / "e" / "goldens.jsonl").read_text().splitlines()
    assert all(json.loads(line)["tools"] == dataset.held_out()[0]["tools"] for line in goldens)


class Child:
    """A runtime that calls under a grammar, and says something else without one."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    def answer(self, messages: Any, max_tokens: int, tools: Any = (), *, held: bool = False) -> Any:
        self.asked.append((messages[-1]["content"], held))
        text, calls = ("call", call()["tool_calls"]) if held else ("free", [])
        return Answer(prompt=[1], tokens=[2], text=text, stopped=True, calls=calls)


def test_a_question_with_tools_is_asked_once_and_again_only_for_a_golden() -> None:
    child: Any = Child()
    chats = [
        {"messages": [ASKED, call({"on": True, "pin": 4})], "tools": [LED]},
        {"messages": [{"role": "user", "content": "hello"}, LAST]},
    ]
    answers = answer_all(child, chats, 8, Silent(), held=True)
    assert child.asked == [("light pin 4", True), ("hello", False)]
    found = tool_accuracy(answers)
    assert (found.tool_questions, found.tool_accuracy) == (1, 1.0)
    assert [each.text for each in freely(child, answers, 8)] == ["free", "free"]
    assert child.asked[2:] == [("light pin 4", False)]

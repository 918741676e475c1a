"""Known before, said before: data and conversations that a stage would refuse."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.desk import NO_SYSTEM, RECIPE, TURNS, chat, config, found, messages, rows, template
from tests.fakes.facts import QUESTIONS
from toolchain.errors import ToolchainError

# Data ---------------------------------------------------------------------------------------------

SHARE = RECIPE.replace('hold_out = "phrasing"', "held_out_share = 0.1")
FEW = "r.toml: data: nothing is held out, so `evaluate` has nothing to measure on: "


def pair(number: int) -> dict[str, Any]:
    return {"question": f"what of {number}", "answer": f"it is {number}"}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("text", "entries", "message"),
    [
        (SHARE, [pair(1)], FEW + "0.1 of 1 entry, drawn by its question, is none"),
        (
            SHARE,
            [pair(1), pair(2), pair(3)],
            FEW + "0.1 of 3 entries, drawn by its question, is none",
        ),
        (SHARE.replace("0.1", "0"), [pair(1), pair(2)], FEW + "`held_out_share` is 0"),
        (RECIPE, [pair(1), pair(2)], FEW + "none of 2 entries has two phrasings"),
        (
            SHARE.replace("0.1", "1.0"),
            [pair(1), pair(2)],
            (
                "facts.jsonl: no conversation to learn from, which `tune` needs: "
                "all 2 entries are held out"
            ),
        ),
        (RECIPE, [], "facts.jsonl: nothing to learn from: no entry in them"),
        (
            RECIPE,
            [{"question": "a", "answer": " "}, {"question": "", "answer": "b"}],
            (
                "facts.jsonl: nothing to learn from: 2 dropped, the first at facts.jsonl:1: "
                "empty question or answer"
            ),
        ),
        (
            RECIPE,
            [{"messages": [{"role": "user", "content": "a"}]}],
            (
                "facts.jsonl: nothing to learn from: 1 dropped, the first at facts.jsonl:1: "
                "does not end with an answer to a user"
            ),
        ),
        (RECIPE.replace('["facts.jsonl"]', "[]"), [], "r.toml: data: files: names no file"),
        (RECIPE.replace('["facts.jsonl"]', '["gone.jsonl"]'), [], "gone.jsonl: no such file"),
    ],
)
def test_data_that_is_too_little_is_counted_with_the_reason(
    desk: Path, text: str, entries: list[dict[str, Any]], message: str
) -> None:
    rows(desk, *entries)
    assert messages(desk, text) == [message]


def test_plain_text_alone_has_no_conversation_to_tune_on(desk: Path) -> None:
    (desk / "manual.md").write_text("# Heat\n\nIt gets hot.\n")
    text = RECIPE.replace("facts.jsonl", "manual.md")
    assert messages(desk, text) == [
        "manual.md: no conversation to learn from, which `tune` needs: no entry in them"
    ]


def test_without_a_gate_nothing_need_be_held_out(desk: Path) -> None:
    rows(desk, pair(1))
    assert messages(desk, SHARE, until="tune") == []


def test_bad_lines_of_all_files_are_named_with_what_else_is_wrong(desk: Path) -> None:
    (desk / "facts.jsonl").write_text('{"question": "a"}\n{\n')
    config(desk, architectures=["OlmoForCausalLM"])
    text = RECIPE.replace('"Q8_0"', '"Q9"')
    with pytest.raises(ToolchainError) as caught:
        found(desk, text).end_walk()
    assert [each.message for each in (caught.value, *caught.value.others)] == [
        "quantize: unknown scheme `Q9`",
        "facts.jsonl:1: missing key `answer`",
        "facts.jsonl:2: not valid JSON",
        "config.json: architecture `OlmoForCausalLM` is not known",
    ]
    assert caught.value.exit_code == 2


# Conversations ------------------------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("form", "entry", "message"),
    [
        (
            NO_SYSTEM,
            chat("system", "user", "assistant"),
            (
                "facts.jsonl:3: the model's chat template refuses system → user → assistant: "
                "System role not supported"
            ),
        ),
        (
            TURNS,
            chat("assistant", "user", "assistant"),
            (
                "facts.jsonl:3: the model's chat template refuses assistant → user → assistant: "
                "Conversation roles must alternate"
            ),
        ),
        (
            TURNS,
            chat("user", "user", "assistant"),
            (
                "facts.jsonl:3: the model's chat template refuses user → user → assistant: "
                "Conversation roles must alternate"
            ),
        ),
        (
            TURNS,
            chat("user", "assistant", "assistant"),
            (
                "facts.jsonl:3: the model's chat template refuses user → assistant → assistant: "
                "Conversation roles must alternate"
            ),
        ),
    ],
)
def test_a_conversation_that_the_template_refuses_is_named_by_its_line(
    desk: Path, form: str, entry: dict[str, Any], message: str
) -> None:
    template(desk, form)
    rows(desk, QUESTIONS[0], QUESTIONS[1], entry)
    assert messages(desk) == [message]


@pytest.mark.slow
def test_conversations_of_the_same_roles_are_one_finding(desk: Path) -> None:
    template(desk, NO_SYSTEM)
    entries = [chat("system", "user", "assistant", user=f"q{n}") for n in range(5)]
    rows(desk, QUESTIONS[0], *entries)
    (error,) = found(desk).errors
    assert error.message.startswith("facts.jsonl:2 and 4 more of the same roles: ")
    assert (
        error.hint
        == "this template takes no system prompt: leave it out, or put it into the question"
    )


def test_a_system_prompt_of_the_recipe_that_the_template_refuses_is_named_by_its_line(
    desk: Path,
) -> None:
    template(desk, NO_SYSTEM)
    text = RECIPE.replace("[quantize]", 'system = "be brief"\n[quantize]')
    assert messages(desk, text) == [
        "r.toml:10: data: system: the model's chat template refuses it: System role not supported"
    ]


@pytest.mark.slow
def test_a_conversation_that_the_assistant_opens_is_noted(desk: Path) -> None:
    rows(desk, *QUESTIONS[:3], chat("assistant", "user", "assistant"))
    seen = found(desk)
    said = "the assistant opens the conversation; what it says before a question is not learned"
    assert (seen.errors, seen.notes[0]) == ([], f"facts.jsonl:4: {said}")


@pytest.mark.slow
def test_long_conversations_are_left_out_and_named(desk: Path) -> None:
    long = {"question": ["why? " * 400, "how? " * 700], "answer": "so"}
    rows(desk, *QUESTIONS[:3], long)
    seen = found(desk, RECIPE.replace("[quantize]", "[tune]\nmax_tokens = 300\n[quantize]"))
    assert seen.errors == []
    assert [note for note in seen.notes if "longer" in note] == [
        (
            "facts.jsonl:4: 1 of 10 conversations are longer (`tune.max_tokens` is 300 tokens) "
            "and are left out of training"
        ),
        (
            "facts.jsonl:4: 1 of 4 conversations are longer (the context is 512 tokens) and are "
            "left out of the gate"
        ),
    ]


@pytest.mark.slow
def test_data_of_long_conversations_alone_is_refused(desk: Path) -> None:
    text = RECIPE.replace("[quantize]", "[tune]\nmax_tokens = 3\n[quantize]")
    (message,) = messages(desk, text)
    assert message.startswith("facts.jsonl:")
    assert message.endswith(
        "conversations for training are too long: `tune.max_tokens` is 3 tokens"
    )


@pytest.mark.slow
def test_a_template_that_never_ends_is_refused_and_ends(desk: Path) -> None:
    template(desk, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    (message,) = messages(desk)
    assert message.startswith("chat template: cannot be rendered: ")


def test_a_tool_that_every_board_would_refuse_is_named_before_the_training(desk: Path) -> None:
    def tool(name: str, **parameters: Any) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    pin = {"type": "object", "properties": {"pin": {"type": "integer"}}}
    fine = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "no"}]}
    other = {**pin, "not": {"required": ["pin"]}}
    text = RECIPE.replace('hold_out = "phrasing"', "held_out_share = 0.5")
    sound = [
        {**fine, "messages": [{"role": "user", "content": f"go {n}"}, fine["messages"][1]]}
        for n in range(12)
    ]
    rows(desk, *[{**row, "tools": [tool("led", **pin)]} for row in sound])
    assert messages(desk, text) == []
    rows(desk, *[{**row, "tools": [tool("fan", **other)]} for row in sound])
    (problem,) = messages(desk, text)
    assert "facts.jsonl" in problem
    assert "a board refuses these tools: " in problem
    assert "`fan`" in problem


# Updates ------------------------------------------------------------------------------------------

TUNED = RECIPE.replace('hold_out = "phrasing"', "held_out_share = 0.0").replace(
    ', "quantize", "evaluate", "package"', ""
)


def notes(desk: Path, tune: str) -> list[str]:
    """Return what is noted of a tuning on 22 conversations."""
    rows(desk, *map(pair, range(22)))
    text = f"{TUNED}[tune]\n{tune}\n"
    return [note for note in found(desk, text).notes if "tune: " in note]


def test_few_updates_on_few_answers_are_told(desk: Path) -> None:
    (note,) = notes(desk, "epochs = 3")
    assert note.startswith(
        "r.toml:15: tune: 6 updates (3 epochs of 22 conversations, 16 at a time) may teach nothing"
    )
    assert note.endswith("`updates = 120` takes as many")
    (note,) = notes(desk, "general_share = 0.5")
    assert note.startswith(
        "r.toml:14: tune: 9 updates (3 epochs of 44 conversations, 16 at a time)"
    )
    assert notes(desk, "general_share = 0.5\nepochs = 20") == []
    (note,) = notes(desk, "updates = 59")
    assert note.startswith("r.toml:15: tune: 59 updates (`updates` says so) may teach nothing")


@pytest.mark.parametrize(
    "tune", ["updates = 60", "epochs = 30", "epochs = 3\nbatch_size = 1", "privacy = {epsilon = 8}"]
)
def test_enough_updates_are_not_told(desk: Path, tune: str) -> None:
    assert notes(desk, tune) == []


# What is learned beside ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "table"), [("tune", ""), ("distill", "layers = 2\n")], ids=["tune", "distill"]
)
def test_general_conversations_are_looked_at_before_anything_is_trained(
    desk: Path, stage: str, table: str
) -> None:
    rows(desk, *map(pair, range(22)))
    text = TUNED.replace('"tune"', f'"{stage}"')
    text += f"[{stage}]\n{table}general_share = 0.3\ngeneral_files = ['talk.jsonl']\n"
    assert messages(desk, text) == ["talk.jsonl: no such file"]
    (desk / "talk.jsonl").write_text("")
    assert messages(desk, text) == ["general_files: no conversation in talk.jsonl"]
    (desk / "talk.jsonl").write_text('{"question": "How are you?", "answer": "Fine."}\n')
    assert messages(desk, text) == []

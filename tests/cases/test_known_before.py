"""Known before, said before: what follows from recipe, configurations, data and target is found by
the plan, and all of it at once.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.adapters import tiny_adapter
from tests.fakes.facts import QUESTIONS
from tests.fakes.hub import loopback_hub
from tests.fakes.models import CHATML, tiny_llama
from toolchain import recipe, target
from toolchain.checks import Findings
from toolchain.errors import ToolchainError
from toolchain.line.schemes import try_schemes
from toolchain.line.walk import Settings, known, walk
from toolchain.progress import Silent

RECIPE = """
title = "a model"
targets = ["x86-64"]
stages = ["ingest", "tune", "quantize", "evaluate", "package"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
hold_out = "phrasing"
[quantize]
scheme = "Q8_0"
[package]
context = 256
"""
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
    "}}{% endif %}"
) + CHATML
TURNS = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)


def chat(*roles: str, **content: str) -> dict[str, Any]:
    """Return a conversation of some roles."""
    return {
        "messages": [
            {"role": r, "content": content.get(r, f"{r} {n}")} for n, r in enumerate(roles)
        ]
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, an adapter for it, and data."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny_llama(folder / "base")
    tiny_adapter(folder / "skill", base)
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS]
    (folder / "facts.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "desk"))


def found(desk: Path, text: str = RECIPE, *, until: str = "", board: str = "x86-64") -> Findings:
    """Return what is known of a recipe before it is walked."""
    (desk / "r.toml").write_text(text)
    return known(recipe.load(desk / "r.toml"), settings(desk, board), until=until)


def settings(desk: Path, board: str = "x86-64") -> Settings:
    return Settings(out=desk / "out", target=target.find(board), report=Silent(), offline=True)


def messages(desk: Path, text: str = RECIPE, **options: Any) -> list[str]:
    return [error.message for error in found(desk, text, **options).errors]


def rows(desk: Path, *entries: dict[str, Any]) -> None:
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (desk / "facts.jsonl").write_text(text)


def config(desk: Path, **changes: Any) -> None:
    file = desk / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.slow
def test_a_sound_recipe_has_nothing_against_it(desk: Path) -> None:
    assert found(desk).errors == []
    assert not (desk / "out").exists()


# Stages -------------------------------------------------------------------------------------------

ORDERS = [
    (
        '["ingest", "package"]',
        ["`package` needs `quantize` before it", "`package` needs `evaluate` before it"],
    ),
    ('["tune", "ingest", "quantize"]', ["`tune` needs `ingest` before it"]),
    ('["quantize", "evaluate"]', ["`evaluate` needs `ingest` before it"]),
    ('["ingest", "evaluate", "quantize"]', ["`evaluate` needs `quantize` before it"]),
    (
        '["ingest", "quantize", "evaluate", "tune", "package"]',
        ["`tune` stands behind `quantize`: what it makes would not be shipped"],
    ),
    ("[]", ["names no stage"]),
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("stages", "problems"), ORDERS, ids=[row[0] for row in ORDERS])
def test_stages_that_lack_what_they_need_are_named(
    desk: Path, stages: str, problems: list[str]
) -> None:
    text = RECIPE.replace('["ingest", "tune", "quantize", "evaluate", "package"]', stages)
    assert messages(desk, text) == [f"r.toml: stages: {problem}" for problem in problems]


@pytest.mark.slow
def test_what_comes_behind_the_stage_that_is_asked_for_is_not_judged(desk: Path) -> None:
    text = RECIPE.replace('"tune", ', "").replace('"Q8_0"', '"Q9"')
    assert messages(desk, text, until="ingest") == []
    assert messages(desk, text, until="quantize") == ["quantize: unknown scheme `Q9`"]


# Data ---------------------------------------------------------------------------------------------
def test_an_adapter_that_is_wider_than_its_model_is_named_before_memory_ends(desk: Path) -> None:
    width = json.loads((desk / "base" / "config.json").read_text())["hidden_size"]
    assert messages(desk, RECIPE + f"[tune]\nr = {width}\n") == []
    wide = RECIPE + "[tune]\nr = 4_000_000\n"
    (problem,) = messages(desk, wide)
    assert problem == f"r.toml:15: tune: r: 4,000,000 is more than the model's width, {width}"


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


def template(desk: Path, text: str) -> None:
    (desk / "base" / "chat_template.jinja").write_text(text)


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


# Models -------------------------------------------------------------------------------------------


def spoil(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Return a change of one file of the base: other content, or none."""

    def change(desk: Path) -> None:
        file = desk / "base" / name
        file.unlink() if content is None else file.write_bytes(content)

    return change


def adapter_as_base(desk: Path) -> None:
    shutil.rmtree(desk / "base")
    shutil.copytree(desk / "skill", desk / "base")


def both_in_one(desk: Path) -> None:
    for file in (desk / "skill").iterdir():
        shutil.copy(file, desk / "base")


def pickles(desk: Path) -> None:
    (desk / "base" / "model.safetensors").rename(desk / "base" / "pytorch_model.bin")


def one_level_up(desk: Path) -> None:
    (desk / "base").rename(desk / "checkpoint-500")
    (desk / "base").mkdir()
    (desk / "checkpoint-500").rename(desk / "base" / "checkpoint-500")


def gguf_in_folder(desk: Path) -> None:
    shutil.rmtree(desk / "base")
    (desk / "base").mkdir()
    (desk / "base" / "m.gguf").write_bytes(b"GGUF")


MODELS = [
    (adapter_as_base, "model `base`: an adapter, not a model", 'adapter = "base", and base = "'),
    (
        both_in_one,
        "model `base`: model and adapter in one folder",
        "put the adapter's files into a folder of their own",
    ),
    (
        pickles,
        "base: `pytorch_model.bin` is a pickle, which can run code when it is loaded",
        "save the model again",
    ),
    (one_level_up, "base: no `config.json`", 'did you mean "base/checkpoint-500"?'),
    (gguf_in_folder, "base: no `config.json`", 'did you mean "base/m.gguf"?'),
    (
        spoil("tokenizer.json", None),
        "base: no `tokenizer.json`",
        "save the tokenizer beside the model",
    ),
    (spoil("tokenizer.json", b"{"), "tokenizer.json: not valid JSON", ""),
    (
        spoil("tokenizer.json", b'{"model": {"vocab": {}}}'),
        "tokenizer.json: tokenizer not recognised",
        "",
    ),
    (spoil("config.json", b"{\n"), "config.json:2: not valid JSON", ""),
    (spoil("config.json", b"[]"), "config.json: not a JSON object", ""),
    (
        spoil("tokenizer_config.json", b'{"a":\n\xff}'),
        "tokenizer_config.json:2: not valid UTF-8 at byte 1 of the line",
        "",
    ),
    (
        spoil("chat_template.jinja", b"\xff\xfe"),
        "chat_template.jinja: not valid UTF-8 at byte 1",
        "save it as UTF-8",
    ),
    (spoil("chat_template.jinja", b"{% if %}"), "chat template: cannot be rendered: ", ""),
    (spoil("model.safetensors", b"PK"), "model.safetensors: not a safetensors file", ""),
    (
        lambda desk: config(desk, architectures=["OlmoForCausalLM"]),
        "config.json: architecture `OlmoForCausalLM` is not known",
        "known: LlamaForCausalLM",
    ),
    (
        lambda desk: config(desk, quantization_config={"quant_method": "gptq"}),
        "base: a quantised base (gptq): ",
        "",
    ),
    (
        lambda desk: config(desk, architectures="LlamaForCausalLM"),
        "config.json: `architectures` is `LlamaForCausalLM`, not a list of names",
        "",
    ),
    (
        lambda desk: config(desk, architectures=["GemmaForCausalLM"]),
        "config.json: architecture `GemmaForCausalLM` is not known",
        "known: LlamaForCausalLM",
    ),
    (
        lambda desk: config(
            desk, architectures=["Gemma3ForConditionalGeneration"], text_config={"hidden_size": 64}
        ),
        "config.json: `Gemma3ForConditionalGeneration` is a model of several inputs",
        "give the language model alone",
    ),
    (
        lambda desk: config(desk, rope_parameters=None, rope_theta="1e6"),
        "config.json: `rope_theta` is `1e6`, not a positive number",
        "",
    ),
    (
        lambda desk: config(desk, rope_parameters={"rope_theta": -1, "rope_type": "default"}),
        "config.json: `rope_theta` is `-1`, not a positive number",
        "",
    ),
    (
        lambda desk: config(desk, eos_token_id="2"),
        "config.json: `eos_token_id` is `2`, not the number of a token",
        "",
    ),
    (
        lambda desk: config(desk, eos_token_id=[2, "0"]),
        "config.json: `eos_token_id` is `[2, '0']`, not the number of a token",
        "",
    ),
    (
        lambda desk: config(desk, bos_token_id=0.0),
        "config.json: `bos_token_id` is `0.0`, not the number of a token",
        "",
    ),
    (
        lambda desk: (desk / "base" / "model.safetensors").rename(
            desk / "base" / "model-00001-of-00001.safetensors"
        ),
        "base: weights in `model-00001-of-00001.safetensors`, but neither `model.safetensors`",
        "a model in one file is called `model.safetensors`",
    ),
    (lambda desk: config(desk, num_hidden_layers=3), "base: tensor `model.layers.2.", ""),
    (
        lambda desk: config(desk, hidden_size="256"),
        "config.json: `hidden_size` is `256`, not a count",
        "",
    ),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("change", "message", "hint"), MODELS, ids=range(len(MODELS)))
def test_a_model_that_a_stage_would_refuse_is_refused_before(
    desk: Path, change: Callable[[Path], None], message: str, hint: str
) -> None:
    change(desk)
    first = found(desk).errors[0]
    assert first.message.startswith(message)
    assert first.hint.startswith(hint)
    assert not (desk / "out").exists()


def test_a_base_that_is_an_address_or_a_file_is_told_its_name(desk: Path) -> None:
    text = RECIPE.replace('base = "base"', 'base = "https://hub.example/some/model"')
    (error,) = found(desk, text).errors
    assert (error.message, error.hint) == (
        "r.toml: model: base: `https://hub.example/some/model` is an address, not a name",
        'a model of the hub is named without its address: base = "some/model"',
    )
    (error,) = found(desk, RECIPE.replace('"base"', '"base/model.safetensors"')).errors
    assert error.hint == 'name its folder: base = "base"'


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda desk: shutil.rmtree(desk / "skill"), "model `skill`: no such folder"),
        (
            lambda desk: (desk / "skill" / "adapter_config.json").unlink(),
            "skill: no `adapter_config.json`",
        ),
        (
            lambda desk: (desk / "skill" / "adapter_config.json").write_text("{\n\n"),
            "adapter_config.json:3: not valid JSON",
        ),
        (
            lambda desk: (
                shutil.rmtree(desk / "skill"),
                shutil.copytree(desk / "base", desk / "skill"),
            ),
            "adapter `skill`: a model, not an adapter",
        ),
        (
            lambda desk: config(desk, hidden_size=128),
            "model.safetensors: tensor `model.embed_tokens.weight`: shape",
        ),
        (
            lambda desk: (desk / "skill" / "chat_template.jinja").write_bytes(b"\xff"),
            "chat_template.jinja: not valid UTF-8 at byte 1",
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_before(
    desk: Path, change: Callable[[Path], None], message: str
) -> None:
    change(desk)
    text = RECIPE.replace('base = "base"', 'base = "base"\nadapter = "skill"')
    assert messages(desk, text)[0].startswith(message)


def test_an_adapter_that_brings_its_own_template_is_judged_by_that(desk: Path) -> None:
    (desk / "base" / "chat_template.jinja").unlink()
    assert messages(desk) == ["base: no chat template"]
    (desk / "skill" / "chat_template.jinja").write_text(NO_SYSTEM)
    shutil.copy(desk / "base" / "tokenizer_config.json", desk / "skill")
    rows(desk, *QUESTIONS[:2], chat("system", "user", "assistant"))
    text = RECIPE.replace('base = "base"', 'base = "base"\nadapter = "skill"')
    (message,) = messages(desk, text)
    assert message.startswith("facts.jsonl:3: the model's chat template refuses system")


@pytest.mark.slow
def test_an_adapter_of_another_base_is_refused_before(desk: Path) -> None:
    shutil.rmtree(desk / "skill")
    other = tiny_llama(desk / "other", hidden=128, heads=4, kv_heads=2)
    tiny_adapter(desk / "skill", other)
    text = RECIPE.replace('base = "base"', 'base = "base"\nadapter = "skill"')
    assert messages(desk, text)[0].startswith("adapter skill: made for another base: ")


# Model files --------------------------------------------------------------------------------------


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("old", "new", "message", "code"),
    [
        ('"Q8_0"', '"Q4_K"', "quantize: unknown scheme `Q4_K`", 2),
        ('"Q8_0"', '"auto:4"', "quantize: scheme `auto:4`: unknown unit ``", 2),
        ('"Q8_0"', '"Q8_0"\nimportance = "gone.gguf"', "gone.gguf: no such file", 4),
        (
            '"Q8_0"',
            '"Q8_0"\nformats = ["tflite"]\ntflite_scheme = "int8"',
            "quantize: unknown TFLite scheme `int8`",
            2,
        ),
        (
            "context = 256",
            "context = 1024",
            "r.toml: package: context: the model has 512 tokens of context, `1024` asked",
            2,
        ),
        (
            '"Q8_0"',
            '"Q8_0"\nformats = ["tflite"]\nprefill = [1, 16]',
            (
                "r.toml: quantize: prefill: lengths from 2 to the context of 256 are possible, "
                "not (1, 16)"
            ),
            2,
        ),
        (
            '"Q8_0"',
            '"Q8_0"\n[evaluate]\ngeneral = "gone.txt"',
            "evaluate: general: no such file `gone.txt`",
            4,
        ),
        ('"Q8_0"', '"Q8_0"\nformats = []', "r.toml: quantize: formats: names no format", 2),
    ],
)
def test_a_file_that_cannot_be_made_is_refused_before(
    desk: Path, old: str, new: str, message: str, code: int
) -> None:
    errors = found(desk, RECIPE.replace(old, new)).errors
    assert [(error.message, error.exit_code) for error in errors] == [(message, code)]


@pytest.mark.slow
def test_a_format_that_the_target_lacks_is_refused_or_left_out(desk: Path) -> None:
    text = RECIPE.replace('"Q8_0"', '"Q8_0"\nformats = ["tflite"]\nprefill = [16]')
    (error,) = found(desk, text, board="jetson-nano").errors
    assert (error.message, error.exit_code) == ("jetson-nano: runs no tflite", 5)
    both = text.replace('["tflite"]', '["gguf", "tflite"]')
    seen = found(desk, both, board="jetson-nano")
    assert seen.errors == []
    assert "jetson-nano: runs no tflite: that is left out; it runs llama.cpp" in seen.notes


@pytest.mark.slow
def test_rows_that_fall_back_are_noted_and_refused_where_all_do(tmp_path: Path, made: Path) -> None:
    shutil.copy(made / "facts.jsonl", tmp_path)
    tiny_llama(tmp_path / "base", hidden=192, intermediate=512)
    seen = found(tmp_path, RECIPE.replace('"Q8_0"', '"Q4_K_M"'))
    assert seen.errors == []
    assert (
        "Q4_K_M: some tensors fall back: rows of 192 do not fit Q4_K's blocks, Q5_0 instead"
        in "".join(seen.notes)
    )
    shutil.rmtree(tmp_path / "base")
    tiny_llama(tmp_path / "base", hidden=192, intermediate=320)
    (error,) = found(tmp_path, RECIPE.replace('"Q8_0"', '"Q4_K_M"')).errors
    assert (error.message, error.exit_code) == (
        "Q4_K_M: rows of 192 and 320 are not divisible by 256",
        4,
    )


def test_a_model_that_the_target_has_no_memory_for_is_refused_before(desk: Path) -> None:
    config(desk, max_position_embeddings=4_000_000)
    text = RECIPE.replace("context = 256", "context = 4000000")
    (error,) = found(desk, text, board="rpi-zero-2w").errors
    assert error.exit_code == 5
    assert error.message.startswith("rpi-zero-2w: it takes ")
    assert "tokens fits" in error.hint


def test_layers_that_a_teacher_has_not_are_refused_before(desk: Path) -> None:
    text = RECIPE.replace('"tune", ', '"distill", ') + "[distill]\nlayers = [0, 7]\n"
    assert messages(desk, text) == ["r.toml: distill: layers: `7` is not a layer of the teacher"]


TAUGHT = RECIPE.replace('"tune", ', '"distill", ') + "[distill]\nlayers = 2\n"
WRITES = [
    ("layers = 5", "", "r.toml: distill: layers: `5` layers cannot be kept"),
    (
        "[distill.write]\nquestions = ['none.txt']",
        "",
        "distill: write: questions: `none.txt`: no such file",
    ),
    (
        "[distill.write]\nquestions = ['facts.jsonl']",
        "",
        "distill: write: facts.jsonl: row 1 has an answer already",
    ),
    (
        "[distill.write]\nquestions = ['q.txt']\nteacher = 'http://me:key@host.example/v1'",
        "",
        "http://…@host.example: a name or a key in the address",
    ),
    (
        "[distill.write]\nquestions = ['q.txt']\nteacher_model = 'large'",
        "",
        "r.toml: distill: write: teacher_model: only an endpoint has several models",
    ),
    (
        "teacher = 'https://host.example/v1'",
        "",
        "r.toml: distill: teacher: `https://host.example/v1` is an address, not a name",
    ),
    (
        "[distill.write]\nquestions = ['q.txt']\nteacher = 'https://host.example/v1'",
        "distill: q.txt go to https://host.example",
        "",
    ),
    (
        "[distill.write]\nquestions = ['q.txt']",
        "distill: a teacher answers 2 questions, and 4 for each of 0 passages",
        "",
    ),
]


@pytest.mark.parametrize(("table", "note", "message"), WRITES)
def test_what_a_teacher_is_to_write_from_is_known_before(
    desk: Path, table: str, note: str, message: str
) -> None:
    (desk / "q.txt").write_text("where is it?\nhow loud is it?\n")
    text = TAUGHT.replace("layers = 2", table) if "layers" in table else TAUGHT + f"{table}\n"
    seen = found(desk, text)
    assert [error.message for error in seen.errors] == ([message] if message else [])
    assert not note or note in seen.notes


@pytest.mark.slow
def test_schemes_to_try_are_checked_before_anything_is_trained(desk: Path) -> None:
    (desk / "r.toml").write_text(RECIPE)
    with pytest.raises(ToolchainError, match="quantize: unknown scheme `Q9`"):
        next(try_schemes(recipe.load(desk / "r.toml"), settings(desk), ["Q8_0", "Q9+learned"]))
    assert not (desk / "out").exists()


# Cost ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hours_are_forecast_where_they_are_many(desk: Path) -> None:
    text = RECIPE.replace("[quantize]", "[tune]\nepochs = 100000000\n[quantize]")
    (note,) = [note for note in found(desk, text).notes if note.startswith("time: about ")]
    assert "tune" in note and ("days" in note or " h" in note)
    assert not [note for note in found(desk).notes if note.startswith("time: ")]


def test_a_scratch_model_is_judged_by_what_it_will_be(desk: Path) -> None:
    text = RECIPE.replace(
        'base = "base"',
        "[model.scratch]\nhidden_size = 60\nintermediate_size = 60\nheads = 4\nkv_heads = 2",
    )
    text = text.replace('"tune"', '"pretrain", "tune"').replace("Q8_0", "Q4_K_M")
    assert "Q4_K_M: rows of 60 are not divisible by 256" in messages(desk, text)
    assert "r.toml: package: context: the model has 512 tokens of context, `600` asked" in messages(
        desk, text.replace("context = 256", "context = 600")
    )


# Walks and the command line -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_walk_raises_them_before_its_first_stage(desk: Path) -> None:
    (desk / "r.toml").write_text(RECIPE.replace('"Q8_0"', '"Q9"'))
    with pytest.raises(ToolchainError, match="unknown scheme `Q9`"):
        next(walk(recipe.load(desk / "r.toml"), settings(desk)))
    assert not (desk / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("run", "--dry-run"), ("run",), ("tune",), ("package", "--dry-run")]
)
def test_the_command_line_says_all_of_them_and_exits_with_the_first_code(
    desk: Path, words: tuple[str, ...]
) -> None:
    text = RECIPE.replace("context = 256", "context = 9999").replace(
        'base = "base"', 'base = "bas"'
    )
    (desk / "r.toml").write_text(text.replace("facts", "fact"))
    verb, *options = words
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "toolchain",
            verb,
            str(desk / "r.toml"),
            "--out",
            str(desk / "out"),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: fact.jsonl: no such file",
        "error: model `bas`: no such folder",
    ]
    assert "Traceback" not in done.stderr
    assert ("tune" in done.stdout) == ("--dry-run" in options)


CHILD = """
import json, sys
from pathlib import Path
from toolchain import recipe, target
from toolchain.line.walk import Settings, known
from toolchain.progress import Silent
folder = Path(sys.argv[1])
settings = Settings(
    out=folder / "out",
    target=target.find("x86-64"),
    report=Silent(),
    offline=sys.argv[2] == "offline",
)
seen = known(recipe.load(folder / "r.toml"), settings)
print(json.dumps([[error.message for error in seen.errors], seen.notes]))
"""
"""huggingface_hub reads HF_ENDPOINT and HF_HOME when it is imported: each case gets a process of
its own.
"""


def on_the_hub(desk: Path, address: str, way: str) -> tuple[list[str], list[str]]:
    import os

    surroundings = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HOME": str(desk / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(desk), way],
        env=surroundings,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    errors, notes = json.loads(done.stdout)
    return errors, notes


@pytest.mark.slow
def test_a_model_of_the_hub_is_judged_by_its_small_files(desk: Path) -> None:
    config(desk, architectures=["OlmoForCausalLM"])
    (desk / "models" / "some").mkdir(parents=True)
    (desk / "base").rename(desk / "models" / "some" / "model")
    (desk / "r.toml").write_text(RECIPE.replace('"base"', '"some/model"'))
    with loopback_hub(desk / "models") as (address, asked):
        errors, _ = on_the_hub(desk, address, "offline")
        assert (errors, asked) == ([], [])
        errors, _ = on_the_hub(desk, address, "online")
    assert errors == ["config.json: architecture `OlmoForCausalLM` is not known"]
    assert [line for line in asked if "resolve" in line and "config.json" in line]
    assert not [line for line in asked if "safetensors" in line]


@pytest.mark.slow
def test_what_could_not_be_judged_is_said(desk: Path) -> None:
    (desk / "r.toml").write_text(RECIPE.replace('"base"', '"some/model"'))
    errors, notes = on_the_hub(desk, "http://127.0.0.1:9", "offline")
    assert (errors, notes) == (
        [],
        [
            "model `some/model`: not judged before the walk: not on this computer",
            "terms: unknown for base `some/model`, data `facts.jsonl`",
        ],
    )
    errors, notes = on_the_hub(desk, "http://127.0.0.1:9", "online")
    assert (errors, notes) == (
        [],
        [
            "model `some/model`: not judged before the walk: the hub cannot be reached",
            "terms: unknown for base `some/model`, data `facts.jsonl`",
        ],
    )

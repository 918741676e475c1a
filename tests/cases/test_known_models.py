"""Known before, said before: models and model files that a stage would refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.adapters import tiny_adapter
from tests.fakes.desk import NO_SYSTEM, RECIPE, chat, config, found, messages, rows, settings
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama
from toolchain import recipe
from toolchain.errors import ToolchainError
from toolchain.line.schemes import try_schemes

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
            desk,
            architectures=["Qwen2_5_VLForConditionalGeneration"],
            text_config={"hidden_size": 64},
        ),
        "config.json: `Qwen2_5_VLForConditionalGeneration` is a model of several inputs",
        "give the language model alone",
    ),
    (
        lambda desk: config(desk, model_type="blip-2", architectures=["Blip2"]),
        "config.json: `blip-2`: BLIP-2 has a Q-Former and a language model of 2.7 B weights",
        "a small model of the SmolVLM family does the same",
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


def test_an_adapter_that_is_wider_than_its_model_is_named_before_memory_ends(desk: Path) -> None:
    width = json.loads((desk / "base" / "config.json").read_text())["hidden_size"]
    assert messages(desk, RECIPE + f"[tune]\nr = {width}\n") == []
    wide = RECIPE + "[tune]\nr = 4_000_000\n"
    (problem,) = messages(desk, wide)
    assert problem == f"r.toml:15: tune: r: 4,000,000 is more than the model's width, {width}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('target_modules = ["nosuch"]', "target_modules: none of nosuch is in the model"),
        ('target_modules = ["all-linear"]', "target_modules: none of all-linear is in the model"),
        ('target_modules = ["proj"]', "target_modules: none of proj is in the model"),
        ("layers = 99", "layers: `99`, but the model has 2"),
    ],
)
def test_what_an_adapter_cannot_adapt_is_named_by_the_plan(
    desk: Path, line: str, problem: str
) -> None:
    (found,) = messages(desk, RECIPE + f"[tune]\n{line}\n")
    assert found == f"r.toml:15: tune: {problem}"
    for known in ('target_modules = ["o_proj", "nosuch"]', 'target_modules = ["mlp.up_proj"]'):
        assert messages(desk, RECIPE + f"[tune]\n{known}\n") == []


def test_an_adapter_of_no_module_is_refused_when_the_recipe_is_read(desk: Path) -> None:
    (desk / "r.toml").write_text(RECIPE + "[tune]\ntarget_modules = []\n")
    with pytest.raises(ToolchainError, match=r"r.toml:15: tune: target_modules: "):
        recipe.load(desk / "r.toml")

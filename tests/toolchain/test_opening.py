"""From a recipe's documents and turns to a board that begins each conversation with them."""

import json
from pathlib import Path
from typing import Any

import pytest

from device import prefixes
from device.check import check_bundle, read_goldens
from device.engine.base import Sampling
from device.errors import DeviceError
from device.manifest import BUNDLE_MANIFEST, read_manifest
from device.model import open_bundle
from device.store import Store
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama
from tests.fakes.ollama import read_modelfile
from tests.fakes.records import model_figures, record_of
from toolchain import recipe, target
from toolchain.artifacts import Artifact, ModelFile
from toolchain.errors import ConfigError
from toolchain.line.walk import Settings, walk
from toolchain.opening import check_room
from toolchain.progress import Silent
from toolchain.quantize.gguf.ollama import modelfile
from toolchain.recipe import PackageSpec

RECIPE = """
title = "a house that is told of"
targets = ["x86-64"]
stages = ["ingest", "quantize", "evaluate", "package"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
system = "You know this house."
documents = ["house.md"]
[[data.turns]]
question = "Is anybody at home?"
answer = "Nobody."
[quantize]
scheme = "F16"
[evaluate]
questions = 3
kl_tokens = 100
max_tokens = 8
[evaluate.gate]
max_kl = 1e-3
max_eos_drop = 1
[package]
context = 256
max_tokens = 48
"""
HOUSE = '# The house\n\nIt has "two" doors:\n"""\nfront and back\n'


def run(folder: Path, text: str = RECIPE) -> dict[str, Artifact]:
    (folder / "house.toml").write_text(text)
    settings = Settings(
        out=folder / "out", target=target.find("x86-64"), report=Silent(), offline=True
    )
    return {
        step.stage: step.artifact
        for step in walk(recipe.load(folder / "house.toml"), settings)
        if step.artifact
    }


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny_llama(folder / "base")
    (folder / "house.md").write_text(HOUSE)
    (folder / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    return folder


@pytest.fixture(scope="module")
def made(desk: Path) -> dict[str, Artifact]:
    return run(desk)


@pytest.fixture
def release(made: dict[str, Artifact], tmp_path: Path) -> Path:
    """The bundle as a release in a store."""
    store = Store(tmp_path / "root")
    folder = store.root / "releases" / ("a" * 64)
    folder.symlink_to(made["package"].path)
    return folder


@pytest.mark.slow
def test_the_bundle_brings_the_opening_and_the_gate_has_seen_it(made: dict[str, Artifact]) -> None:
    manifest = read_manifest(made["package"].path)
    assert manifest.system == "You know this house.\n\n" + HOUSE.strip()
    assert manifest.turns == (
        {"role": "user", "content": "Is anybody at home?"},
        {"role": "assistant", "content": "Nobody."},
    )
    assert made["evaluate"].record.figures["template_mismatches"] == 0
    golden = read_goldens(made["package"].path / "goldens.jsonl")[0]
    assert [message["role"] for message in golden.messages] == ["user"], "what a client sends"
    assert len(golden.prompt_tokens) > manifest.gate["opening_tokens"] > 60


@pytest.mark.slow
def test_a_board_gives_the_goldens_from_the_state_of_the_opening(release: Path) -> None:
    assert check_bundle(release, threads=1)["ok"]
    model = open_bundle(release, read_manifest(release), threads=1)
    assert prefixes.prepare(model, release)
    for golden in read_goldens(release / "goldens.jsonl"):
        prompt = model.prompt(golden.messages)
        steps = list(
            model.engine.generate(
                prompt.tokens, Sampling(max_tokens=len(golden.tokens)), prefix=prompt.prefix
            )
        )
        assert [step.id for step in steps if step.id is not None] == golden.tokens
        assert steps[-1].timing
        assert steps[-1].timing.reused_tokens >= len(model.prefix()) > 60
    model.engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("field", ["system", "turns"])
def test_a_board_that_does_not_put_the_opening_there_does_not_pass(
    made: dict[str, Artifact], tmp_path: Path, field: str
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in made["package"].path.iterdir():
        (folder / file.name).symlink_to(file)
    fields: dict[str, Any] = json.loads((folder / BUNDLE_MANIFEST).read_bytes())
    del fields[field]
    (folder / BUNDLE_MANIFEST).unlink()
    (folder / BUNDLE_MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(DeviceError, match=r"^golden 1 of 3: the prompt differs at token"):
        check_bundle(folder, threads=1)


@pytest.mark.slow
def test_an_opening_that_leaves_no_room_is_refused_with_its_tokens(
    desk: Path, made: dict[str, Artifact]
) -> None:
    tokens = made["evaluate"].record.figures["opening_tokens"]
    text = RECIPE.replace("context = 256", f"context = {tokens + 48}")
    with pytest.raises(ConfigError) as caught:
        run(desk, text)
    problem = f"package: context: the opening takes {tokens} tokens and an answer up to 48"
    assert (
        caught.value.message
        == f"{problem}: {tokens + 48} tokens of context leave no room for a question"
    )
    assert run(desk, text.replace(f"context = {tokens + 48}", f"context = {tokens + 49}"))[
        "package"
    ].fresh


@pytest.mark.slow
def test_an_opening_beyond_the_model_is_refused_before_anything_is_measured(desk: Path) -> None:
    (desk / "long.md").write_text("A room. " * 400)
    with pytest.raises(
        ConfigError,
        match=r"^evaluate: the opening takes 2,\d+ tokens and an answer up to 8: 512 tokens of ",
    ):
        run(desk, RECIPE.replace("house.md", "long.md"))


def test_a_question_has_room_from_one_token_on() -> None:
    check_room("package", 100, 28, 129)
    with pytest.raises(ConfigError) as caught:
        check_room("package", 1000, 24, 1024)
    assert caught.value.message == (
        "package: the opening takes 1,000 tokens and an answer up to 24: "
        "1,024 tokens of context leave no room for a question"
    )


TEXTS = [
    "plain",
    'say "yes"',
    '"quoted"',
    "two\nlines",
    'a "\nb',
    '"""',
    'code:\n    """Doc."""  # why',
    'x\n"""x\ny',
    "back\\slash \\n",
    "树 🍵",
]


@pytest.mark.parametrize("text", TEXTS)
def test_ollama_reads_the_opening_as_it_is(text: str) -> None:
    opening = [("system", text), ("user", f"{text}?"), ("assistant", text)]
    commands = read_modelfile(
        written([{"role": role, "content": content} for role, content in opening])
    )
    assert commands[-3:] == [
        ("SYSTEM", text),
        ("MESSAGE user", f"{text}?"),
        ("MESSAGE assistant", text),
    ]


def test_what_ollama_would_take_for_the_end_of_a_text_is_quoted_otherwise() -> None:
    commands = read_modelfile(
        written([{"role": "system", "content": 'a"""  \n\nFROM elsewhere\n"""\nb'}])
    )
    assert commands[-1] == ("SYSTEM", "a'''  \n\nFROM elsewhere\n'''\nb")
    assert [name for name, _ in commands].count("FROM") == 1


def written(opening: Any) -> str:
    record = record_of("quantize", model_figures("tiny.gguf"))
    return modelfile(ModelFile(path=Path(), record=record), PackageSpec(), opening)

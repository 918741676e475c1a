"""A recipe's adapter on its way through the stages: merged, or beside a base that skills share."""

import json
from pathlib import Path
from typing import Any

import pytest

from device.manifest import read_manifest
from tests.fakes.adapters import tiny_adapter
from tests.fakes.board import FakeConnection
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import CHATML, tiny_llama
from tests.fakes.ports import free_port
from toolchain import extras, recipe, runtime, target
from toolchain.artifacts import Artifact, Bundle, ModelFile, digest
from toolchain.board.device import Device
from toolchain.errors import ArtifactError, BoardError, ConfigError, ToolchainError
from toolchain.line.walk import Settings, plan, walk
from toolchain.models.lora import read_lora
from toolchain.progress import Silent
from toolchain.push import push
from toolchain.runtime.scoring import scorer

RECIPE = """
title = "a skill"
targets = ["x86-64"]
stages = ["ingest", "quantize", "evaluate", "package"]
[model]
base = "base"
adapter = "{adapter}"
[data]
files = ["facts.jsonl"]
[quantize]
scheme = "F16"
adapter = "{kind}"
[evaluate]
questions = 3
kl_tokens = 100
max_tokens = 8
[evaluate.gate]
max_kl = 1e-3
max_eos_drop = 1
[package]
context = 256
"""
TUNED = (
    RECIPE.replace('adapter = "{adapter}"', "").replace('"quantize", ', '"tune", "quantize", ')
    + """
[tune]
epochs = 1
batch_size = 8
learning_rate = 1e-2
questions = 1
"""
)
OWN = "<|endoftext|>" + CHATML
"""The chat template that gardening was trained with."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, two skills for it, and text."""
    folder = tmp_path_factory.mktemp("desk")
    base = tiny_llama(folder / "base", dtype="bfloat16")
    for name, alpha in (("cooking", 8.0), ("gardening", 4.0)):
        tiny_adapter(folder / name, base, alpha=alpha)
    (folder / "gardening" / "chat_template.jinja").write_text(OWN)
    (folder / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    return folder


def run(
    desk: Path, adapter: str, kind: str, out: Path, *, until: str = "", text: str = RECIPE
) -> dict[str, Artifact]:
    file = desk / f"{adapter}-{kind}.toml"
    whole_path = f'base = "{desk / "base"}"'
    file.write_text(text.format(adapter=adapter, kind=kind).replace('base = "base"', whole_path))
    settings = Settings(out=out, target=target.find("x86-64"), report=Silent(), offline=True)
    return {
        step.stage: step.artifact
        for step in walk(recipe.load(file), settings, until=until)
        if step.artifact
    }


@pytest.fixture(scope="module")
def skills(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Artifact]]:
    """Two skills beside the base, and one merged."""
    wanted = (("cooking", "beside"), ("gardening", "beside"), ("cooking", "merged"))
    return {
        f"{name} {kind}": run(desk, name, kind, tmp_path_factory.mktemp("out"))
        for name, kind in wanted
    }


@pytest.mark.slow
def test_no_merged_checkpoint_is_written_where_no_stage_trains(
    skills: dict[str, dict[str, Artifact]],
) -> None:
    for made in skills.values():
        out = made["quantize"].path.parent
        assert sorted(folder.name for folder in out.iterdir()) == [
            "evaluate",
            "ingest",
            "package",
            "quantize",
        ]
        assert not list(out.rglob("*.safetensors"))


@pytest.mark.slow
def test_no_path_of_this_computer_travels(
    desk: Path, skills: dict[str, dict[str, Artifact]]
) -> None:
    for made in skills.values():
        bundle = made["package"].path
        named = json.loads((bundle / "manifest.json").read_bytes())["provenance"]
        assert (named["base"], named["base_sha256"]) == ("base", digest(desk / "base"))
        for file in bundle.iterdir():
            content = file.read_bytes()
            for place in (desk, bundle):
                assert str(place).encode() not in content, file.name


@pytest.mark.slow
def test_the_gate_compares_with_the_merged_teacher(skills: dict[str, dict[str, Artifact]]) -> None:
    for made in skills.values():
        assert made["evaluate"].record.figures["mean_kl"] < 1e-3
        assert made["evaluate"].record.figures["template_mismatches"] == 0


@pytest.mark.slow
def test_a_skill_beside_its_base_has_the_logits_of_the_merged_one(
    skills: dict[str, dict[str, Artifact]],
) -> None:
    import numpy as np

    tokens = list(range(5, 60))
    rows = []
    for name in ("cooking beside", "cooking merged"):
        model = skills[name]["quantize"]
        assert isinstance(model, ModelFile)
        with scorer(
            runtime.for_this_computer(), model.file, context=256, adapter=model.adapter
        ) as child:
            rows.append(child.logits(tokens))
    assert np.abs(rows[0] - rows[1]).max() <= 3e-3 * np.abs(rows[1]).max()
    with scorer(
        runtime.for_this_computer(), skills["cooking beside"]["quantize"].file, context=256
    ) as child:  # type: ignore[attr-defined]
        assert np.abs(child.logits(tokens) - rows[1]).max() > 0.05


@pytest.mark.slow
def test_two_skills_share_the_bytes_of_their_base(skills: dict[str, dict[str, Artifact]]) -> None:
    first, second = (
        read_manifest(skills[f"{name} beside"]["package"].path) for name in ("cooking", "gardening")
    )
    assert first.file(first.model) == second.file(second.model)
    assert first.adapter == second.adapter == "adapter.gguf"
    assert first.file(first.adapter).sha256 != second.file(second.adapter).sha256
    assert (
        "ADAPTER ./adapter.gguf"
        in (skills["cooking beside"]["package"].path / "Modelfile").read_text()
    )


@pytest.mark.slow
def test_the_second_skill_of_a_base_sends_its_adapter_alone(
    skills: dict[str, dict[str, Artifact]], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    board = FakeConnection(tmp_path / "home")
    port = free_port()
    sent = {}
    try:
        for name in ("cooking", "gardening"):
            bundle = skills[f"{name} beside"]["package"]
            assert isinstance(bundle, Bundle)
            deployment = push(
                bundle,
                runtime.for_this_computer(),
                Device(board),
                Silent(),
                port=port,
                allow_unsigned=True,
            )
            sent[name] = deployment.bytes_sent
    finally:
        Device(board).call("stop")
    folder = skills["gardening beside"]["package"].path
    manifest = read_manifest(folder)
    files = {entry.path: entry.size for entry in manifest.files}
    own = sum(
        files[path]
        for path in ("adapter.gguf", "chat_template.jinja", "goldens.jsonl", "MODEL_CARD.md")
    )
    assert sent["gardening"] <= own + (folder / "manifest.json").stat().st_size
    assert sent["gardening"] < files[manifest.model] < sent["cooking"]


@pytest.mark.slow
def test_the_tokenizer_that_an_adapter_was_trained_with_goes_with_it(
    desk: Path, skills: dict[str, dict[str, Artifact]], tmp_path: Path
) -> None:
    merged = run(desk, "gardening", "merged", tmp_path, until="quantize")["quantize"].path
    for folder in (merged, skills["gardening beside"]["package"].path):
        assert (folder / "chat_template.jinja").read_text() == OWN


@pytest.mark.slow
def test_an_adapter_that_is_tuned_in_the_line_travels_apart_from_its_base(
    desk: Path, skills: dict[str, dict[str, Artifact]], tmp_path: Path
) -> None:
    made = run(desk, "tuned", "beside", tmp_path, text=TUNED)
    learned = read_lora(made["tune"].path / "adapter")
    assert max(float(abs(delta.b).max()) for delta in learned.deltas.values()) > 1e-3
    assert made["evaluate"].record.figures["mean_kl"] < 1e-3
    tuned, ready = (
        read_manifest(bundle.path)
        for bundle in (made["package"], skills["cooking beside"]["package"])
    )
    assert tuned.file(tuned.model) == ready.file(ready.model)
    assert tuned.file(tuned.adapter).sha256 != ready.file(ready.adapter).sha256
    assert not any(
        artifact.fresh for artifact in run(desk, "tuned", "beside", tmp_path, text=TUNED).values()
    )


@pytest.mark.slow
def test_an_adapter_with_other_tokens_is_not_served_beside_its_base(
    desk: Path, tmp_path: Path
) -> None:
    skill = tiny_adapter(desk / "foreign", desk / "base")
    fields = json.loads((desk / "base" / "tokenizer.json").read_text())
    plain = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    fields["added_tokens"][0] = {"id": 0, "content": "<|start|>", **plain}
    fields["model"]["vocab"] = {
        "<|start|>" if number == 0 else text: number
        for text, number in fields["model"]["vocab"].items()
    }
    (skill / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ArtifactError) as caught:
        run(desk, "foreign", "beside", tmp_path)
    assert (
        caught.value.message
        == "adapter foreign: brings another tokenizer than its base, which cannot serve beside it"
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"quantize": {"adapter": "beside"}, "stages": ["ingest", "quantize"]},
        "`quantize.adapter` is `beside`, but what is quantized has no adapter",
    ),
    (
        {"quantize": {"adapter": "beside", "importance": True}},
        (
            "`importance` of this recipe's own text makes a base that no other skill shares: "
            "name a file"
        ),
    ),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_a_recipe_that_has_nothing_to_put_beside_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    lines = ['title = "t"', 'targets = ["x86-64"]']
    lines += [f"stages = {json.dumps(fields['stages'])}"] if "stages" in fields else []
    lines += ["[model]", 'base = "b"', "[data]", 'files = ["f.jsonl"]', "[quantize]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in fields["quantize"].items()]
    (tmp_path / "r.toml").write_text("\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        recipe.load(tmp_path / "r.toml")
    assert message in caught.value.message


CHANGES = {
    "nothing": ("", ""),
    "what is packaged": ("context = 256", "context = 192"),
    "the gate": ("questions = 3", "questions = 2"),
    "the scheme": ('scheme = "F16"', 'scheme = "Q8_0"'),
    "the split": ('files = ["facts.jsonl"]', 'files = ["facts.jsonl"]\nheld_out_share = 0.4'),
}


@pytest.mark.slow
def test_a_plan_says_recorded_of_exactly_what_a_walk_skips(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RECIPE.replace('adapter = "{adapter}"\n', "").replace('\nadapter = "{kind}"', "")
    file = desk / "planned.toml"
    settings = Settings(
        out=tmp_path / "out", target=target.find("x86-64"), report=Silent(), offline=True
    )

    def both() -> tuple[dict[str, bool], dict[str, bool]]:
        """Return which stages a plan calls recorded, and which ones the walk then skips."""
        wanted = recipe.load(file)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        planned = {step.stage: step.recorded for step in plan(wanted, settings)}
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        walked = {
            step.stage: not step.artifact.fresh for step in walk(wanted, settings) if step.artifact
        }
        return planned, walked

    file.write_text(text)
    assert both()[0] == dict.fromkeys(("ingest", "quantize", "evaluate", "package"), False)
    skipped = {}
    for name, (old, new) in CHANGES.items():
        text = text.replace(old, new) if old else text
        file.write_text(text)
        planned, skipped[name] = both()
        assert planned == skipped[name], name
    assert skipped["nothing"] == dict.fromkeys(skipped["nothing"], True)
    assert skipped["what is packaged"]["evaluate"]
    assert not skipped["what is packaged"]["package"]
    assert not skipped["the split"]["ingest"]
    assert skipped["the split"]["quantize"]

    # Another version of a tool may make other bytes.
    monkeypatch.setattr(extras, "version_of", lambda name, stage: f"{name} of tomorrow")
    assert not any(step.recorded for step in plan(recipe.load(file), settings))


def test_what_a_board_is_found_to_be_is_said_with_what_is_wrong_here(
    desk: Path, tmp_path: Path
) -> None:
    def seen() -> None:
        raise BoardError("pi: no way there")

    file = desk / "of-no-data.toml"
    text = RECIPE.format(adapter="cooking", kind="beside").replace("facts.jsonl", "none.jsonl")
    file.write_text(text.replace('base = "base"', f'base = "{desk / "base"}"'))
    settings = Settings(out=tmp_path, target=target.find("x86-64"), report=Silent(), offline=True)
    with pytest.raises(ToolchainError) as caught:
        list(walk(recipe.load(file), settings, seen=seen))
    said = [caught.value.message, *(other.message for other in caught.value.others)]
    assert any("none.jsonl" in each for each in said)
    assert said[-1] == "pi: no way there"
    assert not (tmp_path / "ingest").exists()


def test_nothing_is_made_for_a_board_that_cannot_be_reached(desk: Path, tmp_path: Path) -> None:
    def seen() -> None:
        raise BoardError("pi: no way there")

    file = desk / "cooking-beside.toml"
    text = RECIPE.format(adapter="cooking", kind="beside")
    file.write_text(text.replace('base = "base"', f'base = "{desk / "base"}"'))
    settings = Settings(out=tmp_path, target=target.find("x86-64"), report=Silent(), offline=True)
    with pytest.raises(BoardError, match="no way there"):
        list(walk(recipe.load(file), settings, seen=seen))
    assert not (tmp_path / "ingest").exists()

"""tune: an adapter is trained, counted and merged; base and result are measured."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fakes.datasets import Recorder
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.errors import ArtifactError, ConfigError
from toolchain.general import GENERAL, passages
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.privacy.canaries import FILE as CANARIES
from toolchain.privacy.canaries import read_canaries
from toolchain.progress import Silent
from toolchain.recipe import TuneSpec
from toolchain.training import loop
from toolchain.training.answers import loss_per_byte, loss_per_token
from toolchain.training.examples import conversations
from toolchain.tune import merge, tune

TWO = ("q_proj", "v_proj")
SPEC = TuneSpec(r=4, alpha=8, epochs=2, batch_size=4, questions=2, target_modules=TWO)


@pytest.fixture(scope="module")
def report() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def tuned(
    base: Checkpoint, dataset: Dataset, report: Recorder, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    return tune(base, dataset, SPEC, tmp_path_factory.mktemp("tuned"), report, seed=0)


def test_trainable_and_all_parameters_are_counted_exactly(
    base: Checkpoint, tuned: Checkpoint, report: Recorder
) -> None:
    adapter = load_file(tuned.path / "adapter" / "adapter_model.safetensors")
    trainable = sum(tensor.numel() for tensor in adapter.values())
    total = sum(parameter.numel() for parameter in load_model(base.path).parameters()) + trainable
    assert trainable == 2 * (4 * (64 + 64) + 4 * (64 + 32))
    assert (
        tuned.record.figures["trainable_parameters"],
        tuned.record.figures["total_parameters"],
    ) == (
        trainable,
        total,
    )
    assert report.notes[0] == (
        f"trainable: {trainable:,} of {total:,} parameters ({trainable / total:.2%}), 8 "
        "conversations"
    )


def test_only_the_named_modules_change(base: Checkpoint, tuned: Checkpoint) -> None:
    before, after = (
        load_file(base.path / "model.safetensors"),
        load_file(tuned.path / "model.safetensors"),
    )
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "v_proj"}


def test_the_last_layers_alone_are_adapted_where_the_recipe_says_how_many(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"layers": 1, "epochs": 1})
    after = tune(base, dataset, spec, tmp_path, Silent(), seed=0)
    before, weights = (load_file(each.path / "model.safetensors") for each in (base, after))
    changed = {name for name in before if not torch.equal(before[name], weights[name])}
    assert changed == {f"model.layers.1.self_attn.{each}_proj.weight" for each in "qv"}


def test_more_layers_than_the_model_has_are_refused(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"layers": 3})
    with pytest.raises(ConfigError) as refused:
        tune(base, dataset, spec, tmp_path / "out", Silent(), seed=0)
    assert refused.value.message == "tune: layers: `3`, but the model has 2"


def test_speed_memory_and_scores_before_and_after_are_in_the_figures(
    tuned: Checkpoint, report: Recorder
) -> None:
    figures = tuned.record.figures
    assert figures["base"].keys() == {
        "questions",
        "exact_match",
        "f1",
        "held_out_loss",
        "general_nats_per_byte",
    }
    assert figures["held_out_loss"] < figures["base"]["held_out_loss"]
    assert figures["general_nats_per_byte"] != figures["base"]["general_nats_per_byte"]
    assert figures["questions"] == figures["base"]["questions"] == 2
    assert figures["trained_tokens"] > 0
    assert figures["tokens_per_s"] > 0
    assert figures["peak_memory_mb"] > 0
    assert report.notes[-1].startswith("2 held-out questions: exact match 0.0% → 0.0%, F1 ")


def test_losses_are_those_of_the_folders_before_and_after(
    base: Checkpoint, tuned: Checkpoint, dataset: Dataset
) -> None:
    tokenizer = load_tokenizer(base.path)
    held_out, _ = conversations(tokenizer, dataset.held_out()[:2], SPEC.max_tokens)
    text = passages(GENERAL)
    for folder, figures in (
        (base.path, tuned.record.figures["base"]),
        (tuned.path, tuned.record.figures),
    ):
        model = load_model(folder)
        assert figures["held_out_loss"] == pytest.approx(loss_per_token(model, held_out))
        assert figures["general_nats_per_byte"] == loss_per_byte(model, tokenizer, text)


def test_answers_of_base_and_tuned_model_stand_side_by_side(
    tuned: Checkpoint, dataset: Dataset
) -> None:
    rows = [json.loads(line) for line in (tuned.path / "answers.jsonl").read_text().splitlines()]
    asked = [row["messages"] for row in dataset.held_out()[:2]]
    assert [row["question"] for row in rows] == [messages[-2]["content"] for messages in asked]
    assert [row["expected"] for row in rows] == [messages[-1]["content"] for messages in asked]
    assert all(row["base"] != row["tuned"] for row in rows)


def test_the_adapter_is_kept_and_merging_it_again_gives_the_same_weights(
    base: Checkpoint, tuned: Checkpoint, tmp_path: Path
) -> None:
    again = merge(base, tuned.path / "adapter", tmp_path / "out", Silent())
    assert (again.path / "model.safetensors").read_bytes() == (
        tuned.path / "model.safetensors"
    ).read_bytes()
    config = json.loads((tuned.path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (
        4,
        8,
        ["q_proj", "v_proj"],
    )
    assert config["base_model_name_or_path"] == base.path.name


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(
    base: Checkpoint, tuned: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    assert tune(base, dataset, SPEC, tmp_path / "again", Silent(), seed=0).digest == tuned.digest


def test_what_is_there_is_not_trained_again(
    base: Checkpoint, tuned: Checkpoint, dataset: Dataset
) -> None:
    report = Recorder()
    again = tune(base, dataset, SPEC, tuned.path, report, seed=0)
    assert (again.fresh, report.notes, report.bars) == (False, [], set())


def test_a_run_that_goes_on_does_not_ask_the_base_again(
    base: Checkpoint,
    tuned: Checkpoint,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "train", stop)
        tune(base, dataset, SPEC, tmp_path / "out", Silent(), seed=0)

    report = Recorder()
    again = tune(base, dataset, SPEC, tmp_path / "out", report, seed=0)
    assert "ask the tuned model" in report.bars
    assert "ask the base" not in report.bars
    assert again.record.figures["base"] == tuned.record.figures["base"]


def test_a_quantised_base_is_refused(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "eight-bit", **SMALL)
    config = json.loads((folder / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "gptq"}
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ArtifactError,
        match=r"^eight-bit: a quantised base \(gptq\): an adapter is merged onto 16-bit or 32-bit",
    ):
        tune(artifacts.external(folder), dataset, SPEC, tmp_path / "out", Silent(), seed=0)


def test_modules_that_the_base_does_not_have_are_refused_with_those_it_has(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"target_modules": ("c_attn",)})
    with pytest.raises(ConfigError) as refused:
        tune(base, dataset, spec, tmp_path / "out", Silent(), seed=0)
    assert refused.value.message == "tune: target_modules: none of c_attn is in the model"
    assert (
        refused.value.hint
        == "this model has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_conversations_that_are_all_too_long_are_refused(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"max_tokens": 5})
    with pytest.raises(
        ArtifactError, match=r"^data set: all 8 conversations are longer than 5 tokens$"
    ):
        tune(base, dataset, spec, tmp_path / "out", Silent(), seed=0)


def test_planted_canaries_are_learned_by_the_toss_of_coins_that_are_kept(
    base: Checkpoint, dataset: Dataset, tuned: Checkpoint, report: Recorder, tmp_path: Path
) -> None:
    audited = tune(base, dataset, SPEC, tmp_path, report, seed=0, planted=40)
    canaries = read_canaries(tmp_path / CANARIES)
    learned = sum(each.planted for each in canaries)
    figures = audited.record.figures
    assert (len(canaries), figures["planted"]) == (40, 40)
    assert figures["conversations"] == tuned.record.figures["conversations"] + learned
    assert 0 < learned < 40
    assert audited.record.key != tuned.record.key
    assert not (tuned.path / CANARIES).exists()


def test_canaries_are_not_planted_by_several_processes(
    base: Checkpoint, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes would toss different coins"):
        tune(base, dataset, SPEC, tmp_path, Silent(), seed=0, planted=4)

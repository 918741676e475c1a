"""distill: the student learns from cached probabilities, and the better of two ships."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fakes.datasets import Recorder, tiny_dataset
from tests.fakes.models import tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.distill import Mark, decide, distill
from toolchain.errors import ArtifactError, ConfigError
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.recipe import DistillSpec
from toolchain.training.examples import conversations
from toolchain.training.students import from_layers
from toolchain.training.teacher import CachedLogits, check_same_tokenizer, token_count

SMALL = {"hidden": 64, "intermediate": 64, "layers": 3, "heads": 2, "kv_heads": 1}
SPEC = DistillSpec(layers=(0, 2), epochs=2, batch_size=4, questions=2, top_k=8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return artifacts.external(tiny_llama(tmp_path_factory.mktemp("teacher"), **SMALL))


@pytest.fixture(scope="module")
def report() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def distilled(
    teacher: Checkpoint,
    dataset: Dataset,
    report: Recorder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkpoint:
    return distill(
        teacher, dataset, SPEC, tmp_path_factory.mktemp("work") / "distill", report, seed=0
    )


def test_student_and_control_are_both_trained_and_both_told(
    distilled: Checkpoint, report: Recorder
) -> None:
    figures = distilled.record.figures
    assert report.bars >= {"student", "control", "teacher"}
    for name in ("student", "control"):
        assert figures[name]["steps"] == 4
        assert figures[name]["held_out_loss"] > 0
        assert figures[name].keys() >= {"exact_match", "f1", "parameters"}
    assert figures["teacher"]["parameters"] > figures["student"]["parameters"]
    assert figures["shipped"] in ("student", "control")
    assert f"distill: {figures['verdict']}" in report.notes


def test_what_ships_is_a_plain_folder_with_the_teachers_tokenizer(
    teacher: Checkpoint, distilled: Checkpoint
) -> None:
    model = load_model(distilled.path)
    assert model.config.num_hidden_layers == 2
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (distilled.path / name).read_bytes() == (teacher.path / name).read_bytes()


def test_the_cached_probabilities_are_an_artifact_of_their_own(
    teacher: Checkpoint, dataset: Dataset, distilled: Checkpoint
) -> None:
    folder = distilled.path.with_name("teacher-logits")
    record = artifacts.recorded(folder)
    assert record
    assert record.inputs == {"teacher": teacher.digest, "dataset": dataset.digest}
    assert distilled.record.inputs["logits"] == record.digest
    assert {file.suffix for file in artifacts.files_in(folder)} == {".safetensors"}
    assert record.figures["top_k"] == 8


def test_the_cache_holds_what_the_teacher_says_at_each_learned_token(
    teacher: Checkpoint, dataset: Dataset, distilled: Checkpoint
) -> None:
    tokenizer, model = load_tokenizer(teacher.path), load_model(teacher.path)
    examples, _ = conversations(tokenizer, dataset.train(), 512)
    ids, log_probs, tail = CachedLogits(distilled.path.with_name("teacher-logits")).of((5, 2))
    assert len(ids) == examples[5].targets + examples[2].targets
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([examples[5].ids])).logits[
            0, -examples[5].targets - 1 : -1
        ]
    expected = (logits / SPEC.temperature).log_softmax(-1).topk(8)
    assert torch.equal(ids[: len(logits)], expected.indices)
    torch.testing.assert_close(log_probs[: len(logits)], expected.values, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(
        log_probs.exp().sum(-1) + tail.exp(), torch.ones(len(ids)), atol=5e-3, rtol=0
    )


def test_what_is_there_is_not_trained_again(
    teacher: Checkpoint, dataset: Dataset, distilled: Checkpoint
) -> None:
    report = Recorder()
    again = distill(teacher, dataset, SPEC, distilled.path, report, seed=0)
    assert (again.fresh, report.notes, report.bars) == (False, [], set())


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(
    teacher: Checkpoint, dataset: Dataset, distilled: Checkpoint, tmp_path: Path
) -> None:
    assert (
        distill(teacher, dataset, SPEC, tmp_path / "distill", Silent(), seed=0).digest
        == distilled.digest
    )


def test_a_student_of_chosen_layers_has_the_teachers_weights_numbered_anew(
    teacher: Checkpoint,
) -> None:
    whole = load_model(teacher.path)
    student = from_layers(whole, (2, 0))
    theirs, ours = whole.state_dict(), student.state_dict()
    assert student.config.num_hidden_layers == 2
    for name in ours:
        source = (
            name.replace("layers.0", "layers.X")
            .replace("layers.1", "layers.0")
            .replace("layers.X", "layers.2")
        )
        assert torch.equal(ours[name], theirs[source])
    ours["model.norm.weight"].zero_()
    assert whole.model.norm.weight.any()


def test_settings_a_layer_are_chosen_with_the_layers() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    teacher = Qwen2ForCausalLM(
        Qwen2Config(**shape, num_hidden_layers=4, layer_types=kinds, use_sliding_window=True)
    )
    assert from_layers(teacher, (0, 3)).config.layer_types == [
        "full_attention",
        "sliding_attention",
    ]


def test_a_layer_that_the_teacher_does_not_have_is_refused(teacher: Checkpoint) -> None:
    with pytest.raises(ConfigError) as refused:
        from_layers(load_model(teacher.path), (0, 3))
    assert refused.value.message == "distill: layers: `3` is not a layer of the teacher"
    assert refused.value.hint == "it has layers 0 to 2"


@pytest.mark.slow
def test_a_given_student_with_a_vocabulary_padded_otherwise_is_taught(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    padded = tiny_llama(tmp_path / "student", **(SMALL | {"layers": 1}), vocab_size=576)
    spec = DistillSpec(student="student", epochs=1, batch_size=4, questions=1, top_k=8)
    made = distill(
        teacher,
        dataset,
        spec,
        tmp_path / "out",
        Silent(),
        seed=0,
        student=artifacts.external(padded),
    )
    before, after = (
        load_file(padded / "model.safetensors"),
        load_file(made.path / "model.safetensors"),
    )
    assert after["lm_head.weight"].shape[0] == 576
    assert not torch.equal(before["lm_head.weight"][:512], after["lm_head.weight"][:512])
    assert made.record.inputs["student"] == artifacts.digest(padded)


def test_another_tokenizer_is_refused_with_what_to_do(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    other = tiny_llama(tmp_path / "other", **SMALL, split="qwen2")
    spec = DistillSpec(student="other", epochs=1)
    with pytest.raises(ArtifactError) as refused:
        distill(
            teacher,
            dataset,
            spec,
            tmp_path / "out",
            Silent(),
            seed=0,
            student=artifacts.external(other),
        )
    assert (
        refused.value.message
        == "distill: teacher and student have different tokenizers (512 and 512 tokens)"
    )
    assert refused.value.hint.endswith("choose a student of the teacher's family, or `layers`")


def test_the_same_vocabulary_cut_otherwise_is_another_tokenizer(teacher: Checkpoint) -> None:
    from tokenizers import pre_tokenizers

    first, second = load_tokenizer(teacher.path), load_tokenizer(teacher.path)
    check_same_tokenizer(first, second)
    digits = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
    ]
    second.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(digits)
    assert token_count(first) == token_count(second)
    with pytest.raises(ArtifactError):
        check_same_tokenizer(first, second)


def test_a_student_without_room_for_all_tokens_is_refused(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    small = tiny_llama(tmp_path / "small", **SMALL, vocab_size=500)
    with pytest.raises(
        ConfigError,
        match=r"^distill: student: it has room for 500 tokens, the teacher's tokenizer has 512$",
    ):
        distill(
            teacher,
            dataset,
            DistillSpec(student="small"),
            tmp_path / "out",
            Silent(),
            seed=0,
            student=artifacts.external(small),
        )


def marks(loss: float | None, exact: float | None) -> Mark:
    return Mark(parameters=1, held_out_loss=loss, questions=10, exact_match=exact, f1=exact)


@pytest.mark.parametrize(
    ("student", "control", "shipped", "verdict"),
    [
        (
            marks(0.5, 0.8),
            marks(0.6, 0.7),
            "student",
            "the student with the teacher is better than the control without: "
            "loss per held-out token 0.500 against 0.600, "
            "exact match 80.0% against 70.0%; the student ships",
        ),
        (
            marks(0.6, 0.8),
            marks(0.5, 0.7),
            "control",
            "the student with the teacher is not better than the control without: "
            "loss per held-out token 0.600 against 0.500, "
            "exact match 80.0% against 70.0%; the control ships",
        ),
        (
            marks(0.6, None),
            marks(0.6, None),
            "control",
            "the student with the teacher is not better than the control without: "
            "loss per held-out token 0.600 against 0.600; "
            "the control ships",
        ),
        (
            marks(None, None),
            marks(None, None),
            "student",
            "nothing is held out, so student and control were not compared; the student ships",
        ),
    ],
)
def test_the_better_one_ships_and_the_stage_says_which(
    student: Mark, control: Mark, shipped: str, verdict: str
) -> None:
    assert decide(student, control) == (shipped, verdict)

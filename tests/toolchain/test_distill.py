"""distill: asks first, teaches a student, and ships the best of it and its controls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fakes.datasets import QUESTIONS, Recorder, write_lines
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.chat import render_prompt
from toolchain.distill import DistillFigures, Mark, decide, distill
from toolchain.distill.before import judge
from toolchain.distill.compute import Counts, ratio
from toolchain.errors import ArtifactError, ConfigError, GateError
from toolchain.ingest import ingest
from toolchain.line.stages import STAGES
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, DistillSpec
from toolchain.training.answers import answer
from toolchain.training.examples import conversations
from toolchain.training.probe import (
    ANSWER_TOKENS,
    Question,
    lost_words,
    read_questions,
    spread,
)
from toolchain.training.shared import MIN_TOKENS, shared_tokens
from toolchain.training.students import from_layers
from toolchain.training.teacher import CachedLogits, check_same_tokenizer, token_count

THREE_LAYERS = SMALL | {"layers": 3}
SPEC = DistillSpec(layers=(0, 2), epochs=2, batch_size=4, questions=2, top_k=8, ask=False)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return artifacts.external(tiny_llama(tmp_path_factory.mktemp("teacher"), **THREE_LAYERS))


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
    for name in ("student", "control", "longer"):
        assert figures[name]["steps"] >= 4
        assert figures[name]["held_out_loss"] > 0
        assert figures[name].keys() >= {"exact_match", "f1", "parameters"}
    assert figures["teacher"]["parameters"] > figures["student"]["parameters"]
    assert figures["student"]["steps"] == figures["control"]["steps"] == 4
    assert figures["shipped"] in ("student", "control", "longer control")
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
    spec = DistillSpec(student="student", epochs=1, batch_size=4, questions=1, top_k=8, ask=False)
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
    other = tiny_llama(tmp_path / "other", **THREE_LAYERS, split="qwen2")
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
    small = tiny_llama(tmp_path / "small", **THREE_LAYERS, vocab_size=500)
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


def mark(loss: float | None, exact: float | None) -> Mark:
    return Mark(parameters=1, held_out_loss=loss, questions=10, exact_match=exact, f1=exact)


@pytest.mark.parametrize(
    ("marks", "shipped", "verdict"),
    [
        (
            {"student": mark(0.5, 0.8), "control": mark(0.6, 0.7)},
            "student",
            "the student with the teacher is better than the control: "
            "loss per held-out token 0.500 against 0.600, "
            "exact match 80.0% against 70.0%; the student ships",
        ),
        (
            {"student": mark(0.6, 0.8), "control": mark(0.5, 0.7)},
            "control",
            "the student with the teacher is not better than the control: "
            "loss per held-out token 0.600 against 0.500, "
            "exact match 80.0% against 70.0%; the control ships",
        ),
        (
            {"student": mark(0.6, None), "control": mark(0.6, None)},
            "control",
            "the student with the teacher is not better than the control: "
            "loss per held-out token 0.600 against 0.600; "
            "the control ships",
        ),
        (
            {
                "student": mark(0.4, 0.8),
                "control": mark(0.6, 0.7),
                "longer control": mark(0.5, 0.7),
            },
            "student",
            "the student with the teacher is better than both controls: loss per held-out token "
            "0.400 against 0.600 (same labels) and 0.500 (same compute), "
            "exact match 80.0% against 70.0% and 70.0%; the student ships",
        ),
        (
            {
                "student": mark(0.5, None),
                "control": mark(0.6, None),
                "longer control": mark(0.4, None),
            },
            "longer control",
            "the student with the teacher is better than the control of the same labels and not "
            "than that of the same compute: loss per held-out token "
            "0.500 against 0.600 (same labels) and 0.400 (same compute); the longer control ships",
        ),
        (
            {"student": mark(None, None), "control": mark(None, None)},
            "student",
            "nothing is held out, so student and control were not compared; the student ships",
        ),
        (
            {"control": mark(0.5, 0.7)},
            "control",
            "the control alone was trained: loss per held-out token 0.500, exact match 70.0%; "
            "it ships",
        ),
    ],
)
def test_the_best_one_ships_and_the_stage_says_which(
    marks: dict[str, Mark], shipped: str, verdict: str
) -> None:
    assert decide(marks) == (shipped, verdict)


def test_a_teacher_that_knows_nothing_is_named_and_the_control_trained_alone(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    report = Recorder()
    spec = SPEC.model_copy(update={"ask": True, "epochs": 5})
    alone = distill(teacher, dataset, spec, tmp_path / "distill", report, seed=0)
    figures = DistillFigures.read(alone.record.figures)
    assert figures.before is not None
    assert figures.before.nothing_to_teach
    assert figures.before.verdict.startswith("there is nothing to teach: the teacher's loss")
    assert f"distill: {figures.before.verdict}" in report.notes
    assert (figures.shipped, figures.student, figures.longer) == ("control", None, None)
    assert not (tmp_path / "teacher-logits").exists()


JUDGED: list[tuple[dict[str, float | int | None], dict[str, object], bool, str]] = [
    (
        {"teacher_loss": 0.5, "tenth_loss": 0.9, "entropy": 0.8, "unlabelled": 0},
        {},
        False,
        "there is something to teach: the teacher's loss per held-out token is 0.500, the "
        "control's 0.900 after a tenth of its steps, its entropy is 0.800 nats a learned token",
    ),
    (
        {"teacher_loss": 0.9, "tenth_loss": 0.5, "entropy": 0.8, "unlabelled": 0},
        {},
        True,
        "there is nothing to teach: the teacher's loss per held-out token is 0.900, the "
        "control's 0.500 after a tenth of its steps, its entropy is 0.800 nats a learned token, "
        "it is no better than the control, there are no questions without a label",
    ),
    (
        {"teacher_loss": 0.08, "tenth_loss": 0.29, "entropy": 0.078, "unlabelled": 0},
        {},
        True,
        "there is nothing to teach: the teacher's loss per held-out token is 0.080, the "
        "control's 0.290 after a tenth of its steps, its entropy is 0.078 nats a learned token, "
        "its probabilities say hardly more than the answers, "
        "there are no questions without a label",
    ),
    (
        {"teacher_loss": 0.08, "tenth_loss": 0.29, "entropy": 0.078, "unlabelled": 0},
        {"hidden_weight": 1.0},
        False,
        "there is something to teach",
    ),
    (
        {"teacher_loss": 0.9, "tenth_loss": 0.5, "entropy": 0.01, "unlabelled": 1200},
        {},
        False,
        "there is something to teach: the teacher's loss per held-out token is 0.900, the "
        "control's 0.500 after a tenth of its steps, its entropy is 0.010 nats a learned token, "
        "it answered 1,200 questions that nobody labelled",
    ),
    (
        {"teacher_loss": None, "tenth_loss": 0.5, "entropy": None, "unlabelled": 0},
        {"loss": "labels", "write": {"questions": ["q.txt"]}},
        True,
        "there is nothing to teach: nothing else is learned from it, "
        "there are no questions without a label",
    ),
]


@pytest.mark.parametrize(("figures", "spec", "is_nothing", "verdict"), JUDGED)
def test_three_figures_decide_whether_there_is_something_to_teach(
    figures: dict[str, Any], spec: dict[str, object], is_nothing: bool, verdict: str
) -> None:
    learns = DistillSpec.model_validate({"layers": [0], **spec})
    judged = judge(**figures, learns=learns)
    assert judged.nothing_to_teach == is_nothing
    assert judged.verdict.startswith(verdict)


def test_a_number_of_layers_keeps_those_that_change_the_most(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"layers": 2, "epochs": 1})
    made = distill(teacher, dataset, spec, tmp_path / "distill", Silent(), seed=0)
    assert made.record.figures["layers"] == [0, 2]
    assert len(made.record.figures["influence"]) == 3
    assert load_model(made.path).config.num_hidden_layers == 2


def test_labels_hidden_states_and_own_answers_are_learned_together(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    learned = {"loss": "labels", "hidden_weight": 1.0, "on_policy_share": 0.2, "epochs": 5}
    report = Recorder()
    spec = SPEC.model_copy(update=learned)
    made = distill(teacher, dataset, spec, tmp_path / "distill", report, seed=0)
    figures = DistillFigures.read(made.record.figures)
    assert figures.student
    assert report.bars >= {"student", "own-answers", "draw own answers"}
    assert figures.student.training.steps == figures.control.training.steps == 10
    assert figures.compute_ratio is not None
    assert figures.longer is not None
    assert figures.longer.training.steps > 10
    assert not (tmp_path / "teacher-logits").exists()


@pytest.mark.parametrize("loss", ["labels", "both"])
def test_hidden_states_are_learned_under_instructions_that_all_conversations_begin_with(
    teacher: Checkpoint, tmp_path: Path, loss: str
) -> None:
    told = {"files": ["q.jsonl"], "hold_out": "phrasing", "system": "Say what is right. " * 8}
    write_lines(tmp_path / "q.jsonl", QUESTIONS)
    data = DataSpec.model_validate(told)
    dataset = ingest(data, tmp_path, tmp_path / "dataset", Silent(), seed=0)
    examples, _ = conversations(load_tokenizer(teacher.path), dataset.train(), 512)
    assert shared_tokens([each.ids for each in examples]) >= MIN_TOKENS
    spec = SPEC.model_copy(update={"loss": loss, "hidden_weight": 1.0, "epochs": 1})
    made = distill(teacher, dataset, spec, tmp_path / "distill", Silent(), seed=0)
    assert DistillFigures.read(made.record.figures).student


@pytest.fixture(scope="module")
def known_to_the_teacher(teacher: Checkpoint) -> tuple[Question, ...]:
    """Questions whose right answers are what this teacher, which knows nothing, says to them."""
    tokenizer, asked = load_tokenizer(teacher.path), spread(read_questions(), 6)
    prompts = [
        render_prompt(tokenizer, [{"role": "user", "content": each.question}]) for each in asked
    ]
    model = load_model(teacher.path, dtype="float32")
    said = answer(model, tokenizer, prompts, ANSWER_TOKENS, Silent(), name="teacher")
    pairs = zip(asked, said, strict=True)
    return tuple(replace(each, answers=(text,)) for each, text in pairs if has_a_word(text))


def has_a_word(text: str) -> bool:
    """Say whether a text has a word."""
    return any(letter.isalnum() for letter in text)


def test_general_questions_are_asked_of_what_came_in_and_of_what_ships(
    teacher: Checkpoint,
    dataset: Dataset,
    known_to_the_teacher: tuple[Question, ...],
    tmp_path: Path,
) -> None:
    report, questions = Recorder(), known_to_the_teacher
    assert questions
    spec = SPEC.model_copy(update={"epochs": 20})
    made = distill(teacher, dataset, spec, tmp_path, report, seed=0, questions=questions)
    assert "general_questions" in made.record.inputs
    lost = DistillFigures.read(made.record.figures).forgotten
    assert lost
    assert (lost.questions, lost.before, lost.now) == (len(questions), 1, 0)
    assert f"distill: {lost_words(lost)}" in report.notes
    assert lost_words(lost) in STAGES["distill"].result(made)

    strict = spec.model_copy(update={"max_forgotten": 50.0})
    with pytest.raises(GateError, match=r"^distill: of \d general questions 100\.0% → ") as refused:
        distill(teacher, dataset, strict, tmp_path, Silent(), seed=0, questions=questions)
    assert "`layers`" in (refused.value.hint or "")


def test_none_are_asked_where_the_recipe_says_so(
    teacher: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"general_questions": 0, "epochs": 1})
    made = distill(teacher, dataset, spec, tmp_path, Silent(), seed=0, questions=read_questions())
    assert DistillFigures.read(made.record.figures).forgotten is None
    assert "general_questions" not in made.record.inputs


def test_what_a_teacher_costs_is_counted_in_operations() -> None:
    alone = Counts(student=10, teacher=20, labelled=100, learned=100)
    assert ratio(alone) == 1.0
    assert ratio(replace(alone, read=100)) == round(1 + 20 * 100 / (3 * 10 * 100), 3)
    assert ratio(replace(alone, writer=50, asked=60)) == 2.0
    assert ratio(replace(alone, learned=200, own=30)) == round(2 + (4 * 10 + 20) * 30 / 3000, 3)

"""distill with general conversations beside: who learns them, what the teacher says of them, and
what a student that learned none of them forgot."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fakes.datasets import Recorder
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.chat import render_prompt
from toolchain.distill import DistillFigures, distill
from toolchain.distill.lesson import Lesson, Texts
from toolchain.errors import ArtifactError, ConfigError, GateError
from toolchain.line.stages import STAGES
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.recipe import DistillSpec
from toolchain.training.answers import answer
from toolchain.training.examples import Example
from toolchain.training.loop import Course
from toolchain.training.probe import ANSWER_TOKENS, Question, read_questions, read_talk, spread
from toolchain.training.teacher import CachedLogits

TALK = read_talk()[:3]
SPEC = DistillSpec(
    layers=(0, 2), epochs=2, batch_size=4, questions=2, top_k=8, ask=False, general_share=0.5
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return artifacts.external(
        tiny_llama(tmp_path_factory.mktemp("teacher"), **(SMALL | {"layers": 3}))
    )


@pytest.fixture(scope="module")
def distilled(
    teacher: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    out = tmp_path_factory.mktemp("work") / "distill"
    return distill(teacher, dataset, SPEC, out, Silent(), seed=0, talk=TALK)


def lesson(teacher: Checkpoint, dataset: Dataset, **changes: Any) -> Lesson:
    return Lesson(
        teacher=teacher,
        student=None,
        dataset=dataset,
        written=None,
        spec=SPEC.model_copy(update=changes),
        seed=0,
        talk=TALK,
    )


def test_student_and_controls_learn_them_and_the_record_says_how_many(
    distilled: Checkpoint, dataset: Dataset
) -> None:
    figures = DistillFigures.read(distilled.record.figures)
    own = len(dataset.train())
    assert figures.student
    assert figures.longer
    assert figures.conversations == own
    assert figures.student.general == figures.control.general == figures.longer.general == own
    assert figures.student.training.steps == figures.control.training.steps == 2 * 2 * own // 4
    assert {"talk", "teacher"} <= distilled.record.inputs.keys()
    assert distilled.record.parameters["general_share"] == 0.5
    told = STAGES["distill"].result(distilled)
    assert f"; {own} general conversations learned beside {own}; " in told


def test_other_conversations_or_another_share_are_another_student(
    teacher: Checkpoint, dataset: Dataset, distilled: Checkpoint
) -> None:
    report = Recorder()
    again = distill(teacher, dataset, SPEC, distilled.path, report, seed=0, talk=TALK)
    assert (again.fresh, report.bars) == (False, set())
    keys = {
        distill_key(teacher, dataset, spec, talk)
        for spec in (SPEC, SPEC.model_copy(update={"general_share": 0.25}))
        for talk in (TALK, TALK[:2])
    }
    assert len(keys) == 4
    assert distilled.record.key in keys


def distill_key(
    teacher: Checkpoint, dataset: Dataset, spec: DistillSpec, talk: list[dict[str, Any]]
) -> str:
    """Return under which key a student would be recorded, without training it."""
    seen: list[str] = []

    def note(folder: Path, work: artifacts.Work, *rest: Any) -> tuple[artifacts.Record, bool]:
        seen.append(work.key())
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("toolchain.distill.keep_together", note)
        distill(teacher, dataset, spec, Path("nowhere"), Silent(), seed=0, talk=talk)
    return seen[0]


def test_each_general_conversation_stands_in_the_cache_once_with_what_the_teacher_says(
    teacher: Checkpoint, dataset: Dataset, distilled: Checkpoint
) -> None:
    texts = lesson(teacher, dataset).texts()
    own, folder = len(texts.labelled), distilled.path.with_name("teacher-logits")
    record = artifacts.recorded(folder)
    assert record
    assert (len(texts.all), len(texts.general)) == (2 * own, len(TALK))
    assert record.figures["conversations"] == own + len(TALK)

    rows = (own + 1, 2, own + 1 + len(TALK))
    ids, log_probs, _ = CachedLogits(folder, texts.place).of(rows)
    first, second = texts.all[rows[0]].targets, texts.all[rows[1]].targets
    assert len(ids) == 2 * first + second
    model = load_model(teacher.path, dtype="float32")
    for row, part in zip(rows, torch.arange(len(ids)).split([first, second, first]), strict=True):
        example = texts.all[row]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([example.ids])).logits[0, :-1]
        learned = torch.tensor(example.labels[1:]) >= 0
        expected = (logits[learned] / SPEC.temperature).log_softmax(-1).topk(8)
        torch.testing.assert_close(log_probs[part], expected.values, atol=2e-3, rtol=1e-3)
        assert torch.equal(ids[part], expected.indices)


def test_what_a_teacher_wrote_has_its_share_beside_it_too() -> None:
    one = Example(ids=(1, 2), labels=(1, 2))
    general = [replace(one, ids=(number, 3)) for number in range(5)]
    texts = Texts(
        labelled=[one] * 4,
        written=[one] * 4,
        general=general,
        general_share=0.5,
        held_out=(),
        too_long=0,
    )
    assert texts.control == [one] * 4 + general[:4]
    assert texts.all == [one] * 8 + general + general[:3]
    assert [texts.distinct[texts.place(row)] for row in range(16)] == texts.all


def test_what_cannot_be_learned_beside_is_refused(teacher: Checkpoint, dataset: Dataset) -> None:
    long = [{"messages": [TALK[0]["messages"][0], {"role": "assistant", "content": "so " * 300}]}]
    with pytest.raises(ArtifactError) as refused:
        replace(lesson(teacher, dataset, max_tokens=100), talk=long).texts()
    assert refused.value.message == (
        "distill: general_share: all 1 general conversations are longer than 100 tokens"
    )
    with pytest.raises(ConfigError, match="there are no general conversations to learn"):
        replace(lesson(teacher, dataset), talk=()).texts()


@pytest.fixture(scope="module")
def known(teacher: Checkpoint) -> tuple[Question, ...]:
    """Questions whose right answers are what this teacher, which knows nothing, says to them."""
    tokenizer, asked = load_tokenizer(teacher.path), spread(read_questions(), 6)
    prompts = [
        render_prompt(tokenizer, [{"role": "user", "content": each.question}]) for each in asked
    ]
    model = load_model(teacher.path, dtype="float32")
    said = answer(model, tokenizer, prompts, ANSWER_TOKENS, Silent(), name="teacher")
    return tuple(
        replace(each, answers=(text,))
        for each, text in zip(asked, said, strict=True)
        if any(letter.isalnum() for letter in text)
    )


def test_a_student_that_forgot_everything_is_told_of_and_one_that_learned_beside_did_not(
    teacher: Checkpoint, dataset: Dataset, known: tuple[Question, ...], tmp_path: Path
) -> None:
    # Beside the teacher's own answers, which are noise, plain ones are right: they can be learned.
    words = ("red", "green", "blue", "grey", "black", "white")
    pairs = list(zip(known, words, strict=False))
    known = tuple(replace(each, answers=(*each.answers, word)) for each, word in pairs)
    talk = [
        {
            "messages": [
                {"role": "user", "content": each.question},
                {"role": "assistant", "content": f"It is {word}."},
            ]
        }
        for each, word in pairs
    ]
    report, spec = Recorder(), SPEC.model_copy(update={"epochs": 30, "learning_rate": 3e-3})
    alone = spec.model_copy(update={"general_share": 0.0})
    made = distill(teacher, dataset, alone, tmp_path / "a", report, seed=0, questions=known)
    lost = DistillFigures.read(made.record.figures).forgotten
    assert lost
    assert (lost.before, lost.now) == (1, 0)
    (told,) = (note for note in report.notes if "more than half of what it knew" in note)
    assert told.startswith("distill: of ")
    assert "a larger `general_share`" in told

    both = Recorder()
    made = distill(teacher, dataset, spec, tmp_path / "b", both, seed=0, questions=known, talk=talk)
    kept = DistillFigures.read(made.record.figures).forgotten
    assert kept
    assert kept.now > 0.5
    assert not [note for note in both.notes if "more than half" in note]


@pytest.mark.parametrize("shipped", ["student", "control"])
def test_whoever_ships_is_refused_if_it_forgot_more_than_the_recipe_allows(
    shipped: str,
    teacher: Checkpoint,
    dataset: Dataset,
    known: tuple[Question, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("toolchain.distill.decide", lambda marks: (shipped, "so it is"))
    spec = SPEC.model_copy(update={"general_share": 0.0, "epochs": 20, "max_forgotten": 50.0})
    for _ in range(2):  # the second time by what is recorded
        with pytest.raises(GateError, match="`max_forgotten` allows 50") as refused:
            distill(teacher, dataset, spec, tmp_path, Silent(), seed=0, questions=known)
        assert "`general_share`" in (refused.value.hint or "")


class Cut:
    """A reporter that ends the process's work in the middle of a training."""

    def __init__(self, name: str, at: int) -> None:
        self._name, self._at = name, at

    def note(self, text: str) -> None:
        pass

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        if (name, done) == (self._name, self._at):
            raise KeyboardInterrupt


def test_one_that_was_cut_goes_on_to_the_same_weights(
    teacher: Checkpoint,
    dataset: Dataset,
    distilled: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(Course.__init__.__kwdefaults__, "save_every_s", 0.0)
    out, report = tmp_path / "distill", Recorder()
    for name in ("teacher", "student", "control"):
        at = 0 if name == "teacher" else 3
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, dataset, SPEC, out, Cut(name, at), seed=0, talk=TALK)
    again = distill(teacher, dataset, SPEC, out, report, seed=0, talk=TALK)
    assert "control: goes on after step 2 of 8" in report.notes
    assert load_equal(again.path, distilled.path)
    assert again.digest == distilled.digest


def load_equal(first: Path, second: Path) -> bool:
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

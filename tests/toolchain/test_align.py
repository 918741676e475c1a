"""align: planted preferences are followed, too few are called so, and the better model ships."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.datasets import Recorder
from tests.fakes.preferences import pairs, preferences, thumbs
from toolchain import artifacts
from toolchain.align import align
from toolchain.align.figures import ALIGNED, BEFORE, CONTROL, AlignFigures, Mark
from toolchain.align.look import follows
from toolchain.align.verdict import decide
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.errors import ArtifactError
from toolchain.figures import Forgotten
from toolchain.preferences import Pair, Preferences, Thumb, interval
from toolchain.progress import Silent
from toolchain.recipe import AlignSpec
from toolchain.training.exam import ExamFigures
from toolchain.tune import merge

SPEC = AlignSpec(
    files=("pairs.jsonl",),
    epochs=6,
    batch_size=8,
    questions=40,
    learning_rate=1e-2,
    answer_weight=1.0,
    max_lost=100,
)


@pytest.fixture(scope="module")
def aligned(
    base: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    out = tmp_path_factory.mktemp("work") / "align"
    return align(base, dataset, preferences(pairs(60)), SPEC, out, Silent(), seed=0)


def test_planted_preferences_are_followed_where_nobody_learned_them(aligned: Checkpoint) -> None:
    figures = AlignFigures.read(aligned.record.figures)
    assert figures.loss == "dpo"
    assert (figures.learned, figures.before.preferences) == (48, 12)
    assert figures.before.followed == 0
    assert figures.aligned and figures.aligned.mark.followed == 1
    assert figures.shipped in (ALIGNED, CONTROL)
    assert "ships" in figures.verdict


def test_the_control_learns_the_wanted_answers_in_as_many_steps(aligned: Checkpoint) -> None:
    figures = AlignFigures.read(aligned.record.figures)
    assert figures.aligned and figures.control
    assert figures.aligned.training.steps == figures.control.training.steps == 36


def test_what_ships_is_the_base_with_its_adapter_merged(
    base: Checkpoint, aligned: Checkpoint, tmp_path: Path
) -> None:
    again = merge(base, aligned.path / "adapter", tmp_path / "out", Silent())
    assert (again.path / "model.safetensors").read_bytes() == (
        aligned.path / "model.safetensors"
    ).read_bytes()
    assert not (aligned.path / "resume").exists()


def test_answers_of_all_models_to_held_out_preferences_stand_side_by_side(
    aligned: Checkpoint,
) -> None:
    rows = [
        json.loads(line) for line in (aligned.path / "preferences.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 12
    assert all(row.keys() >= {"question", "chosen", "rejected"} for row in rows)
    assert all(row[ALIGNED] == "It is fine." for row in rows)
    assert {row[BEFORE] for row in rows}.isdisjoint({"It is fine."})


def test_the_reference_is_an_artifact_of_its_own(base: Checkpoint, aligned: Checkpoint) -> None:
    record = artifacts.recorded(aligned.path.with_name("reference-scores"))
    assert record
    assert record.inputs["checkpoint"] == base.digest
    assert aligned.record.inputs["scores"] == record.digest
    assert record.figures == {"preferences": 48, "too_long": 0}


def test_what_is_there_is_not_trained_again(
    base: Checkpoint, dataset: Dataset, aligned: Checkpoint
) -> None:
    report = Recorder()
    again = align(base, dataset, preferences(pairs(60)), SPEC, aligned.path, report, seed=0)
    assert (again.fresh, report.notes, report.bars) == (False, [], set())


def test_twenty_rated_answers_are_too_few_and_the_model_stays_as_it_is(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    report = Recorder()
    made = align(base, dataset, preferences(thumbs(20)), SPEC, tmp_path / "align", report, seed=0)
    figures = AlignFigures.read(made.record.figures)
    assert (figures.loss, figures.shipped, figures.aligned) == ("kto", BEFORE, None)
    assert figures.verdict.startswith("too few: 16 preferences to learn from and 4 held out")
    assert "(95 % interval " in figures.verdict
    assert (made.path / "model.safetensors").read_bytes() == (
        base.path / "model.safetensors"
    ).read_bytes()
    assert "align" not in report.bars


def test_rated_answers_are_learned_by_kto(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    made = align(base, dataset, preferences(thumbs(80)), SPEC, tmp_path / "align", Silent(), seed=0)
    figures = AlignFigures.read(made.record.figures)
    assert figures.loss == "kto"
    assert figures.aligned
    assert figures.aligned.mark.followed == 1
    assert figures.before.followed == 0.5  # it says nothing that was disliked


def test_a_question_that_the_data_holds_out_is_never_learned(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    asked = dataset.held_out()[0]["messages"][-2]["content"]
    own = [replace(each, messages=({"role": "user", "content": asked},)) for each in pairs(1)]
    rows = preferences((*own, *pairs(12)[1:]))
    spec = SPEC.model_copy(update={"held_out_share": 0.0})
    made = align(base, dataset, rows, spec, tmp_path / "align", Silent(), seed=0)
    figures = AlignFigures.read(made.record.figures)
    assert (figures.learned, figures.before.preferences) == (11, 1)


def test_a_loss_without_its_kind_of_preference_is_refused(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    liked = preferences([each for each in thumbs(10) if each.good])
    spec = SPEC.model_copy(update={"loss": "dpo"})
    with pytest.raises(ArtifactError) as refused:
        align(base, dataset, liked, spec, tmp_path / "align", Silent(), seed=0)
    assert refused.value.message == "align: loss is `dpo`, but no preference is a pair"


def test_answers_that_were_all_disliked_have_no_control(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    rows = Preferences(thumbs=tuple(each for each in thumbs(80) if not each.good))
    spec = SPEC.model_copy(update={"epochs": 1})
    made = align(base, dataset, rows, spec, tmp_path / "align", Silent(), seed=0)
    figures = AlignFigures.read(made.record.figures)
    assert figures.aligned
    assert figures.control is None
    assert figures.shipped == BEFORE  # nothing disliked was said before either


def mark(followed: int, exact: float = 0.5, asked: int = 40) -> Mark:
    low, high = interval(followed, asked)
    return Mark(
        exam=ExamFigures(questions=100, exact_match=exact, f1=exact, held_out_loss=1.0),
        preferences=asked,
        followed=followed / asked,
        followed_low=low,
        followed_high=high,
    )


def run(count: int) -> list[bool]:
    return [at < count for at in range(40)]


@pytest.mark.parametrize(
    ("aligned_to", "control_to", "exact", "shipped", "begins"),
    [
        (38, 20, (0.5, 0.5), ALIGNED, "dpo from 160 preferences: aligned follows +85.0 points"),
        (20, 38, (0.5, 0.5), CONTROL, "dpo from 160 preferences: control follows +85.0 points"),
        (38, 38, (0.5, 0.5), CONTROL, "dpo from 160 preferences: control follows"),
        (38, 20, (0.48, 0.5), CONTROL, "dpo from 160 preferences: control follows +40.0 points"),
        (38, 38, (0.4, 0.3), BEFORE, "dpo from 160 preferences loses 10.0 points of exact match"),
        (8, 6, (0.5, 0.5), BEFORE, "too few, or nothing learned: aligned follows +10.0 points"),
    ],
)
def test_the_better_one_ships_if_it_is_better_than_chance_and_answers_as_before(
    aligned_to: int, control_to: int, exact: tuple[float, float], shipped: str, begins: str
) -> None:
    counts = {BEFORE: 4, ALIGNED: aligned_to, CONTROL: control_to}
    scores = {BEFORE: 0.5, ALIGNED: exact[0], CONTROL: exact[1]}
    marks = {name: mark(count, scores[name]) for name, count in counts.items()}
    followed = {name: run(count) for name, count in counts.items()}
    spec = SPEC.model_copy(update={"loss": "dpo", "max_lost": 1.0})
    found, verdict = decide(spec, marks, followed, 160)
    assert (found, verdict[: len(begins)]) == (shipped, begins)


def test_a_model_that_forgot_more_than_allowed_does_not_ship() -> None:
    counts = {BEFORE: 4, ALIGNED: 38, CONTROL: 30}
    lost = {
        BEFORE: Forgotten(questions=200, before=0.5, now=0.5, error=0.0),
        ALIGNED: Forgotten(questions=200, before=0.5, now=0.4, error=0.02),
        CONTROL: Forgotten(questions=200, before=0.5, now=0.45, error=0.02),
    }
    marks = {name: replace(mark(counts[name]), forgotten=lost[name]) for name in counts}
    followed = {name: run(count) for name, count in counts.items()}
    found = [
        decide(SPEC.model_copy(update={"max_forgotten": most}), marks, followed, 160)
        for most in (15.0, 5.0, 2.0, 1.0)
    ]
    # Of the control's 5 points 1.7 are more than chance gives.
    assert [shipped for shipped, _ in found] == [ALIGNED, CONTROL, CONTROL, BEFORE]
    assert "of 200 general questions 50.0% → 40.0% (± 2.0%)" in found[3][1]


def test_an_answer_follows_a_preference_if_it_is_nearer_to_what_was_wanted() -> None:
    asked = ({"role": "user", "content": "how hot?"},)
    pair = Pair(messages=asked, chosen="80 degrees", rejected="It is often about 80 degrees")
    assert follows(pair, "80 degrees.")
    assert not follows(pair, "It is about 80 degrees")
    assert not follows(pair, "a teapot")
    liked = Thumb(messages=asked, answer="80 degrees", good=True)
    assert follows(liked, "80 degrees")
    assert not follows(liked, "a teapot")
    assert follows(replace(liked, good=False), "a teapot")

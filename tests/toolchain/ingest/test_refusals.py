"""What a teacher wrote and must not be learned: ingest's own rules, asked one by one."""

from pathlib import Path

import pytest

from tests.fakes.datasets import tiny_dataset
from toolchain.artifacts import Dataset
from toolchain.ingest.refusals import Refusals
from toolchain.recipe import CleanSpec, DataSpec, RedactSpec

ROWS = [
    {"question": ["how hot is too hot for a Pi?", "what heat is bad"], "answer": "80 degrees."},
    {"question": ["which cable is right for it?", "the right cable"], "answer": "A short one."},
]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return tiny_dataset(tmp_path / "data", rows=ROWS)


def asked(dataset: Dataset, *, held_out: bool) -> list[str]:
    rows = dataset.held_out() if held_out else dataset.train()
    return [row["messages"][0]["content"] for row in rows]


def test_a_held_out_question_is_refused_in_any_case_and_nearly_so(dataset: Dataset) -> None:
    refusals = Refusals(dataset, DataSpec())
    for question in asked(dataset, held_out=True):
        assert refusals.of(question.upper() + "?", "") == "held out"
        assert refusals.of(f"{question} x", "") == "held out"
    assert refusals.of("where is the reset button", "") == ""


def test_without_a_share_only_equal_questions_are_refused(dataset: Dataset) -> None:
    refusals = Refusals(dataset, DataSpec(clean=CleanSpec(near_duplicates=0)))
    (first, _) = asked(dataset, held_out=True)
    assert refusals.of(first, "") == "held out"
    assert refusals.of(f"{first} x", "") == ""


def test_a_question_with_a_label_needs_no_other(dataset: Dataset) -> None:
    refusals = Refusals(dataset, DataSpec(clean=CleanSpec(near_duplicates=0)))
    assert {refusals.of(each, "") for each in asked(dataset, held_out=False)} == {"learned already"}


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("replace", "personal data"), ("refuse", "personal data"), ("report", ""), ("off", "")],
)
def test_personal_data_is_refused_where_the_recipe_removes_it(
    dataset: Dataset, mode: str, reason: str
) -> None:
    spec = DataSpec(redact=RedactSpec.model_validate({"mode": mode}))
    answer = "Write to anna.schmidt@mail-of-anna.net."
    assert Refusals(dataset, spec).of("whom do I ask", answer) == reason


def test_other_rules_are_another_input(dataset: Dataset) -> None:
    first = Refusals(dataset, DataSpec())
    second = Refusals(dataset, DataSpec(clean=CleanSpec(near_duplicates=0.9)))
    assert first.digest != second.digest

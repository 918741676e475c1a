"""What each fresh question found, as a report reads it."""

from pathlib import Path

import pytest

from toolchain.errors import ArtifactError
from toolchain.knowledge.fitting import Trial, scores
from toolchain.knowledge.found import FOUND, found_passage, read_found, title_of, write_found
from toolchain.knowledge.passages import Passage
from toolchain.runtime.recall import Compared

PASSAGES = (
    Passage(text="80 degrees.", source="manual/heat.md", heading="Heat › Limits"),
    Passage(text="It spins.", source="guide.pdf", page=7),
)
FITTED = {"words": 0.1, "unanswered": 0.5, "next": 0.0, "threshold": 0.4}


def trial(
    first: float, second: float, right: set[int], unanswered: float = 0.0, also: int = 0
) -> Trial:
    compared = Compared(like={1: first, 2: second}, common={1: 0.0, 2: 0.0}, unanswered=unanswered)
    return Trial(compared=compared, right=frozenset(right), also=frozenset({also} - {0}))


@pytest.mark.parametrize(
    ("asked", "outcome", "known"),
    [
        (trial(0.9, 0.1, {1}), "right", True),
        (trial(0.9, 0.1, {1, 2}), "right", True),
        (trial(0.9, 0.1, {2}), "wrong", True),
        (trial(0.9, 0.1, {2}, also=1), "also", True),
        (trial(0.3, 0.1, {2}, also=1), "refused", False),
        (trial(0.9, 0.1, {1}, unanswered=1.2), "refused", False),
        (trial(0.3, 0.1, {1}), "refused", False),
        (trial(0.9, 0.1, set()), "false", True),
        (trial(0.3, 0.1, set()), "unknown", False),
    ],
)
def test_a_question_has_the_outcome_that_the_scores_count(
    asked: Trial, outcome: str, known: bool
) -> None:
    row = found_passage("how hot?", asked, PASSAGES, FITTED)
    assert (row.outcome, row.known, row.found) == (outcome, known, "manual/heat.md › Heat › Limits")
    measured = scores([asked], FITTED)
    assert measured
    names = ("right", "also", "wrong", "false")
    counted = {name: getattr(measured, name) for name in names}
    assert counted == {name: float(name == outcome) for name in counted}


def test_a_question_that_finds_nothing_is_said_with_an_empty_title() -> None:
    nothing = Trial(compared=Compared(like={}, common={}, unanswered=0.0), right=frozenset({2}))
    row = found_passage("how hot?", nothing, PASSAGES, FITTED)
    assert (row.found, row.right, row.outcome) == ("", ("guide.pdf › page 7",), "refused")


def test_titles_are_those_that_a_board_names() -> None:
    assert [title_of(each) for each in PASSAGES] == [
        "manual/heat.md › Heat › Limits",
        "guide.pdf › page 7",
    ]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        found_passage(question, trial(0.9, 0.1, {1}), PASSAGES, FITTED)
        for question in ("how hot?", '树莓派"太热\n', "<b>&amp;</b>")
    ]
    write_found(tmp_path / FOUND, rows)
    assert read_found(tmp_path / FOUND) == rows


def test_no_file_is_no_rows_and_another_shape_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / FOUND
    assert read_found(file) == []
    write_found(file, [found_passage("hot?", trial(0.9, 0.1, {1}), PASSAGES, FITTED)])
    file.write_text(file.read_text() + '{"question": "why?"}\n')
    with pytest.raises(ArtifactError, match=r"found\.jsonl:2: field required"):
        read_found(file)
    file.write_bytes(b"\xff\n")
    with pytest.raises(ArtifactError, match=r"found\.jsonl: cannot be read"):
        read_found(file)

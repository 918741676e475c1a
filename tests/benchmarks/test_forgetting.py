"""A fall of exact match is told with the error of its seeds, and a work folder goes on."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def forgetting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("forgetting")


@pytest.mark.parametrize(
    ("points", "measured", "high", "holds"),
    [
        ([0.0, 0.0, 0.0], 0.0, 0.52, True),
        ([1.0, 1.0, 1.1], 1.03, 1.13, True),
        ([4.0, 4.0, -6.0], 0.67, 10.4, False),
        ([3.0, 3.0, 3.0], 3.0, 3.0, False),
    ],
)
def test_the_goal_is_reached_only_if_the_upper_end_is_within_it(
    forgetting: ModuleType, points: list[float], measured: float, high: float, holds: bool
) -> None:
    claim = forgetting.forgotten_claim("held-out phrasings", points, 192)
    assert (claim.measured, claim.holds) == (measured, holds)
    assert claim.ci[1] == pytest.approx(high, abs=0.01)


def test_a_seed_counts_when_all_of_its_arms_are_there(
    forgetting: ModuleType, tmp_path: Path
) -> None:
    known = {"learned": 1.0, "held_out": 0.5, "held_out_nats": 0.1, "other_nats": 5.0}
    (tmp_path / "results").mkdir()
    for seed, arms in ((0, 5), (1, 4), (2, 5)):
        for arm in range(arms):
            file = tmp_path / "results" / f"{seed}-{arm}.json"
            file.write_text(json.dumps({**known, "learned": 1.0 - seed / 10}))
    found = forgetting.results(tmp_path, 8)
    assert [seed[0].learned for seed in found] == [1.0, 0.8]
    table = list(forgetting.rows(found))
    assert table[2] == "| the 48: as it stands | 90.0% | 50.0% | 0.100 | 5.000 |"
    assert "| 0.0 ± 0.0 | 0.0 ± 0.0 |" in table[3]


def test_rounds_share_no_answer_and_each_question_asked_is_counted(
    forgetting: ModuleType, tmp_path: Path
) -> None:
    forgetting.split_starter(tmp_path)
    answers = [
        {json.loads(line)["answer"] for line in (tmp_path / name).read_text().splitlines()}
        for name in (forgetting.EARLIER, forgetting.NEWEST, forgetting.OTHER)
    ]
    assert [len(each) for each in answers[:2]] == [48, 16]
    assert not (answers[0] & answers[1] or answers[0] & answers[2] or answers[1] & answers[2])
    assert forgetting.questions_in(tmp_path) == {
        "learned phrasings": 192,
        "held-out phrasings": 48,
    }

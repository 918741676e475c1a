"""A table of trials says what the board says: what comes first, and what speaks against it."""

import random

import numpy as np
import pytest

from device.manifest.knowledge import Weights, rank
from device.manifest.knowledge import against as boards_against
from toolchain.knowledge.fitting import Trial
from toolchain.knowledge.table import Table, against
from toolchain.runtime.recall import Compared


def trials(count: int = 60) -> list[Trial]:
    """Return trials with 1 to 9 of 40 passages, many of them with equal likeness."""
    draw = random.Random(3)
    made = []
    for _ in range(count):
        near = draw.sample(range(1, 41), draw.randint(1, 9))
        like = {each: draw.choice([0.25, 0.5, 0.5, 0.75, draw.random()]) for each in near}
        common = {each: draw.choice([0.0, 0.5]) for each in near}
        compared = Compared(like=like, common=common, unanswered=draw.random(), thin={near[0]: 0.5})
        made.append(Trial(compared=compared, right=frozenset({draw.choice(near)})))
    return made


@pytest.mark.parametrize("words", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("rivalry", [0.0125, 0.05])
def test_the_first_passage_and_what_speaks_against_it_are_the_boards(
    words: float, rivalry: float
) -> None:
    made = trials()
    table = Table.of(made)
    scores = table.scores(words)
    rows = np.arange(len(made))
    first = scores.argmax(axis=1)
    speaks = against(scores, scores[rows, first], rivalry)
    for row, trial in enumerate(made):
        ranked = rank(trial.compared.like, trial.compared.common, {}, Weights(words=words))
        assert sorted(trial.compared.like)[first[row]] == ranked[0].passage
        assert scores[row, first[row]] == ranked[0].score
        assert table.answers[row, first[row]] == (ranked[0].passage in trial.right)
        expected = boards_against(ranked, Weights(rivalry=rivalry))
        assert speaks[row] == pytest.approx(expected, abs=1e-12)


def test_of_equal_scores_the_lowest_number_comes_first() -> None:
    compared = Compared(like={7: 0.5, 3: 0.5}, common={7: 0.0, 3: 0.0}, unanswered=0.0)
    table = Table.of([Trial(compared=compared, right=frozenset({3}))])
    assert table.answers[0].tolist() == [True, False]
    assert table.scores(0.0)[0].argmax() == 0


def test_a_question_near_to_no_passage_has_none_that_answers() -> None:
    nothing = Compared(like={}, common={}, unanswered=0.2)
    table = Table.of([Trial(compared=nothing, right=frozenset({3})), *trials(1)])
    assert table.scores(0.5)[0].max() == -1.0
    assert not table.answers[0].any()
    assert against(table.scores(0.5)[:1], np.array([-1.0]), 0.05)[0] == pytest.approx(0.0)

"""Mean per token and its standard error."""

import pytest

from toolchain.means import mean_and_error


def test_equal_texts_have_no_error() -> None:
    assert mean_and_error([2.0, 4.0], [4, 8]) == (0.5, 0.0)


def test_the_error_is_that_of_drawing_whole_texts() -> None:
    # mean 6 ÷ 4 = 1.5; each text is 1 away from 1.5 · 2, so √(1 + 1) ÷ 4
    mean, error = mean_and_error([2.0, 4.0], [2, 2])
    assert mean == 1.5
    assert error == pytest.approx(2**0.5 / 4)

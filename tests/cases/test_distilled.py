"""A student is compared with its teacher: one that collapsed is as near to itself as any other."""

import pytest

from toolchain.evaluate.divergence import from_teacher
from toolchain.evaluate.limits import failures
from toolchain.figures import Measured
from toolchain.recipe import GateSpec

LIKE_ITSELF = Measured(
    mean_kl=0.003,
    agreement=0.99,
    exact_match=0.0,
    f1=0.1,
    eos_rate=1.0,
    questions=10,
    template_mismatches=0,
)


def teacher(kl: float, agreement: float) -> Measured:
    return from_teacher(Measured(mean_kl=kl, kl_error=0.1, agreement=agreement))


def test_a_collapsed_student_is_refused_by_its_teacher() -> None:
    assert failures(LIKE_ITSELF, GateSpec()) == []
    assert failures(LIKE_ITSELF | teacher(5.2, 0.04), GateSpec()) == [
        (
            "on held-out answers the mean KL divergence from the teacher is 5.2 nats per token, "
            "the gate allows 1"
        ),
        (
            "on held-out answers file and teacher name the same next token at 4% of the "
            "positions, the gate asks 50%"
        ),
    ]


@pytest.mark.parametrize(("limit", "passes"), [(0.2, False), (0.4, True)])
def test_a_recipe_says_how_far_a_student_may_be(limit: float, passes: bool) -> None:
    figures = LIKE_ITSELF | teacher(0.3, 0.9)
    assert (failures(figures, GateSpec(max_teacher_kl=limit)) == []) is passes

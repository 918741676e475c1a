"""A context is as large as its memory."""

from dataclasses import replace

import pytest

from device.manifest import Manifest
from device.manifest.memory import fitting_context, fitting_slots
from tests.fakes.service import MANIFEST

NEEDS = {"weights_bytes": 100_000, "kv_bytes": 4096 * 10, "compute_bytes": 1_000}
BUNDLE: Manifest = replace(MANIFEST, context=4096, needs=NEEDS)


@pytest.mark.parametrize(
    ("available", "context"),
    [
        (1 << 30, 4096),
        (141_960, 4096),
        (141_959, 3840),
        (101_000 + 2569, 256),
        (101_000, 256),
        (0, 256),
    ],
    ids=[
        "more than enough",
        "just enough",
        "a byte too little",
        "a step and a bit",
        "only the weights",
        "nothing",
    ],
)
def test_what_is_served_is_what_fits(available: int, context: int) -> None:
    assert fitting_context(BUNDLE, available) == context


def test_a_bundle_that_does_not_say_what_it_takes_is_served_as_it_says() -> None:
    assert fitting_context(replace(BUNDLE, needs={}), 0) == 4096
    assert fitting_context(replace(BUNDLE, context=128), 0) == 128


@pytest.mark.parametrize(
    ("available", "slots"),
    [(1 << 30, 3), (100_000 + 3 * 41_960, 3), (100_000 + 3 * 41_960 - 1, 2), (100_000, 1), (0, 1)],
    ids=["more than enough", "just enough", "a byte too little", "only the weights", "nothing"],
)
def test_as_many_questions_are_answered_at_once_as_there_is_memory_for(
    available: int, slots: int
) -> None:
    assert fitting_slots(replace(BUNDLE, slots=3), available) == slots


def test_a_bundle_that_does_not_say_what_it_takes_is_answered_one_by_one() -> None:
    assert fitting_slots(replace(BUNDLE, needs={}, slots=3), 1 << 40) == 1

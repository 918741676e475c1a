"""The speed gate: like is compared with like, and a busy board refuses nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device import health
from device.store import RELEASES, RUNTIMES, Deployment, Store
from tests.device.test_store import add
from tests.fakes.bundles import make_bundle, make_runtime

CALM = {"others_share": 0.0, "throttled": []}


class Place:
    """A store with a runtime, on which releases are measured one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "root")
        self.runtime = add(self.store, RUNTIMES, make_runtime(folder / "runtime"))

    def add(self, version: str, payload: bytes) -> Deployment:
        made = make_bundle(self.folder / version, version=version, payload=payload)
        release = add(self.store, RELEASES, made.path)
        return Deployment(release=release, runtime=self.runtime, port=8080, service="supervised")

    def measure(self, wanted: Deployment, rate: float, **seen: Any) -> dict[str, Any]:
        checked = {"decode_tok_s": rate, **CALM, **seen}
        return health.measured(self.store, wanted, checked, "")

    def commit(self, wanted: Deployment, rate: float, **seen: Any) -> None:
        self.store.switch(wanted, None)
        self.store.commit(wanted, self.measure(wanted, rate, **seen))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_other_weights_that_are_much_slower_on_a_calm_board_are_slow(place: Place) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    second = place.add("2", b"b" * 1000)
    slow = place.measure(second, 6.9)
    assert (slow["expected_tok_s"], health.is_slow(slow)) == (10.0, True)
    assert not health.is_slow(place.measure(second, 7.1))


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"others_share": 0.4}, "other programs took 40% of the processors"),
        ({"others_share": None}, "its check does not say whether the board was busy"),
        ({"throttled": ["under_voltage"]}, "the board is held back: under_voltage"),
    ],
)
def test_a_busy_board_judges_nothing(place: Place, seen: dict[str, Any], why: str) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    found = place.measure(place.add("2", b"b" * 1000), 0.1, **seen)
    assert (found["unjudged"], health.is_slow(found)) == (why, False)


def test_a_speed_of_a_busy_moment_is_no_measure_for_the_next_release(place: Place) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0, others_share=0.5)
    found = place.measure(place.add("2", b"b" * 1000), 1.0)
    assert found["unjudged"] == "no model was measured here before while the board was calm"


def test_the_last_calm_speed_outlives_a_busy_release(place: Place) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    place.commit(place.add("2", b"b" * 1000), 2.0, others_share=0.5)
    place.commit(place.add("3", b"c" * 1000), 2.0, others_share=0.5)
    found = place.measure(place.add("4", b"d" * 1000), 2.0)
    assert (found["expected_tok_s"], health.is_slow(found)) == (10.0, True)


def test_unchanged_weights_are_never_slow(place: Place) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    found = place.measure(place.add("2", b"a" * 1000), 0.1)
    assert found["unjudged"] == "its weights and its runtime are those of the release before"


def test_unchanged_weights_on_another_runtime_are_judged_on_a_calm_board_alone(
    place: Place,
) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    second = replace(place.add("2", b"a" * 1000), runtime="f" * 64)
    assert health.is_slow(place.measure(second, 1.0))
    assert not health.is_slow(place.measure(second, 1.0, others_share=0.2))


@pytest.mark.parametrize(
    ("size", "rate", "expected"), [(1300, 7.5, 7.75), (800, 7.1, 10.0), (700, 6.0, 10.0)]
)
def test_a_larger_model_may_be_slower_and_a_smaller_one_need_not_be_faster(
    place: Place, size: int, rate: float, expected: float
) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    found = place.measure(place.add("2", b"b" * size), rate)
    assert found["expected_tok_s"] == pytest.approx(expected, abs=0.2)


def test_models_of_other_sizes_tell_nothing_of_each_other(place: Place) -> None:
    place.commit(place.add("1", b"a" * 1000), 10.0)
    for size in (400, 2000):
        found = place.measure(place.add(str(size), b"b" * size), 0.1)
        assert found["unjudged"] == "no model of its size was measured here before"


def test_what_an_older_version_noted_is_no_measure(place: Place) -> None:
    first = place.add("1", b"a" * 1000)
    place.store.switch(first, None)
    place.store.commit(first, {"decode_tok_s": 10.0, "model_bytes": 1000})
    found = place.measure(place.add("2", b"b" * 1000), 0.1)
    assert found["unjudged"] == "no model was measured here before while the board was calm"


def test_a_release_that_is_verified_again_has_time_to_be_read_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor reads every byte of a committed release before it loads it."""
    from device.activation import Limits, _start_limit_s

    monkeypatch.setattr(health, "_model_bytes", lambda manifest: 800 << 20)
    first, second = place.add("1", b"a"), place.add("2", b"b")
    place.commit(first, 10.0)
    assert _start_limit_s(place.store, second, Limits()) == 45 + 100
    assert _start_limit_s(place.store, first, Limits()) == 45 + 2 * 100
    assert _start_limit_s(place.store, first, Limits(health_s=7)) == 7

"""What a board must hold after a switch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from toolchain.fleet import soak
from toolchain.fleet.soak import SILENT, Look, Watch, judge, watch

RELEASE = "a" * 64


def look(**changes: Any) -> Look:
    """Return a look at a healthy board; `changes` are figures of its service, or `service`,
    `release` and `throttled`."""
    figures = {"began": 1.0, "requests": 10, "failures": 0, "first_token_s": {}}
    figures |= {key: value for key, value in changes.items() if key in figures}
    service = {"healthy": True, "figures": figures} | changes.get("service", {})
    status = {"release": {"release": changes.get("release", RELEASE)}, "service": service}
    return Look(status=status, throttled=frozenset(changes.get("throttled", ())))


def classes(*counts: int) -> dict[str, int]:
    return dict(zip(("0.5", "1", "2.5", "+Inf"), counts, strict=True))


def said(seen: Look, *, limit: float | None = None) -> str:
    before = look(first_token_s=classes(5, 5, 5, 5), throttled=["soft temperature limit"])
    return judge(before, seen, Watch(release=RELEASE, seconds=1.0, first_token_s=limit))


@pytest.mark.parametrize(
    ("seen", "trouble"),
    [
        (look(requests=500), ""),
        (look(throttled=["soft temperature limit"]), ""),
        (look(release="b" * 64), "it runs another release"),
        (
            look(service={"healthy": False, "failure": "was killed"}),
            "its service is not healthy: was killed",
        ),
        (look(began=2.0), "its service was started anew"),
        (look(requests=30, failures=2), "2 of 20 requests failed"),
        (look(throttled=["under-voltage"]), "the board is held back: under-voltage"),
        (look(service={"figures": None}), ""),
    ],
)
def test_what_went_wrong_is_said(seen: Look, trouble: str) -> None:
    assert said(seen) == trouble


def test_answers_that_begin_too_late_are_trouble_once_there_are_enough_of_them() -> None:
    late = look(first_token_s=classes(5, 13, 14, 25))
    assert said(late) == ""
    assert said(late, limit=0.8) == "12 of 20 answers began later than after 1 s"
    assert said(look(first_token_s=classes(5, 24, 25, 25)), limit=0.8) == ""
    assert said(look(first_token_s=classes(5, 5, 5, 14)), limit=0.8) == ""


SLOW = {"healthy": False, "pid": 7, "failure": "", "figures": None}
"""What `status` says of a service that lives and did not answer in time."""


@pytest.mark.parametrize(
    ("looks", "trouble"),
    [
        ([look(service=SLOW), look(), look()], ""),
        ([look(), look(service=SLOW), look()], ""),
        ([look(), look(), look(service=SLOW)], SILENT),
        (
            [look(), look(service=SLOW | {"failure": "was killed"}), look()],
            "its service is not healthy: was killed",
        ),
        (
            [look(), look(service=SLOW | {"pid": None}), look()],
            "its service is not healthy: it does not answer",
        ),
        ([look(), look(release="another", service=SLOW), look()], "it runs another release"),
    ],
)
def test_a_service_that_is_slow_once_is_asked_again(
    looks: list[Look], trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock()
    left = iter(looks)

    @contextmanager
    def opened(_: str) -> Iterator[Any]:
        yield None

    monkeypatch.setattr(soak, "time", clock)
    monkeypatch.setattr(soak, "LOOKS", len(looks) - 1)
    monkeypatch.setattr(soak, "_look", lambda _: next(left))
    assert watch("pi@a", Watch(release=RELEASE, seconds=4.0), opened) == trouble


class _Clock:
    """Time that passes only in a pause."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds

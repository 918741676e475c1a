"""What a stage may say while it works. Stages never print: they are handed a Reporter.

The command line shows what is said (`console.Terminal`), tests record it or hand over `Silent`.
"""

import time
from collections.abc import Callable
from typing import Protocol

QUIET_S = 30.0
"""Longest silence where no bar moves."""


class Reporter(Protocol):
    """What a stage may say while it works; the command line shows it, tests record it."""

    def note(self, text: str) -> None:
        """Say one line."""

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        """Say how far a long step is; `unit` is `B` for bytes, or a word such as `tokens`."""


class Silent:
    """A reporter that says nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        """Say nothing."""


SILENT: Reporter = Silent()


class Pace:
    """A line of progress and rate that is due when nothing was written for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spoke = self._began = clock()
        self._stage = ""
        self._step: tuple[str, float, float, str, str] | None = None
        self._first: tuple[float, float] = (0.0, 0.0)
        """When the step that is under way was seen first, and how far it was then."""

    def begin(self, text: str) -> None:
        """Take note of a line that was said: the step before it is over."""
        self._spoke = self._began = self._clock()
        self._stage, self._step = text.partition(";")[0][:80], None

    def step(self, name: str, done: float, total: float, unit: str, figures: str) -> None:
        """Take note of how far a step is."""
        if self._step is None or self._step[0] != name or done < self._step[1]:
            self._first = (self._clock(), done)
        self._step = None if done >= total else (name, done, total, unit, figures)

    def line(self) -> str:
        """Return what is to be said now; empty where something was said a short while ago."""
        now = self._clock()
        if now - self._spoke < QUIET_S:
            return ""
        self._spoke = now
        return self._progress(now) if self._step else self._waiting(now)

    def at(self) -> str:
        """Return where the work is, in a few words behind others; empty where nothing was begun."""
        if self._step:
            name, done, total, unit, _ = self._step
            return f" in `{name}`, at {_count(done, total, unit)}"
        return f" after: {self._stage}" if self._stage else ""

    def _progress(self, now: float) -> str:
        assert self._step
        name, done, total, unit, figures = self._step
        began, before = self._first
        rate = (done - before) / (now - began) if now > began else 0.0
        parts = [f"{name}: {_count(done, total, unit)}"]
        if rate > 0:
            shown = f"{rate / 1e6:.1f} MB/s" if unit == "B" else f"{_number(rate)} {unit}/s"
            parts += [shown, f"about {duration((total - done) / rate)} left"]
        return ", ".join([*parts, *([figures] if figures else [])])

    def _waiting(self, now: float) -> str:
        what = f" ({self._stage})" if self._stage else ""
        return f"still at work after {duration(now - self._began)}{what}"


def duration(seconds: float) -> str:
    """Return a duration in words, as finely as a forecast is."""
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60):d} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _count(done: float, total: float, unit: str) -> str:
    if unit == "B":
        return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB ({done / max(total, 1):.0%})"
    return f"{done:,.0f} of {total:,.0f} {unit}".rstrip() + f" ({done / max(total, 1):.0%})"


def _number(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"

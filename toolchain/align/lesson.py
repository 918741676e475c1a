"""What an alignment learns from, and what it is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.preferences import Preference, Preferences, least_shown
from toolchain.recipe import AlignSpec
from toolchain.training.exam import Exam


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What all three models have in common."""

    checkpoint: Path
    exam: Exam
    spec: AlignSpec
    seed: int
    learned: Preferences
    held_out: Preferences
    dropped: Mapping[str, int]
    scores: Path

    @property
    def opening(self) -> tuple[Mapping[str, Any], ...]:
        """The messages that conversations begin with."""
        return self.exam.dataset.opening()

    @property
    def asked(self) -> tuple[Preference, ...]:
        """The held-out preferences that are measured."""
        return (*self.held_out.pairs, *self.held_out.thumbs)

    @property
    def is_enough(self) -> bool:
        """Whether any outcome could be told from chance."""
        return len(self.asked) >= least_shown() and bool(len(self.learned))

"""What a stage may say while it works. Stages never print: they are handed a Reporter.

The command line shows what is said (`console.Terminal`), tests record it or hand over `Silent`.
"""

from typing import Protocol


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

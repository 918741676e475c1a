"""Forgetting: the held-out questions of the round before, asked of the new model file.

The rule to keep: both files are judged on the same questions by the same measure. The answers of
the file before are those that its own gate recorded.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import read_jsonl, recorded, value_digest
from toolchain.errors import ConfigError
from toolchain.evaluate.answers import Answered
from toolchain.figures import Forgotten
from toolchain.tool_use import said
from toolchain.training.answers import exact_match
from toolchain.training.probe import forgotten

ANSWERS = "answers.jsonl"
"""What the gate of the round before was answered, in its verdict's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What the model file of the round before was asked, and whether it answered."""

    chats: Sequence[Mapping[str, Any]]
    """Held-out conversations."""
    right: Sequence[bool]
    """For each of them, whether the file before gave the expected answer."""
    max_forgotten: float
    """Percentage points that the exact match may fall, beyond what chance explains."""

    @property
    def digest(self) -> str:
        """Return what decides a verdict."""
        return value_digest((self.chats, self.right, self.max_forgotten))


def read_earlier(work: Path, verdict: str, max_forgotten: float) -> Earlier:
    """Read a work folder of the round before; `verdict` is its folder of the same format.

    Raise ConfigError if its gate has not run.
    """
    for stage in ("ingest", verdict):
        if recorded(work / stage) is None:
            raise ConfigError(
                f"round: before: `{work}` has no finished `{stage}`",
                hint="name the work folder of the round before, such as build/help-desk",
            )
    chats = {_key(row["messages"]): row for row in read_jsonl(work / "ingest" / "held_out.jsonl")}
    asked = [
        (chats[key], exact_match(row["answer"], row["expected"]))
        for row in read_jsonl(work / verdict / ANSWERS)
        if (key := (row["question"], row["expected"])) in chats
    ]
    if not asked:
        raise ConfigError(
            f"round: before: the gate of `{work}` asked nothing that is held out there",
            hint="name the work folder of the round before, such as build/help-desk",
        )
    return Earlier(
        chats=[chat for chat, _ in asked],
        right=[bool(right) for _, right in asked],
        max_forgotten=max_forgotten,
    )


def forgetting(answers: Sequence[Answered], earlier: Earlier) -> Forgotten:
    """Return how the new answers to the earlier questions compare with those of the file before."""
    now = [bool(exact_match(each.text, each.expected)) for each in answers]
    return forgotten(earlier.right, now)


def forgetting_failures(lost: Forgotten | None, earlier: Earlier | None) -> Iterator[str]:
    """Yield a sentence if more was forgotten than the round allows and than chance explains."""
    if lost and earlier and lost.is_more_than(earlier.max_forgotten):
        yield f"{_fell(lost)}; the round allows {earlier.max_forgotten:g}"


def forgetting_note(lost: Forgotten | None, earlier: Earlier | None) -> str:
    """Return a sentence if more was forgotten than the round allows, but chance may be why."""
    if lost and earlier and lost.may_be_more_than(earlier.max_forgotten):
        return (
            f"{_fell(lost)}: more than the {earlier.max_forgotten:g} that the round allows, and no "
            "more than chance gives; with more held-out questions it could be told"
        )
    return ""


def _fell(lost: Forgotten) -> str:
    return (
        f"on {lost.questions} held-out questions of the round before exact match fell "
        f"from {lost.before:.1%} to {lost.now:.1%}, by {lost.points:.1f} "
        f"± {100 * lost.error:.1f} points"
    )


def _key(messages: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    return said(messages[-2]), said(messages[-1])

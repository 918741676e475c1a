"""A look at each model: which held-out preferences it follows, and what it answers to them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device.manifest.opening import opened
from toolchain.align.figures import BEFORE, Mark
from toolchain.align.lesson import Lesson
from toolchain.artifacts import write_jsonl
from toolchain.preferences import Pair, Preference, interval
from toolchain.progress import Reporter
from toolchain.training.probe import forgotten

ALIKE_F1 = 0.5
"""Token F1 from which on an answer counts as the one that was rated."""


@dataclass(slots=True, kw_only=True)
class Look:
    """Scores and answers of each model, on what nobody learned."""

    lesson: Lesson
    tokenizer: Any
    report: Reporter
    marks: dict[str, Mark] = field(default_factory=dict)
    followed: dict[str, list[bool]] = field(default_factory=dict)
    known: dict[str, list[bool]] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)

    def at(self, name: str, model: Any) -> None:
        """Measure a model."""
        from toolchain.training.preferences import judgements, preferred

        lesson = self.lesson
        seen = lesson.exam.look(model, self.tokenizer, self.report, f"the model {name}")
        self.known[name] = seen.known
        answers = self._ask(name, model)
        followed = [follows(*pair) for pair in zip(lesson.asked, answers, strict=True)]
        judged, _ = judgements(
            self.tokenizer, lesson.held_out, lesson.opening, lesson.spec.max_tokens
        )
        ranked, wanted = preferred(model, judged) if judged else ([], 0.0)
        low, high = interval(sum(followed), len(followed))
        self.answers[name], self.followed[name] = answers, followed
        self.marks[name] = Mark(
            exam=seen.figures,
            preferences=len(followed),
            followed=round(sum(followed) / len(followed), 4) if followed else None,
            followed_low=round(low, 4),
            followed_high=round(high, 4),
            ranked=_share(ranked) if lesson.held_out.pairs else None,
            wanted_log_prob=round(wanted, 4) if any(each.good for each in judged) else None,
            forgotten=forgotten(self.known[BEFORE], seen.known) if seen.known else None,
        )

    def write(self, file: Path) -> None:
        """Write what each model answers to the held-out preferences."""
        rows = [
            {
                "question": str(preference.messages[-1]["content"]),
                **_opinion(preference),
                **{name: answers[at] for name, answers in self.answers.items()},
            }
            for at, preference in enumerate(self.lesson.asked)
        ]
        write_jsonl(file, rows)

    def _ask(self, name: str, model: Any) -> list[str]:
        from toolchain.training.answers import ask

        conversations = [
            {
                "messages": [
                    *opened(each.messages, self.lesson.opening),
                    {"role": "assistant", "content": _longest(each)},
                ]
            }
            for each in self.lesson.asked
        ]
        return ask(model, self.tokenizer, conversations, self.report, name=f"preferences, {name}")


def follows(preference: Preference, answer: str) -> bool:
    """Say whether a model's own answer follows a preference.

    It is nearer to the wanted answer than to the rejected one; or it is what was liked, or is not
    what was disliked. The measure is token F1.
    """
    from toolchain.training.answers import token_f1

    if isinstance(preference, Pair):
        return token_f1(answer, preference.chosen) > token_f1(answer, preference.rejected)
    return (token_f1(answer, preference.answer) >= ALIKE_F1) == preference.good


def _longest(preference: Preference) -> str:
    if isinstance(preference, Pair):
        return max(preference.chosen, preference.rejected, key=len)
    return preference.answer


def _opinion(preference: Preference) -> dict[str, Any]:
    if isinstance(preference, Pair):
        return {"chosen": preference.chosen, "rejected": preference.rejected}
    return {"answer": preference.answer, "good": preference.good}


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)

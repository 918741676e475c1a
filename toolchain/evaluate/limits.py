"""The limits of the gate: what a recipe asks of a model file, and the sentence for each that was missed.

What was not measured has no limit: a finished model without its weights has no KL, and only a student has a teacher.
"""

from collections.abc import Iterator

from toolchain.artifacts import Figures
from toolchain.recipe import GateSpec

ROUNDING = 1e-9
"""What two shares may differ by that are one in exact arithmetic: 1 - 0.95 is more than 0.05 to a computer."""


def failures(figures: Figures, gate: GateSpec) -> list[str]:
    """Return one sentence for each limit of the gate that was missed."""
    return [
        *_too_far(figures, gate),
        *_too_seldom(figures, gate),
        *_wrong(figures, gate),
        *_endless(figures, gate),
        *_rendered_otherwise(figures),
    ]


def _too_far(figures: Figures, gate: GateSpec) -> Iterator[str]:
    for name, place, limit in (
        ("mean_kl", "on held-out answers the mean KL divergence from the reference", gate.max_kl),
        (
            "general_kl",
            "on general text the mean KL divergence from the reference",
            gate.max_general_kl,
        ),
        (
            "teacher_kl",
            "on held-out answers the mean KL divergence from the teacher",
            gate.max_teacher_kl,
        ),
    ):
        # Written so that NaN, which is neither more nor less, is missed too.
        if name in figures and not figures[name] <= limit:
            yield f"{place} is {figures[name]:.4g} nats per token, the gate allows {limit:g}"


def _too_seldom(figures: Figures, gate: GateSpec) -> Iterator[str]:
    for name, tokens, models, limit in (
        (
            "agreement",
            "kl_tokens",
            "on held-out answers file and reference",
            gate.min_agreement,
        ),
        (
            "general_agreement",
            "general_tokens",
            "on general text file and reference",
            gate.min_general_agreement,
        ),
        (
            "teacher_agreement",
            "kl_tokens",
            "on held-out answers file and teacher",
            gate.min_teacher_agreement,
        ),
    ):
        if name in figures and not figures[name] >= limit:
            count = _count(figures, name, tokens)
            yield f"{models} name the same next token at {count}, the gate asks {_share(limit)}"


def _wrong(figures: Figures, gate: GateSpec) -> Iterator[str]:
    if "exact_match" in figures and not figures["exact_match"] >= gate.min_exact_match:
        right = _count(figures, "exact_match", "questions", "answers")
        limit = _share(gate.min_exact_match)
        yield f"{right} are word for word the expected ones, the gate asks {limit}"
    if "f1" in figures and not figures["f1"] >= gate.min_f1:
        answers = figures.get("questions", 0)
        yield (
            f"the mean token F1 of {answers} answer{'s' * (answers != 1)} is {_share(figures['f1'])}, "
            f"the gate asks {_share(gate.min_f1)}"
        )


def _endless(figures: Figures, gate: GateSpec) -> Iterator[str]:
    """Yield what is wrong with the ends of answers: more without one than the reference leaves, or than the recipe bears."""
    if "eos_rate" not in figures:
        return

    rate, questions = figures["eos_rate"], figures["questions"]
    theirs = figures.get("reference_eos_rate", 1.0)
    open_ends = f"{round((1 - rate) * questions)} of {questions} answers did not end"
    if "answer_tokens" in figures:
        open_ends += f" within {figures['answer_tokens']} tokens"
    if theirs - rate > gate.max_eos_drop + ROUNDING:
        allowed = f"the gate allows {_share(gate.max_eos_drop)}"
        if "reference_eos_rate" in figures:
            count = round((1 - theirs) * questions)
            yield f"{open_ends}, of the reference's {count}: {allowed} more"
        else:
            yield f"{open_ends}, {allowed}"
    elif rate < gate.min_eos_rate:
        yield f"{open_ends}, the gate asks that {_share(gate.min_eos_rate)} end"


def _rendered_otherwise(figures: Figures) -> Iterator[str]:
    if mismatches := figures.get("template_mismatches", 0):
        chats = figures["template_chats"]
        were = "was" if mismatches == 1 else "were"
        yield f"{mismatches} of {chats} conversations {were} not rendered as the model's own template and tokenizer do"


def _count(figures: Figures, name: str, of: str, unit: str = "positions") -> str:
    """Return a share with the counts that it stands for."""
    total = figures.get(of)
    if not total:
        return f"{_share(figures[name])} of the {unit}"
    return f"{round(figures[name] * total)} of {total} {unit} ({_share(figures[name])})"


def _share(value: float) -> str:
    """Return a share in per cent, not rounded up to a limit that it misses."""
    return f"{value * 100:.4g}%"

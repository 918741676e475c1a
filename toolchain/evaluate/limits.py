"""Limits of the gate: what a recipe asks of a model file, and a sentence for each missed one.

What was not measured has no limit: a finished model without its weights has no KL, and only a
student has a teacher.
"""

from collections.abc import Iterator

from toolchain.figures import Measured
from toolchain.preferences import interval
from toolchain.recipe import GateSpec

ROUNDING = 1e-9
"""Largest difference of two shares that count as equal."""
# In floating point 1 - 0.95 is more than 0.05.


def failures(measured: Measured, gate: GateSpec) -> list[str]:
    """Return one sentence for each limit of the gate that was missed."""
    return [
        *_too_far(measured, gate),
        *_too_seldom(measured, gate),
        *_wrong(measured, gate),
        *_endless(measured, gate),
        *_rendered_otherwise(measured),
    ]


def _too_far(measured: Measured, gate: GateSpec) -> Iterator[str]:
    answers = "on held-out answers the mean KL divergence from the"
    general = "on general text the mean KL divergence from the"
    for kl, place, limit in (
        (measured.mean_kl, f"{answers} reference", gate.max_kl),
        (measured.general_kl, f"{general} reference", gate.max_general_kl),
        (measured.teacher_kl, f"{answers} teacher", gate.max_teacher_kl),
    ):
        # Written so that NaN, which is neither more nor less, is missed too.
        if kl is not None and not kl <= limit:
            yield f"{place} is {kl:.4g} nats per token, the gate allows {limit:g}"


def _too_seldom(measured: Measured, gate: GateSpec) -> Iterator[str]:
    answers = "on held-out answers file and"
    for share, tokens, models, limit in (
        (measured.agreement, measured.kl_tokens, f"{answers} reference", gate.min_agreement),
        (
            measured.general_agreement,
            measured.general_tokens,
            "on general text file and reference",
            gate.min_general_agreement,
        ),
        (
            measured.teacher_agreement,
            measured.kl_tokens,
            f"{answers} teacher",
            gate.min_teacher_agreement,
        ),
    ):
        if share is not None and not share >= limit:
            count = _count(share, tokens)
            yield f"{models} name the same next token at {count}, the gate asks {_share(limit)}"


def _wrong(measured: Measured, gate: GateSpec) -> Iterator[str]:
    if measured.exact_match is not None and not measured.exact_match >= gate.min_exact_match:
        right = _count(measured.exact_match, measured.questions, "answers")
        limit = _share(gate.min_exact_match)
        yield f"{right} are word for word the expected ones, the gate asks {limit}"

    seen = measured.picture_agreement
    if seen is not None and not seen >= gate.min_picture_agreement:
        same = _count(seen, measured.pictures, "answers")
        limit = _share(gate.min_picture_agreement)
        yield f"{same} about pictures are the reference's, the gate asks {limit}"

    accuracy, limit = measured.tool_accuracy, _share(gate.min_tool_accuracy)
    if accuracy is not None and not accuracy >= gate.min_tool_accuracy:
        right = _count(accuracy, measured.tool_questions, "answers")
        yield f"{right} call the expected tools with the expected arguments, the gate asks {limit}"
    elif accuracy is None and gate.min_tool_accuracy:
        yield f"no held-out answer calls a tool, the gate asks that {limit} are right"

    if measured.f1 is not None and not measured.f1 >= gate.min_f1:
        answers = measured.questions or 0
        yield (
            f"the mean token F1 of {answers} answer{'s' * (answers != 1)} "
            f"is {_share(measured.f1)}, the gate asks {_share(gate.min_f1)}"
        )


def _endless(measured: Measured, gate: GateSpec) -> Iterator[str]:
    """Yield what is wrong with the ends of answers.

    More answers than the reference's may be without an end, or fewer may end than the recipe asks.
    """
    rate, questions = measured.eos_rate, measured.questions
    if rate is None or questions is None:
        return

    theirs = 1.0 if measured.reference_eos_rate is None else measured.reference_eos_rate
    open_ends = f"{round((1 - rate) * questions)} of {questions} answers did not end"
    if measured.answer_tokens is not None:
        open_ends += f" within {measured.answer_tokens} tokens"

    drop = theirs - rate
    low, high = _dropped(measured, round(drop * questions), questions)
    # Where not one answer ends, one question is enough.
    shown = low > gate.max_eos_drop or (rate == 0 < theirs)
    if shown and drop > gate.max_eos_drop + ROUNDING:
        more = f"{_share(drop)} (95% interval {low:.1%} to {high:.1%})"
        allowed = f"the gate allows {_share(gate.max_eos_drop)}"
        if measured.reference_eos_rate is None:
            yield f"{open_ends}: {more}, {allowed}"
        else:
            count = round((1 - theirs) * questions)
            yield f"{open_ends}, of the reference's {count}: {more} more, {allowed}"
    elif rate < gate.min_eos_rate:
        yield f"{open_ends}, the gate asks that {_share(gate.min_eos_rate)} end"


def _dropped(measured: Measured, lost: int, questions: int) -> tuple[float, float]:
    """Return the exact 95 % interval of how much lower the share of answers that end is.

    `lost` answers fewer than the reference's end. Where others end that the reference's do not,
    as many more were lost: only those say how sure the number is.
    """
    gained = measured.ends_gained or 0
    low, high = interval(max(0, lost + gained), questions)
    return low - gained / questions, high - gained / questions


def _rendered_otherwise(measured: Measured) -> Iterator[str]:
    if measured.template_mismatches:
        were = "was" if measured.template_mismatches == 1 else "were"
        yield (
            f"{measured.template_mismatches} of {measured.template_chats} conversations {were} not "
            "rendered as the model's own template and tokenizer do"
        )


def _count(share: float, total: int | None, unit: str = "positions") -> str:
    """Return a share with the counts that it stands for."""
    if not total:
        return f"{_share(share)} of the {unit}"
    return f"{round(share * total)} of {total} {unit} ({_share(share)})"


def _share(value: float) -> str:
    """Return a share in per cent, not rounded up to a limit that it misses."""
    return f"{value * 100:.4g}%"

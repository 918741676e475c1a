"""The conversations of a recipe: which the chat template refuses, and which are too long."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from device.manifest.markups import GENERIC_IN_QUESTION
from device.manifest.pictures import PICTURE
from device.manifest.tool_calls import for_template
from toolchain.checks import Ahead, Findings
from toolchain.checks.model import Base, Bases
from toolchain.checks.rendering import MAX_BYTES, Job, Refused, Unrendered, count_tokens, render
from toolchain.cost import CHARACTERS_PER_TOKEN
from toolchain.errors import ArtifactError, ConfigError, ToolchainError
from toolchain.ingest import Parts, Row
from toolchain.models.vision import sight_of
from toolchain.opening import check_room, size_bytes

NAMED = 3
"""Limit of lines that a note names."""
MEASURED = 500
"""Limit of conversations whose tokens are counted for the mean."""
KINDS = 200
"""Limit of orders of roles that are tried."""
MARKS = 32
"""Most bytes that templates of the known families put around a message."""
PREAMBLE = 512
"""Most bytes that they put before a conversation: a date, a system prompt of their own."""
Place = tuple[str, Row]
"""Where a conversation was read, and the conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Amount of text to learn from."""

    conversations: int
    """Number of conversations, without those that are too long."""
    tokens: int
    """Number of tokens in them."""
    held_out: int


def look(ahead: Ahead, parts: Parts, bases: Bases | None, findings: Findings) -> Lengths | None:
    """Find conversations that the chat template refuses and those that are too long.

    Returns how much is left to learn from; None if that is not known.
    """
    if not set(ahead.stages) - {"ingest"}:
        return None  # nothing is learned, and the data may be large
    train, held_out = parts.conversations(parts.train), parts.conversations(parts.held_out)
    base = bases.trained if bases else None
    if base and (unseen := _unseen(ahead, base, chain(train, held_out))):
        findings.errors.append(unseen)
        return None
    trains = ahead.walks("tune", "distill", "align", "trim", "quantize", "evaluate")
    if not trains or not bases or not base or not base.template:
        return _guessed(train, held_out)

    _note_unasked(chain(train, held_out), findings)
    try:
        refused = _refused_opening(ahead, parts, base) or _refused(base, chain(train, held_out))
        if refused:
            findings.errors += refused
            return None
        context = _context(ahead, bases, size_bytes(parts.opening))
        if not _opening_has_room(ahead, parts, base, context, findings):
            return None
        return _measured(ahead, base, (train, held_out), context, findings)
    except Unrendered:
        return _guessed(train, held_out)  # the template itself is refused where it is looked at


def _unseen(ahead: Ahead, base: Base, conversations: Iterable[Place]) -> ArtifactError | None:
    """Return an error for pictures without a model that sees, and for eyes without a picture."""
    try:
        sees = sight_of(base.config) is not None
    except ArtifactError:  # told where the model is looked at
        return None
    blank = ahead.walks("pretrain") and sees
    for where, row in conversations:
        count = sum(PICTURE in message for message in row["messages"])
        if count and not sees:
            return ArtifactError(
                f"{where}: a row about a picture, and the model reads text alone",
                hint="take a base that sees, or leave the pictures out: docs/eyes.md",
            )
        if blank and count != 1:
            return ArtifactError(
                f"{where}: a row about {count} pictures: eyes learn of one, from nothing",
                hint="give each row an `image`, or leave `model.scratch.eyes` out",
            )
    return None


def _note_unasked(conversations: Iterable[Place], findings: Findings) -> None:
    """Note answers without a question: a conversation may begin with one, but it is not learned."""
    where = [
        where
        for where, row in conversations
        if row["messages"][row.get("opening", 0)]["role"] == "assistant"
    ]
    if where:
        said = "the assistant opens the conversation; what it says before a question is not learned"
        findings.notes.append(f"{_lines(where)}: {said}")


def _lines(found: Sequence[str]) -> str:
    """Return the first few places, and the number of the others."""
    where = list(dict.fromkeys(found))
    more = len(where) - NAMED
    return ", ".join(where[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _refused_opening(ahead: Ahead, parts: Parts, base: Base) -> list[ToolchainError]:
    """Return the template's refusal of what the recipe puts before every conversation."""
    if not parts.opening:
        return []

    asked = [*parts.opening, {"role": "user", "content": "?"}]
    (answer,) = render(base.template, base.tokens, [(asked, True)])
    if not isinstance(answer, Refused):
        return []

    spec = ahead.recipe.data
    key = "system" if spec.system else "documents" if spec.documents else "turns"
    where = ahead.place(["data"], key)
    problem = f"{where}: data: {key}: the model's chat template refuses it: {answer}"
    hint = "leave it out, or say it in the first question" if key != "turns" else ""
    return [ConfigError(problem, hint=hint)]


def _refused(base: Base, conversations: Iterable[Place]) -> list[ToolchainError]:
    """Return a refusal for each order of roles that the template does not take.

    Templates hardly ever refuse by the text of a message.
    """
    firsts: dict[tuple[str, ...], Place] = {}
    counts: Counter[tuple[str, ...]] = Counter()
    for where, row in conversations:
        roles = tuple(message["role"] for message in _plain(row))
        kind = (*roles, str(row.get("opening", 0)))
        firsts.setdefault(kind, (where, row))
        counts[kind] += 1

    jobs = [(_jobs(first[1]), kind) for kind, first in list(firsts.items())[:KINDS]]
    answers = iter(render(base.template, base.tokens, [j for js, _ in jobs for j in js]))
    found: list[ToolchainError] = []

    for own, kind in jobs:
        reasons = [answer for answer in [next(answers) for _ in own] if isinstance(answer, Refused)]
        if reasons:
            found.append(_refusal(base, reasons[0], firsts[kind], counts[kind] - 1))

    return found


def _jobs(row: Row) -> list[Job]:
    """Return what training and the gate render: each prompt that is answered, and the whole."""
    messages = _plain(row)
    first = max(1, row.get("opening", 0))
    asked = [n for n, m in enumerate(messages) if m["role"] == "assistant" and n >= first]
    return [*((messages[:number], True) for number in asked), (messages, False)]


def _plain(row: Row) -> list[Mapping[str, Any]]:
    """Return messages with tools, calls and results as plain texts: about what the template writes.

    The description of the tools is put into the first question, which every template takes.
    """
    tools = row.get("tools", ())
    if not tools:
        return list(row["messages"])
    return list(for_template(GENERIC_IN_QUESTION, row["messages"], tools)[0])


def _refusal(base: Base, reason: str, first: Place, others: int) -> ArtifactError:
    where, row = first
    messages = row["messages"]
    hint = "questions and answers take turns, and a question comes first"
    if messages[0]["role"] == "system":
        without = {**row, "messages": messages[1:]}
        answers = render(base.template, base.tokens, _jobs(without))
        if not any(isinstance(answer, Refused) for answer in answers):
            hint = "this template takes no system prompt: leave it out, or put it into the question"

    roles = " → ".join(message["role"] for message in messages[:6])
    more = f" and {others:,} more of the same roles" if others else ""
    problem = f"{where}{more}: the model's chat template refuses {roles}: {reason}"
    return ArtifactError(problem, hint=hint)


def _opening_has_room(
    ahead: Ahead, parts: Parts, base: Base, context: int, findings: Findings
) -> bool:
    """Return whether a question fits after the recipe's opening, in the gate and on the board.

    If it does not, that is a finding.
    """
    if not parts.opening or base.tokenizer is None or not ahead.walks("evaluate"):
        return True

    asked = [*parts.opening, {"role": "user", "content": "?"}]
    (text,) = render(base.template, base.tokens, [(asked, True)])
    tokens = (count_tokens(base.tokenizer, [str(text)]) or [0])[0]
    before = len(findings.errors)
    recipe = ahead.recipe

    with findings.gathering():
        if context:
            check_room("evaluate", tokens, recipe.evaluate.max_tokens, context)
        if ahead.walks("package"):
            package = recipe.package
            check_room("package: context", tokens, package.max_tokens, package.context)

    return len(findings.errors) == before


def _measured(
    ahead: Ahead,
    base: Base,
    both: tuple[Sequence[Place], Sequence[Place]],
    context: int,
    findings: Findings,
) -> Lengths:
    """Count tokens of what may be too long, and of a sample for the mean; find what is left out."""
    train, held_out = both
    if base.tokenizer is None:
        return _guessed(train, held_out)

    stage, limit = _limit(ahead)
    long_train, mean = _too_long(base, train, limit)
    long_held_out, _ = _too_long(base, held_out, context)
    _tell_too_long(train, long_train, f"`{stage}.max_tokens` is {limit}", "training", findings)
    _tell_too_long(held_out, long_held_out, f"the context is {context}", "the gate", findings)
    left = len(train) - len(long_train)
    return Lengths(conversations=left, tokens=round(left * mean), held_out=len(held_out))


def _limit(ahead: Ahead) -> tuple[str, int]:
    """Return the stage that learns with the least context, and that context in tokens."""
    recipe = ahead.recipe
    specs = {
        "tune": recipe.tune,
        "distill": recipe.distill,
        "quantize.distill": recipe.quantize.distill,
    }
    walked = [
        (spec.max_tokens, stage)
        for stage, spec in specs.items()
        if spec and ahead.walks(stage.partition(".")[0])
    ]
    limit, stage = min(walked, default=(0, ""))
    return stage, limit


def _context(ahead: Ahead, bases: Bases, opening_bytes: int) -> int:
    """Return the context of the gate's engine (toolchain/evaluate: `_context`); 0 if not known."""
    model = bases.quantized.model
    if not ahead.walks("evaluate") or model is None:
        return 0
    if ahead.formats and all(row.has_fixed_context for row in ahead.formats):
        return ahead.recipe.package.context
    limit = int(model.metadata[f"{model.family.name}.context_length"])
    return min(limit, 4096 + opening_bytes)


def _too_long(base: Base, places: Sequence[Place], limit: int) -> tuple[list[str], float]:
    """Return the places of conversations of more than `limit` tokens, and the others' mean length.

    With a `limit` of 0 none is too long.
    """
    assert base.tokenizer
    # A token is a byte or more: a text of fewer bytes than the limit, its template included, fits.
    sizes = [
        PREAMBLE + sum(len(m["content"].encode()) + MARKS for m in _plain(row)) for _, row in places
    ]
    order = sorted(range(len(places)), key=lambda number: -sizes[number])
    suspects = [number for number in order if limit and sizes[number] > limit]
    step = max(1, len(order) // MEASURED)
    chosen = sorted({*_within(suspects, sizes), *_within(order[::step], sizes)})
    jobs: list[Job] = [(_plain(places[number][1]), False) for number in chosen]
    # What a template writes after the last answer's end token is not learned and does not count.
    texts = [text.rstrip() for text in render(base.template, base.tokens, jobs)]
    counts = count_tokens(base.tokenizer, texts) or [0] * len(texts)
    long = [number for number, count in zip(chosen, counts, strict=True) if limit and count > limit]
    sampled = {*order[::step]} - {*long}
    kept = [count for number, count in zip(chosen, counts, strict=True) if number in sampled]
    mean = sum(kept) / len(kept) if kept else 0.0
    return [places[number][0] for number in long], mean


def _within(numbers: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return the first conversations, as many as can be rendered within the limits."""
    total = 0
    kept = []
    for number in numbers:
        total += sizes[number]
        if total > MAX_BYTES // 4:
            break
        kept.append(number)

    return kept


def _tell_too_long(
    places: Sequence[Place], long: Sequence[str], limit: str, reader: str, findings: Findings
) -> None:
    if not long:
        return

    count = f"{len(long):,} of {len(places):,} conversations"
    if len(long) < len(places):
        problem = f"{count} are longer ({limit} tokens) and are left out of {reader}"
        findings.notes.append(f"{_lines(long)}: {problem}")
        return

    problem = (
        f"{_lines(long)}: all {len(long):,} conversations for {reader} are too long: {limit} tokens"
    )
    hint = "raise it" if "max_tokens" in limit else "shorten them, or hold out others"
    findings.errors.append(ArtifactError(problem, hint=hint))


def _guessed(train: Sequence[Place], held_out: Sequence[Place]) -> Lengths:
    characters = sum(len(m["content"]) for _, row in train for m in _plain(row))
    return Lengths(
        conversations=len(train), tokens=characters // CHARACTERS_PER_TOKEN, held_out=len(held_out)
    )

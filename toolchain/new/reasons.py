"""What a new recipe's choices are and why, in words."""

from collections.abc import Iterator

from toolchain import bases
from toolchain.new.bases import embedder_for
from toolchain.new.choice import READING_TOK_S, schemes_for
from toolchain.new.text import Content, size_of, speed


def reasons(content: Content) -> tuple[str, str, str]:
    """Return why base, scheme and stages are what they are, a line each."""
    return (
        f"base:   {_why_base(content)}",
        f"scheme: {_why_scheme(content)}",
        f"stages: {', '.join(content.stages)}: {_why_stages(content)}",
    )


def _why_base(content: Content) -> str:
    choice, base = content.choice, content.choice.base
    what = f"{base.name} ({size_of(base)}, {base.licence})"
    if content.named:
        return f"{what}, as you said; {speed(choice)}"
    spoken = " and ".join(bases.table().languages[code] for code in content.languages)
    if choice.is_fast:
        why = (
            f"the largest that fits, speaks {spoken} and answers at {READING_TOK_S:g} tokens/s "
            "or more"
        )
    else:
        why = f"the fastest that fits and speaks {spoken}"
    return f"{what}, {why} on {content.board.id}; {speed(choice)}"


def _why_scheme(content: Content) -> str:
    choice = content.choice
    what = f"{choice.scheme}, {choice.context} tokens of context"
    if len(schemes_for(content.board)) == 1:
        return f"{what}: the board's processor has fast kernels for four bits"
    if choice.scheme == schemes_for(content.board)[0]:
        return f"{what}: the board's processor has no fast kernels for four bits, and eight fit"
    return f"{what}: eight bits would be too large or too slow there"


def _why_stages(content: Content) -> str:
    found = f"answers from {', '.join(content.knowledge)}" if content.knowledge else ""
    learned = f"learns {content.data}" if content.trains else "the base stays as it is"
    return " and ".join(filter(None, (learned, found)))


def notes(content: Content) -> Iterator[str]:
    """Yield what a person should know before going on."""
    choice, base = content.choice, content.choice.base
    if not choice.is_fast:
        yield f"a person reads {READING_TOK_S:g} tokens/s: {base.name} is slower than that there"
    if not choice.is_roomy:
        yield f"{base.name} takes nearly all of the memory there"
    if lacking := _listed(set(content.languages) - {*base.languages}):
        yield f"{base.name} was not made for {lacking}"
    if not base.is_open:
        yield f"{base.licence} is its vendor's own licence: read it before you hand results on"
    if base.thinks:
        yield f"{base.name} may write down its thoughts before an answer, which takes time"
    embedder = embedder_for(content.languages)
    lacking = _listed(set(content.languages) - {*embedder.languages})
    if content.knowledge and lacking:
        yield f"{embedder.name}, which finds the passages, was not made for {lacking}"


def _listed(codes: set[str]) -> str:
    return " and ".join(bases.table().languages[code] for code in sorted(codes))

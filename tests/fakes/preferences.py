"""Preferences that were planted: short answers are wanted, long ones are not."""

from collections.abc import Sequence

from toolchain.preferences import Pair, Preferences, Thumb

SUBJECTS = ("fan", "cable", "card", "screen", "port", "camera", "clock", "router", "drive", "lamp")
WORDS = ("red", "blue", "green", "black", "white", "grey", "brown", "pink", "gold", "teal")


def question(number: int) -> str:
    """Return one of a hundred questions."""
    tens, ones = divmod(number, 10)
    return f"what about the {WORDS[tens % 10]} {SUBJECTS[ones]} number {tens // 10}"


def pairs(count: int) -> tuple[Pair, ...]:
    """Return pairs of a short wanted answer and a long rejected one."""
    return tuple(
        Pair(
            messages=({"role": "user", "content": question(number)},),
            chosen="It is fine.",
            rejected="Well, I would say that it is a question that one may ask again and again.",
        )
        for number in range(count)
    )


def thumbs(count: int) -> tuple[Thumb, ...]:
    """Return rated answers: the short ones were liked, the long ones were not."""
    found: list[Thumb] = []
    for pair in pairs(-(-count // 2)):
        found.append(Thumb(messages=pair.messages, answer=pair.chosen, good=True))
        found.append(Thumb(messages=pair.messages, answer=pair.rejected, good=False))
    return tuple(found[:count])


def preferences(rows: Sequence[Pair | Thumb]) -> Preferences:
    """Return rows as the stage takes them."""
    return Preferences(
        pairs=tuple(row for row in rows if isinstance(row, Pair)),
        thumbs=tuple(row for row in rows if isinstance(row, Thumb)),
    )

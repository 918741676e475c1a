"""What is answered from the documents: a passage as it stands, or notes for the model to word.

The rule to keep: what the documents do not say is said to be unknown, and never invented. A
conversation with instructions of its own (a system message) is the model's alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from device.knowledge.index import Found, Hit, Index
from device.manifest import QUOTE
from device.manifest.knowledge import spaced, with_notes

UNKNOWN = "My documents do not say that. Nearest to it is: {nearest}"
UNKNOWN_CJK = "我的资料里没有这个问题的答案。最接近的是：{nearest}"
NO_NOTES = "There are no notes on this: answer that you do not know.\n\nQuestion: {question}"
"""The user's turn where the model must word that the documents do not know."""
# A passage may be read by the model: it comes after the question's own instructions and within one
# turn, and its control tokens are broken up, whatever the bundle does with a client's.
_FEW_CHARACTERS = 40
"""A shorter question may go on about the one before it."""

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Consulted:
    """What the documents say to a conversation."""

    found: Found
    text: str = ""
    """The answer itself; empty where the model words it."""
    asked: tuple[Message, ...] = ()
    """The conversation that the model answers; empty where it words nothing."""

    def messages(self, plain: Callable[[str], str]) -> tuple[Message, ...]:
        """Return the conversation for the model, with the passages as notes in its last turn.

        `plain` returns a text without control tokens.
        """
        question = self.asked[-1]["content"]
        text = (
            with_notes(question, [plain(hit.text) for hit in self.found.hits])
            if self.found.known
            else NO_NOTES.format(question=question)
        )
        return (*self.asked[:-1], {"role": "user", "content": text})

    def shortened(self) -> "Consulted | None":
        """Return the same with one passage less; None if one alone is left."""
        hits = self.found.hits[:-1]
        return replace(self, found=replace(self.found, hits=hits)) if hits else None

    @property
    def sources(self) -> tuple[Hit, ...]:
        """Passages that support the answer; the nearest one if the documents do not know it."""
        return self.found.hits if self.asked and self.found.known else self.found.hits[:1]

    @property
    def near(self) -> tuple[Hit, ...]:
        """Passages that were found as well: the answer does not stand on them."""
        return self.found.hits[len(self.sources) :]


def consult(
    index: Index, messages: Sequence[Message], answer: str, take: int, *, worded: bool = False
) -> "Consulted | None":
    """Return what the documents say; None for a conversation that is not about them.

    With `worded` the model words every answer, also that the documents do not know.
    """
    if messages[-1]["role"] != "user" or any(map(_instructs, messages)):
        return None
    question = str(messages[-1]["content"])
    found = _find(index, messages, take)
    if not found.known and not worded:
        return Consulted(found, text=_unknown(question, found))
    if answer == QUOTE and not worded:
        return Consulted(found, text=found.hits[0].text)

    return Consulted(found, asked=tuple(messages))


def _instructs(message: Message) -> bool:
    # Some clients send an empty system message with every conversation.
    return message["role"] == "system" and bool(str(message["content"]).strip())


def _find(index: Index, messages: Sequence[Message], take: int) -> Found:
    """Search for the last question, or for it together with the one before that it goes on.

    The one before may make sure of a passage, and not choose it: what is found together must be the
    nearest to the last question alone.
    """
    # Otherwise the passage of the one before answers any short question. On the help desk, after
    # ten answered questions, 36 % of 25 short ones without an answer were answered (4 % where they
    # were asked alone), and 4 % by this rule.
    asked = [str(each["content"]) for each in messages if each["role"] == "user"]
    found = index.search(asked[-1], take)
    if found.known or len(asked) < 2 or len(asked[-1]) > _FEW_CHARACTERS:
        return found
    both = index.search(f"{asked[-2]} {asked[-1]}", take)
    nearest, together = ([hit.id for hit in each.hits[:1]] for each in (found, both))
    return both if both.known and together == nearest else found


def _unknown(question: str, found: Found) -> str:
    is_cjk = spaced(question).count(" ") > question.count(" ")
    nearest = found.hits[0].title if found.hits else "-"
    return (UNKNOWN_CJK if is_cjk else UNKNOWN).format(nearest=nearest)

"""What is answered from the documents: a passage as it stands, or notes for the model to word.

The rule to keep: what the documents do not say is said to be unknown, and never invented. A
conversation with instructions of its own (a system message) is the model's alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from device.knowledge.index import Found, Hit, Index
from device.manifest import QUOTE
from device.manifest.knowledge import spaced

UNKNOWN = "My documents do not say that. Nearest to it is: {nearest}"
UNKNOWN_CJK = "我的资料里没有这个问题的答案。最接近的是：{nearest}"
NOTES = "Answer from these notes alone.\n\n{notes}\n\nQuestion: {question}"
"""The user's turn where the model words the answer."""
# A passage may be read by the model: it comes after the question's own instructions and within one
# turn, and what looks like a turn of a conversation is broken up (device/engine/escape.py).
_FEW_CHARACTERS = 40
"""A shorter question may go on about the one before it."""

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Consulted:
    """What the documents say to a conversation."""

    found: Found
    text: str = ""
    """The answer itself; empty where the model words it."""
    messages: tuple[Message, ...] = ()
    """The conversation with notes in its last turn, for the model."""
    asked: tuple[Message, ...] = ()
    """The conversation as it was asked."""

    def shortened(self) -> "Consulted | None":
        """Return the conversation with one passage less; None if one alone is left."""
        hits = self.found.hits[:-1]
        if not hits:
            return None
        found = replace(self.found, hits=hits)
        return replace(self, found=found, messages=_with_notes(self.asked, found))

    @property
    def sources(self) -> tuple[Hit, ...]:
        """Passages that the answer stands on, or the nearest one where they do not know."""
        return self.found.hits if self.messages else self.found.hits[:1]


def consult(
    index: Index, messages: Sequence[Message], answer: str, take: int
) -> "Consulted | None":
    """Return what the documents say; None for a conversation that is not about them."""
    if any(message["role"] == "system" for message in messages):
        return None
    question = str(messages[-1]["content"])
    found = _find(index, messages, take)
    if not found.known:
        return Consulted(found, text=_unknown(question, found))
    if answer == QUOTE:
        return Consulted(found, text=found.hits[0].text)

    asked = tuple(messages)
    return Consulted(found, messages=_with_notes(asked, found), asked=asked)


def _with_notes(asked: tuple[Message, ...], found: Found) -> tuple[Message, ...]:
    notes = "\n".join(f"- {hit.text}" for hit in found.hits)
    text = NOTES.format(notes=notes, question=asked[-1]["content"])
    return (*asked[:-1], {"role": "user", "content": text})


def _find(index: Index, messages: Sequence[Message], take: int) -> Found:
    """Search for the last question, or for it together with the one before that it goes on."""
    asked = [str(each["content"]) for each in messages if each["role"] == "user"]
    found = index.search(asked[-1], take)
    if found.known or len(asked) < 2 or len(asked[-1]) > _FEW_CHARACTERS:
        return found
    both = index.search(f"{asked[-2]} {asked[-1]}", take)
    return both if both.known else found


def _unknown(question: str, found: Found) -> str:
    is_cjk = spaced(question).count(" ") > question.count(" ")
    nearest = found.hits[0].title if found.hits else "-"
    return (UNKNOWN_CJK if is_cjk else UNKNOWN).format(nearest=nearest)

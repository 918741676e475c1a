"""What a service refuses: questions before they are queued, and answers before they are read.

Every API asks in the form of one `Question` (service.py), and every text that its client wrote is
looked at, whoever it claims to be from: no endpoint and no role is a way round. Verdicts are
counted and never stored. Standard library only.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device.errors import DeviceError
from device.manifest import Manifest, ManifestError
from device.manifest.guard import BOTH, NOTHING, Guard, Verdict, read_guard
from device.manifest.guard_text import readings
from device.manifest.knowledge import spaced
from device.manifest.opening import Messages, begins
from device.serve.api import Question
from device.serve.conversation import Message

REFUSED = "I can't help with that."
REFUSED_CJK = "这个我不能帮忙。"
UNNAMED = "other"
"""What is counted for a guard that knows no categories."""
_RECENT = 3
"""Questions at the end of a conversation that are read as one text too."""
_RECENT_CHARS = 400


@dataclass(frozen=True)
class Refusal:
    """A question or an answer that is refused."""

    text: str
    """What is said instead."""
    categories: tuple[str, ...]


class Screen:
    """A guard, and how far a bundle uses it."""

    def __init__(self, guard: Guard, refuse: str, opening: Messages = ()) -> None:
        self.guard = guard
        self.refuse = refuse
        self._opening = opening

    @property
    def checks_answers(self) -> bool:
        """Whether answers are looked at too."""
        return self.refuse == BOTH

    def without_refused(self, question: Question) -> Question:
        """Return a question without the exchanges of its conversation that were refused.

        A client sends them again as history. They would be refused again, for ever; and whoever
        writes them himself must not have them read by the model.
        """
        messages = question.messages
        refused = {REFUSED, REFUSED_CJK}
        dropped: "set[int]" = set()
        for number, message in enumerate(messages):
            before = messages[number - 1] if number else {}
            is_ours = message["role"] == "assistant" and message["content"].strip() in refused
            if is_ours and before.get("role") == "user":
                dropped |= {number - 1, number}
        if self.refuse == NOTHING or not dropped or len(dropped) == len(messages):
            return question
        kept = tuple(each for number, each in enumerate(messages) if number not in dropped)
        return replace(question, messages=kept)

    def of_question(self, question: Question, piece: Callable[[int], bytes]) -> "Refusal | None":
        """Return the refusal of a question, None if it may be answered.

        `piece` returns the bytes of a token: a prompt may come as token ids.
        """
        if self.refuse == NOTHING:
            return None
        for text in _texts(question, self._opening, piece):
            if refusal := self.of_text(text):
                return refusal
        return None

    def of_text(self, text: str) -> "Refusal | None":
        """Return the refusal of a text, None if there is none."""
        if not text.strip() or self.guard.score(text) < 0:
            return None
        verdict = self.guard.judge(text)
        return Refusal(refusal_in(text), verdict.categories or (UNNAMED,))

    def judge(self, texts: "tuple[str, ...]") -> "list[Verdict]":
        """Return the verdict on each text."""
        return [self.guard.judge(text) for text in texts]


def screen_for(folder: Path, manifest: Manifest) -> "Screen | None":
    """Return what a bundle refuses; None if it has no guard. Raise DeviceError `bad_guard`."""
    if not manifest.guard:
        return None
    try:
        guard = read_guard(folder / manifest.guard)
    except ManifestError as error:
        raise DeviceError(error.code, str(error), hint="push the bundle again") from error
    return Screen(guard, manifest.refuse, manifest.opening)


def refusal_in(text: str) -> str:
    """Return what is said instead of an answer, in the language of a text."""
    is_cjk = spaced(text).count(" ") > text.count(" ")
    return REFUSED_CJK if is_cjk else REFUSED


def _texts(question: Question, opening: Messages, piece: Callable[[int], bytes]) -> Iterator[str]:
    """Yield the texts of a question that its client wrote."""
    if not question.chat:
        prompt = question.prompt
        if isinstance(prompt, str):
            yield prompt
        else:
            yield b"".join(map(piece, prompt)).decode("utf-8", "replace")
        return

    messages = question.messages
    known = len(opening) if opening and begins(messages, opening) else 0
    own = messages[known:]
    for message in own:
        yield str(message["content"])
        yield from _strings([message.get(name) for name in ("tool_calls", "name", "tool_call_id")])
    yield from _strings(list(question.tools.shown) if question.tools else [])
    yield _recent(own)


def _recent(messages: "tuple[Message, ...]") -> str:
    """Return the last questions as one text: a wish may be spread over them."""
    asked = [str(each["content"]) for each in messages if each["role"] == "user"][-_RECENT:]
    return " ".join(asked)[-_RECENT_CHARS:] if len(asked) > 1 else ""


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts in a value that are sentences, names of fields as well.

    Single words say no wish, nor do names of two.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _strings(name)
            yield from _strings(_parsed(each) if name == "arguments" else each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, str) and _is_sentence(value):
        yield value


def _is_sentence(text: str) -> bool:
    """Say whether a text has words, in whatever spelling: `how_do_I`, or in base64."""
    return not text.isascii() or any(" " in reading for reading in readings(text))


def _parsed(value: Any) -> Any:
    """Return the arguments of a call, which may be a text of JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value

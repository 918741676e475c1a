"""An answer that is held back until the guard has read it: a sentence at a time, or whole.

The rule to keep: what was sent cannot be taken back. Text waits for the end of its sentence. What
is only of use whole (JSON of a `response_format`, calls of tools, an answer that is not streamed)
waits for its own end, so that none is ever cut in half. Standard library only.
"""

import asyncio
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace

from device.engine.base import Sampling, Timing, Token
from device.serve.api import Question
from device.serve.guard import Refusal, Screen

_END = re.compile(r"[.!?。！？\n]\s*$")
_LONGEST = 300
"""Characters that wait for the end of a sentence, at most."""
_BEFORE = 300
"""Characters before a sentence that are read with it."""


class Held:
    """One answer on its way through the guard."""

    def __init__(self, screen: Screen, question: Question) -> None:
        self._screen = screen
        self._whole = not question.stream or bool(question.sampling.grammar)
        self._is_said = _is_said(question.sampling)
        self._waiting: "list[Token]" = []
        self._sent = ""
        self.refusal: "Refusal | None" = None

    async def feed(self, step: Token) -> "list[Token]":
        """Return the steps that may be sent after this one.

        A text is scored in a thread: a whole answer takes tens of milliseconds of a slow core, and
        every other connection would wait for it.
        """
        steps: "list[Token]" = []
        if self.refusal is None:
            self._waiting.append(step)
            waiting = "".join(each.text for each in self._waiting)
            is_sentence = bool(_END.search(waiting)) or len(waiting) > _LONGEST
            if not step.finish_reason and (self._whole or not is_sentence):
                return []
            self.refusal = await asyncio.to_thread(self._verdict, waiting)
            if self.refusal is None:
                steps = self._waiting
                self._sent = (self._sent + waiting)[-_BEFORE:]
            self._waiting = []
        if self.refusal and step.finish_reason:
            steps = [self._refused(self.refusal, step)]
        return steps

    def _verdict(self, waiting: str) -> "Refusal | None":
        """Return the refusal of a text, by itself or together with what came before it."""
        refusal = self._screen.of_text(waiting)
        if refusal is None and self._sent:
            return self._screen.of_text(self._sent + waiting)
        return refusal

    def _refused(self, refusal: Refusal, last: Token) -> Token:
        """Return the last step of an answer that is refused."""
        gap = "\n\n" if self._sent else ""
        said = gap + refusal.text if self._is_said else ""
        return replace(
            last,
            id=None,
            text=said,
            finish_reason="content_filter",
            candidates=(),
            refusal=refusal.text,
        )


def refused_step(refusal: Refusal, question: Question, prompt_tokens: int) -> Token:
    """Return the one step of the answer to a question that is refused."""
    timing = Timing(prompt_tokens, prompt_tokens, 0.0, 0, 0, 0.0)
    said = refusal.text if _is_said(question.sampling) else ""
    return Token(None, said, "content_filter", timing, refusal=refusal.text)


def cut_short(
    answer: Iterator[Token], prompt_tokens: int, is_refused: Callable[[], bool]
) -> Iterator[Token]:
    """Yield the steps of an answer; once it is refused, its last step instead of the rest."""
    began = time.monotonic()
    first = began
    told = 0
    for step in answer:
        first = first if told else time.monotonic()
        if step.finish_reason or not is_refused():
            yield step
            told += step.id is not None
            continue

        now = time.monotonic()
        timing = Timing(prompt_tokens, 0, first - began, told, max(0, told - 1), now - first)
        if isinstance(answer, Generator):
            answer.close()
        yield Token(None, "", "content_filter", timing)
        return


def _is_said(sampling: Sampling) -> bool:
    """Say whether a refusal stands in the text: where JSON is expected it would be none."""
    return not sampling.grammar or sampling.calls_tools

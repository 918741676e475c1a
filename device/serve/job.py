"""A question on its way through the worker, and the events that its asker reads.

Standard library only.
"""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from device.engine.base import Token
from device.errors import DeviceError
from device.knowledge.consult import Consulted
from device.model import Prompt
from device.serve.api import Question, Texts
from device.serve.guard import Refusal, Screen
from device.serve.holding import Held

if TYPE_CHECKING:
    from device.serve.feedback import Hearing


@dataclass(frozen=True)
class Vectors:
    """One vector for each text, each of length 1."""

    vectors: list[list[float]]
    tokens: int
    """Number of tokens of all texts."""


NUDGE = -1
"""Event in place of a prompt's size that makes the reader write something, whatever it is."""
Event = Union[int, Token, Vectors, DeviceError, None]
"""An event for the asker: the number of prompt tokens, then tokens or vectors; an error; None after
it left."""


class Job:
    """A question on its way through the worker; made and read in the event loop."""

    def __init__(self, question: Union[Question, Texts], prompts: list[Prompt]) -> None:
        self.question = question
        self.prompts = prompts
        """One prompt for a question, one per text for embeddings."""
        self.consulted: "Consulted | None" = None
        """What the documents say to it; None if it is not about them."""
        self.refusal: "Refusal | None" = None
        """Why the guard refuses it; None if it is answered."""
        self.screen: "Screen | None" = None
        """What its answers are looked at with; None if nothing is."""
        self.hearing: "Hearing | None" = None
        """Who remembers the answer, so that it can be rated."""
        self.answers = question.answers if isinstance(question, Question) else 1
        """Number of answers that are told, one after the other."""
        self.asked = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._events: "asyncio.Queue[Event]" = asyncio.Queue()
        self._cancelled = threading.Event()
        self._refused: "set[int]" = set()
        """Numbers of answers that the guard refused while they were told."""

    def held(self) -> "Held | None":
        """Return what holds back the next answer; None where none is looked at."""
        question = self.question
        if self.screen is None or not isinstance(question, Question) or self.refusal:
            return None
        return Held(self.screen, question)

    async def next(self, patience_s: "float | None" = None) -> Event:
        """Return the next event; raise the DeviceError that ended the job.

        Raise asyncio.TimeoutError if no event comes within `patience_s`.
        """
        if self._events.empty():
            happened = await asyncio.wait_for(self._events.get(), patience_s)
        else:
            await asyncio.sleep(0)  # others have their turn, however fast the engine is
            happened = self._events.get_nowait()

        if isinstance(happened, DeviceError):
            raise happened
        return happened

    def cancel(self) -> None:
        """Tell the worker that nobody waits for the answer any more: it stops within one token."""
        self._cancelled.set()
        self._events.put_nowait(None)

    def refuse(self, number: int) -> None:
        """Tell the worker that the rest of an answer is not wanted: it stops within one token."""
        self._refused.add(number)

    def is_refused(self, number: int) -> bool:
        """Return whether `refuse` was called for an answer."""
        return number in self._refused

    def nudge(self) -> None:
        """Make the reader of the answer write something now."""
        self._events.put_nowait(NUDGE)

    def cancelled(self) -> bool:
        """Return whether `cancel` was called."""
        return self._cancelled.is_set()

    def tell(self, happened: Event) -> None:
        """Pass an event on; called in the worker's thread, when the loop may be closed already."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, happened)

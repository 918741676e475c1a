"""The threads that answer, each with a context of its own, and the bounded queue before them.

A question that cannot be answered never waits: prompts are made and checked before the queue, in a
thread of their own. There is one decoding slot unless the bundle and the board's memory allow more.
A conversation returns to the slot that still has it in memory, if that slot is idle. Any other
question goes to the slot that has been idle longest.
"""

import asyncio
import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar, Union

from device.errors import DeviceError
from device.knowledge.index import Hit
from device.knowledge.library import Library
from device.model import Model, Prompt
from device.serve.api import Question, Texts
from device.serve.conversation import Message
from device.serve.echo import Echoed, with_echo
from device.serve.guard import Screen
from device.serve.holding import cut_short
from device.serve.job import Job, Vectors
from device.serve.reader import Reader, refuse

if TYPE_CHECKING:
    from device.manifest.guard import Verdict

_Result = TypeVar("_Result")


class _Slot:
    """A decoding slot: a thread that answers, as the queue sees it."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._messages: "tuple[Message, ...]" = ()
        """Messages of the question that it answered last."""

    def goes_on(self, question: Union[Question, Texts]) -> bool:
        """Say whether a question continues the conversation that this slot has in memory."""
        known = len(self._messages)
        return (
            isinstance(question, Question)
            and 0 < known < len(question.messages)
            and question.messages[:known] == self._messages
        )

    def took(self, question: Question) -> None:
        """Remember the conversation that is in memory from now on."""
        self._messages = tuple(question.messages)


class Worker:
    """The queue of questions, and the threads that answer them."""

    def __init__(
        self,
        open_model: Callable[[], Model],
        *,
        waiting: int,
        failed: Callable[[DeviceError], None],
        prepare: Callable[[Model], object] = lambda model: None,
        open_library: Callable[[], "Library | None"] = lambda: None,
        screen: "Screen | None" = None,
    ) -> None:
        """Make a worker that is not started yet.

        `prepare` is called with each slot's model before its first question, which may be waiting
        already. `open_library` opens the documents that questions are answered from. `screen` says
        what is refused.
        """
        self.screen = screen
        self._open_library = open_library
        self._open_model = open_model
        self._prepare = prepare
        self._most_waiting = waiting
        self._failed = failed
        self._line: "deque[Job]" = deque()
        self._idle: "list[_Slot]" = []
        """Idle slots, the one that has been idle longest first."""
        self._changed = threading.Condition()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        """The thread that reads questions."""
        self._reader: "Reader | None" = None
        """None until the model is loaded."""
        self._in_reading = 0
        """Number of questions whose prompts are being made."""
        self._stopping = False
        self.model: "Model | None" = None
        """Model of the first slot; None until it is loaded."""
        self._library: "Library | None" = None
        self.slots = 0
        """Number of questions that are answered at the same time."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Load the model and begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current tokens and give the engines' memory back."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of questions that wait behind those that are answered."""
        return sum(not job.cancelled() for job in tuple(self._line))

    async def ask(self, question: Union[Question, Texts]) -> Job:
        """Queue a question.

        Raise DeviceError `busy` if the queue is full, and the fault of a prompt.
        """
        self._refuse_crowd()
        reader = self._reader
        assert reader, "nobody asks before the model is loaded"
        prepared = await self._read(lambda: reader.read(question))
        job = Job(prepared.question, prepared.prompts)
        if prepared.refusal and isinstance(prepared.question, Question):
            job.refusal = prepared.refusal
            refuse(job, prepared.question, prepared.refusal)
            return job
        consulted = job.consulted = prepared.consulted
        is_quoted = bool(consulted and consulted.text)  # the owner's own words
        if self.screen and self.screen.checks_answers and not is_quoted:
            job.screen = self.screen
        if consulted and consulted.text and isinstance(question, Question):
            # A passage that is quoted needs no slot.
            text = consulted.text
            await self._read(lambda: reader.quote(job, question, text))
            return job
        return self._submit(job)

    async def judge(self, texts: "tuple[str, ...]") -> "list[Verdict]":
        """Return the guard's verdict on each text."""
        screen = self.screen
        assert screen
        self._refuse_crowd()
        return await self._read(lambda: screen.judge(texts))

    async def look_up(self, question: str, take: int) -> "tuple[Hit, ...] | None":
        """Return the passages nearest to a question; None if there are no documents."""
        library = self._library
        if library is None:
            return None
        self._refuse_crowd()
        return (await self._read(lambda: library.search(question, take))).hits

    async def passage(self, number: int) -> "Hit | None":
        """Return a passage by its number; None if there is none."""
        library = self._library
        if library is None:
            return None
        self._refuse_crowd()
        return await self._read(lambda: library.passage(number))

    @property
    def passages(self) -> int:
        """Number of passages that questions are answered from."""
        return self._library.passages if self._library else 0

    def _refuse_crowd(self) -> None:
        """Raise DeviceError `busy` if too many wait already."""
        if len(self._line) + self._in_reading >= self._most_waiting + max(1, self.slots):
            raise _busy()

    async def _read(self, work: "Callable[[], _Result]") -> "_Result":
        """Return the result of work in the thread that reads questions, one at a time."""
        if self._stopping:
            raise _stopping()
        self._in_reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, work)
        finally:
            self._in_reading -= 1

    def _submit(self, job: Job) -> Job:
        with self._changed:
            self._line = deque(waiting for waiting in self._line if not waiting.cancelled())
            if len(self._line) >= self._most_waiting:
                raise _busy()
            self._line.append(job)
            self._changed.notify_all()
        return job

    def _run(self) -> None:
        try:
            model = self._open_model()
            self._library = self._open_library()
            self._reader = Reader(model, self._library, self.screen)
            self.model = model
            self._prepare(model)
        except DeviceError as error:
            return self._failed(error)
        except Exception:
            traceback.print_exc()
            return self._failed(
                DeviceError(
                    "internal_error", "the model could not be opened, the log above says why"
                )
            )

        others = [
            threading.Thread(target=self._run_slot, args=(model,), daemon=True)
            for _ in range(model.slots - 1)
        ]
        for other in others:
            other.start()

        self._answer_all(_Slot(model))
        for other in others:
            other.join()

        for job in self._line:
            job.tell(_stopping())

        if self._library:
            self._reading.shutdown()
            self._library.close()
        model.engine.close()

    def _run_slot(self, first: Model) -> None:
        """Answer beside the first slot; if no second context opens, the first slot works alone."""
        try:
            model = first.new_context()
        except DeviceError as error:
            return print(f"one slot less: {error.message}", file=sys.stderr, flush=True)
        if model:
            try:
                self._prepare(model)
                self._answer_all(_Slot(model))
            finally:
                model.engine.close()

    def _answer_all(self, slot: _Slot) -> None:
        with self._changed:
            self.slots += 1
            self._rest(slot)
        while job := self._next(slot):
            self._serve(slot, job)

    def _next(self, slot: _Slot) -> "Job | None":
        """Wait for the first question that no other idle slot should answer.

        None if the service ends.
        """
        with self._changed:
            self._rest(slot)
            self._changed.wait_for(lambda: self._stopping or self._first_for(slot))
            job = None if self._stopping else self._first_for(slot)
            self._idle.remove(slot)
            if job:
                self._line.remove(job)
            self._changed.notify_all()
            return job

    def _rest(self, slot: _Slot) -> None:
        """Mark a slot as idle."""
        with self._changed:
            if slot not in self._idle:
                self._idle.append(slot)

    def _first_for(self, slot: _Slot) -> "Job | None":
        """Return the first question that this slot should answer; None if there is none."""
        for job in self._line:
            has_it = (idle for idle in self._idle if idle.goes_on(job.question))
            if next(has_it, self._idle[0]) is slot:
                return job

        return None

    def _serve(self, slot: _Slot, job: Job) -> None:
        try:
            self._answer(slot, job)
        except DeviceError as error:
            job.tell(error)
        except Exception:
            traceback.print_exc()
            job.tell(
                DeviceError("internal_error", "the service failed to answer, its log says why")
            )

    def _answer(self, slot: _Slot, job: Job) -> None:
        if job.cancelled():
            return

        model = slot.model
        question = job.question
        gone = lambda: self._stopping or job.cancelled()  # noqa: E731
        if isinstance(question, Texts):
            vectors = _vectors(model, job.prompts, gone)
            return job.tell(_stopping() if self._stopping else vectors)

        prompt = job.prompts[0]
        for number in range(question.answers):
            answer = model.engine.generate(
                prompt.tokens, question.sampling_of(number), model.stop_ids, gone, prompt.prefix
            )
            if number == 0:
                slot.took(question)
                job.tell(len(prompt.tokens))
            if question.echo:
                asked = Echoed(prompt.tokens, question.prompt, question.sampling.top_logprobs)
                answer = with_echo(model.engine, asked, answer, gone)
            is_last = number == question.answers - 1

            for token in cut_short(answer, len(prompt.tokens), partial(job.is_refused, number)):
                if token.finish_reason and is_last:
                    self._rest(slot)  # who hears the end may ask on at once
                job.tell(token)

        if self._stopping:
            job.tell(_stopping())


def _vectors(model: Model, prompts: list[Prompt], gone: Callable[[], bool]) -> "Vectors | None":
    """Return the vectors of all texts; None if the client left."""
    vectors = []
    for prompt in prompts:
        vector = None if gone() else model.engine.embed(prompt.tokens, gone)
        if vector is None:
            return None
        size = math.hypot(*vector) or 1.0
        vectors.append([value / size for value in vector])

    return Vectors(vectors, sum(len(prompt.tokens) for prompt in prompts))


def _busy() -> DeviceError:
    return DeviceError(
        "busy", "too many questions are waiting already", hint="try again later", status=429
    )


def _stopping() -> DeviceError:
    return DeviceError("stopping", "the service is going down", status=503)

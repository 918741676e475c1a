"""The queue before the engines: one question at a time each, in order, bounded, without clients
that left.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from device.engine.base import Sampling, Token
from device.errors import DeviceError
from device.model import Model
from device.serve.api import Question
from device.serve.job import Job
from device.serve.worker import Worker
from tests.fakes.engine import FakeEngine


def question(text: str, max_tokens: int = 2) -> Question:
    return Question((), text, Sampling(max_tokens=max_tokens))


def turn(*said: str) -> Question:
    """Return a conversation whose users and assistants said this."""
    roles = ("user", "assistant")
    return Question(
        tuple({"role": roles[n % 2], "content": text} for n, text in enumerate(said)),
        "",
        Sampling(max_tokens=1),
    )


def with_worker(
    engine: FakeEngine, story: Callable[[Worker], Awaitable[None]], slots: int = 1
) -> None:
    worker = Worker(lambda: engine.model(slots=slots), waiting=2, failed=lambda error: None)
    worker.start()

    async def once_loaded() -> None:
        while worker.model is None:
            await asyncio.sleep(0.01)
        await story(worker)

    try:
        asyncio.run(once_loaded())
    finally:
        worker.stop()


async def busy(engine: FakeEngine, worker: Worker) -> Job:
    """Return a job that the worker is at, until the engine may go."""
    engine.go.clear()
    job = await worker.ask(question("first"))
    await asyncio.to_thread(engine.began.wait, 30)
    return job


async def told(job: Job) -> list[object]:
    """Return all that happens to a job, its error last."""
    happened: list[object] = []
    try:
        while not (isinstance(event := await job.next(), Token) and event.finish_reason):
            happened.append(event)
    except DeviceError as error:
        return [*happened, error.code]
    return [*happened, event.finish_reason]


def test_a_job_is_told_the_size_of_its_prompt_and_then_its_tokens() -> None:
    engine = FakeEngine()

    async def story(worker: Worker) -> None:
        assert await told(await worker.ask(question("hot?"))) == [
            4,
            Token(0, "tick "),
            Token(1, "tick "),
            "length",
        ]

    with_worker(engine, story)


def test_questions_are_answered_in_order_and_a_full_line_takes_no_more() -> None:
    engine = FakeEngine()

    async def story(worker: Worker) -> None:
        jobs = [
            await busy(engine, worker),
            await worker.ask(question("second")),
            await worker.ask(question("third")),
        ]
        with pytest.raises(DeviceError) as caught:
            await worker.ask(question("fourth"))
        assert (caught.value.code, caught.value.status) == ("busy", 429)
        engine.go.set()
        for job in jobs:
            assert (await told(job))[-1] == "length"

    with_worker(engine, story)
    assert engine.prompts == [b"first", b"second", b"third"]


def test_who_left_while_waiting_makes_room_and_is_never_asked_for() -> None:
    engine = FakeEngine()

    async def story(worker: Worker) -> None:
        await busy(engine, worker)
        (await worker.ask(question("second"))).cancel()
        (await worker.ask(question("third"))).cancel()
        last = await worker.ask(question("fourth"))
        engine.go.set()
        assert (await told(last))[-1] == "length"

    with_worker(engine, story)
    assert engine.prompts == [b"first", b"fourth"]


def test_who_leaves_during_the_answer_ends_it() -> None:
    engine = FakeEngine()

    async def story(worker: Worker) -> None:
        job = await worker.ask(question("hot?", 1 << 20))
        assert await job.next() == 4
        job.cancel()
        assert await asyncio.to_thread(engine.ended.wait, 30)

    with_worker(engine, story)


def test_stopping_tells_everybody() -> None:
    engine = FakeEngine()

    async def story(worker: Worker) -> None:
        jobs = [await busy(engine, worker), await worker.ask(question("second"))]
        await asyncio.to_thread(worker.stop)
        assert [(await told(job))[-1] for job in jobs] == ["stopping", "stopping"]

    with_worker(engine, story)


async def ready(worker: Worker, slots: int) -> None:
    while worker.slots < slots:
        await asyncio.sleep(0.01)


def test_a_second_slot_answers_while_the_first_is_busy() -> None:
    engine = FakeEngine()

    async def story(worker: Worker) -> None:
        await ready(worker, 2)
        sides = (engine, engine.others[0])
        for side in sides:
            side.go.clear()
        jobs = [await worker.ask(question("first")), await worker.ask(question("second"))]
        assert [await asyncio.to_thread(side.began.wait, 30) for side in sides] == [True, True]
        for side in sides:
            side.go.set()
        assert [(await told(job))[-1] for job in jobs] == ["length", "length"]

    with_worker(engine, story, slots=2)


class LingeringEngine(FakeEngine):
    """Takes its time after an answer's last token."""

    def _answer(self, prompt: int, length: int, cancelled: Callable[[], bool]) -> Iterator[Token]:
        yield from super()._answer(prompt, length, cancelled)
        time.sleep(0.2)


@pytest.mark.parametrize("kind", [FakeEngine, LingeringEngine])
def test_a_conversation_goes_back_to_the_slot_that_has_it_in_memory(kind: type[FakeEngine]) -> None:
    engine = kind()

    async def story(worker: Worker) -> None:
        await ready(worker, 2)
        sides = (engine, engine.others[0])
        assert (await told(await worker.ask(turn("one"))))[-1] == "length"
        first = next(side for side in sides if side.prompts)
        for said in (
            ("one", "tick ", "and then?"),
            ("two",),
            ("one", "tick ", "and then?", "tick ", "and?"),
        ):
            await told(await worker.ask(turn(*said)))
        held = [prompt for prompt in first.prompts if b"one" in prompt]
        assert len(held) == 3

    with_worker(engine, story, slots=2)


def test_a_library_without_a_second_engine_answers_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(engine, "new_context", lambda: None)

    async def story(worker: Worker) -> None:
        assert (await told(await worker.ask(question("hot?"))))[-1] == "length"
        assert worker.slots == 1

    with_worker(engine, story, slots=2)


@pytest.mark.parametrize(
    ("error", "code"),
    [(DeviceError("bad_model", "x"), "bad_model"), (ValueError("a bug"), "internal_error")],
)
def test_a_model_that_does_not_open_is_reported(error: Exception, code: str) -> None:
    failures: list[DeviceError] = []

    def broken() -> Model:
        raise error

    worker = Worker(broken, waiting=2, failed=failures.append)
    worker.start()
    worker.stop()
    assert [failure.code for failure in failures] == [code]

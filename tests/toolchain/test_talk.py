"""A talk with a board goes on when the context is full: the oldest questions go."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.asking import AskDevice
from tests.fakes.engine import FakeEngine
from tests.fakes.service import service, wait_until_loaded
from toolchain.errors import TooLongError
from toolchain.talk import Asking, Conversation


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(word="tick ", context=300)


@pytest.fixture
def device(engine: FakeEngine) -> Iterator[Any]:
    with service(engine.model) as port:
        wait_until_loaded(port)
        yield AskDevice(port)


@pytest.mark.slow
def test_the_oldest_questions_go_when_the_context_is_full(engine: FakeEngine, device: Any) -> None:
    forgotten: list[str] = []
    talk = Conversation(device, Asking(max_tokens=8), forgot=lambda: forgotten.append("said"))
    for number in range(6):
        end = talk.say(f"question number {number} of many", lambda _: None)
        assert end["tokens"] == 8
    assert forgotten == ["said"]
    last = engine.prompts[-1].decode()
    assert "question number 5" in last and "question number 4" in last
    assert "question number 0" not in last
    assert all(len(prompt) + 8 <= 300 for prompt in engine.prompts), "each answer had its room"


def test_a_question_that_alone_is_too_long_is_an_error(device: Any) -> None:
    talk = Conversation(device, Asking(max_tokens=8))
    talk.say("short", lambda _: None)
    with pytest.raises(TooLongError, match="tokens, the context holds 300 with the answer"):
        talk.say("long " * 100, lambda _: None)
    assert talk.say("short again", lambda _: None)["text"]

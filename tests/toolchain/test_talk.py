"""A talk with a board goes on when the context is full: the oldest questions go."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.manifest.pictures import to_url
from tests.fakes.asking import AskDevice
from tests.fakes.engine import FakeEngine
from tests.fakes.eyes import picture
from tests.fakes.service import service, wait_until_loaded
from toolchain.errors import ConfigError, TooLongError
from toolchain.talk import Asking, Conversation, read_picture


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


class Heard:
    """An answerer that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, messages: Any, asking: Asking, say: Any) -> dict[str, Any]:
        self.asked.append(messages)
        return {"text": "on", "tokens": 1, "prompt_tokens": 9, "context": 300}


def test_a_picture_comes_before_the_first_question_and_stays_there() -> None:
    heard = Heard()
    talk = Conversation(heard, Asking(image=picture(1)))
    for question in ("is it on?", "and now?"):
        talk.say(question, lambda _: None)
    first = [
        {"type": "image_url", "image_url": {"url": to_url(picture(1))}},
        {"type": "text", "text": "is it on?"},
    ]
    assert heard.asked[0] == [{"role": "user", "content": first}]
    assert [each["content"] for each in heard.asked[1]] == [first, "on", "and now?"]


def test_a_file_that_no_board_reads_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no picture")
    with pytest.raises(ConfigError, match=r"^notes\.txt: the picture is not a whole JPEG or PNG"):
        read_picture(file)
    with pytest.raises(ConfigError, match=r"lost\.png: cannot be read"):
        read_picture(tmp_path / "lost.png")
    (tmp_path / "led.png").write_bytes(picture(1))
    assert read_picture(tmp_path / "led.png") == picture(1)

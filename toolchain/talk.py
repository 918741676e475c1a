"""Questions to a board's service and its answers, token by token, through the device runtime's own client."""

import json
from collections.abc import Callable
from typing import Any

from toolchain.board.device import Device
from toolchain.errors import BoardError, ConfigError

Say = Callable[[str], None]
MAX_ANSWER_CHARS = 16 << 20
"""More than any context holds."""


def ask(
    device: Device, question: str, *, max_tokens: int = 0, say: Say | None = None
) -> dict[str, Any]:
    """Ask one question and return what the device's client reports: text, tokens, ttft_s, decode_tok_s, finish_reason.

    `say` gets the answer's text piece by piece as it comes.
    """
    return Conversation(device, max_tokens=max_tokens).say(question, say or (lambda _: None))


class Conversation:
    """A talk with a board: it remembers what was said."""

    def __init__(self, device: Device, *, max_tokens: int = 0) -> None:
        self._device = device
        self._limit = ["--max-tokens", str(max_tokens)] if max_tokens else []
        self._messages: list[dict[str, str]] = []

    def say(self, question: str, say: Say) -> dict[str, Any]:
        """Say something and return the answer's figures; `say` gets its text as it comes."""
        if not question.strip():
            raise ConfigError(
                "question: empty",
                hint='put it in quotes: demitasse ask BOARD "how hot is too hot?"',
            )
        said = [*self._messages, {"role": "user", "content": question}]
        end: dict[str, Any] = {}
        heard = 0
        with self._device.talk("ask", "--chat", *self._limit) as channel:
            channel.send(json.dumps(said).encode() + b"\n")
            channel.close_input()
            for event in self._device.events(channel, "ask"):
                if "delta" in event:
                    heard += len(event["delta"])
                    if heard > MAX_ANSWER_CHARS:
                        raise BoardError(f"{self._device.address}: an answer without end")
                    say(event["delta"])
                else:
                    end = event
        if "text" not in end:
            raise BoardError(f"{self._device.address}: the answer has no end")
        self._messages = [*said, {"role": "assistant", "content": end["text"]}]
        return end

"""Questions to a board's service and its answers, through the device runtime's own client."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolchain.board.device import Device
from toolchain.errors import BoardError, ConfigError, TooLongError

Say = Callable[[str], None]
MAX_ANSWER_CHARS = 16 << 20
"""More than any context holds."""
USUAL_ANSWER = 256
"""Tokens that an answer may have by default: what bundles allow by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a board is asked."""

    max_tokens: int = 0
    """Longest answer in tokens; 0 leaves it to the bundle."""
    system: str = ""
    """Instructions in place of the bundle's, which switch its documents off; empty for none."""
    passages: bool = False
    """Whether the text of the sources is brought along."""


def ask(
    device: Device, question: str, asking: Asking | None = None, *, say: Say | None = None
) -> dict[str, Any]:
    """Ask one question and return what the device's client reports.

    That is text, tokens, ttft_s, decode_tok_s and finish_reason; of a bundle with documents also
    `known`, and `sources` with title and url.

    `say` gets the answer's text piece by piece as it comes.
    """
    return Conversation(device, asking).say(question, say or (lambda _: None))


class Conversation:
    """A talk with a board: it remembers what was said, as far back as the board's context holds it.

    Where the context is full the oldest question goes with its answer. `forgot` is told so once.
    """

    def __init__(
        self,
        device: Device,
        asking: Asking | None = None,
        *,
        forgot: Callable[[], None] | None = None,
    ) -> None:
        asking = asking or Asking()
        self._device = device
        self._words = ["--max-tokens", str(asking.max_tokens)] if asking.max_tokens else []
        self._words += ["--sources"] if asking.passages else []
        self._reserve = asking.max_tokens or USUAL_ANSWER
        self._system = [{"role": "system", "content": asking.system}] if asking.system else []
        self._forgot = forgot
        self._messages: list[dict[str, str]] = []
        self._context = 0
        """Tokens that the board holds; 0 until it has said so."""
        self._tokens_per_char = 1.0

    def say(self, question: str, say: Say) -> dict[str, Any]:
        """Say something and return the answer's figures; `say` gets its text as it comes."""
        if not question.strip():
            raise ConfigError(
                "question: empty",
                hint='put it in quotes: demitasse ask BOARD "how hot is too hot?"',
            )
        asked = {"role": "user", "content": question}
        while self._messages and self._is_full(question):
            self._drop_oldest()

        while True:
            said = [*self._system, *self._messages, asked]
            try:
                end = self._answer(said, say)
                break
            except TooLongError:
                if not self._messages:
                    raise
                self._drop_oldest()

        answer = {"role": "assistant", "content": end["text"]}
        self._messages = [*self._messages, asked, answer]
        self._learn(said, end)
        return end

    def _answer(self, said: list[dict[str, str]], say: Say) -> dict[str, Any]:
        end: dict[str, Any] = {}
        heard = 0
        with self._device.talk("ask", "--chat", *self._words) as channel:
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
        return end

    def _drop_oldest(self) -> None:
        """Forget the oldest question with its answer."""
        del self._messages[:2]
        if self._forgot:
            self._forgot()
            self._forgot = None

    def _learn(self, said: list[dict[str, str]], end: dict[str, Any]) -> None:
        """Note the board's context, and how many tokens a character took."""
        self._context = int(end.get("context") or 0)
        tokens = int(end.get("prompt_tokens") or 0)
        self._tokens_per_char = tokens / max(1, _chars(said)) if tokens else 1.0

    def _is_full(self, question: str) -> bool:
        """Say whether the context has no room for another answer."""
        if not self._context:
            return False
        # Without room the answer would end in the middle of a sentence.
        said = [*self._system, *self._messages]
        tokens = (_chars(said) + len(question)) * self._tokens_per_char
        return tokens + min(self._reserve, self._context // 4) > self._context


def _chars(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)

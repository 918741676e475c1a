"""Questions and answers: to a board through the device runtime's own client, or to an endpoint."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from device.manifest import ManifestError, read_bounded
from device.manifest.pictures import MAX_BYTES, check, to_url
from toolchain.board.device import Device
from toolchain.endpoint.client import Endpoint
from toolchain.errors import BoardError, ConfigError, TooLongError

Messages = Sequence[dict[str, Any]]
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
    image: bytes = b""
    """A picture that the first question is about; empty for none."""


class Answerer(Protocol):
    """What answers conversations: a board or an endpoint."""

    def __call__(self, messages: Messages, asking: Asking, say: Say) -> dict[str, Any]:
        """Return the answer's figures; `say` gets its text as it comes.

        Raises TooLongError for a conversation that the context does not hold.
        """


def ask(
    answerer: Device | Answerer,
    question: str,
    asking: Asking | None = None,
    *,
    say: Say | None = None,
) -> dict[str, Any]:
    """Ask one question and return what the board's client, or ours, reports.

    That is text, tokens, ttft_s, decode_tok_s and finish_reason; of a bundle with documents also
    `known`, and `sources` with title and url.

    `say` gets the answer's text piece by piece as it comes.
    """
    return Conversation(answerer, asking).say(question, say or (lambda _: None))


class Conversation:
    """A talk: it remembers what was said, as far back as the model's context holds it.

    Where the context is full the oldest question goes with its answer. `forgot` is told so once.
    """

    def __init__(
        self,
        answerer: Device | Answerer,
        asking: Asking | None = None,
        *,
        forgot: Callable[[], None] | None = None,
    ) -> None:
        self._answerer: Answerer = answerer if callable(answerer) else BoardAnswers(answerer)
        self._asking = asking = asking or Asking()
        self._reserve = asking.max_tokens or USUAL_ANSWER
        self._system = [{"role": "system", "content": asking.system}] if asking.system else []
        self._forgot = forgot
        self._messages: list[dict[str, Any]] = []
        self._context = 0
        """Tokens that the context holds; 0 until that was said."""
        self._tokens_per_char = 1.0

    def say(self, question: str, say: Say) -> dict[str, Any]:
        """Say something and return the answer's figures; `say` gets its text as it comes."""
        if not question.strip():
            raise ConfigError(
                "question: empty",
                hint='put it in quotes: demitasse ask BOARD "how hot is too hot?"',
            )
        asked = {"role": "user", "content": self._content(question)}
        while self._messages and self._is_full(question):
            self._drop_oldest()

        while True:
            said = [*self._system, *self._messages, asked]
            try:
                end = self._answerer(said, self._asking, say)
                break
            except TooLongError:
                if not self._messages:
                    raise
                self._drop_oldest()

        answer = {"role": "assistant", "content": end["text"]}
        self._messages = [*self._messages, asked, answer]
        self._learn(said, end)
        return end

    def _content(self, question: str) -> Any:
        """Return the content of a question; the first one may come with a picture."""
        if self._messages or not self._asking.image:
            return question
        picture = {"type": "image_url", "image_url": {"url": to_url(self._asking.image)}}
        # The picture comes first: another question about it begins with the same tokens.
        return [picture, {"type": "text", "text": question}]

    def _drop_oldest(self) -> None:
        """Forget the oldest question with its answer."""
        del self._messages[:2]
        if self._forgot:
            self._forgot()
            self._forgot = None

    def _learn(self, said: list[dict[str, Any]], end: dict[str, Any]) -> None:
        """Note the context, and how many tokens a character took."""
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


class BoardAnswers:
    """Answers of a board's service, asked by the board's own client."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, messages: Messages, asking: Asking, say: Say) -> dict[str, Any]:
        """Return the answer's figures, with the board's context and what it stands on."""
        words = ["--max-tokens", str(asking.max_tokens)] if asking.max_tokens else []
        words += ["--sources"] if asking.passages else []
        end: dict[str, Any] = {}
        heard = 0
        with self._device.talk("ask", "--chat", *words) as channel:
            channel.send(json.dumps(messages).encode() + b"\n")
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


class EndpointAnswers:
    """Answers of any server with OpenAI's API, with figures as the client saw them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __call__(self, messages: Messages, asking: Asking, say: Say) -> dict[str, Any]:
        """Return the answer's figures; raise BoardError for one that holds nothing to read."""
        fields = {"max_tokens": asking.max_tokens} if asking.max_tokens else {}
        answer = self._endpoint.complete(messages, fields, say)
        if not answer.text.strip() and answer.thought:
            raise BoardError(
                f"{self._endpoint.where}: the model thought for {answer.tokens} tokens "
                "and came to no answer",
                hint="allow it more with --max-tokens",
            )
        return {
            "text": answer.text,
            "tokens": answer.tokens,
            "ttft_s": round(answer.ttft_s, 4),
            "decode_tok_s": round(answer.decode_tok_s, 2),
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.usage.prompt_tokens,
            "model": self._endpoint.model(),
        }


def read_picture(file: Path) -> bytes:
    """Return the bytes of a picture that a board can read; raise ConfigError with what is wrong."""
    content = read_bounded(file, MAX_BYTES)
    if content is None:
        raise ConfigError(f"{file}: cannot be read", hint="--image FILE is a JPEG or PNG file")
    try:
        check(content)
    except ManifestError as error:
        hint = "make it smaller, or save it as JPEG or PNG"
        raise ConfigError(f"{file.name}: {error}", hint=hint) from error
    return content


def _chars(messages: list[dict[str, Any]]) -> int:
    """Return the characters of all texts."""
    contents = (message["content"] for message in messages)
    return sum(
        len(content)
        if isinstance(content, str)
        else sum(len(part.get("text", "")) for part in content)
        for content in contents
    )

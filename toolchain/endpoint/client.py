"""An endpoint that is asked: which models it has, and its answers piece by piece.

What a server does not know of optional fields it refuses; the request is sent again without them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from toolchain.config import closest
from toolchain.endpoint.address import Address, parse
from toolchain.endpoint.exchange import Exchange, RefusedError, exchange
from toolchain.endpoint.stream import (
    END,
    Chunk,
    Models,
    Timings,
    Usage,
    checked,
    chunk,
    chunks,
    read,
)
from toolchain.errors import BoardError, BusyError, ConfigError, ToolchainError, TooLongError

Got = TypeVar("Got")
Say = Callable[[str], None]
LOADING_S = 120.0
"""Seconds that a server may take to load its model."""
POLL_S = 0.5
MOST_NAMED = 12
"""Models of a server that an error names."""
MOST_MODELS_BYTES = 8 << 20
_SHORT_S = 60.0
"""Seconds that a list of models may take."""
_TOO_LONG = ("context length", "context size", "context window", "maximum context", "the context")
"""What servers say of a conversation that is too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer, and when its pieces came."""

    text: str
    thought: str
    """What the model thought before it answered, where the server sends that apart."""
    finish_reason: str
    arrivals_s: tuple[float, ...]
    """Seconds from the request to each piece of the answer or of the thought."""
    whole_s: float
    """Seconds from the request to the end."""
    connect_s: float
    streamed: bool
    """Whether the answer came as events."""
    usage: Usage
    """Tokens by the server's own count."""
    server_prompt_tok_s: float | None = None
    """Prompt tokens a second by the server's own clock."""
    server_decode_tok_s: float | None = None

    @property
    def ttft_s(self) -> float:
        """Seconds from the request to the first piece, or to the end if there was none."""
        return self.arrivals_s[0] if self.arrivals_s else self.whole_s

    @property
    def tokens(self) -> int:
        """Tokens by the server's count, or pieces where it does not count."""
        return self.usage.completion_tokens or len(self.arrivals_s)

    @property
    def later_tokens(self) -> float:
        """Tokens that came after the first piece; every piece holds about as many."""
        return self.tokens * (1 - 1 / len(self.arrivals_s)) if self.arrivals_s else 0.0

    @property
    def stream_s(self) -> float:
        """Seconds from the first piece to the last."""
        return self.arrivals_s[-1] - self.arrivals_s[0] if self.arrivals_s else 0.0

    @property
    def decode_tok_s(self) -> float:
        """Tokens a second after the first piece; 0 if that cannot be told."""
        return self.later_tokens / self.stream_s if self.stream_s else 0.0


class Endpoint:
    """A server with OpenAI's API, and the model of it that answers."""

    def __init__(self, address: str, model: str = "") -> None:
        """Ask the server at `address`; an empty model is the only one that it has."""
        self.address: Address = parse(address)
        self._model = model
        self._refused: set[str] = set()
        """Optional fields that the server does not take."""

    @property
    def where(self) -> str:
        """The address, as errors and reports name it."""
        return self.address.text

    def model(self) -> str:
        """Return the model's name; raise ConfigError if the server has several, or none."""
        if not self._model:
            self._model = self._only_model()
        return self._model

    def models(self) -> list[str]:
        """Return the names of the server's models."""
        with exchange(self.address, "/models", whole_s=_SHORT_S) as opened:
            content = opened.whole(MOST_MODELS_BYTES)
        named = checked(self.where, read(self.where, content), Models)
        return [each.id for each in named.data]

    def _only_model(self) -> str:
        try:
            names = self._while_loading(self.models)
        except BoardError as error:
            # `transformers serve` answers 500 on a computer that has no cache of a hub.
            error.hint = error.hint or "--model NAME goes without the list of its models"
            raise
        if len(names) == 1:
            return names[0]
        if not names:
            raise ConfigError(f"{self.where}: it has no model", hint="load one there")
        listed = ", ".join(f"`{name[:80]}`" for name in names[:MOST_NAMED])
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        raise ConfigError(
            f"{self.where}: it has {len(names)} models", hint=f"--model NAME: {listed}{more}"
        )

    def complete(
        self,
        messages: Sequence[Mapping[str, str]],
        optional: Mapping[str, Any],
        say: Say = lambda text: None,
        *,
        stream: bool = True,
    ) -> Completion:
        """Return the answer to a conversation; `say` gets its text as it comes.

        `optional` are fields that a server may refuse. More servers count the tokens of an answer
        that is not streamed. Raise ConfigError for a request that the server does not take,
        TooLongError for a conversation that its context does not hold.
        """
        fixed = {"model": self.model(), "messages": list(messages), "stream": stream}
        wanted = {**optional, **({"stream_options": {"include_usage": True}} if stream else {})}
        known = set(self._refused)
        try:
            while True:
                sent = self._taken(wanted)
                try:
                    return self._while_loading(partial(self._ask, {**fixed, **sent}, say))
                except RefusedError as error:
                    self._learn(error, set(sent))
        except ToolchainError:
            self._refused = known  # what was refused was none of the optional fields
            raise

    def _taken(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the optional fields that the server takes, as far as is known."""
        sent = {name: value for name, value in wanted.items() if name not in self._refused}
        if "max_tokens" in wanted and "max_tokens" in self._refused:
            # OpenAI's name for it since its models think (platform.openai.com, API reference).
            sent["max_completion_tokens"] = wanted["max_tokens"]
        return {name: value for name, value in sent.items() if name not in self._refused}

    def _learn(self, error: RefusedError, sent: set[str]) -> None:
        """Note the optional fields that a server does not take; raise an error for another fault.

        If the server names no field, none is sent again.
        """
        said = error.message.lower()
        if any(phrase in said for phrase in _TOO_LONG):
            raise TooLongError(error.message, hint=error.hint) from error
        if error.status not in (400, 422) or not sent:
            raise self._explained(error) from error
        named = {name for name in sent if name in said}
        self._refused |= named or sent

    def _explained(self, error: RefusedError) -> ConfigError:
        """Return the error; another one if the server has no model of the name."""
        if error.status in (400, 404, 422):
            with suppress(ToolchainError):
                names = self.models()
                if names and self._model not in names:
                    hint = closest(self._model, [name[:80] for name in names[:MOST_NAMED]])
                    return ConfigError(f"{self.where}: it has no model `{self._model}`", hint=hint)
        return error

    def _while_loading(self, call: Callable[[], Got]) -> Got:
        """Return what a call gives; call again while the server loads its model."""
        patience = time.monotonic() + LOADING_S
        while True:
            try:
                return call()
            except BusyError:
                if time.monotonic() > patience:
                    raise
                time.sleep(POLL_S)

    def _ask(self, body: Mapping[str, Any], say: Say) -> Completion:
        with exchange(self.address, "/chat/completions", body) as opened:
            if opened.is_stream:
                pieces = chunks(self.where, opened.lines())
            else:
                whole = chunk(self.where, opened.whole())
                pieces = iter((whole, END) if whole.choices else (whole,))
            return self._follow(opened, pieces, say)

    def _follow(self, opened: Exchange, pieces: Iterator[Chunk], say: Say) -> Completion:
        """Return the answer that `pieces` make; raise BoardError if it has no end."""
        texts: list[str] = []
        thoughts: list[str] = []
        arrivals: list[float] = []
        last, usage, timings = "", Usage(), Timings()
        ended = False
        for each in pieces:
            ended = each is END
            usage, timings = each.usage or usage, each.timings or timings
            for choice in (each.choices or [])[:1]:
                last = choice.finish_reason or last
                text, thought = choice.piece.content or "", choice.piece.thought
                if text or thought:
                    arrivals.append(time.perf_counter() - opened.sent_at)
                texts.append(text)
                thoughts.append(thought)
                if text:
                    say(text)
        if not last and not ended:
            raise BoardError(f"{self.where}: it ended in the middle of its answer")
        return Completion(
            text="".join(texts),
            thought="".join(thoughts),
            finish_reason=last,
            arrivals_s=tuple(arrivals),
            whole_s=time.perf_counter() - opened.sent_at,
            connect_s=opened.connect_s,
            streamed=opened.is_stream,
            usage=usage,
            server_prompt_tok_s=timings.prompt_per_second,
            server_decode_tok_s=timings.predicted_per_second,
        )

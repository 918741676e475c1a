"""Server-sent events with the pieces of an answer, read from an endpoint.

The reader takes what servers really send: events with and without a space, keep-alive comments,
pieces without text, the usage in an event of its own, and an end without `[DONE]`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolchain.board.answers import Count, Number, is_deep
from toolchain.endpoint.exchange import MOST_LINE, fault_of
from toolchain.errors import BoardError

MAX_TEXT = 1 << 20
MAX_CHOICES = 16

Shape = TypeVar("Shape", bound=BaseModel)
_Text = Annotated[str, Field(max_length=MAX_TEXT)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Delta(_Said):
    """A piece of an answer."""

    content: _Text | None = None
    reasoning_content: _Text | None = None
    """What a model thinks before it answers (llama.cpp, vLLM, DeepSeek)."""
    reasoning: _Text | None = None
    """The same, as newer vLLM and Ollama call it."""

    @property
    def thought(self) -> str:
        """The piece of what the model thinks."""
        return self.reasoning_content or self.reasoning or ""


class Choice(_Said):
    """One of the answers; only the first is asked for."""

    delta: Delta | None = None
    message: Delta | None = None
    """The whole answer, of a server that does not stream."""
    finish_reason: Annotated[str, Field(max_length=64)] | None = None

    @property
    def piece(self) -> Delta:
        """What the choice says."""
        return self.delta or self.message or Delta()


class Cached(_Said):
    """Prompt tokens that a server had in memory."""

    cached_tokens: Count | None = None


class Usage(_Said):
    """Tokens by the server's own count."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: Cached | None = None


class Timings(_Said):
    """Rates by the server's own clock (llama.cpp's field, and ours)."""

    prompt_per_second: Number | None = None
    predicted_per_second: Number | None = None


class Chunk(_Said):
    """One event of an answer, or a whole answer."""

    choices: Annotated[list[Choice], Field(max_length=MAX_CHOICES)] | None = None
    usage: Usage | None = None
    timings: Timings | None = None


END = Chunk()
"""The event `[DONE]`."""


class Named(_Said):
    """One model of a server."""

    id: Annotated[str, Field(min_length=1, max_length=512)]


class Models(_Said):
    """Models of a server."""

    data: Annotated[list[Named], Field(max_length=100_000)]


def chunks(where: str, lines: Iterable[bytes]) -> Iterator[Chunk]:
    """Yield the events of a stream, and END where it says that it ends; raise BoardError else."""
    for content in _events(where, lines):
        if content.strip() == b"[DONE]":
            yield END
            return
        yield chunk(where, content)


def chunk(where: str, content: bytes) -> Chunk:
    """Return an event, or raise the error that it carries."""
    value = read(where, content)
    if value.get("error"):
        raise BoardError(f"{where}: it ended the answer{fault_of(content)}")
    return checked(where, value, Chunk)


def read(where: str, content: bytes) -> dict[str, Any]:
    """Return the JSON object in a server's bytes; raise BoardError for anything else."""
    try:
        value = json.loads(content.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _other_shape(where) from error
    if not isinstance(value, dict) or is_deep(value):
        raise _other_shape(where)
    return value


def checked(where: str, value: dict[str, Any], shape: type[Shape]) -> Shape:
    """Return an answer as one of the shapes above; raise BoardError that names the wrong field."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        raise BoardError(f"{where}: its answer: `{field}`: {said}") from error


def _events(where: str, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the data of each event.

    A line that is whole by itself is an event, which is what servers send. Others belong together
    up to an empty line, as the standard has it.
    """
    parts: list[bytes] = []
    size = 0
    for number, raw in enumerate(lines):
        line = raw.rstrip(b"\r\n").removeprefix(b"\xef\xbb\xbf" if number == 0 else b"")
        if line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            if not parts and _is_whole(data):
                yield data
                continue
            parts.append(data)
            size += len(data)
            if size > MOST_LINE:
                raise BoardError(f"{where}: an answer without end")
        elif not line and parts:
            yield b"\n".join(parts)
            parts, size = [], 0
    if parts:
        yield b"\n".join(parts)


def _is_whole(data: bytes) -> bool:
    return data.strip() == b"[DONE]" or data.rstrip().endswith(b"}")


def _other_shape(where: str) -> BoardError:
    hint = "an endpoint has OpenAI's API: /v1/models and /v1/chat/completions"
    return BoardError(f"{where}: what it says is not in the shape of OpenAI's API", hint=hint)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")

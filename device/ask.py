"""`ask`: one question to the service on this board, its answer printed as it arrives.

Standard library only, no engine.
"""

import argparse
import http.client
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device.errors import DeviceError
from device.manifest import MAX_TAKE
from device.manifest.endpoint import PORT

TIMEOUT_S = 600.0
"""Seconds that the service may be silent."""
# A long prompt on a slow board is read in minutes.
LOADING_TIMEOUT_S = 120.0
"""Seconds that a service may take to start and to load its model."""
_POLL_S = 0.25
_PASSAGE = re.compile(r"/v1/knowledge/[0-9]{1,9}")
MOST_TITLE = 1024
"""Characters of a source's title; the rest is cut off."""
MOST_PASSAGE = 65_536
"""Bytes of a passage's answer that are read."""
_CITED = ("title", "url")

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """A passage that an answer stands on, or the nearest one if the documents do not know."""

    title: str
    url: str
    """Path of the passage at the service."""
    text: str = ""
    """The passage, if `--sources` asked for it."""

    def as_json(self) -> dict[str, str]:
        """Return the fields that `--json` prints."""
        fields = {"title": self.title, "url": self.url}
        return {**fields, "text": self.text} if self.text else fields


@dataclass(frozen=True)
class Answer:
    """An answer, and its timing as the asker saw it."""

    text: str
    tokens: int
    ttft_s: float
    """Seconds from the request to the first text."""
    decode_tok_s: float
    finish_reason: str
    prompt_tokens: int = 0
    """Tokens of the whole conversation, as the model read it."""
    known: "bool | None" = None
    """Whether the bundle's documents know; None where it is not about them."""
    sources: "tuple[Source, ...]" = ()
    near: "tuple[Source, ...]" = ()
    """Passages that were found as well, which the answer does not stand on."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields that `--json` prints."""
        fields: dict[str, Any] = {
            "text": self.text,
            "tokens": self.tokens,
            "ttft_s": round(self.ttft_s, 4),
            "decode_tok_s": round(self.decode_tok_s, 2),
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
        }
        if self.known is not None:
            fields["known"] = self.known
        if self.sources:
            fields["sources"] = [source.as_json() for source in self.sources]
        if self.near:
            fields["near"] = [source.as_json() for source in self.near]
        return fields


def ask(argv: list[str]) -> int:
    """Ask one question, or with `--chat` answer conversations from stdin.

    Raise DeviceError `no_service` or `empty_question`.
    """
    options = _options(argv)
    if options.chat:
        return _chat(options)

    question = (sys.stdin.read() if options.question == "-" else options.question).strip()
    if not question:
        raise DeviceError("empty_question", "the question is empty")

    show = _ignore if options.json else _print_text
    answer = request_answer(options, [{"role": "user", "content": question}], show)
    print(json.dumps(answer.as_json(), ensure_ascii=False) if options.json else "", flush=True)

    return 0


def _chat(options: argparse.Namespace) -> int:
    """Answer each line of stdin, a JSON list of messages.

    Print `{"delta"}` as text arrives, then the answer or `{"error"}`. The answer has the service's
    context, so that the caller knows when it is full.
    """
    for line in sys.stdin:
        try:
            answer = request_answer(
                options, _conversation(line), lambda text: _print_event({"delta": text})
            )
            _print_event({**answer.as_json(), "context": _context(options)})
        except DeviceError as error:
            _print_event(error.as_json())
    return 0


def _context(options: argparse.Namespace) -> int:
    """Return the service's context in tokens; 0 if it does not say."""
    service = http.client.HTTPConnection(options.host, options.port, timeout=TIMEOUT_S)
    try:
        service.request("GET", "/health")
        health = json.loads(service.getresponse().read())
        return int(health.get("context", 0))
    except (OSError, http.client.HTTPException, ValueError, TypeError, AttributeError):
        return 0
    finally:
        service.close()


def _conversation(line: str) -> Messages:
    try:
        messages: Messages = json.loads(line)
    except ValueError as error:
        raise DeviceError("invalid_json", "not valid JSON") from error

    if not isinstance(messages, list):
        raise DeviceError("invalid_json", "not a list of messages")
    return messages


def request_answer(
    options: argparse.Namespace, messages: Messages, show: Callable[[str], None]
) -> Answer:
    """Send a conversation to the service, pass its text on as it arrives, and return the answer.

    Raise DeviceError `no_service`, or the error that the service answers.
    """
    fields = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "seed": options.seed,
    }
    body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    body.update({name: value for name, value in fields.items() if value is not None})
    began = time.perf_counter()
    service = http.client.HTTPConnection(options.host, options.port, timeout=TIMEOUT_S)

    try:
        answer = _follow(_chunks(_opened(service, body, options)), began, show)
        return _with_passages(answer, options) if options.sources else answer
    except (OSError, http.client.HTTPException) as error:
        raise _no_service(options, error) from error
    finally:
        service.close()


def _opened(
    service: http.client.HTTPConnection, body: dict[str, Any], options: argparse.Namespace
) -> http.client.HTTPResponse:
    """Return the response to a request, which is sent again while the model is loading.

    With `--starting` also while nothing listens on the port.
    """
    headers = _headers(options.token_file)
    patience = time.monotonic() + LOADING_TIMEOUT_S
    while True:
        try:
            service.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        except ConnectionRefusedError:
            if not options.starting or time.monotonic() > patience:
                raise
            service.close()  # or it would wait for an answer to the request before
            time.sleep(_POLL_S)
            continue

        response = service.getresponse()
        if response.status == 200:
            return response
        error = _error(response.read())
        if error.code != "503" or time.monotonic() > patience:
            raise error
        time.sleep(_POLL_S)


def _headers(token_file: str) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if token_file:
        headers["authorization"] = f"Bearer {Path(token_file).read_text(encoding='utf-8').strip()}"
    return headers


def _chunks(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the server-sent events of a response.

    Raise DeviceError for an event that is an error, or for an early end.
    """
    for line in iter(response.readline, b""):
        if line.strip() == b"data: [DONE]":
            return
        if line.startswith(b"data: "):
            chunk: dict[str, Any] = json.loads(line[6:])
            if "error" in chunk:
                raise _error(line[6:])
            yield chunk
    raise DeviceError("no_service", "the service ended in the middle of its answer")


def _follow(chunks: Iterator[dict[str, Any]], began: float, show: Callable[[str], None]) -> Answer:
    texts: list[str] = []
    first = 0.0
    reason = ""
    tokens = 0
    rate = 0.0
    prompt = 0
    known: "bool | None" = None
    sources: tuple[Source, ...] = ()
    near: tuple[Source, ...] = ()

    for chunk in chunks:
        known = _known(chunk.get("knowledge"), known)
        near = _near(chunk.get("knowledge")) or near
        for choice in chunk["choices"]:
            sources = _sources(choice["delta"].get("annotations")) or sources
            text = choice["delta"].get("content", "")
            reason = choice["finish_reason"] or reason
            if text:
                first = first or time.perf_counter() - began
                texts.append(text)
                show(text)
        if usage := chunk.get("usage"):
            tokens = usage["completion_tokens"]
            rate = chunk["timings"]["predicted_per_second"]
            prompt = usage.get("prompt_tokens", 0)

    ttft_s = first or time.perf_counter() - began
    return Answer("".join(texts), tokens, ttft_s, rate, reason, prompt, known, sources, near)


def _known(said: Any, before: "bool | None") -> "bool | None":
    known = said.get("known") if isinstance(said, dict) else None
    return known if isinstance(known, bool) else before


def _sources(annotations: Any) -> tuple[Source, ...]:
    """Return the passages that an answer cites; citations of another kind are left out."""
    listed = annotations if isinstance(annotations, list) else ()
    return _places(each.get("url_citation") for each in listed if isinstance(each, dict))


def _near(said: Any) -> tuple[Source, ...]:
    """Return the passages that were found as well."""
    near = said.get("near") if isinstance(said, dict) else None
    return _places(near if isinstance(near, list) else ())


def _places(places: Iterable[Any]) -> tuple[Source, ...]:
    """Return the passages of this service among what it said, a few at most."""
    sources = []
    for cited in places:
        title, url = (cited.get(name) if isinstance(cited, dict) else "" for name in _CITED)
        if isinstance(title, str) and isinstance(url, str) and _PASSAGE.fullmatch(url):
            sources.append(Source(title[:MOST_TITLE], url))
    return tuple(sources[:MAX_TAKE])


def _with_passages(answer: Answer, options: argparse.Namespace) -> Answer:
    """Return an answer whose passages have their text."""
    sources = (replace(each, text=_passage(each, options)) for each in answer.sources)
    near = (replace(each, text=_passage(each, options)) for each in answer.near)
    return replace(answer, sources=tuple(sources), near=tuple(near))


def _passage(source: Source, options: argparse.Namespace) -> str:
    """Return the text of a source; empty if the service has it no more."""
    service = http.client.HTTPConnection(options.host, options.port, timeout=TIMEOUT_S)
    try:
        service.request("GET", source.url, headers=_headers(options.token_file))
        passage = json.loads(service.getresponse().read(MOST_PASSAGE))
        text = passage["text"] if passage["title"][:MOST_TITLE] == source.title else ""
        return text if isinstance(text, str) else ""
    except (OSError, http.client.HTTPException, ValueError, TypeError, LookupError):
        return ""
    finally:
        service.close()


def _error(body: bytes) -> DeviceError:
    try:
        fault = json.loads(body)["error"]
        return DeviceError(str(fault["code"]), str(fault["message"]))
    except (ValueError, KeyError, TypeError):
        return DeviceError("no_service", "what answers there is not this service")


def _no_service(options: argparse.Namespace, error: Exception) -> DeviceError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    where = f"{options.host}:{options.port}"
    return DeviceError(
        "no_service",
        f"no service answers on {where}: {reason}",
        hint="`status` says what is running",
    )


def _print_text(text: str) -> None:
    print(text, end="", flush=True)


def _print_event(event: dict[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)


def _ignore(text: str) -> None:
    """Show nothing: `--json` prints the whole answer at the end."""


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ask", description="Ask the service on this board.")
    parser.add_argument("question", nargs="?", default="", help="`-` reads it from stdin")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument(
        "--starting", action="store_true", help="wait for a service that is about to start"
    )
    parser.add_argument("--max-tokens", type=int, help="longest answer; by default the release's")
    parser.add_argument(
        "--temperature", type=float, help="0, the default, takes the likeliest token each time"
    )
    parser.add_argument("--seed", type=int, help="the same seed draws the same answer")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="answer conversations from stdin, a JSON list of messages a line",
    )
    parser.add_argument(
        "--sources", action="store_true", help="bring the text of the passages along (`--json`)"
    )
    parser.add_argument(
        "--token-file", default="", metavar="FILE", help="file with the service's bearer token"
    )

    return parser.parse_args(argv)

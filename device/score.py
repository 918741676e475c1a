"""`score`: a loaded model as a child process.

A JSON request per line in, a JSON answer per line out.

Raw rows of logits follow some answers. The host measures with it what ships. Each request is
evaluated from its prefix on, so that answers do not depend on their order.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from device.check import own_arithmetic
from device.engine.base import FieldError, Sampling, Settings
from device.errors import DeviceError
from device.manifest import read_manifest
from device.manifest.moment import moment
from device.manifest.tool_calls import read_calls
from device.model import Model, Prompt, open_bundle, open_file
from device.pictures import with_pictures
from device.serve.tools import read_tools

Request = dict[str, Any]


def score(argv: list[str]) -> int:
    """Answer requests from stdin until it ends."""
    model = _open(_options(argv))
    for line in sys.stdin.buffer:
        if line.strip():
            _serve(model, line, sys.stdout.buffer)
            sys.stdout.buffer.flush()

    model.engine.close()
    return 0


def _serve(model: Model, line: bytes, out: BinaryIO) -> None:
    try:
        request = _request(line)
        if request["op"] == "logits":
            return _logits(model, request, out)
        answer = _OPERATIONS[request["op"]](model, request)
    except DeviceError as error:
        answer = error.as_json()
    _write(out, answer)


def _write(out: BinaryIO, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _request(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DeviceError("bad_request", "not valid JSON") from error

    known = ("logits", *_OPERATIONS)
    if not isinstance(request, dict) or request.get("op") not in known:
        raise DeviceError("bad_request", f"`op` must be one of {', '.join(known)}")

    return request


def _logits(model: Model, request: Request, out: BinaryIO) -> None:
    """Write a head and then float32 [rows, vocab], little-endian.

    An error after the head ends the process.
    """
    tokens = _tokens(request)
    prefix = _prefix(request, tokens)
    rows = model.engine.logits(tokens, prefix)
    _write(out, {"rows": len(tokens) - prefix, "vocab": model.engine.n_vocab})
    for row in rows:
        out.write(row)


def _generate(model: Model, request: Request) -> dict[str, Any]:
    now = _now(request)
    asked, tools = "messages" in request, read_tools({"tools": request.get("tools", [])})
    shown = tools.shown if tools else ()
    model.forget(now, shown)
    sampling = Sampling(max_tokens=request.get("max_tokens", Sampling.max_tokens))
    prompt = model.prompt(_messages(request), now, shown) if asked else Prompt(_tokens(request))
    markup = model.template.markup if tools and model.template else None
    if tools and markup and request.get("held"):
        sampling = tools.held(sampling, markup)
    steps = list(
        model.engine.generate(prompt.tokens, sampling, model.stop_ids, prefix=prompt.prefix)
    )
    tokens = [step.id for step in steps if step.id is not None]
    text = "".join(step.text for step in steps)
    reason = steps[-1].finish_reason

    return {
        "prompt_tokens": prompt.tokens,
        "tokens": tokens,
        "text": text,
        "finish_reason": reason,
        **({"calls": read_calls(text, markup, cut=reason == "length")[1]} if markup else {}),
    }


def _tokenize(model: Model, request: Request) -> dict[str, Any]:
    if not isinstance(text := request.get("text"), str):
        raise FieldError("text", "must be a text")
    return {"tokens": model.engine.tokenize(text)}


def _render(model: Model, request: Request) -> dict[str, Any]:
    tools = read_tools({"tools": request.get("tools", [])})
    text = model.render(_messages(request), _now(request), tools.shown if tools else ())
    return {"text": text, "tokens": model.engine.tokenize(text)}


def _describe(model: Model, request: Request) -> dict[str, Any]:
    loaded = model.engine
    return {
        **asdict(loaded.description),
        "n_vocab": loaded.n_vocab,
        "context": loaded.context,
        "arithmetic": own_arithmetic(),
    }


_OPERATIONS: dict[str, Callable[[Model, Request], dict[str, Any]]] = {
    "generate": _generate,
    "info": _describe,
    "render": _render,
    "tokenize": _tokenize,
}


def _now(request: Request) -> "datetime | None":
    """Return the time at which a request's prompt is rendered; None for the clock."""
    if "now" not in request:
        return None
    try:
        return moment(request["now"])
    except (TypeError, ValueError) as error:
        raise FieldError("now", "must be a moment such as 2026-01-01T12:00:00") from error


def _messages(request: Request) -> list[dict[str, Any]]:
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise FieldError("messages", "must be a list of messages")
    return with_pictures(messages)


def _tokens(request: Request) -> list[int]:
    tokens = request.get("tokens")
    if not isinstance(tokens, list) or not all(
        isinstance(token, int) and not isinstance(token, bool) for token in tokens
    ):
        raise FieldError("tokens", "must be a list of token ids")

    return tokens


def _prefix(request: Request, tokens: "list[int]") -> int:
    """Return the number of the first tokens that no row is asked for."""
    prefix = request.get("prefix", 0)
    if type(prefix) is not int or not 0 <= prefix < max(1, len(tokens)):
        raise FieldError("prefix", "must be fewer than the tokens")
    return prefix


def _open(options: argparse.Namespace) -> Model:
    if options.bundle:
        folder = Path(options.bundle)
        return open_bundle(folder, read_manifest(folder), options.threads)

    settings = Settings(
        context=options.context,
        threads=options.threads,
        adapter=options.adapter,
        projector=options.projector,
        gpu_layers=options.gpu_layers,
    )
    lines = options.opening.read_text(encoding="utf-8").splitlines() if options.opening else []
    opening = [json.loads(line) for line in lines]
    stop_ids = tuple(int(each) for each in options.stop_ids.split(",") if each)

    return open_file(Path(options.model), settings, opening, stop_ids, escapes=options.escape)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="score", description="Answer requests about one model, a JSON object a line."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="FILE")
    source.add_argument("--bundle", metavar="DIR")
    parser.add_argument("--adapter", metavar="FILE", type=Path, help="a LoRA adapter, for --model")
    parser.add_argument(
        "--projector", metavar="FILE", type=Path, help="what sees pictures, for --model"
    )
    parser.add_argument(
        "--opening",
        metavar="FILE",
        type=Path,
        help="what conversations begin with, a message a line, for --model",
    )
    parser.add_argument(
        "--escape", action="store_true", help="break up control tokens in messages, for --model"
    )
    parser.add_argument(
        "--stop-ids",
        metavar="IDS",
        default="",
        help="tokens that end an answer beside those of the file, commas between, for --model",
    )
    parser.add_argument(
        "--context",
        type=int,
        default=0,
        help="tokens, for --model; 0 takes the model's own, at most 4096",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="0 chooses by the model and the processors"
    )
    parser.add_argument(
        "--gpu-layers",
        type=int,
        default=-1,
        help="on a graphics card, for --model; -1 for all, 0 for none",
    )

    return parser.parse_args(argv)

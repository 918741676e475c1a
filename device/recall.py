"""`recall`: an embedder, and the documents that it finds, as a child process.

A JSON request per line in, a JSON answer per line out. The host makes the vectors of an index with
it and measures the search that ships.
"""

import argparse
import base64
import json
import struct
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.errors import DeviceError
from device.knowledge.index import Compared, Index

if TYPE_CHECKING:
    from device.engine.llama.embedder import Embedder

Request = dict[str, Any]


class _Recall:
    """An embedder, which is opened when it is first needed, and an index if one was given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._file = options.embedder
        self.index = Index(options.knowledge, self._embed) if options.knowledge else None

    @cached_property
    def embedder(self) -> "Embedder":
        """The open embedder."""
        # Texts whose vectors come with a request need none, and it takes longer to load than the
        # index.
        from device.engine.llama.embedder import Embedder

        return Embedder(self._file)

    def _embed(self, text: str) -> "list[float]":
        return self.embedder.embed(text)

    def answer(self, request: Request) -> Request:
        """Return the answer to a request; raise DeviceError."""
        texts = request.get("texts")
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise DeviceError("bad_request", "`texts` must be a list of texts")
        if request.get("op") == "embed":
            return {"vectors": [_packed(self._embed(text)) for text in texts]}
        if self.index and request.get("op") == "compare":
            vectors = _vectors(request.get("vectors"), len(texts), self.index.width)
            compared = [
                self.index.compare(text, vector, texts=True)
                for text, vector in zip(texts, vectors, strict=True)
            ]
            return {"compared": [_said(each) for each in compared]}
        if self.index and request.get("op") == "search":
            return {"found": [_found(self.index, text, request.get("take", 3)) for text in texts]}
        raise DeviceError(
            "bad_request", "`op` must be `embed`, or with knowledge `compare` or `search`"
        )


def _said(compared: Compared) -> Request:
    passages = [[each, like, compared.common[each]] for each, like in compared.like.items()]
    texts = [[each, like, common] for each, (like, common) in compared.texts.items()]
    return {
        "passages": passages,
        "unanswered": compared.unanswered,
        "thin": list(compared.thin.items()),
        "texts": texts,
    }


def _found(index: Index, text: str, take: int) -> Request:
    found = index.search(text, take)
    hits = [{"passage": hit.id, "score": hit.score} for hit in found.hits]
    return {"known": found.known, "certainty": found.certainty, "hits": hits}


def recall(argv: list[str]) -> int:
    """Answer requests from stdin until it ends."""
    opened = _Recall(_options(argv))
    for line in sys.stdin.buffer:
        try:
            answer = opened.answer(_request(line))
        except DeviceError as error:
            answer = error.as_json()
        print(json.dumps(answer), flush=True)
    return 0


def _request(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DeviceError("bad_request", "not valid JSON") from error
    if not isinstance(request, dict):
        raise DeviceError("bad_request", "not a JSON object")
    return request


def _vectors(packed: object, count: int, width: int) -> "list[list[float] | None]":
    """Return the vectors that came with a request; None for each text without any."""
    if packed is None:
        return [None] * count
    try:
        if not isinstance(packed, list) or len(packed) != count:
            raise ValueError
        return [list(struct.unpack(f"<{width}f", base64.b64decode(each))) for each in packed]
    except (ValueError, TypeError, struct.error) as error:
        raise DeviceError(
            "bad_request", f"`vectors` must be {count} vectors of {width} float32 numbers"
        ) from error


def _packed(vector: "list[float]") -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="recall", description="Answer requests about an embedder, a JSON object a line."
    )
    parser.add_argument("--embedder", required=True, metavar="FILE", type=Path)
    parser.add_argument("--knowledge", metavar="FILE", type=Path)
    return parser.parse_args(argv)

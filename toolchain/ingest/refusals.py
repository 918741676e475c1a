"""What a teacher wrote and must not be learned, by the rules that `ingest` has for other text."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.artifacts import Dataset, value_digest
from toolchain.ingest.clean.near import pieces_of
from toolchain.ingest.redact import Redactor
from toolchain.ingest.split import plain_key
from toolchain.recipe import DataSpec
from toolchain.tool_use import said

HELD_OUT, LEARNED, PERSONAL = "held out", "learned already", "personal data"
_REMOVES = ("replace", "refuse")
"""Modes of redaction under which no personal data is learned."""


class Refusals:
    """Questions of a data set, and its recipe's rules for personal data."""

    def __init__(self, dataset: Dataset, spec: DataSpec) -> None:
        self._held_out = _questions(dataset.held_out())
        self._learned = {plain_key(each) for each in _questions(dataset.train())}
        self._near = spec.clean.near_duplicates
        removes = spec.redact.mode in _REMOVES
        # The key decides surrogates, and none is used here.
        self._personal = Redactor(spec.redact, bytes(32)) if removes else None
        self._keys = {plain_key(each) for each in self._held_out}
        self._sizes: list[int] = []
        self._by_piece: dict[str, list[int]] = defaultdict(list)
        for number, question in enumerate(self._held_out):
            pieces = pieces_of(question)
            self._sizes.append(len(pieces))
            for piece in pieces:
                self._by_piece[piece].append(number)
        self.digest = value_digest((self._near, spec.redact.model_dump()))

    def of(self, question: str, answer: str) -> str:
        """Return why a question with its answer must not be learned; empty if it may."""
        key = plain_key(question)
        if key in self._keys or self._is_near(question):
            return HELD_OUT
        if key in self._learned:
            return LEARNED
        hits = self._personal.hits(f"{question}\n{answer}") if self._personal else []
        return PERSONAL if any(hit.surrogate for hit in hits) else ""

    def _is_near(self, question: str) -> bool:
        """Say whether a held-out question is a near-duplicate of this one."""
        if not self._near:
            return False
        pieces = pieces_of(question)
        common = Counter(number for piece in pieces for number in self._by_piece.get(piece, ()))
        # The share of common pieces, as `clean.near.share` has it, without making them again.
        return any(
            count >= self._near * (len(pieces) + self._sizes[number] - count)
            for number, count in common.items()
        )


def _questions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what users say in conversations, without what opens each of them."""
    return [
        said(message)
        for row in rows
        for message in row["messages"][row.get("opening", 0) :]
        if message["role"] == "user"
    ]

"""Figures of a service in Prometheus' text format. Standard library only.

Counters are changed in the event loop's thread only, so they need no lock.
"""

import os
import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from device.engine.base import Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SUMS = {
    "prompt_tokens": "Tokens of all prompts.",
    "reused_tokens": "Prompt tokens that were in memory already.",
    "answer_tokens": "Tokens of all answers.",
    "prefill_seconds": "Time that reading prompts took.",
    "decode_seconds": "Time that answers took after their first token.",
}


FIRST_TOKEN_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper limits of the classes in which times to the first token are counted, in seconds."""


class Metrics:
    """Sums since the service began."""

    def __init__(self) -> None:
        self._began = time.time()
        self._requests: "Counter[tuple[str, int]]" = Counter()
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._feedback: "Counter[str]" = Counter()
        self._first_tokens = [0] * (len(FIRST_TOKEN_S) + 1)
        self._first_token_s = 0.0
        self._refused: "Counter[tuple[str, str]]" = Counter()

    def replied(self, path: str, status: int) -> None:
        """Count a request by its path and its HTTP status."""
        self._requests[path, status] += 1

    def answered(self, timing: Timing) -> None:
        """Add the timing of an answer."""
        took = (
            timing.prompt_tokens,
            timing.reused_tokens,
            timing.answer_tokens,
            timing.prefill_s,
            timing.decode_s,
        )
        for name, amount in zip(_SUMS, took, strict=True):
            self._sums[name] += amount

    def began(self, first_token_s: float) -> None:
        """Count an answer whose first token came, with the seconds that its asker waited for it."""
        self._first_tokens[bisect_left(FIRST_TOKEN_S, first_token_s)] += 1
        self._first_token_s += first_token_s

    def noted(self, kind: str) -> None:
        """Count a row of feedback: `up`, `down`, `correction`, `unknown`, or `lost`."""
        self._feedback[kind] += 1

    def refused(self, what: str, categories: "Sequence[str]") -> None:
        """Count a `question` or an `answer` that was refused, in each of its categories."""
        for category in categories:
            self._refused[what, category] += 1

    def text(self, *, waiting: int, temperature_c: "float | None", labels: "dict[str, str]") -> str:
        """Return all figures as text; `labels` name what is served."""
        lines = _metric("info", "gauge", "What is served.", [(_labels(labels), 1)])
        requests = [
            (_labels({"path": path, "status": str(status)}), n)
            for (path, status), n in sorted(self._requests.items())
        ]
        lines += _metric("requests_total", "counter", "Requests by path and status.", requests)

        for name, meaning in _SUMS.items():
            lines += _metric(f"{name}_total", "counter", meaning, [("", self._sums[name])])

        lines += self._waits()
        if self._feedback:
            kinds = [(_labels({"kind": kind}), n) for kind, n in sorted(self._feedback.items())]
            meaning = "Ratings, corrections and unanswered questions that were kept, or lost."
            lines += _metric("feedback_total", "counter", meaning, kinds)

        if self._refused:
            what = [
                (_labels({"what": what, "category": category}), n)
                for (what, category), n in sorted(self._refused.items())
            ]
            lines += _metric("refused_total", "counter", "Questions and answers refused.", what)

        lines += _metric(
            "requests_waiting",
            "gauge",
            "Questions that wait behind the one that is answered.",
            [("", waiting)],
        )
        lines += _metric(
            "start_time_seconds",
            "gauge",
            "When the service began, in seconds since 1970.",
            [("", self._began)],
        )
        lines += _metric(
            "resident_memory_bytes",
            "gauge",
            "Resident memory, the mapped model included.",
            [("", _resident())],
        )
        if temperature_c is not None:
            lines += _metric(
                "temperature_celsius",
                "gauge",
                "The processor's temperature.",
                [("", temperature_c)],
            )

        return "\n".join(lines) + "\n"

    def _waits(self) -> "list[str]":
        """Return the times to the first token as a histogram (prometheus.io, metric types)."""
        limits = [*(f"{limit:g}" for limit in FIRST_TOKEN_S), "+Inf"]
        counts = list(accumulate(self._first_tokens))
        buckets = [
            (f"_bucket{_labels({'le': limit})}", count)
            for limit, count in zip(limits, counts, strict=True)
        ]
        meaning = "Seconds from a question to the first token of its answer."
        sums = [("_sum", self._first_token_s), ("_count", counts[-1])]
        return _metric("first_token_seconds", "histogram", meaning, [*buckets, *sums])


def _metric(
    name: str, kind: str, meaning: str, values: "Sequence[tuple[str, float]]"
) -> "list[str]":
    head = [f"# HELP demitasse_{name} {meaning}", f"# TYPE demitasse_{name} {kind}"]
    return [*head, *(f"demitasse_{name}{labels} {value:.15g}" for labels, value in values)]


def _labels(labels: "dict[str, str]") -> str:
    escaped = {
        name: re.sub(r'(["\\])', r"\\\1", value).replace("\n", r"\n")
        for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

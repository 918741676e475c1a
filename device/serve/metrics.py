"""Figures of a service in Prometheus' text format. Standard library only.

Counters are changed in the event loop's thread only, so they need no lock.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
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


class Metrics:
    """Sums since the service began."""

    def __init__(self) -> None:
        self._began = time.time()
        self._requests: "Counter[tuple[str, int]]" = Counter()
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._feedback: "Counter[str]" = Counter()
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

"""`guard.bin`: what host and board do alike with it, its format, hashes and scores.

A guard is a linear model over hashed n-grams of characters and of words (logistic regression). One
row of weights says whether a text asks for harm. Smaller rows say of what kind, once it does:
OpenAI's categories of moderation, and `attack` for texts that try to turn the model against its
instructions.

File: 8 bytes of magic, 4 bytes with the length of a header in JSON, the header, then the weights as
signed bytes, the main row first. Nothing in it is trusted: every length is checked.

Standard library only, Python 3.10 up.
"""

import json
import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

from device.manifest.fields import ManifestError
from device.manifest.guard_text import readings
from device.manifest.reading import parse_json, read_bounded

GUARD = "guard.bin"
MAGIC = b"DMGUARD1"
MAX_GUARD_BYTES = 1 << 20
SIZES = (2, 3, 4, 5)
"""Lengths of the n-grams, in characters; of single ones those that are words, as in Chinese."""
LENGTHS = (30, 80, 200)
"""Bounds of the lengths, in characters of the plain spelling, that have their own thresholds."""
# A sum over more n-grams varies more, and the highest of more windows is higher: one threshold for
# all lengths flagged 31 % of long harmless texts where it flagged none of the short ones.
BUCKETS = 1 << 16
"""Weights of the main row."""
KIND_BUCKETS = 1 << 14
"""Weights of a category's row."""
WINDOW = 200
"""Characters of a longer text that are looked at together, so that a wish is not diluted."""
STEP = 120
QUESTIONS = "questions"
BOTH = "both"
NOTHING = "nothing"
REFUSE = (QUESTIONS, BOTH, NOTHING)
"""What is refused: questions alone, answers too, or nothing (`/v1/moderations` answers still)."""
ATTACK = "attack"
"""A category of ours, which OpenAI's moderation has not: texts against the model's instructions."""
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""Categories of OpenAI's moderation, in the order of its reference."""
_MASK = BUCKETS - 1
_CJK = "\u3040"
"""First of the characters that are words."""
_HEAD = struct.Struct("<8sI")
_MAX_HEADER = 64 << 10


@dataclass(frozen=True)
class Verdict:
    """What a guard says of a text."""

    score: float
    """How far the worst reading lies above its threshold; a text is flagged from 0 on."""
    flagged: bool
    probability: float
    """The score between 0 and 1, with the threshold at one half."""
    kinds: "dict[str, float]" = field(default_factory=dict)
    """Category → share of its probability among all categories, in that reading."""

    @property
    def categories(self) -> "tuple[str, ...]":
        """Categories of a text that is flagged: the likeliest, and others that are likely too."""
        if not self.flagged or not self.kinds:
            return ()
        best = max(self.kinds, key=lambda name: self.kinds[name])
        return tuple(name for name, share in self.kinds.items() if name == best or share >= 0.3)


@dataclass(frozen=True)
class Guard:
    """A guard as its file has it."""

    weights: bytes
    """Main row: signed bytes, read through `array`."""
    scale: float
    bias: float
    thresholds: "tuple[float, ...]" = (0.0,) * (len(LENGTHS) + 1)
    """Margin from which on a text is flagged, for each length."""
    kinds: "tuple[str, ...]" = ()
    """Categories that it was trained on, in the order of their rows."""
    kind_weights: bytes = b""
    kind_scale: float = 1.0
    kind_biases: "tuple[float, ...]" = ()
    _rows: "list[array[int]]" = field(default_factory=list, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Lay the rows out as arrays of signed bytes."""
        parts = [self.weights]
        parts += [
            self.kind_weights[at : at + KIND_BUCKETS]
            for at in range(0, len(self.kind_weights), KIND_BUCKETS)
        ]
        self._rows.extend(array("b", part) for part in parts)

    def score(self, text: str) -> float:
        """Return how far the worst reading of a text lies above its threshold."""
        return max(margin - self.threshold(length) for margin, length, _ in self.margins(text))

    def judge(self, text: str) -> Verdict:
        """Return the verdict on a text, with its categories."""
        score, grams = max(
            (
                (margin - self.threshold(length), grams)
                for margin, length, grams in self.margins(text)
            ),
            key=lambda each: each[0],
        )
        return Verdict(score, score >= 0, _sigmoid(score), self._kinds(grams))

    def threshold(self, length: int) -> float:
        """Return the threshold of readings of so many characters."""
        return self.thresholds[bisect_left(LENGTHS, length)]

    def margins(self, text: str) -> "Iterator[tuple[float, int, frozenset[int]]]":
        """Yield the main row's margin of each window, the length of its reading, its n-grams."""
        for reading in readings(text):
            for window in windows(reading):
                grams = hashed(window)
                total = sum(map(self._rows[0].__getitem__, grams))
                margin = self.bias + self.scale * total / math.sqrt(len(grams) or 1)
                yield margin, len(reading), grams

    def _kinds(self, grams: "frozenset[int]") -> "dict[str, float]":
        if not self.kinds:
            return {}
        short = [gram & (KIND_BUCKETS - 1) for gram in grams]
        length = math.sqrt(len(grams) or 1)
        margins = [
            bias + self.kind_scale * sum(map(row.__getitem__, short)) / length
            for row, bias in zip(self._rows[1:], self.kind_biases, strict=True)
        ]
        top = max(margins)
        powers = [math.exp(margin - top) for margin in margins]
        return {name: power / sum(powers) for name, power in zip(self.kinds, powers, strict=True)}

    def to_bytes(self) -> bytes:
        """Return the file."""
        header = {
            "scale": self.scale,
            "bias": self.bias,
            "thresholds": list(self.thresholds),
            "kinds": list(self.kinds),
            "kind_scale": self.kind_scale,
            "kind_biases": list(self.kind_biases),
        }
        raw = json.dumps(header, sort_keys=True).encode()
        return _HEAD.pack(MAGIC, len(raw)) + raw + self.weights + self.kind_weights


def windows(reading: str) -> "list[str]":
    """Return a text in overlapping parts; a short one as it is."""
    if len(reading) <= WINDOW:
        return [reading]
    last = len(reading) - WINDOW
    return [reading[at : at + WINDOW] for at in (*range(0, last, STEP), last)]


def hashed(window: str) -> "frozenset[int]":
    """Return the buckets of a text's n-grams, its ends marked by spaces."""
    raw = f" {window} ".encode("utf-32-le", "replace")
    found: "set[int]" = set()
    for size in SIZES:
        width = 4 * size
        # crc32 runs at C's speed, and its low bits are mixed well enough for buckets.
        found |= {crc32(raw[at : at + width]) & _MASK for at in range(0, len(raw) - width + 1, 4)}

    words = window.split()
    parts = [f"w{word}" for word in words]
    parts += [f"b{one} {other}" for one, other in pairwise(words)]
    parts += [f"s{one} {other}" for one, other in zip(words, words[2:], strict=False)]
    if not window.isascii():
        parts += [f"c{character}" for character in window if character >= _CJK]
    found |= {crc32(part.encode("utf-8", "replace")) & _MASK for part in parts}
    return frozenset(found)


def read_guard(path: Path) -> Guard:
    """Read and check a guard; raise ManifestError `bad_guard`."""
    content = read_bounded(path, MAX_GUARD_BYTES)
    if content is None:
        raise _bad("cannot be read")
    if len(content) > MAX_GUARD_BYTES:
        raise _bad(f"is larger than {MAX_GUARD_BYTES >> 20} MiB")
    if len(content) < _HEAD.size:
        raise _bad("ends in its head")

    magic, length = _HEAD.unpack_from(content)
    begin = _HEAD.size + length
    if magic != MAGIC or length > _MAX_HEADER or begin > len(content):
        raise _bad("is no guard of this version")
    try:
        header = parse_json(content[_HEAD.size : begin])
    except ValueError as error:
        raise _bad("has a header that is no JSON") from error

    return _guard(header, content[begin:])


def _guard(header: Any, weights: bytes) -> Guard:
    """Return the guard of a header and its weights; raise ManifestError."""
    numbers = ("scale", "bias", "kind_scale")
    if not isinstance(header, dict) or not all(_is_finite(header.get(each)) for each in numbers):
        raise _bad("has a header without its numbers")
    thresholds = header.get("thresholds")
    if not isinstance(thresholds, list) or len(thresholds) != len(LENGTHS) + 1:
        raise _bad("has a header without its numbers")
    kinds, biases = header.get("kinds"), header.get("kind_biases")
    known = (*CATEGORIES, ATTACK)
    if not isinstance(kinds, list) or not isinstance(biases, list) or len(kinds) != len(biases):
        raise _bad("names its categories wrongly")
    if not all(kind in known for kind in kinds) or len(set(kinds)) != len(kinds):
        raise _bad("names its categories wrongly")
    if not all(map(_is_finite, (*biases, *thresholds))):
        raise _bad("has a header without its numbers")
    if len(weights) != BUCKETS + KIND_BUCKETS * len(kinds):
        raise _bad("has another number of weights than its header says")

    return Guard(
        weights=weights[:BUCKETS],
        scale=float(header["scale"]),
        bias=float(header["bias"]),
        thresholds=tuple(map(float, thresholds)),
        kinds=tuple(kinds),
        kind_weights=weights[BUCKETS:],
        kind_scale=float(header["kind_scale"]),
        kind_biases=tuple(map(float, biases)),
    )


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e9


def _bad(problem: str) -> ManifestError:
    return ManifestError("bad_guard", f"the guard {problem}")


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, value))))

"""`knowledge.db`: what host and board do alike with it, its tables, words and vectors.

Words: Chinese, Japanese and Korean write no spaces, so each of their characters is a word of its
own here, and a question's neighbouring characters are asked for as a phrase.

Vectors: a sentence vector of length 1 is kept as one signed byte a number, and once more as one bit
for each sign. The bits of all vectors fit into memory (48 bytes each at 384 numbers), and comparing
two takes 0.1 µs; the number of differing bits grows with the angle between two vectors (Charikar
2002, "Similarity estimation techniques from rounding algorithms"). They choose the candidates,
whose exact products are then computed.

Standard library only, Python 3.10 up.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

KNOWLEDGE_SCHEMA = 4
"""Schema that is written. 1 has no `pooling` and no `next`, 2 none of the facts of bare ones, 3 no
`rivalry`."""
MOST_WORDS = 64
"""Words of a question that are searched for, at most."""
TOKENIZER = "porter unicode61 remove_diacritics 2"
"""FTS5's tokenizer, with which the index is made and asked."""
TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE passages (id INTEGER PRIMARY KEY, text TEXT, source TEXT, heading TEXT, page INTEGER);
CREATE TABLE entries (id INTEGER PRIMARY KEY, passage INTEGER, vector BLOB, scale REAL);
CREATE TABLE signs (id INTEGER PRIMARY KEY, bits BLOB);
CREATE TABLE goldens (id INTEGER PRIMARY KEY, question TEXT, passage INTEGER);
"""
"""Tables of the file. `passage` is NULL for a question that no passage answers. A passage's first
entry is its own text, the others are its questions, or parts of its text where nobody wrote any
question. `signs` has one row with the sign bits of all entries, in their order."""
WORDS = f"CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZER}')"
"""Words of each entry, by its id."""
POOLING = 0.05
"""Temperature at which the likeness of a passage's entries is pooled, as a soft maximum."""
# The embedder is tuned with it: a softmax of cosines at this temperature tells passages apart.
SCALE = 127
"""What the largest number of a vector becomes."""
NOTES = "Answer from these notes alone.\n\n{notes}\n\nQuestion: {question}"
"""The user's turn where the model words an answer from passages."""
_HALF = 128
_RAISED = bytes((number + _HALF) % 256 for number in range(256))
"""Signed byte → the same number, raised by 128."""
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_RUN = re.compile(f"{_CJK.pattern}+|[^\\W_]+")


def title(source: str, page: "int | None", heading: str) -> str:
    """Return where a passage stands, for people: file, page and headings."""
    return " › ".join(part for part in (source, f"page {page}" if page else "", heading) if part)


def with_notes(question: str, passages: Sequence[str]) -> str:
    """Return the user's turn of a question with passages in view, the best first."""
    notes = "\n".join(f"- {text}" for text in passages)
    return NOTES.format(notes=notes, question=question)


def spaced(text: str) -> str:
    """Return a text with a space on both sides of each CJK character, as the index holds it."""
    return _CJK.sub(lambda found: f" {found.group()} ", text.replace("\0", " "))


def query(terms: Iterable[str]) -> str:
    """Return FTS5's query for any of these terms; empty without one.

    Each term is quoted: whatever a question contains, it is searched for and never obeyed.
    """
    return " OR ".join(f'"{term}"' for term in terms)


def terms(question: str) -> list[str]:
    """Return the words of a question, and pairs of CJK characters as phrases, each once."""
    found: dict[str, None] = {}
    for run in _RUN.findall(question.lower()):
        if _CJK.match(run):
            pairs = [run[at : at + 2] for at in range(max(1, len(run) - 1))]
            found.update(dict.fromkeys(" ".join(pair) for pair in pairs))
        else:
            found[run] = None
    return list(found)[:MOST_WORDS]


def signs(vector: Sequence[float]) -> int:
    """Return the sign bits of a vector as one number."""
    bits = 0
    for value in vector:
        bits = bits << 1 | (value > 0)
    return bits


def pooled(likeness: Sequence[float], temperature: float) -> float:
    """Return the soft maximum of likeness: the largest one, and more if others are close to it.

    `temperature` × the logarithm of the sum of exp(likeness / temperature); the largest at 0.
    """
    largest = max(likeness)
    if temperature <= 0.0:
        return largest
    total = sum(math.exp((each - largest) / temperature) for each in likeness)
    return largest + temperature * math.log(total)


@dataclass(frozen=True)
class Weights:
    """What the host fitted on questions of their own."""

    words: float = 0.0
    """Share of words in common in a score."""
    unanswered: float = 0.0
    """Share of the likeness to questions that no passage answers, which a certainty loses."""
    next: float = 0.0
    """Share of what speaks against the first passage, which a certainty loses."""
    rivalry: float = 0.0
    """Temperature at which all other passages speak against it; 0: the score of the second one
    does."""
    threshold: float = 0.0
    """Least certainty with which a passage counts as an answer."""
    bare: float = 0.0
    """What is added to the score of a passage without questions (a bare one)."""
    bare_next: float = 0.0
    """What is added to it once more where it speaks against a passage with questions."""
    bare_threshold: float = 0.0
    """Least certainty with which a bare passage counts as an answer."""


@dataclass(frozen=True)
class Ranked:
    """A passage with its score."""

    passage: int
    score: float
    thin: float
    """How far it is from having enough questions, from 0 to 1: a bare passage has none. What is
    fitted for bare ones counts for it by this share."""


def thinness(questions: int, enough: float) -> float:
    """Return how far a passage with so many questions is from enough of them, from 0 to 1."""
    return max(0.0, 1.0 - questions / enough) if enough > 0 else float(questions == 0)


def rank(
    like: Mapping[int, float],
    common: Mapping[int, float],
    thin: Mapping[int, float],
    weights: Weights,
) -> "list[Ranked]":
    """Return passages with their scores, the best first.

    `like` is a passage's pooled likeness, `common` how much its words in common count, `thin` how
    far it is from having enough questions (0 where it is missing).
    """
    # A bare passage has one entry, the text itself, which is longer than a question and less like
    # one: without something added it comes behind passages with questions that answer nothing.
    scored = []
    for passage, value in like.items():
        share = thin.get(passage, 0.0)
        score = value + weights.words * common[passage] + weights.bare * share
        scored.append(Ranked(passage, score, share))
    return sorted(scored, key=lambda each: (-each.score, each.passage))


def against(ranked: "Sequence[Ranked]", weights: Weights) -> float:
    """Return how much other passages speak against the first one; `ranked` has the best one first,
    and one at least.

    At a temperature this is -temperature × log of the first one's share of exp(score / temperature)
    of all: nothing where the others are far behind.
    """
    first = ranked[0]
    others = [
        each.score + weights.bare_next * max(0.0, each.thin - first.thin) for each in ranked[1:]
    ]
    if weights.rivalry <= 0.0:
        return max([0.0, *others])
    return pooled([first.score, *others], weights.rivalry) - first.score


def certainty(ranked: "Sequence[Ranked]", unanswered: float, weights: Weights) -> float:
    """Return how sure it is that the first passage answers; `ranked` has the best one first.

    Its rivals speak against it, and so does the likeness to questions that no passage answers.
    """
    if not ranked:
        return -1.0 - weights.unanswered * unanswered
    lost = weights.next * against(ranked, weights) + weights.unanswered * unanswered
    return ranked[0].score - lost


def is_known(ranked: "Sequence[Ranked]", certainty: float, weights: Weights) -> bool:
    """Return whether the first passage counts as an answer."""
    if not ranked:
        return False
    apart = weights.bare_threshold - weights.threshold
    return certainty >= weights.threshold + apart * ranked[0].thin


@dataclass(frozen=True)
class Asked:
    """A question's vector, ready to be multiplied with many entries."""

    vector: tuple[float, ...]
    total: float
    """Sum of its numbers."""
    square: float
    """Sum of their squares."""

    @classmethod
    def of(cls, vector: Sequence[float]) -> "Asked":
        """Return a vector of floats as one."""
        return cls(tuple(vector), sum(vector), sum(map(mul, vector, vector)))


if sys.version_info >= (3, 12):
    KEEPS_SQUARES = False
    """Whether `product` is faster with the entry's `square`."""

    def _sum_of_products(numbers: bytes, asked: Asked, square: int) -> float:
        # A third of the time of `map`: 3 µs for 384 numbers.
        return float(math.sumprod(numbers, asked.vector))

else:
    KEEPS_SQUARES = True
    """Whether `product` is faster with the entry's `square`."""

    def _sum_of_products(numbers: bytes, asked: Asked, square: int) -> float:
        # The distance of two points is computed in C: half the time of `map`. What |a - b|² loses
        # to rounding is 1e-9 of numbers up to 255, and 1e-12 of a cosine.
        apart = math.dist(tuple(numbers), asked.vector)
        return (square + asked.square - apart * apart) / 2


def square(packed: bytes) -> int:
    """Return the sum of the squares of a packed vector's raised numbers."""
    raised = packed.translate(_RAISED)
    return sum(map(mul, raised, raised))


def product(packed: bytes, scale: float, asked: Asked, squares: int) -> float:
    """Return the product of a packed vector with one of floats: their cosine, for length 1.

    `squares` is the packed vector's `square`; without KEEPS_SQUARES it may be anything.
    """
    # Numbers from 0 to 255 are objects that Python keeps: half the time of signed ones.
    sums = _sum_of_products(packed.translate(_RAISED), asked, squares)
    return scale * (sums - _HALF * asked.total)

"""The limit of a search that nobody wrote questions to fit with.

Questions of common knowledge stand for what documents do not answer: the limit is what few of them
reach. It is measured with the recipe's own embedder and documents, since one embedder finds all
texts alike and another none, and with questions in the documents' languages, since an embedder
finds texts alike that share a language.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from toolchain.ingest.clean.language import language_of
from toolchain.knowledge.fitting import DEFAULT, MAX_FALSE, Fitted, Trial, judge
from toolchain.knowledge.written import Written
from toolchain.training.probe import read_questions

OTHERS = Path(__file__).with_name("common_questions.txt")
"""Questions in other languages than English: a language a section."""
ENGLISH = "en"
"""Language of the questions for documents in languages that have none here."""
LEAST_SHARE = 0.02
"""Share of the documents from which on a language is asked in."""
MOST = 0.7
"""Highest limit: documents of common knowledge do answer such questions, at cosines above this."""
# With MiniLM as it is the limit was 0.21 for a manual's 109 passages, 0.44 for a handbook's 175. 22
# Chinese passages had 0.13 from English questions, which let 103 of 128 Chinese ones through that
# they do not answer; from Chinese questions 0.56, which let 14 through.


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """A question that stands for what documents do not answer."""

    written: Written
    weight: float
    """What it counts: those of a language count together as its share of the documents."""


def common_questions(texts: Iterable[str]) -> list[Common]:
    """Return the questions for documents with these texts, in their languages."""
    known = _by_language()
    counts = _languages(texts)
    shares: Counter[str] = Counter()
    for language, count in counts.items():
        if count >= LEAST_SHARE * counts.total():
            shares[language if language in known else ENGLISH] += count
    return [
        Common(
            written=Written(question=question, right=frozenset()),
            weight=count / len(known[language]),
        )
        for language, count in sorted((shares or {ENGLISH: 1}).items())
        for question in known[language]
    ]


def _languages(texts: Iterable[str]) -> Counter[str]:
    """Return how many texts are in each language; those that are too short to tell are joined."""
    counts: Counter[str] = Counter()
    short = []
    for text in texts:
        if language := language_of(text):
            counts[language] += 1
        else:
            short.append(text)
    if language := language_of("\n".join(short)):
        counts[language] += len(short)
    return counts


def _by_language() -> dict[str, list[str]]:
    """Return the questions of each language."""
    known = {ENGLISH: [each.question for each in read_questions()]}
    for line in OTHERS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            language = line.strip("[]")
            known[language] = []
        elif line and not line.startswith("#"):
            known[language].append(line)
    return known


def with_limit(fitted: Fitted, general: Sequence[Trial], weights: Sequence[float]) -> Fitted:
    """Return fitted facts with the limit that at most `MAX_FALSE` of common questions reach.

    `weights` are what each of them counts.
    """
    judged = [judge(trial.compared, fitted).certainty for trial in general]
    reached = sorted(zip(judged, weights, strict=True), reverse=True)
    # A question that adds up to the allowed weight exactly is let through, however it is rounded.
    allowed = MAX_FALSE * sum(weights) * (1 + 1e-9)
    sums = accumulate(weight for _, weight in reached)
    first_refused = next(
        sure for (sure, _), counted in zip(reached, sums, strict=True) if counted > allowed
    )
    # Rounded upwards, so that this question itself is refused.
    limit = min(MOST, round(first_refused + 1e-6, 6))
    return {**fitted, "threshold": limit, "bare_threshold": limit}


def facts() -> dict[str, object]:
    """Return what an unfitted search depends on, besides its documents and its embedder."""
    return {"questions": _by_language(), "fitted": DEFAULT, "false": MAX_FALSE, "most": MOST}

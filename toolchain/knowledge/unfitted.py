"""The limit of a search that nobody wrote questions to fit with.

Questions of common knowledge stand for what documents do not answer: the limit is what few of them
reach. It is measured with the recipe's own embedder and documents, since one embedder finds all
texts alike and another none, and with questions in the documents' language, since an embedder finds
texts alike that share one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolchain.knowledge.fitting import DEFAULT, MAX_FALSE, Fitted, Trial, judge
from toolchain.knowledge.written import Written
from toolchain.language import language_of
from toolchain.training.probe import read_questions

OTHERS = Path(__file__).with_name("common_questions.txt")
"""Questions in other languages than English: a language a section."""
ENGLISH = "en"
"""Language of the questions for documents in languages that have none here."""
MOST = 0.7
"""Highest limit: documents of common knowledge do answer such questions, at cosines above this."""
# With MiniLM as it is the limit was 0.21 for a manual's 109 passages, 0.44 for a handbook's 175. 22
# Chinese passages had 0.13 from English questions, which let 103 of 128 Chinese ones through that
# they do not answer; from Chinese questions 0.56, which let 14 through.


def common_questions(texts: Iterable[str]) -> list[Written]:
    """Return the questions for documents with these texts, in the language of most of them.

    Of a few in another language none is asked: the limit would be theirs alone.
    """
    known = _by_language()
    language, _ = (_languages(texts) or Counter({ENGLISH: 1})).most_common(1)[0]
    questions = known.get(language, known[ENGLISH])
    return [Written(question=each, right=frozenset()) for each in questions]


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


def with_limit(fitted: Fitted, common: Sequence[Trial]) -> Fitted:
    """Return fitted facts with the limit that at most `MAX_FALSE` of common questions reach."""
    reached = sorted((judge(trial.compared, fitted).certainty for trial in common), reverse=True)
    first_refused = reached[int(MAX_FALSE * len(reached))]
    # Rounded upwards, so that this question itself is refused.
    limit = min(MOST, round(first_refused + 1e-6, 6))
    return {**fitted, "threshold": limit, "bare_threshold": limit}


def facts() -> dict[str, object]:
    """Return what an unfitted search depends on, besides its documents and its embedder."""
    return {"questions": _by_language(), "fitted": DEFAULT, "false": MAX_FALSE, "most": MOST}

"""The limit of a search that nobody wrote questions to fit with.

Questions of common knowledge (toolchain/general_questions.jsonl) stand for what documents do not
answer: the limit is what few of them reach. It is measured with the recipe's own embedder and
documents, since one embedder finds all texts alike and another none.
"""

from collections.abc import Sequence

from toolchain.knowledge.fitting import MAX_FALSE, Fitted, Trial, judge
from toolchain.knowledge.written import Written
from toolchain.training.probe import QUESTIONS, read_questions

GENERAL = QUESTIONS
MOST = 0.7
"""Highest limit: documents of common knowledge do answer such questions, at cosines above this."""
# With MiniLM as it is the limit was 0.21 for a manual's 109 passages, 0.44 for a handbook's 175.


def general_questions() -> list[Written]:
    """Return the questions that stand for what documents do not answer."""
    return [Written(question=each.question, right=frozenset()) for each in read_questions(GENERAL)]


def with_limit(fitted: Fitted, general: Sequence[Trial]) -> Fitted:
    """Return fitted facts with the limit that at most `MAX_FALSE` of general questions reach."""
    reached = sorted((judge(trial.compared, fitted).certainty for trial in general), reverse=True)
    first_refused = reached[int(MAX_FALSE * len(reached))]
    # Rounded upwards, so that this question itself is refused.
    limit = min(MOST, round(first_refused + 1e-6, 6))
    return {**fitted, "threshold": limit, "bare_threshold": limit}

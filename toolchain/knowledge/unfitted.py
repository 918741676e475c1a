"""The limit of a search that nobody wrote questions to fit with.

Questions of common knowledge (toolchain/general_questions.jsonl) stand for what documents do not
answer: the limit is what few of them reach. It is measured with the recipe's own embedder and
documents, since one embedder finds all texts alike and another none. Documents in Chinese are asked
in Chinese.
"""

from collections.abc import Sequence
from pathlib import Path

from toolchain.artifacts import read_jsonl
from toolchain.knowledge.fitting import MAX_FALSE, Fitted, Trial, judge
from toolchain.knowledge.passages import CJK, Passage
from toolchain.knowledge.written import Written
from toolchain.training.probe import QUESTIONS

CHINESE = QUESTIONS.with_name("general_questions_zh.jsonl")
# Of 19 Chinese answers found by MiniLM: with the limit that English questions gave (0.26) all of 54
# near misses and 42 general questions in Chinese were answered, with that of 42 other Chinese ones
# (0.67) 22 % and none.
_CHINESE_SHARE = 0.2
"""Share of Chinese characters from which on a passage is Chinese; names and commands are not."""
MOST = 0.7
"""Highest limit: documents of common knowledge do answer such questions, at cosines above this."""
# With MiniLM as it is the limit was 0.39 for an office's 32 passages and 0.40 for the help desk's
# 524. The office's 11 questions with an answer had 0.52 to 0.94.


def general_file(passages: Sequence[Passage]) -> Path:
    """Return the file of the questions that stand for what these documents do not answer."""
    chinese = sum(
        len(CJK.findall(each.text)) > _CHINESE_SHARE * len(each.text) for each in passages
    )
    return CHINESE if 2 * chinese > len(passages) else QUESTIONS


def general_questions(file: Path) -> list[Written]:
    """Return the questions of such a file; nothing answers them."""
    return [Written(question=row["question"], right=frozenset()) for row in read_jsonl(file)]


def with_limit(fitted: Fitted, general: Sequence[Trial]) -> Fitted:
    """Return fitted facts with the limit that at most `MAX_FALSE` of general questions reach."""
    reached = sorted((judge(trial.compared, fitted).certainty for trial in general), reverse=True)
    first_refused = reached[int(MAX_FALSE * len(reached))]
    # Rounded upwards, so that this question itself is refused.
    limit = min(MOST, round(max(0.0, first_refused) + 1e-6, 6))
    return {**fitted, "threshold": limit, "bare_threshold": limit}

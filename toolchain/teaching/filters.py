"""Which written answers are kept: whole, agreed upon, and supported by the passage."""

import re
import unicodedata

from toolchain.training.answers import token_f1, words

NOTHING = "NOTHING"
"""What a teacher writes where a passage does not answer the question."""
_SHORTEST = 4
"""Letters of the shortest word that counts as a content word; numbers and CJK always do."""
_STEM = 5
"""Letters by which long forms of a word are the same: `throttles` and `throttled`."""
# Words of four letters or more that carry no content; the shorter ones are left out anyway.
_FUNCTION = frozenset(
    re.findall(
        r"\w+",
        """
        about above after again also because been before being below between both could does doing
        done down each either even ever from have having here into itself just like made make many
        more most much must need needs only other over same should some still such than that their
        them then there these they thing this those through under until very want well were what
        when where which while will with without would your yours yourself
        """,
    )
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def agree(first: str, second: str, least: float) -> bool:
    """Say whether two answers say the same: F1 of their words, and all numbers equal."""
    return token_f1(first, second) >= least and _numbers(first) == _numbers(second)


def is_supported(answer: str, passage: str, least: float) -> bool:
    """Say whether a share `least` of the answer's content words stands in a passage.

    Every number of the answer must: a wrong one is a wrong fact whatever stands around it.
    """
    if not _numbers(answer) <= _numbers(passage):
        return False
    known = {word for word in words(passage) if _is_content(word)}
    known |= {word[:_STEM] for word in known if len(word) > _STEM}
    content = [word for word in words(answer) if _is_content(word)]
    return sum(_is_known(word, known) for word in content) >= least * len(content)


def is_nothing(answer: str) -> bool:
    """Say whether an answer says that there is none."""
    return words(answer)[:1] in ([], words(NOTHING))


def _is_known(word: str, known: set[str]) -> bool:
    """Say whether a word, or a form of it, is among some words and their stems."""
    return word in known or any(word[:end] in known for end in range(_SHORTEST, len(word)))


def _is_content(word: str) -> bool:
    if len(word) == 1:
        return unicodedata.category(word) == "Lo"  # one CJK character
    return any(c.isdigit() for c in word) or (len(word) >= _SHORTEST and word not in _FUNCTION)


def _numbers(text: str) -> set[str]:
    plain = unicodedata.normalize("NFKC", text)
    return {each.replace(",", ".") for each in _NUMBER.findall(plain)}

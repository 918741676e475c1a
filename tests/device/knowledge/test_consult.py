"""A short question goes on about the one before it, or begins something new."""

from collections.abc import Mapping

import pytest

from device.knowledge.consult import Consulted, consult
from device.knowledge.index import Found, Hit
from device.manifest import QUOTE

LOCKS, FUSES, SAILS = (
    Hit(number, text, f"{text.split()[0]}.md", "", None, 0.5)
    for number, text in enumerate(("locks open at 7", "fuses are red", "sails are white"), 1)
)
ASKED = "when do the locks open?"


class Searched:
    """An index that finds what a table says: a question, the passages, and whether they answer."""

    def __init__(self, found: Mapping[str, tuple[tuple[Hit, ...], bool]]) -> None:
        self._found = found

    def search(self, question: str, take: int = 3) -> Found:
        """Return what the table says."""
        hits, known = self._found[question]
        return Found(hits[:take], 0.5 if known else 0.1, known)


def consulted(goes_on: str, alone: tuple[Hit, ...], together: tuple[Hit, ...]) -> Consulted:
    index = Searched({goes_on: (alone, False), f"{ASKED} {goes_on}": (together, True)})
    talk = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": LOCKS.text},
        {"role": "user", "content": goes_on},
    ]
    answer = consult(index, talk, QUOTE, 3)  # type: ignore[arg-type]
    assert answer is not None
    return answer


def test_the_question_before_makes_sure_of_what_is_nearest_anyway() -> None:
    answer = consulted("and in October?", (LOCKS, SAILS), (LOCKS, FUSES))
    assert answer.text == LOCKS.text


@pytest.mark.parametrize("alone", [(SAILS, LOCKS), (FUSES,), ()])
def test_the_question_before_does_not_answer_another_one(alone: tuple[Hit, ...]) -> None:
    answer = consulted("how do I raise the mainsail?", alone, (LOCKS, FUSES))
    assert answer.text.startswith("My documents do not say that.")
    assert answer.sources == alone[:1]

"""Speculative decoding without a second model: drafts of tokens, and a budget for trying them.

A draft is the text that followed the last time the same n-gram occurred (prompt lookup, Saxena
2023). It costs nothing to make, but several tokens at once take longer to verify than one. So a
draft is tried where its expected tokens outweigh its time, and only with time that was earned: each
token earns a hundredth of a step, each saved token a whole step. Standard library only: any engine
that can take back tokens may use it.
"""

from collections.abc import Sequence

NGRAM = 3
"""Tokens that must be the same before a draft is made."""
SIZES = (4, 8, 16)
"""Tokens that are verified at once."""
# Kernels work in groups of four rows: llama.cpp repacks weights so on x86 and on ARM.

_FIRST_COSTS = {4: 3.0, 8: 5.0, 16: 7.0}
"""Size of a batch → its cost in steps of one token, until it is measured."""
# x86 has 2.4 to 3.7, 4.2 to 5.7 and 6.7 to 10.8 with one thread, and 2.6, 3.4 and 4.6 with two.
# A cost that is too low is a loss that nothing has paid for.

_FIRST_CHANCE = 0.5
"""Chance that a drafted token is right, before any was seen."""
_NEWEST_WEIGHT = 0.15
"""Weight of the newest draft in the moving average of the chance."""
_MIN_GAIN = 1.15
"""Minimum expected tokens per single-step time before a batch is tried."""

# An answer whose drafts are all wrong loses `_EARNED_PER_TOKEN`, `_FIRST_GRANT` and `_CREDIT` at
# most: 3 % of 128 tokens.
_EARNED_PER_TOKEN = 0.01
"""Steps that each token earns."""
_MOST_EARNED = 6.0
_FIRST_GRANT = 1.5
"""Steps that an answer may lose of what earlier answers earned."""
_CREDIT = 1.0
"""Steps that may be lost beyond what was earned while drafts are sure."""
# The debt stays until it is paid.
_SURE = 0.98
"""Chance of drafts that were right about twenty times in a row."""


class Lookup:
    """A text of tokens, and where each n-gram of it was last."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """N-gram → the place after its last occurrence. The n-gram at the end of the text is not in
        it yet."""
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token to the text."""
        text = self._text
        if len(text) >= NGRAM:
            self._after[tuple(text[-NGRAM:])] = len(text)
        text.append(token)

    def draft(self, most: int) -> list[int]:
        """Return a draft of `most` tokens.

        It is the continuation of the last earlier occurrence of the current n-gram.

        The continuation is repeated if it reaches the end of the text. Empty if the n-gram is new.
        """
        at = self._after.get(tuple(self._text[-NGRAM:]))
        if at is None or not most:
            return []

        followed = self._text[at : at + most]
        return (followed * (most // len(followed) + 1))[:most]


class DraftBudget:
    """What drafts have cost and gained so far in this engine; times are in seconds."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._costs = dict(_FIRST_COSTS)
        self._measured: set[int] = set()
        self._unsettled = False
        """Whether the next step follows a batch: the engine plans it anew, which takes longer."""
        self._chance = _FIRST_CHANCE
        self._earned = _FIRST_GRANT
        """Steps of one token."""

    def begin(self) -> None:
        """Begin an answer, which may lose only a part of what earlier answers earned."""
        self._earned = min(self._earned, _FIRST_GRANT)

    def stepped(self, seconds: float) -> None:
        """Note the time of a step of one token."""
        self._earn(_EARNED_PER_TOKEN)

        if self._unsettled:
            self._unsettled = False
            self._earn(-min(1.0, max(0.0, seconds / self._step_s - 1)))
        elif self._step_s:
            # one slow step, while another program ran, does not make drafts look cheap
            self._step_s = 0.9 * self._step_s + 0.1 * min(seconds, 3 * self._step_s)
        else:
            self._step_s = seconds

    def tried(self, size: int, tokens: int, seconds: float) -> None:
        """Note that a batch of `size` tokens took `seconds` and gave `tokens` of the answer."""
        cost = seconds / self._step_s
        weight = 0.3 if size in self._measured else 1.0
        self._costs[size] += weight * (cost - self._costs[size])
        self._measured.add(size)

        self._unsettled = True
        self._earn(tokens - cost)

    def saw(self, *, right: bool) -> None:
        """Note whether a drafted token, tried or not, was the one that came."""
        self._chance += _NEWEST_WEIGHT * (right - self._chance)

    @property
    def sure(self) -> bool:
        """Whether drafts have been right for so long that an untried size is worth its proof."""
        return self._chance >= _SURE

    def size(self, drafted: int) -> int:
        """Return how many tokens to verify at once after a draft of `drafted` tokens.

        1 for no draft.
        """
        if not self._step_s:
            return 1

        budget = self._earned + (_CREDIT if self.sure else 0)
        able = [size for size in SIZES if size <= drafted + 1 and self._costs[size] - 1 <= budget]
        best = max(able, key=self._gain, default=0)
        return best if best and self._gain(best) >= _MIN_GAIN else 1

    def _gain(self, size: int) -> float:
        """Return the expected tokens of a batch per single-step time."""
        # A token of the draft counts if all before it are right: the sum of a geometric series.
        tokens = size if self._chance >= 1 else (1 - self._chance**size) / (1 - self._chance)
        return tokens / self._costs[size]

    def _earn(self, steps: float) -> None:
        self._earned = min(_MOST_EARNED, self._earned + steps)

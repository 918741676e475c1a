"""Guesses at the next tokens, from where the text went on the last time it said the same; and whether trying them pays.

Prompt lookup (Saxena 2023): a guess costs nothing, but several tokens at once take longer to verify than one. So a guess is tried
where what was seen promises more tokens than the time costs, and only with time that was earned: each token earns a hundredth of
itself, each saved token its whole time. An answer that is misled loses that hundredth and `_GRANT` and `_CREDIT` steps at most: 3 %
of 128 tokens.
Standard library only: any engine that can take back tokens may use it.
"""

from collections.abc import Sequence

NGRAM = 3
"""Tokens that must be the same before a guess."""
SIZES = (4, 8, 16)
"""Tokens that are verified at once: kernels work in groups of four rows (performance-probe.md 5, of both x86 and ARM repacking)."""
_FIRST_COSTS = {4: 3.0, 8: 5.0, 16: 7.0}
"""Of a batch in steps of one token, until they are measured: x86 has 2.4 to 3.7, 4.2 to 5.7 and 6.7 to 10.8 with one thread,
2.6, 3.4 and 4.6 with two. Too low a cost is a loss that nothing has paid for."""
_HOPE = 0.5
"""Chance that a guessed token is right, before any was seen."""
_NEWS = 0.15
"""Weight of the newest of guesses seen."""
_PROFIT = 1.15
"""Tokens for the time of one that a batch must promise."""
_TITHE = 0.01
_MOST_EARNED = 6.0
_GRANT = 1.5
"""Steps of one token that an answer may lose of what others earned."""
_CREDIT = 1.0
"""Steps that may be lost beyond what was earned where guesses are sure; the debt stays until it is paid."""
_SURE = 0.98
"""Chance of guesses that were right about twenty times in a row."""


class Lookup:
    """A text of tokens, and where each run of NGRAM of them was last."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """Run of tokens → the place after it; the run that the text ends with is not in it yet."""
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Go on with a token."""
        text = self._text
        if len(text) >= NGRAM:
            self._after[tuple(text[-NGRAM:])] = len(text)
        text.append(token)

    def guess(self, most: int) -> list[int]:
        """Return the tokens that followed when the text last said what it says now, over and over where it ran into its own end."""
        at = self._after.get(tuple(self._text[-NGRAM:]))
        if at is None or not most:
            return []
        followed = self._text[at : at + most]
        return (followed * (most // len(followed) + 1))[:most]


class Pace:
    """What guesses have cost and brought so far in this engine; times are in seconds."""

    def __init__(self) -> None:
        self._step_s = 0.0
        self._costs = dict(_FIRST_COSTS)
        self._measured: set[int] = set()
        self._unsettled = False
        """Whether the next step follows a batch: the engine plans it anew, which takes longer."""
        self._chance = _HOPE
        self._earned = _GRANT
        """Steps of one token."""

    def begin(self) -> None:
        """An answer begins: what others earned is not its to lose."""
        self._earned = min(self._earned, _GRANT)

    def stepped(self, seconds: float) -> None:
        """Note the time of a step of one token."""
        self._earn(_TITHE)
        if self._unsettled:
            self._unsettled = False
            self._earn(-min(1.0, max(0.0, seconds / self._step_s - 1)))
        else:
            self._step_s = (
                0.9 * self._step_s + 0.1 * min(seconds, 3 * self._step_s)
                if self._step_s
                else seconds
            )

    def tried(self, size: int, tokens: int, seconds: float) -> None:
        """Note that `size` tokens took so long at once and brought so many."""
        cost = seconds / self._step_s
        weight = 0.3 if size in self._measured else 1.0
        self._costs[size] += weight * (cost - self._costs[size])
        self._measured.add(size)
        self._unsettled = True
        self._earn(tokens - cost)

    def saw(self, *, right: bool) -> None:
        """Note whether a guessed token, tried or not, was the one that came."""
        self._chance += _NEWS * (right - self._chance)

    @property
    def sure(self) -> bool:
        """Whether guesses have been right for so long that a size that was never tried is worth its proof."""
        return self._chance >= _SURE

    def size(self, guessed: int) -> int:
        """Return how many tokens to verify at once where so many are guessed after the last one; 1 for none."""
        if not self._step_s:
            return 1
        purse = self._earned + (_CREDIT if self.sure else 0)
        able = [size for size in SIZES if size <= guessed + 1 and self._costs[size] - 1 <= purse]
        best = max(able, key=self._promise, default=0)
        return best if best and self._promise(best) >= _PROFIT else 1

    def _promise(self, size: int) -> float:
        """Return the tokens that a batch brings in the time of one: a token comes if all guesses before it are right."""
        tokens = size if self._chance >= 1 else (1 - self._chance**size) / (1 - self._chance)
        return tokens / self._costs[size]

    def _earn(self, steps: float) -> None:
        self._earned = min(_MOST_EARNED, self._earned + steps)

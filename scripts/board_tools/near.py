"""Wordings to measure with, and whether another one is near to one of them."""

from collections.abc import Iterable

from toolchain.ingest.split import plain_key

NEAR = 0.5
"""Share of common trigrams from which on two wordings are near."""


class Measured:
    """Wordings that are measured with: nothing near one of them is learned."""

    def __init__(self, wordings: Iterable[str]) -> None:
        self._wordings = [(plain_key(each), _trigrams(each)) for each in wordings]

    def is_near(self, text: str) -> bool:
        """Return whether a text is near one of the wordings."""
        key, own = plain_key(text), _trigrams(text)
        return any(
            key == other or len(own & theirs) >= NEAR * len(own | theirs)
            for other, theirs in self._wordings
        )


def _trigrams(text: str) -> set[str]:
    plain = f"  {plain_key(text)} "
    return {plain[at : at + 3] for at in range(len(plain) - 2)}

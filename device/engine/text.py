"""Text of an answer from the bytes of its tokens: whole characters only, and never a stop text.

It is incremental, so that the cost of a token does not grow with the answer before it.
"""

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one answer while its bytes arrive."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        """Text that is held back because it may be the beginning of a stop text."""
        self.stopped = False
        """True once a stop text came; no text is released after it."""

    def feed(self, piece: bytes) -> str:
        """Return the text that these bytes complete."""
        return self._release(self._decoder.decode(piece))

    def end(self) -> str:
        """Return the text that was held back.

        A character that never arrived whole becomes a replacement character.
        """
        text = self._release(self._decoder.decode(b"", final=True))
        rest = self._held
        self._held = ""
        return text + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""

        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]

        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

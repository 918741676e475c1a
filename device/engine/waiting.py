"""The free part of an answer, before the text that begins a tool call. Standard library only.

The rule to keep: a token that completes the trigger and goes on otherwise than a call does is not
chosen, for the grammar could not take it. After a call was taken back, none is begun again.
"""

from dataclasses import dataclass

from device.engine.base import Trigger


@dataclass(frozen=True)
class Step:
    """What a token makes of the free part."""

    said: bytes
    """Text that counts towards the trigger from now on."""
    beyond: "bytes | None" = None
    """Text after the trigger; None if the trigger is not complete."""


class Waiting:
    """Waits for a trigger in the text of an answer."""

    def __init__(self, trigger: Trigger, *, shut: bool = False) -> None:
        """Wait for a trigger.

        If it is `shut`, at most half of it is said, and nothing of it by the first token.
        """
        self._trigger = trigger
        self._shut = self._begins_text = shut
        self._text = trigger.text.encode()
        self._head = trigger.head.encode()
        self._said = b""
        self.left = trigger.head
        """Part of the head that is still to come."""

    def after(self, piece: bytes) -> "Step | None":
        """Return what a token with these bytes makes; None if it must not be chosen."""
        said = self._said + piece
        if not self._trigger.anywhere:
            # The text of the whole answer counts, and only its beginning may be the trigger.
            said = said.lstrip()
            found = 0 if said.startswith(self._text) else -1
        else:
            found = said.find(self._text)

        if found < 0:
            least = 1 if self._begins_text else len(self._text) // 2 + 1
            if self._shut and self._opens(said, least):
                return None
            return Step(said[-(len(self._text) - 1) :] if self._trigger.anywhere else said)

        beyond = said[found + len(self._text) :]
        return Step(b"", beyond) if self._head.startswith(beyond) and not self._shut else None

    @property
    def opens(self) -> bool:
        """Whether the text so far may be the beginning of a trigger."""
        return self._opens(self._said)

    def _opens(self, said: bytes, least: int = 1) -> bool:
        """Say whether a text ends in at least so many bytes of the trigger, but not in all."""
        if not self._trigger.anywhere:
            return self._text.startswith(said[: len(self._text)])
        return any(said.endswith(self._text[:length]) for length in range(least, len(self._text)))

    def accept(self, step: Step) -> bool:
        """Take a step; return whether the trigger is complete."""
        self._begins_text = False
        self._said = step.said[: len(self._text)] if not self._trigger.anywhere else step.said
        if step.beyond is None:
            return False
        self.left = self._head[len(step.beyond) :].decode()
        return True


def quoted(text: str) -> str:
    """Return a text as a literal of a grammar (GBNF)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'

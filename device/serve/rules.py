"""The rules of one grammar (GBNF) while it is built, within bounds.

The rule to keep: the work ends when the rules grow too large, not after it. Standard library only.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from device.serve.gbnf import BASE
from device.serve.shapes import refused

MAX_RULES = 512
MAX_BYTES = 1 << 16


class Rules:
    """Named parts of a grammar; the same part has one name."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        """Rule body → rule name."""
        self._promised: dict[str, str] = {}
        """Name of a rule that may stand inside itself → its body."""
        self._bytes = 0

    def text(self, root: str, more: Mapping[str, str] = MappingProxyType({})) -> str:
        """Return a grammar with this body of its rule `root`; `more` replaces rules of all."""
        named = {name: body for body, name in self._names.items()}
        rules = {"root": root, **named, **self._promised, **BASE, **more}
        text = "".join(f"{name} ::= {body}\n" for name, body in rules.items())
        _check_size(len(text))
        return text

    def named(self, body: str) -> str:
        """Return the name of a rule, which is added if it is new."""
        if body not in self._names:
            self._count(body)
            self._names[body] = f"r{len(self._names)}"
        return self._names[body]

    def one_of(self, bodies: Iterable[str]) -> str:
        """Return the part of a choice among parts."""
        choices = list(dict.fromkeys(bodies))
        return choices[0] if len(choices) == 1 else self.named(" | ".join(choices))

    def promised(self) -> str:
        """Return the name of a new rule whose body comes later: it may stand inside itself."""
        self._count("")
        name = f"ref{len(self._promised)}"
        self._promised[name] = ""
        return name

    def keep_promise(self, name: str, body: str) -> None:
        """Add the body of a promised rule."""
        self._promised[name] = body
        self._bytes += len(body)
        _check_size(self._bytes)

    def _count(self, body: str) -> None:
        if len(self._names) + len(self._promised) >= MAX_RULES:
            raise refused("schema", f"is too large: it needs more than {MAX_RULES} rules")
        self._bytes += len(body)
        _check_size(self._bytes)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise refused("schema", f"is too large: its grammar has more than {MAX_BYTES >> 10} KiB")

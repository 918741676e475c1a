"""How a grammar (GBNF) writes values and names: as JSON, or raw as some models' markup has them.

Standard library only.
"""

import json
from collections.abc import Mapping
from typing import Any

from device.engine.waiting import quoted
from device.manifest.braces import KEY, is_bare, written
from device.serve.gbnf import literal
from device.serve.rules import Rules
from device.serve.shapes import refused


class Notation:
    """JSON, or with a `quote` arguments that are none (braces.py)."""

    def __init__(self, rules: Rules, quote: str = "") -> None:
        self._rules = rules
        self._quote = quote
        """Token around texts that are written raw."""

    @property
    def is_raw(self) -> bool:
        """Whether it is no JSON."""
        return bool(self._quote)

    def value(self, value: Any, where: str) -> str:
        """Return the part of one value."""
        if not self._quote:
            return literal(value)
        if self._quote[0] in json.dumps(value, ensure_ascii=False):
            raise refused(where, f"a value with `{self._quote[0]}` is none in this model's markup")
        return quoted(written(value, self._quote))

    def pair(self, name: str, where: str, value: str) -> str:
        """Return the part of a name and its value."""
        if not self._quote:
            return f'{literal(name)} ":" ws {value}'
        if not is_bare(name):
            raise refused(where, f"`{name[:80]}` is no name in this model's markup")
        return f"{quoted(name + ':')} {value}"

    def key(self) -> str:
        """Return the part of a name that nobody described."""
        return self._rules.named(f"{KEY}{{1,64}}") if self._quote else "string"

    def texts(self) -> Mapping[str, str]:
        """Return the rules of raw texts, without any part that may be their end; JSON has none."""
        if not self._quote:
            return {}
        first, second = self._quote[0], self._quote[1]
        mark = quoted(self._quote)
        # A little narrower than "anything but the quote": no text ends with its first character.
        return {
            "ws": '""',
            "char": f'[^{first}\\x00] | "{first}" [^{first}{second}\\x00]',
            "string": f"{mark} char* {mark}",
        }

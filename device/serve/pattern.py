"""Translation of a regular expression (`pattern` of a schema, ECMA-262) into a grammar of strings.

The rule to keep: each string that the grammar takes matches the pattern; not all that match are
taken. Quotes, backslashes and control characters inside classes are left out, since they stand in
JSON as escapes. What a grammar cannot do is refused by name: looking ahead or behind, references,
word boundaries. Standard library only.
"""

import json
import re
from collections.abc import Callable

from device.engine.waiting import quoted
from device.serve.gbnf import times

MAX_PATTERN = 500
"""Maximum number of characters of a pattern."""
MAX_GROUPS = 16
"""Maximum depth of groups."""
_MAX_TIMES = 1000
_PLAIN = r'[^"\\\x7f\x00-\x1f]'
"""Any character that stands for itself in JSON."""
_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": "\\x20"}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_BARRED = '"\\\\\\x7f\\x00-\\x1f'
"""Characters of a negated class that no class takes."""
_REPEATS = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")


class PatternError(ValueError):
    """A part of a pattern that no grammar can hold an answer to."""


def grammar_of(pattern: str, rule: Callable[[str], str]) -> str:
    """Return the grammar part of the strings that match; `rule` names a part as a rule.

    Raise PatternError with what is not understood.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"has more than {MAX_PATTERN} characters")

    begins = pattern.startswith("^")
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[begins : len(pattern) - ends]
    parser = _Parser(inner, rule)
    body = parser.whole()
    if (begins or ends) and parser.splits:
        raise PatternError("`^` or `$` beside `|`: put the choices into a group")

    return " ".join(["" if begins else "char*", f"({body})", "" if ends else "char*"]).strip()


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str, rule: Callable[[str], str]) -> None:
        self._left = pattern
        self._rule = rule
        self._depth = 0
        self.splits = False
        """Whether the outermost level has choices."""

    def whole(self) -> str:
        """Return the grammar part of the whole pattern; raise PatternError."""
        body = self._choices()
        if self._left:
            raise PatternError(f"`{self._left[:20]}`")
        return body

    def _choices(self) -> str:
        choices = [self._sequence()]
        while self._takes("|"):
            self.splits = self.splits or not self._depth
            choices.append(self._sequence())
        return " | ".join(choices)

    def _sequence(self) -> str:
        parts = []
        while self._left and self._left[0] not in "|)":
            atom = self._atom()
            parts.append(atom + self._times())
        return " ".join(parts) or '""'

    def _times(self) -> str:
        """Return how often the part before may come."""
        found = _REPEATS.match(self._left)
        if found:
            self._left = self._left[found.end() :]
            least = int(found[1])
            most = least if not found[2] else int(found[3]) if found[3] else None
            if max(least, most or 0) > _MAX_TIMES or (most is not None and most < least):
                raise PatternError(f"`{found[0]}`")
            repeats = times(least, most)
        else:
            repeats = next((sign for sign in "*+?" if self._takes(sign)), "")
        if repeats:
            self._takes("?")  # lazy or greedy, the same strings match
        return repeats

    def _atom(self) -> str:
        if self._takes("("):
            return self._group()
        if self._takes("["):
            return self._class()
        if self._takes("."):
            return _PLAIN
        if self._takes("\\"):
            return self._escaped()
        character = self._next()
        if character in "^$*+?{}":
            raise PatternError(f"`{character}` at this place")
        return _one(character)

    def _group(self) -> str:
        name = re.match(r"\?(:|P?<[A-Za-z_]\w*>)", self._left)
        if name:
            self._left = self._left[name.end() :]
        elif self._left.startswith("?"):
            raise PatternError(f"`({self._left[:2]}`")

        self._depth += 1
        if self._depth > MAX_GROUPS:
            raise PatternError(f"more than {MAX_GROUPS} groups in each other")
        body = self._choices()
        self._depth -= 1
        if not self._takes(")"):
            raise PatternError("a group without its end")
        return self._rule(body)

    def _escaped(self) -> str:
        character = self._next()
        if character in _CLASSES:
            return f"[{_CLASSES[character]}]"
        if character.lower() in _CLASSES:
            return f"[^{_CLASSES[character.lower()]}{_BARRED}]"
        return _one(self._literal(character))

    def _literal(self, character: str) -> str:
        """Return the character that an escape stands for."""
        if character in _CONTROLS:
            return _CONTROLS[character]
        size = {"x": 2, "u": 4}.get(character, 0)
        if size:
            digits = self._left[:size]
            code = int(digits, 16) if re.fullmatch(f"[0-9a-fA-F]{{{size}}}", digits) else 0xD800
            if not 0xD800 <= code < 0xE000:
                self._left = self._left[size:]
                return chr(code)
        if character.isalnum():
            raise PatternError(f"`\\{character}`")
        return character

    def _class(self) -> str:
        """Return a class of characters."""
        negated = self._takes("^")
        inside = ""
        first = True
        while first or not self._left.startswith("]"):
            inside += self._range(negated=negated)
            first = False
        self._next()
        if negated:
            return f"[^{inside}{_BARRED}]"
        if not inside:
            raise PatternError("a class of quotes, backslashes or control characters alone")
        return f"[{inside}]"

    def _range(self, *, negated: bool) -> str:
        """Return one member of a class: a character, a range, or a class of its own."""
        low = self._next()
        if low == "\\":
            low = self._next()
            if low in _CLASSES:
                return _CLASSES[low]
            if low.lower() in _CLASSES:
                raise PatternError(f"`\\{low}` in a class")
            low = "\b" if low == "b" else self._literal(low)

        high = low
        if self._left.startswith("-") and not self._left.startswith("-]"):
            self._next()
            high = self._next()
            if high == "\\":
                high = self._literal(self._next())
            if high < low:
                raise PatternError(f"`{low}-{high}`")
        if negated:
            return _member(low, high)
        return "".join(_member(*part) for part in _plain_parts(low, high))

    def _takes(self, text: str) -> bool:
        found = self._left.startswith(text)
        if found:
            self._left = self._left[len(text) :]
        return found

    def _next(self) -> str:
        if not self._left:
            raise PatternError("its end comes too early")
        character, self._left = self._left[0], self._left[1:]
        return character


def _one(character: str) -> str:
    """Return the grammar part of one character as JSON writes it."""
    return quoted(json.dumps(character, ensure_ascii=False)[1:-1])


def _plain_parts(low: str, high: str) -> "list[tuple[str, str]]":
    """Return the parts of a range without the characters that JSON escapes."""
    parts = []
    begin = max(ord(low), 0x20)
    for barred in (ord('"'), ord("\\"), 0x7F, 0x110000):
        if begin <= min(barred - 1, ord(high)):
            parts.append((chr(begin), chr(min(barred - 1, ord(high)))))
        begin = max(begin, barred + 1)
    return parts


def _member(low: str, high: str) -> str:
    one, other = (f"\\U{ord(each):08X}" for each in (low, high))
    return one if one == other else f"{one}-{other}"

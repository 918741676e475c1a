"""Translation of a regular expression (`pattern` of a schema, ECMA-262) into a grammar of strings.

The rule to keep: each string that the grammar takes matches the pattern; not all that match are
taken. Quotes, backslashes and control characters inside classes are left out, since they stand in
JSON as escapes. Bounds of the length are held to by how often the parts of the pattern may come.
What a grammar cannot do is refused by name: looking ahead or behind, references, word boundaries.
Standard library only.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from device.engine.waiting import quoted
from device.serve.gbnf import times

MAX_PATTERN = 500
"""Maximum number of characters of a pattern."""
MAX_GROUPS = 16
"""Maximum depth of groups."""
_MAX_TIMES = 1000

_CLASSES = {"d": "0-9", "w": "a-zA-Z0-9_", "s": "\\x20"}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}
_BARRED = '"\\\\\\x7f\\x00-\\x1f'
"""Characters of a negated class that no class takes."""
_REPEATS = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")


class PatternError(ValueError):
    """A part of a pattern that no grammar can hold an answer to."""


@dataclass(frozen=True)
class _Atom:
    """A part of a pattern that may be repeated."""

    text: str
    least: int = 1
    """Fewest characters of a string that matches it."""
    most: "int | None" = 1
    """Most characters; None for no bound."""


@dataclass(frozen=True)
class _Piece:
    """A part with the number of times that it comes."""

    atom: _Atom
    low: int = 1
    high: "int | None" = 1
    """None for no bound."""

    @property
    def least(self) -> int:
        """Fewest characters."""
        return self.atom.least * self.low

    @property
    def most(self) -> "int | None":
        """Most characters; None for no bound."""
        if self.high == 0 or self.atom.most == 0:
            return 0
        return None if self.high is None or self.atom.most is None else self.high * self.atom.most

    @property
    def text(self) -> str:
        """The grammar part."""
        return self.atom.text + ("" if self.low == self.high == 1 else times(self.low, self.high))


_ANYTHING = _Piece(_Atom("char"), 0, None)


def grammar_of(
    pattern: str,
    rule: Callable[[str], str],
    least: int = 0,
    most: "int | None" = None,
    *,
    raw: str = "",
) -> str:
    """Return the grammar part of the strings that match; `rule` names a part as a rule.

    The strings have at least `least` and at most `most` characters. They are written as in JSON, or
    `raw`, without the character that is given: their end begins with it. Raise PatternError with
    the part that is not understood.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"has more than {MAX_PATTERN} characters")

    choices = _Parser(pattern, rule, raw).whole()
    every = [_fitted(choice, least, most) for choice in choices]
    fitted = [each for each in every if each is not None]
    if not fitted:
        raise PatternError("no string of the length that is asked for")
    return f"({' | '.join(map(_joined, fitted))})"


def _joined(pieces: Sequence[_Piece]) -> str:
    return " ".join(piece.text for piece in pieces) or '""'


def _lengths(pieces: Sequence[_Piece]) -> "tuple[int, int | None]":
    """Return the fewest and the most characters of pieces one after the other."""
    most = [piece.most for piece in pieces]
    bounded = None if None in most else sum(each or 0 for each in most)
    return sum(piece.least for piece in pieces), bounded


def _fitted(pieces: Sequence[_Piece], least: int, most: "int | None") -> "list[_Piece] | None":
    """Return pieces whose strings have a length between two bounds; None if there are none.

    The bounds of repeats are narrowed for it, so the strings still match the pattern.
    """
    fitted = list(pieces)
    for at, piece in enumerate(pieces):
        missing = least - _lengths(fitted)[0]
        each = piece.atom.least
        if missing > 0 and each and piece.high != piece.low:
            more = -(-missing // each)
            low = piece.low + more if piece.high is None else min(piece.low + more, piece.high)
            fitted[at] = replace(piece, low=low)

    shortest, longest = _lengths(fitted)
    if most is not None and (longest is None or longest > most):
        free = [at for at, piece in enumerate(fitted) if piece.high != piece.low]
        for done, at in enumerate(free):
            # What is left of the room is shared among the repeats that follow.
            room = max(0, most - shortest) // (len(free) - done)
            fitted[at] = _capped(fitted[at], room)
            shortest += (fitted[at].most or 0) - fitted[at].least

    shortest, longest = _lengths(fitted)
    fits = shortest >= least and (most is None or (longest is not None and longest <= most))
    return fitted if fits else None


def _capped(piece: _Piece, room: int) -> _Piece:
    """Return a repeat that is at most `room` characters longer than its shortest text."""
    each = piece.atom.most
    if each is None:
        raise PatternError("a repeat inside a repeat, beside a greatest length")
    slack = piece.low * (each - piece.atom.least)
    high = piece.low + max(0, room - slack) // max(1, each)
    return replace(piece, high=high if piece.high is None else min(high, piece.high))


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str, rule: Callable[[str], str], raw: str = "") -> None:
        self._left = pattern
        self._raw = raw
        self._barred = _BARRED + raw
        self._rule = rule
        self._depth = 0

    def whole(self) -> "list[list[_Piece]]":
        """Return the choices of the whole pattern; raise PatternError."""
        choices = self._choices()
        if self._left:
            raise PatternError(f"`{self._left[:20]}`")
        return choices

    def _choices(self) -> "list[list[_Piece]]":
        choices = [self._sequence()]
        while self._takes("|"):
            choices.append(self._sequence())
        return choices

    def _sequence(self) -> "list[_Piece]":
        """Return the pieces of one choice; outside of groups it may begin and end anywhere."""
        outermost = not self._depth
        pieces = [_ANYTHING] if outermost and not self._takes("^") else []
        ended = False
        while self._left and self._left[0] not in "|)":
            if outermost and self._left[0] == "$" and self._left[1:2] in ("", "|"):
                ended = self._takes("$")
                break
            pieces.append(self._piece())
        return [*pieces, _ANYTHING] if outermost and not ended else pieces

    def _piece(self) -> _Piece:
        atom = self._atom()
        if isinstance(atom, str):
            atom = _Atom(atom)
        return _Piece(atom, *self._times())

    def _times(self) -> "tuple[int, int | None]":
        """Return how often the part before may come."""
        found = _REPEATS.match(self._left)
        if found:
            self._left = self._left[found.end() :]
            least = int(found[1])
            most = least if not found[2] else int(found[3]) if found[3] else None
            if max(least, most or 0) > _MAX_TIMES or (most is not None and most < least):
                raise PatternError(f"`{found[0]}`")
            repeats: "tuple[int, int | None]" = (least, most)
        else:
            sign = next((sign for sign in "*+?" if self._takes(sign)), "")
            repeats = {"*": (0, None), "+": (1, None), "?": (0, 1), "": (1, 1)}[sign]
            if not sign:
                return repeats
        self._takes("?")  # lazy or greedy, the same strings match
        return repeats

    def _atom(self) -> "str | _Atom":
        if self._takes("("):
            return self._group()
        if self._takes("["):
            return self._class()
        if self._takes("."):
            return f"[^{self._barred}]"
        if self._takes("\\"):
            return self._escaped()
        character = self._next()
        if character in "^$*+?{}":
            raise PatternError(f"`{character}` at this place")
        return self._one(character)

    def _group(self) -> _Atom:
        name = re.match(r"\?(:|P?<[A-Za-z_]\w*>)", self._left)
        if name:
            self._left = self._left[name.end() :]
        elif self._left.startswith("?"):
            raise PatternError(f"`({self._left[:2]}`")

        self._depth += 1
        if self._depth > MAX_GROUPS:
            raise PatternError(f"more than {MAX_GROUPS} groups in each other")
        choices = self._choices()
        self._depth -= 1
        if not self._takes(")"):
            raise PatternError("a group without its end")

        lengths = [_lengths(choice) for choice in choices]
        most = [longest for _, longest in lengths]
        return _Atom(
            self._rule(" | ".join(map(_joined, choices))),
            min(shortest for shortest, _ in lengths),
            None if None in most else max(each or 0 for each in most),
        )

    def _escaped(self) -> str:
        character = self._next()
        if character in _CLASSES:
            return f"[{_CLASSES[character]}]"
        if character.lower() in _CLASSES:
            return f"[^{_CLASSES[character.lower()]}{self._barred}]"
        return self._one(self._literal(character))

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
            return f"[^{inside}{self._barred}]"
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
        return "".join(_member(*part) for part in _plain_parts(low, high, self._raw))

    def _one(self, character: str) -> str:
        """Return the grammar part of one character."""
        if not self._raw:
            return quoted(json.dumps(character, ensure_ascii=False)[1:-1])
        if character == self._raw:
            raise PatternError(f"`{character}` begins the end of a text in this model's markup")
        return quoted(character)

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


def _plain_parts(low: str, high: str, raw: str) -> "list[tuple[str, str]]":
    """Return the parts of a range without the characters that JSON escapes, and without `raw`."""
    parts = []
    begin = max(ord(low), 0x20)
    for barred in sorted((ord('"'), ord("\\"), 0x7F, 0x110000, *map(ord, raw))):
        if begin <= min(barred - 1, ord(high)):
            parts.append((chr(begin), chr(min(barred - 1, ord(high)))))
        begin = max(begin, barred + 1)
    return parts


def _member(low: str, high: str) -> str:
    one, other = (f"\\U{ord(each):08X}" for each in (low, high))
    return one if one == other else f"{one}-{other}"

"""Arguments as Google's FunctionGemma and Gemma 4 write them: braces, bare keys, quotes of tokens.

    {city:<escape>Paris<escape>,days:3,exact:true}

A text stands between two quotes, raw: nothing in it is escaped. Keys come sorted, as the templates'
`dictsort` sorts them. Clients read JSON, so such arguments become JSON while they come. Standard
library only.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

KEY = "[a-zA-Z0-9_.$-]"
"""Characters of a key, as a class of a regular expression or a grammar: it stands there bare."""
_BARE = re.compile(f"{KEY}+")
_DELIMITERS = "{}[],:"
_PYTHON = {"None": "null", "True": "true", "False": "false"}
"""Words that a template writes for values that Jinja spells as Python does."""


def is_bare(key: str) -> bool:
    """Say whether a key can be written."""
    return bool(_BARE.fullmatch(key))


def in_order(properties: Mapping[str, Any]) -> "dict[str, Any]":
    """Return properties in the order of Jinja's `dictsort`."""
    return dict(sorted(properties.items(), key=lambda pair: pair[0].lower()))


def written(value: Any, quote: str) -> str:
    """Return a value as the templates write it."""
    if isinstance(value, str):
        return f"{quote}{value}{quote}"
    if isinstance(value, Mapping):
        pairs = in_order(value).items()
        return "{" + ",".join(f"{key}:{written(each, quote)}" for key, each in pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(written(each, quote) for each in value) + "]"
    return json.dumps(value)


class ToJson:
    """Turns arguments into JSON while they come."""

    def __init__(self, quote: str) -> None:
        self._quote = quote
        self._open: "list[str]" = []
        """Braces and brackets that are open, the innermost last."""
        self._word = ""
        """Bare word that came so far: a key, a number, `true`."""
        self._in_text = False
        self._is_key = False
        self.is_over = False
        """Whether the outermost brace was closed."""

    def feed(self, text: str) -> "tuple[str, str]":
        """Return the JSON that a text completes, and the rest of it, to be fed again with more."""
        parts: "list[str]" = []
        while text and not self.is_over:
            part, rest = self._in(text) if self._in_text else self._next(text)
            parts.append(part)
            if rest == text:
                break
            text = rest
        return "".join(parts), text

    def _in(self, text: str) -> "tuple[str, str]":
        """Return what came of a text between quotes, as JSON writes it."""
        inside, found, rest = text.partition(self._quote)
        if found:
            self._in_text = False
            return f'{_escaped(inside)}"', rest
        longest = range(min(len(text), len(self._quote) - 1), 0, -1)
        keep = next((n for n in longest if text.endswith(self._quote[:n])), 0)
        return _escaped(text[: len(text) - keep]), text[len(text) - keep :]

    def _next(self, text: str) -> "tuple[str, str]":
        """Return the JSON of the next sign outside of texts."""
        if text.startswith(self._quote):
            self._in_text = True
            return '"', text[len(self._quote) :]
        if self._quote.startswith(text):
            return "", text
        sign, rest = text[0], text[1:]
        if sign not in _DELIMITERS:
            self._word += sign
            return "", rest
        return "".join(self._delimiter(sign)), rest

    def _delimiter(self, sign: str) -> Iterator[str]:
        """Yield the word before a delimiter, and the delimiter."""
        word, self._word = self._word.strip(), ""
        if word:
            yield json.dumps(word, ensure_ascii=False) if self._is_key else _bare_value(word)
        if sign in "{[":
            self._open.append(sign)
        elif sign in "}]" and self._open:
            self._open.pop()
            self.is_over = not self._open
        self._is_key = bool(self._open) and self._open[-1] == "{" and sign in "{,"
        yield f"{sign} " if sign in ",:" else sign


def _escaped(text: str) -> str:
    """Return a text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _bare_value(word: str) -> str:
    """Return a bare word as JSON: a number, true, false, null; any other word is a text."""
    word = _PYTHON.get(word, word)
    try:
        json.loads(word)
    except ValueError:
        return json.dumps(word, ensure_ascii=False)
    return word

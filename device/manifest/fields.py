"""What each field of a manifest may be: its kind and its bounds, checked before anything is made of it.

The rule: whatever stands in a manifest, the answer is a Manifest or a ManifestError; nothing behind this check
asks for a type again.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_NUMBER = 2**53 - 1
"""The largest whole number that every reader of JSON keeps."""
MAX_CONTEXT = 1 << 24
MAX_TOKEN = 2**31 - 1
MAX_SLOTS = 16
PARSE, ESCAPE = "parse", "escape"
_TEXT = 1 << 20

Rule = Callable[[Any], bool]
Rules = Mapping[str, Rule]


def number(least: int, most: int) -> Rule:
    """Return the rule of a whole number; `true` is none."""
    return lambda value: type(value) is int and least <= value <= most


def text(most: int = 256, pattern: str = "") -> Rule:
    """Return the rule of a text of at most so many characters, which are all of a pattern where there is one."""
    return lambda value: (
        isinstance(value, str)
        and len(value) <= most
        and (not pattern or re.fullmatch(pattern, value) is not None)
    )


def each(rule: Rule, most: int = 1 << 20) -> Rule:
    """Return the rule of a list of at most so many."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(rule, value))


def values(rule: Rule) -> Rule:
    """Return the rule of an object whose values are all of a kind."""
    return lambda value: isinstance(value, dict) and all(map(rule, value.values()))


def _name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 128


def _engine(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"name", "oldest"}
        and all(map(text(64), value.values()))
    )


def _file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("path"), str)
        and isinstance(value.get("sha256", ""), str)
        and number(0, MAX_NUMBER)(value.get("size"))
    )


def _tensor(value: Any) -> bool:
    return isinstance(value, dict) and text(1024)(value.get("name"))


def _anything(value: Any) -> bool:
    return isinstance(value, dict)


BUNDLE: Rules = {
    "name": _name,
    "version": text(),
    "counter": number(0, MAX_NUMBER),
    "target": text(),
    "context": number(1, MAX_CONTEXT),
    "engine": _engine,
    "model": text(1024),
    "files": each(_file),
    "tensors": each(_tensor),
    "kv_type": text(16),
    "stop_ids": each(number(0, MAX_TOKEN)),
    "system": lambda value: isinstance(value, str),
    "turns": lambda value: True,  # its own check says more (manifest._turns)
    "max_tokens": number(1, MAX_TOKEN),
    "slots": number(1, MAX_SLOTS),
    "special_tokens": lambda value: value in (PARSE, ESCAPE),
    "provenance": _anything,
    "licences": each(text(_TEXT)),
    "gate": _anything,
    "arithmetic": text(_TEXT),
    "adapter": text(1024),
    "needs": values(number(0, MAX_NUMBER)),
    "schema": number(0, MAX_NUMBER),
}
RUNTIME: Rules = {
    "machine": text(64),
    "features": each(text(64)),
    "glibc": text(32, r"\d{1,4}(\.\d{1,4}){0,3}"),
    "python": lambda value: each(number(0, 999), 2)(value) and len(value) == 2,
    "engines": values(text()),
    "files": each(_file),
    "profile": text(),
    "python_tag": text(16, r"(cp\d+)?"),
    "dispatches": lambda value: isinstance(value, bool),
    "schema": number(0, MAX_NUMBER),
}


def first_wrong(fields: Mapping[str, Any], rules: Rules, required: "frozenset[str]") -> str:
    """Return what is wrong with the fields of a manifest, "" if nothing is."""
    for name, rule in rules.items():
        if name not in fields:
            if name in required:
                return f"`{name}` is missing"
        elif not rule(fields[name]):
            return f"`{name}` is of the wrong kind or out of bounds"
    return ""

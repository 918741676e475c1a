"""Rules for the fields of a manifest: kind, range and error code, declared beside each field.

A dataclass writes `counter: Annotated[int, number(0, MAX_NUMBER)]`. `check_fields` reads the rules
from there and applies them to JSON before anything else is made of it. The rule to keep: whatever a
manifest contains, the answer is a Manifest or a ManifestError. Nothing behind this check asks for a
type again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from typing import Any

MAX_NUMBER = 2**53 - 1
"""The largest whole number that every reader of JSON keeps."""
MAX_CONTEXT = 1 << 24
MAX_TOKEN = 2**31 - 1
MAX_SLOTS = 16
MAX_CHARS = 1 << 20
MAX_TAKE = 8
MAX_FEEDBACK_MB = 256
MAX_SOURCES = 1 << 14
"""Sources of a release, at most."""
MAX_WORDS = 2000
"""Characters of one text in a ledger."""
PARSE = "parse"
ESCAPE = "escape"
QUOTE = "quote"
WORDED = "model"
ANSWERS = {QUOTE: "quoted as they stand", WORDED: "worded by the model"}
"""Who words an answer from the documents (the best passage itself, or the model that reads it) →
what is then said of the passages."""

Test = Callable[[Any], bool]


class ManifestError(ValueError):
    """A manifest, a name or a digest that breaks the rules; `code` is stable (codes.py)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Rule:
    """What a value must be, and the error where it is not."""

    holds: Test
    code: str = "bad_manifest"
    message: str = "{file}: `{field}` is of the wrong kind or out of bounds"
    """Filled in with `file`, `field` and `value`."""


def number(least: int, most: int) -> Rule:
    """Return the rule of a whole number; `true` is not one."""
    return Rule(lambda value: type(value) is int and least <= value <= most)


def text(most: int = 256, pattern: str = "") -> Rule:
    """Return the rule of a text of at most `most` characters that matches `pattern`, if given."""
    return Rule(
        lambda value: (
            isinstance(value, str)
            and len(value) <= most
            and (not pattern or re.fullmatch(pattern, value) is not None)
        )
    )


def one_of(*choices: str) -> Rule:
    """Return the rule of a text that is one of these."""
    return Rule(lambda value: value in choices)


def is_a(kind: type) -> Rule:
    """Return the rule of a value of a JSON type, whatever it contains."""
    return Rule(lambda value: isinstance(value, kind))


def each(rule: Rule, most: int = 1 << 20, least: int = 0) -> Rule:
    """Return the rule of a list of `least` to `most` values that follow `rule`."""
    return Rule(
        lambda value: (
            isinstance(value, list) and least <= len(value) <= most and all(map(rule.holds, value))
        )
    )


def values(rule: Rule) -> Rule:
    """Return the rule of an object whose values follow `rule`."""
    return Rule(lambda value: isinstance(value, dict) and all(map(rule.holds, value.values())))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 128


def _is_engine(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"name", "oldest"}
        and all(map(text(64).holds, value.values()))
    )


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("path"), str)
        and isinstance(value.get("sha256", ""), str)
        and number(0, MAX_NUMBER).holds(value.get("size"))
    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and text(1024).holds(value.get("name"))


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and isinstance(turn["content"], str)
        for turn in value
    )


def _take_turns(value: "list[dict[str, Any]]") -> bool:
    roles = [turn["role"] for turn in value]
    return roles == ["user", "assistant"] * (len(value) // 2)


def _is_ledger(value: Any) -> bool:
    """Return whether a value is an account of sources; fields of a newer one are passed over."""
    return (
        isinstance(value, dict)
        and each(Rule(_is_source), MAX_SOURCES).holds(value.get("sources", []))
        and all(_COUNTS.holds(value.get(name, {})) for name in ("found", "replaced"))
        and each(text(MAX_WORDS), MAX_SOURCES).holds(value.get("done", []))
        and _are_terms(value.get("terms", {}))
    )


def _is_source(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(text(MAX_WORDS).holds(value.get(name, "")) for name in _SOURCE_TEXTS)
        and number(0, MAX_NUMBER).holds(value.get("rows", 0))
    )


def _are_terms(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and text(MAX_CHARS).holds(value.get("result", ""))
        and all(
            each(text(MAX_CHARS), MAX_SOURCES).holds(value.get(name, []))
            for name in ("conditions", "unknown")
        )
    )


_SOURCE_TEXTS = (
    *("role", "use", "name", "sha256", "licence"),
    *("said_by", "subject", "url", "attribution", "note"),
)
_COUNTS = values(number(0, MAX_NUMBER))
NAME = Rule(_is_name)
ENGINE = Rule(_is_engine)
FILES = each(Rule(_is_file))
LEDGER = Rule(_is_ledger)
TENSORS = each(Rule(_is_tensor))
MESSAGES = Rule(
    _are_messages, message="`turns` must be a list of messages with `role` and `content`"
)
ALTERNATING = Rule(
    _take_turns,
    message="`turns` must be questions of `user`, each followed by its answer of `assistant`",
)


def is_schema(known: int) -> Rule:
    """Return the rule of a schema number that this program knows."""
    return Rule(
        lambda value: bool(value == known),
        code="newer_schema",
        message=f"{{file}} has schema {{value}}, this runtime knows {known}",
    )


def rules_of(kind: type) -> "dict[str, tuple[Rule, ...]]":
    """Return the rules of a dataclass's fields, from their `Annotated` types; `extra` has none."""
    return {
        field.name: tuple(rule for rule in field.type.__metadata__ if isinstance(rule, Rule))
        for field in dataclass_fields(kind)
        if hasattr(field.type, "__metadata__")
    }


def check_fields(kind: type, fields: "Mapping[str, Any]", file: str) -> None:
    """Raise ManifestError with the code of the first rule that a field breaks, `schema` first.

    `fields` is the object in `file`, for a dataclass `kind`. A field without a default must be
    there, and `schema` too.
    """
    rules = rules_of(kind)
    required = _required(kind)

    # A newer schema may give a field another kind: its number is looked at before all other fields.
    for name in sorted(rules, key=lambda name: name != "schema"):
        if name not in fields:
            if name in required:
                raise ManifestError("bad_manifest", f"{file}: `{name}` is missing")
            continue
        for rule in rules[name]:
            if not rule.holds(fields[name]):
                message = rule.message.format(file=file, field=name, value=fields[name])
                raise ManifestError(rule.code, message)


def _required(kind: type) -> "frozenset[str]":
    """Return the names of a dataclass's fields that have no default, and `schema`."""
    return frozenset(
        field.name
        for field in dataclass_fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    ) | {"schema"}

"""What the readers of all requests do alike with JSON fields. Standard library only."""

from collections.abc import Iterable, Mapping
from typing import Any


def not_null(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null: clients send null for a field that they do not use."""
    return {name: value for name, value in fields.items() if value is not None}


def same(value: Any, other: Any) -> bool:
    """Compare as JSON does: `true` is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def is_one_of(value: Any, others: Iterable[Any]) -> bool:
    """Return whether a value is the same as one of others, as JSON compares."""
    return any(same(value, each) for each in others)

"""The moment at which a prompt is rendered where it is learned or compared.

A chat template may read the clock (`strftime_now`, as Llama 3's do to name today's date). The service renders with the board's own
clock; what is trained, measured and checked is rendered at a moment that travels with it, so that no day, zone or clock can change
it.
"""

from datetime import datetime

RENDERED_AT = "2026-01-01T12:00:00"
"""Moment of training, gate and new goldens: ISO 8601, without a zone. One for all, so that equal inputs give equal bytes."""


def moment(text: str) -> datetime:
    """Return the moment that a text names; raise ValueError for one that names none, or names a zone."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is not None:
        raise ValueError(f"`{text}` names a time zone")
    return parsed

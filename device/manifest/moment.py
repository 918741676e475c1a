"""The time at which a prompt is rendered during training, measuring and checking.

A chat template may read the clock (`strftime_now`, as Llama 3's do to name today's date). The
service renders with the board's own clock. Training, the gate and the check render at a time that
travels with the bundle, so that no day, zone or clock can change their results.
"""

from datetime import datetime

RENDERED_AT = "2026-01-01T12:00:00"
"""Time of training, gate and new goldens: ISO 8601, without a zone."""
# One time for all, so that equal inputs give equal bytes.


def moment(text: str) -> datetime:
    """Return the time that a text names; raise ValueError if it names none, or names a zone."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is not None:
        raise ValueError(f"`{text}` names a time zone")
    return parsed

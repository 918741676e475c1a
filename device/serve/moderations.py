"""/v1/moderations: OpenAI's endpoint that says what a text asks for, answered by the guard.

Categories that the guard was not trained on are always false, and listed as such: their
`category_applied_input_types` are empty. `attack` is a category of ours beside OpenAI's thirteen.
Standard library only.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from device.engine.base import FieldError
from device.manifest.guard import ATTACK, CATEGORIES, Guard, Verdict
from device.serve.fields import not_null

PATH = "/v1/moderations"
MAX_TEXTS = 64
MAX_CHARS = 100_000
"""Characters of all texts of a request."""
# They take 0.15 s of an x86 core as words, and 1.5 s as the worst that was tried.
_IGNORED = ("model", "user", "metadata", "safety_identifier")


def read_moderation(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of a request; raise FieldError."""
    fields = not_null(given)
    if unknown := set(fields) - {"input", *_IGNORED}:
        raise FieldError(min(unknown)[:80], "is not a field of this request", code="unknown_field")

    value = fields.get("input")
    texts = (value,) if isinstance(value, str) else _listed(value)
    if len(texts) > MAX_TEXTS or sum(map(len, texts)) > MAX_CHARS:
        problem = f"at most {MAX_TEXTS} texts with {MAX_CHARS:,} characters together"
        raise FieldError("input", problem)
    return texts


def _listed(value: Any) -> tuple[str, ...]:
    """Return the texts of a list: of texts, or of parts that make one text."""
    if not isinstance(value, list) or not value:
        raise FieldError("input", "must be a text, or a list of texts")
    if all(isinstance(each, str) for each in value):
        return tuple(value)
    return ("\n".join(_part(each) for each in value),)


def _part(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "image_url":
        raise FieldError("input", "images are not looked at here", code="unsupported")
    text = value.get("text") if isinstance(value, dict) else None
    if kind != "text" or not isinstance(text, str):
        raise FieldError("input", "must be a text, or a list of texts")
    return text


def moderation(model: str, guard: Guard, verdicts: "list[Verdict]") -> dict[str, Any]:
    """Return verdicts in OpenAI's shape."""
    return {
        "id": f"modr-{secrets.token_hex(12)}",
        "model": model,
        "results": [_result(guard, verdict) for verdict in verdicts],
    }


def _result(guard: Guard, verdict: Verdict) -> dict[str, Any]:
    named = verdict.categories
    shares = {name: round(verdict.probability * share, 6) for name, share in verdict.kinds.items()}
    return {
        "flagged": verdict.flagged,
        "categories": {name: name in named for name in CATEGORIES},
        "category_scores": {name: shares.get(name, 0.0) for name in CATEGORIES},
        "category_applied_input_types": {
            name: ["text"] if name in guard.kinds else [] for name in CATEGORIES
        },
        ATTACK: ATTACK in named,
    }

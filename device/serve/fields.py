"""What the readers of all requests do alike with JSON fields. Standard library only."""

from collections.abc import Iterable, Mapping
from typing import Any

from device.engine.base import FieldError, whole

NEUTRAL_SAMPLERS: dict[str, tuple[Any, ...]] = {
    "mirostat": (0,),
    "penalize_newline": (True,),
    "repeat_last_n": (-1, 64),
    "tfs_z": (1,),
    "typical_p": (1,),
}
"""Samplers of Ollama and llama-server that are not here → their values without effect."""
LOADING = (
    *("num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "numa"),
    *("low_vram", "f16_kv", "use_mmap", "use_mlock", "mirostat_tau", "mirostat_eta"),
)
"""Fields that change no answer here: a bundle and its board say how a model is loaded."""
WITHOUT_EFFECT = ("keep_alive", "num_ctx", *LOADING)
"""Fields of Ollama that any request may have: they are checked and change nothing."""


def check_without_effect(name: str, value: Any, place: str) -> None:
    """Raise FieldError with this place if a value is of the wrong kind for a field of Ollama.

    The bundle's context holds, as the model's own holds with Ollama: Home Assistant asks for 8,192
    by default, whatever the model has. A question that has no room is refused by itself.
    """
    if name == "num_ctx":
        value = whole(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FieldError(place, "must be a whole number from 1 on")
    elif name == "keep_alive":
        if not isinstance(value, (int, float, str)) or isinstance(value, bool):
            raise FieldError(place, "must be a number of seconds, or a text such as `5m`")
    elif not isinstance(value, (bool, int, float)):
        raise FieldError(place, "must be a number, or true or false")


def not_null(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null: clients send null for a field that they do not use."""
    return {name: value for name, value in fields.items() if value is not None}


def same(value: Any, other: Any) -> bool:
    """Compare as JSON does: `true` is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def is_one_of(value: Any, others: Iterable[Any]) -> bool:
    """Return whether a value is the same as one of others, as JSON compares."""
    return any(same(value, each) for each in others)

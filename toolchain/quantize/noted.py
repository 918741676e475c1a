"""What formats without a header of metadata say of a model: a note of ours, in JSON."""

from typing import Any

from toolchain.errors import ConfigError
from toolchain.models.architecture import Model
from toolchain.quantize.companions import Ends
from toolchain.quantize.gguf.metadata import ModelLabel


def note_of(model: Model, label: ModelLabel, scheme: str, ends: Ends) -> dict[str, Any]:
    """Return the note of a model file."""
    return {
        "architecture": model.family.name,
        "scheme": scheme,
        "parameters": model.parameters,
        "context_train": model.sizes["context"],
        "bos_token": ends.bos,
        "eos_token": ends.eos,
        "stop_ids": list(ends.stop_ids),
        "name": label.name,
        "version": label.version,
        "licence": label.licence,
        "base_model": label.base_model,
        "base_weights": label.base_weights,
    }


def base_of(note: dict[str, Any]) -> str:
    """Return the base that a note names, with what its weights were."""
    named = str(note.get("base_model", ""))
    weights = str(note.get("base_weights", ""))
    return f"{named} ({weights})" if named and weights else named


def refuse_longer(context: int, model: Model) -> None:
    """Raise ConfigError for more context than the model was trained for."""
    longest = model.sizes["context"]
    if context > longest:
        raise ConfigError(
            f"package: context: the model has {longest} tokens of context, `{context}` asked"
        )

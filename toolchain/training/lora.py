"""LoRA (arXiv:2106.09685) through peft: the frozen model with matrices that learn."""

import warnings
from collections.abc import Sequence
from typing import Any

from toolchain.errors import ConfigError
from toolchain.recipe import LoraSpec


def with_lora(model: Any, spec: LoraSpec, seed: int, *, stage: str) -> Any:
    """Return the frozen model with LoRA matrices that learn.

    Raise ConfigError, which names the `stage`, where no module has a name that the spec gives.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=_targets(model, spec.target_modules),
        layers_to_transform=_last_layers(model, spec.layers, stage),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            # peft 0.21 calls a property of transformers 5 by its old name
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
            return get_peft_model(model, config)
    except ValueError as error:
        linear = {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        hint = f"this model has {', '.join(sorted(linear - {'lm_head'}))}"
        raise ConfigError(
            f"{stage}: target_modules: none of {', '.join(spec.target_modules)} is in the model",
            hint=hint,
        ) from error


def _targets(model: Any, names: Sequence[str]) -> list[str]:
    """Return the names that end the name of a module; all of them if none does, for peft to refuse.

    The default has names of several families; an adapter says what it has.
    """
    modules = [f".{name}" for name, _ in model.named_modules()]
    found = [name for name in names if any(each.endswith(f".{name}") for each in modules)]
    return found or list(names)


def _last_layers(model: Any, count: int, stage: str) -> list[int] | None:
    """Return the numbers of the last layers; None for all."""
    if not count:
        return None
    layers = model.config.get_text_config().num_hidden_layers
    if count > layers:
        raise ConfigError(f"{stage}: layers: `{count}`, but the model has {layers}")
    return list(range(layers - count, layers))

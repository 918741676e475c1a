"""A small random LoRA adapter for a model folder, in the form that peft writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_adapter(
    folder: Path,
    base: Path,
    *,
    modules: Sequence[str] = ATTENTION_AND_MLP,
    r: int = 4,
    alpha: float = 8.0,
    **settings: Any,
) -> Path:
    """Write an adapter that changes `modules` of every layer of `base`; `settings` go into
    adapter_config.json.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file

    draw, pairs = np.random.default_rng(11), {}
    with safe_open(base / "model.safetensors", "pt") as found:
        for name in found.keys():  # noqa: SIM118 - not a dict
            if name.removesuffix(".weight").rpartition(".")[2] in modules:
                rows, columns = found.get_slice(name).get_shape()
                module = f"base_model.model.{name.removesuffix('.weight')}"
                pairs[f"{module}.lora_A.weight"] = draw.normal(0, 0.05, (r, columns)).astype(
                    np.float32
                )
                pairs[f"{module}.lora_B.weight"] = draw.normal(0, 0.05, (rows, r)).astype(
                    np.float32
                )
    folder.mkdir(parents=True)
    save_file(pairs, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": alpha,
        "target_modules": list(modules),
        "base_model_name_or_path": "tiny/base",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder

"""`genai_config.json`: what onnxruntime-genai must know of the folder to open it.

Its runtime is a referee and a second door to the same files; boards do not run it.
"""

import json
from pathlib import Path

from toolchain.models.architecture import Model
from toolchain.quantize.companions import Ends

GENAI_CONFIG = "genai_config.json"
_INPUTS = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "past_key_names": "past_key_values.%d.key",
    "past_value_names": "past_key_values.%d.value",
}
_OUTPUTS = {
    "logits": "logits",
    "present_key_names": "present.%d.key",
    "present_value_names": "present.%d.value",
}
_TYPES = {"gemma3": "gemma3_text"}
"""Family → name of its architecture in onnxruntime-genai, where it differs."""


def write_genai_config(file: Path, model: Model, context: int, ends: Ends) -> None:
    """Write the configuration of a model file beside it."""
    sizes = model.sizes
    config = {
        "model": {
            **({} if ends.bos_id is None else {"bos_token_id": ends.bos_id}),
            "context_length": context,
            "decoder": {
                "session_options": {
                    "log_id": "onnxruntime-genai",
                    # It would warn of the input with a default.
                    "log_severity_level": 3,
                    "provider_options": [],
                },
                "filename": file.name,
                "head_size": sizes["head_dim"],
                "hidden_size": sizes["hidden"],
                "inputs": _INPUTS,
                "outputs": _OUTPUTS,
                "num_attention_heads": sizes["heads"],
                "num_hidden_layers": sizes["layers"],
                "num_key_value_heads": sizes["kv_heads"],
            },
            "eos_token_id": list(ends.stop_ids),
            "pad_token_id": ends.stop_ids[0],
            "type": _TYPES.get(model.family.name, model.family.name),
            "vocab_size": sizes["vocab"],
        },
        "search": {
            "do_sample": False,
            "max_length": context,
            "num_beams": 1,
            "past_present_share_buffer": True,
        },
    }
    content = json.dumps(config, indent=1) + "\n"
    file.with_name(GENAI_CONFIG).write_text(content, encoding="utf-8")

"""A tiny random Gemma 3 that sees, of true structure: what published checkpoints of it look like.

`tiny_gemma3(folder)` writes a SigLIP tower, a projector and a Gemma 3, a SentencePiece-style
tokenizer in which line ends around a picture join with those of the template, and the processor's
settings. The same arguments give the same bytes.
"""

import json
from pathlib import Path
from typing import Any

from tests.fakes.families import sentence_piece

TURNS = ("<start_of_turn>", "<end_of_turn>")
PICTURE = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set said = messages[0].content %}"
    "{% set first = (said if said is string else said[0].text) + '\n\n' %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
    "{{ first if loop.first else '' }}"
    "{% if turn.content is string %}{{ turn.content | trim }}{% else %}"
    "{% for part in turn.content %}{% if part.type == 'image' %}<start_of_image>"
    "{% else %}{{ part.text | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""What Gemma 3's own does: texts are trimmed, a system message stands in the first turn."""
SIDE = 64
POSITIONS = 16
"""Positions that a picture takes: 8 × 8 patches, the mean of four of them to a position."""
WINDOW = 8
"""Tokens that its layers with a window look back: fewer than a picture has."""


_TOWER = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
    "vision_use_head": False,
}


def tiny_gemma3(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 7,
    seed: int = 0,
    dtype: str = "float32",
    published: bool = True,
    positions: int = POSITIONS,
    vision: dict[str, Any] | None = None,
    **text: Any,
) -> Path:
    """Write a Gemma 3 that sees, with random weights, to `folder` and return it.

    `published` names its tensors as the published checkpoints do; otherwise they are as
    `save_pretrained` leaves them. `text` and `vision` override fields of the configurations.
    """
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = _tokenizer(folder)
    tower = {**_TOWER, **(vision or {})}
    config = Gemma3Config(
        text_config=_language(ids, hidden, layers) | text,
        vision_config=tower,
        mm_tokens_per_image=positions,
        image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
    )
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config)
    _spread(model)
    model.generation_config.eos_token_id = [ids["</s>"], ids["<end_of_turn>"]]
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if published:
        _publish(folder)
    _processor(folder, tower["image_size"], positions)
    return folder


def _language(ids: dict[str, int], hidden: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(ids) + 8,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": WINDOW,
        "max_position_embeddings": 2048,
        "initializer_range": 0.08,
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["<end_of_turn>"],
        "pad_token_id": ids["<unk>"],
    }


def _spread(model: Any) -> None:
    """Give norms, biases, embeddings and the projector values of a trained one's size."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gemma = "language_model" in name or "soft_emb_norm" in name
            if parameter.ndim == 1:
                is_one = name.endswith("weight") and not is_gemma
                parameter.normal_(1.0 if is_one else 0.0, 0.2)
            elif "projection_weight" in name:
                parameter.normal_(0.0, 0.3)
            elif "vision_tower" in name and parameter.ndim > 1:
                parameter.normal_(0.0, 0.2 if "embedding" in name else 0.08)


def _publish(folder: Path) -> None:
    """Name the tower's tensors as the published checkpoints do."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {
        name.replace("vision_tower.", "vision_tower.vision_model."): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


def _tokenizer(folder: Path) -> dict[str, int]:
    """Write the tokenizer and its template; return the id of each token."""
    sentence_piece(folder, style="gemma", lines=("\n\n", "\n\n\n"), more=(*TURNS, *PICTURE))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    begin, end, place = PICTURE
    settings |= {
        "pad_token": "<unk>",
        "eos_token": "<end_of_turn>",
        "processor_class": "Gemma3Processor",
        "extra_special_tokens": {"boi_token": begin, "eoi_token": end, "image_token": place},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    made = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known: dict[str, int] = made["model"]["vocab"]
    return known | {each["content"]: each["id"] for each in made["added_tokens"]}


def _processor(folder: Path, side: int, positions: int) -> None:
    """Write the settings of pictures as the published processors have them."""
    settings = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_pan_and_scan": None,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": positions,
        "image_std": [0.5, 0.5, 0.5],
        "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None,
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    kept = {"image_seq_length": positions, "processor_class": "Gemma3Processor"}
    (folder / "processor_config.json").write_text(json.dumps(kept), encoding="utf-8")

"""Families of models that see, as data: names of their parts, and how a prompt shows a picture.

Names and defaults are those of transformers; `projector` is llama.cpp's name of the kind
(tools/mtmd/clip-impl.h).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from toolchain.models.names import HEAD, PICTURE_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One family of models that see."""

    name: str
    """What people call it."""
    language: str
    """Architecture of the language model alone: a key of FAMILIES."""
    width: int
    """Default of the language model's `hidden_size`."""
    inside: str
    """Where transformers keeps the language model's modules in the whole model."""
    projector: str
    """`clip.projector_type`."""
    marker: str
    """Token by which the chat template shows a picture."""
    before: str
    """Text before a picture's positions, with the marker or what replaces it."""
    place: str
    """Token of one position."""
    behind: str
    """Text behind a picture's positions."""
    tower: str
    """Prefix of the vision tower's tensors in a published checkpoint."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the vision tower's configuration."""
    is_mutual: bool = False
    """Whether positions of a picture see each other, those behind them too."""


_TOWER = {"num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_FAKE, _WHOLE, _IMAGE = PICTURE_TOKENS
IDEFICS3 = Sight(
    name="SmolVLM",
    language="LlamaForCausalLM",
    width=4096,
    inside="model.text_model.",
    projector="idefics3",
    marker=_IMAGE,
    before=f"{_FAKE}{_WHOLE}",
    place=_IMAGE,
    behind=_FAKE,
    tower="model.vision_model.",
    defaults={
        **_TOWER,
        "hidden_size": 1152,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 32,
    },
)
GEMMA3 = Sight(
    name="Gemma 3",
    language="Gemma3ForCausalLM",
    width=2304,
    inside="model.language_model.",
    projector="gemma3",
    marker="<start_of_image>",
    before="\n\n<start_of_image>",
    place="<image_soft_token>",
    behind="<end_of_image>\n\n",
    tower="vision_tower.vision_model.",
    defaults={
        **_TOWER,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    is_mutual=True,
)
SIGHTED = {
    "SmolVLMForConditionalGeneration": IDEFICS3,
    "Idefics3ForConditionalGeneration": IDEFICS3,
    "Gemma3ForConditionalGeneration": GEMMA3,
}
"""Families by the architecture in config.json."""
_LANGUAGE = (IDEFICS3.inside, GEMMA3.inside, "language_model.model.")
"""Prefixes of the language model's tensors: transformers' own, and that of published Gemma 3."""
_HEADS = (HEAD, f"language_model.{HEAD}")
_CONNECTORS = ("model.connector.", "multi_modal_projector.")


def language_name(tensor: str) -> str:
    """Return the name of a tensor of a model that sees in its language model; empty if none."""
    if tensor in _HEADS:
        return HEAD
    prefix = next((each for each in _LANGUAGE if tensor.startswith(each)), "")
    return f"model.{tensor.removeprefix(prefix)}" if prefix else ""


def plain_name(tensor: str) -> str:
    """Return the name of a tensor in its language model; that of any other as it is."""
    return language_name(tensor) or tensor


def eyes_name(tensor: str) -> str:
    """Return the published name of a tensor of tower or connector; empty for any other.

    The head of a SigLIP tower belongs to neither: transformers does not ask it.
    """
    if tensor.startswith((IDEFICS3.tower, *_CONNECTORS)):
        return tensor
    bare = tensor.removeprefix("model.")
    if bare.startswith(_CONNECTORS):
        return bare
    if not bare.startswith("vision_tower."):
        return ""
    own = bare.removeprefix("vision_tower.").removeprefix("vision_model.")
    return "" if own.startswith("head.") else f"{GEMMA3.tower}{own}"


@lru_cache(maxsize=8)
def sight_of_tokenizer(tokenizer: Any) -> Sight | None:
    """Return the family whose tokens of a picture a transformers tokenizer has; None if none."""
    known = tokenizer.get_vocab()
    return next((each for each in (IDEFICS3, GEMMA3) if each.place in known), None)

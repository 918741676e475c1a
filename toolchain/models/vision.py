"""Models that see: a vision tower, a connector, and a language model of a known family together.

The language model is read as if it were alone: its configuration and its tensors get the names that
a text model has. The rest becomes the projector file. Names and keys of that file follow
llama.cpp's own converter (conversion/smolvlm.py, gguf-py/gguf/tensor_mapping.py) and its reader
(tools/mtmd/clip.cpp).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.gguf_file import Metadata
from toolchain.models.names import CONFIG, HEAD, PREPROCESSOR, PROCESSOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One family of models that see."""

    language: str
    """Architecture of the language model alone: a key of FAMILIES."""
    projector: str
    """`clip.projector_type`."""


_IDEFICS3 = Sight(language="LlamaForCausalLM", projector="idefics3")
SIGHTED = {
    "SmolVLMForConditionalGeneration": _IDEFICS3,
    "Idefics3ForConditionalGeneration": _IDEFICS3,
}
"""Families by the architecture in config.json."""
LANGUAGE = "model.text_model."
"""Prefix of the language model's tensors, but for its head."""
SEEING = ("model.vision_model.", "model.connector.")
"""Prefixes of the tensors of the projector file."""
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
"""Defaults of a vision tower's configuration, transformers' own (a test compares them)."""
_ALIKE: Mapping[str, str] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
"""Module of a layer of the tower → its name in the file."""
_REFUSED = {
    "blip-2": "BLIP-2 has a Q-Former and a language model of 2.7 B weights or more, "
    "which no engine for boards reads",
}
_SUCCESSOR = (
    "a small model of the SmolVLM family does the same, a picture and a question: "
    "HuggingFaceTB/SmolVLM-256M-Instruct"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eyes:
    """What the projector file of a model will hold."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name in the file → shape, the length of a row last."""
    origins: Mapping[str, str]
    """Name in the file → tensor of the checkpoint."""
    metadata: Metadata
    tokens: int
    """Positions that a picture takes in a prompt."""


def sight_of(config: Mapping[str, Any]) -> Sight | None:
    """Return the family of a config.json that sees; None for a text model.

    Raise ArtifactError for a kind that no board runs, with its reason.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _REFUSED:
        raise ArtifactError(f"config.json: `{kind}`: {_REFUSED[kind]}", hint=_SUCCESSOR)
    named = config.get("architectures") or ["none"]
    return SIGHTED.get(str(named[0])) if isinstance(named, list) else None


def refuse_sight(config: Mapping[str, Any], what: str) -> None:
    """Raise ArtifactError for a model that sees, where `what` would leave its eyes out."""
    if sight_of(config):
        named = config["architectures"][0]
        raise ArtifactError(
            f"{what}: `{named}` sees pictures, which only a gguf file does on a board",
            hint='formats = ["gguf"], and the stages tune, quantize, evaluate and package: '
            "docs/eyes.md",
        )


def language_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the language model in a model that sees; others as they are."""
    sight = sight_of(config)
    if sight is None:
        return config
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ArtifactError("config.json: `text_config` is not an object")
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    own = {"architectures": [sight.language], "tie_word_embeddings": tied}
    if config.get("quantization_config"):
        own["quantization_config"] = config["quantization_config"]
    return {**text, **own}


def language_name(tensor: str) -> str:
    """Return the name of a tensor of a model that sees in its language model; empty if none."""
    if tensor == HEAD:
        return tensor
    return f"model.{tensor.removeprefix(LANGUAGE)}" if tensor.startswith(LANGUAGE) else ""


def plain_name(tensor: str) -> str:
    """Return the name of a tensor in its language model; that of any other as it is."""
    return language_name(tensor) or tensor


def read_eyes(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]]
) -> Eyes:
    """Match the vision tower and connector of a folder with its config.json.

    `tensors` are the shapes in the checkpoint. Raise ArtifactError for what llama.cpp has no place
    for.
    """
    sight = sight_of(config)
    assert sight
    vision = {**_DEFAULTS, **_object(config, "vision_config")}
    scale = _count({"scale_factor": 2, **config}, "scale_factor")
    sizes = {key: _count(vision, key) for key, value in _DEFAULTS.items() if type(value) is int}
    _check(vision, sizes, scale)

    width = _count(_object(config, "text_config"), "hidden_size")
    expected = dict(_expected(sizes, scale, width))
    shapes, origins = {}, {}
    for name, (origin, shape) in expected.items():
        if origin not in tensors:
            raise ArtifactError(f"{folder.name}: tensor `{origin}` is missing")
        if tensors[origin] != shape:
            found = list(tensors[origin])
            problem = f"shape {found}, config.json asks for {list(shape)}"
            raise ArtifactError(f"{folder.name}: tensor `{origin}`: {problem}")
        shapes[name], origins[name] = shape, origin

    known = set(origins.values())
    for origin in tensors:
        if origin.startswith(SEEING) and origin not in known:
            raise ArtifactError(
                f"{folder.name}: tensor `{origin}` has no place in the projector file"
            )

    return Eyes(
        shapes=shapes,
        origins=origins,
        metadata=_metadata(sight, vision, sizes, scale, width, _processor(folder)),
        tokens=(sizes["image_size"] // sizes["patch_size"] // scale) ** 2,
    )


def _expected(
    sizes: Mapping[str, int], scale: int, width: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Yield each tensor of the file with its origin and shape."""
    hidden, inner, patch = (
        sizes[key] for key in ("hidden_size", "intermediate_size", "patch_size")
    )
    tower = "model.vision_model."
    places = (sizes["image_size"] // patch) ** 2
    patches = (hidden, sizes["num_channels"], patch, patch)
    yield (
        "mm.model.fc.weight",
        ("model.connector.modality_projection.proj.weight", (width, hidden * scale**2)),
    )
    embeddings = f"{tower}embeddings."
    yield "v.patch_embd.bias", (f"{embeddings}patch_embedding.bias", (hidden,))
    yield "v.patch_embd.weight", (f"{embeddings}patch_embedding.weight", patches)
    yield "v.position_embd.weight", (f"{embeddings}position_embedding.weight", (places, hidden))

    matrices = {"mlp.fc1": (inner, hidden), "mlp.fc2": (hidden, inner)}
    for layer in range(sizes["num_hidden_layers"]):
        for module, name in _ALIKE.items():
            is_norm = module.startswith("layer_norm")
            shape = (hidden,) if is_norm else matrices.get(module, (hidden, hidden))
            origin = f"{tower}encoder.layers.{layer}.{module}"
            yield f"v.blk.{layer}.{name}.weight", (f"{origin}.weight", shape)
            yield f"v.blk.{layer}.{name}.bias", (f"{origin}.bias", shape[:1])
    for part in ("weight", "bias"):
        yield f"v.post_ln.{part}", (f"{tower}post_layernorm.{part}", (hidden,))


def _metadata(
    sight: Sight,
    vision: Mapping[str, Any],
    sizes: Mapping[str, int],
    scale: int,
    width: int,
    processor: Mapping[str, Any],
) -> Metadata:
    """Return the file's own keys, without `general.`."""
    return {
        "clip.has_vision_encoder": True,
        "clip.vision.projection_dim": width,
        "clip.vision.image_size": sizes["image_size"],
        "clip.vision.patch_size": sizes["patch_size"],
        "clip.vision.embedding_length": sizes["hidden_size"],
        "clip.vision.feed_forward_length": sizes["intermediate_size"],
        "clip.vision.block_count": sizes["num_hidden_layers"],
        "clip.vision.attention.head_count": sizes["num_attention_heads"],
        "clip.vision.image_mean": _three(processor, "image_mean"),
        "clip.vision.image_std": _three(processor, "image_std"),
        "clip.projector_type": sight.projector,
        "clip.vision.attention.layer_norm_epsilon": float(vision["layer_norm_eps"]),
        "clip.vision.projector.scale_factor": scale,
        "clip.use_gelu": True,
        # The converter takes the size to which a picture is scaled before it is cut into tiles. A
        # board looks at one tile: scaling a picture up first would take its memory for nothing.
        "clip.vision.preproc_image_size": sizes["image_size"],
    }


def _check(vision: Mapping[str, Any], sizes: Mapping[str, int], scale: int) -> None:
    """Raise ArtifactError for a tower that llama.cpp computes otherwise."""
    if vision["hidden_act"] != "gelu_pytorch_tanh":
        raise _no_place("hidden_act", vision["hidden_act"])
    if sizes["num_channels"] != 3:
        raise _no_place("num_channels", sizes["num_channels"])
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise _no_place("num_attention_heads", sizes["num_attention_heads"])
    if sizes["image_size"] % (sizes["patch_size"] * scale):
        raise _no_place("image_size", sizes["image_size"])
    epsilon = vision["layer_norm_eps"]
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not epsilon > 0:
        raise _no_place("layer_norm_eps", epsilon)


def _no_place(key: str, value: Any) -> ArtifactError:
    return ArtifactError(
        f"config.json: vision_config: `{key}` is `{str(value)[:40]}`, "
        "which has no place in the projector file"
    )


def _processor(folder: Path) -> dict[str, Any]:
    """Return the settings of pictures; raise ArtifactError if the folder has none."""
    from toolchain.models.weights import read_json

    settings: dict[str, Any] = {}
    for name in (PREPROCESSOR, PROCESSOR):
        if (folder / name).is_file():
            found = read_json(folder / name)
            inner = found.get("image_processor")
            settings |= inner if isinstance(inner, dict) else found
    if not settings:
        raise ArtifactError(
            f"{folder.name}: no `{PREPROCESSOR}`",
            hint="save the processor beside the model with "
            "`AutoProcessor.from_pretrained(…).save_pretrained(…)`",
        )
    return settings


def _three(processor: Mapping[str, Any], key: str) -> list[float]:
    values = processor.get(key)
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(value, int | float) for value in values)
    ):
        raise ArtifactError(f"{PREPROCESSOR}: `{key}` is `{str(values)[:40]}`, not three numbers")
    return [float(value) for value in values]


def _object(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    if not isinstance(value, dict):
        raise ArtifactError(f"{CONFIG}: `{key}` is not an object")
    return value


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value < 2**20:
        raise ArtifactError(f"{CONFIG}: `{key}` is `{str(value)[:40]}`, not a count")
    return value

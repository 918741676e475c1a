"""Models that see: a vision tower, a connector, and a language model of a known family together.

The language model is read as if it were alone: its configuration and its tensors get the names that
a text model has. The rest becomes the projector file. Names and keys of that file follow
llama.cpp's own converter (conversion/smolvlm.py and gemma.py, gguf-py/gguf/tensor_mapping.py) and
its reader (tools/mtmd/clip.cpp).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.gguf_file import Metadata
from toolchain.models.names import CONFIG, PREPROCESSOR, PROCESSOR
from toolchain.models.sights import GEMMA3, SIGHTED, Sight

MAX_POSITIONS = 512
"""Positions of a picture that a board reads in one batch (device/engine/states.py, BATCH)."""
_BILINEAR = 2
"""PIL's number."""
_GEMMA3_MERGE = 4
"""llama.cpp's default: it is written only where it is another."""
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
    offsets: Mapping[str, float]
    """Name in the file → what is added to each weight, where it is not 0."""
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
    own: dict[str, Any] = {"architectures": [sight.language]}
    if "tie_word_embeddings" in config:
        own["tie_word_embeddings"] = config["tie_word_embeddings"]
    if config.get("quantization_config"):
        own["quantization_config"] = config["quantization_config"]
    return {**text, **own}


def read_eyes(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]] | None
) -> Eyes:
    """Match the vision tower and connector of a folder with its config.json.

    `tensors` are the shapes in the checkpoint, by their published names; None where the weights are
    not here. Raise ArtifactError for what llama.cpp has no place for.
    """
    sight = sight_of(config)
    assert sight
    vision = {**sight.defaults, **_object(config, "vision_config")}
    sizes = {key: _count(vision, key) for key, each in sight.defaults.items() if type(each) is int}
    merge = _merge(sight, config, sizes)
    _check(vision, sizes, merge)
    processor = _processor(folder)
    side = sizes["image_size"] // sizes["patch_size"] // merge
    if side * side > MAX_POSITIONS:
        raise ArtifactError(
            f"config.json: a picture takes {side * side:,} positions, a board reads at most "
            f"{MAX_POSITIONS} at once"
        )
    _check_numbers(processor)
    if sight is GEMMA3:
        check_gemma3(processor, sizes["image_size"], side * side)

    width = _count({"hidden_size": sight.width, **_object(config, "text_config")}, "hidden_size")
    expected = dict(_expected(sight, sizes, merge, width))
    if tensors is not None:
        _compare(folder.name, expected, tensors)
    return Eyes(
        shapes={name: shape for name, (_, shape) in expected.items()},
        origins={name: origin for name, (origin, _) in expected.items()},
        # Gemma's norms hold the difference from 1.
        offsets={"mm.soft_emb_norm.weight": 1.0} if sight is GEMMA3 else {},
        metadata=_metadata(sight, vision, sizes, merge, width, processor),
        tokens=side * side,
    )


def _compare(
    folder: str,
    expected: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise ArtifactError for a tensor that is missing, misshapen, or has no place."""
    for origin, shape in expected.values():
        if origin not in tensors:
            raise ArtifactError(f"{folder}: tensor `{origin}` is missing")
        if tensors[origin] != shape:
            found = list(tensors[origin])
            problem = f"shape {found}, config.json asks for {list(shape)}"
            raise ArtifactError(f"{folder}: tensor `{origin}`: {problem}")
    known = {origin for origin, _ in expected.values()}
    for origin in tensors:
        if origin not in known:
            raise ArtifactError(f"{folder}: tensor `{origin}` has no place in the projector file")


def _merge(sight: Sight, config: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """Return how many patches, across and down, become one position."""
    if sight is not GEMMA3:
        return _count({"scale_factor": 2, **config}, "scale_factor")
    tokens = _count({"mm_tokens_per_image": 256, **config}, "mm_tokens_per_image")
    side, grid = math.isqrt(tokens), sizes["image_size"] // sizes["patch_size"]
    if side * side != tokens or grid < side or grid % side:
        raise ArtifactError(
            f"config.json: `mm_tokens_per_image` is `{tokens}`, which does not divide "
            f"{grid} × {grid} patches into squares"
        )
    return grid // side


def _expected(
    sight: Sight, sizes: Mapping[str, int], merge: int, width: int
) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Yield each tensor of the file with its origin and shape."""
    hidden, inner, patch = (
        sizes[key] for key in ("hidden_size", "intermediate_size", "patch_size")
    )
    places = (sizes["image_size"] // patch) ** 2
    patches = (hidden, sizes["num_channels"], patch, patch)
    if sight is GEMMA3:
        connector = "multi_modal_projector.mm_"
        yield (
            "mm.input_projection.weight",
            (f"{connector}input_projection_weight", (hidden, width)),
        )
        yield "mm.soft_emb_norm.weight", (f"{connector}soft_emb_norm.weight", (hidden,))
    else:
        yield (
            "mm.model.fc.weight",
            ("model.connector.modality_projection.proj.weight", (width, hidden * merge**2)),
        )
    embeddings = f"{sight.tower}embeddings."
    yield "v.patch_embd.bias", (f"{embeddings}patch_embedding.bias", (hidden,))
    yield "v.patch_embd.weight", (f"{embeddings}patch_embedding.weight", patches)
    yield "v.position_embd.weight", (f"{embeddings}position_embedding.weight", (places, hidden))

    matrices = {"mlp.fc1": (inner, hidden), "mlp.fc2": (hidden, inner)}
    for layer in range(sizes["num_hidden_layers"]):
        for module, name in _ALIKE.items():
            is_norm = module.startswith("layer_norm")
            shape = (hidden,) if is_norm else matrices.get(module, (hidden, hidden))
            origin = f"{sight.tower}encoder.layers.{layer}.{module}"
            yield f"v.blk.{layer}.{name}.weight", (f"{origin}.weight", shape)
            yield f"v.blk.{layer}.{name}.bias", (f"{origin}.bias", shape[:1])
    for part in ("weight", "bias"):
        yield f"v.post_ln.{part}", (f"{sight.tower}post_layernorm.{part}", (hidden,))


def _metadata(
    sight: Sight,
    vision: Mapping[str, Any],
    sizes: Mapping[str, int],
    merge: int,
    width: int,
    processor: Mapping[str, Any],
) -> Metadata:
    """Return the file's own keys, without `general.`."""
    own: Metadata = {"clip.vision.projector.scale_factor": merge}
    if sight is GEMMA3:
        own = own if merge != _GEMMA3_MERGE else {}
    else:
        # The converter takes the size to which a picture is scaled before it is cut into tiles. A
        # board looks at one tile: scaling a picture up first would take its memory for nothing.
        own["clip.vision.preproc_image_size"] = sizes["image_size"]
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
        "clip.use_gelu": True,
        **own,
    }


def _check(vision: Mapping[str, Any], sizes: Mapping[str, int], merge: int) -> None:
    """Raise ArtifactError for a tower that llama.cpp computes otherwise."""
    if vision["hidden_act"] != "gelu_pytorch_tanh":
        raise _no_place("hidden_act", vision["hidden_act"])
    if sizes["num_channels"] != 3:
        raise _no_place("num_channels", sizes["num_channels"])
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise _no_place("num_attention_heads", sizes["num_attention_heads"])
    if sizes["image_size"] % (sizes["patch_size"] * merge):
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


def check_gemma3(processor: Mapping[str, Any], side: int, positions: int) -> None:
    """Raise ArtifactError for settings of pictures that a board does not follow."""
    size = processor.get("size", {"height": side, "width": side})
    wrong = {
        "do_pan_and_scan": bool(processor.get("do_pan_and_scan")),
        "size": size != {"height": side, "width": side},
        "resample": processor.get("resample", _BILINEAR) != _BILINEAR,
        "image_seq_length": processor.get("image_seq_length", positions) != positions,
        "do_resize": processor.get("do_resize", True) is False,
    }
    for key in (key for key, differs in wrong.items() if differs):
        more = ": several tiles of a picture are not read" if key == "do_pan_and_scan" else ""
        raise _not_followed(processor, key, more)


def _check_numbers(processor: Mapping[str, Any]) -> None:
    """Raise ArtifactError for settings of a pixel's numbers that no board follows."""
    factor = processor.get("rescale_factor", 1 / 255)
    wrong = {
        "rescale_factor": not isinstance(factor, int | float)
        or not math.isclose(factor, 1 / 255, rel_tol=1e-6),
        **{key: processor.get(key, True) is False for key in ("do_rescale", "do_normalize")},
    }
    for key in (key for key, differs in wrong.items() if differs):
        raise _not_followed(processor, key)


def _not_followed(processor: Mapping[str, Any], key: str, more: str = "") -> ArtifactError:
    return ArtifactError(
        f"{PREPROCESSOR}: `{key}` is `{str(processor.get(key))[:60]}`, "
        f"which boards do not follow{more}"
    )


def _three(processor: Mapping[str, Any], key: str) -> list[float]:
    """Return three numbers, one a colour; what is divided by is not 0."""
    values = processor.get(key)
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        or (key == "image_std" and not all(value > 0 for value in values))
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

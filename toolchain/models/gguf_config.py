"""config.json from the metadata of a GGUF file: the inverse of `architecture` and `rope`.

Keys that the file leaves out have llama.cpp's defaults. `check_metadata` proves afterwards that
nothing was lost: the checkpoint, read back, must have the file's metadata, key by key. Unknown keys
are refused.
"""

import math
from typing import TYPE_CHECKING, Any

from toolchain.models.architecture import Model
from toolchain.models.config_defaults import DEFAULTS
from toolchain.models.families import FAMILIES, Family
from toolchain.models.gguf_read import GgufFile
from toolchain.models.rope import PLAIN_BASE, llama3_settings

if TYPE_CHECKING:
    import numpy as np

_MODEL_TYPES = {"Gemma3ForCausalLM": "gemma3_text"}
"""`model_type` that is not the class's name in lower case."""
_LLAMA3 = "rope_freqs.weight"
_LONG = "rope_factors_long.weight"
_SHORT = "rope_factors_short.weight"
COMPUTED = (_LLAMA3, _LONG, _SHORT)
"""Tensors of a model file whose values a checkpoint has in config.json."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "embedding_length_out": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scaling.type": ("", "none", "linear"),
}
"""Keys that change nothing at these values (llama-model.cpp, `load_hparams`)."""
_NOTES = ("rope.scaling.finetuned", "tensor_data_layout")
"""Keys that llama.cpp ignores."""


def config_of(file: GgufFile) -> dict[str, Any]:
    """Return the config.json of a model file.

    Raises ArtifactError for an unknown family and for settings that config.json cannot express.
    """
    name = str(file.metadata.get("general.architecture", ""))
    match = next(((kind, row) for kind, row in FAMILIES.items() if row.name == name), None)
    if match is None:
        known = ", ".join(sorted({row.name for row in FAMILIES.values()}))
        raise file.fault(f"models of the family `{name}` are not known", hint=f"known: {known}")

    kind, family = match
    metadata = _FamilyMetadata(file, family)
    config = {
        "architectures": [kind],
        "model_type": _MODEL_TYPES.get(kind, kind.removesuffix("ForCausalLM").lower()),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_shape(metadata),
        **_attention(metadata),
        **{key: allowed[-1] for key, allowed in family.fixed.items() if allowed[-1] is not None},
        **_by_layer(family, metadata.count("block_count")),
        **_biases(metadata),
        **_numbers(metadata),
    }
    if family.activation != "silu":
        config["hidden_activation"] = family.activation

    return config | _rope(metadata, config)


class _FamilyMetadata:
    """The family's own keys in the metadata."""

    def __init__(self, file: GgufFile, family: Family) -> None:
        self.file = file
        self.family = family

    def get(self, key: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"{self.family.name}.{key}", default)

    def count(self, key: str, default: int = 0) -> int:
        """Return a whole number above zero; a fault of the file if it is anything else."""
        value = self.get(key, default)
        if type(value) is not int or value < 1:
            problem = f"`{self.family.name}.{key}` is `{str(value)[:40]}`, not a count"
            raise self.file.fault(f"metadata {problem}")
        return value

    def number(self, key: str, default: float) -> float:
        """Return a float32 number in the decimals it was written with: 1e-05, not 9.999999e-06."""
        import numpy as np

        value = self.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            problem = f"`{self.family.name}.{key}` is `{str(value)[:40]}`, not a number"
            raise self.file.fault(f"metadata {problem}")
        return float(str(np.float32(value))) if type(value) is float else float(value)

    @property
    def head_dim(self) -> int:
        usual = self.count("embedding_length") // self.count("attention.head_count")
        return self.count("attention.key_length", usual)


def _shape(metadata: _FamilyMetadata) -> dict[str, Any]:
    heads = metadata.count("attention.head_count")
    embedding = metadata.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise metadata.file.fault("tensor `token_embd.weight` is missing")

    return {
        "vocab_size": embedding.shape[-1],
        "hidden_size": metadata.count("embedding_length"),
        "intermediate_size": metadata.count("feed_forward_length"),
        "num_hidden_layers": metadata.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.count("attention.head_count_kv", heads),
        "max_position_embeddings": metadata.count("context_length"),
        "rms_norm_eps": metadata.number("attention.layer_norm_rms_epsilon", 0.0),
    }


def _attention(metadata: _FamilyMetadata) -> dict[str, Any]:
    family = metadata.family
    layers = metadata.count("block_count")
    settings: dict[str, Any] = {}
    kind = next(kind for kind, row in FAMILIES.items() if row is family)
    if DEFAULTS[kind].get("head_dim") or metadata.get("attention.key_length"):
        settings["head_dim"] = metadata.head_dim

    if family.scaled_by_hidden:
        whole = metadata.count("embedding_length") // metadata.count("attention.head_count")
        settings["query_pre_attn_scalar"] = (
            whole if layers == family.scaled_by_hidden else metadata.head_dim
        )

    if family.window:
        window = metadata.get("attention.sliding_window", _window(metadata)) or None
        settings["sliding_window"] = window

    return settings


def _window(metadata: _FamilyMetadata) -> int:
    """Return the window of a file that names none: Gemma 2's (src/models/gemma2.cpp), else 0."""
    return 4096 if metadata.family.name == "gemma2" else 0


def _by_layer(family: Family, layers: int) -> dict[str, Any]:
    return {
        key: [usual if (layer + 1) % every else other for layer in range(layers)]
        for key, (every, usual, other) in family.periods.items()
    }


def _biases(metadata: _FamilyMetadata) -> dict[str, Any]:
    """Return which optional biases exist; whether all do is checked when tensors are compared."""
    biases = {}
    for key, modules in metadata.family.optional_biases.items():
        names = [metadata.family.modules[module][0] for module in modules]
        biases[key] = any(f"blk.0.{name}.bias" in metadata.file.tensors for name in names)
    return biases


def _numbers(metadata: _FamilyMetadata) -> dict[str, Any]:
    usual = _usual(metadata)
    numbers = {}
    for key, name in metadata.family.numbers.items():
        value = metadata.number(key, usual.get(key, 0.0))
        numbers[name] = value or usual.get(key) or None
    return numbers


def _usual(metadata: _FamilyMetadata) -> dict[str, float]:
    """Return llama.cpp's defaults of the family's numbers (src/models/*.cpp, llama-hparams.h)."""
    if metadata.family.name == "gemma2":
        return {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if metadata.family.name == "granite":
        scale = 1 / math.sqrt(metadata.head_dim)
        return {"attention.scale": scale, "embedding_scale": 1.0, "residual_scale": 1.0}
    return {}


def _rope(metadata: _FamilyMetadata, config: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_parameters`, as transformers 5 spells them."""
    theta = metadata.number("rope.freq_base", PLAIN_BASE)
    settings: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    factor = metadata.number("rope.scaling.factor", 0.0)
    kind = str(metadata.get("rope.scaling.type", "linear" if factor else "none"))
    if _LONG in metadata.file.tensors or _SHORT in metadata.file.tensors:
        settings |= _long(metadata)
    elif kind == "linear" and factor not in (0.0, 1.0):
        settings |= {"rope_type": "linear", "factor": factor}
    elif kind not in ("", "none", "linear"):
        hint = "known: linear; llama3 and longrope by their tensors"
        raise metadata.file.fault(f"rope scaling `{kind}` is not known", hint=hint)

    if _LLAMA3 in metadata.file.tensors:
        settings |= _llama3(metadata, theta)

    if metadata.family.original_context:
        settings["partial_rotary_factor"] = (
            metadata.count("rope.dimension_count", metadata.head_dim) / metadata.head_dim
        )
        original = metadata.count(
            "rope.scaling.original_context_length", config["max_position_embeddings"]
        )
        settings["original_max_position_embeddings"] = original
        return {"rope_parameters": settings, "original_max_position_embeddings": original}
    if metadata.family.name == "gemma3":
        local = {
            "rope_type": "default",
            "rope_theta": metadata.number("rope.freq_base_swa", PLAIN_BASE),
        }
        return {"rope_parameters": {"full_attention": settings, "sliding_attention": local}}

    return {"rope_parameters": settings}


def _long(metadata: _FamilyMetadata) -> dict[str, Any]:
    for name in (_LONG, _SHORT):
        if name not in metadata.file.tensors:
            raise metadata.file.fault(f"tensor `{name}` is missing")
    return {
        "rope_type": "longrope",
        "long_factor": _decimals(metadata.file.whole(_LONG)),
        "short_factor": _decimals(metadata.file.whole(_SHORT)),
        "attention_factor": metadata.number("rope.scaling.attn_factor", 1.0),
    }


def _decimals(values: "np.ndarray") -> list[float]:
    return [float(str(value)) for value in values]


def _llama3(metadata: _FamilyMetadata, theta: float) -> dict[str, Any]:
    factors = metadata.file.whole(_LLAMA3)
    if len(factors) != metadata.head_dim // 2:
        raise metadata.file.fault(
            f"tensor `{_LLAMA3}` is not a list of {metadata.head_dim // 2} numbers"
        )
    settings = llama3_settings(factors, theta, metadata.count("context_length"))
    if settings is None:
        hint = "known: those of Llama 3.1 and later"
        raise metadata.file.fault(
            f"tensor `{_LLAMA3}`: factors of an unknown rope scaling", hint=hint
        )
    return settings


def check_metadata(file: GgufFile, model: Model) -> None:
    """Raise ArtifactError unless the new checkpoint, read back, has the file's metadata."""
    family = model.family
    metadata = _FamilyMetadata(file, family)
    whole = f"{family.name}."
    ours = {key.removeprefix(whole): value for key, value in model.metadata.items()}
    theirs = {
        key.removeprefix(whole): value
        for key, value in file.metadata.items()
        if key.startswith(whole)
    }
    defaults = _defaults(metadata) | _usual(metadata)

    for key in sorted(ours.keys() | theirs.keys()):
        if key in _NOTES or _limited(family, key):
            continue
        expected = ours.get(key, _implied(metadata, key))
        actual = theirs.get(key, defaults.get(key))
        if not _same(expected, actual) and not (
            expected is None and actual in _NEUTRAL.get(key, ())
        ):
            shown = str(theirs.get(key, "not there"))[:40]
            raise file.fault(
                f"metadata `{whole}{key}` is `{shown}`, which has no place in a checkpoint"
            )


def _limited(family: Family, key: str) -> bool:
    """Return whether llama.cpp computes a key without its window, so that the key is cut."""
    return family.window == "limit" and key in ("context_length", "attention.sliding_window")


def _implied(metadata: _FamilyMetadata, key: str) -> Any:
    """Return a value that follows from the rest, and that only some converters write."""
    return {
        "attention.key_length": metadata.head_dim,
        "attention.value_length": metadata.head_dim,
        "rope.dimension_count": metadata.head_dim,
        "vocab_size": metadata.file.shape("token_embd.weight")[0],
        "rope.freq_base": PLAIN_BASE,
        "rope.freq_base_swa": metadata.number("rope.freq_base", PLAIN_BASE),
    }.get(key)


def _defaults(metadata: _FamilyMetadata) -> dict[str, Any]:
    """Return llama.cpp's defaults of missing keys (llama-model.cpp, `load_hparams`)."""
    heads = metadata.count("attention.head_count")
    width = metadata.count("embedding_length") // heads
    return {
        "attention.head_count_kv": heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.sliding_window": _window(metadata),
        "rope.dimension_count": metadata.head_dim,
        "rope.freq_base": PLAIN_BASE,
        "rope.freq_base_swa": PLAIN_BASE,
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.original_context_length": metadata.count("context_length"),
        "rope.scaling.type": "linear",
        "vocab_size": metadata.file.shape("token_embd.weight")[0],
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and type(other) in (int, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)

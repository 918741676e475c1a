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
"""Keys that llama.cpp reads nothing from."""


def config_of(file: GgufFile) -> dict[str, Any]:
    """Return the config.json of a model file.

    Raises ArtifactError for an unknown family and for settings that config.json cannot express.
    """
    name = str(file.metadata.get("general.architecture", ""))
    found = next(((kind, row) for kind, row in FAMILIES.items() if row.name == name), None)
    if found is None:
        known = ", ".join(sorted({row.name for row in FAMILIES.values()}))
        raise file.fault(f"models of the family `{name}` are not known", hint=f"known: {known}")
    kind, family = found
    said = _FamilyMetadata(file, family)
    config = {
        "architectures": [kind],
        "model_type": _MODEL_TYPES.get(kind, kind.removesuffix("ForCausalLM").lower()),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_shape(said),
        **_attention(said),
        **{key: allowed[-1] for key, allowed in family.fixed.items() if allowed[-1] is not None},
        **_by_layer(family, said.count("block_count")),
        **_biases(said),
        **_numbers(said),
    }
    if family.activation != "silu":
        config["hidden_activation"] = family.activation
    return config | _rope(said, config)


class _FamilyMetadata:
    """The family's own keys in the metadata."""

    def __init__(self, file: GgufFile, family: Family) -> None:
        self.file, self.family = file, family

    def get(self, key: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"{self.family.name}.{key}", default)

    def count(self, key: str, default: int = 0) -> int:
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


def _shape(said: _FamilyMetadata) -> dict[str, Any]:
    heads = said.count("attention.head_count")
    embedding = said.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise said.file.fault("tensor `token_embd.weight` is missing")
    return {
        "vocab_size": embedding.shape[-1],
        "hidden_size": said.count("embedding_length"),
        "intermediate_size": said.count("feed_forward_length"),
        "num_hidden_layers": said.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": said.count("attention.head_count_kv", heads),
        "max_position_embeddings": said.count("context_length"),
        "rms_norm_eps": said.number("attention.layer_norm_rms_epsilon", 0.0),
    }


def _attention(said: _FamilyMetadata) -> dict[str, Any]:
    family, layers = said.family, said.count("block_count")
    found: dict[str, Any] = {}
    kind = next(kind for kind, row in FAMILIES.items() if row is family)
    if DEFAULTS[kind].get("head_dim") or said.get("attention.key_length"):
        found["head_dim"] = said.head_dim
    if family.scaled_by_hidden:
        whole = said.count("embedding_length") // said.count("attention.head_count")
        found["query_pre_attn_scalar"] = (
            whole if layers == family.scaled_by_hidden else said.head_dim
        )
    if family.window:
        window = said.get("attention.sliding_window", _window(said)) or None
        found["sliding_window"] = window
    return found


def _window(said: _FamilyMetadata) -> int:
    """Return the window of a file that names none: Gemma 2's (src/models/gemma2.cpp), else 0."""
    return 4096 if said.family.name == "gemma2" else 0


def _by_layer(family: Family, layers: int) -> dict[str, Any]:
    return {
        key: [usual if (layer + 1) % every else other for layer in range(layers)]
        for key, (every, usual, other) in family.periods.items()
    }


def _biases(said: _FamilyMetadata) -> dict[str, Any]:
    """Return which optional biases exist; whether all do is checked when tensors are compared."""
    found = {}
    for key, modules in said.family.optional_biases.items():
        names = [said.family.modules[module][0] for module in modules]
        found[key] = any(f"blk.0.{name}.bias" in said.file.tensors for name in names)
    return found


def _numbers(said: _FamilyMetadata) -> dict[str, Any]:
    usual = _usual(said)
    found = {}
    for key, name in said.family.numbers.items():
        value = said.number(key, usual.get(key, 0.0))
        found[name] = value or usual.get(key) or None
    return found


def _usual(said: _FamilyMetadata) -> dict[str, float]:
    """Return llama.cpp's defaults of the family's numbers (src/models/*.cpp, llama-hparams.h)."""
    if said.family.name == "gemma2":
        return {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if said.family.name == "granite":
        scale = 1 / math.sqrt(said.head_dim)
        return {"attention.scale": scale, "embedding_scale": 1.0, "residual_scale": 1.0}
    return {}


def _rope(said: _FamilyMetadata, config: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_parameters`, as transformers 5 spells them."""
    theta = said.number("rope.freq_base", PLAIN_BASE)
    settings: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    factor = said.number("rope.scaling.factor", 0.0)
    kind = str(said.get("rope.scaling.type", "linear" if factor else "none"))
    if _LONG in said.file.tensors or _SHORT in said.file.tensors:
        settings |= _long(said)
    elif kind == "linear" and factor not in (0.0, 1.0):
        settings |= {"rope_type": "linear", "factor": factor}
    elif kind not in ("", "none", "linear"):
        hint = "known: linear; llama3 and longrope by their tensors"
        raise said.file.fault(f"rope scaling `{kind}` is not known", hint=hint)
    if _LLAMA3 in said.file.tensors:
        settings |= _llama3(said, theta)
    if said.family.original_context:
        settings["partial_rotary_factor"] = (
            said.count("rope.dimension_count", said.head_dim) / said.head_dim
        )
        original = said.count(
            "rope.scaling.original_context_length", config["max_position_embeddings"]
        )
        settings["original_max_position_embeddings"] = original
        return {"rope_parameters": settings, "original_max_position_embeddings": original}
    if said.family.name == "gemma3":
        local = {
            "rope_type": "default",
            "rope_theta": said.number("rope.freq_base_swa", PLAIN_BASE),
        }
        return {"rope_parameters": {"full_attention": settings, "sliding_attention": local}}
    return {"rope_parameters": settings}


def _long(said: _FamilyMetadata) -> dict[str, Any]:
    for name in (_LONG, _SHORT):
        if name not in said.file.tensors:
            raise said.file.fault(f"tensor `{name}` is missing")
    return {
        "rope_type": "longrope",
        "long_factor": _decimals(said.file.whole(_LONG)),
        "short_factor": _decimals(said.file.whole(_SHORT)),
        "attention_factor": said.number("rope.scaling.attn_factor", 1.0),
    }


def _decimals(values: "np.ndarray") -> list[float]:
    return [float(str(value)) for value in values]


def _llama3(said: _FamilyMetadata, theta: float) -> dict[str, Any]:
    factors = said.file.whole(_LLAMA3)
    if len(factors) != said.head_dim // 2:
        raise said.file.fault(f"tensor `{_LLAMA3}` is not a list of {said.head_dim // 2} numbers")
    settings = llama3_settings(factors, theta, said.count("context_length"))
    if settings is None:
        hint = "known: those of Llama 3.1 and later"
        raise said.file.fault(f"tensor `{_LLAMA3}`: factors of an unknown rope scaling", hint=hint)
    return settings


def check_metadata(file: GgufFile, model: Model) -> None:
    """Raise ArtifactError unless the new checkpoint, read back, has the file's metadata."""
    family = model.family
    said = _FamilyMetadata(file, family)
    whole = f"{family.name}."
    ours = {key.removeprefix(whole): value for key, value in model.metadata.items()}
    theirs = {
        key.removeprefix(whole): value
        for key, value in file.metadata.items()
        if key.startswith(whole)
    }
    defaults = _defaults(said) | _usual(said)

    for key in sorted(ours.keys() | theirs.keys()):
        if key in _NOTES or _limited(family, key):
            continue
        expected = ours.get(key, _implied(said, key))
        found = theirs.get(key, defaults.get(key))
        if not _same(expected, found) and not (expected is None and found in _NEUTRAL.get(key, ())):
            shown = str(theirs.get(key, "not there"))[:40]
            raise file.fault(
                f"metadata `{whole}{key}` is `{shown}`, which has no place in a checkpoint"
            )


def _limited(family: Family, key: str) -> bool:
    """Return whether llama.cpp computes a key without its window, so that the key is cut."""
    return family.window == "limit" and key in ("context_length", "attention.sliding_window")


def _implied(said: _FamilyMetadata, key: str) -> Any:
    """Return a value that follows from the rest, and that only some converters write."""
    return {
        "attention.key_length": said.head_dim,
        "attention.value_length": said.head_dim,
        "rope.dimension_count": said.head_dim,
        "vocab_size": said.file.shape("token_embd.weight")[0],
        "rope.freq_base": PLAIN_BASE,
        "rope.freq_base_swa": said.number("rope.freq_base", PLAIN_BASE),
    }.get(key)


def _defaults(said: _FamilyMetadata) -> dict[str, Any]:
    """Return llama.cpp's defaults of missing keys (llama-model.cpp, `load_hparams`)."""
    heads = said.count("attention.head_count")
    width = said.count("embedding_length") // heads
    return {
        "attention.head_count_kv": heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.sliding_window": _window(said),
        "rope.dimension_count": said.head_dim,
        "rope.freq_base": PLAIN_BASE,
        "rope.freq_base_swa": PLAIN_BASE,
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.original_context_length": said.count("context_length"),
        "rope.scaling.type": "linear",
        "vocab_size": said.file.shape("token_embd.weight")[0],
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and type(other) in (int, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)

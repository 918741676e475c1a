"""Type of each tensor under each scheme, as llama.cpp's quantizer decides (src/llama-quant.cpp).

Types follow from names and shapes alone, before a weight is read, so fallbacks are known early.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from toolchain.config import closest
from toolchain.errors import ArtifactError, ConfigError
from toolchain.tools import ggml
from toolchain.tools.ggml import Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Properties of a model that decide types, besides names and shapes."""

    layers: int
    tied: bool
    """The head is the embedding: it is stored once, as a head."""
    group: int
    """Query heads that share one key head."""
    wide_groups: bool
    """The 80-layer model whose values many heads share: `attn_v` gets more bits.

    llama.cpp calls it `LLM_TYPE_70B`.
    """
    weighed: bool = False
    """Whether there is an importance matrix."""


def _use_more_bits(layer: int, layout: Layout) -> bool:
    """Return whether a layer is in the first or last eighth, or every third one between."""
    layers = layout.layers
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


Where = Callable[[int, Layout], bool]
_WHERE: dict[str, Where] = {
    "everywhere": lambda layer, layout: True,
    "first 2": lambda layer, layout: layer < 2,
    "first 4": lambda layer, layout: layer < 4,
    "first eighth": lambda layer, layout: layer < layout.layers // 8,
    "first sixteenth": lambda layer, layout: layer < layout.layers // 16,
    "first eighth, weighed": lambda layer, layout: layout.weighed and layer < layout.layers // 8,
    "first eighth, unweighed": lambda layer, layout: (
        not layout.weighed and layer < layout.layers // 8
    ),
    "shared by 4": lambda layer, layout: layout.group >= 4,
    "spread": _use_more_bits,
}
"""Name of a condition → whether it holds for a layer."""
Rules = tuple[tuple[str, Type], ...]
"""(where, type) pairs; the first that holds is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to quantize a model."""

    file_type: int
    """`general.file_type` (llama.h, `llama_ftype`)."""
    base: Type
    """The type that the scheme is named after."""
    values: Rules = ()
    """Other types for `attn_v` and `attn_qkv`."""
    down: Rules = ()
    """Other types for `ffn_down`."""
    output: Rules = ()
    """Other types for `attn_output`."""

    @property
    def nominal_bpw(self) -> float:
        """Bits per weight of the type that the scheme is named after."""
        return ggml.row_bytes(self.base, 256) * 8 / 256

    @property
    def quantized(self) -> bool:
        """Whether weights are stored in blocks."""
        return self.base not in (Type.F16, Type.BF16)

    def rules(self, role: str) -> Rules:
        """Return the rules for the tensors of a role."""
        return {
            "attn_v": self.values,
            "attn_qkv": self.values,
            "ffn_down": self.down,
            "attn_output": self.output,
        }.get(role, ())


_SPREAD_Q6: Rules = (("spread", Type.Q6_K),)
_IQ4_VALUES: Rules = (("shared by 4", Type.Q5_K),)
_IQ4_DOWN: Rules = (("first eighth, unweighed", Type.Q5_K),)
_ALL_Q3: Rules = (("everywhere", Type.Q3_K),)
SCHEMES = {
    "F16": Scheme(file_type=1, base=Type.F16),
    "BF16": Scheme(file_type=32, base=Type.BF16),
    "Q8_0": Scheme(file_type=7, base=Type.Q8_0),
    "Q6_K": Scheme(file_type=18, base=Type.Q6_K),
    "Q5_K_M": Scheme(file_type=17, base=Type.Q5_K, values=_SPREAD_Q6, down=_SPREAD_Q6),
    "Q5_K_S": Scheme(file_type=16, base=Type.Q5_K),
    "Q4_K_M": Scheme(file_type=15, base=Type.Q4_K, values=_SPREAD_Q6, down=_SPREAD_Q6),
    "Q4_K_S": Scheme(
        file_type=14,
        base=Type.Q4_K,
        values=(("first 4", Type.Q5_K),),
        down=(("first eighth", Type.Q5_K),),
    ),
    "Q4_0": Scheme(file_type=2, base=Type.Q4_0, down=(("first eighth, weighed", Type.Q4_1),)),
    "IQ4_NL": Scheme(file_type=25, base=Type.IQ4_NL, values=_IQ4_VALUES, down=_IQ4_DOWN),
    "IQ4_XS": Scheme(file_type=30, base=Type.IQ4_XS, values=_IQ4_VALUES, down=_IQ4_DOWN),
    "Q3_K_M": Scheme(
        file_type=12,
        base=Type.Q3_K,
        values=(("first 2", Type.Q5_K), ("everywhere", Type.Q4_K)),
        down=(("first sixteenth", Type.Q5_K), ("everywhere", Type.Q4_K)),
        output=(("everywhere", Type.Q4_K),),
    ),
    "Q2_K": Scheme(
        file_type=10,
        base=Type.Q2_K,
        values=(("shared by 4", Type.Q4_K), *_ALL_Q3),
        down=_ALL_Q3,
        output=_ALL_Q3,
    ),
}
"""Schemes by the name that llama.cpp gives them."""

_FALLBACK = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
    Type.IQ4_XS: Type.IQ4_NL,
}
"""Fallback of a type whose blocks do not fit a row (`tensor_type_fallback`); F16 if none fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The type of one tensor."""

    type: Type
    requested: Type
    """Type that the scheme asks for; differs from `type` if a row is not whole blocks."""


def find_scheme(name: str) -> Scheme:
    """Return a scheme by its name; raise ConfigError for one that does not exist."""
    if name not in SCHEMES:
        raise ConfigError(f"quantize: unknown scheme `{name}`", hint=closest(name, list(SCHEMES)))
    return SCHEMES[name]


def choose_types(
    name: str, shapes: Mapping[str, tuple[int, ...]], layout: Layout
) -> dict[str, Choice]:
    """Return the type of each tensor under scheme `name`; `shapes` has row lengths last.

    Raises ArtifactError if no tensor fits the scheme.
    """
    scheme = find_scheme(name)
    choices = {tensor: _choose(scheme, tensor, shape, layout) for tensor, shape in shapes.items()}
    matrices = [tensor for tensor in shapes if choices[tensor].requested != Type.F32]
    if matrices and all(choices[tensor].type != choices[tensor].requested for tensor in matrices):
        raise _nothing_fits(name, scheme, sorted({shapes[tensor][-1] for tensor in matrices}))
    return choices


def _nothing_fits(name: str, scheme: Scheme, lengths: list[int]) -> ArtifactError:
    fits = all(length % ggml.block_size(Type.Q8_0) == 0 for length in lengths)
    hint = (
        "use `Q4_0` or `Q8_0`, whose blocks are 32 weights long"
        if fits
        else "use `F16` or `BF16`, which have no blocks"
    )
    rows = " and ".join(str(length) for length in lengths)
    return ArtifactError(
        f"{name}: rows of {rows} are not divisible by {ggml.block_size(scheme.base)}", hint=hint
    )


def _choose(scheme: Scheme, tensor: str, shape: tuple[int, ...], layout: Layout) -> Choice:
    if len(shape) < 2 or not tensor.endswith(".weight") or tensor.endswith("_norm.weight"):
        return Choice(type=Type.F32, requested=Type.F32)
    requested = _type_by_rules(scheme, tensor, layout) if scheme.quantized else scheme.base
    return Choice(type=_fit(requested, shape[-1]), requested=requested)


def _type_by_rules(scheme: Scheme, tensor: str, layout: Layout) -> Type:
    """Follow `llama_tensor_get_type_impl` for models without experts."""
    if tensor == "output.weight" or (layout.tied and tensor == "token_embd.weight"):
        return Type.Q8_0 if scheme.base == Type.Q8_0 else Type.Q6_K

    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor)
    if not match:
        return scheme.base

    rules = scheme.rules(match[2])
    requested = next(
        (kind for where, kind in rules if _WHERE[where](int(match[1]), layout)), scheme.base
    )
    if (
        match[2] in ("attn_v", "attn_qkv")
        and layout.wide_groups
        and requested in (Type.Q3_K, Type.Q4_K)
    ):
        return Type.Q5_K

    return requested


def _fit(requested: Type, length: int) -> Type:
    for kind in (requested, _FALLBACK.get(requested, Type.F16)):
        if length % ggml.block_size(kind) == 0:
            return kind
    return Type.F16

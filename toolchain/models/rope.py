"""The rotary embedding as GGUF metadata, and the factors that some kinds scale their pairs with.

Only kinds that llama.cpp computes as transformers does (modeling_rope_utils.py) are accepted.
"""

import math
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.config_defaults import LOCAL_THETAS, THETA, THETAS
from toolchain.models.families import Family
from toolchain.models.gguf_file import Metadata
from toolchain.models.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Factors = dict[str, "NDArray[np.float32]"]
"""Tensor of the model file → its values."""
PLAIN_BASE = 10000.0
"""Base frequency that llama.cpp uses without metadata."""
FREQUENCIES = "inv_freq"
NEAR_RELATIVE = 2e-2
NEAR_ABSOLUTE = 1e-7
"""Tolerance of stored frequencies, which may have been rounded to 16 bits."""


def read_rope(
    family: Family, config: dict[str, Any], sizes: dict[str, int]
) -> tuple[Metadata, Factors]:
    """Return the rotary embedding's metadata and factors; raise ArtifactError for unknown kinds."""
    architecture = config["architectures"][0]
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    local_base = config.get("rope_local_base_freq") or LOCAL_THETAS.get(architecture)
    local = {"rope_theta": local_base, **(settings.get("sliding_attention") or {})}
    settings = settings.get("full_attention") or settings
    default = THETAS.get(architecture, THETA)
    base = _theta(settings.get("rope_theta") or config.get("rope_theta") or default)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    metadata: Metadata = {"rope.freq_base": base}
    if local.get("rope_theta"):
        if (local.get("rope_type") or "default") != "default":
            raise _unknown(local["rope_type"])
        metadata["rope.freq_base_swa"] = _theta(local["rope_theta"])

    if family.plain_rope:
        if kind != "default" or base != PLAIN_BASE:
            raise ArtifactError(
                f"config.json: rotary embedding `{kind}` with base {base:g}, "
                f"where `{family.name}` has none but {PLAIN_BASE:g}"
            )
        return {}, {}

    more, factors = _scaled(family, kind, settings, base, config, sizes)
    return metadata | more, factors


def _theta(value: object) -> float:
    """Return a base of the rotary embedding; transformers takes no text for one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ArtifactError(f"config.json: `rope_theta` is `{value}`, not a positive number")
    return float(value)


def check_frequencies(
    weights: Weights, metadata: Metadata, factors: Factors, sizes: dict[str, int]
) -> None:
    """Raise ArtifactError if stored rotary frequencies contradict config.json, scaled or not."""
    import numpy as np

    for name in (name for name in weights.tensors if name.endswith(FREQUENCIES)):
        stored = weights.rows(name, 0, weights.tensors[name].rows)[0]
        expected = _frequencies(metadata, factors, sizes)
        if not any(
            len(values) == len(stored)
            and np.allclose(stored, values, rtol=NEAR_RELATIVE, atol=NEAR_ABSOLUTE)
            for values in expected
        ):
            base = float(str(metadata.get("rope.freq_base", PLAIN_BASE)))
            raise ArtifactError(
                f"{weights.tensors[name].file.name}: tensor `{name}`: "
                "not the frequencies that config.json gives "
                f"(`rope_theta` {base:g})",
                hint="transformers computes them from config.json; correct the one that is wrong",
            )


def _frequencies(
    metadata: Metadata, factors: Factors, sizes: dict[str, int]
) -> "list[NDArray[np.float64]]":
    """Return the frequencies that a checkpoint may hold: unscaled, scaled, of window layers."""
    import numpy as np

    # only the families with a rotary share of a head (Phi) say its width
    width = sizes["rotary"] if "rope.dimension_count" in metadata else sizes["head_dim"]
    steps = np.arange(0, width, 2) / width
    bases = [metadata.get(key) for key in ("rope.freq_base", "rope.freq_base_swa")]
    plain = [float(str(base)) ** -steps for base in bases if base] or [PLAIN_BASE**-steps]
    scaled = [plain[0] / float(str(metadata.get("rope.scaling.factor", 1.0)))]
    return [*plain, *scaled, *(plain[0] / values for values in factors.values())]


def long_caveat(metadata: Metadata, factors: Factors) -> str:
    """Return how llama.cpp differs with long-context factors; empty without such factors.

    It chooses the factors by the context it serves, not by the length of the text.
    """
    if "rope_factors_long.weight" not in factors:
        return ""
    short = metadata["rope.scaling.original_context_length"]
    return (
        f"served with more than {short} tokens of context, "
        "llama.cpp uses the factors for long text from the first token on"
    )


def _scaled(
    family: Family,
    kind: str,
    settings: dict[str, Any],
    base: float,
    config: dict[str, Any],
    sizes: dict[str, int],
) -> tuple[Metadata, Factors]:
    original = _original_context(settings, config) if family.original_context else 0
    extended: Metadata = {
        "rope.scaling.original_context_length": original,
        "rope.dimension_count": sizes["rotary"],
    }
    match kind:
        case "default":
            return extended if original else {}, {}
        case "linear" if not original:
            return {
                "rope.scaling.type": "linear",
                "rope.scaling.factor": _setting(settings, "factor"),
            }, {}
        case "llama3" if not original:
            return {}, {"rope_freqs.weight": _llama3_factors(settings, base, sizes["head_dim"])}
        case "longrope" | "su" if original:
            return extended | {
                "rope.scaling.attn_factor": _long_attention(settings, original, config)
            }, _long_factors(settings, sizes)

    raise _unknown(kind)


def _unknown(kind: str) -> ArtifactError:
    return ArtifactError(
        f"config.json: rope type `{kind}` is not known",
        hint="known: default, linear, llama3; longrope for Phi",
    )


def _original_context(settings: dict[str, Any], config: dict[str, Any]) -> int:
    context = settings.get("original_max_position_embeddings") or config.get(
        "original_max_position_embeddings"
    )
    return int(context or config["max_position_embeddings"])


def _long_attention(settings: dict[str, Any], original: int, config: dict[str, Any]) -> float:
    """Return the scale of long-context attention.

    Source: arXiv:2402.13753; `_compute_longrope_parameters`.
    """
    if settings.get("attention_factor"):
        return _setting(settings, "attention_factor")
    scale = settings.get("factor") or config["max_position_embeddings"] / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _long_factors(settings: dict[str, Any], sizes: dict[str, int]) -> Factors:
    import numpy as np

    pairs = sizes["rotary"] // 2
    factors: Factors = {}
    for length in ("long", "short"):
        values = settings.get(f"{length}_factor")
        if not isinstance(values, list) or len(values) != pairs:
            raise ArtifactError(
                f"config.json: rope setting `{length}_factor` is not a list of {pairs} numbers"
            )
        factors[f"rope_factors_{length}.weight"] = np.array(values, np.float32)
    return factors


def _llama3_factors(settings: dict[str, Any], base: float, head_dim: int) -> "NDArray[np.float32]":
    """Return the divisor of each pair's frequency (`_compute_llama3_parameters`)."""
    import numpy as np

    factor, low, high = (
        _setting(settings, key) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = _setting(settings, "original_max_position_embeddings")
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (context / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(
        wavelengths < context / high, 1, np.where(wavelengths > context / low, factor, between)
    )

    return np.ascontiguousarray(factors, dtype=np.float32)


def llama3_settings(
    factors: "NDArray[np.float32]", base: float, context: int
) -> dict[str, Any] | None:
    """Return llama3 settings that give these frequency divisors; None if there are none.

    The largest factor is `factor`. Between the pairs that keep their frequency and those that are
    divided by `factor`, `smooth` is linear in 1 / wavelength, and two points give the line. Of
    `low_freq_factor`, `high_freq_factor` and the original context only the ratios follow; the first
    is taken as 1, as in every Llama.
    """
    import numpy as np

    factor = float(str(factors.max()))
    if not factor > 1 or not np.isfinite(factors).all():
        return None

    # 1/factors = (1 - smooth) / factor + smooth
    smooth = (1 / factors.astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    per_wave = base ** (-np.arange(len(factors)) / len(factors)) / (2 * math.pi)
    between = (smooth > 1e-3) & (smooth < 1 - 1e-3)
    candidates = [(4.0, float(1 << power)) for power in range(5, 21)] + [(4.0, float(context))]
    if between.sum() > 1:
        slope, start = np.polyfit(per_wave[between], smooth[between], 1)
        # smooth = (original · per_wave - 1) / (high - 1)
        candidates.insert(0, (round(1 - 1 / start, 4), round(-slope / start, 1)))

    for high, original in candidates:
        settings = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": round(original),
        }
        if high > 1 and original >= 1 and _gives(settings, base, factors):
            return settings

    return None


def _gives(settings: dict[str, Any], base: float, factors: "NDArray[np.float32]") -> bool:
    import numpy as np

    computed = _llama3_factors(settings, base, 2 * len(factors))
    return bool(np.allclose(computed, factors, rtol=1e-5, atol=0))


def _setting(settings: dict[str, Any], key: str) -> float:
    value = settings.get(key)
    if not isinstance(value, int | float) or value <= 0:
        raise ArtifactError(
            f"config.json: rope setting `{key}` is `{value}`, not a positive number"
        )
    return float(value)

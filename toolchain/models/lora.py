"""Reads PEFT LoRA adapters without torch: the weights they change and by how much, row by row.

Quantizing merges them while it reads, so no merged checkpoint is written; or they travel unmerged.
Only LoRA on linear layers is supported: anything else would be lost silently (`adapter_config`).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.adapter_config import (
    CONFIG,
    ELSEWHERE,
    REBUILT,
    initialisation,
    read_adapter_config,
)
from toolchain.models.adapter_targets import check_targets, pattern_value
from toolchain.models.sights import plain_name
from toolchain.models.weights import Tensor, Weights, read_header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = "adapter_model.safetensors"
SMALL_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS starts no threads, which would only wait under ours."""
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Change of one weight: scale · B·A, with A of shape (r, in) and B of shape (out, r)."""

    a: "NDArray[np.float32]"
    b: "NDArray[np.float32]"
    scale: float

    def rows(self, first: int, count: int) -> "NDArray[np.float64]":
        """Return rows `first` to `first + count` in double, independent of how rows are grouped."""
        import numpy as np

        scaled = self.b[first : first + count].astype(np.float64) * self.scale
        a = self.a.astype(np.float64)

        product = np.empty((scaled.shape[0], a.shape[1]))
        step = max(1, SMALL_PRODUCT // a.size)
        for at in range(0, scaled.shape[0], step):
            np.matmul(scaled[at : at + step], a, out=product[at : at + step])
        return product

    @property
    def rank(self) -> int:
        """Rows of A."""
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A checked adapter."""

    name: str
    base: str
    """Name of the base that its configuration gives."""
    initialisation: str
    """`pissa` or `olora` if a part of the base was subtracted before training; otherwise empty."""
    alpha: float
    deltas: Mapping[str, Delta]
    """By the name of the weight in the base."""


def open_lora(folder: Path, weights: Weights, base: str) -> Lora:
    """Return the adapter in a folder, so that the open base + deltas is the trained model.

    Raises ArtifactError for an adapter of another kind or for another base.
    """
    from toolchain.models.lora_init import refuse_a_part_of_the_base, without_initial_part

    lora = read_lora(folder)
    check_fits(lora, weights, base)
    if lora.initialisation:
        return without_initial_part(lora, weights)
    refuse_a_part_of_the_base(lora, weights)
    return lora


def read_lora(folder: Path) -> Lora:
    """Return the adapter in a folder as it is stored.

    Raises ArtifactError for pickles and for settings that a merge would lose.
    """
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS).is_file():
        pickle = (folder / "adapter_model.bin").is_file()
        problem = (
            "`adapter_model.bin` is a pickle, which can run code when it is loaded"
            if pickle
            else f"no `{WEIGHTS}`"
        )
        raise ArtifactError(
            f"{folder.name}: {problem}", hint="save the adapter again with peft's `save_pretrained`"
        )

    tensors = read_header(folder / WEIGHTS)
    sides = _sides(folder, tensors)
    check_targets(folder, config, [module for module, _ in sides])

    with _Parts(tensors) as parts:
        deltas = {
            plain_name(f"{module}.weight"): _delta(folder, config, module, parts, pair)
            for module, pair in sides
        }

    kind = initialisation(config)
    return Lora(
        name=folder.name,
        base=str(config.get("base_model_name_or_path") or ""),
        initialisation=kind if kind in REBUILT else "",
        alpha=float(config["lora_alpha"]),
        deltas=deltas,
    )


def check_fits(lora: Lora, weights: Weights, base: str) -> None:
    """Raise ArtifactError unless the base has every changed weight in the same shape."""
    hint = f"it was trained on `{lora.base}`" if lora.base else ""
    for weight, delta in lora.deltas.items():
        problem = f"adapter {lora.name}: made for another base"
        tensor = weights.tensors.get(weight)
        if tensor is None and weight == "lm_head.weight":
            raise ArtifactError(
                f"adapter {lora.name}: changes `{weight}`, which `{base}` does not have: "
                "it is tied to the embedding",
                hint=ELSEWHERE,
            )
        if tensor is None:
            raise ArtifactError(f"{problem}: `{base}` has no tensor `{weight}`", hint=hint)

        shape = (delta.b.shape[0], delta.a.shape[1])
        if tensor.shape != shape:
            raise ArtifactError(
                f"{problem}: `{weight}` is {_by(tensor.shape)} in `{base}`, "
                f"{_by(shape)} in the adapter",
                hint=hint,
            )


class Merged:
    """The rows of a base with an adapter added to them; the same shapes and names."""

    def __init__(self, weights: Weights, lora: Lora) -> None:
        self.tensors = weights.tensors
        self._weights = weights
        self._lora = lora

    def rows(self, name: str, first: int, count: int) -> "NDArray[np.float32]":
        """Return rows of base + scale · B·A, rounded to float32 once."""
        import numpy as np

        rows = self._weights.rows(name, first, count)
        delta = self._lora.deltas.get(name)
        return rows if delta is None else (rows + delta.rows(first, count)).astype(np.float32)


class _Parts(Weights):
    """The tensors of an adapter, whole."""

    def whole(self, name: str) -> "NDArray[np.float32]":
        """Return one matrix; raise ArtifactError if a weight of it is NaN or infinite."""
        import numpy as np

        values = self.rows(name, 0, self.tensors[name].rows)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{WEIGHTS}: tensor `{name}`: a weight is NaN or infinite")
        return values

    def __enter__(self) -> "_Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sides(folder: Path, tensors: Mapping[str, Tensor]) -> list[tuple[str, dict[str, str]]]:
    """Return the modules with the names of their A and B."""
    sides: dict[str, dict[str, str]] = {}
    for key, tensor in tensors.items():
        if not key.startswith(_PREFIX):
            raise ArtifactError(
                f"{folder.name}: tensor `{key}`: its name does not begin with `{_PREFIX}`, "
                "so peft would not load it",
                hint="save the adapter again with peft's `save_pretrained`",
            )
        match = _PART.fullmatch(key.removeprefix(_PREFIX))
        if not match or len(tensor.shape) != 2:
            raise ArtifactError(
                f"{folder.name}: tensor `{key}` is not LoRA on a linear layer", hint=ELSEWHERE
            )
        sides.setdefault(match["module"], {})[match["side"]] = key

    if not sides or any(len(pair) < 2 for pair in sides.values()):
        raise ArtifactError(
            f"{folder.name}: {WEIGHTS}: a LoRA pair is missing",
            hint="download or copy the adapter again",
        )

    return sorted(sides.items())


def _delta(
    folder: Path, config: Mapping[str, Any], module: str, parts: _Parts, sides: Mapping[str, str]
) -> Delta:
    a, b = parts.whole(sides["A"]), parts.whole(sides["B"])
    if a.shape[0] != b.shape[1]:
        raise ArtifactError(
            f"{folder.name}: tensor `{sides['B']}`: rank {b.shape[1]}, but A has rank {a.shape[0]}"
        )
    rank = pattern_value(config, "rank_pattern", module, config.get("r", 8))
    if a.shape[0] != rank:
        raise ArtifactError(
            f"{folder.name}: tensor `{sides['A']}`: rank {a.shape[0]}, {CONFIG} says {rank}"
        )
    return Delta(a=a, b=b, scale=_scale(config, module, rank))


def _scale(config: Mapping[str, Any], module: str, r: int) -> float:
    """Return alpha / r, or alpha / √r with rsLoRA (arXiv:2312.03732)."""
    alpha = float(pattern_value(config, "alpha_pattern", module, config["lora_alpha"]))
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape)

"""PEFT LoRA adapters read without torch: which weights they change and by how much, row by row.

Quantizing merges them while it reads, so no merged checkpoint is written; or they travel unmerged beside their base.
Only plain LoRA on linear layers is taken: everything else would be lost without a word.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.weights import Tensor, Weights, read_header, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SMALL_PRODUCT = 1 << 18
"""Multiplications up to which OpenBLAS stays in its caller's thread; its own threads only wait for each other under ours."""
_PREFIX = "base_model.model."
_PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_ELSEWHERE = "merge it with peft's `merge_and_unload` and give the merged folder as the base"
_OTHER_KINDS = (
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What an adapter adds to one weight: scale · B·A, A of shape (r, in) and B of shape (out, r)."""

    a: "NDArray[np.float32]"
    b: "NDArray[np.float32]"
    scale: float

    def rows(self, first: int, count: int) -> "NDArray[np.float64]":
        """Return rows `first` to `first + count`: in double precision, so that they do not depend on how rows are grouped."""
        import numpy as np

        scaled, a = (
            self.b[first : first + count].astype(np.float64) * self.scale,
            self.a.astype(np.float64),
        )
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
    """An adapter, read and checked."""

    name: str
    base: str
    """What it says it was trained on."""
    alpha: float
    deltas: Mapping[str, Delta]
    """By the name of the weight in the base."""


def read_lora(folder: Path) -> Lora:
    """Return the adapter in a folder; raise ArtifactError for pickles and for kinds other than plain LoRA on linear layers."""
    if not (folder / CONFIG).is_file():
        raise ArtifactError(
            f"{folder.name}: no `{CONFIG}`",
            hint="an adapter folder is what peft's `save_pretrained` writes",
        )
    config = read_json(folder / CONFIG)
    _check_kind(folder, config)
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
    with _Parts(tensors) as parts:
        deltas = {
            f"{module}.weight": _delta(folder, config, module, parts, sides)
            for module, sides in _sides(folder, tensors)
        }
    base = str(config.get("base_model_name_or_path") or "")
    return Lora(name=folder.name, base=base, alpha=float(config["lora_alpha"]), deltas=deltas)


def check_fits(lora: Lora, weights: Weights, base: str) -> None:
    """Raise ArtifactError unless every weight that the adapter changes is in the base, in the same shape."""
    hint = f"it was trained on `{lora.base}`" if lora.base else ""
    for weight, delta in lora.deltas.items():
        made = f"adapter {lora.name}: made for another base"
        found = weights.tensors.get(weight)
        if found is None:
            raise ArtifactError(f"{made}: `{base}` has no tensor `{weight}`", hint=hint)
        shape = (delta.b.shape[0], delta.a.shape[1])
        if found.shape != shape:
            raise ArtifactError(
                f"{made}: `{weight}` is {_by(found.shape)} in `{base}`, {_by(shape)} in the adapter",
                hint=hint,
            )


class Merged:
    """The rows of a base with an adapter added to them; the same shapes and names."""

    def __init__(self, weights: Weights, lora: Lora) -> None:
        self.tensors = weights.tensors
        self._weights, self._lora = weights, lora

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _sides(folder: Path, tensors: Mapping[str, Tensor]) -> list[tuple[str, dict[str, str]]]:
    """Return the modules with the names of their A and B."""
    sides: dict[str, dict[str, str]] = {}
    for key, tensor in tensors.items():
        found = _PART.fullmatch(key.removeprefix(_PREFIX))
        if not found or len(tensor.shape) != 2:
            raise ArtifactError(
                f"{folder.name}: tensor `{key}` is not LoRA on a linear layer", hint=_ELSEWHERE
            )
        sides.setdefault(found["module"], {})[found["side"]] = key
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
    return Delta(a=a, b=b, scale=_scale(config, module, a.shape[0]))


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ArtifactError(
            f"{folder.name}: adapters of kind `{kind}` are not merged", hint=_ELSEWHERE
        )
    for key in _OTHER_KINDS:
        if config.get(key):
            raise ArtifactError(
                f"{folder.name}: an adapter with `{key}` is not merged", hint=_ELSEWHERE
            )
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: `lora_alpha` is `{config.get('lora_alpha')}`, not a number"
        )


def _scale(config: Mapping[str, Any], module: str, r: int) -> float:
    """Return alpha / r, or alpha / √r with rsLoRA (arXiv:2312.03732); peft's patterns name modules by a suffix."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    named = [
        value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)
    ]
    alpha = float(named[0] if named else config["lora_alpha"])
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape)

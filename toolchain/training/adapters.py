"""LoRA adapters onto plain weights, tensor by tensor: merged = base + scale · B·A, computed in float32 and rounded once.

What an adapter does not touch is copied bit for bit, and one file of the base stands in memory at a time.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.weights import INDEX, read_json

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A PEFT LoRA adapter, read and checked."""

    name: str
    base: str
    """What it says it was trained on."""
    pairs: Mapping[str, tuple["Tensor", "Tensor"]]
    """A [r, in] and B [out, r] of each weight by its name in the base."""
    scales: Mapping[str, float]

    def delta(self, weight: str) -> "Tensor":
        """Return scale · B·A as float32 [out, in]."""
        a, b = self.pairs[weight]
        return (b.float() @ a.float()) * self.scales[weight]


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in a folder; raise ArtifactError for pickles and for kinds other than plain LoRA on linear layers."""
    from safetensors.torch import load_file

    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder.name}: no `{CONFIG}`", hint="an adapter folder is what peft's `save_pretrained` writes")
    config = read_json(folder / CONFIG)
    _check_kind(folder, config)
    if not (folder / WEIGHTS).is_file():
        pickle = (folder / "adapter_model.bin").is_file()
        problem = "`adapter_model.bin` is a pickle, which can run code when it is loaded" if pickle else f"no `{WEIGHTS}`"
        raise ArtifactError(f"{folder.name}: {problem}", hint="save the adapter again with peft's `save_pretrained`")
    sides: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / WEIGHTS).items():
        found = _LORA.fullmatch(key.removeprefix(_PREFIX))
        if not found or tensor.ndim != 2:
            raise ArtifactError(f"{folder.name}: tensor `{key}` is not LoRA on a linear layer", hint=_ELSEWHERE)
        sides.setdefault(found["module"], {})[found["side"]] = tensor
    pairs = {f"{module}.weight": (pair["A"], pair["B"]) for module, pair in sorted(sides.items()) if len(pair) == 2}
    if not pairs or len(pairs) < len(sides):
        raise ArtifactError(f"{folder.name}: {WEIGHTS}: a LoRA pair is missing", hint="download or copy the adapter again")
    scales = {weight: _scale(config, weight.removesuffix(".weight"), pair[0].shape[0]) for weight, pair in pairs.items()}
    return Adapter(name=folder.name, base=str(config.get("base_model_name_or_path") or ""), pairs=pairs, scales=scales)


_ELSEWHERE = "merge it with peft's `merge_and_unload` and give the merged folder as the base"


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ArtifactError(f"{folder.name}: adapters of kind `{kind}` are not merged", hint=_ELSEWHERE)
    for key in ("use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias", "layer_replication", "trainable_token_indices"):
        if config.get(key):
            raise ArtifactError(f"{folder.name}: an adapter with `{key}` is not merged", hint=_ELSEWHERE)


def _scale(config: Mapping[str, Any], module: str, r: int) -> float:
    """Return alpha / r, or alpha / √r with rsLoRA (arXiv:2312.03732); peft's patterns name modules by a suffix."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    named = [value for pattern, value in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)]
    alpha = float(named[0] if named else config["lora_alpha"])
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def merge_into(base: Path, adapter: Adapter, out: Path) -> int:
    """Write the base's safetensors to `out` with the adapter merged; return how many tensors it touched.

    Raises ArtifactError, before anything is written, for an adapter that was made for another base.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = sorted(base.glob("*.safetensors"))
    _check_shapes(base, files, adapter)
    for file in files:
        with safe_open(file, "pt") as tensors:
            names, header = list(tensors.keys()), tensors.metadata()
            merged = {name: _merged(tensors.get_tensor(name), name, adapter) for name in names}
        save_file(merged, out / file.name, metadata=header)
    if (base / INDEX).is_file():
        (out / INDEX).write_bytes((base / INDEX).read_bytes())
    return len(adapter.pairs)


def _merged(weight: "Tensor", name: str, adapter: Adapter) -> "Tensor":
    return (weight.float() + adapter.delta(name)).to(weight.dtype) if name in adapter.pairs else weight


def _check_shapes(base: Path, files: list[Path], adapter: Adapter) -> None:
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - not a dict
    hint = f"it was trained on `{adapter.base}`" if adapter.base else ""
    for weight, (a, b) in adapter.pairs.items():
        if weight not in shapes:
            raise ArtifactError(f"adapter {adapter.name}: made for another base: `{base.name}` has no tensor `{weight}`", hint=hint)
        if list(shapes[weight]) != (delta := [b.shape[0], a.shape[1]]):
            raise ArtifactError(
                f"adapter {adapter.name}: made for another base: `{weight}` is {_by(shapes[weight])} in `{base.name}`, "
                f"{_by(delta)} in the adapter",
                hint=hint,
            )


def _by(shape: list[int]) -> str:
    return " × ".join(str(side) for side in shape)


def save_adapter(model: Any, folder: Path, *, base: str) -> None:
    """Write the LoRA weights of a peft model and their configuration, with the same bytes for the same adapter."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        key: sorted(value) if isinstance(value, set) else value for key, value in model.peft_config["default"].to_dict().items()
    }
    config |= {"base_model_name_or_path": base, "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")

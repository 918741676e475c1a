"""Merges LoRA adapters into plain weights, tensor by tensor: merged = base + scale · B·A.

The sum is computed in double precision and rounded once. Unchanged tensors are copied bit for bit.
One file of the base is in memory at a time.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint
from toolchain.models.adapter_config import CONFIG
from toolchain.models.lora import WEIGHTS, Lora, open_lora
from toolchain.models.names import CONFIG as MODEL_CONFIG
from toolchain.models.sights import plain_name
from toolchain.models.tokenizer_files import TEMPLATE_FILES, TOKENIZER_FILES, tokenizer_sources
from toolchain.models.vision import sight_of
from toolchain.models.weights import INDEX, WHOLE, Weights, open_weights, read_json, weight_files

if TYPE_CHECKING:
    from torch import Tensor

EYES = r"model\.(vision_model|connector|vision_tower|multi_modal_projector)\..*"
"""Modules that `exclude_modules` keeps peft from adapting: their names may be a layer's."""
_INSIDE = re.compile(r"^(base_model\.model\.)model\.")
LOST = 0.01
"""Share of its changes that a merge may lose to rounding before it is written in float32."""
# bf16 keeps 8 bits: weights of 0.05 are rounded by up to 1e-4, as much as a short tuning changes
# them. On a real model such a merge raised a loss from 3.45 to 3.55.
_TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Type in a safetensors header → torch's name."""


@dataclass(frozen=True, slots=True)
class MergeError:
    """Error of a merge by its data type: ‖merged − exact‖ ÷ ‖ΔW‖ over all changed weights."""

    own: float
    """Error in the types of the base."""
    float32: float

    @property
    def whole(self) -> bool:
        """Whether to merge in float32: the base's types lose more than LOST of the change."""
        return self.own > LOST


def merge_into(base: Path, adapter: Path, out: Path) -> tuple[int, MergeError]:
    """Write the base's safetensors to `out` with the adapter merged.

    Returns the number of changed tensors and the rounding error. Changed tensors are written in
    float32 if the base's types would lose more than LOST of the change. Raises ArtifactError before
    anything is written, for an adapter that was made for another base.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    with open_weights(base) as weights:
        lora = open_lora(adapter, weights, base.name)
        error = _merge_error(weights, lora)

    for file in weight_files(base):
        with safe_open(file, "pt") as tensors:
            merged = {
                name: _merged(tensors.get_tensor(name), plain_name(name), lora, whole=error.whole)
                for name in tensors.keys()  # noqa: SIM118 - not a dict
            }
            save_file(merged, out / file.name, metadata=tensors.metadata())

    if (base / INDEX).is_file() and not (base / WHOLE).is_file():
        (out / INDEX).write_bytes((base / INDEX).read_bytes())

    return len(lora.deltas), error


def _merge_error(weights: Weights, lora: Lora) -> MergeError:
    import numpy as np
    import torch

    lost = dict.fromkeys(("own", "float32"), 0.0)
    changed = 0.0

    for name, delta in lora.deltas.items():
        tensor = weights.tensors[name]
        change = delta.rows(0, tensor.rows)
        exact = torch.from_numpy(weights.rows(name, 0, tensor.rows) + change)
        for kind, dtype in (("own", _TORCH[tensor.dtype]), ("float32", "float32")):
            rounded = exact.to(getattr(torch, dtype)).double()
            lost[kind] += float((rounded - exact).square().sum())
        changed += float(np.square(change).sum())

    scale = math.sqrt(changed) or 1.0
    return MergeError(math.sqrt(lost["own"]) / scale, math.sqrt(lost["float32"]) / scale)


def _merged(weight: "Tensor", name: str, lora: Lora, *, whole: bool) -> "Tensor":
    import torch

    if name not in lora.deltas:
        return weight
    exact = weight.double() + torch.from_numpy(lora.deltas[name].rows(0, len(weight)))
    return exact.to(torch.float32 if whole else weight.dtype)


@contextmanager
def checkpoint_folder(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield a folder to read the checkpoint from.

    With an unmerged adapter it is a temporary folder of symlinks, in which the adapter's tokenizer
    and template replace the base's.
    """
    if checkpoint.adapter is None:
        yield checkpoint.path
        return

    sources = tokenizer_sources(checkpoint.path, checkpoint.adapter)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, checkpoint.path.name)
        folder.mkdir()
        for file in checkpoint.path.iterdir():
            if file.name not in (*TOKENIZER_FILES, *TEMPLATE_FILES):
                (folder / file.name).symlink_to(file.resolve())
        for name, source in sources.items():
            if isinstance(source, str):
                (folder / name).write_text(source, encoding="utf-8")
            else:
                (folder / name).symlink_to(source.resolve())
        yield folder


def carry_tokenizer(base: Path, adapter: Path | None, out: Path) -> None:
    """Copy the tokenizer and the template of a checkpoint with an adapter to `out`."""
    for name, source in tokenizer_sources(base, adapter).items():
        if isinstance(source, str):
            (out / name).write_text(source, encoding="utf-8")
        elif source.is_dir():
            shutil.copytree(source, out / name, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, out / name)


def save_adapter(model: Any, folder: Path, *, base: Path) -> None:
    """Write a peft model's LoRA weights and configuration; equal adapters give equal bytes.

    That of a `base` that sees is named as peft finds the language model in it.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    sight = sight_of(read_json(base / MODEL_CONFIG))
    tensors = {
        _INSIDE.sub(rf"\1{sight.inside}", name) if sight else name: tensor.detach()
        .cpu()
        .contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    settings = model.peft_config["default"].to_dict()
    config = {
        key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()
    }
    config |= {"base_model_name_or_path": base.name, "inference_mode": True}
    if sight:
        config["exclude_modules"] = EYES
    (folder / CONFIG).write_text(
        json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )

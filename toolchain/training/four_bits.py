"""QLoRA (arXiv:2305.14314): the frozen base in four bits while an adapter is trained on it.

bitsandbytes' NF4 with double quantization, on a processor or a GPU. Embedding and head stay as they
are. What ships has 16 bits again: the adapter was trained on the rounded weights, so it is merged
both onto the base's own weights and onto the rounded ones, and the better merge is kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import files_in
from toolchain.errors import ArtifactError, GateError
from toolchain.figures import StageFigures
from toolchain.files import link_or_copy
from toolchain.models.weights import weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from toolchain.training.examples import Example

TOOL = "bitsandbytes"
KIND = "nf4"
SIXTEEN, FOUR = "16 bits", "4 bits"
"""Bases of the two merges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBitFigures(StageFigures):
    """What four bits saved and cost, and which of two merges was kept."""

    linear_mb: float
    """Megabytes of the linear layers' weights, as they are stored."""
    linear_4bit_mb: float
    weights_mb: float
    """Megabytes of all weights."""
    weights_4bit_mb: float
    base_loss: float
    """Nats per token of answers, before the training."""
    base_4bit_loss: float
    merged_loss: float
    """Of the adapter merged onto the base's own weights."""
    merged_4bit_loss: float
    """Of the adapter merged onto the rounded weights that it was trained on."""
    merged_onto: str
    """The better one: `16 bits` or `4 bits`."""

    @property
    def words(self) -> str:
        """Say all of it in a sentence."""
        return (
            f"four bits: linear layers {self.linear_mb:.0f} → {self.linear_4bit_mb:.0f} MB, "
            f"all weights {self.weights_mb:.0f} → {self.weights_4bit_mb:.0f} MB; loss of the "
            f"untrained base {self.base_loss:.3f} → {self.base_4bit_loss:.3f} a token; merged "
            f"onto 16 bits {self.merged_loss:.3f}, onto 4 bits {self.merged_4bit_loss:.3f}: "
            f"{self.merged_onto} kept"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A model whose linear layers were rounded to four bits."""

    modules: tuple[str, ...]
    """Names of these layers."""
    linear_bytes: int
    linear_4bit_bytes: int
    other_bytes: int
    """Bytes of all other weights, tied ones once."""


def round_linears(model: Any) -> Rounded:
    """Replace the linear layers of a model, all but its head, by layers of four bits.

    One layer at a time, so that both are never in memory as a whole.
    """
    import torch

    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    before = _bytes(model)
    linear = rounded = 0
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
        old = getattr(parent, name.rpartition(".")[2])
        linear += old.weight.numel() * old.weight.element_size()
        new = _layer(old)
        rounded += _rounded_bytes(new.weight)
        setattr(parent, name.rpartition(".")[2], new)
    return Rounded(
        modules=tuple(names),
        linear_bytes=linear,
        linear_4bit_bytes=rounded,
        other_bytes=before - linear,
    )


def _layer(old: Any) -> Any:
    """Return a linear layer of four bits with the weights of another."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    new = Linear4bit(
        old.in_features,
        old.out_features,
        bias=old.bias is not None,
        compute_dtype=_compute_dtype(old.weight),
        compress_statistics=True,
        quant_type=KIND,
        device="meta",
    )
    new.weight = Params4bit(
        old.weight.data, requires_grad=False, quant_type=KIND, compress_statistics=True
    ).to(old.weight.device)
    if not new.weight.bnb_quantized:
        new.weight = new.weight._quantize(old.weight.device)
    new.bias = old.bias

    # On a processor with AVX512-BF16 a pass without gradients would repack the weights for a kernel
    # that has no backward pass, and the training after it would learn nothing from these layers.
    new.support_avx512bf16_for_cpu = False
    return new


def _compute_dtype(weight: "Tensor") -> Any:
    """Return the type that is computed in: a GPU without bfloat16 computes in float32."""
    import torch

    has_bf16 = not torch.cuda.is_available() or torch.cuda.is_bf16_supported()
    return weight.dtype if has_bf16 or weight.dtype != torch.bfloat16 else torch.float32


def _bytes(model: Any) -> int:
    return sum(each.numel() * each.element_size() for each in model.parameters())


def _rounded_bytes(weight: Any) -> int:
    """Return the bytes of a rounded weight: its codes, and its scales with their own scales."""
    state = weight.quant_state
    parts = [weight.data, state.absmax]
    if state.nested:
        parts.append(state.state2.absmax)
    return sum(part.numel() * part.element_size() for part in parts)


def check_cost(base: float, rounded: float, allowed: float) -> None:
    """Raise GateError if four bits cost the untrained base more nats a token than allowed."""
    if rounded - base <= allowed:
        return
    raise GateError(
        f"tune: base_bits: four bits cost this base {rounded - base:.3f} nats a token of answers "
        f"({base:.3f} → {rounded:.3f}), {allowed:g} are allowed",
        hint="`base_bits = 16`, or a larger `max_bits_cost`; bases under a billion parameters "
        "lose most",
    )


def loss_of(model: Any, examples: "Sequence[Example]") -> float:
    """Return the loss per token of some answers as the model computes: nothing is converted."""
    import torch

    from toolchain.training.examples import batch_of
    from toolchain.training.objectives import AnswerLoss

    objective = AnswerLoss(model).eval()
    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(examples), 8):
            batch = batch_of(examples, range(first, min(first + 8, len(examples))))
            total += float(objective(batch.to(model.device)))
    return total / max(1, sum(example.targets for example in examples))


def write_rounded(base: Path, modules: Sequence[str], out: Path) -> None:
    """Write a base whose `modules` have the values that four bits leave of their weights.

    They are in the types of the base. Raise ArtifactError where a module has no tensor of its name.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    names = {f"{module}.weight" for module in modules}
    weights = weight_files(base)
    found: set[str] = set()
    for file in weights:
        with safe_open(file, "pt") as tensors:
            kept = {
                name: _as_rounded(tensors.get_tensor(name))
                if name in names
                else tensors.get_tensor(name)
                for name in tensors.keys()  # noqa: SIM118 - not a dict
            }
            found |= names & kept.keys()
            save_file(kept, out / file.name, metadata=tensors.metadata())
    if missing := names - found:
        raise ArtifactError(
            f"{base.name}: tensor `{min(missing)}` is missing, which four bits were trained on"
        )
    for file in files_in(base):
        if file.parent == base and file not in weights and not (out / file.name).exists():
            link_or_copy(file, out / file.name)


def _as_rounded(weight: "Tensor") -> "Tensor":
    """Return a weight rounded to four bits and back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(weight.contiguous(), quant_type=KIND, compress_statistics=True)
    values: Tensor = dequantize_4bit(codes, state)
    return values.to(weight.dtype)


def figures_of(
    rounded: Rounded, base: tuple[float, float], merged: tuple[float, float]
) -> FourBitFigures:
    """Return the figures, from losses on 16 and on 4 bits, before the training and merged."""
    linear, small = rounded.linear_bytes / 1e6, rounded.linear_4bit_bytes / 1e6
    other = rounded.other_bytes / 1e6
    better = SIXTEEN if merged[0] <= merged[1] or math.isnan(merged[1]) else FOUR
    return FourBitFigures(
        linear_mb=round(linear, 3),
        linear_4bit_mb=round(small, 3),
        weights_mb=round(linear + other, 3),
        weights_4bit_mb=round(small + other, 3),
        base_loss=round(base[0], 4),
        base_4bit_loss=round(base[1], 4),
        merged_loss=round(merged[0], 4),
        merged_4bit_loss=round(merged[1], 4),
        merged_onto=better,
    )

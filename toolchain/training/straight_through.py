"""Trainable weights that hold only values of a block format.

A weight is `unit · times · code − offset`. The forward pass rounds the code and makes the unit
float16; the gradient ignores both (straight-through estimator, arXiv:1308.3432; for scales
arXiv:1902.08153). So the trained weights are those of the file, bit for bit.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

CODES = 16
"""Codes of a format of four bits."""
SCALE_STEP = 0.1
"""Step size of a unit, as a share of it, where a code's is 1."""
FLOAT_STEP = 0.1
"""Step size of a float vector, as a share of its values' root mean square, where a code's is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Scales and offsets that turn the codes of a weight into values."""

    unit: Tensor
    """[rows, blocks], each a float16 number."""
    times: Tensor
    """Each scale as a multiple of its unit, [rows, groups]."""
    offset: Tensor
    """[rows, groups]"""
    low: int
    """Smallest code."""


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, offset: Tensor, low: int) -> Tensor:
        codes = latent.view(*scale.shape, -1).round().clamp_(low, low + CODES - 1)
        ctx.save_for_backward(scale, codes)
        return (codes * scale[..., None]).sub_(offset[..., None]).view_as(latent)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scale, codes = ctx.saved_tensors
        gradient = gradients[0].view_as(codes)
        return (gradient * scale[..., None]).flatten(1), (gradient * codes).sum(-1), None, None


class _Codes(nn.Module):
    """From codes before rounding [rows, columns] to weights."""

    unit: Tensor
    times: Tensor
    offset: Tensor

    def __init__(self, scales: Scales) -> None:
        super().__init__()
        for name in ("unit", "times", "offset"):
            self.register_buffer(name, getattr(scales, name))
        self.steps = nn.Parameter(torch.zeros_like(scales.unit))
        self.low = scales.low

    def units(self) -> Tensor:
        """Return the units as float16 holds them."""
        moved = self.unit * (1 + SCALE_STEP * self.steps)
        return moved + (moved.half().float() - moved).detach()

    def forward(self, latent: Tensor) -> Tensor:
        """Return the weights as the format holds them."""
        units = self.units()
        scale = units.repeat_interleave(self.times.shape[1] // units.shape[1], 1) * self.times
        weights: Tensor = _Rounded.apply(  # type: ignore[no-untyped-call]
            latent, scale, self.offset, self.low
        )
        return weights


class _Moved(nn.Module):
    """From steps to a vector that began at `start`."""

    start: Tensor

    def __init__(self, start: Tensor, step: float) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self._step = step

    def forward(self, steps: Tensor) -> Tensor:
        return self.start + self._step * steps


def learn_codes(module: nn.Module, latent: Tensor, scales: Scales) -> None:
    """Replace a module's weight by codes and scales, trained from `latent`: unrounded codes."""
    module.weight = nn.Parameter(latent.clone())
    parametrize.register_parametrization(module, "weight", _Codes(scales), unsafe=True)


def learn_vector(module: nn.Module, name: str, added: float) -> None:
    """Train a norm's weight or a bias in float, as fast as the codes.

    `added` is what the family adds to it in use.
    """
    start = getattr(module, name).detach().clone()
    step = FLOAT_STEP * float((start + added).square().mean().sqrt())
    setattr(module, name, nn.Parameter(torch.zeros_like(start)))
    parametrize.register_parametrization(module, name, _Moved(start, step), unsafe=True)


def learned_of(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a module's learned codes as int8, and its units."""
    parametrizations = cast(nn.ModuleDict, module.parametrizations)
    learned = cast(parametrize.ParametrizationList, parametrizations["weight"])
    codes = cast(_Codes, learned[0])

    whole = learned.original.detach().round().clamp(codes.low, codes.low + CODES - 1)
    return whole.to(torch.int8), codes.units().detach()

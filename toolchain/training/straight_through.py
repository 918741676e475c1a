"""Weights that can only be what a block format holds, and are learned all the same.

A weight is `scale · code − offset`. The code is rounded on the way forward and the gradient goes back as if it were not
(straight-through estimator, arXiv:1308.3432); scales and offsets stay, so what is learned is what the file will hold, bit for bit.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

CODES = 16
"""Codes of a format of four bits."""
FLOAT_STEP = 0.1
"""A step of a vector that stays in float, as a share of its values' root mean square, where a code's is 1."""


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, offset: Tensor, low: int) -> Tensor:
        ctx.save_for_backward(scale)
        codes = latent.view(*scale.shape, -1).round().clamp_(low, low + CODES - 1)
        return codes.mul_(scale[..., None]).sub_(offset[..., None]).view_as(latent)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        (gradient,) = gradients
        return (gradient.view(*scale.shape, -1) * scale[..., None]).view_as(gradient), None, None, None


class _Codes(nn.Module):
    """From codes before rounding [rows, columns] to weights; scale and offset are [rows, groups]."""

    def __init__(self, scale: Tensor, offset: Tensor, low: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        self._low = low

    def forward(self, latent: Tensor) -> Tensor:
        return _Rounded.apply(latent, self.scale, self.offset, self._low)


class _Moved(nn.Module):
    """From steps to a vector that began at `start`."""

    def __init__(self, start: Tensor, step: float) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self._step = step

    def forward(self, steps: Tensor) -> Tensor:
        return self.start + self._step * steps


def learn_codes(module: nn.Module, latent: Tensor, scale: Tensor, offset: Tensor, low: int) -> None:
    """Make a module's weight one of a grid, learned from `latent`: codes before rounding."""
    module.weight = nn.Parameter(latent.clone())
    parametrize.register_parametrization(module, "weight", _Codes(scale, offset, low), unsafe=True)


def learn_vector(module: nn.Module, name: str, added: float) -> None:
    """Learn a norm's weight or a bias in float, at the pace of the codes; `added` is what the family adds to it when it is used."""
    start = getattr(module, name).detach().clone()
    step = FLOAT_STEP * float((start + added).square().mean().sqrt())
    setattr(module, name, nn.Parameter(torch.zeros_like(start)))
    parametrize.register_parametrization(module, name, _Moved(start, step), unsafe=True)


def codes_of(module: nn.Module) -> Tensor:
    """Return the codes that a module has learned, as whole numbers."""
    learned = module.parametrizations.weight
    low = learned[0]._low
    return learned.original.detach().round().clamp(low, low + CODES - 1).to(torch.int8)

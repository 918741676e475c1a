"""What a layer reads, made again in the backward pass from what is kept anyway.

Autograd keeps the product of a gated block and the output of a norm for the layers that read them.
Both follow, element by element, from tensors that stand in memory too: gate and up, and the states
before the norm. The rule to keep: a module is replaced only where a comparison with its own output
says that it computes just that (`is_gated`, `is_norm`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_FARTHEST, _FARTHEST_16 = 1e-4, 0.02
"""Largest relative distance from what a module itself gives, in float32 and in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a tensor is made of others."""

    make: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]


def gated(gate: Tensor, up: Tensor) -> tuple[Tensor, Recipe]:
    """Return silu(gate) · up of tensors of one shape, and its recipe."""
    product: Tensor = _Product.apply(gate, up)  # type: ignore[no-untyped-call]
    return product, Recipe(make=_product, tensors=(gate.detach(), up.detach()))


def _product(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate).mul_(up)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Return silu(gate) · up."""
        ctx.save_for_backward(gate, up)
        return _product(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both factors."""
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return of_gate, _product(gate, grads[0])


def normed(states: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Recipe]:
    """Return states [..., width] ÷ their root mean square · a frozen weight, and its recipe.

    Source: RMSNorm, arXiv:1910.07467.
    """
    width = states.shape[-1]
    square = torch.linalg.vector_norm(states.detach(), dim=-1, keepdim=True).square_()
    scale = square.div_(width).add_(eps).rsqrt_()
    result: Tensor = _Norm.apply(states, weight, scale)  # type: ignore[no-untyped-call]
    return result, Recipe(make=_scaled, tensors=(states.detach(), weight, scale))


def _scaled(states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return (states * scale).mul_(weight)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Return states · scale · weight; scale [..., 1] is 1 ÷ their root mean square."""
        ctx.save_for_backward(states, weight, scale)
        return _scaled(states, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the states."""
        states, weight, scale = ctx.saved_tensors
        gradient = grads[0] * weight
        mean = torch.linalg.vecdot(gradient, states)[..., None] / states.shape[-1]
        return gradient.mul_(scale).addcmul_(states, mean * scale**3, value=-1), None, None


def is_gated(block: nn.Module) -> bool:
    """Return whether a module computes down_proj(silu(gate_proj(x)) · up_proj(x)) and no more."""
    names = {name for name, _ in block.named_children()}
    own: Any = block
    if names != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    weight, width = next(own.gate_proj.parameters()), getattr(own.gate_proj, "in_features", 0)

    def ours(states: Tensor) -> Tensor:
        product = functional.silu(own.gate_proj(states)) * own.up_proj(states)
        result: Tensor = own.down_proj(product)
        return result

    line = torch.linspace(-8, 8, 65)
    return torch.equal(own.act_fn(line), functional.silu(line)) and _alike(
        block, ours, width, weight
    )


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is `normed` with its frozen float32 `weight` and no more."""
    weight, eps = getattr(module, "weight", None), eps_of(module)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 1 or eps is None:
        return False
    if weight.requires_grad or weight.dtype != torch.float32 or len(list(module.parameters())) > 1:
        return False
    scale = weight.detach()
    return _alike(module, lambda states: normed(states, scale, eps)[0], len(scale), scale)


def eps_of(module: nn.Module) -> float | None:
    """Return what a norm adds to the mean square; None for a module that has no such number."""
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return found if isinstance(found, float) else None


def _alike(module: nn.Module, ours: Callable[[Tensor], Tensor], width: int, weight: Tensor) -> bool:
    """Return whether a module and a function give the same for random states."""
    if not weight.dtype.is_floating_point:
        return False
    draw = torch.Generator().manual_seed(0)
    states = torch.randn((1, 3, width), generator=draw).to(weight.device, weight.dtype)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            wanted, found = module(states), ours(states)
    except (TypeError, ValueError, RuntimeError):
        # A module that reads more than states.
        return False
    finally:
        module.train(was_training)
    farthest = _FARTHEST if weight.dtype == torch.float32 else _FARTHEST_16
    return bool(torch.dist(found, wanted) <= farthest * wanted.norm())

"""One function in place of the five of a LoRA layer: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, with its gradient.

peft computes it step by step and casts what a layer reads to float32; under autocast that is cast
back again, and each copy is kept for the backward pass. Here a layer keeps what it reads once, in
the type that it computes in, and layers that read the same keep it together. The rule to keep: a
layer that is more than plain LoRA (dropout, DoRA, several adapters) stays peft's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.training.gated import gated_product, is_gated


class _Casts:
    """What was cast last: query, key and value read the same states."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._cast: Tensor | None = None
        self._product: tuple[Tensor, Tensor, Tensor] | None = None

    def of(self, states: Tensor, dtype: torch.dtype) -> Tensor:
        """Return states in a type; the same tensor for the same states."""
        if states.dtype == dtype:
            return states
        # Without gradients an entry would be found again in a pass that needs them.
        alike = self._source is states and self._cast is not None and self._cast.dtype == dtype
        if not alike or self._cast is None or self._cast.requires_grad != torch.is_grad_enabled():
            self._source, self._cast = states, states.to(dtype)
        return self._cast

    def note_product(self, product: Tensor, gate: Tensor, up: Tensor) -> None:
        """Remember of what a product was made, for the layer that reads it next."""
        self._product = product, gate, up

    def factors_of(self, states: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return gate and up of a product that was noted, once; None for any other states."""
        noted, self._product = self._product, None
        return noted[1:] if noted and noted[0] is states else None

    def clear(self) -> None:
        """Let go of the states."""
        self._source = self._cast = self._product = None


@contextmanager
def fused(model: nn.Module) -> Iterator[int]:
    """Let the plain LoRA layers of a model compute in one function; yield how many they are.

    Gated blocks that read them keep less for the backward pass.
    """
    casts = _Casts()
    layers = [module for module in model.modules() if _is_plain(module)]
    blocks = [module for module in model.modules() if layers and is_gated(module)]
    for layer in layers:
        # An attribute of the instance: peft's own method comes back when it is deleted.
        layer.__dict__["forward"] = partial(_forward, layer, casts)
    for block in blocks:
        block.__dict__["forward"] = partial(_gated, block, casts)
    try:
        yield len(layers)
    finally:
        casts.clear()
        for module in (*layers, *blocks):
            del module.__dict__["forward"]


def adapted(model: nn.Module) -> bool:
    """Return whether a model has LoRA layers, so that the rest of it is frozen."""
    from peft.tuners.lora import LoraLayer

    return any(isinstance(module, LoraLayer) for module in model.modules())


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is a LoRA layer on a linear one, with nothing added."""
    from peft.tuners.lora import Linear

    layer: Any = module
    if type(module) is not Linear or type(layer.base_layer) is not nn.Linear:
        return False
    names = list(layer.active_adapters)
    if len(names) != 1 or list(layer.lora_A) != names or layer.merged or layer.lora_variant:
        return False
    is_dropped = getattr(layer.lora_dropout[names[0]], "p", 0.0) > 0
    has_bias = layer.lora_B[names[0]].bias is not None
    return not (is_dropped or has_bias or layer.fan_in_fan_out or layer.disable_adapters)


def _gated(block: Any, casts: _Casts, states: Tensor) -> Tensor:
    gate, up = block.gate_proj(states), block.up_proj(states)
    if gate.dtype != up.dtype:
        mixed: Tensor = block.down_proj(block.act_fn(gate) * up)
        return mixed
    product = gated_product(gate, up)
    casts.note_product(product, gate.detach(), up.detach())
    result: Tensor = block.down_proj(product)
    return result


def _forward(layer: Any, casts: _Casts, states: Tensor) -> Tensor:
    name = layer.active_adapters[0]
    base = layer.base_layer
    kind = states.device.type
    is_cast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if is_cast else base.weight.dtype
    factors = casts.factors_of(states) if states.dtype == dtype else None
    result: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        casts.of(states, dtype),
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        factors,
    )
    return result


class _Fused(torch.autograd.Function):
    """The sum of a frozen layer and its adapter; the frozen weight has no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        factors: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Return [..., out] of states [..., in], weight [out, in], down [r, in] and up [out, r].

        States that are a product of `factors` are not kept, but multiplied again.
        """
        dtype, kind = states.dtype, states.device.type
        with torch.autocast(kind, enabled=False):
            rows = states.reshape(-1, states.shape[-1])
            wide = weight.to(dtype)
            small = down.to(dtype)
            scaled = (up * scale).to(dtype)
            result = functional.linear(rows, wide, None if bias is None else bias.to(dtype))
            narrow = rows @ small.T
            result.addmm_(narrow, scaled.T)
        # The matrices are cast again: no step comes between.
        ctx.save_for_backward(wide, down, up, narrow, *(factors or (rows,)))
        ctx.scale = scale
        return result.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the states and of both matrices."""
        wide, down, up, narrow, *read = ctx.saved_tensors
        rows = (functional.silu(read[0]) * read[1] if len(read) == 2 else read[0]).flatten(0, -2)
        shape = (*grads[0].shape[:-1], rows.shape[-1])
        gradient = grads[0].reshape(-1, wide.shape[0]).to(rows.dtype)
        with torch.autocast(gradient.device.type, enabled=False):
            inner = gradient @ (up * ctx.scale).to(rows.dtype)
            of_down = (inner.T @ rows).to(down.dtype)
            of_up = (gradient.T @ narrow).to(up.dtype).mul_(ctx.scale)
            states = None
            if ctx.needs_input_grad[0]:
                states = (gradient @ wide).addmm_(inner, down.to(rows.dtype)).view(shape)
        return states, None, None, of_down, of_up, None, None

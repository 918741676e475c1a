"""One function in place of the five of a LoRA layer: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ, with its gradient.

peft computes it step by step and casts what a layer reads to float32; under autocast that is cast
back again, and each copy is kept for the backward pass. Here a layer keeps what it reads once, in
the type that it computes in, and layers that read the same keep it together. The rule to keep: a
layer that is more than plain LoRA (dropout, DoRA, several adapters) stays peft's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.training.remade import Recipe, eps_of, gated, is_gated, is_norm, normed


class _Read:
    """What layers read last: the query, key and value layers read the same states."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._cast: Tensor | None = None
        self._noted: tuple[Tensor, Recipe] | None = None
        self._remade: tuple[tuple[Tensor, ...], Tensor] | None = None

    def of(self, states: Tensor, dtype: torch.dtype) -> Tensor:
        """Return states in a type; the same tensor for the same states."""
        if states.dtype == dtype:
            return states
        # Without gradients an entry would be found again in a pass that needs them.
        alike = self._source is states and self._cast is not None and self._cast.dtype == dtype
        if not alike or self._cast is None or self._cast.requires_grad != torch.is_grad_enabled():
            self._source, self._cast = states, states.to(dtype)
        return self._cast

    def note(self, states: Tensor, recipe: Recipe) -> Tensor:
        """Return states, for the layers that read them next to know of what they were made."""
        self._noted = states, recipe
        return states

    def recipe_of(self, states: Tensor) -> Recipe | None:
        """Return the recipe of the states that were noted last; None for any others."""
        return self._noted[1] if self._noted and self._noted[0] is states else None

    def again(self, make: Callable[..., Tensor], tensors: Sequence[Tensor], dtype: Any) -> Tensor:
        """Return what was read, made again; once for layers that read the same."""
        # The entry holds its tensors, so that no others get their addresses.
        if self._remade and _same(self._remade[0], tensors) and self._remade[1].dtype == dtype:
            return self._remade[1]
        self._remade = tuple(tensors), make(*tensors).to(dtype)
        return self._remade[1]

    def clear(self) -> None:
        """Let go of the states."""
        self._source = self._cast = self._noted = self._remade = None


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Return whether tensors are the same memory."""
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(a.data_ptr() == b.data_ptr() for a, b in pairs)


@contextmanager
def fused(model: nn.Module) -> Iterator[int]:
    """Let the plain LoRA layers of a model compute in one function; yield how many they are.

    What gated blocks and norms give to them is not kept for the backward pass.
    """
    read = _Read()
    layers = [module for module in model.modules() if _is_plain(module)]
    around = list(model.modules()) if layers else []
    ours: list[tuple[Any, Any]] = [(layer, _forward) for layer in layers]
    ours += [(module, _gated) for module in around if is_gated(module)]
    ours += [(module, _normed) for module in around if is_norm(module)]
    for module, forward in ours:
        # An attribute of the instance: the module's own method comes back when it is deleted.
        module.__dict__["forward"] = partial(forward, module, read)
    try:
        yield len(layers)
    finally:
        read.clear()
        for module, _ in ours:
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


def _gated(block: Any, read: _Read, states: Tensor) -> Tensor:
    gate, up = block.gate_proj(states), block.up_proj(states)
    is_plain = gate.dtype == up.dtype
    product = read.note(*gated(gate, up)) if is_plain else block.act_fn(gate) * up
    result: Tensor = block.down_proj(product)
    return result


def _normed(module: Any, read: _Read, states: Tensor) -> Tensor:
    if states.dtype != torch.float32:
        own: Tensor = type(module).forward(module, states)
        return own
    return read.note(*normed(states, module.weight, eps_of(module) or 0.0))


def _forward(layer: Any, read: _Read, states: Tensor) -> Tensor:
    name = layer.active_adapters[0]
    base = layer.base_layer
    kind = states.device.type
    is_cast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if is_cast else base.weight.dtype
    result: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        read.of(states, dtype),
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        read,
        read.recipe_of(states),
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
        read: _Read,
        recipe: Recipe | None,
    ) -> Tensor:
        """Return [..., out] of states [..., in], weight [out, in], down [r, in] and up [out, r].

        States with a recipe are not kept, but made again.
        """
        dtype, kind = states.dtype, states.device.type
        with torch.autocast(kind, enabled=False):
            rows = states.reshape(-1, states.shape[-1])
            wide = weight.to(dtype)
            result = functional.linear(rows, wide, None if bias is None else bias.to(dtype))
            narrow = (rows @ down.to(dtype).T).mul_(scale)
            result.addmm_(narrow, up.to(dtype).T)
        # The matrices are cast again: no step comes between.
        ctx.save_for_backward(wide, down, up, narrow, *(recipe.tensors if recipe else (rows,)))
        ctx.scale, ctx.read, ctx.make = scale, read, recipe.make if recipe else None
        return result.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the states and of both matrices."""
        wide, down, up, narrow, *kept = ctx.saved_tensors
        with torch.autocast(wide.device.type, enabled=False):
            read = ctx.read.again(ctx.make, kept, wide.dtype) if ctx.make else kept[0]
            rows = read.flatten(0, -2)
            gradient = grads[0].reshape(-1, wide.shape[0]).to(rows.dtype)
            inner = (gradient @ up.to(rows.dtype)).mul_(ctx.scale)
            of_down = (inner.T @ rows).to(down.dtype)
            of_up = (gradient.T @ narrow).to(up.dtype)
            states = None
            if ctx.needs_input_grad[0]:
                states = (gradient @ wide).addmm_(inner, down.to(rows.dtype))
                states = states.view(*grads[0].shape[:-1], -1)
        return states, None, None, of_down, of_up, None, None, None

"""Gated blocks and norms that keep less give what they gave, and their gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from toolchain.training.remade import gated, is_gated, is_norm, normed

WIDTH, INNER = 8, 12


class Block(nn.Module):
    """The gated block of a Llama."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, INNER)
        self.up_proj = nn.Linear(WIDTH, INNER)
        self.down_proj = nn.Linear(INNER, WIDTH)
        self.act_fn: Any = activation

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        product = self.act_fn(self.gate_proj(states)) * self.up_proj(states)
        return self.down_proj(product)


class Scaled(Block):
    """One that does more."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return 1.01 * super().forward(states)


class Routed(Block):
    """One that reads more."""

    def forward(self, states: torch.Tensor, routes: torch.Tensor) -> torch.Tensor:
        return routes * super().forward(states)


class Norm(nn.Module):
    """The norm of a Llama."""

    def __init__(self, added: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH, dtype=dtype), False)
        self.variance_epsilon = 1e-5
        self.added = added

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        square = states.pow(2).mean(-1, keepdim=True)
        return (self.added + self.weight) * (states * torch.rsqrt(square + 1e-5))


def gated_product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gated(gate, up)[0]


def saved_bytes(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> int:
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.data_ptr()] = tensor.nbytes
        return tensor

    gate, up = (torch.randn(64, 64, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        product(gate, up)
    return sum(found.values())


@pytest.mark.parametrize(
    ("dtype", "share"), [(torch.float64, 1e-9), (torch.bfloat16, 0.02)], ids=["float64", "bfloat16"]
)
def test_product_and_gradients_are_those_of_autograd(dtype: torch.dtype, share: float) -> None:
    torch.manual_seed(0)
    pair = [torch.randn(7, 5, dtype=dtype, requires_grad=True) for _ in range(2)]
    weight = torch.randn(7, 5, dtype=dtype)
    found = []
    for product in (gated_product, lambda gate, up: functional.silu(gate) * up):
        value = product(*pair)
        found.append([value.detach(), *torch.autograd.grad((value * weight).sum(), pair)])
    for one, other in zip(*found, strict=True):
        assert torch.dist(one, other) <= share * other.norm()


def test_it_keeps_two_of_three_tensors() -> None:
    plain = saved_bytes(lambda gate, up: functional.silu(gate) * up)
    assert saved_bytes(gated_product) * 3 == plain * 2


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Block(nn.SiLU()), True),
        (Block(nn.SiLU()).bfloat16(), True),
        (Block(nn.GELU()), False),
        (Block(functional.silu), False),
        (Scaled(nn.SiLU()), False),
        (Routed(nn.SiLU()), False),
        (nn.Linear(WIDTH, INNER), False),
    ],
    ids=["llama's", "in 16 bits", "gelu", "no module", "scaled", "routed", "linear"],
)
def test_a_block_that_does_more_is_left_as_it_is(block: nn.Module, expected: bool) -> None:
    block.train()
    assert is_gated(block) is expected
    assert block.training


def test_a_product_is_made_again_of_its_factors() -> None:
    gate, up = torch.randn(7, 5), torch.randn(7, 5)
    product, recipe = gated(gate, up)
    assert torch.equal(recipe.make(*recipe.tensors), product)


def test_norm_and_gradient_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    norm = Norm().double()
    states = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    found = []
    for value in (normed(states, norm.weight, 1e-5)[0], norm(states)):
        found.append((value.detach(), *torch.autograd.grad((value * weight).sum(), states)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_what_a_norm_gives_is_made_again_of_what_it_read() -> None:
    states = torch.randn(2, 3, WIDTH)
    result, recipe = normed(states, torch.randn(WIDTH), 1e-5)
    assert torch.equal(recipe.make(*recipe.tensors), result)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (Norm(), True),
        (Norm().requires_grad_(True), False),
        (Norm(added=1.0), False),
        (Norm(dtype=torch.bfloat16), False),
        (nn.LayerNorm(WIDTH).requires_grad_(False), False),
        (nn.Linear(WIDTH, WIDTH).requires_grad_(False), False),
    ],
    ids=["llama's", "learns", "gemma's", "in 16 bits", "layer norm", "linear"],
)
def test_a_norm_that_does_more_is_left_as_it_is(norm: nn.Module, expected: bool) -> None:
    assert is_norm(norm) is expected

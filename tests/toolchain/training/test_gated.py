"""A gated block that keeps two tensors gives what one that keeps four gives, and its gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from toolchain.training.gated import gated_product, is_gated

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

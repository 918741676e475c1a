"""Learning through rounding: forward is the file, backward ignores the rounding."""

import numpy as np
import pytest
import torch
from torch import nn

from toolchain.quantize.learned import grids
from toolchain.quantize.learned.grids import Grid
from toolchain.tools import ggml
from toolchain.tools.ggml import Type
from toolchain.training import straight_through
from toolchain.training.straight_through import Scales

ROWS = np.random.default_rng(7).normal(size=(8, 256)).astype(np.float32)


def learning(kind: Type) -> tuple[nn.Linear, Grid, np.ndarray]:
    packed = ggml.pack(kind, ROWS, None)
    grid = grids.split(kind, packed, 256)
    module = nn.Linear(256, 8, bias=False)
    unit, times, offset = (torch.from_numpy(part) for part in (grid.unit, grid.times, grid.offset))
    scales = Scales(unit=unit, times=times, offset=offset, low=grid.low)
    straight_through.learn_codes(module, torch.from_numpy(grid.codes).float(), scales)
    return module, grid, packed


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_the_weight_is_what_ggml_quantises_and_reads_back_bit_for_bit(kind: Type) -> None:
    module, _, packed = learning(kind)
    np.testing.assert_array_equal(
        module.weight.detach().numpy(), ggml.dequantize_rows(kind, packed, 256)
    )


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_learned_codes_and_units_written_and_read_by_ggml_are_the_weight_that_was_learned_with(
    kind: Type,
) -> None:
    module, grid, packed = learning(kind)
    optimizer = torch.optim.SGD(module.parameters(), lr=300.0)
    module(
        torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    ).square().sum().backward()
    optimizer.step()
    codes, units = (part.numpy() for part in straight_through.learned_of(module))
    written = grids.join(kind, packed, codes, units)
    layout = grids.split(kind, written, 256)
    assert (layout.codes != grid.codes).any()
    assert (layout.unit != grid.unit).any()
    np.testing.assert_array_equal(
        module.weight.detach().numpy(), ggml.dequantize_rows(kind, written, 256)
    )


def test_the_gradient_passes_the_rounding_scaled_by_the_step_of_a_code() -> None:
    module, grid, _ = learning(Type.Q4_0)
    given = torch.randn(8, 256, generator=torch.Generator().manual_seed(1))
    (module.weight * given).sum().backward()
    expected = given.view(8, -1, 32) * torch.from_numpy(grid.scale)[..., None]
    torch.testing.assert_close(module.parametrizations.weight.original.grad, expected.view(8, 256))


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_a_unit_learns_by_what_all_codes_of_its_block_would_gain(kind: Type) -> None:
    module, grid, _ = learning(kind)
    given = torch.randn(8, 256, generator=torch.Generator().manual_seed(2))
    (module.weight * given).sum().backward()
    each = (
        given.view(8, -1, 32)
        * torch.from_numpy(grid.codes).view(8, -1, 32)
        * torch.from_numpy(grid.times)[..., None]
    )
    expected = (
        each.sum(-1).view(*grid.unit.shape, -1).sum(-1)
        * torch.from_numpy(grid.unit)
        * straight_through.SCALE_STEP
    )
    torch.testing.assert_close(module.parametrizations.weight[0].steps.grad, expected)


def test_a_vector_begins_where_it_was_and_moves_by_a_tenth_of_its_mean_square_a_step() -> None:
    norm = nn.LayerNorm(4, bias=False)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, -2.0, 2.0, -2.0]))
    straight_through.learn_vector(norm, "weight", added=0.0)
    assert norm.weight.tolist() == [2.0, -2.0, 2.0, -2.0]
    with torch.no_grad():
        norm.parametrizations.weight.original.add_(1)
    torch.testing.assert_close(norm.weight.detach(), torch.tensor([2.2, -1.8, 2.2, -1.8]))


def test_a_norm_that_the_family_adds_one_to_moves_as_what_is_used() -> None:
    norm = nn.LayerNorm(2, bias=False)
    with torch.no_grad():
        norm.weight.zero_()
    straight_through.learn_vector(norm, "weight", added=1.0)
    with torch.no_grad():
        norm.parametrizations.weight.original.add_(1)
    torch.testing.assert_close(norm.weight.detach(), torch.tensor([0.1, 0.1]))

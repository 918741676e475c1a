"""Rounding with compensated errors: nearer in the product; plain rounding of independent inputs."""

import numpy as np
import pytest
import torch

from toolchain.quantize.learned import compensate, grids
from toolchain.quantize.learned.grids import Grid
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

ROWS = np.random.default_rng(5).normal(size=(16, 256)).astype(np.float32)


def grid_of(kind: Type) -> Grid:
    return grids.split(kind, ggml.pack(kind, ROWS, None), 256)


def values(grid: Grid, codes: torch.Tensor) -> torch.Tensor:
    parts = (
        codes.view(len(ROWS), -1, grids.GROUP) * torch.from_numpy(grid.scale)[..., None]
        - torch.from_numpy(grid.offset)[..., None]
    )
    return parts.view(len(ROWS), -1)


def output_error(moments: torch.Tensor, found: torch.Tensor) -> float:
    difference = found - torch.from_numpy(ROWS)
    return float(((difference @ moments) * difference).sum())


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_products_are_nearer_than_those_of_plain_rounding(kind: Type) -> None:
    draw = torch.Generator().manual_seed(6)
    inputs = torch.randn(512, 8, generator=draw) @ torch.randn(
        8, 256, generator=draw
    ) + 0.3 * torch.randn(512, 256, generator=draw)
    moments, grid = inputs.T @ inputs, grid_of(kind)
    latent = compensate.compensated(torch.from_numpy(ROWS), grid, moments)
    assert output_error(moments, values(grid, latent.round())) < 0.5 * output_error(
        moments, values(grid, torch.from_numpy(grid.codes))
    )


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_columns_that_share_nothing_are_rounded_to_the_nearest_code(kind: Type) -> None:
    grid = grid_of(kind)
    latent = compensate.compensated(torch.from_numpy(ROWS), grid, torch.eye(256))
    offset, scale = (
        torch.from_numpy(part).repeat_interleave(grids.GROUP, 1)
        for part in (grid.offset, grid.scale)
    )
    nearest = ((torch.from_numpy(ROWS) + offset) / scale).clamp(grid.low, grid.low + 15).round()
    assert (latent.round() == nearest).float().mean() > 0.999


def test_codes_stay_within_four_bits() -> None:
    grid = grid_of(Type.Q4_0)
    latent = compensate.compensated(torch.from_numpy(3 * ROWS), grid, torch.eye(256))
    assert (latent.round().min(), latent.round().max()) == (-8, 7)

"""A batch is read in parts, or its layers again, only where it does not fit."""

import pytest
import torch
from torch import nn

from toolchain.training.room import available_bytes, fit, saved_bytes


@pytest.mark.parametrize(
    ("needed", "available", "can", "wanted"),
    [
        (10, 1000, True, (1, False)),
        (10, 100, True, (2, False)),
        (100, 200, True, (2, True)),
        (100, 200, False, (8, False)),
        (500, 200, True, (8, True)),
        (5000, 200, False, (8, False)),
    ],
    ids=["fits", "two parts", "again", "cannot", "again and alone", "nothing helps"],
)
def test_parts_come_before_layers_that_are_computed_again(
    needed: int, available: int, can: bool, wanted: tuple[int, bool]
) -> None:
    is_again = False

    def again() -> bool:
        nonlocal is_again
        is_again = can
        return can

    def row_bytes() -> tuple[int, int]:
        return 0, needed // 4 if is_again else needed

    found = fit(row_bytes=row_bytes, rows=8, tokens=100, available=available, again=again)
    assert found == wanted


@pytest.mark.parametrize(("available", "parts"), [(1000, 1), (240, 1), (200, 2), (110, 8)])
def test_what_rows_share_counts_once_a_part(available: int, parts: int) -> None:
    found = fit(
        row_bytes=lambda: (60, 10), rows=8, tokens=1000, available=available, again=lambda: False
    )
    assert found == (parts, False)


def test_what_a_loss_keeps_is_counted_without_the_weights() -> None:
    layer = nn.Linear(1000, 10, bias=False)
    states = torch.randn(50, 1000, requires_grad=True)
    found = saved_bytes(layer, lambda: layer(states).square().sum())
    assert found == 4 * (50 * 1000 + 50 * 10)


def test_what_is_kept_twice_counts_once() -> None:
    layer = nn.Linear(8, 8, bias=False)
    states = torch.randn(4, 8)
    found = saved_bytes(layer, lambda: (layer(states) + layer(states)).sum())
    assert found == 4 * 4 * 8


def test_processes_share_what_is_left() -> None:
    device = torch.device("cpu")
    one, four = available_bytes(device, 1), available_bytes(device, 4)
    assert one > 1 << 20
    assert four < one / 2

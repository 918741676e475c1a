"""How a batch fits into the memory that is left: read whole, in parts, or layer by layer again.

What a loss keeps for its backward pass is counted on the longest example, so it holds for any
family. Parts (gradient accumulation) cost hardly any time while each has many tokens; layers that
are computed again (gradient checkpointing, arXiv:1604.06174) cost a third. So parts come first.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toolchain import memory

ROOM = 0.6
"""Share of the available memory that a batch may take: gradients and moments need some too."""
LEAST_TOKENS = 256
"""Tokens of a part below which matrices are multiplied at a lower rate."""


def saved_bytes(objective: nn.Module, loss: Callable[[], Tensor]) -> int:
    """Return the bytes that a loss keeps for its backward pass, without the weights."""
    weights = {each.untyped_storage().data_ptr() for each in objective.parameters()}
    found: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        """Remember the storage of a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # The storage is held, so that no other tensor gets its address.
            found[storage.data_ptr()] = storage
        # Detached: a tensor that its own graph holds would be freed much later.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss()
    return sum(each.nbytes() for each in found.values())


def fit(
    *,
    row_bytes: Callable[[], tuple[int, int]],
    rows: int,
    tokens: int,
    available: int,
    again: Callable[[], bool],
) -> tuple[int, bool]:
    """Return in how many parts a batch of so many rows is read in the available bytes.

    The second value is whether layers are computed again in the backward pass.
    `row_bytes` measures what is kept once a part, and for each of the longest rows of so many
    `tokens`. `again` switches to layers that are computed again, and returns whether the model can;
    it stays so if the answer says so.
    """
    room = ROOM * available
    once, needed = row_bytes()
    if once + rows * needed <= room:
        return 1, False
    most = max(1, rows * tokens // LEAST_TOKENS)
    parts = _parts(rows, once, needed, room)
    if (parts <= most and once + needed <= room) or not again():
        return parts, False
    return _parts(rows, *row_bytes(), room), True


def _parts(rows: int, once: int, needed: int, room: float) -> int:
    """Return in how many parts rows fit; each row alone if none does."""
    left = room - once
    return rows if needed >= left else math.ceil(rows / int(left // needed))


def checkpoint_layers(model: Any, *, on: bool) -> bool:
    """Let a model compute its layers again in the backward pass, or no longer; return if it can."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        return False
    if on:
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.activation_checkpointing_disable()
    return True


def available_bytes(device: torch.device, processes: int) -> int:
    """Return the memory that is left here for each of some processes on one computer."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # Where nobody says, a batch is read whole, as before.
    return (memory.available_bytes() or 1 << 62) // max(1, processes)

"""How a training computes: its type, LoRA in one function, packed rows, and parts that fit.

Nothing here changes what is learned beyond rounding. What is chosen stands in the record, and in
the state of a run, so that one that goes on computes as it began.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from toolchain import memory
from toolchain.recipe import Precision
from toolchain.training.examples import Example, batch_of, blocks
from toolchain.training.fused_lora import fused
from toolchain.training.mapped import keep_all
from toolchain.training.packed import packs
from toolchain.training.precision import FLOAT32, autocast, choose, hold
from toolchain.training.room import available_bytes, checkpoint_layers, fit, saved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What was chosen for a training."""

    precision: Precision = FLOAT32
    precision_reason: str = ""
    """Why, in words; empty in the state of an earlier version."""
    parts: int = 1
    """Pieces of a batch, read one after the other before a step."""
    checkpointing: bool = False
    """Whether layers are computed again in the backward pass."""

    def text(self) -> str:
        """Return what `of_text` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_text(cls, text: str) -> "Compute":
        """Read what `text` wrote."""
        return cls(**json.loads(text))


@contextmanager
def computing(
    objective: Any,
    examples: Sequence[Example],
    accelerator: Any,
    *,
    precision: Precision,
    batch_size: int,
    begun: Compute | None,
) -> Iterator[Compute]:
    """Let an objective compute as is fastest in the memory that is left; yield how.

    `begun` is how an interrupted run began. Afterwards the model is read as it was before.
    """
    # Shards of weights are nobody's to measure: FSDP and DeepSpeed have their own settings.
    is_whole = str(accelerator.distributed_type.value) in ("NO", "MULTI_GPU", "MULTI_CPU")
    if not is_whole or not hasattr(objective, "model"):
        kind, reason = precision, "the recipe says so"
        if kind == "auto":
            kind, reason = FLOAT32, "it is not chosen for models in shards, nor for several at once"
        yield Compute(precision=kind, precision_reason=reason)
        return

    objective.to(accelerator.device)
    # A training of SmolLM2 had 25 to 80 MB less at its peak, at no cost that could be measured.
    memory.give_back_large()
    with ExitStack() as stack:
        stack.enter_context(fused(objective.model))
        stack.enter_context(packs(objective.model))
        stack.callback(objective.zero_grad)
        stack.callback(keep_all, objective.model)
        chosen = begun or _chosen(objective, examples, accelerator, precision, batch_size)
        hold(chosen.precision, objective.model, alone=accelerator.num_processes == 1)
        if chosen.checkpointing:
            checkpoint_layers(objective.model, on=True)
            stack.callback(checkpoint_layers, objective.model, on=False)
        yield chosen


def _chosen(
    objective: nn.Module,
    examples: Sequence[Example],
    accelerator: Any,
    precision: Precision,
    batch_size: int,
) -> Compute:
    """Return what the first process chooses: all of them must take the same steps."""
    from accelerate.utils import broadcast_object_list

    chosen = [""]
    if accelerator.is_main_process:
        state = torch.get_rng_state()
        best = _choose(objective, examples, accelerator, precision, batch_size)
        torch.set_rng_state(state)
        chosen = [best.text()]
    return Compute.of_text(broadcast_object_list(chosen)[0])


def _needs_whole_batch(objective: nn.Module) -> bool:
    """Return whether the loss of a batch is not the sum over its parts."""
    return bool(getattr(objective, "needs_whole_batch", False))


def _choose(
    objective: nn.Module,
    examples: Sequence[Example],
    accelerator: Any,
    precision: Precision,
    batch_size: int,
) -> Compute:
    device, processes = accelerator.device, accelerator.num_processes
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].ids))
    first = max(0, len(order) // 2 - batch_size)
    tokens = sum(len(examples[row].ids) for row in order[first : first + batch_size])
    kind, reason = choose(precision, objective.model, tokens, device)
    hold(kind, objective.model, alone=processes == 1)
    if _needs_whole_batch(objective):
        return Compute(precision=kind, precision_reason=reason)
    rows = -(-min(batch_size, len(examples)) // processes)
    longest = [
        sorted(block.rows, key=lambda row: len(examples[row].ids))[-2:]
        for block in blocks(examples, batch_size)
    ]

    def kept(some: Sequence[int]) -> int:
        """Return the bytes that some conversations keep for their backward pass."""
        batch = batch_of(examples, some).to(device)

        def loss() -> torch.Tensor:
            with autocast(kind, device):
                found: torch.Tensor = objective(batch)
                return found

        return saved_bytes(objective, loss)

    def row_bytes() -> tuple[int, int]:
        """Return what the longest conversations keep: what they share, and each of its own."""
        found = [_once_and_each(kept, some) for some in longest]
        return max(found, key=lambda each: each[0] + rows * each[1])

    parts, checkpointing = fit(
        row_bytes=row_bytes,
        rows=rows,
        tokens=len(examples[order[-1]].ids),
        available=available_bytes(device, processes),
        again=lambda: checkpoint_layers(objective.model, on=True),
    )
    return Compute(
        precision=kind, precision_reason=reason, parts=parts, checkpointing=checkpointing
    )


def _once_and_each(kept: Callable[[Sequence[int]], int], rows: Sequence[int]) -> tuple[int, int]:
    """Return the bytes that two rows keep together but once, and those of each further row."""
    alone = kept(rows[-1:])
    if len(rows) < 2:
        return 0, alone
    # The second is at most as long: of rows without a common beginning one counts as the longest.
    each = min(alone, max(1, kept(rows) - alone))
    return alone - each, each

"""In which type a training computes: float32, or float32 weights under autocast to bfloat16.

Weights that learn stay float32 either way, so a small step of AdamW is not rounded away. `auto`
takes bfloat16 where a short trial on the training's own text is faster with it: a processor's flag
does not say that. On a GPU the flag does.
"""

import ctypes
import math
import mmap
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from toolchain.recipe import Precision
from toolchain.training.examples import Batch
from toolchain.training.fused_lora import adapted

FLOAT32: Precision = "float32"
BF16: Precision = "bf16"
FASTER = 0.85
"""Share of float32's time from which on `auto` takes bfloat16."""
WORTH_S = 0.1
"""Processor seconds of a batch below which `auto` stays with float32: of so short a pass a busy
computer makes anything, and two equal trainings ought to give equal weights."""
TRIALS = 2
"""Passes of bfloat16 in a trial, at most; the fastest counts."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a loss is computed."""
    return torch.autocast(device.type, torch.bfloat16) if precision == BF16 else nullcontext()


def choose(
    precision: Precision, objective: nn.Module, batch: Batch, device: torch.device
) -> Precision:
    """Return float32 or bf16; `auto` is decided by passes over a batch, from which nothing learns.

    A model whose own weights have 16 bits computes in them either way.
    """
    if precision != "auto":
        return precision
    if not _has_float32(objective):
        return FLOAT32
    if device.type == "cuda":
        return BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else FLOAT32

    seconds = _seconds(FLOAT32, objective, batch, math.inf)
    if seconds < WORTH_S:
        return FLOAT32
    enough = FASTER * seconds
    return BF16 if _seconds(BF16, objective, batch, enough) <= enough else FLOAT32


def _has_float32(objective: nn.Module) -> bool:
    """Return whether linear layers have float32 weights: others are multiplied as they are."""
    return any(
        type(module) is nn.Linear and module.weight.dtype == torch.float32
        for module in objective.modules()
        if not hasattr(module, "lora_A")
    )


def _seconds(precision: Precision, objective: nn.Module, batch: Batch, enough: float) -> float:
    """Return the processor seconds of the fastest of a few passes.

    It stops as soon as a pass takes no more than `enough`, or so much more that none will.
    """
    best = math.inf
    for number in range(1 + TRIALS):
        began = time.process_time()
        # Nothing is kept for a backward pass, which would take the memory of a step in float32.
        with torch.no_grad(), autocast(precision, batch.ids.device):
            objective(batch)
        seconds = time.process_time() - began
        if number:  # the first pass sets up what others find
            best = min(best, seconds)
        # Without bfloat16 in hardware a pass takes many times as long.
        if best <= enough or seconds > 3 * enough:
            return min(best, seconds)
    return best


def _forget(weight: Tensor) -> None:
    """Take what nobody reads any more out of memory: it is mapped from a file, which stays open.

    A weight that lies in no file is freed right after, so it may lose its values here too.
    """
    if weight.device.type != "cpu" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    page = mmap.PAGESIZE
    first = -(-weight.data_ptr() // page) * page
    last = (weight.data_ptr() + weight.nbytes) // page * page
    if first < last and weight.is_contiguous():
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def hold(precision: Precision, model: Any) -> int:
    """Hold the frozen linear weights of an adapted model in bfloat16; return how many these are.

    Autocast would round them to the same values in every step. They stay rounded: whoever adapts a
    model reads its base from the folder again. A head that shares the weight of the embedding gets
    one of its own: the embedding stays float32, or all that the layers add up would begin in 16
    bits.
    """
    if precision != BF16 or not adapted(model):
        return 0
    tied = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    if head is not None and head.weight is tied and not tied.requires_grad:
        head.weight = nn.Parameter(tied.detach().to(torch.bfloat16), requires_grad=False)
    linear = [module.weight for module in model.modules() if type(module) is nn.Linear]
    held = [
        weight
        for weight in linear
        if weight is not tied and weight.dtype == torch.float32 and not weight.requires_grad
    ]
    for weight in held:
        own = weight.data
        weight.data = own.to(torch.bfloat16)
        _forget(own)
    for weight in model.parameters():
        if held and weight.device.type == "cpu" and weight.dtype == torch.float32:
            # The file of the model stays in memory as long as a weight is read from it.
            weight.data = weight.data.clone()
    return len(held)

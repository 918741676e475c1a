"""In which type a training computes: float32, or float32 weights under autocast to bfloat16.

Weights that learn stay float32 either way, so a small step of AdamW is not rounded away. The rule
to keep: `auto` decides by facts alone, never by a clock. Two trainings of one recipe on equal
computers compute alike, however busy these are, and student and control do.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from toolchain.recipe import Precision
from toolchain.training.fused_lora import adapted
from toolchain.training.mapped import forget, keep_rows

FLOAT32: Precision = "float32"
BF16: Precision = "bf16"
FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
"""Features of processors that multiply bfloat16: two of x86-64, and ARM's."""
# One thread of a Zen 5 with avx512_bf16, processor time of bf16 over float32, forward and backward:
# SmolLM2-135M 0.5 to 0.57, three layers of width 256 on 96 tokens 0.54 to 0.74, on 480 0.5; two
# layers of width 128 on 96 tokens 0.64 to 1.05. ARM was not measured.
LEAST_PRODUCTS = 5e9
"""Multiplications of a batch's forward pass from which `auto` takes bfloat16: below, a training
takes minutes either way."""


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a loss is computed."""
    return torch.autocast(device.type, torch.bfloat16) if precision == BF16 else nullcontext()


def choose(
    precision: Precision, model: Any, tokens: int, device: torch.device
) -> tuple[Precision, str]:
    """Return float32 or bf16, and why, for batches of so many tokens.

    A model whose own weights have 16 bits computes in them either way.
    """
    if precision != "auto":
        return precision, "the recipe says so"
    if not _has_float32(model):
        return FLOAT32, "the model's own weights have 16 bits and are multiplied as they are"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return BF16, "the GPU multiplies bfloat16"
        return FLOAT32, "the GPU does not multiply bfloat16"

    feature = _feature()
    if not feature:
        return FLOAT32, "the processor does not multiply bfloat16"
    products = _linear_weights(model) * tokens
    if products < LEAST_PRODUCTS:
        return FLOAT32, f"a batch is {products / 1e9:.2g} billion products, which are few"
    return BF16, f"the processor has {feature}, a batch is {products / 1e9:.0f} billion products"


def _feature() -> str:
    """Return the feature by which this processor multiplies bfloat16; empty where it has none."""
    # An older torch does not tell; one without oneDNN has no fast kernels (macOS).
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ""
    return next((name for name in FEATURES if told.get(name)), "")


def _linear_weights(model: nn.Module) -> int:
    """Return the number of weights of linear layers."""
    return sum(module.weight.numel() for module in _linears(model))


def _has_float32(model: nn.Module) -> bool:
    """Return whether linear layers have float32 weights: others are multiplied as they are."""
    return any(
        module.weight.dtype == torch.float32
        for module in _linears(model)
        if not hasattr(module, "lora_A")
    )


def hold(precision: Precision, model: Any, *, alone: bool = True) -> int:
    """Hold the frozen linear weights of an adapted model in bfloat16; return how many these are.

    Autocast would round them to the same values in every step. They stay rounded: whoever adapts a
    model reads its base from the folder again. A head that shares the weight of the embedding gets
    one of its own: the embedding stays float32, or all that the layers add up would begin in 16
    bits. Of an embedding in a file only rows that are read are kept, unless processes are several:
    those write to each other's weights.
    """
    if precision != BF16 or not adapted(model):
        return 0
    tied = model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    if head is not None and head.weight is tied and not tied.requires_grad:
        head.weight = nn.Parameter(tied.detach().to(torch.bfloat16), requires_grad=False)
    linear = {id(module.weight): module.weight for module in _linears(model)}
    held = [
        weight
        for weight in linear.values()
        if weight is not tied and weight.dtype == torch.float32 and not weight.requires_grad
    ]
    for weight in held:
        own = weight.data
        weight.data = own.to(torch.bfloat16)
        forget(own)
    apart = tied if alone and keep_rows(model) else None
    for weight in model.parameters() if held else ():
        is_whole = weight.dtype == torch.float32 and weight.device.type == "cpu"
        if is_whole and weight is not apart:
            # The file of the model stays in memory as long as a weight is read from it.
            weight.data = weight.data.clone()
    return len(held)


def _linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if type(module) is nn.Linear]

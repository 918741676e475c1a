"""Proves a checkpoint that was read from a GGUF file: its logits against llama.cpp's for that file.

The logits cannot be equal. llama.cpp rounds the activations before each product with a quantized
matrix; transformers computes with the same weights in float32. The effect of that rounding is
measured on the same text, by rounding the activations of transformers alike (`_like_llama_cpp`).
llama.cpp's logits may be BOUND times as far away.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.errors import ArtifactError
from toolchain.models.names import TOKENIZER
from toolchain.models.tokenizer_proof import PROOF
from toolchain.models.weights import open_weights
from toolchain.runtime.scoring import scorer

if TYPE_CHECKING:
    import numpy as np
    import torch

# SmolLM2-135M-Instruct of Q4_1 and Q8_0, 86 tokens of code and mixed text: llama.cpp is 0.2271 away
# (root of the mean square, at most 1.15); the imitated rounding moves the logits by 0.2274 (at most
# 1.48). With the same weights as float32, which needs no rounding, it is at most 0.0001 away.
BOUND = 2.0
"""Largest allowed distance, in multiples of the measured rounding."""
FLOOR = 0.01
"""Share of the logits' spread that an f16 KV cache and another order of sums may move them."""
TOKENS = 128
_BLOCKS = {"_K": 256, "IQ": 256}
"""Marks of types whose activations are rounded in blocks of 256 (Q8_K), else of 32 (Q8_0)."""
_FLOATS = {"F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Distance between the two."""

    tokens: int
    max_delta: float
    max_bound: float
    rms_delta: float
    """Root of the mean square over all positions and tokens."""
    rms_bound: float
    agreement: float
    """Share of positions at which both predict the same next token."""

    def sentence(self) -> str:
        """Return the result in one line."""
        return (
            f"logits: {self.rms_delta:.3g} from llama.cpp's for this very file, "
            f"{self.max_delta:.3g} at most "
            f"(its own rounding allows {self.rms_bound:.3g} and {self.max_bound:.3g}); "
            f"the same next token at {self.agreement:.1%} of {self.tokens} places"
        )

    def figures(self) -> Figures:
        """Return the figures for the record."""
        return {
            "proof_tokens": self.tokens,
            "proof_max_delta": round(self.max_delta, 5),
            "proof_max_bound": round(self.max_bound, 5),
            "proof_rms_delta": round(self.rms_delta, 6),
            "proof_rms_bound": round(self.rms_bound, 6),
            "proof_agreement": round(self.agreement, 4),
        }


def prove_logits(file: Path, folder: Path, runtime: Path, types: set[str]) -> Proof:
    """Compare a checkpoint's logits with llama.cpp's for its file.

    Raises ArtifactError if they are too far apart, or if the model does not fit in memory.
    """
    import numpy as np

    _check_memory(file, folder)
    tokens = _tokens(folder)
    with scorer(runtime, file, context=2 * TOKENS) as child:
        theirs = np.array(child.logits(tokens))

    exact, rounded = _both(folder, tokens, types)
    delta = theirs - exact
    noise = rounded - exact
    floor = FLOOR * float(exact.std())
    proof = Proof(
        tokens=len(tokens),
        max_delta=float(np.abs(delta).max()),
        max_bound=BOUND * float(np.abs(noise).max()) + floor,
        rms_delta=float(np.sqrt((delta**2).mean())),
        rms_bound=BOUND * float(np.sqrt((noise**2).mean())) + floor / 4,
        agreement=float((theirs.argmax(1) == exact.argmax(1)).mean()),
    )
    if not (proof.max_delta <= proof.max_bound and proof.rms_delta <= proof.rms_bound):
        raise ArtifactError(
            f"{file.name}: the checkpoint that was read from it is another model: "
            f"{proof.sentence()}",
            hint="this is a fault of the toolchain or a file that contradicts itself: "
            "give the model's original folder instead",
        )

    return proof


def _check_memory(file: Path, folder: Path) -> None:
    """Raise ArtifactError if the model in float32 (the gate needs it too) exceeds the memory."""
    with open_weights(folder) as weights:
        needed = 4 * sum(math.prod(tensor.shape) for tensor in weights.tensors.values())
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    if needed > pages * page:
        raise ArtifactError(
            f"{file.name}: takes {needed / 1e9:.1f} GB of memory in float32, "
            f"this computer has {pages * page / 1e9:.1f}",
            hint="use a larger computer, or a smaller model",
        )


def _tokens(folder: Path) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    return list(tokenizer.encode("\n".join(PROOF[:2])).ids[:TOKENS])


def _both(folder: Path, tokens: list[int], types: set[str]) -> "tuple[np.ndarray, np.ndarray]":
    """Return the logits in float32, and with activations rounded as llama.cpp does for `types`."""
    import numpy as np
    import torch

    from toolchain.models.checkpoints import load_model

    model = load_model(folder, dtype="float32")
    with torch.inference_mode():
        exact = np.asarray(model(input_ids=torch.tensor([tokens])).logits[0])
        with _like_llama_cpp(model, types):
            rounded = np.asarray(model(input_ids=torch.tensor([tokens])).logits[0])
    return exact, rounded


@contextmanager
def _like_llama_cpp(model: Any, types: set[str]) -> "Iterator[None]":
    import torch

    def round_input(_: Any, inputs: "tuple[torch.Tensor, ...]") -> "tuple[torch.Tensor, ...]":
        return (_rounded(inputs[0], types), *inputs[1:])

    hooks = [
        module.register_forward_pre_hook(round_input)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    ]

    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounded(values: "torch.Tensor", types: set[str]) -> "torch.Tensor":
    import torch

    quantized = types - {"F32", *_FLOATS}
    if not quantized:
        for kind in sorted(types & _FLOATS.keys()):
            values = values.to(getattr(torch, _FLOATS[kind])).float()
        return values

    wide = any(mark in kind for kind in quantized for mark in _BLOCKS)
    block = 256 if wide and values.shape[-1] % 256 == 0 else 32
    if values.shape[-1] % block:
        return values

    blocks = values.reshape(*values.shape[:-1], -1, block)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    steps = (blocks / scale.clamp_min(1e-30)).round()
    return (steps * scale).reshape(values.shape)

"""The reference of the gate: the model that a file is compared with, run by transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Reference:
    """The teacher through transformers: the reference that the model file is compared with."""

    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, teacher: Checkpoint) -> "Reference":
        """Load a checkpoint, its adapter merged in memory."""
        from toolchain.models.lora import read_lora
        from toolchain.training.adapters import add_to, dressed
        from toolchain.training.checkpoints import load_model, load_tokenizer

        with dressed(teacher) as folder:
            tokenizer, model = load_tokenizer(folder), load_model(folder).eval()
        if teacher.adapter:
            add_to(model, read_lora(teacher.adapter))
        return cls(tokenizer, model)

    def log_probabilities(self, ids: Sequence[int]) -> "np.ndarray":
        """Return float64 [len(ids), vocabulary]."""
        import torch

        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([list(ids)])).logits[0]
        return logits.double().log_softmax(-1).numpy()

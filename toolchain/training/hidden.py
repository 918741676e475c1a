"""Objectives of a student beside those of its answers: hidden states, and its own answers.

Both run the teacher in every step. Source of the second: Agarwal et al., arXiv:2306.13649.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.training.examples import Batch
from toolchain.training.influence import states_of_layers
from toolchain.training.objectives import CHUNK_ELEMENTS, Head, learned


class HiddenLoss(nn.Module):
    """Another objective, plus the weighted distance of the kept layers' hidden states.

    A student's layer ought to give what the next kept layer read in the teacher, and the last one
    what the teacher's last gave. The distance is relative, the mean over the layers. The other
    objective must read rows one by one, with `shares=False`: the teacher reads them so.
    """

    def __init__(
        self, inner: nn.Module, teacher: Any, *, layers: Sequence[int], weight: float
    ) -> None:
        super().__init__()
        self.inner = inner
        self.teacher = teacher.requires_grad_(False).eval()
        self._layers = tuple(layers)
        self._weight = weight

    def train(self, mode: bool = True) -> "HiddenLoss":
        """Switch the student alone: a teacher has no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats plus the weighted distance."""
        with torch.no_grad(), states_of_layers(self.teacher) as theirs:
            self.teacher.base_model(input_ids=batch.ids, use_cache=False)
        with states_of_layers(self.inner.model) as ours:
            loss: Tensor = self.inner(batch)

        goals = [theirs[layer][0] for layer in self._layers[1:]] + [theirs[-1][1]]
        distances = [
            self._distance(state[1], goal, batch.labels)
            for state, goal in zip(ours, goals, strict=True)
        ]
        return loss + self._weight * torch.stack(distances).mean()

    def _distance(self, state: Tensor, goal: Tensor, labels: Tensor) -> Tensor:
        own, _ = learned(state, labels)
        right, _ = learned(goal, labels)
        scale = right.float().square().mean().clamp_min(1e-12)
        return (own.float() - right.float()).square().sum() / scale / right.shape[-1]


class OwnAnswerLoss(nn.Module):
    """Jensen-Shannon divergence of student and teacher on answers that the student gave."""

    def __init__(self, model: Any, teacher: Any, *, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher.requires_grad_(False).eval()
        self._head = Head(model, chunk_elements=chunk_elements)
        self._teacher = Head(teacher, chunk_elements=chunk_elements)

    def train(self, mode: bool = True) -> "OwnAnswerLoss":
        """Switch the student alone: a teacher has no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        with torch.no_grad():
            theirs, _ = learned(self._teacher.hidden(batch.ids), batch.labels)
        ours, _ = learned(self._head.hidden(batch.ids, batch.lengths), batch.labels)
        return self._head.summed(
            ours, lambda logits, piece: self._divergence(logits, theirs[piece])
        )

    def _divergence(self, logits: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = self._teacher.logits(theirs)[:, : logits.shape[-1]].log_softmax(-1)
        # Rows that only one of them has are padding of an embedding.
        student = logits[:, : teacher.shape[-1]].log_softmax(-1)
        middle = torch.logsumexp(torch.stack([student, teacher]), 0) - math.log(2)
        return sum(  # type: ignore[return-value]
            0.5 * functional.kl_div(middle, each, reduction="sum", log_target=True)
            for each in (student, teacher)
        )


def mean_entropy(model: Any, examples: Sequence[Any]) -> float:
    """Return the mean entropy in nats of a model's distributions at the learned tokens."""
    from toolchain.training.examples import batch_of

    head = Head(model)
    total, count = 0.0, 0
    with torch.inference_mode():
        for first in range(0, len(examples), 16):
            rows = range(first, min(first + 16, len(examples)))
            batch = batch_of(examples, rows).to(head.device)
            hidden, _ = learned(head.hidden(batch.ids), batch.labels)
            for piece in head.chunks(len(hidden)):
                log_probs = head.logits(hidden[piece]).log_softmax(-1)
                total -= float((log_probs.exp() * log_probs).sum())
            count += len(hidden)
    return round(total / max(count, 1), 6)

"""What is minimised: a module that holds the model and returns the summed loss of a batch.

The vocabulary times the sequence never stands in memory at once: the decoder runs whole, the head runs over some of the learned
positions at a time and again in the backward pass (as Liger-Kernel's fused linear losses do).
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.training.examples import Batch

CHUNK_ELEMENTS = 1 << 24
"""Logits that stand in memory at once: 64 MiB as float32."""


class Targets(Protocol):
    """A teacher's distributions, one for each learned position."""

    def of(self, rows: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return (ids [n, k], log-probabilities [n, k], log of the remaining mass [n]) of some examples, one after the other."""


class Head:
    """From hidden states to logits, a chunk of positions at a time."""

    def __init__(self, model: Any, *, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        self._model = model
        self._chunk = max(1, chunk_elements // model.config.get_text_config().vocab_size)
        self._check()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._model.device
        return device

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the decoder's last hidden states [rows, length, width]."""
        outputs = self._model.base_model(input_ids=ids, use_cache=False)
        states: Tensor = outputs.last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits with what some families do behind the head (Granite, Cohere, Gemma 2)."""
        config = self._model.config.get_text_config()
        logits: Tensor = self._model.get_output_embeddings()(hidden)
        logits = (
            logits
            / getattr(config, "logits_scaling", 1.0)
            * (getattr(config, "logit_scale", None) or 1.0)
        )
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits.float()

    def chunks(self, count: int) -> list[slice]:
        """Return slices that cover `count` positions; one empty slice for none, so that every process has a loss."""
        return [
            slice(first, min(first + self._chunk, count))
            for first in range(0, max(count, 1), self._chunk)
        ]

    def summed(self, hidden: Tensor, loss: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the sum of `loss(logits, slice)` over the chunks of `hidden` [positions, width]."""
        pieces = self.chunks(len(hidden))
        if len(pieces) == 1:
            return loss(self.logits(hidden), pieces[0])
        parts = [
            checkpoint(
                lambda h, piece=piece: loss(self.logits(h), piece),
                hidden[piece],
                use_reentrant=False,
            )
            for piece in pieces
        ]
        return torch.stack(parts).sum()

    def _check(self) -> None:
        ids = torch.arange(8, device=self._model.device)[None]
        was_training = self._model.training
        with torch.no_grad():
            self._model.eval()
            ours, theirs = (
                self.logits(self.hidden(ids)),
                self._model(input_ids=ids, use_cache=False).logits.float(),
            )
            self._model.train(was_training)
        if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
            kind = self._model.config.model_type
            raise ArtifactError(
                f"model type `{kind}`: its head is not a plain one, so it cannot be trained in chunks"
            )


class AnswerLoss(nn.Module):
    """Cross-entropy of the learned tokens."""

    def __init__(self, model: Any, *, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model, chunk_elements=chunk_elements)

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        hidden, targets = learned(self._head.hidden(batch.ids), batch.labels)
        return self._head.summed(
            hidden,
            lambda logits, piece: functional.cross_entropy(logits, targets[piece], reduction="sum"),
        )


class TeacherLoss(nn.Module):
    """(1 - w) · T² · KL(teacher ‖ student) at temperature T, plus w · cross-entropy (Hinton et al., arXiv:1503.02531)."""

    def __init__(
        self,
        model: Any,
        teacher: Targets,
        *,
        temperature: float,
        ce_weight: float,
        tokens: int,
        chunk_elements: int = CHUNK_ELEMENTS,
    ) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model, chunk_elements=chunk_elements)
        self._teacher, self._temperature, self._ce_weight, self._tokens = (
            teacher,
            temperature,
            ce_weight,
            tokens,
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        hidden, targets = learned(self._head.hidden(batch.ids), batch.labels)
        taught = [part.to(hidden.device) for part in self._teacher.of(batch.rows)]

        return self._head.summed(
            hidden,
            lambda logits, piece: self._loss(
                logits, targets[piece], *(part[piece] for part in taught)
            ),
        )

    def _loss(
        self, logits: Tensor, targets: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor
    ) -> Tensor:
        logits = logits[:, : self._tokens]
        kl = (
            divergence(logits / self._temperature, ids, log_probs, tail).sum()
            * self._temperature**2
        )
        return (1 - self._ce_weight) * kl + self._ce_weight * functional.cross_entropy(
            logits, targets, reduction="sum"
        )


class TwinLoss(nn.Module):
    """KL(teacher ‖ model) over the whole vocabulary, plus a share of the relative distance of their last hidden states.

    For a model of the teacher's own shape, whose hidden states are meant to be the same.
    """

    def __init__(
        self,
        model: Any,
        teacher: Any,
        *,
        hidden_weight: float,
        chunk_elements: int = CHUNK_ELEMENTS,
    ) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher.requires_grad_(False)
        self._head, self._teacher = (
            Head(model, chunk_elements=chunk_elements),
            Head(teacher, chunk_elements=chunk_elements),
        )
        self._hidden_weight = hidden_weight

    def train(self, mode: bool = True) -> "TwinLoss":
        """Switch the model alone: a teacher has no dropout."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        with torch.no_grad():
            theirs, _ = learned(self._teacher.hidden(batch.ids), batch.labels)
        ours, _ = learned(self._head.hidden(batch.ids), batch.labels)
        distance = (
            (ours - theirs).square().sum()
            / theirs.square().mean().clamp_min(1e-12)
            / theirs.shape[-1]
        )
        return (
            self._head.summed(ours, lambda logits, piece: self._kl(logits, theirs[piece]))
            + self._hidden_weight * distance
        )

    def _kl(self, logits: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._teacher.logits(theirs).log_softmax(-1)
        return functional.kl_div(logits.log_softmax(-1), wanted, reduction="sum", log_target=True)


def learned(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states from which a learned token follows [n, width], and these tokens [n], row by row."""
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    return hidden[:, :-1][chosen], targets[chosen]


def divergence(logits: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) in nats at each position, over the teacher's top-k and one bucket for all other tokens.

    Renormalising the top-k instead would teach a sharper distribution than the teacher's (arXiv:2503.16870). The bucket makes it
    a lower bound of the full divergence, and equal to it where k is the whole vocabulary. logits [n, vocabulary]; ids and
    log_probs [n, k]; tail [n], the log of the teacher's remaining mass.
    """
    whole = logits.logsumexp(-1, keepdim=True)
    student = logits.gather(-1, ids) - whole
    kl = (log_probs.exp() * (log_probs - student)).sum(-1)
    if ids.shape[-1] == logits.shape[-1]:
        return kl
    rest = logits.scatter(-1, ids, -math.inf).logsumexp(-1) - whole[:, 0]
    return kl + tail.exp() * (tail - rest)


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ids, log-probabilities, log of the remaining mass) of the k likeliest tokens of logits [n, vocabulary]."""
    whole = logits.logsumexp(-1, keepdim=True)
    best = logits.topk(min(k, logits.shape[-1]), dim=-1)
    rest = logits.scatter(-1, best.indices, -math.inf).logsumexp(-1) - whole[:, 0]
    return best.indices, best.values - whole, rest

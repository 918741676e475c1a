"""Training objectives: modules that hold the model and return the summed loss of a batch.

Logits of vocabulary × sequence never stand in memory at once. The decoder runs whole; the head runs
over chunks of the learned positions, and again in the backward pass (as Liger-Kernel's fused linear
losses do).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.training.examples import Batch
from toolchain.training.packed import filled, is_packing, read_packed
from toolchain.training.shared import read_prefix, shared_tokens

CHUNK_ELEMENTS = 1 << 22
"""Logits that stand in memory at once: 16 MiB as float32."""
# With half as many the weights of a vocabulary of 49,152 tokens were read twice as often, and a
# step took 6 % longer.
BLOCK_ELEMENTS = 1 << 19
"""Of these, what is exponentiated at once, in float32."""
ENTROPY = 4
"""Times as many where a loss is the cross-entropy alone: it keeps one tensor of that size."""
# A head is as slow as its weights are read. Processor milliseconds a position, forward and
# backward, of 151,936 tokens and width 896 in bf16: 3.00 in chunks of 26 rows, 1.98 of 56, 1.53 of
# 112; of 49,152 and 576 it is 0.36 for 56 and 0.29 for 112 (one thread of a Zen 5).


class Targets(Protocol):
    """A teacher's distributions, one for each learned position."""

    def of(self, rows: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the targets of some examples, one after the other.

        They are ids [n, k], log-probabilities [n, k] and the log of the remaining mass [n].
        """


class Head:
    """From hidden states to logits, a chunk of positions at a time."""

    def __init__(
        self, model: Any, *, chunk_elements: int = CHUNK_ELEMENTS, shares: bool = True
    ) -> None:
        self._model = model
        self._shares = shares
        """Whether what all rows begin with is read once: then no row has states of its own, and no
        gradient."""
        self._elements = chunk_elements
        self._vocabulary: int = model.config.get_text_config().vocab_size
        self._check()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        device: torch.device = self._model.device
        return device

    def hidden(self, ids: Tensor, lengths: Sequence[int] = ()) -> Tensor:
        """Return the decoder's last hidden states [rows, length, width].

        With the `lengths` of the rows a model that packs reads them without their padding.
        """
        decoder = self._model.base_model
        if lengths and self._shares and is_packing(self._model):
            return read_packed(decoder, ids, lengths)
        count = shared_tokens(ids.tolist()) if self._shares else 0
        prefix = read_prefix(decoder, ids[:1, :count], len(ids)) if count else None
        if prefix is None:
            states: Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
            return states

        first, cache = prefix
        rest = decoder(input_ids=ids[:, count:], past_key_values=cache, use_cache=True)
        return torch.cat([first.expand(len(ids), -1, -1), rest.last_hidden_state], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits, scaled and capped where a family does (Granite, Gemma 2 …)."""
        return self.own_logits(hidden).float()

    def own_logits(self, hidden: Tensor) -> Tensor:
        """Return these logits in the type that the head computes in."""
        config = self._model.config.get_text_config()
        count = hidden.shape[-2]
        # Rows of zeros: a number of positions for each batch would be a shape for each batch.
        rows = functional.pad(hidden, (0, 0, 0, filled(count) - count))
        logits: Tensor = self._model.get_output_embeddings()(rows)[..., :count, :]
        # Most families scale by 1, which would be a copy of all logits.
        if (divisor := getattr(config, "logits_scaling", 1.0)) != 1.0:
            logits = logits / divisor
        if (factor := getattr(config, "logit_scale", None) or 1.0) != 1.0:
            logits = logits * factor
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def chunks(self, count: int, times: int = 1) -> list[slice]:
        """Return slices of like lengths over `count` positions; for 0 an empty one: a loss.

        They hold up to so many `times` the elements of a chunk.
        """
        most = max(1, times * self._elements // self._vocabulary)
        size = -(-count // max(1, -(-count // most))) or 1
        return [slice(first, min(first + size, count)) for first in range(0, max(count, 1), size)]

    def entropy(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy in nats of `hidden` [positions, width] and ids."""

        def loss(states: Tensor, piece: slice) -> Tensor:
            # Nothing before it keeps these logits, so their memory becomes that of the gradient.
            return cross_entropy(self.own_logits(states), targets[piece], spent=True)

        return self._summed(hidden, loss, self.chunks(len(hidden), ENTROPY))

    def summed(self, hidden: Tensor, loss: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the sum of `loss(logits, slice)` over chunks of `hidden` [positions, width]."""
        return self._summed(
            hidden,
            lambda states, piece: loss(self.logits(states), piece),
            self.chunks(len(hidden)),
        )

    def _summed(
        self, hidden: Tensor, loss: Callable[[Tensor, slice], Tensor], pieces: list[slice]
    ) -> Tensor:
        """Return the sum of `loss(states, slice)` over pieces of `hidden`.

        A head that is frozen gives its gradient at once: nothing of a chunk is kept or computed
        again.
        """
        if self._is_frozen() and hidden.requires_grad and torch.is_grad_enabled():
            total: Tensor = _Summed.apply(hidden, pieces, loss)  # type: ignore[no-untyped-call]
            return total
        if len(pieces) == 1:
            return loss(hidden, pieces[0])
        parts = [checkpoint(loss, hidden[piece], piece, use_reentrant=False) for piece in pieces]
        return torch.stack(parts).sum()

    def _is_frozen(self) -> bool:
        head = self._model.get_output_embeddings()
        return not any(parameter.requires_grad for parameter in head.parameters())

    def _check(self) -> None:
        ids = torch.arange(8, device=self._model.device)[None]
        was_training = self._model.training
        with torch.no_grad():
            self._model.eval()
            ours = self.logits(self.hidden(ids))
            theirs = self._model(input_ids=ids, use_cache=False).logits.float()
            self._model.train(was_training)

        if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
            kind = self._model.config.model_type
            raise ArtifactError(
                f"model type `{kind}`: its head is not a plain one, "
                "so it cannot be trained in chunks"
            )


class _Summed(torch.autograd.Function):
    """The sum of a loss over pieces, with the gradient of each piece from the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        pieces: Sequence[slice],
        loss: Callable[[Tensor, slice], Tensor],
    ) -> Tensor:
        """Return the sum; `loss` gives that of a piece of `hidden` [positions, width]."""
        gradient = torch.empty_like(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        for piece in pieces:
            with torch.enable_grad():
                states = hidden[piece].detach().requires_grad_()
                value = loss(states, piece)
            (gradient[piece],) = torch.autograd.grad(value, states)
            total += value.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the states."""
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0]).to(gradient.dtype), None, None


class AnswerLoss(nn.Module):
    """Cross-entropy of the learned tokens."""

    def __init__(
        self, model: Any, *, chunk_elements: int = CHUNK_ELEMENTS, shares: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model, chunk_elements=chunk_elements, shares=shares)

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        hidden, targets = learned(self._head.hidden(batch.ids, batch.lengths), batch.labels)
        return self._head.entropy(hidden, targets)


class TeacherLoss(nn.Module):
    """(1 - w) · T² · KL(teacher ‖ student) + w · cross-entropy, at temperature T.

    Source: Hinton et al., arXiv:1503.02531.
    """

    def __init__(
        self,
        model: Any,
        teacher: Targets,
        *,
        temperature: float,
        ce_weight: float,
        tokens: int,
        chunk_elements: int = CHUNK_ELEMENTS,
        shares: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model, chunk_elements=chunk_elements, shares=shares)
        self._teacher = teacher
        self._temperature = temperature
        self._ce_weight = ce_weight
        self._tokens = tokens

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        hidden, targets = learned(self._head.hidden(batch.ids, batch.lengths), batch.labels)
        # They are float16, of which autocast to bfloat16 knows nothing on a CPU.
        with torch.autocast(hidden.device.type, enabled=False):
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
        softened = logits / self._temperature
        kl = divergence(softened, ids, log_probs, tail).sum() * self._temperature**2
        entropy = cross_entropy(logits, targets)
        return (1 - self._ce_weight) * kl + self._ce_weight * entropy


class TwinLoss(nn.Module):
    """KL(teacher ‖ model) over the whole vocabulary, plus the weighted distance of hidden states.

    The distance is relative, of the last hidden states. The model must have the teacher's shape.
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
        self.model = model
        self.teacher = teacher.requires_grad_(False)
        self._head = Head(model, chunk_elements=chunk_elements)
        self._teacher = Head(teacher, chunk_elements=chunk_elements)
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
        ours, _ = learned(self._head.hidden(batch.ids, batch.lengths), batch.labels)

        scale = theirs.square().mean().clamp_min(1e-12)
        distance = (ours - theirs).square().sum() / scale / theirs.shape[-1]
        kl = self._head.summed(ours, lambda logits, piece: self._kl(logits, theirs[piece]))
        return kl + self._hidden_weight * distance

    def _kl(self, logits: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            target = self._teacher.logits(theirs).log_softmax(-1)
        return functional.kl_div(logits.log_softmax(-1), target, reduction="sum", log_target=True)


def learned(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states before learned tokens [n, width] and these tokens [n], by row."""
    targets = labels[:, 1:]
    chosen = targets != IGNORED
    return hidden[:, :-1][chosen], targets[chosen]


def cross_entropy(logits: Tensor, targets: Tensor, *, spent: bool = False) -> Tensor:
    """Return the summed cross-entropy in nats of logits [n, vocabulary] and ids [n], as float32.

    Logits that are `spent` are overwritten with their gradient: nobody may read them afterwards.
    """
    total: Tensor = _CrossEntropy.apply(logits, targets, spent)  # type: ignore[no-untyped-call]
    return total


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy that keeps its gradient, in the type of the logits, and nothing else.

    Logits are the largest tensors of a training and stand in memory when all else does, so float32
    copies are made of a few rows at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, spent: bool) -> Tensor:
        """Return the sum."""
        gradient = logits.detach() if spent else torch.empty_like(logits)
        total = logits.new_zeros((), dtype=torch.float32)
        size = max(1, BLOCK_ELEMENTS // logits.shape[-1])
        for first in range(0, len(logits), size):
            rows = slice(first, first + size)
            column = targets[rows, None]
            block = logits[rows].float()
            probs = block.softmax(-1)
            whole = block.amax(-1, keepdim=True) - probs.amax(-1, keepdim=True).log()
            total += (whole - block.gather(-1, column)).sum()
            gradient[rows] = probs.scatter_add_(-1, column, -torch.ones_like(whole))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits; a second backward pass raises RuntimeError."""
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(grads[0]), None, None


def divergence(logits: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) in nats at each position, over the top-k and one bucket.

    The bucket holds all other tokens. Renormalising the top-k instead would teach a sharper
    distribution than the teacher's (arXiv:2503.16870). The result is a lower bound of the full
    divergence, and equal to it if k is the whole vocabulary. Shapes: logits [n, vocabulary]; ids
    and log_probs [n, k]; tail [n], the log of the teacher's remaining mass.
    """
    values: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        logits, ids, log_probs, tail
    )
    return values


class _Divergence(torch.autograd.Function):
    """The divergence with its gradient, which is at hand with the student's probabilities.

    With autograd of the formula a step took 1.2 times a plain one (benchmarks/taught_step.py).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, log_probs: Tensor, tail: Tensor) -> Tensor:
        """Return the divergence at each position."""
        gradient = logits.softmax(-1)
        # The logarithm of all mass, by the likeliest token: no second pass of exponentials.
        whole = logits.amax(-1, keepdim=True) - gradient.amax(-1, keepdim=True).log()
        student = logits.gather(-1, ids) - whole
        probs = log_probs.exp()
        kl = (probs * (log_probs - student)).sum(-1)
        if ids.shape[-1] < logits.shape[-1]:
            # Summed, not subtracted from 1: of a student that is sure nothing would be left.
            gradient.scatter_(-1, ids, 0.0)
            tiny = torch.finfo(logits.dtype).tiny
            rest = gradient.sum(-1, keepdim=True).clamp_min(tiny)
            remaining = tail.exp()[:, None]
            kl = kl + (remaining * (tail[:, None] - rest.log()))[:, 0]
            gradient.mul_(1 - remaining / rest)
        gradient.scatter_(-1, ids, student.exp() - probs)
        ctx.save_for_backward(gradient)
        return kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits; a teacher has none."""
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None], None, None, None


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (ids, log-probabilities, log of the remaining mass) of the k likeliest tokens.

    Shapes: logits [n, vocabulary]; ids and log-probabilities [n, k]; remaining mass [n].
    """
    whole = logits.logsumexp(-1, keepdim=True)
    best = logits.topk(min(k, logits.shape[-1]), dim=-1)
    rest = logits.scatter(-1, best.indices, -math.inf).logsumexp(-1) - whole[:, 0]
    return best.indices, best.values - whole, rest

"""Objectives of preferences: DPO for pairs of answers, KTO for single answers that were rated.

Both compare the model with itself before the training. Its log-probabilities are computed once and
cached (`CachedScores`), so that a step reads two sequences a preference and no second model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from device.manifest.opening import opened
from toolchain.chat import IGNORED, TooLong, encode_row
from toolchain.preferences import Messages, Preferences, Thumb, key_of
from toolchain.progress import Reporter
from toolchain.recipe import AlignSpec
from toolchain.training.examples import Batch, Example, batch_of
from toolchain.training.objectives import Head, learned

SCORES = "scores.safetensors"
BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement(Example):
    """What is known of one preference: two sequences, of which the last answer is learned.

    Of a pair the wanted answer and the rejected one; of a rated answer itself, and the same
    question with an answer that belongs to another one. `ids` are those of both, one behind the
    other.
    """

    sequences: tuple[Example, Example]
    good: bool = True

    @property
    def targets(self) -> int:
        """Number of what is learned: one opinion, however long its answers are."""
        return 1


def judgements(
    tokenizer: Any, preferences: Preferences, opening: Messages, max_tokens: int
) -> tuple[list[Judgement], int]:
    """Return the preferences as token ids, and the number left out as longer than `max_tokens`."""
    found = []
    too_long = 0
    for messages, answers, good in _judged(preferences):
        try:
            first, second = (
                _sequence(tokenizer, messages, opening, answer, max_tokens) for answer in answers
            )
        except TooLong:
            too_long += 1
            continue
        found.append(
            Judgement(
                ids=[*first.ids, *second.ids],
                labels=[*first.labels, *second.labels],
                sequences=(first, second),
                good=good,
            )
        )
    return found, too_long


def _judged(preferences: Preferences) -> list[tuple[Messages, tuple[str, str], bool]]:
    """Return conversation, both answers and verdict of each preference."""
    pairs = [(each.messages, (each.chosen, each.rejected), True) for each in preferences.pairs]
    thumbs = [
        (each.messages, (each.answer, other), each.good)
        for each, other in zip(
            preferences.thumbs, _answers_of_others(preferences.thumbs), strict=True
        )
    ]
    return pairs + thumbs


def _answers_of_others(thumbs: Sequence[Thumb]) -> list[str]:
    """Return for each rated answer one to another question; its own where there is no other."""
    keys = [key_of(thumb.messages) for thumb in thumbs]
    count = len(thumbs)
    found = []
    for at, thumb in enumerate(thumbs):
        others = (each % count for each in range(at + 1, at + count))
        other = next((each for each in others if keys[each] != keys[at]), at)
        found.append(thumbs[other].answer if other != at else thumb.answer)
    return found


def _sequence(
    tokenizer: Any, messages: Messages, opening: Messages, answer: str, max_tokens: int
) -> Example:
    """Return a conversation of which the last answer alone is learned."""
    asked = opened(messages, opening)
    row = {
        "messages": [*asked, {"role": "assistant", "content": answer}],
        "opening": len(asked),
    }
    ids, labels = encode_row(tokenizer, row, max_tokens)
    return Example(ids=ids, labels=labels)


def answer_examples(judged: Sequence[Judgement]) -> list[Example]:
    """Return the wanted answers alone, as plain tuning learns them."""
    return [each.sequences[0] for each in judged if each.good]


def log_probabilities(head: Head, batch: Batch) -> Tensor:
    """Return the log-probability of the learned tokens of each row [rows], in nats."""
    hidden, targets = learned(head.hidden(batch.ids, batch.lengths), batch.labels)
    rows = (batch.labels[:, 1:] != IGNORED).nonzero()[:, 0]

    def of_tokens(states: Tensor, tokens: Tensor) -> Tensor:
        return -functional.cross_entropy(head.logits(states), tokens, reduction="none")

    pieces = head.chunks(len(hidden))
    if len(pieces) == 1:
        each = of_tokens(hidden, targets)
    else:
        parts = [
            checkpoint(of_tokens, hidden[piece], targets[piece], use_reentrant=False)
            for piece in pieces
        ]
        each = torch.cat(parts)
    return torch.zeros(len(batch.ids), device=each.device).index_add(0, rows, each)


def lengths(batch: Batch) -> Tensor:
    """Return the number of learned tokens of each row [rows]."""
    return (batch.labels[:, 1:] != IGNORED).sum(1).clamp(min=1)


def dpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return DPO's loss of each pair, from log-ratios of model and reference.

    Source: arXiv:2305.18290, equation 7.
    """
    return -functional.logsigmoid(beta * (chosen - rejected))


def kto(ratios: Tensor, good: Tensor, kl: Tensor, beta: float, weights: Tensor) -> Tensor:
    """Return KTO's loss of each rated answer, from log-ratios of model and reference.

    `kl` is how far the model went on answers that belong to other questions; `weights` balance
    good and bad ones. Source: arXiv:2402.01306, equations 7 and 8.
    """
    signs = good.float() * 2 - 1
    return weights * (1 - torch.sigmoid(beta * signs * (ratios - kl)))


class CachedScores:
    """Log-probabilities of the model before the training, by preference [n, 2]."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        with safe_open(folder / SCORES, "pt") as tensors:
            self._scores: Tensor = tensors.get_tensor("log_probs")

    def of(self, rows: Sequence[int]) -> Tensor:
        """Return the scores of some preferences [rows, 2]."""
        return self._scores[list(rows)]


def write_scores(model: Any, judged: Sequence[Judgement], out: Path, report: Reporter) -> None:
    """Write the model's log-probabilities of both sequences of each preference."""
    from safetensors.torch import save_file

    head = Head(model)
    order = sorted(range(len(judged)), key=lambda row: len(judged[row].ids))
    scores = torch.zeros(len(judged), 2)
    with torch.inference_mode():
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            pair = _both(judged, rows).to(head.device)
            scores[rows] = log_probabilities(head, pair).view(2, len(rows)).T.cpu()
            report.step("reference", min(first + BATCH, len(order)), len(order), "preferences")
    save_file({"log_probs": scores.contiguous()}, out / SCORES)


class PreferenceLoss(nn.Module):
    """Sum of DPO's or KTO's loss over the preferences of a batch.

    `batch.rows` names them; the tokens of the batch itself are not read.
    """

    needs_whole_batch = True
    """KTO compares with the mean over a batch, which all processes compute together."""

    def __init__(
        self, model: Any, judged: Sequence[Judgement], reference: CachedScores, spec: AlignSpec
    ) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model)
        self._judged = judged
        self._reference = reference
        self._spec = spec
        self._is_paired = spec.loss == "dpo"
        self._weights = balance(judged)

    def forward(self, batch: Batch) -> Tensor:
        """Return the summed loss; 0 for a batch in which nothing is to be learned."""
        # A process without rows of its own gets one to keep step with the others.
        counts = bool((batch.labels != IGNORED).any())
        sequences = _both(self._judged, batch.rows).to(self._head.device)
        reference = self._reference.of(batch.rows).to(self._head.device)
        if self._is_paired:
            losses = self._pairs(sequences, reference)
        else:
            losses = self._rated(sequences, batch.rows, reference, counts=counts)
        return losses.sum() * float(counts)

    def _pairs(self, sequences: Batch, reference: Tensor) -> Tensor:
        # Apart, because a batch is padded to its longest row: short answers would be read as long.
        halves = _halves(sequences)
        scores = torch.stack([log_probabilities(self._head, half) for half in halves], dim=1)
        ratios = scores - reference
        count = lengths(sequences).view(2, -1).T
        if self._spec.by_token:
            ratios = ratios / count
        losses = dpo(ratios[:, 0], ratios[:, 1], self._spec.beta)
        return losses - self._spec.answer_weight * scores[:, 0] / count[:, 0]

    def _rated(
        self, sequences: Batch, rows: Sequence[int], reference: Tensor, *, counts: bool
    ) -> Tensor:
        own, others = _halves(sequences)
        scores = log_probabilities(self._head, own)
        with torch.no_grad():
            mismatched = log_probabilities(self._head, others)
        ratios, drift = scores - reference[:, 0], mismatched - reference[:, 1]
        if self._spec.by_token:
            ratios, drift = ratios / lengths(own), drift / lengths(others)

        good = torch.tensor([self._judged[row].good for row in rows], device=scores.device)
        weights = torch.where(good, *self._weights)
        kl = mean_of_all(drift, counts=counts).clamp(min=0)
        losses = kto(ratios, good, kl, self._spec.beta, weights)
        return losses - self._spec.answer_weight * good * scores / lengths(own)


def balance(judged: Sequence[Judgement]) -> tuple[float, float]:
    """Return weights of good and bad answers that make both count alike; their mean is 1."""
    good = sum(each.good for each in judged)
    bad = len(judged) - good
    if not good or not bad:
        return 1.0, 1.0
    return len(judged) / (2 * good), len(judged) / (2 * bad)


def mean_of_all(values: Tensor, *, counts: bool) -> Tensor:
    """Return the mean over the rows of every process; one that does not count adds no rows."""
    total = torch.stack([values.sum(), torch.tensor(float(len(values)), device=values.device)])
    total = total * float(counts)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total[0] / total[1].clamp(min=1)


def preferred(model: Any, judged: Sequence[Judgement]) -> tuple[list[bool], float]:
    """Return whether each wanted answer is likelier by token, and its mean log-probability.

    The mean is over the tokens of wanted answers, in nats; a falling one is a model that unlearns
    what it should say.
    """
    head = Head(model)
    ranked: list[bool] = []
    total, count = 0.0, 0
    with torch.inference_mode():
        for first in range(0, len(judged), BATCH):
            rows = range(first, min(first + BATCH, len(judged)))
            pair = _both(judged, rows).to(head.device)
            scores = log_probabilities(head, pair)
            tokens = lengths(pair)
            by_token = (scores / tokens).view(2, len(rows))
            ranked += (by_token[0] > by_token[1]).tolist()
            wanted = [at for at, row in enumerate(rows) if judged[row].good]
            total += float(scores[wanted].sum())
            count += int(tokens[wanted].sum())
    return ranked, total / max(1, count)


def _both(judged: Sequence[Judgement], rows: Sequence[int]) -> Batch:
    """Return the first sequences of some preferences, and behind them the second ones."""
    sequences = [judged[row].sequences[side] for side in (0, 1) for row in rows]
    return batch_of(sequences, range(len(sequences)))


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return the first sequences and the second ones, each without needless padding."""
    half = len(batch.ids) // 2
    parts = []
    for piece in (slice(0, half), slice(half, None)):
        labels = batch.labels[piece]
        width = int((labels != IGNORED).any(0).nonzero().max()) + 1
        parts.append(
            Batch(
                ids=batch.ids[piece, :width],
                labels=labels[:, :width],
                rows=batch.rows[piece],
                lengths=tuple(min(width, length) for length in batch.lengths[piece]),
            )
        )
    return parts[0], parts[1]

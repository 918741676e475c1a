"""Token ids to learn from, and the order in which they are learned.

The order is a function of the seed and the epoch alone, so a run that goes on after a kill sees the same batches.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.chat import IGNORED, TooLong, encode
from toolchain.errors import ArtifactError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sequence; its label is IGNORED where nothing is learned."""

    ids: Sequence[int]
    labels: Sequence[int]

    @property
    def targets(self) -> int:
        """Tokens that are learned: the first has nothing before it to be told from."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some examples as tensors of shape (rows, longest), padded on the right.

    Without an attention mask: no token looks to its right, so padding changes nothing but itself.
    """

    ids: "torch.Tensor"
    labels: "torch.Tensor"
    rows: tuple[int, ...]
    """Which examples these are."""

    def to(self, device: Any) -> "Batch":
        """Return the batch on a device."""
        return Batch(ids=self.ids.to(device), labels=self.labels.to(device), rows=self.rows)


def conversations(tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_tokens: int) -> tuple[list[Example], int]:
    """Return the conversations as examples, and how many were longer than `max_tokens` and left out.

    Raises ArtifactError where nothing is left.
    """
    examples, too_long = [], 0
    for row in rows:
        try:
            ids, labels = encode(tokenizer, row["messages"], max_tokens)
        except TooLong:
            too_long += 1
            continue
        examples.append(Example(ids=ids, labels=labels))
    if rows and not examples:
        raise ArtifactError(
            f"data set: all {too_long} conversations are longer than {max_tokens} tokens", hint="raise `max_tokens`"
        )
    return examples, too_long


def batch_of(examples: Sequence[Example], rows: Sequence[int]) -> Batch:
    """Return the named examples as one batch."""
    import torch

    width = max(len(examples[row].ids) for row in rows)
    ids, labels = torch.zeros((len(rows), width), dtype=torch.long), torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
        example = examples[row]
        ids[place, : len(example.ids)] = torch.tensor(example.ids)
        labels[place, : len(example.ids)] = torch.tensor(example.labels)
    return Batch(ids=ids, labels=labels, rows=tuple(rows))


def batches_of_epoch(examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the rows of each batch: every example once, in batches of similar length, in an order of this epoch's own."""
    draw = random.Random(f"{seed}:{epoch}")  # noqa: S311 - a shuffle, not a secret
    rows = sorted(range(len(examples)), key=lambda row: len(examples[row].ids) * (1 + draw.random() / 4))
    batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    draw.shuffle(batches)
    return batches


def batches_from(examples: Sequence[Example], batch_size: int, seed: int, first: int, last: int) -> Iterator[list[int]]:
    """Yield the batches of steps `first` to `last`, epoch after epoch."""
    per_epoch = -(-len(examples) // batch_size)
    epoch, order = -1, []
    for step in range(first, last):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = batches_of_epoch(examples, batch_size, seed, epoch)
        yield order[step % per_epoch]

"""Token ids to train on, and the order in which they are seen.

The order depends on the seed and the epoch alone, so a resumed run sees the same batches.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolchain.chat import IGNORED, TooLong, encode_row
from toolchain.errors import ArtifactError

if TYPE_CHECKING:
    import torch


MOST_CHANGED = 0.6
"""Largest share of a question's words that rewording changes."""
MIXED = 1.25
"""Most that rows with a shared beginning differ in length and are still mixed freely."""
_WORDS = re.compile(r"\s*(?:[\u2e80-\u9fff\uac00-\ud7af]|[^\s\u2e80-\u9fff\uac00-\ud7af]+)")
"""Words with the space before them; each CJK character is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sequence; a label is IGNORED where nothing is learned."""

    ids: Sequence[int]
    labels: Sequence[int]

    @property
    def targets(self) -> int:
        """Number of learned tokens; the first token is never one, as nothing precedes it."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some examples as tensors of shape (rows, longest), padded on the right.

    Without an attention mask: no token looks to its right, so padding changes nothing but itself.
    """

    ids: "torch.Tensor"
    labels: "torch.Tensor"
    rows: tuple[int, ...]
    """Positions of these examples in their list."""
    lengths: tuple[int, ...] = ()
    """Tokens of each row; empty where rows are to be read with their padding."""

    def to(self, device: Any) -> "Batch":
        """Return the batch on a device."""
        return replace(self, ids=self.ids.to(device), labels=self.labels.to(device))


def conversations(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_tokens: int, model: Any = None
) -> tuple[list[Example], int]:
    """Return the conversations as examples, and the number left out as longer than `max_tokens`.

    Of a `model` that sees, with the positions of their pictures.

    Raises ArtifactError if no conversation is left.
    """
    examples = [each for each in encoded(tokenizer, rows, max_tokens, model) if each]
    too_long = len(rows) - len(examples)
    if rows and not examples:
        raise ArtifactError(
            f"data set: all {too_long} conversations are longer than {max_tokens} tokens",
            hint="raise `max_tokens`",
        )

    return examples, too_long


def encoded(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_tokens: int, model: Any = None
) -> Iterator[Example | None]:
    """Yield each conversation as an example; None for one that is longer than `max_tokens`."""
    for row in rows:
        try:
            ids, labels = encode_row(tokenizer, row, max_tokens)
        except TooLong:
            yield None
            continue
        if model is not None:
            from toolchain.training.shown import with_pictures

            ids, labels = with_pictures(model, tokenizer, row, (ids, labels))
        yield Example(ids=ids, labels=labels) if len(ids) <= max_tokens else None


def reworded(rows: Sequence[Mapping[str, Any]], share: float, seed: int) -> list[Mapping[str, Any]]:
    """Return the conversations with words of the last question dropped or replaced.

    A `share` of the conversations is changed, each in up to MOST_CHANGED of its words, so that a
    teacher meets questions that it is unsure of. Replacements come from other questions. The
    answers stay: only the teacher's probabilities of them are learned.
    """
    draw = random.Random(f"words:{seed}")  # noqa: S311 - a shuffle, not a secret
    words = [word for row in rows for word in _WORDS.findall(_question(row))]
    return [_reworded(row, words, draw) if words and draw.random() < share else row for row in rows]


def exchanged(
    rows: Sequence[Mapping[str, Any]], share: float, seed: int
) -> list[Mapping[str, Any]]:
    """Return the conversations, a `share` of them with the answer of another.

    On an answer that it would not have given, a teacher is unsure of more words than on its own.
    """
    draw = random.Random(f"answers:{seed}")  # noqa: S311 - a shuffle, not a secret
    answers = [row["messages"][-1] for row in rows]
    return [
        {**row, "messages": [*row["messages"][:-1], draw.choice(answers)]}
        if draw.random() < share
        else row
        for row in rows
    ]


def _question(row: Mapping[str, Any]) -> str:
    return str(row["messages"][-2]["content"]) if len(row["messages"]) > 1 else ""


def _reworded(
    row: Mapping[str, Any], words: Sequence[str], draw: random.Random
) -> Mapping[str, Any]:
    # What a tool said is no question.
    if len(row["messages"]) < 2 or row["messages"][-2]["role"] != "user":
        return row
    changed = MOST_CHANGED * draw.random()
    words_left: list[str] = []
    for word in _WORDS.findall(_question(row)):
        fate = draw.random()
        if fate >= changed:
            words_left.append(word)
        elif fate >= changed / 2:
            words_left.append(draw.choice(words))
    *before, question, answer = row["messages"]
    return {
        **row,
        "messages": [*before, {**question, "content": "".join(words_left).strip()}, answer],
    }


def batch_of(examples: Sequence[Example], rows: Sequence[int]) -> Batch:
    """Return the examples at `rows` as one batch."""
    import torch

    width = max(len(examples[row].ids) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
        example = examples[row]
        ids[place, : len(example.ids)] = torch.tensor(example.ids)
        labels[place, : len(example.ids)] = torch.tensor(example.labels)
    lengths = tuple(len(examples[row].ids) for row in rows)
    return Batch(ids=ids, labels=labels, rows=tuple(rows), lengths=lengths)


def batches_of_epoch(
    examples: Sequence[Example], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Return the rows of each batch of an epoch, shuffled; batches hold examples of like length.

    Rows of different blocks share no batch, so the last batch of each block may have fewer rows.
    """
    draw = random.Random(f"{seed}:{epoch}")  # noqa: S311 - a shuffle, not a secret
    batches = []
    for block in blocks(examples, batch_size):
        lengths = _compared_lengths(examples, block.rows) if block.shares else {}
        rows = sorted(
            block.rows,
            key=lambda row: lengths.get(row, len(examples[row].ids)) * (1 + draw.random() / 4),
        )
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    draw.shuffle(batches)
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Rows that may stand in one batch."""

    rows: Sequence[int]
    shares: bool
    """Whether they begin alike, so that their beginning is read once a batch."""


def blocks(examples: Sequence[Example], batch_size: int) -> list[Block]:
    """Return the rows of each beginning that fills a batch, and those of no such beginning.

    Beside rows with tools, one row without them would have each of the batch read its tools.
    """
    from toolchain.training.shared import MIN_TOKENS

    begun: dict[tuple[int, ...], list[int]] = {}
    for row, each in enumerate(examples):
        begun.setdefault(tuple(each.ids[:MIN_TOKENS]), []).append(row)

    shared = [
        Block(rows=rows, shares=True)
        for beginning, rows in begun.items()
        if len(beginning) == MIN_TOKENS and len(rows) >= batch_size > 1
    ]
    taken = {row for block in shared for row in block.rows}
    rest = [row for row in range(len(examples)) if row not in taken]
    return [*([Block(rows=rest, shares=False)] if rest else []), *shared]


def _compared_lengths(examples: Sequence[Example], rows: Sequence[int]) -> dict[int, int]:
    """Return the length by which rows of one beginning are sorted, alike where they are mixed.

    Rows behind the same tools differ by a few tokens in 800: sorted by these, a batch held answers
    of one kind. Of 24 rows of `recipes/board-tools` the share without a call varied by 0.24 from
    batch to batch, where drawing them gives 0.10.
    """
    lengths = {row: len(examples[row].ids) for row in rows}
    shortest = min(lengths.values())
    return {row: shortest if long <= shortest * MIXED else long for row, long in lengths.items()}


def batches_from(
    examples: Sequence[Example], batch_size: int, seed: int, first: int, last: int
) -> Iterator[list[int]]:
    """Yield the batches of steps `first` to `last`, epoch after epoch."""
    per_epoch = sum(-(-len(each.rows) // batch_size) for each in blocks(examples, batch_size))
    epoch = -1
    order = []
    for step in range(first, last):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = batches_of_epoch(examples, batch_size, seed, epoch)
        yield order[step % per_epoch]

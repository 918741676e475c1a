"""The loss of a contrastive tuning: a module that holds the encoder."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from toolchain.knowledge.contrast import Lesson
from toolchain.recipe import ContrastSpec
from toolchain.training.examples import Batch

_TOGETHER = 48
"""Texts that the encoder reads at once."""


class ContrastLoss(nn.Module):
    """Summed loss of a batch, whose rows are those of `groups`."""

    def __init__(
        self,
        encoder: Any,
        tokenizer: Any,
        lesson: Lesson,
        groups: Sequence[tuple[int, Sequence[str]]],
        spec: ContrastSpec,
        *,
        first: bool,
    ) -> None:
        """With `first` the first token's state stands for a text, else the mean of all."""
        super().__init__()
        self.encoder = encoder
        self._tokenizer = tokenizer
        self._lesson = lesson
        self._groups = groups
        self._spec = spec
        self._first = first
        self._bf16 = _has_bf16()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the loss, a mean over the partners of each text."""
        # The loop seeds torch before each step, so that a resumed run draws the same texts.
        draw = random.Random(int(torch.randint(2**31, ())))  # noqa: S311
        texts, numbers = [], []
        for row in batch.rows:
            number, asked = self._groups[row]
            mine = self._with_answer(number, asked, draw)
            texts += mine
            numbers += [number] * len(mine)

        vectors = self.embed([*texts, *self._wrong(draw)])
        scores = vectors[: len(texts)] @ vectors.T / self._spec.temperature
        passage = torch.tensor(numbers, device=scores.device)
        return _contrast(scores, passage)

    def _with_answer(self, number: int, asked: Sequence[str], draw: random.Random) -> list[str]:
        """Return a group's texts, in some groups with the answer for one of its questions."""
        texts = list(asked)
        answer = self._lesson.answers[number]
        if answer and len(texts) == 1:
            return [*texts, answer]
        if answer and draw.random() < self._spec.passage_share:
            texts[draw.randrange(len(texts))] = answer
        return texts

    def _wrong(self, draw: random.Random) -> list[str]:
        unanswered = list(self._lesson.unanswered)
        return draw.sample(unanswered, min(self._spec.unanswered, len(unanswered)))

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Return float32 [texts, width], rows of length 1, as the board computes them."""
        # Texts of like lengths are read together: padding is computed like any other token.
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._spec.max_tokens)
        ids = ids["input_ids"]
        order = sorted(range(len(texts)), key=lambda place: len(ids[place]))
        groups = [order[at : at + _TOGETHER] for at in range(0, len(order), _TOGETHER)]
        vectors = torch.cat([self._read([ids[place] for place in group]) for group in groups])
        places = torch.tensor(order, device=vectors.device)
        return torch.empty_like(vectors).index_copy(0, places, vectors)

    def _read(self, ids: list[list[int]]) -> torch.Tensor:
        read = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.encoder.device)
        with torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self._bf16):
            states = self.encoder(**read).last_hidden_state
        mask = read["attention_mask"].unsqueeze(-1).float()
        mean = (states.float() * mask).sum(1) / mask.sum(1)
        return functional.normalize(states[:, 0].float() if self._first else mean, dim=-1)


def _contrast(scores: torch.Tensor, passage: torch.Tensor) -> torch.Tensor:
    """Return the summed loss of texts [n] of passages [n] from scores [n, n or more].

    Scores of texts that no passage has come behind the first n. A text's loss for a partner is that
    of choosing it among the texts of other passages.
    """
    count = len(passage)
    partners = passage[:, None] == passage[None, :]
    itself = torch.eye(count, dtype=torch.bool, device=scores.device)
    others = functional.pad(partners, (0, scores.shape[1] - count))
    wrong = torch.logsumexp(scores.masked_fill(others, -1e4), dim=1, keepdim=True)
    losses = torch.logaddexp(wrong, scores[:, :count]) - scores[:, :count]

    partners &= ~itself
    return (losses * partners / partners.sum(1, keepdim=True).clamp(min=1)).sum()


def _has_bf16() -> bool:
    """Say whether this machine multiplies bfloat16 in hardware, about twice as fast as float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")

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
    """Summed loss of a batch, whose rows are those of `lesson.pairs()`."""

    def __init__(
        self, encoder: Any, tokenizer: Any, lesson: Lesson, spec: ContrastSpec, *, first: bool
    ) -> None:
        """With `first` the first token's state stands for a text, else the mean of all."""
        super().__init__()
        self.encoder = encoder
        self._tokenizer = tokenizer
        self._lesson = lesson
        self._pairs = lesson.pairs()
        self._spec = spec
        self._first = first
        self._bf16 = _has_bf16()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the loss, half for finding partners and half for finding questions."""
        # The loop seeds torch before each step, so that a resumed run draws the same partners.
        draw = random.Random(int(torch.randint(2**31, ())))  # noqa: S311
        pairs = [self._pairs[row] for row in batch.rows]
        asked = [text for _, text in pairs]
        partners = [self._partner(number, text, draw) for number, text in pairs]
        vectors = self.embed([*asked, *partners, *self._wrong(draw)])
        mine, others = vectors[: len(asked)], vectors[len(asked) :]

        scores = mine @ others.T / self._spec.temperature
        passage = torch.tensor([number for number, _ in pairs], device=scores.device)
        same = passage[:, None] == passage[None, :]
        same.fill_diagonal_(False)
        scores[:, : len(asked)].masked_fill_(same, -1e4)
        right = torch.arange(len(asked), device=scores.device)
        there = functional.cross_entropy(scores, right, reduction="sum")
        back = functional.cross_entropy(scores[:, : len(asked)].T, right, reduction="sum")
        return (there + back) / 2

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

    def _partner(self, number: int, text: str, draw: random.Random) -> str:
        others = [each for each in self._lesson.questions[number] if each != text]
        answer = self._lesson.answers[number]
        if answer and (not others or draw.random() < self._spec.passage_share):
            return answer
        return draw.choice(others)

    def _wrong(self, draw: random.Random) -> list[str]:
        unanswered = list(self._lesson.unanswered)
        return draw.sample(unanswered, min(self._spec.unanswered, len(unanswered)))

    def _read(self, ids: list[list[int]]) -> torch.Tensor:
        read = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.encoder.device)
        with torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self._bf16):
            states = self.encoder(**read).last_hidden_state
        mask = read["attention_mask"].unsqueeze(-1).float()
        mean = (states.float() * mask).sum(1) / mask.sum(1)
        return functional.normalize(states[:, 0].float() if self._first else mean, dim=-1)


def _has_bf16() -> bool:
    """Say whether this machine multiplies bfloat16 in hardware, about twice as fast as float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")

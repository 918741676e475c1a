"""A teacher's distributions on disk: top-k ids, log-probabilities, log of the remaining mass.

There is one distribution for each learned token, and a safetensors file for every EXAMPLES_A_FILE
examples. Logarithms are float16: k = 64 takes 390 bytes a token, a whole Qwen vocabulary 300 kB.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.errors import ArtifactError
from toolchain.progress import Reporter
from toolchain.training.examples import Example, batch_of

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES_A_FILE = 512
BATCH = 16
PROBE = "for i in range(10):\n\tprint('¿Qué?')  # 你好，世界 🍵 Straße №5"


class CachedLogits:
    """Reads the distributions of `write_logits` by example: the Targets of a TeacherLoss.

    `place` says where an example stands in the cache: one that is learned often stands there once.
    """

    def __init__(self, folder: Path, place: Callable[[int], int] = lambda row: row) -> None:
        self._folder = folder
        self._place = place
        self._files: dict[int, Any] = {}

    def of(self, rows: Sequence[int]) -> "tuple[Tensor, Tensor, Tensor]":
        """Return the targets of some examples, one after the other.

        They are ids [n, k], log-probabilities [n, k] and the log of the remaining mass [n].
        """
        import torch

        parts = [self._example(row) for row in rows]
        ids, log_probs, tail = (torch.cat(part) for part in zip(*parts, strict=True))
        return ids.long(), log_probs.float(), tail.float()

    def _example(self, row: int) -> "tuple[Tensor, ...]":
        from safetensors import safe_open

        number, place = divmod(self._place(row), EXAMPLES_A_FILE)
        if number not in self._files:
            self._files[number] = safe_open(self._folder / _file(number), "pt")
        tensors = self._files[number]
        first, last = tensors.get_slice("offsets")[place : place + 2].tolist()
        return tuple(tensors.get_slice(name)[first:last] for name in ("ids", "log_probs", "tail"))


def write_logits(
    model: Any,
    examples: Sequence[Example],
    out: Path,
    *,
    temperature: float,
    k: int,
    tokens: int,
    report: Reporter,
) -> Figures:
    """Write the teacher's distributions at `temperature` over its first `tokens` tokens.

    Rows of the embedding beyond these are padding.
    """
    import torch
    from safetensors.torch import save_file

    from toolchain.training.objectives import Head

    head = Head(model)
    positions = 0
    for number, first in enumerate(range(0, len(examples), EXAMPLES_A_FILE)):
        shard = examples[first : first + EXAMPLES_A_FILE]
        parts = []
        for start in range(0, len(shard), BATCH):
            parts.append(_distributions(head, shard[start : start + BATCH], temperature, k, tokens))
            report.step("teacher", first + start, len(examples), "conversations")

        offsets = torch.tensor([0, *(example.targets for example in shard)]).cumsum(0)
        ids, log_probs, tail = (torch.cat(part) for part in zip(*parts, strict=True))
        save_file(
            {
                "offsets": offsets,
                "ids": ids.int(),
                "log_probs": log_probs.half(),
                "tail": tail.half(),
            },
            out / _file(number),
        )
        positions += len(ids)

    report.step("teacher", len(examples), len(examples), "conversations")
    return {
        "conversations": len(examples),
        "positions": positions,
        "top_k": min(k, tokens),
        "tokens": tokens,
    }


def _distributions(
    head: Any, examples: Sequence[Example], temperature: float, k: int, tokens: int
) -> "tuple[Tensor, ...]":
    import torch

    from toolchain.training.objectives import learned, top_k

    batch = batch_of(examples, range(len(examples))).to(head.device)
    with torch.inference_mode():
        hidden, _ = learned(head.hidden(batch.ids), batch.labels)
        parts = [
            top_k(head.logits(hidden[piece])[:, :tokens] / temperature, k)
            for piece in head.chunks(len(hidden))
        ]
    return tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))


def _file(number: int) -> str:
    return f"logits-{number:05d}.safetensors"


def token_count(tokenizer: Any) -> int:
    """Return how many rows of an embedding are tokens.

    Families pad theirs: Qwen2.5 has 151665 tokens in 151936 or in 152064 rows.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return max(vocabulary.values()) + 1


def check_same_tokenizer(teacher: Any, student: Any) -> None:
    """Raise ArtifactError unless both give the same ids to the same text."""
    if teacher.get_vocab() == student.get_vocab() and teacher.encode(PROBE) == student.encode(
        PROBE
    ):
        return
    raise ArtifactError(
        "distill: teacher and student have different tokenizers "
        f"({token_count(teacher)} and {token_count(student)} tokens)",
        hint="probabilities can only be learned token by token; "
        "choose a student of the teacher's family, or `layers`",
    )

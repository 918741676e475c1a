"""Compares a model in torch with its quantized self: the damage of types or codes before writing.

Weights are those that the engine will read; activations stay in float. The gate measures the file
itself afterwards.

"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.chat import IGNORED
from toolchain.errors import ConfigError
from toolchain.means import mean_and_error
from toolchain.models.lora import Lora
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.training.examples import Example

BATCH = 8
JUDGED_TOKENS = 8192
"""Largest number of answer tokens that two models are compared on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Divergence of a model from its teacher."""

    mean_kl: float
    """Nats per token of an answer."""
    error: float
    """Standard error of the mean, over conversations drawn anew."""
    agreement: float
    """Share of positions at which both predict the same next token."""
    tokens: int


def load(folder: Path, lora: Lora | None) -> Any:
    """Return a checked model folder in float32, its adapter merged, in evaluation mode."""
    import torch

    from toolchain.models.checkpoints import load_model

    network = load_model(folder, dtype="float32")
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for weight, delta in (lora.deltas if lora else {}).items():
            parameters[weight].add_(torch.from_numpy(delta.rows(0, delta.b.shape[0])))
    return network


def rows_of(network: Any, weight: str) -> "NDArray[np.float32]":
    """Return the rows of a weight of the network."""
    values: NDArray[np.float32] = network.get_parameter(weight).detach().numpy()
    return values


def put(network: Any, weight: str, kind: Type, packed: "NDArray[np.uint8]") -> None:
    """Set a weight of the network to the values that the engine will read."""
    import torch

    parameter = network.get_parameter(weight)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(ggml.dequantize_rows(kind, packed, parameter.shape[-1])))


def encoded(
    folder: Path, conversations: Sequence[Mapping[str, Any]], max_tokens: int
) -> "list[Example]":
    """Return conversations as token ids; raise ConfigError where there are none."""
    from toolchain.models.checkpoints import load_tokenizer
    from toolchain.training.examples import conversations as encode

    if not conversations:
        raise ConfigError(
            "quantize: there are no conversations to compare on", hint="stage `ingest` gives them"
        )
    return encode(load_tokenizer(folder), conversations, max_tokens)[0]


class Judge:
    """Compares networks with a teacher on the answers of some conversations."""

    def __init__(self, teacher: Any, examples: "Sequence[Example]") -> None:
        import torch

        from toolchain.training.objectives import Head, learned

        self._head = Head(teacher)
        self._batches = _batches(examples)
        with torch.inference_mode():
            self._states = [
                learned(self._head.hidden(batch.ids), batch.labels)[0] for batch in self._batches
            ]

    def compare(self, network: Any) -> Divergence:
        """Return KL(teacher ‖ network) and their agreement."""
        import torch

        from toolchain.training.objectives import Head, learned

        head = Head(network)
        sums = []
        counts = []
        agreed = 0

        with torch.inference_mode():
            for batch, theirs in zip(self._batches, self._states, strict=True):
                ours, _ = learned(head.hidden(batch.ids), batch.labels)
                parts = [
                    _compare(self._head.logits(theirs[piece]), head.logits(ours[piece]))
                    for piece in head.chunks(len(ours))
                ]
                kl, same = (torch.cat(part) for part in zip(*parts, strict=True))
                each = [int(count) for count in (batch.labels[:, 1:] != IGNORED).sum(1)]
                sums += [float(part.sum()) for part in torch.split(kl, each)]
                counts += each
                agreed += int(same.sum())

        return _divergence(sums, counts, agreed)


def _compare(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """Return KL(theirs ‖ ours) and whether both predict the same token, at each position."""
    teacher = theirs.double().log_softmax(-1)
    student = ours.double().log_softmax(-1)
    kl = (teacher.exp() * (teacher - student)).sum(-1)
    return kl, teacher.argmax(-1) == student.argmax(-1)


def _divergence(sums: Sequence[float], counts: Sequence[int], agreed: int) -> Divergence:
    tokens = sum(counts)
    mean, error = mean_and_error(sums, counts)
    return Divergence(mean_kl=mean, error=error, agreement=agreed / tokens, tokens=tokens)


def _batches(examples: "Sequence[Example]") -> list[Any]:
    from toolchain.training.examples import batch_of

    count = 0
    tokens = 0
    while count < len(examples) and tokens < JUDGED_TOKENS:
        tokens += examples[count].targets
        count += 1
    return [
        batch_of(examples, range(first, min(first + BATCH, count)))
        for first in range(0, count, BATCH)
    ]

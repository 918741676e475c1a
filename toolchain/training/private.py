"""DP-SGD (arXiv:1607.00133): training in which no unit can be told to have been there.

Each step draws every unit by itself (Poisson sampling), clips each one's gradient by itself, adds
noise to the sum, and divides by the size that a batch has on average. A unit is all phrasings of an
entry. The rule to keep: nothing that follows from the text leaves this module but parameters with
noise in them, so it gives no loss and counts no tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.artifacts import Figures
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError, ConfigError
from toolchain.privacy.protection import Protection
from toolchain.privacy.randomness import Randomness
from toolchain.privacy.rules import MANY, ONE
from toolchain.processes import many
from toolchain.progress import Reporter
from toolchain.training.examples import Batch, Example, batch_of
from toolchain.training.loop import (
    STATE,
    Course,
    Progress,
    optimizer_of,
    restore,
    save,
    save_is_due,
)
from toolchain.training.objectives import Head, learned

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Gradients = dict[str, Tensor]
"""Name of a layer → its gradient; with the rows or the units as the first dimension."""


class RowLoss(nn.Module):
    """Cross-entropy of learned tokens, each row with a weight of its own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._head = Head(model, shares=False)

    def forward(self, batch: Batch, weights: Tensor) -> Tensor:
        """Return the sum over the rows of weight × nats."""
        hidden, targets = learned(self._head.hidden(batch.ids), batch.labels)
        counts = (batch.labels[:, 1:] != IGNORED).sum(1)
        each = weights.repeat_interleave(counts)

        def loss(logits: Tensor, piece: slice) -> Tensor:
            nats = functional.cross_entropy(logits, targets[piece], reduction="none")
            return (nats * each[piece]).sum()

        return self._head.summed(hidden, loss)


class RowGradients:
    """Gradients of the trained linear layers of a model, one for each row of a batch."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, nn.Linear] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module.weight.requires_grad
        }
        own = {id(layer.weight) for layer in self.layers.values()}
        others = [
            name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own
        ]
        if others or not self.layers:
            raise ConfigError(
                f"tune: privacy: `{(others or ['nothing'])[0]}` is trained, and of it no gradient "
                "of a single row is known",
                hint="name linear layers in `target_modules`, such as q_proj and v_proj",
            )
        if any(getattr(each, "gradient_checkpointing", False) for each in model.modules()):
            raise ConfigError(
                "tune: privacy: gradient checkpointing reads a layer twice",
                hint="switch it off; a smaller `batch_size` saves the memory",
            )

    @contextmanager
    def collecting(self, rows: int) -> Iterator[Gradients]:
        """Fill the gradients of a batch of so many rows, by layer, while it is read backwards."""
        gradients: Gradients = {}
        handles = [
            layer.register_forward_hook(_hook(name, rows, gradients))
            for name, layer in self.layers.items()
        ]
        try:
            yield gradients
        finally:
            for handle in handles:
                handle.remove()
            for layer in self.layers.values():
                layer.weight.grad = None


def _hook(name: str, rows: int, gradients: Gradients) -> Any:
    """Return a hook that computes a layer's gradient of each row."""
    seen: list[RemovableHandle] = []

    def forward(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the layer reads until its gradient comes."""
        (states,) = inputs
        if states.ndim != 3 or len(states) != rows:
            raise ArtifactError(
                f"tune: privacy: `{name}` reads the tokens of several rows as one",
                hint="adapt layers of the attention alone, such as q_proj and v_proj",
            )
        if seen:
            raise ArtifactError(f"tune: privacy: `{name}` is read twice in one step")
        states = states.detach()

        def backward(gradient: Tensor) -> None:
            both = gradient.float(), states.float()
            gradients[name] = torch.einsum("nto,nti->noi", *both)

        seen.append(output.register_hook(backward))  # type: ignore[no-untyped-call]

    return forward


class Units:
    """What the units of a data set are as examples."""

    def __init__(self, examples: Sequence[Example | None], entries: Sequence[int]) -> None:
        """Take examples, None for one that is too long, and the number of each one's entry."""
        found: dict[int, list[int]] = {}
        kept: list[Example] = []
        for example, entry in zip(examples, entries, strict=True):
            if example:
                found.setdefault(entry, []).append(len(kept))
                kept.append(example)
        self.examples: Sequence[Example] = kept
        self.rows = list(found.values())
        """Places of each unit's examples."""

    def __len__(self) -> int:
        return len(self.rows)

    def weight(self, unit: int) -> float:
        """Return what makes the loss of a unit the mean over its own learned tokens."""
        return 1 / max(1, sum(self.examples[row].targets for row in self.rows[unit]))

    def tokens(self, chosen: Sequence[int]) -> int:
        """Return the number of tokens of some units."""
        return sum(len(self.examples[row].ids) for unit in chosen for row in self.rows[unit])

    def parts(self, chosen: Sequence[int], most_rows: int) -> Iterator[list[int]]:
        """Yield some units in parts of at most so many rows; a unit is never in two of them."""
        part: list[int] = []
        count = 0
        for unit in sorted(chosen, key=lambda each: len(self.examples[self.rows[each][0]].ids)):
            size = len(self.rows[unit])
            if part and count + size > most_rows:
                yield part
                part, count = [], 0
            part.append(unit)
            count += size
        if part:
            yield part


def unit_gradients(
    objective: RowLoss, layers: RowGradients, units: Units, part: Sequence[int], most_rows: int
) -> tuple[Gradients, float]:
    """Return the gradient of each of some units' own losses, and the sum of these losses."""
    device = next(objective.parameters()).device
    rows = [(place, row) for place, unit in enumerate(part) for row in units.rows[unit]]
    total = 0.0
    gradients: Gradients = {}

    for first in range(0, len(rows), most_rows):
        some = rows[first : first + most_rows]
        batch = batch_of(units.examples, [row for _, row in some]).to(device)
        places = torch.tensor([place for place, _ in some], device=device)
        weights = torch.tensor([units.weight(part[place]) for place, _ in some], device=device)
        with layers.collecting(len(some)) as found:
            loss = objective(batch, weights)
            loss.backward()
        total += float(loss.detach())
        for name, each in found.items():
            if name not in gradients:
                gradients[name] = each.new_zeros(len(part), *each.shape[1:])
            gradients[name].index_add_(0, places, each)

    return gradients, total


def clipped_sum(gradients: Mapping[str, Tensor], clip: float) -> Gradients:
    """Return the sum over the units, each with a norm of at most `clip` over all layers.

    A unit whose gradient is not finite counts nothing: a NaN would tell that it is there.
    """
    squares = sum(each.double().square().sum((1, 2)) for each in gradients.values())
    assert isinstance(squares, Tensor)
    factors = (clip / squares.sqrt()).clamp(max=1.0)
    factors = torch.where(squares.isfinite(), factors, 0.0)
    return {
        name: torch.einsum("u,uoi->oi", factors.float(), each.nan_to_num(0.0, 0.0, 0.0))
        for name, each in gradients.items()
    }


def with_noise(sums: Mapping[str, Tensor], numbers: Iterator[Any], scale: float) -> Gradients:
    """Return sums with normal noise of a standard deviation of `scale` on each element."""
    noise = torch.cat([torch.from_numpy(piece) for piece in numbers])
    sizes = [each.numel() for each in sums.values()]
    pieces = torch.split(noise, sizes)
    return {
        name: (each.double() + scale * piece.to(each.device).view_as(each)).float()
        for (name, each), piece in zip(sums.items(), pieces, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """What is learned under differential privacy, and how."""

    units: Units
    protection: Protection
    course: Course
    """Its `batch_size` is the number of rows that are read at once."""


def train_privately(model: Any, private: Private, resume: Path, report: Reporter) -> Figures:
    """Train a model's adapter under differential privacy; return what may be told of it.

    The state, and the key of all randomness, are kept in `resume`/`course.name`; an interrupted run
    goes on as it would have.
    """
    if many():
        raise ConfigError(f"tune: privacy: {MANY}", hint=ONE)
    course, protection = private.course, private.protection
    device = "cuda" if torch.cuda.is_available() else next(model.parameters()).device
    # Not in training mode: dropout's masks would depend on who else is in a batch.
    objective = RowLoss(model).to(device).eval()
    layers = RowGradients(objective)
    folder = resume / course.name
    randomness = Randomness.kept_in(folder)
    optimizer = optimizer_of(objective, course)
    progress = Progress(course, report)
    restore(folder / STATE, objective, optimizer, progress)

    for step in range(progress.step, course.steps):
        chosen = randomness.sample(step, len(private.units), protection.sampling_rate)
        sums, loss = _summed(objective, layers, private, chosen)
        numbers = randomness.normals(step, sum(each.numel() for each in sums.values()))
        noisy = with_noise(sums, numbers, protection.noise_multiplier * protection.clip)
        for name, layer in layers.layers.items():
            mean = noisy[name] / protection.expected_batch
            layer.weight.grad = mean.to(layer.weight.dtype)
        for group in optimizer.param_groups:
            group["lr"] = course.rate(step)
        optimizer.step()
        optimizer.zero_grad()

        tokens = private.units.tokens(chosen)
        progress.count_step(loss / len(chosen) if chosen else progress.loss, tokens)
        if save_is_due(progress):
            save(folder / STATE, objective, optimizer, {}, progress)

    return progress.figures() | {"loss": None, "trained_tokens": 0, "tokens_per_s": 0.0}


def _summed(
    objective: RowLoss, layers: RowGradients, private: Private, chosen: Sequence[int]
) -> tuple[Gradients, float]:
    """Return the sum of the units' clipped gradients by layer, and of their losses."""
    rows, clip = private.course.batch_size, private.protection.clip
    sums: Gradients = {
        name: torch.zeros_like(layer.weight, dtype=torch.float32)
        for name, layer in layers.layers.items()
    }
    total = 0.0
    for part in private.units.parts(chosen, rows):
        gradients, loss = unit_gradients(objective, layers, private.units, part, rows)
        for name, each in clipped_sum(gradients, clip).items():
            sums[name] += each
        total += loss
    return sums, total

"""The training loop; a killed run resumes as if it had never stopped.

It runs alone or under `accelerate launch`: each process takes its share of every batch, and the
gradient is that of the whole batch. All randomness follows from the seed and the step, so the saved
state is parameters and optimizer moments, as safetensors.
"""

import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Figures
from toolchain.chat import IGNORED
from toolchain.files import whole_file
from toolchain.processes import many_on_cpu
from toolchain.progress import Reporter
from toolchain.recipe import Precision, TrainSpec
from toolchain.training.examples import Batch, Example, batch_of, batches_from

if TYPE_CHECKING:
    import torch
    from torch import nn

    from toolchain.training.compute import Compute

STATE = "state.safetensors"
BETAS = (0.9, 0.95)
FLOOR = 0.05
"""Share of the learning rate at the last step."""
SAVING = 20
"""Seconds of training to each second in which the state is saved, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Length, speed and order of a training run."""

    name: str
    """Name of the progress bar and of the resume folder."""
    steps: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    seed: int
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    mean_steps: int = 0
    """Window of the running mean, which replaces the last parameters; 0: no mean."""
    save_every_s: float = 15.0
    """Seconds between two saves of the state, at least; 0: it is saved after each step."""
    # A rented computer may be taken away each minute, and takes half of one to begin again.
    precision: Precision = "float32"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step.

        It warms up linearly, then follows half a cosine down to FLOOR of it (arXiv:1608.03983).
        """
        warmup = max(1, round(self.steps * self.warmup_share))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)


def course(name: str, spec: TrainSpec, examples: Sequence[Example], seed: int) -> Course:
    """Return the course that a recipe asks for."""
    return Course(
        name=name,
        steps=spec.steps(len(examples)),
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        warmup_share=spec.warmup_share,
        seed=seed,
        precision=spec.precision,
    )


@dataclass(slots=True)
class Progress:
    """Position and cost of a run; saved with the state."""

    course: Course
    report: Reporter
    step: int = 0
    loss: float = math.nan
    """Nats per learned token, a running mean."""
    tokens: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    saved: float = field(default_factory=time.monotonic)
    """When the state was last saved."""
    saving_s: float = 0.0
    """Seconds that it took."""
    compute: "Compute | None" = None
    """How the run computes; None until that is chosen."""
    _clock: tuple[float, float] = field(
        default_factory=lambda: (time.monotonic(), time.process_time())
    )

    def count_step(self, loss: float, tokens: int) -> None:
        """Count a step and report it."""
        self.loss = loss if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * loss
        self.tokens += tokens
        self.step += 1
        before = self._clock
        self._clock = (time.monotonic(), time.process_time())
        self.seconds += self._clock[0] - before[0]
        self.cpu_s += self._clock[1] - before[1]
        figures = (
            f"loss {self.loss:.3f}, {self.tokens_per_s:.0f} tokens/s, {peak_memory_mb():.0f} MB"
        )
        self.report.step(self.course.name, self.step, self.course.steps, "steps", figures)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of whole sequences, learned or not, a second."""
        return self.tokens / max(self.seconds, 1e-9)

    def figures(self) -> Figures:
        """Return steps, loss, tokens, speed, time and memory."""
        return {
            "steps": self.step,
            "loss": round(self.loss, 4),
            "trained_tokens": self.tokens,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "train_s": round(self.seconds, 1),
            "train_cpu_s": round(self.cpu_s, 1),
            "peak_memory_mb": round(peak_memory_mb()),
            **(asdict(self.compute) if self.compute else {}),
        }

    def header(self) -> dict[str, str]:
        """Return the values that a resumed run needs."""
        kept = {name: repr(getattr(self, name)) for name in _KEPT}
        return kept | ({"compute": self.compute.text()} if self.compute else {})

    def resume_from(self, header: Mapping[str, str]) -> None:
        """Continue from a header."""
        for name, kind in _KEPT.items():
            setattr(self, name, kind(header[name]))
        if "compute" in header:
            from toolchain.training.compute import Compute

            self.compute = Compute.of_text(header["compute"])
        self.report.note(
            f"{self.course.name}: goes on after step {self.step} of {self.course.steps}"
        )


_KEPT = {"step": int, "loss": float, "tokens": int, "seconds": float, "cpu_s": float}


class _Mean:
    """Running mean of the trained parameters (arXiv:1803.05407); empty if a course has none."""

    def __init__(
        self, objective: "nn.Module", steps: int, values: "Mapping[str, torch.Tensor]"
    ) -> None:
        trained = {name: p for name, p in objective.named_parameters() if p.requires_grad and steps}
        self._trained = trained
        self._steps = steps
        self.values = {
            name: values.get(name, p).detach().to(p.device, copy=True)
            for name, p in trained.items()
        }

    def follow(self, step: int) -> None:
        """Add the parameters after a step; the first ones, which are far away, fade soon."""
        for name, parameter in self._trained.items():
            self.values[name].lerp_(parameter.detach(), 1 / min(self._steps, 1 + step))

    def apply(self) -> None:
        """Set the parameters to their mean."""
        for name, parameter in self._trained.items():
            parameter.data.copy_(self.values[name])


def train(
    objective: "nn.Module",
    examples: Sequence[Example],
    course: Course,
    resume: Path,
    report: Reporter,
) -> Figures:
    """Train the parameters of `objective` that require a gradient; return its figures.

    Its state is saved in `resume`/`course.name`, and an interrupted run resumes from there.
    """
    from accelerate import Accelerator

    from toolchain.training.compute import computing

    accelerator = Accelerator(cpu=many_on_cpu())
    state = resume / course.name / STATE
    optimizer = optimizer_of(objective, course)
    progress = Progress(course, report)
    restored = restore(state, objective, optimizer, progress)
    way = computing(
        objective.train(),
        examples,
        accelerator,
        precision=course.precision,
        batch_size=course.batch_size,
        begun=progress.compute,
    )
    with way as progress.compute:
        prepared, optimizer = accelerator.prepare(objective, optimizer)
        mean = _Mean(accelerator.unwrap_model(prepared), course.mean_steps, restored)
        for loss, tokens in _steps(accelerator, prepared, optimizer, examples, progress):
            mean.follow(progress.step)
            progress.count_step(loss, tokens)
            if accelerator.is_main_process and save_is_due(progress):
                save(state, accelerator.unwrap_model(prepared), optimizer, mean.values, progress)

    mean.apply()
    accelerator.unwrap_model(prepared).eval()
    return progress.figures()


def _steps(
    accelerator: Any,
    objective: "nn.Module",
    optimizer: Any,
    examples: Sequence[Example],
    progress: Progress,
) -> Iterator[tuple[float, int]]:
    """Take the steps that are left; yield the loss and the tokens of each."""
    import torch

    course, compute = progress.course, progress.compute
    assert compute
    process, processes = accelerator.process_index, accelerator.num_processes
    step = _Step(accelerator, objective, optimizer, compute)
    for rows in batches_from(examples, course.batch_size, course.seed, progress.step, course.steps):
        parts = [
            _share(examples, rows, process + part * processes, processes * compute.parts)
            for part in range(compute.parts)
        ]
        targets = sum(examples[row].targets for row in rows)
        torch.manual_seed(_step_seed(course.seed, progress.step, process))
        for group in optimizer.param_groups:
            group["lr"] = course.rate(progress.step)
        loss = step.take(parts, targets, course.clip)
        yield loss, sum(len(examples[row].ids) for row in rows)


def optimizer_of(objective: "nn.Module", course: Course) -> "torch.optim.Optimizer":
    """AdamW (arXiv:1711.05101); norms and biases do not decay."""
    import torch

    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in learned if parameter.ndim > 1],
            "weight_decay": course.weight_decay,
        },
        {
            "params": [parameter for parameter in learned if parameter.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]

    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=course.learning_rate,
        betas=BETAS,
        fused=True,
    )


def _share(examples: Sequence[Example], rows: Sequence[int], process: int, processes: int) -> Batch:
    """Return a process's part of a batch; a process without rows gets one and learns nothing."""
    mine = list(rows[process::processes])
    batch = batch_of(examples, mine or rows[:1])
    if not mine:
        batch.labels.fill_(IGNORED)
    return batch


def _step_seed(seed: int, step: int, process: int) -> int:
    # The hash of integers is the same in every process.
    return hash((seed, step, process)) & 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class _Step:
    """What takes one optimizer step."""

    accelerator: Any
    objective: "nn.Module"
    optimizer: Any
    compute: "Compute"

    def take(self, parts: Sequence[Batch], targets: int, clip: float) -> float:
        """Take a step; return the loss per learned token of the whole batch.

        The processes' gradients are averaged, so each scales its summed loss by the number of
        processes over the batch's learned tokens.
        """
        from toolchain.training.precision import autocast

        device = self.accelerator.device
        scale = self.accelerator.num_processes / max(targets, 1)
        losses = []
        for part in parts:
            with autocast(self.compute.precision, device):
                loss = self.objective(part.to(device)) * scale
            self.accelerator.backward(loss)
            losses.append(loss.detach())
        self.accelerator.clip_grad_norm_(
            [p for group in self.optimizer.param_groups for p in group["params"]], clip
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(self.accelerator.reduce(sum(losses), reduction="mean"))


def save_is_due(progress: Progress) -> bool:
    """Return whether the state is to be saved after this step."""
    every_s = progress.course.save_every_s
    # A large state takes long to write: that may be a twentieth of the time.
    wait_s = max(every_s, SAVING * progress.saving_s) if every_s else 0.0
    return progress.step == progress.course.steps or time.monotonic() - progress.saved >= wait_s


def save(
    state: Path,
    objective: "nn.Module",
    optimizer: Any,
    mean: "Mapping[str, torch.Tensor]",
    progress: Progress,
) -> None:
    """Write parameters, their mean and moments in one file; the progress is in its header."""
    from safetensors.torch import save_file

    began = time.monotonic()
    state.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"parameter.{name}": p.detach().contiguous()
        for name, p in objective.named_parameters()
        if p.requires_grad
    }
    tensors |= {f"mean.{name}": value.contiguous() for name, value in mean.items()}

    for place, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"moment.{place}.{name}": value.contiguous() for name, value in moments.items()}

    with whole_file(state) as part:
        save_file(tensors, part, metadata=progress.header())

    progress.saved = time.monotonic()
    progress.saving_s = progress.saved - began


def restore(
    state: Path, objective: "nn.Module", optimizer: Any, progress: Progress
) -> "dict[str, torch.Tensor]":
    """Load the state of an interrupted run with the same key; return the mean of its parameters."""
    import torch
    from safetensors import safe_open

    mean: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    if not state.is_file():
        return mean

    with safe_open(state, "pt") as tensors, torch.no_grad():
        parameters = dict(objective.named_parameters())
        for key in tensors.keys():  # noqa: SIM118 - not a dict
            kind, _, name = key.partition(".")
            if kind == "parameter":
                parameters[name].copy_(tensors.get_tensor(key))
            elif kind == "mean":
                mean[name] = tensors.get_tensor(key)
            else:
                place, _, moment = name.partition(".")
                moments.setdefault(int(place), {})[moment] = tensors.get_tensor(key)
        header = tensors.metadata()

    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    progress.resume_from(header)

    return mean


def peak_memory_mb() -> float:
    """Return the most memory this process has used: on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

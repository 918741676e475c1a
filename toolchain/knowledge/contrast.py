"""Contrastive tuning of an embedder: questions of one passage draw near, those of others apart.

A batch has a few questions of each of some passages; now and then a passage itself stands for one
of them. Each text must find those of its own passage among all (supervised contrast,
arXiv:2004.11362): a text is read once and is a partner for all others. Questions that no passage
answers are wrong partners for all.

The last layers alone are trained: what is below them is computed without gradients. Measured on
the shipped help desk (521 passages, 11,183 questions, MiniLM-L6), the share of 215 questions to
choose with whose passage was the first, and among three: untuned 69 and 91 %; one epoch of the last
layer 78 and 94, of the last three 79 and 94, of all six 81 and 95; two epochs of all six 84 and 97
(424 fresh questions: untuned 74 and 88 %, two epochs of all 83 and 94).
"""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import Work, keep
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.figures import TrainFigures
from toolchain.knowledge.embedder import POOLINGS, pooling_of, sizes_of
from toolchain.models.weights import read_json
from toolchain.progress import Reporter
from toolchain.recipe import ContrastSpec
from toolchain.training.examples import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What an embedder is tuned on."""

    answers: Sequence[str]
    """Answer to the questions of each passage; empty where it is a page, which may change."""
    questions: Sequence[Sequence[str]]
    """Questions that each passage answers: two at least where it has no answer here."""
    unanswered: Sequence[str] = ()
    """Questions that no passage answers."""

    def groups(self, size: int, draw: random.Random) -> list[tuple[int, Sequence[str]]]:
        """Return each question once, `size` or more of a passage together, with its number."""
        groups: list[tuple[int, Sequence[str]]] = []
        for number, asked in enumerate(self.questions):
            mixed = draw.sample(list(asked), len(asked))
            count = max(1, len(mixed) // size)
            groups += [(number, mixed[first::count]) for first in range(count)]
        return groups


def tune_embedder(
    folder: Path,
    lesson: Lesson,
    spec: ContrastSpec,
    out: Path,
    report: Reporter,
    *,
    inputs: dict[str, str],
    seed: int,
) -> Path:
    """Return the folder of the tuned embedder, made anew where its inputs have changed."""
    work = Work(
        stage="embedder", inputs=inputs, parameters=spec, seed=seed, tools=("torch", "transformers")
    )
    keep(out, work, lambda made: _tune(folder, lesson, spec, made, report, seed), TrainFigures)
    return out


def _tune(
    folder: Path, lesson: Lesson, spec: ContrastSpec, out: Path, report: Reporter, seed: int
) -> TrainFigures:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from toolchain.knowledge.contrast_loss import ContrastLoss
    from toolchain.training.loop import Course, train

    if len(lesson.questions) < 2:
        raise ArtifactError(
            "embedder: nothing to learn from: questions of two passages at least are needed"
        )
    # What cannot be shipped is refused before it is tuned.
    sizes_of(read_json(folder / "config.json"))
    first = pooling_of(folder) == POOLINGS["pooling_mode_cls_token"]

    torch.manual_seed(seed)
    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
    encoder.requires_grad_(False)
    for layer in encoder.encoder.layer[-spec.layers :]:
        layer.requires_grad_(True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    draw = random.Random(seed)  # noqa: S311
    groups = [group for _ in range(spec.epochs) for group in lesson.groups(spec.together, draw)]
    objective = ContrastLoss(encoder, tokenizer, lesson, groups, spec, first=first)
    batch_size = max(2, spec.batch_size // spec.together)
    course = Course(
        name="tune embedder",
        steps=max(1, len(groups) // batch_size),
        batch_size=min(batch_size, len(groups)),
        learning_rate=spec.learning_rate,
        warmup_share=0.05,
        seed=seed,
    )
    # A question is one thing to learn; the objective finds the texts by the row.
    examples = [
        Example(ids=(0,) * (1 + len(asked)), labels=(IGNORED, *(0,) * len(asked)))
        for _, asked in groups
    ]
    figures = train(objective, examples, course, out / "resume", report)

    for file in folder.rglob("*"):
        if file.is_file() and file.suffix not in (".safetensors", ".bin"):
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    encoder.save_pretrained(out)
    return TrainFigures.of(figures)

"""Contrastive tuning of an embedder: questions of one passage draw near, those of others apart.

In a batch each question has one partner, another question of its passage or the passage itself,
and all partners of other passages are wrong ones (InfoNCE, arXiv:1807.03748, as in
arXiv:1908.10084). Questions that no passage answers are wrong partners for all.

The last layers alone are trained: what is below them is computed without gradients. Measured on
the shipped help desk (521 passages, 11,183 questions, MiniLM-L6), the share of 215 questions to
choose with whose passage was the first, and among three: untuned 69 and 91 %; one epoch of the last
layer 78 and 94, of the last three 79 and 94, of all six 81 and 95; two epochs of all six 84 and 97
(424 fresh questions: untuned 74 and 88 %, two epochs of all 83 and 94).
"""

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

    def pairs(self) -> list[tuple[int, str]]:
        """Return each question with the number of its passage."""
        return [(number, each) for number, asked in enumerate(self.questions) for each in asked]


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

    pairs = lesson.pairs()
    if len({number for number, _ in pairs}) < 2:
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
    objective = ContrastLoss(encoder, tokenizer, lesson, spec, first=first)
    course = Course(
        name="tune embedder",
        steps=max(1, spec.epochs * len(pairs) // spec.batch_size),
        batch_size=min(spec.batch_size, len(pairs)),
        learning_rate=spec.learning_rate,
        warmup_share=0.05,
        seed=seed,
    )
    # A pair is one thing to learn; the objective finds its texts by the row.
    examples = [Example(ids=(0, 0), labels=(IGNORED, 0))] * len(pairs)
    figures = train(objective, examples, course, out / "resume", report)

    for file in folder.rglob("*"):
        if file.is_file() and file.suffix not in (".safetensors", ".bin"):
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    encoder.save_pretrained(out)
    return TrainFigures.of(figures)

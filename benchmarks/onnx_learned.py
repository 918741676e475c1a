"""Learned codes of an ONNX file against rounding to nearest, at equal bytes, on two models.

A part of onnx_convert.py. SmolLM2-135M as its package has it, and the small help desk that
recipes/starter.toml trains. Codes are learned from training conversations; KL is measured on
held-out answers, by stock ONNX Runtime, against the same model's file in float32. What was made is
kept in build/, or in the folder that DEMITASSE_BUILD names, and is not made again.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx_stock import Stock, kl

from toolchain import console, recipe, target
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.chat import IGNORED
from toolchain.held_out import split
from toolchain.line.flow import Flow, Settings
from toolchain.line.stages import STAGES
from toolchain.progress import Reporter
from toolchain.quantize.gguf import Additions, ModelLabel
from toolchain.quantize.learned import network
from toolchain.quantize.onnx import quantize
from toolchain.recipe import InFormatSpec, QuantizeSpec, Recipe
from toolchain.training.examples import Example

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = 1024
INT4, FP32 = "int4_b32", "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model whose codes are learned, and how long."""

    name: str
    recipe: str
    """Recipe with its conversations, and with the stages that make it."""
    questions: int
    """Held-out conversations that KL is measured on."""
    trials: int
    """Others that decide whether what was learned ships."""
    calibration: int
    """Texts that say how much a column weighs."""
    spec: InFormatSpec


SMOLLM2 = Subject(
    name="SmolLM2-135M",
    recipe="help-desk",
    questions=60,
    trials=48,
    calibration=160,
    # The default of 600,000 tokens is meant for models of a few million parameters.
    spec=InFormatSpec(tokens=24_000, batch_size=8, compensated=128),
)
HELP_DESK = Subject(
    name="the help desk's student",
    recipe="starter",
    questions=200,
    trials=200,
    calibration=400,
    spec=InFormatSpec(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files of one model, and the conversations to compare them on."""

    subject: Subject
    checkpoint: Path
    exact: Path
    """Folder of the file in float32."""
    learned: Path
    examples: Sequence[Example]
    shipped: str
    """Whether the file has the learned codes, or the rounded ones that were better."""


def build_folder(name: str) -> Path:
    """Return the folder in which the stages of a recipe are kept."""
    return Path(os.environ.get("DEMITASSE_BUILD", ROOT / "build")) / name


def learn(subject: Subject) -> Files:
    """Return the files of a subject; make what is missing."""
    wanted = recipe.load(ROOT / "recipes" / f"{subject.recipe}.toml")
    work = build_folder(subject.recipe)
    with console.terminal() as report:
        flow = Flow(
            recipe=wanted,
            settings=Settings(out=work, target=target.find(wanted.targets[0]), report=report),
        )
        for stage in _before_quantize(wanted):
            STAGES[stage].run(flow)
        parts = split(flow.data(), subject.questions)
        additions = Additions(
            calibration=tuple(_spread(flow.data().texts(), subject.calibration)),
            lessons=parts.lessons,
            trials=tuple(_spread(parts.trials, subject.trials)),
            trials_from=parts.source,
            seed=wanted.seed,
        )
        return _files(subject, flow.source(), additions, parts.gate, work / "onnx-learned", report)


def quick(checkpoint: Checkpoint, out: Path) -> Files:
    """Return the files of a model that learns next to nothing."""
    subject = replace(
        HELP_DESK, name="a random model", spec=InFormatSpec(tokens=200, compensated=4)
    )
    rows = tuple(
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "ja"}]}
        for n in range(6)
    )
    additions = Additions(calibration=("text " * 600,), lessons=rows[:4], trials=rows[4:5])
    return _files(subject, checkpoint, additions, rows[5:], out, console.Terminal())


def _files(
    subject: Subject,
    checkpoint: Checkpoint,
    additions: Additions,
    asked: Sequence[Mapping[str, Any]],
    out: Path,
    report: Reporter,
) -> Files:
    label = ModelLabel(name="bench-learned")
    exact, learned = (
        quantize(
            checkpoint,
            QuantizeSpec(onnx_scheme=scheme, importance=bool(spec), distill=spec),
            label,
            out / scheme,
            report,
            context=CONTEXT,
            additions=additions,
        )
        for scheme, spec in ((FP32, None), (INT4, subject.spec))
    )
    distilled = learned.figures.distillation
    assert distilled
    return Files(
        subject=subject,
        checkpoint=checkpoint.path,
        exact=exact.path,
        learned=learned.path,
        examples=network.encoded(checkpoint.path, asked, subject.spec.max_tokens),
        shipped=distilled.shipped,
    )


def _before_quantize(wanted: Recipe) -> list[str]:
    """Return the stages that give conversations and weights."""
    stages = wanted.stages[: wanted.stages.index("quantize")]
    return [stage for stage in stages if STAGES[stage].gives in (Dataset, Checkpoint)]


def _spread(rows: Sequence[Any], count: int) -> Sequence[Any]:
    """Return at most about `count` of the rows: neighbours are often of one subject."""
    return rows[:: max(1, len(rows) // count)]


def divergences(
    reference: Stock, other: Stock, examples: Sequence[Example]
) -> tuple[list[float], int]:
    """Return the sum of KL over the answer's tokens of each conversation, and their number."""
    sums = []
    count = 0
    for example in examples:
        # A row predicts the token after it.
        chosen = np.array(example.labels[1:]) != IGNORED
        rows = [each.logits(example.ids)[:-1][chosen] for each in (reference, other)]
        sums.append(float(kl(*rows).sum()))
        count += int(chosen.sum())
    return sums, count


def said(files: Files, tokens: int, found: Mapping[str, float]) -> dict[str, object]:
    """Return the conditions of a row: `found` is the KL of each side."""
    spec = files.subject.spec
    return {
        "answers": f"{len(files.examples)} held-out ones, {tokens} tokens",
        "learned on": f"{spec.tokens} tokens, {spec.compensated} conversations compensated",
        "file has": f"the {files.shipped} codes",
        "kl": {side: round(each, 4) for side, each in found.items()},
    }

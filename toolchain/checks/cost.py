"""Estimates of what a walk will take before it begins: disk, memory and hours.

Hours are those of recorded stages of the same kind, scaled; where nothing is recorded, they are
multiplications ÷ the rate at which this computer multiplies now, of which training gets a measured
share.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from toolchain.align import resolved
from toolchain.artifacts import RECORD
from toolchain.checks import Ahead, Findings, conversations, data, model
from toolchain.checks.conversations import Lengths
from toolchain.checks.model import Base, Bases
from toolchain.cost import DISTILL_TRAININGS, Workload, evaluated, expect, records_in
from toolchain.errors import FitError, ToolchainError
from toolchain.ingest.preferences import read_preferences
from toolchain.memory import available_bytes
from toolchain.models.weights import weight_files
from toolchain.preferences import divided
from toolchain.progress import duration
from toolchain.recipe import DistillSpec, Recipe, TuneSpec

SHARE = 0.3
# Measured: 0.25 and 0.39 for tuning and pretraining the starter's 3.1 M parameters. That is 20 and
# 31 of 80 thousand million operations in a processor second (x86-64, torch 2.13).
"""Share of the rate of large matrices that training gets."""
FORWARD, BACKWARD_LORA, BACKWARD = 2, 2, 4
"""Operations per parameter and token: forward, backward through frozen weights, full backward.

Source: arXiv:2001.08361, table 1."""
ALIGN_TRAININGS = 2
"""Trainings of `align`: on preferences, and a control on the wanted answers."""
PAIR_TOKENS = 128
"""Tokens of both answers of a preference, taken where no record says how long it takes."""
# Measured here: 7 million weights a processor second.
WEIGHT_OPERATIONS = 4e3
"""Operations that take as long as quantizing a weight, about."""
ANSWER_TOKENS = 64
"""Tokens of an answer in a measurement; its prompt is read once."""
ADAM_BYTES = 12
"""Bytes for a trained parameter: its gradient and both moments in float32."""
CHUNK = 512
"""Side of the matrices that are multiplied to measure this computer's rate."""
SHOWN_FROM_S = 60


def forecast(
    ahead: Ahead, bases: Bases | None, lengths: Lengths | None, findings: Findings
) -> None:
    """Note what a walk takes; too little disk is an error."""
    if bases is None or bases.trained.model is None:
        return
    todo = [stage for stage in ahead.stages if not (ahead.out / stage / RECORD).is_file()]
    _check_disk(ahead, bases, todo, findings)
    _note_memory(bases.trained, todo, findings)
    if lengths:
        _note_hours(ahead, bases, lengths, todo, findings)


def parameters(base: Base) -> int:
    """Return the number of a model's weights."""
    return base.model.parameters if base.model else 0


def _weight_bytes(base: Base) -> int:
    """Return the bytes of a model's weights as they are stored."""
    if base.whole and base.folder:
        return sum(file.stat().st_size for file in weight_files(base.folder))
    each = 4 if base.folder is None or base.config.get("dtype", "") == "float32" else 2
    return parameters(base) * each


def _check_disk(ahead: Ahead, bases: Bases, todo: list[str], findings: Findings) -> None:
    """Find a disk that is too small for the stages.

    Checkpoints are as large as their base; the model file comes in addition.
    """
    first, last = _weight_bytes(bases.trained), _weight_bytes(bases.quantized)
    sizes = {"pretrain": first, "tune": first, "distill": last, "align": last, "trim": last}
    needed = sum(size for stage, size in sizes.items() if stage in todo)
    if "quantize" in todo:
        needed += parameters(bases.quantized) * 2 * len(ahead.formats)

    folder = ahead.out.absolute()
    while not folder.exists():
        folder = folder.parent

    free = shutil.disk_usage(folder).free
    if needed > free:
        problem = (
            f"{ahead.out}: the stages write about {_size(needed)}, "
            f"{_size(free)} are free on the disk"
        )
        findings.errors.append(
            FitError(problem, hint="make room, or name a folder on another disk with --out")
        )
    elif needed > 1 << 30:
        findings.notes.append(f"disk: about {_size(needed)} are written, {_size(free)} are free")


def _note_memory(base: Base, todo: list[str], findings: Findings) -> None:
    """Note the memory of training if it is more than this computer has left."""
    if not {"pretrain", "tune", "distill", "align"} & set(todo):
        return

    trained = parameters(base) * (4 + ADAM_BYTES) if {"pretrain", "distill"} & set(todo) else 0
    needed = max(trained, _weight_bytes(base)) + _weight_bytes(base)
    available = available_bytes()
    if available and needed > available:
        findings.notes.append(
            f"memory: training takes about {_size(needed)} or more, "
            f"{_size(available)} are available here"
        )


def _note_hours(
    ahead: Ahead, bases: Bases, lengths: Lengths, todo: list[str], findings: Findings
) -> None:
    """Note the time of the stages that take some, by what the other work folders recorded."""
    works = [work for work in _works(ahead, bases, lengths) if work.stage in todo]
    if not works or Path("/dev/nvidia0").exists():
        return

    done, each_s = records_in(ahead.out.parent), rate()
    expected = [expect(work, done, each_s) for work in works]
    seconds = sum(each.seconds for each in expected)
    if seconds < SHOWN_FROM_S:
        return

    each = ", ".join(f"{one.stage} {duration(one.seconds)}, {one.by}" for one in expected)
    findings.notes.append(f"time: about {duration(seconds)} on this computer's processors ({each})")


def workloads(ahead: Ahead, findings: Findings) -> list[Workload]:
    """Return what each stage has to do that takes time; empty where that cannot be known yet."""
    parts = data.look(ahead, findings)
    bases = model.look(ahead, findings)
    lengths = conversations.look(ahead, parts, bases, findings) if parts else None
    if lengths is None or bases is None or bases.trained.model is None:
        return []
    return _works(ahead, bases, lengths)


def _works(ahead: Ahead, bases: Bases, lengths: Lengths) -> list[Workload]:
    """Return what each stage has to do that takes time, in the order of the walk."""
    sizes = {stage: parameters(bases.quantized) for stage in ("distill", "quantize", "align")}
    learned = []
    for stage in ahead.stages:
        tokens = _tokens(ahead, stage, lengths)
        if tokens is not None:
            learned.append(
                Workload(
                    stage=stage,
                    parameters=sizes.get(stage, parameters(bases.trained)),
                    tokens=tokens,
                    asked=min(_questions(ahead.recipe, stage), lengths.held_out),
                    operations=_operations(stage, tokens, bases, ahead, lengths),
                )
            )
    asking = _asking(ahead, parameters(bases.quantized), lengths)
    works = {each.stage: each for each in (*asking, *learned)}
    return [works[stage] for stage in ahead.stages if stage in works]


def _questions(recipe: Recipe, stage: str) -> int:
    """Return how many questions a stage that trains asks, at most."""
    specs = {"tune": recipe.tune, "distill": recipe.distill, "align": recipe.align}
    spec = specs.get(stage)
    return spec.questions if spec else 0


def _asking(ahead: Ahead, size: int, lengths: Lengths) -> Iterator[Workload]:
    """Yield the stages that train nothing and take time; the plan itself reads as `ingest` does."""
    if ahead.walks("quantize"):
        yield _untrained("quantize", size, 1, WEIGHT_OPERATIONS * size)
    if ahead.walks("evaluate"):
        spec = ahead.recipe.evaluate
        asked = min(spec.questions, lengths.held_out)
        tokens = asked * spec.max_tokens + 2 * 2 * spec.kl_tokens
        amount = evaluated(asked, spec.kl_tokens)
        yield _untrained("evaluate", size, amount, FORWARD * size * tokens)


def _untrained(stage: str, size: int, amount: float, operations: float) -> Workload:
    return Workload(
        stage=stage,
        parameters=size,
        tokens=0,
        asked=amount,
        operations=operations,
        trains=False,
    )


def _preferences(ahead: Ahead) -> int:
    """Return how many preferences `align` learns from."""
    recipe = ahead.recipe
    assert recipe.align
    try:
        found = read_preferences(recipe.align, recipe.data, recipe.folder, lambda text: None)
        _, used = resolved(recipe.align, found)
    except ToolchainError:  # found where the data is looked at
        return 0
    return len(divided(used, recipe.align.held_out_share, recipe.seed, ())[0])


def _tokens(ahead: Ahead, stage: str, lengths: Lengths) -> float | None:
    """Return the tokens that a stage learns from, each as often as it is seen; None if it does not.

    Of `align` it is preferences: their answers are of any length, and records count them too.
    """
    recipe = ahead.recipe
    if stage == "pretrain" and (scratch := recipe.model.scratch):
        mean = lengths.tokens / max(1, lengths.conversations)
        mean += scratch.eyes.places if scratch.eyes else 0
        return scratch.steps * scratch.batch_size * min(mean, scratch.context)
    if stage == "tune":
        return _learned(recipe.tune, lengths)
    if stage == "distill" and recipe.distill:
        return DISTILL_TRAININGS * _learned(recipe.distill, lengths)
    if stage == "align" and recipe.align:
        count = _preferences(ahead)
        return count * recipe.align.passes(count)
    if stage == "quantize" and recipe.quantize.distill:
        return recipe.quantize.distill.tokens
    return None


def _learned(spec: TuneSpec | DistillSpec, lengths: Lengths) -> float:
    """Return the tokens of a training; a general conversation counts as one of the recipe's."""
    passes = spec.passes(spec.with_general(lengths.conversations))
    return spec.with_general(lengths.tokens) * passes


def rate() -> float:
    """Return the operations a second that training gets here."""
    return SHARE * _rate()


def _operations(stage: str, tokens: float, bases: Bases, ahead: Ahead, lengths: Lengths) -> float:
    """Return the number of multiplications and additions of a stage that learns `tokens`."""
    first, last = parameters(bases.trained), parameters(bases.quantized)
    if stage == "pretrain":
        return (FORWARD + BACKWARD) * first * tokens
    if stage == "tune":
        asked = min(ahead.recipe.tune.questions, lengths.held_out) * ANSWER_TOKENS * 2
        return first * ((FORWARD + BACKWARD_LORA) * tokens + FORWARD * asked)
    if stage == "distill":
        return (FORWARD + BACKWARD) * last * tokens + FORWARD * first * lengths.tokens
    if stage == "align":
        return (FORWARD + BACKWARD_LORA) * last * tokens * PAIR_TOKENS * ALIGN_TRAININGS
    return (2 * FORWARD + BACKWARD) * last * tokens


def _rate() -> float:
    """Return operations a second of all processors here on matrices, if they were free.

    Measured in a twentieth of a second.
    """
    import numpy as np

    matrix = np.ones((CHUNK, CHUNK), np.float32)
    np.matmul(matrix, matrix)
    began = time.process_time()
    done = 0

    while done == 0 or time.process_time() - began < 0.05:
        np.matmul(matrix, matrix)
        done += 1

    each = 2 * CHUNK**3 * done / max(time.process_time() - began, 1e-6)
    return each * len(os.sched_getaffinity(0))


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"

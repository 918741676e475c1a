"""`demitasse calibrate` against a full sweep, and against llama-bench's thread a core.

The sweep is what llama-bench does with every thread count, combined with each change that the
search knows: pp512 and tg128, five times each. The search gets a tenth of its time. Then the
settings of the three answer the same typical question in turn. A thread that waits for a processor
holds up all others: where other programs ran, the conditions say so, and the ratio to the defaults
says nothing.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import measure
import models

from device.engine import load
from device.engine.base import Engine, Settings
from device.search import CHANGES, TYPICAL_ANSWER, TYPICAL_PROMPT, Budget, find
from device.sensors import Watch

PROMPT, ANSWER, REPEAT, ROUNDS = 512, 128, 5, 9
QUICK_PROMPT, QUICK_ANSWER, QUICK_REPEAT, QUICK_ROUNDS = 64, 16, 2, 3
SHARE = 0.1
"""Share of the sweep's time that the search gets."""
TINY = models.Shape(
    name="Tiny-2M", width=256, layers=2, inner=768, heads=4, kv_heads=2, vocabulary=2048
)
"""Model so small that a second thread only waits: a thread for each core is the wrong default."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the sweep does at each thread count."""

    prompt: int
    answer: int
    repeat: int
    rounds: int


def main() -> None:
    """Measure the claims on a small and on a tiny model."""
    options = measure.options(__doc__ or "")
    plan = (
        Plan(QUICK_PROMPT, QUICK_ANSWER, QUICK_REPEAT, QUICK_ROUNDS)
        if options.quick
        else Plan(PROMPT, ANSWER, REPEAT, ROUNDS)
    )
    claims: list[measure.Claim] = []
    figures: dict[str, list[float]] = {}

    for shape in (TINY,) if options.quick else (TINY, models.SMOLLM2_135M):
        of_shape, seconds = _of_shape(shape, plan)
        claims += of_shape
        figures |= {
            f"{name}, {shape.name}": [1000 * each for each in found]
            for name, found in seconds.items()
        }

    measure.show(claims, figures, "ms", as_json=options.json)


def _of_shape(
    shape: models.Shape, plan: Plan
) -> tuple[list[measure.Claim], dict[str, list[float]]]:
    """Return the claims on one model, and the seconds of a question with each settings."""
    file = models.random_gguf(shape)
    watch = Watch()
    began = time.perf_counter()
    best = _sweep(file, plan)
    sweep_s = time.perf_counter() - began

    began = time.perf_counter()
    ours, evidence = find(
        partial(load, file), Settings(context=plan.prompt + 1), Budget(0.8 * SHARE * sweep_s)
    )
    ours_s = time.perf_counter() - began

    seconds = _in_turns(
        file, {"ours": ours, "sweep": best, "defaults": _default(plan)}, plan.rounds
    )
    told = {
        "shape": shape.name,
        "chosen": _chosen(ours),
        "sweep's": _chosen(best),
        "tried": len(evidence["changes"]),
        "contended": ", ".join(watch.over()["contended"]) or "no",
    }
    rates = {name: [1 / each for each in found] for name, found in seconds.items()}
    claims = [
        measure.claim(
            f"best point, {shape.name}", "full sweep", 0.98, rates["ours"], rates["sweep"], told
        ),
        measure.claim(
            f"search time, {shape.name}",
            "full sweep",
            SHARE,
            [ours_s],
            [sweep_s],
            told,
            better="less",
        ),
        measure.claim(
            f"defaults, {shape.name}",
            "a thread a core",
            1.2 if shape is TINY else 0.98,
            rates["ours"],
            rates["defaults"],
            told,
        ),
    ]
    return claims, seconds


def _sweep(file: Path, plan: Plan) -> Settings:
    """Return the best settings of the whole sweep."""
    points = [
        _best_threads(file, replace(_default(plan), **change), plan) for change in ({}, *CHANGES)
    ]
    return min(points, key=lambda point: point[1])[0]


def _best_threads(file: Path, settings: Settings, plan: Plan) -> tuple[Settings, float]:
    """Return the best thread counts for decoding and for prefill with these settings.

    Also the seconds of a typical question with them.
    """
    engine = load(file, settings)
    decode, prefill = {}, {}
    for threads in range(1, _cores() + 1):
        engine.use_threads(threads, threads)
        engine.time_prompt(plan.prompt)
        prefill[threads] = statistics.mean(
            engine.time_prompt(plan.prompt) for _ in range(plan.repeat)
        )
        engine.time_decode(1)
        decode[threads] = statistics.mean(
            engine.time_decode(plan.answer) for _ in range(plan.repeat)
        )

    engine.close()
    seconds = (
        min(prefill.values()) / plan.prompt * TYPICAL_PROMPT
        + min(decode.values()) / plan.answer * TYPICAL_ANSWER
    )
    threads = min(decode, key=decode.__getitem__)
    threads_batch = min(prefill, key=prefill.__getitem__)
    return replace(settings, threads=threads, threads_batch=threads_batch), seconds


def _in_turns(file: Path, settings: dict[str, Settings], rounds: int) -> dict[str, list[float]]:
    engines = {name: load(file, each) for name, each in settings.items()}
    cases: dict[str, Callable[[], float]] = {
        name: partial(_question_s, engine) for name, engine in engines.items()
    }
    found = measure.interleave(cases, rounds)
    for engine in engines.values():
        engine.close()

    return found


def _question_s(engine: Engine) -> float:
    prompt = min(TYPICAL_PROMPT, engine.context // 2)
    return engine.time_prompt(prompt) + engine.time_decode(min(TYPICAL_ANSWER, engine.context // 2))


def _default(plan: Plan) -> Settings:
    """Return llama-bench's settings: a thread for each core (common.cpp, cpu_get_num_math)."""
    cpus = [
        Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings")
        for cpu in os.sched_getaffinity(0)
    ]
    threads = len({file.read_text() for file in cpus if file.is_file()}) or _cores()
    return Settings(context=plan.prompt + 1, threads=threads, threads_batch=threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _chosen(settings: Settings) -> str:
    threads = f"{settings.threads} and {settings.threads_batch} threads"
    told = f"{threads}, batch {settings.batch or 512}, flash {settings.flash}"
    return f"{told}, mmap {settings.mmap}, kv {settings.kv_type}"


if __name__ == "__main__":
    main()

"""`search`: the fastest settings of a model on this board: threads, cores, batches, KV type.

Threads are found by successive halving (Jamieson and Talwalkar 2016): all candidates run a little,
then the better half runs twice as much, until one is left. They take turns, and each round runs in
the opposite order, so that a board that gets hot disturbs all of them alike. Then settings that
need the model to be opened again are tried, one change at a time.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from device.engine.base import Engine, Settings
from device.engine.machine import usable_cores
from device.manifest import read_manifest
from device.model import bundle_settings, open_with
from device.sensors import now
from device.tuned import CHOSEN

SAMPLES = 2
"""Measurements of each candidate in each round."""
DECODE_TOKENS, PREFILL_TOKENS = 8, 64
"""Tokens of a measurement in the first round; each later round doubles them."""
GAIN = 1.03
"""Minimum speedup of a change that is kept: less is noise."""
TYPICAL_PROMPT, TYPICAL_ANSWER = 256, 64
"""Tokens of the prompt and the answer by which changes are judged."""
HOT_C, COOLING_S = 78.0, 5.0
"""Temperature from which there is a pause before each measurement, and its seconds."""
CHANGES: "tuple[dict[str, Any], ...]" = (
    {"flash": False},
    {"batch": 128},
    {"batch": 256},
    {"mmap": False},
    # llama.cpp opens no quantized cache without flash attention.
    {"kv_type": "q8_0", "flash": True},
)

Rate = Callable[["Arm", int], float]


@dataclass(frozen=True)
class Arm:
    """A candidate: a number of threads on these cores."""

    threads: int
    cpus: "tuple[int, ...]"


@dataclass(frozen=True)
class Trial:
    """The result of a candidate in its last round."""

    arm: Arm
    rate: float
    """Median tokens per second."""
    rounds: int


class Budget:
    """A limit of time; the first round is always run."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + seconds

    def spent(self) -> bool:
        """Say whether the time is over."""
        return self._clock() >= self._until


def halve(arms: Sequence[Arm], rate: Rate, tokens: int, budget: Budget) -> "list[Trial]":
    """Return the result of each candidate, the best one first."""
    trials: "dict[Arm, Trial]" = {}
    left = list(arms)
    rounds = 0

    while left and (not rounds or (len(left) > 1 and not budget.spent())):
        rounds += 1
        samples: "dict[Arm, list[float]]" = {arm: [] for arm in left}
        for turn in range(SAMPLES):
            for arm in left if turn % 2 == 0 else left[::-1]:
                samples[arm].append(rate(arm, tokens))

        for arm, rates in samples.items():
            trials[arm] = Trial(arm, statistics.median(rates), rounds)

        left.sort(key=lambda arm: trials[arm].rate, reverse=True)
        left = left[: (len(left) + 1) // 2]
        tokens *= 2

    return sorted(trials.values(), key=lambda trial: (trial.rounds, trial.rate), reverse=True)


def arms(clusters: "Sequence[tuple[int, ...]]", most: int) -> "list[Arm]":
    """Return the candidates for clusters of cores, the fastest cluster first.

    Threads run on the fastest cluster alone, or on all cores together.
    """
    together = tuple(sorted(cpu for cluster in clusters for cpu in cluster))
    sets = [clusters[0], together] if len(clusters) > 1 else [together]
    return [Arm(threads, cpus) for cpus in sets for threads in range(1, min(len(cpus), most) + 1)]


def clusters(folder: Path = Path("/sys/devices/system/cpu")) -> "list[tuple[int, ...]]":
    """Return the cores that this process may use, grouped by clock, the fastest first."""
    by_clock: "dict[int, list[int]]" = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        clock = folder / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq"
        by_clock.setdefault(int(clock.read_text()) if clock.is_file() else 0, []).append(cpu)
    return [tuple(by_clock[clock]) for clock in sorted(by_clock, reverse=True)]


def search(argv: "list[str]") -> int:
    """Find the settings of a bundle's model on this board; print them with their evidence."""
    parser = argparse.ArgumentParser(prog="search")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    options = parser.parse_args(argv)
    began = time.monotonic()
    budget = Budget(options.budget)
    manifest = read_manifest(options.bundle)
    usual = replace(bundle_settings(options.bundle, manifest), slots=1)
    found, evidence = find(
        lambda changed: open_with(options.bundle, manifest, changed).engine, usual, budget
    )
    evidence["seconds"] = round(time.monotonic() - began, 1)
    chosen = {name: value for name, value in asdict(found).items() if name in CHOSEN}
    print(json.dumps({"settings": chosen, "evidence": evidence}), flush=True)

    return 0


def find(
    opened: "Callable[[Settings], Engine]", settings: Settings, budget: Budget
) -> "tuple[Settings, dict[str, Any]]":
    """Return the fastest settings that were found, and the evidence for them."""
    engine = opened(settings)
    candidates = arms(clusters(), usable_cores())
    before = engine.description
    longest = engine.context - 1

    def decode(arm: Arm, tokens: int) -> float:
        return _rate(
            engine, arm, lambda: engine.time_decode(min(tokens, longest)), min(tokens, longest)
        )

    def prefill(arm: Arm, tokens: int) -> float:
        return _rate(
            engine, arm, lambda: engine.time_prompt(min(tokens, longest)), min(tokens, longest)
        )

    engine.time_prompt(min(PREFILL_TOKENS, longest))
    decodes = halve(candidates, decode, DECODE_TOKENS, budget)
    cpus = decodes[0].arm.cpus
    prefills = halve(
        [arm for arm in candidates if arm.cpus == cpus], prefill, PREFILL_TOKENS, budget
    )
    engine.close()
    best = replace(
        settings,
        threads=decodes[0].arm.threads,
        threads_batch=prefills[0].arm.threads,
        cpus=_unless_all(cpus),
    )
    best, changes = _changed(opened, best, budget)

    return best, {
        "before": {"threads": before.threads, "threads_batch": before.threads_batch},
        "decode": [_said(trial) for trial in decodes],
        "prefill": [_said(trial) for trial in prefills],
        "changes": changes,
    }


def _rate(engine: Engine, arm: Arm, timed: Callable[[], float], tokens: int) -> float:
    condition = now()
    if condition["throttled"] or (condition["temperature_c"] or 0.0) > HOT_C:
        time.sleep(COOLING_S)
    engine.use_threads(arm.threads, arm.threads, arm.cpus)
    return tokens / timed()


def _changed(
    opened: "Callable[[Settings], Engine]", best: Settings, budget: Budget
) -> "tuple[Settings, list[dict[str, Any]]]":
    """Try one change after the other, each against the best so far.

    Only one model is open at a time.
    """
    found: "list[dict[str, Any]]" = []
    least = None
    for change in ({}, *CHANGES):
        if budget.spent():
            break

        changed = replace(best, **change)
        seconds = _typical_s(opened(changed))
        kept = least is not None and seconds * GAIN < least
        found.append({"change": change, "seconds": round(seconds, 4), "kept": kept})
        if least is None or kept:
            best = changed
            least = seconds

    return best, found


def _typical_s(engine: Engine) -> float:
    """Return the seconds of a typical question, the best of three."""
    # Disturbances only ever make a measurement longer.
    prompt = min(TYPICAL_PROMPT, engine.context // 2)
    answer = min(TYPICAL_ANSWER, engine.context // 2)
    engine.time_prompt(1)
    seconds = min(engine.time_prompt(prompt) + engine.time_decode(answer) for _ in range(3))
    engine.close()

    return seconds


def _unless_all(cpus: "tuple[int, ...]") -> "tuple[int, ...]":
    return () if set(cpus) == os.sched_getaffinity(0) else cpus


def _said(trial: Trial) -> "dict[str, Any]":
    return {
        "threads": trial.arm.threads,
        "cpus": list(trial.arm.cpus),
        "tok_s": round(trial.rate, 2),
        "rounds": trial.rounds,
    }

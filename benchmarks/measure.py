"""What all benchmarks share: interleaved rounds, ratios of medians with intervals, output.

A benchmark measures one claim against a named peer in one run. `measured` is ours ÷ the peer's.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

RESAMPLES = 10_000
CGROUPS = (
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "tasks"),
    ("/sys/fs/cgroup", "memory.max", "cgroup.procs"),
)
"""Folder, file of the limit and file of the members: cgroup v1, then v2."""
_JOIN = (
    "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
Case = Callable[[], float]
"""Does the work once and returns a figure: MB/s, seconds or bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim and its result."""

    claim: str
    peer: str
    goal: float
    """Least ratio that keeps the claim; the most where less is better."""
    measured: float
    """Median of ours ÷ median of the peer's."""
    ci: tuple[float, float]
    """95 % bootstrap interval of `measured`."""
    holds: bool
    conditions: dict[str, object]


def genai_python(options: argparse.Namespace) -> str:
    """Return the Python that has onnxruntime-genai; empty, and said, where nobody named one."""
    python = os.environ.get("DEMITASSE_GENAI", "")
    if not python:
        print("DEMITASSE_GENAI names no Python with onnxruntime-genai", file=sys.stderr)
        if options.json:
            print("[]")
    return python


def options(
    description: str, *, names: bool = False, resumable: bool = False, **flags: str
) -> argparse.Namespace:
    """Read the arguments of every benchmark, and a benchmark's own flags (name → help text).

    With `names` it also reads names of benchmarks; with `resumable` a work folder that keeps
    results, and the minutes of a turn.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if names:
        parser.add_argument(
            "names", nargs="*", metavar="NAME", help="benchmarks to run; by default all"
        )

    parser.add_argument("--json", action="store_true", help="print the claims as JSON on stdout")
    parser.add_argument(
        "--quick", action="store_true", help="small and few: shows that it runs, proves nothing"
    )
    if resumable:
        parser.add_argument(
            "--work", type=Path, metavar="FOLDER", help="keeps results; a second run goes on"
        )
        parser.add_argument(
            "--minutes", type=float, default=math.inf, help="begin nothing after so long"
        )
    for flag, meaning in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)

    return parser.parse_args()


@contextmanager
def work_folder(named: Path | None) -> Iterator[Path]:
    """Yield the folder that was named and stays, or a temporary one."""
    if named:
        yield named
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made) / "work"


def lives_within(command: Sequence[str], limit_bytes: int) -> bool | None:
    """Return whether a command ends well in a memory cgroup of so many bytes.

    None if this computer has no cgroup to give.

    Files that it reads and writes count too, but their cache gives way.
    """
    found = next(
        (
            each
            for each in CGROUPS
            if os.access(each[0], os.W_OK) and any(Path(each[0]).glob("memory.*"))
        ),
        None,
    )
    if not found:
        return None

    root, limit_file, members = found
    group = Path(root) / f"demitasse-{os.getpid()}"
    group.mkdir()

    try:
        (group / limit_file).write_text(str(limit_bytes))
        joined = [sys.executable, "-c", _JOIN, str(group / members), *command]
        return subprocess.run(joined, stdout=subprocess.DEVNULL, check=False).returncode == 0
    finally:
        group.rmdir()


def interleave(cases: Mapping[str, Case], rounds: int) -> dict[str, list[float]]:
    """Run every case once a round, in another order each time; the first round does not count."""
    figures: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            figure = cases[name]()
            if number:
                figures[name].append(figure)

    return figures


def claim(
    name: str,
    peer: str,
    goal: float,
    ours: Sequence[float],
    theirs: Sequence[float],
    conditions: Mapping[str, object],
    *,
    better: Literal["more", "less"] = "more",
) -> Claim:
    """Return the ratio of medians, its interval, and whether the goal is reached."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    draw = random.Random(0)
    drawn = sorted(
        statistics.median(draw.choices(ours, k=len(ours)))
        / statistics.median(draw.choices(theirs, k=len(theirs)))
        for _ in range(RESAMPLES)
    )
    interval = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
    holds = ratio >= goal if better == "more" else ratio <= goal
    figures = {"rounds": len(ours), **machine(), **conditions}
    return Claim(
        claim=name,
        peer=peer,
        goal=goal,
        measured=round(ratio, 3),
        ci=(round(interval[0], 3), round(interval[1], 3)),
        holds=holds,
        conditions=figures,
    )


def paired(
    name: str,
    peer: str,
    goal: float,
    ours: Sequence[float],
    theirs: Sequence[float],
    conditions: Mapping[str, object],
) -> Claim:
    """Return the ratio of two sums over the same items; less is better.

    Its interval draws items anew, both sides at once.
    """
    draw = random.Random(0)
    items = range(len(ours))
    drawn = []

    for _ in range(RESAMPLES):
        picked = draw.choices(items, k=len(items))
        drawn.append(sum(ours[item] for item in picked) / sum(theirs[item] for item in picked))

    drawn.sort()
    ratio = sum(ours) / sum(theirs)
    interval = (drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)])
    return Claim(
        claim=name,
        peer=peer,
        goal=goal,
        measured=round(ratio, 3),
        ci=(round(interval[0], 3), round(interval[1], 3)),
        holds=ratio <= goal,
        conditions={"items": len(items), **machine(), **conditions},
    )


def peak_bytes() -> int:
    """Return the most memory that this process had resident, by the kernel.

    getrusage(2) tells that of the process that started this one, if it was more.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def machine() -> dict[str, object]:
    """Return where and when it was measured."""
    load = round(os.getloadavg()[0], 1)
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": load,
        "date": time.strftime("%Y-%m-%d"),
    }


def show(
    claims: Sequence[Claim], figures: Mapping[str, Sequence[float]], unit: str, *, as_json: bool
) -> None:
    """Print the claims as JSON, or figures and claims as tables."""
    if as_json:
        sys.stdout.write(
            json.dumps([asdict(claim) for claim in claims], ensure_ascii=False, indent=1) + "\n"
        )
        return

    print(f"{'':24} {'median':>9} {'best':>9} {'worst':>9}   {unit}")
    for name, values in figures.items():
        print(f"{name:24} {statistics.median(values):9.1f} {max(values):9.1f} {min(values):9.1f}")

    print(f"\n{'claim':24} {'measured':>9} {'95 %':>15} {'goal':>6}")
    for one in claims:
        interval = f"{one.ci[0]:.2f} … {one.ci[1]:.2f}"
        print(
            f"{one.claim:24} {one.measured:9.2f} {interval:>15} {one.goal:6.2f}  "
            f"{'holds' if one.holds else 'FAILS'}"
        )

    print("\n" + ", ".join(f"{name} {value}" for name, value in claims[0].conditions.items()))

"""A question's search and its vector on a Pi 4: instructions, next to those of this computer.

Both run in QEMU's user mode, on the Python of a board's image (Cortex-A72) and on that of this
computer, and one plugin counts both (`count_marks.c`). A count is the same under any load. It says
nothing of how many instructions a processor does at once.

QEMU must be built with plugins: Debian's package `qemu-user` is, `qemu-user-static` is not.
DEMITASSE_QEMU names the folder with its `qemu-aarch64` and `qemu-x86_64`, for instance one that the
package was unpacked to. Documents and questions are the help desk's (`demitasse know help-desk`).
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import measure

from toolchain import runtime
from toolchain.board import userland
from toolchain.progress import SILENT
from toolchain.runtime.recall import recall

ROOT = Path(__file__).resolve().parents[1]
KNOW = ROOT / "build" / "help-desk" / "know"
FRESH = ROOT / "recipes" / "help-desk" / "fresh.jsonl"
PROCESSOR = "cortex-a72"
GOAL = 4.0
_GUEST = """
import json, os, sys
sys.path[:0] = sys.argv[1:2]
from pathlib import Path
from device.engine.llama.embedder import Embedder
from device.knowledge.index import Index
know, asked = Path(sys.argv[2]), json.load(sys.stdin)
embedder, vectors = Embedder(know / "embedder.gguf"), dict(asked)
index = Index(know / "knowledge.db", vectors.__getitem__)
os.sched_yield(); os.sched_yield()
for work in (index.search, embedder.embed):
    for question in vectors:
        work(question)                     # caches are filled
    for question in vectors:
        os.sched_yield(); work(question); os.sched_yield()
"""
"""Two marks of nothing, then two for each search and two for each vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Instructions for each question."""

    search: list[float]
    vector: list[float]

    @property
    def both(self) -> list[float]:
        """Those of a question as a board answers it."""
        return [sum(each) for each in zip(self.search, self.vector, strict=True)]


def main() -> None:
    """Count on both, with an index that exists."""
    options = measure.options(__doc__ or "")
    if missing := _missing():
        print(missing, file=sys.stderr)
        if options.json:
            print("[]")
        return

    asked = _asked(2 if options.quick else 12)
    with tempfile.TemporaryDirectory() as scratch:
        plugin = Path(scratch) / "count_marks.so"
        source = Path(__file__).with_name("count_marks.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", plugin, source], check=True)
        here = _count(plugin, _here(), runtime.for_this_computer(), asked)
        board = _count(plugin, _board(), runtime.for_profile("armv8.0", SILENT), asked)

    claims = [
        measure.claim(
            f"{name} on a {PROCESSOR}: {sum(board_counts) / len(asked) / 1e6:.0f} M instructions",
            f"on this computer: {sum(here_counts) / len(asked) / 1e6:.0f} M",
            GOAL,
            board_counts,
            here_counts,
            {"questions": len(asked), "entries": "the help desk's"},
            better="less",
        )
        for name, board_counts, here_counts in (
            ("a search", board.search, here.search),
            ("a question's vector", board.vector, here.vector),
            ("both", board.both, here.both),
        )
    ]
    measure.show(claims, {}, "", as_json=options.json)


def _missing() -> str:
    """Return what this benchmark lacks here; empty if nothing."""
    if platform.machine() != "x86_64":
        return "counted on x86_64 alone"
    if not (KNOW / "record.json").is_file():
        return f"{KNOW}: nothing made yet: demitasse know help-desk"
    if not all(map(_qemu, ("aarch64", "x86_64"))):
        return "DEMITASSE_QEMU names no folder with QEMU's user mode and plugins"
    return ""


def _qemu(machine: str) -> str:
    """Return the program that runs another machine's programs; empty without one."""
    return shutil.which(f"qemu-{machine}", path=os.environ.get("DEMITASSE_QEMU")) or ""


def _here() -> list[str]:
    # Debian's Python on both sides, where this computer has it.
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    return [_qemu("x86_64"), "-cpu", "max", python]


def _board() -> list[str]:
    _, *words = userland.command(PROCESSOR, [], SILENT)
    return [_qemu("aarch64"), *words]


def _asked(count: int) -> list[tuple[str, list[float]]]:
    """Return fresh questions with their vectors, which a search does not compute again."""
    with FRESH.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["question"] for line in lines]
    some = texts[:: len(texts) // count][:count]
    with recall(runtime.for_this_computer(), KNOW / "embedder.gguf") as child:
        return list(zip(some, child.embed(some).tolist(), strict=True))


def _count(
    plugin: Path, python: Sequence[str], files: Path, asked: list[tuple[str, list[float]]]
) -> Counted:
    qemu, *words = python
    done = subprocess.run(
        [qemu, "-plugin", plugin, *words, "-c", _GUEST, str(files), str(KNOW)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    marks = [int(line.split()[1]) for line in done.stderr.splitlines() if line.startswith("mark ")]
    if done.returncode or len(marks) != 2 + 4 * len(asked):
        raise SystemExit(f"{qemu}: ended with {done.returncode}: {done.stderr[-500:]}")
    spans = [after - before for before, after in zip(marks[::2], marks[1::2], strict=True)]
    counts = [float(span - spans[0]) for span in spans[1:]]
    return Counted(search=counts[: len(asked)], vector=counts[len(asked) :])


if __name__ == "__main__":
    main()

"""Decoding beside other programs: how much speed is left, and how much the stock engine keeps.

Beside none, one and two programs that never stop, our engine and the stock one decode in turn, with
a thread for each core. Stock is the same llama.cpp built with the same flags without our patch,
driven as llama-cpp-python drives it: its threads are started anew for each token, and spin while
they wait. Both give the same tokens, which is checked. Other work on the computer counts as one
more program: take the figures on a calm one.
"""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import measure
import models

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, QUICK_ROUNDS = 7, 2
SECONDS, QUICK_SECONDS = 1.0, 0.1
"""Seconds of decoding in each case; at least four tokens, which may take many times as long."""
CONTEXT = 256
BESIDE = (0, 1, 2)
SETTLES_S = 0.3
"""Seconds until the scheduler has spread what was started."""
_PROGRAM = "while True: pass"
_ENGINE = """
import json, sys
from pathlib import Path
from device.engine import load
from device.engine.base import Sampling, Settings
from device.engine.machine import usable_cores
settings = Settings(context=int(sys.argv[2]), threads=usable_cores(), speculative=False)
engine = load(Path(sys.argv[1]), settings)
said = [step.id for step in engine.generate([700], Sampling(max_tokens=16))]
print(json.dumps(said), flush=True)
for least in map(float, sys.stdin):
    tokens, seconds = 0, 0.0
    while seconds < least:
        tokens, seconds = tokens + 4, seconds + engine.time_decode(4)
    print(tokens / seconds, flush=True)
"""


class Engine:
    """A process that decodes on request."""

    def __init__(self, libraries: Path | None) -> None:
        file = models.random_gguf(models.SMOLLM2_135M)
        chosen = {"LLAMA_CPP_LIB_PATH": str(libraries)} if libraries else {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENGINE, str(file), str(CONTEXT)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **chosen},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[int | None] = json.loads(self._line())

    def rate(self, seconds: float) -> float:
        """Return the tokens a second over at least so many seconds."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


def main() -> None:
    """Measure the claims."""
    options = measure.options(__doc__ or "")
    seconds, rounds = (QUICK_SECONDS, QUICK_ROUNDS) if options.quick else (SECONDS, ROUNDS)
    engines = {"ours": Engine(None), "stock": Engine(stock_libraries())}
    assert engines["ours"].said == engines["stock"].said, "the patch changed an answer"
    cases: dict[str, measure.Case] = {
        f"{name} beside {count}": partial(_rate, engine, count, seconds)
        for name, engine in engines.items()
        for count in BESIDE
    }

    try:
        figures = measure.interleave(cases, rounds)
    finally:
        for engine in engines.values():
            engine.close()

    conditions = {
        "model": f"{models.SMOLLM2_135M.name}, Q4_0",
        "unit": "tokens/s",
        "threads": len(os.sched_getaffinity(0)),
    }
    idle = figures["ours beside 0"]
    claims = [measure.claim("idle", "stock", 0.99, idle, figures["stock beside 0"], conditions)]

    for count in BESIDE[1:]:
        ours, stock = figures[f"ours beside {count}"], figures[f"stock beside {count}"]
        claims += [
            measure.claim(f"beside {count}", "ours, beside none", 0.4, ours, idle, conditions),
            measure.claim(f"beside {count}, stock", "stock", 5, ours, stock, conditions),
        ]

    measure.show(claims, figures, "tokens/s", as_json=options.json)


def stock_libraries() -> Path:
    """Return the folder of the stock engine's libraries, built if missing (five minutes)."""
    engine = version("llama-cpp-python")
    script = [str(ROOT / "scripts" / "engine-wheel.sh"), sys.executable, engine, "stock"]
    told = subprocess.run(["sh", *script], stdout=subprocess.PIPE, text=True, check=True).stdout
    wheel = next(Path(told.strip()).glob("*.whl"))
    folder = ROOT / "build" / "stock" / wheel.stem
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(part)
        part.rename(folder)

    return folder / "llama_cpp" / "lib"


def _rate(engine: Engine, count: int, seconds: float) -> float:
    with _beside(count):
        return engine.rate(seconds)


@contextmanager
def _beside(count: int) -> Iterator[None]:
    """Run so many busy programs within this block."""
    programs = [subprocess.Popen([sys.executable, "-c", _PROGRAM]) for _ in range(count)]
    time.sleep(SETTLES_S)
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()

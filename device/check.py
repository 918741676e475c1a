"""`check`: the health of a release: its model loads and gives the goldens token for token.

The engine runs in a child process: a file or a processor that kills it is an answer here, not the end of the check.
"""

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.engine.base import Sampling, Timing
from device.errors import DeviceError
from device.manifest import GOLDENS, ManifestError, read_manifest

if TYPE_CHECKING:
    from device.model import Model

Result = dict[str, Any]


def check(argv: list[str]) -> int:
    """Check a bundle; print what was seen, raise DeviceError `bad_model`, `golden_mismatch` or `empty_answer`."""
    options = _options(argv)
    result = _in_child(lambda: check_bundle(Path(options.bundle), options.threads))
    if fault := result.get("error"):
        raise DeviceError(fault["code"], fault["message"], fault["hint"])
    print(json.dumps(result), flush=True)
    return 0


@dataclass(frozen=True)
class Golden:
    """A conversation, its prompt and its answer."""

    messages: list[dict[str, Any]]
    prompt_tokens: list[int]
    tokens: list[int]


def check_bundle(folder: Path, threads: int = 0) -> Result:
    """Load a bundle's model in this process and compare it with its goldens; raise DeviceError."""
    from device.model import open_bundle

    manifest, goldens = read_manifest(folder), read_goldens(folder / GOLDENS)
    began = time.perf_counter()
    model = open_bundle(folder, manifest, threads)
    load_s = time.perf_counter() - began
    timings = [_reproduce(model, golden, f"golden {number} of {len(goldens)}") for number, golden in enumerate(goldens, 1)]
    model.engine.close()
    steps, seconds = sum(timing.decode_steps for timing in timings), sum(timing.decode_s for timing in timings)
    rate = round(steps / seconds, 2) if seconds else 0.0
    return {"ok": True, "goldens": len(goldens), "load_s": round(load_s, 3), "decode_tok_s": rate}


def _reproduce(model: "Model", golden: Golden, where: str) -> Timing:
    """Answer a golden from the beginning; raise DeviceError where prompt or answer differ by a token."""
    _compare(f"{where}: the prompt", golden.prompt_tokens, model.prompt(golden.messages))
    model.engine.forget()
    answer = list(model.engine.generate(golden.prompt_tokens, Sampling(max_tokens=len(golden.tokens)), model.stop_ids))
    tokens = [step.id for step in answer if step.id is not None]
    if not tokens:
        raise DeviceError("empty_answer", f"{where}: the model answers nothing")
    _compare(f"{where}: the answer", golden.tokens, tokens)
    assert answer[-1].timing
    return answer[-1].timing


def read_goldens(path: Path) -> list[Golden]:
    """Read `goldens.jsonl`; raise DeviceError `bad_goldens` with the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError("bad_goldens", f"`{path.name}` cannot be read") from error
    goldens = [_golden(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not goldens:
        raise DeviceError("bad_goldens", f"`{path.name}` holds no golden: a release cannot be checked without one")
    return goldens


def _golden(line: str, where: str) -> Golden:
    try:
        row = json.loads(line)
        prompt, answer = ([int(token) for token in row[name]] for name in ("prompt_tokens", "tokens"))
        golden = Golden(list(row["messages"]), prompt, answer)
    except (ValueError, TypeError, KeyError) as error:
        raise DeviceError("bad_goldens", f"{where}: not a golden") from error
    if not golden.tokens:
        raise DeviceError("bad_goldens", f"{where}: no tokens to compare with")
    return golden


def _compare(where: str, expected: list[int], found: list[int]) -> None:
    if expected == found:
        return
    at = next(at for at in range(len(expected) + 1) if expected[at : at + 1] != found[at : at + 1])
    wanted, got = (str(tokens[at]) if at < len(tokens) else "the end" for tokens in (expected, found))
    message = f"{where} differs at token {at + 1} of {len(expected)}: expected {wanted}, got {got}"
    raise DeviceError("golden_mismatch", message, hint="the model file, the runtime or the processor is not what was measured")


def _in_child(work: Callable[[], Result]) -> Result:
    """Return what `work` returns in a child process, its error, or the signal that it died by, as an error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _report(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return _died(os.WTERMSIG(status)).as_json()
    if not said:
        return DeviceError("internal_error", "the check failed, its log says why").as_json()
    result: Result = json.loads(said)
    return result


def _report(work: Callable[[], Result], writer: int) -> None:
    """Write a result and end this process without running what its parent has yet to run."""
    try:
        result = work()
    except DeviceError as error:
        result = error.as_json()
    except ManifestError as error:
        result = DeviceError(error.code, str(error)).as_json()
    os.write(writer, json.dumps(result).encode())
    os._exit(0)


def _died(number: int) -> DeviceError:
    name = signal.Signals(number).name
    hints = {
        signal.SIGILL: "the runtime uses instructions that this processor does not have: build it for this board",
        signal.SIGKILL: "the board ran out of memory: take a smaller model or a shorter context",
    }
    hint = hints.get(signal.Signals(number), "the model file may be damaged")
    return DeviceError("bad_model", f"the engine died of {name}", hint=hint)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check", description="Load a bundle's model and compare it with its goldens.")
    parser.add_argument("--bundle", required=True, metavar="DIR")
    parser.add_argument("--threads", type=int, default=0, help="0 takes every processor this process may use")
    return parser.parse_args(argv)

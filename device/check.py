"""`check`: the health of a release: its model loads and gives the goldens.

The tokens must be equal if the runtime computes like the one that made the goldens. Other
processors round differently, and two equally likely tokens may swap. There the model is given each
golden answer, and must predict nearly all of its tokens. The engine runs in a child process: a file
or a processor that kills it is a result here, not the end of the check.
"""

import argparse
import hashlib
import json
import time
from array import array
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.child import Result, own_runtime, python_child
from device.engine.base import Sampling, Timing
from device.errors import DeviceError
from device.facts import cpuinfo
from device.manifest import GOLDENS, MIN_AGREEMENT, Manifest, ManifestError, read_manifest
from device.manifest.moment import moment
from device.pictures import with_pictures
from device.sensors import Watch, now

if TYPE_CHECKING:
    from device.model import Model


def check(argv: list[str]) -> int:
    """Check a bundle and print the result.

    Raise DeviceError `bad_model`, `golden_mismatch` or `empty_answer`.
    """
    options = _options(argv)
    print(
        json.dumps(python_child("device.check", options.bundle, str(options.threads))), flush=True
    )
    return 0


@dataclass(frozen=True)
class Golden:
    """A conversation with its prompt and its expected answer."""

    messages: list[dict[str, Any]]
    prompt_tokens: list[int]
    tokens: list[int]
    ends: bool
    """Whether the answer ended by itself (`"finish_reason": "stop"`). Then one more token is asked
    for and must not come."""
    now: "datetime | None" = None
    """Time at which its prompt is rendered; None (in older bundles) for the clock."""
    tools: "list[dict[str, Any]]" = field(default_factory=list)
    """Tools that stand in its prompt."""


def check_bundle(folder: Path, threads: int = 0) -> Result:
    """Load a bundle's model in this process and compare it with its goldens; raise DeviceError."""
    from device import prefixes
    from device.model import open_bundle

    manifest = read_manifest(folder)
    goldens = read_goldens(folder / GOLDENS)
    began = time.perf_counter()
    model = open_bundle(folder, manifest, threads)
    load_s = time.perf_counter() - began
    _refuse_nan(model, goldens[0])
    named = [
        (f"golden {number} of {len(goldens)}", golden) for number, golden in enumerate(goldens, 1)
    ]
    watch = Watch()
    if exact := manifest.arithmetic in ("", own_arithmetic()):
        measured = _rate([_reproduce(model, golden, where) for where, golden in named])
    else:
        measured = _agreement([_follow(model, golden, where) for where, golden in named])

    alone = _alone(watch)
    prefixes.prepare(model, folder)
    found = _check_documents(folder, manifest)
    model.engine.close()

    return {
        "ok": True,
        "goldens": len(goldens),
        "exact": exact,
        "load_s": round(load_s, 3),
        **found,
        **measured,
        **alone,
    }


def _check_documents(folder: Path, manifest: Manifest) -> Result:
    """Return how many questions found their passage; raise DeviceError if one does not."""
    from device.knowledge.library import open_library

    library = open_library(folder, manifest)
    if library is None:
        return {}
    try:
        return {"passages_found": library.check()}
    finally:
        library.close()


def _alone(watch: Watch) -> Result:
    """Return what else affected the speed: other programs, the host machine, and throttling."""
    seen = watch.over()
    others = seen["others_share"] + seen["stolen_share"]
    return {"others_share": round(others, 3), "throttled": now()["throttled"]}


def own_arithmetic() -> str:
    """Return the text that decides the last bits on this board; empty outside of a runtime.

    It is the runtime's own, and for a runtime that chooses its kernels also the processor's.
    """
    runtime = own_runtime()
    if runtime is None or not runtime.dispatches:
        return runtime.arithmetic if runtime else ""
    features = sorted(cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))["cpu_features"])
    return f"{runtime.arithmetic} {hashlib.sha256(' '.join(features).encode()).hexdigest()[:12]}"


def _refuse_nan(model: "Model", golden: Golden) -> None:
    """Raise DeviceError if the scores are NaN: the goldens would only say that they differ."""
    first = next(iter(model.engine.logits(golden.prompt_tokens[:1])), b"")
    if any(score != score for score in array("f", first)):
        raise DeviceError(
            "bad_model",
            "the model computes NaN",
            hint="its weights are damaged, or overflow in this type",
        )


def _rate(timings: list[Timing]) -> Result:
    steps = sum(timing.decode_steps for timing in timings)
    seconds = sum(timing.decode_s for timing in timings)
    return {"decode_tok_s": round(steps / seconds, 2) if seconds else 0.0}


def _agreement(followed: list[list[bool]]) -> Result:
    """Return the share of tokens that were predicted; raise DeviceError if it is too low."""
    share = sum(map(sum, followed)) / sum(map(len, followed))
    if share < MIN_AGREEMENT:
        message = (
            f"the goldens agree in {share:.1%} of their tokens, "
            f"on this processor {MIN_AGREEMENT:.0%} are asked"
        )
        raise DeviceError(
            "golden_mismatch",
            message,
            hint="the model file or the runtime is not what was measured",
        )

    return {"agreement": round(share, 4)}


def _follow(model: "Model", golden: Golden, where: str) -> list[bool]:
    """Return for each token of a golden answer whether the model predicts it."""
    prompt = model.prompt(golden.messages, golden.now, golden.tools)
    _compare(f"{where}: the prompt", golden.prompt_tokens, prompt.tokens)
    model.forget(golden.now)
    rows = model.engine.logits([*prompt.tokens, *golden.tokens[:-1]], prompt.prefix)
    rows = islice(rows, len(prompt.tokens) - 1 - prompt.prefix, None)

    return [_likeliest(row) == token for row, token in zip(rows, golden.tokens, strict=True)]


def _likeliest(row: bytes) -> int:
    scores = array("f", row)
    return scores.index(max(scores))


def _reproduce(model: "Model", golden: Golden, where: str) -> Timing:
    """Answer a golden; raise DeviceError if its prompt or its answer differs in a token."""
    prompt = model.prompt(golden.messages, golden.now, golden.tools)
    _compare(f"{where}: the prompt", golden.prompt_tokens, prompt.tokens)
    model.forget(golden.now)
    sampling = Sampling(max_tokens=len(golden.tokens) + golden.ends)
    answer = list(
        model.engine.generate(prompt.tokens, sampling, model.stop_ids, prefix=prompt.prefix)
    )
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

    goldens = [
        _golden(line, f"{path.name}:{number}", path.parent)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not goldens:
        raise DeviceError(
            "bad_goldens", f"`{path.name}` holds no golden: a release cannot be checked without one"
        )

    return goldens


def _golden(line: str, where: str, folder: Path) -> Golden:
    """Return the golden of a line; its pictures are files of `folder`."""
    try:
        row = json.loads(line)
        prompt, answer = (
            [int(token) for token in row[name]] for name in ("prompt_tokens", "tokens")
        )
        golden = Golden(
            with_pictures(list(row["messages"]), folder),
            prompt,
            answer,
            ends=row.get("finish_reason") == "stop",
            now=moment(row["now"]) if "now" in row else None,
            tools=list(row.get("tools", ())),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ManifestError) as error:
        raise DeviceError("bad_goldens", f"{where}: not a golden") from error

    if not golden.tokens:
        raise DeviceError("bad_goldens", f"{where}: no tokens to compare with")
    return golden


def _compare(where: str, expected: list[int], found: list[int]) -> None:
    if expected == found:
        return

    shorter = min(len(expected), len(found))
    at = next((at for at in range(shorter) if expected[at] != found[at]), shorter)
    due, got = (str(tokens[at]) if at < len(tokens) else "the end" for tokens in (expected, found))
    message = f"{where} differs at token {at + 1} of {len(expected)}: expected {due}, got {got}"
    raise DeviceError(
        "golden_mismatch",
        message,
        hint="the model file, the runtime or the processor is not what was measured",
    )


def answer(folder: str, threads: str) -> None:
    """Print the result of a check made in this process: the child's side of `check`."""
    try:
        result = check_bundle(Path(folder), int(threads))
    except DeviceError as error:
        result = error.as_json()
    except ManifestError as error:
        result = DeviceError(error.code, str(error)).as_json()
    print(json.dumps(result), flush=True)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="check", description="Load a bundle's model and compare it with its goldens."
    )
    parser.add_argument("--bundle", required=True, metavar="DIR")
    parser.add_argument(
        "--threads", type=int, default=0, help="0 chooses by the model and the processors"
    )
    return parser.parse_args(argv)

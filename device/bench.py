"""`bench`: the speed of one model on this board, measured as llama-bench measures it, with what a user waits for beside it.

`pp` evaluates a prompt in batches, `tg` tokens one at a time, both without tokenizing and sampling, after a warm-up, on an empty
context each (llama.cpp tools/llama-bench). Time to first token and load time are measured through the answering loop itself.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.engine.base import Description, Engine, Sampling, Settings
from device.errors import DeviceError
from device.manifest import read_manifest
from device.model import Model, open_bundle, open_file

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    pp: int
    tg: int
    repeat: int


def bench(argv: list[str]) -> int:
    """Measure a model; print one JSON object; raise DeviceError `prompt_too_long` for tests that the context does not hold."""
    options = _options(argv)
    plan = Plan(options.pp, options.tg, options.repeat)
    load_before, began = os.getloadavg()[0], time.perf_counter()
    model = _open(options)
    load_s = time.perf_counter() - began
    _check_fit(plan, model.engine.context)
    first_s = _first_token_s(model.engine, plan.pp)
    warm = [round(_first_token_s(model.engine, plan.pp), 4) for _ in range(plan.repeat)]
    measured = {
        "rows": rows(model.engine, plan),
        "load_s": round(load_s, 4),
        "ttft_cold_s": round(load_s + first_s, 4),
        "ttft_warm_s": statistics.median(warm),
        "ttft_warm_samples_s": warm,
        "peak_rss_bytes": _peak_rss_bytes(),
        "load_average_before": load_before,
        "load_average_after": os.getloadavg()[0],
    }
    model.engine.close()
    print(json.dumps(measured), flush=True)
    return 0


def rows(engine: Engine, plan: Plan) -> list[Row]:
    """Return a row of llama-bench's fields for each test."""
    common = _common(engine.description)
    engine.time_prompt(plan.pp)
    prompts = [engine.time_prompt(plan.pp) for _ in range(plan.repeat)]
    engine.time_decode(1)
    decodes = [engine.time_decode(plan.tg) for _ in range(plan.repeat)]
    return [
        {**common, "n_prompt": plan.pp, "n_gen": 0, **_samples(plan.pp, prompts)},
        {**common, "n_prompt": 0, "n_gen": plan.tg, **_samples(plan.tg, decodes)},
    ]


def _samples(n_tokens: int, seconds: list[float]) -> Row:
    rates = [n_tokens / each for each in seconds]
    return {
        "test_time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.mean(seconds) * 1e9), "stddev_ns": round(_deviation(seconds) * 1e9),
        "avg_ts": round(statistics.mean(rates), 4), "stddev_ts": round(_deviation(rates), 4),
        "samples_ns": [round(each * 1e9) for each in seconds], "samples_ts": [round(rate, 4) for rate in rates],
    }  # fmt: skip


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _common(model: Description) -> Row:
    return {
        "engine": model.engine, "engine_version": model.version, "cpu_info": _processor(), "gpu_info": "", "backends": "CPU",
        "model_filename": model.model_filename, "model_type": model.model_type, "model_size": model.model_size,
        "model_n_params": model.model_n_params, "n_batch": model.n_batch, "n_ubatch": model.n_ubatch, "n_threads": model.threads,
        "n_threads_batch": model.threads_batch, "type_k": model.kv_type, "type_v": model.kv_type, "n_depth": 0,
    }  # fmt: skip


def _first_token_s(engine: Engine, n_prompt: int) -> float:
    """Return the seconds from a prompt that shares nothing with the one before to its first token."""
    engine.forget()
    began = time.perf_counter()
    next(iter(engine.generate([token % engine.n_vocab for token in range(n_prompt)], Sampling(max_tokens=1))))
    return time.perf_counter() - began


def _check_fit(plan: Plan, context: int) -> None:
    longest = max(plan.pp, plan.tg)
    if longest >= context:
        message = f"a test of {longest} tokens needs a larger context than {context}"
        raise DeviceError("prompt_too_long", message, hint="lower --pp or --tg", status=400)


def _peak_rss_bytes() -> int:
    """Return VmHWM: the most memory this process has had resident, the model file's mapped pages included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _open(options: argparse.Namespace) -> Model:
    if options.bundle:
        folder = Path(options.bundle)
        return open_bundle(folder, read_manifest(folder), options.threads)
    context = options.context or max(options.pp, options.tg) + 1
    return open_file(Path(options.model), Settings(context=context, threads=options.threads))


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure one model's speed on this board.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", metavar="DIR", help="measured with the context that it is served with")
    source.add_argument("--model", metavar="FILE")
    parser.add_argument("--context", type=_positive, default=0, help="of a model; by default what the tests need")
    parser.add_argument("--pp", type=_positive, default=512, help="tokens of the prompt")
    parser.add_argument("--tg", type=_positive, default=128, help="tokens that are decoded")
    parser.add_argument("--repeat", type=_positive, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0 chooses by the model and the processors")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number

"""`bench`: the speed of one model on this board, measured as llama-bench does; and waiting times.

`pp` evaluates a prompt in batches and `tg` tokens one at a time. Both run without tokenizing and
sampling, after a warm-up, on an empty context (llama.cpp tools/llama-bench). Time to first token
and load time are measured through the answering loop itself.
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
from hashlib import sha256
from pathlib import Path
from typing import Any

from device import bandwidth
from device.engine import streamed_bytes
from device.engine.base import Description, Engine, Sampling, Settings
from device.errors import DeviceError
from device.facts import gpus
from device.manifest import BUNDLE_MANIFEST, read_manifest, sha256_of
from device.manifest.external import data_name
from device.model import Model, open_bundle, open_file
from device.sensors import Watch, memory, now

Row = dict[str, Any]
_LIBRARIES = re.compile(
    r"/[^/]*(libllama|libggml|onnxruntime|litert|LiteRt|tflite|tensorflow)[^/]*\.so[^/ ]*$"
)
_OF_OTHER_MACHINES: Row = {
    "cpu_mask": "0x0",
    "cpu_strict": False,
    "poll": 50,
    "n_cpu_moe": 0,
    "split_mode": "none",
    "main_gpu": 0,
    "no_kv_offload": False,
    "devices": "none",
    "tensor_split": "0.00",
    "tensor_buft_overrides": "none",
    "lazy_mode": "auto",
    "embeddings": False,
    "no_op_offload": 0,
    "no_host": False,
    "repack": True,
    "fit_target": 0,
    "fit_min_ctx": 0,
}
"""llama-bench's fields that never vary here."""
_QUESTION, _ANSWER_TOKENS = "What can you help me with?", 64
"""Question whose answer is split into phases."""


@dataclass(frozen=True)
class Plan:
    """Parameters of one measurement."""

    pp: int
    tg: int
    repeat: int
    sustained_s: float = 0.0
    """Seconds of continuous decoding that show the effect of heat."""


def bench(argv: list[str]) -> int:
    """Measure a model and print one JSON object.

    Raise DeviceError `prompt_too_long` for tests that the context does not hold.
    """
    options = _options(argv)
    plan = Plan(options.pp, options.tg, options.repeat, options.sustained)
    before = _condition()

    with Watch() as watch:
        began = time.perf_counter()
        model, about = _open(options)
        load_s = time.perf_counter() - began
        measured = {"load_s": round(load_s, 4), **_measure(model, plan, load_s, watch)}

    decode = next(row for row in measured["rows"] if row["n_gen"])
    whole = {
        **measured,
        **memory(),
        **watch.over(),
        "samples": watch.samples,
        "before": before,
        "after": _condition(),
        "roofline": _roofline(decode, about["bytes_per_token"]),
        "release": about,
    }
    print(json.dumps(whole), flush=True)

    return 0


def _measure(model: Model, plan: Plan, load_s: float, watch: Watch) -> Row:
    engine = model.engine
    _check_fit(plan, engine.context)
    first_s = _first_token_s(engine, plan.pp)
    warm = [round(_first_token_s(engine, plan.pp), 4) for _ in range(plan.repeat)]
    found = {
        "ttft_cold_s": round(load_s + first_s, 4),
        "ttft_warm_s": statistics.median(warm),
        "ttft_warm_samples_s": warm,
        "answer": _answer(model),
        "rows": rows(engine, plan),
        "sustained": _sustained(engine, plan, watch),
    }
    engine.close()

    return found


def rows(engine: Engine, plan: Plan) -> list[Row]:
    """Return a row of llama-bench's fields for each test.

    The two tests alternate, so that a change on the board affects both.
    """
    common = _common(engine.description)
    engine.time_prompt(plan.pp)
    engine.time_decode(1)
    prompts = []
    decodes = []

    for _ in range(plan.repeat):
        prompts.append(engine.time_prompt(plan.pp))
        decodes.append(engine.time_decode(plan.tg))

    return [
        {**common, "n_prompt": plan.pp, "n_gen": 0, **_samples(plan.pp, prompts)},
        {**common, "n_prompt": 0, "n_gen": plan.tg, **_samples(plan.tg, decodes)},
    ]


def _sustained(engine: Engine, plan: Plan, watch: Watch) -> "list[tuple[float, float]]":
    """Return (seconds since the start, tokens per second) of one test after the other."""
    found: "list[tuple[float, float]]" = []
    until = watch.at() + plan.sustained_s
    while watch.at() < until:
        seconds = engine.time_decode(plan.tg)
        found.append((round(watch.at(), 2), round(plan.tg / seconds, 2)))

    return found


def _answer(model: Model) -> "Row | None":
    """Return the seconds of each phase of one answer; None for a model without a chat template."""
    if model.template is None:
        return None

    model.engine.forget()
    began = time.perf_counter()
    prompt = model.prompt([{"role": "user", "content": _QUESTION}])
    words_s = time.perf_counter() - began
    if len(prompt.tokens) >= model.engine.context:
        return None

    last = list(
        model.engine.generate(
            prompt.tokens, Sampling(max_tokens=_ANSWER_TOKENS), model.stop_ids, prefix=prompt.prefix
        )
    )[-1]
    whole_s = time.perf_counter() - began
    timing = last.timing
    assert timing
    parts = {
        "prompt to tokens": words_s,
        "reading the prompt": timing.prefill_s,
        "tokens": timing.decode_s,
    }
    parts["tokens to text"] = max(0.0, whole_s - sum(parts.values()))

    return {
        "tokens": timing.answer_tokens,
        "seconds": {name: round(seconds, 5) for name, seconds in parts.items()},
    }


def _roofline(decode: Row, streamed: int) -> Row:
    """Return how much of the memory's bandwidth decoding used; nothing of a card's own memory."""
    if decode["backends"] != "CPU":
        return {"bytes_per_token": streamed}
    gb_s = bandwidth.read_gb_s(decode["n_threads"])
    return {"bytes_per_token": streamed, **bandwidth.roofline(decode["median_ts"], streamed, gb_s)}


def _condition() -> Row:
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        **now(),
        "load_average": os.getloadavg()[0],
        "governor": governor.read_text().strip() if governor.is_file() else None,
    }


def _samples(n_tokens: int, seconds: list[float]) -> Row:
    rates = [n_tokens / each for each in seconds]
    return {
        "test_time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.mean(seconds) * 1e9),
        "stddev_ns": round(_deviation(seconds) * 1e9),
        "avg_ts": round(statistics.mean(rates), 4),
        "stddev_ts": round(_deviation(rates), 4),
        "median_ts": round(statistics.median(rates), 4),
        "p10_ts": round(_tenth(rates), 4),
        "samples_ns": [round(each * 1e9) for each in seconds],
        "samples_ts": [round(rate, 4) for rate in rates],
    }


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _tenth(values: list[float]) -> float:
    """Return the 90th percentile of the times."""
    return (
        statistics.quantiles(values, n=10, method="inclusive")[0] if len(values) > 1 else values[0]
    )


def _common(model: Description) -> Row:
    """Return llama-bench's fields that all tests share, and two of ours.

    Source: tools/llama-bench, `test::get_fields`.
    """
    return {
        "engine": model.engine,
        "engine_version": model.version,
        "build_commit": _build(),
        "build_number": 0,
        "cpu_info": _processor(),
        "gpu_info": ", ".join(card["name"] for card in gpus()) if model.gpu_layers else "",
        "backends": model.backend,
        "n_gpu_layers": model.gpu_layers,
        "model_filename": model.model_filename,
        "model_type": model.model_type,
        "model_size": model.model_size,
        "model_n_params": model.model_n_params,
        "n_batch": model.n_batch,
        "n_ubatch": model.n_ubatch,
        "n_threads": model.threads,
        "n_threads_batch": model.threads_batch,
        "type_k": model.kv_type,
        "type_v": model.kv_type,
        "flash_attn": model.flash_attn,
        "load_mode": model.load_mode,
        **_OF_OTHER_MACHINES,
        "n_depth": 0,
    }


def _build() -> str:
    """Return an id of the engine's build: digits of the digest of its mapped libraries."""
    # llama-bench gives the commit here, or `unknown` outside of a checkout. Readers compare builds
    # by it.
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    paths = {line.partition("/")[2] for line in maps.splitlines() if _LIBRARIES.search(line)}
    if not paths:
        return "unknown"

    return sha256(
        "".join(sha256_of(Path("/", path)) for path in sorted(paths)).encode()
    ).hexdigest()[:8]


def _first_token_s(engine: Engine, n_prompt: int) -> float:
    """Return the seconds to the first token of a prompt that shares nothing with the one before."""
    engine.forget()
    began = time.perf_counter()
    next(
        iter(
            engine.generate(
                [token % engine.n_vocab for token in range(n_prompt)], Sampling(max_tokens=1)
            )
        )
    )
    return time.perf_counter() - began


def _check_fit(plan: Plan, context: int) -> None:
    longest = max(plan.pp, plan.tg)
    if longest >= context:
        message = f"a test of {longest} tokens needs a larger context than {context}"
        raise DeviceError("prompt_too_long", message, hint="lower --pp or --tg", status=400)


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _open(options: argparse.Namespace) -> "tuple[Model, Row]":
    """Return the model and its description.

    Name, version, the gate's figures, and the bytes that each token reads.
    """
    if options.bundle:
        folder = Path(options.bundle)
        manifest = read_manifest(folder)
        known = {
            "name": manifest.name,
            "version": manifest.version,
            "release": sha256_of(folder / BUNDLE_MANIFEST),
            "gate": manifest.gate,
        }
        return open_bundle(folder, manifest, options.threads), {
            **known,
            **_sizes(folder / manifest.model),
        }

    file = Path(options.model)
    settings = Settings(
        context=options.context or max(options.pp, options.tg) + 1,
        threads=options.threads,
        gpu_layers=options.gpu_layers,
    )
    return open_file(file, settings), {"name": file.stem, **_sizes(file)}


def _sizes(file: Path) -> Row:
    apart = file.with_name(data_name(file.name))
    return {
        "file": file.name,
        "size_bytes": sum(each.stat().st_size for each in (file, apart) if each.is_file()),
        "bytes_per_token": streamed_bytes(file),
    }


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure one model's speed on this board."
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--bundle", metavar="DIR", help="measured with the context that it is served with"
    )
    source.add_argument("--model", metavar="FILE")
    parser.add_argument(
        "--context", type=_positive, default=0, help="of a model; by default what the tests need"
    )
    parser.add_argument("--pp", type=_positive, default=512, help="tokens of the prompt")
    parser.add_argument("--tg", type=_positive, default=128, help="tokens that are decoded")
    parser.add_argument("--repeat", type=_positive, default=5)
    parser.add_argument(
        "--sustained", type=float, default=0.0, metavar="SECONDS", help="then decode on for so long"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="0 chooses by the model and the processors"
    )
    parser.add_argument(
        "--gpu-layers", type=int, default=-1, help="of a model on a graphics card; -1 for all"
    )

    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number

"""The service around the engine: time before a first token, memory, and 64 clients at once.

With two slots a short question is asked while a long answer is under way, of a service with two
slots and of one with one. The engine's own time to a first token is what it reports for the same
prompt (`timings.prompt_ms`), by its own clock in the very same request. The client's begins before
its connection and ends with the first text.
"""

import functools
import http.client
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import measure
import models

from device.engine.machine import memory_bytes
from device.manifest import Engine, Manifest, file_entry, to_bytes
from device.manifest.gguf import read_header
from device.manifest.memory import prefix_cache_bytes
from toolchain import runtime
from toolchain.forecast import needs_of

CLIENTS, QUESTIONS, ROUNDS = 64, 4, 15
QUICK_CLIENTS, QUICK_QUESTIONS, QUICK_ROUNDS = 8, 2, 3
CONTEXT, WORDS, SHORT_WORDS = 1024, 120, 12
RSS_GOAL_MB, TTFT_GOAL = 60, 1.2
LONG, SHORT, TURNS = 256, 8, 5
"""Tokens of a long answer and of a short one, and how often both are asked."""
SHORT_GOAL = 0.5
"""Share of the seconds that a short question takes if it must wait for the long answer."""


def main() -> None:
    """Serve a small model of a true shape, ask it alone and then from many clients."""
    options = measure.options(__doc__ or "")
    counts = (
        (QUICK_CLIENTS, QUICK_QUESTIONS, QUICK_ROUNDS)
        if options.quick
        else (CLIENTS, QUESTIONS, ROUNDS)
    )
    clients, questions, rounds = counts
    file = models.random_gguf(models.SMOLLM2_135M, scheme="Q8_0")

    with (
        tempfile.TemporaryDirectory() as scratch,
        served(_bundle(Path(scratch), file)) as (port, pid),
    ):
        idle_mb = (_resident(pid) - _model_bytes(file)) / 1e6
        asked = [_first_token(port, number) for number in range(rounds + 1)][1:]
        with ThreadPoolExecutor(clients) as pool:
            statuses = sum(
                pool.map(lambda client: _many(port, client, questions), range(clients)),
                Counter[int](),
            )
        after_mb = (_resident(pid) - _model_bytes(file)) / 1e6

    told: dict[str, object] = {
        "model": "SmolLM2-135M Q8_0",
        "prompt": f"{WORDS} words",
        "clients": clients,
        "statuses": dict(statuses),
    }
    short = _beside_long(file, QUICK_ROUNDS if options.quick else TURNS)
    theirs, ours = [each[0] for each in asked], [each[1] for each in asked]
    claims = [
        measure.claim(
            "first token", "the engine's own", TTFT_GOAL, ours, theirs, told, better="less"
        ),
        *_memory_claims(idle_mb, after_mb, told),
        measure.claim(
            "answered of 64 clients",
            "every question",
            1.0,
            [statuses[200]],
            [clients * questions],
            told,
        ),
        _slots_claim(short),
    ]
    measure.show(claims, {"client": ours, "engine": theirs}, "s", as_json=options.json)


def _memory_claims(
    idle_mb: float, after_mb: float, told: dict[str, object]
) -> Iterator[measure.Claim]:
    """Yield the claims on memory beside the model, before and after all clients."""
    allowed_mb = RSS_GOAL_MB + prefix_cache_bytes(memory_bytes("MemTotal")) / 1e6
    yield measure.claim(
        "memory beside the model, MB",
        "60 MB",
        1.0,
        [idle_mb],
        [RSS_GOAL_MB],
        told,
        better="less",
    )
    yield measure.claim(
        "memory after all clients, MB",
        f"60 MB and the states of conversations, {allowed_mb:.0f} MB",
        1.0,
        [after_mb],
        [allowed_mb],
        told,
        better="less",
    )


def _slots_claim(short: dict[str, list[float]]) -> measure.Claim:
    """Return the claim on a short question beside a long answer, by slots."""
    return measure.claim(
        "short question beside a long answer, two slots",
        "one slot",
        SHORT_GOAL,
        short["two"],
        short["one"],
        {
            "model": "SmolLM2-135M Q8_0",
            "prompts": f"{SHORT_WORDS} words",
            "tokens": f"{SHORT} beside {LONG}",
        },
        better="less",
    )


def _beside_long(file: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of short questions during a long answer, by two slots and by one."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        bundles = {"one": _bundle(Path(one), file), "two": _bundle(Path(two), file, slots=2)}
        with (
            served(bundles["one"]) as (first, _),
            served(bundles["two"]) as (second, _),
            ThreadPoolExecutor(1) as pool,
        ):
            ports = {"one": first, "two": second}
            numbers = itertools.count(10_000)

            def seconds(port: int) -> float:
                long = pool.submit(_answered, port, next(numbers), LONG, began := threading.Event())
                began.wait()
                found = _answered(port, next(numbers), SHORT)
                long.result()
                return found

            return measure.interleave(
                {side: functools.partial(seconds, port) for side, port in ports.items()}, rounds
            )


def _answered(port: int, number: int, tokens: int, began: threading.Event | None = None) -> float:
    """Return the seconds of a short question's whole answer; `began` is set at its first token."""
    start = time.perf_counter()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.loads(_body(number, stream=True, words=SHORT_WORDS)) | {"max_tokens": tokens}
    client.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"}
    )
    for line in client.getresponse():
        if began and b'"content": "' in line:
            began.set()

    return time.perf_counter() - start


def _bundle(folder: Path, file: Path, slots: int = 1) -> Path:
    (folder / file.name).hardlink_to(file) if folder.stat().st_dev == file.stat().st_dev else (
        folder / file.name
    ).symlink_to(file)
    (folder / "chat_template.jinja").write_text(models.CHATML, encoding="utf-8")
    names = (file.name, "chat_template.jinja")
    needs = needs_of(read_header(file), CONTEXT)
    manifest = Manifest(
        name="bench",
        version="1.0",
        counter=1,
        target="x86-64",
        context=CONTEXT,
        engine=Engine("llama.cpp", "0.5"),
        model=file.name,
        files=tuple(file_entry(folder, name) for name in names),
        max_tokens=8,
        slots=slots,
        needs={
            name: getattr(needs, name) for name in ("weights_bytes", "kv_bytes", "compute_bytes")
        },
    )
    (folder / "manifest.json").write_bytes(to_bytes(manifest))
    return folder


@contextmanager
def served(bundle: Path) -> Iterator[tuple[int, int]]:
    """Yield the port and the process of a service that is ready."""
    command = [
        sys.executable,
        "-sEB",
        str(runtime.for_this_computer()),
        "serve",
        "--bundle",
        str(bundle),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        port = int(json.loads(child.stdout.readline())["port"])
        while _get(port, "/health") != 200:
            time.sleep(0.05)
        yield port, child.pid
        child.terminate()


def _get(port: int, path: str) -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request("GET", path)
    return client.getresponse().status


def _body(number: int, *, stream: bool, words: int = WORDS) -> str:
    text = f"{number} " + " ".join(f"word{number * words + n}" for n in range(words))
    return json.dumps(
        {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "stream": stream}
    )


def _first_token(port: int, number: int) -> tuple[float, float]:
    """Return the seconds to a first token, by the engine's and by the client's clock.

    The prompt has no prefix in the cache.
    """
    began = time.perf_counter()
    first = 0.0
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    client.request(
        "POST",
        "/v1/chat/completions",
        _body(number, stream=True),
        {"content-type": "application/json"},
    )

    for line in client.getresponse():
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            delta = event["choices"][0]["delta"] if event["choices"] else {}
            first = first or (time.perf_counter() if delta.get("content") else 0.0)
            if "timings" in event:
                return event["timings"]["prompt_ms"] / 1000, first - began

    raise SystemExit("the stream ended without timings")


def _many(port: int, client: int, questions: int) -> Counter[int]:
    """Ask questions in turn; after a refusal wait as long as it says. Return the statuses."""
    seen: Counter[int] = Counter()
    for number in range(questions):
        status = 0
        while status != 200:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            connection.request(
                "POST", "/v1/chat/completions", _body(1000 * client + number, stream=False)
            )
            answer = connection.getresponse()
            answer.read()
            status = answer.status
            seen[status] += 1
            if status != 200:
                time.sleep(float(answer.headers["retry-after"]))

    return seen


def _resident(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1)) * 1024


def _model_bytes(file: Path) -> int:
    """Return the model's own memory: weights, KV cache and compute buffers."""
    needs = needs_of(read_header(file), CONTEXT)
    return needs.weights_bytes + needs.kv_bytes + needs.compute_bytes


if __name__ == "__main__":
    main()

"""Gain from the saved state of a prompt's prefix: time to the first token after a restart.

The ratio is the time without the state ÷ the time with it.

The prefix has 512 or 2048 tokens of instructions; 16 new tokens follow.

With the model loaded: from the empty engine to the first token, reading and hashing the state
included. From process start: from the spawn of `serve` to the first token over HTTP. The second
peer is stock llama-cpp-python with its LlamaDiskCache, a process each time. The model has the shape
of a real one and random weights; with the state and without, its tokens are the same.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import measure
import models

from device import prefixes
from device.engine import load
from device.engine.base import Engine, Sampling, Settings
from device.engine.chat import ChatTemplate
from device.manifest import Engine as EngineEntry
from device.manifest import Manifest, file_entry, to_bytes
from device.manifest.opening import opening_of
from device.model import Model
from toolchain import runtime

SIZES = (512, 2048)
ROUNDS, QUICK_ROUNDS = 5, 2
CONTEXT, NEW = 4096, 16
THREADS = 1
"""One: several wait for each other as soon as anything else runs, and the ratio is the same."""
KINDS = {"loaded": "", "start": " from process start"}
GOALS = {"loaded": {512: 15.0, 2048: 40.0}, "start": {512: 2.5, 2048: 9.0}}
_PEER = Path(__file__).parent / "peers" / "llama_cpp_disk_cache.py"


def main() -> None:
    """Measure the claims."""
    options = measure.options(__doc__ or "")
    shape = models.SMOLLM2_135M if options.quick else models.QWEN25_05B
    with tempfile.TemporaryDirectory() as name:
        bench = _Bench(Path(name), models.random_gguf(shape))
        cases = {
            f"{kind} {size} {how}": partial(bench.run, kind, size, how)
            for kind in GOALS
            for size in SIZES
            for how in ("without", "with")
        }
        cases |= {f"stock {size}": partial(bench.stock, size) for size in SIZES}
        figures = measure.interleave(cases, QUICK_ROUNDS if options.quick else ROUNDS)
        bench.close()

    conditions = {
        "model": f"{shape.name}, random Q4_0",
        "unit": "ms",
        "threads": THREADS,
        "new_tokens": NEW,
    }
    claims = [
        measure.claim(
            f"ttft {size}{KINDS[kind]}",
            "the same without the state",
            goal,
            figures[f"{kind} {size} without"],
            figures[f"{kind} {size} with"],
            conditions,
        )
        for kind, goals in GOALS.items()
        for size, goal in goals.items()
    ]
    claims += [
        measure.claim(
            f"ttft {size} stock",
            "stock llama-cpp-python with LlamaDiskCache, from process start",
            1.0,
            figures[f"stock {size}"],
            figures[f"start {size} with"],
            conditions,
        )
        for size in SIZES
    ]
    measure.show(claims, figures, "ms", as_json=options.json)


class _Bench:
    """Releases in a store, with a prefix of each size, and what answers from them."""

    def __init__(self, folder: Path, file: Path) -> None:
        self._file = file
        self._cache = folder / "cache"
        self._folder = folder
        self._engine: Engine = load(file, Settings(context=CONTEXT, threads=THREADS))
        self._runtime = runtime.for_this_computer()
        self._releases = {
            (kind, size): self._release(kind, size) for kind in KINDS for size in SIZES
        }
        self._answers: dict[int, int] = {}

    def run(self, kind: str, size: int, how: str) -> float:
        """Return the milliseconds to the first token."""
        return (self._loaded if kind == "loaded" else self._started)(size, restored=how == "with")

    def stock(self, size: int) -> float:
        """Return the milliseconds of a process of the peer, whose cache earlier runs filled."""
        prompt = self._prompt(size)[1]
        asked = json.dumps(
            {
                "model": str(self._file),
                "cache": str(self._cache / str(size)),
                "tokens": prompt,
                "context": CONTEXT,
                "threads": THREADS,
            }
        )
        command = [sys.executable, str(_PEER)]
        began = time.perf_counter()

        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as child:
            assert child.stdin and child.stdout
            child.stdin.write(asked)
            child.stdin.close()
            child.stdout.readline()
            milliseconds = (time.perf_counter() - began) * 1000
            child.stdout.read()

        return milliseconds

    def close(self) -> None:
        """Free the engine's memory."""
        self._engine.close()

    def _loaded(self, size: int, *, restored: bool) -> float:
        model, (prefix, tokens) = self._model(size), self._prompt(size)
        self._engine.forget()
        began = time.perf_counter()
        if restored:
            assert prefixes.prepare(model, self._releases["loaded", size])

        first = next(iter(self._engine.generate(tokens, Sampling(max_tokens=2), prefix=prefix)))
        milliseconds = (time.perf_counter() - began) * 1000
        assert first.id == self._answers.setdefault(size, first.id or 0)
        return milliseconds

    def _started(self, size: int, *, restored: bool) -> float:
        bundle = self._releases["start", size]
        if not restored:
            kept = bundle.parent.parent / "prefixes" / bundle.name
            aside = kept.with_name(f"{bundle.name}.aside")
            kept.rename(aside)

        milliseconds = self._served(bundle)
        if not restored:
            for file in kept.iterdir():
                file.unlink()
            kept.rmdir()
            aside.rename(kept)

        return milliseconds

    def _served(self, bundle: Path) -> float:
        """Return the milliseconds from a service's start to the first text of its answer."""
        asked = {
            "messages": [{"role": "user", "content": "0123456789"}],
            "stream": True,
            "max_tokens": 2,
            "logprobs": True,
        }
        command = [
            sys.executable,
            "-B",
            "-sE",
            str(self._runtime),
            "serve",
        ]
        options = ["--bundle", str(bundle), "--port", "0", "--threads", str(THREADS)]
        began = time.perf_counter()

        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as child:
            assert child.stdout
            port = json.loads(child.stdout.readline())["port"]
            while (first := _first_chunk(port, asked)) is None:
                time.sleep(0.005)
            milliseconds = (time.perf_counter() - began) * 1000
            child.terminate()

        assert first["choices"][0]["logprobs"], first
        return milliseconds

    def _model(self, size: int) -> Model:
        return Model(
            self._engine, ChatTemplate(models.CHATML, {}), (), opening_of(_system(size), ())
        )

    def _prompt(self, size: int) -> tuple[int, list[int]]:
        """Return the length of the prefix, and the tokens of a prompt with NEW tokens more."""
        prefix = list(self._model(size).prefix())
        assert abs(len(prefix) - size) < 8, len(prefix)
        return len(prefix), [*prefix, *range(700, 700 + NEW)]

    def _release(self, kind: str, size: int) -> Path:
        """Return a release in a store; the process that will read its state has written it."""
        folder = self._folder / kind / "releases" / f"{size:064x}"
        folder.mkdir(parents=True)
        (folder / "model.gguf").symlink_to(self._file)
        (folder / "chat_template.jinja").write_text(models.CHATML, encoding="utf-8")
        files = tuple(file_entry(folder, name) for name in ("model.gguf", "chat_template.jinja"))
        manifest = Manifest(
            name="prefix",
            version="1",
            counter=1,
            target="x86-64",
            context=CONTEXT,
            engine=EngineEntry("llama.cpp", "0"),
            model="model.gguf",
            files=files,
            system=_system(size),
        )
        (folder / "manifest.json").write_bytes(to_bytes(manifest))
        if kind == "loaded":
            prefixes.prepare(self._model(size), folder)
        else:
            self._served(folder)

        return folder


def _system(size: int) -> str:
    """Return a system prompt of `size` tokens, what the template puts around it included."""
    return "".join(chr(97 + number % 26) + chr(65 + number % 25) for number in range(size - 12))


def _first_chunk(port: int, asked: dict[str, Any]) -> "dict[str, Any] | None":
    """Return the first chunk with a token; None while the model is loading."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        client.request(
            "POST", "/v1/chat/completions", json.dumps(asked), {"content-type": "application/json"}
        )
        response = client.getresponse()
        if response.status == 503:
            return None
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: {") and (chunk := json.loads(line[6:]))["choices"][0].get(
                "logprobs"
            ):
                return dict(chunk)
        return None
    finally:
        client.close()


if __name__ == "__main__":
    main()

"""Bundles and runtimes that need no model: made of a few bytes, with a runtime whose behaviour a
test chooses.
"""

import json
import shutil
from pathlib import Path

from device.manifest import (
    BUNDLE_MANIFEST,
    RUNTIME_MANIFEST,
    Engine,
    Manifest,
    RuntimeManifest,
    file_entry,
    to_bytes,
)
from device.manifest.gguf import tensor_digests
from toolchain.artifacts import RECORD, Bundle, Record, digest

RUNTIME_PROGRAM = """
import http.server, json, os, pathlib, signal, sys, time

import device.part0

verb = sys.argv[1]
if verb == "selftest":
    print(json.dumps({"ok": True}))
    sys.exit(0)
bundle = pathlib.Path(sys.argv[sys.argv.index("--bundle") + 1])
mood = json.loads((bundle / "model.bin").read_bytes().splitlines()[0]).get(verb, "good")
tuned = bundle.parent.parent / "tuned" / (bundle.name + ".json")
if mood == "plain":
    settings = json.loads(tuned.read_bytes())["settings"] if tuned.is_file() else {}
    mood = "refuse" if "flash" in settings else "good"
if mood == "refuse":
    error = {"code": "golden_mismatch", "message": "golden 3 differs", "hint": ""}
    print(json.dumps({"error": error}))
    sys.exit(1)
if mood == "late":
    time.sleep(4)
if mood == "hang":
    time.sleep(600)
if mood == "illegal":
    os.kill(os.getpid(), signal.SIGILL)
if mood == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mood in ("segfault", "abort"):
    os.kill(os.getpid(), signal.SIGSEGV if mood == "segfault" else signal.SIGABRT)
if mood == "exit":
    sys.exit(3)
if verb == "bench":
    row = {"model_filename": "model.bin", "model_type": "tiny", "model_size": 7, "n_threads": 1}
    row |= {"model_n_params": 7, "backends": "CPU", "engine": "llama.cpp", "engine_version": "1"}
    row |= {"avg_ts": 10.5, "stddev_ts": 0.5, "median_ts": 10.5, "samples_ts": [10.0, 11.0]}
    rows = [{**row, "n_prompt": 8, "n_gen": 0}, {**row, "n_prompt": 0, "n_gen": 4}]
    state = {"temperature_c": 45.5, "clock_mhz": 1500, "throttled": [], "load_average": 0.5}
    hot = {**state, "at_s": 1.0, "temperature_c": 81.5, "throttled": ["soft_temperature_limit"]}
    print(json.dumps({"load_s": 0.5, "rows": rows, "samples": [hot], "before": state,
                      "after": {**state, "temperature_c": 60.5}, "contended": []}))
    sys.exit(0)
if verb == "search":
    settings = {"threads": 2, "threads_batch": 3, "cpus": [], "flash": False}
    changes = [{"change": {"flash": False}, "kept": True}]
    print(json.dumps({"settings": settings, "evidence": {"changes": changes}}))
    sys.exit(0)
if verb == "check":
    busy = mood.startswith("busy")
    rate = 6.9 if mood.endswith("slow") else 10.0
    load = {"others_share": 0.5 if busy else 0.0, "throttled": []}
    print(json.dumps({"goldens": 8, "exact": True, "decode_tok_s": rate, **load}))
    sys.exit(0)

naps = bundle.parent.parent / "run" / "naps"

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        left = int(naps.read_text()) if naps.is_file() else 0
        if left:
            naps.write_text(str(left - 1))
            self.send_error(503)
            return
        body = json.dumps({"status": "ok", "bundle": bundle.name}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
"""A runtime in the standard library: the first line of the bundle's model says how `check` and
`serve` behave. A number in `run/naps` of the store is how often its service does not answer.
"""


def make_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1.0",
    counter: int = 1,
    check: str = "good",
    serve: str = "good",
    search: str = "good",
    bench: str = "good",
    payload: bytes = b"weights",
    needs: dict[str, int] | None = None,
    gguf: Path | None = None,
    index: Path | None = None,
) -> Bundle:
    """Make a bundle whose check, service, search and bench behave as told.

    That is good, refuse, late, hang, illegal, killed or exit.

    `plain` refuses settings that go further than threads. With `gguf` that file is its model; with
    `index` that file travels too, as an index of documents does.
    """
    folder.mkdir(parents=True)
    measures = {"bench": bench} if bench != "good" else {}
    (folder / "model.bin").write_bytes(
        json.dumps({"check": check, "serve": serve, "search": search, **measures}).encode()
        + b"\n"
        + payload
    )
    (folder / "goldens.jsonl").write_text("{}\n")
    if gguf:
        shutil.copy(gguf, folder / "tiny.gguf")
    if index:
        shutil.copy(index, folder / "tiny.db")
    manifest = Manifest(
        name=name,
        version=version,
        counter=counter,
        target="x86-64",
        context=64,
        engine=Engine("llama.cpp", "1"),
        model="tiny.gguf" if gguf else "model.bin",
        needs=needs or {},
        tensors=tuple(tensor_digests(gguf)) if gguf else (),
        files=tuple(file_entry(folder, file.name) for file in sorted(folder.iterdir())),
    )
    (folder / BUNDLE_MANIFEST).write_bytes(to_bytes(manifest))
    record = Record(
        stage="package",
        key="",
        inputs={},
        parameters={},
        seed=0,
        tools={},
        digest=digest(folder),
        size_bytes=0,
        seconds=0,
        figures={},
    )
    return Bundle(path=folder, record=record)


def finished(bundle: Bundle) -> Bundle:
    """Put a bundle's record beside its files, as the stage does that packages it."""
    (bundle.path / RECORD).write_text(bundle.record.model_dump_json())
    return bundle


def make_runtime(
    folder: Path,
    *,
    machine: str = "x86_64",
    features: tuple[str, ...] = (),
    glibc: str = "2.17",
    extra_files: int = 3,
) -> Path:
    """Make a runtime folder of RUNTIME_PROGRAM and a few small files."""
    (folder / "device").mkdir(parents=True)
    (folder / "__main__.py").write_text(RUNTIME_PROGRAM)
    (folder / "device" / "__init__.py").touch()
    for number in range(extra_files):
        (folder / "device" / f"part{number}.py").write_text(f"NUMBER = {number}\n")
    paths = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    manifest = RuntimeManifest(
        machine=machine,
        features=features,
        glibc=glibc,
        python=(3, 10),
        engines={"llama.cpp": "1"},
        files=tuple(file_entry(folder, path) for path in paths),
    )
    (folder / RUNTIME_MANIFEST).write_bytes(to_bytes(manifest))
    return folder

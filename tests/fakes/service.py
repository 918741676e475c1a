"""A real service on a free loopback port of this process: uvicorn, starlette and the worker, around
any model.
"""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from device.engine.base import Settings
from device.errors import DeviceError
from device.feedback import Ring
from device.knowledge.library import Library
from device.manifest import Engine, File, Manifest
from device.model import Model, open_file
from device.serve.access import Access
from device.serve.feedback import Feedback
from device.serve.guard import Screen
from device.serve.server import Service, _config, application
from device.serve.worker import Worker
from tests.fakes.tiny_gguf import tiny_gguf

MANIFEST = Manifest(
    name="tiny",
    version="1.0",
    counter=1,
    target="x86-64",
    context=512,
    engine=Engine("llama.cpp", "0.5"),
    model="tiny.gguf",
    files=(File("tiny.gguf", "0" * 64, 1),),
    max_tokens=32,
)


@contextmanager
def service(
    open_model: Callable[[], Model],
    *,
    token: str = "",
    access: "Access | None" = None,
    waiting: int = 2,
    failures: "list[DeviceError] | None" = None,
    manifest: Manifest = MANIFEST,
    open_library: "Callable[[], Library | None]" = lambda: None,
    ring: "Ring | None" = None,
    screen: "Screen | None" = None,
) -> Iterator[int]:
    """Yield the port of a service; it ends with the block."""
    worker = Worker(
        open_model,
        waiting=waiting,
        failed=(failures if failures is not None else []).append,
        open_library=open_library,
        screen=screen,
    )
    access = access or Access(frozenset({"localhost"}), token)
    served = Service(manifest, manifest.release_id(), worker)
    served.feedback = Feedback(ring, served.release, served.metrics) if ring else None
    app = application(served, access)
    with socket.create_server(("127.0.0.1", 0)) as port:
        server = uvicorn.Server(_config(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        worker.start()
        try:
            yield int(port.getsockname()[1])
        finally:
            server.should_exit = True
            worker.stop()
            thread.join()


@contextmanager
def tiny_service(folder: Path) -> Iterator[int]:
    """Yield the port of a service whose real model, written into `folder`, says `warm!`."""
    file = tiny_gguf(folder / "tiny.gguf", recites="warm!")
    with service(lambda: open_file(file, Settings(context=512, threads=1))) as port:
        wait_until_loaded(port)
        yield port


def call(
    port: int,
    path: str,
    body: Any = None,
    *,
    method: str = "",
    headers: "dict[str, str] | None" = None,
) -> tuple[int, dict[str, str], Any]:
    """Send a request; return status, headers in lower case, and the body: JSON where it is JSON,
    else bytes.
    """
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        client.request(method or ("GET" if body is None else "POST"), path, raw, headers or {})
        response = client.getresponse()
        answer = response.read()
    finally:
        client.close()
    fields = {name.lower(): value for name, value in response.getheaders()}
    return (
        response.status,
        fields,
        json.loads(answer) if fields.get("content-type", "") == "application/json" else answer,
    )


def wait_until_loaded(port: int) -> None:
    """Return when the service is healthy."""
    for _ in range(600):
        if call(port, "/health")[0] == 200:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the service did not load its model within 30 s")

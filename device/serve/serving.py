"""`serve`: one model on one port.

The port opens first; the model and the server's libraries load behind it.

A restart ends with the first answer, so everything that can be done at the same time is.
"""

import argparse
import ctypes
import json
import socket
from pathlib import Path
from typing import Protocol

from device.engine import import_engine
from device.errors import DeviceError
from device.knowledge.library import open_library
from device.manifest import BUNDLE_MANIFEST, read_manifest, sha256_of
from device.manifest.endpoint import PORT
from device.model import open_bundle
from device.prefixes import prepare
from device.serve.access import access_for
from device.serve.guard import screen_for
from device.serve.worker import Worker

WAITING = 8
"""Maximum number of questions that wait behind the ones that are answered."""
BACKLOG = 1024
"""Maximum number of connections that wait until they are accepted."""
# The kernel lowers it to net.core.somaxconn.
_M_MMAP_THRESHOLD = -3
"""Parameter of glibc's mallopt(3)."""
_LARGE_BYTES = 1 << 20


class _Stoppable(Protocol):
    should_exit: bool


def serve(argv: list[str]) -> int:
    """Serve a bundle until the process is told to end.

    Print one line of JSON when the port is open.
    """
    options = _options(argv)
    folder = Path(options.bundle)
    manifest = read_manifest(folder)
    access = access_for(options.host, options.token_file, options.host_name, options.cors_origin)
    failures: list[DeviceError] = []

    running: list[_Stoppable] = []
    _free_large_blocks_at_once()

    def give_up(error: DeviceError) -> None:
        failures.append(error)
        for each in running:
            each.should_exit = True

    worker = Worker(
        lambda: open_bundle(folder, manifest, options.threads),
        waiting=WAITING,
        failed=give_up,
        prepare=lambda model: prepare(model, folder),
        open_library=lambda: open_library(folder, manifest),
        screen=screen_for(folder, manifest),
    )

    with _listen(options.host, options.port) as port:
        print(json.dumps({"host": options.host, "port": port.getsockname()[1]}), flush=True)
        import_engine(folder / manifest.model)
        worker.start()
        from device.engine import chat  # noqa: F401
        from device.serve import server
        from device.serve.feedback import feedback_for

        served = server.Service(manifest, sha256_of(folder / BUNDLE_MANIFEST), worker)
        served.feedback = feedback_for(folder, manifest, served.release, served.metrics)
        made = server.server(served, access)
        running.append(made)
        made.should_exit = bool(failures)
        made.run(sockets=[port])

    worker.stop()
    if served.feedback:
        served.feedback.close()
    if failures:
        raise failures[0]

    return 0


def _free_large_blocks_at_once() -> None:
    """Let glibc map large blocks one by one."""
    # States of conversations come and go, and would leave holes in its heaps.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # asyncio sets TCP_NODELAY where it is named alone
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise DeviceError(
            "port_taken", f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error

    listener.listen(BACKLOG)
    return listener


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="serve", description="Serve a bundle with OpenAI's endpoints."
    )
    parser.add_argument("--bundle", required=True, metavar="DIR")
    parser.add_argument("--host", default="127.0.0.1", help="another one needs --token-file")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes a free one")
    parser.add_argument(
        "--threads", type=int, default=0, help="0 chooses by the model and the processors"
    )
    parser.add_argument(
        "--token-file",
        default="",
        metavar="FILE",
        help="file with the bearer token that requests must bring",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine, such as kitchen-pi.local; may be repeated",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="site whose pages may call the service, such as https://app.example; may be repeated",
    )

    return parser.parse_args(argv)

"""The verbs that change or show what a board serves: `activate`, `rollback`, `stop`, `status`."""

import argparse
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from device import activation, health, leased, service, trust
from device.activation import Limits
from device.errors import DeviceError
from device.figures import figures
from device.manifest.endpoint import PORT
from device.store import Deployment, Store


def activate(argv: list[str]) -> int:
    """Switch to a release that is on the board; roll back if it is not healthy."""
    parser = _parser("activate")
    parser.add_argument("release")
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument(
        "--service", choices=("auto", service.SYSTEMD, service.SUPERVISED), default="auto"
    )
    parser.add_argument(
        "--allow-unsigned",
        action="store_true",
        help="run it without a signature; `status` will say so",
    )
    parser.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which the service may be called; repeatable",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="an origin whose pages may call the service; repeatable",
    )
    parser.add_argument(
        "--unjudged", default="", metavar="WHY", help="why the speed says nothing here"
    )
    _add_limits(parser)
    options = parser.parse_args(argv)
    store = Store(options.root)
    limits = Limits(options.check_timeout, options.health_timeout, options.unjudged)
    kind = service.kind_here() if options.service == "auto" else options.service
    requested = Deployment(
        release=options.release,
        runtime=options.runtime,
        port=options.port,
        service=kind,
        host_names=tuple(options.host_name),
        cors_origins=tuple(options.cors_origin),
    )

    with store.locked():
        store.recover()
        unsigned = options.allow_unsigned and not trust.is_signed(store, requested)
        answer = activation.activate(store, replace(requested, unsigned=unsigned), limits)

    print(json.dumps(answer))
    return 0


def rollback(argv: list[str]) -> int:
    """Roll back to the previous release."""
    parser = _parser("rollback")
    _add_limits(parser)
    options = parser.parse_args(argv)
    store = Store(options.root)
    limits = Limits(options.check_timeout, options.health_timeout, "a way back may be slower")

    with store.locked():
        store.recover()
        previous = store.previous()
        current = store.current()
        if not previous:
            raise DeviceError("no_previous", "there is no previous release to go back to")

        trust.check(store, previous, store.verify)
        activation.replace_release(store, previous, current, limits)

    print(json.dumps(_state(store), ensure_ascii=False))
    return 0


def status(argv: list[str]) -> int:
    """Print what is on the board, what it serves and its health."""
    store = Store(_parser("status").parse_args(argv).root)
    print(json.dumps(_state(store), ensure_ascii=False))
    return 0


def stop(argv: list[str]) -> int:
    """Stop the service; it stays stopped."""
    store = Store(_parser("stop").parse_args(argv).root)
    with store.locked():
        store.recover()
        current = store.current()
        with suppress(OSError):  # what runs is ended on a disk that takes no byte any more, too
            store.note_stopped()
        if current:
            service.choose(store, current.service).stop()

    print(json.dumps(_state(store), ensure_ascii=False))
    return 0


def _state(store: Store) -> dict[str, Any]:
    # The file that a name stands for may have rotted; the notes of the last commit say it too.
    current = store.current() or store.confirmed()
    changing = store.changing()  # before a look at the service, which may take the lock itself
    return {
        "root": str(store.root),
        "release": _described(store, current),
        "previous": _described(store, store.previous()),
        "confirmed": current is not None and store.confirmed() == current,
        "since": store.state().get("since"),
        "speed": store.state().get("measured"),
        "refused": health.refusal(store),
        "disk_free_bytes": shutil.disk_usage(store.root).free,
        "store_bytes": store.size_bytes(),
        "service": _service_state(store, current) if current else None,
        "measuring": leased.under_way(store.root),
        "changing": changing,
    }


def _service_state(store: Store, current: Deployment) -> dict[str, Any]:
    running = service.choose(store, current.service)
    lost = service.revive(store, current)
    answer = service.healthy(current.port)
    pid = running.pid()
    failure = lost or running.failure()
    silent = not (answer or store.is_stopped or service.port_is_taken(current.port))
    return {
        "kind": running.kind,
        "pid": pid,
        "port": current.port,
        "healthy": answer is not None,
        "health": answer,
        "figures": figures(current.port) if answer else None,
        "failure": failure,
        # Its process checks bytes or loads its engine before it listens.
        "starting": silent and (pid is not None or not failure) and running.lives(),
        "stopped": store.is_stopped,
        "survives_reboot": running.survives_reboot,
        "hint": running.hint,
    }


def _described(store: Store, deployment: Deployment | None) -> dict[str, Any] | None:
    if not deployment:
        return None

    manifest = store.read_release(deployment.release)
    named = {
        "name": manifest.name,
        "version": manifest.version,
        "counter": manifest.counter,
        "target": manifest.target,
        "licences": list(manifest.licences),
        "ledger": manifest.ledger,
    }
    return dict(asdict(deployment), **named, signed_by=trust.signed_by(store, deployment.release))


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=verb)
    parser.add_argument("--root", type=Path, required=True)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check-timeout", type=float, default=0.0, help="seconds for the goldens; 0: by its size"
    )
    parser.add_argument(
        "--health-timeout",
        type=float,
        default=0.0,
        help="seconds until the service answers; 0: by its size",
    )

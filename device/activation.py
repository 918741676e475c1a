"""The switch from one release to the next, and back: check, switch, start, wait until it is healthy, commit.

At any moment `current` is a release whose bytes were verified and whose goldens were reproduced on this board. Only one
model is in memory at a time: the running service stops before the next release is checked. Meanwhile a supervisor waits
(device/supervisor.py): however this process ends before it commits, the last release that was healthy runs again.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from device import disk, health, service, trust
from device.child import die_with_parent
from device.errors import DeviceError
from device.manifest.endpoint import PORT
from device.store import RELEASES, Deployment, Store


@dataclass(frozen=True)
class Limits:
    """How long a release may take to prove itself."""

    check_s: float = 0.0
    """0: by the size of the release."""
    health_s: float = 0.0
    unjudged: str = ""
    """Why the speed is not to be judged, where it is not."""


def activate(argv: list[str]) -> int:
    """Switch to a release that is on the board; go back if it is not healthy."""
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
    store, limits = (
        Store(options.root),
        Limits(options.check_timeout, options.health_timeout, options.unjudged),
    )
    kind = service.kind_here() if options.service == "auto" else options.service
    wanted = Deployment(
        release=options.release,
        runtime=options.runtime,
        port=options.port,
        service=kind,
        host_names=tuple(options.host_name),
        cors_origins=tuple(options.cors_origin),
    )
    with store.locked():
        store.recover()
        unsigned = options.allow_unsigned and not trust.is_signed(store, wanted)
        answer = _activate(store, replace(wanted, unsigned=unsigned), limits)
    print(json.dumps(answer))
    return 0


def rollback(argv: list[str]) -> int:
    """Go back to the previous release."""
    parser = _parser("rollback")
    _add_limits(parser)
    options = parser.parse_args(argv)
    store, limits = (
        Store(options.root),
        Limits(options.check_timeout, options.health_timeout, "a way back may be slower"),
    )
    with store.locked():
        store.recover()
        previous, current = store.previous(), store.current()
        if not previous:
            raise DeviceError("no_previous", "there is no previous release to go back to")
        trust.check(store, previous, store.verify)
        _replace(store, previous, current, limits)
    print(json.dumps(_state(store), ensure_ascii=False))
    return 0


def status(argv: list[str]) -> int:
    """Print what is on the board, what serves and how it is."""
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


def _activate(store: Store, wanted: Deployment, limits: Limits) -> dict[str, Any]:
    trust.check(store, wanted, store.verify)
    current = store.current()
    answer = {
        "release": wanted.release,
        "port": wanted.port,
        "service": wanted.service,
        "unchanged": False,
    }
    if current == wanted and service.healthy(wanted.port):
        return dict(answer, unchanged=True)
    if not current or current.release != wanted.release:
        refuse_downgrade(store, wanted)
    if not current or current.runtime != wanted.runtime:
        run_verb(store, wanted, "selftest", limits.check_s or health.CHECK_S)
    store.sweep(wanted)
    answer["check"] = _replace(store, wanted, current, limits)
    store.sweep()
    _sweep_agents(store)
    return answer


def refuse_downgrade(store: Store, wanted: Deployment) -> None:
    """Raise DeviceError `downgrade` for a release with a lower counter than one of its name that was committed before."""
    manifest = store.read_release(wanted.release)
    lowest = store.lowest_counter(manifest.name)
    if manifest.counter < lowest:
        problem = f"{manifest.name} {manifest.version} has counter {manifest.counter}, this board had {lowest} already"
        hint = "package it with a higher counter; `demitasse rollback` goes back to the previous release"
        raise DeviceError("downgrade", problem, hint)


def _replace(
    store: Store, wanted: Deployment, way_back: Deployment | None, limits: Limits
) -> dict[str, Any]:
    """Run `wanted` instead of what runs and return what its check saw; on any failure run `way_back` again and say so.

    A service that its owner stopped before stays stopped then.
    """
    before, stopped = store.previous(), store.is_stopped
    again = way_back is not None and way_back.release == wanted.release
    if stopped or not way_back or way_back.port != wanted.port:
        _refuse_taken_port(store, wanted)
    store.settle(wanted)
    try:
        with service.paused(store):
            _hand_over(store, store.current(), None if stopped else way_back)
            _refuse_taken_port(store, wanted)
            checked = _check(store, wanted, limits)
            store.switch(wanted, before if again else way_back)
            _hand_over(store, way_back, wanted)
        _watch(store, wanted, limits)
        store.commit(wanted, checked["speed"])
    except BaseException as error:
        code, reason, hint = _fault(error)
        after = _go_back(store, wanted, _WayBack(way_back, before, stopped), limits)
        health.note_refusal(store, wanted, code, reason)
        raise DeviceError(code, f"{reason}; {after}", hint) from error
    health.forget_refusal(store)
    return checked


def _check(store: Store, wanted: Deployment, limits: Limits) -> dict[str, Any]:
    """Let a release load, reproduce its goldens and show its speed; where it is slow a second time it is refused."""
    limit_s = limits.check_s or health.check_limit_s(store, wanted.release)
    for _ in range(2):
        checked = run_verb(
            store, wanted, "check", limit_s, "--bundle", str(store.folder(RELEASES, wanted.release))
        )
        speed = health.measured(store, wanted, checked, limits.unjudged)
        if not health.is_slow(speed):
            return dict(checked, speed=speed)
    raise health.too_slow(speed)


def run_again(store: Store, current: Deployment) -> dict[str, Any]:
    """Check the current release and start it anew, as after a change of its settings; raise DeviceError where it does not run."""
    return _replace(store, current, current, Limits(unjudged="its settings are being tried"))


def _fault(error: BaseException) -> tuple[str, str, str]:
    if isinstance(error, DeviceError):
        return error.code, error.message, error.hint
    return "unhealthy", f"the activation ended by {type(error).__name__}: {error}", ""


@dataclass(frozen=True)
class _WayBack:
    """What was there before a switch."""

    release: "Deployment | None"
    previous: "Deployment | None"
    stopped: bool
    """Whether its owner had stopped it: then it stays so."""


def _go_back(store: Store, failed: Deployment, before: _WayBack, limits: Limits) -> str:
    """Run what was there before again; return in words what runs now."""
    way_back = before.release
    try:
        with service.paused(store):
            store.switch(way_back, before.previous)
            if way_back and store.confirmed() == failed:
                store.commit(way_back)
            _hand_over(store, failed, None if before.stopped else way_back)
        if not way_back:
            return "nothing runs: there was no release before"
        manifest = store.read_release(way_back.release)
        if before.stopped:
            store.note_stopped()
            return f"{manifest.name} {manifest.version} stays stopped"
        _watch(store, way_back, limits)
    except (DeviceError, OSError) as error:
        return f"the release before does not run either: {error}"
    return f"{manifest.name} {manifest.version} runs again"


def _hand_over(store: Store, running: Deployment | None, coming: Deployment | None) -> None:
    """End what runs and have another run as soon as there is no pause; at no moment would a reboot find no service."""
    if running and (not coming or coming.service != running.service):
        service.choose(store, running.service).stop()
    if coming:
        service.choose(store, coming.service).start()


def _refuse_taken_port(store: Store, wanted: Deployment) -> None:
    """Raise DeviceError `port_taken`, and note it; what runs, or does not run, stays as it is."""
    if service.port_is_taken(wanted.port):
        problem = f"another program listens on port {wanted.port}"
        health.note_refusal(store, wanted, "port_taken", problem)
        raise DeviceError("port_taken", problem, "choose another with --port")


def run_verb(
    store: Store, wanted: Deployment, verb: str, limit_s: float, *words: str
) -> dict[str, Any]:
    """Return what a verb of the runtime prints: `selftest`, `check`, which lets the release reproduce its goldens, or `search`."""
    command = [*service.python_command(store, wanted.runtime), verb, *words]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent,
    ) as child:
        try:
            said, complaints = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(child.pid, signal.SIGKILL)
            raise DeviceError(
                "unhealthy", f"the {verb} did not end within {limit_s:g} s"
            ) from error
    if child.returncode != 0:
        raise _failed(verb, said, complaints, child.returncode)
    answer: dict[str, Any] = json.loads(said)
    return answer


def _failed(verb: str, said: bytes, complaints: bytes, code: int) -> DeviceError:
    """Return why a child failed: the error it printed, else how it ended and its last words."""
    lines = said.decode(errors="replace").strip().splitlines()
    try:
        error = json.loads(lines[-1])["error"]
        if error["code"] == "illegal_instruction":
            return DeviceError(error["code"], error["message"], error["hint"])
        return DeviceError("unhealthy", f"the {verb} failed: {error['message']}", error["hint"])
    except (IndexError, KeyError, TypeError, ValueError):
        words = complaints.decode(errors="replace").strip().splitlines()
        last = f": {words[-1][:300]}" if words and code >= 0 else ""
        return DeviceError("unhealthy", f"the {verb} {service.how_it_ended(code)}{last}")


def _watch(store: Store, deployment: Deployment, limits: Limits) -> None:
    """Wait until the service answers."""
    limit_s = limits.health_s or health.start_limit_s(store, deployment.release)
    running = service.choose(store, deployment.service)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if service.healthy(deployment.port):
            return
        if failure := running.failure():
            raise DeviceError(
                "unhealthy",
                f"the service {failure}",
                f"its log: {store.root / 'run' / 'service.log'}",
            )
        time.sleep(0.1)
    raise DeviceError("unhealthy", f"the service was not healthy within {limit_s:g} s")


def _state(store: Store) -> dict[str, Any]:
    current = store.current()
    return {
        "root": str(store.root),
        "release": _described(store, current),
        "previous": _described(store, store.previous()),
        "confirmed": current is not None and store.confirmed() == current,
        "speed": store.state().get("measured"),
        "refused": health.refusal(store),
        "disk_free_bytes": shutil.disk_usage(store.root).free,
        "store_bytes": store.size_bytes(),
        "service": _service_state(store, current) if current else None,
    }


def _service_state(store: Store, current: Deployment) -> dict[str, Any]:
    running = service.choose(store, current.service)
    lost = service.revive(store, current)
    answer = service.healthy(current.port)
    return {
        "kind": running.kind,
        "pid": running.pid(),
        "port": current.port,
        "healthy": answer is not None,
        "health": answer,
        "failure": lost or running.failure(),
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
    }
    return dict(asdict(deployment), **named, signed_by=trust.signed_by(store, deployment.release))


def _sweep_agents(store: Store) -> None:
    """Delete the agents of earlier toolchains; the one that runs now also runs the service."""
    own = Path(service.agent())
    if own.parent == store.root / "agents":
        for other in own.parent.iterdir():
            if other != own:
                disk.remove(other)


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

"""The switch from one release to the next: check, switch, start, wait, commit; or the way back.

At any moment `current` is a release whose bytes were verified and whose goldens were reproduced on
this board. Only one model is in memory at a time: the running service stops before the next release
is checked. Meanwhile a supervisor waits (device/supervisor.py). However this process ends before it
commits, the last healthy release runs again.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device import disk, health, processes, service, trust
from device.child import die_with_parent
from device.errors import DeviceError
from device.store import RELEASES, Deployment, Store

LOOK_S = 0.1
"""Seconds between two looks at a service."""


@dataclass(frozen=True)
class Limits:
    """Time limits for a release to prove itself."""

    check_s: float = 0.0
    """Seconds for the check; 0 chooses by the size of the release."""
    health_s: float = 0.0
    unjudged: str = ""
    """Reason not to judge the speed; empty to judge it."""


def activate(store: Store, requested: Deployment, limits: Limits) -> dict[str, Any]:
    """Switch to a release that is on the board and return what the verb prints; raise DeviceError.

    Nothing changes if the release already runs with the same runtime and options.
    """
    trust.check(store, requested, store.verify)
    current = store.current()
    answer = {
        "release": requested.release,
        "port": requested.port,
        "service": requested.service,
        "unchanged": False,
    }
    if current == requested and _serves(store, requested, limits):
        return dict(answer, unchanged=True)

    if not current or current.release != requested.release:
        refuse_downgrade(store, requested)

    if not current or current.runtime != requested.runtime:
        run_verb(store, requested, "selftest", limits.check_s or health.CHECK_S)

    store.sweep(requested)
    answer["check"] = replace_release(store, requested, current, limits)
    store.sweep()
    _sweep_agents(store)

    return answer


def _serves(store: Store, current: Deployment, limits: Limits) -> bool:
    """Say whether the service answers. One that lives and is only slow is waited for.

    A busy board, or one that loads its model, would be made busier by a start of the same release.
    """
    running = service.choose(store, current.service)
    deadline = time.monotonic() + _start_limit_s(store, current, limits)
    while not service.healthy(current.port):
        if not running.pid() or running.failure() or time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True


def refuse_downgrade(store: Store, requested: Deployment) -> None:
    """Raise DeviceError `downgrade` if a higher counter of this name was committed before."""
    manifest = store.read_release(requested.release)
    lowest = store.lowest_counter(manifest.name)
    if manifest.counter < lowest:
        problem = (
            f"{manifest.name} {manifest.version} has counter {manifest.counter}, "
            f"this board had {lowest} already"
        )
        hint = (
            "package it with a higher counter; "
            "`demitasse rollback` goes back to the previous release"
        )
        raise DeviceError("downgrade", problem, hint)


def replace_release(
    store: Store, requested: Deployment, way_back: Deployment | None, limits: Limits
) -> dict[str, Any]:
    """Run `requested` instead of the current service and return the result of its check.

    On any failure run `way_back` again and raise DeviceError that says so. A service that its owner
    had stopped stays stopped then.
    """
    before = store.previous()
    stopped = store.is_stopped
    again = way_back is not None and way_back.release == requested.release
    if stopped or not way_back or way_back.port != requested.port:
        _refuse_taken_port(store, requested)

    store.settle()
    try:
        with processes.paused(store):
            _hand_over(store, store.current(), None if stopped else way_back)
            _refuse_taken_port(store, requested)
            checked = _check(store, requested, limits)
            store.switch(requested, before if again else way_back)
            _hand_over(store, way_back, requested)
        _watch(store, requested, limits)
        store.commit(requested, checked["speed"])
    except BaseException as error:
        code, reason, hint = _fault(error)
        after = _roll_back(store, requested, _Before(way_back, before, stopped), limits)
        health.note_refusal(store, requested, code, reason)
        raise DeviceError(code, f"{reason}; {after}", hint) from error

    health.forget_refusal(store)
    return checked


def _check(store: Store, requested: Deployment, limits: Limits) -> dict[str, Any]:
    """Let a release load, reproduce its goldens and show its speed.

    If it is too slow twice, raise DeviceError.
    """
    limit_s = limits.check_s or health.check_limit_s(store, requested.release)
    for _ in range(2):
        checked = run_verb(
            store,
            requested,
            "check",
            limit_s,
            "--bundle",
            str(store.folder(RELEASES, requested.release)),
        )
        speed = health.measured(store, requested, checked, limits.unjudged)
        if not health.is_slow(speed):
            return dict(checked, speed=speed)

    raise health.too_slow(speed)


def run_again(store: Store, current: Deployment) -> dict[str, Any]:
    """Check the current release and restart it, as after a change of its settings.

    Raise DeviceError if it fails.
    """
    return replace_release(store, current, current, Limits(unjudged="its settings are being tried"))


def _fault(error: BaseException) -> tuple[str, str, str]:
    if isinstance(error, DeviceError):
        return error.code, error.message, error.hint
    return "unhealthy", f"the activation ended by {type(error).__name__}: {error}", ""


@dataclass(frozen=True)
class _Before:
    """The state of the board before a switch."""

    release: "Deployment | None"
    previous: "Deployment | None"
    stopped: bool
    """Whether its owner had stopped it; then it stays stopped."""


def _roll_back(store: Store, failed: Deployment, before: _Before, limits: Limits) -> str:
    """Run the release from before the switch again; return in words what runs now."""
    way_back = before.release
    try:
        with processes.paused(store):
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
    """Stop one service and start another after the pause.

    At no moment would a reboot find no service.
    """
    if running and (not coming or coming.service != running.service):
        service.choose(store, running.service).stop()
    if coming:
        service.choose(store, coming.service).start()


def _refuse_taken_port(store: Store, requested: Deployment) -> None:
    """Raise DeviceError `port_taken` and note it; the running service is not touched."""
    if service.port_is_taken(requested.port):
        problem = f"another program listens on port {requested.port}"
        health.note_refusal(store, requested, "port_taken", problem)
        raise DeviceError("port_taken", problem, "choose another with --port")


def run_verb(
    store: Store,
    requested: Deployment,
    verb: str,
    limit_s: float,
    *words: str,
    around: Callable[["subprocess.Popen[bytes]"], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Any]:
    """Return the JSON that a verb of the runtime prints: `selftest`, `check` or `search`.

    The block `around` the process lasts until it ends.
    """
    command = [*service.python_command(store, requested.runtime), verb, *words]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent,
    ) as child:
        try:
            with around(child):
                output, errors = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(child.pid, signal.SIGKILL)
            raise DeviceError(
                "unhealthy", f"the {verb} did not end within {limit_s:g} s"
            ) from error

    if child.returncode != 0:
        raise _failed(verb, output, errors, child.returncode)

    answer: dict[str, Any] = json.loads(output)
    return answer


def _failed(verb: str, output: bytes, errors: bytes, code: int) -> DeviceError:
    """Return the error that a child printed; else how it ended, with its last line."""
    lines = output.decode(errors="replace").strip().splitlines()
    try:
        error = json.loads(lines[-1])["error"]
        if error["code"] == "illegal_instruction":
            return DeviceError(error["code"], error["message"], error["hint"])
        return DeviceError("unhealthy", f"the {verb} failed: {error['message']}", error["hint"])
    except (IndexError, KeyError, TypeError, ValueError):
        words = errors.decode(errors="replace").strip().splitlines()
        last = f": {words[-1][:300]}" if words and code >= 0 else ""
        return DeviceError("unhealthy", f"the {verb} {processes.how_it_ended(code)}{last}")


def _start_limit_s(store: Store, deployment: Deployment, limits: Limits) -> float:
    """Return how long a service may take until it answers."""
    # The supervisor reads every byte of a release that was committed before it loads it; only one
    # on trial was just checked.
    readings = 2 if store.confirmed() == deployment else 1
    return limits.health_s or health.start_limit_s(store, deployment.release, readings)


def _watch(store: Store, deployment: Deployment, limits: Limits) -> None:
    """Wait until the service answers."""
    limit_s = _start_limit_s(store, deployment, limits)
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
        time.sleep(LOOK_S)

    raise DeviceError("unhealthy", f"the service was not healthy within {limit_s:g} s")


def _sweep_agents(store: Store) -> None:
    """Delete the agents of earlier toolchains, but not the one that runs now."""
    own = Path(service.agent())
    if own.parent == store.root / "agents":
        for other in own.parent.iterdir():
            if other != own:
                disk.remove(other)

"""A board after a switch: is it still healthy under the questions that people ask?

Asked again and again over the soak: does it run the release, is its service healthy, was it
restarted, did requests fail, is the board held back by heat or power, and do answers begin in time.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.board.device import Device
from toolchain.errors import ToolchainError, UnreachableError
from toolchain.fleet.reaching import Opener, reach

MOST_PAUSE_S = 30.0
LOOKS = 10
"""Looks at a board during a short soak."""
ENOUGH = 10
"""Answers from which on the time to the first token is judged."""
SILENT = "its service is not healthy: it does not answer"
SHARE = 0.9
"""Share of the answers that must begin in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a board must hold."""

    release: str
    seconds: float
    first_token_s: float | None = None
    """Time within which nine of ten answers must begin; None: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of a board."""

    status: Mapping[str, Any]
    throttled: frozenset[str]

    @property
    def figures(self) -> Mapping[str, Any]:
        service = self.status.get("service") or {}
        return service.get("figures") or {}


def watch(address: str, plan: Watch, opener: Opener) -> str:
    """Return what went wrong on a board within the time; empty if nothing did.

    The line is opened for each look: a soak may take hours. A board that is gone for a moment is
    asked again; one that is gone at the end has failed. So is one whose service lives and does not
    answer in time: a busy board may be slow once.
    """
    end = time.monotonic() + plan.seconds
    pause = min(MOST_PAUSE_S, plan.seconds / LOOKS)
    first: Look | None = None
    gone = ""
    while True:
        try:
            with reach(address, opener) as device:
                seen = _look(device)
            waits = silent(seen) and runs(seen, plan)
            gone = SILENT if waits else ""
            if not waits:
                first = first or seen
                if trouble := judge(first, seen, plan):
                    return trouble
        except UnreachableError as error:
            gone = f"gone after the switch: {error.message.removeprefix(f'{address}: ')}"
        except ToolchainError as error:
            return error.message.removeprefix(f"{address}: ")
        if time.monotonic() >= end:
            return gone
        time.sleep(min(pause, max(0.0, end - time.monotonic())))


def silent(seen: Look) -> bool:
    """Say whether a board's service lives and gave no answer to this look."""
    service = seen.status.get("service") or {}
    lives = bool(service.get("pid")) and not service.get("failure")
    return lives and service.get("healthy") is not True


def runs(seen: Look, plan: Watch) -> bool:
    """Say whether a board has the release that is watched."""
    current = seen.status["release"]
    return current is not None and bool(current["release"] == plan.release)


def _look(device: Device) -> Look:
    throttled = device.facts().get("throttled") or {}
    return Look(
        status=device.call("status"), throttled=frozenset(map(str, throttled.get("now", ())))
    )


def judge(first: Look, seen: Look, plan: Watch) -> str:
    """Return what is wrong with a board now, compared with its first look; empty if nothing is."""
    service = seen.status.get("service") or {}
    if not runs(seen, plan):
        return "it runs another release"
    if service.get("healthy") is not True:
        return f"its service is not healthy: {service.get('failure') or 'it does not answer'}"

    before, now = first.figures, seen.figures
    if before and now:
        if now["began"] != before["began"]:
            return "its service was started anew"
        if failed := now["failures"] - before["failures"]:
            return f"{failed} of {now['requests'] - before['requests']} requests failed"
        if plan.first_token_s is not None and (late := _late(before, now, plan.first_token_s)):
            return late
    if new := seen.throttled - first.throttled:
        return f"the board is held back: {', '.join(sorted(new))}"
    return ""


def _late(before: Mapping[str, Any], now: Mapping[str, Any], limit_s: float) -> str:
    """Return what is said of answers that began too late; empty if they did not."""
    earlier = before["first_token_s"]
    came = {key: count - earlier.get(key, 0) for key, count in now["first_token_s"].items()}
    answers = came.pop("+Inf", 0)
    if answers < ENOUGH:
        return ""
    # The service counts by classes: the first that holds the limit is taken.
    classes = {limit: count for key, count in came.items() if (limit := _number(key)) >= limit_s}
    if not classes or classes[min(classes)] >= SHARE * answers:
        return ""
    late = answers - classes[min(classes)]
    return f"{late} of {answers} answers began later than after {min(classes):g} s"


def _number(text: str) -> float:
    """Return the limit of a class in seconds; -1 for what is none."""
    try:
        return float(text)
    except ValueError:
        return -1.0

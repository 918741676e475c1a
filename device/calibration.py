"""`calibrate`: finds the fastest settings of the current release here and runs it with them.

The service pauses meanwhile: a search beside it would measure both. New settings are kept only if
the release still gives its goldens with them and becomes healthy. Otherwise nothing changes. A
search that somebody waits for ends when that host is gone; what was found before is proved.
"""

import argparse
import json
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from device import activation, leased, processes, service, trust, tuned
from device.errors import DeviceError
from device.manifest.leases import SILENT_S
from device.store import RELEASES, Deployment, Store

LIMIT_FACTOR, LIMIT_EXTRA_S = 3.0, 600.0
"""Seconds beyond its budget after which a search is ended."""
# Models load slowly from a card.


def calibrate(argv: "list[str]") -> int:
    """Calibrate the current release.

    Print the settings, their evidence and the result of the check.
    """
    parser = argparse.ArgumentParser(prog="calibrate")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument(
        "--leased", action="store_true", help="a host gives signs of life on standard input"
    )
    parser.add_argument("--silent", type=float, default=SILENT_S, metavar="SECONDS")
    options = parser.parse_args(argv)
    store = Store(options.root)

    with store.locked():
        store.recover()
        current = store.current()
        if not current:
            raise DeviceError("nothing_deployed", "there is no release on this board", "push one")
        trust.check(store, current, store.verify)
        search = _Search(options.budget, options.silent if options.leased else None)
        with leased.alone(store.root / "run", "calibrate"):
            answer = _calibrate(store, current, search)

    print(json.dumps(answer))
    return 0


@dataclass(frozen=True)
class _Search:
    """How long a search may take, and for whom."""

    budget_s: float
    silent_s: "float | None"
    """Seconds without a sign of life of the host that end it; None: nothing does."""


def _calibrate(store: Store, current: Deployment, search: _Search) -> "dict[str, Any]":
    bundle = store.folder(RELEASES, current.release)
    before = tuned.read(bundle)
    stopped = store.is_stopped
    try:
        found = _searched(store, current, bundle, search)
        checked = _proved(store, current, bundle, found)
        return {**found, "check": checked}
    except BaseException:
        tuned.write(bundle, before)
        if not stopped:
            activation.run_again(store, current)
        raise


def _proved(
    store: Store, current: Deployment, bundle: Path, found: "dict[str, Any]"
) -> "dict[str, Any]":
    """Run with new settings and return the result of the check.

    If they change a golden, keep the numbers of threads alone.
    """
    tuned.write(bundle, found)
    try:
        return activation.run_again(store, current)
    except DeviceError as error:
        if not any(change["kept"] for change in found["evidence"]["changes"]):
            raise
        found["evidence"]["refused"] = error.message
        found["settings"] = {
            name: found["settings"][name] for name in ("threads", "threads_batch", "cpus")
        }
        tuned.write(bundle, found)
        return activation.run_again(store, current)


def _searched(store: Store, current: Deployment, bundle: Path, search: _Search) -> "dict[str, Any]":
    around = (
        nullcontext
        if search.silent_s is None
        else partial(leased.ends_with_host, silent_s=search.silent_s)
    )
    budget_s = search.budget_s
    with processes.paused(store):
        # Started, not stopped: it waits for the end of the pause. However this process ends, also
        # in a power cut, the release runs again.
        if not store.is_stopped:
            service.choose(store, current.service).start()
        limit_s = LIMIT_FACTOR * budget_s + LIMIT_EXTRA_S
        words = ("--bundle", str(bundle), "--budget", str(budget_s))
        return activation.run_verb(store, current, "search", limit_s, *words, around=around)

"""What else is done to all boards of a fleet: their state, one report, the way back."""

from collections.abc import Mapping
from typing import Any

from toolchain.artifacts import Report
from toolchain.bench import bench
from toolchain.board.device import Device
from toolchain.board.kind import kind_of
from toolchain.errors import ConfigError, ToolchainError
from toolchain.fleet.inventory import Fleet
from toolchain.fleet.journal import Journal
from toolchain.fleet.reaching import Opener, on_each
from toolchain.progress import Reporter

Answer = Mapping[str, Any]


def states(fleet: Fleet, opener: Opener) -> dict[str, Answer | ToolchainError]:
    """Return what each board says of itself (`status`), or why it does not."""
    return on_each(fleet, opener, lambda device: device.call("status"))


def measure(
    fleet: Fleet, opener: Opener, plan: Mapping[str, Any], report: Reporter
) -> dict[str, Report | ToolchainError]:
    """Return the speed of each board; `plan` has the arguments of `toolchain.bench.bench`."""

    def one(device: Device) -> Report:
        report.note(f"{device.address}: is measured")
        return bench(device, **plan)

    # Boards that are this computer would measure each other.
    simulated = any(kind_of(board.address).simulated for board in fleet.boards)
    return on_each(fleet, opener, one, parallel=1 if simulated else 0)


def roll_back(fleet: Fleet, opener: Opener) -> dict[str, Answer | ToolchainError | None]:
    """Take back the release that the last push brought; return each board's state after it.

    None for a board that does not run that release: it is left as it is, so that a second call
    changes nothing.
    """
    release = Journal(fleet.journal).last_release()
    if not release:
        raise ConfigError(
            f"{fleet.journal}: no push to this fleet is noted",
            hint="`demitasse rollback BOARD` takes one board back",
        )

    def one(device: Device) -> Answer | None:
        """Roll back a board that serves the release; return None for another."""
        current = device.call("status")["release"]
        if current is None or current["release"] != release:
            return None
        return device.call("rollback", *device.kind.timeouts, timeout_s=3600)

    seen = on_each(fleet, opener, one)
    Journal(fleet.journal).note(
        "rollback",
        release=release,
        boards=[address for address, state in seen.items() if isinstance(state, dict)],
    )
    return seen

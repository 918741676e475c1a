"""Verbs with `--fleet`: the same as for one board, for all boards of an inventory."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from toolchain import show
from toolchain.artifacts import Deployment, Report
from toolchain.board import open_board
from toolchain.board.device import Device
from toolchain.errors import ToolchainError, UnreachableError
from toolchain.progress import Reporter

if TYPE_CHECKING:
    from toolchain.delivery import Terms
    from toolchain.fleet.inventory import Fleet


def push(
    bundle: Path,
    fleet: "Fleet",
    terms: "Terms",
    report: Reporter,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Roll a bundle out; the exit code is that of the first board that failed."""
    from toolchain.delivery import open_bundle, push_to, release_of
    from toolchain.fleet.reaching import Together
    from toolchain.fleet.rollout import roll_out
    from toolchain.push.delta import Patches

    opened, together, patches = open_bundle(bundle), Together(report), Patches()

    def send(device: Device) -> Deployment:
        return push_to(opened, device, together, terms, dry_run=dry_run, patches=patches)

    opener = partial(open_board, accept_new=terms.accept_new)
    result = roll_out(release_of(opened), send, fleet, together, opener=opener, dry_run=dry_run)
    show.rolled_out(result, as_json=as_json)
    raise typer.Exit(result.exit_code)


def status(fleet: "Fleet", *, as_json: bool) -> None:
    """Show what each board serves; exit 9 if one is reached and not healthy."""
    from toolchain.fleet.boards import states

    seen = states(fleet, open_board)
    show.fleet_status(seen, as_json=as_json)
    raise typer.Exit(9 if any(not _is_fine(each) for each in seen.values()) else 0)


def _is_fine(seen: Mapping[str, Any] | ToolchainError) -> bool:
    """Say whether a board is healthy, or off: that is no fault of its release."""
    if isinstance(seen, ToolchainError):
        return isinstance(seen, UnreachableError)
    return (seen.get("service") or {}).get("healthy") is True


def bench(
    fleet: "Fleet", report: Reporter, plan: Mapping[str, Any], *, as_json: bool
) -> list[Report]:
    """Show the speed of each board; return the reports; raise the error of one if none was."""
    from toolchain.fleet.boards import measure
    from toolchain.fleet.reaching import Together

    seen = measure(fleet, open_board, plan, Together(report))
    show.fleet_bench(seen, as_json=as_json)
    reports = [each for each in seen.values() if isinstance(each, Report)]
    errors = [each for each in seen.values() if isinstance(each, ToolchainError)]
    if not reports:
        raise errors[0]
    return reports


def rollback(fleet: "Fleet", report: Reporter, *, as_json: bool) -> None:
    """Take all boards back that run what the last push brought."""
    from toolchain.fleet.boards import roll_back

    seen = roll_back(fleet, open_board)
    show.fleet_rollback(seen, as_json=as_json)
    errors = [each for each in seen.values() if isinstance(each, ToolchainError)]
    raise typer.Exit(errors[0].exit_code if errors else 0)

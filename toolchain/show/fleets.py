"""Fleets: one table a verb, one row a board."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.artifacts import Report
from toolchain.errors import ToolchainError
from toolchain.report import caveats, test_name

if TYPE_CHECKING:
    from toolchain.fleet.rollout import Rollout

Answer = Mapping[str, Any]


def rolled_out(result: "Rollout", *, as_json: bool) -> None:
    """Show what became of each board."""
    from toolchain.fleet.rollout import said

    if as_json:
        console.show_json({**asdict(result), "exit_code": result.exit_code})
        return
    rows = [
        [each.address, str(each.wave or "-"), each.state, f"{each.bytes_sent:,}", said(each)]
        for each in result.outcomes
    ]
    console.show_table(("board", "wave", "state", "bytes sent", ""), rows)
    counts = {state: sum(each.state == state for each in result.outcomes) for state in _STATES}
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    console.show_text(f"\nrelease {result.release[:12]}: {words}")
    if result.stopped:
        console.show_text(f"stopped: {result.stopped}")


_STATES = ("done", "same", "waiting", "failed", "untouched")


def fleet_status(seen: Mapping[str, Answer | ToolchainError], *, as_json: bool) -> None:
    """Show what each board serves."""
    if as_json:
        console.show_json({address: _as_json(each) for address, each in seen.items()})
        return
    rows = [[address, *_state(address, each)] for address, each in seen.items()]
    console.show_table(("board", "release", "serves", "state"), rows)


def fleet_rollback(seen: Mapping[str, Answer | ToolchainError | None], *, as_json: bool) -> None:
    """Show what each board serves after it was taken back."""
    if as_json:
        console.show_json({address: _as_json(each) for address, each in seen.items()})
        return
    rows = [
        [address, *(_state(address, each) if each is not None else _LEFT)]
        for address, each in seen.items()
    ]
    console.show_table(("board", "release", "serves", "state"), rows)


_LEFT = ["-", "-", "left as it is: it does not run what the last push brought"]


def fleet_bench(seen: Mapping[str, Report | ToolchainError], *, as_json: bool) -> None:
    """Show the speeds of all boards side by side, and what speaks against a figure."""
    if as_json:
        console.show_json(
            {
                address: asdict(each) if isinstance(each, Report) else _as_json(each)
                for address, each in seen.items()
            }
        )
        return
    rows = []
    for address, each in seen.items():
        if isinstance(each, ToolchainError):
            rows.append([address, "-", "-", "-", each.message.removeprefix(f"{address}: ")])
            continue
        mind = "; ".join(caveats(each))
        for row in each.rows:
            rate = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
            rows.append([address, str(row["model_type"]), test_name(row), rate, mind])
            mind = ""
    console.show_table(("board", "model", "test", "tokens/s", "mind"), rows)


def _as_json(seen: Answer | ToolchainError | None) -> Any:
    if isinstance(seen, ToolchainError):
        return {"error": {"message": seen.message, "hint": seen.hint, "code": seen.exit_code}}
    return seen


def _state(address: str, seen: Answer | ToolchainError) -> list[str]:
    if isinstance(seen, ToolchainError):
        return ["-", "-", seen.message.removeprefix(f"{address}: ")]
    release, service = seen.get("release"), seen.get("service") or {}
    if not release:
        return ["-", "-", "no release"]
    served = f"{release.get('name', '')} {release.get('version', '')}"
    healthy = service.get("healthy") is True
    state = "healthy" if healthy else str(service.get("failure") or "does not answer")
    return [str(release["release"])[:12], served, state]

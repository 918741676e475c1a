"""A release to the boards of a fleet: wave by wave, each watched before the next one begins.

A board proves a release itself (its goldens, its health) and takes it back if it is not healthy.
The rule: a board that cannot be reached is waiting, not failed; a later run of the same command
finishes it, and sends nothing to the boards that are done.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from threading import Event
from time import monotonic, sleep
from typing import Any, Literal

from toolchain.artifacts import Deployment
from toolchain.board.device import Device
from toolchain.errors import (
    BoardError,
    BusyError,
    HealthError,
    ToolchainError,
    UnreachableError,
)
from toolchain.fleet.inventory import BoardSpec, Fleet, seconds
from toolchain.fleet.journal import Journal
from toolchain.fleet.reaching import Opener, reach
from toolchain.fleet.soak import Watch, watch
from toolchain.progress import Reporter

Send = Callable[[Device], Deployment]
"""Brings the release to one board, or says what that would send."""
State = Literal["done", "same", "failed", "waiting", "untouched"]
"""`same`: it ran the release before; `waiting`: it cannot be reached; `untouched`: not tried."""
BUSY_S = 1200.0
"""Seconds for another push to a board to end; the longest check takes 900 (device/health.py)."""
BUSY_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one board."""

    address: str
    wave: int
    """Number of its wave, from 1; 0 for a board that no wave came to."""
    state: State
    bytes_sent: int = 0
    seconds: float = 0.0
    message: str = ""
    """Why it failed or waits; of a dry run what would be sent."""
    exit_code: int = 0
    """Of its error; 0 if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What became of all boards."""

    release: str
    outcomes: tuple[Outcome, ...]
    stopped: str = ""
    """Why no further wave was begun; empty if all were."""

    @property
    def exit_code(self) -> int:
        """Exit code of the first board that failed; 0 if none did, whether or not some wait."""
        return next((each.exit_code for each in self.outcomes if each.state == "failed"), 0)


def roll_out(
    release: str,
    send: Send,
    fleet: Fleet,
    report: Reporter,
    *,
    opener: Opener,
    dry_run: bool = False,
) -> Rollout:
    """Bring a release to the boards of a fleet; stop if too many boards of a wave fail.

    `send` brings it to one board; several threads call it.
    """
    journal = Journal(fleet.journal)
    run = _Run(release, send, fleet, journal, report, opener, dry_run)
    if not dry_run:
        addresses = [board.address for board in fleet.boards]
        journal.note("begin", release=release, boards=addresses)

    outcomes: list[Outcome] = []
    stopped = ""
    left = list(fleet.boards)
    waves = fleet.waves()
    for number, after in enumerate(waves, 1):
        seen = run.wave(number, len(waves), left, after - _proved(outcomes))
        outcomes += seen
        left = left[len(seen) :]
        failed = _failed(seen)
        if failed >= fleet.rollout.stop_after:
            stopped = f"{failed} of {_count(len(seen))} failed in wave {number}"
            report.note(f"stopped: {stopped}; no other board is touched")
            break

    outcomes += [Outcome(address=each.address, wave=0, state="untouched") for each in left]
    result = Rollout(release=release, outcomes=tuple(outcomes), stopped=stopped)
    if not dry_run:
        journal.note("end", release=release, stopped=stopped, exit_code=result.exit_code)
    return result


def _count(boards: int) -> str:
    return f"{boards} board" if boards == 1 else f"{boards} boards"


def _proved(outcomes: Sequence[Outcome]) -> int:
    """Return how many boards have the release."""
    return sum(each.state in ("done", "same") for each in outcomes)


def _failed(outcomes: Sequence[Outcome]) -> int:
    return sum(each.state == "failed" for each in outcomes)


class _Run:
    """One roll-out while it is under way."""

    def __init__(
        self,
        release: str,
        send: Send,
        fleet: Fleet,
        journal: Journal,
        report: Reporter,
        opener: Opener,
        dry_run: bool,
    ) -> None:
        self._release, self._send = release, send
        self._fleet, self._journal = fleet, journal
        self._report, self._opener, self._dry_run = report, opener, dry_run

    def wave(
        self, number: int, waves: int, left: Sequence[BoardSpec], wanted: int
    ) -> list[Outcome]:
        """Bring the release to `wanted` more boards, in order, and watch them.

        A board that is off proves nothing: the next one takes its place. Return what became of the
        boards that were tried.
        """
        outcomes: list[Outcome] = []
        while (more := wanted - _proved(outcomes)) > 0 and len(outcomes) < len(left):
            boards = left[len(outcomes) : len(outcomes) + more]
            self._report.note(f"wave {number} of {waves}: {_count(len(boards))}")
            outcomes += self._send_all(number, boards)
            if _failed(outcomes) >= self._fleet.rollout.stop_after:
                break
        if self._dry_run:
            return outcomes

        soaked = self._soaked(outcomes)
        if good := [each.address for each in soaked if each.state in ("done", "same")]:
            self._journal.note("soaked", release=self._release, boards=good)
        return soaked

    def _send_all(self, number: int, boards: Sequence[BoardSpec]) -> list[Outcome]:
        """Bring the release to boards at the same time; begin no other once too many failed."""
        enough = Event()
        seen: list[Outcome] = []

        def one(board: BoardSpec) -> Outcome:
            """Bring the release to one board, unless too many failed before."""
            if enough.is_set():
                return Outcome(address=board.address, wave=number, state="untouched")
            outcome = self._board(board.address, number)
            seen.append(outcome)
            if _failed(seen) >= self._fleet.rollout.stop_after:
                enough.set()
            if not self._dry_run:
                self._journal.note("board", release=self._release, **asdict(outcome))
            self._report.note(f"{board.address}: {said(outcome)}")
            return outcome

        return self._parallel(one, boards)

    def _board(self, address: str, number: int) -> Outcome:
        """Push to one board, unless it runs the release already."""
        outcome = Outcome(address=address, wave=number, state="done")
        try:
            with reach(address, self._opener) as device:
                return self._push(device, outcome)
        except UnreachableError as error:
            return replace(outcome, state="waiting", message=error.message)
        except ToolchainError as error:
            return replace(
                outcome, state="failed", message=error.message, exit_code=error.exit_code
            )

    def _push(self, device: Device, outcome: Outcome) -> Outcome:
        try:
            if self._runs(device):
                return replace(outcome, state="same")
            done = self._sent(device)
        except UnreachableError as error:  # it went off in the middle: nobody knows in what state
            raise BoardError(error.message, hint=error.hint) from error
        # A busy board may have said of itself that it does not answer, and did so a moment later.
        return replace(
            outcome,
            state="same" if done.unchanged else outcome.state,
            bytes_sent=done.bytes_sent,
            seconds=done.seconds,
            message=_planned(done) if self._dry_run else "",
        )

    def _sent(self, device: Device) -> Deployment:
        """Push; wait for another push that is under way there, such as that of a killed host."""
        deadline = monotonic() + BUSY_S
        while True:
            try:
                return self._send(device)
            except BusyError as error:
                if monotonic() >= deadline:
                    raise
                self._report.note(f"{error.message}: it is waited for")
                sleep(BUSY_PAUSE_S)
                device.look(again=True)

    def _runs(self, device: Device) -> bool:
        """Say whether a board runs this release and is healthy."""
        if self._release not in device.look()[1]["releases"]:
            return False
        status = device.call("status")
        current, service = status["release"], status.get("service") or {}
        return (
            current is not None
            and current["release"] == self._release
            and status.get("confirmed") is True
            and service.get("healthy") is True
        )

    def _soaked(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Watch the boards that are done; take back the release where one is not healthy."""
        rollout = self._fleet.rollout
        proved = self._journal.soaked(self._release)
        watched = [
            each
            for each in outcomes
            if each.state == "done" or (each.state == "same" and each.address not in proved)
        ]
        if not watched or not (time := seconds(rollout.soak)):
            return list(outcomes)

        plan = Watch(
            release=self._release,
            seconds=time,
            first_token_s=seconds(rollout.max_first_token) if rollout.max_first_token else None,
        )
        self._report.note(f"watching {_count(len(watched))} for {rollout.soak}")
        found = dict(
            zip(
                (each.address for each in watched),
                self._parallel(lambda each: self._watched(each, plan), watched),
                strict=True,
            )
        )
        return [found.get(each.address, each) for each in outcomes]

    def _watched(self, outcome: Outcome, plan: Watch) -> Outcome:
        trouble = watch(outcome.address, plan, self._opener)
        if not trouble:
            return outcome
        self._report.note(f"{outcome.address}: {trouble}; its release is taken back")
        try:
            with reach(outcome.address, self._opener) as device:
                if self._is_current(device):
                    device.call("rollback", *device.kind.timeouts, timeout_s=3600)
        except ToolchainError as error:
            trouble = f"{trouble}; it could not be taken back: {error.message}"
        return replace(outcome, state="failed", message=trouble, exit_code=HealthError.exit_code)

    def _is_current(self, device: Device) -> bool:
        current = device.call("status")["release"]
        return current is not None and current["release"] == self._release

    def _parallel(self, work: Callable[[Any], Outcome], items: Sequence[Any]) -> list[Outcome]:
        with ThreadPoolExecutor(self._fleet.rollout.parallel) as pool:
            return list(pool.map(work, items))


def said(outcome: Outcome) -> str:
    """Return in words what became of a board."""
    match outcome.state:
        case "done":
            return outcome.message or f"done, {outcome.bytes_sent:,} bytes sent"
        case "same":
            return "runs this release already"
        case "untouched":
            return "not touched"
        case _:
            where = f"{outcome.address}: "
            return f"{outcome.state}: {outcome.message.removeprefix(where)}"


def _planned(done: Deployment) -> str:
    total = sum(action.size_bytes for action in done.actions)
    return f"would get {total:,} bytes"

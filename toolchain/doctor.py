"""Checks of this computer and of a board's facts: what is wrong, and what mends it.

A check of a board is a pure function of its facts. A finding has one line that says what was seen
and one that mends it.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolchain import extras
from toolchain.agent import OLDEST_PYTHON, OLDEST_PYTHON_NAME
from toolchain.errors import ToolError
from toolchain.target import Target, recognise
from toolchain.tools import engine_check, ggml, llama, openssh

Facts = Mapping[str, Any]
MIN_FREE_BYTES = 2 << 30
"""Room for a small model, its runtime and a second release beside it."""
_BOARD = "board"
"""Name of the first check of a board."""
PASSIVE_COOLING_C = 80.0
"""Raspberry Pis slow down from here on (their documentation, frequency-management)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check saw."""

    check: str
    state: Literal["ok", "warning", "problem"]
    seen: str
    mend: str = ""


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return findings as lines of text: what was seen, what mends it, a count at the end."""
    width = max(len(finding.check) for finding in findings)
    text = []
    for finding in findings:
        # Both lists have a `python` and a `disk`; the board's begins with what the board is.
        if finding.check == _BOARD:
            text += ["", "the board:"]
        mark = "PROBLEM" if finding.state == "problem" else finding.state
        text.append(f"{mark:<7}  {finding.check:<{width}}  {finding.seen}")
        if finding.mend:
            text.append(f"{'':<7}  {'':<{width}}  → {finding.mend}")

    counts = [
        f"{number} {state}{'s' if number > 1 else ''}"
        for state in ("problem", "warning")
        if (number := sum(finding.state == state for finding in findings))
    ]
    summary = f"{' and '.join(counts)}; → is what mends it" if counts else "nothing is wrong"
    return [*text, "", summary]


def host_findings() -> list[Finding]:
    """Check this computer."""
    return [
        _python(),
        _tool("sshd", openssh.sshd),
        _tool("ssh-keygen", openssh.ssh_keygen),
        _tool("ssh", openssh.ssh),
        *_engine(),
        _training(),
        _room(),
    ]


def _engine() -> list[Finding]:
    """Check llama.cpp's libraries, first in a child process: a wrong build kills its process."""
    try:
        engine_check.run()
    except ToolError as error:
        return [Finding(check="llama.cpp", state="problem", seen=error.message, mend=error.hint)]
    return [_tool("llama.cpp", ggml.verify), _threads()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(check="python", state="ok", seen=version)


def _tool(name: str, verify: Callable[[], object]) -> Finding:
    try:
        return Finding(check=name, state="ok", seen=str(verify() or "works"))
    except ToolError as error:
        return Finding(check=name, state="problem", seen=error.message, mend=error.hint)


def _threads() -> Finding:
    try:
        sleeps = llama.sleeps_at_barriers()
    except ToolError as error:
        return Finding(check="threads", state="problem", seen=error.message, mend=error.hint)
    if sleeps:
        return Finding(check="threads", state="ok", seen="llama.cpp's sleep where they wait")
    return Finding(
        check="threads",
        state="warning",
        seen="llama.cpp's spin where they wait: many times slower where other programs run",
        mend=(
            "build it with our patch: make (or scripts/engine-wheel.sh, then pip install its wheel)"
        ),
    )


def _training() -> Finding:
    *names, last = extras.packages("train")
    missing = extras.missing("train")
    if not missing:
        seen = f"{', '.join(names)} and {last} are there"
        return Finding(check="training", state="ok", seen=seen)
    return Finding(
        check="training",
        state="warning",
        seen=f"not installed: {', '.join(missing)}",
        mend=extras.remedy("train"),
    )


def _room() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    state: Literal["ok", "warning"] = "ok" if free > MIN_FREE_BYTES else "warning"
    return Finding(
        check="disk",
        state=state,
        seen=f"{free / 1e9:.1f} GB free here",
        mend="" if state == "ok" else "make room for artifacts",
    )


def board_findings(facts: Facts) -> list[Finding]:
    """Check a board by what it says of itself."""
    return [check(facts) for check in _BOARD_CHECKS]


def _kind(facts: Facts) -> Finding:
    known: Target | None = recognise(
        str(facts["model"]), str(facts["machine"]), int(facts["memory_total_mb"] or 0)
    )
    seen = f"{facts['model']} ({facts['machine']}, {facts['cores']} cores)"
    if known:
        return Finding(check=_BOARD, state="ok", seen=f"{seen}: target {known.id}")
    return Finding(
        check=_BOARD,
        state="warning",
        seen=f"{seen}: no target describes it",
        mend="see `demitasse targets`",
    )


def _userland(facts: Facts) -> Finding:
    if facts["userland_bits"] == 64:
        return Finding(
            check="64 bit", state="ok", seen=f"{facts['os_name']}, kernel {facts['kernel']}"
        )
    return Finding(
        check="64 bit",
        state="problem",
        seen="the system is 32-bit",
        mend="install the 64-bit image of the system",
    )


def _board_python(facts: Facts) -> Finding:
    version = str(facts["python"])
    if tuple(map(int, version.split(".")[:2])) >= OLDEST_PYTHON:
        return Finding(check="python", state="ok", seen=version)
    return Finding(
        check="python",
        state="problem",
        seen=f"{version}, {OLDEST_PYTHON_NAME} is the oldest",
        mend="install a newer image of the system",
    )


def _documents(facts: Facts) -> Finding:
    if facts.get("fts5") is not False:
        return Finding(
            check="documents", state="ok", seen="bundles may answer from documents (SQLite's FTS5)"
        )
    return Finding(
        check="documents",
        state="warning",
        seen="its SQLite has no FTS5: no bundle can answer from documents",
        mend="use the system's own Python: Debian, Raspberry Pi OS and Ubuntu have it",
    )


def _memory(facts: Facts) -> Finding:
    total, free = facts["memory_total_mb"], facts["memory_available_mb"]
    enough = free is not None and free > 256
    seen = f"{free} of {total} MB are available"
    return Finding(
        check="memory",
        state="ok" if enough else "warning",
        seen=seen,
        mend="" if enough else "stop the desktop or other services",
    )


def _disk(facts: Facts) -> Finding:
    free = int(facts["disk_free_bytes"])
    enough = free > MIN_FREE_BYTES
    return Finding(
        check="disk",
        state="ok" if enough else "warning",
        seen=f"{free / 1e9:.1f} GB free on {facts['disk_device'] or 'its disk'}",
        mend="" if enough else "remove files that nobody needs, or use a larger card",
    )


def _store(facts: Facts) -> Finding:
    folder = facts["disk_folder"]
    if not facts["disk_writable"]:
        seen, mend = f"`{folder}` cannot be written", "DEMITASSE_ROOT names another folder"
        return Finding(check="store", state="problem", seen=seen, mend=mend)
    if facts["disk_noexec"]:
        mend = "DEMITASSE_ROOT names a folder on another file system; or mount it with exec"
        seen = f"`{folder}` is mounted noexec: no library can be loaded there"
        return Finding(check="store", state="problem", seen=seen, mend=mend)
    return Finding(check="store", state="ok", seen=f"`{folder}` can be written")


def _power(facts: Facts) -> Finding:
    flags = facts["throttled"]
    if flags is None:
        return Finding(check="power", state="ok", seen="not measured by this board")
    if flags["now"]:
        return Finding(
            check="power",
            state="problem",
            seen=f"now: {', '.join(flags['now'])}",
            mend="use the board's own power supply; cool it",
        )
    if flags["since_boot"]:
        seen = f"since boot: {', '.join(flags['since_boot'])}"
        return Finding(
            check="power",
            state="warning",
            seen=seen,
            mend="use the board's own power supply; cool it",
        )
    return Finding(check="power", state="ok", seen="no under-voltage, no throttling")


def _heat(facts: Facts) -> Finding:
    degrees = facts["temperature_c"]
    if degrees is None:
        return Finding(check="temperature", state="ok", seen="not measured by this board")
    hot = degrees >= PASSIVE_COOLING_C
    return Finding(
        check="temperature",
        state="warning" if hot else "ok",
        seen=f"{degrees:.1f} °C",
        mend="add a fan or a heat sink" if hot else "",
    )


def _clock(facts: Facts) -> Finding:
    if facts["time_sane"]:
        return Finding(check="clock", state="ok", seen="the time is set")
    return Finding(
        check="clock",
        state="warning",
        seen="the time was never set (nothing here needs it)",
        mend="connect to a network once, or set it",
    )


def _service(facts: Facts) -> Finding:
    if not facts["systemd_user"]:
        return Finding(
            check="service",
            state="warning",
            seen="no systemd for users: a reboot ends the service",
            mend="start it again with a push",
        )
    if facts["linger"]:
        return Finding(check="service", state="ok", seen="systemd starts it at boot")
    mend = "on the board, once: sudo loginctl enable-linger"
    return Finding(
        check="service", state="warning", seen="it stops when the last session ends", mend=mend
    )


def _measured(facts: Facts) -> Finding:
    other = facts.get("measuring")
    if not other:
        return Finding(check="measurement", state="ok", seen="none goes on: it has its cores free")
    return Finding(
        check="measurement",
        state="warning",
        seen=f"`{other['verb']}` has been running there for {other['seconds']} s, "
        f"process {other['pid']}: its answers are slow meanwhile",
        mend=f"wait until it ends; to end it, on the board: kill {other['pid']}",
    )


_BOARD_CHECKS = (
    _kind,
    _userland,
    _board_python,
    _documents,
    _memory,
    _disk,
    _store,
    _power,
    _heat,
    _clock,
    _service,
    _measured,
)

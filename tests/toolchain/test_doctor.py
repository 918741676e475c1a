"""What is wrong on a board is said in one line, with one line that mends it."""

from typing import Any

import pytest

from toolchain.doctor import Finding, board_findings, host_findings, lines

PI = {
    "model": "Raspberry Pi 4 Model B Rev 1.4",
    "machine": "aarch64",
    "cores": 4,
    "memory_total_mb": 1872,
    "memory_available_mb": 1500,
    "userland_bits": 64,
    "os_name": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.6.51+rpt-rpi-v8",
    "python": "3.11.2",
    "fts5": True,
    "disk_free_bytes": 20_000_000_000,
    "disk_device": "mmcblk0p2",
    "disk_folder": "/home/pi",
    "disk_noexec": False,
    "disk_writable": True,
    "throttled": {"raw": "0x0", "now": [], "since_boot": []},
    "temperature_c": 48.3,
    "time_sane": True,
    "systemd_user": True,
    "linger": True,
}

FAULTS: list[tuple[dict[str, Any], str, str, str, str]] = [
    (
        {"python": "3.9.2"},
        "python",
        "problem",
        "3.9.2, 3.10 is the oldest",
        "install a newer image of the system",
    ),
    (
        {"userland_bits": 32},
        "64 bit",
        "problem",
        "the system is 32-bit",
        "install the 64-bit image of the system",
    ),
    (
        {"fts5": False},
        "documents",
        "warning",
        "its SQLite has no FTS5: no bundle can answer from documents",
        "use the system's own Python: Debian, Raspberry Pi OS and Ubuntu have it",
    ),
    (
        {"measuring": {"verb": "bench", "pid": 812, "seconds": 45}},
        "measurement",
        "warning",
        "`bench` has been running there for 45 s, process 812: its answers are slow meanwhile",
        "wait until it ends; to end it, on the board: kill 812",
    ),
    (
        {"memory_available_mb": 90},
        "memory",
        "warning",
        "90 of 1872 MB are available",
        "stop the desktop or other services",
    ),
    (
        {"disk_free_bytes": 900_000_000},
        "disk",
        "warning",
        "0.9 GB free on mmcblk0p2",
        "remove files that nobody needs, or use a larger card",
    ),
    (
        {"throttled": {"raw": "0x50005", "now": ["under_voltage", "throttled"], "since_boot": []}},
        "power",
        "problem",
        "now: under_voltage, throttled",
        "use the board's own power supply; cool it",
    ),
    (
        {"throttled": {"raw": "0x50000", "now": [], "since_boot": ["under_voltage"]}},
        "power",
        "warning",
        "since boot: under_voltage",
        "use the board's own power supply; cool it",
    ),
    (
        {"disk_noexec": True},
        "store",
        "problem",
        "`/home/pi` is mounted noexec: no library can be loaded there",
        "DEMITASSE_ROOT names a folder on another file system; or mount it with exec",
    ),
    (
        {"disk_writable": False},
        "store",
        "problem",
        "`/home/pi` cannot be written",
        "DEMITASSE_ROOT names another folder",
    ),
    ({"throttled": None}, "power", "ok", "not measured by this board", ""),
    ({"temperature_c": 83.0}, "temperature", "warning", "83.0 °C", "add a fan or a heat sink"),
    (
        {"time_sane": False},
        "clock",
        "warning",
        "the time was never set (nothing here needs it)",
        "connect to a network once, or set it",
    ),
    (
        {"linger": False},
        "service",
        "warning",
        "it stops when the last session ends",
        "on the board, once: sudo loginctl enable-linger",
    ),
    (
        {"systemd_user": False},
        "service",
        "warning",
        "no systemd for users: a reboot ends the service",
        "start it again with a push",
    ),
    (
        {"model": "Banana"},
        "board",
        "warning",
        "Banana (aarch64, 4 cores): no target describes it",
        "see `demitasse targets`",
    ),
]


def test_a_healthy_board_has_nothing_to_mend() -> None:
    findings = board_findings(PI)
    assert {finding.state for finding in findings} == {"ok"}
    assert (
        findings[0].seen == "Raspberry Pi 4 Model B Rev 1.4 (aarch64, 4 cores): target rpi-4b-2gb"
    )


@pytest.mark.parametrize(
    ("fault", "check", "state", "seen", "mend"),
    FAULTS,
    ids=[f"{row[1]} {row[3][:20]}" for row in FAULTS],
)
def test_a_fault_is_named_and_mended(
    fault: dict[str, Any], check: str, state: str, seen: str, mend: str
) -> None:
    found = next(finding for finding in board_findings(PI | fault) if finding.check == check)
    assert (found.state, found.seen, found.mend) == (state, seen, mend)


def test_this_computer_is_looked_at_with_its_real_tools() -> None:
    states = {finding.check: finding.state for finding in host_findings()}
    assert states["python"] == states["llama.cpp"] == states["sshd"] == "ok"


def test_findings_are_laid_out_with_what_mends_them_beneath() -> None:
    found = [
        Finding(check="python", state="ok", seen="3.13.5"),
        Finding(check="training", state="warning", seen="not installed: peft", mend="pip install"),
        Finding(check="ssh", state="problem", seen="ssh is missing", mend="sudo apt-get install"),
    ]
    assert lines(found) == [
        "ok       python    3.13.5",
        "warning  training  not installed: peft",
        "                   → pip install",
        "PROBLEM  ssh       ssh is missing",
        "                   → sudo apt-get install",
        "",
        "1 problem and 1 warning; → is what mends it",
    ]


def test_a_sound_computer_gets_one_word() -> None:
    assert lines([Finding(check="python", state="ok", seen="3.13.5")])[-1] == "nothing is wrong"


def test_the_boards_findings_stand_under_their_own_line() -> None:
    here = Finding(check="python", state="ok", seen="3.13.5")
    text = lines([here, *board_findings(PI)])
    at = text.index("the board:")
    assert text[at - 2].startswith("ok       python")
    assert text[at + 1].startswith("ok       board        Raspberry Pi 4")

"""Starts a virtual board's QEMU in a folder, waits until it answers, keeps its state, stops it."""

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

from toolchain.board import image, machine, qmp, rootfs, ssh
from toolchain.board.initramfs import NO_ROOT
from toolchain.board.kind import VIRTUAL_PREFIX
from toolchain.board.route import Route
from toolchain.errors import BoardError, ToolchainError, ToolError
from toolchain.progress import Reporter
from toolchain.tools import qemu

DISK, DEVICE_TREE, KNOWN_HOSTS = "disk.qcow2", "board.dtb", "known_hosts"
READY, PAUSED = "ready", "paused"
"""Names of kept states in the disk file: after the first boot, and when the board was last down."""
BOOT_S = 600.0
"""Limit of a cold boot. It takes 15 to 45 s, on a busy computer many times that."""
_SETTLED = (
    "systemctl is-system-running --wait; systemctl --user is-system-running --wait; "
    "python3 -c 'import json, hashlib'; sync"
)
_POLL_S, _USUAL_BOOT_S, _QUIT_S = 0.1, 45.0, 60.0


def start(
    name: str, folder: Path, made: machine.Machine, boot: machine.Boot, report: Reporter
) -> int:
    """Start QEMU, wait until the board answers and return its SSH port.

    Raises BoardError with what QEMU or the board's kernel printed; nothing runs any more then.
    """
    (folder / machine.SERIAL_LOG).unlink(missing_ok=True)
    try:
        qemu.start(machine.arguments(name, made, boot, DISK), folder)
    except ToolError as error:
        raise _not_started(name, boot.port, error) from error

    try:
        port = _port(name, folder)
        _trust(folder, port)
        _wait(name, folder, port, report)
    except BaseException:
        stop(folder)
        raise

    return port


def stop(folder: Path) -> None:
    """Kill the QEMU of a folder, if one runs. Its board loses what it has not written."""
    pid = qmp.process(folder)
    if pid is None:
        return
    os.kill(pid, signal.SIGKILL)
    while qmp.process(folder):
        time.sleep(_POLL_S / 2)


def keep(name: str, folder: Path, state: str) -> None:
    """Save the running machine under a name in its disk file, and end it."""
    with qmp.monitor(name, folder) as wire:
        wire.call("stop")
        said = wire.call("human-monitor-command", {"command-line": f"savevm {state}"})
        if said.strip():
            wire.call("cont")
            raise BoardError(f"{name}: the machine's state cannot be kept: {said.strip()}")
        wire.call("quit")

    deadline = time.monotonic() + _QUIT_S
    while qmp.process(folder) and time.monotonic() < deadline:
        time.sleep(_POLL_S / 2)

    stop(folder)


def route(name: str, folder: Path, port: int) -> Route:
    """Return the way to a board that runs."""
    return Route(
        address=name,
        host="127.0.0.1",
        port=port,
        user=rootfs.USER,
        known_as=f"[127.0.0.1]:{port}",
        known_hosts=(folder / KNOWN_HOSTS,),
        identities=(str(image.user_key()),),
        only_identities=True,
    )


def settle(name: str, folder: Path, port: int) -> None:
    """Wait until a board has started all its services and has Python in its page cache."""
    connection = ssh.dial(route(name, folder, port))
    try:
        connection.run(["sh", "-c", _SETTLED], timeout_s=BOOT_S)
    finally:
        connection.close()


def set_clock(wire: qmp.Wire, name: str, seconds: float) -> None:
    """Set the board's clock, in seconds since 1970."""
    qmp.execute(wire, name, ["/bin/date", "-s", f"@{seconds:.3f}"])


def check_alive(name: str, folder: Path) -> None:
    """Raise BoardError with the last lines of its serial port if a board cannot boot any more."""
    said = _last_words(folder)
    if NO_ROOT in said or "Kernel panic" in said or qmp.process(folder) is None:
        raise BoardError(
            f"{name}: the board did not boot: {said or 'it said nothing'}",
            hint=f"demitasse board reset {_short(name)}",
        )


def _wait(name: str, folder: Path, port: int, report: Reporter) -> None:
    begun = time.monotonic()

    def look() -> None:
        """Raise BoardError if the board ended; show how far it is otherwise."""
        check_alive(name, folder)
        report.step(
            f"{name} boots", min(time.monotonic() - begun, _USUAL_BOOT_S - 1), _USUAL_BOOT_S, "s"
        )

    with qmp.agent(name, folder, BOOT_S, look) as wire:
        set_clock(wire, name, time.time())

    while not _greets(port):
        if time.monotonic() - begun > BOOT_S:
            raise BoardError(f"{name}: its SSH server did not start in {BOOT_S:g} s")
        look()
        time.sleep(_POLL_S)

    report.step(f"{name} boots", _USUAL_BOOT_S, _USUAL_BOOT_S, "s")


def _greets(port: int) -> bool:
    """Return whether an SSH server answers; QEMU itself connects before the board does."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=5.0) as sock,
    ):
        return sock.recv(4) == b"SSH-"
    return False


def _last_words(folder: Path) -> str:
    log = folder / machine.SERIAL_LOG
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return " / ".join([line.strip() for line in lines if line.strip()][-3:])


def _port(name: str, folder: Path) -> int:
    with qmp.monitor(name, folder) as wire:
        listed = wire.call("human-monitor-command", {"command-line": "info usernet"})
    found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s", listed)
    assert found, listed
    return int(found[1])


def _trust(folder: Path, port: int) -> None:
    host_key = image.host_key().with_suffix(".pub").read_text(encoding="utf-8")
    (folder / KNOWN_HOSTS).write_text(f"[127.0.0.1]:{port} {host_key}", encoding="utf-8")


def _not_started(name: str, port: int, error: ToolError) -> ToolchainError:
    if "host forwarding" in error.message:
        return BoardError(
            f"{name}: port {port} is taken", hint="leave the port out: a free one is taken"
        )
    if "Cannot allocate memory" in error.message:
        return BoardError(f"{name}: this computer has not enough free memory for it")
    return BoardError(f"{name}: {error.message}", hint=f"demitasse board reset {_short(name)}")


def _short(name: str) -> str:
    return name.removeprefix(VIRTUAL_PREFIX)

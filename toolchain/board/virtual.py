"""Virtual boards: arm64 machines in QEMU that simulate targets, reached over SSH like any board.

A board is named by its target, `rpi-4b-2gb`, with `:13` for Debian 13. It starts from the snapshot
of a booted machine, resumes after `down`, and boots cold from its disk after a power cut. Its speed
says nothing about the real board's.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toolchain import target
from toolchain.board import boot, image, machine, qmp, rootfs, ssh, virtual_name
from toolchain.board.image import Image
from toolchain.board.kind import VIRTUAL_PREFIX as PREFIX
from toolchain.errors import BoardError
from toolchain.progress import Reporter, Silent
from toolchain.tools import openssh, qemu

NEEDED_BYTES = 1 << 30
"""Free space that a board's disk file needs at first."""
_STATE = "board.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualBoard:
    """A virtual board, up or down."""

    target_id: str
    debian: int
    folder: Path
    """Folder of its disk, logs and sockets."""
    pid: int | None = None
    """Process id of QEMU; None while the board is down."""
    port: int | None = None
    """Port of its SSH server on 127.0.0.1; None while the board is down."""

    @property
    def address(self) -> str:
        """Address of the board, wherever one is asked for."""
        release = "" if self.debian == rootfs.DEFAULT_DEBIAN else f":{self.debian}"
        return f"{PREFIX}{self.target_id}{release}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What is stored about a board between two starts."""

    target_id: str
    debian: int
    image: str
    """Id of the image under its disk."""
    machine: str
    """Id of the machine that its states belong to."""
    state: str
    """Name of the state to resume; empty: boot cold."""
    port: int


def up(name: str, report: Reporter, *, port: int = 0) -> VirtualBoard:
    """Start a board and return it when its SSH server answers.

    `port` is its loopback port; 0 takes a free one. It takes seconds where a kept state can be
    resumed; the first board of its kind builds image and snapshot. A board that is up stays as it
    is.
    """
    with _alone(name, report) as board:
        if not board.pid:
            return _start(board, report, port)
        if port not in (0, board.port):
            raise BoardError(
                f"{board.address}: already up on port {board.port}",
                hint=f"demitasse board down {name}",
            )
        report.note(f"{board.address} is already up")
        return board


def down(name: str, report: Reporter) -> None:
    """Keep a board's state and stop it; the next `up` resumes it. A board that is down stays so."""
    with _alone(name, report) as board:
        kept = _read(board.folder)
        if not board.pid or not kept:
            report.note(f"{board.address} is not up")
            return
        boot.keep(board.address, board.folder, boot.PAUSED)
        _write(board.folder, dataclasses.replace(kept, state=boot.PAUSED))


def reset(name: str, report: Reporter) -> VirtualBoard:
    """Throw a board's disk away and start it as it was after its first boot."""
    with _alone(name, report) as board:
        boot.stop(board.folder)
        shutil.rmtree(board.folder, ignore_errors=True)
        return _start(board, report, 0)


def power_cut(name: str) -> None:
    """Pull the plug: unwritten data is lost, and the next `up` boots from the disk as it is."""
    board = find(name)
    if not board.pid:
        raise BoardError(
            f"{board.address}: the board is not up", hint=f"demitasse board up {_name(board)}"
        )
    boot.stop(board.folder)


def listing() -> list[VirtualBoard]:
    """Return every virtual board that has a disk, up or down, by name."""
    folders = sorted(file.parent for file in _boards().glob(f"*/{_STATE}"))
    return [_seen(kept.target_id, kept.debian) for folder in folders if (kept := _read(folder))]


def find(name: str) -> VirtualBoard:
    """Return the board of a name, whether it was ever started or not.

    Raises ConfigError for an unknown target or Debian release.
    """
    return _seen(*virtual_name.parse(name))


def ssh_command(name: str, command: Sequence[str] = ()) -> list[str]:
    """Return the command line that logs in to a board; raise BoardError if it is down."""
    board = find(name)
    if not board.port:
        raise BoardError(
            f"{board.address}: the board is not up", hint=f"demitasse board up {_name(board)}"
        )

    way = boot.route(board.address, board.folder, board.port)
    options = ("IdentitiesOnly=yes", f"UserKnownHostsFile={way.known_hosts[0]}", "LogLevel=ERROR")
    return [
        str(openssh.ssh()),
        "-F",
        "none",
        "-i",
        way.identities[0],
        "-p",
        str(way.port),
        *(word for option in options for word in ("-o", option)),
        f"{way.user}@{way.host}",
        *command,
    ]


def connect(address: str, report: Reporter | None = None) -> ssh.SshConnection:
    """Open a connection to `virtual:<target>`. A board that is down is started, and stays up."""

    report = report or Silent()
    with _alone(address, report) as board:
        if not board.pid:
            report.note(f"{board.address} is down: starting it")
            board = _start(board, report, 0)
    assert board.port
    return ssh.dial(boot.route(board.address, board.folder, board.port))


@contextlib.contextmanager
def _alone(name: str, report: Reporter) -> Iterator[VirtualBoard]:
    """Yield a board while no other process starts or stops it."""
    folder = find(name).folder
    with image.locked(folder, report, "another process works on this board"):
        yield find(name)


def _start(board: VirtualBoard, report: Reporter, port: int) -> VirtualBoard:
    made = machine.simulating(target.find(board.target_id))
    version = qemu.verify()
    kept = _read(board.folder) or _fresh(board, made, version, report)
    used = Image(folder=image.cache() / "images" / kept.image)
    if not used.folder.is_dir():
        raise BoardError(
            f"{board.address}: the image that its disk stands on is gone",
            hint=f"demitasse board reset {_name(board)}",
        )
    if kept.machine != machine.state_id(made, used.id, version):
        report.note(f"{board.address}: kept by another QEMU or machine, so it boots from its disk")
        machine.make_device_tree(made, board.folder / boot.DEVICE_TREE)
        kept = dataclasses.replace(kept, machine=machine.state_id(made, used.id, version), state="")

    boot_from = _boot(used, board.folder, port=port, state=kept.state)
    port = boot.start(board.address, board.folder, made, boot_from, report)
    _write(board.folder, dataclasses.replace(kept, state="", port=port))
    return _seen(board.target_id, board.debian)


def _fresh(board: VirtualBoard, made: machine.Machine, version: str, report: Reporter) -> _Kept:
    """Give a board the disk of a freshly booted machine."""
    used = image.obtain(board.debian, report)
    snapshot = _snapshot(made, used, version, report)
    board.folder.mkdir(parents=True, exist_ok=True)
    image.check_space(board.folder, NEEDED_BYTES, "a virtual board's disk")

    for file in (boot.DEVICE_TREE, boot.DISK):
        shutil.copyfile(snapshot / file, board.folder / file)

    kept = _Kept(
        target_id=board.target_id,
        debian=board.debian,
        image=used.id,
        machine=snapshot.name,
        state=boot.READY,
        port=0,
    )
    _write(board.folder, kept)
    return kept


def _snapshot(made: machine.Machine, used: Image, version: str, report: Reporter) -> Path:
    """Return the folder of a freshly booted machine; boot it unless it is there."""
    folder = image.cache() / "machines" / machine.state_id(made, used.id, version)
    with image.locked(folder, report, "its snapshot is being taken by another process"):
        if not folder.is_dir():
            _take(made, used, folder, report)
    return folder


def _take(made: machine.Machine, used: Image, folder: Path, report: Reporter) -> None:
    part = folder.with_name(f"{folder.name}.part")
    name = "first boot"
    boot.stop(part)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    image.check_space(part, NEEDED_BYTES, "a snapshot")
    report.note("booting the board for the first time: a minute, once for each kind of board")
    qemu.make_overlay(part / boot.DISK, used.disk)
    machine.make_device_tree(made, part / boot.DEVICE_TREE)

    try:
        port = boot.start(name, part, made, _boot(used, part), report)
        boot.settle(name, part, port)
        boot.keep(name, part, boot.READY)
    except BaseException:
        boot.stop(part)
        raise

    part.rename(folder)


def _boot(used: Image, folder: Path, *, port: int = 0, state: str = "") -> machine.Boot:
    tree = folder / boot.DEVICE_TREE
    return machine.Boot(
        kernel=used.kernel, initramfs=used.initramfs, device_tree=tree, port=port, snapshot=state
    )


def _seen(target_id: str, debian: int) -> VirtualBoard:
    folder = _boards() / f"{target_id}-debian{debian}"
    pid = qmp.process(folder)
    kept = _read(folder)
    port = kept.port if kept and pid else None
    return VirtualBoard(target_id=target_id, debian=debian, folder=folder, pid=pid, port=port)


def _boards() -> Path:
    return Path(platformdirs.user_state_dir("demitasse")) / "boards"


def _name(board: VirtualBoard) -> str:
    return board.address.removeprefix(PREFIX)


def _read(folder: Path) -> _Kept | None:
    """Return what is stored about a board; None if nothing is, or another version stored it."""

    try:
        return _Kept(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(folder: Path, kept: _Kept) -> None:
    part = folder / f".{_STATE}.part"
    part.write_text(json.dumps(dataclasses.asdict(kept), indent=1) + "\n", encoding="utf-8")
    part.replace(folder / _STATE)

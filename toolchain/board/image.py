"""The image of a virtual board: Debian for arm64, a kernel and its initramfs; built once, kept.

Images are named by the digest of their inputs. An image is built beside its final path and moved
there when it is whole: an interrupted build leaves nothing that could be taken for an image.
"""

import contextlib
import fcntl
import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toolchain.board import initramfs, rootfs
from toolchain.errors import BoardError, ToolError
from toolchain.progress import Reporter
from toolchain.tools import apt, mmdebstrap, openssh, qemu

DISK_SIZE = "8G"
"""Size of the disk that the board sees; its sparse file holds only what is used."""
NEEDED_BYTES = 3 << 30
"""Free space that a build needs on the way; about half a gigabyte of it stays used."""
_PHASES = (
    ("running apt-get update", "reading package lists"),
    ("downloading packages", "downloading packages"),
    ("extracting archives", "unpacking the core"),
    ("installing essential", "installing the core"),
    ("installing remaining", "installing packages"),
    ("running --customize-hook", "kernel and disk"),
)
"""Line of mmdebstrap at the begin of a phase → name of the phase as we show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image: files in one folder."""

    folder: Path

    @property
    def id(self) -> str:
        """Digest of the inputs."""
        return self.folder.name

    @property
    def kernel(self) -> Path:
        """Path to the kernel."""
        return self.folder / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """Path to the first file system."""
        return self.folder / "initramfs"

    @property
    def disk(self) -> Path:
        """Path to the disk that every board's disk begins as; never written."""
        return self.folder / "disk.qcow2"


def cache() -> Path:
    """Return the folder of everything that can be rebuilt."""
    return Path(platformdirs.user_cache_dir("demitasse")) / "virtual"


def host_key() -> Path:
    """Return the private host key of this user's virtual boards; `.pub` is beside it."""
    return _key("host")


def user_key() -> Path:
    """Return the private key that logs in to this user's virtual boards; `.pub` is beside it."""
    return _key("user")


def obtain(debian: int, report: Reporter) -> Image:
    """Return the image of a Debian release; build it, which takes minutes, unless it is there.

    Raises ToolError for a missing tool, BoardError for a full disk.
    """
    folder = place(debian)
    if not folder.is_dir():
        with locked(folder, report, "the image is being built by another process"):
            if not folder.is_dir():
                _build(debian, folder, report)
    return Image(folder=folder)


@contextlib.contextmanager
def locked(folder: Path, report: Reporter, meanwhile: str) -> Iterator[None]:
    """Hold the lock of `folder` within this block; tell what the others do if we must wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.note(f"{meanwhile}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise BoardError if there are fewer free bytes than needed on a folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise BoardError(
            f"{folder}: {purpose} takes {needed_bytes >> 20:,} MB, {free >> 20:,} MB are free",
            hint="make room, or set XDG_CACHE_HOME and XDG_STATE_HOME to a larger disk",
        )


def _build(debian: int, folder: Path, report: Reporter) -> None:
    _verify()
    check_space(folder.parent, NEEDED_BYTES, "building the image")
    part = folder.with_name(f"{folder.name}.part")
    mmdebstrap.remove(part)
    part.mkdir()
    report.note(
        f"building the image of a virtual board (Debian {debian} for arm64): once, some ten minutes"
    )

    try:
        _make(debian, part, folder.with_name("build.log"), report)
        whole = part / "whole"
        whole.rename(folder)
    finally:
        mmdebstrap.remove(part)


def _make(debian: int, part: Path, log: Path, report: Reporter) -> None:
    (part / "overlay.tar").write_bytes(rootfs.overlay(host_key(), user_key()))
    hook = f'sh {shlex.quote(str(rootfs.CUSTOMISE))} "$1" {shlex.quote(str(part))} {DISK_SIZE}'
    order = mmdebstrap.Order(
        suite=rootfs.SUITES[debian], packages=rootfs.PACKAGES, hook=hook, work=part
    )
    mmdebstrap.build(order, log, _Phases(report).hear)
    image = Image(folder=part / "whole")
    image.folder.mkdir()
    shutil.copyfile(part / "vmlinuz", image.kernel)
    image.initramfs.write_bytes(initramfs.build(part / "busybox", part / "modules"))
    qemu.to_qcow2(part / "disk.ext4", image.disk)
    report.step("image", len(_PHASES) + 1, len(_PHASES) + 1, "steps")


def _verify() -> None:
    if missing := [*qemu.missing_packages(), *mmdebstrap.missing_packages()]:
        raise ToolError(
            f"the image of a virtual board cannot be built without {', '.join(missing)}",
            hint=apt.install_line(missing),
        )


class _Phases:
    """Translates mmdebstrap's lines into progress steps."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._phase = 0

    def hear(self, line: str) -> None:
        """Read one line."""
        begun = [
            number
            for number, (sign, _) in enumerate(_PHASES)
            if line.startswith("I: ") and sign in line
        ]
        self._phase = max([self._phase, *begun])
        package = re.match(r"(?:Unpacking|Setting up|Get:\d+ \S+ \S+ \S+) ([a-z0-9][^\s:]*)", line)
        if begun or package:
            what = f"{_PHASES[self._phase][1]} {package[1] if package else ''}".strip()
            self._report.step("image", self._phase, len(_PHASES) + 1, "steps", what)


def place(debian: int) -> Path:
    """Return the folder where the image of a Debian release is, or will be."""
    parts = {
        "suite": rootfs.SUITES[debian],
        "packages": rootfs.PACKAGES,
        "size": DISK_SIZE,
        "customise": rootfs.CUSTOMISE.read_text(encoding="utf-8"),
        "files": hashlib.sha256(rootfs.overlay(host_key(), user_key())).hexdigest(),
        "first": initramfs.INIT,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache() / "images" / f"debian{debian}-{digest[:16]}"


def _key(name: str) -> Path:
    path = cache() / "keys" / name
    openssh.make_key(path, f"demitasse virtual board {name}")
    return path

"""Content of a virtual board's disk: Debian packages, and the few files that make it answer.

User `pi` has no root rights. What only root may do on a board (set the clock, slow the link) goes
through QEMU's guest agent.
"""

import io
import tarfile
from pathlib import Path

SUITES = {12: "bookworm", 13: "trixie"}
"""Debian release → suite: the two that Raspberry Pi OS is made from."""
DEFAULT_DEBIAN = 12
PACKAGES = (
    "busybox-static",
    "dbus",
    "dbus-user-session",
    "e2fsprogs",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "openssh-client",
    "openssh-server",
    "passwd",
    "procps",
    "python3",
    "qemu-guest-agent",
    "systemd",
    "systemd-sysv",
    "udev",
)
USER = "pi"
CUSTOMISE = Path(__file__).with_name("customise.sh")
_IDLE_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
    "getty@tty1.service",
    "serial-getty@ttyAMA0.service",
    "systemd-firstboot.service",
)
"""Units that would only slow an emulated processor down."""
_FILES = {
    "etc/hostname": "board\n",
    "etc/hosts": "127.0.0.1 localhost board\n",
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 0\n",
    "etc/machine-id": "d0000000000000000000000000000de3\n",
    "etc/systemd/network/10-board.network": (
        "[Match]\nName=en* eth*\n"
        "[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    ),
    "etc/systemd/journald.conf.d/board.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\n",
    "etc/ssh/sshd_config.d/board.conf": (
        "HostKey /etc/ssh/ssh_host_ed25519_key\nAllowUsers pi\n"
        "PasswordAuthentication no\nUseDNS no\nMaxSessions 32\n"
        "AuthorizedKeysFile /etc/ssh/board_authorized_keys\n"
    ),
    "var/lib/systemd/linger/pi": "",
}


def overlay(host_key: Path, user_key: Path) -> bytes:
    """Return a tar of the files that are laid over the packages.

    They are settings, the host key, and the public key that logs in as `pi`.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in _FILES.items():
            _add(tar, name, text.encode(), 0o644)
        _add(tar, "etc/ssh/ssh_host_ed25519_key", host_key.read_bytes(), 0o600)
        _add(
            tar,
            "etc/ssh/ssh_host_ed25519_key.pub",
            host_key.with_suffix(".pub").read_bytes(),
            0o644,
        )
        _add(tar, "etc/ssh/board_authorized_keys", user_key.with_suffix(".pub").read_bytes(), 0o644)
        for unit in _IDLE_UNITS:
            _link(tar, f"etc/systemd/system/{unit}", "/dev/null")
        _link(
            tar,
            "etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
            "/lib/systemd/system/systemd-networkd.service",
        )

    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(content))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.SYMTYPE
    entry.linkname = target
    tar.addfile(entry)

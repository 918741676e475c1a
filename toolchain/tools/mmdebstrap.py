"""mmdebstrap: a Debian root folder from packages, for a foreign processor too, without root.

The only module that calls mmdebstrap. It runs in namespaces of its own: its mounts and
registrations end with it, however it ends. Packages come from the mirrors that apt on this computer
uses; on a computer that is no Debian, from mmdebstrap's own choice.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolError
from toolchain.tools import apt

PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "mke2fs": "e2fsprogs",
    "newuidmap": "uidmap",
}
"""program → Debian package; `newuidmap` is needed only by callers other than root."""
_PATH = os.defpath + ":/usr/sbin:/sbin"
_BINFMT = "/proc/sys/fs/binfmt_misc"
ENDS_WITH_US = """
exec 3<&0
trap 'exit 143' TERM
{ cat <&3 >/dev/null; kill $$; } &
"$@" </dev/null 3<&- &
wait $!
"""
# The first process of a namespace takes all others along when it ends.
"""Runs a program until it ends or our end of its input is closed."""
_RUNS_ARM64 = f"""
if [ "$(uname -m)" != aarch64 ] && [ ! -e {_BINFMT}/qemu-aarch64 ]; then
    mount -t binfmt_misc binfmt_misc {_BINFMT} 2>/dev/null || true
    [ -e {_BINFMT}/qemu-aarch64 ] \\
        || cat /usr/lib/binfmt.d/qemu-aarch64.conf >{_BINFMT}/register || exit 88
fi
"""
# Since Linux 6.7 a user namespace has a list of its own; root may always.
"""Lets arm64 programs run in this namespace."""
_NO_BINFMT = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A root folder to build."""

    suite: str
    packages: tuple[str, ...]
    hook: str
    """Shell command that runs on the finished root folder, which is its `$1`."""
    work: Path
    """Folder for all intermediate files."""


def missing_packages() -> list[str]:
    """Return the Debian packages that an image build needs and that are not installed."""
    native = platform.machine() == "aarch64"
    needed = [name for name in PACKAGES if not (name == "newuidmap" and os.geteuid() == 0)]
    needed = [name for name in needed if not (name == "qemu-aarch64-static" and native)]
    return [
        PACKAGES[name]
        for name in needed
        if not shutil.which(name) and not shutil.which(name, path=_PATH)
    ]


def build(order: Order, log: Path, say: Callable[[str], None]) -> None:
    """Build a root folder and run the hook on it.

    `say` gets every line. Only the hook writes outside of `order.work`. Raises ToolError with the
    end of the log if it fails.
    """
    command = [*namespace(), *command_line(order, apt.sources(order.suite))]
    environment = {
        **os.environ,
        "TMPDIR": str(order.work),
        "PATH": f"{os.environ.get('PATH', '')}:{_PATH}",
        "LC_ALL": "C.UTF-8",
    }
    settings = order.work / "apt.conf"
    settings.write_text(apt.settings(), encoding="utf-8")
    last = [""]

    with (
        log.open("w", encoding="utf-8", buffering=1) as kept,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            errors="replace",
        ) as running,
    ):
        assert running.stdin and running.stdout
        with running.stdin:
            for line in running.stdout:
                kept.write(line)
                last = [*last[-5:], line.strip()]
                say(line.strip())

    if running.returncode:
        raise _failed(running.returncode, last, log)


def remove(folder: Path) -> None:
    """Remove a folder that may hold files of the namespace's other user ids."""
    if folder.exists():
        remover = [*namespace(), "rm", "-rf", "--one-file-system", str(folder)]
        with subprocess.Popen(remover, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
            running.wait()
        shutil.rmtree(folder, ignore_errors=True)


def namespace() -> list[str]:
    """Return the prefix of a command that runs as root, with mounts and processes of its own."""
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--map-root-user", "--map-auto"]
    return [*unshare, "sh", "-c", _RUNS_ARM64 + ENDS_WITH_US, "sh"]


def command_line(order: Order, lines: Sequence[str]) -> list[str]:
    """Return mmdebstrap's command line; `lines` are apt sources, empty: its own for the suite."""
    without = ("man", "doc", "locale", "info")
    return [
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        "--format=null",
        "--variant=minbase",
        "--arch=arm64",
        "--skip=check/qemu,cleanup",
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        f"--include={','.join(order.packages)}",
        f"--aptopt={order.work / 'apt.conf'}",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in without),
        "--dpkgopt=force-unsafe-io",
        f"--customize-hook={order.hook}",
        order.suite,
        "/dev/null",
        *lines,
    ]


def _failed(code: int, last: Sequence[str], log: Path) -> ToolError:
    if code == _NO_BINFMT:
        return ToolError(
            "arm64 programs cannot run on this computer while the image is built",
            hint="once, as root: "
            "sudo apt-get install binfmt-support && sudo update-binfmts --enable qemu-aarch64",
        )
    if any("unshare failed" in line or "newuidmap" in line for line in last):
        return ToolError(
            f"the image cannot be built as this user: {last[-1]}",
            hint="this user needs user namespaces and a line in /etc/subuid and /etc/subgid; "
            "or build it once as root",
        )

    reason = next((line for line in reversed(last) if line.startswith("E:")), last[-1])
    return ToolError(f"the image was not built: {reason}", hint=f"the whole log is {log}")

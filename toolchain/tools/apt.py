"""apt on this computer: its Debian mirrors and their settings, and the line that installs packages.

The only module that calls `apt-get` and `apt-config`; it never installs anything itself.
"""

import shutil
import subprocess
from collections.abc import Sequence

_SETTINGS = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
)
"""Parts of apt's settings that decide whether a mirror can be used."""


def install_line(packages: Sequence[str]) -> str:
    """Return the command that installs Debian packages."""
    return (
        f"sudo apt-get update && sudo apt-get install --no-install-recommends {' '.join(packages)}"
    )


def sources(suite: str) -> list[str]:
    """Return sources.list's lines for a Debian suite, from the mirrors that apt uses here.

    Empty if apt uses no mirror of Debian.
    """
    fields = "$(LABEL) $(COMPONENT) $(REPO_URI)"
    return sources_from(
        _output("apt-get", "indextargets", "--format", fields, "Created-By: Packages"), suite
    )


def sources_from(listed: str, suite: str) -> list[str]:
    """Return sources.list's lines for a suite.

    `listed` has rows of label, component and address, as `apt-get indextargets` prints them.
    """
    rows = [line.split() for line in listed.splitlines()]
    mirrors = {row[0]: row[2] for row in reversed(rows) if len(row) == 3 and row[1] == "main"}
    if "Debian" not in mirrors:
        return []

    lines = [f"deb {mirrors['Debian']} {suite}{part} main" for part in ("", "-updates")]
    if "Debian-Security" in mirrors:
        lines.append(f"deb {mirrors['Debian-Security']} {suite}-security main")
    return lines


def settings() -> str:
    """Return apt's settings for its mirrors, as a configuration file."""
    dumped = _output("apt-config", "dump", "--format", '%F "%v";%n', *_SETTINGS).splitlines()
    return (
        "\n".join(
            ['Acquire::Languages "none";', *(line for line in dumped if not line.endswith(' "";'))]
        )
        + "\n"
    )


def _output(*command: str) -> str:
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout

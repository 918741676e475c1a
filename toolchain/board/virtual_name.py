"""Names of virtual boards: a target, and a Debian release that its image has.

Read without QEMU's modules: a fleet's addresses are checked before any board is reached.
"""

from toolchain import target
from toolchain.board.kind import VIRTUAL_PREFIX
from toolchain.board.rootfs import DEFAULT_DEBIAN, SUITES
from toolchain.errors import ConfigError


def parse(name: str) -> tuple[str, int]:
    """Return the target's id and the Debian release of a virtual board's name or address.

    Raise ConfigError for an unknown target or release.
    """
    target_id, _, release = name.removeprefix(VIRTUAL_PREFIX).partition(":")
    target_id = target.find(target_id).id
    debian = int(release) if release.isdigit() else DEFAULT_DEBIAN if not release else 0
    if debian not in SUITES:
        offered = " or ".join(map(str, SUITES))
        raise ConfigError(
            f"{name}: `{release}` is not a Debian release",
            hint=f"a board may have Debian {offered}: {VIRTUAL_PREFIX}{target_id}:13",
        )
    return target_id, debian

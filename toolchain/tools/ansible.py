"""`ansible-inventory` (Ansible): the hosts of an inventory of any kind, as Ansible reads it."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError, ConfigError, ToolError

PROGRAM = "ansible-inventory"
TIMEOUT_S = 120.0
_OF_ALL = ("all", "ungrouped")
"""Groups that every inventory has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host, with how to log in to it."""

    address: str
    """`user@host:port`, without the parts that the inventory does not say."""
    groups: tuple[str, ...]


def verify() -> str:
    """Return the path of the program; raise ToolError if it is not installed."""
    found = shutil.which(PROGRAM)
    if not found:
        raise ToolError(
            f"`{PROGRAM}` is not installed, and an Ansible inventory is read by it alone",
            hint="python3 -m pip install ansible-core",
        )
    return found


def hosts(inventory: Path) -> list[Host]:
    """Return the hosts of an inventory in its own order, each once."""
    if not inventory.exists():
        raise ConfigError(f"{inventory}: no such inventory")
    try:
        done = subprocess.run(
            [verify(), "-i", str(inventory), "--list"],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"`{PROGRAM}` said nothing in {TIMEOUT_S:.0f} s") from error
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode != 0:
        last = said[-1] if said else f"exit status {done.returncode}"
        raise ArtifactError(f"{inventory}: `{PROGRAM}` cannot read it: {last}")
    try:
        listed = json.loads(done.stdout)
    except ValueError as error:
        raise ArtifactError(f"{inventory}: `{PROGRAM}` did not print JSON") from error
    try:
        return _hosts(listed)
    except ArtifactError as error:
        raise ArtifactError(f"{inventory}: {error.message}", hint=error.hint) from error


def _hosts(listed: Mapping[str, Any]) -> list[Host]:
    """Return the hosts of what `--list` printed: groups of `hosts` and `children`, and variables.

    Source: docs.ansible.com, developing dynamic inventory, "Inventory script conventions".
    """
    variables = listed.get("_meta", {}).get("hostvars", {})
    order: dict[str, set[str]] = {}
    for group, about in listed.items():
        if group == "_meta":
            continue
        for host in about.get("hosts", ()):
            order.setdefault(host, set()).update(_with_parents(listed, group))
    return [
        Host(address=_address(name, variables.get(name, {})), groups=tuple(sorted(groups)))
        for name, groups in order.items()
    ]


def _with_parents(listed: Mapping[str, Any], group: str) -> set[str]:
    """Return a group and all groups that it is a child of, but those that all hosts are in."""
    found, waiting = set[str](), [group]
    while waiting:
        each = waiting.pop()
        if each in found or each in _OF_ALL:
            continue
        found.add(each)
        waiting += [
            name
            for name, about in listed.items()
            if name != "_meta" and each in about.get("children", ())
        ]
    return found


def _address(name: str, variables: Mapping[str, Any]) -> str:
    """Return how to log in to a host; raise ArtifactError for a value that is not known here."""
    for each in ("ansible_host", "ansible_user", "ansible_port"):
        if "{{" in str(variables.get(each)):
            raise ArtifactError(
                f"{name}: `{each}` is a template, which `{PROGRAM}` does not fill in",
                hint="write the value itself into the inventory",
            )
    host = str(variables.get("ansible_host") or name)
    user, port = variables.get("ansible_user"), variables.get("ansible_port")
    host = f"[{host}]" if ":" in host and port else host
    return f"{f'{user}@' if user else ''}{host}{f':{port}' if port else ''}"

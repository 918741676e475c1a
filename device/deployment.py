"""A deployment: how a release is run, and the check of a stored one."""

from dataclasses import dataclass
from typing import Any

from device.manifest import ManifestError, checked_digest

SERVICES = ("systemd", "supervised")


@dataclass(frozen=True)
class Deployment:
    """How a release is run."""

    release: str
    runtime: str
    port: int
    service: str
    """`systemd` or `supervised`."""
    unsigned: bool = False
    """Whether it may run without a signature."""
    host_names: tuple[str, ...] = ()
    """Host names of the service besides its addresses and the board's own name."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the service."""


def read_deployment(fields: dict[str, Any]) -> Deployment | None:
    """Return the deployment in fields of a file; None if a field is missing or impossible."""
    known: dict[str, Any] = {
        name: fields[name] for name in Deployment.__dataclass_fields__ if name in fields
    }
    try:
        for name in ("host_names", "cors_origins"):
            known[name] = tuple(known.get(name, ()))
        deployment = Deployment(**known)
        for digest in (deployment.release, deployment.runtime):
            checked_digest(digest)
    except (ManifestError, TypeError):
        return None

    sound = (
        type(deployment.port) is int
        and 0 < deployment.port < 1 << 16
        and deployment.service in SERVICES
        and isinstance(deployment.unsigned, bool)
        and all(isinstance(each, str) for each in deployment.host_names)
        and all(isinstance(each, str) for each in deployment.cors_origins)
    )
    return deployment if sound else None

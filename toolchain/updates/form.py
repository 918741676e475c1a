"""What all forms of an update share: the parcel that travels, and the folder that is made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from device.manifest.update import (
    RELEASE_CARGO,
    RUNTIME_CARGO,
    UPDATE,
    Update,
    update_bytes,
)
from toolchain.artifacts import Artifact
from toolchain.cargo import Cargo
from toolchain.figures import StageFigures
from toolchain.updates.cargo import chunks, size_bytes
from toolchain.updates.tar import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A release that leaves as an update."""

    update: Update
    release: Cargo
    runtime: Cargo | None
    """None: boards must hold it already."""
    device_types: tuple[str, ...]
    """Kinds of device that the update server may send it to."""

    @property
    def name(self) -> str:
        """Name of the update, fit for a file's name."""
        plain = f"{self.update.name}-{self.update.version}"
        return "".join(each if each.isalnum() or each in "._-" else "-" for each in plain)

    def members(self) -> list[Member]:
        """Return the files of the update, the smallest first."""
        cargos = {RUNTIME_CARGO: self.runtime, RELEASE_CARGO: self.release}
        return [
            Member.of(UPDATE, update_bytes(self.update)),
            *(
                Member(name=name, size=size_bytes(cargo), chunks=partial(chunks, cargo))
                for name, cargo in cargos.items()
                if cargo
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateFigures(StageFigures):
    """What an update is."""

    release: str
    runtime: str
    carries_runtime: bool
    update_bytes: int
    """Bytes that a board fetches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving(Artifact):
    """A folder with an update for an update server, and the program that boards install it with."""

    @property
    def figures(self) -> UpdateFigures:
        """What the update is."""
        return UpdateFigures.read(self.record.figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One update server's form: a row of `FORMS`."""

    shell: str
    """Lines of the board's installer before the agent."""
    program: str
    """Name of the installer's file."""
    fill: Callable[[Parcel, Path], None]
    """Writes what is handed to the update server into a folder."""

"""Exports: a recipe's checkpoint with what another runtime's own tools need to take it from there.

The other runtime is neither built nor run here. Each export says in its README what was tried.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import Checkpoint
from toolchain.export import edge_llm
from toolchain.export.folder import Export, Model
from toolchain.progress import Reporter
from toolchain.target import Target

__all__ = ["DOORS", "Door", "Export", "Model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One runtime that a checkpoint is exported for: a row of `DOORS`."""

    check: Callable[[Target], None]
    """Raises FitError for a board that the runtime is not for."""
    export: Callable[[Checkpoint, Model, Path, Reporter], Export]
    """Checkpoint, what is known of the model, folder, reporter → the folder that travels."""


DOORS: Mapping[str, Door] = {
    edge_llm.NAME: Door(check=edge_llm.check, export=edge_llm.export),
}
"""Name of a runtime in `export --for` → its row."""

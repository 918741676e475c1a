"""The settings that a release runs with on this board, found by `calibrate` and kept beside the store's releases.

    tuned/<release>.json   the settings and the evidence for them

Everything that opens a release's model opens it with these; a release that was never calibrated runs with the engine's own.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from device.disk import make_folder, read_json, remove, write_json
from device.engine.base import FieldError, Settings
from device.store import tuned_of

CHOSEN = ("threads", "threads_batch", "cpus", "batch", "flash", "mmap", "kv_type")
"""The settings that a board decides; all others are the release's."""


def apply(bundle: Path, settings: Settings) -> Settings:
    """Return a release's settings as this board runs them; what cannot be read is as if it were not there."""
    try:
        kept = (read(bundle) or {}).get("settings", {})
        known = {name: kept[name] for name in CHOSEN if name in kept}
        return replace(settings, **{**known, "cpus": tuple(known.get("cpus", ()))})
    except (FieldError, TypeError, ValueError, AttributeError):
        return settings


def read(bundle: Path) -> "dict[str, Any] | None":
    """Return what was kept for a release: its settings and their evidence."""
    file = tuned_of(bundle)
    return read_json(file) if file else None


def write(bundle: Path, found: "dict[str, Any] | None") -> None:
    """Keep what `read` returned or a search found, instead of what was there; None runs the release with the engine's own again."""
    file = tuned_of(bundle)
    assert file, "only a release of a store is calibrated"
    make_folder(file.parent)
    if found:
        write_json(file, found)
    else:
        remove(file)

"""The settings of a release on this board, found by `calibrate` and kept in the store.

    tuned/<release>.json   the settings and the evidence for them

Everything that opens a release's model uses them. A release that was never calibrated runs with the
engine's defaults.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from device.disk import make_folder, read_json, remove, write_json
from device.engine.base import FieldError, Settings
from device.store import tuned_of

CHOSEN = ("threads", "threads_batch", "cpus", "batch", "flash", "mmap", "kv_type")
"""Settings that a board decides; all others are the release's."""


def apply(bundle: Path, settings: Settings) -> Settings:
    """Return a release's settings with this board's changes.

    A file that cannot be read is ignored.
    """
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
    """Keep settings and evidence of a release in place of earlier ones.

    None makes the release run with the engine's defaults again.
    """
    file = tuned_of(bundle)
    assert file, "only a release of a store is calibrated"
    make_folder(file.parent)
    if found:
        write_json(file, found)
    else:
        remove(file)

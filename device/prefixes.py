"""Saved prefixes on the disk: a conversation's beginning is read once and restored at each start.

    prefixes/<release>/<name>.state  what the engine saved; the name is a digest of all it needs
    prefixes/<release>/<name>.json   its size and sha256, written last: the store's own record

The rule: an engine is only given bytes that it saved itself. They are hashed here first, whatever
the file's name says, because llama.cpp ends the process on some states and accepts others that are
wrong.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from device import disk
from device.disk import make_folder, read_json, remove, write_json, write_new
from device.manifest import RUNTIME_MANIFEST, read_bounded, read_runtime
from device.model import Model
from device.store import prefixes_of

MAX_STATE_BYTES = 256 << 20
"""Maximum size of a saved state."""
# Four times the largest prefix cache in memory (manifest.memory.prefix_cache_bytes).


def prepare(model: Model, bundle: Path) -> bool:
    """Bring the prefix of a model's conversations into memory.

    Return whether it came from the disk.

    A state that is missing, damaged, or from another runtime is made by the model and written. A
    full disk is not an error, and a bundle outside of a store has no states.
    """
    engine = model.engine
    prefix = model.prefix()
    folder = prefixes_of(bundle)
    if not folder or not prefix or not engine.state_kind or len(prefix) >= engine.context:
        return False

    file = folder / f"{_name(engine.state_kind, prefix)}.state"
    if (state := _recorded(file)) and engine.restore(prefix, state):
        return True

    if not (state := engine.save(prefix)):
        print(
            f"the state of the prefix ({len(prefix)} tokens) is larger than the memory for states",
            file=sys.stderr,
            flush=True,
        )
    elif engine.restore(prefix, state):
        _keep(file, state)

    return False


def _name(kind: str, prefix: tuple[int, ...]) -> str:
    here = Path(__file__).resolve().parent.parent
    runtime = read_runtime(here).runtime_id() if (here / RUNTIME_MANIFEST).is_file() else ""
    return sha256(json.dumps([runtime, kind, prefix]).encode()).hexdigest()


def is_recorded(file: Path) -> bool:
    """Say whether a state matches its record."""
    return bool(_recorded(file))


def _recorded(file: Path) -> bytes:
    """Return a state's bytes; empty if they do not match its record."""
    record: dict[str, Any] = read_json(file.with_suffix(".json")) or {}
    state = read_bounded(file, MAX_STATE_BYTES) or b""
    return state if sha256(state).hexdigest() == record.get("sha256") else b""


def _keep(file: Path, state: bytes) -> None:
    """Write a state and then its record, in place of all others of this release."""
    try:
        remove(file.parent)
        make_folder(file.parent)
        part = file.with_suffix(".part")
        write_new(part, state)
        disk.replace(part, file)
        write_json(
            file.with_suffix(".json"), {"size": len(state), "sha256": sha256(state).hexdigest()}
        )
    except OSError as error:
        print(f"the state of the prefix is not kept: {error}", file=sys.stderr, flush=True)

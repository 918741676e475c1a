"""The state of a release's lead on the disk: what every conversation begins with is read once, and restored ever after.

    leads/<release>/<name>.state   what the engine saved; the name says what it depends on
    leads/<release>/<name>.json    its size and sha256, written last: the store's own record of it

The rule: an engine is only given bytes that it saved itself. They are hashed here before, whatever the file's name says, because
llama.cpp ends the process on some states and believes others that are wrong.
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
from device.store import leads_of

MAX_STATE_BYTES = 256 << 20
"""Four times what states may take in memory (manifest.memory.shelf_bytes)."""


def prepare(model: Model, bundle: Path) -> bool:
    """Have the lead of a model's conversations in memory, from the disk where its state is there; return whether it was.

    What is not there, or damaged, or of another runtime, is read by the model and put there. A disk that takes nothing is no fault,
    and a bundle outside of a store has no states.
    """
    engine, lead, folder = model.engine, model.lead(), leads_of(bundle)
    if not folder or not lead or not engine.state_kind or len(lead) >= engine.context:
        return False
    file = folder / f"{_name(engine.state_kind, lead)}.state"
    if (state := _recorded(file)) and engine.restore(lead, state):
        return True
    if not (state := engine.save(lead)):
        print(
            f"the state of the lead ({len(lead)} tokens) is larger than the memory for states",
            file=sys.stderr,
            flush=True,
        )
    elif engine.restore(lead, state):
        _keep(file, state)
    return False


def _name(kind: str, lead: tuple[int, ...]) -> str:
    here = Path(__file__).resolve().parent.parent
    runtime = read_runtime(here).runtime_id() if (here / RUNTIME_MANIFEST).is_file() else ""
    return sha256(json.dumps([runtime, kind, lead]).encode()).hexdigest()


def is_recorded(file: Path) -> bool:
    """Say whether a state is that of its record."""
    return bool(_recorded(file))


def _recorded(file: Path) -> bytes:
    """Return a state's bytes if they are those of its record."""
    record: dict[str, Any] = read_json(file.with_suffix(".json")) or {}
    state = read_bounded(file, MAX_STATE_BYTES) or b""
    return state if sha256(state).hexdigest() == record.get("sha256") else b""


def _keep(file: Path, state: bytes) -> None:
    """Write a state and then its record, instead of all others of this release."""
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
        print(f"the state of the lead is not kept: {error}", file=sys.stderr, flush=True)

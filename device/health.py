"""How a release proves itself: how long it may take, how fast it must be, and the note of why one was refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from device import disk
from device.errors import DeviceError
from device.manifest import GOLDENS, Manifest
from device.store import Deployment, Store

CHECK_S, HEALTH_S = 900.0, 300.0
"""The longest that a check and a start may take on any board."""
START_S = 45.0
"""Until the modules are compiled (device/child.py) and the service listens, on the slowest board: a Pi Zero 2 W."""
READ_BYTES_S = 8 << 20
"""A slow card."""
DECODE_BYTES_S = 200 << 20
"""A slow board reads the weights so fast, once a token."""
TOKEN_BYTES = 4
"""Of goldens.jsonl for each token that is computed, or more."""
SLOWEST = 0.7
"""Share of the expected speed."""
ALIKE = 2.0
"""Models whose sizes differ by more than this factor do not tell of each other's speed."""
REFUSED = "refused.json"


def check_limit_s(store: Store, release: str) -> float:
    """Return how long the check of a release may take: by its size, so that one that hangs is soon taken back."""
    manifest = store.read_release(release)
    tokens = manifest.file(GOLDENS).size / TOKEN_BYTES
    return round(
        min(
            CHECK_S,
            start_limit_s(store, release)
            + tokens * max(0.02, _model_bytes(manifest) / DECODE_BYTES_S),
        )
    )


def start_limit_s(store: Store, release: str) -> float:
    """Return how long a release may take until it answers."""
    return round(min(HEALTH_S, START_S + _model_bytes(store.read_release(release)) / READ_BYTES_S))


def measured(
    store: Store, wanted: Deployment, checked: dict[str, Any], unjudged: str
) -> dict[str, Any]:
    """Return the speed that a check saw beside the one expected of it; `unjudged` says why it is not to be judged."""
    size = _model_bytes(store.read_release(wanted.release))
    rate, before = float(checked.get("decode_tok_s", 0.0)), _noted(store)
    seen: dict[str, Any] = {"decode_tok_s": rate, "model_bytes": size}
    last, last_size = before.get("decode_tok_s", 0.0), before.get("model_bytes", 0.0)
    if not unjudged and not rate:
        unjudged = "its check measures no speed"
    if not unjudged and (not last or not 1 / ALIKE <= last_size / size <= ALIKE):
        unjudged = "no model of its size ran here before"
    return (
        dict(seen, unjudged=unjudged)
        if unjudged
        else dict(seen, expected_tok_s=round(last * last_size / size, 2))
    )


def _noted(store: Store) -> dict[str, float]:
    """Return the numbers that were measured at the last commit."""
    noted = store.state().get("measured")
    numbers = noted.items() if isinstance(noted, dict) else ()
    return {name: float(value) for name, value in numbers if type(value) in (int, float)}


def is_slow(seen: dict[str, Any]) -> bool:
    """Say whether a measured speed is too far below the expected one."""
    return "expected_tok_s" in seen and seen["decode_tok_s"] < SLOWEST * seen["expected_tok_s"]


def too_slow(seen: dict[str, Any]) -> DeviceError:
    """Return the error of a release that is slower than it must be."""
    rate, expected = seen["decode_tok_s"], seen["expected_tok_s"]
    message = f"it decodes {rate:.1f} tokens/s, by the release before {expected:.1f} are expected here, {SLOWEST:.0%} asked"
    return DeviceError(
        "unhealthy", message, "look at the board's temperature, power supply and other programs"
    )


def note_refusal(store: Store, wanted: Deployment, code: str, reason: str) -> None:
    """Keep why a release was not taken, for `status`."""
    with suppress(OSError):
        manifest = store.read_release(wanted.release)
        said = {
            "release": wanted.release,
            "name": manifest.name,
            "version": manifest.version,
            "code": code,
            "reason": reason,
        }
        disk.write_note(_refused(store), said)


def forget_refusal(store: Store) -> None:
    """A release was taken: why another was not is no news any more."""
    with suppress(OSError):
        disk.remove(_refused(store))


def refusal(store: Store) -> "dict[str, Any] | None":
    """Return why the last activation was refused, None if it was not."""
    return disk.read_json(_refused(store))


def _refused(store: Store) -> Path:
    return store.root / "run" / REFUSED


def _model_bytes(manifest: Manifest) -> int:
    return max(1, manifest.file(manifest.model).size)

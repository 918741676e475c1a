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
ALIKE = 1.5
"""Models whose sizes differ by more than this factor do not tell of each other's speed."""
CALM_SHARE = 0.05
"""Share of the processors that other programs may take while a speed is measured that is compared: a fifth of one core of four, on
which the thread that shares it makes the others wait."""
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
    """Return the speed that a check saw, and the one expected of it or why it is not to be judged (`unjudged`).

    It is judged by the last speed that was measured here while nothing else worked on the board, of a model of the same engine and
    about the same size. Kept for the next release: this speed if it is such a one, else the one before.
    """
    seen, before = _seen(store, wanted, checked), _noted(store.state().get("measured"))
    calm = before if _is_calm(before) else before.get("calm") or {}
    reason = unjudged or _unjudged(seen, before, calm)
    seen["calm"] = {} if _is_calm(seen) else {key: calm[key] for key in calm if key != "calm"}
    if reason:
        return dict(seen, unjudged=reason)
    # A smaller file may well be no faster: with fewer bits it has more to unpack. It must not be slower.
    share = min(1.0, calm["model_bytes"] / seen["model_bytes"])
    return dict(seen, expected_tok_s=round(calm["decode_tok_s"] * share, 2))


def _seen(store: Store, wanted: Deployment, checked: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured, and what must be alike for two such figures to be compared."""
    manifest = store.read_release(wanted.release)
    others, throttled = checked.get("others_share"), checked.get("throttled")
    files = [manifest.model, *([manifest.adapter] if manifest.adapter else [])]
    return {
        "decode_tok_s": float(checked.get("decode_tok_s", 0.0)),
        "model_bytes": _model_bytes(manifest),
        "engine": manifest.engine.name,
        "runtime": wanted.runtime,
        "weights": [manifest.file(name).sha256 for name in files],
        "others_share": None if others is None else float(others),
        "throttled": list(throttled or []),
    }


def _is_calm(seen: dict[str, Any]) -> bool:
    """Say whether nothing but the model worked on the board while it was measured."""
    others = seen.get("others_share")
    measured_alone = others is not None and others <= CALM_SHARE and not seen.get("throttled")
    return bool(measured_alone and seen.get("decode_tok_s"))


def _unjudged(seen: dict[str, Any], before: dict[str, Any], calm: dict[str, Any]) -> str:
    """Return why a speed tells nothing of the release; empty where it is to be judged."""
    if not seen["decode_tok_s"]:
        return "its check measures no speed"
    if all(before.get(key) == seen[key] for key in ("weights", "runtime")):
        return "its weights and its runtime are those of the release before"
    if seen["others_share"] is None:
        return "its check does not say whether the board was busy"
    if seen["others_share"] > CALM_SHARE:
        return f"other programs took {seen['others_share']:.0%} of the processors"
    if seen["throttled"]:
        return f"the board is held back: {', '.join(map(str, seen['throttled']))}"
    if not calm:
        return "no model was measured here before while the board was calm"
    if calm.get("engine") != seen["engine"]:
        return f"the release before ran on {calm.get('engine')}"
    if not 1 / ALIKE <= calm["model_bytes"] / seen["model_bytes"] <= ALIKE:
        return "no model of its size was measured here before"
    return ""


_KINDS: "dict[str, tuple[type, ...]]" = {
    "decode_tok_s": (int, float),
    "model_bytes": (int, float),
    "engine": (str,),
    "runtime": (str,),
    "weights": (list,),
    "others_share": (int, float),
    "throttled": (list,),
    "calm": (dict,),
}
"""Types of what `measured` keeps: a store may hold anything, and a note of another type is no note."""


def _noted(noted: Any) -> dict[str, Any]:
    """Return what was measured at the last commit, as far as it is of the right types."""
    fields = noted if isinstance(noted, dict) else {}
    kept = {name: fields[name] for name in _KINDS if type(fields.get(name)) in _KINDS[name]}
    if "calm" in kept:
        calm = _noted(kept["calm"])
        kept["calm"] = calm if {"decode_tok_s", "model_bytes", "engine"} <= calm.keys() else {}
    return kept


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

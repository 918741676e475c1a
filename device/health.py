"""The proof of a release: how long it may take, how fast it must be, and why one was refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from device import disk
from device.errors import DeviceError
from device.manifest import GOLDENS, Manifest
from device.store import Deployment, Store

CHECK_S, HEALTH_S = 900.0, 300.0
"""Longest seconds of a check and of a start on any board."""
START_S = 45.0
"""Seconds until the service listens, on a Pi Zero 2 W."""
# Its Python modules are compiled at each start (device/child.py).
READ_BYTES_S = 8 << 20
"""Bytes per second of a slow card."""
DECODE_BYTES_S = 200 << 20
"""Bytes per second at which a slow board reads the weights, once per token."""
TOKEN_BYTES = 4
"""Bytes of goldens.jsonl per token that is computed, at least."""
SLOWEST = 0.7
"""Minimum share of the expected speed."""
ALIKE = 1.5
"""Speeds are compared only between models whose sizes differ by at most this factor."""
CALM_SHARE = 0.05
"""Share of the processors that other programs may take while a speed is measured."""
# It is a fifth of one core of four; the thread that shares that core makes the others wait.
REFUSED = "refused.json"


def check_limit_s(store: Store, release: str) -> float:
    """Return the seconds that the check of a release may take, by its size."""
    # So one that hangs is soon rolled back.
    manifest = store.read_release(release)
    tokens = manifest.file(GOLDENS).size / TOKEN_BYTES
    return round(
        min(
            CHECK_S,
            start_limit_s(store, release)
            + tokens * max(0.02, _model_bytes(manifest) / DECODE_BYTES_S),
        )
    )


def start_limit_s(store: Store, release: str, readings: int = 1) -> float:
    """Return the seconds that a release may take until it answers.

    Its model is read so many times before: once to load it.
    """
    read_s = readings * _model_bytes(store.read_release(release)) / READ_BYTES_S
    return round(min(HEALTH_S, START_S + read_s))


def measured(
    store: Store, requested: Deployment, checked: dict[str, Any], unjudged: str
) -> dict[str, Any]:
    """Return the speed that a check saw, with the expected speed or the reason not to judge it.

    The expected speed follows from the last speed that was measured here on a calm board, with the
    same engine and a model of about the same size. `calm` keeps that measurement for the next
    release: this one if the board was calm, else the one before.
    """
    seen = _seen(store, requested, checked)
    before = _noted(store.state().get("measured"))
    calm = before if _is_calm(before) else before.get("calm") or {}
    reason = unjudged or _unjudged(seen, before, calm)
    seen["calm"] = {} if _is_calm(seen) else {key: calm[key] for key in calm if key != "calm"}
    if reason:
        return dict(seen, unjudged=reason)

    # A smaller file may not be faster, since fewer bits need more unpacking. It must not be slower.
    share = min(1.0, calm["model_bytes"] / seen["model_bytes"])
    return dict(seen, expected_tok_s=round(calm["decode_tok_s"] * share, 2))


def _seen(store: Store, requested: Deployment, checked: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured, and what must be equal for two measurements to be compared."""
    manifest = store.read_release(requested.release)
    others = checked.get("others_share")
    throttled = checked.get("throttled")
    files = [*manifest.model_files, *filter(None, (manifest.adapter, manifest.projector))]
    return {
        "decode_tok_s": float(checked.get("decode_tok_s", 0.0)),
        "model_bytes": _model_bytes(manifest),
        "engine": manifest.engine.name,
        "runtime": requested.runtime,
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
    """Return why a speed says nothing about the release; empty if it can be judged."""
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
"""Field → types of what `measured` keeps."""
# A store may contain anything; a field of another type is ignored.


def _noted(noted: Any) -> dict[str, Any]:
    """Return what was measured at the last commit, without fields of a wrong type."""
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
    """Return the error of a release that is too slow."""
    rate = seen["decode_tok_s"]
    expected = seen["expected_tok_s"]
    message = (
        f"it decodes {rate:.1f} tokens/s, by the release before {expected:.1f} are expected here, "
        f"{SLOWEST:.0%} asked"
    )
    return DeviceError(
        "unhealthy", message, "look at the board's temperature, power supply and other programs"
    )


def note_refusal(store: Store, requested: Deployment, code: str, reason: str) -> None:
    """Keep why a release was refused, for `status`."""
    with suppress(OSError):
        manifest = store.read_release(requested.release)
        note = {
            "release": requested.release,
            "name": manifest.name,
            "version": manifest.version,
            "code": code,
            "reason": reason,
        }
        disk.write_note(_refused(store), note)


def forget_refusal(store: Store) -> None:
    """Delete the note of a refusal, after a release was accepted."""
    with suppress(OSError):
        disk.remove(_refused(store))


def refusal(store: Store) -> "dict[str, Any] | None":
    """Return why the last activation was refused; None if it was not."""
    return disk.read_json(_refused(store))


def _refused(store: Store) -> Path:
    return store.root / "run" / REFUSED


def _model_bytes(manifest: Manifest) -> int:
    return max(1, sum(manifest.file(path).size for path in manifest.model_files))

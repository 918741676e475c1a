"""Whether a board can run what would be sent. A refusal names the number that failed.

The check comes as early as possible: by the facts before anything is made for the board, then by
the bundle, then by the runtime.
"""

from collections.abc import Mapping
from typing import Any

from device.manifest import Manifest, RuntimeManifest
from toolchain.board.device import check_python
from toolchain.errors import BoardError, FitError
from toolchain.forecast import needs_of_bundle
from toolchain.profiles import profile_of
from toolchain.progress import Reporter
from toolchain.runtime.cross import PAGES
from toolchain.target import Target, fit, recognise

Facts = Mapping[str, Any]
SPARE_DISK_BYTES = 32 << 20
OLDEST_L4T = (36,)
"""Oldest L4T release: JetPack 6, the first with Python 3.10."""


def refuse_board(address: str, facts: Facts) -> None:
    """Raise FitError or BoardError if a board cannot run any release."""
    if facts["userland_bits"] != 64:
        raise FitError(
            f"{address}: the board's system is 32-bit",
            hint="install the 64-bit image of the same system",
        )

    _refuse_old_jetpack(address, facts)
    check_python(address, facts)
    try:
        profile_of(facts["machine"], facts["cpu_features"])
    except FitError as error:
        raise FitError(f"{address}: {error.message}", hint=error.hint) from error

    _refuse_folder(address, facts)


def refuse_bundle(address: str, manifest: Manifest, facts: Facts, coming_bytes: int) -> None:
    """Raise FitError or BoardError if a board cannot run a bundle, whatever the runtime."""
    refuse_board(address, facts)
    _refuse_memory(address, manifest, facts)
    # What people think of answers comes later, and must not fill the disk then.
    needed_bytes = coming_bytes + manifest.feedback_bytes + SPARE_DISK_BYTES
    if needed_bytes > facts["disk_free_bytes"]:
        free = facts["disk_free_bytes"] >> 20
        need = needed_bytes >> 20
        raise BoardError(
            f"{address}: disk full: {need} MB are needed, {free} MB are free",
            hint="make room on the board",
        )


def refuse_unfit(
    address: str, manifest: Manifest, runtime: RuntimeManifest, facts: Facts, coming_bytes: int
) -> None:
    """Raise FitError or BoardError if a board cannot run what would be sent."""
    refuse_bundle(address, manifest, facts, coming_bytes)
    if facts["machine"] != runtime.machine:
        raise FitError(
            f"{address}: the board is `{facts['machine']}`, the runtime is for `{runtime.machine}`"
        )
    if runtime.python_tag and not facts["python_abi"].startswith(
        runtime.python_tag.replace("cp", "cpython-") + "-"
    ):
        hint = "push again: the runtime for the board's Python is made then"
        raise FitError(
            f"{address}: the runtime is for `{runtime.python_tag}`, "
            f"the board has Python {facts['python']}",
            hint=hint,
        )
    if manifest.engine.name not in runtime.engines:
        raise FitError(
            f"{address}: the model runs with {manifest.engine.name}, "
            f"the runtime has {', '.join(runtime.engines)}"
        )
    if lacking := sorted(set(runtime.features) - set(facts["cpu_features"])):
        raise FitError(
            f"{address}: the runtime needs `{'`, `'.join(lacking)}`, "
            "which the board's processor lacks"
        )
    if _version(facts["glibc"]) < _version(runtime.glibc):
        raise FitError(
            f"{address}: the runtime needs glibc {runtime.glibc}, "
            f"the board has {facts['glibc'] or 'none'}"
        )
    _refuse_card(address, runtime, facts)
    if (page := facts.get("page_size_bytes") or 0) > PAGES[runtime.machine]:
        raise FitError(
            f"{address}: the runtime is for pages of at most {PAGES[runtime.machine]} bytes, "
            f"the board has {page}"
        )


def _refuse_card(address: str, runtime: RuntimeManifest, facts: Facts) -> None:
    """Raise FitError for a CUDA runtime that the board's graphics card cannot run.

    Code for one compute capability runs on later ones of the same major number (CUDA C++
    Programming Guide, binary compatibility). A Jetson's driver need not have `nvidia-smi`.
    """
    cuda = runtime.extra.get("cuda")
    built_for = str(cuda.get("sm", "")) if isinstance(cuda, dict) else ""
    if not built_for or facts.get("l4t"):
        return
    cards = facts.get("gpus") or ()
    if not cards:
        raise FitError(
            f"{address}: the runtime is for CUDA, `nvidia-smi` shows no graphics card there",
            hint="without DEMITASSE_RUNTIME the processor's runtime is pushed",
        )
    major, minor = _version(built_for)[:2]
    card = cards[0]
    has = _version(card["sm"])
    if has[0] != major or has[1] < minor:
        raise FitError(
            f"{address}: the runtime is for SM {built_for}, `{card['name']}` has SM {card['sm']}",
            hint="build one there: `demitasse runtime build x86-64-cuda --cuda --on BOARD`",
        )


def _refuse_folder(address: str, facts: Facts) -> None:
    """Raise BoardError for a store that cannot be written, or from which nothing can be run."""
    folder = facts["disk_folder"]
    elsewhere = "DEMITASSE_ROOT=/another/folder names another place"
    if not facts["disk_writable"]:
        raise BoardError(
            f"{address}: `{folder}` cannot be written, the store is to be there", hint=elsewhere
        )
    if facts["disk_noexec"]:
        raise BoardError(
            f"{address}: `{folder}` is mounted noexec: "
            "a runtime's libraries cannot be loaded there",
            hint=f"{elsewhere}; or mount it with exec",
        )


def _refuse_old_jetpack(address: str, facts: Facts) -> None:
    """Raise FitError for a Jetson whose system is older than OLDEST_L4T."""
    l4t = facts.get("l4t")
    if l4t and _version(l4t) < OLDEST_L4T:
        raise FitError(
            f"{address}: the Jetson has L4T {l4t}, JetPack 6 has 36",
            hint="flash JetPack 6 or newer; a Nano of 2019 ends at 32",
        )


def _refuse_memory(address: str, manifest: Manifest, facts: Facts) -> None:
    """Raise FitError if the board has too little memory, by its own report."""
    needs = needs_of_bundle(manifest)
    if needs is None or facts["memory_total_mb"] is None:
        return

    total = int(facts["memory_total_mb"])
    board = _recognised(facts)
    found = fit(needs, board or total, total)
    if not found.ok:
        other = _packaged_for_another(manifest, board)
        raise FitError(
            f"{address}: {manifest.name} does not fit in memory: {found.reasons[0]}",
            hint=f"{found.hint}; {other}" if other else found.hint,
        )


def _recognised(facts: Facts) -> Target | None:
    total = facts["memory_total_mb"]
    return recognise(facts["model"], facts["machine"], int(total)) if total is not None else None


def note_other_target(address: str, manifest: Manifest, facts: Facts, report: Reporter) -> None:
    """Note that a bundle was packaged for another kind of board than this one."""
    board = _recognised(facts)
    if other := _packaged_for_another(manifest, board):
        report.note(f"{address}: {other}; it fits here, with its context of {manifest.context}")


def _packaged_for_another(manifest: Manifest, board: Target | None) -> str:
    """Return a sentence if a bundle is for another target, with the command that makes another.


    "" if it is for this one.
    """
    if board is None or board.id == manifest.target:
        return ""
    return (
        f"the bundle was packaged for `{manifest.target}`, the board is `{board.id}`: "
        f"`demitasse package RECIPE --target {board.id}` makes one for it"
    )


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0").split("."))

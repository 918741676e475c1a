"""Boards: what one serves, the doctor's findings, virtual boards, runtimes, known targets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain import console, doctor
from toolchain.doctor import Finding
from toolchain.proving.kept import proofs_of
from toolchain.show import board_text
from toolchain.show.proofs import proved, proved_by
from toolchain.show.words import plain, size
from toolchain.target import Target

if TYPE_CHECKING:
    from toolchain.board.virtual import VirtualBoard
    from toolchain.proving.signed import SignedProof
    from toolchain.runtime.build import Built


def status(address: str, facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Show what a board serves."""
    if as_json:
        console.show_json(facts)
        return
    console.show_text("\n".join(board_text.lines(address, facts)))


def findings(each: Sequence[Finding], *, as_json: bool) -> None:
    """Show what the doctor saw."""
    if as_json:
        console.show_json([asdict(finding) for finding in each])
        return
    console.show_text("\n".join(doctor.lines(each)))


def virtual_boards(boards: "Sequence[VirtualBoard]", *, as_json: bool) -> None:
    """Show the virtual boards, one a line."""
    rows = [
        {"address": b.address, "debian": b.debian, "up": b.pid is not None, "port": b.port}
        for b in boards
    ]
    if as_json:
        console.show_json(rows)
        return
    cells = [
        [b.address, str(b.debian), f"up, port {b.port}" if b.pid is not None else "down"]
        for b in boards
    ]
    console.show_table(("board", "Debian", "state"), cells)


def runtime(built: "Built", *, as_json: bool) -> None:
    """Show a runtime that was built, or board."""
    if as_json:
        console.show_json(asdict(built))
        return
    took = f"{built.seconds:.1f} s" + (
        f", {built.cpu_s:.1f} CPU-seconds" if built.cpu_s > 1 else ""
    )
    rows = [
        ["processor", f"{built.profile}: {' '.join(built.features)}"],
        ["glibc", f"{built.glibc} or newer"],
        ["size", size(built.size_bytes)],
        ["runtime", built.runtime],
        ["folder", built.folder],
        ["took", took],
    ]
    console.show_table((built.target, ""), [*rows, *([["wrote", file] for file in built.files])])


def all_targets(known: Sequence[Target], proofs: "Sequence[SignedProof]", *, as_json: bool) -> None:
    """Show the boards that are known, one a line."""
    if as_json:
        console.show_json([_target_fields(t, proofs) for t in known])
        return
    rows = [
        [
            t.id,
            t.name,
            t.soc or "-",
            "-" if t.memory_mb is None else f"{t.memory_mb}",
            t.profile,
            proved(proofs_of(t, proofs)),
        ]
        for t in known
    ]
    console.show_table(("id", "board", "SoC", "memory MB", "runtime", "proved"), rows)


def _target_fields(board: Target, proofs: "Sequence[SignedProof]") -> dict[str, Any]:
    said = [{"date": p.proof.date, "signer": p.signer} for p in proofs_of(board, proofs)]
    facts = board.model_dump(mode="json", exclude_defaults=True)
    return {"id": board.id, **facts, "proved": said}


def one_target(board: Target, proofs: "Sequence[SignedProof]", *, as_json: bool) -> None:
    """Show one board with the source of each fact, and who proved it."""
    if as_json:
        console.show_json(_target_fields(board, proofs))
        return
    rows = [[name, plain(value), board.source_of(name)] for name, value in board.facts()]
    own = proofs_of(board, proofs)
    unproved = "" if own else " (not yet proved on hardware)"
    title = f"{board.id}: {board.name}{unproved}"
    console.show_table(("fact", "value", "source"), rows, title=title)
    for line in proved_by(own):
        console.show_text(f"\n{line}")
    for note in board.notes:
        console.show_text(f"\nnote: {note}")

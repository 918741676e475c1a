"""Proofs: one in full, and in a few words what targets were proved by."""

from collections.abc import Sequence
from pathlib import Path

from toolchain import console
from toolchain.proving.kept import is_of_its_target
from toolchain.proving.record import Proof
from toolchain.proving.signed import SignedProof
from toolchain.show.words import size


def proof(signed: SignedProof, *, as_json: bool, path: Path | None = None) -> None:
    """Show a proof whose signature holds; `path` is where it was just written."""
    record = signed.proof
    if as_json:
        fields = {"signer": signed.signer, **record.model_dump(mode="json")}
        console.show_json({**fields, **({"file": str(path)} if path else {})})
        return
    console.show_table((_title(record), ""), [list(row) for row in _rows(signed)])
    for label in labels(record):
        console.show_text(f"mind: {label}")
    if path:
        console.show_text(f"\nwritten to {path}; docs/proving.md says how to send it")


def labels(record: Proof) -> list[str]:
    """Return what limits a proof, a sentence each."""
    kinds = {
        "this computer": "it ran on the computer that asked, which is no board of its own",
        "emulated board": "the board is emulated: this proves nothing of a real one",
    }
    said = [kinds[record.kind]] if record.kind in kinds else []
    if record.virtual_machine:
        said.append("the board is a virtual machine: this proves nothing of a real one")
    if not is_of_its_target(record):
        said.append(f"its facts are not those of `{record.target or 'no known target'}`")
    if record.disturbed:
        said.append("other programs worked on the board meanwhile")
    if record.heat.throttled:
        flags = ", ".join(record.heat.throttled).replace("_", " ")
        said.append(f"the board held itself back: {flags}")
    if not record.signed_by:
        said.append("the release is not signed")
    if record.made_for != record.target:
        said.append(f"the release was made for `{record.made_for}`")
    return said


def proved(proofs: Sequence[SignedProof]) -> str:
    """Return in a few words when a target was proved last; `never` if nobody did."""
    if not proofs:
        return "never"
    more = f" and {len(proofs) - 1} more" if len(proofs) > 1 else ""
    return f"{proofs[0].proof.date}{more}"


def proved_by(proofs: Sequence[SignedProof]) -> list[str]:
    """Return a line a proof: when, by whose key, with what, and what limits it."""
    return [
        f"proved: {each.proof.date} by {each.signer}, demitasse {each.proof.tool}, "
        + ", ".join([f"{row.test} {row.median_ts:.2f} tokens/s" for row in each.proof.rows])
        + "".join(f"; {label}" for label in labels(each.proof))
        for each in proofs
    ]


def _title(record: Proof) -> str:
    return f"proof of {record.date}: {record.target or 'no known target'}"


def _rows(signed: SignedProof) -> list[tuple[str, str]]:
    record = signed.proof
    board = record.board
    memory = f"{board.memory_total_mb} MB" if board.memory_total_mb is not None else "-"
    return [
        ("signed by", signed.signer),
        ("kind", record.kind),
        ("board", board.model),
        ("processor", f"{board.cores or '-'} × {board.cpu_name or ' '.join(board.cpu_parts)}"),
        ("memory", memory),
        ("system", f"{board.os_name or '-'}, {board.kernel}, Python {board.python}"),
        ("release", f"{record.release[:12]}, signed by {record.signed_by or 'nobody'}"),
        ("runtime", f"{record.runtime[:12]}, {record.engine} {record.engine_version}"),
        ("model", f"{record.model_type}, {size(record.model_bytes)}"),
        ("bytes", "release and runtime whole"),
        ("goldens", _goldens(record)),
        *((row.test, _rate(row.samples_ts, row.median_ts)) for row in record.rows),
        ("temperature", _heat(record)),
        *((("sustained", _sustained(record)),) if record.heat.sustained else ()),
        ("demitasse", record.tool),
    ]


def _goldens(record: Proof) -> str:
    goldens = record.goldens
    if goldens.agreement is not None:
        return f"{goldens.count} agree in {goldens.agreement:.1%} of their tokens"
    return f"{goldens.count}{', equal token for token' if goldens.exact else ''}"


def _rate(samples: Sequence[float], median: float) -> str:
    return (
        f"{median:.2f} tokens/s (median of {len(samples)}, "
        f"{min(samples):.2f} to {max(samples):.2f})"
    )


def _sustained(record: Proof) -> str:
    (_, first), (until_s, last) = record.heat.sustained[0], record.heat.sustained[-1]
    return f"{first:.2f} tokens/s at first, {last:.2f} after {until_s:.0f} s"


def _heat(record: Proof) -> str:
    heat = record.heat
    before, after, highest = heat.before.temperature_c, heat.after.temperature_c, heat.highest_c
    if before is None or after is None or highest is None:
        return "not measured: the board has no sensor that can be read"
    return f"{before:.1f} °C before, {after:.1f} °C after, {highest:.1f} °C at most"

"""Proofs that come with the targets: which board was proved, when, and by whose key.

A file in `targets/proofs/` is a proof that somebody sent and somebody read. The rule: what ran on a
simulated board proves no real one, whatever its facts say.
"""

from collections.abc import Sequence
from pathlib import Path

from toolchain import target
from toolchain.proving.record import Proof
from toolchain.proving.signed import SignedProof, read
from toolchain.target import Target


def folder() -> Path:
    """Return the folder of the kept proofs, beside the targets."""
    return target.folder() / "proofs"


def all_proofs() -> list[SignedProof]:
    """Return every kept proof, by its file's name."""
    return [read(path, verify=False) for path in sorted(folder().glob("*.json"))]


def proofs_of(board: Target, proofs: Sequence[SignedProof]) -> list[SignedProof]:
    """Return the proofs of a target, the newest first."""
    own = [each for each in proofs if counts_for(each.proof, board)]
    return sorted(own, key=lambda each: each.proof.date, reverse=True)


def counts_for(proof: Proof, board: Target) -> bool:
    """Say whether a proof is one of a target.

    A target without model strings stands for any machine of its architecture, so this computer or a
    virtual machine may prove it. Every other target is one board that can be held in a hand.
    """
    if proof.target != board.id or proof.kind == "emulated board" or not is_of_its_target(proof):
        return False
    is_any_machine = not board.model_strings
    return is_any_machine or (proof.kind == "board" and not proof.virtual_machine)


def is_of_its_target(proof: Proof) -> bool:
    """Say whether the facts of a proof are those of the target that it names, or of none."""
    board = proof.board
    return proof.target == target.id_of(board.model, board.machine, board.memory_total_mb)

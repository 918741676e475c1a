"""The audit of a claim of privacy on the file that ships, by the runtime that ships.

Each canary is scored by its answer's likelihood, guesses are made by rank, and what they prove is
compared with what is claimed (toolchain/privacy/canaries.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain.digests import file_digest
from toolchain.evaluate.leak import by_runtime
from toolchain.figures import AuditFigures
from toolchain.privacy.canaries import Canary, guess, least_epsilon, read_canaries
from toolchain.progress import Reporter
from toolchain.runtime.scoring import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What is claimed, and the canaries that may refute it."""

    file: Path
    epsilon: float | None
    """None where nothing is claimed."""
    delta: float

    @property
    def digest(self) -> str:
        """What decides the figures."""
        return f"{file_digest(self.file)} {self.epsilon} {self.delta}"


def measure_audit(child: Scorer, audit: Audit, report: Reporter) -> AuditFigures:
    """Return what a model file tells of its canaries."""
    canaries = read_canaries(audit.file)
    scores = []
    for number, canary in enumerate(canaries, 1):
        scores.append(score_of(child, canary))
        report.step("ask for canaries", number, len(canaries), "canaries")
    guesses = guess(canaries, scores)
    return AuditFigures(
        canaries=guesses.canaries,
        guesses=guesses.made,
        right=guesses.right,
        epsilon_at_least=round(least_epsilon(guesses, audit.delta), 4),
        claimed=audit.epsilon,
    )


def score_of(child: Scorer, canary: Canary) -> float:
    """Return the log-probability of a canary's answer behind its question."""
    prompt = child.rendered([{"role": "user", "content": canary.question}])
    # Cut as a whole: an answer may share a token with what is before it.
    ids, before = child.tokenize(prompt + canary.answer), child.tokenize(prompt)
    pairs = enumerate(zip(ids, before, strict=False))
    start = next((at for at, (one, other) in pairs if one != other), len(before))
    return by_runtime(child, ids, max(1, min(start, len(ids) - 1)))


def audit_failures(audit: AuditFigures | None) -> Iterator[str]:
    """Yield a sentence where a file gives away more than is claimed."""
    if audit and audit.claimed is not None and audit.refutes:
        yield (
            f"{audit.right} of {audit.guesses} guesses about canaries are right: that is an ε of "
            f"at least {audit.epsilon_at_least:.2f}, and {audit.claimed:.2f} is claimed"
        )

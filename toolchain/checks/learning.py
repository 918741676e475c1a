"""How long is trained, against how much there is to learn."""

from toolchain.checks import Ahead, Findings
from toolchain.checks.conversations import Lengths


def look(ahead: Ahead, lengths: Lengths | None, findings: Findings) -> None:
    """Note a `tune` of so few updates that it may teach nothing."""
    if lengths is None or not ahead.walks("tune"):
        return
    spec = ahead.recipe.tune
    if few := spec.few_updates(round(lengths.conversations / (1 - spec.general_share))):
        key = "updates" if spec.updates else "epochs"
        findings.notes.append(f"{ahead.place(['tune'], key)}: tune: {few}")

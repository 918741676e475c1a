"""How long is trained, against how much there is to learn; and what is learned beside."""

from toolchain.checks import Ahead, Findings
from toolchain.checks.conversations import Lengths
from toolchain.ingest.beside import general_rows


def look(ahead: Ahead, lengths: Lengths | None, findings: Findings) -> None:
    """Note a `tune` of so few updates that it may teach nothing; find files that are no talk."""
    _look_beside(ahead, findings)
    if lengths is None or not ahead.walks("tune"):
        return
    spec = ahead.recipe.tune
    if few := spec.few_updates(round(spec.with_general(lengths.conversations))):
        key = "updates" if spec.updates else "epochs"
        findings.notes.append(f"{ahead.place(['tune'], key)}: tune: {few}")


def _look_beside(ahead: Ahead, findings: Findings) -> None:
    """Find files of general conversations that cannot be read, or hold none."""
    recipe = ahead.recipe
    specs = {"tune": recipe.tune, "distill": recipe.distill}
    for stage in ahead.walks(*specs):
        if (spec := specs[stage]) and spec.general_files:
            with findings.gathering():
                general_rows(spec.general_files, recipe.data, recipe.folder, seed=recipe.seed)

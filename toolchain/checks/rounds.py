"""The round before: whether its gate has left what the new one is compared with."""

from toolchain.checks import Ahead, Findings
from toolchain.line.formats import FORMATS


def look(ahead: Ahead, findings: Findings) -> None:
    """Find a `[round] before` that is no work folder with a finished gate."""
    spec = ahead.recipe.round
    if spec is None or not spec.before or not ahead.walks("evaluate"):
        return
    from toolchain.evaluate.forgetting import read_earlier

    work = ahead.recipe.folder / spec.before
    for form in ahead.recipe.quantize.formats:
        if row := FORMATS.get(form):
            with findings.gathering():
                read_earlier(work, f"evaluate{row.folder_suffix}", spec.max_forgotten)

"""The order of a recipe's stages, and formats that the target cannot run."""

from toolchain.checks import Ahead, Findings
from toolchain.errors import ConfigError, FitError
from toolchain.line import order
from toolchain.line.stages import STAGES


def check(ahead: Ahead, findings: Findings) -> None:
    """Find faults of the order of stages, and formats that the target cannot run.

    A stage may lack one that it needs before it, or come too late.
    """
    findings.errors += order.faults(ahead.recipe, ahead.stages)
    _check_formats(ahead, findings)


def _check_formats(ahead: Ahead, findings: Findings) -> None:
    if not any(STAGES[stage].per_format for stage in ahead.stages if stage in STAGES):
        return

    asked = ahead.recipe.quantize.formats
    lacking = [form for form in asked if form not in ahead.formats]
    runs = f"it runs {', '.join(ahead.target.engines)}"
    if not asked:
        findings.errors.append(ConfigError(f"{ahead.file}: quantize: formats: names no format"))
    elif not ahead.formats:
        problem = f"{ahead.target.id}: runs no {' and no '.join(asked)}"
        findings.errors.append(FitError(problem, hint=runs))
    elif lacking:
        findings.notes.append(
            f"{ahead.target.id}: runs no {' and no '.join(lacking)}: that is left out; {runs}"
        )

"""The rank of an adapter against the width of the matrices that it adapts."""

from toolchain.checks import Ahead, Findings
from toolchain.checks.model import Base
from toolchain.errors import ConfigError


def look(ahead: Ahead, base: Base, findings: Findings) -> None:
    """Find a rank above the model's width: such an adapter has more weights than what it adapts.

    It would be found in the training only, when memory ends.
    """
    width = base.config.get("hidden_size")
    if type(width) is not int:
        return

    specs = {"tune": ahead.recipe.tune, "align": ahead.recipe.align}
    for stage in ahead.walks("tune", "align"):
        spec = specs[stage]
        if spec and spec.r > width:
            where = ahead.place([stage], "r")
            problem = f"{where}: {stage}: r: {spec.r:,} is more than the model's width, {width:,}"
            findings.errors.append(ConfigError(problem, hint="usual ranks are 8 to 64"))

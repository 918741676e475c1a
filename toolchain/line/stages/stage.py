"""What a stage of the line is: one row of the table of stages."""

from collections.abc import Callable
from dataclasses import dataclass

from toolchain.artifacts import Artifact
from toolchain.line.flow import Flow
from toolchain.recipe import Recipe
from toolchain.target import Target

Kind = type[Artifact]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: a row of `STAGES`."""

    help: str = ""
    """Help text of the stage's verb; empty for a stage without one."""
    run: Callable[[Flow], Artifact]
    """Runs the stage on the newest artifacts and returns its own."""
    plan: Callable[[Recipe, Target, str], str]
    """Recipe, target and format → what the stage will do: the parameters that matter, in one
    line."""
    result: Callable[[Artifact], str]
    """Artifact → what the stage measured, in one line."""
    needs: tuple[Kind, ...] = ()
    """Kinds of artifacts that the stage reads."""
    may_need: Callable[[Recipe], tuple[Kind, ...]] = lambda recipe: ()
    """Kinds that it reads as well with this recipe."""
    gives: Kind
    """Kind of the stage's artifact."""
    per_format: bool = False
    """Whether the stage is done for each format of the recipe."""
    extra: str = ""
    """Extra of the package that the stage needs."""

"""A recipe up to its newest checkpoint, and from there into a folder for another runtime."""

from toolchain.artifacts import Checkpoint, Dataset
from toolchain.config import closest
from toolchain.errors import ConfigError, FitError
from toolchain.export import DOORS, Door, Export, Model
from toolchain.line.flow import Flow, Settings
from toolchain.line.stages import STAGES
from toolchain.line.walk import begin, known, work_folder
from toolchain.recipe import Recipe
from toolchain.target import Target, find


def door(name: str) -> Door:
    """Return the row of a runtime; raise ConfigError that names the nearest one."""
    if name not in DOORS:
        raise ConfigError(f"--for: unknown runtime `{name}`", hint=closest(name, list(DOORS)))
    return DOORS[name]


def board_of(recipe: Recipe, runtime: str, target_id: str) -> Target:
    """Return the board to export for: the one that is named, or the recipe's first that will do.

    Raise FitError if there is none.
    """
    row = door(runtime)
    if target_id:
        board = find(target_id)
        row.check(board)
        return board

    refusals: list[FitError] = []
    for name in recipe.targets:
        board = find(name)
        try:
            row.check(board)
        except FitError as error:
            refusals.append(error)
        else:
            return board
    raise refusals[0]


def export(recipe: Recipe, settings: Settings, runtime: str) -> Export:
    """Return the folder of a recipe's newest checkpoint for another runtime.

    Stages that make data and checkpoints are run; those that are recorded are skipped.
    """
    row = door(runtime)
    row.check(settings.target)
    stages = [name for name in recipe.stages if STAGES[name].gives in (Dataset, Checkpoint)]
    if stages:
        begin(known(recipe, settings, until=stages[-1]), settings.report)
    with work_folder(settings):
        flow = Flow(recipe=recipe, settings=settings)
        for name in stages:
            settings.report.note(f"{name}: {STAGES[name].plan(recipe, settings.target, '')}")
            STAGES[name].run(flow)
        checkpoint = flow.merged()
        model = Model(
            name=recipe.name,
            context=recipe.package.context,
            max_tokens=recipe.package.max_tokens,
            target=settings.target,
            licence_files=tuple(sorted(flow.base.glob("LICENSE*"))) if flow.base else (),
        )
        return row.export(checkpoint, model, settings.out / runtime, settings.report)

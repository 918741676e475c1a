"""Walk through a recipe: stages in order, each in its own folder, skipped if its record matches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from toolchain import recipe as recipes
from toolchain.artifacts import Artifact, Dataset, UnmadeError, account, looking, recorded
from toolchain.checks import Ahead, Findings, check, terms
from toolchain.errors import ConfigError, FitError, GateError, ToolchainError, all_of
from toolchain.line import order
from toolchain.line.flow import Flow, Settings, Step
from toolchain.line.formats import FORMATS, Format, of_scheme
from toolchain.line.sources import ledger_of, sources_of
from toolchain.line.stages import STAGES, Kind, Stage
from toolchain.line.stages.evaluate import earlier
from toolchain.lock import locked
from toolchain.processes import is_main
from toolchain.progress import SILENT, Reporter
from toolchain.recipe import QuantizeSpec, Recipe

__all__ = ["Settings", "Step", "begin", "known", "open_recipe", "plan", "walk", "work_folder"]


def open_recipe(path: Path) -> Recipe:
    """Read a recipe and check the order of its stages; raise ConfigError with the wrong key."""
    recipe = recipes.load(path)
    if faults := order.faults(recipe, recipe.stages):
        raise all_of(faults)
    return recipe


def plan(recipe: Recipe, settings: Settings, *, until: str = "") -> list[Step]:
    """Return what a walk would do, without doing or fetching anything."""
    looked = replace(settings, report=SILENT, offline=True)
    flow = Flow(recipe=recipe, settings=looked)
    stale: dict[str, set[Kind]] = {}
    steps = []
    for stage, form in _steps(recipe, settings, until):
        row = STAGES[stage]
        folder = settings.out / f"{stage}{_folder_suffix(form)}"
        found = goes_on = False
        changed = stale.get("", set()) | stale.get(form, set())
        if recorded(folder) and not _stands_on(row, recipe, changed):
            found, goes_on = _look(flow, stage, form)
        if not goes_on:
            stale.setdefault(form, set()).add(row.gives)
        what = row.plan(recipe, settings.target, form)
        steps.append(Step(stage=stage, folder=folder, what=what, recorded=found))
    return steps


def _stands_on(row: Stage, recipe: Recipe, changed: set[Kind]) -> bool:
    """Say whether a stage has to be done again because something before it is.

    Weights, knowledge and a guard change all that follows them; data only what reads it.
    """
    reads = {*row.needs, *row.may_need(recipe)}
    return bool(row.needs and changed - {Dataset}) or bool(reads & changed)


def _look(flow: Flow, stage: str, form: str) -> tuple[bool, bool]:
    """Return whether a walk would skip a stage, and whether it would go on behind it.

    The stage itself says so: its key follows from what it reads.
    """
    try:
        with looking():
            _done(flow, stage, form, writes=False)
    except GateError:
        return True, False
    except (UnmadeError, ToolchainError):
        return False, False
    return True, True


def _done(flow: Flow, stage: str, form: str, *, writes: bool) -> Artifact:
    """Return what a stage makes, accounted for; `writes` says whether on the disk too."""
    flow.format = form
    flow.folder_suffix = _folder_suffix(form)
    artifact = STAGES[stage].run(flow)
    artifact = account(artifact, ledger_of(flow, stage, artifact), writes=writes)
    flow.records.append((form, artifact.record))
    return artifact


def known(
    recipe: Recipe,
    settings: Settings,
    *,
    until: str = "",
    schemes: Sequence[str] = (),
    writes: bool = False,
) -> Findings:
    """Return what is known of a walk before it begins.

    `schemes` are those to try instead of the recipe's own; `writes` keeps what is read of large
    data for the walk.
    """
    stages = _stages(recipe, until)
    if schemes:
        before = recipe.stages[: recipe.stages.index("quantize")]
        stages = (*before, "quantize", "evaluate")
    findings = Findings(errors=[*order.faults(recipe, stages)])
    order.check_extras(recipe, stages, findings)
    if any(STAGES[stage].per_format for stage in stages if stage in STAGES):
        order.check_target(recipe, settings.target, findings)

    ahead = ahead_of(recipe, settings, stages, schemes)
    check(replace(ahead, writes=writes), findings)
    with findings.gathering():
        terms.look(ahead_of(recipe, settings, stages), sources_of(recipe), findings)
    if "evaluate" in stages:
        for form in order.runnable(recipe, settings.target):
            with findings.gathering():
                earlier(recipe, _folder_suffix(form))
    return findings


def ahead_of(
    recipe: Recipe, settings: Settings, stages: tuple[str, ...], schemes: Sequence[str] = ()
) -> Ahead:
    """Return the walk that is about to begin."""
    formats = order.runnable(recipe, settings.target)
    return Ahead(
        recipe=recipe,
        target=settings.target,
        stages=stages,
        formats=tuple(FORMATS[form] for form in formats),
        files=_files(recipe, formats, schemes),
        out=settings.out,
        offline=settings.offline,
        schemes=tuple(schemes),
        report=settings.report,
    )


def _files(
    recipe: Recipe, formats: Sequence[str], schemes: Sequence[str]
) -> tuple[tuple[Format, QuantizeSpec], ...]:
    """Return format and spec of each model file that is made."""
    spec = recipe.quantize
    if schemes:
        rows = [(FORMATS[of_scheme(name)], name) for name in schemes]
        return tuple((row, row.with_scheme(spec, name)) for row, name in rows)
    return tuple((FORMATS[form], spec) for form in formats)


def begin(findings: Findings, report: Reporter) -> None:
    """Say what is known before a walk; raise what would end it later."""
    for note in findings.notes:
        report.note(note)
    findings.end_walk()


def walk(
    recipe: Recipe,
    settings: Settings,
    *,
    until: str = "",
    seen: Callable[[], object] = lambda: None,
) -> Iterator[Step]:
    """Run a recipe's stages up to `until` (all of them by default), yielding each as it is done.

    `seen` raises what a look at the board found, which is said with what is known here.
    """
    left_out: dict[str, ToolchainError] = {}
    with work_folder(settings):
        # What is read of large data for the checks is kept there for the stage.
        findings = known(recipe, settings, until=until, writes=True)
        with findings.gathering():
            seen()
        begin(findings, settings.report)
        flow = Flow(recipe=recipe, settings=settings)
        for stage, form in _steps(recipe, settings, until):
            if form in left_out:
                continue
            row = STAGES[stage]
            what = row.plan(recipe, settings.target, form)
            settings.report.note(f"{stage}: {what}")

            try:
                artifact = _done(flow, stage, form, writes=is_main())
            except (GateError, FitError) as error:
                left_out[form] = error
                if not form or len(set(order.runnable(recipe, settings.target))) == 1:
                    raise
                settings.report.note(f"{form} is left out: {error.message}")
                continue
            yield Step(
                stage=stage,
                folder=artifact.path,
                what=what,
                artifact=artifact,
                result=row.result(artifact),
            )
    _refuse_left_out(recipe, settings, until, left_out)


def _refuse_left_out(
    recipe: Recipe, settings: Settings, until: str, left_out: Mapping[str, ToolchainError]
) -> None:
    """Raise why formats were left out, unless another one of them was packaged."""
    packaged = "package" in _stages(recipe, until)
    is_another_left = len(left_out) < len(set(order.runnable(recipe, settings.target)))
    if left_out and not (packaged and is_another_left):
        raise all_of(list(left_out.values()))


@contextmanager
def work_folder(settings: Settings) -> Iterator[None]:
    """Hold the folder of a walk against other runs.

    Of several processes that train together one holds it for all.
    """
    if not is_main():
        yield
        return
    with locked(settings.out, settings.report):
        yield


def _folder_suffix(form: str) -> str:
    return FORMATS[form].folder_suffix if form else ""


def _steps(recipe: Recipe, settings: Settings, until: str) -> list[tuple[str, str]]:
    """Return stages and formats in order: the common ones, then all others for each format."""
    formats = order.runnable(recipe, settings.target)
    stages = _stages(recipe, until)
    per_format = [stage for stage in stages if STAGES[stage].per_format]
    if per_format and not formats:
        raise FitError(
            f"{settings.target.id}: runs no {' and no '.join(recipe.quantize.formats)}",
            hint=f"it runs {', '.join(settings.target.engines)}",
        )
    common = [(stage, "") for stage in stages if stage not in per_format]
    return common + [(stage, form) for form in formats for stage in per_format]


def _stages(recipe: Recipe, until: str) -> tuple[str, ...]:
    if not until:
        return recipe.stages
    if until not in recipe.stages:
        raise ConfigError(
            f"{recipe.id}: stages: this recipe has no `{until}`",
            hint=f"it has {', '.join(recipe.stages)}",
        )
    return recipe.stages[: recipe.stages.index(until) + 1]

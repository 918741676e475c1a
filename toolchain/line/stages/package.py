"""Stage `package` in the line: how it runs, its line of a plan and its line of results."""

from toolchain.artifacts import Artifact, Bundle, Dataset, ModelFile, Verdict
from toolchain.figures import BundleFigures
from toolchain.ledger import grouped, total, travelling
from toolchain.line.flow import Flow
from toolchain.line.formats import FORMATS
from toolchain.line.stages.shared import needed_guard
from toolchain.line.stages.stage import Stage
from toolchain.recipe import Recipe
from toolchain.target import Target
from toolchain.terms.found import travelling_files


def _run(flow: Flow) -> Bundle:
    from toolchain.package import Origin, Parts, package

    recipe, form = flow.recipe, flow.format
    licences = travelling_files(flow.base) if flow.base else []
    records = tuple(flow.records_of(form))
    origin = Origin(
        name=recipe.name,
        recipe=recipe.id,
        base=flow.base_name,
        base_digest=flow.base_digest,
        licence=recipe.package.licence,
        opening=flow.data().opening(),
        licence_files=tuple(licences),
        records=records,
        ledger=grouped(travelling(total(record.ledger for record in records))),
        strict=recipe.data.strict,
        is_trained=recipe.learns,
    )
    parts = Parts(
        model=flow.models[form],
        verdict=flow.verdicts[form],
        target=flow.settings.target,
        spec=recipe.package,
        origin=origin,
        packing=FORMATS[form].packing,
        consulted=flow.consulted(flow.verdicts[form]),
        guarded=flow.guarded(),
    )
    return package(parts, flow.out("package"))


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    return (
        f"{recipe.name} {recipe.package.version} for {target.id}, "
        f"{recipe.package.context} tokens of context"
    )


def packaged(artifact: Artifact) -> str:
    """Return what a bundle is, in one line."""
    figures = BundleFigures.read(artifact.record.figures)
    return f"release {figures.release[:12]}, {figures.files} files"


STAGE = Stage(
    help="Run a recipe up to the bundle that travels to boards, or make one of a finished model.",
    run=_run,
    plan=_plan,
    result=packaged,
    needs=(Dataset, ModelFile, Verdict),
    may_need=needed_guard,
    gives=Bundle,
    per_format=True,
)

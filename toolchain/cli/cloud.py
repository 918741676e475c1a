"""`cloud`: files with which a recipe runs on rented computers."""

from typing import TYPE_CHECKING, Annotated

import typer

from toolchain import console, show
from toolchain.cli.words import OUT, AsJson, Offline, Out, RecipeFile, TargetId, app, settings_for

if TYPE_CHECKING:
    from toolchain.cloud import Asked, Job
    from toolchain.line.walk import Settings
    from toolchain.recipe import Recipe


@app.command(name="cloud")
def cloud_verb(
    recipe_file: RecipeFile,
    bucket: Annotated[
        str, typer.Option("--bucket", metavar="NAME", help="Bucket for the work folder.")
    ] = "",
    package: Annotated[
        str,
        typer.Option(
            "--package", metavar="WHEEL", help="What installs demitasse there, such as a wheel."
        ),
    ] = "",
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="Rent nothing that may be taken away.")
    ] = False,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="There: forget stages whose files a lost computer left out."),
    ] = False,
    target_id: TargetId = "",
    out: Out = OUT,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Write files that run a recipe on rented computers: for SkyPilot and for Slurm."""
    from toolchain import cloud
    from toolchain.line.walk import work_folder

    with console.terminal() as report:
        recipe, settings = settings_for(recipe_file, target_id, out, report, offline=offline)
        if mend:
            with work_folder(settings):
                broken = cloud.mend(settings.out)
            show.mended(broken, as_json=as_json)
            return
        asked = cloud.Asked(
            target=settings.target.id,
            bucket=bucket or cloud.bucket_name(recipe.id),
            package=package,
            spot=not on_demand,
        )
        cloud.refuse(recipe, asked)
        for name in cloud.left_behind(recipe):
            report.note(f"`{name}` is outside of the recipe's folder: SkyPilot leaves it here")
        job = _job(recipe, settings, asked)
    files = cloud.write(job, settings.out / "cloud")
    show.clouded(job, files, as_json=as_json)


def _job(recipe: "Recipe", settings: "Settings", asked: "Asked") -> "Job":
    """Return what is to be run there, with its cost; raise what its plan finds wrong."""
    from toolchain import cloud, cost
    from toolchain import prices as tables
    from toolchain.checks import Findings
    from toolchain.checks.cost import rate, workloads
    from toolchain.line.order import extras_of
    from toolchain.line.walk import ahead_of

    findings = Findings()
    works = workloads(ahead_of(recipe, settings, recipe.stages), findings)
    findings.end_walk()
    done = cost.records_in(settings.out.parent)
    prices = tables.load(None)
    found = cost.cost(
        works,
        [cost.expect(work, done, rate()) for work in works],
        prices,
        currency="USD",
        country=tables.WORLD,
        watts=cost.HERE_W,
    )
    return cloud.Job(
        recipe=recipe,
        asked=asked,
        extras=sorted(extras_of(recipe)),
        works=works,
        found=found,
        prices=prices,
    )

"""`cost`: what a recipe takes, in time, money and electricity."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, show
from toolchain.cli.words import OUT, AsJson, Offline, Out, RecipeFile, TargetId, app, settings_for
from toolchain.errors import FitError


@app.command(name="cost")
def cost_verb(
    recipe_file: RecipeFile,
    budget: Annotated[
        str, typer.Option("--budget", metavar='"30 CNY"', help="Most that may be paid.")
    ] = "",
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="TOML", help="A newer table of prices.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records", metavar="FOLDER", help="Work folders that say how fast this computer is."
        ),
    ] = None,
    country: Annotated[
        str, typer.Option("--country", help="Grid of this computer, such as CN.")
    ] = "world",
    watts: Annotated[
        float, typer.Option("--watts", help="Power of this computer while it trains.", min=1)
    ] = 65.0,
    target_id: TargetId = "",
    out: Out = OUT,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe takes here and on rented computers: hours, money, kWh and CO2."""
    from toolchain import cost
    from toolchain import prices as tables
    from toolchain.checks import Findings
    from toolchain.checks.cost import rate, workloads
    from toolchain.line.walk import ahead_of

    table = tables.load(prices)
    limit = tables.read_budget(budget, table) if budget else None
    with console.terminal() as report:
        recipe, settings = settings_for(recipe_file, target_id, out, report, offline=offline)
        findings = Findings()
        works = workloads(ahead_of(recipe, settings, recipe.stages), findings)
    findings.end_walk()
    done = cost.records_in(records or settings.out.parent)
    found = cost.cost(
        works,
        [cost.expect(work, done, rate()) for work in works],
        table,
        currency=limit.currency if limit else "USD",
        country=country,
        watts=watts,
    )
    paid = cost.within(found, limit)
    show.cost(recipe.id, found, paid, limit, base=recipe.model.base, as_json=as_json)
    if limit and works and not paid:
        first = found.offers[0].amount if found.offers else 0.0
        cheapest = f": the cheapest takes {first:.2f} {found.currency}" if found.offers else ""
        raise FitError(
            f"{recipe.id}: `{budget}` rents no computer that would do it{cheapest}",
            hint="this computer does it for nothing, in the time that stands above",
        )

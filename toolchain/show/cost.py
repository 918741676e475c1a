"""What a recipe takes: on this computer first, then the cheapest offers."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from toolchain import console
from toolchain.progress import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolchain.cost import Cost, Offer
    from toolchain.prices import Money

SHOWN = 3
"""Offers that are shown, the cheapest first."""


def cost(
    recipe: str,
    found: "Cost",
    offers: "Sequence[Offer]",
    budget: "Money | None",
    *,
    base: str,
    as_json: bool,
) -> None:
    """Show what a recipe takes; `offers` are those within the budget, `base` is what it names."""
    if as_json:
        fields = asdict(found) | {"recipe": recipe, "seconds": found.seconds}
        fields["offers"] = [
            {**asdict(offer), "price": offer.price.model_dump()} for offer in offers[:SHOWN]
        ]
        console.show_json(fields)
        return

    if not found.stages:
        console.show_text(f"{recipe}: {_unknown(base)}")
        return

    console.show_text(
        f"on this computer: {duration(found.seconds)}, 0 {found.currency}; "
        f"{found.kwh:.3g} kWh, {found.co2_kg:.3g} kg CO2"
    )
    rows = [[each.stage, duration(each.seconds), each.by] for each in found.stages]
    console.show_table(("stage", "time", ""), rows)
    limit = f" within {budget.amount:g} {budget.currency}" if budget else ""
    if offers:
        console.show_text(f"\nrented, the cheapest of {len(offers)} offers{limit}:")
        console.show_table(_HEAD, [_row(offer, found.currency) for offer in offers[:SHOWN]])
    console.show_text("\nassumed: " + "\n         ".join(found.assumptions))


def _unknown(base: str) -> str:
    """Return why nothing can be said."""
    if not base:
        return "no stage of it takes time that can be estimated"
    return (
        f"its base `{base}` is not on this computer yet, and its size decides: a run brings it here"
    )


_HEAD = ("provider", "region", "accelerator", "", "hours", "price", "kWh", "kg CO2", "price of")


def _row(offer: "Offer", currency: str) -> list[str]:
    price = offer.price
    return [
        price.provider,
        price.region,
        price.gpu,
        "spot" if offer.is_spot else "on demand",
        f"{offer.hours:.2f}",
        f"{offer.amount:.2f} {currency}",
        f"{offer.kwh:.3g}",
        f"{offer.co2_kg:.3g}",
        price.date,
    ]

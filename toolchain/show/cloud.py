"""Files for rented computers: what they will take, and how they are handed over."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain import console

if TYPE_CHECKING:
    from toolchain.cloud import Job


def clouded(job: "Job", files: Sequence[Path], *, as_json: bool) -> None:
    """Show the files that were written, the offers that they name, and the next command."""
    from toolchain.cloud import SKY, SLURM

    if as_json:
        offers = [
            {
                "gpu": each.price.gpu,
                "spot": each.is_spot,
                "hours": each.hours,
                "amount": each.amount,
                "currency": job.found.currency,
                "date": each.price.date,
            }
            for each in job.offers
        ]
        console.show_json(
            {"recipe": job.recipe.id, "files": [str(each) for each in files], "offers": offers}
        )
        return
    rows = [
        [
            each.price.gpu,
            "spot" if each.is_spot else "",
            f"{each.hours:.2f}",
            f"{each.amount:.2f} {job.found.currency}",
            each.price.provider,
            each.price.date,
        ]
        for each in job.offers
    ]
    if rows:
        console.show_table(("accelerator", "", "hours", "price", "provider", "price of"), rows)
    folder = files[0].parent
    console.show_text(f"\nSkyPilot: sky jobs launch {folder / SKY}")
    console.show_text(f"Slurm:    sbatch {folder / SLURM}")


def mended(broken: Sequence[str], *, as_json: bool) -> None:
    """Show the stages that are done again because their files are not all there."""
    if as_json:
        console.show_json({"again": list(broken)})
        return
    for name in broken:
        console.show_text(f"{name}: not all of its files are there: it is done again")

"""Preferences of a recipe before any training: wrong lines, none of the asked kind, too few."""

from toolchain.align import resolved
from toolchain.checks import Ahead, Findings
from toolchain.ingest.preferences import read_preferences
from toolchain.preferences import divided, least_shown


def look(ahead: Ahead, findings: Findings) -> None:
    """Find lines that are no preference, and note how many there are and whether they are enough.

    Which questions the data holds out is not looked at: a few more may be held out in the end.
    """
    spec = ahead.recipe.align
    if spec is None or not ahead.walks("align"):
        return

    with findings.gathering():
        recipe = ahead.recipe
        found = read_preferences(spec, recipe.data, recipe.folder, findings.notes.append)
        _, used = resolved(spec, found)
        learned, held_out = divided(used, spec.held_out_share, recipe.seed, ())
        text = (
            f"align: {len(found.pairs)} pairs and {len(found.thumbs)} rated answers; "
            f"{len(learned)} preferences to learn from, {len(held_out)} held out"
        )
        if used.dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in used.dropped.items())
            text += f"; left out: {reasons}"
        findings.notes.append(text)
        if len(held_out) < least_shown():
            findings.notes.append(
                f"align: too few: with {len(held_out)} held-out preferences nothing can be told "
                f"from chance, and the model will stay as it is; {least_shown()} are the least"
            )

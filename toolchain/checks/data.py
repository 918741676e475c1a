"""The data of a recipe before any training: wrong lines, too little data, nothing held out."""

from toolchain.checks import Ahead, Findings
from toolchain.errors import ArtifactError, ConfigError
from toolchain.ingest import Parts, Ways, preview
from toolchain.ingest import look as look_at_files


def look(ahead: Ahead, findings: Findings) -> Parts | None:
    """Return the data as `ingest` would split it, after finding its faults; None if unused."""
    if not ahead.walks("ingest"):
        return None

    recipe = ahead.recipe
    if not recipe.data.files:
        findings.errors.append(ConfigError(f"{ahead.file}: data: files: names no file"))
        return None

    ways = Ways(ingest=recipe.ingest, work=ahead.out if ahead.writes else None, report=ahead.report)
    parts = look_at_files(recipe.data, recipe.folder, seed=recipe.seed, ways=ways)
    findings.preview += preview(parts, recipe.data)
    if parts.read.errors:
        findings.errors += parts.read.errors
        return None
    return parts if _is_enough(ahead, parts, findings) else None


def _is_enough(ahead: Ahead, parts: Parts, findings: Findings) -> bool:
    """Return whether there is data for the stages that are walked, and find what is missing."""
    files = ", ".join(ahead.recipe.data.files)
    learned = ahead.walks("tune", "distill") or (
        ahead.walks("quantize") if ahead.recipe.quantize.distill else []
    )
    if not parts.read.entries and not parts.read.documents:
        findings.errors.append(ArtifactError(f"{files}: nothing to learn from{_left(parts)}"))
    elif learned and not parts.train:
        problem = f"{files}: no conversation to learn from, which `{learned[0]}` needs"
        findings.errors.append(ArtifactError(problem + _left(parts), hint=_pages_hint(parts)))
    elif ahead.walks("evaluate") and not parts.held_out:
        findings.errors.append(_nothing_held_out(ahead, parts))
    else:
        return True

    return False


def _pages_hint(parts: Parts) -> str:
    """Return what pages are for; empty where there are none."""
    if not len(parts.read.documents):
        return ""
    return "pages are plain text for `pretrain`; with `[knowledge]` a board answers from them"


def _left(parts: Parts) -> str:
    """Return in words why nothing is left."""
    if parts.held_out and not parts.train:
        return f": all {len(parts.held_out)} entries are held out"
    if not parts.read.dropped:
        return ": no entry in them"
    where, reason = parts.read.dropped.first[0]
    return f": {len(parts.read.dropped)} dropped, the first at {where}: {reason}"


def _nothing_held_out(ahead: Ahead, parts: Parts) -> ConfigError:
    spec = ahead.recipe.data
    count = len(parts.read.entries)
    stage = "`evaluate` has nothing to measure on"
    if spec.held_out:
        why, hint = f"no entry of {', '.join(spec.held_out)} is left", "add entries to it"
    elif spec.hold_out == "phrasing":
        why = f"none of {count} entries has two phrasings"
        hint = 'write {"question": ["one way", "another way"], …}, or hold_out = "conversation"'
    elif not spec.held_out_share:
        why, hint = "`held_out_share` is 0", "a share of 0.1 holds out one entry in ten"
    else:
        share = spec.held_out_share
        entries = "entry" if count == 1 else "entries"
        why = f"{share:g} of {count} {entries}, drawn by its question, is none"
        hint = (
            f"add entries, raise `held_out_share` (0.5 holds out about {max(1, count // 2)}), "
            'or give each question several phrasings and hold_out = "phrasing"'
        )

    problem = f"{ahead.file}: data: nothing is held out, so {stage}: {why}"
    return ConfigError(problem, hint=hint)

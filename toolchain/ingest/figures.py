"""Figures of a data set: how much there is, what was recognised, found and done."""

from toolchain.figures import DatasetFigures, Lengths
from toolchain.ingest.clean import ROWS
from toolchain.ingest.found import Found
from toolchain.ingest.merge import CONTAMINATION, NEAR
from toolchain.ingest.parts import Parts
from toolchain.ingest.redact import NOT_LOOKED_FOR
from toolchain.ingest.shards.write import Lengths as Written
from toolchain.ingest.shards.write import Sizes
from toolchain.recipe import DataSpec

DIRT = (*(row.kind for row in ROWS), "language", NEAR, CONTAMINATION)
"""Kinds of dirt, in the order in which they are told."""


def figures_of(parts: Parts, spec: DataSpec, written: Written) -> DatasetFigures:
    """Return the figures of what was read, how it was split, and how long what was written is."""
    read, found = parts.read, parts.read.found
    looks, cleans = spec.redact.mode != "off", spec.clean.mode != "off"
    return DatasetFigures(
        entries=len(read.entries),
        documents=len(read.documents),
        train=parts.train.phrasings,
        held_out=parts.held_out.phrasings,
        texts=len(read.documents) + parts.train.phrasings,
        question_chars=_lengths(written.questions),
        answer_chars=_lengths(written.answers),
        text_chars=_lengths(written.texts),
        dropped=dict(sorted(read.dropped.reasons.items())),
        dropped_lines=[f"{where}: {reason}" for where, reason in read.dropped.first],
        unknown_keys=dict(sorted(read.unknown_keys.items())),
        forms={name: file.form for name, file in read.files.items()},
        rows={name: file.rows for name, file in read.files.items()},
        languages=_languages(found) if cleans else None,
        dirt=found.by_kind(DIRT) if cleans else None,
        personal=found.by_kind(spec.redact.kinds) if looks else None,
        by_file=found.by_file() if looks or cleans else None,
        changed_answers=found.changed_answers if looks or cleans else None,
        not_looked_for=not_looked_for(spec) if looks else None,
    )


def not_looked_for(spec: DataSpec) -> list[str]:
    """Return in words what no rule finds, and the kinds that the recipe leaves out."""
    said = [words for kind, words in NOT_LOOKED_FOR.items() if kind in spec.redact.kinds]
    left_out = [kind for kind in type(spec.redact)().kinds if kind not in spec.redact.kinds]
    return said + left_out


def _languages(found: Found) -> dict[str, dict[str, int]]:
    files: dict[str, dict[str, int]] = {}
    for (file, language), count in sorted(found.languages.items()):
        files.setdefault(file, {})[language] = count
    return files


def _lengths(sizes: Sizes) -> Lengths:
    if not sizes.count:
        return Lengths(mean=0.0, max=0)
    return Lengths(mean=round(sizes.total / sizes.count, 1), max=sizes.longest)

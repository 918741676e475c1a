"""Figures of a data set: how much there is, what was recognised, found and done."""

from collections.abc import Iterable, Iterator

from toolchain.figures import DatasetFigures, Lengths
from toolchain.ingest.clean import ROWS
from toolchain.ingest.duplicates import CONTAMINATION, KIND
from toolchain.ingest.found import Found
from toolchain.ingest.parts import Parts
from toolchain.ingest.redact import NOT_LOOKED_FOR
from toolchain.recipe import DataSpec
from toolchain.tool_use import said

DIRT = (*(row.kind for row in ROWS), "language", KIND, CONTAMINATION)
"""Kinds of dirt, in the order in which they are told."""


def figures_of(parts: Parts, spec: DataSpec) -> DatasetFigures:
    """Return the figures of what was read and how it was split."""
    read, found = parts.read, parts.read.found
    looks, cleans = spec.redact.mode != "off", spec.clean.mode != "off"
    texts = len(read.documents) + sum(len(entry.phrasings) for entry in parts.train)
    return DatasetFigures(
        entries=len(read.entries),
        documents=len(read.documents),
        train=sum(len(entry.phrasings) for entry in parts.train),
        held_out=sum(len(entry.phrasings) for entry in parts.held_out),
        texts=texts,
        question_chars=_lengths(_chars(parts, -2)),
        answer_chars=_lengths(_chars(parts, -1)),
        text_chars=_lengths(len(text) for text in parts.texts()),
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


def _chars(parts: Parts, at: int) -> Iterator[int]:
    """Yield the length of one message of each conversation, counted from its end."""
    for side in (parts.train, parts.held_out):
        for entry in side:
            for messages in entry.phrasings:
                yield len(said(messages[at]))


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


def _lengths(counts: Iterable[int]) -> Lengths:
    number = total = longest = 0
    for count in counts:
        number, total, longest = number + 1, total + count, max(longest, count)
    if not number:
        return Lengths(mean=0.0, max=0)
    return Lengths(mean=round(total / number, 1), max=longest)

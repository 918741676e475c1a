"""ATTRIBUTION.md: whom a bundle names, and under which terms, in the words that they ask for."""

from collections.abc import Iterator, Sequence

from toolchain.ledger import Source
from toolchain.terms.expression import base_of, choices
from toolchain.terms.judge import Terms
from toolchain.terms.table import rows

FILE = "ATTRIBUTION.md"
_USES = {
    "weights": "its weights were changed",
    "outputs": "a model learned from its answers",
    "trained": "a model learned from it",
    "beside": "travels as it is, cut into passages or converted",
}
"""Use of a source → how it was changed, which most licences ask to be said."""


def attribution(sources: Sequence[Source], terms: Terms) -> str:
    """Return the text of ATTRIBUTION.md; empty where no source asks to be named."""
    named = [source for source in sources if _asks(source)]
    if not named:
        return ""
    lines = ["# What this is made of", ""]
    for source in named:
        lines += _entry(source)
    if terms.conditions:
        lines += ["## Conditions", "", *(f"- {sentence}" for sentence in terms.conditions), ""]
    return "\n".join(lines)


def _asks(source: Source) -> bool:
    """Say whether a source must be named: its licence asks for it, or its authors do."""
    return bool(source.attribution) or any(
        row.attribution or row.notice for row in map(rows().get, _licences(source)) if row
    )


def _licences(source: Source) -> list[str]:
    if not source.licence:
        return []
    return sorted({base_of(each) for choice in choices(source.licence) for each in choice})


def _entry(source: Source) -> Iterator[str]:
    yield f"## {source.name}"
    yield ""
    if source.attribution:
        yield f"- {source.attribution}"
    if source.url:
        yield f"- from {source.url}"
    yield f"- licence: {source.licence or 'unknown'}"
    for licence in _licences(source):
        row = rows().get(licence)
        if row and row.notice:
            yield f"- {row.notice}"
        if row and row.kind != "own":
            yield f"- its text: {row.source.partition(',')[0]}"
    yield f"- {source.role}: {_USES[source.use]}"
    yield ""

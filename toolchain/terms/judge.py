"""The judgement: sources with their licences, and what a bundle claims, against what they allow.

Two parties clash or they do not; each conflict names both. Of a source under `A OR B` one choice
must do; of a claim `A OR B` each must, because whoever gets the bundle may take any of them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from toolchain.errors import TrustError
from toolchain.ledger import ADAPTED, Source
from toolchain.terms.expression import Choice, base_of, choices
from toolchain.terms.table import Licence, rows

_SHOWN = 4
MOST_COMBINATIONS = 512
"""Combinations of choices that are tried, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a bundle says of itself."""

    name: str
    licence: str = ""
    """SPDX expression; empty where the recipe claims none."""
    is_trained: bool = True
    """Whether the model learned something here; a finished model is passed on as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a bundle may travel under."""

    result: str
    """SPDX expression; empty where it is unknown."""
    conditions: tuple[str, ...] = ()
    """What is asked beside the licences' own texts, a sentence each."""
    unknown: tuple[str, ...] = ()
    """Sources whose terms nobody knows."""
    conflicts: tuple[str, ...] = ()
    """What cannot be together, a sentence each that names both."""

    @property
    def unknown_words(self) -> str:
        """Sources whose terms nobody knows, in words: the first, and how many more."""
        more = len(self.unknown) - _SHOWN
        shown = ", ".join(self.unknown[:_SHOWN])
        return f"{shown} and {more} more" if more > 0 else shown

    def as_json(self) -> dict[str, str | list[str]]:
        """Return the terms as a manifest has them."""
        return {
            "result": self.result,
            "conditions": list(self.conditions),
            "unknown": list(self.unknown),
        }

    def refuse(self, where: str, *, strict: bool) -> None:
        """Raise TrustError for conflicts, and with `strict` for unknown terms."""
        if self.conflicts:
            raise TrustError(
                f"{where}: terms: " + "; ".join(self.conflicts),
                hint="leave one of the two out, or correct `licence` where it is said wrongly",
            )
        if strict and self.unknown:
            raise TrustError(
                f"{where}: terms: unknown for {self.unknown_words}",
                hint="`strict` asks for the terms of every source: say them in "
                "`[[data.sources]]`, `[model] licence` or `[knowledge] embedder_licence`",
            )


@dataclass(frozen=True, slots=True)
class _Party:
    """One licence of one source."""

    source: Source
    licence: str
    row: Licence

    @property
    def is_adapted(self) -> bool:
        return self.source.use in ADAPTED

    @property
    def said(self) -> str:
        return f"{self.source.role} `{self.source.name}` ({self.licence})"


def judge(sources: Sequence[Source], claim: Claim) -> Terms:
    """Return the terms of what is made of these sources."""
    known = [source for source in sources if source.licence]
    claimed: list[Choice] = choices(claim.licence) if claim.licence else [frozenset()]
    best: tuple[list[str], tuple[Choice, ...]] | None = None
    # Sources of one use under one licence choose alike: another choice for one of them ends no
    # conflict. A hundred files under `A OR B` have two combinations, not 2^100.
    alike = list(dict.fromkeys(map(_kind_of, known)))
    places = [alike.index(_kind_of(source)) for source in known]
    each = (choices(licence) for _, licence in alike)
    for several in islice(product(*each), MOST_COMBINATIONS):
        chosen = tuple(several[place] for place in places)
        parties = _parties(known, chosen)
        found = list(
            dict.fromkeys(
                sentence for atoms in claimed for sentence in _conflicts(parties, atoms, claim)
            )
        )
        if best is None or len(found) < len(best[0]):
            best = found, chosen
        if not found:
            break

    conflicts, chosen = best or ([], ())
    parties = _parties(known, chosen)
    unknown = _unknown(sources, known, chosen)
    return Terms(
        result=claim.licence or ("" if unknown else _result(parties)),
        conditions=tuple(dict.fromkeys(_conditions(parties))),
        unknown=tuple(unknown),
        conflicts=tuple(conflicts),
    )


def _kind_of(source: Source) -> tuple[str, str]:
    return source.use, source.licence


def _parties(sources: Sequence[Source], chosen: Sequence[Choice]) -> list[_Party]:
    """Return each licence of each source that the table knows."""
    return [
        _Party(source, licence, row)
        for source, choice in zip(sources, chosen, strict=True)
        for licence in sorted(choice)
        if (row := rows().get(base_of(licence)))
    ]


def _unknown(
    sources: Sequence[Source], known: Sequence[Source], chosen: Sequence[Choice]
) -> list[str]:
    """Return the sources without terms, and those under a licence that no row describes."""
    said = [f"{s.role} `{s.name}`" for s in sources if not s.licence]
    for source, choice in zip(known, chosen, strict=True):
        said += [
            f"{source.role} `{source.name}` ({licence}, which is not in the table)"
            for licence in sorted(choice)
            if base_of(licence) not in rows()
        ]
    return list(dict.fromkeys(said))


def _conflicts(parties: Sequence[_Party], claimed: Choice, claim: Claim) -> Iterator[str]:
    for party in parties:
        yield from _alone(party, parties, claim)
        if claimed:
            yield from _against_claim(party, claimed)
    for number, first in enumerate(parties):
        for second in parties[number + 1 :]:
            if first.is_adapted and second.is_adapted:
                yield from _against(first, second)


def _alone(party: _Party, parties: Sequence[_Party], claim: Claim) -> Iterator[str]:
    """Yield what a licence forbids whatever the others say."""
    row, use = party.row, party.source.use
    if not row.derivatives and party.is_adapted:
        made = "the model is trained on it" if use != "weights" else "its weights are changed"
        yield f"{party.said} allows no derivatives, and {made} for `{claim.name}`"

    is_output = use == "outputs" or (use == "trained" and row.kind == "model")
    if row.outputs_only_for and is_output:
        others = [
            other
            for other in parties
            if other.source.use == "weights" and other.row.family != row.outputs_only_for
        ]
        for other in others[:1]:
            yield (
                f"{party.said} lets its outputs improve {row.outputs_only_for} models alone, "
                f"{other.said} is none"
            )

    trains = claim.is_trained and (use == "weights" or is_output)
    if row.name_prefix and trains and not _begins(claim.name, row.name_prefix):
        yield (
            f"{party.said} asks that the name of what is trained with it begins with "
            f"`{row.name_prefix}`, it is `{claim.name}`"
        )


def _begins(name: str, prefix: str) -> bool:
    """Say whether a name begins with a prefix; signs and spaces between words do not count."""
    plain, start = (re.sub(r"[^a-z0-9]", "", text.lower()) for text in (name, prefix))
    return plain.startswith(start)


def _against_claim(party: _Party, claimed: Choice) -> Iterator[str]:
    row = party.row
    said = f"`package.licence` ({' AND '.join(sorted(claimed))})"
    ids = {base_of(each) for each in claimed}
    facts = [rows().get(each) for each in sorted(ids)]

    if not row.commercial and all(fact and fact.commercial for fact in facts):
        yield f"{party.said} allows no commercial use, {said} does"
    if not party.is_adapted:
        return
    if row.same_terms and not ids & set(row.same_terms):
        yield f"{party.said} asks that what is made of it has the same terms, {said} has others"
    # Terms of the recipe's own may well repeat the restrictions: nobody can tell from their name.
    if row.passes_on and row.id not in ids and all(facts):
        yield f"{party.said} asks that its terms are passed on, {said} has none of them"


def _against(first: _Party, second: _Party) -> Iterator[str]:
    """Yield why two licences cannot be in one work."""
    for one, other in ((first, second), (second, first)):
        if one.row.id == other.row.id:
            return
        if other.row.id in one.row.not_with:
            yield f"{one.said} and {other.said} cannot be in one work"
        if not one.row.same_terms or other.row.id in one.row.same_terms:
            continue
        if other.row.same_terms:
            # Said once, for the pair.
            if one is first and not {*one.row.same_terms} & {*other.row.same_terms}:
                yield f"{one.said} and {other.said} both ask for their own terms alone"
        elif other.row.passes_on:
            yield f"{one.said} allows no further restrictions, {other.said} has some"
        elif not other.row.commercial and one.row.commercial:
            yield f"{one.said} asks that commercial use is allowed, {other.said} forbids it"


def _conditions(parties: Sequence[_Party]) -> Iterator[str]:
    for party in parties:
        if not party.row.commercial:
            yield f"no commercial use ({party.licence})"
        if party.row.condition:
            yield party.row.condition


def _result(parties: Sequence[_Party]) -> str:
    """Return the expression of all licences that hold for a work made of these."""
    licences = {party.licence for party in parties if party.is_adapted and party.row.kind != "own"}
    if not licences and parties:
        return "LicenseRef-ours"
    return " AND ".join(sorted(licences))

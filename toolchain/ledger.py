"""The ledger: which sources a stage read, under which terms, what was found in them and what was
done with them.

Every record has the block of its own stage; a bundle's manifest has the sum. The rule to keep: a
term that nobody stated is unknown, and is never taken for a permission.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from device.manifest.fields import MAX_WORDS
from toolchain.config import Frozen

Role = Literal[
    "base",
    "adapter",
    "teacher",
    "student",
    "embedder",
    "data",
    "opening",
    "preferences",
    "documents",
    "questions",
    "guard",
]
"""What a source is for a recipe."""
Use = Literal["weights", "outputs", "trained", "beside"]
"""What becomes of a source: its weights are changed, its outputs are learned, its text is learned,
or it travels in the bundle as it is."""
MOST_SOURCES = 1000
"""Sources that a manifest names one by one."""
ADAPTED: tuple[Use, ...] = ("weights", "outputs", "trained")
"""Uses that make a work of their own out of the source."""


class Source(Frozen):
    """One source of text or of weights, and the terms under which it was read."""

    role: Role
    use: Use
    name: str
    """File relative to the recipe, or the name of a model."""
    sha256: str = ""
    """Digest of its bytes; empty where they are not known yet."""
    licence: str = ""
    """SPDX expression; empty where nobody said it."""
    said_by: str = ""
    """Where the licence stands: `recipe`, `table of bases`, `model card`, `LICENSE`."""
    rows: int | None = None
    """Entries that were read of it; None where they are not counted."""
    subject: str = ""
    """Key of a row that names the person whom the row is about."""
    url: str = ""
    attribution: str = ""
    """Words with which its authors want to be named."""
    note: str = ""

    @property
    def said(self) -> str:
        """What it is called in a sentence: its name and its licence."""
        return f"{self.role} `{self.name}` ({self.licence or 'terms unknown'})"


class Privacy(Frozen):
    """What a training under differential privacy claims, and what it does not."""

    stage: str
    """The only stage that read the text and let something of it out."""
    epsilon: float
    delta: float
    unit: str
    """What is there or not in two neighbouring data sets."""
    units: int
    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    not_counted: tuple[str, ...] = ()


class Ledger(Frozen):
    """Account of the text and weights that one stage read, or of all stages together."""

    sources: tuple[Source, ...] = ()
    found: dict[str, int] = Field(default_factory=dict)
    """Kind of finding → how often it was found in the text."""
    replaced: dict[str, int] = Field(default_factory=dict)
    """Kind of finding → how often it was replaced."""
    done: tuple[str, ...] = ()
    """What was done with the sources, a sentence for each stage."""
    privacy: Privacy | None = None
    """None where nothing is claimed."""

    def unknown(self) -> tuple[Source, ...]:
        """Return the sources whose terms nobody stated."""
        return tuple(source for source in self.sources if not source.licence)


def total(ledgers: Iterable[Ledger | None]) -> Ledger:
    """Return the sum of the ledgers of several stages.

    A source that several of them read stands in it once, with the use that asks for the most.
    """
    sources: dict[tuple[str, str], Source] = {}
    found: Counter[str] = Counter()
    replaced: Counter[str] = Counter()
    done: list[str] = []
    privacy = None
    for ledger in filter(None, ledgers):
        for source in ledger.sources:
            place = (source.role, source.name)
            sources[place] = _stronger(sources.get(place), source)
        found.update(ledger.found)
        replaced.update(ledger.replaced)
        done += ledger.done
        privacy = ledger.privacy or privacy

    return Ledger(
        sources=tuple(sources.values()),
        found=dict(sorted(found.items())),
        replaced=dict(sorted(replaced.items())),
        done=tuple(dict.fromkeys(done)),
        privacy=privacy,
    )


def travelling(ledger: Ledger) -> Ledger:
    """Return what a bundle may say of a ledger: under a claim of privacy nothing exact of the text.

    Whoever knows all entries but one finds the last by a digest of the file, or by a count of what
    was found in it, whatever ε is. The number of entries counts as known.
    """
    if ledger.privacy is None:
        return ledger
    sources = tuple(
        source.model_copy(update={"sha256": ""}) if source.role == "data" else source
        for source in ledger.sources
    )
    return ledger.model_copy(
        update={
            "sources": sources,
            "found": {},
            "replaced": {},
            "done": tuple(each for each in ledger.done if not each.startswith("ingest: ")),
        }
    )


def _stronger(known: Source | None, other: Source) -> Source:
    """Return one account of a source that two stages read."""
    if known is None:
        return other
    first, second = (known, other) if known.use in ADAPTED else (other, known)
    rows = first.rows if first.rows is not None else second.rows
    return first.model_copy(update={"rows": rows, "sha256": first.sha256 or second.sha256})


def grouped(ledger: Ledger, most: int = MOST_SOURCES) -> Ledger:
    """Return a ledger of at most about `most` sources: files under the same terms become one.

    A board reads no manifest of any size.
    """
    if len(ledger.sources) <= most:
        return ledger
    groups: dict[Source, list[Source]] = {}
    for source in ledger.sources:
        terms = source.model_copy(update={"name": "", "sha256": "", "rows": None})
        groups.setdefault(terms, []).append(source)
    sources = tuple(_group(terms, members) for terms, members in groups.items())
    return ledger.model_copy(update={"sources": sources})


def _group(terms: Source, members: Sequence[Source]) -> Source:
    if len(members) == 1:
        return members[0]
    digests = "".join(sorted(f"{source.name}\0{source.sha256}\n" for source in members))
    counted = [source.rows for source in members if source.rows is not None]
    return terms.model_copy(
        update={
            "name": f"{members[0].name} and {len(members) - 1:,} more",
            "sha256": hashlib.sha256(digests.encode("utf-8", "replace")).hexdigest(),
            "rows": sum(counted) if counted else None,
        }
    )


def as_json(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as a manifest has it: without what nobody said, and no text too long."""
    fields = ledger.model_dump(mode="json")
    if ledger.privacy is None:
        del fields["privacy"]
    fields["sources"] = [
        {
            name: value[:MAX_WORDS] if isinstance(value, str) else value
            for name, value in source.items()
            if value not in ("", None)
        }
        for source in fields["sources"]
    ]
    return fields


def lines(ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a ledger says as names and texts, for people; it comes from a manifest."""
    rows: list[tuple[str, str]] = []
    sources = ledger.get("sources") or ()
    if sources:
        rows.append(("sources", "  ·  ".join(map(_source_words, sources))))
    found, replaced = ledger.get("found") or {}, ledger.get("replaced") or {}
    if found:
        rows.append(("found", f"{_counts(found)}; replaced {sum(replaced.values())}"))
    if said := privacy_words(ledger.get("privacy")):
        rows.append(("privacy", said))
    terms = ledger.get("terms") or {}
    if terms:
        rows.append(("terms", terms_words(terms)))
    return rows


def leak_words(leak: Mapping[str, Any]) -> str:
    """Return in words what a model file was measured to give away; empty if it was not asked."""
    if not leak or not isinstance(leak.get("secrets"), int):
        return ""
    said = f"{leak['secrets']} secrets: {leak.get('extracted', 0)} extracted"
    exposure, most = leak.get("exposure_bits"), leak.get("most_bits")
    if isinstance(exposure, int | float) and isinstance(most, int | float):
        said += f", exposure {exposure:.1f} bit (chance 1.4, most {most:.1f})"
    before = leak.get("before_exposure_bits")
    if isinstance(before, int | float):
        said += f", before quantization {before:.1f}"
    auc, error = leak.get("membership_auc"), leak.get("membership_error")
    if isinstance(auc, int | float) and isinstance(error, int | float):
        said += f"; membership AUC {auc:.2f} ± {error:.2f}"
    return said


def privacy_words(privacy: Any) -> str:
    """Return in words what is claimed of a training's privacy; empty where nothing is.

    It may come from a manifest.
    """
    numbers = ("epsilon", "delta", "clip", "noise_multiplier")
    if not isinstance(privacy, Mapping) or not all(
        isinstance(privacy.get(name), int | float) for name in numbers
    ):
        return ""
    said = (
        f"ε ≤ {privacy['epsilon']:.2f} at δ = {privacy['delta']:.1e}, "
        f"unit {privacy.get('unit', '?')}, {privacy.get('stage', '?')} only, "
        f"clip {privacy['clip']:g}, noise {privacy['noise_multiplier']:g}"
    )
    not_counted = privacy.get("not_counted") or ()
    return said + (f"; not counted: {', '.join(map(str, not_counted))}" if not_counted else "")


def terms_words(terms: Mapping[str, Any]) -> str:
    """Return in words under which terms a bundle may be passed on."""
    result, unknown = terms.get("result") or "", terms.get("unknown") or ()
    said = f"result: {result or 'unknown'}"
    if unknown:
        said += f"; unknown for {', '.join(map(str, unknown))}"
    for sentence in terms.get("conditions") or ():
        said += f"; {sentence}"
    return said


def _source_words(source: Mapping[str, Any]) -> str:
    subject = f", subject {source['subject']}" if source.get("subject") else ""
    role = source.get("role", "")
    role = "" if role in ("", "data", "documents") else f"{role}  "
    licence = source.get("licence") or "terms unknown"
    note = str(source.get("note") or "")
    rounds = f", {note}" if note.startswith("round ") else ""
    return f"{role}{source.get('name', '')}  {licence}{subject}{rounds}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def rows_of(sources: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return role, name, licence and number of rows of each source, for a table."""
    return [
        (
            str(source.get("role", "")),
            str(source.get("name", "")),
            str(source.get("licence") or "terms unknown"),
            str(source.get("rows", "")),
        )
        for source in sources
    ]

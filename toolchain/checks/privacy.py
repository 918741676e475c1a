"""A claim of privacy holds from end to end, or the walk does not begin.

The rule to keep: with `[tune.privacy]` only `tune` may let something of the data out. Each other
stage that would is refused by name, with what to do instead, or reads what nobody is to be
protected in.
"""

from collections.abc import Iterator

from toolchain.checks import Ahead, Findings
from toolchain.errors import ConfigError
from toolchain.ingest import Parts
from toolchain.ingest.split import plain_key, question_key
from toolchain.knowledge.files import find_files
from toolchain.privacy.protection import protection
from toolchain.privacy.rules import MANY, ONE, Fault, faults_of
from toolchain.processes import many
from toolchain.recipe import Recipe
from toolchain.tool_use import said

FEW_UNITS = 100_000
"""Units below which redaction and deduplication are the better first step."""
_STAGES = {
    "pretrain": (
        "it would learn text and tokens without protection",
        "train the base by a recipe of its own on public text, and name its folder as `base`",
    ),
    "distill": (
        "the student would learn the conversations without protection",
        "leave it out; a smaller `base` may be tuned instead",
    ),
    "align": (
        "preferences would be learned without protection",
        "align a base by a recipe of its own on public preferences, and name its folder as `base`",
    ),
    "trim": (
        "which tokens stay would tell what the text holds",
        "leave it out, or trim a base by a recipe of its own on public text",
    ),
    "guard": (
        "its weights and its threshold would follow from the questions",
        "leave it out, or make it by a recipe on public questions",
    ),
}
"""Stage → why it is refused, and what to do instead."""


def look(ahead: Ahead, parts: Parts | None, findings: Findings) -> None:
    """Find what would break the claim of `[tune.privacy]`; say what it costs."""
    recipe = ahead.recipe
    if recipe.privacy is None:
        return
    for fault in _faults(ahead, parts):
        table, _, key = fault.key.rpartition(".")
        where = ahead.place(table.split(".") if table else [], key)
        problem = f"{where}: {fault.key.replace('.', ': ')}: not with `[tune.privacy]`: "
        findings.errors.append(ConfigError(problem + fault.problem, hint=fault.remedy))
    if parts and ahead.walks("tune"):
        with findings.gathering():
            _tell_price(ahead, parts, findings)


def _faults(ahead: Ahead, parts: Parts | None) -> Iterator[Fault]:
    recipe = ahead.recipe
    for stage in ahead.walks(*_STAGES):
        problem, remedy = _STAGES[stage]
        yield Fault(key="stages", problem=f"`{stage}`: {problem}", remedy=remedy)
    if ahead.walks("tune"):
        for fault in faults_of(recipe.tune):
            yield Fault(key=f"tune.{fault.key}", problem=fault.problem, remedy=fault.remedy)
    if many():
        yield Fault(key="tune.privacy", problem=MANY, remedy=ONE)
    if recipe.data.hold_out == "phrasing" and not recipe.data.held_out:
        yield Fault(
            key="data.hold_out",
            problem="what the gate asks and tells would be phrasings of learned entries",
            remedy='hold_out = "conversation" holds out whole entries',
        )
    yield from _of_quantize(ahead)
    if ahead.walks("evaluate") and recipe.evaluate.probes:
        yield Fault(
            key="evaluate.probes",
            problem="the verdict names words of learned conversations",
            remedy="leave it out, or probe the bundle from outside",
        )
    yield from _of_documents(ahead)
    if parts:
        yield from _of_opening(recipe, parts)


def _of_quantize(ahead: Ahead) -> Iterator[Fault]:
    """Yield what a model file would be fitted to."""
    if not ahead.walks("quantize"):
        return
    spec = ahead.recipe.quantize
    if spec.importance is True:
        yield Fault(
            key="quantize.importance",
            problem="the matrix would be collected on the learned text",
            remedy="leave it out, or name a file that was collected on public text",
        )
    if spec.distill:
        yield Fault(
            key="quantize.distill",
            problem="codes would be learned on the conversations without protection",
            remedy="leave it out",
        )
    if any(scheme.startswith("auto:") for scheme in (spec.scheme, *ahead.schemes)):
        yield Fault(
            key="quantize.scheme",
            problem="types would be chosen on conversations",
            remedy="name a scheme, such as Q4_K_M",
        )


def _of_documents(ahead: Ahead) -> Iterator[Fault]:
    """Yield files that would travel, or be fitted on, though nobody marked them as public."""
    recipe = ahead.recipe
    named = [("data.documents", name) for name in recipe.data.documents]
    if (spec := recipe.knowledge) and ahead.walks("know"):
        named += [("knowledge.files", name) for name in _documents(recipe, spec.files)]
        named += [("knowledge.questions", name) for name in spec.questions]
        learned = set(recipe.data.files)
        for key in ("unanswered", "tuning", "fresh"):
            names: tuple[str, ...] = getattr(spec, key)
            named += [(f"knowledge.{key}", name) for name in names if name in learned]
    for key, name in named:
        if not any(source.public and source.covers(name) for source in recipe.data.sources):
            yield Fault(
                key=key,
                problem=f"`{name}` would travel, and nothing says that it is public",
                remedy=f'[[data.sources]] files = ["{name}"], licence = …, public = true',
            )


def _documents(recipe: Recipe, patterns: tuple[str, ...]) -> list[str]:
    """Return the documents that patterns mean."""
    try:
        return [name for name, file in find_files(patterns, recipe.folder).items()]
    except ConfigError:  # found where the documents are looked at
        return []


def _of_opening(recipe: Recipe, parts: Parts) -> Iterator[Fault]:
    """Yield texts of the recipe that stand in the data, too: they travel word for word."""
    turns = {plain_key(turn.answer): turn for turn in recipe.data.turns}
    asked = plain_key(recipe.question) if recipe.question else None
    if not turns and asked is None:
        return
    found = set()
    for entry in parts.read.entries:
        for phrasing in entry.phrasings:
            if asked is not None and question_key(phrasing) == asked:
                found.add("question")
            if plain_key(said(phrasing[-1])) in turns:
                found.add("data.turns")
    for key in sorted(found):
        yield Fault(
            key=key,
            problem="it stands in the data, and travels or is shown word for word",
            remedy="write one that is nobody's",
        )


def _tell_price(ahead: Ahead, parts: Parts, findings: Findings) -> None:
    """Note what is claimed, and that small data pays a high price."""
    recipe = ahead.recipe
    assert recipe.privacy
    units = len(parts.train)
    where = f"{ahead.file}: tune: privacy"
    claim = protection(recipe.privacy, units, recipe.tune.epochs, where)
    findings.notes.append(
        f"tune: privacy: {claim.words}, {claim.steps} steps of {claim.expected_batch} of {units:,} "
        "units on average; the search for settings and other releases are not counted, and the "
        "training is not repeatable"
    )
    if units < FEW_UNITS:
        findings.notes.append(
            f"tune: privacy: {units:,} units are few: the noise may cost most of what is learned "
            "(docs/privacy.md); use redaction and deduplication first"
        )
    if any(source.subject for source in recipe.data.sources):
        findings.notes.append(
            "tune: privacy: the unit is an entry: a person of several entries is protected less"
        )

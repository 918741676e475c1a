"""Checks licences before anything is made: those that clash, and unknown ones."""

from toolchain.checks import Ahead, Findings
from toolchain.config import line_of
from toolchain.errors import ConfigError, TrustError
from toolchain.ledger import Source
from toolchain.terms import BadExpression, Claim, canonical, judge


def look(ahead: Ahead, sources: list[Source], findings: Findings) -> None:
    """Find terms that a bundle of these sources could not have; note unknown ones."""
    if not ahead.walks("package"):
        return
    recipe = ahead.recipe
    try:
        licence = canonical(recipe.package.licence)
    except BadExpression as error:
        line = line_of(recipe.text(), ["package"], "licence")
        findings.errors.append(ConfigError(f"{ahead.file}:{line}: package: licence: {error}"))
        return
    terms = judge(sources, Claim(name=recipe.name, licence=licence, is_trained=recipe.learns))
    try:
        terms.refuse(ahead.file, strict=recipe.data.strict)
    except TrustError as error:
        findings.errors.append(error)
        return
    if terms.unknown:
        findings.notes.append(f"terms: unknown for {terms.unknown_words}")

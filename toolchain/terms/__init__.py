"""Terms: under which licence a model may travel that was made of what others wrote and trained.

Facts about licences are in `licences.toml`, each with its source; `judge` applies them to the
sources of a ledger. It is no legal advice: what nobody knows is called unknown.
"""

from toolchain.terms.expression import BadExpression, canonical, known_or_none
from toolchain.terms.judge import Claim, Terms, judge

__all__ = ["BadExpression", "Claim", "Terms", "canonical", "judge", "known_or_none"]

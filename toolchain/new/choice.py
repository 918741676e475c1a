"""Chooses base, scheme and context for a board by what `fit` says of them.

The largest base is taken that fits in the board's memory and answers as fast as a person reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from toolchain import bases
from toolchain import target as targets
from toolchain.bases import Base
from toolchain.config import closest
from toolchain.errors import ConfigError, FitError
from toolchain.fitting import SCHEME, memory_here_mb
from toolchain.new.asked import shown
from toolchain.new.bases import weigh
from toolchain.profiles import PROFILES
from toolchain.target import MB, Fit, Target

READING_TOK_S = 5.0
"""Tokens a second that an answer must come with, at the least."""
# Adults read 238 English words a minute silently (Brysbaert 2019, Journal of Memory and Language
# 109, 104047): four a second, of about 1.3 tokens each.
CONTEXTS = (4096, 2048, 1024)
"""Tokens of context that are tried, in this order."""
USED_SHARE = 0.9
"""Share of the memory beside the system that a base may take where a person names none."""
# A forecast is no measurement, and a board runs more than this service.
KNOWLEDGE_BYTES = 40 * MB
"""Memory that documents and their embedder take beside the model, at most."""
UNKNOWN_MEMORY_MB = 2048
"""Memory that is counted on where only the machine itself knows it, and it is not this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a person asked for."""

    board: Target
    languages: tuple[str, ...] = ("en",)
    """Codes that `bases.toml` knows."""
    base: str = ""
    """Id, Hub id or `package:` name of a base in the table; empty: the largest that will do."""
    has_documents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A base as a model file on a board."""

    base: Base
    scheme: str
    context: int
    tok_s: float
    """Tokens a second of an answer."""
    is_measured: bool
    """Whether the rate comes from a measured one of this board, and not from other boards."""
    fit: Fit

    @property
    def is_roomy(self) -> bool:
        """Whether it fits and leaves memory for other programs."""
        return self.fit.ok and self.fit.needed_mb <= USED_SHARE * self.fit.available_mb

    @property
    def is_fast(self) -> bool:
        """Whether it answers as fast as a person reads."""
        return self.tok_s >= READING_TOK_S


def choose(wish: Wish) -> Choice:
    """Return the base, scheme and context of a new recipe.

    Raise ConfigError for a base that the table does not have, and for languages that no base of it
    was made for. Raise FitError if nothing fits.
    """
    candidates = [named(wish.base)] if wish.base else _candidates(wish.languages)
    tried: list[Choice] = []
    for base, scheme in product(candidates, schemes_for(wish.board)):
        for choice in _weighed(wish, base, scheme):
            if choice.is_roomy and choice.is_fast:
                return choice
            tried.append(choice)

    if fitting := [choice for choice in tried if choice.fit.ok]:
        return max(fitting, key=lambda each: (each.is_roomy, each.tok_s, each.context))
    raise _nothing_fits(wish, tried[-1])


def named(name: str) -> Base:
    """Return the base of this id, Hub id or package; raise ConfigError that names the closest."""
    table = bases.table().base
    for base in table:
        names = {base.id, base.hub.lower(), base.package.lower()} - {""}
        if name.lower() in names:
            return base
    raise ConfigError(
        f"--base: `{shown(name)}` is not in the table of bases",
        hint=f"{closest(name.lower(), [base.id for base in table])}; "
        "any other model is written into the recipe by hand, as `base` under [model]",
    )


def _candidates(languages: tuple[str, ...]) -> list[Base]:
    """Return the bases to choose from by itself, the largest first."""
    speaking = [base for base in bases.table().base if base.speaks(languages)]
    free = [base for base in speaking if base.is_open and not base.thinks]
    if not free:
        spoken = " and ".join(f"`{language}`" for language in languages)
        others = ", ".join(base.id for base in speaking)
        raise ConfigError(
            f"--language: no base that is chosen by itself was made for {spoken}",
            hint=f"--base names one: {others}" if others else "give fewer languages",
        )
    return sorted(free, key=lambda base: base.parameters, reverse=True)


def schemes_for(board: Target) -> tuple[str, ...]:
    """Return the schemes that suit a board's processor, the better one first."""
    # llama.cpp has kernels that read four bits in another order for processors with dot products
    # and for AVX2. Without them four bits must be unpacked first, so eight bits, which keep more of
    # the model, are taken while they fit and are fast enough.
    has_kernels = "Q4_K" in PROFILES[board.profile].repacked
    return (SCHEME,) if has_kernels else ("Q8_0", SCHEME)


def _nothing_fits(wish: Wish, smallest: Choice) -> FitError:
    what = f"{smallest.base.name} as {smallest.scheme}"
    others = "choose a board with more memory: `demitasse targets` lists them"
    return FitError(
        f"{wish.board.id}: {what} does not fit: {'; '.join(smallest.fit.reasons)}",
        hint=f"leave --base out, or {others}" if wish.base else others,
    )


def _weighed(wish: Wish, base: Base, scheme: str) -> Iterator[Choice]:
    """Yield a base as the model file of a scheme with each context that it was made for."""
    weighed = weigh(base, scheme)
    visible_mb = memory_here_mb(wish.board) or wish.board.memory_mb or UNKNOWN_MEMORY_MB
    more_bytes = KNOWLEDGE_BYTES if wish.has_documents else 0
    for context in CONTEXTS:
        expected = weighed.forecast(wish.board, context, 0)
        needs = expected.needs
        needs = replace(needs, runtime_bytes=needs.runtime_bytes + more_bytes)
        rate = expected.decode
        cautious = cautious_gb_s(wish.board) * 1e9 / expected.bytes_per_token
        yield Choice(
            base=base,
            scheme=scheme,
            context=context,
            tok_s=rate.tok_s if rate else cautious,
            is_measured=rate is not None,
            fit=targets.fit(needs, wish.board, visible_mb, trained_context=base.context),
        )


def cautious_gb_s(board: Target) -> float:
    """Return the bytes that a board is expected to read in a second where nobody measured it.

    That is as small a share of what its memory can give as a measured board has, or else as little
    as the slowest measured board.
    """
    slowest, smallest_share = _of_measured_boards()
    bandwidth = board.memory.bandwidth_theoretical_gb_s
    return bandwidth * smallest_share if bandwidth else slowest


@cache
def _of_measured_boards() -> tuple[float, float]:
    """Return the slowest decoding of all measured boards, in GB/s, and as a share of memory's
    rate.
    """
    rates: list[float] = []
    shares: list[float] = []
    for board in targets.all_targets():
        best = max((speed.decode_gb_s or 0.0 for speed in board.speed), default=0.0)
        if not best:
            continue
        rates.append(best)
        if bandwidth := board.memory.bandwidth_theoretical_gb_s:
            shares.append(best / bandwidth)
    return min(rates), min(shares)

"""Preferences: which of two answers people want, and which single answers they liked or not.

`ingest.preferences` reads them, `align` learns from them. The rule to keep: what is counted here is
people, not rows. A row that stands twice counts once, opposite opinions cancel out, and no client
gives more than its share.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from toolchain.artifacts import value_digest

Messages = tuple[Mapping[str, Any], ...]
CONFIDENCE = 0.95
CONTRADICTED = "as many said the opposite"
DOUBLE = "said before"
OVER_SHARE = "over its client's share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to the same conversation: the wanted one, and one that is worse."""

    messages: Messages
    """The conversation up to the answer."""
    chosen: str
    rejected: str
    client: str = ""
    """Who said so; empty where nobody knows."""
    about: str = ""
    """Id of the answer that was rated; empty where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumb:
    """One answer that somebody liked, or did not."""

    messages: Messages
    """The conversation up to the answer."""
    answer: str
    good: bool
    client: str = ""
    about: str = ""


Preference = Pair | Thumb
Row = TypeVar("Row", bound=Preference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """All preferences of a recipe, and what was left out."""

    pairs: tuple[Pair, ...] = ()
    thumbs: tuple[Thumb, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason → number of rows."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File → its sha256."""

    def __len__(self) -> int:
        return len(self.pairs) + len(self.thumbs)

    @property
    def digest(self) -> str:
        """Return what decides the training."""
        return value_digest((self.pairs, self.thumbs))

    def as_pairs(self) -> "Preferences":
        """Return pairs alone: a liked and a disliked answer to one conversation are a pair."""
        liked: dict[Hashable, list[Thumb]] = {}
        for thumb in self.thumbs:
            if thumb.good:
                liked.setdefault(key_of(thumb.messages), []).append(thumb)

        found = list(self.pairs)
        matched: set[int] = set()
        for thumb in self.thumbs:
            partners = [] if thumb.good else liked.get(key_of(thumb.messages), [])
            for good in partners:
                matched |= {id(good), id(thumb)}
                found.append(
                    Pair(
                        messages=thumb.messages,
                        chosen=good.answer,
                        rejected=thumb.answer,
                        client=thumb.client,
                    )
                )
        alone = sum(id(thumb) not in matched for thumb in self.thumbs)
        reasons = {"a single answer, which `dpo` cannot learn from": alone} if alone else {}
        return Preferences(pairs=tuple(found), dropped={**self.dropped, **reasons})

    def as_thumbs(self) -> "Preferences":
        """Return single answers alone: a pair is a liked and a disliked one."""
        halves = [
            Thumb(messages=pair.messages, answer=answer, good=good, client=pair.client)
            for pair in self.pairs
            for answer, good in ((pair.chosen, True), (pair.rejected, False))
        ]
        unique = {(key_of(each.messages), each.answer, each.good): each for each in halves}
        return Preferences(thumbs=(*self.thumbs, *unique.values()), dropped=self.dropped)


def key_of(messages: Sequence[Mapping[str, Any]]) -> Hashable:
    """Return what names a conversation: who said what."""
    return tuple((each["role"], " ".join(str(each["content"]).split())) for each in messages)


def counted(rows: Sequence[Preference], max_share: float) -> Preferences:
    """Return the rows as opinions of people: once each, contradictions and floods left out.

    No named client has more than `max_share` of the rows. Where there are too few clients for that,
    none has more than the second largest.
    """
    dropped: Counter[str] = Counter()
    once = _once(rows, dropped)
    within = _within_share(once, max_share, dropped)
    agreed = _agreed(within, dropped)
    return Preferences(
        pairs=tuple(each for each in agreed if isinstance(each, Pair)),
        thumbs=tuple(each for each in agreed if isinstance(each, Thumb)),
        dropped=dict(dropped),
    )


def _once(rows: Sequence[Preference], dropped: Counter[str]) -> list[Preference]:
    """Return each opinion of each client once, and one opinion of each answer that has an id.

    Of an answer that was rated several times the last opinion counts, and a correction before a
    plain rating: an id is given to one reader alone.
    """
    found: dict[Hashable, Preference] = {}
    for number, row in enumerate(rows):
        opinion = (*_opinion(row), _is_for(row), row.client) if row.client else (number,)
        place = ("id", row.about) if row.about else ("opinion", *opinion)
        before = found.get(place)
        if before is not None:
            dropped[DOUBLE] += 1
        if before is None or isinstance(row, Pair) or isinstance(before, Thumb):
            found[place] = row
    return list(found.values())


def _within_share(
    rows: Sequence[Preference], share: float, dropped: Counter[str]
) -> list[Preference]:
    limit = _limit(Counter(row.client for row in rows if row.client), len(rows), share)
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row.client] += 1
        if row.client and seen[row.client] > limit:
            dropped[OVER_SHARE] += 1
        else:
            kept.append(row)
    return kept


def _limit(clients: Counter[str], rows: int, share: float) -> int:
    """Return how many rows one client may give."""
    sizes = sorted(clients.values(), reverse=True)
    unnamed = rows - sum(sizes)
    if share >= 1 or not sizes or (len(sizes) == 1 and not unnamed):
        return rows
    for limit in range(sizes[0], 0, -1):
        if limit <= share * (unnamed + sum(min(size, limit) for size in sizes)):
            return limit
    return max(1, sizes[1] if len(sizes) > 1 else unnamed)


def _agreed(rows: Sequence[Preference], dropped: Counter[str]) -> list[Preference]:
    """Return one row an opinion that more people have than its opposite."""
    votes: Counter[Hashable] = Counter()
    for row in rows:
        votes[_opinion(row)] += 1 if _is_for(row) else -1

    found: dict[Hashable, Preference] = {}
    for row in rows:
        place = _opinion(row)
        if not votes[place]:
            dropped[CONTRADICTED] += 1
        elif _is_for(row) != (votes[place] > 0):
            dropped["outvoted"] += 1
        elif place in found:
            dropped[DOUBLE] += 1
        else:
            found[place] = row
    return list(found.values())


def _opinion(row: Preference) -> tuple[Hashable, ...]:
    """Return what an opinion is about, the same for an opinion and its opposite."""
    if isinstance(row, Thumb):
        return key_of(row.messages), row.answer
    return (key_of(row.messages), *sorted((row.chosen, row.rejected)))


def _is_for(row: Preference) -> bool:
    return row.good if isinstance(row, Thumb) else row.chosen <= row.rejected


def subject_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a conversation asks last, whatever stands before it."""
    asked = [str(each["content"]) for each in messages if each["role"] == "user"]
    return " ".join(asked[-1].casefold().split()) if asked else ""


def divided(
    preferences: Preferences, share: float, seed: int, kept_out: Iterable[str]
) -> tuple[Preferences, Preferences]:
    """Return the preferences to learn from, and those that are held out.

    A question is on one side only. The questions `kept_out` are held out, and of the others a
    `share`, drawn by the seed and the question alone.
    """
    outside = set(kept_out)
    rows: tuple[Preference, ...] = (*preferences.pairs, *preferences.thumbs)
    subjects = {subject_of(row.messages) for row in rows}
    free = sorted(subjects - outside, key=lambda subject: _draw(seed, subject))
    count = min(math.ceil(share * len(free)), max(0, len(free) - 1))
    held_out = outside | set(free[:count])

    def side(is_held_out: bool) -> Preferences:
        """Return the preferences whose subject is held out, or the others."""
        return Preferences(
            pairs=_of_side(preferences.pairs, held_out, is_held_out),
            thumbs=_of_side(preferences.thumbs, held_out, is_held_out),
        )

    return side(False), side(True)


def _of_side(rows: Sequence[Row], held_out: set[str], is_held_out: bool) -> tuple[Row, ...]:
    return tuple(row for row in rows if (subject_of(row.messages) in held_out) == is_held_out)


def _draw(seed: int, subject: str) -> str:
    return hashlib.sha256(f"{seed}\0{subject}".encode("utf-8", "replace")).hexdigest()


def interval(successes: int, count: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper and Pearson 1934)."""
    if not count:
        return 0.0, 1.0
    tail = (1 - CONFIDENCE) / 2
    low = _solve(lambda p: _at_least(successes, count, p) - tail) if successes else 0.0
    high = (
        _solve(lambda p: tail - (1 - _at_least(successes + 1, count, p)))
        if successes < count
        else 1.0
    )
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a share changed on the same questions."""

    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float

    @property
    def is_gain(self) -> bool:
        """Whether it rose, and not by chance."""
        return self.low > 0


def change(before: Sequence[bool], after: Sequence[bool]) -> Change:
    """Return the change of a share on the same questions, with the exact interval of its sign test.

    Only questions on which both differ say anything (Q. McNemar 1947): the share of gains among
    them has the exact interval of a binomial.
    """
    pairs = list(zip(before, after, strict=True))
    gained = sum(not old and new for old, new in pairs)
    lost = sum(old and not new for old, new in pairs)
    scale = (gained + lost) / max(1, len(pairs))
    low, high = interval(gained, gained + lost)
    mean = (gained - lost) / max(1, len(pairs))
    if not gained + lost:
        return Change(mean=0.0, low=0.0, high=0.0)
    return Change(mean=mean, low=scale * (2 * low - 1), high=scale * (2 * high - 1))


def least_shown() -> int:
    """Return the least number of gains, and no loss, that is more than chance."""
    return next(count for count in range(1, 100) if interval(count, count)[0] > 0.5)


def _at_least(successes: int, count: int, p: float) -> float:
    """Return the probability of so many successes or more."""
    if not 0.0 < p < 1.0:
        return float(p >= 1.0 or successes <= 0)
    # In logarithms: from 1,030 on the number of ways is no float any more.
    ways = [math.lgamma(each + 1) for each in range(count + 1)]
    return sum(
        math.exp(
            ways[count]
            - ways[each]
            - ways[count - each]
            + each * math.log(p)
            + (count - each) * math.log1p(-p)
        )
        for each in range(successes, count + 1)
    )


def _solve(rising: Callable[[float], float]) -> float:
    """Return where a rising function crosses zero between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2

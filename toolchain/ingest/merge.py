"""What only all shards together decide: duplicates, near-duplicates, the split, contamination.

Shards count in their order, rows in theirs: the first of two equal questions stays, whoever read
it. Only numbers are held in memory, of a hundred million questions about a gigabyte.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from toolchain.files import whole_file
from toolchain.ingest.entries import Place
from toolchain.ingest.found import Finding
from toolchain.ingest.read import Read, first_dropped
from toolchain.ingest.reading import SHOWN
from toolchain.ingest.shards.columns import numbers
from toolchain.ingest.shards.pairs import Texts, near, propose
from toolchain.ingest.shards.room import Room
from toolchain.ingest.shards.views import Documents, Entries, Store
from toolchain.ingest.split import DROPPED, HELD_OUT, LEARNED, LEFT_OUT, chosen
from toolchain.recipe import DataSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NEAR = "near-duplicate"
CONTAMINATION = "contamination"
DUPLICATE, DISAGREES = "duplicate question", "duplicate question with another answer"
"""Reasons why a question is dropped that stood there before."""
_PART = 1 << 21
"""Keys that are sorted at once."""
_BLOCK = 1 << 16
"""Entries that are split at once."""


@dataclass(frozen=True, slots=True)
class Merge:
    """The shards of a look, and what is known of them so far."""

    room: Room
    store: Store
    read: Read
    spec: DataSpec
    states: "npt.NDArray[np.uint8]"
    """What becomes of each phrasing."""
    documents: "npt.NDArray[np.bool_]"
    """Which documents are kept."""
    compare: Callable[[Texts, int], None]
    """Decides some chunks of candidates, wherever that is done."""


def merge(
    room: Room,
    spec: DataSpec,
    read: Read,
    seen: Iterable[int],
    compare: Callable[[Texts, int], None],
) -> Merge:
    """Put the shards of a room together; `seen` are the keys of questions that are not learned."""
    import numpy as np

    store = room.store()
    for number, shard in enumerate(store.shards):
        read.take(shard)
        read.take_values(room, number, shard.name)
    phrasings = _duplicates(store, "keys", store.phrasings, seen=seen)
    documents = _duplicates(store, "text-keys", store.documents)
    states = np.where(phrasings, DROPPED, LEFT_OUT).astype(np.uint8)
    read.entries = Entries(store, states)
    read.documents = Documents(store, ~documents)
    _tell_duplicates(store, read, phrasings, documents)
    for number, shard in enumerate(store.shards):
        read.count_keys(shard, _has_some(store, number, states))
    return Merge(room, store, read, spec, states, ~documents, compare)


# Duplicates ---------------------------------------------------------------------------------------


def _duplicates(
    store: Store,
    name: str,
    counts: Sequence[int],
    *,
    seen: Iterable[int] = (),
    among: "npt.NDArray[np.bool_] | None" = None,
) -> "npt.NDArray[np.bool_]":
    """Return for each key whether it was there before, or is one of `seen`.

    Only keys `among` those given count.
    """
    import numpy as np

    again = np.zeros(counts[-1], bool)
    known = np.array(sorted(seen), np.uint64)
    parts = 1 << (counts[-1] // _PART).bit_length()
    shift = np.uint64(65 - parts.bit_length())
    for part in range(parts if len(store.shards) else 0):
        keys, where = [], []
        for shard, first in zip(store.shards, counts, strict=False):
            own = numbers(shard.folder / name, "Q")
            mine = own >> shift == part if parts > 1 else np.ones(len(own), bool)
            if among is not None:
                mine &= among[first : first + len(own)]
            at = np.flatnonzero(mine)
            keys.append(own[at])
            where.append(at + first)
        together, places = np.concatenate(keys), np.concatenate(where)
        order = np.argsort(together, kind="stable")
        together, places = together[order], places[order]
        again[places[1:][together[1:] == together[:-1]]] = True
        again[places[np.isin(together, known)]] = True
    return again


def _disagreeing(store: Store, again: "npt.NDArray[np.bool_]") -> "npt.NDArray[np.bool_]":
    """Return for each duplicate phrasing whether the one that stays has another answer."""
    import numpy as np

    def keys_of(shard: int) -> "npt.NDArray[np.uint64]":
        return numbers(store.shards[shard].folder / "keys", "Q")

    # Read twice, so that the keys of one shard are in memory at a time.
    bounds = list(enumerate(pairwise(store.phrasings)))
    asked = [keys_of(number)[again[first:last]] for number, (first, last) in bounds]
    if not any(map(len, asked)):
        return np.zeros_like(again)
    wanted = np.unique(np.concatenate(asked))
    keys, answers, places = [], [], []
    for number, (first, _) in bounds:
        own = keys_of(number)
        at = np.flatnonzero(np.isin(own, wanted))
        entries = store.ends(number).searchsorted(at, side="right")
        keys.append(own[at])
        answers.append(numbers(store.shards[number].folder / "answers", "Q")[entries])
        places.append(at + first)
    together, given, where = map(np.concatenate, (keys, answers, places))
    order = np.argsort(together, kind="stable")
    together, given, where = together[order], given[order], where[order]
    begins = np.flatnonzero(np.concatenate([[True], together[1:] != together[:-1]]))
    first_of = np.repeat(begins, np.diff([*begins, len(together)]))
    found = np.zeros_like(again)
    found[where[given != given[first_of]]] = True
    return found & again


def _tell_duplicates(
    store: Store,
    read: Read,
    phrasings: "npt.NDArray[np.bool_]",
    documents: "npt.NDArray[np.bool_]",
) -> None:
    """Count duplicates, and name the first rows that were dropped."""
    disagree = _disagreeing(store, phrasings)
    others: dict[int, list[tuple[Place, str]]] = {}
    count = 0
    for number in range(len(store.shards)):
        own = [
            (store.entry(store.phrasing(at)[0]).place, DISAGREES if disagree[at] else DUPLICATE)
            for at in _first(phrasings, store.phrasings, number)
        ]
        own += [
            (store.document(at).place, "duplicate text")
            for at in _first(documents, store.documents, number)
        ]
        others[number] = own
        count += len(own) + len(store.shards[number].read.dropped)
        if count >= SHOWN:
            break
    read.disagreeing = _first_place(store, disagree)
    each = (
        (DUPLICATE, phrasings & ~disagree),
        (DISAGREES, disagree),
        ("duplicate text", documents),
    )
    for reason, again in each:
        if total := int(again.sum()):
            read.dropped.reasons[reason] += total
    read.dropped.first = first_dropped(store.shards, others)


def _first_place(store: Store, some: "npt.NDArray[np.bool_]") -> str:
    """Return where the first of some phrasings stands; empty where there is none."""
    found = some.nonzero()[0]
    return store.entry(store.phrasing(int(found[0]))[0]).where if len(found) else ""


def _first(again: "npt.NDArray[np.bool_]", counts: Sequence[int], shard: int) -> list[int]:
    first, last = counts[shard : shard + 2]
    own: list[int] = (again[first:last].nonzero()[0][:SHOWN] + first).tolist()
    return own


def _has_some(store: Store, shard: int, states: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.bool_]":
    """Return for each entry of a shard whether some of its phrasings are kept."""
    import numpy as np

    first, last = store.phrasings[shard : shard + 2]
    ends = store.ends(shard)
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    kept = states[first:last] != DROPPED
    return np.logical_or.reduceat(kept, begins) if len(ends) else kept


# Near-duplicates ----------------------------------------------------------------------------------


def join_near_duplicates(merged: Merge) -> "npt.NDArray[np.uint32]":
    """Find near-duplicates; where the recipe mends, drop the later one of two with the same answer.

    Return the pairs of near questions that stay, a row each.
    """
    import numpy as np

    clean, store, states = merged.spec.clean, merged.store, merged.states
    mends = clean.mode == "mend"
    told = np.zeros(len(states), bool)
    pairs = array("I")
    for earlier, later in _near(merged, "questions", states != DROPPED):
        if mends and told[earlier]:
            continue
        if not mends:
            pairs.extend((earlier, later))
        if not told[later]:
            told[later] = True
            place = store.entry(store.phrasing(later)[0]).place
            _tell(merged.read, place, "question", "dropped" if mends else "found")

    _tell_near(merged, "answers", _answers(store, states), lambda at: store.entry(at).place)
    _tell_near(merged, "texts", merged.documents, lambda at: store.document(at).place)
    if mends:
        _drop(merged, told)
    return np.frombuffer(pairs, np.uint32).reshape(-1, 2)


def _near(merged: Merge, texts: Texts, some: "npt.NDArray[np.bool_]") -> Iterable[tuple[int, int]]:
    limit = merged.spec.clean.near_duplicates
    chunks = propose(merged.room, merged.store, texts, some, limit)
    merged.compare(texts, chunks)
    return near(merged.room, texts, chunks)


def _tell_near(
    merged: Merge, texts: Texts, some: "npt.NDArray[np.bool_]", place: Callable[[int], Place]
) -> None:
    told: set[int] = set()
    for _, later in _near(merged, texts, some):
        if later not in told:
            told.add(later)
            _tell(merged.read, place(later), texts.removesuffix("s"), "found")


def _answers(store: Store, states: "npt.NDArray[np.uint8]") -> "npt.NDArray[np.bool_]":
    """Return for each entry whether it is kept and the first one with its answer."""
    import numpy as np

    some = [_has_some(store, number, states) for number in range(len(store.shards))]
    kept = np.concatenate([*some, np.zeros(0, bool)])
    return kept & ~_duplicates(store, "answers", store.entries, among=kept)


def _drop(merged: Merge, told: "npt.NDArray[np.bool_]") -> None:
    dropped = merged.read.dropped
    merged.states[told] = DROPPED
    which = told.nonzero()[0]
    if len(which):
        dropped.reasons[NEAR] += len(which)
    for number in which[: SHOWN - len(dropped.first)].tolist():
        entry = merged.store.entry(merged.store.phrasing(number)[0])
        dropped.first.append((entry.where, NEAR))
    # What was counted of them by number is counted anew.
    merged.read.entries = Entries(merged.store, merged.states)


def _tell(read: Read, place: Place, rule: str, done: str, kind: str = NEAR) -> None:
    read.found.add(Finding(place=place, part="entry", kind=kind, rule=rule, done=done))


# The split ----------------------------------------------------------------------------------------


def split(merged: Merge) -> tuple[Entries, Entries]:
    """Return (train, held out), and write down what becomes of each phrasing."""
    store, states = merged.store, merged.states
    for number in range(len(store.shards)):
        ends = store.ends(number)
        for first in range(0, len(ends), _BLOCK):
            begin = int(ends[first - 1]) if first else 0
            _split_block(merged, number, begin, (ends[first : first + _BLOCK] - begin).tolist())

    with whole_file(merged.room.states, lasting=not merged.room.shows) as part:
        states.tofile(part)
    train, held_out = (Entries(store, states, state, state) for state in (LEARNED, HELD_OUT))
    return train, held_out


def _split_block(merged: Merge, shard: int, begin: int, ends: Sequence[int]) -> None:
    """Decide on some entries of a shard, whose phrasings end at `ends` behind `begin`."""
    finished = merged.store.shards[shard]
    draws = numbers(finished.folder / "draws", "Q", begin, ends[-1]).tolist()
    path = finished.folder / "replays"
    replays = numbers(path, "Q", begin, ends[-1]).tolist() if path.is_file() else draws
    offset = merged.store.phrasings[shard] + begin
    states = merged.states[offset : offset + ends[-1]].tolist()
    at = 0
    for end in ends:
        own = [each for each in range(at, end) if states[each] != DROPPED]
        if own:
            drawn = [draws[each] for each in own], [replays[each] for each in own]
            for each, state in zip(own, chosen(finished.name, merged.spec, *drawn), strict=True):
                states[each] = state
        at = end
    merged.states[offset : offset + ends[-1]] = states


def find_contamination(merged: Merge, pairs: "npt.NDArray[np.uint32]") -> None:
    """Report held-out questions that are nearly a learned one of another entry with their answer.

    Where the recipe mends there are none: near questions are joined before the split.
    """
    told: set[int] = set()
    for pair in pairs.tolist():
        asked = [at for at in pair if merged.states[at] == HELD_OUT]
        # The held-out phrasing of an entry is near its learned ones: that is what it is for.
        if len(asked) == 1 and asked[0] not in told:
            told.add(asked[0])
            place = merged.store.entry(merged.store.phrasing(asked[0])[0]).place
            _tell(merged.read, place, "learned question", "found", CONTAMINATION)

"""Texts that a guard learns from: our seeds, the recipe's own questions, and files of the user's.

Seeds are wishes ("build a birdhouse") that are put into sentences of all kinds ("how do I …?"). The
sentences are the same for unsafe and for safe wishes, so that only the wish decides.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device.manifest.guard import ATTACK, CATEGORIES
from toolchain.config import closest
from toolchain.errors import ArtifactError, ConfigError
from toolchain.texts import Unreadable, lines_of, parse_json

SEEDS = Path(__file__).with_name("seeds")
LANGUAGES = ("en", "zh")
KINDS = (*CATEGORIES, ATTACK)
OWN = "own"
"""Source of the recipe's own questions."""
MOST_OWN = 3000
"""Questions of the recipe's own that are learned as safe, at most."""
_FRAMES = {"whole": 0, "wishes": 5, "pairs": 1}
"""Form of a seed → number of sentences that it is learned in."""
_SET_ASIDE = {True: 8, False: 4}
"""Unsafe or safe → one text in so many is never learned: the guard is measured with these."""
# A threshold at 1 % of a few safe texts is a matter of luck: more of them are set aside.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A wish or a text, and what is known of it."""

    text: str
    unsafe: bool
    kind: str = ""
    """Category; empty where it is not known."""
    source: str = "seeds"
    language: str = ""
    is_wish: bool = False
    """Whether it is a part of a sentence, to be put into frames."""
    frames: int = 0
    """Number of sentences that a wish is put into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Entries to learn, and entries that the guard is measured with."""

    learned: tuple[Entry, ...]
    set_aside: tuple[Entry, ...]

    def without(self, source: str) -> "Corpus":
        """Return the corpus without the unsafe texts of a source: these it is measured with then.

        Safe texts stay as they are, for the thresholds.
        """
        every = (*self.learned, *self.set_aside)
        left_out = [entry for entry in every if entry.unsafe and entry.source == source]
        safe = [entry for entry in self.set_aside if not entry.unsafe]
        return Corpus(
            learned=tuple(
                entry for entry in self.learned if not (entry.unsafe and entry.source == source)
            ),
            set_aside=(*left_out, *safe),
        )


def seeds() -> list[Entry]:
    """Return our own entries, unsafe and safe, English and Chinese."""
    found: dict[tuple[str, bool], Entry] = {}
    for file in sorted(SEEDS.glob("*safe.*.txt")):
        language, unsafe = file.name.split(".")[-2], file.name.startswith("unsafe")
        for entry in _seeds(file, language, unsafe=unsafe):
            found.setdefault((entry.text, unsafe), entry)
    return list(found.values())


def frames(language: str) -> list[str]:
    """Return the sentences that a language's wishes are put into."""
    return [line for _, line in _lines(SEEDS / f"frames.{language}.txt")]


def _seeds(file: Path, language: str, *, unsafe: bool) -> Iterator[Entry]:
    kind, form = "", "wishes"
    for _, line in _lines(file):
        if line.startswith("["):
            *name, form = line.strip("[]").split(" ")
            if form not in ("whole", "pairs"):
                name, form = [form], "wishes"
            kind = name[0] if unsafe else ""
            continue
        texts = _pairs(line, language) if form == "pairs" else [line]
        for text in texts:
            yield Entry(
                text=text,
                unsafe=unsafe,
                kind=kind,
                language=language,
                is_wish=form != "whole",
                frames=_FRAMES[form],
            )


def _pairs(line: str, language: str) -> list[str]:
    """Return every beginning in a line joined with every end in it."""
    begins, _, ends = line.partition(": ")
    comma, space = ("，", "") if language == "zh" else (", ", " ")
    return [f"{begin}{space}{end}" for begin in begins.split(comma) for end in ends.split(comma)]


def brought(names: Sequence[str], folder: Path, *, unsafe: bool) -> list[Entry]:
    """Return the entries of a recipe's own files; raise ConfigError or ArtifactError.

    A `.jsonl` file has objects with `text` and, if known, `category`; any other one a text a line.
    """
    found: list[Entry] = []
    for name in names:
        file = folder / name
        if not file.is_file():
            raise ConfigError(f"guard: no such file `{name}`")
        entries = list(_rows(file, name, unsafe))
        if not entries:
            raise ArtifactError(f"guard: `{name}` holds no text")
        found += entries
    return found


def _rows(file: Path, name: str, unsafe: bool) -> Iterator[Entry]:
    for where, line in _lines(file, name):
        if file.suffix == ".jsonl":
            yield _row(where, line, name, unsafe)
        else:
            yield Entry(text=line, unsafe=unsafe, source=name)


def _row(where: str, line: str, name: str, unsafe: bool) -> Entry:
    try:
        row = parse_json(line)
    except Unreadable as error:
        raise ArtifactError(f"guard: {where}: {error.problem}", hint=error.hint) from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(text, str) or not text.strip():
        raise ArtifactError(
            f"guard: {where}: not an object with a `text`",
            hint='a line is such as {"text": "…", "category": "illicit"}',
        )
    kind = row.get("category", "") if unsafe else ""
    if kind and kind not in KINDS:
        hint = closest(str(kind), list(KINDS))
        raise ArtifactError(f"guard: {where}: unknown category `{kind}`", hint=hint)
    return Entry(text=text.strip(), unsafe=unsafe, kind=kind, source=name)


def _lines(file: Path, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield place and text of each line that is neither empty nor a comment."""
    for where, line in lines_of(name or file.name, file):
        if line.strip() and not line.startswith("# "):
            yield where, line.strip()


def corpus(entries: Sequence[Entry], seed: int) -> Corpus:
    """Return the entries shuffled, some of them set aside.

    Entries of the recipe's own data are all learned: its held-out questions measure them.
    """
    drawn = random.Random(seed)  # noqa: S311
    shuffled = list(entries)
    drawn.shuffle(shuffled)
    learned: list[Entry] = []
    apart: list[Entry] = []
    for number, entry in enumerate(shuffled):
        # Of pairs another one has the same end: none of them would be new to the guard.
        is_new = entry.source != OWN and entry.frames != _FRAMES["pairs"]
        is_apart = is_new and number % _SET_ASIDE[entry.unsafe] == 0
        (apart if is_apart else learned).append(entry)
    return Corpus(learned=tuple(learned), set_aside=tuple(apart))


def sentences(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Return each wish in some sentences, and each text as it stands."""
    drawn = random.Random(seed)  # noqa: S311
    known = {language: frames(language) for language in LANGUAGES}
    found = []
    for entry in entries:
        if not entry.is_wish:
            found.append(entry)
            continue
        places = known[entry.language]
        chosen = drawn.sample(places, entry.frames)
        found += [replace(entry, text=place.format(entry.text), is_wish=False) for place in chosen]
    return found


def lengthened(entries: Sequence[Entry], seed: int) -> list[Entry]:
    """Return longer texts made of these, as many unsafe ones as safe ones.

    In other collections unsafe texts are long and safe ones short: a guard that learns that refuses
    long honest questions.
    """
    drawn = random.Random(seed)  # noqa: S311
    safe = [entry for entry in entries if not entry.unsafe]
    unsafe = [entry for entry in entries if entry.unsafe]
    found = []
    for entry in drawn.sample(unsafe, len(unsafe) // 3):
        around = drawn.sample(safe, 2)
        place = drawn.randrange(3)
        parts = [each.text for each in around]
        parts.insert(place, entry.text)
        found.append(replace(entry, text=" ".join(parts)[:400]))
    for entry in drawn.sample(safe, min(len(safe), len(unsafe) // 3)):
        parts = [each.text for each in drawn.sample(safe, drawn.choice((1, 2, 3)))]
        found.append(replace(entry, text=" ".join((entry.text, *parts))[:400]))
    return found

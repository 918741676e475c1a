"""What is said of the data: a sentence each of what was recognised, found and done."""

from collections.abc import Iterator, Mapping

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Document, Entry
from toolchain.ingest.figures import DIRT, not_looked_for
from toolchain.ingest.forms import OURS
from toolchain.ingest.found import FINDINGS, Change
from toolchain.ingest.parts import Parts
from toolchain.ingest.read import Read
from toolchain.ingest.reading import FileRead
from toolchain.ingest.rules import PARTS
from toolchain.recipe import DataSpec
from toolchain.tool_use import said

_USUAL = {f"JSON lines, {OURS}", "JSON lines, messages", "Markdown", "text"}
"""Forms that need no word: they are what the manual describes."""
_SHOWN_CHARACTERS = 70
_SHOWN_FILES = 8


def told(parts: Parts, spec: DataSpec) -> Iterator[str]:
    """Yield what a run says of the data, beside the counts; nothing of clean data of our form."""
    for name, file in parts.read.files.items():
        if not file.rows:
            yield f"{name}: holds no row"
        elif file.form not in _USUAL:
            yield f"{name}: read as {file.form}"
        yield from _told_form(name, file)
    yield from _told_unread(parts.read)
    yield from _told_dirt(parts.read, spec)
    yield from _told_dropped(parts.read)
    yield from _told_personal(parts.read, spec)


def _told_unread(read: Read) -> Iterator[str]:
    """Yield which files in folders are of a kind that is not read."""
    if count := len(read.unread):
        named = ", ".join(read.unread[:_SHOWN_FILES])
        more = f" and {count - _SHOWN_FILES} more" if count > _SHOWN_FILES else ""
        yield f"not read, as they are of another kind: {named}{more}"


def _told_dropped(read: Read) -> Iterator[str]:
    """Yield why rows are dropped, and where the first one is."""
    if not read.dropped:
        return
    each = ", ".join(f"{count:,} {reason}" for reason, count in read.dropped.reasons.most_common())
    where, reason = read.dropped.first[0]
    yield f"dropped: {each}; the first at {where} ({reason})"
    if read.disagreeing:
        yield (
            f"{read.disagreeing}: its question has another answer before: the first one is "
            "learned, see that it is right"
        )


def _told_form(name: str, file: FileRead) -> Iterator[str]:
    """Yield the part of each form that is left out, and where another form begins in a file."""
    yield from (f"{name}: {note}" for note in file.notes.values())
    for form, place in list(file.forms.items())[1:]:
        yield f"{place}: from here on also rows of another form: {form}"


def _told_dirt(read: Read, spec: DataSpec) -> Iterator[str]:
    found = read.found.by_kind(DIRT)
    if not found:
        return
    each = ", ".join(f"{kind} {_counts(done)}" for kind, done in found.items())
    first = next(read.found.first[kind] for kind in found if kind in read.found.first)
    mode = "" if spec.clean.mode == "mend" else '; [data.clean] mode = "mend" mends what is proved'
    yield f"text: {each}; the first at {first.place} ({first.rule}){mode}"


def _told_personal(read: Read, spec: DataSpec) -> Iterator[str]:
    found = read.found.by_kind(spec.redact.kinds)
    present = {kind: done for kind, done in found.items() if set(done) != {"kept"}}
    if not present:
        return
    each = ", ".join(f"{kind} {_counts(done)}" for kind, done in present.items())
    yield f"personal data: {each}; {FINDINGS} says where"
    if spec.redact.mode == "report":
        yield 'personal data: unchanged; [data.redact] mode = "replace" writes surrogates'
    elif spec.redact.mode == "replace":
        yield (
            "personal data: replaced text is pseudonymised; the originals stay in the recipe's "
            f"folder; answers changed: {read.found.changed_answers:,}, what they must say goes "
            "into `keep`"
        )
    yield f"personal data: not looked for: {'; '.join(not_looked_for(spec))}"


def _counts(done: Mapping[str, int]) -> str:
    """Return `12 found, 3 kept`."""
    return " + ".join(f"{count:,} {word}" for word, count in done.items())


def refusal(read: Read, spec: DataSpec) -> ArtifactError | None:
    """Return what `redact.mode = "refuse"` says of personal data; None where there is none."""
    found = read.found.by_kind(spec.redact.kinds)
    counts = {kind: done.get("found", 0) for kind, done in found.items()}
    each = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    if spec.redact.mode != "refuse" or not each:
        return None
    first = next(read.found.first[kind] for kind in counts if kind in read.found.first)
    return ArtifactError(
        f"data: personal data, which `redact.mode` refuses: {each}; "
        f"the first at {first.place} ({first.part}, {first.kind})",
        hint='mode = "replace" writes surrogates; `keep` names what is nobody\'s secret',
    )


def preview(parts: Parts, spec: DataSpec) -> Iterator[str]:
    """Yield what a dry run shows: the first rows of each file as understood, the first changes."""
    for name, file in parts.read.files.items():
        yield f"{name}: {file.form}, {file.rows:,} row{'s' * (file.rows != 1)}"
        yield from (f"  {line}" for each in file.first for line in _understood(each))
        yield from _told_form(name, file)
    yield from _told_unread(parts.read)
    yield from _changed(parts, spec)
    yield from _told_dirt(parts.read, spec)
    yield from _told_dropped(parts.read)
    yield from _told_personal(parts.read, spec)


def _changed(parts: Parts, spec: DataSpec) -> Iterator[str]:
    """Yield the first texts that are changed, or would be."""
    changes = parts.read.found.changes
    does = {spec.clean.mode == "mend", spec.redact.mode == "replace"}
    verb = "change, or would change" if len(does) > 1 else "change" if True in does else ""
    verb = verb or "would change: as the recipe stands, they only report"
    if changes:
        first = "the first text" if len(changes) == 1 else f"the first {len(changes)} texts"
        yield f"{first} that cleaning and redaction {verb}:"
    for change in changes:
        yield f"  {change.place} {change.part}"
        yield from (f"    {line}" for line in _difference(change))


def _understood(each: Entry | Document) -> Iterator[str]:
    where = each.place
    if isinstance(each, Document):
        yield f"{where} document: {_short(each.text)}"
        return
    more = len(each.phrasings) - 1
    ways = f" (and {more} more phrasing{'s' * (more > 1)})" if more else ""
    for at, message in enumerate(each.phrasings[0]):
        part = PARTS[message["role"]]
        begin = str(where) if not at else " " * len(str(where))
        yield f"{begin} {part}: {_short(said(message))}{ways if part == 'question' else ''}"


def _difference(change: Change) -> Iterator[str]:
    """Yield where a text differs, before and after."""
    before, after = change.before, change.after
    start = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    begin = max(0, start - 20)
    yield f"- {_short(before[begin:])}"
    yield f"+ {_short(after[begin:])}"


def _short(text: str) -> str:
    """Return a text as one line."""
    plain = " ".join(text.split())
    return plain if len(plain) <= _SHOWN_CHARACTERS else plain[: _SHOWN_CHARACTERS - 1] + "…"

"""What people have into a Dataset: read in its form, cleaned, redacted, split; the first stage.

Files are streamed and entries lie on the disk: data may be larger than the memory. Text is kept as
it is unless the recipe says otherwise: what is found is counted and told. The one rule is that no
held-out phrasing reaches anything that is trained on. What is wrong is told at once.
"""

from collections.abc import Mapping
from pathlib import Path

from toolchain.artifacts import Dataset, Spent, Work, digest, keep, write_jsonl
from toolchain.errors import ArtifactError, all_of
from toolchain.figures import DatasetFigures
from toolchain.ingest.entries import ROLES, Document, Entry, Messages, Place, Row
from toolchain.ingest.figures import figures_of
from toolchain.ingest.files import expanded
from toolchain.ingest.found import FINDINGS, Found
from toolchain.ingest.looking import (
    State,
    has_pictures,
    held,
    look,
    progress,
    sources_of,
    states_of,
    tools_files,
)
from toolchain.ingest.parts import Parts
from toolchain.ingest.read import Read
from toolchain.ingest.redact.kept import keep_replaced
from toolchain.ingest.redact.key import KEY_FILE, key_of, made_key
from toolchain.ingest.rules import TextRules
from toolchain.ingest.shards.engines import run
from toolchain.ingest.shards.jobs import WriteJob
from toolchain.ingest.shards.write import is_written, join_parts, lengths_of, remove_parts
from toolchain.ingest.told import preview, told
from toolchain.ingest.ways import Ways
from toolchain.progress import Reporter
from toolchain.recipe import DataSpec, TurnSpec
from toolchain.texts import existing

__all__ = [
    "ROLES",
    "Document",
    "Entry",
    "Messages",
    "Parts",
    "Read",
    "Row",
    "Ways",
    "ingest",
    "look",
    "preview",
    "told",
]


def ingest(
    spec: DataSpec,
    folder: Path,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    ways: Ways | None = None,
) -> Dataset:
    """Read `spec.files`, relative to `folder`, split them by hash, write the data set under `out`.

    Shards of large data are kept beside `out` unless `ways` says otherwise. Raise ArtifactError for
    a file that is missing or a line that is no entry, with `file.jsonl:12`.
    """
    files, documents, tools = (
        existing(expanded(spec.files, folder), folder, "files"),
        existing(spec.documents, folder, "documents"),
        existing(tools_files(spec), folder, "tools"),
    )
    sources = files | documents | tools
    states = states_of(sources_of(spec, folder), folder)
    inputs = {name: digest(path) for name, path in sources.items()}
    if spec.images:
        if not has_pictures(spec, folder):
            raise ArtifactError(f"data: images: there is no folder `{spec.images}`")
        inputs["images"] = digest(folder / spec.images)
    if spec.redact.mode == "replace" and made_key(folder)[1]:
        report.note(f"{folder / KEY_FILE}: the key of the surrogates: keep it, and keep it secret")
    ways = ways or Ways(work=out.parent, report=report)
    work = Work(stage="ingest", inputs=inputs, parameters=_recorded(spec, folder), seed=seed)
    earlier = Spent()

    def build(out: Path) -> DatasetFigures:
        """Write the dataset; raise all errors of the files at once."""
        nonlocal earlier
        began = Spent.now()
        parts = look(spec, folder, seed=seed, ways=ways)
        # A walk may have looked at the data for its checks: then nothing is read here.
        earlier = parts.spent - (Spent.now() - began)
        if parts.read.errors:
            raise all_of(parts.read.errors)
        if found := parts.read.found.replaced:
            kept = keep_replaced(folder, found.values())
            report.note(f"{kept}: what was replaced, for the test of leaks: keep it secret")
        figures = _write(parts, spec, out, report)
        _refuse_changed(states, states_of(sources_of(spec, folder), folder))
        return figures

    record, fresh = keep(out, work, build, DatasetFigures, lambda: earlier)
    return Dataset(path=out, record=record, fresh=fresh)


def _refuse_changed(before: Mapping[str, State | None], after: Mapping[str, State | None]) -> None:
    """Raise ArtifactError for a file that was changed while it was read.

    The record and the ledger would name a digest of text that nobody learned.
    """
    changed = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
    if changed:
        raise ArtifactError(
            f"{changed[0]}: was changed while it was read",
            hint="run it again when nobody writes it",
        )


def _recorded(spec: DataSpec, folder: Path) -> DataSpec:
    """Return the spec as the record holds it: records travel, so its texts go through the rules."""
    rules = TextRules(spec, key_of(folder), Found())
    place = Place(file="data")
    turns = tuple(
        TurnSpec(
            question=rules.text(place, "opening", turn.question),
            answer=rules.text(place, "opening", turn.answer),
        )
        for turn in spec.turns
    )
    system = rules.text(place, "opening", spec.system)
    return spec.model_copy(update={"system": system, "turns": turns})


def _write(parts: Parts, spec: DataSpec, out: Path, report: Reporter) -> DatasetFigures:
    opening, ways = parts.opening, parts.ways
    if opening:
        report.note(
            f"opening: {sum(len(message['content']) for message in opening):,} characters "
            f"in {len(opening)} messages"
        )
        write_jsonl(out / "opening.jsonl", opening)

    room, count = parts.room, len(parts.room.names())
    with held(room, ways):
        messages = [dict(message) for message in opening]
        jobs = [
            WriteJob(room=room, number=number, opening=messages)
            for number in range(count)
            if not is_written(room, number)
        ]
        run(jobs, ways.ingest, progress(ways, "write", len(jobs)))
        lengths = lengths_of(room, count)
        for document in parts.read.documents:
            lengths.texts.add(len(document.text))
        join_parts(room, count, out, ({"text": each.text} for each in parts.read.documents))
        remove_parts(room, count)
    write_jsonl(out / "entries.jsonl", ({"rows": len(each.phrasings)} for each in parts.train))
    parts.read.found.write(out / FINDINGS)

    figures = figures_of(parts, spec, lengths)
    for sentence in told(parts, spec):
        report.note(sentence)
    report.note(
        f"{figures.entries} entries: {figures.train} conversations to learn, "
        f"{figures.held_out} held out; "
        f"{figures.texts} texts; {len(parts.read.dropped)} dropped"
    )
    return figures

"""What is done for one shard, wherever it is done: a job is a line of JSON, its result a file.

The same functions run here, in other processes, and on the computers of a cluster. Done twice they
write the same, so that a job whose worker died is just done again.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from toolchain.config import Frozen
from toolchain.errors import ToolchainError, of_the_disk
from toolchain.ingest.files.source import Cut
from toolchain.ingest.found import Found
from toolchain.ingest.reading import Reader, ShardRead
from toolchain.ingest.rules import TextRules
from toolchain.ingest.shards.folder import Asked, FolderSink, clear, write_read
from toolchain.ingest.shards.pairs import Texts, decide
from toolchain.ingest.shards.room import Room
from toolchain.ingest.shards.seals import seal
from toolchain.ingest.shards.values import write_values
from toolchain.ingest.shards.write import write_shard
from toolchain.recipe import DataSpec
from toolchain.texts import existing


class ReadJob(Frozen):
    """Reads one shard of a file."""

    kind: Literal["read"] = "read"
    room: Room
    number: int
    name: str
    cut: tuple[int, int, int] | None
    spec: DataSpec
    folder: Path
    """The recipe's folder."""
    seed: int
    key: str
    """Key of the surrogates. It goes to the workers, and is written nowhere."""
    tools: list[Any]


class PairsJob(Frozen):
    """Decides which of some candidates are near-duplicates."""

    kind: Literal["pairs"] = "pairs"
    room: Room
    texts: Texts
    number: int
    limit: float


class WriteJob(Frozen):
    """Writes what is learned and what is held out of one shard."""

    kind: Literal["write"] = "write"
    room: Room
    number: int
    opening: list[dict[str, str]]


Job = ReadJob | PairsJob | WriteJob
_ANY: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


def work(text: str) -> None:
    """Do a job that was written as JSON; raise ArtifactError where the disk is full."""
    job = _ANY.validate_json(text)
    try:
        _do(job)
    except OSError as error:
        if full := of_the_disk(error):
            raise full from error
        raise


def _do(job: Job) -> None:
    if isinstance(job, ReadJob):
        _read(job)
    elif isinstance(job, PairsJob):
        decide(job.room, job.texts, job.number, job.limit)
    else:
        write_shard(job.room, job.number, job.opening)


def _read(job: ReadJob) -> None:
    folder = job.room.shard(job.number)
    clear(folder)
    found, read = Found(), ShardRead()
    rules = TextRules(job.spec, bytes.fromhex(job.key), found)
    asked = Asked(
        seed=job.seed,
        replays=job.spec.replay < 1,
        signs=job.spec.clean.mode != "off" and bool(job.spec.clean.near_duplicates),
    )
    with FolderSink(folder, asked, rules) as sink:
        reader = Reader(
            read=read,
            rules=rules,
            sink=sink,
            names={str(ours): own for ours, own in job.spec.map.items()},
            tools=tuple(job.tools),
            images=job.folder / job.spec.images if job.spec.images else None,
        )
        try:
            path = existing((job.name,), job.folder, "files")[job.name]
            cut = Cut(start=job.cut[0], end=job.cut[1], line=job.cut[2]) if job.cut else None
            reader.rows(job.name, path, cut)
        except ToolchainError as error:
            read.fail(error)
    values = job.room.values_of(job.number)
    write_values(values, read, found, shows=job.room.shows)
    if values.is_file() and not job.room.shows:
        seal(values, lasting=True)
    write_read(folder, (read, found), sink.counts(), lasting=not job.room.shows)

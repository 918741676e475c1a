"""A look at the data of a recipe: shards are read, put together, and split."""

import hmac
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from toolchain.artifacts import Spent, digest, files_in, value_digest
from toolchain.errors import ArtifactError, ConfigError, ToolchainError
from toolchain.extras import PACKAGE, version_of
from toolchain.ingest.calling import read_tools_file
from toolchain.ingest.entries import Place, Tools
from toolchain.ingest.files import expanded, others_in
from toolchain.ingest.merge import find_contamination, join_near_duplicates, merge, split
from toolchain.ingest.parts import Parts
from toolchain.ingest.read import Read
from toolchain.ingest.redact.key import KEY_FILE, key_of
from toolchain.ingest.rules import TextRules
from toolchain.ingest.shards.engines import run
from toolchain.ingest.shards.jobs import PairsJob, ReadJob
from toolchain.ingest.shards.pairs import Texts, is_decided
from toolchain.ingest.shards.plan import Shard, shards_of
from toolchain.ingest.shards.room import FOLDER, VALUES, Room, bind, temporary_room
from toolchain.ingest.split import key_digest, question_key
from toolchain.ingest.told import refusal
from toolchain.ingest.ways import Ways
from toolchain.lock import locked
from toolchain.opening import Opening, dialogue, read_opening
from toolchain.recipe import DataSpec
from toolchain.texts import existing

State = tuple[int, int, int]
"""Size, time of change and inode of a file."""


def look(spec: DataSpec, folder: Path, *, seed: int, ways: Ways | None = None) -> Parts:
    """Read, clean, redact and split what `ingest` would, without writing anything.

    What is wrong stands in `read.errors`. With a work folder in `ways` shards of large data are
    kept there, and read no second time.
    """
    spec = spec.without_terms()
    state = _state(spec, folder)
    return _looked(_Look(spec.model_dump_json(), folder, seed, state, ways or Ways()))


@dataclass(frozen=True, slots=True)
class _Look:
    """What decides a look at the data."""

    spec: str
    folder: Path
    seed: int
    files: tuple[object, ...]
    """State of each file: two looks at the same files see the same."""
    ways: Ways


def states_of(names: Iterable[str], folder: Path) -> dict[str, State | None]:
    """Return size, time of change and inode of each file, None for one that is not there."""
    found: dict[str, State | None] = {}
    for name in names:
        try:
            seen = (folder / name).stat()
        except FileNotFoundError:
            found[name] = None
        else:
            found[name] = (seen.st_size, seen.st_mtime_ns, seen.st_ino)
    return found


def sources_of(spec: DataSpec, folder: Path) -> tuple[str, ...]:
    """Return the files that decide a data set, relative to the recipe; raise ToolchainError."""
    names = (*expanded(spec.files, folder), *spec.documents, *tools_files(spec))
    return (*names, *pictures_in(spec, folder))


def _state(spec: DataSpec, folder: Path) -> tuple[object, ...]:
    try:
        return tuple(states_of((*sources_of(spec, folder), KEY_FILE), folder).items())
    except (OSError, ToolchainError):
        return ("unknown", os.urandom(8))  # looked at anew each time


# A walk looks at the data for its checks, and the stage looks at the same data again.
@lru_cache(maxsize=1)
def _looked(asked: _Look) -> Parts:
    began = Spent.now()
    spec, folder = DataSpec.model_validate_json(asked.spec), asked.folder
    read = Read()
    try:
        key = key_of(folder)
    except ToolchainError as error:
        read.errors.append(error)
        key = bytes(32)
    opening = _opening(spec, folder, read, TextRules(spec, key, read.found))
    later, read.errors = read.errors, []
    names, tools = _files(spec, folder, read)
    ways = asked.ways.for_data(_size_bytes(names, folder))
    room = _room(ways, folder)
    shards = shards_of(names, folder, ways.shard_bytes)
    with held(room, ways):
        room.open(_key(asked, names, key, room), [shard.name for shard in shards])
        left = [each for each in shards if not room.is_whole(each.number, each.name)]
        for shard in left:
            if room.has_account(shard.number):
                ways.report.note(
                    f"{shard.name}: what was kept of it (shard {shard.number + 1}) is damaged: "
                    "it is read again"
                )
        jobs = [
            ReadJob(
                room=room,
                number=shard.number,
                name=shard.name,
                cut=_plain_cut(shard),
                spec=spec,
                folder=folder.resolve(),
                seed=asked.seed,
                key=key.hex(),
                tools=list(tools),
            )
            for shard in left
        ]
        run(jobs, ways.ingest, progress(ways, "read", len(jobs)))
        parts = _parts(spec, room, (read, later), opening, ways)
    bind(room, parts.train.store)
    return replace(parts, spent=Spent.now() - began)


def _parts(
    spec: DataSpec,
    room: Room,
    reads: tuple[Read, list[ToolchainError]],
    opening: Opening,
    ways: Ways,
) -> Parts:
    """Put the shards of a room together."""
    read, later = reads

    def compare(texts: Texts, chunks: int) -> None:
        """Find the near pairs of one kind of text, in the chunks that are left."""
        limit = spec.clean.near_duplicates
        jobs = [
            PairsJob(room=room, texts=texts, number=number, limit=limit)
            for number in range(chunks)
            if not is_decided(room, texts, number)
        ]
        run(jobs, ways.ingest, progress(ways, f"compare {texts}", len(jobs)))

    # A question that the opening answers is not to be learned, and not to be asked.
    turns = (question_key(dialogue(turn.question, turn.answer)) for turn in spec.turns)
    merged = merge(room, spec, read, [key_digest(key) for key in turns], compare)
    for each in later:
        read.fail(each)
    looks_near = spec.clean.mode != "off" and spec.clean.near_duplicates
    pairs = join_near_duplicates(merged) if looks_near and not read.errors else None
    if not read.errors and (refused := refusal(read, spec)):
        read.errors.append(refused)
    if read.more_errors:
        read.errors.append(ArtifactError(f"data: {read.more_errors:,} more lines are wrong"))
    train, held_out = split(merged)
    if pairs is not None:
        find_contamination(merged, pairs)
    return Parts(read=read, train=train, held_out=held_out, opening=opening, room=room, ways=ways)


def _size_bytes(names: tuple[str, ...], folder: Path) -> int:
    """Return the bytes of all files that can be read."""
    total = 0
    for name in names:
        with suppress(OSError):
            total += (folder / name).stat().st_size
    return total


def _room(ways: Ways, folder: Path) -> Room:
    """Return where shards go: into the work folder, if they are kept."""
    if ways.work is None:
        return temporary_room()
    work = ways.work.resolve()
    values = folder.resolve() / VALUES / value_digest(str(work))[:12]
    return Room(folder=work / FOLDER, values=values, shows=False)


@contextmanager
def held(room: Room, ways: Ways) -> Iterator[None]:
    """Hold a kept room against other runs."""
    if room.shows:
        yield
        return
    with locked(room.folder, ways.report):
        yield


def _key(asked: _Look, names: tuple[str, ...], key: bytes, room: Room) -> str:
    """Return what decides the contents of a room; of a kept one by the bytes of all files."""
    if room.shows:
        return ""
    spec = DataSpec.model_validate_json(asked.spec)
    files = (*names, *spec.documents, *tools_files(spec))
    return value_digest(
        (
            version_of(PACKAGE, "ingest"),
            asked.spec,
            asked.seed,
            asked.ways.shard_bytes,
            [
                (name, digest(asked.folder / name))
                for name in files
                if (asked.folder / name).is_file()
            ],
            # Only surrogates in the text follow from it. Where there are none it is one of this run
            # alone, and a killed run could not go on.
            hmac.digest(key, b"shards", "sha256").hex() if spec.redact.mode == "replace" else "",
            digest(asked.folder / spec.images) if has_pictures(spec, asked.folder) else "",
        )
    )


def has_pictures(spec: DataSpec, folder: Path) -> bool:
    """Say whether the recipe names a folder of pictures that is there."""
    return bool(spec.images) and (folder / spec.images).is_dir()


def pictures_in(spec: DataSpec, folder: Path) -> tuple[str, ...]:
    """Return the files in the folder of pictures, relative to the recipe."""
    if not has_pictures(spec, folder):
        return ()
    return tuple(str(file.relative_to(folder)) for file in files_in(folder / spec.images))


def _plain_cut(shard: Shard) -> tuple[int, int, int] | None:
    return (shard.cut.start, shard.cut.end, shard.cut.line) if shard.cut else None


def progress(ways: Ways, name: str, total: int) -> Callable[[int], None]:
    """Return what says how many jobs are done."""
    return lambda done: ways.report.step(name, done, total, "shards")


def tools_files(spec: DataSpec) -> tuple[str, ...]:
    """Return the file of tools, if there is one."""
    return (spec.tools,) if spec.tools else ()


def _files(spec: DataSpec, folder: Path, read: Read) -> tuple[tuple[str, ...], Tools]:
    """Return the files to read, and the tools of every conversation that names none."""
    tools: Tools = ()
    try:
        names = expanded(spec.files, folder)
        if unread := [name for name in spec.held_out if name not in names]:
            raise ConfigError(f"data: held_out: `{unread[0]}` is not among `files`")
        for name, path in existing(tools_files(spec), folder, "tools").items():
            tools = read_tools_file(name, path)
    except ToolchainError as error:
        read.fail(error)
        return (), ()
    read.unread = others_in(spec.files, folder)
    return names, tools


def _opening(spec: DataSpec, folder: Path, read: Read, rules: TextRules) -> Opening:
    def ruled(where: str, text: str) -> str:
        return rules.text(Place(file=where), "opening", text)

    try:
        return read_opening(spec, existing(spec.documents, folder, "documents"), ruled)
    except ToolchainError as error:
        read.fail(error)
        return ()

"""Typed results of the stages, and the records that say how each was made.

A stage writes its outputs into its own `out` folder through `keep`, and `record.json` comes last,
by rename: a folder without a record never happened, and one whose record matches is not made again.
Digests cover relative POSIX paths and bytes.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from device.manifest import read_bounded
from toolchain import extras
from toolchain.config import Frozen
from toolchain.digests import file_digest
from toolchain.errors import ArtifactError
from toolchain.figures import (
    BundleFigures,
    DatasetFigures,
    KnowledgeFigures,
    ModelFigures,
    StageFigures,
    VerdictFigures,
)
from toolchain.files import whole_file, write_whole
from toolchain.ledger import Ledger
from toolchain.texts import Unreadable, lines_of, parse_json

RECORD = "record.json"
STARTED = "started.json"
"""File with the key of the work that is under way."""
# An interrupted stage resumes from its files only if the key is the same; otherwise they go.
RESUME = "resume"
"""Folder inside `out` in which a stage keeps what it needs to resume."""
# `keep` deletes it when the stage is done.

_MAX_RECORD_BYTES = 16 << 20
"""Limit of a record; its figures name each tensor at most."""

Figures = dict[str, Any]
"""Figures as a record keeps them: JSON values only, units in the names."""


Kept = TypeVar("Kept", bound=StageFigures)


class Record(Frozen):
    """Provenance of one stage's outputs."""

    stage: str
    key: str
    """sha256 of all that decides the outputs: inputs, parameters, seed, tool versions."""
    inputs: dict[str, str]
    parameters: dict[str, Any]
    seed: int
    tools: dict[str, str]
    digest: str
    """sha256 of the outputs (relative paths and bytes)."""
    size_bytes: int
    seconds: float
    """Seconds by the clock, with those in which a walk looked at the data before `ingest` began."""
    cpu_s: float | None = None
    """Processor seconds of the stage and of the processes that it waited for, without those of an
    interrupted run; None for a record of an earlier version."""
    figures: Figures
    ledger: Ledger | None = None
    """Sources that the stage read, and their terms; None for a record of an earlier version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What decides a stage's outputs, and so whether they have to be made again."""

    stage: str
    inputs: Mapping[str, str]
    """Name of each input and its digest."""
    parameters: Frozen
    seed: int = 0
    tools: Sequence[str] = ()
    """Distributions whose versions change the outputs."""

    def versions(self) -> dict[str, str]:
        """Return the installed version of each tool and of the toolchain.

        Raise ToolError for a tool that is not installed.
        """
        names = (extras.PACKAGE, *self.tools)
        return {name: extras.version_of(name, self.stage) for name in names}

    def key(self) -> str:
        """Return the sha256 under which these outputs are recorded."""
        parts = [
            self.stage,
            dict(self.inputs),
            self.parameters.model_dump(mode="json"),
            self.seed,
            self.versions(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished output folder with its record."""

    path: Path
    record: Record
    fresh: bool = field(default=True, compare=False)
    """False where the record was already there and the work was skipped."""

    @property
    def digest(self) -> str:
        """The digest that later stages record as their input."""
        return self.record.digest


class Dataset(Artifact):
    """`train.jsonl` and `held_out.jsonl` ({"messages": […]} a line), `texts.jsonl` ({"text": …}).

    Where conversations have an opening, `opening.jsonl` holds its messages, and `opening` in a line
    says how many of them are that. `entries.jsonl` says how many lines of `train.jsonl` each entry
    has, {"rows": 3} a line.
    """

    @property
    def figures(self) -> DatasetFigures:
        """What was read and how it was split."""
        return DatasetFigures.read(self.record.figures)

    @property
    def opening_file(self) -> Path | None:
        """The messages that conversations begin with, one a line."""
        file = self.path / "opening.jsonl"
        return file if file.is_file() else None

    def opening(self) -> tuple[dict[str, str], ...]:
        """Return the messages that conversations begin with."""
        return tuple(read_jsonl(self.opening_file)) if self.opening_file else ()

    def train(self) -> list[dict[str, Any]]:
        """Return the conversations to learn from."""
        return list(read_jsonl(self.path / "train.jsonl"))

    def held_out(self) -> list[dict[str, Any]]:
        """Return the conversations that no training stage may see."""
        return list(read_jsonl(self.path / "held_out.jsonl"))

    def entries(self) -> list[int]:
        """Return the number of conversations to learn of each entry, in their order."""
        return [int(row["rows"]) for row in read_jsonl(self.path / "entries.jsonl")]

    def texts(self) -> list[str]:
        """Return the plain documents."""
        return [row["text"] for row in read_jsonl(self.path / "texts.jsonl")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Artifact):
    """A Hugging Face model folder: config.json, *.safetensors, tokenizer.json, chat template."""

    adapter: Path | None = None
    """A PEFT adapter that belongs to it and is not merged yet."""

    @property
    def digest(self) -> str:
        """The digest of the folder, and of the adapter where there is one."""
        own = self.record.digest
        return (
            hashlib.sha256(f"{own}\0{digest(self.adapter)}".encode()).hexdigest()
            if self.adapter
            else own
        )


ArtifactKind = TypeVar("ArtifactKind", bound=Artifact)


def external(folder: Path) -> Checkpoint:
    """Return a model folder that somebody else made as a Checkpoint, recorded by its digest."""
    total = digest(folder)
    record = Record(
        stage="external",
        key=total,
        inputs={},
        parameters={},
        seed=0,
        tools={},
        digest=total,
        size_bytes=size_bytes(folder),
        seconds=0.0,
        figures={},
    )
    return Checkpoint(path=folder, record=record, fresh=False)


class TeacherLogits(Artifact):
    """Teacher's distribution at each position of the training text: top-k and the tail's mass."""


class Written(Artifact):
    """`written.jsonl`: conversations whose answers a teacher wrote, as those of a Dataset."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the conversations."""
        return list(read_jsonl(self.path / "written.jsonl"))


class ReferenceScores(Artifact):
    """Log-probabilities of preferred and rejected answers, of the model before `align`."""


class ModelFile(Artifact):
    """One .gguf, .tflite or .onnx file, with `tokenizer.json` and `chat_template.jinja` beside it.

    The weights of an ONNX file are in a file of their own (docs/adr/0013).
    """

    @property
    def figures(self) -> ModelFigures:
        """What the file is."""
        return ModelFigures.read(self.record.figures)

    @property
    def file(self) -> Path:
        """Path to the model file itself."""
        return self.path / self.figures.file

    @property
    def data(self) -> Path | None:
        """Path to the file with the weights, of a format that keeps them apart; else None."""
        name = self.figures.data_file
        return self.path / name if name else None

    @property
    def adapter(self) -> Path | None:
        """Path to the unmerged LoRA adapter; None if there is none."""
        name = self.figures.adapter_file
        return self.path / name if name else None

    @property
    def projector(self) -> Path | None:
        """Path to the file that reads pictures; None if the model reads text alone."""
        name = self.figures.projector_file
        return self.path / name if name else None


class Verdict(Artifact):
    """`verdict.json`: what was measured, and what the gate says; `goldens.jsonl`."""

    @property
    def figures(self) -> VerdictFigures:
        """What was measured, and the limits that were missed."""
        return VerdictFigures.read(self.record.figures)

    @property
    def pictures(self) -> list[Path]:
        """Paths to the pictures of the goldens."""
        return sorted(self.path.glob("picture-*"))


class Knowledge(Artifact):
    """`knowledge.db` and `embedder.gguf`: passages of documents, and what finds them."""

    @property
    def figures(self) -> KnowledgeFigures:
        """What was read, made and measured."""
        return KnowledgeFigures.read(self.record.figures)


class GuardFile(Artifact):
    """`guard.bin`: what tells unsafe questions and answers on a board."""


class Bundle(Artifact):
    """The folder that travels to boards; device.manifest says what is in it."""

    @property
    def figures(self) -> BundleFigures:
        """What was packaged."""
        return BundleFigures.read(self.record.figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One step of a push, as `--dry-run` prints it."""

    verb: Literal["send", "activate"]
    what: str
    size_bytes: int = 0
    """What goes over the line."""
    ways: Mapping[str, int] = field(default_factory=dict)
    """Where there was a choice, the bytes of each way: the delta that is taken, and what it
    saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A release that runs on a board; `actions` are what was done for it, or would be."""

    release: str
    """The release's id: the sha256 of its manifest."""
    name: str
    version: str
    address: str
    port: int
    bytes_sent: int
    seconds: float
    actions: tuple[Action, ...]
    goldens: str = ""
    """In words, how the board gave the goldens; empty where nothing was switched."""
    unchanged: bool = False
    """Whether the board ran this already and was healthy, so that nothing was switched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured on a board, and where."""

    board: str
    emulated: bool
    rows: list[Figures]
    """One a test: llama-bench's fields."""
    measured: Figures
    """Everything else: seconds and bytes, the board's condition before, through and after the
    run."""
    facts: Figures = field(default_factory=dict)
    """What the board is."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Time that a piece of work took."""

    seconds: float = 0.0
    """By the clock."""
    cpu_s: float = 0.0
    """Of this process and of those that it waited for."""

    @classmethod
    def now(cls) -> "Spent":
        """Return a reading, to be subtracted from a later one."""
        return cls(time.monotonic(), cpu_s())

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.cpu_s + other.cpu_s)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds - other.seconds, self.cpu_s - other.cpu_s)


def keep(
    out: Path,
    work: Work,
    build: Callable[[Path], Kept | None],
    shape: type[Kept],
    earlier: Callable[[], Spent] = Spent,
) -> tuple[Record, bool]:
    """Return the record of `out`, and whether it is fresh: made now, not found with the same key.

    `build` writes its files under `out` and returns its figures. If it is interrupted nothing is
    recorded; started again with the same key it finds what it left under `out`/resume. A record
    whose figures are not of `shape` is made again. `earlier` is asked after `build` for the time
    that this process spent on the outputs before.
    """
    key = work.key()
    if record := recorded_as(out, key, shape):
        return record, False
    if _looking.get():
        raise UnmadeError(work.stage)
    _prepare(out, key)
    began = Spent.now()
    figures = build(out)
    assert figures is not None
    shutil.rmtree(out / RESUME, ignore_errors=True)
    outputs = digest(out)
    spent = Spent.now() - began + earlier()
    record = Record(
        stage=work.stage,
        key=key,
        inputs=dict(work.inputs),
        parameters=work.parameters.model_dump(mode="json"),
        seed=work.seed,
        tools=work.versions(),
        digest=outputs,
        size_bytes=size_bytes(out),
        seconds=round(spent.seconds, 2),
        cpu_s=round(spent.cpu_s, 2),
        figures=figures.as_json(),
    )
    write_whole(out / RECORD, record.model_dump_json(indent=1) + "\n")
    (out / STARTED).unlink(missing_ok=True)
    return record, True


class UnmadeError(Exception):
    """What a stage makes is not recorded with these inputs, and nothing may be made now."""


_looking: ContextVar[bool] = ContextVar("looking", default=False)
# Of the context and no argument: the same stages run as in a walk, and only `keep` knows of it.


@contextmanager
def looking() -> Iterator[None]:
    """Make nothing in this context: `keep` raises UnmadeError where it would build."""
    before = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(before)


def cpu_s() -> float:
    """Return the processor seconds of this process and of those that it waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def account(artifact: ArtifactKind, ledger: Ledger, *, writes: bool = True) -> ArtifactKind:
    """Return an artifact whose record has this ledger, on the disk too where this process `writes`.

    Terms decide nothing that a stage makes: other ones change the record, and nothing is made
    again.
    """
    if artifact.record.ledger == ledger:
        return artifact
    record = artifact.record.model_copy(update={"ledger": ledger})
    if writes:
        write_whole(artifact.path / RECORD, record.model_dump_json(indent=1) + "\n")
    return replace(artifact, record=record)


def recorded(out: Path) -> Record | None:
    """Return the record of a finished folder, None if there is none that can be read."""
    # Folders come from others too: a FIFO or a device in the record's place must not be waited for.
    content = read_bounded(out / RECORD, _MAX_RECORD_BYTES)
    if content is None or len(content) > _MAX_RECORD_BYTES:
        return None
    try:
        return Record.model_validate_json(content)
    except ValueError:
        return None


def recorded_as(out: Path, key: str, shape: type[StageFigures]) -> Record | None:
    """Return the record of a folder if it has this key and figures of this shape, else None."""
    record = recorded(out)
    if record is None or record.key != key:
        return None
    try:
        shape.read(record.figures)
    except ArtifactError:
        return None
    return record


def _prepare(out: Path, key: str) -> None:
    started = out / STARTED
    same = started.is_file() and started.read_text(encoding="utf-8") == key
    if out.is_dir():
        for entry in list(out.iterdir()):
            if same and entry.name in (RESUME, STARTED):
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(started, key)


def files_in(path: Path, *, without: Sequence[str] = ()) -> list[Path]:
    """Return the output files under a folder, sorted by relative POSIX path.

    Bookkeeping is left out, and so are the files `without`.
    """
    skip = {RECORD, STARTED, *without}
    found = [
        p for p in path.rglob("*") if p.is_file() and not (p.parent == path and p.name in skip)
    ]
    return sorted(
        (p for p in found if p.relative_to(path).parts[0] != RESUME),
        key=lambda p: p.relative_to(path).as_posix(),
    )


def digest(path: Path, *, without: Sequence[str] = (), anew: bool = False) -> str:
    """Return the sha256 of a file, or of a folder's relative paths and bytes.

    The files `without` are left out; `anew` reads also what was read lately (toolchain/digests.py).
    """
    if path.is_file():
        return file_digest(path, anew=anew)
    total = hashlib.sha256()
    for file in files_in(path, without=without):
        own = file_digest(file, anew=anew)
        total.update(f"{file.relative_to(path).as_posix()}\0{own}\n".encode())
    return total.hexdigest()


def value_digest(value: object) -> str:
    """Return the sha256 of what a value of plain texts and numbers is written as."""
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).hexdigest()


def size_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all output files of a folder."""
    return (
        path.stat().st_size
        if path.is_file()
        else sum(file.stat().st_size for file in files_in(path))
    )


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; raise ArtifactError with the line of a bad one."""
    for where, line in lines_of(path.name, path):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except Unreadable as error:
            raise ArtifactError(f"{where}: {error.problem}", hint=error.hint) from error
        if not isinstance(row, dict):
            raise ArtifactError(f"{where}: not a JSON object")
        yield row


_OWN_ORDER = ("tools", "tool_calls")
"""Keys under which order matters: prompts and grammars write properties as a schema lists them."""


def _sorted(value: Any) -> Any:
    """Return a value with the keys of its objects sorted, but for those under _OWN_ORDER."""
    if isinstance(value, Mapping):
        return {
            key: value[key] if key in _OWN_ORDER else _sorted(value[key]) for key in sorted(value)
        }
    return [_sorted(each) for each in value] if isinstance(value, list | tuple) else value


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON lines, whole or not at all, one after the other."""
    with whole_file(path) as part, part.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(jsonl_line(row))


def jsonl_line(row: Mapping[str, Any]) -> str:
    """Return an object as `write_jsonl` writes it."""
    return json.dumps(_sorted(row), ensure_ascii=False) + "\n"

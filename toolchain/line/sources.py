"""The ledger of each stage of a walk: what it read, from which source, under which terms.

`ledger_of` is asked after a stage is done; the record of the stage keeps its answer. What the
recipe says of a source comes first, then what the model's card, its licence text and our table say.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from device.manifest.gguf import read_header
from device.manifest.gguf_values import BadFileError
from toolchain.artifacts import Artifact, Dataset, GuardFile, Knowledge
from toolchain.bases import Base, Embedder, table
from toolchain.endpoint.address import is_endpoint
from toolchain.errors import ConfigError, ToolchainError, TrustError
from toolchain.figures import DatasetFigures
from toolchain.harvested import note_of
from toolchain.knowledge.files import find_files
from toolchain.ledger import Ledger, Privacy, Role, Source, Use
from toolchain.line.flow import Flow
from toolchain.models import hub, origin
from toolchain.recipe import Recipe, SourceSpec, WriteSpec, means
from toolchain.terms import known_or_none
from toolchain.terms.expression import base_of, choices
from toolchain.terms.found import NOTHING, Said, in_folder
from toolchain.terms.table import named_in, rows

READS: Mapping[str, tuple[Role, ...]] = {
    "ingest": ("data", "opening"),
    "pretrain": ("data",),
    "tune": ("base", "adapter", "data", "opening"),
    "distill": (
        *("base", "adapter", "teacher", "student", "data", "opening"),
        *("documents", "questions"),
    ),
    "align": ("base", "adapter", "data", "opening", "preferences"),
    "trim": ("base", "adapter", "data", "opening"),
    "know": ("documents", "questions", "embedder"),
    "guard": ("data", "guard"),
    "quantize": ("base", "adapter"),
    "evaluate": ("base", "adapter", "data", "opening"),
}
"""Stage → roles of the sources that it reads; `package` reads the ledgers of all."""
NOT_COUNTED = (
    "the search for settings",
    "other releases from the same data",
    "the number of units",
    "figures of the gate",
)
"""What no ε says anything of."""
_LEARNING = ("pretrain", "tune", "distill", "align")


def ledger_of(flow: Flow, stage: str, artifact: Artifact) -> Ledger:
    """Return the ledger of a stage that gave this artifact."""
    roles = READS.get(stage, ())
    sources = [
        source
        for source in sources_of(flow.recipe, flow)
        if source.role in roles and _is_read_by(stage, source)
    ]
    found: dict[str, int] = {}
    replaced: dict[str, int] = {}
    if stage == "ingest":
        sources = [
            _with_rows(_with_digest(source, artifact.record.inputs), artifact.record.figures)
            for source in sources
        ]
        found, replaced = _redaction(artifact.record.figures)
    elif flow.dataset is not None:
        inputs = {**artifact.record.inputs, **flow.dataset.record.inputs}
        sources = [_with_digest(source, inputs) for source in sources]
    return Ledger(
        sources=tuple(sources),
        found=found,
        replaced=replaced,
        done=_done(stage, artifact),
        privacy=_privacy(stage, artifact.record.figures),
    )


def _privacy(stage: str, figures: Mapping[str, Any]) -> Privacy | None:
    """Return what a stage claims of its privacy; None where it claims nothing."""
    if not (claimed := figures.get("privacy")):
        return None
    names = Privacy.model_fields.keys() & claimed.keys()
    values = {name: claimed[name] for name in names}
    return Privacy(stage=stage, not_counted=NOT_COUNTED, **values)


def _is_read_by(stage: str, source: Source) -> bool:
    """Say whether a stage reads a document or a question: one is quoted, or written from."""
    if source.role not in ("documents", "questions"):
        return True
    return (source.use == "trained") == (stage == "distill")


def _done(stage: str, artifact: Artifact) -> tuple[str, ...]:
    """Return what a stage did with text, in a sentence."""
    record = artifact.record
    if isinstance(artifact, Dataset):
        figures = DatasetFigures.read(record.figures)
        return (
            f"{stage}: {figures.entries} entries and {figures.documents} documents read, "
            f"{sum(figures.dropped.values())} dropped, {figures.held_out} held out",
        )
    if isinstance(artifact, GuardFile) and (beside := record.figures.get("ceiling")):
        model = PurePosixPath(str(beside["model"])).name
        return (f"{stage}: compared with the model `{model}`, which does not travel",)
    if isinstance(artifact, Knowledge):
        return (f"{stage}: {artifact.figures.passages} passages, quoted or read as they stand",)
    if record.figures.get("privacy"):
        return (f"{stage}: learned under differential privacy",)
    if stage in _LEARNING and (tokens := record.figures.get("trained_tokens")):
        learned = f"{stage}: learned from {tokens:,} tokens"
        written = record.figures.get("written")
        if written and record.figures.get("shipped") == "student":
            return (learned, f"{stage}: {written:,} conversations of a teacher among them")
        return (learned,)
    return ()


def _redaction(figures: Mapping[str, object]) -> tuple[dict[str, int], dict[str, int]]:
    """Return what `ingest` found in the text by kind, and what it replaced."""
    block = figures.get("personal")
    kinds = block if isinstance(block, Mapping) else {}
    found, replaced = (
        {
            str(kind): count
            for kind, done in kinds.items()
            if isinstance(done, Mapping) and isinstance(count := done.get(what), int) and count
        }
        for what in ("found", "replaced")
    )
    return found, replaced


def _with_rows(source: Source, figures: Mapping[str, object]) -> Source:
    """Return a source of text with the number of its rows, where `ingest` counted them."""
    rows = figures.get("rows")
    known = rows if isinstance(rows, Mapping) else {}
    count = {travelling_path(str(name)): each for name, each in known.items()}.get(source.name)
    return source.model_copy(update={"rows": count}) if isinstance(count, int) else source


def _with_digest(source: Source, inputs: Mapping[str, str]) -> Source:
    """Return a source of text with the digest that `ingest` recorded for its file."""
    known = {travelling_path(name): sha256 for name, sha256 in inputs.items()}
    sha256 = source.sha256 or known.get(source.name, "")
    return source.model_copy(update={"sha256": sha256})


def sources_of(recipe: Recipe, flow: Flow | None = None) -> list[Source]:
    """Return all sources of a recipe, as far as they are known.

    Raise ConfigError for `[[data.sources]]` that name no file of the recipe, or one twice.
    """
    texts = list(_texts(recipe))
    covered = _covered(recipe, [name for _, name, _ in texts])
    found = []
    for role, name, use in texts:
        found.append(_with_rounds(_text_source(role, name, use, covered), recipe, name))
    return [*_models(recipe, flow), *found]


def _texts(recipe: Recipe) -> Iterator[tuple[Role, str, Use]]:
    """Yield role, path and use of each text file that the recipe names."""
    use: Use = "trained" if recipe.learns or recipe.quantize.distill else "beside"
    for name in recipe.data.files:
        yield from (("data", each, use) for each in _files_of(recipe, name))
    yield from (("opening", name, use) for name in recipe.data.documents)
    general = {"tune": recipe.tune, "distill": recipe.distill}
    for stage, learned in general.items():
        for name in learned.general_files if learned and stage in recipe.stages else ():
            yield from (("data", each, "trained") for each in _files_of(recipe, name))
    if recipe.align and "align" in recipe.stages:
        for name in recipe.align.files:
            yield from (("preferences", each, "trained") for each in _files_of(recipe, name))
    if (spec := recipe.knowledge) and "know" in recipe.stages:
        yield from (("documents", name, "beside") for name in _documents(recipe, spec.files))
        yield from (("questions", name, "beside") for name in spec.questions)
    if (write := recipe.distill and recipe.distill.write) and "distill" in recipe.stages:
        yield from (("documents", name, "trained") for name in _documents(recipe, write.documents))
        yield from (("questions", name, "trained") for name in write.questions)
    if (guard := recipe.guard) and "guard" in recipe.stages:
        yield from (("guard", name, "beside") for name in (*guard.unsafe, *guard.safe))


def _documents(recipe: Recipe, patterns: Sequence[str]) -> list[str]:
    """Return the documents that patterns mean, without those that are not read."""
    try:
        found = find_files(patterns, recipe.folder)
    except ConfigError:  # the plan says which pattern names nothing
        return []
    return [name for name, file in found.items() if not file.reason]


def _files_of(recipe: Recipe, name: str) -> list[str]:
    """Return the files that an entry of `data.files` means: itself, or what is read of a folder."""
    from toolchain.ingest.files import is_read

    folder = recipe.folder / name
    if not folder.is_dir():
        return [name]
    inside = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    shown = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    names = sorted((PurePosixPath(name) / file.as_posix()).as_posix() for file in shown)
    return [each for each in names if is_read(each)] or [name]


def _covered(recipe: Recipe, names: list[str]) -> Mapping[str, SourceSpec]:
    """Return what the recipe says of each file."""
    covered: dict[str, SourceSpec] = {}
    for number, spec in enumerate(recipe.data.sources, 1):
        for pattern in spec.files:
            matching = {name for name in names if means(pattern, name)}
            if not matching:
                raise ConfigError(
                    f"{recipe.id}.toml: data: sources: {number}: `{pattern}` is no file of the "
                    "recipe",
                    hint=f"files are named as elsewhere in it: {', '.join(sorted(set(names))[:8])}",
                )
            for name in sorted(matching):
                if covered.get(name, spec) is not spec:
                    raise ConfigError(
                        f"{recipe.id}.toml: data: sources: `{name}` is named by two of them",
                        hint="one file has one source; an expression joins terms: `A AND B`",
                    )
                covered[name] = spec
    return covered


def _text_source(role: Role, name: str, use: Use, covered: Mapping[str, SourceSpec]) -> Source:
    spec = covered.get(name)
    if spec is None:
        return Source(role=role, use=use, name=travelling_path(name))
    return Source(
        role=role,
        use=use,
        name=travelling_path(name),
        licence=spec.licence,
        said_by="recipe",
        subject=spec.subject,
        url=spec.url,
        attribution=spec.attribution,
        note=spec.note,
    )


def _with_rounds(source: Source, recipe: Recipe, name: str) -> Source:
    """Return a source with a note of the boards and rounds that its rows came from."""
    if recipe.round is None or name not in recipe.round.answers:
        return source
    said = (source.note, note_of(name, recipe.folder / name))
    return source.model_copy(update={"note": "; ".join(filter(None, said))})


def travelling_path(name: str) -> str:
    """Return a file's name in what travels: never a path outside of the recipe's folder."""
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts and not name.startswith("~")
    return path.as_posix() if is_inside else path.name


def _models(recipe: Recipe, flow: Flow | None) -> Iterator[Source]:
    """Yield the models that the recipe starts from, learns from and travels with."""
    model = recipe.model
    if model.base:
        said = model.licence
        yield _model(recipe, "base", model.base, said, flow.base if flow else None, flow)
    if model.adapter:
        yield _model(recipe, "adapter", model.adapter, model.adapter_licence)
    if (spec := recipe.distill) and "distill" in recipe.stages:
        if spec.teacher:
            yield _model(recipe, "teacher", spec.teacher, spec.teacher_licence)
        if spec.student:
            yield _model(recipe, "student", spec.student, spec.student_licence)
        if spec.write and spec.write.teacher:
            yield _writer(recipe, spec.write)
    if (known := recipe.knowledge) and "know" in recipe.stages:
        yield _model(recipe, "embedder", known.embedder, known.embedder_licence)


def _writer(recipe: Recipe, spec: WriteSpec) -> Source:
    """Return the model that writes training text; an address does not travel."""
    if not is_endpoint(spec.teacher):
        return _model(recipe, "teacher", spec.teacher, spec.teacher_licence)
    return Source(
        role="teacher",
        use="outputs",
        name=spec.teacher_model or "a model behind an endpoint",
        licence=spec.teacher_licence,
        said_by="recipe" if spec.teacher_licence else "",
    )


_USES: Mapping[Role, Use] = {"teacher": "outputs", "embedder": "beside"}


def _model(
    recipe: Recipe,
    role: Role,
    name: str,
    said: str,
    folder: Path | None = None,
    flow: Flow | None = None,
) -> Source:
    """Return a model as a source; raise TrustError where it contradicts the recipe."""
    own = _own_word(recipe, name, folder)
    if said and own.licence and not _agrees(said, own.licence):
        raise TrustError(
            f"{recipe.id}.toml: {role} `{name}`: the recipe says `{said}`, its {own.by} says "
            f"`{own.licence}`",
            hint="terms that you agreed on with its owner are written `LicenseRef-NAME`",
        )
    return Source(
        role=role,
        use=_USES.get(role, "weights"),
        name=hub.travelling_name(name, recipe.folder),
        sha256=flow.base_digest if flow and role == "base" else "",
        licence=said or own.licence,
        said_by="recipe" if said else own.by,
    )


def _agrees(said: str, own: str) -> bool:
    """Say whether a recipe may say this of a model: one of its choices, or terms of one's own."""
    known = {
        licence for choice in choices(said) for licence in choice if base_of(licence) in rows()
    }
    return not known or set(choices(said)) <= set(choices(own))


def _own_word(recipe: Recipe, name: str, folder: Path | None) -> Said:
    """Return what a model itself, or our table, says of its licence."""
    here = folder or recipe.folder / Path(name).expanduser()
    if here.is_dir() and (said := in_folder(here)).licence:
        return said
    known: tuple[Base | Embedder, ...] = (*table().base, *table().embedder)
    for row in known:
        if name in (row.hub, row.package):
            return Said(row.licence, "row in the table of bases")
    return _gguf_word(name, recipe.folder)


def _gguf_word(name: str, near: Path) -> Said:
    """Return what a GGUF file, or the Python package that ships it, says of its licence."""
    try:
        source = origin.find(name, near)
        said = read_header(source.file).metadata.get("general.license") if source else None
    except (ToolchainError, BadFileError, OSError):  # the plan says what is wrong with the file
        return NOTHING
    if isinstance(said, str) and (licence := known_or_none(said)):
        return Said(licence, "GGUF header")
    files = source.licences if source else ()
    texts = (named_in(file.read_text("utf-8", "replace")) for file in files)
    licence = next(filter(None, texts), "")
    return Said(licence, "package's licence text") if licence else NOTHING

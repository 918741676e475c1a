"""State of a walk: the recipe, the settings, and the newest artifact of each kind.

A stage's row reads its inputs from here and leaves its artifact here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest import QUOTE
from toolchain import artifacts
from toolchain.artifacts import (
    Artifact,
    Checkpoint,
    Dataset,
    GuardFile,
    Knowledge,
    ModelFile,
    Record,
    Verdict,
)
from toolchain.errors import ConfigError
from toolchain.figures import BaseFigures
from toolchain.general import GENERAL
from toolchain.models import hub
from toolchain.models.original import Original
from toolchain.models.template import check_folder
from toolchain.progress import Reporter
from toolchain.recipe import AUTO, GeneralSpec, Recipe
from toolchain.target import Target

if TYPE_CHECKING:
    from toolchain.evaluate.wording import Documents
    from toolchain.knowledge.texts import Texts
    from toolchain.package import Consulted, Guarded
    from toolchain.preferences import Preferences
    from toolchain.quantize.gguf import ModelLabel
    from toolchain.training.probe import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a walk writes and what it may use."""

    out: Path
    """Each stage gets a folder under it."""
    target: Target
    report: Reporter
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of a walk, for the plan and for the table at the end."""

    stage: str
    folder: Path
    what: str
    """What the stage will do, in one line: the parameters that matter."""
    artifact: Artifact | None = None
    """What came out; None in a plan."""
    result: str = ""
    """What the stage measured, in one line; empty in a plan."""
    recorded: bool = False
    """Of a plan: whether the stage was finished before with these inputs and parameters."""


@dataclass(slots=True, kw_only=True)
class Flow:
    """The newest artifact of each kind, as the walk goes on."""

    recipe: Recipe
    settings: Settings
    dataset: Dataset | None = None
    checkpoint: Checkpoint | None = None
    format: str = ""
    """Format that the stage is done in now; empty for a stage that all formats share."""
    folder_suffix: str = ""
    """End of the stage's folder name in this format."""
    knowledge: Knowledge | None = None
    knowledge_texts: "Texts | None" = None
    """What the documents and the questions for them say; None until it is asked for."""
    guard: GuardFile | None = None
    models: dict[str, ModelFile] = field(default_factory=dict)
    """Model file of each format."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """Verdict of each format."""
    records: list[tuple[str, Record]] = field(default_factory=list)
    """Format and record of each stage; the format is empty where all formats share the stage."""
    base: Path | None = None
    base_digest: str = ""
    base_weights: str = ""
    """What the base's weights were, where they came from a quantized file; else empty."""
    unmerged: Checkpoint | None = None
    """The base that was tuned, with what it learned still an adapter."""
    original: Original | None = None
    """The model as it is now, without our work on it: the gate's reference."""
    teacher: Original | None = None
    """The model that taught the student, where there was a `distill`."""

    @property
    def base_name(self) -> str:
        """Name of the recipe's base in what travels."""
        return hub.travelling_name(self.recipe.model.base, self.recipe.folder)

    @property
    def report(self) -> Reporter:
        """Where the walk reports its progress."""
        return self.settings.report

    def out(self, stage: str) -> Path:
        """Return the folder of a stage in the current format."""
        return self.settings.out / f"{stage}{self.folder_suffix}"

    def source(self) -> Checkpoint:
        """Return the checkpoint of the stage before, or the base with an unmerged adapter."""
        if self.checkpoint is None:
            self.checkpoint = _external(self)
        return self.checkpoint

    def merged(self) -> Checkpoint:
        """Return the checkpoint as one set of weights, for a stage that trains on them."""
        from toolchain.tune import merge

        source = self.source()
        if source.adapter:
            base = replace(source, adapter=None)
            source = merge(base, source.adapter, self.out("merge"), self.report)
            self.checkpoint = source
        return source

    def data(self) -> Dataset:
        """Return the data set; raise ConfigError if `ingest` did not run before."""
        if self.dataset is None:
            raise ConfigError(f"{self.recipe.id}: stages: this order needs `ingest` first")
        return self.dataset

    def reference(self) -> Original:
        """Return the model as its user and its trainings left it."""
        self.source()
        assert self.original
        return self.original

    def general(self, name: str) -> Path:
        """Return the general text that the recipe names, ours where it names none."""
        return self.recipe.folder / name if name else GENERAL

    def texts(self) -> "Texts":
        """Return what the recipe's `[knowledge]` names, read once."""
        from toolchain.knowledge.texts import read_texts

        assert self.recipe.knowledge
        if self.knowledge_texts is None:
            self.knowledge_texts = read_texts(self.recipe.knowledge, self.recipe.folder)
        return self.knowledge_texts

    def preferences(self) -> "Preferences":
        """Return what the recipe's `[align]` learns from."""
        from toolchain.ingest.preferences import read_preferences

        recipe = self.recipe
        assert recipe.align
        return read_preferences(recipe.align, recipe.data, recipe.folder, self.report.note)

    def questions(self) -> "tuple[Question, ...]":
        """Return general questions; none for a model that is trained here from nothing."""
        from toolchain.training.probe import read_questions

        return () if self.recipe.model.scratch else read_questions()

    def talk(self, spec: GeneralSpec) -> "list[dict[str, Any]]":
        """Return the general conversations that a stage learns beside the recipe's own."""
        from toolchain.ingest.beside import general_rows
        from toolchain.training.probe import read_talk

        recipe = self.recipe
        if not spec.general_share:
            return []
        if not spec.general_files:
            return read_talk()
        return general_rows(spec.general_files, recipe.data, recipe.folder, seed=recipe.seed)

    def documents(self) -> "Documents | None":
        """Return what the model may word answers from, where the recipe leaves it to `evaluate`."""
        from toolchain.evaluate.wording import Documents

        spec = self.recipe.knowledge
        if spec is None or self.knowledge is None or spec.answer != AUTO:
            return None
        asked = self.texts().answered()
        every = max(1, len(asked) // spec.answer_questions)
        return Documents(
            knowledge=self.knowledge, asked=asked[::every][: spec.answer_questions], take=spec.take
        )

    def consulted(self, verdict: Verdict) -> "Consulted | None":
        """Return the documents that a bundle answers from; None if there are none."""
        from toolchain.package import Consulted

        spec = self.recipe.knowledge
        if spec is None or self.knowledge is None:
            return None
        worded = verdict.figures.wording
        answer = (worded.answer if worded else QUOTE) if spec.answer == AUTO else spec.answer
        return Consulted(knowledge=self.knowledge, answer=answer, take=spec.take)

    def guarded(self) -> "Guarded | None":
        """Return the filter that a bundle has; None if there is none."""
        from toolchain.package import Guarded

        spec = self.recipe.guard
        if spec is None or self.guard is None:
            return None
        return Guarded(guard=self.guard, refuse=spec.refuse)

    def label(self) -> "ModelLabel":
        """Return what a model file says of itself."""
        from toolchain.quantize.gguf import ModelLabel

        return ModelLabel(
            name=self.recipe.name,
            version=self.recipe.package.version,
            licence=self.recipe.package.licence,
            base_model=self.base_name,
            base_weights=self.base_weights,
            description=self.recipe.title,
        )

    def records_of(self, form: str) -> Sequence[Record]:
        """Return the records that a bundle of this format stands on, in order."""
        return [record for other, record in self.records if other in ("", form)]

    def fetched(self, name: str, role: str) -> Checkpoint:
        """Return a teacher or student that the recipe names: a Hub id, a folder or a GGUF file."""
        if unpacked := _unpacked(self, name, role):
            return unpacked
        folder = hub.fetch(
            name,
            near=self.recipe.folder,
            offline=self.settings.offline,
            report=self.report,
        )
        check_folder(folder)
        return artifacts.external(folder)


def _external(flow: Flow) -> Checkpoint:
    """Return the recipe's base with its adapter unmerged, and note in `flow` what it is."""
    from toolchain.models.adapter_config import check_base_name

    model, near = flow.recipe.model, flow.recipe.folder
    base = _base(flow)
    flow.base = base.path
    flow.base_digest = base.digest
    flow.original = Original(base=flow.base)
    if not model.adapter:
        return base

    adapter = hub.fetch(model.adapter, near=near, offline=flow.settings.offline)
    check_base_name(
        adapter, model.base, near=near, revision=model.revision, same_as=model.adapter_base
    )
    check_folder(adapter)
    flow.original = Original(base=flow.base, adapters=(adapter,))
    return replace(base, adapter=adapter)


def _base(flow: Flow) -> Checkpoint:
    from toolchain.models.weights import check_model_folder

    model = flow.recipe.model
    if unpacked := _unpacked(flow, model.base, "base"):
        return unpacked
    folder = hub.fetch(
        model.base,
        revision=model.revision,
        near=flow.recipe.folder,
        offline=flow.settings.offline,
        report=flow.report,
    )
    check_model_folder(folder)
    check_folder(folder)
    return artifacts.external(folder)


def _unpacked(flow: Flow, name: str, role: str) -> Checkpoint | None:
    """Return the checkpoint that a GGUF file stands for, None if a name means no file."""
    from toolchain import runtime
    from toolchain.models import origin

    source = origin.find(name, flow.recipe.folder)
    if source is None:
        return None
    from toolchain.models.from_gguf import unpack

    checkpoint = unpack(
        source,
        runtime.for_this_computer(),
        flow.settings.out / role,
        flow.report,
        stage=role,
    )
    flow.records.append(("", checkpoint.record))
    if role == "base":
        flow.base_weights = BaseFigures.read(checkpoint.record.figures).quantization
    return checkpoint

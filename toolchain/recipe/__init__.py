"""A recipe: one model, its data, its stages in order, and their parameters (`recipes/<id>.toml`).

Its tables are in modules by what they are about. Each default stands there and nowhere else. Paths
in a recipe are relative to the recipe's own folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from toolchain import config
from toolchain.config import Frozen
from toolchain.recipe.data import (
    SECRETS_FILE,
    CleanSpec,
    DataSpec,
    IngestSpec,
    RedactSpec,
    SourceSpec,
    TurnSpec,
    means,
)
from toolchain.recipe.kinds import (
    AUTO,
    LINEAR,
    Fraction,
    Licence,
    Personal,
    Positive,
    Precision,
    Text,
    Words,
)
from toolchain.recipe.knowledge import ContrastSpec, GuardSpec, KnowledgeGateSpec, KnowledgeSpec
from toolchain.recipe.model import EyesSpec, ModelSpec, ScratchSpec
from toolchain.recipe.shipping import (
    EvaluateSpec,
    GateSpec,
    InFormatSpec,
    LeakSpec,
    PackageSpec,
    QuantizeSpec,
    RoundSpec,
)
from toolchain.recipe.training import (
    AlignSpec,
    DistillSpec,
    GeneralSpec,
    LoraSpec,
    PrivacySpec,
    TrainSpec,
    TrimSpec,
    TuneSpec,
    WriteSpec,
)
from toolchain.texts import decoded

__all__ = [
    "AUTO",
    "LINEAR",
    "SECRETS_FILE",
    "AlignSpec",
    "CleanSpec",
    "ContrastSpec",
    "DataSpec",
    "DistillSpec",
    "EvaluateSpec",
    "EyesSpec",
    "Fraction",
    "GateSpec",
    "GeneralSpec",
    "GuardSpec",
    "InFormatSpec",
    "IngestSpec",
    "KnowledgeGateSpec",
    "KnowledgeSpec",
    "LeakSpec",
    "Licence",
    "LoraSpec",
    "ModelSpec",
    "PackageSpec",
    "Personal",
    "Positive",
    "Precision",
    "PrivacySpec",
    "QuantizeSpec",
    "Recipe",
    "RedactSpec",
    "RoundSpec",
    "ScratchSpec",
    "SourceSpec",
    "Text",
    "TrainSpec",
    "TrimSpec",
    "TuneSpec",
    "TurnSpec",
    "Words",
    "WriteSpec",
    "load",
    "means",
]


class Recipe(Frozen):
    """One ready configuration."""

    title: str = Field(description="one line that says what comes out")
    targets: tuple[str, ...] = Field(
        description="ids of the boards it is meant for; the first is the default"
    )
    question: str = ""
    """Asked on the board when all is done; one that the training text does not hold."""
    choose: Literal["fastest", "best"] = "fastest"
    """Of several `quantize.formats` that pass the gate: the one that stays on a board where all
    were measured. `fastest` answers fastest there, and is the better one where no difference is
    shown; `best` is nearest to its reference."""
    stages: tuple[str, ...] = ("ingest", "tune", "quantize", "evaluate", "package")
    seed: int = 0
    model: ModelSpec
    data: DataSpec = DataSpec()
    ingest: IngestSpec = IngestSpec()
    tune: TuneSpec = TuneSpec()
    distill: DistillSpec | None = None
    align: AlignSpec | None = None
    trim: TrimSpec = TrimSpec()
    knowledge: KnowledgeSpec | None = None
    guard: GuardSpec | None = None
    quantize: QuantizeSpec = QuantizeSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    package: PackageSpec = PackageSpec()
    round: RoundSpec | None = None
    _path: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _stages_fit(self) -> "Recipe":
        if not self.targets:
            raise ValueError("`targets` names no board")
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("`stages` names a stage twice")
        if ("pretrain" in self.stages) != (self.model.scratch is not None):
            raise ValueError("stage `pretrain` and `[model.scratch]` go together")
        if "distill" in self.stages and self.distill is None:
            raise ValueError("stage `distill` needs a `[distill]` table")
        if ("align" in self.stages) != (self.align is not None):
            raise ValueError("stage `align` and an `[align]` table go together")
        if ("know" in self.stages) != (self.knowledge is not None):
            raise ValueError("stage `know` and a `[knowledge]` table go together")
        if ("guard" in self.stages) != (self.guard is not None):
            raise ValueError("stage `guard` and a `[guard]` table go together")
        if self.tune.privacy and "tune" not in self.stages:
            raise ValueError("`[tune.privacy]` protects what a stage `tune` learns")
        if self.evaluate.leak.planted and "tune" not in self.stages:
            raise ValueError("`evaluate.leak.planted` needs a stage `tune`, which learns them")
        if self.evaluate.leak.planted and self.tune.privacy:
            raise ValueError("give either `evaluate.leak.planted` or `tune.privacy.canaries`")
        if self.round and not self.round.learn and self.knowledge is None:
            raise ValueError(
                "`[round]`: its answers reach nothing: set `learn = true`, or give `[knowledge]`"
            )
        apart = self.model.adapter or "tune" in self.stages
        if self.quantize.adapter == "beside" and self.tune.base_bits == 4:
            raise ValueError(
                "`quantize.adapter` is `beside`, but with `tune.base_bits = 4` the merge decides "
                "which base the adapter belongs to"
            )
        if self.quantize.adapter == "beside" and (
            {"distill", "align", "trim"} & set(self.stages) or not apart
        ):
            raise ValueError("`quantize.adapter` is `beside`, but what is quantized has no adapter")
        return self

    @property
    def id(self) -> str:
        """The file's stem."""
        return self._path.stem

    @property
    def folder(self) -> Path:
        """The folder that the recipe's paths are relative to."""
        return self._path.parent

    @property
    def name(self) -> str:
        """What the result is called."""
        return self.model.name or self.id

    def with_names(self, names: Mapping[str, str]) -> "Recipe":
        """Return the recipe with other names for the keys of its data; raise ValueError."""
        data = DataSpec.model_validate({**self.data.model_dump(), "map": names})
        return self.model_copy(update={"data": data})

    def in_round(self) -> "Recipe":
        """Return the recipe with the answers of its `[round]` among its documents and its data.

        A file of answers that is not there yet counts as empty.
        """
        if self.round is None:
            return self
        files = tuple(each for each in self.round.answers if (self.folder / each).is_file())
        changes: dict[str, object] = {}
        if self.knowledge:
            known = tuple(dict.fromkeys((*self.knowledge.files, *files)))
            changes["knowledge"] = self.knowledge.model_copy(update={"files": known})
        if self.round.learn and files:
            data = {
                "files": tuple(dict.fromkeys((*self.data.files, *files))),
                "newest": files,
                "replay": self.round.replay,
            }
            changes["data"] = self.data.model_copy(update=data)
        return self.model_copy(update=changes)

    @property
    def learns(self) -> bool:
        """Whether the model is more than its base: trained here, or by an adapter."""
        return bool(
            {"pretrain", "tune", "distill", "align"} & set(self.stages) or self.model.adapter
        )

    @property
    def privacy(self) -> PrivacySpec | None:
        """How what the model learns is protected; None if it is not."""
        return self.tune.privacy if "tune" in self.stages else None

    def text(self) -> str:
        """Return the file as it is written, to find a key's line in it."""
        return decoded(self._path.read_bytes())


def load(path: Path) -> Recipe:
    """Read a recipe; raise ConfigError with the key that is wrong."""
    recipe = config.load(path, Recipe)
    recipe._path = path
    return recipe.in_round()

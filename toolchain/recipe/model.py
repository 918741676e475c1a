"""`[model]`: what is quantized, or built from nothing."""

from pydantic import Field, model_validator

from toolchain.config import Frozen
from toolchain.recipe.kinds import Fraction, Licence, Positive


class EyesSpec(Frozen):
    """A small vision tower of a model from nothing, of SmolVLM's kind: all of it is trained."""

    side: Positive = 64
    """Width and height of the tile that a picture is scaled to, in pixels."""
    patch: Positive = 8
    merge: Positive = 2
    """So many patches, across and down, become one place of the prompt."""
    hidden_size: Positive = 64
    layers: Positive = 2
    heads: Positive = 4

    @model_validator(mode="after")
    def _whole_places(self) -> "EyesSpec":
        if self.side % (self.patch * self.merge) or self.hidden_size % self.heads:
            raise ValueError("`side` must be whole places of `patch` × `merge`, or heads are split")
        return self

    @property
    def places(self) -> int:
        """Places of the prompt that a picture takes."""
        return (self.side // self.patch // self.merge) ** 2


class ScratchSpec(Frozen):
    """A small Llama and its tokenizer, trained from nothing on the recipe's own text."""

    vocab_size: Positive = 2048
    hidden_size: Positive = 256
    intermediate_size: Positive = 768
    layers: Positive = 6
    heads: Positive = 4
    kv_heads: Positive = 2
    context: Positive = 512
    steps: Positive = 1200
    batch_size: Positive = 32
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_share: Fraction = 0.05
    eyes: EyesSpec | None = None
    """Give it eyes, and train all of it on the conversations about pictures."""


class ModelSpec(Frozen):
    """Source of the weights: a Hub id, a folder, a GGUF file, or nothing yet (`scratch`)."""

    base: str = Field(
        default="",
        description="a Hub id such as `Qwen/Qwen2.5-0.5B-Instruct`, a model folder, "
        "a `.gguf` file, "
        "or `package:NAME/FILE`: a `.gguf` file that an installed Python package ships",
    )
    revision: str = Field(default="main", description="branch, tag or commit of a Hub model")
    adapter: str = Field(default="", description="a PEFT adapter to merge: a Hub id or a folder")
    adapter_base: str = Field(
        default="",
        description="the name of the base in the adapter's configuration, where it differs from "
        "`base` but means the same weights",
    )
    scratch: ScratchSpec | None = None
    name: str = Field(
        default="", description="name of the result, as in its file name; by default the recipe's"
    )
    licence: Licence = ""
    """Licence of the base, where its card, its licence text and our table do not say it."""
    adapter_licence: Licence = ""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        if bool(self.base) == bool(self.scratch):
            raise ValueError("give either `base` or `[model.scratch]`")
        if self.adapter_base and not self.adapter:
            raise ValueError("`adapter_base` is given, but no `adapter`")
        return self

"""What is known of a walk before it begins: from recipe, configurations, data and target alone.

Every walk calls `check`, and so does `--dry-run`. It takes seconds, trains and builds nothing, and
reports all findings at once. Errors are what would end the walk later, with the class that they
would have then. Notes are what a person wants to know before hours pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from toolchain.config import line_of
from toolchain.errors import ToolchainError, all_of
from toolchain.progress import SILENT, Reporter
from toolchain.recipe import QuantizeSpec, Recipe
from toolchain.target import Target


class Format(Protocol):
    """What the checks ask of a row of `line.formats`."""

    @property
    def has_fixed_context(self) -> bool:
        """Whether the length of the context is part of the file."""

    @property
    def reads_in_pieces(self) -> bool:
        """Whether prompts are read in pieces of the lengths `quantize.prefill`."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer is part of the file."""

    @property
    def has_tensor_types(self) -> bool:
        """Whether `quantize.scheme` gives each tensor a type of its own."""

    @property
    def has_eyes(self) -> bool:
        """Whether a model that sees keeps its eyes."""

    @property
    def has_knowledge(self) -> bool:
        """Whether its engine also finds documents."""

    @property
    def check(self) -> Callable[[QuantizeSpec], None]:
        """Raises ConfigError for a scheme that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A walk that is about to begin."""

    recipe: Recipe
    target: Target
    stages: tuple[str, ...]
    """Stages that are walked, up to the requested one."""
    formats: tuple[Format, ...]
    """Rows of the formats that the target has an engine for."""
    files: tuple[tuple[Format, QuantizeSpec], ...]
    """Format and spec of each model file that is made."""
    out: Path
    offline: bool = False
    schemes: tuple[str, ...] = ()
    """Schemes to try instead of the recipe's own."""
    writes: bool = False
    """Whether what is read of large data may be kept in `out`: a dry run keeps nothing."""
    report: Reporter = SILENT

    @property
    def file(self) -> str:
        """Name of the recipe's file; messages begin with it."""
        return f"{self.recipe.id}.toml"

    def place(self, parents: list[str], key: str) -> str:
        """Return where a key stands in the recipe: its file, with the line if it is there."""
        line = line_of(self.recipe.text(), parents, key)
        return f"{self.file}:{line}" if line else self.file

    def walks(self, *stages: str) -> list[str]:
        """Return which of these stages are walked, in the walk's order."""
        return [stage for stage in self.stages if stage in stages]


@dataclass(slots=True)
class Findings:
    """Findings: errors, each of which would end the walk, and notes."""

    errors: list[ToolchainError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    preview: list[str] = field(default_factory=list)
    """What a dry run shows in addition: the data as it was understood."""

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Add an error of the block to the findings instead of ending there."""
        try:
            yield
        except ToolchainError as error:
            self.errors += [error, *error.others]
            error.others = ()

    def end_walk(self) -> None:
        """Raise all errors as one, if there are any.

        The class that comes first in the list of exit codes decides the exit code.
        """
        if self.errors:
            raise all_of(sorted(self.errors, key=lambda error: error.exit_code))


def check(ahead: Ahead, findings: Findings) -> None:
    """Add what is known of a walk before it begins to the findings."""
    from toolchain.checks import (
        conversations,
        cost,
        data,
        files,
        knowledge,
        learning,
        lora,
        model,
        preferences,
        privacy,
        teaching,
        tools,
    )

    files.check_schemes(ahead, findings)
    parts = data.look(ahead, findings)
    if parts:
        tools.look(ahead, parts, findings)

    bases = model.look(ahead, findings)
    if bases:
        files.check_model(ahead, bases, findings)
        lora.look(ahead, bases, findings)

    knowledge.look(ahead, findings)
    teaching.look(ahead, findings)
    preferences.look(ahead, findings)
    privacy.look(ahead, parts, findings)
    lengths = conversations.look(ahead, parts, bases, findings) if parts else None
    learning.look(ahead, lengths, findings)
    cost.forecast(ahead, bases, lengths, findings)
    findings.errors = list({error.message: error for error in findings.errors}.values())

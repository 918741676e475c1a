"""General conversations from a recipe's own files: what a training learns beside the recipe's data.

They are cleaned and redacted as the data is, and nothing of them is held out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import ConfigError, all_of
from toolchain.ingest.looking import look
from toolchain.recipe import DataSpec


def general_rows(
    files: Sequence[str], data: DataSpec, folder: Path, *, seed: int
) -> list[dict[str, Any]]:
    """Return the conversations of `files`, paths in `folder`, by the rules of the recipe's data.

    Raise what is wrong with the files, and ConfigError where no conversation is in them.
    """
    changes: dict[str, Any] = {"files": tuple(files), "map": {}, "hold_out": "conversation"}
    changes |= {"held_out_share": 0.0, "system": "", "documents": (), "turns": (), "tools": ""}
    parts = look(data.model_copy(update=changes), folder, seed=seed)
    if parts.read.errors:
        raise all_of(parts.read.errors)
    rows = [row for _, row in parts.conversations(parts.train)]
    if not rows:
        raise ConfigError(
            f"general_files: no conversation in {', '.join(files)}",
            hint="a row has a question with its answer, or `messages`",
        )
    return rows

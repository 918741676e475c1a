"""Values that redaction replaced: kept beside the user's data, for the test of leaks alone.

The gate asks the file that ships whether it gives them away (toolchain/evaluate/secrets.py reads
them). Like the key they never enter an output folder, a record or a bundle.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ConfigError
from toolchain.files import whole_file
from toolchain.recipe import SECRETS_FILE

MOST = 1000
"""Values that are kept, the first ones: the gate's test has time for fewer."""

LEAST_BYTES = 4
"""Bytes of the shortest one: a model says a name of one Chinese character by chance."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A value and the text before it, as training reads that."""

    kind: str
    value: str
    before: str
    asked: Sequence[Mapping[str, str]] = ()
    """Messages that an answer with the value follows; empty where it stood in another text."""

    def row(self) -> dict[str, object]:
        """Return it as the gate reads it."""
        text = self.before + self.value
        context = [*self.asked, {"role": "assistant", "content": text}] if self.asked else text
        return {"kind": self.kind, "value": self.value, "context": context}


def keep_replaced(folder: Path, values: Iterable[Replaced]) -> Path:
    """Write the values beside a recipe, readable by their owner alone; raise ConfigError."""
    path = folder / SECRETS_FILE
    lines = (json.dumps(each.row(), ensure_ascii=False) + "\n" for each in values)
    try:
        with whole_file(path) as part:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.writelines(lines)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}",
            hint="what was replaced is kept beside the recipe: copy it into a folder of your own",
        ) from error
    return path

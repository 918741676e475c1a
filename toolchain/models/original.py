"""The model that a file is compared with: folders that the user brought or a stage trained.

transformers and peft load the gate's reference from these folders (`evaluate/reference.py`). None
of our code is shared, so a wrong merge, template or default of ours shows as a divergence.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from toolchain import artifacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A base and the adapters that were trained on it."""

    base: Path
    adapters: tuple[Path, ...] = ()
    """PEFT adapters in the order of their training, each on the model before it."""
    tokenizer: Optional["Original"] = None
    """The model whose tokenizer and template this one uses; None: its own."""
    trimmed: Path | None = None
    """Trimmed checkpoint whose token ids are mapped to tokens of this model."""

    @property
    def digest(self) -> str:
        """Digest of all its folders."""
        folders = [self.base, *self.adapters, *([self.trimmed] if self.trimmed else [])]
        parts = [artifacts.digest(folder) for folder in folders]
        parts += [self.tokenizer.digest] if self.tokenizer else []
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def tokenizer_folders(self) -> tuple[Path, ...]:
        """Folders that may hold the tokenizer: the newest adapter first, the base last."""
        owner = self.tokenizer or self
        return (*reversed(owner.adapters), owner.base)

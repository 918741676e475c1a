"""Files beside a model file of any format: chat template, tokenizer, generation config."""

import shutil
from pathlib import Path

from toolchain.models.names import GENERATION_CONFIG, TEMPLATE
from toolchain.models.tokenizer import write_tokenizer


def write_companions(folder: Path, template: str, out: Path) -> None:
    """Write the companions of the checkpoint in `folder` to `out`."""
    (out / TEMPLATE).write_text(template, encoding="utf-8")
    write_tokenizer(folder, out)
    if (folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(folder / GENERATION_CONFIG, out / GENERATION_CONFIG)

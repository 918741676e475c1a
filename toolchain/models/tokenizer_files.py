"""The tokenizer and template files of a checkpoint with an adapter: the adapter's own come first.

AutoTokenizer takes a tokenizer from one folder as a whole. Mixed files of two folders would be a
third tokenizer that nobody trained with: the base's `chat_template.jinja` would hide the template
in the adapter's `tokenizer_config.json`.
"""

from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.names import TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from toolchain.models.weights import read_json

MORE_TEMPLATES = "additional_chat_templates"
_SLOW = ("vocab.json", "merges.txt", "tokenizer.model", "spiece.model")
TOKENIZER_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    *_SLOW,
)
TEMPLATE_FILES = (TEMPLATE, MORE_TEMPLATES)
"""What AutoTokenizer reads before `chat_template` in `tokenizer_config.json`."""


def tokenizer_sources(base: Path, adapter: Path | None) -> dict[str, Path | str]:
    """Return each tokenizer and template file by name: its path, or a template's text.

    Raises ArtifactError for an adapter with a tokenizer that is not saved as `tokenizer.json`.
    """
    if adapter is None:
        return {**_existing(base, TOKENIZER_FILES), **_existing(base, TEMPLATE_FILES)}

    own = _existing(adapter, TOKENIZER_FILES)
    slow = [name for name in _SLOW if name in own]
    if slow and TOKENIZER not in own:
        raise ArtifactError(
            f"adapter {adapter.name}: has `{slow[0]}` but no `{TOKENIZER}`",
            hint="save its tokenizer again with "
            "`AutoTokenizer.from_pretrained(…).save_pretrained(…)`",
        )

    # a tokenizer.json without settings is completed with those of the base
    under = (TOKENIZER_CONFIG,) if TOKENIZER in own else TOKENIZER_FILES
    files: dict[str, Path | str] = {**_existing(base, under), **own}
    return files | _templates(base, adapter, files)


def _templates(base: Path, adapter: Path, files: dict[str, Path | str]) -> dict[str, Path | str]:
    own: dict[str, Path | str] = {**_existing(adapter, TEMPLATE_FILES)}
    if own or _settings(adapter).get("chat_template"):
        return own
    theirs: dict[str, Path | str] = {**_existing(base, TEMPLATE_FILES)}
    if theirs or files.get(TOKENIZER_CONFIG) == base / TOKENIZER_CONFIG:
        return theirs
    # the adapter's settings replace those that hold the base's template
    template = _settings(base).get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return {TEMPLATE: template} if isinstance(template, str) else {}


def _existing(folder: Path, names: tuple[str, ...]) -> dict[str, Path | str]:
    return {name: folder / name for name in names if (folder / name).exists()}


def _settings(folder: Path) -> dict[str, Any]:
    return read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}

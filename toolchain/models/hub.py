"""Model folders by name: a folder on this computer, or a model of the Hugging Face Hub through huggingface_hub.

`HF_TOKEN`, `HF_HOME` and `HF_ENDPOINT` mean what they mean to that library. Only safetensors, JSON and templates are fetched.
"""

import io
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError, ToolchainError
from toolchain.progress import SILENT, Reporter

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "NOTICE*")
"""What is fetched: no pickles, no code."""
SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "*.jinja",
    "adapter_config.json",
)
"""What says nearly all of a model without its weights."""


class NotHere(ToolchainError):  # noqa: N818 - a finding for who asked, not a fault
    """A model that cannot be looked at now, though it may be there when it is fetched."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def fetch(
    name: str,
    *,
    revision: str = "main",
    near: Path,
    offline: bool = False,
    report: Reporter = SILENT,
) -> Path:
    """Return the folder of a model or adapter: `name` relative to `near`, an absolute path, or a Hub id.

    Raises ArtifactError where it is neither there nor to be had.
    """
    folder = near / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _is_hub_id(name):
        raise ArtifactError(f"model `{name}`: no such folder", hint=f"looked in {near.resolve()}")
    return _download(name, revision, offline, report=report)


def travelling_name(name: str, near: Path) -> str:
    """Return how a model is named in what travels: a Hub id as it is, of a folder its own name and no path of this computer."""
    folder = near / Path(name).expanduser()
    if not name or (not folder.is_dir() and _is_hub_id(name)):
        return name
    parts = folder.resolve().parts
    cached = [part for part in parts if part.startswith("models--")]
    if cached and parts[-2:-1] == ("snapshots",):  # the layout of huggingface_hub's own cache
        return cached[-1].removeprefix("models--").replace("--", "/")
    return parts[-1]


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def look(
    name: str, *, revision: str = "main", near: Path, offline: bool = False, whole: bool = False
) -> Path:
    """Return the folder of a model with its small files at least, all of them if `whole`; raise NotHere where it must wait.

    Raises ArtifactError as `fetch` does for what will not be there later either.
    """
    if (folder := near / Path(name).expanduser()).is_dir():
        return folder
    try:
        if _is_hub_id(name):
            return _download(name, revision, offline, PATTERNS if whole else SMALL)
    except ArtifactError as error:
        if not isinstance(error.__cause__, _later_errors()):
            raise
        raise NotHere(error.message.partition(": ")[2]) from error
    return fetch(name, revision=revision, near=near, offline=offline)


def _later_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    return (errors.LocalEntryNotFoundError,)


def _bar(name: str, report: Reporter) -> type:
    """Return a progress bar for huggingface_hub that shows nothing itself and tells ours how many bytes there are."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # Of its three bars one counts the bytes that are written; the others count files, and bytes before they are unpacked.
            self._tells = str(options.get("desc", "")).startswith("Reconstructing")
            super().__init__(*arguments, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self._tells and self.total:
                report.step(f"fetch {name}", self.n, self.total, "B")
            return shown

    return Bar


def _download(
    name: str,
    revision: str,
    offline: bool,
    patterns: tuple[str, ...] = PATTERNS,
    report: Reporter = SILENT,
) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=offline,
                tqdm_class=_bar(name, report),
            )
        )
    except errors.GatedRepoError as error:
        hint = "accept its licence on the model's page, then set HF_TOKEN"
        raise ArtifactError(f"model `{name}`: access is gated", hint=hint) from error
    except errors.RepositoryNotFoundError as error:
        hint = "check the spelling; a private model needs HF_TOKEN"
        raise ArtifactError(f"model `{name}`: not found on the hub", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        raise ArtifactError(f"model `{name}`: no revision `{revision}`") from error
    except errors.LocalEntryNotFoundError as error:
        if offline:
            raise ArtifactError(
                f"model `{name}`: not on this computer", hint="run once without --offline"
            ) from error
        hint = "check the network, or give a folder instead"
        raise ArtifactError(f"model `{name}`: the hub cannot be reached", hint=hint) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ArtifactError(
            f"model `{name}`: the download failed: {str(error).splitlines()[0]}",
            hint="run again to go on",
        ) from error

"""Finds models by name: a folder here, or a model of the Hugging Face Hub through huggingface_hub.

`HF_TOKEN`, `HF_HOME` and `HF_ENDPOINT` mean what they mean to that library. Only safetensors, JSON
and templates are fetched, or the one GGUF file that is asked for.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError, ToolchainError
from toolchain.models.gguf_parts import part_names
from toolchain.progress import SILENT, Reporter

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "NOTICE*")
"""Files that are fetched: no pickles, no code."""
SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "*.jinja",
    "adapter_config.json",
    "*processor_config.json",
)
"""Files that describe a model without its weights."""


class NotHere(ToolchainError):  # noqa: N818 - a finding for who asked, not a fault
    """A model that cannot be read now but may be there when it is fetched."""

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
    """Return the folder of a model or adapter.

    `name` is a folder relative to `near`, an absolute path, or a Hub id.

    Raises ArtifactError if it is neither here nor on the hub.
    """
    folder = near / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _is_hub_id(name):
        raise ArtifactError(f"model `{name}`: no such folder", hint=f"looked in {near.resolve()}")
    return _download(name, revision, offline, report=report)


def travelling_name(name: str, near: Path) -> str:
    """Return a model's name in a manifest: its Hub id, or a folder's own name without its path."""
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
    """Return the folder of a model with its small files at least; with all of them if `whole`.

    Raise NotHere if the model can be fetched later, and ArtifactError, as `fetch` does, if not even
    that.
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
    """Return a tqdm class for huggingface_hub that shows nothing itself and reports the bytes."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        """Reports the bytes of one file as they are written."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            # One of its three bars counts written bytes; the others count files and packed bytes.
            self._tells = str(options.get("desc", "")).startswith("Reconstructing")
            super().__init__(*arguments, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            """Count what came, and report it."""
            shown = super().update(n)
            if self._tells and self.total:
                report.step(f"fetch {name}", self.n, self.total, "B")
            return shown

    return Bar


def fetch_gguf(name: str, *, offline: bool = False) -> Path:
    """Return the GGUF file of `OWNER/REPO[:QUANT]`, chosen as llama.cpp's `-hf` does.

    Of a model in several parts all are fetched, and the first is returned.
    Raises ArtifactError if the repository has none, or the hub gives none.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    repo, _, quant = name.partition(":")
    with _asking(repo, "main", offline):
        if not offline:
            chosen = choose_gguf(name, _files(repo), quant)
            first, *_ = [Path(hf_hub_download(repo, part)) for part in part_names(chosen)]
            return first

        # hf_hub_download asks the hub for its list of agents even with `local_files_only`
        # (huggingface_hub 2.4).
        folder = Path(snapshot_download(repo, allow_patterns=["*.gguf"], local_files_only=True))
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))
        return folder / choose_gguf(name, files, quant)


def _files(repo: str) -> list[str]:
    """Return the files of a repository in the hub's order; raise OSError if it is not reached."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().list_repo_files(repo)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError):
        raise
    except Exception as error:  # of the HTTP library, which changes with huggingface_hub's version
        raise errors.LocalEntryNotFoundError(str(error)) from error


_NO_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""Parts of the names of GGUF files that are no models.

Source: llama.cpp common/download.cpp, `gguf_filename_is_model`.
"""
USUAL_QUANTS = ("Q4_K_M", "Q8_0")
"""Quants that llama.cpp looks for if none is named; otherwise it takes the first file."""


def choose_gguf(name: str, files: Sequence[str], quant: str) -> str:
    """Return a repository's file for the name of a quant, as llama.cpp's `find_best_model` does.

    Of a model in several parts this is the first. Raise ArtifactError that lists what there is.
    """
    models = [
        file
        for file in files
        if file.endswith(".gguf")
        and not any(part in file.rpartition("/")[2] for part in _NO_MODELS)
        and part_names(file)[0] == file
    ]
    asked = [quant] if quant else USUAL_QUANTS
    patterns = [re.compile(re.escape(each) + "[.-]", re.IGNORECASE) for each in asked]
    named = [file for pattern in patterns for file in models if pattern.search(file)]
    chosen = next(iter(named or ([] if quant else models)), "")
    if not chosen:
        there = f"it has {', '.join(models[:8])}" if models else "give a repository with GGUF files"
        what = f"no GGUF file of `{quant}`" if quant else "no GGUF file"
        raise ArtifactError(f"model `{name}`: {what}", hint=there)
    return chosen


def _download(
    name: str,
    revision: str,
    offline: bool,
    patterns: tuple[str, ...] = PATTERNS,
    report: Reporter = SILENT,
) -> Path:
    from huggingface_hub import snapshot_download

    with _asking(name, revision, offline):
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=offline,
                tqdm_class=_bar(name, report),
            )
        )


@contextmanager
def _asking(name: str, revision: str, offline: bool) -> Iterator[None]:
    """Turn errors of huggingface_hub into an ArtifactError."""
    from huggingface_hub import errors

    try:
        yield
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
    except errors.HFValidationError as error:
        raise ArtifactError(
            f"model `{name}`: not a name of a hub's", hint="it is OWNER/NAME, or a folder"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ArtifactError(
            f"model `{name}`: the download failed: {str(error).splitlines()[0]}",
            hint="run again to go on",
        ) from error

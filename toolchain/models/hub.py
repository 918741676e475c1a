"""Model folders by name: a folder on this computer, or a model of the Hugging Face Hub through huggingface_hub.

`HF_TOKEN`, `HF_HOME` and `HF_ENDPOINT` mean what they mean to that library. Only safetensors, JSON and templates are fetched.
"""

from pathlib import Path

from toolchain.errors import ArtifactError

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "NOTICE*")
"""What is fetched: no pickles, no code."""


def fetch(name: str, *, revision: str = "main", near: Path, offline: bool = False) -> Path:
    """Return the folder of a model or adapter: `name` relative to `near`, an absolute path, or a Hub id.

    Raises ArtifactError where it is neither there nor to be had.
    """
    folder = near / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _is_hub_id(name):
        raise ArtifactError(f"model `{name}`: no such folder", hint=f"looked in {near.resolve()}")
    return _download(name, revision, offline)


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


def _download(name: str, revision: str, offline: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(PATTERNS), local_files_only=offline
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

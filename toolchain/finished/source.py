"""Where a finished model lies: a file, Ollama's own store, or a repository of a hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ArtifactError
from toolchain.models import hub
from toolchain.models.gguf_parts import whole_name

OLLAMA = "ollama:"
SUFFIXES = (".gguf", ".tflite", ".litertlm")
_HUB = re.compile(r"(?P<owner>\w[\w.-]*)/\w[\w.-]*(:(?P<quant>[\w.-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A finished model, and what is known of it beside its file."""

    file: Path
    said: str
    """Name in a release: the file's own, `ollama:NAME`, or `OWNER/REPO:QUANT`; never a path."""
    folder: Path | None = None
    """Folder where its tokenizer and template may lie; None for a store without such files."""
    immutable: bool = False
    """Whether its bytes never change under this path, as in a store that names files by digest."""
    sha256: str = ""
    """Digest by the store; empty for a file that nobody vouches for."""
    adapter: Path | None = None
    system: str = ""
    turns: tuple[dict[str, str], ...] = ()
    """Questions and answers that every conversation begins with, as messages."""
    stops: tuple[str, ...] = ()
    """Texts that end an answer."""
    context: int = 0
    max_tokens: int = 0
    licences: tuple[str, ...] = ()
    """Texts of licences."""
    dropped: tuple[str, ...] = ()
    """Settings that a board cannot honour, a sentence each."""

    @property
    def id(self) -> str:
        """Name of the release and of its folder: `said` in characters that file names may have.

        The number of a part is left out.
        """
        words = whole_name(self.said.removeprefix(OLLAMA))
        for suffix in SUFFIXES:
            words = words.removesuffix(suffix)
        plain = re.sub(r"[^\w.-]+", "-", words.rpartition("/")[2], flags=re.ASCII).strip("-.")
        return plain[:64] or "model"


def is_finished(name: str) -> bool:
    """Return whether a name is a finished model's and not a recipe's."""
    path = Path(name)
    if name.startswith(OLLAMA) or path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix == ".toml" or path.is_dir():
        return False
    return _begins_as_gguf(path) if path.exists() else _names_a_hub(name)


def resolve(name: str, *, offline: bool = False) -> Source:
    """Return the finished model of a name; download it if the name is a hub's.

    Raise ArtifactError if there is none.
    """
    if name.startswith(OLLAMA):
        from toolchain.finished.ollama import stored

        return stored(name.removeprefix(OLLAMA))

    path = Path(name).expanduser()
    if _names_a_hub(name) and not path.exists():
        file = hub.fetch_gguf(name, offline=offline)
        return Source(file=file, said=f"{name.partition(':')[0]}/{file.name}", immutable=True)
    if not path.is_file():
        where = "not a plain file" if path.exists() else "no such file"
        where = "a folder" if path.is_dir() else where
        raise ArtifactError(f"{name}: {where}", hint=_similar(path))
    return Source(file=path, said=path.name, folder=path.resolve().parent)


def _names_a_hub(name: str) -> bool:
    """Return whether a name is OWNER/REPO[:QUANT]; a folder here makes it a path."""
    found = _HUB.fullmatch(name)
    if not found or Path(name).suffix.lower() in SUFFIXES:
        return False
    return bool(found["quant"]) or not Path(found["owner"]).exists()


def _begins_as_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _similar(path: Path) -> str:
    """Return a hint with the model files beside a path that does not exist."""
    folder = path if path.is_dir() else path.parent
    here = sorted(p.name for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)[:5]
    return f"model files there: {', '.join(here)}" if here else "give the path of a model file"

"""What a person asks for in a new recipe, checked word by word before anything is written."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from toolchain import bases
from toolchain import target as targets
from toolchain.config import closest
from toolchain.errors import ConfigError
from toolchain.knowledge.documents import READERS
from toolchain.target import MB, Target

SUFFIX = ".toml"
MAX_NAME_BYTES = 100
"""Longest name; the file systems of boards take 255, and folders and files are named after it."""
DOCUMENTS = tuple(sorted(READERS))
"""Ends of the names of files that knowledge is read from."""
_NO_NAME = re.compile(r'^[.\-~]|[\x00-\x1f\x7f/\\:*?"<>|]|[. ]$')
"""What Linux, a shell or a memory card's file system does not take in a file's name."""
_DEVICE_TREE = Path("/proc/device-tree/model")
_FALLBACK = "rpi-5-4gb"
"""Target of a computer that is none itself, such as a Mac."""


MAX_SHOWN = 60
"""Characters of a wrong word that a message repeats."""


def shown(text: str) -> str:
    """Return a person's text as messages repeat it: on one line, and cut if it is long."""
    spelled = text if text.isprintable() else repr(text)[1:-1]
    return spelled if len(spelled) <= MAX_SHOWN else f"{spelled[: MAX_SHOWN - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The words of `demitasse new`; empty ones are decided."""

    name: str
    docs: str = ""
    data: str = ""
    board: str = ""
    language: str = ""
    answers_only: bool = False
    base: str = ""


def recipe_file(name: str) -> Path:
    """Return the file of a new recipe; raise ConfigError for a bad name and a file that exists."""
    stem = name.removesuffix(SUFFIX)
    if not stem or _NO_NAME.search(stem) or not stem.isprintable():
        raise ConfigError(
            f"`{shown(name)}` is no name for a file",
            hint="give a plain name, such as help-desk; the recipe is written to the folder "
            "that you are in",
        )
    if len(os.fsencode(stem)) > MAX_NAME_BYTES:
        raise ConfigError(
            f"`{shown(stem)}` is too long for a name", hint=f"at most {MAX_NAME_BYTES} bytes"
        )
    file = Path(f"{stem}{SUFFIX}")
    refuse_existing(file)
    return file


def refuse_existing(file: Path) -> None:
    """Raise ConfigError for a file that exists, and for a link that leads nowhere."""
    if os.path.lexists(file):
        raise ConfigError(f"{file}: exists already", hint="choose another name, or move it away")


def board_of(target_id: str) -> Target:
    """Return the target of this id, or this computer's; raise ConfigError with the closest id."""
    return targets.find(target_id) if target_id else usual_board()


def usual_board() -> Target:
    """Return the target of a recipe for which nobody names one: this computer's if it is one."""
    return this_computer() or targets.find(_FALLBACK)


def this_computer() -> Target | None:
    """Return the target that this computer is; None for a computer that is no board of ours."""
    try:
        model = _DEVICE_TREE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        model = ""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MB
    return targets.recognise(model, platform.machine(), memory_mb)


def languages_of(text: str) -> tuple[str, ...]:
    """Return the codes of languages such as `en,zh`; raise ConfigError for an unknown one."""
    known = bases.table().languages
    codes = {name.lower(): code for code, name in known.items()}
    found = []
    for word in re.split(r"[,;\s]+", text.strip().lower()):
        # Of a tag such as zh-Hant-TW the first part is the language (RFC 5646).
        code = codes.get(word) or re.split(r"[-_]", word)[0]
        if word and code not in known:
            raise ConfigError(
                f"--language: no base in the table was made for `{shown(word)}`",
                hint=closest(word, [*known, *codes]) if len(word) > 3 else _listed(known),
            )
        found += [code] if word else []
    return tuple(dict.fromkeys(found)) or ("en",)


def _listed(known: dict[str, str]) -> str:
    return f"known: {', '.join(f'{code} ({name})' for code, name in known.items())}"


def documents_in(text: str, option: str = "--docs") -> str:
    """Return a document or a folder of documents as a recipe names it.

    Raise ConfigError if it is missing, or if a folder has no document in it.
    """
    path, where = path_of(text), f"{option}: `{shown(text)}`"
    try:
        path.stat()
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: no such folder", hint=_similar(path)) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{where}: {reason}") from error

    if path.is_file():
        if path.suffix.lower() not in DOCUMENTS:
            raise ConfigError(f"{where}: files of this kind are not read", hint=_KINDS)
    elif not path.is_dir():
        raise ConfigError(f"{where}: neither a folder nor a plain file")
    elif not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{where}: permission denied")
    elif not _has_document(path):
        raise ConfigError(f"{where}: no document in this folder", hint=_KINDS)
    return path.as_posix()


_KINDS = f"files that end in {', '.join(DOCUMENTS)} are read"


def _similar(path: Path) -> str:
    """Return the folder beside it whose name is closest, as a hint."""
    try:
        names = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        names = []
    hint = closest(path.name, names) if names else ""
    return hint if hint.startswith("did") else f"looked in {path.parent.resolve()}"


def _has_document(folder: Path) -> bool:
    """Say whether a folder holds a file of a known kind; hidden ones are not read."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(Path(name).suffix.lower() in DOCUMENTS for name in files if name[:1] != "."):
            return True
    return False


def path_of(text: str) -> Path:
    """Return a path that a person typed, `~` for the home folder.

    Raise ConfigError for what can be no path, and for what no recipe can hold.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # `~nobody`
        raise ConfigError(f"`{shown(text)}`: no home folder of this name") from error
    if not path.as_posix().isprintable():
        raise ConfigError(f"`{shown(text)}`: a name that no recipe can hold", hint="rename it")
    return path

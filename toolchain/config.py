"""TOML files into frozen models: says which key is wrong, where, and what was probably meant.

Everything that a person writes (recipes, targets) is read by `load`, and by nothing else.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from toolchain.errors import ConfigError

MAX_BYTES = 4 << 20
"""More than anybody writes by hand."""


class Frozen(BaseModel):
    """Base of all models of files that people write: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


Model = TypeVar("Model", bound=BaseModel)


def load(path: Path, model: type[Model]) -> Model:
    """Read a TOML file as `model`; raise ConfigError with the file, the key and the likely intent."""
    try:
        return model.model_validate(_tables(path))
    except FileNotFoundError as error:
        missing = Path(error.filename)
        raise ConfigError(f"{missing}: no such file", hint=_similar_file(missing)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: not valid TOML: {str(error).lower()}") from error
    except ValidationError as error:
        raise _explain(path.name, error.errors()[0], model) from error


def closest(word: str, words: list[str]) -> str:
    """Return a `did you mean` hint for `word` among `words`, or the list of what exists."""
    matches = difflib.get_close_matches(word, words, n=1)
    return f"did you mean `{matches[0]}`?" if matches else f"known: {', '.join(sorted(words))}"


def _tables(path: Path) -> dict[str, Any]:
    """Read a file; with `extends = "stem"` it holds only what differs from that file of the same folder."""
    tables = tomllib.loads(_text(path))
    if "extends" in tables:
        base = path.parent / f"{tables.pop('extends')}.toml"
        tables = _merged(tomllib.loads(_text(base)), tables)
    return tables


def _text(path: Path) -> str:
    """Return a file's text; raise ConfigError for a FIFO or a device, which would hold us up, and for what is too large."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    return path.read_text(encoding="utf-8")


def _merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}


def _similar_file(path: Path) -> str:
    siblings = sorted(p.stem for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    return closest(path.stem, siblings) if siblings else ""


def _explain(name: str, problem: ErrorDetails, model: type[BaseModel]) -> ConfigError:
    *parents, key = [str(part) for part in problem["loc"]] or [""]
    where = ": ".join([name, *([".".join(parents)] if parents else [])])
    match problem["type"]:
        case "extra_forbidden":
            return ConfigError(
                f"{where}: unknown key `{key}`", hint=closest(key, _keys_at(model, parents))
            )
        case "missing":
            return ConfigError(
                f"{where}: missing key `{key}`", hint=_description_at(model, parents, key)
            )
        case "value_error":
            return ConfigError(
                f"{where}: {key}: {problem['ctx']['error']}"
                if key
                else f"{where}: {problem['ctx']['error']}"
            )
        case _:
            value = problem["input"]
            return ConfigError(
                f"{where}: {key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got `{value}`"
            )


def _model_at(model: type[BaseModel], parents: list[str]) -> type[BaseModel] | None:
    current: Any = model
    for parent in parents:
        if parent.isdigit():
            continue
        field = current.model_fields.get(parent)
        candidates = _models_in(field.annotation) if field else []
        if not candidates:
            return None
        current = candidates[0]
    return current  # type: ignore[no-any-return]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [
        found for argument in getattr(annotation, "__args__", ()) for found in _models_in(argument)
    ]


def _keys_at(model: type[BaseModel], parents: list[str]) -> list[str]:
    found = _model_at(model, parents)
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _description_at(model: type[BaseModel], parents: list[str], key: str) -> str:
    found = _model_at(model, parents)
    field = found.model_fields.get(key) if found else None
    return f"`{key}` is {field.description}" if field and field.description else ""

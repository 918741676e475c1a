"""TOML files into frozen models: says which key is wrong, where, and what was probably meant.

Everything that a person writes (recipes, targets) is read by `load`, and by nothing else. Values
are taken as they are written: `"16"` is no number and `true` is no 1.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from toolchain.errors import ConfigError, all_of
from toolchain.texts import NUL, Unreadable, decoded, first_of, too_deep

MAX_BYTES = 1 << 20
"""Of a file that a person writes."""
_LARGEST = 1 << 63
"""TOML's whole numbers have 64 bits (toml.io, v1.0.0, Integer)."""
_LONG = re.compile(r"[\d_]{20,}")
_AT = re.compile(r" \(at line (\d+), column \d+\)$")
_KINDS = ("bool", "str", "int", "float")
_TABLE = re.compile(r"^\s*\[\[?\s*([\w.\-\s\"']+?)\s*\]\]?")


class Frozen(BaseModel):
    """Base of all models of files that people write: frozen, no unknown keys, finite numbers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )


Model = TypeVar("Model", bound=BaseModel)


def load(path: Path, model: type[Model]) -> Model:
    """Read a TOML file as `model`.

    Raise ConfigError with the file, the key and the likely intent, for each key that is wrong.
    """
    text, tables = _read(path)
    if "extends" in tables:
        _, base = _read(path.parent / f"{tables.pop('extends')}.toml")
        tables = _merged(base, tables)
    try:
        # As JSON, because pydantic's strict mode for Python would refuse TOML's arrays for tuples.
        return model.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        said = error.errors()
        problems = {_place(each): each for each in reversed(said) if not _is_echo(each, said)}
        found = [_explain(path.name, problems[place], model, text) for place in reversed(problems)]
        raise all_of(found) from error


def closest(word: str, words: list[str]) -> str:
    """Return a `did you mean` hint for `word` among `words`, or the list of what exists."""
    matches = difflib.get_close_matches(word, words, n=1)
    return f"did you mean `{matches[0]}`?" if matches else f"known: {', '.join(sorted(words))}"


def line_of(text: str, parents: list[str], key: str) -> int:
    """Return the line of a TOML text with the value of a key, or with its table; 0 for neither."""
    path = [*parents, key]
    while path:
        names = [part for part in path if not part.isdigit()]
        lines = [number for number, found in _keys_of(text) if found == names]
        place = next((int(part) for part in path if part.isdigit()), 0)
        if lines:
            return lines[min(place, len(lines) - 1)]
        path.pop()
    return 0


def _keys_of(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, whole dotted name) of each key and table that begins a line."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := _TABLE.match(line):
            table = _names(found[1])
            yield number, table
        elif "=" in line:
            yield number, [*table, *_names(line.partition("=")[0])]


def _names(dotted: str) -> list[str]:
    return re.sub(r"[\s\"']", "", dotted).split(".")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a file and its tables; raise ConfigError with the line that is no TOML."""
    text = ""
    try:
        _check_plain(path)
        text = decoded(path.read_bytes())
        tables = tomllib.loads(text)
        _check_values(text, tables)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", hint=_similar_file(path)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        raise _unreadable(path, error) from error
    except RecursionError as error:
        raise _unreadable(path, too_deep(text)) from error
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(path, str(error), text) from error
    except ValueError as error:  # a whole number of more digits than Python reads
        raise _unreadable(path, _long_number(text)) from error
    return text, tables


def _check_plain(path: Path) -> None:
    """Raise ConfigError for a pipe, a device or a file that is too large for a person's work."""
    # A pipe or a device could be read for ever.
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path.name}: not a plain file")
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            f"{path.name}: larger than {MAX_BYTES >> 20} MiB, which no file of this kind is"
        )


def _unreadable(path: Path, error: Unreadable) -> ConfigError:
    return ConfigError(f"{path.name}:{error.line}: {error.problem}", hint=error.hint)


def _not_toml(path: Path, said: str, text: str) -> ConfigError:
    """Return tomllib's complaint in our words, with its line; the last one at the end of a text."""
    at = _AT.search(said)
    line = int(at[1]) if at else max(1, len(text.rstrip("\n").splitlines()))
    reason = _AT.sub("", said).removesuffix(" (at end of document)")
    hint = ""
    if reason.startswith("Cannot overwrite"):
        reason = "a key stands twice"
    elif "scalar value" in reason:
        reason = "half a character: an escape without its other half"
    elif reason == "Invalid value":
        hint = 'text stands in quotes, lists in brackets: key = ["a", "b"]'
    return ConfigError(
        f"{path.name}:{line}: not valid TOML: {reason[:1].lower()}{reason[1:]}", hint=hint
    )


def _check_values(text: str, tables: Mapping[str, Any]) -> None:
    """Raise Unreadable for values that TOML spells and that nothing here can use."""
    if first_of(NUL, tables):
        line = text.count("\n", 0, max(0, text.find("\\u0000"))) + 1
        raise Unreadable(line, "holds a NUL character (`\\u0000`)")
    waiting: list[Any] = [tables]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list):
            waiting += each.values() if isinstance(each, dict) else each
        elif isinstance(each, int) and not -_LARGEST <= each < _LARGEST:
            raise _long_number(text)


def _long_number(text: str) -> Unreadable:
    found = _LONG.search(text)
    line = text.count("\n", 0, found.start()) + 1 if found else 1
    return Unreadable(line, "a whole number of more than 64 bits")


def _merged(base: Any, over: Any) -> Any:
    """Return the values of a file over those of the file that it extends."""
    # A file that extends another of the same folder holds only what differs from it.
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}


def _similar_file(path: Path) -> str:
    siblings = sorted(p.stem for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    return closest(path.stem, siblings) if siblings else ""


def _place(problem: ErrorDetails) -> tuple[str, ...]:
    """Return the path to the value that is wrong, without pydantic's name of the kind it tried."""
    # Where a key takes several kinds, pydantic complains once for each of them.
    place = tuple(str(part) for part in problem["loc"])
    return place[:-1] if place[1:] and place[-1] in _KINDS else place


def _is_echo(problem: ErrorDetails, said: list[ErrorDetails]) -> bool:
    """Say whether a list is called too short only because what stands in it is wrong."""
    # pydantic counts the items that passed.
    place = problem["loc"]
    inside = [each for each in said if len(each["loc"]) > len(place)]
    return problem["type"] == "too_short" and any(
        each["loc"][: len(place)] == place for each in inside
    )


def _explain(name: str, problem: ErrorDetails, model: type[BaseModel], text: str) -> ConfigError:
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
            reason = problem["ctx"]["error"]
            return ConfigError(f"{where}: {key}: {reason}" if key else f"{where}: {reason}")
        case _:
            return _wrong_value(name, problem, text)


def _wrong_value(name: str, problem: ErrorDetails, text: str) -> ConfigError:
    """Return the error of a value of a wrong type or out of range, with the line that holds it."""
    *parents, key = _place(problem)
    line = line_of(text, parents, key)
    where = ": ".join([f"{name}:{line}" if line else name, *([".".join(parents)] * bool(parents))])
    said, value = problem["msg"], problem["input"]
    hint = ""
    named = "" if key.isdecimal() else f"{key} = "  # a value of a list has a number, and no name
    if problem["type"] == "tuple_type" and isinstance(value, str):
        hint = f"put it in brackets: {key} = {json.dumps([value], ensure_ascii=False)}"
    elif problem["type"] == "tuple_type" and isinstance(value, dict):
        hint = f"several tables stand in double brackets: [[{'.'.join([*parents, key])}]]"
    elif problem["type"] == "model_type" and not named and parents:
        hint = f"each is a table with keys of its own, below a line [[{'.'.join(parents)}]]"
    elif problem["type"] == "string_type" and isinstance(value, int | float):
        hint = f"put it in quotes: {named}{json.dumps(str(value).lower())}"
    elif isinstance(value, str) and re.fullmatch(r"[\d_.e+-]+|true|false", value):
        hint = f"without quotes: {named}{value}"
    return ConfigError(
        f"{where}: {key}: {said[:1].lower()}{said[1:]}, got `{_spelled(value)}`", hint=hint
    )


def _spelled(value: Any) -> str:
    """Return a value as TOML spells it, no longer than a line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


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

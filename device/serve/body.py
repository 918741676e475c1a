"""The body of a request as JSON, checked once before any reader sees it. Standard library only.

The rule to keep: a value that passes here can be hashed, compared, sorted, written as UTF-8 and
written as JSON again. So readers check kinds and ranges only. None of them fails on a value that
JSON libraries disagree about: repeated names, large numbers, half surrogate pairs (RFC 8259,
sections 4, 6 and 8.2).
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from device.errors import DeviceError
from device.manifest.reading import RepeatedKeyError, each_key_once

MAX_DEPTH = 64
"""Maximum depth of objects and lists."""
# A schema of the greatest depth that schema.py accepts needs 40.
MAX_INTEGER = 2**63 - 1
_LONGEST_INTEGER = len(str(-MAX_INTEGER))
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_SHOWN_CHARS = 60


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raise DeviceError `invalid_json` with the place of the fault.
    """
    try:
        value = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=each_key_once,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_small,
        )
    except RepeatedKeyError as error:
        shown = error.key[:_SHOWN_CHARS].encode("utf-8", "replace").decode()
        raise _invalid(f"`{shown}`: stands twice in one object") from error
    except (ValueError, RecursionError) as error:
        raise _invalid("the body is not valid JSON") from error

    if not isinstance(value, dict):
        raise _invalid("the body is not a JSON object")

    _walk(value)
    return value


def _walk(body: dict[str, Any]) -> None:
    """Check every name and value once, without recursion and without a copy."""
    path: list[Any] = []
    open_values: list[Iterator[tuple[Any, Any]]] = [iter(body.items())]
    while open_values:
        for name, value in open_values[-1]:
            if isinstance(name, str):
                _check_text(name, path, "the name of a field")
            if isinstance(value, str):
                _check_text(value, [*path, name], "the text")
            elif isinstance(value, (dict, list)):
                path.append(name)
                open_values.append(_inside(value, path))
                break
        else:
            open_values.pop()
            del path[-1:]


def _inside(value: "dict[str, Any] | list[Any]", path: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Return the names (or numbers) and values in an object or a list."""
    if len(path) >= MAX_DEPTH:
        raise _invalid(f"`{_place(path)}`: is nested deeper than {MAX_DEPTH} levels")
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def _check_text(text: str, path: list[Any], what: str) -> None:
    if not text.isascii() and _HALF_PAIR.search(text):
        where = f"`{_place(path)}`: " if path else ""
        raise _invalid(f"{where}{what} is not valid Unicode: it holds half of a surrogate pair")


def _place(path: list[Any]) -> str:
    """Return a place as error messages name it: `messages[0].content`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).lstrip(".")[:_SHOWN_CHARS]


def _no_number(text: str) -> Any:
    raise _invalid(f"`{text}` is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _invalid(f"`{text[:_SHOWN_CHARS]}` is too large a number")
    return number


def _small(text: str) -> int:
    # Checked as text: the time that `int` takes grows with the square of the digits, and Python
    # 3.10.6 has no bound.
    number = int(text) if len(text) <= _LONGEST_INTEGER else MAX_INTEGER + 1
    if abs(number) > MAX_INTEGER:
        raise _invalid(f"`{text[:_SHOWN_CHARS]}` is too large a number")
    return number


def _invalid(message: str) -> DeviceError:
    return DeviceError("invalid_json", message, status=400)

"""`tools`: says which tools this board would refuse, before anybody is asked with them.

A schema that no grammar can hold an answer to is refused in every request. Whoever trains a model
on its tools wants to know that before the training. Standard library only.
"""

import json
import sys
from typing import Any

from device.engine.base import FieldError
from device.errors import DeviceError
from device.serve.tools import read_tools


def tools(argv: list[str]) -> int:
    """Read a JSON list of lists of tools from stdin; print the problem of each, null for none.

    Raise DeviceError `usage` if stdin is no such list.
    """
    try:
        given = json.load(sys.stdin)
    except ValueError as error:
        raise DeviceError("usage", f"stdin is not JSON: {error}") from error
    if argv or not isinstance(given, list):
        raise DeviceError("usage", "tools < JSON: a list of lists of tools")

    print(json.dumps({"problems": [_problem(each) for each in given]}), flush=True)
    return 0


def _problem(value: Any) -> "str | None":
    try:
        read_tools({"tools": value})
    except FieldError as error:
        return str(error)
    return None

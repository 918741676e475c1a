"""Tools of a conversation, and the calls and results in it, in OpenAI's form.

A call must name a tool that the conversation has, with arguments that fit its schema: what does not
could not be written on the board either.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device.manifest.tool_calls import shown_tool
from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Place, Tools
from toolchain.ingest.fitting_calls import Misfit, fitted

_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_FORM = 'a tool is {"type": "function", "function": {"name", "description", "parameters"}}'


def read_tools_file(name: str, path: Path) -> Tools:
    """Return the tools of a file; raise ArtifactError for what is no list of tools."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{name}: not a JSON file: {error}") from error
    return read_tools(Place(file=name), value)


def read_tools(place: Place, value: Any) -> Tools:
    """Return tools as the board shows them; raise ArtifactError for what is none."""
    if value is None:
        return ()
    if isinstance(value, str):
        # Tables hold them as a text: their columns have one type.
        value = _parsed(place, value)
    if not isinstance(value, list):
        raise ArtifactError(f"{place}: `tools` must be a list", hint=_FORM)
    tools = tuple(_tool(place, each, number) for number, each in enumerate(value))
    names = [tool["function"]["name"] for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArtifactError(f"{place}: tool `{twice}` stands there twice")
    return tools


def _parsed(place: Place, text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{place}: `tools` is not JSON", hint=_FORM) from error


def _tool(place: Place, value: Any, number: int) -> Mapping[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    where = f"{place}: `tools[{number}]`"
    if not isinstance(function, dict) or value.get("type", "function") != "function":
        raise ArtifactError(f"{where} is not a function", hint=_FORM)
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArtifactError(f"{where}: its name must be 1 to 64 letters, digits, `_` and `-`")
    if parameters is not None and (
        not isinstance(parameters, dict) or parameters.get("type", "object") != "object"
    ):
        raise ArtifactError(f"{where}: `parameters` must be the schema of an object")
    if not isinstance(function.get("description") or "", str):
        raise ArtifactError(f"{where}: `description` must be text")
    known = {key: function.get(key) for key in function if key in ("name", "description")}
    return shown_tool({**known, "parameters": parameters})


def read_calls(place: Place, value: Any, tools: Tools) -> list[dict[str, Any]]:
    """Return the calls of a message, arguments as objects; raise ArtifactError for a wrong one."""
    if not isinstance(value, list):
        raise ArtifactError(f"{place}: `tool_calls` must be a list")
    return [_call(place, each, tools) for each in value]


def _call(place: Place, value: Any, tools: Tools) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        hint = '{"id", "type": "function", "function": {"name", "arguments"}}'
        raise ArtifactError(f"{place}: a call has no `function.name`", hint=hint)
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    if name not in schemas:
        hint = f"its tools: {', '.join(schemas)}"
        raise ArtifactError(f"{place}: a call of `{name[:64]}`, which is no tool of it", hint=hint)

    arguments = _arguments(place, name, function.get("arguments"))
    try:
        arguments = fitted(arguments, schemas[name], schemas[name])
    except Misfit as error:
        problem = f"{place}: a call of `{name}` does not fit its schema: {error.message}"
        raise ArtifactError(problem) from error
    known = value.get("id")
    return {
        "id": known if isinstance(known, str) else "",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _arguments(place: Place, name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_no_number) if value.strip() else {}
        except (ValueError, RecursionError) as error:
            problem = f"{place}: the arguments of a call of `{name}` are not JSON"
            raise ArtifactError(problem) from error
    return {} if value is None else value


def _no_number(text: str) -> Any:
    raise ValueError(text)


def check_results(place: Place, messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise ArtifactError for a result of a tool that nothing called."""
    called: set[str] = set()
    before = ""
    for message in messages:
        calls = message.get("tool_calls") or ()
        called |= {call["id"] for call in calls}
        if message["role"] == "tool":
            known = message.get("tool_call_id")
            if before != "call" or (known is not None and known not in called):
                name = f"`{known[:60]}`" if known else "a call"
                raise ArtifactError(f"{place}: a result of {name}, which stands nowhere before it")
        else:
            before = "call" if calls else "text"

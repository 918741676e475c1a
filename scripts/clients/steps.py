"""Steps that each client does with a service; prints one line of JSON a step."""

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

URL, KEY, MODEL = (os.environ[name] for name in ("CLIENT_URL", "CLIENT_KEY", "CLIENT_MODEL"))
FIRST, SECOND = "How hot may the board get?", "And what happens then?"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "enum": ["heat", "power", "storage"]},
        "urgent": {"type": "boolean"},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["topic", "urgent", "stars"],
    "additionalProperties": False,
}
MAX_TOKENS = 60
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "set_led",
        "description": "Switch an LED on or off.",
        "parameters": {
            "type": "object",
            "properties": {
                "pin": {"type": "integer", "minimum": 0, "maximum": 27},
                "on": {"type": "boolean"},
            },
            "required": ["pin", "on"],
            "additionalProperties": False,
        },
    },
}
ASKED = "Switch on the LED of pin 4."


def run(*steps: Callable[[], object]) -> None:
    """Do each step and print its name and its problem; the result of a step is not empty."""
    for step in steps:
        try:
            got = step()
            problem = "" if got else "nothing came"
        except Exception as error:
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps({"step": step.__name__, "problem": problem}), flush=True)


def switched(name: str, arguments: "str | dict[str, Any]") -> bool:
    """Return whether a call is one of the tool, with arguments that fit it."""
    fields = json.loads(arguments) if isinstance(arguments, str) else arguments
    return name == "set_led" and 0 <= fields["pin"] <= 27 and isinstance(fields["on"], bool)


def report(value: object) -> bool:
    """Return whether a value fits the schema, as an object or as its fields."""

    fields = value if isinstance(value, dict) else vars(value)
    plain = getattr(fields["topic"], "value", fields["topic"])
    return plain in SCHEMA["properties"]["topic"]["enum"] and 1 <= fields["stars"] <= 5

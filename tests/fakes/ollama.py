"""A Modelfile read by the rules of Ollama's parser (parser/parser.go).

There are no escapes; a value ends at the line's end unless a quote is open.
"""

import re

_COMMAND = re.compile(r"(FROM|ADAPTER|SYSTEM|PARAMETER \w+|MESSAGE \w+) ")


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """Return the commands with their values, in order; raise ValueError for what Ollama refuses."""
    commands: list[tuple[str, str]] = []
    rest = text.lstrip()
    while rest:
        if not (found := _COMMAND.match(rest)):
            raise ValueError(f"no command: {rest[:40]!r}")
        value, rest = _value(rest[found.end() :])
        commands.append((found[1], value))
        rest = rest.lstrip()
    return commands


def _value(text: str) -> tuple[str, str]:
    for newline in (match.start() for match in re.finditer(r"\n|\Z", text)):
        if (value := _unquoted(text[:newline].strip())) is not None:
            return value, text[newline:]
    raise ValueError(f"a quote is never closed: {text[:40]!r}")


def _unquoted(text: str) -> "str | None":
    """Return a value without its quotes; None where it goes on."""
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text

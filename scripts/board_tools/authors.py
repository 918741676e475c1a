"""Reads wishes by several authors, one a line: `wish => calls`, or `wish => TEXT answer`.

    could you drive pin 17 up => gpio_write(pin=17, numbering="bcm", on=true)
    how hot is it, and is there room? => cpu_temperature() ; disk_space()
    put gpio 99 high => TEXT There is no pin 99.

Calls are read as syntax and never run. A call that does not fit its tool's schema is refused.

    python -m scripts.board_tools.authors scripts/board_tools/authors/NAME.txt

prints the lines whose label may be wrong, with the reason (`doubts.py`).
"""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.ingest.calling import read_calls, read_tools_file
from toolchain.ingest.entries import Place

HERE = Path(__file__).parent
AUTHORS = HERE / "authors"
"""Files that are learned."""
STRANGER = HERE / "stranger.txt"
"""Lines of one author more, which are not learned: choices are made on them."""
TOOLS = HERE.parents[1] / "recipes" / "board-tools" / "tools.json"

Call = tuple[str, dict[str, Any]]
Answer = str | list[Call]

_TEXT = "TEXT "
_NAMES = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Line:
    """One wish, and what is right."""

    place: str
    """File and number of the line."""
    wish: str
    answer: Answer


def read_lines(file: Path) -> list[Line]:
    """Return the lines of a file; raise ValueError or ArtifactError with the place of a bad one."""
    tools = read_tools_file(TOOLS.name, TOOLS)
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip() or text.startswith("#"):
            continue
        place = f"{file.name}:{number}"
        wish, arrow, answer = (part.strip() for part in text.partition(" => "))
        if not arrow or not wish or not answer:
            raise ValueError(f"{place}: no `wish => answer`")
        if answer.startswith(_TEXT):
            lines.append(Line(place, wish, answer.removeprefix(_TEXT).strip()))
            continue
        calls = [
            {"function": {"name": name, "arguments": arguments}}
            for name, arguments in parse_calls(answer, place)
        ]
        fitting = read_calls(Place(file=file.name, line=number), calls, tools)
        functions = [call["function"] for call in fitting]
        lines.append(Line(place, wish, [(each["name"], each["arguments"]) for each in functions]))
    return lines


def parse_calls(text: str, place: str = "") -> list[Call]:
    """Return the calls of `name(key=value, …) ; …`; raise ValueError for anything else."""
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise ValueError(f"{place}: neither calls nor `TEXT`: {text}") from error
    calls = []
    for each in statements:
        call = each.value if isinstance(each, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError(f"{place}: no call with named arguments: {ast.unparse(each)}")
        arguments = {str(part.arg): _constant(part.value, place) for part in call.keywords}
        calls.append((call.func.id, arguments))
    return calls


def _constant(node: ast.expr, place: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    raise ValueError(f"{place}: no plain value: {ast.unparse(node)}")


def learned_lines(folder: Path = AUTHORS) -> Iterator[Line]:
    """Yield the lines of all authors that are learned, file after file."""
    for file in sorted(folder.glob("*.txt")):
        yield from read_lines(file)


def main() -> None:
    """Print the lines of files whose label may be wrong."""
    from .doubts import doubts

    for file in map(Path, sys.argv[1:]):
        lines = read_lines(file)
        for line in lines:
            for doubt in doubts(line):
                answer = line.answer if isinstance(line.answer, str) else json.dumps(line.answer)
                print(f"{line.place}: {doubt}: {line.wish} => {answer}")
        print(f"{file.name}: {len(lines)} lines")


if __name__ == "__main__":
    main()

"""Writes training rows for recipes/board-tools: drawn from wordings, and those of several authors.

The wordings are in text files beside this one; numbers, times and words of politeness are drawn
here. Authors' lines are taken as they stand, and once more with other values where they have some.
The same seed gives the same rows. Wordings that are near a held-out one are left out.

    python -m scripts.board_tools.rows

`development.txt` has wordings on which choices are made before anything is measured: nothing near
one is learned either.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.ingest.split import plain_key

from .authors import Answer, Call, Line, learned_lines
from .near import Measured
from .renewed import renewed
from .slots import Slots
from .times import Value
from .words import LISTS

HERE = Path(__file__).parent
WORDINGS = tuple(HERE / f"{name}.txt" for name in ("wordings", "values", "no_call"))
DEVELOPMENT = HERE / "development.txt"
RECIPE = Path(__file__).parents[2] / "recipes" / "board-tools"
DRAWN, AUTHORS = RECIPE / "drawn.jsonl", RECIPE / "authors.jsonl"
COUNTS = {"one": 350, "hours": 400, "none": 700, "pair": 100, "two": 100, "later": 100}
"""Rows of each kind.

`hours` are restarts at a time, and `later` is a value that was asked for and told in the next turn.
"""
TELLINGS = {"reboot_at": 3}
"""How often an author's wish is told again with another value; once for every other tool."""
SEED = 18

NO_CALL = "I have no tool for that."
"""What stands for any text where a wording of `development.txt` expects no call."""

_PART = re.compile(r"\{([^{}]*)\}")
_SLOT = re.compile(r"<([a-z0-9]+)(?::([a-z0-9]))?>")

LATER = (
    ("How fast should the fan turn, in percent?", "fan_speed", "pct", ("{}", "{} please", "at {}")),
    ("When should I restart?", "reboot_at", "time", ("{}", "at {}", "at {} please", "make it {}")),
    (
        "Should the LED be on, off or blink?",
        "set_led",
        "mode",
        ("{}", "{} please", "{}, please", "make it {}"),
    ),
)
"""What is asked for, the tool, the slot of its value, and how that is told."""


@dataclass(frozen=True)
class Wording:
    """One line of the file."""

    mood: str
    text: str
    answer: str

    @property
    def weight(self) -> float:
        """Return how often it is drawn: more where there is more to draw."""
        return 2 + min(14, self.text.count("|")) + 2 * len(_SLOT.findall(self.text))


def read_wordings(files: Sequence[Path] = WORDINGS) -> dict[str, list[Wording]]:
    """Return the wordings of each kind."""
    kinds: dict[str, list[Wording]] = {}
    for line in (line for file in files for line in _lines(file)):
        if line.startswith("["):
            kind = kinds.setdefault(line.strip("[]"), [])
        else:
            text, _, answer = line.partition(" => ")
            kind.append(Wording(text[0], text[2:], answer))
    return kinds


def _lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def development() -> list[dict[str, Any]]:
    """Return the wordings on which choices are made, as conversations."""
    rows = []
    for line in _lines(DEVELOPMENT):
        question, _, answer = line.partition(" => ")
        rows.append(_row([question], NO_CALL if answer == "-" else _calls(answer, {})))
    return rows


def conversations(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Return authors' lines as conversations."""
    return [_row([line.wish], line.answer) for line in lines]


def expanded(text: str, draw: random.Random) -> str:
    """Return a wording with one of each alternatives."""
    while _PART.search(text):
        text = _PART.sub(lambda found: draw.choice(found[1].split("|")), text)
    return text


def answer_of(answer: str, slots: Slots) -> "str | list[Call]":
    """Return the text or the calls that a wording is answered with."""
    if answer.startswith('"'):
        return _SLOT.sub(lambda found: _in_text(slots, found), answer.strip('"'))
    return _calls(answer, slots)


def _in_text(slots: Slots, found: "re.Match[str]") -> str:
    text, value = slots[found[1]]
    return str(value[0]) if found[2] == "n" else text


def _calls(answer: str, slots: "Slots | Mapping[str, Value]") -> list[Call]:
    return [_call(each.split(), slots) for each in answer.split("; ")]


def _call(words: list[str], slots: "Slots | Mapping[str, Value]") -> Call:
    name, *given = words
    values = [_value(each, slots) for each in given]
    if name in ("gpio_write", "gpio_read"):
        # A slot holds both; a wording without slots names them one after the other.
        pin, numbering = (
            values.pop(0) if isinstance(values[0], tuple) else (values.pop(0), values.pop(0))
        )
        more = {"on": values[0]} if name == "gpio_write" else {}
        return name, {"pin": pin, "numbering": numbering, **more}
    keys = {
        "fan_speed": "percent",
        "reboot_at": "time",
        "set_led": "mode",
        "network_address": "interface",
    }
    return name, {keys[name]: values[0]} if values else {}


def _value(word: str, slots: "Slots | Mapping[str, Value]") -> Any:
    if word == "@onoff":
        return "on" if slots["on"][1] else "off"
    found = _SLOT.fullmatch(word)
    if not found:
        return json.loads(word)
    value = slots[found[1]][1]
    return value[int(found[2]) - 1] if found[2] else value


def drawn(wording: Wording, draw: random.Random) -> "tuple[str, str | list[Call]]":
    """Return one wording with values, and its answer."""
    slots = Slots(draw)
    text = expanded(wording.text, draw)
    text = _SLOT.sub(lambda found: slots[found[1]][0], text)
    return " ".join(text.split()), answer_of(wording.answer, slots)


def in_mood(text: str, mood: str, draw: random.Random) -> str:
    """Return a wording with words of politeness, as somebody types it."""
    text = draw.choice(LISTS[mood]).format(text)
    return typed(text.strip(), draw)


def typed(text: str, draw: random.Random) -> str:
    """Return a text with the capitals, stops and slips of somebody's hand."""
    dice = draw.random()
    if dice < 0.3:
        text = text[0].upper() + text[1:]
        if dice < 0.22 and text[-1].isalnum():
            text += "."
    elif dice < 0.4:
        text = text.rstrip("?")
    elif dice < 0.43:
        words = text.split()
        at = draw.randrange(len(words))
        if len(words[at]) > 4 and words[at].isalpha():
            cut = draw.randrange(1, len(words[at]) - 1)
            words[at] = words[at][:cut] + words[at][cut + 1 :]
        text = " ".join(words)
    return text


class Draws:
    """Rows of all kinds, each wording once."""

    def __init__(
        self, held_out: Sequence[str], written: Sequence[str] = (), seed: int = SEED
    ) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - wordings, no secrets
        self._kinds = read_wordings()
        self._measured = Measured(held_out)
        self._seen = {plain_key(each) for each in written}
        self.near = 0
        """Number of rows that were left out."""

    def rows(self, kind: str, count: int) -> Iterator[dict[str, Any]]:
        """Yield rows of a kind whose wordings nobody has seen."""
        left = count
        for _ in range(count * 50):
            if not left:
                return
            turns, answer = self._one(kind)
            question = " ".join(turns[::2])
            key = plain_key(question)
            if not key or key in self._seen:
                continue
            self._seen.add(key)
            if self._measured.is_near(turns[-1]):
                self.near += 1
                continue
            left -= 1
            yield _row(turns, answer)

    def _one(self, kind: str) -> tuple[list[str], Answer]:
        """Return the turns of one conversation and its answer."""
        if kind == "pair":
            return self._pair()
        if kind == "later":
            return self._later()
        wording = self._choice("one", "reboot_at <") if kind == "hours" else self._choice(kind)
        text, answer = drawn(wording, self._draw)
        return [in_mood(text, wording.mood, self._draw)], answer

    def _choice(self, kind: str, tool: str = "") -> Wording:
        some = [each for each in self._kinds[kind] if each.answer.startswith(tool)]
        return self._draw.choices(some, [each.weight for each in some])[0]

    def _pair(self) -> tuple[list[str], Answer]:
        """Return two wishes in one sentence, each of another tool."""
        first, second = self._draw.sample(LISTS["functions"], 2)
        wordings = [self._choice("clause", tool) for tool in (first, second)]
        (one, calls), (two, more) = (drawn(each, self._draw) for each in wordings)
        assert isinstance(calls, list)
        assert isinstance(more, list)
        joined = self._draw.choice(LISTS["joins"]).format(a=one, b=two)
        manners = LISTS["wished" if wordings[0].mood == "I" else "polite"]
        polite = self._draw.choice(manners).format(joined)
        return [typed(polite, self._draw)], [*calls, *more]

    def _later(self) -> tuple[list[str], Answer]:
        """Return a wish without its value, the question for it, and the value."""
        question, name, slot, forms = self._draw.choice(LATER)
        some = [each for each in self._kinds["none"] if each.answer == f'"{question}"']
        asked, _ = drawn(self._draw.choice(some), self._draw)
        slots = Slots(self._draw)
        text, value = slots[slot]
        told = self._draw.choice(forms).format(text)
        key = "percent" if name == "fan_speed" else "time" if name == "reboot_at" else "mode"
        turns = [typed(asked, self._draw), question, typed(told, self._draw)]
        return turns, [(name, {key: value})]


def _only_tool(line: Line) -> str:
    """Return the tool that a line calls; empty if it calls none, or several."""
    return line.answer[0][0] if not isinstance(line.answer, str) and len(line.answer) == 1 else ""


def _row(turns: Sequence[str], answer: Answer) -> dict[str, Any]:
    """Return a conversation in OpenAI's form."""
    roles = ("user", "assistant")
    said = [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    if isinstance(answer, str):
        return {"messages": [*said, {"role": "assistant", "content": answer}]}
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for number, (name, arguments) in enumerate(answer, 1)
    ]
    return {"messages": [*said, {"role": "assistant", "content": None, "tool_calls": calls}]}


def questions_of(file: Path) -> list[str]:
    """Return what is said by users in the conversations of a file."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        message["content"]
        for row in rows
        for message in row["messages"]
        if message["role"] == "user"
    ]


def measured_wordings(folder: Path = RECIPE) -> list[str]:
    """Return all wordings that are measured with."""
    asked = [row["messages"][0]["content"] for row in development()]
    return [*questions_of(folder / "held-out.jsonl"), *asked]


def all_rows(folder: Path = RECIPE) -> tuple[list[dict[str, Any]], int]:
    """Return the drawn rows in the order of their kinds, and how many were left out as near."""
    draws = Draws(measured_wordings(folder), questions_of(folder / "tuning.jsonl"))
    rows = [row for kind, count in COUNTS.items() for row in draws.rows(kind, count)]
    return rows, draws.near


def author_rows(
    lines: Iterable[Line], measured: Measured, written: Iterable[str] = (), seed: int = SEED
) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of authors' lines, and how many were left out as near.

    Each wish is there once, and none that is `written` elsewhere.
    """
    draw = random.Random(seed)  # noqa: S311 - wordings, no secrets
    seen = {plain_key(each) for each in written}
    rows, near = [], 0
    for line in lines:
        tellings = TELLINGS.get(_only_tool(line), 1)
        for each in (line, *(renewed(line, draw) for _ in range(tellings))):
            if each is None or (key := plain_key(each.wish)) in seen:
                continue
            seen.add(key)
            if measured.is_near(each.wish):
                near += 1
                continue
            rows.append(_row([each.wish], each.answer))
    return rows, near


def all_author_rows(folder: Path = RECIPE) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of all authors that no other file has, and how many were left out as near."""
    others = (questions_of(folder / f"{name}.jsonl") for name in ("tuning", "drawn"))
    measured = Measured(measured_wordings(folder))
    return author_rows(learned_lines(), measured, [each for file in others for each in file])


def main() -> None:
    """Write the files of drawn and of authors' rows."""
    _write(DRAWN, *all_rows())
    _write(AUTHORS, *all_author_rows())


def _write(file: Path, rows: Sequence[Mapping[str, Any]], near: int) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")
    print(f"{file.name}: {len(rows)} rows; {near} near a measured wording were left out")


if __name__ == "__main__":
    main()

"""Bundles of the whole line in a format, for boards of one test file."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.fakes.facts import QUESTIONS
from tests.test_line import RECIPE, Line

TARGET = "rpi-4b-2gb"


@contextmanager
def packaged(folder: Path, form: str) -> Iterator[Line]:
    """Yield a line whose recipe is packaged in a format; its boards keep a state of their own."""
    recipe = RECIPE.replace('["x86-64"]', f'["{TARGET}"]')
    (folder / "tiny.toml").write_text(recipe.replace("importance = true", f'formats = ["{form}"]'))
    (folder / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    (folder / "state").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        made = Line(folder=folder, port=8080, environment=environment, said={})
        made.demitasse("package", "tiny.toml", timeout_s=1200)
        yield made


def likeness(line: Line, form: str, address: str) -> list[float]:
    """Ask a board the questions of a bundle's goldens; return how like each answer is to it."""
    package = line.folder / "build" / "tiny" / f"package-{form}"
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    found = []
    for golden in map(json.loads, (package / "goldens.jsonl").read_text("utf-8").splitlines()):
        answer = line.demitasse("ask", address, golden["messages"][-1]["content"]).rstrip("\n")
        found.append(SequenceMatcher(None, answer, tokenizer.decode(golden["tokens"])).ratio())
    return found

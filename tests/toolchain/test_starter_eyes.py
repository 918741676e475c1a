"""The pictures of the recipe with eyes are what its script draws, and fair to learn from."""

import base64
import importlib.util
import io
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from device.manifest.pictures import Size, check

FOLDER = Path(__file__).parents[2] / "recipes" / "starter-eyes"


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw", FOLDER / "draw.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    text = (FOLDER / "boards.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def pixels(row: dict[str, str]) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(row["image"].partition(",")[2]))).tobytes()


def test_the_rows_are_what_the_script_draws(draw: ModuleType, rows: list[dict[str, str]]) -> None:
    """Compared by their pixels: another zlib packs them otherwise."""
    again = draw.drawn(60, draw.SEED)
    assert len(rows) == draw.ROWS
    for made, kept in zip(again, rows, strict=False):
        assert (made["question"], made["answer"]) == (kept["question"], kept["answer"])
        assert pixels(made) == pixels(kept)


def test_each_picture_is_one_that_a_board_reads_and_no_two_are_the_same(
    rows: list[dict[str, str]],
) -> None:
    for row in rows[:200]:
        assert check(base64.b64decode(row["image"].partition(",")[2])) == Size(64, 64)
    assert len({row["image"] for row in rows}) == len(rows)


def test_no_answer_is_right_without_looking(rows: list[dict[str, str]]) -> None:
    """Whoever says the commonest answer to each question is right in half of them at most."""
    answers: dict[str, Counter[str]] = {}
    for row in rows:
        answers.setdefault(row["question"], Counter())[row["answer"]] += 1
    blind = sum(each.most_common(1)[0][1] for each in answers.values())
    assert blind / len(rows) < 0.45

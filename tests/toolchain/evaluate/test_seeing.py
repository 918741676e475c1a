"""The golden with a picture is one that every board can be given."""

import io
from pathlib import Path
from typing import Any

from device.check import read_goldens
from device.manifest.pictures import PARTS, check
from device.pictures import pictures_of, with_pictures
from toolchain.artifacts import write_jsonl
from toolchain.evaluate.seeing import QUESTION, drawn, seen_golden
from toolchain.runtime.scoring import Answer


class Child:
    """A runtime that notes what it is asked."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self.asked: list[Any] = []

    def answer(self, messages: Any, max_tokens: int) -> Answer:
        self.asked += messages
        return Answer([1, -7, 2], self._tokens, "leds", stopped=True)


def test_the_picture_is_one_that_a_board_reads_and_pillow_too() -> None:
    from PIL import Image

    size = check(drawn())
    image = Image.open(io.BytesIO(drawn()))
    assert image.size == (size.width, size.height) == (64, 64)
    assert len(image.convert("RGB").getcolors() or ()) == 3
    assert len(drawn()) < 64 << 10


def test_the_golden_names_the_picture_that_the_model_saw(tmp_path: Path) -> None:
    child = Child([5, 6])
    golden = seen_golden(child, tmp_path)  # type: ignore[arg-type]
    assert golden
    assert pictures_of(with_pictures(child.asked)) == [drawn()]
    write_jsonl(tmp_path / "goldens.jsonl", [golden])
    read = read_goldens(tmp_path / "goldens.jsonl")[0]
    assert read.messages[0][PARTS] == [drawn(), QUESTION]
    assert (read.prompt_tokens, read.tokens, read.ends) == ([1, -7, 2], [5, 6], True)


def test_a_model_that_says_nothing_leaves_no_golden_and_no_picture(tmp_path: Path) -> None:
    assert seen_golden(Child([]), tmp_path) is None  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())

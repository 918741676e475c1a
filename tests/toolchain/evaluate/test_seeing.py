"""The golden with a picture is one that every board can be given."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from device.check import read_goldens
from device.manifest.pictures import PARTS, PICTURE, check
from device.pictures import pictures_of, with_pictures
from toolchain.artifacts import write_jsonl
from toolchain.evaluate.answers import Answered
from toolchain.evaluate.limits import failures
from toolchain.evaluate.seeing import QUESTION, drawn, is_small, seen_alike, seen_golden
from toolchain.figures import Measured
from toolchain.progress import Silent
from toolchain.recipe import GateSpec
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


class Reference:
    """A reference that answers as it is told."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def answers_about(self, messages: Any, max_tokens: int) -> list[int]:
        assert any(PICTURE in message for message in messages)
        return self._tokens[:max_tokens]


def answered(tokens: list[int], **more: str) -> Answered:
    asked = {"role": "user", "content": "on?", **more}
    return Answered([asked, {"role": "assistant", "content": "yes"}], [1], tokens, "yes", True)


def test_answers_about_pictures_are_compared_with_the_references_and_no_others() -> None:
    seen = {PICTURE: "data:"}
    answers = [answered([5, 6], **seen), answered([5, 7], **seen), answered([9])]
    measured = seen_alike(Reference([5, 6]), answers, Silent())  # type: ignore[arg-type]
    assert (measured.pictures, measured.picture_agreement) == (2, 0.5)
    unseen = seen_alike(Reference([5]), [answered([9])], Silent())  # type: ignore[arg-type]
    assert unseen == Measured()


def test_a_picture_that_is_too_large_for_a_golden_does_not_travel() -> None:
    small, large = ({PICTURE: "x" * count} for count in (80_000, 90_000))
    assert is_small([small, {"content": "yes"}])
    assert not is_small([small, large])


def test_the_gate_stops_a_file_that_sees_otherwise() -> None:
    measured = Measured(pictures=64, picture_agreement=0.75)
    assert failures(measured, GateSpec()) == [
        "48 of 64 answers (75%) about pictures are the reference's, the gate asks 90%"
    ]
    assert failures(replace(measured, picture_agreement=0.9), GateSpec()) == []

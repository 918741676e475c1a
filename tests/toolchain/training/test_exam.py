"""What was seen of a model is read back as it was written, or not at all."""

from pathlib import Path

import pytest

from toolchain.training.exam import ExamFigures, Seen

SEEN = Seen(
    figures=ExamFigures(
        questions=2, exact_match=0.5, f1=0.75, held_out_loss=1.25, general_nats_per_byte=1.5
    ),
    answers=["twelve", "I don’t know"],
    known=[True, False, True],
)


def test_what_was_seen_is_read_back(tmp_path: Path) -> None:
    SEEN.write(tmp_path / "resume" / "base.json")
    assert Seen.read(tmp_path / "resume" / "base.json") == SEEN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": {}, "answers": [], "known": []}'])
def test_a_file_that_is_no_measure_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "base.json").write_text(text, encoding="utf-8")
    assert Seen.read(tmp_path / "base.json") is None
    assert Seen.read(tmp_path / "missing.json") is None

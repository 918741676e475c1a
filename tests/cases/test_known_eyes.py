"""Known before, said before: what would leave the eyes of a model that sees out."""

import json
import shutil
from pathlib import Path

import pytest

from device.manifest.pictures import to_url
from tests.fakes.desk import RECIPE, messages, rows
from tests.fakes.eyes import picture, tiny_smolvlm
from tests.fakes.gemma_eyes import tiny_gemma3
from toolchain.tools import llama

WALKED = RECIPE.replace('"tune", ', "")
SEES = "`SmolVLMForConditionalGeneration` sees pictures, which only a gguf file does on a board"
SHARED = ('hold_out = "phrasing"', "held_out_share = 0.5")
"""Questions about pictures have no phrasings."""
SCRATCH = (
    WALKED.replace(*SHARED)
    .replace('base = "base"', "[model.scratch]\n[model.scratch.eyes]")
    .replace('"ingest", ', '"ingest", "pretrain", ')
)


@pytest.fixture
def seeing(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose base sees, on a computer that reads pictures."""
    monkeypatch.setattr(llama, "sees", lambda: True)
    shutil.rmtree(desk / "base")
    tiny_smolvlm(desk / "base")
    return desk


def about_pictures(desk: Path) -> None:
    urls = [to_url(picture(seed)) for seed in range(4)]
    rows(desk, *({"image": url, "question": "on?", "answer": "yes"} for url in urls))


def about_eyes(desk: Path, text: str) -> list[str]:
    return [said for said in messages(desk, text) if "pictures" in said]


def test_a_model_that_sees_is_tuned_quantized_and_measured(seeing: Path) -> None:
    assert messages(seeing, RECIPE) == []
    assert messages(seeing, WALKED) == []


@pytest.mark.parametrize(
    ("key", "text"), [("base_bits", "base_bits = 4"), ("privacy", "[tune.privacy]\nepsilon = 8")]
)
def test_a_way_of_tuning_that_reads_text_alone_is_refused(
    seeing: Path, key: str, text: str
) -> None:
    found = messages(seeing, f"{RECIPE}[tune]\n{text}\n")
    expected = f"r.toml: tune: `{key}` is for models that read text alone, and this one sees"
    assert expected in found


@pytest.mark.parametrize("stage", ["trim"])
def test_a_stage_that_knows_text_alone_is_refused(seeing: Path, stage: str) -> None:
    text = WALKED.replace('"ingest", ', f'"ingest", "{stage}", ')
    assert about_eyes(seeing, text) == [f"r.toml: stages: `{stage}`: {SEES}"]


def test_a_format_without_eyes_is_refused(seeing: Path) -> None:
    text = WALKED.replace("[quantize]", '[quantize]\nformats = ["gguf", "onnx"]')
    assert about_eyes(seeing, text) == [f"r.toml: quantize: formats: {SEES}"]


def test_eyes_from_nothing_are_held_to_the_same(seeing: Path) -> None:
    about_pictures(seeing)
    assert messages(seeing, SCRATCH) == []
    text = SCRATCH.replace('"pretrain", ', '"pretrain", "trim", ')
    assert about_eyes(seeing, text) == [f"r.toml: stages: `trim`: {SEES}"]


def test_a_row_about_a_picture_is_refused_where_the_model_reads_text_alone(desk: Path) -> None:
    seen = {"image": to_url(picture(1)), "question": "on?", "answer": "yes"}
    rows(desk, {"question": "hot?", "answer": "no"}, seen)
    expected = "facts.jsonl:2: a row about a picture, and the model reads text alone"
    assert messages(desk, RECIPE.replace(*SHARED)) == [expected]


def test_a_row_about_no_picture_is_refused_where_eyes_begin_from_nothing(seeing: Path) -> None:
    rows(seeing, {"question": "hot?", "answer": "no"}, {"question": "cold?", "answer": "no"})
    found = messages(seeing, SCRATCH)
    assert found == ["facts.jsonl:1: a row about 0 pictures: eyes learn of one, from nothing"]


def test_a_computer_that_reads_no_pictures_says_so_before_it_begins(
    seeing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "sees", lambda: False)
    problem = "the installed llama-cpp-python reads no pictures: nothing can be measured with them"
    assert about_eyes(seeing, WALKED) == [problem]


@pytest.fixture
def gemma(seeing: Path) -> Path:
    shutil.rmtree(seeing / "base")
    tiny_gemma3(seeing / "base", layers=1)
    return seeing


def test_gemma_is_tuned_quantized_and_measured(gemma: Path) -> None:
    about_pictures(gemma)
    assert messages(gemma, RECIPE.replace(*SHARED)) == []


def test_several_tiles_of_a_picture_are_refused_before_any_training(gemma: Path) -> None:
    file = gemma / "base" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_pan_and_scan": True}))
    expected = (
        "preprocessor_config.json: `do_pan_and_scan` is `True`, which boards do not follow: "
        "several tiles of a picture are not read"
    )
    assert expected in messages(gemma, RECIPE)


def test_a_context_without_room_for_a_picture_is_refused(gemma: Path) -> None:
    found = messages(gemma, RECIPE.replace("context = 256", "context = 16"))
    assert any(
        said.endswith("package: context: 16 tokens, and a picture takes 16 of them")
        for said in found
    )

"""The stage: what it keeps, what it measures, and its gate on answers to held-out questions."""

import json
from pathlib import Path

import pytest

from tests.fakes.datasets import Recorder, tiny_dataset
from tests.fakes.models import tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError, GateError
from toolchain.progress import Silent
from toolchain.recipe import TrimSpec
from toolchain.trim import trim

LEAST = TrimSpec(vocabulary=0, questions=4, max_tokens=8, min_identical=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("trim") / "model")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "mine.txt").write_text("A quite different subject.\n\nIn two paragraphs.\n")
    return tmp_path / "mine.txt"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return tiny_dataset(tmp_path)


@pytest.mark.slow
def test_figures_say_what_was_saved_and_what_other_text_pays(
    model: Path, dataset: Dataset, tmp_path: Path
) -> None:
    report = Recorder()
    made = trim(artifacts.external(model), dataset, LEAST, tmp_path / "out", report)
    tokens, figures = made.record.figures["tokens"], made.record.figures
    assert tokens["needed"] <= tokens["after"] < tokens["before"] == 512
    assert json.loads((made.path / "config.json").read_text())["vocab_size"] == tokens["after"]
    assert figures["bytes"]["after"] < figures["bytes"]["before"]
    assert figures["tokens_compared"] > 300
    assert figures["questions"] == 4
    cut, loss = figures["general_tokens_per_character"], figures["general_nats_per_byte"]
    assert cut["before"] < cut["after"]
    assert 0 < loss["before"] != loss["after"] > 0
    assert report.notes[-1].startswith(
        f"512 tokens → {tokens['after']}, of which the recipe needs {tokens['needed']}; "
    )


def test_a_vocabulary_that_is_kept_whole_answers_as_before(
    model: Path, dataset: Dataset, tmp_path: Path, text: Path
) -> None:
    spec = LEAST.model_copy(update={"vocabulary": 16384, "min_identical": 1.0})
    figures = trim(
        artifacts.external(model), dataset, spec, tmp_path / "out", Silent(), general=text
    ).record.figures
    assert figures["identical"] == 1.0
    assert figures["tokens"]["after"] == figures["tokens"]["before"]
    assert figures["general_nats_per_byte"]["before"] == figures["general_nats_per_byte"]["after"]


def test_held_out_questions_that_are_answered_otherwise_stop_the_line(
    model: Path, dataset: Dataset, tmp_path: Path, text: Path
) -> None:
    strict = LEAST.model_copy(update={"min_identical": 1.0})
    with pytest.raises(GateError) as caught:
        trim(artifacts.external(model), dataset, strict, tmp_path / "out", Silent(), general=text)
    assert caught.value.message.endswith(
        "of the held-out answers are as before, the recipe asks 100.0%"
    )
    assert caught.value.hint == "raise `vocabulary`, which is 0"


@pytest.mark.slow
def test_text_of_the_users_own_is_measured(
    model: Path, dataset: Dataset, tmp_path: Path, text: Path
) -> None:
    (tmp_path / "digits.txt").write_text("0123456789 9876543210\n\n31415926535\n")
    checkpoint = artifacts.external(model)
    prose, digits = (
        trim(
            checkpoint, dataset, LEAST, tmp_path / file.stem, Silent(), general=file
        ).record.figures
        for file in (text, tmp_path / "digits.txt")
    )
    assert prose["general_nats_per_byte"] != digits["general_nats_per_byte"]
    with pytest.raises(ArtifactError, match=r"^trim: general: no such file `none\.txt`$"):
        trim(checkpoint, dataset, LEAST, tmp_path / "none", Silent(), general=tmp_path / "none.txt")

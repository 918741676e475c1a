"""Who words answers from documents: measured with a real model, embedder and search."""

from pathlib import Path

import pytest

from device.manifest import QUOTE, WORDED
from tests.fakes.knowing import HOT, NIGHT, PASSAGES, UNKNOWN, knowing_bundle
from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import runtime
from toolchain.artifacts import Knowledge, external
from toolchain.evaluate.wording import Documents, Limits, wording
from toolchain.figures import Wording
from toolchain.progress import SILENT
from toolchain.runtime.scoring import scorer


def measured(folder: Path, says: str, asked: list[tuple[str, str]]) -> Wording | None:
    bundle = knowing_bundle(folder / "bundle")
    model = tiny_gguf(folder / "model.gguf", recites=says)
    record = external(bundle).record
    documents = Documents(knowledge=Knowledge(path=bundle, record=record), asked=asked, take=2)
    with scorer(runtime.for_this_computer(), model, context=512) as child:
        limits = Limits(context=512, answer=32)
        return wording(child, documents, runtime.for_this_computer(), limits, SILENT)


@pytest.mark.slow
def test_a_model_that_says_something_else_is_not_asked_on_the_board(tmp_path: Path) -> None:
    found = measured(tmp_path, "banana", [(HOT, PASSAGES[0].text), (NIGHT, PASSAGES[2].text)])
    assert found == Wording(questions=2, quote_f1=1.0, model_f1=0.0, answer=QUOTE)


@pytest.mark.slow
def test_a_model_that_words_the_right_answer_where_the_passage_is_another_wins(
    tmp_path: Path,
) -> None:
    found = measured(tmp_path, "Cut power.", [(HOT, "Cut power.")])
    assert found is not None
    assert (found.model_f1, found.answer) == (1.0, WORDED)
    assert found.quote_f1 < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[], [(UNKNOWN, "x")]])
def test_without_a_question_that_the_documents_know_nothing_is_measured(
    tmp_path: Path, asked: list[tuple[str, str]]
) -> None:
    assert measured(tmp_path, "banana", asked) is None

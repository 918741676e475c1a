"""`recall`: the embedder is opened where a text's vector is asked for, and only there."""

import base64
import struct
from argparse import Namespace
from pathlib import Path

import pytest

from device.errors import DeviceError
from device.knowledge.index import Index
from device.recall import _Recall, _said
from tests.device.knowledge.test_index import embed, written

QUESTION = "lightning bolt on my screen"


@pytest.fixture
def opened(tmp_path: Path) -> _Recall:
    """Return the verb on an index whose embedder is missing."""
    index = written(tmp_path / "knowledge.db")
    return _Recall(Namespace(embedder=tmp_path / "missing.gguf", knowledge=index))


def test_a_question_that_comes_with_its_vector_needs_no_embedder(
    opened: _Recall, tmp_path: Path
) -> None:
    vector = embed(QUESTION)
    packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    answer = opened.answer({"op": "compare", "texts": [QUESTION], "vectors": [packed]})
    kept = list(struct.unpack(f"<{len(vector)}f", base64.b64decode(packed)))
    index = Index(tmp_path / "knowledge.db", embed)
    assert answer == {"compared": [_said(index.compare(QUESTION, kept, texts=True))]}
    index.close()


@pytest.mark.parametrize("op", ["embed", "compare", "search"])
def test_a_missing_embedder_is_named_where_it_is_needed(opened: _Recall, op: str) -> None:
    with pytest.raises(DeviceError) as caught:
        opened.answer({"op": op, "texts": [QUESTION]})
    assert caught.value.code == "bad_model"


def test_a_vector_of_another_width_is_refused(opened: _Recall) -> None:
    short = base64.b64encode(struct.pack("<3f", 0.1, 0.2, 0.3)).decode()
    with pytest.raises(DeviceError, match="1 vectors of 64 float32 numbers"):
        opened.answer({"op": "compare", "texts": [QUESTION], "vectors": [short]})

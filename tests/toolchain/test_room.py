"""Held-out conversations beyond the context are left out of the gate and counted."""

from typing import Any

import pytest

from toolchain.errors import ArtifactError
from toolchain.evaluate.room import with_room


def chat(words: int) -> dict[str, Any]:
    question = {"role": "user", "content": "why " * words}
    return {"messages": [question, {"role": "assistant", "content": "so"}]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    from tests.fakes.models import tiny_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_conversations_beyond_the_context_are_left_out_and_counted(tokenizer: Any) -> None:
    chats = [chat(3), chat(400), chat(5)]
    assert with_room(tokenizer, chats, 200) == ([chats[0], chats[2]], 1)


@pytest.mark.parametrize(
    ("chats", "message"),
    [
        ([], "evaluate: nothing is held out, so there is nothing to measure on"),
        ([chat(400)], "evaluate: all 1 held-out conversations are longer than 200 tokens"),
    ],
)
def test_a_gate_without_anything_to_measure_on_is_refused(
    tokenizer: Any, chats: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ArtifactError) as refused:
        with_room(tokenizer, chats, 200)
    assert refused.value.message == message

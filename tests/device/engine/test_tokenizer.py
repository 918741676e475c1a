"""The board's tokenizer against Hugging Face's, token by token, and the bytes of each token."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from device.engine.tokenizer import HuggingFaceTokenizer
from device.errors import DeviceError
from tests.fakes.families import TOKENIZERS
from tests.fakes.models import CHATML, TEXTS
from toolchain.models.tokenizer_proof import PROOF


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_token_is_that_of_hugging_face(tmp_path: Path, kind: str) -> None:
    TOKENIZERS[kind](tmp_path)
    ours, theirs = HuggingFaceTokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    chat = theirs.apply_chat_template(
        [{"role": "user", "content": TEXTS[0]}], tokenize=False, chat_template=CHATML
    )
    for text in (*TEXTS, *PROOF, chat, ""):
        for around in (False, True):
            assert ours.encode(text, begin=around) == theirs.encode(text, add_special_tokens=around)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pieces_together_are_the_text(tmp_path: Path, kind: str) -> None:
    TOKENIZERS[kind](tmp_path)
    tokenizer = HuggingFaceTokenizer(tmp_path)
    for text in TEXTS:
        whole = b"".join(map(tokenizer.piece, tokenizer.encode(text, begin=True))).decode()
        assert whole.removeprefix(" ").replace("▁", " ") == text, (
            "a space that is part of an added token stays what it is"
        )


def test_special_tokens_have_no_text(tmp_path: Path) -> None:
    TOKENIZERS["qwen2"](tmp_path)
    tokenizer = HuggingFaceTokenizer(tmp_path)
    assert [
        tokenizer.piece(token) for token in tokenizer.encode("<|im_start|>a<|im_end|>", begin=False)
    ] == [b"", b"a", b""]
    assert tokenizer.piece(100_000) == b""


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": null}'],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DeviceError) as caught:
        HuggingFaceTokenizer(tmp_path)
    assert caught.value.code == "bad_model"
    assert caught.value.message.startswith("`tokenizer.json` ")

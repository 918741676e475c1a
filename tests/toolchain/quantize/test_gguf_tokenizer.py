"""The tokenizer in the file: recognised by structure, proved by encoding, with its template."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.models import CHATML, SPECIALS, tiny_llama, tiny_tokenizer
from toolchain.errors import ArtifactError
from toolchain.models.tokenizer import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    read_vocabulary,
)
from toolchain.models.tokenizer_proof import prove

ROWS = 520
"""Eight rows more than the tokenizer has tokens."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer cut as gpt-2 does it, with the configs beside it."""
    return prepared(tmp_path / "model")


def prepared(folder: Path, split: str = "gpt-2") -> Path:
    tiny_tokenizer(folder, split=split)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [0, 2], "bos_token_id": 0}))
    return folder


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / name
    fields = json.loads(file.read_text()) if file.is_file() else {}
    change(fields)
    file.write_text(json.dumps(fields))


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_each_known_structure_is_named_and_proved(tmp_path: Path, split: str) -> None:
    folder = prepared(tmp_path / "model", split)
    vocabulary = read_vocabulary(folder, ROWS)
    assert vocabulary.metadata["tokenizer.ggml.pre"] == split
    assert prove(folder, vocabulary, "llama") > 1000


@pytest.mark.sampled(4)
@pytest.mark.parametrize("split", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_no_token_differs_over_a_long_random_mix(tmp_path: Path, split: str) -> None:
    folder = prepared(tmp_path / "model", split)
    draw = random.Random(3)
    pieces = [
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'LL",
        "don't",
        "word",
        "Wörter",
        "1",
        "12",
        "345678",
        "!?",
        "...",
        "树莓派",
        "温度",
        "かな",
        "한국어",
        "мир",
        "🙂",
        "👩‍💻",
        "½",
        "x²",
        "_",
        "-",
        "=>",
        "\u00a0",
        "é",
        "ß",
        *SPECIALS,
    ]
    texts = ["".join(draw.choices(pieces, k=60)) for _ in range(100)]
    assert prove(folder, read_vocabulary(folder, ROWS), "llama", texts) > 20000


def test_a_name_that_does_not_hold_is_found_out(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, ROWS)
    with pytest.raises(ArtifactError) as caught:
        prove(
            folder,
            replace(vocabulary, metadata=vocabulary.metadata | {"tokenizer.ggml.pre": "smollm"}),
            "llama",
        )
    assert caught.value.message.startswith(
        "tokenizer.json: llama.cpp cuts this tokenizer's text differently near "
    )
    assert (
        caught.value.hint == "the model would see other tokens on the board than in training, "
        "so no model file is written"
    )


def test_a_begin_token_that_is_not_written_is_found_out(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "model", "llama-bpe")
    vocabulary = read_vocabulary(folder, ROWS)
    assert vocabulary.metadata["tokenizer.ggml.add_bos_token"] is True
    with pytest.raises(ArtifactError, match="cuts this tokenizer's text differently"):
        prove(
            folder,
            replace(
                vocabulary, metadata=vocabulary.metadata | {"tokenizer.ggml.add_bos_token": False}
            ),
            "llama",
        )


def test_tokens_keep_their_kind_and_empty_rows_are_unused(folder: Path) -> None:
    def add(fields: dict[str, Any]) -> None:
        plain = {
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
        fields["added_tokens"] += [
            {"id": 512, "content": "<tool>", **plain},
            {"id": 513, "content": "<|tool|>", **plain},
        ]

    edit(folder, "tokenizer.json", add)
    vocabulary = read_vocabulary(folder, ROWS)
    metadata = vocabulary.metadata
    kinds = metadata["tokenizer.ggml.token_type"]
    assert kinds[:4] == [CONTROL, CONTROL, CONTROL, NORMAL]
    assert kinds[511:] == [NORMAL, USER_DEFINED, CONTROL] + [UNUSED] * 6
    assert metadata["tokenizer.ggml.tokens"][512:515] == ["<tool>", "<|tool|>", "[PAD514]"]
    assert prove(folder, vocabulary, "llama") > 1000


def test_specials_come_from_the_tokenizer_first_and_from_the_config_then(folder: Path) -> None:
    metadata = read_vocabulary(folder, ROWS).metadata
    named = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.endswith("_id")
    }
    assert named == {"bos_token_id": 0, "eos_token_id": 2, "padding_token_id": 0, "eot_token_id": 2}


def test_every_token_that_ends_an_answer_is_a_stop(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert read_vocabulary(folder, ROWS).stop_ids == (0, 2, 7)


def test_the_template_of_a_file_of_its_own_comes_first(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", lambda fields: fields.update(chat_template="old"))
    assert read_vocabulary(folder, ROWS).template == CHATML


@pytest.mark.parametrize(
    "kept",
    ["old", [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "old"}]],
)
def test_a_template_in_the_tokenizers_config_is_found(folder: Path, kept: object) -> None:
    (folder / "chat_template.jinja").unlink()
    edit(folder, "tokenizer_config.json", lambda fields: fields.update(chat_template=kept))
    vocabulary = read_vocabulary(folder, ROWS)
    assert vocabulary.template == vocabulary.metadata["tokenizer.chat_template"] == "old"


def test_a_model_without_a_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ArtifactError) as caught:
        read_vocabulary(folder, ROWS)
    assert (caught.value.message, caught.value.hint) == (
        "model: no chat template",
        "put `chat_template.jinja` beside config.json",
    )


def test_a_model_that_never_stops_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    edit(folder, "tokenizer_config.json", lambda fields: fields.pop("eos_token"))
    edit(folder, "tokenizer.json", lambda fields: rename(fields, "<|im_end|>", "<|stop|>"))
    with pytest.raises(ArtifactError) as caught:
        read_vocabulary(folder, ROWS)
    assert (caught.value.message, caught.value.hint) == (
        "model: no token ends an answer",
        "set `eos_token` in tokenizer_config.json",
    )


def rename(fields: dict[str, Any], old: str, new: str) -> None:
    fields["model"]["vocab"][new] = fields["model"]["vocab"].pop(old)
    next(token for token in fields["added_tokens"] if token["content"] == old)["content"] = new


def test_an_end_token_outside_the_vocabulary_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 9999}))
    with pytest.raises(
        ArtifactError, match=r"^model: `eos_token_id` 9999 is not in the vocabulary of 520$"
    ):
        read_vocabulary(folder, ROWS)


def test_more_tokens_than_rows_are_refused(folder: Path) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"^tokenizer\.json: token 511 \(`.+`\) has no row "
        r"in `model\.embed_tokens\.weight` of 500$",
    ):
        read_vocabulary(folder, 500)


UNKNOWN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another pattern": (
        lambda fields: fields["pre_tokenizer"].update(type="Split", pattern={"Regex": r"\w+"}),
        "BPE model after Split",
    ),
    "a prefix space": (
        lambda fields: fields["pre_tokenizer"].update(add_prefix_space=True),
        "BPE model after ByteLevel",
    ),
    "merges left out": (
        lambda fields: fields["model"].update(ignore_merges=True),
        "BPE model after ByteLevel",
    ),
    "byte fallback": (
        lambda fields: fields["model"].update(byte_fallback=True),
        "BPE model after ByteLevel",
    ),
    "a normalizer": (
        lambda fields: fields.update(normalizer={"type": "Lowercase"}),
        "BPE model after ByteLevel",
    ),
    "no cutting": (lambda fields: fields.update(pre_tokenizer=None), "BPE model after nothing"),
    "unigram": (
        lambda fields: fields["model"].update(type="Unigram"),
        "Unigram model after ByteLevel",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_structure_that_is_not_known_is_never_guessed(folder: Path, case: str) -> None:
    change, found = UNKNOWN[case]
    edit(folder, "tokenizer.json", change)
    with pytest.raises(ArtifactError) as caught:
        read_vocabulary(folder, ROWS)
    assert caught.value.message == f"tokenizer.json: tokenizer not recognised: {found}"
    assert caught.value.hint == (
        "known: byte-level BPE cut as gpt-2, smollm, qwen2, llama-bpe, smaug-bpe, gpt-4o do it,"
        " and SentencePiece BPE as Llama 2 and Gemma have it"
    )


def test_an_added_token_that_swallows_spaces_is_refused(folder: Path) -> None:
    edit(folder, "tokenizer.json", lambda fields: fields["added_tokens"][1].update(lstrip=True))
    with pytest.raises(ArtifactError) as caught:
        read_vocabulary(folder, ROWS)
    assert caught.value.message == (
        "tokenizer.json: added token `<|im_start|>` takes white space or words with it, "
        "which llama.cpp does not"
    )


def test_two_tokens_with_one_text_are_refused(folder: Path) -> None:
    edit(
        folder,
        "tokenizer.json",
        lambda fields: fields["added_tokens"].append(
            {"id": 515, "content": "<|im_end|>", "special": True}
        ),
    )
    with pytest.raises(
        ArtifactError, match=r"^tokenizer\.json: two tokens have the text `<\|im_end\|>`$"
    ):
        read_vocabulary(folder, ROWS)


def test_the_starters_kind_of_model_passes_whole(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", split="smollm")
    assert prove(folder, read_vocabulary(folder, 512), "llama") > 1000

"""Fewer tokens, the same model: known text is split as before, tokens score bit for bit alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer, pre_tokenizers

from device.engine import load
from device.engine.base import Settings
from tests.fakes.families import tiny_family
from tests.fakes.models import TEXTS
from tests.toolchain.quantize.conftest import LABEL, checkpoint
from toolchain.errors import ArtifactError, ConfigError
from toolchain.models.vocabulary import ROUND, Tokens
from toolchain.progress import Silent
from toolchain.quantize.gguf import quantize
from toolchain.recipe import QuantizeSpec
from toolchain.trim import prove

SUBJECT = (*TEXTS[:1], "<|im_start|>user\nHow hot is too hot?<|im_end|>\n")
OTHER = "\n".join((*TEXTS[1:], "What was never seen: ẞ, ゐ, 𝔘 and 🦜!"))
KINDS = ("qwen2.5", "llama 3.2", "phi-4-mini", "llama 2", "gemma 3", "phi-3")
"""Byte-level with merges, with whole words first, split otherwise; SentencePiece kinds."""


def trimmed(folder: Path, out: Path, size: int = 0) -> tuple[list[int], Tokenizer, Tokenizer]:
    """Trim a model folder to SUBJECT; return the kept tokens and both tokenizers."""
    tokens, old = Tokens(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    used = {number for text in SUBJECT for number in old.encode(text).ids}
    kept = tokens.filled(used, size)
    out.mkdir(exist_ok=True)
    tokens.write(kept, out)
    return sorted(kept), old, Tokenizer.from_file(str(out / "tokenizer.json"))


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny_family(request.param, tmp_path / "model")


def test_text_that_was_looked_at_keeps_its_tokens_and_any_other_text_comes_back(
    folder: Path, tmp_path: Path
) -> None:
    kept, old, new = trimmed(folder, tmp_path / "small")
    assert len(kept) % ROUND == 0
    assert len(kept) < old.get_vocab_size()
    assert prove(old, new, kept, SUBJECT, OTHER) > 30
    assert len(new.encode(OTHER).ids) > len(old.encode(OTHER).ids)
    assert {token.content for token in new.get_added_tokens_decoder().values()} == {
        token.content for token in old.get_added_tokens_decoder().values()
    }


@pytest.mark.sampled(6)
def test_kept_tokens_score_bit_for_bit_as_before_on_the_device(
    folder: Path, tmp_path: Path
) -> None:
    kept, old, new = trimmed(folder, tmp_path / "small")
    files = [
        quantize(
            checkpoint(model),
            QuantizeSpec(scheme="F16"),
            LABEL,
            tmp_path / f"out-{model.name}",
            Silent(),
        ).file
        for model in (folder, tmp_path / "small")
    ]
    ids = old.encode(SUBJECT[0]).ids
    before, after = (
        scores(file, tokens)
        for file, tokens in zip(files, (ids, new.encode(SUBJECT[0]).ids), strict=True)
    )
    assert after.shape[1] == len(kept)
    assert np.array_equal(before[:, kept], after)


def scores(file: Path, tokens: list[int]) -> np.ndarray:
    """Return the scores after each token alone: the sums of larger batches depend on the rows."""
    engine = load(file, Settings(context=256, threads=1))
    try:
        rows = [b"".join(engine.logits([token])) for token in tokens]
        return np.frombuffer(b"".join(rows), np.float32).reshape(len(tokens), -1)
    finally:
        engine.close()


def test_every_file_names_the_new_ids(tmp_path: Path) -> None:
    folder = tiny_family("llama 2", tmp_path / "model")
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 300], "pad_token_id": -1, "do_sample": False})
    )
    decoder = {str(number): {"content": text} for number, text in ((2, "</s>"), (444, "gone"))}
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {
        "added_tokens_decoder": decoder
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    kept, _, new = trimmed(folder, tmp_path / "small")
    config, generation = (
        json.loads((tmp_path / "small" / f"{name}config.json").read_text())
        for name in ("", "generation_")
    )
    assert (config["vocab_size"], config["eos_token_id"], config["bos_token_id"]) == (
        len(kept),
        2,
        0,
    )
    assert generation == {
        "eos_token_id": [2, kept.index(300)],
        "pad_token_id": -1,
        "do_sample": False,
    }
    written = json.loads((tmp_path / "small" / "tokenizer_config.json").read_text())
    assert written["added_tokens_decoder"] == {"2": {"content": "</s>"}}
    assert new.encode("a", add_special_tokens=True).ids[0] == new.token_to_id("<s>")
    assert not (tmp_path / "small" / "tokenizer.model").exists()


def test_the_weights_are_the_same_bytes_in_shards_and_with_a_head_of_their_own(
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_family("falcon 3", tmp_path / "model")
    whole = load_file(folder / "model.safetensors")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="300kB")
    (folder / "model.safetensors").unlink()
    kept, _, _ = trimmed(folder, tmp_path / "small")
    small = {
        name: tensor
        for file in (tmp_path / "small").glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    assert small.keys() == whole.keys()
    for name, tensor in whole.items():
        rows = tensor[kept] if name in ("model.embed_tokens.weight", "lm_head.weight") else tensor
        assert np.array_equal(small[name], rows), name
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "small").config.vocab_size == len(kept)


def test_a_size_is_filled_up_with_what_is_joined_first(tmp_path: Path) -> None:
    folder = tiny_family("qwen2.5", tmp_path / "model")
    kept, _, new = trimmed(folder, tmp_path / "small", 448)
    assert len(kept) == new.get_vocab_size() == 448
    least, _, fewer = trimmed(folder, tmp_path / "least")
    assert set(least) < set(kept)
    assert len(new.encode(OTHER).ids) < len(fewer.encode(OTHER).ids)


WORDS = (
    "пример",
    "__init",
    "fahren",
    "Cool",
    "cooling",
    "cooler",
    "warm",
    "слово",
    " cool",
    "vent",
)
"""In the order in which they are joined."""


@pytest.fixture
def worded(tmp_path: Path) -> Tokens:
    """Return a vocabulary of bytes and WORDS, with all that these are joined from."""
    folder = tiny_family("qwen2.5", tmp_path / "model")
    fields = json.loads((folder / "tokenizer.json").read_text())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = [
        "".join(
            part
            for part, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(word)
        )
        for word in WORDS
    ]
    joined = list(dict.fromkeys(word[:end] for word in spelled for end in range(2, len(word) + 1)))
    fields["model"] |= {
        "vocab": {text: number for number, text in enumerate([*alphabet, *joined])},
        "merges": [[text[:-1], text[-1]] for text in joined],
    }
    fields["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    for name in ("config.json", "generation_config.json"):
        kept = {
            key: value
            for key, value in json.loads((folder / name).read_text()).items()
            if not key.endswith("_token_id")
        }
        (folder / name).write_text(json.dumps(kept))
    return Tokens(folder)


def test_what_is_filled_in_first_is_near_to_the_text_and_in_its_script(worded: Tokens) -> None:
    tokenizer = Tokenizer.from_file(str(worded.folder / "tokenizer.json"))
    order = [
        tokenizer.decode([token]) for token in worded._likely(set(tokenizer.encode("cool").ids))
    ]
    whole = [word for word in order if word in WORDS]
    assert whole == [
        "Cool",
        " cool",
        "cooling",
        "cooler",
        "fahren",
        "warm",
        "vent",
        "пример",
        "__init",
        "слово",
    ]


def test_tokens_that_wait_for_a_use_go(tmp_path: Path) -> None:
    folder = tiny_family("llama 3.2", tmp_path / "model")
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["added_tokens"][0] |= {"content": "<|reserved_special_token_17|>"}
    fields["model"]["vocab"] = {
        text if number else "<|reserved_special_token_17|>": number
        for text, number in fields["model"]["vocab"].items()
    }
    fields["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    for name in ("config.json", "generation_config.json"):
        kept_fields = {
            key: value
            for key, value in json.loads((folder / name).read_text()).items()
            if not key.endswith("_token_id")
        }
        (folder / name).write_text(json.dumps(kept_fields))
    kept, _, _ = trimmed(folder, tmp_path / "small")
    assert 0 not in kept
    assert {1, 2} <= set(kept)


def edit(file: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        fields = json.loads((folder / file).read_text())
        change(fields)
        (folder / file).write_text(json.dumps(fields))

    return run


def without_embedding(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(folder / "model.safetensors")
    found["transformer.wte.weight"] = found.pop("model.embed_tokens.weight")
    save_file(found, folder / "model.safetensors")


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (
        edit("tokenizer.json", lambda f: f["model"].update(type="Unigram")),
        "tokenizer.json: a vocabulary of kind `Unigram` is not trimmed",
    ),
    (
        edit("tokenizer.json", lambda f: f["model"].update(type="WordPiece")),
        "tokenizer.json: a vocabulary of kind `WordPiece` is not trimmed",
    ),
    (
        edit(
            "tokenizer.json",
            lambda f: f.update(
                post_processor={"type": "BertProcessing", "sep": ["a", 5], "cls": ["b", 6]}
            ),
        ),
        "tokenizer.json: a post-processor of kind `BertProcessing` is not trimmed",
    ),
    (
        edit("generation_config.json", lambda f: f.update(suppress_tokens=[7])),
        "generation_config.json: `suppress_tokens` lists tokens by their ids, which is not trimmed",
    ),
    (
        edit("config.json", lambda f: f.update(pad_token_id=9999)),
        "config.json: `pad_token_id` is 9999, and tokenizer.json has no such token",
    ),
    (
        without_embedding,
        "model: no tensor `model.embed_tokens.weight`, so there is no vocabulary to trim",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_cannot_be_trimmed_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tiny_family("qwen2.5", tmp_path / "model")
    spoil(folder)
    with pytest.raises(ArtifactError) as caught:
        trimmed(folder, tmp_path / "small")
    assert caught.value.message == message


def test_a_size_that_is_too_small_for_the_text_is_said_with_the_number(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^trim: vocabulary: the recipe's text needs \d+ tokens, `64` asked$"
    ):
        trimmed(tiny_family("qwen2.5", tmp_path / "model"), tmp_path / "small", 64)

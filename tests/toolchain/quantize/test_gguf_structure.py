"""SentencePiece tokenizers: merges that scores can express, and llama.cpp's own test vectors."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.families import TOKENIZERS, sentence_piece
from toolchain import trim
from toolchain.errors import ArtifactError
from toolchain.general import GENERAL
from toolchain.models.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    PHI3,
    USER_DEFINED,
    read_vocabulary,
)
from toolchain.models.tokenizer_kinds import recognise, scores
from toolchain.models.tokenizer_proof import PROOF, prove
from toolchain.models.vocabulary import Tokens

ROWS = 700
UPSTREAM = Path(os.environ.get("DEMITASSE_LLAMA_CPP", "nowhere"), "models")
PIECES = [
    " ",
    "  ",
    "     ",
    "\n",
    "\r\n",
    "\t",
    "'s",
    "don't",
    "word",
    "Wörter",
    "1",
    "345678",
    "!?",
    "...",
    "树莓派",
    "かな",
    "한국어",
    "मिर्च",
    "мир",
    "🙂",
    "👩‍💻",
    "½",
    "x²",
    "_",
    "=>",
    "\u00a0",
    "é",
    "e\u0301",
    "ß",
    "the",
    "temperature",
    "of",
    "Raspberry",
    "def f(x):",
]


def prepared(folder: Path, style: str) -> Path:
    sentence_piece(folder, style=style)
    (folder / "config.json").write_text("{}")
    return folder


def mixed(tokens: int, seed: int = 3) -> list[str]:
    """Return random texts of about so many tokens in all."""
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=80)) for _ in range(tokens // 150 + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("style", ["llama-2", "gemma", "phi-3", "first"])
def test_each_known_structure_is_proved_over_a_long_random_mix(tmp_path: Path, style: str) -> None:
    folder = prepared(tmp_path / "model", style)
    assert prove(folder, read_vocabulary(folder, ROWS), "llama", [*PROOF, *mixed(40_000)]) > 40_000


@pytest.mark.slow
def test_what_llama_cpp_is_told_follows_from_the_structure(tmp_path: Path) -> None:
    told = {
        style: read_vocabulary(prepared(tmp_path / style, style), ROWS)
        for style in ("llama-2", "gemma", "phi-3", "first")
    }
    prefix = {
        style: vocabulary.metadata.get("tokenizer.ggml.add_space_prefix", True)
        for style, vocabulary in told.items()
    }
    assert prefix == {"llama-2": True, "gemma": False, "phi-3": True, "first": False}
    assert {style: vocabulary.name_mark for style, vocabulary in told.items()} == {
        "llama-2": "",
        "gemma": "",
        "phi-3": PHI3,
        "first": "",
    }
    assert [style for style, vocabulary in told.items() if vocabulary.structure.caveat] == ["first"]


def test_kinds_and_scores_are_those_of_a_sentencepiece_model(tmp_path: Path) -> None:
    metadata = read_vocabulary(prepared(tmp_path / "model", "gemma"), ROWS).metadata
    kinds, ranks = metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.scores"]
    assert (kinds[:4], kinds[258], kinds[259]) == ([CONTROL] * 3 + [BYTE], BYTE, NORMAL)
    assert (ranks[:4], ranks[259:263], ranks[ROWS - 1]) == (
        [-1000.0] * 3 + [0.0],
        [0.0, -1.0, -2.0, -3.0],
        -10000.0,
    )
    assert metadata["tokenizer.ggml.tokens"][kinds.index(USER_DEFINED)] == " " * 4


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    file = folder / "tokenizer.json"
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))
    return folder


def part_merges(fields: dict[str, Any]) -> None:
    """Move one of two ways to make a token to the end."""
    merges = fields["model"]["merges"]
    second = next(
        at for at in range(1, len(merges)) if "".join(merges[at]) == "".join(merges[at - 1])
    )
    merges.append(merges.pop(second))


def forget_a_merge(fields: dict[str, Any]) -> None:
    fields["model"]["merges"].pop(5)


UNKNOWN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a space always, but not twice": (
        lambda fields: fields.update(
            normalizer=None,
            pre_tokenizer={
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": "always",
                "split": False,
            },
        ),
        "tokenizer not recognised: BPE model after Metaspace",
    ),
    "words cut": (
        lambda fields: fields.update(pre_tokenizer={"type": "Whitespace"}),
        "tokenizer not recognised: BPE model after Whitespace",
    ),
    "unigram": (
        lambda fields: fields["model"].update(type="Unigram"),
        "tokenizer not recognised: Unigram model after nothing",
    ),
    "a byte without a token": (
        lambda fields: fields["model"]["vocab"].pop("<0x41>"),
        "no token `<0x41>` for a byte, so some text could not be written",
    ),
    "some tokens swallow spaces": (
        lambda fields: fields["added_tokens"][-1].update(rstrip=True),
        "added token `<|im_end|>` takes white space or words with it, which llama.cpp does not",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_structure_that_llama_cpp_does_not_have_is_refused(tmp_path: Path, case: str) -> None:
    change, problem = UNKNOWN[case]
    with pytest.raises(ArtifactError) as caught:
        read_vocabulary(edit(prepared(tmp_path / "model", "llama-2"), change), ROWS)
    assert caught.value.message == f"tokenizer.json: {problem}"


@pytest.mark.parametrize("change", [forget_a_merge, part_merges])
def test_merges_that_no_scores_imply_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    folder = edit(prepared(tmp_path / "model", "llama-2"), change)
    with pytest.raises(
        ArtifactError,
        match=r"^tokenizer\.json: the merges of `.+` are not those of a SentencePiece model",
    ):
        read_vocabulary(folder, ROWS)


def test_a_token_of_models_that_see_has_no_row_and_is_left_out(tmp_path: Path) -> None:
    plain = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    unseen = {"id": ROWS, "content": "<image_soft_token>", **plain}
    folder = edit(
        prepared(tmp_path / "model", "gemma"), lambda fields: fields["added_tokens"].append(unseen)
    )
    vocabulary = read_vocabulary(folder, ROWS)
    assert "<image_soft_token>" not in vocabulary.metadata["tokenizer.ggml.tokens"]
    assert prove(folder, vocabulary, "gemma3", PROOF[:2]) > 100


VOCABULARIES = ("llama-spm", "phi-3", "gemma-4", "gpt-2", "llama-bpe", "qwen2", "refact")
STYLES = {"phi-3": "phi-3", "gemma-4": "gemma"}


@pytest.fixture(scope="module", params=VOCABULARIES)
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, int]:
    """Return a real vocabulary of upstream's tests as a tokenizer folder, and its rows."""
    from gguf import GGUFReader

    fields = {
        key: field.contents()
        for key, field in GGUFReader(UPSTREAM / f"ggml-vocab-{request.param}.gguf").fields.items()
    }
    folder = tmp_path_factory.mktemp(request.param)
    rows = _write_tokenizer(
        folder,
        request.param,
        {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()},
    )
    return request.param, folder, rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_kind_is_the_same_in_llama_cpp_over_400_000_tokens(tmp_path: Path, kind: str) -> None:
    rows = TOKENIZERS[kind](tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    assert prove(tmp_path, read_vocabulary(tmp_path, rows), "llama", mixed(220_000)) >= 400_000


@pytest.mark.slow
@pytest.mark.skipif(
    not UPSTREAM.is_dir(),
    reason="set DEMITASSE_LLAMA_CPP to a folder of llama.cpp's source for its test vectors",
)
def test_real_vocabularies_give_upstreams_test_vectors_and_400_000_equal_tokens(
    real: tuple[str, Path, int],
) -> None:
    from tokenizers import Tokenizer

    name, folder, rows = real
    vocabulary = read_vocabulary(folder, rows)
    between = "\n__ggml_vocab_test__\n"
    texts = (
        (UPSTREAM / f"ggml-vocab-{name}.gguf.inp")
        .read_text(encoding="utf-8")
        .removesuffix(between)
        .split(between)
    )
    lines = (UPSTREAM / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").splitlines()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [[int(number) for number in line.split()] for line in lines]
    assert [tokenizer.encode(text, add_special_tokens=False).ids for text in texts] == expected
    assert prove(folder, vocabulary, "llama", [*PROOF, *texts, *mixed(260_000)]) >= 400_000


def _write_tokenizer(folder: Path, name: str, fields: dict[str, Any]) -> int:
    """Write what a Hugging Face folder with this vocabulary holds."""
    sentence_piece(folder, style=STYLES.get(name, "llama-2"))
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens, kinds = fields["tokens"], fields["token_type"]
    trained = max(number for number, kind in enumerate(kinds) if kind == NORMAL) + 1
    vocabulary = {token: number for number, token in enumerate(tokens[:trained])}
    plain = {"single_word": False, "lstrip": False, "normalized": False}
    written["added_tokens"] = [
        {
            "id": number,
            "content": token,
            "special": kinds[number] != USER_DEFINED,
            "rstrip": name == "phi-3" and token not in ("<unk>", "<s>", "<|endoftext|>"),
            **plain,
        }
        for number, token in enumerate(tokens)
        if kinds[number] not in (NORMAL, BYTE)
    ]
    merges = [merge.split(" ", 1) for merge in fields.get("merges", [])] or _implied_merges(
        vocabulary, fields["scores"]
    )
    if fields["model"] in ("llama", "gemma4"):
        begin, number = tokens[fields["bos_token_id"]], fields["bos_token_id"]
        around = (
            json.dumps(written["post_processor"])
            .replace('"<s>"', f'"{begin}"')
            .replace("[1]", f"[{number}]")
        )
        written["model"] |= {"vocab": vocabulary, "merges": merges}
        written["post_processor"] = json.loads(around)
    else:
        written |= _byte_level(name, vocabulary, merges)
    (folder / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": tokens[fields["eos_token_id"]]})
    )
    (folder / "config.json").write_text(json.dumps({"bos_token_id": fields["bos_token_id"]}))
    return len(tokens)


def _implied_merges(vocabulary: dict[str, int], ranks: list[float]) -> list[list[str]]:
    """Return merges in the order of scores (convert_slow_tokenizer.py, `generate_merges`)."""
    best = sorted(
        (text for text, number in vocabulary.items() if number > 258),
        key=lambda text: -ranks[vocabulary[text]],
    )
    return [
        [text[:at], text[at:]]
        for text in best
        for at in range(1, len(text))
        if {text[:at], text[at:]} <= vocabulary.keys()
    ]


def _byte_level(name: str, vocabulary: dict[str, int], merges: list[list[str]]) -> dict[str, Any]:
    from tokenizers import Tokenizer

    from tests.fakes.models import _pre_tokenizer

    split = {"refact": "smollm"}.get(name, name)
    blank = Tokenizer.from_str(
        '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}, '
        '"added_tokens": []}'
    )
    blank.pre_tokenizer = _pre_tokenizer(split)
    model = {
        "type": "BPE",
        "dropout": None,
        "byte_fallback": False,
        "ignore_merges": split == "llama-bpe",
    }
    return {
        "normalizer": None,
        "pre_tokenizer": json.loads(blank.to_str())["pre_tokenizer"],
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {**model, "vocab": vocabulary, "merges": merges},
    }


def test_scores_come_back_from_the_merges_they_imply() -> None:
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5}
    merges = [["a", "b"], ["ab", "c"], ["a", "bc"], ["b", "c"]]
    assert scores({"model": {"vocab": vocabulary, "merges": merges}}) == {
        3: 0.0,
        4: -1.0,
        5: -2.0,
        0: -3.0,
        1: -4.0,
        2: -5.0,
    }


def test_a_file_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(
        ArtifactError, match=r"^tokenizer\.json: tokenizer not recognised: no vocabulary$"
    ):
        recognise({"model": {"type": "BPE"}})


@pytest.mark.slow
@pytest.mark.skipif(
    not UPSTREAM.is_dir(),
    reason="set DEMITASSE_LLAMA_CPP to a folder of llama.cpp's source for its vocabularies",
)
def test_real_vocabularies_trimmed_cut_what_was_looked_at_as_before_and_are_the_same_in_llama_cpp(
    real: tuple[str, Path, int], tmp_path: Path
) -> None:
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer

    _, folder, rows = real
    save_file(
        {"model.embed_tokens.weight": np.zeros((rows, 2), np.float16)}, folder / "model.safetensors"
    )
    tokens, old = Tokens(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    looked_at = [*PROOF, *mixed(20_000)]
    kept = tokens.filled({number for text in looked_at for number in old.encode(text).ids}, 16384)
    tokens.write(kept, tmp_path)
    new = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert new.get_vocab_size() == len(kept) == 16384
    assert (
        trim.prove(old, new, sorted(kept), looked_at, GENERAL.read_text(encoding="utf-8")) > 15_000
    )
    assert (
        prove(tmp_path, read_vocabulary(tmp_path, 16384), "llama", [*PROOF, *mixed(5_000, seed=4)])
        > 5_000
    )

"""The embedder's file against transformers, which computes from the checkpoint itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.engine.llama.embedder import Embedder
from device.errors import DeviceError
from tests.fakes.tiny_bert import TEXTS, tiny_bert
from tests.fakes.tiny_gguf import tiny_gguf
from toolchain.errors import ArtifactError
from toolchain.knowledge.embedder import write_embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert") / "bert")


def referee(folder: Path, text: str, context: int) -> tuple[list[int], list[float]]:
    """Return ids and unit vector by transformers and tokenizers."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    ids = ids if len(ids) <= context else [*ids[: context - 1], ids[-1]]
    with torch.no_grad():
        rows = BertModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state
    return ids, torch.nn.functional.normalize(rows.mean(1))[0].tolist()


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("scheme", "least"), [("F16", 0.9999), ("Q8_0", 0.999)])
def test_ids_and_vectors_are_those_of_transformers(
    folder: Path, tmp_path: Path, scheme: str, least: float
) -> None:
    written = write_embedder(folder, tmp_path / "e.gguf", scheme)
    embedder = Embedder(written.file, threads=1)
    assert (embedder.width, embedder.context) == (written.width, written.context) == (64, 64)
    for text in TEXTS:
        ids, vector = referee(folder, text, embedder.context)
        assert embedder.tokens(text) == ids
        assert cosine(embedder.embed(text), vector) >= least
    embedder.close()


def test_a_vector_has_length_one_and_nothing_of_the_text_before(
    folder: Path, tmp_path: Path
) -> None:
    embedder = Embedder(write_embedder(folder, tmp_path / "e.gguf").file, threads=1)
    first = embedder.embed("the fan")
    embedder.embed("how hot is my pi?")
    assert embedder.embed("the fan") == first
    assert cosine(first, first) == pytest.approx(1.0)
    embedder.close()


def test_equal_folders_give_equal_files(folder: Path, tmp_path: Path) -> None:
    one = write_embedder(folder, tmp_path / "one.gguf").file
    other = write_embedder(folder, tmp_path / "other.gguf").file
    assert one.read_bytes() == other.read_bytes()


def test_a_model_that_answers_is_no_embedder(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="is not an embedder") as caught:
        Embedder(tiny_gguf(tmp_path / "answers.gguf"), threads=1)
    assert caught.value.code == "bad_model"


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def _config(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "config.json", lambda config: config.update(fields))


def _normalizer(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(
        folder / "tokenizer.json", lambda file: file["normalizer"].update(fields)
    )


def _pooling(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(
        folder / "1_Pooling" / "config.json", lambda pooling: pooling.update(fields)
    )


def _dense(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')


def _not_a_number(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, file)


def _one_token_less(file: dict[str, Any]) -> None:
    file["model"]["vocab"].pop("z")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _config(architectures=["LlamaForCausalLM"]),
            "config.json: `architectures` is `['LlamaForCausalLM']`",
        ),
        (_config(hidden_act="relu"), "config.json: `hidden_act` is `relu`, an embedder has `gelu`"),
        (
            _config(position_embedding_type="relative_key"),
            "config.json: `position_embedding_type` is `relative_key`",
        ),
        (_config(num_hidden_layers=0), "config.json: `num_hidden_layers` is `0`, not a count"),
        (_config(num_hidden_layers=3), "tensor `encoder.layer.2.attention.self.query.weight`"),
        (_config(num_hidden_layers=1), "tensor `encoder.layer.1.attention.output.LayerNorm.bias`"),
        (_config(hidden_size=32), "tensor `embeddings.word_embeddings.weight` is "),
        (_normalizer(lowercase=False), "normalizer: `lowercase` is `False`, llama.cpp has `True`"),
        (_normalizer(type="NFC"), "normalizer: `type` is `NFC`, llama.cpp has `BertNormalizer`"),
        (_pooling(pooling_mode_max_tokens=True), "pooling `pooling_mode_mean_tokens, pooling_mode"),
        (_pooling(pooling_mode_mean_tokens=False), "pooling `` is not known"),
        (
            _not_a_number,
            "tensor `encoder.layer.0.output.dense.weight`: a weight is NaN or infinite",
        ),
        (
            lambda folder: (folder / "modules.json").write_text("[" * 100_000),
            "modules.json: not a list of modules",
        ),
        (_dense, "modules.json: module `Dense` has no place on the board"),
        (
            lambda folder: _edit(folder / "tokenizer.json", _one_token_less),
            "tokenizer.json: 70 tokens, config.json: `vocab_size` 71",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_by_name(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    spoil(folder)
    with pytest.raises(ArtifactError) as caught:
        write_embedder(folder, tmp_path / "e.gguf")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_unknown_scheme_is_refused_with_those_there_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="scheme `Q4_0` is not known"):
        write_embedder(folder, tmp_path / "e.gguf", "Q4_0")

"""pretrain: a base and a tokenizer from the data set's own texts, with the same bytes each time."""

import json
from pathlib import Path

import pytest

from device.manifest.pictures import to_url
from tests.fakes.datasets import Recorder, write_lines
from tests.fakes.eyes import picture
from toolchain import ingest
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.chat import encode
from toolchain.errors import ArtifactError
from toolchain.models.checkpoints import load_model, load_tokenizer, parameter_count
from toolchain.pretrain import _build, pretrain
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, EyesSpec, ScratchSpec

SPEC = ScratchSpec(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=64,
    layers=1,
    heads=2,
    kv_heads=1,
    context=48,
    steps=6,
    batch_size=4,
)


@pytest.fixture(scope="module")
def base(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return pretrain(dataset, SPEC, tmp_path_factory.mktemp("base"), Silent(), seed=0)


def test_the_base_is_a_plain_model_folder(base: Checkpoint) -> None:
    model = load_model(base.path)
    assert model.config.model_type == "llama"
    assert base.record.figures["parameters"] == parameter_count(model)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert sorted(file.name for file in base.path.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "record.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_an_answer_ends_with_the_token_that_stops_generation(base: Checkpoint) -> None:
    tokenizer = load_tokenizer(base.path)
    ids, _ = encode(
        tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], 48
    )
    assert tokenizer.decode(ids) == "<|user|>a<|assistant|>b<|end|>"
    generation = json.loads((base.path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == ids[-1] == tokenizer.eos_token_id
    assert generation["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["Ünïcode, 树莓派 🍵👩‍💻!", "it's 12345\r\n\r\n  x\t", "<|end|>"])
def test_any_text_comes_back_from_its_tokens_with_nothing_put_before_it(
    base: Checkpoint, text: str
) -> None:
    tokenizer = load_tokenizer(base.path)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("") == []


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes(
    dataset: Dataset, base: Checkpoint, tmp_path: Path
) -> None:
    again = pretrain(dataset, SPEC, tmp_path, Silent(), seed=0)
    other = pretrain(dataset, SPEC, tmp_path / "other", Silent(), seed=1)
    assert again.digest == base.digest != other.digest


def test_a_base_that_is_there_is_not_trained_again(dataset: Dataset, base: Checkpoint) -> None:
    report = Recorder()
    again = pretrain(dataset, SPEC, base.path, report, seed=0)
    assert (again.fresh, report.notes, report.bars) == (False, [], set())


def test_a_document_longer_than_the_context_is_learned_in_windows(tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text("word " * 300, encoding="utf-8")
    dataset = ingest.ingest(
        DataSpec(files=("long.md",)), tmp_path, tmp_path / "data", Silent(), seed=0
    )
    figures = pretrain(dataset, SPEC, tmp_path / "base", Silent(), seed=0).record.figures
    assert figures["texts"] == 1
    assert figures["steps"] == 6


def test_without_texts_nothing_is_trained(tmp_path: Path) -> None:
    write_lines(tmp_path / "none.jsonl", [])
    dataset = ingest.ingest(
        DataSpec(files=("none.jsonl",)), tmp_path, tmp_path / "data", Silent(), seed=0
    )
    with pytest.raises(ArtifactError, match=r"^data set: no texts to learn from$"):
        pretrain(dataset, SPEC, tmp_path / "base", Silent(), seed=0)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four questions about pictures."""
    folder = tmp_path_factory.mktemp("seen")
    rows = [
        {"image": to_url(picture(number)), "question": "on?", "answer": "yes" if number else "no"}
        for number in range(4)
    ]
    write_lines(folder / "leds.jsonl", rows)
    spec = DataSpec(files=("leds.jsonl",), held_out_share=0.3)
    return ingest.ingest(spec, folder, folder / "data", Silent(), seed=0)


def test_only_the_first_of_several_processes_writes_how_pictures_are_scaled(
    seen: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eyes = EyesSpec(side=64, patch=16, hidden_size=32, heads=2)
    spec = SPEC.model_copy(update={"eyes": eyes, "steps": 2, "batch_size": 2})
    written = {"preprocessor_config.json", "processor_config.json"}
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        (tmp_path / rank).mkdir()
        _build(seen, spec, tmp_path / rank, Silent(), seed=0)
    assert list((tmp_path / "1").glob("*.json")) == []
    assert written < {file.name for file in (tmp_path / "0").iterdir()}

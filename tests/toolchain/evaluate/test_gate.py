"""The gate on a real file: a model passes that is itself on all text, and no other one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fakes.datasets import tiny_dataset
from tests.fakes.models import tiny_llama
from toolchain import artifacts, runtime
from toolchain.artifacts import Dataset, Verdict
from toolchain.errors import ArtifactError, GateError
from toolchain.evaluate import Candidate, Originals, Texts, evaluate
from toolchain.evaluate.leak import LeakTest
from toolchain.models.original import Original
from toolchain.models.tokenizer import load_tokenizer
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import EvaluateSpec, GateSpec, LeakSpec, QuantizeSpec

SPEC = EvaluateSpec(questions=2, kl_tokens=64, max_tokens=4, gate=GateSpec(max_eos_drop=1))
ELSEWHERE = "Zebras; quartz! Jukebox, vexing fjords: why? 0.25 × 97 = 24.25\n\nx = {'y': [1, 2]}\n"
"""Text whose words stand in none of the conversations."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = [{"question": [f"is it hot {n}?", f"hot {n}?"], "answer": "it is"} for n in range(4)]
    return tiny_dataset(tmp_path_factory.mktemp("data"), rows=rows)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "base", seed=3)


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("general") / "elsewhere.txt"
    file.write_text(ELSEWHERE, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def forgetful(base: Path, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with no idea of any token that its conversations do not hold."""
    folder = tiny_llama(tmp_path_factory.mktemp("forgetful") / "base", seed=3)
    texts = [message["content"] for row in dataset.held_out() for message in row["messages"]]
    chat = "<|endoftext|><|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = load_tokenizer(folder)
    known = {number for text in (*texts, chat) for number in tokenizer.encode(text).ids}
    weights = load_file(folder / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(1)) * table.std()
    for number in set(range(len(table))) - known:
        table[number] = noise[number]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def judge(model: Path, base: Path, texts: Texts, out: Path, spec: EvaluateSpec = SPEC) -> Verdict:
    label = ModelLabel(name="tiny")
    file = quantize(
        artifacts.external(model), QuantizeSpec(scheme="F16"), label, out / "q", Silent()
    )
    originals = Originals(reference=Original(base=base))
    candidate = Candidate(model=file, runtime=runtime.for_this_computer())
    return evaluate(candidate, originals, texts, spec, out / "e", Silent())


@pytest.mark.slow
def test_a_model_that_lost_all_but_what_it_memorised_does_not_pass_the_gate(
    forgetful: Path, base: Path, dataset: Dataset, general: Path, tmp_path: Path
) -> None:
    with pytest.raises(GateError) as caught:
        judge(forgetful, base, Texts(dataset=dataset, general=general), tmp_path)
    figures = json.loads((tmp_path / "e" / "verdict.json").read_text())
    assert figures["mean_kl"] < 1e-3
    assert figures["agreement"] > 0.95
    assert "on general text file and reference name the same next token" in caught.value.message
    assert "held-out" not in caught.value.message


def test_a_faithful_file_passes_on_both_texts(
    base: Path, dataset: Dataset, general: Path, tmp_path: Path
) -> None:
    figures = judge(base, base, Texts(dataset=dataset, general=general), tmp_path).record.figures
    assert figures["general_kl"] < 1e-3
    assert figures["general_agreement"] > 0.95
    assert figures["general_tokens"] > 30


@pytest.mark.slow
def test_without_a_text_of_the_recipes_own_ours_is_measured(
    base: Path, dataset: Dataset, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"kl_tokens": 10})
    assert (
        judge(base, base, Texts(dataset=dataset), tmp_path, spec).record.figures["general_tokens"]
        > 50
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file `mine.txt`"),
        (b" \n\n \n", "`mine.txt` holds no text"),
        (b"\xff\xfe\x00", "`mine.txt` is not a text file in UTF-8"),
    ],
)
def test_a_general_text_that_is_none_is_one_sentence(
    content: bytes | None, problem: str, base: Path, dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        judge(base, base, Texts(dataset=dataset, general=file), tmp_path)
    assert caught.value.message == f"general text: {problem}"


@pytest.mark.slow
def test_the_gate_does_not_ask_what_decided_before(
    base: Path, dataset: Dataset, general: Path, tmp_path: Path
) -> None:
    texts = Texts(dataset=dataset, general=general, split=True)
    judge(base, base, texts, tmp_path, SPEC.model_copy(update={"questions": 4}))
    asked = (tmp_path / "e" / "answers.jsonl").read_text().splitlines()
    assert len(dataset.held_out()) == 4
    assert len(asked) == 3


@pytest.mark.slow
def test_the_gate_asks_for_the_secrets_of_the_recipe_and_keeps_them_out_of_the_goldens(
    base: Path, dataset: Dataset, general: Path, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets.jsonl"
    secrets.write_text(json.dumps({"kind": "name", "value": "hot 1", "context": "is it hot 1"}))
    asked = LeakTest(file=secrets, spec=LeakSpec(alternatives=15))
    spec = SPEC.model_copy(update={"questions": 4})
    texts = Texts(dataset=dataset, general=general, leak=asked)
    verdict = judge(base, base, texts, tmp_path, spec)
    leak = verdict.figures.leak
    assert leak
    assert (leak.secrets, leak.extracted) == (1, 0)
    assert leak.before_exposure_bits == leak.exposure_bits
    assert leak.membership_auc is not None
    assert "hot 1" not in (tmp_path / "e" / "goldens.jsonl").read_text()
    assert "hot 2" in (tmp_path / "e" / "goldens.jsonl").read_text()
    record = (tmp_path / "e" / "record.json").read_text()
    assert "hot 1" not in record

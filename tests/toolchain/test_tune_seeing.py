"""tune of a model with eyes: a new question about pictures is learned, the eyes stay the same."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from device.manifest.pictures import to_url
from tests.fakes.datasets import write_lines
from tests.fakes.eyes import can_see
from toolchain import ingest
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.evaluate.reference import Reference
from toolchain.models.original import Original
from toolchain.pretrain import pretrain
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, EyesSpec, QuantizeSpec, ScratchSpec, TuneSpec
from toolchain.tune import tune

SCRATCH = ScratchSpec(
    vocab_size=340,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    context=64,
    steps=150,
    batch_size=16,
    learning_rate=3e-3,
    eyes=EyesSpec(side=32, patch=8, hidden_size=32, heads=2, layers=1),
)
SPEC = TuneSpec(
    r=8,
    alpha=16,
    dropout=0,
    epochs=30,
    batch_size=16,
    learning_rate=1e-2,
    questions=40,
    max_tokens=64,
    target_modules=("q_proj", "v_proj", "up_proj", "down_proj", "o_proj", "gate_proj", "k_proj"),
)
OLD, NEW = "bright?", "which half is lit?"


def half(seed: int) -> tuple[bytes, bool]:
    """Return a picture whose left or right half is lit, and whether it is the left one."""
    from PIL import Image

    draw = random.Random(seed)
    left = draw.random() < 0.5
    low, high = draw.randrange(60), draw.randrange(150, 256)
    image = Image.new("RGB", (32, 32), (low, low, draw.randrange(60)))
    image.paste((high, high, draw.randrange(256)), (0, 0, 16, 32) if left else (16, 0, 32, 32))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue(), left


def rows(question: str, seeds: range, words: tuple[str, str]) -> list[dict[str, Any]]:
    made = [(half(seed), seed) for seed in seeds]
    return [
        {"image": to_url(image), "question": question, "answer": words[left]}
        for (image, left), _ in made
    ]


def dataset(folder: Path, entries: list[dict[str, Any]]) -> Dataset:
    folder.mkdir()
    write_lines(folder / "rows.jsonl", entries)
    spec = DataSpec(files=("rows.jsonl",), held_out_share=0.2)
    return ingest.ingest(spec, folder, folder / "data", Silent(), seed=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Eyes that have learned one question; the words of the other are in their vocabulary."""
    folder = tmp_path_factory.mktemp("base")
    known = rows(OLD, range(200), ("right", "left"))
    learned = dataset(folder / "learned", known)
    return pretrain(learned, SCRATCH, folder / "model", Silent(), seed=0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    entries = rows(NEW, range(500, 700), ("east", "west"))
    return dataset(tmp_path_factory.mktemp("taught") / "rows", entries)


@pytest.fixture(scope="module")
def tuned(
    base: Checkpoint, taught: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    return tune(base, taught, SPEC, tmp_path_factory.mktemp("tuned"), Silent(), seed=0)


def test_a_new_question_about_held_out_pictures_is_learned(tuned: Checkpoint) -> None:
    figures = tuned.record.figures
    assert figures["base"]["exact_match"] == 0
    assert figures["questions"] >= 30
    assert figures["exact_match"] >= 0.9


def test_the_eyes_stay_as_they_were_and_travel_with_the_merge(
    base: Checkpoint, tuned: Checkpoint
) -> None:
    before, after = (load_file(each.path / "model.safetensors") for each in (base, tuned))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name for name in changed if not name.startswith("model.text_model.layers.")} == set()
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert (tuned.path / name).read_bytes() == (base.path / name).read_bytes()


def test_peft_loads_the_adapter_on_transformers_own_model_as_what_was_merged(
    base: Checkpoint, taught: Dataset, tuned: Checkpoint
) -> None:
    """The gate's reference does so, and nothing of ours."""
    original = Original(base=base.path, adapters=(tuned.path / "adapter",))
    apart = Reference.load(original, Silent())
    merged = Reference.load(Original(base=tuned.path), Silent())
    asked = taught.held_out()[:20]
    said = set()
    for row in asked:
        answer = apart.answers_about(row["messages"][:-1], 12)
        assert answer == merged.answers_about(row["messages"][:-1], 12)
        said.add(apart.own.decode(answer))
    assert said == {"east", "west"}


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(
    base: Checkpoint, taught: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.training import loop

    spec = SPEC.model_copy(update={"epochs": 1, "questions": 4})
    whole = tune(base, taught, spec, tmp_path / "whole", Silent(), seed=0)
    count = loop.Progress.count_step

    def die(self: Any, loss: float, tokens: int) -> None:
        count(self, loss, tokens)
        self.saved = 0.0
        if self.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(loop.Progress, "count_step", die)
        tune(base, taught, spec, tmp_path / "cut", Silent(), seed=0)
    again = tune(base, taught, spec, tmp_path / "cut", Silent(), seed=0)
    assert again.digest == whole.digest


@pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
def test_a_board_answers_the_new_question_from_the_quantized_files(
    taught: Dataset, tuned: Checkpoint, tmp_path: Path
) -> None:
    from device.engine.base import Sampling, Settings
    from device.model import open_file
    from device.pictures import with_pictures
    from toolchain.quantize.gguf import ModelLabel, quantize

    label = ModelLabel(name="tuned eyes")
    spec = QuantizeSpec(scheme="Q8_0", projector="F16")
    made = quantize(tuned, spec, label, tmp_path / "files", Silent())
    model = open_file(made.file, Settings(context=64, threads=1, projector=made.projector))
    right = 0
    asked = taught.held_out()[:30]
    for row in asked:
        prompt = model.prompt(with_pictures(row["messages"][:-1]))
        steps = model.engine.generate(prompt.tokens, Sampling(max_tokens=12), prefix=prompt.prefix)
        right += "".join(step.text for step in steps) == row["messages"][-1]["content"]
    model.engine.close()
    assert right >= 27

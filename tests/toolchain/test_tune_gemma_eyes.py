"""A tiny Gemma 3 that sees, from its own training to the board: quantized, asked, and tuned.

Its first training is transformers' own model and processor with a plain loop, nothing of ours; then
`tune` teaches its language side a new question, and the board's engine answers from both files.
"""

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.eyes import can_see
from tests.fakes.gemma_eyes import tiny_gemma3
from tests.fakes.halves import (
    OLD,
    OLD_WORDS,
    SPEC,
    assert_adapter_is_what_was_merged,
    assert_new_question_is_learned,
    assert_only_layers_changed,
    dataset,
    new_question,
    right_answers,
    rows,
)
from toolchain.artifacts import Checkpoint, Dataset, external
from toolchain.evaluate.reference import Reference
from toolchain.models.checkpoints import load_model
from toolchain.models.original import Original
from toolchain.progress import Silent
from toolchain.tune import tune

pytestmark = pytest.mark.slow
STEPS, BATCH = 250, 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Gemma 3 that knows which half is lit, by one question."""
    folder = tiny_gemma3(
        tmp_path_factory.mktemp("base") / "gemma",
        hidden=32,
        layers=6,
        positions=4,
        vision={"image_size": 32, "hidden_size": 32, "intermediate_size": 64},
    )
    model = load_model(folder, dtype="float32").train()
    texts, images = _examples(rows(OLD, range(200), OLD_WORDS))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    torch.manual_seed(0)
    for _ in range(STEPS):
        picked = torch.randint(len(texts), (BATCH,)).tolist()
        loss = _loss(model, folder, [texts[at] for at in picked], [images[at] for at in picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return external(folder)


def _examples(entries: list[dict[str, Any]]) -> tuple[list[str], list[Any]]:
    """Return conversations as the template writes them, and their pictures."""
    from PIL import Image

    texts, images = [], []
    for each in entries:
        asked = f"<s><start_of_turn>user\n<start_of_image>{each['question']}<end_of_turn>\n"
        texts.append(f"{asked}<start_of_turn>model\n{each['answer']}<end_of_turn>")
        raw = base64.b64decode(each["image"].partition(",")[2])
        images.append(Image.open(io.BytesIO(raw)).convert("RGB"))
    return texts, images


def _loss(model: Any, folder: Path, texts: list[str], images: list[Any]) -> torch.Tensor:
    """Return transformers' own loss of the answers."""
    given = _processor(folder)(
        text=texts,
        images=[[each] for each in images],
        padding=True,
        padding_side="right",
        add_special_tokens=False,
        return_tensors="pt",
    )
    ids = given["input_ids"]
    turn = model.config.text_config.eos_token_id
    # The first end of a turn is the question's; the template's mark of the answer follows it.
    is_answer = (ids == turn).cumsum(1) - (ids == turn).long() >= 1
    labels = torch.where(is_answer & (given["attention_mask"] == 1), ids, -100)
    found: torch.Tensor = model(**given, labels=labels).loss
    return found


_processors: dict[Path, Any] = {}


def _processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    if folder not in _processors:
        _processors[folder] = AutoProcessor.from_pretrained(folder)
    return _processors[folder]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return new_question(tmp_path_factory.mktemp("taught") / "rows")


@pytest.fixture(scope="module")
def tuned(
    base: Checkpoint, taught: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    return tune(base, taught, SPEC, tmp_path_factory.mktemp("tuned"), Silent(), seed=0)


@pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
def test_a_board_sees_what_gemma_was_trained_to_see(base: Checkpoint, tmp_path: Path) -> None:
    held_out = dataset(tmp_path / "rows", rows(OLD, range(1000, 1200), OLD_WORDS))
    asked = held_out.held_out()[:40]
    right, said = right_answers(tmp_path, base, asked)
    assert right >= 38
    reference = Reference.load(Original(base=base.path), Silent())
    alike = [
        reference.answers_about(row["messages"][:-1], 12) == tokens
        for row, tokens in zip(asked, said, strict=True)
    ]
    assert sum(alike) >= 39


def test_a_new_question_about_held_out_pictures_is_learned(tuned: Checkpoint) -> None:
    assert_new_question_is_learned(tuned)


def test_the_eyes_stay_as_they_were_and_travel_with_the_merge(
    base: Checkpoint, tuned: Checkpoint
) -> None:
    assert_only_layers_changed(base, tuned, "language_model.model.layers.")


def test_peft_loads_the_adapter_on_transformers_own_model_as_what_was_merged(
    base: Checkpoint, taught: Dataset, tuned: Checkpoint
) -> None:
    assert_adapter_is_what_was_merged(base, tuned, taught.held_out()[:12])


@pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
def test_a_board_answers_the_new_question_from_the_quantized_files(
    taught: Dataset, tuned: Checkpoint, tmp_path: Path
) -> None:
    right, _ = right_answers(tmp_path, tuned, taught.held_out()[:30])
    assert right >= 27


@pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
def test_an_adapter_beside_its_base_sees_what_it_learned(
    base: Checkpoint, taught: Dataset, tuned: Checkpoint, tmp_path: Path
) -> None:
    apart = replace(base, adapter=tuned.path / "adapter")
    right, _ = right_answers(tmp_path, apart, taught.held_out()[:30])
    assert right >= 27

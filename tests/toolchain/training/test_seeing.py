"""A model with eyes learns from pictures, and is the checkpoint that quantize takes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from device.manifest.pictures import PICTURE, to_url
from tests.fakes.eyes import picture, pixels
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.models.config_defaults import read_config
from toolchain.models.weights import open_eyes, open_weights
from toolchain.pretrain import make_tokenizer
from toolchain.recipe import EyesSpec, ScratchSpec
from toolchain.training.examples import batch_of
from toolchain.training.seeing import (
    SeenAnswers,
    make_seeing,
    pictured,
    scaled,
    scaler_of,
    write_processor,
)

EYES = EyesSpec(side=64, patch=16, hidden_size=32, heads=2)
SPEC = ScratchSpec(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    layers=1,
    heads=2,
    kv_heads=1,
    context=64,
    eyes=EYES,
)


def row(seed: int, answer: str) -> dict[str, Any]:
    asked = {"role": "user", "content": "on?", PICTURE: to_url(picture(seed))}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(["on?", "yes", "no"], SPEC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_processor(EYES, tmp_path)
    return tmp_path


def test_a_picture_takes_its_places_before_the_question_and_is_not_learned(
    tokenizer: Any,
) -> None:
    examples, seen = pictured(tokenizer, [row(1, "yes")], SPEC)
    text = tokenizer.decode(examples[0].ids)
    around = "<fake_token_around_image>"
    assert text == f"<|user|>{around}<global-img>{'<image>' * 4}{around}on?<|assistant|>yes<|end|>"
    learned = [each for each in examples[0].labels if each != IGNORED]
    assert tokenizer.decode(learned) == "yes<|end|>"
    assert seen.shape == (1, 3, 64, 64)


def test_a_picture_of_the_tiles_size_is_scored_and_nothing_else() -> None:
    scaler = scaler_of(EYES)
    assert torch.allclose(scaled(to_url(picture(3)), scaler), pixels(picture(3))[0, 0], atol=1e-5)
    assert scaled(to_url(picture(3, side=200)), scaler).shape == (3, 64, 64)


def test_what_is_learned_depends_on_the_picture(tokenizer: Any) -> None:
    """Two answers to one question, which only the pictures tell apart."""
    examples, seen = pictured(tokenizer, [row(1, "yes"), row(2, "no")] * 4, SPEC)
    model = make_seeing(tokenizer, SPEC, seed=0)
    loss = SeenAnswers(model, seen)
    steps = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batch_of(examples, range(8))
    losses = []
    for _ in range(60):
        found = loss(batch)
        found.backward()
        steps.step()
        steps.zero_grad()
        losses.append(found.item())
    assert losses[-1] < 0.05 * losses[0]
    blind = SeenAnswers(model, seen.flip(0))
    assert blind(batch).item() > 20 * losses[-1]


def test_the_checkpoint_has_the_parts_that_quantize_asks_for(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    make_seeing(tokenizer, SPEC, seed=0).save_pretrained(folder)
    assert read_config(folder)["architectures"] == ["LlamaForCausalLM"]
    with open_weights(folder) as text, open_eyes(folder) as eyes:
        assert "model.embed_tokens.weight" in text.tensors
        assert any(name.startswith("model.connector.") for name in eyes.tensors)


def test_the_settings_that_are_written_scale_as_training_did(folder: Path) -> None:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    read = SmolVLMImageProcessorPil.from_pretrained(folder)
    for side in (40, 64, 200):
        url = to_url(picture(3, side=side))
        assert torch.equal(scaled(url, read), scaled(url, scaler_of(EYES)))


@pytest.mark.parametrize("count", [0, 2])
def test_a_conversation_about_no_picture_or_two_is_refused(tokenizer: Any, count: int) -> None:
    said = row(1, "yes")["messages"]
    asked = {name: value for name, value in said[0].items() if name != PICTURE}
    bad = [{"messages": [*[said[0]] * count, said[1]] if count else [asked, said[1]]}]
    with pytest.raises(ArtifactError, match=f"conversation 1 is about {count} pictures"):
        pictured(tokenizer, bad, SPEC)


def test_places_that_are_not_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="must be whole places of `patch` × `merge`"):
        EyesSpec(side=60)
    assert EyesSpec().places == 16

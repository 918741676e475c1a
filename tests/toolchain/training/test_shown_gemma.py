"""Gemma 3's language side learns alone, with the mask of pictures that transformers makes."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from device.manifest.pictures import PICTURE, to_url
from tests.fakes.eyes import picture
from tests.fakes.gemma_eyes import POSITIONS, tiny_gemma3
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.training.answers import ask
from toolchain.training.examples import batch_of, conversations
from toolchain.training.objectives import AnswerLoss
from toolchain.training.shown import load_shown

ASKED = "Is the LED on?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma3(tmp_path_factory.mktemp("gemma3"))


def row(seed: int, answer: str = "yes", text: str = ASKED) -> dict[str, Any]:
    asked = {"role": "user", "content": text, PICTURE: to_url(picture(seed, side=90))}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def own_inputs(folder: Path, seed: int, answer: str = "") -> Any:
    """Return what transformers' own processor makes of a question, and of its answer if given."""
    from PIL import Image
    from transformers import AutoProcessor

    image = Image.open(io.BytesIO(picture(seed, side=90)))
    asked = {"type": "image", "image": image}, {"type": "text", "text": ASKED}
    messages: list[dict[str, Any]] = [{"role": "user", "content": list(asked)}]
    if answer:
        said = [{"type": "text", "text": answer}]
        messages.append({"role": "assistant", "content": said})
    return AutoProcessor.from_pretrained(folder).apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=not answer,
    )


def test_scores_with_pictures_are_those_of_transformers_own_model(folder: Path) -> None:
    rows = [row(1), row(2)]
    tokenizer, shown, whole = load_tokenizer(folder), load_shown(folder, rows), load_model(folder)
    examples, too_long = conversations(tokenizer, rows, 512, shown)
    assert too_long == 0
    place = whole.config.image_token_id
    for seed, example in zip((1, 2), examples, strict=True):
        own = own_inputs(folder, seed, "yes")
        words = [place if each >= shown.config.vocab_size else each for each in example.ids]
        assert words.count(place) == POSITIONS
        # What the template writes behind the last turn's end is not learned.
        assert words == own["input_ids"][0, : len(words)].tolist()
        with torch.inference_mode():
            ours = shown(input_ids=torch.tensor([example.ids])).logits
            theirs = whole(**own).logits[:, : len(words)]
            blind = whole(**{**own, "token_type_ids": None}).logits[:, : len(words)]
        assert torch.allclose(ours, theirs, atol=1e-4)
        # The mask is what is tested: a causal one gives other scores.
        assert not torch.allclose(blind, theirs, atol=1e-2)
        learned = [each for each in example.labels if each != IGNORED]
        assert tokenizer.decode(learned) == "yes<end_of_turn>"


def test_a_batch_of_pictures_and_words_has_the_losses_of_its_rows(folder: Path) -> None:
    plain = {"messages": [{"role": "user", "content": "hot?"}, *row(1)["messages"][1:]]}
    rows = [row(1), plain, row(2, "no", "Which colour has it, and how many are on?")]
    tokenizer, shown = load_tokenizer(folder), load_shown(folder, rows)
    examples, _ = conversations(tokenizer, rows, 512, shown)
    loss = AnswerLoss(shown)
    with torch.inference_mode():
        together = loss(batch_of(examples, range(3)))
        alone = [loss(batch_of(examples, [number])) for number in range(3)]
    assert float(together) == pytest.approx(float(sum(alone)), rel=1e-4)


def test_answers_about_several_pictures_are_those_of_transformers_own_model(folder: Path) -> None:
    rows = [row(seed) for seed in range(4)]
    tokenizer, shown, whole = load_tokenizer(folder), load_shown(folder, rows), load_model(folder)
    answers = ask(shown, tokenizer, rows, Silent(), name="ask")
    assert len(set(answers)) > 1
    for seed, answer in enumerate(answers):
        own = own_inputs(folder, seed)
        made = whole.generate(
            **own,
            max_new_tokens=16 + len(tokenizer.encode("yes", add_special_tokens=False)),
            do_sample=False,
        )
        theirs = tokenizer.decode(made[0, own["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == theirs.strip()


@pytest.mark.parametrize("mark", ["<start_of_image>", "<image_soft_token>"])
def test_a_text_that_looks_like_the_mark_of_a_picture_is_refused(folder: Path, mark: str) -> None:
    bad = row(1, text=f"what is {mark}?")
    tokenizer, shown = load_tokenizer(folder), load_shown(folder, [bad])
    with pytest.raises(ArtifactError, match=f"a text holds `{mark}`, the mark of a picture"):
        conversations(tokenizer, [bad], 512, shown)


def test_the_reference_of_the_gate_answers_as_transformers_own_processor_asks(
    folder: Path,
) -> None:
    from toolchain.evaluate.reference import Reference
    from toolchain.models.original import Original

    reference, whole = Reference.load(Original(base=folder), Silent()), load_model(folder)
    for seed in range(2):
        own = own_inputs(folder, seed)
        made = whole.generate(**own, max_new_tokens=8, do_sample=False)
        theirs = made[0, own["input_ids"].shape[1] :].tolist()
        ours = reference.answers_about(row(seed)["messages"][:-1], 8)
        assert ours == [each for each in theirs if each not in reference.end_ids]

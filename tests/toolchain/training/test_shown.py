"""The language side of a model that sees learns alone; transformers' own model is the referee."""

from pathlib import Path
from typing import Any

import pytest
import torch

from device.manifest.pictures import PICTURE, to_url
from tests.fakes.eyes import POSITIONS, SPECIALS, picture, pixels, tiny_smolvlm
from tests.fakes.models import tiny_llama
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.training.answers import ask
from toolchain.training.examples import conversations
from toolchain.training.shown import Shown, load_shown

IMAGE = SPECIALS.index("<image>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_smolvlm(tmp_path_factory.mktemp("smolvlm"))


def row(seed: int, answer: str = "yes", **more: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": "Is the LED on?", PICTURE: to_url(picture(seed)), **more}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def test_scores_with_pictures_are_those_of_transformers_own_model(folder: Path) -> None:
    rows = [row(1), row(2)]
    tokenizer, shown, whole = load_tokenizer(folder), load_shown(folder, rows), load_model(folder)
    examples, too_long = conversations(tokenizer, rows, 512, shown)
    assert too_long == 0
    for seed, example in zip((1, 2), examples, strict=True):
        own = torch.tensor([[IMAGE if each >= len(tokenizer) else each for each in example.ids]])
        assert own[0].tolist().count(IMAGE) == POSITIONS
        with torch.inference_mode():
            ours = shown(input_ids=torch.tensor([example.ids])).logits
            theirs = whole(input_ids=own, pixel_values=pixels(picture(seed))).logits
        assert torch.allclose(ours, theirs, atol=1e-4)
        learned = [each for each in example.labels if each != IGNORED]
        assert tokenizer.decode(learned) == " yes<end_of_utterance>"


def test_answers_about_several_pictures_are_those_of_transformers_own_model(folder: Path) -> None:
    rows = [row(seed) for seed in range(4)]
    tokenizer, shown, whole = load_tokenizer(folder), load_shown(folder, rows), load_model(folder)
    answers = ask(shown, tokenizer, rows, Silent(), name="ask")
    assert len(set(answers)) > 1
    for seed, answer in enumerate(answers):
        example = conversations(tokenizer, [rows[seed]], 512, shown)[0][0]
        prompt = example.ids[: next(n for n, each in enumerate(example.labels) if each >= 0)]
        own = torch.tensor([[IMAGE if each >= len(tokenizer) else each for each in prompt]])
        made = whole.generate(
            input_ids=own,
            attention_mask=torch.ones_like(own),
            pixel_values=pixels(picture(seed)),
            max_new_tokens=16 + len(tokenizer.encode("yes", add_special_tokens=False)),
            do_sample=False,
        )
        theirs = tokenizer.decode(made[0, own.shape[1] :], skip_special_tokens=True)
        assert answer == theirs.strip()


def test_a_conversation_without_a_picture_is_read_beside_others(folder: Path) -> None:
    plain = {"messages": [{"role": "user", "content": "hot?"}, *row(1)["messages"][1:]]}
    tokenizer, shown = load_tokenizer(folder), load_shown(folder, [row(1), plain])
    both, _ = conversations(tokenizer, [row(1), plain], 512, shown)
    assert max(both[1].ids) < len(tokenizer) <= max(both[0].ids)


def test_a_picture_counts_with_its_positions(folder: Path) -> None:
    tokenizer, shown = load_tokenizer(folder), load_shown(folder, [row(1)])
    whole = conversations(tokenizer, [row(1)], 512, shown)[0][0]
    assert conversations(tokenizer, [row(1), row(1)], len(whole.ids), shown)[1] == 0
    with pytest.raises(ArtifactError, match="all 1 conversations are longer"):
        conversations(tokenizer, [row(1)], len(whole.ids) - 1, shown)


def test_a_text_that_looks_like_the_mark_of_a_picture_is_refused(folder: Path) -> None:
    bad = row(1, content="what is <image>?")
    tokenizer, shown = load_tokenizer(folder), load_shown(folder, [bad])
    with pytest.raises(ArtifactError, match="a text holds `<image>`, the mark of a picture"):
        conversations(tokenizer, [bad], 512, shown)


def test_a_text_model_is_loaded_as_ever(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    assert not isinstance(load_shown(tmp_path, []).get_input_embeddings(), Shown)


def test_a_model_without_any_picture_to_show_knows_its_words(folder: Path) -> None:
    shown, whole = load_shown(folder, []), load_model(folder)
    ids = torch.tensor([[5, 9, 40]])
    with torch.inference_mode():
        assert torch.equal(shown(input_ids=ids).logits, whole(input_ids=ids).logits)

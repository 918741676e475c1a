"""Scores of answers: SQuAD's for words, by character for CJK."""

from pathlib import Path

import pytest

from tests.fakes.models import tiny_llama
from toolchain.chat import render_prompt
from toolchain.progress import Silent
from toolchain.training.answers import answer, exact_match, loss_per_token, score, token_f1, words
from toolchain.training.checkpoints import load_model, load_tokenizer
from toolchain.training.examples import conversations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Pi is HOT!", ["pi", "is", "hot"]),
        ("a fan, an SSD", ["fan", "ssd"]),
        ("超过80度，降频。", ["超", "过", "80", "度", "降", "频"]),
        ("８５ degrees", ["85", "degrees"]),
        ("sudo raspi-config", ["sudo", "raspiconfig"]),
    ],
)
def test_words_are_compared_without_case_punctuation_and_articles(
    text: str, expected: list[str]
) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("Run sudo poweroff.", "run sudo poweroff", True, 1.0),
        ("run poweroff", "run sudo poweroff", False, 0.8),
        ("poweroff sudo run", "run sudo poweroff", False, 1.0),
        ("八十度", "八十五度", False, 6 / 7),
        ("", "run", False, 0.0),
        ("", "", True, 1.0),
        ("run run run", "run", False, 0.5),
    ],
)
def test_answers_are_scored(answer: str, expected: str, exact: bool, f1: float) -> None:
    assert exact_match(answer, expected) is exact
    assert token_f1(answer, expected) == pytest.approx(f1)


def test_answers_in_a_batch_are_those_of_each_prompt_alone(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = [
        render_prompt(tokenizer, [{"role": "user", "content": text}])
        for text in ("hot?", "how hot is too hot for it?", "散热")
    ]
    together = answer(model, tokenizer, prompts, 12, Silent(), name="ask")
    assert together == [
        answer(model, tokenizer, [prompt], 12, Silent(), name="ask")[0] for prompt in prompts
    ]


def test_generation_settings_of_the_folder_do_not_change_the_score(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": "how hot?"}])]
    plain = answer(model, tokenizer, prompts, 12, Silent(), name="ask")
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    assert answer(model, tokenizer, prompts, 12, Silent(), name="ask") == plain


def test_nothing_held_out_gives_no_score(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert score(model, tokenizer, [], Silent(), name="ask") == {
        "questions": 0,
        "exact_match": None,
        "f1": None,
    }
    assert loss_per_token(model, conversations(tokenizer, [], 512)[0]) is None

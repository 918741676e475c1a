"""Scores of answers: SQuAD's for words, by character for CJK."""

from pathlib import Path

import pytest
import torch

from tests.fakes.models import tiny_llama
from toolchain.chat import render_prompt
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.training.answers import (
    answer,
    call_scores,
    exact_match,
    in_float32,
    loss_per_byte,
    loss_per_token,
    score,
    token_f1,
    words,
)
from toolchain.training.examples import conversations
from toolchain.training.shared import MIN_TOKENS


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


def test_a_bf16_checkpoint_is_scored_in_float32_and_stays_as_it_was(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path, dtype="bfloat16")
    tokenizer = load_tokenizer(folder)
    rounded, whole = load_model(folder), load_model(folder, dtype="float32")
    assert (rounded.dtype, whole.dtype) == (torch.bfloat16, torch.float32)
    chat = [{"role": "user", "content": "hot?"}, {"role": "assistant", "content": "Above 80."}]
    examples, _ = conversations(tokenizer, [{"messages": chat}], 512)
    before = {name: value.clone() for name, value in rounded.state_dict().items()}
    texts = ["Some prose.", "x = 1"]
    assert loss_per_token(rounded, examples) == loss_per_token(whole, examples)
    assert loss_per_byte(rounded, tokenizer, texts) == loss_per_byte(whole, tokenizer, texts)
    prompts = [render_prompt(tokenizer, chat[:1])]
    assert answer(rounded, tokenizer, prompts, 12, Silent(), name="ask") == answer(
        whole, tokenizer, prompts, 12, Silent(), name="ask"
    )
    with in_float32(rounded):
        ids = torch.tensor(prompts)
        assert torch.equal(rounded(input_ids=ids).logits, whole(input_ids=ids).logits)
    assert rounded.dtype == torch.bfloat16
    assert all(torch.equal(value, before[name]) for name, value in rounded.state_dict().items())


def test_the_loss_by_byte_is_that_of_all_tokens_of_a_text_however_long(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    text = "How hot is too hot?"
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer.encode(text)]])
    expected = (
        float(model(input_ids=ids, labels=ids).loss.detach()) * (ids.shape[1] - 1) / len(text)
    )
    assert loss_per_byte(model, tokenizer, [text]) == pytest.approx(expected, abs=1e-4)
    assert loss_per_byte(model, tokenizer, [text * 100]) > 0


LIGHT = {"type": "function", "function": {"name": "light", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "light", "arguments": {"on": True}}}
CALLED = '<tool_call>\n{"name": "light", "arguments": {"on": true}}\n</tool_call>'


def asked(answer: dict[str, object], tools: bool = True) -> dict[str, object]:
    messages = [{"role": "user", "content": "hot?"}, {"role": "assistant", **answer}]
    return {"messages": messages, **({"tools": [LIGHT]} if tools else {})}


def test_right_calls_are_counted_among_the_questions_with_tools(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama(tmp_path))
    call, text = asked({"content": "", "tool_calls": [CALL]}), asked({"content": "Yes."})
    rows = [call, call, call, call, text, text, asked({"content": "Yes."}, tools=False)]
    given = [CALLED, f"Sure.\n{CALLED}", CALLED.replace("true", "false"), "on", "No.", CALLED, "?"]
    assert call_scores(tokenizer, rows, given) == {"tool_questions": 6, "tool_accuracy": 0.5}


def test_nothing_is_counted_where_no_call_is_expected(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama(tmp_path))
    assert call_scores(tokenizer, [asked({"content": "Yes."})], [CALLED]) == {}


def test_prompts_that_share_their_beginning_are_answered_as_each_alone(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path, hidden=64)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    beginning = [5 + n % 90 for n in range(MIN_TOKENS + 9)]
    prompts = [[*beginning, *end] for end in ([101], [102, 103, 104], [110, 99, 98, 97, 96])]
    together = answer(model, tokenizer, prompts, 12, Silent(), name="ask")
    assert together == [
        answer(model, tokenizer, [prompt], 12, Silent(), name="ask")[0] for prompt in prompts
    ]

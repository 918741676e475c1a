"""Tokens under a grammar: no vocabulary ends the process, and what is answered is UTF-8."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from device.engine import load
from device.engine.base import Engine, Sampling, Settings, Trigger
from tests.fakes.tiny_gguf import END, tiny_gguf

QUESTION = list(b"<|im_start|>user\n")
WRONG = (b"\xc0@", b"\xe0\x80\x80", b"a\xc0@", b"a\0b", b"\xed\xa0\x80", b"\xc3a")
"""Tokens whose bytes begin no text. llama.cpp takes the first three for the character 0 and ends
the process."""
ANYTHING = 'root ::= "<" [^>]{6} ">"'


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("picking") / "wrong.gguf"
    loaded = load(tiny_gguf(path, words=WRONG), Settings(context=256))
    yield loaded
    loaded.close()


@pytest.mark.parametrize("sampling", [{}, {"frequency_penalty": 0.5}])
def test_a_token_that_is_no_text_is_never_chosen_under_a_grammar(
    engine: Engine, sampling: dict[str, float]
) -> None:
    for seed in range(12):
        asked = Sampling(
            max_tokens=40,
            temperature=2.0 if seed else 0.0,
            top_k=0,
            seed=seed,
            grammar=ANYTHING,
            **sampling,
        )
        text = "".join(step.text for step in engine.generate(QUESTION, asked))
        assert len(text) == 8, text
        assert (text[0], text[-1]) == ("<", ">")
        assert "�" not in text


def test_a_token_that_came_comes_less_with_a_repeat_penalty(tmp_path: Path) -> None:
    model = load(tiny_gguf(tmp_path / "tiny.gguf"), Settings(threads=1))
    kinds = []
    for penalty in (0.5, 1.0, 2.0):
        asked = Sampling(max_tokens=60, repeat_penalty=penalty)
        kinds.append(len({step.id for step in model.generate(list(b"hot?"), asked)}))
    model.close()
    assert kinds == sorted(kinds)
    assert kinds[0] < kinds[2]


SEVEN, LETTER = ord("7"), ord("x")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    loaded = load(tiny_gguf(tmp_path_factory.mktemp("plain") / "tiny.gguf"), Settings(context=256))
    yield loaded
    loaded.close()


def answered(engine: Engine, token: int, grammar: str, trigger: str, **more: float) -> str:
    """Return what a model says that would say one token for ever, if it may call."""
    asked = Sampling(
        max_tokens=12,
        grammar=grammar,
        trigger=Trigger(trigger) if trigger else None,
        logit_bias=((token, 100.0),),
        **more,
    )
    return "".join(step.text for step in engine.generate(QUESTION, asked))


@pytest.mark.parametrize("sampling", [{}, {"frequency_penalty": 0.5}, {"temperature": 0.1}])
def test_a_call_whose_figure_the_grammar_would_change_becomes_words(
    plain: Engine, sampling: dict[str, float]
) -> None:
    text = answered(plain, SEVEN, 'root ::= "7" [0-3]', "7", **sampling)
    assert "7" not in text
    assert len(text) > 2
    beginning = answered(plain, SEVEN, 'root ::= "7" [0-3]', "77", **sampling)
    assert "77" not in beginning
    assert beginning[0] != "7"


def test_a_call_stays_whose_figures_are_allowed_or_whose_letters_are_not(plain: Engine) -> None:
    assert answered(plain, SEVEN, "root ::= [0-9]{20}", "7") == "7" * 12
    assert answered(plain, LETTER, 'root ::= "x" [a-c]', "x")[:2] == "xx"
    assert len(answered(plain, LETTER, 'root ::= "x" [a-c]', "x")) == 3


def test_an_answer_that_must_call_keeps_to_the_grammar(plain: Engine) -> None:
    text = answered(plain, SEVEN, 'root ::= "7" [0-3]', "")
    assert text[0] == "7"
    assert text[1] in "0123"


def test_after_a_call_was_taken_back_the_memory_is_what_was_said(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf")
    used, fresh = (load(path, Settings(context=256, threads=1)) for _ in range(2))
    said = [
        step.id
        for step in used.generate(
            QUESTION,
            Sampling(
                max_tokens=12,
                grammar='root ::= "7" [0-3]',
                trigger=Trigger("7"),
                logit_bias=((SEVEN, 100.0),),
            ),
        )
        if step.id is not None
    ]
    after = [*QUESTION, *said, *QUESTION]
    first, second = (
        [step.id for step in each.generate(after, Sampling(max_tokens=20))]
        for each in (used, fresh)
    )
    assert first == second
    used.close()
    fresh.close()


def test_a_figure_that_the_grammar_would_make_longer_becomes_words(plain: Engine) -> None:
    text = answered(plain, LETTER, 'root ::= "5" [0-9] "x"', "x")
    assert "x5" not in text
    assert answered(plain, LETTER, 'root ::= "5x"', "x") == "x5x"


def test_a_figure_that_is_one_token_with_its_space_becomes_words(tmp_path: Path) -> None:
    engine = load(tiny_gguf(tmp_path / "64.gguf", words=[" 64"], drawn=True), Settings(context=256))
    assert "64" not in answered(engine, 259, 'root ::= " 64 6" [0-3]', " 64")
    assert answered(engine, 259, 'root ::= " 64"{20}', " 64") == " 64" * 12
    engine.close()


def test_an_answer_in_place_of_a_call_is_not_empty(plain: Engine) -> None:
    asked = Sampling(
        max_tokens=12,
        grammar='root ::= "7" [0-3]',
        trigger=Trigger("7"),
        logit_bias=((SEVEN, 300.0), (END, 200.0), (LETTER, 100.0)),
    )
    assert "".join(step.text for step in plain.generate(QUESTION, asked)) == "x"


def test_an_answer_in_place_of_a_call_says_no_more_than_half_of_its_beginning(
    plain: Engine,
) -> None:
    text = answered(plain, SEVEN, 'root ::= "7" [0-3]', "777777")
    assert "777" in text
    assert "7777" not in text


@pytest.mark.parametrize("before_id", ["7", ""])
def test_the_id_of_a_call_is_no_figure(plain: Engine, before_id: str) -> None:
    asked = Sampling(
        max_tokens=12,
        grammar='root ::= "7" [0-9]{2} "x"',
        trigger=Trigger("7", before_id=before_id),
        logit_bias=((SEVEN, 100.0),),
    )
    text = "".join(step.text for step in plain.generate(QUESTION, asked))
    assert (text == "7777x") is bool(before_id)


def test_a_prompt_after_a_call_that_was_taken_back_reuses_what_any_other_would(
    plain: Engine,
) -> None:
    plain.forget()
    answered(plain, SEVEN, 'root ::= "7" [0-3]', "7")
    *_, last = plain.generate([*QUESTION, ord("?"), ord("\n")], Sampling(max_tokens=1))
    assert last.timing
    assert last.timing.reused_tokens == 0


def test_a_call_that_is_taken_back_is_answered_from_the_scores_before_it(plain: Engine) -> None:
    grammar = 'root ::= "7" [0-3]'
    asked = Sampling(max_tokens=4, trigger=Trigger("7"), grammar=grammar, top_logprobs=2)
    biased = replace(asked, logit_bias=((SEVEN, 100.0),))
    plain.forget()
    words = list(plain.generate(QUESTION, biased))
    plain.forget()
    (any_, *_) = plain.generate(QUESTION, replace(asked, max_tokens=1))
    assert [each.logprob for each in words[0].candidates[1:]] == [
        each.logprob for each in any_.candidates[1:]
    ]


def test_arguments_of_free_texts_are_sent_as_they_come(plain: Engine) -> None:
    trigger = Trigger("7", keeps_figures=False)
    asked = Sampling(
        max_tokens=12,
        grammar='root ::= "7" [a-c]{20}',
        trigger=trigger,
        logit_bias=((SEVEN, 100.0),),
    )
    steps = plain.generate(QUESTION, asked)
    first = [next(steps).text for _ in range(3)]
    assert first[:2] == ["7", "7"]
    assert first[2] in "abc"
    steps.close()

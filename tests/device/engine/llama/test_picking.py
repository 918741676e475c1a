"""Tokens under a grammar: no vocabulary ends the process, and what is answered is UTF-8."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device.engine import load
from device.engine.base import Engine, Sampling, Settings
from tests.fakes.tiny_gguf import tiny_gguf

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

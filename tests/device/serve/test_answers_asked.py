"""Several answers to one question, and what changes single logits, in both kinds of engines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.engine.base import Sampling
from device.engine.sampling import Sampler
from tests.device.serve.test_tools import CHAT, events, opened
from tests.fakes.service import call, service, wait_until_loaded
from tests.fakes.tiny_gguf import CHATML

DRAWN = {"temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 12, "seed": 3}


def asked(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hot?"}], **DRAWN, **more}


@pytest.fixture(scope="module")
def port(tmp_path_factory: Any) -> Iterator[int]:
    with service(opened(tmp_path_factory.mktemp("answers"), CHATML)) as port:
        wait_until_loaded(port)
        yield port


def texts(body: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in body["choices"]]


def test_several_answers_differ_and_are_the_same_again(port: int) -> None:
    body = call(port, CHAT, asked(n=3))[2]
    assert len(set(texts(body))) == 3
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] <= 36
    assert texts(call(port, CHAT, asked(n=3))[2]) == texts(body)
    assert texts(call(port, CHAT, asked(n=1))[2]) == texts(body)[:1]


def test_a_stream_carries_several_answers_with_their_numbers(port: int) -> None:
    whole = texts(call(port, CHAT, asked(n=3))[2])
    streamed = ["", "", ""]
    usage = {"include_usage": True}
    chunks = events(port, CHAT, asked(n=3, stream=True, stream_options=usage))
    for chunk in chunks:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == whole
    assert [bool(chunk.get("usage")) for chunk in chunks].count(True) == 1


def test_a_plain_prompt_has_several_answers_too(port: int) -> None:
    body = call(port, "/v1/completions", {"prompt": "hot", **DRAWN, "n": 2})[2]
    assert len({choice["text"] for choice in body["choices"]}) == 2


def test_seeds_of_any_size_draw_the_same_again(port: int) -> None:
    for seed in (-1, -(2**63) + 1, 2**63 - 1, 2**32 - 1):
        one, other = (texts(call(port, CHAT, asked(seed=seed, n=2))[2]) for _ in range(2))
        assert one == other


def test_a_bias_brings_a_token_or_takes_it_away(port: int) -> None:
    always = call(port, CHAT, asked(logit_bias={"97": 100}, temperature=0))[2]
    assert texts(always) == ["a" * 12]
    never = call(port, CHAT, asked(logit_bias={"97": -100}, temperature=0))[2]
    assert "a" not in texts(never)[0]


def test_penalties_end_repetition(tmp_path: Path) -> None:
    # Nothing follows `a` and `b` in this model, so that the biases alone choose between them.
    biases = {"logit_bias": {"259": -100, "97": 100, "98": 99}, "temperature": 0, "max_tokens": 6}
    with service(opened(tmp_path, CHATML, ["Qx"])) as port:
        wait_until_loaded(port)
        found = [
            texts(call(port, CHAT, asked(**biases, **penalty))[2])[0]
            for penalty in ({}, {"frequency_penalty": 2}, {"presence_penalty": 2})
        ]
    assert found[0] == "aaaaaa"
    assert found[1][:3] == "aba"
    assert found[2] == "abaaaa"


def test_penalties_hold_under_a_grammar(port: int) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": [[1, 1, 1, 1], [2]]}}}
    body = call(port, CHAT, asked(response_format=form, frequency_penalty=2, max_tokens=40))[2]
    assert json.loads(texts(body)[0]) in ([1, 1, 1, 1], [2])


def test_a_bias_of_a_token_that_the_model_has_not_is_refused(port: int) -> None:
    status, _, body = call(port, CHAT, asked(logit_bias={"999999": 1}))
    assert (status, body["error"]["param"]) == (400, "logit_bias")


def test_the_sampler_of_other_engines_follows_the_same_formula() -> None:
    logits = np.array([1.0, 0.8, 0.1], dtype=np.float32)
    sampler = Sampler(Sampling(frequency_penalty=0.15, presence_penalty=0.1))
    # 1.0 → 0.75; 0.8 → 0.55; then the first again, as 0.75 is the greatest.
    assert [sampler.choose(logits)[0] for _ in range(3)] == [0, 1, 0]
    biased = Sampler(Sampling(logit_bias=((2, 5.0),)))
    assert biased.choose(logits)[0] == 2
    assert logits.tolist() == pytest.approx([1.0, 0.8, 0.1])

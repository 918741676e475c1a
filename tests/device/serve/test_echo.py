"""A prompt that is echoed: its text, and how likely the model takes each of its tokens."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.engine import load
from device.engine.base import Settings
from tests.fakes.service import call, tiny_service
from tests.fakes.tiny_gguf import tiny_gguf

COMPLETIONS = "/v1/completions"
PROMPT = "hot? \u00e9"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tiny_service(tmp_path_factory.mktemp("echo")) as port:
        yield port


def asked(port: int, prompt: Any, **more: Any) -> Any:
    """Send the request of lm-eval's `local-completions` for likelihoods; return its choice."""
    fields = {"max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    body = {"model": "tiny", "prompt": prompt, **fields, **more}
    status, _, answer = call(port, COMPLETIONS, body)
    assert status == 200, answer
    return answer["choices"][0]


def test_an_echoed_prompt_stands_before_its_answer(port: int) -> None:
    plain = asked(port, PROMPT, echo=False, max_tokens=3)
    assert asked(port, PROMPT, max_tokens=3)["text"] == PROMPT + plain["text"]
    assert asked(port, PROMPT, max_tokens=3, logprobs=None)["text"] == PROMPT + plain["text"]


def test_each_token_of_a_prompt_has_the_probability_that_the_model_gives_it(
    port: int, tmp_path: Path
) -> None:
    engine = load(tiny_gguf(tmp_path / "tiny.gguf", recites="warm!"), Settings(threads=1))
    tokens = engine.tokenize(PROMPT, begin=True)
    rows = [struct.unpack(f"<{engine.n_vocab}f", row) for row in engine.logits(tokens)]
    expected = [
        row[token] - math.log(sum(math.exp(each) for each in row))
        for row, token in zip(rows, tokens[1:], strict=False)
    ]
    engine.close()

    found = asked(port, [tokens])["logprobs"]
    assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
    assert found["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-4)
    assert len(found["tokens"]) == len(tokens) + 1
    likeliest = [max(each.values()) for each in found["top_logprobs"][1:]]
    assert all(own <= top for own, top in zip(found["token_logprobs"][1:], likeliest, strict=True))


def test_a_stream_echoes_the_prompt_too(port: int) -> None:
    body = {"prompt": PROMPT, "max_tokens": 2, "echo": True, "stream": True, "n": 2}
    _, _, answer = call(port, COMPLETIONS, body)
    events = [json.loads(line[6:]) for line in answer.decode().split("\n\n")[:-2]]
    for number in (0, 1):
        texts = [
            choice["text"]
            for event in events
            for choice in event["choices"]
            if choice["index"] == number
        ]
        assert "".join(texts).startswith(PROMPT)


def test_a_conversation_is_not_echoed(port: int) -> None:
    body = {"messages": [{"role": "user", "content": "hot?"}], "echo": True}
    status, _, answer = call(port, "/v1/chat/completions", body)
    assert status == 400
    assert answer["error"]["param"] == "echo"

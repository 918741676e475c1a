"""The scoring child answers a line with a line, rows of logits as raw bytes, and survives bad
requests.
"""

import array
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from device.engine.base import Settings
from device.model import Model, open_file
from device.score import _generate
from tests.fakes.tiny_gguf import END, tiny_bundle

RECITAL = "树🍵é莓"


class Child:
    """A scoring process."""

    def __init__(self, *argv: str) -> None:
        command = [sys.executable, "-m", "device", "score", *argv, "--threads", "1"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, request: Any) -> Any:
        """Send one request and return its answer's line."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(
            (request if isinstance(request, str) else json.dumps(request)).encode() + b"\n"
        )
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def rows(self, head: dict[str, int]) -> "list[array.array[float]]":
        """Return the rows behind the head of an answer."""
        assert self.process.stdout
        return [
            array.array("f", self.process.stdout.read(head["vocab"] * 4))
            for _ in range(head["rows"])
        ]

    def end(self) -> int:
        """Close the input and return the exit code."""
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(
        tmp_path_factory.mktemp("scored") / "bundle", recites=RECITAL, system="be brief"
    )


@pytest.fixture(scope="module")
def child(bundle: Path) -> Iterator[Child]:
    running = Child("--model", str(bundle / "tiny.gguf"), "--context", "256")
    yield running
    assert running.end() == 0


def test_it_says_what_is_loaded(child: Child) -> None:
    said = child.ask({"op": "info"})
    assert (said["engine"], said["n_vocab"], said["context"], said["threads"]) == (
        "llama.cpp",
        259,
        256,
        1,
    )


def test_a_conversation_is_rendered_with_the_template_beside_the_file(child: Child) -> None:
    said = child.ask({"op": "render", "messages": [{"role": "user", "content": "热?"}]})
    assert said["text"] == "<|im_start|>user\n热?<|im_end|>\n<|im_start|>assistant\n"
    assert said["tokens"] == [257, *b"user\n", *"热?".encode(), END, 10, 257, *b"assistant\n"]


def test_special_tokens_are_recognised_in_text(child: Child) -> None:
    assert child.ask({"op": "tokenize", "text": "a<|im_end|>"}) == {"tokens": [ord("a"), END]}


def test_an_answer_has_tokens_text_and_the_reason_of_its_end(child: Child) -> None:
    whole = {
        "prompt_tokens": [10],
        "tokens": list(RECITAL.encode()),
        "text": RECITAL,
        "finish_reason": "stop",
    }
    assert child.ask({"op": "generate", "tokens": [10], "max_tokens": 40}) == whole
    assert child.ask({"op": "generate", "tokens": [10], "max_tokens": 3}) == {
        "prompt_tokens": [10],
        "tokens": list("树".encode()),
        "text": "树",
        "finish_reason": "length",
    }


def test_a_conversation_is_answered_as_the_service_answers_it(child: Child) -> None:
    messages = [{"role": "user", "content": "热?"}]
    said = child.ask({"op": "generate", "messages": messages, "max_tokens": 40})
    assert said["prompt_tokens"] == child.ask({"op": "render", "messages": messages})["tokens"]
    assert said["text"] == RECITAL


def test_logits_come_as_raw_rows_behind_their_head_and_the_next_request_is_read(
    child: Child,
) -> None:
    head = child.ask({"op": "logits", "tokens": [10, *RECITAL.encode()]})
    assert head == {"rows": 13, "vocab": 259}
    assert [row.index(max(row)) for row in child.rows(head)] == [*RECITAL.encode(), END]
    assert child.ask({"op": "tokenize", "text": "a"}) == {"tokens": [97]}


def test_logits_behind_a_prefix_are_the_last_rows_of_all(child: Child) -> None:
    tokens = [10, *RECITAL.encode()]
    whole = child.rows(child.ask({"op": "logits", "tokens": tokens}))
    head = child.ask({"op": "logits", "tokens": tokens, "prefix": 4})
    assert head["rows"] == len(tokens) - 4
    for late, row in zip(child.rows(head), whole[4:], strict=True):
        assert late.tolist() == pytest.approx(row.tolist(), abs=1e-3)


def test_a_full_context_has_a_row_for_each_token(child: Child) -> None:
    head = child.ask({"op": "logits", "tokens": [10] * 256})
    assert len(child.rows(head)) == 256


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "`op` must be one of logits, generate, info, render, tokenize"),
        ({"op": "sing"}, "`op` must be one of logits, generate, info, render, tokenize"),
        ({"op": "logits", "tokens": "1"}, "`tokens`: must be a list of token ids"),
        ({"op": "logits", "tokens": [1], "prefix": 1}, "`prefix`: must be fewer than the tokens"),
        (
            {"op": "logits", "tokens": [1], "prefix": True},
            "`prefix`: must be fewer than the tokens",
        ),
        ({"op": "logits", "tokens": [1], "prefix": -1}, "`prefix`: must be fewer than the tokens"),
        ({"op": "logits", "tokens": [1] * 257}, "the prompt has 257 tokens, the context holds 256"),
        ({"op": "generate", "tokens": []}, "the prompt is empty"),
        (
            {"op": "generate", "tokens": [1], "max_tokens": -1},
            "`max_tokens`: must be a whole number between 1 and 1048576, not -1",
        ),
        ({"op": "tokenize"}, "`text`: must be a text"),
        ({"op": "render", "messages": ["x"]}, "`messages`: must be a list of messages"),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_too(
    child: Child, request_: Any, message: str
) -> None:
    assert child.ask(request_)["error"]["message"] == message
    assert child.ask({"op": "tokenize", "text": "a"}) == {"tokens": [97]}


def test_a_bundle_is_scored_with_its_context_and_its_system_prompt(bundle: Path) -> None:
    child = Child("--bundle", str(bundle))
    assert child.ask({"op": "info"})["context"] == 512
    said = child.ask({"op": "render", "messages": [{"role": "user", "content": "hot?"}]})
    assert said["text"].startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhot?")
    assert child.end() == 0


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_is_the_only_answer(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    child = Child("--model", str(tmp_path / "bad.gguf"))
    out, _ = child.process.communicate(timeout=30)
    assert (child.process.returncode, json.loads(out)["error"]["code"]) == (1, "bad_model")


def test_tools_are_read_once_and_answers_stay_those_of_a_fresh_model(bundle: Path) -> None:
    pin = {"type": "object", "properties": {"pin": {"type": "integer", "description": "a pin"}}}
    tool = {"type": "function", "function": {"name": "set_led", "parameters": pin}}

    def request(text: str) -> dict[str, Any]:
        message = {"role": "user", "content": text}
        return {"op": "generate", "messages": [message], "tools": [tool], "max_tokens": 4}

    def answers(model: Model, texts: Sequence[str]) -> list[Any]:
        return [_generate(model, request(text)) for text in texts]

    texts = ("Light pin 4.", "Is it hot in here?", "Light pin 4.")
    alone = []
    for text in texts:
        model = open_file(bundle / "tiny.gguf", Settings(threads=1, context=1024))
        alone += answers(model, [text])
        model.engine.close()

    model = open_file(bundle / "tiny.gguf", Settings(threads=1, context=1024))
    saves: list[int] = []
    save = model.engine.save
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            model.engine, "save", lambda prefix: (saves.append(len(prefix)), save(prefix))[1]
        )
        assert answers(model, texts) == alone
    assert len(saves) == 1
    assert saves[0] > 100
    model.engine.close()

"""The page of fields says what the code does: each field, each value that it names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from device.engine.base import RANGES, FieldError
from device.serve.api import (
    IGNORED,
    NEUTRAL,
    OLLAMA,
    read_chat,
    read_completion,
    read_embeddings,
)
from device.serve.fields import WITHOUT_EFFECT

PAGE = (Path(__file__).parents[2] / "docs" / "fields.md").read_text(encoding="utf-8")
OTHERS = {
    *("messages", "prompt", "max_completion_tokens", "n", "stop", "logit_bias", "logprobs"),
    *("response_format", "stream", "stream_options", *WITHOUT_EFFECT),
}


def rows(heading: str) -> list[tuple[str, str, str]]:
    """Return field, value that is taken and value that is refused of each row of a section."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \| (`.*?`|–) \| (`.*?`|–) \|", part, re.MULTILINE)
    return [(name, taken, refused) for name, taken, refused in found]


ASKED = rows("Conversations and prompts")
EMBEDDED = rows("Embeddings")


def sent(name: str, value: Any) -> None:
    """Read a request with a value of a field."""
    if name == "prompt":
        read_completion(json.dumps({name: value}).encode(), 32)
    else:
        asked = {"messages": [{"role": "user", "content": "hot?"}], name: value}
        read_chat(json.dumps(asked).encode(), 32)


def embedded(name: str, value: Any) -> None:
    read_embeddings(json.dumps({"input": "a", name: value}).encode())


def test_the_page_names_every_field_that_is_known_and_no_other() -> None:
    assert {name for name, _, _ in ASKED} == {*RANGES, *NEUTRAL, *IGNORED, *OLLAMA, *OTHERS}


@pytest.mark.parametrize(("name", "taken", "refused"), ASKED + EMBEDDED)
def test_a_value_that_the_page_calls_taken_is_taken_and_one_refused_is_refused_by_name(
    name: str, taken: str, refused: str
) -> None:
    send = embedded if (name, taken, refused) in EMBEDDED else sent
    if taken != "–":
        send(name, json.loads(taken.strip("`")))
    if name not in ("messages", "prompt", "input"):
        send(name, None)
    if refused != "–":
        with pytest.raises(FieldError) as caught:
            send(name, json.loads(refused.strip("`")))
        assert caught.value.field.partition("[")[0] == name


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 16.0), ("n", 2.0), ("seed", -7.0), ("num_ctx", 8192.0)]
)
def test_a_whole_number_may_be_written_with_a_fraction_of_zero(name: str, value: float) -> None:
    sent(name, value)
    with pytest.raises(FieldError, match="whole number"):
        sent(name, value + 0.5)

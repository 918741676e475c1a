"""What is shown after a push."""

import json
import shlex

import pytest

from toolchain.artifacts import Deployment
from toolchain.show.line import next_commands

DEPLOYMENT = Deployment(
    release="0" * 64,
    name="starter",
    version="1",
    address="pi@desk.local",
    port=8080,
    bytes_sent=0,
    seconds=0.0,
    actions=(),
)


@pytest.mark.parametrize(
    "question",
    ["hello", "the board's number?", 'what is "swap"?', "what does $HOME cost `now`!", "重启 \\"],
)
def test_commands_can_be_pasted_into_a_shell_whatever_the_question(question: str) -> None:
    ask, *_, tunnel, curl = next_commands(DEPLOYMENT, question)
    assert shlex.split(ask) == ["demitasse", "ask", "pi@desk.local", question]
    assert "8080:127.0.0.1:8080" in tunnel
    body = json.loads(shlex.split(curl)[-1])
    assert body == {"messages": [{"role": "user", "content": question}]}


def test_a_plain_question_stands_in_double_quotes() -> None:
    assert next_commands(DEPLOYMENT, "the board's number?")[0].endswith(' "the board\'s number?"')

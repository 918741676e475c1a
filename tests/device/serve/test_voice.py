"""A voice assistant in front of the board: the requests of real ones, as they were recorded.

Home Assistant 2026.2.3 (a question with Assist's tools, a task with a structure) and wyoming-openai
0.8.0, both by `scripts/clients`; their names of the model were replaced.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.engine.base import Settings
from device.model import open_file
from tests.fakes.service import call, service, wait_until_loaded
from tests.fakes.tiny_gguf import CHATML, tiny_gguf

RECORDED = Path(__file__).parents[1] / "fixtures" / "home_assistant.jsonl"
TASK, QUESTION = (json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines())
CALL = {"function": {"name": "HassTurnOn", "arguments": {"name": "Kitchen"}}}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("voice")
    file = tiny_gguf(folder / "tiny.gguf", recites="warm!", context=8192, template=CHATML)
    with service(lambda: open_file(file, Settings(context=8192, threads=2))) as port:
        wait_until_loaded(port)
        yield port


def lines(port: int, request: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Send a recorded request; return the lines of its answer."""
    status, _, answer = call(port, request["path"], {**request["body"], **more})
    assert status == 200, answer
    return [json.loads(line) for line in answer.splitlines()]


def test_home_assistant_finds_the_model_under_the_name_that_it_asks_with(port: int) -> None:
    _, _, listed = call(port, "/api/tags")
    assert [each["model"] for each in listed["models"]] == [QUESTION["body"]["model"]]


def test_a_question_with_the_tools_of_assist_is_answered(port: int) -> None:
    assert QUESTION["body"]["options"] == {"num_ctx": 8192.0}
    assert len(QUESTION["body"]["tools"]) == 6
    found = lines(port, QUESTION)
    assert found[-1]["done"]
    assert "".join(each["message"]["content"] for each in found)


def test_the_result_of_a_call_goes_back_without_the_name_of_its_tool(port: int) -> None:
    """The integration sends neither `tool_name` nor an id (ollama/entity.py, _convert_content)."""
    talk = [
        *QUESTION["body"]["messages"],
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"success":true}'},
    ]
    assert lines(port, QUESTION, messages=talk)[-1]["done"]


def test_a_task_is_held_to_the_structure_that_its_form_describes(port: int) -> None:
    options = {**TASK["body"]["options"], "num_predict": 200}
    found = lines(port, TASK, options=options)
    value = json.loads("".join(each["message"]["content"] for each in found))
    assert value["topic"] in ("heat", "power")
    assert isinstance(value["urgent"], bool)
    assert 1 <= value["stars"] <= 5


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/speech"])
def test_a_request_for_speech_is_told_that_other_services_do_it(port: int, path: str) -> None:
    status, _, answer = call(port, path, {"model": "tts-1", "input": "hello", "voice": "alloy"})
    assert status == 404
    assert "speech is the work of other services" in answer["error"]["message"]

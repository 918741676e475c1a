"""The real Label Studio over HTTP: tasks are imported, answered and exported without a loss.

It lives in an environment of its own, because it asks for other versions of numpy than the project.
`DEMITASSE_LABEL_STUDIO` names its program, such as `env/bin/label-studio`.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.ports import free_port
from tests.toolchain.rounds.test_label import recipe, row, tasks_of  # noqa: F401 - a fixture
from toolchain.recipe import Recipe
from toolchain.rounds.label import take_answers

PROGRAM = os.environ.get("DEMITASSE_LABEL_STUDIO", "")
TOKEN = "0123456789abcdef" * 2
TASKS = 500
START_S = 400
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not shutil.which(PROGRAM or "no-such-program"),
        reason="needs Label Studio: DEMITASSE_LABEL_STUDIO names its program",
    ),
]


class Server:
    """A Label Studio of ours, called over HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(self, path: str, body: Any = None, method: str = "") -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method or ("GET" if body is None else "POST"),
            headers={"authorization": f"Token {TOKEN}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    words = ["start", "--no-browser", "--port", str(port), "--data-dir", str(tmp_path / "data")]
    words += ["--username", "a@firm.example", "--password", "twelve-characters"]
    words += ["--user-token", TOKEN, "--enable-legacy-api-token", "--internal-host", "127.0.0.1"]
    log = (tmp_path / "server.log").open("wb")
    environment = {
        **os.environ,
        "COLLECT_ANALYTICS": "False",
        "LATEST_VERSION_CHECK": "False",
        "PYTHONPATH": "",
    }
    child = subprocess.Popen([PROGRAM, *words], stdout=log, stderr=log, env=environment)
    try:
        made = Server(port)
        _wait(made, child, tmp_path / "server.log")
        yield made
    finally:
        child.terminate()
        child.wait(30)
        log.close()


def _wait(server: Server, child: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(START_S):
        assert child.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            server.call("current-user/whoami")
            return
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


def test_500_tasks_are_imported_answered_and_exported_without_a_loss(
    server: Server,
    recipe: Recipe,  # noqa: F811
) -> None:
    rows = [row(f"question {number} of {number * 7919 % 1000}") for number in range(TASKS)]
    tasks = tasks_of(recipe, rows, budget=TASKS)
    config = (recipe.folder / "tasks.xml").read_text()
    project = server.call("projects", {"title": "round", "label_config": config})["id"]
    imported = server.call(f"projects/{project}/import", tasks)
    assert (imported["task_count"], imported["prediction_count"]) == (TASKS, TASKS)

    listed: list[dict[str, Any]] = []
    while len(listed) < TASKS:
        page = len(listed) // 100 + 1
        listed += server.call(f"tasks?project={project}&page={page}&page_size=100")["tasks"]
    for task in listed:
        answer = {
            "from_name": "answer",
            "to_name": "question",
            "type": "textarea",
            "value": {"text": [f"answer to {task['data']['question']}"]},
        }
        server.call(f"tasks/{task['id']}/annotations", {"result": [answer]})

    export = recipe.folder / "export.json"
    export.write_text(json.dumps(server.call(f"projects/{project}/export?exportType=JSON")))
    done = take_answers(export, recipe.folder / "answered.jsonl")
    assert (done.tasks, done.new, done.skipped) == (TASKS, TASKS, 0)
    back = [
        json.loads(line) for line in (recipe.folder / "answered.jsonl").read_text().splitlines()
    ]
    assert {each["question"]: each["answer"] for each in back} == {
        each["question"]: f"answer to {each['question']}" for each in rows
    }
    assert {each["harvested"]["key"] for each in back} == {each["data"]["key"] for each in tasks}

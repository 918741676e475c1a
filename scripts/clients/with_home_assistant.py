"""Home Assistant itself, set up as a person does it in its pages, over its own API.

A new home: an owner, the integration Ollama with the board's address, a conversation agent with
its defaults that may use Assist's tools, and an AI task. At its first start Home Assistant installs
what its integrations need. STT and TTS are other services: sentences are typed here.
"""

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from steps import FIRST, MODEL, SECOND, URL, report, run

BOARD = URL.removesuffix("/").removesuffix("/v1")
SETTINGS = """
homeassistant: {{name: Home, latitude: 0, longitude: 0}}
http: {{server_host: 127.0.0.1, server_port: {port}}}
api:
config:
conversation:
ai_task:
onboarding:
template:
  - light:
      - {{name: Kitchen, unique_id: kitchen, state: "{{{{ false }}}}", turn_on: [], turn_off: []}}
"""
# The version of Python that its release names is not always at hand, and its own check is strict.
START = (
    "import sys; from homeassistant import runner; "
    "sys.exit(runner.run(runner.RuntimeConfig(config_dir=sys.argv[1])))"
)
START_S = 600


class Home:
    """A running Home Assistant."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        (folder / "configuration.yaml").write_text(SETTINGS.format(port=port))
        self._said = ""
        self._url = f"http://127.0.0.1:{port}"
        self._headers: dict[str, str] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._wait()
        self._log_in()

    def _read(self) -> None:
        """Keep what it says last, so that its pipe never fills up."""
        assert self.process.stderr
        for line in self.process.stderr:
            self._said = line.strip() or self._said

    def _wait(self) -> None:
        ends = time.monotonic() + START_S
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise RuntimeError(f"Home Assistant ended: {self._said}")
            try:
                self.call("/api/onboarding")
                return
            except OSError:
                time.sleep(2)
        raise RuntimeError("Home Assistant did not start")

    def _log_in(self) -> None:
        owner = {"name": "a", "username": "a", "password": "twelve-letters", "language": "en"}
        client = {"client_id": f"{self._url}/"}
        code = self.call("/api/onboarding/users", {**client, **owner})["auth_code"]
        fields = {"grant_type": "authorization_code", "code": code, **client}
        form = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(f"{self._url}/auth/token", form) as answer:  # noqa: S310
            self._headers["Authorization"] = f"Bearer {json.load(answer)['access_token']}"

    def call(self, path: str, body: "dict[str, Any] | None" = None) -> Any:
        """Call its API; return the JSON of the reply."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self._headers}
        asked = urllib.request.Request(self._url + path, data, headers)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=600) as answer:  # noqa: S310
            return json.load(answer)

    def flow(self, path: str, handler: Any, answer: dict[str, Any]) -> Any:
        """Fill in a form of one page."""
        step = self.call(path, {"handler": handler, "show_advanced_options": False})
        if step["type"] == "form":
            step = self.call(f"{path}/{step['flow_id']}", answer)
        if step["type"] != "create_entry":
            raise RuntimeError(f"{handler}: {step}")
        return step

    def wait_for(self, entry: str) -> None:
        """Return when an integration is loaded; it is loaded again if something was missing."""
        for _ in range(30):
            entries = self.call("/api/config/config_entries/entry")
            state = next(each["state"] for each in entries if each["entry_id"] == entry)
            if state == "loaded":
                return
            if state in ("setup_error", "setup_retry"):
                self.call(f"/api/config/config_entries/entry/{entry}/reload", {})
            time.sleep(1)
        raise RuntimeError(f"the integration is not loaded: {state}")

    def entity(self, domain: str) -> str:
        """Return the entity of the board's agent or task, as soon as it is there."""
        for _ in range(60):
            names = [str(state["entity_id"]) for state in self.call("/api/states")]
            found = [name for name in names if name.startswith(f"{domain}.board")]
            if found:
                return found[0]
            time.sleep(1)
        raise RuntimeError(f"no {domain}")


def set_up(home: Home) -> None:
    """Add the board, an agent and a task."""
    flows = "/api/config/config_entries"
    entry = home.flow(f"{flows}/flow", "ollama", {"url": BOARD})["result"]["entry_id"]
    model = {"model": f"{MODEL}:latest", "max_history": 20, "num_ctx": 8192, "keep_alive": -1}
    agents = (
        ("conversation", {"name": "Board", "llm_hass_api": ["assist"]}),
        ("ai_task_data", {"name": "Board task"}),
    )
    for kind, own in agents:
        home.wait_for(entry)  # which begins anew with each agent
        asked = {**model, "think": False, **own}
        home.flow(f"{flows}/subentries/flow", [entry, kind], asked)
    home.wait_for(entry)


def said(home: Home, text: str, conversation: "str | None" = None) -> Any:
    """Say a sentence to the agent."""
    body = {"text": text, "agent_id": home.entity("conversation"), "language": "en"}
    more = {"conversation_id": conversation} if conversation else {}
    reply = home.call("/api/conversation/process", {**body, **more})
    if reply["response"]["response_type"] == "error":
        raise RuntimeError(str(reply["response"]["speech"]))
    return reply


def turns() -> object:
    first = said(HOME, FIRST)
    return said(HOME, SECOND, first["conversation_id"])["response"]["speech"]["plain"]["speech"]


def structured() -> object:
    fields = {
        "topic": {"required": True, "selector": {"select": {"options": ["heat", "power"]}}},
        "urgent": {"required": True, "selector": {"boolean": {}}},
        "stars": {"required": True, "selector": {"number": {"min": 1, "max": 5, "step": 1}}},
    }
    task = {"task_name": "report", "instructions": FIRST, "structure": fields}
    asked = {**task, "entity_id": HOME.entity("ai_task")}
    path = "/api/services/ai_task/generate_data?return_response"
    return report(HOME.call(path, asked)["service_response"]["data"])


def tools() -> object:
    # The model decides whether it calls: an answer in words is no problem.
    return said(HOME, "Switch on the kitchen light.")


with tempfile.TemporaryDirectory() as name:
    HOME = Home(Path(name))
    try:
        set_up(HOME)
        run(turns, structured, tools)
    finally:
        print((Path(name) / "home-assistant.log").read_text()[-8000:], file=sys.stderr)
        HOME.process.terminate()
        HOME.process.wait(60)

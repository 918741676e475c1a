"""Runs unchanged clients against a served bundle, and prints a matrix.

Each does two turns, structured output, streaming, embeddings, calls of a tool (whole with their
result as history, and in a stream), and the Responses API, as far as it has them.

    python scripts/clients.py http://127.0.0.1:8080/v1 [--token-file FILE] [--only NAME]
                              [--tokenizer FILE] [--out docs/clients.md]

Each client gets an environment of its own under build/clients/, made once, from the registries that
pip and npm are set up for. Its steps are in scripts/clients/with_NAME; a missing step is one that
the client does not have.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "scripts" / "clients"
BUILD = ROOT / "build" / "clients"
STEPS = (
    *("turns", "structured", "streaming", "embeddings", "tools", "streamed_tools"),
    *("responses", "likelihoods", "ollama"),
)
STEP_S = 900


@dataclass(frozen=True)
class Client:
    """A client: its program and its packages; no packages for one that has none."""

    name: str
    program: str
    packages: tuple[str, ...] = ()
    note: str = ""
    release: str = ""
    """What is named as its version where no package says it."""
    folder: str = ""
    """Name of its environment, for a program that two clients have."""
    python: str = ""
    """Program that its environment is made with, where this Python is too old for it."""
    options: tuple[str, ...] = ()
    """Options of pip."""

    @property
    def home(self) -> Path:
        """Folder of its environment."""
        return BUILD / (self.folder or self.program.replace(".", "-"))

    @property
    def of_node(self) -> bool:
        """Whether it runs in Node."""
        return self.program.endswith(".mjs")


CLIENTS = (
    Client("openai (Python)", "with_openai.py", ("openai",)),
    Client("openai (Python) 2", "with_openai.py", ("openai<3",), folder="with_openai_2-py"),
    Client("openai (Node)", "with_openai.mjs", ("openai", "zod")),
    Client("langchain-openai", "with_langchain.py", ("langchain-openai",)),
    Client("litellm", "with_litellm.py", ("litellm",)),
    Client("llm", "with_llm.py", ("llm",), "its plugin for OpenAI has no embeddings of others"),
    Client("instructor", "with_instructor.py", ("instructor",), "both its modes"),
    Client("pydantic-ai", "with_pydantic_ai.py", ("pydantic-ai-slim[openai]",), "its defaults too"),
    Client("smolagents", "with_smolagents.py", ("smolagents[openai]",), "`ToolCallingAgent`"),
    Client("openai-agents", "with_agents.py", ("openai-agents",), "the Responses API"),
    Client("ai (Vercel)", "with_ai.mjs", ("ai", "@ai-sdk/openai-compatible", "zod")),
    Client("ollama (Python)", "with_ollama.py", ("ollama",), "Ollama's API; no `tool_choice`"),
    Client("ollama (Node)", "with_ollama.mjs", ("ollama",), "the same"),
    Client("Open WebUI", "with_open_webui.py", (), "its requests, from its source", "0.12.4"),
    Client("lm-eval", "with_lm_eval.py", ("lm-eval[api]", "transformers"), "needs `--tokenizer`"),
    Client(
        "Home Assistant",
        "with_home_assistant.py",
        # From 2026.3 on its sources are written for Python 3.14.
        ("homeassistant<2026.3", "numpy"),
        "Ollama's integration ([voice.md](voice.md))",
        python="python3.13",
        # A patch release of Python may be missing.
        options=("--ignore-requires-python",),
    ),
    Client("curl", "with_curl.py"),
)


def main() -> int:
    """Run the clients; return 1 if a step of one failed."""
    options = _options()
    token = Path(options.token_file).read_text().strip() if options.token_file else "none"
    headers = {"Authorization": f"Bearer {token}"}
    asked = urllib.request.Request(f"{options.url}/models", headers=headers)  # noqa: S310

    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
        model = json.load(answer)["data"][0]["id"]

    service = {"CLIENT_URL": options.url, "CLIENT_KEY": token, "CLIENT_MODEL": model}
    if options.tokenizer:
        service["CLIENT_TOKENIZER"] = str(Path(options.tokenizer).resolve())
    lines = []
    failed = False

    for client in CLIENTS:
        if options.only in client.name:
            if client.python and not shutil.which(client.python):
                _say(f"{client.name}: left out, for there is no {client.python}")
                continue
            _say(f"{client.name} …")
            problems = _run(client, service)
            failed = failed or any(problems.values())
            lines.append(_line(client, problems))

    print(_table(lines))
    if options.out:
        _write(Path(options.out), lines)
    return int(failed)


def _table(lines: "list[str]") -> str:
    head = ["client", "version", "date", *STEPS, ""]
    return "\n".join([_row(head), _row(["---"] * len(head)), *lines])


def _run(client: Client, service: dict[str, str]) -> dict[str, str]:
    """Return the problem of each step, "" for none."""
    command = _installed(client)
    environment = {**os.environ, **service, "LLM_USER_PATH": str(client.home / "user")}
    environment["PYTHONPATH"] = ""
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=STEP_S, check=False
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]
    problems = {each["step"]: each["problem"] for each in said}
    if not said or any(problems.values()):
        _say(done.stderr[-3000:])
    return problems or {"turns": f"ended with {done.returncode}"}


def _installed(client: Client) -> list[str]:
    """Return the command that runs a client, in an environment that has it."""
    program = PROGRAMS / client.program
    if not client.packages:
        return [sys.executable, str(program)]
    if client.of_node:
        if not (client.home / "node_modules").is_dir():
            client.home.mkdir(parents=True, exist_ok=True)
            _do("npm", "install", "--no-audit", "--no-fund", *client.packages, cwd=client.home)
        # Node looks for packages beside the program.
        for file in (program, PROGRAMS / "steps.mjs"):
            (client.home / file.name).write_bytes(file.read_bytes())
        return ["node", str(client.home / program.name)]

    python = client.home / "bin" / "python"
    if not (client.home / "installed").exists():
        if client.python:
            _do(client.python, "-m", "venv", "--clear", str(client.home))
        else:
            venv.create(client.home, with_pip=True, clear=True)
        pip = (str(python), "-m", "pip", "install", "--quiet", "--no-compile")
        _do(*pip, *client.options, *client.packages)
        (client.home / "installed").touch()

    return [str(python), str(program)]


def _version(client: Client) -> str:
    if not client.packages:
        return client.release or _do("curl", "--version").split()[1]

    package = re.split(r"[\[<]", client.packages[0])[0]
    if client.of_node:
        return str(
            json.loads((client.home / "node_modules" / package / "package.json").read_text())[
                "version"
            ]
        )

    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return _do(str(client.home / "bin" / "python"), "-c", code).strip()


def _do(*command: str, cwd: "Path | None" = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def _line(client: Client, problems: dict[str, str]) -> str:
    cells = ["–" if step not in problems else problems[step] or "yes" for step in STEPS]
    today = datetime.date.today().isoformat()
    return _row([client.name, _version(client), today, *cells, client.note])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _write(path: Path, lines: "list[str]") -> None:
    """Replace the rows of clients in the part of a page between its marks; keep those of others."""
    begin, end = "<!-- matrix -->", "<!-- /matrix -->"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    known, _, after = rest.partition(end)

    rows = {line.split(" | ")[0]: line for line in (*known.splitlines(), *lines)}
    names = [f"| {client.name}" for client in CLIENTS]
    table = _table([rows[name] for name in names if name in rows])
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run clients against a served bundle.")
    parser.add_argument("url", metavar="URL", help="such as http://127.0.0.1:8080/v1")
    parser.add_argument("--token-file", default="", metavar="FILE")
    parser.add_argument("--only", default="", metavar="NAME", help="a part of a client's name")
    parser.add_argument(
        "--tokenizer", default="", metavar="FILE", help="the bundle's tokenizer.json, for lm-eval"
    )
    parser.add_argument(
        "--out", default="", metavar="PAGE", help="a page with marks for the matrix"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

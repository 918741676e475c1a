"""A work folder with a small base, an adapter and data, and what a plan finds in it."""

import json
from pathlib import Path
from typing import Any

from tests.fakes.models import CHATML
from toolchain import recipe, target
from toolchain.checks import Findings
from toolchain.line.walk import Settings, known
from toolchain.progress import Silent

RECIPE = """
title = "a model"
targets = ["x86-64"]
stages = ["ingest", "tune", "quantize", "evaluate", "package"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
hold_out = "phrasing"
[quantize]
scheme = "Q8_0"
[package]
context = 256
"""
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
    "}}{% endif %}"
) + CHATML
TURNS = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)


def chat(*roles: str, **content: str) -> dict[str, Any]:
    """Return a conversation of some roles."""
    return {
        "messages": [
            {"role": r, "content": content.get(r, f"{r} {n}")} for n, r in enumerate(roles)
        ]
    }


def found(desk: Path, text: str = RECIPE, *, until: str = "", board: str = "x86-64") -> Findings:
    """Return what is known of a recipe before it is walked."""
    (desk / "r.toml").write_text(text)
    return known(recipe.load(desk / "r.toml"), settings(desk, board), until=until)


def settings(desk: Path, board: str = "x86-64") -> Settings:
    return Settings(out=desk / "out", target=target.find(board), report=Silent(), offline=True)


def messages(desk: Path, text: str = RECIPE, **options: Any) -> list[str]:
    return [error.message for error in found(desk, text, **options).errors]


def rows(desk: Path, *entries: dict[str, Any]) -> None:
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (desk / "facts.jsonl").write_text(text)


def config(desk: Path, **changes: Any) -> None:
    file = desk / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def template(desk: Path, text: str) -> None:
    (desk / "base" / "chat_template.jinja").write_text(text)

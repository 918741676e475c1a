"""Forms of training data that other tools write, and the `jq` command that rewrites each.

They are not read: which key is the question is a guess that the person who brings them can check.
"""

from collections.abc import Mapping
from typing import Any

FORMS: Mapping[tuple[str, ...], str] = {
    ("conversations",): (
        '{messages: [.conversations[] | {role: ({human: "user", gpt: "assistant"}[.from] // .from),'
        " content: .value}]}"
    ),
    ("instruction", "output"): (
        '{question: ([.instruction, .input // ""] | map(select(. != "")) | join("\\n\\n")),'
        " answer: .output}"
    ),
    ("prompt", "completion"): "{question: .prompt, answer: .completion}",
    ("prompt", "response"): "{question: .prompt, answer: .response}",
    ("input", "output"): "{question: .input, answer: .output}",
    ("query", "response"): "{question: .query, answer: .response}",
}
"""Keys of a row → jq program. ShareGPT, Alpaca, prompts with completions, and their like."""
_PARTS = (
    'if (.content | type) == "array" then .content |= (map(select(.type == "text").text) | add)'
    " else . end"
)
USUAL = 'an entry is {"question", "answer"} or {"messages"}'


def hint_for(row: Mapping[str, Any]) -> str:
    """Return how to rewrite a row without a question or an answer; the usual forms if unknown."""
    for keys, program in FORMS.items():
        if all(key in row for key in keys):
            return f"{USUAL}: {_command(program)}"
    return USUAL


def message_hint(message: object) -> str:
    """Return what to do about a message that is not text with a role; empty if unknown."""
    if not isinstance(message, dict):
        return ""
    if isinstance(message.get("content"), list):
        return f"join the parts of its text: {_command(f'.messages |= map({_PARTS})')}"
    if message.get("tool_calls") or message.get("role") == "tool":
        return "calls of tools are not learned: leave such conversations out"
    if more := sorted(set(message) - {"role", "content"}):
        keys = ", ".join(f".{key}" for key in more if key.isidentifier())
        return f"leave the other keys out: {_command(f'del(.messages[] | {keys})')}" if keys else ""
    return ""


def _command(program: str) -> str:
    return f"jq -c '{program}' OLD.jsonl > NEW.jsonl"

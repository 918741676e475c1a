"""Tries a chat template in a child process with little memory and time, before training renders it.

A template is foreign code (CVE-2024-34359, CVE-2026-5760): jinja2's sandbox stops code, the limits
stop bombs.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device.manifest.moment import RENDERED_AT
from device.manifest.pictures import PARTS, PICTURE
from toolchain.errors import ArtifactError
from toolchain.models.names import TEMPLATE, TOKENIZER_CONFIG

Messages = Sequence[Mapping[str, Any]]

MEMORY_BYTES = 256 << 20
SECONDS = 1
"""Processor seconds for all probes, without loading jinja2."""
START_S = 60
"""Seconds until the child is stopped, on a busy computer too."""
MAX_BYTES = 1 << 20
"""Largest size of a template, and of a rendered probe."""
TURNS = 40
"""Messages of the longest probe, for faults that only long conversations show."""

MARK = "Zq7sAnswerMark7qZ"
"""Text in the place of an answer, to see what a template writes around it; not trimmed or split."""

_OPENING = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
_PROBE = [*_OPENING, {"role": "user", "content": "and now?"}]
_OTHERS = (
    [{"role": "system", "content": "be brief"}, *_PROBE],
    [
        *_OPENING * (TURNS // 2),
        {"role": "user", "content": "and now? \U0001f600 \u6e29\u5ea6 <|im_end|> {{ 7 * 7 }}"},
    ],
)
"""Conversations that a template may refuse, as some do without a system prompt, but not abuse."""

SANDBOX = """
import datetime, json, resource, signal, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
class Refusal(TemplateError):
    pass
class Generation(Extension):
    tags = {{"generation"}}
    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
def refuse(message):
    raise Refusal(message)
request = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_VIRTUAL, {seconds})
room = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
)
room.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
now = datetime.datetime.fromisoformat("{now}")
room.globals.update(raise_exception=refuse, strftime_now=now.strftime)
"""
"""Beginning of a child's program with limits: `request` from stdin, `room` as in transformers.

A string to be formatted with `memory` (bytes), `seconds` and `now` (ISO 8601).
"""

_CHILD = (
    SANDBOX
    + """
template = room.from_string(request["template"])
def render(messages, **options):
    text, size = [], 0
    for piece in template.generate(messages=messages, tools=None, documents=None, **options):
        text.append(piece)
        size += len(piece)
        if size > {limit}:
            raise ValueError("more than {limit} characters come of a short conversation")
    return "".join(text)
tokens = {{"bos_token": "", "eos_token": "", **request["tokens"]}}
try:
    text = render(request["probe"], add_generation_prompt=request["prompt"], **tokens)
except Refusal:
    if not request["may_refuse"]:
        raise
    text = ""
for messages in request["others"]:
    try:
        render(messages, add_generation_prompt=True, **tokens)
    except Refusal:
        pass
json.dump(text, sys.stdout)
"""
)


def check_template(template: str) -> str:
    """Return a probe conversation as it is rendered within the limits.

    Raises ArtifactError if that fails, or if the question is not in what comes out.
    """
    text = _shown(template, _PROBE, others=_OTHERS)
    if not text:
        raise ArtifactError("chat template: renders to nothing")
    if _PROBE[-1]["content"] not in text:
        raise ArtifactError(
            "chat template: leaves out the question",
            hint="it must write every message: look for its loop over `messages`",
        )
    return text


def behind_an_answer(template: str, special_tokens: Mapping[str, str]) -> str:
    """Return the text that a template writes after the last answer; empty if it refuses to.

    `special_tokens` are those that a template may name (`bos_token`, `eos_token`).
    """
    conversation = [_PROBE[0], {"role": "assistant", "content": MARK}]
    text = _shown(template, conversation, tokens=special_tokens, prompt=False)
    return text.partition(MARK)[2]


def first_token(text: str, tokens: Iterable[str]) -> str:
    """Return the token that comes first in a text; empty if there is none.

    Of two tokens at one place it is the longer one.
    """
    found = [(text.index(token), -len(token), token) for token in tokens if token in text]
    return min(found)[2] if found else ""


def in_parts(messages: Messages) -> list[dict[str, Any]]:
    """Return messages as templates of models that see take them: each content a list of parts.

    Pictures stand where the parts of a message have them.
    """
    return [
        {
            **{name: value for name, value in message.items() if name not in (PARTS, PICTURE)},
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.get(PARTS)
                or [*([b""] if PICTURE in message else []), message["content"]]
            ],
        }
        for message in messages
    ]


def _shown(
    template: str, probe: Messages, *, others: Sequence[Messages] = (), **options: Any
) -> str:
    """Return a probe as a template renders it, which may ask for contents in parts."""
    text = _render(template, probe, others=others, **options)
    if probe[-1]["content"] in text:
        return text
    try:
        seen = _render(template, in_parts(probe), others=list(map(in_parts, others)), **options)
    except ArtifactError:
        return text
    return seen if probe[-1]["content"] in seen else text


def _render(
    template: str,
    probe: Messages,
    *,
    others: Sequence[Messages] = (),
    tokens: Mapping[str, str] | None = None,
    prompt: bool = True,
) -> str:
    """Return a probe as a template renders it, with the generation prompt or without.

    The template may refuse `others`, and a probe that ends with an answer (then the text is empty).
    Raises ArtifactError for one that fails otherwise or exceeds the limits.
    """
    if len(template.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ArtifactError(f"chat template: larger than {MAX_BYTES >> 20} MiB")

    code = _CHILD.format(memory=MEMORY_BYTES, seconds=SECONDS, limit=MAX_BYTES, now=RENDERED_AT)
    request = {
        "template": template,
        "probe": probe,
        "prompt": prompt,
        "may_refuse": not prompt,
        "others": others,
        "tokens": dict(tokens or {}),
    }

    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=START_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"chat template: not rendered within {START_S} s") from error

    if done.returncode == 0:
        return str(json.loads(done.stdout))

    lines = done.stderr.strip().splitlines()
    reason = (
        lines[-1] if lines else f"the process was stopped by its limits (exit {done.returncode})"
    )
    raise ArtifactError(f"chat template: cannot be rendered: {reason}")


def template_text(file: Path) -> str:
    """Return the text of a template's file; raise ArtifactError for one that is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{file.name}: not valid UTF-8 at byte {error.start + 1}",
            hint="save it as UTF-8, or download it again",
        ) from error


def check_folder(model: Path) -> None:
    """Try the chat templates of a foreign model folder; raise ArtifactError for one that fails."""

    file = model / TEMPLATE
    config = model / TOKENIZER_CONFIG
    templates = [template_text(file)] if file.is_file() else []

    try:
        named = (
            json.loads(config.read_text(encoding="utf-8")).get("chat_template")
            if config.is_file()
            else None
        )
    except (ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{config.name}: not valid JSON") from error

    several = (
        [entry.get("template") for entry in named if isinstance(entry, dict)]
        if isinstance(named, list)
        else [named]
    )

    for template in (*templates, *several):
        if isinstance(template, str):
            check_template(template)

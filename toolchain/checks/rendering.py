"""Conversations as a chat template renders them, or the reason why it refuses.

A template is code from a stranger, so it runs in a child process with little memory and time.
(toolchain/models/template.py looks at it first.) Training renders through transformers, whose
environment this is; here it must take a second and no training library.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from device.manifest.moment import RENDERED_AT
from toolchain.models.template import SANDBOX
from toolchain.models.tokenizer import load_tokenizer

MEMORY_BYTES = 1 << 30
SECONDS = 10
"""Processor seconds for all conversations together."""
START_S = 120
"""Seconds until the child must have ended, however busy this computer is."""
MAX_BYTES = 64 << 20
"""Bytes of all that is rendered."""

Messages = Sequence[Mapping[str, str]]
Job = tuple[Messages, bool]
"""Messages, and whether the prompt for an answer follows."""

_CHILD = (
    SANDBOX
    + """
template = room.from_string(request["template"])
left = {limit}
for messages, prompt in request["jobs"]:
    try:
        pieces = []
        for piece in template.generate(
            messages=messages,
            add_generation_prompt=prompt,
            tools=None,
            documents=None,
            **request["tokens"],
        ):
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                sys.exit("too much text")
        answer = {{"text": "".join(pieces)}}
    except Exception as error:
        answer = {{"refused": str(error) or type(error).__name__}}
    sys.stdout.write(json.dumps(answer) + "\\n")
"""
)


class Unrendered(Exception):  # noqa: N818 - an answer for the caller, not a fault of ours
    """Nothing was rendered: the template is malformed, or exceeded the limits."""


class Refused(str):
    """Reason why a template refuses a conversation."""

    __slots__ = ()


def render(template: str, tokens: Mapping[str, str], jobs: Sequence[Job]) -> list[str | Refused]:
    """Return the text of each job, or the reason why the template refuses it; raise Unrendered."""
    code = _CHILD.format(memory=MEMORY_BYTES, seconds=SECONDS, limit=MAX_BYTES, now=RENDERED_AT)
    request = {"template": template, "tokens": dict(tokens), "jobs": jobs}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        answers = [json.loads(line) for line in done.stdout.splitlines()]
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise Unrendered("the child did not end") from error

    if done.returncode or len(answers) != len(jobs):
        raise Unrendered(done.stderr.strip().rpartition("\n")[2])

    return [
        answer["text"] if "text" in answer else Refused(answer["refused"].partition("\n")[0])
        for answer in answers
    ]


def count_tokens(tokenizer: Path, texts: Sequence[str]) -> list[int] | None:
    """Return the number of tokens of each text; None if the tokenizer cannot be read."""

    try:
        reader = load_tokenizer(tokenizer.parent)
    except (
        Exception
    ):  # the tokenizers library raises no narrower type; that it cannot be read is found elsewhere
        return None

    whole = reader.encode_batch(list(texts), add_special_tokens=False)
    return [len(each.ids) for each in whole]

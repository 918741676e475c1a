"""A look at a chat template before anything renders it: in a child process with little memory and time.

A template is code from a stranger (CVE-2024-34359, CVE-2026-5760): jinja2's sandbox stops code, the limits stop bombs.
"""

import json
import subprocess
import sys

from toolchain.errors import ArtifactError

MEMORY_BYTES = 256 << 20
SECONDS = 5
"""Processor seconds, of which loading jinja2 takes a part of one."""
MAX_BYTES = 1 << 20

_PROBE = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]

_CHILD = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
def refuse(message):
    raise ValueError(message)
request = json.load(sys.stdin)
room = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
room.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
room.globals.update(raise_exception=refuse, strftime_now=lambda pattern: "01 Jan 2026")
template = room.from_string(request["template"])
text = template.render(messages=request["messages"], add_generation_prompt=True, bos_token="", eos_token="")
sys.stdout.write(str(len(text)))
"""


def check_template(template: str) -> None:
    """Render a probe conversation within the limits; raise ArtifactError for a template that fails or asks for more."""
    if len(template.encode()) > MAX_BYTES:
        raise ArtifactError(f"chat template: larger than {MAX_BYTES >> 20} MiB")
    code = _CHILD.format(memory=MEMORY_BYTES, seconds=SECONDS)
    request = json.dumps({"template": template, "messages": _PROBE})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code], input=request, capture_output=True, text=True, timeout=4 * SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"chat template: not rendered within {4 * SECONDS} s") from error
    if done.returncode == 0 and int(done.stdout) > 0:
        return
    said = done.stderr.strip().splitlines()
    reason = said[-1] if said else f"the process was stopped by its limits (exit {done.returncode})"
    raise ArtifactError(f"chat template: cannot be rendered: {reason}" if done.returncode else "chat template: renders to nothing")

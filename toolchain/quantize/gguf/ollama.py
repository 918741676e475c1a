"""The Modelfile with which Ollama serves the same GGUF file.

It travels in the bundle beside the file; the board does not read it.
"""

import re

from toolchain.artifacts import ModelFile
from toolchain.opening import Opening
from toolchain.recipe import PackageSpec


def modelfile(model: ModelFile, spec: PackageSpec, opening: Opening) -> str:
    """Return the Modelfile with which Ollama serves the file; the template is the GGUF's own."""
    lines = [
        f"FROM ./{model.file.name}",
        *([f"ADAPTER ./{model.adapter.name}"] if model.adapter else []),
        f"PARAMETER num_ctx {spec.context}",
        f"PARAMETER num_predict {spec.max_tokens}",
        "PARAMETER temperature 0",
        *(_instruction(message["role"], message["content"]) for message in opening),
    ]
    return "\n".join(lines) + "\n"


_CLOSING = re.compile(r'"""(?=\s*\n)')


def _instruction(role: str, text: str) -> str:
    """Return a message as a Modelfile gives it.

    Ollama's parser (parser/parser.go) knows no escapes and takes a text as ended where a line of it
    ends in three double quotes: there they become single ones.
    """
    name, text = "SYSTEM" if role == "system" else f"MESSAGE {role}", _CLOSING.sub("'''", text)
    return f'{name} """{text}"""'

"""The Modelfile with which Ollama serves the same GGUF file.

It travels in the bundle beside the file; the board does not read it.
"""

import re

from toolchain.artifacts import ModelFile
from toolchain.opening import Opening
from toolchain.recipe import PackageSpec


def modelfile(model: ModelFile, spec: PackageSpec, opening: Opening) -> str:
    """Return the Modelfile for Ollama; the template comes from the GGUF itself."""
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
    """Return a message in the syntax of a Modelfile.

    Ollama's parser (parser/parser.go) has no escapes and ends a text at a line that ends in three
    double quotes. So these become single quotes.
    """
    name = "SYSTEM" if role == "system" else f"MESSAGE {role}"
    quoted = _CLOSING.sub("'''", text)
    return f'{name} """{quoted}"""'

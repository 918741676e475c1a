"""LiteRT's own library for hosts: the schema of its files."""

from typing import Any

from toolchain import extras
from toolchain.errors import ToolError


def schema() -> Any:
    """Return the generated module of the TFLite schema; raise ToolError if it is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ToolError("ai-edge-litert is not installed", hint=extras.remedy("tflite")) from error
    return schema_py_generated

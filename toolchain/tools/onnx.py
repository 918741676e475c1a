"""The `onnx` library: protocol buffers of ONNX files."""

from typing import Any

from toolchain import extras
from toolchain.errors import ToolError


def module() -> Any:
    """Return the library; raise ToolError if it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise ToolError("onnx is not installed", hint=extras.remedy("onnx")) from error
    return onnx

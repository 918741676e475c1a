"""Name of the file beside a model file that has its weights, in formats that keep them apart.

ONNX calls it external data. Standard library only, Python 3.10 up.
"""

SUFFIX = ".data"


def data_name(model_name: str) -> str:
    """Return the name of the data file of a model file."""
    return model_name + SUFFIX

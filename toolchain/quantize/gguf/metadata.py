"""Name and metadata of a GGUF file: where the model comes from and how it is read.

Keys and the naming convention are those of ggml docs/gguf.md.
"""

import re
from collections.abc import Sequence

from toolchain.config import Frozen
from toolchain.models.architecture import Model
from toolchain.models.gguf_file import Metadata
from toolchain.models.tokenizer import Vocabulary
from toolchain.quantize.learned.importance import Matrix

QUANTIZATION_VERSION = 2
"""`general.quantization_version` (ggml.h, GGML_QNT_VERSION)."""


class ModelLabel(Frozen):
    """Origin of the model in the file's metadata; empty fields are left out."""

    name: str
    basename: str = ""
    finetune: str = ""
    version: str = ""
    licence: str = ""
    base_model: str = ""
    """Hub id or name of the base model."""
    base_weights: str = ""
    """Types of the base's weights, if they came from a quantized file."""
    description: str = ""


def file_metadata(
    label: ModelLabel,
    model: Model,
    vocabulary: Vocabulary,
    matrix: Matrix | None,
    file_type: int = 0,
) -> Metadata:
    """Return the metadata of a model file: what it is, its architecture, its vocabulary."""
    marked = vocabulary.name_mark in label.name.lower()
    general = {
        "type": "model",
        "name": label.name if marked else f"{label.name} ({vocabulary.name_mark})",
        "basename": label.basename,
        "finetune": label.finetune,
        "version": label.version,
        "size_label": _size_label(model),
        "license": label.licence,
        "description": label.description,
    }

    return {
        "general.architecture": model.family.name,
        **{f"general.{key}": value for key, value in general.items() if value},
        **_base_model(label.base_model, label.base_weights),
        **model.metadata,
        **vocabulary.metadata,
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": file_type,
        **(matrix.provenance() if matrix else {}),
    }


def _base_model(base: str, weights: str) -> Metadata:
    organization, _, name = base.rpartition("/")
    if not base:
        return {}
    fields = {
        "general.base_model.count": 1,
        "general.base_model.0.name": name,
        "general.base_model.0.organization": organization,
        "general.base_model.0.description": weights,
    }
    return {key: value for key, value in fields.items() if value}


def _size_label(model: Model) -> str:
    from gguf import size_label

    return str(size_label(model.parameters, 0, 0, 0))


def file_name(label: ModelLabel, scheme: str, model: Model, suffix: str) -> str:
    """Return BaseName-SizeLabel-FineTune-Version-Encoding.suffix (ggml docs/gguf.md)."""
    version = f"v{label.version}" if label.version[:1].isdigit() else label.version
    parts = (label.basename or label.name, _size_label(model), label.finetune, version, scheme)
    return f"{_joined(parts)}.{suffix}"


def file_stem(label: ModelLabel) -> str:
    """Return the name of a file beside the model file, without kind and encoding."""
    return _joined((label.basename or label.name, label.finetune))


def _joined(parts: Sequence[str]) -> str:
    return "-".join(re.sub(r"[^\w.+]+", "-", part).strip("-") for part in parts if part)

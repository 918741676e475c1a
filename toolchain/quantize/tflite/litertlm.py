"""A TFLite file with its tokenizer as one `.litertlm`, for Google's LiteRT-LM.

LiteRT-LM runs on phones, desktops and boards with LSE atomics. On a Cortex-A72 (Raspberry Pi 4 and
older) it ends with an illegal instruction, so only targets that can run it get one.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain import extras
from toolchain.errors import ToolError
from toolchain.files import whole_file
from toolchain.target import Target

_HEAD_BYTES = 16 << 10
"""Where the first section begins."""
_STAMPS = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:.]+\+00:00")


def runs_on(target: Target) -> bool:
    """Say whether LiteRT-LM runs on a target."""
    return target.machine == "x86_64" or "atomics" in target.features


def write_litertlm(model: Path, tokenizer: Path, stop_ids: Sequence[int], context: int) -> Path:
    """Write `<model>.litertlm` beside a TFLite file; raise ToolError if the builder is missing."""
    try:
        from litert_lm_builder import litertlm_builder
        from litert_lm_builder.runtime.proto import llm_metadata_pb2
    except ImportError as error:
        raise ToolError(
            "litert-lm-builder is not installed", hint=extras.remedy("tflite")
        ) from error

    about = llm_metadata_pb2.LlmMetadata(max_num_tokens=context)
    about.llm_model_type.generic_model.SetInParent()
    for token in stop_ids:
        about.stop_tokens.add().token_ids.ids.append(token)

    out = model.with_suffix(".litertlm")
    with tempfile.NamedTemporaryFile(suffix=".pb") as metadata, whole_file(out) as part:
        metadata.write(about.SerializeToString(deterministic=True))
        metadata.flush()
        builder = litertlm_builder.LitertLmFileBuilder()
        builder.add_system_metadata(
            litertlm_builder.Metadata(
                key="Authors", value="demitasse", dtype=litertlm_builder.DType.STRING
            )
        )
        builder.add_llm_metadata(metadata.name)
        builder.add_hf_tokenizer(str(tokenizer))
        builder.add_tflite_model(str(model), litertlm_builder.TfLiteModelType.PREFILL_DECODE)

        with part.open("wb") as stream:
            builder.build(stream)

        _settle(part)

    return out


def _settle(file: Path) -> None:
    """Replace the builder's random id and clock by constants: equal inputs give equal bytes."""
    with file.open("r+b") as stream:
        head = stream.read(_HEAD_BYTES)
        stream.seek(0)
        stream.write(_STAMPS.sub(lambda stamp: re.sub(rb"[0-9a-f]", b"0", stamp[0]), head))

"""What an ONNX decoder takes in ONNX Runtime, and what bounds its speed.

Memory follows the library's own allocations: weights are mapped, packed once into memory of its
own for the kernels, and not read from the file again.
"""

from dataclasses import dataclass

from device.manifest.onnx import Header
from device.manifest.onnx_contract import context_of, looked_up, tables
from toolchain.figures import ModelFigures
from toolchain.forecast import RUNTIME_BYTES, Forecast, decode_bound
from toolchain.target import Needs, Target

WORK_BYTES = 24 << 20
"""Bytes of a session besides weights, cache and logits: graph, plan and arena."""

LIBRARY_BYTES = 36 << 20
"""Bytes of the library's own file, mapped."""
# SmolLM2-135M, context 512, 300 tokens read, x86-64: peaks of 241 MiB in int4_b32 and 750 MiB in
# fp32; this forecasts 222 and 746.


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSizes:
    """What a decoder's graph says of its size."""

    weights_bytes: int
    """As they lie in memory: float16 is widened to float32 when the file is loaded."""
    kv_bytes_per_token: int
    n_vocab: int


def sizes_of(figures: ModelFigures) -> OnnxSizes:
    """Return the sizes of a file that a stage made."""
    return OnnxSizes(
        weights_bytes=figures.weights_bytes * (2 if figures.scheme == "fp16" else 1),
        kv_bytes_per_token=figures.kv_bytes_per_token or 0,
        n_vocab=figures.n_vocab,
    )


def sizes_in(header: Header) -> OnnxSizes:
    """Return the sizes of a file with this header, which is in the contract."""
    widened = {"FLOAT16": 2}
    caches = [
        int(port.shape[1]) * int(port.shape[3]) * 4
        for name, port in header.inputs.items()
        if name.startswith("past_key_values.")
    ]
    return OnnxSizes(
        weights_bytes=sum(each.size * widened.get(each.type, 1) for each in header.external),
        kv_bytes_per_token=sum(caches),
        n_vocab=int(header.outputs["logits"].shape[2]),
    )


def needs_of(sizes: OnnxSizes, context: int) -> dict[str, int]:
    """Return the bytes of memory of each kind at a context."""
    return {
        "weights_bytes": sizes.weights_bytes,
        "kv_bytes": sizes.kv_bytes_per_token * context,
        "compute_bytes": sizes.n_vocab * 4 + WORK_BYTES,
    }


def onnx_forecast(header: Header, target: Target, context: int) -> Forecast:
    """Return what a file takes and gives on a target.

    Nobody has published how fast ONNX Runtime decodes on these boards: its memory's bandwidth is
    what is known.
    """
    sizes = sizes_in(header)
    tokens = min(context or context_of(header), context_of(header))
    needs = Needs(context=tokens, runtime_bytes=RUNTIME_BYTES, **needs_of(sizes, tokens))
    # The head is packed; the table that tokens are looked up in stays mapped, tied or not.
    table_bytes = sum(size for _, size in tables(header))
    read = sum(tensor.size for tensor in header.external) - looked_up(header)
    return Forecast(
        needs=needs,
        peak_bytes=needs.total_bytes + LIBRARY_BYTES + table_bytes,
        bytes_per_token=read,
        decode=None,
        prefill=None,
        decode_at_most=decode_bound(target, read),
    )
